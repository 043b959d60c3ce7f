//! `vrrp_instance` (failover 1.1 to 1.15).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::addresses::{virtual_address, virtual_route, virtual_rule};
use super::globals::{self, count, is_group};
use super::track::{notify_line, trackers};
use super::{Draft, InstanceDraft, Kind, TrackerDraft};
use crate::config::source::Span;
use crate::failover::config::{
    AnnouncePolicy, Authentication, Notify, Preempt, Sending, UnicastPeer, VirtualAddress, VirtualMac,
    VirtualRoute, VirtualRule, VrrpInstance, VrrpVersion,
};
use crate::failover::keywords::{AUTHENTICATION, INSTANCE, S};
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::tree::Statement;
use crate::failover::value::{self, Entry, Value, entries, int, seconds_of};

/// Adverts count their addresses in one octet.
const ADDRESSES_MAX: usize = 255;
/// The longest interval that version 3 can say (failover 1.3).
const V3_INTERVAL_MAX: Duration = Duration::from_millis(40_950);
/// A password in version 2 (failover 1.2).
const PASSWORD_BYTES: usize = 8;

/// The lines of an instance as they come; what they mean together is found out at the end.
#[derive(Default)]
struct Lines {
    is_master: Option<Span>,
    interface: Option<String>,
    has_interface: bool,
    id: Option<(u8, Span)>,
    has_id: bool,
    priority: Option<(u8, Span)>,
    interval: Option<(Duration, Span)>,
    version: Option<(VrrpVersion, Span)>,
    authentication: Option<(Authentication, Span)>,
    addresses: Vec<(VirtualAddress, Span)>,
    has_addresses: bool,
    excluded: Vec<VirtualAddress>,
    routes: Vec<VirtualRoute>,
    rules: Vec<VirtualRule>,
    nopreempt: Option<Span>,
    preempt_delay: Option<(Duration, Span)>,
    source: Option<(IpAddr, Span)>,
    unicast_word: Option<Span>,
    group: Option<(IpAddr, Span)>,
    peers: Vec<(UnicastPeer, Span)>,
    unicast_ttl: u8,
    checks_source: Option<bool>,
    garp: Garp,
    vmac: Option<(Option<String>, Span)>,
    vmac_xmit_base: Option<Span>,
    no_accept: bool,
    down_timer_adverts: Option<u8>,
    lower_prio_no_advert: Option<bool>,
    higher_prio_send_advert: Option<bool>,
    dont_track_primary: bool,
    trackers: Vec<TrackerDraft>,
    notify: Notify,
}

/// `garp_*` of an instance.
#[derive(Default)]
struct Garp {
    repeat: Option<u32>,
    delay: Option<Duration>,
    refresh: Option<Duration>,
    refresh_repeat: Option<u32>,
    lower_repeat: Option<u32>,
    lower_delay: Option<Duration>,
    extra_refresh: Option<Duration>,
}

impl Draft {
    pub(super) fn instance(&mut self, statement: &Statement, messages: &mut Messages) {
        let Some((name, name_span)) = self.name(Kind::Instance, statement, messages) else { return };
        let notify = self.defaults.notify();
        let mut lines = Lines { unicast_ttl: 255, notify, ..Lines::default() };
        // A line that was refused is there all the same, and needs no second message.
        let has = |keyword: &str| statement.block().iter().any(|line| line.keyword() == keyword);
        (lines.has_interface, lines.has_id) = (has("interface"), has("virtual_router_id"));
        for entry in entries(&INSTANCE, statement.block(), messages) {
            lines.take(entry, messages);
        }
        self.note_mails(statement, name_span, &lines.notify);
        let missing = |messages: &mut Messages, keyword: &str, example: &str| {
            let message = format!("vrrp_instance {name} has no '{keyword}'");
            messages.error(name_span, message, format!("add a line like '{example}'"));
        };
        if !lines.has_interface {
            missing(messages, "interface", "interface eth0");
        }
        if !lines.has_id {
            missing(messages, "virtual_router_id", "virtual_router_id 51");
        }
        if !lines.has_addresses {
            missing(messages, "virtual_ipaddress", "virtual_ipaddress { 192.0.2.1/24 }");
        }
        let addresses = lines.one_family(messages);
        let is_ipv4 = addresses.first().is_none_or(|first| first.address.is_ipv4());
        let version = lines.decided_version(self.defaults.version, is_ipv4, messages);
        let priority = lines.priority.map_or(100, |(priority, _)| priority);
        let (Some(interface), Some((virtual_router_id, id_span))) = (lines.interface.take(), lines.id) else {
            return;
        };
        let instance = VrrpInstance {
            version,
            starts_as_master: lines.is_master.is_some(),
            interface,
            virtual_router_id,
            priority,
            advert_interval: lines.decided_interval(version, messages),
            authentication: lines.decided_authentication(version, messages),
            addresses,
            preempt: lines.decided_preempt(priority, messages),
            sending: self.sending(&lines, is_ipv4, messages),
            announce: self.announce(&lines.garp),
            virtual_mac: lines.virtual_mac(virtual_router_id, is_ipv4, messages),
            accept: !lines.no_accept,
            down_timer_adverts: lines.down_timer_adverts.unwrap_or(self.defaults.down_timer_adverts),
            lower_prio_no_advert: lines.lower_prio_no_advert.unwrap_or(self.defaults.lower_prio_no_advert),
            higher_prio_send_advert: lines
                .higher_prio_send_advert
                .unwrap_or(self.defaults.higher_prio_send_advert),
            tracks_own_interface: !lines.dont_track_primary,
            trackers: Vec::new(),
            excluded_addresses: lines.excluded,
            routes: lines.routes,
            rules: lines.rules,
            notify: lines.notify,
            name,
        };
        let priority_span = lines.priority.map_or(name_span, |(_, span)| span);
        let trackers = lines.trackers;
        self.instances.push(InstanceDraft { instance, trackers, id_span, priority_span });
    }

