//! The parts of lockstep's daemon and tools, as a library so that tests can drive them.
#![forbid(unsafe_code)]

/// The command line.
pub mod cli {
    pub mod meta;
}
pub mod dataplane;
