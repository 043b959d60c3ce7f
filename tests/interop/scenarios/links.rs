//! Links that are slow, late or lossy.

use std::thread::sleep;
use std::time::Duration;

use crate::lab::{LONG, Lab, Setup};

/// A hundred extents of the activity log.
const WIDE_BYTES: u64 = 400 << 20;

/// A link that is too slow: the Primary goes Ahead and catches up when it may.
pub fn pull_ahead(lab: &mut Lab, p: usize) -> String {
    let net = "congestion-fill 256k; sndbuf-size 64k;";
    goes_ahead(lab, p, net, None, "--bs=64k --iodepth=16")
}

/// The same when too many extents of the activity log are in use by what is under way.
pub fn congestion_extents(lab: &mut Lab, p: usize) -> String {
    let net = "congestion-fill 0; congestion-extents 67; sndbuf-size 1M;";
    goes_ahead(lab, p, net, Some([WIDE_BYTES; 2]), "--bs=4k --iodepth=64 --size=380M")
}

fn goes_ahead(lab: &mut Lab, p: usize, net: &str, disk_bytes: Option<[u64; 2]>, load: &str) -> String {
    let net = format!("protocol A; on-congestion pull-ahead; {net}");
    lab.pair(&Setup { net, disk_bytes, ..Setup::default() }, p);
    lab.nodes[p].mark_log();
    lab.limit(1 - p, 8);
    let load = lab.nodes[p].load(load, 3);
    lab.nodes[p].wait_log("Connected -> Ahead", LONG);
    let kib = load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
    lab.heal();
    lab.connected(p);
    lab.finish();
    format!("{kib} KiB of load")
}

/// The cable is out for longer than a ping may take, under load: both notice, and what was missed is brought.
pub fn ping_timeout(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    for node in &mut lab.nodes {
        node.mark_log();
    }
    let load = lab.nodes[p].load("--bs=4k --iodepth=8", 6);
    sleep(Duration::from_secs(1));
    lab.cut(1 - p);
    for node in &lab.nodes {
        node.wait_log("PingAck did not arrive in time", LONG);
    }
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
    lab.heal();
    lab.connected(p);
    let kib = load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
    lab.connected(p);
    lab.finish();
    format!("{kib} KiB of load")
}

/// Packets are late, and some are lost: slow, but no reason to part. Then so late that no ping is answered in time: both give
/// the connection up, and make it again when the link is as before.
pub fn delay_and_loss(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    for node in &mut lab.nodes {
        node.run("tc qdisc add dev eth0 root netem delay 20ms 5ms loss 1%");
        node.mark_log();
    }
    let load = lab.nodes[p].load("--bs=4k --iodepth=16", 4);
    let kib = load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
    lab.connected(p);
    for node in &lab.nodes {
        assert!(!node.logged("conn( Connected ->"), "{}: {}", node.name, node.log());
        node.run("tc qdisc change dev eth0 root netem delay 1500ms loss 1%");
    }
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
    // Whoever notices first closes the connection.
    let noticed = lab.nodes.iter().any(|n| n.logged("PingAck did not arrive in time"));
    assert!(noticed, "{}", lab.nodes[p].log());
    lab.write(p, 1 << 20, 65536);
    for node in &lab.nodes {
        node.run("tc qdisc del dev eth0 root");
    }
    lab.connected(p);
    lab.finish();
    format!("{kib} KiB of load")
}
