//! VRRP.
#![forbid(unsafe_code)]

pub mod check;
pub mod packet;
pub mod timers;
