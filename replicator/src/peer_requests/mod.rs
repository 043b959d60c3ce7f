//! What the receiving side does: the peer's writes and reads, and the epochs its barriers divide them into.

pub(crate) mod conflict;
pub(crate) mod epoch;
pub(crate) mod read;
pub(crate) mod write;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use model::ids::BufId;
use model::time::Instant;
use model::units::{BLOCK_BYTES, SectorRange};

use crate::requests::table::Table;
use crate::resource::Resource;
use crate::timers::Timer;
use crate::wire::{BlockId, DpFlags};

/// Buffers of 4 KiB that block data takes.
pub(crate) fn pages_of(len_bytes: u32) -> u64 {
    u64::from(len_bytes.div_ceil(BLOCK_BYTES))
}

/// What a received write does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PeerWriteKind {
    Data,
    /// Discard or zero-out: reads as zeroes afterwards.
    Zero {
        may_unmap: bool,
    },
}

/// A write received from the peer.
#[derive(Debug)]
pub(crate) struct PeerWrite {
    pub vol: u8,
    pub kind: PeerWriteKind,
    pub sector: u64,
    pub len_bytes: u32,
    pub block_id: BlockId,
    pub dp: DpFlags,
    pub buf: Option<BufId>,
    /// Number of the receiver's epoch it is counted in.
    pub epoch: u64,
    /// Place in the order of arrival, see [`PeerSide::arrived`].
    pub order: u64,
    /// The peer's sequence number of it.
    pub seq: u32,
    /// Both nodes may be Primary: it is not known yet whether it comes before own writes or after them.
    pub undecided: bool,
    pub submitted: bool,
    /// When the disk got it.
    pub disk_at: Instant,
    /// The connection it came on is gone: nothing is acknowledged.
    pub orphan: bool,
    /// The peer had no disk when it sent this, so nobody but this node remembers what it changes.
    pub only_copy: bool,
    /// Holds activity log references: this node has the only disk.
    pub in_al: bool,
    pub waits_for_al: bool,
}

impl PeerWrite {
    pub(crate) fn range(&self) -> SectorRange {
        SectorRange::new(self.sector, self.len_bytes)
    }

    /// It changes something of this range of the volume.
    pub(crate) fn is_in(&self, v: usize, range: SectorRange) -> bool {
        usize::from(self.vol) == v && self.range().overlaps(range)
    }

    /// The disk has it, and has not ended it.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.submitted && !self.waits_for_al
    }

    /// Buffers that it holds until it is written.
    fn pages(&self) -> u64 {
        self.buf.map_or(0, |_| pages_of(self.len_bytes))
    }
}

/// A read of the peer's application.
#[derive(Debug)]
pub(crate) struct PeerRead {
    pub vol: u8,
    pub sector: u64,
    pub len_bytes: u32,
    pub block_id: BlockId,
    pub orphan: bool,
    /// Place in the order of arrival, see [`PeerSide::arrived`].
    pub order: u64,
    /// Not submitted yet: a write that came before and overlaps is not on the disk.
    pub waiting: bool,
    /// When the disk got it.
    pub disk_at: Instant,
}

impl PeerRead {
    pub(crate) fn range(&self) -> SectorRange {
        SectorRange::new(self.sector, self.len_bytes)
    }
}

/// Writes between two barriers, as received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecvEpoch {
    pub number: u64,
    /// Writes counted, including refused ones.
    pub size: u32,
    /// Not finished.
    pub active: u32,
    /// Volumes whose disk took writes of it, one bit each.
    pub wrote: u64,
    /// Number of the barrier that closed it.
    pub barrier: Option<u32>,
}

/// The receiving side of a connection.
pub(crate) struct PeerSide {
    /// Changed by [`PeerSide::add_write`] and [`PeerSide::take_write`].
    pub writes: Table<PeerWrite>,
    /// Buffers that the writes hold.
    pub unwritten_pages: u64,
    /// Received, not submitted, in the order received.
    pub waiting: Vec<u32>,
    /// Submitted: volume, range, slot.
    pub active: Vec<(u8, SectorRange, u32)>,
    pub reads: Table<PeerRead>,
    /// Writes and reads received so far.
    pub arrived: u64,
    /// Oldest first; the last one is open.
    pub epochs: VecDeque<RecvEpoch>,
    pub next_epoch: u64,
    /// Newest epoch covered by the flush under way, and the volumes whose flush has not ended, one bit each.
    pub flushing: Option<u64>,
    pub flushes_left: u64,
    pub flush_failed: bool,
    /// Epochs up to this one are flushed (or need no flush).
    pub flushed_up_to: Option<u64>,
    pub flush_generation: u32,
}

impl PeerSide {
    pub(crate) fn new() -> PeerSide {
        PeerSide {
            writes: Table::with_capacity(1024),
            unwritten_pages: 0,
            waiting: Vec::with_capacity(256),
            active: Vec::with_capacity(256),
            reads: Table::with_capacity(64),
            arrived: 0,
            epochs: VecDeque::with_capacity(256),
            next_epoch: 0,
            flushing: None,
            flushes_left: 0,
            flush_failed: false,
            flushed_up_to: None,
            flush_generation: 0,
        }
    }

    /// A write was received.
    pub(crate) fn add_write(&mut self, w: PeerWrite) -> u32 {
        self.unwritten_pages += w.pages();
        self.writes.insert(w)
    }

    /// It is written, or is not going to be.
    pub(crate) fn take_write(&mut self, slot: u32) -> PeerWrite {
        let w = self.writes.remove(slot);
        assert!(self.unwritten_pages >= w.pages(), "the buffers of every write are counted");
        self.unwritten_pages -= w.pages();
        w
    }

    /// # Panics
    /// If the buffers are not those of the writes.
    pub(crate) fn check_invariants(&self) {
        let pages: u64 = self.writes.iter().map(|(_, w)| w.pages()).sum();
        assert_eq!(pages, self.unwritten_pages, "buffers are those of the writes");
    }

    /// The next place in the order of arrival.
    pub(crate) fn arrival(&mut self) -> u64 {
        self.arrived += 1;
        self.arrived
    }

    pub(crate) fn open_epoch(&mut self) -> &mut RecvEpoch {
        if self.epochs.back().is_none_or(|e| e.barrier.is_some()) {
            let number = self.next_epoch;
            self.next_epoch += 1;
            self.epochs.push_back(RecvEpoch { number, size: 0, active: 0, wrote: 0, barrier: None });
        }
        self.epochs.back_mut().expect("just made")
    }
}

impl Resource {
    /// The peer has to wait before it sends more data: `max-buffers` is reached, by writes of which some end without it.
    ///
    /// The one that reaches it is received whole, however large. What waits for something else (own writes that the peer has
    /// not answered, if both nodes are Primary) does not hold up the socket: the peer's answer may be on it, behind its data.
    pub(crate) fn buffers_are_full(&self) -> bool {
        let Some(net) = self.conn.net.as_ref() else { return false };
        let resync: u64 = self.vols.iter().map(|v| v.resync.unwritten_pages).sum();
        let full = self.peer.unwritten_pages + resync >= u64::from(net.max_buffers);
        let flushes = self.peer.flushing.is_some() || self.timers.is_set(Timer::EpochFlush);
        full && (!self.peer.active.is_empty() || flushes || resync > 0)
    }
}
