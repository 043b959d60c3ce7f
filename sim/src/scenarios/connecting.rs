//! Finding each other, and every reason to refuse (drbd-wire 1, 3).

use super::*;
use model::policy::AfterSb0;
use model::result_code::ConfigError;
use replicator::wire::{ConnectionFeatures, Features, Header, HeaderForm};
use replicator::{Auth, HmacAlg};

fn secret(alg: HmacAlg, text: &str) -> Option<Auth> {
    Some(Auth { alg, secret: text.as_bytes().to_vec() })
}

/// Fresh nodes connect with different options; long enough for every verdict.
fn meet(seed: u64, nets: [NetConfig; 2]) -> World {
    let mut w = nodes(seed, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    w.hooks.record = true;
    w.connect(0, &nets[0]);
    w.connect(1, &nets[1]);
    w.run_for(secs(20));
    w
}

fn changed(change: impl Fn(&mut NetConfig)) -> NetConfig {
    let mut n = net();
    change(&mut n);
    n
}

#[test]
fn both_start_at_once_in_every_order() {
    for seed in 0..100 {
        let mut w = World::new(seed, SECTORS, DiskConfig::default());
        let first = w.rng.below(2) as usize;
        w.weather.net_us = 1 + w.rng.below(2000);
        w.start(first);
        let gap = [0, 50, 100_000, 900_000][w.rng.below(4) as usize];
        w.connect(first, &net());
        let gap = w.rng.below(gap + 1);
        w.run_for(Duration::from_micros(gap));
        w.start(1 - first);
        w.connect(1 - first, &net());
        // A crossing costs a passive wait of at most connect-int + 1/7 and a settle time; the coin may ask for more.
        let up = w.run_until(secs(20), |w| (0..2).all(|n| w.state(n).0 == ConnState::Connected));
        assert!(up, "seed {seed}: {:?} {:?}", w.state(0), w.state(1));
        let flags = [0, 1].map(|n| w.nodes[n].core.as_ref().unwrap().conflict_flag());
        assert_ne!(flags[0], flags[1], "seed {seed}: exactly one node accepted the meta socket");
    }
}

#[test]
fn secrets_that_are_equal() {
    for alg in [HmacAlg::Sha1, HmacAlg::Sha256] {
        let n = changed(|n| n.auth = secret(alg, "FooFunFactory"));
        let w = meet(1, [n.clone(), n]);
        assert_eq!(w.state(0).0, ConnState::Connected);
        assert_eq!(w.hooks.seen(0, Wire::AuthResponse), 1);
        assert_eq!(w.hooks.seen(1, Wire::AuthResponse), 1);
    }
}

/// spec: drbd-wire 3.3, golden/wire 16: the node with the secret stands alone, the other keeps trying.
#[test]
fn secret_on_one_side_only() {
    let a = changed(|n| n.auth = secret(HmacAlg::Sha1, "secret"));
    let w = meet(1, [a, net()]);
    stands_alone(&w, 0, "Authentication of peer failed");
    assert!((ConnState::Unconnected..=ConnState::WFReportParams).contains(&w.state(1).0), "{:?}", w.state(1));
    assert_eq!(reason(&w, 1), None);
}

/// Header 80 of a packet without a body.
fn bare(command: u16) -> Vec<u8> {
    [&0x8374_0267u32.to_be_bytes()[..], &command.to_be_bytes(), &[0, 0]].concat()
}

/// A stranger with two sockets and well-formed packets got as far as the negotiation of features, and what it said there
/// ended the replication until an operator came.
#[test]
fn a_stranger_who_speaks_well_does_not_end_the_replication() {
    let (initial_data, initial_meta, ping) = (bare(0xfff2), bare(0xfff1), bare(0x2a));
    for word in [&initial_meta, &ping] {
        let mut w = nodes(7, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
        w.connect(0, &net());
        let mut ends = Vec::new();
        while ends.len() < 2 {
            w.run_for(ms(10));
            ends.extend(w.stranger_connects(0));
        }
        w.stranger_says(ends[0], &initial_data);
        w.stranger_says(ends[1], &initial_meta);
        w.run_for(secs(1));
        w.stranger_says(ends[0], word);
        w.run_for(secs(5));
        assert_eq!(reason(&w, 0), None);
        link_up(&mut w, &net());
    }
}

#[test]
fn discard_local_matches_discard_remote() {
    let local = changed(|n| n.after_sb_0pri = AfterSb0::DiscardLocal);
    let remote = changed(|n| n.after_sb_0pri = AfterSb0::DiscardRemote);
    let w = meet(3, [local.clone(), remote]);
    assert_eq!(w.state(0).0, ConnState::Connected);
    let w = meet(3, [local.clone(), local]);
    stands_alone(&w, 0, "after-sb-0pri");
    stands_alone(&w, 1, "after-sb-0pri");
}

#[test]
fn both_want_to_discard_their_data() {
    let n = changed(|n| n.discard_my_data = true);
    let w = meet(3, [n.clone(), n]);
    for n in 0..2 {
        stands_alone(&w, n, "discard-my-data");
    }
}

#[test]
fn no_common_version() {
    let mut w = nodes(1, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    // Node 2 speaks DRBD 9 only.
    w.hooks.tamper = Some(|from, command, body| {
        if from == 1 && command == Wire::ConnectionFeatures {
            body[0..4].copy_from_slice(&110u32.to_be_bytes());
            body[8..12].copy_from_slice(&118u32.to_be_bytes());
        }
    });
    w.connect(0, &net());
    w.connect(1, &net());
    w.run_for(secs(20));
    stands_alone(&w, 0, "incompatible protocol versions");
}

#[test]
fn discard_my_data_is_refused_while_primary() {
    let mut w = pair(6);
    disconnect(&mut w, 0);
    let n = changed(|n| n.discard_my_data = true);
    let refused = w.command_and_wait(0, Command::Connect(Box::new(n)));
    assert_eq!(refused, CommandResult::Config(ConfigError::DiscardImpossible));
    assert_eq!(w.state(0).0, ConnState::StandAlone);
}

#[test]
fn connecting_twice_and_disconnecting_twice() {
    let mut w = pair(7);
    let again = w.command_and_wait(0, Command::Connect(Box::new(net())));
    assert_eq!(again, CommandResult::Config(ConfigError::NetConfigured));
    disconnect(&mut w, 0);
    assert_eq!(w.state(0).0, ConnState::StandAlone);
    assert_eq!(reason(&w, 0), None, "an operator's wish needs no reason");
    let again = w.command_and_wait(0, Command::Disconnect { force: false });
    assert_eq!(again, CommandResult::Config(ConfigError::InvalidRequest));
    // The peer was told, and waits for us.
    assert!((ConnState::Unconnected..=ConnState::WFConnection).contains(&w.state(1).0));
    w.connect(0, &net());
    heals(&mut w);
}

#[test]
fn a_dry_run_drops_the_connection_and_changes_nothing() {
    let mut w = pair(8);
    disconnect(&mut w, 0);
    assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
    let before = uuids(&w, 0);
    w.connect(0, &changed(|n| n.tentative = true));
    w.run_for(secs(5));
    stands_alone(&w, 0, "dry run");
    assert!(w.state(1).0 < ConnState::Connected && w.state(1).0 > ConnState::StandAlone);
    assert_eq!(uuids(&w, 0), before);
    assert_eq!(resync_bytes(&w, 0), 0);
    w.connect(0, &net());
    heals(&mut w);
}

/// A packet of a program that is not the peer.
fn packet(form: HeaderForm, command: Wire, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { form, vnr: 0, command, len: body.len() as u32 }.encode(&mut bytes);
    bytes.extend(body);
    bytes
}

/// Programs that are not the peer say what a peer would say, in a wrong order. Whoever said any other packet than the
/// features, or behind them any other than the challenge, ended the replication until an operator came.
#[test]
fn strangers_that_speak_in_packets_end_nothing() {
    let old = |command, body: &[u8]| packet(HeaderForm::H80, command, body);
    let new = |command, body: &[u8]| packet(HeaderForm::H100, command, body);
    let (data, meta) = (old(Wire::InitialData, &[]), old(Wire::InitialMeta, &[]));
    let mut features = Vec::new();
    ConnectionFeatures { version_min: 86, features: Features::ALL, version_max: 101 }.encode(&mut features);
    let features = old(Wire::ConnectionFeatures, &features);
    let says = [
        (false, vec![meta.clone()]),
        (false, vec![data.clone()]),
        (false, vec![old(Wire::State, &[0; 4])]),
        (false, vec![old(Wire::Protocol, &[0; 24])]),
        (false, vec![old(Wire::UnplugRemote, &[])]),
        (true, vec![features.clone(), new(Wire::State, &[0; 4])]),
        (true, vec![features.clone(), new(Wire::UnplugRemote, &[])]),
        (true, vec![features.clone(), new(Wire::AuthResponse, &[0; 20])]),
    ];
    for (i, (with_secret, packets)) in says.iter().enumerate() {
        let auth = if *with_secret { secret(HmacAlg::Sha1, "a secret") } else { None };
        let net = NetConfig { auth, ..net() };
        let mut w = pair_with(i as u64, SECTORS, &net, [DiskConfig::default(), DiskConfig::default()]);
        assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
        w.crash(1, false);
        let mut heard = 0;
        for _ in 0..20 {
            w.run_for(ms(700));
            let ends = [w.stranger_connects(0), w.stranger_connects(0)];
            let [Some(a), Some(b)] = ends else { continue };
            heard += 1;
            w.stranger_says(a, &data);
            w.stranger_says(b, &meta);
            for p in packets {
                w.run_for(ms(10));
                w.stranger_says(a, p);
            }
        }
        assert!(heard > 3, "{i}");
        w.run_for(secs(10));
        w.start(1);
        w.connect(1, &net);
        assert!(w.run_until(secs(30), World::in_sync), "{i}: {:?} {:?}", w.state(0), w.state(1));
        heals(&mut w);
    }
}

/// Options that changed while the peer was waited for made a connection of the dry run, and a resync.
#[test]
fn a_dry_run_stays_one_when_options_change() {
    let mut w = pair(9);
    disconnect(&mut w, 0);
    assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
    assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
    w.connect(0, &changed(|n| n.tentative = true));
    w.run_for(secs(1));
    let options = changed(|n| n.ping_int = secs(5));
    assert_eq!(w.command_and_wait(0, Command::NetOptions(Box::new(options))), OK);
    w.connect(1, &net());
    w.run_for(secs(5));
    stands_alone(&w, 0, "dry run");
    assert_eq!(resync_bytes(&w, 0), 0);
    w.connect(0, &net());
    heals(&mut w);
}
