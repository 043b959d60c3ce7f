//! What a step of a service does to this machine, apart from the resource and the addresses (failover 6.1, Chain).

use std::path::Path;
use std::process::Stdio;

use model::failover::config::{Command, Step, StepKind};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command as Process;
use tracing::info;

use failover::promote::chain::Verb;

/// Where resource agents are (Open Cluster Framework).
const OCF_ROOT: &str = "/usr/lib/ocf";

/// Name of a step in status and messages.
pub fn name(step: &Step) -> String {
    match &step.kind {
        StepKind::Mount { directory, .. } => format!("mount {directory}"),
        StepKind::Unit(unit) => format!("start {unit}"),
        StepKind::Command { name, .. } => format!("start {name}"),
        StepKind::Ocf { provider, agent, .. } => format!("start ocf:{provider}:{agent}"),
    }
}

/// Carries out one attempt. `device` is that of the resource's first volume.
///
/// # Errors
/// What went wrong, in words.
pub async fn run(step: &Step, verb: Verb, device: &str) -> Result<(), String> {
    match &step.kind {
        StepKind::Mount { device: from, directory, filesystem, options, checks_first } => {
            let from = if from == "resource" { device } else { from.as_str() };
            let mount = Mount { from, directory, filesystem, options, checks_first: *checks_first };
            mount.run(verb).await
        }
        StepKind::Unit(unit) => match verb {
            Verb::Start => program(&["systemctl", "start", unit], &[]).await,
            Verb::Stop => program(&["systemctl", "stop", unit], &[]).await,
            Verb::Look => is_active(unit).await,
            Verb::Kill => {
                // A unit that does not run cannot be killed, which is as good.
                let _ = program(&["systemctl", "kill", "-s", "KILL", unit], &[]).await;
                program(&["systemctl", "stop", unit], &[]).await
            }
        },
        StepKind::Command { start, stop, status, .. } => match (verb, stop) {
            (Verb::Start, _) => {
                if let Some(status) = status
                    && command(status).await.is_ok()
                {
                    return Ok(());
                }
                command(start).await
            }
            (Verb::Stop | Verb::Kill, Some(stop)) => command(stop).await,
            (Verb::Stop | Verb::Kill, None) => Ok(()),
            (Verb::Look, _) => match status {
                Some(status) => command(status).await,
                None => Ok(()),
            },
        },
        StepKind::Ocf { provider, agent, parameters } => {
            let path = format!("{OCF_ROOT}/resource.d/{provider}/{agent}");
            let action = match verb {
                Verb::Start => "start",
                Verb::Stop | Verb::Kill => "stop",
                Verb::Look => "monitor",
            };
            let mut environment = vec![("OCF_ROOT".to_owned(), OCF_ROOT.to_owned())];
            let keys = parameters.iter().map(|(key, value)| (format!("OCF_RESKEY_{key}"), value.clone()));
            environment.extend(keys);
            program(&[&path, action], &environment).await
        }
    }
}

struct Mount<'a> {
    from: &'a str,
    directory: &'a str,
    filesystem: &'a Option<String>,
    options: &'a Option<String>,
    checks_first: bool,
}

impl Mount<'_> {
    async fn run(&self, verb: Verb) -> Result<(), String> {
        let mounted = is_mounted(self.directory)?;
        match verb {
            Verb::Start | Verb::Look if mounted => Ok(()),
            Verb::Look => Err("it is not mounted".into()),
            Verb::Start => {
                if self.checks_first {
                    self.check().await?;
                }
                let mut words = vec!["mount"];
                if let Some(filesystem) = self.filesystem {
                    words.extend(["-t", filesystem]);
                }
                if let Some(options) = self.options {
                    words.extend(["-o", options]);
                }
                words.extend([self.from, self.directory]);
                program(&words, &[]).await
            }
            Verb::Stop | Verb::Kill if !mounted => Ok(()),
            Verb::Stop => program(&["umount", self.directory], &[]).await,
            Verb::Kill => program(&["umount", "-l", self.directory], &[]).await,
        }
    }

    /// 0: clean, 1: corrected (fsck(8)).
    async fn check(&self) -> Result<(), String> {
        let status = Process::new("fsck")
            .args(["-p", self.from])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|e| format!("fsck: {e}"))?;
        match status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(format!("fsck -p {}: {status}", self.from)),
        }
    }
}

fn is_mounted(directory: &str) -> Result<bool, String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("mountinfo: {e}"))?;
    let wanted = Path::new(directory);
    // proc_pid_mountinfo(5): the fifth word is the mount point, with octal escapes for blanks.
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.into_iter().any(|point| Path::new(&unescaped(point)) == wanted))
}

fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// systemctl(1): exit status 0 if it is active; what it prints is the state.
async fn is_active(unit: &str) -> Result<(), String> {
    let out = Process::new("systemctl")
        .args(["is-active", unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| format!("systemctl: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let state = String::from_utf8_lossy(&out.stdout);
    match state.lines().next().map(str::trim) {
        Some(state) if !state.is_empty() => Err(format!("it is {state}")),
        _ => Err(format!("systemctl is-active: {}", out.status)),
    }
}

async fn command(command: &Command) -> Result<(), String> {
    let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
    match &command.user {
        None => program(&words, &[]).await,
        Some(user) => {
            let mut as_user = vec!["runuser", "-u", user.split(' ').next().unwrap_or(user), "--"];
            as_user.extend(words);
            program(&as_user, &[]).await
        }
    }
}

/// Runs a program to its end; what it says on stderr is logged, and its last line is the reason if it fails.
async fn program(words: &[&str], environment: &[(String, String)]) -> Result<(), String> {
    let name = words[0];
    let mut child = Process::new(name)
        .args(&words[1..])
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("{name}: {e}"))?;
    let stderr = child.stderr.take().expect("it is piped");
    let said = tokio::task::spawn_local(last_line(stderr, name.to_owned()));
    let status = child.wait().await.map_err(|e| format!("{name}: {e}"))?;
    if status.success() {
        return Ok(());
    }
    // What it leaves running may hold the pipe open for ever.
    let last = tokio::time::timeout(std::time::Duration::from_millis(100), said).await;
    let last = last.ok().and_then(Result::ok).flatten();
    Err(match last {
        Some(line) => format!("{name}: {line}"),
        None => format!("{name}: {status}"),
    })
}

async fn last_line(stderr: tokio::process::ChildStderr, name: String) -> Option<String> {
    let mut lines = BufReader::new(stderr).lines();
    let mut last = None;
    while let Ok(Some(line)) = lines.next_line().await {
        info!("{name}: {line}");
        last = Some(line);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_blanks_are_found() {
        assert_eq!(unescaped("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(is_mounted("/proc"), Ok(true));
        assert_eq!(is_mounted("/no such place"), Ok(false));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_program_that_fails_tells_why() {
        let set = tokio::task::LocalSet::new();
        set.run_until(async {
            assert_eq!(program(&["true"], &[]).await, Ok(()));
            let said = program(&["sh", "-c", "echo first >&2; echo second >&2; exit 3"], &[]).await;
            assert_eq!(said, Err("sh: second".into()));
            assert!(program(&["/no/such/program"], &[]).await.unwrap_err().contains("No such file"));
        })
        .await;
    }
}
