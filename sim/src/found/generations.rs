//! Which data is newer: pasts that looked like one, and one that looked like two.

use model::config::settings::Handler;
use model::policy::{AfterSb0, AfterSb1, OnIoError};
use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::{ClientResult, Command, CommandResult, DiskConfig, NetConfig, VolIdx};

use super::healing::{both_again, outcome, peer_missed, target_finishes, write};
use crate::hooks::{Blocked, DiskOp};
use crate::scenario::{fresh_pair, fresh_pair_with, net};
use crate::world::{Answer, SimOp, World};
use replicator::wire::Command as Wire;

const SECTORS: u64 = 4_000;
const VOL: VolIdx = VolIdx(0);
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };
const PROMOTE: Command = Command::Primary { force: false };

fn apart(w: &mut World) {
    w.cut(true);
    w.run_for(Duration::from_secs(20));
}

/// Node 1 (index 0) is cut off from the node that has what its clients have written: it does not take its disk back before they
/// meet again.
fn old_disk_stays_away(mut w: World) {
    w.attach(0);
    w.run_for(Duration::from_secs(1));
    assert_eq!(w.state(0).1, DiskState::Diskless, "the old disk lacks what the peer has");
    w.block(1, Blocked::No);
    w.cut(false);
    both_again(&mut w);
}

/// Connects both again and makes sure that nothing is synchronized: two pasts.
fn split_brain_is_seen(w: &mut World) {
    w.cut(false);
    for n in 0..2 {
        if w.state(n).0 == ConnState::StandAlone {
            w.connect(n, &net());
        }
    }
    w.run_for(Duration::from_secs(20));
    let resyncs = (0..2).any(|n| w.state(n).0 > ConnState::Connected);
    assert!(!w.in_sync() && !resyncs, "{:?} {:?}", w.state(0), w.state(1));
}

/// The source of a full sync had agreed to it and went on alone; the target, which never heard that, was promoted with
/// the generation that both still had. The one that had written more was overwritten without a word.
#[test]
fn an_agreed_invalidate_that_the_asker_never_heard_of() {
    let mut w = fresh_pair(600, SECTORS);
    // The answer travels on this one.
    w.block(0, Blocked::Meta);
    w.command(1, Command::Invalidate(VOL));
    let agreed = |w: &World| w.state(0).0 == ConnState::SyncSource;
    assert!(w.run_until(Duration::from_secs(5), agreed));
    assert_eq!(w.state(1), (ConnState::Connected, DiskState::UpToDate));
    apart(&mut w);
    w.block(0, Blocked::No);
    write(&mut w, 0, 64);
    assert_eq!(w.command_and_wait(1, PROMOTE), CommandResult::Ok);
    write(&mut w, 1, 64);
    for n in 0..2 {
        w.command_and_wait(n, Command::Secondary { open: 0, force: false });
    }
    split_brain_is_seen(&mut w);
}

/// A policy told the Primary to step down for the peer's data. It cannot in the middle of connecting: it called the split
/// brain solved, ended without a word, and never called the handler that is to end what uses it. (Seen beside the kernel.)
#[test]
fn a_primary_that_loses_a_split_brain_calls_its_handler() {
    let mut w = fresh_pair(601, SECTORS);
    apart(&mut w);
    write(&mut w, 0, 64);
    assert_eq!(w.command_and_wait(1, PROMOTE), CommandResult::Ok);
    for sector in [64, 128, 256] {
        write(&mut w, 1, sector);
    }
    w.command_and_wait(1, Command::Secondary { open: 0, force: false });
    let policies = NetConfig {
        after_sb_0pri: AfterSb0::DiscardLeastChanges,
        after_sb_1pri: AfterSb1::CallPriLostAfterSb,
        ..net()
    };
    for n in 0..2 {
        w.command_and_wait(n, Command::Disconnect { force: true });
        w.connect(n, &policies);
    }
    w.cut(false);
    let ends = |w: &World| w.state(0).0 == ConnState::StandAlone;
    assert!(w.run_until(Duration::from_secs(20), ends), "{:?} {:?}", w.state(0), w.state(1));
    let calls = |h: Handler| w.hooks.handlers[0].calls.iter().filter(|(_, handler, _)| *handler == h).count();
    assert_eq!((calls(Handler::PriLostAfterSb), calls(Handler::SplitBrain)), (1, 1));
}

