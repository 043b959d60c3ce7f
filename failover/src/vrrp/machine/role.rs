//! Becoming Master and ceasing to be it: what is done, and in which order (failover 1.9).

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::failover::config::{Sending, VirtualAddress, VrrpInstance, VrrpVersion};
use model::time::Instant;

use super::super::action::{Action, AlarmChange, Name, State};
use super::super::alarm::AlarmKind;
use super::super::check::{TTL, auth_fields};
use super::super::notify::{Notification, Transition, Who};
use super::super::packet::{Advert, Form, INTERVAL_CS_MAX, PRIORITY_STOP};
use super::{Binding, Router};

/// Where the addresses of an instance are unless they say otherwise.
fn usual_interface(config: &VrrpInstance) -> &String {
    config.virtual_mac.as_ref().map_or(&config.interface, |mac| &mac.name)
}

/// The addresses of an instance, those outside the adverts too, each with its interface.
pub(super) fn addresses_of(config: &VrrpInstance) -> Vec<VirtualAddress> {
    let usual = usual_interface(config);
    let mut addresses = [&config.addresses[..], &config.excluded_addresses].concat();
    for address in &mut addresses {
        address.interface.get_or_insert_with(|| usual.clone());
    }
    addresses
}

/// Who makes a router Master.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// Its timer, or being the owner.
    Timer,
    /// Its service.
    Service,
}

/// How a Master leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    /// Others know already.
    Silently,
    /// Priority 0 first, so that the next one comes soon.
    SayingSo,
    /// Priority 0 when the addresses are gone, so that nobody else adds them before.
    AddressesFirst,
}

impl Router {
    /// The advert goes first: the old master removes the addresses before the segment hears that they are here.
    pub(super) fn become_master(&mut self, now: Instant, by: By, out: &mut Vec<Action>) {
        assert!(
            self.binding == Binding::Free || by == By::Service,
            "{} belongs to a service, which alone makes it Master",
            self.name
        );
        assert!(self.faults.is_empty(), "{} becomes Master with faults", self.name);
        self.lower_accepted_until = None;
        self.master = None;
        self.owners = None;
        self.send(now, self.effective_priority(), out);
        let instance = || self.name.clone();
        out.push(Action::AddAddresses { instance: instance(), addresses: self.all_addresses() });
        if !self.config.routes.is_empty() {
            out.push(Action::AddRoutes { instance: instance(), routes: self.config.routes.clone() });
        }
        if !self.config.rules.is_empty() {
            out.push(Action::AddRules { instance: instance(), rules: self.config.rules.clone() });
        }
        self.start_announcing(out);
        self.counters.became_master += 1;
        self.enter(now, State::Master, Transition::Master, out);
        self.timer = Some(now + self.config.advert_interval);
        self.clear_alarm(AlarmKind::HeldByMismatch, out);
    }

    /// Everything of a Master but its state, which the caller changes next.
    pub(super) fn leave_master(&mut self, now: Instant, how: Leave, out: &mut Vec<Action>) {
        assert_eq!(self.state, State::Master, "{} leaves a role that it does not have", self.name);
        if how == Leave::SayingSo {
            self.send(now, PRIORITY_STOP, out);
        }
        self.remove_rules_and_routes(out);
        out.push(Action::StopAnnouncing { instance: self.name.clone() });
        self.remove_addresses(out);
        if how == Leave::AddressesFirst {
            self.send(now, PRIORITY_STOP, out);
        }
        self.last_sent = None;
        self.last_answer = None;
        self.kept_until = None;
        self.owners = None;
        self.master_interval = self.config.advert_interval;
    }

    /// Waits for MasterDown.
    pub(super) fn enter_backup(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.enter(now, State::Backup, Transition::Backup, out);
        self.timer = Some(now + self.master_down_with(self.master_interval));
        self.undisputed_timer = self.timer;
    }

    pub(super) fn enter(
        &mut self,
        now: Instant,
        state: State,
        transition: Transition,
        out: &mut Vec<Action>,
    ) {
        self.state = state;
        self.since = now;
        self.timer = None;
        self.undisputed_timer = None;
        self.wants_master = false;
        self.peer_silent = false;
        self.lower_accepted_until = None;
        self.counters.transitions += 1;
        self.notify(transition, out);
    }

    pub(super) fn notify(&self, transition: Transition, out: &mut Vec<Action>) {
        let who = Who::Instance(self.name.clone());
        let notify = &self.config.notify;
        out.push(Action::Notify(Notification::new(who, transition, self.effective_priority(), notify)));
    }

