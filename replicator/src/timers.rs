//! The timers of a resource: an enum and a fixed table of deadlines.

use model::time::Instant;

/// What a deadline is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Timer {
    /// End of the passive wait, or pause before the next attempt.
    Connect,
    /// End of the settle time of the established check.
    Settle,
    /// An answer of the handshake is due.
    Handshake,
    /// The oldest accepted socket has to have said what it is.
    Newcomer,
    /// The meta socket was idle for ping-int.
    PingIdle,
    /// The answer to a ping is due.
    PingAck,
    /// The data socket's send queue made no progress for `timeout`.
    SendStallData,
    /// The same for the meta socket.
    SendStallMeta,
    /// Look at the age of the oldest request.
    RequestAge,
    /// Next step of the resync controller.
    ResyncStep,
    /// A closed epoch's barrier is sent at the latest now.
    Barrier,
    /// The receiver's lazy flush is due.
    EpochFlush,
    /// A dirty super block is written at the latest now.
    MdSync,
    /// Progress marks of running resyncs.
    Progress,
    /// A command that waits repeats its request.
    Command,
    /// A local request exceeded disk-timeout.
    DiskTimeout,
    /// A disk whose requests were given up has had the time to write its metadata.
    GivenUp,
    /// Resync reads that stepped back for application I/O are looked at again.
    Throttle,
    /// A resync did not end for a peer that resizes.
    Resize,
    /// A node that is Ahead looks whether it may return.
    Ahead,
    /// The peer's goodbye is answered, whatever is left to do.
    Goodbye,
    /// The peer is asked for its word that it will not become Primary.
    PeerWord,
}

const COUNT: usize = Timer::PeerWord as usize + 1;

const ALL: [Timer; COUNT] = [
    Timer::Connect,
    Timer::Settle,
    Timer::Handshake,
    Timer::Newcomer,
    Timer::PingIdle,
    Timer::PingAck,
    Timer::SendStallData,
    Timer::SendStallMeta,
    Timer::RequestAge,
    Timer::ResyncStep,
    Timer::Barrier,
    Timer::EpochFlush,
    Timer::MdSync,
    Timer::Progress,
    Timer::Command,
    Timer::DiskTimeout,
    Timer::GivenUp,
    Timer::Throttle,
    Timer::Resize,
    Timer::Ahead,
    Timer::Goodbye,
    Timer::PeerWord,
];

/// The deadline of a timer that is not armed.
const NEVER: Instant = Instant(u64::MAX);

/// Deadlines by timer.
#[derive(Clone, Debug)]
pub(crate) struct Timers {
    at: [Instant; COUNT],
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { at: [NEVER; COUNT] }
    }
}

impl Timers {
    pub(crate) fn set(&mut self, t: Timer, at: Instant) {
        self.at[t as usize] = at;
    }

    /// Arms the timer unless it is armed already.
    pub(crate) fn set_if_idle(&mut self, t: Timer, at: Instant) {
        if !self.is_set(t) {
            self.set(t, at);
        }
    }

    pub(crate) fn stop(&mut self, t: Timer) {
        self.at[t as usize] = NEVER;
    }

    pub(crate) fn is_set(&self, t: Timer) -> bool {
        self.at[t as usize] != NEVER
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        // Asked for after every batch: without a branch for each of them.
        let earliest = self.at.iter().fold(NEVER, |a, b| a.min(*b));
        (earliest != NEVER).then_some(earliest)
    }

    /// Takes one timer that is due.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<Timer> {
        let t = ALL.into_iter().min_by_key(|t| self.at[*t as usize])?;
        if self.at[t as usize] > now || !self.is_set(t) {
            return None;
        }
        self.stop(t);
        Some(t)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_timer_expires_first_and_once() {
        let mut t = Timers::default();
        t.set(Timer::PingIdle, Instant(30));
        t.set(Timer::Settle, Instant(20));
        t.set_if_idle(Timer::Settle, Instant(5));
        assert_eq!(t.next(), Some(Instant(20)));
        assert_eq!(t.expired(Instant(10)), None);
        assert_eq!(t.expired(Instant(40)), Some(Timer::Settle));
        assert_eq!(t.expired(Instant(40)), Some(Timer::PingIdle));
        assert_eq!(t.expired(Instant(40)), None);
    }
}
