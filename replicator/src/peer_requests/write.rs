//! The peer's writes: counted in their epoch, written in an order that respects overlaps and barriers,
//! acknowledged as their flags ask (drbd-wire 4.4).

use core::mem;

use model::ids::{BufId, DataUuid};
use model::state::DiskState;
use model::time::Instant;
use model::units::{MAX_BIO_BYTES, MAX_DISCARD_BYTES, SECTOR_BYTES, SectorRange};

use super::conflict::Verdict;
use super::{PeerWrite, PeerWriteKind};
use crate::action::{Action, Actions};
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::meta_io::Then;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::volume::LocalDisk;
use crate::wire::{BlockId, Command, DpFlags};

/// A received write before it is checked.
pub(crate) struct Incoming {
    pub vol: usize,
    pub kind: PeerWriteKind,
    pub sector: u64,
    pub len_bytes: u32,
    pub block_id: BlockId,
    pub dp: DpFlags,
    pub seq: u32,
    pub buf: Option<BufId>,
}

impl Incoming {
    /// As it is kept, checked, when nothing has been done about it.
    fn counted_in(self, epoch: u64, order: u64) -> PeerWrite {
        PeerWrite {
            vol: self.vol as u8,
            kind: self.kind,
            sector: self.sector,
            len_bytes: self.len_bytes,
            block_id: self.block_id,
            dp: self.dp,
            buf: self.buf,
            epoch,
            order,
            seq: self.seq,
            undecided: false,
            submitted: false,
            disk_at: Instant::default(),
            orphan: false,
            only_copy: false,
            in_al: false,
            waits_for_al: false,
        }
    }
}

impl Resource {
    /// P_DATA, P_TRIM, P_ZEROES.
    pub(crate) fn receive_write(&mut self, w: Incoming, out: &mut Actions) {
        let v = w.vol;
        let is_data = w.kind == PeerWriteKind::Data;
        let range = SectorRange::new(w.sector, w.len_bytes);
        if self.vols[v].state.disk < DiskState::Inconsistent {
            self.receive_write_in_vain(w, range, out);
            return;
        }
        let limit = if is_data { MAX_BIO_BYTES } else { MAX_DISCARD_BYTES };
        let ok = w.len_bytes > 0
            && w.len_bytes.is_multiple_of(SECTOR_BYTES)
            && w.len_bytes <= limit
            && w.block_id != BlockId::RESYNC
            && self.vols[v].range_is_inside(range);
        if !ok {
            if let Some(buf) = w.buf {
                out.push(Action::Release { buf });
            }
            let (s, l) = (w.sector, w.len_bytes);
            self.protocol_error(
                &alloc::format!("write of {l} bytes at sector {s} is outside the device"),
                out,
            );
            return;
        }
        self.vols[v].counters.received_sectors += u64::from(w.len_bytes / 512);
        self.vols[v].empty_generation = DataUuid::ZERO;
        let epoch = self.peer.open_epoch();
        epoch.size += 1;
        epoch.active += 1;
        let number = epoch.number;
        if w.dp.contains(DpFlags::SEND_RECEIVE_ACK) {
            self.send_ack(Command::RecvAck, v, (w.sector, w.len_bytes, w.block_id), out);
        }
        if planted::on(Planted::AckOnReceive) && w.dp.contains(DpFlags::SEND_WRITE_ACK) {
            self.send_ack(Command::WriteAck, v, (w.sector, w.len_bytes, w.block_id), out);
        }
        let only_copy = self.vols[v].peer_without_disk;
        if only_copy {
            // At once, since the peer may attach its disk before the write starts, and gets the bitmap then.
            self.vols[v].set_out_of_sync(range);
        }
        let order = self.peer.arrival();
        let undecided = self.may_both_be_primary();
        if !undecided {
            self.peer_wrote(v, w.seq);
        }
        let slot = self.peer.add_write(PeerWrite { undecided, only_copy, ..w.counted_in(number, order) });
        if !(self.peer.waiting.is_empty() && self.try_submit_peer_write(slot, 0, out)) {
            self.peer.waiting.push(slot);
        }
    }

