//! What is tracked and what is notified: `vrrp_script`, `track_file`, `vrrp_track_process`, `vrrp_sync_group`, and the
//! lists of trackers (failover 1.11 to 1.13).

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Draft, GroupDraft, Kind, TrackerDraft, unexpected};
use crate::failover::config::{
    Command, Notify, SyncGroup, TrackFile, TrackProcess, TrackScript, TrackTarget, Tracker,
};
use crate::failover::keywords::{FILE, GROUP, PROCESS, SCRIPT};
use crate::failover::messages::Messages;
use crate::failover::tree::Statement;
use crate::failover::value::{
    Entry, Value, command, entries, filled, int, interface, joined, names, reverse,
};

/// A weight that the tables limit.
fn weight(number: i64) -> i16 {
    i16::try_from(number).unwrap_or(0)
}

impl Draft {
    pub(super) fn script(&mut self, statement: &Statement, messages: &mut Messages) {
        let Some((name, span)) = self.name(Kind::Script, statement, messages) else { return };
        let mut words = None;
        let mut is_given = false;
        let mut timeout = None;
        let mut script = TrackScript {
            name,
            command: Command { words: Vec::new(), user: None },
            interval: Duration::from_secs(1),
            timeout: Duration::ZERO,
            rise: 1,
            fall: 1,
            weight: 0,
            reverse: false,
            starts_failed: false,
            user: None,
        };
        for entry in entries(&SCRIPT, statement.block(), messages) {
            match (entry.name, entry.value) {
                ("script", Value::Words(given)) => {
                    is_given = true;
                    words = command(given, messages);
                }
                ("interval", Value::Time(time)) => script.interval = time,
                ("timeout", Value::Time(time)) => timeout = Some(time),
                ("weight", Value::Weight(number, reverse)) => {
                    (script.weight, script.reverse) = (weight(number), reverse);
                }
                ("rise", Value::Int(n)) => script.rise = super::globals::count(n),
                ("fall", Value::Int(n)) => script.fall = super::globals::count(n),
                ("user", Value::Words(words)) => script.user = names(words, messages),
                ("init_fail", _) => script.starts_failed = true,
                (name, _) => unexpected(name),
            }
        }
        script.timeout = timeout.unwrap_or(script.interval);
        if let Some(words) = words {
            script.command = Command { words, user: script.user.clone() };
            self.config.scripts.push(script);
        } else if !is_given {
            let message = format!("vrrp_script {} has no 'script'", script.name);
            messages.error(span, message, "add a line like 'script \"/usr/local/bin/check --fast\"'");
        }
    }

    pub(super) fn track_file(&mut self, statement: &Statement, messages: &mut Messages) {
        let Some((name, span)) = self.name(Kind::File, statement, messages) else { return };
        let mut path = None;
        let mut file = TrackFile { name, path: String::new(), weight: 1, reverse: false, init: None };
        for entry in entries(&FILE, statement.block(), messages) {
            match (entry.name, entry.value) {
                ("file", Value::Word(word)) => path = Some(word.text.clone()),
                ("weight", Value::Weight(number, reverse)) => {
                    (file.weight, file.reverse) = (weight(number), reverse);
                }
                ("init_file", Value::Words(words)) => {
                    let (value, rest) = match words {
                        [first, rest @ ..] if !first.is("overwrite") => (
                            int("init_file", first, i64::from(i32::MIN), i64::from(i32::MAX), messages),
                            rest,
                        ),
                        words => (Some(0), words),
                    };
                    match rest {
                        [] => file.init = value.map(|value| (value, false)),
                        [word] if word.is("overwrite") => file.init = value.map(|value| (value, true)),
                        [word, ..] => {
                            let message = format!("'{}' does not belong here", word.text);
                            messages.error(word.span, message, "write 'init_file VALUE overwrite'");
                        }
                    }
                }
                (name, _) => unexpected(name),
            }
        }
        match path {
            Some(path) => {
                file.path = path;
                self.config.track_files.push(file);
            }
            None => {
                let message = format!("track_file {} has no 'file'", file.name);
                messages.error(span, message, "add a line like 'file \"/run/app/health\"'");
            }
        }
    }

    pub(super) fn process(&mut self, statement: &Statement, messages: &mut Messages) {
        let Some((name, span)) = self.name(Kind::Process, statement, messages) else { return };
        let mut what = None;
        let mut quorum = None;
        let mut process = TrackProcess {
            name,
            process: String::new(),
            quorum: 1,
            quorum_max: None,
            weight: 1,
            reverse: false,
            rise_delay: Duration::ZERO,
            fall_delay: Duration::ZERO,
        };
        for entry in entries(&PROCESS, statement.block(), messages) {
            match (entry.name, entry.value) {
                ("process", Value::Words(words)) => what = Some(joined(words)),
                ("weight", Value::Weight(number, reverse)) => {
                    (process.weight, process.reverse) = (weight(number), reverse);
                }
                ("quorum", Value::Int(n)) => quorum = Some(super::globals::count(n)),
                ("quorum_max", Value::Int(n)) => process.quorum_max = Some(super::globals::count(n)),
                ("delay", Value::Time(time)) => (process.rise_delay, process.fall_delay) = (time, time),
                ("fork_delay", Value::Time(time)) => process.rise_delay = time,
                ("terminate_delay", Value::Time(time)) => process.fall_delay = time,
                (name, _) => unexpected(name),
            }
        }
        // 'quorum_max 0' alone means that none may run.
        process.quorum = quorum.unwrap_or(if process.quorum_max == Some(0) { 0 } else { 1 });
        if process.quorum_max.is_some_and(|max| max < process.quorum) {
            let message = format!("vrrp_track_process {}: quorum_max is below quorum", process.name);
            messages.error(span, message, "so many processes can never run; correct one of the two");
        }
        match what.filter(|what| !what.is_empty()) {
            Some(what) => {
                process.process = what;
                self.config.track_processes.push(process);
            }
            None => {
                let message = format!("vrrp_track_process {} has no 'process'", process.name);
                messages.error(span, message, "add a line like 'process nginx'");
            }
        }
    }

