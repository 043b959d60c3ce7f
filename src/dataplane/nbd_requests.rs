//! Requests of clients on their way through the core: cut into pieces, answered when all pieces are done.

use blockdev::nbd::reply::{self, Cookie, Errno, ReplyStyle};
use blockdev::nbd::request::Command;
use blockdev::pool::BufSpan;
use blockdev::ring::Ring;
use model::ids::BufId;
use replicator::{ClientOp, ClientRequest, ClientResult, ClientTag, Event, VolIdx};
use slab::Slab;

use super::core_side::Core;
use super::nbd_sessions::{NbdServer, Stage};
use super::token::Token;

/// All requests in flight, and what they cost.
pub(super) struct Requests {
    table: Slab<NbdRequest>,
    pieces: Slab<Piece>,
    serial: u32,
    /// Data bytes of requests without a reply.
    pub(super) charged_bytes: u64,
    /// Bytes of replies that clients have not taken.
    pub(super) queued_bytes: u64,
    /// What both may be together.
    limit_bytes: u64,
    /// Reply headers are made here.
    scratch: Vec<u8>,
}

/// A request as the client sees it.
struct NbdRequest {
    slot: u32,
    style: ReplyStyle,
    cookie: Cookie,
    command: Command,
    charge_bytes: u32,
    /// Pieces given to the core and not answered.
    running: u32,
    /// Further pieces will come.
    growing: bool,
    failed: Option<Errno>,
    /// Pieces of a simple read that are done, newest first.
    gathered: Vec<(u64, BufSpan)>,
}

/// What the core sees.
struct Piece {
    serial: u32,
    request: u32,
    offset_bytes: u64,
    len_bytes: u32,
}

impl Requests {
    pub(super) fn new(limit_bytes: u64) -> Requests {
        Requests {
            table: Slab::with_capacity(1024),
            pieces: Slab::with_capacity(1024),
            serial: 0,
            charged_bytes: 0,
            queued_bytes: 0,
            limit_bytes,
            scratch: Vec::with_capacity(reply::MAX_REPLY_BYTES),
        }
    }

    /// Requests without a reply.
    pub(super) fn in_flight(&self) -> usize {
        self.table.len()
    }

    /// All clients together have room for a request of so many bytes. One request always has, and so has a small
    /// one of a session that has nothing else in flight: nobody is shut out by what others leave lying.
    pub(super) fn has_room(&self, bytes: u32, is_only: bool) -> bool {
        let used = self.charged_bytes + self.queued_bytes;
        used == 0 || is_only && bytes <= RESERVED_BYTES || used + u64::from(bytes) <= self.limit_bytes
    }
}

impl NbdServer {
    /// Enters a request; pieces follow by [`submit_piece`](Self::submit_piece) until
    /// [`complete_request`](Self::complete_request).
    pub(super) fn new_request(
        &mut self,
        slot: u32,
        command: Command,
        cookie: Cookie,
        charge_bytes: u32,
    ) -> u32 {
        let session = &mut self.sessions[slot as usize];
        let style = session.negotiated.as_ref().expect("requests follow the handshake").style;
        session.requests += 1;
        session.charged_bytes += u64::from(charge_bytes);
        self.requests.charged_bytes += u64::from(charge_bytes);
        let request = NbdRequest {
            slot,
            style,
            cookie,
            command,
            charge_bytes,
            running: 0,
            growing: true,
            failed: None,
            gathered: Vec::new(),
        };
        self.requests.table.insert(request) as u32
    }

    /// Gives a piece to the core.
    pub(super) fn submit_piece(
        &mut self,
        core: &mut Core,
        request: u32,
        vol: VolIdx,
        (offset_bytes, len_bytes): (u64, u32),
        op: ClientOp,
    ) {
        let requests = &mut self.requests;
        requests.table[request as usize].running += 1;
        requests.serial = requests.serial.wrapping_add(1);
        let serial = requests.serial;
        let index = requests.pieces.insert(Piece { serial, request, offset_bytes, len_bytes });
        let tag = ClientTag(u64::from(serial) << 32 | index as u64);
        core.event(Event::Request(ClientRequest { tag, vol, sector: offset_bytes / 512, len_bytes, op }));
    }

    /// All pieces were submitted.
    pub(super) fn complete_request(&mut self, request: u32) {
        let entry = &mut self.requests.table[request as usize];
        assert!(entry.growing && entry.running > 0, "answers come with the actions of the batch");
        entry.growing = false;
    }

    /// The client went away before it had sent the whole request.
    pub(super) fn abandon_request(&mut self, request: u32) {
        self.requests.table[request as usize].growing = false;
        if self.requests.table[request as usize].running == 0 {
            self.forget(request);
        }
    }

