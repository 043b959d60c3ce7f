//! What runs here is looked at while the service is at home: a step that has failed is started again, or the service gives way.

use model::state::Role;
use model::time::Instant;

use super::{Action, Leaving, Service, State};
use crate::promote::Ailment;
use crate::promote::chain::ChainAction;

impl Service {
    /// Steps are looked at where the service is at home and its data is within reach: what waits for frozen data proves nothing.
    pub(super) fn watch_steps(&mut self, now: Instant, steps: &mut Vec<ChainAction>) {
        let is_primary = self.storage.is_some_and(|s| s.role == Role::Primary && !s.frozen);
        self.chain.watch(self.state == State::Home && is_primary, now, steps);
    }

    /// At home: a step does not run any more.
    pub(super) fn heal(&mut self, now: Instant, steps: &mut Vec<ChainAction>, out: &mut Vec<Action>) -> bool {
        let Some(Ailment { text, restarts, restarts_max, .. }) = self.chain.ailment().cloned() else {
            return false;
        };
        let is_new = self.last_reason.as_ref() != Some(&text);
        self.last_reason = Some(text.clone());
        let is_served = self.storage.is_some_and(|s| s.role == Role::Primary && !s.frozen);
        if self.frozen || !is_served {
            // Somebody works on it, or nothing that uses the data can be stopped.
            if self.frozen && is_new {
                let left = format!("{text}; left as it is until 'unfreeze'");
                out.push(Action::Warn(format!("service {}: {left}", self.cfg.name)));
                let why = std::mem::replace(&mut self.why, left);
                self.record_entry("found a step that had failed", now);
                self.why = why;
            }
            self.chain.watch(false, now, steps);
            return false;
        }
        let why = match self.peer_is_able() {
            Ok(()) if restarts >= restarts_max => {
                let why = format!("{text}; {} may have it", self.cfg.peer);
                self.enter(State::Leaving(Leaving::Failed), &why, now, out);
                self.record_entry("found a step that had failed", now);
                self.chain.give_up(now, steps);
                why
            }
            able => {
                let count = match able {
                    Ok(()) => format!("started again ({} of {restarts_max})", restarts + 1),
                    Err(why) => format!("started again here, as {why}"),
                };
                let why = format!("{text}; {count}");
                self.restarting = true;
                self.enter(State::Starting, &why, now, out);
                self.record_entry("found a step that had failed", now);
                self.chain.restart(now, steps);
                why
            }
        };
        out.push(Action::Warn(format!("service {}: {why}", self.cfg.name)));
        true
    }
}

#[cfg(test)]
mod tests;