    /// A write for a disk that has failed or is gone. It counts in its epoch all the same.
    // spec: drbd-wire 4.4 step 1
    fn receive_write_in_vain(&mut self, w: Incoming, range: SectorRange, out: &mut Actions) {
        let v = w.vol;
        self.peer_wrote(v, w.seq);
        if let Some(buf) = w.buf {
            out.push(Action::Release { buf });
        }
        let says_so_later = self.vols[v].disk.as_ref().is_some_and(|d| d.md.sb_stable < d.md.sb_latest);
        let order = self.peer.arrival();
        let epoch = self.peer.open_epoch();
        epoch.size += 1;
        if !says_so_later || !self.vols[v].range_is_inside(range) {
            let size = if w.kind == PeerWriteKind::Data { w.len_bytes } else { 0 };
            self.send_ack(Command::NegAck, v, (w.sector, size, w.block_id), out);
            return;
        }
        epoch.active += 1;
        let number = epoch.number;
        let w = PeerWrite { buf: None, submitted: true, ..w.counted_in(number, order) };
        let slot = self.peer.add_write(w);
        self.peer.active.push((v as u8, range, slot));
        self.refuse_when_stable(slot, out);
    }

    /// Submits what may be submitted among the waiting writes, in the order received.
    pub(crate) fn pump_peer_writes(&mut self, out: &mut Actions) {
        if self.peer.waiting.is_empty() {
            return;
        }
        let mut list = mem::take(&mut self.peer.waiting);
        let mut kept = 0;
        for i in 0..list.len() {
            let slot = list[i];
            // Earlier ones that still wait are in list[..kept]; nobody overtakes one that overlaps, or that waits for a flush:
            // the sender flags only the first write behind it.
            let range = self.peer.writes[slot].range();
            let vol = self.peer.writes[slot].vol;
            let behind = list[..kept].iter().any(|s| {
                let o = &self.peer.writes[*s];
                o.vol == vol && o.range().overlaps(range) && !planted::on(Planted::PeerOverlapIgnored)
                    || o.dp.contains(DpFlags::FLUSH) && !self.earlier_epochs_flushed(o.epoch)
            });
            if behind || !self.try_submit_peer_write(slot, kept, out) {
                list[kept] = slot;
                kept += 1;
            }
        }
        list.truncate(kept);
        assert!(self.peer.waiting.is_empty(), "nothing is received while pumping");
        self.peer.waiting = list;
    }

    fn try_submit_peer_write(&mut self, slot: u32, earlier_waiting: usize, out: &mut Actions) -> bool {
        let w = &self.peer.writes[slot];
        let (v, range, epoch, dp, orphan) = (w.vol as usize, w.range(), w.epoch, w.dp, w.orphan);
        let strict = !orphan && !self.conn.peer_is_lockstep();
        if (strict || dp.contains(DpFlags::FLUSH)) && !self.earlier_epochs_flushed(epoch) {
            self.flush_now = true;
            return false;
        }
        if self.relies_on_forced_write(epoch, dp) {
            return false;
        }
        if self.peer.writes[slot].undecided && !orphan {
            match self.decide_conflict(slot, out) {
                Verdict::Unknown => return false,
                Verdict::Refused => return true,
                Verdict::Written => {}
            }
        }
        if self.overlaps_own_write(v, range) {
            return false;
        }
        if dp.contains(DpFlags::FLUSH) && (earlier_waiting > 0 || self.active_in_epoch(epoch, slot)) {
            return false;
        }
        let writing = self.peer.active.iter().any(|(o, r, _)| *o as usize == v && r.overlaps(range));
        let busy = writing && !planted::on(Planted::PeerOverlapIgnored)
            || self.vols[v].resync.writing_overlaps(range)
                && !planted::on(Planted::WriteOvertakesResyncWrite);
        if busy {
            return false;
        }
        // After a crash the device would end before what was written. What has been cut off since it came has its place still.
        let too_early = |d: &LocalDisk| range.end > d.md.size_on_disk_sectors && !d.md.failed;
        if self.vols[v].range_is_inside(range) && self.vols[v].disk.as_ref().is_some_and(too_early) {
            return false;
        }
        let only_copy = self.peer.writes[slot].only_copy || !orphan && self.vols[v].peer_without_disk;
        if only_copy && !self.peer.writes[slot].in_al {
            if !self.only_copy_write(slot, v, range) {
                return false;
            }
            if self.peer.writes[slot].waits_for_al {
                return true;
            }
        }
        self.submit_peer_write(slot, out);
        true
    }

