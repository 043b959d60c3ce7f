//! The hot set against a slow model, and against the replay of what it wrote.

use alloc::collections::{BTreeMap, BTreeSet};
use proptest::prelude::*;

use super::super::replay::replay;
use super::super::transaction::encode_initialized;
use super::*;

fn begin(
    log: &mut ActivityLog,
    evicted: &mut Vec<u32>,
) -> Option<(PendingTransaction, [u8; AL_BLOCK_BYTES])> {
    let mut block = [0; AL_BLOCK_BYTES];
    log.begin_transaction(&mut block, evicted).map(|pending| (pending, block))
}

fn make_hot(log: &mut ActivityLog, first: u32, last: u32) -> Vec<u32> {
    let mut evicted = Vec::new();
    let number = log.stage(first, last).unwrap();
    let (pending, _) = begin(log, &mut evicted).unwrap();
    assert_eq!(pending.number, number);
    log.transaction_done(number);
    evicted
}

#[test]
fn an_extent_is_hot_only_after_its_transaction() {
    let mut log = ActivityLog::new(67, AlRing::DEFAULT);
    assert!(!log.try_get_hot(5, 6));
    let number = log.stage(5, 6).unwrap();
    assert!(!log.is_active(5, 5) && log.is_referenced(6) && log.referenced_extents() == 2);
    let (pending, block) = begin(&mut log, &mut Vec::new()).unwrap();
    assert_eq!((pending.number, pending.ring_block), (number, 0));
    assert!(!log.is_active(5, 5) && !log.try_get_hot(5, 5));
    log.transaction_done(number);
    assert!(log.is_active(5, 6) && log.try_get_hot(5, 6) && !log.is_active(5, 7));
    assert_eq!(log.stage(5, 6), Err(StageError::AlreadyHot));
    log.put(5, 6);
    log.put(5, 6);
    assert!(log.referenced_extents() == 0 && log.is_active(5, 6), "stays hot without references");
    log.check_invariants();
    let decoded = super::super::transaction::AlBlock::decode(&block).unwrap();
    assert_eq!(decoded.updates().map(|u| u.extent).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn the_least_recently_used_extent_makes_room() {
    let mut log = ActivityLog::new(67, AlRing::DEFAULT);
    for extent in 0..67 {
        assert_eq!(make_hot(&mut log, extent, extent), []);
        log.put(extent, extent);
    }
    assert!(log.try_get_hot(0, 0));
    log.put(0, 0);
    assert_eq!(make_hot(&mut log, 100, 101), [1, 2]);
    assert!(log.is_active(0, 0) && !log.is_active(1, 1) && !log.is_active(2, 2));
    log.check_invariants();
}

#[test]
fn starving_changes_nothing() {
    let mut log = ActivityLog::new(67, AlRing::DEFAULT);
    make_hot(&mut log, 0, 63);
    make_hot(&mut log, 64, 66);
    log.put(10, 11);
    assert_eq!(log.stage(200, 202), Err(StageError::Starving));
    assert_eq!(log.referenced_extents(), 65);
    assert!(!log.is_referenced(200) && !log.has_staged() && log.is_active(10, 11));
    log.check_invariants();
    assert_eq!(make_hot(&mut log, 200, 201), [10, 11]);
    log.check_invariants();
}

#[test]
fn idle_extents_of_the_request_are_not_evicted_for_it() {
    let mut log = ActivityLog::new(67, AlRing::DEFAULT);
    make_hot(&mut log, 0, 63);
    make_hot(&mut log, 64, 66);
    log.put(66, 66);
    assert_eq!(log.stage(66, 67), Err(StageError::Starving));
    assert!(!log.is_referenced(66));
    log.check_invariants();
    log.put(0, 0);
    assert_eq!(make_hot(&mut log, 66, 67), [0]);
    log.check_invariants();
}

#[test]
fn requests_join_the_next_transaction_while_one_is_in_flight() {
    let mut log = ActivityLog::new(200, AlRing::DEFAULT);
    let first = log.stage(0, 0).unwrap();
    assert_eq!(log.stage(0, 1), Ok(first), "before it begins everything joins");
    let (pending, _) = begin(&mut log, &mut Vec::new()).unwrap();
    assert_eq!(pending.number, first);
    assert_eq!(log.stage(1, 1), Ok(first), "part of the one in flight");
    let next = log.stage(1, 2).unwrap();
    assert_eq!(next, TransactionNo(first.0 + 1));
    assert_eq!(log.stage(10, 72), Ok(next));
    assert_eq!(log.stage(80, 80), Err(StageError::Busy));
    assert!(begin(&mut log, &mut Vec::new()).is_none(), "one at a time");
    log.check_invariants();
    log.transaction_done(first);
    assert!(log.is_active(0, 1) && !log.is_active(2, 2));
    assert_eq!(log.stage(80, 80), Err(StageError::Busy));
    assert_eq!(begin(&mut log, &mut Vec::new()).unwrap().0.number, next);
    assert_eq!(log.stage(80, 80), Ok(TransactionNo(next.0 + 1)));
    log.transaction_done(next);
    log.check_invariants();
}

#[test]
fn context_covers_every_slot_within_a_cycle() {
    let mut log = ActivityLog::new(1237, AlRing::DEFAULT);
    let starts: Vec<u16> = (0..4)
        .map(|extent| {
            log.stage(extent, extent).unwrap();
            let (pending, block) = begin(&mut log, &mut Vec::new()).unwrap();
            log.transaction_done(pending.number);
            u16::from_be_bytes([block[18], block[19]])
        })
        .collect();
    assert_eq!(starts, [0, 919, 0, 919]);
}

#[test]
fn context_holds_what_was_before_the_transaction() {
    let mut log = ActivityLog::new(67, AlRing::DEFAULT);
    make_hot(&mut log, 0, 63);
    make_hot(&mut log, 64, 66);
    log.put(0, 63);
    log.stage(100, 100).unwrap();
    let mut evicted = Vec::new();
    let (_, block) = begin(&mut log, &mut evicted).unwrap();
    let decoded = super::super::transaction::AlBlock::decode(&block).unwrap();
    let update = decoded.updates().next().unwrap();
    assert_eq!((update.extent, evicted.as_slice()), (100, &[0][..]));
    let before = decoded.context().find(|(slot, _)| *slot == u32::from(update.slot));
    assert_eq!(before, Some((u32::from(update.slot), 0)));
    assert_eq!(decoded.context().count(), 67);
}

#[test]
fn filler_transactions_fill_the_ring() {
    let ring = AlRing::new(4, 4).unwrap();
    let mut log = ActivityLog::new(67, ring);
    log.stage(3, 3).unwrap();
    let mut area = vec![0u8; ring.blocks() as usize * AL_BLOCK_BYTES];
    let mut block = [0; AL_BLOCK_BYTES];
    for _ in 0..ring.blocks() {
        let pending = log.begin_filler_transaction(&mut block, &mut Vec::new()).unwrap();
        store(&mut area, pending, &block, AL_BLOCK_BYTES);
        log.transaction_done(pending.number);
    }
    let found = replay(ring, &area).unwrap();
    assert_eq!((found.hot.as_slice(), found.corrupt_blocks), (&[3][..], 0));
}

/// Where the number wraps, the next transaction goes behind the one before it, as everywhere else. In its place in front of
/// the ring it would overwrite the ones before it while they still count, and hide the rest.
#[test]
fn a_number_that_wraps_goes_on_in_the_ring() {
    // 2^32 is a multiple of neither; the context takes 4 transactions.
    for (stripes, stripe_size_4k) in [(1, 12), (3, 5)] {
        let ring = AlRing::new(stripes, stripe_size_4k).unwrap();
        let mut log = ActivityLog::new(3000, ring);
        log.next_number = 0u32.wrapping_sub(ring.blocks() + 3);
        let mut area = vec![0u8; ring.blocks() as usize * AL_BLOCK_BYTES];
        for extent in 0..4 * ring.blocks() {
            log.stage(extent, extent).unwrap();
            let (pending, block) = begin(&mut log, &mut Vec::new()).unwrap();
            store(&mut area, pending, &block, AL_BLOCK_BYTES);
            log.transaction_done(pending.number);
            let hot: Vec<u32> = (0..=extent).collect();
            assert_eq!(replay(ring, &area).unwrap().hot, hot, "after transaction {:?}", pending.number);
        }
    }
}

fn store(area: &mut [u8], pending: PendingTransaction, block: &[u8; AL_BLOCK_BYTES], bytes: usize) {
    let at = pending.ring_block as usize * AL_BLOCK_BYTES;
    area[at..at + bytes].copy_from_slice(&block[..bytes]);
}

#[derive(Clone, Debug)]
enum Op {
    Get { first: u32, len: u32 },
    Put { pick: usize },
    Begin,
    Done,
}

fn op(extents: u32) -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..extents, 1..8u32).prop_map(|(first, len)| Op::Get { first, len }),
        5 => any::<usize>().prop_map(|pick| Op::Put { pick }),
        2 => Just(Op::Begin),
        2 => Just(Op::Done),
    ]
}

