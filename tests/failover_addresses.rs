//! A service with a virtual address on two nodes, each in a network namespace of its own, with the store of leases on a third: the
//! address is where the service is, goes by the kernel's hand when its daemon is killed or stands still, and is never on both.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/etcd.rs"]
mod etcd;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/segment.rs"]
mod segment;
#[path = "support/service.rs"]
mod service;

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use etcd::Etcd;
use pair::Pair;
use segment::{NET, Segment, router};
use service::{LIMIT, Place, in_sync, wait_until};

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
            addresses: segment.replication(),
            netns: segment.nodes(),
            launcher: Vec::new(),
            net: NET,
        };
        let blocks = |_: &Path| {
            format!(
                "{}\
                 service db {{\n resource r0\n vrrp_instance VI_1\n}}\n",
                router()
            )
        };
        let pair = service::pair(dir, &etcd, place, "0.6", blocks);
        Lab { pair, _etcd: etcd, segment }
    }

    /// Waits until node `i` has the address, looking on all the time that never both have it; how long it took.
    fn address_comes_to(&self, i: usize) -> Duration {
        let (segment, begun) = (&self.segment, Instant::now());
        loop {
            // In this order: one that leaves between two looks is not seen twice.
            let (there, here) = (segment.has_address(1 - i), segment.has_address(i));
            assert!(!(there && here && segment.has_address(1 - i)), "both nodes have the address");
            if here {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < LIMIT, "the address comes to node {}", i + 1);
            sleep(Duration::from_millis(5));
        }
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
    println!("switch: {:.3} s to the address", lab.address_comes_to(other).as_secs_f64());

    in_sync(&lab.pair);
    lab.pair.kill(other);
    let took = lab.address_comes_to(first);
    println!("SIGKILL: {:.3} s to the address", took.as_secs_f64());

    lab.pair.start(other);
    lab.pair.ok(other, &["up", "r0"]);
    in_sync(&lab.pair);
    // A home that stands still, and wakes up.
    sleep(Duration::from_secs(1));
    lab.pair.signal(first, "STOP");
    let took = lab.address_comes_to(other);
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
