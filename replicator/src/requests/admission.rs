//! Which requests may start now: suspension, the handshake's pauses, overlaps, the activity log
//! (drbd-states 13.1, drbd-metadata 6.4).

use core::mem;

use model::state::{ConnState, DiskState, Role};
use model::units::{MAX_BIO_BYTES, MAX_DISCARD_BYTES, SECTOR_BYTES, SectorRange};

use super::{Kind, Request, flag};
use crate::action::{Action, Actions, ClientResult};
use crate::event::{ClientOp, ClientRequest};
use crate::planted::{self, Planted};
use crate::resource::Resource;

impl Resource {
    /// Takes a client's request: refuses it, starts it, or lets it wait.
    pub(crate) fn submit(&mut self, r: ClientRequest, out: &mut Actions) {
        let v = r.vol.0 as usize;
        let buf = if let ClientOp::Write { buf, .. } = r.op { Some(buf) } else { None };
        if let Some(result) = self.refuses(&r) {
            if let Some(buf) = buf {
                out.push(Action::Release { buf });
            }
            out.push(Action::ClientDone { tag: r.tag, result, buf: None });
            return;
        }
        let (kind, fua) = match r.op {
            ClientOp::Read => (Kind::Read, false),
            ClientOp::Write { fua, .. } => (Kind::Write, fua),
            ClientOp::Discard => (Kind::Discard, false),
            ClientOp::Zeroes { may_unmap, fua } => (Kind::Zeroes { may_unmap }, fua),
            ClientOp::Flush => (Kind::Flush, false),
        };
        let slot = self.reqs.table.insert(Request {
            tag: r.tag,
            vol: r.vol.0,
            kind,
            sector: r.sector,
            len_bytes: r.len_bytes,
            buf,
            flags: flag::WAITING | if fua { flag::FUA } else { 0 },
            epoch: 0,
            sent_at: self.now,
            local_at: self.now,
            sent_pos: 0,
        });
        if self.vols[v].waiting.is_empty() && self.admits(v) && self.try_start(slot, out) {
            return;
        }
        self.vols[v].waiting.push(slot);
    }

    fn refuses(&self, r: &ClientRequest) -> Option<ClientResult> {
        let Some(vol) = self.vols.get(r.vol.0 as usize) else { return Some(ClientResult::Invalid) };
        if vol.state.role != Role::Primary {
            return Some(ClientResult::ReadOnly);
        }
        if self.fails_requests {
            return Some(ClientResult::IoError);
        }
        if r.op == ClientOp::Flush {
            return None;
        }
        let limit = match r.op {
            ClientOp::Read | ClientOp::Write { .. } => MAX_BIO_BYTES,
            _ => MAX_DISCARD_BYTES,
        };
        let range = SectorRange::new(r.sector, r.len_bytes);
        let ok = r.len_bytes > 0
            && r.len_bytes.is_multiple_of(SECTOR_BYTES)
            && r.len_bytes <= limit
            && vol.range_is_inside(range);
        if ok { None } else { Some(ClientResult::Invalid) }
    }

    /// The volume takes new requests now (drbd-states 13.1).
    pub(crate) fn admits(&self, v: usize) -> bool {
        let vol = &self.vols[v];
        let s = &vol.state;
        !s.any_susp()
            && self.may_serve()
            && !matches!(s.conn, ConnState::WFBitMapT | ConnState::WFSyncUUID)
            && !matches!(s.disk, DiskState::Attaching | DiskState::Negotiating)
            && vol.completion_gate.is_none()
            && !self.whole_bitmap_write_runs(v)
            && !vol.resizing.is_some_and(|r| r.is_adopting())
            && !self.may_be_left_behind(v)
    }

    fn admits_or_fails(&self, v: usize) -> bool {
        self.fails_requests || self.admits(v)
    }

    /// Writes that a lost peer sent are still on their way to these blocks. A node promoted meanwhile must neither read
    /// what they are about to replace nor let them come behind its own. Other blocks do not wait: writes to them may hold
    /// the activity log extents that these need.
    ///
    /// The same holds for a block of a resync that was given up: an operator may have called its target good since.
    fn is_written_for_lost_peer(&self, v: usize, range: SectorRange) -> bool {
        let resync = &self.vols[v].resync;
        self.peer.writes.iter().any(|(_, w)| w.orphan && w.is_in(v, range))
            || !resync.active && resync.writing_overlaps(range)
    }

    /// Starts whatever may start among the waiting requests of a volume, oldest first.
    pub(crate) fn pump_waiting(&mut self, v: usize, out: &mut Actions) {
        if self.vols[v].waiting.is_empty() || !self.admits_or_fails(v) {
            return;
        }
        let mut list = mem::take(&mut self.vols[v].waiting);
        let mut kept = mem::take(&mut self.reqs.scratch);
        for slot in list.drain(..) {
            if !self.admits_or_fails(v) || !self.try_start(slot, out) {
                kept.push(slot);
            }
        }
        // Requests that were sent back to the queue while we walked come behind those that kept waiting.
        kept.append(&mut self.vols[v].waiting);
        self.vols[v].waiting = kept;
        self.reqs.scratch = list;
    }

