//! Failover in words: what a file in keepalived's grammar says, typed and checked (failover 6.2), and what is added to
//! that grammar to tie an address to replicated storage.
//!
//! [`load`] reads a file through a [`Loader`](crate::config::Loader); every mistake is a
//! [`Diagnostic`](crate::config::Diagnostic) with its place. [`import`] reads heartbeat's files instead, and [`print()`] writes
//! what either gave.

mod check;
pub mod config;
pub mod heartbeat;
mod import;
mod keywords;
mod keywords_lvs;
mod lexer;
mod messages;
mod parse;
mod print;
mod read;
mod tree;
mod value;

pub use import::{Fate, HeartbeatFiles, Import, Note, import, print_import};
pub use parse::{Loaded, load};
pub use print::print;
