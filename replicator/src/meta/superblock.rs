//! The super block: 4096 bytes, big endian, no checksum (drbd-metadata 3 to 5).

use core::fmt;

use model::ids::DataUuid;
use model::state::DiskState;
use model::units::MAX_DEVICE_SECTORS;
use thiserror::Error;

use super::layout::{INDEXED_SLOT_SECTORS, Layout, MetaKind};
use super::uuids::Uuids;
use crate::activity_log::transaction::{AlRing, StripingError};

/// Bytes of the super block on disk.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// `al_nr_extents` that create-md and restore-md store; without meaning.
pub const AL_EXTENTS_AT_CREATE: u32 = 257;
/// The only `bm_bytes_per_bit` there is.
pub const BYTES_PER_BIT: u32 = 4096;

/// Magic of a version this program cannot use, or of v08.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Magic {
    /// Not metadata of a block device.
    V06 = 0x8374_0269,
    /// DRBD 0.7.
    V07 = 0x8374_026A,
    /// DRBD 8, not attached.
    V08 = 0x8374_026B,
    /// DRBD 8.4, is or was attached: the activity log must be applied.
    V08Unclean = 0x8374_026C,
    /// DRBD 9.
    V09 = 0x8374_026D,
}

impl Magic {
    /// The magic with this number, if it is one.
    pub const fn from_number(number: u32) -> Option<Magic> {
        match number {
            0x8374_0269 => Some(Magic::V06),
            0x8374_026A => Some(Magic::V07),
            0x8374_026B => Some(Magic::V08),
            0x8374_026C => Some(Magic::V08Unclean),
            0x8374_026D => Some(Magic::V09),
            _ => None,
        }
    }

    /// The version as the tools name it.
    pub const fn version_name(self) -> &'static str {
        match self {
            Magic::V06 => "v06",
            Magic::V07 => "v07",
            Magic::V08 | Magic::V08Unclean => "v08",
            Magic::V09 => "v09",
        }
    }
}

/// The flags word (drbd-metadata 4.2). Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct MetaFlags(pub u32);

impl MetaFlags {
    /// Local disk state above Inconsistent.
    pub const CONSISTENT: MetaFlags = MetaFlags(0x001);
    /// Role Primary, or the only disk of a Primary.
    pub const PRIMARY_IND: MetaFlags = MetaFlags(0x002);
    /// Connection state above WFReportParams.
    pub const CONNECTED_IND: MetaFlags = MetaFlags(0x004);
    /// All bits are being set: the bitmap on disk is not to be trusted.
    pub const FULL_SYNC: MetaFlags = MetaFlags(0x008);
    /// Local disk state above Outdated.
    pub const WAS_UP_TO_DATE: MetaFlags = MetaFlags(0x010);
    /// Peer disk Inconsistent or Outdated.
    pub const PEER_OUT_DATED: MetaFlags = MetaFlags(0x020);
    /// Was a crashed Primary and not in sync with the peer since.
    pub const CRASHED_PRIMARY: MetaFlags = MetaFlags(0x040);
    /// Activity log applied; set by the tools only.
    pub const AL_CLEAN: MetaFlags = MetaFlags(0x080);
    /// The activity log is not written, or not to be trusted.
    pub const AL_DISABLED: MetaFlags = MetaFlags(0x100);
    /// The device has grown, and no resync has begun since: what the new part holds is not known to be the peer's. Not
    /// one of DRBD's flags.
    pub const GROWN: MetaFlags = MetaFlags(0x1_0000);
    /// A target has stored the sync UUID in the bitmap slot, and bits have been cleared for it: for a copy that is still of
    /// the generation before, the bitmap does not tell all. Not one of DRBD's flags either.
    pub const TARGET_BEGAN: MetaFlags = MetaFlags(0x2_0000);

    /// All bits of `flag` are set.
    pub const fn has(self, flag: MetaFlags) -> bool {
        self.0 & flag.0 == flag.0
    }

