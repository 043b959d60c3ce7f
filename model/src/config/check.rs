//! What must hold between statements (drbd-admin 1.13). Each rule looks at everything, so that one run names
//! all mistakes.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use super::ast::{Address, Config, Entry, Host, HostKind, Resource, Volume};
use super::diagnostic::{Diagnostic, Severity};
use super::merge;
use super::source::Span;

/// The messages of one run.
struct Checker<'a> {
    config: &'a Config,
    found: Vec<Diagnostic>,
    uses: BTreeMap<String, Use>,
}

/// Something that may be used once.
#[derive(Clone, Copy)]
struct Use {
    span: Span,
    inherited: bool,
}

/// Checks what does not depend on the host. Returns errors and warnings.
pub(super) fn check(config: &mut Config) -> Vec<Diagnostic> {
    let mut checker = Checker { config, found: Vec::new(), uses: BTreeMap::new() };
    for resource in &config.resources {
        checker.resource(resource);
    }
    checker.resync_after_exists(&config.common.disk);
    checker.found
}

/// Checks what depends on the host: that it is named once in a resource, and that its own addresses exist
/// (`local_ips`; `None` skips that, and so does `disable-ip-verification`). Commands refuse to work on errors.
pub fn check_host(config: &Config, node: &str, local_ips: Option<&[IpAddr]>) -> Vec<Diagnostic> {
    let verify = !config.global.iter().any(|e| e.def.name == "disable-ip-verification");
    let mut checker = Checker { config, found: Vec::new(), uses: BTreeMap::new() };
    for resource in &config.resources {
        let local: Vec<&Host> =
            resource.hosts.iter().filter(|host| is_local(config, host, node, local_ips)).collect();
        if let [_, second, ..] = local[..] {
            let message =
                format!("in resource {}: there are multiple host sections for this node", resource.name);
            checker.error(second.span, message, &format!("keep one section for {node}"));
        }
        let (Some(host), Some(ips), true) = (local.first(), local_ips, verify) else { continue };
        let Some(address) = &host.address else { continue };
        if !ips.contains(&address.ip) {
            let message = format!(
                "in resource {}, on {}: IP {} not found on this host",
                resource.name,
                host.name(),
                address.text
            );
            let help =
                "give the interface this address, correct it, or set 'disable-ip-verification;' in global";
            checker.error(address.span, message, help);
        }
    }
    checker.found
}

/// The host section is the one of `node` (drbd-admin 1.10).
pub fn is_local(config: &Config, host: &Host, node: &str, local_ips: Option<&[IpAddr]>) -> bool {
    match &host.kind {
        HostKind::On(names) if config.is_only9() => names.iter().any(|name| same_host_of_9(name, node)),
        HostKind::On(names) => names.iter().any(|name| name == node),
        HostKind::Floating => {
            let ip = host.address.as_ref().map(|a| a.ip);
            host.name() == node || ip.is_some_and(|ip| local_ips.is_some_and(|ips| ips.contains(&ip)))
        }
        HostKind::StackedOn(lower) => config.resource(lower).is_some_and(|lower| {
            lower.hosts.iter().any(|host| match host.kind {
                // A resource stacked on a stacked one would need a third level, which is not followed.
                HostKind::StackedOn(_) => false,
                HostKind::On(_) | HostKind::Floating => is_local(config, host, node, local_ips),
            })
        }),
    }
}

/// 9 ignores case, and takes a short name for a fully qualified one.
fn same_host_of_9(name: &str, node: &str) -> bool {
    let short = |s: &str| s.split('.').next().unwrap_or_default().to_ascii_lowercase();
    name.eq_ignore_ascii_case(node)
        || (name.contains('.') != node.contains('.') && short(name) == short(node))
}

