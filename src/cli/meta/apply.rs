//! apply-al, and what an attach reads.

use model::units::{SECTORS_PER_AL_EXTENT, bits_of};
use replicator::activity_log::replay::{Replay, looks_legacy, replay, replay_legacy};
use replicator::activity_log::transaction::{
    AL_BLOCK_BYTES, AL_CONTEXT_SLOTS, AlRing, EXTENT_FREE, encode_initialized, encode_update,
};
use replicator::meta::gi::KibSize;
use replicator::meta::layout::{Layout, bitmap_bytes};
use replicator::meta::superblock::{MetaFlags, SuperBlock};

use super::commands::{open_to_change, read_bitmap};
use super::create::check_paths;
use super::device::{Access, MetaDevice, sectors_of};
use super::{AL_KIB_MAX, MetaError, MetaTarget, Outcome, Prompt};

/// Bytes of bitmap for one activity log extent.
const BITMAP_BYTES_PER_EXTENT: u64 = 128;

/// What apply-al did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApplyReport {
    /// The metadata was clean: nothing was done.
    pub was_clean: bool,
    /// The node was Primary, so the hot extents count.
    pub was_primary: bool,
    /// Hot extents found.
    pub hot_extents: usize,
    /// The log has update transactions.
    pub has_updates: bool,
    /// Bits that were not set before.
    pub bits_added: u64,
    /// Torn or rotten blocks.
    pub corrupt_blocks: u32,
    /// Hot extents behind the end of the device; they were skipped.
    pub beyond: Vec<u32>,
    /// The log could not be read, which does not matter for a node that was not Primary.
    pub ignored_error: Option<String>,
}

/// An attached device, as its metadata describes it. As long as it lives the metadata device stays claimed.
#[derive(Debug)]
pub struct AttachedMeta {
    /// The super block, checked and clean.
    pub superblock: SuperBlock,
    /// Where everything is.
    pub layout: Layout,
    /// Bitmap for the last agreed size, or for the usable size if there is none; bits behind the end are clear.
    pub bitmap: Vec<u64>,
    /// Size of the backing device in sectors.
    pub data_sectors: u64,
    /// Sectors of it that can be replicated.
    pub usable_sectors: u64,
    /// Claim on the metadata device; [`MetaDevice::into_file`] keeps it for the daemon.
    pub claim: MetaDevice,
}

/// The command apply-al: [`apply_al_if_needed`] with its messages.
pub fn apply_al(target: &MetaTarget, io: &mut dyn Prompt) -> Outcome {
    let report = apply_al_if_needed(target)?;
    if report.was_clean {
        return Ok(0);
    }
    if report.corrupt_blocks > 0 && report.ignored_error.is_none() {
        writeln!(io.err(), "{} corrupt AL transactions found", report.corrupt_blocks)?;
    }
    if let Some(error) = &report.ignored_error {
        writeln!(io.err(), "{error}\nError ignored, no need to apply the AL")?;
    }
    for extent in &report.beyond {
        writeln!(io.err(), "extent {extent} beyond end of bitmap!")?;
    }
    if report.was_primary && report.has_updates {
        if report.hot_extents == 0 {
            writeln!(io.err(), "Nothing to do.")?;
        } else {
            let added = KibSize(report.bits_added * 4);
            writeln!(io.err(), "Marked additional {added} as out-of-sync based on AL.")?;
        }
    }
    Ok(0)
}

/// Makes unclean metadata clean: marks every block of every hot extent if the node was Primary, makes the ring
/// anew, and then says so in the super block. Clean metadata is not touched.
// spec: drbd-metadata 6.6
pub fn apply_al_if_needed(target: &MetaTarget) -> Result<ApplyReport, MetaError> {
    let (dev, mut sb, layout) = open_to_change(target)?;
    if sb.is_clean() {
        return Ok(ApplyReport { was_clean: true, ..ApplyReport::default() });
    }
    let was_primary = sb.flags.has(MetaFlags::PRIMARY_IND);
    let mut report = ApplyReport { was_primary, ..ApplyReport::default() };
    let area = read_ring(&dev, &layout)?;
    let legacy = !sb.unclean_magic && layout.ring() == AlRing::DEFAULT && looks_legacy(&area);
    let found = if legacy { replay_legacy(&area, sb.al_nr_extents) } else { replay(layout.ring(), &area) };
    let (found, ring_is_stale) = match found {
        Ok(found) => {
            let stale = legacy || found.has_updates || found.corrupt_blocks > 0;
            (found, stale)
        }
        // Metadata that was being moved asks for a full sync until its log is there.
        Err(e) if was_primary && !sb.flags.has(MetaFlags::FULL_SYNC) => {
            return Err(MetaError::Replay(e.to_string()));
        }
        Err(e) => {
            report.ignored_error = Some(e.to_string());
            (Replay::default(), true)
        }
    };
    report.hot_extents = found.hot.len();
    report.has_updates = found.has_updates;
    report.corrupt_blocks = found.corrupt_blocks;
    if was_primary {
        mark_extents(&dev, &layout, sb.la_size_sectors, &found.hot, &mut report)?;
        dev.sync()?;
    }
    if ring_is_stale {
        renew_ring(&dev, &layout, found.newest)?;
    }
    sb.flags = sb.flags.with(MetaFlags::AL_CLEAN);
    sb.unclean_magic = false;
    dev.write_superblock(layout.superblock_sector(), &sb)?;
    Ok(report)
}

