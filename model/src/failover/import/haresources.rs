//! `haresources`: lines to services and instances (failover 3.2).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use super::ha_cf::HaCf;
use super::{Fate, Line, Reader};
use crate::config::source::Span;
use crate::failover::config::{
    Authentication, Broadcast, Command, FailoverConfig, Notify, Preempt, Proof, Sending, Service, Step,
    StepKind, VirtualAddress, VrrpInstance, VrrpVersion,
};
use crate::failover::heartbeat::AutoFailback;
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::parse::{ANNOUNCE, GROUPS, PROMOTE_TIMEOUT, RELEASE_TIMEOUT, STEP_TIMEOUT};
use crate::failover::value::INTERFACE_NAME_MAX;

/// Priority of an instance on its preferred node.
const PREFERRED: u8 = 150;
/// Priority elsewhere.
const ELSEWHERE: u8 = 100;
/// The first instance has this number, further ones those behind it.
const FIRST_ROUTER_ID: u8 = 51;
/// Where heartbeat's scripts are.
const SCRIPTS: &str = "/etc/ha.d/resource.d";

/// One line while it is read.
#[derive(Default)]
struct Group {
    resource: Option<String>,
    addresses: Vec<VirtualAddress>,
    /// Where an address says no interface.
    without_interface: Option<Span>,
    steps: Vec<Step>,
    /// What needs a resource to stand on, if it turns out that there is none.
    notes: Vec<(Span, String, String)>,
}

/// The services and instances of all lines.
pub(super) fn config(reader: &mut Reader<'_>, path: &str, host: &str, ha_cf: &HaCf) -> FailoverConfig {
    let mut config = FailoverConfig::default();
    for line in reader.lines(path, true) {
        let Some((node, words)) = line.words.split_first() else { continue };
        if !ha_cf.membership.nodes.iter().any(|known| known.eq_ignore_ascii_case(&node.text)) {
            let message = format!("ha.cf has no node {}", node.text);
            reader.messages.warn(node.span, message, "name a node of ha.cf, in capitals or not");
        }
        let mut group = Group::default();
        for word in words {
            resource(reader, word, &mut group);
        }
        if words.is_empty() {
            reader.messages.error(line.span, "this line has no resources", "write them behind the node");
        }
        let placed = Placed { node, is_here: host.eq_ignore_ascii_case(&node.text), line: &line };
        finish(reader, &placed, group, ha_cf, &mut config);
    }
    config
}

/// A line with its preferred node.
struct Placed<'a> {
    node: &'a Word,
    /// It is the node that the file is made for.
    is_here: bool,
    line: &'a Line,
}

/// One word of a line.
fn resource(reader: &mut Reader<'_>, word: &Word, group: &mut Group) {
    let mut parts = word.text.split("::");
    let script = parts.next().unwrap_or_default();
    let arguments: Vec<&str> = parts.collect();
    let is_bare =
        arguments.is_empty() && script.split('/').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok());
    match (script, &arguments[..]) {
        _ if is_bare => address(reader, word, script, group),
        ("IPaddr" | "IPaddr2" | "IPv6addr", [text]) => address(reader, word, text, group),
        ("drbddisk", [name]) if !name.is_empty() => match &group.resource {
            None => {
                group.resource = Some((*name).to_owned());
                let what = format!(
                    "service {name}: promoted first, demoted last; without its peer only if the fence-peer handler of \
                     {name} succeeds (proof fencing), where heartbeat went on without a proof"
                );
                reader.note(word.span, word.text.clone(), Fate::Mapped, what);
            }
            Some(first) => {
                let what =
                    format!("a service has one resource, {first}; volumes of one resource move together");
                reader.note(word.span, word.text.clone(), Fate::NotServed, what);
            }
        },
        ("Filesystem", [device, directory, rest @ ..]) if rest.len() <= 2 => {
            let optional = |at: usize| rest.get(at).filter(|s| !s.is_empty()).map(|s| (*s).to_owned());
            // 'mount' takes options behind a type only.
            let options = optional(1);
            let filesystem = optional(0).or_else(|| options.as_ref().map(|_| "auto".to_owned()));
            group.steps.push(Step {
                kind: StepKind::Mount {
                    device: (*device).to_owned(),
                    directory: (*directory).to_owned(),
                    filesystem,
                    options,
                    checks_first: false,
                },
                timeout: Duration::ZERO,
                retries: 0,
                monitor: Duration::ZERO,
            });
            group.notes.push((word.span, word.text.clone(), "mount".into()));
        }
        ("keepalived" | "ldirectord", _) => {
            let what = "its virtual servers are the director's business; 'lockstep failover check' reads keepalived.conf";
            reader.note(word.span, word.text.clone(), Fate::NotServed, what);
        }
        ("drbdupper", _) => {
            let what = "a service stands on one resource, and not on one that is stacked on another";
            reader.note(word.span, word.text.clone(), Fate::NotServed, what);
        }
        ("drbddisk" | "Filesystem" | "IPaddr" | "IPaddr2" | "IPv6addr" | "", _) => {
            let help =
                "write drbddisk::RESOURCE, Filesystem::DEVICE::DIR::TYPE::OPTIONS or IPaddr::ADDRESS/MASK/IF";
            let message = format!("'{}' lacks arguments, or has too many", word.text);
            reader.messages.error(word.span, message, help);
        }
        _ if script.contains('/') || script.starts_with('.') => {
            let message = format!("'{script}' cannot be the name of a script");
            reader.messages.error(word.span, message, "scripts are named without their directory");
        }
        _ => {
            group.steps.push(script_step(script, &arguments));
            let what = format!(
                "start: {SCRIPTS}/{script} (correct the path if it is in /etc/init.d); its status is its exit code here"
            );
            group.notes.push((word.span, word.text.clone(), what));
        }
    }
}

