//! `service`: storage, what runs on it and its addresses as one unit (failover 8.1 and 8.5).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use super::{Draft, Kind, ServiceDraft, unexpected};
use crate::config::source::Span;
use crate::failover::config::{Command, Proof, Service, Step, StepKind};
use crate::failover::keywords::{MOUNT, SERVICE, START};
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::tree::Statement;
use crate::failover::value::{Value, command, entries, filled};

/// How long a step may take if nothing is said.
pub(in crate::failover) const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long fencing and promotion may take if nothing is said.
pub(in crate::failover) const PROMOTE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a home without its right waits if nothing is said.
pub(in crate::failover) const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the names of systemd's units end in, as far as one can be started.
const UNIT_SUFFIXES: &[&str] =
    &["service", "socket", "target", "mount", "automount", "timer", "path", "slice", "scope", "swap"];

impl Draft {
    pub(super) fn service(&mut self, statement: &Statement, messages: &mut Messages) {
        let Some((name, name_span)) = self.name(Kind::Service, statement, messages) else { return };
        let mut resource: Option<&Word> = None;
        let mut proof: Option<(Proof, Span)> = None;
        let mut nothing: Option<Span> = None;
        let mut instance_spans = Vec::new();
        let mut service = Service {
            name,
            resource: String::new(),
            instances: Vec::new(),
            steps: Vec::new(),
            preferred_node: None,
            failback: false,
            proof: Proof::Fencing,
            promote_timeout: PROMOTE_TIMEOUT,
            release_timeout: RELEASE_TIMEOUT,
        };
        for entry in entries(&SERVICE, statement.block(), messages) {
            let span = entry.statement.span();
            match (entry.name, entry.value) {
                ("resource", Value::Word(word)) => resource = Some(word),
                ("vrrp_instance", Value::Words(words)) => {
                    instance_spans = words.iter().map(|word| word.span).collect();
                    service.instances = words.iter().map(|word| word.text.clone()).collect();
                }
                ("preferred_node", Value::Word(word)) => service.preferred_node = Some(word.text.clone()),
                ("failback", Value::Flag(flag)) => service.failback = flag,
                ("proof", Value::Choice("lease")) => proof = Some((Proof::Lease, span)),
                ("proof", Value::Choice(_)) => proof = Some((Proof::Fencing, span)),
                ("promote-without-proof", Value::Flag(flag)) => nothing = flag.then_some(span),
                ("promote_timeout", Value::Time(time)) => service.promote_timeout = time,
                ("release_timeout", Value::Time(time)) => service.release_timeout = time,
                ("mount", Value::Step) => service.steps.extend(mount(entry.statement, messages)),
                ("start", Value::Step) => service.steps.extend(start(entry.statement, messages)),
                (name, _) => unexpected(name),
            }
        }
        let store = self.config.globals.lease.is_some();
        service.proof = match (proof, nothing) {
            (Some((_, first)), Some(span)) => {
                let message = "'promote-without-proof' contradicts 'proof'";
                let help = format!("'proof' stands at {}; keep that one", messages.file_line(first));
                messages.error(span, message, help);
                Proof::Nothing
            }
            (None, Some(span)) => {
                let message = format!(
                    "TWO HOMES ARE POSSIBLE: service {} promotes itself whenever its peer is silent",
                    service.name
                );
                let help =
                    "data written on both sides is lost on one of them; use 'proof lease' or 'proof fencing'";
                messages.warn(span, message, help);
                Proof::Nothing
            }
            (Some((proof, _)), None) => proof,
            (None, None) if store => Proof::Lease,
            (None, None) => Proof::Fencing,
        };
        let Some(resource) = resource else {
            if !statement.block().iter().any(|line| line.keyword() == "resource") {
                let message = format!("service {} has no 'resource'", service.name);
                messages.error(name_span, message, "add a line like 'resource r0'");
            }
            return;
        };
        service.resource.clone_from(&resource.text);
        self.services.push(ServiceDraft {
            service,
            proof_span: proof.map(|(_, span)| span),
            name_span,
            resource_span: resource.span,
            instance_spans,
        });
    }
}

/// `mount DEVICE DIR [TYPE [OPTIONS]]`.
fn mount(statement: &Statement, messages: &mut Messages) -> Option<Step> {
    let words = statement.arguments();
    let ([device, directory, rest @ ..], 0..=4) = (words, words.len()) else {
        let help = "write 'mount DEVICE DIRECTORY [TYPE [OPTIONS]]'; DEVICE may be 'resource'";
        messages.error(statement.span(), "'mount' needs a device and a directory", help);
        return None;
    };
    for word in words {
        filled(word, messages)?;
    }
    if !directory.text.starts_with('/') {
        messages.error(
            directory.span,
            format!("'{}' is no absolute path", directory.text),
            "begin it with '/'",
        );
        return None;
    }
    if !device.is("resource") && !device.text.starts_with('/') && !device.text.contains('=') {
        let message = format!("'{}' is no device", device.text);
        messages.error(
            device.span,
            message,
            "write 'resource' for the device of the service's resource, or a path",
        );
        return None;
    }
    // Journal replay may take long (failover 8.1).
    let mut step = Step {
        kind: StepKind::Mount {
            device: device.text.clone(),
            directory: directory.text.clone(),
            filesystem: rest.first().map(|word| word.text.clone()),
            options: rest.get(1).map(|word| word.text.clone()),
            checks_first: false,
        },
        timeout: Duration::ZERO,
        retries: 0,
        monitor: Duration::ZERO,
    };
    for entry in entries(&MOUNT, statement.block(), messages) {
        match (entry.name, entry.value, &mut step.kind) {
            ("timeout", Value::Time(time), _) => step.timeout = time,
            ("retry", Value::Int(n), _) => step.retries = super::globals::count(n),
            ("monitor", Value::Time(time), _) => step.monitor = time,
            ("check", Value::Flag(flag), StepKind::Mount { checks_first, .. }) => *checks_first = flag,
            (name, ..) => unexpected(name),
        }
    }
    Some(step)
}

