//! Words of a line to values, as the tables of keywords say.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::config::Command;
use super::keywords::{Effect, Keyword, Place, S, Shape};
use super::lexer::{Word, split_command};
use super::messages::Messages;
use super::tree::Statement;
use crate::config::diagnostic::closest;
use crate::config::source::Span;

/// Longest name of an interface, and of an address' label.
pub(super) const INTERFACE_NAME_MAX: usize = 15;

/// What stands behind a keyword.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// Of [`Shape::Bare`], and of [`Shape::PerhapsCommand`] without one.
    Nothing,
    /// Of [`Shape::Flag`].
    Flag(bool),
    /// Of [`Shape::Int`].
    Int(i64),
    /// Of [`Shape::Time`].
    Time(Duration),
    /// Of [`Shape::OneOf`], as the table writes it.
    Choice(&'static str),
    /// Of [`Shape::Word`].
    Word(&'a Word),
    /// Of [`Shape::Words`].
    Words(&'a [Word]),
    /// Of [`Shape::Command`].
    Command(Command),
    /// Of [`Shape::Address`].
    Address(IpAddr),
    /// Of [`Shape::Endpoint`].
    Endpoint,
    /// Of [`Shape::Weight`], and whether it is reversed.
    Weight(i64, bool),
    /// Of [`Shape::Lines`].
    Lines(&'a [Statement]),
    /// Of [`Shape::Block`] and [`Shape::EndpointBlock`].
    Block(&'static Place, &'a [Statement]),
    /// Of [`Shape::Step`].
    Step,
}

/// One keyword of a block with its value.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// Today's name.
    pub(super) name: &'static str,
    /// Its value.
    pub(super) value: Value<'a>,
    /// Its line.
    pub(super) statement: &'a Statement,
}

/// The entries of a block that count; the others are told about. What may stand once and stands twice counts both times, so
/// that the last one wins.
pub(super) fn entries<'a>(
    place: &'static Place,
    block: &'a [Statement],
    messages: &mut Messages,
) -> Vec<Entry<'a>> {
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    let mut entries = Vec::new();
    for statement in block {
        let Some(entry) = entry(place, statement, messages) else { continue };
        let is_single = !matches!(entry.value, Value::Lines(_) | Value::Block(..) | Value::Step);
        if is_single && let Some(first) = seen.insert(entry.name, statement.span()) {
            let message = format!("'{}' stands here again, and this one counts", entry.name);
            let help = format!("it was given first at {}; keep one of the two", messages.file_line(first));
            messages.warn(statement.span(), message, help);
        }
        entries.push(entry);
    }
    entries
}

fn entry<'a>(place: &'static Place, statement: &'a Statement, messages: &mut Messages) -> Option<Entry<'a>> {
    let span = statement.span();
    let Some(keyword) = place.keyword(statement.keyword()) else {
        unknown(place, statement, messages);
        return None;
    };
    match keyword.effect {
        Effect::None(why) => {
            messages.warn(span, format!("'{}' has no effect here", keyword.name), why);
            None
        }
        Effect::Refused(why) => {
            if let Some(Value::Flag(true)) = value(keyword, statement, messages) {
                messages.error(span, format!("'{}' is not supported", keyword.name), why);
            }
            None
        }
        Effect::Used | Effect::Formerly(_) => {
            let value = value(keyword, statement, messages)?;
            let takes_block = matches!(value, Value::Lines(_) | Value::Block(..) | Value::Step);
            if statement.body.is_some() && !takes_block {
                let message = format!("'{}' has no block", keyword.name);
                messages.error(span, message, "take the braces away, with what is in them");
            }
            Some(Entry { name: keyword.name, value, statement })
        }
    }
}

fn unknown(place: &'static Place, statement: &Statement, messages: &mut Messages) {
    let word = statement.keyword();
    let what = if statement.body.is_some() { "the whole block is" } else { "the line is" };
    let message = format!("'{word}' is not known {}: {what} skipped", place.name);
    let names = place.keywords.iter().map(|k| k.name);
    let near = if messages.has_room() { closest(word, names) } else { None };
    let help = match near {
        Some(near) => format!("did you mean '{near}'?"),
        None => "take it away, or correct it".to_owned(),
    };
    messages.warn(statement.span(), message, help);
}

