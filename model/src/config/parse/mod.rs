//! Tokens to [`Config`]: the file level, and what all levels share (drbd-admin 1.2, 1.6, 1.8).
//!
//! A syntax error ends the run, since everything behind it would be a guess. Wrong values and unknown options
//! are noted and parsing goes on, so that one run names them all.

mod connection;
mod host;
mod resource;
mod sections;

pub(super) use sections::{DISCARD_NODE, RR_CONFLICT_ONLY9};

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::ast::Config;
use super::diagnostic::{Diagnostic, EXIT_CANNOT, Severity, closest};
use super::lexer::{Lexer, Token, TokenKind, is_number_token};
use super::load::Loader;
use super::source::{FILE_BYTES_MAX, FILES_MAX, Span};
use crate::options::{self, Dialect, OptionDef, Section};

/// Includes may be nested that deep.
const INCLUDE_DEPTH_MAX: u32 = 32;
/// So many errors are told; more help nobody.
const ERRORS_MAX: usize = 100;
/// The version `require-drbd-module-version-*` is compared with.
const COMPATIBLE_VERSION: [u32; 3] = [8, 4, 11];

/// Parsing ended; the reason is among the diagnostics.
pub(super) struct Stop;

type P<T> = Result<T, Stop>;

/// Where something that may occur once occurred first.
type Seen = BTreeMap<String, Span>;

/// Parser of a whole configuration.
pub(super) struct Parser<'a> {
    loader: &'a dyn Loader,
    exclude: Option<String>,
    config: Config,
    errors: Vec<Diagnostic>,
    files_read: BTreeSet<String>,
    seen: Seen,
    only9_options: Vec<&'static OptionDef>,
    only9_option_span: Span,
    warned_of_proxy: bool,
    lexer: Lexer,
    peeked: Option<Token>,
    file: u16,
    include_depth: u32,
}

impl<'a> Parser<'a> {
    /// Reads and parses everything.
    pub(super) fn run(
        loader: &'a dyn Loader,
        files: &[&str],
        exclude: Option<&str>,
    ) -> Result<Config, Vec<Diagnostic>> {
        let mut config = Config::default();
        let nothing = config.sources.add("", Vec::new()).expect("the first file is empty");
        let lexer = Lexer::new(&config.sources, nothing);
        let mut parser = Parser {
            loader,
            exclude: exclude.and_then(|path| loader.read(path).ok()).map(|file| file.identity),
            config,
            errors: Vec::new(),
            files_read: BTreeSet::new(),
            seen: Seen::new(),
            only9_options: Vec::new(),
            only9_option_span: Span::default(),
            warned_of_proxy: false,
            lexer,
            peeked: None,
            file: nothing,
            include_depth: 0,
        };
        let outcome = files.iter().try_for_each(|path| parser.top_file(path));
        parser.warn_of_only9_options();
        if outcome.is_ok() && parser.errors.is_empty() {
            return Ok(parser.config);
        }
        parser.errors.append(&mut parser.config.warnings);
        Err(parser.errors)
    }

    fn top_file(&mut self, path: &str) -> P<()> {
        match self.loader.read(path) {
            Ok(file) => {
                if self.config.file.is_empty() {
                    self.config.file = file.name.clone();
                }
                if !self.files_read.insert(file.identity.clone()) {
                    return Ok(());
                }
                self.whole_file(file, None, Self::file_items)
            }
            Err(error) => {
                let message = format!("cannot open '{path}': {error}");
                self.errors.push(Diagnostic::without_place(Severity::Error, message).exit(EXIT_CANNOT));
                Err(Stop)
            }
        }
    }

    /// Parses `file` with `items` and comes back to the present place.
    fn whole_file(
        &mut self,
        file: super::load::LoadedFile,
        included_at: Option<Span>,
        items: impl FnOnce(&mut Self) -> P<()>,
    ) -> P<()> {
        let too_large = format!("'{}' is too large, or there are too many files", file.name);
        let Some(number) = self.config.sources.add(&file.name, file.text) else {
            let help = format!("at most {FILES_MAX} files of {FILE_BYTES_MAX} bytes");
            let diagnostic = match included_at {
                Some(span) => Diagnostic::at(&self.config.sources, span, Severity::Error, too_large),
                None => Diagnostic::without_place(Severity::Error, too_large),
            };
            self.errors.push(diagnostic.help(help));
            return Err(Stop);
        };
        let lexer = Lexer::new(&self.config.sources, number);
        let outer = (
            core::mem::replace(&mut self.lexer, lexer),
            self.peeked.take(),
            core::mem::replace(&mut self.file, number),
        );
        self.include_depth += 1;
        let outcome = items(self);
        self.include_depth -= 1;
        (self.lexer, self.peeked, self.file) = outer;
        outcome
    }

