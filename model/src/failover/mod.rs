//! Failover in words: what a file in keepalived's grammar says, typed and checked (failover 6.2), and what is added to
//! that grammar to tie an address to replicated storage.

pub mod config;