fn script_step(script: &str, arguments: &[&str]) -> Step {
    let call = |verb: &str| {
        let words = [format!("{SCRIPTS}/{script}")].into_iter();
        let words = words.chain(arguments.iter().map(|a| (*a).to_owned())).chain([verb.to_owned()]);
        Command { words: words.collect(), user: None }
    };
    Step {
        kind: StepKind::Command {
            name: script.to_owned(),
            start: call("start"),
            stop: Some(call("stop")),
            status: Some(call("status")),
        },
        timeout: STEP_TIMEOUT,
        retries: 0,
        monitor: Duration::ZERO,
    }
}

/// `ADDRESS[/MASK[/IF[/BROADCAST]]]`.
fn address(reader: &mut Reader<'_>, word: &Word, text: &str, group: &mut Group) {
    let Some(address) = parse_address(word, text, reader.messages) else { return };
    if group.addresses.iter().any(|known| known.address == address.address) {
        let message = format!("{} stands on this line twice", address.address);
        return reader.messages.error(word.span, message, "keep one of the two");
    }
    let what = format!("an address of the line's vrrp_instance: {}/{}", address.address, address.prefix_len);
    reader.note(word.span, word.text.clone(), Fate::Mapped, what);
    if address.interface.is_none() {
        group.without_interface.get_or_insert(word.span);
    }
    group.addresses.push(address);
}

