//! Administrator's commands as state change requests, the questions to the peer that some of them need, and the
//! peer's own questions (drbd-states 8, 15, 16; drbd-wire 9.5 to 9.7).

mod local;
mod peer;
mod role;
mod suspend;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

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
use crate::resize::ResizeWish;
use crate::resource::Resource;
use crate::state::{Kind, evaluate, log_line, needs_peer, translate};
use crate::timers::Timer;
use crate::wire::UuidFlags;

/// A cluster-wide request under way: for one volume, or (None) for the connection.
#[derive(Clone, Copy, Debug)]
struct Asked {
    vol: Option<usize>,
    change: StateChange,
    /// One of the disks has gone since, and maybe come back.
    disk_went: bool,
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
        fence: Fence,
    },
    Demote {
        next_vol: usize,
        force: bool,
    },
    Disconnect {
        wish: Farewell,
    },
    Resize {
        vol: usize,
        wish: ResizeWish,
        begun: bool,
    },
    /// A change of one volume that is done when it is applied.
    Change {
        vol: usize,
        change: StateChange,
    },
}

/// Whether the peer of a node that is to be promoted was fenced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fence {
    /// Not yet necessary.
    NotAsked,
    /// The handler has not answered.
    Waiting,
    /// It has; whether the peer is out of the way.
    Answered(bool),
}

/// What a graceful disconnect asks of the peer (drbd-states 15).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Farewell {
    /// To let go.
    Plain,
    /// To call its copy Outdated: this node is Primary, and has to fence it.
    OutdatesPeer,
    /// The peer did not let go of a good copy: this node calls its own Outdated.
    OutdatesItself,
}

impl Asked {
    fn now(vol: Option<usize>, change: StateChange) -> Asked {
        Asked { vol, change, disk_went: false }
    }

    /// A full sync, which ends before it begins if a disk goes. The peer hears of it behind the question, or had heard of
    /// it before, and is not waiting for a resync whatever it answers.
    fn is_void(&self) -> bool {
        let full_sync = self.starts(ConnState::StartingSyncS) || self.starts(ConnState::StartingSyncT);
        self.disk_went && full_sync
    }

    fn starts(&self, conn: ConnState) -> bool {
        self.change.mask & mask::CONN != 0 && self.change.value & mask::CONN == (conn as u32) << 4
    }
}

