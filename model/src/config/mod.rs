//! The resource file grammar.

pub mod settings;
