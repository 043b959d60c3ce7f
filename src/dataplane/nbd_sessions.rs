//! Clients of the exported volumes: listeners, sessions and their ends. What a session receives is in
//! `nbd_receive`, its requests are in `nbd_requests`.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blockdev::nbd::export::{ExportInfo, Exports};
use blockdev::nbd::handshake::{Handshake, Negotiated, ServerInfo};
use blockdev::nbd::reply::ReplyStyle;
use blockdev::nbd::request::MAX_PAYLOAD_BYTES;
use blockdev::ring::{Completion, FileRef, OpKey, Ring};
use blockdev::socket::{self, RECV_BUFFER_BYTES, RecvBuffer, SendQueue, SocketBuffers};
use model::time::{Duration, Instant};
use nix::errno::Errno;
use replicator::{Resource, VolIdx};
use slab::Slab;
use tokio::sync::oneshot;

use super::core_side::Core;
use super::nbd_exports::{ExportNames, ExportTable};
use super::nbd_receive::Incoming;
use super::nbd_requests::Requests;
use super::token::{SessionKey, Token};

/// All clients.
pub(super) struct NbdServer {
    names: ExportNames,
    listeners: Vec<Listener>,
    pub(super) sessions: Slab<Session>,
    sessions_made: u32,
    pub(super) requests: Requests,
    /// Sessions with something new to send.
    pub(super) to_flush: Vec<u32>,
    /// A session waits for room or a buffer: all of them are looked at in each batch.
    pub(super) blocked: bool,
    /// The session that gets room first.
    pub(super) resumed_first: usize,
    /// A session lacked room that others hold, since the last look for stalled ones.
    pub(super) short_of_room: bool,
    /// When to look for clients that hold room and neither read nor write.
    next_look: Option<Instant>,
    /// Sessions that use each volume.
    open_counts: Vec<u32>,
    /// Listeners that could not accept are armed again then.
    accept_again: Option<Instant>,
    stopped: bool,
}

struct Listener {
    fd: OwnedFd,
    /// None: the kernel could not accept, and is asked again later.
    accept: Option<OpKey>,
    /// The only volume it serves.
    volume: Option<VolIdx>,
    path: Option<PathBuf>,
}

/// One client.
pub(super) struct Session {
    pub(super) key: SessionKey,
    /// `None` once the connection is closed; the session stays until its requests have ended.
    fd: Option<OwnedFd>,
    pub(super) file: FileRef,
    pub(super) stage: Stage,
    /// The only volume that its listener serves.
    pub(super) only: Option<VolIdx>,
    pub(super) negotiated: Option<Negotiated>,
    pub(super) volume: Option<VolIdx>,
    /// The client is the kernel; dropped with the session.
    device: Option<oneshot::Sender<()>>,
    pub(super) recv: RecvBuffer,
    pub(super) incoming: Incoming,
    pub(super) queue: SendQueue,
    /// Requests without a reply, and the bytes they are charged.
    pub(super) requests: u32,
    pub(super) charged_bytes: u64,
    handshake_deadline: Instant,
    /// Something came from the client.
    pub(super) has_spoken: bool,
    /// Bytes that went over the connection since the last look.
    pub(super) moved_bytes: u64,
    /// It held room at the last look.
    held_room: bool,
}

/// Where a session stands.
pub(super) enum Stage {
    /// Options are negotiated.
    Handshake(Box<Handshake>),
    /// Requests are served.
    Transmission,
    /// No more requests are read; closed when all are answered and sent.
    Finishing,
    /// The connection is closed; requests complete into the void.
    Closed,
}

