//! From a volume's configuration to an opened disk: apply the activity log, read the metadata, claim the
//! devices (drbd-admin 3.6, `attach`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use blockdev::backing::{Backing, BackingError, OpenOptions, Part};
use model::config::settings::{MetaDisk, VolumeConfig};
use model::result_code::{self, ConfigError};
use replicator::AttachedDisk;
use replicator::meta::layout::{INDEXED_SLOT_SECTORS, MetaKind};

use super::control::Outcome;
use super::translate;
use crate::cli::meta::moving::{self, LastKnown};
use crate::cli::meta::{MetaError, MetaTarget, Prompt, apply};
use crate::dataplane::OpenedDisk;

/// Largest request a disk is given; the kernel splits further where it has to.
const MAX_BIO_BYTES: u32 = 1 << 20;

/// Where the metadata of a volume is; none for a volume without a disk.
pub fn meta_target(volume: &VolumeConfig) -> Option<MetaTarget> {
    let data = PathBuf::from(volume.disk.as_ref()?);
    let (meta, kind) = match &volume.meta_disk {
        MetaDisk::Internal => (data.clone(), MetaKind::Internal),
        MetaDisk::FlexibleExternal(device) => (device.into(), MetaKind::FlexibleExternal),
        MetaDisk::Indexed(device, index) => (device.into(), MetaKind::Indexed(*index)),
    };
    Some(MetaTarget { data, meta, kind })
}

/// Applies the activity log and opens the disk of `volume`, which has one. Blocks; the outcome is what the
/// command prints, also in the good case.
///
/// # Errors
/// What failed, with the exit status of drbdmeta for the activity log and of drbdsetup for the rest.
pub fn open(
    volume: &VolumeConfig,
    target: &MetaTarget,
    state_dir: &Path,
) -> Result<(OpenedDisk, Outcome), Outcome> {
    let mut said = Captured::default();
    let record = LastKnown::of(state_dir, &target.meta);
    let applied = moving::follow_growth(target, &record).and_then(|_| apply::apply_al(target, &mut said));
    let mut outcome = said.into_outcome();
    match applied {
        Ok(0) => {}
        Ok(exit_code) => {
            outcome.exit_code = exit_code;
            return Err(outcome);
        }
        Err(e) => {
            outcome.absorb(Outcome::failed(e.exit_code(), e.to_string()));
            return Err(outcome);
        }
    }
    let loaded = apply::load_for_attach(target).map_err(|e| meta_refused(volume, &e))?;
    let attached = AttachedDisk {
        super_block: loaded.superblock,
        layout: loaded.layout,
        capacity_sectors: loaded.usable_sectors,
        bitmap_words: loaded.bitmap,
        config: translate::disk_config(&volume.disk_options),
        max_bio_bytes: MAX_BIO_BYTES,
    };
    // The claim of the metadata reader ends here, for the disk is claimed once more and for good. Should
    // another process slip in between, it holds the claim and this open fails.
    drop(loaded.claim);
    let data =
        OpenOptions::default().open(&target.data).map_err(|e| disk_refused(volume, &e, DATA_ERRORS))?;
    let claim_meta = |part| {
        let options = OpenOptions { part, ..OpenOptions::default() };
        options.open(&target.meta).map(Some).map_err(|e| disk_refused(volume, &e, META_ERRORS))
    };
    let meta: Option<Backing> = match target.kind {
        MetaKind::Internal => None,
        MetaKind::FlexibleExternal => claim_meta(None)?,
        MetaKind::Indexed(slot) => claim_meta(Some(slot_part(slot)))?,
    };
    remember(target, state_dir);
    Ok((OpenedDisk { attached, data, meta }, outcome))
}

/// What the metadata tools lock, too.
fn slot_part(slot: u32) -> Part {
    let len_bytes = INDEXED_SLOT_SECTORS * 512;
    Part { offset_bytes: u64::from(slot) * len_bytes, len_bytes }
}

