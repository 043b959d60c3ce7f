//! The steps of a service, one after the other, with time limits, repetitions and the way back (failover 8.1).
//!
//! Up: a step begins when the one before has succeeded. One that fails for good is stopped like those before it, in reverse, since
//! it may have come half way. Down in peace: in reverse, each only when the one before is stopped; if one does not stop, the chain
//! goes up again, and the service stays where it is. Down by loss: the addresses at once, then the resource by force, so that
//! whatever hangs in its I/O fails and can be ended; then the rest, by force, each whether or not the last one ended.
//!
//! While everything runs, steps are looked at. One that has failed is started again with all above it: those are stopped, in
//! reverse, then it; then up as ever.

use std::collections::VecDeque;

use model::time::{Duration, Instant};

use super::watch::{Ailment, Watch};

/// What is asked of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Verb {
    /// Begin; what runs already is left as it is.
    Start,
    /// End; what does not run is no failure.
    Stop,
    /// End, whatever it takes.
    Kill,
    /// Does it run?
    Look,
}

/// What the chain has to know of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepPlan {
    /// For messages: `promote r0`, `mount /data`.
    pub name: String,
    /// For each attempt; zero: none.
    pub timeout: Duration,
    /// Attempts of a start beyond the first; and how often it is started again when it does not run any more.
    pub retries: u32,
    /// Between two looks while everything runs; zero: nobody looks.
    pub look_every: Duration,
    /// Its place on the way down by loss: first, then second, then the rest in reverse.
    pub loss_rank: LossRank,
}

/// When a step is ended by loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LossRank {
    /// The addresses: nobody is to reach a home that is none any more.
    First,
    /// The resource: what hangs in it fails.
    Second,
    /// What uses it.
    Later,
}

/// One attempt; the answer carries its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Number of the attempt, over all times.
    pub key: u64,
    /// Place of the step in the chain.
    pub step: usize,
    /// What to do.
    pub verb: Verb,
}

/// What the chain wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChainAction {
    /// Make this attempt.
    Run(Attempt),
    /// Give up this one: its time is over. Its answer is not waited for.
    Abort(Attempt),
}

/// Where the chain is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nobody has looked: an earlier daemon may have left anything. Up finds out what runs, loss ends it.
    Unknown,
    /// Nothing runs.
    Down,
    /// On the way up.
    GoingUp,
    /// Everything runs.
    Up,
    /// On the way down, in peace; on failure it goes up again.
    GoingDown,
    /// A step does not run any more: down to it, in peace, then up again.
    Restarting,
    /// On the way down because a step has failed.
    Undoing,
    /// On the way down by loss.
    Losing,
    /// A step could not be undone; nothing more is tried until somebody says so.
    Stuck,
}

/// How long a step took.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepTime {
    /// Name of the step.
    pub name: String,
    /// What was done.
    pub verb: Verb,
    /// From its first attempt to its end.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// The machine.
#[derive(Debug)]
pub struct Chain {
    steps: Vec<StepPlan>,
    phase: Phase,
    /// Steps that run, or may.
    started: Vec<bool>,
    todo: VecDeque<(usize, Verb)>,
    current: Option<Current>,
    keys: u64,
    /// Why the last way up or down ended as it did.
    failure: Option<String>,
    times: Vec<StepTime>,
    watch: Watch,
}

#[derive(Debug)]
struct Current {
    step: usize,
    verb: Verb,
    begun: Instant,
    attempts: u32,
    state: AttemptState,
}

#[derive(Debug)]
enum AttemptState {
    Running { key: u64, until: Option<Instant> },
    Pausing { until: Instant },
}

