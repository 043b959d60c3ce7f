//! From the bytes of a client's socket to requests. Data of writes goes to pool buffers, the greater part of
//! large ones straight from the kernel. A client whose requests take too much room is not read from.

use blockdev::nbd::handshake::State;
use blockdev::nbd::reply::{self, ReplyStyle};
use blockdev::nbd::request::{
    self, Command, FLAG_NO_HOLE, Fatal, MAX_DATA_PIECE_BYTES, MAX_DISCARD_PIECE_BYTES, REQUEST_BYTES,
    Request, split,
};
use blockdev::pool::{BufSpan, BufferPool};
use blockdev::ring::{RecvUntil, Ring};
use model::ids::BufId;
use replicator::{ClientOp, VolIdx};

use super::core_side::Core;
use super::nbd_sessions::{NbdServer, Stage};
use super::token::{SessionKey, Token};

/// What a session is in the middle of receiving.
#[derive(Default)]
pub(super) struct Incoming {
    /// A write whose data has not come completely.
    write: Option<PartialWrite>,
    /// Bytes of a refused write that are thrown away.
    discard_bytes: u32,
    /// Room or a buffer is missing; nothing is received meanwhile.
    blocked: bool,
}

struct PartialWrite {
    request: u32,
    offset_bytes: u64,
    left_bytes: u32,
    fua: bool,
    /// The piece on its way: its buffer and how much of it is there.
    piece: Option<(BufId, u32)>,
}

enum Next {
    /// Look at the next bytes.
    GoOn,
    /// More bytes are needed.
    Receive,
    /// Something else has to happen first.
    Wait,
}

impl Incoming {
    /// Room is held for a write whose data the client owes us.
    pub(super) fn awaits_data(&self) -> bool {
        self.write.is_some() && !self.blocked
    }

    /// Forgets everything when the connection is closed; returns the request that will not become complete.
    pub(super) fn abandon(&mut self, pool: &mut BufferPool) -> Option<u32> {
        self.blocked = false;
        let write = self.write.take()?;
        if let Some((buf, _)) = write.piece {
            pool.release(buf);
        }
        Some(write.request)
    }
}

impl PartialWrite {
    fn piece_bytes(&self) -> u32 {
        self.left_bytes.min(MAX_DATA_PIECE_BYTES)
    }
}

impl NbdServer {
    /// A receive ended, into the staging buffer or into the buffer of a piece.
    pub(super) fn recv_completed(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        key: SessionKey,
        (result, is_piece): (i32, bool),
    ) {
        if !self.live(key) {
            return;
        }
        let session = &mut self.sessions[key.slot as usize];
        let count = usize::try_from(result).unwrap_or(0);
        if !is_piece {
            session.recv.filled(count);
        }
        if result == 0 && matches!(session.stage, Stage::Finishing) {
            // It said goodbye before; what it is owed it still gets.
            return;
        }
        if count == 0 {
            self.close_connection(ring, key.slot);
            self.end_if_done(ring, core, key.slot);
            return;
        }
        if is_piece {
            let write = session.incoming.write.as_mut().expect("a piece is received for a write only");
            let (_, got) = write.piece.as_mut().expect("a piece is received into a buffer only");
            *got += count as u32;
        }
        session.moved_bytes += count as u64;
        session.has_spoken = true;
        self.pump(ring, core, key.slot);
    }

    /// Goes on with sessions that waited for room. True when that made requests.
    pub(super) fn resume(&mut self, ring: &mut Ring<Token>, core: &mut Core) -> bool {
        if !std::mem::take(&mut self.blocked) {
            return false;
        }
        let before = core.data_events;
        let slots = self.sessions.capacity().min(SLOTS_MAX);
        // Another one is first each time, so that nobody always comes when all room is taken.
        self.resumed_first = (self.resumed_first + 1) % slots.max(1);
        for slot in (self.resumed_first..slots).chain(0..self.resumed_first) {
            if self.sessions.get(slot).is_some_and(|s| s.incoming.blocked) {
                self.pump(ring, core, slot as u32);
            }
        }
        core.data_events != before
    }

    /// Looks at the session again in the next batch, and receives nothing until then.
    fn block(&mut self, slot: u32) {
        self.sessions[slot as usize].incoming.blocked = true;
        self.blocked = true;
    }

    /// The same for a session that lacks what others hold.
    fn block_for_room(&mut self, core: &Core, slot: u32) {
        self.block(slot);
        self.short_of_room = true;
        self.watch_for_stalls(core.now);
    }

    /// Takes everything out of the staging buffer that can be dealt with now.
    fn pump(&mut self, ring: &mut Ring<Token>, core: &mut Core, slot: u32) {
        loop {
            let Some(session) = self.sessions.get_mut(slot as usize) else { return };
            session.incoming.blocked = false;
            let next = match session.stage {
                Stage::Handshake(_) => self.handshake(ring, core, slot),
                Stage::Transmission => self.transmission(ring, core, slot),
                Stage::Finishing => {
                    let unread = session.recv.bytes().len();
                    session.recv.consume(unread);
                    Next::Receive
                }
                Stage::Closed => {
                    self.end_if_done(ring, core, slot);
                    return;
                }
            };
            match next {
                Next::GoOn => {}
                Next::Receive => {
                    if let Some(session) = self.sessions.get_mut(slot as usize) {
                        session.arm(ring);
                    }
                    return;
                }
                Next::Wait => return,
            }
        }
    }

