//! One virtual router: its state, its timer, and who may change them.
//!
//! A router is *free* or *bound*. A free one behaves like keepalived's: it becomes Master when its timer ends. A bound one
//! belongs to a service and its role follows that of the service's storage, never the reverse (failover 8.4, 8.5): neither
//! the start, nor a timer, nor the last words of a master make it Master. It says that the peer is silent and goes on
//! waiting; [`Router::grant`] and [`Router::revoke`] are the service's. As Master it does not yield to a better advert
//! either: anybody on the segment can send one, and the data do not move with it. It keeps its role and raises an alarm.
// Source: failover 1.8-1.11, RFC 5798 6.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use model::failover::config::VrrpInstance;
use model::time::{Duration, Instant};

use super::action::{Action, Level, Name, RoleLost, State};
use super::alarm::Alarms;
use super::check::Expectation;
use super::notify::Transition;
use super::packet::PRIORITY_OWNER;
use super::status::{Counters, InstanceStatus, KnownMaster};
use super::timers;
use super::tracking::Fault;

mod change;
mod receive;
mod role;

/// A Backup that is woken later than this may have missed adverts; on a busy machine a little is nothing.
const LATE_MIN: Duration = Duration::from_millis(100);

/// Who decides that a router becomes Master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binding {
    /// Its own timer.
    Free,
    /// The service that it belongs to.
    Bound,
}

/// What is not in the block of the instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// `vrrp_notify_priority_changes`: the FIFO is told of them.
    pub notify_priority_changes: bool,
    /// A free Master whose priority falls below that of a peer says priority 0 once, so that the peer takes over after its
    /// Skew instead of its MasterDown (failover 1.11). Not what keepalived does, so not by default.
    pub step_down_advert: bool,
}

/// Why a service's word to a router is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BindingError {
    /// There is no such instance.
    #[error("vrrp_instance {0}: there is none of this name")]
    Unknown(String),
    /// It is free.
    #[error("vrrp_instance {0}: no service owns it, so it decides by itself")]
    Free(String),
    /// It was not started.
    #[error("vrrp_instance {0}: it is not running")]
    NotRunning(String),
    /// It cannot take part.
    #[error("vrrp_instance {name}: it cannot become master: {faults}")]
    Faulty {
        /// The instance.
        name: String,
        /// Why.
        faults: String,
    },
}

/// One virtual router.
#[derive(Clone, Debug)]
pub struct Router {
    name: Name,
    config: VrrpInstance,
    expectation: Expectation,
    /// Where adverts come from; there is a fault while it is not known.
    source: Option<IpAddr>,
    binding: Binding,
    /// Whether its group decides when it becomes Master.
    grouped: bool,
    options: Options,

    state: State,
    since: Instant,
    /// The configured priority, unless another owner made it lower.
    base: u8,
    /// Sum of the weights of the trackers.
    contribution: i32,
    faults: BTreeSet<Fault>,

    /// Master: the next advert. Backup: when the master counts as gone. `None` in Backup: that time has come, and it is
    /// for the group or for the service to decide.
    timer: Option<Instant>,
    /// When the timer of a Backup would end, had it heard nothing but adverts that are accepted.
    undisputed_timer: Option<Instant>,
    /// Its timer has ended, and the others of its group are not that far.
    wants_master: bool,
    /// Its timer has ended, and its service knows.
    peer_silent: bool,
    /// What the timers of version 3 are computed with: the master's, learned from its adverts.
    master_interval: Duration,
    master: Option<KnownMaster>,
    peer_heard: Option<Instant>,
    /// `preempt_delay`: adverts of lower priorities are accepted until then.
    lower_accepted_until: Option<Instant>,
    last_sent: Option<Instant>,
    last_answer: Option<Instant>,
    /// Bound Master: its addresses are good until then.
    kept_until: Option<Instant>,
    owners: Option<Owners>,
    /// Priorities of others, as far as they were heard as masters.
    peers: BTreeMap<IpAddr, (u8, Instant)>,
    alarms: Alarms,
    counters: Counters,
}

