//! Skew and MasterDown (failover 1.8), and how long a decision is good for.

use std::time::Duration;

use model::failover::config::VrrpVersion;

/// A decision to have an address is that long good for: whoever makes it may be paused before the address is there.
pub const ACT_WITHIN: Duration = Duration::from_millis(100);

/// How much later than others a router with this priority takes over: the higher, the sooner.
pub fn skew(version: VrrpVersion, priority: u8, master_interval: Duration) -> Duration {
    let unit = match version {
        VrrpVersion::V2 => Duration::from_secs(1),
        VrrpVersion::V3 => master_interval,
    };
    unit * (256 - u32::from(priority)) / 256
}

/// How long a backup waits for a master that is silent.
pub fn master_down(
    version: VrrpVersion,
    priority: u8,
    master_interval: Duration,
    down_timer_adverts: u8,
) -> Duration {
    master_interval * u32::from(down_timer_adverts) + skew(version, priority, master_interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_priority_100_are_those_of_the_table() {
        let s = Duration::from_secs(1);
        let rows = [
            (VrrpVersion::V2, s, 609_375_000, 3_609_375_000),
            (VrrpVersion::V3, s, 609_375_000, 3_609_375_000),
            (VrrpVersion::V3, s / 10, 60_937_500, 360_937_500),
            (VrrpVersion::V2, 10 * s, 609_375_000, 30_609_375_000),
        ];
        for (version, interval, skew_ns, down_ns) in rows {
            assert_eq!(skew(version, 100, interval), Duration::from_nanos(skew_ns));
            assert_eq!(master_down(version, 100, interval, 3), Duration::from_nanos(down_ns));
        }
        assert_eq!(skew(VrrpVersion::V3, 255, s), s / 256);
        assert_eq!(master_down(VrrpVersion::V3, 255, s, 1), s + s / 256);
    }
}