    fn handshake(&mut self, ring: &mut Ring<Token>, core: &mut Core, slot: u32) -> Next {
        let session = &self.sessions[slot as usize];
        if session.recv.bytes().is_empty() {
            return Next::Receive;
        }
        if session.queue.copied_bytes() > REPLIES_BYTES_MAX {
            self.block(slot);
            return Next::Wait;
        }
        let mut out = Vec::new();
        let only = session.only;
        let stage = std::mem::replace(&mut self.sessions[slot as usize].stage, Stage::Closed);
        let Stage::Handshake(mut handshake) = stage else { unreachable!("the caller looked at the stage") };
        let exports = NbdServer::exports(self.names(), &core.resource, only, self.is_full());
        let step = handshake.feed(self.sessions[slot as usize].recv.bytes(), &mut out, &exports);
        let session = &mut self.sessions[slot as usize];
        session.recv.consume(step.consumed);
        let mut opened = None;
        session.stage = match step.state {
            State::Continue => Stage::Handshake(handshake),
            State::Transmission(negotiated) => {
                opened = u8::try_from(negotiated.export.id).ok().map(VolIdx);
                session.volume = opened;
                session.negotiated = Some(negotiated);
                Stage::Transmission
            }
            State::Close(reason) => {
                tracing::debug!("a client's negotiation ended: {reason}");
                Stage::Finishing
            }
        };
        if matches!(session.stage, Stage::Finishing) {
            self.watch_for_stalls(core.now);
        }
        if let Some(vol) = opened {
            self.opened(core, vol);
        }
        self.reply(ring, slot, &out);
        self.end_if_done(ring, core, slot);
        Next::GoOn
    }

    fn transmission(&mut self, ring: &mut Ring<Token>, core: &mut Core, slot: u32) -> Next {
        let session = &mut self.sessions[slot as usize];
        if session.incoming.write.is_some() {
            return self.write_data(ring, core, slot);
        }
        if session.incoming.discard_bytes > 0 {
            let count = session.recv.bytes().len().min(session.incoming.discard_bytes as usize);
            session.recv.consume(count);
            session.incoming.discard_bytes -= count as u32;
            return if session.incoming.discard_bytes > 0 { Next::Receive } else { Next::GoOn };
        }
        match request::parse(session.recv.bytes()) {
            Ok(None) => Next::Receive,
            Ok(Some(request)) => self.request(ring, core, slot, &request),
            Err(error) => {
                tracing::warn!("a client is disconnected: {error}");
                self.watch_for_stalls(core.now);
                self.fatal(ring, slot, &error);
                Next::GoOn
            }
        }
    }

    /// Answers if it can, takes no more requests, and closes when the others are answered.
    fn fatal(&mut self, ring: &mut Ring<Token>, slot: u32, error: &Fatal) {
        self.sessions[slot as usize].stage = Stage::Finishing;
        if let Fatal::PayloadTooLong { cookie, .. } = error {
            let mut out = Vec::new();
            reply::put_failed(
                &mut out,
                self.style(slot),
                *cookie,
                reply::Errno::Invalid,
                "the write is too long",
            );
            self.reply(ring, slot, &out);
        } else if self.sessions[slot as usize].requests == 0 {
            self.close_connection(ring, slot);
        }
    }

    fn style(&self, slot: u32) -> ReplyStyle {
        self.sessions[slot as usize].negotiated.as_ref().map(|n| n.style).unwrap_or_default()
    }

    /// A request's header is there.
    fn request(&mut self, ring: &mut Ring<Token>, core: &mut Core, slot: u32, request: &Request) -> Next {
        let session = &mut self.sessions[slot as usize];
        let negotiated = session.negotiated.as_ref().expect("requests follow the handshake");
        let valid = request.validate(&negotiated.export, negotiated.style);
        let carries_data = matches!(request.command, Command::Read | Command::Write);
        let charge = if carries_data && valid.is_ok() { request.len_bytes } else { 0 };
        let held_bytes = session.charged_bytes + session.queue.queued_bytes() as u64;
        let is_only = session.requests == 0 && session.queue.is_empty();
        let crowded = session.requests >= REQUESTS_MAX
            || !is_only && held_bytes + u64::from(charge) > SESSION_BYTES_MAX
            || session.queue.copied_bytes() > REPLIES_BYTES_MAX;
        if crowded {
            self.block(slot);
            return Next::Wait;
        }
        if !self.requests.has_room(charge, is_only) {
            self.block_for_room(core, slot);
            return Next::Wait;
        }
        session.recv.consume(REQUEST_BYTES);
        if let Err(error) = valid {
            session.incoming.discard_bytes = error.drain_bytes;
            let mut out = Vec::new();
            reply::put_failed(&mut out, self.style(slot), request.cookie, error.errno, error.message);
            self.reply(ring, slot, &out);
            return Next::GoOn;
        }
        if request.command == Command::Disconnect {
            session.stage = Stage::Finishing;
            self.watch_for_stalls(core.now);
            self.end_if_done(ring, core, slot);
            return Next::GoOn;
        }
        let id = self.new_request(slot, request.command, request.cookie, charge);
        if request.command == Command::Write {
            self.sessions[slot as usize].incoming.write = Some(PartialWrite {
                request: id,
                offset_bytes: request.offset_bytes,
                left_bytes: request.len_bytes,
                fua: request.is_fua(),
                piece: None,
            });
        } else {
            self.submit_whole(core, slot, id, request);
        }
        Next::GoOn
    }

