//! Copying what a peer lacks.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{DISK_BYTES, LONG, Lab, Setup};
use crate::node::{Io, Node};

/// So slow that a sync of a whole disk takes some seconds.
const SLOW: &str = "resync-rate 6M; c-plan-ahead 0;";
const ALL_KIB: u64 = (DISK_BYTES >> 10) - 100;

fn slow() -> Setup {
    Setup { disk: SLOW.to_owned(), ..Setup::default() }
}

/// Waits until a part of the sync is done.
fn wait_part(node: &Node) -> u64 {
    let until = Instant::now() + LONG;
    loop {
        let left = node.figure("oos");
        if left < ALL_KIB * 3 / 4 && left > 0 {
            return left;
        }
        assert!(left > 0 && Instant::now() < until, "{}: no part of a sync: {}", node.name, node.proc());
        sleep(Duration::from_millis(100));
    }
}

/// `primary --force` on one of two new disks copies all of it.
pub fn initial_full_sync(lab: &mut Lab, p: usize) -> String {
    lab.syncing(&Setup { disk: "resync-rate 20M; c-plan-ahead 0;".to_owned(), ..Setup::default() }, p);
    lab.write(p, 1 << 20, 65536);
    lab.connected(p);
    lab.nodes[1 - p].wait_log("Began resync as SyncTarget", LONG);
    lab.nodes[p].wait_log("Resync done", LONG);
    lab.finish();
    format!("{} MiB", DISK_BYTES >> 20)
}

/// What was written while the peer was away, and nothing else, is copied when it comes back.
pub fn bitmap_resync(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    lab.nodes[1 - p].ok("disconnect r0");
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
    for i in 0..5 {
        lab.write(p, i * (3 << 20), 65536);
    }
    lab.nodes[p].wait_figure("oos", 320, LONG);
    lab.nodes[1 - p].mark_log();
    lab.nodes[1 - p].ok("connect r0");
    lab.nodes[1 - p].wait_log("Began resync as SyncTarget (will sync 320 KB [80 bits set]).", LONG);
    lab.connected(p);
    let data = lab.noise(512);
    lab.nodes[p].io(Io::WriteFua, 512, &data).expect("a write");
    lab.finish();
    "320 KiB".to_owned()
}

/// The link is lost in the middle of a sync: it goes on from there.
pub fn interrupted_by_link_loss(lab: &mut Lab, p: usize) -> String {
    lab.syncing(&slow(), p);
    lab.write(p, 5 << 20, 1 << 20);
    wait_part(&lab.nodes[p]);
    lab.cut(1 - p);
    // What is known of an inconsistent disk stays known.
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/Inconsistent", LONG);
    lab.nodes[1 - p].wait("WFConnection Secondary/Unknown Inconsistent/DUnknown", LONG);
    let left = lab.nodes[p].figure("oos");
    assert!(left < ALL_KIB, "a part is done");
    lab.write(p, 7 << 20, 8192);
    lab.heal();
    lab.connected(p);
    lab.finish();
    format!("{left} KiB were left")
}

/// The target dies in the middle of a sync.
pub fn interrupted_target_killed(lab: &mut Lab, p: usize) -> String {
    interrupted_by_kill(lab, p, 1 - p)
}

/// The source, a Primary, dies in the middle of a sync.
pub fn interrupted_source_killed(lab: &mut Lab, p: usize) -> String {
    interrupted_by_kill(lab, p, p)
}

fn interrupted_by_kill(lab: &mut Lab, p: usize, victim: usize) -> String {
    lab.syncing(&slow(), p);
    lab.write(p, 5 << 20, 1 << 20);
    wait_part(&lab.nodes[p]);
    lab.nodes[victim].kill();
    let waits = if victim == p {
        "WFConnection Secondary/Unknown Inconsistent/DUnknown"
    } else {
        "WFConnection Primary/Unknown UpToDate/Inconsistent"
    };
    lab.nodes[1 - victim].wait(waits, LONG);
    lab.nodes[victim].boot();
    lab.nodes[victim].mark_log();
    lab.nodes[victim].ok("up r0");
    if victim == p {
        lab.settled("Secondary/Secondary");
        lab.nodes[p].ok("primary r0");
    }
    lab.connected(p);
    lab.finish();
    String::new()
}

