//! A live database as a service on two hosts: PostgreSQL on ext4 on the replicated device, its client on a third machine, with the store
//! of leases, knows one address only and writes numbered rows. Hosts are killed, cables pulled, a daemon stopped: it goes on on
//! exactly one side, every confirmed row is there, and who was away comes back by a resync of what has changed.
//!
//! Needs root, and from Debian: postgresql-15, etcd-server, e2fsprogs, libnbd-bin (nbdfuse), fuse3, mount, iproute2.
//!
//! One round of each fault; `LOCKSTEP_ROUNDS=20` makes twenty and prints the distributions of what the client saw
//! (docs/failover.md), `LOCKSTEP_STANDSTILL=30` is for how long a stopped daemon stands still (seconds), `LOCKSTEP_FAULTS` names some
//! of the faults.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/etcd.rs"]
mod etcd;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/segment.rs"]
mod segment;
#[path = "support/service.rs"]
mod service;
#[path = "support/watch.rs"]
mod watch;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd::Etcd;
use pair::Pair;
use postgres::{Writer, ask};
use segment::{ADDRESS, NET, Segment, router, sh};
use service::{Place, in_sync, status, wait_until};
use watch::{A_MOMENT, Watch};

const DATABASE_PORT: u16 = 5432;
const DISK_MIB: u64 = 192;
/// An outage that wants an explanation.
const REMARKABLE: Duration = Duration::from_secs(10);
/// Rows that show that the database is alive.
const SIGN_OF_LIFE: usize = 20;

fn database() -> SocketAddr {
    SocketAddr::new(ADDRESS.parse().unwrap(), DATABASE_PORT)
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// What happens to the home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// Every process of its host dies.
    Kill,
    /// The cable between the nodes is pulled.
    ReplicationCut,
    /// Its cable to clients and to the store of leases is pulled.
    ClientCut,
    /// Both.
    BothCut,
    /// Its daemon stands still, and goes on later.
    Standstill,
}

impl Fault {
    const ALL: [Fault; 5] =
        [Fault::Kill, Fault::ReplicationCut, Fault::ClientCut, Fault::BothCut, Fault::Standstill];

    /// Where the service is afterwards.
    fn moves(self) -> bool {
        self != Fault::ReplicationCut
    }
}

/// What one round showed.
struct Round {
    /// The longest time without a confirmed row.
    outage: Duration,
    /// From the fault to the promotion of the other node.
    writable: Option<Duration>,
    /// From the fault to the address on the other node.
    address: Option<Duration>,
    /// How long the database took to start there, with the recovery.
    recovery: Option<Duration>,
}

struct Lab {
    pair: Pair,
    watch: Watch,
    etcd: Etcd,
    segment: Segment,
}

impl Lab {
    fn new(dir: &Path) -> Lab {
        let segment = Segment::new();
        let etcd = Etcd::start(dir, Some((&segment.name("3"), Ipv4Addr::new(10, 88, 0, 3))));
        let place =
            Place { addresses: segment.replication(), netns: segment.nodes(), launcher: host(dir), net: NET };
        let blocks = |_: &Path| {
            let d = dir.display();
            let step = |what: &str| format!("/bin/bash {d}/host.sh {d} {what}");
            format!(
                "{}\
                 service db {{\n resource r0\n start \"{}\" {{\n  name device\n  stop \"{}\"\n }}\n \
                 mount {d}/dev/disk {d}/data ext4 {{\n  check yes\n }}\n \
                 start \"{}\" {{\n  name postgresql\n  stop \"{}\"\n }}\n vrrp_instance VI_1\n}}\n",
                router(),
                step("device start"),
                step("device stop"),
                step("postgres start"),
                step("postgres stop"),
            )
        };
        let disks = new_database(dir);
        let watch = Watch::new(&segment);
        let pair = service::pair_on(dir, disks, &etcd, place, "0.6", blocks);
        Lab { pair, watch, etcd, segment }
    }

    fn is_home(&self, i: usize) -> bool {
        status(&self.pair, i).starts_with("service db: Home")
    }

    fn home(&self) -> usize {
        let mut found = None;
        wait_until(&self.pair, "it has one home", || {
            let homes: Vec<usize> = (0..2).filter(|i| self.is_home(*i)).collect();
            assert!(homes.len() < 2, "two homes");
            found = homes.first().copied();
            found.is_some() && self.watch.holders() == homes
        });
        found.unwrap()
    }

