//! A pair of daemons whose Primary exports its volumes over unix sockets and TCP, and the programs that use them.
//! A test that uses it declares `mod pair` (`support/pair.rs`) beside it.

#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used, reason = "helpers of tests only")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use crate::pair::{Options, Pair};

/// The pair, `n1` Primary, both in sync.
pub struct Export {
    pub pair: Pair,
    /// Where the nodes export over TCP.
    pub tcp: [SocketAddr; 2],
    /// Where the nodes listen for each other.
    pub replication: [SocketAddr; 2],
    volumes: usize,
    _dir: tempfile::TempDir,
}

/// Size of each backing file.
pub const DISK_BYTES: u64 = 48 << 20;
const LONG: Duration = Duration::from_secs(60);

impl Export {
    /// Starts both daemons and waits until `n1` is Primary and both are in sync.
    pub fn start(volumes: usize) -> Export {
        let export = Export::start_unconnected(volumes, "");
        export.pair.ok(1, &["connect", "r0"]);
        export.wait_in_sync();
        export
    }

    /// The same with own `settings` for `lockstep.toml`, and `n2` has not connected yet.
    pub fn start_unconnected(volumes: usize, settings: &str) -> Export {
        let dir = tempfile::Builder::new().prefix("lockstep-").tempdir().unwrap();
        let addresses = free_addresses();
        let replication = [addresses[0], addresses[1]];
        let tcp = [addresses[2], addresses[3]];
        let options = Options {
            disk_bytes: DISK_BYTES,
            net: NET,
            disk: DISK,
            addresses: replication.map(|a| a.to_string()),
            netns: [None, None],
            sections: "",
            prewritten: false,
        };
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_lockstep"));
        let mut pair = Pair::create(&binary, &dir.path().join("pair"), &options);
        if volumes > 1 {
            add_volumes(&pair, volumes, replication);
        }
        for (i, address) in tcp.iter().enumerate() {
            let text = format!("{settings}\n[resource.r0]\nnbd-listen = '{address}'\n");
            fs::write(pair.dir.join("lockstep.toml"), text).unwrap();
            pair.up(i);
            if i == 1 {
                pair.ok(1, &["disconnect", "r0"]);
            }
        }
        pair.ok(0, &["primary", "--force", "r0"]);
        Export { pair, tcp, replication, volumes, _dir: dir }
    }

    /// Waits until every volume is UpToDate on both nodes.
    pub fn wait_in_sync(&self) {
        let each = |text: &str| vec![text; self.volumes].join("\n");
        self.pair.wait_for(0, &["dstate", "r0"], &each("UpToDate/UpToDate"), LONG);
        self.pair.wait_for(0, &["cstate", "r0"], &each("Connected"), LONG);
    }

    /// Unix socket of a volume of `n1`.
    pub fn socket(&self, volume: usize) -> PathBuf {
        let name = if volume == 0 { "r0.nbd".to_owned() } else { format!("r0-{volume}.nbd") };
        self.pair.nodes[0].run_dir.join(name)
    }

    /// URI of a volume of `n1`, over the unix socket.
    pub fn unix_uri(&self, volume: usize) -> String {
        let name = if volume == 0 { "r0".to_owned() } else { format!("r0/{volume}") };
        format!("nbd+unix:///{name}?socket={}", self.socket(volume).display())
    }

    /// URI of volume 0 of a node, over TCP.
    pub fn tcp_uri(&self, node: usize) -> String {
        format!("nbd://{}/r0", self.tcp[node])
    }

    /// Backing file of a volume.
    pub fn disk(&self, node: usize, volume: usize) -> PathBuf {
        disk(&self.pair, node, volume)
    }

    /// Size of a volume of `n1` (bytes), as clients see it.
    pub fn size_bytes(&self, volume: usize) -> u64 {
        tool("libnbd-bin", "nbdinfo", &["--size", &self.unix_uri(volume)]).trim().parse().unwrap()
    }

    /// Fails unless both nodes hold the same, and are in sync.
    pub fn assert_equal(&self) {
        self.wait_in_sync();
        for volume in 0..self.volumes {
            let size = self.size_bytes(volume).to_string();
            let (a, b) = (self.disk(0, volume), self.disk(1, volume));
            tool("diffutils", "cmp", &["-n", &size, a.to_str().unwrap(), b.to_str().unwrap()]);
        }
    }

    /// Memory of the daemon of `n1` that is resident (KiB).
    pub fn resident_kib(&self) -> u64 {
        let pid = self.pid(0);
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Open descriptors of the daemon of `n1`.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid(0))).unwrap().count()
    }

    pub fn pid(&self, node: usize) -> u32 {
        let run_dir = self.pair.nodes[node].run_dir.to_str().unwrap().to_owned();
        let own = |pid: &u32| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let wanted = format!("LOCKSTEP_RUN_DIR={run_dir}");
            line.ends_with(b"\0daemon\0") && environ.split(|b| *b == 0).any(|v| v == wanted.as_bytes())
        };
        let pids =
            fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        pids.into_iter().find(own).expect("the daemon runs")
    }
}

fn disk(pair: &Pair, node: usize, volume: usize) -> PathBuf {
    pair.nodes[node].disk.with_file_name(format!("r{volume}.img"))
}

/// Replaces the configuration by one of several volumes.
fn add_volumes(pair: &Pair, volumes: usize, replication: [SocketAddr; 2]) {
    let mut text = format!(
        "global {{ usage-count no; disable-ip-verification; }}\nresource r0 {{\n  net {{ protocol C; \
         cram-hmac-alg sha1; shared-secret \"pair\"; {NET} }}\n  disk {{ {DISK} }}\n"
    );
    for (i, address) in replication.iter().enumerate() {
        text += &format!("  on {} {{\n    address {address};\n", pair.nodes[i].name);
        for v in 0..volumes {
            let path = disk(pair, i, v);
            fs::File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(DISK_BYTES)
                .unwrap();
            let path = path.display();
            text += &format!("    volume {v} {{ device /dev/drbd{v}; disk {path}; meta-disk internal; }}\n");
        }
        text += "  }\n";
    }
    text += "}\n";
    fs::write(&pair.config, text).unwrap();
    for i in 0..2 {
        pair.ok(i, &["create-md", "--force", "r0"]);
    }
}

/// Runs a program of a Debian package.
pub fn run(package: &str, program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|e| panic!("{program}: {e}; it is in the Debian package {package}"))
}

/// Runs a program that has to succeed; returns what it printed.
pub fn tool(package: &str, program: &str, args: &[&str]) -> String {
    let output = run(package, program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}{err}", output.status);
    text
}

/// Four ports that nobody uses right now.
fn free_addresses() -> [SocketAddr; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    listeners.map(|l| l.local_addr().unwrap())
}

const NET: &str = "ping-int 1; connect-int 1; ping-timeout 5; timeout 20;";
const DISK: &str = "resync-rate 400M; c-plan-ahead 0; c-min-rate 0;";
