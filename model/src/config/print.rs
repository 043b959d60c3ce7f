//! `dump`: the configuration as text, in the form of 8.4, or of 9 if something in it is known to 9 only
//! (drbd-admin 1.15).

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::ast::{
    Config, Connection, ConnectionHost, Endpoint, Entry, Host, HostKind, HostProxy, ProxyOptions, Resource,
    Sections, Volume,
};
use super::check::is_local;
use super::lexer::{WORD_LEN_MAX, is_number_token, is_word_byte};
use super::merge;
use super::node_id;
use super::parse::is_keyword;
use crate::options::{self, Kind, Section, Unit};

/// What `dump` shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct DumpOptions<'a> {
    /// With everything inherited (`-d`, `-v`).
    pub expanded: bool,
    /// Only these resources, and neither header nor `global` and `common`; names that are not in the
    /// configuration are skipped.
    pub resources: Option<&'a [&'a str]>,
}

/// The text of `drbdadm dump` on host `node` with the addresses `local_ips`.
pub fn dump(config: &Config, node: &str, local_ips: Option<&[IpAddr]>, what: DumpOptions<'_>) -> String {
    let mut printer = Printer { config, out: String::new(), level: 0, expanded: what.expanded };
    match what.resources {
        None => {
            printer.line(&format!("# {}", config.file));
            printer.global();
            printer.common();
            for resource in &config.resources {
                printer.resource(resource, node, local_ips);
            }
        }
        Some(names) => {
            for resource in names.iter().filter_map(|name| config.resource(name)) {
                printer.resource(resource, node, local_ips);
            }
        }
    }
    printer.out
}

/// Quotes a value that is not a plain unquoted string.
pub fn quote(value: &str) -> Cow<'_, str> {
    if !value.is_empty() && value.len() <= WORD_LEN_MAX && value.bytes().all(is_word_byte) {
        return Cow::Borrowed(value);
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// [`quote`] for names, which must not look like a keyword or a number either.
fn quote_name(name: &str) -> Cow<'_, str> {
    if is_keyword(name) || is_number_token(name) { Cow::Owned(format!("\"{name}\"")) } else { quote(name) }
}

/// Values begin in this column, names are padded up to it.
const VALUE_COLUMN: usize = 24;

struct Printer<'a> {
    config: &'a Config,
    out: String,
    level: usize,
    expanded: bool,
}

