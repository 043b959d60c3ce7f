//! The parts of lockstep's daemon and tools, as a library so that tests can drive them.
#![forbid(unsafe_code)]

// A program that people store data with has no deliberate bugs.
const _: () = assert!(!replicator::PLANTED_BUGS, "the core was compiled with the feature planted-bugs");

pub mod cli;
pub mod config_files;
pub mod daemon;
pub mod dataplane;
pub mod demo;
pub mod lease_memory;
