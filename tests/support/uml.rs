//! A machine of its own: a user-mode Linux kernel, which has device-mapper targets that lose writes or record them,
//! without touching the kernel of the host. One command is run in it, then it goes away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};

/// Where a directory of the host appears in the machine, writable.
pub const SHARE: &str = "/mnt";
const KERNEL: &str = "/usr/bin/linux.uml";
const MODULES: &str = "/usr/lib/uml/modules";
const MEMORY: &str = "mem=384M";

/// First program of the machine. The root of the host is read-only behind a volatile overlay, so that all programs are
/// there and nothing that is written reaches the host, except in SHARE and on the disks.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
modules=MODULES/$(uname -r)
if [ -z "${INSIDE:-}" ]; then
  mount -t proc proc /proc && mount -t tmpfs tmp /run && insmod "$modules/kernel/fs/overlayfs/overlay.ko" || exit 1
  mkdir /run/upper /run/work /run/root
  mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay /run/root || exit 1
  export INSIDE=1
  exec chroot /run/root "DIRECTORY/init"
fi
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /run
mkdir -p "/lib/modules/$(uname -r)"; mount -t hostfs -o "$modules" none "/lib/modules/$(uname -r)"
mount -t hostfs -o "DIRECTORY/share" none SHARE
ip link set lo up
sh SHARE/command >SHARE/output 2>&1 </dev/null
echo $? >SHARE/status.new; mv SHARE/status.new SHARE/status
poweroff -f
"#;

/// Boots a machine with `disks` as /dev/ubda, /dev/ubdb and so on, and runs `command` (of a shell) in it. It has
/// `directory/share` as [`SHARE`].
///
/// Panics if a Debian package is missing, or if the command fails or does not end within `limit`.
pub fn run(directory: &Path, disks: &[PathBuf], command: &str, limit: Duration) {
    require_packages();
    let share = directory.join("share");
    fs::create_dir_all(&share).expect("a directory to share");
    let directory = directory.canonicalize().expect("the directory exists");
    let init = INIT
        .replace("DIRECTORY", &directory.display().to_string())
        .replace("SHARE", SHARE)
        .replace("MODULES", MODULES);
    fs::write(directory.join("init"), init).expect("the first program");
    fs::set_permissions(directory.join("init"), fs::Permissions::from_mode(0o755)).expect("it can be run");
    fs::write(share.join("command"), command).expect("the command");
    let console = fs::File::create(directory.join("console")).expect("a console");
    let mut kernel = Command::new(KERNEL);
    kernel
        .args([MEMORY, "umid=machine", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"])
        .args(["con=null", "con0=fd:0,fd:1", "quiet", "panic=1", "noreboot"])
        .arg(format!("uml_dir={}", directory.display()))
        .arg(format!("init={}", directory.join("init").display()));
    for (i, disk) in disks.iter().enumerate() {
        kernel.arg(format!("ubd{i}={}", disk.display()));
    }
    // All helpers of the kernel are in its process group, so that they can be ended with it.
    let mut kernel = kernel
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(console.try_clone().expect("the same console"))
        .stderr(console)
        .spawn()
        .expect("user-mode Linux starts");
    let until = Instant::now() + limit;
    let mut is_late = false;
    while kernel.try_wait().expect("its state").is_none() && !is_late {
        sleep(Duration::from_millis(20));
        is_late = Instant::now() > until;
    }
    if is_late {
        let group = Pid::from_raw(i32::try_from(kernel.id()).expect("a process id"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = kernel.wait();
    }
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let output = text(share.join("output"));
    let status = text(share.join("status"));
    assert!(
        status.trim() == "0",
        "in the machine: {}, status {status:?}\n{output}\n--- console\n{}",
        if is_late { "no end" } else { "failed" },
        text(directory.join("console"))
    );
}

fn require_packages() {
    assert!(geteuid().is_root(), "this test boots a machine on the files of root: run it as root");
    let found = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|d| Path::new(d).join(program).exists())
    };
    for (program, package) in
        [("linux.uml", "user-mode-linux"), ("insmod", "kmod"), ("dmsetup", "dmsetup"), ("ip", "iproute2")]
    {
        assert!(found(program), "{program} is missing: apt-get install {package}");
    }
}
