//! Stream sockets of peers and clients: what is queued to be sent, what has been received, how they are set up.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;

use model::ids::BufId;
use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, sockopt,
};

use crate::pool::{BufSpan, BufferPool};
use crate::ring::staging::Staging;

/// Most pieces of memory in one send.
pub const SEND_SPANS_MAX: usize = 64;
/// No further piece is added to a send that has reached this many bytes.
pub const SEND_BYTES_MAX: usize = 1 << 20;
/// Longest single [`SendQueue::push_bytes`].
pub const PUSH_BYTES_MAX: usize = ARENA_BYTES;
/// Usual size of a [`RecvBuffer`] (bytes).
pub const RECV_BUFFER_BYTES: usize = 128 << 10;
/// Connections that may wait to be accepted on a listening socket.
pub const LISTEN_BACKLOG: i32 = 128;

/// The control area of the pool is exhausted: the other side has stopped reading while we had ever more to
/// say. Nothing was queued; the connection has to be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no buffer space left for outgoing packets")]
pub struct SendQueueFull;

/// What is to be sent on a stream, in order: copied header bytes and referenced block data.
///
/// Bytes are copied into slots of the pool's control area, data stays where it is with a reference until it is
/// sent. Nothing is allocated but pool slots once the queue has seen its usual length. One send is in flight
/// at a time: [`Ring::send`](crate::ring::Ring::send) starts it, its completion is reported by
/// [`advance`](Self::advance) or ends in [`clear`](Self::clear). Before a queue is dropped it has to be
/// cleared, else its references stay in the pool.
#[derive(Default)]
pub struct SendQueue {
    spans: VecDeque<Piece>,
    arena: Option<Arena>,
    queued_bytes: usize,
    copied_bytes: usize,
    sending: bool,
}

/// Part of the stream.
#[derive(Clone, Copy)]
struct Piece {
    span: BufSpan,
    /// It is in the control area.
    copied: bool,
}

/// The slot that header bytes are copied to; the queue holds one reference for it.
struct Arena {
    buf: BufId,
    used_bytes: usize,
    len_bytes: usize,
}

impl SendQueue {
    /// An empty queue.
    pub fn new() -> SendQueue {
        SendQueue { spans: VecDeque::with_capacity(SPANS_USUAL), ..SendQueue::default() }
    }

    /// Queues a copy of `bytes`. Panics above [`PUSH_BYTES_MAX`].
    ///
    /// # Errors
    /// [`SendQueueFull`]; nothing was queued.
    pub fn push_bytes(&mut self, pool: &mut BufferPool, bytes: &[u8]) -> Result<(), SendQueueFull> {
        assert!(bytes.len() <= PUSH_BYTES_MAX, "header of {} bytes", bytes.len());
        if bytes.is_empty() {
            return Ok(());
        }
        let (buf, at) = self.arena_space(pool, bytes.len())?;
        let span = BufSpan { buf, offset_bytes: at as u32, len_bytes: bytes.len() as u32 };
        pool.append_bytes(span, bytes);
        self.queued_bytes += bytes.len();
        self.copied_bytes += bytes.len();
        if let Some(last) = self.spans.back_mut().map(|piece| &mut piece.span)
            && last.buf == buf
            && last.offset_bytes + last.len_bytes == span.offset_bytes
        {
            last.len_bytes += span.len_bytes;
        } else {
            pool.retain(buf);
            self.spans.push_back(Piece { span, copied: true });
        }
        Ok(())
    }

    /// Queues block data, retaining its buffer until it is sent.
    pub fn push_payload(&mut self, pool: &mut BufferPool, span: BufSpan) {
        if span.len_bytes == 0 {
            return;
        }
        pool.retain(span.buf);
        self.queued_bytes += span.len_bytes as usize;
        self.spans.push_back(Piece { span, copied: false });
    }

    /// What the next send takes, in order: at most `out` pieces, and no more once there are
    /// [`SEND_BYTES_MAX`] bytes. Returns the number of pieces.
    pub fn prepare(&self, out: &mut [BufSpan]) -> usize {
        let (mut count, mut bytes) = (0, 0);
        for (slot, piece) in out.iter_mut().zip(&self.spans) {
            if bytes >= SEND_BYTES_MAX {
                break;
            }
            *slot = piece.span;
            bytes += piece.span.len_bytes as usize;
            count += 1;
        }
        count
    }

    /// The first `sent_bytes` are with the kernel: gives their buffers up. Panics when so many are not queued.
    pub fn advance(&mut self, sent_bytes: usize, pool: &mut BufferPool) {
        assert!(sent_bytes <= self.queued_bytes, "more was sent than was queued");
        self.sending = false;
        self.queued_bytes -= sent_bytes;
        let mut left = sent_bytes;
        while left > 0 {
            let first = self.spans.front_mut().expect("queued bytes are in the spans");
            let taken = left.min(first.span.len_bytes as usize);
            if first.copied {
                self.copied_bytes -= taken;
            }
            if left < first.span.len_bytes as usize {
                first.span = first.span.skip(left as u32);
                break;
            }
            left -= taken;
            let done = self.spans.pop_front().expect("it was just there");
            pool.release(done.span.buf);
        }
    }

