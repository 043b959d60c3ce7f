//! The handlers before a resync: it begins when they have ended, on either side, and does not if they say so.

use super::*;
use crate::hooks::BeforeResync;
use model::config::settings::Handler;

const BEFORE: [Handler; 2] = [Handler::BeforeResyncSource, Handler::BeforeResyncTarget];

/// A pair that was cut; node 1 (index 0) has written, and the link heals. Node `n` has such a script.
fn about_to_sync(seed: u64, n: usize, script: BeforeResync) -> World {
    let mut w = pair(seed);
    w.hooks.handlers[n].before_resync = script;
    w.cut(true);
    w.run_for(secs(5));
    for block in 0..4 {
        assert_eq!(write(&mut w, 0, block * 64, 8), ClientResult::Ok);
    }
    w.hooks.packets.clear();
    w.cut(false);
    w
}

/// The script of node `n` has been called.
fn is_called(w: &mut World, n: usize) {
    assert!(w.run_until(secs(20), |w| calls(w, n, BEFORE[n]) > 0), "{:?} {:?}", w.state(0), w.state(1));
}

#[test]
fn a_resync_begins_when_the_script_has_ended() {
    for n in 0..2 {
        let mut w = about_to_sync(1, n, BeforeResync { exit_code: 0, after: secs(10) });
        is_called(&mut w, n);
        let waits = [ConnState::WFBitMapS, ConnState::WFSyncUUID][n];
        w.run_for(secs(5));
        assert_eq!(w.state(n).0, waits);
        let asked = |w: &World| w.hooks.seen(1, Wire::RsDataRequest);
        assert_eq!((asked(&w), resync_bytes(&w, 0)), (0, 0));
        assert_ne!(disk(&w, 1), DiskState::Inconsistent, "nothing has happened to the copy yet");
        w.run_for(secs(6));
        heals(&mut w);
        assert_eq!(resync_bytes(&w, 0), 4 * 4096);
        assert_eq!([0, 1].map(|n| calls(&w, n, BEFORE[n])), [1, 1], "once for each resync");
        assert_eq!([0, 1].map(|n| calls(&w, n, BEFORE[1 - n])), [0, 0], "each its own");
    }
}

/// The source mirrors writes as soon as it has named the run. The target's copy does not say yet that it is being
/// overwritten: they wait.
#[test]
fn writes_wait_for_the_target() {
    for power in [false, true] {
        let mut w = about_to_sync(2, 1, BeforeResync { exit_code: 0, after: secs(2) });
        is_called(&mut w, 1);
        let before = w.nodes[1].disk.read(800);
        let tag = w.request(0, SimOp::Write { sector: 800, count: 8, fua: false });
        w.run_for(secs(1));
        assert_eq!((answer(&mut w, tag), w.nodes[1].disk.read(800)), (None, before));
        if power {
            w.crash(1, true);
            w.run_for(secs(5));
            w.start(1);
            w.connect(1, &net());
        }
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        heals(&mut w);
    }
}

/// A script that fails: the connection is dropped, and stays so until an operator connects.
#[test]
fn a_script_that_fails_drops_the_connection() {
    for (n, handler) in BEFORE.iter().enumerate() {
        for exit_code in [1, 3, 20] {
            let mut w = about_to_sync(3, n, BeforeResync { exit_code, after: ms(30) });
            is_called(&mut w, n);
            w.run_for(secs(10));
            if (n, exit_code) == (0, 3) {
                // Old tools without this handler.
                heals(&mut w);
                continue;
            }
            let why = format!("{handler} handler returned {exit_code}, dropping connection.");
            stands_alone(&w, n, &why);
            assert_eq!(resync_bytes(&w, 0), 0);
            assert_ne!(disk(&w, 1), DiskState::Inconsistent);
            w.hooks.handlers[n].before_resync = BeforeResync::default();
            for m in 0..2 {
                if w.state(m).0 == ConnState::StandAlone {
                    w.connect(m, &net());
                }
            }
            heals(&mut w);
        }
    }
}

/// The link is lost, a node dies or its disk goes while the script runs: what it says at last concerns nobody, not even the
/// resync that comes after.
#[test]
fn a_script_outlives_its_resync() {
    for n in 0..2 {
        for event in 0..6 {
            // The target hears that the source's disk has gone behind its handler: what that says counts.
            let exit_code = i32::from((n, event) != (1, 3));
            let mut w = about_to_sync(4, n, BeforeResync { exit_code, after: secs(8) });
            is_called(&mut w, n);
            w.hooks.handlers[n].before_resync = BeforeResync { exit_code: 0, after: secs(15) };
            match event {
                0 => w.reset(),
                1 => w.crash(1 - n, true),
                2 => w.crash(n, false),
                3 | 4 => {
                    let m = event - 3;
                    w.command_and_wait(m, Command::Detach { vol: VolIdx(0), force: true });
                }
                _ => {
                    w.cut(true);
                    w.run_for(secs(3));
                    w.cut(false);
                }
            }
            w.run_for(secs(5));
            for m in 0..2 {
                if w.nodes[m].core.is_none() {
                    w.start(m);
                    w.connect(m, &net());
                }
                w.attach(m);
            }
            let done = w.run_until(secs(60), |w| w.in_sync() && w.is_idle());
            assert!(done, "node {n}, event {event}: {:?} {:?}", w.volume(0), w.volume(1));
            heals(&mut w);
        }
    }
}

/// Two volumes: each has its own call, and the answer of one is none for the other.
#[test]
fn each_volume_has_its_call() {
    let mut w = nodes(5, SECTORS, [DiskConfig::default(), DiskConfig::default()], 2);
    link_up(&mut w, &net());
    skip_initial_sync(&mut w, 0);
    skip_initial_sync(&mut w, 1);
    assert_eq!(primary(&mut w, 0), OK);
    w.cut(true);
    w.run_for(secs(5));
    for vol in 0..2 {
        let sector = crate::node::place(VolIdx(vol), 80);
        let tag = w.request(0, SimOp::Write { sector, count: 8, fua: false });
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    }
    w.hooks.handlers[1].before_resync.after = secs(3);
    w.cut(false);
    heals(&mut w);
    for (n, handler) in BEFORE.iter().enumerate() {
        let mut vols: Vec<_> =
            w.hooks.handlers[n].calls.iter().filter(|(_, h, _)| h == handler).map(|(_, _, v)| *v).collect();
        vols.sort_by_key(|v| v.map(|v| v.0));
        assert_eq!(vols, [Some(VolIdx(0)), Some(VolIdx(1))]);
    }
}
