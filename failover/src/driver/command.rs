//! Commands of the configuration as processes: their user, their group of processes, their end.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use model::failover::config::Command;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Gid, Group, Pid, Uid, User};
use tokio::process::Child;

/// Who runs commands that name nobody, and what is refused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Policy {
    /// `script_user`.
    pub user: Option<String>,
    /// `enable_script_security`: root runs nothing that others could have written.
    pub security: bool,
}

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// Its user or group is not known here.
    #[error("{program}: there is no user or group '{name}'")]
    Unknown { program: String, name: String },
    /// `enable_script_security`.
    #[error("{program}: others than root may write {path}, so root does not run it")]
    Insecure { program: String, path: String },
    /// It cannot be started.
    #[error("{program}: {source}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// With exit code 0.
    Success,
    /// Otherwise.
    Failure,
    /// It ran for too long, and was killed.
    TimedOut,
}

/// Starts a command in a group of processes of its own, without input and output.
pub(super) fn start(command: &Command, policy: &Policy) -> Result<Child, CommandError> {
    let program = command.words.first().cloned().unwrap_or_default();
    let user = command.user.as_ref().or(policy.user.as_ref());
    let ids = user.map(|user| ids_of(user, &program)).transpose()?;
    let is_root = ids.map_or_else(|| Uid::effective().is_root(), |(uid, _)| uid.is_root());
    let loose = || writable_by_others(Path::new(&program));
    if let Some(path) = (policy.security && is_root).then(loose).flatten() {
        return Err(CommandError::Insecure { program, path });
    }
    let mut process = tokio::process::Command::new(&program);
    process.args(command.words.iter().skip(1));
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A whole group, so that what a script has started can be ended with it.
    process.process_group(0);
    if let Some((uid, gid)) = ids.filter(|(uid, _)| *uid != Uid::effective()) {
        process.uid(uid.as_raw()).gid(gid.as_raw());
    }
    process.spawn().map_err(|source| CommandError::Start { program, source })
}

/// Runs a command to its end.
pub(super) async fn run(
    command: &Command,
    policy: &Policy,
    timeout: Duration,
) -> Result<Outcome, CommandError> {
    let mut child = start(command, policy)?;
    match tokio::time::timeout(timeout, child.wait()).await {
        Ok(status) => Ok(if status.is_ok_and(|s: ExitStatus| s.success()) {
            Outcome::Success
        } else {
            Outcome::Failure
        }),
        Err(_) => {
            kill_group(&child);
            // It is dead, or the kernel cannot end it, which is nothing to wait for.
            let _ = tokio::time::timeout(Duration::from_millis(100), child.wait()).await;
            Ok(Outcome::TimedOut)
        }
    }
}

/// Ends a command that was not waited for, with what it has started.
pub(super) fn kill_group(child: &Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// `USER [GROUP]`.
fn ids_of(user: &str, program: &str) -> Result<(Uid, Gid), CommandError> {
    let unknown = |name: &str| CommandError::Unknown { program: program.to_owned(), name: name.to_owned() };
    let mut words = user.split_whitespace();
    let name = words.next().unwrap_or_default();
    let user = User::from_name(name).ok().flatten().ok_or_else(|| unknown(name))?;
    let gid = match words.next() {
        Some(name) => Group::from_name(name).ok().flatten().ok_or_else(|| unknown(name))?.gid,
        None => user.gid,
    };
    Ok((user.uid, gid))
}

/// The first part of a path that somebody else than root may replace.
fn writable_by_others(program: &Path) -> Option<String> {
    let real = program.canonicalize().ok()?;
    let loose = |path: &&Path| {
        // A directory where everybody removes only what is theirs does not let others replace a file of root's.
        path.metadata().is_ok_and(|m| m.uid() != 0 || (m.mode() & 0o022 != 0 && m.mode() & 0o1000 == 0))
    };
    real.ancestors().find(loose).map(|path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Command {
        Command { words: words.iter().map(|w| (*w).to_owned()).collect(), user: None }
    }

    fn outcome(words: &[&str], policy: &Policy) -> Result<Outcome, CommandError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&command(words), policy, Duration::from_millis(300)))
    }

    #[test]
    fn a_command_ends_well_badly_or_too_late() {
        let policy = Policy::default();
        assert_eq!(outcome(&["/bin/true"], &policy).unwrap(), Outcome::Success);
        assert_eq!(outcome(&["/bin/sh", "-c", "exit 3"], &policy).unwrap(), Outcome::Failure);
        assert_eq!(outcome(&["/bin/sh", "-c", "sleep 20"], &policy).unwrap(), Outcome::TimedOut);
        assert!(matches!(outcome(&["/no/such/program"], &policy), Err(CommandError::Start { .. })));
    }

    #[test]
    fn a_user_that_does_not_exist_is_named() {
        let policy = Policy { user: Some("nobody-of-this-name".into()), security: false };
        let error = outcome(&["/bin/true"], &policy).unwrap_err().to_string();
        assert_eq!(error, "/bin/true: there is no user or group 'nobody-of-this-name'");
    }
}
