//! What follows a state change, in the order of drbd-states 11.2.

use core::mem;

use model::ids::DataUuid;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::state_word::{StateChange, mask};

use super::Kind;
use super::change::Transition;
use crate::action::Actions;
use crate::meta_io::Then;
use crate::resource::Resource;
use crate::wire::{DdsFlags, UuidFlags};

impl Resource {
    /// Runs the after-effects of all transitions; effects of effects come behind.
    pub(crate) fn run_effects(&mut self, out: &mut Actions) {
        if mem::replace(&mut self.effects_running, true) {
            return;
        }
        while let Some(t) = self.effects.pop_front() {
            self.after_change(t, out);
        }
        self.effects_running = false;
    }

    fn after_change(&mut self, t: Transition, out: &mut Actions) {
        let Transition { vol: v, old, new } = t;
        if old.conn != new.conn {
            self.before_resync_left(v, old.conn);
        }
        if new.pdsk != DiskState::UpToDate {
            self.vols[v].peer_refused_at = None;
        }
        self.both_up_to_date(v, &old, &new);
        self.call_handler_without_data(v, &old, &new, out);
        self.thaw(v, &old, &new, out);
        if runs_as_source(&new) && !runs_as_source(&old) {
            self.become_source(v, out);
        }
        if old.pdsk == DiskState::Diskless
            && new.pdsk > DiskState::Diskless
            && new.pdsk != DiskState::DUnknown
        {
            self.send_uuids(v, UuidFlags::NONE, out);
            self.send_state_as(v, &new, out);
        }
        self.new_generation_if_due(v, &old, &new, out);
        let lost_copy = new.pdsk < DiskState::Inconsistent;
        if lost_copy && old.peer == Role::Primary && new.peer == Role::Secondary
            || old.role == Role::Primary && new.role == Role::Secondary && new.conn <= ConnState::Connected
        {
            self.write_bitmap_dirty(v, out);
        }
        let fails = new.disk == DiskState::Failed && old.disk != DiskState::Failed;
        if fails {
            self.call_handler_of_failed_disk(v, out);
        }
        self.send_after_change(v, &old, &new, out);
        if new.conn == ConnState::Ahead && old.conn != ConnState::Ahead {
            self.gone_ahead(v, &old, out);
        }
        if matches!(new.conn, ConnState::StartingSyncS | ConnState::StartingSyncT) && old.conn != new.conn {
            self.begin_full_sync(v, out);
        }
        if fails {
            self.cancel_resync(v, out);
            self.md_sync(v, out);
        }
        if new.disk == DiskState::Diskless && old.disk != DiskState::Diskless {
            self.disk_is_gone(v, out);
        }
        if old.conn > ConnState::Connected
            && old.conn < ConnState::Ahead
            && matches!(new.conn, ConnState::Connected | ConnState::Ahead | ConnState::Behind)
        {
            self.write_bitmap_dirty(v, out);
        }
        if new.conn == ConnState::WFBitMapS && old.conn != ConnState::WFBitMapS {
            self.bitmap_exchange_as_source(v, out);
        }
        self.md_sync(v, out);
        self.vols[v].pump = true;
        if new.disk == DiskState::Failed {
            self.finish_detach_if_idle(v, out);
        }
    }

    /// Row 2: both copies are current, so an earlier crash as Primary is history.
    fn both_up_to_date(&mut self, v: usize, old: &VolumeState, new: &VolumeState) {
        let both = |s: &VolumeState| s.disk == DiskState::UpToDate && s.pdsk == DiskState::UpToDate;
        if both(new) && !both(old) {
            let vol = &mut self.vols[v];
            vol.crashed_primary = false;
            if let Some(p) = vol.peer_uuids.as_mut() {
                p.flags &= !UuidFlags::CRASHED_PRIMARY.0;
            }
            self.recompute_md_flags(v);
        }
    }

