//! What clients ask for: every size and place, bursts, flushes, pauses.

use super::*;
use model::policy::Protocol;

fn pair_of(protocol: Protocol, seed: u64, disk: &DiskConfig) -> World {
    let net = NetConfig { protocol, ..net() };
    pair_with(seed, SECTORS, &net, [disk.clone(), disk.clone()])
}

fn net_of(protocol: Protocol) -> NetConfig {
    NetConfig { protocol, ..net() }
}

/// Requests of 512 bytes to 1 MiB at every alignment, empty flushes, forced unit access, discards and zeroes: the copies
/// are equal to the byte.
#[test]
pub(super) fn unusual_bios() {
    const ODD: [u64; 16] = [1, 2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1023, 2040, 2047, 2048];
    for (seed, protocol) in [Protocol::A, Protocol::B, Protocol::C].into_iter().enumerate() {
        let disk = DiskConfig::default();
        let mut w = pair_with(seed as u64, LARGE, &net_of(protocol), [disk.clone(), disk]);
        for at_once in [true, false] {
            for (i, count) in ODD.into_iter().enumerate() {
                for alignment in 0..9 {
                    let sector = w.rng.below((LARGE - count - 8) / 8) * 8 + alignment;
                    let op = match (i as u64 + alignment) % 9 {
                        0 => SimOp::Discard { sector, count },
                        1 => SimOp::Flush,
                        2 => SimOp::Write { sector, count, fua: true },
                        3 => SimOp::Read { sector, count },
                        _ => SimOp::Write { sector, count, fua: false },
                    };
                    let tag = w.request(0, op);
                    if !at_once {
                        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "{op:?}");
                    }
                }
            }
            assert!(w.run_until(secs(30), World::is_idle), "{}", w.under_way());
            let refused =
                |(_, a): &&(usize, Answer)| matches!(a, Answer::Client(_, r, _) if *r != ClientResult::Ok);
            assert_eq!(w.answers.iter().find(refused), None);
            w.answers.clear();
        }
        // Sizes from one sector to 1 MiB, at the end of the device too.
        for count in (1..=2048).step_by(23) {
            for sector in [w.rng.below(LARGE - count), LARGE - count] {
                w.request(0, SimOp::Write { sector, count, fua: false });
            }
            w.run_for(Duration::from_micros(300));
        }
        assert!(w.run_until(secs(30), World::is_idle), "{}", w.under_way());
        let largest =
            w.hooks.packets.iter().filter(|p| p.header.command == Wire::Data).map(|p| p.sectors).max();
        assert_eq!(largest, Some(2048), "a request travels in one piece");
        assert_eq!(brought(&w), [0, 0]);
        ends(&mut w, &net_of(protocol));
    }
}

/// Extents of a device with more of them than its activity log has slots.
const EXTENTS: u64 = 80;
const SLOTS: u16 = 67;

/// Bursts over more extents than the activity log has: every write ends within two seconds; after a crash in between the
/// extents that were hot are brought again, and nothing else.
#[test]
pub(super) fn stress_al() {
    let disk = DiskConfig { al_extents: SLOTS, ..DiskConfig::default() };
    for power in [false, true] {
        let mut w = pair_with(3, EXTENTS * 8192, &net(), [disk.clone(), disk.clone()]);
        for _ in 0..10 {
            let start = w.now;
            for i in 0..400 {
                let at = (i * 7 % EXTENTS) * 8192 + w.rng.below(1000) * 8;
                issue(&mut w, 0, at);
            }
            assert!(w.run_until(secs(2), World::is_idle), "{}", w.under_way());
            assert!(w.now.saturating_since(start) <= secs(2));
            w.answers.clear();
        }
        for i in 0..400 {
            issue(&mut w, 0, (i * 7 % EXTENTS) * 8192);
        }
        w.run_for(ms(5));
        w.crash(0, power);
        w.run_for(secs(2));
        w.hooks.packets.clear();
        w.start(0);
        w.connect(0, &net());
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        assert_eq!(brought(&w), [u64::from(SLOTS) << 22, 0], "all slots were in use");
        assert_eq!(roles(&w), [Role::Secondary; 2]);
        ends_as_usual(&mut w);
    }
}

/// Busy writes in protocols A and B: answered when the socket has the data, or when the peer has; a demotion waits until
/// everything arrived, and the copies are equal.
#[test]
pub(super) fn protocol_a_io() {
    for protocol in [Protocol::A, Protocol::B] {
        let mut w = pair_of(protocol, 1, &DiskConfig::default());
        wrote(&mut w, 0, 0);
        w.run_for(ms(100));
        // The rule of the protocol: what has to answer before the client is answered.
        let (who, which) = if protocol == Protocol::A { (0, Blocked::Data) } else { (1, Blocked::Meta) };
        w.block(who, which);
        w.hold_disk(1, true);
        let tag = issue(&mut w, 0, 64);
        w.run_for(ms(300));
        assert_eq!(answer(&mut w, tag), None, "{protocol:?}");
        w.block(who, Blocked::No);
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        assert_eq!(w.nodes[1].disk.read(64), 0, "the peer's disk is not waited for");
        w.hold_disk(1, false);
        for _ in 0..5 {
            w.weather.net_us = 3000;
            scribble(&mut w, 0, 200, SECTORS);
            assert_eq!(secondary(&mut w, 0), OK);
            w.weather.net_us = 50;
            w.check_disks();
            assert_eq!((marked(&w, 0), marked(&w, 1)), (0, 0));
            assert_eq!(primary(&mut w, 0), OK);
        }
        assert_eq!(brought(&w), [0, 0]);
        ends(&mut w, &net_of(protocol));
    }
}

