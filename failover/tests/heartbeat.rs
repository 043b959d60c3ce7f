//! Our membership beside heartbeat 3.0.6, on one segment (failover 9.2, 9.3). Needs root and heartbeat.
//!
//! heartbeat wants files of its own below /etc, /var and /run, and may restart the machine it runs on: it has namespaces for
//! mounts and processes, in which it finds its own files, and nothing that could restart anything.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

mod segment;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use failover::driver::heartbeat::{HeartbeatSettings, start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use segment::Segment;
use support::Namespace;

/// Names the configuration of our node.
const CONFIG: &str = "LOCKSTEP_TEST_HEARTBEAT_CONFIG";

/// Not a test: our node, when this program is started as one. SIGTERM: it leaves.
#[test]
fn our_node() {
    let Ok(path) = std::env::var(CONFIG) else { return };
    tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG).init();
    let membership = segment::router::config(&path).heartbeat.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).unwrap();
        let handle = start(&HeartbeatSettings { membership, host: "ours".into() }).unwrap();
        term.recv().await;
        handle.stop().await;
    });
}

/// What heartbeat runs in: its files, and nothing of the machine's. `$1`: a directory with `ha.d` and `lib`.
const INSIDE: &str = r#"
set -e
hostname real
mount --make-rprivate /
mount --bind "$1/ha.d" /etc/ha.d
mount --bind "$1/lib" /var/lib/heartbeat
mount -t tmpfs none /run
mkdir -p /run/heartbeat/ccm /run/heartbeat/dopd /run/heartbeat/rsctmp /run/resource-agents /run/lock
chown -R hacluster:haclient /run/heartbeat
for program in reboot init halt poweroff shutdown telinit; do
    for place in /sbin /usr/sbin; do
        if [ -e "$place/$program" ]; then mount --bind /bin/true "$place/$program"; fi
    done
done
/usr/libexec/heartbeat/heartbeat -f &
wait
"#;

/// Its generation is the time: the file that it would be in is followed by sync(2), which waits for every filesystem of the
/// machine.
const QUIET: &str = "realtime off\nauto_failback off\nhbgenmethod time\n";

/// Longer than anything here takes, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(90);

/// A program on a node, and what it has logged since it was first started.
struct Node {
    child: Child,
    log: PathBuf,
    is_real: bool,
}

impl Node {
    /// Whether this was logged so often; waits.
    fn says(&self, text: &str, times: usize) {
        let end = Instant::now() + LIMIT;
        while self.log().matches(text).count() < times {
            assert!(Instant::now() < end, "never {times} times: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        fs::read(&self.log).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// A crash. Of heartbeat all processes go, as their namespace does.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A clean end.
    fn stop(mut self) {
        if self.is_real {
            let said = self.inside(&["/usr/libexec/heartbeat/heartbeat", "-k"]);
            assert!(said.contains("heartbeat") || said.is_empty(), "{said}");
        } else {
            kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        }
        self.child.wait().unwrap();
    }

    /// Runs a program beside heartbeat, and gives what it prints.
    fn inside(&self, command: &[&str]) -> String {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let first = children.split_whitespace().next().unwrap();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["-t", first, "-m", "-u", "-n", "-p", "--"]).args(command);
        String::from_utf8_lossy(&nsenter.stdin(Stdio::null()).output().unwrap().stdout).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = (self.child.kill(), self.child.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.log());
        }
    }
}

/// Two nodes, `real` and `ours`, and what both are told.
struct Pair {
    segment: Segment,
    /// `bcast eth0` and so on, with `@` for the other's address.
    medium: &'static str,
    /// `1 sha1 SECRET` and so on.
    keys: [&'static str; 2],
    more: &'static str,
}

impl Pair {
    fn new(medium: &'static str, key: &'static str, more: &'static str) -> Pair {
        Pair { segment: Segment::new(2), medium, keys: [key, key], more }
    }

    fn directives(&self, other: &str) -> String {
        format!(
            "keepalive 500ms\ndeadtime 5\nwarntime 4\ninitdead 10\nudpport 694\n{}\n{}\nnode real ours\n",
            self.medium.replace('@', other),
            self.more
        )
    }

