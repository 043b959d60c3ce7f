//! Where several failures meet, as in a whole life: a second one before the first is noticed, or answers that come after
//! what they answer is over.

use model::policy::OnIoError;
use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::{Command, CommandResult, DiskConfig, VolIdx};

use super::healing::{both_again, outcome, peer_missed, target_finishes, write};
use crate::hooks::{BeforeResync, Blocked, DiskOp};
use crate::scenario::{fresh_pair, fresh_pair_with, net};
use crate::world::{Answer, SimOp, World};
use replicator::wire::Command as Wire;

const SECTORS: u64 = 4_000;
const VOL: VolIdx = VolIdx(0);
const DETACH: Command = Command::Detach { vol: VOL, force: false };
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };
const PROMOTE: Command = Command::Primary { force: false };

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Two pasts, and nobody has said which counts.
fn nothing_is_overwritten(w: &mut World) {
    w.run_for(Duration::from_secs(20));
    let resyncs = (0..2).any(|n| w.state(n).0 > ConnState::Connected);
    assert!(!w.in_sync() && !resyncs, "{:?} {:?}", w.state(0), w.state(1));
}

/// Not the core: what waited on a stopped socket stayed behind when another one was stopped instead, and later packets
/// overtook it. Nodes missed state packets that TCP would have brought.
#[test]
fn a_stream_has_no_holes() {
    let mut w = fresh_pair(700, SECTORS);
    w.block(0, Blocked::Data);
    w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
    w.run_for(ms(10));
    assert_eq!(w.nodes[1].disk.read(64), 0);
    w.block(0, Blocked::Meta);
    w.run_for(ms(10));
    assert_ne!(w.nodes[1].disk.read(64), 0);
    w.block(0, Blocked::No);
    both_again(&mut w);
}

/// Not the core: the target had finished, its source died without hearing of it, and what the source had answered alone
/// before the resync counted as overwritten when the other one went on.
#[test]
fn a_finished_target_goes_on_for_a_source_that_did_not_hear() {
    let mut w = fresh_pair(701, SECTORS);
    peer_missed(&mut w, 3);
    target_finishes(&mut w);
    w.crash(0, false);
    w.run_for(Duration::from_secs(3));
    assert_eq!(w.command_and_wait(1, PROMOTE), CommandResult::Ok);
    write(&mut w, 1, 640);
    w.start(0);
    w.connect(0, &net());
    both_again(&mut w);
}

/// Not the core: the peer lost its cache, and the own disk went before anybody knew. What is left is what was flushed, as
/// after a loss of power on both nodes.
#[test]
fn both_copies_fail_at_once() {
    for seed in 710..720 {
        let mut w = fresh_pair(seed, SECTORS);
        write(&mut w, 0, 64);
        for i in 0..20 {
            outcome(&mut w, 0, SimOp::Write { sector: 128 + 8 * i, count: 8, fua: false });
        }
        w.crash(1, true);
        w.command(0, TEAR_OFF);
        w.start(1);
        w.connect(1, &net());
        w.run_for(Duration::from_secs(10));
        assert_eq!(w.state(0), (ConnState::Connected, DiskState::Diskless));
        outcome(&mut w, 0, SimOp::Read { sector: 64, count: 300 });
        both_again(&mut w);
    }
}

/// Not the core: a Primary that was served by its peer took up its own disk again, after the peer had been promoted behind
/// its back. Both were held to what either wrote.
#[test]
fn a_primary_takes_up_its_own_disk_beside_another_primary() {
    let mut w = fresh_pair(702, SECTORS);
    w.run_for(ms(100));
    w.freeze(0, ms(500));
    w.command(0, TEAR_OFF);
    assert_eq!(w.state(0).1, DiskState::Diskless);
    w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
    w.run_for(ms(1));
    w.reset();
    w.run_for(ms(50));
    w.attach(0);
    assert_eq!(w.command_and_wait(1, PROMOTE), CommandResult::Ok);
    w.cut(true);
    w.run_for(Duration::from_secs(2));
    assert_eq!(w.state(0).1, DiskState::UpToDate, "its clients have had no answer from the peer alone");
    write(&mut w, 0, 128);
    outcome(&mut w, 1, SimOp::Read { sector: 64, count: 100 });
    write(&mut w, 1, 192);
    outcome(&mut w, 0, SimOp::Read { sector: 64, count: 200 });
    w.cut(false);
    for n in 0..2 {
        w.connect(n, &net());
    }
    nothing_is_overwritten(&mut w);
}

/// The peer was source of a full sync to this copy, which had not begun, when this disk went. It took the clients' writes
/// in the generation that both disks had, and the Primary took its old disk back as if it had seen nothing newer.
#[test]
fn a_diskless_primary_and_an_invalidate_that_did_not_begin() {
    let mut w = fresh_pair(703, SECTORS);
    w.block(0, Blocked::Data);
    w.command(1, Command::InvalidateRemote(VOL));
    w.command(0, TEAR_OFF);
    assert!(w.run_until(ms(100), |w| w.state(1).0 == ConnState::SyncSource));
    w.block(0, Blocked::No);
    w.run_for(ms(100));
    write(&mut w, 0, 64);
    w.command_and_wait(0, Command::Disconnect { force: true });
    w.attach(0);
    w.run_for(ms(100));
    assert_eq!(w.state(0).1, DiskState::Diskless, "the old disk lacks what the peer has");
    both_again(&mut w);
}