    fn ask(&self, sql: &str) -> Vec<String> {
        ask(self.segment.file("3"), database(), sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    fn lives(&self, writer: &Writer, what: &str) {
        let before = writer.count();
        wait_until(&self.pair, what, || writer.count() >= before + SIGN_OF_LIFE);
    }

    /// The daemon of a host: launched by a shell, launched by `unshare`.
    fn daemon(&self, i: usize) -> String {
        let outer = self.pair.pid(i).unwrap();
        sh(&format!("pgrep -P $(pgrep -P {outer}) -f ' daemon$'")).trim().to_owned()
    }

    fn round(&mut self, fault: Fault, writer: &Writer, standstill: Duration) -> Round {
        let home = self.home();
        let other = 1 - home;
        in_sync(&self.pair);
        self.lives(writer, "rows are written before the fault");
        let stopped = (fault == Fault::Standstill).then(|| self.daemon(home));
        let (at, at_clock) = (Instant::now(), seconds_of_day(SystemTime::now()));
        match fault {
            Fault::Kill => self.pair.kill(home),
            Fault::ReplicationCut => self.segment.cut_replication(true),
            Fault::ClientCut => self.segment.cut_clients(home, true),
            Fault::BothCut => {
                self.segment.cut_replication(true);
                self.segment.cut_clients(home, true);
            }
            Fault::Standstill => drop(sh(&format!("kill -STOP {}", stopped.as_ref().unwrap()))),
        }
        if fault.moves() {
            wait_until(&self.pair, "the address moves", || self.watch.came(other, at).is_some());
        }
        self.lives(writer, "rows are written after the fault");
        let recovery = fault.moves().then(|| self.recovery(other));
        match (fault, &stopped) {
            (Fault::Kill, _) => {
                self.pair.start(home);
                self.pair.ok(home, &["up", "r0"]);
            }
            (Fault::Standstill, Some(daemon)) => {
                sleep(standstill.saturating_sub(at.elapsed()));
                sh(&format!("kill -CONT {daemon}"));
            }
            _ => {
                self.segment.cut_replication(false);
                self.segment.cut_clients(home, false);
            }
        }
        in_sync(&self.pair);
        self.lives(writer, "rows are written when both are back");
        assert_eq!(self.home(), if fault.moves() { other } else { home }, "{fault:?}");
        let double = self.watch.longest_double();
        assert!(
            double < A_MOMENT,
            "{fault:?}: the address was on both for {double:?}: {:?}",
            self.watch.seen()
        );
        let written = writer.count();
        let found = self.ask(&format!("select count(*) from ledger where n <= {written}"));
        assert_eq!(found, [written.to_string()], "{fault:?}: confirmed rows are there");
        let outage = writer.longest_gap(at);
        if outage > REMARKABLE || std::env::var_os("LOCKSTEP_LOGS").is_some() {
            println!("{fault:?}: {outage:?} without an answer\n{}", self.pair.logs());
        }
        Round {
            outage,
            writable: fault.moves().then(|| self.promotion(other, at_clock)),
            address: self.watch.came(other, at),
            recovery,
        }
    }

    /// How long the last start of the database took.
    fn recovery(&self, i: usize) -> Duration {
        let mut found = None;
        wait_until(&self.pair, "its history tells of the database", || {
            let history = self.pair.ok(i, &["failover", "history"]);
            let line = history.lines().rfind(|l| l.contains("Start start postgresql"));
            found = line.and_then(|l| l.split_whitespace().rev().nth(1)?.parse().ok());
            found.is_some()
        });
        Duration::from_secs_f64(found.unwrap())
    }

    /// From a time of day to the last promotion of a node, by its log.
    fn promotion(&self, i: usize, from: f64) -> Duration {
        let log = fs::read_to_string(self.pair.log_file(i)).unwrap();
        let line = log.lines().rfind(|l| l.contains("role( Secondary -> Primary )")).unwrap();
        let clock = line.split('T').nth(1).unwrap().split('Z').next().unwrap();
        let parts: Vec<f64> = clock.split(':').map(|part| part.parse().unwrap()).collect();
        let after = (parts[0] * 3600.0 + parts[1] * 60.0 + parts[2] - from).rem_euclid(DAY_S);
        Duration::from_secs_f64(after)
    }

    /// Kibibytes of the largest resync so far.
    fn largest_resync(&self) -> u64 {
        let logs = [0, 1].map(|i| fs::read_to_string(self.pair.log_file(i)).unwrap());
        let sizes = logs.iter().flat_map(|log| log.split("(will sync ").skip(1));
        sizes.map(|text| text.split(' ').next().unwrap().parse().unwrap()).max().unwrap_or(0)
    }

    /// Ends everything in order and compares the disks.
    fn end(mut self) {
        let home = self.home();
        in_sync(&self.pair);
        self.pair.ok(1 - home, &["failover", "freeze", "db"]);
        self.pair.ok(home, &["failover", "release", "db"]);
        wait_until(&self.pair, "nobody has it", || !self.is_home(home) && self.watch.holders().is_empty());
        for i in [home, 1 - home] {
            self.pair.ok(i, &["down", "r0"]);
            self.pair.kill(i);
        }
        self.pair.assert_disks_equal();
        sh(&format!("e2fsck -fn {} >/dev/null", self.pair.nodes[0].disk.display()));
        drop(self.etcd);
    }
}

const DAY_S: f64 = 86_400.0;

fn seconds_of_day(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap().as_secs_f64() % DAY_S
}

/// A host has processes, mounts and shared memory of its own; all end with its first process. What mounts on top of nbdfuse
/// has a namespace to itself: a server of fuse whose last act is to unmount what lies on its own mount waits for itself for ever.
fn host(dir: &Path) -> Vec<String> {
    let words = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"];
    let inner = format!(
        "mount --make-rshared /; mount -t tmpfs tmpfs {}/dev; unshare --mount --propagation slave \"$@\" & wait $!",
        dir.display()
    );
    let first = ["/bin/bash", "-c", &inner, "host"];
    words.iter().chain(&first).map(|word| (*word).to_owned()).collect()
}

/// Two equal disks with a filesystem and an empty ledger in a database, and a place for metadata behind it.
fn new_database(dir: &Path) -> [std::path::PathBuf; 2] {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("host.sh"), include_str!("support/host.sh")).unwrap();
    for name in ["dev", "data"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let (d, filesystem_mib) = (dir.display(), DISK_MIB - 1);
    sh(&format!(
        "cd {d}; truncate -s {DISK_MIB}M n1.img
        mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 n1.img {filesystem_mib}M
        unshare --mount /bin/bash -ec '
            pg=/usr/lib/postgresql/15/bin
            mount -o loop n1.img data
            install -d -o postgres data/pg
            runuser -u postgres -- $pg/initdb -D data/pg -A trust -N >/dev/null
            echo \"host all all 10.88.0.0/24 trust\" >>data/pg/pg_hba.conf
            echo \"create table ledger (n bigint primary key)\" |
                runuser -u postgres -- $pg/postgres --single -D data/pg postgres >/dev/null 2>&1
            umount data'
        cp --sparse=always n1.img n2.img"
    ));
    ["n1.img", "n2.img"].map(|name| dir.join(name))
}

/// The last thing that happened, with its steps.
fn last_entry(history: &str) -> &str {
    history.rfind("service db: ").map_or(history, |at| &history[at..])
}

fn spread(name: &str, mut times: Vec<Duration>) -> String {
    if times.is_empty() {
        return String::new();
    }
    times.sort();
    let (n, s) = (times.len(), |i: usize| times[i].as_secs_f64());
    if n == 1 {
        return format!(" | {name} {:.2}", s(0));
    }
    format!(" | {name} {:.2} {:.2} {:.2}", s(0), s(n / 2), s(n - 1))
}

#[test]
fn a_database_goes_on_on_exactly_one_side_whatever_happens_to_its_home() {
    let rounds = number_from("LOCKSTEP_ROUNDS", 1);
    let standstill = Duration::from_secs(number_from("LOCKSTEP_STANDSTILL", 6));
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::new(dir.path());
    let first = lab.home();
    println!("the database is on n{}", first + 1);
    let writer = Writer::start(lab.segment.file("3"), database());
    let wanted = std::env::var("LOCKSTEP_FAULTS").unwrap_or_default();
    let is_wanted = |fault: &Fault| wanted.is_empty() || wanted.contains(&format!("{fault:?}"));
    for fault in Fault::ALL.into_iter().filter(is_wanted) {
        let found: Vec<Round> = (0..rounds).map(|_| lab.round(fault, &writer, standstill)).collect();
        let each = |f: &dyn Fn(&Round) -> Option<Duration>| found.iter().filter_map(f).collect::<Vec<_>>();
        println!(
            "{fault:?}, {rounds} rounds, seconds{}{}{}{}",
            spread("client without an answer", each(&|r| Some(r.outage))),
            spread("other node writable", each(&|r| r.writable)),
            spread("address there", each(&|r| r.address)),
            spread("of it start of the database", each(&|r| r.recovery)),
        );
    }
    let before = Instant::now();
    lab.pair.ok(lab.home(), &["failover", "switch", "db"]);
    lab.lives(&writer, "rows are written after a switch");
    println!("switch: client without an answer {:.2} s", writer.longest_gap(before).as_secs_f64());
    for i in 0..2 {
        println!("{}", last_entry(&lab.pair.ok(i, &["failover", "history"])));
    }
    let (written, resync) = (writer.end(), lab.largest_resync());
    println!("{written} rows confirmed, all there; largest resync {resync} KiB of {DISK_MIB} MiB");
    assert!(resync < DISK_MIB * 1024 / 3, "a resync of what has changed");
    assert!(written > SIGN_OF_LIFE * 10, "enough was written to mean something");
    // The last one may have been written without its confirmation being heard.
    let found: usize = lab.ask("select count(*) from ledger")[0].parse().unwrap();
    assert!(found == written || found == written + 1, "{found} rows, {written} confirmed");
    lab.end();
}