/// The peer alone had the last writes, and the name of its new generation did not arrive: the Primary took its old
/// disk back as if nothing had happened. What the peer alone has is not answered now before that name is there.
#[test]
fn a_diskless_primary_is_cut_off_before_it_hears_of_the_new_generation() {
    let mut w = fresh_pair(601, SECTORS);
    // Acknowledgements travel on the other socket.
    w.block(1, Blocked::Data);
    w.command(0, TEAR_OFF);
    let tag = w.request(0, SimOp::Write { sector: 64, count: 8, fua: true });
    let ended = |w: &World, r: ClientResult| {
        w.answers.iter().any(|(_, a)| matches!(a, Answer::Client(t, found, _) if *t == tag && *found == r))
    };
    w.run_for(Duration::from_millis(500));
    assert!(!ended(&w, ClientResult::Ok), "the peer has it, and that is all that is known");
    apart(&mut w);
    assert!(ended(&w, ClientResult::IoError));
    old_disk_stays_away(w);
}

/// A node without its disk was promoted; the name of the generation that its peer began for that did not arrive, what clients
/// wrote did. Cut off it took its old disk, of the generation before, for what they had seen last (life 8217104).
#[test]
fn a_node_promoted_without_its_disk_does_not_take_it_back_alone() {
    let mut w = fresh_pair(604, SECTORS);
    assert_eq!(w.command_and_wait(0, Command::Secondary { open: 0, force: false }), CommandResult::Ok);
    assert_eq!(w.command_and_wait(0, TEAR_OFF), CommandResult::Ok);
    apart(&mut w);
    w.cut(false);
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::Connected));
    w.block(1, Blocked::Data);
    assert_eq!(w.command_and_wait(0, PROMOTE), CommandResult::Ok);
    write(&mut w, 0, 64);
    apart(&mut w);
    old_disk_stays_away(w);
}

/// The own disk failed under a write that only a target had: the resync source, attached again, brought it the old
/// block over the answered one.
#[test]
fn a_write_on_a_target_alone_is_not_answered() {
    let mut w = fresh_pair(602, SECTORS);
    peer_missed(&mut w, 40);
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::SyncSource));
    w.hooks.break_disk(0, DiskOp::Write, 3_000, 8);
    let result = outcome(&mut w, 0, SimOp::Write { sector: 3_000, count: 8, fua: false });
    assert_eq!(result, ClientResult::IoError);
}

/// The disk failed, the peer went on, and after a restart the disk called itself UpToDate and was promoted alone.
#[test]
fn a_disk_that_failed_is_outdated() {
    let mut w = fresh_pair(603, SECTORS);
    w.hooks.break_disk(0, DiskOp::Write, 64, 8);
    write(&mut w, 0, 64);
    write(&mut w, 0, 128);
    assert_eq!(w.state(0).1, DiskState::Diskless);
    w.cut(true);
    w.crash(0, false);
    w.hooks.mend_disks();
    w.start(0);
    w.run_for(Duration::from_secs(1));
    assert_eq!(w.state(0).1, DiskState::Outdated);
    assert_ne!(w.command_and_wait(0, PROMOTE), CommandResult::Ok);
    w.cut(false);
    both_again(&mut w);
}

