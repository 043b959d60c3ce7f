//! Failover: virtual addresses that move, the chain that makes a node the home of a service and undoes it, and the lease
//! that makes two homes impossible. Each part is a machine without I/O, which takes events and the time and returns what is
//! to be done, and beside it a thin driver.

#![deny(unsafe_code)]

#[cfg(feature = "drivers")]
pub mod driver;
pub mod heartbeat;
pub mod lease;
pub mod mail;
pub mod promote;
pub mod service;
pub mod vip;
pub mod vrrp;
