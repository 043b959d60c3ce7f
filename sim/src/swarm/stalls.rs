//! What takes its time in random schedules: disks that stand still for a while, with disk-timeout or without it, one
//! socket that is slower than the other, handlers that a resync waits for.

use model::time::Duration;

use super::plan::{Plan, pick};
use super::{Profile, Schedule};
use crate::hooks::{BeforeResync, DiskOp};
use crate::node::place;
use crate::rng::Rng;
use replicator::VolIdx;

impl Plan {
    /// Each in some schedules.
    pub(super) fn slow_things(&mut self, profile: Profile, r: &mut Rng) {
        if r.one_in(if profile == Profile::Life { 5 } else { 12 }) {
            self.stalls_one_in = pick(r, &[2, 4]);
            self.disk.disk_timeout = Duration::from_millis(pick(r, &[0, 0, 300, 1000, 5000]));
        }
        if r.one_in(12) {
            let times = pick(r, &[5, 30]);
            self.weather.lag = if r.one_in(2) { [times, 0] } else { [0, times] };
        }
        if r.one_in(8) {
            let after = Duration::from_millis(pick(r, &[0, 30, 300, 3000]));
            self.before_resync = BeforeResync { exit_code: i32::from(r.one_in(4)), after };
        }
    }
}

impl Schedule<'_> {
    /// What may come with an act, by a generator of its own: a disk stands still, or goes on.
    pub(super) fn stalls_beside(&mut self, number: u64) {
        let mut r = Rng::new(self.seed.rotate_left(29) ^ number.wrapping_mul(0xc2b2_ae3d_27d4_eb4f));
        if self.plan.stalls_one_in == 0 || !r.one_in(self.plan.stalls_one_in) {
            return;
        }
        let n = r.below(2) as usize;
        if self.w.hooks.is_any_disk_slow() {
            return self.disks_go_on(r.one_in(2));
        }
        self.w.tally.stalls += 1;
        match r.below(3) {
            0 => self.w.hold_disk(n, true),
            1 => self.w.hooks.slow_disk(n, DiskOp::Meta, 0, 0),
            _ => {
                let vol = VolIdx(r.below(self.plan.volumes.into()) as u8);
                let first = place(vol, r.below(self.plan.sectors));
                self.w.hooks.slow_disk(n, DiskOp::Write, first, 64);
                self.w.hooks.slow_disk(n, DiskOp::Read, first, 64);
            }
        }
    }

    /// All disks do what they have not done.
    pub(super) fn disks_go_on(&mut self, newest_first: bool) {
        if self.w.hooks.is_any_disk_slow() {
            self.w.hooks.disk_held = [false; 2];
            self.w.let_go(newest_first);
        }
    }
}
