//! A node with the kernel's DRBD: user-mode Linux on the files of the host, which it cannot change. Commands are run in it
//! one by one or side by side; it is killed as a power cut would, and booted again on the same disks.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
const MEMORY: &str = "mem=320M";
const BOOT_MAX: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(10);

/// First program of a node: a volatile overlay on the root of the host, then a loop that runs what is written to the first
/// serial line, each command in a process of its own.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
modules=MODULES/$(uname -r)
if [ -z "${INSIDE:-}" ]; then
  mount -t proc proc /proc && mount -t tmpfs tmp /run && insmod "$modules/kernel/fs/overlayfs/overlay.ko" || exit 1
  mkdir /run/upper /run/work /run/root
  mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root || exit 1
  export INSIDE=1
  exec chroot /run/root "DIRECTORY/init"
fi
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /run; mount -t tmpfs tmp /tmp; mount -t tmpfs tmp /var/lib/drbd; mount -t tmpfs tmp /etc/drbd.d
mkdir -p /run/lock /run/drbd /run/node "/lib/modules/$(uname -r)"
mount -t hostfs -o "$modules" none "/lib/modules/$(uname -r)"
mount -t hostfs -o "DIRECTORY" none /run/node
hostname NAME
ip addr add ADDRESS/24 dev eth0; ip link set eth0 up; ip link set lo up
# Open from here on: what arrives on a closed line is lost.
exec 3</dev/ttyS0
stty raw -echo <&3
: >/run/node/ready
while read -r id <&3; do
  c=/run/node/commands/$id
  ( sh "$c" >"$c.out" 2>&1 </dev/null; echo $? >"$c.new"; mv "$c.new" "$c.status" ) &
done
"#;

/// What a command said, on both streams.
#[derive(Clone, Debug)]
pub struct Said {
    pub status: i32,
    pub text: String,
}

/// One such node. Ended when dropped.
pub struct Machine {
    /// Holds its first program, its commands, and what it shares with the host (`/run/node` inside).
    pub directory: PathBuf,
    disks: Vec<PathBuf>,
    netns: String,
    tap: String,
    kernel: Option<Child>,
    commands: AtomicU32,
}

impl Machine {
    /// A machine that is off: `disks` become /dev/ubda and so on, its network card is `tap` in namespace `netns`.
    pub fn new(
        directory: &Path,
        name: &str,
        address: &str,
        disks: &[PathBuf],
        netns: &str,
        tap: &str,
    ) -> Machine {
        fs::create_dir_all(directory.join("commands")).expect("a directory for the machine");
        let directory = directory.canonicalize().expect("it exists");
        let init = INIT
            .replace("DIRECTORY", &directory.display().to_string())
            .replace("MODULES", MODULES)
            .replace("NAME", name)
            .replace("ADDRESS", address);
        fs::write(directory.join("init"), init).expect("the first program");
        fs::set_permissions(directory.join("init"), fs::Permissions::from_mode(0o755))
            .expect("it can be run");
        let serial = directory.join("serial");
        nix::unistd::mkfifo(&serial, nix::sys::stat::Mode::S_IRWXU).expect("a pipe for commands");
        Machine {
            directory,
            disks: disks.to_vec(),
            netns: netns.to_owned(),
            tap: tap.to_owned(),
            kernel: None,
            commands: AtomicU32::new(0),
        }
    }

