//! `ha.cf` and `authkeys` (failover 3.1 and 3.3).

use alloc::format;
use alloc::string::String;

use super::{Fate, Line, Reader};
use crate::config::diagnostic::closest;
use crate::failover::heartbeat::{AutoFailback, HeartbeatMembership};
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::parse::{heartbeat_directive, heartbeat_key};
use crate::failover::value::{int, one_of};

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

/// What both files say.
pub(super) struct HaCf {
    pub(super) membership: HeartbeatMembership,
    pub(super) auto_failback: AutoFailback,
}

/// The membership that both files describe, and what is said of failback.
pub(super) fn read(reader: &mut Reader<'_>, path: &str, authkeys: &str) -> HaCf {
    let mut ha_cf = HaCf { membership: HeartbeatMembership::default(), auto_failback: AutoFailback::Legacy };
    for line in reader.lines(path, false) {
        directive(reader, &line, &mut ha_cf);
    }
    let membership = &mut ha_cf.membership;
    if membership.keepalive >= membership.deadtime {
        let message = "ha.cf: a node is dead before its next beat comes";
        reader.messages.cannot(None, message.into(), "make deadtime several times as long as keepalive");
    }
    keys(reader, authkeys, membership);
    ha_cf
}

fn value<'a>(line: &'a Line, messages: &mut Messages) -> Option<&'a Word> {
    let word = line.words.get(1);
    if word.is_none() {
        messages.error(line.span, "a value is missing", "write it behind the directive");
    }
    word
}

fn directive(reader: &mut Reader<'_>, line: &Line, ha_cf: &mut HaCf) {
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
    let Some(what) = counted(name, line, ha_cf, reader.messages) else { return };
    let fate = if name.is("auto_failback") { Fate::Mapped } else { Fate::Membership };
    reader.note(line.span, line.text(), fate, what);
}

/// What a directive became; `None` if it was refused.
fn counted(name: &Word, line: &Line, ha_cf: &mut HaCf, messages: &mut Messages) -> Option<String> {
    let port = ha_cf.membership.udp_port;
    if name.is("auto_failback") {
        return auto_failback(line, ha_cf, messages);
    }
    heartbeat_directive(&name.text, &line.words[1..], line.span, &mut ha_cf.membership, messages)?;
    Some(match name.text.as_str() {
        "keepalive" => "pause between beats".into(),
        "deadtime" => "silence until a node is dead".into(),
        "warntime" => "silence until a warning".into(),
        "initdead" => "silence at the start until a node is dead".into(),
        "udpport" => "UDP port of the media behind this line".into(),
        "bcast" | "udp" => format!("broadcasts to port {port}"),
        "mcast" => "multicasts".into(),
        "ucast" => format!("unicasts to port {port}"),
        "node" => "nodes".into(),
        "hopfudge" => "hops of messages beyond the number of nodes".into(),
        _ => "form of messages".into(),
    })
}

fn auto_failback(line: &Line, ha_cf: &mut HaCf, messages: &mut Messages) -> Option<String> {
    let word = value(line, messages)?;
    let choices = &["on", "off", "yes", "no", "true", "false", "legacy"];
    ha_cf.auto_failback = match one_of("auto_failback", word, choices, messages)? {
        "on" | "yes" | "true" => AutoFailback::On,
        "off" | "no" | "false" => AutoFailback::Off,
        _ => AutoFailback::Legacy,
    };
    Some(match ha_cf.auto_failback {
        AutoFailback::On => "failback yes of services; instances without one preempt".into(),
        AutoFailback::Off => "failback no of services; nopreempt of instances without one".into(),
        AutoFailback::Legacy => {
            "failback no of services: write 'failback yes' if they shall move back".into()
        }
    })
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
        let Some((number, method)) = heartbeat_key(first, rest, membership, reader.messages) else {
            continue;
        };
        reader.note(line.span, shown, Fate::Membership, format!("key {number}, {method}"));
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
