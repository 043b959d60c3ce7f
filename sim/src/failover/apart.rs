//! One node is away from everybody and stays so: the other one, with the store and the clients, is the majority, and has to
//! end as the only home if its copy counts.

use model::state::DiskState;

use super::*;

/// How long it may take until the majority has a home: leases, handlers and steps that are ended by force first, and a pause after
/// something has failed.
const TAKES: Duration = Duration::from_secs(100);

/// How long a node stands still.
const STANDS_STILL: Duration = Duration::from_secs(30);

impl Cluster {
    /// Everything heals but one node, which dies, stands still or is cut off. Gives it back to [`Cluster::heal`].
    pub(super) fn live_apart(&mut self, seed: u64) {
        let rng = &mut Rng::new(seed ^ 0xa9a7);
        if !rng.one_in(2) || self.excused.is_some() {
            return;
        }
        let (lost, there) = if rng.one_in(2) { (0, 1) } else { (1, 0) };
        self.end_faults();
        self.run_for(Duration::from_millis(1_000 + rng.below(6_000)));
        self.wake(there);
        self.end_orders(there);
        self.run_for(Duration::from_millis(rng.below(2_000)));
        self.note(lost, "is away from everybody");
        match rng.below(4) {
            power @ (0 | 1) => {
                self.kill(lost, power == 0);
                // It may have been dead already: nobody starts it.
                self.sides[lost].life += 1;
            }
            2 => self.pause(lost, STANDS_STILL),
            _ => {
                self.w.cut(true);
                self.cut_from_store(lost, true);
                self.unplug(lost, rng.one_in(2));
            }
        }
        self.majority_serves(lost, there);
        self.wake(lost);
    }

    /// Nobody can tell a node anything before.
    fn wake(&mut self, n: usize) {
        let wakes_in = self.sides[n].stalls_until.saturating_since(self.w.now);
        self.run_for(wakes_in);
    }

    fn majority_serves(&mut self, lost: usize, there: usize) {
        // What was on its way to the store may still get there.
        self.run_for(Duration::from_secs(1));
        // With a store that was put back it may have to wait until both nodes see each other.
        if self.faults == Faults::Rare || self.excused.is_some() || !self.is_good(there) {
            return;
        }
        let is_home =
            |c: &Cluster| c.sides[there].service.as_ref().is_some_and(|s| s.state() == &State::Home);
        let serves = |c: &Cluster| is_home(c) && c.serves(there) && c.has_address(there, BOUND);
        let stands_still = self.sides[lost].stalls_until.saturating_since(self.w.now);
        let limit = if stands_still.is_zero() { TAKES } else { stands_still };
        let taken = self.run_until(limit, serves);
        // Who wakes up in time is away no more.
        let is_back = !taken && !stands_still.is_zero();
        assert!(
            self.excused.is_some() || is_back || taken && self.some_writes(),
            "node {} and the store are the majority (home {taken}, address {}): {:?}, {:?}, the store: {}",
            there + 1,
            self.has_address(there, BOUND),
            self.w.volume(there),
            self.sides[there].service.as_ref().map(|s| s.status(self.w.now)),
            self.store.text()
        );
    }

    /// Its copy may be the newest one, by all that is known, and it has not seen more than the store has: a record that was lost, and
    /// made again, may be older.
    fn is_good(&self, n: usize) -> bool {
        let believes = self.sides[n].service.as_ref().is_some_and(|s| s.lease_newest().is_some());
        believes && self.store.counts(n) && self.w.state(n).1 >= DiskState::Consistent
    }
}