impl NbdServer {
    /// Opens the listeners.
    ///
    /// # Errors
    /// A socket cannot be made or bound.
    pub(super) fn new(
        ring: &mut Ring<Token>,
        core: &replicator::Config,
        unix: &[PathBuf],
        tcp: Option<SocketAddr>,
    ) -> anyhow::Result<NbdServer> {
        let limit_bytes = ring.pool().cap_bytes() as u64 / CLIENTS_SHARE;
        let max_block_bytes =
            prev_power_of_two(limit_bytes / 4).clamp(1 << 20, u64::from(MAX_PAYLOAD_BYTES)) as u32;
        let mut server = NbdServer {
            names: ExportNames {
                resource: core.name.clone(),
                vnrs: core.volumes.iter().map(|v| v.vnr.0).collect(),
                max_block_bytes,
            },
            listeners: Vec::new(),
            sessions: Slab::with_capacity(SESSIONS_MAX + STRANGERS_MAX),
            sessions_made: 0,
            requests: Requests::new(limit_bytes),
            to_flush: Vec::with_capacity(SESSIONS_MAX + STRANGERS_MAX),
            blocked: false,
            resumed_first: 0,
            short_of_room: false,
            next_look: None,
            open_counts: vec![0; core.volumes.len()],
            accept_again: None,
            stopped: false,
        };
        for (v, path) in unix.iter().enumerate() {
            let fd =
                listen_unix(path).map_err(|e| anyhow::anyhow!("listening on {}: {e}", path.display()))?;
            server.add_listener(ring, fd, Some(VolIdx(v as u8)), Some(path.clone()));
        }
        if let Some(address) = tcp {
            let fd = socket::listen_tcp(address, SocketBuffers::default())
                .map_err(|e| anyhow::anyhow!("listening for clients on {address}: {e}"))?;
            server.add_listener(ring, fd, None, None);
        }
        Ok(server)
    }

    fn add_listener(
        &mut self,
        ring: &mut Ring<Token>,
        fd: OwnedFd,
        volume: Option<VolIdx>,
        path: Option<PathBuf>,
    ) {
        let token = Token::NbdAccept { listener: self.listeners.len() as u32 };
        let accept = Some(ring.accept(token, FileRef::of(&fd)));
        self.listeners.push(Listener { fd, accept, volume, path });
    }

    /// A listener has a connection, or is in trouble.
    pub(super) fn accept_completed(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        index: u32,
        mut completion: Completion<Token>,
    ) {
        let Some(listener) = self.listeners.get_mut(index as usize) else { return };
        if !completion.more && !self.stopped {
            if socket::accept_must_pause(completion.outcome().err()) {
                // Out of descriptors or memory: at once it would only fail again, and again.
                tracing::warn!(
                    "cannot accept a client: {}; trying again",
                    Errno::from_raw(-completion.result)
                );
                listener.accept = None;
                self.accept_again = Some(core.now + ACCEPT_RETRY);
                return;
            }
            let token = Token::NbdAccept { listener: index };
            listener.accept = Some(ring.accept(token, FileRef::of(&listener.fd)));
        }
        let (only, is_unix) = (listener.volume, listener.path.is_some());
        let Some(fd) = completion.accepted.take() else { return };
        if self.stopped {
            return;
        }
        self.make_place(ring, core);
        // A client whose machine has died says nothing: its session would have the volume open for ever.
        let prepared =
            if is_unix { Ok(()) } else { socket::set_nodelay(&fd).and_then(|()| socket::set_keepalive(&fd)) };
        match prepared.and_then(|()| RecvBuffer::new(RECV_BUFFER_BYTES)) {
            Ok(recv) => self.add_session(ring, core, fd, recv, only),
            Err(error) => tracing::warn!("a client's connection is unusable: {error}"),
        }
    }

    fn add_session(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        fd: OwnedFd,
        recv: RecvBuffer,
        only: Option<VolIdx>,
    ) {
        let mut handshake = Box::new(Handshake::new(&ServerInfo::default()));
        let mut greeting = Vec::new();
        handshake.greeting(&mut greeting);
        let session = self.insert(core, fd, recv, Stage::Handshake(handshake));
        session.only = only;
        let key = session.key;
        session.arm(ring);
        self.reply(ring, key.slot, &greeting);
        self.end_if_done(ring, core, key.slot);
    }

