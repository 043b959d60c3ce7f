//! What a Primary that has lost its peer may do before it knows that the peer does not go on: the fence-peer handler, its
//! exit codes, and frozen I/O.

use super::*;
use crate::hooks::FencePeer;
use crate::node::place;
use model::config::settings::Handler;
use model::policy::Fencing;
use model::state::Role;
use model::time::Duration;

/// A connected pair with this policy, node 1 (index 0) Primary; the handlers of both answer as told.
fn fenced_pair(seed: u64, fencing: Fencing, script: FencePeer) -> World {
    let d = DiskConfig { fencing, ..DiskConfig::default() };
    let mut w = pair_with(seed, SECTORS, &net(), [d.clone(), d]);
    for h in &mut w.hooks.handlers {
        h.fence_peer = script;
    }
    put(&mut w, 0, 1);
    w.run_for(ms(100));
    w
}

fn answers(exit_code: i32) -> FencePeer {
    FencePeer::Answers { exit_code, after: ms(500) }
}

fn pdsk(w: &World, n: usize) -> DiskState {
    w.volume(n).expect("it runs").pdsk
}

fn is_frozen(w: &World, n: usize) -> bool {
    w.volume(n).expect("it runs").susp_fen
}

/// The peer's copy is called what each exit code says, and nobody calls it that before the handler has.
#[test]
fn exit_codes() {
    use DiskState as D;
    let resource = Fencing::ResourceOnly;
    let stonith = Fencing::ResourceAndStonith;
    for (policy, exit_code, wanted) in [
        (resource, 3, D::Inconsistent),
        (resource, 4, D::Outdated),
        (resource, 5, D::Outdated),
        (resource, 6, D::DUnknown),
        (resource, 7, D::Outdated),
        (resource, 0, D::DUnknown),
        (resource, 1, D::DUnknown),
        (stonith, 3, D::Inconsistent),
        (stonith, 4, D::Outdated),
        (stonith, 5, D::Outdated),
        (stonith, 6, D::DUnknown),
        (stonith, 7, D::Outdated),
        (stonith, 0, D::DUnknown),
        (stonith, 20, D::DUnknown),
    ] {
        let mut w = fenced_pair(3, policy, answers(exit_code));
        w.cut(true);
        assert!(w.run_until(secs(30), |w| calls(w, 0, Handler::FencePeer) == 1));
        let tag = begin(&mut w, 0, 5);
        w.run_for(ms(200));
        assert_eq!(pdsk(&w, 0), D::DUnknown, "nobody has answered");
        let at_once = answer(&mut w, tag);
        assert_eq!(at_once.is_some(), policy == resource, "only one policy freezes");
        w.run_for(secs(2));
        assert_eq!(pdsk(&w, 0), wanted, "{policy} {exit_code}");
        let fenced = wanted != D::DUnknown;
        assert_eq!(is_frozen(&w, 0), policy == stonith && !fenced, "{policy} {exit_code}");
        if at_once.is_none() {
            assert_eq!(answer(&mut w, tag).is_some(), fenced, "{policy} {exit_code}");
        }
        assert_eq!(calls(&w, 0, Handler::FencePeer), 1);
        // Otherwise a frozen write is lost with the process that never answered it.
        mend(&mut w);
        all_up(&mut w, &[net(), net()]);
        assert!(w.run_until(secs(30), |w| w.in_sync() && w.is_idle()), "{:?}", w.volume(0));
        ends_well(&mut w);
    }
}

/// The generation that clients go on in begins when the peer is fenced, not before; the end of the resync is told.
#[test]
fn generation_begins_with_the_answer() {
    let mut w = fenced_pair(4, Fencing::ResourceAndStonith, answers(4));
    let before = uuids(&w, 0);
    w.cut(true);
    assert!(w.run_until(secs(30), |w| calls(w, 0, Handler::FencePeer) == 1));
    let tag = begin(&mut w, 0, 5);
    w.run_for(ms(300));
    assert_eq!(uuids(&w, 0), before);
    is_done(&mut w, tag);
    let after = uuids(&w, 0);
    assert!(after[0] != before[0] && after[1].same_as(before[0]), "{before:?} {after:?}");
    assert_eq!(calls(&w, 0, Handler::UnfencePeer), 0);
    w.cut(false);
    heals(&mut w);
    assert_eq!(calls(&w, 0, Handler::UnfencePeer), 1);
    assert_eq!(calls(&w, 1, Handler::AfterResyncTarget), 1);
    ends_well(&mut w);
}

