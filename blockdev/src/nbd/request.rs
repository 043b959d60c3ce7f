//! Request headers of the transmission phase: parse, check, split.

use super::export::ExportInfo;
use super::reply::{Cookie, Errno, ReplyStyle};

/// Reads the header at the start of `bytes`: `None` while fewer than [`REQUEST_BYTES`] are there, else the caller
/// removes exactly that many. The payload of a write ([`Request::payload_bytes`]) follows the header.
pub fn parse(bytes: &[u8]) -> Result<Option<Request>, Fatal> {
    if let Some(magic) = bytes.first_chunk::<4>() {
        let magic = u32::from_be_bytes(*magic);
        if magic != REQUEST_MAGIC {
            return Err(Fatal::BadMagic { magic });
        }
    }
    let Some(header) = bytes.first_chunk::<REQUEST_BYTES>() else { return Ok(None) };
    let request = Request {
        flags: u16::from_be_bytes(field(header, 4)),
        command: Command::from_wire(u16::from_be_bytes(field(header, 6))),
        cookie: Cookie(field(header, 8)),
        offset_bytes: u64::from_be_bytes(field(header, 16)),
        len_bytes: u32::from_be_bytes(field(header, 24)),
    };
    if request.payload_bytes() > MAX_PAYLOAD_BYTES {
        return Err(Fatal::PayloadTooLong { cookie: request.cookie, len_bytes: request.len_bytes });
    }
    Ok(Some(request))
}

/// A request header as the client sent it; only [`Request::validate`] makes it trustworthy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Command flags, `FLAG_*`.
    pub flags: u16,
    /// The client's name for the request.
    pub cookie: Cookie,
    /// First byte of the range.
    pub offset_bytes: u64,
    /// Length of the range.
    pub len_bytes: u32,
}

/// Commands of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read a range.
    Read,
    /// Write a range; the data follows the header.
    Write,
    /// End of the connection; there is no reply. Finish what is in flight, then close.
    Disconnect,
    /// Make all completed writes durable.
    Flush,
    /// Give up a range's content.
    Trim,
    /// Prefetch a range; not served.
    Cache,
    /// Write zeroes to a range.
    WriteZeroes,
    /// Query a meta data context; not served.
    BlockStatus,
    /// Any other number.
    Unknown(u16),
}

impl Command {
    fn from_wire(number: u16) -> Command {
        match number {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            unknown => Command::Unknown(unknown),
        }
    }
}

/// The stream of requests cannot be read on: close the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fatal {
    /// The client is out of step or speaks something else.
    #[error("request magic is {magic:#010x}")]
    BadMagic {
        /// What stood in the place of the magic number.
        magic: u32,
    },
    /// A write announces more data than any client may send; the caller may put an error reply before it closes.
    #[error("write of {len_bytes} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")]
    PayloadTooLong {
        /// The request's cookie.
        cookie: Cookie,
        /// The announced length.
        len_bytes: u32,
    },
}

/// A request that is refused while the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct NbdError {
    /// For the reply.
    pub errno: Errno,
    /// For the reply, where its style has room for it.
    pub message: &'static str,
    /// Bytes of payload that follow the header and must be thrown away before the next header.
    pub drain_bytes: u32,
}

impl Request {
    /// Bytes that follow the header on the wire.
    pub fn payload_bytes(&self) -> u32 {
        if self.command == Command::Write { self.len_bytes } else { 0 }
    }

    /// The client wants this write, trim or write-zeroes durable before its reply.
    pub fn is_fua(&self) -> bool {
        self.flags & FLAG_FUA != 0
    }

    /// Checks everything the protocol demands of a request to this export. Afterwards the command is one that the
    /// export serves, and the range (if the command has one) is not empty, aligned to the smallest block, inside the
    /// export and, for reads and writes, no longer than the export's longest block.
    pub fn validate(&self, export: &ExportInfo, style: ReplyStyle) -> Result<(), NbdError> {
        self.check(export, style).map_err(|(errno, message)| NbdError {
            errno,
            message,
            drain_bytes: self.payload_bytes(),
        })
    }

    fn check(&self, export: &ExportInfo, style: ReplyStyle) -> Result<(), (Errno, &'static str)> {
        self.check_command(export)?;
        self.check_flags(export, style)?;
        match self.command {
            Command::Read => {
                self.check_range(export, Errno::Invalid)?;
                self.check_longest(export)?;
                if self.flags & FLAG_DF != 0 && self.len_bytes > MAX_UNFRAGMENTED_BYTES {
                    return Err((Errno::Overflow, "the read is too long to be sent in one chunk"));
                }
                Ok(())
            }
            Command::Write => {
                self.check_range(export, Errno::NoSpace)?;
                self.check_longest(export)
            }
            Command::WriteZeroes => self.check_range(export, Errno::NoSpace),
            Command::Trim => self.check_range(export, Errno::Invalid),
            Command::Flush if self.offset_bytes != 0 || self.len_bytes != 0 => {
                Err((Errno::Invalid, "a flush has no range"))
            }
            // A disconnect is obeyed whatever its reserved fields hold: the client is gone either way.
            Command::Flush | Command::Disconnect => Ok(()),
            Command::Cache | Command::BlockStatus | Command::Unknown(_) => {
                unreachable!("check_command refuses what is not served")
            }
        }
    }

