//! The NBD server's protocol, without I/O: option haggling, request headers, reply headers. And the kernel as a client, which
//! needs no handshake ([`kernel`]).
//!
//! The owner of a socket feeds received bytes to a [`handshake::Handshake`] until it says
//! [`handshake::State::Transmission`], then reads 28-byte headers with [`request::parse`], checks each with
//! [`request::Request::validate`] and answers with the functions of [`reply`]. Nothing here blocks, and nothing
//! allocates once the handshake is over as long as the caller reuses its output buffer.
//!
//! What is spoken: fixed newstyle, structured replies (with "do not fragment"), no TLS, no extended headers.
//! Meta data contexts are understood but none is offered: every block of a replicated device is data, so
//! `base:allocation` would cost the client a round trip per range and tell it nothing.
//!
//! spec: doc/proto.md of the NetworkBlockDevice project ("nbd-proto" in the comments of this folder).

pub mod export;
pub mod handshake;
pub mod kernel;
pub mod reply;
pub mod request;

#[cfg(test)]
mod tests;
