//! Everything that can happen to a resource.

use model::ids::BufId;

use crate::wire::{Header, WireError};

/// Identifies a TCP connection of the driver; never reused while the core may still name it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SockId(pub u32);

/// Index of a volume in [`crate::Resource`], in ascending order of volume number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct VolIdx(pub u8);

/// The driver's name of a client request; comes back in `Action::ClientDone`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientTag(pub u64);

/// Key of a disk or metadata operation: comes back in the completion event. Kind, slab slot and generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IoTag(pub u64);

/// Names a run of a handler script; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HandlerRun(pub u32);

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientOp {
    /// Read `len_bytes` (<= 1 MiB). The driver allocates the buffer when the core asks for the disk read; the
    /// completion names the buffer that holds the data.
    Read,
    /// Write `len_bytes` (<= 1 MiB) from `buf`, whose reference passes to the core.
    Write {
        /// The data, from its offset 0.
        buf: BufId,
        /// Durable on every copy before the completion.
        fua: bool,
    },
    /// Everything completed before is durable when this completes.
    Flush,
    /// Discard `len_bytes` (<= 128 MiB); reads zeroes afterwards.
    Discard,
    /// Write zeroes over `len_bytes` (<= 128 MiB).
    Zeroes {
        /// Unmapping is permitted.
        may_unmap: bool,
        /// Durable before the completion.
        fua: bool,
    },
}

/// A request of a client of the exported device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientRequest {
    /// Comes back in the completion.
    pub tag: ClientTag,
    /// Which volume.
    pub vol: VolIdx,
    /// First sector; the range lies inside the device (the driver checked; checked again here).
    pub sector: u64,
    /// Length, a multiple of 512; 0 only for a flush.
    pub len_bytes: u32,
    /// What to do.
    pub op: ClientOp,
}

/// How a disk operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoResult {
    /// All bytes done.
    Ok,
    /// Failed with this errno (positive).
    Err(i32),
}

impl IoResult {
    /// Whether it succeeded.
    pub const fn is_ok(self) -> bool {
        matches!(self, IoResult::Ok)
    }
}

/// Why a socket is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownCause {
    /// The peer closed it.
    Closed,
    /// An error (errno).
    Error(i32),
}

/// Everything that can happen. Block data appears as a buffer handle, packet bodies as borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A client request.
    Request(ClientRequest),
    /// A disk operation ended. For reads `buf` is the buffer with the data; its reference passes to the core.
    DiskDone {
        /// Key of the operation.
        tag: IoTag,
        /// How it ended.
        result: IoResult,
        /// Data of a read.
        buf: Option<BufId>,
    },
    /// A disk read that was to bring a digest succeeded; one that failed is a [`Event::DiskDone`].
    DiskDigest {
        /// Key of the operation.
        tag: IoTag,
        /// The data; its reference passes to the core.
        buf: BufId,
        /// Its digest by the algorithm that was asked for.
        digest: &'a [u8],
    },
    /// A metadata write ended.
    MetaDone {
        /// Key of the operation.
        tag: IoTag,
        /// How it ended.
        result: IoResult,
    },
    /// A connection attempt of ours succeeded.
    Connected {
        /// The attempt named by `Action::Connect`.
        attempt: u32,
        /// The new socket.
        sock: SockId,
    },
    /// A connection attempt of ours failed; normal while the peer does not listen.
    ConnectFailed {
        /// The attempt.
        attempt: u32,
    },
    /// The listener accepted a connection.
    Accepted {
        /// The new socket.
        sock: SockId,
    },
    /// A socket is gone. After this the core never names it again; the driver has closed it.
    SocketDown {
        /// Which.
        sock: SockId,
        /// Why.
        cause: DownCause,
    },
    /// A packet was received completely. `payload` is the block data of a bulk packet; its reference passes to
    /// the core.
    Frame {
        /// On which socket.
        sock: SockId,
        /// The decoded header.
        header: Header,
        /// Everything behind the header except the bulk payload.
        body: &'a [u8],
        /// The bulk payload, from its offset 0.
        payload: Option<BufId>,
    },
    /// Bytes that are no packet; the stream is unusable.
    BadFrame {
        /// On which socket.
        sock: SockId,
        /// What was wrong.
        error: WireError,
    },
    /// The kernel accepted bytes of a socket's send queue.
    Sent {
        /// Which socket.
        sock: SockId,
        /// Bytes accepted since the socket was made.
        total_bytes: u64,
    },
    /// A handler script has ended.
    HandlerDone {
        /// The run named by `Action::RunHandler`.
        run: HandlerRun,
        /// Its exit code; 0 also if it could not be started, or a signal ended it.
        exit_code: i32,
    },
    /// The answer to `Action::MeasureDisk`.
    DiskMeasured {
        /// Which volume.
        vol: VolIdx,
        /// As in the action.
        attach: u32,
        /// What was found; None: the disk could not be looked at.
        disk: Option<&'a crate::resize::MeasuredDisk>,
    },
    /// The time of [`crate::Resource::deadline`] has come.
    Deadline,
}

const _: () = assert!(core::mem::size_of::<Event<'static>>() <= 64);
