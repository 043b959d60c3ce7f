//! Promotion and demotion (drbd-states 16).

use core::mem;

use super::*;
use crate::fencing::Start;

/// How long a peer that has refused a write may take to say what became of its disk.
const WORD_OF_REFUSAL_WITHIN: Duration = Duration::from_secs(10);

impl Resource {
    // spec: drbd-states 16
    pub(super) fn attempt_promote(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Promote { force, extras, next_vol, forced, fence } = &mut active.work else {
            unreachable!("the caller matched it")
        };
        let (force, v) = (*force, *next_vol);
        if v >= self.vols.len() {
            return Attempt::Done(CommandResult::Ok);
        }
        if *fence == Fence::Waiting {
            return Attempt::Later;
        }
        if self.conn.goodbye.is_some() {
            // A Primary that has said it writes on until the answer.
            return Attempt::Later;
        }
        let s = self.vols[v].state;
        if *forced && s.disk == DiskState::UpToDate {
            // A handshake that was waited for has made it so.
            *extras = StateChange::NONE;
            *forced = false;
        }
        let change = extras.role(Role::Primary);
        if s.role == Role::Primary {
            let served = s.conn >= ConnState::Connected && s.pdsk == DiskState::UpToDate;
            let lacks = (DiskState::Inconsistent..DiskState::UpToDate).contains(&s.disk) && !served;
            if !(force && lacks) {
                return self.next_promotion(active, out);
            }
            // A Primary whose copy went bad, without a better one anywhere: the operator takes it as it is.
            let good = StateChange::NONE.disk(DiskState::UpToDate);
            if let Err(e) = self.change_volume_verbose(v, good, out) {
                return Attempt::Done(CommandResult::State(e));
            }
            *forced = true;
            return self.promoted(active, out);
        }
        if let Some(u) = (v + 1..self.vols.len()).find(|u| !force && self.lacks_data(*u)) {
            // All volumes change together: one without data refuses it before any other has changed.
            self.log_refusal(u, change, StateResult::NoUpToDateDisk, out);
            return Attempt::Done(CommandResult::State(StateResult::NoUpToDateDisk));
        }
        match self.request(Some(v), change, out) {
            Attempt::Asked => {
                active.asked = Some(Asked::now(Some(v), change));
                Attempt::Asked
            }
            Attempt::Done(CommandResult::Ok) => self.promoted(active, out),
            Attempt::Done(CommandResult::State(e)) => {
                let s = self.vols[v].state;
                let asks_disk = extras.mask & mask::DISK != 0;
                let asks_pdsk = extras.mask & mask::PDSK != 0;
                let can_force = (DiskState::Inconsistent..DiskState::UpToDate).contains(&s.disk);
                match e {
                    StateResult::NoUpToDateDisk if force && can_force && !asks_disk => {
                        *extras = extras.disk(DiskState::UpToDate);
                        *forced = true;
                        self.something_changed = true;
                        Attempt::Later
                    }
                    // Nobody else has newer data if the peer is out of the way: a Consistent disk may be taken as current.
                    StateResult::NoUpToDateDisk if s.disk == DiskState::Consistent && !asks_disk => {
                        match self.fence_for_promotion(fence, out) {
                            Some(true) => *extras = extras.disk(DiskState::UpToDate),
                            Some(false) => return self.promotion_refused(v, change, e, out),
                            None => return Attempt::Later,
                        }
                        self.something_changed = true;
                        Attempt::Later
                    }
                    StateResult::PrimaryNop if !asks_pdsk => {
                        match self.fence_for_promotion(fence, out) {
                            // Or was, and has come and gone since; or no good copy asks for it, but this one does.
                            Some(_) if force => {
                                let text = "Forced into split brain situation!";
                                out.log(LogLevel::Warn, Some(VolIdx(v as u8)), text);
                                *extras = extras.pdsk(DiskState::Outdated);
                            }
                            Some(_) => return self.promotion_refused(v, change, e, out),
                            None => return Attempt::Later,
                        }
                        self.something_changed = true;
                        Attempt::Later
                    }
                    StateResult::TwoPrimaries if active.tries < 2 && self.conn.net.is_some() => {
                        // The peer may be dead without our knowing: the ping sent before tells soon.
                        let wait = self.net().ping_timeout + Duration::from_millis(100);
                        active.not_before = Some(self.now + wait);
                        self.timers.set(Timer::Command, self.now + wait);
                        Attempt::Later
                    }
                    e => self.promotion_refused(v, change, e, out),
                }
            }
            other => other,
        }
    }

    /// Whether the peer is out of the way; None: the answer is not there yet.
    fn fence_for_promotion(&mut self, fence: &mut Fence, out: &mut Actions) -> Option<bool> {
        if let Fence::Answered(fenced) = *fence {
            return Some(fenced);
        }
        match self.start_fencing(out) {
            Start::NotNeeded => Some(true),
            Start::Impossible => Some(false),
            Start::Called => {
                *fence = Fence::Waiting;
                None
            }
        }
    }