/// DRBD 8.4.2 and 8.4.4: the answer of a handler that was called for the first outage was used in the second one.
#[test]
fn late_fence_result() {
    for second in [4, 6] {
        let script = FencePeer::Answers { exit_code: 4, after: secs(10) };
        let mut w = fenced_pair(5, Fencing::ResourceAndStonith, script);
        w.cut(true);
        assert!(w.run_until(secs(5), |w| calls(w, 0, Handler::FencePeer) == 1));
        let first_called = w.now;
        w.run_for(secs(2));
        w.cut(false);
        heals(&mut w);
        assert!(!is_frozen(&w, 0), "nothing happened");
        w.hooks.handlers[0].fence_peer = FencePeer::Answers { exit_code: second, after: secs(10) };
        w.cut(true);
        assert!(w.run_until(secs(5), |w| calls(w, 0, Handler::FencePeer) == 2), "an outage of its own");
        let tag = begin(&mut w, 0, 5);
        let left = secs(11).saturating_sub(w.now.saturating_since(first_called));
        w.run_for(left);
        assert_eq!((pdsk(&w, 0), answer(&mut w, tag)), (DiskState::DUnknown, None), "that was the first one");
        w.run_for(secs(10));
        let fenced = second == 4;
        assert_eq!((pdsk(&w, 0) == DiskState::Outdated, is_frozen(&w, 0)), (fenced, !fenced));
        assert_eq!(answer(&mut w, tag).is_some(), fenced);
        ends_well(&mut w);
    }
}

/// DRBD 8.4.7: frozen I/O went on towards a peer without a disk, and no new generation was begun.
#[test]
fn bump_missing_when_peer_returns_diskless() {
    for dies in [false, true] {
        let mut w = fenced_pair(6, Fencing::ResourceAndStonith, answers(1));
        let before = uuids(&w, 0);
        cut(&mut w);
        let tag = begin(&mut w, 0, 5);
        w.run_for(ms(100));
        assert_eq!(w.command_and_wait(1, TEAR_OFF), OK);
        w.cut(false);
        is_done(&mut w, tag);
        assert_ne!(uuids(&w, 0)[0], before[0], "only this copy has it");
        w.run_for(secs(1));
        if dies {
            w.crash(0, false);
            w.run_for(secs(2));
            w.attach(1);
            // Its copy is the old one, but only the other node knows. Nobody may lift it.
            assert_ne!(primary(&mut w, 1), OK);
        }
        w.attach(1);
        ends_well(&mut w);
    }
}

/// DRBD 8.4.2 and 9.1.7: requests were completed while frozen, or forgotten; however the freeze ends.
#[test]
fn frozen_by_fencing_requests_mishandled() {
    for end in 0..3 {
        for k in 0..20 {
            let mut w = fenced_pair(
                k,
                Fencing::ResourceAndStonith,
                FencePeer::Answers { exit_code: if end == 0 { 4 } else { 1 }, after: secs(3) },
            );
            w.weather.disk_us = 1000;
            let mut tags: Vec<ClientTag> = (0..8).map(|b| begin(&mut w, 0, b)).collect();
            events(&mut w, k * 2);
            w.cut(true);
            assert!(w.run_until(secs(10), |w| is_frozen(w, 0)));
            tags.retain(|t| answer(&mut w, *t).is_none());
            tags.push(begin(&mut w, 0, 9));
            w.run_for(secs(2));
            for t in &tags {
                assert_eq!(answer(&mut w, *t), None, "frozen");
            }
            match end {
                0 => {}
                1 => w.cut(false),
                _ => assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK),
            }
            for t in tags {
                is_done(&mut w, t);
            }
            ends_well(&mut w);
        }
    }
}

/// Line suspend-io: a broken handler keeps I/O frozen; the peer comes back, and nothing has happened.
#[test]
fn broken_handler_and_the_peer_comes_back() {
    let mut w = fenced_pair(8, Fencing::ResourceAndStonith, answers(127));
    let before = uuids(&w, 0);
    cut(&mut w);
    w.run_for(secs(2));
    let tag = begin(&mut w, 0, 5);
    w.run_for(secs(2));
    assert_eq!(answer(&mut w, tag), None);
    w.hooks.packets.clear();
    w.cut(false);
    is_done(&mut w, tag);
    assert_eq!(uuids(&w, 0), before, "no new generation");
    assert_eq!((resync_bytes(&w, 0), resync_bytes(&w, 1)), (0, 0), "no resync");
    ends_well(&mut w);
}