    fn sending(&self, lines: &Lines, is_ipv4: bool, messages: &mut Messages) -> Sending {
        if let Some((source, span)) = lines.source
            && source.is_ipv4() != is_ipv4
        {
            let help = "write an address of the family of virtual_ipaddress";
            messages.error(span, format!("adverts of this instance cannot come from {source}"), help);
        }
        for (peer, span) in &lines.peers {
            if peer.address.is_ipv4() != is_ipv4 {
                let help = "write an address of the family of virtual_ipaddress";
                messages.error(*span, format!("{} cannot be a peer of this instance", peer.address), help);
            }
        }
        let source = lines.source.map(|(source, _)| source);
        if lines.peers.is_empty() {
            if let Some(span) = lines.unicast_word {
                let message = "there are no unicast peers, so adverts go to the group";
                messages.warn(span, message, "add 'unicast_peer', or write mcast_src_ip");
            }
            let group = match lines.group {
                Some((group, span)) if is_group(group, is_ipv4, span, messages) => group,
                _ if is_ipv4 => self.defaults.group4,
                _ => self.defaults.group6,
            };
            return Sending::Multicast { source, group };
        }
        if let Some((_, span)) = lines.group {
            messages.warn(
                span,
                "'mcast_dst_ip' has no effect here",
                "adverts go to the peers of unicast_peer",
            );
        }
        let peers: Vec<UnicastPeer> = lines.peers.iter().map(|(peer, _)| *peer).collect();
        let has_range = peers.iter().any(|peer| peer.ttl_range.is_some());
        let checks_source = has_range || lines.checks_source.unwrap_or(self.defaults.checks_source);
        Sending::Unicast { source, peers, ttl: lines.unicast_ttl, checks_source }
    }

    fn announce(&self, garp: &Garp) -> AnnouncePolicy {
        let default = self.defaults.announce;
        let repeat = garp.repeat.unwrap_or(default.repeat);
        let delay = garp.delay.unwrap_or(default.second_burst_after);
        AnnouncePolicy {
            repeat,
            second_burst_after: delay,
            refresh: garp.refresh.unwrap_or(default.refresh),
            refresh_repeat: garp.refresh_repeat.unwrap_or(default.refresh_repeat),
            // failover 1.14: as the burst of a new master, unless told otherwise
            lower_priority_repeat: garp.lower_repeat.or(self.defaults.lower_repeat).unwrap_or(repeat),
            lower_priority_second_burst_after: garp
                .lower_delay
                .or(self.defaults.lower_delay)
                .unwrap_or(delay),
            extra_refresh: garp.extra_refresh.unwrap_or(default.extra_refresh),
            arp_interval: default.arp_interval,
            na_interval: default.na_interval,
        }
    }
}

