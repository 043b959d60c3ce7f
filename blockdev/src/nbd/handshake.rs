//! Option haggling: from the first byte of a connection to the chosen export.

use std::borrow::Cow;

use super::export::{ExportInfo, Exports, MAX_NAME_BYTES, Refused, RefusedError};
use super::reply::{ReplyStyle, cut};

/// Server side of the handshake of one connection.
///
/// Call [`Handshake::greeting`] once, send what it wrote, then call [`Handshake::feed`] with what was received until
/// it returns [`State::Transmission`] or [`State::Close`]; feeding after that is a mistake of the caller and panics.
/// Each call of `feed` answers at most one option, so a caller that sends its output before it feeds on needs room
/// for one answer. The memory of a `Handshake` is allocated by `new` and never grows.
#[derive(Debug)]
pub struct Handshake {
    server: ServerInfo,
    stage: Stage,
    /// Bytes of the unit that `stage` waits for, at most `MAX_OPTION_BYTES`.
    buffer: Vec<u8>,
    greeted: bool,
    no_zeroes: bool,
    fixed: bool,
    style: ReplyStyle,
    options: u32,
    received_bytes: u64,
}

/// What the server offers and endures during a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerInfo {
    /// Offer structured replies.
    pub structured_replies: bool,
    /// Options a client may send before it is cut off.
    pub max_options: u32,
    /// Bytes a client may send before it is cut off.
    pub max_received_bytes: u64,
}

impl Default for ServerInfo {
    fn default() -> ServerInfo {
        ServerInfo { structured_replies: true, max_options: 1000, max_received_bytes: 4 << 20 }
    }
}

/// Result of [`Handshake::feed`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Bytes of the input that are used up. The rest is for the next call, or, after [`State::Transmission`], the
    /// first request.
    pub consumed: usize,
    /// What to do after sending the output.
    pub state: State,
}

/// Where the handshake stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Feed the rest of the input, or wait for more.
    Continue,
    /// The handshake is over, requests follow.
    Transmission(Negotiated),
    /// Close the connection after sending what was written.
    Close(CloseReason),
}

/// What a successful handshake settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The chosen export.
    pub export: ExportInfo,
    /// How replies must look.
    pub style: ReplyStyle,
}

/// Why a handshake ends without a transmission phase; all but the first two are the client's fault.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The client said goodbye.
    #[error("the client ended the negotiation")]
    Aborted,
    /// The export was asked for by the option that has no way to tell an error.
    #[error("export refused: {0}")]
    Refused(String),
    /// Client flags that nobody offered.
    #[error("unknown client flags {0:#x}")]
    ClientFlags(u32),
    /// The client is out of step or speaks something else.
    #[error("option magic is {0:#018x}")]
    BadMagic(u64),
    /// A client that understands no replies sent an option that needs one.
    #[error("option {0} without fixed newstyle negotiation")]
    NotFixedNewstyle(u32),
    /// An option too long to be read and ignored, or an export name too long in the option without replies.
    #[error("option {option} of {len_bytes} bytes")]
    OptionTooLong {
        /// Number of the option.
        option: u32,
        /// Announced length of its data.
        len_bytes: u32,
    },
    /// More options than [`ServerInfo::max_options`].
    #[error("too many options")]
    TooManyOptions,
    /// More bytes than [`ServerInfo::max_received_bytes`].
    #[error("too many bytes before the transmission phase")]
    TooManyBytes,
}

/// What the next bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: u32,
        len_bytes: usize,
    },
    /// Data of an option that is too long, thrown away unseen.
    Discard {
        option: u32,
        left_bytes: usize,
    },
    Over,
}

impl Handshake {
    /// A handshake that has not begun.
    pub fn new(server: &ServerInfo) -> Handshake {
        Handshake {
            server: *server,
            stage: Stage::ClientFlags,
            buffer: Vec::with_capacity(MAX_OPTION_BYTES),
            greeted: false,
            no_zeroes: false,
            fixed: false,
            style: ReplyStyle::Simple,
            options: 0,
            received_bytes: 0,
        }
    }

