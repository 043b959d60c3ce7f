//! Looks at the steps that run: each at its own pace, side by side.

use model::time::{Duration, Instant};

use super::chain::{Attempt, ChainAction, StepPlan, Verb};

/// A step that has to be started again that often within this time is no better for it.
const RESTARTS_COUNT_FOR: Duration = Duration::from_secs(600);

/// A step that does not run though it was started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ailment {
    /// Its place in the chain.
    pub step: usize,
    /// Its name and what was found.
    pub text: String,
    /// How often it was started again lately.
    pub restarts: u32,
    /// How often it is to be, before the service gives way.
    pub restarts_max: u32,
}

/// The looks of one chain.
#[derive(Debug)]
pub(super) struct Watch {
    steps: Vec<Watched>,
    is_on: bool,
    ailment: Option<Ailment>,
}

#[derive(Debug)]
struct Watched {
    plan: StepPlan,
    state: Look,
    restarts: u32,
    restarted_at: Instant,
}

#[derive(Debug)]
enum Look {
    Never,
    Due(Instant),
    Running { key: u64, until: Option<Instant> },
}

impl Watch {
    pub(super) fn new(plans: &[StepPlan]) -> Watch {
        let watched = |plan: &StepPlan| Watched {
            plan: plan.clone(),
            state: Look::Never,
            restarts: 0,
            restarted_at: Instant::default(),
        };
        Watch { steps: plans.iter().map(watched).collect(), is_on: false, ailment: None }
    }

    /// The first looks come when their time has passed.
    pub(super) fn begin(&mut self, now: Instant) {
        if std::mem::replace(&mut self.is_on, true) {
            return;
        }
        for s in self.steps.iter_mut().filter(|s| !s.plan.look_every.is_zero()) {
            s.state = Look::Due(now + s.plan.look_every);
        }
    }

    /// What is under way is given up, and what was found forgotten.
    pub(super) fn end(&mut self, out: &mut Vec<ChainAction>) {
        self.is_on = false;
        self.ailment = None;
        for (step, s) in self.steps.iter_mut().enumerate() {
            if let Look::Running { key, .. } = std::mem::replace(&mut s.state, Look::Never) {
                out.push(ChainAction::Abort(Attempt { key, step, verb: Verb::Look }));
            }
        }
    }

    pub(super) fn ailment(&self) -> Option<&Ailment> {
        self.ailment.as_ref()
    }

    /// It is started again, and that is counted.
    pub(super) fn count_restart(&mut self, step: usize, now: Instant) {
        let s = &mut self.steps[step];
        (s.restarts, s.restarted_at) = (s.restarts.saturating_add(1), now);
    }

    /// Time has passed; new attempts take their keys from `keys`.
    pub(super) fn tick(&mut self, now: Instant, keys: &mut u64, out: &mut Vec<ChainAction>) {
        for step in 0..self.steps.len() {
            let s = &mut self.steps[step];
            match s.state {
                Look::Due(at) if now >= at => {
                    *keys += 1;
                    let timeout = s.plan.timeout;
                    let until = (!timeout.is_zero()).then(|| now + timeout);
                    s.state = Look::Running { key: *keys, until };
                    out.push(ChainAction::Run(Attempt { key: *keys, step, verb: Verb::Look }));
                }
                Look::Running { key, until: Some(until) } if now >= until => {
                    out.push(ChainAction::Abort(Attempt { key, step, verb: Verb::Look }));
                    let why = format!("no answer within {} s", s.plan.timeout.as_secs_f64());
                    self.ended(step, now, Err(why));
                }
                _ => {}
            }
        }
    }

    /// Whether the answer is one to a look.
    pub(super) fn done(&mut self, now: Instant, key: u64, result: &Result<(), String>) -> bool {
        let is_it = |s: &Watched| matches!(s.state, Look::Running { key: running, .. } if running == key);
        let Some(step) = self.steps.iter().position(is_it) else { return false };
        self.ended(step, now, result.clone());
        true
    }

    fn ended(&mut self, step: usize, now: Instant, result: Result<(), String>) {
        assert!(self.is_on, "nobody looks at what need not run");
        let s = &mut self.steps[step];
        s.state = Look::Due(now + s.plan.look_every);
        if now.saturating_since(s.restarted_at) >= RESTARTS_COUNT_FOR {
            s.restarts = 0;
        }
        let Err(why) = result else { return };
        // Of several the lowest: what stands on it is started again with it.
        if self.ailment.as_ref().is_none_or(|known| step < known.step) {
            let text = format!("{}: {why}", s.plan.name);
            let (restarts, restarts_max) = (s.restarts, s.plan.retries);
            self.ailment = Some(Ailment { step, text, restarts, restarts_max });
        }
    }

    /// When to call [`tick`](Self::tick).
    pub(super) fn deadline(&self) -> Option<Instant> {
        let of = |s: &Watched| match s.state {
            Look::Never => None,
            Look::Due(at) => Some(at),
            Look::Running { until, .. } => until,
        };
        self.steps.iter().filter_map(of).min()
    }
}