/// Both nodes lose power after a flush or a write with forced unit access was answered: nothing of it is lost, on either
/// copy in protocol C. Without flushes a killed process loses nothing either.
#[test]
pub(super) fn flush_semantics() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for disk_flushes in [true, false] {
            for seed in 0..10 {
                let disk = DiskConfig { disk_flushes, ..DiskConfig::default() };
                let mut w = pair_of(protocol, seed, &disk);
                let durable = w.request(0, SimOp::Write { sector: 4000, count: 8, fua: true });
                assert_eq!(wait(&mut w, durable).0, ClientResult::Ok);
                let mut tags: Vec<ClientTag> = (0..20).map(|i| issue(&mut w, 0, i * 16)).collect();
                tags.drain(..).for_each(|tag| assert_eq!(wait(&mut w, tag).0, ClientResult::Ok));
                let flush = w.request(0, SimOp::Flush);
                assert_eq!(wait(&mut w, flush).0, ClientResult::Ok);
                // More that nobody has flushed.
                for i in 0..20 {
                    issue(&mut w, 0, i * 16);
                }
                let us = w.rng.below(400);
                w.run_for(Duration::from_micros(us));
                // A disk whose cache is volatile has to be flushed.
                for n in 0..2 {
                    w.crash(n, disk_flushes);
                }
                let copies = if protocol == Protocol::C { 0..2 } else { 0..1 };
                for n in copies {
                    for i in 0..20 {
                        assert!(w.nodes[n].disk.read(i * 16) > 0, "node {} lost flushed block {i}", n + 1);
                    }
                    assert!(w.nodes[n].disk.read(4000) > 0, "node {} lost a durable write", n + 1);
                }
                ends(&mut w, &net_of(protocol));
            }
        }
    }
}

/// Frozen by the operator: new writes wait, through a reconnect too, and end when I/O goes on; a connection that stays
/// sees no new generation and no resync.
#[test]
pub(super) fn suspend_io() {
    for reconnect in [false, true] {
        let mut w = pair(1);
        wrote(&mut w, 0, 0);
        let before = uuids(&w, 0)[0];
        assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
        let tags: Vec<ClientTag> = (0..20).map(|i| issue(&mut w, 0, i * 64)).collect();
        w.run_for(secs(20));
        for (i, tag) in tags.iter().enumerate().skip(1) {
            assert_eq!(answer(&mut w, *tag), None, "it is frozen");
            assert_eq!(w.nodes[0].disk.read(i as u64 * 64), 0, "and not begun");
        }
        if reconnect {
            w.cut(true);
            w.run_for(secs(5));
            w.cut(false);
            assert!(w.run_until(secs(30), both_connected));
            w.run_for(secs(2));
            for tag in &tags {
                assert_eq!(answer(&mut w, *tag), None, "it is still frozen");
            }
        }
        assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
        for tag in tags {
            assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        }
        assert!(reconnect || uuids(&w, 0)[0].same_as(before), "no new generation");
        assert_eq!(brought(&w), [0, 0]);
        ends_as_usual(&mut w);
    }
}

/// I/O is suspended under load, both disks are copied, I/O goes on: the copies are identical.
#[test]
pub(super) fn consistent_snapshots() {
    for seed in 0..50 {
        let mut w = pair(seed);
        scribble(&mut w, 0, 30, SECTORS);
        for _ in 0..20 {
            let sector = w.rng.below(SECTORS / 8) * 8;
            issue(&mut w, 0, sector);
        }
        let us = w.rng.below(400);
        w.run_for(Duration::from_micros(us));
        assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
        let new: Vec<ClientTag> = (0..20).map(|i| issue(&mut w, 0, i * 64)).collect();
        w.run_for(Duration::from_micros(150));
        let copies = [0, 1].map(|n: usize| w.nodes[n].disk.clone());
        assert_eq!(copies[0].differences(&copies[1]).next(), None, "seed {seed}");
        assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
        for tag in new {
            assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
        }
        ends_as_usual(&mut w);
    }
}

/// All slots of the activity log are in use and the link is slow, then fast again: every writer that was blocked goes on.
#[test]
pub(super) fn process_wakeup() {
    for protocol in [Protocol::A, Protocol::C] {
        let net = NetConfig { protocol, max_buffers: 32, max_epoch_size: 20, ..net() };
        let disk = DiskConfig { al_extents: SLOTS, ..DiskConfig::default() };
        for seed in 0..2 {
            let mut w = pair_with(seed, EXTENTS * 8192, &net, [disk.clone(), disk.clone()]);
            for round in 0..4 {
                w.weather.net_us = 100_000;
                let tags: Vec<ClientTag> =
                    (0..400).map(|i| issue(&mut w, 0, i % EXTENTS * 8192 + i * 8)).collect();
                w.run_for(ms(50));
                let done = |tag: &ClientTag| {
                    w.answers.iter().any(|(_, a)| matches!(a, Answer::Client(t, ..) if t == tag))
                };
                let blocked = tags.iter().filter(|t| !done(t)).count();
                assert!(blocked > 50, "round {round}: {blocked} wait");
                w.weather.net_us = 50;
                for tag in tags {
                    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "round {round}");
                }
            }
            assert_eq!(brought(&w), [0, 0], "the link was never given up");
            // A Secondary that is killed has no hot extents: 268 MiB need not be brought once more.
            assert_eq!(secondary(&mut w, 0), OK);
            ends(&mut w, &net);
        }
    }
}
