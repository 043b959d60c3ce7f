//! Host sections and addresses (drbd-admin 1.6, 1.10, 1.12).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::ast::{Address, Family, Host, HostKind, HostProxy};
use super::super::lexer::{Token, TokenKind};
use super::super::source::Span;
use super::resource::implicit_volume;
use super::{P, Parser, Seen, describe};
use crate::options::Section;

/// Largest node id of 9.
const NODE_ID_MAX: u64 = 31;

impl Parser<'_> {
    /// `on`, `floating` or `stacked-on-top-of` behind the keyword.
    pub(super) fn host(&mut self, keyword: &Token) -> P<Host> {
        let mut address = None;
        let kind = match keyword.word() {
            Some("floating") => {
                address = Some(self.address()?);
                HostKind::Floating
            }
            Some("stacked-on-top-of") => HostKind::StackedOn(self.name("the name of the lower resource")?.0),
            _ => HostKind::On(self.host_names()?),
        };
        let mut host = Host {
            kind,
            span: keyword.span,
            node_id: None,
            options: Vec::new(),
            volumes: Vec::new(),
            address,
            alternate: None,
            proxy: None,
        };
        if host.kind == HostKind::Floating && self.peek()?.is_punct(';') {
            self.next()?;
            return Ok(host);
        }
        self.open_brace()?;
        self.host_items(&mut host)?;
        Ok(host)
    }

    /// One or more names in front of a brace.
    fn host_names(&mut self) -> P<Vec<String>> {
        let mut names = alloc::vec![self.name("the name of a host")?.0];
        while !self.peek()?.is_punct('{') {
            names.push(self.name("the name of a host or '{'")?.0);
        }
        Ok(names)
    }

    fn host_items(&mut self, host: &mut Host) -> P<()> {
        const WORDS: &[&str] = &[
            "device",
            "disk",
            "address",
            "meta-disk",
            "flexible-meta-disk",
            "volume",
            "node-id",
            "alternate-link-address",
            "options",
            "proxy",
            "skip",
        ];
        let mut seen = Seen::new();
        loop {
            let token = self.next()?;
            if token.is_punct('}') || token.kind == TokenKind::End {
                return Ok(());
            }
            if self.volume_item(&token, &mut host.volumes)? {
                continue;
            }
            match token.word() {
                Some("disk") => {
                    let volume = implicit_volume(&mut host.volumes, token.span);
                    if self.peek()?.is_punct('{') {
                        self.once_in(&mut seen, "disk section", "host:disk", token.span);
                        self.disk_section(volume)?;
                    } else {
                        self.disk_statement(volume)?;
                    }
                }
                Some("address") => {
                    let address = self.address()?;
                    self.semicolon()?;
                    if host.address.replace(address).is_some() {
                        let help = "a host has one address; more paths need 'connection' sections";
                        self.error(token.span, "conflicting use of address in this host section", help);
                    }
                }
                Some("alternate-link-address") => {
                    host.alternate = Some(self.address()?);
                    self.semicolon()?;
                }
                Some("node-id") => {
                    self.only9(token.span);
                    host.node_id = Some(self.int("node-id", 0, NODE_ID_MAX)?.0 as u8);
                    self.semicolon()?;
                }
                Some("options") => {
                    self.once_in(&mut seen, "options section", "host:options", token.span);
                    self.open_brace()?;
                    let entries = self.options_block(Section::Options)?;
                    self.add_entries(&mut host.options, entries);
                }
                Some("proxy") => {
                    self.warn_of_proxy(token.span);
                    host.proxy = Some(self.host_proxy()?);
                }
                Some("skip") => self.skip(&token, false)?,
                _ => return self.expected_one_of("in a host section", WORDS, &token),
            }
        }
    }

    /// `on NAME.. { inside outside options }` behind `proxy`.
    pub(super) fn host_proxy(&mut self) -> P<HostProxy> {
        let token = self.next()?;
        if !token.is_word("on") {
            return self.expected("'on' behind proxy", &token);
        }
        let mut proxy = HostProxy { names: self.host_names()?, ..HostProxy::default() };
        self.open_brace()?;
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.is_punct('}') || token.kind == TokenKind::End => return Ok(proxy),
                Some("inside") => {
                    proxy.inside = Some(self.address()?);
                    self.semicolon()?;
                }
                Some("outside") => {
                    proxy.outside = Some(self.address()?);
                    self.semicolon()?;
                }
                Some("options") => {
                    self.open_brace()?;
                    proxy.options = self.proxy_options()?;
                }
                _ => {
                    return self.expected_one_of(
                        "in a proxy section",
                        &["inside", "outside", "options"],
                        &token,
                    );
                }
            }
        }
    }

    /// An address up to and with its port.
    pub(super) fn address(&mut self) -> P<Address> {
        let mut token = self.next()?;
        let start = token.span;
        let mut family = Family::Ipv4;
        if let Some(named) = token.word().and_then(Family::from_name) {
            family = named;
            token = self.next()?;
        }
        let (ip, text) = if family == Family::Ipv6 { self.ipv6(&token)? } else { self.ipv4(&token)? };
        let colon = self.next()?;
        if !colon.is_punct(':') {
            let message = format!("expected ':' and a port, but got {}", describe(&colon));
            return self.stop(colon.span, message, format!("write '{text}:7789'"));
        }
        let (port, end) = self.int("port", 1, 65_535)?;
        let span = Span::new(start.file, start.start, end.start + end.len - start.start);
        Ok(Address { family, ip, text, port: port as u16, span })
    }

    fn ipv4(&mut self, token: &Token) -> P<(IpAddr, String)> {
        if let Some((text, ip)) = token.word().and_then(|w| Some((w, w.parse::<Ipv4Addr>().ok()?))) {
            return Ok((IpAddr::V4(ip), text.into()));
        }
        let message =
            format!("expected ssocks, sdp, ipv4, ipv6 or an IPv4 address, but got {}", describe(token));
        let help = "write '10.1.1.31:7789' or 'ipv6 [fd00::31]:7789'; host names are not looked up";
        self.stop(token.span, message, help)
    }

    fn ipv6(&mut self, bracket: &Token) -> P<(IpAddr, String)> {
        if !bracket.is_punct('[') {
            let message = format!("expected '[', but got {}", describe(bracket));
            return self.stop(bracket.span, message, "write an IPv6 address as 'ipv6 [fd00::31]:7789'");
        }
        assert!(self.peeked.is_none(), "the bracket was the last token taken");
        let (text, span) = match self.lexer.ipv6_text() {
            Ok(found) => found,
            Err(error) => {
                self.push_error(error.diagnostic(&self.config.sources));
                return Err(super::Stop);
            }
        };
        let address = text.split_once('%').map_or(text.as_str(), |(address, _)| address);
        let Ok(ip) = address.parse::<Ipv6Addr>() else {
            return self.stop(span, format!("'{text}' is not an IPv6 address"), "write it like 'fd00::31'");
        };
        let close = self.next()?;
        if !close.is_punct(']') {
            return self.expected("']'", &close);
        }
        Ok((IpAddr::V6(ip), text))
    }
}
