//! A cluster moves from the kernel's DRBD to lockstep and back, one node at a time, as docs/migrate-from-drbd.md says. A
//! database runs on it; it is moved between the nodes as any cluster manager would, and between those moves never stops.

use crate::lab::{LONG, Lab, Setup};
use crate::node::{Node, Program};

const DISK_BYTES: u64 = 256 << 20;
const PG: &str = "/usr/lib/postgresql/15/bin";
/// A server on the mounted device.
const SERVER: &str = "mkdir -p /mnt/r0 && mount /dev/drbd0 /mnt/r0 && su postgres -c 'PG/pg_ctl -w -t 60 -D /mnt/r0/pg -l /tmp/pg.log start' >/dev/null || { cat /tmp/pg.log; exit 1; }";
/// Its last process may still be leaving.
const STOP_SERVER: &str = "su postgres -c 'PG/pg_ctl -w -m fast -D /mnt/r0/pg stop' >/dev/null || exit 1
for i in $(seq 50); do umount /mnt/r0 && exit; sleep 0.1; done; exit 1";
/// A client: commits numbers one by one, and notes the last one whose commit was answered.
const CLIENT: &str = "i=$(psql -h /tmp -U postgres -Atc 'select coalesce(max(i), 0) from t') || exit 1
while ! test -e /tmp/stop; do
  i=$((i + 1))
  psql -h /tmp -U postgres -qc \"insert into t values ($i, repeat('x', 500))\" || exit 1
  echo $i >/run/node/committed.new && mv /run/node/committed.new /run/node/committed || exit 1
done";
const CLUSTER: &str = "mkfs.ext4 -q -F -E nodiscard /dev/drbd0 && mkdir -p /mnt/r0 && mount /dev/drbd0 /mnt/r0 && install -d -o postgres /mnt/r0/pg && su postgres -c \"PG/initdb -N -D /mnt/r0/pg -A trust\" >/dev/null && printf \"unix_socket_directories = '/tmp'\\nlisten_addresses = ''\\nshared_buffers = 16MB\\nmax_wal_size = 48MB\\n\" >>/mnt/r0/pg/postgresql.conf && umount /mnt/r0";

fn run(node: &Node, command: &str) -> String {
    node.run(&command.replace("PG/", &format!("{PG}/")))
}

/// The database and its client on one node.
struct Database {
    node: usize,
    client: u32,
}

impl Database {
    fn start(lab: &Lab, node: usize) -> Database {
        run(&lab.nodes[node], SERVER);
        lab.nodes[node].run("rm -f /tmp/stop /run/node/committed");
        let machine = lab.nodes[node].machine().expect("in machines");
        let database = Database { node, client: machine.begin(CLIENT) };
        database.goes_on(lab);
        database
    }

    /// Number of the last commit that was answered, 0 before the first one.
    fn committed(&self, lab: &Lab) -> u64 {
        lab.nodes[self.node].run("cat /run/node/committed 2>/dev/null || echo 0").parse().expect("a number")
    }

    /// Waits for two more commits.
    fn goes_on(&self, lab: &Lab) {
        let (before, node) = (self.committed(lab), &lab.nodes[self.node]);
        let instead = || format!("no commits after {before}: {}", node.proc());
        node.until(LONG, || self.committed(lab) >= before + 2, instead);
    }

    /// Gives the number of commits that were answered; all of them are there.
    fn stop(self, lab: &Lab) -> u64 {
        let node = &lab.nodes[self.node];
        node.run("touch /tmp/stop");
        let machine = node.machine().expect("in machines");
        let said = machine.finish(self.client, LONG).expect("the client ends");
        assert!(said.status == 0, "{}: the client saw an error: {said:?}", node.name);
        let committed = self.committed(lab);
        let found = node.run("psql -h /tmp -U postgres -Atc 'select count(*), max(i) from t'");
        assert_eq!(found, format!("{committed}|{committed}"), "{}: what was committed is there", node.name);
        run(node, STOP_SERVER);
        committed
    }
}

