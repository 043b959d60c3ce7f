//! What takes its time in random schedules: disks that stand still for a while, with disk-timeout or without it, one
//! socket that is slower than the other, handlers that a resync waits for, and resyncs themselves.

use model::state::{ConnState, Role};
use model::time::Duration;

use super::acts::{ACTS, Act};
use super::plan::{Plan, pick};
use super::{Profile, Schedule};
use crate::hooks::{BeforeResync, DiskOp};
use crate::node::place;
use crate::rng::Rng;
use crate::world::World;
use replicator::VolIdx;

/// A device of so many sectors is in sync within half a minute at the lowest rate.
const SOON_IN_SYNC_SECTORS: u64 = 2048;

/// Within this time a target writes its bitmap.
const BITMAP_WRITTEN: Duration = Duration::from_secs(11);

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
        // Small devices are in sync again before anything can go wrong. A device that grows, or has several extents, would
        // take minutes of the quiet phase.
        let soon = profile == Profile::Small && self.sectors <= SOON_IN_SYNC_SECTORS && !self.grows;
        if r.one_in(8) && soon {
            self.disk.c_plan_ahead_ds = 0;
            self.disk.resync_rate_kib_s = pick(r, &[40, 100]);
            // Something goes wrong in the middle: the link or the source first, then the target's power.
            for (i, act) in ACTS.iter().enumerate() {
                self.weights[i] += match act {
                    Act::Power | Act::WithinABatch => 4,
                    Act::Kill | Act::Reset => 2,
                    _ => 0,
                };
            }
        }
    }

    /// Resyncs may last until their bitmap is written in between.
    pub(super) fn resyncs_last(&self) -> bool {
        self.disk.c_plan_ahead_ds == 0
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

    /// What may come with an act where resyncs last, by a generator of its own: the target loses power right behind the
    /// bitmap that it writes every ten seconds.
    pub(super) fn bitmap_beside(&mut self, number: u64) {
        let mut r = Rng::new(self.seed.rotate_left(41) ^ number.wrapping_mul(0xa076_1d64_78bd_642f));
        if !self.plan.resyncs_last() || !r.one_in(4) {
            return;
        }
        let target =
            |w: &World| (0..2).find(|n| w.volume(*n).is_some_and(|s| s.conn == ConnState::SyncTarget));
        let primary = (0..2).find(|n| self.w.volume(*n).is_some_and(|s| s.role == Role::Primary));
        if target(self.w).is_none()
            && let Some(n) = primary
        {
            // What its activity log covers is brought to the other one.
            self.w.crash(n, true);
            self.start(n);
            self.w.run_until(Duration::from_secs(5), |w| target(w).is_some());
        }
        let Some(n) = target(self.w) else { return };
        self.w.crash_after_metadata(n, 0, true);
        self.w.run_until(BITMAP_WRITTEN, |w| w.volume(n).is_none());
        self.w.no_fuse();
    }

    /// All disks do what they have not done.
    pub(super) fn disks_go_on(&mut self, newest_first: bool) {
        if self.w.hooks.is_any_disk_slow() {
            self.w.hooks.disk_held = [false; 2];
            self.w.let_go(newest_first);
        }
    }
}