    /// These and the bits of `flag`.
    pub const fn with(self, flag: MetaFlags) -> MetaFlags {
        MetaFlags(self.0 | flag.0)
    }

    /// These without the bits of `flag`.
    pub const fn without(self, flag: MetaFlags) -> MetaFlags {
        MetaFlags(self.0 & !flag.0)
    }

    /// `flag` switched on or off.
    pub const fn set(self, flag: MetaFlags, on: bool) -> MetaFlags {
        if on { self.with(flag) } else { self.without(flag) }
    }

    /// Disk state the flags stand for, as `dstate` prints it.
    pub const fn disk_state(self) -> DiskState {
        if !self.has(MetaFlags::CONSISTENT) {
            DiskState::Inconsistent
        } else if !self.has(MetaFlags::WAS_UP_TO_DATE) {
            DiskState::Outdated
        } else if !self.has(MetaFlags::PEER_OUT_DATED) {
            DiskState::Consistent
        } else {
            DiskState::UpToDate
        }
    }
}

impl fmt::Debug for MetaFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// The super block, fields as on disk. Decoding checks the magic only; see
/// [`check_for_attach`](Self::check_for_attach) and [`check_for_tools`](Self::check_for_tools).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuperBlock {
    /// Last agreed device size in sectors; 0: never agreed.
    pub la_size_sectors: u64,
    /// Data generations.
    pub uuids: Uuids,
    /// Identifies this metadata.
    pub device_uuid: u64,
    /// State at the last change.
    pub flags: MetaFlags,
    /// The magic is the one of an attached device.
    pub unclean_magic: bool,
    /// Size of the whole area in sectors.
    pub md_size_sectors: u32,
    /// Activity log relative to the super block, in sectors.
    pub al_offset_sectors: i32,
    /// Number of activity log slots.
    pub al_nr_extents: u32,
    /// Bitmap relative to the super block, in sectors.
    pub bm_offset_sectors: i32,
    /// Must be 4096.
    pub bm_bytes_per_bit: u32,
    /// Largest request in bytes the peer was known to accept.
    pub la_peer_max_bio_bytes: u32,
    /// Number of activity log stripes.
    pub al_stripes: u32,
    /// 4 KiB blocks per stripe.
    pub al_stripe_size_4k: u32,
}

/// Why a super block cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SuperBlockError {
    /// No magic at all.
    #[error("Meta data magic not found. Did you \"drbdadm create-md\"?")]
    NoMagic,
    /// Metadata of DRBD 0.7.
    #[error("Found old (0.7) meta data magic. Did you \"drbdadm create-md\"?")]
    Old,
    /// Metadata of another version.
    #[error("Meta data magic not found: this is {} meta data, not v08. Did you \"drbdadm create-md\"?", .0.version_name())]
    OtherVersion(Magic),
    /// The activity log has to be applied first.
    #[error("Found unclean meta data. Did you \"drbdadm apply-al\"?")]
    Unclean,
    /// Another bitmap granularity.
    #[error("unexpected bm_bytes_per_bit: {found} (expected {BYTES_PER_BIT})")]
    BytesPerBit {
        /// Value found.
        found: u32,
    },
    /// Impossible activity log geometry.
    #[error(transparent)]
    Striping(#[from] StripingError),
    /// Positions or sizes contradict each other or the device.
    #[error(
        "meta data offsets don't make sense: {check}; al_offset={al_offset}, bm_offset={bm_offset}, md_size_sect={md_size}"
    )]
    Offsets {
        /// What was checked.
        check: OffsetCheck,
        /// Value found.
        al_offset: i32,
        /// Value found.
        bm_offset: i32,
        /// Value found.
        md_size: u32,
    },
    /// The bitmap area is too small for the last agreed size.
    #[error(
        "bitmap of {bitmap_sectors} sectors is too small for the last agreed size of {la_size_sectors} sectors"
    )]
    BitmapTooSmall {
        /// Size of the area.
        bitmap_sectors: u64,
        /// Last agreed size.
        la_size_sectors: u64,
    },
    /// No device is that large.
    #[error(
        "the last agreed size of {la_size_sectors} sectors is more than the supported {MAX_DEVICE_SECTORS}"
    )]
    TooLarge {
        /// Last agreed size.
        la_size_sectors: u64,
    },
}