    fn insert(&mut self, core: &Core, fd: OwnedFd, recv: RecvBuffer, stage: Stage) -> &mut Session {
        let entry = self.sessions.vacant_entry();
        let key = SessionKey { slot: entry.key() as u32, serial: self.sessions_made };
        self.sessions_made = self.sessions_made.wrapping_add(1);
        entry.insert(Session {
            key,
            file: FileRef::of(&fd),
            fd: Some(fd),
            stage,
            only: None,
            negotiated: None,
            volume: None,
            device: None,
            recv,
            incoming: Incoming::default(),
            queue: SendQueue::new(),
            requests: 0,
            charged_bytes: 0,
            handshake_deadline: core.now + HANDSHAKE_MAX,
            has_spoken: false,
            moved_bytes: 0,
            held_room: false,
        })
    }

    /// Serves the kernel as a client, by this socket and without a handshake: it is told what is exported by other means.
    /// `ended` is dropped when the session is over. It counts as open like any other, whether or not anybody uses the kernel's
    /// device.
    ///
    /// # Errors
    /// Why the volume is not exported now.
    pub(super) fn serve_device(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        vol: VolIdx,
        fd: OwnedFd,
        ended: oneshot::Sender<()>,
    ) -> Result<ExportInfo, String> {
        let exports = NbdServer::exports(self.names(), &core.resource, Some(vol), self.stopped);
        let export = exports.lookup(b"").map_err(|refused| refused.message)?;
        let recv = RecvBuffer::new(RECV_BUFFER_BYTES).map_err(|e| e.to_string())?;
        let session = self.insert(core, fd, recv, Stage::Transmission);
        session.volume = Some(vol);
        session.device = Some(ended);
        session.negotiated = Some(Negotiated { export: export.clone(), style: ReplyStyle::Simple });
        session.arm(ring);
        self.opened(core, vol);
        Ok(export)
    }

    /// Closes a connection without an export when there are too many: the oldest of those that have said nothing
    /// yet, or just the oldest. Whoever means it negotiates at once, and must not be kept out by connections that
    /// nobody uses.
    fn make_place(&mut self, ring: &mut Ring<Token>, core: &mut Core) {
        let strangers = self.sessions.iter().filter(|(_, s)| s.volume.is_none());
        if strangers.clone().count() < STRANGERS_MAX {
            return;
        }
        let oldest = strangers.min_by_key(|(_, s)| (s.has_spoken, s.handshake_deadline));
        if let Some(slot) = oldest.map(|(slot, _)| slot as u32) {
            tracing::debug!("a connection without an export is closed for a new one");
            self.close_connection(ring, slot);
            self.end_if_done(ring, core, slot);
        }
    }

    /// No further client gets an export.
    pub(super) fn is_full(&self) -> bool {
        self.sessions.iter().filter(|(_, s)| s.volume.is_some()).count() >= SESSIONS_MAX
    }

    /// The session that a completion names, unless it is over.
    pub(super) fn live(&self, key: SessionKey) -> bool {
        self.sessions.get(key.slot as usize).is_some_and(|s| s.key == key && s.fd.is_some())
    }

    /// Queues bytes for a client.
    pub(super) fn reply(&mut self, ring: &mut Ring<Token>, slot: u32, bytes: &[u8]) {
        let session = &mut self.sessions[slot as usize];
        if session.fd.is_none() {
            return;
        }
        let before = session.queue.queued_bytes();
        if session.queue.push_bytes(ring.pool_mut(), bytes).is_err() {
            tracing::warn!("a client takes no replies; it is disconnected");
            self.close_connection(ring, slot);
            return;
        }
        self.requests.queued_bytes += (session.queue.queued_bytes() - before) as u64;
        self.note_flush(slot);
    }

    pub(super) fn note_flush(&mut self, slot: u32) {
        if !self.to_flush.contains(&slot) {
            self.to_flush.push(slot);
        }
    }

    /// Starts sends wherever something is queued and none is in flight.
    pub(super) fn flush(&mut self, ring: &mut Ring<Token>) {
        while let Some(slot) = self.to_flush.pop() {
            let Some(session) = self.sessions.get_mut(slot as usize).filter(|s| s.fd.is_some()) else {
                continue;
            };
            ring.send(Token::NbdSend(session.key), session.file, &mut session.queue);
        }
    }

