//! Disks that were put back to how they were, metadata and all, or changed for others and back.

use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::{DiskConfig, VolIdx};

use super::healing::{both_again, write};
use crate::node::Node;
use crate::scenario::{fresh_pair, net};
use crate::world::World;

const SECTORS: u64 = 40_000;
const VOL: VolIdx = VolIdx(0);
const MISSED: u64 = 200;

/// Node 2 is down and misses some blocks.
fn behind(seed: u64) -> World {
    let mut w = fresh_pair(seed, SECTORS);
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    for i in 0..MISSED {
        write(&mut w, 0, i * 64);
    }
    w
}

/// Node 2 gets a part of what it lacks, which the source forgets.
fn synced_by_half(w: &mut World) {
    w.start(1);
    w.connect(1, &net());
    let began = |w: &World| w.state(0).0 == ConnState::SyncSource;
    assert!(w.run_until(Duration::from_secs(30), began), "{:?}", w.state(0));
    let marked = |w: &World| w.nodes[0].core.as_ref().expect("up").marked_blocks(VOL);
    let all = marked(w);
    assert!(w.run_until(Duration::from_secs(60), |w| marked(w) <= all / 2));
    assert_eq!(w.state(1), (ConnState::SyncTarget, DiskState::Inconsistent));
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
}

/// The target was put back to how it was before the resync, as it is from a snapshot made by before-resync-target. It had
/// the generation that a lost sync UUID leaves it with, and got what the source had still marked: UpToDate, without the
/// blocks that the disk now gone had been brought.
#[test]
fn a_target_is_put_back_to_before_its_resync() {
    for source_dies in [false, true] {
        let mut w = behind(900);
        let before = w.nodes[1].disk.clone();
        synced_by_half(&mut w);
        if source_dies {
            w.crash(0, true);
        }
        w.nodes[1].disk = before;
        both_again(&mut w);
    }
}

/// The same with a disk that was changed for an empty one, and put in again before that one had everything.
#[test]
fn a_disk_is_back_before_the_one_in_its_place_was_synced() {
    let mut w = behind(901);
    let first = w.nodes[1].disk.clone();
    w.nodes[1] = Node::new(SECTORS, DiskConfig::default());
    w.nodes[1].incarnation = 7;
    synced_by_half(&mut w);
    w.nodes[1].disk = first;
    both_again(&mut w);
}

/// Node 2 got back a disk of one generation before, which the history of node 1 named. Becoming its source node 1 pushed that
/// out of its history, and the target died before it had stored the sync UUID: the data was "unrelated", for good.
#[test]
fn an_older_disk_is_known_when_its_sync_uuid_was_lost() {
    let mut w = behind(902);
    let older = w.nodes[1].disk.clone();
    w.start(1);
    w.connect(1, &net());
    assert!(w.run_until(Duration::from_secs(60), World::in_sync));
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    write(&mut w, 0, 64);
    w.nodes[1].disk = older;
    w.start(1);
    w.connect(1, &net());
    for _ in 0..3 {
        let began = |w: &World| w.state(0).0 == ConnState::SyncSource;
        assert!(w.run_until(Duration::from_secs(30), began), "{:?} {:?}", w.state(0), w.state(1));
        // The source stores its sync UUID; what it sends then is slow.
        w.weather.net_us = 100_000;
        w.run_for(Duration::from_millis(2));
        w.weather.net_us = 50;
        assert!(w.state(1).0 < ConnState::SyncTarget);
        w.crash(1, false);
        w.run_for(Duration::from_secs(3));
        w.start(1);
        w.connect(1, &net());
    }
    both_again(&mut w);
}
