//! create-md, wipe-md and the look at what would be destroyed.

use replicator::activity_log::transaction::{AL_BLOCK_BYTES, AlRing, encode_initialized};
use replicator::meta::layout::{Layout, LayoutError, MetaKind, bitmap_bytes};
use replicator::meta::superblock::{Magic, SuperBlock, SuperBlockError};

use super::device::{Access, Found, MetaDevice};
use super::probe::{Content, PROBE_BYTES, Probe, probe};
use super::{MetaError, MetaTarget, Opts, Outcome, Prompt, confirmed};

/// A declined question.
const EXIT_DECLINED: u8 = 1;
/// Changing the striping in place.
const EXIT_NOT_IMPLEMENTED: u8 = 30;
/// Zeroes written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Creates fresh metadata: activity log, zeroed bitmap, then the super block.
///
/// Exit codes: 0 created, 1 a question was declined, 10 too small or a bad option, 20 not to be opened, 30
/// striping of existing metadata, 40 a file system would be cut off or its metadata overwritten.
pub fn create_md(target: &MetaTarget, opts: &Opts, io: &mut dyn Prompt) -> Outcome {
    let ring = opts.ring(AlRing::DEFAULT)?;
    let peer_max_bio_bytes = opts.check_peer_max_bio()?;
    check_paths(target)?;
    let dev = MetaDevice::open(target, Access::Write)?;
    let layout = layout_for(&dev, ring)?;
    if let Some(exit) = ask_about_metadata(&dev, &layout, opts, io)? {
        return Ok(exit);
    }
    if !may_use(&dev, &layout, opts, io)? {
        writeln!(io.out(), "Operation canceled.")?;
        return Ok(EXIT_DECLINED);
    }
    writeln!(io.out(), "initializing activity log")?;
    dev.wipe_superblock(layout.superblock_sector())?;
    zero_bitmap(&dev, &layout, io)?;
    write_fresh_ring(&dev, &layout)?;
    dev.sync()?;
    writeln!(io.out(), "Writing meta data...")?;
    dev.write_superblock(layout.superblock_sector(), &SuperBlock::just_created(&layout, peer_max_bio_bytes))?;
    writeln!(io.out(), "New drbd meta data block successfully created.")?;
    Ok(0)
}

/// Zeroes the super block. Without metadata: a message and exit code 0; damaged metadata may be wiped, metadata of
/// another version is left alone.
pub fn wipe_md(target: &MetaTarget, opts: &Opts, io: &mut dyn Prompt) -> Outcome {
    check_paths(target)?;
    let dev = MetaDevice::open(target, Access::Write)?;
    match dev.find()? {
        Found::Nothing => {
            writeln!(io.err(), "There appears to be no drbd meta data to wipe out?")?;
            return Ok(0);
        }
        Found::Foreign(e) => return Err(MetaError::Foreign(e)),
        Found::Damaged(e) => writeln!(io.err(), "The meta data is damaged: {e}")?,
        Found::Valid(..) => {}
    }
    if !confirmed(io, opts.force, "Do you really want to wipe out the DRBD meta data?")? {
        writeln!(io.out(), "Operation cancelled.")?;
        return Ok(EXIT_DECLINED);
    }
    writeln!(io.out(), "Wiping meta data...")?;
    let sector = replicator::meta::layout::superblock_sector(dev.kind(), dev.sectors())
        .expect("a super block was found on this device");
    dev.wipe_superblock(sector)?;
    writeln!(io.out(), "DRBD meta data block successfully wiped out.")?;
    Ok(0)
}

/// Internal metadata is on the data device itself, all other kinds are on another one.
pub(super) fn check_paths(target: &MetaTarget) -> Result<(), MetaError> {
    let same = target.data == target.meta
        || match (target.data.canonicalize(), target.meta.canonicalize()) {
            (Ok(data), Ok(meta)) => data == meta,
            _ => false,
        };
    match (target.kind, same) {
        (MetaKind::Internal, false) => {
            Err(MetaError::Target("internal meta data must be on the backing device itself"))
        }
        (MetaKind::FlexibleExternal | MetaKind::Indexed(_), true) => {
            Err(MetaError::Target("external meta data must not be on the backing device"))
        }
        _ => Ok(()),
    }
}

