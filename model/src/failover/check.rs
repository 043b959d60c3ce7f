//! What must hold between blocks: names that are known, keys that are used once, services that do not share (failover 1.11,
//! 1.12, 6.2 and 8.5).

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use super::config::{FailoverConfig, Proof, TrackTarget, Tracker};
use super::messages::Messages;
use super::parse::{Draft, Kind, TrackerDraft};
use crate::config::diagnostic::closest;
use crate::config::source::Span;

/// Priority of the owner of the addresses (failover 1.9).
const OWNER: u8 = 255;

/// Looks at everything together, and puts it together.
pub(super) fn finish(draft: Draft, messages: &mut Messages) -> FailoverConfig {
    draft.check_mails(messages);
    let mut checker = Checker { draft: &draft, messages };
    checker.router_ids();
    let group_of = checker.groups();
    checker.services(&group_of);
    checker.server_groups();

    let mut config = draft.config.clone();
    for known in &draft.instances {
        let mut instance = known.instance.clone();
        let no_weights = match group_of.get(known.instance.name.as_str()) {
            Some(group) => Some(format!("the instance is in the sync group {group}")),
            None if instance.priority == OWNER => Some("the priority of the owner never changes".into()),
            None => None,
        };
        instance.trackers = checker.trackers(&known.trackers, no_weights.as_deref());
        config.instances.push(instance);
    }
    for known in &draft.groups {
        let mut group = known.group.clone();
        group.trackers = checker.trackers(&known.trackers, None);
        config.sync_groups.push(group);
    }
    config.services = draft.services.iter().map(|known| known.service.clone()).collect();
    config
}

struct Checker<'a> {
    draft: &'a Draft,
    messages: &'a mut Messages,
}

impl<'a> Checker<'a> {
    /// Adverts of two instances must be told apart (failover 1.1).
    fn router_ids(&mut self) {
        let mut seen: BTreeMap<(&str, bool, u8), (&str, Span)> = BTreeMap::new();
        for known in &self.draft.instances {
            let instance = &known.instance;
            let Some(first) = instance.addresses.first() else { continue };
            let is_ipv4 = first.address.is_ipv4();
            let key = (instance.interface.as_str(), is_ipv4, instance.virtual_router_id);
            if let Some((other, span)) = seen.get(&key) {
                let family = if is_ipv4 { "IPv4" } else { "IPv6" };
                let message = format!(
                    "{} and {other} both have virtual_router_id {} with {family} on {}",
                    instance.name, instance.virtual_router_id, instance.interface
                );
                let help =
                    format!("the other one is at {}; choose another number", self.messages.file_line(*span));
                self.messages.error(known.id_span, message, help);
            } else {
                seen.insert(key, (&instance.name, known.id_span));
            }
        }
    }

    /// The group of each instance that has one.
    fn groups(&mut self) -> BTreeMap<&'a str, &'a str> {
        let mut group_of: BTreeMap<&str, &str> = BTreeMap::new();
        let draft = self.draft;
        for known in &draft.groups {
            let group = &known.group;
            for (member, span) in group.members.iter().zip(&known.member_spans) {
                self.known(Kind::Instance, member, *span);
                match group_of.get(member.as_str()) {
                    Some(other) if *other == group.name => {
                        self.messages.error(
                            *span,
                            format!("{member} stands here twice"),
                            "keep one of the two",
                        );
                    }
                    Some(other) => {
                        let message = format!("{member} is in the sync group {other} already");
                        self.messages.error(*span, message, "an instance is in one group at most");
                    }
                    None => {
                        group_of.insert(member, &group.name);
                    }
                }
            }
            if let [_] = group.members[..] {
                let message = format!("vrrp_sync_group {} has one member only", group.name);
                self.messages.warn(
                    known.name_span,
                    message,
                    "a group of one changes nothing; add the others",
                );
            }
        }
        group_of
    }

