use std::collections::BTreeMap;

use model::failover::heartbeat::{AuthKey, Medium};
use proptest::prelude::*;

use super::*;

const S: Duration = Duration::from_secs(1);

fn cfg() -> HeartbeatMembership {
    HeartbeatMembership {
        keepalive: S,
        deadtime: 5 * S,
        warntime: Some(3 * S),
        initdead: Some(10 * S),
        nodes: vec!["Alpha".into(), "beta".into()],
        media: vec![Medium::Broadcast { interface: "eth0".into(), port: 694 }],
        signs_with: 1,
        keys: BTreeMap::from([(1, AuthKey::Sha1("s".into())), (2, AuthKey::Crc)]),
        ..HeartbeatMembership::default()
    }
}

fn at(ms: u64) -> Instant {
    Instant::default() + Duration::from_secs(100) + Duration::from_millis(ms)
}

fn node(host: &str, generation: u64) -> Membership {
    Membership::new(&cfg(), host, at(0), generation).unwrap()
}

fn sent(out: &[Action]) -> Vec<Message> {
    let datagram = |a: &Action| match a {
        Action::Send(bytes) => Some(Message::decode(bytes, &cfg().keys).unwrap().0),
        Action::Info(_) | Action::Warn(_) => None,
    };
    out.iter().filter_map(datagram).collect()
}

fn told(out: &[Action]) -> Vec<&str> {
    let text = |a| match a {
        &Action::Send(_) => None,
        Action::Info(text) | Action::Warn(text) => Some(text.as_str()),
    };
    out.iter().filter_map(text).collect()
}

fn handle(m: &mut Membership, ms: u64, event: Event<'_>) -> Vec<Action> {
    let mut out = Vec::new();
    m.handle(at(ms), event, &mut out);
    out
}

fn hear(m: &mut Membership, ms: u64, message: &Message) -> Vec<Action> {
    let bytes = message.encode(Form { key: 2, netstring: true }, &cfg().keys);
    handle(m, ms, Event::Datagram { source: "10.0.0.2", bytes: &bytes })
}

/// A message of beta.
fn beta(message_type: &str, generation: u64, seq: u64) -> Message {
    let hex = |n: u64| format!("{n:x}");
    Message::new(message_type)
        .with("src", "BETA")
        .with_binary("srcuuid", &[7; 16])
        .with("seq", &hex(seq))
        .with("hg", &hex(generation))
        .with("ts", &hex(generation))
        .with("ttl", "3")
}

fn state(m: &Membership) -> NodeState {
    m.status().nodes[0].state
}

#[test]
fn the_first_beats_are_those_of_a_start() {
    let mut m = node("alpha", 0x6b00);
    let beats = sent(&handle(&mut m, 0, Event::Tick));
    let states: Vec<_> = beats.iter().map(|b| (b.text("st"), b.number("seq"), b.number("dt"))).collect();
    assert_eq!(states, [(Some("init"), Some(1), Some(7000)), (Some("up"), Some(2), Some(7000))]);
    assert_eq!((beats[0].text("src"), beats[0].number("ttl")), (Some("Alpha"), Some(3)));
    assert_eq!((beats[0].number("hg"), beats[0].number("ts")), (Some(0x6b00), Some(0x6b00)));
    assert_eq!(m.deadline(at(0)), at(1000));
    let beats = sent(&handle(&mut m, 1000, Event::Tick));
    assert_eq!((beats.len(), beats[0].text("st"), beats[0].number("seq")), (1, Some("active"), Some(3)));
    let later = sent(&handle(&mut m, 6000, Event::Tick));
    assert_eq!((later.len(), later[0].number("dt"), later[0].number("ts")), (1, Some(5000), Some(0x6b06)));
    assert!(sent(&handle(&mut m, 6999, Event::Tick)).is_empty());
}

/// Ticks in between, as a driver does.
fn wait(m: &mut Membership, from_ms: u64, to_ms: u64) -> Vec<Action> {
    (from_ms..=to_ms).step_by(500).flat_map(|ms| handle(m, ms, Event::Tick)).collect()
}

