//! When a write or a flush is answered, and what the peer holds by then (drbd-wire 4).

use super::*;
use crate::hooks::Blocked;
use model::policy::Protocol;

const DP_FUA: u32 = 0x10;
const DP_FLUSH: u32 = 0x20;

fn pair_of(protocol: Protocol) -> World {
    seeded_pair_of(1, protocol)
}

fn seeded_pair_of(seed: u64, protocol: Protocol) -> World {
    let n = NetConfig { protocol, ..net() };
    pair_with(seed, SECTORS, &n, [DiskConfig::default(), DiskConfig::default()])
}

fn issue(w: &mut World, sector: u64) -> ClientTag {
    w.request(0, SimOp::Write { sector, count: 8, fua: false })
}

/// Not answered within 200 ms of virtual time, a thousand times a normal write.
fn not_answered(w: &mut World, tag: ClientTag) {
    w.run_for(ms(200));
    assert_eq!(answer(w, tag), None, "nothing may be answered yet");
}

fn is_answered(w: &mut World, tag: ClientTag) {
    w.run_for(ms(200));
    assert_eq!(answer(w, tag).map(|(r, _)| r), Some(ClientResult::Ok));
}

#[test]
fn protocol_c_waits_for_the_peers_disk_and_the_own_one() {
    for slow in 0..2 {
        let mut w = pair_of(Protocol::C);
        w.hold_disk(slow, true);
        let tag = issue(&mut w, 64);
        not_answered(&mut w, tag);
        let acked = w.hooks.seen(1, Wire::WriteAck);
        assert_eq!(acked, 1 - slow, "the acknowledgement is sent when the write is done");
        w.hold_disk(slow, false);
        is_answered(&mut w, tag);
        assert_eq!(w.nodes[1].disk.read(64), w.nodes[0].disk.read(64));
    }
}

#[test]
fn protocol_b_waits_until_the_peer_has_the_data() {
    let mut w = pair_of(Protocol::B);
    w.hold_disk(1, true);
    w.block(1, Blocked::Meta);
    let tag = issue(&mut w, 64);
    not_answered(&mut w, tag);
    w.block(1, Blocked::No);
    is_answered(&mut w, tag);
    assert_eq!((w.hooks.seen(1, Wire::RecvAck), w.hooks.seen(1, Wire::WriteAck)), (1, 0));
    assert_eq!(w.nodes[1].disk.read(64), 0, "it is not on the peer's disk yet");
    let tag = issue(&mut w, 128);
    w.hold_disk(0, true);
    not_answered(&mut w, tag);
}

#[test]
fn protocol_a_waits_until_the_socket_took_the_data() {
    let mut w = pair_of(Protocol::A);
    w.block(0, Blocked::Data);
    let tag = issue(&mut w, 64);
    not_answered(&mut w, tag);
    w.hold_disk(1, true);
    w.block(0, Blocked::No);
    is_answered(&mut w, tag);
    assert_eq!((w.hooks.seen(1, Wire::RecvAck), w.hooks.seen(1, Wire::WriteAck)), (0, 0));
    let tag = issue(&mut w, 128);
    w.hold_disk(0, true);
    not_answered(&mut w, tag);
}

#[test]
fn forced_unit_access_reaches_the_peers_medium() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut w = pair_of(protocol);
        let tag = w.request(0, SimOp::Write { sector: 64, count: 8, fua: true });
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        let sent = w.hooks.packets.iter().find(|p| p.header.command == Wire::Data).expect("mirrored");
        assert_ne!(sent.dp_flags() & DP_FUA, 0);
        let durable = |w: &World, n: usize| w.nodes[n].disk.medium(64) > 0;
        assert!(durable(&w, 0));
        if protocol != Protocol::C {
            w.run_for(ms(100));
        }
        assert!(durable(&w, 1), "{protocol:?}");
        assert_eq!(write(&mut w, 0, 128, 8), ClientResult::Ok);
        let last = w.hooks.packets.iter().rfind(|p| p.header.command == Wire::Data).expect("mirrored");
        assert_eq!(last.dp_flags() & DP_FUA, 0, "and only where it was asked for");
    }
}

#[test]
fn a_flush_in_protocol_c_is_answered_when_the_peer_has_flushed() {
    let mut w = pair_of(Protocol::C);
    assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
    w.hold_disk(1, true);
    let tag = w.request(0, SimOp::Flush);
    not_answered(&mut w, tag);
    assert_eq!(w.hooks.seen(1, Wire::BarrierAck), 0);
    w.hold_disk(1, false);
    is_answered(&mut w, tag);
    assert_eq!(w.hooks.seen(1, Wire::BarrierAck), 1);
    for n in 0..2 {
        assert!(w.nodes[n].disk.medium(64) > 0, "stable on node {}", n + 1);
    }
}