    /// Resources and instances have one service (failover 8.5).
    fn services(&mut self, group_of: &BTreeMap<&str, &str>) {
        let draft = self.draft;
        let mut resources: BTreeMap<&str, &str> = BTreeMap::new();
        let mut service_of: BTreeMap<&str, &str> = BTreeMap::new();
        for known in &draft.services {
            let service = &known.service;
            let name = service.name.as_str();
            if let Some(other) = resources.insert(&service.resource, name) {
                let message =
                    format!("the resource {} belongs to the service {other} already", service.resource);
                let help = "put what runs on it into one service";
                self.messages.error(known.resource_span, message, help);
            }
            for (instance, span) in service.instances.iter().zip(&known.instance_spans) {
                if !self.known(Kind::Instance, instance, *span) {
                    continue;
                }
                if let Some(other) = service_of.insert(instance, name) {
                    let message = format!("{instance} belongs to the service {other} already");
                    self.messages.error(*span, message, "name it in one service only");
                }
                let owner = draft.instances.iter().find(|i| i.instance.name == *instance);
                if let Some(owner) = owner.filter(|owner| owner.instance.priority == OWNER) {
                    let message = format!("{instance} has priority 255, and belongs to the service {name}");
                    let help = "its owner would be master by itself, without the data; write 254 at most";
                    self.messages.error(owner.priority_span, message, help);
                }
            }
            if service.proof == Proof::Lease && draft.config.globals.lease.is_none() {
                let span = known.proof_span.unwrap_or(known.name_span);
                let help = "add 'lease_store http://HOST:2379' to global_defs, or write 'proof fencing'";
                self.messages.error(span, "there is no store for the lease", help);
            }
        }
        // A group moves as one, and a service has one home: they agree only if the group is of one service.
        let mut first_of: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for known in &draft.groups {
            for (member, span) in known.group.members.iter().zip(&known.member_spans) {
                let service = service_of.get(member.as_str()).copied();
                let first = *first_of.entry(&known.group.name).or_insert(service);
                if first == service || group_of.get(member.as_str()) != Some(&known.group.name.as_str()) {
                    continue;
                }
                let of = |service: Option<&str>| match service {
                    Some(service) => format!("the service {service}"),
                    None => "no service".into(),
                };
                let message = format!(
                    "{member} belongs to {}, but the group began with a member of {}",
                    of(service),
                    of(first)
                );
                self.messages.error(*span, message, "put only instances of one service into a group");
            }
        }
    }

    fn server_groups(&mut self) {
        for (name, span) in &self.draft.server_groups_used {
            self.known(Kind::ServerGroup, name, *span);
        }
    }

    /// Whether there is one of this name; tells if not.
    fn known(&mut self, kind: Kind, name: &str, span: Span) -> bool {
        let names = &self.draft.names;
        if names.contains_key(&(kind, name.into())) {
            return true;
        }
        let others = names.keys().filter(|(other, _)| *other == kind).map(|(_, name)| name.as_str());
        let near = if self.messages.has_room() { closest(name, others) } else { None };
        let help = match near {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("add '{} {name} {{ ... }}', or correct the name", kind.name()),
        };
        self.messages.error(span, format!("there is no {} {name}", kind.name()), help);
        false
    }

    /// Trackers with the weights of what they look at. `no_weights` is why weights are of no use (failover 1.12).
    fn trackers(&mut self, drafts: &[TrackerDraft], no_weights: Option<&str>) -> Vec<Tracker> {
        let config = &self.draft.config;
        let mut trackers = Vec::new();
        for known in drafts {
            let (kind, default) = match &known.tracker.target {
                TrackTarget::Interface(_) | TrackTarget::Resource(_) => (None, None),
                TrackTarget::Script(name) => {
                    let script = config.scripts.iter().find(|s| s.name == *name);
                    (Some((Kind::Script, name)), script.map(|s| (s.weight, s.reverse)))
                }
                TrackTarget::File(name) => {
                    let file = config.track_files.iter().find(|f| f.name == *name);
                    (Some((Kind::File, name)), file.map(|f| (f.weight, f.reverse)))
                }
                TrackTarget::Process(name) => {
                    let process = config.track_processes.iter().find(|p| p.name == *name);
                    (Some((Kind::Process, name)), process.map(|p| (p.weight, p.reverse)))
                }
            };
            if let Some((kind, name)) = kind
                && !self.known(kind, name, known.span)
            {
                continue;
            }
            let mut tracker = known.tracker.clone();
            if let Some((weight, reverse)) = default {
                if !known.has_weight {
                    tracker.weight = weight;
                }
                if !known.has_reverse {
                    tracker.reverse = reverse;
                }
            }
            if let Some(why) = no_weights
                && tracker.weight != 0
            {
                let message = format!("the weight {} counts as 0: a failure is a fault", tracker.weight);
                self.messages.warn(known.span, message, format!("{why}; write 'weight 0'"));
                tracker.weight = 0;
            }
            trackers.push(tracker);
        }
        trackers
    }
}
