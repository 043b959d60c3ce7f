//! `heartbeat`: the directives of ha.cf and the lines of authkeys that matter between nodes (failover 3.1 and 3.3). heartbeat's
//! own files are read by the same code.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::net::Ipv4Addr;
use core::time::Duration;

use super::{Draft, unexpected};
use crate::config::source::Span;
use crate::failover::heartbeat::{AuthKey, HeartbeatMembership, Medium};
use crate::failover::keywords::HEARTBEAT;
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::tree::Statement;
use crate::failover::value::{Value, entries, filled, int, interface, one_of};

/// Longest name of a node: names stand in every message.
const NODE_BYTES_MAX: usize = 64;
/// So many nodes may there be: each message names how many hops it may make, in one octet.
const NODES_MAX: usize = 64;
/// So many media.
const MEDIA_MAX: usize = 16;

impl Draft {
    pub(super) fn heartbeat(&mut self, statement: &Statement, messages: &mut Messages) {
        let span = statement.span();
        if let Some(word) = statement.arguments().first() {
            messages.error(word.span, "'heartbeat' takes no name", "write 'heartbeat {'");
        }
        if let Some(first) = self.heartbeat_span.replace(span) {
            let help = format!("the first is at {}; make one of the two", messages.file_line(first));
            return messages.error(span, "there are two blocks 'heartbeat'", help);
        }
        let mut membership = HeartbeatMembership::default();
        for entry in entries(&HEARTBEAT, statement.block(), messages) {
            let line = entry.statement;
            match entry.value {
                Value::Lines(lines) => keys(lines, &mut membership, messages),
                Value::Words(_) | Value::Step => {
                    if let Some(block) = line.body.as_ref().and_then(|body| body.first()) {
                        let help = "take the braces away, with what is in them";
                        messages.error(block.span(), format!("'{}' has no block", entry.name), help);
                    }
                    directive(entry.name, line.arguments(), line.span(), &mut membership, messages);
                }
                _ => unexpected(entry.name),
            }
        }
        complete(&membership, span, messages);
        self.config.heartbeat = Some(membership);
    }
}

/// What has to be said for messages to be sent, and times that fit each other.
fn complete(membership: &HeartbeatMembership, span: Span, messages: &mut Messages) {
    if membership.media.is_empty() {
        messages.error(span, "heartbeat has no medium", "add a line like 'bcast eth0'");
    }
    if membership.nodes.len() < 2 {
        messages.error(span, "heartbeat needs two nodes", "name all of them, as 'uname -n' does there");
    }
    if membership.signs_with == 0 {
        let help = "add 'authkeys {', lines 'auth 1' and '1 sha1 SECRET', and '}'";
        messages.error(span, "heartbeat has no key to sign messages with", help);
    }
    if membership.keepalive >= membership.deadtime {
        let message = "a node is dead before its next beat comes";
        messages.error(span, message, "make deadtime several times as long as keepalive");
    }
    if membership.warntime.is_some_and(|warn| warn <= membership.keepalive) {
        let help = "make warntime longer than keepalive";
        messages.warn(span, "every beat of every node is late", help);
    }
    if membership.warntime.is_some_and(|warn| warn >= membership.deadtime) {
        let help = "make warntime shorter than deadtime";
        messages.warn(span, "a node is dead before anybody is warned", help);
    }
}

/// One directive with its values; `None` if it was refused.
pub(in crate::failover) fn directive(
    name: &str,
    values: &[Word],
    span: Span,
    membership: &mut HeartbeatMembership,
    messages: &mut Messages,
) -> Option<()> {
    let port = membership.udp_port;
    let Some(first) = values.first() else {
        messages.error(span, "a value is missing", "write it behind the directive");
        return None;
    };
    match name {
        "keepalive" => membership.keepalive = time(first, messages)?,
        "deadtime" => membership.deadtime = time(first, messages)?,
        "warntime" => membership.warntime = Some(time(first, messages)?),
        "initdead" => membership.initdead = Some(time(first, messages)?),
        "udpport" => membership.udp_port = udp_port(first, messages)?,
        "bcast" | "udp" => {
            for word in values {
                let interface = interface(word, messages)?;
                medium(Medium::Broadcast { interface, port }, span, membership, messages)?;
            }
        }
        "mcast" => {
            let [name, group, port, ttl, ..] = values else {
                messages.error(span, "mcast needs four values", "write 'mcast IF GROUP PORT TTL 0'");
                return None;
            };
            let interface = interface(name, messages)?;
            let Some(group) = group.text.parse::<Ipv4Addr>().ok().filter(Ipv4Addr::is_multicast) else {
                let message = format!("'{}' is no multicast address", group.text);
                messages.error(group.span, message, "write one like 239.0.0.42");
                return None;
            };
            let port = udp_port(port, messages)?;
            let ttl = u8::try_from(int("TTL", ttl, 0, 255, messages)?).ok()?;
            medium(Medium::Multicast { interface, group, port, ttl }, span, membership, messages)?;
        }
        "ucast" => {
            let [name, peer, ..] = values else {
                messages.error(span, "ucast needs two values", "write 'ucast IF PEER'");
                return None;
            };
            let interface = interface(name, messages)?;
            let Ok(peer) = peer.text.parse::<Ipv4Addr>() else {
                let message = format!("'{}' is not an address of IPv4", peer.text);
                messages.error(peer.span, message, "write one like 192.0.2.1; names are not looked up");
                return None;
            };
            medium(Medium::Unicast { interface, peer, port }, span, membership, messages)?;
        }
        "node" => {
            for word in values {
                node(word, membership, messages)?;
            }
        }
        "hopfudge" => {
            membership.hop_fudge = u8::try_from(int("hopfudge", first, 0, 255, messages)?).ok()?;
        }
        "msgfmt" => {
            let format = one_of("msgfmt", first, &["classic", "netstring"], messages)?;
            membership.netstring = format == "netstring";
        }
        name => unexpected(name),
    }
    Some(())
}