/// `start UNIT`, `start ocf:PROVIDER:AGENT [NAME=VALUE...]` or `start "COMMAND"`.
fn start(statement: &Statement, messages: &mut Messages) -> Option<Step> {
    let words = statement.arguments();
    let Some(first) = words.first() else {
        let help = "write a unit of systemd, a command, or ocf:PROVIDER:AGENT behind it";
        messages.error(statement.span(), "'start' needs something to start", help);
        return None;
    };
    let mut kind = if is_unit(first) {
        if let Some(word) = words.get(1) {
            let message = format!("the unit {} takes no '{}'", first.text, word.text);
            messages.error(word.span, message, "put a command in quotes");
            return None;
        }
        StepKind::Unit(first.text.clone())
    } else if !first.quoted && first.text.starts_with("ocf:") {
        agent(first, &words[1..], messages)?
    } else {
        let words = command(words, messages)?;
        let name = default_name(&words);
        StepKind::Command { name, start: Command { words, user: None }, stop: None, status: None }
    };
    let mut step = Step {
        kind: StepKind::Unit(String::new()),
        timeout: STEP_TIMEOUT,
        retries: 0,
        monitor: Duration::ZERO,
    };
    let mut monitor_span = None;
    for entry in entries(&START, statement.block(), messages) {
        match (entry.name, entry.value, &mut kind) {
            ("timeout", Value::Time(time), _) => step.timeout = time,
            ("retry", Value::Int(n), _) => step.retries = super::globals::count(n),
            ("monitor", Value::Time(time), _) => {
                (step.monitor, monitor_span) = (time, Some(entry.statement.span()));
            }
            ("name", Value::Word(word), StepKind::Command { name, .. }) => name.clone_from(&word.text),
            ("stop", Value::Words(words), StepKind::Command { stop, .. }) => {
                *stop = command(words, messages).map(|words| Command { words, user: None });
            }
            ("status", Value::Words(words), StepKind::Command { status, .. }) => {
                *status = command(words, messages).map(|words| Command { words, user: None });
            }
            (name @ ("name" | "stop" | "status"), ..) => {
                let message = format!("'{name}' belongs to commands only");
                messages.error(
                    entry.statement.span(),
                    message,
                    "units and agents know it by themselves; take it away",
                );
            }
            (name, ..) => unexpected(name),
        }
    }
    if let (Some(span), StepKind::Command { status: None, .. }) = (monitor_span, &kind) {
        let help = "add 'status \"COMMAND\"', whose exit code is 0 while it runs";
        messages.error(span, "'monitor' has nothing to look at: the command has no 'status'", help);
    }
    step.kind = kind;
    Some(step)
}

/// The name of a command that is given none: its program.
pub(in crate::failover) fn default_name(words: &[String]) -> String {
    let program = words.first().map_or("", String::as_str);
    match program.rsplit('/').next() {
        Some(name) if !name.is_empty() => name.to_string(),
        _ => program.to_string(),
    }
}

fn is_unit(word: &Word) -> bool {
    let is_unit_byte =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    !word.quoted
        && word.text.bytes().all(is_unit_byte)
        && word.text.rsplit_once('.').is_some_and(|(name, suffix)| {
            !name.is_empty() && UNIT_SUFFIXES.contains(&suffix) && !name.starts_with("ocf:")
        })
}

fn agent(first: &Word, words: &[Word], messages: &mut Messages) -> Option<StepKind> {
    let is_name = |s: &str| {
        !s.is_empty()
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !s.starts_with('.')
    };
    let parts: Vec<&str> = first.text.split(':').collect();
    let (provider, agent) = match parts[..] {
        [_, provider, agent] if is_name(provider) && is_name(agent) => (provider, agent),
        _ => {
            let help = "write ocf:PROVIDER:AGENT, as in ocf:heartbeat:pgsql";
            messages.error(first.span, format!("'{}' names no resource agent", first.text), help);
            return None;
        }
    };
    let mut parameters: Vec<(String, String)> = Vec::new();
    for word in words {
        let is_parameter = |s: &str| {
            !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        match word.text.split_once('=') {
            Some((name, value))
                if is_parameter(name) && parameters.iter().all(|(known, _)| known != name) =>
            {
                parameters.push((name.to_string(), value.to_string()));
            }
            Some((name, _)) if is_parameter(name) => {
                messages.error(word.span, format!("'{name}' is given twice"), "keep one of the two");
                return None;
            }
            _ => {
                messages.error(word.span, format!("'{}' is no parameter", word.text), "write NAME=VALUE");
                return None;
            }
        }
    }
    Some(StepKind::Ocf { provider: provider.to_string(), agent: agent.to_string(), parameters })
}