/// Layout for this device, with the size messages of the tools.
pub(super) fn layout_for(dev: &MetaDevice, ring: AlRing) -> Result<Layout, MetaError> {
    let bytes = dev.sectors() * 512;
    let too_small = || MetaError::TooSmall { path: dev.path().to_path_buf(), bytes };
    if bytes < PROBE_BYTES as u64 {
        return Err(too_small());
    }
    Layout::new(dev.kind(), dev.sectors(), ring).map_err(|e| match e {
        LayoutError::TooSmall { .. } => too_small(),
        LayoutError::TooLarge { .. } | LayoutError::Index(_) => MetaError::Layout(e),
    })
}

/// `Some(exit code)`: the operator does not want what is there to be overwritten.
fn ask_about_metadata(
    dev: &MetaDevice,
    layout: &Layout,
    opts: &Opts,
    io: &mut dyn Prompt,
) -> Result<Option<u8>, MetaError> {
    let (version, valid) = match dev.find()? {
        Found::Nothing => return Ok(None),
        Found::Valid(sb, _) => ("v08", Some(sb)),
        Found::Damaged(_) => ("damaged v08", None),
        Found::Foreign(SuperBlockError::OtherVersion(magic)) => (magic.version_name(), None),
        Found::Foreign(_) => (Magic::V07.version_name(), None),
    };
    let question = match (dev.kind(), &valid) {
        (MetaKind::Internal, Some(_)) => "Do you really want to overwrite the existing meta-data?".into(),
        (_, Some(_)) => "Valid meta data seems to be in place.\nDo you really want to overwrite?".into(),
        (_, None) => format!(
            "So you want me to replace the {version} meta-data\nwith newly initialized v08 meta-data?"
        ),
    };
    if dev.kind() == MetaKind::Internal || valid.is_none() {
        let kind = match dev.kind() {
            MetaKind::Internal => "flexible-size internal",
            MetaKind::FlexibleExternal => "flexible-size external",
            MetaKind::Indexed(_) => "fixed-size external",
        };
        writeln!(io.err(), "You want me to create a v08 style {kind} meta data block.")?;
        writeln!(io.err(), "There appears to be a {version} {kind} meta data block")?;
        let (path, byte) = (dev.path().display(), layout.superblock_sector() * 512);
        writeln!(io.err(), "already in place on {path} at byte offset {byte}")?;
    }
    let other_ring = valid.and_then(|sb| sb.ring().ok()).is_some_and(|ring| opts.asks_for_other_ring(ring));
    if other_ring && dev.kind() == MetaKind::Internal {
        let question = "Do you want to change the activity log stripe settings *only*?";
        if confirmed(io, opts.force, question)? {
            writeln!(io.err(), "Sorry, not yet implemented: dump-md, then restore-md with the new settings")?;
            return Ok(Some(EXIT_NOT_IMPLEMENTED));
        }
    }
    if confirmed(io, opts.force, &question)? {
        return Ok(None);
    }
    writeln!(io.out(), "Operation cancelled.")?;
    Ok(Some(EXIT_DECLINED))
}

