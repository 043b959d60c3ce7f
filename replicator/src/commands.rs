//! Administrator's commands as state change requests, the questions to the peer that some of them need, and the
//! peer's own questions (drbd-states 8, 15, 16; drbd-wire 9.5 to 9.7).

use alloc::boxed::Box;
use alloc::collections::VecDeque;

use model::ids::DataUuid;
use model::result_code::{ConfigError, StateResult};
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::state_word::{StateChange, mask};
use model::time::Duration;

use crate::action::{Action, Actions, LogLevel};
use crate::command::{Command, CommandId, CommandResult};
use crate::connection::Phase;
use crate::event::VolIdx;
use crate::meta_io::{FullSyncStep, Then};
use crate::resource::Resource;
use crate::state::{Kind, evaluate, log_line, needs_peer, translate};
use crate::timers::Timer;
use crate::wire::UuidFlags;

/// A cluster-wide request under way: for one volume, or (None) for the connection.
#[derive(Clone, Copy, Debug)]
struct Asked {
    vol: Option<usize>,
    change: StateChange,
}

/// The command being worked on.
struct Active {
    id: CommandId,
    work: Work,
    /// Attempts so far.
    tries: u32,
    asked: Option<Asked>,
    /// Not before this time.
    not_before: Option<model::time::Instant>,
}

enum Work {
    Attach(usize, Option<Box<crate::volume::AttachedDisk>>),
    Detach {
        vol: usize,
        requested: bool,
    },
    Promote {
        force: bool,
        extras: StateChange,
        next_vol: usize,
        forced: bool,
    },
    Demote {
        next_vol: usize,
    },
    Disconnect,
    /// A change of one volume that is done when it is applied.
    Change {
        vol: usize,
        change: StateChange,
    },
}

/// Commands of this node.
#[derive(Default)]
pub(crate) struct Commands {
    active: Option<Active>,
    queue: VecDeque<(CommandId, Command)>,
}

/// How one attempt ended.
enum Attempt {
    Done(CommandResult),
    /// The metadata write that finishes it answers.
    AnswersLater,
    /// The peer was asked.
    Asked,
    /// Not possible in this state; again after the next change.
    Later,
}

impl Resource {
    pub(crate) fn take_command(&mut self, id: CommandId, command: Command, out: &mut Actions) {
        let urgent = matches!(
            command,
            Command::Disconnect { force: true }
                | Command::Detach { force: true, .. }
                | Command::SuspendIo
                | Command::ResumeIo
                | Command::SetAfterDependency(..)
        );
        if urgent {
            self.run_urgent(id, command, out);
        } else {
            self.cmds.queue.push_back((id, command));
            self.drive_commands(out);
        }
    }

    fn run_urgent(&mut self, id: CommandId, command: Command, out: &mut Actions) {
        let result = match command {
            Command::Disconnect { .. } => {
                if !self.is_standalone() {
                    self.conn.standalone_reason = None;
                    let change = StateChange::NONE.conn(ConnState::Disconnecting);
                    let _ = self.change_connection(change, Kind::Hard, out);
                    self.log_attempt_given_up(out);
                    self.clean_up(out);
                }
                CommandResult::Ok
            }
            Command::Detach { vol, .. } => {
                self.force_detach(vol.0 as usize, out);
                CommandResult::Ok
            }
            Command::SuspendIo => {
                let change = StateChange::NONE.flag(mask::SUSP, true);
                state_result(self.change_connection(change, Kind::Soft, out))
            }
            Command::ResumeIo => {
                let all = mask::SUSP | mask::SUSP_NOD | mask::SUSP_FEN;
                let change = StateChange { mask: all, value: 0 };
                let r = state_result(self.change_connection(change, Kind::Soft, out));
                self.pump_all = true;
                r
            }
            Command::SetAfterDependency(vol, on) => {
                let change = StateChange::NONE.flag(mask::AFTR_ISP, on);
                let _ = self.change_volume(vol.0 as usize, change, Kind::Hard, out);
                CommandResult::Ok
            }
            _ => unreachable!("the caller chose the urgent ones"),
        };
        out.push(Action::CommandDone { id, result });
    }

