//! What mails need: addresses, the server, and whether there is anything to send them by.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;

use super::Draft;
use crate::config::source::Span;
use crate::failover::config::{Notify, SmtpServer};
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::tree::Statement;
use crate::failover::value::{filled, int};

/// Octets of an address at most (RFC 5321 4.5.3.1.3, without the brackets).
const ADDRESS_BYTES_MAX: usize = 254;

/// The address in a word; tells if there is none.
pub(super) fn address(word: &Word, messages: &mut Messages) -> Option<String> {
    let text = &word.text;
    let part_fits = |part: &str| !part.is_empty() && part.bytes().all(is_plain);
    let fits = match text.split_once('@') {
        Some((local, domain)) => part_fits(local) && part_fits(domain),
        None => part_fits(text),
    };
    if !fits || text.len() > ADDRESS_BYTES_MAX {
        let message = format!("'{}' is not an address that mail can be sent to", text.escape_default());
        messages.error(word.span, message, "write one like admin@example.com, without a name");
        return None;
    }
    Some(text.clone())
}

/// What may stand in an address as it is, in an envelope and in a list.
fn is_plain(octet: u8) -> bool {
    octet.is_ascii_graphic()
        && !matches!(octet, b'<' | b'>' | b'(' | b')' | b',' | b';' | b'"' | b'\\' | b'@')
}

/// `HOST [PORT]`.
pub(super) fn server(words: &[Word], messages: &mut Messages) -> Option<SmtpServer> {
    let host = filled(words.first()?, messages)?.text.clone();
    let port = match words.get(1) {
        Some(port) => u16::try_from(int("port", port, 1, 65_535, messages)?).ok()?,
        None => SmtpServer::PORT,
    };
    Some(SmtpServer { host, port })
}

/// A name of this node for the server; what is no name would end its line, or be refused by everybody.
pub(super) fn helo_name(word: &Word, messages: &mut Messages) -> Option<String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':');
    if word.text.is_empty() || word.text.len() > 253 || !word.text.bytes().all(is_plain) {
        let message = format!("'{}' is not the name of a host", word.text.escape_default());
        messages.error(word.span, message, "write one like alpha.example.com");
        return None;
    }
    Some(word.text.to_owned())
}

impl Draft {
    /// Remembers the first block that mails are wanted for.
    pub(super) fn note_mails(&mut self, statement: &Statement, span: Span, notify: &Notify) {
        if notify.mails && self.mails_span.is_none() {
            let own = statement.block().iter().rev().find(|line| line.keyword() == "smtp_alert");
            self.mails_span = own.map(Statement::span).or(self.defaults.mails_span).or(Some(span));
        }
    }

    /// Warns if mails are wanted that nobody would get.
    pub(in crate::failover) fn check_mails(&self, messages: &mut Messages) {
        let Some(span) = self.mails_span else { return };
        let globals = &self.config.globals;
        let missing = match (&globals.smtp_server, globals.email_to.is_empty()) {
            (Some(_), false) => return,
            (None, false) => "'smtp_server HOST'",
            (Some(_), true) => "'notification_email { admin@example.com }'",
            (None, true) => "'smtp_server HOST' and 'notification_email { admin@example.com }'",
        };
        let message = "no mail is sent: it is not said by whom, or to whom";
        messages.warn(span, message, format!("add {missing} to global_defs"));
    }
}
