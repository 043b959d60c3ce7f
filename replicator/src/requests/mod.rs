//! Application requests: the table, the transfer log and the epochs of the sending side.
//!
//! Life of a replicated write: `submit` puts it into the table; `start` (admission) checks suspension, overlaps
//! and the activity log; `route_write` submits it to the disk and the peer; `complete` answers the client once
//! the protocol's condition holds; the peer's barrier acknowledgement lets it leave the transfer log and its
//! activity log extent (`leave`).

pub(crate) mod admission;
pub(crate) mod complete;
pub(crate) mod congestion;
pub(crate) mod epoch;
pub(crate) mod flush;
pub(crate) mod loss;
pub(crate) mod read;
pub(crate) mod table;
pub(crate) mod write;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use model::ids::BufId;
use model::time::Instant;
use model::units::SectorRange;

use crate::event::ClientTag;
use table::Table;

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
    Discard,
    Zeroes { may_unmap: bool },
    Flush,
}

/// Progress of a request. Legal combinations: at most one of LOCAL_PENDING, LOCAL_OK, LOCAL_FAILED; NET_PENDING
/// and NET_OK only with NET_WANTED or NET_LOST; IN_LOG only with NET_WANTED; COMPLETED never with WAITING.
pub(crate) mod flag {
    /// Not admitted yet.
    pub const WAITING: u32 = 1 << 0;
    /// Holds references on its activity log extents.
    pub const IN_AL: u32 = 1 << 1;
    /// Counted in the list of active writes.
    pub const ACTIVE: u32 = 1 << 2;
    /// Submitted to the local disk.
    pub const LOCAL_PENDING: u32 = 1 << 3;
    pub const LOCAL_OK: u32 = 1 << 4;
    pub const LOCAL_FAILED: u32 = 1 << 5;
    /// Sent to the peer (this connection).
    pub const NET_WANTED: u32 = 1 << 6;
    /// The protocol's answer is missing.
    pub const NET_PENDING: u32 = 1 << 7;
    /// The peer's part succeeded.
    pub const NET_OK: u32 = 1 << 8;
    /// A final acknowledgement (P_WRITE_ACK) arrived: the peer's disk has it.
    pub const NET_WRITTEN: u32 = 1 << 9;
    /// The peer could not do it, or the connection was lost before the barrier acknowledgement.
    pub const NET_LOST: u32 = 1 << 10;
    /// In the transfer log.
    pub const IN_LOG: u32 = 1 << 11;
    /// Covered by a barrier acknowledgement.
    pub const BARRIER_ACKED: u32 = 1 << 12;
    /// Answered to the client.
    pub const COMPLETED: u32 = 1 << 13;
    /// Ready to be answered, but held back.
    pub const HELD: u32 = 1 << 14;
    /// Its epoch was closed by a flush that waits for it.
    pub const FUA: u32 = 1 << 15;
    /// The peer wants it sent again, behind a write of its own; the own disk has not finished it.
    pub const POSTPONED: u32 = 1 << 16;
    /// What it leaves is marked already, or it left nothing: a resync may have cleared the marks since, and rightly.
    pub const SETTLED: u32 = 1 << 17;
}

/// An application request.
#[derive(Debug)]
pub(crate) struct Request {
    pub tag: ClientTag,
    pub vol: u8,
    pub kind: Kind,
    pub sector: u64,
    pub len_bytes: u32,
    /// Data of a write until completed; data of a read when it arrived.
    pub buf: Option<BufId>,
    pub flags: u32,
    /// Epoch of a replicated write; for a flush: the last epoch it waits for.
    pub epoch: u32,
    /// When it was sent to the peer.
    pub sent_at: Instant,
    /// When it was given to the local disk.
    pub local_at: Instant,
    /// Position of its last byte in the data socket's stream.
    pub sent_pos: u64,
}

impl Request {
    pub(crate) fn range(&self) -> SectorRange {
        SectorRange::new(self.sector, self.len_bytes)
    }

    pub(crate) fn has(&self, f: u32) -> bool {
        self.flags & f != 0
    }

    pub(crate) fn set(&mut self, f: u32) {
        self.flags |= f;
    }

    pub(crate) fn clear(&mut self, f: u32) {
        self.flags &= !f;
    }

    pub(crate) fn changes_data(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::Discard | Kind::Zeroes { .. })
    }
}

/// An epoch of which at least one write was sent on this connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentEpoch {
    pub number: u32,
    pub writes: u32,
    /// Of them: those that are to be sent again, in another epoch.
    pub postponed: u32,
    pub barrier_sent_at: Option<Instant>,
}

/// All application requests of a resource.
pub(crate) struct Requests {
    pub table: Table<Request>,
    /// Replicated writes not covered by a barrier acknowledgement, in the order sent.
    pub log: VecDeque<u32>,
    pub epochs: VecDeque<SentEpoch>,
    /// Number the next write gets; goes on across connections.
    pub current_epoch: u32,
    /// Writes in the current epoch so far.
    pub current_writes: u32,
    /// Remote reads without an answer.
    pub remote_reads: Vec<u32>,
    /// Protocol A: writes whose last byte the socket has not accepted yet, in order (slot, generation).
    pub unsent: VecDeque<(u32, u32)>,
    /// Flushes that wait for the peer's barrier acknowledgements.
    pub flushes: Vec<u32>,
    /// Writes in progress, for overlaps: volume, range, slot.
    pub active: Vec<(u8, SectorRange, u32)>,
    /// The next write carries DP_FLUSH: a flush was completed by the local disk alone.
    pub flush_before_next: bool,
    pub scratch: Vec<u32>,
}

impl Requests {
    pub(crate) fn new() -> Requests {
        Requests {
            table: Table::with_capacity(1024),
            log: VecDeque::with_capacity(4096),
            epochs: VecDeque::with_capacity(1024),
            current_epoch: 0,
            current_writes: 0,
            remote_reads: Vec::with_capacity(64),
            unsent: VecDeque::with_capacity(256),
            flushes: Vec::with_capacity(64),
            active: Vec::with_capacity(256),
            flush_before_next: false,
            scratch: Vec::with_capacity(256),
        }
    }

    /// A write of the volume that overlaps is in progress.
    pub(crate) fn overlaps_active(&self, vol: u8, range: SectorRange) -> bool {
        self.active.iter().any(|(v, r, _)| *v == vol && r.overlaps(range))
    }

    /// A write in the transfer log overlaps that the peer's disk is not known to hold.
    pub(crate) fn overlaps_unwritten(&self, vol: u8, range: SectorRange) -> bool {
        self.log.iter().any(|slot| {
            let r = &self.table[*slot];
            r.vol == vol && !r.has(flag::NET_WRITTEN) && r.range().overlaps(range)
        })
    }

    /// The same, or a write that is in progress in any way. One that is only held back is on the disks: a resync that waited
    /// for it would wait for ever if the answer waits for the resync.
    pub(crate) fn overlaps_unfinished(&self, vol: u8, range: SectorRange) -> bool {
        let in_progress = self
            .active
            .iter()
            .any(|(v, r, slot)| *v == vol && r.overlaps(range) && !self.table[*slot].has(flag::HELD));
        in_progress || self.overlaps_unwritten(vol, range)
    }
}
