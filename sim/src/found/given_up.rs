//! Disks that do not answer, or take nothing, and are given up: nobody waits for them, and what they do later harms
//! nobody.

use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::{ClientResult, ClientTag, Command, CommandId, CommandResult, DiskConfig, VolIdx};

use crate::hooks::DiskOp;
use crate::scenarios::*;
use crate::world::{Answer, SimOp, World};

const VOL: VolIdx = VolIdx(0);
const DETACH: Command = Command::Detach { vol: VOL, force: false };
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };
/// Blocks of an activity log extent.
const EXTENT: u64 = 1024;

fn begin(w: &mut World, block: u64) -> ClientTag {
    w.request(0, SimOp::Write { sector: block * 8, count: 8, fua: false })
}

fn put(w: &mut World, block: u64) {
    assert_eq!(write(w, 0, block * 8, 8), ClientResult::Ok, "block {block}");
}

fn answered_within(w: &mut World, id: CommandId, limit: Duration) -> CommandResult {
    let here = |w: &World| w.answers.iter().any(|(_, a)| matches!(a, Answer::Command(i, _) if *i == id));
    assert!(w.run_until(limit, here), "a command ends: {:?} {:?}", w.volume(0), w.volume(1));
    match w.take_answer(|a| matches!(a, Answer::Command(i, _) if *i == id)) {
        Some(Answer::Command(_, r)) => r,
        _ => unreachable!("it is there"),
    }
}

/// The log is full, and the page of the evicted extent cannot be written: the transaction behind it was waited for by
/// the detach and by the write, for ever.
#[test]
fn the_page_of_an_evicted_extent_fails() {
    let slots = 67;
    let d = DiskConfig { al_extents: slots as u16, ..DiskConfig::default() };
    let mut w = pair_with(1, (slots + 40) * EXTENT * 8, &net(), [d.clone(), d]);
    for extent in 0..slots {
        put(&mut w, extent * EXTENT);
    }
    w.crash(1, false);
    w.run_for(secs(2));
    for extent in 0..slots {
        put(&mut w, extent * EXTENT + 1);
    }
    w.nodes[0].faults.metadata = 1;
    let block = (slots + 20) * EXTENT;
    let tag = begin(&mut w, block);
    w.run_for(secs(1));
    assert_eq!(answer(&mut w, tag).map(|(r, _)| r), Some(ClientResult::IoError));
    assert_eq!(disk(&w, 0), DiskState::Diskless);
    assert_eq!(w.nodes[0].disk.read(block * 8), 0, "no data before its extent is in the log");
    w.nodes[0].faults.metadata = 0;
    w.start(1);
    w.attach(0);
    w.connect(1, &net());
    heals(&mut w);
}

