//! Split brain, promotion, and who may be overwritten.

use super::*;
use model::policy::{Fencing, Protocol};
use model::state::Role;

/// Each node took a write without the other one, and both are Secondary.
fn split(seed: u64) -> World {
    let mut w = pair(seed);
    put(&mut w, 0, 1);
    w.run_for(ms(100));
    cut(&mut w);
    put(&mut w, 0, 5);
    assert_eq!(secondary(&mut w, 0), OK);
    assert_eq!(primary(&mut w, 1), OK);
    put(&mut w, 1, 6);
    assert_eq!(secondary(&mut w, 1), OK);
    w
}

fn fenced_pair(seed: u64, fencing: Fencing) -> World {
    let d = DiskConfig { fencing, ..DiskConfig::default() };
    pair_with(seed, SECTORS, &net(), [d.clone(), d])
}

/// DRBD 9.0.26: the first to notice closed the sockets before the other one had read the generations; that one tried
/// again for ever.
#[test]
fn split_brain_seen_by_one_side() {
    for n in 0..2 {
        for late in [Wire::Uuids, Wire::State] {
            for k in 0..20 {
                let mut w = split(k);
                w.hooks.keep(n, late);
                w.cut(false);
                kept(&mut w, n);
                events(&mut w, k * 3);
                if conn(&w, n) == ConnState::StandAlone {
                    // Of a socket that is closed the simulated network delivers nothing that was kept.
                    break;
                }
                w.pass(n);
                both_see_it(&mut w, n);
            }
        }
    }
    // A slow network: the first has closed its sockets long before the other one reads.
    for k in 0..20 {
        let mut w = split(k);
        w.weather.net_us = 3000;
        w.cut(false);
        both_see_it(&mut w, (k % 2) as usize);
    }
}

/// The same where the meta socket is faster than the data socket by more than a peer waits: its end must not come first.
#[test]
fn the_end_of_the_meta_socket_overtakes_no_verdict() {
    for k in 0..40 {
        let mut w = split(k);
        w.weather.net_us = 1000;
        w.weather.lag = [400, 1];
        w.cut(false);
        let refuses = |w: &World| (0..2).any(|n| conn(w, n) == ConnState::StandAlone);
        assert!(w.run_until(secs(20), refuses), "{:?} {:?}", w.volume(0), w.volume(1));
        assert!(w.run_until(secs(2), is_split), "{:?} {:?}", w.volume(0), w.volume(1));
    }
}

fn both_see_it(w: &mut World, loser: usize) {
    assert!(w.run_until(secs(10), is_split), "{:?} {:?}", w.volume(0), w.volume(1));
    ends_apart(w, loser);
}