/// The peer named its new generation to a Primary whose disk had gone before that generation was on its own disk. The
/// Primary answered a write that the peer had already, both lost power, and the old disk was the newer one.
#[test]
fn a_generation_is_named_when_it_is_stable() {
    let mut w = fresh_pair(707, SECTORS);
    w.hooks.slow_disk(0, DiskOp::Write, 64, 8);
    let tag = w.request(0, SimOp::Write { sector: 64, count: 8, fua: true });
    w.run_for(ms(100));
    w.hooks.slow_disk(1, DiskOp::Meta, 0, 1);
    w.command(0, TEAR_OFF);
    let ended = |w: &World| w.answers.iter().any(|(_, a)| matches!(a, Answer::Client(t, ..) if *t == tag));
    assert!(!w.run_until(ms(500), ended), "answered in a generation that may be forgotten");
    w.let_go(false);
    assert!(w.run_until(ms(500), ended));
    both_again(&mut w);
}

/// The target of a resync asked to detach. The source agreed and went on in a new generation, and the target, which had
/// written its last block, finished before the answer came: in the source's new generation, of which it had nothing.
#[test]
fn a_target_finishes_in_the_generation_of_its_resync() {
    let mut w = fresh_pair(704, SECTORS);
    peer_missed(&mut w, 3);
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(1).0 == ConnState::SyncTarget));
    // Neither the last ping's answer nor that to the question arrives.
    w.block(0, Blocked::Meta);
    w.run_for(ms(30));
    assert_eq!(w.state(1).0, ConnState::SyncTarget);
    w.command(1, DETACH);
    assert!(w.run_until(ms(100), |w| w.state(0).0 == ConnState::Connected));
    write(&mut w, 0, 640);
    w.block(0, Blocked::No);
    assert!(w.run_until(ms(100), |w| w.state(1).1 == DiskState::Diskless));
    w.crash(0, false);
    w.run_for(Duration::from_secs(3));
    w.attach(1);
    assert_eq!(w.command_and_wait(1, PROMOTE), CommandResult::Ok);
    write(&mut w, 1, 64);
    w.start(0);
    w.connect(0, &net());
    nothing_is_overwritten(&mut w);
}

/// The target had written a resync block and told so, but its word was slow. Meanwhile a write to that block failed on the
/// source's disk, which was attached again with the block marked; the word cleared the mark.
#[test]
fn a_late_word_of_an_earlier_resync_clears_nothing() {
    let mut w = fresh_pair(705, SECTORS);
    peer_missed(&mut w, 3);
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(1).0 == ConnState::SyncTarget));
    w.block(1, Blocked::Meta);
    w.run_for(ms(30));
    w.hooks.break_disk(0, DiskOp::Write, 64, 8);
    w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
    assert!(w.run_until(ms(100), |w| w.nodes[0].attached == 0));
    w.hooks.mend_disks();
    w.attach(0);
    w.block(1, Blocked::No);
    both_again(&mut w);
}

/// The sync UUID was lost, and forced promotions began so many generations that the target's was no longer in the history:
/// two related copies were "unrelated", for good.
#[test]
fn a_lost_sync_uuid_is_known_after_generations() {
    let disk = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let mut w = fresh_pair_with(706, SECTORS, disk);
    w.hooks.keep(0, Wire::SyncUuid);
    peer_missed(&mut w, 1);
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::SyncSource));
    w.cut(true);
    w.pass(0);
    w.run_for(Duration::from_secs(20));
    for _ in 0..3 {
        w.hooks.break_disk(0, DiskOp::Read, 2_000, 8);
        outcome(&mut w, 0, SimOp::Read { sector: 2_000, count: 8 });
        assert_eq!(w.state(0).1, DiskState::Inconsistent);
        w.hooks.mend_disks();
        assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), CommandResult::Ok);
        write(&mut w, 0, 128);
    }
    w.cut(false);
    both_again(&mut w);
}

/// The disk of a target went before the source had stored its sync UUID, and came back on the same connection. The UUID of
/// the resync that was over was told all the same, and the target took it for that of the next one, which the source had not
/// begun: it asked, ended, and the source never noticed.
#[test]
fn the_sync_uuid_of_a_resync_that_is_over() {
    let mut w = fresh_pair(720, SECTORS);
    w.hooks.handlers[0].before_resync = BeforeResync { exit_code: 0, after: ms(300) };
    peer_missed(&mut w, 3);
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::WFBitMapS));
    w.run_for(ms(100));
    w.hooks.slow_disk(0, DiskOp::Meta, 0, 1);
    assert!(w.run_until(Duration::from_secs(10), |w| w.state(0).0 == ConnState::SyncSource));
    w.command(1, TEAR_OFF);
    assert!(w.run_until(ms(100), |w| w.state(0).0 == ConnState::Connected));
    assert!(w.run_until(ms(100), |w| w.state(1).1 == DiskState::Diskless));
    w.attach(1);
    let again = w.run_until(Duration::from_secs(2), |w| w.state(0).0 == ConnState::WFBitMapS);
    assert!(again, "{:?} {:?}", w.volume(0), w.volume(1));
    w.let_go(false);
    w.run_for(ms(100));
    assert_ne!(w.state(1).0, ConnState::SyncTarget, "the source has not begun");
    both_again(&mut w);
}
