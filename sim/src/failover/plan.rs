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
}

/// How long it may take until there is a home when nothing is wrong any more.
const REST: Duration = Duration::from_secs(150);

/// Runs the schedule of a seed on a new cluster.
///
/// # Panics
/// If something does not hold that must.
pub fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    run_in(&mut Cluster::new(seed, bug), seed)
}

/// The same on a cluster that the caller keeps, for its trace.
///
/// # Panics
/// If something does not hold that must.
pub fn run_in(c: &mut Cluster, seed: u64) -> Outcome {
    let faults = c.live_through(seed);
    c.heal();
    let rests = c.run_until(REST, Cluster::is_at_rest);
    assert!(
        rests,
        "comes to rest: {:?} {:?}, {:?}, the store: {}",
        c.w.volume(0),
        c.w.volume(1),
        c.sides.each_ref().map(|s| s.service.as_ref().map(|s| s.status(c.w.now))),
        c.store.text()
    );
    // It stays so, and one more write gets through.
    let before = c.written();
    for _ in 0..10 {
        c.client_writes();
        c.run_for(Duration::from_millis(200));
    }
    assert!(
        c.home().is_some() && c.written() > before,
        "its home serves clients: {:?}, addresses until {:?} at {:?}, word {:?}",
        c.home(),
        c.sides.each_ref().map(|s| s.kernel),
        c.w.now,
        c.sides.each_ref().map(|s| s.seen.and_then(|s| s.peer_word_at))
    );
    let settled = |c: &Cluster| c.w.in_sync() && c.w.is_idle();
    assert!(c.run_until(Duration::from_secs(5), settled), "the last writes end");
    c.check_written();
    Outcome { takeovers: c.takeovers, written: c.written(), steps: c.w.steps, faults }
}

impl Cluster {
    /// Faults by chance for some seconds; how many.
    fn live_through(&mut self, seed: u64) -> u64 {
        let rng = &mut Rng::new(seed ^ 0x5eed);
        self.slowest_answer_ms = [2, 20, 60, 250][rng.below(4) as usize];
        self.failing_steps = rng.one_in(4).then(|| 2 + rng.below(8));
        self.slow_routers = rng.one_in(4).then(|| 1 + rng.below(8));
        let started = |c: &Cluster| c.home().is_some();
        if !rng.one_in(8) {
            self.run_until(Duration::from_secs(10), started);
        }
        // Each schedule leaves out most kinds of faults.
        let kinds = rng.next();
        let allows = |kind: u64| kinds >> kind & 1 == 1;
        let mut faults = 0;
        let end = self.w.now + Duration::from_millis(2_000 + rng.below(8_000));
        while self.w.now < end {
            for _ in 0..rng.below(4) {
                self.client_writes();
                let pause = Duration::from_micros(rng.below(3_000));
                self.run_for(pause);
            }
            self.run_for(Duration::from_millis(rng.below(300)));
            let n = if rng.one_in(3) { rng.below(2) as usize } else { self.home().unwrap_or(0) };
            let d = Duration::from_millis([20, 200, 1_000, 3_000][rng.below(4) as usize] + rng.below(500));
            let kind = rng.below(24);
            if !allows(kind) {
                continue;
            }
            faults += 1;
            match kind {
                0 | 1 => {
                    self.kill(n, kind == 1);
                    self.restart_after(n, d);
                }
                2 => self.pause(n, d),
                3 | 4 => self.w.cut(kind == 3),
                5 => self.w.reset(),
                6 | 7 => self.cut_from_store(n, true),
                8 | 9 => (0..2).for_each(|n| self.cut_from_store(n, false)),
                10 => self.stall_store(d),
                11 => self.order(n, Order::Switch),
                12 if rng.one_in(4) => self.wipe_store(),
                13 => {
                    // A node cut off from everybody.
                    self.w.cut(true);
                    self.cut_from_store(n, true);
                }
                14 => {
                    self.w.cut(true);
                    self.pause(n, d);
                }
                15 => self.order(n, if rng.one_in(2) { Order::Release } else { Order::Clear }),
                16 => self.mute_on_segment(n, true),
                17 => (0..2).for_each(|n| self.mute_on_segment(n, true)),
                18 | 19 => (0..2).for_each(|n| self.mute_on_segment(n, false)),
                20 => self.unplug(n, true),
                21 => (0..2).for_each(|n| self.unplug(n, false)),
                22 => {
                    let rate = |rng: &mut Rng| if rng.one_in(2) { 0 } else { 1 + rng.below(20) };
                    let (loss, duplicates) = (rate(rng), rate(rng));
                    self.segment_weather(loss, duplicates, Duration::from_micros(1 + rng.below(200_000)));
                }
                23 => self.slow_routers = rng.one_in(2).then(|| 1 + rng.below(8)),
                _ => faults -= 1,
            }
        }
        faults
    }

    /// Both copies are good, and one node serves, has the address and speaks for it.
    fn is_at_rest(&self) -> bool {
        let settled = self.w.in_sync() && self.w.is_idle() && self.store.both_count();
        self.home().filter(|_| settled).is_some_and(|n| {
            let only = |i: usize, n: usize| self.is_router_master(n, i) && !self.is_router_master(1 - n, i);
            self.serves(n)
                && self.has_address(n, BOUND)
                && only(BOUND, n)
                && (only(FREE, n) || only(FREE, 1 - n))
        })
    }

    /// Nothing is wrong any more, and operators take back what they ordered.
    fn heal(&mut self) {
        (self.failing_steps, self.slow_routers) = (None, None);
        self.slowest_answer_ms = 20;
        self.segment_weather(0, 0, Duration::from_millis(1));
        for n in 0..2 {
            self.mute_on_segment(n, false);
            self.unplug(n, false);
        }
        self.w.cut(false);
        for n in 0..2 {
            self.cut_from_store(n, false);
            self.restart_after(n, Duration::from_millis(500));
        }
        self.run_for(Duration::from_secs(5));
        for n in 0..2 {
            self.order(n, Order::Clear);
            self.order(n, Order::Unfreeze);
        }
    }
}

impl Outcome {
    /// Adds another one.
    pub fn add(&mut self, other: &Outcome) {
        self.takeovers += other.takeovers;
        self.written += other.written;
        self.steps += other.steps;
        self.faults += other.faults;
    }
}