fn medium(
    medium: Medium,
    span: Span,
    membership: &mut HeartbeatMembership,
    messages: &mut Messages,
) -> Option<()> {
    if membership.media.len() == MEDIA_MAX {
        messages.error(span, format!("{MEDIA_MAX} media are enough"), "take some of them away");
        return None;
    }
    membership.media.push(medium);
    Some(())
}

/// Names stand between blanks in messages.
fn node(word: &Word, membership: &mut HeartbeatMembership, messages: &mut Messages) -> Option<()> {
    let text = &filled(word, messages)?.text;
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    if text.len() > NODE_BYTES_MAX || text.contains(is_odd) {
        let help = format!("write what 'uname -n' says there: {NODE_BYTES_MAX} octets at most, no blanks");
        messages.error(word.span, "this cannot be the name of a node", help);
        return None;
    }
    if membership.nodes.iter().any(|known| known.eq_ignore_ascii_case(text)) {
        messages.warn(word.span, format!("the node {text} stands here again"), "once is enough");
        return Some(());
    }
    if membership.nodes.len() == NODES_MAX {
        messages.error(word.span, format!("{NODES_MAX} nodes are the most"), "take some of them away");
        return None;
    }
    membership.nodes.push(text.clone());
    Some(())
}

fn udp_port(word: &Word, messages: &mut Messages) -> Option<u16> {
    u16::try_from(int("port", word, 1, 65_535, messages)?).ok()
}

/// Seconds, or milliseconds with `ms` behind them.
fn time(word: &Word, messages: &mut Messages) -> Option<Duration> {
    let (digits, unit_ms) = match word.text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (word.text.strip_suffix('s').unwrap_or(&word.text), 1000),
    };
    let number: Option<u64> = digits
        .parse()
        .ok()
        .filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
        .filter(|n| *n <= 86_400_000);
    let time = number.map(|number| Duration::from_millis(number * unit_ms)).filter(|time| !time.is_zero());
    if time.is_none() {
        messages.error(
            word.span,
            format!("'{}' is not a time", word.text),
            "write seconds, or milliseconds as 500ms",
        );
    }
    time
}

/// The block `authkeys`: its lines are those of the file of that name.
fn keys(lines: &[Statement], membership: &mut HeartbeatMembership, messages: &mut Messages) {
    let mut sign = None;
    for line in lines {
        let Some((first, rest)) = line.words.split_first() else { continue };
        if !first.is("auth") {
            key(first, rest, membership, messages);
            continue;
        }
        match rest.first() {
            Some(number) => sign = int("auth", number, 1, 15, messages).map(|n| (n, number.span)).or(sign),
            None => messages.error(first.span, "a value is missing", "write 'auth' and the number of a key"),
        }
    }
    let Some((number, span)) = sign else { return };
    membership.signs_with = u8::try_from(number).unwrap_or(0);
    if !membership.keys.contains_key(&membership.signs_with) {
        messages.error(span, format!("there is no key {number}"), "add a line like '1 sha1 SECRET'");
    }
}

/// `N METHOD [SECRET]`; gives the number and the method.
pub(in crate::failover) fn key(
    first: &Word,
    rest: &[Word],
    membership: &mut HeartbeatMembership,
    messages: &mut Messages,
) -> Option<(u8, String)> {
    let number = u8::try_from(int("the number of a key", first, 1, 15, messages)?).ok()?;
    let Some((method, secret)) = rest.split_first() else {
        messages.error(first.span, "the method of this key is missing", "write 'N sha1 SECRET'");
        return None;
    };
    let key = match (one_of("method", method, &["crc", "md5", "sha1"], messages)?, secret) {
        ("crc", _) => AuthKey::Crc,
        ("md5", [secret]) if !secret.text.is_empty() => AuthKey::Md5(secret.text.clone()),
        (_, [secret]) if !secret.text.is_empty() => AuthKey::Sha1(secret.text.clone()),
        _ => {
            let help = "write 'N sha1 SECRET', without blanks in it";
            messages.error(method.span, "this key needs one secret", help);
            return None;
        }
    };
    let method = key.method().to_owned();
    if membership.keys.insert(number, key).is_some() {
        messages.error(first.span, format!("there are two keys {number}"), "number them 1 to 15");
    }
    Some((number, method))
}
