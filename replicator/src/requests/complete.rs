//! When a request is answered, and what remains to be done when it leaves (drbd-wire 4.7, 4.8).

use core::mem;

use model::policy::OnNoData;
use model::state::{ConnState, DiskState, Role};

use super::{Kind, flag};
use crate::action::{Action, Actions, ClientResult, LogLevel};
use crate::event::VolIdx;
use crate::planted::{self, Planted};
use crate::resource::Resource;

impl Resource {
    /// Answers the client if nothing is missing, and drops the request when nothing refers to it any more.
    pub(crate) fn try_complete(&mut self, slot: u32, out: &mut Actions) {
        let Some(r) = self.reqs.table.get(slot) else { return };
        if r.has(flag::LOCAL_PENDING | flag::NET_PENDING | flag::WAITING) {
            return;
        }
        if r.has(flag::COMPLETED) {
            self.try_leave(slot, out);
            return;
        }
        if r.has(flag::HELD) {
            return;
        }
        let v = r.vol as usize;
        // What only a disk has that is not good (any more) is overwritten by the next resync: a write that was on
        // its way when the peer was lost is not answered for its sake. A read took what is good there.
        let (s, read) = (&self.vols[v].state, r.kind == Kind::Read);
        let own_counts = read || s.disk == DiskState::UpToDate || planted::on(Planted::BadDiskCounts);
        // The same for a target that has it while the own disk has just failed.
        let peer_counts = read || s.pdsk == DiskState::UpToDate;
        let done = r.has(flag::NET_OK) && peer_counts || r.has(flag::LOCAL_OK) && own_counts;
        if !done {
            self.fail_for_lack_of_data(slot, out);
            return;
        }
        if self.reqs.table[slot].changes_data() && self.vols[v].state.disk < DiskState::Inconsistent {
            self.vols[v].exposed.goes_beyond();
        }
        let held = self.holds_completions(v);
        // A flush too: what only this copy promises must not be lost with a generation that the peer has as well.
        if held && self.reqs.table[slot].kind != Kind::Read {
            let r = &mut self.reqs.table[slot];
            r.set(flag::HELD);
            if r.changes_data() && !r.has(flag::IN_LOG) {
                // A resync does not wait for the answer; so it has to know now.
                r.set(flag::SETTLED);
                if !(r.has(flag::NET_OK) && r.has(flag::BARRIER_ACKED)) || r.has(flag::NET_LOST) {
                    let range = r.range();
                    self.vols[v].set_out_of_sync(range);
                }
            }
            self.vols[v].held_completions.push(slot);
            return;
        }
        self.answer(slot, ClientResult::Ok, out);
    }

    /// Neither disk nor peer could do it: fail, or freeze until data is back (drbd-states 14.4).
    pub(crate) fn fail_for_lack_of_data(&mut self, slot: u32, out: &mut Actions) {
        let r = &self.reqs.table[slot];
        let (v, sector, len) = (r.vol as usize, r.sector, r.len_bytes / 512);
        let freezes = self.cfg.on_no_data == OnNoData::SuspendIo && !self.fails_requests;
        let suspended = freezes && self.vols[v].state.any_susp();
        if suspended && !r.has(flag::IN_LOG | flag::LOCAL_PENDING) {
            self.restart(slot);
            return;
        }
        let text = alloc::format!("IO ERROR: neither local nor remote data, sector {sector}+{len}");
        if self.io_error_lines.allow(self.now) {
            out.log(LogLevel::Error, Some(VolIdx(v as u8)), text);
        }
        self.answer(slot, ClientResult::IoError, out);
    }

    /// Puts a request back into the queue as if it had just arrived.
    pub(crate) fn restart(&mut self, slot: u32) {
        let r = &mut self.reqs.table[slot];
        assert!(
            !r.has(flag::COMPLETED | flag::LOCAL_PENDING | flag::IN_LOG),
            "only idle requests start anew"
        );
        r.clear(!(flag::IN_AL | flag::ACTIVE | flag::FUA));
        r.set(flag::WAITING);
        let v = r.vol as usize;
        // A disk that was given up may still end what it had of this request.
        self.reqs.table.renew(slot);
        self.vols[v].waiting.push(slot);
    }

    pub(super) fn answer(&mut self, slot: u32, result: ClientResult, out: &mut Actions) {
        let r = &mut self.reqs.table[slot];
        assert!(!r.has(flag::COMPLETED), "a request is answered once");
        r.set(flag::COMPLETED);
        r.clear(flag::HELD);
        let (tag, v, is_change) = (r.tag, r.vol, r.changes_data());
        // Nobody who is answered now may build on what another Primary does not have.
        let fails = self.fails_requests && r.kind != Kind::Read;
        let result = if fails { ClientResult::IoError } else { result };
        let closes = r.has(flag::IN_LOG) && r.epoch == self.reqs.current_epoch;
        let buf = r.buf.take();
        if is_change {
            if let Some(buf) = buf {
                out.push(Action::Release { buf });
            }
            out.push(Action::ClientDone { tag, result, buf: None });
            self.reqs.table[slot].clear(flag::ACTIVE);
            self.reqs.active.retain(|(_, _, s)| *s != slot);
            if planted::on(Planted::ExtentReleasedAtCompletion) {
                self.give_back_extents(slot);
            }
            if closes {
                self.close_epoch();
            }
        } else {
            out.push(Action::ClientDone { tag, result, buf });
        }
        self.try_leave(slot, out);
        if is_change {
            self.after_active_ended(v as usize);
        }
    }