/// A sync is paused by either side, by both, and resumed.
pub fn paused(lab: &mut Lab, p: usize) -> String {
    lab.syncing(&slow(), p);
    let s = 1 - p;
    for by in [p, s] {
        lab.nodes[by].ok("pause-sync r0");
        lab.nodes[p].wait("PausedSyncS Primary/Secondary UpToDate/Inconsistent", LONG);
        lab.nodes[s].wait("PausedSyncT Secondary/Primary Inconsistent/UpToDate", LONG);
        sleep(Duration::from_millis(500));
        let left = lab.nodes[p].figure("oos");
        lab.write(p, 9 << 20, 4096);
        sleep(Duration::from_millis(700));
        let after = lab.nodes[p].figure("oos");
        assert!(after <= left && after + 8 > left, "nothing is copied: {left} and {after} KiB");
        lab.nodes[by].ok("resume-sync r0");
        lab.nodes[p].wait("SyncSource Primary/Secondary UpToDate/Inconsistent", LONG);
    }
    lab.connected(p);
    lab.finish();
    String::new()
}

/// Clients write all over the device while it is synced.
pub fn under_load(lab: &mut Lab, p: usize) -> String {
    lab.syncing(&slow(), p);
    let load = lab.nodes[p].load("--bs=4k --iodepth=8 --rate=2m", 6);
    let kib = load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
    lab.connected(p);
    lab.finish();
    format!("{} KiB written meanwhile", kib)
}

/// Blocks that are equal are not sent.
pub fn checksums(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup { net: "csums-alg sha1;".to_owned(), ..Setup::default() }, p);
    lab.write(p, 2 << 20, 1 << 20);
    lab.nodes[1 - p].ok("invalidate r0");
    lab.nodes[1 - p].wait_log("Resync done", LONG);
    lab.connected(p);
    lab.nodes[1 - p].wait_log("had equal checksums", LONG);
    let log = lab.nodes[1 - p].log();
    let line = log.lines().rev().find(|l| l.contains("had equal checksums")).expect("a line").to_owned();
    assert!(line.contains("100 % had equal checksums"), "{line}");
    lab.finish();
    line.split("drbd0: ").nth(1).unwrap_or_default().trim().to_owned()
}

/// The rate is found by the controller of the target.
pub fn controller(lab: &mut Lab, p: usize) -> String {
    let disk = "resync-rate 4M; c-plan-ahead 10; c-fill-target 400; c-max-rate 40M; c-min-rate 4M;";
    lab.syncing(&Setup { disk: disk.to_owned(), ..Setup::default() }, p);
    let begun = Instant::now();
    lab.connected(p);
    let seconds = begun.elapsed().as_secs_f64();
    lab.finish();
    format!("{:.0} MiB/s", f64::from((DISK_BYTES >> 20) as u32) / seconds)
}

/// The rate that the target is given is kept.
pub fn fixed_rate(lab: &mut Lab, p: usize) -> String {
    let disk = "resync-rate 4M; c-plan-ahead 0;";
    lab.syncing(&Setup { disk: disk.to_owned(), ..Setup::default() }, p);
    let (begun, before) = (Instant::now(), lab.nodes[p].figure("oos"));
    sleep(Duration::from_secs(2));
    let (after, seconds) = (lab.nodes[p].figure("oos"), begun.elapsed().as_secs_f64());
    let kib_per_s = (before - after) as f64 / seconds;
    assert!(after > 0 && (1500.0..5500.0).contains(&kib_per_s), "{kib_per_s} KiB/s, {after} KiB left");
    lab.connected(p);
    lab.finish();
    format!("{:.1} MiB/s", kib_per_s / 1024.0)
}

