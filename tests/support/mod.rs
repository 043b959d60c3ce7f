//! What whole-program tests share.

pub mod nbd_client;
pub mod node;
