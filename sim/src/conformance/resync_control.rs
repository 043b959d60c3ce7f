//! How fast a resync goes, who pauses it, what a Primary has of it meanwhile.

use super::*;
use model::ids::Minor;
use model::policy::OnNoData;
use model::result_code::ConfigError;
use replicator::resync::order::{Adjustment, Device, adjustment};

/// Node 2 misses 100 blocks and resyncs them slowly.
fn slow_resync() -> World {
    let mut w = pair_at(5, SECTORS, &fixed_rate(100));
    w.run_for(ms(100));
    disconnect(&mut w, 1);
    for i in 0..100 {
        wrote(&mut w, 0, i * 24);
    }
    w.hooks.packets.clear();
    w.connect(1, &net());
    assert!(w.run_until(secs(20), resyncing), "{:?}", states(&w));
    w.run_for(ms(500));
    w
}

/// The resync pauses while any of the two nodes says so, and goes on when the last flag is clear; volumes that wait for
/// each other are synced one after the other.
#[test]
pub(super) fn resync_pause_resume() {
    let paused = [ConnState::PausedSyncS, ConnState::PausedSyncT];
    let config = |e| CommandResult::Config(e);
    for who in [&[0][..], &[1], &[0, 1], &[1, 0]] {
        let mut w = slow_resync();
        for n in who {
            assert_eq!(w.command_and_wait(*n, Command::PauseSync(VOL)), OK);
        }
        w.run_for(ms(100));
        assert_eq!([conn(&w, 0), conn(&w, 1)], paused);
        let sent = brought(&w)[0];
        assert!(sent > 0 && sent < 100 * 4096);
        let first = who[0];
        assert_eq!(w.command_and_wait(first, Command::PauseSync(VOL)), config(ConfigError::PauseIsSet));
        if who.len() == 1 {
            let peers = w.command_and_wait(1 - first, Command::ResumeSync(VOL));
            assert_eq!(peers, config(ConfigError::PicPeerDep), "only who paused it may go on");
        }
        for n in who {
            w.run_for(secs(5));
            assert_eq!([conn(&w, 0), conn(&w, 1)], paused);
            assert_eq!(brought(&w)[0], sent, "nothing moves");
            assert_eq!(w.command_and_wait(*n, Command::ResumeSync(VOL)), OK);
        }
        w.run_for(ms(100));
        assert!(resyncing(&w), "{:?}", states(&w));
        assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
        assert_eq!(w.command_and_wait(first, Command::ResumeSync(VOL)), config(ConfigError::PauseIsClear));
        ends_as_usual(&mut w);
    }
    chain_of_volumes();
}

const VOLUMES: u8 = 3;

/// Volume 2 waits for volume 1, that for volume 0.
fn chain_of_volumes() {
    let disk = fixed_rate(1000);
    let mut w = nodes(6, SMALL, [disk.clone(), disk], VOLUMES);
    link_up(&mut w, &net());
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
    let mut ended = Vec::new();
    for _ in 0..1000 {
        w.run_for(ms(20));
        for n in 0..2 {
            keep_order(&mut w, n);
        }
        // The order is kept from outside, which may take a moment at the start.
        let moving = |v: &u8| w.volume_of(1, *v).is_some_and(|s| s.conn == ConnState::SyncTarget);
        let running = (0..VOLUMES).filter(moving).count();
        assert!(running <= 1 || w.now < model::time::Instant(5_000_000_000), "{running} volumes at once");
        for v in 0..VOLUMES {
            let good = w.volume_of(1, v).is_some_and(|s| s.disk == DiskState::UpToDate);
            if good && !ended.contains(&v) {
                ended.push(v);
            }
        }
        if ended.len() == usize::from(VOLUMES) {
            break;
        }
    }
    assert_eq!(ended, [0, 1, 2], "in the order of the chain");
    ends_as_usual(&mut w);
}

/// What the driver of a node does about `resync-after`.
fn keep_order(w: &mut World, n: usize) {
    let devices: Vec<Device> = (0..VOLUMES)
        .map(|v| Device {
            minor: Minor(v.into()),
            after: (v > 0).then(|| Minor(u32::from(v) - 1)),
            state: w.volume_of(n, v).expect("it runs"),
        })
        .collect();
    for (v, device) in devices.iter().enumerate() {
        if let Some(what) = adjustment(&devices, device) {
            let pause = what == Adjustment::Pause;
            w.command(n, Command::SetAfterDependency(VolIdx(v as u8), pause));
        }
    }
}

