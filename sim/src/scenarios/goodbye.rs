//! A clean disconnect leaves no block marked that is equal on both copies: what was written is acknowledged, barriers and all,
//! before the goodbye is (drbd-wire 4.6, 9.7).

use model::policy::Protocol;
use replicator::CommandId;

use super::*;
use crate::hooks::DiskOp;

const PROTOCOLS: [Protocol; 3] = [Protocol::A, Protocol::B, Protocol::C];

/// Epochs of three writes.
fn pair_of(seed: u64, protocol: Protocol) -> World {
    let net = NetConfig { protocol, max_epoch_size: 3, ..net() };
    pair_with(seed, SECTORS, &net, [DiskConfig::default(), DiskConfig::default()])
}

/// So many writes to different blocks at once. The first makes their extent hot.
fn burst(w: &mut World, count: u64) -> Vec<ClientTag> {
    assert_eq!(write(w, 0, 0, 8), ClientResult::Ok);
    (1..=count).map(|i| w.request(0, SimOp::Write { sector: i * 8, count: 8, fua: false })).collect()
}

fn goodbye(w: &mut World) -> CommandId {
    w.command(0, Command::Disconnect { force: false })
}

fn command_answer(w: &mut World, id: CommandId) -> Option<CommandResult> {
    match w.take_answer(|a| matches!(a, Answer::Command(i, _) if *i == id)) {
        Some(Answer::Command(_, result)) => Some(result),
        _ => None,
    }
}

fn is_answered_within(w: &mut World, id: CommandId, limit: Duration) {
    let here = |w: &World| w.answers.iter().any(|(_, a)| matches!(a, Answer::Command(i, _) if *i == id));
    assert!(w.run_until(limit, here), "{:?} {:?}", w.volume(0), w.volume(1));
    assert_eq!(command_answer(w, id), Some(OK));
}

/// The nodes have parted, and nothing differs, nor is marked.
fn parted_in_peace(w: &mut World, tags: Vec<ClientTag>) {
    assert_eq!(w.state(0).0, ConnState::StandAlone);
    assert_eq!(marked(w, 0), 0, "both copies have all of it");
    for tag in tags {
        assert_eq!(answer(w, tag).map(|(r, _)| r), Some(ClientResult::Ok));
    }
    w.check_disks();
}

/// In protocols A and B the peer had hundreds of answered writes before it, epoch by epoch, and let go at once.
#[test]
fn it_is_answered_when_all_that_was_written_is_acknowledged() {
    for kernels in [false, true] {
        let _peers = AsKernels::new(kernels);
        for (seed, protocol) in PROTOCOLS.into_iter().enumerate() {
            let mut w = pair_of(seed as u64, protocol);
            w.hold_disk(1, true);
            let tags = burst_behind_held_disk(&mut w, protocol);
            let id = goodbye(&mut w);
            w.run_for(ms(300));
            assert_eq!(command_answer(&mut w, id), None, "{protocol:?}: nothing is on the peer's disk");
            assert_eq!(w.state(1).0, ConnState::TearDown);
            w.hold_disk(1, false);
            is_answered_within(&mut w, id, ms(500));
            parted_in_peace(&mut w, tags);
        }
    }
}

/// Sixty writes that the peer has received.
fn burst_behind_held_disk(w: &mut World, protocol: Protocol) -> Vec<ClientTag> {
    let tags: Vec<ClientTag> =
        (0..60).map(|i| w.request(0, SimOp::Write { sector: i * 8, count: 8, fua: false })).collect();
    w.run_for(ms(100));
    let answered = w.answers.iter().filter(|(_, a)| matches!(a, Answer::Client(..))).count();
    assert_eq!(answered, if protocol == Protocol::C { 0 } else { tags.len() });
    tags
}

