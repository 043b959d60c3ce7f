//! The one clock of all drivers.

use model::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// Time since the machine was started, sleep included: a role that was held before the machine slept is not held after it
/// (failover 1.16). The clock is the same for all processes of a machine.
///
/// # Panics
/// If the kernel has no such clock; every Linux since 2.6.39 has it.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the kernel has CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