    pub(super) fn promotion_waits_for_fence(&self) -> bool {
        let work = self.cmds.active.as_ref().map(|a| &a.work);
        matches!(work, Some(Work::Promote { fence: Fence::Waiting, .. }))
    }

    /// Outdates the copy of a node that is not Primary yet; answered when that is stable.
    pub(super) fn outdate_at_once(&mut self, id: CommandId, v: usize, out: &mut Actions) {
        let result = if lower_than_outdated(self.vols[v].state.disk) {
            CommandResult::State(StateResult::LowerThanOutdated)
        } else {
            match self.request(Some(v), StateChange::NONE.disk(DiskState::Outdated), out) {
                Attempt::Done(result) => result,
                _ => CommandResult::State(StateResult::ConcurrentStateChange),
            }
        };
        self.answer_when_stable(v, id, result, out);
    }

    /// The handler has answered: a promotion that waits for it goes on.
    pub(crate) fn promotion_fenced(&mut self, fenced: bool) {
        if let Some(Active { work: Work::Promote { fence, .. }, .. }) = self.cmds.active.as_mut()
            && *fence == Fence::Waiting
        {
            *fence = Fence::Answered(fenced);
        }
        self.something_changed = true;
    }

    fn promotion_refused(&self, v: usize, change: StateChange, e: StateResult, out: &mut Actions) -> Attempt {
        if e != StateResult::TwoPrimaries {
            self.log_refusal(v, change, e, out);
        }
        Attempt::Done(CommandResult::State(e))
    }

    /// The volume cannot become Primary without force.
    pub(super) fn lacks_data(&self, v: usize) -> bool {
        let s = &self.vols[v].state;
        let wanted = evaluate(s, StateChange::NONE.role(Role::Primary), Kind::Soft, &self.context(v));
        s.disk != DiskState::Consistent && wanted.err() == Some(StateResult::NoUpToDateDisk)
    }

    /// The role of one volume is Primary now: data generation, announcement, super block; then the next volume.
    pub(super) fn promoted(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Promote { extras, next_vol, forced, .. } = &mut active.work else {
            unreachable!("the caller matched it")
        };
        let (v, was_forced) = (*next_vol, *forced);
        *extras = StateChange::NONE;
        *forced = false;
        if was_forced {
            let text = "Forced to consider local data as UpToDate!";
            out.log(LogLevel::Warn, Some(VolIdx(v as u8)), text);
        }
        self.promotion_generation(v, was_forced, out);
        self.next_promotion(active, out)
    }

    /// One volume is done; the answer waits until the super blocks of all are stable.
    pub(super) fn next_promotion(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Promote { next_vol, .. } = &mut active.work else { unreachable!("the caller matched it") };
        *next_vol += 1;
        if *next_vol < self.vols.len() {
            active.tries = 0;
            self.something_changed = true;
            return Attempt::Later;
        }
        self.answer_role_when_stable(0, active.id, out);
        Attempt::AnswersLater
    }

    /// Answers a change of the role once the super blocks of this volume and all behind it are stable.
    pub(crate) fn answer_role_when_stable(&mut self, first: usize, id: CommandId, out: &mut Actions) {
        if first < self.vols.len() {
            self.when_super_block_stable(first, Then::AnswerRole(id), out);
        } else {
            self.finish_command(id, CommandResult::Ok, out);
        }
    }

    pub(super) fn promotion_generation(&mut self, v: usize, forced: bool, out: &mut Actions) {
        if let Some(net) = self.conn.net.as_mut() {
            net.discard_my_data = false;
        }
        let s = self.vols[v].state;
        let alone = s.conn < ConnState::Connected || s.pdsk <= DiskState::Failed;
        if self.vols[v].disk.is_some() {
            let u = self.vols[v].uuids();
            if forced || alone && (u.bitmap.is_zero() || u.end_of_sync_unknown()) {
                // spec: drbd-wire 8.4, the generation that moves to the bitmap slot keeps its role bit
                self.new_current_uuid(v, out);
            }
            let disk = self.vols[v].disk.as_mut().expect("checked");
            disk.sb.uuids.set_primary(true);
            disk.md.mark_dirty();
            let current = self.vols[v].uuids().current;
            self.vols[v].exposed.shows_own(current);
        }
        if s.conn >= ConnState::WFReportParams {
            if forced {
                self.send_uuids(v, UuidFlags::NONE, out);
            }
            self.send_state(v, out);
        }
        self.md_sync(v, out);
    }

