//! Two stations, the network between them, and the check after every smallest step: whatever a loss of power of one
//! node or of both leaves now, a block that may differ is covered by what is found.

use std::collections::{BTreeSet, VecDeque};

use model::policy::Protocol;
use model::state::{ConnState, DiskState};
use model::time::{Duration, Instant};
use replicator::{Command, CommandResult, DiskConfig, NetConfig, SockId, VolIdx};

use super::images::{Images, extent_of, sectors_of_extents};
use super::media::{Lie, Place, Raw};
use super::station::{BLOCK_SECTORS, Message, Station};
use crate::rng::Rng;

/// Smallest activity log there is.
pub const AL_EXTENTS: u16 = 67;
/// Extents of the device: some more than the log holds.
pub const EXTENTS: u64 = 80;
const VOLUME: VolIdx = VolIdx(0);

pub struct Pair {
    pub nodes: [Station; 2],
    pub now: Instant,
    pub rng: Rng,
    /// Nothing arrives and nothing connects.
    pub cut: bool,
    /// What the second node says on its meta socket stays on the way, until nothing else is left to happen.
    pub hold_acks: bool,
    /// Checks are made.
    pub checking: bool,
    images: [Images; 2],
    links: Vec<[SockId; 2]>,
    /// On the way from each node, by link in order.
    way: [VecDeque<(SockId, Message)>; 2],
    next_sock: u32,
    next_version: u64,
    /// Blocks that were ever written.
    touched: BTreeSet<u64>,
    /// Smallest steps made.
    pub steps: u64,
}

/// Network options with short times.
pub fn net() -> NetConfig {
    NetConfig {
        protocol: Protocol::C,
        connect_int: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        ..NetConfig::default()
    }
}

impl Pair {
    /// Two equal copies, connected, the first one Primary.
    pub fn new(seed: u64, place: Place) -> Pair {
        Pair::with_lies(seed, place, [Lie::None; 2])
    }

    /// The same with the metadata at the end of the devices.
    pub fn internal(seed: u64) -> Pair {
        Pair::made(seed, Place::Internal, [Lie::None; 2], true)
    }

    /// The same with drivers that lie.
    pub fn with_lies(seed: u64, place: Place, lies: [Lie; 2]) -> Pair {
        Pair::made(seed, place, lies, false)
    }

    fn made(seed: u64, place: Place, lies: [Lie; 2], internal: bool) -> Pair {
        let disk = DiskConfig {
            al_extents: AL_EXTENTS,
            c_plan_ahead_ds: 0,
            resync_rate_kib_s: 1 << 20,
            ..DiskConfig::default()
        };
        let station = |side, lie| Station::new(side, sectors_of_extents(EXTENTS), place, lie, disk.clone());
        let mut pair = Pair {
            nodes: [station(1, lies[0]), station(2, lies[1])],
            now: Instant(1_000_000_000),
            rng: Rng::new(seed),
            cut: false,
            hold_acks: false,
            checking: false,
            images: Default::default(),
            links: Vec::new(),
            way: Default::default(),
            next_sock: 1,
            next_version: 1,
            touched: BTreeSet::new(),
            steps: 0,
        };
        for n in 0..2 {
            if internal {
                pair.nodes[n].make_internal();
            }
            pair.attach(n);
            pair.run(n, Command::Connect(Box::new(net())));
        }
        pair.until("the nodes meet", |p| p.all(|s| s.conn == ConnState::Connected));
        let skip = Command::NewCurrentUuid { vol: VOLUME, clear_bitmap: true };
        assert_eq!(pair.run(0, skip), CommandResult::Ok);
        pair.until("both are UpToDate", Pair::in_sync);
        assert_eq!(pair.run(0, Command::Primary { force: false }), CommandResult::Ok);
        pair.settle();
        pair.checking = true;
        pair
    }

    fn all(&self, holds: impl Fn(&model::state::VolumeState) -> bool) -> bool {
        self.nodes.iter().all(|n| holds(&n.core.volume_state(VOLUME)))
    }

    /// Both connected with good copies.
    pub fn in_sync(&self) -> bool {
        self.all(|s| s.conn == ConnState::Connected && s.disk == DiskState::UpToDate)
    }