    /// Writes what the server says first. Call it once, before any `feed`.
    pub fn greeting(&mut self, out: &mut Vec<u8>) {
        assert!(!self.greeted, "the greeting is sent once");
        self.greeted = true;
        out.extend_from_slice(&INIT_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    }

    /// Takes received bytes, any number at a time, and appends the answer to `out`. Returns after the first complete
    /// option even if the input holds more; `Continue` always consumes something if there is input.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>, exports: &dyn Exports) -> Step {
        assert!(self.greeted && self.stage != Stage::Over, "fed outside of the handshake");
        let mut left = input;
        let state = loop {
            let before = left.len();
            let done = self.advance(&mut left, out, exports);
            self.received_bytes += (before - left.len()) as u64;
            if let Some(state) = done {
                break state;
            }
        };
        // A completed option is answered before the limit is looked at, so that the last answer is not lost.
        let state = match state {
            State::Continue if self.received_bytes > self.server.max_received_bytes => {
                State::Close(CloseReason::TooManyBytes)
            }
            other => other,
        };
        if state != State::Continue {
            self.stage = Stage::Over;
        }
        Step { consumed: input.len() - left.len(), state }
    }

    /// One unit of the stream; `None` if the caller shall go on at once.
    fn advance(&mut self, input: &mut &[u8], out: &mut Vec<u8>, exports: &dyn Exports) -> Option<State> {
        match self.stage {
            Stage::ClientFlags => {
                if !self.fill(input, 4) {
                    return Some(State::Continue);
                }
                let flags = u32::from_be_bytes(*self.buffer.first_chunk().expect("filled"));
                self.client_flags(flags)
            }
            Stage::OptionHeader => {
                if !self.fill(input, OPTION_HEADER_BYTES) {
                    return Some(State::Continue);
                }
                self.option_header()
            }
            Stage::OptionData { option, len_bytes } => {
                if !self.fill(input, len_bytes) {
                    return Some(State::Continue);
                }
                self.stage = Stage::OptionHeader;
                let data = std::mem::take(&mut self.buffer);
                let state = self.answer(option, &data, out, exports);
                self.buffer = data;
                self.buffer.clear();
                Some(state)
            }
            Stage::Discard { option, left_bytes } => {
                let skipped = left_bytes.min(input.len());
                *input = &input[skipped..];
                if skipped < left_bytes {
                    self.stage = Stage::Discard { option, left_bytes: left_bytes - skipped };
                    return Some(State::Continue);
                }
                self.stage = Stage::OptionHeader;
                put_error(out, option, REP_ERR_TOO_BIG, "the option is too long");
                Some(State::Continue)
            }
            Stage::Over => unreachable!("feed checks it"),
        }
    }

    /// Moves input to the buffer until it holds `need` bytes; true when it does.
    fn fill(&mut self, input: &mut &[u8], need: usize) -> bool {
        assert!(need <= MAX_OPTION_BYTES && self.buffer.len() <= need);
        let (taken, rest) = input.split_at(input.len().min(need - self.buffer.len()));
        self.buffer.extend_from_slice(taken);
        *input = rest;
        self.buffer.len() == need
    }

    fn client_flags(&mut self, flags: u32) -> Option<State> {
        self.buffer.clear();
        // spec: nbd-proto "Client flags": a flag that was not offered ends the connection.
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return Some(State::Close(CloseReason::ClientFlags(flags)));
        }
        self.fixed = flags & u32::from(FLAG_FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        self.stage = Stage::OptionHeader;
        None
    }

    fn option_header(&mut self) -> Option<State> {
        let mut header = Fields(&self.buffer);
        let magic = header.u64().expect("filled");
        let option = header.u32().expect("filled");
        let len_bytes = header.u32().expect("filled");
        self.buffer.clear();
        self.options += 1;
        let refused = if magic != OPTION_MAGIC {
            Some(CloseReason::BadMagic(magic))
        } else if self.options > self.server.max_options {
            Some(CloseReason::TooManyOptions)
        } else if !self.fixed && option != OPT_EXPORT_NAME {
            Some(CloseReason::NotFixedNewstyle(option))
        } else if len_bytes > MAX_DISCARD_BYTES
            || option == OPT_EXPORT_NAME && len_bytes > MAX_NAME_BYTES as u32
        {
            Some(CloseReason::OptionTooLong { option, len_bytes })
        } else {
            None
        };
        if let Some(reason) = refused {
            return Some(State::Close(reason));
        }
        let len_bytes = len_bytes as usize;
        self.stage = if len_bytes > MAX_OPTION_BYTES {
            Stage::Discard { option, left_bytes: len_bytes }
        } else {
            Stage::OptionData { option, len_bytes }
        };
        None
    }

