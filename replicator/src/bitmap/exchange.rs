//! Sending a bitmap and merging a received one, a packet at a time (drbd-wire 5).

use super::vli::{self, BitReader, BitWriter};
use super::words::Bitmap;
use crate::planted::{self, Planted};
use crate::wire::{BITMAP_PIECE_BYTES_MAX, BitmapPiece, CompressedBitmap, Packet};
use alloc::vec::Vec;

const PIECE_WORDS_MAX: u64 = BITMAP_PIECE_BYTES_MAX as u64 / 8;
const CODE_BYTES_MAX: usize = BITMAP_PIECE_BYTES_MAX as usize - 1;

/// What an exchange cost, for the log. Body bytes, without headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExchangeStats {
    /// Plain packets, the terminator included.
    pub plain_packets: u64,
    /// Bytes in them.
    pub plain_bytes: u64,
    /// Compressed packets.
    pub compressed_packets: u64,
    /// Bytes in them, encoding bytes included.
    pub compressed_bytes: u64,
}

impl ExchangeStats {
    fn plain(&mut self, bytes: usize) {
        self.plain_packets += 1;
        self.plain_bytes += bytes as u64;
    }

    fn compressed(&mut self, bytes: usize) {
        self.compressed_packets += 1;
        self.compressed_bytes += bytes as u64;
    }
}

/// Makes the packets of one bitmap, one per call. They must follow each other on the data socket with nothing
/// in between (drbd-wire 5.1).
///
/// The bitmap must keep its length until the end. Bits may be set meanwhile; whether the peer learns of them
/// depends on where the sender is, so the owner tells it by P_OUT_OF_SYNC or holds writes back.
#[derive(Clone, Debug)]
pub struct BitmapSender {
    bits: u64,
    /// Next bit to send.
    pos: u64,
    use_rle: bool,
    done: bool,
    stats: ExchangeStats,
}

impl BitmapSender {
    /// Starts sending `bitmap`; `use_rle` permits compressed packets.
    pub fn new(bitmap: &Bitmap, use_rle: bool) -> BitmapSender {
        BitmapSender { bits: bitmap.bits(), pos: 0, use_rle, done: false, stats: ExchangeStats::default() }
    }

    /// The next packet, its body in `body` (at most 4080 bytes; what was in there is dropped). None when
    /// everything was sent, the terminator included where one is needed. Bounded work per call.
    ///
    /// # Panics
    /// If the bitmap changed its length.
    pub fn next_packet<'v>(&mut self, bitmap: &Bitmap, body: &'v mut Vec<u8>) -> Option<Packet<'v>> {
        assert_eq!(bitmap.bits(), self.bits, "the bitmap was resized while it was sent");
        if self.done {
            return None;
        }
        body.clear();
        if self.use_rle && self.pos < self.bits && self.compress(bitmap, body) {
            self.stats.compressed(body.len());
            let (encoding, code) = body.split_first().expect("the encoding byte is there");
            return Some(Packet::CompressedBitmap(CompressedBitmap { encoding: *encoding, code }));
        }
        self.plain(bitmap, body);
        self.stats.plain(body.len());
        Some(Packet::Bitmap(BitmapPiece { words: body }))
    }

    /// Everything was sent.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// What it cost so far.
    pub fn stats(&self) -> ExchangeStats {
        self.stats
    }

    /// Fills a compressed packet; false, and `body` is empty, if a plain one is shorter.
    fn compress(&mut self, bitmap: &Bitmap, body: &mut Vec<u8>) -> bool {
        let first_set = bitmap.test(self.pos);
        body.push(0);
        let mut code = BitWriter::new(body, CODE_BYTES_MAX);
        let (mut pos, mut set) = (self.pos, first_set);
        while pos < self.bits {
            let end = if set { bitmap.next_clear(pos) } else { bitmap.next_set(pos) }.unwrap_or(self.bits);
            let (word, n) = vli::encode(end - pos).expect("runs are neither empty nor longer than a bitmap");
            if !code.push(word, n) {
                break;
            }
            (pos, set) = (end, !set);
        }
        // spec: drbd-wire 5.4
        if pos - self.pos < 8 * code.code_bytes() as u64 {
            body.clear();
            return false;
        }
        let encoding = CompressedBitmap::encoding_of(first_set, code.unused_bits());
        body[0] = encoding;
        self.pos = pos;
        // The end reached by a compressed packet has no terminator.
        self.done = pos == self.bits;
        true
    }

    /// Fills a plain packet from the word that contains the position; empty at the end, as terminator.
    fn plain(&mut self, bitmap: &Bitmap, body: &mut Vec<u8>) {
        let first = word_position(self.pos, self.bits);
        let words = bitmap.words().get(first as usize..).unwrap_or(&[]);
        let words = &words[..words.len().min(PIECE_WORDS_MAX as usize)];
        body.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        self.done = words.is_empty();
        self.pos = ((first + words.len() as u64) * 64).min(self.bits);
    }
}

