//! `max-buffers`: what was received from the peer and is not written has an end (drbd-wire 1.4).

use model::policy::Protocol;

use super::*;

/// Pages of 4 KiB; as few as may be.
const FEW: u32 = 32;

fn few_buffers(protocol: Protocol) -> NetConfig {
    NetConfig { protocol, max_buffers: FEW, ..net() }
}

fn pair_of(seed: u64, protocol: Protocol) -> World {
    pair_with(seed, LARGE, &few_buffers(protocol), [DiskConfig::default(), DiskConfig::default()])
}

/// Pages in memory of a node.
fn pages(w: &World, n: usize) -> u64 {
    w.nodes[n].buffers.values().map(|b| (b.versions.len() as u64).div_ceil(8)).sum()
}

/// Runs until the condition holds; the most pages that node 2 had meanwhile.
fn most_until(w: &mut World, done: impl Fn(&World) -> bool) -> u64 {
    let mut most = 0;
    let ended = w.run_until(secs(60), |w| {
        most = most.max(pages(w, 1));
        done(w)
    });
    assert!(ended, "{}", w.under_way());
    most
}

/// The disk is slower than the link: in protocol A everything was taken in.
#[test]
fn a_slow_disk_stops_the_peer() {
    for kernels in [false, true] {
        let _peers = AsKernels::new(kernels);
        for (seed, protocol) in [Protocol::A, Protocol::B, Protocol::C].into_iter().enumerate() {
            for blocks in [1, 8] {
                let mut w = pair_of(seed as u64, protocol);
                assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
                w.run_for(ms(10));
                w.hold_disk(1, true);
                for i in 0..200 {
                    w.request(0, SimOp::Write { sector: i * 8 * blocks, count: 8 * blocks, fua: false });
                }
                w.run_for(ms(300));
                assert_eq!(pages(&w, 1), u64::from(FEW), "{protocol:?}, {blocks} blocks");
                w.hold_disk(1, false);
                let most = most_until(&mut w, World::is_idle);
                assert_eq!(most, u64::from(FEW), "and goes on as some are written");
                heals(&mut w);
            }
        }
    }
}

/// A write of 1 MiB is eight times as large as all buffers. It is received when nothing else is under way, or nearly nothing.
#[test]
fn a_write_larger_than_all_buffers_passes() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        let mut w = pair_of(3, protocol);
        for i in 0..20 {
            w.request(0, SimOp::Write { sector: i * 2048, count: 2048, fua: false });
            w.request(0, SimOp::Write { sector: i * 2048 + 8, count: 8, fua: false });
        }
        let most = most_until(&mut w, World::is_idle);
        assert!((256..256 + u64::from(FEW)).contains(&most), "{protocol:?}: {most} pages");
        heals(&mut w);
    }
}

/// Blocks of a resync are no different: half as many may be asked for as there are buffers, and every step asked anew.
#[test]
fn a_slow_disk_stops_a_resync() {
    let disk = DiskConfig { c_plan_ahead_ds: 0, resync_rate_kib_s: 1 << 20, ..DiskConfig::default() };
    let mut w = pair_with(4, LARGE, &few_buffers(Protocol::C), [disk.clone(), disk]);
    disconnect(&mut w, 0);
    for i in 0..500 {
        assert_eq!(write(&mut w, 0, i * 8, 8), ClientResult::Ok);
    }
    w.connect(0, &few_buffers(Protocol::C));
    let begun = |w: &World| w.state(1).0 == ConnState::SyncTarget;
    assert!(w.run_until(secs(30), begun), "{:?} {:?}", w.volume(0), w.volume(1));
    w.hold_disk(1, true);
    let before = resync_bytes(&w, 0);
    w.run_for(secs(1));
    let brought = (resync_bytes(&w, 0) - before) / 4096;
    assert!(brought < 2 * u64::from(FEW), "{brought} pages");
    w.hold_disk(1, false);
    heals(&mut w);
}
