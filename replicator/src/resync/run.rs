//! One run of a resync on a volume, seen from either side.

use alloc::vec::Vec;

use model::ids::DataUuid;
use model::time::Instant;
use model::units::SectorRange;

use super::before::Before;
use super::progress::Progress;
use super::rate::RateController;
use crate::bitmap::exchange::BitmapReceiver;
use crate::digest::{Digest, DigestAlg};
use crate::meta::uuids::Uuids;
use crate::requests::table::Table;
use crate::wire::BlockId;

/// A block the peer (the target) asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RsRead {
    pub range: SectorRange,
    pub block_id: BlockId,
    /// Digest of what the target has.
    pub digest: Option<Digest>,
    pub reading: bool,
    pub orphan: bool,
}

/// A block this node (the target) asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RsRequest {
    pub range: SectorRange,
    /// The own data is read for its digest; the request has not been sent.
    pub digesting: bool,
    /// The data arrived and is being written.
    pub writing: bool,
    /// Buffers that it takes until then.
    pub pages: u64,
    /// A write of the peer to it failed here since: what the peer finds equal is not.
    pub spoiled: bool,
    /// Its run has ended: what comes is dropped.
    pub orphan: bool,
}

impl RsRequest {
    /// The peer was asked, and has not answered.
    pub(crate) fn is_asked(&self) -> bool {
        !self.digesting && !self.writing
    }
}

/// A block sent to the target, which has not said what became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentBlock {
    pub range: SectorRange,
    /// Written since, and only marked: what the target has of it is old.
    pub rewritten: bool,
}

/// State of the resync of a volume.
pub(crate) struct ResyncRun {
    /// A run is under way (also while paused).
    pub active: bool,
    pub started_at: Instant,
    pub paused_at: Option<Instant>,
    pub paused_ns: u64,
    pub total_bits: u64,
    pub failed_bits: u64,
    /// Blocks that need not be copied, as their digests are equal.
    pub same_bits: u64,
    /// Requests carry digests by this algorithm.
    pub csums: Option<DigestAlg>,
    /// Target: next bit to look at.
    pub cursor: u64,
    /// Target: requests without their data on disk.
    pub requests: Table<RsRequest>,
    /// Source: blocks to be read and sent.
    pub reads: Table<RsRead>,
    /// Source: reads that wait for application writes, oldest first.
    pub waiting_reads: Vec<u32>,
    /// A range the resync wants next; new application writes stay out of it.
    pub wanted: Option<SectorRange>,
    pub in_flight_sectors: u64,
    /// Target: buffers of data that is being written.
    pub unwritten_pages: u64,
    /// Sectors that arrived since the controller's last step.
    pub received_sectors: u64,
    /// What the controller still allows in this step.
    pub budget_sectors: u64,
    /// The super block that says "target" is stable, so data may be overwritten.
    pub may_request: bool,
    /// The last acknowledgements are being fenced.
    pub ending: bool,
    pub flushing_end: bool,
    /// Source: every block was acknowledged at some time, so the target may have finished without our knowing.
    pub all_acked: bool,
    /// Source: P_SYNC_UUID waits for the super block.
    pub sync_uuid_due: bool,
    /// Source: blocks sent that the target has not answered.
    pub unacked: Vec<SentBlock>,
    /// Target: the source is Ahead, as it has refused a block; it is about to say so.
    pub refused_ahead: bool,
    /// The target has asked for a block: it has stored the sync UUID as its current generation.
    pub target_began: bool,
    /// The target has ended without being UpToDate.
    pub incomplete: bool,
    /// Source: the peer says it is done.
    pub peer_done: bool,
    /// Target: the generations of the source when it sent P_SYNC_UUID. One that it begins afterwards (it goes on alone
    /// because this disk is about to go) is not what this run brings.
    pub source_uuids: Option<Uuids>,
    /// P_SYNC_UUID that came before this node was ready for it.
    pub early_sync_uuid: Option<DataUuid>,
    /// The handler that it begins after.
    pub before: Option<Before>,
    pub receiver: Option<BitmapReceiver>,
    /// The own bitmap goes to the target as soon as all of it is written.
    pub bitmap_due: bool,
    /// The bitmap was last written at.
    pub bitmap_written_at: Instant,
    pub marks: Option<Progress>,
    pub controller: Option<RateController>,
    /// Application sectors moved at the last look, for who yields to whom.
    pub app_sectors_seen: u64,
    /// Source: until when requests are served without another look, or held back.
    pub throttle_checked_at: Option<Instant>,
    pub throttled: bool,
    /// Runs so far; tells stale completions apart.
    pub generation: u32,
}

