//! What is said while a file is read: the sources and the messages about them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::config::diagnostic::EXIT_CANNOT;
use crate::config::source::{Sources, Span};
use crate::config::{Diagnostic, Severity};

/// So many errors, and so many warnings, are told; more help nobody.
const FOUND_MAX: usize = 200;

/// The files and what was found in them.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The files.
    pub(super) sources: Sources,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Messages {
    /// Refuses what stands at `span`.
    pub(super) fn error(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        if self.errors.len() < FOUND_MAX {
            self.errors.push(Diagnostic::at(&self.sources, span, Severity::Error, message).help(help));
        }
    }

    /// Accepts what stands at `span`, and says what becomes of it.
    pub(super) fn warn(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        if self.warnings.len() < FOUND_MAX {
            self.warnings.push(Diagnostic::at(&self.sources, span, Severity::Warning, message).help(help));
        }
    }

    /// A file that cannot be had; `span` is the line that asked for it.
    pub(super) fn cannot(&mut self, span: Option<Span>, message: String, help: &str) {
        if self.errors.len() < FOUND_MAX {
            let diagnostic = match span {
                Some(span) => Diagnostic::at(&self.sources, span, Severity::Error, message),
                None => Diagnostic::without_place(Severity::Error, message).exit(EXIT_CANNOT),
            };
            self.errors.push(diagnostic.help(help));
        }
    }

    /// There is room for another error and another warning; nobody needs to look for words that nobody reads.
    pub(super) fn has_room(&self) -> bool {
        self.errors.len() < FOUND_MAX && self.warnings.len() < FOUND_MAX
    }

    /// `FILE:LINE` of a place.
    pub(super) fn file_line(&self, span: Span) -> String {
        alloc::format!("{}:{}", self.sources.name(span.file), self.sources.line(span))
    }

    /// The warnings if there was no error, else everything, errors first.
    pub(super) fn finish(mut self) -> Result<Vec<Diagnostic>, Vec<Diagnostic>> {
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        self.errors.append(&mut self.warnings);
        Err(self.errors)
    }
}
