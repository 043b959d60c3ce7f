//! Reader of the dump-md text, for restore-md and verify-dump (drbd-metadata 12). Messages and line numbers are
//! those of drbdmeta.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use model::ids::DataUuid;
use thiserror::Error;

use super::superblock::{BYTES_PER_BIT, MetaFlags};
use super::uuids::Uuids;

/// Content of a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParsedDump {
    /// Data generations.
    pub uuids: Uuids,
    /// Flags as written.
    pub flags: MetaFlags,
    /// Last agreed size in sectors, as written.
    pub la_size_sectors: u64,
    /// Device UUID.
    pub device_uuid: u64,
    /// Largest request of the peer in bytes.
    pub la_peer_max_bio_bytes: u32,
    /// Number of activity log stripes, as written.
    pub al_stripes: u32,
    /// 4 KiB blocks per stripe, as written.
    pub al_stripe_size_4k: u32,
    /// The bitmap, run-length coded: `(number of words, word)`.
    pub bitmap: Vec<(u64, u64)>,
}

impl ParsedDump {
    /// Number of 64-bit words the dump describes.
    pub fn bitmap_words(&self) -> u64 {
        self.bitmap.iter().fold(0, |sum, (count, _)| sum.saturating_add(*count))
    }
}

/// Why a text is no dump.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ParseError {
    /// Something else was expected. `lexical` is the message about characters that are no token at all.
    #[error("{}Parse error in line {line}: {expected} expected{}", prefix(.lexical), found_text(.lexical, .found))]
    Unexpected {
        /// Line, counted from 1.
        line: u32,
        /// Description of what was expected.
        expected: Expected,
        /// The token that is there; empty at the end of the text.
        found: String,
        /// Message about the characters.
        lexical: Option<String>,
    },
    /// The dump is of another version.
    #[error("dump is '{found}' you requested 'v08'.")]
    Version {
        /// Version in the dump.
        found: String,
    },
    /// A bitmap granularity that does not exist.
    #[error("Invalid value for bm-byte-per-bit: value must be a power-of-two multiple of 4096")]
    BytesPerBit,
    /// A bitmap granularity v08 does not have.
    #[error("bm-byte-per-bit {0} is not supported, only {BYTES_PER_BIT}")]
    Granularity(u64),
    /// A number its field cannot hold.
    #[error("Parse error in line {line}: value of {field} is out of range")]
    OutOfRange {
        /// Line, counted from 1.
        line: u32,
        /// Keyword of the field.
        field: &'static str,
    },
}

/// What can be expected at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// This keyword.
    Keyword(&'static str),
    /// This punctuation.
    Punctuation(char),
    /// A quoted version.
    Text,
    /// 16 hexadecimal digits.
    U64,
    /// 8 hexadecimal digits.
    U32,
    /// A decimal number.
    Number,
    /// An item of the bitmap or its end.
    BitmapItem,
    /// End of the text.
    End,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Keyword(word) => write!(f, "keyword '{word}'"),
            Expected::Punctuation('{') => f.write_str("opening brace ({)"),
            Expected::Punctuation('}') => f.write_str("closing brace (})"),
            Expected::Punctuation(_) => f.write_str("semicolon (;)"),
            Expected::Text => f.write_str("short quoted string (\"..up to 20 characters, no newline..\")"),
            Expected::U64 => f.write_str("a 16-digit hex number"),
            Expected::U32 => f.write_str("an 8-digit hex number"),
            Expected::Number => f.write_str("number ([0-9], up to 20 digits)"),
            Expected::BitmapItem => f.write_str("repeat count, 16-digit hex number, or closing brace (})"),
            Expected::End => f.write_str("end of file"),
        }
    }
}

fn prefix(lexical: &Option<String>) -> String {
    lexical.as_ref().map(|text| format!("{text}\n")).unwrap_or_default()
}

fn found_text(lexical: &Option<String>, found: &str) -> String {
    match (lexical, found) {
        (Some(_), _) => String::new(),
        (None, "") => String::from(", but end of file encountered"),
        (None, "some number") => String::from(", not some number"),
        (None, other) => format!(", not '{other}'"),
    }
}

