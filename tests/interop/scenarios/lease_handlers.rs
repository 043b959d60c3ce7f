//! Two kernels with `lockstep fence-peer` and `unfence-peer` as their handlers, no daemon of ours, and the lease in a real etcd
//! that both reach though they do not reach each other.

use std::fs;
use std::net::Ipv4Addr;

use crate::etcd::Etcd;
use crate::lab::{LONG, Lab, Setup};
use crate::machine::host_ok;
use crate::node::{Io, Node};

const STORE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);
const DISK: &str = "fencing resource-and-stonith;";

/// Neither hears the other one; the store hears both.
fn part(lab: &Lab, verb: &str) {
    for (i, node) in lab.nodes.iter().enumerate() {
        node.run(&format!("ip route {verb} blackhole 10.99.0.{}/32", 2 - i));
    }
}

/// A handler ended with this code, as the kernel logs it.
fn helper(name: &str, code: u8) -> String {
    format!("/sbin/drbdadm {name} r0 exit code {code} ")
}

/// The Primary goes on alone and the Secondary cannot be promoted; then both count again.
fn one_way(lab: &mut Lab, p: usize) {
    lab.nodes.iter_mut().for_each(Node::mark_log);
    part(lab, "add");
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/Outdated", LONG);
    assert!(lab.nodes[p].logged(&helper("fence-peer", 4)), "{}", lab.nodes[p].new_log());
    lab.write(p, 0, 64 << 10);
    let other = &lab.nodes[1 - p];
    other.wait_connection("WFConnection", LONG);
    other.refused("primary r0", "");
    assert!(other.logged(&helper("fence-peer", 6)), "{}", other.new_log());
    other.wait("WFConnection Secondary/Unknown Outdated/DUnknown", LONG);
    part(lab, "del");
    lab.connected(p);
    lab.nodes[p].wait_log(&helper("unfence-peer", 0), LONG);
    assert!(!lab.nodes[p].proc().contains(" s-"), "nothing is frozen: {}", lab.nodes[p].proc());
}

/// There and back, then the Primary loses power and its peer takes its place.
pub fn lease_handlers(lab: &mut Lab, first: usize) -> String {
    let switch = lab.switch().to_owned();
    host_ok(&["ip", "-n", &switch, "addr", "replace", &format!("{STORE}/24"), "dev", "br0"]);
    let directory = tempfile::tempdir().expect("a directory for the store");
    let etcd = Etcd::start(directory.path(), Some((&switch, STORE)));
    let failover =
        format!("global_defs {{\n lease_store {}\n}}\nservice db {{\n resource r0\n}}\n", etcd.url);
    for node in &lab.nodes {
        let machine = node.machine().expect("kernels run in machines");
        fs::write(machine.directory.join("failover.conf"), &failover).expect("a failover file");
        node.run("mkdir -p /etc/lockstep && cp /run/node/failover.conf /etc/lockstep/");
    }
    let ours = lab.binary.display().to_string();
    let sections =
        format!("handlers {{ fence-peer \"{ours} fence-peer\"; unfence-peer \"{ours} unfence-peer\"; }}");
    lab.pair(&Setup { sections, disk: DISK.to_owned(), ..Setup::default() }, first);

    // Without a record nobody goes on; it is made by hand, since there was no resync.
    let made = || lab.nodes[first].sh(&format!("{ours} unfence-peer r0"));
    lab.nodes[first].until(LONG, || made().status == 0, || made().text);
    one_way(lab, first);
    lab.nodes[first].ok("secondary r0");
    lab.nodes[1 - first].ok("primary r0");
    let second = 1 - first;
    lab.connected(second);
    one_way(lab, second);

    let data = lab.write(second, 1 << 20, 64 << 10);
    lab.nodes[second].kill();
    lab.nodes[first].mark_log();
    lab.nodes[first].wait_connection("WFConnection", LONG);
    lab.nodes[first].ok("primary r0");
    assert!(lab.nodes[first].logged(&helper("fence-peer", 4)), "{}", lab.nodes[first].new_log());
    assert_eq!(lab.nodes[first].read(1 << 20, data.len()).expect("what was acknowledged"), data);
    assert_eq!(lab.nodes[first].io(Io::Write, 2 << 20, &data), Ok(()));
    // It comes back, is not promoted, and becomes target.
    lab.nodes[second].boot();
    let node = &lab.nodes[second];
    node.run("mkdir -p /etc/lockstep && cp /run/node/failover.conf /etc/lockstep/");
    let peer = format!("blackhole 10.99.0.{}/32", first + 1);
    node.run(&format!("ip route add {peer}"));
    node.ok("up r0");
    node.refused("primary r0", "");
    node.run(&format!("ip route del {peer}"));
    lab.connected(first);
    lab.nodes[first].wait_log(&helper("unfence-peer", 0), LONG);
    lab.finish();
    "both ways, and a loss of power".to_owned()
}
