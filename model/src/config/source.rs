//! The files a configuration was read from, and places in them.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Largest file; a configuration is some kilobytes.
pub const FILE_BYTES_MAX: usize = 16 << 20;
/// Most files of one configuration.
pub const FILES_MAX: usize = 4096;

/// A piece of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Which file of [`Sources`].
    pub file: u16,
    /// Offset of the first byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Span {
    /// `len` bytes from `start`.
    pub const fn new(file: u16, start: u32, len: u32) -> Span {
        Span { file, start, len }
    }
}

/// A place for people.
#[derive(Debug)]
pub struct Place<'a> {
    /// Name of the file.
    pub file: &'a str,
    /// Line from 1.
    pub line: u32,
    /// The line up to the place.
    pub before: &'a [u8],
    /// The place.
    pub marked: &'a [u8],
    /// The rest of the line.
    pub after: &'a [u8],
}

#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: Arc<[u8]>,
    line_starts: Vec<u32>,
}

/// All files of one configuration, in the order they were read.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// Adds a file; `None` if it is too large or there are too many.
    pub fn add(&mut self, name: &str, text: Vec<u8>) -> Option<u16> {
        if text.len() > FILE_BYTES_MAX || self.files.len() >= FILES_MAX {
            return None;
        }
        let ends = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at as u32 + 1);
        let line_starts = core::iter::once(0).chain(ends).collect();
        self.files.push(Source { name: name.to_owned(), text: text.into(), line_starts });
        Some((self.files.len() - 1) as u16)
    }

    /// Text of a file.
    pub fn text(&self, file: u16) -> Arc<[u8]> {
        self.files[usize::from(file)].text.clone()
    }

    /// Name of a file.
    pub fn name(&self, file: u16) -> &str {
        &self.files[usize::from(file)].name
    }

    /// Line of a place, from 1.
    pub fn line(&self, span: Span) -> u32 {
        self.files[usize::from(span.file)].line_starts.partition_point(|start| *start <= span.start) as u32
    }

    /// The place with its line.
    pub fn place(&self, span: Span) -> Place<'_> {
        let source = &self.files[usize::from(span.file)];
        let line = self.line(span);
        assert!(line >= 1, "the first line starts at 0");
        let line_start = source.line_starts[line as usize - 1] as usize;
        let line_end =
            source.line_starts.get(line as usize).map_or(source.text.len(), |next| *next as usize - 1);
        let start = (span.start as usize).clamp(line_start, line_end);
        let end = (start + span.len as usize).min(line_end);
        Place {
            file: &source.name,
            line,
            before: &source.text[line_start..start],
            marked: &source.text[start..end],
            after: &source.text[end..line_end],
        }
    }
}
