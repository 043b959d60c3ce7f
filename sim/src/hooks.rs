//! What a script may do to the world at an exact point: look at packets, cut the link at the n-th one, stop one
//! direction of one socket, keep one packet and all behind it, hold a disk, slow down or break a range of it.

use model::config::settings::Handler;
use model::time::{Duration, Instant};
use replicator::wire::{Command, HEADER100_BYTES, Header, HeaderForm, parse_header};
use replicator::{HandlerRun, SockId, VolIdx};

use crate::node::Versions;

/// A packet as it left a node.
#[derive(Clone, Debug)]
pub struct Packet {
    /// When.
    pub at: Instant,
    /// The sender.
    pub from: usize,
    /// Its header.
    pub header: Header,
    /// Everything behind the header except block data.
    pub body: Vec<u8>,
    /// Sectors of block data.
    pub sectors: u64,
}

impl Packet {
    /// 32 bits of the body, big endian.
    pub fn word(&self, offset: usize) -> u32 {
        u32::from_be_bytes(self.body[offset..offset + 4].try_into().expect("four bytes"))
    }

    /// `dp_flags` of a mirrored write.
    pub fn dp_flags(&self) -> u32 {
        self.word(20)
    }
}

/// Kinds of disk operations that can be broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Data reads.
    Read,
    /// Data writes.
    Write,
    /// Metadata writes; every range counts.
    Meta,
    /// Flushes; no range counts, so they are only ever slow with the whole disk.
    Flush,
}

/// Which sockets of a node do not get rid of what it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Blocked {
    /// None.
    #[default]
    No,
    /// The data socket.
    Data,
    /// The meta socket.
    Meta,
    /// Both: nothing the node says arrives any more, though it hears everything.
    Both,
}

#[derive(Clone, Copy, Debug)]
struct Bad {
    node: usize,
    op: DiskOp,
    first: u64,
    end: u64,
}

/// Fills a packet that arrives as garbage; no magic number has it.
const GARBAGE: u8 = 0xa5;

/// What becomes of a packet that is damaged on its way. Block data is not touched: only a digest could tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Damage {
    /// It arrives as bytes that are no packet.
    #[default]
    Garbage,
    /// A bit of its header flips. Headers have no checksum: it is a bit with which no header is one, by this number.
    Header(u64),
    /// So many bytes that nobody sent come before it.
    Prefix(usize),
}

impl Damage {
    /// Does it to the bytes of a packet.
    fn harm(self, bytes: &mut Vec<u8>) {
        match self {
            Damage::Garbage => bytes.fill(GARBAGE),
            Damage::Prefix(count) => {
                bytes.splice(..0, (0..count).map(|i| GARBAGE ^ i as u8));
            }
            Damage::Header(number) => {
                // Magic; the upper half of volume and command, and of the length its top byte; the padding.
                let bits_100: &[std::ops::Range<u64>] = &[0..32, 32..40, 48..56, 64..72, 96..128];
                let bits_80: &[std::ops::Range<u64>] = &[0..32, 40..48];
                let is_100 = bytes.len() >= HEADER100_BYTES && bytes[0] == 0x86;
                let fields = if is_100 { bits_100 } else { bits_80 };
                let field = &fields[(number % fields.len() as u64) as usize];
                let width = field.end - field.start;
                let bit = field.start + number / fields.len() as u64 % width;
                bytes[(bit / 8) as usize] ^= 0x80 >> (bit % 8);
            }
        }
    }
}

/// Changes the body of a packet before it leaves: sender, command, body.
pub type Tamper = fn(usize, Command, &mut [u8]);

/// The range of an operation that is under way, as the hooks see it. A flush has none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub op: DiskOp,
    pub first: u64,
    pub count: u64,
}

/// How handler scripts behave. All but those named here end with exit code 0 after a while.
#[derive(Clone, Debug, Default)]
pub struct Handlers {
    /// How fence-peer goes about it.
    pub fence_peer: FencePeer,
    /// What before-resync-source and before-resync-target do.
    pub before_resync: BeforeResync,
    /// Fence-peer and unfence-peer handlers that somebody else is to answer.
    pub asked: Vec<(Handler, HandlerRun)>,
    /// What was called: when, by which node, which handler, of which volume.
    pub calls: Vec<(Instant, Handler, Option<VolIdx>)>,
}

