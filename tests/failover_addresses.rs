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
#[path = "support/watch.rs"]
mod watch;

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use etcd::Etcd;
use pair::Pair;
use segment::{NET, Segment, router};
use service::{Place, in_sync, wait_until};
use watch::{A_MOMENT, Watch};

struct Lab {
    watch: Watch,
    pair: Pair,
    _etcd: Etcd,
    _segment: Segment,
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
        let watch = Watch::new(&segment);
        Lab { watch, pair, _etcd: etcd, _segment: segment }
    }

    /// Waits until node `i` answers for the address; how long that took since then.
    fn address_comes_to(&self, i: usize, since: Instant) -> Duration {
        wait_until(&self.pair, "the address moves", || self.watch.came(i, since).is_some());
        self.watch.came(i, since).unwrap()
    }

    fn home(&self) -> usize {
        wait_until(&self.pair, "it finds a home", || self.watch.holders().len() == 1);
        self.watch.holders()[0]
    }
}

#[test]
fn the_address_is_where_the_service_is_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(dir.path());
    let first = lab.home();
    let status = lab.pair.ok(first, &["failover", "status"]);
    assert!(status.contains("gate: open for 500ms"), "{status}");
    in_sync(&lab.pair);
    let begun = Instant::now();
    lab.pair.ok(first, &["failover", "switch", "db"]);
    let other = 1 - first;
    println!("switch: {:.3} s to the address", lab.address_comes_to(other, begun).as_secs_f64());

    in_sync(&lab.pair);
    // Its renewals have been seen: the other node knows of its gate.
    sleep(Duration::from_secs(1));
    let begun = Instant::now();
    lab.pair.kill(other);
    println!("SIGKILL: {:.3} s to the address", lab.address_comes_to(first, begun).as_secs_f64());

    lab.pair.start(other);
    lab.pair.ok(other, &["up", "r0"]);
    in_sync(&lab.pair);
    // A home that stands still, and wakes up.
    sleep(Duration::from_secs(1));
    let begun = Instant::now();
    lab.pair.signal(first, "STOP");
    println!("SIGSTOP: {:.3} s to the address", lab.address_comes_to(other, begun).as_secs_f64());
    sleep(Duration::from_secs(3));
    let woken = Instant::now();
    lab.pair.signal(first, "CONT");
    sleep(Duration::from_secs(3));
    assert_eq!(lab.watch.came(first, woken), None, "its time is over");
    in_sync(&lab.pair);
    assert_eq!(lab.watch.holders(), [other]);
    let double = lab.watch.longest_double();
    assert!(double <= A_MOMENT, "both nodes answered for {double:?}: {:?}", lab.watch.seen());
}
