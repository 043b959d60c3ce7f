//! Ranges without an answer, and leftovers: layout DESC and the delay probe (drbd-wire 2.4, 10.3).

use super::WireError;
use super::fields::{be32, be64, checked_size, exact, put32, put64};
use alloc::vec::Vec;
use model::units::MAX_DISCARD_BYTES;

/// Layout DESC: P_OUT_OF_SYNC, P_RS_DEALLOCATED.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BlockDesc {
    /// First sector.
    pub sector: u64,
    /// Length in bytes: positive, whole sectors, at most 128 MiB (what one write can cover).
    pub size_bytes: u32,
    /// Not initialised by real peers: kept for exact re-encoding, never looked at, sent as 0.
    pub pad: u32,
}

impl BlockDesc {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, self.sector);
        put32(out, self.size_bytes);
        put32(out, self.pad);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 16; a size that is zero, not in whole sectors or above 128 MiB.
    pub fn decode(body: &[u8]) -> Result<BlockDesc, WireError> {
        let b = exact::<16>("DESC", body)?;
        Ok(BlockDesc {
            sector: be64(b, 0),
            size_bytes: checked_size("DESC size", be32(b, 8), MAX_DISCARD_BYTES)?,
            pad: be32(b, 12),
        })
    }
}

/// P_DELAY_PROBE: accepted and ignored, never sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DelayProbe {
    /// First number.
    pub seq_num: u32,
    /// Second number.
    pub offset: u32,
}

impl DelayProbe {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, self.seq_num);
        put32(out, self.offset);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 8.
    pub fn decode(body: &[u8]) -> Result<DelayProbe, WireError> {
        let b = exact::<8>("delay probe", body)?;
        Ok(DelayProbe { seq_num: be32(b, 0), offset: be32(b, 4) })
    }
}
