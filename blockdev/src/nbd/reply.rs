//! Reply headers. Data never passes through here: a read's header is put, then the caller sends the data from its
//! pool buffer.
//!
//! All functions append to `out` and need at most [`MAX_REPLY_BYTES`] there, so a buffer with that much room per
//! reply never grows.

/// How replies look on a connection; settled by the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReplyStyle {
    /// One 16-byte header per request. A read's data follows its header at once, so an error after the header can
    /// only be told by closing the connection: put the header when all data is there.
    #[default]
    Simple,
    /// Chunks, each with its own 20-byte header; errors carry a text. A read must never get a simple reply.
    Structured,
}

/// A client's name for a request, returned unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Cookie(pub [u8; 8]);

/// Error numbers of the transmission phase; the only ones a server may send (nbd-proto "Error values").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Errno {
    /// EPERM: the export is read-only.
    NotPermitted = 1,
    /// EIO: the data could not be read or written.
    Io = 5,
    /// ENOMEM: out of memory.
    NoMemory = 12,
    /// EINVAL: the request makes no sense.
    Invalid = 22,
    /// ENOSPC: a write beyond the end, or the backing store is full.
    NoSpace = 28,
    /// EOVERFLOW: an unfragmented read is too long.
    Overflow = 75,
    /// ENOTSUP: the wish cannot be met the fast way.
    NotSupported = 95,
    /// ESHUTDOWN: the server is stopping, or the export is no longer served here.
    Shutdown = 108,
}

impl Errno {
    /// The nearest protocol error for an operating system error number (positive).
    pub fn from_os(errno: i32) -> Errno {
        match errno {
            libc::EPERM | libc::EACCES | libc::EROFS => Errno::NotPermitted,
            libc::ENOMEM => Errno::NoMemory,
            libc::EINVAL => Errno::Invalid,
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Errno::NoSpace,
            libc::EOVERFLOW => Errno::Overflow,
            libc::EOPNOTSUPP => Errno::NotSupported,
            libc::ESHUTDOWN => Errno::Shutdown,
            _ => Errno::Io,
        }
    }
}

/// Answers a request other than a read: success, without data.
pub fn put_ok(out: &mut Vec<u8>, style: ReplyStyle, cookie: Cookie) {
    match style {
        ReplyStyle::Simple => put_simple(out, None, cookie),
        ReplyStyle::Structured => put_none_done(out, cookie),
    }
}

/// Answers any request with an error, and ends its reply. `message` reaches clients with structured replies only.
pub fn put_failed(out: &mut Vec<u8>, style: ReplyStyle, cookie: Cookie, errno: Errno, message: &str) {
    match style {
        ReplyStyle::Simple => put_simple(out, Some(errno), cookie),
        ReplyStyle::Structured => put_error(out, cookie, errno, message),
    }
}

/// Simple reply header, [`SIMPLE_REPLY_BYTES`] long; `None` is success. The whole data of a successful read follows.
pub fn put_simple(out: &mut Vec<u8>, errno: Option<Errno>, cookie: Cookie) {
    out.extend_from_slice(&SIMPLE_MAGIC.to_be_bytes());
    out.extend_from_slice(&errno.map_or(0, |errno| errno as u32).to_be_bytes());
    out.extend_from_slice(&cookie.0);
}

/// Header of a structured data chunk, [`READ_CHUNK_HEADER_BYTES`] long; `len_bytes` (not 0, at most
/// [`super::request::MAX_PAYLOAD_BYTES`]) of data from `offset_bytes` of the export on must follow. `done` ends the
/// reply; set it only when all the data is at hand, an error could not be told any more.
pub fn put_read_chunk_header(
    out: &mut Vec<u8>,
    cookie: Cookie,
    offset_bytes: u64,
    len_bytes: u32,
    done: bool,
) {
    assert!(len_bytes > 0 && len_bytes <= super::request::MAX_PAYLOAD_BYTES);
    put_chunk(out, done, TYPE_OFFSET_DATA, cookie, len_bytes + 8);
    out.extend_from_slice(&offset_bytes.to_be_bytes());
}

/// Last chunk without content, [`CHUNK_HEADER_BYTES`] long: ends a reply, successfully if no error chunk was put.
pub fn put_none_done(out: &mut Vec<u8>, cookie: Cookie) {
    put_chunk(out, true, TYPE_NONE, cookie, 0);
}

/// Error chunk about the whole request, ends the reply. The message is cut to [`MAX_MESSAGE_BYTES`].
pub fn put_error(out: &mut Vec<u8>, cookie: Cookie, errno: Errno, message: &str) {
    let message = cut(message, MAX_MESSAGE_BYTES);
    put_chunk(out, true, TYPE_ERROR, cookie, 6 + message.len() as u32);
    put_error_body(out, errno, message);
}

/// Error chunk about `offset_bytes`, which must lie inside the request. Other chunks may follow unless `done`. The
/// message is cut to [`MAX_MESSAGE_BYTES`].
pub fn put_error_offset(
    out: &mut Vec<u8>,
    cookie: Cookie,
    errno: Errno,
    message: &str,
    offset_bytes: u64,
    done: bool,
) {
    let message = cut(message, MAX_MESSAGE_BYTES);
    put_chunk(out, done, TYPE_ERROR_OFFSET, cookie, 14 + message.len() as u32);
    put_error_body(out, errno, message);
    out.extend_from_slice(&offset_bytes.to_be_bytes());
}

/// The longest prefix of `text` that has at most `max_bytes` and ends between characters.
pub(super) fn cut(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

fn put_chunk(out: &mut Vec<u8>, done: bool, kind: u16, cookie: Cookie, payload_bytes: u32) {
    out.extend_from_slice(&STRUCTURED_MAGIC.to_be_bytes());
    out.extend_from_slice(&u16::from(done).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&cookie.0);
    out.extend_from_slice(&payload_bytes.to_be_bytes());
}

fn put_error_body(out: &mut Vec<u8>, errno: Errno, message: &str) {
    debug_assert!(message.len() <= MAX_MESSAGE_BYTES);
    out.extend_from_slice(&(errno as u32).to_be_bytes());
    out.extend_from_slice(&(message.len() as u16).to_be_bytes());
    out.extend_from_slice(message.as_bytes());
}

/// Length of a simple reply header.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Length of the header of every structured chunk.
pub const CHUNK_HEADER_BYTES: usize = 20;
/// Length of what precedes the data of a read in a structured reply.
pub const READ_CHUNK_HEADER_BYTES: usize = CHUNK_HEADER_BYTES + 8;
/// Longest error text of the transmission phase.
pub const MAX_MESSAGE_BYTES: usize = 256;
/// The most any function of this module appends.
pub const MAX_REPLY_BYTES: usize = CHUNK_HEADER_BYTES + 14 + MAX_MESSAGE_BYTES;

const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;
const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_ERROR: u16 = (1 << 15) + 1;
const TYPE_ERROR_OFFSET: u16 = (1 << 15) + 2;
