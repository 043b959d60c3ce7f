//! Where super block, activity log and bitmap are (drbd-metadata 2).

use model::units::{MAX_DEVICE_SECTORS, SECTORS_PER_BIT};
use thiserror::Error;

use crate::activity_log::transaction::AlRing;

/// Sectors of the super block.
pub const SUPERBLOCK_SECTORS: u64 = 8;
/// Sectors of one slot of an indexed metadata device (128 MiB).
pub const INDEXED_SLOT_SECTORS: u64 = 262_144;
/// Data sectors one 4 KiB bitmap page describes.
pub const SECTORS_PER_BITMAP_PAGE: u64 = 262_144;
/// Data sectors one sector of bitmap describes.
pub const SECTORS_PER_BITMAP_SECTOR: u64 = 32_768;
/// Most data sectors an indexed slot can describe: `(262144 - 64 - 8) * 32768`.
pub const INDEXED_USABLE_SECTORS_MAX: u64 = 8_587_575_296;
/// Smallest metadata device an attach accepts for index below 0 (1 MiB).
pub const ATTACH_SECTORS_MIN: u64 = 2048;
/// Highest slot number the tools accept.
pub const INDEX_MAX: u32 = 255;

/// Kind of metadata, the index of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetaKind {
    /// At the end of the backing device (index -3, and the legacy -1).
    Internal,
    /// A whole device for the metadata (index -2).
    FlexibleExternal,
    /// Slot of 128 MiB on a device shared with others.
    Indexed(u32),
}

/// Why there is no room for metadata, or too much of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LayoutError {
    /// The device does not hold the metadata and at least some data.
    #[error("the device has {found_sectors} sectors, the meta data needs at least {needed_sectors}")]
    TooSmall {
        /// Size found.
        found_sectors: u64,
        /// Size that would do.
        needed_sectors: u64,
    },
    /// Beyond 1 PiB.
    #[error("the device has {found_sectors} sectors, more than the supported {MAX_DEVICE_SECTORS}")]
    TooLarge {
        /// Size found.
        found_sectors: u64,
    },
    /// Slot number beyond [`INDEX_MAX`].
    #[error("meta data index {0} is out of range")]
    Index(u32),
}

impl LayoutError {
    /// Number of the attach error.
    pub const fn attach_error(&self) -> u16 {
        match self {
            LayoutError::TooSmall { .. } => 112,
            LayoutError::TooLarge { .. } => 111,
            LayoutError::Index(_) => 116,
        }
    }
}

/// Positions for one device of one size. Sectors are absolute on the metadata device unless called offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    kind: MetaKind,
    ring: AlRing,
    superblock_sector: u64,
    al_offset_sectors: i32,
    bm_offset_sectors: i32,
    md_size_sectors: u32,
}

/// Sector of the super block on a metadata device of `meta_sectors`; it does not depend on the ring. `None`: the
/// device is too small to have one.
pub const fn superblock_sector(kind: MetaKind, meta_sectors: u64) -> Option<u64> {
    let sector = match kind {
        MetaKind::Internal => {
            if meta_sectors < SUPERBLOCK_SECTORS {
                return None;
            }
            (meta_sectors & !7) - SUPERBLOCK_SECTORS
        }
        MetaKind::FlexibleExternal => 0,
        MetaKind::Indexed(n) => n as u64 * INDEXED_SLOT_SECTORS,
    };
    if sector + SUPERBLOCK_SECTORS > meta_sectors { None } else { Some(sector) }
}

impl Layout {
    /// The layout for a metadata device of `meta_sectors` (for internal: the backing device) and a ring.
    // spec: drbd-metadata 2.2
    pub fn new(kind: MetaKind, meta_sectors: u64, ring: AlRing) -> Result<Layout, LayoutError> {
        if meta_sectors > MAX_DEVICE_SECTORS {
            return Err(LayoutError::TooLarge { found_sectors: meta_sectors });
        }
        match kind {
            MetaKind::Internal => Layout::internal(meta_sectors, ring),
            MetaKind::FlexibleExternal => Layout::external(kind, meta_sectors, meta_sectors, ring),
            MetaKind::Indexed(n) if n > INDEX_MAX => Err(LayoutError::Index(n)),
            MetaKind::Indexed(n) => {
                let needed_sectors = (u64::from(n) + 1) * INDEXED_SLOT_SECTORS;
                if meta_sectors < needed_sectors {
                    return Err(LayoutError::TooSmall { found_sectors: meta_sectors, needed_sectors });
                }
                Layout::external(kind, INDEXED_SLOT_SECTORS, meta_sectors, ring)
            }
        }
    }

