//! A driver in a process of its own, which can be killed: this program once more, with a configuration in its environment.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use failover::driver::now;
use failover::driver::vrrp::{Notice, VrrpSettings, start};
use model::time::Instant;
use tempfile::TempDir;
use tokio::task::LocalSet;

use crate::driver::{config_of, settings};
use crate::support::{Namespace, until};

const CONFIG: &str = "LOCKSTEP_TEST_GATE_CONFIG";
const GATE_MS: &str = "LOCKSTEP_TEST_GATE_MS";

/// How often it renews.
const RENEW_EVERY: Duration = Duration::from_millis(50);
/// How old its decisions are when the driver hears of them: the gate counts from the decision.
const WAITED: Duration = Duration::from_millis(60);

/// If this program was started as a router: is one until it is killed.
pub fn run_if_asked() {
    let Ok(path) = std::env::var(CONFIG) else { return };
    let gate = std::env::var(GATE_MS).ok().map(|ms| Duration::from_millis(ms.parse().unwrap()));
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let config = config_of(&std::fs::read_to_string(path).unwrap());
        let settings = settings(config, &["VI_1"]);
        let lifetime = Duration::from_secs(30);
        let mut handle = start(VrrpSettings { address_lifetime: lifetime, gate, ..settings }).await.unwrap();
        println!("GATE {:?}", handle.gate());
        let commander = handle.commander();
        loop {
            println!("DECIDED {}", now().as_nanos());
            match commander.grant("VI_1").await {
                Ok(()) => println!("OPEN"),
                Err(why) => {
                    println!("REFUSED {why}");
                    tokio::time::sleep(RENEW_EVERY).await;
                    continue;
                }
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep(RENEW_EVERY) => {
                        let decided = now() - WAITED;
                        // Said first: nothing is done by a decision that nobody knows of.
                        println!("DECIDED {}", decided.as_nanos());
                        commander.send_decided(decided, failover::driver::vrrp::Command::Renew("VI_1".into()));
                    }
                    notice = handle.notice() => {
                        if let Some(Notice::RoleLost { instance, why }) = notice {
                            println!("LOST {instance} {why}");
                            break;
                        }
                    }
                }
            }
        }
    });
}

/// A process that is one; killed when it is dropped.
pub struct Router {
    child: Child,
    directory: TempDir,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    /// Lines that were waited for.
    read: usize,
}

impl Router {
    /// Starts one, with all programs or those of a directory.
    pub fn start(
        namespace: &Namespace,
        config: &str,
        gate: Option<Duration>,
        programs: Option<&Path>,
    ) -> Router {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace.name()]).arg(std::env::current_exe().unwrap());
        command.args(["a_router_of_its_own", "--exact", "--nocapture"]).env(CONFIG, path);
        if let Some(gate) = gate {
            command.env(GATE_MS, gate.as_millis().to_string());
        }
        if let Some(programs) = programs {
            command.env("PATH", programs);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (said, theirs) = (child.stdout.take().unwrap(), lines.clone());
        let read = move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                theirs.lock().unwrap().push(line);
            }
        };
        let reader = Some(std::thread::spawn(read));
        Router { child, directory, lines, reader, read: 0 }
    }

    /// Waits for a line, behind the one that was waited for before.
    pub async fn wait_for(&mut self, start: &str) {
        let (lines, from) = (self.lines.clone(), self.read);
        let mut found = 0;
        until(&format!("the router says {start}, {}", self.directory.path().display()), async || {
            let at = lines.lock().unwrap()[from..].iter().position(|line| line.contains(start));
            found = from + at.unwrap_or_default() + 1;
            at.is_some()
        })
        .await;
        self.read = found;
    }

    /// Kills it, and reads what it has said.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }

    /// Stops it, until it is killed.
    pub fn stop(&self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    }

    /// Its last decision.
    pub fn decided(&self) -> Instant {
        let lines = self.lines.lock().unwrap();
        let last = lines.iter().rev().find_map(|line| line.strip_prefix("DECIDED "));
        Instant(last.unwrap().parse().unwrap())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is.
pub fn program(name: &str) -> PathBuf {
    let places = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    places.iter().map(|place| place.join(name)).find(|path| path.exists()).unwrap()
}

/// A directory with these programs and no others.
pub fn programs(names: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        std::os::unix::fs::symlink(program(name), directory.path().join(name)).unwrap();
    }
    directory
}
