//! Words and braces to statements: a line is one, and what stands in braces behind it belongs to it.

use alloc::format;
use alloc::vec::Vec;

use super::lexer::{Token, Word};
use super::messages::Messages;
use crate::config::source::Span;

/// Blocks may be nested that deep; the grammar needs five levels.
const DEPTH_MAX: usize = 12;
/// So many statements may stand in all files together.
const STATEMENTS_MAX: usize = 100_000;

/// Words of one line, and the block behind them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Statement {
    /// At least one.
    pub(super) words: Vec<Word>,
    /// What is in the braces, if there are any.
    pub(super) body: Option<Vec<Statement>>,
}

impl Statement {
    /// The first word.
    pub(super) fn keyword(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    /// Where the first word stands.
    pub(super) fn span(&self) -> Span {
        self.words.first().map_or(Span::default(), |word| word.span)
    }

    /// The words behind the first.
    pub(super) fn arguments(&self) -> &[Word] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The statements in its braces; none without braces.
    pub(super) fn block(&self) -> &[Statement] {
        self.body.as_deref().unwrap_or_default()
    }
}

/// Makes a tree of what comes token by token.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// Blocks that are open: what stands in front of the brace, and what was in front of that.
    open: Vec<(Vec<Word>, Vec<Statement>)>,
    statements: Vec<Statement>,
    words: Vec<Word>,
    count: usize,
    /// Blocks that are open beyond the depth.
    too_deep: usize,
}

impl Builder {
    /// The next token.
    pub(super) fn token(&mut self, token: Token, messages: &mut Messages) {
        match token {
            Token::Word(word) => self.words.push(word),
            Token::Open(span) => self.open(span, messages),
            Token::Close(span) => {
                self.end_line();
                if self.too_deep > 0 {
                    self.too_deep -= 1;
                    return;
                }
                let Some((words, outer)) = self.open.pop() else {
                    let help = "take it away, or look for the '{' that is missing in front of it";
                    return messages.error(span, "there is no block that this '}' could end", help);
                };
                let body = core::mem::replace(&mut self.statements, outer);
                self.statements.push(Statement { words, body: Some(body) });
            }
        }
    }

    /// The end of a line.
    pub(super) fn end_line(&mut self) {
        if !self.words.is_empty() {
            self.count += 1;
            self.statements.push(Statement { words: core::mem::take(&mut self.words), body: None });
        }
    }

    /// There is no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.count > STATEMENTS_MAX
    }

    /// The end of all files.
    pub(super) fn finish(mut self, messages: &mut Messages) -> Vec<Statement> {
        self.end_line();
        if let Some((words, _)) = self.open.last()
            && let Some(word) = words.first()
        {
            let message = format!("the block of '{}' does not end", word.text);
            messages.error(word.span, message, "a '}' is missing behind it, or a '{' is one too many");
        }
        self.statements
    }

    fn open(&mut self, span: Span, messages: &mut Messages) {
        // The brace may stand on the line behind its words.
        if self.words.is_empty()
            && let Some(previous) = self.statements.pop_if(|previous| previous.body.is_none())
        {
            self.words = previous.words;
        }
        if self.words.is_empty() {
            messages.error(span, "there is no word in front of this '{'", "write what the block is about");
        }
        if self.open.len() >= DEPTH_MAX {
            if self.too_deep == 0 {
                let help = format!("at most {DEPTH_MAX} are possible, and no keyword needs more than five");
                messages.error(span, "blocks are nested too deeply", help);
            }
            self.words.clear();
            self.too_deep += 1;
            return;
        }
        if self.words.is_empty() {
            // So that its end finds a beginning; the error is told already.
            self.words = alloc::vec![Word { text: "{".into(), quoted: true, span }];
        }
        self.open.push((core::mem::take(&mut self.words), core::mem::take(&mut self.statements)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::lexer::{Glyph, tokens};
    use super::*;
    use alloc::string::String;

    fn shown(statements: &[Statement]) -> String {
        let each = statements.iter().map(|s| {
            let words: Vec<&str> = s.words.iter().map(|w| w.text.as_str()).collect();
            match &s.body {
                Some(body) => format!("{}[{}]", words.join(" "), shown(body)),
                None => words.join(" "),
            }
        });
        each.collect::<Vec<_>>().join(";")
    }

    fn tree(text: &str) -> (String, usize) {
        let mut messages = Messages::default();
        let file = messages.sources.add("t", text.as_bytes().to_vec()).expect("small");
        let mut builder = Builder::default();
        for line in text.lines() {
            let glyphs: Vec<Glyph> =
                line.bytes().map(|byte| Glyph { byte, start: 0, end: 1, literal: false }).collect();
            for token in tokens(&glyphs, file, &mut messages) {
                builder.token(token, &mut messages);
            }
            builder.end_line();
        }
        let statements = builder.finish(&mut messages);
        (shown(&statements), messages.finish().err().map_or(0, |all| all.len()))
    }

    #[test]
    fn braces_may_stand_anywhere() {
        assert_eq!(tree("a b {\n c\n d 1\n}\ne"), ("a b[c;d 1];e".into(), 0));
        assert_eq!(tree("a b{c}d"), ("a b[c];d".into(), 0));
        assert_eq!(tree("a\n{\n b { c }}"), ("a[b[c]]".into(), 0));
        assert_eq!(tree("a {\n}\n{\n}").1, 1);
        assert_eq!(tree("a {\n b {\n c }").1, 1);
        assert_eq!(tree("a }\nb"), ("a;b".into(), 1));
        assert_eq!(tree(&"x {".repeat(5000)).1, 2);
        let deep = ["a {".repeat(20), "}".repeat(20), "b".into()].concat();
        assert!(tree(&deep).0.ends_with(";b"));
    }
}