    pub(super) fn send(&mut self, now: Instant, priority: u8, out: &mut Vec<Action>) {
        let source =
            self.source.expect("a router without an address of its own is in Fault and sends nothing");
        let advert = self.advert(priority);
        let interface: Name = match &self.config.virtual_mac {
            Some(mac) if !mac.sends_from_base => mac.name.as_str().into(),
            Some(_) | None => self.config.interface.as_str().into(),
        };
        let mut push = |destination: IpAddr, ttl: u8| {
            let (instance, advert) = (self.name.clone(), advert.clone());
            let interface = interface.clone();
            out.push(Action::Send { instance, interface, source, destination, ttl, advert });
        };
        match &self.config.sending {
            Sending::Multicast { group, .. } => push(*group, TTL),
            Sending::Unicast { peers, ttl, .. } => peers.iter().for_each(|peer| push(peer.address, *ttl)),
        }
        self.counters.sent += 1;
        if priority == PRIORITY_STOP {
            self.counters.sent_priority_0 += 1;
        } else {
            self.last_sent = Some(now);
        }
    }

    fn advert(&self, priority: u8) -> Advert {
        let config = &self.config;
        let interval = config.advert_interval;
        let form = match config.version {
            VrrpVersion::V2 => {
                let (auth_type, auth_data) = auth_fields(config.authentication);
                let interval_s = u8::try_from(interval.as_secs()).unwrap_or(u8::MAX);
                Form::V2 { interval_s, auth_type, auth_data }
            }
            VrrpVersion::V3 => {
                let hundredths = u16::try_from(interval.as_millis() / 10).unwrap_or(u16::MAX);
                Form::V3 { interval_cs: hundredths.min(INTERVAL_CS_MAX) }
            }
        };
        Advert {
            form,
            virtual_router_id: config.virtual_router_id,
            priority,
            addresses: config.addresses.iter().map(|a| a.address).collect(),
        }
    }

    pub(super) fn all_addresses(&self) -> Vec<VirtualAddress> {
        addresses_of(&self.config)
    }

    pub(super) fn start_announcing(&self, out: &mut Vec<Action>) {
        let all = self.all_addresses();
        let mut interfaces = BTreeSet::from([usual_interface(&self.config)]);
        let mut extra = Vec::new();
        for address in &all {
            if address.interface.as_ref().is_some_and(|name| interfaces.insert(name)) {
                extra.push(address.address);
            }
        }
        let addresses = all.iter().map(|a| a.address).collect();
        out.push(Action::StartAnnouncing { instance: self.name.clone(), addresses, extra });
    }

    /// After an absence the peers may know another MAC for the address that adverts come from, or none: they answer to that
    /// address alone, and what it says comes from nowhere else (failover 1.15).
    pub(super) fn announce_source(&self, out: &mut Vec<Action>) {
        assert_eq!(self.state, State::Backup, "{} has just left Fault", self.name);
        let (Sending::Unicast { .. }, Some(source)) = (&self.config.sending, self.source) else { return };
        let interface = self.config.interface.as_str().into();
        out.push(Action::AnnounceSource { instance: self.name.clone(), interface, source });
    }

    pub(super) fn remove_rules_and_routes(&self, out: &mut Vec<Action>) {
        let instance = || self.name.clone();
        if !self.config.rules.is_empty() {
            out.push(Action::RemoveRules { instance: instance(), rules: self.config.rules.clone() });
        }
        if !self.config.routes.is_empty() {
            out.push(Action::RemoveRoutes { instance: instance(), routes: self.config.routes.clone() });
        }
    }

    pub(super) fn remove_addresses(&self, out: &mut Vec<Action>) {
        out.push(Action::RemoveAddresses { instance: self.name.clone(), addresses: self.all_addresses() });
    }

    pub(super) fn clear_alarm(&mut self, kind: AlarmKind, out: &mut Vec<Action>) {
        if let Some(alarm) = self.alarms.clear(kind) {
            out.push(Action::Alarm { instance: self.name.clone(), change: AlarmChange::Cleared, alarm });
        }
    }

    pub(super) fn clear_alarms(&mut self, now: Instant, out: &mut Vec<Action>) {
        for alarm in self.alarms.expired(now) {
            out.push(Action::Alarm { instance: self.name.clone(), change: AlarmChange::Cleared, alarm });
        }
    }
}
