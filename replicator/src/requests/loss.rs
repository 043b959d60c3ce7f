//! What a lost connection does to the requests under way (drbd-wire 4.8, drbd-states 13.3).

use core::mem;

use model::time::Duration;

use super::flag;
use crate::action::Actions;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::timers::Timer;

impl Resource {
    /// Ends the network part of every request: a logged write counts as not written remotely, also if it was
    /// acknowledged but not covered by a barrier acknowledgement; remote reads are tried elsewhere.
    pub(crate) fn clear_transfer_log(&mut self, out: &mut Actions) {
        self.reqs.epochs.clear();
        self.reqs.unsent.clear();
        self.reqs.flush_before_next = false;
        self.timers.stop(Timer::Barrier);
        self.timers.stop(Timer::RequestAge);
        let mut log = mem::take(&mut self.reqs.log);
        for slot in log.drain(..) {
            let r = &mut self.reqs.table[slot];
            r.clear(flag::NET_PENDING | flag::IN_LOG);
            self.vols[r.vol as usize].mirrored_sectors -= u64::from(r.len_bytes / 512);
            let forgotten = planted::on(Planted::LossNotMarked)
                || planted::on(Planted::UnfinishedWriteForgotten)
                    && r.has(flag::NET_OK)
                    && r.has(flag::LOCAL_PENDING);
            if forgotten {
                r.set(flag::NET_OK | flag::BARRIER_ACKED);
                self.try_complete(slot, out);
                continue;
            }
            r.set(flag::NET_LOST);
            if r.has(flag::HELD) {
                r.set(flag::SETTLED);
            }
            let (v, range) = (r.vol as usize, r.range());
            // The bits are set now, not when the local disk is done: the bitmap may be exchanged before that.
            self.vols[v].set_out_of_sync(range);
            self.try_complete(slot, out);
        }
        self.reqs.log = log;
        for slot in mem::take(&mut self.reqs.flushes) {
            let r = &mut self.reqs.table[slot];
            r.clear(flag::NET_PENDING);
            r.set(flag::NET_LOST);
            self.try_complete(slot, out);
        }
        for slot in mem::take(&mut self.reqs.remote_reads) {
            if planted::on(Planted::RemoteReadForgotten) {
                continue;
            }
            self.remote_read_failed(slot, out);
        }
        self.close_epoch();
        self.timers.stop(Timer::Barrier);
    }

    /// One of the disks is back before all is answered that was sent when it went: of this nobody knows where it got to.
    /// It is marked now and not when the answers come, since the bitmap may be sent before that.
    pub(crate) fn mark_unsettled(&mut self, v: usize) {
        for slot in &self.reqs.log {
            let r = &self.reqs.table[*slot];
            if r.vol as usize == v {
                self.vols[v].set_out_of_sync(r.range());
            }
        }
    }

    /// Starts the clock that watches unanswered requests, if ko-count asks for it.
    pub(crate) fn arm_request_age(&mut self) {
        if self.net().ko_count > 0 {
            let at = self.now + Duration::from_secs(1);
            self.timers.set_if_idle(Timer::RequestAge, at);
        }
    }

    /// Whether the oldest unanswered request, or barrier, is older than timeout x ko-count (drbd-wire 1.4).
    pub(crate) fn request_too_old(&self) -> bool {
        let net = self.net();
        let limit = net.timeout * net.ko_count;
        let old = |at| self.now.saturating_since(at) > limit;
        let writes = self.reqs.log.iter().map(|s| &self.reqs.table[*s]);
        let reads = self.reqs.remote_reads.iter().map(|s| &self.reqs.table[*s]);
        writes.chain(reads).any(|r| r.has(flag::NET_PENDING) && old(r.sent_at))
            || self.reqs.epochs.front().and_then(|e| e.barrier_sent_at).is_some_and(old)
    }

    /// Something is unanswered, so the age has to be watched on.
    pub(crate) fn requests_unanswered(&self) -> bool {
        !self.reqs.log.is_empty() || !self.reqs.remote_reads.is_empty() || !self.reqs.epochs.is_empty()
    }
}
