//! Internal metadata of a device that has grown while nobody had it attached: it is found where the device ended
//! before, and moved to the end as it is (drbd-metadata 10, `check-resize`).
//!
//! A crash at any point leaves metadata at the old place or at the new one. Where the two overlap the super block at the
//! new place asks for a full sync until everything is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use replicator::meta::layout::{Layout, MetaKind, SUPERBLOCK_SECTORS, bitmap_bytes, superblock_sector};
use replicator::meta::superblock::{MetaFlags, SUPERBLOCK_BYTES, SuperBlock};

use super::apply::read_ring;
use super::commands::read_bitmap;
use super::create::check_paths;
use super::device::{Access, MetaDevice};
use super::{MetaError, MetaTarget};

/// Size of a device when it was last seen with its metadata at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastKnown {
    file: PathBuf,
}

impl LastKnown {
    /// The record of a device in a directory of records.
    pub fn of(state_dir: &Path, device: &Path) -> LastKnown {
        let name = device.to_string_lossy().replace('/', "_");
        LastKnown { file: state_dir.join(format!("device{name}.lkbd")) }
    }

    /// Size in bytes and identity, as they were recorded.
    fn read(&self) -> Option<(u64, u64)> {
        let text = fs::read_to_string(&self.file).ok()?;
        let mut lines = text.lines();
        let bytes = lines.next()?.split('\t').next()?.parse().ok()?;
        let uuid = lines.next().and_then(|l| l.strip_prefix("uuid:\t"));
        Some((bytes, uuid.and_then(|u| u64::from_str_radix(u, 16).ok()).unwrap_or(0)))
    }

    fn write(&self, bytes: u64, device: &Path, uuid: u64) -> io::Result<()> {
        if self.read() == Some((bytes, uuid)) {
            return Ok(());
        }
        if let Some(dir) = self.file.parent() {
            fs::create_dir_all(dir)?;
        }
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{bytes}\t{}\nuuid:\t{uuid:016X}\n", device.display()))?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &self.file)
    }
}

/// Notes where the metadata is, for the time when the device has grown; nothing for external metadata.
///
/// # Errors
/// The device cannot be read, or the record not written.
pub fn remember(target: &MetaTarget, record: &LastKnown) -> Result<(), MetaError> {
    if target.kind != MetaKind::Internal {
        return Ok(());
    }
    let dev = MetaDevice::open(target, Access::Read)?;
    let (sb, _) = dev.valid()?;
    Ok(record.write(dev.sectors() * 512, &target.meta, sb.device_uuid)?)
}

/// Moves the metadata if the device has grown since it was last known. True if it did.
///
/// # Errors
/// No metadata at either place, the device has grown by too little, or an error of the device.
pub fn follow_growth(target: &MetaTarget, record: &LastKnown) -> Result<bool, MetaError> {
    if target.kind != MetaKind::Internal {
        return Ok(false);
    }
    check_paths(target)?;
    let dev = MetaDevice::open(target, Access::Write)?;
    if !matches!(dev.find()?, super::device::Found::Nothing) {
        return Ok(false);
    }
    let Some((old_bytes, uuid)) = record.read() else { return Ok(false) };
    let old_sectors = old_bytes / 512;
    let Some(at) = superblock_sector(MetaKind::Internal, old_sectors) else { return Ok(false) };
    if old_sectors >= dev.sectors() {
        return Ok(false);
    }
    let mut raw = [0; SUPERBLOCK_BYTES];
    dev.read(at, &mut raw)?;
    let Ok(sb) = SuperBlock::decode(&raw) else { return Ok(false) };
    let Ok(from) = sb.check_for_tools(MetaKind::Internal, old_sectors) else { return Ok(false) };
    if uuid != 0 && sb.device_uuid != uuid {
        return Ok(false);
    }
    let to = Layout::new(MetaKind::Internal, dev.sectors(), from.ring())?;
    if to.bitmap_sector() < sb.la_size_sectors {
        let text =
            "the device has grown by too little: its larger bitmap would overwrite data; make it larger";
        return Err(MetaError::Value(text.into()));
    }
    move_metadata(&dev, &sb, &from, &to)?;
    Ok(true)
}

