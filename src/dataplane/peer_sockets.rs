//! The sockets of the peer: listening, connecting, sending, closing. What is received is in `peer_receive`.

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use blockdev::pool::{BufSpan, BufferPool};
use blockdev::ring::{Completion, FileRef, OpKey, Ring};
use blockdev::socket::{self, RECV_BUFFER_BYTES, RecvBuffer, SendQueue, SocketBuffers};
use model::time::{Duration, Instant};
use nix::errno::Errno;
use replicator::{Closing, DownCause, Event, SockId};

use super::core_side::Core;
use super::peer_receive::Incoming;
use super::token::Token;

/// Everything about the connection to the peer that is a descriptor.
pub(super) struct PeerSockets {
    own: SocketAddr,
    peer: SocketAddr,
    buffers: SocketBuffers,
    listener: Option<Listener>,
    /// The core wants to listen and it did not work: when to try again.
    listen_again: Option<Instant>,
    listeners_made: u32,
    attempts: Vec<Attempt>,
    /// Attempts that failed before they began, for the next batch.
    failed_attempts: Vec<u32>,
    pub(super) sockets: Vec<PeerSocket>,
    sockets_made: u32,
    /// The thread is about to end: the core is told nothing more.
    stopped: bool,
}

struct Listener {
    fd: OwnedFd,
    serial: u32,
    accept: OpKey,
}

struct Attempt {
    attempt: u32,
    fd: OwnedFd,
    deadline: Instant,
    key: OpKey,
}

/// One connection.
pub(super) struct PeerSocket {
    pub(super) id: SockId,
    stream: TcpStream,
    pub(super) file: FileRef,
    pub(super) recv: RecvBuffer,
    pub(super) incoming: Incoming,
    queue: SendQueue,
    overflow: Overflow,
    sent_total_bytes: u64,
    life: Life,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The core knows it.
    Live,
    /// Closed by the core, which wants the rest delivered; afterwards waits for the peer to close.
    Lingering { deadline: Instant, goodbye: Goodbye },
}

/// The end of what a lingering socket sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    /// The peer is told of it when all is sent.
    Due,
    Said,
    /// The peer closes first.
    LeftToPeer,
}

/// What does not go into the send queue, because its header space is shared with all other connections. Keeps a
/// bitmap of gigabytes on its way from starving acknowledgements and metadata.
#[derive(Default)]
struct Overflow {
    bytes: VecDeque<u8>,
    items: VecDeque<(u32, Option<BufSpan>)>,
}

impl PeerSockets {
    pub(super) fn new(own: SocketAddr, peer: SocketAddr, buffers: SocketBuffers) -> PeerSockets {
        PeerSockets {
            own,
            peer,
            buffers,
            listener: None,
            listen_again: None,
            listeners_made: 0,
            attempts: Vec::new(),
            failed_attempts: Vec::new(),
            sockets: Vec::new(),
            sockets_made: 0,
            stopped: false,
        }
    }

    /// `Action::Listen`.
    pub(super) fn listen(&mut self, ring: &mut Ring<Token>, now: Instant) {
        if self.listener.is_some() || self.stopped {
            return;
        }
        match socket::listen_tcp(self.own, self.buffers) {
            Ok(fd) => {
                self.listeners_made += 1;
                let serial = self.listeners_made;
                let accept = ring.accept(Token::PeerAccept { listener: serial }, FileRef::of(&fd));
                self.listener = Some(Listener { fd, serial, accept });
                self.listen_again = None;
            }
            Err(error) => {
                if self.listen_again.is_none() {
                    tracing::error!("cannot listen on {}: {error}; trying again", self.own);
                }
                self.listen_again = Some(now + LISTEN_RETRY);
            }
        }
    }

    /// `Action::Unlisten`.
    pub(super) fn unlisten(&mut self, ring: &mut Ring<Token>) {
        self.listen_again = None;
        if let Some(listener) = self.listener.take() {
            ring.cancel(listener.accept);
            ring.close(listener.fd);
        }
    }

    /// `Action::Connect`.
    pub(super) fn connect(&mut self, ring: &mut Ring<Token>, now: Instant, attempt: u32, timeout_ns: u64) {
        let source = SocketAddr::new(self.own.ip(), 0);
        match socket::connecting_tcp(self.peer, Some(source), self.buffers) {
            Ok(fd) => {
                let key = ring.connect(Token::PeerConnect { attempt }, FileRef::of(&fd), self.peer);
                let deadline = now + Duration::from_nanos(timeout_ns);
                self.attempts.push(Attempt { attempt, fd, deadline, key });
            }
            Err(error) => {
                tracing::debug!("cannot connect from {source} to {}: {error}", self.peer);
                self.failed_attempts.push(attempt);
            }
        }
    }