    /// A send ended.
    pub(super) fn send_completed(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        key: SessionKey,
        result: i32,
    ) {
        if !self.live(key) {
            return;
        }
        let Ok(sent) = usize::try_from(result) else {
            self.close_connection(ring, key.slot);
            self.end_if_done(ring, core, key.slot);
            return;
        };
        let session = &mut self.sessions[key.slot as usize];
        session.queue.advance(sent, ring.pool_mut());
        session.moved_bytes += sent as u64;
        self.requests.queued_bytes -= sent as u64;
        if !session.queue.is_empty() {
            self.note_flush(key.slot);
        }
        self.end_if_done(ring, core, key.slot);
    }

    /// The volume is used by one session more.
    pub(super) fn opened(&mut self, core: &mut Core, vol: VolIdx) {
        let count = &mut self.open_counts[vol.0 as usize];
        *count += 1;
        if *count == 1 {
            core.resource.set_open(vol, true);
        }
    }

    /// Closes a finishing session that has nothing left to do, and forgets a closed one whose requests ended.
    pub(super) fn end_if_done(&mut self, ring: &mut Ring<Token>, core: &mut Core, slot: u32) {
        let Some(session) = self.sessions.get(slot as usize) else { return };
        if session.requests > 0 {
            return;
        }
        if matches!(session.stage, Stage::Finishing) && session.queue.is_empty() {
            self.close_connection(ring, slot);
        }
        if !matches!(self.sessions[slot as usize].stage, Stage::Closed) {
            return;
        }
        let session = self.sessions.remove(slot as usize);
        if let Some(vol) = session.volume {
            let count = &mut self.open_counts[vol.0 as usize];
            *count -= 1;
            if *count == 0 {
                core.resource.set_open(vol, false);
            }
        }
    }

    /// Closes the connection of a session; its requests go on without it. [`end_if_done`](Self::end_if_done)
    /// forgets it.
    pub(super) fn close_connection(&mut self, ring: &mut Ring<Token>, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        let Some(fd) = session.fd.take() else { return };
        self.requests.queued_bytes -= session.queue.queued_bytes() as u64;
        session.queue.clear(ring.pool_mut());
        session.stage = Stage::Closed;
        let unfinished = session.incoming.abandon(ring.pool_mut());
        ring.shutdown(std::os::fd::AsFd::as_fd(&fd));
        ring.close(fd);
        if let Some(request) = unfinished {
            self.abandon_request(request);
        }
    }

    /// `Action::ExportChanged`: sessions of a volume that is no longer exported are closed. The kernel, which is told of a new
    /// size, may use it.
    pub(super) fn export_changed(&mut self, ring: &mut Ring<Token>, core: &mut Core, vol: VolIdx) {
        let uses = |s: &Session| s.volume == Some(vol) && s.fd.is_some();
        let state = core.resource.export_state(vol);
        if state.primary {
            for (_, session) in self.sessions.iter_mut().filter(|(_, s)| uses(s) && s.device.is_some()) {
                let negotiated = session.negotiated.as_mut().expect("the kernel's session has no handshake");
                negotiated.export.size_bytes = state.size_sectors * 512;
            }
            return;
        }
        let slots: Vec<usize> = self.sessions.iter().filter(|(_, s)| uses(s)).map(|(slot, _)| slot).collect();
        for slot in slots {
            tracing::warn!("a client is disconnected: the volume is no longer exported here");
            self.close_connection(ring, slot as u32);
            self.end_if_done(ring, core, slot as u32);
        }
    }

    /// Volumes that clients have open, one bit each.
    pub(super) fn open_mask(&self) -> u64 {
        self.open_counts.iter().enumerate().filter(|(_, n)| **n > 0).fold(0, |mask, (v, _)| mask | 1 << v)
    }

    /// Sessions per volume.
    pub(super) fn open_counts(&self) -> &[u32] {
        &self.open_counts
    }

