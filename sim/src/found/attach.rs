//! Disks that come and go on an established connection, at every moment.

use model::policy::OnIoError;
use model::result_code::StateResult;
use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::meta::layout::{SECTORS_PER_BITMAP_PAGE, SECTORS_PER_BITMAP_SECTOR};
use replicator::{ClientResult, Command, CommandResult, DiskConfig, ResizeWish, VolIdx};

use super::healing::{both_again, outcome, peer_missed, target_finishes, write};
use crate::hooks::DiskOp;
use crate::scenario::{fresh_pair, fresh_pair_with, net, scribble};
use crate::scenarios::{link_up, skip_initial_sync};
use crate::world::{Answer, SimOp, World};
use replicator::wire::Command as Wire;

const SECTORS: u64 = 4_000;
const VOL: VolIdx = VolIdx(0);
const DETACH: Command = Command::Detach { vol: VOL, force: false };
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };

fn no_bits_left(w: &World) {
    for n in &w.nodes {
        assert_eq!(n.core.as_ref().expect("it runs").marked_blocks(VOL), 0);
    }
}

/// The peer's disk went while its state packet crossed the attach here: the old disk became UpToDate without any
/// comparison, under clients that had seen newer data.
#[test]
fn the_good_disk_goes_while_the_old_one_is_attached() {
    for delay_us in 0..60 {
        let mut w = fresh_pair(100 + delay_us, SECTORS);
        assert_eq!(w.command_and_wait(0, DETACH), CommandResult::Ok);
        write(&mut w, 0, 64);
        w.attach(0);
        w.run_for(Duration::from_micros(delay_us * 10));
        w.command(1, TEAR_OFF);
        // The oracle panics if this returns what was there before.
        outcome(&mut w, 0, SimOp::Read { sector: 64, count: 8 });
        both_again(&mut w);
        no_bits_left(&w);
    }
}

/// A disk came back larger to a peer whose disk had grown before, so that the device grew in the middle of the attach. The
/// peer waited for the bitmap of the resync of the new part, of which the other node knew nothing.
#[test]
fn the_device_grows_by_the_disk_that_is_attached() {
    let wish = ResizeWish { limit_sectors: 0, assume_clean: false, assume_peer_has_space: false };
    for (n, k) in (0..2).flat_map(|n| (0..60).map(move |k| (n, k))) {
        let mut w = fresh_pair(150 + k, SECTORS);
        w.weather.disk_us = 2000;
        w.grow(0, 800);
        w.grow(1, 800);
        w.command(1 - n, Command::Resize(VOL, wish));
        w.command(0, Command::Secondary { open: 0, force: false });
        // The news of the peer's larger disk goes with the disk that is looked at for it.
        w.run_for(Duration::from_micros(k * 200));
        w.command(n, TEAR_OFF);
        w.run_for(Duration::from_millis(500));
        both_again(&mut w);
        no_bits_left(&w);
    }
}

/// Attach, detach, attach, while the packets of all that were still on their way: the answer to the first attach was
/// taken for that to the second, bitmap and all.
#[test]
fn attached_and_detached_and_attached_within_a_round_trip() {
    for seed in 200..260 {
        let mut w = fresh_pair(seed, SECTORS);
        let n = (seed % 2) as usize;
        w.command_and_wait(n, DETACH);
        scribble(&mut w, 0, 20, SECTORS);
        w.weather.net_us = 2000;
        w.attach(n);
        scribble(&mut w, 0, 3, SECTORS);
        w.command(n, TEAR_OFF);
        scribble(&mut w, 0, 3, SECTORS);
        w.attach(n);
        scribble(&mut w, 0, 20, SECTORS);
        both_again(&mut w);
        no_bits_left(&w);
    }
}

/// The source lost its disk before the resync began; the peer's copy, known to be older, passed for UpToDate.
#[test]
fn the_source_loses_its_disk_before_the_resync_begins() {
    for delay_us in 0..60 {
        let mut w = fresh_pair(300 + delay_us, SECTORS);
        w.command_and_wait(1, DETACH);
        write(&mut w, 0, 128);
        w.attach(1);
        w.run_for(Duration::from_micros(delay_us * 10));
        w.command(0, TEAR_OFF);
        outcome(&mut w, 0, SimOp::Write { sector: 256, count: 8, fua: false });
        outcome(&mut w, 0, SimOp::Read { sector: 128, count: 8 });
        both_again(&mut w);
        no_bits_left(&w);
    }
}