    /// Loads the metadata of a node and gives its disk to the core.
    pub fn attach(&mut self, n: usize) {
        let disk = self.nodes[n].load();
        assert_eq!(self.run(n, Command::Attach(VOLUME, Box::new(disk))), CommandResult::Ok);
    }

    /// Runs a command to its end.
    pub fn run(&mut self, n: usize, command: Command) -> CommandResult {
        let id = self.nodes[n].command(self.now, command);
        self.check();
        self.until("a command ends", |p| p.nodes[n].commands.contains_key(&id));
        self.nodes[n].commands[&id]
    }

    /// A client of the Primary writes `count` blocks.
    pub fn write(&mut self, block: u64, count: u64) {
        let first = self.next_version;
        self.next_version += count;
        self.touched.extend(block..block + count);
        let last = block + count - 1;
        self.nodes[0].ever_hot.extend(extent_of(block)..=extent_of(last));
        self.nodes[0].write(self.now, block, (first..first + count).collect());
        self.check();
    }

    /// A client of the Primary asks for a flush.
    pub fn flush(&mut self) {
        self.nodes[0].flush(self.now);
        self.check();
    }

    /// Makes one of the smallest steps that are possible, and checks. Time passes only when nothing else is left.
    pub fn step(&mut self) {
        self.steps += 1;
        self.meet();
        let ops = [self.nodes[0].ops(), self.nodes[1].ops()];
        let ways = [0, 1].map(|n| self.deliverable(n));
        let choices = ops[0] + ops[1] + ways[0].len() + ways[1].len();
        if choices == 0 {
            self.pass_time();
        } else {
            let mut chosen = self.rng.below(choices as u64) as usize;
            for n in 0..2 {
                if chosen < ops[n] {
                    self.nodes[n].progress(self.now, chosen);
                    break;
                }
                chosen -= ops[n];
                if chosen < ways[n].len() {
                    self.deliver(n, ways[n][chosen]);
                    break;
                }
                chosen -= ways[n].len();
            }
        }
        self.check();
    }

    fn pass_time(&mut self) {
        // Held so long that the peer would be taken for dead.
        if std::mem::take(&mut self.hold_acks) {
            return;
        }
        let next = self.nodes.iter().filter_map(|n| n.core.deadline()).min();
        self.now = next.unwrap_or(self.now + Duration::from_secs(1)).max(self.now);
        for n in &mut self.nodes {
            if n.core.deadline().is_some_and(|at| at <= self.now) {
                n.event(self.now, replicator::Event::Deadline);
            }
        }
    }

    /// Steps until the condition holds.
    pub fn until(&mut self, what: &str, done: impl Fn(&Pair) -> bool) {
        for _ in 0..200_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        let states = [0, 1].map(|n: usize| self.nodes[n].core.volume_state(VOLUME));
        panic!("not reached: {what}; {states:?}");
    }

    /// Steps until no disk operation or message is left.
    pub fn settle(&mut self) {
        self.until("nothing is under way", |p| {
            p.nodes.iter().all(|n| n.ops() == 0 && n.outbox.is_empty())
                && p.way.iter().all(VecDeque::is_empty)
        });
    }

    /// Steps until the client has all its answers.
    pub fn answered(&mut self) {
        self.until("all requests are answered", |p| p.nodes[0].open_requests.is_empty());
    }

    /// Makes connections, ends those that one side closed, takes what was sent.
    fn meet(&mut self) {
        for n in 0..2 {
            while let Some(attempt) = self.nodes[n].attempts.pop() {
                if self.cut {
                    self.nodes[n].event(self.now, replicator::Event::ConnectFailed { attempt });
                    continue;
                }
                let ids = [SockId(self.next_sock), SockId(self.next_sock + 1)];
                self.next_sock += 2;
                self.links.push(ids);
                self.nodes[n].connected(self.now, ids[n], Some(attempt));
                self.nodes[1 - n].connected(self.now, ids[1 - n], None);
            }
            let sent = std::mem::take(&mut self.nodes[n].outbox);
            self.way[n].extend(sent);
            for sock in std::mem::take(&mut self.nodes[n].closed) {
                if let Some(i) = self.links.iter().position(|l| l[n] == sock) {
                    self.end_link(i);
                }
            }
        }
    }

