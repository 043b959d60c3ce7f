//! Whose copy counts, and what the core may do: between the lease and the storage core.

use model::failover::config::Proof;
use model::state::{ConnState, DiskState, Role};
use model::time::Instant;

use super::{Action, Grant, Service, State, Storage};
use crate::lease::machine::Held;

/// Exit codes of fence-peer (drbd-states 14.1).
const PEER_FENCED: i32 = 4;
const PEER_IS_PRIMARY: i32 = 6;
/// Neither: the handler is of no use here.
const BROKEN: i32 = 1;

impl Service {
    /// The peer has been silent for as long as it relies on this node's word.
    pub(super) fn peer_is_quiet(&self, now: Instant) -> bool {
        let term = self.peer_ttl.max(self.cfg.ttl);
        self.quiet_since.is_some_and(|since| now.saturating_since(since) >= term + term / 8)
    }

    /// Answers the handlers that can be answered now.
    pub(super) fn answer_handlers(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.strike_out_a_bad_peer(now);
        self.answer_fences(now, out);
        self.answer_unfences(now, out);
    }

    /// The peer's copy counts only while it is connected and good. A Primary serves nobody in between, until the record says
    /// so; whoever is not Primary has answered nothing that the peer lacks.
    fn strike_out_a_bad_peer(&mut self, now: Instant) {
        let acts = !matches!(self.state, State::Away | State::Stuck);
        let Some(s) = self.storage.filter(|s| acts && s.role == Role::Primary) else { return };
        let Some(lease) = &mut self.lease else { return };
        let counts = s.conn >= ConnState::Connected && s.peer_disk == DiskState::UpToDate;
        if counts && self.fences.is_empty() {
            lease.leave_copies();
        } else if !counts && lease.is_holder() && !lease.is_alone() && s.disk == DiskState::UpToDate {
            lease.exclude_peer(now);
        }
    }

    fn answer_fences(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.fences.is_empty() {
            return;
        }
        let role = self.storage.map_or(Role::Unknown, |s| s.role);
        let is_back = self.storage.is_none_or(|s| s.conn >= ConnState::Connected);
        let quiet = self.peer_is_quiet(now);
        let Some(lease) = &mut self.lease else {
            return self.all_fences(BROKEN, out);
        };
        let acts = !matches!(self.state, State::Away | State::Stuck);
        let code = if !acts {
            out.push(Action::Warn(format!(
                "service {}: {} is promoted by hand, without its lease",
                self.cfg.name, self.cfg.me
            )));
            BROKEN
        } else if is_back {
            // It need not be fenced any more; the core does not count the answer.
            lease.leave_copies();
            BROKEN
        } else if lease.is_alone() && lease.is_holder() {
            PEER_FENCED
        } else if lease.peer_holds() && lease.can_take(now).is_err() {
            PEER_IS_PRIMARY
        } else if lease.record().is_some_and(|r| !r.is_current(&self.cfg.me)) {
            // It went on without this node.
            PEER_IS_PRIMARY
        } else {
            // Whoever is Primary already has only to strike out its peer; whoever wants to be that waits for its word to end.
            if role == Role::Primary || quiet {
                lease.exclude_peer(now);
            }
            return;
        };
        self.all_fences(code, out);
    }

    fn all_fences(&mut self, code: i32, out: &mut Vec<Action>) {
        out.extend(self.fences.drain(..).map(|key| Action::HandlerDone(key, code)));
    }

    /// The peer counts again when it has everything, and when the core lives by bounded grants: from then on the lease can be
    /// taken from this node. That a handler was called is not waited for: two copies may be equal without a resync.
    fn answer_unfences(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(lease) = &mut self.lease else {
            out.extend(self.unfences.drain(..).map(|key| Action::HandlerDone(key, 0)));
            return;
        };
        let equal = self.storage.is_some_and(|s| {
            s.conn >= ConnState::Connected
                && s.disk == DiskState::UpToDate
                && s.peer_disk == DiskState::UpToDate
        });
        let bounded = matches!(self.granted, Some((_, Grant::Until(..))))
            && self.unbounded_grant.is_none_or(|n| self.grant_taken > n);
        let code = match lease.record() {
            Some(r) if r.is_current(&self.cfg.me) && r.is_current(&self.cfg.peer) => 0,
            Some(r) if r.is_only_current(&self.cfg.me) && equal => {
                if bounded && self.fences.is_empty() {
                    lease.include_peer(now);
                }
                return;
            }
            _ if equal => return,
            _ => {
                if self.fences.is_empty() {
                    lease.leave_copies();
                }
                BROKEN
            }
        };
        out.extend(self.unfences.drain(..).map(|key| Action::HandlerDone(key, code)));
    }

    /// Tells the core what it may do, if that has changed.
    pub(super) fn grant(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.cfg.proof != Proof::Lease {
            return;
        }
        let acts = matches!(self.state, State::Starting | State::Home | State::Leaving(_));
        let lease = self.lease.as_ref().expect("proof by lease has one");
        let mirrors = |s: Storage| s.conn >= ConnState::Connected && s.peer_disk == DiskState::UpToDate;
        let mirrored = self.storage.is_some_and(mirrors);
        // Less than the term: the peer waits for more than that.
        let by_peer = self.cfg.ttl - self.cfg.ttl / 8;
        let grant = match lease.held(now) {
            _ if !acts => Grant::Until(Instant(0), by_peer),
            // With a good copy at the peer a bound is enough, and is wanted before that copy counts again.
            Held::Alone if !mirrored => Grant::Unbounded,
            Held::Alone | Held::Until(_) | Held::No => {
                Grant::Until(lease.bound().unwrap_or(Instant(0)), by_peer)
            }
        };
        if self.granted.is_none_or(|(_, g)| g != grant) {
            self.grants += 1;
            if grant == Grant::Unbounded {
                self.unbounded_grant = Some(self.grants);
            }
            self.granted = Some((self.grants, grant));
            out.push(Action::Grant(self.grants, grant));
        }
    }
}