    /// What the handshake may choose from.
    pub(super) fn exports<'a>(
        names: &'a ExportNames,
        core: &'a Resource,
        only: Option<VolIdx>,
        full: bool,
    ) -> ExportTable<'a> {
        ExportTable { names, core, only, full }
    }

    /// Names of the exports.
    pub(super) fn names(&self) -> &ExportNames {
        &self.names
    }

    /// When the next handshake takes too long, or stalled clients are to be looked for.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let negotiating = |s: &Session| matches!(s.stage, Stage::Handshake(_));
        let handshakes =
            self.sessions.iter().filter(|(_, s)| negotiating(s)).map(|(_, s)| s.handshake_deadline);
        handshakes.chain(self.next_look).chain(self.accept_again).min()
    }

    /// Stalled clients are looked for from now on.
    pub(super) fn watch_for_stalls(&mut self, now: Instant) {
        if self.next_look.is_some() {
            return;
        }
        self.next_look = Some(now + STALL_PERIOD);
        for (_, session) in &mut self.sessions {
            (session.moved_bytes, session.held_room) = (0, session.holds_room());
        }
    }

    /// A client may be as slow as it likes as long as that costs nobody else anything. When others lack the room
    /// that it holds, or it has said goodbye, it has to move.
    fn close_stalled(&mut self, ring: &mut Ring<Token>, core: &mut Core) {
        let pressed = std::mem::take(&mut self.short_of_room);
        let stalled = |s: &Session| {
            let held = s.device.is_none() && s.held_room && s.holds_room() && s.moved_bytes < STALL_BYTES_MIN;
            held && (pressed || matches!(s.stage, Stage::Finishing))
        };
        let slots: Vec<usize> =
            self.sessions.iter().filter(|(_, s)| stalled(s)).map(|(slot, _)| slot).collect();
        for slot in slots {
            tracing::warn!(
                "a client is disconnected: it neither reads nor writes and holds room that others need"
            );
            self.close_connection(ring, slot as u32);
            self.end_if_done(ring, core, slot as u32);
        }
        self.next_look = None;
        let finishing = |s: &Session| matches!(s.stage, Stage::Finishing);
        if pressed || self.sessions.iter().any(|(_, s)| finishing(s)) {
            self.watch_for_stalls(core.now);
        }
    }

    /// Turns away clients that take too long to say what they want, and those that are in the way of others.
    pub(super) fn on_time(&mut self, ring: &mut Ring<Token>, core: &mut Core, now: Instant) {
        let late = |s: &Session| matches!(s.stage, Stage::Handshake(_)) && s.handshake_deadline <= now;
        while let Some(slot) = self.sessions.iter().find(|(_, s)| late(s)).map(|(slot, _)| slot) {
            self.close_connection(ring, slot as u32);
            self.end_if_done(ring, core, slot as u32);
        }
        if self.next_look.is_some_and(|at| at <= now) {
            self.close_stalled(ring, core);
        }
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            for (index, listener) in self.listeners.iter_mut().enumerate() {
                let token = Token::NbdAccept { listener: index as u32 };
                listener.accept.get_or_insert_with(|| ring.accept(token, FileRef::of(&listener.fd)));
            }
        }
    }

    /// Stops listening and closes every connection.
    pub(super) fn stop(&mut self, ring: &mut Ring<Token>, core: &mut Core) {
        self.stopped = true;
        for listener in self.listeners.drain(..) {
            if let Some(accept) = listener.accept {
                ring.cancel(accept);
            }
            ring.close(listener.fd);
            if let Some(path) = listener.path {
                // Clients see at once that nobody serves it; a leftover does no harm either.
                let _ = std::fs::remove_file(path);
            }
        }
        let slots: Vec<usize> = self.sessions.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.close_connection(ring, slot as u32);
            self.end_if_done(ring, core, slot as u32);
        }
    }
}

impl Session {
    /// It has something that only its client can make it give back.
    fn holds_room(&self) -> bool {
        self.fd.is_some() && (!self.queue.is_empty() || self.incoming.awaits_data())
    }

