//! Two nodes with clock, disks, clients and commands; what comes later, their network, their lives and what has to
//! hold are beside it.

mod asked;
mod events;
mod handlers;
mod life;
mod net;
mod oracle;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use model::ids::BufId;
use model::policy::OnIoError;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::time::{Duration, Instant};
use replicator::meta::layout::MetaKind;
use replicator::wire::parse_header;
use replicator::{
    Action, Actions, ClientOp, ClientRequest, ClientResult, ClientTag, Closing, Command, CommandId,
    CommandResult, DigestAlg, DiskConfig, DownCause, Event, HandlerRun, IoResult, IoTag, NetConfig, SockId,
    VolIdx,
};

use crate::disk::Disk;
use crate::hooks::{Blocked, DiskOp, Hooks, Running};
use crate::node::{Node, Versions, digest_of, place, volume_and_sector};
use crate::ordered::Ordered;
use crate::rng::Rng;
use crate::tally::Tally;
use crate::truth::Truths;

use asked::Promotion;
pub use asked::SimOp;
pub(crate) use events::Key;
use events::{Agenda, Later};

/// What a message on a socket carries: packet bytes and block data.
#[derive(Clone, Debug)]
struct Message {
    bytes: Vec<u8>,
    versions: Option<Versions>,
    /// Of these bytes so many were never sent.
    foreign: usize,
}

/// One end of a TCP connection.
#[derive(Debug)]
struct End {
    node: usize,
    peer: SockId,
    /// Arrived, not parsed yet.
    inbox: VecDeque<Message>,
    sent_total: u64,
    last_arrival: Instant,
    last_sent: Instant,
    /// What is on the way to here has passed a slow link by then.
    line_free: Instant,
    /// On the way when the link was cut; the sender's kernel sends it again.
    held: Vec<Message>,
    /// Written by the batch that is being carried out.
    outbox: Vec<Message>,
    /// The stream has ended in the middle of a packet: nothing more is sent.
    severed: bool,
    /// Closed by the core, and left open until the peer closes.
    lingers: bool,
}

impl Message {
    /// Sectors of block data.
    fn sectors(&self) -> usize {
        self.versions.as_ref().map_or(0, |v| v.len())
    }

    /// Block data ends behind the first `count` sectors.
    fn keep_sectors(&mut self, count: usize) {
        self.versions = self.versions.as_ref().map(|v| v[..count].into());
    }

    fn len(&self) -> usize {
        self.bytes.len() + self.sectors() * 512
    }
}

impl End {
    /// Takes what the batch has written; it counts as sent. `list` is what the next batch writes to.
    fn hand_over(&mut self, list: Vec<Message>) -> Vec<Message> {
        self.sent_total += self.outbox.iter().map(|m| (m.len() - m.foreign) as u64).sum::<u64>();
        std::mem::replace(&mut self.outbox, list)
    }
}

/// Memory of packets that have arrived, for those to come.
#[derive(Debug, Default)]
struct Spare {
    bytes: Vec<Vec<u8>>,
    lists: Vec<Vec<Message>>,
}

impl Spare {
    /// Most pieces of each kind that are kept.
    const MAX: usize = 64;

    fn bytes(&mut self) -> Vec<u8> {
        self.bytes.pop().unwrap_or_default()
    }

    fn list(&mut self) -> Vec<Message> {
        self.lists.pop().unwrap_or_default()
    }

    fn keep_bytes(&mut self, mut bytes: Vec<u8>) {
        if self.bytes.len() < Spare::MAX {
            bytes.clear();
            self.bytes.push(bytes);
        }
    }

    fn keep_list(&mut self, mut list: Vec<Message>) {
        if self.lists.len() < Spare::MAX {
            list.clear();
            self.lists.push(list);
        }
    }
}

/// An answer a client or an operator waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A client request ended; versions of a read.
    Client(ClientTag, ClientResult, Vec<u64>),
    /// A command ended.
    Command(CommandId, CommandResult),
}

/// Faults that may be switched on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Mean disk latency in microseconds.
    pub disk_us: u64,
    /// Mean network latency in microseconds.
    pub net_us: u64,
    /// What a link carries on each socket, each way; 0: anything at once.
    pub link_bytes_per_s: u64,
    /// The link is cut: nothing arrives, nothing connects.
    pub cut: bool,
    /// What the data socket and the meta socket send takes so many times as long on its way; 0: as long as anything.
    pub lag: [u64; 2],
    /// One disk operation in so many takes up to a thousand times as long; 0: none.
    pub disk_spikes: u64,
}