/// Looks at the start of the device. `false`: the operator declined. What would be cut off or destroyed for sure is
/// refused, even with `--force`.
// spec: drbd-admin 3.9
pub(super) fn may_use(
    dev: &MetaDevice,
    layout: &Layout,
    opts: &Opts,
    io: &mut dyn Prompt,
) -> Result<bool, MetaError> {
    let mut head = vec![0; PROBE_BYTES.min((dev.sectors() * 512) as usize)];
    dev.read(0, &mut head)?;
    let found = probe(&head);
    if found == Probe::Blank {
        return Ok(true);
    }
    writeln!(io.out(), "md_offset {}", layout.superblock_sector() * 512)?;
    writeln!(io.out(), "al_offset {}", layout.al_sector() * 512)?;
    writeln!(io.out(), "bm_offset {}\n", layout.bitmap_sector() * 512)?;
    let Probe::Known(content) = found else {
        writeln!(io.out(), "Found some data\n\n ==> This might destroy existing data! <==")?;
        return confirmed(io, opts.force, "Do you want to proceed?");
    };
    writeln!(io.out(), "Found {}", content.name)?;
    if dev.kind() != MetaKind::Internal {
        writeln!(io.out(), "\nThis would corrupt existing data.")?;
        writeln!(io.out(), "If you want me to do this, you need to zero out the first part")?;
        writeln!(io.out(), "of the device (destroy the content).")?;
        writeln!(io.out(), "You should be very sure that you mean it.")?;
        return Err(MetaError::Refused);
    }
    let left_bytes = layout.bitmap_sector() * 512;
    if let Some(used) = content.used_bytes {
        writeln!(io.out(), "{:12} kB data area apparently used", used.div_ceil(1024))?;
    }
    writeln!(io.out(), "{:12} kB left usable by current configuration", left_bytes / 1024)?;
    if content.used_bytes.is_some_and(|used| used <= left_bytes) {
        writeln!(io.out(), "\nEven though it looks like this would place the new meta data into")?;
        writeln!(io.out(), "unused space, you still need to confirm, as this is only a guess.")?;
        return confirmed(io, opts.force, "Do you want to proceed?");
    }
    refuse_truncation(content, io)?;
    Err(MetaError::Refused)
}

fn refuse_truncation(content: Content, io: &mut dyn Prompt) -> Result<(), MetaError> {
    let blank = if content.used_bytes.is_some() { "\n" } else { "" };
    writeln!(
        io.out(),
        "{blank}Device size would be truncated, which\nwould corrupt data and result in\n'access beyond end of device' errors."
    )?;
    let remedy = if content.used_bytes.is_some() {
        "You need to either\n   * use external meta data (recommended)\n   * shrink that filesystem first\n   * zero out the device (destroy the filesystem)"
    } else {
        "If you want me to do this, you need to zero out the first part\nof the device (destroy the content).\nYou should be very sure that you mean it."
    };
    writeln!(io.out(), "{remedy}")?;
    Ok(())
}

/// Zeroes what create-md zeroes: all of an internal bitmap; externally the part for a data device as large as the
/// metadata device.
// spec: drbd-metadata 7.1
fn zero_bitmap(dev: &MetaDevice, layout: &Layout, io: &mut dyn Prompt) -> Result<(), MetaError> {
    let area = layout.bitmap_area_sectors() * 512;
    let mut left = match dev.kind() {
        MetaKind::Internal => area,
        MetaKind::FlexibleExternal | MetaKind::Indexed(_) => bitmap_bytes(dev.sectors()).min(area),
    };
    writeln!(io.err(), "initializing bitmap ({} KB) to all zero", left / 1024)?;
    let zeroes = vec![0; CHUNK_BYTES.min(left as usize)];
    let mut sector = layout.bitmap_sector();
    while left > 0 {
        let bytes = left.min(zeroes.len() as u64);
        dev.write(sector, &zeroes[..bytes as usize])?;
        sector += bytes / 512;
        left -= bytes;
    }
    Ok(())
}

/// Writes initialized blocks over the whole ring; not stable yet.
pub(super) fn write_fresh_ring(dev: &MetaDevice, layout: &Layout) -> Result<(), MetaError> {
    let mut block = [0; AL_BLOCK_BYTES];
    encode_initialized(&mut block);
    for n in 0..layout.ring().blocks() {
        dev.write(layout.al_block_sector(n), &block)?;
    }
    Ok(())
}
