//! heartbeat's membership in the daemon: two nodes in network namespaces that replicate over a cable of their own and beat over
//! another one. A home that is heard is not replaced because the cable is cut; one that is not heard any more is.
//!
//! The service needs no proof, so that nothing else could keep the other node away.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/pair.rs"]
mod pair;
#[path = "support/segment.rs"]
mod segment;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pair::{Options, Pair};
use segment::{NET, Segment};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(60);

const FAILOVER: &str = "service db {
    resource r0
    promote-without-proof yes
}
heartbeat {
    keepalive 200ms
    deadtime 3
    warntime 2
    initdead 5
    bcast eth0
    node n1 n2
    authkeys {
        auth 1
        1 sha1 pair
    }
}
";

/// Segments of one process have one name.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn status(pair: &Pair, i: usize) -> String {
    String::from_utf8_lossy(&pair.run(i, &["failover", "status"]).stdout).into_owned()
}

/// Waits until a node says this of its services.
fn says(pair: &Pair, i: usize, text: &str) {
    let begun = Instant::now();
    while !status(pair, i).contains(text) {
        let late = begun.elapsed() > LIMIT;
        assert!(!late, "{i} never says '{text}': {:?}\n{}", [0, 1].map(|i| status(pair, i)), pair.logs());
        sleep(Duration::from_millis(20));
    }
}

/// Waits until the service has a home, and says on which node.
fn home(pair: &Pair) -> usize {
    let begun = Instant::now();
    loop {
        if let Some(i) = (0..2).find(|i| status(pair, *i).contains("service db: Home")) {
            return i;
        }
        assert!(begun.elapsed() < LIMIT, "it finds a home: {}", pair.logs());
        sleep(Duration::from_millis(20));
    }
}

/// A pair in sync that hears each other's beats, the node where the service is, and that node's name.
fn start(dir: &Path, segment: &Segment) -> (Pair, usize, &'static str) {
    let options = Options {
        disk_bytes: 16 << 20,
        net: NET,
        disk: "",
        sections: "",
        addresses: segment.replication(),
        netns: segment.nodes(),
        prewritten: false,
    };
    let mut pair = Pair::create(Path::new(env!("CARGO_BIN_EXE_lockstep")), &dir.join("pair"), &options);
    let file = pair.dir.join("failover.conf");
    fs::write(&file, FAILOVER).unwrap();
    fs::write(pair.dir.join("lockstep.toml"), format!("[failover]\nconfig = \"{}\"\n", file.display()))
        .unwrap();
    (0..2).for_each(|i| pair.up(i));
    pair.ok(0, &["wait-connect", "r0"]);
    pair.ok(0, &["new-current-uuid", "--clear-bitmap", "r0/0"]);
    says(&pair, 0, "heartbeat: node n2: up for ");
    says(&pair, 1, "heartbeat: node n1: up for ");
    let home = home(&pair);
    let name = pair.nodes[home].name;
    (pair, home, name)
}

#[test]
fn a_home_that_is_heard_stays_the_only_one() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let segment = Segment::new();
    let (mut pair, home, name) = start(dir.path(), &segment);
    let other = 1 - home;

    segment.cut_replication(true);
    says(&pair, other, &format!("not here because: heartbeat says that {name} is alive"));
    says(&pair, other, "service db: Away");
    assert!(status(&pair, home).contains("service db: Home"), "{}", status(&pair, home));

    pair.kill(home);
    says(&pair, other, &format!("heartbeat: node {name}: dead for "));
    says(&pair, other, "service db: Home");
    let log = fs::read_to_string(pair.log_file(other)).unwrap();
    assert_eq!(log.matches(&format!("heartbeat: node {name} is dead")).count(), 1, "{log}");
}

#[test]
fn a_daemon_that_ends_in_peace_says_goodbye() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    let segment = Segment::new();
    let (mut pair, home, name) = start(dir.path(), &segment);
    let other = 1 - home;
    pair.stop(home);
    says(&pair, other, &format!("heartbeat: node {name}: has left, "));
    says(&pair, other, "service db: Home");
    pair.up(home);
    says(&pair, other, &format!("heartbeat: node {name}: up for "));
    let log = fs::read_to_string(pair.log_file(other)).unwrap();
    assert!(!log.contains(&format!("heartbeat: node {name} is dead")), "{log}");
}
