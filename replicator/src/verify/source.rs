//! The node that the command was given to: asks for digests, compares, tells the result, decides when it is over.

use core::mem;

use model::state::Role;
use model::units::{SECTORS_PER_BIT, SectorRange};

use super::run::OvRequest;
use crate::action::Actions;
use crate::digest::Digest;
use crate::disks::FailedIo;
use crate::io_tag::{IoKind, pack};
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::resync::rate::{BUSY_SECTORS, StepInput};
use crate::wire::{BlockId, Command, DigestRequest};

impl Resource {
    /// Every 100 ms, like a resync, and within the same limits.
    pub(crate) fn verify_step(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let moved = vol.app_sectors;
        let run = &mut vol.verify;
        if !run.requests_blocks() {
            return;
        }
        let seen = mem::replace(&mut run.app_sectors_seen, moved);
        let busy = vol.state.role == Role::Primary && moved.saturating_sub(seen) > BUSY_SECTORS;
        let input = StepInput {
            received_sectors: mem::take(&mut run.compared_sectors),
            in_flight_sectors: run.in_flight_sectors,
            application_busy: busy,
        };
        run.budget_sectors = run.controller.as_mut().map_or(0, |c| c.step(input));
        self.request_verify_blocks(v, out);
    }

    /// Asks for blocks while the controller's budget and the buffers allow it.
    pub(super) fn request_verify_blocks(&mut self, v: usize, out: &mut Actions) {
        loop {
            let vol = &self.vols[v];
            let run = &vol.verify;
            let over = run.cursor_sector >= run.end_sector;
            if !run.requests_blocks() || run.budget_sectors < SECTORS_PER_BIT || over {
                break;
            }
            let start = run.cursor_sector;
            let range = SectorRange { start, end: (start + SECTORS_PER_BIT).min(vol.size_sectors) };
            if self.is_being_written(v, range) {
                self.vols[v].verify.wanted = Some(range);
                self.send_closed_barrier(out);
                break;
            }
            let run = &mut self.vols[v].verify;
            run.wanted = None;
            run.cursor_sector = range.end;
            run.in_flight_sectors += range.len_sectors();
            run.budget_sectors = run.budget_sectors.saturating_sub(range.len_sectors());
            run.requests.insert(OvRequest { range, digest: None, orphan: false });
            self.send_verify_request(v, range, out);
        }
        let run = &self.vols[v].verify;
        let over = run.cursor_sector >= run.end_sector && run.in_flight_sectors == 0;
        if run.requests_blocks() && over {
            self.fence_verify(v, out);
        }
    }

    /// A write to the range is not known to be on both disks, or a resync that was given up still writes there.
    pub(super) fn is_being_written(&self, v: usize, range: SectorRange) -> bool {
        if planted::on(Planted::VerifyWithoutLock) {
            return false;
        }
        let vol = &self.vols[v];
        let primary = vol.state.role == Role::Primary;
        primary && self.reqs.overlaps_unfinished(v as u8, range) || vol.resync.writing_overlaps(range)
    }

    fn verify_request_of(&self, v: usize, range: SectorRange) -> Option<u32> {
        let mut requests = self.vols[v].verify.requests.iter();
        requests.find(|(_, r)| r.range == range && r.digest.is_none() && !r.orphan).map(|(slot, _)| slot)
    }

    /// P_OV_REPLY: the own block is read now, and not earlier, since the peer has locked it only by now.
    pub(crate) fn receive_verify_reply(&mut self, v: usize, r: &DigestRequest<'_>, out: &mut Actions) {
        let range = SectorRange::new(r.request.sector, r.request.size_bytes);
        let Some(slot) = self.verify_request_of(v, range) else {
            // The answer to a run that was given up.
            self.stale_events += 1;
            return;
        };
        let alg = self.vols[v].verify.alg;
        let Some(digest) = Digest::new(r.digest).filter(|d| d.is_of(alg)) else {
            self.protocol_error("P_OV_REPLY with a digest of another length", out);
            return;
        };
        let requests = &mut self.vols[v].verify.requests;
        requests[slot].digest = Some(digest);
        let tag = pack(IoKind::OvOwnRead, (v as u32) << 24 | slot, requests.generation(slot));
        self.read_disk(v, tag, (range.start, r.request.size_bytes), Some(alg), out);
    }

    /// The own block was read; None: it could not be.
    pub(crate) fn verify_own_read_done(
        &mut self,
        v: usize,
        slot: u32,
        own: Option<Digest>,
        out: &mut Actions,
    ) {
        let r = self.vols[v].verify.requests.remove(slot);
        self.local_io_ended(v, out);
        if !r.orphan {
            let same = own.is_some() && own == r.digest;
            self.verify_compared(v, r.range, same, out);
            let result = if same != planted::on(Planted::VerifyResultSwapped) {
                BlockId::OV_IN_SYNC
            } else {
                BlockId::OV_OUT_OF_SYNC
            };
            let id = (r.range.start, (r.range.len_sectors() * 512) as u32, result);
            self.send_ack(Command::OvResult, v, id, out);
        }
        if own.is_none() {
            self.local_io_failed(v, FailedIo::Read, out);
        }
        if !r.orphan {
            self.verify_block_ended(v, r.range, out);
        }
    }

    /// P_NEG_RS_DREPLY to a request of ours; false: it answers something else. The block counts as done, or a verify
    /// would never end (drbd-wire trap 54).
    pub(crate) fn verify_refused(&mut self, v: usize, range: SectorRange, out: &mut Actions) -> bool {
        let Some(slot) = self.verify_request_of(v, range) else { return false };
        let run = &mut self.vols[v].verify;
        run.requests.remove(slot);
        run.blocks_done(range);
        run.refused_blocks += 1;
        self.verify_block_ended(v, range, out);
        true
    }

    fn verify_block_ended(&mut self, v: usize, range: SectorRange, out: &mut Actions) {
        self.vols[v].pump = true;
        let run = &mut self.vols[v].verify;
        if !run.active {
            return;
        }
        run.in_flight_sectors -= range.len_sectors();
        run.compared_sectors += range.len_sectors();
        let taken = run.in_flight_sectors + run.budget_sectors;
        if let Some(c) = run.controller.as_mut() {
            run.budget_sectors += c.top_up(taken);
        }
        self.request_verify_blocks(v, out);
    }
}
