//! Questions that both nodes have to agree on: ours to the peer, the peer's to us, and the way out of a connection
//! (drbd-states 8, drbd-wire 9).

use model::policy::Fencing;

use super::*;
use crate::action::Closing;

impl Resource {
    // spec: drbd-wire 9.7, drbd-states 15
    pub(super) fn attempt_disconnect(&mut self, active: &mut Active, out: &mut Actions) -> Attempt {
        let Work::Disconnect { wish } = &mut active.work else { unreachable!("the caller matched it") };
        if self.is_standalone() {
            return Attempt::Done(CommandResult::Ok);
        }
        let plain = StateChange::NONE.conn(ConnState::Disconnecting);
        if self.conn.handshake_in_progress {
            return Attempt::Later;
        }
        if self.conn.phase != Phase::Established {
            self.finish_disconnect(plain, out);
            return Attempt::Done(CommandResult::Ok);
        }
        let change = match *wish {
            Farewell::Plain => plain,
            Farewell::OutdatesPeer => plain.pdsk(DiskState::Outdated),
            Farewell::OutdatesItself => plain.disk(DiskState::Outdated),
        };
        for v in 0..self.vols.len() {
            let ctx = self.context(v);
            match evaluate(&self.vols[v].state, change, Kind::Soft, &ctx) {
                Ok(_) => {}
                Err(StateResult::InTransientState) => return Attempt::Later,
                // The peer wants a copy that is no good to be outdated: it has nothing to fear from it.
                Err(StateResult::IsDiskless | StateResult::LowerThanOutdated)
                    if *wish == Farewell::OutdatesItself =>
                {
                    self.finish_disconnect(plain, out);
                    return Attempt::Done(CommandResult::Ok);
                }
                Err(StateResult::PrimaryNop) if *wish == Farewell::Plain => {
                    *wish = Farewell::OutdatesPeer;
                    self.something_changed = true;
                    return Attempt::Later;
                }
                Err(e) => return Attempt::Done(CommandResult::State(e)),
            }
        }
        // Otherwise the last epoch would be left open, and its blocks marked.
        self.close_epoch();
        self.send_closed_barrier(out);
        self.send_change_request(None, change, out);
        active.asked = Some(Asked::now(None, change));
        Attempt::Asked
    }

    /// Lets go of the connection: nobody has to agree any more.
    pub(super) fn finish_disconnect(&mut self, change: StateChange, out: &mut Actions) {
        self.leave_connection(change, out);
        self.clean_up(out);
    }

    /// The peer agrees. It keeps its sockets open until these are closed.
    fn goodbye_answered(&mut self, change: StateChange, out: &mut Actions) {
        self.leave_connection(change, out);
        self.clean_up_closing([Closing::WhenSent; 2], out);
    }

    fn leave_connection(&mut self, change: StateChange, out: &mut Actions) {
        self.conn.standalone_reason = None;
        let _ = self.change_connection(change, Kind::Hard, out);
        self.log_attempt_given_up(out);
    }

    /// P_STATE_CHG_REPLY or P_CONN_ST_CHG_REPLY.
    pub(crate) fn receive_change_reply(&mut self, code: i32, out: &mut Actions) {
        self.take_change_reply(code, out);
        self.no_longer_left_behind();
        while self.asked().is_none()
            && let Some((v, change)) = self.cmds.delayed.pop_front()
        {
            self.answer_change_request(v, change, out);
        }
        self.drive_commands(out);
    }

