//! Questions to the peer that cross: each node asks the other to agree to a change, in a state that the other's question
//! is about to change. Whatever comes of it, both know the same.

use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::{ClientResult, Command, DiskConfig, NetConfig, VolIdx};

use super::healing::outcome;
use crate::hooks::DiskOp;
use crate::scenarios::*;
use crate::world::{SimOp, World};
use replicator::wire::Command as Wire;

const VOL: VolIdx = VolIdx(0);
const DETACH: Command = Command::Detach { vol: VOL, force: false };
const TEAR_OFF: Command = Command::Detach { vol: VOL, force: true };

/// Both nodes agree on what the other one is, also when one of the two sockets is the slower one.
fn agree(w: &mut World, what: &str) {
    let calm = |w: &World| {
        let (Some(a), Some(b)) = (w.volume(0), w.volume(1)) else { return false };
        let same = (a.disk, a.pdsk) == (b.pdsk, b.disk) && (a.role, a.peer) == (b.peer, b.role);
        w.is_idle() && same && a.conn == ConnState::Connected && b.conn == ConnState::Connected
    };
    assert!(w.run_until(secs(60), calm), "{what}: {:?} {:?} {}", w.volume(0), w.volume(1), w.under_way());
}

fn mend(w: &mut World) {
    for n in 0..2 {
        w.attach(n);
    }
    // Two copies that were both given up are not brought back by a handshake.
    if (0..2).all(|n| disk(w, n) < DiskState::UpToDate) {
        return;
    }
    heals(w);
}

/// The Primary lets its disk go while its peer gives up its copy: the peer's question was decided first, the Primary's was
/// agreed to by a peer that had done with its own, and the Primary could not follow. It stayed SyncSource for ever, or the
/// peer WFSyncUUID.
#[test]
fn two_questions_cross() {
    let commands = [
        DETACH,
        Command::Invalidate(VOL),
        Command::InvalidateRemote(VOL),
        Command::Primary { force: false },
        Command::Disconnect { force: false },
    ];
    let copy = |i: usize| match &commands[i] {
        Command::Detach { .. } => DETACH,
        Command::Invalidate(_) => Command::Invalidate(VOL),
        Command::InvalidateRemote(_) => Command::InvalidateRemote(VOL),
        Command::Primary { .. } => Command::Primary { force: false },
        _ => Command::Disconnect { force: false },
    };
    for (a, b) in (0..commands.len()).flat_map(|a| (0..commands.len()).map(move |b| (a, b))) {
        if a.min(b) == 3 && a.max(b) == 4 {
            // Once it is alone a node may be promoted, whatever goes on at the other one.
            continue;
        }
        for k in 0..24 {
            let mut w = pair(k);
            if k % 3 == 0 {
                assert_eq!(secondary(&mut w, 0), OK);
            }
            w.run_for(ms(100));
            let first = k as usize % 2;
            w.weather.net_us = [50, 200, 1000][k as usize % 3];
            w.command(first, copy(a));
            w.run_for(Duration::from_micros(k / 2 * 40));
            w.command(1 - first, copy(b));
            w.run_for(secs(5));
            for n in 0..2 {
                if w.state(n).0 == ConnState::StandAlone {
                    w.connect(n, &net());
                }
            }
            agree(&mut w, &format!("{:?} {:?} k = {k}", copy(a), copy(b)));
            mend(&mut w);
        }
    }
}

/// A disk is torn off, and attached again at once, while the peer asks for a full sync of it or from it: it was taken for
/// the target in the middle of its handshake.
#[test]
fn a_full_sync_is_asked_for_while_the_disk_is_attached_again() {
    for command in [Command::Invalidate(VOL), Command::InvalidateRemote(VOL)] {
        let invalidates = matches!(command, Command::Invalidate(_));
        for k in 0..60 {
            let mut w = pair(k);
            let asking = k as usize % 2;
            w.weather.net_us = [50, 500][k as usize / 2 % 2];
            let again = if invalidates { Command::Invalidate(VOL) } else { Command::InvalidateRemote(VOL) };
            w.command(asking, again);
            let until = w.steps + k / 4;
            w.run_until(ms(10), |w| w.steps >= until);
            let torn = if k % 3 == 0 { asking } else { 1 - asking };
            w.command(torn, TEAR_OFF);
            w.run_until(ms(1), |w| w.nodes[torn].attached == 0);
            w.attach(torn);
            w.run_for(secs(5));
            agree(&mut w, &format!("invalidate here: {invalidates}, k = {k}"));
            mend(&mut w);
        }
    }
}

