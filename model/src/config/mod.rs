//! The resource file grammar.