#[test]
fn a_node_is_up_then_late_then_dead_then_up_again() {
    let mut m = node("alpha", 1);
    assert_eq!((state(&m), m.status().is_alive("Beta")), (NodeState::Unknown, None));
    assert_eq!(told(&hear(&mut m, 100, &beta("status", 9, 1))), ["heartbeat: node beta is up"]);
    assert_eq!(m.status().is_alive("Beta"), Some(true));
    assert_eq!(told(&wait(&mut m, 500, 3000)), [""; 0]);
    assert_eq!(told(&wait(&mut m, 3500, 4500)), ["heartbeat: node beta is late: silent for 3400 ms"]);
    assert!(m.status().nodes[0].late);
    assert_eq!(told(&wait(&mut m, 5000, 20_000)), ["heartbeat: node beta is dead: silent for 5400 ms"]);
    assert_eq!((m.status().is_alive("beta"), m.status().nodes[0].since), (Some(false), at(5500)));
    assert_eq!(told(&hear(&mut m, 20_000, &beta("status", 9, 2))), ["heartbeat: node beta is up"]);
    assert_eq!(told(&wait(&mut m, 20_500, 23_500)).len(), 1);
    let back = hear(&mut m, 23_600, &beta("status", 9, 3));
    assert_eq!(told(&back), ["heartbeat: node beta is heard again after 3600 ms"]);
}

#[test]
fn a_node_that_was_never_seen_has_initdead() {
    let mut m = node("alpha", 1);
    assert_eq!(told(&wait(&mut m, 0, 9500)), [""; 0]);
    assert_eq!(told(&wait(&mut m, 10_000, 30_000)), ["heartbeat: node beta is dead: silent for 10000 ms"]);
}

#[test]
fn a_node_that_slept_itself_accuses_nobody() {
    let mut m = node("alpha", 1);
    hear(&mut m, 0, &beta("status", 9, 1));
    wait(&mut m, 0, 1000);
    assert_eq!(told(&handle(&mut m, 60_000, Event::Tick)), [""; 0]);
    assert_eq!(state(&m), NodeState::Up);
    // What it was awake for counts: a second before, and one pause between beats.
    assert_eq!(told(&wait(&mut m, 60_500, 62_500)).len(), 1, "late");
    assert_eq!(told(&wait(&mut m, 63_000, 63_000)).len(), 1, "dead");
    assert_eq!(state(&m), NodeState::Dead);
}

#[test]
fn a_goodbye_counts_at_once_and_for_its_generation() {
    let mut m = node("alpha", 1);
    hear(&mut m, 0, &beta("status", 9, 1));
    assert_eq!(told(&hear(&mut m, 100, &beta("shutdone", 9, 5))), ["heartbeat: node beta has left"]);
    assert_eq!(m.status().is_alive("beta"), Some(false));
    assert_eq!(told(&hear(&mut m, 200, &beta("status", 9, 4))), [""; 0], "it was on its way");
    assert_eq!(told(&wait(&mut m, 500, 30_000)), [""; 0], "nobody is surprised");
    assert_eq!(told(&hear(&mut m, 30_000, &beta("status", 10, 1))), ["heartbeat: node beta is up"]);
}

#[test]
fn replays_duplicates_and_messages_without_a_number_are_no_sign_of_life() {
    let mut m = node("alpha", 1);
    hear(&mut m, 0, &beta("status", 9, 1));
    hear(&mut m, 0, &beta("status", 10, 1));
    assert_eq!(m.status().refused, 0);
    let ack = Message::new("NS_ackmsg").with("src", "beta").with("hg", "a").with("ttl", "3");
    for ms in (500..5000).step_by(500) {
        hear(&mut m, ms, &beta("status", 10, 1));
        hear(&mut m, ms, &beta("status", 9, 70 + ms));
        hear(&mut m, ms, &ack);
    }
    assert_eq!(m.status().refused, 9);
    assert_eq!(m.status().last_refusal.as_deref(), Some("from 10.0.0.2: node beta: generation 9 is over"));
    handle(&mut m, 5000, Event::Tick);
    assert_eq!(state(&m), NodeState::Dead);
}