/// Checks of positions and sizes, in the order they are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum OffsetCheck {
    /// Internal needs a negative al_offset, external a positive one.
    #[error("wrong side of the super block for this kind")]
    Side,
    /// Bitmap behind the activity log, or none.
    #[error("bitmap and activity log overlap")]
    Order,
    /// Indexed slots have one fixed layout.
    #[error("not the layout of an indexed slot")]
    Indexed,
    /// The area does not fit on the device.
    #[error("the device is too small")]
    Device,
    /// The activity log area is not what the geometry says.
    #[error("activity log size")]
    ActivityLog,
    /// The bitmap does not start at a 4 KiB block.
    #[error("bitmap alignment")]
    Alignment,
    /// Not what this device size gives.
    #[error("does not belong to a device of this size")]
    Geometry,
}

impl SuperBlockError {
    /// Number of the attach error (drbd-metadata 5). A failed read of the super block is 118.
    pub const fn attach_error(&self) -> u16 {
        match self {
            SuperBlockError::Unclean => 165,
            SuperBlockError::NoMagic
            | SuperBlockError::Old
            | SuperBlockError::OtherVersion(_)
            | SuperBlockError::BytesPerBit { .. }
            | SuperBlockError::Striping(_)
            | SuperBlockError::Offsets { .. }
            | SuperBlockError::BitmapTooSmall { .. }
            | SuperBlockError::TooLarge { .. } => 119,
        }
    }
}

impl SuperBlock {
    /// What create-md writes for `layout`: fresh and clean.
    pub fn just_created(layout: &Layout, la_peer_max_bio_bytes: u32) -> SuperBlock {
        SuperBlock {
            la_size_sectors: 0,
            uuids: Uuids::JUST_CREATED,
            device_uuid: 0,
            flags: MetaFlags::AL_CLEAN,
            unclean_magic: false,
            md_size_sectors: layout.md_size_sectors(),
            al_offset_sectors: layout.al_offset_sectors(),
            al_nr_extents: AL_EXTENTS_AT_CREATE,
            bm_offset_sectors: layout.bm_offset_sectors(),
            bm_bytes_per_bit: BYTES_PER_BIT,
            la_peer_max_bio_bytes,
            al_stripes: layout.ring().stripes(),
            al_stripe_size_4k: layout.ring().stripe_size_4k(),
        }
    }

    /// Reads the fields; fails unless the magic is one of the two of v08.
    pub fn decode(raw: &[u8; SUPERBLOCK_BYTES]) -> Result<SuperBlock, SuperBlockError> {
        let u32_at = |at: usize| u32::from_be_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let u64_at = |at: usize| (u64::from(u32_at(at)) << 32) | u64::from(u32_at(at + 4));
        let unclean_magic = match Magic::from_number(u32_at(60)) {
            Some(Magic::V08) => false,
            Some(Magic::V08Unclean) => true,
            Some(Magic::V07) => return Err(SuperBlockError::Old),
            Some(other) => return Err(SuperBlockError::OtherVersion(other)),
            None => return Err(SuperBlockError::NoMagic),
        };
        Ok(SuperBlock {
            la_size_sectors: u64_at(0),
            uuids: Uuids {
                current: DataUuid(u64_at(8)),
                bitmap: DataUuid(u64_at(16)),
                history: [DataUuid(u64_at(24)), DataUuid(u64_at(32))],
            },
            device_uuid: u64_at(40),
            flags: MetaFlags(u32_at(56)),
            unclean_magic,
            md_size_sectors: u32_at(64),
            al_offset_sectors: u32_at(68) as i32,
            al_nr_extents: u32_at(72),
            bm_offset_sectors: u32_at(76) as i32,
            bm_bytes_per_bit: u32_at(80),
            la_peer_max_bio_bytes: u32_at(84),
            al_stripes: u32_at(88),
            al_stripe_size_4k: u32_at(92),
        })
    }