    fn internal(sectors: u64, ring: AlRing) -> Result<Layout, LayoutError> {
        let al = u64::from(ring.sectors());
        let bitmap = 8 * sectors.div_ceil(SECTORS_PER_BITMAP_PAGE);
        let needed_sectors = SUPERBLOCK_SECTORS + al + bitmap + SECTORS_PER_BIT;
        if (sectors & !7) < needed_sectors {
            return Err(LayoutError::TooSmall { found_sectors: sectors, needed_sectors });
        }
        // 2^41 sectors need 2^26 sectors of bitmap, and a ring has at most 2^25 sectors: both fit an i32.
        Ok(Layout {
            kind: MetaKind::Internal,
            ring,
            superblock_sector: (sectors & !7) - SUPERBLOCK_SECTORS,
            al_offset_sectors: -(al as i32),
            bm_offset_sectors: -((al + bitmap) as i32),
            md_size_sectors: (SUPERBLOCK_SECTORS + al + bitmap) as u32,
        })
    }

    fn external(
        kind: MetaKind,
        md_size: u64,
        found_sectors: u64,
        ring: AlRing,
    ) -> Result<Layout, LayoutError> {
        let bm_offset = SUPERBLOCK_SECTORS + u64::from(ring.sectors());
        let needed_sectors = bm_offset + SUPERBLOCK_SECTORS;
        if md_size < needed_sectors {
            return Err(LayoutError::TooSmall { found_sectors, needed_sectors });
        }
        let md_size_sectors = u32::try_from(md_size).map_err(|_| LayoutError::TooLarge { found_sectors })?;
        let superblock_sector = match kind {
            MetaKind::Indexed(n) => u64::from(n) * INDEXED_SLOT_SECTORS,
            MetaKind::Internal | MetaKind::FlexibleExternal => 0,
        };
        Ok(Layout {
            kind,
            ring,
            superblock_sector,
            al_offset_sectors: SUPERBLOCK_SECTORS as i32,
            bm_offset_sectors: bm_offset as i32,
            md_size_sectors,
        })
    }

    /// Kind the layout was made for.
    pub const fn kind(&self) -> MetaKind {
        self.kind
    }

    /// Geometry of the activity log.
    pub const fn ring(&self) -> AlRing {
        self.ring
    }

    /// First sector of the super block.
    pub const fn superblock_sector(&self) -> u64 {
        self.superblock_sector
    }

    /// Activity log relative to the super block, as the super block stores it.
    pub const fn al_offset_sectors(&self) -> i32 {
        self.al_offset_sectors
    }

    /// Bitmap relative to the super block, as the super block stores it.
    pub const fn bm_offset_sectors(&self) -> i32 {
        self.bm_offset_sectors
    }

    /// Size of the whole area, as the super block stores it.
    pub const fn md_size_sectors(&self) -> u32 {
        self.md_size_sectors
    }

    /// First sector of the activity log.
    pub const fn al_sector(&self) -> u64 {
        self.superblock_sector.strict_add_signed(self.al_offset_sectors as i64)
    }

    /// First sector of the bitmap.
    pub const fn bitmap_sector(&self) -> u64 {
        self.superblock_sector.strict_add_signed(self.bm_offset_sectors as i64)
    }

    /// Size of the bitmap area; the last page may be cut for a flexible device of odd size.
    pub const fn bitmap_area_sectors(&self) -> u64 {
        match self.kind {
            MetaKind::Internal => (self.al_offset_sectors - self.bm_offset_sectors) as u64,
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => {
                self.md_size_sectors as u64 - self.bm_offset_sectors as u64
            }
        }
    }

    /// First sector of the area.
    pub const fn first_sector(&self) -> u64 {
        match self.kind {
            MetaKind::Internal => self.bitmap_sector(),
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => self.superblock_sector,
        }
    }

