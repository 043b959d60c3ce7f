//! The side that gets the data: asks for blocks, writes them, decides when it is over (drbd-wire 6.2, 6.4, 6.8).

use alloc::format;
use model::ids::{BufId, DataUuid};
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::state_word::StateChange;
use model::time::Duration;
use model::units::{BLOCK_BYTES, MAX_BIO_BYTES, SECTORS_PER_BIT, SECTORS_PER_RESYNC_EXTENT, SectorRange};

use super::progress::Progress;
use super::rate::{RateController, RateOptions, StepInput};
use super::run::RsRequest;
use crate::action::{Action, Actions, LogLevel};
use crate::connection::Fence;
use crate::digest::{Digest, DigestAlg};
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, flush_slot, pack};
use crate::meta::superblock::MetaFlags;
use crate::meta_io::{Then, uuid_line};
use crate::peer_requests::pages_of;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::state::{Kind, is_source};
use crate::timers::Timer;
use crate::wire::{BlockId, Command};

/// How often the bitmap of a running resync is written.
const BITMAP_WRITE_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two steps of the rate controller.
pub(crate) const STEP: Duration = Duration::from_millis(100);

impl Resource {
    /// The bitmap exchange is over (or was not needed): the source's P_SYNC_UUID comes next.
    pub(crate) fn wait_for_sync_uuid(&mut self, v: usize, out: &mut Actions) {
        let _ = self.change_volume(v, StateChange::NONE.conn(ConnState::WFSyncUUID), Kind::Soft, out);
        let waits = self.vols[v].state.conn == ConnState::WFSyncUUID;
        if waits && let Some(uuid) = self.vols[v].resync.early_sync_uuid.take() {
            self.start_as_target(v, uuid, out);
        }
    }

    /// P_SYNC_UUID.
    pub(crate) fn receive_sync_uuid(&mut self, v: usize, uuid: DataUuid, out: &mut Actions) {
        let source = self.vols[v].peer_uuids.map(|p| p.set);
        if !matches!(self.vols[v].state.conn, ConnState::WFSyncUUID | ConnState::Behind) {
            // The exchange of bitmaps, or the answer to an invalidate, is still on its way on the other socket.
            // Otherwise it belongs to a resync that ended before it began.
            let expected = matches!(self.vols[v].state.conn, ConnState::WFBitMapT | ConnState::StartingSyncT)
                || self.asks_for_full_sync(v);
            if expected {
                self.vols[v].resync.early_sync_uuid = Some(uuid);
                self.vols[v].resync.source_uuids = source;
            } else if is_source(self.vols[v].state.conn) {
                // What each was shown has changed under the other's decision: they would wait for each other for ever.
                self.protocol_error("both nodes are the source of a resync", out);
            }
            return;
        }
        self.vols[v].resync.source_uuids = source;
        if self.waits_for_cancelled(v) {
            self.vols[v].resync.early_sync_uuid = Some(uuid);
            return;
        }
        self.start_as_target(v, uuid, out);
    }

