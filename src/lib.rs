//! The parts of lockstep's daemon and tools, as a library so that tests can drive them.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config_files;
pub mod daemon;
pub mod dataplane;
pub mod demo;