/// What a log of `slots` slots may answer, kept in maps.
#[derive(Default)]
struct Model {
    references: BTreeMap<u32, u32>,
    on_disk: BTreeSet<u32>,
    flying: BTreeSet<u32>,
    staged: BTreeSet<u32>,
    held: Vec<(u32, u32)>,
}

impl Model {
    fn hold(&mut self, first: u32, last: u32) {
        for extent in first..=last {
            *self.references.entry(extent).or_default() += 1;
        }
        self.held.push((first, last));
    }

    fn drop_one(&mut self, pick: usize) -> Option<(u32, u32)> {
        if self.held.is_empty() {
            return None;
        }
        let (first, last) = self.held.swap_remove(pick % self.held.len());
        for extent in first..=last {
            let count = self.references.get_mut(&extent).unwrap();
            *count -= 1;
            if *count == 0 {
                self.references.remove(&extent);
            }
        }
        Some((first, last))
    }

    /// Extents whose blocks may be written right now: referenced and on disk.
    fn writable(&self) -> BTreeSet<u32> {
        self.on_disk.iter().copied().filter(|e| self.references.contains_key(e)).collect()
    }
}

fn get(log: &mut ActivityLog, model: &mut Model, slots: usize, first: u32, last: u32) {
    let range = || first..=last;
    let all_hot = range().all(|e| model.on_disk.contains(&e));
    assert_eq!(log.is_active(first, last), all_hot);
    if log.try_get_hot(first, last) {
        assert!(all_hot);
        model.hold(first, last);
        return;
    }
    assert!(!all_hot);
    let known = |e: &u32| model.on_disk.contains(e) || model.flying.contains(e) || model.staged.contains(e);
    let missing: Vec<u32> = range().filter(|e| !known(e)).collect();
    match log.stage(first, last) {
        Ok(number) => {
            let waits_for_staged = !missing.is_empty() || range().any(|e| model.staged.contains(&e));
            assert_eq!(log.in_flight() == Some(number), !waits_for_staged);
            model.staged.extend(missing);
            model.hold(first, last);
        }
        Err(StageError::Busy) => assert!(model.staged.len() + missing.len() > AL_UPDATES_MAX),
        Err(StageError::Starving) => {
            let pinned: BTreeSet<u32> = model.references.keys().copied().chain(range()).collect();
            let busy = pinned.union(&model.flying).chain(&model.staged).collect::<BTreeSet<_>>();
            assert!(busy.len() > slots, "{} of {slots} slots needed", busy.len());
        }
        Err(StageError::AlreadyHot) => panic!("not all hot"),
    }
}

