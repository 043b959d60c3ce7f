//! Finding each other, refusing each other, losing each other.

use super::*;
use model::policy::{AfterSb0, AfterSb1, AfterSb2, Protocol};
use model::result_code::StateResult;
use replicator::wire::{Header, HeaderForm};
use replicator::{Auth, HmacAlg};

/// Two fresh nodes connect, both Inconsistent, both Secondary, and nothing is copied.
#[test]
pub(super) fn connect() {
    for seed in 0..10 {
        let mut w = fresh(seed);
        link_up(&mut w, &net());
        w.run_for(secs(2));
        let bad = DiskState::Inconsistent;
        assert_eq!(states(&w), [(ConnState::Connected, bad, bad); 2]);
        assert_eq!(roles(&w), [Role::Secondary; 2]);
        assert_eq!(brought(&w), [0, 0]);
        assert!(w.is_idle());
        for n in 0..2 {
            nothing_pending(&w, n);
        }
        assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
        ends_as_usual(&mut w);
    }
}

/// A resource that has no data anywhere keeps its link up, refuses promotion, and is told apart on a disconnect.
#[test]
pub(super) fn connect_no_volumes() {
    let mut w = World::new(1, SECTORS, DiskConfig::default());
    w.trace = Some(Vec::new());
    for n in 0..2 {
        w.nodes[n].start(n as u64);
    }
    link_up(&mut w, &net());
    let nothing = (ConnState::Connected, DiskState::Diskless, DiskState::Diskless);
    w.run_for(secs(60));
    assert_eq!(states(&w), [nothing; 2]);
    assert_eq!(primary(&mut w, 0), CommandResult::State(StateResult::NoUpToDateDisk));
    assert_eq!(secondary(&mut w, 0), OK);
    w.run_for(secs(60));
    assert_eq!(states(&w), [nothing; 2], "an idle link stays up");
    disconnect(&mut w, 0);
    assert_eq!(conn(&w, 0), ConnState::StandAlone);
    assert!((ConnState::Unconnected..=ConnState::WFConnection).contains(&conn(&w, 1)));
    for n in 0..2 {
        w.attach(n);
    }
    w.connect(0, &net());
    assert!(w.run_until(secs(30), both_connected));
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
    ends_as_usual(&mut w);
}

/// How a link dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Nobody is told.
    Cut,
    /// The socket with the n-th oldest end is reset.
    Reset(usize),
}

/// The link dies after each single packet of the handshake, silently or by a reset of either socket, while node 1 is
/// promoted: the command ends at once, done or refused, and the nodes are connected later.
#[test]
pub(super) fn connect_abort() {
    let secret = Auth { alg: HmacAlg::Sha256, secret: b"not told".to_vec() };
    let net = NetConfig { auth: Some(secret), ..net() };
    for death in [Death::Cut, Death::Reset(0), Death::Reset(1), Death::Reset(2), Death::Reset(3)] {
        for lead in [0, 1, 4] {
            let mut packets = lead;
            while aborted(&net, death, packets, lead) {
                packets += 1;
            }
            assert!(packets >= 12, "{death:?}: a handshake has more than {packets} packets");
        }
    }
}

/// The link dies after this many packets; `lead` packets before that the promotion begins. False if the nodes were
/// connected earlier.
fn aborted(net: &NetConfig, death: Death, packets: u64, lead: u64) -> bool {
    let mut w = pair_with(packets, SMALL, net, [DiskConfig::default(), DiskConfig::default()]);
    wrote(&mut w, 0, 64);
    assert_eq!(secondary(&mut w, 0), OK);
    disconnect(&mut w, 0);
    let before = w.hooks.sent;
    w.connect(0, net);
    w.run_until(secs(10), |w| both_connected(w) || w.hooks.sent >= before + packets - lead);
    let promotion = w.command(0, Command::Primary { force: false });
    w.run_until(secs(10), |w| both_connected(w) || w.hooks.sent >= before + packets);
    if both_connected(&w) {
        return false;
    }
    match death {
        Death::Cut => w.cut(true),
        Death::Reset(i) => w.reset_socket(i),
    }
    let result = answered_within(&mut w, promotion, secs(3));
    assert!(matches!(result, CommandResult::Ok | CommandResult::State(_)), "{death:?} {packets}: {result:?}");
    w.run_for(ms(500));
    w.cut(false);
    let again = w.run_until(secs(20), both_connected);
    assert!(again, "{death:?} after {packets}: {:?}", states(&w));
    if role(&w, 0) == Role::Primary {
        wrote(&mut w, 0, 128);
    }
    ends(&mut w, net);
    true
}

