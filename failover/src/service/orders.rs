//! What operators want.

use model::state::Role;
use model::time::Instant;

use super::{Action, Leaving, Order, Service, State};
use crate::promote::chain::ChainAction;

impl Service {
    /// An operator's word.
    pub(super) fn ordered(
        &mut self,
        key: u64,
        order: Order,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) {
        let answer = match order {
            Order::Freeze => {
                self.frozen = true;
                Ok("nothing moves by itself until 'unfreeze'".to_owned())
            }
            Order::Unfreeze => {
                self.frozen = false;
                Ok("moves by itself again".to_owned())
            }
            Order::Clear => {
                (self.released, self.away_until, self.last_reason) = (false, None, None);
                if self.state == State::Stuck {
                    self.enter(State::Leaving(Leaving::Released), "told to try again", now, out);
                    self.chain.go_down(now, steps);
                }
                Ok("may be here again".to_owned())
            }
            Order::Stop if self.is_frozen_home() => Ok("its I/O is frozen: everything stays as it is".into()),
            Order::Switch | Order::Release if self.is_frozen_home() => {
                Err("its I/O is frozen, nothing that uses it can be ended in peace".into())
            }
            Order::Switch => match (&self.state, self.peer_is_able()) {
                (State::Home, Ok(())) => {
                    self.switching = Some(key);
                    self.leave(Leaving::ForPeer, "told to switch", now, steps, out);
                    return;
                }
                (State::Home, Err(why)) => Err(why),
                _ => Err(format!("it is not at home here: run it on {}", self.cfg.peer)),
            },
            Order::Release | Order::Stop => {
                // Said at once and not when it has ended: a 'clear' in between counts.
                self.released = true;
                match self.state {
                    State::Home | State::Starting => {
                        let slot =
                            if order == Order::Stop { &mut self.stopping } else { &mut self.releasing };
                        *slot = Some(key);
                        let how =
                            if self.peer_is_able().is_ok() { Leaving::ForPeer } else { Leaving::Released };
                        self.leave(how, "told to end it here", now, steps, out);
                        return;
                    }
                    State::Leaving(_) => {
                        let slot =
                            if order == Order::Stop { &mut self.stopping } else { &mut self.releasing };
                        *slot = Some(key);
                        return;
                    }
                    State::Away | State::Taking(_) | State::Stuck => {
                        if matches!(self.state, State::Taking(_)) {
                            self.give_up_taking("told to stay away", now, out);
                        }
                        Ok("it is not here".to_owned())
                    }
                }
            }
        };
        self.released |= order == Order::Stop;
        out.push(Action::Answer(key, answer));
    }

    /// Here, and nothing can be ended: all writes wait.
    pub(super) fn is_frozen_home(&self) -> bool {
        matches!(self.state, State::Home | State::Starting)
            && self.storage.is_some_and(|s| s.role == Role::Primary && s.frozen)
    }

    pub(super) fn leave(
        &mut self,
        how: Leaving,
        why: &str,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) {
        self.enter(State::Leaving(how), why, now, out);
        match how {
            Leaving::Lost | Leaving::TakenAway | Leaving::Sweeping => self.chain.lose(now, steps),
            Leaving::ForPeer | Leaving::Released | Leaving::Failed => self.chain.go_down(now, steps),
        }
    }

    pub(super) fn answer_orders(&mut self, answer: Result<String, String>, out: &mut Vec<Action>) {
        for key in [self.switching.take(), self.releasing.take(), self.stopping.take()].into_iter().flatten()
        {
            out.push(Action::Answer(key, answer.clone()));
        }
    }
}
