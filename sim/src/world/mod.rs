//! The event heap, the clock, disks and commands of two nodes; their network and what has to hold are beside it.

mod net;
mod oracle;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use model::ids::BufId;
use model::policy::OnIoError;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::time::{Duration, Instant};
use replicator::wire::parse_header;
use replicator::{
    Action, ClientOp, ClientRequest, ClientResult, ClientTag, Command, CommandId, CommandResult, DiskConfig,
    DownCause, Event, IoResult, IoTag, NetConfig, SockId, VolIdx,
};

use crate::hooks::{Blocked, DiskOp, Hooks};
use crate::node::{Faults, Node, place, volume_and_sector};
use crate::rng::Rng;
use crate::truth::Truth;

/// What a message on a socket carries: packet bytes and block data.
#[derive(Clone, Debug)]
struct Message {
    bytes: Vec<u8>,
    versions: Vec<u64>,
}

impl Message {
    fn len(&self) -> usize {
        self.bytes.len() + self.versions.len() * 512
    }
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
    /// On the way when the link was cut; the sender's kernel sends it again.
    held: Vec<Message>,
}

/// Something that happens later.
#[derive(Debug)]
enum Later {
    DiskRead { tag: IoTag, sector: u64, count: u64 },
    DiskWrite { tag: IoTag, sector: u64, versions: Vec<u64>, fua: bool },
    Flush { tag: IoTag, point: u64 },
    MetaWrite { tag: IoTag, sector: u64, block: Vec<u8>, fua: bool, flush: Option<u64> },
    Arrive { sock: SockId, message: Message },
    Down { sock: SockId },
    Sent { sock: SockId, total: u64 },
    Connect { attempt: u32 },
    Deadline,
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
    /// The link is cut: nothing arrives, nothing connects.
    pub cut: bool,
}

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
    pub truth: Truth,
    /// What a script does at exact points.
    pub hooks: Hooks,
    /// Answers not yet looked at, by node.
    pub answers: Vec<(usize, Answer)>,
    /// One line per event, if wanted.
    pub trace: Option<Vec<String>>,
    heap: BinaryHeap<Reverse<(u64, u64, usize, u32)>>,
    later: BTreeMap<u64, Later>,
    next_event: u64,
    ends: BTreeMap<SockId, End>,
    next_sock: u32,
    next_tag: u64,
    seed: u64,
    /// Open writes by tag: version, node.
    writes: BTreeMap<u64, (u64, usize)>,
    /// Open requests by tag: node, range, reading of the ledger's clock at issue, kind.
    open: BTreeMap<u64, (usize, SimOp, u64)>,
    /// Open commands: node, whether it is a promotion (and forced).
    commands: BTreeMap<u64, (usize, Promotion)>,
    next_version: u64,
    armed: [Option<u64>; 2],
    /// Primary, connected, without good data of its own.
    remote: [bool; 2],
    /// A node died while a full sync was being set up: marks may be left on equal copies, as with DRBD.
    pub full_sync_cut: bool,
    /// Primary when last looked at.
    primary: [bool; 2],
    /// Hash of everything that happened.
    pub trace_hash: u64,
    /// Reads that were compared with the ledger.
    pub reads_checked: u64,
    /// Steps made.
    pub steps: u64,
}

impl World {
    /// Two fresh nodes with disks of `sectors`, both processes down.
    pub fn new(seed: u64, sectors: u64, disk: DiskConfig) -> World {
        World {
            rng: Rng::new(seed),
            now: Instant(1_000_000_000),
            nodes: [Node::new(sectors, disk.clone()), Node::new(sectors, disk)],
            weather: Weather { disk_us: 100, net_us: 50, cut: false },
            truth: Truth::new(),
            hooks: Hooks::default(),
            answers: Vec::new(),
            // A scenario that fails shows its last lines with SIM_TRACE=1 in the environment.
            trace: std::env::var_os("SIM_TRACE").map(|_| Vec::new()),
            heap: BinaryHeap::new(),
            later: BTreeMap::new(),
            next_event: 0,
            ends: BTreeMap::new(),
            next_sock: 1,
            next_tag: 1,
            seed,
            writes: BTreeMap::new(),
            open: BTreeMap::new(),
            commands: BTreeMap::new(),
            next_version: 1,
            armed: [None; 2],
            remote: [false; 2],
            full_sync_cut: false,
            primary: [false; 2],
            trace_hash: 0xcbf2_9ce4_8422_2325,
            reads_checked: 0,
            steps: 0,
        }
    }