    /// Last sector of the area.
    pub const fn last_sector(&self) -> u64 {
        match self.kind {
            MetaKind::Internal => self.superblock_sector + SUPERBLOCK_SECTORS - 1,
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => {
                self.superblock_sector + self.md_size_sectors as u64 - 1
            }
        }
    }

    /// First sector of 4 KiB page `page` of the bitmap.
    pub const fn bitmap_page_sector(&self, page: u64) -> u64 {
        self.bitmap_sector() + 8 * page
    }

    /// Length of 4 KiB page `page` of the bitmap, which is cut at the end of the area.
    pub fn bitmap_page_bytes(&self, page: u64) -> usize {
        512 * self.bitmap_area_sectors().saturating_sub(8 * page).min(8) as usize
    }

    /// First sector of 4 KiB block `block` of the activity log.
    pub const fn al_block_sector(&self, block: u32) -> u64 {
        self.al_sector() + 8 * block as u64
    }

    /// Data sectors of a backing device of `data_sectors` that can be used with this metadata.
    pub fn usable_sectors(&self, data_sectors: u64) -> u64 {
        let limit = match self.kind {
            MetaKind::Internal => return self.bitmap_sector(),
            MetaKind::FlexibleExternal => self.bitmap_area_sectors() * SECTORS_PER_BITMAP_SECTOR,
            MetaKind::Indexed(_) => INDEXED_USABLE_SECTORS_MAX,
        };
        data_sectors.min(limit).min(1 << 51)
    }

    /// Most data sectors the metadata can describe, whatever the backing device: what the tools cut a last
    /// agreed size to.
    pub fn describable_sectors(&self) -> u64 {
        match self.kind {
            MetaKind::Internal => self.bitmap_sector(),
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => {
                (self.bitmap_area_sectors() * SECTORS_PER_BITMAP_SECTOR).min(MAX_DEVICE_SECTORS)
            }
        }
    }

    /// The metadata device of `meta_sectors` is large enough for an attach (drbd-metadata 2.4).
    pub fn check_attach_size(kind: MetaKind, meta_sectors: u64) -> Result<(), LayoutError> {
        let needed_sectors = match kind {
            MetaKind::Internal | MetaKind::FlexibleExternal => ATTACH_SECTORS_MIN,
            MetaKind::Indexed(n) => INDEXED_SLOT_SECTORS * (u64::from(n) + 1),
        };
        if meta_sectors < needed_sectors {
            return Err(LayoutError::TooSmall { found_sectors: meta_sectors, needed_sectors });
        }
        Ok(())
    }
}

