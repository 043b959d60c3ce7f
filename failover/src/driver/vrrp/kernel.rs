//! The kernel's tables as the driver knows and changes them: interfaces, and what the instances hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use model::failover::config::{FailoverConfig, VirtualAddress, VirtualRoute, VirtualRule, VrrpInstance};
use model::time::Instant;

use super::gate::Gate;
use crate::driver::clock;
use crate::vip::announce::virtual_mac;
use crate::vip::netlink::{
    Family, FoundAddress, InterfaceAddress, Lifetime, Link, LinkIndex, MacvlanSpec, MonitorEvent, Netlink,
    NetlinkError, RouteSpec, RuleSpec, source_among,
};
use crate::vip::plan::{self, Reason, Step, Tables};
use crate::vrrp::{Interface, Name};

mod lease;
mod names;

pub(super) use lease::{Decision, Put, Renewal};
pub(super) use names::addresses_of;
use names::{family_of, interfaces_of, tracked_interface};

/// The interfaces of this namespace.
#[derive(Default)]
pub(super) struct Links(BTreeMap<LinkIndex, Link>);

impl Links {
    pub(super) fn by_name(&self, name: &str) -> Option<&Link> {
        self.0.values().find(|link| link.name == name)
    }

    fn index(&self, name: Option<&String>) -> Option<LinkIndex> {
        self.by_name(name?).map(|link| link.index)
    }
}

/// What an instance has, or had until the kernel or somebody took it.
struct Held {
    lifetime: Lifetime,
    addresses: Vec<HeldAddress>,
    routes: Vec<VirtualRoute>,
    rules: Vec<(VirtualRule, RuleSpec)>,
    /// When it was decided that the gate is open, if it is.
    opened: Option<Instant>,
    /// What went wrong last: one line in the log for a row of the same.
    trouble: Option<String>,
}

struct HeldAddress {
    config: VirtualAddress,
    /// When it was added or renewed last.
    put_at: Option<Instant>,
    /// `no_track`, and somebody has removed it.
    abandoned: bool,
}

/// What became of an address that an instance holds.
pub(super) enum Lost {
    /// The kernel took it, since nobody has renewed it.
    Expired(Name),
    /// Somebody removed it.
    Removed(Name),
}

/// The tables.
pub(super) struct Kernel {
    netlink: Rc<Netlink>,
    pub(super) gate: Rc<Gate>,
    pub(super) links: Links,
    found: Vec<FoundAddress>,
    held: BTreeMap<Name, Held>,
    /// Every address of the configuration with its interface and prefix: none of them is anybody's own.
    virtual_addresses: BTreeSet<(String, IpAddr, u8)>,
    /// Every interface that the configuration names. There may be thousands of others on the machine.
    names: BTreeSet<String>,
    /// Every rule of the configuration as the kernel gets it.
    rules: Vec<(Name, VirtualRule, RuleSpec)>,
    macvlans: Vec<MacvlanSpec>,
}

impl Kernel {
    pub(super) fn new(netlink: Netlink) -> Kernel {
        Kernel {
            netlink: Rc::new(netlink),
            gate: Rc::new(Gate::none()),
            links: Links::default(),
            found: Vec::new(),
            held: BTreeMap::new(),
            virtual_addresses: BTreeSet::new(),
            names: BTreeSet::new(),
            rules: Vec::new(),
            macvlans: Vec::new(),
        }
    }

    /// Reads interfaces and addresses anew; gives the interfaces.
    pub(super) async fn read(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let links = self.netlink.links().await?;
        self.links = Links(links.iter().map(|link| (link.index, link.clone())).collect());
        self.found = self.netlink.addresses().await?;
        Ok(links)
    }

