//! Option sections: `net { .. }` and its kin, the 8.3 `syncer`, and the check of each value
//! (drbd-admin 1.4, 1.5, 1.7, 2).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::super::ast::{Entry, ProxyOptions, Sections};
use super::super::diagnostic::{Diagnostic, EXIT_CANNOT, Severity, closest};
use super::super::lexer::{Token, TokenKind};
use super::super::source::Span;
use super::{P, Parser, Seen, describe};
use crate::options::{self, Dialect, Kind, Number, OptionDef, Section};

/// Values of `rr-conflict` that 9 added; here they do what `disconnect` does.
pub(in crate::config) const RR_CONFLICT_ONLY9: &[&str] = &["retry-connect", "auto-discard"];
/// Values of the after-sb policies in files besides those of the wire: `discard-node-NAME`.
pub(in crate::config) const DISCARD_NODE: &str = "discard-node-";

impl Parser<'_> {
    /// `common { .. }` behind its brace.
    pub(super) fn common_sections(&mut self) -> P<Sections> {
        const WORDS: &[&str] =
            &["protocol", "disk", "net", "syncer", "startup", "handlers", "options", "proxy", "skip"];
        let mut sections = Sections::default();
        let mut seen = Seen::new();
        loop {
            let token = self.next()?;
            if token.is_punct('}') || token.kind == TokenKind::End {
                return Ok(sections);
            }
            if self.section_item(&token, "common", &mut sections, &mut seen)? {
                continue;
            }
            match token.word() {
                Some("disk") => {
                    self.once_in(&mut seen, "disk section", "common:disk", token.span);
                    self.open_brace()?;
                    let entries = self.options_block(Section::Disk)?;
                    self.add_entries(&mut sections.disk, entries);
                }
                Some("skip") => self.skip(&token, false)?,
                Some("on" | "floating" | "stacked-on-top-of") => {
                    let message = "in the common section, there are no host sections allowed";
                    return self.stop(token.span, message, "move it into a resource");
                }
                _ => return self.expected_one_of("in common", WORDS, &token),
            }
        }
    }

    /// A section (other than `disk`, whose keyword is ambiguous) or `protocol`; `false` if `token` is neither.
    pub(super) fn section_item(
        &mut self,
        token: &Token,
        owner: &str,
        sections: &mut Sections,
        seen: &mut Seen,
    ) -> P<bool> {
        let Some(word) = token.word() else { return Ok(false) };
        let section = match word {
            "protocol" => {
                let def = options::known(Section::Net, "protocol");
                let entry = self.option_value(def, token.span, false)?;
                self.add_entries(&mut sections.net, entry);
                return Ok(true);
            }
            "net" => Section::Net,
            "startup" => Section::Startup,
            "handlers" => Section::Handlers,
            "options" => Section::Options,
            "proxy" => Section::Proxy,
            "syncer" => {
                self.once_in(seen, "syncer section", &format!("{owner}:syncer"), token.span);
                self.open_brace()?;
                self.syncer(sections)?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.once_in(seen, &format!("{section} section"), &format!("{owner}:{section}"), token.span);
        self.open_brace()?;
        if section == Section::Proxy {
            self.warn_of_proxy(token.span);
            sections.proxy = self.proxy_options()?;
        } else {
            let entries = self.options_block(section)?;
            self.add_entries(sections.list_mut(section), entries);
        }
        Ok(true)
    }

    /// Options up to the closing brace (or the end of the file, which closes everything).
    pub(super) fn options_block(&mut self, section: Section) -> P<Vec<Entry>> {
        let mut entries = Vec::new();
        while let Some(token) = self.option_name()? {
            let entry = match self.find_option(section, &token) {
                Some((def, negated)) => self.option_value(def, token.span, negated)?,
                None => {
                    self.unknown_option(section, &token)?;
                    continue;
                }
            };
            self.add_entries(&mut entries, entry);
        }
        Ok(entries)
    }

    /// The 8.3 section: each option goes to where it belongs now.
    fn syncer(&mut self, sections: &mut Sections) -> P<()> {
        while let Some(token) = self.option_name()? {
            let name = token.word().unwrap_or_default();
            let negated = name.strip_prefix("no-").and_then(options::find_in_syncer).filter(|d| is_flag(d));
            match (options::find_in_syncer(name), negated) {
                (Some(def), _) => {
                    let entry = self.option_value(def, token.span, false)?;
                    self.add_entries(sections.list_mut(def.section), entry);
                }
                (None, Some(def)) => {
                    let entry = self.option_value(def, token.span, true)?;
                    self.add_entries(sections.list_mut(def.section), entry);
                }
                (None, None) => {
                    let known: Vec<_> = options::OPTIONS.iter().filter(|d| d.in_syncer).collect();
                    self.unknown(&token, "the section syncer", &known)?;
                }
            }
        }
        Ok(())
    }

    /// Options of DRBD Proxy up to the closing brace.
    pub(super) fn proxy_options(&mut self) -> P<ProxyOptions> {
        let mut proxy = ProxyOptions::default();
        while let Some(token) = self.option_name()? {
            if token.is_word("plugin") {
                self.open_brace()?;
                let lines = self.plugin_lines()?;
                proxy.plugins.get_or_insert_default().extend(lines);
            } else if let Some(def) = token.word().and_then(|name| options::find(Section::Proxy, name)) {
                let entry = self.option_value(def, token.span, false)?;
                self.add_entries(&mut proxy.options, entry);
            } else {
                self.unknown_option(Section::Proxy, &token)?;
            }
        }
        Ok(proxy)
    }

    fn plugin_lines(&mut self) -> P<Vec<Vec<String>>> {
        let mut lines = Vec::new();
        let mut line = Vec::new();
        loop {
            let token = self.next()?;
            match token.kind {
                TokenKind::Punct('}') | TokenKind::End => return Ok(lines),
                TokenKind::Punct(';') => lines.push(core::mem::take(&mut line)),
                TokenKind::Word(word) | TokenKind::Quoted(word) => line.push(word),
                TokenKind::Punct(_) => return self.expected("a word or ';'", &token),
            }
        }
    }

    /// The token an option begins with; `None` at the end of the section.
    fn option_name(&mut self) -> P<Option<Token>> {
        let token = self.next()?;
        match token.kind {
            TokenKind::Punct('}') | TokenKind::End => Ok(None),
            TokenKind::Word(_) => Ok(Some(token)),
            TokenKind::Quoted(_) | TokenKind::Punct(_) => self.expected("an option or '}'", &token),
        }
    }

    fn find_option(&mut self, section: Section, token: &Token) -> Option<(&'static OptionDef, bool)> {
        let name = token.word()?;
        if let Some(def) = options::find(section, name).filter(|d| d.in_file) {
            return Some((def, false));
        }
        let def = options::find(section, name.strip_prefix("no-")?).filter(|d| d.in_file && is_flag(d))?;
        Some((def, true))
    }

    fn unknown_option(&mut self, section: Section, token: &Token) -> P<()> {
        let known: Vec<_> = options::OPTIONS.iter().filter(|d| d.section == section && d.in_file).collect();
        self.unknown(token, &format!("section {section}"), &known)
    }

    /// Names the mistake and goes on behind the statement.
    fn unknown(&mut self, token: &Token, place: &str, known: &[&'static OptionDef]) -> P<()> {
        let name = token.word().unwrap_or_default();
        let elsewhere = options::OPTIONS.iter().find(|d| d.is_called(name));
        let suggestion = closest(name, known.iter().map(|d| d.name));
        let useful = |d: &&&OptionDef| d.dialect != Dialect::Only9 && d.kind != Kind::Dropped;
        let names: Vec<&str> = known.iter().filter(useful).map(|d| d.name).collect();
        let place_name = place.trim_start_matches("the ").trim_start_matches("section ");
        let list = format!("Options of {place_name}: {}", names.join(", "));
        let help = match (suggestion, elsewhere) {
            (_, Some(def)) if !def.in_file => format!("'{name}' is an option of a command, not of the file"),
            (_, Some(def)) => format!("'{name}' belongs to the section {}", def.section),
            (Some(word), None) => format!("did you mean '{word}'? {list}"),
            (None, None) => list,
        };
        self.error(token.span, format!("'{name}' is not an option of {place}"), help);
        loop {
            if matches!(self.peek()?.kind, TokenKind::Punct('}') | TokenKind::End) {
                return Ok(());
            }
            let token = self.next()?;
            if token.is_punct(';') {
                return Ok(());
            }
            if token.is_punct('{') {
                return self.expected("';'", &token);
            }
        }
    }

    /// The value behind an option's name, checked. `None` if the option is one that is dropped.
    pub(super) fn option_value(
        &mut self,
        def: &'static OptionDef,
        span: Span,
        negated: bool,
    ) -> P<Option<Entry>> {
        let mut entry = Entry { def, values: Vec::new(), span, value_span: span };
        if negated {
            self.semicolon()?;
            entry.values = vec!["no".to_owned()];
        } else {
            match def.kind {
                Kind::Flag(_) => self.flag_value(&mut entry)?,
                Kind::Word => self.semicolon()?,
                Kind::Words => self.words_value(&mut entry)?,
                Kind::Number(_) | Kind::Enum(..) | Kind::Text(_) | Kind::Quorum | Kind::Dropped => {
                    let token = self.next()?;
                    let Some(text) = token.text() else {
                        return self.expected(&format!("a value for {}", def.name), &token);
                    };
                    entry.values = vec![text.to_owned()];
                    entry.value_span = token.span;
                    self.check_value(&entry);
                    self.semicolon()?;
                }
            }
        }
        if def.dialect == Dialect::Only9 {
            self.only9_option(def, span);
        }
        Ok((def.kind != Kind::Dropped).then_some(entry))
    }

    fn flag_value(&mut self, entry: &mut Entry) -> P<()> {
        let token = self.next()?;
        let name = entry.def.name;
        let help = format!("write '{name} yes;', '{name} no;' or '{name};'");
        let value = match token.text() {
            None if token.is_punct(';') => {
                entry.values = vec!["yes".to_owned()];
                return Ok(());
            }
            None => {
                let message = format!("expected yes, no or ';' behind {name}, but got {}", describe(&token));
                return self.stop(token.span, message, help);
            }
            Some(value @ ("yes" | "no")) => value.to_owned(),
            Some(_) => {
                let message = format!("{} is not a value of {name}", describe(&token));
                self.error(token.span, message, help);
                "yes".to_owned()
            }
        };
        entry.values = vec![value];
        entry.value_span = token.span;
        self.semicolon()
    }

    fn words_value(&mut self, entry: &mut Entry) -> P<()> {
        loop {
            let (word, span) = self.name("the name of a host")?;
            if entry.values.is_empty() {
                entry.value_span = span;
            }
            entry.values.push(word);
            if self.peek()?.is_punct(';') {
                return self.semicolon();
            }
        }
    }

    fn check_value(&mut self, entry: &Entry) {
        match entry.def.kind {
            Kind::Number(number) => self.check_number(entry, number),
            Kind::Enum(values, _) => self.check_enum(entry, values),
            Kind::Quorum => {
                let number = options::parse_number(entry.value(), options::Unit::One);
                let legal = matches!(entry.value(), "off" | "majority" | "all")
                    || number.is_ok_and(|n| (1..=32).contains(&n));
                if !legal {
                    let message = format!("'{}' is not a value of {}", entry.value(), entry.def.name);
                    self.error(
                        entry.value_span,
                        message,
                        "write off, majority, all or a number from 1 to 32",
                    );
                }
            }
            Kind::Flag(_) | Kind::Text(_) | Kind::Word | Kind::Words | Kind::Dropped => {}
        }
    }

    fn check_number(&mut self, entry: &Entry, number: Number) {
        let Number { unit, counts, min, max, .. } = number;
        let (name, text, suffix) = (entry.def.name, entry.value(), unit.suffix());
        let help = format!("write a number from {min}{suffix} to {max}{suffix} ({counts})");
        match options::parse_number(text, unit) {
            Ok(value) if (min..=max).contains(&value) => {}
            Ok(value) if entry.def.checked => {
                let message = format!("{name} {text} => {value}{suffix} out of range [{min}..{max}]{suffix}");
                self.error(entry.value_span, message, help);
            }
            Ok(value) => {
                let message = format!("{name} {text} => {value}{suffix} out of range [{min}..{max}]{suffix}");
                self.warn(entry.value_span, message, Some("the nearest legal value is used"));
            }
            Err(_) if entry.def.checked => {
                let message = format!("'{text}' is not a valid number");
                let sources = &self.config.sources;
                let diagnostic = Diagnostic::at(sources, entry.value_span, Severity::Error, message);
                self.push_error(diagnostic.help(help).exit(EXIT_CANNOT));
            }
            Err(_) => {
                let message = format!("'{text}' is not a valid number; the resource cannot be started");
                self.warn(entry.value_span, message, Some(&help));
            }
        }
    }

    fn check_enum(&mut self, entry: &Entry, values: &[&str]) {
        let (name, text) = (entry.def.name, entry.value());
        let is_protocol = name == "protocol";
        if values.iter().any(|v| *v == text || (is_protocol && v.eq_ignore_ascii_case(text))) {
            return;
        }
        if name.starts_with("after-sb-") && text.starts_with(DISCARD_NODE) {
            return;
        }
        if name == "rr-conflict" && RR_CONFLICT_ONLY9.contains(&text) {
            self.only9(entry.value_span);
            let message = format!("'{text}' is a value of DRBD 9; it is taken as 'disconnect'");
            self.warn(entry.value_span, message, None);
            return;
        }
        let mut help = format!("allowed values are: {}", values.join(" | "));
        if let Some(word) = closest(text, values.iter().copied()) {
            help = format!("did you mean '{word}'? {help}");
        }
        if entry.def.checked {
            self.error(entry.value_span, format!("'{text}' is not a value of {name}"), help);
        } else {
            let message = format!("'{text}' is not a value of {name}; the resource cannot be started");
            self.warn(entry.value_span, message, Some(&help));
        }
    }

    /// Appends to a section. The same option twice is legal; only the last one is kept.
    pub(super) fn add_entries(&mut self, list: &mut Vec<Entry>, new: impl IntoIterator<Item = Entry>) {
        for entry in new {
            if let Some(at) = list.iter().position(|e| e.def == entry.def) {
                let first = self.config.file_line(list.remove(at).span);
                let message = format!("{} is set twice in this section; this one counts", entry.def.name);
                self.warn(entry.span, message, Some(&format!("the other one is at {first}")));
            }
            list.push(entry);
        }
    }
}

fn is_flag(def: &OptionDef) -> bool {
    matches!(def.kind, Kind::Flag(_))
}