/// A resync whose end the source had not heard of; then a node without a disk was promoted on that old copy. What was
/// written there had no generation of its own, and a newer copy overwrote it.
#[test]
fn a_promotion_on_a_copy_with_an_unfinished_resync() {
    let mut w = fresh_pair(604, SECTORS);
    peer_missed(&mut w, 1);
    target_finishes(&mut w);
    w.crash(0, false);
    w.run_for(Duration::from_secs(3));
    assert_eq!(w.command_and_wait(1, PROMOTE), CommandResult::Ok);
    write(&mut w, 1, 64);
    w.command_and_wait(1, Command::Secondary { open: 0, force: false });
    w.command_and_wait(1, TEAR_OFF);
    w.start(0);
    w.connect(0, &net());
    w.run_for(Duration::from_secs(5));
    assert_eq!(w.state(0), (ConnState::Connected, DiskState::UpToDate));
    assert_eq!(w.command_and_wait(1, PROMOTE), CommandResult::Ok);
    write(&mut w, 1, 64);
    w.command_and_wait(1, Command::Secondary { open: 0, force: false });
    w.attach(1);
    split_brain_is_seen(&mut w);
}

/// Blocks that cannot be read at the source, others that cannot be written on the target: the resync ends, incomplete,
/// on both sides.
#[test]
fn a_resync_with_failed_blocks_ends_on_both_sides() {
    let disk = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let mut w = fresh_pair_with(605, SECTORS, disk);
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    for i in 0..40 {
        write(&mut w, 0, i * 64);
    }
    w.hooks.break_disk(0, DiskOp::Read, 64, 8);
    w.hooks.break_disk(1, DiskOp::Write, 3_000, 8);
    w.start(1);
    w.connect(1, &net());
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::SyncSource));
    w.request(0, SimOp::Write { sector: 3_000, count: 8, fua: false });
    w.run_for(Duration::from_secs(20));
    for n in 0..2 {
        assert_eq!(w.state(n).0, ConnState::Connected, "node {}", n + 1);
    }
    assert_eq!(w.state(1).1, DiskState::Inconsistent);
}

/// A Primary took its disk back beside a peer that had none, and wrote in the generation that the peer's detached disk
/// had too. That one came back next, as UpToDate, and the Primary read old blocks from it.
#[test]
fn a_primary_attaches_beside_a_diskless_peer() {
    let mut w = fresh_pair(606, SECTORS);
    // The Primary's disk goes before it notices that the peer is lost: both disks have the same generation.
    w.cut(true);
    w.command_and_wait(0, TEAR_OFF);
    w.run_for(Duration::from_secs(20));
    w.command_and_wait(1, TEAR_OFF);
    w.cut(false);
    w.run_for(Duration::from_secs(5));
    w.attach(0);
    w.run_for(Duration::from_secs(1));
    write(&mut w, 0, 64);
    w.command_and_wait(0, TEAR_OFF);
    w.attach(1);
    w.run_for(Duration::from_secs(1));
    outcome(&mut w, 0, SimOp::Read { sector: 64, count: 8 });
    both_again(&mut w);
}

/// A source that did not know whether its full sync had begun went on alone. Promoted once more it started another
/// generation, and the last one that both copies had fell out of its history: split brain passed for unrelated data,
/// which no discard-my-data resolves.
#[test]
fn a_source_is_promoted_again_and_again_beside_an_invalidate_cut_off() {
    let mut w = fresh_pair(607, SECTORS);
    w.weather.net_us = 2000;
    w.command(0, Command::Secondary { open: 0, force: false });
    w.command(1, Command::Invalidate(VOL));
    assert!(w.run_until(Duration::from_secs(5), |w| w.state(0).0 == ConnState::SyncSource));
    apart(&mut w);
    w.weather.net_us = 50;
    for n in [0, 1, 0, 0, 0] {
        assert_eq!(w.command_and_wait(n, PROMOTE), CommandResult::Ok);
        write(&mut w, n, 64);
        w.crash(n, false);
        w.start(n);
        w.connect(n, &net());
        w.run_for(Duration::from_secs(1));
    }
    w.cut(false);
    w.run_for(Duration::from_secs(20));
    let core = w.nodes[0].core.as_ref().expect("it runs");
    let reason = core.snapshot(w.now).standalone_reason.unwrap_or_default();
    assert!(reason.starts_with("Split-Brain"), "{reason}");
    w.truth.discard(1);
    for n in 0..2 {
        w.command(n, Command::Disconnect { force: true });
        let net = NetConfig { discard_my_data: n == 1, ..net() };
        w.connect(n, &net);
    }
    both_again(&mut w);
}

