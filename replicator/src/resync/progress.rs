//! How far a resync or verify is: rates and the time left (drbd-states 3.1). Integer arithmetic throughout.

use model::time::{Duration, Instant};

/// Kept samples; with [`MARK_INTERVAL`] between them the oldest is about 20 s old.
const MARKS: usize = 8;
/// Least time between two samples.
pub const MARK_INTERVAL: Duration = Duration::from_secs(3);
/// No progress for this long counts as stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(180);

const KIB_PER_BIT: u64 = 4;

/// Progress of one run. Bits are blocks of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    total_bits: u64,
    left_bits: u64,
    start: Instant,
    marks: [Mark; MARKS],
    newest: usize,
    last_progress: Instant,
    paused_since: Option<Instant>,
    paused: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    at: Instant,
    left_bits: u64,
}

impl Progress {
    /// A run that starts now with `total_bits` to go.
    pub fn start(now: Instant, total_bits: u64) -> Progress {
        Progress {
            total_bits,
            left_bits: total_bits,
            start: now,
            marks: [Mark { at: now, left_bits: total_bits }; MARKS],
            newest: 0,
            last_progress: now,
            paused_since: None,
            paused: Duration::ZERO,
        }
    }

    /// Takes a sample: `left_bits` are still to go (more than before, if new differences appeared).
    pub fn advance(&mut self, now: Instant, left_bits: u64) {
        if left_bits < self.left_bits {
            self.last_progress = now;
        }
        self.left_bits = left_bits;
        if now.saturating_since(self.marks[self.newest].at) >= MARK_INTERVAL && self.paused_since.is_none() {
            self.newest = (self.newest + 1) % MARKS;
            self.marks[self.newest] = Mark { at: now, left_bits };
        }
    }

    /// The run is paused from now on.
    pub fn pause(&mut self, now: Instant) {
        self.paused_since.get_or_insert(now);
    }

    /// The run continues. The present rate starts anew, so that the pause does not count as slowness.
    pub fn resume(&mut self, now: Instant) {
        if let Some(since) = self.paused_since.take() {
            self.paused += now.saturating_since(since);
            self.marks = [Mark { at: now, left_bits: self.left_bits }; MARKS];
            self.last_progress = now;
        }
    }

    /// Blocks still to go, of how many.
    pub fn left_of_total_bits(&self) -> (u64, u64) {
        (self.left_bits, self.total_bits)
    }

    /// Thousandths done, rounded down.
    pub fn done_permille(&self) -> u64 {
        let done = self.total_bits.saturating_sub(self.left_bits);
        scaled(done, 1000, self.total_bits).unwrap_or(1000)
    }

    /// Rate over about the last 20 seconds, in KiB/s.
    pub fn current_kib_per_s(&self, now: Instant) -> u64 {
        let oldest = self.oldest();
        rate(oldest.left_bits, self.left_bits, now.saturating_since(oldest.at))
    }

    /// Rate since the start without pauses, in KiB/s.
    pub fn mean_kib_per_s(&self, now: Instant) -> u64 {
        rate(self.total_bits, self.left_bits, self.running(now))
    }

    /// Seconds to go at the present rate; None while nothing moves.
    pub fn seconds_left(&self, now: Instant) -> Option<u64> {
        let oldest = self.oldest();
        let done = oldest.left_bits.saturating_sub(self.left_bits);
        let took_ms = millis(now.saturating_since(oldest.at)).max(1);
        scaled(self.left_bits, took_ms, done).map(|ms| ms / 1000)
    }

    /// Nothing has moved for a long time, and not because of a pause.
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.paused_since.is_none() && now.saturating_since(self.last_progress) >= STALLED_AFTER
    }

    /// Time the run took so far without pauses, and the pauses.
    pub fn running_and_paused(&self, now: Instant) -> (Duration, Duration) {
        (self.running(now), self.paused_until(now))
    }

    fn oldest(&self) -> Mark {
        self.marks[(self.newest + 1) % MARKS]
    }

    fn paused_until(&self, now: Instant) -> Duration {
        let open = self.paused_since.map_or(Duration::ZERO, |since| now.saturating_since(since));
        self.paused + open
    }

    fn running(&self, now: Instant) -> Duration {
        now.saturating_since(self.start).saturating_sub(self.paused_until(now))
    }
}