    /// Tells the core of attempts that failed before they began. True when there were any.
    pub(super) fn deliver_failed(&mut self, core: &mut Core) -> bool {
        let any = !self.failed_attempts.is_empty();
        for attempt in self.failed_attempts.drain(..) {
            core.event(Event::ConnectFailed { attempt });
        }
        any
    }

    /// Attempts wait for [`deliver_failed`](Self::deliver_failed).
    pub(super) fn has_failed(&self) -> bool {
        !self.failed_attempts.is_empty()
    }

    /// The listener has a connection, or is in trouble.
    pub(super) fn accept_completed(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        serial: u32,
        mut completion: Completion<Token>,
    ) {
        let Some(listener) = self.listener.as_mut().filter(|l| l.serial == serial) else {
            // Stopped meanwhile: an accepted socket is closed by being dropped.
            return;
        };
        if !completion.more {
            if socket::accept_must_pause(completion.outcome().err()) {
                // Out of descriptors or memory: at once it would only fail again, and again.
                tracing::warn!(
                    "cannot accept on {}: {}; trying again",
                    self.own,
                    Errno::from_raw(-completion.result)
                );
                self.unlisten(ring);
                self.listen_again = Some(core.now + LISTEN_RETRY);
                return;
            }
            let token = Token::PeerAccept { listener: serial };
            listener.accept = ring.accept(token, FileRef::of(&listener.fd));
        }
        if let Some(fd) = completion.accepted.take()
            && let Some(sock) = self.adopt(ring, fd)
        {
            core.event(Event::Accepted { sock });
        }
    }

    /// An own attempt ended.
    pub(super) fn connect_completed(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        attempt: u32,
        result: i32,
    ) {
        let Some(at) = self.attempts.iter().position(|a| a.attempt == attempt) else { return };
        let fd = self.attempts.swap_remove(at).fd;
        if self.stopped {
            return;
        }
        if result < 0 {
            tracing::debug!("connecting to {}: error {}", self.peer, -result);
            ring.close(fd);
            core.event(Event::ConnectFailed { attempt });
            return;
        }
        match self.adopt(ring, fd) {
            Some(sock) => core.event(Event::Connected { attempt, sock }),
            None => core.event(Event::ConnectFailed { attempt }),
        }
    }

    fn adopt(&mut self, ring: &mut Ring<Token>, fd: OwnedFd) -> Option<SockId> {
        let stream = TcpStream::from(fd);
        let prepared = socket::set_nodelay(&stream).and_then(|()| RecvBuffer::new(RECV_BUFFER_BYTES));
        let recv = match prepared {
            Ok(recv) => recv,
            Err(error) => {
                tracing::warn!("new connection of the peer is unusable: {error}");
                return None;
            }
        };
        let id = SockId(self.sockets_made);
        self.sockets_made = self.sockets_made.checked_add(1).expect("fewer than 2^32 connections");
        let mut socket = PeerSocket {
            id,
            file: FileRef::of(&stream),
            stream,
            recv,
            incoming: Incoming::default(),
            queue: SendQueue::new(),
            overflow: Overflow::default(),
            sent_total_bytes: 0,
            life: Life::Live,
        };
        socket.arm(ring);
        self.sockets.push(socket);
        Some(id)
    }

    /// `Action::Send`: queues; [`flush`](Self::flush) sends.
    pub(super) fn send(
        &mut self,
        ring: &mut Ring<Token>,
        sock: SockId,
        bytes: &[u8],
        payload: Option<BufSpan>,
    ) {
        let Some(socket) = self.sockets.iter_mut().find(|s| s.id == sock && s.life == Life::Live) else {
            // Lost meanwhile; the core hears of it in this or the next batch.
            return;
        };
        let crowded = !socket.overflow.items.is_empty() || socket.queue.queued_bytes() > QUEUE_BYTES_SOFT_MAX;
        if !crowded && socket.queue.push_bytes(ring.pool_mut(), bytes).is_ok() {
            if let Some(span) = payload {
                socket.queue.push_payload(ring.pool_mut(), span);
            }
        } else {
            socket.overflow.push(ring.pool_mut(), bytes, payload);
        }
    }

