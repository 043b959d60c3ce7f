//! Writes that one of the two disks refuses: whoever hears of it may rely on that disk knowing it too.

use std::boxed::Box;

use model::policy::{Fencing, OnIoError};
use model::state::{ConnState, DiskState, Role};
use model::time::Duration;
use replicator::meta::superblock::MetaFlags;
use replicator::wire::Command as Wire;
use replicator::{ClientResult, ClientTag, Command, DiskConfig, VolIdx};

use super::healing::both_again;
use crate::hooks::{Blocked, DiskOp};
use crate::scenarios::*;
use crate::world::{SimOp, World};

const VOL: VolIdx = VolIdx(0);
const BLOCK: u64 = 40;

fn begin(w: &mut World) -> ClientTag {
    w.request(0, SimOp::Write { sector: BLOCK, count: 8, fua: false })
}

/// A pair with one write on both disks; the next one to the same block fails on node `n`, whose metadata does not get to
/// its disk either.
fn about_to_fail(seed: u64, n: usize, policy: OnIoError) -> World {
    let d = DiskConfig { on_io_error: policy, ..DiskConfig::default() };
    let mut w = pair_with(seed, SECTORS, &net(), [d.clone(), d]);
    assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
    w.run_for(ms(100));
    w.hooks.break_disk(n, DiskOp::Write, BLOCK, 8);
    w.hooks.slow_disk(n, DiskOp::Meta, 0, 0);
    w
}

/// The peer was told that the write failed while the super block still said UpToDate: its client was answered, both nodes
/// lost power, and the old copy was promoted as if nothing had been written since.
#[test]
fn the_peer_hears_of_a_failed_write_when_the_disk_says_so() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        let mut w = about_to_fail(1, 1, policy);
        let tag = begin(&mut w);
        w.run_for(ms(100));
        assert_eq!(
            answer(&mut w, tag),
            None,
            "{policy:?}: the peer's disk does not say that it lacks the write"
        );
        w.hooks.mend_disks();
        w.let_go(false);
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        w.crash(0, false);
        w.crash(1, true);
        w.start(1);
        w.run_for(secs(1));
        assert!(disk(&w, 1) < DiskState::UpToDate, "{policy:?}");
        both_again(&mut w);
    }
}

/// The copy that lacks the write comes back UpToDate, in the generation of the Primary that has gone on.
#[test]
fn power_fails_before_the_disk_says_so() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        let mut w = about_to_fail(2, 1, policy);
        let tag = begin(&mut w);
        w.run_for(ms(100));
        let seen = w.volume(0).map(|s| s.pdsk);
        // Nobody begins a new generation for the loss of a copy that is known to be bad.
        assert_ne!(seen, Some(DiskState::Inconsistent), "not before the disk says so");
        w.crash(1, true);
        w.hooks.mend_disks();
        w.let_go(false);
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "it is answered when the peer is gone");
        w.start(1);
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// The same with the Primary's own disk: it came back as that of a crashed Primary, and overwrote the peer's good copy.
#[test]
fn the_client_hears_of_a_write_that_only_the_peer_has_when_the_own_disk_says_so() {
    let mut w = about_to_fail(3, 0, OnIoError::PassOn);
    let tag = begin(&mut w);
    w.run_for(ms(100));
    let answered = answer(&mut w, tag).is_some();
    w.crash(0, true);
    w.hooks.mend_disks();
    w.let_go(false);
    w.start(0);
    w.connect(0, &net());
    heals(&mut w);
    assert!(!answered, "the own disk does not say that it lacks the write");
}

/// A disk that forgets that it is bad, and is of the Primary's generation: it came back UpToDate, the Primary's bits started
/// nothing, and the two copies differed for ever.
#[test]
fn bits_left_beside_a_common_generation_are_brought_from_the_primary() {
    let d = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let mut w = pair_with(4, SECTORS, &net(), [d.clone(), d]);
    w.hooks.break_disk(1, DiskOp::Write, BLOCK, 8);
    assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
    w.run_for(ms(100));
    assert_eq!(disk(&w, 1), DiskState::Inconsistent);
    w.crash(1, false);
    w.hooks.mend_disks();
    w.run_for(secs(5));
    w.nodes[1].start(1);
    let mut forgetful = w.nodes[1].load(VOL);
    let flags = &mut forgetful.super_block.flags;
    *flags = flags.with(MetaFlags::CONSISTENT).with(MetaFlags::WAS_UP_TO_DATE);
    let [current, bitmap, ..] = uuids(&w, 0);
    let generations = &mut forgetful.super_block.uuids;
    (generations.current, generations.bitmap) = (current.with_primary_bit(false), bitmap);
    w.nodes[1].attached |= 1;
    w.command(1, Command::Attach(VOL, Box::new(forgetful)));
    w.run_for(ms(100));
    assert_eq!(disk(&w, 1), DiskState::UpToDate);
    assert_eq!(uuids(&w, 0)[0].masked(), uuids(&w, 1)[0].masked());
    w.connect(1, &net());
    heals(&mut w);
}