    fn give_back_extents(&mut self, slot: u32) {
        let r = &mut self.reqs.table[slot];
        let (first, last) = r.range().al_extents();
        if r.has(flag::IN_AL)
            && let Some(disk) = self.vols[r.vol as usize].disk.as_mut()
        {
            r.clear(flag::IN_AL);
            disk.al.put(first, last);
            // One of the other Primary, which has no disk, may wait for a place in the log.
            self.peer_pump |= !self.peer.waiting.is_empty();
        }
    }

    /// No change is answered now: I/O is frozen, or the new generation is not stable. Or the own disk has just gone, and
    /// the peer has not said yet that it goes on in a generation of its own, which it begins unless it has one already:
    /// if this node died now, its old copy would come back as that of a crashed Primary, and be taken for the better one.
    fn holds_completions(&self, v: usize) -> bool {
        if self.fails_requests {
            return false;
        }
        let vol = &self.vols[v];
        let s = &vol.state;
        let peer_will_say = vol.peer_uuids.is_some_and(|p| p.set.bitmap.is_zero());
        let peer_may_not_know = s.disk < DiskState::Inconsistent
            && s.role == Role::Primary
            && s.conn >= ConnState::Connected
            && vol.exposed.is_own()
            && peer_will_say;
        let frozen = s.any_susp() && !(s.susp_fen && planted::on(Planted::AnsweredWhileFrozen));
        // Writes are not sent to a copy that is given up. Until the peer says that it is, theirs counts if this disk goes.
        let peer_copy_may_count = s.role == Role::Primary
            && matches!(s.conn, ConnState::StartingSyncS | ConnState::WFBitMapS)
            && s.pdsk == DiskState::Consistent
            && vol.peer_uuids.is_some_and(|p| p.set.current.same_as(vol.uuids().current));
        let peer_may_count = peer_may_not_know || peer_copy_may_count;
        let lapsed = self.is_without_authority();
        frozen
            || lapsed
            || vol.completion_gate.is_some()
            || peer_may_count
            || self.peer_may_give_up_its_copy(v)
    }

    /// Answers what was held back, if the reason is gone or there is nothing to hope for.
    pub(crate) fn release_held(&mut self, v: usize, out: &mut Actions) {
        if self.vols[v].held_completions.is_empty() {
            return;
        }
        let holds = self.holds_completions(v);
        // What only a disk has that is gone has failed, and need not wait for anybody's word.
        let is_gone = self.vols[v].state.disk < DiskState::Inconsistent;
        if holds && !is_gone {
            return;
        }
        for slot in mem::take(&mut self.vols[v].held_completions) {
            if holds && self.reqs.table[slot].has(flag::NET_OK) {
                self.vols[v].held_completions.push(slot);
                continue;
            }
            self.reqs.table[slot].clear(flag::HELD);
            self.try_complete(slot, out);
        }
    }

    /// Takes an answered request out of the table once disk and transfer log are done with it: its blocks are
    /// marked unless both copies have it for certain, and its activity log extents are given back.
    pub(crate) fn try_leave(&mut self, slot: u32, _out: &mut Actions) {
        let r = &self.reqs.table[slot];
        if !r.has(flag::COMPLETED) || r.has(flag::LOCAL_PENDING | flag::IN_LOG | flag::NET_PENDING) {
            return;
        }
        if r.changes_data() {
            self.settle_change(slot);
        }
        let r = self.reqs.table.remove(slot);
        assert!(r.buf.is_none(), "answering gave up the buffer");
    }

    /// Disk and transfer log are done with a change: marks it unless both copies have it, and gives back its extents.
    fn settle_change(&mut self, slot: u32) {
        let r = &self.reqs.table[slot];
        let vol = &mut self.vols[r.vol as usize];
        // A write that went to the peer alone was marked when it started.
        let peer_has_it = r.has(flag::NET_OK) && r.has(flag::BARRIER_ACKED);
        let never_sent = !r.has(flag::NET_WANTED) && planted::on(Planted::LonelyWriteNotMarked);
        let lost = !peer_has_it && !never_sent || r.has(flag::NET_LOST);
        if lost && !r.has(flag::SETTLED) {
            vol.set_out_of_sync(r.range());
        }
        self.give_back_extents(slot);
    }
}
