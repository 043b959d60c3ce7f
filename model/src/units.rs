//! Units of the replicated device and the geometry that connects them (drbd-wire "terms", drbd-metadata 1).

/// Bytes in a sector; every sector number and `_sectors` length uses this unit.
pub const SECTOR_BYTES: u32 = 512;
/// Bytes that one bit of the out-of-sync bitmap stands for.
pub const BLOCK_BYTES: u32 = 4096;
/// Sectors per bitmap bit.
pub const SECTORS_PER_BIT: u64 = 8;
/// Sectors per activity log extent (4 MiB).
pub const SECTORS_PER_AL_EXTENT: u64 = 8192;
/// Bits per activity log extent.
pub const BITS_PER_AL_EXTENT: u64 = 1024;
/// Sectors per resync extent (16 MiB); resync requests never cross its border.
pub const SECTORS_PER_RESYNC_EXTENT: u64 = 32768;
/// Bits per 4 KiB page of the on-disk bitmap.
pub const BITS_PER_BITMAP_PAGE: u64 = 32768;
/// Largest request with payload on the wire, in bytes.
pub const MAX_BIO_BYTES: u32 = 1 << 20;
/// Largest discard or zero-out range on the wire, in bytes.
pub const MAX_DISCARD_BYTES: u32 = 128 << 20;
/// Largest device, in sectors (drbd-metadata 2.2).
pub const MAX_DEVICE_SECTORS: u64 = 1 << 41;

const _: () = assert!(SECTORS_PER_BIT * SECTOR_BYTES as u64 == BLOCK_BYTES as u64);
const _: () = assert!(SECTORS_PER_AL_EXTENT == BITS_PER_AL_EXTENT * SECTORS_PER_BIT);
const _: () = assert!(SECTORS_PER_RESYNC_EXTENT == 4 * SECTORS_PER_AL_EXTENT);

/// A half-open range of sectors on the replicated device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SectorRange {
    /// First sector.
    pub start: u64,
    /// One behind the last sector.
    pub end: u64,
}

impl SectorRange {
    /// Range of `len_bytes` (a multiple of 512) from `sector` on.
    pub const fn new(sector: u64, len_bytes: u32) -> SectorRange {
        SectorRange { start: sector, end: sector.saturating_add((len_bytes / SECTOR_BYTES) as u64) }
    }

    /// Both ranges share at least one sector.
    pub const fn overlaps(self, other: SectorRange) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// `other` lies completely inside this range.
    pub const fn contains(self, other: SectorRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Number of sectors.
    pub const fn len_sectors(self) -> u64 {
        self.end - self.start
    }

    /// First and last bit of all blocks the range touches; used when setting bits. The range must not be empty.
    pub const fn bits_touched(self) -> (u64, u64) {
        (self.start / SECTORS_PER_BIT, (self.end - 1) / SECTORS_PER_BIT)
    }

    /// First bit and one behind the last bit of the blocks that lie completely inside; used when clearing.
    /// A range that reaches `device_sectors` covers the last, short block as a whole (drbd-wire 4.7).
    pub const fn bits_covered(self, device_sectors: u64) -> (u64, u64) {
        let first = self.start.div_ceil(SECTORS_PER_BIT);
        let end = if self.end >= device_sectors {
            device_sectors.div_ceil(SECTORS_PER_BIT)
        } else {
            self.end / SECTORS_PER_BIT
        };
        (first, if end > first { end } else { first })
    }

    /// First and last activity log extent the range touches. The range must not be empty.
    pub const fn al_extents(self) -> (u32, u32) {
        ((self.start / SECTORS_PER_AL_EXTENT) as u32, ((self.end - 1) / SECTORS_PER_AL_EXTENT) as u32)
    }
}

/// Number of bitmap bits of a device of `sectors`.
pub const fn bits_of(sectors: u64) -> u64 {
    sectors.div_ceil(SECTORS_PER_BIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_widens_and_clearing_shrinks_to_whole_blocks() {
        let r = SectorRange::new(4, 512 * 9);
        assert_eq!(r.bits_touched(), (0, 1));
        assert_eq!(r.bits_covered(1000), (1, 1));
        assert_eq!(SectorRange::new(8, 4096).bits_covered(1000), (1, 2));
        assert_eq!(SectorRange::new(992, 512 * 3).bits_covered(995), (124, 125));
        assert_eq!(SectorRange::new(993, 512 * 2).bits_covered(995), (125, 125));
    }
}
