//! Replays of recorded conversations: the core stands in the place of one node, the other one says what was
//! recorded, and everything the core sends is compared with what the recorded node sent.

pub mod compare;
pub mod kernel_log;
pub mod node;
pub mod script;

use std::collections::{BTreeSet, HashMap, VecDeque};

use model::ids::DataUuid;
use model::state::{ConnState, DiskState};
use model::time::{Duration, Instant};
use replicator::wire::{Command, DpFlags, HeaderForm, Packet, Sock, parse_header, put, put80};
use replicator::{ClientOp, ClientResult, ClientTag, Event, SockId};

use super::capture::{self, Capture, Captured};
use compare::{Allowed, Mapping, is_hint, may_overtake};
use node::{DATA_SECTORS, Node, Sent};
use script::{Conversation, Step};

/// So much later than recorded the core may act where its own timers decide.
const SLACK: Duration = Duration::from_millis(250);

/// A packet of the peer that the core does not want to hear yet.
struct Waiting {
    sock: SockId,
    bytes: Vec<u8>,
    form: HeaderForm,
    /// Length of the digest in front of block data.
    digest_bytes: usize,
    payload: Vec<u8>,
}

/// A running replay.
pub struct Replay<'a> {
    conversation: &'a Conversation,
    capture: &'a Capture,
    side: u8,
    pub node: Node,
    pub mapping: Mapping,
    steps: VecDeque<&'a (u64, u8, Step)>,
    waiting: VecDeque<Waiting>,
    /// What the data area of each volume has to hold.
    expected: Vec<Vec<u8>>,
    /// Writes that the core sent on this connection, and the epochs that it closed: number, writes so far.
    writes: u32,
    barriers: VecDeque<(u32, u32)>,
    /// The same of the recorded node: writes, writes before each barrier that is not acknowledged.
    recorded_writes: u32,
    recorded_barriers: VecDeque<u32>,
    acked_writes: u32,
    pings: usize,
    /// Writes since the last barrier.
    epoch_tags: Vec<ClientTag>,
    /// All writes that have to be answered in the end.
    tags: Vec<ClientTag>,
    reads: HashMap<(u64, u64), ClientTag>,
    /// A read that the script began and that has not reached the wire.
    pending_read: Option<ClientTag>,
    /// Everything that was not as recorded.
    pub deviations: Vec<String>,
    pub log: Vec<(Option<u8>, String)>,
    place: String,
    /// Nothing of the peer arrives.
    cut: bool,
    peer_secret: &'static [u8],
    recorded_now: Instant,
}

/// Replays one side of a conversation; panics with the deviations found, else returns what was allowed.
pub fn replay(conversation: &Conversation, side: u8) -> BTreeSet<Allowed> {
    let mut capture = capture::read(conversation.number);
    if let Some(ms) = conversation.until[usize::from(side) - 1] {
        let end_us = conversation.base_us + ms * 1000;
        capture.packets.retain(|p| p.time_us < end_us);
        capture.ends.retain(|e| e.time_us < end_us);
    }
    let mut r = Replay::new(conversation, &capture, side);
    r.run();
    r.finish();
    let found = r.deviations.len();
    let shown: Vec<&str> = r.deviations.iter().take(8).map(String::as_str).collect();
    assert!(
        found == 0,
        "capture {} as node{side}: {found} deviations\n{}",
        conversation.number,
        shown.join("\n")
    );
    r.mapping.allowed
}

