//! heartbeat's membership: which nodes are there, by beats over UDP, beside the replication link (failover 3). It speaks with
//! heartbeat 3.0.6. What that says of resources is neither sent nor heard: services move by their lease.
//!
//! [`message`] is the datagram, [`auth`] its signature, [`Membership`] the machine without I/O.

pub mod auth;
mod hearing;
mod machine;
pub mod message;

pub use machine::{Action, Event, Membership, MembershipStatus, Node, NodeState, StartError};
