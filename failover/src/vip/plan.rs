//! Wanted minus actual: the steps that make the kernel's tables what they should be. Without I/O.
//!
//! Only what the configuration names is ever touched. An address is the same if interface, address, prefix length and peer
//! are: the owner of an address (priority 255) has it on its interface with another prefix, and keeps it.

use std::net::{IpAddr, Ipv4Addr};

use model::failover::config::{Broadcast, RouteKind, VirtualAddress, VirtualRoute, VirtualRule};

use super::netlink::{
    AddressOptions, Family, FoundAddress, InterfaceAddress, Lifetime, LinkIndex, MAIN_TABLE, RouteSpec,
    RuleSpec,
};

/// An address of the configuration, on its interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedAddress {
    /// The address.
    pub address: InterfaceAddress,
    /// False by `no_track`: not put back when somebody deletes it.
    pub tracked: bool,
}

/// A part of the configuration: what is wanted now, or all that may be ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tables {
    /// Addresses, in the order in which they are added.
    pub addresses: Vec<WantedAddress>,
    /// Routes.
    pub routes: Vec<RouteSpec>,
    /// Rules.
    pub rules: Vec<RuleSpec>,
}

/// What the kernel has. Routes and rules of others are not in here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Actual {
    /// All addresses.
    pub addresses: Vec<FoundAddress>,
    /// Routes of our protocol.
    pub routes: Vec<RouteSpec>,
    /// Rules of our protocol.
    pub rules: Vec<RuleSpec>,
}

/// Why there is a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The role has changed, or the daemon starts.
    Role,
    /// Something in the kernel has changed: what is not tracked is not put back.
    Repair,
}

/// One change of the kernel's tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Remove a rule.
    RemoveRule(RuleSpec),
    /// Remove a route.
    RemoveRoute(RouteSpec),
    /// Remove an address.
    RemoveAddress(InterfaceAddress),
    /// Add an address, or give it its lifetime anew.
    PutAddress(InterfaceAddress),
    /// Add a route.
    AddRoute(RouteSpec),
    /// Add a rule.
    AddRule(RuleSpec),
}

/// The steps from `actual` to `wanted`, in the order of failover 1.9: rules, routes and addresses go, then addresses, routes
/// and rules come. `ours` is all that the configuration names: what of it is there and not wanted goes, such as the leftovers
/// of a daemon that was killed.
pub fn plan(wanted: &Tables, ours: &Tables, actual: &Actual, reason: Reason) -> Vec<Step> {
    let mut steps = Vec::new();
    let is_ours = |rule: &&RuleSpec| ours.rules.contains(rule) && !wanted.rules.contains(rule);
    steps.extend(actual.rules.iter().filter(is_ours).cloned().map(Step::RemoveRule));

    let known = |route: &RouteSpec| wanted.routes.iter().chain(&ours.routes).any(|r| is_same_route(r, route));
    let stale = |route: &&RouteSpec| known(route) && !wanted.routes.iter().any(|r| satisfies_route(route, r));
    steps.extend(actual.routes.iter().filter(stale).cloned().map(Step::RemoveRoute));

    // The last one first: the first one of a subnet may take the others with it.
    for found in actual.addresses.iter().rev() {
        let same = |wanted: &&WantedAddress| is_same_address(&wanted.address, &found.address);
        let removed = match wanted.addresses.iter().find(same) {
            Some(wanted) => !looks_like(&found.address, &wanted.address),
            None => ours.addresses.iter().any(|ours| same(&ours)),
        };
        if removed {
            steps.push(Step::RemoveAddress(found.address.clone()));
        }
    }
    for wanted in &wanted.addresses {
        let found = actual.addresses.iter().find(|found| is_same_address(&found.address, &wanted.address));
        let put = match found {
            None => wanted.tracked || reason == Reason::Role,
            Some(found) => {
                !looks_like(&found.address, &wanted.address) || !ends_like(&found.address, &wanted.address)
            }
        };
        if put {
            steps.push(Step::PutAddress(wanted.address.clone()));
        }
    }
    let missing = |route: &&RouteSpec| !actual.routes.iter().any(|found| satisfies_route(found, route));
    steps.extend(wanted.routes.iter().filter(missing).cloned().map(Step::AddRoute));
    let missing = |rule: &&RuleSpec| !actual.rules.contains(rule);
    steps.extend(wanted.rules.iter().filter(missing).cloned().map(Step::AddRule));
    steps
}

/// A line of `virtual_ipaddress`, on its interface.
pub fn address_of(config: &VirtualAddress, link: LinkIndex, lifetime: Lifetime) -> WantedAddress {
    let prefix_len = config.peer.map_or(config.prefix_len, |(_, len)| len);
    let preferred = config.preferred_lifetime.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    let address = InterfaceAddress {
        link,
        local: config.address,
        prefix_len,
        peer: config.peer.map(|(peer, _)| peer),
        broadcast: broadcast_of(config.broadcast, config.address, prefix_len),
        scope: config.scope,
        label: config.label.clone().filter(|_| config.address.is_ipv4()),
        options: AddressOptions {
            home: config.home,
            no_dad: config.no_dad,
            no_prefix_route: config.no_prefix_route,
        },
        lifetime: lifetime.preferred_for(preferred),
    };
    WantedAddress { address, tracked: !config.no_track }
}

