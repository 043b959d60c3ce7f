//! Requests for data or digests on the data socket: layout REQ (drbd-wire 2.4).

use super::WireError;
use super::fields::{BlockId, be32, be64, checked_size, exact, put32, put64, split};
use alloc::vec::Vec;
use model::units::MAX_BIO_BYTES;

/// Longest digest of any algorithm, in bytes.
pub const DIGEST_BYTES_MAX: u32 = 64;

/// Layout REQ: P_DATA_REQUEST, P_RS_DATA_REQUEST, P_RS_THIN_REQ, P_OV_REQUEST.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Request {
    /// First sector.
    pub sector: u64,
    /// Request of the originator in P_DATA_REQUEST, [`BlockId::RESYNC`] in the others.
    pub block_id: BlockId,
    /// Length in bytes: positive, whole sectors, at most 1 MiB.
    pub size_bytes: u32,
    /// Not initialised by real peers: kept for exact re-encoding, never looked at, sent as 0.
    pub pad: u32,
}

impl Request {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, self.sector);
        put64(out, self.block_id.0);
        put32(out, self.size_bytes);
        put32(out, self.pad);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 24; a size that is zero, not in whole sectors or above 1 MiB.
    pub fn decode(body: &[u8]) -> Result<Request, WireError> {
        let b = exact::<24>("REQ", body)?;
        Ok(Request {
            sector: be64(b, 0),
            block_id: BlockId(be64(b, 8)),
            size_bytes: checked_size("REQ size", be32(b, 16), MAX_BIO_BYTES)?,
            pad: be32(b, 20),
        })
    }
}

/// Layout REQ with a digest behind it: P_CSUM_RS_REQUEST, P_OV_REPLY.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DigestRequest<'a> {
    /// The fixed part.
    pub request: Request,
    /// Digest of the sender's data, 1..=64 bytes. The length of the configured algorithm must be checked by
    /// whoever compares.
    pub digest: &'a [u8],
}

impl<'a> DigestRequest<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(!self.digest.is_empty() && self.digest.len() <= DIGEST_BYTES_MAX as usize);
        self.request.encode(out);
        out.extend_from_slice(self.digest);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Those of [`Request::decode`]; no digest (it would equal any other missing digest) or more than 64 bytes.
    pub fn decode(body: &'a [u8]) -> Result<DigestRequest<'a>, WireError> {
        let (fixed, digest) = split::<24>("REQ and digest", body)?;
        if digest.is_empty() || digest.len() > DIGEST_BYTES_MAX as usize {
            return Err(WireError::Body { layout: "REQ and digest", len: body.len() });
        }
        Ok(DigestRequest { request: Request::decode(fixed)?, digest })
    }
}
