//! The side whose data is good: starts the resync, serves blocks, ends it when the target says so
//! (drbd-wire 6.1, 6.3, 6.8).

use core::mem;

use model::ids::{BufId, DataUuid};
use model::state::{ConnState, DiskState, Role};
use model::units::{SectorRange, bits_of};

use super::rate::{ThrottleInput, should_throttle};
use super::run::{RsRead, SentBlock};
use crate::action::{Action, Actions, LogLevel};
use crate::connection::Fence;
use crate::digest::Digest;
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::meta::superblock::MetaFlags;
use crate::meta_io::{FullSyncStep, Then, uuid_line};
use crate::peer_requests::read::READS_MAX;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::timers::Timer;
use crate::volume::LocalDisk;
use crate::wire::{BlockId, Command, Request};

impl Resource {
    /// WFBitMapS was entered: send the bitmap as soon as it is what it has to be.
    pub(crate) fn bitmap_exchange_as_source(&mut self, v: usize, out: &mut Actions) {
        let later = self.whole_bitmap_write_runs(v);
        self.vols[v].resync.bitmap_due = later;
        if !later {
            self.send_bitmap(v, out);
        }
    }

    /// SyncSource was entered: rotate the data generations, tell the target once that is stable.
    pub(crate) fn become_source(&mut self, v: usize, out: &mut Actions) {
        self.begin_run(v, out);
        self.vols[v].wrote_ahead = false;
        let random = DataUuid(self.rng.uuid());
        let target = self.vols[v].peer_uuids.map_or(DataUuid::ZERO, |p| p.set.current);
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        let sync_uuid = disk.sb.uuids.begin_sync_source(target, random);
        disk.sb.flags = disk.sb.flags.without(MetaFlags::GROWN).without(MetaFlags::TARGET_BEGAN);
        disk.md.mark_dirty();
        let line = format_args!("updated sync UUID {}", uuid_line(&disk.sb.uuids));
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), line);
        let generation = self.conn.generation;
        if planted::on(Planted::SyncUuidBeforeStable) {
            self.send_sync_uuid(v, sync_uuid, out);
            return;
        }
        self.vols[v].resync.sync_uuid_due = true;
        let run = self.vols[v].resync.generation;
        // A source that forgets this UUID in a crash could not be told from unrelated data.
        self.when_super_block_stable(v, Then::SendSyncUuid { uuid: sync_uuid, generation, run }, out);
    }

    /// P_RS_DATA_REQUEST and its kin.
    pub(crate) fn receive_resync_request(
        &mut self,
        v: usize,
        r: &Request,
        digest: Option<&[u8]>,
        out: &mut Actions,
    ) {
        self.vols[v].resync.target_began = true;
        if mem::take(&mut self.vols[v].invalidation_unconfirmed) {
            self.recompute_md_flags(v);
        }
        if !self.request_is_possible(v, r, out) {
            return;
        }
        let csum = digest.is_some();
        let alg = self.csums_alg();
        let digest = digest.and_then(Digest::new).filter(|d| alg.is_some_and(|a| d.is_of(a)));
        if csum && digest.is_none() {
            self.protocol_error("P_CSUM_RS_REQUEST with a digest of another length", out);
            return;
        }
        let id = (r.sector, r.size_bytes, r.block_id);
        if self.vols[v].state.disk != DiskState::UpToDate {
            self.send_ack(Command::NegRsDreply, v, id, out);
            return;
        }
        if self.vols[v].state.conn == ConnState::Ahead {
            self.send_ack(Command::RsCancel, v, id, out);
            return;
        }
        if self.vols[v].resync.reads.len() >= READS_MAX {
            self.protocol_error("more P_RS_DATA_REQUESTs than any node sends at once", out);
            return;
        }
        self.note_that_target_began(v, out);
        let run = &mut self.vols[v].resync;
        run.csums = alg.filter(|_| csum);
        let slot = run.reads.insert(RsRead {
            range: SectorRange::new(r.sector, r.size_bytes),
            block_id: if csum { BlockId::RESYNC } else { r.block_id },
            digest,
            reading: false,
            orphan: false,
        });
        run.waiting_reads.push(slot);
        self.pump_resync_reads(v, out);
    }

    /// The first block that this target asks for: it has stored the sync UUID. Should a copy come instead of it that has not,
    /// what the bitmap has forgotten by then is missing there. That is on the disk before the first bit is cleared.
    fn note_that_target_began(&mut self, v: usize, out: &mut Actions) {
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        if disk.sb.flags.has(MetaFlags::TARGET_BEGAN) {
            return;
        }
        disk.sb.flags = disk.sb.flags.with(MetaFlags::TARGET_BEGAN);
        disk.md.mark_dirty();
        disk.md.sb_of_target = disk.md.sb_latest;
        self.md_sync(v, out);
    }

    /// Reads what no unfinished application write overlaps (drbd-wire 6.6), nor a block of a resync in the other direction that
    /// was given up.
    pub(crate) fn pump_resync_reads(&mut self, v: usize, out: &mut Actions) {
        let noted = |d: &LocalDisk| d.md.sb_stable >= d.md.sb_of_target || d.md.failed;
        if !self.vols[v].disk.as_ref().is_none_or(noted) {
            return;
        }
        if self.vols[v].resync.waiting_reads.is_empty() || self.source_throttled(v) {
            return;
        }
        let list = mem::take(&mut self.vols[v].resync.waiting_reads);
        for slot in list {
            let r = self.vols[v].resync.reads[slot];
            let primary = self.vols[v].state.role == Role::Primary;
            let overtakes = planted::on(Planted::ResyncReadOvertakesWrite);
            if primary && self.reqs.overlaps_unfinished(v as u8, r.range) && !overtakes {
                self.send_closed_barrier(out);
                self.vols[v].resync.waiting_reads.push(slot);
                continue;
            }
            if self.vols[v].resync.writing_overlaps(r.range) {
                self.vols[v].resync.waiting_reads.push(slot);
                continue;
            }
            if self.vols[v].disk.is_none() {
                self.vols[v].resync.reads.remove(slot);
                continue;
            }
            self.vols[v].resync.reads[slot].reading = true;
            let generation = self.vols[v].resync.reads.generation(slot);
            let tag = pack(IoKind::RsRead, (v as u32) << 24 | slot, generation);
            let alg = self.csums_alg().filter(|_| r.digest.is_some());
            self.read_disk(v, tag, (r.range.start, (r.range.len_sectors() * 512) as u32), alg, out);
        }
    }

    /// The application keeps the disk busy and the resync is fast enough: serve a step later.
    fn source_throttled(&mut self, v: usize) -> bool {
        let step = super::target::STEP;
        let now = self.now;
        let vol = &mut self.vols[v];
        let run = &mut vol.resync;
        if run.throttle_checked_at.is_none_or(|at| now.saturating_since(at) >= step) {
            let application_sectors = vol.app_sectors - run.app_sectors_seen.min(vol.app_sectors);
            run.app_sectors_seen = vol.app_sectors;
            run.throttle_checked_at = Some(now);
            run.throttled = should_throttle(&ThrottleInput {
                min_rate_kib_per_s: vol.disk.as_ref().map_or(0, |d| d.cfg.c_min_rate_kib_s),
                resync_kib_per_s: run.marks.as_ref().map_or(0, |m| m.current_kib_per_s(now)),
                application_sectors,
                peer_primary: vol.state.peer == Role::Primary,
            });
        }
        if run.throttled {
            let at = run.throttle_checked_at.map_or(now, |at| at + step);
            self.timers.set_if_idle(Timer::Throttle, at);
        }
        run.throttled
    }

    /// The block the target asked for was read, with its digest if the target sent one.
    pub(crate) fn resync_read_done(
        &mut self,
        v: usize,
        slot: u32,
        (buf, digest): (Option<BufId>, Option<Digest>),
        out: &mut Actions,
    ) {
        let r = self.vols[v].resync.reads.remove(slot);
        self.local_io_ended(v, out);
        let len_bytes = (r.range.len_sectors() * 512) as u32;
        if !r.orphan {
            let same = digest.is_some()
                && r.digest.is_some()
                && (digest == r.digest || planted::on(Planted::CsumsNotCompared));
            match buf {
                Some(_) if same => self.resync_block_is_same(v, r.range, out),
                Some(buf) => {
                    let at = (r.range.start, BlockId::RESYNC);
                    self.vols[v].resync.unacked.push(SentBlock { range: r.range, rewritten: false });
                    self.send_block(Command::RsDataReply, v, at, (buf, len_bytes), out);
                    if planted::on(Planted::BitClearedTooEarly) {
                        self.vols[v].set_in_sync(r.range);
                    }
                }
                None => {
                    self.send_ack(Command::NegRsDreply, v, (r.range.start, len_bytes, r.block_id), out);
                    self.vols[v].resync.failed_bits += r.range.len_sectors().div_ceil(8);
                }
            }
        }
        if let Some(buf) = buf {
            out.push(Action::Release { buf });
        }
        if buf.is_none() {
            self.local_io_failed(v, FailedIo::Read, out);
        }
        self.vols[v].pump = true;
    }

    /// The target has the same block: both are equal there.
    fn resync_block_is_same(&mut self, v: usize, range: SectorRange, out: &mut Actions) {
        let id = (range.start, (range.len_sectors() * 512) as u32, BlockId::RESYNC);
        self.send_ack(Command::RsIsInSync, v, id, out);
        self.vols[v].resync.same_bits += bits_of(range.len_sectors());
        self.resync_block_acked(v, range, out);
    }

    /// The target wrote a resync block: both copies are equal there. Of a run that was given up it says nothing: a disk
    /// may have been attached since, or the block written to.
    pub(crate) fn resync_block_acked(&mut self, v: usize, range: SectorRange, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let as_it_is = vol.resync.answered(range);
        if vol.state.conn == ConnState::Ahead {
            self.resync_block_acked_ahead(v, range, as_it_is, out);
            return;
        }
        if !matches!(vol.state.conn, ConnState::SyncSource | ConnState::PausedSyncS) {
            return;
        }
        vol.set_in_sync(range);
        vol.resync.all_acked |= vol.bitmap.count() <= vol.resync.failed_bits;
        self.finish_leftovers(v, out);
    }

    /// The target could not write a resync block.
    pub(crate) fn resync_block_refused(&mut self, v: usize, range: SectorRange, out: &mut Actions) {
        self.vols[v].resync.answered(range);
        if self.vols[v].state.conn == ConnState::Ahead {
            // Of a run that has ended; the block stays marked on both.
            return;
        }
        self.vols[v].resync.failed_bits += range.len_sectors().div_ceil(8);
        self.finish_leftovers(v, out);
    }

    /// The target said it is done before the last bits were gone here (drbd-wire, trap 35).
    fn finish_leftovers(&mut self, v: usize, out: &mut Actions) {
        let vol = &self.vols[v];
        if vol.resync.peer_done && vol.bitmap.count() <= vol.resync.failed_bits {
            self.finish_as_source(v, out);
        }
    }

    /// The target has ended without the blocks that failed.
    pub(crate) fn finish_incomplete_as_source(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        // Application writes that failed there are marked here, and did not count among the failed blocks.
        vol.resync.failed_bits = vol.resync.failed_bits.max(vol.bitmap.count());
        vol.resync.incomplete = true;
        self.finish_as_source(v, out);
    }

    /// The target's state packet says the resync is finished, and nothing is left here.
    pub(crate) fn finish_as_source(&mut self, v: usize, out: &mut Actions) {
        let run = &mut self.vols[v].resync;
        run.peer_done = !run.incomplete;
        if mem::replace(&mut self.vols[v].resync.ending, true) {
            return;
        }
        self.ping_fence(Fence::EndOfResync { vol: v as u8 }, out);
    }

    /// Sets all bits, protected by the FULL_SYNC flag, and writes them; then goes on with `step`.
    pub(crate) fn set_all_bits(&mut self, v: usize, step: FullSyncStep, out: &mut Actions) {
        self.vols[v].bitmap.set_all();
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        disk.sb.flags = disk.sb.flags.with(crate::meta::superblock::MetaFlags::FULL_SYNC);
        disk.md.mark_dirty();
        disk.md.whole_bitmap = true;
        self.md_sync(v, out);
        self.write_bitmap_all(v, out);
        self.when_bitmap_written(v, Then::FullSyncWritten(step), out);
    }

    pub(crate) fn full_sync_written(&mut self, v: usize, step: FullSyncStep, out: &mut Actions) {
        if let Some(disk) = self.vols[v].disk.as_mut() {
            disk.sb.flags = disk.sb.flags.without(crate::meta::superblock::MetaFlags::FULL_SYNC);
            disk.md.mark_dirty();
            disk.md.whole_bitmap = false;
        }
        self.md_sync(v, out);
        self.vols[v].pump = true;
        let conn = self.vols[v].state.conn;
        if conn == ConnState::WFBitMapS && core::mem::take(&mut self.vols[v].resync.bitmap_due) {
            self.send_bitmap(v, out);
        }
        match step {
            FullSyncStep::LeaveStartingSync if conn == ConnState::StartingSyncS => {
                self.start_as_source(v, out)
            }
            FullSyncStep::LeaveStartingSync if conn == ConnState::StartingSyncT => {
                self.wait_for_sync_uuid(v, out);
            }
            _ => {}
        }
    }

    /// StartingSyncS or StartingSyncT was entered by command (drbd-states 11.2 row 18).
    pub(crate) fn begin_full_sync(&mut self, v: usize, out: &mut Actions) {
        self.set_all_bits(v, FullSyncStep::LeaveStartingSync, out);
    }
}
