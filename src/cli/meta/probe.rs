//! Recognizes what is on a device before metadata is put there.

/// Bytes at the start of a device that are looked at.
pub const PROBE_BYTES: usize = 68 << 10;

/// Something that uses the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Content {
    /// As the message names it.
    pub name: &'static str,
    /// Bytes from the start that it uses, if it says so.
    pub used_bytes: Option<u64>,
}

/// What is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// All zero.
    Blank,
    /// Bytes nobody knows.
    SomeData,
    /// Recognized.
    Known(Content),
}

/// Judges the first [`PROBE_BYTES`] (fewer on a small device).
pub fn probe(head: &[u8]) -> Probe {
    if head.iter().all(|b| *b == 0) {
        return Probe::Blank;
    }
    match DETECTORS.iter().find_map(|detect| detect(head)) {
        Some(content) => Probe::Known(content),
        None => Probe::SomeData,
    }
}

type Detector = fn(&[u8]) -> Option<Content>;

/// File systems come first: they tell their size, and leave room for a boot sector that looks like a table.
const DETECTORS: &[Detector] =
    &[ext, xfs, btrfs, reiserfs, jfs, ntfs, swap, lvm, luks, raid, gpt, boot_sector];

fn ext(head: &[u8]) -> Option<Content> {
    const INCOMPAT_64BIT: u32 = 0x80;
    if le16(head, 0x438)? != 0xEF53 {
        return None;
    }
    let low = u64::from(le32(head, 0x404)?);
    let high = if le32(head, 0x460)? & INCOMPAT_64BIT != 0 { u64::from(le32(head, 0x550)?) } else { 0 };
    let used_bytes = 1024u64
        .checked_shl(le32(head, 0x418)?)
        .and_then(|block_bytes| (high << 32 | low).checked_mul(block_bytes))
        .filter(|bytes| *bytes > 0);
    Some(Content { name: "ext3 filesystem", used_bytes })
}

fn xfs(head: &[u8]) -> Option<Content> {
    is_at(head, 0, b"XFSB")?;
    let used_bytes = u64::from(be32(head, 4)?).checked_mul(be64(head, 8)?);
    Some(Content { name: "xfs filesystem", used_bytes })
}

fn btrfs(head: &[u8]) -> Option<Content> {
    is_at(head, 0x10040, b"_BHRfS_M")?;
    // Size of this device, not of a file system over several.
    Some(Content { name: "btrfs filesystem", used_bytes: le64(head, 0x100D1) })
}

fn reiserfs(head: &[u8]) -> Option<Content> {
    is_at(head, 0x10034, b"ReIsEr")?;
    let used_bytes = u64::from(le32(head, 0x10000)?).checked_mul(u64::from(le16(head, 0x1002C)?));
    Some(Content { name: "reiser filesystem", used_bytes })
}

fn jfs(head: &[u8]) -> Option<Content> {
    is_at(head, 0x8000, b"JFS1")?;
    Some(Content { name: "jfs filesystem", used_bytes: None })
}

fn ntfs(head: &[u8]) -> Option<Content> {
    is_at(head, 3, b"NTFS    ")?;
    // The last sector of the volume holds a copy of the boot sector and is not counted.
    let sectors = le64(head, 0x28)?.checked_add(1)?;
    Some(Content { name: "ntfs filesystem", used_bytes: sectors.checked_mul(u64::from(le16(head, 0x0B)?)) })
}

fn swap(head: &[u8]) -> Option<Content> {
    let found = [4096usize, 8192, 16384, 65536].into_iter().any(|page| {
        is_at(head, page - 10, b"SWAPSPACE2").or(is_at(head, page - 10, b"SWAP-SPACE")).is_some()
    });
    found.then_some(Content { name: "swap space signature", used_bytes: None })
}

fn lvm(head: &[u8]) -> Option<Content> {
    let found = (0..4).any(|sector| {
        is_at(head, sector * 512, b"LABELONE").is_some()
            && is_at(head, sector * 512 + 24, b"LVM2 001").is_some()
    });
    found.then_some(Content { name: "LVM2 physical volume signature", used_bytes: None })
}

