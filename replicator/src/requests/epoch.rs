//! Epochs of the sending side: a barrier stands between writes of which the later may depend on the earlier
//! (drbd-wire 4.6).

use model::time::Duration;

use super::{SentEpoch, flag};
use crate::action::Actions;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::timers::Timer;

/// How long a closed epoch's barrier may wait for the next write to travel with.
const BARRIER_DELAY: Duration = Duration::from_millis(1);

impl Resource {
    /// Makes the current epoch the newest one sent; the epoch before gets its barrier first.
    pub(crate) fn enter_epoch(&mut self, out: &mut Actions) {
        let number = self.reqs.current_epoch;
        if self.reqs.epochs.back().is_some_and(|e| e.number == number) {
            return;
        }
        self.send_closed_barrier(out);
        self.reqs.epochs.push_back(SentEpoch { number, writes: 0, postponed: 0, barrier_sent_at: None });
    }

    /// The next write belongs to a new epoch, if the current one has writes.
    pub(crate) fn close_epoch(&mut self) {
        if self.reqs.current_writes == 0 {
            return;
        }
        self.reqs.current_epoch = self.reqs.current_epoch.wrapping_add(1);
        self.reqs.current_writes = 0;
        let at = self.now + BARRIER_DELAY;
        self.timers.set_if_idle(Timer::Barrier, at);
    }

    /// Sends the barrier of the newest epoch if it is closed and its barrier was not sent.
    pub(crate) fn send_closed_barrier(&mut self, out: &mut Actions) {
        let (now, current) = (self.now, self.reqs.current_epoch);
        self.timers.stop(Timer::Barrier);
        let Some(back) = self.reqs.epochs.back_mut() else { return };
        if back.number == current || back.barrier_sent_at.is_some() || !self.conn.is_established() {
            return;
        }
        assert!(back.writes > 0, "a barrier is never sent for an epoch without writes");
        back.barrier_sent_at = Some(now);
        let number = back.number;
        if !planted::on(Planted::BarrierDropped) {
            self.send_barrier(number, out);
        }
        self.arm_request_age();
    }

    /// The peer acknowledged an epoch: its writes leave the transfer log. False: not what is due.
    pub(crate) fn barrier_acked(&mut self, number: u32, set_size: u32, out: &mut Actions) -> bool {
        let Some(front) = self.reqs.epochs.front() else { return false };
        if front.barrier_sent_at.is_none() || front.number != number || front.writes != set_size {
            return false;
        }
        let mut left = set_size - front.postponed;
        self.reqs.epochs.pop_front();
        while let Some(slot) = self.reqs.log.front().copied() {
            let r = &mut self.reqs.table[slot];
            if r.epoch != number {
                break;
            }
            self.reqs.log.pop_front();
            r.clear(flag::IN_LOG);
            self.vols[r.vol as usize].mirrored_sectors -= u64::from(r.len_bytes / 512);
            r.set(flag::BARRIER_ACKED);
            if !r.has(flag::NET_LOST) {
                // A peer that acknowledges the epoch has written what it did not refuse, in every protocol.
                r.set(flag::NET_OK | flag::NET_WRITTEN);
            }
            r.clear(flag::NET_PENDING);
            left -= 1;
            self.try_complete(slot, out);
        }
        assert_eq!(left, 0, "the log holds exactly the writes of an epoch");
        self.flushes_advance(out);
        self.resync_conflicts_changed();
        for vol in &mut self.vols {
            vol.pump |= !vol.waiting.is_empty();
        }
        true
    }
}