    /// Submits all pieces of a request without data.
    fn submit_whole(&mut self, core: &mut Core, slot: u32, id: u32, request: &Request) {
        let vol = self.volume(slot);
        let (op, max_bytes) = match request.command {
            Command::Read => (ClientOp::Read, MAX_DATA_PIECE_BYTES),
            // A discard knows no durability of its own; zeroes that may be unmapped are the same with it.
            Command::Trim if !request.is_fua() => (ClientOp::Discard, MAX_DISCARD_PIECE_BYTES),
            Command::Trim | Command::WriteZeroes => {
                let may_unmap = request.command == Command::Trim || request.flags & FLAG_NO_HOLE == 0;
                (ClientOp::Zeroes { may_unmap, fua: request.is_fua() }, MAX_DISCARD_PIECE_BYTES)
            }
            Command::Flush => (ClientOp::Flush, MAX_DATA_PIECE_BYTES),
            Command::Write
            | Command::Disconnect
            | Command::Cache
            | Command::BlockStatus
            | Command::Unknown(_) => {
                unreachable!("validation lets only commands pass that are served, and the caller took these")
            }
        };
        if op == ClientOp::Flush {
            self.submit_piece(core, id, vol, (0, 0), op);
        }
        for piece in split(request.offset_bytes, request.len_bytes, max_bytes) {
            self.submit_piece(core, id, vol, (piece.offset_bytes, piece.len_bytes), op);
        }
        self.complete_request(id);
    }

    fn volume(&self, slot: u32) -> VolIdx {
        self.sessions[slot as usize].volume.expect("requests follow the handshake")
    }

    /// Data of the present write: moves it to the piece's buffer, submits the piece when it is full.
    fn write_data(&mut self, ring: &mut Ring<Token>, core: &mut Core, slot: u32) -> Next {
        let vol = self.volume(slot);
        let session = &mut self.sessions[slot as usize];
        let write = session.incoming.write.as_mut().expect("the caller looked");
        let piece_bytes = write.piece_bytes();
        if write.piece.is_none() {
            let staged = session.recv.bytes().len().min(piece_bytes as usize);
            let missing = piece_bytes as usize - staged;
            if missing > 0 && missing <= STAGED_REST_BYTES_MAX.min(session.recv.room_bytes()) {
                return Next::Receive;
            }
            let Some(buf) = ring.pool_mut().alloc(piece_bytes as usize) else {
                self.block_for_room(core, slot);
                return Next::Wait;
            };
            ring.pool_mut().bytes_mut(buf)[..staged].copy_from_slice(&session.recv.bytes()[..staged]);
            session.recv.consume(staged);
            write.piece = Some((buf, staged as u32));
        }
        let (buf, got) = write.piece.expect("it was just made");
        if got < piece_bytes {
            let rest = BufSpan::head(buf, piece_bytes).skip(got);
            ring.recv_span(Token::NbdPayload(session.key), session.file, rest, RecvUntil::Full);
            return Next::Wait;
        }
        let (request, offset_bytes, fua) = (write.request, write.offset_bytes, write.fua);
        write.piece = None;
        write.offset_bytes += u64::from(piece_bytes);
        write.left_bytes -= piece_bytes;
        let is_last = write.left_bytes == 0;
        if is_last {
            session.incoming.write = None;
        }
        self.submit_piece(core, request, vol, (offset_bytes, piece_bytes), ClientOp::Write { buf, fua });
        if is_last {
            self.complete_request(request);
        }
        Next::GoOn
    }
}

/// Requests of one session in flight.
const REQUESTS_MAX: u32 = 128;
/// Data of requests of one session in flight, and of replies it has not taken; a single larger request passes.
const SESSION_BYTES_MAX: u64 = 32 << 20;
/// Unsent headers of replies beyond which no more options or requests are read: they come from an area that all
/// connections share, that of the peer included.
const REPLIES_BYTES_MAX: usize = 32 << 10;
/// A piece that lacks no more than this, and fits, is completed in the staging buffer.
const STAGED_REST_BYTES_MAX: usize = 16 << 10;
/// Slots that sessions can have.
const SLOTS_MAX: usize = 4096;
