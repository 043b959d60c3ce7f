//! Clients of the exported volumes: listeners, sessions and their ends. What a session receives is in
//! `nbd_receive`, its requests are in `nbd_requests`.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blockdev::nbd::export::{ExportFlags, ExportInfo, Exports, Refused, RefusedError};
use blockdev::nbd::handshake::{Handshake, Negotiated, ServerInfo};
use blockdev::nbd::request::MAX_PAYLOAD_BYTES;
use blockdev::ring::{Completion, FileRef, OpKey, Ring};
use blockdev::socket::{self, RECV_BUFFER_BYTES, RecvBuffer, SendQueue, SocketBuffers};
use model::time::{Duration, Instant};
use replicator::{Resource, VolIdx};
use slab::Slab;

use super::core_side::Core;
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
    stopped: bool,
}

struct Listener {
    fd: OwnedFd,
    accept: OpKey,
    /// The only volume it serves.
    volume: Option<VolIdx>,
    path: Option<PathBuf>,
}

/// Names and limits of the exports.
pub(super) struct ExportNames {
    resource: String,
    vnrs: Vec<u16>,
    max_block_bytes: u32,
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
        let accept = ring.accept(token, FileRef::of(&fd));
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
            listener.accept = ring.accept(Token::NbdAccept { listener: index }, FileRef::of(&listener.fd));
        }
        let (only, is_unix) = (listener.volume, listener.path.is_some());
        let Some(fd) = completion.accepted.take() else { return };
        if self.stopped {
            return;
        }
        self.make_place(ring, core);
        let nodelay = if is_unix { Ok(()) } else { socket::set_nodelay(&fd) };
        match nodelay.and_then(|()| RecvBuffer::new(RECV_BUFFER_BYTES)) {
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
        let entry = self.sessions.vacant_entry();
        let key = SessionKey { slot: entry.key() as u32, serial: self.sessions_made };
        self.sessions_made = self.sessions_made.wrapping_add(1);
        let mut handshake = Box::new(Handshake::new(&ServerInfo::default()));
        let mut greeting = Vec::new();
        handshake.greeting(&mut greeting);
        let session = entry.insert(Session {
            key,
            file: FileRef::of(&fd),
            fd: Some(fd),
            stage: Stage::Handshake(handshake),
            only,
            negotiated: None,
            volume: None,
            recv,
            incoming: Incoming::default(),
            queue: SendQueue::new(),
            requests: 0,
            charged_bytes: 0,
            handshake_deadline: core.now + HANDSHAKE_MAX,
            has_spoken: false,
            moved_bytes: 0,
            held_room: false,
        });
        session.arm(ring);
        self.reply(ring, key.slot, &greeting);
        self.end_if_done(ring, core, key.slot);
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

    /// `Action::ExportChanged`: sessions of a volume that is no longer exported are closed.
    pub(super) fn export_changed(&mut self, ring: &mut Ring<Token>, core: &mut Core, vol: VolIdx) {
        if core.resource.export_state(vol).primary {
            return;
        }
        let uses = |s: &Session| s.volume == Some(vol) && s.fd.is_some();
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
        handshakes.chain(self.next_look).min()
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
            let held = s.held_room && s.holds_room() && s.moved_bytes < STALL_BYTES_MIN;
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
    }

    /// Stops listening and closes every connection.
    pub(super) fn stop(&mut self, ring: &mut Ring<Token>, core: &mut Core) {
        self.stopped = true;
        for listener in self.listeners.drain(..) {
            ring.cancel(listener.accept);
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

/// The exports as one client may see them.
pub(super) struct ExportTable<'a> {
    names: &'a ExportNames,
    core: &'a Resource,
    only: Option<VolIdx>,
    /// No further client is served.
    full: bool,
}

impl ExportTable<'_> {
    fn find(&self, name: &[u8]) -> Option<VolIdx> {
        let volumes = self.names.vnrs.len();
        let found = if name.is_empty() {
            self.only.or((volumes == 1).then_some(VolIdx(0)))
        } else if name == self.names.resource.as_bytes() {
            // On the socket of one volume the resource's name means that volume.
            Some(self.only.unwrap_or(VolIdx(0)))
        } else {
            (0..volumes).find(|v| self.names.export(*v).as_bytes() == name).map(|v| VolIdx(v as u8))
        };
        found.filter(|v| self.only.is_none_or(|only| only == *v))
    }
}

impl ExportNames {
    fn export(&self, v: usize) -> String {
        format!("{}/{}", self.resource, self.vnrs[v])
    }
}

impl Exports for ExportTable<'_> {
    fn lookup(&self, name: &[u8]) -> Result<ExportInfo, Refused> {
        let Some(vol) = self.find(name) else {
            let message = format!("no such export; resource {} is served here", self.names.resource);
            return Err(Refused { error: RefusedError::Unknown, message });
        };
        let state = self.core.export_state(vol);
        if !state.primary || state.size_sectors == 0 {
            let message = if state.reason.is_empty() {
                format!("the size of volume {} is not known yet", self.names.vnrs[vol.0 as usize])
            } else {
                state.reason
            };
            return Err(Refused { error: RefusedError::Policy, message });
        }
        if self.full {
            let message = format!(
                "{SESSIONS_MAX} clients use resource {}, and no more are served",
                self.names.resource
            );
            return Err(Refused { error: RefusedError::Policy, message });
        }
        let v = vol.0 as usize;
        let mut info = ExportInfo::new(u32::from(vol.0), &self.names.export(v), state.size_sectors * 512);
        info.flags = ExportFlags {
            flush: true,
            fua: true,
            trim: true,
            write_zeroes: true,
            // All sessions feed one core on one thread: a flush covers what any of them completed.
            multi_conn: true,
            ..ExportFlags::default()
        };
        info.max_block_bytes = self.names.max_block_bytes;
        Ok(info)
    }

    fn for_each(&self, each: &mut dyn FnMut(&str)) {
        for v in 0..self.names.vnrs.len() {
            if self.only.is_none_or(|only| only.0 as usize == v) {
                each(&self.names.export(v));
            }
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
const SESSIONS_MAX: usize = 64;
/// Connections without an export at once. With one more a silent one is closed. So many that a client has spoken
/// before as many others have come.
const STRANGERS_MAX: usize = 512;
/// Requests and unsent replies of clients may take one part in so many of the pool; the rest is for the peer's
/// requests and for resync, which must go on when clients flood us.
const CLIENTS_SHARE: u64 = 2;
/// How long a client may negotiate.
const HANDSHAKE_MAX: Duration = Duration::from_secs(30);
/// How long a client may hold up others without moving: one whole period, so at most twice as long.
const STALL_PERIOD: Duration = Duration::from_secs(10);
/// Less than this in a period is a stall. What comes straight into a buffer is seen when that is full.
const STALL_BYTES_MIN: u64 = 64 << 10;

#[cfg(test)]
pub(super) mod tests {
    use model::ids::{Minor, VolumeNo};
    use model::policy::OnNoData;
    use replicator::{Config, DiskConfig, VolumeConfig};

    use super::*;
    use crate::dataplane::worker_api::{SPIN, WorkerConfig};

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
        }
    }

    #[test]
    fn names_mean_volumes_and_a_socket_of_one_volume_serves_no_other() {
        let core = Resource::new(config(Path::new("/"), "r0").core, [1; 32]);
        let names = ExportNames { resource: "r0".into(), vnrs: vec![0, 3], max_block_bytes: 1 << 20 };
        let find = |only: Option<u8>, name: &str| {
            NbdServer::exports(&names, &core, only.map(VolIdx), false).find(name.as_bytes()).map(|v| v.0)
        };
        let rows = [
            (None, "", None),
            (None, "r0", Some(0)),
            (None, "r0/0", Some(0)),
            (None, "r0/3", Some(1)),
            (None, "r0/1", None),
            (None, "r1", None),
            (Some(1), "", Some(1)),
            (Some(1), "r0", Some(1)),
            (Some(1), "r0/3", Some(1)),
            (Some(1), "r0/0", None),
        ];
        for (only, name, expected) in rows {
            assert_eq!(find(only, name), expected, "{only:?} {name:?}");
        }
        let table = NbdServer::exports(&names, &core, None, false);
        let refused = table.lookup(b"r0/3").unwrap_err();
        assert_eq!(refused.error, RefusedError::Policy);
        assert!(refused.message.contains("Secondary"), "{}", refused.message);
        assert_eq!(table.lookup(b"r0/9").unwrap_err().error, RefusedError::Unknown);
        let mut listed = Vec::new();
        table.for_each(&mut |name| listed.push(name.to_owned()));
        assert_eq!(listed, ["r0/0", "r0/3"]);
    }
}
