//! What trackers and a new configuration change (failover 1.11).

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::failover::config::VrrpInstance;
use model::time::Instant;

use super::super::action::{Action, Level, RoleLost, State};
use super::super::check::Expectation;
use super::super::notify::Transition;
use super::super::packet::PRIORITY_STOP;
use super::super::tracking::Fault;
use super::role::{Leave, addresses_of};
use super::{Binding, Options, Router};

impl Router {
    /// All that is broken now. The first fault ends Backup and Master, the end of the last one ends Fault.
    pub fn set_faults(&mut self, now: Instant, faults: BTreeSet<Fault>, out: &mut Vec<Action>) {
        self.wake(now, out);
        if faults == self.faults {
            return;
        }
        if self.state != State::Initialize {
            for fault in faults.difference(&self.faults) {
                self.log(Level::Warning, out, || format!("fault: {fault}"));
            }
            for fault in self.faults.difference(&faults) {
                self.log(Level::Info, out, || format!("fault is over: {fault}"));
            }
        }
        match (self.state, faults.is_empty()) {
            (State::Master, false) => {
                self.leave_master(now, Leave::SayingSo, out);
                self.enter(now, State::Fault, Transition::Fault, out);
                self.role_lost(RoleLost::Fault, out);
            }
            (State::Backup, false) => self.enter(now, State::Fault, Transition::Fault, out),
            (State::Fault, true) => {
                self.master_interval = self.config.advert_interval;
                self.enter_backup(now, out);
                self.announce_source(out);
            }
            (State::Initialize, _) | (State::Fault, false) | (State::Backup | State::Master, true) => {}
        }
        self.faults = faults;
    }

    /// The sum of the weights of its trackers.
    pub fn set_contribution(&mut self, now: Instant, contribution: i32, out: &mut Vec<Action>) {
        self.wake(now, out);
        let before = self.effective_priority();
        self.contribution = contribution;
        self.priority_changed(now, before, out);
    }

    pub(super) fn priority_changed(&mut self, now: Instant, before: u8, out: &mut Vec<Action>) {
        let after = self.effective_priority();
        if after == before || self.state == State::Initialize {
            return;
        }
        self.log(Level::Info, out, || format!("changes its priority from {before} to {after}"));
        let transition = match self.state {
            State::Master => Some(Transition::MasterPriority),
            State::Backup => Some(Transition::BackupPriority),
            State::Initialize | State::Fault => None,
        };
        if let Some(transition) = transition.filter(|_| self.options.notify_priority_changes) {
            self.notify(transition, out);
        }
        let outdone = |(priority, _): &(u8, Instant)| (after + 1..=before).contains(priority);
        if self.options.step_down_advert
            && self.state == State::Master
            && self.binding == Binding::Free
            && self.peers.values().any(outdone)
        {
            self.log(Level::Info, out, || "another router is better now: it is told to take over".into());
            self.send(now, PRIORITY_STOP, out);
        }
    }

    /// See [`Options::step_down_advert`].
    pub fn set_step_down_advert(&mut self, on: bool) {
        self.options.step_down_advert = on;
    }

    /// Where adverts come from is another address now. That there is none is a fault, which the caller has set before.
    pub fn set_source(&mut self, source: Option<IpAddr>) {
        assert!(
            source.is_some() || self.state != State::Master,
            "{} is Master without an address",
            self.name
        );
        self.source = source;
    }

    /// Another configuration for the same virtual router on the same interface: its state is kept, and what a Master has
    /// is brought up to date. Trackers are the caller's.
    pub fn reload(&mut self, now: Instant, config: VrrpInstance, options: Options, out: &mut Vec<Action>) {
        self.wake(now, out);
        self.options = options;
        if config == self.config {
            return;
        }
        let before = self.effective_priority();
        let old = std::mem::replace(&mut self.config, config);
        self.expectation = Expectation::of(&self.config);
        self.base = self.config.priority;
        match self.state {
            State::Master => {
                self.bring_up_to_date(&old, out);
                self.master_interval = self.config.advert_interval;
                self.send(now, self.effective_priority(), out);
                self.timer = Some(now + self.config.advert_interval);
            }
            State::Backup => {
                if old.advert_interval != self.config.advert_interval {
                    self.master_interval = self.config.advert_interval;
                }
                // A timer that has ended stays so.
                if self.timer.is_some() {
                    self.timer = Some(now + self.master_down_with(self.master_interval));
                    self.undisputed_timer = self.timer;
                }
            }
            State::Initialize | State::Fault => self.master_interval = self.config.advert_interval,
        }
        self.priority_changed(now, before, out);
    }

    /// What is in both configurations is not touched: connections through it live on.
    fn bring_up_to_date(&self, old: &VrrpInstance, out: &mut Vec<Action>) {
        let new = &self.config;
        let instance = || self.name.clone();
        let old_addresses = addresses_of(old);
        let new_addresses = self.all_addresses();
        let rules = without(&old.rules, &new.rules);
        if !rules.is_empty() {
            out.push(Action::RemoveRules { instance: instance(), rules });
        }
        let routes = without(&old.routes, &new.routes);
        if !routes.is_empty() {
            out.push(Action::RemoveRoutes { instance: instance(), routes });
        }
        let addresses = without(&old_addresses, &new_addresses);
        let changed = old_addresses != new_addresses;
        if !addresses.is_empty() {
            out.push(Action::RemoveAddresses { instance: instance(), addresses });
        }
        let addresses = without(&new_addresses, &old_addresses);
        if !addresses.is_empty() {
            out.push(Action::AddAddresses { instance: instance(), addresses });
        }
        let routes = without(&new.routes, &old.routes);
        if !routes.is_empty() {
            out.push(Action::AddRoutes { instance: instance(), routes });
        }
        let rules = without(&new.rules, &old.rules);
        if !rules.is_empty() {
            out.push(Action::AddRules { instance: instance(), rules });
        }
        if changed || old.announce != new.announce {
            self.start_announcing(out);
        }
    }
}

fn without<T: Clone + PartialEq>(all: &[T], gone: &[T]) -> Vec<T> {
    all.iter().filter(|one| !gone.contains(one)).cloned().collect()
}
