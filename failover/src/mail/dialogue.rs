//! What is said to the server, and what its answers mean (RFC 5321 3 and 4). The server need not be one: whatever it sends,
//! the dialogue ends, and nothing is taken for delivered that was not.

use super::reply::{Replies, Reply, ReplyError};

/// Why a message was not delivered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MailError {
    /// The server does not want it.
    #[error("the server answers {command} with {} {}", reply.code, reply.text)]
    Refused {
        /// What it answers.
        command: String,
        /// How.
        reply: Reply,
    },
    /// It is no server of mail, perhaps.
    #[error("what comes as an answer to {command} is none: {error}")]
    NoAnswer {
        /// What was to be answered.
        command: String,
        /// Why it is none.
        error: ReplyError,
    },
    /// An answer to what was not said yet.
    #[error("the server says more than an answer to {0}")]
    Unasked(String),
    /// Neither a delivery nor a refusal.
    #[error("the connection has ended before the answer to {0}")]
    Closed(String),
    /// The same.
    #[error("no answer to {0} in time")]
    TimedOut(String),
}

impl MailError {
    /// Whether another attempt is of no use.
    pub fn is_permanent(&self) -> bool {
        matches!(self, MailError::Refused { reply, .. } if reply.is_permanent())
    }
}

impl Reply {
    /// Whether it will be the same the next time.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    fn is_positive(&self) -> bool {
        self.code < 300
    }
}

/// Somebody who does not get it, though others do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The recipient.
    pub to: String,
    /// Why.
    pub reply: Reply,
}

/// The server has the message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    /// For whom it has not.
    pub refused: Vec<Refusal>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Greeting,
    Ehlo,
    Helo,
    From,
    To(usize),
    Data,
    Text,
    Quit,
    Over,
}

/// One message on one connection.
#[derive(Clone, Debug)]
pub struct Dialogue {
    helo: String,
    from: String,
    to: Vec<String>,
    text: Vec<u8>,
    stage: Stage,
    replies: Replies,
    output: Vec<u8>,
    refused: Vec<Refusal>,
    outcome: Option<Result<Delivered, MailError>>,
}

impl Dialogue {
    /// Begins with the server's greeting. `helo` is the name of this node, `text` the message with its headers.
    ///
    /// # Panics
    /// Without recipients, or if one of the words could end its line.
    pub fn new(helo: &str, from: &str, to: &[String], text: &[u8]) -> Dialogue {
        assert!(!to.is_empty(), "a message has a recipient");
        let mut words = to.iter().map(String::as_str).chain([helo, from]);
        assert!(words.all(|word| word.bytes().all(|b| b.is_ascii_graphic())), "a word stays in its line");
        Dialogue {
            helo: helo.to_owned(),
            from: from.to_owned(),
            to: to.to_vec(),
            text: transparent(text),
            stage: Stage::Greeting,
            replies: Replies::default(),
            output: Vec::new(),
            refused: Vec::new(),
            outcome: None,
        }
    }

    /// What is to be sent now; nothing: an answer is waited for.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Whether [`Dialogue::take_output`] has something.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// What has become of the message, as soon as that is known.
    pub fn outcome(&self) -> Option<&Result<Delivered, MailError>> {
        self.outcome.as_ref()
    }

    /// There is nothing more to say or to wait for.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Takes what has arrived. What is to be said has to have been taken before.
    pub fn receive(&mut self, octets: &[u8]) {
        for (at, octet) in octets.iter().enumerate() {
            match (self.stage, self.replies.push(*octet)) {
                (Stage::Over, _) => return,
                (_, Ok(None)) => {}
                (_, Err(error)) => return self.end(MailError::NoAnswer { command: self.command(), error }),
                (Stage::Quit, Ok(Some(_))) => return self.stage = Stage::Over,
                // What is answered before it was said is no answer to it.
                (_, Ok(Some(_))) if at + 1 < octets.len() || !self.output.is_empty() => {
                    return self.end(MailError::Unasked(self.command()));
                }
                (_, Ok(Some(reply))) => return self.answer(reply),
            }
        }
    }

    /// The connection has ended, or cannot be used.
    pub fn closed(&mut self) {
        self.end(MailError::Closed(self.command()));
    }

    /// The answer has not come in time.
    pub fn timed_out(&mut self) {
        self.end(MailError::TimedOut(self.command()));
    }

    /// No more words. What is known already stays.
    fn end(&mut self, error: MailError) {
        self.outcome.get_or_insert(Err(error));
        self.stage = Stage::Over;
        self.output.clear();
    }

    fn answer(&mut self, reply: Reply) {
        assert!(self.outcome.is_none(), "the dialogue goes on as long as nothing is decided");
        let is_well = reply.is_positive();
        match self.stage {
            Stage::Greeting if is_well => self.say(Stage::Ehlo, format!("EHLO {}", self.helo)),
            // A server of long ago.
            Stage::Ehlo if reply.is_permanent() => self.say(Stage::Helo, format!("HELO {}", self.helo)),
            Stage::Ehlo | Stage::Helo if is_well => {
                self.say(Stage::From, format!("MAIL FROM:<{}>", self.from));
            }
            Stage::From if is_well => self.say_recipient(0),
            Stage::To(at) if is_well => self.say_recipient(at + 1),
            // With 421 the server leaves.
            Stage::To(at) if reply.code != 421 => {
                self.refused.push(Refusal { to: self.to[at].clone(), reply });
                self.say_recipient(at + 1);
            }
            Stage::Data if reply.code == 354 => {
                self.stage = Stage::Text;
                self.output = std::mem::take(&mut self.text);
            }
            Stage::Text if is_well => {
                let refused = std::mem::take(&mut self.refused);
                self.decide(Ok(Delivered { refused }));
            }
            _ => self.decide(Err(MailError::Refused { command: self.command(), reply })),
        }
    }

    fn say_recipient(&mut self, at: usize) {
        assert!(at <= self.to.len(), "each recipient has its turn");
        if let Some(to) = self.to.get(at) {
            self.say(Stage::To(at), format!("RCPT TO:<{to}>"));
        } else if self.refused.len() < self.to.len() {
            self.say(Stage::Data, "DATA".to_owned());
        } else {
            // One that may be taken the next time is worth another attempt.
            let worth = self.refused.iter().position(|refusal| !refusal.reply.is_permanent());
            let Refusal { to, reply } = self.refused.swap_remove(worth.unwrap_or(0));
            self.decide(Err(MailError::Refused { command: format!("RCPT TO:<{to}>"), reply }));
        }
    }

    fn say(&mut self, stage: Stage, line: String) {
        assert!(self.output.is_empty(), "one command at a time");
        self.stage = stage;
        self.output = (line + "\r\n").into_bytes();
    }

    fn decide(&mut self, outcome: Result<Delivered, MailError>) {
        self.outcome = Some(outcome);
        self.say(Stage::Quit, "QUIT".to_owned());
    }

    /// What the answer that is waited for is to.
    fn command(&self) -> String {
        match self.stage {
            Stage::Greeting => "the connection".to_owned(),
            Stage::Ehlo => format!("EHLO {}", self.helo),
            Stage::Helo => format!("HELO {}", self.helo),
            Stage::From => format!("MAIL FROM:<{}>", self.from),
            Stage::To(at) => format!("RCPT TO:<{}>", self.to[at]),
            Stage::Data => "DATA".to_owned(),
            Stage::Text => "the message".to_owned(),
            Stage::Quit | Stage::Over => "QUIT".to_owned(),
        }
    }
}

/// The message with its end, a dot in a line of its own, and no other line that looks like that (RFC 5321 4.5.2).
fn transparent(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests;
