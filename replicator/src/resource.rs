//! The resource: dispatch of events, the end of a batch, deadlines.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt::Display;

use model::state::{ConnState, Role};
use model::time::{Duration, Instant};

use crate::action::{Actions, LogLevel};
use crate::authority::{Authority, PeerWord};
use crate::command::{Command, CommandId};
use crate::commands::Commands;
use crate::config::{Config, NetConfig};
use crate::connection::{Connection, Phase};
use crate::digest::{Digest, DigestAlg};
use crate::event::{Event, IoResult, IoTag, SockId, VolIdx};
use crate::handlers::Handlers;
use crate::io_tag::{IoKind, flush_target, unpack};
use crate::peer_requests::PeerSide;
use crate::requests::{Requests, flag};
use crate::rng::Rng;
use crate::state::change::Transition;
use crate::timers::{Timer, Timers};
use crate::volume::Volume;
use crate::wire::{Features, HeaderForm, Sock};

/// How the next header on a socket looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framing {
    /// Form of the header.
    pub form: HeaderForm,
    /// Which socket's packets may come; None: the socket has yet to say which it is, by a packet without body.
    pub sock: Option<Sock>,
    /// Agreed features.
    pub features: Features,
    /// The peer puts a digest in front of block data: the driver checks it, and gives the packet without it.
    pub integrity: Option<DigestAlg>,
}

/// At most so many log lines of I/O errors in a window, as the kernel limits them.
#[derive(Default)]
pub(crate) struct LineLimit {
    window_start: Instant,
    used: u32,
}

impl LineLimit {
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        if now.saturating_since(self.window_start) >= Duration::from_secs(5) {
            self.window_start = now;
            self.used = 0;
        }
        self.used += 1;
        self.used <= 5
    }
}

/// One resource on one node, with its volumes and its connection.
pub struct Resource {
    pub(crate) cfg: Config,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) conn: Connection,
    pub(crate) vols: Vec<Volume>,
    pub(crate) reqs: Requests,
    pub(crate) peer: PeerSide,
    pub(crate) timers: Timers,
    pub(crate) cmds: Commands,
    pub(crate) handlers: Handlers,
    /// None: nobody else can become Primary without this node's knowledge, as far as it is told.
    pub(crate) authority: Option<Authority>,
    pub(crate) peer_word: PeerWord,
    /// A demotion by force is under way: requests are refused and those under way fail.
    pub(crate) fails_requests: bool,
    pub(crate) effects: VecDeque<Transition>,
    pub(crate) effects_running: bool,
    /// Volumes that a client holds open, one bit each.
    pub(crate) open_volumes: u64,
    pub(crate) io_error_lines: LineLimit,
    /// Events that named something the core had given up.
    pub(crate) stale_events: u64,
    /// A state changed since the last batch: commands that wait may go on.
    pub(crate) something_changed: bool,
    pub(crate) peer_pump: bool,
    pub(crate) flush_now: bool,
    /// A write has found the link congested, and the connection is to end for that.
    pub(crate) gives_way: bool,
    pub(crate) pump_all: bool,
    /// Counts state changes, for those who publish snapshots.
    pub(crate) state_changes: u64,
    pub(crate) next_disk_epoch: u32,
    /// Reused body of bitmap packets.
    pub(crate) piece: Vec<u8>,
}

