//! A node of a pair, seen by its commands, states and data. The kernel's DRBD and lockstep have the same verbs.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::machine::{Machine, Said, host_ok};
use crate::nbd_client::{Client, FUA, Replies, TRIM, WRITE_ZEROES};

/// No command takes longer, unless a scenario says so.
const COMMAND_MAX: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(25);

/// Whose DRBD it is.
pub enum Kind {
    /// The kernel's, in a machine of its own.
    Kernel(Machine),
    /// Ours, in a network namespace; clients speak NBD to it.
    Lockstep(Daemon),
    /// Ours, in a machine of its own, whose kernel is its client.
    Guest(Machine, PathBuf),
}

/// A daemon of ours.
pub struct Daemon {
    binary: PathBuf,
    directory: PathBuf,
    netns: String,
    child: Option<Child>,
}

/// Name of the device mapper's device.
const MAPPED: &str = "backing";
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
            Kind::Kernel(_) | Kind::Guest(..) => ["/dev/ubda", "/dev/ubdb"].map(str::to_owned),
            Kind::Lockstep(_) => disks.each_ref().map(|d| d.display().to_string()),
        };
        Node { name, kind, disks, volume: 0, config, log_mark: 0, disk_names, is_mapped: false, port }
    }

    pub fn is_kernel(&self) -> bool {
        matches!(self.kind, Kind::Kernel(_))
    }

    /// The machine it runs in.
    pub fn machine(&self) -> Option<&Machine> {
        match &self.kind {
            Kind::Kernel(machine) | Kind::Guest(machine, _) => Some(machine),
            Kind::Lockstep(_) => None,
        }
    }

    /// Devices that the node's disks appear as to its own DRBD.
    pub fn disk_names(&self) -> [String; 2] {
        let [first, second] = self.disk_names.clone();
        [if self.is_mapped { format!("/dev/mapper/{MAPPED}") } else { first }, second]
    }

    /// Puts a device mapper over the first disk.
    pub fn map_disk(&mut self) {
        self.map("create", "linear");
        // Nobody else makes it here.
        let said = self.sh(&format!(
            "test -b /dev/mapper/{MAPPED} || dmsetup mknodes {MAPPED}; ls -l /dev/mapper /dev/dm-0"
        ));
        assert!(said.text.contains(MAPPED), "{}: {said:?}", self.name);
        self.is_mapped = true;
    }

    /// Takes it away; DRBD is down.
    pub fn unmap_disk(&mut self) {
        if std::mem::take(&mut self.is_mapped) && self.is_on() {
            self.dmsetup(&format!("remove --retry {MAPPED}"));
        }
    }

    /// Nobody answers for udev in the machine.
    fn dmsetup(&self, args: &str) {
        let said = self.sh(&format!("dmsetup --noudevrules --noudevsync {args}"));
        assert!(said.status == 0, "{}: dmsetup {args}: {said:?}", self.name);
    }

    fn map(&self, verb: &str, target: &str) {
        let rest = if target == "linear" { format!("{} 0", self.disk_names[0]) } else { String::new() };
        let sectors = fs::metadata(&self.disks[0]).expect("the disk").len() / 512;
        self.dmsetup(&format!("{verb} {MAPPED} --table '0 {sectors} {target} {rest}'"));
    }

    /// From now on every access to its disk fails.
    pub fn break_disk(&self) {
        self.change_disk("error");
    }

    /// The disk works again.
    pub fn mend_disk(&self) {
        self.change_disk("linear");
    }

    fn change_disk(&self, target: &str) {
        self.stop_disk();
        self.map("load", target);
        self.go_on_disk();
    }

    /// What its disk is asked for is not answered.
    pub fn stop_disk(&self) {
        self.dmsetup(&format!("suspend --noflush {MAPPED}"));
    }

    /// A disk that stood still goes on, and fails.
    pub fn fail_what_waits(&self) {
        self.map("load", "error");
        self.go_on_disk();
    }

    /// A disk that stood still goes on.
    pub fn go_on_disk(&self) {
        self.dmsetup(&format!("resume {MAPPED}"));
    }

    /// For the lines of a scenario.
    pub fn kind_name(&self) -> &'static str {
        if self.is_kernel() { "kernel" } else { "lockstep" }
    }

    /// Starts it, without any resource.
    pub fn boot(&mut self) {
        let name = self.name;
        match &mut self.kind {
            Kind::Kernel(machine) => {
                machine.boot();
                let id = machine.begin("modprobe dm-mod && modprobe sch_netem && modprobe drbd && echo 'include \"drbd.d/*.res\";' >/etc/drbd.conf");
                let said = machine.finish(id, COMMAND_MAX).expect("modprobe ends");
                assert!(said.status == 0, "{name}: {}", said.text);
            }
            Kind::Guest(machine, _) => {
                machine.boot();
                let id = machine
                    .begin("modprobe nbd && modprobe dm-mod && modprobe sch_netem && mkdir -p /etc/drbd.d");
                let said = machine.finish(id, COMMAND_MAX).expect("modprobe ends");
                assert!(said.status == 0, "{name}: {}", said.text);
                self.configure();
                self.start_guest();
            }
            Kind::Lockstep(daemon) => {
                let log = File::options().create(true).append(true).open(daemon.log()).expect("a log");
                let child = daemon
                    .command(name, &self.config)
                    .arg("daemon")
                    .stdout(log.try_clone().expect("the same log"))
                    .stderr(log)
                    .spawn()
                    .expect("the daemon starts");
                daemon.child = Some(child);
                let until = Instant::now() + Duration::from_secs(10);
                while self.adm("status").status != 0 {
                    assert!(Instant::now() < until, "{name}: no daemon: {}", self.log());
                    sleep(STEP);
                }
            }
        }
        self.configure();
        self.log_mark = 0;
    }

    /// Starts the daemon in the machine.
    pub fn start_guest(&self) {
        let Kind::Guest(_, binary) = &self.kind else { panic!("{}: no daemon in a machine", self.name) };
        let env = GUEST.replace("NAME", self.name);
        let daemon =
            format!("{env} setsid {} daemon >>/run/node/log 2>&1 & echo $! >/run/daemon", binary.display());
        assert_eq!(self.sh(&daemon).status, 0);
        let until = Instant::now() + Duration::from_secs(10);
        while self.adm("status").status != 0 {
            assert!(Instant::now() < until, "{}: no daemon: {}", self.name, self.log());
            sleep(STEP);
        }
    }

    /// Scripts that call drbdadm reach what runs here.
    pub fn own_drbdadm(&self) {
        if let Kind::Guest(_, binary) = &self.kind {
            let said = self.sh(&format!(
                "rm -f /usr/sbin/drbdadm /sbin/drbdadm; ln -s {} /usr/sbin/drbdadm && echo 'include \"drbd.d/*.res\";' >/etc/drbd.conf",
                binary.display()
            ));
            assert!(said.status == 0, "{}: {said:?}", self.name);
        }
    }

    /// Kills the daemon in the machine, which goes on.
    pub fn kill_guest(&self) {
        assert_eq!(self.sh("kill -9 $(cat /run/daemon)").status, 0);
    }

    /// Hands a changed configuration to it; `adjust` or `up` have to follow.
    pub fn configure(&mut self) {
        let Some(machine) = self.machine() else { return };
        fs::copy(&self.config, machine.directory.join("r0.res")).expect("the configuration is shared");
        assert_eq!(self.sh("cp /run/node/r0.res /etc/drbd.d/r0.res").status, 0);
    }

    /// It was started and not killed.
    pub fn is_on(&self) -> bool {
        match &self.kind {
            Kind::Kernel(machine) | Kind::Guest(machine, _) => machine.is_on(),
            Kind::Lockstep(daemon) => daemon.child.is_some(),
        }
    }

    /// Kills it: the machine, or the daemon.
    pub fn kill(&mut self) {
        match &mut self.kind {
            Kind::Kernel(machine) | Kind::Guest(machine, _) => machine.kill(),
            Kind::Lockstep(daemon) => daemon.kill(),
        }
    }

    /// Runs a command of a shell in the kernel's machine.
    pub fn sh(&self, command: &str) -> Said {
        let machine = self.machine().unwrap_or_else(|| panic!("{}: not a machine", self.name));
        let id = machine.begin(command);
        machine.finish(id, COMMAND_MAX).unwrap_or_else(|| panic!("{}: no end of {command:?}", self.name))
    }

    /// Runs an administrator's command: `drbdadm ARGS` or `lockstep ARGS`.
    pub fn adm(&self, args: &str) -> Said {
        match &self.kind {
            Kind::Kernel(_) => self.sh(&format!("drbdadm {args}")),
            Kind::Guest(_, binary) => {
                self.sh(&format!("{} {} {args}", GUEST.replace("NAME", self.name), binary.display()))
            }
            Kind::Lockstep(daemon) => {
                let out = daemon
                    .command(self.name, &self.config)
                    .args(args.split_whitespace())
                    .output()
                    .expect("lockstep runs");
                let text = [out.stdout, out.stderr].concat();
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                Said { status: out.status.code().unwrap_or(-1), text }
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

    /// Waits for a state.
    pub fn wait(&self, wanted: &str, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            let state = self.state();
            if state == wanted {
                return;
            }
            assert!(
                Instant::now() < until,
                "{} ({}): {state:?} instead of {wanted:?}\n{}",
                self.name,
                self.kind_name(),
                self.proc()
            );
            sleep(STEP);
        }
    }

    /// Text of /proc/drbd.
    pub fn proc(&self) -> String {
        match &self.kind {
            Kind::Kernel(_) => self.sh("cat /proc/drbd").text,
            Kind::Lockstep(_) | Kind::Guest(..) => self.ok("proc"),
        }
    }

    /// A figure of /proc/drbd, such as `oos`.
    pub fn figure(&self, name: &str) -> u64 {
        let text = self.proc();
        let value = text.split_whitespace().find_map(|w| w.strip_prefix(&format!("{name}:")));
        value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    /// Waits until a figure of /proc/drbd is this.
    pub fn wait_figure(&self, name: &str, wanted: u64, limit: Duration) {
        let until = Instant::now() + limit;
        while self.figure(name) != wanted {
            assert!(Instant::now() < until, "{}: {name} is not {wanted}: {}", self.name, self.proc());
            sleep(STEP);
        }
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        match &self.kind {
            Kind::Kernel(_) if !self.is_on() => String::new(),
            Kind::Kernel(_) => self.sh("dmesg").text,
            Kind::Lockstep(daemon) => fs::read_to_string(daemon.log()).unwrap_or_default(),
            Kind::Guest(machine, _) => fs::read_to_string(machine.directory.join("log")).unwrap_or_default(),
        }
    }

    /// From here on [`logged`](Self::logged) looks.
    pub fn mark_log(&mut self) {
        self.log_mark = self.log().len();
    }

    /// It has logged a text since the mark.
    pub fn logged(&self, text: &str) -> bool {
        self.log().get(self.log_mark..).is_some_and(|log| log.contains(text))
    }

    /// Waits until it has logged a text since the mark.
    pub fn wait_log(&self, text: &str, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.logged(text) {
            let log = self.log();
            let new = log.get(self.log_mark..).unwrap_or_default();
            assert!(
                Instant::now() < until,
                "{} ({}): not logged: {text:?}\n{new}",
                self.name,
                self.kind_name()
            );
            sleep(STEP);
        }
    }

    /// A client does one thing to the device of a Primary. The error is what it was told.
    pub fn io(&self, io: Io, offset_bytes: u64, data: &[u8]) -> Result<(), String> {
        let len = data.len();
        match self.machine() {
            Some(machine) => {
                let device = self.device();
                let flags = match io {
                    Io::WriteFua => "direct,dsync",
                    _ => "direct",
                };
                let command = match io {
                    Io::Write | Io::WriteFua => {
                        fs::write(machine.directory.join("data"), data).expect("data to write");
                        format!(
                            "dd if=/run/node/data of={device} bs={len} seek={offset_bytes} oflag={flags},seek_bytes"
                        )
                    }
                    Io::Discard => format!("blkdiscard -f -o {offset_bytes} -l {len} {device}"),
                    Io::Zeroes => format!("blkdiscard -z -f -o {offset_bytes} -l {len} {device}"),
                };
                let said = self.sh(&command);
                if said.status == 0 { Ok(()) } else { Err(said.text) }
            }
            None => {
                let mut client = self.client()?;
                let answer = match io {
                    Io::Write => client.write(offset_bytes, data, 0),
                    Io::WriteFua => client.write(offset_bytes, data, FUA),
                    Io::Discard => client.plain(TRIM, 0, offset_bytes, len as u32),
                    Io::Zeroes => client.plain(WRITE_ZEROES, 0, offset_bytes, len as u32),
                };
                client.close();
                answer.map_err(|e| format!("{e:?}"))
            }
        }
    }

    /// Everything written before is durable.
    pub fn flush(&self) {
        match self.machine() {
            Some(_) => {
                assert_eq!(
                    self.sh(&format!("sync -d {0} || blockdev --flushbufs {0}", self.device())).status,
                    0
                )
            }
            None => {
                let mut client = self.client().expect("an export");
                client.flush().expect("a flush");
                client.close();
            }
        }
    }

    /// Reads from the device of a Primary.
    pub fn read(&self, offset_bytes: u64, len: usize) -> Result<Vec<u8>, String> {
        match self.machine() {
            Some(machine) => {
                let said = self.sh(&format!(
                    "dd if={} of=/run/node/read bs={len} skip={offset_bytes} count=1 iflag=direct,skip_bytes",
                    self.device()
                ));
                if said.status != 0 {
                    return Err(said.text);
                }
                Ok(fs::read(machine.directory.join("read")).expect("what was read"))
            }
            None => {
                let mut client = self.client()?;
                let data = client.read(offset_bytes, len as u32).map_err(|e| format!("{e:?}"));
                client.close();
                data
            }
        }
    }

    fn device(&self) -> String {
        format!("/dev/drbd{}", self.volume)
    }

    fn client(&self) -> Result<Client, String> {
        Client::open(&self.nbd_socket(), &format!("r0/{}", self.volume), Replies::Structured)
    }

    fn nbd_socket(&self) -> PathBuf {
        let Kind::Lockstep(daemon) = &self.kind else { panic!("{}: has no export", self.name) };
        daemon.directory.join(if self.volume == 0 { "run/r0.nbd" } else { "run/r0-1.nbd" })
    }

    /// Random writes for some time, on the device of a Primary; [`Load::finish`] takes the end.
    pub fn load(&self, options: &str, seconds: u32) -> Load<'_> {
        let common = format!(
            "fio --name=load --rw=randwrite --size=24M --time_based --runtime={seconds} --minimal {options}"
        );
        match self.machine() {
            Some(machine) => {
                let id = machine
                    .begin(&format!("{common} --direct=1 --ioengine=libaio --filename={}", self.device()));
                Load { node: self, seconds, run: Run::Kernel(id) }
            }
            None => {
                let uri =
                    format!("--uri=nbd+unix:///r0/{}?socket={}", self.volume, self.nbd_socket().display());
                let mut words = common.split_whitespace();
                let child = Command::new(words.next().expect("fio"))
                    .args(words)
                    .args(["--ioengine=nbd", &uri])
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("fio (package fio) starts");
                Load { node: self, seconds, run: Run::Ours(Some(child)) }
            }
        }
    }

    /// Data area of the backing disk, whose node has it no longer open.
    pub fn disk_bytes(&self, len: u64) -> Vec<u8> {
        let mut data = vec![0; len as usize];
        let mut file = File::open(&self.disks[self.volume]).expect("the disk");
        file.seek(SeekFrom::Start(0)).expect("its start");
        file.read_exact(&mut data).expect("its data");
        data
    }

    /// Changes the backing disk behind everybody's back.
    pub fn spoil_disk(&self, offset_bytes: u64, data: &[u8]) {
        let mut file = File::options().write(true).open(&self.disks[self.volume]).expect("the disk");
        file.seek(SeekFrom::Start(offset_bytes)).expect("a place");
        file.write_all(data).expect("spoilt");
        file.sync_all().expect("on the disk");
    }

    /// Gives new metadata these generations, of a good copy: current, bitmap, history. The resource is down.
    pub fn set_generations(&self, all: [u64; 4]) {
        let device = host_ok(&["losetup", "-f", "--show", &self.disks[self.volume].display().to_string()]);
        let [current, bitmap, first, second] = all;
        let generations = format!("{current:X}:{bitmap:X}:{first:X}:{second:X}:1:1:0:0:0:0:0:0");
        let meta = ["drbdmeta", "--force", "0", "v08", &device, "internal", "set-gi", &generations];
        let said = crate::machine::host(&meta);
        host_ok(&["losetup", "-d", &device]);
        assert!(said.status == 0, "{}: drbdmeta: {}", self.name, said.text);
    }

    /// Metadata of a resource that is down, by the real drbdmeta on the host.
    pub fn dump_md(&self) -> String {
        let disk = self.disks[self.volume].display().to_string();
        let device = host_ok(&["losetup", "-f", "--show", &disk]);
        let meta =
            |verb| crate::machine::host(&["drbdmeta", "--force", "0", "v08", &device, "internal", verb]);
        // A node that was Primary leaves extents in its activity log; applied, they set no bit that is not set already.
        meta("apply-al");
        let dump = meta("dump-md");
        host_ok(&["losetup", "-d", &device]);
        assert!(dump.status == 0, "{}: drbdmeta: {}", self.name, dump.text);
        dump.text
    }
}

/// A client at work.
pub struct Load<'a> {
    node: &'a Node,
    seconds: u32,
    run: Run,
}