    fn file_items(&mut self) -> P<()> {
        const WORDS: &[&str] = &["global", "common", "resource", "skip", "include"];
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.kind == TokenKind::End => return Ok(()),
                Some("global") => self.global(&token)?,
                Some("common") => {
                    self.once("common section", "common", token.span);
                    self.open_brace()?;
                    let common = self.common_sections()?;
                    self.config.common = common;
                }
                Some("resource") => self.resource(&token)?,
                Some("skip") => self.skip(&token, true)?,
                Some("include") => self.include()?,
                Some(word) if word.starts_with("require-drbd-module-version-") => self.require(&token)?,
                _ => return self.expected_one_of("at the top level", WORDS, &token),
            }
        }
    }

    fn global(&mut self, keyword: &Token) -> P<()> {
        self.once("global section", "global", keyword.span);
        if !self.config.resources.is_empty() {
            self.warn(keyword.span, "the global section should stand in front of the resources", None);
        }
        self.open_brace()?;
        let entries = self.options_block(Section::Global)?;
        self.config.global = entries;
        Ok(())
    }

    fn include(&mut self) -> P<()> {
        let token = self.next()?;
        let Some(pattern) = token.text().map(ToOwned::to_owned) else {
            return self.expected("a file name in double quotes", &token);
        };
        self.semicolon()?;
        if self.include_depth >= INCLUDE_DEPTH_MAX {
            let message = format!("includes are nested deeper than {INCLUDE_DEPTH_MAX}");
            return self.stop(token.span, message, "include the files from one place");
        }
        let path = self.relative_to_file(&pattern);
        let is_pattern = pattern.contains(['*', '?', '[']);
        // drbd-admin 1.2: a pattern may match nothing, a plain name must exist.
        let names = if is_pattern { self.loader.glob(&path) } else { alloc::vec![path] };
        for name in names {
            match self.loader.read(&name) {
                Ok(file) if Some(&file.identity) == self.exclude.as_ref() => {}
                Ok(file) if !self.files_read.insert(file.identity.clone()) => {}
                Ok(file) => self.whole_file(file, Some(token.span), Self::file_items)?,
                Err(error) => {
                    let message = format!("failed to open include file '{name}': {error}");
                    let help = "names are relative to the directory of the including file; \
                                a pattern like \"drbd.d/*.res\" may match nothing";
                    self.error(token.span, message, help);
                }
            }
        }
        Ok(())
    }

    /// `path` as seen from the directory of the present file.
    fn relative_to_file(&self, path: &str) -> String {
        let here = self.config.sources.name(self.file);
        match here.rfind('/') {
            Some(slash) if !path.starts_with('/') => format!("{}/{path}", &here[..slash]),
            _ => path.to_owned(),
        }
    }

    /// `skip` and what it hides. 8.4 knows it at the top level with at most one name, 9 everywhere.
    fn skip(&mut self, keyword: &Token, top_level: bool) -> P<()> {
        let mut words = 0;
        let mut known_to_84 = top_level;
        loop {
            let token = self.next()?;
            match &token.kind {
                TokenKind::Punct('{') => break,
                TokenKind::End => return self.expected("'{' after skip", &token),
                TokenKind::Word(word) => known_to_84 &= !is_keyword(word),
                TokenKind::Quoted(_) => {}
                TokenKind::Punct(_) => known_to_84 = false,
            }
            words += 1;
        }
        if !known_to_84 || words > 1 {
            self.only9(keyword.span);
        }
        assert!(self.peeked.is_none(), "the brace was the last token taken");
        self.lexer.skip_block();
        Ok(())
    }

    fn require(&mut self, keyword: &Token) -> P<()> {
        self.only9(keyword.span);
        let version = self.next()?;
        let word = keyword.word().unwrap_or_default();
        let parts: Option<Vec<u32>> =
            version.word().map(|v| v.split('.').map(str::parse).collect()).and_then(Result::ok);
        let Some(Ok(wanted)) = parts.map(<[u32; 3]>::try_from) else {
            return self.expected("a version like 8.4.11", &version);
        };
        let met = match &word["require-drbd-module-version-".len()..] {
            "eq" => COMPATIBLE_VERSION == wanted,
            "ne" => COMPATIBLE_VERSION != wanted,
            "gt" => COMPATIBLE_VERSION > wanted,
            "ge" => COMPATIBLE_VERSION >= wanted,
            "lt" => COMPATIBLE_VERSION < wanted,
            "le" => COMPATIBLE_VERSION <= wanted,
            _ => {
                let help = "write eq, ne, gt, ge, lt or le at its end";
                return self.stop(keyword.span, format!("'{word}' is not a comparison"), help);
            }
        };
        self.semicolon()?;
        if !met {
            let [major, minor, patch] = COMPATIBLE_VERSION;
            let message =
                format!("this is compatible with version {major}.{minor}.{patch}, which '{word}' excludes");
            self.warn(
                version.span,
                message,
                Some("the line is ignored; check that no option of 9 is needed"),
            );
        }
        Ok(())
    }
}

