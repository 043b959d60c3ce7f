//! Blocks that a resync has asked for, and that come when it has ended.

use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::wire::Command as Wire;
use replicator::{ClientResult, Command, VolIdx};

use crate::hooks::DiskOp;
use crate::scenarios::*;
use crate::world::World;

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
