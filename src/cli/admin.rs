//! The commands that the daemon runs, and those that fall back to the metadata on the disk when the daemon does
//! not have it attached (drbd-admin 3.6).

use std::path::Path;

use super::client::Client;
use super::meta::Opts;
use super::metadata::{self, Attached, MetaCommand};
use crate::daemon::control::{Action, Outcome};
use crate::daemon::site::Site;

/// Runs `action` in the daemon of `run_dir`.
pub fn run(run_dir: &Path, action: Action, names: &[String]) -> Outcome {
    match Client::connect(run_dir) {
        Ok(mut client) => client.run(action, names),
        Err(e) => e.outcome(),
    }
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
    let asked = run(run_dir, action, names);
    if matches!(asked.exit_code, 0 | EXIT_REFUSED | EXIT_NO_DATA) {
        return asked;
    }
    let found = metadata::run(site, run_dir, names, &meta, &Opts::default());
    match found.exit_code {
        0 => found,
        // Neither knows: the word of the metadata counts, unless the configuration is not even readable.
        _ if asked.exit_code == super::client::EXIT_NO_DAEMON => found,
        _ => asked,
    }
}

/// `outdate`: prints nothing when the daemon refuses.
// spec: drbd-admin 3.6: 17 counts as done, everything else is tried on the metadata, after 5 without changing the status
pub fn outdate(site: &Site, run_dir: &Path, names: &[String]) -> Outcome {
    let asked = run(run_dir, Action::Outdate, names);
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
