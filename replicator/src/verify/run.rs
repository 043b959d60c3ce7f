//! One run of verify on a volume, seen from either side.

use alloc::vec::Vec;

use model::time::Instant;
use model::units::{SECTORS_PER_BIT, SectorRange, bits_of};

use crate::digest::{Digest, DigestAlg};
use crate::planted::{self, Planted};
use crate::requests::table::Table;
use crate::resync::progress::Progress;
use crate::resync::rate::{RateController, RateOptions};

/// A block this node (the requester) asked the digest of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OvRequest {
    pub range: SectorRange,
    /// The peer's digest; the own block is being read.
    pub digest: Option<Digest>,
    pub orphan: bool,
}

/// What a block that the peer asked for waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OvStep {
    /// Writes of the application.
    Writes,
    Disk,
    /// The requester's result.
    Result,
}

/// A block the peer (the requester) asked the digest of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OvRead {
    pub range: SectorRange,
    pub step: OvStep,
    pub orphan: bool,
}

/// State of the verify of a volume. Counts are of blocks of 4 KiB.
pub(crate) struct VerifyRun {
    /// A run is under way.
    pub active: bool,
    /// The last block's result is being fenced.
    pub ending: bool,
    /// This node asks.
    requester: bool,
    /// The other side: the first request has come.
    begun: bool,
    pub alg: DigestAlg,
    /// What the command asked for: first sector, sector to end before.
    asked: (Option<u64>, Option<u64>),
    /// Where the next run begins if nothing is said.
    next_start_sector: u64,
    /// Next sector to ask for; on the other side, behind what was asked for.
    pub cursor_sector: u64,
    pub end_sector: u64,
    pub total_blocks: u64,
    pub left_blocks: u64,
    pub found_blocks: u64,
    pub refused_blocks: u64,
    /// Found and not logged yet.
    pub found_range: Option<SectorRange>,
    pub requests: Table<OvRequest>,
    pub reads: Table<OvRead>,
    /// Reads that wait for writes, oldest first.
    pub waiting_reads: Vec<u32>,
    /// The block that is asked for next; new writes of the application stay out of it.
    pub wanted: Option<SectorRange>,
    pub in_flight_sectors: u64,
    /// Sectors compared since the controller's last step.
    pub compared_sectors: u64,
    /// What the controller still allows in this step.
    pub budget_sectors: u64,
    pub controller: Option<RateController>,
    pub marks: Option<Progress>,
    pub started_at: Instant,
    pub bitmap_written_at: Instant,
    /// Application sectors moved at the last look.
    pub app_sectors_seen: u64,
    /// The other side: until when requests are served without another look, or held back.
    pub throttle_checked_at: Option<Instant>,
    pub throttled: bool,
    /// Runs so far.
    pub generation: u32,
}

impl Default for VerifyRun {
    fn default() -> VerifyRun {
        VerifyRun {
            active: false,
            ending: false,
            requester: false,
            begun: false,
            alg: DigestAlg::Crc32c,
            asked: (None, None),
            next_start_sector: 0,
            cursor_sector: 0,
            end_sector: 0,
            total_blocks: 0,
            left_blocks: 0,
            found_blocks: 0,
            refused_blocks: 0,
            found_range: None,
            requests: Table::with_capacity(0),
            reads: Table::with_capacity(0),
            waiting_reads: Vec::new(),
            wanted: None,
            in_flight_sectors: 0,
            compared_sectors: 0,
            budget_sectors: 0,
            controller: None,
            marks: None,
            started_at: Instant(0),
            bitmap_written_at: Instant(0),
            app_sectors_seen: 0,
            throttle_checked_at: None,
            throttled: false,
            generation: 0,
        }
    }
}

impl VerifyRun {
    /// What the next run of this node as the requester shall compare.
    pub(crate) fn asked_for(&mut self, start_sector: Option<u64>, stop_sector: Option<u64>) {
        self.asked = (start_sector, stop_sector);
    }

    pub(super) fn begin(&mut self, alg: DigestAlg, requester: bool, now: Instant) {
        assert_eq!(self.in_flight_sectors, 0, "a run begins without requests of its own");
        self.active = true;
        self.ending = false;
        self.requester = requester;
        self.begun = false;
        self.alg = alg;
        self.cursor_sector = 0;
        self.end_sector = 0;
        self.total_blocks = 0;
        self.left_blocks = 0;
        self.found_blocks = 0;
        self.refused_blocks = 0;
        self.found_range = None;
        self.wanted = None;
        self.compared_sectors = 0;
        self.budget_sectors = 0;
        self.controller = None;
        self.marks = None;
        self.started_at = now;
        self.bitmap_written_at = now;
        self.throttle_checked_at = None;
        self.throttled = false;
        self.generation = self.generation.wrapping_add(1);
    }

