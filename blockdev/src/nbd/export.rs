//! What an export is to a client: its name, size, limits and abilities.

use super::reply::ReplyStyle;

/// Where the handshake finds exports.
pub trait Exports {
    /// The export with this name. The name is valid UTF-8 of at most [`MAX_NAME_BYTES`] bytes from the client; the
    /// empty name asks for the default export, which exists if there is exactly one.
    fn lookup(&self, name: &[u8]) -> Result<ExportInfo, Refused>;

    /// Calls `each` with the name of every export a client may see listed, each at most [`MAX_NAME_BYTES`] long.
    fn for_each(&self, each: &mut dyn FnMut(&str));
}

/// Why a client does not get an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The kind of refusal, for the client's program.
    pub error: RefusedError,
    /// What is wrong and what helps, for the client's user; cut to [`MAX_NAME_BYTES`] on the wire.
    pub message: String,
}

/// Kinds of refusal a look-up may answer with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedError {
    /// No export has this name.
    Unknown,
    /// The export exists but may not be used here now, for example because the node is Secondary.
    Policy,
    /// The server is stopping.
    Shutdown,
}

/// One export as a look-up describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportInfo {
    /// The caller's key for the export; never sent.
    pub id: u32,
    /// Canonical name, told to clients that ask for it (they may have asked for the empty name).
    pub name: String,
    /// Size in bytes, a multiple of `min_block_bytes`.
    pub size_bytes: u64,
    /// Abilities.
    pub flags: ExportFlags,
    /// Offsets and lengths must be multiples of this power of two.
    pub min_block_bytes: u32,
    /// Requests that are multiples of this power of two are fastest.
    pub preferred_block_bytes: u32,
    /// Longest read or write, a multiple of `min_block_bytes` and at most
    /// [`super::request::MAX_PAYLOAD_BYTES`]; trim and write-zeroes may be longer.
    pub max_block_bytes: u32,
    /// Free text for people, may be empty; cut to [`MAX_NAME_BYTES`] on the wire.
    pub description: String,
}

impl ExportInfo {
    /// A writable export with the usual limits, no optional ability and no description.
    pub fn new(id: u32, name: &str, size_bytes: u64) -> ExportInfo {
        ExportInfo {
            id,
            name: name.to_owned(),
            size_bytes,
            flags: ExportFlags::default(),
            min_block_bytes: MIN_BLOCK_BYTES,
            preferred_block_bytes: PREFERRED_BLOCK_BYTES,
            max_block_bytes: super::request::MAX_PAYLOAD_BYTES,
            description: String::new(),
        }
    }

    /// Panics when the limits contradict each other; the caller of the handshake made them.
    pub(super) fn check_invariants(&self) {
        assert!(self.min_block_bytes.is_power_of_two() && self.preferred_block_bytes.is_power_of_two());
        assert!(self.min_block_bytes <= self.preferred_block_bytes);
        assert!(self.preferred_block_bytes <= self.max_block_bytes);
        assert!(self.max_block_bytes.is_multiple_of(self.min_block_bytes));
        assert!(self.max_block_bytes <= super::request::MAX_PAYLOAD_BYTES);
        assert!(self.size_bytes.is_multiple_of(u64::from(self.min_block_bytes)));
        assert!(self.name.len() <= MAX_NAME_BYTES);
    }
}

/// Abilities of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExportFlags {
    /// Writes, trims and write-zeroes are refused.
    pub read_only: bool,
    /// Flush is served.
    pub flush: bool,
    /// The forced-unit-access flag is honoured.
    pub fua: bool,
    /// Seeks are expensive.
    pub rotational: bool,
    /// Trim is served.
    pub trim: bool,
    /// Write-zeroes is served.
    pub write_zeroes: bool,
    /// A flush on one connection covers completed writes of all connections.
    pub multi_conn: bool,
}

impl ExportFlags {
    /// The transmission flags field. "Do not fragment" belongs to structured replies and is set with them only.
    pub fn to_wire(self, style: ReplyStyle) -> u16 {
        let table = [
            (true, HAS_FLAGS),
            (self.read_only, READ_ONLY),
            (self.flush, SEND_FLUSH),
            (self.fua, SEND_FUA),
            (self.rotational, ROTATIONAL),
            (self.trim, SEND_TRIM),
            (self.write_zeroes, SEND_WRITE_ZEROES),
            (style == ReplyStyle::Structured, SEND_DF),
            (self.multi_conn, CAN_MULTI_CONN),
        ];
        table.iter().filter(|(set, _)| *set).fold(0, |flags, (_, bit)| flags | bit)
    }
}

/// Longest string of the protocol (names, messages), in bytes.
pub const MAX_NAME_BYTES: usize = 4096;
/// Usual smallest unit of an export: a sector.
pub const MIN_BLOCK_BYTES: u32 = 512;
/// Usual preferred unit of an export: a block of the out-of-sync bitmap.
pub const PREFERRED_BLOCK_BYTES: u32 = 4096;

const HAS_FLAGS: u16 = 1 << 0;
const READ_ONLY: u16 = 1 << 1;
const SEND_FLUSH: u16 = 1 << 2;
const SEND_FUA: u16 = 1 << 3;
const ROTATIONAL: u16 = 1 << 4;
const SEND_TRIM: u16 = 1 << 5;
const SEND_WRITE_ZEROES: u16 = 1 << 6;
const SEND_DF: u16 = 1 << 7;
const CAN_MULTI_CONN: u16 = 1 << 8;
