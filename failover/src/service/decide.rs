//! When a node may become the home of a service, and when it has to stop being that (failover 8.1, 8.4, 8.5).

use model::failover::config::Proof;
use model::state::{ConnState, DiskState, Role};
use model::time::{Duration, Instant};

use super::status::obstacle_words;
use super::{Action, FAILBACK_AFTER, Leaving, Parted, Service, State, Storage};
use crate::lease::machine::Obstacle;
use crate::lease::record::Record;
use crate::promote::chain::{ChainAction, Phase};

/// For how long the node that is not the preferred one leaves a vacant service to the other one.
const SECOND_CHOICE_WAITS: Duration = Duration::from_secs(3);

impl Service {
    /// Away: take it if nobody else has it and this node may.
    pub(super) fn at_away(
        &mut self,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) -> bool {
        if self.chain.phase() == &Phase::Unknown && self.is_elsewhere(now) {
            // What an earlier daemon has left here must not stand beside the real home.
            self.leave(Leaving::Sweeping, "the peer has it", now, steps, out);
            return true;
        }
        if self.may_take(now).is_err() {
            self.vacant_since = None;
            return false;
        }
        let since = *self.vacant_since.get_or_insert(now);
        if now.saturating_since(since) < self.patience() {
            return false;
        }
        let connected = self.storage.is_some_and(|s| s.conn >= ConnState::Connected);
        self.taken_beside = None;
        if let Some(lease) = &mut self.lease {
            let has_not_let_go = connected && lease.peer_holds();
            self.taken_beside = has_not_let_go.then(|| self.peer_secondary_since.unwrap_or(now));
            lease.set_hold(true, now);
        }
        self.enter(State::Taking(now), "nobody has it", now, out);
        true
    }

    /// The record is made, or made again, by a node that sees its peer be Secondary, with a disk that was compared with its own:
    /// the peer is not the home for certain, and what it may have written alone is not hidden on a disk that is gone. An older
    /// record than one that was seen needs two good copies: then whoever takes it has everything. And not while the peer is
    /// Primary, who may have struck this node out since: this node steps back.
    pub(super) fn make_lease_if_both_see(&mut self, now: Instant) {
        let heard = self.peer_is_heard(now);
        let Some(lease) = &mut self.lease else { return };
        if self.storage.is_some_and(|s| s.disk != DiskState::UpToDate) {
            lease.own_copy_is_gone();
        }
        let compared =
            |s: &Storage| s.peer_disk >= DiskState::Inconsistent && s.peer_disk != DiskState::DUnknown;
        let meet = self.storage.filter(|s| {
            heard
                && s.conn >= ConnState::Connected
                && s.disk == DiskState::UpToDate
                && s.peer_role == Role::Secondary
                && compared(s)
        });
        lease.step_back(self.storage.is_some_and(|s| {
            s.conn >= ConnState::Connected && s.role == Role::Secondary && s.peer_role == Role::Primary
        }));
        lease.allow_older(meet.is_some_and(|s| s.peer_disk == DiskState::UpToDate));
        match meet {
            Some(s) if lease.is_absent() => lease.create(s.peer_disk == DiskState::UpToDate, now),
            _ => lease.leave_absent(),
        }
    }

    /// Whether this node may become the home now.
    pub(super) fn may_take(&self, now: Instant) -> Result<(), String> {
        let no = |why: &str| Err(why.to_owned());
        if self.released {
            return no("released by an operator ('lockstep failover clear')");
        }
        if self.frozen {
            return no("frozen by an operator ('lockstep failover unfreeze')");
        }
        if let Some(fault) = self.cfg.obstacle.as_ref().or(self.fault.as_ref()) {
            return Err(fault.clone());
        }
        if let Some(until) = self.away_until.filter(|until| now < *until) {
            let left = until.saturating_since(now).as_secs();
            return Err(format!("left to {} for {left} s more", self.cfg.peer));
        }
        let Some(s) = &self.storage else { return no("its resource is not up") };
        if s.disk < DiskState::Consistent {
            return Err(format!("the disk here is {}", s.disk));
        }
        if s.conn >= ConnState::Connected {
            self.may_take_beside_peer(s)?;
        } else {
            self.may_take_without_peer(now)?;
        }
        match self.lease.as_ref().map(|l| l.can_take(now)) {
            None | Some(Ok(())) => Ok(()),
            // It has asked for it already, or has it.
            Some(Err(Obstacle::NotSeen)) if matches!(self.state, State::Taking(_)) => Ok(()),
            Some(Err(obstacle)) => Err(obstacle_words(&obstacle, now)),
        }
    }

    fn may_take_beside_peer(&self, s: &Storage) -> Result<(), String> {
        if s.peer_role != Role::Secondary {
            return Err(format!("{} is {}", self.cfg.peer, s.peer_role));
        }
        if s.disk != DiskState::UpToDate {
            return Err(format!("the disk here is {}", s.disk));
        }
        Ok(())
    }

    fn may_take_without_peer(&self, now: Instant) -> Result<(), String> {
        if !self.peer_is_quiet(now) && !self.peer_is_known_dead() {
            return Err(format!("{} was heard a moment ago", self.cfg.peer));
        }
        if self.peer_alive == Some(true) && self.peer_may_be_home() {
            // Its replication link is down, and nothing more is known than that.
            return Err(format!("heartbeat says that {} is alive", self.cfg.peer));
        }
        if self.peer_speaks {
            // Whatever it says: a home that is alive is not replaced behind its back.
            return Err(format!("{} announces its addresses", self.cfg.peer));
        }
        Ok(())
    }