fn luks(head: &[u8]) -> Option<Content> {
    is_at(head, 0, b"LUKS\xba\xbe")?;
    Some(Content { name: "LUKS signature", used_bytes: None })
}

fn raid(head: &[u8]) -> Option<Content> {
    let found = [0, 4096].into_iter().any(|at| le32(head, at) == Some(0xA92B_4EFC));
    found.then_some(Content { name: "software RAID signature", used_bytes: None })
}

fn gpt(head: &[u8]) -> Option<Content> {
    is_at(head, 512, b"EFI PART").or(is_at(head, 4096, b"EFI PART"))?;
    Some(Content { name: "partition table (gpt)", used_bytes: None })
}

/// A partition table, or the boot sector of FAT and relatives.
fn boot_sector(head: &[u8]) -> Option<Content> {
    is_at(head, 510, &[0x55, 0xAA])?;
    Some(Content { name: "partition table or boot sector", used_bytes: None })
}

fn is_at(head: &[u8], at: usize, magic: &[u8]) -> Option<()> {
    (head.get(at..at + magic.len())? == magic).then_some(())
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at + N)?.try_into().ok()
}

fn le16(head: &[u8], at: usize) -> Option<u16> {
    bytes(head, at).map(u16::from_le_bytes)
}

fn le32(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_le_bytes)
}

fn le64(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(u64::from_le_bytes)
}

fn be32(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_be_bytes)
}

fn be64(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; PROBE_BYTES];
        for (at, bytes) in parts {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn every_signature_is_recognized() {
        for (name, used_bytes, parts) in [
            ("ext3 filesystem", Some(40 << 20), vec![(0x438, &b"\x53\xef"[..]), (0x404, &[0, 160, 0, 0])]),
            ("xfs filesystem", Some(4096 * 256), vec![(0, &b"XFSB\0\0\x10\0\0\0\0\0\0\0\x01\0"[..])]),
            ("btrfs filesystem", Some(0x1000), vec![(0x10040, &b"_BHRfS_M"[..]), (0x100D1, &[0, 0x10])]),
            (
                "reiser filesystem",
                Some(4096 * 7),
                vec![(0x10034, &b"ReIsEr2Fs"[..]), (0x10000, &[7]), (0x1002D, &[16])],
            ),
            ("jfs filesystem", None, vec![(0x8000, &b"JFS1"[..])]),
            ("ntfs filesystem", Some(512 * 9), vec![(3, &b"NTFS    "[..]), (0x28, &[8]), (0x0C, &[2])]),
            ("swap space signature", None, vec![(4086, &b"SWAPSPACE2"[..])]),
            ("LVM2 physical volume signature", None, vec![(512, &b"LABELONE"[..]), (536, b"LVM2 001")]),
            ("LUKS signature", None, vec![(0, &b"LUKS\xba\xbe"[..])]),
            ("software RAID signature", None, vec![(4096, &b"\xfc\x4e\x2b\xa9"[..])]),
            ("partition table (gpt)", None, vec![(512, &b"EFI PART"[..]), (510, &[0x55, 0xAA])]),
            ("partition table or boot sector", None, vec![(510, &b"\x55\xaa"[..])]),
        ] {
            assert_eq!(probe(&with(&parts)), Probe::Known(Content { name, used_bytes }), "{name}");
        }
        assert_eq!(probe(&with(&[])), Probe::Blank);
        assert_eq!(probe(&with(&[(99, b"x")])), Probe::SomeData);
    }

    #[test]
    fn nonsense_and_short_devices_do_not_panic() {
        let all_ones = vec![0xFF; PROBE_BYTES];
        assert_eq!(probe(&all_ones), Probe::SomeData);
        let ext = with(&[(0x438, b"\x53\xef"), (0x418, &[0xFF; 4]), (0x404, &[0xFF; 4])]);
        assert!(matches!(probe(&ext), Probe::Known(Content { used_bytes: None, .. })));
        for len in [0, 1, 511, 0x439, 4096, 0x10040] {
            probe(&ext[..len]);
        }
    }
}