    fn check_command(&self, export: &ExportInfo) -> Result<(), (Errno, &'static str)> {
        let flags = export.flags;
        let (served, changes_data) = match self.command {
            Command::Read | Command::Disconnect => (true, false),
            Command::Write => (true, true),
            Command::Flush => (flags.flush, false),
            Command::Trim => (flags.trim, true),
            Command::WriteZeroes => (flags.write_zeroes, true),
            Command::Cache | Command::BlockStatus | Command::Unknown(_) => (false, false),
        };
        if changes_data && flags.read_only {
            return Err((Errno::NotPermitted, "the export is read-only"));
        }
        if served { Ok(()) } else { Err((Errno::Invalid, "the export does not serve this command")) }
    }

    fn check_flags(&self, export: &ExportInfo, style: ReplyStyle) -> Result<(), (Errno, &'static str)> {
        // Clients are known to put FUA on commands that write nothing, so it is accepted on all of them.
        let fua = if export.flags.fua { FLAG_FUA } else { 0 };
        let known = match self.command {
            Command::Read if style == ReplyStyle::Structured => fua | FLAG_DF,
            Command::WriteZeroes => fua | FLAG_NO_HOLE,
            Command::Disconnect => u16::MAX,
            Command::Read
            | Command::Write
            | Command::Flush
            | Command::Trim
            | Command::Cache
            | Command::BlockStatus
            | Command::Unknown(_) => fua,
        };
        if self.flags & !known != 0 {
            return Err((Errno::Invalid, "a flag is not known for this command"));
        }
        Ok(())
    }

    fn check_range(&self, export: &ExportInfo, beyond_end: Errno) -> Result<(), (Errno, &'static str)> {
        let min = export.min_block_bytes;
        if self.len_bytes == 0 {
            return Err((Errno::Invalid, "the range is empty"));
        }
        if !self.offset_bytes.is_multiple_of(u64::from(min)) || !self.len_bytes.is_multiple_of(min) {
            return Err((Errno::Invalid, "the range is not aligned to the smallest block"));
        }
        match self.offset_bytes.checked_add(u64::from(self.len_bytes)) {
            Some(end) if end <= export.size_bytes => Ok(()),
            _ => Err((beyond_end, "the range reaches beyond the end of the export")),
        }
    }

    fn check_longest(&self, export: &ExportInfo) -> Result<(), (Errno, &'static str)> {
        if self.len_bytes > export.max_block_bytes {
            return Err((Errno::Invalid, "the range is longer than the longest block"));
        }
        Ok(())
    }
}

/// Cuts a validated range into pieces of at most `max_bytes` (not 0), in ascending order; all but the last are
/// exactly that long.
pub fn split(offset_bytes: u64, len_bytes: u32, max_bytes: u32) -> Split {
    assert!(max_bytes > 0);
    assert!(
        offset_bytes.checked_add(u64::from(len_bytes)).is_some(),
        "split of a range that was not validated"
    );
    Split { offset_bytes, left_bytes: len_bytes, max_bytes }
}

/// One piece of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// First byte.
    pub offset_bytes: u64,
    /// Length, not 0.
    pub len_bytes: u32,
}

/// Iterator of [`split`].
#[derive(Clone, Debug)]
pub struct Split {
    offset_bytes: u64,
    left_bytes: u32,
    max_bytes: u32,
}

impl Iterator for Split {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.left_bytes == 0 {
            return None;
        }
        let piece = Piece { offset_bytes: self.offset_bytes, len_bytes: self.left_bytes.min(self.max_bytes) };
        self.offset_bytes += u64::from(piece.len_bytes);
        self.left_bytes -= piece.len_bytes;
        Some(piece)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let pieces = self.left_bytes.div_ceil(self.max_bytes) as usize;
        (pieces, Some(pieces))
    }
}

impl ExactSizeIterator for Split {}

fn field<const N: usize>(header: &[u8; REQUEST_BYTES], at: usize) -> [u8; N] {
    header[at..].first_chunk().copied().expect("fields lie inside the header")
}

/// Length of a request header.
pub const REQUEST_BYTES: usize = 28;
/// Most data a write may carry and a read may ask for: what clients use that do not ask for the limits.
pub const MAX_PAYLOAD_BYTES: u32 = 32 << 20;
/// Longest read with [`FLAG_DF`]; the protocol demands at least 64 KiB. One piece, so nobody need reassemble.
pub const MAX_UNFRAGMENTED_BYTES: u32 = MAX_DATA_PIECE_BYTES;
/// `max_bytes` for [`split`] of reads and writes: the largest request with data on the peers' wire.
pub const MAX_DATA_PIECE_BYTES: u32 = 1 << 20;
/// `max_bytes` for [`split`] of trim and write-zeroes: the largest discard on the peers' wire.
pub const MAX_DISCARD_PIECE_BYTES: u32 = 128 << 20;

/// Reply only when the written data is durable.
pub const FLAG_FUA: u16 = 1 << 0;
/// Write-zeroes must not give up the blocks.
pub const FLAG_NO_HOLE: u16 = 1 << 1;
/// A read's data must come in one chunk.
pub const FLAG_DF: u16 = 1 << 2;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const _: () = assert!(MAX_UNFRAGMENTED_BYTES >= 65536);