    fn end_link(&mut self, i: usize) {
        let link = self.links.remove(i);
        for (n, end) in link.into_iter().enumerate() {
            self.way[n].retain(|(sock, _)| *sock != end);
            self.nodes[n].disconnected(self.now, end);
        }
    }

    /// Places in the queue of a node that are the oldest of their socket.
    fn deliverable(&self, n: usize) -> Vec<usize> {
        if self.cut {
            return Vec::new();
        }
        let held = self.nodes[n].core.sockets().map(|(_, meta)| meta).filter(|_| self.hold_acks && n == 1);
        let mut seen: Vec<SockId> = held.into_iter().collect();
        let mut places = Vec::new();
        for (i, (sock, _)) in self.way[n].iter().enumerate() {
            if !seen.contains(sock) {
                seen.push(*sock);
                places.push(i);
            }
        }
        places
    }

    fn deliver(&mut self, from: usize, place: usize) {
        let (sock, message) = self.way[from].remove(place).expect("it was there");
        if let Some(link) = self.links.iter().find(|l| l[from] == sock).copied() {
            self.nodes[1 - from].arrive(self.now, link[1 - from], message);
        }
    }

    /// The connection breaks, and what is on the way is lost.
    pub fn break_link(&mut self) {
        self.cut = true;
        while !self.links.is_empty() {
            self.end_link(0);
        }
        self.check();
    }

    /// The power of a node fails.
    pub fn lose_power(
        &mut self,
        n: usize,
        data: impl FnMut(&BTreeSet<u64>) -> u64,
        meta: impl FnMut(&BTreeSet<Raw>) -> Raw,
    ) {
        while !self.links.is_empty() {
            let link = self.links.remove(0);
            for (way, end) in self.way.iter_mut().zip(link) {
                way.retain(|(sock, _)| *sock != end);
            }
            self.nodes[1 - n].disconnected(self.now, link[1 - n]);
        }
        self.nodes[n].lose_power(data, meta);
    }

    /// Whatever is found after a loss of power, it says which blocks may differ.
    fn check(&mut self) {
        if !self.checking {
            return;
        }
        for n in 0..2 {
            self.images[n].look(&self.nodes[n]);
        }
        let [a, b] = &self.nodes;
        for block in &self.touched {
            let block = *block;
            let (data_a, data_b) = (&a.media.data, &b.media.data);
            if data_a.is_settled(block)
                && data_b.is_settled(block)
                && data_a.read(block) == data_b.read(block)
            {
                continue;
            }
            let (lost_a, lost_b) =
                (a.media.data.after_power_loss(block), b.media.data.after_power_loss(block));
            let covered_a = self.images[0].covers(a, block);
            if (&lost_a | &lost_b).len() > 1 {
                assert!(
                    covered_a || self.images[1].covers(b, block),
                    "both lose power: block {block} may hold {lost_a:?} and {lost_b:?}, and nothing says so"
                );
            }
            let goes_on = b.media.data.after_crash(block);
            if (&lost_a | &goes_on).len() > 1 {
                assert!(
                    covered_a || b.core.is_marked(VOLUME, block * BLOCK_SECTORS),
                    "the Primary loses power: block {block} may hold {lost_a:?} there and {goes_on:?} on its \
                     peer, and nothing says so"
                );
            }
        }
    }

    /// A node might find nothing but the wish for a full sync.
    pub fn may_need_full_sync(&self) -> bool {
        self.images.iter().any(super::images::Images::asks_for_full_sync)
    }

    /// A block is compared too, though no client wrote it.
    pub fn compare(&mut self, block: u64) {
        self.touched.insert(block);
    }

    /// Combinations of metadata sectors that were looked at.
    pub fn combinations(&self) -> u64 {
        self.images.iter().map(|i| i.combinations).sum()
    }

    /// Every block is equal on both.
    pub fn check_equal(&self) {
        for block in &self.touched {
            let [a, b] = [0, 1].map(|n: usize| self.nodes[n].media.data.read(*block));
            assert_eq!(a, b, "block {block} differs on equal copies");
        }
    }
}
