//! The out-of-sync bitmap: one bit per 4 KiB block, set where the copies differ or may differ
//! (drbd-metadata 7), what of it has to be written to disk, and how two nodes exchange it (drbd-wire 5).

pub mod exchange;
mod pages;
mod summary;
mod unflushed;
pub mod vli;
pub mod words;

pub use exchange::{BitmapReceiver, BitmapSender, ExchangeError, ExchangeStats, Progress};
pub use pages::DirtyKind;
pub(crate) use unflushed::Unflushed;
pub use words::{Bitmap, PAGE_BYTES};
