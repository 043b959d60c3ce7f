//! Reads: from the local disk where its block is good, else from the peer (drbd-states 14.6, drbd-wire 4.10).

use model::ids::BufId;
use model::state::DiskState;

use super::flag;
use crate::action::{Action, Actions};
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::state::is_source;

impl Resource {
    pub(crate) fn start_read(&mut self, slot: u32, out: &mut Actions) {
        let r = &self.reqs.table[slot];
        let (v, range, tried_local) = (r.vol as usize, r.range(), r.has(flag::LOCAL_FAILED));
        let vol = &self.vols[v];
        let good_here = match vol.state.disk {
            DiskState::UpToDate => true,
            DiskState::Inconsistent => {
                vol.unmarked_is_good && !vol.any_out_of_sync(range)
                    || planted::on(Planted::ReadFromInconsistent)
            }
            _ => false,
        };
        if vol.has_usable_disk() && good_here && !tried_local {
            self.read_local(slot, out);
        } else if vol.state.pdsk == DiskState::UpToDate && self.conn.is_established() {
            if self.reqs.overlaps_unwritten(v as u8, range) {
                // Protocols A and B answer before the peer has written, and its disk may serve the read first.
                self.close_epoch();
                self.send_closed_barrier(out);
                self.reqs.table[slot].set(flag::WAITING);
                self.vols[v].waiting.push(slot);
                return;
            }
            self.read_remote(slot, out);
        } else {
            self.fail_for_lack_of_data(slot, out);
        }
    }

    fn read_local(&mut self, slot: u32, out: &mut Actions) {
        let generation = self.reqs.table.generation(slot);
        let now = self.now;
        let r = &mut self.reqs.table[slot];
        r.set(flag::LOCAL_PENDING);
        r.local_at = now;
        let (v, sector, len_bytes) = (r.vol, r.sector, r.len_bytes);
        let tag = pack(IoKind::AppRead, slot, generation);
        out.push(Action::DiskRead { tag, vol: VolIdx(v), sector, len_bytes, digest: None });
        let vol = &mut self.vols[v as usize];
        vol.counters.read_sectors += u64::from(len_bytes / 512);
        vol.app_sectors += u64::from(len_bytes / 512);
        vol.disk.as_mut().expect("local reads need a disk").io_begins(now);
    }

    fn read_remote(&mut self, slot: u32, out: &mut Actions) {
        // The read must see the writes before it, so it comes behind them and their barrier on the data socket.
        self.send_closed_barrier(out);
        self.send_read_request(slot, out);
        let now = self.now;
        let r = &mut self.reqs.table[slot];
        r.set(flag::NET_WANTED | flag::NET_PENDING);
        r.sent_at = now;
        self.reqs.remote_reads.push(slot);
        self.arm_request_age();
    }

    /// The local disk finished a read. A failed one marks its blocks and is tried on the peer.
    pub(crate) fn local_read_done(&mut self, slot: u32, ok: bool, buf: Option<BufId>, out: &mut Actions) {
        let r = &mut self.reqs.table[slot];
        r.clear(flag::LOCAL_PENDING);
        let (v, range) = (r.vol as usize, r.range());
        self.local_io_ended(v, out);
        if ok {
            let r = &mut self.reqs.table[slot];
            r.set(flag::LOCAL_OK);
            r.buf = buf;
            self.try_complete(slot, out);
            return;
        }
        if let Some(buf) = buf {
            out.push(Action::Release { buf });
        }
        self.reqs.table[slot].set(flag::LOCAL_FAILED);
        if !is_source(self.vols[v].state.conn) {
            // The peer's copy of a block that a source cannot read is not there yet, or no worse for that. The target counts
            // the bits of the beginning, and would end before this one is gone.
            self.vols[v].set_out_of_sync(range);
        }
        self.local_io_failed(v, FailedIo::Read, out);
        self.start_read(slot, out);
    }

    /// The peer answered a remote read with data.
    pub(crate) fn remote_read_done(&mut self, slot: u32, buf: BufId, out: &mut Actions) {
        self.reqs.remote_reads.retain(|s| *s != slot);
        let r = &mut self.reqs.table[slot];
        r.clear(flag::NET_PENDING);
        r.set(flag::NET_OK);
        r.buf = Some(buf);
        let (v, len_sectors) = (r.vol as usize, u64::from(r.len_bytes / 512));
        self.vols[v].counters.received_sectors += len_sectors;
        self.try_complete(slot, out);
    }

    /// The peer cannot serve a remote read (or is gone): try the local disk if it was not tried, else fail.
    pub(crate) fn remote_read_failed(&mut self, slot: u32, out: &mut Actions) {
        self.reqs.remote_reads.retain(|s| *s != slot);
        let r = &mut self.reqs.table[slot];
        r.clear(flag::NET_PENDING);
        let v = r.vol as usize;
        let local_good = self.vols[v].state.disk == DiskState::UpToDate && self.vols[v].has_usable_disk();
        if local_good && !self.reqs.table[slot].has(flag::LOCAL_FAILED) {
            self.read_local(slot, out);
        } else {
            self.fail_for_lack_of_data(slot, out);
        }
    }
}