fn secret(text: &str) -> Option<Auth> {
    Some(Auth { alg: HmacAlg::Sha1, secret: text.as_bytes().to_vec() })
}

/// Settings that have to be equal and are not: both nodes stand alone and say why, no data is touched, and they connect
/// once that is corrected.
#[test]
pub(super) fn connect_refused() {
    type Change = fn(&mut NetConfig);
    let both_right: Change = |n| n.auth = secret("right");
    let none: Change = |_| ();
    let auth = "Authentication of peer failed";
    let cases: [(&str, Change, Change); 9] = [
        (auth, both_right, |n| n.auth = secret("wrong")),
        ("protocol", none, |n| n.protocol = Protocol::A),
        ("after-sb-0pri", none, |n| n.after_sb_0pri = AfterSb0::DiscardZeroChanges),
        ("after-sb-1pri", none, |n| n.after_sb_1pri = AfterSb1::Consensus),
        ("after-sb-2pri", none, |n| n.after_sb_2pri = AfterSb2::ViolentlyAs0p),
        ("allow-two-primaries", none, |n| n.allow_two_primaries = true),
        ("data-integrity-alg", none, |n| n.data_integrity_alg = "crc32c".into()),
        ("verify-alg", none, |n| n.verify_alg = "sha1".into()),
        ("csums-alg", none, |n| n.csums_alg = "md5".into()),
    ];
    for (why, first, second) in cases {
        for seed in 0..3 {
            let mut w = small_pair(seed);
            wrote(&mut w, 0, 64);
            w.run_for(ms(100));
            for n in 0..2 {
                assert_eq!(w.command_and_wait(n, Command::Disconnect { force: true }), OK);
            }
            wrote(&mut w, 0, 128);
            let before = [uuids(&w, 0), uuids(&w, 1)];
            w.hooks.packets.clear();
            let mut nets = [net(), net()];
            first(&mut nets[0]);
            second(&mut nets[1]);
            for (n, net) in nets.iter().enumerate() {
                w.connect(n, net);
            }
            w.run_for(secs(20));
            for n in 0..2 {
                stands_alone(&w, n, why);
                assert!(why != auth || w.hooks.seen(n, Wire::Uuids) == 0, "nothing is told to a stranger");
            }
            assert_eq!([uuids(&w, 0), uuids(&w, 1)], before, "{why}");
            assert_eq!(brought(&w), [0, 0]);
            assert_eq!((marked(&w, 0), marked(&w, 1)), (1, 0), "{why}");
            ends(&mut w, &nets[0]);
        }
    }
}

/// What a program says that is not the peer.
fn words_of_strangers() -> Vec<Vec<Vec<u8>>> {
    let packet = |command, len: u32, body: usize| {
        let mut bytes = Vec::new();
        Header { form: HeaderForm::H80, vnr: 0, command, len }.encode(&mut bytes);
        bytes.resize(bytes.len() + body, 0);
        bytes
    };
    let data = packet(Wire::InitialData, 0, 0);
    let meta = packet(Wire::InitialMeta, 0, 0);
    vec![
        vec![],
        vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()],
        vec![vec![0xa5; 4096]],
        vec![data[..5].to_vec()],
        vec![data.clone()],
        vec![meta.clone()],
        vec![data.clone(), vec![0; 64]],
        vec![data.clone(), packet(Wire::ConnectionFeatures, 80, 80)],
        vec![data.clone(), packet(Wire::ConnectionFeatures, 80, 10)],
        vec![packet(Wire::State, 4, 4)],
        vec![packet(Wire::Data, 32_000, 0)],
        vec![data.clone(), packet(Wire::State, 4, 4)],
        vec![data, meta],
    ]
}

