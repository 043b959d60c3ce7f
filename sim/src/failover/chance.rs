//! Which faults happen when, and how everything heals.

use super::*;
use crate::hooks::Blocked;

/// Kinds of faults that only [`Faults::Rare`] has: broken disks, and a store put back.
const RARE: u64 = 1 << 29 | 0b1111 << 32;

impl Cluster {
    /// Faults by chance for some seconds; how many.
    pub(super) fn live_through(&mut self, seed: u64) -> u64 {
        let rng = &mut Rng::new(seed ^ 0x5eed);
        self.slowest_answer_ms = [2, 20, 60, 250][rng.below(4) as usize];
        self.failing_steps = rng.one_in(4).then(|| 2 + rng.below(8));
        self.failing_kills = rng.one_in(8).then(|| 1 + rng.below(3));
        self.slow_routers = rng.one_in(4).then(|| 1 + rng.below(8));
        self.slow_grants = rng.one_in(4).then(|| 1 + rng.below(4));
        let started = |c: &Cluster| c.home().is_some();
        if !rng.one_in(8) {
            self.run_until(Duration::from_secs(10), started);
        }
        // Each schedule leaves out most kinds of faults.
        let rare = if self.faults == Faults::Rare { 0 } else { RARE };
        let kinds = rng.next() & !rare;
        let allows = |kind: u64| kinds >> kind & 1 == 1;
        let mut faults = 0;
        let end = self.w.now + Duration::from_millis(2_000 + rng.below(8_000));
        while self.w.now < end && self.excused.is_none() {
            for _ in 0..rng.below(4) {
                self.client_writes();
                let pause = Duration::from_micros(rng.below(3_000));
                self.run_for(pause);
            }
            self.run_for(Duration::from_millis(rng.below(300)));
            let n = if rng.one_in(3) { rng.below(2) as usize } else { self.home().unwrap_or(0) };
            let d = Duration::from_millis([20, 200, 1_000, 3_000][rng.below(4) as usize] + rng.below(500));
            let kind = rng.below(36);
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
                15 => {
                    let orders = [Order::Release, Order::Clear, Order::Clear, Order::Freeze, Order::Unfreeze];
                    self.order(n, orders[rng.below(5) as usize]);
                }
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
                24 | 25 => self.by_hand(n, rng),
                26 => self.w.block(
                    n,
                    [Blocked::Data, Blocked::Meta, Blocked::Both, Blocked::Both][rng.below(4) as usize],
                ),
                27 | 28 => (0..2).for_each(|n| self.w.block(n, Blocked::No)),
                29 => self.break_disk(n, rng),
                30 | 31 => (0..2).for_each(|n| self.mend_disk(n)),
                32 | 33 => self.restore_store(rng),
                34 => {
                    // What was to reach the peer does not, and the store has forgotten.
                    self.w.cut(true);
                    self.restore_store(rng);
                }
                35 => {
                    self.cut_from_store(n, true);
                    self.restore_store(rng);
                }
                _ => faults -= 1,
            }
        }
        faults
    }

    /// Nothing is wrong any more, and operators take back what they ordered.
    pub(super) fn heal(&mut self) {
        self.end_faults();
        self.run_for(Duration::from_secs(5));
        (0..2).for_each(|n| self.end_orders(n));
        // A disk whose data are not current is taken when the peer has its own again.
        for _ in 0..3 {
            (0..2).for_each(|n| self.mend_disk(n));
            self.run_for(Duration::from_secs(1));
        }
    }

    /// Nothing fails any more from here on; what has died starts again.
    pub(super) fn end_faults(&mut self) {
        if self.failing_kills.is_some() {
            // Until what cannot be ended is given up.
            self.run_for(Duration::from_secs(12));
        }
        (self.failing_steps, self.failing_kills) = (None, None);
        (self.slow_routers, self.slow_grants) = (None, None);
        self.slowest_answer_ms = 20;
        self.segment_weather(0, 0, Duration::from_millis(1));
        for n in 0..2 {
            self.mute_on_segment(n, false);
            self.unplug(n, false);
        }
        self.w.cut(false);
        (0..2).for_each(|n| self.w.block(n, Blocked::No));
        for n in 0..2 {
            self.cut_from_store(n, false);
            self.restart_after(n, Duration::from_millis(500));
        }
    }

    /// An operator takes back what was ordered here.
    pub(super) fn end_orders(&mut self, n: usize) {
        self.take_back(n);
        self.order(n, Order::Clear);
        self.order(n, Order::Unfreeze);
    }
}