/// Bytes of on-disk bitmap for a device of `sectors`: whole 64-bit words, rounded up to 4 KiB.
pub const fn bitmap_bytes(sectors: u64) -> u64 {
    let words = sectors.div_ceil(SECTORS_PER_BIT).div_ceil(64);
    (words * 8).next_multiple_of(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// drbd-metadata 2.3: device bytes, md_size, then bytes of super block, log, bitmap, and usable sectors.
    const WORKED: &[(u64, u32, u64, u64, u64, u64)] = &[
        (69632, 80, 65536, 32768, 28672, 56),
        (1048576, 80, 1044480, 1011712, 1007616, 1968),
        (16777216, 80, 16773120, 16740352, 16736256, 32688),
        (16777728, 80, 16773120, 16740352, 16736256, 32688),
        (16780800, 80, 16773120, 16740352, 16736256, 32688),
        (67108864, 80, 67104768, 67072000, 67067904, 130992),
        (134217728, 80, 134213632, 134180864, 134176768, 262064),
        (134218240, 88, 134213632, 134180864, 134172672, 262056),
        (209715200, 88, 209711104, 209678336, 209670144, 409512),
        (1073741824, 136, 1073737728, 1073704960, 1073672192, 2097016),
        (3221228032, 272, 3221221376, 3221188608, 3221086208, 6291184),
        (1099511627776, 65608, 1099511623680, 1099511590912, 1099478036480, 2147418040),
        (10995116277760, 655432, 10995116273664, 10995116240896, 10994780696576, 21474181048),
    ];

    #[test]
    fn internal_worked_values() {
        for &(bytes, md_size, sb, al, bm, usable) in WORKED {
            let l = Layout::new(MetaKind::Internal, bytes / 512, AlRing::DEFAULT).unwrap();
            assert_eq!(l.md_size_sectors(), md_size, "{bytes}");
            assert_eq!(
                (l.superblock_sector() * 512, l.al_sector() * 512, l.bitmap_sector() * 512),
                (sb, al, bm),
                "{bytes}"
            );
            assert_eq!(l.usable_sectors(bytes / 512), usable, "{bytes}");
            assert_eq!((l.first_sector(), l.last_sector()), (usable, sb / 512 + 7));
            assert_eq!(superblock_sector(MetaKind::Internal, bytes / 512), Some(sb / 512));
        }
    }

    #[test]
    fn external_worked_values() {
        let l = Layout::new(MetaKind::FlexibleExternal, 8192, AlRing::DEFAULT).unwrap();
        assert_eq!((l.md_size_sectors(), l.al_sector() * 512, l.bitmap_sector() * 512), (8192, 4096, 36864));
        assert_eq!((l.first_sector(), l.last_sector()), (0, 8191));
        assert_eq!(l.usable_sectors(1 << 40), (8192 - 72) * 32768);
        assert_eq!(l.usable_sectors(1000), 1000);
        let striped = Layout::new(MetaKind::FlexibleExternal, 8192, AlRing::new(4, 4).unwrap()).unwrap();
        assert_eq!(striped.bitmap_sector() * 512, 69632);
        let l = Layout::new(MetaKind::Indexed(1), 524288, AlRing::DEFAULT).unwrap();
        assert_eq!(
            (l.superblock_sector() * 512, l.al_sector() * 512, l.bitmap_sector() * 512),
            (134217728, 134221824, 134254592)
        );
        assert_eq!((l.md_size_sectors(), l.last_sector()), (262144, 262144 + 262143));
        assert_eq!(l.usable_sectors(1 << 41), 8587575296);
        assert_eq!(l.bitmap_area_sectors() * SECTORS_PER_BITMAP_SECTOR, INDEXED_USABLE_SECTORS_MAX);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let too_small = |kind, sectors| {
            matches!(Layout::new(kind, sectors, AlRing::DEFAULT), Err(LayoutError::TooSmall { .. }))
        };
        assert!(too_small(MetaKind::Internal, 0) && too_small(MetaKind::Internal, 87));
        assert!(!too_small(MetaKind::Internal, 88));
        assert!(too_small(MetaKind::FlexibleExternal, 79) && !too_small(MetaKind::FlexibleExternal, 80));
        assert!(too_small(MetaKind::Indexed(1), 524287) && !too_small(MetaKind::Indexed(1), 524288));
        assert_eq!(
            Layout::new(MetaKind::Indexed(256), 1 << 40, AlRing::DEFAULT),
            Err(LayoutError::Index(256))
        );
        for kind in [MetaKind::Internal, MetaKind::FlexibleExternal, MetaKind::Indexed(0)] {
            assert!(matches!(
                Layout::new(kind, (1 << 41) + 1, AlRing::DEFAULT),
                Err(LayoutError::TooLarge { .. })
            ));
        }
        let largest_ring = AlRing::new(1, 4_194_304).unwrap();
        let l = Layout::new(MetaKind::Internal, 1 << 41, largest_ring).unwrap();
        assert_eq!(l.bitmap_sector(), (1 << 41) - 8 - (1 << 25) - (1 << 26));
    }

    #[test]
    fn attach_wants_a_minimum() {
        assert!(Layout::check_attach_size(MetaKind::Internal, 2047).is_err());
        assert!(Layout::check_attach_size(MetaKind::FlexibleExternal, 2048).is_ok());
        assert_eq!(Layout::check_attach_size(MetaKind::Indexed(1), 524287).unwrap_err().attach_error(), 112);
    }

    #[test]
    fn bitmap_size_is_whole_words_in_whole_pages() {
        assert_eq!(bitmap_bytes(0), 0);
        assert_eq!(bitmap_bytes(1), 4096);
        assert_eq!(bitmap_bytes(262144), 4096);
        assert_eq!(bitmap_bytes(262145), 8192);
        assert_eq!(bitmap_bytes(2097152), 32768);
    }
}
