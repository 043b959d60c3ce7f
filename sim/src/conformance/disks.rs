//! Disks that fail, are detached, come back, or have another size.

use super::*;
use crate::hooks::DiskOp;
use model::config::settings::Handler;
use model::policy::{OnIoError, OnNoData};
use model::result_code::{ConfigError, StateResult};

const DETACH: Command = Command::Detach { vol: VOL, force: false };
/// An activity log extent in bytes.
const EXTENT: u64 = 4 << 20;

fn large_pair(seed: u64, on_io_error: OnIoError) -> World {
    let disk = DiskConfig { on_io_error, ..DiskConfig::default() };
    pair_with(seed, LARGE, &net(), [disk.clone(), disk])
}

fn detach(w: &mut World, n: usize) {
    assert_eq!(w.command_and_wait(n, DETACH), OK);
    assert_eq!(disk(w, n), DiskState::Diskless);
    w.run_for(ms(50));
}

/// A new disk with fresh metadata instead of the old one.
fn replace_disk(w: &mut World, n: usize, sectors: u64) {
    let config = w.nodes[n].disk_config.clone();
    w.nodes[n].disk = Node::new(sectors, config).disk;
}

/// What may be done about a disk that fails.
const POLICIES: [OnIoError; 3] = [OnIoError::PassOn, OnIoError::CallLocalIoError, OnIoError::Detach];

/// The disk of node `n` has gone by itself: the handler was called for it once, by the policy that wants it.
fn called_for_failed_disk(w: &World, n: usize, policy: OnIoError) {
    let wanted = [0, 1].map(|i| usize::from(i == n && policy == OnIoError::CallLocalIoError));
    assert_eq!([0, 1].map(|i| calls(w, i, Handler::LocalIoError)), wanted, "node {}, {policy:?}", n + 1);
}

/// Read and write errors on either node, with every policy: the client sees none of them. Afterwards one block is brought
/// to a Secondary, an activity log extent to a Primary, and everything to a disk with new metadata.
#[test]
pub(super) fn io_errors() {
    for n in 0..2 {
        for op in [DiskOp::Read, DiskOp::Write] {
            for policy in POLICIES {
                for new_metadata in [false, true] {
                    io_error(n, op, policy, new_metadata);
                }
            }
        }
    }
}

fn io_error(n: usize, op: DiskOp, policy: OnIoError, new_metadata: bool) {
    let what = format!("{op:?} error on node {}, {policy:?}, new metadata {new_metadata}", n + 1);
    let mut w = large_pair(1, policy);
    wrote(&mut w, 0, 64);
    w.run_for(ms(100));
    w.hooks.break_disk(n, op, 64, 8);
    match op {
        DiskOp::Read => assert_eq!(read(&mut w, 0, 64), Ok(1), "{what}"),
        _ => wrote(&mut w, 0, 64),
    }
    w.run_for(ms(100));
    // Nobody reads on a Secondary.
    let hit = n == 0 || op == DiskOp::Write;
    let left = match policy {
        _ if !hit => DiskState::UpToDate,
        OnIoError::PassOn => DiskState::Inconsistent,
        _ => DiskState::Diskless,
    };
    assert_eq!((disk(&w, n), w.volume(1 - n).map(|s| s.pdsk)), (left, Some(left)), "{what}");
    assert_eq!(disk(&w, 1 - n), DiskState::UpToDate, "{what}");
    assert!(read(&mut w, 0, 64).is_ok(), "{what}");
    called_for_failed_disk(&w, n, if hit { policy } else { OnIoError::Detach });
    w.hooks.mend_disks();
    w.hooks.packets.clear();
    let mut wanted = [0; 2];
    if !hit {
        // Nothing to bring.
    } else if left == DiskState::Diskless {
        if new_metadata {
            replace_disk(&mut w, n, LARGE);
        }
        w.attach(n);
        wanted[1 - n] = match (new_metadata, n) {
            (true, _) => LARGE * 512,
            (false, 0) => EXTENT,
            (false, _) => 4096,
        };
    } else {
        // A Primary would not let the only good copy go.
        assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
        w.run_for(ms(100));
        w.connect(1, &net());
        wanted[1 - n] = 4096;
    }
    assert!(w.run_until(secs(60), all_current), "{what}: {:?}", states(&w));
    assert_eq!(brought(&w), wanted, "{what}");
    ends_as_usual(&mut w);
}

