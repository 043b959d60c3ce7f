//! The one place where a state is assigned: request -> rules -> commit -> immediate effects, then the queue of
//! after-effects (drbd-states 5, 11.1).

use alloc::vec::Vec;

use model::ids::DataUuid;
use model::result_code::StateResult;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::state_word::{StateChange, StateWord, mask};

use super::log_line::{self, VOLUME_FIELDS};
use super::{Context, Evaluated, Kind, evaluate, is_source, validate};
use crate::action::{Action, Actions, LogLevel};
use crate::event::VolIdx;
use crate::handshake::peer_state::forced_primary;
use crate::requests::write::{marks_only, replicates};
use crate::resource::Resource;

/// A transition whose after-effects are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transition {
    pub vol: usize,
    pub old: VolumeState,
    pub new: VolumeState,
}

impl Resource {
    /// What the rules need to know besides the state of volume `v`.
    pub(crate) fn context(&self, v: usize) -> Context {
        let vol = &self.vols[v];
        let exposed_here = vol.exposed.is(vol.uuids().current);
        let net = self.conn.net.as_ref();
        Context {
            fencing: vol.cfg_fencing(),
            on_no_data: self.cfg.on_no_data,
            net_configured: net.is_some(),
            two_primaries: net.is_some_and(|n| n.allow_two_primaries),
            verify_alg: self.verify_alg().is_some(),
            agreed_version: self.conn.agreed_version,
            peer_primary_elsewhere: self
                .vols
                .iter()
                .enumerate()
                .any(|(i, o)| i != v && o.state.peer == Role::Primary),
            device_open: self.open_volumes & (1 << v) != 0,
            handshake_in_progress: self.conn.handshake_in_progress,
            attach_states: exposed_here.then_some(vol.attach_states),
            invalidated: vol.invalidated,
            invalidation_unconfirmed: vol.invalidation_unconfirmed,
            outdated_stays: self.conn.peer_is_lockstep(),
        }
    }