    /// Rows 4 and 5: data or peer is back, frozen requests go on. A peer without data is no reason to; DRBD thaws for it,
    /// and fails what was frozen.
    fn thaw(&mut self, v: usize, old: &VolumeState, new: &VolumeState, out: &mut Actions) {
        let arrived = old.conn < ConnState::Connected && new.conn >= ConnState::Connected;
        let has_data = |s: &VolumeState| {
            s.disk == DiskState::UpToDate || s.conn >= ConnState::Connected && s.pdsk == DiskState::UpToDate
        };
        let mut clear = 0;
        if self.vols[v].state.susp_nod && self.vols.iter().all(|o| has_data(&o.state)) {
            clear |= mask::SUSP_NOD;
        }
        if self.vols[v].state.susp_fen {
            if arrived && self.peer_is_back() {
                self.frozen_until_connected(out);
                clear |= mask::SUSP_FEN;
            } else if self.peer_is_fenced() {
                self.begin_due_generations(out);
                clear |= mask::SUSP_FEN;
            }
        }
        if clear != 0 {
            self.end_suspensions(clear, out);
        }
    }

    /// Clears these suspend flags: what was frozen goes on.
    pub(crate) fn end_suspensions(&mut self, flags: u32, out: &mut Actions) {
        let change = StateChange { mask: flags, value: 0 };
        let _ = self.change_connection(change, Kind::Hard, out);
        self.pump_all = true;
    }

    /// Rows 9 and 10: this node goes on alone, which starts a new data generation.
    fn new_generation_if_due(&mut self, v: usize, old: &VolumeState, new: &VolumeState, out: &mut Actions) {
        let left_source = runs_as_source(old) && !runs_as_source(new);
        let run = &self.vols[v].resync;
        let unknown = self.vols[v].uuids().end_of_sync_unknown();
        // The target has said that it is finished; it has this generation, and only the last ping is missing.
        let target_is_done = left_source && unknown && run.peer_done && run.failed_bits == 0;
        if target_is_done && let Some(disk) = self.vols[v].disk.as_mut() {
            disk.sb.uuids.end_sync_source();
            disk.md.mark_dirty();
            self.peer_has_own_generations(v);
        }
        let run = &self.vols[v].resync;
        let u = self.vols[v].uuids();
        let lost_target =
            left_source && (new.conn < ConnState::Connected || new.pdsk < DiskState::Inconsistent);
        let a_primary = new.role == Role::Primary || new.peer == Role::Primary;
        // Until its goodbye is answered the target gets what it has asked for, and its last ping is answered too. A kernel
        // peer expects the generation to stay.
        let is_served = new.conn == ConnState::TearDown && self.conn.peer_is_lockstep();
        let target_may_be_done = lost_target
            && a_primary
            && (target_is_done
                || (run.all_acked || is_served) && u.end_of_sync_unknown()
                || !run.target_began && u.syncs_own_generation());
        if new.disk != DiskState::UpToDate {
            return;
        }
        // A bitmap generation says that the peer is behind already, and the current one is this copy's alone; except
        // that of a resync whose end is unknown.
        let already_alone = !u.bitmap.is_zero();
        // The peer's copy was invalidated, and the resync did not begin: it must not pass for this generation again.
        let invalidated_peer = old.conn == ConnState::StartingSyncS && new.conn <= ConnState::Connected;
        let had_data =
            matches!(old.pdsk, DiskState::Inconsistent | DiskState::Consistent | DiskState::UpToDate);
        let has_none = new.pdsk < DiskState::Inconsistent
            || matches!(new.pdsk, DiskState::DUnknown | DiskState::Outdated);
        let found_bad = old.pdsk == DiskState::DUnknown
            && matches!(new.pdsk, DiskState::Diskless | DiskState::Failed | DiskState::Outdated);
        // It said that it is bad, which a kernel may do before its disk does: it would come back as good, in this generation.
        let lost_bad_copy = old.conn >= ConnState::Connected
            && new.conn < ConnState::Connected
            && (old.pdsk, new.role) == (DiskState::Inconsistent, Role::Primary);
        let lost_contact = (had_data && has_none || found_bad) && a_primary || lost_bad_copy;
        let diskless_promoted =
            new.pdsk < DiskState::Inconsistent && old.peer != Role::Primary && new.peer == Role::Primary;
        // The peer may have gone on from the generation that the disk found here still has.
        let attached_alone = old.disk < DiskState::Inconsistent
            && new.role == Role::Primary
            && (new.conn < ConnState::Connected || new.pdsk < DiskState::Inconsistent);
        // What a Primary without a disk writes goes to this copy alone; its own disk may have the same generation.
        let only_copy = old.disk < DiskState::UpToDate
            && new.conn >= ConnState::Connected
            && new.peer == Role::Primary
            && new.pdsk < DiskState::Inconsistent;
        let goes_alone = !already_alone && (lost_contact || invalidated_peer);
        let clients_only_here =
            (!already_alone || u.end_of_sync_unknown()) && (diskless_promoted || attached_alone || only_copy);
        if goes_alone && self.vols[v].state.susp_fen && !clients_only_here && !target_may_be_done {
            // Nothing is answered until the peer is fenced; and if it comes back, nothing has happened.
            self.vols[v].generation_due = true;
        } else if goes_alone || clients_only_here || target_may_be_done {
            let before = self.vols[v].uuids().current;
            let keeps_disk =
                new.role == Role::Primary && new.conn < ConnState::Connected && self.asks_to_detach(v);
            self.new_current_uuid(v, out);
            let vol = &mut self.vols[v];
            let begun = vol.uuids().current;
            let for_peer = new.role == Role::Secondary && new.peer == Role::Primary;
            vol.empty_generation = if for_peer { begun } else { DataUuid::ZERO };
            // A disk that the peer was asked to let go, and has perhaps, is taken back as well.
            let takes_back = attached_alone && vol.taken_back.same_as(before) || keeps_disk;
            vol.taken_back = if takes_back { begun } else { DataUuid::ZERO };
            let generation = self.conn.generation;
            if new.peer == Role::Primary && self.conn.peer_is_lockstep() {
                // A Primary without a disk answers its clients for the sake of this copy as soon as it knows the name, which
                // nobody may know any more after a loss of power on both nodes.
                self.when_super_block_stable(v, Then::SendUuids { generation }, out);
            } else {
                self.send_uuids(v, UuidFlags::NONE, out);
            }
        }
    }

