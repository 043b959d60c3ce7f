//! The lease: one small record in a store that both nodes and nobody else write, changed by compare-and-swap only. It says
//! which node is the home of a service, and whose copy of the data may be the newest. Two homes are impossible because a node
//! acts only while it knows that its peer would not have taken the record yet, and the peer takes it only when that time is
//! over for certain. Each reckons on its own monotonic clock, from moments that it saw itself; the store's clock has no part in
//! it, and neither has the time of day.

#[cfg(feature = "drivers")]
pub mod etcd;
pub mod handler;
#[cfg(feature = "drivers")]
mod http;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod record;
pub mod register;
#[cfg(test)]
mod rng;
pub mod store;
