//! What follows a header: how many bytes of body, digest and block data, or that it cannot be.

use super::{BITMAP_PIECE_BYTES_MAX, DIGEST_BYTES_MAX, Features, Header, HeaderForm, Sock, Tail, WireError};
use model::units::{MAX_BIO_BYTES, SECTOR_BYTES};

/// How the bytes behind a header are divided, in the order in which they arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FrameShape {
    /// Packet body for [`super::Packet::decode`], in bytes; at most 4088.
    pub body_bytes: u32,
    /// Data integrity digest of the block data, in bytes; 0 unless a digest length was given.
    pub digest_bytes: u32,
    /// Block data, in bytes: 0, or a multiple of 512 up to 1 MiB for P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY
    /// and P_WSAME.
    pub payload_bytes: u32,
}

/// Shape of the frame behind `header`, received on `sock`, with the agreed `features` and without data
/// integrity digests.
///
/// # Errors
/// The packet does not belong on this socket, or cannot have this length (drbd-wire 2.2).
pub fn frame_shape(header: &Header, sock: Sock, features: Features) -> Result<FrameShape, WireError> {
    frame_shape_with_digest(header, sock, features, 0)
}

/// As [`frame_shape`] on a connection where the peer puts an integrity digest of `digest_bytes` (0: none) in
/// front of block data.
///
/// # Errors
/// As [`frame_shape`].
///
/// # Panics
/// If `digest_bytes` is longer than the longest digest; it comes from the table of algorithms.
pub fn frame_shape_with_digest(
    header: &Header,
    sock: Sock,
    features: Features,
    digest_bytes: u32,
) -> Result<FrameShape, WireError> {
    assert!(digest_bytes <= DIGEST_BYTES_MAX);
    let row = header.command.row();
    if !row.socks.contains(sock) {
        return Err(WireError::WrongSocket { command: header.command, sock });
    }
    let impossible = WireError::Length { command: header.command, len: header.len };
    let body_only = FrameShape { body_bytes: header.len, ..FrameShape::default() };
    if row.tail == Tail::Ignored {
        // spec: drbd-wire 1.2, the length of the initial packets is not looked at
        return Ok(FrameShape::default());
    }
    let tail_bytes = header.len.checked_sub(row.fixed_bytes).ok_or(impossible)?;
    let possible = match row.tail {
        Tail::None => tail_bytes == 0,
        Tail::Body { min, max } => tail_bytes >= min && tail_bytes <= max,
        Tail::Words => {
            let max = BITMAP_PIECE_BYTES_MAX + if header.form == HeaderForm::H100 { 0 } else { 8 };
            tail_bytes.is_multiple_of(8) && tail_bytes <= max
        }
        Tail::SizesExtension => tail_bytes == if features.contains(Features::WSAME) { 24 } else { 0 },
        Tail::Ignored => tail_bytes == 0,
        Tail::Payload => {
            let payload_bytes = tail_bytes.checked_sub(digest_bytes).ok_or(impossible)?;
            if payload_bytes == 0
                || !payload_bytes.is_multiple_of(SECTOR_BYTES)
                || payload_bytes > MAX_BIO_BYTES
            {
                return Err(impossible);
            }
            return Ok(FrameShape { body_bytes: row.fixed_bytes, digest_bytes, payload_bytes });
        }
    };
    if possible { Ok(body_only) } else { Err(impossible) }
}