    /// Starts a waiting request; false: it has to wait on.
    fn try_start(&mut self, slot: u32, out: &mut Actions) -> bool {
        let r = &self.reqs.table[slot];
        debug_assert!(r.has(flag::WAITING) && !r.has(flag::COMPLETED));
        let (v, kind, range) = (r.vol as usize, r.kind, r.range());
        let is_gone = kind != Kind::Flush && !self.vols[v].range_is_inside(range);
        if is_gone || self.fails_requests {
            // The device has shrunk while it waited, or its role is taken from it.
            let r = &mut self.reqs.table[slot];
            r.clear(flag::WAITING);
            if !r.has(flag::ACTIVE) {
                r.set(flag::SETTLED);
            }
            self.answer(slot, ClientResult::IoError, out);
            return true;
        }
        match kind {
            Kind::Read if self.ends_beyond_disk(v, range) || self.is_written_for_lost_peer(v, range) => false,
            Kind::Read => {
                self.reqs.table[slot].clear(flag::WAITING);
                self.start_read(slot, out);
                true
            }
            Kind::Flush => {
                self.reqs.table[slot].clear(flag::WAITING);
                self.start_flush(slot, out);
                true
            }
            Kind::Write | Kind::Discard | Kind::Zeroes { .. } => {
                if !self.reqs.table[slot].has(flag::ACTIVE) {
                    let vol = &self.vols[v];
                    let busy = self.reqs.overlaps_active(v as u8, range)
                        || vol.resync.locks_out(range)
                        || vol.verify.locks_out(range);
                    if busy && !planted::on(Planted::OverlapIgnored) {
                        return false;
                    }
                }
                if self.waits_for_peer_write(v, range) {
                    return false;
                }
                self.start_change(slot, out)
            }
        }
    }

    fn waits_for_peer_write(&self, v: usize, range: SectorRange) -> bool {
        self.overlaps_peer_write(v, range) || self.is_written_for_lost_peer(v, range)
    }

    /// The new size is not on disk yet.
    fn ends_beyond_disk(&self, v: usize, range: SectorRange) -> bool {
        let vol = &self.vols[v];
        vol.has_usable_disk() && vol.disk.as_ref().is_some_and(|d| range.end > d.md.size_on_disk_sectors)
    }

    /// Gets the activity log extents of a write, then routes it.
    fn start_change(&mut self, slot: u32, out: &mut Actions) -> bool {
        let r = &self.reqs.table[slot];
        let (v, range, has_al, active) = (r.vol as usize, r.range(), r.has(flag::IN_AL), r.has(flag::ACTIVE));
        let vol = &mut self.vols[v];
        if let Some(disk) = vol.disk.as_mut() {
            disk.md.wrote_unlogged |= vol.al_suspended;
        }
        let mut wait_for_log = false;
        if !has_al && vol.has_usable_disk() && !vol.al_suspended {
            let disk = vol.disk.as_mut().expect("usable disk is present");
            if !disk.md.primary_on_disk && !planted::on(Planted::PrimaryFlagLate) {
                // A crash would not be seen as that of a Primary, and the activity log would not be looked at.
                return false;
            }
            if range.end > disk.md.size_on_disk_sectors {
                // After a crash the device would end before what was written.
                return false;
            }
            if disk.cfg.al_updates {
                let (first, last) = range.al_extents();
                if !disk.al.try_get_hot(first, last) {
                    if disk.al.stage(first, last).is_err() {
                        return false;
                    }
                    wait_for_log = !planted::on(Planted::ActivityLogSkipped);
                }
                self.reqs.table[slot].set(flag::IN_AL);
            }
        }
        let r = &mut self.reqs.table[slot];
        r.clear(flag::WAITING);
        if !active {
            r.set(flag::ACTIVE);
            self.reqs.active.push((v as u8, range, slot));
        }
        if wait_for_log {
            self.vols[v].waiting_al.push(slot);
        } else {
            self.route_write(slot, out);
        }
        true
    }

    /// Routes the writes whose activity log transaction is stable.
    pub(crate) fn pump_waiting_al(&mut self, v: usize, out: &mut Actions) {
        let mut list = mem::take(&mut self.vols[v].waiting_al);
        let mut kept = mem::take(&mut self.reqs.scratch);
        for slot in list.drain(..) {
            let (first, last) = self.reqs.table[slot].range().al_extents();
            let hot = match &self.vols[v].disk {
                Some(d) => d.al.is_active(first, last),
                None => true,
            };
            if !hot {
                kept.push(slot);
            } else if self.admits(v) && !self.waits_for_peer_write(v, self.reqs.table[slot].range()) {
                self.route_write(slot, out);
            } else {
                self.reqs.table[slot].set(flag::WAITING);
                self.vols[v].waiting.push(slot);
            }
        }
        kept.append(&mut self.vols[v].waiting_al);
        self.vols[v].waiting_al = kept;
        self.reqs.scratch = list;
    }
}