/// The Primary's disk failed while its peer was agreeing to give up its own copy: writes that only that copy took were
/// answered, and the copy was Inconsistent. The failed disk, older, was the better one when it came back.
#[test]
fn the_source_of_a_full_sync_fails_while_the_peer_gives_up_its_copy() {
    for k in 0..120 {
        let mut w = pair(k);
        (w.weather.net_us, w.weather.disk_us) = (1000, 300);
        let tag = w.command(0, Command::InvalidateRemote(VOL));
        w.hooks.break_disk(0, DiskOp::Write, 0, 8);
        let mut writes = Vec::new();
        for block in 0..6 {
            writes.push(w.request(0, SimOp::Write { sector: block * 8, count: 8, fua: false }));
            let until = w.steps + k % 12;
            w.run_until(secs(1), |w| w.steps >= until);
        }
        let ended = |w: &World| w.is_idle() && w.state(0).1 == DiskState::Diskless;
        assert!(w.run_until(secs(20), ended), "{tag:?} {:?} {}", w.volume(0), w.under_way());
        w.hooks.mend_disks();
        w.attach(0);
        let settled = w.run_until(secs(20), |w| w.in_sync() && w.is_idle());
        if settled {
            // Whatever was answered is there, on both.
            w.check_disks();
        }
    }
}

/// The peer asked for a full sync, and had not heard yet that it was granted, when the disk here went: it went on with its
/// copy, as that of a Primary without a disk. Writes that were answered meanwhile were sent to nobody (small schedule 215808).
#[test]
fn the_source_of_a_full_sync_fails_before_the_peer_hears_that_it_is_granted() {
    let mut refused = 0;
    for k in 0..40 {
        let mut w = pair(k);
        (w.weather.net_us, w.weather.disk_us) = (1000, 20);
        w.command(1, Command::Invalidate(VOL));
        assert!(w.run_until(secs(1), |w| w.state(0).0 == ConnState::StartingSyncS), "k = {k}");
        let tag = w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
        w.run_for(Duration::from_micros(k * 50));
        w.command(0, TEAR_OFF);
        w.run_until(ms(1), |w| w.nodes[0].attached == 0);
        w.attach(0);
        refused += u64::from(wait(&mut w, tag).0 == ClientResult::IoError);
        w.run_for(secs(5));
        w.attach(0);
        heals(&mut w);
    }
    assert!(refused > 5, "{refused}");
}

/// The peer of a Primary goes on without its disk and begins a generation for that; the connection ends before the Primary
/// hears of it, which keeps its disk and begins another one. Neither copy took a write alone.
#[test]
fn an_agreement_to_a_detach_that_does_not_arrive_is_no_split_brain() {
    for k in 0..20 {
        let mut w = pair(k);
        w.hooks.keep(1, Wire::StateChgReply);
        w.command(0, DETACH);
        assert!(w.run_until(secs(5), |w| w.keeps_from(1)));
        w.run_for(Duration::from_micros(k * 20));
        w.reset();
        w.pass(1);
        assert_eq!(disk(&w, 0), DiskState::UpToDate);
        heals(&mut w);
    }
}

/// A Primary agrees that its peer's disk may go and goes on alone; its answer is on a socket that stands still. Then its own
/// disk is torn off: the peer, which still has its disk, passed for UpToDate, and what it had missed was gone (life 8178633).
#[test]
fn a_copy_that_was_let_go_does_not_come_back_when_the_other_one_fails() {
    for k in 0..10 {
        let net = NetConfig { verify_alg: "sha1".into(), ..net() };
        let mut w = pair_with(k, SECTORS, &net, [DiskConfig::default(), DiskConfig::default()]);
        // What its end makes the peer say.
        let verify = Command::Verify { vol: VOL, start_sector: None, stop_sector: None };
        assert_eq!(w.command_and_wait(1, verify), OK);
        w.hooks.keep(0, Wire::StateChgReply);
        w.command(1, DETACH);
        assert!(w.run_until(secs(5), |w| w.keeps_from(0)));
        w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
        w.run_for(ms(2));
        w.command(0, TEAR_OFF);
        w.run_for(Duration::from_micros(k * 20));
        w.request(0, SimOp::Read { sector: 64, count: 8 });
        w.run_for(secs(5));
        assert!(w.volume(0).is_some_and(|s| s.pdsk < DiskState::UpToDate), "{:?}", w.volume(0));
        w.pass(0);
        w.run_for(secs(5));
        w.attach(0);
        w.run_for(secs(1));
        assert_eq!(outcome(&mut w, 0, SimOp::Read { sector: 64, count: 8 }), ClientResult::Ok);
    }
}