/// Merges the packets of the peer's bitmap into the own one.
#[derive(Clone, Debug)]
pub struct BitmapReceiver {
    bits: u64,
    /// Next bit to receive.
    pos: u64,
    newly_set: u64,
    done: bool,
    stats: ExchangeStats,
}

/// How far a received bitmap is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Progress {
    /// More packets must follow, and nothing else.
    More,
    /// That was the last one.
    Complete,
}

/// A bitmap packet that cannot be where it is. The peer's fault; ends the connection with ProtocolError.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExchangeError {
    /// A plain piece has one possible length.
    #[error("bitmap piece of {found} bytes where {expected} must come")]
    PieceLength {
        /// In bytes.
        expected: u64,
        /// In bytes.
        found: u64,
    },
    /// A run goes beyond the last bit.
    #[error("run of {run} bits from bit {pos} in a bitmap of {bits} bits")]
    Beyond {
        /// Where it starts.
        pos: u64,
        /// Its length.
        run: u64,
        /// Length of the bitmap.
        bits: u64,
    },
    /// The code string ends inside a code word.
    #[error("bitmap code ends inside a run length")]
    CutCode,
    /// The bitmap was complete already.
    #[error("bitmap packet behind the end of the bitmap")]
    AlreadyComplete,
}

impl BitmapReceiver {
    /// Starts receiving a bitmap that is to be merged into `bitmap`.
    pub fn new(bitmap: &Bitmap) -> BitmapReceiver {
        BitmapReceiver {
            bits: bitmap.bits(),
            pos: 0,
            newly_set: 0,
            done: false,
            stats: ExchangeStats::default(),
        }
    }

    /// Merges a P_BITMAP.
    ///
    /// # Errors
    /// Any length but the one that must come now; nothing is merged then.
    ///
    /// # Panics
    /// If the own bitmap changed its length.
    pub fn plain(&mut self, bitmap: &mut Bitmap, piece: &BitmapPiece<'_>) -> Result<Progress, ExchangeError> {
        self.check(bitmap)?;
        let first = word_position(self.pos, self.bits);
        let expected = 8 * (self.bits.div_ceil(64) - first).min(PIECE_WORDS_MAX);
        let found = piece.words.len() as u64;
        if found != expected {
            return Err(ExchangeError::PieceLength { expected, found });
        }
        for (i, word) in (first as usize..).zip(piece.words.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*word);
            let word = if planted::on(Planted::PeerBitmapIgnored) { 0 } else { word };
            self.newly_set += bitmap.merge_words(i, &[word]);
        }
        self.pos = ((first + found / 8) * 64).min(self.bits);
        self.stats.plain(piece.words.len());
        self.done = found == 0;
        Ok(self.progress())
    }

    /// Merges a P_COMPRESSED_BITMAP.
    ///
    /// # Errors
    /// A run beyond the last bit or a cut code. Runs before it have been merged: more bits set than needed do
    /// no harm.
    ///
    /// # Panics
    /// If the own bitmap changed its length.
    pub fn compressed(
        &mut self,
        bitmap: &mut Bitmap,
        piece: &CompressedBitmap<'_>,
    ) -> Result<Progress, ExchangeError> {
        self.check(bitmap)?;
        let mut code = BitReader::new(piece.code, piece.unused_bits());
        let mut set = piece.first_set();
        while let Some(run) = code.next_value() {
            let run = run.ok_or(ExchangeError::CutCode)?;
            if run > self.bits - self.pos {
                return Err(ExchangeError::Beyond { pos: self.pos, run, bits: self.bits });
            }
            if set && !planted::on(Planted::PeerBitmapIgnored) {
                self.newly_set += bitmap.set_range(self.pos, self.pos + run - 1);
            }
            self.pos += run;
            set = !set;
        }
        self.stats.compressed(1 + piece.code.len());
        self.done = self.pos == self.bits;
        Ok(self.progress())
    }

    /// Everything was received.
    pub fn is_complete(&self) -> bool {
        self.done
    }

    /// Bits that only the peer had set.
    pub fn newly_set(&self) -> u64 {
        self.newly_set
    }

    /// What it cost so far.
    pub fn stats(&self) -> ExchangeStats {
        self.stats
    }

    fn check(&self, bitmap: &Bitmap) -> Result<(), ExchangeError> {
        assert_eq!(bitmap.bits(), self.bits, "the bitmap was resized while one was received");
        if self.done { Err(ExchangeError::AlreadyComplete) } else { Ok(()) }
    }

    fn progress(&self) -> Progress {
        if self.done { Progress::Complete } else { Progress::More }
    }
}

/// The word where a plain piece continues: the one with the next bit, or the end.
fn word_position(pos: u64, bits: u64) -> u64 {
    if pos == bits { bits.div_ceil(64) } else { pos / 64 }
}

#[cfg(test)]
mod tests;
