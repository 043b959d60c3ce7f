//! What a resource gets from less specific places (drbd-admin 1.9). Nothing is combined: for each option the
//! most specific place wins.
//!
//! Inherited options come in front, in reverse order, as the original's lists do; `dump` shows that order.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use super::ast::{Config, Connection, Entry, Host, HostKind, Resource, Sections, Volume};

/// Puts the options of `from` that `list` misses in front of it.
pub(super) fn inherit(list: &mut Vec<Entry>, from: &[Entry]) {
    let missing: Vec<Entry> =
        from.iter().rev().filter(|e| !list.iter().any(|own| own.def == e.def)).cloned().collect();
    list.splice(0..0, missing);
}

/// The sections of a resource with everything from `common`, or from its template instead.
pub(super) fn sections(config: &Config, resource: &Resource) -> Sections {
    let common = resource.template.as_ref().map_or(&config.common, |template| &template.common);
    let mut merged = resource.sections.clone();
    inherit(&mut merged.options, &common.options);
    inherit(&mut merged.net, &common.net);
    inherit(&mut merged.disk, &common.disk);
    inherit(&mut merged.startup, &common.startup);
    inherit(&mut merged.handlers, &common.handlers);
    inherit(&mut merged.proxy.options, &common.proxy.options);
    if merged.proxy.plugins.is_none() {
        merged.proxy.plugins.clone_from(&common.proxy.plugins);
    }
    merged
}

/// The volumes of a host: its own and those of the resource level, by number. A stacked host has one without a
/// backing device. Options of the volumes are merged with `disk`, the already merged section of the resource,
/// if given; otherwise they are the host's own.
pub(super) fn host_volumes(resource: &Resource, host: &Host, disk: Option<&[Entry]>) -> Vec<Volume> {
    let mut volumes = host.volumes.clone();
    for upper in &resource.volumes {
        match volumes.iter_mut().find(|v| v.number == upper.number && v.implicit == upper.implicit) {
            Some(own) => fill(own, upper),
            None => {
                let mut own = Volume { options: Vec::new(), ..upper.clone() };
                if let Some(disk) = &mut own.disk {
                    disk.inherited = true;
                }
                volumes.push(own);
            }
        }
    }
    if let Some(disk) = disk {
        for volume in &mut volumes {
            // drbd-admin 1.9 (sic): the volume on resource level loses against the section of the resource.
            inherit(&mut volume.options, disk);
            if let Some(upper) = resource.volumes.iter().find(|v| v.number == volume.number) {
                inherit(&mut volume.options, &upper.options);
            }
        }
    }
    volumes.sort_by_key(|v| v.number);
    volumes
}

fn fill(own: &mut Volume, upper: &Volume) {
    if own.device.is_none() {
        own.device.clone_from(&upper.device);
    }
    if own.disk.is_none() {
        own.disk.clone_from(&upper.disk);
        if let Some(disk) = &mut own.disk {
            disk.inherited = true;
        }
    }
    if own.meta_disk.is_none() {
        own.meta_disk.clone_from(&upper.meta_disk);
    }
}

/// The connection of 9 as `dump -d` shows it: `net` with what the resource has, volumes with the `disk` of the
/// connection and of the resource.
pub(super) fn connection(connection: &Connection, resource: &Sections) -> Connection {
    let mut merged = connection.clone();
    inherit(&mut merged.net, &resource.net);
    for volume in &mut merged.volumes {
        inherit(&mut volume.options, &connection.disk);
        inherit(&mut volume.options, &resource.disk);
    }
    merged
}

/// The connection section between two hosts, if there is one.
pub(super) fn connection_of<'a>(resource: &'a Resource, one: &Host, other: &Host) -> Option<&'a Connection> {
    resource.connections.iter().find(|connection| {
        let mut sides = connection.paths.iter().chain(core::iter::once(&connection.hosts));
        sides.any(|hosts| {
            hosts.iter().any(|h| one.is_named(&h.name)) && hosts.iter().any(|h| other.is_named(&h.name))
        })
    })
}

/// The names of the hosts where a host section is valid: its own, or those of the lower resource.
pub(super) fn host_names(config: &Config, host: &Host) -> Vec<alloc::string::String> {
    match &host.kind {
        HostKind::On(names) => names.clone(),
        HostKind::Floating => alloc::vec![host.name()],
        HostKind::StackedOn(lower) => config.resource(lower).map_or(Vec::new(), |lower| {
            // One level is enough: a resource stacked on a stacked one names that one's hosts the same way.
            lower
                .hosts
                .iter()
                .flat_map(|host| match &host.kind {
                    HostKind::On(names) => names.clone(),
                    HostKind::Floating => alloc::vec![host.name()],
                    HostKind::StackedOn(name) => alloc::vec![name.to_owned()],
                })
                .collect()
        }),
    }
}
