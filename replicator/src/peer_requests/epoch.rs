//! Epochs of the receiving side: a barrier is acknowledged when every write before it is done and stable
//! (drbd-wire 4.6).
//!
//! Against a kernel peer, writes behind a barrier wait for the flush of everything before it. Against a peer of
//! our own kind the flush runs beside them: that peer answers its application's flush only after the barrier
//! acknowledgement, and asks explicitly (DP_FLUSH) where a later write relies on an earlier one.

use model::time::Duration;

use crate::action::{Action, Actions, LogLevel};
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, flush_slot, pack};
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::timers::Timer;

/// How long the flush behind a barrier may wait for more barriers to share it.
const LAZY_FLUSH: Duration = Duration::from_millis(20);

impl Resource {
    /// P_BARRIER.
    pub(crate) fn receive_barrier(&mut self, number: u32, out: &mut Actions) {
        match self.peer.epochs.back_mut() {
            Some(e) if e.barrier.is_none() && e.size > 0 => e.barrier = Some(number),
            // spec: drbd-wire 4.6, a barrier without writes is never sent
            _ => {
                self.protocol_error("P_BARRIER without a write before it", out);
                return;
            }
        }
        self.epochs_advance(out);
    }

    /// Every epoch before this one is complete and stable.
    pub(crate) fn earlier_epochs_flushed(&self, epoch: u64) -> bool {
        self.peer.epochs.front().is_none_or(|e| e.number >= epoch)
    }

    /// Acknowledges what can be, and arranges the flush that the rest waits for.
    pub(crate) fn epochs_advance(&mut self, out: &mut Actions) {
        let flushes = self.vols.iter().any(|v| v.disk.as_ref().is_none_or(|d| d.cfg.disk_flushes));
        while let Some(e) = self.peer.epochs.front().copied() {
            let Some(barrier) = e.barrier else { return };
            if e.active > 0 {
                return;
            }
            let stable = !flushes
                || planted::on(Planted::BarrierAckBeforeFlush)
                || self.peer.flushed_up_to.is_some_and(|n| n >= e.number);
            if !stable {
                break;
            }
            self.peer.epochs.pop_front();
            self.send_barrier_ack(barrier, e.size, out);
            self.peer_pump = true;
        }
        let waits = self.peer.epochs.front().is_some_and(|e| e.barrier.is_some() && e.active == 0);
        if waits && self.peer.flushing.is_none() {
            if self.flush_now || !self.conn.peer_is_lockstep() || self.conn.goodbye.is_some() {
                self.start_epoch_flush(out);
            } else {
                let at = self.now + LAZY_FLUSH;
                self.timers.set_if_idle(Timer::EpochFlush, at);
            }
        }
    }

    /// The peer does not want to wait for the lazy flush.
    pub(crate) fn hurry_flush(&mut self, out: &mut Actions) {
        self.flush_now = true;
        self.epochs_advance(out);
    }

    pub(crate) fn epoch_flush_timer(&mut self, out: &mut Actions) {
        if self.peer.flushing.is_none() {
            self.start_epoch_flush(out);
        }
    }

    /// Flushes every disk; covers all epochs that are complete now.
    fn start_epoch_flush(&mut self, out: &mut Actions) {
        self.timers.stop(Timer::EpochFlush);
        let complete = self.peer.epochs.iter().take_while(|e| e.barrier.is_some() && e.active == 0);
        let mut wrote = 0;
        let newest = complete.inspect(|e| wrote |= e.wrote).last().map(|e| e.number);
        let Some(newest) = newest else { return };
        self.flush_now = false;
        self.peer.flushing = Some(newest);
        self.peer.flush_failed = false;
        self.peer.flushes_left = 0;
        let generation = self.peer.flush_generation;
        for v in 0..self.vols.len() {
            if !self.vols[v].has_usable_disk() {
                // What it took before it went away was in its cache, and nobody can say that it is stable.
                let flushes = self.vols[v].disk.as_ref().is_none_or(|d| d.cfg.disk_flushes);
                self.peer.flush_failed |= flushes && wrote & 1 << v != 0;
                continue;
            }
            let disk = self.vols[v].disk.as_mut().expect("usable disk is present");
            disk.io_begins(self.now);
            self.peer.flushes_left |= 1 << v;
            let tag = pack(IoKind::EpochFlush, flush_slot(v, disk.data_epoch), generation);
            out.push(Action::DiskFlush { tag, vol: VolIdx(v as u8) });
        }
        if self.peer.flushes_left == 0 {
            self.epoch_flushed(out);
        }
    }

    pub(crate) fn epoch_flush_done(&mut self, v: usize, generation: u32, ok: bool, out: &mut Actions) {
        self.local_io_ended(v, out);
        if generation != self.peer.flush_generation & 0xff_ffff || self.peer.flushing.is_none() {
            self.stale_events += 1;
            return;
        }
        if !ok {
            self.local_io_failed(v, FailedIo::Flush, out);
        }
        self.epoch_flush_ended(v, ok, out);
    }

    /// The flush of a volume's disk ended, or is not waited for any more, if there was one.
    pub(crate) fn epoch_flush_ended(&mut self, v: usize, ok: bool, out: &mut Actions) {
        if self.peer.flushing.is_none() || self.peer.flushes_left & 1 << v == 0 {
            return;
        }
        self.peer.flush_failed |= !ok;
        self.peer.flushes_left &= !(1 << v);
        if self.peer.flushes_left == 0 {
            self.epoch_flushed(out);
        }
    }

    fn epoch_flushed(&mut self, out: &mut Actions) {
        let Some(newest) = self.peer.flushing.take() else { return };
        if self.peer.flush_failed {
            // What was acknowledged as written may be lost: the peer must keep these blocks marked, which it
            // does when the connection ends without the barrier acknowledgement.
            self.log_conn(LogLevel::Error, "flush failed, epochs are not acknowledged", out);
            self.lose_connection(model::state::ConnState::NetworkFailure, out);
            return;
        }
        self.peer.flushed_up_to = Some(newest);
        self.goodbye_goes_on(newest);
        self.epochs_advance(out);
        self.peer_pump = true;
    }
}