    fn real(&self) -> Node {
        let directory = self.segment.file(1);
        let (etc, lib, log) = (directory.join("ha.d"), directory.join("lib"), directory.join("log"));
        if !directory.exists() {
            fs::create_dir_all(&directory).unwrap();
            copy("/etc/ha.d", &etc);
            copy("/var/lib/heartbeat", &lib);
            let logs = format!("logfacility none\nlogfile {}\n", log.display());
            let ha_cf = format!("{QUIET}{logs}{}", self.directives("10.77.0.2"));
            fs::write(etc.join("ha.cf"), ha_cf).unwrap();
            fs::write(etc.join("haresources"), "").unwrap();
            fs::write(etc.join("authkeys"), format!("auth 1\n{}\n", self.keys[0])).unwrap();
            fs::set_permissions(etc.join("authkeys"), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut command = in_namespace(&self.segment.nodes[0]);
        command.args(["unshare", "-u", "-m", "-p", "-f", "--mount-proc", "--kill-child=KILL"]);
        command.args(["sh", "-c", INSIDE, "sh"]).arg(&directory);
        Node { child: spawned(command, &directory.join("out")), log, is_real: true }
    }

    fn ours(&self) -> Node {
        let (config, log) =
            (self.segment.file(2).with_extension("conf"), self.segment.file(2).with_extension("log"));
        let keys = format!("authkeys {{\nauth 1\n{}\n}}\n", self.keys[1]);
        fs::write(&config, format!("heartbeat {{\n{}{keys}}}\n", self.directives("10.77.0.1"))).unwrap();
        let mut command = in_namespace(&self.segment.nodes[1]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", "our_node", "--nocapture"]).env(CONFIG, &config);
        Node { child: spawned(command, &log), log, is_real: false }
    }

    /// Both run, and see each other.
    fn meet(&self) -> (Node, Node) {
        let (real, ours) = (self.real(), self.ours());
        ours.says("heartbeat: node real is up", 1);
        real.says("Status update for node ours: status active", 1);
        (real, ours)
    }
}

fn copy(from: &str, to: &Path) {
    let status = Command::new("cp").args(["-a", from]).arg(to).status().unwrap();
    assert!(status.success(), "{from} is part of the package heartbeat");
}

fn in_namespace(namespace: &Namespace) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name()]);
    command
}

fn spawned(mut command: Command, out: &Path) -> Child {
    let file = || Stdio::from(fs::File::options().create(true).append(true).open(out).unwrap());
    command.stdin(Stdio::null()).stdout(file()).stderr(file()).spawn().unwrap()
}

#[test]
fn broadcast_sha1_a_whole_life() {
    let pair = Pair::new("bcast eth0", "1 sha1 cluster", "");
    let (real, ours) = pair.meet();
    // Its daemon answers clients a little later than its peers.
    let end = Instant::now() + LIMIT;
    while real.inside(&["cl_status", "nodestatus", "ours"]).trim() != "active" {
        assert!(Instant::now() < end, "heartbeat says that ours is active");
        std::thread::sleep(Duration::from_millis(100));
    }

    ours.kill();
    real.says("node ours: is dead", 1);
    let ours = pair.ours();
    real.says("Status update for node ours: status active", 2);
    ours.says("heartbeat: node real is up", 2);

    real.kill();
    ours.says("heartbeat: node real is late", 1);
    ours.says("heartbeat: node real is dead", 1);
    let real = pair.real();
    ours.says("heartbeat: node real is up", 3);
    real.says("Status update for node ours: status active", 3);

    ours.stop();
    real.says("Received shutdown notice from 'ours'", 1);
    let ours = pair.ours();
    ours.says("heartbeat: node real is up", 4);
    // It has known of the crash in the same words; of a goodbye it keeps "active" until the dead time is over.
    real.says("Heartbeat restart on node ours", 2);
    real.stop();
    ours.says("heartbeat: node real has left", 1);
    assert!(!ours.log().contains("refused"), "{}", ours.log());
}

/// Each sees the other come and die.
fn short_life(medium: &'static str, key: &'static str, more: &'static str) {
    let pair = Pair::new(medium, key, more);
    let (real, ours) = pair.meet();
    ours.kill();
    real.says("node ours: is dead", 1);
    let ours = pair.ours();
    ours.says("heartbeat: node real is up", 2);
    real.kill();
    ours.says("heartbeat: node real is dead", 1);
    assert!(!ours.log().contains("refused"), "{}", ours.log());
}

#[test]
fn unicast_md5() {
    short_life("ucast eth0 @", "1 md5 cluster", "");
}

#[test]
fn multicast_crc_netstring() {
    short_life("mcast eth0 239.0.0.42 694 1 0", "1 crc", "msgfmt netstring");
}

#[test]
fn a_wrong_key_is_refused_by_both() {
    let mut pair = Pair::new("bcast eth0", "1 sha1 cluster", "");
    pair.keys[1] = "1 sha1 other";
    let (real, ours) = (pair.real(), pair.ours());
    ours.says("the signature is wrong", 1);
    ours.says("heartbeat: node real is dead", 1);
    real.says("node ours: is dead", 1);
    assert!(!ours.log().contains("node real is up"), "{}", ours.log());
    assert!(!real.log().contains("Status update for node ours"), "{}", real.log());
}
