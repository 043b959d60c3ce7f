//! A service on two nodes with a lease in the real etcd: it finds its home, moves on order and when its home is killed, and
//! what was acknowledged is there.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/etcd.rs"]
mod etcd;
#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use etcd::Etcd;
use nbd_client::{Client, Replies};
use pair::{Options, Pair};

const LIMIT: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(20));
    }
}

struct Lab {
    pair: Pair,
    etcd: Etcd,
    dir: PathBuf,
}

impl Lab {
    /// A pair in sync whose service `db` has one step, which says on which node it runs by a file.
    fn new(dir: &Path) -> Lab {
        let etcd = Etcd::start(dir, None);
        let ports = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let addresses = ports.map(|p| p.local_addr().unwrap().to_string());
        let binary = Path::new(env!("CARGO_BIN_EXE_lockstep"));
        let b = binary.display();
        let sections =
            format!("handlers {{ fence-peer \"{b} fence-peer\"; unfence-peer \"{b} unfence-peer\"; }}");
        let options = Options {
            disk_bytes: 16 << 20,
            net: "ping-timeout 3; connect-int 1;",
            disk: "fencing resource-and-stonith;",
            sections: &sections,
            addresses,
            netns: [None, None],
            prewritten: false,
        };
        let mut pair = Pair::create(binary, &dir.join("pair"), &options);
        let d = pair.dir.display();
        // LOCKSTEP_HOST is in the environment of the daemon, and so in that of its steps.
        let service = format!(
            "global_defs {{\n lease_store {}\n lease_ttl 1\n}}\nservice db {{\n resource r0\n \
             start \"/bin/sh -c 'touch {d}/runs.$LOCKSTEP_HOST'\" {{\n  name db\n  \
             stop \"/bin/sh -c 'rm -f {d}/runs.$LOCKSTEP_HOST'\"\n }}\n}}\n",
            etcd.url
        );
        let file = pair.dir.join("failover.conf");
        fs::write(&file, service).unwrap();
        let toml = format!("[failover]\nconfig = \"{}\"\n", file.display());
        fs::write(pair.dir.join("lockstep.toml"), toml).unwrap();
        for i in 0..2 {
            pair.start(i);
            pair.ok(i, &["up", "r0"]);
        }
        pair.ok(0, &["wait-connect", "r0"]);
        pair.ok(0, &["new-current-uuid", "--clear-bitmap", "r0/0"]);
        Lab { pair, etcd, dir: dir.to_path_buf() }
    }

    fn runs(&self, i: usize) -> bool {
        self.pair.dir.join(format!("runs.{}", self.pair.nodes[i].name)).exists()
    }

    fn status(&self, i: usize) -> String {
        let o = self.pair.run(i, &["failover", "status"]);
        String::from_utf8_lossy(&o.stdout).into_owned()
    }

    fn is_home(&self, i: usize) -> bool {
        self.status(i).starts_with("service db: Home")
    }

    /// Waits until it is at home on one node, and says on which.
    fn home(&self) -> usize {
        let mut found = None;
        wait_until("it finds a home", || {
            found = (0..2).find(|i| self.is_home(*i));
            found.is_some()
        });
        found.unwrap()
    }

    fn moves_to(&self, i: usize) {
        let begun = Instant::now();
        while !self.is_home(i) {
            let both = [0, 1].map(|n| self.status(n));
            assert!(begun.elapsed() < LIMIT, "it moves to node {}: {both:?}", i + 1);
            sleep(Duration::from_millis(20));
        }
        assert!(self.runs(i));
        println!("at home on node {} after {:.2} s", i + 1, begun.elapsed().as_secs_f64());
    }

    fn client(&self, i: usize) -> Client {
        Client::open(&self.pair.nodes[i].run_dir.join("r0.nbd"), "r0", Replies::Simple).unwrap()
    }

    fn in_sync(&self) {
        wait_until("both copies are good", || {
            (0..2).all(|i| {
                let o = self.pair.run(i, &["dstate", "r0"]);
                String::from_utf8_lossy(&o.stdout).trim() == "UpToDate/UpToDate"
            })
        });
    }
}

#[test]
fn a_service_moves_on_order_and_when_its_home_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(dir.path());
    let first = lab.home();
    assert!(lab.runs(first) && !lab.runs(1 - first));
    lab.client(first).write(0, &[1; 4096], 0).unwrap();

    lab.pair.ok(first, &["failover", "switch", "db"]);
    assert!(!lab.runs(first), "it has ended here before it begins there");
    lab.moves_to(1 - first);
    assert_eq!(lab.client(1 - first).read(0, 4096).unwrap(), [1; 4096]);

    lab.client(1 - first).write(4096, &[2; 4096], 0).unwrap();
    lab.pair.kill(1 - first);
    lab.moves_to(first);
    assert_eq!(lab.client(first).read(4096, 4096).unwrap(), [2; 4096]);
    lab.client(first).write(8192, &[3; 4096], 0).unwrap();

    // The node that was killed comes back as target, and what its life before has left is ended.
    lab.pair.start(1 - first);
    lab.pair.ok(1 - first, &["up", "r0"]);
    lab.in_sync();
    wait_until("what an earlier daemon has left is ended", || !lab.runs(1 - first));
    assert!(lab.is_home(first));
    let history = lab.pair.ok(first, &["failover", "history"]);
    assert!(history.contains("became its home") && history.contains("Start promote r0"), "{history}");
    drop(lab.dir);
}

/// The store is gone, then the peer too: the home stays as long as one of them is there, and then freezes.
#[test]
fn a_home_needs_its_store_or_its_peer() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(dir.path());
    let home = lab.home();
    lab.etcd.signal("STOP");
    sleep(Duration::from_secs(3));
    let mut client = lab.client(home);
    client.write(0, &[1; 4096], 0).unwrap();
    assert!(lab.is_home(home), "{}", lab.status(home));
    lab.pair.kill(1 - home);
    let (answered, answer) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let done = client.write(4096, &[2; 4096], 0);
        let _ = answered.send(done.is_ok());
    });
    assert!(
        answer.recv_timeout(Duration::from_secs(5)).is_err(),
        "neither the store nor the peer says that it may"
    );
    lab.etcd.signal("CONT");
    assert_eq!(answer.recv_timeout(LIMIT), Ok(true), "the peer is struck out, and it goes on");
    writer.join().unwrap();
    assert!(lab.is_home(home));
}