    /// Works on the active command, and on the next ones when it is finished.
    pub(crate) fn drive_commands(&mut self, out: &mut Actions) {
        loop {
            if self.cmds.active.is_none() {
                let Some((id, command)) = self.cmds.queue.pop_front() else { return };
                let Some(work) = self.begin(id, command, out) else { continue };
                self.cmds.active = Some(Active { id, work, tries: 0, asked: None, not_before: None });
            }
            let active = self.cmds.active.as_ref().expect("just made");
            if active.asked.is_some() || active.not_before.is_some_and(|t| t > self.now) {
                return;
            }
            let mut active = self.cmds.active.take().expect("checked");
            active.not_before = None;
            active.tries += 1;
            let attempt = self.attempt(&mut active, out);
            match attempt {
                Attempt::Done(result) => {
                    out.push(Action::CommandDone { id: active.id, result });
                }
                Attempt::AnswersLater => {}
                Attempt::Asked | Attempt::Later => {
                    self.cmds.active = Some(active);
                    return;
                }
            }
        }
    }

    /// What a command comes down to; None if it is answered already.
    fn begin(&mut self, id: CommandId, command: Command, out: &mut Actions) -> Option<Work> {
        let config = |e| CommandResult::Config(e);
        let no_disk = |me: &Resource, v: VolIdx| me.vols[v.0 as usize].state.disk < DiskState::Inconsistent;
        let result = match command {
            Command::Attach(vol, disk) => {
                let v = vol.0 as usize;
                if self.vols[v].disk.is_none() && self.vols[v].state.disk == DiskState::Diskless {
                    return Some(Work::Attach(v, Some(disk)));
                }
                config(ConfigError::DiskConfigured)
            }
            Command::Detach { vol, .. } => {
                return Some(Work::Detach { vol: vol.0 as usize, requested: false });
            }
            Command::Connect(net) => self.connect_command(*net, out),
            Command::NetOptions(net) => self.net_options(*net, out),
            Command::DiskOptions(vol, cfg) => self.disk_options(vol.0 as usize, *cfg, out),
            Command::Disconnect { .. } if self.is_standalone() => config(ConfigError::InvalidRequest),
            Command::Disconnect { .. } => return Some(Work::Disconnect),
            Command::Primary { force } => {
                self.send_ping(out);
                return Some(Work::Promote { force, extras: StateChange::NONE, next_vol: 0, forced: false });
            }
            Command::Secondary { open } => {
                self.open_volumes |= open;
                return Some(Work::Demote { next_vol: 0 });
            }
            Command::PauseSync(vol) if self.vols[vol.0 as usize].state.user_isp => {
                config(ConfigError::PauseIsSet)
            }
            Command::PauseSync(vol) => {
                let change = StateChange::NONE.flag(mask::USER_ISP, true);
                return Some(Work::Change { vol: vol.0 as usize, change });
            }
            Command::ResumeSync(vol) => match self.resume_refused(vol.0 as usize) {
                Some(e) => config(e),
                None => {
                    let change = StateChange::NONE.flag(mask::USER_ISP, false);
                    return Some(Work::Change { vol: vol.0 as usize, change });
                }
            },
            Command::Invalidate(vol) | Command::InvalidateRemote(vol) if no_disk(self, vol) => {
                config(ConfigError::NoDisk)
            }
            Command::Invalidate(vol) => {
                let v = vol.0 as usize;
                let s = self.vols[v].state;
                if s.conn == ConnState::StandAlone && s.role == Role::Secondary {
                    self.invalidate_alone(v, StateChange::NONE.disk(DiskState::Inconsistent), out)
                } else {
                    let change = StateChange::NONE.conn(ConnState::StartingSyncT);
                    return Some(Work::Change { vol: v, change });
                }
            }
            Command::InvalidateRemote(vol) => {
                let v = vol.0 as usize;
                let s = self.vols[v].state;
                if s.conn == ConnState::StandAlone && s.role == Role::Primary {
                    self.invalidate_alone(v, StateChange::NONE.pdsk(DiskState::Inconsistent), out)
                } else {
                    let change = StateChange::NONE.conn(ConnState::StartingSyncS);
                    return Some(Work::Change { vol: v, change });
                }
            }
            Command::Outdate(vol) => {
                let change = StateChange::NONE.disk(DiskState::Outdated);
                return Some(Work::Change { vol: vol.0 as usize, change });
            }
            Command::NewCurrentUuid { vol, clear_bitmap } => {
                self.new_current_uuid_command(vol.0 as usize, clear_bitmap, out)
            }
            Command::SuspendIo | Command::ResumeIo | Command::SetAfterDependency(..) => {
                unreachable!("urgent commands are not queued")
            }
        };
        out.push(Action::CommandDone { id, result });
        None
    }

