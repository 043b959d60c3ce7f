//! A real database on the device: ext4 and PostgreSQL on the Primary's export, pgbench running, while the
//! secondary is killed, the link is cut, and the primary is killed and its peer takes over.
//!
//! Needs root, and from Debian: postgresql-15, e2fsprogs, libnbd-bin (nbdfuse), fuse3, mount, iproute2. What is
//! missing makes the test fail with its name.

#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use pair::{Options, Pair};

const PG_BIN: &str = "/usr/lib/postgresql/15/bin";
const NETNS: [&str; 2] = ["lockstep-n1", "lockstep-n2"];

fn binary() -> PathBuf {
    std::env::var_os("LOCKSTEP_BIN").map_or_else(|| env!("CARGO_BIN_EXE_lockstep").into(), PathBuf::from)
}

fn sh(line: &str) -> String {
    let o = Command::new("bash").args(["-ec", line]).output().expect("bash");
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    assert!(o.status.success(), "{line}: {}\n{text}{}", o.status, String::from_utf8_lossy(&o.stderr));
    text
}

fn quietly(line: &str) {
    let _ = Command::new("bash").args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Two namespaces joined by a veth pair.
struct Network;

impl Network {
    fn make() -> Network {
        Network::remove();
        sh(&format!("ip netns add {0}; ip netns add {1}", NETNS[0], NETNS[1]));
        sh(&format!(
            "ip link add lsv1 netns {0} type veth peer name lsv2 netns {1}
             ip -n {0} addr add 10.77.0.1/24 dev lsv1; ip -n {0} link set lsv1 up; ip -n {0} link set lo up
             ip -n {1} addr add 10.77.0.2/24 dev lsv2; ip -n {1} link set lsv2 up; ip -n {1} link set lo up",
            NETNS[0], NETNS[1]
        ));
        Network
    }

    fn remove() {
        for ns in NETNS {
            quietly(&format!("ip netns del {ns}"));
        }
    }

    fn cut(&self, cut: bool) {
        sh(&format!("ip -n {} link set lsv2 {}", NETNS[1], if cut { "down" } else { "up" }));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        Network::remove();
    }
}

/// The export of one node as a mounted block device with a PostgreSQL cluster on it.
struct Database {
    fuse_dir: PathBuf,
    mount: PathBuf,
    nbdfuse: Child,
    loop_dev: String,
    port: u16,
    /// The server's process, once started: a dead device no longer tells.
    postmaster: Option<u32>,
    gone: bool,
}

impl Database {
    /// Attaches the export of `node`; makes a filesystem and a cluster on it if `fresh`.
    fn attach(p: &Pair, node: usize, fresh: bool, port: u16) -> Database {
        let fuse_dir = p.dir.join(format!("fuse{node}"));
        let mount = p.dir.join(format!("mnt{node}"));
        fs::create_dir_all(&fuse_dir).expect("a directory");
        fs::create_dir_all(&mount).expect("a directory");
        let nbdfuse = Command::new("nbdfuse")
            .arg(&fuse_dir)
            .arg(p.nbd_uri(node))
            .stdout(Stdio::null())
            .spawn()
            .expect("nbdfuse (package libnbd-bin)");
        let file = fuse_dir.join("nbd");
        let until = Instant::now() + Duration::from_secs(10);
        while !file.exists() {
            assert!(Instant::now() < until, "nbdfuse does not show the device\n{}", p.logs());
            sleep(Duration::from_millis(20));
        }
        let loop_dev = sh(&format!("losetup -f --show {}", file.display())).trim().to_owned();
        if fresh {
            sh(&format!("mkfs.ext4 -q {loop_dev}"));
        }
        sh(&format!("mount {loop_dev} {}", mount.display()));
        let d = Database { fuse_dir, mount, nbdfuse, loop_dev, port, postmaster: None, gone: false };
        if fresh {
            let pg = d.data_dir();
            sh(&format!(
                "install -d -o postgres {0}; su postgres -c '{PG_BIN}/initdb -D {0} -A trust' >/dev/null",
                pg.display()
            ));
        }
        d
    }

    fn data_dir(&self) -> PathBuf {
        self.mount.join("pg")
    }

    fn start(&mut self) {
        sh(&format!(
            "chmod 755 {0}; su postgres -c '{PG_BIN}/pg_ctl -w -t 60 -D {1} -l {1}/log -o \"-p {2} -k /tmp \
             -c listen_addresses= -c shared_buffers=32MB\" start' >/dev/null \
             || {{ tail -n 20 {1}/log; ls -la {1}; dmesg | tail -5; exit 1; }}",
            self.mount.display(),
            self.data_dir().display(),
            self.port
        ));
        let pid = fs::read_to_string(self.data_dir().join("postmaster.pid")).expect("the server runs");
        self.postmaster = pid.lines().next().and_then(|l| l.trim().parse().ok());
    }

    fn stop(&self) {
        sh(&format!(
            "su postgres -c '{PG_BIN}/pg_ctl -w -m fast -D {} stop' >/dev/null",
            self.data_dir().display()
        ));
    }

    fn psql(&self, sql: &str) -> String {
        sh(&format!("su postgres -c \"psql -qtA -h /tmp -p {} -d postgres -c \\\"{sql}\\\"\"", self.port))
            .trim()
            .to_owned()
    }

    /// Unmounts and detaches cleanly.
    fn detach(mut self) {
        sh(&format!("umount {}; losetup -d {}", self.mount.display(), self.loop_dev));
        // The kernel lets go of the loop device a moment later.
        sh(&format!(
            "for i in $(seq 100); do fusermount3 -u {0} 2>/dev/null && exit 0; sleep 0.1; done; fusermount3 -u {0}",
            self.fuse_dir.display()
        ));
        let _ = self.nbdfuse.wait();
        self.gone = true;
    }
}

impl Drop for Database {
    /// Everything above a dead device goes away by force.
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        if let Some(pid) = self.postmaster {
            // As if its machine had died: the postmaster and every backend at once.
            quietly(&format!(
                "kids=$(pgrep -P {pid}); kill -9 {pid} $kids; \
                 for i in $(seq 200); do kill -0 {pid} || break; sleep 0.05; done"
            ));
        }
        quietly(&format!("umount -l {}; losetup -d {}", self.mount.display(), self.loop_dev));
        quietly(&format!("fusermount3 -uz {}", self.fuse_dir.display()));
        let _ = self.nbdfuse.kill();
        let _ = self.nbdfuse.wait();
    }
}