    fn take_change_reply(&mut self, code: i32, out: &mut Actions) {
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
            out.log(LogLevel::Error, None, log_line::refused_by_peer_line(code));
            if let Work::Disconnect { wish } = &mut active.work
                && *wish != Farewell::OutdatesItself
            {
                *wish = Farewell::OutdatesItself;
            } else {
                self.cmds.active = None;
                let result = CommandResult::State(StateResult::CwFailedByPeer);
                out.push(Action::CommandDone { id, result });
            }
            return;
        }
        match asked.vol {
            None => {
                self.cmds.active = None;
                self.goodbye_answered(asked.change, out);
                out.push(Action::CommandDone { id, result: CommandResult::Ok });
            }
            Some(v) if asked.is_void() => {
                self.cmds.active = None;
                if asked.starts(ConnState::StartingSyncS) {
                    self.peer_gave_up_its_copy(v, out);
                }
                let result = CommandResult::Config(ConfigError::NoDisk);
                out.push(Action::CommandDone { id, result });
            }
            Some(v) => self.peer_agreed(v, asked.change, out),
        }
    }

    /// The peer has called its copy Inconsistent at our word; it does not take that back when our disk goes.
    fn peer_gave_up_its_copy(&mut self, v: usize, out: &mut Actions) {
        let s = self.vols[v].state;
        if s.disk < DiskState::Inconsistent && s.pdsk > DiskState::Inconsistent {
            let _ = self.change_volume(v, StateChange::NONE.pdsk(DiskState::Inconsistent), Kind::Hard, out);
        }
    }

    /// Own disk gone, and the peer may be about to give up its copy at our word: nobody knows what that one is worth.
    pub(crate) fn peer_may_give_up_its_copy(&self, v: usize) -> bool {
        let asked = self.asked().filter(|a| a.vol == Some(v) && a.starts(ConnState::StartingSyncS));
        asked.is_some() && self.vols[v].state.disk < DiskState::Inconsistent
    }

    /// A disk has gone, here or there.
    pub(crate) fn disk_went_while_asking(&mut self, v: usize) {
        if let Some(asked) = self.cmds.active.as_mut().and_then(|a| a.asked.as_mut())
            && asked.vol == Some(v)
        {
            asked.disk_went = true;
        }
    }

    pub(super) fn peer_agreed(&mut self, v: usize, change: StateChange, out: &mut Actions) {
        let old = self.vols[v].state;
        let full_sync = change.apply(&old).and_then(|new| full_sync_refused(&old, &new));
        // A copy may have gone bad since the question.
        let refused = full_sync.or(verifies_bad_data(&old, change).then_some(StateResult::NoUpToDateDisk));
        let fenced = self.vols[v].cfg_fencing() != Fencing::DontCare;
        if fenced && change == StateChange::NONE.disk(DiskState::Failed) {
            // The peer goes on without it from now on. DRBD's disk would come back as one that is good once the peer is fenced.
            self.outdate_failing_disk(v);
        }
        let result = refused.map_or_else(|| self.change_volume(v, change, Kind::Soft, out), Err);
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
            self.peer_went_ahead(v, &active.work, out);
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

    /// The peer has made a change that it was asked for, and this node cannot follow any more. What each takes the other
    /// for is told by the disk that went meanwhile, or else by a new handshake.
    fn peer_went_ahead(&mut self, v: usize, work: &Work, out: &mut Actions) {
        let s = self.vols[v].state;
        let apart = match work {
            Work::Promote { .. } => {
                self.send_state(v, out);
                false
            }
            // It waits for our blocks, and takes this for the end.
            Work::Change { change, .. } if *change == StateChange::NONE.conn(ConnState::VerifyS) => {
                self.send_state(v, out);
                false
            }
            Work::Detach { .. } => s.disk > DiskState::Failed,
            _ => s.disk > DiskState::Failed && s.pdsk > DiskState::Failed,
        };
        if apart && s.conn >= ConnState::Connected {
            let text = "the state has changed while the peer was asked; connecting anew";
            out.log(LogLevel::Error, Some(VolIdx(v as u8)), text);
            self.lose_connection(ConnState::NetworkFailure, out);
        }
    }

    /// The question that the peer has not answered.
    fn asked(&self) -> Option<Asked> {
        self.cmds.active.as_ref().and_then(|a| a.asked)
    }

    /// P_STATE_CHG_REQ (one volume) or P_CONN_ST_CHG_REQ (None).
    ///
    /// Each node asks in its own state; a change that the other one makes meanwhile at our word makes the question void. So
    /// one question is decided at a time: the node with the conflict flag refuses those that cross its own (drbd-wire 9.6),
    /// the other one lets them wait for its own answer, which is that refusal unless the peer was asked first.
    pub(crate) fn receive_change_request(
        &mut self,
        v: Option<usize>,
        change: StateChange,
        out: &mut Actions,
    ) {
        match self.asked() {
            Some(a) if self.conn.conflict_flag => {
                if a.vol.is_none() == v.is_none() {
                    self.send_change_reply(v, StateResult::ConcurrentStateChange.number(), out);
                } else {
                    self.answer_change_request(v, change, out);
                }
            }
            // One for each volume and one for the connection: a peer asks nothing twice.
            Some(_) if self.cmds.delayed.len() > self.vols.len() => {
                self.protocol_error("more questions than a peer can have", out);
            }
            Some(_) => self.cmds.delayed.push_back((v, change)),
            None => self.answer_change_request(v, change, out),
        }
    }

    fn answer_change_request(&mut self, v: Option<usize>, change: StateChange, out: &mut Actions) {
        let change = translate(change);
        if !translate::is_customary(change, v.is_none()) {
            self.send_change_reply(v, StateResult::NotSupported.number(), out);
            return;
        }
        match v {
            Some(v) => {
                let own = translate::for_volume(change, &self.vols[v].state);
                let old = self.vols[v].state;
                if let Some(e) = own.apply(&old).and_then(|new| full_sync_refused(&old, &new)) {
                    self.send_change_reply(Some(v), e.number(), out);
                    return;
                }
                let harmful = [verifies_bad_data, promotes_over_old_data, takes_last_good_copy];
                if harmful.iter().any(|is| is(&old, own)) {
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
                Ok(_) => self.peer_said_goodbye(change, out),
            },
        }
    }

    /// The peer was asked to become source of a full sync, and has not answered.
    pub(crate) fn asks_for_full_sync(&self, v: usize) -> bool {
        let asked = self.asked();
        asked.is_some_and(|a| a.vol == Some(v) && !a.is_void() && a.starts(ConnState::StartingSyncT))
    }

    /// The peer was asked to let this disk go, or to replace what it holds. Its clients may go on without it before the
    /// answer is here, and what they write then must not be missing for those of this node.
    pub(crate) fn may_be_left_behind(&self, v: usize) -> bool {
        self.may_both_be_primary() && (self.asks_to_detach(v) || self.asks_for_full_sync(v))
    }

    /// The peer was asked to let this disk go, and has not answered.
    pub(crate) fn asks_to_detach(&self, v: usize) -> bool {
        let detaches =
            |a: &Active| matches!(a.work, Work::Detach { vol, .. } if vol == v) && a.asked.is_some();
        self.cmds.active.as_ref().is_some_and(detaches)
    }

    /// The peer's answer is here, or will not come.
    fn no_longer_left_behind(&mut self) {
        if self.may_both_be_primary() {
            self.vols.iter_mut().for_each(|vol| vol.pump = true);
        }
    }

    /// The peer was asked to let go, and has not answered.
    pub(crate) fn says_goodbye(&self) -> bool {
        self.asked().is_some_and(|a| a.vol.is_none()) && self.conn.state != ConnState::TearDown
    }

    /// A disconnect was asked for: the peer may close before its reply is seen.
    pub(crate) fn graceful_close_expected(&self) -> bool {
        let asked = self.asked();
        asked.is_some_and(|a| a.vol.is_none()) || self.conn.state == ConnState::TearDown
    }

    /// A disconnect was asked for that leaves the peer with an outdated copy. Only its answer says that it is one.
    pub(crate) fn asks_peer_to_outdate_itself(&self) -> bool {
        let outdates = |a: Asked| a.vol.is_none() && a.change.mask & mask::PDSK != 0;
        self.asked().is_some_and(outdates) && self.conn.state != ConnState::TearDown
    }

    pub(crate) fn peer_closed_after_request(&mut self, out: &mut Actions) {
        if self.conn.state == ConnState::TearDown {
            self.clean_up(out);
            return;
        }
        let Some(active) = self.cmds.active.take() else { return };
        let asked = active.asked.map_or(StateChange::NONE.conn(ConnState::Disconnecting), |a| a.change);
        self.finish_disconnect(asked, out);
        out.push(Action::CommandDone { id: active.id, result: CommandResult::Ok });
        self.drive_commands(out);
    }

    /// The connection is gone: questions to the peer have become unnecessary, the command goes on without.
    pub(crate) fn commands_connection_lost(&mut self, _out: &mut Actions) {
        self.cmds.delayed.clear();
        self.no_longer_left_behind();
        if let Some(active) = self.cmds.active.as_mut() {
            active.asked = None;
            self.something_changed = true;
        }
    }
}