/// The local disk alone answers; the next write carries the wish to the peer.
#[test]
fn a_flush_in_protocols_a_and_b_travels_with_the_next_write() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = pair_of(protocol);
        assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
        w.run_for(ms(100));
        w.hold_disk(1, true);
        let tag = w.request(0, SimOp::Flush);
        is_answered(&mut w, tag);
        assert_eq!(write(&mut w, 0, 128, 8), ClientResult::Ok);
        let flags: Vec<u32> = w
            .hooks
            .packets
            .iter()
            .filter(|p| p.header.command == Wire::Data)
            .map(|p| p.dp_flags() & DP_FLUSH)
            .collect();
        assert_eq!(flags, [0, DP_FLUSH]);
        w.hold_disk(1, false);
        heals(&mut w);
    }
}

/// Power fails on node 2, whose disk has taken its time for everything since `first`.
fn only_with_what_came_first(w: &mut World, first: u64, later: [u64; 2]) {
    w.run_for(ms(200));
    w.crash(1, true);
    let kept = |sector: u64| (sector..sector + 8).filter(|s| w.nodes[1].disk.medium(*s) > 0).count();
    for sector in later {
        assert!(kept(sector) == 0 || kept(first) == 8, "write {sector} is there, what it relied on is not");
    }
}

/// Only the first write behind the flush carries the wish; the next one went to the peer's disk before it had flushed.
#[test]
fn no_write_behind_a_flush_gets_to_the_peers_medium_before_it() {
    for seed in 0..20 {
        for protocol in [Protocol::A, Protocol::B] {
            let mut w = seeded_pair_of(seed, protocol);
            assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
            w.run_for(ms(5));
            w.hold_disk(1, true);
            let tag = w.request(0, SimOp::Flush);
            is_answered(&mut w, tag);
            issue(&mut w, 128);
            issue(&mut w, 192);
            only_with_what_came_first(&mut w, 64, [128, 192]);
        }
    }
}

/// It was answered when the peer had it in memory at most; what the client wrote then got to the peer's medium, and the write
/// itself did not.
#[test]
fn no_write_behind_one_with_forced_access_gets_to_the_peers_medium_before_it() {
    for seed in 0..20 {
        for protocol in [Protocol::A, Protocol::B] {
            let mut w = seeded_pair_of(seed, protocol);
            w.hold_disk(1, true);
            let tag = w.request(0, SimOp::Write { sector: 64, count: 8, fua: true });
            is_answered(&mut w, tag);
            issue(&mut w, 128);
            issue(&mut w, 192);
            only_with_what_came_first(&mut w, 64, [128, 192]);
        }
    }
}

/// A flush without a write before it needs no packet.
#[test]
fn a_flush_of_nothing_sends_no_barrier() {
    let mut w = pair_of(Protocol::C);
    for _ in 0..3 {
        let tag = w.request(0, SimOp::Flush);
        is_answered(&mut w, tag);
    }
    assert_eq!(w.hooks.seen(0, Wire::Barrier), 0);
}

/// Checks the stream of barriers of node 1: none is empty, no epoch is longer than allowed, numbers ascend, and the
/// acknowledgements repeat number and count in order. Returns the sizes.
fn epochs(w: &World, longest: u32) -> Vec<u32> {
    let mut sizes = Vec::new();
    let mut numbers = Vec::new();
    let mut writes = 0;
    for p in w.hooks.packets.iter().filter(|p| p.from == 0) {
        match p.header.command {
            Wire::Data | Wire::Trim | Wire::Zeroes => {
                writes += 1;
                assert!(writes <= longest, "max-epoch-size");
            }
            Wire::Barrier => {
                assert!(writes > 0, "an empty barrier");
                sizes.push(writes);
                numbers.push(p.body[..4].to_vec());
                writes = 0;
            }
            _ => {}
        }
    }
    assert_eq!(writes, 0, "the last epoch is closed too");
    let acks: Vec<(Vec<u8>, u32)> = w
        .hooks
        .packets
        .iter()
        .filter(|p| p.from == 1 && p.header.command == Wire::BarrierAck)
        .map(|p| (p.body[..4].to_vec(), p.word(4)))
        .collect();
    let wanted: Vec<(Vec<u8>, u32)> = numbers.into_iter().zip(sizes.iter().copied()).collect();
    assert_eq!(acks, wanted);
    sizes
}

#[test]
fn a_barrier_stands_between_an_answered_write_and_the_next() {
    let mut w = pair_of(Protocol::C);
    for i in 0..5 {
        assert_eq!(write(&mut w, 0, i * 8, 8), ClientResult::Ok);
    }
    w.run_for(ms(100));
    assert_eq!(epochs(&w, 2048), [1; 5]);
}

#[test]
fn writes_that_do_not_wait_for_each_other_share_an_epoch() {
    let mut w = pair_of(Protocol::C);
    w.hold_disk(0, true);
    for i in 0..10 {
        issue(&mut w, i * 8);
    }
    w.hold_disk(0, false);
    w.run_for(ms(100));
    assert_eq!(epochs(&w, 2048), [10]);
}

