//! What a completion of the ring belongs to.

use replicator::SockId;

/// Names a session of a client. Slots are used again, serial numbers are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SessionKey {
    pub slot: u32,
    pub serial: u32,
}

/// Comes back with each completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// Another thread left a message.
    Wake,
    /// A connection of the peer; the number tells listeners that followed each other apart.
    PeerAccept { listener: u32 },
    /// An own connection attempt ended.
    PeerConnect { attempt: u32 },
    /// Bytes for the staging buffer of a peer socket.
    PeerRecv(SockId),
    /// The rest of a bulk payload.
    PeerPayload(SockId),
    /// A send to the peer ended.
    PeerSend(SockId),
    /// A connection of a client on the listener with this index.
    NbdAccept { listener: u32 },
    /// Bytes for the staging buffer of a session.
    NbdRecv(SessionKey),
    /// The rest of a piece of a write.
    NbdPayload(SessionKey),
    /// A send to a client ended.
    NbdSend(SessionKey),
    /// A step of the disk operation with this index.
    Disk(u32),
}
