//! Bytes of a resource file to tokens (drbd-admin 1.3).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::diagnostic::{Diagnostic, Severity};
use super::source::{Sources, Span};
use crate::options::MAX_VALUE_LEN;

/// Longest unquoted string.
pub const WORD_LEN_MAX: usize = 128;

/// What a token is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenKind {
    /// Unquoted string: keyword, number, IPv4 address or name.
    Word(String),
    /// Quoted string, without the quotes and backslashes.
    Quoted(String),
    /// One of `{ } ; [ ] :`.
    Punct(char),
    /// End of the file.
    End,
}

/// A token and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it stands.
    pub span: Span,
}

impl Token {
    /// It is this unquoted word.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, TokenKind::Word(w) if w == word)
    }

    /// It is this punctuation mark.
    pub fn is_punct(&self, c: char) -> bool {
        self.kind == TokenKind::Punct(c)
    }

    /// The text of a word, quoted or not.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::Word(s) | TokenKind::Quoted(s) => Some(s),
            TokenKind::Punct(_) | TokenKind::End => None,
        }
    }

    /// The text of an unquoted word.
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            TokenKind::Word(s) => Some(s),
            TokenKind::Quoted(_) | TokenKind::Punct(_) | TokenKind::End => None,
        }
    }
}

/// Position in one file.
#[derive(Clone, Debug)]
pub struct Lexer {
    text: Arc<[u8]>,
    file: u16,
    at: usize,
}

/// What the lexer refuses.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LexErrorKind {
    /// An unquoted string is too long.
    #[error("token too long: at most {WORD_LEN_MAX} characters without quotes")]
    WordTooLong,
    /// A quoted string is too long.
    #[error("double quoted string too long: at most {MAX_VALUE_LEN} characters")]
    StringTooLong,
    /// No closing quote on the line.
    #[error("unterminated double quoted string; it must end on the line where it begins")]
    Unterminated,
    /// A quoted string is not text.
    #[error("this quoted string is not valid UTF-8")]
    NotText,
    /// A byte that no token begins with.
    #[error("unexpected character")]
    UnexpectedByte,
}

/// What the lexer refuses, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LexError {
    /// What.
    pub kind: LexErrorKind,
    /// Where.
    pub span: Span,
}

impl LexError {
    /// The message for people.
    pub fn diagnostic(&self, sources: &Sources) -> Diagnostic {
        let help = match self.kind {
            LexErrorKind::WordTooLong => "put it in double quotes",
            LexErrorKind::StringTooLong => "move a long command into a script and name the script here",
            LexErrorKind::Unterminated => "close the string with '\"' before the end of the line",
            LexErrorKind::NotText => "save the file as UTF-8",
            LexErrorKind::UnexpectedByte => {
                "put strings with other characters than a-z A-Z 0-9 / . _ - in double quotes"
            }
        };
        Diagnostic::at(sources, self.span, Severity::Error, alloc::format!("{}", self.kind)).help(help)
    }
}

impl Lexer {
    /// Starts at the beginning of `file`.
    pub fn new(sources: &Sources, file: u16) -> Lexer {
        Lexer { text: sources.text(file), file, at: 0 }
    }

    /// The next token; after the last one `End` for ever.
    pub fn next_token(&mut self) -> Result<Token, LexError> {
        self.skip_blank();
        let start = self.at;
        let kind = match self.text.get(self.at) {
            None => TokenKind::End,
            Some(c @ (b'{' | b'}' | b';' | b'[' | b']' | b':')) => {
                let c = char::from(*c);
                self.at += 1;
                TokenKind::Punct(c)
            }
            Some(b'"') => TokenKind::Quoted(self.quoted()?),
            Some(c) if is_word_byte(*c) => TokenKind::Word(self.word(is_word_byte)?),
            Some(_) => {
                self.at += 1;
                return Err(self.error(LexErrorKind::UnexpectedByte, start));
            }
        };
        Ok(Token { kind, span: self.span_from(start) })
    }