    /// In protocols A and B a write with FUA may have been answered before it is on this disk. What was written for the sake of
    /// that answer belongs to a later epoch.
    fn relies_on_forced_write(&self, epoch: u64, dp: DpFlags) -> bool {
        let forced = |w: &PeerWrite| w.epoch < epoch && w.dp.contains(DpFlags::FUA);
        !dp.contains(DpFlags::SEND_WRITE_ACK) && self.peer.writes.iter().any(|(_, w)| forced(w))
    }

    /// This node has the only disk: the range is marked and covered by the activity log like an own write.
    fn only_copy_write(&mut self, slot: u32, v: usize, range: SectorRange) -> bool {
        self.vols[v].set_out_of_sync(range);
        let vol = &mut self.vols[v];
        let suspended = vol.al_suspended;
        let Some(disk) = vol.disk.as_mut() else { return true };
        if disk.md.moving.is_some() {
            return false;
        }
        if suspended {
            disk.md.wrote_unlogged = true;
            return true;
        }
        if !disk.md.primary_on_disk {
            return false;
        }
        if !disk.cfg.al_updates {
            return true;
        }
        let (first, last) = range.al_extents();
        let w = &mut self.peer.writes[slot];
        if disk.al.try_get_hot(first, last) {
            w.in_al = true;
        } else if disk.al.stage(first, last).is_ok() {
            w.in_al = true;
            w.waits_for_al = true;
            self.peer.active.push((v as u8, range, slot));
            w.submitted = true;
        } else {
            return false;
        }
        true
    }

