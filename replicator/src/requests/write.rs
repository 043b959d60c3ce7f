//! Where a write goes: local disk, peer, or only the bitmap (drbd-states 14.6, drbd-wire 4.1, 4.2).

use model::policy::Protocol;
use model::state::{ConnState, DiskState, VolumeState};

use super::{Kind, flag};
use crate::action::{Action, Actions};
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::wire::DpFlags;

/// Writes in this state are sent to the peer.
pub(crate) fn replicates(s: &VolumeState) -> bool {
    s.pdsk == DiskState::UpToDate
        || (s.pdsk >= DiskState::Inconsistent && s.conn >= ConnState::WFBitMapT && s.conn < ConnState::Ahead)
}

/// Writes in this state are only marked, and the peer is told.
pub(crate) fn marks_only(s: &VolumeState) -> bool {
    matches!(s.conn, ConnState::Ahead | ConnState::WFBitMapS)
}

impl Resource {
    /// Submits an admitted write, whose extents are stable in the activity log, to disk and peer.
    pub(crate) fn route_write(&mut self, slot: u32, out: &mut Actions) {
        let r = &self.reqs.table[slot];
        debug_assert!(r.changes_data() && !r.has(flag::WAITING | flag::COMPLETED));
        let (v, range) = (r.vol as usize, r.range());
        self.relieve_congestion(v, out);
        let vol = &mut self.vols[v];
        let s = vol.state;
        let readable = s.disk == DiskState::UpToDate || s.pdsk == DiskState::UpToDate;
        let local = vol.has_usable_disk() && readable;
        let marked = marks_only(&s);
        let gets_it = replicates(&s) || vol.skip_unconfirmed && s.pdsk == DiskState::Inconsistent;
        let remote = !marked && self.conn.is_established() && gets_it;
        if !local && !remote {
            self.fail_for_lack_of_data(slot, out);
            return;
        }
        // A write that the peer does not get is marked before it starts: a connection may be made, and the bitmap
        // be sent, while it is still on its way to the disk.
        let lonely_forgotten = planted::on(Planted::LonelyWriteNotMarked) && !marked;
        if !remote && !lonely_forgotten && vol.set_out_of_sync(range) > 0 && marked {
            if planted::on(Planted::OutOfSyncNotSent) {
                return self.submit_local_write(slot, out);
            }
            // spec: drbd-wire 4.6, the barrier of the epoch before comes first
            self.send_closed_barrier(out);
            self.send_out_of_sync(v, range, out);
        }
        if marked && local {
            let vol = &mut self.vols[v];
            vol.resync.rewrites(range);
            vol.wrote_ahead |= vol.uuids().bitmap.is_zero();
        }
        if remote && !local {
            // Marked now and not when the peer's acknowledgement is final: a disk may be attached and brought up to
            // date before that.
            self.vols[v].set_out_of_sync(range);
        }
        if remote {
            self.send_write(slot, out);
        }
        if local {
            self.submit_local_write(slot, out);
        }
        self.try_complete(slot, out);
    }

    fn submit_local_write(&mut self, slot: u32, out: &mut Actions) {
        let generation = self.reqs.table.generation(slot);
        let now = self.now;
        let r = &mut self.reqs.table[slot];
        r.set(flag::LOCAL_PENDING);
        r.local_at = now;
        let fua = r.has(flag::FUA) && !planted::on(Planted::FuaForgotten);
        let (vol, sector, len_bytes) = (VolIdx(r.vol), r.sector, r.len_bytes);
        let tag = pack(IoKind::AppWrite, slot, generation);
        out.push(match r.kind {
            Kind::Write => {
                let buf = r.buf.expect("a write holds its data until it is completed");
                Action::DiskWrite { tag, vol, sector, len_bytes, buf, fua }
            }
            Kind::Discard => Action::DiskZero { tag, vol, sector, len_bytes, may_unmap: true, fua },
            Kind::Zeroes { may_unmap } => Action::DiskZero { tag, vol, sector, len_bytes, may_unmap, fua },
            Kind::Read | Kind::Flush => unreachable!("only data changes are routed here"),
        });
        let vol = &mut self.vols[vol.0 as usize];
        vol.counters.written_sectors += u64::from(len_bytes / 512);
        vol.app_sectors += u64::from(len_bytes / 512);
        vol.disk.as_mut().expect("local writes need a disk").io_begins(now);
    }

