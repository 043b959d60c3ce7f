//! `ha.cf` and `authkeys` (failover 3.1 and 3.3).

use alloc::format;
use alloc::string::String;
use core::net::Ipv4Addr;
use core::time::Duration;

use super::{Fate, Line, Reader};
use crate::config::diagnostic::closest;
use crate::failover::heartbeat::{AuthKey, AutoFailback, HeartbeatMembership, Medium};
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::value::{address, int, interface, one_of};

/// Directives that count.
const COUNT: &[&str] = &[
    "keepalive",
    "deadtime",
    "warntime",
    "initdead",
    "udpport",
    "bcast",
    "udp",
    "mcast",
    "ucast",
    "node",
    "auto_failback",
    "hopfudge",
    "msgfmt",
];

const LOG: &str = "messages go to standard error, and from there to the journal";
const PROCESS: &str = "it is about heartbeat's own processes";
const PING: &str = "there are no ping nodes; a vrrp_script can look at a gateway";
const FENCING: &str = "fencing is the fence-peer handler of the resource";
const MEDIA: &str = "messages go over UDP and IPv4 only";

/// The others: what becomes of them, and why.
const OTHERS: &[(&str, Fate, &str)] = &[
    ("logfile", Fate::Ignored, LOG),
    ("debugfile", Fate::Ignored, LOG),
    ("logfacility", Fate::Ignored, LOG),
    ("use_logd", Fate::Ignored, LOG),
    ("conn_logd_time", Fate::Ignored, LOG),
    ("debug", Fate::Ignored, LOG),
    ("debuglevel", Fate::Ignored, LOG),
    ("realtime", Fate::Ignored, PROCESS),
    ("rtprio", Fate::Ignored, PROCESS),
    ("coredumps", Fate::Ignored, PROCESS),
    ("apiauth", Fate::Ignored, PROCESS),
    ("hbgenmethod", Fate::Ignored, PROCESS),
    ("uuidfrom", Fate::Ignored, PROCESS),
    ("compression", Fate::Ignored, "messages are small"),
    ("compression_threshold", Fate::Ignored, "messages are small"),
    ("traditional_compression", Fate::Ignored, "messages are small"),
    ("autojoin", Fate::Ignored, "nodes are those that are named"),
    ("deadping", Fate::NotServed, PING),
    ("ping", Fate::NotServed, PING),
    ("ping_group", Fate::NotServed, PING),
    ("hbaping", Fate::NotServed, PING),
    ("respawn", Fate::NotServed, "let systemd keep the program running; what ipfail did, a vrrp_script does"),
    ("stonith", Fate::NotServed, FENCING),
    ("stonith_host", Fate::NotServed, FENCING),
    ("watchdog", Fate::NotServed, "there is no watchdog yet"),
    ("serial", Fate::NotServed, MEDIA),
    ("baud", Fate::NotServed, MEDIA),
    ("mcast6", Fate::NotServed, MEDIA),
    ("ucast6", Fate::NotServed, MEDIA),
    ("crm", Fate::NotServed, "what Pacemaker does is not in these files"),
    ("pacemaker", Fate::NotServed, "what Pacemaker does is not in these files"),
];

/// The membership that both files describe.
pub(super) fn membership(reader: &mut Reader<'_>, ha_cf: &str, authkeys: &str) -> HeartbeatMembership {
    let mut membership = HeartbeatMembership::default();
    for line in reader.lines(ha_cf, false) {
        directive(reader, &line, &mut membership);
    }
    if membership.keepalive >= membership.deadtime {
        let message = "ha.cf: a node is dead before its next beat comes";
        reader.messages.cannot(None, message.into(), "make deadtime several times as long as keepalive");
    }
    keys(reader, authkeys, &mut membership);
    membership
}

/// Seconds, or milliseconds with `ms` behind them.
fn time(line: &Line, messages: &mut Messages) -> Option<Duration> {
    let word = value(line, messages)?;
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

fn value<'a>(line: &'a Line, messages: &mut Messages) -> Option<&'a Word> {
    let word = line.words.get(1);
    if word.is_none() {
        messages.error(line.span, "a value is missing", "write it behind the directive");
    }
    word
}

fn directive(reader: &mut Reader<'_>, line: &Line, membership: &mut HeartbeatMembership) {
    let Some(name) = line.words.first() else { return };
    if let Some((_, fate, why)) = OTHERS.iter().find(|(other, ..)| *other == name.text) {
        return reader.note(line.span, line.text(), *fate, *why);
    }
    if !COUNT.contains(&name.text.as_str()) {
        let names = COUNT.iter().copied().chain(OTHERS.iter().map(|(name, ..)| *name));
        let help = match closest(&name.text, names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "heartbeat 3.0.6 does not know it either".into(),
        };
        reader.messages.warn(name.span, format!("'{}' is not a directive of ha.cf", name.text), help);
        return reader.note(line.span, line.text(), Fate::NotServed, "nobody knows what it means");
    }
    let Some(what) = counted(name, line, membership, reader.messages) else { return };
    let fate = if name.is("auto_failback") { Fate::Mapped } else { Fate::Membership };
    reader.note(line.span, line.text(), fate, what);
}

