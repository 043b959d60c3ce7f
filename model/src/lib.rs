//! Words shared by every part of lockstep: units, identifiers, the state model, result codes, the
//! configuration grammar and the status texts. No I/O, no clock: check, parse and print only.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod config;
pub mod failover;
pub mod ids;
pub mod options;
pub mod policy;
pub mod result_code;
pub mod state;
pub mod state_word;
pub mod status;
pub mod time;
pub mod units;
mod word_enum;
