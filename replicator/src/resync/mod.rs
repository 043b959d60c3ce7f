//! Resynchronisation: how fast it goes ([`rate`]), how far it is ([`progress`]), and which device goes first
//! ([`order`]).

pub(crate) mod before;
pub(crate) mod behind;
pub mod order;
pub mod progress;
pub mod rate;
pub(crate) mod run;
pub(crate) mod source;
pub(crate) mod target;