/// A Primary whose frozen writes are on its own disk meets its peer again, which knows nothing of them: whoever dies next,
/// no answered write is lost.
#[test]
fn thaw_with_marks() {
    for who in 0..2 {
        for k in 0..60 {
            let mut w = fenced_pair(k, Fencing::ResourceAndStonith, answers(1));
            w.cut(true);
            let tag = begin(&mut w, 0, 5);
            assert!(w.run_until(secs(10), |w| is_frozen(w, 0)));
            w.run_for(secs(1));
            assert_eq!(answer(&mut w, tag), None);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| conn(w, 0) >= ConnState::Connected));
            events(&mut w, k);
            w.crash(who, true);
            w.run_for(secs(1));
            ends_well(&mut w);
        }
    }
}

/// Line outdate-early: a Primary with fencing says goodbye, and its peer is Outdated when it is gone, on its disk too.
#[test]
fn outdate_early() {
    for policy in [Fencing::ResourceOnly, Fencing::ResourceAndStonith] {
        let mut w = fenced_pair(9, policy, answers(1));
        assert_eq!(w.command_and_wait(0, Command::Disconnect { force: false }), OK);
        assert_eq!((pdsk(&w, 0), is_frozen(&w, 0)), (DiskState::Outdated, false));
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        w.crash(1, true);
        put(&mut w, 0, 5);
        w.start(1);
        w.run_for(ms(100));
        assert_eq!(disk(&w, 1), DiskState::Outdated);
        assert_ne!(primary(&mut w, 1), OK);
        assert_eq!(calls(&w, 1, Handler::FencePeer), 0, "an Outdated copy is not worth it");
        ends_well(&mut w);
    }
}

