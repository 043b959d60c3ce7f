//! restore-md and verify-dump.

use replicator::activity_log::transaction::AlRing;
use replicator::meta::layout::{Layout, bitmap_bytes};
use replicator::meta::parse_dump::{ParsedDump, parse_dump};
use replicator::meta::superblock::SuperBlock;

use super::create::{check_paths, layout_for, may_use, write_fresh_ring};
use super::device::{Access, Found, MetaDevice};
use super::{MetaError, MetaTarget, Opts, Outcome, Prompt, confirmed};

/// Words of bitmap written at once.
const CHUNK_WORDS: usize = 1 << 17;

/// Reads `text` like restore-md would; nothing is written anywhere.
pub fn verify_dump(text: &str, io: &mut dyn Prompt) -> Outcome {
    let dump = parse_dump(text)?;
    dump_ring(&dump, &Opts::default())?;
    writeln!(io.out(), "input file parsed ok")?;
    Ok(0)
}

/// Writes the metadata that `text` (a dump) describes; positions are computed for this device. The activity log
/// is made anew if the dump says that it was applied (a stale ring would be replayed after the next crash), and
/// left alone otherwise.
///
/// Exit codes: 0 written, 1 declined, 10 the text is no dump (nothing was changed), 40 a file system is in the way.
pub fn restore_md(target: &MetaTarget, opts: &Opts, text: &str, io: &mut dyn Prompt) -> Outcome {
    check_paths(target)?;
    let dump = parse_dump(text)?;
    let ring = dump_ring(&dump, opts)?;
    let dev = MetaDevice::open(target, Access::Write)?;
    let layout = layout_for(&dev, ring)?;
    match dev.find()? {
        Found::Valid(..) => {
            if !confirmed(io, opts.force, "Valid meta-data in place, overwrite?")? {
                return Ok(1);
            }
            writeln!(io.err(), "reinitializing")?;
        }
        Found::Foreign(e) => return Err(MetaError::Foreign(e)),
        Found::Damaged(e) => {
            writeln!(io.err(), "The meta data in place is damaged: {e}")?;
            if !confirmed(io, opts.force, "Damaged meta-data in place, overwrite?")? {
                return Ok(1);
            }
        }
        Found::Nothing => {
            if !may_use(&dev, &layout, opts, io)? {
                writeln!(io.out(), "Operation canceled.")?;
                return Ok(1);
            }
        }
    }
    let sb = superblock(&dump, &layout, io)?;
    dev.wipe_superblock(layout.superblock_sector())?;
    write_bitmap(&dev, &layout, &dump, io)?;
    if sb.is_clean() {
        write_fresh_ring(&dev, &layout)?;
    }
    dev.sync()?;
    dev.write_superblock(layout.superblock_sector(), &sb)?;
    writeln!(io.out(), "Successfully restored meta data")?;
    Ok(0)
}

fn dump_ring(dump: &ParsedDump, opts: &Opts) -> Result<AlRing, MetaError> {
    let ring =
        AlRing::new(dump.al_stripes, dump.al_stripe_size_4k).map_err(|e| MetaError::Value(e.to_string()))?;
    opts.ring(ring)
}

fn superblock(dump: &ParsedDump, layout: &Layout, io: &mut dyn Prompt) -> Result<SuperBlock, MetaError> {
    let largest = layout.describable_sectors();
    let la_size_sectors = dump.la_size_sectors.min(largest);
    if la_size_sectors != dump.la_size_sectors {
        let found = dump.la_size_sectors;
        writeln!(io.out(), "# la-size-sect was too big ({found}), truncated ({largest})!")?;
    }
    Ok(SuperBlock {
        la_size_sectors,
        uuids: dump.uuids,
        device_uuid: dump.device_uuid,
        flags: dump.flags,
        ..SuperBlock::just_created(layout, dump.la_peer_max_bio_bytes)
    })
}

/// Writes as many words as the dump has and the area takes, the last sector filled up with zero bits.
fn write_bitmap(
    dev: &MetaDevice,
    layout: &Layout,
    dump: &ParsedDump,
    io: &mut dyn Prompt,
) -> Result<(), MetaError> {
    let area_words = layout.bitmap_area_sectors() * 64;
    let needed_words = bitmap_bytes(dump.la_size_sectors.min(layout.describable_sectors())) / 8;
    if dump.bitmap_words() > area_words {
        writeln!(io.err(), "Bitmap info too large, truncated!")?;
    } else if dump.bitmap_words() < needed_words {
        writeln!(io.err(), "# the dump describes {} of {needed_words} bitmap words", dump.bitmap_words())?;
    }
    let mut left = area_words.min(dump.bitmap_words());
    let mut sector = layout.bitmap_sector();
    let mut chunk: Vec<u8> = Vec::with_capacity(CHUNK_WORDS * 8);
    for &(count, word) in &dump.bitmap {
        let mut run = count.min(left);
        left -= run;
        while run > 0 {
            let room = (CHUNK_WORDS - chunk.len() / 8) as u64;
            for _ in 0..run.min(room) {
                chunk.extend_from_slice(&word.to_le_bytes());
            }
            run -= run.min(room);
            if chunk.len() == CHUNK_WORDS * 8 {
                dev.write(sector, &chunk)?;
                sector += chunk.len() as u64 / 512;
                chunk.clear();
            }
        }
    }
    chunk.resize(chunk.len().next_multiple_of(512), 0);
    dev.write(sector, &chunk)
}