/// A client that inserts numbered rows, one transaction each, and writes down what was committed.
struct Ledger {
    stop: Arc<AtomicBool>,
    committed: Arc<Mutex<Vec<u64>>>,
    thread: thread::JoinHandle<()>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Ledger {
    fn start(port: u16) -> Ledger {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(Mutex::new(Vec::new()));
        let (s, c) = (stop.clone(), committed.clone());
        let thread = thread::spawn(move || {
            let mut psql = Command::new("su")
                .args(["postgres", "-c", &format!("psql -qtA -h /tmp -p {port} -d postgres")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("psql");
            let mut to = psql.stdin.take().expect("its input");
            let mut from = BufReader::new(psql.stdout.take().expect("its output"));
            let mut line = String::new();
            while !s.load(Ordering::Relaxed) {
                let n = NEXT.fetch_add(1, Ordering::Relaxed);
                // The number comes back only after the commit of its own statement was answered.
                if writeln!(to, "insert into ledger values ({n}) returning n;").is_err() {
                    break;
                }
                line.clear();
                match from.read_line(&mut line) {
                    Ok(k) if k > 0 && line.trim() == n.to_string() => c.lock().expect("ledger").push(n),
                    _ => break,
                }
            }
            drop(to);
            let _ = psql.kill();
            let _ = psql.wait();
        });
        Ledger { stop, committed, thread }
    }

    fn count(&self) -> usize {
        self.committed.lock().expect("ledger").len()
    }

    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        Arc::try_unwrap(self.committed).expect("the thread ended").into_inner().expect("ledger")
    }
}

fn pgbench(port: u16, seconds: u32) -> Child {
    Command::new("su")
        .args([
            "postgres",
            "-c",
            &format!("{PG_BIN}/pgbench -h /tmp -p {port} -n -c 4 -j 1 -T {seconds} postgres"),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pgbench (package postgresql-15)")
}

fn require_root_and_tools() {
    let uid = sh("id -u");
    assert_eq!(uid.trim(), "0", "this test mounts filesystems and makes namespaces: run it as root");
    for (tool, package) in [
        ("nbdfuse", "libnbd-bin"),
        ("losetup", "mount"),
        ("mkfs.ext4", "e2fsprogs"),
        ("fusermount3", "fuse3"),
        ("ip", "iproute2"),
        (&format!("{PG_BIN}/initdb"), "postgresql-15"),
    ] {
        let found = tool.starts_with('/') && Path::new(tool).exists()
            || Command::new("sh")
                .args(["-c", &format!("command -v {tool}")])
                .output()
                .is_ok_and(|o| o.status.success());
        assert!(found, "{tool} is missing: apt-get install {package}");
    }
}

#[test]
fn postgresql_survives_the_loss_of_secondary_link_and_primary() {
    require_root_and_tools();
    let net = Network::make();
    let dir = std::env::temp_dir().join(format!("lockstep-lab-database-{}", std::process::id()));
    let options = Options {
        disk_bytes: 512 << 20,
        net: "ping-int 1; connect-int 1; timeout 20;",
        disk: "c-max-rate 400M; c-min-rate 40M; resync-rate 100M;",
        addresses: ["10.77.0.1:7789".into(), "10.77.0.2:7789".into()],
        netns: NETNS.map(|n| Some(n.to_owned())),
        sections: "",
        prewritten: false,
    };
    let mut p = Pair::create(&binary(), &dir, &options);
    let long = Duration::from_secs(120);
    p.up(0);
    p.up(1);
    p.wait_for(0, &["cstate", "r0"], "Connected", long);
    p.ok(0, &["primary", "--force", "r0"]);
    p.wait_in_sync(0, long);

    let mut db = Database::attach(&p, 0, true, 54331);
    db.start();
    db.psql("create table ledger (n bigint primary key)");
    db.psql("create extension amcheck");
    sh(&format!("su postgres -c '{PG_BIN}/pgbench -h /tmp -p 54331 -q -i -s 2 postgres' >/dev/null 2>&1"));
    let ledger = Ledger::start(54331);
    let mut load = pgbench(54331, 60);
    let busy = |ledger: &Ledger, what: &str| {
        let before = ledger.count();
        sleep(Duration::from_secs(2));
        assert!(ledger.count() > before + 5, "the database stands still {what}");
    };
    busy(&ledger, "while both nodes are there");

    println!("killing the secondary, and bringing it back");
    p.kill(1);
    busy(&ledger, "while the secondary is dead");
    p.up(1);
    p.wait_in_sync(0, long);
    busy(&ledger, "after the secondary came back");

    println!("cutting the link, and healing it");
    net.cut(true);
    p.wait_for(0, &["cstate", "r0"], "WFConnection", Duration::from_secs(30));
    busy(&ledger, "while the link is cut");
    net.cut(false);
    p.wait_in_sync(0, long);
    busy(&ledger, "after the link healed");

    println!("killing the primary, and promoting the other");
    p.kill(0);
    let committed = ledger.end();
    let _ = load.kill();
    let _ = load.wait();
    drop(db);
    p.wait_for(1, &["cstate", "r0"], "WFConnection", Duration::from_secs(30));
    p.ok(1, &["primary", "r0"]);
    let mut db = Database::attach(&p, 1, false, 54332);
    db.start();
    let found = db.psql("select string_agg(n::text, ' ' order by n) from ledger");
    let found: std::collections::HashSet<u64> = found.split(' ').filter_map(|n| n.parse().ok()).collect();
    let lost: Vec<u64> = committed.iter().copied().filter(|n| !found.contains(n)).collect();
    assert!(committed.len() > 50, "enough was committed to mean something: {}", committed.len());
    assert!(lost.is_empty(), "{} committed transactions are gone: {lost:?}", lost.len());
    println!("{} committed transactions, all there after the failover", committed.len());
    // pgbench's own rule: every transaction adds the same delta to all four tables.
    let sums = db.psql(
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
         (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)",
    );
    assert_eq!(sums, "t|t", "pgbench's tables agree with its history");
    sh(
        "su postgres -c '/usr/lib/postgresql/15/bin/pg_amcheck -h /tmp -p 54332 -d postgres --heapallindexed'",
    );

    println!("bringing the first node back as secondary");
    p.up(0);
    p.wait_in_sync(1, long);
    db.stop();
    let loop_dev = db.loop_dev.clone();
    sh(&format!("umount {}", db.mount.display()));
    sh(&format!("fsck.ext4 -fn {loop_dev}"));
    sh(&format!("mount {loop_dev} {}", db.mount.display()));
    db.detach();
    p.ok(1, &["secondary", "r0"]);
    p.wait_in_sync(1, long);
    p.ok(1, &["down", "r0"]);
    p.ok(0, &["down", "r0"]);
    p.stop(0);
    p.stop(1);
    p.assert_disks_equal();
    let _ = fs::remove_dir_all(&dir);
    println!("both backing disks are equal, byte for byte");
}