impl Default for ResyncRun {
    fn default() -> ResyncRun {
        ResyncRun {
            active: false,
            started_at: Instant(0),
            paused_at: None,
            paused_ns: 0,
            total_bits: 0,
            failed_bits: 0,
            same_bits: 0,
            csums: None,
            cursor: 0,
            requests: Table::with_capacity(64),
            reads: Table::with_capacity(64),
            waiting_reads: Vec::new(),
            wanted: None,
            in_flight_sectors: 0,
            unwritten_pages: 0,
            received_sectors: 0,
            budget_sectors: 0,
            may_request: false,
            ending: false,
            flushing_end: false,
            all_acked: false,
            sync_uuid_due: false,
            unacked: Vec::new(),
            refused_ahead: false,
            target_began: false,
            incomplete: false,
            peer_done: false,
            source_uuids: None,
            early_sync_uuid: None,
            before: None,
            receiver: None,
            bitmap_due: false,
            bitmap_written_at: Instant(0),
            marks: None,
            controller: None,
            app_sectors_seen: 0,
            throttle_checked_at: None,
            throttled: false,
            generation: 0,
        }
    }
}

impl ResyncRun {
    /// Application writes may not start in this range now (drbd-wire 6.6).
    pub(crate) fn locks_out(&self, range: SectorRange) -> bool {
        if !self.active {
            return false;
        }
        self.wanted.is_some_and(|w| w.overlaps(range))
            || self.reads.iter().any(|(_, r)| r.range.overlaps(range))
            || self.requests.iter().any(|(_, r)| r.range.overlaps(range))
    }

    /// A resync write to the range is in progress; writes of the peer go behind it.
    pub(crate) fn writing_overlaps(&self, range: SectorRange) -> bool {
        self.requests.iter().any(|(_, r)| r.writing && r.range.overlaps(range))
    }

    /// The data of a request is here, in so many buffers, and is written from now on.
    pub(crate) fn begin_write(&mut self, slot: u32, pages: u64) {
        let r = &mut self.requests[slot];
        assert!(r.is_asked(), "data comes for requests that were sent");
        (r.writing, r.pages) = (true, pages);
        self.unwritten_pages += pages;
    }

    /// The write has ended, or is waited for no more.
    pub(crate) fn end_write(&mut self, slot: u32) -> RsRequest {
        let r = self.requests.remove(slot);
        assert!(self.unwritten_pages >= r.pages, "the buffers of every write are counted");
        self.unwritten_pages -= r.pages;
        r
    }

    /// Requests of a run that has ended were not answered.
    pub(crate) fn has_unanswered(&self) -> bool {
        self.requests.iter().any(|(_, r)| r.orphan && r.is_asked())
    }

    /// They are not going to be.
    pub(crate) fn forget_unanswered(&mut self) {
        let slots: Vec<u32> =
            self.requests.iter().filter(|(_, r)| r.orphan && r.is_asked()).map(|(slot, _)| slot).collect();
        for slot in slots {
            self.requests.remove(slot);
        }
    }

    /// A write goes to the own disk alone.
    pub(crate) fn rewrites(&mut self, range: SectorRange) {
        for b in self.unacked.iter_mut().filter(|b| b.range.overlaps(range)) {
            b.rewritten = true;
        }
    }

    /// The target has answered a block; true: it has the block as it is here.
    pub(crate) fn answered(&mut self, range: SectorRange) -> bool {
        let Some(i) = self.unacked.iter().position(|b| b.range == range) else { return false };
        !self.unacked.swap_remove(i).rewritten
    }

    /// A write of the peer failed here.
    pub(crate) fn spoil(&mut self, range: SectorRange) {
        let hit = self.requests.iter().filter(|(_, r)| r.range.overlaps(range));
        let slots: Vec<u32> = hit.map(|(slot, _)| slot).collect();
        for slot in slots {
            self.requests[slot].spoiled = true;
        }
    }

    /// Pause included, in nanoseconds up to `now`.
    pub(crate) fn paused_until(&self, now: Instant) -> u64 {
        self.paused_ns + self.paused_at.map_or(0, |at| now.0.saturating_sub(at.0))
    }
}
