//! `create-md`, `dump-md` and their kin for resources by name: finds devices in the configuration and leaves the
//! work to [`super::meta`]. They touch disks that no daemon has attached.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{fs, io};

use model::config::settings::VolumeConfig;
use model::state::DiskState;

use super::client::Client;
use super::meta::moving::{self, LastKnown};
use super::meta::{MetaError, MetaTarget, Opts, apply, commands, create, restore};
use super::terminal::Terminal;
use crate::daemon::control::Outcome;
use crate::daemon::disk::{Captured, meta_target};
use crate::daemon::site::{Selected, Site, select};

/// What is done to the metadata of each volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// New metadata.
    Create,
    /// Print all of it.
    Dump,
    /// Write what a dump says; the file, `-` for standard input.
    Restore(String),
    /// Print the generations in one line.
    GetGi,
    /// Print the generations with explanations.
    ShowGi,
    /// Print the disk state it implies.
    Dstate,
    /// Replay the activity log.
    ApplyAl,
    /// Destroy it.
    Wipe,
    /// Find it again where its device ended before, and move it to the end.
    CheckResize {
        /// Where the sizes of devices are noted.
        state_dir: PathBuf,
    },
    /// Mark the data as outdated.
    Outdate {
        /// What about volumes that the daemon has answered for.
        attached: Attached,
    },
    /// Mark the data as inconsistent.
    Invalidate,
}

/// What a command does with a volume whose disk the daemon has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// It ends with an error.
    Refuse,
    /// It goes on with the next one.
    PassOver,
}

/// Longest dump that is read.
const DUMP_BYTES_MAX: u64 = 256 << 20;
/// The device is attached, or the tool cannot work.
const EXIT_CANNOT: u8 = 20;

/// Runs `what` for the volumes named; prints itself, since it may ask questions.
pub fn run(site: &Site, run_dir: &Path, names: &[String], what: &MetaCommand, opts: &Opts) -> Outcome {
    let selected = match site.read().and_then(|read| select(&read.resources, names, &site.host)) {
        Ok(selected) => selected,
        Err(refused) => return refused,
    };
    let mut all = Outcome::default();
    for one in &selected {
        all.absorb(run_volumes(one, run_dir, what, opts));
        if all.exit_code >= EXIT_CANNOT {
            break;
        }
    }
    all
}

fn run_volumes(one: &Selected, run_dir: &Path, what: &MetaCommand, opts: &Opts) -> Outcome {
    let mut all = Outcome::default();
    for (_, volume) in one.volumes() {
        let Some(target) = meta_target(volume) else { continue };
        let reads_only = matches!(
            what,
            MetaCommand::Dump | MetaCommand::GetGi | MetaCommand::ShowGi | MetaCommand::Dstate
        );
        if !reads_only && is_attached(run_dir, &one.resource.name, volume) {
            if matches!(what, MetaCommand::Outdate { attached: Attached::PassOver }) {
                continue;
            }
            all.absorb(Outcome::failed(EXIT_CANNOT, format!("Device '{}' is configured!", volume.minor)));
            break;
        }
        match run_target(&target, what, opts) {
            Ok(exit_code) => all.exit_code = all.exit_code.max(exit_code),
            Err(e) => all.absorb(Outcome::failed(e.exit_code(), e.to_string())),
        }
        if all.exit_code != 0 {
            break;
        }
    }
    all
}

fn run_target(target: &MetaTarget, what: &MetaCommand, opts: &Opts) -> Result<u8, MetaError> {
    let io = &mut Terminal::new();
    match what {
        MetaCommand::Create => {
            let exit_code = create::create_md(target, opts, io)?;
            if exit_code == 0 {
                ensure_device_uuid(target)?;
            }
            Ok(exit_code)
        }
        MetaCommand::Dump => commands::dump_md(target, opts, io),
        MetaCommand::Restore(file) => restore::restore_md(target, opts, &read_dump(file)?, io),
        MetaCommand::GetGi => commands::get_gi(target, io),
        MetaCommand::ShowGi => commands::show_gi(target, io),
        MetaCommand::Dstate => commands::dstate(target, io),
        MetaCommand::ApplyAl => apply::apply_al(target, io),
        MetaCommand::Wipe => create::wipe_md(target, opts, io),
        MetaCommand::CheckResize { state_dir } => {
            let record = LastKnown::of(state_dir, &target.meta);
            moving::follow_growth(target, &record)?;
            match moving::remember(target, &record) {
                Err(MetaError::NoMetaData) => Err(MetaError::Value("no suitable meta data found :(".into())),
                other => other.map(|()| 0),
            }
        }
        MetaCommand::Outdate { .. } => commands::outdate(target, io),
        MetaCommand::Invalidate => commands::invalidate(target),
    }
}

/// A daemon of this run directory has the volume attached. Other daemons are kept out by the claim on the disk.
fn is_attached(run_dir: &Path, resource: &str, volume: &VolumeConfig) -> bool {
    let Ok(mut client) = Client::connect(run_dir) else { return false };
    let Ok(snapshots) = client.status(&[resource.to_owned()]) else { return false };
    let volumes = snapshots.iter().flat_map(|r| &r.volumes);
    volumes.filter(|v| v.vnr == volume.volume.0).any(|v| v.state.disk != DiskState::Diskless)
}

// spec: drbd-admin 3.9: after create-md the device gets an identity of its own
fn ensure_device_uuid(target: &MetaTarget) -> Result<(), MetaError> {
    let mut said = Captured::default();
    commands::read_dev_uuid(target, &mut said)?;
    if said.into_outcome().out.trim().bytes().any(|digit| digit != b'0') {
        return Ok(());
    }
    let mut random = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    commands::write_dev_uuid(target, &format!("{:016X}", u64::from_le_bytes(random) | 1))?;
    Ok(())
}

fn read_dump(file: &str) -> io::Result<String> {
    let source: Box<dyn Read> =
        if file == "-" { Box::new(io::stdin()) } else { Box::new(fs::File::open(file)?) };
    let mut text = String::new();
    source.take(DUMP_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