/// A disk had failed, and the flush in front of its last bitmap pages failed too, while the page of an extent was on its way
/// that a write had been promised the place of: the transaction behind that page was not going to be written, and the detach
/// waited for it for ever. So did the write.
#[test]
fn the_last_flush_fails_while_an_extent_is_evicted() {
    for seed in 0..40 {
        let d = DiskConfig { al_extents: 2, ..DiskConfig::default() };
        let mut w = pair_with(seed, 40 * EXTENT * 8, &net(), [d.clone(), d]);
        w.crash(1, false);
        w.run_for(secs(2));
        // Two extents whose bits are in different pages.
        put(&mut w, 0);
        put(&mut w, 33 * EXTENT);
        w.nodes[0].faults.flushes = 1;
        let flush = w.request(0, SimOp::Flush);
        // The second waits for the transaction of the first.
        let tags = [5, 6].map(|extent| begin(&mut w, extent * EXTENT));
        assert_eq!(wait(&mut w, flush).0, ClientResult::IoError);
        w.run_for(secs(1));
        for tag in tags {
            assert!(answer(&mut w, tag).is_some(), "seed {seed}");
        }
        assert_eq!(disk(&w, 0), DiskState::Diskless);
        w.nodes[0].faults.flushes = 0;
        w.start(1);
        w.attach(0);
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// A dead disk kept every request that it had, and the detach by force with them. Its operations end late: when the
/// disk is gone, and it can be attached again only then.
#[test]
fn a_dead_disk_is_torn_off() {
    for n in 0..2 {
        for newest_first in [false, true] {
            let mut w = pair_with(2, LARGE, &net(), [DiskConfig::default(), DiskConfig::default()]);
            put(&mut w, 8);
            w.run_for(ms(100));
            w.hold_disk(n, true);
            let tags = [begin(&mut w, 8), begin(&mut w, 9), w.request(0, SimOp::Flush)];
            let seen = w.request(0, SimOp::Read { sector: 320, count: 8 });
            w.run_for(ms(100));
            let gentle = w.command(n, DETACH);
            w.run_for(secs(2));
            assert!(!w.answers.iter().any(|(_, a)| matches!(a, Answer::Command(i, _) if *i == gentle)));
            assert_eq!(w.command_and_wait(n, TEAR_OFF), OK);
            assert_eq!(answered_within(&mut w, gentle, secs(1)), OK, "the first one has what it wanted");
            assert_eq!(disk(&w, n), DiskState::Diskless);
            for tag in tags.into_iter().chain([seen]) {
                assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "served by the other copy");
            }
            assert_ne!(w.hooks.waiting_operations(n), 0);
            assert_eq!(w.nodes[n].attached, 1, "the driver has not closed it");
            // Newer blocks in the place of those that the disk has still to write.
            put(&mut w, 8);
            w.run_for(secs(1));
            w.hooks.disk_held[n] = false;
            w.let_go(newest_first);
            w.run_for(ms(100));
            assert_eq!(w.nodes[n].attached, 0);
            w.attach(n);
            heals(&mut w);
        }
    }
}

/// Not even metadata is written any more.
#[test]
fn a_disk_that_takes_no_metadata_is_torn_off() {
    for n in 0..2 {
        let mut w = pair_with(3, LARGE, &net(), [DiskConfig::default(), DiskConfig::default()]);
        put(&mut w, 8);
        w.run_for(ms(100));
        w.hold_disk(n, true);
        w.hooks.slow_disk(n, DiskOp::Meta, 0, 0);
        // One block in a hot extent, and one that needs a transaction first.
        let tags = [begin(&mut w, 8), begin(&mut w, 2 * EXTENT)];
        w.run_for(ms(100));
        assert_eq!(w.command_and_wait(n, TEAR_OFF), OK);
        assert!(w.run_until(secs(1), |w| disk(w, n) == DiskState::Diskless), "{:?}", w.volume(n));
        for tag in tags {
            assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "served by the other copy");
        }
        w.hooks.disk_held[n] = false;
        w.let_go(true);
        w.run_for(ms(100));
        w.attach(n);
        heals(&mut w);
    }
}

/// Either disk dies in the middle of a resync, with whatever is on its way.
#[test]
fn a_disk_of_a_resync_is_torn_off() {
    for seed in 0..20 {
        let n = seed as usize % 2;
        let mut w = pair_with(seed, LARGE, &net(), [DiskConfig::default(), DiskConfig::default()]);
        put(&mut w, 8);
        assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
        assert!(w.run_until(secs(5), |w| w.state(1).0 == ConnState::SyncTarget));
        let pause = w.rng.below(100_000);
        w.run_for(Duration::from_micros(pause));
        w.hold_disk(n, true);
        for block in 0..20 {
            begin(&mut w, block * 64);
        }
        w.run_for(ms(200));
        assert_eq!(w.command_and_wait(n, TEAR_OFF), OK);
        assert!(w.run_until(secs(1), |w| disk(w, n) == DiskState::Diskless), "{:?}", w.volume(n));
        assert!(w.run_until(secs(20), |w| {
            w.answers.iter().filter(|(_, a)| matches!(a, Answer::Client(..))).count() >= 20
        }));
        w.hooks.disk_held[n] = false;
        w.let_go(seed % 4 < 2);
        w.run_for(ms(100));
        w.attach(n);
        heals(&mut w);
    }
}

