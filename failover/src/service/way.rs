//! On the way to a home, and away from it: the lease first, then the steps; and back (failover 8.1).

use model::failover::config::Proof;
use model::time::Instant;

use super::{Action, FAILED_PAUSE, GIVEN_PAUSE, Leaving, Service, State, TAKING_MAX};
use crate::lease::machine::Held;
use crate::promote::chain::{ChainAction, Phase};

impl Service {
    /// Taking: the lease has come, or will not.
    pub(super) fn at_taking(
        &mut self,
        since: Instant,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) -> bool {
        if let Err(why) = self.may_take(now) {
            self.give_up_taking(&why, now, out);
            return true;
        }
        let has_proof = self.lease.as_ref().is_none_or(|l| l.held(now) != Held::No);
        if has_proof {
            if self.cfg.proof == Proof::Nothing && self.quiet_since.is_some() {
                out.push(Action::Warn(format!(
                    "service {}: promote-without-proof: {} may be its home as well",
                    self.cfg.name, self.cfg.peer
                )));
            }
            (self.was_primary, self.restarting) = (false, false);
            self.enter(State::Starting, "its steps are started", now, out);
            // What the core may do has to be there before it is promoted.
            self.grant(now, out);
            self.chain.go_up(now, steps);
            return true;
        }
        if now.saturating_since(since) > TAKING_MAX {
            self.give_up_taking("the lease could not be had", now, out);
            return true;
        }
        false
    }

    pub(super) fn give_up_taking(&mut self, why: &str, now: Instant, out: &mut Vec<Action>) {
        if let Some(lease) = &mut self.lease {
            lease.set_hold(false, now);
            if lease.is_holder() {
                lease.release(false, now);
            }
        }
        self.enter(State::Away, why, now, out);
    }

    /// On the way down.
    pub(super) fn at_leaving(
        &mut self,
        how: Leaving,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) -> bool {
        match self.chain.phase() {
            Phase::Down => {}
            Phase::Up => {
                let why = self.chain.failure().unwrap_or("it would not stop").to_owned();
                self.answer_orders(Err(format!("it stays here: {why}")), out);
                self.record_entry("could not be moved away", now);
                self.enter(State::Home, &why, now, out);
                return true;
            }
            Phase::Stuck => {
                let why = self.chain.failure().unwrap_or("a step does not end").to_owned();
                self.answer_orders(Err(format!("it cannot be ended here: {why}")), out);
                self.record_entry("cannot be ended here", now);
                let text = format!(
                    "service {}: cannot be ended here: {why} ('lockstep failover status')",
                    self.cfg.name
                );
                out.push(Action::Warn(text));
                let last = self.cfg.steps.len() - 1;
                if let Some(lease) =
                    self.lease.as_mut().filter(|_| self.chain.has_ended(0) && self.chain.has_ended(last))
                {
                    // Nothing is Primary here, and nobody is called here: the peer may have it.
                    lease.set_hold(false, now);
                    if lease.is_holder() {
                        lease.release(false, now);
                    }
                }
                self.enter(State::Stuck, &why, now, out);
                return true;
            }
            _ => {
                // In peace only as long as it is this node's to give.
                let in_peace = matches!(how, Leaving::ForPeer | Leaving::Released | Leaving::Failed);
                let Some((how, why)) = self.is_lost().filter(|_| in_peace) else { return false };
                self.leave(how, &why, now, steps, out);
                return true;
            }
        }
        let reason = self.chain.failure().map(str::to_owned);
        match how {
            // It may be quicker than the word that everything has ended here.
            Leaving::ForPeer if self.is_elsewhere(now) => {}
            Leaving::ForPeer => {
                self.away_until = Some(now + GIVEN_PAUSE);
                self.given = true;
            }
            Leaving::Failed => self.away_until = Some(now + FAILED_PAUSE),
            Leaving::TakenAway if !self.lease.as_ref().is_some_and(|l| l.peer_holds()) => {
                self.away_until = Some(now + FAILED_PAUSE);
            }
            Leaving::Released | Leaving::Lost | Leaving::TakenAway | Leaving::Sweeping => {}
        }
        if let Some(lease) = &mut self.lease {
            lease.set_hold(false, now);
            if lease.is_holder() {
                // Nothing is Primary here any more, for certain.
                let for_peer = matches!(how, Leaving::ForPeer | Leaving::Failed);
                let able = lease.record().is_some_and(|r| r.is_current(&self.cfg.peer));
                lease.release(for_peer && able, now);
            }
        }
        if how != Leaving::Sweeping {
            self.record_entry("ended here", now);
        }
        if let (Leaving::Failed, Some(reason)) = (how, &reason) {
            out.push(Action::Warn(format!("service {}: failed here: {reason}", self.cfg.name)));
        }
        self.last_reason = reason.or(self.last_reason.take());
        self.answer_orders(Ok("it has ended here".into()), out);
        self.enter(State::Away, "it has ended here", now, out);
        true
    }
}
