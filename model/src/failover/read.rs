//! Files to statements: included files, lines for some configurations only, and parameters (keepalived.conf(5), "Advanced
//! configuration"; failover 6.2).

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::lexer::{Glyph, is_blank, tokens, without_comment};
use super::messages::Messages;
use super::tree::{Builder, Statement};
use crate::config::Loader;
use crate::config::source::{FILES_MAX, Span};

/// Includes may be nested that deep.
const INCLUDE_DEPTH_MAX: usize = 32;
/// All files together.
const TEXT_BYTES_MAX: usize = 4 << 20;
/// One line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Parameters may be nested that deep; deeper ones name each other in a circle.
const PARAMETER_DEPTH_MAX: usize = 16;
/// So many parameters are put in, in all files together.
const PARAMETERS_MAX: u32 = 100_000;
/// So many bytes may come from parameters.
const PARAMETER_BYTES_MAX: usize = 4 << 20;

/// Reads `path` and what it includes. `id` is what lines with `@` are compared with (keepalived's -i).
pub(super) fn read(
    loader: &dyn Loader,
    path: &str,
    id: Option<&str>,
    messages: &mut Messages,
) -> Vec<Statement> {
    let mut reader = Reader {
        loader,
        id,
        messages,
        parameters: BTreeMap::new(),
        reading: Vec::new(),
        builder: Builder::default(),
        text_bytes: 0,
        put_in: 0,
        put_in_bytes: 0,
        stopped: false,
    };
    reader.file(path, None);
    reader.builder.finish(reader.messages)
}

struct Reader<'a> {
    loader: &'a dyn Loader,
    id: Option<&'a str>,
    messages: &'a mut Messages,
    parameters: BTreeMap<Vec<u8>, Arc<[u8]>>,
    /// Identities of the files that are being read, each included by the one before.
    reading: Vec<String>,
    builder: Builder,
    text_bytes: usize,
    put_in: u32,
    put_in_bytes: usize,
    /// A limit was reached; nothing more is read.
    stopped: bool,
}

/// A text that is being read: a file, or the value of a parameter in it.
struct Text {
    bytes: Arc<[u8]>,
    at: usize,
    /// Where the reference to the parameter stands.
    reference: Option<(u32, u32)>,
    literal: bool,
}

/// The file and the values put in, innermost last.
struct Input {
    file: u16,
    texts: Vec<Text>,
}

impl Input {
    fn peek(&mut self) -> Option<Glyph> {
        while self.texts.len() > 1 && self.texts.last().is_some_and(|t| t.at >= t.bytes.len()) {
            self.texts.pop();
        }
        let text = self.texts.last()?;
        let byte = *text.bytes.get(text.at)?;
        let (start, end) = text.reference.unwrap_or((text.at as u32, text.at as u32 + 1));
        Some(Glyph { byte, start, end, literal: text.literal })
    }

    fn next(&mut self) -> Option<Glyph> {
        let glyph = self.peek()?;
        self.skip(1);
        Some(glyph)
    }

    fn skip(&mut self, bytes: usize) {
        if let Some(text) = self.texts.last_mut() {
            text.at += bytes;
        }
    }

    /// What is left of the innermost text.
    fn rest(&mut self) -> &[u8] {
        let _ = self.peek();
        self.texts.last().and_then(|t| t.bytes.get(t.at..)).unwrap_or_default()
    }

    /// What comes behind the innermost text.
    fn outer(&self) -> Option<u8> {
        self.texts.iter().rev().skip(1).find_map(|text| text.bytes.get(text.at).copied())
    }

    /// The rest of the line as it stands; the end of the line is taken too.
    fn raw_line(&mut self) -> Vec<Glyph> {
        let mut line = Vec::new();
        while let Some(glyph) = self.next().filter(|g| g.byte != b'\n') {
            line.push(glyph);
        }
        line
    }

    fn span_of(&self, line: &[Glyph]) -> Span {
        let Some(first) = line.first() else { return Span::new(self.file, 0, 0) };
        let end = line.last().map_or(first.end, |last| last.end).max(first.end);
        Span::new(self.file, first.start, end - first.start)
    }
}

/// The name at the start of `bytes`.
fn name_len(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b) if b.is_ascii_alphabetic() || *b == b'_' => {
            bytes.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_').unwrap_or(bytes.len())
        }
        _ => 0,
    }
}