/// What a directive became; `None` if it was refused.
fn counted(
    name: &Word,
    line: &Line,
    membership: &mut HeartbeatMembership,
    messages: &mut Messages,
) -> Option<String> {
    let port = membership.udp_port;
    let values = &line.words[1..];
    match name.text.as_str() {
        "keepalive" => {
            membership.keepalive = time(line, messages)?;
            Some("pause between beats; here adverts come every second (advert_int)".into())
        }
        "deadtime" => {
            membership.deadtime = time(line, messages)?;
            Some("silence until a node is dead; with VRRP three adverts and the skew".into())
        }
        "warntime" => {
            membership.warntime = Some(time(line, messages)?);
            Some("silence until a warning".into())
        }
        "initdead" => {
            membership.initdead = Some(time(line, messages)?);
            Some("silence at the start until a node is dead".into())
        }
        "udpport" => {
            let port = int("udpport", value(line, messages)?, 1, 65_535, messages)?;
            membership.udp_port = u16::try_from(port).ok()?;
            Some("UDP port of the media behind this line".into())
        }
        "bcast" | "udp" => {
            value(line, messages)?;
            for word in values {
                let interface = interface(word, messages)?;
                membership.media.push(Medium::Broadcast { interface, port });
            }
            Some(format!("broadcasts to port {port}"))
        }
        "mcast" => {
            let [name, group, port, ttl, ..] = values else {
                messages.error(line.span, "mcast needs four values", "write 'mcast IF GROUP PORT TTL 0'");
                return None;
            };
            let interface = interface(name, messages)?;
            let Some(group) = group.text.parse::<Ipv4Addr>().ok().filter(Ipv4Addr::is_multicast) else {
                let message = format!("'{}' is no multicast address", group.text);
                messages.error(group.span, message, "write one like 239.0.0.42");
                return None;
            };
            let port = u16::try_from(int("port", port, 1, 65_535, messages)?).ok()?;
            let ttl = u8::try_from(int("TTL", ttl, 0, 255, messages)?).ok()?;
            membership.media.push(Medium::Multicast { interface, group, port, ttl });
            Some("multicasts".into())
        }
        "ucast" => {
            let [name, peer, ..] = values else {
                messages.error(line.span, "ucast needs two values", "write 'ucast IF PEER'");
                return None;
            };
            let interface = interface(name, messages)?;
            let peer = address(peer, messages)?;
            membership.media.push(Medium::Unicast { interface, peer, port });
            Some(format!("unicasts to port {port}"))
        }
        "node" => {
            value(line, messages)?;
            membership.nodes.extend(values.iter().map(|word| word.text.clone()));
            Some("nodes".into())
        }
        "auto_failback" => {
            let word = value(line, messages)?;
            let choice = one_of(
                "auto_failback",
                word,
                &["on", "off", "yes", "no", "true", "false", "legacy"],
                messages,
            )?;
            membership.auto_failback = match choice {
                "on" | "yes" | "true" => AutoFailback::On,
                "off" | "no" | "false" => AutoFailback::Off,
                _ => AutoFailback::Legacy,
            };
            Some(match membership.auto_failback {
                AutoFailback::On => "failback yes of services; instances without one preempt".into(),
                AutoFailback::Off => "failback no of services; nopreempt of instances without one".into(),
                AutoFailback::Legacy => {
                    "failback no of services: write 'failback yes' if they shall move back".into()
                }
            })
        }
        "hopfudge" => {
            let hops = int("hopfudge", value(line, messages)?, 0, 255, messages)?;
            membership.hop_fudge = u8::try_from(hops).ok()?;
            Some("hops of messages beyond the number of nodes".into())
        }
        "msgfmt" => {
            let format = one_of("msgfmt", value(line, messages)?, &["classic", "netstring"], messages)?;
            membership.netstring = format == "netstring";
            Some("form of messages".into())
        }
        _ => None,
    }
}

fn keys(reader: &mut Reader<'_>, path: &str, membership: &mut HeartbeatMembership) {
    let mut sign: Option<Word> = None;
    let lines = reader.lines(path, false);
    for line in &lines {
        let Some((first, rest)) = line.words.split_first() else { continue };
        // Its secret is shown to nobody.
        let shown: String = line.words.iter().take(2).map(|w| format!("{} ", w.text)).collect();
        let shown: String = shown.trim_end().into();
        if first.is("auth") {
            let Some(number) = value(line, reader.messages) else { continue };
            if int("auth", number, 1, 15, reader.messages).is_some() {
                sign = Some(number.clone());
                reader.note(line.span, shown, Fate::Membership, "key of own messages");
            }
            continue;
        }
        let Some(number) = int("the number of a key", first, 1, 15, reader.messages) else { continue };
        let Some(key) = key(line, rest, reader.messages) else { continue };
        let what = format!("key {number}, {}", key.method());
        if membership.keys.insert(number as u8, key).is_some() {
            reader.messages.error(first.span, format!("there are two keys {number}"), "number them 1 to 15");
        }
        reader.note(line.span, shown, Fate::Membership, what);
    }
    match sign {
        Some(word) => {
            membership.signs_with = word.text.parse().unwrap_or(0);
            if !membership.keys.contains_key(&membership.signs_with) {
                let help = "add a line like '1 sha1 SECRET'";
                reader.messages.error(word.span, format!("there is no key {}", word.text), help);
            }
        }
        None => {
            if let Some(line) = lines.last() {
                let help = "add a line like 'auth 1'";
                reader.messages.error(line.span, "no line says which key is used", help);
            }
        }
    }
}

fn key(line: &Line, rest: &[Word], messages: &mut Messages) -> Option<AuthKey> {
    let Some((method, secret)) = rest.split_first() else {
        messages.error(line.span, "the method of this key is missing", "write 'N sha1 SECRET'");
        return None;
    };
    match (one_of("method", method, &["crc", "md5", "sha1"], messages)?, secret) {
        ("crc", _) => Some(AuthKey::Crc),
        ("md5", [secret]) => Some(AuthKey::Md5(secret.text.clone())),
        (_, [secret]) => Some(AuthKey::Sha1(secret.text.clone())),
        _ => {
            messages.error(
                method.span,
                "this key needs one secret",
                "write 'N sha1 SECRET', without blanks in it",
            );
            None
        }
    }
}