/// Two volumes in one resource: each is written and copied for itself, one connection carries both.
pub fn two_volumes(lab: &mut Lab, p: usize) -> String {
    let s = 1 - p;
    lab.pair(&Setup { two_volumes: true, ..Setup::default() }, p);
    for volume in [0, 1] {
        lab.look_at(volume);
        lab.connected(p);
        lab.write(p, 2 << 20, 65536);
    }
    lab.nodes[s].ok("disconnect r0");
    for (volume, blocks) in [(0, 2), (1, 20)] {
        lab.look_at(volume);
        lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
        lab.write(p, 9 << 20, blocks * 4096);
    }
    lab.nodes[s].mark_log();
    lab.nodes[s].ok("connect r0");
    for (volume, kib) in [(0, 8), (1, 80)] {
        lab.look_at(volume);
        lab.connected(p);
        lab.nodes[s].wait_log(&format!("drbd{volume}: Began resync as SyncTarget (will sync {kib} KB"), LONG);
    }
    lab.look_at(0);
    lab.finish();
    lab.look_at(1);
    lab.compare();
    "8 and 80 KiB".to_owned()
}

/// The second volume is synced after the first (`resync-after`); both nodes show why it waits.
pub fn after(lab: &mut Lab, p: usize) -> String {
    let s = 1 - p;
    let second_disk = "resync-after r0/0;".to_owned();
    lab.pair(&Setup { two_volumes: true, second_disk, ..slow() }, p);
    lab.nodes[s].ok("disconnect r0");
    for (volume, pieces) in [(0, 12), (1, 4)] {
        lab.look_at(volume);
        lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
        for i in 0..pieces {
            lab.write(p, i << 20, 1 << 20);
        }
    }
    lab.nodes[s].ok("connect r0");
    lab.look_at(1);
    // A kernel source forgets here that its target is Inconsistent, and shows Consistent.
    lab.nodes[p].wait_connection("PausedSyncS", LONG);
    lab.nodes[s].wait("PausedSyncT Secondary/Primary Inconsistent/UpToDate", LONG);
    lab.look_at(0);
    for (node, wanted) in [(p, "SyncSource "), (s, "SyncTarget ")] {
        let state = lab.nodes[node].state();
        assert!(state.starts_with(wanted), "the first volume is synced meanwhile: {state}");
    }
    for volume in [0, 1] {
        lab.look_at(volume);
        lab.connected(p);
    }
    lab.finish();
    lab.look_at(0);
    lab.compare();
    "12 and 4 MiB".to_owned()
}

/// A busy Primary dies: the extents of its activity log are copied, from the node that has them newer.
pub fn primary_crash(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    for i in 0..4 {
        lab.write(p, i * (5 << 20), 16384);
    }
    lab.nodes[p].kill();
    lab.nodes[1 - p].wait("WFConnection Secondary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[p].boot();
    lab.nodes[p].ok("up r0");
    lab.settled("Secondary/Secondary");
    lab.nodes[p].wait_log("Began resync as SyncSource", LONG);
    let log = lab.nodes[p].log();
    let line = log.lines().rev().find(|l| l.contains("Began resync")).expect("a line").to_owned();
    lab.finish();
    line.split("drbd0: ").nth(1).unwrap_or_default().trim().to_owned()
}

/// The Primary dies and the other takes over, writes, and is the source when the first comes back.
pub fn takeover(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    lab.write(p, 1 << 20, 16384);
    lab.nodes[p].kill();
    let s = 1 - p;
    lab.nodes[s].wait("WFConnection Secondary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].ok("primary r0");
    lab.write(s, 8 << 20, 16384);
    lab.nodes[p].boot();
    lab.nodes[p].ok("up r0");
    lab.connected(s);
    lab.finish();
    String::new()
}