    /// Starts a receive into the staging buffer unless one is in flight or there is no room.
    pub(super) fn arm(&mut self, ring: &mut Ring<Token>) {
        if self.fd.is_some() && !self.recv.is_receiving() && self.recv.room_bytes() > 0 {
            ring.recv(Token::NbdRecv(self.key), self.file, &mut self.recv);
        }
    }
}

/// A socket that only owner and group may use: it gives access to all data of the volume.
fn listen_unix(path: &Path) -> std::io::Result<OwnedFd> {
    let fd = socket::listen_unix(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(fd)
}

fn prev_power_of_two(n: u64) -> u64 {
    if n == 0 { 0 } else { 1 << n.ilog2() }
}

/// Clients with an export at once. A further one is told so when it asks for one.
pub(super) const SESSIONS_MAX: usize = 64;
/// Connections without an export at once. With one more a silent one is closed. So many that a client has spoken
/// before as many others have come.
const STRANGERS_MAX: usize = 512;
/// Requests and unsent replies of clients may take one part in so many of the pool; the rest is for the peer's
/// requests and for resync, which must go on when clients flood us.
const CLIENTS_SHARE: u64 = 2;
/// How long a client may negotiate.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// How long a client may hold up others without moving: one whole period, so at most twice as long.
/// Pause after the kernel was out of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
const STALL_PERIOD: Duration = Duration::from_secs(10);
/// Less than this in a period is a stall. What comes straight into a buffer is seen when that is full.
const STALL_BYTES_MIN: u64 = 64 << 10;

#[cfg(test)]
pub(super) mod tests {
    use model::ids::{Minor, VolumeNo};
    use model::policy::OnNoData;
    use replicator::{Config, DiskConfig, VolumeConfig};

    use super::*;
    use crate::dataplane::worker_api::{SPIN, WorkerConfig, WorkerHandle};

    /// A resource with the volumes 0 and 3, for tests that need no peer.
    pub fn config(dir: &Path, name: &str) -> WorkerConfig {
        let volume = |vnr, minor| VolumeConfig {
            vnr: VolumeNo(vnr),
            minor: Minor(minor),
            disk: DiskConfig::default(),
        };
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        WorkerConfig {
            core: Config {
                name: name.into(),
                volumes: vec![volume(0, 10), volume(3, 11)],
                on_no_data: OnNoData::IoError,
                serves_by_leave: false,
            },
            own_address: nobody,
            peer_address: nobody,
            sndbuf_bytes: 0,
            rcvbuf_bytes: 0,
            node_name: "alpha".into(),
            peer_name: "beta".into(),
            devices: vec!["/dev/drbd10".into(), "/dev/drbd11".into()],
            nbd_unix: vec![dir.join(format!("{name}.nbd")), dir.join(format!("{name}-3.nbd"))],
            nbd_tcp: None,
            pool_cap_bytes: 8 << 20,
            spin: SPIN,
            handlers: tokio::sync::mpsc::unbounded_channel().0,
        }
    }

    /// Whether the kernel has a timer running for an idle connection, as proc(5) tells: 02 in the column of timers.
    fn is_kept_alive(local: SocketAddr, remote: SocketAddr) -> bool {
        let hex = |a: SocketAddr| match a {
            SocketAddr::V4(a) => format!("{:08X}:{:04X}", u32::from_ne_bytes(a.ip().octets()), a.port()),
            SocketAddr::V6(_) => panic!("an IPv4 address is used"),
        };
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ends = [hex(local), hex(remote)];
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row[1..3] == ends).expect("the connection");
        row[5].starts_with("02:")
    }

    #[test]
    fn a_client_that_vanished_from_the_network_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let worker = WorkerHandle::spawn(WorkerConfig { nbd_tcp: Some(address), ..config(dir.path(), "r0") });
        let mut client = std::net::TcpStream::connect(address).unwrap();
        std::io::Read::read_exact(&mut client, &mut [0; 18]).unwrap();
        assert!(is_kept_alive(address, client.local_addr().unwrap()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(worker.unwrap().shutdown());
    }
}