/// Tokens.
impl Parser<'_> {
    fn next(&mut self) -> P<Token> {
        match self.peeked.take() {
            Some(token) => Ok(token),
            None => self.lexer.next_token().map_err(|error| {
                self.push_error(error.diagnostic(&self.config.sources));
                Stop
            }),
        }
    }

    fn peek(&mut self) -> P<&Token> {
        let token = self.next()?;
        Ok(self.peeked.insert(token))
    }

    fn open_brace(&mut self) -> P<()> {
        let token = self.next()?;
        if token.is_punct('{') { Ok(()) } else { self.expected("'{'", &token) }
    }

    fn semicolon(&mut self) -> P<()> {
        let token = self.next()?;
        if token.is_punct(';') {
            return Ok(());
        }
        let message = format!("expected ';', but got {}", describe(&token));
        self.stop(token.span, message, "end the statement in front of it with ';'")
    }

    /// A name: quoted, or an unquoted word that is no keyword and no number (drbd-admin 1.3).
    fn name(&mut self, what: &str) -> P<(String, Span)> {
        let token = self.next()?;
        match token.kind {
            TokenKind::Quoted(name) => Ok((name, token.span)),
            TokenKind::Word(word) if is_keyword(&word) || is_number_token(&word) => {
                let kind = if is_keyword(&word) { "a keyword" } else { "a number" };
                let message = format!("expected {what}, but got '{word}', which is {kind}");
                self.stop(token.span, message, format!("write \"{word}\" in double quotes"))
            }
            TokenKind::Word(word) => Ok((word, token.span)),
            TokenKind::Punct(_) | TokenKind::End => self.expected(what, &token),
        }
    }

    /// An unquoted number up to `max`; out of range it is noted, and 0 is returned.
    fn int(&mut self, what: &str, min: u64, max: u64) -> P<(u64, Span)> {
        let token = self.next()?;
        let Some(word) = token.word().filter(|w| is_number_token(w)) else {
            return self.expected(&format!("a number ({what})"), &token);
        };
        match options::parse_number(word, options::Unit::One) {
            Ok(value) if (min..=max).contains(&value) => Ok((value, token.span)),
            _ => {
                let message = format!("{what} {word} is out of range [{min}..{max}]");
                self.error(token.span, message, format!("write a number from {min} to {max}"));
                Ok((0, token.span))
            }
        }
    }
}

