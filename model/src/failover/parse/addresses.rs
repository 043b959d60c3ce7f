//! Lines of `virtual_ipaddress`, `virtual_routes` and `virtual_rules`, which are those of ip(8) (failover 1.15;
//! keepalived.conf(5)).

use alloc::format;
use alloc::string::String;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use crate::config::diagnostic::closest;
use crate::config::source::Span;
use crate::failover::config::{Broadcast, RouteKind, VirtualAddress, VirtualRoute, VirtualRule};
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::tree::Statement;
use crate::failover::value::{INTERFACE_NAME_MAX, address, filled, int, interface, prefix};

/// Scopes by name, as rtnetlink numbers them.
const SCOPES: &[(&str, u8)] = &[("global", 0), ("site", 200), ("link", 253), ("host", 254), ("nowhere", 255)];
/// Tables by name, as in rt_tables of iproute2.
const TABLES: &[(&str, u32)] = &[("default", 253), ("main", 254), ("local", 255)];

/// Words of an address line, and how many words follow them; `None` has an effect here.
const ADDRESS_WORDS: &[(&str, Option<usize>)] = &[
    ("dev", None),
    ("brd", None),
    ("broadcast", None),
    ("scope", None),
    ("label", None),
    ("peer", None),
    ("home", None),
    ("-nodad", None),
    ("noprefixroute", None),
    ("no_track", None),
    ("preferred_lft", None),
    ("use_vmac", Some(0)),
    ("mngtmpaddr", Some(0)),
    ("autojoin", Some(0)),
    ("track_group", Some(1)),
];

/// The same of routes.
const ROUTE_WORDS: &[(&str, Option<usize>)] = &[
    ("via", None),
    ("gw", None),
    ("dev", None),
    ("oif", None),
    ("src", None),
    ("to", None),
    ("table", None),
    ("metric", None),
    ("priority", None),
    ("preference", None),
    ("scope", None),
    ("unicast", None),
    ("blackhole", None),
    ("unreachable", None),
    ("prohibit", None),
    ("no_track", Some(0)),
    ("onlink", Some(0)),
    ("inet", Some(0)),
    ("inet6", Some(0)),
    ("add", Some(0)),
    ("append", Some(0)),
    ("prepend", Some(0)),
    ("tos", Some(1)),
    ("dsfield", Some(1)),
    ("protocol", Some(1)),
    ("mtu", Some(1)),
    ("hoplimit", Some(1)),
    ("advmss", Some(1)),
    ("rtt", Some(1)),
    ("rttvar", Some(1)),
    ("reordering", Some(1)),
    ("window", Some(1)),
    ("cwnd", Some(1)),
    ("ssthresh", Some(1)),
    ("realms", Some(1)),
    ("rto_min", Some(1)),
    ("initcwnd", Some(1)),
    ("initrwnd", Some(1)),
    ("vrf", Some(1)),
    ("features", Some(1)),
    ("quickack", Some(1)),
    ("congctl", Some(1)),
    ("pref", Some(1)),
    ("ttl-propagate", Some(1)),
    ("fastopen_no_cookie", Some(1)),
    ("track_group", Some(1)),
];

/// The same of rules.
const RULE_WORDS: &[(&str, Option<usize>)] = &[
    ("from", None),
    ("to", None),
    ("iif", None),
    ("dev", None),
    ("fwmark", None),
    ("table", None),
    ("lookup", None),
    ("preference", None),
    ("priority", None),
    ("order", None),
    ("no_track", Some(0)),
    ("inet", Some(0)),
    ("inet6", Some(0)),
    ("track_group", Some(1)),
];

/// Words of one line, taken from the front.
struct Cursor<'a> {
    words: core::slice::Iter<'a, Word>,
    what: &'static str,
    known: &'static [(&'static str, Option<usize>)],
    line: Span,
}

impl<'a> Cursor<'a> {
    fn next(&mut self) -> Option<&'a Word> {
        self.words.next()
    }

    /// The word behind `keyword`.
    fn value(&mut self, keyword: &Word, messages: &mut Messages) -> Option<&'a Word> {
        let next = self.words.next();
        if next.is_none() {
            let message = format!("something is missing behind '{}'", keyword.text);
            messages.error(keyword.span, message, "write its value behind it, on the same line");
        }
        next
    }

    /// A word without effect is told about and passed over with what belongs to it; any other is refused.
    fn other(&mut self, word: &Word, messages: &mut Messages) -> Option<()> {
        let known = self.known.iter().find(|(name, _)| *name == word.text);
        if let Some((name, Some(values))) = known {
            messages.warn(
                word.span,
                format!("'{name}' has no effect here"),
                "take it away, or live without it",
            );
            for _ in 0..*values {
                self.value(word, messages)?;
            }
            return Some(());
        }
        let help = match closest(&word.text, self.known.iter().map(|(name, _)| *name)) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("write one {} a line", self.what),
        };
        messages.error(
            word.span,
            format!("'{}' is not known in the line of {}", word.text, article(self.what)),
            help,
        );
        None
    }
}

