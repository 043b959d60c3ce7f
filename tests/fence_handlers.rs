//! `lockstep fence-peer` and `unfence-peer` beside kernels: no daemon, the lease in the real etcd, and what the kernels show in
//! files of the test.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/etcd.rs"]
mod etcd;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use etcd::Etcd;
use failover::lease::etcd::EtcdStore;
use failover::lease::record::{Holder, Record};
use failover::lease::store::{Expect, Swap};

const NODES: [&str; 2] = ["a", "b"];
const KEY: &str = "/lockstep/service/db";
const LOST: &str = "cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C s-----";
const LOST_AS_SECONDARY: &str = "cs:WFConnection ro:Secondary/Unknown ds:Consistent/DUnknown C r-----";
const EQUAL: &str = "cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----";
const EQUAL_AS_SECONDARY: &str = "cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----";

struct Lab {
    dir: tempfile::TempDir,
    etcd: Etcd,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::Builder::new().prefix("lsf-handlers-").tempdir().unwrap();
        let etcd = Etcd::start(dir.path(), None);
        let lab = Lab { dir, etcd };
        lab.configure("fencing resource-and-stonith;");
        let failover = format!(
            "global_defs {{\n lease_store {}\n lease_ttl 0.6\n}}\nservice db {{\n resource r0\n}}\n",
            lab.etcd.url
        );
        fs::write(lab.path("failover.conf"), failover).unwrap();
        fs::write(lab.path("lockstep.toml"), "").unwrap();
        lab
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, disk: &str) {
        let text = format!(
            "resource r0 {{ net {{ protocol C; }} disk {{ {disk} }} device /dev/drbd3; disk /dev/nosuch; meta-disk internal;\n\
             on a {{ address 127.0.0.1:7001; }} on b {{ address 127.0.0.1:7002; }} }}\n"
        );
        fs::write(self.path("drbd.conf"), text).unwrap();
    }

    /// As the kernel of node `n` calls it, but with time for a store that is busy.
    fn call(&self, n: usize, handler: &str, shows: &str) -> (i32, String) {
        self.call_within(n, handler, shows, "60")
    }

    fn call_within(&self, n: usize, handler: &str, shows: &str, seconds: &str) -> (i32, String) {
        let proc = self.path(&format!("proc-drbd-{}", NODES[n]));
        let text = format!("version: 8.4.11 (api:1/proto:86-101)\n\n 3: {shows}\n    ns:0 nr:0\n");
        fs::write(&proc, text).unwrap();
        self.call_with(n, &[handler, "--proc-drbd", proc.to_str().unwrap(), "--timeout", seconds])
    }

    fn call_with(&self, n: usize, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
        let out = command
            .args(args)
            .env_clear()
            .env("PATH", "/sbin:/usr/sbin:/bin:/usr/bin")
            .env("DRBD_RESOURCE", "r0")
            .env("DRBD_CONF", self.path("drbd.conf"))
            .env("LOCKSTEP_HOST", NODES[n])
            .env("LOCKSTEP_TOML", self.path("lockstep.toml"))
            .env("LOCKSTEP_RUN_DIR", self.path(NODES[n]))
            .arg("--failover")
            .arg(self.path("failover.conf"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    fn on_store<T>(&self, work: impl AsyncFnOnce(&mut EtcdStore) -> T) -> T {
        let mut store =
            EtcdStore::new(std::slice::from_ref(&self.etcd.url), Duration::from_secs(20)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(&mut store))
    }

    fn record(&self) -> Option<Record> {
        self.on_store(async |store| store.read(KEY).await.unwrap().map(|v| Record::decode(&v.value).unwrap()))
    }

    fn put(&self, record: &Record) {
        let done = self.on_store(async |store| {
            let there = store.read(KEY).await.unwrap();
            let expected = there.map_or(Expect::Absent, |v| Expect::Revision(v.revision));
            store.swap(KEY, expected, &record.encode()).await.unwrap()
        });
        assert!(matches!(done, Swap::Done { .. }), "{done:?}");
    }

    fn current(&self) -> Vec<String> {
        self.record().unwrap().current
    }
}

fn code(said: &(i32, String), expected: i32) {
    assert_eq!(said.0, expected, "{}", said.1);
    assert_eq!(said.1.lines().count(), 1, "one line says why: {}", said.1);
}

#[test]
fn the_record_is_made_the_peer_is_struck_out_and_counts_again() {
    let lab = Lab::new();
    let absent = lab.call(0, "fence-peer", LOST);
    code(&absent, 1);
    assert!(absent.1.starts_with("resource r0: fence-peer: there is no lease"), "{}", absent.1);
    assert_eq!(lab.record(), None);
    code(&lab.call(1, "unfence-peer", EQUAL_AS_SECONDARY), 1);
    code(&lab.call(0, "unfence-peer", EQUAL), 0);
    assert_eq!(lab.current(), ["a", "b"]);

    for (n, shows) in [(0, LOST), (1, LOST_AS_SECONDARY)] {
        let (me, peer) = (n, 1 - n);
        code(&lab.call(me, "fence-peer", shows), 4);
        assert_eq!(lab.current(), [NODES[me]]);
        code(&lab.call(peer, "fence-peer", LOST_AS_SECONDARY), 6);
        code(&lab.call(peer, "fence-peer", LOST), 6);
        code(&lab.call(me, "fence-peer", LOST), 4);
        code(&lab.call(me, "unfence-peer", LOST), 1);
        code(&lab.call(peer, "unfence-peer", EQUAL_AS_SECONDARY), 1);
        assert_eq!(lab.current(), [NODES[me]], "only who counts lets the other one count");
        code(&lab.call(me, "unfence-peer", EQUAL), 0);
        assert_eq!(lab.current().len(), 2);
    }
}

#[test]
fn of_two_that_strike_each_other_out_one_comes_first() {
    let lab = Lab::new();
    for _ in 0..5 {
        lab.put(&Record::new(None, NODES.map(str::to_owned).to_vec()));
        let codes = thread::scope(|scope| {
            let calls = [0, 1].map(|n| {
                let lab = &lab;
                scope.spawn(move || lab.call(n, "fence-peer", [LOST, LOST_AS_SECONDARY][n]))
            });
            calls.map(|call| call.join().unwrap())
        });
        let mut sorted = [codes[0].0, codes[1].0];
        sorted.sort_unstable();
        assert_eq!(sorted, [4, 6], "{codes:?}");
        let first = codes.iter().position(|c| c.0 == 4).unwrap();
        assert_eq!(lab.current(), [NODES[first]]);
        // What the loser remembers is older than what is put there next.
        let changes = lab.record().unwrap().changes + 1;
        let both = Record { changes, ..Record::new(None, NODES.map(str::to_owned).to_vec()) };
        lab.put(&both);
        NODES.iter().for_each(|name| drop(fs::remove_dir_all(lab.path(name))));
    }
}

/// The peer ran our daemon, and was killed: its term is waited for. Then one that lives, and one whose term is too long.
#[test]
fn a_holder_is_struck_out_when_its_term_is_over() {
    let lab = Lab::new();
    let held = |ttl_ms, changes| {
        let holder = Holder { node: "b".into(), incarnation: 1, ttl_ms, addresses_ms: None };
        Record { changes, ..Record::new(Some(holder), NODES.map(str::to_owned).to_vec()) }
    };
    lab.put(&held(600, 1));
    code(&lab.call(0, "fence-peer", LOST_AS_SECONDARY), 4);
    let left = lab.record().unwrap();
    assert!(left.holder.is_none() && left.is_only_current("a"), "{left:?}");

    lab.put(&held(60_000, 10));
    let said = lab.call(0, "fence-peer", LOST_AS_SECONDARY);
    code(&said, 1);
    assert!(said.1.contains("b holds the lease"), "{}", said.1);

    lab.put(&held(3_000, 20));
    let ended = std::sync::atomic::AtomicBool::new(false);
    let said = thread::scope(|scope| {
        scope.spawn(|| {
            for changes in 21.. {
                if ended.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                lab.put(&held(3_000, changes));
                thread::sleep(Duration::from_millis(50));
            }
        });
        let said = lab.call(0, "fence-peer", LOST_AS_SECONDARY);
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        said
    });
    code(&said, 6);
    assert!(lab.record().unwrap().is_current("b"));
}

#[test]
fn whatever_is_not_certain_leaves_the_clients_frozen() {
    let lab = Lab::new();
    lab.put(&Record::new(None, NODES.map(str::to_owned).to_vec()));
    let broken = |said: (i32, String), words: &str| {
        code(&said, 1);
        assert!(said.1.contains(words), "{words}: {}", said.1);
    };
    broken(lab.call(0, "fence-peer", EQUAL), "b is connected");
    broken(
        lab.call(0, "fence-peer", &LOST.replace("UpToDate/", "Inconsistent/")),
        "the disk here is Inconsistent",
    );
    broken(lab.call_with(0, &["fence-peer", "--proc-drbd", "/nosuch/file"]), "no kernel DRBD is there");
    broken(lab.call_with(0, &["fence-peer", "r1"]), "no such resource");
    lab.configure("fencing resource-only;");
    broken(lab.call(0, "fence-peer", LOST), "fencing resource-and-stonith");
    lab.configure("fencing resource-and-stonith;");
    lab.etcd.signal("STOP");
    broken(lab.call_within(0, "fence-peer", LOST, "3"), "no end within 3 s");
    lab.etcd.signal("CONT");
    assert_eq!(lab.current().len(), 2, "nothing was done");
    fs::write(lab.path("failover.conf"), "").unwrap();
    broken(lab.call(0, "fence-peer", LOST), "it belongs to no service");
}

/// The node that was struck out has seen that; the store is put back to what it was before.
#[test]
fn an_older_copy_of_the_record_promotes_nobody() {
    let lab = Lab::new();
    code(&lab.call(0, "unfence-peer", EQUAL), 0);
    let before = lab.record().unwrap();
    code(&lab.call(0, "fence-peer", LOST), 4);
    code(&lab.call(1, "fence-peer", LOST_AS_SECONDARY), 6);
    lab.put(&before);
    let said = lab.call(1, "fence-peer", LOST_AS_SECONDARY);
    code(&said, 1);
    assert!(said.1.contains("the record is older than it was"), "{}", said.1);
    // Beside its connected peer it believes it, and what it remembers from then on is that.
    code(&lab.call(0, "unfence-peer", EQUAL), 0);
    code(&lab.call(1, "unfence-peer", EQUAL_AS_SECONDARY), 1);
    let both_secondary = EQUAL.replace("Primary", "Secondary");
    code(&lab.call(1, "unfence-peer", &both_secondary), 0);
    assert!(lab.record().unwrap().changes > before.changes);
    code(&lab.call(1, "fence-peer", LOST_AS_SECONDARY), 4);
    let kept = fs::read_to_string(memory_of(&lab, 1)).unwrap();
    fs::write(memory_of(&lab, 1), &kept[..kept.len() / 2]).unwrap();
    code(&lab.call(1, "fence-peer", LOST_AS_SECONDARY), 4);
}

fn memory_of(lab: &Lab, n: usize) -> std::path::PathBuf {
    let file = lab.path(NODES[n]).join("state/lease-db.json");
    assert!(Path::exists(&file), "{}", file.display());
    file
}