/// Notes where the metadata is. Without the note it is not found again should the device grow while it is detached,
/// which is no reason to refuse it now.
pub fn remember(target: &MetaTarget, state_dir: &Path) {
    if let Err(error) = moving::remember(target, &LastKnown::of(state_dir, &target.meta)) {
        tracing::warn!("{}: its size is not noted: {error}", target.meta.display());
    }
}

/// In use, cannot be opened, neither device nor file.
const DATA_ERRORS: [ConfigError; 3] =
    [ConfigError::BdclaimDisk, ConfigError::OpenDisk, ConfigError::DiskNotBdev];
const META_ERRORS: [ConfigError; 3] =
    [ConfigError::BdclaimMdDisk, ConfigError::OpenMdDisk, ConfigError::MdNotBdev];

fn disk_refused(volume: &VolumeConfig, e: &BackingError, [in_use, open, kind]: [ConfigError; 3]) -> Outcome {
    let code = match e {
        BackingError::InUse { .. } => in_use,
        BackingError::WrongKind { .. } => kind,
        BackingError::Io { .. } => open,
    };
    refused(volume, code.number(), &e.to_string())
}

fn meta_refused(volume: &VolumeConfig, e: &MetaError) -> Outcome {
    refused(volume, i32::from(e.attach_error()), &e.to_string())
}

fn refused(volume: &VolumeConfig, number: i32, info: &str) -> Outcome {
    let object = volume.minor.to_string();
    let text = result_code::message(number, &object, Some(info)).unwrap_or_default();
    Outcome::failed(result_code::exit_code(number), text)
}

/// Collects what a metadata command prints; nobody is there to answer.
#[derive(Default)]
pub(crate) struct Captured {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Captured {
    /// What was printed.
    pub(crate) fn into_outcome(self) -> Outcome {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Outcome { exit_code: 0, out: text(self.out), err: text(self.err) }
    }
}

impl Prompt for Captured {
    fn out(&mut self) -> &mut dyn Write {
        &mut self.out
    }

    fn err(&mut self) -> &mut dyn Write {
        &mut self.err
    }

    fn is_terminal(&self) -> bool {
        false
    }

    fn read_line(&mut self) -> io::Result<String> {
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    use model::config::{LoadError, LoadedFile, Loader};

    use super::*;
    use crate::cli::meta::{Opts, create};

    struct OneFile(String);

    impl Loader for OneFile {
        fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
            let text = self.0.clone().into_bytes();
            Ok(LoadedFile { name: path.into(), identity: path.into(), text })
        }

        fn glob(&self, _pattern: &str) -> Vec<String> {
            Vec::new()
        }
    }

    #[test]
    fn volumes_with_metadata_on_one_device_are_attached_together_and_guarded_from_the_tools() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |name: &str, bytes| {
            let path = dir.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
            path.display().to_string()
        };
        let meta = disk("meta", 256 << 20);
        let volume = |n: usize| {
            let data = disk(&format!("data{n}"), 4 << 20);
            format!("volume {n} {{ device /dev/drbd{n}; disk {data}; meta-disk {meta}[{n}]; }}")
        };
        let text = format!(
            "resource r0 {{ {} {} on a {{ address 127.0.0.1:7788; }} on b {{ address 127.0.0.1:7789; }} }}",
            volume(0),
            volume(1)
        );
        let config = model::config::load(&OneFile(text), &["r0.res"]).unwrap();
        let resource = model::config::resolve(&config, "a", None).unwrap().remove(0);
        let volumes: Vec<_> = resource.volumes.iter().map(|v| (v, meta_target(v).unwrap())).collect();
        let force = Opts { force: true, ..Opts::default() };
        for (_, target) in &volumes {
            assert_eq!(create::create_md(target, &force, &mut Captured::default()).unwrap(), 0);
        }
        let attached: Vec<_> =
            volumes.iter().map(|(v, target)| open(v, target, dir.path()).unwrap()).collect();
        let error = create::create_md(&volumes[1].1, &force, &mut Captured::default()).unwrap_err();
        assert!(matches!(error, MetaError::Busy(_)), "{error}");
        drop(attached);
        assert_eq!(create::create_md(&volumes[1].1, &force, &mut Captured::default()).unwrap(), 0);
    }
}