fn value<'a>(
    keyword: &'static Keyword,
    statement: &'a Statement,
    messages: &mut Messages,
) -> Option<Value<'a>> {
    let words = statement.arguments();
    let count = |messages: &mut Messages, min: usize, max: usize| {
        number_of_words(keyword.name, statement, min, max, messages)
    };
    match keyword.shape {
        Shape::Bare => count(messages, 0, 0).then_some(Value::Nothing),
        Shape::Flag => {
            count(messages, 0, 1).then_some(())?;
            match words.first() {
                None => Some(Value::Flag(true)),
                Some(word) => flag(word, messages).map(Value::Flag),
            }
        }
        Shape::Int(min, max) => {
            count(messages, 1, 1).then_some(())?;
            int(keyword.name, words.first()?, min, max, messages).map(Value::Int)
        }
        Shape::Time(min, max) => {
            count(messages, 1, 1).then_some(())?;
            time(keyword.name, words.first()?, min, max, messages).map(Value::Time)
        }
        Shape::OneOf(choices) => {
            count(messages, 1, 1).then_some(())?;
            one_of(keyword.name, words.first()?, choices, messages).map(Value::Choice)
        }
        Shape::Word => {
            count(messages, 1, 1).then_some(())?;
            filled(words.first()?, messages).map(Value::Word)
        }
        Shape::Words(min, max) => count(messages, min, max).then_some(Value::Words(words)),
        Shape::PerhapsCommand if words.is_empty() => Some(Value::Nothing),
        Shape::Command | Shape::PerhapsCommand => {
            count(messages, 1, 3).then_some(())?;
            let user = match words.get(1..).filter(|user| !user.is_empty()) {
                Some(user) => Some(names(user, messages)?),
                None => None,
            };
            let words = command(words.get(..1)?, messages)?;
            Some(Value::Command(Command { words, user }))
        }
        Shape::Address => {
            count(messages, 1, 1).then_some(())?;
            address(words.first()?, messages).map(Value::Address)
        }
        Shape::Endpoint | Shape::EndpointBlock(_) => {
            count(messages, 1, 2).then_some(())?;
            address(words.first()?, messages)?;
            if let Some(port) = words.get(1) {
                int("port", port, 1, 65_535, messages)?;
            }
            match keyword.shape {
                Shape::EndpointBlock(place) => Some(Value::Block(place, statement.block())),
                _ => Some(Value::Endpoint),
            }
        }
        Shape::Weight(min, max) => {
            count(messages, 1, 2).then_some(())?;
            let weight = int(keyword.name, words.first()?, min, max, messages)?;
            let reverse = match words.get(1) {
                None => false,
                Some(word) => reverse(word, messages)?,
            };
            Some(Value::Weight(weight, reverse))
        }
        Shape::Lines => Some(Value::Lines(statement.block())),
        Shape::Block(place) => count(messages, 0, 0).then_some(Value::Block(place, statement.block())),
        Shape::Step => Some(Value::Step),
    }
}

/// Whether there are so many words behind the keyword; tells if not.
pub(super) fn number_of_words(
    name: &str,
    statement: &Statement,
    min: usize,
    max: usize,
    messages: &mut Messages,
) -> bool {
    let words = statement.arguments();
    if words.len() < min {
        let message = format!("'{name}' needs {}", if min == 1 { "a value" } else { "more words" });
        messages.error(statement.span(), message, "write it behind the keyword, on the same line");
        return false;
    }
    if let Some(word) = words.get(max) {
        let what = match max {
            0 => "no value".to_owned(),
            1 => "one value".to_owned(),
            max => format!("{max} values at most"),
        };
        let message = format!("'{name}' takes {what}, but '{}' follows", word.text);
        messages.error(
            word.span,
            message,
            "a new keyword begins on a new line; put a text with blanks in quotes",
        );
        return false;
    }
    true
}

/// A word that is not empty.
pub(super) fn filled<'a>(word: &'a Word, messages: &mut Messages) -> Option<&'a Word> {
    if word.text.is_empty() {
        messages.error(word.span, "this must not be empty", "write something between the quotes");
        return None;
    }
    Some(word)
}

/// The name of an interface.
pub(super) fn interface(word: &Word, messages: &mut Messages) -> Option<String> {
    let text = &filled(word, messages)?.text;
    if text.len() > INTERFACE_NAME_MAX || text.contains(['/', ' ']) {
        let message = format!("'{text}' cannot be the name of an interface");
        messages.error(word.span, message, format!("names have {INTERFACE_NAME_MAX} characters at most"));
        return None;
    }
    Some(text.clone())
}

/// `on`, `off` and so on.
pub(super) fn flag(word: &Word, messages: &mut Messages) -> Option<bool> {
    match word.text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => {
            messages.error(
                word.span,
                format!("'{}' is neither yes nor no", word.text),
                "write 'yes' or 'no'",
            );
            None
        }
    }
}

/// A whole number.
pub(super) fn int(name: &str, word: &Word, min: i64, max: i64, messages: &mut Messages) -> Option<i64> {
    let digits = word.text.strip_prefix(['-', '+']).unwrap_or(&word.text);
    let number = word.text.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    match number {
        Some(number) if (min..=max).contains(&number) => Some(number),
        _ if digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty() => {
            let message = format!("{name} {} is not between {min} and {max}", word.text);
            messages.error(word.span, message, format!("write a number from {min} to {max}"));
            None
        }
        _ => {
            let message = format!("{name} '{}' is not a whole number", word.text);
            messages.error(word.span, message, format!("write a number from {min} to {max}"));
            None
        }
    }
}

