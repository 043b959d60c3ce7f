//! Statements to settings: the top level, and what all blocks share (failover 6.2).

mod addresses;
mod globals;
mod heartbeat;
mod instance;
mod mail;
mod service;
mod track;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::check;
use super::config::{FailoverConfig, Service, SyncGroup, Tracker, VirtualServer, VrrpInstance};
use super::keywords::{Place, TOP};
use super::keywords_lvs::VIRTUAL_SERVER;
use super::lexer::Word;
use super::messages::Messages;
use super::read;
use super::tree::Statement;
use super::value::{self, Value, entries, filled};
use crate::config::source::Span;
use crate::config::{Diagnostic, Loader};
use globals::Defaults;
pub(super) use globals::{ANNOUNCE, GROUPS, LEASE_PREFIX, LEASE_TTL};
pub(super) use heartbeat::{directive as heartbeat_directive, key as heartbeat_key};
pub(super) use service::{PROMOTE_TIMEOUT, RELEASE_TIMEOUT, STEP_TIMEOUT, default_name};

/// A configuration that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What it says.
    pub config: FailoverConfig,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

/// Reads `path` and what it includes, parses and checks it. `id` is what lines that begin with `@` are compared with
/// (keepalived's `-i`): without one, lines for a certain id are skipped, and lines for all but one are read.
///
/// # Errors
/// All messages, warnings included, if at least one is an error.
pub fn load(loader: &dyn Loader, path: &str, id: Option<&str>) -> Result<Loaded, Vec<Diagnostic>> {
    let mut messages = Messages::default();
    let statements = read::read(loader, path, id, &mut messages);
    let mut draft = Draft::default();
    draft.file(&statements, &mut messages);
    let config = check::finish(draft, &mut messages);
    Ok(Loaded { config, warnings: messages.finish()? })
}

/// What can be named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// A `vrrp_instance`.
    Instance,
    /// A `vrrp_sync_group`.
    Group,
    /// A `vrrp_script`.
    Script,
    /// A `track_file`.
    File,
    /// A `vrrp_track_process`.
    Process,
    /// A `service`.
    Service,
    /// A `virtual_server_group`.
    ServerGroup,
}

impl Kind {
    /// As messages call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Instance => "vrrp_instance",
            Kind::Group => "vrrp_sync_group",
            Kind::Script => "vrrp_script",
            Kind::File => "track_file",
            Kind::Process => "vrrp_track_process",
            Kind::Service => "service",
            Kind::ServerGroup => "virtual_server_group",
        }
    }
}

/// A tracker whose target is not known yet, and with it what it leaves to that.
#[derive(Clone, Debug)]
pub(super) struct TrackerDraft {
    /// With a weight of zero if none is said.
    pub(super) tracker: Tracker,
    /// It said a weight.
    pub(super) has_weight: bool,
    /// It said whether it is reversed.
    pub(super) has_reverse: bool,
    /// Where it stands.
    pub(super) span: Span,
}

/// An instance with the places that checks speak of.
#[derive(Clone, Debug)]
pub(super) struct InstanceDraft {
    /// Without its trackers.
    pub(super) instance: VrrpInstance,
    pub(super) trackers: Vec<TrackerDraft>,
    pub(super) id_span: Span,
    pub(super) priority_span: Span,
}

/// A group with the places of its members.
#[derive(Clone, Debug)]
pub(super) struct GroupDraft {
    /// Without its trackers.
    pub(super) group: SyncGroup,
    pub(super) trackers: Vec<TrackerDraft>,
    pub(super) name_span: Span,
    pub(super) member_spans: Vec<Span>,
}

/// A service with the places of what it names.
#[derive(Clone, Debug)]
pub(super) struct ServiceDraft {
    pub(super) service: Service,
    /// `proof`, if it is said, and where.
    pub(super) proof_span: Option<Span>,
    pub(super) name_span: Span,
    pub(super) resource_span: Span,
    pub(super) instance_spans: Vec<Span>,
}

/// What was parsed, before names are looked up.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The parts that name nothing.
    pub(super) config: FailoverConfig,
    pub(super) instances: Vec<InstanceDraft>,
    pub(super) groups: Vec<GroupDraft>,
    pub(super) services: Vec<ServiceDraft>,
    /// Every name, also of what was refused, so that one mistake gives one message.
    pub(super) names: BTreeMap<(Kind, String), Span>,
    /// `virtual_server group NAME`: name and place.
    pub(super) server_groups_used: Vec<(String, Span)>,
    /// What asks for mails first.
    mails_span: Option<Span>,
    /// Where the block `heartbeat` stands.
    heartbeat_span: Option<Span>,
    defaults: Defaults,
}

