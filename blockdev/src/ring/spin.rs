//! Whether looking for completions without sleeping has been worth it lately.

/// Spinning pays when completions come within the time the caller allows for it, and is wasted processor time
/// when they do not: with a disk slower than that, it doubles the cost of a write and gains nothing. So a run
/// of failures stops it, except for a try now and then that finds out when things have changed.
#[derive(Debug)]
pub(super) struct SpinRecord {
    /// 0: stopped.
    credit: u8,
    /// Waits since the last try, while stopped.
    skipped: u8,
}

impl SpinRecord {
    pub(super) const fn new() -> SpinRecord {
        SpinRecord { credit: CREDIT_MAX, skipped: 0 }
    }

    /// Whether to spin in this wait; the outcome is reported by `found` or `failed`.
    pub(super) fn should_try(&mut self) -> bool {
        if self.credit > 0 {
            return true;
        }
        self.skipped += 1;
        if self.skipped < WAITS_PER_TRY {
            return false;
        }
        self.skipped = 0;
        true
    }

    /// A completion came while spinning.
    pub(super) fn found(&mut self) {
        self.credit = (self.credit + CREDIT_PER_FIND).min(CREDIT_MAX);
    }

    /// The time was spent for nothing.
    pub(super) fn failed(&mut self) {
        self.credit = self.credit.saturating_sub(1);
    }
}

const CREDIT_MAX: u8 = 16;
/// One find outweighs so many failures: a sleep costs about as much as a few spins at the usual limit gain.
const CREDIT_PER_FIND: u8 = 2;
const WAITS_PER_TRY: u8 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stop_it_and_a_find_in_one_of_the_rare_tries_starts_it_again() {
        let mut record = SpinRecord::new();
        for _ in 0..CREDIT_MAX {
            assert!(record.should_try());
            record.failed();
        }
        let mut tries = 0;
        for _ in 0..10 * u32::from(WAITS_PER_TRY) {
            if record.should_try() {
                record.failed();
                tries += 1;
            }
        }
        assert_eq!(tries, 10);
        while !record.should_try() {}
        record.found();
        assert!(record.should_try() && record.should_try());
    }

    #[test]
    fn one_find_in_three_keeps_it_going() {
        let mut record = SpinRecord::new();
        for round in 0..1000 {
            assert!(record.should_try());
            if round % 3 == 0 { record.found() } else { record.failed() }
        }
    }
}