fn rate(before_bits: u64, after_bits: u64, took: Duration) -> u64 {
    let kib = before_bits.saturating_sub(after_bits).saturating_mul(KIB_PER_BIT);
    scaled(kib, 1000, millis(took).max(1)).unwrap_or(0)
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// a * b / c without overflow; None for c = 0.
fn scaled(a: u64, b: u64, c: u64) -> Option<u64> {
    let wide = (u128::from(a) * u128::from(b)).checked_div(u128::from(c))?;
    Some(u64::try_from(wide).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant(s * 1_000_000_000)
    }

    /// 25 bits (100 KiB) per second from 10_000 bits on.
    fn steady(until_s: u64) -> Progress {
        let mut p = Progress::start(at(0), 10_000);
        for s in 1..=until_s {
            p.advance(at(s), 10_000 - 25 * s);
        }
        p
    }

    #[test]
    fn a_steady_run() {
        let p = steady(100);
        assert_eq!(p.current_kib_per_s(at(100)), 100);
        assert_eq!(p.mean_kib_per_s(at(100)), 100);
        assert_eq!(p.seconds_left(at(100)), Some(300));
        assert_eq!(p.done_permille(), 250);
        assert_eq!(p.left_of_total_bits(), (7500, 10_000));
    }

    #[test]
    fn the_present_rate_forgets_after_twenty_seconds_or_so() {
        let mut p = steady(100);
        for s in 101..=125 {
            p.advance(at(s), 7500 - 250 * (s - 100));
        }
        assert_eq!(p.current_kib_per_s(at(125)), 1000);
        assert_eq!(p.mean_kib_per_s(at(125)), (10_000 - 1250) * 4 / 125);
    }

    #[test]
    fn the_beginning_and_the_end() {
        let p = Progress::start(at(5), 1000);
        assert_eq!((p.current_kib_per_s(at(5)), p.mean_kib_per_s(at(5))), (0, 0));
        assert_eq!(p.seconds_left(at(6)), None);
        let mut done = p;
        done.advance(at(7), 0);
        assert_eq!((done.seconds_left(at(7)), done.done_permille()), (Some(0), 1000));
        assert_eq!(Progress::start(at(0), 0).done_permille(), 1000);
    }

    #[test]
    fn pauses_are_no_slowness() {
        let mut p = steady(100);
        p.pause(at(100));
        p.pause(at(200));
        assert!(!p.is_stalled(at(1000)));
        assert_eq!(p.mean_kib_per_s(at(600)), 100);
        p.resume(at(1100));
        assert_eq!(p.running_and_paused(at(1100)), (Duration::from_secs(100), Duration::from_secs(1000)));
        p.advance(at(1110), 7250);
        assert_eq!((p.current_kib_per_s(at(1110)), p.mean_kib_per_s(at(1110))), (100, 100));
    }

    #[test]
    fn a_stall_is_noticed_after_three_minutes() {
        let mut p = steady(100);
        for s in 101..=279 {
            p.advance(at(s), 7500);
        }
        assert!(!p.is_stalled(at(279)));
        assert!(p.is_stalled(at(280)));
        assert_eq!((p.current_kib_per_s(at(279)), p.seconds_left(at(279))), (0, None));
    }

    #[test]
    fn new_differences_and_huge_devices_do_no_harm() {
        let mut p = Progress::start(at(0), 100);
        p.advance(at(10), 5000);
        assert_eq!((p.mean_kib_per_s(at(10)), p.done_permille()), (0, 0));
        let mut huge = Progress::start(at(0), u64::MAX);
        huge.advance(Instant(u64::MAX), 1);
        huge.advance(at(0), u64::MAX);
        let _ = (huge.mean_kib_per_s(at(0)), huge.seconds_left(Instant(u64::MAX)), huge.done_permille());
    }
}
