//! The commands that print the metadata or change only the super block.

use std::time::{SystemTime, UNIX_EPOCH};

use replicator::meta::dump::{write_activity_log, write_dump};
use replicator::meta::gi::{GiLine, SHOW_GI_FOOT, SHOW_GI_HEAD, ShowGiTail, apply_set_gi, parse_hex};
use replicator::meta::layout::{Layout, bitmap_bytes};
use replicator::meta::superblock::{MetaFlags, SuperBlock};

use super::create::check_paths;
use super::device::{Access, MetaDevice};
use super::{MetaError, MetaTarget, Opts, Outcome, Prompt, confirmed};

/// outdate on an inconsistent disk.
const EXIT_INCONSISTENT: u8 = 5;
/// Commands that say nothing when there is no metadata.
const EXIT_NO_META: u8 = 1;

/// Prints the text dump. Unclean metadata needs `--force`, and the text then cannot be restored.
pub fn dump_md(target: &MetaTarget, opts: &Opts, io: &mut dyn Prompt) -> Outcome {
    let (dev, sb, layout) = open_to_read(target, io)?;
    if !sb.is_clean() {
        if !opts.force {
            return Err(MetaError::Unclean);
        }
        writeln!(io.err(), "{}", MetaError::Unclean)?;
    }
    let words = read_bitmap(&dev, &layout, bitmap_bytes(sb.la_size_sectors))?;
    let mut text = String::new();
    header(&mut text, opts);
    let mut print = || {
        write_dump(&mut text, &sb, &layout, &words)?;
        if opts.dump_activity_log {
            let area = super::apply::read_ring(&dev, &layout).map_err(|_| std::fmt::Error)?;
            write_activity_log(&mut text, layout.ring(), &area)?;
        }
        Ok(())
    };
    print().map_err(|_: std::fmt::Error| MetaError::Value("the dump cannot be printed".into()))?;
    // Whoever reads it may take their time.
    drop(dev);
    io.out().write_all(text.as_bytes())?;
    Ok(0)
}

/// Prints the one-line form of generations and flags. Without valid metadata nothing is printed (exit code 1).
pub fn get_gi(target: &MetaTarget, io: &mut dyn Prompt) -> Outcome {
    let Some((_, sb, _)) = unless_missing(open_to_read(target, io))? else { return Ok(EXIT_NO_META) };
    writeln!(io.out(), "{}", GiLine(&sb.uuids, sb.flags))?;
    Ok(0)
}

/// Prints generations and flags with their explanation.
pub fn show_gi(target: &MetaTarget, io: &mut dyn Prompt) -> Outcome {
    let Some((_, sb, _)) = unless_missing(open_to_read(target, io))? else { return Ok(EXIT_NO_META) };
    write!(io.out(), "{SHOW_GI_HEAD}{}\n{SHOW_GI_FOOT}", GiLine(&sb.uuids, sb.flags))?;
    write!(io.out(), "{}", ShowGiTail(&sb))?;
    Ok(0)
}

/// Prints the disk state the flags stand for.
pub fn dstate(target: &MetaTarget, io: &mut dyn Prompt) -> Outcome {
    let (_, sb, _) = open_to_read(target, io)?;
    writeln!(io.out(), "{}", sb.flags.disk_state())?;
    Ok(0)
}

/// Stores generations and flags given in the form of the get-gi line; empty fields keep their value. Exit code 0
/// if declined, 10 for a bad field.
pub fn set_gi(target: &MetaTarget, opts: &Opts, values: &str, io: &mut dyn Prompt) -> Outcome {
    let (dev, old, layout) = open_to_change(target)?;
    let mut new = old;
    apply_set_gi(values, &mut new.uuids, &mut new.flags)?;
    writeln!(io.out(), "previously {}", GiLine(&old.uuids, old.flags))?;
    writeln!(io.out(), "set GI to  {}", GiLine(&new.uuids, new.flags))?;
    if !confirmed(io, opts.force, "Write new GI to disk?")? {
        writeln!(io.out(), "Operation canceled.")?;
        return Ok(0);
    }
    dev.write_superblock(layout.superblock_sector(), &new)?;
    Ok(0)
}

/// Marks the data as outdated. Exit code 5 if it is inconsistent; nothing happens if it is outdated already.
pub fn outdate(target: &MetaTarget, io: &mut dyn Prompt) -> Outcome {
    let Some((dev, mut sb, layout)) = unless_missing(open_to_change(target))? else {
        return Ok(EXIT_NO_META);
    };
    if !sb.flags.has(MetaFlags::CONSISTENT) {
        writeln!(io.err(), "Device is inconsistent.")?;
        return Ok(EXIT_INCONSISTENT);
    }
    if sb.flags.has(MetaFlags::WAS_UP_TO_DATE) {
        sb.flags = sb.flags.without(MetaFlags::WAS_UP_TO_DATE);
        dev.write_superblock(layout.superblock_sector(), &sb)?;
    }
    Ok(0)
}

/// Marks the data as unusable: the next attach asks for a full sync.
pub fn invalidate(target: &MetaTarget) -> Outcome {
    let Some((dev, mut sb, layout)) = unless_missing(open_to_change(target))? else {
        return Ok(EXIT_NO_META);
    };
    let dropped = MetaFlags::CONSISTENT.with(MetaFlags::WAS_UP_TO_DATE);
    sb.flags = sb.flags.without(dropped).with(MetaFlags::FULL_SYNC);
    dev.write_superblock(layout.superblock_sector(), &sb)?;
    Ok(0)
}

