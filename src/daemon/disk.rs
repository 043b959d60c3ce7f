//! From a volume's configuration to an opened disk: apply the activity log, read the metadata, claim the
//! devices (drbd-admin 3.6, `attach`).

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use blockdev::backing::{Backing, BackingError, OpenOptions, Part};
use model::config::settings::{MetaDisk, VolumeConfig};
use model::result_code::{self, ConfigError};
use replicator::AttachedDisk;
use replicator::meta::layout::{INDEXED_SLOT_SECTORS, MetaKind};

use super::control::Outcome;
use super::translate;
use crate::cli::meta::device::{CLAIM_PATIENCE, CLAIM_RETRY};
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
    // Claimed first, and for good: what another command changed behind the reader would be undone by the attach.
    let data = claim(&target.data, None).map_err(|e| disk_refused(volume, &e, DATA_ERRORS))?;
    let claim_meta =
        |part| claim(&target.meta, part).map(Some).map_err(|e| disk_refused(volume, &e, META_ERRORS));
    let meta: Option<Backing> = match target.kind {
        MetaKind::Internal => None,
        MetaKind::FlexibleExternal => claim_meta(None)?,
        MetaKind::Indexed(slot) => claim_meta(Some(slot_part(slot)))?,
    };
    let loaded = apply::load_claimed(target).map_err(|e| meta_refused(volume, &e))?;
    let attached = AttachedDisk {
        super_block: loaded.superblock,
        layout: loaded.layout,
        capacity_sectors: loaded.usable_sectors,
        bitmap_words: loaded.bitmap,
        config: translate::disk_config(&volume.disk_options),
        max_bio_bytes: MAX_BIO_BYTES,
    };
    remember(target, state_dir);
    Ok((OpenedDisk { attached, data, meta }, outcome))
}

/// What the metadata tools lock, too.
fn slot_part(slot: u32) -> Part {
    let len_bytes = INDEXED_SLOT_SECTORS * 512;
    Part { offset_bytes: u64::from(slot) * len_bytes, len_bytes }
}