/// Commands of this node.
#[derive(Default)]
pub(crate) struct Commands {
    active: Option<Active>,
    queue: VecDeque<(CommandId, Command)>,
    /// Suspend-io that waits for the writes under way.
    suspending: Vec<CommandId>,
    /// Questions of the peer that wait for its answer to ours.
    delayed: VecDeque<(Option<usize>, StateChange)>,
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
                | Command::SetAuthority(_)
        );
        // A node that waits for its own fence-peer handler may be what the peer's handler wants to outdate.
        let outdates = matches!(command, Command::Outdate(_)) && self.promotion_waits_for_fence();
        if let Command::Secondary { force: true, open } = command {
            self.open_volumes |= open;
            self.demote_by_force(id, out);
            return;
        }
        if urgent || outdates {
            self.run_urgent(id, command, out);
        } else {
            self.cmds.queue.push_back((id, command));
            self.drive_commands(out);
        }
    }

    /// A command has asked the peer, which has not answered.
    pub(crate) fn peer_was_asked(&self) -> bool {
        self.cmds.active.as_ref().is_some_and(|a| a.asked.is_some())
    }

    fn run_urgent(&mut self, id: CommandId, command: Command, out: &mut Actions) {
        let result = match command {
            Command::Disconnect { .. } => {
                if !self.is_standalone() {
                    self.finish_disconnect(StateChange::NONE.conn(ConnState::Disconnecting), out);
                }
                CommandResult::Ok
            }
            Command::Detach { vol, .. } => {
                self.give_up_disk(vol.0 as usize, out);
                CommandResult::Ok
            }
            Command::Outdate(vol) => return self.outdate_at_once(id, vol.0 as usize, out),
            Command::SuspendIo => return self.suspend_io(id, out),
            Command::ResumeIo => {
                if !self.conn.handshake_in_progress {
                    // Otherwise it is refused, and the peer decides by the generations that it was told.
                    self.begin_due_generations(out);
                }
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
            Command::SetAuthority(authority) => {
                self.set_authority(authority, out);
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
            Command::Resize(vol, wish) => {
                return Some(Work::Resize { vol: vol.0 as usize, wish, begun: false });
            }
            Command::Connect(net) => self.connect_command(*net, out),
            Command::NetOptions(net) => self.net_options(*net, out),
            Command::DiskOptions(vol, cfg) => self.disk_options(vol.0 as usize, *cfg, out),
            Command::Disconnect { .. } if self.is_standalone() => config(ConfigError::InvalidRequest),
            Command::Disconnect { .. } => return Some(Work::Disconnect { wish: Farewell::Plain }),
            Command::Primary { force } => {
                self.send_ping(out);
                return Some(Work::Promote {
                    force,
                    extras: StateChange::NONE,
                    next_vol: 0,
                    forced: false,
                    fence: Fence::NotAsked,
                });
            }
            Command::Secondary { open, force } => {
                self.open_volumes |= open;
                return Some(Work::Demote { next_vol: 0, force });
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
                    let change = StateChange::NONE.disk(DiskState::Inconsistent);
                    let result = self.invalidate_alone(v, change, out);
                    self.answer_when_stable(v, id, result, out);
                    return None;
                } else {
                    let change = StateChange::NONE.conn(ConnState::StartingSyncT);
                    return Some(Work::Change { vol: v, change });
                }
            }
            Command::InvalidateRemote(vol) => {
                let v = vol.0 as usize;
                let s = self.vols[v].state;
                if s.conn == ConnState::StandAlone && s.role == Role::Primary {
                    let change = StateChange::NONE.pdsk(DiskState::Inconsistent);
                    let result = self.invalidate_alone(v, change, out);
                    self.answer_when_stable(v, id, result, out);
                    return None;
                } else {
                    let change = StateChange::NONE.conn(ConnState::StartingSyncS);
                    return Some(Work::Change { vol: v, change });
                }
            }
            Command::Verify { vol, start_sector, stop_sector } => {
                let v = vol.0 as usize;
                self.vols[v].verify.asked_for(start_sector, stop_sector);
                let change = StateChange::NONE.conn(ConnState::VerifyS);
                return Some(Work::Change { vol: v, change });
            }
            // On a connection the wish would be lifted to what a disk there has to be, UpToDate, from whatever it was.
            Command::Outdate(vol) if lower_than_outdated(self.vols[vol.0 as usize].state.disk) => {
                CommandResult::State(StateResult::LowerThanOutdated)
            }
            Command::Outdate(vol) => {
                let change = StateChange::NONE.disk(DiskState::Outdated);
                return Some(Work::Change { vol: vol.0 as usize, change });
            }
            Command::NewCurrentUuid { vol, clear_bitmap } => {
                let v = vol.0 as usize;
                let result = self.new_current_uuid_command(v, clear_bitmap, out);
                self.answer_when_stable(v, id, result, out);
                return None;
            }
            Command::SuspendIo
            | Command::ResumeIo
            | Command::SetAfterDependency(..)
            | Command::SetAuthority(_) => {
                unreachable!("urgent commands are not queued")
            }
        };
        out.push(Action::CommandDone { id, result });
        None
    }

    /// A command that is carried out is answered when the super block says so, one that is refused at once.
    fn answer_when_stable(&mut self, v: usize, id: CommandId, result: CommandResult, out: &mut Actions) {
        match result {
            CommandResult::Ok => self.when_super_block_stable(v, Then::AnswerCommand(id), out),
            refused => out.push(Action::CommandDone { id, result: refused }),
        }
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
                        active.asked = Some(Asked::now(Some(vol), change));
                        Attempt::Asked
                    }
                    other => other,
                }
            }
            Work::Resize { vol, begun: true, .. } => match self.vols[*vol].resize_result.take() {
                Some(result) => Attempt::Done(result),
                None => Attempt::Later,
            },
            Work::Resize { vol, wish, begun } => {
                let v = *vol;
                match self.begin_resize(v, *wish, out) {
                    None => Attempt::Later,
                    Some(Err(e)) => Attempt::Done(CommandResult::Config(e)),
                    Some(Ok(())) => {
                        *begun = true;
                        self.vols[v].resize_result = None;
                        Attempt::Later
                    }
                }
            }
            Work::Promote { .. } => self.attempt_promote(active, out),
            Work::Demote { .. } => self.attempt_demote(active, out),
            Work::Disconnect { .. } => self.attempt_disconnect(active, out),
            Work::Change { vol, change } => {
                let (vol, change) = (*vol, *change);
                match self.request(Some(vol), change, out) {
                    Attempt::Asked => {
                        active.asked = Some(Asked::now(Some(vol), change));
                        Attempt::Asked
                    }
                    // Whoever had the copy outdated relies on it from now on, also after a crash of this node.
                    Attempt::Done(CommandResult::Ok) if change.mask & mask::DISK != 0 => {
                        self.when_super_block_stable(vol, Then::AnswerCommand(id), out);
                        Attempt::AnswersLater
                    }
                    other => other,
                }
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
        match full_sync_refused(&old, &wanted.new) {
            Some(StateResult::InTransientState) => return Attempt::Later,
            Some(e) => return Attempt::Done(CommandResult::State(e)),
            None => {}
        }
        if verifies_bad_data(&old, change) {
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

    pub(crate) fn command_detached(&mut self, _v: usize, _out: &mut Actions) {
        self.something_changed = true;
    }

    pub(crate) fn finish_command(&mut self, id: CommandId, result: CommandResult, out: &mut Actions) {
        out.push(Action::CommandDone { id, result });
        self.something_changed = true;
    }
}

/// Why a full sync by command cannot begin now. From a source that is not UpToDate: entering StartingSyncS would call it
/// so, and the good copy would be overwritten. To a disk that is being attached: its handshake decides first.
fn full_sync_refused(old: &VolumeState, new: &VolumeState) -> Option<StateResult> {
    let source = match new.conn {
        ConnState::StartingSyncS => old.disk,
        ConnState::StartingSyncT => old.pdsk,
        _ => return None,
    };
    let attaching = matches!(old.disk, DiskState::Attaching | DiskState::Negotiating);
    match source {
        _ if attaching => Some(StateResult::InTransientState),
        DiskState::UpToDate => None,
        _ => Some(StateResult::NoUpToDateDisk),
    }
}

/// A verify is asked for while a copy is not good. Entering it would call that copy UpToDate (drbd-wire trap 43); there
/// is nothing to be learned from comparing it.
fn verifies_bad_data(old: &VolumeState, change: StateChange) -> bool {
    let verify = [ConnState::VerifyS, ConnState::VerifyT].map(|c| StateChange::NONE.conn(c));
    let bad = |d: DiskState| d > DiskState::Failed && d < DiskState::UpToDate;
    old.conn == ConnState::Connected && verify.contains(&change) && (bad(old.disk) || bad(old.pdsk))
}

/// The peer wants to be Primary over the copy here, which is known to be behind; it may not have heard of that.
fn promotes_over_old_data(old: &VolumeState, change: StateChange) -> bool {
    let no_good_copy = old.disk == DiskState::Outdated && old.pdsk < DiskState::Inconsistent;
    old.conn == ConnState::Connected && no_good_copy && change == StateChange::NONE.peer(Role::Primary)
}

/// A Primary wants to give up its disk for the sake of the copy here, which is not good: it may not have heard of that.
fn takes_last_good_copy(old: &VolumeState, change: StateChange) -> bool {
    let only_copy = old.pdsk == DiskState::UpToDate && old.disk < DiskState::UpToDate;
    old.peer == Role::Primary && only_copy && change == StateChange::NONE.pdsk(DiskState::Failed)
}

fn state_result(r: Result<StateResult, StateResult>) -> CommandResult {
    match r {
        Ok(_) => CommandResult::Ok,
        Err(e) => CommandResult::State(e),
    }
}

/// A disk that must not become Outdated, which would be a promotion (drbd-states 7.3 rule 5).
fn lower_than_outdated(disk: DiskState) -> bool {
    disk > DiskState::Attaching && disk < DiskState::Outdated
}