    fn attempt(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let id = active.id;
        match &mut active.work {
            Work::Attach(v, disk) => {
                let v = *v;
                if self.conn.handshake_in_progress {
                    return Attempt::Later;
                }
                let disk = disk.take().expect("attempted once");
                match self.attach(v, disk, out) {
                    Ok(()) => {
                        self.when_super_block_stable(v, Then::AnswerCommand(id), out);
                        Attempt::AnswersLater
                    }
                    Err(result) => Attempt::Done(result),
                }
            }
            Work::Detach { vol, requested } => {
                let vol = *vol;
                let disk = self.vols[vol].state.disk;
                if disk == DiskState::Diskless {
                    return Attempt::Done(CommandResult::Ok);
                }
                if *requested || disk == DiskState::Failed {
                    return Attempt::Later;
                }
                let change = StateChange::NONE.disk(DiskState::Failed);
                match self.request(Some(vol), change, out) {
                    Attempt::Done(CommandResult::Ok) => {
                        active.work = Work::Detach { vol, requested: true };
                        self.something_changed = true;
                        Attempt::Later
                    }
                    Attempt::Asked => {
                        active.asked = Some(Asked { vol: Some(vol), change });
                        Attempt::Asked
                    }
                    other => other,
                }
            }
            Work::Promote { .. } => self.attempt_promote(active, out),
            Work::Demote { .. } => self.attempt_demote(active, out),
            Work::Disconnect => self.attempt_disconnect(active, out),
            Work::Change { vol, change } => {
                let (vol, change) = (*vol, *change);
                let attempt = self.request(Some(vol), change, out);
                if matches!(attempt, Attempt::Asked) {
                    active.asked = Some(Asked { vol: Some(vol), change });
                }
                attempt
            }
        }
    }

    /// Requests a change of a volume: checks it, asks the peer if it has a say, or applies it.
    fn request(&mut self, vol: Option<usize>, change: StateChange, out: &mut Actions) -> Attempt {
        let v = vol.unwrap_or(0);
        let old = self.vols[v].state;
        let ctx = self.context(v);
        let established = self.conn.is_established();
        let wanted = match evaluate(&old, change, Kind::Soft, &ctx) {
            Ok(done) => done,
            Err(StateResult::InTransientState) => return Attempt::Later,
            Err(e) => return Attempt::Done(CommandResult::State(e)),
        };
        if starts_from_bad_data(&old, &wanted.new) {
            return Attempt::Done(CommandResult::State(StateResult::NoUpToDateDisk));
        }
        if wanted.result == StateResult::NothingToDo {
            return Attempt::Done(CommandResult::Ok);
        }
        if established && needs_peer(&old, &wanted.new) {
            if let Err(e) = evaluate(&old, change, Kind::BeforePeer, &ctx) {
                return match e {
                    StateResult::InTransientState => Attempt::Later,
                    e => Attempt::Done(CommandResult::State(e)),
                };
            }
            self.send_change_request(vol, change, out);
            return Attempt::Asked;
        }
        match self.change_volume(v, change, Kind::Soft, out) {
            Ok(_) => Attempt::Done(CommandResult::Ok),
            Err(e) => Attempt::Done(CommandResult::State(e)),
        }
    }

