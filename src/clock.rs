//! The clock of this node.

use model::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// Now, on the clock that never runs backwards and goes on while the machine is suspended: whoever slept has to notice. Every
/// thread sees the same one.
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock since 2.6.39");
    // Both are positive: it counts from the boot.
    Instant(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
