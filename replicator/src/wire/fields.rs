//! Fields that many layouts share, and the checked access to fixed layouts.

use super::WireError;
use alloc::vec::Vec;
use model::units::{MAX_BIO_BYTES, SECTOR_BYTES};

/// Identifies a request to its originator; opaque to everybody else and echoed unchanged. The number is the
/// big-endian reading of the eight bytes, whatever the sender meant by them (drbd-wire 4.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockId(pub u64);

impl BlockId {
    /// Marks resync traffic; never the id of an application request.
    pub const RESYNC: BlockId = BlockId(u64::MAX);
    /// In P_OV_RESULT: both copies of the block are equal.
    pub const OV_IN_SYNC: BlockId = BlockId(4711);
    /// In P_OV_RESULT: the copies of the block differ.
    pub const OV_OUT_OF_SYNC: BlockId = BlockId(4712);
}

/// Number of a write epoch; opaque to the receiver, which echoes the four bytes. The number is their
/// big-endian reading (drbd-wire 4.6).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BarrierNo(pub u32);

/// The body as a fixed layout of exactly `N` bytes.
pub(super) fn exact<'a, const N: usize>(
    layout: &'static str,
    body: &'a [u8],
) -> Result<&'a [u8; N], WireError> {
    body.try_into().map_err(|_| WireError::Body { layout, len: body.len() })
}

/// The body as a fixed layout of `N` bytes and the rest behind it.
pub(super) fn split<'a, const N: usize>(
    layout: &'static str,
    body: &'a [u8],
) -> Result<(&'a [u8; N], &'a [u8]), WireError> {
    body.split_first_chunk::<N>().ok_or(WireError::Body { layout, len: body.len() })
}

/// Big-endian u16 at `at`. The caller has checked the length.
pub(super) fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Big-endian u32 at `at`. The caller has checked the length.
pub(super) fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Big-endian u64 at `at`. The caller has checked the length.
pub(super) fn be64(b: &[u8], at: usize) -> u64 {
    u64::from(be32(b, at)) << 32 | u64::from(be32(b, at + 4))
}

/// Appends a big-endian u16.
pub(super) fn put16(out: &mut Vec<u8>, v: u16) {
    out.extend_from_slice(&v.to_be_bytes());
}

/// Appends a big-endian u32.
pub(super) fn put32(out: &mut Vec<u8>, v: u32) {
    out.extend_from_slice(&v.to_be_bytes());
}

/// Appends a big-endian u64.
pub(super) fn put64(out: &mut Vec<u8>, v: u64) {
    out.extend_from_slice(&v.to_be_bytes());
}

/// A size in bytes that must be positive, in whole sectors and at most `max`.
pub(super) fn checked_size(field: &'static str, size_bytes: u32, max: u32) -> Result<u32, WireError> {
    debug_assert!(max >= MAX_BIO_BYTES);
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) || size_bytes > max {
        return Err(WireError::Value { field, value: u64::from(size_bytes) });
    }
    Ok(size_bytes)
}

/// An algorithm name without its terminating NUL. Only printable ASCII is a name: it is compared with
/// configured names and shown to people.
pub(super) fn checked_name<'a>(field: &'static str, name: &'a [u8]) -> Result<&'a str, WireError> {
    if name.len() > NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
        return Err(WireError::Name(field));
    }
    core::str::from_utf8(name).map_err(|_| WireError::Name(field))
}

/// Longest algorithm name, without its NUL, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 63;
