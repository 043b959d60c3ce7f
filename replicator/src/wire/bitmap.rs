//! Bitmap pieces as they travel (drbd-wire 5.2, 5.3). What they mean is [`crate::bitmap`]'s business.

use super::WireError;
use alloc::vec::Vec;

/// Longest bitmap packet with header 100, in bytes: header and piece fill a page.
pub const BITMAP_PIECE_BYTES_MAX: u32 = 4080;

/// P_BITMAP: whole 8-byte little-endian words; none in the terminating packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BitmapPiece<'a> {
    /// The words as bytes.
    pub words: &'a [u8],
}

impl<'a> BitmapPiece<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.words);
    }

    /// Reads a body. Whether this is the length that must come now is decided by the receiver of the bitmap.
    ///
    /// # Errors
    /// Not whole words, or more than 4088 bytes (what fits with 8-byte headers).
    pub fn decode(body: &'a [u8]) -> Result<BitmapPiece<'a>, WireError> {
        if !body.len().is_multiple_of(8) || body.len() > BITMAP_PIECE_BYTES_MAX as usize + 8 {
            return Err(WireError::Body { layout: "bitmap", len: body.len() });
        }
        Ok(BitmapPiece { words: body })
    }
}

/// P_COMPRESSED_BITMAP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CompressedBitmap<'a> {
    /// Encoding byte: code in bits 0..=3, unused bits of the last byte in 4..=6, first polarity in 7.
    pub encoding: u8,
    /// The code string, 1..=4079 bytes.
    pub code: &'a [u8],
}

impl<'a> CompressedBitmap<'a> {
    /// The only code there is: run lengths of variable length.
    pub const RLE_VLI: u8 = 2;

    /// The encoding byte of run lengths.
    pub const fn encoding_of(first_set: bool, unused_bits: u8) -> u8 {
        assert!(unused_bits < 8);
        (first_set as u8) << 7 | unused_bits << 4 | Self::RLE_VLI
    }

    /// The first run is one of set bits.
    pub const fn first_set(&self) -> bool {
        self.encoding & 0x80 != 0
    }

    /// Number of unused bits at the end of the last byte, 0..=7.
    pub const fn unused_bits(&self) -> u8 {
        self.encoding >> 4 & 7
    }

    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(!self.code.is_empty() && self.code.len() < BITMAP_PIECE_BYTES_MAX as usize);
        out.push(self.encoding);
        out.extend_from_slice(self.code);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A length outside 2..=4080 or an unknown code.
    pub fn decode(body: &'a [u8]) -> Result<CompressedBitmap<'a>, WireError> {
        let bad_length = WireError::Body { layout: "compressed bitmap", len: body.len() };
        let (encoding, code) = body.split_first().ok_or(bad_length)?;
        if code.is_empty() || body.len() > BITMAP_PIECE_BYTES_MAX as usize {
            return Err(bad_length);
        }
        if encoding & 0xf != Self::RLE_VLI {
            return Err(WireError::Value { field: "bitmap encoding", value: u64::from(*encoding) });
        }
        Ok(CompressedBitmap { encoding: *encoding, code })
    }
}
