//! The two nodes of the demo: their files, their daemons as processes, and the commands sent to them.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use model::config::quote;
use model::state::{ConnState, DiskState};
use model::status::{ResourceSnapshot, VolumeSnapshot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::say::Say;
use super::workload::device_socket;
use crate::cli::client::Client;
use crate::daemon::control::{Action, Outcome};

/// The demo's only resource.
pub const RESOURCE: &str = "r0";
/// First line of the file by which the demo knows its own directory.
const MARK: &str = "# The two nodes of 'lockstep demo', both on this machine.";
/// Names what was made completely: without it everything is made anew.
const READY_NAME: &str = "ready";
const PORTS: u16 = 4;

/// Limits of waiting: a daemon that starts, one that stops, a state that is reached.
const START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Set by Ctrl-C.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C was typed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Fails once Ctrl-C was typed.
///
/// # Errors
/// [`Interrupted`].
pub fn check_interrupt() -> Result<(), Interrupted> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
}

/// Sleeps in small pieces, so that Ctrl-C ends it.
///
/// # Errors
/// [`Interrupted`].
pub fn pause(time: Duration) -> Result<(), Interrupted> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        check_interrupt()?;
        std::thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
    }
    check_interrupt()
}

/// Both nodes and where they live.
pub struct Pair {
    /// Absolute.
    pub dir: PathBuf,
    /// node1 and node2.
    pub nodes: [Node; 2],
    /// Nothing was there before.
    pub is_new: bool,
}

/// One node: a directory, and a daemon while it runs.
pub struct Node {
    /// `node1`, `node2`.
    pub name: &'static str,
    dir: PathBuf,
    config: PathBuf,
    exe: PathBuf,
    daemon: Option<(Child, ChildStdin)>,
}

impl Pair {
    /// Makes directory, disks and configuration, or takes over what an earlier run left.
    ///
    /// # Errors
    /// The directory belongs to something else, ports are taken, or files cannot be made.
    pub fn prepare(dir: &Path, size_bytes: u64, port_base: u16) -> anyhow::Result<Pair> {
        let last = port_base.checked_add(PORTS - 1).context("--port-base is too large")?;
        for port in port_base..=last {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .with_context(|| format!("port {port} is taken; choose others with --port-base"))?;
        }
        let config = dir.join("r0.res");
        if let Ok(mut entries) = fs::read_dir(dir) {
            let own = fs::read_to_string(&config).is_ok_and(|text| text.starts_with(MARK));
            ensure!(
                own || entries.next().is_none(),
                "{} holds something else; choose another --dir",
                dir.display()
            );
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let config = dir.join("r0.res");
        let exe = std::env::current_exe().context("cannot find the own program")?;
        let is_new = !dir.join(READY_NAME).exists();
        let node = |name: &'static str| Node {
            name,
            dir: dir.join(name),
            config: config.clone(),
            exe: exe.clone(),
            daemon: None,
        };
        let pair = Pair { nodes: [node("node1"), node("node2")], is_new, dir: dir.clone() };
        for (index, node) in pair.nodes.iter().enumerate() {
            fs::create_dir_all(&node.dir)?;
            if is_new {
                make_disk(&node.disk(), size_bytes)?;
            }
            // Index 0 or 1.
            let nbd_port = port_base + 2 + index as u16;
            fs::write(node.settings(), node.settings_text(nbd_port))?;
        }
        fs::write(&config, pair.config_text(port_base)).context("cannot write the configuration")?;
        Ok(pair)
    }