/// Prints the device UUID.
pub fn read_dev_uuid(target: &MetaTarget, io: &mut dyn Prompt) -> Outcome {
    let (_, sb, _) = open_to_read(target, io)?;
    writeln!(io.out(), "{:016X}", sb.device_uuid)?;
    Ok(0)
}

/// Stores the device UUID, given as hexadecimal digits.
pub fn write_dev_uuid(target: &MetaTarget, hex: &str) -> Outcome {
    let device_uuid = parse_hex(hex)?;
    let (dev, sb, layout) = open_to_change(target)?;
    dev.write_superblock(layout.superblock_sector(), &SuperBlock { device_uuid, ..sb })?;
    Ok(0)
}

/// Reads `bytes` (a multiple of 8) of the bitmap, or as many as the area has.
pub(super) fn read_bitmap(dev: &MetaDevice, layout: &Layout, bytes: u64) -> Result<Vec<u64>, MetaError> {
    const CHUNK_WORDS: usize = 1 << 17;
    let words = bytes.min(layout.bitmap_area_sectors() * 512) / 8;
    let count = usize::try_from(words).map_err(|_| MetaError::Memory(bytes))?;
    let mut bitmap = Vec::new();
    bitmap.try_reserve_exact(count).map_err(|_| MetaError::Memory(bytes))?;
    let mut raw = vec![0; count.min(CHUNK_WORDS) * 8];
    while bitmap.len() < count {
        let now = (count - bitmap.len()).min(CHUNK_WORDS);
        let raw = &mut raw[..now * 8];
        dev.read(layout.bitmap_sector() + bitmap.len() as u64 / 64, raw)?;
        bitmap.extend(raw.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
    }
    Ok(bitmap)
}

fn open_to_read(
    target: &MetaTarget,
    io: &mut dyn Prompt,
) -> Result<(MetaDevice, SuperBlock, Layout), MetaError> {
    check_paths(target)?;
    let dev = MetaDevice::open(target, Access::Read)?;
    if dev.in_use() {
        writeln!(io.err(), "# Output might be stale, since {} is in use", dev.path().display())?;
    }
    let (sb, layout) = dev.valid()?;
    Ok((dev, sb, layout))
}

pub(super) fn open_to_change(target: &MetaTarget) -> Result<(MetaDevice, SuperBlock, Layout), MetaError> {
    check_paths(target)?;
    let dev = MetaDevice::open(target, Access::Write)?;
    let (sb, layout) = dev.valid()?;
    Ok((dev, sb, layout))
}

fn unless_missing<T>(result: Result<T, MetaError>) -> Result<Option<T>, MetaError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(MetaError::NoMetaData) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The header lines: time (UTC), host and command line.
fn header(text: &mut String, opts: &Opts) {
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil_date(epoch / 86400);
    let (hour, minute, second) = (epoch / 3600 % 24, epoch / 60 % 60, epoch % 60);
    // One line each, whatever the words contain.
    let clean = |s: &str| s.replace(['\n', '\r'], " ");
    text.push_str("# DRBD meta data dump\n");
    text.push_str(&format!(
        "# {year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 [{epoch}]\n"
    ));
    text.push_str(&format!("# {}> {}\n#\n\n", clean(&opts.host), clean(&opts.command_line)));
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years start in March here, so
/// that the leap day is the last one.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let day = days + 719_468;
    let (era, day) = (day / DAYS_PER_400_YEARS, day % DAYS_PER_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (era * 400 + year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::path::PathBuf;

    use replicator::meta::layout::MetaKind;

    use super::super::create::create_md;
    use super::*;

    /// Says whether the metadata could be changed when the first output came; nobody is asked.
    struct Pager(MetaTarget, Option<bool>);

    impl Write for Pager {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.get_or_insert_with(|| MetaDevice::open(&self.0, Access::Write).is_ok());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Prompt for Pager {
        fn out(&mut self) -> &mut dyn Write {
            self
        }
        fn err(&mut self) -> &mut dyn Write {
            self
        }
        fn is_terminal(&self) -> bool {
            false
        }
        fn read_line(&mut self) -> io::Result<String> {
            Ok(String::new())
        }
    }

    /// Whoever pages through it may take hours.
    #[test]
    fn a_dump_that_is_being_read_keeps_nobody_from_attaching() {
        let dir = tempfile::tempdir().unwrap();
        let disk: PathBuf = dir.path().join("disk.img");
        std::fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
        let target = MetaTarget { data: disk.clone(), meta: disk, kind: MetaKind::Internal };
        let opts = Opts { force: true, ..Opts::default() };
        create_md(&target, &opts, &mut Pager(target.clone(), Some(true))).unwrap();
        let mut pager = Pager(target.clone(), None);
        assert_eq!(dump_md(&target, &opts, &mut pager).unwrap(), 0);
        assert_eq!(pager.1, Some(true));
    }

    #[test]
    fn dates_around_leap_days() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (11_016, (2000, 2, 29)),
            (19_753, (2024, 1, 31)),
            (20_777, (2026, 11, 20)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil_date(days), date);
        }
    }
}