/// Messages.
impl Parser<'_> {
    fn push_error(&mut self, diagnostic: Diagnostic) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(diagnostic);
        }
    }

    fn error(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        let diagnostic = Diagnostic::at(&self.config.sources, span, Severity::Error, message).help(help);
        self.push_error(diagnostic);
    }

    fn warn(&mut self, span: Span, message: impl Into<String>, help: Option<&str>) {
        if self.config.warnings.len() >= ERRORS_MAX {
            return;
        }
        let mut diagnostic = Diagnostic::at(&self.config.sources, span, Severity::Warning, message);
        diagnostic.help = help.map(ToOwned::to_owned);
        self.config.warnings.push(diagnostic);
    }

    fn stop<T>(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) -> P<T> {
        self.error(span, message, help);
        Err(Stop)
    }

    fn expected<T>(&mut self, what: &str, got: &Token) -> P<T> {
        let message = format!("expected {what}, but got {}", describe(got));
        self.stop(got.span, message, format!("write {what} here"))
    }

    fn expected_one_of<T>(&mut self, place: &str, words: &[&str], got: &Token) -> P<T> {
        let list = words.join(" | ");
        let help = match got.word().and_then(|word| closest(word, words.iter().copied())) {
            Some(word) => format!("did you mean '{word}'? Possible here: {list}"),
            None => format!("possible here: {list}"),
        };
        self.stop(got.span, format!("{} is not known {place}", describe(got)), help)
    }

    /// Notes an error if `key` was seen before (drbd-admin 1.13).
    fn once(&mut self, what: &str, key: &str, span: Span) {
        let mut seen = core::mem::take(&mut self.seen);
        self.once_in(&mut seen, what, key, span);
        self.seen = seen;
    }

    fn once_in(&mut self, seen: &mut Seen, what: &str, key: &str, span: Span) {
        if let Some(first) = seen.get(key) {
            let first = self.config.file_line(*first);
            let message = format!("conflicting use of {what} '{key}'");
            self.error(span, message, format!("it was used first at {first}; keep one of the two"));
        } else {
            seen.insert(key.to_owned(), span);
        }
    }

    /// A construct that only 9 knows.
    fn only9(&mut self, span: Span) {
        self.config.first_only9.get_or_insert(span);
    }

    fn only9_option(&mut self, def: &'static OptionDef, span: Span) {
        self.only9(span);
        if def.has_effect {
            return;
        }
        if self.only9_options.is_empty() {
            self.only9_option_span = span;
        }
        if !self.only9_options.contains(&def) {
            self.only9_options.push(def);
        }
    }

    fn warn_of_proxy(&mut self, span: Span) {
        if !core::mem::replace(&mut self.warned_of_proxy, true) {
            let message = "DRBD Proxy is not supported: its options are ignored";
            self.warn(
                span,
                message,
                Some("connections go to the 'inside' address, where a proxy has to run"),
            );
        }
    }

    /// One warning for all options of 9, not one for each place.
    fn warn_of_only9_options(&mut self) {
        let list: Vec<String> =
            self.only9_options.iter().map(|def| format!("{} {}", def.section, def.name)).collect();
        if !list.is_empty() {
            let message = format!("options of DRBD 9 without effect here: {}", list.join(", "));
            self.warn(self.only9_option_span, message, Some("they are kept for dump"));
        }
    }
}

fn describe(token: &Token) -> String {
    match &token.kind {
        TokenKind::Word(word) => format!("'{word}'"),
        TokenKind::Quoted(text) => format!("\"{}\"", text.escape_debug()),
        TokenKind::Punct(c) => format!("'{c}'"),
        TokenKind::End => "the end of the file".to_owned(),
    }
}

/// Words of the grammar that need quotes when used as a name. In 8.4 option names belong to them everywhere.
pub(super) fn is_keyword(word: &str) -> bool {
    const STRUCTURE: &[&str] = &[
        "global",
        "common",
        "resource",
        "skip",
        "include",
        "on",
        "floating",
        "stacked-on-top-of",
        "ignore-on",
        "disk",
        "net",
        "syncer",
        "startup",
        "handlers",
        "options",
        "proxy",
        "volume",
        "device",
        "minor",
        "address",
        "alternate-link-address",
        "meta-disk",
        "flexible-meta-disk",
        "protocol",
        "inside",
        "outside",
        "plugin",
        "ipv4",
        "ipv6",
        "sdp",
        "ssocks",
        "sci",
    ];
    STRUCTURE.contains(&word)
        || options::OPTIONS.iter().any(|def| def.dialect != Dialect::Only9 && def.is_called(word))
}
