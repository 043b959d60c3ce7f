//! One line to words and braces: quotes, escapes and comments (keepalived.conf(5); failover 6.2).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::messages::Messages;
use crate::config::source::Span;

/// Longest word; a longer one is no word that anybody wrote.
const WORD_BYTES_MAX: usize = 4096;

/// One byte of a line and the piece of the file that it comes from: itself, or the reference that it was put in for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glyph {
    /// The byte.
    pub(super) byte: u8,
    /// Where its piece starts.
    pub(super) start: u32,
    /// Where its piece ends.
    pub(super) end: u32,
    /// It begins no comment: from `${_HASH}` or `${_BANG}`.
    pub(super) literal: bool,
}

/// A word of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Word {
    /// Its text without quotes.
    pub(super) text: String,
    /// A part of it was quoted.
    pub(super) quoted: bool,
    /// Where it stands.
    pub(super) span: Span,
}

impl Word {
    /// It is this word, without quotes.
    pub(super) fn is(&self, word: &str) -> bool {
        !self.quoted && self.text == word
    }
}

/// What a line is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// A word.
    Word(Word),
    /// `{`.
    Open(Span),
    /// `}`.
    Close(Span),
}

/// Blank, but not the end of a line.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)
}

/// The line up to its comment. Quotes and what is behind a backslash begin none.
pub(super) fn without_comment(line: &[Glyph]) -> &[Glyph] {
    let mut quote = None;
    let mut at = 0;
    while let Some(glyph) = line.get(at) {
        match (glyph.byte, quote) {
            (b'#' | b'!', None) if !glyph.literal => return &line[..at],
            (b'\\', _) if is_escape(line, at, quote.is_some()) => at += 1,
            (b'"' | b'\'', None) => quote = Some(glyph.byte),
            (byte, Some(open)) if byte == open => quote = None,
            _ => {}
        }
        at += 1;
    }
    line
}

/// In quotes a backslash changes what follows; outside of them only a quote, so that the names of units stay as they are.
fn is_escape(line: &[Glyph], at: usize, in_quotes: bool) -> bool {
    match line.get(at + 1) {
        None => false,
        Some(next) => in_quotes || matches!(next.byte, b'"' | b'\''),
    }
}

/// The words and braces of a line.
pub(super) fn tokens(line: &[Glyph], file: u16, messages: &mut Messages) -> Vec<Token> {
    let body = without_comment(line);
    let mut lexer = Lexer { line: body, file, at: 0, messages, tokens: Vec::new() };
    while let Some(glyph) = lexer.line.get(lexer.at) {
        match glyph.byte {
            b'{' | b'}' => {
                let span = lexer.span(lexer.at, lexer.at + 1);
                let token = if glyph.byte == b'{' { Token::Open(span) } else { Token::Close(span) };
                lexer.tokens.push(token);
                lexer.at += 1;
            }
            byte if is_blank(byte) => lexer.at += 1,
            _ => lexer.word(),
        }
    }
    if body.len() < line.len()
        && let Some(Token::Word(last)) = lexer.tokens.last()
        && body.last().is_some_and(|g| !is_blank(g.byte))
    {
        let message = format!("'{}' ends here, what follows is a comment", last.text);
        let span = last.span;
        lexer.messages.warn(span, message, "put it in double quotes, or a blank in front of the comment");
    }
    lexer.tokens
}