/// The backing disk is dead: a detach waits for it, one by force does not, and the client is served by the peer.
#[test]
pub(super) fn interrupt_detach() {
    for n in 0..2 {
        for gently_first in [true, false] {
            let mut w = large_pair(2, OnIoError::Detach);
            wrote(&mut w, 0, 64);
            w.run_for(ms(100));
            w.hold_disk(n, true);
            let stuck = issue(&mut w, 0, 64);
            w.run_for(ms(100));
            let gentle = gently_first.then(|| w.command(n, DETACH));
            w.run_for(secs(2));
            if let Some(id) = gentle {
                assert_eq!(command_answer(&mut w, id), None, "it waits for the disk");
            }
            let by_force = w.command(n, Command::Detach { vol: VOL, force: true });
            assert_eq!(answered_within(&mut w, by_force, ms(100)), OK);
            if let Some(id) = gentle {
                assert_eq!(answered_within(&mut w, id, secs(1)), OK, "it has what it wanted");
            }
            w.run_for(ms(100));
            assert_eq!(disk(&w, n), DiskState::Diskless);
            assert_eq!(wait(&mut w, stuck).0, ClientResult::Ok, "served by the other copy");
            wrote(&mut w, 0, 128);
            w.hold_disk(n, false);
            w.run_for(secs(1));
            assert_eq!(disk(&w, n), DiskState::Diskless);
            w.hooks.packets.clear();
            w.attach(n);
            assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
            assert_eq!(brought(&w)[n], 0);
            ends_as_usual(&mut w);
        }
    }
}

/// The Primary's disk does not answer clients' requests: it is detached after the timeout and not before, the peer serves
/// them, and a later attach brings what is missing.
#[test]
pub(super) fn disk_timeout() {
    let timeout = secs(3);
    for (read_first, policy) in [false, true].into_iter().flat_map(|r| POLICIES.map(|p| (r, p))) {
        let cfg = DiskConfig { disk_timeout: timeout, on_io_error: policy, ..DiskConfig::default() };
        // Longer than the disk may take: the peer must not be blamed.
        let net = NetConfig { ko_count: 20, ..net() };
        let mut w = pair_with(4, LARGE, &net, [cfg.clone(), cfg]);
        wrote(&mut w, 0, 64);
        w.run_for(secs(10));
        w.hold_disk(0, true);
        let start = w.now;
        let tag = match read_first {
            true => w.request(0, SimOp::Read { sector: 64, count: 8 }),
            false => issue(&mut w, 0, 64),
        };
        assert!(w.run_until(secs(30), |w| states(w)[0].1 < DiskState::Inconsistent), "{:?}", states(&w));
        let took = w.now.saturating_since(start);
        assert!(took >= timeout && took <= timeout + ms(500), "{took:?}");
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok, "served by the peer");
        assert!(read(&mut w, 0, 64).is_ok());
        wrote(&mut w, 0, 128);
        w.run_for(secs(1));
        assert_eq!(conn(&w, 0), ConnState::Connected);
        assert_eq!(w.volume(1).map(|s| s.pdsk), Some(DiskState::Diskless));
        called_for_failed_disk(&w, 0, policy);
        w.hold_disk(0, false);
        w.run_for(secs(1));
        w.hooks.packets.clear();
        w.attach(0);
        assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
        assert_eq!(brought(&w), [0, EXTENT], "the extent that was hot");
        ends(&mut w, &net);
    }
}

