//! Two nodes on this machine, each with its own daemon process, driven by the command line as an operator would.

#![allow(dead_code)] // each test uses its part

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where a node lives and how its daemon is reached.
pub struct Node {
    pub name: &'static str,
    pub run_dir: PathBuf,
    pub disk: PathBuf,
    /// Network namespace the daemon runs in, if any.
    pub netns: Option<String>,
    daemon: Option<Child>,
}

/// Of each log, in messages.
const LOG_LINES: usize = 50;

/// The pair.
pub struct Pair {
    pub dir: PathBuf,
    pub config: PathBuf,
    pub nodes: [Node; 2],
    binary: PathBuf,
    /// Daemons are started by this command; what it is given is the rest of the line.
    pub launcher: Vec<String>,
}

/// What a pair is made with.
pub struct Options<'a> {
    pub disk_bytes: u64,
    /// Lines inside `net { }` and `disk { }`.
    pub net: &'a str,
    pub disk: &'a str,
    /// Further sections of the resource.
    pub sections: &'a str,
    /// Addresses of the two nodes.
    pub addresses: [String; 2],
    pub netns: [Option<String>; 2],
    /// Write the backing files once, as disks in use are; otherwise they are only allocated.
    pub prewritten: bool,
}

impl Pair {
    /// Writes the configuration and creates disks and metadata; nothing runs yet.
    pub fn create(binary: &Path, dir: &Path, options: &Options<'_>) -> Pair {
        let _ = fs::remove_dir_all(dir);
        let disks = ["n1", "n2"].map(|name| dir.join(name).join("r0.img"));
        for disk in &disks {
            fs::create_dir_all(disk.parent().expect("a directory of a node")).expect("a directory");
            let f = fs::File::create(disk).expect("a backing file");
            f.set_len(options.disk_bytes).expect("its size");
            // Allocated, so that no write has to find space first; as a real disk would be.
            let status = Command::new("fallocate")
                .args(["-l", &options.disk_bytes.to_string()])
                .arg(disk)
                .status()
                .expect("fallocate (package util-linux)");
            assert!(status.success());
            if options.prewritten {
                let status = Command::new("dd")
                    .args(["if=/dev/zero", "bs=1M", "conv=notrunc", "status=none", "oflag=direct"])
                    .arg(format!("of={}", disk.display()))
                    .arg(format!("count={}", options.disk_bytes >> 20))
                    .status()
                    .expect("dd (package coreutils)");
                assert!(status.success());
            }
        }
        let disks = disks.map(|disk| disk.canonicalize().expect("the disk exists"));
        Pair::on_disks(binary, dir, options, disks)
    }

    /// The same on disks that are there already; what is on them is lost.
    pub fn on_disks(binary: &Path, dir: &Path, options: &Options<'_>, disks: [PathBuf; 2]) -> Pair {
        fs::create_dir_all(dir).expect("a directory for the pair");
        let dir = dir.canonicalize().expect("the directory exists");
        let [disk1, disk2] = disks;
        let node = |i: usize, name, disk| Node {
            name,
            run_dir: dir.join(name).join("run"),
            disk,
            netns: options.netns[i].clone(),
            daemon: None,
        };
        let nodes = [node(0, "n1", disk1), node(1, "n2", disk2)];
        for n in &nodes {
            fs::create_dir_all(&n.run_dir).expect("a run directory");
        }
        let on = |i: usize| {
            format!(
                "    on {} {{ disk {}; address {}; }}\n",
                nodes[i].name,
                nodes[i].disk.display(),
                options.addresses[i]
            )
        };
        let protocol = if options.net.contains("protocol ") { "" } else { "protocol C;" };
        let text = format!(
            "global {{ usage-count no; disable-ip-verification; }}\nresource r0 {{\n    net {{ {protocol} \
             cram-hmac-alg sha1; shared-secret \"pair\"; {} }}\n    disk {{ {} }}\n    {}\n    device /dev/drbd0;\n    \
             meta-disk internal;\n{}{}}}\n",
            options.net,
            options.disk,
            options.sections,
            on(0),
            on(1)
        );
        let config = dir.join("r0.conf");
        fs::write(&config, text).expect("the configuration");
        fs::write(dir.join("lockstep.toml"), "").expect("settings: none but the defaults");
        let pair =
            Pair { dir: dir.clone(), config, nodes, binary: binary.to_path_buf(), launcher: Vec::new() };
        for i in 0..2 {
            pair.ok(i, &["create-md", "--force", "r0"]);
        }
        pair
    }

