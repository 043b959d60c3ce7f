//! What an advert of another router changes (failover 1.9, 1.10; for adverts that disagree with us: the documentation of
//! `vrrp`).

use std::net::IpAddr;

use model::failover::config::{Preempt, VrrpVersion};
use model::time::{Duration, Instant};

use super::super::action::{Action, Level, State};
use super::super::alarm::AlarmKind;
use super::super::check::{CheckError, Reason, Verdict, check};
use super::super::notify::Transition;
use super::super::packet::{Advert, IpFacts, PRIORITY_OWNER, PRIORITY_STOP};
use super::super::status::KnownMaster;
use super::role::Leave;
use super::{Binding, Owners, Router};

/// So many peers are remembered: there are never more than a few, unless somebody makes them up.
const PEERS_MAX: usize = 16;

/// One advert on its way through the machine.
#[derive(Clone, Copy)]
struct Heard<'a> {
    source: IpAddr,
    advert: &'a Advert,
    /// Whether it is accepted, and not merely a sign of life.
    accepted: bool,
}

impl Router {
    /// A packet for the number of this virtual router.
    pub fn receive(&mut self, now: Instant, ip: &IpFacts, payload: &[u8], out: &mut Vec<Action>) {
        self.wake(now, out);
        let source = ip.source;
        match check(payload, ip, &self.expectation) {
            Verdict::Accepted(advert) => {
                self.counters.received += 1;
                self.heard(now, Heard { source, advert: &advert, accepted: true }, out);
            }
            Verdict::SignOfLife { advert, why } => {
                *self.counters.mismatched.entry(why.reason()).or_default() += 1;
                self.alarm_of_mismatch(now, source, &advert, &why, out);
                self.heard(now, Heard { source, advert: &advert, accepted: false }, out);
            }
            Verdict::Dropped(why) => {
                let count = self.counters.dropped.entry(why.reason()).or_default();
                *count += 1;
                // Whoever sends many of them does not fill the log.
                if count.is_power_of_two() {
                    let count = *count;
                    self.log(Level::Warning, out, || {
                        format!("packet from {source} is dropped ({count} so far): {why}")
                    });
                }
            }
        }
    }

    fn heard(&mut self, now: Instant, heard: Heard<'_>, out: &mut Vec<Action>) {
        let Heard { source, advert, .. } = heard;
        if advert.priority == PRIORITY_STOP {
            self.counters.received_priority_0 += 1;
        } else if self.state != State::Initialize {
            self.peer_heard = Some(now);
            self.remember(now, source, advert.priority);
            if self.source == Some(source) {
                self.alarm(now, AlarmKind::OwnAddress, source, Duration::ZERO, out, || {
                    format!("another router sends from our own address {source}, or our adverts come back")
                });
            }
        }
        match self.state {
            State::Initialize => {}
            State::Fault => self.note_master(now, heard),
            State::Backup => self.heard_as_backup(now, heard, out),
            State::Master => self.heard_as_master(now, heard, out),
        }
    }

    fn heard_as_backup(&mut self, now: Instant, heard: Heard<'_>, out: &mut Vec<Action>) {
        let Heard { source, advert, accepted } = heard;
        let priority = advert.priority;
        if priority == PRIORITY_STOP {
            self.master_stops(now, heard, out);
        } else if !accepted {
            self.note_master(now, heard);
            // It may be slower than we are, and is alive between its adverts all the same.
            let wait = self.master_down_with(self.master_interval.max(advert.interval()));
            let held = self.undisputed_timer.is_some_and(|at| at <= now);
            self.rearm(now + wait);
            if held {
                self.alarm(now, AlarmKind::HeldByMismatch, source, wait, out, || {
                    format!(
                        "stays Backup only because of adverts from {source} (priority {priority}) that are not \
                         accepted: make the configurations agree, or find out who sends them"
                    )
                });
            }
        } else if self.accepts(now, priority) {
            self.learn_interval(advert, out);
            self.note_master(now, heard);
            self.rearm(now + self.master_down_with(self.master_interval));
            self.undisputed_timer = self.timer;
            self.clear_alarm(AlarmKind::HeldByMismatch, out);
        } else {
            let known = self.master.is_some_and(|m| (m.address, m.priority) == (source, priority));
            if !known {
                self.log(Level::Info, out, || {
                    format!("advert from {source} with the lower priority {priority} is ignored")
                });
            }
            self.note_master(now, heard);
        }
    }

