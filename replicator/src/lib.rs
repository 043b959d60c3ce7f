//! The sans-I/O core of one resource on one node: wire protocol, handshake, state changes, requests, activity
//! log, bitmap, metadata and resync. Events and `now` go in, actions come out; there is no clock, socket,
//! thread or randomness of its own in here, so everything it does can be simulated and replayed.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

extern crate alloc;

pub mod activity_log;
pub mod bitmap;
pub mod handshake;
pub mod meta;
pub mod resync;
pub mod state;
pub mod wire;