/// The target was finished and lost its disk before the source had noticed. Attached again, the source corrected its
/// generations before it showed them (rule 34), the target saw no difference, and the source waited for a bitmap.
#[test]
fn the_target_loses_its_disk_the_moment_it_is_finished() {
    for seed in 400..420 {
        let mut w = finished_target_loses_disk(seed);
        w.run_for(Duration::from_secs(2));
        w.attach(1);
        both_again(&mut w);
        no_bits_left(&w);
    }
}

/// The same; then each node goes on alone. The source had stayed in the generation that the target had reached, so
/// the two pasts could not be told apart, and one overwrote the other.
#[test]
fn split_brain_after_the_target_was_finished_is_seen() {
    for seed in 420..440 {
        let mut w = finished_target_loses_disk(seed);
        write(&mut w, 0, 64);
        for n in 0..2 {
            w.command_and_wait(n, Command::Disconnect { force: true });
        }
        w.attach(1);
        w.run_for(Duration::from_secs(1));
        assert_eq!(w.command_and_wait(1, Command::Primary { force: false }), CommandResult::Ok);
        write(&mut w, 1, 64);
        w.command_and_wait(1, Command::Secondary { open: 0, force: false });
        for n in 0..2 {
            w.connect(n, &net());
        }
        w.run_for(Duration::from_secs(10));
        let resyncs = (0..2).any(|n| w.state(n).0 > ConnState::Connected);
        assert!(!w.in_sync() && !resyncs, "{:?} {:?}", w.state(0), w.state(1));
    }
}

fn finished_target_loses_disk(seed: u64) -> World {
    let mut w = fresh_pair(seed, SECTORS);
    peer_missed(&mut w, 1);
    target_finishes(&mut w);
    let delay = w.rng.below(200);
    w.run_for(Duration::from_micros(delay));
    w.command(1, TEAR_OFF);
    w.run_for(Duration::from_secs(1));
    w
}

/// A Primary with neither disk nor peer answered flushes with Ok; what they were to make durable was in the cache of
/// the disk that had gone.
#[test]
fn a_flush_without_any_disk_fails() {
    let mut w = fresh_pair(500, SECTORS);
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    w.request(0, SimOp::Write { sector: 0, count: 8, fua: false });
    w.run_for(Duration::from_millis(50));
    assert_eq!(w.command_and_wait(0, TEAR_OFF), CommandResult::Ok);
    assert_eq!(outcome(&mut w, 0, SimOp::Flush), ClientResult::IoError);
}

fn pass_on() -> DiskConfig {
    DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() }
}

/// The flush at the end of a resync failed; with pass_on the disk stayed, and the resync never ended.
#[test]
fn the_last_flush_of_a_resync_fails() {
    let mut w = fresh_pair_with(501, SECTORS, pass_on());
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    write(&mut w, 0, 64);
    w.start(1);
    w.nodes[1].faults.flushes = 1;
    w.connect(1, &net());
    w.run_for(Duration::from_secs(10));
    w.nodes[1].faults.flushes = 0;
    assert_eq!(w.state(1).1, DiskState::Diskless, "nobody knows what a failed flush lost");
    both_again(&mut w);
}

/// `primary --force` on a Primary whose only copy went bad changed the generation and not the disk. Then it did, and
/// forgot what the bitmap is relative to: the peer's own generation was nowhere to be found, which looked like split
/// brain.
#[test]
fn a_primary_with_a_bad_copy_is_forced() {
    for seed in 550..560 {
        let mut w = fresh_pair_with(seed, SECTORS, pass_on());
        let idle_ms = w.rng.below(100);
        w.run_for(Duration::from_millis(idle_ms));
        w.crash(1, false);
        w.run_for(Duration::from_secs(3));
        w.nodes[0].faults.writes = 1;
        let failed = SimOp::Write { sector: 0, count: 8, fua: false };
        assert_eq!(outcome(&mut w, 0, failed), ClientResult::IoError);
        w.nodes[0].faults.writes = 0;
        for _ in 0..1 + seed % 2 {
            assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), CommandResult::Ok);
            assert_eq!(w.state(0).1, DiskState::UpToDate);
            w.nodes[0].faults.writes = 1;
            assert_eq!(outcome(&mut w, 0, failed), ClientResult::IoError);
            w.nodes[0].faults.writes = 0;
        }
        assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), CommandResult::Ok);
        both_again(&mut w);
    }
}

