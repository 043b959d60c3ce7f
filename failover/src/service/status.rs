//! What people see of a service.

use model::time::{Duration, Instant};

use super::{Leaving, Service, State};
use crate::lease::machine::{Held, Obstacle};
use crate::promote::chain::{StepTime, Verb};

/// One line of its history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When.
    pub at: Instant,
    /// What happened.
    pub what: &'static str,
    /// Why.
    pub why: String,
    /// What each step took.
    pub steps: Vec<StepTime>,
}

/// A service as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// One word: `Home`, `Away` …
    pub state: &'static str,
    /// Since when.
    pub since: Instant,
    /// Why it is so.
    pub why: String,
    /// The step that is worked on.
    pub working_on: Option<(String, Verb)>,
    /// Why it last failed here.
    pub last_failure: Option<String>,
    /// What keeps it from being here.
    pub obstacle: Option<String>,
    /// The lease, in words; none: it is not used.
    pub lease: Option<String>,
    /// Nothing moves by itself.
    pub frozen: bool,
    /// It was ended here by an operator.
    pub released: bool,
}

/// Entries that are kept.
const ENTRIES_MAX: usize = 100;

pub(super) fn word(state: &State) -> &'static str {
    match state {
        State::Away => "Away",
        State::Taking(_) => "Taking",
        State::Starting => "Starting",
        State::Home => "Home",
        State::Leaving(Leaving::Lost | Leaving::TakenAway) => "Losing",
        State::Leaving(Leaving::Sweeping) => "Sweeping",
        State::Leaving(_) => "Leaving",
        State::Stuck => "Stuck",
    }
}

impl Service {
    /// As of `now`.
    pub fn status(&self, now: Instant) -> ServiceStatus {
        let obstacle = match self.state {
            State::Away => self.may_take(now).err(),
            _ => None,
        };
        ServiceStatus {
            name: self.cfg.name.clone(),
            state: word(&self.state),
            since: self.since,
            why: self.why.clone(),
            working_on: self.chain.working_on().map(|(name, verb)| (name.to_owned(), verb)),
            last_failure: self.last_reason.clone(),
            obstacle,
            lease: self.lease_words(now),
            frozen: self.frozen,
            released: self.released,
        }
    }

    /// What happened, oldest first.
    pub fn history(&self) -> &[Entry] {
        &self.history
    }

    pub(super) fn record_entry(&mut self, what: &'static str, now: Instant) {
        if self.history.len() == ENTRIES_MAX {
            self.history.remove(0);
        }
        let steps = self.chain.times().to_vec();
        self.history.push(Entry { at: now, what, why: self.why.clone(), steps });
    }

    fn lease_words(&self, now: Instant) -> Option<String> {
        let lease = self.lease.as_ref()?;
        let mut words = match lease.held(now) {
            Held::Alone => format!("held, and {} cannot take it", self.cfg.peer),
            Held::Until(until) => {
                format!("held for {} ms more", until.saturating_since(now).as_millis())
            }
            Held::No => match lease.can_take(now) {
                Ok(()) => "free".to_owned(),
                Err(obstacle) => obstacle_words(&obstacle, now),
            },
        };
        if let Some(trouble) = lease.trouble() {
            words.push_str("; the store: ");
            words.push_str(trouble);
        }
        Some(words)
    }
}

pub(super) fn obstacle_words(obstacle: &Obstacle, now: Instant) -> String {
    let left = |at: &Instant| in_words(at.saturating_since(now));
    match obstacle {
        Obstacle::NotSeen => "the lease store has not answered".into(),
        Obstacle::Absent => "there is no lease yet: it is made when both nodes are connected".into(),
        Obstacle::NotCurrent => "the other copy may be newer than this one".into(),
        Obstacle::HeldUntil(node, at) => format!("held by {node}, free in {} if not renewed", left(at)),
        Obstacle::OfferedUntil(node, at) => format!("offered to {node} for {} more", left(at)),
    }
}

fn in_words(d: Duration) -> String {
    format!("{} ms", d.as_millis())
}
