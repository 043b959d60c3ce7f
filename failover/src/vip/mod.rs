//! Virtual addresses on this node.

pub mod announce;