fn run(slots: u16, ring: AlRing, ops: &[Op], tear_bytes: usize) {
    let mut log = ActivityLog::new(slots, ring);
    let mut model = Model::default();
    let mut fresh = [0; AL_BLOCK_BYTES];
    encode_initialized(&mut fresh);
    let mut area = fresh.repeat(ring.blocks() as usize);
    let mut pending: Option<(PendingTransaction, [u8; AL_BLOCK_BYTES])> = None;
    for op in ops {
        match *op {
            Op::Get { first, len } => get(&mut log, &mut model, slots as usize, first, first + len - 1),
            Op::Put { pick } => {
                if let Some((first, last)) = model.drop_one(pick) {
                    log.put(first, last);
                }
            }
            Op::Begin => {
                let mut evicted = Vec::new();
                if let Some(begun) = begin(&mut log, &mut evicted) {
                    assert!(pending.is_none() && !model.staged.is_empty());
                    model.flying = core::mem::take(&mut model.staged);
                    for extent in evicted {
                        assert!(!model.on_disk.contains(&extent) || model.flying.contains(&extent));
                    }
                    // a crash now leaves this block torn: nothing that may be written is lost
                    let mut torn = area.clone();
                    store(&mut torn, begun.0, &begun.1, tear_bytes);
                    covers(ring, &torn, &model.writable());
                    pending = Some(begun);
                }
            }
            Op::Done => {
                if let Some((begun, block)) = pending.take() {
                    store(&mut area, begun, &block, AL_BLOCK_BYTES);
                    log.transaction_done(begun.number);
                    model.on_disk.append(&mut model.flying);
                }
            }
        }
        // what was evicted silently left the hot set
        model.on_disk.retain(|e| log.is_active(*e, *e));
        assert!(model.references.keys().all(|e| log.is_referenced(*e)));
        assert_eq!(model.references.len(), log.referenced_extents());
        log.check_invariants();
        covers(ring, &area, &model.writable());
    }
}

fn covers(ring: AlRing, area: &[u8], needed: &BTreeSet<u32>) {
    let found = replay(ring, area).unwrap();
    for extent in needed {
        assert!(found.hot.binary_search(extent).is_ok(), "extent {extent} would be lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn small_log_agrees_with_the_model_and_its_replay(
        ops in proptest::collection::vec(op(150), 1..250),
        tear_bytes in prop_oneof![Just(0usize), Just(512), Just(2048), 0..AL_BLOCK_BYTES],
    ) {
        run(67, AlRing::DEFAULT, &ops, tear_bytes);
    }

    #[test]
    fn log_of_several_context_windows_agrees_too(
        ops in proptest::collection::vec(op(100_000), 1..120),
        tear_bytes in 0..AL_BLOCK_BYTES,
    ) {
        run(1237, AlRing::new(3, 3).unwrap(), &ops, tear_bytes);
    }
}

#[test]
fn index_survives_collisions_and_removals() {
    let mut log = ActivityLog::new(67, AlRing::DEFAULT);
    // the same home cell for many extents: multiples of 2^25 only differ in bits the hash shifts away
    for round in 0..10u32 {
        for i in 0..67 {
            let extent = (i + round * 31) << 20;
            if !log.try_get_hot(extent, extent) {
                make_hot(&mut log, extent, extent);
            }
            log.put(extent, extent);
            log.check_invariants();
        }
    }
}
