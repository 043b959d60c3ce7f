//! When the addresses may be here: never while those of another home may still be there (failover 8.7).

use model::state::Role;
use model::time::{Duration, Instant};

use super::{Action, Service, State, WORD_GOOD_FOR};
use crate::lease::machine::Held;
use crate::lease::record::Record;
use crate::promote::chain::{Attempt, ChainAction, Verb};
use crate::vrrp::ACT_WITHIN;

/// For how long the kernel keeps an address that is not renewed: a second is the shortest time that it knows.
pub const ADDRESS_LIFETIME: Duration = Duration::from_secs(1);
/// How much longer the kernel may keep it: it looks after addresses in steps of a quarter of a second (measured: up to 0.27 s
/// longer, one in five more than 0.1 s).
const ADDRESS_SLACK: Duration = Duration::from_millis(300);
/// How much longer than it should a gate may be open: opening it may take 10 ms, and the kernel's clock has steps of up to 10 ms.
const GATE_SLACK: Duration = Duration::from_millis(25);
/// How long a gate is open without renewal, least and most.
const GATE_MIN: Duration = Duration::from_millis(400);
const GATE_MAX: Duration = ADDRESS_LIFETIME;
/// How often addresses are renewed at least. Not much more often either: each renewal of a gate is a change of nftables' rules,
/// and whoever lists a large ruleset begins again when it changes meanwhile.
const RENEW_EVERY: Duration = Duration::from_millis(200);

/// For how long a gate in front of the addresses stays open without renewal, where the lease has this term: as long as it is
/// nothing that the next home has to wait for, since it has to wait for the lease anyway.
pub fn gate_for(term: Duration) -> Duration {
    let free = (term + term / 8).saturating_sub(WORD_GOOD_FOR + GATE_SLACK);
    free.clamp(GATE_MIN, GATE_MAX)
}

/// For how long addresses may answer after the decision that renewed them last. `gate`: how long one is open that is in force;
/// none: the kernel's lifetime is all there is.
pub fn answer_for(gate: Option<Duration>) -> Duration {
    gate.map_or(ACT_WITHIN + ADDRESS_LIFETIME + ADDRESS_SLACK, |open| open + GATE_SLACK)
}

/// What a holder of the lease says of its addresses, again and again.
///
/// A daemon may serve beside a connected peer before it has written anything, and the record then has the words of an earlier one,
/// which may have had a gate. A swap of that one may even arrive late, but not two: each expects what was there before. And
/// whoever does not hold the lease changes more than the count, when he changes anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Claims {
    incarnation: u64,
    changes: u64,
    /// How many copies count.
    current: usize,
    /// For how long they answer.
    answer: Option<Duration>,
    /// How often it was renewed under these eyes.
    renewals: u64,
}

impl Claims {
    /// After `before`, with this record; none: the node does not hold it.
    pub(super) fn seen(before: Option<Claims>, record: &Record, node: &str) -> Option<Claims> {
        let h = record.held_by(node)?;
        let (answer, changes) = (h.addresses_answer(), record.changes);
        let current = record.current.len();
        let same = before.filter(|b| (b.incarnation, b.answer) == (h.incarnation, answer));
        let renewals = same.map_or(0, |b| {
            let more = if b.current == current { changes.saturating_sub(b.changes) } else { 0 };
            b.renewals.saturating_add(more)
        });
        Some(Claims { incarnation: h.incarnation, changes, current, answer, renewals })
    }

    /// For how long its addresses may answer when it renews them no more.
    pub(super) fn answer_for(&self) -> Duration {
        self.answer.filter(|_| self.renewals >= 2).unwrap_or(answer_for(None))
    }
}

impl Service {
    pub(super) fn run_steps(&mut self, steps: &mut Vec<ChainAction>, now: Instant, out: &mut Vec<Action>) {
        for step in steps.drain(..) {
            match step {
                ChainAction::Run(attempt) if self.adds_addresses(&attempt) => self.delayed = Some(attempt),
                ChainAction::Run(attempt) => out.push(Action::Run(attempt)),
                ChainAction::Abort(attempt) if self.delayed == Some(attempt) => self.delayed = None,
                ChainAction::Abort(attempt) => out.push(Action::Abort(attempt)),
            }
        }
        if self.delayed.is_some() && self.addresses_may_be_added(now) {
            out.extend(self.delayed.take().map(Action::Run));
        }
    }

    pub(super) fn adds_addresses(&self, attempt: &Attempt) -> bool {
        attempt.verb == Verb::Start && attempt.step + 1 == self.cfg.steps.len()
    }

    /// A home that was killed or stands still has its addresses until the kernel takes them back, and one that is cut off
    /// until its time is over. One that is connected has let go of them. And nobody is called to where he is not served.
    pub(super) fn addresses_may_be_added(&self, now: Instant) -> bool {
        let term = self.peer_ttl.max(self.cfg.ttl);
        let kept = WORD_GOOD_FOR + self.peer_claims.map_or(answer_for(None), |claims| claims.answer_for());
        let gone_after = kept.max(term + term / 8);
        // A peer that hears this node may take itself for connected, when this node does not, and live by its word.
        let is_half_connected = self.apart_since.is_some() && self.quiet_since.is_none();
        let since = self.apart_since.max(self.quiet_since).max(self.taken_beside);
        !is_half_connected
            && self.may_show_addresses(now)
            && since.is_none_or(|since| now >= since + gone_after)
    }

    /// Clients are served, and the peer will not add the addresses before those that are renewed now are gone: it counts
    /// from when it last heard this node.
    pub(super) fn may_show_addresses(&self, now: Instant) -> bool {
        let alone = self.lease.as_ref().is_none_or(|l| l.held(now) == Held::Alone);
        let serves = self.storage.is_some_and(|s| s.role == Role::Primary && !s.frozen);
        serves && (alone || self.peer_is_heard(now))
    }

    /// When they are to be renewed next; none: not as things are.
    pub(super) fn renews_addresses_at(&self, now: Instant) -> Option<Instant> {
        let has_some = !self.cfg.addresses_answer.is_zero();
        (has_some && self.state == State::Home && self.may_show_addresses(now)).then_some(self.renew_at)
    }

    /// The addresses stay only while clients are really served.
    pub(super) fn renew_addresses(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.renews_addresses_at(now).is_some_and(|at| now >= at) {
            self.renew_at = now + RENEW_EVERY.min(self.cfg.addresses_answer / 2);
            out.push(Action::RenewAddresses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_open_as_long_as_nobody_has_to_wait_for_it() {
        for term_ms in [200, 500, 600, 1_000, 5_000] {
            let term = Duration::from_millis(term_ms);
            let gate = gate_for(term);
            let waited = WORD_GOOD_FOR + answer_for(Some(gate));
            assert!(waited <= term + term / 8 || gate == GATE_MIN, "{term:?}: {gate:?}");
            assert!(gate <= GATE_MAX && answer_for(Some(gate)) < answer_for(None), "{term:?}: {gate:?}");
        }
        assert_eq!(gate_for(Duration::from_millis(600)), Duration::from_millis(500));
    }
}
