//! Who gets data from whom when two nodes meet: decision tables without side effects.
//!
//! [`peer_state`] says what a received state packet means, [`uuid_rules`] compares the data generations,
//! [`split_brain`] applies the after-split-brain policies, and [`decide`] puts them together. Both nodes
//! decide on their own and never compare notes, so everything here has to come out mirrored on the peer.

pub mod decide;
pub mod peer_state;
pub mod split_brain;
pub mod uuid_rules;