impl Resource {
    /// A resource whose volumes are Diskless and StandAlone. `seed` makes its random numbers.
    ///
    /// # Panics
    /// If there is no volume, or more than 64.
    pub fn new(config: Config, seed: [u8; 32]) -> Resource {
        assert!(!config.volumes.is_empty() && config.volumes.len() <= 64, "1 to 64 volumes");
        let ascending = config.volumes.windows(2).all(|w| w[0].vnr < w[1].vnr);
        assert!(ascending, "volumes are given in ascending order");
        Resource {
            vols: config.volumes.iter().map(Volume::new).collect(),
            authority: config
                .serves_by_leave
                .then_some(Authority { until: Instant(0), by_peer: Duration::ZERO }),
            cfg: config,
            now: Instant(0),
            rng: Rng::new(seed),
            conn: Connection::new(),
            reqs: Requests::new(),
            peer: PeerSide::new(),
            timers: Timers::default(),
            cmds: Commands::default(),
            handlers: Handlers::default(),
            peer_word: PeerWord::default(),
            fails_requests: false,
            effects: VecDeque::new(),
            effects_running: false,
            open_volumes: 0,
            io_error_lines: LineLimit::default(),
            stale_events: 0,
            something_changed: false,
            peer_pump: false,
            flush_now: false,
            gives_way: false,
            pump_all: false,
            state_changes: 0,
            next_disk_epoch: 0,
            piece: Vec::new(),
        }
    }