fn move_metadata(dev: &MetaDevice, sb: &SuperBlock, from: &Layout, to: &Layout) -> Result<(), MetaError> {
    let ring = read_ring(dev, from)?;
    let words = read_bitmap(dev, from, bitmap_bytes(sb.la_size_sectors))?;
    let mut new = *sb;
    new.md_size_sectors = to.md_size_sectors();
    new.al_offset_sectors = to.al_offset_sectors();
    new.bm_offset_sectors = to.bm_offset_sectors();
    let overlaps = to.first_sector() <= from.last_sector();
    if overlaps {
        let mut full = new;
        full.flags = full.flags.with(MetaFlags::FULL_SYNC).with(MetaFlags::AL_DISABLED);
        dev.write_superblock(to.superblock_sector(), &full)?;
    }
    dev.write(to.al_sector(), &ring)?;
    let mut bytes = vec![0; to.bitmap_area_sectors() as usize * 512];
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&words) {
        *place = word.to_le_bytes();
    }
    dev.write(to.bitmap_sector(), &bytes)?;
    dev.sync()?;
    dev.write_superblock(to.superblock_sector(), &new)?;
    let old = from.superblock_sector();
    if old + SUPERBLOCK_SECTORS <= to.first_sector() {
        dev.wipe_superblock(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::apply::{apply_al_if_needed, load_for_attach};
    use super::super::create::create_md;
    use super::super::device::journal;
    use super::super::{Opts, Prompt};
    use super::*;

    const OLD_BYTES: u64 = 4 << 20;

    /// Nobody is asked, nothing is shown.
    struct Silent(Vec<u8>);

    impl Prompt for Silent {
        fn out(&mut self) -> &mut dyn io::Write {
            &mut self.0
        }
        fn err(&mut self) -> &mut dyn io::Write {
            &mut self.0
        }
        fn is_terminal(&self) -> bool {
            false
        }
        fn read_line(&mut self) -> io::Result<String> {
            Ok(String::new())
        }
    }

    /// A device in use with some bits set, then larger; its content before anything was moved.
    fn grown(dir: &Path, by: u64) -> (MetaTarget, LastKnown, Vec<u8>) {
        let path = dir.join("disk");
        fs::File::create(&path).unwrap().set_len(OLD_BYTES).unwrap();
        let target = MetaTarget { data: path.clone(), meta: path.clone(), kind: MetaKind::Internal };
        create_md(&target, &Opts { force: true, ..Opts::default() }, &mut Silent(Vec::new())).unwrap();
        let dev = MetaDevice::open(&target, Access::Write).unwrap();
        let (mut sb, layout) = dev.valid().unwrap();
        sb.la_size_sectors = 8000;
        sb.flags = sb.flags.with(MetaFlags::CONSISTENT);
        sb.uuids.current = model::ids::DataUuid(0x1234);
        dev.write(layout.bitmap_sector(), &[0x5a; 125]).unwrap();
        dev.write_superblock(layout.superblock_sector(), &sb).unwrap();
        drop(dev);
        let record = LastKnown::of(dir, &path);
        remember(&target, &record).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(OLD_BYTES + by).unwrap();
        (target, record, fs::read(&path).unwrap())
    }

    fn check(target: &MetaTarget, by: u64) {
        apply_al_if_needed(target).unwrap();
        let loaded = load_for_attach(target).unwrap();
        assert_eq!(loaded.superblock.uuids.current.0, 0x1234, "grown by {by}");
        assert_eq!(loaded.superblock.la_size_sectors, 8000);
        assert!(loaded.usable_sectors * 512 >= OLD_BYTES - 80 * 512 + by / 4096 * 4096);
        if !loaded.superblock.flags.has(MetaFlags::FULL_SYNC) {
            assert_eq!(loaded.bitmap[0], 0x5a5a_5a5a_5a5a_5a5a);
            assert_eq!(loaded.bitmap.len(), 16);
        }
    }

    #[test]
    fn metadata_follows_the_end_of_its_device() {
        for by in [4096, 16384, 65536, 9 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let (target, record, _) = grown(dir.path(), by);
            assert!(load_for_attach(&target).is_err(), "nothing is at the new end");
            assert!(follow_growth(&target, &record).unwrap());
            assert!(!follow_growth(&target, &record).unwrap(), "it is there");
            check(&target, by);
            remember(&target, &record).unwrap();
            assert_eq!(record.read().map(|(bytes, _)| bytes), Some(OLD_BYTES + by));
        }
    }

    /// What a crash leaves after any number of the steps can be attached, or moved again.
    #[test]
    fn a_crash_in_the_move_loses_nothing() {
        for by in [4096, 16384, 65536, 9 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let (target, record, before) = grown(dir.path(), by);
            let (moved, steps) = journal::of(|| follow_growth(&target, &record).unwrap());
            assert!(moved);
            for done in 0..=steps.len() {
                let mut image = before.clone();
                for op in &steps[..done] {
                    if let journal::Op::Write { byte, bytes } = op {
                        image[*byte as usize..][..bytes.len()].copy_from_slice(bytes);
                    }
                }
                fs::write(&target.meta, &image).unwrap();
                follow_growth(&target, &record).unwrap();
                check(&target, by);
            }
        }
    }
}