    // spec: drbd-states 16
    fn attempt_promote(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Promote { force, extras, next_vol, forced } = &mut active.work else {
            unreachable!("the caller matched it")
        };
        let (force, v) = (*force, *next_vol);
        if v >= self.vols.len() {
            return Attempt::Done(CommandResult::Ok);
        }
        let change = extras.role(Role::Primary);
        let s = self.vols[v].state;
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
                active.asked = Some(Asked { vol: Some(v), change });
                Attempt::Asked
            }
            Attempt::Done(CommandResult::Ok) => self.promoted(active, out),
            Attempt::Done(CommandResult::State(e)) => {
                let s = self.vols[v].state;
                let asks_disk = extras.mask & mask::DISK != 0;
                let can_force = (DiskState::Inconsistent..DiskState::UpToDate).contains(&s.disk);
                match e {
                    StateResult::NoUpToDateDisk if force && can_force && !asks_disk => {
                        *extras = extras.disk(DiskState::UpToDate);
                        *forced = true;
                        self.something_changed = true;
                        Attempt::Later
                    }
                    // With fencing dont-care a Consistent disk may be taken as current (drbd-states 16).
                    StateResult::NoUpToDateDisk if s.disk == DiskState::Consistent && !asks_disk => {
                        *extras = extras.disk(DiskState::UpToDate);
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
                    e => {
                        if e != StateResult::TwoPrimaries {
                            self.log_refusal(v, change, e, out);
                        }
                        Attempt::Done(CommandResult::State(e))
                    }
                }
            }
            other => other,
        }
    }

    /// The volume cannot become Primary without force.
    fn lacks_data(&self, v: usize) -> bool {
        let s = &self.vols[v].state;
        let wanted = evaluate(s, StateChange::NONE.role(Role::Primary), Kind::Soft, &self.context(v));
        s.disk != DiskState::Consistent && wanted.err() == Some(StateResult::NoUpToDateDisk)
    }

    /// The role of one volume is Primary now: data generation, announcement, super block; then the next volume.
    fn promoted(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Promote { extras, next_vol, forced, .. } = &mut active.work else {
            unreachable!("the caller matched it")
        };
        let (v, was_forced) = (*next_vol, *forced);
        *extras = StateChange::NONE;
        *forced = false;
        if was_forced {
            let text = "Forced to consider local data as UpToDate!";
            out.log(LogLevel::Warn, Some(VolIdx(v as u8)), text.into());
        }
        self.promotion_generation(v, was_forced, out);
        self.next_promotion(active, out)
    }

    /// One volume is done; the answer waits until the last one's super block is stable.
    fn next_promotion(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Promote { next_vol, .. } = &mut active.work else { unreachable!("the caller matched it") };
        let v = *next_vol;
        *next_vol += 1;
        if *next_vol < self.vols.len() {
            active.tries = 0;
            self.something_changed = true;
            return Attempt::Later;
        }
        if self.vols[v].disk.is_none() {
            return Attempt::Done(CommandResult::Ok);
        }
        self.when_super_block_stable(v, Then::AnswerCommand(active.id), out);
        Attempt::AnswersLater
    }

    fn promotion_generation(&mut self, v: usize, forced: bool, out: &mut Actions) {
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

    fn attempt_demote(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Demote { next_vol } = &mut active.work else { unreachable!("the caller matched it") };
        let v = *next_vol;
        if self.vols[v].state.role != Role::Secondary {
            let change = StateChange::NONE.role(Role::Secondary);
            let ctx = self.context(v);
            match evaluate(&self.vols[v].state, change, Kind::Soft, &ctx) {
                Err(StateResult::InTransientState) => return Attempt::Later,
                Err(e) => {
                    self.log_refusal(v, change, e, out);
                    return Attempt::Done(CommandResult::State(e));
                }
                Ok(_) => {}
            }
            if !self.reqs.table.is_empty() || !self.reqs.epochs.is_empty() {
                // Everything accepted is finished first; the barrier of the last epoch goes out now.
                self.close_epoch();
                self.send_closed_barrier(out);
                active.not_before = Some(self.now + Duration::from_millis(5));
                self.timers.set(Timer::Command, self.now + Duration::from_millis(5));
                return Attempt::Later;
            }
            if let Err(e) = self.change_volume(v, change, Kind::Soft, out) {
                return Attempt::Done(CommandResult::State(e));
            }
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
        self.when_super_block_stable(v, Then::AnswerCommand(active.id), out);
        Attempt::AnswersLater
    }

    // spec: drbd-wire 9.7
    fn attempt_disconnect(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        if self.is_standalone() {
            return Attempt::Done(CommandResult::Ok);
        }
        let change = StateChange::NONE.conn(ConnState::Disconnecting);
        if self.conn.handshake_in_progress {
            return Attempt::Later;
        }
        if self.conn.phase == Phase::Established {
            for v in 0..self.vols.len() {
                let ctx = self.context(v);
                if let Err(e) = evaluate(&self.vols[v].state, change, Kind::Soft, &ctx) {
                    return match e {
                        StateResult::InTransientState => Attempt::Later,
                        e => Attempt::Done(CommandResult::State(e)),
                    };
                }
            }
            self.send_change_request(None, change, out);
            active.asked = Some(Asked { vol: None, change });
            return Attempt::Asked;
        }
        self.finish_disconnect(out);
        Attempt::Done(CommandResult::Ok)
    }

    fn finish_disconnect(&mut self, out: &mut Actions) {
        self.conn.standalone_reason = None;
        let change = StateChange::NONE.conn(ConnState::Disconnecting);
        let _ = self.change_connection(change, Kind::Hard, out);
        self.log_attempt_given_up(out);
        self.clean_up(out);
    }

    /// P_STATE_CHG_REPLY or P_CONN_ST_CHG_REPLY.
    pub(crate) fn receive_change_reply(&mut self, code: i32, out: &mut Actions) {
        let Some(active) = self.cmds.active.as_mut() else {
            self.stale_events += 1;
            return;
        };
        let Some(asked) = active.asked.take() else {
            self.stale_events += 1;
            return;
        };
        let id = active.id;
        if code < 1 {
            self.log_conn(LogLevel::Error, log_line::refused_by_peer_line(code), out);
            if asked.vol.is_none() {
                // The peer would not let go; a disconnect is not refused for that.
                self.cmds.active = None;
                self.finish_disconnect(out);
                out.push(Action::CommandDone { id, result: CommandResult::Ok });
            } else {
                self.cmds.active = None;
                let result = CommandResult::State(StateResult::CwFailedByPeer);
                out.push(Action::CommandDone { id, result });
            }
            self.drive_commands(out);
            return;
        }
        match asked.vol {
            None => {
                self.cmds.active = None;
                self.finish_disconnect(out);
                out.push(Action::CommandDone { id, result: CommandResult::Ok });
            }
            Some(v) => self.peer_agreed(v, asked.change, out),
        }
        self.drive_commands(out);
    }

    fn peer_agreed(&mut self, v: usize, change: StateChange, out: &mut Actions) {
        let result = self.change_volume(v, change, Kind::Soft, out);
        let Some(mut active) = self.cmds.active.take() else { return };
        let id = active.id;
        let failed = match result {
            Err(e) => Some(CommandResult::State(e)),
            // The disk that was asked about has gone meanwhile.
            Ok(StateResult::NothingToDo) if matches!(active.work, Work::Change { .. }) => {
                Some(CommandResult::Config(ConfigError::NoDisk))
            }
            Ok(_) => None,
        };
        let full_sync =
            matches!(self.vols[v].state.conn, ConnState::StartingSyncS | ConnState::StartingSyncT);
        if failed.is_none() && full_sync && matches!(active.work, Work::Change { .. }) {
            // Whoever hears Ok may pull the plug: the copy must not be good again after that.
            self.when_super_block_stable(v, Then::AnswerCommand(id), out);
            return;
        }
        if let Some(result) = failed {
            out.push(Action::CommandDone { id, result });
            return;
        }
        match &mut active.work {
            Work::Promote { .. } => match self.promoted(&mut active, out) {
                Attempt::Done(result) => out.push(Action::CommandDone { id, result }),
                Attempt::AnswersLater => {}
                Attempt::Asked | Attempt::Later => self.cmds.active = Some(active),
            },
            Work::Detach { requested, .. } => {
                *requested = true;
                self.cmds.active = Some(active);
            }
            _ => out.push(Action::CommandDone { id, result: CommandResult::Ok }),
        }
    }

    /// P_STATE_CHG_REQ (one volume) or P_CONN_ST_CHG_REQ (None).
    pub(crate) fn receive_change_request(
        &mut self,
        v: Option<usize>,
        change: StateChange,
        out: &mut Actions,
    ) {
        let crossing =
            self.cmds.active.as_ref().and_then(|a| a.asked).is_some_and(|a| a.vol.is_none() == v.is_none());
        if crossing && self.conn.conflict_flag {
            self.send_change_reply(v, StateResult::ConcurrentStateChange.number(), out);
            return;
        }
        let change = translate(change);
        let conn = change.value & change.mask & mask::CONN;
        let wants_verify = change.mask & mask::CONN != 0 && conn == (ConnState::VerifyT as u32) << 4;
        if wants_verify || !translate::is_customary(change) {
            self.send_change_reply(v, StateResult::NotSupported.number(), out);
            return;
        }
        match v {
            Some(v) => {
                let own = translate::for_volume(change, &self.vols[v].state);
                let old = self.vols[v].state;
                if own.apply(&old).is_some_and(|new| starts_from_bad_data(&old, &new)) {
                    self.send_change_reply(Some(v), StateResult::NoUpToDateDisk.number(), out);
                    return;
                }
                let code = match self.change_volume_verbose(v, own, out) {
                    Ok(r) => r.number(),
                    Err(e) => e.number(),
                };
                self.send_change_reply(Some(v), code, out);
                self.md_sync(v, out);
            }
            None => match self.change_connection(change, Kind::Soft, out) {
                Err(e) => self.send_change_reply(None, e.number(), out),
                // An outdated disk has to be so on the medium before the peer relies on it.
                Ok(_) => {
                    if self.vols[0].disk.is_some() {
                        self.when_super_block_stable(0, Then::ReplyTearDown, out);
                    } else {
                        self.reply_tear_down(out);
                    }
                }
            },
        }
    }

    /// Confirms the peer's disconnect, then lets go of the connection.
    pub(crate) fn reply_tear_down(&mut self, out: &mut Actions) {
        if self.conn.state != ConnState::TearDown {
            return;
        }
        self.send_change_reply(None, StateResult::Success.number(), out);
        self.clean_up(out);
    }

    /// The peer was asked to become source of a full sync, and has not answered.
    pub(crate) fn asks_for_full_sync(&self, v: usize) -> bool {
        let asked = self.cmds.active.as_ref().and_then(|a| a.asked);
        let conn = (ConnState::StartingSyncT as u32) << 4;
        asked.is_some_and(|a| {
            a.vol == Some(v) && a.change.mask & mask::CONN != 0 && a.change.value & mask::CONN == conn
        })
    }

    /// A disconnect was asked for: the peer may close before its reply is seen.
    pub(crate) fn graceful_close_expected(&self) -> bool {
        let asked = self.cmds.active.as_ref().and_then(|a| a.asked);
        asked.is_some_and(|a| a.vol.is_none()) || self.conn.state == ConnState::TearDown
    }

    pub(crate) fn peer_closed_after_request(&mut self, out: &mut Actions) {
        if self.conn.state == ConnState::TearDown {
            self.clean_up(out);
            return;
        }
        let Some(active) = self.cmds.active.take() else { return };
        self.finish_disconnect(out);
        out.push(Action::CommandDone { id: active.id, result: CommandResult::Ok });
        self.drive_commands(out);
    }

    /// The connection is gone: questions to the peer have become unnecessary, the command goes on without.
    pub(crate) fn commands_connection_lost(&mut self, _out: &mut Actions) {
        if let Some(active) = self.cmds.active.as_mut() {
            active.asked = None;
            self.something_changed = true;
        }
    }

    pub(crate) fn command_detached(&mut self, _v: usize, _out: &mut Actions) {
        self.something_changed = true;
    }

    pub(crate) fn finish_command(&mut self, id: CommandId, result: CommandResult, out: &mut Actions) {
        out.push(Action::CommandDone { id, result });
        self.something_changed = true;
    }

    fn connect_command(&mut self, net: crate::config::NetConfig, out: &mut Actions) -> CommandResult {
        if !self.is_standalone() {
            return CommandResult::Config(ConfigError::NetConfigured);
        }
        if net.discard_my_data && self.role() == Role::Primary {
            return CommandResult::Config(ConfigError::DiscardImpossible);
        }
        self.conn.net = Some(net);
        self.conn.standalone_reason = None;
        for vol in &mut self.vols {
            vol.counters.sent_sectors = 0;
            vol.counters.received_sectors = 0;
        }
        let change = StateChange::NONE.conn(ConnState::Unconnected);
        if let Err(e) = self.change_connection(change, Kind::Soft, out) {
            self.conn.net = None;
            return CommandResult::State(e);
        }
        self.conn.phase = Phase::Pausing;
        self.reconnect_if_clean(out);
        CommandResult::Ok
    }

    fn net_options(&mut self, net: crate::config::NetConfig, out: &mut Actions) -> CommandResult {
        let Some(old) = self.conn.net.as_ref() else {
            return CommandResult::Config(ConfigError::InvalidRequest);
        };
        let told = old.protocol != net.protocol
            || old.after_sb_0pri != net.after_sb_0pri
            || old.after_sb_1pri != net.after_sb_1pri
            || old.after_sb_2pri != net.after_sb_2pri;
        let changed = *old != net;
        self.close_epoch();
        self.conn.net = Some(net);
        if changed && self.conn.phase == Phase::Established && !self.conn.handshake_in_progress {
            if told {
                self.send_protocol_update(out);
            }
            for v in 0..self.vols.len() {
                self.send_sync_param(v, out);
                self.resync_options_changed(v);
            }
        }
        CommandResult::Ok
    }

    fn disk_options(&mut self, v: usize, cfg: crate::config::DiskConfig, out: &mut Actions) -> CommandResult {
        let Some(disk) = self.vols[v].disk.as_mut() else {
            return CommandResult::Config(ConfigError::NoDisk);
        };
        let (size, al) = (disk.cfg.size_sectors, disk.cfg.al_extents);
        disk.cfg = cfg;
        // Neither changes under an attached disk: the size has its own command, the log is as it was made.
        disk.cfg.size_sectors = size;
        disk.cfg.al_extents = al;
        self.resync_options_changed(v);
        if self.conn.phase == Phase::Established && !self.conn.handshake_in_progress {
            self.send_sync_param(v, out);
        }
        CommandResult::Ok
    }

    fn resume_refused(&self, v: usize) -> Option<ConfigError> {
        let s = &self.vols[v].state;
        if s.user_isp {
            return None;
        }
        let paused = matches!(s.conn, ConnState::PausedSyncS | ConnState::PausedSyncT);
        Some(match (paused, s.aftr_isp, s.peer_isp) {
            (true, true, _) => ConfigError::PicAfterDep,
            (true, false, true) => ConfigError::PicPeerDep,
            _ => ConfigError::PauseIsClear,
        })
    }

    fn invalidate_alone(&mut self, v: usize, change: StateChange, out: &mut Actions) -> CommandResult {
        if let Err(e) = self.change_volume(v, change, Kind::Soft, out) {
            return CommandResult::State(e);
        }
        self.set_all_bits(v, FullSyncStep::Nothing, out);
        CommandResult::Ok
    }

    // spec: drbd-wire 8.9
    fn new_current_uuid_command(&mut self, v: usize, clear_bitmap: bool, out: &mut Actions) -> CommandResult {
        let s = self.vols[v].state;
        if s.disk < DiskState::Inconsistent {
            return CommandResult::Config(ConfigError::NoDisk);
        }
        let fresh = self.vols[v].uuids().current == DataUuid::JUST_CREATED;
        let skip = clear_bitmap && s.conn == ConnState::Connected && fresh;
        if !skip && s.conn != ConnState::StandAlone {
            return CommandResult::Config(ConfigError::Connected);
        }
        let random = DataUuid(self.rng.uuid());
        let at = Some(VolIdx(v as u8));
        if skip {
            out.log(LogLevel::Info, at, "Preparing to skip initial sync".into());
        }
        let disk = self.vols[v].disk.as_mut().expect("a usable disk is present");
        if clear_bitmap {
            disk.sb.uuids.clear_bitmap();
        }
        disk.sb.uuids.new_current(random, s.role == Role::Primary);
        disk.md.mark_dirty();
        let line = alloc::format!("new current UUID {}", crate::meta_io::uuid_line(&disk.sb.uuids));
        out.log(LogLevel::Info, at, line);
        if clear_bitmap {
            self.vols[v].bitmap.clear_all();
            self.write_bitmap_all(v, out);
        }
        if skip {
            self.send_uuids(v, UuidFlags::SKIP_INITIAL_SYNC, out);
            let disk = self.vols[v].disk.as_mut().expect("a usable disk is present");
            disk.sb.uuids.bitmap = DataUuid::ZERO;
            disk.md.mark_dirty();
            let line = alloc::format!("cleared bitmap UUID {}", crate::meta_io::uuid_line(&disk.sb.uuids));
            out.log(LogLevel::Info, at, line);
            self.peer_has_own_generations(v);
            let change = StateChange::NONE.disk(DiskState::UpToDate).pdsk(DiskState::UpToDate);
            let _ = self.change_volume(v, change, Kind::Hard, out);
        }
        self.md_sync(v, out);
        CommandResult::Ok
    }
}

/// A full sync is asked for whose source is not UpToDate. Entering StartingSyncS would call it so, and the good copy
/// would be overwritten.
fn starts_from_bad_data(old: &VolumeState, new: &VolumeState) -> bool {
    match new.conn {
        ConnState::StartingSyncS => old.disk != DiskState::UpToDate,
        ConnState::StartingSyncT => old.pdsk != DiskState::UpToDate,
        _ => false,
    }
}

fn state_result(r: Result<StateResult, StateResult>) -> CommandResult {
    match r {
        Ok(_) => CommandResult::Ok,
        Err(e) => CommandResult::State(e),
    }
}
