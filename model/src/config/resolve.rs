//! From the configuration to what one host runs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::ast::{
    Address, Config, Connection, ConnectionHost, Endpoint, Entry, Family, Host, HostKind, Resource, Volume,
};
use super::check::{check_host, is_local, resync_after_parts};
use super::diagnostic::{Diagnostic, Severity};
use super::merge;
use super::node_id;
use super::settings::{DiskOptions, Fencing, MetaDisk, ResourceConfig, ResyncAfter, VolumeConfig};
use super::source::Span;
use super::values::{self, Values};
use crate::ids::{Minor, VolumeNo};
use crate::options::Section;

/// The settings of every resource of host `host`, in file order. Resources without a section for it are left
/// out. `local_ips` are the addresses of its interfaces; they decide which `floating` section is its own, and
/// the own addresses must be among them (`None`: no check, and no floating section is local by address).
///
/// # Errors
/// Everything that keeps one of the resources from running here: values that the driver refuses, other than
/// two hosts, stacking, SDP and SSOCKS addresses, addresses that this host does not have.
pub fn resolve(
    config: &Config,
    host: &str,
    local_ips: Option<&[IpAddr]>,
) -> Result<Vec<ResourceConfig>, Vec<Diagnostic>> {
    let mut errors = check_host(config, host, local_ips);
    let mut resolved = Vec::new();
    for resource in &config.resources {
        match resolve_resource(config, resource, host, local_ips, None) {
            Ok(Some(settings)) => resolved.push(settings),
            Ok(None) => {}
            Err(more) => errors.extend(more),
        }
    }
    if errors.is_empty() { Ok(resolved) } else { Err(errors) }
}

/// [`resolve`] for one resource, whatever is wrong with the others; `None` if it has no section for `node`.
/// With more than two host sections `peer` chooses one (`--peer`). Does not repeat [`check_host`].
///
/// # Errors
/// As [`resolve`].
pub fn resolve_resource(
    config: &Config,
    resource: &Resource,
    node: &str,
    local_ips: Option<&[IpAddr]>,
    peer: Option<&str>,
) -> Result<Option<ResourceConfig>, Vec<Diagnostic>> {
    let Some(own) = resource.hosts.iter().find(|host| is_local(config, host, node, local_ips)) else {
        return Ok(None);
    };
    let mut resolver = Resolver { config, resource, node, local_ips, errors: Vec::new() };
    let settings = resolver.settings(own, peer);
    match settings {
        Some(settings) if resolver.errors.is_empty() => Ok(Some(settings)),
        _ => Err(resolver.errors),
    }
}

struct Resolver<'a> {
    config: &'a Config,
    resource: &'a Resource,
    node: &'a str,
    local_ips: Option<&'a [IpAddr]>,
    errors: Vec<Diagnostic>,
}