#[test]
fn strangers_and_wrong_keys_are_refused_in_one_line_a_minute() {
    let mut m = node("alpha", 1);
    let stranger =
        Message::new("status").with("src", "ga\nmma").with("seq", "1").with("hg", "1").with("ttl", "3");
    let first = hear(&mut m, 1, &stranger);
    let line = "heartbeat: refused a message from 10.0.0.2: node ga.mma is not one of its nodes (1 so far)";
    assert_eq!(told(&first), [line]);
    let wrong = BTreeMap::from([(1, AuthKey::Sha1("other".into()))]);
    let bytes = beta("status", 9, 1).encode(Form { key: 1, netstring: true }, &wrong);
    for ms in 2..500 {
        assert_eq!(told(&handle(&mut m, ms, Event::Datagram { source: "x", bytes: &bytes })), [""; 0]);
    }
    assert_eq!((m.status().refused, state(&m)), (499, NodeState::Unknown));
    let unknown =
        beta("status", 9, 1).encode(Form { key: 3, netstring: true }, &BTreeMap::from([(3, AuthKey::Crc)]));
    let told_again = handle(&mut m, 60_001, Event::Datagram { source: "x", bytes: &unknown });
    assert!(
        told(&told_again)[0].contains("signed with key 3, which is not in authkeys (500 so far)"),
        "{told_again:?}"
    );
}

#[test]
fn messages_that_lack_what_every_one_has_are_refused() {
    let mut m = node("alpha", 1);
    let whole = beta("status", 9, 1);
    for lacking in ["t", "src", "hg", "ttl", "seq"] {
        let rest = whole.fields().iter().filter(|f| f.name != lacking);
        let message =
            rest.fold(Message::default(), |m, f| m.with(&f.name, &String::from_utf8_lossy(&f.value)));
        hear(&mut m, 1, &message);
        let why = m.status().last_refusal.unwrap();
        assert!(why.contains(&format!("'{lacking}'")), "{why}");
    }
    let no_hops =
        Message::new("status").with("src", "beta").with("seq", "1").with("hg", "1").with("ttl", "0");
    hear(&mut m, 1, &no_hops);
    assert_eq!((m.status().refused, state(&m)), (6, NodeState::Unknown));
}

#[test]
fn own_messages_come_back_unnoticed_and_a_second_node_of_the_name_is_told_of() {
    let mut m = node("alpha", 50);
    let mine = handle(&mut m, 0, Event::Tick);
    for action in &mine {
        let Action::Send(bytes) = action else { continue };
        assert_eq!(handle(&mut m, 1, Event::Datagram { source: "self", bytes }), []);
    }
    let earlier = handle(&mut node("alpha", 49), 0, Event::Tick);
    let Action::Send(bytes) = &earlier[0] else { panic!("a beat") };
    assert_eq!(handle(&mut m, 2, Event::Datagram { source: "self", bytes }), []);
    let later = handle(&mut node("alpha", 51), 0, Event::Tick);
    let Action::Send(bytes) = &later[0] else { panic!("a beat") };
    let out = handle(&mut m, 3, Event::Datagram { source: "x", bytes });
    assert!(told(&out)[0].contains("another node calls itself Alpha"), "{out:?}");
}

#[test]
fn two_nodes_see_each_other_start_and_leave() {
    let (mut a, mut b) = (node("alpha", 100), node("BETA", 90));
    let mut acks = 0;
    for ms in (0..20_000).step_by(1000) {
        let mut to_b = handle(&mut a, ms, Event::Tick);
        let mut to_a = handle(&mut b, ms, Event::Tick);
        while !to_a.is_empty() || !to_b.is_empty() {
            let mut deliver = |to: &mut Membership, all: Vec<Action>| -> Vec<Action> {
                let messages = sent(&all);
                acks += messages.iter().filter(|m| m.message_type() == Some("NS_ackmsg")).count();
                let encode = |m: &Message| m.encode(Form { key: 2, netstring: true }, &cfg().keys);
                let datagrams: Vec<Vec<u8>> = messages.iter().map(encode).collect();
                datagrams
                    .iter()
                    .flat_map(|bytes| handle(to, ms, Event::Datagram { source: "x", bytes }))
                    .collect()
            };
            let answers = deliver(&mut b, to_b);
            to_b = deliver(&mut a, to_a);
            to_a = answers;
        }
    }
    assert_eq!((a.status().is_alive("beta"), b.status().is_alive("alpha")), (Some(true), Some(true)));
    assert_eq!(acks, 4, "numbers 10 and 20 of each");
    let goodbye = handle(&mut a, 20_000, Event::Stop);
    assert_eq!(sent(&goodbye).iter().map(|m| m.message_type()).collect::<Vec<_>>(), [Some("shutdone"); 2]);
    for action in goodbye {
        let Action::Send(bytes) = action else { continue };
        handle(&mut b, 20_000, Event::Datagram { source: "a", bytes: &bytes });
    }
    assert_eq!(state(&b), NodeState::Left);
    assert_eq!(handle(&mut a, 30_000, Event::Tick), [], "it is gone");
}