    pub(super) fn attempt_demote(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Demote { next_vol, force } = &mut active.work else {
            unreachable!("the caller matched it")
        };
        let (v, force) = (*next_vol, *force);
        if self.vols[v].state.role != Role::Secondary {
            let change = StateChange::NONE.role(Role::Secondary);
            if force {
                self.fail_requests(out);
            }
            // All volumes change together: one that is in use refuses it before any other has changed.
            for u in v..if force { v } else { self.vols.len() } {
                match evaluate(&self.vols[u].state, change, Kind::Soft, &self.context(u)) {
                    Err(StateResult::InTransientState) => return Attempt::Later,
                    Err(e) => {
                        self.log_refusal(u, change, e, out);
                        return Attempt::Done(CommandResult::State(e));
                    }
                    Ok(_) => {}
                }
            }
            if !force && self.vols[v].state.any_susp() && !self.reqs.table.is_empty() {
                // Whoever has frozen requests here has the device in use; commands that end the freeze must not wait for it.
                self.log_refusal(v, change, StateResult::DeviceInUse, out);
                return Attempt::Done(CommandResult::State(StateResult::DeviceInUse));
            }
            if !self.reqs.table.is_empty() || !self.reqs.epochs.is_empty() {
                // Everything accepted is finished first; the barrier of the last epoch goes out now.
                self.close_epoch();
                self.send_closed_barrier(out);
                active.not_before = Some(self.now + Duration::from_millis(5));
                self.timers.set(Timer::Command, self.now + Duration::from_millis(5));
                return Attempt::Later;
            }
            if !force && self.waits_for_word_of_refusals(out) {
                active.not_before = Some(self.now + Duration::from_millis(5));
                self.timers.set(Timer::Command, self.now + Duration::from_millis(5));
                return Attempt::Later;
            }
            let s = self.vols[v].state;
            let (change, kind) = match force {
                // The peer was not fenced, and may go on: nothing here may look newer than what it has written since.
                true if s.susp_fen && s.disk > DiskState::Outdated => {
                    (change.disk(DiskState::Outdated), Kind::Hard)
                }
                true => (change, Kind::Hard),
                false => (change, Kind::Soft),
            };
            self.vols[v].generation_due |=
                self.vols[v].peer_refused_at.is_some() && s.disk == DiskState::UpToDate;
            self.vols[v].generation_due &= !(force && s.susp_fen);
            if let Err(e) = self.change_volume(v, change, kind, out) {
                return Attempt::Done(CommandResult::State(e));
            }
            self.settle_due_generation(v, out);
            if let Some(disk) = self.vols[v].disk.as_mut() {
                disk.sb.uuids.set_primary(false);
                disk.md.mark_dirty();
            }
            if self.vols[v].state.conn >= ConnState::WFReportParams {
                self.send_state(v, out);
            }
            self.md_sync(v, out);
        }
        *next_vol += 1;
        if *next_vol < self.vols.len() {
            self.something_changed = true;
            return Attempt::Later;
        }
        if mem::take(&mut self.fails_requests) {
            self.end_suspensions(mask::SUSP | mask::SUSP_NOD | mask::SUSP_FEN, out);
        }
        self.answer_role_when_stable(0, active.id, out);
        Attempt::AnswersLater
    }

    /// What the peer has refused is on this disk alone, and only a Primary that hears of the peer's disk, or loses it, begins a
    /// generation for that. A peer that leaves it at the refusal is connected anew.
    fn waits_for_word_of_refusals(&mut self, out: &mut Actions) -> bool {
        let Some(since) = self.vols.iter().filter_map(|v| v.peer_refused_at).min() else { return false };
        if self.now >= since + WORD_OF_REFUSAL_WITHIN {
            out.log(LogLevel::Error, None, "The peer has refused a write and says nothing of its disk");
            self.lose_connection(ConnState::NetworkFailure, out);
        }
        true
    }

    /// Comes before everything that waits: what a role is being changed for is over.
    pub(super) fn demote_by_force(&mut self, id: CommandId, out: &mut Actions) {
        let work = |me: &Resource| me.cmds.active.as_ref().is_some_and(|a| is_about_roles(&a.work));
        if work(self) && !self.peer_was_asked() {
            let given_up = self.cmds.active.take().expect("just seen");
            let result = CommandResult::State(StateResult::ConcurrentStateChange);
            out.push(Action::CommandDone { id: given_up.id, result });
        }
        for (id, command) in mem::take(&mut self.cmds.queue) {
            if matches!(command, Command::Primary { .. } | Command::Secondary { .. }) {
                let result = CommandResult::State(StateResult::ConcurrentStateChange);
                out.push(Action::CommandDone { id, result });
            } else {
                self.cmds.queue.push_back((id, command));
            }
        }
        self.cmds.queue.push_front((id, Command::Secondary { open: 0, force: true }));
        self.something_changed = true;
        self.drive_commands(out);
    }

    /// Demotion by force: what is not answered yet fails, frozen or not, and nothing new is taken.
    fn fail_requests(&mut self, out: &mut Actions) {
        if mem::replace(&mut self.fails_requests, true) {
            return;
        }
        if !self.reqs.table.is_empty() {
            out.log(LogLevel::Warn, None, "Demoted by force: requests that are not answered yet fail");
        }
        self.pump_all = true;
    }
}

fn is_about_roles(work: &Work) -> bool {
    matches!(work, Work::Promote { .. } | Work::Demote { .. })
}