/// Between two attempts of a step.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Attempts to stop a step in peace.
const STOP_ATTEMPTS: u32 = 3;
/// Attempts to undo a step that has failed, or to kill one.
const UNDO_ATTEMPTS: u32 = 10;
/// For a step that is killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Chain {
    /// A chain that an earlier daemon may have left in any state.
    pub fn new(steps: Vec<StepPlan>) -> Chain {
        let started = vec![true; steps.len()];
        Chain {
            watch: Watch::new(&steps),
            steps,
            phase: Phase::Unknown,
            started,
            todo: VecDeque::new(),
            current: None,
            keys: 0,
            failure: None,
            times: Vec::new(),
        }
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The step is ended, or never was begun.
    pub fn has_ended(&self, step: usize) -> bool {
        !self.started[step] && self.current.as_ref().is_none_or(|c| c.step != step)
    }

    /// The step that is worked on, and what is done to it.
    pub fn working_on(&self) -> Option<(&str, Verb)> {
        self.current.as_ref().map(|c| (self.steps[c.step].name.as_str(), c.verb))
    }

    /// Why the last way up or down ended as it did; none if well.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// How long each step of the last way took.
    pub fn times(&self) -> &[StepTime] {
        &self.times
    }

    /// Goes up.
    ///
    /// # Panics
    /// Unless everything is down, or nobody knows.
    pub fn go_up(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        assert!(matches!(self.phase, Phase::Down | Phase::Unknown), "a chain goes up from the bottom");
        // Those that run already are started for the sake of those that do not.
        self.started.fill(false);
        self.times.clear();
        self.failure = None;
        self.begin_up(now, out);
    }

    /// Goes down in peace. A way up is given up: what it is doing is waited for, then undone.
    pub fn go_down(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        match self.phase {
            Phase::Down | Phase::GoingDown | Phase::Undoing | Phase::Losing => return,
            Phase::GoingUp | Phase::Up | Phase::Restarting | Phase::Stuck | Phase::Unknown => {}
        }
        self.watch.end(out);
        self.times.clear();
        self.failure = None;
        self.phase = if self.phase == Phase::Up { Phase::GoingDown } else { Phase::Undoing };
        self.plan_down(Verb::Stop);
        self.advance(now, out);
    }

    /// Goes down by loss, whatever is under way.
    pub fn lose(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        if matches!(self.phase, Phase::Down | Phase::Losing) {
            return;
        }
        self.watch.end(out);
        self.times.clear();
        self.failure = None;
        self.phase = Phase::Losing;
        if let Some(current) = self.current.take() {
            self.started[current.step] = true;
            if let AttemptState::Running { key, .. } = current.state {
                out.push(ChainAction::Abort(Attempt { key, step: current.step, verb: current.verb }));
            }
        }
        self.plan_down(Verb::Kill);
        self.advance(now, out);
    }

    /// Whether the steps are looked at; only those of a chain that is up are.
    pub fn watch(&mut self, wanted: bool, now: Instant, out: &mut Vec<ChainAction>) {
        if wanted && self.phase == Phase::Up { self.watch.begin(now) } else { self.watch.end(out) }
    }

    /// The lowest step that was found not to run; none: nothing is known to be wrong.
    pub fn ailment(&self) -> Option<&Ailment> {
        self.watch.ailment()
    }

    /// Starts the step that does not run again, with all above it.
    ///
    /// # Panics
    /// Unless there is such a step.
    pub fn restart(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        let ailing = self.watch.ailment().expect("something is wrong").step;
        assert!(self.phase == Phase::Up, "only what runs is looked at");
        self.watch.count_restart(ailing, now);
        self.watch.end(out);
        self.times.clear();
        self.failure = None;
        self.phase = Phase::Restarting;
        self.todo = (ailing..self.steps.len()).rev().map(|i| (i, Verb::Stop)).collect();
        self.advance(now, out);
    }

    /// Goes down because of the step that does not run, as if its start had failed.
    ///
    /// # Panics
    /// Unless there is such a step.
    pub fn give_up(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        let text = self.watch.ailment().expect("something is wrong").text.clone();
        assert!(self.phase == Phase::Up, "only what runs is looked at");
        self.watch.end(out);
        self.times.clear();
        self.failure = Some(text);
        self.phase = Phase::Undoing;
        self.plan_down(Verb::Stop);
        self.advance(now, out);
    }

    /// An attempt has ended. Answers to attempts that were given up are ignored.
    pub fn done(&mut self, now: Instant, key: u64, result: Result<(), String>, out: &mut Vec<ChainAction>) {
        if self.watch.done(now, key, &result) {
            return;
        }
        let is_current =
            |c: &&Current| matches!(c.state, AttemptState::Running { key: running, .. } if running == key);
        if self.current.as_ref().filter(is_current).is_some() {
            self.attempt_ended(now, result, out);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        self.watch.tick(now, &mut self.keys, out);
        let Some(current) = &self.current else { return };
        match current.state {
            AttemptState::Running { key, until: Some(until) } if now >= until => {
                out.push(ChainAction::Abort(Attempt { key, step: current.step, verb: current.verb }));
                let took = now.saturating_since(current.begun).as_secs();
                self.attempt_ended(now, Err(format!("no end after {took} s")), out);
            }
            AttemptState::Pausing { until } if now >= until => self.attempt(now, out),
            _ => {}
        }
    }

    /// When to call [`tick`](Self::tick).
    pub fn deadline(&self) -> Option<Instant> {
        let of_step = self.current.as_ref().and_then(|c| match c.state {
            AttemptState::Running { until, .. } => until,
            AttemptState::Pausing { until } => Some(until),
        });
        [of_step, self.watch.deadline()].into_iter().flatten().min()
    }

    fn begin_up(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        self.phase = Phase::GoingUp;
        self.todo = (0..self.steps.len()).filter(|i| !self.started[*i]).map(|i| (i, Verb::Start)).collect();
        self.advance(now, out);
    }

    /// What has to be ended, in order; what is being done now is ended before.
    fn plan_down(&mut self, verb: Verb) {
        let loss_place = |i: &usize| match (verb, self.steps[*i].loss_rank) {
            (Verb::Kill, LossRank::First) => 0,
            (Verb::Kill, LossRank::Second) => 1,
            _ => 2,
        };
        let running = self.current.as_ref().map(|c| c.step);
        let mut order: Vec<usize> =
            (0..self.steps.len()).rev().filter(|i| self.started[*i] || Some(*i) == running).collect();
        order.sort_by_key(loss_place);
        self.todo = order.into_iter().map(|i| (i, verb)).collect();
    }

    /// Begins with the next step, or ends the way.
    fn advance(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        if self.current.is_some() {
            return;
        }
        let Some((step, verb)) = self.todo.pop_front() else {
            let is_down = !self.started.contains(&true);
            if self.phase == Phase::Restarting {
                return self.begin_up(now, out);
            }
            self.phase = match self.phase {
                Phase::GoingUp => Phase::Up,
                _ if is_down => Phase::Down,
                _ => Phase::Stuck,
            };
            return;
        };
        let state = AttemptState::Pausing { until: now };
        self.current = Some(Current { step, verb, begun: now, attempts: 0, state });
        self.attempt(now, out);
    }

    fn attempt(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        self.keys += 1;
        let key = self.keys;
        let current = self.current.as_mut().expect("there is a step to attempt");
        let timeout = match current.verb {
            Verb::Kill => KILL_TIMEOUT,
            Verb::Start | Verb::Stop | Verb::Look => self.steps[current.step].timeout,
        };
        current.attempts += 1;
        current.state = AttemptState::Running { key, until: (!timeout.is_zero()).then(|| now + timeout) };
        out.push(ChainAction::Run(Attempt { key, step: current.step, verb: current.verb }));
    }

    fn attempt_ended(&mut self, now: Instant, result: Result<(), String>, out: &mut Vec<ChainAction>) {
        let current = self.current.take().expect("an attempt has ended");
        let (step, verb) = (current.step, current.verb);
        let given_up = verb == Verb::Start && self.phase != Phase::GoingUp;
        if result.is_err() && !given_up && current.attempts < self.attempts_max(step, verb) {
            let state = AttemptState::Pausing { until: now + RETRY_PAUSE };
            self.current = Some(Current { state, ..current });
            return;
        }
        let took = now.saturating_since(current.begun);
        let name = self.steps[step].name.clone();
        let failure = result.err();
        self.times.push(StepTime { name: name.clone(), verb, took, failure: failure.clone() });
        // A start that has failed may have come half way.
        self.started[step] = verb == Verb::Start || failure.is_some();
        let Some(reason) = failure else { return self.advance(now, out) };
        let text = format!("{name}: {reason}");
        match (&self.phase, verb) {
            (Phase::GoingUp, _) => {
                self.failure = Some(text);
                self.phase = Phase::Undoing;
                self.plan_down(Verb::Stop);
            }
            (Phase::GoingDown, _) => {
                self.failure = Some(text);
                // It may end yet, whoever has given it up.
                self.started[step] = false;
                return self.begin_up_again(now, out);
            }
            (Phase::Restarting, _) => {
                self.failure = Some(text);
                self.phase = Phase::Undoing;
                self.plan_down(Verb::Kill);
            }
            (Phase::Undoing, Verb::Stop) => {
                // Nothing below it can be ended in peace.
                self.failure.get_or_insert(text);
                self.plan_down(Verb::Kill);
            }
            _ => {
                self.failure.get_or_insert(text);
            }
        }
        self.advance(now, out);
    }

    /// A step would not stop: it and those above it are started again, and the service stays.
    fn begin_up_again(&mut self, now: Instant, out: &mut Vec<ChainAction>) {
        self.todo.clear();
        self.begin_up(now, out);
    }

    fn attempts_max(&self, step: usize, verb: Verb) -> u32 {
        match (verb, &self.phase) {
            (Verb::Start, _) => 1 + self.steps[step].retries,
            (Verb::Stop, Phase::GoingDown | Phase::Restarting) => STOP_ATTEMPTS,
            _ => UNDO_ATTEMPTS,
        }
    }
}

#[cfg(test)]
mod tests;