    /// Writes the block; everything that has no field is zero.
    pub fn encode(&self, raw: &mut [u8; SUPERBLOCK_BYTES]) {
        raw.fill(0);
        let magic = if self.unclean_magic { Magic::V08Unclean } else { Magic::V08 };
        let words64 = [
            (0, self.la_size_sectors),
            (8, self.uuids.current.0),
            (16, self.uuids.bitmap.0),
            (24, self.uuids.history[0].0),
            (32, self.uuids.history[1].0),
            (40, self.device_uuid),
        ];
        let words32 = [
            (56, self.flags.0),
            (60, magic as u32),
            (64, self.md_size_sectors),
            (68, self.al_offset_sectors as u32),
            (72, self.al_nr_extents),
            (76, self.bm_offset_sectors as u32),
            (80, self.bm_bytes_per_bit),
            (84, self.la_peer_max_bio_bytes),
            (88, self.al_stripes),
            (92, self.al_stripe_size_4k),
        ];
        for (at, value) in words64 {
            raw[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        for (at, value) in words32 {
            raw[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
    }

    /// The activity log has been applied: plain magic and the flag AL_CLEAN.
    pub const fn is_clean(&self) -> bool {
        !self.unclean_magic && self.flags.has(MetaFlags::AL_CLEAN)
    }

    /// Geometry of the activity log.
    pub const fn ring(&self) -> Result<AlRing, StripingError> {
        AlRing::new(self.al_stripes, self.al_stripe_size_4k)
    }

    /// The checks 2 to 12 of an attach, in order; check 1 is the read itself. `meta_sectors` is the size of the
    /// metadata device.
    // spec: drbd-metadata 5
    pub fn check_for_attach(&self, kind: MetaKind, meta_sectors: u64) -> Result<(), SuperBlockError> {
        if !self.is_clean() {
            return Err(SuperBlockError::Unclean);
        }
        self.check_granularity()?;
        let ring = self.ring()?;
        let (al, bm) = (i64::from(self.al_offset_sectors), i64::from(self.bm_offset_sectors));
        let (al_sectors, bitmap_sectors) = if al < 0 {
            if kind != MetaKind::Internal {
                return Err(self.offsets(OffsetCheck::Side));
            }
            if bm > al {
                return Err(self.offsets(OffsetCheck::Order));
            }
            (-al, al - bm)
        } else {
            if kind == MetaKind::Internal || al != 8 {
                return Err(self.offsets(OffsetCheck::Side));
            }
            if bm < 8 + i64::from(ring.sectors()) || i64::from(self.md_size_sectors) < bm {
                return Err(self.offsets(OffsetCheck::Order));
            }
            (bm - 8, i64::from(self.md_size_sectors) - bm)
        };
        if let MetaKind::Indexed(_) = kind
            && (u64::from(self.md_size_sectors) != INDEXED_SLOT_SECTORS
                || bm != 72
                || ring != AlRing::DEFAULT)
        {
            return Err(self.offsets(OffsetCheck::Indexed));
        }
        self.check_area(kind, meta_sectors)?;
        if al_sectors % 8 != 0 || al_sectors < 64 || al_sectors != i64::from(ring.sectors()) {
            return Err(self.offsets(OffsetCheck::ActivityLog));
        }
        if bm % 8 != 0 {
            return Err(self.offsets(OffsetCheck::Alignment));
        }
        if self.la_size_sectors > MAX_DEVICE_SECTORS {
            return Err(SuperBlockError::TooLarge { la_size_sectors: self.la_size_sectors });
        }
        let bitmap_sectors = bitmap_sectors as u64;
        if bitmap_sectors < self.la_size_sectors.saturating_add(7) / 8 / 8 / 512 {
            return Err(SuperBlockError::BitmapTooSmall {
                bitmap_sectors,
                la_size_sectors: self.la_size_sectors,
            });
        }
        Ok(())
    }

    /// Check 9: the area lies on the device.
    fn check_area(&self, kind: MetaKind, meta_sectors: u64) -> Result<(), SuperBlockError> {
        let superblock = super::layout::superblock_sector(kind, meta_sectors);
        let first = superblock.and_then(|superblock| match kind {
            MetaKind::Internal => superblock.checked_add_signed(i64::from(self.bm_offset_sectors)),
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => Some(superblock),
        });
        let room = meta_sectors.checked_sub(u64::from(self.md_size_sectors));
        match (first, room) {
            (Some(first), Some(room)) if room >= first => Ok(()),
            _ => Err(self.offsets(OffsetCheck::Device)),
        }
    }

    /// What the tools call valid: positions are exactly those of a device of `meta_sectors`. Returns the layout.
    // spec: drbd-metadata 5, drbdmeta's own validity test
    pub fn check_for_tools(&self, kind: MetaKind, meta_sectors: u64) -> Result<Layout, SuperBlockError> {
        self.check_granularity()?;
        let ring = self.ring()?;
        let layout = Layout::new(kind, meta_sectors, ring).map_err(|_| self.offsets(OffsetCheck::Device))?;
        let same_offsets = self.al_offset_sectors == layout.al_offset_sectors()
            && self.bm_offset_sectors == layout.bm_offset_sectors();
        if !same_offsets || self.md_size_sectors != layout.md_size_sectors() {
            return Err(self.offsets(OffsetCheck::Geometry));
        }
        Ok(layout)
    }

    fn check_granularity(&self) -> Result<(), SuperBlockError> {
        if self.bm_bytes_per_bit != BYTES_PER_BIT {
            return Err(SuperBlockError::BytesPerBit { found: self.bm_bytes_per_bit });
        }
        Ok(())
    }

    fn offsets(&self, check: OffsetCheck) -> SuperBlockError {
        SuperBlockError::Offsets {
            check,
            al_offset: self.al_offset_sectors,
            bm_offset: self.bm_offset_sectors,
            md_size: self.md_size_sectors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTORS: u64 = 16777216 / 512;

    fn internal() -> SuperBlock {
        let layout = Layout::new(MetaKind::Internal, SECTORS, AlRing::DEFAULT).unwrap();
        SuperBlock::just_created(&layout, 0)
    }

    fn external(kind: MetaKind, sectors: u64) -> SuperBlock {
        SuperBlock::just_created(&Layout::new(kind, sectors, AlRing::DEFAULT).unwrap(), 0)
    }

    fn attach(change: impl FnOnce(&mut SuperBlock)) -> Result<(), SuperBlockError> {
        let mut sb = internal();
        change(&mut sb);
        sb.check_for_attach(MetaKind::Internal, SECTORS)
    }

    fn failed(result: Result<(), SuperBlockError>) -> OffsetCheck {
        match result {
            Err(SuperBlockError::Offsets { check, .. }) => check,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_round_trip_at_their_offsets() {
        let sb = SuperBlock {
            la_size_sectors: 0x0102_0304_0506_0708,
            uuids: Uuids {
                current: DataUuid(0x1111),
                bitmap: DataUuid(0x2222),
                history: [DataUuid(0x3333), DataUuid(u64::MAX)],
            },
            device_uuid: 0xDEAD_BEEF_0000_0001,
            flags: MetaFlags(0xF000_0017),
            unclean_magic: true,
            la_peer_max_bio_bytes: 1 << 20,
            ..internal()
        };
        let mut raw = [0xFF; SUPERBLOCK_BYTES];
        sb.encode(&mut raw);
        assert_eq!(SuperBlock::decode(&raw), Ok(sb));
        assert_eq!(raw[60..64], [0x83, 0x74, 0x02, 0x6C]);
        assert_eq!(raw[68..72], (-64i32).to_be_bytes());
        assert!(raw[48..56].iter().chain(&raw[96..]).all(|b| *b == 0));
    }

    #[test]
    fn only_v08_decodes() {
        let mut raw = [0; SUPERBLOCK_BYTES];
        assert_eq!(SuperBlock::decode(&raw), Err(SuperBlockError::NoMagic));
        for (magic, error) in [
            (0x8374_0269u32, SuperBlockError::OtherVersion(Magic::V06)),
            (0x8374_026A, SuperBlockError::Old),
            (0x8374_026D, SuperBlockError::OtherVersion(Magic::V09)),
            (0x8374_0267, SuperBlockError::NoMagic),
        ] {
            raw[60..64].copy_from_slice(&magic.to_be_bytes());
            assert_eq!(SuperBlock::decode(&raw), Err(error));
            assert_eq!(error.attach_error(), 119);
        }
    }

    #[test]
    fn clean_needs_magic_and_flag() {
        assert_eq!(attach(|_| ()), Ok(()));
        for change in [|sb: &mut SuperBlock| sb.unclean_magic = true, |sb: &mut SuperBlock| sb.flags.0 = 0] {
            let error = attach(change).unwrap_err();
            assert_eq!((error, error.attach_error()), (SuperBlockError::Unclean, 165));
        }
    }

    #[test]
    fn attach_checks_of_internal_metadata_in_order() {
        assert!(matches!(attach(|sb| sb.bm_bytes_per_bit = 8192), Err(SuperBlockError::BytesPerBit { .. })));
        assert!(matches!(attach(|sb| sb.al_stripes = 0), Err(SuperBlockError::Striping(_))));
        assert!(matches!(attach(|sb| sb.al_stripe_size_4k = u32::MAX), Err(SuperBlockError::Striping(_))));
        assert_eq!(failed(attach(|sb| sb.bm_offset_sectors = -56)), OffsetCheck::Order);
        assert_eq!(failed(attach(|sb| sb.al_offset_sectors = 8)), OffsetCheck::Side);
        assert_eq!(failed(attach(|sb| sb.md_size_sectors = u32::MAX)), OffsetCheck::Device);
        assert_eq!(failed(attach(|sb| sb.md_size_sectors = 88)), OffsetCheck::Device);
        assert_eq!(failed(attach(|sb| sb.bm_offset_sectors = i32::MIN)), OffsetCheck::Device);
        assert_eq!(failed(attach(|sb| sb.al_offset_sectors = -65)), OffsetCheck::ActivityLog);
        let shifted = |sb: &mut SuperBlock| (sb.bm_offset_sectors, sb.md_size_sectors) = (-76, 76);
        assert_eq!(failed(attach(shifted)), OffsetCheck::Alignment);
        assert_eq!(attach(|sb| sb.la_size_sectors = 8 * 32768), Ok(()));
        assert!(matches!(
            attach(|sb| sb.la_size_sectors = 9 * 32768),
            Err(SuperBlockError::BitmapTooSmall { .. })
        ));
        assert!(matches!(
            attach(|sb| sb.la_size_sectors = MAX_DEVICE_SECTORS + 1),
            Err(SuperBlockError::TooLarge { .. })
        ));
        assert_eq!(attach(|sb| (sb.al_stripes, sb.al_stripe_size_4k) = (0, 0)), Ok(()));
    }

    #[test]
    fn attach_checks_of_external_metadata() {
        let flex = external(MetaKind::FlexibleExternal, 8192);
        let check = |sb: SuperBlock| sb.check_for_attach(MetaKind::FlexibleExternal, 8192);
        assert_eq!(check(flex), Ok(()));
        assert_eq!(failed(flex.check_for_attach(MetaKind::Internal, 8192)), OffsetCheck::Side);
        assert_eq!(
            failed(internal().check_for_attach(MetaKind::FlexibleExternal, SECTORS)),
            OffsetCheck::Side
        );
        assert_eq!(failed(check(SuperBlock { al_offset_sectors: 16, ..flex })), OffsetCheck::Side);
        assert_eq!(failed(check(SuperBlock { bm_offset_sectors: 64, ..flex })), OffsetCheck::Order);
        assert_eq!(failed(check(SuperBlock { md_size_sectors: 71, ..flex })), OffsetCheck::Order);
        assert_eq!(failed(flex.check_for_attach(MetaKind::FlexibleExternal, 8191)), OffsetCheck::Device);
        assert_eq!(failed(check(SuperBlock { bm_offset_sectors: 80, ..flex })), OffsetCheck::ActivityLog);

        let slot = external(MetaKind::Indexed(1), 524288);
        assert_eq!(slot.check_for_attach(MetaKind::Indexed(1), 524288), Ok(()));
        assert_eq!(failed(slot.check_for_attach(MetaKind::Indexed(1), 524287)), OffsetCheck::Device);
        let other = SuperBlock { md_size_sectors: 262136, ..slot };
        assert_eq!(failed(other.check_for_attach(MetaKind::Indexed(1), 524288)), OffsetCheck::Indexed);
    }

    #[test]
    fn tools_want_exactly_this_device_size() {
        let sb = internal();
        assert!(sb.check_for_tools(MetaKind::Internal, SECTORS).is_ok());
        assert!(sb.check_for_tools(MetaKind::Internal, SECTORS + 7).is_ok());
        assert!(sb.check_for_tools(MetaKind::Internal, 262145).is_err());
        assert!(sb.check_for_tools(MetaKind::FlexibleExternal, SECTORS).is_err());
        assert!(sb.check_for_tools(MetaKind::Internal, 3).is_err());
    }

    #[test]
    fn disk_state_from_flags() {
        for (flags, state) in [
            (0x30, DiskState::Inconsistent),
            (0x21, DiskState::Outdated),
            (0x11, DiskState::Consistent),
            (0x31, DiskState::UpToDate),
        ] {
            assert_eq!(MetaFlags(flags).disk_state(), state);
        }
    }

    proptest::proptest! {
        /// Hostile fields: errors, never a panic; and what passes lies on the device.
        #[test]
        fn any_fields_are_judged_without_a_panic(
            fields: [u32; 23], offsets in (-200i32..200, -200i32..200), small: bool,
            sectors in proptest::prop_oneof![0u64..100_000, 0..u64::MAX], index: u32,
        ) {
            let mut raw = [0; SUPERBLOCK_BYTES];
            for (i, field) in fields.iter().enumerate() {
                raw[4 * i..4 * i + 4].copy_from_slice(&field.to_be_bytes());
            }
            raw[60..64].copy_from_slice(&(Magic::V08 as u32).to_be_bytes());
            let mut sb = SuperBlock::decode(&raw).unwrap();
            sb.flags = sb.flags.with(MetaFlags::AL_CLEAN);
            sb.bm_bytes_per_bit = BYTES_PER_BIT;
            if small {
                (sb.al_offset_sectors, sb.bm_offset_sectors) = (offsets.0 & !7, offsets.1 & !7);
                (sb.al_stripes, sb.al_stripe_size_4k, sb.md_size_sectors) = (1, 8, fields[0] % 300);
            }
            for kind in [MetaKind::Internal, MetaKind::FlexibleExternal, MetaKind::Indexed(index)] {
                let _ = sb.check_for_tools(kind, sectors);
                if sb.check_for_attach(kind, sectors).is_ok() {
                    proptest::prop_assert!(u64::from(sb.md_size_sectors) <= sectors);
                }
            }
        }
    }
}
