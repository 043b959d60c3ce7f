//! A configuration as written: every statement with its place, nothing merged.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};

use super::diagnostic::Diagnostic;
use super::source::{Sources, Span};
use crate::options::{OptionDef, Section};

/// A whole configuration: all files.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The files it was read from; spans refer to them.
    pub sources: Sources,
    /// Name of the first file, absolute.
    pub file: String,
    /// The `global` section.
    pub global: Vec<Entry>,
    /// The `common` section.
    pub common: Sections,
    /// All resources in file order.
    pub resources: Vec<Resource>,
    /// Where the first construct stands that only 9 knows; `dump` then takes the form of 9.
    pub first_only9: Option<Span>,
    /// What was accepted but deserves a word.
    pub warnings: Vec<Diagnostic>,
}

impl Config {
    /// The resource of that name.
    pub fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| r.name == name)
    }

    /// Some construct is known to 9 only.
    pub fn is_only9(&self) -> bool {
        self.first_only9.is_some()
    }

    /// `FILE:LINE` of a place.
    pub fn file_line(&self, span: Span) -> String {
        alloc::format!("{}:{}", self.sources.name(span.file), self.sources.line(span))
    }
}

/// One option as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Which option; aliases and legacy places are already resolved.
    pub def: &'static OptionDef,
    /// Its value: one word as a rule, none for a bare keyword, several for `become-primary-on`.
    /// Flags are stored as `yes` or `no`.
    pub values: Vec<String>,
    /// The name.
    pub span: Span,
    /// The (first) value; the name if there is none.
    pub value_span: Span,
}

impl Entry {
    /// The first value, or nothing.
    pub fn value(&self) -> &str {
        self.values.first().map_or("", String::as_str)
    }
}

/// The option sections that `common`, a resource or a connection can have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sections {
    /// `options`.
    pub options: Vec<Entry>,
    /// `net`.
    pub net: Vec<Entry>,
    /// `disk`.
    pub disk: Vec<Entry>,
    /// `startup`.
    pub startup: Vec<Entry>,
    /// `handlers`.
    pub handlers: Vec<Entry>,
    /// `proxy`.
    pub proxy: ProxyOptions,
}

impl Sections {
    /// The list of a section; `global` and `proxy` are kept elsewhere.
    pub fn list_mut(&mut self, section: Section) -> &mut Vec<Entry> {
        match section {
            Section::Options => &mut self.options,
            Section::Net => &mut self.net,
            Section::Disk => &mut self.disk,
            Section::Startup => &mut self.startup,
            Section::Handlers => &mut self.handlers,
            Section::Proxy => &mut self.proxy.options,
            Section::Global => unreachable!("global options have a list of their own"),
        }
    }
}

/// Options of DRBD Proxy: kept for `dump`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProxyOptions {
    /// `memlimit` and so on.
    pub options: Vec<Entry>,
    /// Lines of `plugin { .. }`, each a list of words; `None` without that block.
    pub plugins: Option<Vec<Vec<String>>>,
}

impl ProxyOptions {
    /// Nothing written.
    pub fn is_empty(&self) -> bool {
        self.options.is_empty() && self.plugins.is_none()
    }
}

/// A resource as written.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// The keyword `resource`.
    pub span: Span,
    /// Option sections.
    pub sections: Sections,
    /// Volumes on resource level.
    pub volumes: Vec<Volume>,
    /// Host sections in file order.
    pub hosts: Vec<Host>,
    /// `connection` and `connection-mesh` sections in file order (9).
    pub connections: Vec<Connection>,
    /// `template-file` (9): replaces `common` for this resource.
    pub template: Option<Template>,
}

/// `template-file` and what the file says.
#[derive(Clone, Debug)]
pub struct Template {
    /// Name of the file, absolute.
    pub file: String,
    /// Its `common` section.
    pub common: Sections,
}

/// How a host section names its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// `on NAME NAME..`.
    On(Vec<String>),
    /// `floating ADDRESS`.
    Floating,
    /// `stacked-on-top-of RESOURCE`.
    StackedOn(String),
}

/// A host section as written.
#[derive(Clone, Debug)]
pub struct Host {
    /// Which host.
    pub kind: HostKind,
    /// The keyword.
    pub span: Span,
    /// `node-id` (9).
    pub node_id: Option<u8>,
    /// `options` of the host: kept for `dump`, without effect (as in 8.4).
    pub options: Vec<Entry>,
    /// Volumes of this host.
    pub volumes: Vec<Volume>,
    /// Where it listens.
    pub address: Option<Address>,
    /// `alternate-link-address`: kept, without effect.
    pub alternate: Option<Address>,
    /// `proxy on`.
    pub proxy: Option<HostProxy>,
}

impl Host {
    /// Name for people, and what `connection` sections call it.
    pub fn name(&self) -> String {
        match &self.kind {
            HostKind::On(names) => names.join(" "),
            HostKind::Floating => self.address.as_ref().map_or(String::new(), Address::ip_port),
            HostKind::StackedOn(lower) => lower.clone(),
        }
    }