/// Programs that are not the peer connect, are silent, talk nonsense or close at once: they are dropped, and the real
/// peer still connects. Packets that arrive as garbage cost the connection at most once.
#[test]
pub(super) fn connect_stranger() {
    let words = words_of_strangers();
    for seed in 0..60 {
        let mut w = small_pair(seed);
        wrote(&mut w, 0, 64);
        disconnect(&mut w, 0);
        w.connect(0, &net());
        for _ in 0..20 {
            let (n, i) = (w.rng.below(2) as usize, w.rng.below(words.len() as u64) as usize);
            let end = w.stranger_connects(n);
            let pause = w.rng.below(100_000);
            w.run_for(Duration::from_micros(pause));
            let Some(end) = end else { continue };
            for bytes in &words[i] {
                w.stranger_says(end, bytes);
            }
            if w.rng.one_in(2) {
                w.stranger_closes(end);
            }
        }
        assert!(w.run_until(secs(20), both_connected), "seed {seed}: {:?}", states(&w));
        for n in 0..2 {
            assert_eq!(w.stranger_connects(n), None, "a connected node does not listen");
        }
        ends_as_usual(&mut w);
    }
    for packets in 1..40 {
        let mut w = small_pair(packets);
        disconnect(&mut w, 0);
        wrote(&mut w, 0, 64);
        w.hooks.garbled_at = Some(w.hooks.sent + packets);
        w.connect(0, &net());
        w.run_for(secs(10));
        assert!(w.run_until(secs(20), all_current), "garbage instead of packet {packets}: {:?}", states(&w));
        // The connection that met the garbage was right to complain.
        w.trace = Some(Vec::new());
        ends_as_usual(&mut w);
    }
}

/// The link is cut and heals, or a socket is reset, a thousand times at random moments under writes: nothing is stuck, no
/// full sync is needed, and nothing ever comes from the Secondary.
#[test]
pub(super) fn link_flap() {
    for protocol in [Protocol::A, Protocol::C] {
        let net = NetConfig { protocol, ..net() };
        let mut w = pair_with(1, LARGE, &net, [DiskConfig::default(), DiskConfig::default()]);
        for _ in 0..500 {
            for _ in 0..3 {
                let sector = w.rng.below(SECTORS / 8) * 8;
                issue(&mut w, 0, sector);
                let us = 1 << w.rng.below(20);
                w.run_for(Duration::from_micros(us));
            }
            if w.rng.one_in(4) {
                w.reset_one();
            } else {
                let cut = !w.weather.cut;
                w.cut(cut);
            }
            let us = w.rng.below(1 << 22);
            w.run_for(Duration::from_micros(us));
        }
        let trace = w.trace.as_ref().expect("scenarios are traced");
        assert_eq!(trace.iter().find(|l| l.contains("full sync required")), None);
        let met = trace.iter().filter(|l| l.contains("node1 drbd_sync_handshake")).count();
        assert!(met > 50, "they met {met} times");
        assert_eq!(brought(&w)[1], 0);
        ends(&mut w, &net);
    }
}