/// The disk ends no metadata write, no flush, or nothing of a resync: it is detached after the timeout on either node.
#[test]
pub(super) fn disk_timeout_of_everything_else() {
    let timeout = secs(3);
    let net = NetConfig { ko_count: 20, ..net() };
    for n in 0..2 {
        for (case, policy) in (0..3).flat_map(|case| POLICIES.map(|p| (case, p))) {
            let cfg = DiskConfig { disk_timeout: timeout, on_io_error: policy, ..DiskConfig::default() };
            let mut w = pair_with(4, LARGE, &net, [cfg.clone(), cfg.clone()]);
            wrote(&mut w, 0, 64);
            w.run_for(secs(10));
            match case {
                0 => {
                    w.hooks.slow_disk(n, DiskOp::Meta, 0, 0);
                    disconnect(&mut w, 0);
                }
                1 => {
                    wrote(&mut w, 0, 128);
                    w.hold_disk(n, true);
                    w.request(0, SimOp::Flush);
                }
                _ => {
                    disconnect(&mut w, 0);
                    for block in 0..40 {
                        wrote(&mut w, 0, 1000 + block * 8);
                    }
                    let op = [DiskOp::Read, DiskOp::Write][n];
                    w.hooks.slow_disk(n, op, 1000, 400);
                    w.connect(0, &net);
                }
            }
            let gone = w.run_until(secs(30), |w| states(w)[n].1 < DiskState::Inconsistent);
            assert!(gone, "node {n}, case {case}: {:?}", states(&w));
            w.hold_disk(n, false);
            w.let_go(false);
            w.run_for(secs(1));
            called_for_failed_disk(&w, n, policy);
            ends(&mut w, &net);
        }
    }
}

/// A disk is attached on one node, or on both at once, while they are connected: they agree, and only the differences are
/// copied.
#[test]
pub(super) fn attach_while_connected() {
    for n in 0..2 {
        for blocks in [0, 10] {
            let mut w = large_pair(3, OnIoError::Detach);
            scribble(&mut w, 0, 50, SECTORS);
            w.run_for(secs(1));
            detach(&mut w, n);
            for i in 0..blocks {
                wrote(&mut w, 0, i * 64);
            }
            w.hooks.packets.clear();
            w.attach(n);
            assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
            let mut wanted = [0; 2];
            // The extents of a Primary that were hot when it lost its disk are not to be trusted.
            wanted[1 - n] = if n == 0 { EXTENT } else { blocks * 4096 };
            assert_eq!(brought(&w), wanted);
            ends_as_usual(&mut w);
        }
        // And under writes.
        let mut w = pair(4);
        scribble(&mut w, 0, 50, SECTORS);
        detach(&mut w, n);
        scribble(&mut w, 0, 100, SECTORS);
        w.attach(n);
        scribble(&mut w, 0, 100, SECTORS);
        ends_as_usual(&mut w);
    }
    for seed in 0..20 {
        let mut w = large_pair(seed, OnIoError::Detach);
        scribble(&mut w, 0, 50, SECTORS);
        assert_eq!(secondary(&mut w, 0), OK);
        w.run_for(secs(1));
        for n in 0..2 {
            detach(&mut w, n);
        }
        w.hooks.packets.clear();
        w.attach(seed as usize % 2);
        let us = w.rng.below(1 + 100 * seed);
        w.run_for(Duration::from_micros(us));
        w.attach(1 - seed as usize % 2);
        assert!(w.run_until(secs(60), all_current), "seed {seed}: {:?}", states(&w));
        assert_eq!(brought(&w), [0, 0], "seed {seed}");
        ends_as_usual(&mut w);
    }
}

