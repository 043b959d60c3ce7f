//! A node of a pair, seen by its commands, states and data. The kernel's DRBD and lockstep have the same verbs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::machine::{Machine, Said};

/// No command takes longer, unless a scenario says so.
const COMMAND_MAX: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(25);

mod backing;
mod client;

/// Where it runs.
pub enum Kind {
    /// In a machine of its own, whose kernel is its client.
    Machine(Machine, Program),
    /// In a network namespace, and ours; clients speak NBD to it.
    Namespace(Daemon),
}

/// Whose DRBD runs in a machine.
#[derive(Clone, PartialEq, Eq)]
pub enum Program {
    Kernel,
    /// Ours, the binary.
    Ours(PathBuf),
}

/// A daemon of ours.
pub struct Daemon {
    binary: PathBuf,
    directory: PathBuf,
    netns: String,
    child: Option<Child>,
}

/// In front of each command of ours in a machine.
const GUEST: &str = "env LOCKSTEP_CONFIG=/etc/drbd.d/r0.res LOCKSTEP_HOST=NAME LOCKSTEP_RUN_DIR=/run/lockstep LOCKSTEP_TOML=/run/node/lockstep.toml";

/// One of two nodes.
pub struct Node {
    pub name: &'static str,
    pub kind: Kind,
    /// Backing disks of volumes 0 and 1, as files of the host.
    pub disks: [PathBuf; 2],
    /// The volume that states, data and metadata are asked of.
    pub volume: usize,
    /// Configuration, as a file of the host.
    config: PathBuf,
    /// Where what it logged before was ended.
    log_mark: usize,
    /// Devices that the node's disks appear as to it.
    disk_names: [String; 2],
    /// A device mapper is between DRBD and the first of them.
    is_mapped: bool,
    /// Switch port that leads to it, in the namespace of the lab.
    pub port: String,
}

/// Something that a client does to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Io {
    Write,
    WriteFua,
    Discard,
    Zeroes,
}

impl Daemon {
    pub fn new(binary: &Path, directory: &Path, netns: &str) -> Daemon {
        fs::create_dir_all(directory.join("run")).expect("a directory for the daemon");
        fs::write(directory.join("lockstep.toml"), "").expect("settings: none but the defaults");
        let directory = directory.canonicalize().expect("it exists");
        Daemon { binary: binary.to_owned(), directory, netns: netns.to_owned(), child: None }
    }

