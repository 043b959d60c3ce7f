//! Two nodes at one switch, in network namespaces of their own, and what a scenario needs to begin and to end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::machine::{Machine, host, host_ok};
use crate::node::{Daemon, Io, Kind, Node, Program};

/// Of both backing disks.
pub const DISK_BYTES: u64 = 32 << 20;
/// For whatever has to come about.
pub const LONG: Duration = Duration::from_secs(40);
const BRIDGE: &str = "br0";
static LABS: AtomicU32 = AtomicU32::new(0);

/// What stands in the configuration of a scenario beside addresses and disks.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    pub net: String,
    pub disk: String,
    /// Whole sections.
    pub sections: String,
    /// Options of one node's `net` section only (they are expected to disagree).
    pub net_of: [String; 2],
    pub disk_bytes: Option<[u64; 2]>,
    /// The resource has a second volume, on a disk of its own.
    pub two_volumes: bool,
    /// Disk options of that one alone.
    pub second_disk: String,
    /// Between DRBD and its disk there is a device mapper, which can fail or stand still. Only in machines.
    pub mapped: bool,
}

/// The laboratory: nodes 0 and 1 are named node1 and node2.
pub struct Lab {
    pub nodes: [Node; 2],
    /// Ours.
    pub binary: PathBuf,
    netns: [String; 3],
    configs: [PathBuf; 2],
    random: u64,
    _directory: tempfile::TempDir,
}