/// c-max-rate 40 MiB/s, c-min-rate 5 MiB/s, clients busy elsewhere: 20 MiB take 3 to 16 seconds under load, and less when
/// it is quiet.
#[test]
pub(super) fn c_min_rate() {
    let cfg = DiskConfig { c_min_rate_kib_s: 5 << 10, c_max_rate_kib_s: 40 << 10, ..DiskConfig::default() };
    for busy in [true, false] {
        let mut w = pair_at(10, 20 << 11, &cfg);
        assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
        assert!(w.run_until(secs(10), resyncing));
        let start = w.now;
        while !all_current(&w) {
            if busy {
                let sector = w.rng.below(1000) * 16;
                w.request(0, SimOp::Write { sector, count: 16, fua: false });
            }
            w.run_for(ms(5));
            assert!(w.now.saturating_since(start) < secs(60), "it ends");
        }
        let took = w.now.saturating_since(start);
        let wanted = if busy { secs(3)..=secs(16) } else { ms(400)..=secs(3) };
        assert!(wanted.contains(&took), "busy {busy}: {took:?}");
        ends_as_usual(&mut w);
    }
}

/// How long the full sync of a pair takes, and the most bytes that came within 100 ms and the longest standstill.
fn full_sync(sectors: u64, cfg: &DiskConfig) -> (Duration, u64, Duration) {
    let mut w = pair_at(9, sectors, cfg);
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
    assert!(w.run_until(secs(10), resyncing));
    let (start, mut burst, mut standstill, mut moved) = (w.now, 0, Duration::ZERO, w.now);
    let mut before = brought(&w)[0];
    while !all_current(&w) {
        w.run_for(ms(100));
        let now = brought(&w)[0];
        burst = burst.max(now - before);
        if now > before {
            moved = w.now;
        }
        standstill = standstill.max(w.now.saturating_since(moved));
        before = now;
        assert!(w.now.saturating_since(start) < secs(600), "it ends");
    }
    let took = w.now.saturating_since(start);
    ends_as_usual(&mut w);
    (took, burst, standstill)
}

/// With and without planning ahead, very slowly and with a fill target: the rate is held within a tenth, without bursts
/// and without standstill.
#[test]
pub(super) fn resync_rate_controller() {
    let planned = |kib_s, fill| DiskConfig {
        c_max_rate_kib_s: kib_s,
        c_fill_target_sectors: fill,
        resync_rate_kib_s: kib_s,
        ..DiskConfig::default()
    };
    // Options, sectors, KiB/s.
    let cases = [
        (fixed_rate(1000), LARGE, 1000),
        (fixed_rate(4000), LARGE, 4000),
        (fixed_rate(40), SMALL, 40),
        (planned(4096, 8192), LARGE, 4096),
        (planned(1024, 100), LARGE, 1024),
        (planned(1024, 0), LARGE, 1024),
    ];
    for (cfg, sectors, kib_s) in cases {
        let what =
            format!("plan ahead {}, fill {}, {kib_s} KiB/s", cfg.c_plan_ahead_ds, cfg.c_fill_target_sectors);
        let (took, burst, standstill) = full_sync(sectors, &cfg);
        let ideal = ms(sectors / 2 * 1000 / kib_s);
        let slack = ms(500);
        // Requests that are merged may overshoot a step by a block, as with DRBD.
        let blocks = (kib_s / 40).max(1) as u32;
        let quickest = (ideal * 9 / 10).min(ideal * blocks / (blocks + 1));
        assert!(
            took + slack >= quickest && took <= ideal * 11 / 10 + slack,
            "{what}: {took:?} for {ideal:?}"
        );
        let per_step = kib_s * 1024 / 10;
        assert!(burst <= per_step * 3 / 2 + 16 * 4096, "{what}: {burst} bytes at once, {per_step} are due");
        assert!(standstill <= ms(500), "{what}: {standstill:?}");
    }
}

