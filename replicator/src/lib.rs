//! The sans-I/O core of one resource on one node: wire protocol, handshake, state changes, requests, activity
//! log, bitmap, metadata and resync. Events and `now` go in, actions come out; there is no clock, socket,
//! thread or randomness of its own in here, so everything it does can be simulated and replayed.
//!
//! The contract with the driver:
//!
//! * [`Resource::handle`] takes one event, [`Resource::command`] one administrator's command. After a batch of
//!   them the driver calls [`Resource::end_batch`], then drains [`Actions`] in order and clears it.
//! * Before it cuts the next packet out of a socket's bytes, the driver asks [`Resource::framing`] which form the
//!   header has; `None` means: keep the bytes, ask again after the next batch.
//! * [`Resource::deadline`] says when to call again with [`Event::Deadline`]; time never runs backwards.
//! * An event that names an operation, socket or attempt the core has given up is counted and ignored.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

extern crate alloc;

pub mod action;
pub mod activity_log;
pub mod authority;
pub mod bitmap;
pub mod command;
pub mod config;
pub mod digest;
pub mod event;
pub mod handshake;
pub mod meta;
pub mod resync;
pub mod state;
pub mod wire;

mod commands;
mod connection;
mod disks;
mod fencing;
mod give_up;
mod handlers;
mod io_tag;
mod meta_io;
mod meta_move;
mod peer_requests;
mod planted;
mod receive;
mod requests;
mod resize;
mod resource;
mod rng;
mod status;
mod timers;
mod verify;
mod volume;

pub use action::{Action, Actions, ClientResult, Closing, LogLevel, Span};
pub use authority::Authority;
pub use command::{Command, CommandId, CommandResult};
pub use config::{Auth, Config, DiskConfig, HmacAlg, NetConfig, VolumeConfig};
pub use digest::{Digest, DigestAlg};
pub use event::{
    ClientOp, ClientRequest, ClientTag, DownCause, Event, HandlerRun, IoResult, IoTag, SockId, VolIdx,
};
#[cfg(feature = "planted-bugs")]
pub use planted::plant;
pub use planted::{PLANTED_BUGS, Planted};
pub use resize::{MeasuredDisk, ResizeWish};
pub use resource::{Framing, Resource};
pub use status::ExportState;
pub use volume::AttachedDisk;