impl Draft {
    fn file(&mut self, statements: &[Statement], messages: &mut Messages) {
        let entries = entries(&TOP, statements, messages);
        // The globals are the defaults of all else, wherever they stand.
        for entry in entries.iter().filter(|e| e.name == "global_defs") {
            self.globals(entry.statement, messages);
        }
        for entry in entries {
            let statement = entry.statement;
            match entry.name {
                "vrrp_instance" => self.instance(statement, messages),
                "vrrp_sync_group" => self.group(statement, messages),
                "vrrp_script" => self.script(statement, messages),
                "track_file" => self.track_file(statement, messages),
                "vrrp_track_process" => self.process(statement, messages),
                "heartbeat" => self.heartbeat(statement, messages),
                "service" => self.service(statement, messages),
                "virtual_server" => self.virtual_server(statement, messages),
                "virtual_server_group" => self.virtual_server_group(statement, messages),
                "global_defs" => {}
                name => unexpected(name),
            }
        }
    }

    /// The name behind a keyword, which is taken with it. `None` if there is none, or if it is taken already.
    fn name(&mut self, kind: Kind, statement: &Statement, messages: &mut Messages) -> Option<(String, Span)> {
        if !value::number_of_words(kind.name(), statement, 1, 1, messages) {
            return None;
        }
        let word = filled(statement.arguments().first()?, messages)?;
        if statement.body.is_none() {
            let message = format!("{} {} has no block", kind.name(), word.text);
            messages.error(word.span, message, "write '{' behind its name, and '}' at its end");
        }
        self.take_name(kind, word.text.clone(), word.span, messages)?;
        Some((word.text.clone(), word.span))
    }

    fn take_name(&mut self, kind: Kind, name: String, span: Span, messages: &mut Messages) -> Option<()> {
        if let Some(first) = self.names.get(&(kind, name.clone())) {
            let message = format!("there are two of {} {name}", kind.name());
            let help = format!("the first is at {}; give each its own name", messages.file_line(*first));
            messages.error(span, message, help);
            return None;
        }
        self.names.insert((kind, name), span);
        Some(())
    }

    fn virtual_server(&mut self, statement: &Statement, messages: &mut Messages) {
        let words = statement.arguments();
        let span = statement.span();
        match words {
            [kind, mark] if kind.is("fwmark") => {
                if value::int("fwmark", mark, 1, i64::from(u32::MAX), messages).is_none() {
                    return;
                }
            }
            [kind, name] if kind.is("group") => {
                self.server_groups_used.push((name.text.clone(), name.span));
            }
            [address, rest @ ..] if rest.len() <= 1 => {
                if value::address(address, messages).is_none() {
                    return;
                }
                if let Some(port) = rest.first()
                    && value::int("port", port, 1, 65_535, messages).is_none()
                {
                    return;
                }
            }
            _ => {
                let help = "write 'virtual_server ADDRESS PORT', '... fwmark N' or '... group NAME'";
                return messages.error(span, "a virtual server has an address and a port", help);
            }
        }
        check_only(&VIRTUAL_SERVER, statement.block(), messages);
        let real_servers = statement.block().iter().filter(|s| s.keyword() == "real_server").count();
        let name = value::joined(words);
        self.config.virtual_servers.push(VirtualServer { name, real_servers });
    }

    fn virtual_server_group(&mut self, statement: &Statement, messages: &mut Messages) {
        if self.name(Kind::ServerGroup, statement, messages).is_none() {
            return;
        }
        for line in statement.block() {
            group_line(&line.words, line.span(), messages);
        }
    }
}

/// A line of `virtual_server_group`: an address or a range of them with a port, or a mark.
fn group_line(words: &[Word], span: Span, messages: &mut Messages) {
    let (first, rest) = match words {
        [first, rest @ ..] if rest.len() <= 2 => (first, rest),
        _ => {
            return messages.error(
                span,
                "this line has too many words",
                "write 'ADDRESS PORT' or 'fwmark N'",
            );
        }
    };
    if first.is("fwmark") {
        match rest {
            [mark, ..] => drop(value::int("fwmark", mark, 1, i64::from(u32::MAX), messages)),
            [] => messages.error(span, "'fwmark' needs a value", "write 'fwmark N'"),
        }
        return;
    }
    let start = first.text.split(['-', '/']).next().unwrap_or_default();
    if start.parse::<core::net::IpAddr>().is_err() {
        let help = "write an address, a range like 192.0.2.1-9 or 192.0.2.8/29, or 'fwmark N'";
        messages.error(first.span, format!("'{}' is not an address", first.text), help);
    }
    if let Some(port) = rest.first() {
        value::int("port", port, 1, 65_535, messages);
    }
}

/// Checks keywords and values of a block whose content nothing here needs.
fn check_only(place: &'static Place, block: &[Statement], messages: &mut Messages) {
    for entry in entries(place, block, messages) {
        if let Value::Block(place, block) = entry.value {
            check_only(place, block, messages);
        }
    }
}

/// A keyword of the table that no code waits for: the tables and the code were changed apart.
fn unexpected(name: &str) {
    debug_assert!(false, "{name} is in the table, but not in the code");
}