fn article(what: &str) -> String {
    if what.starts_with('a') { format!("an {what}") } else { format!("a {what}") }
}

fn scope(word: &Word, messages: &mut Messages) -> Option<u8> {
    match SCOPES.iter().find(|(name, _)| *name == word.text) {
        Some((_, number)) => Some(*number),
        None => int("scope", word, 0, 255, messages).and_then(|n| u8::try_from(n).ok()),
    }
}

fn table(word: &Word, messages: &mut Messages) -> Option<u32> {
    match TABLES.iter().find(|(name, _)| *name == word.text) {
        Some((_, number)) => Some(*number),
        None => u32_of("table", word, messages),
    }
}

fn u32_of(name: &str, word: &Word, messages: &mut Messages) -> Option<u32> {
    int(name, word, 0, i64::from(u32::MAX), messages).and_then(|n| u32::try_from(n).ok())
}

/// A prefix, or `default` and its like, which is that of `like`.
fn destination(word: &Word, like: Option<IpAddr>, messages: &mut Messages) -> Option<(IpAddr, u8)> {
    if matches!(word.text.as_str(), "default" | "all" | "any") {
        let is_ipv6 = like.is_some_and(|address| address.is_ipv6());
        let zero =
            if is_ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        return Some((zero, 0));
    }
    prefix(word, messages)
}