    /// From now on the data is kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn mark_ready(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.dir.join(READY_NAME))?;
        Ok(file
            .write_all(b"The disks are set up; the demo keeps them. Remove the directory to start over.\n")?)
    }

    fn config_text(&self, port_base: u16) -> String {
        let disk = |index: usize| quote(&self.nodes[index].disk().to_string_lossy()).into_owned();
        format!(
            "{MARK}
# On two machines this file would be the same on both; only names and addresses differ.
global {{
    usage-count no;
}}
resource {RESOURCE} {{
    protocol C;                     # a write is done when it is on both disks
    net {{
        cram-hmac-alg sha1;         # the nodes prove to each other that they know the secret
        shared-secret \"lockstep-demo\";
        connect-int 3;              # seconds between attempts to connect
    }}
    disk {{
        resync-rate 100M;           # per second
        c-plan-ahead 0;             # a fixed rate, no controller
    }}
    device /dev/drbd0;
    meta-disk internal;
    on node1 {{
        disk {disk0};
        address 127.0.0.1:{port0};
    }}
    on node2 {{
        disk {disk1};
        address 127.0.0.1:{port1};
    }}
}}
",
            disk0 = disk(0),
            disk1 = disk(1),
            port0 = port_base,
            port1 = port_base + 1,
        )
    }
}

/// A file with room for the data and its metadata at the end: super block, activity log and bitmap.
fn make_disk(path: &Path, size_bytes: u64) -> anyhow::Result<()> {
    const LOG_BYTES: u64 = 4096 + 32768;
    const DATA_BYTES_PER_BITMAP_BYTE: u64 = 32768;
    let bitmap_bytes = (size_bytes / DATA_BYTES_PER_BITMAP_BYTE).next_multiple_of(4096) + 4096;
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let whole = size_bytes.next_multiple_of(4096) + bitmap_bytes + LOG_BYTES;
    file.set_len(whole).with_context(|| format!("cannot make {} so large", path.display()))
}

impl Node {
    /// The backing file.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    /// Its run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What its daemon said.
    pub fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Its NBD socket.
    pub fn device(&self) -> PathBuf {
        device_socket(&self.run_dir(), RESOURCE)
    }

    fn settings(&self) -> PathBuf {
        self.dir.join("lockstep.toml")
    }

    fn settings_text(&self, nbd_port: u16) -> String {
        // A JSON string is a TOML string too.
        let run_dir = serde_json::Value::from(self.run_dir().to_string_lossy());
        format!(
            "# What DRBD's files have no word for, for {name}.\n\
             run-dir = {run_dir}\n\
             log = \"info\"\n\
             pool-size = \"64M\"\n\n\
             [resource.{RESOURCE}]\n\
             nbd-listen = \"127.0.0.1:{nbd_port}\"    # NBD over TCP, besides the socket in run-dir\n",
            name = self.name,
        )
    }

    fn own_command(&self) -> Command {
        let mut command = Command::new(&self.exe);
        for name in ["LOCKSTEP_CONFIG", "LOCKSTEP_HOST", "LOCKSTEP_RUN_DIR", "LOCKSTEP_TOML"] {
            command.env_remove(name);
        }
        command.arg("--config").arg(&self.config).args(["--host", self.name]);
        command.arg("--settings").arg(self.settings());
        command
    }