    fn answer(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>, exports: &dyn Exports) -> State {
        match option {
            OPT_EXPORT_NAME => return self.export_name(data, out, exports),
            OPT_ABORT => {
                put_reply(out, option, REP_ACK, &[]);
                return State::Close(CloseReason::Aborted);
            }
            OPT_LIST => list(data, out, exports),
            OPT_INFO | OPT_GO => match self.info(option, data, out, exports) {
                Ok(negotiated) if option == OPT_GO => return State::Transmission(negotiated),
                Ok(_) => {}
                Err(refused) => refused.put(out, option),
            },
            OPT_STRUCTURED_REPLY if self.server.structured_replies => {
                if data.is_empty() {
                    self.style = ReplyStyle::Structured;
                    put_reply(out, option, REP_ACK, &[]);
                } else {
                    put_error(out, option, REP_ERR_INVALID, "the option has no data");
                }
            }
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT if self.server.structured_replies => {
                match self.meta_context(data, exports) {
                    Ok(()) => put_reply(out, option, REP_ACK, &[]),
                    Err(refused) => refused.put(out, option),
                }
            }
            // Among them TLS and extended headers: not spoken here, and the client is told so.
            _ => put_error(out, option, REP_ERR_UNSUP, ""),
        }
        State::Continue
    }

    fn export_name(&self, name: &[u8], out: &mut Vec<u8>, exports: &dyn Exports) -> State {
        let export = match lookup(name, exports) {
            Ok(export) => export,
            Err(refused) => return State::Close(CloseReason::Refused(refused.message.into_owned())),
        };
        out.extend_from_slice(&export.size_bytes.to_be_bytes());
        out.extend_from_slice(&export.flags.to_wire(self.style).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        State::Transmission(Negotiated { export, style: self.style })
    }

    /// INFO and GO: the same question, only that GO means it.
    fn info(
        &self,
        option: u32,
        data: &[u8],
        out: &mut Vec<u8>,
        exports: &dyn Exports,
    ) -> Result<Negotiated, Denied> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.u16().ok_or(Denied::MALFORMED)?;
        let (mut wants_name, mut wants_description) = (false, false);
        for _ in 0..count {
            match fields.u16().ok_or(Denied::MALFORMED)? {
                INFO_NAME => wants_name = true,
                INFO_DESCRIPTION => wants_description = true,
                // The export and its block sizes are told unasked, others are not known.
                _ => {}
            }
        }
        fields.finish()?;
        let export = lookup(name, exports)?;
        let flags = export.flags.to_wire(self.style);
        put_info(out, option, INFO_EXPORT, &[&export.size_bytes.to_be_bytes(), &flags.to_be_bytes()]);
        if wants_name {
            put_info(out, option, INFO_NAME, &[export.name.as_bytes()]);
        }
        let description = cut(&export.description, MAX_NAME_BYTES);
        if wants_description && !description.is_empty() {
            put_info(out, option, INFO_DESCRIPTION, &[description.as_bytes()]);
        }
        let sizes = [export.min_block_bytes, export.preferred_block_bytes, export.max_block_bytes];
        let [min, preferred, max] = sizes.map(u32::to_be_bytes);
        put_info(out, option, INFO_BLOCK_SIZE, &[&min, &preferred, &max]);
        put_reply(out, option, REP_ACK, &[]);
        Ok(Negotiated { export, style: self.style })
    }

    /// Checks a query for meta data contexts; a valid one finds nothing, since none is offered.
    fn meta_context(&self, data: &[u8], exports: &dyn Exports) -> Result<(), Denied> {
        if self.style != ReplyStyle::Structured {
            return Err(Denied::new(REP_ERR_INVALID, "structured replies must be negotiated first"));
        }
        let mut fields = Fields(data);
        let name = fields.string()?;
        let queries = fields.u32().ok_or(Denied::MALFORMED)?;
        for _ in 0..queries {
            fields.string()?;
        }
        fields.finish()?;
        lookup(name, exports).map(|_| ())
    }
}

/// An error reply in the making.
struct Denied {
    reply: u32,
    message: Cow<'static, str>,
}

impl Denied {
    const MALFORMED: Denied = Denied::new(REP_ERR_INVALID, "the lengths in the option do not add up");

    const fn new(reply: u32, message: &'static str) -> Denied {
        Denied { reply, message: Cow::Borrowed(message) }
    }

