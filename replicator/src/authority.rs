//! The right of a Primary to serve its clients, where somebody else could become Primary without asking: it is bounded in
//! time, and nothing is admitted or answered after it has ended.
//!
//! Whoever grants it (a lease in a store that both nodes reach) says until when. The peer's answers to pings count as well:
//! a peer that is connected as Secondary has promised not to become Primary by itself before a time has passed since it was
//! last heard, and what it answers, it has heard after the ping was sent. Both bounds are reckoned from the moment of asking,
//! on this node's clock alone; so a node that stood still finds that its time is over before it does anything else.

use model::state::{ConnState, DiskState, Role};
use model::time::{Duration, Instant};

use crate::action::Actions;
use crate::connection::Phase;
use crate::resource::Resource;
use crate::timers::Timer;

/// Until when this node may serve clients as Primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Authority {
    /// Granted until then, whatever the peer says.
    pub until: Instant,
    /// Granted for so long after the sending of a ping that the peer, Secondary and connected, has answered.
    pub by_peer: Duration,
}

/// How many pings without an answer are remembered. Those beyond are not reckoned with.
const PINGS_MAX: usize = 32;
/// A ping goes out four times in the time that its answer is good for.
const PINGS_PER_GRANT: u32 = 4;

/// What the peer has answered.
#[derive(Default)]
pub(crate) struct PeerWord {
    /// When each ping was sent whose answer is due, oldest first.
    sent: [Instant; PINGS_MAX],
    first: usize,
    len: usize,
    /// When the last one was sent that was answered while the peer was Secondary and connected.
    answered: Option<Instant>,
}

impl PeerWord {
    fn push(&mut self, at: Instant) {
        if self.len < PINGS_MAX {
            self.sent[(self.first + self.len) % PINGS_MAX] = at;
        }
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Instant> {
        // Answers come in the order of the pings: those that were not remembered are the last ones.
        self.len = self.len.checked_sub(1)?;
        let at = self.sent[self.first];
        self.first = (self.first + 1) % PINGS_MAX;
        (self.len < PINGS_MAX).then_some(at)
    }
}

impl Resource {
    /// Bounds the right to serve clients, or (None) lifts the bound.
    pub(crate) fn set_authority(&mut self, authority: Option<Authority>, out: &mut Actions) {
        self.authority = authority;
        self.pump_all = true;
        self.ask_for_peer_word(out);
    }

    /// This node may admit and answer requests now. By a bounded right only together with a good copy of the peer: what it
    /// answered alone would be lost if the peer took its place.
    pub(crate) fn may_serve(&self) -> bool {
        self.has_right(self.now)
    }

    fn has_right(&self, now: Instant) -> bool {
        self.authority.is_none_or(|a| now < self.bound(a) && self.is_mirrored())
    }

    fn bound(&self, authority: Authority) -> Instant {
        let by_peer = self.peer_word.answered.map(|at| at + authority.by_peer);
        by_peer.map_or(authority.until, |at| at.max(authority.until))
    }

    fn is_mirrored(&self) -> bool {
        self.vols.iter().all(|v| v.state.conn >= ConnState::Connected && v.state.pdsk == DiskState::UpToDate)
    }

    /// Clients are served, as of `now`.
    pub fn serves(&self, now: Instant) -> bool {
        let frozen = self.vols.iter().any(|v| v.state.any_susp());
        self.role() == Role::Primary && !frozen && self.has_right(now)
    }

    /// When the last ping was sent that the peer, connected as Secondary, has answered.
    pub fn peer_word_at(&self) -> Option<Instant> {
        self.peer_word.answered
    }

    /// Clients wait because the right to serve them has run out.
    pub(crate) fn is_without_authority(&self) -> bool {
        self.role() == Role::Primary && !self.may_serve()
    }

    /// A ping goes out now.
    pub(crate) fn ping_is_sent(&mut self) {
        let now = self.now;
        self.peer_word.push(now);
    }

    /// The answer to the oldest ping has come.
    pub(crate) fn ping_is_answered(&mut self) {
        let Some(sent_at) = self.peer_word.pop() else { return };
        let s = &self.vols[0].state;
        if s.conn >= ConnState::Connected && s.peer == Role::Secondary {
            let stood_still = self.is_without_authority();
            self.peer_word.answered = Some(sent_at);
            self.pump_all |= stood_still;
        }
    }

    /// No ping of the connection that has ended will be answered. What the peer has promised holds on.
    pub(crate) fn forget_pings(&mut self) {
        (self.peer_word.first, self.peer_word.len) = (0, 0);
    }

    /// Sends a ping, and the next one soon enough: a Primary lives by the peer's word, and a Secondary notices that it is gone.
    pub(crate) fn ask_for_peer_word(&mut self, out: &mut Actions) {
        let Some(authority) = self.authority else {
            self.timers.stop(Timer::PeerWord);
            return;
        };
        if self.conn.phase == Phase::Established {
            self.send_ping(out);
        }
        // A node that becomes Primary, or gets its peer back, has to wait for the next round at most.
        let pause = (authority.by_peer / PINGS_PER_GRANT).max(Duration::from_millis(1));
        self.timers.set(Timer::PeerWord, self.now + pause);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn answers_belong_to_the_oldest_pings() {
        let mut word = PeerWord::default();
        for i in 0..3 {
            word.push(Instant(i));
        }
        assert_eq!(word.pop(), Some(Instant(0)));
        word.push(Instant(3));
        let rest: Vec<_> = core::iter::from_fn(|| word.pop()).collect();
        assert_eq!(rest, [1, 2, 3].map(Instant));
        assert_eq!(word.pop(), None);
    }

    #[test]
    fn an_answer_is_never_taken_for_that_to_a_later_ping() {
        let mut word = PeerWord::default();
        for i in 0..100 {
            word.push(Instant(i));
        }
        for i in 0..100 {
            if let Some(at) = word.pop() {
                assert!(at <= Instant(i), "answer {i} counts as that to {at:?}");
            }
        }
        word.push(Instant(200));
        assert_eq!(word.pop(), Some(Instant(200)), "the queue is in order again");
    }
}
