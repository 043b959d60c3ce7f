//! What gives the machines of this crate a clock, sockets and the kernel's tables, and does what they want done. Everything
//! runs on one thread, in the network namespace of that thread.
#![forbid(unsafe_code)]

mod clock;
mod command;
pub mod handler;
pub mod heartbeat;
pub mod mail;
pub mod vrrp;

pub use clock::now;