/// DRBD 8.4.3 and 9.1.20: the link broke inside a disconnect, or before it, and fence-peer was not run.
#[test]
fn disconnect_on_a_dead_link_fences() {
    for settled in [false, true] {
        for k in 0..16 {
            let mut w = fenced_pair(k, Fencing::ResourceOnly, FencePeer::Outdates { after: ms(200) });
            disconnect_on_dead_link(&mut w, settled, k % 4);
            assert!(pdsk(&w, 0) == DiskState::Outdated, "{:?}", w.volume(0));
            assert_eq!(disk(&w, 1), DiskState::Outdated, "and that is true");
            put(&mut w, 0, 5);
            assert_ne!(primary(&mut w, 1), OK, "its copy is old");
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.3.3: "peer unreachable" made a merely Consistent disk UpToDate.
#[test]
fn unreachable_peer_lifts_consistent() {
    let mut w = fenced_pair(10, Fencing::ResourceOnly, answers(5));
    consistent_and_alone(&mut w);
    assert_eq!(calls(&w, 1, Handler::FencePeer), 1);
    assert_eq!((disk(&w, 1), pdsk(&w, 1)), (DiskState::Consistent, DiskState::DUnknown));
    ends_well(&mut w);
}

/// A promotion without the peer has it fenced first, and is refused if that does not succeed.
#[test]
fn promotion_fences() {
    for (exit_code, force, goes) in [
        (4, false, true),
        (5, false, true),
        (7, false, true),
        (6, false, false),
        (1, false, false),
        (1, true, true),
    ] {
        let mut w = fenced_pair(11, Fencing::ResourceOnly, answers(exit_code));
        assert_eq!(secondary(&mut w, 0), OK);
        w.run_for(ms(200));
        cut(&mut w);
        assert_eq!(calls(&w, 1, Handler::FencePeer), 0, "a Secondary fences nobody");
        let result = w.command_and_wait(1, Command::Primary { force });
        assert_eq!(result == OK, goes, "{exit_code} {force}: {result:?}");
        assert_eq!(calls(&w, 1, Handler::FencePeer), 1);
        assert_eq!(role(&w, 1) == Role::Primary, goes);
        if goes {
            put(&mut w, 1, 5);
        }
        ends_well(&mut w);
    }
}

/// A Primary is stonithed by the node that takes over from it, and takes what that one has when it comes back.
#[test]
fn takeover_by_stonith() {
    for k in 0..20 {
        let mut w = fenced_pair(k, Fencing::ResourceAndStonith, answers(1));
        w.hooks.handlers[1].fence_peer = FencePeer::Stonith { after: ms(300) };
        let tag = begin(&mut w, 0, 3);
        events(&mut w, k);
        w.cut(true);
        w.run_for(secs(3));
        let _ = answer(&mut w, tag);
        assert_eq!(primary(&mut w, 1), OK);
        assert!(w.nodes[0].core.is_none(), "it had to go first");
        put(&mut w, 1, 5);
        ends_well(&mut w);
    }
}

/// The peer is lost by two volumes of which the last one has no disk here, and so no policy: the other one stays frozen
/// until the peer is fenced.
#[test]
fn a_volume_without_a_disk_does_not_thaw_the_others() {
    let d = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
    for without in 0..2 {
        let mut w = nodes(4, SECTORS, [d.clone(), d.clone()], 2);
        link_up(&mut w, &net());
        for v in 0..2 {
            skip_initial_sync(&mut w, v);
        }
        for h in &mut w.hooks.handlers {
            h.fence_peer = answers(7);
        }
        assert_eq!(primary(&mut w, 0), OK);
        let tear_off = Command::Detach { vol: VolIdx(without), force: true };
        assert_eq!(w.command_and_wait(0, tear_off), OK);
        w.run_for(ms(100));
        w.crash(1, false);
        assert!(w.run_until(secs(10), |w| w.volume(0).is_some_and(|s| s.conn < ConnState::Connected)));
        assert!(is_frozen(&w, 0), "volume {without} has no disk");
        w.run_for(secs(2));
        assert!(!is_frozen(&w, 0));
    }
}

/// A node without a disk meets its peer again, whom it had fenced: what its disk says of that when it is attached is old.
#[test]
fn a_fenced_peer_that_came_back_while_the_disk_was_away() {
    let mut w = fenced_pair(5, Fencing::ResourceAndStonith, FencePeer::Stonith { after: ms(30) });
    w.cut(true);
    assert!(w.run_until(secs(20), |w| w.nodes[1].core.is_none()), "it is shot");
    w.run_for(secs(1));
    assert_eq!(pdsk(&w, 0), DiskState::Outdated);
    assert_eq!(secondary(&mut w, 0), OK);
    let detach = Command::Detach { vol: VolIdx(0), force: false };
    assert_eq!(w.command_and_wait(0, detach), OK);
    w.cut(false);
    w.start(1);
    w.connect(1, &net());
    assert!(w.run_until(secs(20), |w| w.state(0).0 == ConnState::Connected));
    w.cut(true);
    assert!(w.run_until(secs(20), |w| w.state(0).0 < ConnState::Connected));
    w.attach(0);
    w.run_for(secs(1));
    assert_ne!(pdsk(&w, 0), DiskState::Outdated, "it was good when it was last seen");
}

/// A disk that was detached while the peer's clients wrote on is behind, and fencing the peer does not make it better.
#[test]
fn a_disk_that_was_detached_is_behind() {
    for fencing in [Fencing::DontCare, Fencing::ResourceOnly, Fencing::ResourceAndStonith] {
        let mut w = fenced_pair(6, fencing, FencePeer::Stonith { after: ms(30) });
        let detach = Command::Detach { vol: VolIdx(0), force: false };
        assert_eq!(w.command_and_wait(1, detach), OK);
        put(&mut w, 0, 2);
        w.cut(true);
        w.crash(0, true);
        w.run_for(secs(20));
        w.attach(1);
        w.run_for(secs(1));
        assert_eq!(primary(&mut w, 1) == OK, fencing == Fencing::DontCare, "{fencing:?}");
    }
}

/// The peer's leave to invalidate the copy of a Primary did not arrive there. It goes on with its copy and has the peer
/// stonithed, which called that copy bad: after its restart it was promoted beside it without a question.
#[test]
fn a_primary_that_was_not_invalidated_has_no_second_one_beside_it() {
    for k in 0..10 {
        let mut w = fenced_pair(k, Fencing::ResourceAndStonith, answers(1));
        w.hooks.handlers[0].fence_peer = FencePeer::Stonith { after: ms(300) };
        w.block(1, Blocked::Meta);
        w.command(0, Command::Invalidate(VolIdx(0)));
        assert!(w.run_until(secs(2), |w| w.state(1).0 == ConnState::SyncSource));
        assert!(w.run_until(secs(20), |w| w.state(1).0 < ConnState::Connected));
        assert_eq!(pdsk(&w, 1), DiskState::DUnknown, "nobody has heard of it being bad");
        w.command(1, Command::Primary { force: false });
        assert!(w.run_until(secs(20), |w| w.nodes[1].core.is_none()));
        w.cut(true);
        w.block(1, Blocked::No);
        put(&mut w, 0, 3);
        w.hooks.handlers[0].fence_peer = answers(1);
        w.start(1);
        w.attach(1);
        assert_ne!(primary(&mut w, 1), OK);
        assert_eq!(w.volume(0).map(|s| s.role), Some(Role::Primary));
        ends_well(&mut w);
    }
}

/// The peer closes the connection in the middle of a graceful disconnect: its data socket has gone, and the meta socket may yet
/// say that it has outdated itself. Until then a write waits; it was answered for the sake of the own copy alone.
#[test]
fn half_a_goodbye_answers_no_write() {
    for k in 0..40 {
        let mut w = fenced_pair(k, Fencing::ResourceAndStonith, answers(1));
        w.command(0, Command::Disconnect { force: false });
        w.command(1, Command::Disconnect { force: true });
        w.run_for(Duration::from_micros(10 * k));
        let tag = begin(&mut w, 0, 3);
        w.run_for(secs(2));
        let answered = answer(&mut w, tag).is_some();
        assert_eq!(answered, pdsk(&w, 0) == DiskState::Outdated, "k = {k}: {:?}", w.volume(0));
        assert_eq!(is_frozen(&w, 0), !answered);
        ends_well(&mut w);
    }
}

/// Frozen I/O is resumed after this node has told the peer its generation, and before it knows the peer's. That is refused; but
/// the next generation was begun all the same. This node found itself ahead of a peer that had found both equal, and each of
/// them waited for the other one's bitmap for ever.
#[test]
fn resume_io_in_the_middle_of_a_handshake() {
    for writes in [false, true] {
        let mut w = fenced_pair(7, Fencing::ResourceAndStonith, answers(1));
        cut(&mut w);
        let frozen = writes.then(|| begin(&mut w, 0, 5));
        w.run_for(secs(2));
        w.cut(false);
        assert!(w.run_until(secs(30), |w| conn(w, 0) == ConnState::WFReportParams));
        w.command(0, Command::ResumeIo);
        w.run_for(secs(5));
        for n in 0..2 {
            let s = w.volume(n).expect("it runs");
            let good = (ConnState::Connected, DiskState::UpToDate, DiskState::UpToDate);
            assert_eq!((s.conn, s.disk, s.pdsk), good, "node {n}, writes: {writes}");
        }
        frozen.into_iter().for_each(|tag| is_done(&mut w, tag));
        ends_well(&mut w);
    }
}

/// The peer is lost by two volumes and comes back with the first one only, before it was fenced. What clients write to the other
/// one from then on this copy has alone, in a generation of its own.
#[test]
fn a_lost_peer_comes_back_without_a_volume() {
    let d = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
    let mut w = nodes(8, SECTORS, [d.clone(), d], 2);
    link_up(&mut w, &net());
    for v in 0..2 {
        skip_initial_sync(&mut w, v);
    }
    w.hooks.handlers[0].fence_peer = answers(1);
    assert_eq!(primary(&mut w, 0), OK);
    w.run_for(ms(100));
    w.crash(1, false);
    assert!(w.run_until(secs(30), |w| is_frozen(w, 0)));
    let generation = |w: &World| {
        let core = w.nodes[0].core.as_ref().expect("it runs");
        core.snapshot(w.now).volumes[1].uuids[0]
    };
    let common = generation(&w);
    let second =
        |w: &mut World| w.request(0, SimOp::Write { sector: place(VolIdx(1), 8), count: 8, fua: false });
    let tags = [second(&mut w), begin(&mut w, 0, 3)];
    w.run_for(secs(2));
    w.nodes[1].volumes = 1;
    w.start(1);
    w.connect(1, &net());
    for tag in tags {
        is_done(&mut w, tag);
    }
    assert_ne!(generation(&w), common);
    w.crash(1, false);
    w.nodes[1].volumes = 2;
    w.start(1);
    w.connect(1, &net());
    let tag = second(&mut w);
    is_done(&mut w, tag);
    ends_well(&mut w);
}
