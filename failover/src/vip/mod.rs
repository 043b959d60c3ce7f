//! Virtual addresses: what should be on the interfaces of this node, what is, and how one becomes the other.

pub mod announce;
#[cfg(feature = "drivers")]
pub mod gate;
#[cfg(feature = "drivers")]
pub mod netlink;
#[cfg(feature = "drivers")]
pub mod plan;
