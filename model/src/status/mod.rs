//! Status snapshots and every way of printing them: one plain data type, filled by whoever knows the state,
//! and one file per text form. All but [`watch`] are read by programs and reproduce DRBD's bytes.

pub mod advice;
pub mod human;
pub mod json;
pub mod one_line;
pub mod proc_text;
pub mod sh_status;
pub mod show;
pub mod snapshot;
pub mod watch;

pub use snapshot::{
    CacheUse, Counters, Direction, MetaFlags, ProcDetails, Progress, ProgressKind, RateLimit,
    ResourceSnapshot, StandAloneCause, VolumeSnapshot,
};