    /// Heartbeat says that it is dead, and the link is down too. With the lease that shortens nothing: a home may have been
    /// answered over that link a moment ago and serve on that word, whatever becomes of its heartbeats.
    fn peer_is_known_dead(&self) -> bool {
        self.lease.is_none() && self.quiet_since.is_some() && self.peer_alive == Some(false)
    }

    /// Who has let go of the lease is not replaced by whoever takes it.
    fn peer_may_be_home(&self) -> bool {
        self.lease.as_ref().is_none_or(|l| l.peer_holds())
    }

    /// How long a vacant service is left to the other node.
    fn patience(&self) -> Duration {
        let alone = self.quiet_since.is_some();
        let record = self.lease.as_ref().and_then(|l| l.record());
        // It was offered, or its holder could not even let go of it.
        let is_left =
            |r: &Record| r.offered_to.as_ref() == Some(&self.cfg.me) || r.held_by(&self.cfg.peer).is_some();
        if record.is_some_and(is_left) {
            return Duration::ZERO;
        }
        let first = match &self.cfg.preferred {
            Some(node) => *node == self.cfg.me,
            None => self.cfg.me < self.cfg.peer,
        };
        if alone || first { Duration::ZERO } else { SECOND_CHOICE_WAITS }
    }

    /// The peer has the service, as far as is known.
    pub(super) fn is_elsewhere(&self, now: Instant) -> bool {
        let connected = self.storage.filter(|s| s.conn >= ConnState::Connected);
        let is_primary = connected.is_some_and(|s| s.peer_role == Role::Primary);
        is_primary || self.lease.as_ref().is_some_and(|l| l.peer_holds() && l.can_take(now).is_err())
    }

    /// Why this node is not the home any more; none: it is.
    pub(super) fn is_lost(&self) -> Option<(Leaving, String)> {
        let peer = &self.cfg.peer;
        if self.lease.as_ref().is_some_and(|l| l.peer_holds()) {
            return Some((Leaving::Lost, format!("{peer} has taken it")));
        }
        let record = self.lease.as_ref().and_then(|l| l.record());
        if record.is_some_and(|r| !r.is_current(&self.cfg.me)) {
            return Some((Leaving::Lost, format!("{peer} has gone on without it")));
        }
        match &self.storage {
            Some(s) if s.parted == Some(Parted::Behind) => {
                Some((Leaving::Lost, format!("the copy of {peer} is newer")))
            }
            None => Some((Leaving::TakenAway, "its resource is not up any more".into())),
            Some(_) => None,
        }
    }

    /// Starting: nothing has to have happened that ends it.
    pub(super) fn at_risk(
        &mut self,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some((how, why)) = self.is_lost() else { return false };
        self.leave(how, &why, now, steps, out);
        true
    }

    /// At home: give way if it is lost, or better elsewhere.
    pub(super) fn at_home(
        &mut self,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) -> bool {
        let demoted = self
            .storage
            .filter(|s| self.was_primary && s.role != Role::Primary)
            .map(|_| (Leaving::TakenAway, "its resource was demoted here".to_owned()));
        if let Some((how, why)) = self.is_lost().or(demoted) {
            self.record_entry("lost it", now);
            out.push(Action::Warn(format!("service {}: lost here: {why}", self.cfg.name)));
            self.leave(how, &why, now, steps, out);
            return true;
        }
        if self.heal(now, steps, out) {
            return true;
        }
        let able = self.peer_is_able().is_ok();
        self.peer_able_since = if able { self.peer_able_since.or(Some(now)) } else { None };
        let bad_disk = self.storage.filter(|s| s.disk != DiskState::UpToDate);
        // A home without a good copy of its own leaves also when it is frozen: what it answers is on the peer alone.
        if self.frozen && bad_disk.is_none() || !able {
            return false;
        }
        let why = match (&self.fault, bad_disk) {
            (Some(fault), _) => fault.clone(),
            (None, Some(s)) => format!("the disk here is {}", s.disk),
            (None, None) if self.is_to_fail_back(now) => {
                format!("{} is preferred", self.cfg.peer)
            }
            (None, None) => return false,
        };
        self.leave(Leaving::ForPeer, &why, now, steps, out);
        true
    }

    fn is_to_fail_back(&self, now: Instant) -> bool {
        self.cfg.failback
            && self.cfg.preferred.as_ref() == Some(&self.cfg.peer)
            && self.peer_able_since.is_some_and(|since| now.saturating_since(since) >= FAILBACK_AFTER)
    }

    /// Whether the peer could have it, as far as is known here.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn peer_is_able(&self) -> Result<(), String> {
        let peer = &self.cfg.peer;
        let Some(s) = self.storage.filter(|s| s.conn >= ConnState::Connected) else {
            return Err(format!("{peer} is not connected"));
        };
        if s.peer_disk != DiskState::UpToDate {
            return Err(format!("the disk of {peer} is {}", s.peer_disk));
        }
        let counts = |l: &crate::lease::machine::Lease| l.record().is_none_or(|r| r.is_current(peer));
        if !self.lease.as_ref().is_none_or(counts) {
            return Err(format!("the lease does not say yet that the copy of {peer} is good"));
        }
        debug_assert!(self.cfg.proof == Proof::Lease || self.lease.is_none());
        Ok(())
    }
}
