//! All virtual routers of one node: who gets which event, what trackers mean for each of them, and sync groups.

use std::collections::BTreeSet;
use std::net::IpAddr;

use model::failover::config::{FailoverConfig, Sending, VrrpInstance};
use model::time::Instant;

use super::action::{Action, State};
use super::group::Group;
use super::machine::{Binding, BindingError, Options, Router};
use super::notify::Transition;
use super::packet::{IpFacts, virtual_router_id};
use super::status::VrrpStatus;
use super::tracking::{Effect, Fault, Interface, TrackerResult, Trackers};

/// What happens to a node.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The instances begin. Interfaces and results of trackers that are known by then should have come before.
    Start,
    /// The instances end: Masters say so.
    Stop,
    /// A packet of protocol 112 or 51 arrived.
    Packet {
        /// The `interface` of the instances that it can be for: with `use_vmac` the one below the macvlan.
        interface: &'a str,
        /// Its IP header.
        ip: &'a IpFacts,
        /// What is behind that.
        payload: &'a [u8],
    },
    /// [`Vrrp::deadline`] has come.
    Tick,
    /// A tracker has a result.
    Tracker(&'a TrackerResult),
    /// An interface came, went or changed.
    Interface(&'a Interface),
    /// The configuration was read again.
    Reload {
        /// The new one.
        config: &'a FailoverConfig,
        /// Instances that services own.
        bound: &'a [String],
    },
}

/// All instances and groups of one configuration.
#[derive(Clone, Debug)]
pub struct Vrrp {
    routers: Vec<Router>,
    groups: Vec<Group>,
    trackers: Trackers,
    step_down_advert: bool,
    running: bool,
    packets_of_others: u64,
}

impl Vrrp {
    /// The instances of a configuration, not started yet. `bound`: those that services own; with one of them all members
    /// of its group are.
    pub fn new(now: Instant, config: &FailoverConfig, interfaces: &[Interface], bound: &[String]) -> Vrrp {
        let mut trackers = Trackers::default();
        interfaces.iter().for_each(|interface| trackers.set_interface(interface));
        let mut vrrp = Vrrp {
            routers: Vec::new(),
            groups: Vec::new(),
            trackers,
            step_down_advert: false,
            running: false,
            packets_of_others: 0,
        };
        vrrp.configure(now, config, bound, &mut Vec::new());
        vrrp
    }

    /// See [`Options::step_down_advert`]; counts for instances of later reloads too.
    pub fn set_step_down_advert(&mut self, on: bool) {
        self.step_down_advert = on;
        self.routers.iter_mut().for_each(|router| router.set_step_down_advert(on));
    }

    /// Takes one event and appends what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, out: &mut Vec<Action>) {
        self.wake(now, out);
        match event {
            Event::Start => self.start(now, out),
            Event::Stop => {
                self.running = false;
                self.routers.iter_mut().for_each(|router| router.stop(now, Transition::Stop, out));
            }
            Event::Packet { interface, ip, payload } => self.packet(now, interface, ip, payload, out),
            Event::Tick => {
                self.trackers.tick(now);
                self.apply_trackers(now, out);
                self.routers.iter_mut().for_each(|router| router.tick(now, out));
            }
            Event::Tracker(result) => {
                self.trackers.apply(now, result);
                self.apply_trackers(now, out);
            }
            Event::Interface(interface) => {
                self.trackers.set_interface(interface);
                self.apply_trackers(now, out);
            }
            Event::Reload { config, bound } => self.configure(now, config, bound, out),
        }
        self.settle(now, out);
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.routers.iter().map(Router::deadline).chain([self.trackers.deadline()]).flatten().min()
    }

    /// A service's word: this instance, and with it its group, is Master at once.
    pub fn grant(&mut self, now: Instant, name: &str, out: &mut Vec<Action>) -> Result<(), BindingError> {
        let members = self.together(name)?;
        members.iter().try_for_each(|m| self.routers[*m].may_grant())?;
        self.wake(now, out);
        let result = members.iter().try_for_each(|m| self.routers[*m].grant(now, out));
        self.settle(now, out);
        result
    }

    /// A service's word: this instance, and with it its group, is Backup, and has no addresses when this returns.
    pub fn revoke(&mut self, now: Instant, name: &str, out: &mut Vec<Action>) -> Result<(), BindingError> {
        let members = self.together(name)?;
        self.wake(now, out);
        let result = members.iter().try_for_each(|m| self.routers[*m].revoke(now, out));
        self.settle(now, out);
        result
    }

    /// A service's word: what this bound instance has was granted or renewed, and is good until then. When that time comes it
    /// is Backup, has no addresses and says so. Others of its group have to be told themselves.
    pub fn keep_until(&mut self, name: &str, until: Instant) {
        if let Some(router) = self.routers.iter_mut().find(|router| **router.name() == *name) {
            router.keep_until(until);
        }
    }

    /// Until when a bound Master keeps its role unless [`Vrrp::keep_until`] is said again; none: nobody has said so.
    pub fn kept_until(&self, name: &str) -> Option<Instant> {
        self.router(name)?.kept_until()
    }

    /// When an advert of a living master was heard last for this instance.
    pub fn peer_heard(&self, name: &str) -> Option<Instant> {
        self.router(name)?.peer_heard()
    }

    /// Whether this instance has heard no master for MasterDown, or not since the start; bound ones only.
    pub fn is_peer_silent(&self, name: &str) -> bool {
        self.router(name).is_some_and(Router::is_peer_silent)
    }

    /// State of an instance.
    pub fn state(&self, name: &str) -> Option<State> {
        self.router(name).map(Router::state)
    }

    /// Configuration of an instance: what its notifications and addresses need.
    pub fn config(&self, name: &str) -> Option<&VrrpInstance> {
        self.router(name).map(Router::config)
    }

    /// What there is to know.
    pub fn status(&self) -> VrrpStatus {
        VrrpStatus {
            instances: self.routers.iter().map(Router::status).collect(),
            groups: self.groups.iter().map(|group| group.status(&self.routers)).collect(),
            packets_of_others: self.packets_of_others,
        }
    }

    fn router(&self, name: &str) -> Option<&Router> {
        self.routers.iter().find(|router| **router.name() == *name)
    }

    /// An instance and the others of its group.
    fn together(&self, name: &str) -> Result<Vec<usize>, BindingError> {
        let position = self.routers.iter().position(|router| **router.name() == *name);
        let position = position.ok_or_else(|| BindingError::Unknown(name.to_owned()))?;
        let group = self.groups.iter().find(|group| group.members.contains(&position));
        Ok(group.map_or_else(|| vec![position], |group| group.members.clone()))
    }

    /// All of them before any event: they slept together.
    fn wake(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.routers.iter_mut().for_each(|router| router.wake(now, out));
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.running = true;
        self.apply_trackers(now, out);
        for router in self.routers.iter_mut().filter(|router| router.state() == State::Initialize) {
            router.start(now, out);
        }
    }

    fn packet(&mut self, now: Instant, interface: &str, ip: &IpFacts, payload: &[u8], out: &mut Vec<Action>) {
        let id = virtual_router_id(payload, ip);
        let ours = |router: &&mut Router| {
            let config = router.config();
            config.interface == interface
                && Some(config.virtual_router_id) == id
                && is_ipv4(config) == ip.source.is_ipv4()
        };
        match self.routers.iter_mut().find(ours) {
            Some(router) => router.receive(now, ip, payload, out),
            None => self.packets_of_others += 1,
        }
    }

    fn settle(&mut self, now: Instant, out: &mut Vec<Action>) {
        for group in &mut self.groups {
            group.settle(now, &mut self.routers, out);
            group.tell(&self.routers, out);
        }
        self.routers.iter().for_each(Router::check_invariants);
    }

    /// Replaces the configuration. A router goes on if it is the same one on the wire and has the same owner.
    fn configure(&mut self, now: Instant, config: &FailoverConfig, bound: &[String], out: &mut Vec<Action>) {
        let options = Options {
            notify_priority_changes: config.globals.notify_priority_changes,
            step_down_advert: self.step_down_advert,
        };
        self.trackers.configure(config);
        let bound = with_their_groups(config, bound);
        let mut old = std::mem::take(&mut self.routers);
        let mut kept = Vec::new();
        for instance in &config.instances {
            let binding = if bound.contains(&instance.name) { Binding::Bound } else { Binding::Free };
            let same = |router: &Router| router.binding() == binding && is_same(router.config(), instance);
            kept.push((instance, binding, old.iter().position(same).map(|at| old.remove(at))));
        }
        for mut router in old {
            let stays = config.instances.iter().any(|instance| *instance.name == **router.name());
            router.stop(now, if stays { Transition::Stop } else { Transition::Deleted }, out);
        }
        for (instance, binding, router) in kept {
            let source = own_source(instance, &self.trackers);
            self.routers.push(match router {
                Some(mut router) => {
                    router.reload(now, instance.clone(), options, out);
                    router
                }
                None => Router::new(now, instance.clone(), source, binding, options),
            });
        }
        let old_groups = std::mem::take(&mut self.groups);
        for new in &config.sync_groups {
            let mut group = Group::new(new, &self.routers);
            if let Some(old) = old_groups.iter().find(|old| *old.name == *new.name) {
                group.inherit(old);
            }
            self.groups.push(group);
        }
        for (at, router) in self.routers.iter_mut().enumerate() {
            router.set_grouped(self.groups.iter().any(|group| group.members.contains(&at)));
        }
        if self.running {
            self.start(now, out);
        } else {
            self.apply_trackers(now, out);
        }
    }

    /// Faults and weights of all routers from what is known now (failover 1.11, 1.12).
    fn apply_trackers(&mut self, now: Instant, out: &mut Vec<Action>) {
        let mut results: Vec<(BTreeSet<Fault>, i32, Option<IpAddr>)> = Vec::new();
        for (at, router) in self.routers.iter().enumerate() {
            let group = self.groups.iter().find(|group| group.members.contains(&at));
            results.push(self.own_result(router.config(), group));
        }
        for group in &self.groups {
            let broken: Vec<usize> =
                group.members.iter().copied().filter(|m| !results[*m].0.is_empty()).collect();
            for member in &group.members {
                let others = broken.iter().filter(|m| *m != member);
                let faults = others.map(|m| Fault::Member(self.routers[*m].name().to_string()));
                results[*member].0.extend(faults);
            }
        }
        for (router, (faults, points, source)) in self.routers.iter_mut().zip(results) {
            if faults.is_empty() {
                router.set_source(source);
                // The timer that begins with the end of the last fault is that of the new priority.
                router.set_contribution(now, points, out);
                router.set_faults(now, faults, out);
            } else {
                // The last advert needs the old address.
                router.set_faults(now, faults, out);
                router.set_source(source);
                router.set_contribution(now, points, out);
            }
        }
    }

    fn own_result(
        &self,
        config: &VrrpInstance,
        group: Option<&Group>,
    ) -> (BTreeSet<Fault>, i32, Option<IpAddr>) {
        let mut faults = BTreeSet::new();
        let mut points = 0_i32;
        let source = own_source(config, &self.trackers);
        let name = || config.interface.clone();
        if source.is_none() {
            faults.insert(Fault::SourceAddress(name()));
        }
        let is_up = self.trackers.interface(&config.interface).is_some_and(|i| i.is_up);
        if config.tracks_own_interface && !is_up {
            faults.insert(Fault::Interface(name()));
        }
        let own = config.trackers.iter().map(|tracker| (tracker, group.is_some()));
        let of_group = group.into_iter().flat_map(|g| &g.config.trackers).map(|tracker| (tracker, false));
        for (tracker, weightless) in own.chain(of_group) {
            match self.trackers.effect(tracker, weightless) {
                Effect::Points(more) => points = points.saturating_add(more),
                Effect::Fault(fault) => {
                    faults.insert(fault);
                }
            }
        }
        (faults, points, source)
    }
}

fn is_ipv4(config: &VrrpInstance) -> bool {
    config.addresses.first().is_none_or(|address| address.address.is_ipv4())
}

/// Whether two configurations are of the same virtual router in the same place.
fn is_same(old: &VrrpInstance, new: &VrrpInstance) -> bool {
    old.name == new.name
        && old.interface == new.interface
        && old.virtual_router_id == new.virtual_router_id
        && old.version == new.version
        && is_ipv4(old) == is_ipv4(new)
        && old.virtual_mac == new.virtual_mac
}

fn own_source(config: &VrrpInstance, trackers: &Trackers) -> Option<IpAddr> {
    let configured = match &config.sending {
        Sending::Multicast { source, .. } | Sending::Unicast { source, .. } => *source,
    };
    let like = config.addresses.first()?.address;
    configured.or_else(|| trackers.source(&config.interface, like))
}

/// Members of a group are Master together, so a service that owns one of them owns all.
fn with_their_groups(config: &FailoverConfig, bound: &[String]) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = bound.iter().cloned().collect();
    for group in &config.sync_groups {
        if group.members.iter().any(|member| bound.contains(member)) {
            all.extend(group.members.iter().cloned());
        }
    }
    all
}

#[cfg(test)]
mod tests;