/// Reads a whole dump.
pub fn parse_dump(text: &str) -> Result<ParsedDump, ParseError> {
    let mut p = Parser { text: text.as_bytes(), at: 0, line: 1 };
    p.keyword("version")?;
    let version = match p.next()? {
        Token::Text(version) => version,
        other => return Err(p.unexpected(Expected::Text, other)),
    };
    if version != "v08" {
        return Err(ParseError::Version { found: version.into() });
    }
    p.punctuation(';')?;
    p.keyword("uuid")?;
    p.punctuation('{')?;
    let mut uuid = [0; 4];
    for slot in &mut uuid {
        *slot = p.u64()?;
        p.punctuation(';')?;
    }
    let flags = p.flags()?;
    p.punctuation('}')?;
    let la_size_sectors = p.field("la-size-sect")? as u64;
    let granularity = p.field("bm-byte-per-bit")? as u64;
    if granularity < u64::from(BYTES_PER_BIT) || !granularity.is_power_of_two() {
        return Err(ParseError::BytesPerBit);
    }
    if granularity != u64::from(BYTES_PER_BIT) {
        return Err(ParseError::Granularity(granularity));
    }
    p.keyword("device-uuid")?;
    let device_uuid = p.u64()?;
    p.punctuation(';')?;
    let la_peer_max_bio_bytes = p.field_u32("la-peer-max-bio-size")?;
    let al_stripes = p.field_u32("al-stripes")?;
    let al_stripe_size_4k = p.field_u32("al-stripe-size-4k")?;
    let bitmap = p.bitmap()?;
    match p.next()? {
        Token::End => {}
        other => return Err(p.unexpected(Expected::End, other)),
    }
    let [current, bitmap_uuid, younger, older] = uuid.map(DataUuid);
    Ok(ParsedDump {
        uuids: Uuids { current, bitmap: bitmap_uuid, history: [younger, older] },
        flags,
        la_size_sectors,
        device_uuid,
        la_peer_max_bio_bytes,
        al_stripes,
        al_stripe_size_4k,
        bitmap,
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    U64(u64),
    U32(u32),
    Number(i64),
    Punctuation(char),
    End,
    /// Characters that are no token; kept until it is known what was expected.
    Bad(Bad, &'a str),
    /// A single character no token starts with.
    Stray(char),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bad {
    Word,
    Hex,
    Text,
    Number,
}

/// Every keyword of the format, whatever its version: others are no tokens.
const KEYWORDS: &[&str] = &[
    "version",
    "uuid",
    "flags",
    "la-size-sect",
    "bm-byte-per-bit",
    "device-uuid",
    "la-peer-max-bio-size",
    "al-stripes",
    "al-stripe-size-4k",
    "bm",
    "times",
    "max-peers",
    "node-id",
    "current-uuid",
    "history-uuids",
    "peer",
    "bitmap",
    "bitmap-uuid",
    "bitmap-dagtag",
    "bitmap-index",
];
/// Longest quoted text.
const TEXT_MAX: usize = 20;

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    line: u32,
}

impl<'a> Parser<'a> {
    fn keyword(&mut self, word: &'static str) -> Result<(), ParseError> {
        match self.next()? {
            Token::Word(found) if found == word => Ok(()),
            other => Err(self.unexpected(Expected::Keyword(word), other)),
        }
    }

    fn punctuation(&mut self, c: char) -> Result<(), ParseError> {
        match self.next()? {
            Token::Punctuation(found) if found == c => Ok(()),
            other => Err(self.unexpected(Expected::Punctuation(c), other)),
        }
    }

    fn u64(&mut self) -> Result<u64, ParseError> {
        match self.next()? {
            Token::U64(value) => Ok(value),
            other => Err(self.unexpected(Expected::U64, other)),
        }
    }

    fn flags(&mut self) -> Result<MetaFlags, ParseError> {
        self.keyword("flags")?;
        let flags = match self.next()? {
            Token::U32(value) => MetaFlags(value),
            other => return Err(self.unexpected(Expected::U32, other)),
        };
        self.punctuation(';')?;
        Ok(flags)
    }

    /// `keyword NUM ;`
    fn field(&mut self, word: &'static str) -> Result<i64, ParseError> {
        self.keyword(word)?;
        let value = match self.next()? {
            Token::Number(value) => value,
            other => return Err(self.unexpected(Expected::Number, other)),
        };
        self.punctuation(';')?;
        if value < 0 {
            return Err(ParseError::OutOfRange { line: self.line, field: word });
        }
        Ok(value)
    }

    fn field_u32(&mut self, word: &'static str) -> Result<u32, ParseError> {
        let value = self.field(word)?;
        u32::try_from(value).map_err(|_| ParseError::OutOfRange { line: self.line, field: word })
    }

    fn bitmap(&mut self) -> Result<Vec<(u64, u64)>, ParseError> {
        self.keyword("bm")?;
        self.punctuation('{')?;
        let mut runs: Vec<(u64, u64)> = Vec::new();
        loop {
            let (count, word) = match self.next()? {
                Token::Punctuation('}') => return Ok(runs),
                Token::U64(word) => (1, word),
                Token::Number(count) => {
                    self.keyword("times")?;
                    let count = u64::try_from(count)
                        .map_err(|_| ParseError::OutOfRange { line: self.line, field: "times" })?;
                    (count, self.u64()?)
                }
                other => return Err(self.unexpected(Expected::BitmapItem, other)),
            };
            self.punctuation(';')?;
            match runs.last_mut() {
                Some((run, last)) if *last == word => *run = run.saturating_add(count),
                _ => runs.push((count, word)),
            }
        }
    }

    fn unexpected(&self, expected: Expected, token: Token<'_>) -> ParseError {
        let line = self.line;
        let (mut found, mut lexical) = (String::new(), None);
        match token {
            Token::Word(text) | Token::Text(text) => found = text.into(),
            Token::U64(_) | Token::U32(_) | Token::Number(_) => found = "some number".into(),
            Token::Punctuation(c) | Token::Stray(c) => found.push(c),
            Token::End => {}
            Token::Bad(kind, text) => {
                let what = match kind {
                    Bad::Word => "unknown token",
                    Bad::Hex => "invalid hex number (only 8 or 16 hex digits accepted)",
                    Bad::Text => "invalid string",
                    Bad::Number => "number too big",
                };
                lexical = Some(format!("line {line}: {what}: {text} ..."));
            }
        }
        ParseError::Unexpected { line, expected, found, lexical }
    }

    fn next(&mut self) -> Result<Token<'a>, ParseError> {
        self.skip_blank();
        let Some(&first) = self.text.get(self.at) else { return Ok(Token::End) };
        let rest = &self.text[self.at..];
        Ok(match first {
            b'{' | b'}' | b';' => {
                self.at += 1;
                Token::Punctuation(char::from(first))
            }
            b'"' => self.quoted(),
            _ if is_word(first) => {
                let len = rest.iter().position(|b| !is_word(*b)).unwrap_or(rest.len());
                self.at += len;
                // Words are ASCII by construction.
                classify(core::str::from_utf8(&rest[..len]).unwrap_or_default())
            }
            _ => {
                self.at += 1;
                Token::Stray(char::from(first))
            }
        })
    }

    fn quoted(&mut self) -> Token<'a> {
        let rest = &self.text[self.at + 1..];
        let limit = rest.len().min(TEXT_MAX + 1);
        let end = rest[..limit].iter().position(|b| matches!(b, b'"' | b'\n'));
        match end {
            Some(len) if rest[len] == b'"' => {
                self.at += len + 2;
                match core::str::from_utf8(&rest[..len]) {
                    Ok(text) => Token::Text(text),
                    Err(_) => Token::Bad(Bad::Text, ""),
                }
            }
            cut => {
                let len = (1 + cut.unwrap_or(limit)).min(TEXT_MAX + 1);
                let shown = &self.text[self.at..self.at + len];
                self.at = self.text.len();
                Token::Bad(Bad::Text, core::str::from_utf8(shown).unwrap_or_default())
            }
        }
    }

    fn skip_blank(&mut self) {
        while let Some(&b) = self.text.get(self.at) {
            match b {
                b'\n' => self.line += 1,
                b'#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                    continue;
                }
                b' ' | b'\t' | b'\r' => {}
                _ => return,
            }
            self.at += 1;
        }
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn classify(word: &str) -> Token<'_> {
    if let Some(known) = KEYWORDS.iter().find(|known| **known == word) {
        return Token::Word(known);
    }
    if let Some(digits) = word.strip_prefix("0x") {
        let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        return match (hex, digits.len()) {
            (true, 16) => u64::from_str_radix(digits, 16).map_or(Token::Bad(Bad::Hex, word), Token::U64),
            (true, 8) => u32::from_str_radix(digits, 16).map_or(Token::Bad(Bad::Hex, word), Token::U32),
            _ => Token::Bad(Bad::Hex, word),
        };
    }
    let digits = word.strip_prefix('-').unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Token::Bad(Bad::Word, word);
    }
    match word.parse() {
        Ok(value) if digits.len() <= 19 => Token::Number(value),
        _ => Token::Bad(Bad::Number, word),
    }
}

#[cfg(test)]
#[path = "parse_dump/tests.rs"]
mod tests;