/// The flush behind a barrier is lazy between lockstep nodes; nobody else hurries it.
#[test]
fn it_does_not_wait_for_the_lazy_flush() {
    let mut w = pair_of(1, Protocol::C);
    let tags = burst(&mut w, 9);
    assert!(w.run_until(secs(1), |w| w.hooks.seen(1, Wire::WriteAck) == 10));
    let begun = w.now;
    let id = goodbye(&mut w);
    is_answered_within(&mut w, id, ms(500));
    assert!(w.now.saturating_since(begun) < ms(5), "{:?}", w.now.saturating_since(begun));
    parted_in_peace(&mut w, tags);
}

/// The peer's process ends with its answer on its way, behind the acknowledgements, on a meta socket that is slower than the
/// data socket: the end of that is seen first.
#[test]
fn who_says_it_reads_the_meta_socket_up_to_the_answer() {
    for protocol in PROTOCOLS {
        let mut w = pair_of(1, protocol);
        let tags = burst(&mut w, 9);
        w.weather.lag = [1, 1000];
        let id = goodbye(&mut w);
        let said = |w: &World| w.hooks.seen(1, Wire::ConnStChgReply) == 1;
        assert!(w.run_until(secs(1), said), "{:?} {:?}", w.volume(0), w.volume(1));
        w.crash(1, false);
        is_answered_within(&mut w, id, ms(400));
        w.weather.lag = [0, 0];
        w.run_for(ms(100));
        parted_in_peace(&mut w, tags);
    }
}

/// Until its own answer is out the peer keeps the connection whole, and what it wrote after its goodbye keeps nobody waiting.
#[test]
fn writes_behind_it_are_not_waited_for() {
    for protocol in PROTOCOLS {
        let mut w = pair_of(1, protocol);
        let mut tags = burst(&mut w, 30);
        w.weather.disk_us = 2000;
        let id = goodbye(&mut w);
        // Without an end, as far as the peer sees.
        while command_answer(&mut w, id).is_none() {
            let sector = w.rng.below(SECTORS / 8) * 8;
            tags.push(w.request(0, SimOp::Write { sector, count: 8, fua: false }));
            w.run_for(Duration::from_micros(500));
            assert!(tags.len() < 1500, "the goodbye is answered");
        }
        assert_eq!(w.state(0).0, ConnState::StandAlone);
        w.weather.disk_us = 100;
        w.run_for(secs(1));
        w.connect(0, &NetConfig { protocol, ..net() });
        heals(&mut w);
    }
}

/// A Primary writes until its goodbye is answered; here nobody else does.
#[test]
fn a_promotion_waits_until_it_is_answered() {
    let mut w = pair_of(1, Protocol::A);
    w.hold_disk(1, true);
    burst_behind_held_disk(&mut w, Protocol::A);
    let id = goodbye(&mut w);
    w.run_for(ms(10));
    let promotion = w.command(1, Command::Primary { force: false });
    w.run_for(ms(500));
    assert_eq!((command_answer(&mut w, promotion), role(&w, 1)), (None, Role::Secondary));
    w.hold_disk(1, false);
    is_answered_within(&mut w, id, ms(500));
    is_answered_within(&mut w, promotion, ms(500));
    assert_eq!(marked(&w, 0), 0);
}

/// Bounded by the peer's patience with a packet. What was not acknowledged stays marked.
#[test]
fn a_disk_that_stands_still_keeps_nobody() {
    for metadata_too in [false, true] {
        for protocol in PROTOCOLS {
            let mut w = pair_of(1, protocol);
            w.hold_disk(1, true);
            let tags = burst_behind_held_disk(&mut w, protocol);
            if metadata_too {
                w.hooks.slow_disk(1, DiskOp::Meta, 0, u64::MAX);
            }
            let begun = w.now;
            let id = goodbye(&mut w);
            is_answered_within(&mut w, id, ms(1100));
            assert!(w.now.saturating_since(begun) >= ms(900), "{:?}", w.now.saturating_since(begun));
            assert_eq!(marked(&w, 0), tags.len() as u64);
            w.hold_disk(1, false);
            w.let_go(false);
            w.connect(0, &NetConfig { protocol, ..net() });
            heals(&mut w);
        }
    }
}
