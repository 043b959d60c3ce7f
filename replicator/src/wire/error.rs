//! What can be wrong with bytes from the peer.

use super::{Command, HeaderForm, Sock};
use model::state::ConnState;

/// A frame or packet that the protocol does not allow. Always the peer's fault (or that of the network);
/// the connection cannot be used any further because the byte stream is no longer understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// The stream does not continue with a header of the agreed form.
    #[error("bad magic {found:#010x} where a {expected:?} header must start")]
    BadMagic {
        /// Agreed form.
        expected: HeaderForm,
        /// The first bytes, big-endian; missing ones are zero.
        found: u32,
    },
    /// The last four bytes of a header 100 are not zero.
    #[error("header pad is {0:#010x}, not zero")]
    HeaderPad(u32),
    /// A number without a packet, or one that cannot occur with this header form.
    #[error("unknown command {0:#06x}")]
    UnknownCommand(u16),
    /// A known packet on the socket where it does not belong.
    #[error("{} arrived on the {sock:?} socket", command.name())]
    WrongSocket {
        /// The packet.
        command: Command,
        /// Where it arrived.
        sock: Sock,
    },
    /// The header announces a length that this packet cannot have.
    #[error("{} with impossible length {len}", command.name())]
    Length {
        /// The packet.
        command: Command,
        /// Length field of the header.
        len: u32,
    },
    /// A body of the wrong length was handed to a decoder.
    #[error("{layout} body of {len} bytes")]
    Body {
        /// Name of the layout in drbd-wire 2.4.
        layout: &'static str,
        /// Length of the body, in bytes.
        len: usize,
    },
    /// A field holds a value outside its range.
    #[error("{field} is {value:#x}")]
    Value {
        /// Layout and field.
        field: &'static str,
        /// What it holds.
        value: u64,
    },
    /// Block data arrived that is not what was sent.
    #[error("{} whose block data does not match its digest", command.name())]
    Digest {
        /// The packet.
        command: Command,
    },
    /// An algorithm name is not terminated, too long or not printable ASCII.
    #[error("{0} is not a proper name")]
    Name(&'static str),
}

impl WireError {
    /// The connection state that this error leads to when it happens on `sock` of an established connection.
    // spec: drbd-wire 2.2
    pub const fn conn_state(&self, sock: Sock) -> ConnState {
        match (sock, self) {
            (Sock::Data, _) => ConnState::ProtocolError,
            (Sock::Meta, WireError::UnknownCommand(_) | WireError::WrongSocket { .. }) => {
                ConnState::Disconnecting
            }
            (Sock::Meta, _) => ConnState::NetworkFailure,
        }
    }
}
