//! What the device-mapper target `log-writes` records: every write, flush and mark of a device, the writes where the
//! flush that made them durable was (Documentation/admin-guide/device-mapper/log-writes.rst).

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::path::Path;

/// One record.
pub enum Entry {
    /// Data for a sector and those behind it. Without `fua` it was completed before the next flush was sent, and is
    /// recorded in front of that.
    Write { sector: u64, data: Vec<u8>, fua: bool },
    /// A flush that was completed.
    Flush,
    /// What [`mark`] was given.
    Mark(u64),
}

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// Recorded when the device is removed.
const LAST_MARK: &str = "dm-log-writes-end";

/// Reads the log on a device (or its image) from begin to end.
pub fn read(path: &Path) -> Vec<Entry> {
    let mut log = BufReader::new(File::open(path).expect("the log"));
    let [magic, version, count, unit] = take(&mut log);
    let unit_bytes = i64::try_from(unit & 0xffff_ffff).expect("a size of sectors");
    assert_eq!((magic, version, unit_bytes), (MAGIC, 1, 512), "a log of version 1 in sectors of 512 bytes");
    let mut entries = Vec::new();
    let mut at_bytes = 512;
    for _ in 0..count {
        log.seek(SeekFrom::Start(at_bytes)).expect("a place in the log");
        let [sector, sectors, flags, text_bytes] = take(&mut log);
        at_bytes += 512;
        assert_eq!(flags & DISCARD, 0, "nobody discards here");
        if flags & MARK != 0 {
            let mut text = vec![0; text_bytes as usize];
            log.read_exact(&mut text).expect("a mark");
            let text = String::from_utf8(text).expect("a mark is text");
            let text = text.trim_end_matches('\0');
            if text == LAST_MARK {
                break;
            }
            entries.push(Entry::Mark(text.parse().expect("a mark is a number")));
            continue;
        }
        if flags & FLUSH != 0 {
            entries.push(Entry::Flush);
        }
        if sectors > 0 {
            let mut data = vec![0; sectors as usize * 512];
            log.seek(SeekFrom::Start(at_bytes)).expect("data of a record");
            log.read_exact(&mut data).expect("data of a record");
            entries.push(Entry::Write { sector, data, fua: flags & FUA != 0 });
            at_bytes += sectors * 512;
        }
    }
    entries
}

fn take(log: &mut impl Read) -> [u64; 4] {
    let mut bytes = [0; 32];
    log.read_exact(&mut bytes).expect("a record");
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    [word(0), word(8), word(16), word(24)]
}

/// Puts a number into the log of the device-mapper device `name`, between what is written before and after.
pub fn mark(name: &str, number: u64) {
    // struct dm_ioctl of <linux/dm-ioctl.h>, a struct dm_target_msg and its text, in words for their alignment.
    const HEADER_BYTES: usize = 312;
    const NAME_AT: usize = 48;
    let mut bytes = [0u8; 512];
    for (at, value) in [(0, 4u32), (12, 512), (16, HEADER_BYTES as u32)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
    let text = format!("mark {number}");
    bytes[HEADER_BYTES + 8..HEADER_BYTES + 8 + text.len()].copy_from_slice(text.as_bytes());
    let mut words = bytes.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect::<Vec<_>>();
    let control = File::open("/dev/mapper/control").expect("the device-mapper");
    // SAFETY: DM_TARGET_MSG takes a buffer of `data_size` bytes (512, the size of `words`), reads a terminated text from
    // it and writes at most that many bytes back.
    let result = unsafe {
        nix::libc::ioctl(
            control.as_raw_fd(),
            nix::request_code_readwrite!(0xfd, 14, HEADER_BYTES),
            words.as_mut_ptr(),
        )
    };
    assert_eq!(result, 0, "mark {number} for {name}: {}", std::io::Error::last_os_error());
}
