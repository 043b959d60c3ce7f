//! Status snapshots and every way of printing them.
