//! When to look for completions before sleeping. A sleep and a wake-up cost more than the few microseconds that
//! the next completion is away while requests are in flight; but on a machine without an idle processor, or
//! when completions take longer, spinning only takes time from those who would produce them.

use std::time::Duration;

/// Decides from the outcome of earlier spins.
pub(super) struct SpinPolicy {
    limit: Duration,
    /// Spins in a row that ended in a sleep.
    useless: u32,
    /// Turns to go without spinning.
    pause: u32,
    /// Spins since the switches were looked at, and what they were then.
    since_check: u32,
    switches: i64,
}

impl SpinPolicy {
    /// `limit` is the longest spin; zero never spins.
    pub(super) fn new(limit: Duration, processors: usize) -> SpinPolicy {
        let limit = if processors > 1 { limit } else { Duration::ZERO };
        SpinPolicy { limit, useless: 0, pause: 0, since_check: 0, switches: 0 }
    }

    /// How long to spin before this wait; `None`: sleep at once.
    pub(super) fn plan(&mut self, busy: bool) -> Option<Duration> {
        if !busy || self.limit.is_zero() {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        Some(self.limit)
    }

    /// It is time to tell [`learn_switches`](Self::learn_switches) the count.
    pub(super) fn wants_switches(&mut self) -> bool {
        self.since_check += 1;
        self.since_check >= SPINS_PER_CHECK
    }

    /// How often this thread was made to give its processor away so far. A spin offers the processor to others;
    /// when they take it, there is no idle one, and those who wait may be the ones we wait for.
    pub(super) fn learn_switches(&mut self, switches: i64) {
        let taken = switches - self.switches;
        self.switches = switches;
        if taken >= i64::from(self.since_check / CROWDED_ONE_IN) {
            self.pause = CROWDED_PAUSE_TURNS;
        }
        self.since_check = 0;
    }

    /// The spin ended with (or without) a completion.
    pub(super) fn learn(&mut self, useful: bool) {
        if useful {
            self.useless = 0;
            return;
        }
        self.useless += 1;
        if self.useless >= USELESS_MAX {
            let doublings = (self.useless - USELESS_MAX).min(PAUSE_DOUBLINGS_MAX);
            self.pause = PAUSE_TURNS << doublings;
        }
    }
}

/// So many useless spins in a row are bad luck, more are a pattern.
const USELESS_MAX: u32 = 4;
/// First pause, in turns; doubles with each further useless spin.
const PAUSE_TURNS: u32 = 16;
const PAUSE_DOUBLINGS_MAX: u32 = 5;
/// Spins between two looks at the switches, which cost a system call.
const SPINS_PER_CHECK: u32 = 32;
/// One switch in so many spins means that processors are scarce.
const CROWDED_ONE_IN: u32 = 4;
/// Pause then, in turns.
const CROWDED_PAUSE_TURNS: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    #[test]
    fn a_single_processor_never_spins() {
        assert_eq!(SpinPolicy::new(LIMIT, 1).plan(true), None);
        assert_eq!(SpinPolicy::new(Duration::ZERO, 8).plan(true), None);
    }

    #[test]
    fn where_others_want_the_processor_there_is_a_long_pause() {
        let mut policy = SpinPolicy::new(LIMIT, 2);
        policy.learn_switches(1000);
        policy.pause = 0;
        let check = |policy: &mut SpinPolicy, switches| {
            assert_eq!((0..SPINS_PER_CHECK).filter(|_| policy.wants_switches()).count(), 1);
            policy.learn_switches(switches);
        };
        check(&mut policy, 1007);
        assert_eq!(policy.plan(true), Some(LIMIT));
        check(&mut policy, 1015);
        assert_eq!((0..10_000).take_while(|_| policy.plan(true).is_none()).count(), 4096);
    }

    #[test]
    fn useless_spins_lead_to_growing_pauses_and_a_useful_one_ends_them() {
        let mut policy = SpinPolicy::new(LIMIT, 2);
        assert_eq!(policy.plan(false), None);
        for _ in 0..USELESS_MAX {
            assert_eq!(policy.plan(true), Some(LIMIT));
            policy.learn(false);
        }
        let pause = |policy: &mut SpinPolicy| (0..10_000).take_while(|_| policy.plan(true).is_none()).count();
        assert_eq!(pause(&mut policy), 16);
        policy.learn(false);
        assert_eq!(pause(&mut policy), 32);
        policy.learn(true);
        policy.learn(false);
        assert_eq!(policy.plan(true), Some(LIMIT));
    }
}