/// Two routers believe to be the owner, and this is the one with the higher address (failover 1.9).
#[derive(Clone, Copy, Debug)]
struct Owners {
    /// Own adverts to wait for before the other one has had its chance.
    adverts_left: u8,
    /// When this one gives in, and the time of its last advert before.
    ends_at: Option<(Instant, Instant)>,
    other_heard: Instant,
}

impl Router {
    /// A router that was not started yet.
    pub fn new(
        now: Instant,
        config: VrrpInstance,
        source: Option<IpAddr>,
        binding: Binding,
        options: Options,
    ) -> Router {
        Router {
            name: config.name.as_str().into(),
            expectation: Expectation::of(&config),
            source,
            binding,
            grouped: false,
            options,
            state: State::Initialize,
            since: now,
            base: config.priority,
            contribution: 0,
            faults: BTreeSet::new(),
            timer: None,
            undisputed_timer: None,
            wants_master: false,
            peer_silent: false,
            master_interval: config.advert_interval,
            master: None,
            peer_heard: None,
            lower_accepted_until: None,
            last_sent: None,
            last_answer: None,
            kept_until: None,
            owners: None,
            peers: BTreeMap::new(),
            alarms: Alarms::default(),
            counters: Counters::default(),
            config,
        }
    }

    /// Leaves Initialize.
    pub fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        assert_eq!(self.state, State::Initialize, "{} is started twice", self.name);
        let is_owner = self.base == PRIORITY_OWNER && self.config.starts_as_master;
        if is_owner && self.binding == Binding::Free && self.faults.is_empty() && !self.grouped {
            self.become_master(now, role::By::Timer, out);
            return;
        }
        // A process that was killed leaves its addresses behind.
        self.remove_rules_and_routes(out);
        self.remove_addresses(out);
        if self.faults.is_empty() {
            self.enter_backup(now, out);
            if is_owner && self.binding == Binding::Free {
                (self.timer, self.wants_master) = (None, true);
            }
        } else {
            self.enter(now, State::Fault, Transition::Fault, out);
        }
    }

    /// Goes back to Initialize; `transition` is Stop or Deleted.
    pub fn stop(&mut self, now: Instant, transition: Transition, out: &mut Vec<Action>) {
        self.wake(now, out);
        if self.state == State::Initialize {
            return;
        }
        if self.state == State::Master {
            self.leave_master(now, role::Leave::SayingSo, out);
            self.role_lost(RoleLost::Stopped, out);
        }
        self.enter(now, State::Initialize, transition, out);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.wake(now, out);
        self.clear_alarms(now, out);
        match self.state {
            State::Master => {
                self.settle_owners(now, out);
                if let Some(due) = self.timer.filter(|due| *due <= now) {
                    self.send(now, self.effective_priority(), out);
                    // The period is kept, but what was missed is not made up for.
                    let interval = self.config.advert_interval;
                    self.timer = Some((due + interval).max(now + interval / 2));
                    self.count_advert_between_owners(now);
                }
            }
            State::Backup => {
                if let Some(due) = self.timer.filter(|due| *due <= now) {
                    self.timer_ended(now, due, out);
                }
            }
            State::Initialize | State::Fault => {}
        }
    }

    /// When [`Router::tick`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        let owners = self.owners.and_then(|o| o.ends_at).map(|(at, _)| at);
        [self.timer, owners, self.kept_until, self.alarms.deadline()].into_iter().flatten().min()
    }

    fn timer_ended(&mut self, now: Instant, due: Instant, out: &mut Vec<Action>) {
        let late = now.saturating_since(due);
        if late > self.master_interval.max(LATE_MIN) {
            // Who was not there to hear anything does not know that there was nothing to hear.
            let wait = self.master_interval + self.skew();
            self.timer = Some(now + wait);
            self.undisputed_timer = self.timer;
            self.log(Level::Warning, out, || {
                format!("woke up {late:?} too late; listens for {wait:?} before it believes that the master is gone")
            });
            return;
        }
        self.timer = None;
        if self.binding == Binding::Bound {
            self.peer_silent = true;
            self.log(Level::Info, out, || "no master is heard; its service decides".into());
            out.push(Action::PeerSilent { instance: self.name.clone(), last_heard: self.peer_heard });
        } else if self.grouped {
            self.wants_master = true;
            self.log(Level::Info, out, || "no master is heard; waits for the others of its group".into());
        } else {
            self.log(Level::Info, out, || "no master is heard".into());
            self.become_master(now, role::By::Timer, out);
        }
    }

    /// A Master that has not spoken for as long as others wait for it may have been replaced while it slept: it steps back
    /// before it does anything else (failover 1.16). So does a bound one whose addresses are at their end: whoever says that
    /// they are here keeps its peer from taking the service. Has to come first in every event.
    pub fn wake(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.state != State::Master {
            return;
        }
        let Some(last_sent) = self.last_sent else { return };
        let silent = now.saturating_since(last_sent);
        if silent <= self.own_master_down() {
            if self.kept_until.is_some_and(|until| until <= now) {
                self.not_renewed(now, out);
            }
            return;
        }
        self.log(Level::Warning, out, || {
            format!("has been Master without a word for {silent:?}: others may have taken over; steps back")
        });
        self.leave_master(now, role::Leave::Silently, out);
        self.enter_backup(now, out);
        self.role_lost(RoleLost::Slept, out);
    }

    fn not_renewed(&mut self, now: Instant, out: &mut Vec<Action>) {
        assert_eq!(self.binding, Binding::Bound, "{} has a service that renews it", self.name);
        self.log(Level::Warning, out, || "its service has not renewed it; steps back".into());
        self.leave_master(now, role::Leave::AddressesFirst, out);
        self.enter_backup(now, out);
        self.role_lost(RoleLost::NotRenewed, out);
    }

    /// A bound Master keeps its role until then, unless this is said again; it was granted or renewed as long before as its
    /// addresses live. Without this word a grant has no end.
    pub fn keep_until(&mut self, until: Instant) {
        if self.state == State::Master && self.binding == Binding::Bound {
            self.kept_until = self.kept_until.max(Some(until));
        }
    }

    /// What [`Router::keep_until`] has said.
    pub fn kept_until(&self) -> Option<Instant> {
        self.kept_until
    }

    /// Makes a bound router Master at once. Does nothing if it is.
    pub fn grant(&mut self, now: Instant, out: &mut Vec<Action>) -> Result<(), BindingError> {
        self.may_grant()?;
        self.wake(now, out);
        if self.state == State::Backup {
            self.become_master(now, role::By::Service, out);
        }
        assert_eq!(self.state, State::Master, "{} was granted its role", self.name);
        Ok(())
    }

    /// Whether [`Router::grant`] would succeed.
    pub fn may_grant(&self) -> Result<(), BindingError> {
        let name = self.name.to_string();
        match (self.binding, self.state) {
            (Binding::Free, _) => Err(BindingError::Free(name)),
            (Binding::Bound, State::Initialize) => Err(BindingError::NotRunning(name)),
            (Binding::Bound, State::Fault) => {
                let faults: Vec<String> = self.faults.iter().map(Fault::to_string).collect();
                Err(BindingError::Faulty { name, faults: faults.join(", ") })
            }
            (Binding::Bound, State::Backup | State::Master) => Ok(()),
        }
    }

    /// Takes the role from a bound router: first the addresses go, then the others are told. Does nothing if it has none.
    pub fn revoke(&mut self, now: Instant, out: &mut Vec<Action>) -> Result<(), BindingError> {
        if self.binding == Binding::Free {
            return Err(BindingError::Free(self.name.to_string()));
        }
        self.wake(now, out);
        if self.state == State::Master {
            self.leave_master(now, role::Leave::AddressesFirst, out);
            self.enter_backup(now, out);
        }
        Ok(())
    }

    /// A grouped router whose timer has ended becomes Master with its group.
    pub(super) fn follow_to_master(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.wants_master = false;
        self.become_master(now, role::By::Timer, out);
    }

    /// A grouped Master steps back with its group.
    pub(super) fn follow_to_backup(&mut self, now: Instant, out: &mut Vec<Action>) {
        assert_eq!(self.state, State::Master, "{} steps back with its group", self.name);
        self.leave_master(now, role::Leave::Silently, out);
        self.enter_backup(now, out);
    }

    /// Its group decides from now on, or no longer does.
    pub(super) fn set_grouped(&mut self, grouped: bool) {
        self.grouped = grouped;
        if !grouped && self.wants_master {
            self.wants_master = false;
            self.timer = self.undisputed_timer;
        }
    }

    /// Name of the instance.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its configuration.
    pub fn config(&self) -> &VrrpInstance {
        &self.config
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether a service decides.
    pub fn binding(&self) -> Binding {
        self.binding
    }

    /// Whether its timer has ended and it waits for its group.
    pub fn wants_master(&self) -> bool {
        self.wants_master
    }

    /// Whether a bound router has heard no master for MasterDown, or not since the start.
    pub fn is_peer_silent(&self) -> bool {
        self.peer_silent
    }

    /// When an advert of a living master was heard last, accepted or not.
    pub fn peer_heard(&self) -> Option<Instant> {
        self.peer_heard
    }

    /// The priority in its adverts (failover 1.11).
    pub fn effective_priority(&self) -> u8 {
        if self.base == PRIORITY_OWNER {
            return PRIORITY_OWNER;
        }
        let sum = i32::from(self.base).saturating_add(self.contribution);
        u8::try_from(sum.clamp(1, i32::from(PRIORITY_OWNER) - 1)).expect("the sum is within 1 and 254")
    }

    /// What there is to know about it.
    pub fn status(&self) -> InstanceStatus {
        InstanceStatus {
            name: self.name.clone(),
            binding: self.binding,
            state: self.state,
            since: self.since,
            base_priority: self.base,
            effective_priority: self.effective_priority(),
            master: match self.state {
                State::Master => None,
                State::Initialize | State::Backup | State::Fault => self.master,
            },
            peer_heard: self.peer_heard,
            peer_silent: self.peer_silent,
            faults: self.faults.iter().map(Fault::to_string).collect(),
            alarms: self.alarms.list(),
            counters: self.counters.clone(),
        }
    }

    /// What holds between two events.
    pub fn check_invariants(&self) {
        let name = &self.name;
        match self.state {
            State::Master => {
                assert!(self.faults.is_empty(), "{name} is Master with faults");
                assert!(self.source.is_some(), "{name} is Master without an address of its own");
                assert!(
                    self.timer.is_some() && self.last_sent.is_some(),
                    "{name} is Master and says nothing"
                );
                assert!(!self.wants_master && !self.peer_silent, "{name} is Master and waits to be");
                assert!(self.kept_until.is_none() || self.binding == Binding::Bound, "{name} is free");
            }
            State::Backup => {
                assert!(self.faults.is_empty(), "{name} is Backup with faults");
                let decided = self.timer.is_some();
                assert!(decided || self.wants_master || self.peer_silent, "{name} waits for nothing");
                assert!(!self.peer_silent || self.binding == Binding::Bound, "{name} is free");
                assert!(!self.wants_master || self.grouped, "{name} has no group to wait for");
            }
            State::Fault => {
                assert!(!self.faults.is_empty(), "{name} has no fault");
                assert!(self.timer.is_none(), "{name} has a timer in Fault");
            }
            State::Initialize => assert!(self.timer.is_none(), "{name} has a timer before it was started"),
        }
    }

    fn skew(&self) -> Duration {
        timers::skew(self.config.version, self.effective_priority(), self.master_interval)
    }

    fn master_down_with(&self, interval: Duration) -> Duration {
        let adverts = self.config.down_timer_adverts;
        timers::master_down(self.config.version, self.effective_priority(), interval, adverts)
    }

    /// MasterDown of its own interval: for how long others wait for it at least.
    fn own_master_down(&self) -> Duration {
        self.master_down_with(self.config.advert_interval)
    }

    fn log(&self, level: Level, out: &mut Vec<Action>, text: impl FnOnce() -> String) {
        out.push(Action::Log { name: self.name.clone(), level, text: text() });
    }

    fn role_lost(&self, why: RoleLost, out: &mut Vec<Action>) {
        if self.binding == Binding::Bound {
            out.push(Action::RoleLost { instance: self.name.clone(), why });
        }
    }
}

#[cfg(test)]
mod tests;