/// The resync that an invalidate asks for never began: the copy came back UpToDate, with every bit set.
#[test]
fn an_invalidate_is_not_forgotten() {
    for seed in 510..530 {
        let mut w = fresh_pair(seed, SECTORS);
        w.command(0, Command::InvalidateRemote(VOL));
        let begins = |w: &World| w.state(0).0 == ConnState::StartingSyncS;
        assert!(w.run_until(Duration::from_secs(5), begins));
        if seed % 2 == 0 {
            w.crash(1, false);
        } else {
            w.command(1, TEAR_OFF);
        }
        w.run_for(Duration::from_secs(3));
        w.hooks.record = true;
        both_again(&mut w);
        no_bits_left(&w);
        let brought = w.hooks.data_bytes(0, Wire::RsDataReply);
        assert_eq!(brought, SECTORS * 512, "the whole copy is brought again");
    }
}

/// The own disk failed a discard that the peer carried out. It was answered, the disk stayed UpToDate, and its clients
/// went on reading the old block.
#[test]
fn a_disk_that_fails_a_discard_goes() {
    for seed in 540..542 {
        let mut w = fresh_pair(seed, SECTORS);
        for _ in 0..seed % 2 {
            // Every other discard is sent as zeroes.
            write(&mut w, 0, 64);
        }
        write(&mut w, 0, 64);
        w.hooks.break_disk(0, DiskOp::Write, 64, 8);
        assert_eq!(outcome(&mut w, 0, SimOp::Discard { sector: 64, count: 8 }), ClientResult::Ok);
        w.run_for(Duration::from_millis(100));
        assert_eq!(outcome(&mut w, 0, SimOp::Read { sector: 64, count: 8 }), ClientResult::Ok);
        assert_eq!(w.state(0).1, DiskState::Diskless);
        w.hooks.mend_disks();
        both_again(&mut w);
        no_bits_left(&w);
    }
}

/// The bitmap page of an evicted extent could not be written: the activity log's block waited for it for ever, and so did
/// the write and the detach.
#[test]
fn the_bitmap_page_of_an_evicted_extent_fails() {
    let disk = DiskConfig { al_extents: 67, ..DiskConfig::default() };
    let mut w = fresh_pair_with(570, 70 * 8192, disk);
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    for extent in 0..67 {
        write(&mut w, 0, extent * 8192);
    }
    w.hooks.break_disk(0, DiskOp::Meta, 0, 0);
    let cold = SimOp::Write { sector: 68 * 8192, count: 8, fua: false };
    assert_eq!(outcome(&mut w, 0, cold), ClientResult::IoError);
    w.run_for(Duration::from_secs(1));
    assert_eq!(w.state(0).1, DiskState::Diskless);
    w.hooks.mend_disks();
    both_again(&mut w);
}

/// `outdate` of a disk whose attach was being negotiated made it UpToDate, which is what a connected disk has to be.
#[test]
fn an_outdate_during_the_attach_does_not_make_the_old_disk_good() {
    let mut w = fresh_pair(540, SECTORS);
    assert_eq!(w.command_and_wait(0, DETACH), CommandResult::Ok);
    write(&mut w, 0, 64);
    w.attach(0);
    let id = w.command(0, Command::Outdate(VOL));
    assert_eq!(w.state(0).1, DiskState::Negotiating);
    let refused = Answer::Command(id, CommandResult::State(StateResult::LowerThanOutdated));
    assert_eq!(w.take_answer(|a| *a == refused), Some(refused.clone()));
    both_again(&mut w);
    no_bits_left(&w);
}

/// The same of a copy whose resync had just lost its source.
#[test]
fn an_outdate_of_half_a_copy_does_not_make_it_good() {
    let mut w = fresh_pair(541, SECTORS);
    w.command(1, Command::Invalidate(VOL));
    assert!(w.run_until(Duration::from_secs(5), |w| w.state(1).0 == ConnState::SyncTarget));
    w.command(0, TEAR_OFF);
    w.run_for(Duration::from_millis(100));
    assert_eq!(w.state(1), (ConnState::Connected, DiskState::Inconsistent));
    let refused = CommandResult::State(StateResult::LowerThanOutdated);
    assert_eq!(w.command_and_wait(1, Command::Outdate(VOL)), refused);
    assert_eq!(w.state(1).1, DiskState::Inconsistent);
    both_again(&mut w);
    no_bits_left(&w);
}