    /// Takes one event. Never blocks; never panics on what comes from outside.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, out: &mut Actions) {
        self.advance(now);
        match event {
            Event::Request(r) => self.submit(r, out),
            Event::DiskDone { tag, result, buf } => self.disk_done(tag, result, buf, out),
            Event::DiskDigest { tag, buf, digest } => self.disk_digest(tag, buf, digest, out),
            Event::MetaDone { tag, result } => {
                if let Some((kind, slot, generation)) = unpack(tag) {
                    self.meta_done(kind, slot, generation, result.is_ok(), out);
                }
            }
            Event::Connected { attempt, sock } => self.connected(attempt, sock, out),
            Event::ConnectFailed { attempt } => self.connect_failed(attempt),
            Event::Accepted { sock } => self.accepted(sock, out),
            Event::SocketDown { sock, .. } => self.socket_down(sock, out),
            Event::Frame { sock, header, body, payload } => self.receive(sock, &header, body, payload, out),
            Event::BadFrame { sock, error } => self.bad_frame(sock, &error, out),
            Event::Sent { sock, total_bytes } => self.bytes_sent(sock, total_bytes, out),
            Event::HandlerDone { run, exit_code } => self.handler_done(run, exit_code, out),
            Event::DiskMeasured { vol, attach, disk } => self.disk_measured(vol, attach, disk, out),
            Event::Deadline => self.run_timers(out),
        }
    }

    /// Takes an administrator's command; `Action::CommandDone` answers, now or later.
    pub fn command(&mut self, now: Instant, id: CommandId, command: Command, out: &mut Actions) {
        self.advance(now);
        self.take_command(id, command, out);
    }

    /// To be called after a batch of events, before the actions are drained: starts what the batch made possible.
    pub fn end_batch(&mut self, now: Instant, out: &mut Actions) {
        self.advance(now);
        // Each round may free what another volume or request waits for, and takes a command on all volumes one further; what
        // is left then waits for an event.
        for _ in 0..8 + self.vols.len() {
            let mut again = self.answer_goodbye_if_due(out);
            if core::mem::take(&mut self.peer_pump) {
                self.pump_peer_al(out);
                self.pump_peer_writes(out);
                self.pump_peer_reads(out);
                again = true;
            }
            let all = core::mem::take(&mut self.pump_all);
            for v in 0..self.vols.len() {
                self.release_held(v, out);
                if core::mem::take(&mut self.vols[v].pump) || all {
                    self.pump_waiting_al(v, out);
                    self.pump_waiting(v, out);
                    self.pump_resync_reads(v, out);
                    if self.vols[v].resync.wanted.is_some() {
                        self.request_blocks(v, out);
                    }
                    self.pump_verify(v, out);
                    again = true;
                }
                self.pump_activity_log(v, out);
            }
            if core::mem::take(&mut self.something_changed) {
                self.state_changes += 1;
                self.drive_resizes(out);
                self.drive_commands(out);
                again = true;
            }
            if !again {
                break;
            }
        }
        self.give_way_to_congestion(out);
        self.answer_suspensions(out);
        self.reconnect_if_clean(out);
        self.arm_md_sync();
        self.arm_disk_timeout();
    }

    /// When to call [`Resource::handle`] with [`Event::Deadline`].
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How the next header on a socket looks; None: keep its bytes for now.
    pub fn framing(&self, sock: SockId) -> Option<Framing> {
        let initial = Framing {
            form: HeaderForm::H80,
            sock: Some(Sock::Data),
            features: Features::NONE,
            integrity: None,
        };
        if self.conn.newcomers.contains(&sock) {
            return Some(Framing { sock: None, ..initial });
        }
        let which = self.conn.role_of(sock)?;
        let hundred = Framing {
            form: HeaderForm::H100,
            sock: Some(which),
            features: self.conn.features,
            integrity: self.conn.integrity_in,
        };
        match (self.conn.phase, which) {
            (Phase::Features, Sock::Data) => Some(initial),
            (Phase::Challenge | Phase::Response, Sock::Data) => Some(hundred),
            // What comes behind the announcement of a new size may be meant for the new part.
            (Phase::Established, Sock::Data) if self.vols.iter().any(|v| v.resizing.is_some()) => None,
            (Phase::Established, Sock::Data) if self.waits_before_target() || self.buffers_are_full() => None,
            (Phase::Established, _) => Some(hundred),
            _ => None,
        }
    }

    /// Tells whether a client has a volume open; a Secondary must not be.
    pub fn set_open(&mut self, vol: VolIdx, open: bool) {
        let bit = 1u64 << vol.0;
        self.open_volumes = if open { self.open_volumes | bit } else { self.open_volumes & !bit };
    }

    /// Number of state changes so far: publish a new snapshot when it moved.
    pub fn state_changes(&self) -> u64 {
        self.state_changes
    }

    /// Requests, disk operations or received writes are under way.
    pub fn is_busy(&self) -> bool {
        let resizes = self.vols.iter().any(|v| v.resizing.is_some() || v.growth_announced);
        resizes || !self.reqs.table.is_empty() || !self.peer.writes.is_empty() || !self.reqs.epochs.is_empty()
    }

    fn advance(&mut self, now: Instant) {
        debug_assert!(now >= self.now, "time does not run backwards");
        self.now = self.now.max(now);
    }

    pub(crate) fn net(&self) -> &NetConfig {
        self.conn.net.as_ref().expect("only called with a network configuration")
    }

    pub(crate) fn log_conn(&self, level: LogLevel, text: impl Display, out: &mut Actions) {
        out.log(level, None, text);
    }

    /// An application write ended: what overlapped it may start.
    pub(crate) fn after_active_ended(&mut self, v: usize) {
        self.vols[v].pump = true;
    }

    /// Writes became known to be on the peer's disk: resync reads that waited for them may go on.
    pub(crate) fn resync_conflicts_changed(&mut self) {
        for vol in &mut self.vols {
            if vol.resync.active || vol.verify.active {
                vol.pump = true;
            }
        }
    }

    fn disk_done(&mut self, tag: IoTag, result: IoResult, buf: Option<model::ids::BufId>, out: &mut Actions) {
        let ok = result.is_ok();
        let Some((kind, slot, generation)) = unpack(tag) else {
            self.stale_events += 1;
            return;
        };
        let v = (slot >> 24) as usize;
        let low = slot & 0xff_ffff;
        match kind {
            IoKind::AppWrite if self.is_on_disk(slot, generation) => {
                self.local_write_done(slot, ok, out);
            }
            IoKind::AppRead if self.is_on_disk(slot, generation) => {
                self.local_read_done(slot, ok, buf, out);
                return;
            }
            IoKind::AppFlush if self.is_on_disk(slot, generation) => {
                self.local_flush_done(slot, ok, out);
            }
            IoKind::PeerWrite if self.peer.writes.is_live(slot, generation) => {
                self.peer_write_done(slot, ok, out);
            }
            IoKind::PeerRead if self.peer.reads.is_live(slot, generation) => {
                self.peer_read_done(slot, ok, buf, out);
                return;
            }
            IoKind::RsRead if v < self.vols.len() && self.vols[v].resync.reads.is_live(low, generation) => {
                self.resync_read_done(v, low, (buf.filter(|_| ok), None), out);
                return;
            }
            IoKind::RsDigest
                if v < self.vols.len() && self.vols[v].resync.requests.is_live(low, generation) =>
            {
                self.resync_digest_done(v, low, None, out);
            }
            IoKind::RsWrite
                if v < self.vols.len() && self.vols[v].resync.requests.is_live(low, generation) =>
            {
                self.resync_write_done(v, low, ok, out);
            }
            IoKind::OvRead if v < self.vols.len() && self.vols[v].verify.reads.is_live(low, generation) => {
                self.verify_read_done(v, low, None, out);
            }
            IoKind::OvOwnRead
                if v < self.vols.len() && self.vols[v].verify.requests.is_live(low, generation) =>
            {
                self.verify_own_read_done(v, low, None, out);
            }
            IoKind::EpochFlush | IoKind::RsFlush | IoKind::BitmapFlush => {
                let (v, data_epoch) = flush_target(slot);
                let disk = self.vols.get(v).and_then(|vol| vol.disk.as_ref());
                match kind {
                    _ if disk.is_none_or(|d| d.data_epoch != data_epoch) => self.stale_events += 1,
                    IoKind::EpochFlush => self.epoch_flush_done(v, generation, ok, out),
                    IoKind::RsFlush => self.resync_flush_done(v, generation, ok, out),
                    _ => self.bitmap_flush_done(v, ok, out),
                }
            }
            _ => self.stale_events += 1,
        }
        if let Some(buf) = buf {
            out.push(crate::action::Action::Release { buf });
        }
    }

    fn disk_digest(&mut self, tag: IoTag, buf: model::ids::BufId, digest: &[u8], out: &mut Actions) {
        let known = unpack(tag).zip(Digest::new(digest));
        let Some(((kind, slot, generation), digest)) = known else {
            self.stale_events += 1;
            out.push(crate::action::Action::Release { buf });
            return;
        };
        let (v, low) = ((slot >> 24) as usize, slot & 0xff_ffff);
        match kind {
            IoKind::RsRead if v < self.vols.len() && self.vols[v].resync.reads.is_live(low, generation) => {
                self.resync_read_done(v, low, (Some(buf), Some(digest)), out);
                return;
            }
            IoKind::RsDigest
                if v < self.vols.len() && self.vols[v].resync.requests.is_live(low, generation) =>
            {
                self.resync_digest_done(v, low, Some(digest), out);
            }
            IoKind::OvRead if v < self.vols.len() && self.vols[v].verify.reads.is_live(low, generation) => {
                self.verify_read_done(v, low, Some(digest), out);
            }
            IoKind::OvOwnRead
                if v < self.vols.len() && self.vols[v].verify.requests.is_live(low, generation) =>
            {
                self.verify_own_read_done(v, low, Some(digest), out);
            }
            _ => self.stale_events += 1,
        }
        out.push(crate::action::Action::Release { buf });
    }

    /// The key names a request that the disk still has.
    fn is_on_disk(&self, slot: u32, generation: u32) -> bool {
        self.reqs.table.is_live(slot, generation) && self.reqs.table[slot].has(flag::LOCAL_PENDING)
    }

    fn run_timers(&mut self, out: &mut Actions) {
        while let Some(t) = self.timers.expired(self.now) {
            match t {
                Timer::Connect => self.connect_timer(out),
                Timer::Settle => self.settled(out),
                Timer::Handshake => self.handshake_timer(out),
                Timer::Newcomer => self.newcomer_timer(out),
                Timer::PingIdle => self.ping_idle_timer(out),
                Timer::PingAck => self.ping_ack_timer(out),
                Timer::SendStallData => self.send_stalled(true, out),
                Timer::SendStallMeta => self.send_stalled(false, out),
                Timer::RequestAge => self.request_age_timer(out),
                Timer::ResyncStep => self.resync_step_timer(out),
                Timer::Barrier => self.send_closed_barrier(out),
                Timer::EpochFlush => self.epoch_flush_timer(out),
                Timer::MdSync => self.md_sync_timer(out),
                Timer::Progress => self.progress_timer(out),
                Timer::Command => self.drive_commands(out),
                Timer::DiskTimeout => self.disk_timeout_timer(out),
                Timer::GivenUp => self.given_up_timer(out),
                Timer::Throttle => self.pump_all = true,
                Timer::Resize => self.resize_timer(out),
                Timer::Ahead => self.ahead_timer(out),
                Timer::Goodbye => self.goodbye_timer(out),
                Timer::PeerWord => self.ask_for_peer_word(out),
            }
        }
    }

    fn md_sync_timer(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            self.md_sync(v, out);
        }
    }

    /// The role of the resource: that of its volumes, which change together.
    pub(crate) fn role(&self) -> Role {
        self.vols[0].state.role
    }

    /// No connection, and none wanted.
    pub(crate) fn is_standalone(&self) -> bool {
        self.conn.state == ConnState::StandAlone
    }

    /// Checks the invariants that span the parts; for the simulator and for tests.
    ///
    /// # Panics
    /// If one is violated.
    pub fn check_invariants(&self) {
        assert!(!self.effects_running && self.effects.is_empty(), "effects are run to the end");
        for slot in &self.reqs.log {
            let r = &self.reqs.table[*slot];
            assert!(r.has(crate::requests::flag::IN_LOG), "the log holds logged writes only");
        }
        let logged: u32 = self.reqs.epochs.iter().map(|e| e.writes - e.postponed).sum();
        assert_eq!(logged as usize, self.reqs.log.len(), "epochs count the writes of the log");
        let counted: u32 = self.peer.epochs.iter().map(|e| e.active).sum();
        let held = self.peer.writes.iter().filter(|(_, w)| !w.orphan).count();
        assert_eq!(counted as usize, held, "every received write is counted in its epoch");
        self.peer.check_invariants();
        let leaves = self.conn.state == ConnState::TearDown;
        assert!(leaves || self.conn.goodbye.is_none(), "a goodbye is answered in TearDown");
        for (v, vol) in self.vols.iter().enumerate() {
            let logged = self.reqs.log.iter().map(|slot| &self.reqs.table[*slot]);
            let mirrored: u64 = logged.filter(|r| r.vol as usize == v).map(|r| r.range().len_sectors()).sum();
            assert_eq!(mirrored, vol.mirrored_sectors, "mirrored sectors are those of the log");
            let flying: u64 = vol
                .resync
                .requests
                .iter()
                .filter(|(_, r)| !r.writing && !r.orphan)
                .map(|(_, r)| r.range.len_sectors())
                .sum();
            assert_eq!(flying, vol.resync.in_flight_sectors, "sectors in flight are those requested");
            let pages: u64 = vol.resync.requests.iter().map(|(_, r)| r.pages).sum();
            assert_eq!(pages, vol.resync.unwritten_pages, "buffers are those of blocks being written");
            vol.verify.check_invariants();
        }
    }

    /// Counts bitmaps and activity logs again, which takes time that grows with the device.
    ///
    /// # Panics
    /// If a total is wrong.
    pub fn check_totals(&self) {
        for vol in &self.vols {
            vol.bitmap.check_invariants();
            if let Some(d) = &vol.disk {
                d.al.check_invariants();
            }
        }
    }
}