    /// Makes new metadata.
    ///
    /// # Errors
    /// The command failed; its words are in the error.
    pub fn create_md(&self, say: &mut Say) -> anyhow::Result<()> {
        say.command(&format!("lockstep create-md {RESOURCE}        # on {}", self.name));
        let output = self.own_command().args(["create-md", "--force", RESOURCE]).output()?;
        ensure!(
            output.status.success(),
            "create-md on {} ended with {}: {}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It does not start; the end of its log is in the error.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        // A group of its own: Ctrl-C is for the demo alone, which then stops the daemons in order. Should the
        // demo itself be killed, the end of standard input stops them.
        let mut child = self
            .own_command()
            .args(["daemon", "--exit-with-stdin"])
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot start the daemon")?;
        let stdin = child.stdin.take().context("the daemon has no standard input")?;
        self.daemon = Some((child, stdin));
        let end = Instant::now() + START_MAX;
        loop {
            check_interrupt()?;
            if Client::connect(&self.run_dir()).is_ok() {
                return Ok(());
            }
            if let Some((child, _)) = &mut self.daemon
                && let Some(status) = child.try_wait()?
            {
                self.daemon = None;
                bail!("the daemon of {} ended at once ({status}): {}", self.name, self.log_end());
            }
            ensure!(Instant::now() < end, "the daemon of {} does not answer: {}", self.name, self.log_end());
            std::thread::sleep(POLL);
        }
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// The process of the daemon, if it was started.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(|(child, _)| child.id())
    }

    /// Pulls the plug: SIGKILL, nothing is told to anybody.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some((mut child, _stdin)) = self.daemon.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks the daemon to stop and waits for it.
    ///
    /// # Errors
    /// It did not stop in time and was killed, or it complained.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let Some((mut child, _stdin)) = self.daemon.take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let _ = kill(pid, Signal::SIGTERM);
        let end = Instant::now() + STOP_MAX;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the daemon of {} ended with {status}", self.name);
                return Ok(());
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("the daemon of {} did not stop and was killed", self.name);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Runs a command in the daemon.
    pub fn run(&self, action: Action) -> Outcome {
        match self.client() {
            Ok(mut client) => client.run(action, &[RESOURCE.to_owned()]),
            Err(e) => Outcome::failed(20, format!("{e:#}")),
        }
    }

    /// Shows a command and runs it.
    ///
    /// # Errors
    /// It ended with another status than 0.
    pub fn must(&self, say: &mut Say, line: &str, action: Action) -> anyhow::Result<()> {
        say.command(&format!("lockstep {line} {RESOURCE}        # on {}", self.name));
        let outcome = self.run(action);
        if outcome.exit_code == 0 {
            return Ok(());
        }
        Err(anyhow!("'{line}' on {} ended with {}: {}", self.name, outcome.exit_code, outcome.err.trim_end()))
    }

    fn client(&self) -> anyhow::Result<Client> {
        let mut client = Client::connect(&self.run_dir())?;
        client.set_timeout(Some(ANSWER_MAX))?;
        Ok(client)
    }

    /// Its state.
    ///
    /// # Errors
    /// It is not up or does not answer.
    pub fn state(&self) -> anyhow::Result<ResourceSnapshot> {
        let found = self.client()?.status(&[RESOURCE.to_owned()]);
        let found = found.map_err(|e| anyhow!("{}: {}", self.name, e.err.trim_end()))?;
        found.into_iter().next().with_context(|| format!("{} has no resource", self.name))
    }

    /// State of its volume.
    ///
    /// # Errors
    /// As [`Node::state`].
    pub fn volume(&self) -> anyhow::Result<VolumeSnapshot> {
        self.state()?.volumes.into_iter().next().context("the resource has no volume")
    }

    /// Waits until `reached`; `each` sees every state on the way.
    ///
    /// # Errors
    /// Not reached within `limit`, Ctrl-C, or the daemon has gone.
    pub fn wait(
        &self,
        what: &str,
        limit: Duration,
        reached: impl Fn(&VolumeSnapshot) -> bool,
        mut each: impl FnMut(&VolumeSnapshot),
    ) -> anyhow::Result<VolumeSnapshot> {
        let end = Instant::now() + limit;
        loop {
            check_interrupt()?;
            let state = self.state()?;
            let reason = state.standalone_reason.clone();
            let volume = state.volumes.into_iter().next().context("the resource has no volume")?;
            each(&volume);
            if reached(&volume) {
                return Ok(volume);
            }
            let s = &volume.state;
            ensure!(
                Instant::now() < end,
                "{}: {what} not reached in {} s; it is {} {}/{} {}/{} {}",
                self.name,
                limit.as_secs(),
                s.conn,
                s.role,
                s.peer,
                s.disk,
                s.pdsk,
                reason.unwrap_or_default()
            );
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Both copies are good and connected.
pub fn in_sync(v: &VolumeSnapshot) -> bool {
    v.state.conn == ConnState::Connected
        && v.state.disk == DiskState::UpToDate
        && v.state.pdsk == DiskState::UpToDate
}
