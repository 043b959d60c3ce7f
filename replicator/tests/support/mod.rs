//! What the integration tests of this crate share.
#![allow(dead_code, reason = "every test uses its own part")]

pub mod capture;
pub mod counts;
pub mod pcap;
pub mod replay;
