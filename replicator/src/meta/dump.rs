//! The text of `dump-md` (drbd-metadata 12), byte for byte what drbdmeta prints, with the real flags.

use core::fmt::{self, Write};

use super::layout::{Layout, bitmap_bytes};
use super::superblock::SuperBlock;
use crate::activity_log::transaction::{AL_BLOCK_BYTES, AlBlock, AlBlockKind, AlRing};

/// Prints everything behind the header lines, up to the line of `bits-set`.
///
/// `words` is the bitmap for the last agreed size, `bitmap_bytes(la_size) / 8` words (fewer where the area ends
/// before), each the value of the little endian word on disk.
pub fn write_dump(out: &mut dyn Write, sb: &SuperBlock, layout: &Layout, words: &[u64]) -> fmt::Result {
    write!(out, "version \"v08\";\n\n")?;
    if !sb.is_clean() {
        // No reader accepts this line: a dump with a bitmap that misses the log must not be restored.
        out.write_str("This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.\n")?;
        out.write_str("# You should \"apply-al\" first, if you plan to restore this.\n\n")?;
    }
    writeln!(out, "# md_size_sect {}", sb.md_size_sectors)?;
    writeln!(out, "# md_offset {}", layout.superblock_sector() * 512)?;
    writeln!(out, "# al_offset {}", layout.al_sector() * 512)?;
    write!(out, "# bm_offset {}\n\n", layout.bitmap_sector() * 512)?;
    let uuids = &sb.uuids;
    writeln!(
        out,
        "uuid {{\n    0x{}; 0x{}; 0x{}; 0x{};\n    flags 0x{:08X};\n}}",
        uuids.current, uuids.bitmap, uuids.history[0], uuids.history[1], sb.flags.0
    )?;
    writeln!(out, "# al-extents {};", sb.al_nr_extents)?;
    writeln!(out, "la-size-sect {};", sb.la_size_sectors)?;
    writeln!(out, "bm-byte-per-bit {};", sb.bm_bytes_per_bit)?;
    writeln!(out, "device-uuid 0x{:016X};", sb.device_uuid)?;
    writeln!(out, "la-peer-max-bio-size {};", sb.la_peer_max_bio_bytes)?;
    writeln!(out, "al-stripes {};", sb.al_stripes)?;
    writeln!(out, "al-stripe-size-4k {};", sb.al_stripe_size_4k)?;
    writeln!(out, "# bm-bytes {};", bitmap_bytes(sb.la_size_sectors))?;
    out.write_str("bm {")?;
    write_words(out, words)?;
    let bits: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
    writeln!(out, "\n}}\n# bits-set {bits};")
}

/// Words of one line, and the unit of a counted run.
const WORDS_PER_LINE: usize = 4;
/// Shortest run that is counted: more than one line.
const RUN_WORDS_MIN: usize = 2 * WORDS_PER_LINE;
/// A comment with the position comes before lines at multiples of this (8 MiB of data).
const WORDS_PER_MARK: usize = 32;
/// Data one word describes.
const KIB_PER_WORD: usize = 256;

fn write_words(out: &mut dyn Write, words: &[u64]) -> fmt::Result {
    let mut at = 0;
    while at < words.len() {
        if at % WORDS_PER_MARK == 0 {
            write!(out, "\n   # at {}kB", at * KIB_PER_WORD)?;
        }
        out.write_str("\n   ")?;
        let run = run_words(&words[at..]);
        if run >= RUN_WORDS_MIN {
            write!(out, " {run} times 0x{:016X};", words[at])?;
            at += run;
            continue;
        }
        let line = &words[at..words.len().min(at + WORDS_PER_LINE)];
        for word in line {
            write!(out, " 0x{word:016X};")?;
        }
        at += line.len();
    }
    Ok(())
}

/// Length of the run at the start of `words`, in whole lines. Runs are of equal 32-bit halves, so only words with
/// equal halves repeat.
fn run_words(words: &[u64]) -> usize {
    let first = words[0];
    if first >> 32 != first & 0xFFFF_FFFF {
        return 0;
    }
    // An odd half at the end would be rounded away with the incomplete line.
    let equal = words.iter().take_while(|word| **word == first).count();
    equal / WORDS_PER_LINE * WORDS_PER_LINE
}

/// Prints the activity log as comment lines, block by block in disk order. `area` holds the whole ring.
pub fn write_activity_log(out: &mut dyn Write, ring: AlRing, area: &[u8]) -> fmt::Result {
    let (blocks, _) = area.as_chunks::<AL_BLOCK_BYTES>();
    out.write_str("# al {\n")?;
    for (number, raw) in blocks.iter().take(ring.blocks() as usize).enumerate() {
        match AlBlock::decode(raw) {
            Err(_) => writeln!(out, "#     block {number:2} {{ INVALID }}")?,
            Ok(block) if block.kind() == AlBlockKind::Initialized => {
                writeln!(out, "#     block {number:2} {{ INITIALIZED }}")?;
            }
            Ok(block) => write_al_block(out, number, &block)?,
        }
    }
    out.write_str("# }\n")
}

fn write_al_block(out: &mut dyn Write, number: usize, block: &AlBlock<'_>) -> fmt::Result {
    writeln!(out, "#     block {number:2} {{")?;
    writeln!(out, "# \tmagic: 0x69cb65a2\n# \ttype: 0x0000")?;
    writeln!(out, "# \ttr: {:10}", block.number())?;
    writeln!(out, "# \tactive set size: {}", block.context_size())?;
    for (i, (slot, extent)) in block.context().enumerate() {
        writeln!(out, "# \t{i:2}: {slot:10} {extent:10}")?;
    }
    writeln!(out, "# \tupdates: {}", block.update_count())?;
    for (i, update) in block.updates().enumerate() {
        writeln!(out, "# \t{i:2}: {:10} {:10}", update.slot, update.extent)?;
    }
    writeln!(out, "# \tcrc32c: 0x{:08x}\n#     }}", block.crc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    fn text(words: &[u64]) -> String {
        let mut out = String::new();
        write_words(&mut out, words).unwrap();
        out
    }

    #[test]
    fn runs_are_whole_lines_and_longer_than_one() {
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[0; 8]), "\n   # at 0kB\n    8 times 0x0000000000000000;");
        let seven = text(&[0; 7]);
        assert_eq!(seven.matches("0x0000000000000000;").count(), 7);
        assert!(!seven.contains("times"));
        assert_eq!(
            text(&[u64::MAX; 13]),
            "\n   # at 0kB\n    12 times 0xFFFFFFFFFFFFFFFF;\n    0xFFFFFFFFFFFFFFFF;"
        );
    }

    #[test]
    fn words_with_different_halves_are_never_counted() {
        assert!(!text(&[0x0123_4567_89AB_CDEF; 40]).contains("times"));
        assert!(text(&[0x0123_4567_0123_4567; 40]).contains(" 40 times"));
    }

    #[test]
    fn marks_are_at_lines_not_inside_runs() {
        let mut words: Vec<u64> = vec![0; 80];
        words.extend([1, 0, 0, 0]);
        words.extend([0; 12]);
        words.extend([5; 4]);
        let out = text(&words);
        assert!(out.contains("# at 0kB\n    80 times") && out.contains("0x0000000000000001"));
        assert!(out.contains("\n   # at 24576kB\n    0x0000000000000005"));
        assert_eq!(out.matches("# at").count(), 2);
    }
}