    /// Starts sends wherever something is queued and none is in flight.
    pub(super) fn flush(&mut self, ring: &mut Ring<Token>) {
        for socket in &mut self.sockets {
            socket.flush(ring);
        }
    }

    /// A send ended.
    pub(super) fn send_completed(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        sock: SockId,
        result: i32,
    ) {
        let Some(at) = self.sockets.iter().position(|s| s.id == sock) else { return };
        let socket = &mut self.sockets[at];
        let Ok(sent) = usize::try_from(result) else {
            self.lost(ring, core, at, DownCause::Error(-result));
            return;
        };
        socket.queue.advance(sent, ring.pool_mut());
        socket.sent_total_bytes += sent as u64;
        let total_bytes = socket.sent_total_bytes;
        socket.flush(ring);
        match socket.life {
            Life::Live if !self.stopped => core.event(Event::Sent { sock, total_bytes }),
            Life::Live => {}
            Life::Lingering { .. } => self.linger(ring, at),
        }
    }

    /// `Action::CloseSocket`.
    pub(super) fn close(&mut self, ring: &mut Ring<Token>, now: Instant, sock: SockId, closing: Closing) {
        let Some(at) = self.sockets.iter().position(|s| s.id == sock) else { return };
        let goodbye = match closing {
            Closing::AtOnce => {
                self.remove(ring, at);
                return;
            }
            Closing::WhenSent => Goodbye::Due,
            Closing::AfterPeer => Goodbye::LeftToPeer,
        };
        let socket = &mut self.sockets[at];
        socket.life = Life::Lingering { deadline: now + LINGER, goodbye };
        socket.incoming.drop_payload(ring.pool_mut());
        socket.flush(ring);
        match goodbye {
            Goodbye::LeftToPeer => socket.discard_received(ring),
            Goodbye::Due | Goodbye::Said => self.linger(ring, at),
        }
    }

    /// Goes on with a socket that is being closed: when all is sent, the peer is told so, and the rest of what
    /// it says is read. Closing with unread bytes would reset the connection and could destroy our last words.
    fn linger(&mut self, ring: &mut Ring<Token>, at: usize) {
        let socket = &mut self.sockets[at];
        let Life::Lingering { deadline, goodbye: Goodbye::Due } = socket.life else { return };
        if socket.queue.is_empty() && !socket.queue.is_sending() {
            let _ = socket.stream.shutdown(Shutdown::Write);
            socket.life = Life::Lingering { deadline, goodbye: Goodbye::Said };
            socket.discard_received(ring);
        }
    }

    /// A receive into the staging buffer or a payload buffer ended.
    pub(super) fn recv_completed(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        sock: SockId,
        (result, is_payload): (i32, bool),
    ) {
        let Some(at) = self.sockets.iter().position(|s| s.id == sock) else { return };
        let socket = &mut self.sockets[at];
        let count = usize::try_from(result).unwrap_or(0);
        if !is_payload {
            socket.recv.filled(count);
        }
        if count == 0 {
            let cause = if result < 0 { DownCause::Error(-result) } else { DownCause::Closed };
            self.lost(ring, core, at, cause);
        } else if let Life::Lingering { .. } = socket.life {
            socket.discard_received(ring);
        } else if !self.stopped {
            socket.received(ring, core, if is_payload { count as u32 } else { 0 });
        }
    }

    /// Tries again what was held back: headers of unknown form, payload without a buffer. True when that made
    /// events.
    pub(super) fn resume(&mut self, ring: &mut Ring<Token>, core: &mut Core) -> bool {
        let mut any = false;
        if self.stopped {
            return false;
        }
        for socket in &mut self.sockets {
            if socket.life == Life::Live && socket.incoming.is_held() {
                any |= socket.resume(ring, core);
            }
        }
        any
    }

    /// The connection failed.
    fn lost(&mut self, ring: &mut Ring<Token>, core: &mut Core, at: usize, cause: DownCause) {
        let tell = self.sockets[at].life == Life::Live && !self.stopped;
        let sock = self.sockets[at].id;
        self.remove(ring, at);
        if tell {
            core.event(Event::SocketDown { sock, cause });
        }
    }