#[test]
fn an_epoch_has_at_most_max_epoch_size_writes() {
    let n = NetConfig { max_epoch_size: 4, ..net() };
    let mut w = pair_with(1, SECTORS, &n, [DiskConfig::default(), DiskConfig::default()]);
    // The extent is made hot first, so that the ten writes go out together.
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    w.hold_disk(0, true);
    for i in 0..10 {
        issue(&mut w, i * 8);
    }
    w.run_for(ms(50));
    w.hold_disk(0, false);
    w.run_for(ms(100));
    assert_eq!(epochs(&w, 4), [1, 4, 4, 2]);
}

#[test]
fn barriers_hold_under_a_random_load() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut w = pair_of(protocol);
        scribble(&mut w, 0, 150, SECTORS);
        heals(&mut w);
        assert!(epochs(&w, 2048).len() > 20);
    }
}

/// A peer that is no lockstep gets each epoch strictly after the one before (drbd-wire trap 18).
#[test]
fn against_a_kernel_peer_the_next_epoch_waits_for_the_flush() {
    let mut w = nodes(3, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    w.hooks.tamper = Some(|_, command, body| {
        if command == Wire::ConnectionFeatures {
            // Only the four features a kernel knows.
            body[4..8].copy_from_slice(&15u32.to_be_bytes());
        }
    });
    w.truth.protocol_c = false;
    link_up(&mut w, &NetConfig { protocol: Protocol::A, ..net() });
    // A kernel does not answer the skip, so the state packets of the connect have to be in before it.
    w.run_for(ms(100));
    skip_initial_sync(&mut w, 0);
    assert_eq!(primary(&mut w, 0), OK);
    for i in 0..4 {
        assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok, "write {i}");
    }
    w.hold_disk(1, true);
    let before = w.nodes[1].disk.read(64);
    assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
    assert_eq!(write(&mut w, 0, 128, 8), ClientResult::Ok);
    w.run_for(ms(100));
    assert_eq!((w.nodes[1].disk.read(64), w.nodes[1].disk.read(128)), (before, 0));
    w.hold_disk(1, false);
    let second = w.run_until(secs(1), |w| w.nodes[1].disk.read(128) > 0);
    assert!(second);
    assert!(
        w.nodes[1].disk.medium(64) > before,
        "the first epoch is on the medium before the second is written"
    );
    heals(&mut w);
}

#[test]
fn discards_and_zeroes_read_as_zeroes_on_both() {
    let mut w = pair_of(Protocol::C);
    assert_eq!(write(&mut w, 0, 0, 64), ClientResult::Ok);
    for i in 0..4 {
        let tag = w.request(0, SimOp::Discard { sector: i * 16, count: 16 });
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    }
    assert!(w.hooks.seen(0, Wire::Trim) > 0 && w.hooks.seen(0, Wire::Zeroes) > 0);
    assert_eq!(w.hooks.seen(0, Wire::Trim) + w.hooks.seen(0, Wire::Zeroes), 4);
    for s in 0..64 {
        assert_eq!((w.nodes[0].disk.read(s), w.nodes[1].disk.read(s)), (0, 0));
    }
    heals(&mut w);
}

/// Zeroes for a peer that does not know them become discards that must read back as zeroes.
#[test]
fn zeroes_without_the_feature_travel_as_trims() {
    let mut w = nodes(3, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    w.hooks.tamper = Some(|_, command, body| {
        if command == Wire::ConnectionFeatures {
            body[4..8].copy_from_slice(&7u32.to_be_bytes());
        }
    });
    link_up(&mut w, &net());
    // A kernel does not answer the skip, so the state packets of the connect have to be in before it.
    w.run_for(ms(100));
    skip_initial_sync(&mut w, 0);
    assert_eq!(primary(&mut w, 0), OK);
    w.hooks.record = true;
    assert_eq!(write(&mut w, 0, 0, 64), ClientResult::Ok);
    for i in 0..4 {
        let tag = w.request(0, SimOp::Discard { sector: i * 16, count: 16 });
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    }
    assert_eq!((w.hooks.seen(0, Wire::Trim), w.hooks.seen(0, Wire::Zeroes)), (4, 0));
    heals(&mut w);
    assert_eq!(w.nodes[1].disk.read(5), 0);
}

/// Overlapping writes are never under way at once in protocol C: the peer cannot confuse them.
#[test]
fn overlapping_writes_go_one_after_the_other() {
    let mut w = pair_of(Protocol::C);
    let tags: Vec<ClientTag> = (0..20).map(|i| issue(&mut w, 64 + i % 3 * 4)).collect();
    for tag in tags {
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    }
    heals(&mut w);
}

#[test]
fn the_sequence_of_data_and_acks_has_no_gap() {
    let mut w = pair_of(Protocol::C);
    scribble(&mut w, 0, 60, SECTORS);
    w.run_for(secs(1));
    let numbers: Vec<u32> = w
        .hooks
        .packets
        .iter()
        .filter(|p| p.from == 0 && p.header.command == Wire::Data)
        .map(|p| p.word(16))
        .collect();
    assert!(numbers.len() > 30);
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
}