    /// Knows the names of this configuration, and of the one before as long as something of that is held.
    pub(super) fn configure(&mut self, config: &FailoverConfig) {
        let addresses = config.instances.iter().flat_map(addresses_of);
        let key = |a: VirtualAddress| {
            let prefix_len = a.peer.map_or(a.prefix_len, |(_, len)| len);
            Some((a.interface?, a.address, prefix_len))
        };
        self.virtual_addresses = addresses.filter_map(key).collect();
        self.names = self.virtual_addresses.iter().map(|(interface, _, _)| interface.clone()).collect();
        self.names.extend(config.instances.iter().flat_map(interfaces_of));
        let of_groups = config.sync_groups.iter().flat_map(|group| &group.trackers);
        self.names.extend(of_groups.filter_map(tracked_interface));
        let all = || config.instances.iter().flat_map(|i| &i.rules);
        let specs = (plan::rules_of(all(), Family::V4), plan::rules_of(all(), Family::V6));
        let mut specs = specs.0.into_iter().zip(specs.1);
        self.rules.clear();
        for instance in &config.instances {
            for (rule, (v4, v6)) in instance.rules.iter().zip(specs.by_ref()) {
                let spec = if family_of(instance) == Family::V4 { v4 } else { v6 };
                self.rules.push((instance.name.as_str().into(), rule.clone(), spec));
            }
        }
    }

    /// Removes what an earlier run has left of this configuration.
    pub(super) async fn remove_leftovers(&mut self, config: &FailoverConfig) -> Result<(), NetlinkError> {
        let mut ours = Tables {
            rules: self.rules.iter().map(|(_, _, spec)| spec.clone()).collect(),
            ..Tables::default()
        };
        for instance in &config.instances {
            for address in addresses_of(instance) {
                if let Some(link) = self.links.index(address.interface.as_ref()) {
                    ours.addresses.push(plan::address_of(&address, link, Lifetime::FOREVER));
                }
            }
            ours.routes.extend(instance.routes.iter().map(|route| self.route(route)));
        }
        let actual = self.netlink.actual().await?;
        for step in plan::plan(&Tables::default(), &ours, &actual, Reason::Role) {
            if let Step::RemoveAddress(address) = &step {
                let name = self.links.0.get(&address.link).map_or("?", |link| &link.name);
                tracing::info!("{name}: removes {}, left from an earlier run", address.local);
            }
            self.netlink.apply(&step).await?;
        }
        Ok(())
    }

    /// Makes the macvlans of a configuration.
    pub(super) async fn make_macvlans(&mut self, config: &FailoverConfig) {
        for instance in &config.instances {
            let Some(spec) = self.macvlan(instance) else { continue };
            match self.netlink.make_macvlan(&spec).await {
                Ok(link) => {
                    self.links.0.insert(link.index, link);
                    if !self.macvlans.contains(&spec) {
                        self.macvlans.push(spec);
                    }
                }
                Err(e) => tracing::error!("vrrp_instance {}: {e}", instance.name),
            }
        }
    }

    /// Makes the macvlans whose interface has come, and those that somebody has removed.
    pub(super) async fn make_missing_macvlans(&mut self, config: &FailoverConfig) {
        let macs = config.instances.iter().filter(|i| self.links.by_name(&i.interface).is_some());
        let mut names = macs.filter_map(|i| i.virtual_mac.as_ref()).map(|mac| &mac.name);
        if names.any(|name| self.links.by_name(name).is_none()) {
            self.make_macvlans(config).await;
        }
    }

    /// Removes the macvlans that this configuration does not have; none: all of them.
    pub(super) async fn remove_macvlans(&mut self, config: Option<&FailoverConfig>) {
        let kept: Vec<MacvlanSpec> =
            config.iter().flat_map(|c| &c.instances).filter_map(|i| self.macvlan(i)).collect();
        let (stay, go) = std::mem::take(&mut self.macvlans).into_iter().partition(|spec| kept.contains(spec));
        self.macvlans = stay;
        for spec in go {
            if let Err(e) = self.netlink.remove_macvlan(&spec).await {
                tracing::error!("{e}");
            }
        }
    }

    fn macvlan(&self, instance: &VrrpInstance) -> Option<MacvlanSpec> {
        let mac = instance.virtual_mac.as_ref()?;
        let lower = self.links.index(Some(&instance.interface))?;
        let address = virtual_mac(instance.virtual_router_id, family_of(instance) == Family::V6);
        Some(MacvlanSpec { name: mac.name.clone(), lower, mac: address })
    }