enum Run {
    Kernel(u32),
    Ours(Option<Child>),
}

impl Load<'_> {
    /// Waits for its end: the KiB that were written. The error is what the client was told.
    pub fn finish(mut self) -> Result<u64, String> {
        let limit = Duration::from_secs(u64::from(self.seconds)) + COMMAND_MAX;
        let (status, text) = match (&mut self.run, self.node.machine()) {
            (Run::Kernel(id), Some(machine)) => {
                let said = machine.finish(*id, limit).ok_or("the load does not end")?;
                (said.status, said.text)
            }
            (Run::Ours(child), _) => {
                let mut child = child.take().expect("it was started");
                let until = Instant::now() + limit;
                while child.try_wait().expect("its state").is_none() {
                    if Instant::now() > until {
                        let _ = child.kill();
                        return Err("the load does not end".to_owned());
                    }
                    sleep(STEP);
                }
                let out = child.wait_with_output().expect("what it said");
                let text = [out.stdout, out.stderr].concat();
                (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
            }
            (Run::Kernel(_), None) => unreachable!("a load stays where it was started"),
        };
        if status != 0 {
            return Err(text);
        }
        // Field 47 of fio's format 3.
        let line = text.lines().find(|l| l.starts_with("3;")).ok_or_else(|| text.clone())?;
        let kib: u64 = line.split(';').nth(46).and_then(|f| f.parse().ok()).ok_or_else(|| text.clone())?;
        Ok(kib)
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if let Run::Ours(Some(child)) = &mut self.run {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