/// Opens and claims a disk, or a part of it. Waits as the metadata commands do, for somebody may just be looking at it.
fn claim(path: &Path, part: Option<Part>) -> Result<Backing, BackingError> {
    let options = OpenOptions { part, ..OpenOptions::default() };
    let give_up = Instant::now() + CLAIM_PATIENCE;
    loop {
        match options.open(path) {
            Err(BackingError::InUse { .. }) if Instant::now() < give_up => std::thread::sleep(CLAIM_RETRY),
            result => return result,
        }
    }
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
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use model::config::settings::ResourceConfig;
    use replicator::meta::layout::superblock_sector;
    use replicator::meta::superblock::{SUPERBLOCK_BYTES, SuperBlock};

    use super::*;
    use crate::cli::meta::Opts;
    use crate::cli::meta::create::create_md;
    use crate::cli::meta::device::{Access, MetaDevice};
    use crate::daemon::site::Site;

    const DISK_BYTES: u64 = 4 << 20;

    /// The resource that `volumes` describe, with fresh metadata on each volume.
    fn resource(dir: &Path, volumes: &str) -> ResourceConfig {
        let config = dir.join("drbd.conf");
        let text = format!(
            "resource r0 {{ {volumes} on a {{ address 127.0.0.1:1; }} on b {{ address 127.0.0.1:2; }} }}"
        );
        std::fs::write(&config, text).unwrap();
        let site = Site { config_file: config.to_str().unwrap().into(), host: "a".into() };
        let mut resources = site.read().unwrap().resources;
        for volume in &resources[0].volumes {
            let target = meta_target(volume).unwrap();
            let opts = Opts { force: true, ..Opts::default() };
            assert_eq!(create_md(&target, &opts, &mut Captured::default()).unwrap(), 0);
        }
        resources.remove(0)
    }

    fn internal(dir: &Path) -> ResourceConfig {
        let disk = dir.join("disk.img");
        File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
        resource(dir, &format!("device /dev/drbd0; disk {}; meta-disk internal;", disk.display()))
    }

    fn open_first(resource: &ResourceConfig, dir: &Path) -> Result<OpenedDisk, Outcome> {
        let volume = &resource.volumes[0];
        open(volume, &meta_target(volume).unwrap(), dir).map(|(opened, _)| opened)
    }

    /// Does `work` again and again on another thread until it is dropped.
    struct Beside(Arc<AtomicBool>, Option<JoinHandle<()>>);

    impl Beside {
        fn start(mut work: impl FnMut() + Send + 'static) -> Beside {
            let ended = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&ended);
            let thread = thread::spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    work();
                }
            });
            Beside(ended, Some(thread))
        }
    }

    impl Drop for Beside {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            let joined = self.1.take().map(JoinHandle::join);
            assert!(thread::panicking() || joined.is_some_and(|j| j.is_ok()));
        }
    }

    #[test]
    fn a_short_look_at_the_metadata_refuses_no_attach() {
        let dir = tempfile::tempdir().unwrap();
        let resource = internal(dir.path());
        let target = meta_target(&resource.volumes[0]).unwrap();
        let _looks = Beside::start(move || {
            let look = MetaDevice::open(&target, Access::Read).unwrap();
            thread::sleep(Duration::from_micros(100));
            drop(look);
            thread::sleep(Duration::from_micros(300));
        });
        for _ in 0..100 {
            open_first(&resource, dir.path()).unwrap();
        }
    }

    #[test]
    fn what_is_attached_is_what_the_last_command_left_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let resource = internal(dir.path());
        let disk = meta_target(&resource.volumes[0]).unwrap().meta;
        let sector = superblock_sector(MetaKind::Internal, DISK_BYTES / 512).unwrap();
        let on_disk = move |disk: &File| {
            let mut raw = [0; SUPERBLOCK_BYTES];
            disk.read_exact_at(&mut raw, sector * 512).unwrap();
            SuperBlock::decode(&raw).unwrap()
        };
        let file = File::options().read(true).write(true).open(&disk).unwrap();
        let other = File::open(&disk).unwrap();
        let _commands = Beside::start(move || {
            if file.try_lock().is_err() {
                return;
            }
            let mut sb = on_disk(&file);
            sb.device_uuid += 1;
            let mut raw = [0; SUPERBLOCK_BYTES];
            sb.encode(&mut raw);
            file.write_all_at(&raw, sector * 512).unwrap();
            file.unlock().unwrap();
            thread::sleep(Duration::from_micros(200));
        });
        let mut opened = 0;
        for _ in 0..1500 {
            let Ok(attached) = open_first(&resource, dir.path()) else { continue };
            let found = attached.attached.super_block.device_uuid;
            assert_eq!(found, on_disk(&other).device_uuid, "after {opened} attaches");
            opened += 1;
        }
        assert!(opened > 0);
    }

    #[test]
    fn volumes_with_metadata_on_one_device_are_attached_together_and_guarded_from_the_tools() {
        let dir = tempfile::tempdir().unwrap();
        let disk = |name: &str, bytes| {
            let path = dir.path().join(name);
            File::create(&path).unwrap().set_len(bytes).unwrap();
            path.display().to_string()
        };
        let meta = disk("meta", 256 << 20);
        let volume = |n: usize| {
            let data = disk(&format!("data{n}"), DISK_BYTES);
            format!("volume {n} {{ device /dev/drbd{n}; disk {data}; meta-disk {meta}[{n}]; }}")
        };
        let resource = resource(dir.path(), &format!("{} {}", volume(0), volume(1)));
        let volumes: Vec<_> = resource.volumes.iter().map(|v| (v, meta_target(v).unwrap())).collect();
        let attached: Vec<_> =
            volumes.iter().map(|(v, target)| open(v, target, dir.path()).unwrap()).collect();
        let again =
            || create_md(&volumes[1].1, &Opts { force: true, ..Opts::default() }, &mut Captured::default());
        let error = again().unwrap_err();
        assert!(matches!(error, MetaError::Busy(_)), "{error}");
        drop(attached);
        assert_eq!(again().unwrap(), 0);
    }
}
