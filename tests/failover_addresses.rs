//! A service with a virtual address on two nodes, each in a network namespace of its own, with the store of leases on a third: the
//! address is where the service is, goes by the kernel's hand when its daemon is killed or stands still, and is never on both.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/etcd.rs"]
mod etcd;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/service.rs"]
mod service;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use etcd::Etcd;
use pair::Pair;
use service::{LIMIT, Place, in_sync, wait_until};

const ADDRESS: &str = "10.88.0.100";

fn sh(script: &str) {
    let status = Command::new("/bin/sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// A switch, two nodes and a third machine; the nodes have a link of their own for replication.
struct Segment {
    prefix: String,
}

impl Segment {
    fn new() -> Segment {
        let prefix = format!("lsa{}", std::process::id());
        let segment = Segment { prefix };
        let sw = segment.name("sw");
        sh(&format!(
            "ip netns add {sw}; ip -n {sw} link add br0 type bridge forward_delay 0 mcast_snooping 0; ip -n {sw} link set br0 up"
        ));
        for i in 1..=3 {
            let n = segment.name(&i.to_string());
            sh(&format!(
                "ip netns add {n}; ip -n {n} link set lo up
                ip link add name eth0 netns {n} type veth peer name p{i} netns {sw}
                ip -n {sw} link set p{i} master br0 up
                ip -n {n} addr add 10.88.0.{i}/24 brd + dev eth0; ip -n {n} link set eth0 up"
            ));
        }
        let (a, b) = (segment.name("1"), segment.name("2"));
        sh(&format!(
            "ip link add name rep0 netns {a} type veth peer name rep0 netns {b}
            ip -n {a} addr add 10.89.0.1/24 dev rep0; ip -n {a} link set rep0 up
            ip -n {b} addr add 10.89.0.2/24 dev rep0; ip -n {b} link set rep0 up"
        ));
        segment
    }

    fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    /// The kernel of node `i` (0 or 1) has the address.
    fn has_address(&self, i: usize) -> bool {
        let n = self.name(&(i + 1).to_string());
        let out =
            Command::new("ip").args(["-n", &n, "-4", "-o", "addr", "show", "dev", "eth0"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).contains(&format!("{ADDRESS}/"))
    }

    /// Waits until node `i` has it, looking on all the time that never both have it; how long it took.
    fn address_comes_to(&self, i: usize) -> Duration {
        let begun = Instant::now();
        loop {
            // In this order: one that leaves between two looks is not seen twice.
            let (there, here) = (self.has_address(1 - i), self.has_address(i));
            assert!(!(there && here && self.has_address(1 - i)), "both nodes have the address");
            if here {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < LIMIT, "the address comes to node {}", i + 1);
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        for suffix in ["1", "2", "3", "sw"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(suffix)]).status();
        }
    }
}

struct Lab {
    pair: Pair,
    _etcd: Etcd,
    segment: Segment,
}

impl Lab {
    fn new(dir: &Path) -> Lab {
        let segment = Segment::new();
        let etcd = Etcd::start(dir, Some((&segment.name("3"), Ipv4Addr::new(10, 88, 0, 3))));
        let place = Place {
            addresses: ["10.89.0.1:7788".into(), "10.89.0.2:7788".into()],
            netns: [Some(segment.name("1")), Some(segment.name("2"))],
            net: "ping-timeout 2; connect-int 1; ping-int 1; timeout 9;",
        };
        let blocks = |_: &Path| {
            format!(
                "vrrp_instance VI_1 {{\n version 3\n interface eth0\n virtual_router_id 51\n priority 100\n \
                 advert_int 0.1\n virtual_ipaddress {{\n  {ADDRESS}/24\n }}\n}}\n\
                 service db {{\n resource r0\n vrrp_instance VI_1\n}}\n"
            )
        };
        let pair = service::pair(dir, &etcd, place, "0.6", blocks);
        Lab { pair, _etcd: etcd, segment }
    }

    fn home(&self) -> usize {
        let mut found = None;
        wait_until(&self.pair, "it finds a home", || {
            found = (0..2).find(|i| self.segment.has_address(*i));
            found.is_some()
        });
        found.unwrap()
    }
}

#[test]
fn the_address_is_where_the_service_is_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(dir.path());
    let first = lab.home();
    in_sync(&lab.pair);
    lab.pair.ok(first, &["failover", "switch", "db"]);
    let other = 1 - first;
    println!("switch: {:.3} s to the address", lab.segment.address_comes_to(other).as_secs_f64());

    in_sync(&lab.pair);
    lab.pair.kill(other);
    let took = lab.segment.address_comes_to(first);
    println!("SIGKILL: {:.3} s to the address", took.as_secs_f64());

    lab.pair.start(other);
    lab.pair.ok(other, &["up", "r0"]);
    in_sync(&lab.pair);
    // A home that stands still, and wakes up.
    sleep(Duration::from_secs(1));
    lab.pair.signal(first, "STOP");
    let took = lab.segment.address_comes_to(other);
    println!("SIGSTOP: {:.3} s to the address", took.as_secs_f64());
    sleep(Duration::from_secs(3));
    lab.pair.signal(first, "CONT");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert!(!lab.segment.has_address(first), "its time is over");
        sleep(Duration::from_millis(5));
    }
    in_sync(&lab.pair);
    assert!(lab.segment.has_address(other) && !lab.segment.has_address(first));
}