    /// Starts it and waits until it takes commands.
    pub fn boot(&mut self) {
        assert!(self.kernel.is_none(), "it is off");
        let _ = fs::remove_file(self.directory.join("ready"));
        // Open for both, so that it neither blocks nor ends when a command was written.
        let serial = File::options().read(true).write(true).open(self.serial()).expect("the pipe");
        let console = File::create(self.directory.join("console")).expect("a console");
        let mut kernel = Command::new("nsenter");
        kernel
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args([KERNEL, MEMORY, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
            .args(["con=null", "con0=null,fd:1", "ssl0=fd:0,null", "quiet", "panic=1", "noreboot"])
            .arg(format!("umid={}", self.tap))
            .arg(format!("uml_dir={}", self.directory.display()))
            .arg(format!("init={}", self.directory.join("init").display()))
            .arg(format!("eth0=tuntap,{},fe:fd:0a:63:00:{}", self.tap, &self.tap[self.tap.len() - 1..]));
        for (i, disk) in self.disks.iter().enumerate() {
            kernel.arg(format!("ubd{i}={}", disk.display()));
        }
        // All helpers of the kernel are in its process group, so that they can be ended with it.
        let kernel = kernel
            .process_group(0)
            .stdin(serial)
            .stdout(console.try_clone().expect("the same console"))
            .stderr(console)
            .spawn()
            .expect("user-mode Linux starts");
        self.kernel = Some(kernel);
        let until = Instant::now() + BOOT_MAX;
        while !self.directory.join("ready").exists() {
            assert!(self.is_alive() && Instant::now() < until, "no start: {}", self.console());
            sleep(STEP);
        }
    }

    fn serial(&self) -> PathBuf {
        self.directory.join("serial")
    }

    fn console(&self) -> String {
        fs::read_to_string(self.directory.join("console")).unwrap_or_default()
    }

    fn is_alive(&mut self) -> bool {
        self.kernel.as_mut().is_some_and(|k| k.try_wait().expect("its state").is_none())
    }

    /// It was booted and not killed.
    pub fn is_on(&self) -> bool {
        self.kernel.is_some()
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        let Some(mut kernel) = self.kernel.take() else { return };
        let _ = killpg(Pid::from_raw(kernel.id() as i32), Signal::SIGKILL);
        let _ = kernel.wait();
        // The helpers of the kernel still hold the disks for a moment.
        sleep(Duration::from_millis(100));
    }

    /// Starts a command (of a shell) in it; [`finish`](Self::finish) takes its end.
    pub fn begin(&self, command: &str) -> u32 {
        assert!(self.kernel.is_some(), "the machine is on");
        let id = self.commands.fetch_add(1, Ordering::Relaxed);
        fs::write(self.file(id, ""), command).expect("a command");
        let mut serial = File::options().write(true).open(self.serial()).expect("the pipe");
        serial.write_all(format!("{id}\n").as_bytes()).expect("the command is given");
        id
    }

    /// Waits for a command. None: it has not ended within `limit`.
    pub fn finish(&self, id: u32, limit: Duration) -> Option<Said> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(status) = fs::read_to_string(self.file(id, ".status")) {
                let text = fs::read(self.file(id, ".out")).unwrap_or_default();
                let text = String::from_utf8_lossy(&text).trim_end().to_owned();
                return Some(Said { status: status.trim().parse().expect("a status"), text });
            }
            if Instant::now() > until {
                return None;
            }
            sleep(STEP);
        }
    }

    fn file(&self, id: u32, end: &str) -> PathBuf {
        self.directory.join("commands").join(format!("{id}{end}"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What of the Debian packages that this needs is not there.
pub fn missing_packages() -> Vec<&'static str> {
    let found = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|d| Path::new(d).join(program).exists())
    };
    let all = [
        ("linux.uml", "user-mode-linux"),
        ("insmod", "kmod"),
        ("dmsetup", "dmsetup"),
        ("ip", "iproute2"),
        ("drbdadm", "drbd-utils"),
        ("fio", "fio"),
        ("nsenter", "util-linux"),
        ("mkfs.ext4", "e2fsprogs"),
        ("mkfs.xfs", "xfsprogs"),
        ("nbd-client", "nbd-client"),
        ("psql", "postgresql-15"),
        ("etcd", "etcd-server"),
    ];
    all.iter().filter(|(program, _)| !found(program)).map(|(_, package)| *package).collect()
}

/// Runs a command of the host and gives what it said.
pub fn host(args: &[&str]) -> Said {
    let out = Command::new(args[0])
        .args(&args[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{args:?}: {e}"));
    let text = [out.stdout, out.stderr].concat();
    Said {
        status: out.status.code().unwrap_or(-1),
        text: String::from_utf8_lossy(&text).trim_end().to_owned(),
    }
}

/// The same for one that has to succeed.
pub fn host_ok(args: &[&str]) -> String {
    let said = host(args);
    assert!(said.status == 0, "{args:?}: status {}: {}", said.status, said.text);
    said.text
}
