//! The event heap, the clock and the network between two nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use model::ids::BufId;
use model::state::{ConnState, DiskState};
use model::time::{Duration, Instant};
use replicator::wire::parse_header;
use replicator::{
    Action, ClientOp, ClientRequest, ClientResult, ClientTag, Command, CommandId, CommandResult, DiskConfig,
    DownCause, Event, IoResult, IoTag, NetConfig, SockId, VolIdx,
};

use crate::ledger::Ledger;
use crate::node::Node;
use crate::rng::Rng;

/// What a message on a socket carries: packet bytes and block data.
#[derive(Clone, Debug)]
struct Message {
    bytes: Vec<u8>,
    versions: Vec<u64>,
}

/// One end of a TCP connection.
#[derive(Debug)]
struct End {
    node: usize,
    peer: SockId,
    /// Arrived, not parsed yet.
    inbox: VecDeque<Message>,
    sent_total: u64,
    closed: bool,
    last_arrival: Instant,
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
    pub ledger: Ledger,
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
    next_version: u64,
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
            ledger: Ledger::default(),
            answers: Vec::new(),
            trace: None,
            heap: BinaryHeap::new(),
            later: BTreeMap::new(),
            next_event: 0,
            ends: BTreeMap::new(),
            next_sock: 1,
            next_tag: 1,
            seed,
            writes: BTreeMap::new(),
            next_version: 1,
            steps: 0,
        }
    }

    fn note(&mut self, n: usize, text: impl FnOnce() -> String) {
        let at = self.now.0;
        if let Some(t) = self.trace.as_mut() {
            t.push(format!("{:>12.6} node{} {}", at as f64 / 1e9, n + 1, text()));
        }
    }

    fn at(&mut self, n: usize, at: Instant, what: Later) {
        self.next_event += 1;
        let id = self.next_event;
        self.later.insert(id, what);
        self.heap.push(Reverse((at.0, id, n, self.nodes[n].incarnation)));
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
        let disk = self.nodes[n].load();
        self.command(n, Command::Attach(VolIdx(0), Box::new(disk)));
    }

    /// The process dies; with `power` the disk's cache goes too.
    pub fn crash(&mut self, n: usize, power: bool) {
        self.note(n, || if power { "power fails".into() } else { "process is killed".into() });
        self.nodes[n].stop();
        let dead: Vec<u64> = self
            .heap
            .iter()
            .filter(|Reverse((_, _, m, _))| *m == n)
            .map(|Reverse((_, id, ..))| *id)
            .collect();
        for id in dead {
            let rng = &mut self.rng;
            let disk = &mut self.nodes[n].disk;
            match self.later.remove(&id) {
                Some(Later::DiskWrite { sector, versions, .. }) => disk.torn_write(sector, &versions, rng),
                Some(Later::MetaWrite { sector, block, .. }) => disk.torn_md(sector, &block, rng),
                Some(keep @ (Later::Arrive { .. } | Later::Down { .. })) => {
                    self.later.insert(id, keep);
                }
                _ => {}
            }
        }
        if power {
            self.nodes[n].disk.power_loss(&mut self.rng);
        }
        self.nodes[n].incarnation += 1;
        let open: Vec<SockId> = self.ends.iter().filter(|(_, e)| e.node == n).map(|(s, _)| *s).collect();
        for s in open {
            self.close_end(s, !power);
        }
        self.writes.retain(|_, (_, m)| *m != n);
        self.ledger.forget_open();
        self.answers.retain(|(m, _)| *m != n);
    }

    /// Closes one end; the other hears of it unless the host is gone.
    fn close_end(&mut self, s: SockId, tell: bool) {
        let Some(end) = self.ends.remove(&s) else { return };
        let peer = end.peer;
        if tell
            && !self.weather.cut
            && let Some(other) = self.ends.get(&peer)
        {
            let (n, at) = (other.node, other.last_arrival.max(self.now) + Duration::from_micros(1));
            self.at(n, at, Later::Down { sock: peer });
        }
    }

    /// Cuts or heals the link. What is in flight is lost with the cut; both ends find out by themselves.
    pub fn cut(&mut self, cut: bool) {
        self.weather.cut = cut;
        self.note(0, || if cut { "link is cut".into() } else { "link heals".into() });
        if cut {
            self.later.retain(|_, l| !matches!(l, Later::Arrive { .. }));
        }
    }

    /// Gives a command to a node.
    pub fn command(&mut self, n: usize, c: Command) -> CommandId {
        self.next_tag += 1;
        let id = CommandId(self.next_tag);
        self.note(n, || format!("command {c:?}").chars().take(100).collect());
        let now = self.now;
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
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
        self.next_tag += 1;
        let tag = ClientTag(self.next_tag);
        let (sector, count, op) = match op {
            SimOp::Write { sector, count, fua } => {
                let version = self.next_version;
                self.next_version += 1;
                self.ledger.issued(version, sector, count);
                self.writes.insert(tag.0, (version, n));
                let buf = self.nodes[n].alloc(vec![version; count as usize]);
                (sector, count, ClientOp::Write { buf, fua })
            }
            SimOp::Read { sector, count } => (sector, count, ClientOp::Read),
            SimOp::Flush => (0, 0, ClientOp::Flush),
        };
        let r = ClientRequest { tag, vol: VolIdx(0), sector, len_bytes: (count * 512) as u32, op };
        self.note(n, || format!("request {op:?} sector {sector}+{count}"));
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
            self.at(n, at.max(self.now), Later::Deadline);
        }
    }

    fn carry_out(&mut self, n: usize, a: Action, out: &replicator::Actions) {
        match a {
            Action::DiskRead { tag, sector, len_bytes, .. } => {
                let at = self.disk_time();
                self.at(n, at, Later::DiskRead { tag, sector, count: u64::from(len_bytes / 512) });
            }
            Action::DiskWrite { tag, sector, len_bytes, buf, fua, .. } => {
                let versions = self.nodes[n].versions(buf, u64::from(len_bytes / 512));
                let at = self.disk_time();
                self.at(n, at, Later::DiskWrite { tag, sector, versions, fua });
            }
            Action::DiskZero { tag, sector, len_bytes, fua, .. } => {
                let versions = vec![0; (len_bytes / 512) as usize];
                let at = self.disk_time();
                self.at(n, at, Later::DiskWrite { tag, sector, versions, fua });
            }
            Action::DiskFlush { tag, .. } => {
                let (at, point) = (self.disk_time(), self.nodes[n].disk.flush_point());
                self.at(n, at, Later::Flush { tag, point });
            }
            Action::MetaWrite { tag, md_sector, block, flush_before, fua, .. } => {
                let at = self.disk_time();
                let flush = flush_before.then(|| self.nodes[n].disk.flush_point());
                let block = out.span(block).to_vec();
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
            Action::CloseSocket { sock, .. } => self.close_end(sock, true),
            Action::CommandDone { id, result } => {
                self.note(n, || format!("command {} ends: {result:?}", id.0));
                self.answers.push((n, Answer::Command(id, result)));
            }
            Action::CloseDisk { .. } | Action::ExportChanged { .. } => {}
            Action::Log { text, .. } => {
                let text = out.texts[text as usize].clone();
                self.note(n, || text);
            }
        }
    }

    fn client_done(&mut self, n: usize, tag: ClientTag, result: ClientResult, buf: Option<BufId>) {
        let mut versions = Vec::new();
        if let Some(buf) = buf {
            versions = self.nodes[n].buffers[&buf.0].versions.clone();
            self.nodes[n].release(buf);
        }
        if let Some((version, _)) = self.writes.remove(&tag.0)
            && result == ClientResult::Ok
        {
            self.ledger.acked(version);
            self.note(n, || format!("write of version {version} acknowledged"));
        }
        self.answers.push((n, Answer::Client(tag, result, versions)));
    }

    fn send(&mut self, n: usize, sock: SockId, bytes: Vec<u8>, payload: Option<(BufId, u32)>) {
        let versions =
            payload.map_or(Vec::new(), |(buf, len)| self.nodes[n].versions(buf, u64::from(len / 512)));
        let len = bytes.len() as u64 + versions.len() as u64 * 512;
        let sent_at = self.net_time();
        let Some(end) = self.ends.get_mut(&sock) else { return };
        assert_eq!(end.node, n, "a node sends on its own socket");
        end.sent_total += len;
        let (total, peer) = (end.sent_total, end.peer);
        if self.weather.cut {
            return;
        }
        self.at(n, sent_at, Later::Sent { sock, total });
        let arrives = self.net_time();
        if let Some(other) = self.ends.get_mut(&peer) {
            // One stream keeps its order.
            let at = arrives.max(other.last_arrival + Duration::from_nanos(1));
            other.last_arrival = at;
            let m = other.node;
            self.at(m, at, Later::Arrive { sock: peer, message: Message { bytes, versions } });
        }
    }

    /// Cuts packets out of what arrived; true if there was one.
    fn parse(&mut self, n: usize) -> bool {
        let socks: Vec<SockId> =
            self.ends.iter().filter(|(_, e)| e.node == n && !e.inbox.is_empty()).map(|(s, _)| *s).collect();
        for sock in socks {
            let Some(core) = self.nodes[n].core.as_ref() else { return false };
            let Some(framing) = core.framing(sock) else { continue };
            let Some(m) = self.ends.get_mut(&sock).and_then(|e| e.inbox.pop_front()) else { continue };
            let now = self.now;
            let header = match parse_header(framing.form, &m.bytes) {
                Ok(Some((h, used))) => (h, used),
                Ok(None) => panic!("a message holds a whole header"),
                Err(error) => {
                    let node = &mut self.nodes[n];
                    let core = node.core.as_mut().expect("checked");
                    core.handle(now, Event::BadFrame { sock, error }, &mut node.out);
                    return true;
                }
            };
            let (header, used) = header;
            self.note(n, || format!("<- {} vol {} len {}", header.command.name(), header.vnr, header.len));
            let payload = (!m.versions.is_empty()).then(|| self.nodes[n].alloc(m.versions.clone()));
            let node = &mut self.nodes[n];
            let core = node.core.as_mut().expect("checked");
            let event = Event::Frame { sock, header, body: &m.bytes[used..], payload };
            core.handle(now, event, &mut node.out);
            return true;
        }
        false
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
                let versions = (sector..sector + count).map(|s| self.nodes[n].disk.read(s)).collect();
                let buf = Some(self.nodes[n].alloc(versions));
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf });
            }
            Later::DiskWrite { tag, sector, versions, fua } => {
                self.nodes[n].disk.write(sector, &versions, fua);
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Later::Flush { tag, point } => {
                self.nodes[n].disk.flush(point);
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Later::MetaWrite { tag, sector, block, fua, flush } => {
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
                if let Some(e) = self.ends.remove(&sock) {
                    assert!(!e.closed);
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
                let due = self.nodes[n].core.as_ref().and_then(|c| c.deadline()).is_some_and(|at| at <= now);
                if due {
                    core!(Event::Deadline);
                }
            }
        }
    }

    fn try_connect(&mut self, n: usize, attempt: u32) {
        let m = 1 - n;
        let now = self.now;
        if self.weather.cut || !self.nodes[m].listening || self.nodes[m].core.is_none() {
            let node = &mut self.nodes[n];
            if let Some(core) = node.core.as_mut() {
                core.handle(now, Event::ConnectFailed { attempt }, &mut node.out);
            }
            return;
        }
        let (a, b) = (SockId(self.next_sock), SockId(self.next_sock + 1));
        self.next_sock += 2;
        let end = |node, peer| End {
            node,
            peer,
            inbox: VecDeque::new(),
            sent_total: 0,
            closed: false,
            last_arrival: now,
        };
        self.ends.insert(a, end(n, b));
        self.ends.insert(b, end(m, a));
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
            core.handle(now, Event::Connected { attempt, sock: a }, &mut node.out);
        }
        let node = &mut self.nodes[m];
        if let Some(core) = node.core.as_mut() {
            core.handle(now, Event::Accepted { sock: b }, &mut node.out);
        }
        self.settle(m);
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

    /// Every sector equal on both disks, and allowed by what clients saw. Panics with the first difference.
    pub fn check_disks(&mut self) {
        for s in 0..self.nodes[0].disk.durable.len() as u64 {
            let (a, b) = (self.nodes[0].disk.read(s), self.nodes[1].disk.read(s));
            assert_eq!(a, b, "sector {s} differs while both copies say UpToDate");
            assert!(
                self.ledger.allows(s, a),
                "sector {s} holds version {a}, clients know of {:?}",
                self.ledger.possible(s)
            );
            self.ledger.observed(s, a);
        }
    }
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
}