fn parse_address(word: &Word, text: &str, messages: &mut Messages) -> Option<VirtualAddress> {
    let mut parts = text.split('/').peekable();
    let refuse = |messages: &mut Messages, what: &str| {
        let message = format!("'{what}' does not belong into an address");
        messages.error(word.span, message, "write ADDRESS/MASK/INTERFACE/BROADCAST");
        None::<VirtualAddress>
    };
    let first = parts.next().unwrap_or_default();
    let Ok(ip) = first.parse::<IpAddr>() else { return refuse(messages, first) };
    if ip.is_multicast() || ip.is_unspecified() {
        return refuse(messages, first);
    }
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let mut found = VirtualAddress {
        address: ip,
        prefix_len: max,
        interface: None,
        broadcast: Broadcast::Unset,
        scope: 0,
        label: None,
        peer: None,
        home: false,
        no_dad: false,
        no_prefix_route: false,
        no_track: false,
        preferred_lifetime: None,
    };
    if let Some(mask) = parts.next_if(|part| part.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
        && !mask.is_empty()
    {
        match prefix_len(mask).filter(|len| *len <= max) {
            Some(len) => found.prefix_len = len,
            None => return refuse(messages, mask),
        }
    }
    if let Some(interface) = parts.next_if(|part| part.parse::<Ipv4Addr>().is_err())
        && !interface.is_empty()
    {
        // An alias of ifconfig is a label today.
        let name = interface.split(':').next().unwrap_or_default();
        if interface.len() > INTERFACE_NAME_MAX || name.is_empty() {
            return refuse(messages, interface);
        }
        found.label = (name != interface).then(|| interface.to_owned());
        found.interface = Some(name.to_owned());
    }
    if let Some(broadcast) = parts.next() {
        match broadcast.parse::<Ipv4Addr>() {
            Ok(broadcast) if ip.is_ipv4() => found.broadcast = Broadcast::Address(IpAddr::V4(broadcast)),
            _ => return refuse(messages, broadcast),
        }
    }
    match parts.next() {
        Some(rest) => refuse(messages, rest),
        None => Some(found),
    }
}

/// Of a number, or of a mask in octets.
fn prefix_len(mask: &str) -> Option<u8> {
    match mask.parse::<Ipv4Addr>() {
        Ok(mask) => {
            let bits = u32::from(mask);
            (bits.leading_ones() + bits.trailing_zeros().min(32) == 32 || bits == u32::MAX)
                .then_some(bits.leading_ones() as u8)
        }
        Err(_) => mask.parse().ok(),
    }
}

/// What a line became.
fn finish(
    reader: &mut Reader<'_>,
    placed: &Placed<'_>,
    group: Group,
    ha_cf: &HaCf,
    config: &mut FailoverConfig,
) {
    let Group { resource, addresses, without_interface, steps, notes } = group;
    let number = config.instances.len();
    let name = match &resource {
        Some(resource) => format!("VI_{resource}"),
        None => format!("VI_{}", number + 1),
    };
    let mut instances = Vec::new();
    if let Some(first) = addresses.first() {
        let interface = first.interface.clone().unwrap_or_else(|| "eth0".to_owned());
        if let Some(span) = without_interface {
            let message = format!("an address names no interface: {interface} is written");
            reader.messages.warn(span, message, "correct it; heartbeat looked for it in the table of routes");
        }
        let Ok(offset) = u8::try_from(number) else { return too_many(reader, placed) };
        let Some(id) = FIRST_ROUTER_ID.checked_add(offset) else { return too_many(reader, placed) };
        let what = format!(
            "vrrp_instance {name}: virtual_router_id {id} was chosen, alike on both nodes; priority {PREFERRED} on {} and {ELSEWHERE} elsewhere",
            placed.node.text
        );
        reader.note(placed.node.span, placed.node.text.clone(), Fate::Mapped, what);
        let priority = if placed.is_here { PREFERRED } else { ELSEWHERE };
        let stays = resource.is_none() && ha_cf.auto_failback != AutoFailback::On;
        instances.push(name.clone());
        config.instances.push(instance(name, interface, id, priority, stays, addresses));
    }
    let Some(resource) = resource else {
        for (span, text, _) in notes {
            reader.note(
                span,
                text,
                Fate::NotServed,
                "without drbddisk on its line there is no service that could start it",
            );
        }
        return;
    };
    for (span, text, what) in notes {
        reader.note(span, text, Fate::Mapped, what);
    }
    if config.services.iter().any(|service| service.resource == resource) {
        let message = format!("the resource {resource} is on two lines");
        reader.messages.error(placed.line.span, message, "put what stands on it on one line");
        return;
    }
    config.services.push(Service {
        name: resource.clone(),
        resource,
        instances,
        steps,
        preferred_node: Some(placed.node.text.clone()),
        failback: ha_cf.auto_failback == AutoFailback::On,
        proof: Proof::Fencing,
        promote_timeout: PROMOTE_TIMEOUT,
        release_timeout: RELEASE_TIMEOUT,
    });
}

fn too_many(reader: &mut Reader<'_>, placed: &Placed<'_>) {
    let message = "there are more lines with addresses than numbers of virtual routers";
    reader.messages.error(placed.line.span, message, "put the addresses of several lines on one");
}

fn instance(
    name: String,
    interface: String,
    id: u8,
    priority: u8,
    stays: bool,
    addresses: Vec<VirtualAddress>,
) -> VrrpInstance {
    let is_ipv4 = addresses.first().is_none_or(|first| first.address.is_ipv4());
    let on_other = |mut address: VirtualAddress| {
        address.interface = address.interface.filter(|name| *name != interface);
        address
    };
    let (addresses, excluded_addresses) =
        addresses.into_iter().map(on_other).partition(|address| address.address.is_ipv4() == is_ipv4);
    VrrpInstance {
        name,
        version: VrrpVersion::V3,
        starts_as_master: false,
        interface,
        virtual_router_id: id,
        priority,
        advert_interval: Duration::from_secs(1),
        authentication: Authentication::None,
        addresses,
        excluded_addresses,
        routes: Vec::new(),
        rules: Vec::new(),
        preempt: if stays { Preempt::Never } else { Preempt::Always },
        sending: Sending::Multicast { source: None, group: if is_ipv4 { GROUPS.0 } else { GROUPS.1 } },
        announce: ANNOUNCE,
        virtual_mac: None,
        accept: true,
        down_timer_adverts: 3,
        lower_prio_no_advert: false,
        higher_prio_send_advert: false,
        tracks_own_interface: true,
        trackers: Vec::new(),
        notify: Notify::default(),
    }
}