/// The target is promoted in mid resync, reads and writes everywhere: blocks that are not here yet come from the peer.
#[test]
pub(super) fn resync_target_primary() {
    for seed in 0..5 {
        let mut w = target_is_primary(seed, OnNoData::IoError);
        let before = w.reads_checked;
        scribble(&mut w, 1, 300, SECTORS);
        for sector in (0..SECTORS).step_by(997) {
            assert!(read(&mut w, 1, sector).is_ok());
        }
        assert!(w.reads_checked > before);
        assert!(w.hooks.seen(1, Wire::DataRequest) > 0, "blocks that are not here yet are read there");
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        assert_eq!(roles(&w), [Role::Secondary, Role::Primary]);
        ends_as_usual(&mut w);
    }
}

/// In mid resync from node 1 to node 2, which is Primary.
fn target_is_primary(seed: u64, on_no_data: OnNoData) -> World {
    let mut w = pair_at(seed, SECTORS, &fixed_rate(1000));
    scribble(&mut w, 0, 50, SECTORS);
    assert_eq!(secondary(&mut w, 0), OK);
    w.crash(1, false);
    w.nodes[1].on_no_data = on_no_data;
    w.run_for(secs(1));
    w.start(1);
    w.connect(1, &net());
    assert!(w.run_until(secs(30), all_current), "{:?}", states(&w));
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
    assert!(w.run_until(secs(10), resyncing), "{:?}", states(&w));
    assert_eq!(primary(&mut w, 1), OK);
    w.hooks.packets.clear();
    w
}

/// The same, and the link is lost: requests fail or wait, as the policy for missing data says; after a demotion or
/// without one the resync completes when the link is back.
#[test]
pub(super) fn resync_target_promote_interrupt() {
    for policy in [OnNoData::IoError, OnNoData::SuspendIo] {
        for demoted in [false, true] {
            let mut w = target_is_primary(7, policy);
            scribble(&mut w, 1, 50, SECTORS);
            w.cut(true);
            w.run_for(secs(5));
            let tag = w.request(1, SimOp::Read { sector: SECTORS - 8, count: 1 });
            w.run_for(secs(5));
            match policy {
                OnNoData::IoError => {
                    assert_eq!(answer(&mut w, tag).map(|(r, _)| r), Some(ClientResult::IoError));
                    if demoted {
                        assert_eq!(secondary(&mut w, 1), OK);
                    }
                }
                OnNoData::SuspendIo => {
                    assert!(w.volume(1).is_some_and(|s| s.susp_nod));
                    assert_eq!(answer(&mut w, tag), None, "frozen, neither done nor failed");
                }
            }
            w.cut(false);
            if policy == OnNoData::SuspendIo {
                assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
                if demoted {
                    assert_eq!(secondary(&mut w, 1), OK);
                }
            }
            assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
            ends_as_usual(&mut w);
        }
    }
}

/// The busy Primary crashes. If the peer was promoted meanwhile it is the source, else the crashed node is; what travels
/// are the hot extents and the blocks that are marked.
#[test]
pub(super) fn resync_after_primary_crash() {
    for promoted in [false, true] {
        for power in [false, true] {
            let mut w = pair_with(2, 4 * LARGE, &net(), [DiskConfig::default(), DiskConfig::default()]);
            for extent in [0, 2, 7] {
                wrote(&mut w, 0, extent * 8192 + 64);
                scribble(&mut w, 0, 20, 64);
            }
            for _ in 0..30 {
                let at = w.rng.below(64) * 8;
                issue(&mut w, 0, at);
            }
            w.run_for(Duration::from_micros(100));
            w.crash(0, power);
            w.run_for(secs(5));
            let mut wanted = [3 * (4 << 20), 0];
            if promoted {
                assert_eq!(primary(&mut w, 1), OK);
                check_copy(&mut w, 1);
                for i in 0..10 {
                    wrote(&mut w, 1, 20 * 8192 + i * 24);
                }
                wanted = [0, wanted[0] + 10 * 4096];
            }
            w.hooks.packets.clear();
            w.start(0);
            w.connect(0, &net());
            assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
            assert_eq!(brought(&w), wanted, "promoted {promoted}, power {power}");
            ends_as_usual(&mut w);
        }
    }
}
