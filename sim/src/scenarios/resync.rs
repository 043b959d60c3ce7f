//! What travels in a resync, what interrupts it, how fast it goes, how it ends (drbd-wire 5, 6).

use super::*;
use replicator::meta::superblock::{MetaFlags, SuperBlock};

const VOL: VolIdx = VolIdx(0);

/// Both disks with a fixed resync rate.
fn fixed_rate(kib_s: u32) -> DiskConfig {
    DiskConfig { c_plan_ahead_ds: 0, resync_rate_kib_s: kib_s, ..DiskConfig::default() }
}

/// 1 MiB, for long loops.
fn small_pair(seed: u64) -> World {
    pair_with(seed, 2048, &net(), [DiskConfig::default(), DiskConfig::default()])
}

/// Node 2 leaves, node 1 writes `blocks` single blocks, far from each other.
fn apart(w: &mut World, blocks: u64) {
    w.run_for(ms(100));
    disconnect(w, 1);
    for i in 0..blocks {
        assert_eq!(write(w, 0, i * 24, 8), ClientResult::Ok);
    }
    w.hooks.packets.clear();
}

fn conn(w: &World, n: usize) -> ConnState {
    w.state(n).0
}

fn resyncing(w: &mut World) {
    let runs = |w: &World| conn(w, 1) == ConnState::SyncTarget && conn(w, 0) == ConnState::SyncSource;
    assert!(w.run_until(secs(10), runs), "{:?} {:?}", w.state(0), w.state(1));
}

/// A bitmap that compresses badly: every other block.
#[test]
fn both_codings_bring_the_same_bits() {
    for use_rle in [true, false] {
        let n = NetConfig { use_rle, ..net() };
        let mut w = pair_with(1, LARGE, &n, [DiskConfig::default(), DiskConfig::default()]);
        w.run_for(ms(100));
        disconnect(&mut w, 1);
        for i in 0..700 {
            w.request(0, SimOp::Write { sector: i * 16 + 4, count: 1, fua: false });
        }
        w.run_for(ms(200));
        w.hooks.packets.clear();
        w.connect(1, &n);
        heals(&mut w);
        assert_eq!(resync_bytes(&w, 0), 700 * 4096);
    }
}

/// The link is cut after the n-th packet, at every n; what was done stays done and the rest follows.
#[test]
fn interrupted_after_every_packet() {
    let mut full = Vec::new();
    for n in 1..=200 {
        let mut w = small_pair(3);
        apart(&mut w, 40);
        w.hooks.cut_at = Some(w.hooks.sent + n);
        w.connect(1, &net());
        w.run_until(secs(10), |w| w.weather.cut);
        w.run_for(secs(3));
        w.cut(false);
        heals(&mut w);
        let sent = resync_bytes(&w, 0);
        assert!(sent >= 40 * 4096);
        if sent > 80 * 4096 {
            full.push(n);
        }
    }
    // Where the source cannot know whether the target called itself UpToDate, everything travels again.
    assert!(full.len() <= 3, "{full:?}");
}

/// The same with power failures, of the target, of the source, of both.
#[test]
fn power_fails_after_every_packet() {
    for n in (1..=150).step_by(5) {
        for who in [&[0][..], &[1], &[0, 1]] {
            let mut w = small_pair(4);
            apart(&mut w, 40);
            let at = w.hooks.sent + n;
            w.connect(1, &net());
            w.run_until(secs(10), |w| w.hooks.sent >= at);
            for node in who {
                w.crash(*node, true);
            }
            w.run_for(secs(3));
            for node in who {
                w.start(*node);
                w.connect(*node, &net());
            }
            let done = w.run_until(secs(60), |w| w.in_sync() && w.is_idle());
            assert!(done, "n = {n}, {who:?}: {:?} {:?}", w.volume(0), w.volume(1));
            heals(&mut w);
        }
    }
}

/// A pause outlives the connection, and a resync that starts paused waits.
#[test]
fn a_resync_that_starts_paused() {
    let mut w = pair_with(5, SECTORS, &net(), [fixed_rate(100), fixed_rate(100)]);
    assert_eq!(w.command_and_wait(1, Command::PauseSync(VOL)), OK);
    apart(&mut w, 20);
    w.connect(1, &net());
    w.run_for(secs(5));
    assert_eq!((conn(&w, 0), conn(&w, 1)), (ConnState::PausedSyncS, ConnState::PausedSyncT));
    assert_eq!(resync_bytes(&w, 0), 0);
    assert_eq!(w.command_and_wait(1, Command::ResumeSync(VOL)), OK);
    heals(&mut w);
}