    fn remove(&mut self, ring: &mut Ring<Token>, at: usize) {
        let mut socket = self.sockets.swap_remove(at);
        let pool = ring.pool_mut();
        socket.queue.clear(pool);
        socket.overflow.clear(pool);
        socket.incoming.drop_payload(pool);
        ring.shutdown(std::os::fd::AsFd::as_fd(&socket.stream));
        ring.close(OwnedFd::from(socket.stream));
    }

    /// The earliest moment at which [`on_time`](Self::on_time) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let lingering = self.sockets.iter().filter_map(|s| match s.life {
            Life::Lingering { deadline, .. } => Some(deadline),
            Life::Live => None,
        });
        let attempts = self.attempts.iter().map(|a| a.deadline);
        lingering.chain(attempts).chain(self.listen_again).min()
    }

    /// Gives up attempts and lingering sockets whose time is over, tries to listen again.
    pub(super) fn on_time(&mut self, ring: &mut Ring<Token>, now: Instant) {
        for attempt in self.attempts.iter_mut().filter(|a| a.deadline <= now) {
            ring.cancel(attempt.key);
            // It completes as cancelled; until then it does not count as late again.
            attempt.deadline = Instant(u64::MAX);
        }
        let late = |s: &PeerSocket| matches!(s.life, Life::Lingering { deadline, .. } if deadline <= now);
        while let Some(at) = self.sockets.iter().position(late) {
            self.remove(ring, at);
        }
        if self.listen_again.is_some_and(|at| at <= now) {
            self.listen(ring, now);
        }
    }

    /// Closes everything; the core is told nothing more. What is queued is still delivered if the peer takes it.
    pub(super) fn stop(&mut self, ring: &mut Ring<Token>, now: Instant) {
        self.stopped = true;
        self.unlisten(ring);
        for attempt in &mut self.attempts {
            ring.cancel(attempt.key);
        }
        let live: Vec<SockId> = self.sockets.iter().filter(|s| s.life == Life::Live).map(|s| s.id).collect();
        for sock in live {
            self.close(ring, now, sock, Closing::WhenSent);
        }
    }

    /// No socket is left open.
    pub(super) fn is_quiet(&self) -> bool {
        self.sockets.is_empty()
    }
}

impl PeerSocket {
    /// Starts a receive into the staging buffer unless one is in flight or there is no room.
    pub(super) fn arm(&mut self, ring: &mut Ring<Token>) {
        if !self.recv.is_receiving() && self.recv.room_bytes() > 0 {
            ring.recv(Token::PeerRecv(self.id), self.file, &mut self.recv);
        }
    }

    /// Forgets what was received, and goes on receiving.
    fn discard_received(&mut self, ring: &mut Ring<Token>) {
        let unread = self.recv.bytes().len();
        self.recv.consume(unread);
        self.arm(ring);
    }

    fn flush(&mut self, ring: &mut Ring<Token>) {
        // Header space that was missing may be free now, even if no send of this socket ended.
        self.overflow.refill(&mut self.queue, ring.pool_mut());
        ring.send(Token::PeerSend(self.id), self.file, &mut self.queue);
    }
}

impl Overflow {
    fn push(&mut self, pool: &mut BufferPool, bytes: &[u8], payload: Option<BufSpan>) {
        if let Some(span) = payload {
            pool.retain(span.buf);
        }
        self.bytes.extend(bytes);
        self.items.push_back((bytes.len() as u32, payload));
    }

    /// Moves to the queue what it has room for.
    fn refill(&mut self, queue: &mut SendQueue, pool: &mut BufferPool) {
        while queue.queued_bytes() <= QUEUE_BYTES_SOFT_MAX {
            let Some((len, payload)) = self.items.front().copied() else { return };
            let bytes = &self.bytes.make_contiguous()[..len as usize];
            if queue.push_bytes(pool, bytes).is_err() {
                return;
            }
            self.bytes.drain(..len as usize);
            self.items.pop_front();
            if let Some(span) = payload {
                queue.push_payload(pool, span);
                pool.release(span.buf);
            }
        }
    }

    fn clear(&mut self, pool: &mut BufferPool) {
        self.bytes.clear();
        self.items.drain(..).filter_map(|(_, payload)| payload).for_each(|span| pool.release(span.buf));
    }
}

/// A send queue with more than this takes nothing more for the time being.
const QUEUE_BYTES_SOFT_MAX: usize = 2 << 20;
/// How long the last words may take.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after listening failed.
const LISTEN_RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
