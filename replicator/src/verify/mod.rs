//! Online verify (drbd-wire 7): the requester compares its blocks with the digests of the other node. What differs is
//! marked on both, and stays marked until the next resync.

pub(crate) mod run;
mod source;
mod target;

use alloc::format;

use model::config::settings::Handler;
use model::state::{ConnState, VolumeState};
use model::state_word::StateChange;
use model::time::Duration;
use model::units::SectorRange;

use crate::action::{Actions, LogLevel};
use crate::connection::Fence;
use crate::digest::DigestAlg;
use crate::event::VolIdx;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::state::Kind;
use crate::timers::Timer;

/// How often the bitmap of a running verify is written.
const BITMAP_WRITE_INTERVAL: Duration = Duration::from_secs(10);

/// What was found is logged when so much behind it has been compared.
const FOUND_LOG_SECTORS: u64 = 2048;

fn verifies(s: &VolumeState) -> bool {
    matches!(s.conn, ConnState::VerifyS | ConnState::VerifyT)
}

impl Resource {
    /// The algorithm of `verify-alg`, if one is configured.
    pub(crate) fn verify_alg(&self) -> Option<DigestAlg> {
        DigestAlg::from_name(&self.conn.net.as_ref()?.verify_alg)
    }

    /// Begins and ends runs as the state says (drbd-states 11.1).
    pub(crate) fn verify_state_changed(
        &mut self,
        v: usize,
        old: &VolumeState,
        new: &VolumeState,
        out: &mut Actions,
    ) {
        match (verifies(old), verifies(new)) {
            (false, true) => self.begin_verify(v, new.conn == ConnState::VerifyS, out),
            (true, false) => self.leave_verify(v, out),
            _ => {}
        }
    }

    fn begin_verify(&mut self, v: usize, requester: bool, out: &mut Actions) {
        let (now, alg, options) = (self.now, self.verify_alg(), self.rate_options(v));
        let vol = &mut self.vols[v];
        let (size, moved) = (vol.size_sectors, vol.app_sectors);
        let Some(alg) = alg else { unreachable!("verify without an algorithm is refused") };
        vol.verify.begin(alg, requester, now);
        vol.verify.app_sectors_seen = moved;
        if requester {
            let start = vol.verify.begin_as_source(size, options);
            let text = format!("Starting Online Verify from sector {start}");
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
            self.timers.set_if_idle(Timer::ResyncStep, now);
        }
        self.timers.set_if_idle(Timer::Progress, now + Duration::from_secs(1));
    }

    /// Verify is over, at its end or before: what is under way is forgotten, where it was is not.
    fn leave_verify(&mut self, v: usize, out: &mut Actions) {
        self.log_found(v, out);
        let vol = &mut self.vols[v];
        let size = vol.size_sectors;
        if let Some(position) = vol.verify.end(size) {
            let text = format!("Online Verify reached sector {position}");
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
        }
        vol.pump = true;
    }

    /// A block was compared: marks it if it differs, and logs ranges of such blocks as a whole.
    fn verify_compared(&mut self, v: usize, range: SectorRange, same: bool, out: &mut Actions) {
        let vol = &mut self.vols[v];
        vol.verify.blocks_done(range);
        if same {
            // Not at once: results do not come in the order of the blocks.
            if vol.verify.found_range.is_some_and(|f| range.start > f.end + FOUND_LOG_SECTORS) {
                self.log_found(v, out);
            }
            return;
        }
        if !planted::on(Planted::MismatchNotMarked) {
            vol.set_out_of_sync(range);
        }
        let run = &mut vol.verify;
        run.found_blocks += 1;
        match run.found_range.as_mut() {
            Some(found) if found.end == range.start => found.end = range.end,
            Some(found) if found.start == range.end => found.start = range.start,
            _ => {
                self.log_found(v, out);
                self.vols[v].verify.found_range = Some(range);
            }
        }
    }

    fn log_found(&mut self, v: usize, out: &mut Actions) {
        if let Some(r) = self.vols[v].verify.found_range.take() {
            let text = format!("Out of sync: start={}, size={} (sectors)", r.start, r.len_sectors());
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
        }
    }

    /// Nothing is left to compare: ends when the peer has heard of every block.
    fn fence_verify(&mut self, v: usize, out: &mut Actions) {
        let run = &mut self.vols[v].verify;
        run.ending = true;
        let fence = Fence::EndOfVerify { vol: v as u8, run: run.generation };
        self.ping_fence(fence, out);
    }

    pub(crate) fn end_of_verify_fenced(&mut self, v: usize, run: u32, out: &mut Actions) {
        let verify = &self.vols[v].verify;
        if verify.active && verify.ending && verify.generation == run {
            self.finish_verify(v, out);
        }
    }

    /// Every block was compared, or the requester says that it is done.
    pub(crate) fn finish_verify(&mut self, v: usize, out: &mut Actions) {
        self.log_found(v, out);
        let at = Some(VolIdx(v as u8));
        let run = &self.vols[v].verify;
        let total_s = self.now.saturating_since(run.started_at).as_secs().max(1);
        let rate = (run.total_blocks - run.left_blocks) * 4 / total_s;
        let text = format!("Online verify done (total {total_s} sec; paused 0 sec; {rate} K/sec)");
        out.log(LogLevel::Info, at, text);
        if run.found_blocks > 0 {
            let text = format!("Online verify found {} 4k block out of sync!", run.found_blocks);
            out.log(LogLevel::Alert, at, text);
        }
        if run.refused_blocks > 0 {
            let text = format!("Online verify: the peer refused {} 4k block", run.refused_blocks);
            out.log(LogLevel::Warn, at, text);
        }
        let differs = run.found_blocks > 0;
        let change = StateChange::NONE.conn(ConnState::Connected);
        let _ = self.change_volume(v, change, Kind::Hard, out);
        if differs {
            if let Some(disk) = self.vols[v].disk.as_mut() {
                // What was found outlives a loss of power, from the handler on.
                disk.md.mark_dirty();
                disk.md.sb_after_pages = true;
            }
            self.call_handler(Handler::OutOfSync, Some(v), out);
        }
    }

    /// What became possible because a request, or a lock, has ended.
    pub(crate) fn pump_verify(&mut self, v: usize, out: &mut Actions) {
        if !self.vols[v].verify.active {
            return;
        }
        if self.vols[v].verify.wanted.is_some() {
            self.request_verify_blocks(v, out);
        }
        self.pump_verify_reads(v, out);
    }

    /// Every second while a verify runs; true if it does.
    pub(crate) fn verify_progress(&mut self, v: usize, out: &mut Actions) -> bool {
        let now = self.now;
        let run = &mut self.vols[v].verify;
        if !run.active {
            return false;
        }
        if let Some(m) = run.marks.as_mut() {
            m.advance(now, run.left_blocks);
        }
        if now.saturating_since(run.bitmap_written_at) >= BITMAP_WRITE_INTERVAL {
            run.bitmap_written_at = now;
            self.write_bitmap_dirty(v, out);
        }
        true
    }
}
