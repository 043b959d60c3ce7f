//! Data generations: layout UUIDS and P_SYNC_UUID (drbd-wire 8.1).

use super::WireError;
use super::fields::{be64, exact, put64};
use alloc::vec::Vec;
use model::ids::DataUuid;

/// Flags of P_UUIDS. Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct UuidFlags(pub u64);

impl UuidFlags {
    /// No flag.
    pub const NONE: UuidFlags = UuidFlags(0);
    /// The sender wants its data discarded.
    pub const DISCARD_MY_DATA: UuidFlags = UuidFlags(0x1);
    /// The sender is a crashed primary.
    pub const CRASHED_PRIMARY: UuidFlags = UuidFlags(0x2);
    /// The sender's disk is really Inconsistent.
    pub const INCONSISTENT: UuidFlags = UuidFlags(0x4);
    /// Skip the initial sync.
    pub const SKIP_INITIAL_SYNC: UuidFlags = UuidFlags(0x8);

    /// Between two lockstep nodes: the sender began its current generation for a Primary that had just lost its disk, and
    /// nothing has been written in it.
    pub const EMPTY: UuidFlags = UuidFlags(0x1_0000);
    /// Between two lockstep nodes: the sender is the Primary that its clients have worked on all the time, and began its
    /// current generation when it took its own disk back, which has everything they were answered.
    pub const TAKEN_BACK: UuidFlags = UuidFlags(0x2_0000);

    /// All flags of `other` are set.
    pub const fn contains(self, other: UuidFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    pub const fn with(self, other: UuidFlags) -> UuidFlags {
        UuidFlags(self.0 | other.0)
    }

    /// Between two lockstep nodes: the number of the sender's last attach on an established connection, and that of the
    /// receiver's as far as the sender has seen it. Bits 32..48 and 48..64, which DRBD leaves zero.
    pub const fn with_attach_numbers(self, own: u16, seen: u16) -> UuidFlags {
        UuidFlags(self.0 & 0xffff_ffff | (own as u64) << 32 | (seen as u64) << 48)
    }

    /// What [`Self::with_attach_numbers`] added: the sender's own number, and the one it has seen.
    pub const fn attach_numbers(self) -> (u16, u16) {
        ((self.0 >> 32) as u16, (self.0 >> 48) as u16)
    }
}

/// P_UUIDS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Uuids {
    /// The present data.
    pub current: DataUuid,
    /// What the bitmap is relative to; zero if nothing.
    pub bitmap: DataUuid,
    /// Previous generations, younger first.
    pub history: [DataUuid; 2],
    /// Number of set bits as the sender counted them; never compare it with an own count (drbd-wire 8.1).
    pub dirty_bits: u64,
    /// Flags.
    pub flags: UuidFlags,
}

impl Uuids {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for slot in [self.current, self.bitmap, self.history[0], self.history[1]] {
            put64(out, slot.0);
        }
        put64(out, self.dirty_bits);
        put64(out, self.flags.0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 48.
    pub fn decode(body: &[u8]) -> Result<Uuids, WireError> {
        let b = exact::<48>("UUIDS", body)?;
        Ok(Uuids {
            current: DataUuid(be64(b, 0)),
            bitmap: DataUuid(be64(b, 8)),
            history: [DataUuid(be64(b, 16)), DataUuid(be64(b, 24))],
            dirty_bits: be64(b, 32),
            flags: UuidFlags(be64(b, 40)),
        })
    }
}

/// P_SYNC_UUID: the generation that the resync makes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SyncUuid(pub DataUuid);

impl SyncUuid {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, self.0.0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 8.
    pub fn decode(body: &[u8]) -> Result<SyncUuid, WireError> {
        Ok(SyncUuid(DataUuid(be64(exact::<8>("sync UUID", body)?, 0))))
    }
}
