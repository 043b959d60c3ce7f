//! Virtual addresses: what should be on the interfaces of this node, what is, and how one becomes the other.

pub mod netlink;
pub mod plan;