    /// What the machine knows of each interface.
    pub(super) fn interfaces(&self) -> Vec<Interface> {
        let own: Vec<FoundAddress> =
            self.found.iter().filter(|found| !self.is_virtual(found)).cloned().collect();
        let interface = |link: &Link| Interface {
            name: link.name.clone(),
            is_up: link.is_usable(),
            ipv4: match source_among(&own, link.index, Family::V4, &[]) {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            },
            ipv6: match source_among(&own, link.index, Family::V6, &[]) {
                Some(IpAddr::V6(address)) => Some(address),
                _ => None,
            },
        };
        self.links.0.values().filter(|link| self.names.contains(&link.name)).map(interface).collect()
    }

    /// Whether something has happened to an interface that the configuration names. One that gets another name is none of
    /// them any more, or becomes one.
    pub(super) fn concerns(&self, event: &MonitorEvent) -> bool {
        let is_named = |link: &Link| self.names.contains(&link.name);
        match event {
            MonitorEvent::Link { now, before } => is_named(now) || before.as_ref().is_some_and(is_named),
            MonitorEvent::LinkGone(link) => is_named(link),
            MonitorEvent::Address(found) | MonitorEvent::AddressGone(found) => {
                self.links.0.get(&found.address.link).is_none_or(is_named)
            }
            MonitorEvent::Missed => true,
        }
    }

    /// Takes what [does not concern](Kernel::concerns) anybody.
    pub(super) fn learn(&mut self, event: MonitorEvent) {
        if self.changed(event).is_some() {
            tracing::debug!("an address was lost on an interface that nobody names");
        }
    }

    fn is_virtual(&self, found: &FoundAddress) -> bool {
        let Some(link) = self.links.0.get(&found.address.link) else { return false };
        let address = &found.address;
        self.virtual_addresses.contains(&(link.name.clone(), address.local, address.prefix_len))
            || self.held.values().flat_map(|held| &held.addresses).any(|held| is_held_at(held, link, address))
    }

    /// Takes what the monitor tells; gives what became of an address that is held.
    pub(super) fn changed(&mut self, event: MonitorEvent) -> Option<Lost> {
        match event {
            MonitorEvent::Link { now, .. } => {
                self.links.0.insert(now.index, now);
                None
            }
            MonitorEvent::LinkGone(link) => {
                self.links.0.remove(&link.index);
                self.found.retain(|found| found.address.link != link.index);
                None
            }
            MonitorEvent::Address(new) => {
                if let Some(held) = self.held_at(&new.address) {
                    held.abandoned = false;
                }
                match self.found.iter_mut().find(|found| is_same(&found.address, &new.address)) {
                    Some(found) => *found = new,
                    None => self.found.push(new),
                }
                None
            }
            MonitorEvent::AddressGone(gone) => {
                self.found.retain(|found| !is_same(&found.address, &gone.address));
                self.lost(&gone.address)
            }
            MonitorEvent::Missed => None,
        }
    }

    fn lost(&mut self, address: &InterfaceAddress) -> Option<Lost> {
        let now = clock::now();
        let link = self.links.0.get(&address.link)?;
        for (name, held) in &mut self.held {
            let lifetime_s = held.lifetime.valid_seconds.map_or(u64::MAX, |s| s.get().into());
            let Some(one) = held.addresses.iter_mut().find(|one| is_held_at(one, link, address)) else {
                continue;
            };
            let put_at = one.put_at?;
            // The kernel's seconds are a little long, never short.
            if now.saturating_since(put_at).as_secs() >= lifetime_s {
                return Some(Lost::Expired(name.clone()));
            }
            one.abandoned = one.config.no_track;
            return Some(Lost::Removed(name.clone()));
        }
        None
    }

    fn held_at(&mut self, address: &InterfaceAddress) -> Option<&mut HeldAddress> {
        let link = self.links.0.get(&address.link)?;
        self.held.values_mut().flat_map(|held| &mut held.addresses).find(|one| is_held_at(one, link, address))
    }

