//! Write epochs: layouts BARRIER and BACK (drbd-wire 2.4, 4.6).

use super::WireError;
use super::fields::{BarrierNo, be32, exact, put32};
use alloc::vec::Vec;

/// P_BARRIER: all writes before it are one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Barrier {
    /// Number of the epoch that ends.
    pub number: BarrierNo,
    /// Sent as 0, ignored on receive.
    pub pad: u32,
}

impl Barrier {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, self.number.0);
        put32(out, self.pad);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 8.
    pub fn decode(body: &[u8]) -> Result<Barrier, WireError> {
        let b = exact::<8>("BARRIER", body)?;
        Ok(Barrier { number: BarrierNo(be32(b, 0)), pad: be32(b, 4) })
    }
}

/// P_BARRIER_ACK: the epoch is done and as stable as promised.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BarrierAck {
    /// Echoed number.
    pub number: BarrierNo,
    /// Number of write packets received in the epoch.
    pub set_size: u32,
}

impl BarrierAck {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, self.number.0);
        put32(out, self.set_size);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 8.
    pub fn decode(body: &[u8]) -> Result<BarrierAck, WireError> {
        let b = exact::<8>("BACK", body)?;
        Ok(BarrierAck { number: BarrierNo(be32(b, 0)), set_size: be32(b, 4) })
    }
}
