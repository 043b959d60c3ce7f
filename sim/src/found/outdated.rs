//! A copy that is known to be behind, beside a peer that has none: nothing says that it is good, unless clients of a Primary
//! have seen it last.

use model::policy::OnIoError;
use model::state::{ConnState, DiskState};
use replicator::wire::Command as Wire;
use replicator::{ClientResult, Command, CommandResult, DiskConfig, VolIdx};

use super::healing::both_again;
use crate::hooks::DiskOp;
use crate::scenarios::*;
use crate::world::World;

const VOL: VolIdx = VolIdx(0);
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };

fn put(w: &mut World, sector: u64) {
    assert_eq!(write(w, 0, sector, 8), ClientResult::Ok);
}

/// The peer's disk fails at a write and is Outdated from then on; the own one takes some more and goes.
fn a_primary_whose_peer_is_behind(seed: u64) -> World {
    let mut w = pair(seed);
    put(&mut w, 64);
    w.hooks.break_disk(1, DiskOp::Write, 128, 8);
    put(&mut w, 128);
    w.hooks.mend_disks();
    assert!(w.run_until(secs(1), |w| disk(w, 1) == DiskState::Diskless));
    put(&mut w, 256);
    assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
    w
}

/// The Primary refused the old copy, which had become UpToDate by meeting it, and had begun a generation of its own.
#[test]
fn a_primary_that_refuses_an_old_copy_leaves_it_outdated() {
    for seed in 0..20 {
        let mut w = a_primary_whose_peer_is_behind(seed);
        w.crash(1, false);
        w.start(1);
        w.connect(1, &net());
        w.run_for(secs(3));
        assert_eq!(w.state(0).0, ConnState::StandAlone);
        assert_eq!(disk(&w, 1), DiskState::Outdated, "seed {seed}");
        assert_ne!(primary(&mut w, 1), OK, "it lacks what was written last");
        both_again(&mut w);
    }
}

/// The same when nobody is Primary any more: the copy became UpToDate beside a node that had nothing to compare it with,
/// whether it was attached before they met or after.
#[test]
fn an_old_copy_stays_outdated_beside_a_node_without_a_disk() {
    for attached_before in [true, false] {
        let mut w = a_primary_whose_peer_is_behind(20);
        assert_eq!(secondary(&mut w, 0), OK);
        w.cut(true);
        w.run_for(secs(5));
        if attached_before {
            w.attach(1);
        }
        w.cut(false);
        w.run_for(secs(5));
        if !attached_before {
            w.attach(1);
            w.run_for(secs(1));
        }
        assert_eq!(w.state(1), (ConnState::Connected, DiskState::Outdated));
        assert_eq!(w.volume(0).expect("it runs").pdsk, DiskState::Outdated);
        for n in [0, 1] {
            assert_ne!(primary(&mut w, n), OK, "node {}", n + 1);
        }
        // There is nothing to get data from.
        w.command_and_wait(1, Command::Invalidate(VOL));
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        // What it is gets known when there is something to compare it with.
        w.attach(0);
        heals(&mut w);
        assert_eq!(read(&mut w, 0, 256).is_ok(), primary(&mut w, 0) != OK, "not Primary, not readable");
        put(&mut w, 512);
    }
}

/// A Primary without a disk finds again the copy that its clients work on; it was fenced meanwhile.
#[test]
fn a_primary_takes_back_the_outdated_copy_that_its_clients_saw() {
    let mut w = pair(2);
    put(&mut w, 64);
    assert_eq!(w.command_and_wait(0, TEAR_OFF), OK);
    put(&mut w, 128);
    w.cut(true);
    w.run_for(secs(5));
    assert_eq!(w.command_and_wait(1, Command::Outdate(VOL)), CommandResult::Ok);
    w.cut(false);
    let back = |w: &World| w.state(1) == (ConnState::Connected, DiskState::UpToDate);
    assert!(w.run_until(secs(20), back), "{:?} {:?}", w.volume(0), w.volume(1));
    put(&mut w, 256);
    assert!(read(&mut w, 0, 128).is_ok());
    w.attach(0);
    heals(&mut w);
}

/// The connection was lost, and the name of the generation that began then was not written, nor anything answered in it:
/// the disk, which has everything that clients saw, was refused for not being of that generation.
#[test]
fn a_generation_that_was_never_stored_is_not_asked_for() {
    for seed in 0..20 {
        let mut w = pair(seed);
        put(&mut w, 64);
        w.nodes[0].faults.metadata = 1;
        w.crash(1, false);
        assert!(w.run_until(secs(5), |w| disk(w, 0) == DiskState::Diskless));
        w.nodes[0].faults.metadata = 0;
        w.attach(0);
        w.run_for(secs(1));
        assert_eq!(disk(&w, 0), DiskState::UpToDate);
        put(&mut w, 128);
        w.start(1);
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// A Primary's disk goes and is attached again at once; its peer has begun a generation, in which nobody has written
/// anything, and the link is lost before they have compared. Taken back then, the disk began one more, and the copies were
/// a split brain.
#[test]
fn a_disk_that_is_back_before_the_peer_is_heard_is_no_split() {
    for k in 0..200 {
        let mut w = pair(k);
        w.weather.net_us = 1000;
        w.command(0, TEAR_OFF);
        assert!(w.run_until(secs(1), |w| w.nodes[0].attached == 0));
        let until = w.steps + k / 10;
        w.run_until(ms(10), |w| w.steps >= until);
        w.attach(0);
        let until = w.steps + 2 * (k % 10);
        w.run_until(ms(10), |w| w.steps >= until);
        w.reset();
        w.run_for(secs(10));
        w.attach(0);
        heals(&mut w);
    }
}

/// A Primary lost a peer that had called itself Inconsistent, and went on in the generation that both had. A kernel says so
/// before its disk does: after a loss of power it is UpToDate again, and nothing brought it the writes that it had missed.
#[test]
fn a_bad_copy_that_is_lost_is_left_behind_in_its_generation() {
    let pass_on = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
    let mut w = pair_with(4, SECTORS, &net(), [pass_on.clone(), pass_on]);
    w.hooks.break_disk(1, DiskOp::Write, 128, 8);
    put(&mut w, 128);
    w.hooks.mend_disks();
    assert!(w.run_until(secs(1), |w| disk(w, 1) == DiskState::Inconsistent));
    w.run_for(secs(1));
    let common = uuids(&w, 0)[0];
    w.crash(1, false);
    w.run_for(secs(3));
    put(&mut w, 256);
    assert!(!uuids(&w, 0)[0].same_as(common) && uuids(&w, 0)[1].same_as(common));
    w.start(1);
    w.connect(1, &net());
    heals(&mut w);
}

/// The node without a disk had not heard yet that what its peer attached is behind; the peer agreed to its promotion.
#[test]
fn nobody_is_promoted_over_an_old_copy_before_hearing_of_it() {
    let mut w = a_primary_whose_peer_is_behind(21);
    assert_eq!(secondary(&mut w, 0), OK);
    w.run_for(secs(5));
    w.attach(1);
    let taken_for_good = |w: &World| w.volume(0).is_some_and(|s| s.pdsk == DiskState::UpToDate);
    assert!(w.run_until(secs(1), taken_for_good));
    w.hooks.keep(1, Wire::State);
    assert_ne!(primary(&mut w, 0), OK);
    w.pass(1);
    w.run_for(ms(100));
    assert_eq!(w.volume(0).expect("it runs").pdsk, DiskState::Outdated);
    w.attach(0);
    heals(&mut w);
}