    pub(super) async fn add_routes(&mut self, instance: &Name, routes: &[VirtualRoute]) {
        for route in routes {
            self.add_route(instance, route).await;
        }
        if let Some(held) = self.held.get_mut(instance) {
            held.routes.extend_from_slice(routes);
        }
    }

    pub(super) async fn remove_routes(&mut self, instance: &Name, routes: &[VirtualRoute]) {
        if let Some(held) = self.held.get_mut(instance) {
            held.routes.retain(|held| !routes.contains(held));
        }
        for route in routes {
            if let Err(e) = self.netlink.remove_route(&self.route(route)).await {
                tracing::error!("vrrp_instance {instance}: {e}");
            }
        }
    }

    pub(super) async fn add_rules(&mut self, instance: &Name, rules: &[VirtualRule]) {
        for rule in rules {
            let spec = self.rules.iter().find(|(name, known, _)| name == instance && known == rule);
            let Some((_, _, spec)) = spec.cloned() else { continue };
            self.add_rule(instance, &spec).await;
            if let Some(held) = self.held.get_mut(instance) {
                held.rules.push((rule.clone(), spec));
            }
        }
    }

    pub(super) async fn remove_rules(&mut self, instance: &Name, rules: &[VirtualRule]) {
        let Some(held) = self.held.get_mut(instance) else { return };
        let (go, stay) =
            std::mem::take(&mut held.rules).into_iter().partition(|(rule, _)| rules.contains(rule));
        held.rules = stay;
        let go: Vec<(VirtualRule, RuleSpec)> = go;
        for (_, spec) in go {
            if let Err(e) = self.netlink.remove_rule(&spec).await {
                tracing::error!("vrrp_instance {instance}: {e}");
            }
        }
    }

    /// Puts routes and rules back that went with an address or an interface.
    pub(super) async fn restore_ways(&mut self, instance: &Name) {
        let Some(held) = self.held.get(instance) else { return };
        let (routes, rules) = (held.routes.clone(), held.rules.clone());
        for route in &routes {
            self.add_route(instance, route).await;
        }
        for (_, rule) in &rules {
            self.add_rule(instance, rule).await;
        }
    }

    /// Where an instance's addresses are.
    pub(super) fn addresses_held(&self, instance: &Name) -> Vec<VirtualAddress> {
        let held = self.held.get(instance).into_iter().flat_map(|held| &held.addresses);
        held.map(|one| one.config.clone()).collect()
    }

    /// Who has something.
    pub(super) fn holders(&self) -> Vec<Name> {
        self.held
            .iter()
            .filter(|(_, held)| !held.addresses.is_empty())
            .map(|(name, _)| name.clone())
            .collect()
    }

    async fn add_route(&self, instance: &Name, route: &VirtualRoute) {
        tell(instance, self.netlink.add_route(&self.route(route)).await);
    }

    async fn add_rule(&self, instance: &Name, rule: &RuleSpec) {
        tell(instance, self.netlink.add_rule(rule).await);
    }

    fn route(&self, route: &VirtualRoute) -> RouteSpec {
        plan::route_of(route, self.links.index(route.interface.as_ref()))
    }
}

/// What is there already is as good as added.
fn tell(instance: &Name, result: Result<(), NetlinkError>) {
    match result {
        Err(e) if e.errno() != Some(libc::EEXIST) => tracing::error!("vrrp_instance {instance}: {e}"),
        _ => {}
    }
}

fn is_same(a: &InterfaceAddress, b: &InterfaceAddress) -> bool {
    (a.link, a.local, a.prefix_len, a.peer) == (b.link, b.local, b.prefix_len, b.peer)
}

fn is_held_at(held: &HeldAddress, link: &Link, address: &InterfaceAddress) -> bool {
    let prefix_len = held.config.peer.map_or(held.config.prefix_len, |(_, len)| len);
    held.config.interface.as_ref() == Some(&link.name)
        && held.config.address == address.local
        && prefix_len == address.prefix_len
}
