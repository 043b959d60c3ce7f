//! Copies that are not good: what may be read from them, and when they may be called good again.

use model::policy::OnIoError;
use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::wire::Command as Wire;
use replicator::{ClientResult, Command, DiskConfig, NetConfig, VolIdx};

use super::healing::outcome;
use crate::hooks::DiskOp;
use crate::scenarios::*;
use crate::world::{SimOp, World};

const VOL: VolIdx = VolIdx(0);
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };
const BLOCK: u64 = 40;

fn read_outcome(w: &mut World) -> ClientResult {
    // The oracle panics if this returns what was there before.
    outcome(w, 0, SimOp::Read { sector: BLOCK, count: 8 })
}

/// A Primary took its disk back, and lost the peer before the bitmaps were exchanged. Its copy was known to be behind, but
/// nothing was marked in it yet: the block was read there as if it were good.
#[test]
fn what_is_not_marked_yet_is_not_read() {
    for seed in 0..10 {
        let mut w = pair(seed);
        assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
        assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
        w.run_for(ms(100));
        w.hooks.keep(1, Wire::Bitmap);
        w.hooks.keep(1, Wire::CompressedBitmap);
        w.attach(0);
        assert!(w.run_until(secs(5), |w| w.state(0).0 == ConnState::WFBitMapT), "{:?}", w.volume(0));
        w.cut(true);
        w.reset();
        assert!(w.run_until(secs(5), |w| w.state(0).0 < ConnState::Connected));
        assert_eq!(w.state(0).1, DiskState::Inconsistent);
        assert_eq!(read_outcome(&mut w), ClientResult::IoError);
        w.pass(1);
        w.cut(false);
        heals(&mut w);
    }
}

/// A target that loses its source in mid resync knows which of its blocks are good, and so does a disk that passes on an
/// error.
#[test]
fn what_is_good_on_a_bad_copy_is_read() {
    let d = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let mut w = pair_with(1, SECTORS, &net(), [d.clone(), d]);
    assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
    w.hooks.break_disk(0, DiskOp::Write, BLOCK + 80, 8);
    assert_eq!(write(&mut w, 0, BLOCK + 80, 8), ClientResult::Ok);
    w.hooks.mend_disks();
    w.run_for(ms(100));
    w.crash(1, false);
    w.run_for(secs(3));
    assert_eq!(w.state(0).1, DiskState::Inconsistent);
    assert_eq!(read_outcome(&mut w), ClientResult::Ok);
    w.start(1);
    w.connect(1, &net());
    heals(&mut w);
}

/// A Secondary's disk passed on an error, so that its copy is no longer good while its peer's is, and no resync is to come
/// before the next handshake. Its promotion waited for one, and every command behind it.
#[test]
fn a_bad_copy_beside_a_good_one_is_promoted() {
    let d = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let mut w = pair_with(1, SECTORS, &net(), [d.clone(), d]);
    assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
    w.hooks.break_disk(1, DiskOp::Write, BLOCK, 8);
    assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
    w.hooks.mend_disks();
    w.run_for(ms(100));
    assert_eq!(w.state(1), (ConnState::Connected, DiskState::Inconsistent));
    assert_eq!(w.command_and_wait(0, Command::Secondary { open: 0, force: false }), OK);
    assert_eq!(w.command_and_wait(1, Command::Primary { force: false }), OK);
    // What its own disk refused is read from the peer, and written to both.
    assert_eq!(outcome(&mut w, 1, SimOp::Read { sector: BLOCK, count: 8 }), ClientResult::Ok);
    assert_eq!(outcome(&mut w, 1, SimOp::Write { sector: BLOCK, count: 8, fua: false }), ClientResult::Ok);
    assert_eq!(w.command_and_wait(1, Command::Secondary { open: 0, force: false }), OK);
    w.reset();
    heals(&mut w);
}

