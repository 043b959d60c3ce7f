//! Long walks over the extents of a device with the smallest activity log: the ring wraps several times, every extent
//! is evicted.

use replicator::{Command, CommandResult};

use super::media::{Lie, Place};
use super::pair::{AL_EXTENTS, EXTENTS, Pair, net};

const BLOCKS_PER_EXTENT: u64 = 1024;
/// Blocks of the ring.
const RING_BLOCKS: u64 = 8;
const PLACES: [Place; 2] = [Place::Internal, Place::External];

/// Writes one block or more somewhere in this extent; some reach into the next one.
fn write_in(pair: &mut Pair, extent: u64) {
    let (at, count) = match pair.rng.below(8) {
        0 => (BLOCKS_PER_EXTENT - 2, 4),
        1 => (0, 16),
        _ => (pair.rng.below(BLOCKS_PER_EXTENT), 1),
    };
    let block = extent % EXTENTS * BLOCKS_PER_EXTENT + at;
    let count = count.min(EXTENTS * BLOCKS_PER_EXTENT - block);
    pair.write(block, count);
}

/// `writes` writes over ascending extents and some that are hot, with up to `open` of them under way. Flushes are so
/// rare that extents are evicted whose data is in the cache.
fn walk(pair: &mut Pair, writes: u64, open: usize) {
    for i in 0..writes {
        let extent = if pair.rng.one_in(5) { i.saturating_sub(pair.rng.below(20)) } else { i };
        write_in(pair, extent);
        if pair.rng.one_in(100) {
            pair.flush();
        }
        if pair.rng.one_in(20) {
            pair.hold_acks = !pair.hold_acks;
        }
        while pair.nodes[0].open_requests.len() >= open {
            pair.step();
        }
    }
    pair.hold_acks = false;
    pair.answered();
}

/// The walk went as far as it should have.
fn check_reach(pair: &Pair) {
    assert!(pair.nodes[0].transactions > 3 * RING_BLOCKS, "the ring wraps: {}", pair.nodes[0].transactions);
    assert!(pair.nodes[0].ever_hot.len() > usize::from(AL_EXTENTS), "extents are evicted");
    assert!(pair.combinations() > 1500, "torn transactions were looked at: {}", pair.combinations());
    assert_eq!(pair.nodes[0].failed, 0);
}

#[test]
fn connected_primary_walks_over_all_extents() {
    for place in PLACES {
        for seed in 0..2 {
            let mut pair = Pair::new(seed, place);
            walk(&mut pair, 170, 1 + 3 * seed as usize);
            check_reach(&pair);
            pair.settle();
            assert!(pair.in_sync(), "the connection was never lost");
            pair.check_equal();
        }
    }
}

#[test]
fn lonely_primary_walks_over_all_extents_and_meets_its_peer_again() {
    for place in PLACES {
        let mut pair = Pair::new(3, place);
        walk(&mut pair, 20, 3);
        write_in(&mut pair, 50);
        pair.break_link();
        pair.answered();
        walk(&mut pair, 150, 3);
        check_reach(&pair);
        pair.cut = false;
        // The resync clears bits on both nodes while the walk goes on.
        walk(&mut pair, 90, 2);
        pair.until("the copies are equal again", Pair::in_sync);
        pair.settle();
        pair.check_equal();
    }
}

#[test]
fn role_changes_between_walks() {
    for place in PLACES {
        let mut pair = Pair::new(4, place);
        for round in 0..4 {
            walk(&mut pair, 30, 4);
            if round == 2 {
                pair.break_link();
                walk(&mut pair, 30, 4);
            }
            assert_eq!(pair.run(0, Command::Secondary { open: 0, force: false }), CommandResult::Ok);
            assert_eq!(pair.run(0, Command::Primary { force: false }), CommandResult::Ok);
        }
    }
}

/// A node dies in the middle of everything, with what is worst for it, and comes back.
#[test]
fn a_primary_that_lost_its_cache_becomes_equal_again() {
    for place in PLACES {
        for seed in [10, 12] {
            let mut pair = Pair::new(seed, place);
            walk(&mut pair, 60 + seed, 4);
            write_in(&mut pair, seed + 60);
            write_in(&mut pair, seed + 80);
            for _ in 0..pair.rng.below(30) {
                pair.step();
            }
            // Nothing of the data that need not be there; of the metadata any mixture.
            let both = seed % 3 == 0;
            let mut rng = crate::rng::Rng::new(seed);
            for n in 0..if both { 2 } else { 1 } {
                pair.lose_power(
                    n,
                    |found| *found.first().expect("never empty"),
                    |found| *found.iter().nth(rng.below(found.len() as u64) as usize).expect("in range"),
                );
            }
            // Applying the log and attaching forget nothing either.
            for n in 0..if both { 2 } else { 1 } {
                pair.attach(n);
            }
            // Every hot extent is copied; what that does to the metadata is looked at above.
            pair.checking = false;
            for n in 0..if both { 2 } else { 1 } {
                pair.run(n, Command::Connect(Box::new(net())));
            }
            pair.until("the copies are equal again", Pair::in_sync);
            pair.settle();
            pair.check_equal();
            pair.checking = true;
            assert_eq!(pair.run(0, Command::Primary { force: false }), CommandResult::Ok);
            walk(&mut pair, 20, 4);
            pair.settle();
            pair.check_equal();
        }
    }
}

/// Runs a walk on devices whose drivers lie; true if the checks noticed.
fn is_noticed(place: Place, lies: [Lie; 2], connected: bool) -> bool {
    let walked = std::panic::catch_unwind(|| {
        let mut pair = Pair::with_lies(5, place, lies);
        if !connected {
            pair.break_link();
        }
        walk(&mut pair, 170, 4);
        // What was marked is copied.
        pair.cut = false;
        pair.until("the copies are equal again", Pair::in_sync);
        pair.settle();
    });
    walked.is_err()
}

/// The data of evicted extents is in the data device's cache. With external metadata a flush of the metadata device
/// before the transaction does not reach it: the driver has to flush both.
#[test]
fn a_flush_of_the_metadata_device_alone_loses_the_data_of_evicted_extents() {
    let lies = [Lie::FlushMetadataOnly, Lie::None];
    assert!(is_noticed(Place::External, lies, true));
    assert!(!is_noticed(Place::Internal, lies, true), "one device has one cache");
}

#[test]
fn other_mistakes_of_a_driver_are_noticed() {
    for place in PLACES {
        assert!(!is_noticed(place, [Lie::None; 2], false), "{place:?}");
        for lie in [Lie::NoFlushBefore, Lie::NoForcedAccess, Lie::EarlyCompletion] {
            for connected in [true, false] {
                assert!(is_noticed(place, [lie, Lie::None], connected), "{place:?} {lie:?} {connected}");
            }
        }
        // A peer whose barrier acknowledgements are not worth their flush. That of a sync target at the end of a resync is
        // repeated by its super block, before the source hears of the end.
        assert!(is_noticed(place, [Lie::None, Lie::NoDataFlush], true), "{place:?}");
    }
}