    fn command(&self, i: usize) -> Command {
        self.command_by(&[], i)
    }

    fn command_by(&self, launcher: &[String], i: usize) -> Command {
        let n = &self.nodes[i];
        let binary = self.binary.to_str().expect("its path is text").to_owned();
        let mut words = launcher.to_vec();
        if let Some(ns) = &n.netns {
            // Only the network is another: `ip netns exec` would also copy all mounts, and keep them busy.
            words.extend(["nsenter".to_owned(), format!("--net=/run/netns/{ns}")]);
        }
        words.push(binary);
        let mut c = Command::new(&words[0]);
        c.args(&words[1..]);
        c.env("LOCKSTEP_CONFIG", &self.config)
            .env("LOCKSTEP_HOST", n.name)
            .env("LOCKSTEP_RUN_DIR", &n.run_dir)
            .env("LOCKSTEP_TOML", self.dir.join("lockstep.toml"));
        c
    }

    /// Runs a command of a node and returns what it said.
    pub fn run(&self, i: usize, args: &[&str]) -> Output {
        self.command(i).args(args).output().expect("lockstep runs")
    }

    /// Runs a command that has to end within `limit`; none: it did not, and was killed.
    pub fn run_within(&self, i: usize, args: &[&str], limit: Duration) -> Option<Output> {
        let mut child = self.begin(i, args);
        let until = Instant::now() + limit;
        // What commands print fits into a pipe.
        while child.try_wait().expect("its state").is_none() {
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
            sleep(Duration::from_millis(5));
        }
        Some(child.wait_with_output().expect("what it said"))
    }

    /// The process of a daemon that was started and not ended.
    pub fn pid(&self, i: usize) -> Option<u32> {
        self.nodes[i].daemon.as_ref().map(Child::id)
    }

    /// The daemon was started and has not ended by itself.
    pub fn is_alive(&mut self, i: usize) -> bool {
        self.nodes[i].daemon.as_mut().is_some_and(|d| d.try_wait().expect("its state").is_none())
    }

    /// Sends a signal, by name, to a running daemon.
    pub fn signal(&self, i: usize, name: &str) {
        let pid = self.pid(i).expect("a running daemon").to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().expect("kill (package procps)");
        assert!(status.success(), "kill -s {name} {pid}");
    }

    /// Runs a command that has to succeed; returns its output.
    pub fn ok(&self, i: usize, args: &[&str]) -> String {
        let o = self.run(i, args);
        let text = String::from_utf8_lossy(&o.stdout).into_owned();
        let err = String::from_utf8_lossy(&o.stderr);
        assert!(o.status.success(), "{} {args:?}: {}\n{text}{err}", self.nodes[i].name, o.status);
        text.trim_end().to_owned()
    }

    /// Starts a command of a node and leaves it to itself.
    pub fn begin(&self, i: usize, args: &[&str]) -> Child {
        self.command(i)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("lockstep runs")
    }

    /// Where the daemon of a node writes what it has to say.
    pub fn log_file(&self, i: usize) -> PathBuf {
        self.dir.join(self.nodes[i].name).join("log")
    }

    /// Starts the daemon of a node and waits for its socket.
    pub fn start(&mut self, i: usize) {
        self.launch(i);
        let socket = self.nodes[i].run_dir.join("control.sock");
        let until = Instant::now() + Duration::from_secs(10);
        while !self.run(i, &["status"]).status.success() {
            assert!(Instant::now() < until, "no daemon at {}", socket.display());
            sleep(Duration::from_millis(20));
        }
    }

