//! suspend-io: nothing new is admitted from the command on; it is answered when what was admitted before is on both
//! disks, so that copies of them taken then are equal (drbd-states 13.1, 15).

use core::mem;

use super::*;
use crate::requests::flag;

impl Resource {
    /// Freezes I/O. Answered by [`Self::answer_suspensions`], without keeping other commands waiting.
    pub(super) fn suspend_io(&mut self, id: CommandId, out: &mut Actions) {
        let change = StateChange::NONE.flag(mask::SUSP, true);
        if let Err(e) = self.change_connection(change, Kind::Soft, out) {
            out.push(Action::CommandDone { id, result: CommandResult::State(e) });
            return;
        }
        self.cmds.suspending.push(id);
        if self.changes_in_flight() && self.conn.is_established() {
            // In protocols A and B only the barrier's acknowledgement says that the peer has written.
            self.close_epoch();
            self.send_closed_barrier(out);
            self.send_unplug(0, out);
        }
    }

    /// Answers those whose wait is over.
    pub(crate) fn answer_suspensions(&mut self, out: &mut Actions) {
        if self.cmds.suspending.is_empty() {
            return;
        }
        let result = if !self.vols[0].state.susp {
            // Resumed meanwhile: nobody may take a copy now in the belief that it is one.
            CommandResult::State(StateResult::ConcurrentStateChange)
        } else if self.changes_in_flight() {
            return;
        } else {
            CommandResult::Ok
        };
        for id in mem::take(&mut self.cmds.suspending) {
            out.push(Action::CommandDone { id, result });
        }
    }

    /// An admitted write is not on the own disk yet, or not on that of the peer. Completions do not count: they are held
    /// back.
    fn changes_in_flight(&self) -> bool {
        self.reqs.table.iter().any(|(_, r)| {
            let there = !r.has(flag::IN_LOG) || r.has(flag::NET_WRITTEN | flag::NET_LOST);
            r.changes_data() && (r.has(flag::LOCAL_PENDING) || !there)
        })
    }
}
