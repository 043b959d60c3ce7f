//! Everything a resource can ask its driver for.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use model::config::settings::Handler;
use model::ids::BufId;

use crate::command::{CommandId, CommandResult};
use crate::digest::DigestAlg;
use crate::event::{ClientTag, HandlerRun, IoTag, SockId, VolIdx};

/// Bytes in [`Actions::bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

/// How a client request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientResult {
    /// Done.
    Ok,
    /// No copy could do it.
    IoError,
    /// Outside the device or malformed.
    Invalid,
    /// The node may not write (Secondary).
    ReadOnly,
}

/// Severity of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    /// Needs an operator.
    Alert,
    /// Something failed.
    Error,
    /// Unexpected but handled.
    Warn,
    /// State changes and the like.
    Info,
}

/// When a socket is closed. Whoever carries it out gives up after about a second, and lets nothing else wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// At once; what is queued is dropped.
    AtOnce,
    /// When what is queued is sent: the peer hears that no more comes, and is listened to until it closes.
    WhenSent,
    /// When what is queued is sent and the peer has closed. It hears of nothing before.
    AfterPeer,
}

/// What the core asks for. Every action that needs an answer names the key the answer event carries. Within one
/// batch, actions on the same socket or the same metadata block must keep their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Read into a buffer that the driver allocates (waiting for one if need be); `Event::DiskDone` brings it, or
    /// `Event::DiskDigest` if a digest was asked for and the read succeeded.
    DiskRead {
        /// Key of the completion.
        tag: IoTag,
        /// Which volume.
        vol: VolIdx,
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len_bytes: u32,
        /// Digest of the data that is wanted with it.
        digest: Option<DigestAlg>,
    },
    /// Write from a buffer. The driver keeps the buffer alive until completion by itself.
    DiskWrite {
        /// Key of the completion.
        tag: IoTag,
        /// Which volume.
        vol: VolIdx,
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len_bytes: u32,
        /// Data, from offset 0.
        buf: BufId,
        /// Stable before completion.
        fua: bool,
    },
    /// Make everything completed before durable.
    DiskFlush {
        /// Key of the completion.
        tag: IoTag,
        /// Which volume.
        vol: VolIdx,
    },
    /// Make a range read as zeroes.
    DiskZero {
        /// Key of the completion.
        tag: IoTag,
        /// Which volume.
        vol: VolIdx,
        /// First sector.
        sector: u64,
        /// Length in bytes.
        len_bytes: u32,
        /// Deallocation is permitted (a discard).
        may_unmap: bool,
        /// Stable before completion.
        fua: bool,
    },
    /// Write one 4096-byte metadata block, stable on completion when `fua`.
    MetaWrite {
        /// Key of the completion.
        tag: IoTag,
        /// Which volume.
        vol: VolIdx,
        /// First sector on the metadata device.
        md_sector: u64,
        /// The block.
        block: Span,
        /// Flush the data device and the metadata device before the write: what leaves the activity log is in the cache of
        /// the former.
        flush_before: bool,
        /// Stable before completion.
        fua: bool,
    },
    /// Look how large the disk of a volume is now; `Event::DiskMeasured` answers, in a later batch.
    MeasureDisk {
        /// Which volume.
        vol: VolIdx,
        /// Tells this disk from one attached later; comes back in the answer.
        attach: u32,
    },
    /// Append to a socket's stream: the bytes, then the payload if there is one (of which the driver keeps a
    /// reference of its own until sent).
    Send {
        /// Which socket.
        sock: SockId,
        /// Encoded header and body.
        bytes: Span,
        /// Bulk payload: handle and length from its offset 0.
        payload: Option<(BufId, u32)>,
        /// Its digest goes between the bytes and the payload; the header counts it.
        digest: Option<DigestAlg>,
    },
    /// Give up one reference of a buffer.
    Release {
        /// Which.
        buf: BufId,
    },
    /// A client request is finished. `buf` holds the data of a read from offset 0; its reference passes back.
    ClientDone {
        /// The client's name of it.
        tag: ClientTag,
        /// How it ended.
        result: ClientResult,
        /// Data of a successful read.
        buf: Option<BufId>,
    },
    /// Start listening on the configured address (idempotent); accepted sockets come as events.
    Listen,
    /// Stop listening; sockets that wait in the backlog are reset.
    Unlisten,
    /// Try to connect to the peer.
    Connect {
        /// Key of the answer.
        attempt: u32,
        /// Give up after this many nanoseconds.
        timeout_ns: u64,
    },
    /// Close a socket. The core never names it again; no event follows.
    CloseSocket {
        /// Which.
        sock: SockId,
        /// When.
        closing: Closing,
    },
    /// An administrator's command is finished.
    CommandDone {
        /// Which.
        id: CommandId,
        /// How it ended.
        result: CommandResult,
    },
    /// The local disk of a volume is no longer used: close it when its operations have ended, of which some may have been
    /// given up. Until then it must not be attached again.
    CloseDisk {
        /// Which volume.
        vol: VolIdx,
    },
    /// A volume may (or may no longer) be opened by clients, or its size changed.
    ExportChanged {
        /// Which volume.
        vol: VolIdx,
    },
    /// Run a handler script (drbd-states 17); [`crate::Event::HandlerDone`] answers. One that is not configured counts as
    /// run, with exit code 0. It may be told of a volume, or of the connection as a whole.
    RunHandler {
        /// Key of the answer.
        run: HandlerRun,
        /// Which one.
        handler: Handler,
        /// The volume it is about.
        vol: Option<VolIdx>,
    },
    /// A log line in [`Actions::texts`].
    Log {
        /// How loud.
        level: LogLevel,
        /// About one volume, or the resource.
        vol: Option<VolIdx>,
        /// Index into the texts.
        text: u32,
    },
}

const _: () = assert!(core::mem::size_of::<Action>() <= 64);

/// The queue of actions that the caller drains after each batch of events. All storage is reused.
#[derive(Debug, Default)]
pub struct Actions {
    /// What to do, in order.
    pub list: Vec<Action>,
    /// Bytes that the actions refer to.
    pub bytes: Vec<u8>,
    /// Texts of log lines.
    pub texts: Vec<String>,
    /// Nobody reads the log: its lines come without their texts.
    pub mute: bool,
}

impl Actions {
    /// Empty queue with room for a typical batch.
    pub fn new() -> Actions {
        Actions {
            list: Vec::with_capacity(1024),
            bytes: Vec::with_capacity(64 * 1024),
            texts: Vec::with_capacity(64),
            mute: false,
        }
    }

    /// Forgets everything after it was drained.
    pub fn clear(&mut self) {
        self.list.clear();
        self.bytes.clear();
        self.texts.clear();
    }

    /// The bytes of a span.
    pub fn span(&self, s: Span) -> &[u8] {
        &self.bytes[s.start as usize..(s.start + s.len) as usize]
    }

    /// Appends bytes by `fill` and names them.
    pub(crate) fn write_bytes(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len();
        fill(&mut self.bytes);
        Span { start: start as u32, len: (self.bytes.len() - start) as u32 }
    }

    pub(crate) fn push(&mut self, a: Action) {
        self.list.push(a);
    }

    /// A line of the log; `text` is formatted only if somebody reads it.
    pub(crate) fn log(&mut self, level: LogLevel, vol: Option<VolIdx>, text: impl Display) {
        let index = self.texts.len() as u32;
        self.texts.push(if self.mute { String::new() } else { text.to_string() });
        self.list.push(Action::Log { level, vol, text: index });
    }
}