    /// Protocols A and B answer for the sake of the own copy. While it is not good, the peer's is the only one, and
    /// has to be written.
    pub(crate) fn protocol_of(&self, v: usize) -> Protocol {
        let good = self.vols[v].state.disk == DiskState::UpToDate;
        if good { self.net().protocol } else { Protocol::C }
    }

    /// Appends the write to the transfer log and sends it, behind the barrier of the epoch before.
    fn send_write(&mut self, slot: u32, out: &mut Actions) {
        self.enter_epoch(out);
        let v = self.reqs.table[slot].vol as usize;
        let protocol = self.protocol_of(v);
        let r = &self.reqs.table[slot];
        let mut dp = match protocol {
            Protocol::A => DpFlags::NONE,
            Protocol::B => DpFlags::SEND_RECEIVE_ACK,
            Protocol::C => DpFlags::SEND_WRITE_ACK,
        };
        if r.has(flag::FUA) && !planted::on(Planted::FuaNotSent) {
            dp = dp.with(DpFlags::FUA);
        }
        if core::mem::take(&mut self.reqs.flush_before_next) {
            dp = dp.with(DpFlags::FLUSH);
        }
        self.send_change(slot, dp, out);
        let (now, epoch, sent_pos) = (self.now, self.reqs.current_epoch, self.conn.data_tx.queued_total);
        self.reqs.current_writes += 1;
        let r = &mut self.reqs.table[slot];
        r.epoch = epoch;
        r.sent_at = now;
        r.sent_pos = sent_pos;
        r.set(flag::NET_WANTED | flag::NET_PENDING | flag::IN_LOG);
        self.reqs.log.push_back(slot);
        let back = self.reqs.epochs.back_mut().expect("entering the epoch made it");
        assert_eq!(back.number, epoch, "a write belongs to the newest epoch");
        back.writes += 1;
        if protocol == Protocol::A {
            let generation = self.reqs.table.generation(slot);
            self.reqs.unsent.push_back((slot, generation));
        }
        let sectors = u64::from(self.reqs.table[slot].len_bytes / 512);
        self.vols[v].counters.sent_sectors += sectors;
        self.vols[v].mirrored_sectors += sectors;
        self.arm_request_age();
        if self.reqs.current_writes >= self.net().max_epoch_size {
            self.close_epoch();
        }
    }

    /// The local disk finished a write.
    pub(crate) fn local_write_done(&mut self, slot: u32, ok: bool, out: &mut Actions) {
        let r = &mut self.reqs.table[slot];
        assert!(r.has(flag::LOCAL_PENDING), "a local write ends once");
        r.clear(flag::LOCAL_PENDING);
        r.set(if ok { flag::LOCAL_OK } else { flag::LOCAL_FAILED });
        let (v, range) = (r.vol as usize, r.range());
        let generation = self.reqs.table.generation(slot);
        if !ok && !planted::on(Planted::FailedWriteNotMarked) {
            // Not when the peer's part is final: the disk may be back, and in sync again, before that.
            self.vols[v].set_out_of_sync(range);
        }
        self.local_io_ended(v, out);
        // A failed discard too, other than drbd-states 14.2 has it: the driver writes zeroes where a disk cannot discard,
        // so it is the disk that failed, and its old blocks are not what the peer has from now on.
        if !ok {
            self.local_io_failed(v, FailedIo::Write, out);
        }
        self.peer_pump |= !self.peer.waiting.is_empty();
        if !self.reqs.table.is_live(slot, generation) {
            // It was the last on a disk that is let go, for which the answer to the peer's goodbye had waited; with the
            // connection the request has ended, too.
            return;
        }
        if self.reqs.table[slot].has(flag::POSTPONED) {
            self.restart(slot);
            return;
        }
        self.try_complete(slot, out);
    }
}
