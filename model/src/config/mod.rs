//! The resource file grammar: files to tokens, tokens to a [`Config`] as written, checks, `dump`, and the
//! settings one host runs (drbd-admin 1 and 2).
//!
//! [`load`] reads through a [`Loader`], [`resolve`] gives the daemon its [`settings`], [`dump`] prints. Every
//! mistake is a [`Diagnostic`] with its place; [`diagnostic::exit_code`] tells the status of the command.

pub mod ast;
pub mod check;
pub mod diagnostic;
mod lexer;
mod load;
mod merge;
pub mod node_id;
mod parse;
mod print;
mod resolve;
pub mod settings;
pub mod source;
mod values;

#[cfg(test)]
mod tests;

pub use ast::Config;
pub use diagnostic::{Diagnostic, Severity};
pub use load::{LoadError, LoadedFile, Loader, load, load_excluding};
pub use print::{DumpOptions, dump, quote};
pub use resolve::{resolve, resolve_resource};
