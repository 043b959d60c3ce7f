//! Who is Primary, and who may not be.

use std::thread::sleep;
use std::time::Duration;

use crate::lab::{LONG, Lab, Setup};

/// Twenty times: as soon as a client of the Primary ends, it steps down, the other takes over and writes. While that client is
/// at work it may not.
pub fn swap_twenty_times(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    let mut primary = p;
    let mut kib = 0;
    for round in 0..20u64 {
        let asks = round % 4 == 0;
        let load = lab.nodes[primary].load("--bs=4k --iodepth=8", if asks { 4 } else { 1 }).begun();
        if asks {
            lab.nodes[primary].refused("secondary r0", "(-12) Device is held open by someone");
        }
        kib += load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
        let data = lab.write(primary, (round % 7) << 20, 4096);
        lab.nodes[primary].ok("secondary r0");
        primary = 1 - primary;
        lab.nodes[primary].ok("primary r0");
        assert!(lab.nodes[primary].read((round % 7) << 20, 4096).expect("a read") == data, "round {round}");
    }
    lab.connected(primary);
    lab.finish();
    format!("{kib} KiB of load")
}

/// Both are Primary: each writes its own half at the same time, then one block by turns.
pub fn two_primaries(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup { net: "protocol C; allow-two-primaries;".to_owned(), ..Setup::default() }, p);
    lab.nodes[1 - p].ok("primary r0");
    lab.settled("Primary/Primary");
    let loads = [p, 1 - p].map(|n| {
        let place = if n == p { "--offset=0" } else { "--offset=16M" };
        lab.nodes[n].load(&format!("--bs=4k --iodepth=8 --size=12M {place}"), 2)
    });
    let kib: u64 = loads.into_iter().map(|l| l.finish().unwrap_or_else(|e| panic!("the load: {e}"))).sum();
    for round in 0..10u64 {
        let n = if round % 2 == 0 { p } else { 1 - p };
        let data = lab.write(n, 14 << 20, 8192);
        assert!(lab.nodes[1 - n].read(14 << 20, 8192).expect("a read") == data, "round {round}");
    }
    lab.settled("Primary/Primary");
    lab.nodes[1 - p].ok("secondary r0");
    lab.connected(p);
    lab.finish();
    format!("{kib} KiB of load on both")
}

/// Two Primaries write the same blocks at the same time. The kernel counts such writes wrongly, drops the connection, and both
/// nodes see a split brain; or nothing crossed. Never are the copies different and connected.
pub fn conflicting_writes(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup { net: "protocol C; allow-two-primaries;".to_owned(), ..Setup::default() }, p);
    lab.nodes[1 - p].ok("primary r0");
    lab.settled("Primary/Primary");
    let loads = [p, 1 - p].map(|n| lab.nodes[n].load("--bs=4k --iodepth=4 --size=256k --randrepeat=0", 3));
    let kib: u64 = loads.into_iter().map(|l| l.finish().unwrap_or_else(|e| panic!("the load: {e}"))).sum();
    // Until the last word is spoken: the verdict needs a second or two.
    sleep(Duration::from_secs(3));
    let is_split = lab.nodes.iter().any(|n| !n.state().starts_with("Connected"));
    if is_split {
        for node in &lab.nodes {
            node.wait("StandAlone Primary/Unknown UpToDate/DUnknown", LONG);
        }
        lab.nodes[1 - p].ok("secondary r0");
        lab.nodes[1 - p].ok("connect --discard-my-data r0");
        lab.nodes[p].ok("connect r0");
        lab.connected(p);
    } else {
        lab.settled("Primary/Primary");
    }
    lab.finish();
    format!("{kib} KiB over the same 64 blocks, {}", if is_split { "split brain" } else { "no split brain" })
}

/// The peer is Primary: refused on the other side, with the kernel's words.
pub fn second_primary_refused(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    lab.nodes[1 - p].refused("primary r0", "(-1) Multiple primaries not allowed by config");
    lab.connected(p);
    lab.finish();
    String::new()
}

/// No copy of the data is good: refused.
pub fn inconsistent_primary_refused(lab: &mut Lab, p: usize) -> String {
    lab.met(&Setup::default());
    lab.nodes[p].refused("primary r0", "(-2) Need access to UpToDate data");
    String::new()
}

/// A Secondary that leaves in good order is not outdated, as nobody fences; one that is told so is, and is brought up to date.
pub fn graceful_disconnect_and_outdate(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    let s = 1 - p;
    lab.nodes[s].ok("disconnect r0");
    lab.nodes[s].wait("StandAlone Secondary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].ok("outdate r0");
    lab.nodes[s].wait("StandAlone Secondary/Unknown Outdated/DUnknown", LONG);
    lab.nodes[s].refused("primary r0", "(-2) Need access to UpToDate data");
    lab.write(p, 3 << 20, 8192);
    lab.nodes[s].ok("connect r0");
    lab.connected(p);
    lab.finish();
    String::new()
}

/// `down` in the middle of a sync, on either side; brought up again, the sync goes on.
pub fn down_during_resync(lab: &mut Lab, p: usize) -> String {
    let setup = Setup { disk: "resync-rate 6M; c-plan-ahead 0;".to_owned(), ..Setup::default() };
    lab.syncing(&setup, p);
    lab.nodes[1 - p].ok("down r0");
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/Inconsistent", LONG);
    lab.nodes[1 - p].ok("up r0");
    lab.nodes[1 - p].wait("SyncTarget Secondary/Primary Inconsistent/UpToDate", LONG);
    lab.nodes[p].ok("secondary r0");
    lab.nodes[p].ok("down r0");
    lab.nodes[1 - p].wait("WFConnection Secondary/Unknown Inconsistent/DUnknown", LONG);
    lab.nodes[p].ok("up r0");
    lab.settled("Secondary/Secondary");
    lab.finish();
    String::new()
}
