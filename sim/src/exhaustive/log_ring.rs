//! The activity log by itself, with rings and logs of all shapes: every transaction is torn in all 256 ways, and what
//! replay finds is the set before it or the set after it, nothing in between.

use std::collections::{BTreeMap, BTreeSet};

use replicator::activity_log::extents::{ActivityLog, StageError};
use replicator::activity_log::replay::replay;
use replicator::activity_log::transaction::{AL_BLOCK_BYTES, AlRing, encode_initialized};

use crate::rng::Rng;

const SECTOR_BYTES: usize = 512;

/// A ring on a disk, a log, and what the log has made stable.
struct Walk {
    ring: AlRing,
    area: Vec<u8>,
    log: ActivityLog,
    hot: BTreeSet<u32>,
    rng: Rng,
    torn: u64,
    /// Extents below this one were wanted before; the first ones are taken in turn, so that every slot is used.
    fresh: u32,
}

impl Walk {
    fn new(slots: u16, ring: AlRing, seed: u64) -> Walk {
        let mut block = [0; AL_BLOCK_BYTES];
        encode_initialized(&mut block);
        let area = block.repeat(ring.blocks() as usize);
        Walk {
            ring,
            area,
            log: ActivityLog::new(slots, ring),
            hot: BTreeSet::new(),
            rng: Rng::new(seed),
            torn: 0,
            fresh: 0,
        }
    }

    /// Stages extents and returns them with the number of references taken; those that do not fit into this
    /// transaction are left out.
    fn stage(&mut self, count: u64, extents: u64) -> BTreeMap<u32, u32> {
        let mut taken = BTreeMap::new();
        for _ in 0..count {
            let extent = if self.fresh < u32::from(self.log.slot_count()) {
                self.fresh += 1;
                self.fresh - 1
            } else {
                self.rng.below(extents) as u32
            };
            match self.log.stage(extent, extent) {
                Ok(_) => *taken.entry(extent).or_default() += 1,
                Err(StageError::AlreadyHot) => {
                    // Used lately: others are evicted first.
                    assert!(self.log.try_get_hot(extent, extent));
                    self.log.put(extent, extent);
                }
                Err(StageError::Busy | StageError::Starving) => break,
            }
        }
        taken
    }

    fn found(&self) -> Vec<u32> {
        replay(self.ring, &self.area).expect("the activity log always replays").hot
    }

    /// One transaction; `every` image of it is looked at, or only a few.
    fn transaction(&mut self, staged: &BTreeMap<u32, u32>, every: bool) {
        let mut block = [0; AL_BLOCK_BYTES];
        let mut evicted = Vec::new();
        let Some(pending) = self.log.begin_transaction(&mut block, &mut evicted) else { return };
        let mut after = self.hot.clone();
        for extent in &evicted {
            assert!(after.remove(extent), "only hot extents are evicted");
        }
        // One that was evicted may have been wanted again at once.
        after.extend(staged.keys());
        let [hot_before, hot_after] =
            [&self.hot, &after].map(|set| set.iter().copied().collect::<Vec<u32>>());
        let at = pending.ring_block as usize * AL_BLOCK_BYTES;
        let before = self.area[at..at + AL_BLOCK_BYTES].to_vec();
        for kept in 0..=255u8 {
            if !every && ![0, 1, 0x7f, 0xfe, 0xff].contains(&kept) {
                continue;
            }
            for sector in 0..8 {
                let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                let from =
                    if kept >> sector & 1 == 1 { &block[range.clone()] } else { &before[range.clone()] };
                self.area[at + range.start..at + range.end].copy_from_slice(from);
            }
            let is_whole = self.area[at..at + AL_BLOCK_BYTES] == block;
            let found = self.found();
            let wanted = if is_whole { &hot_after } else { &hot_before };
            assert!(found == *wanted, "transaction {pending:?}, sectors {kept:#010b}");
            self.torn += u64::from(!is_whole);
        }
        self.hot = after;
        self.log.transaction_done(pending.number);
        for (extent, references) in staged {
            for _ in 0..*references {
                self.log.put(*extent, *extent);
            }
        }
    }
}

/// Slots, ring, transactions, and after how many every image is looked at again.
fn walk(slots: u16, ring: AlRing, transactions: u64, stride: u64) {
    let mut walk = Walk::new(slots, ring, u64::from(slots));
    for i in 0..transactions {
        let most = if i < u64::from(slots) / 60 { 64 } else { 1 + i % 64 };
        let staged = walk.stage(most, u64::from(slots) * 2);
        walk.transaction(&staged, i % stride == 0);
    }
    assert!(walk.hot.len() == usize::from(slots), "every slot was used: {}", walk.hot.len());
    assert!(walk.torn > 500, "torn transactions: {}", walk.torn);
}

#[test]
fn smallest_log_in_the_default_ring() {
    walk(67, AlRing::DEFAULT, 30, 1);
}

#[test]
fn default_log_in_the_default_ring() {
    walk(1237, AlRing::DEFAULT, 60, 12);
}

/// The context needs all blocks of the ring but the one that is being written.
#[test]
fn largest_log_in_the_default_ring() {
    walk(AlRing::DEFAULT.slots_max(), AlRing::DEFAULT, 160, 40);
}

#[test]
fn striped_ring() {
    let ring = AlRing::new(4, 4).expect("a ring of 64 KiB");
    walk(1237, ring, 60, 20);
    walk(ring.slots_max(), ring, 270, 90);
}