/// A write that the disk did not get was marked when the peer's barrier covered it: by then another disk was attached and
/// up to date, and the mark stayed on equal copies.
#[test]
fn what_a_former_disk_lacks_is_not_marked_on_the_next_one() {
    for error in [false, true] {
        for k in 0..20 {
            // So small that the resync is over before the peer's lazy flush.
            let mut w = pair_with(k, 400, &net(), [DiskConfig::default(), DiskConfig::default()]);
            put(&mut w, 8);
            w.run_for(ms(100));
            if error {
                w.nodes[0].faults.writes = 1;
            }
            let tag = begin(&mut w, 8);
            let until = w.steps + k;
            w.run_until(ms(1), |w| w.steps >= until);
            w.command(0, TEAR_OFF);
            w.run_until(ms(1), |w| w.nodes[0].attached == 0);
            w.nodes[0].faults.writes = 0;
            w.attach(0);
            assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
            heals(&mut w);
        }
    }
}

/// Without a peer there is nobody to serve the clients: they get errors, at once.
#[test]
fn a_dead_disk_without_a_peer_is_torn_off() {
    let mut w = pair(4);
    put(&mut w, 8);
    disconnect(&mut w, 1);
    w.crash(1, false);
    w.run_for(secs(2));
    w.hold_disk(0, true);
    let tag = begin(&mut w, 8);
    w.run_for(secs(1));
    assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
    w.run_for(ms(10));
    assert_eq!(answer(&mut w, tag).map(|(r, _)| r), Some(ClientResult::IoError));
    w.hold_disk(0, false);
    w.run_for(secs(1));
    w.attach(0);
    w.start(1);
    w.connect(1, &net());
    heals(&mut w);
}

/// The same by disk-timeout, and what the disk had is answered long before the disk ends it.
#[test]
fn a_disk_that_is_too_slow_is_given_up() {
    let d = DiskConfig { disk_timeout: secs(2), ..DiskConfig::default() };
    let mut w = pair_with(11, SECTORS, &net(), [d.clone(), d]);
    put(&mut w, 5);
    w.run_for(ms(100));
    w.hooks.slow_disk(0, DiskOp::Write, 40, 8);
    w.hooks.slow_disk(0, DiskOp::Read, 7200, 8);
    let written = begin(&mut w, 5);
    let seen = w.request(0, SimOp::Read { sector: 7200, count: 8 });
    assert!(w.run_until(secs(4), |w| disk(w, 0) == DiskState::Diskless), "given up");
    for tag in [written, seen] {
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "the disk has not ended it");
    }
    for block in 10..40 {
        put(&mut w, block);
    }
    put(&mut w, 5);
    w.let_go(true);
    w.run_for(ms(100));
    w.attach(0);
    heals(&mut w);
}

/// The peer's power fails, and the own disk is torn off before anybody knows: what was not flushed is gone from both, and
/// no answer had promised more. Whatever was flushed is there.
#[test]
fn both_caches_are_lost_at_once() {
    for seed in 0..40 {
        let mut w = pair(seed);
        put(&mut w, 8);
        assert_eq!(wait_for_flush(&mut w), ClientResult::Ok);
        let kept = w.nodes[1].disk.medium(64);
        put(&mut w, 9);
        put(&mut w, 10);
        w.crash(1, true);
        assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
        w.run_for(secs(5));
        w.start(1);
        w.connect(1, &net());
        w.run_for(secs(5));
        assert_eq!(read(&mut w, 0, 64), Ok(kept));
        w.attach(0);
        heals(&mut w);
    }
}

fn wait_for_flush(w: &mut World) -> ClientResult {
    let tag = w.request(0, SimOp::Flush);
    wait(w, tag).0
}