impl Checker<'_> {
    fn resource(&mut self, resource: &Resource) {
        let volumes: Vec<Vec<Volume>> =
            resource.hosts.iter().map(|host| merge::host_volumes(resource, host, None)).collect();
        for (host, own) in resource.hosts.iter().zip(&volumes) {
            self.host(resource, host, own);
            self.uses_of_host(resource, host, own);
        }
        for (host, own) in resource.hosts.iter().zip(&volumes) {
            for (other, others) in resource.hosts.iter().zip(&volumes) {
                self.volumes_of_peer(resource, (host, own), (other, others));
            }
        }
        self.node_ids(resource);
        self.connection_hosts(resource);
        self.become_primary_on(resource);
        self.resync_after_exists(&resource.sections.disk);
        for volume in resource.volumes.iter().chain(resource.hosts.iter().flat_map(|h| &h.volumes)) {
            self.resync_after_exists(&volume.options);
        }
    }

    fn host(&mut self, resource: &Resource, host: &Host, volumes: &[Volume]) {
        if let HostKind::StackedOn(lower) = &host.kind
            && self.config.resource(lower).is_none()
        {
            let message = format!("in resource {}, referenced resource '{lower}' not defined", resource.name);
            self.error(host.span, message, &format!("define the resource {lower}, or correct its name"));
        }
        if volumes.iter().any(|v| v.implicit) && volumes.iter().any(|v| !v.implicit) {
            let message =
                format!("in resource {}: you must not mix implicit and explicit volumes", resource.name);
            self.error(host.span, message, "put device, disk and meta-disk into 'volume 0 { .. }'");
            return;
        }
        let only9 = self.config.is_only9();
        if host.address.is_none() && resource.connections.is_empty() {
            self.missing(resource, host, host.span, "address", "address 10.1.1.31:7789;");
        }
        if volumes.is_empty() {
            self.missing(resource, host, host.span, "device", "device /dev/drbd0;");
        }
        let stacked = matches!(host.kind, HostKind::StackedOn(_));
        for volume in volumes {
            let span = if volume.implicit { host.span } else { volume.span };
            if volume.device.is_none() {
                self.missing(resource, host, span, "device", "device /dev/drbd0;");
            }
            if volume.disk.is_none() && !stacked && !only9 {
                self.missing(resource, host, span, "disk", "disk /dev/vg0/name;");
            }
            if volume.meta_disk.is_none() && !stacked && !only9 {
                self.missing(resource, host, span, "meta-disk", "meta-disk internal;");
            }
        }
    }

    fn missing(&mut self, resource: &Resource, host: &Host, span: Span, keyword: &str, example: &str) {
        let message = format!(
            "in resource {}, {} {{ ... }}: '{keyword}' keyword missing",
            resource.name,
            section_name(host)
        );
        self.error(span, message, &format!("add a line like '{example}'"));
    }

    fn volumes_of_peer(
        &mut self,
        resource: &Resource,
        (host, own): (&Host, &[Volume]),
        (other, others): (&Host, &[Volume]),
    ) {
        for volume in own {
            if !others.iter().any(|v| v.number == volume.number) && !others.is_empty() {
                let message = format!(
                    "in resource {}, {} {{ ... }}: volume {} not defined on {}",
                    resource.name,
                    section_name(host),
                    volume.number,
                    other.name()
                );
                self.error(volume.span, message, "define the volume on both hosts");
            }
        }
    }

    /// Addresses, minors, disks and metadata slots that two sections want (drbd-admin 1.13).
    fn uses_of_host(&mut self, resource: &Resource, host: &Host, volumes: &[Volume]) {
        let names = merge::host_names(self.config, host);
        if let Some(address) = &host.address {
            self.use_of_address(resource, host, &names, address);
        }
        for name in &names {
            for volume in volumes {
                if let Some(device) = &volume.device {
                    let key = format!("device-minor:{name}:{}", device.minor);
                    self.use_once("device-minor", key, device.span, "choose another minor");
                }
                if let Some(path) = volume.disk.as_ref().and_then(|d| d.path.as_ref())
                    && let Some(disk) = &volume.disk
                {
                    self.use_of_disk(
                        format!("disk:{name}:{path}"),
                        Use { span: disk.span, inherited: disk.inherited },
                    );
                }
                if let Some(meta) = &volume.meta_disk
                    && let Some(path) = &meta.path
                {
                    match meta.index {
                        Some(index) => {
                            let key = format!("{name}:{path}[{index}]");
                            self.use_once("meta-disk", key, meta.span, "choose another index");
                        }
                        None => self.use_of_flexible(format!("{name}:{path}"), meta.span),
                    }
                }
            }
        }
    }

    fn use_of_address(&mut self, resource: &Resource, host: &Host, names: &[String], address: &Address) {
        if address.port == 0 {
            return;
        }
        let mut keys: Vec<String> =
            names.iter().map(|name| format!("IP:{name}:{}", address.ip_port())).collect();
        // Two hosts of one resource cannot share an address, unless each only talks to itself.
        if !address.ip.is_loopback() && host.proxy.is_none() {
            keys.push(format!("IP:{}/{}", resource.name, address.ip_port()));
        }
        let first = keys.iter().find_map(|key| self.uses.get(key)).copied();
        if let Some(first) = first {
            let message = format!("conflicting use of IP '{}'", address.ip_port());
            let help =
                format!("it was used first at {}; choose another port", self.config.file_line(first.span));
            self.error(address.span, message, &help);
        }
        for key in keys {
            self.uses.entry(key).or_insert(Use { span: address.span, inherited: false });
        }
    }

    fn use_once(&mut self, what: &str, key: String, span: Span, remedy: &str) {
        let name = format!("{what} '{key}'");
        if let Some(first) = self.uses.get(&name) {
            let help = format!("it was used first at {}; {remedy}", self.config.file_line(first.span));
            self.error(span, format!("conflicting use of {name}"), &help);
        } else {
            self.uses.insert(name, Use { span, inherited: false });
        }
    }

    /// 8.4 notices a disk used twice only if one of the two comes from the resource level.
    fn use_of_disk(&mut self, key: String, this: Use) {
        let Some(first) = self.uses.get(&key).copied() else {
            self.uses.insert(key, this);
            return;
        };
        let place = self.config.file_line(first.span);
        let message = format!("conflicting use of disk '{key}'");
        if this.inherited || first.inherited {
            self.error(this.span, message, &format!("it was used first at {place}; choose another disk"));
        } else {
            self.warning(
                this.span,
                message,
                &format!("it is also used at {place}; both would destroy each other"),
            );
        }
    }

    fn use_of_flexible(&mut self, name: String, span: Span) {
        let key = format!("flexible '{name}'");
        let Some(first) = self.uses.get(&key).copied() else {
            self.uses.insert(key, Use { span, inherited: false });
            return;
        };
        let place = self.config.file_line(first.span);
        let help = format!("it is also used at {place}; write an index, as in 'meta-disk /dev/md [0];'");
        self.warning(span, format!("conflicting use of meta-disk '{name}'"), &help);
    }

    fn node_ids(&mut self, resource: &Resource) {
        let given = resource.hosts.iter().filter(|h| h.node_id.is_some()).count();
        let needed = given > 0 || (resource.hosts.len() > 2 && !resource.connections.is_empty());
        for (at, host) in resource.hosts.iter().enumerate() {
            match host.node_id {
                None if needed => self.missing(resource, host, host.span, "node-id", "node-id 0;"),
                Some(id) if resource.hosts[..at].iter().any(|h| h.node_id == Some(id)) => {
                    let message = format!("conflicting use of node-id '{}:{id}'", resource.name);
                    self.error(host.span, message, "give each host its own number from 0 to 31");
                }
                Some(_) | None => {}
            }
        }
    }

    fn connection_hosts(&mut self, resource: &Resource) {
        for connection in &resource.connections {
            for named in connection.hosts.iter().chain(connection.paths.iter().flatten()) {
                if !resource.hosts.iter().any(|host| host.is_named(&named.name)) {
                    let kind = if connection.mesh { "connection-mesh" } else { "connection" };
                    let message = format!(
                        "in resource {}: there is no 'on' section for hostname '{}' named in the {kind}",
                        resource.name, named.name
                    );
                    self.error(named.span, message, "add the host section, or correct the name");
                }
            }
        }
    }

    fn become_primary_on(&mut self, resource: &Resource) {
        let merged = merge::sections(self.config, resource);
        let Some(entry) = merged.startup.iter().find(|e| e.def.name == "become-primary-on") else { return };
        if entry.values.iter().any(|v| v == "both") {
            let two = merged.net.iter().find(|e| e.def.name == "allow-two-primaries");
            if two.is_none_or(|e| e.value() != "yes") {
                let message = format!(
                    "in resource {}: become-primary-on is set to both, but allow-two-primaries is not set",
                    resource.name
                );
                self.error(entry.span, message, "set 'net { allow-two-primaries yes; }', or name one host");
            }
            return;
        }
        for name in &entry.values {
            let known = resource
                .hosts
                .iter()
                .any(|h| h.is_named(name) || merge::host_names(self.config, h).contains(name));
            if !known {
                let message = format!(
                    "in resource {}: become-primary-on contains '{name}', which is not named with the 'on' sections",
                    resource.name
                );
                self.error(entry.value_span, message, "name a host that has a section in this resource");
            }
        }
    }

    fn resync_after_exists(&mut self, disk: &[Entry]) {
        for entry in disk.iter().filter(|e| e.def.name == "resync-after") {
            let name = resync_after_parts(entry.value()).0;
            if self.config.resource(name).is_none() {
                let message = format!("resource '{name}' mentioned in 'resync-after' option is not known");
                self.warning(
                    entry.value_span,
                    message,
                    "the option is ignored; name a resource, or RESOURCE/VOLUME",
                );
            }
        }
    }

    fn error(&mut self, span: Span, message: String, help: &str) {
        self.push(span, Severity::Error, message, help);
    }

    fn warning(&mut self, span: Span, message: String, help: &str) {
        self.push(span, Severity::Warning, message, help);
    }

    fn push(&mut self, span: Span, severity: Severity, message: String, help: &str) {
        if self.found.len() < FOUND_MAX {
            self.found
                .push(Diagnostic::at(&self.config.sources, span, severity, message).help(help.to_string()));
        }
    }
}

/// So many messages are told.
const FOUND_MAX: usize = 200;

/// The section as messages call it.
fn section_name(host: &Host) -> String {
    match &host.kind {
        HostKind::On(_) => format!("on {}", host.name()),
        HostKind::Floating => format!("floating {}", host.name()),
        HostKind::StackedOn(lower) => format!("stacked-on-top-of {lower}"),
    }
}

/// `RESOURCE/VOLUME` or `RESOURCE` of `resync-after`.
pub(super) fn resync_after_parts(value: &str) -> (&str, Option<&str>) {
    match value.rsplit_once('/') {
        Some((resource, volume)) => (resource, Some(volume)),
        None => (value, None),
    }
}
