//! heartbeat's files as settings: `ha.cf` and `authkeys` as a membership, `haresources` as services and instances, and a note
//! on what became of each line (failover 3.1 to 3.3 and 6.4).

mod ha_cf;
mod haresources;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::config::FailoverConfig;
use super::heartbeat::{AutoFailback, HeartbeatMembership};
use super::lexer::Word;
use super::messages::Messages;
use super::{load, print};
use crate::config::source::Span;
use crate::config::{Diagnostic, LoadError, LoadedFile, Loader};
use ha_cf::HaCf;

/// The paths of the three files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeartbeatFiles<'a> {
    /// `/etc/ha.d/ha.cf`.
    pub ha_cf: &'a str,
    /// `/etc/ha.d/haresources`.
    pub haresources: &'a str,
    /// `/etc/ha.d/authkeys`.
    pub authkeys: &'a str,
}

/// What became of the files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Import {
    /// What runs.
    pub config: FailoverConfig,
    /// How heartbeat's nodes speak to each other; the configuration has it too if it is complete.
    pub membership: HeartbeatMembership,
    /// Whether groups move back.
    pub auto_failback: AutoFailback,
    /// What became of each line, in the order of the files.
    pub notes: Vec<Note>,
    /// What the user should know.
    pub warnings: Vec<Diagnostic>,
}

/// What became of a line, or of a word in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// `FILE:LINE`.
    pub place: String,
    /// The line or the word, without secrets.
    pub text: String,
    /// What became of it.
    pub fate: Fate,
    /// What it became, or why it did not.
    pub what: String,
}

/// What became of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It says the same here.
    Mapped,
    /// It is about heartbeat's own messages: in the block `heartbeat`.
    Membership,
    /// There is nothing to say it for.
    Ignored,
    /// It asked for something that is not done here: somebody has to look at it.
    NotServed,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Fate::Mapped => "mapped",
            Fate::Membership => "in the block heartbeat",
            Fate::Ignored => "ignored",
            Fate::NotServed => "NOT SERVED",
        })
    }
}

/// Reads the three files as the node `host` would.
///
/// # Errors
/// All messages, warnings included, if at least one is an error.
pub fn import(loader: &dyn Loader, files: HeartbeatFiles<'_>, host: &str) -> Result<Import, Vec<Diagnostic>> {
    let mut messages = Messages::default();
    let mut notes = Vec::new();
    let mut reader = Reader { loader, messages: &mut messages, notes: &mut notes };
    let ha_cf = ha_cf::read(&mut reader, files.ha_cf, files.authkeys);
    let mut config = haresources::config(&mut reader, files.haresources, host, &ha_cf);
    if ha_cf.membership.is_complete() {
        config.heartbeat = Some(ha_cf.membership.clone());
    } else {
        for note in reader.notes.iter_mut().filter(|note| note.fate == Fate::Membership) {
            note.fate = Fate::Ignored;
            note.what += "; a block 'heartbeat' needs a medium, two nodes and a key";
        }
    }
    let warnings = messages.finish()?;
    // What is printed has to be read again; what it would be refused for is found out now.
    let printed = Printed(print(&config));
    let again = load(&printed, Printed::NAME, None)?;
    debug_assert_eq!(again.config, config);
    let HaCf { membership, auto_failback } = ha_cf;
    Ok(Import { config: again.config, membership, auto_failback, notes, warnings })
}

/// The file to keep: the notes as comments, then the settings.
pub fn print_import(import: &Import) -> String {
    let mut out =
        String::from("# What became of the lines of heartbeat's files. Read them, then take them away.\n#\n");
    if import.config.heartbeat.is_some() {
        out += "# This file has the secrets of authkeys in it: only root may be able to read it (mode 0600).\n#\n";
    }
    for note in &import.notes {
        let line = format!("{}: {}\n#     {}: {}", note.place, note.text, note.fate, note.what);
        // A line break in a comment would end it.
        let line: String = line.chars().map(|c| if c.is_control() && c != '\n' { '.' } else { c }).collect();
        out += &format!("# {line}\n");
    }
    out.push('\n');
    out + &print(&import.config)
}

/// A text that only this module knows, as a file.
struct Printed(String);

impl Printed {
    const NAME: &'static str = "the imported file";
}

impl Loader for Printed {
    fn read(&self, _: &str) -> Result<LoadedFile, LoadError> {
        let name = Printed::NAME.to_owned();
        Ok(LoadedFile { name: name.clone(), identity: name, text: self.0.clone().into_bytes() })
    }

    fn glob(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}

/// A line that says something.
struct Line {
    words: Vec<Word>,
    span: Span,
}

impl Line {
    fn text(&self) -> String {
        super::value::joined(&self.words)
    }
}

struct Reader<'a> {
    loader: &'a dyn Loader,
    messages: &'a mut Messages,
    notes: &'a mut Vec<Note>,
}

impl Reader<'_> {
    /// The lines of a file with words in them; with `continued` a backslash at the end joins the next line.
    fn lines(&mut self, path: &str, continued: bool) -> Vec<Line> {
        let file = match self.loader.read(path) {
            Ok(file) => file,
            Err(error) => {
                let help = "name the file that heartbeat reads on this node";
                self.messages.cannot(None, format!("cannot open '{path}': {error}"), help);
                return Vec::new();
            }
        };
        let Some(number) = self.messages.sources.add(&file.name, file.text) else {
            self.messages.cannot(None, format!("'{path}' is too large"), "is it the right file?");
            return Vec::new();
        };
        let text = self.messages.sources.text(number);
        let mut lines: Vec<Line> = Vec::new();
        let mut start = 0;
        let mut joins = false;
        for raw in text.split(|b| *b == b'\n') {
            let body = raw.split(|b| *b == b'#').next().unwrap_or_default().trim_ascii_end();
            let goes_on = continued && body.ends_with(b"\\");
            let body = if goes_on { &body[..body.len() - 1] } else { body };
            let words = words(body, start, number);
            match lines.last_mut() {
                Some(last) if joins => last.words.extend(words),
                _ if words.is_empty() => {}
                _ => {
                    let first = words.first().map_or(start, |word| word.span.start as usize);
                    let span = Span::new(number, first as u32, (start + body.len() - first) as u32);
                    lines.push(Line { words, span });
                }
            }
            // A line of nothing but a backslash begins nothing that could be joined.
            joins = goes_on && (joins || !body.trim_ascii().is_empty());
            start += raw.len() + 1;
        }
        lines
    }

    fn note(&mut self, span: Span, text: String, fate: Fate, what: impl Into<String>) {
        let place = self.messages.file_line(span);
        self.notes.push(Note { place, text, fate, what: what.into() });
    }
}

/// Words between blanks; there are no quotes. Bytes that are no text are replaced.
fn words(line: &[u8], start: usize, file: u16) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = 0;
    for piece in line.split(u8::is_ascii_whitespace) {
        if !piece.is_empty() {
            let span = Span::new(file, (start + at) as u32, piece.len() as u32);
            let text = String::from_utf8_lossy(piece).into_owned();
            words.push(Word { text, quoted: false, span });
        }
        at += piece.len() + 1;
    }
    words
}