    /// `Action::ClientDone`.
    pub(super) fn piece_done(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        (tag, result, buf): (ClientTag, ClientResult, Option<BufId>),
    ) {
        let index = tag.0 as u32 as usize;
        let known = self.requests.pieces.get(index).is_some_and(|p| u64::from(p.serial) == tag.0 >> 32);
        assert!(known, "each piece is answered once");
        let piece = self.requests.pieces.remove(index);
        let request = &mut self.requests.table[piece.request as usize];
        request.running -= 1;
        if let Some(errno) = errno_of(result) {
            request.failed.get_or_insert(errno);
        }
        let is_last = request.running == 0 && !request.growing;
        let slot = request.slot;
        let closed = matches!(self.sessions[slot as usize].stage, Stage::Closed);
        let mut answered = false;
        match buf {
            Some(buf) if closed || request.failed.is_some() => ring.pool_mut().release(buf),
            Some(buf) => {
                let span = BufSpan::head(buf, piece.len_bytes);
                match request.style {
                    ReplyStyle::Structured => {
                        answered = is_last;
                        self.put_chunk(ring, piece.request, piece.offset_bytes, span, is_last);
                    }
                    ReplyStyle::Simple if is_last && request.gathered.is_empty() => {
                        answered = true;
                        self.answer(ring, piece.request);
                        self.reply_data(ring, slot, span);
                    }
                    ReplyStyle::Simple => request.gathered.push((piece.offset_bytes, span)),
                }
            }
            None => {}
        }
        if is_last {
            if !answered {
                self.answer(ring, piece.request);
            }
            self.forget(piece.request);
            self.end_if_done(ring, core, slot);
        }
    }

    /// Data of a structured read.
    fn put_chunk(
        &mut self,
        ring: &mut Ring<Token>,
        request: u32,
        offset_bytes: u64,
        data: BufSpan,
        done: bool,
    ) {
        let (slot, cookie) = {
            let request = &self.requests.table[request as usize];
            (request.slot, request.cookie)
        };
        let mut header = std::mem::take(&mut self.requests.scratch);
        header.clear();
        reply::put_read_chunk_header(&mut header, cookie, offset_bytes, data.len_bytes, done);
        self.reply(ring, slot, &header);
        self.requests.scratch = header;
        self.reply_data(ring, slot, data);
    }

    /// Everything that is left to say about a request.
    fn answer(&mut self, ring: &mut Ring<Token>, request: u32) {
        let entry = &mut self.requests.table[request as usize];
        let (slot, style, cookie, failed) = (entry.slot, entry.style, entry.cookie, entry.failed);
        let is_simple_read = style == ReplyStyle::Simple && entry.command == Command::Read;
        let mut gathered = std::mem::take(&mut entry.gathered);
        let mut header = std::mem::take(&mut self.requests.scratch);
        header.clear();
        match failed {
            Some(errno) => reply::put_failed(&mut header, style, cookie, errno, message_of(errno)),
            None if is_simple_read => reply::put_simple(&mut header, None, cookie),
            None => reply::put_ok(&mut header, style, cookie),
        }
        self.reply(ring, slot, &header);
        self.requests.scratch = header;
        gathered.sort_unstable_by_key(|(offset, _)| *offset);
        for (_, data) in gathered {
            if failed.is_some() {
                ring.pool_mut().release(data.buf);
            } else {
                self.reply_data(ring, slot, data);
            }
        }
    }

    /// Queues block data for a client and gives its reference up.
    fn reply_data(&mut self, ring: &mut Ring<Token>, slot: u32, data: BufSpan) {
        let session = &mut self.sessions[slot as usize];
        if !matches!(session.stage, Stage::Closed) {
            session.queue.push_payload(ring.pool_mut(), data);
            self.requests.queued_bytes += u64::from(data.len_bytes);
            self.note_flush(slot);
        }
        ring.pool_mut().release(data.buf);
    }

    fn forget(&mut self, request: u32) {
        let request = self.requests.table.remove(request as usize);
        let session = &mut self.sessions[request.slot as usize];
        session.requests -= 1;
        session.charged_bytes -= u64::from(request.charge_bytes);
        self.requests.charged_bytes -= u64::from(request.charge_bytes);
    }
}

fn errno_of(result: ClientResult) -> Option<Errno> {
    match result {
        ClientResult::Ok => None,
        ClientResult::IoError => Some(Errno::Io),
        ClientResult::Invalid => Some(Errno::Invalid),
        ClientResult::ReadOnly => Some(Errno::NotPermitted),
    }
}

fn message_of(errno: Errno) -> &'static str {
    match errno {
        Errno::Io => "no copy of the data could do it",
        Errno::NotPermitted => "this node is not Primary",
        _ => "the request lies outside of the device",
    }
}

/// What each session may have in flight beyond the common limit.
const RESERVED_BYTES: u32 = 64 << 10;