/// Reads what an attach needs and claims the metadata device. The activity log must have been applied.
// spec: drbd-metadata 8
pub fn load_for_attach(target: &MetaTarget) -> Result<AttachedMeta, MetaError> {
    load(target, Access::Write)
}

/// The same for somebody who has claimed the metadata device already.
pub fn load_claimed(target: &MetaTarget) -> Result<AttachedMeta, MetaError> {
    load(target, Access::Read)
}

fn load(target: &MetaTarget, access: Access) -> Result<AttachedMeta, MetaError> {
    check_paths(target)?;
    let data_sectors = sectors_of(&target.data)?;
    let claim = MetaDevice::open(target, access)?;
    Layout::check_attach_size(claim.kind(), claim.sectors())?;
    let superblock = claim.superblock()?.map_err(MetaError::Attach)?;
    superblock.check_for_attach(claim.kind(), claim.sectors()).map_err(MetaError::Attach)?;
    let layout = superblock.check_for_tools(claim.kind(), claim.sectors()).map_err(MetaError::Attach)?;
    let usable_sectors = layout.usable_sectors(data_sectors);
    let size = if superblock.la_size_sectors > 0 { superblock.la_size_sectors } else { usable_sectors };
    let bits = bits_of(size);
    let words = bits.div_ceil(64);
    let mut bitmap = read_bitmap(&claim, &layout, words * 8)?;
    let count = usize::try_from(words).map_err(|_| MetaError::Memory(words * 8))?;
    // The size check of the area rounds down: what it does not hold counts as different.
    bitmap.try_reserve_exact(count - bitmap.len()).map_err(|_| MetaError::Memory(words * 8))?;
    bitmap.resize(count, u64::MAX);
    // Bits behind the end are left over from whole extents; a last word without such bits stays whole.
    if let (Some(last), used @ 1..) = (bitmap.last_mut(), bits % 64) {
        *last &= u64::MAX >> (64 - used);
    }
    Ok(AttachedMeta { superblock, layout, bitmap, data_sectors, usable_sectors, claim })
}

/// All blocks of the ring in disk order.
pub(super) fn read_ring(dev: &MetaDevice, layout: &Layout) -> Result<Vec<u8>, MetaError> {
    let bytes = u64::from(layout.ring().blocks()) * AL_BLOCK_BYTES as u64;
    if bytes > AL_KIB_MAX * 1024 {
        return Err(MetaError::Value(format!("an activity log of {bytes} bytes is not supported")));
    }
    let mut area = vec![0; bytes as usize];
    dev.read(layout.al_sector(), &mut area)?;
    Ok(area)
}

/// Sets all bits of `hot` in the bitmap on disk; not stable yet. Extents are ascending, so neighbours share pages.
fn mark_extents(
    dev: &MetaDevice,
    layout: &Layout,
    la_size_sectors: u64,
    hot: &[u32],
    report: &mut ApplyReport,
) -> Result<(), MetaError> {
    let extents = la_size_sectors.div_ceil(SECTORS_PER_AL_EXTENT);
    let area_bytes = bitmap_bytes(la_size_sectors).min(layout.bitmap_area_sectors() * 512);
    for &extent in hot {
        let first_byte = u64::from(extent) * BITMAP_BYTES_PER_EXTENT;
        if u64::from(extent) >= extents || first_byte + BITMAP_BYTES_PER_EXTENT > area_bytes {
            report.beyond.push(extent);
            continue;
        }
        let sector = layout.bitmap_sector() + first_byte / 512;
        let at = (first_byte % 512) as usize;
        let mut raw = [0; 512];
        dev.read(sector, &mut raw)?;
        let bits = &mut raw[at..at + BITMAP_BYTES_PER_EXTENT as usize];
        report.bits_added += bits.iter().map(|byte| u64::from(byte.count_zeros())).sum::<u64>();
        bits.fill(0xFF);
        dev.write(sector, &raw)?;
    }
    Ok(())
}

/// Makes the ring anew, so that a crash in between never leaves one that replay refuses: first an empty update,
/// newer than all, goes to position 0; then the other blocks are renewed; position 0 comes last, as it is the only
/// one that may be torn in an otherwise fresh ring.
fn renew_ring(dev: &MetaDevice, layout: &Layout, newest: Option<u32>) -> Result<(), MetaError> {
    let mut block = [0; AL_BLOCK_BYTES];
    let first = layout.ring().block_of_position(0);
    if let Some(newest) = newest {
        let slots = AL_CONTEXT_SLOTS as u16;
        encode_update(&mut block, newest.wrapping_add(1), slots, 0, &[], |_| EXTENT_FREE);
        dev.write(layout.al_block_sector(first), &block)?;
        dev.sync()?;
    }
    encode_initialized(&mut block);
    for n in (0..layout.ring().blocks()).filter(|n| *n != first) {
        dev.write(layout.al_block_sector(n), &block)?;
    }
    dev.sync()?;
    dev.write(layout.al_block_sector(first), &block)?;
    dev.sync()
}