/// A line of `virtual_routes`, by its interface.
pub fn route_of(config: &VirtualRoute, link: Option<LinkIndex>) -> RouteSpec {
    let (destination, len) = config.destination;
    RouteSpec {
        destination: (network(destination, len), len),
        gateway: config.gateway,
        link: link.filter(|_| config.kind == RouteKind::Unicast),
        source: config.source,
        table: config.table.unwrap_or(MAIN_TABLE),
        metric: config.metric,
        scope: config.scope,
        kind: config.kind,
    }
}

/// Preference of the first rule that says none; each further one has one less (failover 1.15).
pub const FIRST_PREFERENCE: u32 = 16384;

/// The lines of `virtual_rules` of one configuration. A rule that names no address is of family `usual`.
pub fn rules_of<'a>(config: impl IntoIterator<Item = &'a VirtualRule>, usual: Family) -> Vec<RuleSpec> {
    let mut next = FIRST_PREFERENCE;
    let mut take_preference = || {
        let taken = next;
        next = next.saturating_sub(1);
        taken
    };
    let rule = |config: &VirtualRule| RuleSpec {
        family: config.from.or(config.to).map_or(usual, |(address, _)| Family::of(address)),
        from: config.from.map(|(address, len)| (network(address, len), len)),
        to: config.to.map(|(address, len)| (network(address, len), len)),
        incoming: config.incoming.clone(),
        mark: config.mark,
        table: config.table,
        preference: config.preference.unwrap_or_else(&mut take_preference),
    };
    config.into_iter().map(rule).collect()
}

fn is_same_address(a: &InterfaceAddress, b: &InterfaceAddress) -> bool {
    (a.link, a.local, a.prefix_len, a.peer) == (b.link, b.local, b.prefix_len, b.peer)
}

/// Whether an address that is there has everything that cannot be changed while it is.
fn looks_like(found: &InterfaceAddress, wanted: &InterfaceAddress) -> bool {
    let v4_only = || {
        found.broadcast == wanted.broadcast
            && found.scope == wanted.scope
            && (wanted.label.is_none() || found.label == wanted.label)
    };
    found.options == wanted.options && (!wanted.local.is_ipv4() || v4_only())
}

/// Whether both end by themselves, or neither does.
fn ends_like(found: &InterfaceAddress, wanted: &InterfaceAddress) -> bool {
    found.lifetime.valid_seconds.is_some() == wanted.lifetime.valid_seconds.is_some()
}

/// Metric that the kernel gives IPv6 routes without one (`IP6_RT_PRIO_USER`).
const USUAL_METRIC_V6: u32 = 1024;

fn is_same_route(a: &RouteSpec, b: &RouteSpec) -> bool {
    let metric = |route: &RouteSpec| match route.family() {
        Family::V4 => route.metric.unwrap_or(0),
        Family::V6 => route.metric.filter(|&metric| metric != 0).unwrap_or(USUAL_METRIC_V6),
    };
    (a.destination, a.table, metric(a)) == (b.destination, b.table, metric(b))
}

fn satisfies_route(found: &RouteSpec, wanted: &RouteSpec) -> bool {
    is_same_route(found, wanted)
        && (found.gateway, found.source, found.kind) == (wanted.gateway, wanted.source, wanted.kind)
        && (wanted.link.is_none() || found.link == wanted.link)
        && (wanted.scope.is_none() || found.scope == wanted.scope || found.family() == Family::V6)
}

fn broadcast_of(broadcast: Broadcast, address: IpAddr, prefix_len: u8) -> Option<Ipv4Addr> {
    let IpAddr::V4(address) = address else { return None };
    // A network of one or two addresses has none to spare.
    let host_bits = u32::MAX.checked_shr(prefix_len.into()).filter(|_| prefix_len < 31);
    match broadcast {
        Broadcast::Unset => None,
        Broadcast::AllOnes => host_bits.map(|bits| Ipv4Addr::from_bits(address.to_bits() | bits)),
        Broadcast::AllZeroes => host_bits.map(|bits| Ipv4Addr::from_bits(address.to_bits() & !bits)),
        Broadcast::Address(IpAddr::V4(said)) => Some(said),
        Broadcast::Address(IpAddr::V6(_)) => None,
    }
}

/// The address without the bits behind the length: the kernel takes no others as a destination.
fn network(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let host_bits = u32::MAX.checked_shr(len.into()).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !host_bits).into()
        }
        IpAddr::V6(address) => {
            let host_bits = u128::MAX.checked_shr(len.into()).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(address.to_bits() & !host_bits).into()
        }
    }
}

#[cfg(test)]
mod tests;
