//! Whole nodes: groups, trackers, reloads, and several nodes on one segment.

mod groups;
mod random;
mod segment;
