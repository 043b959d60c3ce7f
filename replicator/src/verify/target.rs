//! The other node: sends the digests it is asked for, hears the results.

use core::mem;

use alloc::format;
use model::state::{ConnState, DiskState, Role};
use model::units::SectorRange;

use super::run::{OvRead, OvStep};
use crate::action::{Actions, LogLevel};
use crate::digest::Digest;
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::peer_requests::read::READS_MAX;
use crate::resource::Resource;
use crate::resync::rate::{ThrottleInput, should_throttle};
use crate::timers::Timer;
use crate::wire::{Ack, BlockId, Command, Request};

impl Resource {
    /// P_OV_REQUEST.
    pub(crate) fn receive_verify_request(&mut self, v: usize, r: &Request, out: &mut Actions) {
        if !self.request_is_possible(v, r, out) {
            return;
        }
        let s = &self.vols[v].state;
        if s.conn != ConnState::VerifyT || s.disk != DiskState::UpToDate {
            // Given up here; the peer is about to hear of it.
            self.send_ack(Command::NegRsDreply, v, (r.sector, r.size_bytes, r.block_id), out);
            return;
        }
        let vol = &mut self.vols[v];
        if vol.verify.reads.len() >= READS_MAX {
            self.protocol_error("more P_OV_REQUESTs than any node sends at once", out);
            return;
        }
        if vol.verify.begin_as_target(r.sector, vol.size_sectors) {
            let text = format!("Online Verify start sector: {}", r.sector);
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
        }
        let range = SectorRange::new(r.sector, r.size_bytes);
        let run = &mut vol.verify;
        run.cursor_sector = run.cursor_sector.max(range.end);
        let slot = run.reads.insert(OvRead { range, step: OvStep::Writes, orphan: false });
        run.waiting_reads.push(slot);
        self.pump_verify_reads(v, out);
    }

    /// Reads what no unfinished write overlaps. The block stays locked until the result is known.
    pub(super) fn pump_verify_reads(&mut self, v: usize, out: &mut Actions) {
        if self.vols[v].verify.waiting_reads.is_empty() || self.verify_throttled(v) {
            return;
        }
        let list = mem::take(&mut self.vols[v].verify.waiting_reads);
        for slot in list {
            let range = self.vols[v].verify.reads[slot].range;
            if self.is_being_written(v, range) {
                self.send_closed_barrier(out);
                self.vols[v].verify.waiting_reads.push(slot);
                continue;
            }
            let run = &mut self.vols[v].verify;
            run.reads[slot].step = OvStep::Disk;
            let alg = run.alg;
            let tag = pack(IoKind::OvRead, (v as u32) << 24 | slot, run.reads.generation(slot));
            self.read_disk(v, tag, (range.start, (range.len_sectors() * 512) as u32), Some(alg), out);
        }
    }

    /// The application keeps the disk busy and the verify is fast enough: serve a step later.
    fn verify_throttled(&mut self, v: usize) -> bool {
        let step = crate::resync::target::STEP;
        let now = self.now;
        let vol = &mut self.vols[v];
        let run = &mut vol.verify;
        if run.throttle_checked_at.is_none_or(|at| now.saturating_since(at) >= step) {
            let seen = mem::replace(&mut run.app_sectors_seen, vol.app_sectors);
            run.throttle_checked_at = Some(now);
            run.throttled = should_throttle(&ThrottleInput {
                min_rate_kib_per_s: vol.disk.as_ref().map_or(0, |d| d.cfg.c_min_rate_kib_s),
                resync_kib_per_s: run.marks.as_ref().map_or(0, |m| m.current_kib_per_s(now)),
                application_sectors: vol.app_sectors.saturating_sub(seen),
                peer_primary: vol.state.peer == Role::Primary,
            });
        }
        if run.throttled {
            let at = run.throttle_checked_at.map_or(now, |at| at + step);
            self.timers.set_if_idle(Timer::Throttle, at);
        }
        run.throttled
    }

    /// The block was read; None: it could not be. The requester then gets a digest that nothing has, and marks it.
    pub(crate) fn verify_read_done(
        &mut self,
        v: usize,
        slot: u32,
        digest: Option<Digest>,
        out: &mut Actions,
    ) {
        self.local_io_ended(v, out);
        let run = &mut self.vols[v].verify;
        let (r, alg) = (run.reads[slot], run.alg);
        if r.orphan {
            run.reads.remove(slot);
        } else {
            run.reads[slot].step = OvStep::Result;
            let digest = digest.unwrap_or(Digest::unreadable(alg));
            self.send_verify_reply(v, r.range, &digest, out);
        }
        if digest.is_none() {
            self.local_io_failed(v, FailedIo::Read, out);
        }
    }

    /// P_OV_RESULT.
    pub(crate) fn receive_verify_result(&mut self, v: usize, a: &Ack, out: &mut Actions) {
        let range = SectorRange::new(a.sector, a.size_bytes);
        let known = [BlockId::OV_IN_SYNC, BlockId::OV_OUT_OF_SYNC].contains(&a.block_id);
        if !known || !self.vols[v].range_is_inside(range) {
            self.protocol_error("P_OV_RESULT that means nothing", out);
            return;
        }
        let same = a.block_id == BlockId::OV_IN_SYNC;
        let vol = &mut self.vols[v];
        if !vol.verify.active || vol.verify.is_requester() {
            // Given up meanwhile. Once a resync has begun the requester's bitmap has told of it.
            if !same && vol.state.conn == ConnState::Connected {
                vol.set_out_of_sync(range);
            }
            return;
        }
        let is_it = |r: &OvRead| r.range == range && r.step == OvStep::Result && !r.orphan;
        let slot = vol.verify.reads.iter().find(|(_, r)| is_it(r)).map(|(slot, _)| slot);
        let Some(slot) = slot else {
            self.protocol_error("P_OV_RESULT for a block that was not asked for", out);
            return;
        };
        vol.verify.reads.remove(slot);
        vol.pump = true;
        self.verify_compared(v, range, same, out);
        let run = &self.vols[v].verify;
        if run.left_blocks == 0 && !run.ending {
            self.fence_verify(v, out);
        }
    }
}