/// One direction of one socket or of both is dead: both nodes notice within the ping timeout, or within ko-count if only
/// data is stuck, connect again and resync.
#[test]
pub(super) fn one_way_link() {
    for mute in 0..2 {
        for which in [Blocked::Data, Blocked::Meta, Blocked::Both] {
            let ko_count = if which == Blocked::Data { 3 } else { 20 };
            let net = NetConfig { ko_count, ..net() };
            let mut w = pair_with(1, SMALL, &net, [DiskConfig::default(), DiskConfig::default()]);
            wrote(&mut w, 0, 0);
            w.block(mute, which);
            let start = w.now;
            let tag = issue(&mut w, 0, 64);
            let lost = |w: &World| (0..2).all(|n| conn(w, n) < ConnState::Connected);
            // Nothing is sent on the data socket of an idle Secondary: its silence there is none.
            let silent = mute == 1 && which == Blocked::Data;
            if !silent {
                assert!(w.run_until(secs(30), lost), "{mute} {which:?}: {:?}", states(&w));
                let took = w.now.saturating_since(start);
                let limit = if which == Blocked::Data { secs(5) } else { secs(3) };
                assert!(took <= limit, "{mute} {which:?}: {took:?}");
            }
            assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
            w.run_for(secs(5));
            wrote(&mut w, 0, 128);
            ends(&mut w, &net);
        }
    }
}

/// A peer that takes data and does not answer is dropped after ko-count times the timeout; the writes end with the own
/// disk, and a resync brings them later.
#[test]
pub(super) fn slow_peer_ko_count() {
    for ko_count in [1, 3, 7] {
        let net = NetConfig { ko_count, ..net() };
        let mut w = pair_with(1, SMALL, &net, [DiskConfig::default(), DiskConfig::default()]);
        w.hold_disk(1, true);
        let start = w.now;
        let tags: Vec<ClientTag> = (0..10).map(|i| issue(&mut w, 0, i * 64)).collect();
        assert!(w.run_until(secs(60), |w| conn(w, 0) < ConnState::Connected), "it is given up");
        let took = w.now.saturating_since(start);
        let due = secs(u64::from(ko_count));
        assert!(took >= due && took <= due + secs(2), "ko-count {ko_count}: {took:?}");
        let traced = |w: &World, text: &str| w.trace.as_ref().unwrap().iter().any(|l| l.contains(text));
        assert!(traced(&w, "-> Timeout"));
        for tag in tags {
            assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        }
        assert_eq!(marked(&w, 0), 10);
        w.run_for(secs(5));
        let alone = conn(&w, 1) < ConnState::Connected;
        assert!(alone, "a node with unfinished writes of the peer does not connect again");
        w.hooks.packets.clear();
        w.hold_disk(1, false);
        assert!(w.run_until(secs(30), all_current));
        assert_eq!(brought(&w), [10 * 4096, 0]);
        ends(&mut w, &net);
    }
}

/// Random connects, disconnects, promotions and demotions on both nodes: every command ends, and they connect.
#[test]
pub(super) fn stress_connect() {
    for seed in 0..20 {
        let mut w = small_pair(seed);
        // Who was Primary last: while the nodes are apart, an operator does not promote the other one.
        let mut owner = 0;
        for _ in 0..60 {
            let n = w.rng.below(2) as usize;
            let quiet = n != owner && both_connected(&w) && w.run_until(secs(10), World::is_idle);
            if quiet && both_connected(&w) && primary(&mut w, n) == OK {
                owner = n;
            }
            let command = match w.rng.below(6) {
                0 => Command::Disconnect { force: false },
                1 => Command::Disconnect { force: true },
                2 | 3 => Command::Connect(Box::new(net())),
                4 if n == owner => Command::Primary { force: false },
                _ => Command::Secondary { open: 0, force: false },
            };
            w.command(n, command);
            let us = 1 << w.rng.below(22);
            w.run_for(Duration::from_micros(us));
            if w.rng.one_in(4) {
                issue(&mut w, n, 64);
            }
        }
        assert!(w.run_until(secs(20), World::is_idle), "seed {seed}: {}", w.under_way());
        for n in 0..2 {
            secondary(&mut w, n);
        }
        ends_as_usual(&mut w);
    }
}
