//! Real routers as processes: keepalived, and our own driver, which is this program again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use failover::driver::vrrp;
use model::config::{LoadError, LoadedFile, Loader};
use model::failover::load;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::Namespace;

/// Names the configuration of [`run_ours`].
const CONFIG: &str = "LOCKSTEP_TEST_VRRP_CONFIG";

/// Which program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Keepalived,
    Ours,
}

/// A running router; dropping it kills it.
pub struct Router {
    pub kind: Kind,
    child: Child,
    log: PathBuf,
    config: PathBuf,
}

impl Router {
    pub fn start(kind: Kind, namespace: &Namespace, file: &Path, config: &str) -> Router {
        let with = |extension: &str| file.with_extension(extension);
        fs::write(with("conf"), config).unwrap();
        // Pid files of one that was killed would keep the next one from starting (failover 9.4).
        let _ = (fs::remove_file(with("pid")), fs::remove_file(with("vrrp.pid")));
        let log = with("log");
        let file = || Stdio::from(fs::File::options().create(true).append(true).open(&log).unwrap());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace.name()]);
        match kind {
            Kind::Keepalived => {
                command.args(["keepalived", "-n", "-l", "-D", "-P", "-f"]).arg(with("conf"));
                command.arg("-p").arg(with("pid")).arg("-r").arg(with("vrrp.pid"));
            }
            Kind::Ours => {
                command.arg(std::env::current_exe().unwrap());
                command.args(["--exact", "our_router", "--nocapture"]).env(CONFIG, with("conf"));
            }
        }
        command.stdin(Stdio::null()).stdout(file()).stderr(file());
        Router { kind, child: command.spawn().unwrap(), config: with("conf"), log }
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it said this within ten seconds.
    pub fn says(&self, text: &str) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if self.log().contains(text) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// A crash: all of its processes at once, before one can do anything about the other's end.
    pub fn kill(&mut self) -> Instant {
        self.signal(Signal::SIGSTOP);
        let children = self.children();
        let at = Instant::now();
        children.iter().for_each(|pid| send(*pid, Signal::SIGKILL));
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
        at
    }

    /// A clean end.
    pub fn stop(&mut self) -> Instant {
        let at = Instant::now();
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap();
        at
    }

    /// Stops or continues all of its processes.
    pub fn pause(&self, paused: bool) {
        let signal = if paused { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.children().iter().chain([&self.pid()]).for_each(|pid| send(*pid, signal));
    }

    /// Another configuration.
    pub fn reload(&self, config: &str) {
        fs::write(&self.config, config).unwrap();
        self.signal(Signal::SIGHUP);
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    fn children(&self) -> Vec<Pid> {
        let pid = self.child.id();
        let all = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.split_whitespace().map(|word| Pid::from_raw(word.parse().unwrap())).collect()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- {:?} ({}):\n{}", self.kind, self.log.display(), self.log());
        }
    }
}

fn send(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
}

struct Files;

impl Loader for Files {
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
        let text = fs::read(path).map_err(|e| LoadError { reason: e.to_string() })?;
        Ok(LoadedFile { name: path.to_owned(), identity: path.to_owned(), text })
    }

    fn glob(&self, _pattern: &str) -> Vec<String> {
        Vec::new()
    }
}

/// A configuration from a file.
pub fn config(path: &str) -> model::failover::config::FailoverConfig {
    let loaded = load(&Files, path, None);
    loaded.unwrap_or_else(|all| panic!("{}", all.iter().map(ToString::to_string).collect::<String>())).config
}

/// If this program was started as a router: is one until SIGTERM, and gives true. SIGHUP: reads its configuration again.
pub fn run_ours() -> bool {
    let Ok(path) = std::env::var(CONFIG) else { return false };
    let _ = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::DEBUG).try_init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut term, mut hup) =
            (signal(SignalKind::terminate()).unwrap(), signal(SignalKind::hangup()).unwrap());
        let settings = vrrp::VrrpSettings {
            config: config(&path),
            bound: Vec::new(),
            address_lifetime: Duration::from_secs(1),
            gate: None,
            mailer: None,
        };
        let handle = vrrp::start(settings).await.unwrap();
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = hup.recv() => {
                    handle.commander().send(vrrp::Command::Reload(Box::new(config(&path)), Vec::new()));
                }
            }
        }
        handle.commander().stop().await;
    });
    true
}