    fn note(&mut self, n: usize, text: impl FnOnce() -> String) {
        let at = self.now.0;
        if let Some(t) = self.trace.as_mut() {
            t.push(format!("{:>12.6} node{} {}", at as f64 / 1e9, n + 1, text()));
        }
    }

    /// Marks a part of the schedule in the trace.
    pub fn note_phase(&mut self, text: &str) {
        self.note(0, || format!("---- {text}"));
    }

    fn at(&mut self, n: usize, at: Instant, what: Later) {
        self.next_event += 1;
        let id = self.next_event;
        self.later.insert(id, what);
        self.heap.push(Reverse((at.0, id, n, self.nodes[n].incarnation)));
    }

    fn mix(&mut self, x: u64) {
        self.trace_hash = (self.trace_hash ^ x).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn disk_time(&mut self) -> Instant {
        let us = 1 + self.rng.below(self.weather.disk_us.max(1) * 2);
        self.now + Duration::from_micros(us)
    }

    fn net_time(&mut self) -> Instant {
        let us = 1 + self.rng.below(self.weather.net_us.max(1) * 2);
        self.now + Duration::from_micros(us)
    }

    /// Starts the process of a node and attaches its disk.
    pub fn start(&mut self, n: usize) {
        let seed = self.seed ^ (n as u64) << 32;
        self.nodes[n].start(seed);
        self.note(n, || "process starts".into());
        self.attach(n);
    }

    /// Loads the metadata and gives the disk to the core, if the core has closed it.
    pub fn attach(&mut self, n: usize) {
        if self.nodes[n].core.is_none() || self.nodes[n].attached {
            return;
        }
        self.nodes[n].attached = true;
        for v in 0..self.nodes[n].volumes {
            let disk = self.nodes[n].load(VolIdx(v));
            self.command(n, Command::Attach(VolIdx(v), Box::new(disk)));
        }
    }

    /// The process dies; with `power` the disk's cache goes too.
    pub fn crash(&mut self, n: usize, power: bool) {
        if self.nodes[n].core.is_none() {
            return;
        }
        self.note(n, || if power { "power fails".into() } else { "process is killed".into() });
        self.truth.separated();
        let setting_up =
            |s: VolumeState| matches!(s.conn, ConnState::StartingSyncS | ConnState::StartingSyncT);
        self.full_sync_cut |= (0..2).any(|m| self.volume(m).is_some_and(setting_up));
        let other_is_current = self.volume(1 - n).is_some_and(|s| s.disk == DiskState::UpToDate);
        self.nodes[n].stop();
        self.armed[n] = None;
        let mut dead: Vec<u64> = self
            .heap
            .iter()
            .filter(|Reverse((_, _, m, _))| *m == n)
            .map(|Reverse((_, id, ..))| *id)
            .collect();
        dead.sort_unstable();
        for id in dead {
            let rng = &mut self.rng;
            let disk = &mut self.nodes[n].disk;
            match self.later.remove(&id) {
                Some(Later::DiskWrite { sector, versions, .. }) => disk.torn_write(sector, &versions, rng),
                Some(Later::MetaWrite { sector, block, .. }) => disk.torn_md(sector, &block, rng),
                _ => {}
            }
        }
        let mine: Vec<u64> = self.writes.iter().filter(|(_, (_, m))| *m == n).map(|(t, _)| *t).collect();
        for tag in mine {
            let (version, _) = self.writes.remove(&tag).expect("listed");
            self.truth.ended(n, version, false, false);
        }
        if power {
            self.nodes[n].disk.power_loss(&mut self.rng);
            self.truth.power_lost(n, other_is_current);
        }
        self.nodes[n].incarnation += 1;
        let open: Vec<SockId> = self.ends.iter().filter(|(_, e)| e.node == n).map(|(s, _)| *s).collect();
        for s in open {
            self.close_end(s, !power);
        }
        self.open.retain(|_, (m, ..)| *m != n);
        self.commands.retain(|_, (m, _)| *m != n);
        self.answers.retain(|(m, _)| *m != n);
    }

    /// Holds every data operation of a node's disk, or lets them end.
    pub fn hold_disk(&mut self, n: usize, held: bool) {
        self.note(n, || format!("disk held: {held}"));
        self.hooks.disk_held[n] = held;
        if !held {
            for (id, m, incarnation) in std::mem::take(&mut self.hooks.parked) {
                self.heap.push(Reverse((self.now.0, id, m, incarnation)));
            }
        }
    }

    /// Holds back everything that happens on a node.
    pub fn freeze(&mut self, n: usize, d: Duration) {
        self.note(n, || format!("freezes for {} us", d.as_micros()));
        // Never shorter than before: what waits for the end of the first freeze must not be overtaken.
        self.nodes[n].frozen_until = self.nodes[n].frozen_until.max(self.now + d);
    }

    /// State of the volume of a node; None while it is down.
    pub fn volume(&self, n: usize) -> Option<VolumeState> {
        self.volume_of(n, 0)
    }

    /// State of any volume of a node; None while it is down.
    pub fn volume_of(&self, n: usize, v: u8) -> Option<VolumeState> {
        self.nodes[n].core.as_ref().map(|c| c.volume_state(VolIdx(v)))
    }

    /// Gives a command to a node.
    pub fn command(&mut self, n: usize, c: Command) -> CommandId {
        self.next_tag += 1;
        let id = CommandId(self.next_tag);
        self.note(n, || format!("command {c:?}").chars().take(100).collect());
        let now = self.now;
        let promotion = match &c {
            Command::Primary { force } => Promotion::Yes { forced: *force },
            Command::Attach(..) => Promotion::Attach,
            Command::Invalidate(_) => Promotion::Invalidate,
            _ => Promotion::No,
        };
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
            self.commands.insert(id.0, (n, promotion));
            core.command(now, id, c, &mut node.out);
        }
        self.settle(n);
        id
    }