impl<'a> Resolver<'a> {
    fn settings(&mut self, own: &'a Host, peer: Option<&str>) -> Option<ResourceConfig> {
        if let HostKind::StackedOn(lower) = &own.kind {
            let message =
                format!("resource {} is stacked on {lower}, which is not supported", self.resource.name);
            self.error(own.span, message, "run it on a node of its own, with 'on' sections");
            return None;
        }
        let peer = self.peer(own, peer)?;
        let connection = merge::connection_of(self.resource, own, peer);
        let own_address = self.endpoint(own, connection);
        // drbd-admin 2.7: with a proxy the peer is behind its inside address.
        let peer_address = match own.proxy.as_ref().and_then(|proxy| proxy.inside.as_ref()) {
            Some(inside) => self.socket_address(inside),
            None => self.endpoint(peer, connection),
        };

        let mut sections = merge::sections(self.config, self.resource);
        let mut net_entries = connection.map_or_else(Vec::new, |c| c.net.clone());
        merge::inherit(&mut net_entries, &sections.net);
        sections.net = net_entries;
        let own_names = merge::host_names(self.config, own);
        let net = self.read(Section::Net, &sections.net, |v| values::net(v, &own_names));
        let net_fencing = self.read(Section::Net, &sections.net, values::net_fencing);
        let options = self.read(Section::Options, &sections.options, values::resource_options);
        let startup = self.read(Section::Startup, &sections.startup, values::startup);
        let global = self.read(Section::Global, &self.config.global, values::global);

        let peer_volumes = merge::host_volumes(self.resource, peer, None);
        let mut volumes = Vec::new();
        for volume in merge::host_volumes(self.resource, own, Some(&sections.disk)) {
            let disk_options = self.disk_options(&volume, connection, net_fencing);
            let peer_volume = peer_volumes.iter().find(|v| v.number == volume.number);
            volumes.push(volume_config(&volume, peer_volume, disk_options)?);
        }
        Some(ResourceConfig {
            name: self.resource.name.clone(),
            host: own.name(),
            peer_host: peer.name(),
            own_address: own_address?,
            peer_address: peer_address?,
            own_node_id: node_id::of_host(self.config, self.resource, own),
            peer_node_id: node_id::of_host(self.config, self.resource, peer),
            volumes,
            net,
            options,
            startup,
            handlers: values::handlers(&sections.handlers),
            global,
            defined_at: self.config.file_line(self.resource.span),
        })
    }

