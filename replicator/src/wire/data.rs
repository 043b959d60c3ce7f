//! Writes and block data on the data socket: layouts DATA and TRIM, and their flags (drbd-wire 2.4, 4.2).

use super::WireError;
use super::fields::{BlockId, be32, be64, checked_size, exact, put32, put64};
use alloc::vec::Vec;
use core::ops::BitOr;
use model::units::MAX_DISCARD_BYTES;

/// Flags of a mirrored write (drbd-wire 4.2). Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DpFlags(pub u32);

impl DpFlags {
    /// No flag.
    pub const NONE: DpFlags = DpFlags(0);
    /// Synchronous-write hint.
    pub const RW_SYNC: DpFlags = DpFlags(0x002);
    /// The receiver may clear its bits for this range after writing it.
    pub const MAY_SET_IN_SYNC: DpFlags = DpFlags(0x004);
    /// Hint, not set by current kernels.
    pub const UNPLUG: DpFlags = DpFlags(0x008);
    /// Forced unit access.
    pub const FUA: DpFlags = DpFlags(0x010);
    /// Flush the cache before this write.
    pub const FLUSH: DpFlags = DpFlags(0x020);
    /// In P_TRIM; in P_ZEROES: deallocation permitted.
    pub const DISCARD: DpFlags = DpFlags(0x040);
    /// Answer with P_RECV_ACK as soon as received.
    pub const SEND_RECEIVE_ACK: DpFlags = DpFlags(0x080);
    /// Answer with P_WRITE_ACK or P_RS_WRITE_ACK when written.
    pub const SEND_WRITE_ACK: DpFlags = DpFlags(0x100);
    /// In P_WSAME.
    pub const WSAME: DpFlags = DpFlags(0x200);
    /// In P_ZEROES.
    pub const ZEROES: DpFlags = DpFlags(0x400);

    /// All flags of `other` are set.
    pub const fn contains(self, other: DpFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    pub const fn with(self, other: DpFlags) -> DpFlags {
        DpFlags(self.0 | other.0)
    }
}

impl BitOr for DpFlags {
    type Output = DpFlags;

    fn bitor(self, other: DpFlags) -> DpFlags {
        self.with(other)
    }
}

/// Layout DATA: P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY; block data follows the body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Data {
    /// First sector.
    pub sector: u64,
    /// Request of the originator; [`BlockId::RESYNC`] in P_RS_DATA_REPLY.
    pub block_id: BlockId,
    /// Sequence number of the sender; 0 in the two replies.
    pub seq_num: u32,
    /// Flags of the write; 0 in the two replies.
    pub dp_flags: DpFlags,
}

impl Data {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, self.sector);
        put64(out, self.block_id.0);
        put32(out, self.seq_num);
        put32(out, self.dp_flags.0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 24.
    pub fn decode(body: &[u8]) -> Result<Data, WireError> {
        let b = exact::<24>("DATA", body)?;
        Ok(Data {
            sector: be64(b, 0),
            block_id: BlockId(be64(b, 8)),
            seq_num: be32(b, 16),
            dp_flags: DpFlags(be32(b, 20)),
        })
    }
}

/// Layout TRIM: P_TRIM, P_ZEROES, P_WSAME (there one logical block of data follows the body).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Trim {
    /// First sector.
    pub sector: u64,
    /// Request of the originator.
    pub block_id: BlockId,
    /// Sequence number of the sender.
    pub seq_num: u32,
    /// Flags of the write.
    pub dp_flags: DpFlags,
    /// Affected range in bytes: positive, whole sectors, at most 128 MiB.
    pub size_bytes: u32,
}

impl Trim {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Trim { sector, block_id, seq_num, dp_flags, size_bytes } = *self;
        Data { sector, block_id, seq_num, dp_flags }.encode(out);
        put32(out, size_bytes);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 28; a size that is zero, not in whole sectors or above 128 MiB.
    pub fn decode(body: &[u8]) -> Result<Trim, WireError> {
        let b = exact::<28>("TRIM", body)?;
        let Data { sector, block_id, seq_num, dp_flags } = Data::decode(&b[..24])?;
        let size_bytes = checked_size("TRIM size", be32(b, 24), MAX_DISCARD_BYTES)?;
        Ok(Trim { sector, block_id, seq_num, dp_flags, size_bytes })
    }
}
