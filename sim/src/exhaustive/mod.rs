//! Small states, all of them: after every smallest step of every metadata procedure (activity log transaction, super
//! block, bitmap pages before an eviction, attach) everything that a loss of power may leave is looked at.
//!
//! A smallest step is the end of a flush, the end of a write, or a packet that arrives. `media` keeps, for every
//! sector, all contents that may be found; `images` takes the metadata through the production decoders; `pair` compares
//! with what the two copies of the data may hold.

mod images;
mod log_ring;
mod media;
mod moves;
mod pair;
mod station;
mod walks;
