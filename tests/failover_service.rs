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
#[path = "support/service.rs"]
mod service;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use etcd::Etcd;
use failover::lease::etcd::EtcdStore;
use failover::lease::record::Record;
use failover::lease::store::{Expect, Swap};
use nbd_client::{Client, Replies};
use pair::Pair;
use service::{LIMIT, Place, in_sync, status, wait_until};

struct Lab {
    pair: Pair,
    etcd: Etcd,
}

/// The record of the service.
const KEY: &str = "/lockstep/service/db";

impl Lab {
    /// A pair in sync whose service `db` has one step, which says on which node it runs by a file.
    fn new(dir: &Path) -> Lab {
        Lab::watched(dir, "")
    }

    /// The same with more lines in the block of the step.
    fn watched(dir: &Path, lines: &str) -> Lab {
        let etcd = Etcd::start(dir, None);
        let ports = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let addresses = ports.map(|p| p.local_addr().unwrap().to_string());
        let net = "ping-timeout 3; connect-int 1;";
        let place = Place { addresses, netns: [None, None], launcher: Vec::new(), net };
        // LOCKSTEP_HOST is in the environment of the daemon, and so in that of its steps.
        let blocks = |d: &Path| {
            let d = d.display();
            format!(
                "service db {{\n resource r0\n start \"/bin/sh -c 'touch {d}/runs.$LOCKSTEP_HOST'\" {{\n  name db\n  \
                 stop \"/bin/sh -c 'rm -f {d}/runs.$LOCKSTEP_HOST'\"\n{}\n }}\n}}\n",
                lines.replace("DIR", &d.to_string())
            )
        };
        let pair = service::pair(dir, &etcd, place, "1", blocks);
        Lab { pair, etcd }
    }

    fn runs(&self, i: usize) -> bool {
        self.pair.dir.join(format!("runs.{}", self.pair.nodes[i].name)).exists()
    }

    fn is_home(&self, i: usize) -> bool {
        status(&self.pair, i).starts_with("service db: Home")
    }

    /// Waits until it is at home on one node, and says on which.
    fn home(&self) -> usize {
        let mut found = None;
        wait_until(&self.pair, "it finds a home", || {
            found = (0..2).find(|i| self.is_home(*i));
            found.is_some()
        });
        found.unwrap()
    }

    fn moves_to(&self, i: usize) {
        let begun = Instant::now();
        while !self.is_home(i) {
            let both = [0, 1].map(|n| status(&self.pair, n));
            assert!(begun.elapsed() < LIMIT, "it moves to node {}: {both:?}", i + 1);
            sleep(Duration::from_millis(20));
        }
        assert!(self.runs(i));
        println!("at home on node {} after {:.2} s", i + 1, begun.elapsed().as_secs_f64());
    }

    /// Reads the record, or puts another one in its place.
    fn record(&self, put: Option<&Record>) -> Record {
        let mut store = EtcdStore::new(std::slice::from_ref(&self.etcd.url), LIMIT).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let there = store.read(KEY).await.unwrap().unwrap();
            let Some(put) = put else { return Record::decode(&there.value).unwrap() };
            let done = store.swap(KEY, Expect::Revision(there.revision), &put.encode()).await;
            assert!(matches!(done, Ok(Swap::Done { .. })), "{done:?}");
            put.clone()
        })
    }

    fn client(&self, i: usize) -> Client {
        Client::open(&self.pair.nodes[i].run_dir.join("r0.nbd"), "r0", Replies::Simple).unwrap()
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
    in_sync(&lab.pair);
    wait_until(&lab.pair, "what an earlier daemon has left is ended", || !lab.runs(1 - first));
    assert!(lab.is_home(first));
    let history = lab.pair.ok(first, &["failover", "history"]);
    assert!(history.contains("became its home") && history.contains("Start promote r0"), "{history}");
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
    assert!(lab.is_home(home), "{}", status(&lab.pair, home));
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

/// The peer was struck out while it looked on; then everything ends, and the store is put back to what it was before. What that
/// says is believed by nobody who has seen more.
#[test]
fn an_older_copy_of_the_lease_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(dir.path());
    let home = lab.home();
    let before = lab.record(None);
    assert_eq!(before.current.len(), 2);
    lab.pair.kill(1 - home);
    wait_until(&lab.pair, "the peer is struck out", || lab.record(None).current.len() == 1);
    let memory = lab.pair.nodes[home].run_dir.join("state/lease-db.json");
    let name = lab.pair.nodes[home].name;
    wait_until(&lab.pair, "that is remembered", || {
        std::fs::read_to_string(&memory).is_ok_and(|text| text.contains(&format!("[\"{name}\"]")))
    });
    lab.pair.kill(home);
    lab.record(Some(&before));
    lab.pair.start(home);
    lab.pair.ok(home, &["up", "r0"]);
    wait_until(&lab.pair, "it says why it does not take the lease", || {
        status(&lab.pair, home).contains("the record is older than it was")
    });
    assert!(!lab.is_home(home));
    // Beside its peer it believes it.
    lab.pair.start(1 - home);
    lab.pair.ok(1 - home, &["up", "r0"]);
    lab.home();
}

/// What runs dies: it is started again here, and when it dies again the peer has it.
#[test]
fn a_step_that_dies_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let lines = "status \"/bin/sh -c 'test -e DIR/runs.$LOCKSTEP_HOST'\"\nmonitor 1\nretry 1\n";
    let lab = Lab::watched(dir.path(), lines);
    let home = lab.home();
    let dies = || {
        let marker = lab.pair.dir.join(format!("runs.{}", lab.pair.nodes[home].name));
        std::fs::remove_file(marker).unwrap();
    };
    dies();
    wait_until(&lab.pair, "it is started again", || lab.runs(home) && lab.is_home(home));
    let history = lab.pair.ok(home, &["failover", "history"]);
    assert!(history.contains("found a step that had failed: start db: "), "{history}");
    assert!(history.contains("started again (1 of 1)") && history.contains("runs again"), "{history}");
    in_sync(&lab.pair);
    dies();
    lab.moves_to(1 - home);
    assert!(!lab.runs(home));
    wait_until(&lab.pair, "it says why it is not there", || {
        let said = status(&lab.pair, home);
        said.contains("last failure here: start db: ") && said.contains("not here because: ")
    });
}