/// A Primary without a disk reads, writes and flushes on the peer, fails while that is away, goes on when it is back, and
/// accepts nothing but the data its clients saw.
#[test]
pub(super) fn diskless_primary() {
    let mut w = pair(1);
    wrote(&mut w, 0, 0);
    detach(&mut w, 0);
    assert_eq!(w.volume(1).map(|s| s.pdsk), Some(DiskState::Diskless));
    assert_eq!(read(&mut w, 0, 0), Ok(1));
    wrote(&mut w, 0, 64);
    assert_eq!(read(&mut w, 0, 64), Ok(2));
    let tag = w.request(0, SimOp::Flush);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    assert!(w.nodes[1].disk.medium(64) > 0, "a flush reaches the only disk");
    scribble(&mut w, 0, 100, SECTORS);
    w.run_for(secs(1));
    check_copy(&mut w, 1);
    for away in 0..3 {
        match away {
            0 => w.cut(true),
            1 => {
                let refused = CommandResult::State(StateResult::CwFailedByPeer);
                assert_eq!(w.command_and_wait(1, Command::Disconnect { force: false }), refused);
                assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
            }
            _ => w.crash(1, false),
        }
        w.run_for(secs(5));
        assert_eq!(read(&mut w, 0, 64), Err(ClientResult::IoError));
        w.cut(false);
        if w.nodes[1].core.is_none() || conn(&w, 1) == ConnState::StandAlone {
            bring_back(&mut w, 1, &net());
        }
        assert!(w.run_until(secs(30), both_connected), "{away}: {:?}", states(&w));
        assert!(read(&mut w, 0, 64).is_ok(), "{away}");
        scribble(&mut w, 0, 20, SECTORS);
    }
    w.run_for(secs(1));
    // Other data than its clients saw.
    let kept = w.nodes[1].disk.clone();
    w.cut(true);
    w.run_for(secs(5));
    assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
    let other = Command::NewCurrentUuid { vol: VOL, clear_bitmap: false };
    assert_eq!(w.command_and_wait(1, other), OK);
    w.cut(false);
    w.connect(1, &net());
    w.run_for(secs(20));
    stands_alone(&w, 0, "Can only connect to data with current UUID");
    // Its data is put back.
    w.crash(1, false);
    w.nodes[1].disk = kept;
    w.start(1);
    w.connect(1, &net());
    w.connect(0, &net());
    assert!(w.run_until(secs(30), both_connected), "{:?}", states(&w));
    ends_as_usual(&mut w);
}

/// All good data is gone: by policy requests fail at once, or they wait and go on when it is back.
#[test]
pub(super) fn no_data_accessible() {
    for policy in [OnNoData::IoError, OnNoData::SuspendIo] {
        let mut w = nodes(6, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
        for n in 0..2 {
            w.crash(n, false);
            w.nodes[n].on_no_data = policy;
            w.start(n);
        }
        link_up(&mut w, &net());
        w.run_for(ms(100));
        crate::scenarios::skip_initial_sync(&mut w, 0);
        assert_eq!(primary(&mut w, 0), OK);
        wrote(&mut w, 0, 0);
        detach(&mut w, 0);
        let under_way = issue(&mut w, 0, 64);
        w.crash(1, false);
        w.run_for(secs(3));
        let new = issue(&mut w, 0, 128);
        let read_tag = w.request(0, SimOp::Read { sector: 0, count: 1 });
        w.run_for(secs(20));
        let frozen = policy == OnNoData::SuspendIo;
        assert_eq!(w.volume(0).map(|s| s.susp_nod), Some(frozen));
        for tag in [under_way, new, read_tag] {
            let wanted = (!frozen).then_some(ClientResult::IoError);
            assert_eq!(answer(&mut w, tag).map(|(r, _)| r), wanted, "{policy:?}");
        }
        w.start(1);
        w.connect(1, &net());
        if frozen {
            for tag in [under_way, new, read_tag] {
                assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
            }
        }
        assert!(w.run_until(secs(30), both_connected));
        assert_eq!(read(&mut w, 0, 0), Ok(1), "the data is back");
        assert_eq!(w.volume(0).map(|s| s.susp_nod), Some(false));
        ends_as_usual(&mut w);
    }
}

fn size(w: &World, n: usize) -> u64 {
    w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now).volumes[0].size_sectors
}