/// The peer of a Primary without a disk loses power with writes that nobody was answered. The Primary's disk, attached in that
/// moment, is only Consistent, as nobody knows what the peer did; of the blocks that are marked none was brought when the peer
/// was back in the common generation, and the copies stayed different (small 205731336).
#[test]
fn bits_left_are_brought_from_a_primary_that_waited_for_its_peer() {
    let d = DiskConfig { fencing: Fencing::ResourceOnly, ..DiskConfig::default() };
    let mut w = pair_with(5, SECTORS, &net(), [d.clone(), d]);
    assert_eq!(w.command_and_wait(0, Command::Secondary { open: 0, force: false }), OK);
    assert_eq!(w.command_and_wait(1, Command::Detach { vol: VOL, force: false }), OK);
    // The generation that the peer begins is not stable.
    let disk_us = std::mem::replace(&mut w.weather.disk_us, 1_000_000);
    assert_eq!(primary(&mut w, 1), OK);
    w.request(1, SimOp::Write { sector: BLOCK, count: 8, fua: false });
    w.crash(0, true);
    w.weather.disk_us = disk_us;
    w.attach(1);
    w.run_for(secs(5));
    assert_eq!((role(&w, 1), disk(&w, 1)), (Role::Primary, DiskState::Consistent));
    w.start(0);
    w.connect(0, &net());
    heals(&mut w);
}

/// The source of a full sync lost its disk before the sync began. A state of the target from before it heard of that said
/// Outdated, which passes for UpToDate without a resync: a write was answered that only the copy had which was given up.
#[test]
fn a_write_that_only_an_invalidated_copy_has_is_not_answered() {
    let mut refused = 0;
    for k in 0..20 {
        let mut w = pair(k);
        assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
        w.run_for(ms(100));
        // It arrives when the target waits for its resync, and is answered by the target's state.
        w.hooks.keep(0, Wire::State);
        assert_eq!(w.command_and_wait(0, Command::PauseSync(VOL)), OK);
        w.command(1, Command::Invalidate(VOL));
        assert!(w.run_until(secs(1), |w| w.state(1).0 >= ConnState::StartingSyncT), "k = {k}");
        w.run_for(Duration::from_micros(k * 50));
        w.hooks.break_disk(0, DiskOp::Write, BLOCK, 8);
        let tag = begin(&mut w);
        assert!(w.run_until(secs(1), |w| disk(w, 0) < DiskState::Inconsistent));
        w.pass(0);
        refused += u64::from(wait(&mut w, tag).0 == ClientResult::IoError);
        w.hooks.mend_disks();
        w.run_for(secs(1));
        w.attach(0);
        assert_eq!(w.command_and_wait(0, Command::ResumeSync(VOL)), OK);
        w.run_for(secs(5));
        w.attach(0);
        heals(&mut w);
    }
    assert_ne!(refused, 0, "it goes to the invalidated copy alone");
}

/// A node was demoted between the peer's refusal of a write and the word, by the other socket, that the peer's disk had failed. Nobody
/// began a generation, and when the disk was back both copies were UpToDate, and differed.
#[test]
fn a_primary_steps_down_before_it_hears_of_the_failed_disk() {
    for (force, speaks) in [(false, true), (false, false), (true, true)] {
        for seed in 0..10 {
            let d = DiskConfig { on_io_error: OnIoError::Detach, ..DiskConfig::default() };
            let mut w = pair_with(seed, SECTORS, &net(), [d.clone(), d]);
            assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
            w.run_for(ms(100));
            w.block(1, Blocked::Data);
            w.nodes[1].faults.writes = 1;
            assert_eq!(write(&mut w, 0, BLOCK, 8), ClientResult::Ok);
            w.run_for(ms(50));
            w.command(0, Command::Secondary { open: 0, force });
            w.run_for(if speaks { ms(500) } else { secs(12) });
            w.block(1, Blocked::No);
            w.run_for(secs(1));
            assert_eq!(w.volume(0).map(|s| s.role), Some(Role::Secondary), "force {force}, speaks {speaks}");
            w.nodes[1].faults.writes = 0;
            w.attach(1);
            w.run_for(secs(5));
            assert_eq!([0, 1].map(|n| disk(&w, n)), [DiskState::UpToDate; 2]);
            assert_eq!(
                w.nodes[0].disk.read(BLOCK),
                w.nodes[1].disk.read(BLOCK),
                "force {force}, speaks {speaks}"
            );
        }
    }
}
