//! Blocks that a resync has asked for, and that come when it has ended.

use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::wire::Command as Wire;
use replicator::{ClientResult, Command, NetConfig, VolIdx};

use crate::hooks::DiskOp;
use crate::scenarios::*;
use crate::world::{SimOp, World};

const VOL: VolIdx = VolIdx(0);
const BLOCKS: u64 = 64;

/// Node 2 gets blocks that it lacks from node 1, several at once, and has written none.
fn target_waits(seed: u64) -> World {
    let mut w = pair(seed);
    disconnect(&mut w, 1);
    for block in 0..BLOCKS {
        assert_eq!(write(&mut w, 0, block * 16, 8), ClientResult::Ok);
    }
    w.hooks.slow_disk(0, DiskOp::Read, 0, SECTORS);
    w.hooks.packets.clear();
    w.connect(1, &net());
    let asked = |w: &World| w.hooks.seen(1, Wire::RsDataRequest) > 4;
    assert!(w.run_until(secs(10), asked), "{:?} {:?}", w.state(0), w.state(1));
    w.run_for(ms(10));
    assert_eq!(w.hooks.seen(0, Wire::RsDataReply), 0);
    w.hooks.packets.clear();
    w
}

fn same_connection_since(w: &World) -> bool {
    w.hooks.seen(0, Wire::ConnectionFeatures) == 0
}

/// A block on its way ended the connection as a protocol error when the target's disk had gone.
#[test]
fn blocks_for_a_disk_that_has_gone_are_dropped() {
    for fails in [false, true] {
        for k in 0..20 {
            let mut w = target_waits(k);
            let going = if fails {
                w.hooks.break_disk(1, DiskOp::Write, 0, SECTORS);
                None
            } else {
                w.weather.net_us = 2000;
                Some(w.command(1, Command::Detach { vol: VOL, force: k % 2 == 0 }))
            };
            w.run_for(Duration::from_micros(k * 100));
            w.let_go(false);
            let gone = |w: &World| disk(w, 1) == DiskState::Diskless;
            assert!(w.run_until(secs(10), gone), "{going:?} {:?}", w.volume(1));
            w.weather.net_us = 50;
            w.run_for(secs(2));
            assert!(same_connection_since(&w), "fails: {fails}, k = {k}");
            assert_eq!(w.state(0).0, ConnState::Connected);
            w.hooks.mend_disks();
            w.attach(1);
            heals(&mut w);
            assert!(same_connection_since(&w), "fails: {fails}, k = {k}");
        }
    }
}

/// The disk is back before the old blocks have come: they are older than what was written meanwhile, and belong to nobody.
#[test]
fn blocks_of_the_last_run_are_not_taken_for_those_of_the_next() {
    for k in 0..40 {
        let mut w = target_waits(k);
        if k % 2 == 0 {
            // They are read, and stay on the way.
            w.hooks.keep(0, Wire::RsDataReply);
            w.let_go(false);
            w.run_for(ms(2));
        }
        w.command(1, Command::Detach { vol: VOL, force: k % 4 < 2 });
        w.run_for(ms(5));
        if disk(&w, 1) == DiskState::Diskless {
            w.attach(1);
        }
        for block in 0..BLOCKS {
            w.request(0, crate::world::SimOp::Write { sector: block * 16, count: 8, fua: false });
        }
        w.run_for(Duration::from_micros(k * 100));
        w.let_go(k % 3 == 0);
        w.pass(0);
        w.run_for(secs(2));
        w.attach(1);
        heals(&mut w);
        assert!(same_connection_since(&w), "k = {k}");
    }
}

/// Node 2 was the target of a resync when its source died, and its disk still writes a block of it; an operator takes what it
/// has.
fn forced_while_a_block_is_written(seed: u64) -> World {
    let mut w = pair(seed);
    disconnect(&mut w, 1);
    for block in 0..BLOCKS {
        assert_eq!(write(&mut w, 0, block * 16, 8), ClientResult::Ok);
    }
    w.hooks.slow_disk(1, DiskOp::Write, 0, 8);
    w.connect(1, &net());
    assert!(w.run_until(secs(10), |w| w.hooks.waiting_operations(1) > 0), "{:?}", w.state(1));
    w.crash(0, false);
    assert!(w.run_until(secs(30), |w| w.state(1).0 < ConnState::Connected));
    assert_eq!(w.command_and_wait(1, Command::Primary { force: true }), OK);
    assert_eq!(w.state(1).1, DiskState::UpToDate);
    w
}

/// A block that a resync had been writing when it was given up came behind what a client wrote after that.
#[test]
fn a_block_of_a_resync_that_was_given_up_does_not_overwrite_what_came_later() {
    let mut w = forced_while_a_block_is_written(1);
    let early = w.request(1, SimOp::Read { sector: 0, count: 1 });
    w.run_for(ms(100));
    assert!(answer(&mut w, early).is_none(), "it would read what is about to be replaced");
    let tag = w.request(1, SimOp::Write { sector: 0, count: 8, fua: false });
    w.run_for(ms(100));
    w.let_go(true);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    w.run_for(ms(100));
    check_copy(&mut w, 1);
}

/// It also came behind the read of a resync in the other direction: the copies differed, and nothing said so.
#[test]
fn a_block_of_a_resync_that_was_given_up_is_part_of_the_next_one() {
    let mut w = forced_while_a_block_is_written(2);
    w.start(0);
    w.run_for(ms(10));
    w.connect(0, &NetConfig { discard_my_data: true, ..net() });
    let sends = |w: &World| w.state(1).0 == ConnState::SyncSource;
    assert!(w.run_until(secs(30), sends), "{:?} {:?}", w.state(0), w.state(1));
    w.run_for(secs(1));
    w.let_go(false);
    heals(&mut w);
}