    /// Forgets everything, because the connection is gone. A send still in flight keeps its buffers until its
    /// completion, which must not be reported to this queue any more.
    pub fn clear(&mut self, pool: &mut BufferPool) {
        self.spans.drain(..).for_each(|piece| pool.release(piece.span.buf));
        if let Some(arena) = self.arena.take() {
            pool.release(arena.buf);
        }
        self.queued_bytes = 0;
        self.copied_bytes = 0;
        self.sending = false;
    }

    /// Bytes not yet sent.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Bytes not yet sent that take room in the control area, which all connections share.
    pub fn copied_bytes(&self) -> usize {
        self.copied_bytes
    }

    /// Nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// A send is in flight.
    pub fn is_sending(&self) -> bool {
        self.sending
    }

    pub(crate) fn set_sending(&mut self) {
        self.sending = true;
    }

    /// Buffer and offset of `len_bytes` of free arena.
    fn arena_space(
        &mut self,
        pool: &mut BufferPool,
        len_bytes: usize,
    ) -> Result<(BufId, usize), SendQueueFull> {
        if let Some(arena) = &mut self.arena {
            if pool.references(arena.buf) == 1 {
                // Neither queued nor in the kernel's hands any more: start over.
                arena.used_bytes = 0;
            }
            if arena.used_bytes + len_bytes <= arena.len_bytes {
                let at = arena.used_bytes;
                arena.used_bytes += len_bytes;
                return Ok((arena.buf, at));
            }
        }
        // Most queues never hold more than a few headers; there may be hundreds of them.
        let is_idle = self.spans.is_empty() && len_bytes <= IDLE_ARENA_BYTES;
        let arena_bytes = if is_idle { IDLE_ARENA_BYTES } else { ARENA_BYTES };
        let buf = pool.alloc_control(arena_bytes).ok_or(SendQueueFull)?;
        let arena = Arena { buf, used_bytes: len_bytes, len_bytes: arena_bytes };
        if let Some(full) = self.arena.replace(arena) {
            pool.release(full.buf);
        }
        Ok((buf, 0))
    }
}

/// Bytes received and not yet parsed, in one fixed piece of memory that a receive appends to.
///
/// A frame header is parsed here; the rest of a large payload is better received straight into a pool buffer:
/// copy out what [`bytes`](Self::bytes) already has of it, [`consume`](Self::consume) that, and
/// [`Ring::recv_span`](crate::ring::Ring::recv_span) the remainder.
pub struct RecvBuffer {
    staging: Rc<Staging>,
    start: usize,
    end: usize,
}

impl RecvBuffer {
    /// An empty buffer. The longest thing that can be parsed in it is `len_bytes` long.
    ///
    /// # Errors
    /// What mmap(2) reports.
    pub fn new(len_bytes: usize) -> io::Result<RecvBuffer> {
        Ok(RecvBuffer { staging: Staging::new(len_bytes)?, start: 0, end: 0 })
    }

    /// What has been received and not been consumed. May be looked at while a receive is in flight.
    pub fn bytes(&self) -> &[u8] {
        self.staging.bytes(self.start, self.end)
    }

    /// A receive has completed with `count` bytes.
    pub fn filled(&mut self, count: usize) {
        assert!(self.staging.is_idle(), "a receive is still in flight");
        assert!(count <= self.staging.len_bytes() - self.end, "more was received than there was room");
        self.end += count;
    }

    /// The first `count` bytes have been dealt with.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "more was consumed than there was");
        self.start += count;
    }

    /// Room for the next receive (bytes), after compaction. When it is 0 the buffer is full of unparsed bytes
    /// and must be consumed from before a receive.
    pub fn room_bytes(&self) -> usize {
        self.staging.len_bytes() - (self.end - self.start)
    }

    /// A receive into this buffer is in flight.
    pub fn is_receiving(&self) -> bool {
        !self.staging.is_idle()
    }

    /// Gives the free part to a receive.
    pub(crate) fn lend(&mut self) -> (Rc<Staging>, *mut u8, u32) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.staging.len_bytes() - self.end < self.staging.len_bytes() / 4 {
            self.staging.move_to_front(self.start, self.end);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let (ptr, len) = self.staging.lend(self.end);
        (Rc::clone(&self.staging), ptr, len as u32)
    }
}

/// Buffer sizes of a connection; 0 leaves the choice to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketBuffers {
    /// SO_SNDBUF (bytes).
    pub send_bytes: u32,
    /// SO_RCVBUF (bytes).
    pub recv_bytes: u32,
}

/// A listening TCP socket for [`Ring::accept`](crate::ring::Ring::accept).
///
/// # Errors
/// What socket(2), bind(2) and listen(2) report; `EADDRINUSE` and `EADDRNOTAVAIL` are the usual ones.
pub fn listen_tcp(address: SocketAddr, buffers: SocketBuffers) -> io::Result<OwnedFd> {
    let socket = new_tcp(address)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // Before listen: the window scale of accepted connections follows from it.
    set_buffers(&socket, buffers)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, Backlog::new(LISTEN_BACKLOG)?)?;
    Ok(socket)
}