/// DRBD 8.4.11: two disconnects crossed, and the refusal was read as a request to outdate oneself.
#[test]
fn crossing_disconnects_self_outdate() {
    for fencing in [Fencing::DontCare, Fencing::ResourceOnly] {
        for k in 0..24 {
            let mut w = fenced_pair(k, fencing);
            assert_eq!(secondary(&mut w, 0), OK);
            w.run_for(ms(50));
            w.weather.net_us = 300;
            let first = (k % 2) as usize;
            let ids = [w.command(first, Command::Disconnect { force: false }), {
                events(&mut w, k / 2);
                w.command(1 - first, Command::Disconnect { force: false })
            }];
            let ended = |w: &World| {
                ids.iter()
                    .all(|id| w.answers.iter().any(|(_, a)| matches!(a, Answer::Command(i, _) if i == id)))
            };
            assert!(w.run_until(secs(5), ended), "both end");
            for n in 0..2 {
                assert_eq!(w.state(n), (ConnState::StandAlone, DiskState::UpToDate), "node {}", n + 1);
            }
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.4.3 and 9.1.20: the link broke inside a disconnect, or before it, and the peer passed for Outdated though
/// nobody had told it.
#[test]
fn disconnect_on_a_dead_link() {
    for settled in [false, true] {
        for k in 0..16 {
            let mut w = pair(k);
            put(&mut w, 0, 1);
            w.run_for(ms(100));
            disconnect_on_dead_link(&mut w, settled, k % 4);
            assert_ne!(w.volume(0).unwrap().pdsk, DiskState::Outdated, "nobody has told it");
            put(&mut w, 0, 5);
            assert_eq!(primary(&mut w, 1), OK);
            put(&mut w, 1, 6);
            ends_apart(&mut w, 1);
        }
    }
}

/// DRBD 8.3.3: that the peer cannot be reached made a merely Consistent disk UpToDate. There is no handler here that
/// could say so yet; a promotion by hand is the same question.
#[test]
fn unreachable_peer_lifts_consistent() {
    let mut w = fenced_pair(5, Fencing::ResourceOnly);
    put(&mut w, 0, 1);
    w.run_for(ms(100));
    consistent_and_alone(&mut w);
    w.connect(1, &net());
    assert_ne!(primary(&mut w, 1), OK);
    ends_well(&mut w);
}

/// Longhorn and HAST: a copy in the middle of a resync was taken for a good one.
#[test]
fn failover_to_half_synced_copy() {
    for forced in [false, true] {
        let slow = DiskConfig { c_plan_ahead_ds: 0, resync_rate_kib_s: 200, ..DiskConfig::default() };
        let mut w = pair_with(6, SECTORS, &net(), [slow.clone(), slow]);
        let blocks: Vec<u64> = (0..80).map(|i| i * 3).collect();
        missed(&mut w, &blocks);
        w.cut(false);
        assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::SyncSource && marked(w, 0) < 40));
        w.crash(0, false);
        w.run_for(secs(2));
        assert_ne!(primary(&mut w, 1), OK, "half of it is old");
        if !forced {
            ends_well(&mut w);
            continue;
        }
        assert_eq!(w.command_and_wait(1, Command::Primary { force: true }), OK);
        put(&mut w, 1, 300);
        ends_apart(&mut w, 0);
    }
}

/// DRBD 9.0.31: equal generations after a crash; the crashed Primary became target and lost what protocol A had
/// completed.
#[test]
fn protocol_a_crash_direction() {
    let n = NetConfig { protocol: Protocol::A, ..net() };
    let mut hit = 0;
    for seed in 0..60 {
        let mut w = pair_with(seed, SECTORS, &n, [DiskConfig::default(), DiskConfig::default()]);
        put(&mut w, 0, 5);
        w.run_for(ms(100));
        w.weather.net_us = 2000;
        let tag = begin(&mut w, 0, 5);
        is_done(&mut w, tag);
        let newest = w.nodes[0].disk.read(at(5));
        w.cut(true);
        w.crash(0, false);
        w.run_for(secs(5));
        if w.nodes[1].disk.read(at(5)) == newest {
            continue;
        }
        hit += 1;
        w.hooks.packets.clear();
        settles(&mut w, &[n.clone(), n.clone()]);
        assert_eq!(w.nodes[1].disk.read(at(5)), newest, "the crashed Primary is the source");
        assert_eq!(resync_bytes(&w, 1), 0);
        ends_well_with(&mut w, &[n.clone(), n.clone()]);
    }
    assert!(hit > 5, "answered before it arrived: {hit} times");
}

/// DRBD 8.4.7: the crash mark of the peer that came back outweighed a running Primary whose I/O was frozen. Here the node
/// is promoted, frozen, while the crashed one connects.
#[test]
fn frozen_primary_made_target() {
    for k in (0..150).step_by(3) {
        let mut w = pair(k);
        put(&mut w, 0, 1);
        assert_eq!(secondary(&mut w, 0), OK);
        assert_eq!(primary(&mut w, 1), OK);
        put(&mut w, 1, 2);
        w.run_for(ms(100));
        w.crash(1, false);
        w.run_for(secs(2));
        assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
        w.start(1);
        w.connect(1, &net());
        events(&mut w, k);
        assert_eq!(primary(&mut w, 0), OK);
        let tag = begin(&mut w, 0, 5);
        w.run_for(secs(3));
        assert_eq!(answer(&mut w, tag), None, "frozen");
        assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
        is_done(&mut w, tag);
        assert_eq!(role(&w, 0), Role::Primary);
        ends_well(&mut w);
    }
}

/// A pair in Kubernetes: the survivor was StandAlone and the loser waited for a connection; a plain connect was refused,
/// and the loser never acted.
#[test]
fn recovery_from_standalone_pair() {
    for waiting in 0..4 {
        for survivor_first in [false, true] {
            let mut w = nodes(8, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
            for n in [1, 0] {
                // Each node is given its own generation alone.
                assert_eq!(w.command_and_wait(n, Command::Primary { force: true }), OK);
                put(&mut w, n, 5 + n as u64);
                assert_eq!(secondary(&mut w, n), OK);
            }
            w.hooks.record = true;
            meets(&mut w);
            assert!(is_split(&w), "{:?} {:?}", w.volume(0), w.volume(1));
            let held = [0, 1].map(|n: usize| w.nodes[n].disk.read(at(5 + n as u64)));
            for n in 0..2 {
                if waiting & 1 << n != 0 {
                    w.cut(true);
                    w.connect(n, &net());
                    w.run_for(secs(2));
                }
            }
            w.cut(false);
            w.run_for(secs(10));
            let now = [0, 1].map(|n: usize| w.nodes[n].disk.read(at(5 + n as u64)));
            assert_eq!(now, held, "nothing is overwritten");
            let order = if survivor_first { [0, 1] } else { [1, 0] };
            w.truth.word[1] = true;
            for round in 0..2 {
                for n in order {
                    w.command_and_wait(n, Command::Disconnect { force: round == 1 });
                    let discard_my_data = n == 1;
                    w.connect(n, &NetConfig { discard_my_data, ..net() });
                    w.run_for(ms(1500));
                }
                if w.run_until(secs(10), World::in_sync) {
                    break;
                }
            }
            heals(&mut w);
            assert_eq!(resync_bytes(&w, 1), 0, "to the loser");
            ends_well(&mut w);
        }
    }
}

/// An operator's word against the copy of a node was kept for as long as the connection: another copy that was attached later, and
/// had a past of its own, was overwritten for the sake of it.
#[test]
fn discard_my_data_is_said_of_one_copy() {
    let mut w = nodes(9, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    for n in [1, 0] {
        assert_eq!(w.command_and_wait(n, Command::Primary { force: true }), OK);
        put(&mut w, n, 5 + n as u64);
        assert_eq!(secondary(&mut w, n), OK);
    }
    w.run_for(secs(10));
    let other = w.nodes[1].disk.clone();
    w.truth.word[1] = true;
    w.connect(0, &net());
    w.connect(1, &NetConfig { discard_my_data: true, ..net() });
    assert!(w.run_until(secs(30), World::in_sync), "{:?} {:?}", w.volume(0), w.volume(1));
    assert_eq!(w.command_and_wait(1, DETACH), OK);
    w.run_for(secs(1));
    w.nodes[1].disk = other;
    let held = w.nodes[1].disk.read(at(6));
    w.attach(1);
    w.run_for(secs(10));
    assert_eq!(w.nodes[1].disk.read(at(6)), held, "it is refused");
    assert_eq!(w.state(1), (ConnState::Connected, DiskState::Diskless));
}