impl Lab {
    /// Builds it: `is_kernel` says for each node whose DRBD it runs; with `in_machines` ours runs in a machine too. Nothing is
    /// started yet.
    pub fn new(binary: &Path, is_kernel: [bool; 2], in_machines: bool) -> Lab {
        let directory = tempfile::Builder::new().prefix("lockstep-interop-").tempdir().expect("a directory");
        let tag = format!("{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let netns = ["switch", "n1", "n2"].map(|what| format!("lsi-{tag}-{what}"));
        let switch = &netns[0];
        for name in &netns {
            host_ok(&["ip", "netns", "add", name]);
            host_ok(&["ip", "-n", name, "link", "set", "lo", "up"]);
        }
        host_ok(&["ip", "-n", switch, "link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"]);
        host_ok(&["ip", "-n", switch, "link", "set", BRIDGE, "up"]);
        let configs = [1, 2].map(|n| directory.path().join(format!("node{n}.conf")));
        let make = |i: usize| {
            let (name, address) = (["node1", "node2"][i], format!("10.99.0.{}", i + 1));
            let disks = ["a", "b"].map(|which| directory.path().join(format!("disk{}{which}", i + 1)));
            for disk in &disks {
                fs::File::create(disk).and_then(|f| f.set_len(DISK_BYTES)).expect("a disk");
            }
            fs::write(&configs[i], "").expect("a configuration");
            let port = format!("port{}", i + 1);
            let own = directory.path().join(name);
            let kind = if is_kernel[i] || in_machines {
                host_ok(&["ip", "-n", switch, "tuntap", "add", &port, "mode", "tap"]);
                let machine = Machine::new(&own, name, &address, &disks, switch, &port);
                fs::write(machine.directory.join("lockstep.toml"), "")
                    .expect("settings: none but the defaults");
                let program = if is_kernel[i] { Program::Kernel } else { Program::Ours(binary.to_owned()) };
                Kind::Machine(machine, program)
            } else {
                let inner = &netns[i + 1];
                host_ok(&[
                    "ip", "-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                    "netns", inner,
                ]);
                host_ok(&["ip", "-n", inner, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
                host_ok(&["ip", "-n", inner, "link", "set", "eth0", "up"]);
                Kind::Namespace(Daemon::new(binary, &own, inner))
            };
            host_ok(&["ip", "-n", switch, "link", "set", &port, "master", BRIDGE, "up"]);
            Node::new(name, kind, disks, configs[i].clone(), port)
        };
        let nodes = [make(0), make(1)];
        Lab { nodes, binary: binary.to_owned(), netns, configs, random: 1, _directory: directory }
    }

    /// Name of the namespace of the switch.
    pub fn switch(&self) -> &str {
        &self.netns[0]
    }

    /// Starts both nodes.
    pub fn boot(&mut self) {
        for node in &mut self.nodes {
            node.boot();
        }
    }

    /// Empty disks, new metadata and this configuration, on both. The resource is not up.
    pub fn begin(&mut self, setup: &Setup) {
        self.heal();
        for i in 0..2 {
            let node = &mut self.nodes[i];
            let _ = node.adm("down r0");
            let bytes = setup.disk_bytes.map_or(DISK_BYTES, |b| b[i]);
            // A machine sees the size of its disk when it boots.
            let is_other_size = fs::metadata(&node.disks[0]).expect("the disk").len() != bytes;
            let reboots = is_other_size && node.machine().is_some();
            if reboots {
                node.kill();
            }
            for (disk, bytes) in node.disks.iter().zip([bytes, DISK_BYTES]) {
                let file = fs::File::create(disk).expect("the disk");
                file.set_len(bytes).expect("an empty disk");
            }
            node.volume = 0;
            node.unmap_disk();
            node.heal_link();
            if reboots {
                node.boot();
            } else if node.machine().is_some() {
                node.sh("blockdev --flushbufs /dev/ubda; blockdev --flushbufs /dev/ubdb");
            }
        }
        for node in self.nodes.iter_mut().filter(|_| setup.mapped) {
            node.map_disk();
        }
        self.reconfigure(setup);
        for node in &mut self.nodes {
            node.ok("create-md --force r0");
            node.mark_log();
        }
    }

    /// Both nodes have this configuration.
    pub fn reconfigure(&mut self, setup: &Setup) {
        self.write_config(setup);
        self.nodes.iter_mut().for_each(Node::configure);
    }

    fn write_config(&self, setup: &Setup) {
        for (i, path) in self.configs.iter().enumerate() {
            let on = |n: usize| {
                let [first, second] = &self.nodes[n].disk_names();
                let disks = if setup.two_volumes {
                    format!("volume 0 {{ disk {first}; }} volume 1 {{ disk {second}; }}")
                } else {
                    format!("disk {first};")
                };
                format!("  on {} {{ address 10.99.0.{}:7789; {disks} }}\n", self.nodes[n].name, n + 1)
            };
            let defaults = "cram-hmac-alg sha1; shared-secret \"lab\"; timeout 30; ping-int 2; ping-timeout 10; connect-int 1;";
            let protocol = if setup.net.contains("protocol") || !setup.net_of[i].is_empty() {
                ""
            } else {
                "protocol C;"
            };
            let rate =
                if setup.disk.contains("resync-rate") { "" } else { "resync-rate 200M; c-plan-ahead 0;" };
            let devices = if setup.two_volumes {
                let volume = |v, more: &str| {
                    format!("volume {v} {{ device /dev/drbd{v}; meta-disk internal; disk {{ {more} }} }} ")
                };
                volume(0, "") + &volume(1, &setup.second_disk)
            } else {
                "device /dev/drbd0; meta-disk internal;".to_owned()
            };
            let text = format!(
                "global {{ usage-count no; }}\nresource r0 {{\n  net {{ {protocol} {defaults} {} {} }}\n  disk {{ {rate} {} }}\n  {}\n  {devices}\n{}{}}}\n",
                setup.net,
                setup.net_of[i],
                setup.disk,
                setup.sections,
                on(0),
                on(1)
            );
            fs::write(path, text).expect("the configuration");
        }
    }

    /// Both up and connected, with new metadata.
    pub fn met(&mut self, setup: &Setup) {
        self.begin(setup);
        for node in &self.nodes {
            node.ok("up r0");
        }
        for node in &self.nodes {
            node.wait("Connected Secondary/Secondary Inconsistent/Inconsistent", LONG);
        }
    }

    /// Both up and connected, both UpToDate without a sync (the disks are empty), node `p` Primary.
    pub fn pair(&mut self, setup: &Setup, p: usize) {
        self.met(setup);
        for volume in (0..=usize::from(setup.two_volumes)).rev() {
            self.look_at(volume);
            self.nodes[p].ok(&format!("new-current-uuid --clear-bitmap r0/{volume}"));
            self.settled("Secondary/Secondary");
        }
        self.nodes[p].ok("primary r0");
        self.connected(p);
    }

    /// Both up and connected, node `p` Primary of a full sync that has begun.
    pub fn syncing(&mut self, setup: &Setup, p: usize) {
        self.met(setup);
        self.nodes[p].ok("primary --force r0");
        self.nodes[p].wait("SyncSource Primary/Secondary UpToDate/Inconsistent", LONG);
        self.nodes[1 - p].wait("SyncTarget Secondary/Primary Inconsistent/UpToDate", LONG);
    }

    /// Connected, both UpToDate, `p` Primary, as seen by both.
    pub fn connected(&self, p: usize) {
        self.nodes[p].wait("Connected Primary/Secondary UpToDate/UpToDate", LONG);
        self.nodes[1 - p].wait("Connected Secondary/Primary UpToDate/UpToDate", LONG);
    }

    /// The same with any equal roles.
    pub fn settled(&self, roles: &str) {
        for node in &self.nodes {
            node.wait(&format!("Connected {roles} UpToDate/UpToDate"), LONG);
        }
    }

    /// From here on states, data and metadata are those of this volume.
    pub fn look_at(&mut self, volume: usize) {
        self.nodes.iter_mut().for_each(|n| n.volume = volume);
    }

    /// Cuts the cable of a node.
    pub fn cut(&self, i: usize) {
        host_ok(&["ip", "-n", &self.netns[0], "link", "set", &self.nodes[i].port, "nomaster"]);
    }

    /// All cables are whole again, and as fast as they were.
    pub fn heal(&self) {
        for node in &self.nodes {
            host_ok(&["ip", "-n", &self.netns[0], "link", "set", &node.port, "master", BRIDGE]);
            // There may be no limit.
            host(&["ip", "netns", "exec", &self.netns[0], "tc", "qdisc", "del", "dev", &node.port, "root"]);
        }
    }

    /// What is sent to a node comes at this rate at most.
    pub fn limit(&self, i: usize, mbit_s: u32) {
        let rate = format!("{mbit_s}mbit");
        let port = &self.nodes[i].port;
        let tbf = ["rate", &rate, "burst", "16k", "limit", "1m"];
        host_ok(
            &[
                &["ip", "netns", "exec", &self.netns[0], "tc", "qdisc", "add", "dev", port, "root", "tbf"],
                &tbf[..],
            ]
            .concat(),
        );
    }

    /// Bytes that look random and are the same in every run.
    pub fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(len + 8);
        while data.len() < len {
            self.random =
                self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut x = self.random;
            x ^= x >> 29;
            x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
            data.extend_from_slice(&(x ^ (x >> 32)).to_le_bytes());
        }
        data.truncate(len);
        data
    }

    /// A client of `p` writes noise there.
    pub fn write(&mut self, p: usize, offset_bytes: u64, len: usize) -> Vec<u8> {
        let data = self.noise(len);
        let answer = self.nodes[p].io(Io::Write, offset_bytes, &data);
        assert!(answer.is_ok(), "{}: write of {len} at {offset_bytes}: {answer:?}", self.nodes[p].name);
        data
    }

    /// Ends the resource on both nodes: the data areas of both disks are equal byte for byte, both metadata are clean and
    /// of the same generation, as the real drbdmeta reads them.
    pub fn finish(&mut self) {
        for node in &self.nodes {
            let _ = node.adm("secondary r0");
        }
        for node in &self.nodes {
            node.ok("down r0");
        }
        self.compare();
    }

    /// The resource is down on both: what [`finish`](Self::finish) says of disks and metadata.
    pub fn compare(&self) {
        let dumps = [0, 1].map(|i| self.nodes[i].dump_md(&self.binary));
        let field = |dump: &str, name: &str| {
            let line = dump
                .lines()
                .find(|l| l.trim_start().starts_with(name))
                .unwrap_or_else(|| panic!("no {name}: {dump}"));
            line.trim().trim_start_matches(name).trim().trim_end_matches(';').to_owned()
        };
        let sizes = dumps.each_ref().map(|d| field(d, "la-size-sect").parse::<u64>().expect("a size"));
        assert_eq!(sizes[0], sizes[1], "both metadata have the size of the device");
        for (dump, node) in dumps.iter().zip(&self.nodes) {
            assert_eq!(bits_set(dump, sizes[0] / 8), 0, "{}: bits are left: {dump}", node.name);
        }
        let current = dumps.each_ref().map(|d| {
            let after = d.split("uuid {").nth(1).expect("generations");
            let digits = after
                .split("0x")
                .nth(1)
                .expect("the current one")
                .split(';')
                .next()
                .unwrap_or_default()
                .trim();
            u64::from_str_radix(digits, 16).expect("a generation") & !1
        });
        assert_eq!(current[0], current[1], "the same generation: {dumps:?}");
        self.assert_equal(sizes[0] * 512);
    }

    /// Compares the first bytes of both disks.
    pub fn assert_equal(&self, len: u64) {
        let [a, b] = [0, 1].map(|i| self.nodes[i].disk_bytes(len));
        if let Some(at) = a.iter().zip(&b).position(|(x, y)| x != y) {
            let differing = a.chunks(4096).zip(b.chunks(4096)).filter(|(x, y)| x != y).count();
            panic!("the disks differ in {differing} blocks, first at byte {at}");
        }
    }

    /// Ends whatever still runs of the resource, so that the next scenario finds nothing.
    pub fn clear(&mut self) {
        self.heal();
        for i in 0..2 {
            if !self.nodes[i].is_on() {
                self.nodes[i].boot();
            }
            // A kernel may be in a state in which no command ends.
            let ended = ["secondary --force r0", "down r0"].map(|command| self.nodes[i].try_adm(command));
            if !matches!(&ended[1], Some(said) if said.status == 0) {
                self.nodes[i].kill();
                self.nodes[i].boot();
            }
        }
    }
}

/// Bits below `bits` that are set in the bitmap of a dump. What lies behind is not defined: the kernel leaves there what
/// its memory held.
fn bits_set(dump: &str, bits: u64) -> u32 {
    let bitmap = dump.split("bm {").nth(1).and_then(|b| b.split('}').next()).expect("a bitmap in the dump");
    let words = bitmap.lines().map(|l| l.split('#').next().unwrap_or_default()).flat_map(|l| l.split(';'));
    let (mut at, mut set) = (0u64, 0);
    for word in words.map(str::trim).filter(|w| !w.is_empty()) {
        let (times, value) = word.split_once(" times ").unwrap_or(("1", word));
        let value =
            u64::from_str_radix(value.trim().trim_start_matches("0x"), 16).expect("a word of the bitmap");
        for _ in 0..times.trim().parse::<u64>().expect("a count") {
            let left = bits.saturating_sub(at).min(64) as u32;
            let mask = if left == 64 { u64::MAX } else { (1 << left) - 1 };
            set += (value & mask).count_ones();
            at += 64;
        }
    }
    set
}

impl Drop for Lab {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
        for name in &self.netns {
            host(&["ip", "netns", "del", name]);
        }
    }
}