    /// Whether a Backup stays Backup for a master of this priority.
    fn accepts(&mut self, now: Instant, priority: u8) -> bool {
        if priority >= self.effective_priority() {
            self.lower_accepted_until = None;
            return true;
        }
        // What the data do is not decided by priorities.
        if self.binding == Binding::Bound {
            return true;
        }
        match self.config.preempt {
            Preempt::Always => false,
            Preempt::Never => true,
            Preempt::After(delay) => now < *self.lower_accepted_until.get_or_insert(now + delay),
        }
    }

    /// The last words of a master.
    fn master_stops(&mut self, now: Instant, heard: Heard<'_>, out: &mut Vec<Action>) {
        let source = heard.source;
        if !heard.accepted {
            // Believed, it would make two masters of a segment where one stops only by hearsay.
            return;
        }
        if self.master.is_some_and(|m| m.address != source) {
            self.log(Level::Info, out, || format!("{source} stops, but it is not the master that is heard"));
            return;
        }
        self.master = None;
        if let Some(timer) = self.timer {
            // Never later: words that are repeated do not hold anybody back.
            self.timer = Some(timer.min(now + self.skew()));
            self.undisputed_timer = self.timer;
            self.log(Level::Info, out, || format!("the master {source} stops"));
        }
    }

    fn heard_as_master(&mut self, now: Instant, heard: Heard<'_>, out: &mut Vec<Action>) {
        let Heard { source, advert, accepted } = heard;
        if advert.priority == PRIORITY_STOP {
            if accepted && self.may_answer(now) {
                self.send_at_once(now, out);
            }
            return;
        }
        let own = self.source.expect("a Master has an address of its own");
        let own_priority = self.effective_priority();
        if (advert.priority, source) > (own_priority, own) {
            self.heard_better(now, heard, out);
        } else if (advert.priority, source) < (own_priority, own) {
            if own_priority == PRIORITY_OWNER && advert.priority == PRIORITY_OWNER {
                self.heard_other_owner(now, source, out);
            }
            self.heard_lower(now, heard, out);
        }
    }

    fn heard_better(&mut self, now: Instant, heard: Heard<'_>, out: &mut Vec<Action>) {
        let Heard { source, advert, accepted } = heard;
        let priority = advert.priority;
        if self.binding == Binding::Bound {
            self.alarm_of_stranger(now, heard, out);
            return;
        }
        let own_priority = self.effective_priority();
        self.log(Level::Info, out, || {
            format!("advert from {source} with priority {priority} is better than ours ({own_priority})")
        });
        if self.config.higher_prio_send_advert {
            self.send(now, own_priority, out);
        }
        self.leave_master(now, Leave::Silently, out);
        if accepted {
            self.learn_interval(advert, out);
        }
        self.enter_backup(now, out);
        self.note_master(now, heard);
        if !accepted {
            let wait = self.master_down_with(self.master_interval.max(advert.interval()));
            self.rearm(now + wait);
        }
    }

    fn heard_lower(&mut self, now: Instant, heard: Heard<'_>, out: &mut Vec<Action>) {
        let (source, priority) = (heard.source, heard.advert.priority);
        if self.binding == Binding::Bound {
            self.alarm_of_stranger(now, heard, out);
        }
        if !self.may_answer(now) {
            return;
        }
        self.log(Level::Info, out, || format!("{source} is Master too, with the lower priority {priority}"));
        if !self.config.lower_prio_no_advert {
            self.send_at_once(now, out);
        }
        if self.config.announce.lower_priority_repeat > 0 {
            out.push(Action::AnnounceAgain { instance: self.name.clone() });
        }
        self.notify(Transition::MasterHeardLowerPriority, out);
    }

    fn send_at_once(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.send(now, self.effective_priority(), out);
        self.timer = Some(now + self.config.advert_interval);
        self.count_advert_between_owners(now);
    }

    /// Answers are limited to ten in an interval, which no honest router notices: otherwise each packet of somebody else
    /// would make an advert, a burst of frames and a script.
    fn may_answer(&mut self, now: Instant) -> bool {
        let pause = self.config.advert_interval / 10;
        if self.last_answer.is_some_and(|last| now.saturating_since(last) < pause) {
            return false;
        }
        self.last_answer = Some(now);
        true
    }

    fn rearm(&mut self, timer: Instant) {
        self.timer = Some(timer);
        self.wants_master = false;
        self.peer_silent = false;
    }

