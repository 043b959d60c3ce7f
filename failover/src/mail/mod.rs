//! Mail: how a message is written, and what is said to the server that takes it. No I/O: text and answers go in, octets come
//! out. [`driver::mail`](crate::driver::mail) connects and waits.

pub mod dialogue;
pub mod message;
mod reply;

pub use dialogue::{Delivered, Dialogue, MailError, Refusal};
pub use message::Message;
pub use reply::{Reply, ReplyError};