/// What a fence-peer script does. It reaches the peer's machine by a way of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FencePeer {
    /// Nothing, and ends with this exit code.
    Answers {
        /// The exit code.
        exit_code: i32,
        /// After so long.
        after: Duration,
    },
    /// Has the peer's process outdate its copy; a peer that does not run cannot go on either.
    Outdates {
        /// The answer comes after so long.
        after: Duration,
    },
    /// Cuts the peer's power.
    Stonith {
        /// After so long.
        after: Duration,
    },
    /// Asks somebody else, who answers by [`World::handler_answers`](crate::world::World::handler_answers); unfence-peer too.
    Asks,
}

/// What the scripts before a resync do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BeforeResync {
    /// How it ends; with anything but 0 the connection is dropped.
    pub exit_code: i32,
    /// After so long.
    pub after: Duration,
}

impl Default for BeforeResync {
    fn default() -> BeforeResync {
        BeforeResync { exit_code: 0, after: Duration::from_millis(1) }
    }
}

impl Default for FencePeer {
    fn default() -> FencePeer {
        FencePeer::Answers { exit_code: 0, after: Duration::from_millis(1) }
    }
}

/// All hooks; none is set at first.
#[derive(Default)]
pub struct Hooks {
    /// Packets are kept in `packets`.
    pub record: bool,
    /// What was sent since recording began or the list was emptied.
    pub packets: Vec<Packet>,
    /// Packets sent so far.
    pub sent: u64,
    /// The link is cut when this many packets were sent; the last of them does not arrive.
    pub cut_at: Option<u64>,
    /// Changes packets.
    pub tamper: Option<Tamper>,
    /// The packet with this number is damaged on its way.
    pub garbled_at: Option<u64>,
    /// How it is damaged.
    pub damage: Damage,
    /// Of the first packet with this number or a later one only a part arrives, and then the end of the stream: its socket
    /// is lost in the middle of it. By this number it is chosen which part.
    pub severed_at: Option<(u64, u64)>,
    /// Block data of the first packet with this number or a later one that has any is changed on its way.
    pub changed_at: Option<u64>,
    /// Data operations of a node's disk do not end.
    pub disk_held: [bool; 2],
    /// Metadata writes that ended, well or not, by node.
    pub meta_writes: [u64; 2],
    /// The metadata write of this node with this number fails.
    pub bad_meta_write: Option<(usize, u64)>,
    pub(crate) blocked: [Blocked; 2],
    pub(crate) parked: Vec<crate::world::Key>,
    /// Packets that do not leave: sender and kind.
    kept: Vec<(usize, Command)>,
    /// Sockets on which such a packet waits: what comes behind it waits too.
    pub(crate) kept_behind: Vec<SockId>,
    /// How the handlers of a node behave.
    pub handlers: [Handlers; 2],
    /// Errors by [`Hooks::break_disk`] are worth an operator's word where the policy is to pass them on.
    pub bad_places_spoil: bool,
    bad: Vec<Bad>,
    slow: Vec<Bad>,
}

impl Hooks {
    /// Operations of this kind that touch the range fail from now on.
    pub fn break_disk(&mut self, node: usize, op: DiskOp, first: u64, count: u64) {
        self.bad.push(Bad { node, op, first, end: first + count });
    }

    /// Operations of this kind that touch the range do not end until [`crate::world::World::let_go`].
    pub fn slow_disk(&mut self, node: usize, op: DiskOp, first: u64, count: u64) {
        self.slow.push(Bad { node, op, first, end: first + count });
    }

    /// No disk is slow any more; what waits for it is let go by the caller.
    pub(crate) fn hurry_disks(&mut self) {
        self.slow.clear();
    }

    /// Some disk does not end what it is asked.
    pub fn is_any_disk_slow(&self) -> bool {
        self.disk_held.contains(&true) || !self.slow.is_empty()
    }