    fn put(&self, out: &mut Vec<u8>, option: u32) {
        put_error(out, option, self.reply, &self.message);
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Denied {
        let reply = match refused.error {
            RefusedError::Unknown => REP_ERR_UNKNOWN,
            RefusedError::Policy => REP_ERR_POLICY,
            RefusedError::Shutdown => REP_ERR_SHUTDOWN,
        };
        Denied { reply, message: Cow::Owned(refused.message) }
    }
}

fn lookup(name: &[u8], exports: &dyn Exports) -> Result<ExportInfo, Denied> {
    if std::str::from_utf8(name).is_err() || name.contains(&0) {
        return Err(Denied::new(REP_ERR_INVALID, "the export name is not valid text"));
    }
    let export = exports.lookup(name)?;
    export.check_invariants();
    Ok(export)
}

fn list(data: &[u8], out: &mut Vec<u8>, exports: &dyn Exports) {
    if !data.is_empty() {
        return put_error(out, OPT_LIST, REP_ERR_INVALID, "the option has no data");
    }
    exports.for_each(&mut |name| {
        assert!(name.len() <= MAX_NAME_BYTES);
        put_reply(out, OPT_LIST, REP_SERVER, &[&(name.len() as u32).to_be_bytes(), name.as_bytes()]);
    });
    put_reply(out, OPT_LIST, REP_ACK, &[]);
}

fn put_info(out: &mut Vec<u8>, option: u32, kind: u16, parts: &[&[u8]]) {
    let len_bytes = 2 + parts.iter().map(|part| part.len()).sum::<usize>();
    put_reply_header(out, option, REP_INFO, len_bytes);
    out.extend_from_slice(&kind.to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn put_error(out: &mut Vec<u8>, option: u32, reply: u32, message: &str) {
    debug_assert!(reply & REP_FLAG_ERROR != 0);
    put_reply(out, option, reply, &[cut(message, MAX_NAME_BYTES).as_bytes()]);
}

fn put_reply(out: &mut Vec<u8>, option: u32, reply: u32, parts: &[&[u8]]) {
    put_reply_header(out, option, reply, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn put_reply_header(out: &mut Vec<u8>, option: u32, reply: u32, len_bytes: usize) {
    debug_assert!(len_bytes <= MAX_NAME_BYTES + 4);
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    out.extend_from_slice(&(len_bytes as u32).to_be_bytes());
}

/// Reads fields off the front of foreign bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string behind its 32-bit length.
    fn string(&mut self) -> Result<&'a [u8], Denied> {
        let len = self.u32().ok_or(Denied::MALFORMED)? as usize;
        let text = self.take(len).ok_or(Denied::MALFORMED)?;
        if len > MAX_NAME_BYTES {
            return Err(Denied::new(REP_ERR_TOO_BIG, "a string is too long"));
        }
        Ok(text)
    }

    fn finish(self) -> Result<(), Denied> {
        if self.0.is_empty() { Ok(()) } else { Err(Denied::MALFORMED) }
    }
}

/// Longest option that is read: the longest name and some more fields.
pub const MAX_OPTION_BYTES: usize = MAX_NAME_BYTES + 64;
/// Longest option that is skipped and answered with an error; after a longer one the connection is closed.
pub const MAX_DISCARD_BYTES: u32 = 64 << 10;
/// Most bytes one call of [`Handshake::feed`] appends, apart from the list of exports: the replies to INFO with a
/// name and a description of full length.
pub const MAX_ANSWER_BYTES: usize =
    5 * OPTION_REPLY_HEADER_BYTES + (2 + 10) + 2 * (2 + MAX_NAME_BYTES) + (2 + 12);

const OPTION_HEADER_BYTES: usize = 16;
const OPTION_REPLY_HEADER_BYTES: usize = 20;
const EXPORT_NAME_ZEROES: usize = 124;
const _: () =
    assert!(OPTION_HEADER_BYTES <= MAX_OPTION_BYTES && MAX_OPTION_BYTES < MAX_DISCARD_BYTES as usize);

const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Both directions use the same bits.
const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
const FLAG_NO_ZEROES: u16 = 1 << 1;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_LIST_META_CONTEXT: u32 = 9;
const OPT_SET_META_CONTEXT: u32 = 10;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;
const REP_FLAG_ERROR: u32 = 1 << 31;
const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR + 1;
const REP_ERR_POLICY: u32 = REP_FLAG_ERROR + 2;
const REP_ERR_INVALID: u32 = REP_FLAG_ERROR + 3;
const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR + 6;
const REP_ERR_SHUTDOWN: u32 = REP_FLAG_ERROR + 7;
const REP_ERR_TOO_BIG: u32 = REP_FLAG_ERROR + 9;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_DESCRIPTION: u16 = 2;
const INFO_BLOCK_SIZE: u16 = 3;
