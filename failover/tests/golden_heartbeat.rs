//! Recordings of heartbeat 3.0.6: every datagram is read, its signatures are right, and it is made again octet by octet.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use failover::heartbeat::message::{Form, Message, MessageError};
use failover::heartbeat::{Action, Event, Membership, NodeState};
use model::failover::heartbeat::{AuthKey, HeartbeatMembership, Medium};
use model::time::{Duration, Instant};

/// Time and payload of the UDP packets in a classic pcap file, little-endian, over IPv4 without options.
fn datagrams(name: &str) -> Vec<(Duration, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/failover/heartbeat").join(name);
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1], "{name} is a pcap file");
    let (mut rest, mut found) = (&file[24..], Vec::new());
    while let Some((head, data)) = rest.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let (frame, after) = data.split_at(word(8) as usize);
        rest = after;
        if frame[12..15] == [0x08, 0x00, 0x45] && frame[23] == 17 {
            let bytes = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
            let at = Duration::new(word(0).into(), word(4) * 1000);
            found.push((at, frame[42..34 + bytes].to_vec()));
        }
    }
    found
}

fn keys(number: u8, key: AuthKey) -> BTreeMap<u8, AuthKey> {
    BTreeMap::from([(number, key)])
}

fn sha1() -> AuthKey {
    AuthKey::Sha1("cluster".into())
}

fn md5() -> AuthKey {
    AuthKey::Md5("cluster".into())
}

#[test]
fn every_recorded_datagram_is_read_and_made_again_octet_by_octet() {
    let rows = [
        ("bcast-crc-netstring.pcap", keys(2, AuthKey::Crc), true),
        ("bcast-sha1-classic.pcap", keys(2, sha1()), false),
        ("mcast-md5-default.pcap", keys(2, md5()), false),
        ("mcast-md5-netstring.pcap", keys(2, md5()), true),
        ("ucast-sha1-life.pcap", keys(1, sha1()), false),
    ];
    let mut types = BTreeSet::new();
    for (name, keys, netstring) in rows {
        let all = datagrams(name);
        assert!(all.len() >= 4, "{name}: {}", all.len());
        let key = *keys.keys().next().unwrap();
        for (_, datagram) in &all {
            let (message, form) = Message::decode(datagram, &keys).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(form, Form { key, netstring }, "{name}");
            assert_eq!(message.encode(form, &keys), *datagram, "{name}");
            types.insert(message.message_type().unwrap().to_owned());
        }
        // Another key, and a changed octet anywhere.
        let first = &all[0].1;
        let wrong = BTreeMap::from([(key, AuthKey::Sha1("other".into()))]);
        assert_eq!(Message::decode(first, &wrong), Err(MessageError::Signature(key)), "{name}");
        let other = BTreeMap::from([(15, sha1())]);
        assert_eq!(Message::decode(first, &other), Err(MessageError::UnknownKey(key)), "{name}");
        for at in 0..first.len() {
            let mut bent = first.clone();
            bent[at] ^= 1;
            assert!(Message::decode(&bent, &keys).is_err(), "{name}: octet {at}");
            assert!(Message::decode(&first[..at], &keys).is_err(), "{name}: {at} octets");
        }
    }
    for wanted in ["status", "NS_ackmsg", "reqnodes", "starting", "resource", "stonith", "shutdone"] {
        assert!(types.contains(wanted), "{wanted}");
    }
}

/// Node B's view of the recorded life of node A: four minutes with crashes, starts and a goodbye at the end. The capture
/// has fewer beats than there were, so the dead time is long.
#[test]
fn a_recorded_life_is_followed() {
    let cfg = HeartbeatMembership {
        deadtime: Duration::from_secs(30),
        nodes: vec!["nodea".into(), "nodeb".into()],
        media: vec![Medium::Broadcast { interface: "eth0".into(), port: 694 }],
        keys: keys(1, sha1()),
        signs_with: 1,
        ..HeartbeatMembership::default()
    };
    let all = datagrams("ucast-sha1-life.pcap");
    let began = all[0].0;
    let start = Instant::default();
    let mut membership = Membership::new(&cfg, "nodeb", start, 1).unwrap();
    let (mut out, mut states) = (Vec::new(), Vec::new());
    for (at, datagram) in &all {
        if Message::decode(datagram, &cfg.keys).unwrap().0.text("src") != Some("nodea") {
            continue;
        }
        let now = start + (*at - began);
        membership.handle(now, Event::Datagram { source: "10.77.0.1:694", bytes: datagram }, &mut out);
        let state = membership.status().nodes[0].state;
        if states.last() != Some(&state) {
            states.push(state);
        }
    }
    assert_eq!(states.first(), Some(&NodeState::Up));
    assert_eq!(states.last(), Some(&NodeState::Left), "{states:?}");
    assert_eq!(membership.status().refused, 0, "{:?}", membership.status().last_refusal);
    let again = |a: &&Action| matches!(a, Action::Info(text) if text.ends_with("has started again"));
    assert!(out.iter().filter(again).count() > 0, "it was killed and came back");
    let acknowledged = |a: &&Action| match a {
        Action::Send(datagram) => {
            let (message, _) = Message::decode(datagram, &cfg.keys).unwrap();
            message.message_type() == Some("NS_ackmsg") && message.text("dest") == Some("nodea")
        }
        Action::Info(_) | Action::Warn(_) => false,
    };
    assert!(out.iter().filter(acknowledged).count() > 3);
}