/// Steps between two checks of what spans the parts of a core.
const CHECK_STEPS: u64 = 8;
/// Steps between two checks of all totals of a core, which cost as much as the device is large.
const DEEP_CHECK_STEPS: u64 = 512;

/// Two nodes, their network, and what their clients saw.
pub struct World {
    /// Random numbers of the run.
    pub rng: Rng,
    /// Virtual time.
    pub now: Instant,
    /// The nodes.
    pub nodes: [Node; 2],
    /// Present conditions.
    pub weather: Weather,
    /// What clients saw.
    pub truth: Truths,
    /// What a script does at exact points.
    pub hooks: Hooks,
    /// Answers not yet looked at, by node.
    pub answers: Vec<(usize, Answer)>,
    /// One line per event, if wanted.
    pub trace: Option<Vec<String>>,
    agenda: Agenda,
    spare: Spare,
    /// Block data on its way from a disk into a buffer.
    scratch: Vec<u64>,
    ends: Ordered<SockId, End>,
    next_sock: u32,
    next_tag: u64,
    seed: u64,
    /// Open writes by tag: version, node, first sector.
    writes: Ordered<u64, (u64, usize, u64)>,
    /// Open requests by tag: node, range, reading of the ledger's clock at issue, kind.
    open: Ordered<u64, (usize, SimOp, u64)>,
    /// Open commands: node, whether it is a promotion (and forced).
    commands: Ordered<u64, (usize, Promotion)>,
    next_version: u64,
    armed: [Option<u64>; 2],
    /// Both nodes may be Primary.
    pub two_primaries: bool,
    /// Nodes go on alone only after the peer was fenced, as long as no operator says otherwise.
    pub one_writer: bool,
    /// I/O is frozen until the peer is fenced, as seen after the last batch.
    fence_frozen: [bool; 2],
    /// Handlers that a resync waits for and that have not ended, by volume and node.
    before_resync: Vec<[Option<HandlerRun>; 2]>,
    /// Peers that scripts are outdating.
    fencing: Vec<handlers::Outdating>,
    /// Primary, connected, without good data of its own; by volume and node.
    remote: Vec<[bool; 2]>,
    /// A node died, or lost the other one, while a full sync was being set up: marks may be left on equal copies, as with DRBD.
    pub full_sync_cut: bool,
    /// Primary when last looked at, by volume and node.
    primary: Vec<[bool; 2]>,
    /// Sync target when last looked at, by volume and node.
    syncing: Vec<[bool; 2]>,
    /// Ahead when last looked at, by volume and node.
    ahead: Vec<[bool; 2]>,
    /// A node that dies when so many more of its actions are carried out, and whether its power fails.
    fuse: Option<life::Fuse>,
    /// What happened, by kind.
    pub tally: Tally,
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Reads that were compared with the ledger.
    pub reads_checked: u64,
    /// What the states were when they were last looked at.
    looked_at: Vec<oracle::Looked>,
    /// Steps made.
    pub steps: u64,
    /// Acts of the schedule begun.
    pub acts: u64,
}

impl World {
    /// Two fresh nodes with disks of `sectors`, both processes down.
    pub fn new(seed: u64, sectors: u64, disk: DiskConfig) -> World {
        World::with_volumes(seed, sectors, [disk.clone(), disk], 1)
    }

    /// The same with several volumes of that size each, and disk options by node.
    pub fn with_volumes(seed: u64, sectors: u64, disks: [DiskConfig; 2], volumes: u8) -> World {
        let nodes = disks.map(|d| Node::with_volumes(sectors, d, volumes));
        World::made_of(nodes, Agenda::default(), seed, volumes)
    }

    /// A new world in the memory of this one.
    pub fn again(mut self, seed: u64, sectors: u64, disks: [DiskConfig; 2], volumes: u8) -> World {
        let none = || Node::made_of(Disk::new(0), Actions::default(), DiskConfig::default(), 0);
        let old = std::mem::replace(&mut self.nodes, [none(), none()]);
        let mut disks = disks.into_iter();
        let nodes = old.map(|n| n.again(sectors, disks.next().expect("two nodes"), volumes));
        let mut agenda = std::mem::take(&mut self.agenda);
        agenda.clear();
        let mut w = World::made_of(nodes, agenda, seed, volumes);
        macro_rules! keep {
            ($($part:ident)+) => {
                $(
                    self.$part.clear();
                    std::mem::swap(&mut w.$part, &mut self.$part);
                )+
            };
        }
        keep!(scratch ends writes open commands answers);
        std::mem::swap(&mut w.spare, &mut self.spare);
        w
    }