#[test]
fn writes_during_a_resync() {
    for seed in 0..5 {
        let mut w = pair_with(seed, SECTORS, &net(), [fixed_rate(2000), fixed_rate(2000)]);
        apart(&mut w, 200);
        w.connect(1, &net());
        resyncing(&mut w);
        scribble(&mut w, 0, 300, SECTORS);
        heals(&mut w);
    }
}

/// The node with the old data is the Primary: it reads marked blocks from the peer while they are brought.
#[test]
fn resync_towards_the_primary_under_load() {
    for seed in 0..5 {
        let mut w = pair_with(seed, SECTORS, &net(), [fixed_rate(1000), fixed_rate(1000)]);
        scribble(&mut w, 0, 50, SECTORS);
        w.run_for(secs(1));
        assert_eq!(w.command_and_wait(0, Command::Invalidate(VOL)), OK);
        let runs = |w: &World| conn(w, 0) == ConnState::SyncTarget;
        assert!(w.run_until(secs(10), runs), "{:?} {:?}", w.state(0), w.state(1));
        w.hooks.packets.clear();
        let before = w.reads_checked;
        scribble(&mut w, 0, 300, SECTORS);
        for sector in (0..SECTORS).step_by(997) {
            assert!(read(&mut w, 0, sector).is_ok());
        }
        assert!(w.reads_checked > before);
        assert!(w.hooks.seen(0, Wire::DataRequest) > 0, "blocks that are not here yet are read there");
        heals(&mut w);
    }
}

fn full_sync_on_disk(w: &World, n: usize) -> bool {
    let node = &w.nodes[n];
    let raw: [u8; 4096] = node.disk.read_md(node.layout.superblock_sector(), 8).try_into().unwrap();
    SuperBlock::decode(&raw).unwrap().flags.has(MetaFlags::FULL_SYNC)
}

/// The process dies while all bits are being set: the flag in the super block stands for them.
#[test]
fn a_full_sync_is_not_forgotten_by_a_crash() {
    let mut caught = 0;
    for k in 0..40 {
        let n = k % 2;
        let mut w = pair(8);
        w.weather.disk_us = 5000;
        w.run_for(ms(100));
        w.command(0, Command::InvalidateRemote(VOL));
        let until = w.now + ms(1 + k as u64 / 2);
        while w.step(until) {}
        w.crash(n, k % 4 < 2);
        let promised = full_sync_on_disk(&w, n);
        caught += u64::from(promised);
        w.start(n);
        w.run_for(ms(200));
        if promised {
            assert_eq!(marked(&w, n), SECTORS / 8, "k = {k}");
        }
        w.connect(n, &net());
        heals(&mut w);
        assert!(!full_sync_on_disk(&w, n));
    }
    assert!(caught > 5, "the crash hit the moment {caught} times");
}

/// The application keeps the source's disk busy: the resync yields, but not below c-min-rate.
#[test]
fn a_busy_pair_yields_down_to_c_min_rate() {
    let cfg = DiskConfig { c_min_rate_kib_s: 250, c_max_rate_kib_s: 1024, ..DiskConfig::default() };
    let mut w = pair_with(10, LARGE, &net(), [cfg.clone(), cfg]);
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
    resyncing(&mut w);
    let start = w.now;
    let mut cleared = false;
    while w.now.saturating_since(start) < secs(13) {
        if !cleared && w.now.saturating_since(start) > secs(3) {
            // By now the source knows its rate.
            w.hooks.packets.clear();
            cleared = true;
        }
        let sector = w.rng.below(1000) * 16;
        w.request(0, SimOp::Write { sector, count: 16, fua: false });
        w.run_for(ms(5));
    }
    let kib_s = resync_bytes(&w, 0) / 1024 / 10;
    assert!((100..=600).contains(&kib_s), "{kib_s} KiB/s instead of 250");
    w.hooks.packets.clear();
    w.run_for(secs(2));
    assert!(resync_bytes(&w, 0) / 1024 / 2 > 800, "an idle one goes on at full speed");
    heals(&mut w);
}

/// The target's blocks are on its medium before it calls itself UpToDate.
#[test]
fn power_fails_at_the_target_right_after_the_resync() {
    for seed in 0..20 {
        let mut w = pair(seed);
        apart(&mut w, 30);
        w.connect(1, &net());
        assert!(w.run_until(secs(10), |w| disk(w, 1) == DiskState::UpToDate
            && conn(w, 1) == ConnState::Connected));
        w.crash(1, true);
        for i in 0..30 {
            let held = w.nodes[0].disk.read(i * 24);
            assert_eq!(w.nodes[1].disk.medium(i * 24), held, "seed {seed}, block {i}");
        }
        w.start(1);
        w.connect(1, &net());
        heals(&mut w);
    }
}