/// The source was killed before its sync UUID arrived, and went on alone before the next handshake. The target's own
/// generation had left the place where rule 71 looks for it: a full resync for two blocks.
#[test]
fn a_source_goes_on_alone_when_its_sync_uuid_was_lost() {
    let mut w = source_of_one_block(608);
    sync_uuid_is_on_its_way(&mut w);
    two_blocks_are_brought(&mut w);
}

/// The same with a target that was finished, which the source did not write down.
#[test]
fn a_source_goes_on_alone_when_it_missed_the_end() {
    let mut w = source_of_one_block(609);
    w.connect(1, &net());
    target_finishes(&mut w);
    two_blocks_are_brought(&mut w);
}

/// The same, and then its disk failed: it became target of the older copy, which its history names. Interrupted, each of the
/// two looked like an ancestor of the other, which passed for unrelated data (life 4030081).
#[test]
fn a_source_that_lost_its_disk_becomes_target_of_the_older_copy() {
    let mut w = source_of_one_block(612);
    sync_uuid_is_on_its_way(&mut w);
    w.crash(0, false);
    w.run_for(Duration::from_secs(3));
    w.start(0);
    w.run_for(Duration::from_secs(1));
    assert_eq!(w.command_and_wait(0, PROMOTE), CommandResult::Ok);
    w.hooks.break_disk(0, DiskOp::Write, 128, 8);
    assert_eq!(outcome(&mut w, 0, SimOp::Write { sector: 128, count: 8, fua: false }), ClientResult::IoError);
    assert_eq!(w.state(0).1, DiskState::Inconsistent);
    w.hooks.mend_disks();
    w.command_and_wait(0, Command::Secondary { open: 0, force: false });
    // Its bad copy is given up with all that was answered on it alone.
    w.truth.discard(0);
    w.weather.disk_us = 20_000;
    w.connect(0, &net());
    assert!(
        w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::SyncTarget),
        "{:?}",
        w.state(0)
    );
    apart(&mut w);
    assert_eq!(w.state(0).1, DiskState::Inconsistent, "the resync has not ended");
    w.weather.disk_us = 50;
    w.cut(false);
    both_again(&mut w);
}

/// The source stores its sync UUID; what it sends then is slow.
fn sync_uuid_is_on_its_way(w: &mut World) {
    w.connect(1, &net());
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::SyncSource));
    w.weather.net_us = 100_000;
    w.run_for(Duration::from_millis(2));
    w.weather.net_us = 50;
    assert!(w.state(1).0 < ConnState::SyncTarget);
}

/// A pair without a Primary, whose activity log would mark more; node 1 has a block that node 2 is going to miss.
fn source_of_one_block(seed: u64) -> World {
    let pass_on = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let mut w = fresh_pair_with(seed, SECTORS, pass_on);
    w.run_for(Duration::from_secs(1));
    w.crash(1, false);
    w.run_for(Duration::from_secs(3));
    write(&mut w, 0, 64);
    w.command_and_wait(0, Command::Secondary { open: 0, force: false });
    w.start(1);
    w
}

/// The source is killed and promoted alone; then a handshake brings what the target misses and nothing else.
fn two_blocks_are_brought(w: &mut World) {
    w.crash(0, false);
    w.run_for(Duration::from_secs(3));
    w.start(0);
    w.run_for(Duration::from_secs(1));
    assert_eq!(w.command_and_wait(0, PROMOTE), CommandResult::Ok);
    write(w, 0, 128);
    w.hooks.record = true;
    w.connect(0, &net());
    both_again(w);
    let brought = w.hooks.data_bytes(0, Wire::RsDataReply);
    assert!(brought <= 2 * 8 * 512, "{brought} bytes");
}

