//! Acknowledgements on the meta socket: layout ACK (drbd-wire 2.4).

use super::WireError;
use super::fields::{BlockId, be32, be64, exact, put32, put64};
use alloc::vec::Vec;

/// Layout ACK: P_RECV_ACK, P_WRITE_ACK, P_RS_WRITE_ACK, P_SUPERSEDED, P_NEG_ACK, P_NEG_DREPLY,
/// P_NEG_RS_DREPLY, P_OV_RESULT, P_RS_IS_IN_SYNC, P_RS_CANCEL, P_RETRY_WRITE.
///
/// Nothing in it is checked here: some peers leave the id or the size undefined in some of these packets
/// (drbd-wire trap 25), so only the code that looks the request up can judge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ack {
    /// First sector of the request.
    pub sector: u64,
    /// Echoed id; in P_OV_RESULT [`BlockId::OV_IN_SYNC`] or [`BlockId::OV_OUT_OF_SYNC`].
    pub block_id: BlockId,
    /// Length in bytes.
    pub size_bytes: u32,
    /// Sequence number of the sender.
    pub seq_num: u32,
}

impl Ack {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, self.sector);
        put64(out, self.block_id.0);
        put32(out, self.size_bytes);
        put32(out, self.seq_num);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 24.
    pub fn decode(body: &[u8]) -> Result<Ack, WireError> {
        let b = exact::<24>("ACK", body)?;
        Ok(Ack {
            sector: be64(b, 0),
            block_id: BlockId(be64(b, 8)),
            size_bytes: be32(b, 16),
            seq_num: be32(b, 20),
        })
    }
}