    /// From here on this copy is the target's.
    pub(super) fn begin_as_target(&mut self, v: usize, uuid: DataUuid, out: &mut Actions) {
        if self.vols[v].resync.has_unanswered() && !self.conn.peer_is_lockstep() {
            // A kernel may still send what was asked for in the last run, or not, and its blocks do not say for which run
            // they are.
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        }
        // A source that has ended a run sends nothing for it any more, and its P_SYNC_UUID is a packet of the next one.
        self.vols[v].resync.forget_unanswered();
        let was_behind = self.vols[v].state.conn == ConnState::Behind;
        let reached = self.vols[v].resync.cursor;
        let primary = self.vols[v].state.role == Role::Primary;
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        disk.sb.uuids.begin_sync_target(uuid, primary);
        disk.sb.flags = disk.sb.flags.without(MetaFlags::GROWN).without(MetaFlags::TARGET_BEGAN);
        disk.md.mark_dirty();
        let line = format_args!("updated sync uuid {}", uuid_line(&disk.sb.uuids));
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), line);
        let change = StateChange::NONE.conn(ConnState::SyncTarget).disk(DiskState::Inconsistent);
        if self.change_volume(v, change, Kind::Soft, out).is_err() {
            self.protocol_error("P_SYNC_UUID in a state that cannot become sync target", out);
            return;
        }
        self.begin_run(v, out);
        if was_behind {
            // Where the run before stopped: from the start it would never come further than to what is written all the time.
            let vol = &mut self.vols[v];
            vol.resync.cursor = reached.min(vol.bitmap.bits());
        }
        let generation = self.vols[v].resync.generation;
        // Until the super block says Inconsistent no block may be overwritten: a crash would leave a mixture that
        // calls itself Outdated or better. And the source forgets a bit as soon as the block is written here, which
        // a loss of power can undo: the bits it told of have to be on this disk before.
        if planted::on(Planted::RequestsBeforeInconsistent) {
            self.start_requests(v, generation, out);
            return;
        }
        self.write_bitmap_dirty(v, out);
        self.when_bitmap_written(v, Then::StartRequests { generation }, out);
    }

    /// Starts counting a resync, on either side.
    pub(crate) fn begin_run(&mut self, v: usize, out: &mut Actions) {
        let now = self.now;
        let after_crash_only = self.conn.net.as_ref().is_some_and(|n| n.csums_after_crash_only);
        let csums = self.csums_alg().filter(|_| !after_crash_only || self.vols[v].crashed_primary);
        let run_is_source = crate::state::is_source(self.vols[v].state.conn);
        let vol = &mut self.vols[v];
        let bits = vol.bitmap.count();
        let text =
            format_args!("Began resync as {} (will sync {} KB [{bits} bits set]).", vol.state.conn, bits * 4);
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
        let paused = matches!(vol.state.conn, ConnState::PausedSyncS | ConnState::PausedSyncT);
        let run = &mut vol.resync;
        assert!(run.requests.iter().all(|(_, r)| r.orphan), "a run begins without requests of its own");
        run.active = true;
        run.generation = run.generation.wrapping_add(1);
        run.started_at = now;
        run.paused_at = paused.then_some(now);
        run.paused_ns = 0;
        run.total_bits = bits;
        run.failed_bits = 0;
        run.same_bits = 0;
        run.csums = csums.filter(|_| !run_is_source);
        run.cursor = 0;
        run.wanted = None;
        run.in_flight_sectors = 0;
        run.received_sectors = 0;
        // What the application did before is no reason to step back now.
        run.app_sectors_seen = vol.app_sectors;
        run.budget_sectors = 0;
        run.may_request = false;
        run.ending = false;
        run.flushing_end = false;
        run.all_acked = bits == 0;
        run.sync_uuid_due = false;
        run.unacked.clear();
        run.refused_ahead = false;
        run.target_began = false;
        run.incomplete = false;
        run.peer_done = false;
        run.bitmap_written_at = now;
        run.marks = Some(Progress::start(now, bits));
        run.controller = None;
        self.resync_options_changed(v);
        self.timers.set_if_idle(Timer::Progress, now + Duration::from_secs(1));
    }

    pub(crate) fn resync_options_changed(&mut self, v: usize) {
        let Some(options) = self.rate_options(v) else { return };
        let vol = &mut self.vols[v];
        if let Some(controller) = vol.verify.controller.as_mut() {
            controller.set_options(options);
        }
        match vol.resync.controller.as_mut() {
            Some(controller) => controller.set_options(options),
            None => vol.resync.controller = Some(RateController::new(options)),
        }
    }

    /// The algorithm of `csums-alg`, if one is configured.
    pub(crate) fn csums_alg(&self) -> Option<DigestAlg> {
        DigestAlg::from_name(&self.conn.net.as_ref()?.csums_alg)
    }

    /// The limits that resync and verify of a volume obey; none without a disk.
    pub(crate) fn rate_options(&self, v: usize) -> Option<RateOptions> {
        let c = &self.vols[v].disk.as_ref()?.cfg;
        Some(RateOptions {
            resync_rate_kib_per_s: c.resync_rate_kib_s,
            plan_ahead_ds: c.c_plan_ahead_ds,
            delay_target_ds: c.c_delay_target_ds,
            fill_target_sectors: c.c_fill_target_sectors,
            max_rate_kib_per_s: c.c_max_rate_kib_s,
            min_rate_kib_per_s: c.c_min_rate_kib_s,
            max_buffers: self.conn.net.as_ref().map_or(2048, |n| n.max_buffers),
        })
    }

    /// The super block is stable: blocks may be requested.
    pub(crate) fn start_requests(&mut self, v: usize, generation: u32, out: &mut Actions) {
        let run = &mut self.vols[v].resync;
        if run.generation != generation || !run.active {
            return;
        }
        run.may_request = true;
        self.resync_step(v, out);
        self.timers.set_if_idle(Timer::ResyncStep, self.now + STEP);
    }

    /// Every 100 ms, for every volume.
    pub(crate) fn resync_step_timer(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            self.resync_step(v, out);
            self.verify_step(v, out);
        }
        let busy = |vol: &crate::volume::Volume| {
            vol.resync.active && matches!(vol.state.conn, ConnState::SyncTarget)
                || vol.verify.requests_blocks()
        };
        if self.vols.iter().any(busy) {
            self.timers.set(Timer::ResyncStep, self.now + STEP);
        }
    }

    fn resync_step(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let moved = vol.app_sectors;
        let run = &mut vol.resync;
        if !run.active || !run.may_request {
            return;
        }
        let busy =
            vol.state.role == Role::Primary && moved - run.app_sectors_seen > super::rate::BUSY_SECTORS;
        run.app_sectors_seen = moved;
        let input = StepInput {
            received_sectors: core::mem::take(&mut run.received_sectors),
            in_flight_sectors: run.in_flight_sectors,
            application_busy: busy,
        };
        run.budget_sectors = run.controller.as_mut().expect("a run has a controller").step(input);
        self.request_blocks(v, out);
    }

    /// Answers made room: what the step granted beyond the buffers may go out now.
    fn top_up(&mut self, v: usize, out: &mut Actions) {
        let run = &mut self.vols[v].resync;
        let taken = run.in_flight_sectors + run.budget_sectors;
        if let Some(c) = run.controller.as_mut() {
            run.budget_sectors += c.top_up(taken);
        }
        self.request_blocks(v, out);
    }

    /// Requests blocks while the controller's budget and the buffers allow it.
    pub(crate) fn request_blocks(&mut self, v: usize, out: &mut Actions) {
        if self.vols[v].state.conn != ConnState::SyncTarget {
            return;
        }
        loop {
            let vol = &mut self.vols[v];
            let run = &mut vol.resync;
            if !run.active || !run.may_request || run.ending || run.refused_ahead {
                return;
            }
            if run.budget_sectors < SECTORS_PER_BIT {
                break;
            }
            let Some(bit) = vol.bitmap.next_set(run.cursor) else {
                // Bits that were set behind the cursor get another round.
                let left = vol.bitmap.count() > run.failed_bits;
                if left && run.requests.is_empty() && run.cursor > 0 {
                    run.cursor = 0;
                    continue;
                }
                break;
            };
            let room = run.budget_sectors;
            let range = self.request_at(v, bit, room);
            let primary = self.vols[v].state.role == Role::Primary;
            if self.vols[v].resync.writing_overlaps(range) {
                // A block of a run that was given up is still being written; it must not land on the newer one.
                break;
            }
            if primary && self.reqs.overlaps_unfinished(v as u8, range) {
                self.vols[v].resync.wanted = Some(range);
                self.send_closed_barrier(out);
                break;
            }
            // What is on its way to the disk may be a write that the source does not have, from before its own disk came back:
            // with a digest of the block as it was, the source would find it equal.
            let changing = self.peer.writes.iter().any(|(_, w)| w.is_in(v, range));
            let run = &mut self.vols[v].resync;
            run.wanted = None;
            run.cursor = range.end.div_ceil(SECTORS_PER_BIT);
            let csums = run.csums.filter(|_| !changing);
            let slot = run.requests.insert(RsRequest {
                range,
                digesting: csums.is_some(),
                writing: false,
                pages: 0,
                spoiled: false,
                orphan: false,
            });
            run.in_flight_sectors += range.len_sectors();
            let overdrawn = range.len_sectors().saturating_sub(run.budget_sectors);
            run.budget_sectors = run.budget_sectors.saturating_sub(range.len_sectors());
            if let Some(c) = run.controller.as_mut().filter(|_| overdrawn > 0) {
                c.overdrawn(overdrawn);
            }
            if csums.is_some() {
                let generation = self.vols[v].resync.requests.generation(slot);
                let tag = pack(IoKind::RsDigest, (v as u32) << 24 | slot, generation);
                self.read_disk(v, tag, (range.start, (range.len_sectors() * 512) as u32), csums, out);
            } else {
                self.send_resync_request(v, range, None, out);
            }
        }
        self.check_resync_end(v, out);
    }

    /// The own block was read for its digest; None: it could not be, and is asked for as it is.
    pub(crate) fn resync_digest_done(
        &mut self,
        v: usize,
        slot: u32,
        digest: Option<Digest>,
        out: &mut Actions,
    ) {
        self.local_io_ended(v, out);
        let r = self.vols[v].resync.requests[slot];
        if r.orphan {
            self.vols[v].resync.requests.remove(slot);
            self.vols[v].pump = true;
            self.request_blocks(v, out);
        } else {
            self.vols[v].resync.requests[slot].digesting = false;
            self.send_resync_request(v, r.range, digest.as_ref(), out);
        }
        if digest.is_none() {
            self.local_io_failed(v, FailedIo::Read, out);
        }
    }

    /// The request that starts at a set bit (drbd-wire 6.2): consecutive set bits, growing only as far as the
    /// start is aligned, inside one resync extent. The last one of a step may exceed what is left by one block.
    fn request_at(&self, v: usize, bit: u64, room_sectors: u64) -> SectorRange {
        let vol = &self.vols[v];
        let own_max = vol.disk.as_ref().map_or(MAX_BIO_BYTES, |d| d.max_bio_bytes.min(MAX_BIO_BYTES));
        let max_blocks = u64::from(own_max / BLOCK_BYTES).max(1).min(room_sectors / SECTORS_PER_BIT + 1);
        let start = bit * SECTORS_PER_BIT;
        let extent_end =
            (start / SECTORS_PER_RESYNC_EXTENT + 1) * (SECTORS_PER_RESYNC_EXTENT / SECTORS_PER_BIT);
        let run_end = vol.bitmap.next_clear(bit).unwrap_or(u64::MAX);
        let mut blocks = 1;
        let mut align = 1;
        while blocks < max_blocks && bit + blocks < run_end.min(extent_end).min(vol.bitmap.bits()) {
            if start & ((1 << (align + 3)) - 1) != 0 {
                break;
            }
            blocks += 1;
            if 1 << align <= blocks {
                align += 1;
            }
        }
        SectorRange { start, end: ((bit + blocks) * SECTORS_PER_BIT).min(vol.size_sectors) }
    }

    /// P_RS_DATA_REPLY (with data) or P_RS_DEALLOCATED (without).
    pub(crate) fn receive_resync_data(
        &mut self,
        v: usize,
        range: SectorRange,
        buf: Option<BufId>,
        out: &mut Actions,
    ) {
        let run = &mut self.vols[v].resync;
        let found = run.requests.iter().find(|(_, r)| r.range == range && r.is_asked());
        let Some((slot, orphan)) = found.map(|(slot, r)| (slot, r.orphan)) else {
            if let Some(buf) = buf {
                out.push(Action::Release { buf });
            }
            self.protocol_error("resync data that was not requested", out);
            return;
        };
        if orphan {
            run.requests.remove(slot);
            if let Some(buf) = buf {
                out.push(Action::Release { buf });
            }
            if !self.conn.peer_is_lockstep() {
                // A kernel counts the blocks that it has sent.
                let id = (range.start, (range.len_sectors() * 512) as u32, BlockId::RESYNC);
                self.send_ack(Command::NegAck, v, id, out);
            }
            self.cancelled_are_answered(v, out);
            return;
        }
        run.received_sectors += range.len_sectors();
        run.in_flight_sectors -= range.len_sectors();
        let len_bytes = (range.len_sectors() * 512) as u32;
        run.begin_write(slot, buf.map_or(0, |_| pages_of(len_bytes)));
        let generation = run.requests.generation(slot);
        let vol = &mut self.vols[v];
        if planted::on(Planted::BitClearedTooEarly) {
            vol.set_in_sync(range);
        }
        vol.counters.received_sectors += range.len_sectors();
        let Some(disk) = vol.disk.as_mut().filter(|_| vol.state.disk >= DiskState::Inconsistent) else {
            if let Some(buf) = buf {
                out.push(Action::Release { buf });
            }
            self.finish_resync_write(v, slot, false, out);
            return;
        };
        disk.io_begins(self.now);
        vol.counters.written_sectors += range.len_sectors();
        let tag = pack(IoKind::RsWrite, (v as u32) << 24 | slot, generation);
        let (vol, sector) = (VolIdx(v as u8), range.start);
        match buf {
            Some(buf) => {
                out.push(Action::DiskWrite { tag, vol, sector, len_bytes, buf, fua: false });
                // The driver holds the buffer until the write is done.
                out.push(Action::Release { buf });
            }
            None => out.push(Action::DiskZero { tag, vol, sector, len_bytes, may_unmap: true, fua: false }),
        }
    }

    pub(crate) fn resync_write_done(&mut self, v: usize, slot: u32, ok: bool, out: &mut Actions) {
        self.local_io_ended(v, out);
        self.finish_resync_write(v, slot, ok, out);
        if !ok {
            self.local_io_failed(v, FailedIo::Write, out);
        }
    }

    fn finish_resync_write(&mut self, v: usize, slot: u32, ok: bool, out: &mut Actions) {
        let r = self.vols[v].resync.end_write(slot);
        self.vols[v].pump = true;
        self.peer_pump = true;
        // A kernel that is Ahead waits for an answer to every block it has sent.
        let answers = self.vols[v].state.conn == ConnState::Behind && !self.conn.peer_is_lockstep();
        if r.orphan && !answers {
            self.request_blocks(v, out);
            return;
        }
        let ok = ok && !r.orphan;
        let id = (r.range.start, (r.range.len_sectors() * 512) as u32, BlockId::RESYNC);
        if ok {
            self.vols[v].set_in_sync(r.range);
            self.send_ack(Command::RsWriteAck, v, id, out);
        } else {
            self.vols[v].resync.failed_bits += r.range.len_sectors().div_ceil(8);
            self.send_ack(Command::NegAck, v, id, out);
        }
        self.top_up(v, out);
    }

    /// The source cannot serve a block (`failed`), or it need not be sent.
    pub(crate) fn resync_block_not_coming(
        &mut self,
        v: usize,
        range: SectorRange,
        failed: bool,
        in_sync: bool,
        out: &mut Actions,
    ) {
        let run = &mut self.vols[v].resync;
        let found = run.requests.iter().find(|(_, r)| r.range == range && r.is_asked());
        let Some((slot, orphan)) = found.map(|(slot, r)| (slot, r.orphan)) else { return };
        let spoiled = run.requests.remove(slot).spoiled;
        if orphan {
            self.cancelled_are_answered(v, out);
            return;
        }
        let failed = failed || in_sync && spoiled;
        let in_sync = in_sync && !spoiled;
        run.in_flight_sectors -= range.len_sectors();
        // Refused blocks count as answered, or the controller would wait for them for ever.
        run.received_sectors += range.len_sectors();
        if failed {
            run.failed_bits += range.len_sectors().div_ceil(8);
        }
        if in_sync {
            run.same_bits += range.len_sectors().div_ceil(8);
            self.vols[v].set_in_sync(range);
        }
        self.vols[v].pump = true;
        self.top_up(v, out);
    }

    /// Nothing is left to request and nothing is outstanding: make the data stable, then fence the acks.
    fn check_resync_end(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let run = &mut vol.resync;
        let over = run.active
            && run.may_request
            && !run.ending
            && run.requests.is_empty()
            && vol.bitmap.count() <= run.failed_bits;
        if !over || vol.state.conn != ConnState::SyncTarget {
            return;
        }
        run.ending = true;
        if planted::on(Planted::NoFlushAtEndOfResync) {
            self.ping_fence(Fence::EndOfResync { vol: v as u8 }, out);
            return;
        }
        run.flushing_end = true;
        let generation = run.generation;
        let Some(disk) = vol.disk.as_mut() else { return };
        disk.io_begins(self.now);
        // Both bitmaps say "equal" after this; so the blocks have to be on the medium before.
        let tag = pack(IoKind::RsFlush, flush_slot(v, disk.data_epoch), generation);
        out.push(Action::DiskFlush { tag, vol: VolIdx(v as u8) });
    }

    pub(crate) fn resync_flush_done(&mut self, v: usize, generation: u32, ok: bool, out: &mut Actions) {
        self.local_io_ended(v, out);
        let run = &mut self.vols[v].resync;
        if !run.active || run.generation & 0xff_ffff != generation || !run.flushing_end {
            return;
        }
        run.flushing_end = false;
        if !ok {
            self.local_io_failed(v, FailedIo::Flush, out);
            return;
        }
        if planted::on(Planted::EndOfResyncNotFenced) {
            self.end_of_resync_fenced(v, out);
            return;
        }
        self.ping_fence(Fence::EndOfResync { vol: v as u8 }, out);
    }

    /// The peer has processed every acknowledgement: the resync is over on this side.
    pub(crate) fn end_of_resync_fenced(&mut self, v: usize, out: &mut Actions) {
        let now = self.now;
        let vol = &mut self.vols[v];
        if !vol.resync.active || !vol.resync.ending {
            return;
        }
        if vol.bitmap.count() > vol.resync.failed_bits && !vol.resync.incomplete {
            // A write of the application failed on one side meanwhile: go on with what is left.
            vol.resync.ending = false;
            vol.resync.cursor = 0;
            self.request_blocks(v, out);
            return;
        }
        let target = matches!(vol.state.conn, ConnState::SyncTarget | ConnState::PausedSyncT);
        let source = matches!(vol.state.conn, ConnState::SyncSource | ConnState::PausedSyncS);
        if !target && !source {
            return;
        }
        let failed = vol.resync.failed_bits;
        let at = Some(VolIdx(v as u8));
        out.log(LogLevel::Info, at, resync_done_line(vol, now));
        if let Some(line) = same_line(&vol.resync) {
            out.log(LogLevel::Info, at, line);
        }
        vol.resync.active = false;
        // A write that failed on a target which was finished may not have been reported yet.
        let is_whole = failed == 0 && !vol.resync.incomplete;
        if failed > 0 {
            out.log(LogLevel::Error, at, format!("            {failed} failed blocks"));
        }
        if is_whole {
            let primary = vol.state.role == Role::Primary;
            let source = vol.resync.source_uuids;
            let went_on =
                target && source.zip(vol.peer_uuids).is_some_and(|(s, p)| s.current != p.set.current);
            let disk = vol.disk.as_mut().expect("a resync needs a disk");
            match source {
                Some(source) if target => disk.sb.uuids.end_sync_target(&source, primary),
                _ => {
                    disk.sb.uuids.end_sync_source();
                    disk.sb.flags = disk.sb.flags.without(MetaFlags::TARGET_BEGAN);
                }
            }
            disk.md.mark_dirty();
            // A crash must not find the end of the resync next to bits from before it.
            disk.md.sb_after_pages = true;
            out.log(LogLevel::Info, at, format_args!("updated UUIDs {}", uuid_line(&disk.sb.uuids)));
            if !went_on {
                self.peer_has_own_generations(v);
            }
        }
        self.write_bitmap_dirty(v, out);
        let good = if is_whole { DiskState::UpToDate } else { DiskState::Inconsistent };
        let change = StateChange::NONE.conn(ConnState::Connected);
        let change = if target { change.disk(good) } else { change.pdsk(good) };
        let _ = self.change_volume(v, change, Kind::Soft, out);
        self.call_handlers_after_resync(v, target, out);
    }

    /// The resync cannot go on (connection or disk lost).
    pub(crate) fn cancel_resync(&mut self, v: usize, out: &mut Actions) {
        let run = &mut self.vols[v].resync;
        run.active = false;
        run.ending = false;
        run.flushing_end = false;
        run.wanted = None;
        run.may_request = false;
        run.early_sync_uuid = None;
        run.before = None;
        run.source_uuids = None;
        run.receiver = None;
        run.bitmap_due = false;
        run.in_flight_sectors = 0;
        let unsent: alloc::vec::Vec<u32> = run.waiting_reads.drain(..).collect();
        for slot in unsent {
            run.reads.remove(slot);
        }
        // What is being written ends, and what was asked for may be on its way: both are waited for.
        let slots: alloc::vec::Vec<u32> = run.requests.iter().map(|(s, _)| s).collect();
        for slot in slots {
            run.requests[slot].orphan = true;
        }
        let reads: alloc::vec::Vec<u32> = run.reads.iter().map(|(s, _)| s).collect();
        for slot in reads {
            run.reads[slot].orphan = true;
        }
        self.vols[v].pump = true;
        let _ = out;
    }

    /// Pause, progress marks and the first step of a run follow the state (drbd-states 11.1).
    pub(crate) fn resync_state_changed(
        &mut self,
        v: usize,
        old: &VolumeState,
        new: &VolumeState,
        out: &mut Actions,
    ) {
        let paused = |s: &VolumeState| matches!(s.conn, ConnState::PausedSyncS | ConnState::PausedSyncT);
        let at = Some(VolIdx(v as u8));
        let now = self.now;
        let ended = new.conn == ConnState::Connected && old.conn > ConnState::Connected;
        let fell_behind = new.conn == ConnState::Behind && old.conn != ConnState::Behind;
        if ended || fell_behind {
            // A run that was finished has nothing left; one that a failed disk ended here or there has.
            self.cancel_resync(v, out);
        }
        let run = &mut self.vols[v].resync;
        if paused(old) && new.conn.is_resync() && !paused(new) {
            out.log(LogLevel::Info, at, "Syncer continues.");
            if let Some(p) = run.paused_at.take() {
                run.paused_ns += now.0.saturating_sub(p.0);
            }
            if let Some(m) = run.marks.as_mut() {
                m.resume(now);
            }
            self.timers.set_if_idle(Timer::ResyncStep, now);
        } else if old.conn.is_resync() && !paused(old) && paused(new) {
            out.log(LogLevel::Info, at, "Resync suspended");
            run.paused_at = Some(now);
            if let Some(m) = run.marks.as_mut() {
                m.pause(now);
            }
            // The block that comes next does not, for as long as somebody likes.
            run.wanted = None;
            self.vols[v].pump = true;
        }
    }

    /// Every second while a resync runs: progress marks, and the bitmap now and then, so that a crash does not
    /// throw a long resync back to its beginning.
    pub(crate) fn progress_timer(&mut self, out: &mut Actions) {
        let mut any = false;
        for v in 0..self.vols.len() {
            any |= self.verify_progress(v, out);
            if !self.vols[v].resync.active {
                continue;
            }
            any = true;
            let (now, left) = (self.now, self.vols[v].bitmap.count());
            if let Some(m) = self.vols[v].resync.marks.as_mut() {
                m.advance(now, left);
            }
            if now.saturating_since(self.vols[v].resync.bitmap_written_at) >= BITMAP_WRITE_INTERVAL {
                self.vols[v].resync.bitmap_written_at = now;
                self.write_bitmap_dirty(v, out);
            }
        }
        if any {
            self.timers.set(Timer::Progress, self.now + Duration::from_secs(1));
        }
    }
}

fn resync_done_line(vol: &crate::volume::Volume, now: model::time::Instant) -> alloc::string::String {
    let run = &vol.resync;
    let paused_s = run.paused_until(now) / 1_000_000_000;
    let total_s = (now.saturating_since(run.started_at).as_secs()).max(1);
    let done_kb = (run.total_bits.saturating_sub(run.failed_bits)) * 4;
    let active_s = total_s.saturating_sub(paused_s).max(1);
    format!("Resync done (total {total_s} sec; paused {paused_s} sec; {} K/sec)", done_kb / active_s)
}

/// What checksums have spared, if the requests carried any.
fn same_line(run: &super::run::ResyncRun) -> Option<alloc::string::String> {
    run.csums?;
    let percent = (run.same_bits * 100).checked_div(run.total_bits)?;
    let (same, total) = (run.same_bits * 4, run.total_bits * 4);
    let rest = total.saturating_sub(same);
    Some(format!("{percent} % had equal checksums, eliminated: {same}K; transferred {rest}K total {total}K"))
}