    /// The section is for the host of that name.
    pub fn is_named(&self, name: &str) -> bool {
        match &self.kind {
            HostKind::On(names) => names.iter().any(|n| n == name),
            HostKind::Floating => self.name() == name,
            HostKind::StackedOn(_) => false,
        }
    }
}

/// `proxy on` of a host: kept for `dump`.
#[derive(Clone, Debug, Default)]
pub struct HostProxy {
    /// Hosts it runs on.
    pub names: Vec<String>,
    /// Where the own node connects to.
    pub inside: Option<Address>,
    /// Where the other proxy connects to.
    pub outside: Option<Address>,
    /// Its options.
    pub options: ProxyOptions,
}

/// A volume as written, on resource, host or connection level.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its number.
    pub number: u16,
    /// Written without a `volume` block (then 0).
    pub implicit: bool,
    /// The keyword, or the first statement of an implicit volume.
    pub span: Span,
    /// `device`.
    pub device: Option<Device>,
    /// `disk NAME`.
    pub disk: Option<Backing>,
    /// `meta-disk`.
    pub meta_disk: Option<Meta>,
    /// `disk { .. }`.
    pub options: Vec<Entry>,
}

/// `device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Minor number.
    pub minor: u32,
    /// Device node, with `/dev/`, if given.
    pub node: Option<String>,
    /// The statement.
    pub span: Span,
}

impl Device {
    /// The device node, by the minor if none is given.
    pub fn node_or_default(&self) -> String {
        self.node.clone().unwrap_or_else(|| alloc::format!("/dev/drbd{}", self.minor))
    }
}

/// `disk NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Path; `None` for `disk none` (9).
    pub path: Option<String>,
    /// The path.
    pub span: Span,
    /// Came from the volume on resource level.
    pub inherited: bool,
}

/// `meta-disk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Path of an external device; `None` = internal.
    pub path: Option<String>,
    /// Slot on that device; `None` = the whole device.
    pub index: Option<u32>,
    /// The statement.
    pub span: Span,
}

/// Family of an address (drbd-admin 1.12).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// `ipv4`.
    Ipv4,
    /// `ipv6`.
    Ipv6,
    /// `sdp`.
    Sdp,
    /// `ssocks`, also written `sci`.
    Ssocks,
}

impl Family {
    /// The keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
            Family::Sdp => "sdp",
            Family::Ssocks => "ssocks",
        }
    }

    /// The family with this keyword.
    pub fn from_name(name: &str) -> Option<Family> {
        match name {
            "ipv4" => Some(Family::Ipv4),
            "ipv6" => Some(Family::Ipv6),
            "sdp" => Some(Family::Sdp),
            "ssocks" | "sci" => Some(Family::Ssocks),
            _ => None,
        }
    }
}

/// An address as written. `Display` gives the form of `dump`, `ipv4 10.1.1.31:7789`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Address family.
    pub family: Family,
    /// The IP address.
    pub ip: IpAddr,
    /// The IP address as written, with `%SCOPE`.
    pub text: String,
    /// Port, 1..=65535 (0 after an error).
    pub port: u16,
    /// The statement.
    pub span: Span,
}

impl Address {
    /// The socket address; the scope is lost.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// `10.1.1.31:7789`.
    pub fn ip_port(&self) -> String {
        match self.family {
            Family::Ipv6 => alloc::format!("[{}]:{}", self.text, self.port),
            Family::Ipv4 | Family::Sdp | Family::Ssocks => alloc::format!("{}:{}", self.text, self.port),
        }
    }

    /// The form of command lines, `ipv4:10.1.1.31:7789`.
    pub fn colon_form(&self) -> String {
        alloc::format!("{}:{}", self.family.name(), self.ip_port())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family.name(), self.ip_port())
    }
}

/// `connection` or `connection-mesh` (9).
#[derive(Clone, Debug)]
pub struct Connection {
    /// The keyword.
    pub span: Span,
    /// `connection-mesh`: the hosts are `hosts`, there are no paths.
    pub mesh: bool,
    /// Hosts of the connection itself.
    pub hosts: Vec<ConnectionHost>,
    /// `path` sections.
    pub paths: Vec<Vec<ConnectionHost>>,
    /// `net`.
    pub net: Vec<Entry>,
    /// `disk`.
    pub disk: Vec<Entry>,
    /// `volume N { disk { .. } }`.
    pub volumes: Vec<Volume>,
}

/// `host NAME ..` in a connection or a path.
#[derive(Clone, Debug)]
pub struct ConnectionHost {
    /// Which host.
    pub name: String,
    /// The name.
    pub span: Span,
    /// Its address for this connection.
    pub endpoint: Endpoint,
    /// `via proxy on`.
    pub proxy: Option<HostProxy>,
}

/// Address of a host in a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// That of the host section.
    Inherited,
    /// The IP of the host section with this port.
    Port(u16),
    /// This one.
    Address(Address),
}