/// The database goes to the other node.
fn swap(lab: &Lab, database: Database) -> (Database, u64) {
    let from = database.node;
    let committed = database.stop(lab);
    lab.nodes[from].ok("secondary r0");
    lab.nodes[1 - from].ok("primary r0");
    lab.connected(1 - from);
    (Database::start(lab, 1 - from), committed)
}

/// More than the database writes while a node is away, and a small part of the device.
const RESYNC_KIB_MAX: u64 = 16 << 10;

/// KiB of the resyncs that have begun on a node since its log was marked.
fn resynced_kib(node: &Node) -> Vec<u64> {
    let log = node.new_log();
    let sizes = log.split("(will sync ").skip(1).map(|rest| rest.split(" KB").next().unwrap_or_default());
    sizes.map(|kib| kib.parse().unwrap_or_else(|_| panic!("{kib:?} KiB: {log}"))).collect()
}

/// Another DRBD on the node that is Secondary: down, the other program on the same disk, metadata and configuration, up. Then
/// both copies are compared.
fn replace(lab: &mut Lab, database: &Database, next: &Program) {
    let n = 1 - database.node;
    lab.nodes[n].ok("down r0");
    lab.nodes[n].change_program(next);
    lab.nodes[n].own_drbdadm();
    database.goes_on(lab);
    lab.nodes[n].mark_log();
    lab.nodes[n].ok("up r0");
    lab.connected(1 - n);
    // With the path that handlers have.
    let role = lab.nodes[n].run("PATH=/sbin:/usr/sbin:/bin:/usr/bin drbdadm role r0");
    assert_eq!(role, "Secondary/Primary");
    let brought = resynced_kib(&lab.nodes[n]);
    assert!(!brought.is_empty() && brought.iter().sum::<u64>() <= RESYNC_KIB_MAX, "KiB: {brought:?}");
    database.goes_on(lab);
    lab.nodes[n].mark_log();
    lab.nodes[n].ok("verify r0");
    lab.nodes[n].wait_log("Online verify done", LONG);
    lab.connected(1 - n);
    for node in &lab.nodes {
        assert_eq!(node.figure("oos"), 0, "{}: {}", node.name, node.proc());
    }
}

/// There and back again. Node `p` has the database first and last.
pub fn there_and_back(lab: &mut Lab, p: usize) -> String {
    let ours = Program::Ours(lab.binary.clone());
    let had_ours = lab.nodes.each_ref().map(|n| !n.is_kernel());
    for node in lab.nodes.iter_mut().filter(|n| !n.is_kernel()) {
        node.change_program(&Program::Kernel);
    }
    let net = "verify-alg crc32c;".to_owned();
    lab.pair(&Setup { net, disk_bytes: Some([DISK_BYTES; 2]), ..Setup::default() }, p);
    run(&lab.nodes[p], CLUSTER);
    run(&lab.nodes[p], SERVER);
    lab.nodes[p].run("psql -h /tmp -U postgres -qc 'create table t (i bigint primary key, filler text)'");
    run(&lab.nodes[p], STOP_SERVER);
    let database = Database::start(lab, p);
    replace(lab, &database, &ours);
    let (database, first) = swap(lab, database);
    replace(lab, &database, &ours);
    // Both are ours. Back:
    let (database, second) = swap(lab, database);
    replace(lab, &database, &Program::Kernel);
    let (database, third) = swap(lab, database);
    replace(lab, &database, &Program::Kernel);
    let (database, fourth) = swap(lab, database);
    let last = database.stop(lab);
    assert!([first, second, third, fourth, last].is_sorted());
    lab.connected(p);
    lab.finish();
    for (node, _) in lab.nodes.iter_mut().zip(had_ours).filter(|(_, had)| *had) {
        node.change_program(&ours);
    }
    format!("{last} commits")
}
