//! Datagrams of heartbeat: what is accepted is made again octet by octet, and a node that hears them in any order keeps its
//! invariants. Those that are signed with the wrong key, or not at all, go no further than the codec.

use std::collections::BTreeMap;

use failover::heartbeat::message::{Form, Message};
use failover::heartbeat::{Action, Event, Membership, NodeState};
use model::failover::heartbeat::{AuthKey, HeartbeatMembership, Medium};
use model::time::{Duration, Instant};

/// So many pieces of an input are looked at.
const PIECES_MAX: usize = 32;
/// What a node may say in answer to one datagram: all that it has kept, and little more.
const ANSWERS_MAX: usize = 72;

fn membership(how: u8) -> HeartbeatMembership {
    let secret = || "cluster".to_owned();
    let keys = [(1, AuthKey::Sha1(secret())), (2, AuthKey::Crc), (3, AuthKey::Md5(secret()))];
    HeartbeatMembership {
        keepalive: Duration::from_secs(1),
        deadtime: Duration::from_secs(5),
        warntime: (how & 1 != 0).then_some(Duration::from_secs(3)),
        initdead: (how & 2 != 0).then_some(Duration::from_secs(20)),
        nodes: vec!["nodea".into(), "nodeb".into()],
        media: vec![Medium::Broadcast { interface: "eth0".into(), port: 694 }],
        netstring: how & 4 != 0,
        signs_with: 1 + how % 3,
        keys: BTreeMap::from(keys),
        ..HeartbeatMembership::default()
    }
}

/// The same fields, rightly signed: what an input has to say must not depend on its guessing a digest.
fn signed(piece: &[u8], keys: &BTreeMap<u8, AuthKey>) -> Vec<u8> {
    let body = piece.windows(4).position(|w| w == b"%%%\n").map_or(piece, |at| &piece[..at]);
    let whole = [if body.starts_with(b"###\n") { b"" } else { &b"###\n"[..] }, body, b"%%%\n"].concat();
    let signature = format!("2 {}", failover::heartbeat::auth::sign(&keys[&2], &whole));
    [&whole[..], format!("{}:{signature},", signature.len()).as_bytes()].concat()
}

/// One input: how the node is configured, then datagrams between 0xff 0xff: each begins with an octet that says how much later
/// it comes, and whether it is signed for it.
pub fn run(data: &[u8]) {
    let [how, rest @ ..] = data else { return };
    let cfg = membership(*how);
    let mut now = Instant::default() + Duration::from_secs(1000);
    let host = if how & 8 == 0 { "nodeb" } else { "NODEA" };
    let mut node = Membership::new(&cfg, host, now, 0x6b00_0000).expect("it is complete");
    let mut pieces = vec![Vec::new()];
    for byte in rest.iter().take(65_536) {
        pieces.last_mut().expect("there is one").push(*byte);
        let last = pieces.last_mut().expect("there is one");
        if last.ends_with(&[0xff, 0xff]) {
            last.truncate(last.len() - 2);
            pieces.push(Vec::new());
        }
    }
    for piece in pieces.iter().take(PIECES_MAX) {
        let [pause, datagram @ ..] = &piece[..] else { continue };
        now += Duration::from_millis(u64::from(pause >> 1) * 100);
        let datagram = if pause & 1 == 0 { datagram.to_vec() } else { signed(datagram, &cfg.keys) };
        if let Ok((message, form)) = Message::decode(&datagram, &cfg.keys) {
            check(&message, form, &datagram, &cfg.keys);
        }
        let mut out = Vec::new();
        node.handle(now, Event::Datagram { source: "10.77.0.2:694", bytes: &datagram }, &mut out);
        assert!(out.len() < ANSWERS_MAX, "{} answers", out.len());
        for action in &out {
            if let Action::Send(sent) = action {
                let (message, _) = Message::decode(sent, &cfg.keys).expect("what is sent is a message");
                let src = message.text("src").expect("it has a sender");
                assert!(src.eq_ignore_ascii_case(host) && message.message_type().is_some());
            }
        }
        let deadline = node.deadline(now);
        assert!(deadline > now && deadline <= now + cfg.keepalive);
        let status = node.status();
        assert_eq!(status.nodes.len(), 1);
        let other = &status.nodes[0];
        if other.state == NodeState::Up {
            assert!(other.heard.is_some(), "it is up because it was heard");
        }
    }
}

fn check(message: &Message, form: Form, datagram: &[u8], keys: &BTreeMap<u8, AuthKey>) {
    let again = message.encode(form, keys);
    let opaque =
        message.fields().iter().any(|f| matches!(f.kind, failover::heartbeat::message::Kind::Other(_)));
    // The classic signature of what cannot be looked into is taken as it is.
    if form.netstring || !opaque {
        assert_eq!(again, datagram);
    }
    assert_eq!(Message::decode(&again, keys), Ok((message.clone(), form)));
}