impl Printer<'_> {
    fn line(&mut self, text: &str) {
        self.out.extend(core::iter::repeat_n("    ", self.level));
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        self.line(&format!("{head} {{"));
        self.level += 1;
        body(self);
        self.level -= 1;
        self.line("}");
    }

    /// Blocks at the top level are followed by an empty line.
    fn top_block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        self.block(head, body);
        self.out.push('\n');
    }

    /// `name   value;` with the value in its column.
    fn statement(&mut self, name: &str, value: &str) {
        let width = VALUE_COLUMN - (4 * self.level).min(VALUE_COLUMN);
        self.line(&format!("{name:width$} {value};"));
    }

    /// The same with a column that does not depend on the level, as the original has it in places.
    fn wide_statement(&mut self, name: &str, value: &str) {
        self.line(&format!("{name:16} {value};"));
    }

    fn global(&mut self) {
        let mut lines = Vec::new();
        for def in options::OPTIONS.iter().filter(|d| d.section == Section::Global) {
            let entry = self.config.global.iter().find(|e| e.def == def);
            // drbd-admin 1.15: 8.4 always prints these two, and never `udev-always-use-vnr`.
            let always =
                matches!(def.name, "cmd-timeout-medium" | "cmd-timeout-long") && !self.config.is_only9();
            match (def.kind, entry) {
                (Kind::Word, Some(_)) if def.name != "udev-always-use-vnr" || self.config.is_only9() => {
                    lines.push(format!("{};", def.name));
                }
                (Kind::Number(number), entry) => {
                    let value = entry
                        .and_then(|e| options::parse_number(e.value(), Unit::One).ok())
                        .unwrap_or(number.default);
                    if value != number.default || always {
                        lines.push(format!("{} {value};", def.name));
                    }
                }
                (Kind::Enum(_, default), Some(entry)) if entry.value() != default => {
                    lines.push(format!("{} {};", def.name, entry.value()));
                }
                _ => {}
            }
        }
        if !lines.is_empty() {
            self.top_block("global", |p| lines.iter().for_each(|line| p.line(line)));
        }
    }

    fn common(&mut self) {
        let common = &self.config.common;
        if *common != Sections::default() {
            self.top_block("common", |p| p.sections(common));
        }
    }

    fn sections(&mut self, sections: &Sections) {
        self.section("options", &sections.options);
        self.section("net", &sections.net);
        self.section("disk", &sections.disk);
        self.section("startup", &sections.startup);
        if !sections.proxy.is_empty() {
            self.block("proxy", |p| p.proxy_options(&sections.proxy));
        }
        self.section("handlers", &sections.handlers);
    }

    fn section(&mut self, name: &str, entries: &[Entry]) {
        if !entries.is_empty() {
            self.block(name, |p| entries.iter().for_each(|entry| p.entry(entry)));
        }
    }

    fn entry(&mut self, entry: &Entry) {
        match entry.def.kind {
            Kind::Word => self.line(&format!("{};", entry.def.name)),
            Kind::Words => {
                let words: Vec<_> = entry.values.iter().map(|v| quote_name(v)).collect();
                self.statement(entry.def.name, &words.join(" "));
            }
            Kind::Flag(_)
            | Kind::Number(_)
            | Kind::Enum(..)
            | Kind::Text(_)
            | Kind::Quorum
            | Kind::Dropped => {
                self.statement(entry.def.name, &format!("{:>3}", quote(entry.value())));
            }
        }
    }

    fn proxy_options(&mut self, proxy: &ProxyOptions) {
        proxy.options.iter().for_each(|entry| self.entry(entry));
        if let Some(lines) = &proxy.plugins {
            self.block("plugin", |p| {
                for line in lines {
                    let words: Vec<_> = line.iter().map(|w| quote(w)).collect();
                    p.line(&format!("{};", words.join(" ")));
                }
            });
        }
    }

    fn resource(&mut self, resource: &Resource, node: &str, local_ips: Option<&[IpAddr]>) {
        let name = quote_name(&resource.name);
        let local = resource.hosts.iter().find(|host| is_local(self.config, host, node, local_ips));
        let ignored = if local.is_some() { "not ignored" } else { "ignored" };
        let is_stacked = local.is_some_and(|host| matches!(host.kind, HostKind::StackedOn(_)));
        let stacked = if is_stacked { "stacked" } else { "not stacked" };
        self.line(&format!("# resource {name} on {node}: {ignored}, {stacked}"));
        self.line(&format!("# defined at {}", self.config.file_line(resource.span)));
        let merged = merge::sections(self.config, resource);
        let shown = if self.expanded { &merged } else { &resource.sections };
        self.top_block(&format!("resource {name}"), |p| {
            if p.config.is_only9() {
                p.volumes_and_template(resource);
            }
            for host in &resource.hosts {
                p.host(resource, host, &merged);
            }
            for connection in &resource.connections {
                p.connection(connection, &merged);
            }
            p.sections(shown);
        });
    }

    /// What 9 keeps on resource level; 8.4 writes it into the hosts.
    fn volumes_and_template(&mut self, resource: &Resource) {
        if let Some(template) = &resource.template {
            self.line(&format!("template-file {};", quote(&template.file)));
        }
        resource.volumes.iter().for_each(|volume| self.volume(volume, false));
    }

    fn host(&mut self, resource: &Resource, host: &Host, merged: &Sections) {
        let head = match &host.kind {
            HostKind::On(names) => {
                let names: Vec<_> = names.iter().map(|n| quote_name(n)).collect();
                format!("on {}", names.join(" "))
            }
            HostKind::Floating => {
                format!("floating {}", host.address.as_ref().map_or(String::new(), |a| format!("{a}")))
            }
            HostKind::StackedOn(lower) => format!("stacked-on-top-of {}", quote_name(lower)),
        };
        self.block(&head, |p| p.host_body(resource, host, merged));
    }

    fn host_body(&mut self, resource: &Resource, host: &Host, merged: &Sections) {
        let stacked = matches!(host.kind, HostKind::StackedOn(_));
        if stacked {
            let names = merge::host_names(self.config, host);
            self.line(&format!("# on {} ", names.join(" ")));
        }
        if let Some(id) = node_id::of_host(self.config, resource, host) {
            self.line(&format!("node-id {id};"));
        }
        self.section("options", &host.options);
        let disk = self.expanded.then_some(&merged.disk[..]);
        let volumes = if self.config.is_only9() {
            let own = Resource { volumes: Vec::new(), ..resource.clone() };
            merge::host_volumes(&own, host, disk)
        } else {
            merge::host_volumes(resource, host, disk)
        };
        for volume in &volumes {
            self.volume(volume, self.expanded && !stacked);
        }
        if let Some(address) = host.address.as_ref().filter(|_| host.kind != HostKind::Floating) {
            self.statement("address", &format!("{address}"));
        }
        if let Some(address) = &host.alternate {
            self.wide_statement("alternate-link-address", &format!("{address}"));
        }
        if let Some(proxy) = &host.proxy {
            self.host_proxy(proxy, merged);
        }
    }

    fn host_proxy(&mut self, proxy: &HostProxy, merged: &Sections) {
        let names: Vec<_> = proxy.names.iter().map(|n| quote_name(n)).collect();
        let mut options = proxy.options.clone();
        if self.expanded {
            merge::inherit(&mut options.options, &merged.proxy.options);
            options.plugins = options.plugins.or_else(|| merged.proxy.plugins.clone());
        }
        self.block(&format!("proxy on {}", names.join(" ")), |p| {
            for (name, address) in [("inside", &proxy.inside), ("outside", &proxy.outside)] {
                if let Some(address) = address {
                    p.wide_statement(name, &format!("{address}"));
                }
            }
            if !options.is_empty() {
                p.block("options", |p| p.proxy_options(&options));
            }
        });
    }

    fn volume(&mut self, volume: &Volume, with_node: bool) {
        if volume.implicit {
            self.volume_body(volume, with_node);
        } else {
            self.block(&format!("volume {}", volume.number), |p| p.volume_body(volume, with_node));
        }
    }

    fn volume_body(&mut self, volume: &Volume, with_node: bool) {
        self.section("disk", &volume.options);
        if let Some(device) = &volume.device {
            let minor = format!("minor {}", device.minor);
            let value = match &device.node {
                Some(node) => format!("{} {minor}", quote(node)),
                None if with_node => format!("{} {minor}", device.node_or_default()),
                None => minor,
            };
            self.statement("device", &value);
        }
        if let Some(disk) = &volume.disk {
            self.statement(
                "disk",
                &disk.path.as_ref().map_or(Cow::Borrowed("none"), |path| quote_name(path)),
            );
        }
        match &volume.meta_disk {
            None => {}
            Some(meta) => match (&meta.path, meta.index) {
                (None, _) => self.statement("meta-disk", "internal"),
                (Some(path), None) => self.wide_statement("meta-disk", &quote_name(path)),
                (Some(path), Some(index)) => {
                    self.wide_statement("meta-disk", &format!("{} [{index}]", quote_name(path)));
                }
            },
        }
    }

    fn connection(&mut self, connection: &Connection, merged: &Sections) {
        let connection =
            if self.expanded { merge::connection(connection, merged) } else { connection.clone() };
        let head = if connection.mesh { "connection-mesh" } else { "connection" };
        self.block(head, |p| {
            if connection.mesh {
                let names: Vec<_> = connection.hosts.iter().map(|h| quote_name(&h.name)).collect();
                p.line(&format!("hosts {};", names.join(" ")));
            } else {
                connection.hosts.iter().for_each(|host| p.connection_host(host, merged));
            }
            for path in &connection.paths {
                p.block("path", |p| path.iter().for_each(|host| p.connection_host(host, merged)));
            }
            p.section("net", &connection.net);
            p.section("disk", &connection.disk);
            for volume in &connection.volumes {
                p.block(&format!("volume {}", volume.number), |p| p.section("disk", &volume.options));
            }
        });
    }

    fn connection_host(&mut self, host: &ConnectionHost, merged: &Sections) {
        let name = quote_name(&host.name);
        let mut line = match &host.endpoint {
            Endpoint::Inherited => format!("host {name}"),
            Endpoint::Port(port) => format!("host {name} port {port}"),
            // The indentation in the middle is what the original prints.
            Endpoint::Address(address) => {
                format!("host {name} {:1$}address         {address}", "", 4 * self.level)
            }
        };
        match &host.proxy {
            None => {
                line.push(';');
                self.line(&line);
            }
            Some(proxy) => {
                line.push_str(" via");
                self.line(&line);
                self.host_proxy(proxy, merged);
            }
        }
    }
}