    /// The characters of an IPv6 address with its scope, up to `]` or anything else; may be empty.
    pub fn ipv6_text(&mut self) -> Result<(String, Span), LexError> {
        self.skip_blank();
        let start = self.at;
        let text =
            self.word(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'%') || is_word_byte(b))?;
        Ok((text, self.span_from(start)))
    }

    /// Skips to the closing brace of the block whose opening brace was just read. Nothing inside needs to
    /// make sense, but braces in comments and strings do not count. `false` if the file ends first.
    pub fn skip_block(&mut self) -> bool {
        let mut depth = 1u32;
        while depth > 0 {
            self.skip_blank();
            match self.text.get(self.at) {
                None => return false,
                Some(b'{') => depth = depth.saturating_add(1),
                Some(b'}') => depth -= 1,
                // An unclosed quote is skipped like any other character.
                Some(b'"') => {
                    let start = self.at;
                    if self.quoted().is_ok() {
                        continue;
                    }
                    self.at = start;
                }
                Some(_) => {}
            }
            self.at += 1;
        }
        true
    }

    fn skip_blank(&mut self) {
        while let Some(b) = self.text.get(self.at) {
            match b {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                b'#' => {
                    let rest = &self.text[self.at..];
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool) -> Result<String, LexError> {
        let start = self.at;
        let rest = &self.text[start..];
        let len = rest.iter().position(|b| !belongs(*b)).unwrap_or(rest.len());
        self.at += len;
        if len > WORD_LEN_MAX {
            return Err(self.error(LexErrorKind::WordTooLong, start));
        }
        Ok(self.text[start..self.at].iter().copied().map(char::from).collect())
    }

    fn quoted(&mut self) -> Result<String, LexError> {
        let start = self.at;
        let mut value = Vec::new();
        self.at += 1;
        loop {
            match self.text.get(self.at) {
                None | Some(b'\n') => return Err(self.error(LexErrorKind::Unterminated, start)),
                Some(b'"') => break,
                Some(b'\\') => {
                    match self.text.get(self.at + 1) {
                        None | Some(b'\n') => return Err(self.error(LexErrorKind::Unterminated, start)),
                        Some(b) => value.push(*b),
                    }
                    self.at += 2;
                }
                Some(b) => {
                    value.push(*b);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        if value.len() > MAX_VALUE_LEN {
            return Err(self.error(LexErrorKind::StringTooLong, start));
        }
        String::from_utf8(value).map_err(|_| self.error(LexErrorKind::NotText, start))
    }

    fn span_from(&self, start: usize) -> Span {
        Span::new(self.file, start as u32, (self.at - start) as u32)
    }

    fn error(&self, kind: LexErrorKind, start: usize) -> LexError {
        LexError { kind, span: self.span_from(start) }
    }
}

/// Belongs to an unquoted string.
pub fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-')
}

/// A number token: 1 to 8 digits and perhaps one of `M K G s`.
pub fn is_number_token(word: &str) -> bool {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    (1..=8).contains(&digits) && matches!(&word.as_bytes()[digits..], [] | [b'M' | b'K' | b'G' | b's'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn lex(text: &[u8]) -> Result<Vec<TokenKind>, LexErrorKind> {
        let mut sources = Sources::default();
        let file = sources.add("t", text.to_vec()).expect("small");
        let mut lexer = Lexer::new(&sources, file);
        let mut tokens = vec![];
        loop {
            match lexer.next_token().map_err(|e| e.kind)?.kind {
                TokenKind::End => return Ok(tokens),
                kind => tokens.push(kind),
            }
        }
    }

    fn word(s: &str) -> TokenKind {
        TokenKind::Word(s.into())
    }

    #[test]
    fn words_strings_comments_and_punctuation() {
        let tokens = lex(b"disk{x-1 10.1.1.31:7789;#{ \"no\n\"a\\\"b\\\\c # d\"; /dev/md[0]\xff".as_slice());
        assert_eq!(tokens, Err(LexErrorKind::UnexpectedByte));
        let tokens = lex(b"disk{x-1 10.1.1.31:7789;#{ \xff\"no\n\"a\\\"b\\\\c # d\"; /dev/md[0]");
        let p = TokenKind::Punct;
        let quoted = TokenKind::Quoted("a\"b\\c # d".into());
        let expected = vec![
            word("disk"),
            p('{'),
            word("x-1"),
            word("10.1.1.31"),
            p(':'),
            word("7789"),
            p(';'),
            quoted,
            p(';'),
            word("/dev/md"),
            p('['),
            word("0"),
            p(']'),
        ];
        assert_eq!(tokens, Ok(expected));
    }

    #[test]
    fn lengths_have_limits() {
        assert!(lex(&[b'a'; 128]).is_ok());
        assert_eq!(lex(&[b'a'; 129]), Err(LexErrorKind::WordTooLong));
        let quoted = |n: usize| [b"\"", vec![b'a'; n].as_slice(), b"\""].concat();
        assert!(lex(&quoted(255)).is_ok());
        assert_eq!(lex(&quoted(256)), Err(LexErrorKind::StringTooLong));
        assert_eq!(lex(b"\"abc\n\""), Err(LexErrorKind::Unterminated));
        assert_eq!(lex(b"\"abc\\"), Err(LexErrorKind::Unterminated));
        assert_eq!(lex(b"\"\xff\""), Err(LexErrorKind::NotText));
    }

    #[test]
    fn a_skipped_block_needs_only_balanced_braces() {
        let mut sources = Sources::default();
        let file = sources.add("t", b"a { b \"}\" { c } ] ( # }\n } rest".to_vec()).expect("small");
        let mut lexer = Lexer::new(&sources, file);
        assert!(!lexer.skip_block(), "the block it was told to be in never ends");
        assert_eq!(lexer.next_token().map(|t| t.kind), Ok(TokenKind::End));
        let file = sources.add("t", b" x { y } \" z } after".to_vec()).expect("small");
        let mut lexer = Lexer::new(&sources, file);
        assert!(lexer.skip_block());
        assert_eq!(lexer.next_token().map(|t| t.kind), Ok(word("after")));
        assert!(!lexer.skip_block());
    }

    #[test]
    fn number_tokens() {
        for yes in ["0", "12345678", "10M", "4s"] {
            assert!(is_number_token(yes), "{yes}");
        }
        for no in ["", "123456789", "10m", "M", "1x", "-1"] {
            assert!(!is_number_token(no), "{no}");
        }
    }
}
