//! The activity log: which 4 MiB extents may have writes in flight. After a crash of a Primary every block of
//! every extent the log names is taken as out of sync (drbd-metadata 6).

pub mod extents;
pub mod replay;
pub mod transaction;
