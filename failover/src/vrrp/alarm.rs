//! What somebody has to be told, and goes on until it is mended: raised once, repeated now and then, cleared when its cause
//! has not been seen for a while.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::time::{Duration, Instant};

use super::action::AlarmChange;
use super::check::Reason;

/// How often an alarm that goes on is spoken of.
pub const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Shortest time without its cause after which an alarm is over.
pub const QUIET_MIN: Duration = Duration::from_secs(10);

/// What is wrong. There is one alarm of each kind at most, so that nobody can make many of them by sending packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AlarmKind {
    /// A living router of ours disagrees with us.
    Mismatch(Reason),
    /// This router is Backup only because of adverts that are not accepted: it, or an intruder, is silenced by them.
    HeldByMismatch,
    /// Somebody claims the addresses of a Master that is bound to a service.
    Stranger,
    /// Another router believes to be the owner of the addresses.
    TwoOwners,
    /// Another router has our own address, or our packets come back.
    OwnAddress,
}

/// One alarm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// Who sent what was seen last.
    pub source: IpAddr,
    /// In words.
    pub text: String,
    /// When it was raised.
    pub since: Instant,
    /// When its cause was seen last.
    pub last: Instant,
    /// How often its cause was seen.
    pub count: u64,
    pub(super) clears_at: Instant,
    pub(super) repeats_at: Instant,
}

/// The alarms of one instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarms(BTreeMap<AlarmKind, Alarm>);

impl Alarms {
    /// The cause was seen; gives what is to be said. `quiet`: for how long it may be away before the alarm is over.
    pub fn seen(
        &mut self,
        now: Instant,
        kind: AlarmKind,
        source: IpAddr,
        quiet: Duration,
        text: impl FnOnce() -> String,
    ) -> Option<(AlarmChange, Alarm)> {
        let clears_at = now + quiet.max(QUIET_MIN);
        if let Some(alarm) = self.0.get_mut(&kind) {
            let says_more = now >= alarm.repeats_at;
            (alarm.last, alarm.clears_at, alarm.source) = (now, clears_at, source);
            alarm.count += 1;
            if says_more {
                alarm.text = text();
                alarm.repeats_at = now + REPEAT_AFTER;
                return Some((AlarmChange::Continues, alarm.clone()));
            }
            return None;
        }
        let repeats_at = now + REPEAT_AFTER;
        let alarm =
            Alarm { kind, source, text: text(), since: now, last: now, count: 1, clears_at, repeats_at };
        self.0.insert(kind, alarm.clone());
        Some((AlarmChange::Raised, alarm))
    }

    /// Takes out those whose cause is gone.
    pub fn expired(&mut self, now: Instant) -> Vec<Alarm> {
        self.0.extract_if(.., |_, alarm| alarm.clears_at <= now).map(|(_, alarm)| alarm).collect()
    }

    /// Takes one out.
    pub fn clear(&mut self, kind: AlarmKind) -> Option<Alarm> {
        self.0.remove(&kind)
    }

    /// When the next one is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.values().map(|alarm| alarm.clears_at).min()
    }

    /// All that go on.
    pub fn list(&self) -> Vec<Alarm> {
        self.0.values().cloned().collect()
    }
}
