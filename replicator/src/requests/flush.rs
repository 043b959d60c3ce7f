//! Cache flushes of clients. A flush is answered when the local disk has flushed and, in protocol C, when the
//! peer has acknowledged (and so flushed) every epoch before it: what a flush promises holds on both copies.

use model::policy::Protocol;
use model::state::DiskState;

use super::flag;
use crate::action::{Action, Actions};
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::planted::{self, Planted};
use crate::resource::Resource;

impl Resource {
    pub(crate) fn start_flush(&mut self, slot: u32, out: &mut Actions) {
        let generation = self.reqs.table.generation(slot);
        let v = self.reqs.table[slot].vol;
        let vol = &mut self.vols[v as usize];
        let good = [vol.state.disk, vol.state.pdsk].contains(&DiskState::UpToDate);
        if !good {
            // What was answered before may be in the cache of a disk that is gone; nobody can promise it.
            self.fail_for_lack_of_data(slot, out);
            return;
        }
        let mut flags = 0;
        if vol.has_usable_disk() {
            flags |= flag::LOCAL_PENDING;
            vol.disk.as_mut().expect("usable disk is present").io_begins(self.now);
            let tag = pack(IoKind::AppFlush, slot, generation);
            out.push(Action::DiskFlush { tag, vol: VolIdx(v) });
        }
        self.close_epoch();
        let established = self.conn.is_established();
        let waits_for_peer = established
            && self.protocol_of(v as usize) == Protocol::C
            && !planted::on(Planted::FlushNotForwarded);
        if waits_for_peer && !self.reqs.epochs.is_empty() {
            flags |= flag::NET_WANTED | flag::NET_PENDING;
            self.reqs.table[slot].epoch = self.reqs.epochs.back().expect("not empty").number;
            self.reqs.flushes.push(slot);
            self.send_closed_barrier(out);
            // Tells the peer not to be lazy about the flush behind the barrier.
            self.send_unplug(v as usize, out);
        } else if established {
            self.reqs.flush_before_next |= !waits_for_peer;
            // In protocol C everything sent was flushed there too. In A and B only the local disk answers, and
            // the peer's part counts only where there is no disk here.
            if waits_for_peer || flags == 0 {
                flags |= flag::NET_OK;
            }
        }
        self.reqs.table[slot].set(flags);
        if flags == 0 {
            // Neither disk nor peer: there is nothing that could be volatile, but also no data.
            self.fail_for_lack_of_data(slot, out);
        } else {
            self.try_complete(slot, out);
        }
    }

    pub(crate) fn local_flush_done(&mut self, slot: u32, ok: bool, out: &mut Actions) {
        let r = &mut self.reqs.table[slot];
        r.clear(flag::LOCAL_PENDING);
        r.set(if ok { flag::LOCAL_OK } else { flag::LOCAL_FAILED });
        let v = r.vol as usize;
        self.local_io_ended(v, out);
        if !ok {
            // What was acknowledged may be gone from the volatile cache: this copy can no longer be trusted.
            self.local_io_failed(v, FailedIo::Flush, out);
        }
        self.try_complete(slot, out);
    }

    /// Answers flushes whose epochs are all acknowledged.
    pub(crate) fn flushes_advance(&mut self, out: &mut Actions) {
        if self.reqs.flushes.is_empty() {
            return;
        }
        let oldest = self.reqs.epochs.front().map(|e| e.number);
        let mut i = 0;
        while i < self.reqs.flushes.len() {
            let slot = self.reqs.flushes[i];
            let r = &mut self.reqs.table[slot];
            let waits = oldest.is_some_and(|o| (r.epoch.wrapping_sub(o) as i32) >= 0);
            if waits {
                i += 1;
                continue;
            }
            r.clear(flag::NET_PENDING);
            r.set(flag::NET_OK);
            self.reqs.flushes.swap_remove(i);
            self.try_complete(slot, out);
        }
    }
}