    /// Operations that do not end, because a disk is held or slow.
    pub fn waiting_operations(&self, node: usize) -> usize {
        self.parked.iter().filter(|k| k.node as usize == node).count()
    }

    pub(crate) fn is_slow(&self, node: usize, r: Running) -> bool {
        if self.disk_held[node] && r.op != DiskOp::Meta {
            return true;
        }
        self.slow.iter().any(|b| {
            b.node == node
                && b.op == r.op
                && (r.op == DiskOp::Meta || b.first < r.first + r.count && r.first < b.end)
        })
    }

    /// Packets of this kind sent by this node, and all behind them on their socket, stay in the network until
    /// [`crate::world::World::pass`].
    pub fn keep(&mut self, from: usize, command: Command) {
        self.kept.push((from, command));
    }

    pub(crate) fn keep_nothing_of(&mut self, from: usize) {
        self.kept.retain(|(n, _)| *n != from);
    }

    /// All disks work again.
    pub fn mend_disks(&mut self) {
        self.bad.clear();
    }

    pub(crate) fn is_bad(&self, node: usize, op: DiskOp, first: u64, count: u64) -> bool {
        if op == DiskOp::Meta && self.bad_meta_write == Some((node, self.meta_writes[node])) {
            return true;
        }
        self.bad.iter().any(|b| {
            b.node == node && b.op == op && (op == DiskOp::Meta || first < b.end && b.first < first + count)
        })
    }

    /// A packet leaves on a socket; true if the link is to be cut before it.
    pub(crate) fn packet_leaves(
        &mut self,
        at: Instant,
        (from, sock): (usize, SockId),
        bytes: &mut Vec<u8>,
        sectors: u64,
    ) -> bool {
        self.sent += 1;
        if self.record || self.tamper.is_some() || !self.kept.is_empty() {
            let parsed =
                [HeaderForm::H100, HeaderForm::H80].iter().find_map(|f| parse_header(*f, bytes).ok());
            let (header, used) = parsed.flatten().expect("own packets have whole headers");
            if let Some(tamper) = self.tamper {
                tamper(from, header.command, &mut bytes[used..]);
            }
            if self.kept.contains(&(from, header.command)) && !self.kept_behind.contains(&sock) {
                self.kept_behind.push(sock);
            }
            if self.record {
                self.packets.push(Packet { at, from, header, body: bytes[used..].to_vec(), sectors });
            }
        }
        if self.garbled_at == Some(self.sent) {
            self.damage.harm(bytes);
        }
        self.cut_at == Some(self.sent)
    }

    /// The packet that leaves is the last one of its socket, and is cut short by this number.
    pub(crate) fn severs(&mut self) -> Option<u64> {
        self.severed_at.take_if(|(at, _)| *at <= self.sent).map(|(_, number)| number)
    }

    /// Block data of a packet that leaves.
    pub(crate) fn change_data(&mut self, versions: &mut Versions) {
        if self.changed_at.is_some_and(|at| at <= self.sent) && !versions.is_empty() {
            self.changed_at = None;
            // Only what is on its way: the buffer stays what it was.
            let mut changed = versions.to_vec();
            if let Some(v) = changed.last_mut() {
                *v |= crate::disk::ROTTEN;
            }
            *versions = changed.into();
        }
    }

    /// How many packets of this kind left before the first of that kind did, both from the same node.
    pub fn before(&self, from: usize, this: Command, that: Command) -> usize {
        let mine = self.packets.iter().filter(|p| p.from == from).map(|p| p.header.command);
        mine.take_while(|c| *c != that).filter(|c| *c == this).count()
    }

    /// Packets of this kind among those recorded, sent by this node.
    pub fn seen(&self, from: usize, command: Command) -> usize {
        self.packets.iter().filter(|p| p.from == from && p.header.command == command).count()
    }

    /// Bytes of block data in packets of this kind sent by this node.
    pub fn data_bytes(&self, from: usize, command: Command) -> u64 {
        let mine = self.packets.iter().filter(|p| p.from == from && p.header.command == command);
        mine.map(|p| p.sectors * 512).sum()
    }
}