    fn made_of(nodes: [Node; 2], agenda: Agenda, seed: u64, volumes: u8) -> World {
        World {
            rng: Rng::new(seed),
            now: Instant(1_000_000_000),
            nodes,
            weather: Weather { disk_us: 100, net_us: 50, ..Weather::default() },
            truth: Truths::new(volumes),
            hooks: Hooks::default(),
            answers: Vec::new(),
            // A scenario that fails shows its last lines with SIM_TRACE=1 in the environment.
            trace: std::env::var_os("SIM_TRACE").map(|_| Vec::new()),
            agenda,
            spare: Spare::default(),
            scratch: Vec::new(),
            ends: Ordered::default(),
            next_sock: 1,
            next_tag: 1,
            seed,
            writes: Ordered::default(),
            open: Ordered::default(),
            commands: Ordered::default(),
            two_primaries: false,
            one_writer: false,
            fence_frozen: [false; 2],
            before_resync: vec![[None; 2]; volumes.into()],
            fencing: Vec::new(),
            next_version: 1,
            armed: [None; 2],
            remote: vec![[false; 2]; volumes.into()],
            full_sync_cut: false,
            primary: vec![[false; 2]; volumes.into()],
            syncing: vec![[false; 2]; volumes.into()],
            ahead: vec![[false; 2]; volumes.into()],
            fuse: None,
            tally: Tally::default(),
            trace_hash: 0xcbf2_9ce4_8422_2325,
            reads_checked: 0,
            looked_at: Vec::new(),
            steps: 0,
            acts: 0,
        }
    }

    fn note(&mut self, n: usize, text: impl FnOnce() -> String) {
        let at = self.now.0;
        if let Some(t) = self.trace.as_mut() {
            t.push(format!("{:>12.6} node{} {}", at as f64 / 1e9, n + 1, text()));
        }
    }

    /// Marks a part of the schedule in the trace.
    pub fn note_phase(&mut self, text: impl FnOnce() -> String) {
        self.note(0, || format!("---- {}", text()));
    }