impl Reader<'_> {
    fn file(&mut self, path: &str, asked: Option<Span>) {
        let file = match self.loader.read(path) {
            Ok(file) => file,
            Err(error) => {
                let help = "correct the name; names are relative to the directory of the including file";
                return self.messages.cannot(asked, format!("cannot open '{path}': {error}"), help);
            }
        };
        if self.reading.contains(&file.identity) {
            let help = "include it from one place, and not from itself";
            return self.messages.cannot(asked, format!("'{path}' includes itself"), help);
        }
        self.text_bytes += file.text.len();
        let fits = self.text_bytes <= TEXT_BYTES_MAX && self.reading.len() < INCLUDE_DEPTH_MAX;
        let number = if fits { self.messages.sources.add(&file.name, file.text) } else { None };
        let Some(number) = number else {
            self.stopped = true;
            let help = format!(
                "at most {FILES_MAX} files of {TEXT_BYTES_MAX} bytes in all, nested {INCLUDE_DEPTH_MAX} deep"
            );
            return self.messages.cannot(asked, format!("'{path}' is too much"), &help);
        };
        self.reading.push(file.identity);
        let bytes = self.messages.sources.text(number);
        let text = Text { bytes, at: 0, reference: None, literal: false };
        let mut input = Input { file: number, texts: alloc::vec![text] };
        while !self.stopped && input.peek().is_some() {
            self.line(&mut input);
        }
        self.reading.pop();
    }

    /// One line, or several if a parameter has several.
    fn line(&mut self, input: &mut Input) {
        let mut line = Vec::new();
        loop {
            if line.is_empty() && self.is_directive(input) {
                return;
            }
            let Some(glyph) = input.peek() else { break };
            if glyph.byte == b'$' && self.put_in(input) {
                continue;
            }
            input.skip(1);
            if glyph.byte == b'\n' {
                break;
            }
            line.push(glyph);
            if line.len() > LINE_BYTES_MAX {
                self.stopped = true;
                let help = format!("a line has {LINE_BYTES_MAX} bytes at most; is it the right file?");
                return self.messages.error(input.span_of(&line), "this line is too long", help);
            }
        }
        for token in tokens(&line, input.file, self.messages) {
            self.builder.token(token, self.messages);
        }
        self.builder.end_line();
        if self.builder.is_full() && !self.stopped {
            self.stopped = true;
            self.messages.error(input.span_of(&line), "there are too many lines", "split the file");
        }
    }

    /// What only counts at the start of a line. `true` if the line is done with.
    fn is_directive(&mut self, input: &mut Input) -> bool {
        while input.peek().is_some_and(|g| is_blank(g.byte)) {
            input.skip(1);
        }
        let rest = input.rest();
        if rest.starts_with(b"@") {
            return !self.condition(input);
        }
        if rest.starts_with(b"$") {
            let len = name_len(&rest[1..]);
            if len > 0 && rest.get(len + 1) == Some(&b'=') {
                self.definition(input, len);
                return true;
            }
        }
        if rest.starts_with(b"~SEQ") || rest.starts_with(b"~LST") {
            let line = input.raw_line();
            let span = input.span_of(&line[..line.len().min(4)]);
            self.messages.error(
                span,
                "lines that repeat themselves are not supported",
                "write the lines out",
            );
            return true;
        }
        let keyword = rest.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(rest.len());
        let is_include = matches!(
            &rest[..keyword],
            b"include" | b"includer" | b"includem" | b"includew" | b"includeb" | b"includea"
        );
        if is_include && rest.get(keyword).is_none_or(|b| is_blank(*b) || matches!(b, b'"' | b'\n')) {
            let line = input.raw_line();
            self.include(input, &line);
            return true;
        }
        false
    }

    /// `@id` or `@^id` in front of a line: whether the line counts.
    fn condition(&mut self, input: &mut Input) -> bool {
        input.skip(1);
        let mut word = Vec::new();
        while let Some(glyph) = input.peek().filter(|g| !is_blank(g.byte) && g.byte != b'\n') {
            word.push(glyph.byte);
            input.skip(1);
        }
        let (name, wanted) = match word.strip_prefix(b"^") {
            Some(name) => (name, false),
            None => (&word[..], true),
        };
        if (self.id.is_some_and(|id| id.as_bytes() == name)) == wanted {
            return true;
        }
        while input.peek().is_some_and(|g| is_blank(g.byte)) {
            input.skip(1);
        }
        let is_definition = input.rest().starts_with(b"$");
        while input.raw_line().last().is_some_and(|g| g.byte == b'\\') && is_definition {}
        false
    }

    /// `$NAME=VALUE`; with a backslash at its end the value goes on in the next line.
    fn definition(&mut self, input: &mut Input, name_len: usize) {
        let name = input.rest()[1..=name_len].to_vec();
        input.skip(name_len + 2);
        let mut value = Vec::new();
        let mut is_first = true;
        loop {
            let raw = input.raw_line();
            let goes_on = raw.last().is_some_and(|g| g.byte == b'\\');
            let line = if goes_on { &raw[..raw.len() - 1] } else { without_comment(&raw) };
            let line: Vec<u8> = line.iter().map(|g| g.byte).collect();
            let line = line.trim_ascii();
            if !is_first && !value.is_empty() {
                value.push(b'\n');
            }
            value.extend_from_slice(line);
            is_first = false;
            if !goes_on || input.peek().is_none() {
                break;
            }
        }
        self.parameters.insert(name, value.into());
    }

    /// Puts the value of the parameter in whose reference comes next; `false` if none does.
    fn put_in(&mut self, input: &mut Input) -> bool {
        let rest = input.rest();
        let in_braces = rest.get(1) == Some(&b'{');
        let name_at = if in_braces { 2 } else { 1 };
        let name = &rest[name_at.min(rest.len())..];
        let name = &name[..name_len(name)];
        let mut len = name_at + name.len();
        if name.is_empty() {
            return false;
        }
        let (name, next) = (name.to_vec(), rest.get(len).copied());
        if in_braces {
            if next != Some(b'}') {
                return false;
            }
            len += 1;
        } else if next.or_else(|| input.outer()).is_some_and(|b| !is_blank(b) && b != b'\n') {
            return false;
        }
        let Some((bytes, literal)) = self.value(input, &name) else { return false };
        let Some(here) = input.peek() else { return false };
        let inside = input.texts.last().and_then(|text| text.reference);
        let reference = inside.unwrap_or((here.start, here.start + len as u32));
        self.put_in += 1;
        self.put_in_bytes += bytes.len();
        let is_too_deep = input.texts.len() > PARAMETER_DEPTH_MAX;
        if is_too_deep || self.put_in > PARAMETERS_MAX || self.put_in_bytes > PARAMETER_BYTES_MAX {
            self.stopped = true;
            let span = Span::new(input.file, reference.0, reference.1 - reference.0);
            let help = "a parameter must not lead back to itself";
            self.messages.error(span, "this parameter becomes too long", help);
            input.texts.clear();
            return true;
        }
        input.skip(len);
        input.texts.push(Text { bytes, at: 0, reference: Some(reference), literal });
        true
    }

    /// The value of a parameter, and whether it is a character that means nothing else.
    fn value(&self, input: &Input, name: &[u8]) -> Option<(Arc<[u8]>, bool)> {
        if let Some(value) = self.parameters.get(name) {
            return Some((value.clone(), false));
        }
        match name {
            b"_PWD" => {
                let file = self.messages.sources.name(input.file);
                let directory = file.rsplit_once('/').map_or(".", |(directory, _)| directory);
                Some((directory.as_bytes().into(), false))
            }
            b"_INSTANCE" => self.id.map(|id| (id.as_bytes().into(), false)),
            b"_HASH" => Some((b"#".as_slice().into(), true)),
            b"_BANG" => Some((b"!".as_slice().into(), true)),
            _ => None,
        }
    }

    fn include(&mut self, input: &Input, line: &[Glyph]) {
        let span = input.span_of(without_comment(line));
        let words = tokens(line, input.file, self.messages);
        let [_, super::lexer::Token::Word(pattern)] = &words[..] else {
            return self.messages.error(span, "expected the name of one file", "write 'include FILE'");
        };
        let here = self.messages.sources.name(input.file);
        let path = match here.rfind('/') {
            Some(slash) if !pattern.text.starts_with('/') => format!("{}/{}", &here[..slash], pattern.text),
            _ => pattern.text.clone(),
        };
        let names = if pattern.text.contains(['*', '?', '[']) {
            self.loader.glob(&path)
        } else {
            alloc::vec![path.to_owned()]
        };
        for name in names {
            if !self.stopped {
                self.file(&name, Some(pattern.span));
            }
        }
    }
}