    /// Network configuration with short timeouts.
    pub fn connect(&mut self, n: usize, net: &NetConfig) {
        self.command(n, Command::Connect(Box::new(net.clone())));
    }

    /// Issues a client request on a node; the tag names it in the answers.
    pub fn request(&mut self, n: usize, op: SimOp) -> ClientTag {
        if self.volume(n).is_some_and(|s| s.role == Role::Primary) {
            self.truth.owner = self.truth.home(n);
        }
        self.next_tag += 1;
        let tag = ClientTag(self.next_tag);
        let asked = op;
        if self.nodes[n].core.is_none() {
            return tag;
        }
        let (sector, count, op) = match op {
            SimOp::Write { sector, count, fua } => {
                let version = self.next_version;
                self.next_version += 1;
                self.truth.issued(n, version, version, sector, count, fua);
                self.writes.insert(tag.0, (version, n));
                let buf = self.nodes[n].alloc(vec![version; count as usize]);
                (sector, count, ClientOp::Write { buf, fua })
            }
            SimOp::Discard { sector, count } => {
                let version = self.next_version;
                self.next_version += 1;
                self.truth.issued(n, version, 0, sector, count, false);
                self.writes.insert(tag.0, (version, n));
                let zero = ClientOp::Zeroes { may_unmap: version % 4 == 1, fua: false };
                (sector, count, if version.is_multiple_of(2) { ClientOp::Discard } else { zero })
            }
            SimOp::Read { sector, count } => (sector, count, ClientOp::Read),
            SimOp::Flush => (0, 0, ClientOp::Flush),
        };
        let clock = self.truth.of(n).clock;
        self.open.insert(tag.0, (n, asked, clock));
        let (vol, sector) = volume_and_sector(sector);
        let r = ClientRequest { tag, vol, sector, len_bytes: (count * 512) as u32, op };
        self.note(n, || format!("request {} {op:?} sector {sector}+{count}", tag.0));
        let now = self.now;
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
            core.handle(now, Event::Request(r), &mut node.out);
        }
        self.settle(n);
        tag
    }

    /// Ends a batch of a node: carries out its actions and arms its deadline.
    fn settle(&mut self, n: usize) {
        for round in 0.. {
            assert!(round < 100, "a batch settles");
            let now = self.now;
            let node = &mut self.nodes[n];
            let Some(core) = node.core.as_mut() else { return };
            core.end_batch(now, &mut node.out);
            core.check_invariants();
            let out = std::mem::take(&mut node.out);
            for a in &out.list {
                self.carry_out(n, *a, &out);
            }
            let mut out = out;
            out.clear();
            self.nodes[n].out = out;
            if !self.parse(n) {
                break;
            }
        }
        if let Some(at) = self.nodes[n].core.as_ref().and_then(|c| c.deadline()) {
            let at = at.max(self.now);
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
            Action::DiskRead { tag, vol, sector, len_bytes } => {
                let sector = place(vol, sector);
                self.mix(tag.0);
                let at = self.disk_time();
                self.at(n, at, Later::DiskRead { tag, sector, count: u64::from(len_bytes / 512) });
            }
            Action::DiskWrite { tag, vol, sector, len_bytes, buf, fua } => {
                let sector = place(vol, sector);
                self.mix(tag.0 ^ sector);
                let versions = self.nodes[n].versions(buf, u64::from(len_bytes / 512));
                let at = self.disk_time();
                self.at(n, at, Later::DiskWrite { tag, sector, versions, fua });
            }
            Action::DiskZero { tag, vol, sector, len_bytes, fua, .. } => {
                let sector = place(vol, sector);
                let versions = vec![0; (len_bytes / 512) as usize];
                let at = self.disk_time();
                self.at(n, at, Later::DiskWrite { tag, sector, versions, fua });
            }
            Action::DiskFlush { tag, .. } => {
                let (at, point) = (self.disk_time(), self.nodes[n].disk.flush_point());
                self.at(n, at, Later::Flush { tag, point });
            }
            Action::MetaWrite { tag, vol, md_sector, block, flush_before, fua } => {
                let md_sector = place(vol, md_sector);
                let at = self.disk_time();
                let flush = flush_before.then(|| self.nodes[n].disk.flush_point());
                let block = out.span(block).to_vec();
                let sum = block.iter().fold(tag.0, |h, b| h.rotate_left(5) ^ u64::from(*b));
                self.mix(sum);
                self.at(n, at, Later::MetaWrite { tag, sector: md_sector, block, fua, flush });
            }
            Action::Send { sock, bytes, payload } => self.send(n, sock, out.span(bytes).to_vec(), payload),
            Action::Release { buf } => self.nodes[n].release(buf),
            Action::ClientDone { tag, result, buf } => self.client_done(n, tag, result, buf),
            Action::Listen => self.nodes[n].listening = true,
            Action::Unlisten => self.nodes[n].listening = false,
            Action::Connect { attempt, .. } => {
                let at = self.net_time();
                self.at(n, at, Later::Connect { attempt });
            }
            Action::CloseSocket { sock, flush } => {
                if !flush && self.rng.one_in(2) {
                    // A reset may overtake what the other side has not read.
                    let peer = self.ends.get(&sock).map(|e| e.peer);
                    self.later.retain(|_, l| !matches!(l, Later::Arrive { sock, .. } if Some(*sock) == peer));
                }
                self.close_end(sock, true);
            }
            Action::CommandDone { id, result } => {
                self.note(n, || format!("command {} ends: {result:?}", id.0));
                self.mix(id.0);
                let (m, promotion) = self.commands.remove(&id.0).expect("a command is answered once");
                assert_eq!(n, m, "by the node that was asked");
                self.command_done(n, promotion, result);
                self.answers.push((n, Answer::Command(id, result)));
            }
            Action::CloseDisk { vol } => self.nodes[n].attached &= vol != VolIdx(0),
            Action::ExportChanged { .. } => {}
            Action::Log { text, .. } => {
                let text = out.texts[text as usize].clone();
                self.note(n, || text);
            }
        }
    }

    /// Makes the next thing happen; false when nothing is left or the time is over.
    pub fn step(&mut self, until: Instant) -> bool {
        let Some(Reverse((at, id, n, incarnation))) = self.heap.pop() else { return false };
        if at > until.0 {
            self.heap.push(Reverse((at, id, n, incarnation)));
            self.now = until;
            return false;
        }
        self.now = Instant(at).max(self.now);
        self.steps += 1;
        let Some(what) = self.later.remove(&id) else { return true };
        let stale = self.nodes[n].incarnation != incarnation;
        if stale {
            return true;
        }
        let thaws = self.nodes[n].frozen_until;
        if thaws > self.now {
            self.later.insert(id, what);
            self.heap.push(Reverse((thaws.0, id, n, incarnation)));
            return true;
        }
        let data_op = matches!(what, Later::DiskRead { .. } | Later::DiskWrite { .. } | Later::Flush { .. });
        if data_op && self.hooks.disk_held[n] {
            self.later.insert(id, what);
            self.hooks.parked.push((id, n, incarnation));
            return true;
        }
        self.mix(self.now.0 << 1 | n as u64);
        self.happen(n, what);
        self.settle(n);
        true
    }

    fn happen(&mut self, n: usize, what: Later) {
        let now = self.now;
        macro_rules! core {
            ($event:expr) => {{
                let event = $event;
                let node = &mut self.nodes[n];
                if let Some(core) = node.core.as_mut() {
                    core.handle(now, event, &mut node.out);
                }
            }};
        }
        match what {
            Later::DiskRead { tag, sector, count } => {
                if self.fails(n, |f| f.reads) || self.hooks.is_bad(n, DiskOp::Read, sector, count) {
                    core!(Event::DiskDone { tag, result: EIO, buf: None });
                    return;
                }
                let versions = (sector..sector + count).map(|s| self.nodes[n].disk.read(s)).collect();
                let buf = Some(self.nodes[n].alloc(versions));
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf });
            }
            Later::DiskWrite { tag, sector, versions, fua } => {
                let count = versions.len() as u64;
                if self.fails(n, |f| f.writes) || self.hooks.is_bad(n, DiskOp::Write, sector, count) {
                    self.nodes[n].disk.torn_write(sector, &versions, &mut self.rng);
                    core!(Event::DiskDone { tag, result: EIO, buf: None });
                    return;
                }
                self.note(n, || {
                    let (v, len) = (versions.first().copied().unwrap_or(0), versions.len());
                    format!("disk holds {v} in sector {sector}+{len}{}", if fua { ", durable" } else { "" })
                });
                self.nodes[n].disk.write(sector, &versions, fua);
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Later::Flush { tag, point } => {
                if self.fails(n, |f| f.flushes) {
                    core!(Event::DiskDone { tag, result: EIO, buf: None });
                    return;
                }
                self.nodes[n].disk.flush(point);
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Later::MetaWrite { tag, sector, block, fua, flush } => {
                if self.fails(n, |f| f.metadata) || self.hooks.is_bad(n, DiskOp::Meta, sector, 8) {
                    self.nodes[n].disk.torn_md(sector, &block, &mut self.rng);
                    core!(Event::MetaDone { tag, result: EIO });
                    return;
                }
                if let Some(point) = flush {
                    self.nodes[n].disk.flush(point);
                }
                self.nodes[n].disk.write_md(sector, &block, fua);
                core!(Event::MetaDone { tag, result: IoResult::Ok });
            }
            Later::Arrive { sock, message } => {
                if let Some(e) = self.ends.get_mut(&sock) {
                    e.inbox.push_back(message);
                }
            }
            Later::Down { sock } => {
                if self.ends.remove(&sock).is_some() {
                    core!(Event::SocketDown { sock, cause: DownCause::Closed });
                }
            }
            Later::Sent { sock, total } => {
                if self.ends.contains_key(&sock) {
                    core!(Event::Sent { sock, total_bytes: total });
                }
            }
            Later::Connect { attempt } => self.try_connect(n, attempt),
            Later::Deadline => {
                if self.armed[n].is_some_and(|t| t <= now.0) {
                    self.armed[n] = None;
                }
                let due = self.nodes[n].core.as_ref().and_then(|c| c.deadline()).is_some_and(|at| at <= now);
                if due {
                    core!(Event::Deadline);
                }
            }
        }
    }

    fn fails(&mut self, n: usize, of: impl Fn(&Faults) -> u64) -> bool {
        let odds = of(&self.nodes[n].faults);
        let fails = odds > 0 && self.rng.one_in(odds);
        if fails && self.nodes[n].disk_config.on_io_error == OnIoError::PassOn {
            // The copy becomes Inconsistent, and whatever the peer has counts for more: the policy's word.
            self.truth.word[n] = true;
            self.truth.spoiled = true;
        }
        fails
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
                let s = core.snapshot(self.now);
                (s.volumes[0].state.conn, s.volumes[0].state.disk)
            }
            None => (ConnState::StandAlone, DiskState::Diskless),
        }
    }

    /// Both nodes Connected with UpToDate disks.
    pub fn in_sync(&self) -> bool {
        (0..2).all(|n| self.state(n) == (ConnState::Connected, DiskState::UpToDate))
    }

    /// Takes the answer to a request or command, if it came.
    pub fn take_answer(&mut self, wanted: impl Fn(&Answer) -> bool) -> Option<Answer> {
        let i = self.answers.iter().position(|(_, a)| wanted(a))?;
        Some(self.answers.remove(i).1)
    }

    /// Runs a command to its end.
    pub fn command_and_wait(&mut self, n: usize, c: Command) -> CommandResult {
        let id = self.command(n, c);
        let is_it = |a: &Answer| matches!(a, Answer::Command(i, _) if *i == id);
        let ended = self.run_until(Duration::from_secs(120), |w| w.answers.iter().any(|(_, a)| is_it(a)));
        assert!(ended, "a command ends");
        match self.take_answer(is_it) {
            Some(Answer::Command(_, r)) => r,
            _ => unreachable!("it is there"),
        }
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
            for line in &trace[trace.len().saturating_sub(300)..] {
                eprintln!("{line}");
            }
        }
    }
}

const EIO: IoResult = IoResult::Err(5);

/// What the oracle has to know of a command: whether it makes a node Primary, for one.
#[derive(Clone, Copy, Debug)]
enum Promotion {
    No,
    Yes { forced: bool },
    Attach,
    Invalidate,
}

/// A client request in simulator terms.
#[derive(Clone, Copy, Debug)]
pub enum SimOp {
    /// Write a new version over `count` sectors.
    Write {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
        /// Forced unit access.
        fua: bool,
    },
    /// Read.
    Read {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// Flush.
    Flush,
    /// Discard or zero a range.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
}
