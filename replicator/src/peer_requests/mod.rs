//! What the receiving side does: the peer's writes and reads, and the epochs its barriers divide them into.

pub(crate) mod conflict;
pub(crate) mod epoch;
pub(crate) mod read;
pub(crate) mod write;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use model::ids::BufId;
use model::time::Instant;
use model::units::SectorRange;

use crate::requests::table::Table;
use crate::wire::{BlockId, DpFlags};

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
    pub writes: Table<PeerWrite>,
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