/// Seconds with up to six digits behind the point; limits in microseconds.
pub(super) fn time(name: &str, word: &Word, min: u64, max: u64, messages: &mut Messages) -> Option<Duration> {
    let range = format!("{} to {} seconds", seconds_of(min), seconds_of(max));
    match microseconds(&word.text) {
        Some(micros) if (min..=max).contains(&micros) => Some(Duration::from_micros(micros)),
        Some(_) => {
            let message = format!("{name} {} is not in the range of {range}", word.text);
            messages.error(word.span, message, format!("write a time from {range}"));
            None
        }
        None => {
            let message = format!("{name} '{}' is not a time in seconds", word.text);
            messages.error(word.span, message, format!("write a number like 1 or 0.25, from {range}"));
            None
        }
    }
}

/// Microseconds of a decimal number of seconds.
fn microseconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) || whole.len() + fraction.len() == 0 || fraction.len() > 6
    {
        return None;
    }
    let seconds: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut micros: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    for _ in fraction.len()..6 {
        micros *= 10;
    }
    seconds.checked_mul(S)?.checked_add(micros)
}

/// Seconds of microseconds, without what is not needed.
pub(super) fn seconds_of(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / S, micros % S);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// One of the words of a table.
pub(super) fn one_of(
    name: &str,
    word: &Word,
    choices: &'static [&'static str],
    messages: &mut Messages,
) -> Option<&'static str> {
    let found = choices.iter().find(|choice| choice.eq_ignore_ascii_case(&word.text));
    if found.is_none() {
        let message = format!("{name} '{}' is not known", word.text);
        messages.error(word.span, message, format!("write one of {}", choices.join(", ")));
    }
    found.copied()
}

/// `reverse` or `noreverse`.
pub(super) fn reverse(word: &Word, messages: &mut Messages) -> Option<bool> {
    match word.text.as_str() {
        "reverse" => Some(true),
        "noreverse" | "no_reverse" => Some(false),
        _ => {
            let message = format!("'{}' does not belong behind a weight", word.text);
            messages.error(word.span, message, "only 'reverse' or 'noreverse' may follow");
            None
        }
    }
}

/// An address.
pub(super) fn address(word: &Word, messages: &mut Messages) -> Option<IpAddr> {
    let parsed = word.text.parse().ok();
    if parsed.is_none() {
        let message = format!("'{}' is not an address", word.text);
        messages.error(
            word.span,
            message,
            "write an address like 192.0.2.1 or 2001:db8::1; names are not looked up",
        );
    }
    parsed
}

/// An address with the length of its prefix, 32 or 128 unless told otherwise.
pub(super) fn prefix(word: &Word, messages: &mut Messages) -> Option<(IpAddr, u8)> {
    let (text, len) = match word.text.split_once('/') {
        Some((text, len)) => (text, Some(len)),
        None => (word.text.as_str(), None),
    };
    let found = text.parse::<IpAddr>().ok().and_then(|address| {
        let max = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |len: &&str| !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let len = match len {
            None => Some(max),
            Some(len) => {
                Some(len).filter(is_number).and_then(|len| len.parse().ok()).filter(|len| *len <= max)
            }
        };
        Some((address, len?))
    });
    if found.is_none() {
        let message = format!("'{}' is not an address with the length of a prefix", word.text);
        messages.error(word.span, message, "write it like 192.0.2.1/24 or 2001:db8::1/64");
    }
    found
}

/// A command. The first word, if quoted, is split at its blanks; other words are arguments as they are.
pub(super) fn command(words: &[Word], messages: &mut Messages) -> Option<Vec<String>> {
    let first = words.first()?;
    let mut command =
        if first.quoted { split_command(&first.text) } else { Some(alloc::vec![first.text.clone()]) };
    if let Some(command) = &mut command {
        command.extend(words[1..].iter().map(|word| word.text.clone()));
    }
    match command {
        None => {
            let message = "a quote in this command does not end";
            messages.error(first.span, message, "arguments with blanks stand between single quotes");
            None
        }
        Some(command) if command.first().is_none_or(String::is_empty) => {
            messages.error(first.span, "this command is empty", "write the path of a program");
            None
        }
        command => command,
    }
}

/// Names with blanks between them, and none in them.
pub(super) fn names(words: &[Word], messages: &mut Messages) -> Option<String> {
    if let Some(odd) = words.iter().find(|w| w.text.is_empty() || w.text.contains(char::is_whitespace)) {
        messages.error(odd.span, "a name has no blanks here", "write the names without quotes");
        return None;
    }
    Some(joined(words))
}

/// Words with blanks between them.
pub(super) fn joined(words: &[Word]) -> String {
    words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
}
