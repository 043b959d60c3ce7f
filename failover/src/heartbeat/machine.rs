//! The machine: own beats go out, those of others say who is there (failover 3.4, 3.5). Without I/O.

use std::collections::{BTreeMap, VecDeque};

use model::failover::heartbeat::HeartbeatMembership;
use model::time::{Duration, Instant};
use sha1::Digest;
use thiserror::Error;

use super::hearing::{Heard, Hearing};
use super::message::{Form, Message};

/// How much more than the dead time is announced at the start (failover 3.4, dt).
const DEAD_TIME_MORE: Duration = Duration::from_secs(2);
/// Every message whose number this divides is acknowledged (failover 3.4, NS_ackmsg).
const ACKNOWLEDGED: u64 = 10;
/// So many own messages are kept for those who missed one.
const SENT_MAX: usize = 64;
/// How often they are sent again at most.
const RESEND_EVERY: Duration = Duration::from_millis(250);
/// How often one line in the log tells of what was refused.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// A datagram has come.
    Datagram {
        /// From where, for messages.
        source: &'a str,
        /// What is in it.
        bytes: &'a [u8],
    },
    /// Time has passed.
    Tick,
    /// This node leaves, in peace: nothing is sent or heard from then on.
    Stop,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send this over every medium.
    Send(Vec<u8>),
    /// For the log.
    Info(String),
    /// For the log, and for people.
    Warn(String),
}

/// Why there is no membership.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StartError {
    /// This node is not among those that are named.
    #[error("heartbeat: this node, {0}, is not one of its nodes (add 'node {0}' to the block 'heartbeat')")]
    NotANode(String),
    /// A medium, a second node or a key is missing.
    #[error("heartbeat: it needs a medium, two nodes and a key (run 'lockstep failover check')")]
    Incomplete,
}

/// What is known of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeState {
    /// Not heard yet, and not for long enough to be dead.
    Unknown,
    /// Its beats are heard.
    Up,
    /// Silent for the dead time.
    Dead,
    /// It said that it leaves.
    Left,
}

/// Another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name, as configured.
    pub name: String,
    /// Whether it is there.
    pub state: NodeState,
    /// Since when it is so.
    pub since: Instant,
    /// When it was heard last.
    pub heard: Option<Instant>,
    /// Silent for longer than `warntime`, and not dead.
    pub late: bool,
}

impl Node {
    /// Whether it is there; none: not known yet.
    pub fn is_alive(&self) -> Option<bool> {
        match self.state {
            NodeState::Unknown => None,
            NodeState::Up => Some(true),
            NodeState::Dead | NodeState::Left => Some(false),
        }
    }
}

/// Everything that there is to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MembershipStatus {
    /// The other nodes, in the order of their names.
    pub nodes: Vec<Node>,
    /// Datagrams that were refused.
    pub refused: u64,
    /// Why the last one was.
    pub last_refusal: Option<String>,
}

impl MembershipStatus {
    /// Whether a node is there; none: not known, or none of heartbeat's nodes.
    pub fn is_alive(&self, name: &str) -> Option<bool> {
        self.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(name))?.is_alive()
    }
}

struct Peer {
    node: Node,
    hearing: Hearing,
    uuid: Vec<u8>,
    /// Where its silence is counted from.
    silent_from: Instant,
    /// The generation that has said goodbye.
    left: Option<u64>,
}

/// The machine.
pub struct Membership {
    cfg: HeartbeatMembership,
    me: String,
    uuid: [u8; 16],
    /// Larger at each start of this node: seconds of the time of day at the start.
    generation: u64,
    started: Instant,
    seq: u64,
    /// What was sent last, by number.
    sent: VecDeque<(u64, Vec<u8>)>,
    beats: u64,
    next_beat: Instant,
    resend_at: Instant,
    /// By name in lower case.
    peers: BTreeMap<String, Peer>,
    refused: u64,
    last_refusal: Option<String>,
    refusals_told: Option<Instant>,
    awake: Instant,
    has_left: bool,
}