    pub(super) fn group(&mut self, statement: &Statement, messages: &mut Messages) {
        let Some((name, name_span)) = self.name(Kind::Group, statement, messages) else { return };
        let notify = self.defaults.notify();
        let group = SyncGroup { name, members: Vec::new(), trackers: Vec::new(), notify };
        let mut draft = GroupDraft { group, trackers: Vec::new(), name_span, member_spans: Vec::new() };
        for entry in entries(&GROUP, statement.block(), messages) {
            match (entry.name, &entry.value) {
                ("group", Value::Lines(lines)) => {
                    for word in lines.iter().flat_map(|line| &line.words) {
                        draft.group.members.push(word.text.clone());
                        draft.member_spans.push(word.span);
                    }
                }
                _ if trackers(&entry, &mut draft.trackers, messages) => {}
                _ => notify_line(entry, &mut draft.group.notify, messages),
            }
        }
        self.note_mails(statement, name_span, &draft.group.notify);
        if draft.group.members.is_empty() {
            let message = format!("vrrp_sync_group {} has no members", draft.group.name);
            messages.error(
                name_span,
                message,
                "add 'group {' with the names of instances, one a line, and '}'",
            );
        }
        self.groups.push(draft);
    }
}

/// Takes a list of trackers; `false` if the entry is something else.
pub(super) fn trackers(entry: &Entry<'_>, list: &mut Vec<TrackerDraft>, messages: &mut Messages) -> bool {
    let Value::Lines(lines) = entry.value else { return false };
    let (target, limit): (fn(String) -> TrackTarget, i64) = match entry.name {
        "track_interface" => (TrackTarget::Interface, 253),
        "track_script" => (TrackTarget::Script, 253),
        "track_file" => (TrackTarget::File, 254),
        "track_process" => (TrackTarget::Process, 254),
        "track_resource" => (TrackTarget::Resource, 253),
        _ => return false,
    };
    let kind = core::mem::discriminant(&target(String::new()));
    let known = list.iter().filter(|known| core::mem::discriminant(&known.tracker.target) == kind);
    let mut seen: BTreeSet<String> = known.map(|known| name_of(&known.tracker.target).to_owned()).collect();
    for line in lines {
        let found = tracker(entry.name, line, target, limit, messages);
        let Some(found) = found else { continue };
        if !seen.insert(name_of(&found.tracker.target).to_owned()) {
            let message = format!("'{}' is tracked twice", line.keyword());
            messages.error(found.span, message, "keep one of the two");
        }
        list.push(found);
    }
    true
}

fn name_of(target: &TrackTarget) -> &str {
    match target {
        TrackTarget::Interface(name)
        | TrackTarget::Script(name)
        | TrackTarget::File(name)
        | TrackTarget::Process(name)
        | TrackTarget::Resource(name) => name,
    }
}

fn tracker(
    keyword: &str,
    line: &Statement,
    target: fn(String) -> TrackTarget,
    limit: i64,
    messages: &mut Messages,
) -> Option<TrackerDraft> {
    let (name, rest) = line.words.split_first()?;
    let text = match keyword {
        "track_interface" => interface(name, messages)?,
        _ => filled(name, messages)?.text.clone(),
    };
    let tracker = Tracker { target: target(text), weight: 0, reverse: false };
    let mut draft = TrackerDraft { tracker, has_weight: false, has_reverse: false, span: name.span };
    match rest {
        [] => {}
        [word, number, rest @ ..] if word.is("weight") && rest.len() <= 1 => {
            draft.tracker.weight = weight(int("weight", number, -limit, limit, messages)?);
            draft.has_weight = true;
            if let Some(word) = rest.first() {
                draft.tracker.reverse = reverse(word, messages)?;
                draft.has_reverse = true;
            }
        }
        [word, ..] => {
            let message = format!("'{}' does not belong behind a name in {keyword}", word.text);
            messages.error(
                word.span,
                message,
                "write one name a line, perhaps with 'weight N reverse' behind it",
            );
            return None;
        }
    }
    Some(draft)
}

/// `notify*` and `smtp_alert`.
pub(super) fn notify_line(entry: Entry<'_>, notify: &mut Notify, messages: &mut Messages) {
    match (entry.name, entry.value) {
        ("notify_master", Value::Command(command)) => notify.master = Some(command),
        ("notify_backup", Value::Command(command)) => notify.backup = Some(command),
        ("notify_fault", Value::Command(command)) => notify.fault = Some(command),
        ("notify_stop", Value::Command(command)) => notify.stop = Some(command),
        ("notify_deleted", Value::Command(command)) => notify.deleted = Some(command),
        ("notify_deleted", Value::Nothing) => {
            let help = "the event DELETED is always told apart from FAULT";
            messages.warn(
                entry.statement.span(),
                "'notify_deleted' without a command has no effect here".to_owned(),
                help,
            );
        }
        ("notify_master_rx_lower_pri", Value::Command(command)) => {
            notify.master_rx_lower_priority = Some(command);
        }
        ("notify", Value::Command(command)) => notify.any = Some(command),
        ("smtp_alert", Value::Flag(flag)) => notify.mails = flag,
        (name, _) => unexpected(name),
    }
}