/// A number that the tables limit to one octet.
fn octet(number: i64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

impl Lines {
    fn take(&mut self, entry: Entry<'_>, messages: &mut Messages) {
        let span = entry.statement.span();
        let value_span = entry.statement.arguments().first().map_or(span, |word| word.span);
        if trackers(&entry, &mut self.trackers, messages) {
            return;
        }
        match (entry.name, entry.value) {
            ("state", Value::Choice(state)) => {
                // keepalived takes 'master' for BACKUP; better it is neither.
                if !entry.statement.arguments().iter().any(|word| word.text == state) {
                    messages.error(value_span, "states are written in capitals", format!("write '{state}'"));
                }
                self.is_master = (state == "MASTER").then_some(span);
            }
            ("interface", Value::Word(word)) => {
                self.interface = value::interface(word, messages);
            }
            ("virtual_router_id", Value::Int(n)) => self.id = Some((octet(n), value_span)),
            ("priority", Value::Int(n)) => self.priority = Some((octet(n), value_span)),
            ("advert_int", Value::Time(time)) => self.interval = Some((time, value_span)),
            ("version", Value::Int(n)) => self.version = Some((globals::version(n), span)),
            ("authentication", Value::Block(_, block)) => self.authentication(span, block, messages),
            ("virtual_ipaddress", Value::Lines(lines)) => {
                // An empty list is as good as none.
                self.has_addresses |= !lines.is_empty();
                for line in lines {
                    self.addresses.extend(virtual_address(line, messages).map(|a| (a, line.span())));
                }
            }
            ("virtual_ipaddress_excluded", Value::Lines(lines)) => {
                self.excluded.extend(lines.iter().filter_map(|line| virtual_address(line, messages)));
            }
            ("virtual_routes", Value::Lines(lines)) => {
                self.routes.extend(lines.iter().filter_map(|line| virtual_route(line, messages)));
            }
            ("virtual_rules", Value::Lines(lines)) => {
                self.rules.extend(lines.iter().filter_map(|line| virtual_rule(line, messages)));
            }
            ("nopreempt", _) => self.nopreempt = Some(span),
            ("preempt", _) => self.nopreempt = None,
            ("preempt_delay", Value::Time(time)) => self.preempt_delay = Some((time, span)),
            ("unicast_src_ip", Value::Address(ip)) => {
                self.source = Some((ip, span));
                self.unicast_word = Some(span);
            }
            ("mcast_src_ip", Value::Address(ip)) => self.source = Some((ip, span)),
            ("mcast_dst_ip", Value::Address(ip)) => self.group = Some((ip, span)),
            ("unicast_peer", Value::Lines(lines)) => {
                self.unicast_word = Some(span);
                self.peers.extend(lines.iter().filter_map(|line| peer(line, messages)));
            }
            ("unicast_ttl", Value::Int(n)) => {
                self.unicast_word = Some(span);
                self.unicast_ttl = octet(n);
            }
            ("check_unicast_src", Value::Flag(flag)) => {
                self.unicast_word = Some(span);
                self.checks_source = Some(flag);
            }
            ("garp_master_delay", Value::Time(time)) => self.garp.delay = Some(time),
            ("garp_master_repeat", Value::Int(n)) => self.garp.repeat = Some(count(n)),
            ("garp_master_refresh", Value::Time(time)) => self.garp.refresh = Some(time),
            ("garp_master_refresh_repeat", Value::Int(n)) => self.garp.refresh_repeat = Some(count(n)),
            ("garp_lower_prio_delay", Value::Time(time)) => self.garp.lower_delay = Some(time),
            ("garp_lower_prio_repeat", Value::Int(n)) => self.garp.lower_repeat = Some(count(n)),
            ("garp_extra_if", Value::Words(words)) => {
                self.garp.extra_refresh = globals::extra_refresh(words, messages).or(self.garp.extra_refresh);
            }
            ("use_vmac", Value::Words(words)) => self.vmac = Some((macvlan(words, messages), span)),
            ("vmac_xmit_base", _) => self.vmac_xmit_base = Some(span),
            ("accept", _) => self.no_accept = false,
            ("no_accept", _) => self.no_accept = true,
            ("down_timer_adverts", Value::Int(n)) => self.down_timer_adverts = Some(octet(n)),
            ("lower_prio_no_advert", Value::Flag(flag)) => self.lower_prio_no_advert = Some(flag),
            ("higher_prio_send_advert", Value::Flag(flag)) => self.higher_prio_send_advert = Some(flag),
            ("dont_track_primary", _) => self.dont_track_primary = true,
            (name, value) => {
                let entry = Entry { name, value, statement: entry.statement };
                notify_line(entry, &mut self.notify, messages);
            }
        }
    }

    fn authentication(&mut self, span: Span, block: &[Statement], messages: &mut Messages) {
        let mut kind = None;
        let mut password = None;
        for entry in entries(&AUTHENTICATION, block, messages) {
            match (entry.name, entry.value) {
                ("auth_type", Value::Choice(choice)) => kind = Some((choice, entry.statement.span())),
                ("auth_pass", Value::Word(word)) => password = Some(word),
                _ => {}
            }
        }
        if let Some(("AH", span)) = kind {
            // failover 1.6
            let message = "'auth_type AH' is refused: its keys have 8 octets and its digest is MD5";
            let help = "write 'auth_type PASS' on all nodes, or version 3 without authentication on a network of its own";
            return messages.error(span, message, help);
        }
        let Some((_, Some(password))) = kind.map(|kind| (kind, password)) else {
            let message = "authentication needs both its type and its password";
            return messages.error(
                span,
                message,
                "write 'auth_type PASS' and 'auth_pass TEXT' in it, on two lines",
            );
        };
        let bytes = password.text.as_bytes();
        if bytes.len() > PASSWORD_BYTES {
            let message = format!("only the first {PASSWORD_BYTES} octets of auth_pass count");
            messages.warn(password.span, message, "shorten it on all nodes");
        }
        if core::str::from_utf8(&bytes[..bytes.len().min(PASSWORD_BYTES)]).is_err() {
            let message = format!("auth_pass is cut inside of a character after {PASSWORD_BYTES} octets");
            return messages.error(password.span, message, "write plain ASCII");
        }
        let mut padded = [0; PASSWORD_BYTES];
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.authentication = Some((Authentication::Password(padded), span));
    }

    /// The addresses, if all are of one family and none stands twice.
    fn one_family(&mut self, messages: &mut Messages) -> Vec<VirtualAddress> {
        let lines = core::mem::take(&mut self.addresses);
        let is_ipv4 = lines.first().map(|(first, _)| first.address.is_ipv4());
        let mut kept: Vec<VirtualAddress> = Vec::new();
        for (address, span) in lines {
            if is_ipv4.is_some_and(|is_ipv4| is_ipv4 != address.address.is_ipv4()) {
                let message = format!("{} is not of the family of the first address", address.address);
                messages.error(
                    span,
                    message,
                    "put it into virtual_ipaddress_excluded, or into an instance of its own",
                );
            } else if kept.iter().any(|known| known.address == address.address) {
                messages.warn(span, format!("{} stands here twice", address.address), "this line is skipped");
            } else if kept.len() == ADDRESSES_MAX {
                let message = format!("an advert has room for {ADDRESSES_MAX} addresses");
                messages.error(span, message, "put further ones into virtual_ipaddress_excluded");
                break;
            } else {
                kept.push(address);
            }
        }
        kept
    }

    fn decided_version(&self, default: VrrpVersion, is_ipv4: bool, messages: &mut Messages) -> VrrpVersion {
        match self.version {
            Some((VrrpVersion::V2, span)) if !is_ipv4 => {
                let message = "version 2 knows no IPv6: this instance speaks version 3";
                messages.warn(span, message, "write 'version 3', or leave it out");
                VrrpVersion::V3
            }
            Some((version, _)) => version,
            None if !is_ipv4 => VrrpVersion::V3,
            None => default,
        }
    }

    fn decided_interval(&self, version: VrrpVersion, messages: &mut Messages) -> Duration {
        let Some((interval, span)) = self.interval else { return Duration::from_secs(1) };
        let micros = interval.as_micros() as u64;
        match version {
            // failover 1.8: keepalived rounds, 0.1 becomes 1
            VrrpVersion::V2 if !micros.is_multiple_of(S) => {
                let rounded = ((micros + S / 2) / S).max(1);
                let message = format!("version 2 has whole seconds: advert_int becomes {rounded}");
                messages.warn(span, message, "write a whole number, or 'version 3' on all nodes");
                Duration::from_secs(rounded)
            }
            VrrpVersion::V2 => interval,
            VrrpVersion::V3 if interval > V3_INTERVAL_MAX => {
                let message = format!("advert_int {} is too long for version 3", seconds_of(micros));
                messages.error(span, message, "write 40.95 at most");
                interval
            }
            VrrpVersion::V3 if !micros.is_multiple_of(10_000) => {
                let rounded = (micros + 5_000) / 10_000 * 10_000;
                let message = format!("version 3 has hundredths: advert_int becomes {}", seconds_of(rounded));
                messages.warn(span, message, "write no more than two digits behind the point");
                Duration::from_micros(rounded)
            }
            VrrpVersion::V3 => interval,
        }
    }

    fn decided_authentication(&self, version: VrrpVersion, messages: &mut Messages) -> Authentication {
        match (self.authentication, version) {
            (None, _) => Authentication::None,
            (Some((authentication, _)), VrrpVersion::V2) => authentication,
            (Some((_, span)), VrrpVersion::V3) => {
                let message = "version 3 has no authentication: it is ignored";
                messages.warn(span, message, "take it away, or write 'version 2' on all nodes");
                Authentication::None
            }
        }
    }

    /// failover 1.10
    fn decided_preempt(&self, priority: u8, messages: &mut Messages) -> Preempt {
        let clash = |messages: &mut Messages, span: Span, word: &str| {
            let message = format!("'{word}' does not go with 'state MASTER': it is ignored");
            messages.warn(span, message, "write 'state BACKUP' on all nodes; the priority decides anyway");
        };
        if let Some(span) = self.nopreempt {
            if priority == 255 {
                let help = "take one of the two away; the owner always takes its addresses";
                messages.error(span, "'nopreempt' contradicts priority 255", help);
            } else if self.is_master.is_some() {
                clash(messages, span, "nopreempt");
            } else {
                if let Some((_, span)) = self.preempt_delay {
                    let message = "'preempt_delay' has no effect here";
                    messages.warn(span, message, "'nopreempt' stands in the same instance");
                }
                return Preempt::Never;
            }
        }
        match self.preempt_delay {
            Some((_, span)) if self.is_master.is_some() => {
                clash(messages, span, "preempt_delay");
                Preempt::Always
            }
            Some((delay, _)) if !delay.is_zero() => Preempt::After(delay),
            _ => Preempt::Always,
        }
    }

    fn virtual_mac(&self, id: u8, is_ipv4: bool, messages: &mut Messages) -> Option<VirtualMac> {
        let Some((name, span)) = &self.vmac else {
            if let Some(span) = self.vmac_xmit_base {
                messages.warn(span, "'vmac_xmit_base' has no effect here", "it needs 'use_vmac'");
            }
            return None;
        };
        let sends_from_base = self.vmac_xmit_base.is_some();
        if !self.peers.is_empty() && !sends_from_base {
            let help = "add a line 'vmac_xmit_base'";
            messages.error(*span, "'use_vmac' with unicast peers needs 'vmac_xmit_base'", help);
        }
        let prefix = if is_ipv4 { "vrrp" } else { "vrrp6" };
        let name = name.clone().unwrap_or_else(|| format!("{prefix}.{id}"));
        Some(VirtualMac { name, sends_from_base })
    }
}

/// The name of the macvlan, if one is given.
fn macvlan(words: &[Word], messages: &mut Messages) -> Option<String> {
    let mut name = None;
    for word in words {
        if word.text.split(':').count() >= 5 {
            let message = format!("the address {} has no effect here", word.text);
            messages.warn(word.span, message, "the MAC is that of the virtual router, as RFC 5798 says");
        } else if name.is_none() {
            name = value::interface(word, messages);
        } else {
            messages.error(
                word.span,
                format!("'{}' does not belong here", word.text),
                "write one name".to_owned(),
            );
        }
    }
    name
}

/// A line of `unicast_peer`.
fn peer(line: &Statement, messages: &mut Messages) -> Option<(UnicastPeer, Span)> {
    let (first, mut rest) = line.words.split_first()?;
    let address = value::address(first, messages)?;
    let (mut min, mut max) = (None, None);
    while let [word, number, behind @ ..] = rest {
        match word.text.as_str() {
            "min_ttl" => min = Some(octet(int("min_ttl", number, 0, 255, messages)?)),
            "max_ttl" => max = Some(octet(int("max_ttl", number, 0, 255, messages)?)),
            _ => break,
        }
        rest = behind;
    }
    if let Some(word) = rest.first() {
        let message = format!("'{}' does not belong here", word.text);
        messages.error(
            word.span,
            message,
            "write one address a line, perhaps with 'min_ttl N max_ttl N' behind it",
        );
        return None;
    }
    let ttl_range =
        if min.is_none() && max.is_none() { None } else { Some((min.unwrap_or(0), max.unwrap_or(255))) };
    if ttl_range.is_some_and(|(min, max)| min > max) {
        messages.error(
            first.span,
            "min_ttl is above max_ttl",
            "no packet could pass; correct one of the two",
        );
    }
    Some((UnicastPeer { address, ttl_range }, first.span))
}