    /// Submits the writes whose activity log transaction is stable. That of a log which is being moved is not yet.
    pub(crate) fn pump_peer_al(&mut self, out: &mut Actions) {
        if !self.peer.writes.iter().any(|(_, w)| w.waits_for_al) {
            return;
        }
        let ready: alloc::vec::Vec<u32> = self
            .peer
            .writes
            .iter()
            .filter(|(_, w)| {
                let (first, last) = w.range().al_extents();
                let disk = self.vols[w.vol as usize].disk.as_ref();
                let is_stable = |d: &LocalDisk| d.md.moving.is_none() && d.al.is_active(first, last);
                w.waits_for_al && disk.is_none_or(is_stable)
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in ready {
            self.peer.writes[slot].waits_for_al = false;
            self.peer.active.retain(|(_, _, s)| *s != slot);
            self.submit_peer_write(slot, out);
        }
    }

    fn submit_peer_write(&mut self, slot: u32, out: &mut Actions) {
        let generation = self.peer.writes.generation(slot);
        let w = &mut self.peer.writes[slot];
        w.submitted = true;
        w.disk_at = self.now;
        let (v, range) = (w.vol as usize, w.range());
        let vol = VolIdx(w.vol);
        let (sector, len_bytes) = (w.sector, w.len_bytes);
        let fua = w.dp.contains(DpFlags::FUA);
        let tag = pack(IoKind::PeerWrite, slot, generation);
        let Some(disk) = self.vols[v].disk.as_mut().filter(|d| d.given_up_at.is_none()) else {
            self.peer.active.push((vol.0, range, slot));
            self.refuse_when_stable(slot, out);
            return;
        };
        disk.io_begins(self.now);
        self.vols[v].counters.written_sectors += u64::from(len_bytes / 512);
        let w = &self.peer.writes[slot];
        out.push(match w.kind {
            PeerWriteKind::Data => {
                let buf = w.buf.expect("received data is held until written");
                Action::DiskWrite { tag, vol, sector, len_bytes, buf, fua }
            }
            PeerWriteKind::Zero { may_unmap } => {
                Action::DiskZero { tag, vol, sector, len_bytes, may_unmap, fua }
            }
        });
        self.peer.active.push((vol.0, range, slot));
    }

    pub(crate) fn peer_write_done(&mut self, slot: u32, ok: bool, out: &mut Actions) {
        let v = self.peer.writes[slot].vol as usize;
        self.local_io_ended(v, out);
        if ok {
            self.finish_peer_write(slot, true, out);
            return;
        }
        self.local_io_failed(v, FailedIo::Write, out);
        self.refuse_when_stable(slot, out);
    }

    /// The peer hears that a write failed when this disk says, as far as it can, that its copy is not good. The client is
    /// answered then: a copy that came back UpToDate after a loss of power would be an old one in the same generation.
    pub(crate) fn refuse_when_stable(&mut self, slot: u32, out: &mut Actions) {
        let w = &self.peer.writes[slot];
        let (v, range) = (w.vol as usize, w.range());
        let generation = self.peer.writes.generation(slot);
        if !planted::on(Planted::NegAckForgotten) {
            self.vols[v].set_out_of_sync(range);
        }
        let then = Then::RefuseWrite { slot, generation };
        if self.vols[v].state.disk == DiskState::Inconsistent {
            // The mark too: a source forgets its own when the resync has brought the block, which is in the cache here then.
            self.write_bitmap_dirty(v, out);
            self.when_bitmap_written(v, then, out);
        } else {
            self.when_super_block_stable(v, then, out);
        }
    }

    /// The disk knows that it lacks this write, or is gone.
    pub(crate) fn refuse_peer_write(&mut self, slot: u32, generation: u32, out: &mut Actions) {
        if self.peer.writes.is_live(slot, generation) {
            self.finish_peer_write(slot, false, out);
        }
    }

    pub(crate) fn finish_peer_write(&mut self, slot: u32, ok: bool, out: &mut Actions) {
        let w = self.peer.take_write(slot);
        self.peer.active.retain(|(_, _, s)| *s != slot);
        let v = w.vol as usize;
        if let Some(buf) = w.buf {
            out.push(Action::Release { buf });
        }
        let id = (w.sector, w.len_bytes, w.block_id);
        let reported = ok || planted::on(Planted::NegAckForgotten);
        if !reported {
            self.vols[v].set_out_of_sync(w.range());
            self.vols[v].resync.spoil(w.range());
        }
        if !w.orphan {
            if !reported {
                // spec: drbd-wire trap 19, a failed write is reported in every protocol
                self.send_ack(Command::NegAck, v, id, out);
            } else if w.dp.contains(DpFlags::SEND_WRITE_ACK) && !planted::on(Planted::AckOnReceive) {
                self.send_ack(Command::WriteAck, v, id, out);
            }
            let epoch = self.peer.epochs.iter_mut().find(|e| e.number == w.epoch);
            let epoch = epoch.expect("an epoch lives as long as its writes");
            assert!(epoch.active > 0, "every active write is counted");
            epoch.active -= 1;
            epoch.wrote |= u64::from(ok) << v;
            self.goodbye_goes_on(w.epoch);
        }
        if w.in_al
            && let Some(disk) = self.vols[v].disk.as_mut()
        {
            let (first, last) = w.range().al_extents();
            disk.al.put(first, last);
        }
        self.epochs_advance(out);
        self.resync_conflicts_changed();
        if w.only_copy && w.orphan {
            self.recompute_md_flags(v);
        }
        self.vols[v].pump |= w.orphan || self.may_both_be_primary();
        if w.orphan && self.peer.writes.is_empty() {
            self.reconnect_if_clean(out);
        }
        self.peer_pump = true;
    }

    fn active_in_epoch(&self, epoch: u64, but: u32) -> bool {
        self.peer.active.iter().any(|(_, _, s)| *s != but && self.peer.writes[*s].epoch <= epoch)
    }

    /// The connection is gone: what was received is still written (protocol B acknowledged it), nothing more is
    /// acknowledged, and epochs end.
    pub(crate) fn peer_requests_orphaned(&mut self, _out: &mut Actions) {
        let slots: alloc::vec::Vec<u32> = self.peer.writes.iter().map(|(s, _)| s).collect();
        for slot in slots {
            self.peer.writes[slot].orphan = true;
        }
        let reads: alloc::vec::Vec<u32> = self.peer.reads.iter().map(|(s, _)| s).collect();
        for slot in reads {
            if self.peer.reads[slot].waiting {
                self.peer.reads.remove(slot);
            } else {
                self.peer.reads[slot].orphan = true;
            }
        }
        self.peer.epochs.clear();
        self.peer.flushing = None;
        self.peer.flush_generation = self.peer.flush_generation.wrapping_add(1);
        self.peer.flushed_up_to = None;
        self.peer_pump = true;
    }
}