struct Lexer<'a> {
    line: &'a [Glyph],
    file: u16,
    at: usize,
    messages: &'a mut Messages,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    /// From the piece of the first glyph to that of the last; pieces do not always stand in order.
    fn span(&self, from: usize, to: usize) -> Span {
        let (Some(first), Some(last)) = (self.line.get(from), self.line.get(to.saturating_sub(1))) else {
            return Span::new(self.file, 0, 0);
        };
        let end = last.end.max(first.end);
        Span::new(self.file, first.start, end - first.start)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.line.get(at).map(|g| g.byte)
    }

    fn word(&mut self) {
        let from = self.at;
        let mut bytes = Vec::new();
        let mut quoted = false;
        while let Some(byte) = self.byte(self.at) {
            match byte {
                b'"' | b'\'' => {
                    quoted = true;
                    if !self.quoted(byte, &mut bytes) {
                        return;
                    }
                }
                b'\\' if is_escape(self.line, self.at, false) => {
                    bytes.extend(self.byte(self.at + 1));
                    self.at += 2;
                }
                b'$' if self.byte(self.at + 1) == Some(b'{') => self.reference(&mut bytes),
                b'{' | b'}' => break,
                byte if is_blank(byte) => break,
                byte => {
                    bytes.push(byte);
                    self.at += 1;
                }
            }
        }
        let span = self.span(from, self.at);
        let problem = match String::from_utf8(bytes) {
            Ok(text) if text.len() > WORD_BYTES_MAX => "this word is too long",
            Ok(text) if text.contains('\0') => "a word cannot contain the character NUL",
            Ok(text) => {
                if !quoted && text.len() > 1 && text.ends_with(';') {
                    let help = "lines end without ';' in this grammar";
                    self.messages.warn(span, format!("the ';' belongs to the word '{text}'"), help);
                }
                self.tokens.push(Token::Word(Word { text, quoted, span }));
                return;
            }
            Err(_) => "this word is not valid UTF-8",
        };
        self.messages.error(span, problem, format!("write at most {WORD_BYTES_MAX} bytes of UTF-8"));
    }

    /// `${NAME}` that nobody has defined stays as it is, with its braces.
    fn reference(&mut self, bytes: &mut Vec<u8>) {
        let rest = &self.line[self.at..];
        let len = rest.iter().position(|g| g.byte == b'}').map_or(rest.len(), |n| n + 1);
        bytes.extend(rest[..len].iter().map(|g| g.byte));
        let span = self.span(self.at, self.at + len);
        self.at += len;
        let help = "define it in front of this line, as '$NAME=value'";
        self.messages.warn(span, "this parameter is not defined, and stays as it is", help);
    }

    /// A quoted part; `false` if it does not end.
    fn quoted(&mut self, quote: u8, bytes: &mut Vec<u8>) -> bool {
        let from = self.at;
        self.at += 1;
        loop {
            match self.byte(self.at) {
                None => {
                    let help = "close it on the line where it begins";
                    let span = self.span(from, self.at);
                    self.messages.error(span, "this quoted string does not end", help);
                    return false;
                }
                Some(byte) if byte == quote => {
                    self.at += 1;
                    return true;
                }
                Some(b'\\') if self.at + 1 < self.line.len() => self.escape(bytes),
                Some(byte) => {
                    bytes.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    /// What is behind a backslash in quotes.
    fn escape(&mut self, bytes: &mut Vec<u8>) {
        let Some(byte) = self.byte(self.at + 1) else { return };
        self.at += 2;
        match byte {
            b'a' => bytes.push(7),
            b'b' => bytes.push(8),
            b'E' => bytes.push(0x1b),
            b'f' => bytes.push(0x0c),
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'v' => bytes.push(0x0b),
            b'c' => {
                bytes.extend(self.byte(self.at).map(|b| b & 0x1f));
                self.at += 1;
            }
            b'x' => bytes.push(self.digits(16, 2, 0)),
            b'0'..=b'7' => bytes.push(self.digits(8, 2, byte - b'0')),
            other => bytes.push(other),
        }
    }

    /// At most `max` digits to the base `radix` behind those that make `first`.
    fn digits(&mut self, radix: u32, max: usize, first: u8) -> u8 {
        let mut value = u32::from(first);
        for _ in 0..max {
            let Some(digit) = self.byte(self.at).and_then(|b| char::from(b).to_digit(radix)) else { break };
            value = value * radix + digit;
            self.at += 1;
        }
        // Three octal digits go to 0o777; C keeps the low eight bits too.
        (value & 0xff) as u8
    }
}

/// A command in one string to its words: blanks separate, quotes hold together, a backslash outside of single quotes takes
/// what follows as it is. `None` if a quote does not end.
pub(super) fn split_command(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next().unwrap_or('\\')),
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_ascii_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn glyphs(text: &str) -> Vec<Glyph> {
        let glyph = |(at, byte)| Glyph { byte, start: at as u32, end: at as u32 + 1, literal: false };
        text.bytes().enumerate().map(glyph).collect()
    }

    fn lex(text: &str) -> (Vec<String>, Vec<String>) {
        let mut messages = Messages::default();
        let file = messages.sources.add("t", text.as_bytes().to_vec()).expect("small");
        let shown = tokens(&glyphs(text), file, &mut messages).into_iter().map(|token| match token {
            Token::Word(word) if word.quoted => format!("\"{}\"", word.text),
            Token::Word(word) => word.text,
            Token::Open(_) => "{".into(),
            Token::Close(_) => "}".into(),
        });
        let shown = shown.collect();
        let found = messages.finish().unwrap_or_else(|all| all);
        (shown, found.into_iter().map(|d| d.message).collect())
    }

    #[test]
    fn words_braces_quotes_and_comments() {
        let plain = |text: &str, wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|w| (*w).into()).collect();
            assert_eq!(lex(text), (wanted, vec![]), "{text}");
        };
        plain("virtual_server 10.0.0.1 80{", &["virtual_server", "10.0.0.1", "80", "{"]);
        plain("a { b } # c } \"", &["a", "{", "b", "}"]);
        plain("a !c", &["a"]);
        plain("abcd \"efg h jkl\" mnop", &["abcd", "\"efg h jkl\"", "mnop"]);
        plain("abcd\" efg h jkl \"mnop", &["\"abcd efg h jkl mnop\""]);
        plain("n 'a # b' \"\"", &["n", "\"a # b\"", "\"\""]);
        plain("n \"\\x41\\102\\t\\\"\\\\\"", &["n", "\"AB\t\"\\\""]);
        plain("start dev-sda\\x2d1.service", &["start", "dev-sda\\x2d1.service"]);
    }

    #[test]
    fn what_is_odd_is_said() {
        let said = |text: &str, wanted: &str| {
            let (_, found) = lex(text);
            assert!(found.len() == 1 && found[0].contains(wanted), "{text}: {found:?}");
        };
        said("router_id \"abc", "does not end");
        said("auth_pass ab#cd", "what follows is a comment");
        said("router_id x;", "the ';' belongs to the word");
        said("interface ${I}", "not defined");
        said("n \"\\377\"", "not valid UTF-8");
        said("n \"\\0\"", "NUL");
    }

    #[test]
    fn a_command_is_split_like_a_shell_would() {
        let split = |text: &str| split_command(text);
        let words = |w: &[&str]| Some(w.iter().map(|w| (*w).into()).collect::<Vec<String>>());
        assert_eq!(split(" /bin/x  'a b' c\\ d \"e\\\"f\" ''"), words(&["/bin/x", "a b", "c d", "e\"f", ""]));
        assert_eq!(split(""), words(&[]));
        assert_eq!(split("a 'b"), None);
    }
}
