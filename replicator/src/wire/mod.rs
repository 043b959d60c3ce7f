//! The wire protocol: packet catalogue, headers, framing rules and one struct per packet layout.
//!
//! The way in, for the driver of one socket: [`parse_header`] on the bytes at hand, [`frame_shape`] to learn
//! how many body bytes and how many bytes of block data follow, then [`Packet::decode`] on the body. Block
//! data never comes here; the driver receives it into a buffer of its own.
//!
//! The way out: [`put`] (or [`put80`] before the protocol version is agreed) appends header and body to a
//! send buffer; block data follows it on the socket.
//!
//! Bytes from a peer are hostile: everything here returns [`WireError`] and never panics on them, and no
//! accepted frame is longer than [`MAX_FRAME_BYTES`].

mod ack;
mod auth;
mod barrier;
mod bitmap;
mod command;
mod data;
mod error;
mod features;
mod fields;
mod flow;
mod header;
mod packet;
mod protocol;
mod request;
mod shape;
mod sizes;
mod state;
mod sync_param;
mod uuids;

#[cfg(test)]
mod tests;

pub use ack::Ack;
pub use auth::{AuthChallenge, AuthResponse, CHALLENGE_BYTES, CHALLENGE_BYTES_MAX, MAC_BYTES_MAX};
pub use barrier::{Barrier, BarrierAck};
pub use bitmap::{BITMAP_PIECE_BYTES_MAX, BitmapPiece, CompressedBitmap};
pub use command::{Command, Row, Scope, Sock, SockSet, Tail};
pub use data::{Data, DpFlags, Trim};
pub use error::WireError;
pub use features::{ConnectionFeatures, Features, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
pub use fields::{BarrierNo, BlockId};
pub use flow::{BlockDesc, DelayProbe};
pub use header::{HEADER80_BYTES, HEADER100_BYTES, Header, HeaderForm, MAX_FRAME_BYTES, parse_header};
pub use packet::{Body, Packet, put, put80};
pub use protocol::{Protocol, ProtocolFlags};
pub use request::{DIGEST_BYTES_MAX, DigestRequest, Request};
pub use shape::{FrameShape, frame_shape, frame_shape_with_digest};
pub use sizes::{DdsFlags, QueueLimits, Sizes};
pub use state::{ChangeReply, ChangeRequest, State};
pub use sync_param::{SyncParam, SyncParam89};
pub use uuids::{SyncUuid, UuidFlags, Uuids};