impl Membership {
    /// The node `host`; `unix_seconds` is the time of day, which has to be later at each start: others ignore a node whose
    /// clock was set back, as heartbeat does with `hbgenmethod time`.
    ///
    /// # Errors
    /// `host` is none of the nodes, or the configuration is not complete.
    pub fn new(
        cfg: &HeartbeatMembership,
        host: &str,
        now: Instant,
        unix_seconds: u64,
    ) -> Result<Membership, StartError> {
        if !cfg.is_complete() {
            return Err(StartError::Incomplete);
        }
        let is_me = |name: &&String| name.eq_ignore_ascii_case(host);
        let Some(me) = cfg.nodes.iter().find(is_me) else { return Err(StartError::NotANode(host.into())) };
        let peer = |name: &String| Peer {
            node: Node {
                name: name.clone(),
                state: NodeState::Unknown,
                since: now,
                heard: None,
                late: false,
            },
            hearing: Hearing::default(),
            uuid: Vec::new(),
            silent_from: now,
            left: None,
        };
        let others = cfg.nodes.iter().filter(|name| !is_me(name));
        Ok(Membership {
            me: me.clone(),
            uuid: uuid(me),
            generation: unix_seconds,
            started: now,
            seq: 0,
            sent: VecDeque::new(),
            beats: 0,
            next_beat: now,
            resend_at: now,
            peers: others.map(|name| (name.to_ascii_lowercase(), peer(name))).collect(),
            refused: 0,
            last_refusal: None,
            refusals_told: None,
            awake: now,
            has_left: false,
            cfg: cfg.clone(),
        })
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, out: &mut Vec<Action>) {
        if self.has_left {
            return;
        }
        self.forgive_own_sleep(now);
        match event {
            Event::Datagram { source, bytes } => self.datagram(now, source, bytes, out),
            Event::Tick => {}
            Event::Stop => return self.leave(now, out),
        }
        self.beat(now, out);
        self.look_at_silence(now, out);
        assert!(self.next_beat > now, "the beat that was due was sent");
    }

    /// When to call again with [`Event::Tick`].
    pub fn deadline(&self, now: Instant) -> Instant {
        let silences = self.peers.values().filter_map(|peer| {
            let dead = peer.silent_from + self.dead_after(peer)?;
            let late = self.cfg.warntime.filter(|_| peer.node.heard.is_some() && !peer.node.late);
            Some(late.map_or(dead, |late| dead.min(peer.silent_from + late)))
        });
        let next = silences.chain([self.next_beat]).min();
        next.unwrap_or(now).max(now + Duration::from_millis(1))
    }

    /// What is known.
    pub fn status(&self) -> MembershipStatus {
        MembershipStatus {
            nodes: self.peers.values().map(|peer| peer.node.clone()).collect(),
            refused: self.refused,
            last_refusal: self.last_refusal.clone(),
        }
    }

    /// A node that stood still has heard nothing, which says nothing about the others.
    fn forgive_own_sleep(&mut self, now: Instant) {
        let pause = now.saturating_since(self.awake);
        if pause > self.cfg.keepalive + self.cfg.keepalive / 2 {
            let slept = pause - self.cfg.keepalive;
            self.peers.values_mut().for_each(|peer| peer.silent_from += slept);
        }
        self.awake = now;
    }

    /// How long a node may be silent; none: it is not there anyway.
    fn dead_after(&self, peer: &Peer) -> Option<Duration> {
        let dead = self.cfg.deadtime;
        match peer.node.state {
            NodeState::Unknown => Some(self.cfg.initdead.unwrap_or(dead).max(dead)),
            NodeState::Up => Some(dead),
            NodeState::Dead | NodeState::Left => None,
        }
    }

    fn look_at_silence(&mut self, now: Instant, out: &mut Vec<Action>) {
        let limits: Vec<_> = self.peers.values().map(|peer| self.dead_after(peer)).collect();
        for (peer, limit) in self.peers.values_mut().zip(limits) {
            let Some(limit) = limit else { continue };
            let silent = now.saturating_since(peer.silent_from);
            let name = &peer.node.name;
            if silent >= limit {
                out.push(Action::Warn(format!(
                    "heartbeat: node {name} is dead: silent for {} ms",
                    silent.as_millis()
                )));
                peer.become_(NodeState::Dead, now);
            } else if peer.node.heard.is_some()
                && !peer.node.late
                && self.cfg.warntime.is_some_and(|warn| silent >= warn)
            {
                out.push(Action::Warn(format!(
                    "heartbeat: node {name} is late: silent for {} ms",
                    silent.as_millis()
                )));
                peer.node.late = true;
            }
        }
    }

    fn beat(&mut self, now: Instant, out: &mut Vec<Action>) {
        if now < self.next_beat {
            return;
        }
        let in_time = self.next_beat + self.cfg.keepalive;
        self.next_beat = if in_time > now { in_time } else { now + self.cfg.keepalive };
        // As heartbeat does: the first ones tell of a start.
        let states: &[&str] = if self.beats == 0 { &["init", "up"] } else { &["active"] };
        self.beats += 1;
        let young = now.saturating_since(self.started) < self.cfg.deadtime;
        let dead_time = if young { self.cfg.deadtime + DEAD_TIME_MORE } else { self.cfg.deadtime };
        for state in states {
            let message = Message::new("status")
                .with("st", state)
                .with("dt", &format!("{:x}", dead_time.as_millis()))
                .with("protocol", "1");
            self.send_numbered(message, now, out);
        }
    }

