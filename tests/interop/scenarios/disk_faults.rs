//! Disks that fail or stand still under a client at work.

use std::thread::sleep;
use std::time::Duration;

use crate::lab::{LONG, Lab, Setup};
use crate::node::Node;

const LOAD: &str = "--bs=4k --iodepth=8";

fn setup(disk: &str, net: &str) -> Setup {
    Setup { disk: disk.to_owned(), net: net.to_owned(), mapped: true, ..Setup::default() }
}

/// The Primary's disk fails: its client notices nothing, and goes on through the peer. Mended and attached again it is brought
/// up to date.
pub fn of_the_primary(lab: &mut Lab, p: usize) -> String {
    let kib = under_load(lab, p, p, "detach", Node::break_disk, "Diskless");
    let data = lab.write(p, 2 << 20, 65536);
    assert!(lab.nodes[p].read(2 << 20, 65536).expect("a read through the peer") == data);
    mended(lab, p, p, kib)
}

/// The Secondary's disk fails: the Primary goes on alone, and brings it up to date when it is attached again.
pub fn of_the_secondary(lab: &mut Lab, p: usize) -> String {
    let kib = under_load(lab, p, 1 - p, "detach", Node::break_disk, "Diskless");
    mended(lab, p, 1 - p, kib)
}

/// `pass_on`: a disk that fails is kept, as Inconsistent. The client notices nothing, and reads what it has written.
pub fn pass_on(lab: &mut Lab, p: usize) -> String {
    let mut kib = 0;
    for n in [p, 1 - p] {
        kib += under_load(lab, p, n, "pass_on", Node::break_data, "Inconsistent");
        let data = lab.write(p, 2 << 20, 65536);
        assert!(lab.nodes[p].read(2 << 20, 65536).expect("a read") == data);
        lab.nodes[n].mend_disk();
        // What failed is brought by a new connection, or when the disk is taken up again.
        lab.nodes[n].ok("detach --force r0");
        taken_up_again(lab, p, n);
    }
    format!("{kib} KiB of load")
}

/// The disk of node `n`, with this policy, fails in this way under a client of Primary `p`, and both nodes see its disk in this
/// state then. Gives the KiB that the client wrote.
fn under_load(lab: &mut Lab, p: usize, n: usize, policy: &str, breaks: fn(&Node), disk: &str) -> u64 {
    lab.pair(&setup(&format!("on-io-error {policy};"), ""), p);
    let load = lab.nodes[p].load(LOAD, 3);
    sleep(Duration::from_secs(1));
    breaks(&lab.nodes[n]);
    for (i, roles) in [(p, "Primary/Secondary"), (1 - p, "Secondary/Primary")] {
        let disks = if i == n { format!("{disk}/UpToDate") } else { format!("UpToDate/{disk}") };
        lab.nodes[i].wait(&format!("Connected {roles} {disks}"), LONG);
    }
    load.finish().unwrap_or_else(|e| panic!("the load: {e}"))
}

fn taken_up_again(lab: &mut Lab, p: usize, n: usize) {
    lab.nodes[n].ok("attach r0");
    lab.connected(p);
    lab.finish();
}

/// The disk of node `n` works again, is attached, and becomes what the other one is.
fn mended(lab: &mut Lab, p: usize, n: usize, kib: u64) -> String {
    lab.nodes[n].mend_disk();
    taken_up_again(lab, p, n);
    format!("{kib} KiB of load")
}

/// The Primary's disk stands still for longer than disk-timeout: it is given up, and what waited for it is done by the peer.
pub fn disk_timeout(lab: &mut Lab, p: usize) -> String {
    lab.pair(&setup("on-io-error detach; disk-timeout 20;", ""), p);
    lab.nodes[p].mark_log();
    let load = lab.nodes[p].load(LOAD, 5);
    sleep(Duration::from_secs(1));
    lab.nodes[p].stop_disk();
    // Whichever of data and metadata is noticed first.
    lab.nodes[p].wait_log("disk( UpToDate -> Failed )", LONG);
    // Only now what was held back ends, as failed: of a write that succeeds after all the kernel's DRBD makes a panic.
    lab.nodes[p].fail_what_waits();
    lab.nodes[p].wait("Connected Primary/Secondary Diskless/UpToDate", LONG);
    let kib = load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
    mended(lab, p, p, kib)
}

/// The Secondary answers pings, but its disk stands still: the Primary drops it and goes on; when the disk goes on they meet
/// again.
pub fn ko_count(lab: &mut Lab, p: usize) -> String {
    lab.pair(&setup("", "ko-count 1;"), p);
    lab.nodes[p].mark_log();
    lab.nodes[1 - p].stop_disk();
    let load = lab.nodes[p].load(LOAD, 2);
    lab.nodes[p].wait_log("Timeout", LONG);
    let kib = load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
    lab.nodes[1 - p].go_on_disk();
    lab.connected(p);
    lab.finish();
    format!("{kib} KiB of load")
}
