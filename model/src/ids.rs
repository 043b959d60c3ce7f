//! Identifiers: volumes, minors, data generations and buffer handles.

use core::fmt;

/// Number of a volume inside its resource, 0..=65534 (drbd-admin 1.11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VolumeNo(pub u16);

impl fmt::Display for VolumeNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Device minor, 0..=1048575 (drbd-admin 1.11).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Minor(pub u32);

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A data generation identifier. Bit 0 is not part of the identity: it records whether the generation was
/// made (or, in the current slot, is held) by a Primary, so comparisons go through [`DataUuid::same_as`]
/// (drbd-wire 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DataUuid(pub u64);

impl DataUuid {
    /// Empty slot.
    pub const ZERO: DataUuid = DataUuid(0);
    /// Current UUID of metadata that `create-md` just wrote.
    pub const JUST_CREATED: DataUuid = DataUuid(4);
    /// What a sync UUID adds to the bitmap UUID it is derived from.
    pub const SYNC_OFFSET: u64 = 0x0001_0000_0000_0000;

    /// The identity: bit 0 cleared.
    pub const fn masked(self) -> u64 {
        self.0 & !1
    }

    /// Same generation, whatever the role bit says.
    pub const fn same_as(self, other: DataUuid) -> bool {
        self.masked() == other.masked()
    }

    /// The slot is empty; tested on the full value.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The role bit.
    pub const fn primary_bit(self) -> bool {
        self.0 & 1 == 1
    }

    /// The same generation with the role bit as given.
    pub const fn with_primary_bit(self, primary: bool) -> DataUuid {
        DataUuid(self.masked() | primary as u64)
    }
}

impl fmt::Debug for DataUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Display for DataUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// Handle of a block buffer that the driver owns. The core passes it on and never looks inside; each handle
/// counts one reference, given up by `Action::Release`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BufId(pub u32);
