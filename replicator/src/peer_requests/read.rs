//! Reads of the peer's application, when its own disk cannot serve them (drbd-wire 4.10).

use model::ids::BufId;
use model::state::DiskState;
use model::units::{MAX_BIO_BYTES, SECTOR_BYTES, SectorRange};

use super::PeerRead;
use crate::action::{Action, Actions};
use crate::digest::DigestAlg;
use crate::disks::FailedIo;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::resource::Resource;
use crate::wire::{Command, Request};

/// More blocks than any peer asks for at once in a resync or a verify: half of the largest `max-buffers`.
pub(crate) const READS_MAX: usize = 65_536;

impl Resource {
    /// P_DATA_REQUEST.
    pub(crate) fn receive_read(&mut self, v: usize, r: &Request, out: &mut Actions) {
        if !self.request_is_possible(v, r, out) {
            return;
        }
        let id = (r.sector, r.size_bytes, r.block_id);
        if self.vols[v].state.disk != DiskState::UpToDate {
            self.send_ack(Command::NegDreply, v, id, out);
            return;
        }
        let order = self.peer.arrival();
        let slot = self.peer.reads.insert(PeerRead {
            vol: v as u8,
            sector: r.sector,
            len_bytes: r.size_bytes,
            block_id: r.block_id,
            orphan: false,
            order,
            waiting: true,
            disk_at: self.now,
        });
        self.try_submit_peer_read(slot, out);
    }

    /// Submits what no longer has to wait for a write.
    pub(crate) fn pump_peer_reads(&mut self, out: &mut Actions) {
        let waiting = self.peer.reads.iter().filter(|(_, r)| r.waiting).map(|(slot, _)| slot);
        let waiting: alloc::vec::Vec<u32> = waiting.collect();
        for slot in waiting {
            self.try_submit_peer_read(slot, out);
        }
    }

    /// In protocols A and B the peer's application may have its answer before the write is on this disk; what it
    /// reads then must be what it wrote.
    fn try_submit_peer_read(&mut self, slot: u32, out: &mut Actions) {
        let r = &self.peer.reads[slot];
        let (v, range, order) = (r.vol as usize, r.range(), r.order);
        let (sector, len_bytes, block_id) = (r.sector, r.len_bytes, r.block_id);
        let behind =
            |w: &super::PeerWrite| w.vol as usize == v && w.order < order && w.range().overlaps(range);
        if self.peer.writes.iter().any(|(_, w)| behind(w)) {
            return;
        }
        if self.vols[v].state.disk != DiskState::UpToDate {
            self.peer.reads.remove(slot);
            self.send_ack(Command::NegDreply, v, (sector, len_bytes, block_id), out);
            return;
        }
        self.peer.reads[slot].waiting = false;
        self.peer.reads[slot].disk_at = self.now;
        let tag = pack(IoKind::PeerRead, slot, self.peer.reads.generation(slot));
        self.read_disk(v, tag, (sector, len_bytes), None, out);
    }

    /// Submits a read for the peer to the local disk, which brings a digest if one is named.
    pub(crate) fn read_disk(
        &mut self,
        v: usize,
        tag: crate::event::IoTag,
        (sector, len_bytes): (u64, u32),
        digest: Option<DigestAlg>,
        out: &mut Actions,
    ) {
        self.vols[v].disk.as_mut().expect("an UpToDate disk is attached").io_begins(self.now);
        self.vols[v].counters.read_sectors += u64::from(len_bytes / 512);
        out.push(Action::DiskRead { tag, vol: VolIdx(v as u8), sector, len_bytes, digest });
    }

    /// Size and place of a read request can be; ends the connection if not.
    pub(crate) fn request_is_possible(&mut self, v: usize, r: &Request, out: &mut Actions) -> bool {
        let range = SectorRange::new(r.sector, r.size_bytes);
        let ok = r.size_bytes > 0
            && r.size_bytes.is_multiple_of(SECTOR_BYTES)
            && r.size_bytes <= MAX_BIO_BYTES
            && self.vols[v].range_is_inside(range);
        if !ok {
            let (s, l) = (r.sector, r.size_bytes);
            self.protocol_error(
                &alloc::format!("read of {l} bytes at sector {s} is outside the device"),
                out,
            );
        }
        ok
    }

    pub(crate) fn peer_read_done(&mut self, slot: u32, ok: bool, buf: Option<BufId>, out: &mut Actions) {
        let r = self.peer.reads.remove(slot);
        let v = r.vol as usize;
        self.local_io_ended(v, out);
        if !r.orphan {
            match buf.filter(|_| ok) {
                Some(buf) => {
                    let at = (r.sector, r.block_id);
                    self.send_block(Command::DataReply, v, at, (buf, r.len_bytes), out);
                }
                None => self.send_ack(Command::NegDreply, v, (r.sector, r.len_bytes, r.block_id), out),
            }
        }
        if let Some(buf) = buf {
            out.push(Action::Release { buf });
        }
        if !ok {
            self.vols[v].set_out_of_sync(SectorRange::new(r.sector, r.len_bytes));
            self.local_io_failed(v, FailedIo::Read, out);
        }
    }
}
