//! A peer that is slow, silent or gone, and the way back (drbd-wire 1.4, 1.6, 10.2).

use super::*;
use crate::hooks::Blocked;

fn issue(w: &mut World) -> ClientTag {
    w.request(0, SimOp::Write { sector: 64, count: 8, fua: false })
}

/// Waits until node 1 (index 0) has lost the connection; how long it took.
fn lost_after(w: &mut World) -> Duration {
    let start = w.now;
    let lost = w.run_until(secs(60), |w| w.state(0).0 < ConnState::Connected);
    assert!(lost, "the connection is given up");
    w.now.saturating_since(start)
}

fn traced(w: &World, text: &str) -> bool {
    w.trace.as_ref().is_some_and(|t| t.iter().any(|l| l.contains("node1") && l.contains(text)))
}

fn traced_pair(net: &NetConfig) -> World {
    let mut w = pair_with(1, SECTORS, net, [DiskConfig::default(), DiskConfig::default()]);
    w.trace = Some(Vec::new());
    w
}

#[test]
fn a_peer_that_stops_answering_pings_is_given_up() {
    let mut w = traced_pair(&net());
    w.freeze(1, secs(10));
    let tag = issue(&mut w);
    let took = lost_after(&mut w);
    // ping-int of silence, then ping-timeout.
    assert!(took >= ms(1390) && took <= ms(2100), "{took:?}");
    assert!(traced(&w, "PingAck did not arrive in time.") && traced(&w, "-> NetworkFailure"));
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "the write ends with the local disk");
    assert!(marked(&w, 0) > 0, "and its block is marked");
    heals(&mut w);
}

#[test]
fn without_ko_count_a_frozen_disk_is_waited_for() {
    let mut w = traced_pair(&NetConfig { ko_count: 0, ..net() });
    w.hold_disk(1, true);
    let tag = issue(&mut w);
    w.run_for(secs(100));
    assert_eq!(answer(&mut w, tag), None);
    assert_eq!(w.state(0).0, ConnState::Connected);
    w.hold_disk(1, false);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    heals(&mut w);
}

/// Every write is acknowledged, but the barrier is not.
#[test]
fn an_unanswered_barrier_ends_in_timeout() {
    let mut w = traced_pair(&net());
    let tag = issue(&mut w);
    assert!(w.run_until(secs(1), |w| w.hooks.seen(1, Wire::WriteAck) == 1));
    w.hold_disk(1, true);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    let took = lost_after(&mut w);
    assert!(took >= secs(7) && took <= secs(9), "{took:?}");
    assert!(traced(&w, "-> Timeout"));
    assert_eq!(marked(&w, 0), 1, "acknowledged is not enough (drbd-wire trap 20)");
    w.hold_disk(1, false);
    heals(&mut w);
}

#[test]
fn a_data_socket_that_takes_nothing() {
    let mut w = traced_pair(&NetConfig { ko_count: 3, ..net() });
    w.block(0, Blocked::Data);
    let tag = issue(&mut w);
    let took = lost_after(&mut w);
    assert!(took >= secs(3) && took <= secs(4), "ko-count send timeouts: {took:?}");
    assert!(traced(&w, "sending stalled, ko = 2") && traced(&w, "sending stalled, ko = 1"));
    assert!(traced(&w, "-> Timeout"));
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    w.block(0, Blocked::No);
    heals(&mut w);
}

#[test]
fn a_stall_that_ends_in_time_costs_nothing() {
    let mut w = traced_pair(&NetConfig { ko_count: 3, ..net() });
    for _ in 0..3 {
        w.block(0, Blocked::Data);
        let tag = issue(&mut w);
        w.run_for(ms(2500));
        w.block(0, Blocked::No);
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        w.run_for(ms(100));
    }
    assert!(!traced(&w, "-> Timeout"));
    assert_eq!(w.state(0).0, ConnState::Connected);
    heals(&mut w);
}

/// The peer's host loses power: nobody closes the sockets.
#[test]
fn half_open_after_power_loss() {
    for away in [ms(10), secs(10)] {
        let mut w = traced_pair(&net());
        assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
        w.crash(1, true);
        w.run_for(away);
        w.start(1);
        w.connect(1, &net());
        let tag = issue(&mut w);
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        heals(&mut w);
    }
}

#[test]
fn a_peer_that_closes_is_noticed_at_once() {
    let mut w = traced_pair(&net());
    w.crash(1, false);
    let took = lost_after(&mut w);
    assert!(took < ms(10), "{took:?}");
    assert!(traced(&w, "-> BrokenPipe") || traced(&w, "-> NetworkFailure"));
    w.start(1);
    w.connect(1, &net());
    heals(&mut w);
}

#[test]
fn one_socket_is_reset_under_load() {
    let mut w = traced_pair(&net());
    for _ in 0..10 {
        scribble(&mut w, 0, 20, SECTORS);
        w.reset_one();
        scribble(&mut w, 0, 20, SECTORS);
        assert!(w.run_until(secs(30), World::in_sync));
    }
    heals(&mut w);
}

/// A cut shorter than any timeout: TCP sends again what was lost, and nobody notices.
#[test]
fn a_short_cut_is_bridged_by_tcp() {
    let mut w = traced_pair(&net());
    let tag = issue(&mut w);
    w.cut(true);
    w.run_for(ms(300));
    w.cut(false);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    assert!(!traced(&w, "conn("));
    heals(&mut w);
}