/// A listening unix socket at `path`; the socket file a dead process left there is replaced.
///
/// # Errors
/// `AddrInUse` when someone listens there, `AlreadyExists` when the path is something else than a socket, else
/// what bind(2) reports.
pub fn listen_unix(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "path exists and is not a socket"));
        }
        Ok(_) if someone_listens(path) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket"));
        }
        Ok(_) => std::fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(OwnedFd::from(UnixListener::bind(path)?))
}

/// A process that was killed leaves its io_uring to the kernel, which lets go of the sockets in it a moment later:
/// until then the socket takes connections although nobody will ever answer. So the owner has to be alive.
fn someone_listens(path: &Path) -> bool {
    let Ok(stream) = UnixStream::connect(path) else { return false };
    match socket::getsockopt(&stream, sockopt::PeerCredentials) {
        // 0: a process that has no number here, in another namespace.
        Ok(owner) if owner.pid() > 0 => {
            let probe = nix::sys::signal::kill(nix::unistd::Pid::from_raw(owner.pid()), None);
            probe != Err(nix::errno::Errno::ESRCH)
        }
        _ => true,
    }
}

/// A TCP socket to connect to `peer` by [`Ring::connect`](crate::ring::Ring::connect), bound to the address
/// (and port, if not 0) `source`.
///
/// # Errors
/// What socket(2) and bind(2) report.
pub fn connecting_tcp(
    peer: SocketAddr,
    source: Option<SocketAddr>,
    buffers: SocketBuffers,
) -> io::Result<OwnedFd> {
    let socket = new_tcp(peer)?;
    set_buffers(&socket, buffers)?;
    if let Some(source) = source {
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(source))?;
    }
    Ok(socket)
}

/// An accept that failed like this fails again at once: the process or the system is out of something, and a caller that
/// does not wait spins. Other errors, such as a connection that was reset in the queue, concern one connection alone.
pub fn accept_must_pause(error: Option<Errno>) -> bool {
    matches!(error, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// Sends every packet at once instead of waiting for more.
///
/// # Errors
/// What setsockopt(2) reports; `ENOTSUP` for a socket that is not TCP.
pub fn set_nodelay(socket: &impl AsFd) -> io::Result<()> {
    Ok(socket::setsockopt(socket, sockopt::TcpNoDelay, &true)?)
}

/// Looks after a silent connection: when the other side has vanished without a word, receives fail some two minutes later.
///
/// # Errors
/// What setsockopt(2) reports; `ENOPROTOOPT` or `EOPNOTSUPP` for a socket that is not TCP.
pub fn set_keepalive(socket: &impl AsFd) -> io::Result<()> {
    socket::setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    socket::setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    socket::setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(socket::setsockopt(socket, sockopt::KeepAlive, &true)?)
}

/// Sets the buffer sizes.
///
/// # Errors
/// What setsockopt(2) reports.
pub fn set_buffers(socket: &impl AsFd, buffers: SocketBuffers) -> io::Result<()> {
    if buffers.send_bytes > 0 {
        socket::setsockopt(socket, sockopt::SndBuf, &(buffers.send_bytes as usize))?;
    }
    if buffers.recv_bytes > 0 {
        socket::setsockopt(socket, sockopt::RcvBuf, &(buffers.recv_bytes as usize))?;
    }
    Ok(())
}

/// The other side has closed or reset the connection, and everything it sent before has been received. Looks
/// without waiting and takes nothing out.
pub fn is_closed(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [0u8];
    match socket::recv(socket.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(count) => count == 0,
        Err(Errno::EAGAIN | Errno::EINTR) => false,
        Err(_) => true,
    }
}

/// Address of the other side of a TCP connection.
///
/// # Errors
/// `ENOTCONN`, or `EAFNOSUPPORT` for a socket of another family.
pub fn peer_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    to_socket_addr(&socket::getpeername(socket.as_raw_fd())?)
}

/// Address of our side of a TCP socket.
///
/// # Errors
/// `EAFNOSUPPORT` for a socket of another family.
pub fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    to_socket_addr(&socket::getsockname(socket.as_raw_fd())?)
}

fn to_socket_addr(storage: &SockaddrStorage) -> io::Result<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Ok(SocketAddr::V4((*v4).into()));
    }
    if let Some(v6) = storage.as_sockaddr_in6() {
        return Ok(SocketAddr::V6((*v6).into()));
    }
    Err(Errno::EAFNOSUPPORT.into())
}

fn new_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Silence before the first probe, time between two, and how many may go unanswered.
const KEEPALIVE_IDLE_SECONDS: u32 = 60;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
const KEEPALIVE_PROBES: u32 = 6;
/// Header bytes of some thousand packets; a class of the pool.
const ARENA_BYTES: usize = 64 << 10;
/// The same for a queue that was empty; another class.
const IDLE_ARENA_BYTES: usize = 4 << 10;
/// Pieces that fit without growing the list.
const SPANS_USUAL: usize = 1024;

#[cfg(test)]
mod tests;
