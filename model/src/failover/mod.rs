//! Failover in words: what a file in keepalived's grammar says, typed and checked (failover 6.2), and what is added to
//! that grammar to tie an address to replicated storage.
//!
//! [`load`] reads a file through a [`Loader`](crate::config::Loader); every mistake is a
//! [`Diagnostic`](crate::config::Diagnostic) with its place.

mod check;
pub mod config;
mod keywords;
mod keywords_lvs;
mod lexer;
mod messages;
mod parse;
mod print;
mod read;
mod tree;
mod value;

pub use parse::{Loaded, load};
pub use print::print;
