//! The bodies of the fuzz targets: one function per decoder of bytes from outside, none of which may panic whatever
//! the bytes are. `fuzz_targets/` hands them to the fuzzer, `tests/fuzz_corpus.rs` to `cargo test`.

pub mod activity_log;
pub mod bitmap;
pub mod bitmap_exchange;
pub mod config;
pub mod control;
mod driver;
pub mod dump_text;
pub mod failover_config;
pub mod heartbeat;
mod input;
pub mod nbd;
pub mod packet;
pub mod pair;
pub mod resource;
pub mod smtp;
pub mod super_block;
pub mod vrrp_packet;
pub mod wire;

/// Name of a target, which is also that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("activity_log", activity_log::run),
    ("bitmap", bitmap::run),
    ("bitmap_exchange", bitmap_exchange::run),
    ("config", config::run),
    ("control", control::run),
    ("dump_text", dump_text::run),
    ("failover_config", failover_config::run),
    ("heartbeat", heartbeat::run),
    ("nbd", nbd::run),
    ("packet", packet::run),
    ("pair", pair::run),
    ("resource", resource::run),
    ("smtp", smtp::run),
    ("super_block", super_block::run),
    ("vrrp_packet", vrrp_packet::run),
    ("wire", wire::run),
];
