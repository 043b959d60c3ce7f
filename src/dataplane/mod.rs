//! The data plane: one worker thread per resource, on which everything of that resource happens.
//!
//! The thread owns one ring, the buffer pool, the core (`replicator::Resource`), the backing disks, the peer's
//! sockets and the clients' sessions. A turn: wait, take completions, turn them into events of the core, let it
//! end the batch, carry out its actions, submit once. Other threads reach it through a bounded mailbox only
//! ([`WorkerHandle`]), and look at it through snapshots that it publishes.
//!
//! Who does what: `worker` has the loop; `actions` turns each action into work of one of the three owners of
//! I/O, which are `disks`, `peer_sockets` and `nbd_sessions` (with `nbd_requests`); these turn completions into
//! events.

mod actions;
mod core_side;
mod disk_ops;
mod disks;
mod nbd_exports;
mod nbd_receive;
mod nbd_requests;
mod nbd_sessions;
mod peer_receive;
mod peer_sockets;
mod snapshot;
mod spin;
mod token;
mod worker;
pub mod worker_api;

pub(crate) use worker::random_seed;
pub use worker_api::{HandlerCall, OpenedDisk, WorkerConfig, WorkerHandle};