    /// Rows 13 to 25: what the peer is told (drbd-wire 9.3).
    fn send_after_change(&mut self, v: usize, old: &VolumeState, new: &VolumeState, out: &mut Actions) {
        if new.conn < ConnState::Connected {
            return;
        }
        if old.disk == DiskState::Attaching && new.disk == DiskState::Negotiating {
            // As of before the attach: a peer with the new size already has to know that the disk grew for it.
            let current = self.vols[v].size_at_attach_sectors;
            self.send_sizes(v, DdsFlags::NONE, current, out);
            self.send_uuids(v, UuidFlags::NONE, out);
            self.send_state_as(v, new, out);
        }
        let isp = old.aftr_isp != new.aftr_isp || old.user_isp != new.user_isp;
        let reasons = [
            isp && old.conn >= ConnState::Connected,
            old.conn == ConnState::WFReportParams,
            new.conn == ConnState::Ahead && old.conn != ConnState::Ahead,
            new.disk == DiskState::Failed && old.disk != DiskState::Failed,
            new.disk == DiskState::Diskless && old.disk != DiskState::Diskless,
        ];
        for _ in reasons.into_iter().filter(|r| *r) {
            self.send_state_as(v, new, out);
        }
        // Without a comparison the peer takes what is attached for UpToDate.
        if (old.disk, new.disk, new.conn)
            == (DiskState::Negotiating, DiskState::Outdated, ConnState::Connected)
        {
            self.send_state_as(v, new, out);
        }
        let target_finished = old.disk < DiskState::UpToDate
            && old.conn >= ConnState::SyncSource
            && new.conn == ConnState::Connected;
        // A peer that takes this copy for Inconsistent begins no new generation when it loses it.
        let went_bad = old.disk == DiskState::UpToDate && new.disk == DiskState::Inconsistent;
        // A source forgets what differs as soon as it hears that its target has finished.
        // DRBD says nothing. Between lockstep nodes it tells the peer that everything before has been said, and that the copy
        // is known for an older one even after a crash.
        let fell_behind =
            new.conn == ConnState::Behind && old.conn != ConnState::Behind && self.conn.peer_is_lockstep();
        if target_finished || went_bad || fell_behind {
            let generation = self.conn.generation;
            self.when_super_block_stable(v, Then::SendState { generation }, out);
        }
        // Version 100 leaves it to the other side to count the blocks.
        if old.conn == ConnState::VerifyS
            && new.conn == ConnState::Connected
            && self.conn.agreed_version > 100
        {
            self.send_state_as(v, new, out);
        }
    }
}

/// The bitmaps are exchanged, and this node is the source of the resync.
fn runs_as_source(s: &VolumeState) -> bool {
    matches!(s.conn, ConnState::SyncSource | ConnState::PausedSyncS)
}