    fn command(&self, name: &str, config: &Path) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.netns))
            .arg(&self.binary)
            .env("LOCKSTEP_CONFIG", config)
            .env("LOCKSTEP_HOST", name)
            .env("LOCKSTEP_RUN_DIR", self.directory.join("run"))
            .env("LOCKSTEP_TOML", self.directory.join("lockstep.toml"))
            .stdin(Stdio::null());
        c
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    pub fn new(name: &'static str, kind: Kind, disks: [PathBuf; 2], config: PathBuf, port: String) -> Node {
        let disk_names = match &kind {
            Kind::Machine(..) => ["/dev/ubda", "/dev/ubdb"].map(str::to_owned),
            Kind::Namespace(_) => disks.each_ref().map(|d| d.display().to_string()),
        };
        Node { name, kind, disks, volume: 0, config, log_mark: 0, disk_names, is_mapped: false, port }
    }

    pub fn is_kernel(&self) -> bool {
        matches!(self.kind, Kind::Machine(_, Program::Kernel))
    }

    /// The machine it runs in.
    pub fn machine(&self) -> Option<&Machine> {
        match &self.kind {
            Kind::Machine(machine, _) => Some(machine),
            Kind::Namespace(_) => None,
        }
    }

    /// Devices that the node's disks appear as to its own DRBD.
    pub fn disk_names(&self) -> [String; 2] {
        let [first, second] = self.disk_names.clone();
        [if self.is_mapped { format!("/dev/mapper/{}", backing::MAPPED) } else { first }, second]
    }

    /// For the lines of a scenario.
    pub fn kind_name(&self) -> &'static str {
        if self.is_kernel() { "kernel" } else { "lockstep" }
    }

    /// Starts it, without any resource.
    pub fn boot(&mut self) {
        let name = self.name;
        match &mut self.kind {
            Kind::Machine(machine, _) => {
                let _ = fs::remove_file(machine.directory.join("dmesg"));
                machine.boot();
                self.run("modprobe dm-mod && modprobe sch_netem && mkdir -p /etc/drbd.d");
                self.run("echo 'include \"drbd.d/*.res\";' >/etc/drbd.conf");
                self.configure();
                self.start_program();
            }
            Kind::Namespace(daemon) => {
                let log = File::options().create(true).append(true).open(daemon.log()).expect("a log");
                let child = daemon
                    .command(name, &self.config)
                    .arg("daemon")
                    .stdout(log.try_clone().expect("the same log"))
                    .stderr(log)
                    .spawn()
                    .expect("the daemon starts");
                daemon.child = Some(child);
                self.wait_daemon();
            }
        }
        self.configure();
        self.log_mark = 0;
    }

    fn start_program(&self) {
        if self.is_kernel() {
            self.run("modprobe drbd");
        } else {
            self.run("modprobe nbd");
            self.start_guest();
        }
    }

    /// Another DRBD takes over in the machine. The resource is down.
    pub fn change_program(&mut self, next: &Program) {
        if self.is_kernel() {
            self.run("modprobe -r drbd");
        } else {
            // Nobody may wait for it; then its process stays, without a program.
            self.run("pid=$(cat /run/daemon); kill $pid; while readlink /proc/$pid/exe >/dev/null; do sleep 0.05; done");
            // It may never have been diverted.
            self.run(
                "! test -L /sbin/drbdadm || rm /sbin/drbdadm && dpkg-divert --rename --remove /sbin/drbdadm",
            );
        }
        let Kind::Machine(_, program) = &mut self.kind else { panic!("{}: not a machine", self.name) };
        *program = next.clone();
        self.start_program();
    }

    /// Delays of its own network card are gone.
    pub fn heal_link(&self) {
        if self.machine().is_some() && self.is_on() {
            // There may be none.
            self.sh("tc qdisc del dev eth0 root");
        }
    }

    /// Starts the daemon in the machine.
    pub fn start_guest(&self) {
        let Kind::Machine(_, Program::Ours(binary)) = &self.kind else {
            panic!("{}: no daemon in a machine", self.name)
        };
        let env = GUEST.replace("NAME", self.name);
        let daemon =
            format!("{env} setsid {} daemon >>/run/node/log 2>&1 & echo $! >/run/daemon", binary.display());
        self.run(&daemon);
        self.wait_daemon();
    }

    fn wait_daemon(&self) {
        let answers = || self.adm("status").status == 0;
        self.until(Duration::from_secs(10), answers, || format!("no daemon: {}", self.log()));
    }

    /// Whoever calls drbdadm reaches what runs here, as docs/migrate-from-drbd.md has it.
    pub fn own_drbdadm(&self) {
        if let Kind::Machine(_, Program::Ours(binary)) = &self.kind {
            self.run(&format!(
                "dpkg-divert --rename --divert /sbin/drbdadm.kernel /sbin/drbdadm && ln -sf {} /sbin/drbdadm",
                binary.display()
            ));
        }
    }

    /// Kills the daemon in the machine, which goes on.
    pub fn kill_guest(&self) {
        self.run("kill -9 $(cat /run/daemon)");
    }

    /// Hands a changed configuration to it; `adjust` or `up` have to follow.
    pub fn configure(&mut self) {
        let Some(machine) = self.machine() else { return };
        fs::copy(&self.config, machine.directory.join("r0.res")).expect("the configuration is shared");
        self.run("cp /run/node/r0.res /etc/drbd.d/r0.res");
    }

    /// It was started and not killed.
    pub fn is_on(&self) -> bool {
        match &self.kind {
            Kind::Machine(machine, _) => machine.is_on(),
            Kind::Namespace(daemon) => daemon.child.is_some(),
        }
    }

    /// Kills it: the machine, or the daemon.
    pub fn kill(&mut self) {
        match &mut self.kind {
            Kind::Machine(machine, _) => machine.kill(),
            Kind::Namespace(daemon) => daemon.kill(),
        }
    }

    /// Runs a command of a shell in its machine.
    pub fn sh(&self, command: &str) -> Said {
        self.try_sh(command).unwrap_or_else(|| panic!("{}: no end of {command:?}", self.name))
    }

    /// The same; None if it does not end.
    fn try_sh(&self, command: &str) -> Option<Said> {
        let machine = self.machine().unwrap_or_else(|| panic!("{}: not a machine", self.name));
        machine.finish(machine.begin(command), COMMAND_MAX)
    }

    /// The same for one that has to succeed.
    pub fn run(&self, command: &str) -> String {
        let said = self.sh(command);
        assert!(said.status == 0, "{} ({}): {command}: {said:?}", self.name, self.kind_name());
        said.text
    }

    /// Runs an administrator's command: `drbdadm ARGS` or `lockstep ARGS`.
    pub fn adm(&self, args: &str) -> Said {
        self.try_adm(args).unwrap_or_else(|| panic!("{}: no end of {args:?}", self.name))
    }

    /// The same; None if it does not end.
    pub fn try_adm(&self, args: &str) -> Option<Said> {
        match &self.kind {
            Kind::Machine(_, Program::Kernel) => self.try_sh(&format!("drbdadm {args}")),
            Kind::Machine(_, Program::Ours(binary)) => {
                self.try_sh(&format!("{} {} {args}", GUEST.replace("NAME", self.name), binary.display()))
            }
            Kind::Namespace(daemon) => {
                let out = daemon
                    .command(self.name, &self.config)
                    .args(args.split_whitespace())
                    .output()
                    .expect("lockstep runs");
                let text = [out.stdout, out.stderr].concat();
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                Some(Said { status: out.status.code().unwrap_or(-1), text })
            }
        }
    }

    /// The same for one that has to succeed.
    pub fn ok(&self, args: &str) -> String {
        let said = self.adm(args);
        assert!(said.status == 0, "{} ({}): {args}: {said:?}", self.name, self.kind_name());
        said.text
    }

    /// A command that has to be refused, with the kernel's number of the error in its text.
    pub fn refused(&self, args: &str, wanted: &str) {
        let said = self.adm(args);
        let seen = said.status != 0 && said.text.contains(wanted);
        assert!(seen, "{} ({}): {args} is refused with {wanted:?}: {said:?}", self.name, self.kind_name());
    }

    /// Connection state, roles and disk states, as /proc/drbd shows them. Empty while the resource is down.
    pub fn state(&self) -> String {
        let text = self.proc();
        let start = format!("{}: cs:", self.volume);
        let line = text.lines().find(|l| l.trim_start().starts_with(&start)).unwrap_or_default();
        let words = ["cs:", "ro:", "ds:"].map(|k| line.split_whitespace().find_map(|w| w.strip_prefix(k)));
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// Waits until it is so; otherwise `instead` says what there is.
    pub fn until(&self, limit: Duration, is_so: impl Fn() -> bool, instead: impl Fn() -> String) {
        let until = Instant::now() + limit;
        while !is_so() {
            assert!(Instant::now() < until, "{} ({}): {}", self.name, self.kind_name(), instead());
            sleep(STEP);
        }
    }

    /// Waits for a state.
    pub fn wait(&self, wanted: &str, limit: Duration) {
        let instead = || format!("{:?} instead of {wanted:?}\n{}", self.state(), self.proc());
        self.until(limit, || self.state() == wanted, instead);
    }

    /// Waits for a state of the connection alone.
    pub fn wait_connection(&self, wanted: &str, limit: Duration) {
        let is_so = || self.state().split(' ').next() == Some(wanted);
        self.until(limit, is_so, || format!("not {wanted}: {}", self.proc()));
    }

    /// Text of /proc/drbd.
    pub fn proc(&self) -> String {
        if self.is_kernel() { self.sh("cat /proc/drbd").text } else { self.ok("proc") }
    }

    /// A figure of /proc/drbd, such as `oos`.
    pub fn figure(&self, name: &str) -> u64 {
        let text = self.proc();
        let value = text.split_whitespace().find_map(|w| w.strip_prefix(&format!("{name}:")));
        value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    /// Waits until a figure of /proc/drbd is this.
    pub fn wait_figure(&self, name: &str, wanted: u64, limit: Duration) {
        let is_so = || self.figure(name) == wanted;
        self.until(limit, is_so, || format!("{name} is not {wanted}: {}", self.proc()));
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        match &self.kind {
            Kind::Machine(_, Program::Kernel) if !self.is_on() => String::new(),
            Kind::Machine(machine, Program::Kernel) => {
                // The kernel forgets what does not fit into its buffer.
                self.run("dmesg -c >>/run/node/dmesg");
                fs::read_to_string(machine.directory.join("dmesg")).unwrap_or_default()
            }
            Kind::Namespace(daemon) => fs::read_to_string(daemon.log()).unwrap_or_default(),
            Kind::Machine(machine, _) => {
                fs::read_to_string(machine.directory.join("log")).unwrap_or_default()
            }
        }
    }

    /// From here on [`logged`](Self::logged) looks.
    pub fn mark_log(&mut self) {
        self.log_mark = self.log().len();
    }

    /// What it has logged since the mark.
    pub fn new_log(&self) -> String {
        self.log().get(self.log_mark..).unwrap_or_default().to_owned()
    }

    /// It has logged a text since the mark.
    pub fn logged(&self, text: &str) -> bool {
        self.new_log().contains(text)
    }

    /// Waits until it has logged a text since the mark.
    pub fn wait_log(&self, text: &str, limit: Duration) {
        self.until(limit, || self.logged(text), || format!("not logged: {text:?}\n{}", self.new_log()));
    }
}