    /// The other host section (drbd-admin 1.10).
    fn peer(&mut self, own: &Host, wanted: Option<&str>) -> Option<&'a Host> {
        let others: Vec<&'a Host> =
            self.resource.hosts.iter().filter(|host| !core::ptr::eq(*host, own)).collect();
        if let Some(name) = wanted {
            let found = others.iter().find(|host| host.is_named(name)).copied();
            if found.is_none() {
                let message =
                    format!("in resource {}: there is no host section for {name}", self.resource.name);
                self.error(self.resource.span, message, "name a host of this resource");
            }
            return found;
        }
        match others[..] {
            [peer] => Some(peer),
            [] => {
                let message =
                    format!("in resource {}: missing section 'on <PEER> {{ ... }}'", self.resource.name);
                self.error(self.resource.span, message, "add the section of the other host");
                None
            }
            [..] => {
                let message = format!(
                    "in resource {}: there are multiple host sections for the peer node; \
                     a resource has two hosts here",
                    self.resource.name
                );
                self.error(self.resource.span, message, "use --peer to select which peer section to use");
                None
            }
        }
    }

    /// Address of a host in a connection, else that of its section.
    fn endpoint(&mut self, host: &Host, connection: Option<&Connection>) -> Option<SocketAddr> {
        let in_connection = connection.and_then(|c| {
            let sides = (!c.hosts.is_empty()).then_some(&c.hosts).or(c.paths.first());
            sides?.iter().find(|side| host.is_named(&side.name))
        });
        let (address, port) = match in_connection {
            Some(ConnectionHost { endpoint: Endpoint::Address(address), .. }) => (Some(address), None),
            Some(ConnectionHost { endpoint: Endpoint::Port(port), .. }) => {
                (host.address.as_ref(), Some(*port))
            }
            Some(ConnectionHost { endpoint: Endpoint::Inherited, .. }) | None => {
                (host.address.as_ref(), None)
            }
        };
        let Some(address) = address else {
            let message = format!("in resource {}, on {}: no address", self.resource.name, host.name());
            self.error(host.span, message, "add a line like 'address 10.1.1.31:7789;'");
            return None;
        };
        let mut socket = self.socket_address(address)?;
        if let Some(port) = port {
            socket.set_port(port);
        }
        Some(socket)
    }

    fn socket_address(&mut self, address: &Address) -> Option<SocketAddr> {
        match (address.family, address.ip) {
            (Family::Ipv4, _) => Some(address.socket()),
            (Family::Ipv6, IpAddr::V6(ip)) => {
                let scope = address.text.split_once('%').map_or("0", |(_, scope)| scope);
                let Ok(scope) = scope.parse() else {
                    let message = format!("the scope of '{}' must be a number here", address.text);
                    self.error(address.span, message, "write the interface's index instead of its name");
                    return None;
                };
                Some(SocketAddr::V6(SocketAddrV6::new(ip, address.port, 0, scope)))
            }
            (Family::Ipv6, IpAddr::V4(_)) => unreachable!("the parser reads an IPv6 address behind ipv6"),
            (Family::Sdp | Family::Ssocks, _) => {
                let message = format!("address family {} is not supported", address.family.name());
                self.error(address.span, message, "use an ipv4 or ipv6 address");
                None
            }
        }
    }

    fn disk_options(
        &mut self,
        volume: &Volume,
        connection: Option<&Connection>,
        net_fencing: Option<Fencing>,
    ) -> DiskOptions {
        let mut entries = Vec::new();
        if let Some(connection) = connection {
            if let Some(of_volume) = connection.volumes.iter().find(|v| v.number == volume.number) {
                merge::inherit(&mut entries, &of_volume.options);
            }
            merge::inherit(&mut entries, &connection.disk);
        }
        merge::inherit(&mut entries, &volume.options);
        let mut options = self.read(Section::Disk, &entries, |v| values::disk(v, net_fencing));
        if let Some(entry) = entries.iter().find(|e| e.def.name == "resync-after") {
            options.resync_after = self.resync_after(entry);
        }
        options
    }

    /// An unknown resource was warned of; one without a section for this host has no resync to wait for.
    fn resync_after(&mut self, entry: &Entry) -> Option<ResyncAfter> {
        let (name, number) = resync_after_parts(entry.value());
        let target = self.config.resource(name)?;
        let host = target.hosts.iter().find(|host| is_local(self.config, host, self.node, self.local_ips))?;
        let volumes = merge::host_volumes(target, host, None);
        let volume = match number {
            Some(number) => volumes.iter().find(|v| number.parse() == Ok(v.number)),
            None if volumes.len() == 1 => volumes.first(),
            None => None,
        };
        let Some((volume, device)) = volume.and_then(|v| Some((v, v.device.as_ref()?))) else {
            let message = format!("resync-after '{}' does not name one volume", entry.value());
            self.error(entry.value_span, message, &format!("write '{name}/N' with the number of its volume"));
            return None;
        };
        Some(ResyncAfter {
            resource: String::from(name),
            volume: VolumeNo(volume.number),
            minor: Minor(device.minor),
        })
    }

    fn read<T>(&mut self, section: Section, entries: &[Entry], read: impl FnOnce(&mut Values<'_>) -> T) -> T {
        let mut values = Values::new(section, entries);
        let settings = read(&mut values);
        for error in values.diagnostics(self.config) {
            if !self.errors.contains(&error) {
                self.errors.push(error);
            }
        }
        settings
    }

    fn error(&mut self, span: Span, message: String, help: &str) {
        self.errors.push(Diagnostic::at(&self.config.sources, span, Severity::Error, message).help(help));
    }
}

/// `None` only without a device, which the checks refuse.
fn volume_config(volume: &Volume, peer: Option<&Volume>, disk_options: DiskOptions) -> Option<VolumeConfig> {
    let device = volume.device.as_ref()?;
    let meta_disk = match &volume.meta_disk {
        Some(meta) => match (meta.path.clone(), meta.index) {
            (None, _) => MetaDisk::Internal,
            (Some(path), None) => MetaDisk::FlexibleExternal(path),
            (Some(path), Some(index)) => MetaDisk::Indexed(path, index),
        },
        None => MetaDisk::Internal,
    };
    Some(VolumeConfig {
        volume: VolumeNo(volume.number),
        implicit: volume.implicit,
        minor: Minor(device.minor),
        device: device.node_or_default(),
        disk: volume.disk.as_ref().and_then(|disk| disk.path.clone()),
        meta_disk,
        peer_minor: peer.and_then(|v| v.device.as_ref()).map(|device| Minor(device.minor)),
        disk_options,
    })
}