    /// Changes one volume.
    pub(crate) fn change_volume(
        &mut self,
        v: usize,
        change: StateChange,
        kind: Kind,
        out: &mut Actions,
    ) -> Result<StateResult, StateResult> {
        let old = self.vols[v].state;
        let done = evaluate(&old, change, kind, &self.context(v))?;
        if done.result == StateResult::NothingToDo {
            return Ok(done.result);
        }
        self.log_warnings(v, &done, out);
        let line = log_line::change_line(&old, &done.new, VOLUME_FIELDS);
        if !line.is_empty() {
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), line);
        }
        let susp = log_line::suspend_line(&old, &done.new);
        if !susp.is_empty() {
            out.log(LogLevel::Info, None, susp);
        }
        self.commit(v, old, done.new, out);
        self.run_effects(out);
        Ok(done.result)
    }

    /// As [`Self::change_volume`], with the log lines of a refused verbose request.
    pub(crate) fn change_volume_verbose(
        &mut self,
        v: usize,
        change: StateChange,
        out: &mut Actions,
    ) -> Result<StateResult, StateResult> {
        let result = self.change_volume(v, change, Kind::Soft, out);
        if let Err(e) = result {
            self.log_refusal(v, change, e, out);
        }
        result
    }

    pub(crate) fn log_refusal(&self, v: usize, change: StateChange, e: StateResult, out: &mut Actions) {
        if e == StateResult::InTransientState {
            return;
        }
        let old = self.vols[v].state;
        let wanted = change.apply(&old).unwrap_or(old);
        for line in log_line::refused_lines(e, &old, &wanted) {
            out.log(LogLevel::Error, Some(VolIdx(v as u8)), line);
        }
    }

    /// Changes the connection and every volume of it; only if all agree.
    pub(crate) fn change_connection(
        &mut self,
        change: StateChange,
        kind: Kind,
        out: &mut Actions,
    ) -> Result<StateResult, StateResult> {
        let wanted = if change.mask & mask::CONN == 0 {
            self.conn.state
        } else {
            ConnState::from_number(change.value >> 4 & 31).ok_or(StateResult::UnknownError)?
        };
        validate::conn_transition(self.conn.state, wanted)?;
        let mut results: Vec<Evaluated> = Vec::with_capacity(self.vols.len());
        for v in 0..self.vols.len() {
            let old = self.vols[v].state;
            let own = super::translate::for_volume(change, &old);
            results.push(evaluate(&old, own, kind, &self.context(v))?);
        }
        // The suspend flags belong to the resource: a volume that has no reason to freeze does not undo another one's.
        let susp_nod = results.iter().any(|r| r.new.susp_nod);
        let susp_fen = results.iter().any(|r| r.new.susp_fen);
        for r in &mut results {
            (r.new.susp_nod, r.new.susp_fen) = (susp_nod, susp_fen);
        }
        let before: Vec<VolumeState> = self.vols.iter().map(|v| v.state).collect();
        let common = log_line::common_fields(&before) & {
            let after: Vec<VolumeState> = results.iter().map(|r| r.new).collect();
            log_line::common_fields(&after)
        };
        let line = log_line::connection_line(&before[0], &results[0].new, common);
        if !line.is_empty() {
            out.log(LogLevel::Info, None, line);
        }
        if change.mask & mask::CONN != 0 {
            self.conn.state = wanted.min(ConnState::WFReportParams);
        }
        for (v, done) in results.iter().enumerate() {
            self.log_warnings(v, done, out);
            let line = log_line::change_line(&before[v], &done.new, VOLUME_FIELDS & !common);
            if !line.is_empty() {
                out.log(LogLevel::Info, Some(VolIdx(v as u8)), line);
            }
            if done.new != before[v] {
                self.commit(v, before[v], done.new, out);
            }
        }
        self.run_effects(out);
        Ok(StateResult::Success)
    }

    fn log_warnings(&self, v: usize, done: &Evaluated, out: &mut Actions) {
        for w in done.warnings.iter() {
            out.log(LogLevel::Warn, Some(VolIdx(v as u8)), w.text());
        }
    }

    /// Assigns the state and does what belongs to the same moment. `old` is the state that the change was judged by: of
    /// several volumes that change at once a later one has the suspend flags of the first already.
    fn commit(&mut self, v: usize, old: VolumeState, new: VolumeState, out: &mut Actions) {
        assert_ne!(old, new, "a commit changes something");
        self.vols[v].state = new;
        // The suspend flags belong to the resource.
        for vol in &mut self.vols {
            vol.state.susp = new.susp;
            vol.state.susp_nod = new.susp_nod;
            vol.state.susp_fen = new.susp_fen;
        }
        self.check_committed(v);
        if replicates(&old) != replicates(&new) || marks_only(&old) != marks_only(&new) {
            self.close_epoch();
        }
        if old.disk == DiskState::Attaching && new.disk >= DiskState::Negotiating {
            let u = self.vols[v].uuids();
            let line = format_args!("attached to UUIDs {}", crate::meta_io::uuid_line(&u));
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), line);
        }
        if old.conn == ConnState::WFReportParams
            && self.vols.iter().all(|o| o.state.conn != ConnState::WFReportParams)
        {
            self.conn.handshake_in_progress = false;
        }
        if old.conn < ConnState::Connected && new.conn >= ConnState::Connected && self.vols[v].al_suspended {
            self.vols[v].al_suspended = false;
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), "Resumed AL updates");
        }
        if old.disk < DiskState::Consistent && new.disk >= DiskState::Consistent {
            let current = self.vols[v].uuids().current;
            self.vols[v].exposed.shows_own(current);
        }
        if old.pdsk < DiskState::Inconsistent && new.pdsk >= DiskState::Inconsistent {
            self.mark_unsettled(v);
        }
        if old.disk >= DiskState::Inconsistent && new.disk < DiskState::Inconsistent {
            self.expose_what_peer_went_on_with(v, old.disk);
        }
        if new.disk <= DiskState::Failed || new.pdsk <= DiskState::Failed {
            self.disk_went_while_asking(v);
        }
        if new.disk == DiskState::Failed
            && let Some(disk) = self.vols[v].disk.as_mut()
        {
            disk.was_good = old.disk > DiskState::Inconsistent;
        }
        if old.role != Role::Primary && new.role == Role::Primary && new.disk < DiskState::Inconsistent {
            self.vols[v].exposed.is_promoted_without_disk();
        }
        if new.role == Role::Primary {
            self.vols[v].empty_generation = DataUuid::ZERO;
        }
        if forced_primary(&old, &new) {
            self.vols[v].consider_resync = true;
        }
        if new.conn == ConnState::StartingSyncT {
            self.vols[v].invalidated = true;
        } else if new.disk <= DiskState::Inconsistent {
            self.vols[v].invalidated = false;
        }
        let asked_of_source = old.conn != new.conn && new.conn == ConnState::StartingSyncS;
        self.vols[v].invalidation_unconfirmed |= asked_of_source;
        self.vols[v].invalidation_unconfirmed &= is_source(new.conn);
        self.vols[v].skip_unconfirmed &= new.conn == ConnState::Connected;
        if new.conn >= ConnState::Connected {
            self.vols[v].peer_without_disk = new.pdsk < DiskState::Inconsistent;
        }
        match new.pdsk {
            DiskState::Consistent | DiskState::UpToDate => self.vols[v].peer_was_good = true,
            DiskState::Inconsistent | DiskState::Outdated => self.vols[v].peer_was_good = false,
            _ => {}
        }
        if new.disk == DiskState::Inconsistent {
            self.vols[v].unmarked_is_good = match new.conn {
                ConnState::WFSyncUUID | ConnState::SyncTarget | ConnState::PausedSyncT => true,
                // The source has blocks marked that are not marked here yet.
                ConnState::WFBitMapT => false,
                _ if old.disk == DiskState::Inconsistent => self.vols[v].unmarked_is_good,
                _ => old.disk == DiskState::UpToDate,
            };
        }
        self.resync_state_changed(v, &old, &new, out);
        self.verify_state_changed(v, &old, &new, out);
        self.recompute_md_flags(v);
        if old.role != new.role || (old.disk, old.pdsk) != (new.disk, new.pdsk) {
            out.push(Action::ExportChanged { vol: VolIdx(v as u8) });
        }
        self.something_changed = true;
        self.effects.push_back(Transition { vol: v, old, new });
    }

    /// The own disk goes. A peer that was asked first may have told of its new generation before: what clients see
    /// from now on belongs to that one.
    fn expose_what_peer_went_on_with(&mut self, v: usize, old: DiskState) {
        let vol = &mut self.vols[v];
        let serves = vol.state.conn >= ConnState::Connected && vol.state.pdsk == DiskState::UpToDate;
        let Some(peer) = vol.peer_uuids.filter(|_| serves) else { return };
        let own = vol.uuids().current;
        // A copy that was not good did not serve clients anyway; the peer did.
        // Behind that of a resync in the bitmap slot it is found in the history.
        let before = [peer.set.bitmap, peer.set.history[0]];
        let went_on =
            !own.is_zero() && !peer.set.current.same_as(own) && before.into_iter().any(|u| u.same_as(own));
        if went_on || old < DiskState::UpToDate {
            vol.exposed.shows_peer(peer.set.current);
        } else if vol.state.peer == Role::Primary {
            // Its clients are answered without this disk from now on, and they are nobody's here.
            vol.exposed.goes_beyond();
        }
    }

    /// What can never be, whatever was asked.
    fn check_committed(&self, v: usize) {
        let s = &self.vols[v].state;
        assert!(s.role != Role::Unknown && s.disk != DiskState::DUnknown, "own role and disk are known");
        assert!(StateWord::encode(s).decode() == Some(*s), "every state has a word");
        if s.conn < ConnState::Connected {
            assert_eq!(s.peer, Role::Unknown, "nothing is known of a peer that is not connected");
        }
        if s.disk > DiskState::Attaching {
            assert!(self.vols[v].disk.is_some(), "a disk state above Attaching needs a disk");
        }
    }
}