/// A flush was answered the moment its peer was lost, by the own disk alone, before the new generation was on it: killed
/// then, the node came back in the generation of a peer whose cache had lost what the flush was for.
#[test]
fn a_flush_waits_for_the_generation_that_it_is_kept_in() {
    let mut w = fresh_pair(610, SECTORS);
    w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
    w.run_for(Duration::from_millis(5));
    w.block(1, Blocked::Both);
    let tag = w.request(0, SimOp::Flush);
    w.run_for(Duration::from_millis(50));
    w.hooks.slow_disk(0, DiskOp::Meta, 0, 1);
    let answered = |w: &World| {
        w.answers.iter().any(|(_, a)| matches!(a, Answer::Client(t, ClientResult::Ok, _) if *t == tag))
    };
    assert!(w.run_until(Duration::from_secs(20), |w| w.state(0).0 < ConnState::Connected));
    w.run_for(Duration::from_secs(1));
    assert!(!answered(&w), "the generation is not stable");
    w.let_go(false);
    assert!(w.run_until(Duration::from_secs(1), answered));
    w.block(1, Blocked::No);
    both_again(&mut w);
}

/// The target told the source that it was finished before that was on its disk. Both were killed, the source had begun a
/// new generation by then, and the target was in the middle of a resync nobody remembered: a full one.
#[test]
fn a_target_is_finished_on_its_disk_first() {
    let mut w = fresh_pair(611, SECTORS);
    peer_missed(&mut w, 20);
    let acknowledged = |w: &World| {
        let left = w.nodes[0].core.as_ref().expect("it runs").marked_blocks(VOL);
        w.state(0).0 == ConnState::SyncSource && left == 0
    };
    assert!(w.run_until(Duration::from_secs(10), acknowledged));
    w.hooks.slow_disk(1, DiskOp::Meta, 0, 1);
    w.run_for(Duration::from_millis(900));
    assert_eq!(w.state(0).0, ConnState::SyncSource);
    w.let_go(false);
    both_again(&mut w);
}

/// A Primary's disk went, the write on its way was answered because the peer had it, and the node died before the peer
/// knew of the disk: as a crashed Primary of the same generation it became the source and overwrote that write.
#[test]
fn a_primary_dies_right_after_its_disk() {
    for delay_us in 0..60 {
        let mut w = fresh_pair(600 + delay_us, SECTORS);
        w.hooks.slow_disk(0, DiskOp::Write, 64, 8);
        w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
        w.run_for(Duration::from_millis(50));
        w.command(0, Command::Detach { vol: VOL, force: true });
        w.run_for(Duration::from_micros(delay_us * 5));
        w.crash(0, false);
        w.let_go(false);
        w.run_for(Duration::from_secs(3));
        both_again(&mut w);
    }
}

/// The initial sync was skipped, and what the peer had said before arrived afterwards: it passed for Inconsistent until it
/// said otherwise, and was not sent what was written meanwhile (life 505341).
#[test]
fn a_peer_that_skips_the_initial_sync_is_sent_everything_from_then_on() {
    for seed in 0..20 {
        let mut w = World::new(seed, SECTORS, DiskConfig::default());
        w.weather.net_us = 2000;
        w.weather.lag = [30, 0];
        for n in 0..2 {
            w.start(n);
            w.connect(n, &net());
        }
        let connected = |w: &World| (0..2).all(|n| w.state(n).0 == ConnState::Connected);
        assert!(w.run_until(Duration::from_secs(20), connected), "{:?}", w.volume(1));
        w.run_for(Duration::from_millis(100));
        w.command_and_wait(0, Command::NewCurrentUuid { vol: VOL, clear_bitmap: true });
        assert_eq!(w.command_and_wait(0, PROMOTE), CommandResult::Ok);
        w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
        w.run_for(Duration::from_secs(1));
        assert!(w.in_sync() && w.is_idle(), "{:?}", w.volume(0));
        w.check_disks();
    }
}