/// After a split both disks were attached at the same moment. Each state crossed the other's attach, so both became UpToDate
/// unseen; then each took the other's refused comparison for an aborted attach, and its next state for a disk that had
/// joined: Connected, both UpToDate, and different.
#[test]
fn two_pasts_attached_at_once_are_not_in_sync() {
    for delay_us in 0..40 {
        let mut w = fresh_pair(640 + delay_us, SECTORS);
        w.cut(true);
        w.run_for(Duration::from_secs(5));
        write(&mut w, 0, 64);
        assert_eq!(w.command_and_wait(0, Command::Secondary { open: 0, force: false }), CommandResult::Ok);
        assert_eq!(w.command_and_wait(1, Command::Primary { force: false }), CommandResult::Ok);
        write(&mut w, 1, 128);
        assert_eq!(w.command_and_wait(1, Command::Secondary { open: 0, force: false }), CommandResult::Ok);
        for n in 0..2 {
            assert_eq!(w.command_and_wait(n, DETACH), CommandResult::Ok);
        }
        w.cut(false);
        let met = |w: &World| (0..2).all(|n| w.state(n).0 == ConnState::Connected);
        assert!(w.run_until(Duration::from_secs(20), met));
        w.weather.net_us = 2000;
        w.attach(0);
        w.run_for(Duration::from_micros(delay_us * 50));
        w.attach(1);
        w.run_for(Duration::from_secs(10));
        assert!(!w.in_sync(), "two pasts passed for one");
    }
}

/// A Primary without a disk lost its peer in the middle of writes, and the peer its disk, which had not taken the super block
/// with the generation that these writes were to belong to; nor had it the writes, but it had their bits. Attached again, the
/// disks had the generation before in common: two UpToDate copies with bits that nothing took away.
#[test]
fn no_bits_without_their_generation() {
    let disk = DiskConfig { disk_timeout: Duration::from_secs(5), ..DiskConfig::default() };
    for delay_us in 0..60 {
        let mut w = fresh_pair_with(700 + delay_us, SECTORS, disk.clone());
        write(&mut w, 0, 64);
        assert_eq!(w.command_and_wait(0, Command::Secondary { open: 0, force: false }), CommandResult::Ok);
        assert_eq!(w.command_and_wait(0, DETACH), CommandResult::Ok);
        w.reset();
        assert!(w.run_until(Duration::from_secs(20), |w| w.state(1).0 == ConnState::WFReportParams));
        // A super block of before the generation is on its way, and stays there.
        w.hooks.slow_disk(1, DiskOp::Meta, 0, 0);
        let met = |w: &World| (0..2).all(|n| w.state(n).0 == ConnState::Connected);
        assert!(w.run_until(Duration::from_secs(20), met));
        w.run_for(Duration::from_secs(1));
        assert_eq!(w.command_and_wait(0, Command::Primary { force: false }), CommandResult::Ok);
        for sector in [64, 640] {
            w.request(0, SimOp::Write { sector, count: 8, fua: false });
        }
        w.run_for(Duration::from_secs(1));
        let marked = w.nodes[1].core.as_ref().expect("it runs").marked_blocks(VOL);
        assert_eq!(marked, 2, "the writes have arrived");
        w.reset();
        let gave_up = |w: &World| w.state(1).1 == DiskState::Diskless;
        assert!(w.run_until(Duration::from_secs(20), gave_up), "{:?} {:?}", w.state(0), w.state(1));
        w.let_go(false);
        assert!(w.run_until(Duration::from_secs(20), met));
        w.run_for(Duration::from_secs(1));
        w.weather.net_us = 1000;
        let first = (delay_us % 2) as usize;
        w.attach(first);
        w.run_for(Duration::from_micros(delay_us * 50));
        w.attach(1 - first);
        both_again(&mut w);
        no_bits_left(&w);
    }
}

/// The metadata device ended in the middle of the last page of the bitmap, and the page was written whole: beyond the end of a
/// block device, which is an error, and the disk was detached.
#[test]
fn a_metadata_device_ends_in_the_middle_of_a_page() {
    // A page and three sectors of bitmap, of which the device needs two.
    const META_SECTORS: u64 = 72 + 8 + 3;
    const SECTORS: u64 = SECTORS_PER_BITMAP_PAGE + 2 * SECTORS_PER_BITMAP_SECTOR - 5;
    let mut w = World::new(1, SECTORS, DiskConfig::default());
    for n in 0..2 {
        w.nodes[n].make_external(META_SECTORS);
        w.start(n);
    }
    link_up(&mut w, &net());
    skip_initial_sync(&mut w, 0);
    assert_eq!(w.command_and_wait(0, Command::Primary { force: false }), CommandResult::Ok);
    w.run_for(Duration::from_millis(100));
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    write(&mut w, 0, SECTORS - 8);
    w.crash(0, true);
    both_again(&mut w);
    no_bits_left(&w);
}
