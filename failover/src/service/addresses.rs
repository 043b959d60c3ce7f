//! When the addresses may be here: never while those of another home may still be there (failover 8.7).

use model::state::Role;
use model::time::{Duration, Instant};

use super::{Action, Service, State, WORD_GOOD_FOR};
use crate::lease::machine::Held;
use crate::promote::chain::{Attempt, ChainAction, Verb};
use crate::vrrp::ACT_WITHIN;

/// How much longer than their lifetime the kernel may keep addresses: it looks after them in steps of a quarter of a second
/// (measured: up to 0.27 s longer, one in five more than 0.1 s).
const ADDRESS_SLACK: Duration = Duration::from_millis(300);
/// How often addresses are renewed.
const RENEW_EVERY: Duration = Duration::from_millis(200);

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
        let kept = WORD_GOOD_FOR + ACT_WITHIN + self.cfg.address_lifetime + ADDRESS_SLACK;
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

    /// The addresses stay only while clients are really served.
    pub(super) fn renew_addresses(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.state == State::Home && self.may_show_addresses(now) && now >= self.renew_at {
            self.renew_at = now + RENEW_EVERY.min(self.cfg.address_lifetime / 4);
            out.push(Action::RenewAddresses);
        }
    }
}
