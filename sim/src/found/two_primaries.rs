//! Both nodes may be Primary: what one of them says besides its writes has a place in the same order.

use core::time::Duration;
use model::state::DiskState;
use replicator::wire::Command as Wire;
use replicator::{ClientResult, Command, DiskConfig, NetConfig, VolIdx};

use crate::scenarios::*;
use crate::world::{SimOp, World};

fn two_net() -> NetConfig {
    NetConfig { allow_two_primaries: true, verify_alg: "sha1".into(), ..net() }
}

fn two_primaries(seed: u64) -> World {
    let mut w = nodes(seed, 512, [DiskConfig::default(), DiskConfig::default()], 1);
    w.two_primaries = true;
    link_up(&mut w, &two_net());
    skip_initial_sync(&mut w, 0);
    for n in 0..2 {
        assert_eq!(primary(&mut w, n), OK);
    }
    w
}

/// Each node writes the same blocks; all of it ends.
fn both_write(w: &mut World) {
    let mut tags = Vec::new();
    for i in 0..20 {
        tags.push(w.request(i as usize % 2, SimOp::Write { sector: i / 3 * 8, count: 8, fua: false }));
        w.run_for(ms(i % 3));
    }
    for tag in tags {
        assert_eq!(wait(w, tag).0, replicator::ClientResult::Ok);
    }
    heals(w);
}

/// The result of a verified block is counted among what a node says, and was not among what the other has heard: the next
/// write of it waited for ever.
#[test]
fn writes_after_a_verify() {
    for seed in 0..4 {
        let mut w = two_primaries(seed);
        let verify = Command::Verify { vol: VolIdx(0), start_sector: Some(0), stop_sector: None };
        assert_eq!(w.command_and_wait(seed as usize % 2, verify), OK);
        if seed < 2 {
            w.run_for(secs(20));
        }
        both_write(&mut w);
    }
}

/// The same for a write that comes when the disk is gone, before the disk comes back on the same connection.
#[test]
fn writes_after_a_disk_was_away() {
    for n in 0..2 {
        let mut w = two_primaries(7);
        both_write(&mut w);
        assert_eq!(w.command_and_wait(n, Command::Detach { vol: VolIdx(0), force: false }), OK);
        for m in [0, 1, 0, 1, 1] {
            assert_eq!(write(&mut w, m, 80, 8), replicator::ClientResult::Ok);
        }
        w.attach(n);
        heals(&mut w);
        both_write(&mut w);
    }
}

/// And for writes from the time when only one node could be Primary.
#[test]
fn writes_after_the_permission() {
    for n in 0..2 {
        let mut w = pair(9);
        if n == 1 {
            assert_eq!(secondary(&mut w, 0), OK);
            assert_eq!(primary(&mut w, 1), OK);
        }
        for block in 0..5 {
            assert_eq!(write(&mut w, n, block * 8, 8), replicator::ClientResult::Ok);
        }
        w.two_primaries = true;
        for m in 0..2 {
            assert_eq!(w.command_and_wait(m, Command::NetOptions(Box::new(two_net()))), OK);
        }
        w.run_for(secs(1));
        assert_eq!(primary(&mut w, 1 - n), OK);
        both_write(&mut w);
    }
}

/// Writes on node 1 (index 0) alone, the disk of node 2 gone, and takes node 1 away before the name of its new generation
/// has arrived over there.
fn alone_and_gone(w: &mut World) {
    let tear_off = Command::Detach { vol: VolIdx(0), force: true };
    assert_eq!(w.command_and_wait(1, tear_off), OK);
    assert!(w.run_until(secs(1), |w| w.volume(0).is_some_and(|s| s.pdsk < DiskState::Inconsistent)));
    w.reset();
    assert_eq!(write(w, 0, 8, 8), replicator::ClientResult::Ok);
    w.crash(0, false);
    w.run_for(secs(1));
}

/// A disk goes while the other Primary's clients write on: a node that never hears of their new generation does not take it
/// back for its own clients, who have seen nothing newer.
#[test]
fn a_disk_that_was_away_from_the_other_ones_clients_stays_away() {
    let mut w = two_primaries(11);
    alone_and_gone(&mut w);
    w.attach(1);
    w.run_for(secs(1));
    assert!(w.volume(1).is_some_and(|s| s.disk < DiskState::Consistent), "it lacks what node 1 has answered");
    w.start(0);
    w.attach(0);
    w.connect(0, &two_net());
    w.run_for(secs(10));
    w.attach(1);
    heals(&mut w);
}

/// Own writes that have their activity log extents wait for those of a lost peer, which need some too: there are no more.
#[test]
fn writes_of_a_lost_peer_find_room_in_the_activity_log() {
    for us in 0..60 {
        let disk = DiskConfig { al_extents: 2, ..DiskConfig::default() };
        let mut w = nodes(13, 4 * 8192, [disk.clone(), disk], 1);
        w.two_primaries = true;
        link_up(&mut w, &two_net());
        skip_initial_sync(&mut w, 0);
        for n in 0..2 {
            assert_eq!(primary(&mut w, n), OK);
        }
        assert_eq!(w.command_and_wait(1, Command::Detach { vol: VolIdx(0), force: false }), OK);
        w.run_for(secs(1));
        w.request(1, SimOp::Write { sector: 2 * 8192, count: 8, fua: false });
        w.run_for(Duration::from_micros(us));
        let tags =
            [0, 1].map(|extent| w.request(0, SimOp::Write { sector: extent * 8192, count: 8, fua: false }));
        w.run_for(Duration::from_micros(us / 4));
        w.reset();
        for tag in tags {
            assert_eq!(wait(&mut w, tag).0, replicator::ClientResult::Ok);
        }
    }
}

/// A write of the Primary without a disk waits for a place in the activity log of the other one, all of which own writes hold.
/// When they gave it back nobody looked for what waits: it was never answered (small 210421235).
#[test]
fn a_write_for_a_node_without_a_disk_waits_for_own_ones_to_leave_the_log() {
    const EXTENT: u64 = 8192;
    let d = DiskConfig { al_extents: 2, ..DiskConfig::default() };
    let mut w = nodes(12, 3 * EXTENT, [d.clone(), d], 1);
    w.two_primaries = true;
    link_up(&mut w, &two_net());
    skip_initial_sync(&mut w, 0);
    for n in 0..2 {
        assert_eq!(primary(&mut w, n), OK);
    }
    w.hooks.keep(1, Wire::BarrierAck);
    for extent in [1, 2] {
        assert_eq!(write(&mut w, 0, extent * EXTENT, 8), ClientResult::Ok);
    }
    assert!(w.run_until(secs(5), |w| w.keeps_from(1)));
    let tear_off = Command::Detach { vol: VolIdx(0), force: true };
    assert_eq!(w.command_and_wait(1, tear_off), OK);
    let tag = w.request(1, SimOp::Write { sector: 16, count: 8, fua: false });
    w.run_for(ms(100));
    assert_eq!(answer(&mut w, tag), None);
    w.pass(1);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
}