/// Disks of different sizes: fresh nodes agree on the smaller one; a device in use does not shrink, a smaller peer is
/// refused; a peer without a disk learns the size.
#[test]
pub(super) fn connect_differing_sizes() {
    for small in 0..2 {
        let mut w = fresh(5);
        w.crash(small, false);
        replace_disk(&mut w, small, SMALL);
        w.start(small);
        link_up(&mut w, &net());
        assert_eq!([size(&w, 0), size(&w, 1)], [SMALL; 2], "the smaller one");
        assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
        wrote(&mut w, 0, SMALL - 8);
        ends_as_usual(&mut w);
        // A larger disk instead of the smaller one: again the smaller of the two.
        assert_eq!(primary(&mut w, 1 - small), OK);
        w.crash(small, false);
        replace_disk(&mut w, small, LARGE);
        w.run_for(secs(2));
        settle(&mut w, &net());
        assert_eq!([size(&w, 0), size(&w, 1)], [SECTORS; 2]);
        wrote(&mut w, 1 - small, SECTORS - 8);
        ends_as_usual(&mut w);
    }
    // A smaller disk than that in use.
    let mut w = pair(4);
    wrote(&mut w, 0, 0);
    w.crash(1, false);
    w.run_for(secs(5));
    let old = w.nodes[1].disk.clone();
    replace_disk(&mut w, 1, SECTORS / 2);
    w.start(1);
    w.connect(1, &net());
    w.run_for(secs(20));
    stands_alone(&w, 0, "too small");
    assert!(conn(&w, 1) < ConnState::Connected);
    wrote(&mut w, 0, SECTORS - 8);
    w.crash(1, false);
    w.nodes[1].disk = old;
    ends_as_usual(&mut w);
    // No disk at all.
    w.crash(1, false);
    w.nodes[1].start(9);
    assert_eq!(size(&w, 1), 0);
    w.connect(1, &net());
    assert!(w.run_until(secs(30), both_connected));
    w.run_for(secs(1));
    assert_eq!([size(&w, 0), size(&w, 1)], [SECTORS; 2]);
    assert_eq!(secondary(&mut w, 0), OK);
    assert_eq!(primary(&mut w, 1), OK);
    wrote(&mut w, 1, SECTORS - 8);
    let gone = w.command_and_wait(0, DETACH);
    assert_eq!(gone, CommandResult::State(StateResult::CwFailedByPeer), "the only disk of a Primary");
    let foreign = Node::new(SMALL, DiskConfig::default()).load(VOL);
    let refused = w.command_and_wait(1, Command::Attach(VOL, Box::new(foreign)));
    assert_eq!(refused, CommandResult::Config(ConfigError::DiskTooSmall), "a Primary never shrinks");
    ends_as_usual(&mut w);
}

/// Both backing disks have grown, while both nodes were down or while each was detached: the nodes agree on the size, and
/// the new part is the same on both.
#[test]
pub(super) fn grown_while_apart() {
    for last in 0..2 {
        for down in [false, true] {
            let mut w = pair(3);
            scribble(&mut w, 0, 50, SECTORS);
            assert_eq!(secondary(&mut w, 0), OK);
            w.run_for(secs(1));
            for n in [1 - last, last] {
                if down {
                    w.crash(n, false);
                } else {
                    detach(&mut w, n);
                }
                w.nodes[n].disk.sectors = LARGE;
                // Whatever the disk held there; the source's is the truth.
                w.nodes[n].disk.write(SECTORS + 64, &[7 + n as u64; 8], true);
                if !down {
                    w.attach(n);
                    assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
                }
            }
            w.hooks.packets.clear();
            settle(&mut w, &net());
            w.run_for(secs(5));
            assert_eq!([size(&w, 0), size(&w, 1)], [LARGE; 2]);
            assert_eq!((marked(&w, 0), marked(&w, 1)), (0, 0), "down {down}: what is marked is brought");
            let held = [0, 1].map(|n: usize| w.nodes[n].disk.read(SECTORS + 64));
            assert_eq!(held[0], held[1], "down {down}");
        }
    }
}
