//! VRRP.

pub mod socket;
