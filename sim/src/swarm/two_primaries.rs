//! Schedules in which both nodes may be Primary: clients of both write the same blocks at once, and a lost connection is a
//! split brain, which an operator settles or an after-sb policy.

use model::policy::{AfterSb0, AfterSb1, AfterSb2, Fencing, Protocol};
use model::state::Role;
use replicator::Command;

use super::acts::{ACTS, Act};
use super::plan::{Plan, pick};
use super::{Profile, Schedule};
use crate::hooks::FencePeer;
use crate::rng::Rng;

impl Plan {
    /// In a few schedules; only protocol C allows it.
    pub(super) fn two_primaries(&mut self, profile: Profile, r: &mut Rng) {
        if self.net.protocol != Protocol::C || !r.one_in(if profile == Profile::Life { 12 } else { 20 }) {
            return;
        }
        self.net.allow_two_primaries = true;
        // The node that brings the new part may lose its disk while the other one writes: see "Known weak points".
        self.grows = false;
        self.internal = false;
        let at = ACTS.iter().position(|a| *a == Act::Grow).expect("one of the acts");
        self.weights[at] = 0;
        self.spots = self.spots.min(pick(r, &[1, 2, 6]));
        if r.one_in(2) {
            self.net.after_sb_0pri = pick(
                r,
                &[
                    AfterSb0::DiscardZeroChanges,
                    AfterSb0::DiscardYoungerPrimary,
                    AfterSb0::DiscardLeastChanges,
                ],
            );
            self.net.after_sb_1pri =
                pick(r, &[AfterSb1::Disconnect, AfterSb1::Consensus, AfterSb1::DiscardSecondary]);
            self.net.after_sb_2pri = AfterSb2::Disconnect;
        }
        if self.disk.fencing != Fencing::DontCare {
            // A script that outdates the peer finds a Primary, and has this node step back: both would.
            self.fence_peer = FencePeer::Stonith { after: super::plan::ms(pick(r, &[30, 3000])) };
        }
    }

    /// The configuration says whose changes may be lost after a split.
    pub(super) fn discards_by_policy(&self) -> bool {
        self.net.after_sb_0pri != AfterSb0::Disconnect
    }
}

impl Schedule<'_> {
    fn is_primary(&self, n: usize) -> bool {
        self.w.volume(n).is_some_and(|s| s.role == Role::Primary)
    }

    /// The other node runs an application too, or is going to.
    pub(super) fn promote_both(&mut self) {
        for n in 0..2 {
            if self.plan.net.allow_two_primaries
                && !self.is_primary(n)
                && self.rng.one_in(2)
                && self.may_promote(n)
            {
                self.w.command(n, Command::Primary { force: false });
            }
        }
    }

    /// Whose client sends the next request of a burst at node `n`.
    pub(super) fn writer(&mut self, n: usize) -> usize {
        let both = self.plan.net.allow_two_primaries && self.is_primary(1 - n);
        if both && self.rng.one_in(2) { 1 - n } else { n }
    }
}