    /// The goodbye of heartbeat; twice, as nobody asks again for what a node that is gone has sent.
    fn leave(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.send_numbered(Message::new("shutdone").with("st", "dead"), now, out);
        out.extend(self.sent.back().map(|(_, datagram)| Action::Send(datagram.clone())));
        self.has_left = true;
    }

    fn send_numbered(&mut self, message: Message, now: Instant, out: &mut Vec<Action>) {
        self.seq += 1;
        let datagram = self.datagram_of(message, Some(self.seq), now);
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.seq, datagram.clone()));
        out.push(Action::Send(datagram));
    }

    /// With what every message ends in; those without a number are of types that begin with `NS_`.
    fn datagram_of(&self, message: Message, seq: Option<u64>, now: Instant) -> Vec<u8> {
        let time = self.generation + now.saturating_since(self.started).as_secs();
        let mut message = message.with("src", &self.me).with_binary("srcuuid", &self.uuid);
        if let Some(seq) = seq {
            message = message.with("seq", &format!("{seq:x}"));
        }
        let hops = self.cfg.nodes.len() + usize::from(self.cfg.hop_fudge);
        let message = message
            .with("hg", &format!("{:x}", self.generation))
            .with("ts", &format!("{time:x}"))
            .with("ttl", &format!("{hops:x}"));
        message.encode(Form { key: self.cfg.signs_with, netstring: self.cfg.netstring }, &self.cfg.keys)
    }

    fn datagram(&mut self, now: Instant, source: &str, bytes: &[u8], out: &mut Vec<Action>) {
        match Message::decode(bytes, &self.cfg.keys) {
            Ok((message, _)) => match self.message(now, &message, out) {
                Ok(()) => {}
                Err(why) => self.refuse(now, source, &why, out),
            },
            Err(error) => self.refuse(now, source, &error.to_string(), out),
        }
    }

    /// Somebody who has no key is heard of once in a while, and not in every line of the log.
    fn refuse(&mut self, now: Instant, source: &str, why: &str, out: &mut Vec<Action>) {
        self.refused += 1;
        self.last_refusal = Some(format!("from {source}: {why}"));
        if self.refusals_told.is_none_or(|told| now.saturating_since(told) >= REFUSALS_EVERY) {
            self.refusals_told = Some(now);
            let count = self.refused;
            out.push(Action::Warn(format!(
                "heartbeat: refused a message from {source}: {why} ({count} so far)"
            )));
        }
    }

    /// A message that is signed with one of the keys.
    fn message(&mut self, now: Instant, message: &Message, out: &mut Vec<Action>) -> Result<(), String> {
        let field = |name: &str| format!("its field '{name}' is missing or wrong");
        let src = message.text("src").ok_or_else(|| field("src"))?;
        let generation = message.number("hg").ok_or_else(|| field("hg"))?;
        let message_type = message.message_type().ok_or_else(|| field("t"))?;
        if message.number("ttl").is_none_or(|hops| hops == 0) {
            return Err(field("ttl"));
        }
        let seq = message.number("seq");
        if src.eq_ignore_ascii_case(&self.me) {
            return self.own(message, generation, seq);
        }
        let key = src.to_ascii_lowercase();
        let Some(peer) = self.peers.get_mut(&key) else {
            return Err(format!("node {} is not one of its nodes", shown(src)));
        };
        if message_type.starts_with("NS_") {
            // Without a number it may be a replay: no sign of life.
            if message_type == "NS_rexmit" && peer.hearing.generation() == Some(generation) {
                self.resend(now, &key, message, out);
            }
            return Ok(());
        }
        let seq = seq.filter(|seq| *seq > 0).ok_or_else(|| field("seq"))?;
        match peer.hearing.note(generation, seq) {
            Heard::Again => return Ok(()),
            Heard::OldGeneration => {
                return Err(format!("node {}: generation {generation:x} is over", peer.node.name));
            }
            Heard::NewGeneration if peer.node.state == NodeState::Up => {
                out.push(Action::Info(format!("heartbeat: node {} has started again", peer.node.name)));
            }
            Heard::New | Heard::NewGeneration => {}
        }
        if let Some(uuid) = message.binary("srcuuid").filter(|uuid| uuid.len() == 16) {
            peer.uuid = uuid.to_vec();
        }
        if message_type == "shutdone" || message.text("st") == Some("dead") {
            peer.goodbye(generation, now, out);
        } else if peer.left != Some(generation) {
            peer.is_heard(now, out);
        }
        if seq.is_multiple_of(ACKNOWLEDGED) {
            let ack = Message::new("NS_ackmsg").with("dest", &self.peers[&key].node.name);
            let ack = ack.with("ackseq", &format!("{seq:x}"));
            out.push(Action::Send(self.datagram_to(&key, ack, now)));
        }
        if message_type == "reqnodes" && self.is_for_me(message) {
            let list: String = self.cfg.nodes.iter().map(|name| format!("{name} ")).collect();
            let answer = Message::default().with("dest", &self.peers[&key].node.name).with("t", "repnodes");
            let answer = answer.with("nodelist", &list).with("delnodelist", " ");
            let answer = self.addressed(&key, answer);
            self.send_numbered(answer, now, out);
        }
        Ok(())
    }

    /// What this node has sent comes back; everything else under its name is somebody else's.
    fn own(&self, message: &Message, generation: u64, seq: Option<u64>) -> Result<(), String> {
        let is_mine = message.binary("srcuuid") == Some(&self.uuid[..]);
        let was_sent = generation < self.generation
            || generation == self.generation && seq.is_none_or(|seq| seq <= self.seq);
        if is_mine && was_sent {
            return Ok(());
        }
        Err(format!("another node calls itself {}, or the clock here was set back", self.me))
    }

    fn is_for_me(&self, message: &Message) -> bool {
        message.text("dest").is_some_and(|dest| dest.eq_ignore_ascii_case(&self.me))
    }

    fn addressed(&self, key: &str, message: Message) -> Message {
        match &self.peers[key].uuid[..] {
            [] => message,
            uuid => message.with_binary("destuuid", uuid),
        }
    }

    fn datagram_to(&self, key: &str, message: Message, now: Instant) -> Vec<u8> {
        self.datagram_of(self.addressed(key, message), None, now)
    }

    /// Somebody has missed messages.
    fn resend(&mut self, now: Instant, key: &str, message: &Message, out: &mut Vec<Action>) {
        let (Some(first), Some(last)) = (message.number("firstseq"), message.number("lastseq")) else {
            return;
        };
        if !self.is_for_me(message) || now < self.resend_at || first > last {
            return;
        }
        self.resend_at = now + RESEND_EVERY;
        let oldest = self.sent.front().map_or(u64::MAX, |(seq, _)| *seq);
        if first < oldest {
            let name = self.peers[key].node.name.clone();
            let upto = last.min(oldest.saturating_sub(1));
            let none = Message::new("NS_nak_rexmit").with("dest", &name);
            let none = none.with("firstseq", &format!("{first:x}")).with("lastseq", &format!("{upto:x}"));
            out.push(Action::Send(self.datagram_to(key, none, now)));
        }
        let asked = self.sent.iter().filter(|(seq, _)| (first..=last).contains(seq));
        out.extend(asked.map(|(_, datagram)| Action::Send(datagram.clone())));
    }
}

