//! The peer's goodbye (drbd-wire 9.7): it is answered when all that the peer has written is on the disk and acknowledged.
//!
//! What is not covered by a barrier acknowledgement when the connection ends stays marked on the peer, whether the blocks
//! are equal or not.

use model::result_code::StateResult;
use model::state::ConnState;
use model::state_word::{StateChange, mask};
use model::time::Duration;

use crate::action::{Actions, Closing, LogLevel};
use crate::meta_io::Then;
use crate::resource::Resource;
use crate::timers::Timer;

/// A disk that ends nothing for so long holds up nobody who wants to leave.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// A goodbye that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goodbye {
    /// Epochs from this one on were begun by writes that the peer sent after it, and are not waited for.
    epochs_end: u64,
    /// The peer relies on what the super blocks say then.
    outdates: bool,
    /// They say it.
    stable: bool,
    /// It has waited long enough.
    overdue: bool,
}

impl Resource {
    /// A change of the connection was made at the peer's word: it is torn down, if it was not lost over it.
    pub(crate) fn peer_said_goodbye(&mut self, change: StateChange, out: &mut Actions) {
        if self.conn.state != ConnState::TearDown {
            return;
        }
        if self.conn.goodbye.is_none() {
            let outdates = change.mask & mask::DISK != 0;
            let epochs_end = self.peer.next_epoch;
            self.conn.goodbye = Some(Goodbye { epochs_end, outdates, stable: false, overdue: false });
            self.arm_goodbye();
            self.epochs_advance(out);
        }
        self.reply_tear_down_when_stable(0, out);
    }

    /// Goes on when the super blocks of this volume and all behind it are stable: outdated disks have to be so on the medium
    /// before the peer relies on it.
    pub(crate) fn reply_tear_down_when_stable(&mut self, first: usize, out: &mut Actions) {
        if first < self.vols.len() {
            self.when_super_block_stable(first, Then::ReplyTearDown, out);
            return;
        }
        if let Some(goodbye) = self.conn.goodbye.as_mut() {
            goodbye.stable = true;
            self.answer_goodbye_if_due(out);
        }
    }

    /// The disk has done something of this epoch: it does not stand still.
    pub(crate) fn goodbye_goes_on(&mut self, epoch: u64) {
        if self.conn.goodbye.is_some_and(|g| !g.overdue && epoch < g.epochs_end) {
            self.arm_goodbye();
        }
    }

    fn arm_goodbye(&mut self) {
        let at = self.now + self.net().timeout.min(PATIENCE_MAX);
        self.timers.set(Timer::Goodbye, at);
    }

    /// What the peer has said before its goodbye is not all done.
    fn owes_acknowledgements(&self, goodbye: Goodbye) -> bool {
        let mut before = self.peer.epochs.iter().take_while(|e| e.number < goodbye.epochs_end);
        before.any(|e| e.active > 0 || e.barrier.is_some())
    }

    /// Confirms the peer's disconnect, then lets go of the connection; true if it did.
    pub(crate) fn answer_goodbye_if_due(&mut self, out: &mut Actions) -> bool {
        let Some(goodbye) = self.conn.goodbye else { return false };
        let stable = goodbye.stable || goodbye.overdue && !goodbye.outdates;
        if !stable || !goodbye.overdue && self.owes_acknowledgements(goodbye) {
            return false;
        }
        assert_eq!(self.conn.state, ConnState::TearDown, "a goodbye ends with its connection");
        self.send_change_reply(None, StateResult::Success.number(), out);
        // A peer that sees the data socket end looks at the meta socket for a short time only.
        self.clean_up_closing([Closing::AfterPeer; 2], out);
        true
    }

    /// The disk has not got through with it.
    pub(crate) fn goodbye_timer(&mut self, out: &mut Actions) {
        let Some(goodbye) = self.conn.goodbye.as_mut() else { return };
        goodbye.overdue = true;
        let goodbye = *goodbye;
        if self.owes_acknowledgements(goodbye) {
            let text = "the peer disconnects before all that it has written is on the disk";
            self.log_conn(LogLevel::Warn, text, out);
        }
        self.answer_goodbye_if_due(out);
    }
}
