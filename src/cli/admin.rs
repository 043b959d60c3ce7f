//! The commands that the daemon runs, and those that fall back to the metadata on the disk when the daemon does
//! not have it attached (drbd-admin 3.6).

use std::path::Path;
use std::time::Duration;

use model::config::settings::GlobalOptions;

use super::client::{ANSWER_MAX, Client, ClientError, EXIT_NO_DAEMON};
use super::meta::Opts;
use super::metadata::{self, Attached, MetaCommand};
use crate::daemon::control::{Action, FailoverRequest, NOT_MINE, Outcome, Reply, Request};
use crate::daemon::site::{Site, select};

/// Runs `action` in the daemon of `run_dir`.
pub fn run(site: &Site, run_dir: &Path, action: Action, names: &[String]) -> Outcome {
    let mut client = match Client::connect(run_dir) {
        Ok(client) => client,
        Err(e) => return e.outcome(),
    };
    if let Err(e) = client.set_timeout(limit(site, action, names)) {
        return Outcome::failed(EXIT_NO_DAEMON, format!("the time of a command cannot be limited: {e}"));
    }
    client.run(action, names)
}

/// Asks the failover side of the daemon; a handler waits for as long as it takes.
pub fn failover(run_dir: &Path, request: FailoverRequest) -> Outcome {
    ask_failover(run_dir, request).unwrap_or_else(|e| e.outcome())
}

/// The same for a handler; none: there is no daemon, or it has nothing to do with the resource.
pub fn handler(run_dir: &Path, request: FailoverRequest) -> Option<Outcome> {
    match ask_failover(run_dir, request) {
        Ok(outcome) if outcome.exit_code == NOT_MINE => None,
        Ok(outcome) => Some(outcome),
        Err(ClientError::Unreachable { .. }) => None,
        // One that is there and says nothing may still have the lease.
        Err(e) => Some(e.outcome()),
    }
}

fn ask_failover(run_dir: &Path, request: FailoverRequest) -> Result<Outcome, ClientError> {
    let mut client = Client::connect(run_dir)?;
    let limit = match request {
        FailoverRequest::Status | FailoverRequest::History => Some(ANSWER_MAX),
        FailoverRequest::Order { .. } => Some(ORDER_MAX),
        FailoverRequest::FencePeer { .. } | FailoverRequest::UnfencePeer { .. } => None,
    };
    if let Err(e) = client.set_timeout(limit) {
        let text = format!("the time of a command cannot be limited: {e}");
        return Ok(Outcome::failed(EXIT_NO_DAEMON, text));
    }
    match client.ask(Request::Failover(request))? {
        Reply::Done(outcome) => Ok(outcome),
        _ => Ok(Outcome::failed(EXIT_NO_DAEMON, "the daemon answers something else")),
    }
}

/// How long a service may take to end, on order.
const ORDER_MAX: Duration = Duration::from_secs(600);

/// How long a command may take; none: for ever.
// spec: drbd-admin 2.5, 3.4: each step has its limit, and most commands have one for each volume
fn limit(site: &Site, action: Action, names: &[String]) -> Option<Duration> {
    if matches!(action, Action::Wait { .. }) {
        return None;
    }
    if action.only_prints() {
        return Some(ANSWER_MAX);
    }
    // Standard input may be a terminal where nobody types.
    let read = if site.config_file == "-" { None } else { site.read().ok() };
    let resources = read.map_or_else(Vec::new, |read| read.resources);
    let global = resources.first().map_or_else(GlobalOptions::default, |first| first.global.clone());
    let selected = select(&resources, names, &site.host).unwrap_or_default();
    let volumes: usize = selected.iter().map(|one| one.volumes().count()).sum();
    let steps = u32::try_from(volumes).unwrap_or(u32::MAX).max(1);
    let limit = global.cmd_timeout_medium.saturating_mul(steps);
    (!limit.is_zero()).then_some(limit)
}

/// A state change was refused.
const EXIT_REFUSED: u8 = 11;
/// No access to UpToDate data.
const EXIT_NO_DATA: u8 = 17;
/// The disk state is lower than Outdated.
const EXIT_LOWER: u8 = 5;

/// `invalidate`, `get-gi`, `show-gi`, `dstate`: the daemon's answer if it is one, else that of the metadata.
pub fn run_or_meta(
    site: &Site,
    run_dir: &Path,
    action: Action,
    meta: MetaCommand,
    names: &[String],
) -> Outcome {
    let asked = run(site, run_dir, action, names);
    if matches!(asked.exit_code, 0 | EXIT_REFUSED | EXIT_NO_DATA) {
        return asked;
    }
    let found = metadata::run(site, run_dir, names, &meta, &Opts::default());
    match found.exit_code {
        0 => found,
        // Neither knows: the word of the metadata counts, unless the configuration is not even readable.
        _ if asked.exit_code == EXIT_NO_DAEMON => found,
        _ => asked,
    }
}

/// `outdate`: prints nothing when the daemon refuses.
// spec: drbd-admin 3.6: 17 counts as done, everything else is tried on the metadata, after 5 without changing the status
pub fn outdate(site: &Site, run_dir: &Path, names: &[String]) -> Outcome {
    let asked = run(site, run_dir, Action::Outdate, names);
    let on_disk = |attached| {
        let what = MetaCommand::Outdate { attached };
        metadata::run(site, run_dir, names, &what, &Opts::default())
    };
    match asked.exit_code {
        0 => Outcome::default(),
        EXIT_LOWER => {
            // A volume without its disk is lower than Outdated, and that disk may say UpToDate when it is attached.
            on_disk(Attached::PassOver);
            Outcome { exit_code: EXIT_LOWER, ..Outcome::default() }
        }
        EXIT_NO_DATA | EXIT_REFUSED => Outcome { exit_code: asked.exit_code, ..Outcome::default() },
        _ => on_disk(Attached::Refuse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::WaitLimits;

    #[test]
    fn each_volume_has_the_time_that_the_file_gives_a_command() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("drbd.conf");
        let site = Site { config_file: file.to_str().unwrap().into(), host: "a".into() };
        let write = |global: &str| {
            let volume = |n| format!("volume {n} {{ device minor {n}; disk /dev/{n}; meta-disk internal; }}");
            let hosts = "on a { address 127.0.0.1:1; } on b { address 127.0.0.2:1; }";
            let text = format!("global {{ {global} }} resource r0 {{ {} {} {hosts} }}", volume(0), volume(1));
            std::fs::write(&file, text).unwrap();
        };
        let of = |action, name: &str| limit(&site, action, &[name.to_owned()]).map(|l| l.as_secs());
        write("");
        assert_eq!((of(Action::Up, "all"), of(Action::Attach, "r0/1")), (Some(1200), Some(600)));
        write("cmd-timeout-medium 7;");
        assert_eq!((of(Action::Up, "r0"), of(Action::Attach, "r0/1")), (Some(14), Some(7)));
        write("cmd-timeout-medium 0;");
        assert_eq!((of(Action::Up, "r0"), of(Action::Role, "r0")), (None, Some(ANSWER_MAX.as_secs())));
        write("frobnicate;");
        assert_eq!(
            of(Action::Primary { force: false }, "r0"),
            Some(600),
            "a broken file is no reason to hang"
        );
        assert_eq!(of(Action::Wait { sync: true, limits: WaitLimits::default() }, "r0"), None);
    }
}
