//! What a configuration says of addresses and interfaces.

use model::failover::config::{TrackTarget, Tracker, VirtualAddress, VrrpInstance};

use crate::vip::netlink::Family;

pub(super) fn family_of(instance: &VrrpInstance) -> Family {
    instance.addresses.first().map_or(Family::V4, |a| Family::of(a.address))
}

/// The addresses of an instance, those outside the adverts too, each with its interface.
pub(in super::super) fn addresses_of(instance: &VrrpInstance) -> Vec<VirtualAddress> {
    let usual = instance.virtual_mac.as_ref().map_or(&instance.interface, |mac| &mac.name);
    let mut addresses = [&instance.addresses[..], &instance.excluded_addresses].concat();
    for address in &mut addresses {
        address.interface.get_or_insert_with(|| usual.clone());
    }
    addresses
}

/// The interfaces that an instance needs besides those of its addresses.
pub(super) fn interfaces_of(instance: &VrrpInstance) -> Vec<String> {
    let routes = instance.routes.iter().filter_map(|route| route.interface.clone());
    let macvlan = instance.virtual_mac.iter().map(|mac| mac.name.clone());
    let tracked = instance.trackers.iter().filter_map(tracked_interface);
    [instance.interface.clone()].into_iter().chain(routes).chain(macvlan).chain(tracked).collect()
}

pub(super) fn tracked_interface(tracker: &Tracker) -> Option<String> {
    match &tracker.target {
        TrackTarget::Interface(name) => Some(name.clone()),
        TrackTarget::Script(_)
        | TrackTarget::File(_)
        | TrackTarget::Process(_)
        | TrackTarget::Resource(_) => None,
    }
}
