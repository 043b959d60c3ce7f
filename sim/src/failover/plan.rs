//! Schedules: a pair in good order, faults by chance, then everything heals and must come to rest.

use super::*;

/// What came of a schedule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Times that a node became the home.
    pub takeovers: u64,
    /// Writes that clients were told are done.
    pub written: u64,
    /// Steps of the storage cores.
    pub steps: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Times that an operator had to decide which copy counts.
    pub operated: u64,
    /// Schedules that came to what is known to be weak, and ended there.
    pub excused: u64,
}

/// How long it may take until there is a home when nothing is wrong any more.
const REST: Duration = Duration::from_secs(150);

/// Runs the schedule of a seed on a new cluster.
///
/// # Panics
/// If something does not hold that must.
pub fn run(seed: u64, bug: Option<Bug>, faults: Faults) -> Outcome {
    run_in(&mut Cluster::new(seed, bug, faults), seed)
}

/// The same on a cluster that the caller keeps, for its trace.
///
/// # Panics
/// If something does not hold that must.
pub fn run_in(c: &mut Cluster, seed: u64) -> Outcome {
    let faults = c.live_through(seed);
    c.live_apart(seed);
    c.heal();
    let rests = c.comes_to_rest();
    assert!(
        rests || c.excused.is_some(),
        "comes to rest: (in sync {}, idle {}, addresses {:?}, masters {:?}) {:?} {:?}, {:?}, the store: {}",
        c.w.in_sync(),
        c.w.is_idle(),
        [0, 1].map(|n| c.has_address(n, BOUND)),
        [0, 1].map(|n| [BOUND, FREE].map(|i| c.is_router_master(n, i))),
        c.w.volume(0),
        c.w.volume(1),
        c.sides.each_ref().map(|s| s.service.as_ref().map(|s| s.status(c.w.now))),
        c.store.text()
    );
    // It stays so, and one more write gets through.
    let written = c.some_writes();
    assert!(
        c.home().is_some() && written || c.excused.is_some(),
        "its home serves clients: {:?}, addresses until {:?} at {:?}, word {:?}",
        c.home(),
        c.sides.each_ref().map(|s| s.kernel),
        c.w.now,
        c.sides.each_ref().map(|s| s.seen.and_then(|s| s.peer_word_at))
    );
    let settled = |c: &Cluster| c.w.in_sync() && c.w.is_idle();
    let settles = c.run_until(Duration::from_secs(5), settled);
    if c.excused.is_none() {
        assert!(settles, "the last writes end");
        (0..2).for_each(|n| c.check_written(n));
        c.other_can_do_it();
    }
    let excused = u64::from(c.excused.is_some());
    let (takeovers, written, operated) = (c.takeovers, c.written(), c.operated);
    Outcome { takeovers, written, steps: c.w.steps, faults, operated, excused }
}

impl Cluster {
    /// By itself; or, if disks were taken out so that no two generations agree, or there is no record that says which one
    /// counts, after an operator's word. One who has disconnected the nodes connects them.
    fn comes_to_rest(&mut self) -> bool {
        for round in 0..60 {
            if self.run_until(REST / 30, Cluster::is_at_rest) {
                return true;
            }
            (0..2).for_each(|n| self.mend_disk(n));
            for n in 0..2 {
                let stays_apart =
                    self.storage(n).is_some_and(|s| s.conn == ConnState::StandAlone && s.parted.is_none());
                if stays_apart && self.w.nodes[n].core.is_some() {
                    let net = self.net.clone();
                    self.w.connect(n, &net);
                }
            }
            if round % 15 == 14 && (self.disks_were_taken || self.store.record().is_none()) {
                self.decide_by_hand();
            }
        }
        false
    }

    /// Clients write for two seconds; whether anything was acknowledged.
    pub(super) fn some_writes(&mut self) -> bool {
        let before = self.written();
        for _ in 0..10 {
            self.client_writes();
            self.run_for(Duration::from_millis(200));
        }
        self.written() > before
    }

    /// The home dies for good: the other node has everything and takes its place.
    fn other_can_do_it(&mut self) {
        assert!(self.run_until(REST, Cluster::is_at_rest), "at rest before the last kill");
        let first = self.home().expect("it is at rest");
        let other = 1 - first;
        self.kill(first, true);
        let takes = |c: &Cluster| c.home() == Some(other) && c.serves(other) && c.has_address(other, BOUND);
        let taken = self.run_until(REST, takes);
        assert!(
            taken && self.some_writes(),
            "node {} takes over at last: {:?}, {:?}, the store: {}",
            other + 1,
            self.w.volume(other),
            self.sides[other].service.as_ref().map(|s| s.status(self.w.now)),
            self.store.text()
        );
        let ended = |c: &Cluster| c.w.is_idle();
        assert!(self.run_until(Duration::from_secs(5), ended), "the writes at the other node end");
        self.check_written(other);
    }

    /// Both copies are good, and one node serves, has the address and speaks for it.
    pub(super) fn is_at_rest(&self) -> bool {
        let settled = self.w.in_sync() && self.w.is_idle() && self.store.both_count();
        self.home().filter(|_| settled).is_some_and(|n| {
            let only = |i: usize, n: usize| self.is_router_master(n, i) && !self.is_router_master(1 - n, i);
            self.serves(n)
                && self.has_address(n, BOUND)
                && only(BOUND, n)
                && (only(FREE, n) || only(FREE, 1 - n))
        })
    }
}

impl Outcome {
    /// Adds another one.
    pub fn add(&mut self, other: &Outcome) {
        self.takeovers += other.takeovers;
        self.written += other.written;
        self.steps += other.steps;
        self.faults += other.faults;
        self.operated += other.operated;
        self.excused += other.excused;
    }
}
