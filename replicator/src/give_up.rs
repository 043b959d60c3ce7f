//! A disk that is given up while operations are on it: by `detach --force` and by disk-timeout (drbd-states 14.3, 15).
//!
//! Whatever waits for the disk ends as failed at once, so a disk that does not answer holds nobody. The operations go on
//! in the driver, which keeps their buffers: their data may reach the disk at any later time. Here their keys are stale
//! from now on, also for a disk that is attached later; the driver does not give that out before it has closed this one.

use alloc::vec::Vec;

use model::state::DiskState;
use model::time::Duration;

use crate::action::Actions;
use crate::requests::{Kind, flag};
use crate::resource::Resource;
use crate::timers::Timer;
use crate::wire::Command;

/// Time for the last metadata writes: a disk that still takes them shall know what it lacks.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Resource {
    /// The disk goes now: Failed, and Diskless as soon as its metadata is written or is not going to be.
    pub(crate) fn give_up_disk(&mut self, v: usize, out: &mut Actions) {
        if self.peer.writes.iter().any(|(_, w)| w.vol as usize == v && w.is_on_disk()) {
            self.outdate_failing_disk(v);
        }
        self.force_detach(v, out);
        if self.vols[v].state.disk != DiskState::Failed {
            return;
        }
        let at = self.now + LAST_WORDS;
        self.next_disk_epoch = (self.next_disk_epoch + 1) & 0xff_ffff;
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        disk.data_epoch = self.next_disk_epoch;
        disk.io_pending = 0;
        let flush_was_under_way = core::mem::replace(&mut disk.md.bitmap_flush, false);
        let at = *disk.given_up_at.get_or_insert(at);
        self.timers.set_if_idle(Timer::GivenUp, at);
        if flush_was_under_way {
            // A super block without the Primary's mark may wait for them: without it nobody looks at the activity log.
            self.queue_flushed_pages(v, out);
        }
        self.give_up_requests(v, out);
        self.give_up_peer_requests(v, out);
        self.give_up_resync(v);
        self.epoch_flush_ended(v, false, out);
        self.finish_detach_if_idle(v, out);
    }

    /// Those of the own clients: the peer serves them, or nobody does.
    fn give_up_requests(&mut self, v: usize, out: &mut Actions) {
        let on_disk =
            self.reqs.table.iter().filter(|(_, r)| r.vol as usize == v && r.has(flag::LOCAL_PENDING));
        let slots: Vec<u32> = on_disk.map(|(slot, _)| slot).collect();
        for slot in slots {
            let r = &mut self.reqs.table[slot];
            r.clear(flag::LOCAL_PENDING);
            r.set(flag::LOCAL_FAILED);
            if r.changes_data() {
                let range = r.range();
                self.vols[v].set_out_of_sync(range);
            }
            if self.reqs.table[slot].kind == Kind::Read {
                self.start_read(slot, out);
            } else {
                self.try_complete(slot, out);
            }
        }
    }

    /// Those of the peer are refused.
    fn give_up_peer_requests(&mut self, v: usize, out: &mut Actions) {
        let written = self.peer.writes.iter().filter(|(_, w)| w.vol as usize == v && w.is_on_disk());
        let slots: Vec<u32> = written.map(|(slot, _)| slot).collect();
        for slot in slots {
            // The disk may still end it.
            self.peer.writes.renew(slot);
            self.refuse_when_stable(slot, out);
        }
        let read = self.peer.reads.iter().filter(|(_, r)| r.vol as usize == v && !r.waiting);
        let slots: Vec<u32> = read.map(|(slot, _)| slot).collect();
        for slot in slots {
            let r = self.peer.reads.remove(slot);
            if !r.orphan {
                self.send_ack(Command::NegDreply, v, (r.sector, r.len_bytes, r.block_id), out);
            }
        }
    }

    /// The run itself has ended when the disk failed; what it had on the disk was waited for.
    fn give_up_resync(&mut self, v: usize) {
        let run = &mut self.vols[v].resync;
        let reads: Vec<u32> = run.reads.iter().map(|(slot, _)| slot).collect();
        for slot in reads {
            run.reads.remove(slot);
        }
        let writes: Vec<u32> =
            run.requests.iter().filter(|(_, r)| r.writing || r.digesting).map(|(slot, _)| slot).collect();
        for slot in writes {
            run.end_write(slot);
        }
        self.vols[v].verify.forget();
        self.vols[v].pump = true;
        self.peer_pump = true;
    }

    /// Some disk has had its time.
    pub(crate) fn given_up_timer(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            let Some(disk) = self.vols[v].disk.as_mut() else { continue };
            match disk.given_up_at {
                Some(at) if at <= self.now => {
                    disk.md.failed = true;
                    self.detach_finished(v, out);
                }
                Some(at) => self.timers.set_if_idle(Timer::GivenUp, at),
                None => {}
            }
        }
    }
}
