//! `resource { .. }` and its volumes (drbd-admin 1.6, 1.11).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::super::ast::{Backing, Device, HostKind, Meta, Resource, Sections, Template, Volume};
use super::super::lexer::{Token, TokenKind};
use super::super::source::Span;
use super::{P, Parser, Seen, describe};
use crate::options::Section;

/// Largest minor number.
const MINOR_MAX: u64 = 1_048_575;
/// Largest volume number of 8.4.
const VOLUME_MAX: u64 = 65_535;
/// Largest index of an indexed meta-disk: 128 MiB slots on the largest device.
const META_INDEX_MAX: u64 = 8_388_607;

impl Parser<'_> {
    /// `resource NAME { .. }` behind its keyword.
    pub(super) fn resource(&mut self, keyword: &Token) -> P<()> {
        const WORDS: &[&str] = &[
            "protocol",
            "on",
            "floating",
            "stacked-on-top-of",
            "volume",
            "device",
            "disk",
            "meta-disk",
            "flexible-meta-disk",
            "net",
            "syncer",
            "startup",
            "handlers",
            "options",
            "proxy",
            "connection",
            "connection-mesh",
            "template-file",
            "skip",
            "ignore-on",
        ];
        let (name, span) = self.name("the name of the resource")?;
        self.once("resource section", &name, span);
        self.open_brace()?;
        let mut resource = Resource {
            name,
            span: keyword.span,
            sections: Sections::default(),
            volumes: Vec::new(),
            hosts: Vec::new(),
            connections: Vec::new(),
            template: None,
        };
        let mut seen = Seen::new();
        loop {
            let token = self.next()?;
            if token.is_punct('}') || token.kind == TokenKind::End {
                break;
            }
            let owner = resource.name.clone();
            if self.section_item(&token, &owner, &mut resource.sections, &mut seen)?
                || self.volume_item(&token, &mut resource.volumes)?
                || self.connection_item(&token, &mut resource)?
            {
                continue;
            }
            match token.word() {
                Some("disk") if self.peek()?.is_punct('{') => {
                    self.once_in(&mut seen, "disk section", &format!("{owner}:disk"), token.span);
                    self.open_brace()?;
                    let entries = self.options_block(Section::Disk)?;
                    self.add_entries(&mut resource.sections.disk, entries);
                }
                Some("disk") => self.disk_statement(implicit_volume(&mut resource.volumes, token.span))?,
                Some("on" | "floating" | "stacked-on-top-of") => {
                    let host = self.host(&token)?;
                    self.once_for_host(&mut seen, &owner, &host);
                    resource.hosts.push(host);
                }
                Some("template-file") => self.template(&token, &mut resource)?,
                Some("skip") => self.skip(&token, false)?,
                Some("ignore-on") => self.ignore_on(&token)?,
                _ => return self.expected_one_of("in a resource", WORDS, &token),
            }
        }
        self.config.resources.push(resource);
        Ok(())
    }

    fn once_for_host(&mut self, seen: &mut Seen, owner: &str, host: &super::super::ast::Host) {
        let names = match &host.kind {
            HostKind::On(names) => names.clone(),
            HostKind::Floating | HostKind::StackedOn(_) => alloc::vec![host.name()],
        };
        for name in names {
            self.once_in(seen, "host section", &format!("{owner}: on {name}"), host.span);
        }
    }

    fn template(&mut self, keyword: &Token, resource: &mut Resource) -> P<()> {
        self.only9(keyword.span);
        let token = self.next()?;
        let Some(path) = token.text().map(|path| self.relative_to_file(path)) else {
            return self.expected("a file name in double quotes", &token);
        };
        self.semicolon()?;
        let file = match self.loader.read(&path) {
            Ok(file) => file,
            Err(error) => {
                let message = format!("failed to open template file '{path}': {error}");
                self.error(token.span, message, "names are relative to the directory of this file");
                return Ok(());
            }
        };
        let mut template = Template { file: file.name.clone(), common: Sections::default() };
        // Several resources may use one template, so it does not matter whether it was read before.
        self.whole_file(file, Some(token.span), |parser| parser.template_items(&mut template.common))?;
        if resource.template.replace(template).is_some() {
            self.error(keyword.span, "template-file is given twice", "keep one of them");
        }
        Ok(())
    }

    fn template_items(&mut self, common: &mut Sections) -> P<()> {
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.kind == TokenKind::End => return Ok(()),
                Some("common") => {
                    self.open_brace()?;
                    *common = self.common_sections()?;
                }
                Some("skip") => self.skip(&token, true)?,
                _ => return self.expected_one_of("in a template file", &["common", "skip"], &token),
            }
        }
    }

    /// Obsolete; everything up to the end of the statement is ignored.
    fn ignore_on(&mut self, keyword: &Token) -> P<()> {
        self.warn(keyword.span, "'ignore-on' is obsolete and ignored", None);
        loop {
            let token = self.next()?;
            match token.kind {
                TokenKind::Punct(';') | TokenKind::End => return Ok(()),
                TokenKind::Punct('{') => {
                    self.lexer.skip_block();
                    return Ok(());
                }
                TokenKind::Word(_) | TokenKind::Quoted(_) => {}
                TokenKind::Punct(_) => return self.expected("';'", &token),
            }
        }
    }

    /// `volume`, `device` or a `meta-disk` on resource or host level; `false` if `token` is none of them.
    pub(super) fn volume_item(&mut self, token: &Token, volumes: &mut Vec<Volume>) -> P<bool> {
        match token.word() {
            Some("volume") => {
                let volume = self.volume(token)?;
                if let Some(first) = volumes.iter().find(|v| v.number == volume.number && !v.implicit) {
                    let first = self.config.file_line(first.span);
                    let message = format!("conflicting use of volume {}", volume.number);
                    self.error(volume.span, message, format!("it was used first at {first}"));
                }
                volumes.push(volume);
            }
            Some("device" | "meta-disk" | "flexible-meta-disk") => {
                self.volume_statement(token, implicit_volume(volumes, token.span))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn volume(&mut self, keyword: &Token) -> P<Volume> {
        const WORDS: &[&str] = &["device", "disk", "meta-disk", "flexible-meta-disk", "skip"];
        let (number, _) = self.int("volume", 0, VOLUME_MAX)?;
        self.open_brace()?;
        let mut volume = empty_volume(number as u16, false, keyword.span);
        let mut seen = Seen::new();
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.is_punct('}') || token.kind == TokenKind::End => return Ok(volume),
                Some("device" | "meta-disk" | "flexible-meta-disk") => {
                    self.volume_statement(&token, &mut volume)?;
                }
                Some("disk") if self.peek()?.is_punct('{') => {
                    self.once_in(&mut seen, "disk section", "volume:disk", token.span);
                    self.disk_section(&mut volume)?;
                }
                Some("disk") => self.disk_statement(&mut volume)?,
                Some("skip") => self.skip(&token, false)?,
                _ => return self.expected_one_of("in a volume", WORDS, &token),
            }
        }
    }

    /// `disk { .. }` of a volume behind its keyword.
    pub(super) fn disk_section(&mut self, volume: &mut Volume) -> P<()> {
        self.open_brace()?;
        let entries = self.options_block(Section::Disk)?;
        self.add_entries(&mut volume.options, entries);
        Ok(())
    }

    fn volume_statement(&mut self, token: &Token, volume: &mut Volume) -> P<()> {
        match token.word() {
            Some("device") => {
                if let Some(device) = self.device(token.span)? {
                    self.once_per_volume(volume.device.is_some(), "device", volume.number, token.span);
                    volume.device = Some(device);
                }
            }
            word => {
                let meta = self.meta_disk(token.span, word == Some("flexible-meta-disk"))?;
                self.once_per_volume(volume.meta_disk.is_some(), "meta-disk", volume.number, token.span);
                volume.meta_disk = Some(meta);
            }
        }
        Ok(())
    }

    /// `disk NAME;` behind its keyword.
    pub(super) fn disk_statement(&mut self, volume: &mut Volume) -> P<()> {
        let (path, span) = self.name("the path of the backing device or '{'")?;
        self.semicolon()?;
        self.once_per_volume(volume.disk.is_some(), "disk", volume.number, span);
        let path = if path == "none" {
            self.only9(span);
            None
        } else {
            Some(path)
        };
        volume.disk = Some(Backing { path, span, inherited: false });
        Ok(())
    }

    fn once_per_volume(&mut self, again: bool, what: &str, volume: u16, span: Span) {
        if again {
            let message = format!("conflicting use of {what} in volume {volume}");
            self.error(span, message, format!("give {what} once"));
        }
    }

    /// `device ..;` behind its keyword; `None` after a wrong name.
    fn device(&mut self, span: Span) -> P<Option<Device>> {
        let mut node = None;
        let mut node_span = span;
        if !self.peek()?.is_word("minor") {
            let (name, span) = self.name("a device name or 'minor'")?;
            node = Some(name);
            node_span = span;
        }
        let mut minor = None;
        if self.peek()?.is_word("minor") {
            self.next()?;
            minor = Some(self.int("minor", 0, MINOR_MAX)?.0 as u32);
        }
        self.semicolon()?;
        let Some(node) = node else {
            return Ok(minor.map(|minor| Device { minor, node: None, span }));
        };
        Ok(self.device_name(&node, node_span, minor).map(|(minor, node)| Device {
            minor,
            node: Some(node),
            span,
        }))
    }

    /// Minor and full path of a device name, which must agree with an explicit minor (drbd-admin 1.11).
    fn device_name(&mut self, name: &str, span: Span, minor: Option<u32>) -> Option<(u32, String)> {
        let short = name.strip_prefix("/dev/").unwrap_or(name);
        let node = format!("/dev/{short}");
        let Some(rest) = short.strip_prefix("drbd") else {
            let message = format!("device name '{name}' must start with /dev/drbd");
            let help = "write '/dev/drbdN', '/dev/drbd_NAME minor N' or 'minor N' (/dev/ is optional)";
            self.error(span, message, help);
            return None;
        };
        let from_name = rest
            .parse::<u32>()
            .ok()
            .filter(|n| u64::from(*n) <= MINOR_MAX && rest.bytes().all(|b| b.is_ascii_digit()));
        match (from_name, minor) {
            (Some(named), Some(minor)) if named != minor => {
                let message = format!("explicit minor number {minor} must match with device name '{name}'");
                let help = format!(
                    "write 'device /dev/drbd{minor} minor {minor};', or leave off either device name or minor"
                );
                self.error(span, message, help);
                None
            }
            (Some(named), _) => Some((named, node)),
            (None, Some(minor)) if rest.starts_with('_') => Some((minor, node)),
            (None, Some(_)) => {
                let message = format!("arbitrary device name '{name}' must start with /dev/drbd_");
                self.error(span, message, "mind the '_': write '/dev/drbd_NAME minor N'");
                None
            }
            (None, None) => {
                let message = format!("device name '{name}' does not tell the minor number");
                self.error(span, message, "write '/dev/drbdN' or '/dev/drbd_NAME minor N'");
                None
            }
        }
    }

    fn meta_disk(&mut self, span: Span, flexible: bool) -> P<Meta> {
        let (path, _) = self.name("'internal' or the path of the metadata device")?;
        let mut meta = Meta { path: None, index: None, span };
        if path != "internal" || flexible {
            meta.path = Some(path);
        }
        if self.peek()?.is_punct('[') && meta.path.is_some() && !flexible {
            self.next()?;
            meta.index = Some(self.int("index", 0, META_INDEX_MAX)?.0 as u32);
            let token = self.next()?;
            if !token.is_punct(']') {
                let message = format!("expected ']', but got {}", describe(&token));
                return self.stop(token.span, message, "write the index as in 'meta-disk /dev/md [0];'");
            }
        }
        self.semicolon()?;
        Ok(meta)
    }
}

/// A volume without any statement.
pub(super) fn empty_volume(number: u16, implicit: bool, span: Span) -> Volume {
    Volume { number, implicit, span, device: None, disk: None, meta_disk: None, options: Vec::new() }
}

/// The volume that statements without a `volume` block belong to.
pub(super) fn implicit_volume(volumes: &mut Vec<Volume>, span: Span) -> &mut Volume {
    let at = volumes.iter().position(|v| v.implicit).unwrap_or_else(|| {
        volumes.push(empty_volume(0, true, span.to_owned()));
        volumes.len() - 1
    });
    &mut volumes[at]
}