/// A lone Primary with a bad disk was demoted and gave that disk up at once: the flush that its bitmap waited for was not waited
/// for, and its super block said Secondary without the bits. The log was not looked at, and nothing told what it had written.
#[test]
fn a_bad_disk_that_is_given_up_behind_a_demotion_knows_what_was_written() {
    for k in 0..60 {
        let d = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
        let mut w = pair_with(k, SECTORS, &net(), [d.clone(), d]);
        w.crash(1, false);
        w.run_for(secs(3));
        w.hooks.break_disk(0, DiskOp::Write, BLOCK + 80, 8);
        write(&mut w, 0, BLOCK, 8);
        write(&mut w, 0, BLOCK + 40, 8);
        w.request(0, SimOp::Write { sector: BLOCK + 80, count: 8, fua: false });
        // Somewhere between its write and the last super block that says so.
        w.run_for(Duration::from_micros(10 * k));
        w.hooks.mend_disks();
        w.command(0, Command::Secondary { open: 0, force: false });
        assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
        w.run_for(secs(1));
        w.attach(0);
        // What the bad copy took is given up with it.
        w.truth.spoiled = true;
        w.start(1);
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// A write that the Primary alone has, on a disk that goes before it hears that the peer's disk has refused it. Nobody is in a
/// new generation; but the peer's super block says that the Primary went on without it.
fn both_disks_fail(seed: u64) -> World {
    let mut w = pair(seed);
    assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
    w.run_for(ms(100));
    w.hooks.break_disk(1, DiskOp::Write, BLOCK, 8);
    w.hooks.keep(1, Wire::State);
    assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
    assert!(w.run_until(secs(1), |w| w.state(1).1 == DiskState::Diskless));
    w.hooks.mend_disks();
    w
}

/// The peer's disk was attached while the news that the Primary's had gone was on its way: without any comparison the
/// Outdated copy was called UpToDate, and the last write was gone.
#[test]
fn an_outdated_disk_attached_beside_none_stays_outdated() {
    for seed in 0..20 {
        let mut w = both_disks_fail(seed);
        w.hooks.keep(0, Wire::State);
        w.command(0, TEAR_OFF);
        w.run_for(ms(10));
        if seed % 2 == 0 {
            w.pass(1);
            w.run_for(ms(10));
        }
        w.attach(1);
        w.run_for(ms(10));
        w.pass(1);
        w.run_for(ms(10));
        w.pass(0);
        w.run_for(ms(10));
        read_outcome(&mut w);
        w.attach(0);
        w.run_for(secs(5));
        assert_eq!(read_outcome(&mut w), ClientResult::Ok, "{:?} {:?}", w.volume(0), w.volume(1));
        w.attach(1);
        heals(&mut w);
    }
}

/// The same when the peer comes back as a new process: the generation is the one that clients have seen, the copy is not.
#[test]
fn an_outdated_copy_that_connects_to_none_stays_outdated() {
    let mut w = both_disks_fail(3);
    assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
    w.crash(1, false);
    w.run_for(secs(3));
    w.pass(1);
    w.start(1);
    w.connect(1, &net());
    assert!(w.run_until(secs(10), |w| w.state(0).0 == ConnState::Connected), "{:?}", w.volume(0));
    assert_eq!(w.state(1).1, DiskState::Outdated);
    assert_eq!(read_outcome(&mut w), ClientResult::IoError);
    w.attach(0);
    heals(&mut w);
}

/// A target had finished, and before its last word was on its way a write failed there, which the disk passes on: what it
/// said was "Connected, Inconsistent". The source waited for it to finish, for ever. With a resync of nothing too.
#[test]
fn a_target_that_goes_bad_the_moment_it_is_finished() {
    for blocks in [0, 3] {
        let d = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
        let mut w = pair_with(2, SECTORS, &net(), [d.clone(), d]);
        w.crash(1, false);
        w.run_for(secs(3));
        for block in 0..blocks {
            assert_eq!(write(&mut w, 0, block * 16, 8), ClientResult::Ok);
        }
        w.start(1);
        w.run_for(ms(10));
        w.connect(1, &net());
        assert!(w.run_until(secs(10), |w| w.state(1).0 == ConnState::SyncTarget), "{:?}", w.volume(1));
        w.hooks.break_disk(1, DiskOp::Write, BLOCK, 8);
        let finished = |w: &World| w.state(1) == (ConnState::Connected, DiskState::UpToDate);
        assert!(w.run_until(secs(10), finished), "{:?}", w.volume(1));
        // It says so when its disk does.
        w.hooks.slow_disk(1, DiskOp::Meta, 0, 0);
        let tag = w.request(0, SimOp::Write { sector: BLOCK, count: 8, fua: false });
        assert!(w.run_until(secs(1), |w| w.state(1).1 == DiskState::Inconsistent), "{:?}", w.volume(1));
        assert_eq!(w.state(0).0, ConnState::SyncSource);
        w.hooks.mend_disks();
        w.let_go(false);
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        w.run_for(ms(500));
        assert_eq!(w.state(0).0, ConnState::Connected, "{:?}", w.volume(0));
        assert_eq!(w.volume(0).map(|s| s.pdsk), Some(DiskState::Inconsistent));
        assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
        w.run_for(secs(1));
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// A write went to the peer alone, whose disk took its time; meanwhile the own disk came back as the source, since the
/// peer's was known to be bad. The target sent a digest of the block as it was, the source had the same, and then the
/// write arrived.
#[test]
fn a_block_that_is_being_written_has_no_digest() {
    let d = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let net = NetConfig { csums_alg: "md5".into(), ..net() };
    let mut w = pair_with(1, SECTORS, &net, [d.clone(), d]);
    w.hooks.slow_disk(1, DiskOp::Write, BLOCK, 8);
    w.hooks.break_disk(1, DiskOp::Write, BLOCK + 800, 8);
    // It does not hear in time that the peer's copy is bad.
    w.hooks.keep(1, Wire::State);
    assert_eq!(write(&mut w, 0, BLOCK + 800, 8), ClientResult::Ok);
    w.hooks.mend_disks();
    assert_eq!(w.state(1).1, DiskState::Inconsistent);
    assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
    let tag = w.request(0, SimOp::Write { sector: BLOCK, count: 8, fua: false });
    w.run_for(ms(10));
    w.attach(0);
    w.run_for(ms(10));
    w.pass(1);
    assert!(w.run_until(secs(5), |w| w.state(0).0 == ConnState::SyncSource), "{:?}", w.volume(0));
    w.run_for(ms(500));
    w.let_go(false);
    wait(&mut w, tag);
    heals(&mut w);
    assert!(w.hooks.seen(1, Wire::CsumRsRequest) > 0, "the other blocks have one");
}

/// The target of a full sync was detached at the moment that it began: the source, which had agreed to both, took the sync
/// UUID for one that had never arrived and forgot it, while the target stored it. The two copies were strangers then.
#[test]
fn a_sync_uuid_that_was_taken_back_on_its_way() {
    let mut stored = 0;
    for seed in 0..200 {
        let mut w = pair(seed);
        assert_eq!(secondary(&mut w, 0), OK);
        w.weather.net_us = 1000;
        // Its state packet arrives in the middle.
        assert_eq!(primary(&mut w, 0), OK);
        w.command(1, Command::Invalidate(VOL));
        w.command(1, Command::Detach { vol: VOL, force: false });
        assert!(w.run_until(secs(5), |w| w.nodes[1].attached == 0));
        w.run_for(ms(20));
        w.reset();
        w.run_for(secs(3));
        w.attach(1);
        let source = uuids(&w, 0);
        stored += u64::from(!source.iter().any(|u| u.same_as(uuids(&w, 1)[0])));
        if w.state(0).0 == ConnState::StandAlone {
            panic!("seed {seed}: {:?}", reason(&w, 0));
        }
        heals(&mut w);
    }
    assert!(stored > 0, "the situation arises");
}

/// A copy was called bad while it stood alone, and its node died as it was told: Inconsistent on the disk, but nothing was marked
/// there, nor was a full sync asked for. It was UpToDate as soon as it met its peer.
#[test]
fn a_node_dies_as_its_copy_is_called_bad() {
    let mut called_bad = 0;
    for seed in 0..40 {
        let mut w = pair(seed);
        assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
        w.run_for(secs(6));
        disconnect(&mut w, 1);
        w.nodes[1].disk.write(BLOCK, &[7; 8], true);
        w.crash_after_metadata(1, seed % 4, false);
        w.command(1, Command::Invalidate(VOL));
        w.run_for(secs(1));
        w.crash(1, false);
        w.start(1);
        w.run_for(ms(10));
        if disk(&w, 1) == DiskState::Inconsistent {
            called_bad += 1;
            w.connect(1, &net());
            heals(&mut w);
        }
    }
    assert!(called_bad > 0, "the situation arises");
}
