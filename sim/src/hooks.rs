//! What a script may do to the world at an exact point: look at packets, cut the link at the n-th one, stop one
//! direction of one socket, hold a disk, break a range of it.

use model::time::Instant;
use replicator::wire::{Command, Header, HeaderForm, parse_header};

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
pub(crate) const GARBAGE: u8 = 0xa5;

/// Changes the body of a packet before it leaves: sender, command, body.
pub type Tamper = fn(usize, Command, &mut [u8]);

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
    /// The packet with this number arrives as bytes that are no packet.
    pub garbled_at: Option<u64>,
    /// Data operations of a node's disk do not end.
    pub disk_held: [bool; 2],
    pub(crate) blocked: [Blocked; 2],
    pub(crate) parked: Vec<(u64, usize, u32)>,
    bad: Vec<Bad>,
}

impl Hooks {
    /// Operations of this kind that touch the range fail from now on.
    pub fn break_disk(&mut self, node: usize, op: DiskOp, first: u64, count: u64) {
        self.bad.push(Bad { node, op, first, end: first + count });
    }

    /// All disks work again.
    pub fn mend_disks(&mut self) {
        self.bad.clear();
    }

    pub(crate) fn is_bad(&self, node: usize, op: DiskOp, first: u64, count: u64) -> bool {
        self.bad.iter().any(|b| {
            b.node == node && b.op == op && (op == DiskOp::Meta || first < b.end && b.first < first + count)
        })
    }

    /// A packet leaves; true if the link is to be cut before it.
    pub(crate) fn packet_leaves(&mut self, at: Instant, from: usize, bytes: &mut [u8], sectors: u64) -> bool {
        self.sent += 1;
        if self.record || self.tamper.is_some() {
            let parsed =
                [HeaderForm::H100, HeaderForm::H80].iter().find_map(|f| parse_header(*f, bytes).ok());
            let (header, used) = parsed.flatten().expect("own packets have whole headers");
            if let Some(tamper) = self.tamper {
                tamper(from, header.command, &mut bytes[used..]);
            }
            if self.record {
                self.packets.push(Packet { at, from, header, body: bytes[used..].to_vec(), sectors });
            }
        }
        if self.garbled_at == Some(self.sent) {
            bytes.fill(GARBAGE);
        }
        self.cut_at == Some(self.sent)
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
