//! What checksums spare a resync, and what digests keep off the disks.

use super::*;

fn with_csums(after_crash_only: bool) -> NetConfig {
    NetConfig { csums_alg: "sha1".into(), csums_after_crash_only: after_crash_only, ..net() }
}

/// A pair of which node 2 misses writes to these blocks; half of them get back their old contents.
fn missed_half(seed: u64, net: &NetConfig, blocks: u64) -> World {
    let mut w = pair_with(seed, SECTORS, net, [DiskConfig::default(), DiskConfig::default()]);
    for block in 0..2 * blocks {
        wrote(&mut w, 0, block * 8);
    }
    w.run_for(ms(100));
    let before: Vec<u64> = (0..SECTORS).map(|s| w.nodes[1].disk.read(s)).collect();
    w.cut(true);
    assert!(w.run_until(secs(20), |w| conn(w, 0) < ConnState::Connected));
    for block in 0..blocks {
        wrote(&mut w, 0, block * 8);
    }
    w.run_for(secs(1));
    // The same bytes were written again: the simulator's versions are all different, so this is done on both disks.
    for block in 0..blocks / 2 {
        let at = block as usize * 8;
        let versions: Vec<u64> = (at..at + 8).map(|s| w.nodes[0].disk.read(s as u64)).collect();
        assert_ne!(versions[..], before[at..at + 8]);
        w.nodes[1].disk.write(block * 8, &versions, true);
    }
    w.hooks.packets.clear();
    w
}

/// Only blocks that differ are transferred, whichever they are; both nodes say how many were spared.
#[test]
pub(super) fn checksum_resync() {
    let net = with_csums(false);
    let mut w = missed_half(1, &net, 64);
    w.cut(false);
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    assert_eq!(brought(&w), [32 * 4096, 0]);
    assert_eq!(w.hooks.seen(1, Wire::RsDataRequest), 0);
    assert!(w.hooks.seen(1, Wire::CsumRsRequest) > 0 && w.hooks.seen(0, Wire::RsIsInSync) > 0);
    let trace = w.trace.as_ref().expect("scenarios are traced");
    let said = "50 % had equal checksums, eliminated: 128K; transferred 128K total 256K";
    assert_eq!(trace.iter().filter(|l| l.contains(said)).count(), 2);
    ends(&mut w, &net);
    // Only after a crash of a Primary: nobody has crashed, then one has.
    let net = with_csums(true);
    let mut w = missed_half(2, &net, 64);
    w.cut(false);
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    assert_eq!(brought(&w), [64 * 4096, 0]);
    w.hooks.packets.clear();
    w.crash(0, false);
    w.run_for(secs(3));
    assert_eq!(primary(&mut w, 1), OK);
    wrote(&mut w, 1, 80);
    w.start(0);
    w.connect(0, &net);
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    assert!(w.hooks.seen(0, Wire::CsumRsRequest) > 0);
    assert_eq!(w.hooks.seen(0, Wire::RsDataRequest), 0);
    assert_eq!(brought(&w), [0, 8 * 4096], "one request of the whole hot extent");
    ends(&mut w, &net);
}

/// The same in the middle of an interruption, with a block that cannot be read for its digest, and under load.
#[test]
fn checksum_resync_interrupted_unreadable_and_under_load() {
    let net = with_csums(false);
    for packets in 1..40 {
        let mut w = missed_half(3, &net, 20);
        w.weather.disk_us = 2000;
        w.cut(false);
        assert!(w.run_until(secs(20), resyncing), "{:?}", states(&w));
        w.hooks.cut_at = Some(w.hooks.sent + packets);
        for i in 0..20 {
            issue(&mut w, 0, i * 12);
            w.run_for(Duration::from_micros(300));
        }
        w.run_for(secs(3));
        ends(&mut w, &net);
    }
    let mut w = missed_half(4, &net, 20);
    w.nodes[1].disk_config.on_io_error = model::policy::OnIoError::PassOn;
    w.crash(1, false);
    w.hooks.break_disk(1, crate::hooks::DiskOp::Read, 8 * 4, 8);
    w.start(1);
    w.connect(1, &net);
    w.cut(false);
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    assert_eq!(w.hooks.seen(1, Wire::RsDataRequest), 1, "asked for as it is");
    ends(&mut w, &net);
}

/// Block data that changes on its way is not written: the connection is made anew, and what is missing is brought.
#[test]
fn changed_data_does_not_reach_a_disk() {
    let net = NetConfig { data_integrity_alg: "crc32c".into(), ..net() };
    let mut w = pair_with(5, SECTORS, &net, [DiskConfig::default(), DiskConfig::default()]);
    // A mirrored write.
    w.hooks.changed_at = Some(0);
    wrote(&mut w, 0, 80);
    assert_eq!(w.tally.bad_digests, 1);
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    w.check_disks();
    // A block of a resync.
    disconnect(&mut w, 1);
    wrote(&mut w, 0, 160);
    w.hooks.changed_at = Some(w.hooks.sent);
    w.connect(1, &net);
    assert!(w.run_until(secs(30), |w| w.tally.bad_digests == 2), "{:?}", states(&w));
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    w.check_disks();
    // A block that a client without a disk reads.
    assert_eq!(w.command_and_wait(0, Command::Detach { vol: VOL, force: false }), OK);
    w.hooks.changed_at = Some(w.hooks.sent);
    assert!(read(&mut w, 0, 160).is_err(), "nobody else has it");
    assert_eq!(w.tally.bad_digests, 3);
    let together = |w: &World| (0..2).all(|n| conn(w, n) == ConnState::Connected);
    assert!(w.run_until(secs(30), together), "{:?}", states(&w));
    assert!(read(&mut w, 0, 160).is_ok());
    // Switched off on one node, then on the other: each direction by itself.
    w.attach(0);
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    let off = NetConfig { data_integrity_alg: String::new(), ..net.clone() };
    for n in 0..2 {
        assert_eq!(w.command_and_wait(n, Command::NetOptions(Box::new(off.clone()))), OK);
        wrote(&mut w, 0, 240);
    }
    assert_eq!(w.hooks.seen(0, Wire::ProtocolUpdate) + w.hooks.seen(1, Wire::ProtocolUpdate), 2);
    let handshakes = w.hooks.seen(0, Wire::ConnectionFeatures);
    wrote(&mut w, 0, 320);
    assert_eq!(w.hooks.seen(0, Wire::ConnectionFeatures), handshakes, "on the same connection");
    settle(&mut w, &off);
    check_all(&mut w);
}