    fn mix(&mut self, x: u64) {
        self.trace_hash = (self.trace_hash ^ x).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn disk_time(&mut self) -> Instant {
        let mut us = 1 + self.rng.below(self.weather.disk_us.max(1) * 2);
        if self.weather.disk_spikes > 0 && self.rng.one_in(self.weather.disk_spikes) {
            self.tally.latency_spikes += 1;
            us *= 1 + self.rng.below(1000);
        }
        self.now + Duration::from_micros(us)
    }

    fn net_time(&mut self) -> Instant {
        let us = 1 + self.rng.below(self.weather.net_us.max(1) * 2);
        self.now + Duration::from_micros(us)
    }

    /// Holds every data operation of a node's disk, or lets them end.
    pub fn hold_disk(&mut self, n: usize, held: bool) {
        self.note(n, || format!("disk held: {held}"));
        self.hooks.disk_held[n] = held;
        if !held {
            self.unpark(false);
        }
    }

    /// Slow disks become fast again. What they had not done ends now: in the order begun, or the newest first.
    pub fn let_go(&mut self, newest_first: bool) {
        self.note(0, || format!("slow disks go on, newest first: {newest_first}"));
        self.hooks.hurry_disks();
        self.unpark(newest_first);
    }

    fn unpark(&mut self, newest_first: bool) {
        let mut list = std::mem::take(&mut self.hooks.parked);
        list.sort_unstable_by_key(|k| k.age);
        if newest_first {
            list.reverse();
        }
        for (i, key) in list.into_iter().enumerate() {
            self.agenda.put_back(Key { at: self.now.0 + i as u64, ..key });
        }
    }

    /// What the clock of a node shows.
    pub fn clock(&self, n: usize) -> Instant {
        self.now + self.nodes[n].clock_ahead
    }

    /// The clock of a node jumps ahead, as that of a machine that was asleep.
    pub fn clock_jumps(&mut self, n: usize, by: Duration) {
        self.note(n, || format!("clock jumps by {} us", by.as_micros()));
        self.nodes[n].clock_ahead += by;
        self.tally.clock_jumps += 1;
        self.settle(n);
    }

    /// Holds back everything that happens on a node.
    pub fn freeze(&mut self, n: usize, d: Duration) {
        self.note(n, || format!("freezes for {} us", d.as_micros()));
        self.tally.freezes += 1;
        // Never shorter than before: what waits for the end of the first freeze must not be overtaken.
        self.nodes[n].frozen_until = self.nodes[n].frozen_until.max(self.now + d);
    }

    /// State of the volume of a node; None while it is down.
    pub fn volume(&self, n: usize) -> Option<VolumeState> {
        self.volume_of(n, 0)
    }

    /// State of any volume of a node; None while it is down, and if it has no such volume.
    pub fn volume_of(&self, n: usize, v: u8) -> Option<VolumeState> {
        let has_it = v < self.nodes[n].volumes;
        self.nodes[n].core.as_ref().filter(|_| has_it).map(|c| c.volume_state(VolIdx(v)))
    }

    /// Ends a batch of a node: carries out its actions and arms its deadline.
    fn settle(&mut self, n: usize) {
        for round in 0.. {
            assert!(round < 10_000, "a batch settles");
            let now = self.clock(n);
            let node = &mut self.nodes[n];
            let Some(core) = node.core.as_mut() else { return };
            core.end_batch(now, &mut node.out);
            if self.steps.is_multiple_of(CHECK_STEPS) {
                core.check_invariants();
            }
            if self.steps.is_multiple_of(DEEP_CHECK_STEPS) {
                core.check_totals();
            }
            let out = std::mem::take(&mut node.out);
            for a in &out.list {
                if self.burns_down(n, false) {
                    return;
                }
                self.carry_out(n, *a, &out);
            }
            let mut out = out;
            out.clear();
            out.mute = self.trace.is_none();
            self.nodes[n].out = out;
            self.flush_sockets(n);
            if !self.parse_some(n) {
                break;
            }
        }
        if let Some(at) = self.nodes[n].core.as_ref().and_then(|c| c.deadline()) {
            let at = self.now + at.saturating_since(self.clock(n));
            if self.armed[n].is_none_or(|t| t > at.0) {
                self.armed[n] = Some(at.0);
                self.at(n, at, Later::Deadline);
            }
        }
        self.check_states();
    }

    fn carry_out(&mut self, n: usize, a: Action, out: &replicator::Actions) {
        self.mix(self.now.0 << 1 | n as u64);
        match a {
            Action::DiskRead { tag, vol, sector, len_bytes, digest } => {
                self.nodes[n].disk_op_begins(vol);
                let sector = place(vol, sector);
                self.mix(tag.0);
                let at = self.disk_time();
                self.at(n, at, Later::DiskRead { tag, sector, count: u64::from(len_bytes / 512), digest });
            }
            Action::DiskWrite { tag, vol, sector, len_bytes, buf, fua } => {
                self.nodes[n].disk_op_begins(vol);
                let sector = place(vol, sector);
                self.mix(tag.0 ^ sector);
                let versions = self.nodes[n].versions(buf, u64::from(len_bytes / 512));
                let at = self.disk_time();
                self.at(n, at, Later::DiskWrite { tag, sector, versions, fua });
            }
            Action::DiskZero { tag, vol, sector, len_bytes, fua, .. } => {
                self.nodes[n].disk_op_begins(vol);
                let sector = place(vol, sector);
                let versions = std::iter::repeat_n(0, (len_bytes / 512) as usize).collect();
                let at = self.disk_time();
                self.at(n, at, Later::DiskWrite { tag, sector, versions, fua });
            }
            Action::DiskFlush { tag, vol } => {
                self.nodes[n].disk_op_begins(vol);
                let (at, point) = (self.disk_time(), self.nodes[n].disk.flush_point());
                self.at(n, at, Later::Flush { tag, vol, point });
            }
            Action::MetaWrite { tag, vol, md_sector, block, flush_before, fua } => {
                let layout = &self.nodes[n].layout;
                let end = md_sector + u64::from(block.len / 512);
                let is_inside = layout.kind() == MetaKind::Internal || end <= layout.last_sector() + 1;
                assert!(is_inside, "a metadata write ends where the metadata device does");
                self.nodes[n].disk_op_begins(vol);
                let md_sector = place(vol, md_sector);
                let at = self.disk_time();
                let flush = flush_before.then(|| self.nodes[n].disk.flush_point());
                let block = out.span(block).to_vec();
                self.mix(tag.0 ^ fingerprint(&block));
                self.at(n, at, Later::MetaWrite { tag, sector: md_sector, block, fua, flush });
            }
            Action::MeasureDisk { vol, attach } => {
                let at = self.disk_time();
                self.at(n, at, Later::Measured { vol, attach });
            }
            Action::Send { sock, bytes, payload, digest } => {
                self.send(n, sock, out.span(bytes), (payload, digest));
            }
            Action::Release { buf } => self.nodes[n].release(buf),
            Action::ClientDone { tag, result, buf } => self.client_done(n, tag, result, buf),
            Action::Listen => self.nodes[n].listening = true,
            Action::Unlisten => self.nodes[n].listening = false,
            Action::Connect { attempt, .. } => {
                let at = self.net_time();
                self.at(n, at, Later::Connect { attempt });
            }
            Action::CloseSocket { sock, closing: Closing::AfterPeer } => self.linger(n, sock),
            Action::CloseSocket { sock, closing } => {
                self.flush_socket(sock);
                if closing == Closing::AtOnce && self.rng.one_in(2) {
                    // A reset may overtake what the other side has not read.
                    let peer = self.ends.get(&sock).map(|e| e.peer);
                    self.agenda.take_all(|l| matches!(l, Later::Arrive { sock, .. } if Some(*sock) == peer));
                }
                self.close_end(sock, true);
            }
            Action::CommandDone { id, result } => {
                self.note(n, || format!("command {} ends: {result:?}", id.0));
                self.mix(id.0);
                let (m, promotion) = self.commands.remove(&id.0).expect("a command is answered once");
                assert_eq!(n, m, "by the node that was asked");
                self.command_done(n, promotion, result);
                self.outdated_by_handler(id, result);
                self.answers.push((n, Answer::Command(id, result)));
            }
            Action::CloseDisk { vol } => self.nodes[n].close_disk(vol),
            Action::ExportChanged { .. } => {}
            Action::RunHandler { run, handler, vol } => self.run_handler(n, run, handler, vol),
            Action::Log { text, .. } => {
                self.note(n, || out.texts[text as usize].clone());
            }
        }
    }

    /// Runs for a length of virtual time.
    pub fn run_for(&mut self, d: Duration) {
        let until = self.now + d;
        while self.step(until) {}
        self.now = self.now.max(until);
    }

    /// Runs until the condition holds; false if it does not within the time.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let until = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(until) {
                return done(self);
            }
        }
    }

    /// Connection and own disk of a node's volume; StandAlone and Diskless while it is down.
    pub fn state(&self, n: usize) -> (ConnState, DiskState) {
        match &self.nodes[n].core {
            Some(core) => {
                let s = core.volume_state(VolIdx(0));
                (s.conn, s.disk)
            }
            None => (ConnState::StandAlone, DiskState::Diskless),
        }
    }

    /// Both nodes Connected with UpToDate disks, on every volume.
    pub fn in_sync(&self) -> bool {
        (0..self.truth.volumes())
            .all(|v| (0..2).all(|n| self.volume_of(n, v).is_some_and(|s| is_current(&s))))
    }

    /// Nothing is under way on either node.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
            && self.commands.is_empty()
            && self.nodes.iter().all(|n| n.core.as_ref().is_none_or(|c| !c.is_busy()) && n.buffers.is_empty())
    }

    /// What is under way, for messages.
    pub fn under_way(&self) -> String {
        let buffers = [0, 1].map(|n: usize| self.nodes[n].buffers.len());
        let busy = [0, 1].map(|n: usize| self.nodes[n].core.as_ref().is_some_and(|c| c.is_busy()));
        format!("requests {:?}, commands {:?}, buffers {buffers:?}, busy {busy:?}", self.open, self.commands)
    }
}

/// A run that fails shows what happened last.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(trace) = &self.trace
        {
            for line in &trace[trace.len().saturating_sub(3000)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// Tells blocks of bytes apart.
fn fingerprint(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let step = |h: u64, x: u64| (h.rotate_left(5) ^ x).wrapping_mul(0x517c_c1b7_2722_0a95);
    // A metadata block is told apart by a part of its words.
    let every = if words.len() > 64 { 7 } else { 1 };
    let sum = words.iter().step_by(every).fold(bytes.len() as u64, |h, w| step(h, u64::from_le_bytes(*w)));
    rest.iter().fold(sum, |h, b| step(h, u64::from(*b)))
}

/// A full sync has been asked for, and its bits are on their way to the disk.
fn is_setting_up(s: &VolumeState) -> bool {
    matches!(s.conn, ConnState::StartingSyncS | ConnState::StartingSyncT)
}

/// Connected, and the own copy is good.
fn is_current(s: &VolumeState) -> bool {
    s.conn == ConnState::Connected && s.disk == DiskState::UpToDate
}