impl Peer {
    fn become_(&mut self, state: NodeState, now: Instant) {
        assert!(self.node.state != state, "node {} changes", self.node.name);
        (self.node.state, self.node.since, self.node.late) = (state, now, false);
    }

    fn is_heard(&mut self, now: Instant, out: &mut Vec<Action>) {
        let silent = now.saturating_since(self.silent_from);
        let name = &self.node.name;
        if self.node.late {
            out.push(Action::Info(format!(
                "heartbeat: node {name} is heard again after {} ms",
                silent.as_millis()
            )));
        }
        if self.node.state != NodeState::Up {
            out.push(Action::Info(format!("heartbeat: node {name} is up")));
            self.become_(NodeState::Up, now);
        }
        (self.node.heard, self.silent_from, self.node.late) = (Some(now), now, false);
    }

    fn goodbye(&mut self, generation: u64, now: Instant, out: &mut Vec<Action>) {
        self.left = Some(generation);
        self.node.heard = Some(now);
        if self.node.state != NodeState::Left {
            out.push(Action::Info(format!("heartbeat: node {} has left", self.node.name)));
            self.become_(NodeState::Left, now);
        }
    }
}

/// The same for every start of a node: nobody has to store it.
fn uuid(name: &str) -> [u8; 16] {
    let digest = sha1::Sha1::digest(format!("lockstep heartbeat {}", name.to_ascii_lowercase()));
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    // RFC 9562, 5.5: made of a name.
    uuid[6] = uuid[6] & 0x0f | 0x50;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// A name that nobody has checked, for the log.
fn shown(name: &str) -> String {
    name.chars().take(32).map(|c| if c.is_control() { '.' } else { c }).collect()
}

#[cfg(test)]
mod tests;