impl<'a> Replay<'a> {
    fn new(conversation: &'a Conversation, capture: &'a Capture, side: u8) -> Replay<'a> {
        let expected = conversation.initial_data(side);
        let mut node = Node::new(side, &expected, conversation.disk.clone());
        node.now = Instant(1_000_000_000);
        Replay {
            conversation,
            capture,
            side,
            node,
            mapping: Mapping::default(),
            steps: conversation.script.iter().filter(|s| s.1 == side).collect(),
            waiting: VecDeque::new(),
            expected,
            writes: 0,
            barriers: VecDeque::new(),
            recorded_writes: 0,
            recorded_barriers: VecDeque::new(),
            acked_writes: 0,
            pings: 0,
            epoch_tags: Vec::new(),
            tags: Vec::new(),
            reads: HashMap::new(),
            pending_read: None,
            deviations: Vec::new(),
            log: Vec::new(),
            place: String::new(),
            cut: false,
            peer_secret: compare::SECRET,
            recorded_now: Instant(0),
        }
    }

    fn deviates(&mut self, what: &str) {
        let text = format!("{}: {what}", self.place);
        self.deviations.push(text);
    }

    /// Virtual time of a recorded one.
    fn instant(&self, time_us: u64) -> Instant {
        Instant(1_000_000_000 + (time_us - self.conversation.base_us) * 1000)
    }

    fn run(&mut self) {
        let capture = self.capture;
        let mut ends = capture.ends.iter().peekable();
        for (i, packet) in capture.packets.iter().enumerate() {
            while let Some(end) = ends.next_if(|e| e.after_packets == i) {
                self.stream_end(end);
            }
            if self.deviations.len() > 3 {
                return;
            }
            self.place = format!(
                "packet {i} ({} of node{} at {:.6} s)",
                packet.header.command.name(),
                packet.node,
                (packet.time_us - self.conversation.base_us) as f64 / 1e6
            );
            self.pass_time(packet.time_us);
            if packet.node == self.side {
                self.own_packet(packet);
            } else {
                self.peers_packet(packet);
            }
            self.collect();
        }
        for end in ends {
            self.stream_end(end);
        }
    }

    fn stream_end(&mut self, end: &capture::StreamEnd) {
        let at = (end.time_us - self.conversation.base_us) as f64 / 1e6;
        self.place = format!("end of connection {} by node{} at {at:.6} s", end.connection, end.node);
        self.pass_time(end.time_us);
        let sock = sock_of(end.connection);
        self.node.release_writes();
        if end.node != self.side {
            if self.cut {
                return;
            }
            self.node.disconnected(sock);
        } else if self.node.open.contains_key(&sock) {
            self.wait(|n| !n.open.contains_key(&sock));
            if self.node.open.contains_key(&sock) {
                self.deviates("the core did not close the connection");
            }
        }
        self.collect();
    }

    /// Lets time pass up to a recorded moment, with the commands given meanwhile.
    fn pass_time(&mut self, time_us: u64) {
        while let Some((at_ms, _, step)) = self.steps.front() {
            let at = self.conversation.base_us + at_ms * 1000;
            if at > time_us {
                break;
            }
            self.steps.pop_front();
            let now = self.instant(at);
            self.advance(now);
            let place = std::mem::replace(&mut self.place, format!("{step:?} at {at_ms} ms"));
            self.step(step);
            self.place = place;
            self.collect();
        }
        let now = self.instant(time_us);
        self.advance(now);
        self.collect();
    }

    /// Advances the core's clock; that of a sync target, or of the requester of a verify, only as far as the recorded
    /// requests say, as its steps take 100 ms and those of the recorded nodes 110.
    fn advance(&mut self, now: Instant) {
        self.recorded_now = now;
        let shot = self.node.core.snapshot(self.node.now);
        if !matches!(shot.volumes[0].state.conn, ConnState::SyncTarget | ConnState::VerifyS) {
            self.node.advance(now.max(self.node.now));
        }
    }

    /// Waits for the core's timers until a condition holds, but not longer than the slack.
    fn wait(&mut self, done: impl Fn(&Node) -> bool) {
        let limit = self.recorded_now.max(self.node.now) + SLACK;
        while !done(&self.node) {
            match self.node.core.deadline() {
                Some(at) if at <= limit => self.node.advance(at),
                _ => return,
            }
            self.collect();
        }
    }

    /// Looks at what the core did meanwhile.
    fn collect(&mut self) {
        self.log.append(&mut self.node.log);
        for queue in &mut self.node.sent {
            queue.retain(|s| is_hint(s.header.command).is_none());
        }
        self.deliver_waiting();
    }

    fn queue(&mut self, sock: Sock) -> &mut VecDeque<Sent> {
        &mut self.node.sent[sock as usize]
    }

    fn own_packet(&mut self, p: &Captured) {
        let command = p.header.command;
        if let Some(free) = is_hint(command) {
            self.mapping.allow(free, true);
            return;
        }
        if matches!(command, Command::InitialData | Command::InitialMeta) {
            self.own_connection(p);
        }
        self.provoke(p);
        self.wait(|n| !n.sent[p.sock as usize].is_empty());
        let early = |s: &Sent| may_overtake(s.header.command, command);
        let queue = self.queue(p.sock);
        let place = queue.iter().position(|s| early(s).is_none()).unwrap_or(0);
        let overtook = queue.front().and_then(early);
        let Some(own) = queue.remove(place) else {
            self.deviates("the core did not send it");
            return;
        };
        if let Some(early) = overtook {
            self.mapping.allow(early, true);
        }
        if let Err(e) = self.mapping.compare(p, &own) {
            self.deviates(&e);
            return;
        }
        if let (Packet::DataRequest(r), Some(tag)) = (p.packet(), self.pending_read) {
            self.reads.insert((r.sector, r.block_id.0), tag);
            self.pending_read = None;
        }
        self.count_epochs(p, &own);
    }

    /// Lets an own connection attempt succeed.
    fn own_connection(&mut self, p: &Captured) {
        if self.node.attempt.is_none() {
            self.wait(|n| n.attempt.is_some());
        }
        let Some(attempt) = self.node.attempt.take() else {
            self.deviates("the core did not connect");
            return;
        };
        self.new_connection(p);
        self.node.connected(sock_of(p.connection), Some(attempt));
    }

    fn new_connection(&mut self, p: &Captured) {
        for (name, queue) in ["data", "meta"].iter().zip(&self.node.sent) {
            let new_generation = queue.iter().any(|s| s.header.command == Command::Uuids);
            self.mapping.allow(Allowed::UuidsAtDisconnect, p.sock == Sock::Data && new_generation);
            let left = queue.iter().find(|s| s.header.command != Command::Uuids);
            if let Some(left) = left.filter(|_| p.sock == Sock::Data) {
                let left = left.header.command.name();
                self.deviations.push(format!("{}: unexpected {left} on the old {name} socket", self.place));
            }
        }
        if p.sock == Sock::Data {
            self.node.sent[p.sock as usize].clear();
            self.barriers.clear();
            self.recorded_barriers.clear();
            (self.writes, self.recorded_writes, self.acked_writes) = (0, 0, 0);
        }
    }

    /// Does what made the recorded node send this packet, unless the core sent it already.
    fn provoke(&mut self, p: &Captured) {
        if !self.queue(p.sock).is_empty() && p.header.command != Command::Barrier {
            return;
        }
        let v = usize::from(p.header.vnr);
        match p.packet() {
            Packet::Data(d) => {
                let fua = d.dp_flags.contains(DpFlags::FUA);
                self.flush_before(v, d.dp_flags);
                let buf = self.node.buffer(&p.payload);
                self.node.hold_writes = true;
                let len = p.payload.len() as u32;
                let tag = self.node.request(v, d.sector, len, ClientOp::Write { buf, fua });
                self.submitted(tag);
                self.expect_data(v, d.sector, &p.payload);
            }
            Packet::Trim(t) => {
                self.flush_before(v, t.dp_flags);
                self.node.hold_writes = true;
                let tag = self.node.request(v, t.sector, t.size_bytes, ClientOp::Discard);
                self.submitted(tag);
                self.expect_data(v, t.sector, &vec![0; t.size_bytes as usize]);
            }
            Packet::Zeroes(t) => {
                self.flush_before(v, t.dp_flags);
                let op = ClientOp::Zeroes {
                    may_unmap: t.dp_flags.contains(DpFlags::DISCARD),
                    fua: t.dp_flags.contains(DpFlags::FUA),
                };
                self.node.hold_writes = true;
                let tag = self.node.request(v, t.sector, t.size_bytes, op);
                self.submitted(tag);
                self.expect_data(v, t.sector, &vec![0; t.size_bytes as usize]);
            }
            Packet::DataRequest(r) => {
                let tag = self.node.request(v, r.sector, r.size_bytes, ClientOp::Read);
                self.reads.insert((r.sector, r.block_id.0), tag);
            }
            Packet::Barrier(_) => {
                self.node.release_writes();
                self.collect();
                self.wait(|n| n.sent[Sock::Data as usize].front().is_some());
                let tags = std::mem::take(&mut self.epoch_tags);
                if !self.queue(Sock::Data).is_empty() {
                    return;
                }
                // Closed without a write being finished: by a flush of the application.
                if tags.iter().any(|t| self.node.completed.contains_key(t)) {
                    self.deviates("a finished write does not close the epoch");
                }
                self.node.hold_writes = false;
                self.node.request(v, 0, 0, ClientOp::Flush);
            }
            _ => {}
        }
        self.collect();
    }

    fn submitted(&mut self, tag: ClientTag) {
        self.epoch_tags.push(tag);
        self.tags.push(tag);
    }

    /// An application's flush in front of a write, for the protocols in which the flag of the write carries it.
    fn flush_before(&mut self, v: usize, flags: DpFlags) {
        if flags.contains(DpFlags::FLUSH) {
            self.node.hold_writes = false;
            self.node.request(v, 0, 0, ClientOp::Flush);
            self.collect();
        }
    }

    fn expect_data(&mut self, v: usize, sector: u64, data: &[u8]) {
        self.expected[v][sector as usize * 512..][..data.len()].copy_from_slice(data);
    }

    fn count_epochs(&mut self, p: &Captured, own: &Sent) {
        match (p.packet(), Packet::decode(&own.header, &own.body, p.features)) {
            (Packet::Data(_) | Packet::Trim(_) | Packet::Zeroes(_), _) => {
                self.writes += 1;
                self.recorded_writes += 1;
            }
            (Packet::Barrier(_), Ok(Packet::Barrier(b))) => {
                self.barriers.push_back((b.number.0, self.writes));
                self.recorded_barriers.push_back(self.recorded_writes);
            }
            _ => {}
        }
    }

    fn peers_packet(&mut self, p: &Captured) {
        if self.cut {
            return;
        }
        let sock = sock_of(p.connection);
        match p.header.command {
            Command::InitialData | Command::InitialMeta => {
                self.new_connection(p);
                self.node.connected(sock, None);
                self.node.open.insert(sock, Some(p.sock));
            }
            Command::PingAck => return,
            _ => {}
        }
        if !self.node.open.contains_key(&sock) {
            return;
        }
        self.pings += usize::from(p.header.command == Command::Ping);
        self.expect_from_peer(p);
        let mac = compare::mac(self.peer_secret, &self.node.challenge);
        let mut packet = self.mapping.for_core(p.packet(), &mac);
        if let Packet::BarrierAck(a) = &mut packet {
            let Some(covered) = self.recorded_barriers.pop_front() else {
                self.deviates("acknowledges an epoch that the recorded node did not send");
                return;
            };
            let Some((number, writes)) = self.barriers.pop_front().filter(|b| b.1 == covered) else {
                self.deviates("acknowledges an epoch that the core did not close like that");
                return;
            };
            a.number.0 = number;
            if a.set_size != writes - self.acked_writes {
                self.deviates("acknowledges another number of writes");
                return;
            }
            self.acked_writes = writes;
        }
        let mut bytes = Vec::new();
        let form = p.header.form;
        match form {
            HeaderForm::H80 => put80(&mut bytes, &packet),
            _ => put(&mut bytes, p.header.vnr, &packet, (p.digest.len() + p.payload.len()) as u32),
        }
        let digest_bytes = p.digest.len();
        self.waiting.push_back(Waiting { sock, bytes, form, digest_bytes, payload: p.payload.clone() });
        self.deliver_waiting();
        if let Packet::DataReply(d) = p.packet() {
            let tag = self.reads.remove(&(d.sector, d.block_id.0));
            let got = tag.and_then(|t| self.node.completed.get(&t));
            if got.is_none_or(|(_, data)| *data != p.payload) {
                self.deviates("the data did not reach the client");
            }
        }
    }

    /// What the peer sends has to be on the disk afterwards.
    fn expect_from_peer(&mut self, p: &Captured) {
        let v = usize::from(p.header.vnr);
        if self.node.faults == script::Faults::Writes {
            return;
        }
        match p.packet() {
            Packet::Data(d) | Packet::RsDataReply(d) => self.expect_data(v, d.sector, &p.payload),
            Packet::Trim(t) | Packet::Zeroes(t) => {
                self.expect_data(v, t.sector, &vec![0; t.size_bytes as usize]);
            }
            _ => {}
        }
    }

    /// Gives the core what it is ready to hear.
    fn deliver_waiting(&mut self) {
        let mut i = 0;
        while i < self.waiting.len() {
            let w = &self.waiting[i];
            let sock = w.sock;
            let earlier = self.waiting.iter().take(i).any(|o| o.sock == sock);
            if !self.node.open.contains_key(&sock) {
                self.waiting.remove(i);
                continue;
            }
            let framing = self.node.core.framing(sock);
            if earlier || framing.is_none() {
                i += 1;
                continue;
            }
            if framing.is_some_and(|f| f.form != w.form) {
                let text = format!("{framing:?} expected, the peer sends {:?}", w.form);
                self.deviates(&text);
            }
            let w = self.waiting.remove(i).expect("it is there");
            let known = framing.and_then(|f| f.integrity).map_or(0, |alg| alg.len_bytes() as usize);
            if !w.payload.is_empty() && known != w.digest_bytes {
                let text = format!("digest of {known} bytes expected, the peer sends {}", w.digest_bytes);
                self.deviates(&text);
            }
            let (header, at) = parse_header(w.form, &w.bytes).expect("recorded").expect("whole");
            let payload = (!w.payload.is_empty()).then(|| self.node.buffer(&w.payload));
            self.node.event(Event::Frame { sock, header, body: &w.bytes[at..], payload });
            i = 0;
        }
    }

    fn finish(&mut self) {
        self.place = "afterwards".into();
        self.node.release_writes();
        self.collect();
        let last_ms = self.steps.back().map_or(0, |s| s.0);
        let end_us = self.capture.packets.last().map_or(0, |p| p.time_us) + 300_000;
        self.pass_time(end_us.max(self.conversation.base_us + last_ms * 1000));
        for (name, queue) in ["data", "meta"].iter().zip(self.node.sent.clone()) {
            for s in queue {
                self.deviates(&format!("unexpected {} on the {name} socket", s.header.command.name()));
            }
        }
        if self.pings != self.node.ping_acks {
            let text = format!("{} pings, {} answers", self.pings, self.node.ping_acks);
            self.deviates(&text);
        }
        for tag in &self.tags {
            let result = self.node.completed.get(tag).map(|c| c.0);
            if result != Some(ClientResult::Ok) {
                self.deviations.push(format!("a client's write ended with {result:?}"));
            }
        }
        for v in 0..self.expected.len() {
            let block = |i: usize| i * 4096..(i + 1) * 4096;
            let blocks = DATA_SECTORS as usize / 8;
            let data = self.node.data(v);
            let wrong: Vec<usize> =
                (0..blocks).filter(|i| data[block(*i)] != self.expected[v][block(*i)]).collect();
            if !wrong.is_empty() {
                let text = format!("volume {v}: {} blocks hold wrong data, e.g. {}", wrong.len(), wrong[0]);
                self.deviates(&text);
            }
            self.check_super_block(v);
        }
        self.compare_log();
    }

    /// What is on the device agrees with what the core says.
    fn check_super_block(&mut self, v: usize) {
        let shot = self.node.core.snapshot(self.node.now);
        if shot.volumes[v].state.disk == DiskState::Diskless {
            return;
        }
        let shown = shot.volumes[v].uuids;
        let sb = self.node.super_block(v);
        let stored = [sb.uuids.current, sb.uuids.bitmap, sb.uuids.history[0], sb.uuids.history[1]];
        if stored.map(|u: DataUuid| u.0) != shown {
            self.deviates(&format!("volume {v}: UUIDs stored {stored:?}, shown {shown:x?}"));
        }
    }
}

/// The driver's name of a recorded connection.
pub fn sock_of(connection: usize) -> SockId {
    SockId(connection as u32 + 1)
}
