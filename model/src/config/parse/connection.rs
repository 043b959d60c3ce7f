//! `connection` and `connection-mesh` of 9 (drbd-admin 1.8).

use alloc::format;
use alloc::vec::Vec;

use super::super::ast::{Connection, ConnectionHost, Endpoint, Resource, Volume};
use super::super::lexer::{Token, TokenKind};
use super::super::source::Span;
use super::resource::empty_volume;
use super::{P, Parser, Seen};
use crate::options::Section;

impl Parser<'_> {
    /// `connection` or `connection-mesh`; `false` if `token` is neither.
    pub(super) fn connection_item(&mut self, token: &Token, resource: &mut Resource) -> P<bool> {
        let mesh = match token.word() {
            Some("connection") => false,
            Some("connection-mesh") => true,
            _ => return Ok(false),
        };
        self.only9(token.span);
        if !self.peek()?.is_punct('{') {
            let (name, span) = self.name("'{'")?;
            let message =
                format!("explicitly named connections are deprecated: its name '{name}' is ignored");
            self.warn(span, message, None);
        }
        self.open_brace()?;
        let mut connection = Connection {
            span: token.span,
            mesh,
            hosts: Vec::new(),
            paths: Vec::new(),
            net: Vec::new(),
            disk: Vec::new(),
            volumes: Vec::new(),
        };
        self.connection_items(&mut connection)?;
        self.check_connection(&connection);
        resource.connections.push(connection);
        Ok(true)
    }

    fn connection_items(&mut self, connection: &mut Connection) -> P<()> {
        const WORDS: &[&str] = &["host", "path", "net", "disk", "volume", "skip"];
        const MESH_WORDS: &[&str] = &["hosts", "net", "disk", "skip"];
        let mut seen = Seen::new();
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.is_punct('}') || token.kind == TokenKind::End => return Ok(()),
                Some("net") => {
                    self.once_in(&mut seen, "net section", "connection:net", token.span);
                    self.open_brace()?;
                    let entries = self.options_block(Section::Net)?;
                    self.add_entries(&mut connection.net, entries);
                }
                Some("disk") => {
                    self.once_in(&mut seen, "disk section", "connection:disk", token.span);
                    self.open_brace()?;
                    let entries = self.options_block(Section::Disk)?;
                    self.add_entries(&mut connection.disk, entries);
                }
                Some("skip") => self.skip(&token, false)?,
                Some("hosts") if connection.mesh => self.mesh_hosts(connection)?,
                Some("host") if !connection.mesh => {
                    let host = self.connection_host()?;
                    connection.hosts.push(host);
                }
                Some("path") if !connection.mesh => {
                    self.open_brace()?;
                    let path = self.path()?;
                    connection.paths.push(path);
                }
                Some("volume") if !connection.mesh => {
                    let volume = self.connection_volume(&token)?;
                    connection.volumes.push(volume);
                }
                _ => {
                    let words = if connection.mesh { MESH_WORDS } else { WORDS };
                    return self.expected_one_of("in a connection", words, &token);
                }
            }
        }
    }

    fn mesh_hosts(&mut self, connection: &mut Connection) -> P<()> {
        loop {
            let (name, span) = self.name("the name of a host")?;
            let endpoint = Endpoint::Inherited;
            connection.hosts.push(ConnectionHost { name, span, endpoint, proxy: None });
            if self.peek()?.is_punct(';') {
                return self.semicolon();
            }
        }
    }

    fn path(&mut self) -> P<Vec<ConnectionHost>> {
        let mut hosts = Vec::new();
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.is_punct('}') || token.kind == TokenKind::End => return Ok(hosts),
                Some("host") => hosts.push(self.connection_host()?),
                _ => return self.expected_one_of("in a path", &["host"], &token),
            }
        }
    }

    /// `NAME [address ADDR | port N] [via proxy on ..];` behind `host`.
    fn connection_host(&mut self) -> P<ConnectionHost> {
        let (name, span) = self.name("the name of a host")?;
        let mut host = ConnectionHost { name, span, endpoint: Endpoint::Inherited, proxy: None };
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.is_punct(';') => return Ok(host),
                Some("address") => host.endpoint = Endpoint::Address(self.address()?),
                Some("port") => host.endpoint = Endpoint::Port(self.int("port", 1, 65_535)?.0 as u16),
                Some("via") => {
                    let proxy = self.next()?;
                    if !proxy.is_word("proxy") {
                        return self.expected("'proxy' behind via", &proxy);
                    }
                    self.warn_of_proxy(token.span);
                    host.proxy = Some(self.host_proxy()?);
                    // A proxy section ends the statement; the semicolon may be missing then.
                    if self.peek()?.is_punct(';') {
                        self.next()?;
                    }
                    return Ok(host);
                }
                _ => return self.expected("address, port, via or ';'", &token),
            }
        }
    }

    fn connection_volume(&mut self, keyword: &Token) -> P<Volume> {
        let (number, _) = self.int("volume", 0, 65_535)?;
        self.open_brace()?;
        let mut volume = empty_volume(number as u16, false, keyword.span);
        loop {
            let token = self.next()?;
            match token.word() {
                _ if token.is_punct('}') || token.kind == TokenKind::End => return Ok(volume),
                Some("disk") => self.disk_section(&mut volume)?,
                Some("skip") => self.skip(&token, false)?,
                _ => return self.expected_one_of("in a volume of a connection", &["disk", "skip"], &token),
            }
        }
    }

    fn check_connection(&mut self, connection: &Connection) {
        if connection.mesh {
            if connection.hosts.len() < 2 {
                self.error(connection.span, "a connection-mesh needs two hosts", "write 'hosts NAME NAME;'");
            }
            return;
        }
        let sides =
            connection.paths.iter().chain((!connection.hosts.is_empty()).then_some(&connection.hosts));
        let wrong: Vec<Span> = sides
            .filter(|hosts| hosts.len() != 2)
            .map(|h| h.first().map_or(connection.span, |h| h.span))
            .collect();
        for span in wrong {
            self.error(span, "a connection or path has exactly two hosts", "write 'host NAME;' twice");
        }
        if connection.paths.len() + usize::from(!connection.hosts.is_empty()) > 1 {
            self.warn(connection.span, "only the first path of this connection is used", None);
        }
        if connection.hosts.is_empty() && connection.paths.is_empty() {
            let message = "connection without a single path (maybe empty?) not allowed";
            self.error(connection.span, message, "name two hosts with 'host NAME;'");
        }
    }
}