    /// Starts the daemon of a node, which is not ready yet when this returns.
    pub fn launch(&mut self, i: usize) {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.log_file(i)).expect("a log file");
        let err = log.try_clone().expect("the same log");
        let child = self
            .command_by(&self.launcher, i)
            .arg("daemon")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(err)
            .spawn()
            .expect("the daemon starts");
        self.nodes[i].daemon = Some(child);
    }

    /// Starts the daemon and brings the resource up.
    pub fn up(&mut self, i: usize) {
        self.start(i);
        self.ok(i, &["up", "r0"]);
    }

    /// Kills the daemon, which may take its time to go; [`kill`](Self::kill) waits for that.
    pub fn strike(&mut self, i: usize) {
        self.nodes[i].daemon.as_mut().expect("a running daemon").kill().expect("the daemon is killed");
    }

    /// Kills the daemon without a word.
    pub fn kill(&mut self, i: usize) {
        let mut child = self.nodes[i].daemon.take().expect("a running daemon");
        // `nsenter` replaces itself by the daemon, so this is the daemon's own process.
        child.kill().expect("the daemon is killed");
        child.wait().expect("and reaped");
    }

    /// Ends the daemon cleanly.
    pub fn stop(&mut self, i: usize) {
        let Some(mut child) = self.nodes[i].daemon.take() else { return };
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let until = Instant::now() + Duration::from_secs(20);
        while child.try_wait().expect("its state").is_none() {
            if Instant::now() > until {
                let _ = child.kill();
                panic!("{} does not stop", self.nodes[i].name);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a command of a node prints what is wanted.
    pub fn wait_for(&self, i: usize, args: &[&str], wanted: &str, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            let got = self.run(i, args);
            let text = String::from_utf8_lossy(&got.stdout).trim().to_owned();
            if got.status.success() && text == wanted {
                return;
            }
            assert!(
                Instant::now() < until,
                "{} {args:?}: wanted {wanted:?}, got {text:?}\n{}",
                self.nodes[i].name,
                self.logs()
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// Both connected with current disks.
    pub fn wait_in_sync(&self, i: usize, limit: Duration) {
        self.wait_for(i, &["dstate", "r0"], "UpToDate/UpToDate", limit);
        self.wait_for(i, &["cstate", "r0"], "Connected", limit);
    }

    /// The last lines of both logs.
    pub fn logs(&self) -> String {
        let tail = |n: &Node| {
            let text = fs::read_to_string(self.dir.join(n.name).join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {}\n{}\n", n.name, lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
        };
        self.nodes.iter().map(tail).collect()
    }

    /// Unix socket of a node's export.
    pub fn nbd_socket(&self, i: usize) -> PathBuf {
        self.nodes[i].run_dir.join("r0.nbd")
    }

    /// URI of a node's export.
    pub fn nbd_uri(&self, i: usize) -> String {
        format!("nbd+unix:///r0?socket={}", self.nbd_socket(i).display())
    }

    /// Bytes of the replicated device, from the metadata.
    pub fn device_bytes(&self, i: usize) -> u64 {
        let dump = self.ok(i, &["dump-md", "--force", "r0"]);
        let line = dump.lines().find(|l| l.starts_with("la-size-sect")).expect("a size in the dump");
        let n: String = line.chars().filter(char::is_ascii_digit).collect();
        n.parse::<u64>().expect("a number") * 512
    }

    /// After a clean end of both daemons: equal disks, an empty bitmap, one generation, no Primary.
    pub fn assert_equal_and_clean(&self) {
        self.assert_disks_equal();
        // As with DRBD, what a node used has to be applied before it counts as clean.
        let dumps = [0, 1].map(|i| {
            self.ok(i, &["apply-al", "r0"]);
            self.ok(i, &["dump-md", "r0"])
        });
        for dump in &dumps {
            assert!(dump.contains("# bits-set 0;"), "the bitmap is empty: {dump}");
            assert_eq!(flags(dump) & 2, 0, "no Primary: {dump}");
        }
        assert_eq!(generation(&dumps[0]), generation(&dumps[1]), "the same generation");
    }

    /// Compares both backing files over the data area; the daemons must be stopped.
    pub fn assert_disks_equal(&self) {
        let bytes = self.device_bytes(0);
        assert_eq!(bytes, self.device_bytes(1), "both agree on the size");
        let status = Command::new("cmp")
            .arg("-n")
            .arg(bytes.to_string())
            .arg(&self.nodes[0].disk)
            .arg(&self.nodes[1].disk)
            .status()
            .expect("cmp (package diffutils)");
        assert!(status.success(), "the backing disks differ");
    }
}

/// The current data generation of a metadata dump, without the Primary's bit.
pub fn generation(dump: &str) -> u64 {
    let at = dump.find("0x").unwrap_or(0);
    let uuids = dump.split("uuid {").nth(1).unwrap_or(&dump[at..]);
    let first = uuids.split("0x").nth(1).unwrap_or("");
    let digits: String = first.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).expect("a generation in the dump") & !1
}

/// The flags of a metadata dump.
pub fn flags(dump: &str) -> u32 {
    let text = dump.split("flags 0x").nth(1).expect("flags in the dump");
    let digits: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
    u32::from_str_radix(&digits, 16).expect("a number")
}

/// A port that nobody uses right now.
pub fn free_address() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its number").to_string()
}

impl Drop for Pair {
    fn drop(&mut self) {
        for n in &mut self.nodes {
            if let Some(mut child) = n.daemon.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