    /// This node asks; returns the first sector.
    pub(super) fn begin_as_source(&mut self, size_sectors: u64, options: Option<RateOptions>) -> u64 {
        let (start, stop) = core::mem::take(&mut self.asked);
        let start = start.unwrap_or(self.next_start_sector);
        let start = start - start % SECTORS_PER_BIT;
        self.end_sector = stop.unwrap_or(u64::MAX).min(size_sectors);
        self.controller = options.map(RateController::new);
        self.begin_at(start);
        start
    }

    /// The other side has its first request.
    pub(super) fn begin_as_target(&mut self, start_sector: u64, size_sectors: u64) -> bool {
        let first = !core::mem::replace(&mut self.begun, true);
        if first {
            self.end_sector = size_sectors;
            self.begin_at(start_sector);
        }
        first
    }

    fn begin_at(&mut self, start_sector: u64) {
        self.begun = true;
        self.cursor_sector = start_sector;
        let to_compare = self.end_sector.saturating_sub(start_sector);
        self.total_blocks = bits_of(to_compare);
        self.left_blocks = self.total_blocks;
        self.marks = Some(Progress::start(self.started_at, self.total_blocks));
    }

    /// It is over: only what a disk still has is kept, for its end. Returns the sector reached if that is not the end
    /// of the device.
    pub(super) fn end(&mut self, size_sectors: u64) -> Option<u64> {
        let position = self.position();
        self.active = false;
        self.ending = false;
        self.wanted = None;
        self.in_flight_sectors = 0;
        self.waiting_reads.clear();
        let slots: Vec<(u32, bool)> = self.requests.iter().map(|(s, r)| (s, r.digest.is_some())).collect();
        for (slot, reading) in slots {
            if reading {
                self.requests[slot].orphan = true;
            } else {
                self.requests.remove(slot);
            }
        }
        let slots: Vec<(u32, bool)> = self.reads.iter().map(|(s, r)| (s, r.step == OvStep::Disk)).collect();
        for (slot, reading) in slots {
            if reading {
                self.reads[slot].orphan = true;
            } else {
                self.reads.remove(slot);
            }
        }
        if !self.begun {
            return None;
        }
        let complete = position >= size_sectors;
        self.next_start_sector = if complete { 0 } else { position };
        (!complete).then_some(position)
    }

    /// The disk was given up: its operations end for nobody.
    pub(crate) fn forget(&mut self) {
        assert!(!self.active, "a disk that has failed ends the run");
        let requests: Vec<u32> = self.requests.iter().map(|(slot, _)| slot).collect();
        for slot in requests {
            self.requests.remove(slot);
        }
        let reads: Vec<u32> = self.reads.iter().map(|(slot, _)| slot).collect();
        for slot in reads {
            self.reads.remove(slot);
        }
    }

    /// Everything before this sector was compared.
    fn position(&self) -> u64 {
        let asked = self.requests.iter().filter(|(_, r)| !r.orphan).map(|(_, r)| r.range.start);
        let read = self.reads.iter().filter(|(_, r)| !r.orphan).map(|(_, r)| r.range.start);
        asked.chain(read).min().unwrap_or(self.cursor_sector)
    }

    pub(super) fn blocks_done(&mut self, range: SectorRange) {
        self.left_blocks = self.left_blocks.saturating_sub(bits_of(range.len_sectors()));
    }

    /// This node asks for blocks, and has not asked for all.
    pub(crate) fn requests_blocks(&self) -> bool {
        self.active && self.requester && !self.ending
    }

    /// This node asks.
    pub(crate) fn is_requester(&self) -> bool {
        self.requester
    }

    /// Requests that the peer has not answered.
    pub(crate) fn unanswered(&self) -> u64 {
        self.requests.iter().filter(|(_, r)| r.digest.is_none()).count() as u64
    }

    /// Application writes may not start in this range now (drbd-wire 6.6).
    pub(crate) fn locks_out(&self, range: SectorRange) -> bool {
        if !self.active || planted::on(Planted::VerifyWithoutLock) {
            return false;
        }
        self.wanted.is_some_and(|w| w.overlaps(range))
            || self.requests.iter().any(|(_, r)| !r.orphan && r.range.overlaps(range))
            || self.reads.iter().any(|(_, r)| !r.orphan && r.range.overlaps(range))
    }

    /// # Panics
    /// If a total is wrong.
    pub(crate) fn check_invariants(&self) {
        let flying: u64 =
            self.requests.iter().filter(|(_, r)| !r.orphan).map(|(_, r)| r.range.len_sectors()).sum();
        assert_eq!(flying, self.in_flight_sectors, "verify: sectors in flight are those asked for");
        assert!(self.left_blocks <= self.total_blocks, "verify: no more is left than there was");
    }
}