    fn learn_interval(&mut self, advert: &Advert, out: &mut Vec<Action>) {
        match self.config.version {
            VrrpVersion::V2 => {}
            VrrpVersion::V3 => {
                let learned = advert.interval();
                if learned != self.master_interval {
                    self.log(Level::Info, out, || format!("the interval of the master is {learned:?}"));
                }
                self.master_interval = learned;
            }
        }
    }

    fn note_master(&mut self, now: Instant, heard: Heard<'_>) {
        if heard.advert.priority == PRIORITY_STOP {
            self.master = None;
            return;
        }
        self.master = Some(KnownMaster {
            address: heard.source,
            priority: heard.advert.priority,
            heard: now,
            accepted: heard.accepted,
        });
    }

    fn remember(&mut self, now: Instant, source: IpAddr, priority: u8) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&source) {
            let oldest = self.peers.iter().min_by_key(|(_, (_, heard))| *heard).map(|(address, _)| *address);
            oldest.map(|address| self.peers.remove(&address));
        }
        self.peers.insert(source, (priority, now));
    }

    fn alarm_of_mismatch(
        &mut self,
        now: Instant,
        source: IpAddr,
        advert: &Advert,
        why: &CheckError,
        out: &mut Vec<Action>,
    ) {
        let priority = advert.priority;
        let quiet = 4 * advert.interval().max(self.config.advert_interval);
        let by_password =
            matches!(why.reason(), Reason::Password | Reason::AuthType | Reason::AuthenticationHeader);
        let suspicion = if by_password { ", or the sender is not one of ours" } else { "" };
        self.alarm(now, AlarmKind::Mismatch(why.reason()), source, quiet, out, || {
            format!(
                "advert from {source} with priority {priority} is not accepted: {why}. Its sender is alive and counts \
                 as heard; the configurations differ{suspicion}"
            )
        });
    }

    /// The service is here, so whoever else claims its addresses has no right to, whatever the priority.
    fn alarm_of_stranger(&mut self, now: Instant, heard: Heard<'_>, out: &mut Vec<Action>) {
        let Heard { source, advert, .. } = heard;
        let quiet = 4 * advert.interval().max(self.config.advert_interval);
        self.alarm(now, AlarmKind::Stranger, source, quiet, out, || {
            format!(
                "{source} claims the addresses with priority {}; this node keeps them, since it has the service: no \
                 other router belongs into this virtual router",
                advert.priority
            )
        });
    }

    fn alarm(
        &mut self,
        now: Instant,
        kind: AlarmKind,
        source: IpAddr,
        quiet: Duration,
        out: &mut Vec<Action>,
        text: impl FnOnce() -> String,
    ) {
        if let Some((change, alarm)) = self.alarms.seen(now, kind, source, quiet, text) {
            out.push(Action::Alarm { instance: self.name.clone(), change, alarm });
        }
    }

    /// Two owners, and we have the higher address: the other one has two of our adverts to give in.
    fn heard_other_owner(&mut self, now: Instant, source: IpAddr, out: &mut Vec<Action>) {
        let fresh = Owners { adverts_left: 2, ends_at: None, other_heard: now };
        self.owners.get_or_insert(fresh).other_heard = now;
        self.alarm(now, AlarmKind::TwoOwners, source, Duration::ZERO, out, || {
            format!("{source} has priority 255 too: there are two owners of the addresses")
        });
    }

    pub(super) fn count_advert_between_owners(&mut self, now: Instant) {
        let interval = self.config.advert_interval;
        let Some(owners) = &mut self.owners else { return };
        if owners.ends_at.is_some() {
            return;
        }
        owners.adverts_left = owners.adverts_left.saturating_sub(1);
        if owners.adverts_left == 0 {
            owners.ends_at = Some((now + interval + interval / 5, now));
        }
    }

    /// The other owner had its time: if it is still there, this one gives in.
    pub(super) fn settle_owners(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(owners) = self.owners else { return };
        let Some((_, last_own)) = owners.ends_at.filter(|(at, _)| *at <= now) else { return };
        self.owners = None;
        if owners.other_heard > last_own {
            let before = self.effective_priority();
            self.base = PRIORITY_OWNER - 1;
            self.log(Level::Warning, out, || "the other owner stays: this one takes priority 254".into());
            self.priority_changed(now, before, out);
        }
    }
}