#[test]
fn who_asks_for_the_nodes_is_answered() {
    let mut m = node("alpha", 1);
    let ask = beta("reqnodes", 9, 1).with("dest", "alpha");
    let answer = sent(&hear(&mut m, 1, &ask));
    let answer = answer.iter().find(|a| a.message_type() == Some("repnodes")).unwrap();
    assert_eq!((answer.text("dest"), answer.text("nodelist")), (Some("beta"), Some("Alpha beta ")));
    assert_eq!((answer.text("delnodelist"), answer.binary("destuuid")), (Some(" "), Some(&[7; 16][..])));
    assert_eq!(answer.fields()[0].name, "dest");
}

#[test]
fn what_was_missed_is_sent_again_or_refused() {
    let mut m = node("alpha", 1);
    hear(&mut m, 0, &beta("status", 9, 1));
    for ms in 1..100 {
        handle(&mut m, ms * 1000, Event::Tick);
    }
    let ask = |first: &str, last: &str| {
        let message = Message::new("NS_rexmit").with("dest", "alpha").with("src", "beta").with("hg", "9");
        message.with("ttl", "3").with("firstseq", first).with("lastseq", last)
    };
    let again = sent(&hear(&mut m, 99_500, &ask("61", "62")));
    assert_eq!(again.iter().map(|m| m.number("seq")).collect::<Vec<_>>(), [Some(0x61), Some(0x62)]);
    assert_eq!(sent(&hear(&mut m, 99_600, &ask("61", "62"))), [], "not so often");
    let gone = sent(&hear(&mut m, 99_800, &ask("1", "ffffffffffffffff")));
    assert_eq!((gone[0].message_type(), gone[0].number("lastseq")), (Some("NS_nak_rexmit"), Some(0x25)));
    assert_eq!(gone.len(), 65);
    assert_eq!(sent(&hear(&mut m, 99_990, &ask("62", "61"))), []);
}

#[test]
fn a_membership_needs_its_own_name_and_a_key() {
    let error = |cfg: &HeartbeatMembership, host| Membership::new(cfg, host, at(0), 1).err().unwrap();
    assert_eq!(error(&cfg(), "gamma"), StartError::NotANode("gamma".into()));
    let without = HeartbeatMembership { keys: BTreeMap::new(), ..cfg() };
    assert_eq!(error(&without, "alpha"), StartError::Incomplete);
}

proptest! {
    /// Whatever is heard in whatever order: a node is up only if it was heard within the dead time.
    #[test]
    fn a_node_that_is_up_was_heard_of_late(
        steps in prop::collection::vec((0..800_u64, 0..8_u8, 0..4_u64, 0..30_u64), 1..120)
    ) {
        let mut m = node("alpha", 1);
        let (mut ms, mut heard) = (0, None);
        for (pause, what, generation, seq) in steps {
            ms += pause;
            let before = m.status().nodes[0].heard;
            match what {
                0..4 => drop(hear(&mut m, ms, &beta("status", generation, seq))),
                4 => drop(hear(&mut m, ms, &beta("shutdone", generation, seq))),
                5 => drop(hear(&mut m, ms, &beta("NS_rexmit", generation, seq))),
                _ => drop(handle(&mut m, ms, Event::Tick)),
            }
            if m.status().nodes[0].heard != before {
                heard = Some(ms);
            }
            if state(&m) == NodeState::Up {
                prop_assert!(heard.is_some_and(|heard| ms < heard + 5000));
            }
            prop_assert!(m.deadline(at(ms)) > at(ms) && m.deadline(at(ms)) <= at(ms + 1000));
        }
    }
}