/// One line of `virtual_ipaddress` or `virtual_ipaddress_excluded`.
pub(super) fn virtual_address(line: &Statement, messages: &mut Messages) -> Option<VirtualAddress> {
    let (first, rest) = line.words.split_first()?;
    let (ip, prefix_len) = prefix(first, messages)?;
    if ip.is_multicast() || ip.is_unspecified() {
        messages.error(
            first.span,
            format!("{ip} cannot be a virtual address"),
            "write the address of a host",
        );
        return None;
    }
    let mut cursor = Cursor { words: rest.iter(), what: "address", known: ADDRESS_WORDS, line: line.span() };
    let mut found = VirtualAddress {
        address: ip,
        prefix_len,
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
    while let Some(word) = cursor.next() {
        match word.text.as_str() {
            "dev" => found.interface = Some(interface(cursor.value(word, messages)?, messages)?),
            "brd" | "broadcast" => found.broadcast = broadcast(cursor.value(word, messages)?, ip, messages)?,
            "scope" => found.scope = scope(cursor.value(word, messages)?, messages)?,
            "label" => found.label = Some(label(cursor.value(word, messages)?, messages)?),
            "peer" => {
                let peer = cursor.value(word, messages)?;
                found.peer = Some(same_family(prefix(peer, messages)?, ip, peer, messages)?);
            }
            "home" => found.home = true,
            "-nodad" => found.no_dad = true,
            "noprefixroute" => found.no_prefix_route = true,
            "no_track" => found.no_track = true,
            "preferred_lft" => {
                let value = cursor.value(word, messages)?;
                found.preferred_lifetime = match value.text.as_str() {
                    "forever" => None,
                    _ => Some(Duration::from_secs(u64::from(u32_of("preferred_lft", value, messages)?))),
                };
            }
            _ => cursor.other(word, messages)?,
        }
    }
    Some(found)
}

fn broadcast(word: &Word, ip: IpAddr, messages: &mut Messages) -> Option<Broadcast> {
    if ip.is_ipv6() {
        messages.error(word.span, "IPv6 has no broadcast address", "take 'brd' away");
        return None;
    }
    match word.text.as_str() {
        "+" => Some(Broadcast::AllOnes),
        "-" => Some(Broadcast::AllZeroes),
        _ => same_family((address(word, messages)?, 32), ip, word, messages)
            .map(|(ip, _)| Broadcast::Address(ip)),
    }
}

fn label(word: &Word, messages: &mut Messages) -> Option<String> {
    let text = &filled(word, messages)?.text;
    if text.len() > INTERFACE_NAME_MAX {
        let message = format!("the label '{text}' is longer than {INTERFACE_NAME_MAX} characters");
        messages.error(word.span, message, "shorten what is behind the colon");
        return None;
    }
    Some(text.clone())
}

fn same_family(
    found: (IpAddr, u8),
    ip: IpAddr,
    word: &Word,
    messages: &mut Messages,
) -> Option<(IpAddr, u8)> {
    if found.0.is_ipv4() != ip.is_ipv4() {
        let message = format!("{} and {ip} are of two families", found.0);
        messages.error(word.span, message, "write an address of the same family");
        return None;
    }
    Some(found)
}

/// One line of `virtual_routes`.
pub(super) fn virtual_route(line: &Statement, messages: &mut Messages) -> Option<VirtualRoute> {
    let mut cursor =
        Cursor { words: line.words.iter(), what: "route", known: ROUTE_WORDS, line: line.span() };
    let mut to: Option<&Word> = None;
    let mut gateway: Option<(IpAddr, &Word)> = None;
    let mut source: Option<(IpAddr, &Word)> = None;
    let mut found = VirtualRoute {
        destination: (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        gateway: None,
        interface: None,
        source: None,
        table: None,
        metric: None,
        scope: None,
        kind: RouteKind::Unicast,
    };
    while let Some(word) = cursor.next() {
        match word.text.as_str() {
            "via" | "gw" => {
                let value = cursor.value(word, messages)?;
                let value =
                    if value.is("inet") || value.is("inet6") { cursor.value(word, messages)? } else { value };
                gateway = Some((address(value, messages)?, value));
            }
            "src" => {
                let value = cursor.value(word, messages)?;
                source = Some((address(value, messages)?, value));
            }
            "dev" | "oif" => found.interface = Some(interface(cursor.value(word, messages)?, messages)?),
            "table" => found.table = Some(table(cursor.value(word, messages)?, messages)?),
            "metric" | "priority" | "preference" => {
                found.metric = Some(u32_of("metric", cursor.value(word, messages)?, messages)?);
            }
            "scope" => found.scope = Some(scope(cursor.value(word, messages)?, messages)?),
            "to" => to = Some(cursor.value(word, messages)?),
            "unicast" => {}
            "blackhole" => found.kind = RouteKind::Blackhole,
            "unreachable" => found.kind = RouteKind::Unreachable,
            "prohibit" => found.kind = RouteKind::Prohibit,
            "or" | "nexthop" => {
                messages.error(word.span, "a route has one way here", "write one gateway");
                return None;
            }
            text if to.is_none() && is_destination(text) => to = Some(word),
            _ => cursor.other(word, messages)?,
        }
    }
    let Some(to) = to else {
        messages.error(
            cursor.line,
            "this route leads nowhere",
            "write a prefix like 192.0.2.0/24, or 'default'",
        );
        return None;
    };
    found.destination = destination(to, gateway.or(source).map(|(ip, _)| ip), messages)?;
    let like = found.destination.0;
    if let Some((ip, word)) = gateway {
        found.gateway = Some(same_family((ip, 0), like, word, messages)?.0);
    }
    if let Some((ip, word)) = source {
        found.source = Some(same_family((ip, 0), like, word, messages)?.0);
    }
    if found.kind == RouteKind::Unicast && found.gateway.is_none() && found.interface.is_none() {
        let help = "add 'via ADDRESS', 'dev INTERFACE' or both, or begin with 'blackhole'";
        messages.error(cursor.line, "this route says no way", help);
        return None;
    }
    Some(found)
}

fn is_destination(text: &str) -> bool {
    text == "default" || text.split('/').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok())
}

/// One line of `virtual_rules`.
pub(super) fn virtual_rule(line: &Statement, messages: &mut Messages) -> Option<VirtualRule> {
    let mut cursor = Cursor { words: line.words.iter(), what: "rule", known: RULE_WORDS, line: line.span() };
    let mut from: Option<&Word> = None;
    let mut to: Option<&Word> = None;
    let mut is_ipv6 = false;
    let mut chosen = None;
    let mut found =
        VirtualRule { from: None, to: None, incoming: None, mark: None, table: 0, preference: None };
    while let Some(word) = cursor.next() {
        match word.text.as_str() {
            "from" => from = Some(cursor.value(word, messages)?),
            "to" => to = Some(cursor.value(word, messages)?),
            "inet6" => is_ipv6 = true,
            "inet" => is_ipv6 = false,
            "iif" | "dev" => found.incoming = Some(interface(cursor.value(word, messages)?, messages)?),
            "fwmark" => found.mark = Some(u32_of("fwmark", cursor.value(word, messages)?, messages)?),
            "table" | "lookup" => chosen = Some(table(cursor.value(word, messages)?, messages)?),
            "preference" | "priority" | "order" => {
                found.preference = Some(u32_of("preference", cursor.value(word, messages)?, messages)?);
            }
            _ => cursor.other(word, messages)?,
        }
    }
    let Some(chosen) = chosen else {
        messages.error(cursor.line, "this rule names no table", "add 'table N'; other actions are not there");
        return None;
    };
    found.table = chosen;
    let literal = |word: &Word| word.text.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok());
    let unspecified = is_ipv6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let like = from.and_then(literal).or_else(|| to.and_then(literal)).or(unspecified);
    if let Some(word) = from {
        found.from = Some(destination(word, like, messages)?);
    }
    if let Some(word) = to {
        found.to = Some(destination(word, like, messages)?);
    }
    if let (Some(from), Some(_), Some(word)) = (found.from, found.to, to) {
        found.to = Some(same_family(found.to?, from.0, word, messages)?);
    }
    if found.from.is_none() && found.to.is_none() && is_ipv6 {
        // Without an address the family would be lost.
        found.from = Some((IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0));
    }
    Some(found)
}
