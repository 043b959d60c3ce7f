//! What is wrong, where, and what to write instead.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::source::{Sources, Span};

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Accepted; the user should know.
    Warning,
    /// Refused.
    Error,
}

/// One message about a configuration. `Display` renders it with the line and a caret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Name of the file as messages give it; empty if there is no place.
    pub file: String,
    /// Line from 1; 0 if there is no place.
    pub line: u32,
    /// Column from 1, in characters; 0 if there is no place.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Exit status of a command that fails because of it: 10, or 20 where drbdadm says so (drbd-admin 3.4).
    pub exit_code: u8,
    /// The line itself, printable.
    excerpt: String,
    /// Where the caret starts in `excerpt`, in characters from 0.
    caret_at: usize,
    /// How many carets.
    caret_len: usize,
}

/// Exit status of an invalid configuration.
pub const EXIT_INVALID: u8 = 10;
/// Exit status when a command cannot be executed at all: unreadable file, bad number.
pub const EXIT_CANNOT: u8 = 20;

/// Lines longer than this are cut around the caret, so that a hostile file cannot flood a terminal.
const EXCERPT_CHARS: usize = 160;

impl Diagnostic {
    /// A message without a place.
    pub fn without_place(severity: Severity, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity,
            file: String::new(),
            line: 0,
            column: 0,
            message: printable(message.into().as_bytes()),
            help: None,
            exit_code: EXIT_INVALID,
            excerpt: String::new(),
            caret_at: 0,
            caret_len: 0,
        }
    }

    /// A message about `span`.
    pub fn at(sources: &Sources, span: Span, severity: Severity, message: impl Into<String>) -> Diagnostic {
        let mut diagnostic = Diagnostic::without_place(severity, message);
        let place = sources.place(span);
        diagnostic.file = place.file.to_string();
        diagnostic.line = place.line;
        let before = printable(place.before);
        let marked = printable(place.marked);
        let after = printable(place.after);
        let at = before.chars().count();
        diagnostic.column = at as u32 + 1;
        diagnostic.caret_len = marked.chars().count().clamp(1, EXCERPT_CHARS);
        let skip = at.saturating_sub(EXCERPT_CHARS / 2);
        diagnostic.caret_at = at - skip;
        let line = format!("{before}{marked}{after}");
        diagnostic.excerpt = line.chars().skip(skip).take(EXCERPT_CHARS).collect();
        diagnostic.excerpt.truncate(diagnostic.excerpt.trim_end().len());
        diagnostic
    }

    /// The same with a remedy.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(printable(help.into().as_bytes()));
        self
    }

    /// The same with another exit status.
    pub fn exit(mut self, exit_code: u8) -> Diagnostic {
        self.exit_code = exit_code;
        self
    }

    /// It is an error.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Exit status for a list of messages: 0 without an error, else the largest.
pub fn exit_code(diagnostics: &[Diagnostic]) -> u8 {
    diagnostics.iter().filter(|d| d.is_error()).map(|d| d.exit_code).max().unwrap_or(0)
}

/// Bytes of a file as text that is safe to print: control characters become dots, tabs stay.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() && c != '\t' { '.' } else { c }).collect()
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        if self.line == 0 {
            if !self.file.is_empty() {
                write!(f, "{}: ", self.file)?;
            }
            write!(f, "{severity}: {}", self.message)?;
            if let Some(help) = &self.help {
                write!(f, "\n    = help: {help}")?;
            }
            return Ok(());
        }
        writeln!(f, "{}:{}:{}: {severity}: {}", self.file, self.line, self.column, self.message)?;
        writeln!(f, "{:>3} | {}", self.line, self.excerpt)?;
        let indent = self.line.to_string().len().max(3) + 1;
        // A tab stays a tab, so that the caret stands under its word whatever the tab width.
        let blank: String = self
            .excerpt
            .chars()
            .take(self.caret_at)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .chain(core::iter::repeat(' '))
            .take(self.caret_at)
            .collect();
        write!(f, "{:indent$}| {blank}{}", "", "^".repeat(self.caret_len))?;
        if let Some(help) = &self.help {
            write!(f, "\n{:indent$}= help: {help}", "")?;
        }
        Ok(())
    }
}

/// The candidate that `word` was probably meant to be: at most a third of its letters differ.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Names are at most 32 characters; a longer word is no typing mistake, and would make this slow.
    if word.len() > 64 {
        return None;
    }
    let limit = word.len() / 3;
    candidates
        .into_iter()
        .map(|candidate| (edit_distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements of single bytes between `a` and `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_the_line_and_a_caret() {
        let mut sources = Sources::default();
        let file = sources.add("x.res", b"a\n\tb timeot 60;\n".to_vec()).expect("small");
        let d = Diagnostic::at(&sources, Span::new(file, 5, 6), Severity::Error, "no").help("yes");
        let expected = "x.res:2:4: error: no\n  2 | \tb timeot 60;\n    | \t  ^^^^^^\n    = help: yes";
        assert_eq!(d.to_string(), expected);
        assert_eq!(exit_code(&[d.clone(), d.exit(20)]), 20);
    }

    #[test]
    fn a_long_line_is_cut_and_control_characters_are_not_printed() {
        let mut sources = Sources::default();
        let mut text = alloc::vec![b'x'; 5000];
        text[4000] = 0x1b;
        let file = sources.add("x", text).expect("small");
        let odd =
            Diagnostic::at(&sources, Span::new(file, 4000, 1), Severity::Warning, "odd\x1b").help("\x1b");
        let text = odd.to_string();
        assert!(text.len() < 500 && !text.contains('\x1b'), "{text}");
        let caret = text.lines().nth(2).and_then(|l| l.find('^'));
        assert_eq!(caret, text.lines().nth(1).and_then(|l| l.find('.')));
    }

    #[test]
    fn a_typing_mistake_finds_its_word() {
        let names = ["timeout", "ping-timeout", "protocol"];
        assert_eq!(closest("timeot", names), Some("timeout"));
        assert_eq!(closest("whatever", names), None);
        assert_eq!(closest("D", ["A", "B", "C"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
