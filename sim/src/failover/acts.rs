//! What a service wants, done as a daemon does it; and what the cores have done, told to the services.

use super::*;

impl Cluster {
    pub(super) fn act(&mut self, n: usize, action: Action) {
        let (now, life) = (self.w.now, self.sides[n].life);
        match action {
            Action::Ask(ask) => {
                let id = ask.id;
                self.sides[n].asked = Some(id);
                let timeout = now + ask.timeout;
                if !self.sides[n].cut_from_store {
                    let at = now + Duration::from_micros(1 + self.rng.below(self.slowest_answer_ms * 1000));
                    self.put(n, life, at, What::AtStore(ask));
                }
                let lost = failover::lease::machine::StoreAnswer::Unknown("no answer".into());
                self.put(n, life, timeout, What::FromStore(id, lost));
            }
            Action::Run(attempt) => self.run_step(n, attempt),
            Action::Abort(attempt) => self.sides[n].commands.retain(|(_, a)| *a != attempt),
            Action::Grant(number, grant) => {
                let authority = match grant {
                    _ if self.bug == Some(Bug::GrantNeverBounded) => None,
                    Grant::Unbounded => None,
                    Grant::Until(until, by_peer) => Some(Authority { until, by_peer }),
                };
                let at = self.grant_time(n);
                self.put(n, life, at, What::Grant(number, authority));
                if self.bug == Some(Bug::UnfencedTooEarly) && grant == Grant::Unbounded {
                    self.store.let_both_count();
                }
                if self.bug == Some(Bug::GrantNotWaitedFor) {
                    self.tell(n, Event::GrantTaken(number));
                }
            }
            Action::RenewAddresses => self.renew_addresses(n),
            Action::Connect(discard_my_data) => {
                let net = NetConfig { discard_my_data, ..self.net.clone() };
                self.w.connect(n, &net);
            }
            Action::HandlerDone(key, code) => {
                let run = HandlerRun(u32::try_from(key).expect("keys are runs"));
                self.w.handler_answers(n, run, code);
            }
            Action::Answer(..) => {}
            Action::Warn(text) | Action::Info(text) => self.note(n, &text),
        }
    }

    /// Grants go to the core one after the other, and so do the answers.
    fn grant_time(&mut self, n: usize) -> Instant {
        let us = match self.slow_grants {
            Some(rate) if self.rng.one_in(rate) => 1 + self.rng.below(3_000_000),
            _ => 1 + self.rng.below(500),
        };
        let at = (self.w.now + Duration::from_micros(us)).max(self.sides[n].last_grant);
        self.sides[n].last_grant = at;
        at
    }

    /// A grant gets to the core; its answer takes a while.
    pub(super) fn grant_arrives(&mut self, n: usize, number: u64, authority: Option<Authority>) {
        self.w.command(n, Command::SetAuthority(authority));
        let (at, life) = (self.grant_time(n), self.sides[n].life);
        self.put(n, life, at, What::GrantTaken(number));
    }

    fn run_step(&mut self, n: usize, attempt: Attempt) {
        let step = self.step_of(attempt);
        if step != PROMOTE {
            if step == ADDRESS {
                let start = attempt.verb == Verb::Start;
                let command =
                    if start { RouterCommand::Grant(Some(attempt)) } else { RouterCommand::Revoke(attempt) };
                return self.send_to_routers(n, command);
            }
            let at = self.w.now + Duration::from_micros(1 + self.rng.below(30_000));
            let life = self.sides[n].life;
            self.put(n, life, at, What::StepEnds(attempt));
            return;
        }
        if attempt.verb == Verb::Kill && self.kill_fails() {
            let at = self.w.now + Duration::from_millis(1);
            let life = self.sides[n].life;
            self.put(n, life, at, What::StepFails(attempt));
            return;
        }
        let command = match attempt.verb {
            Verb::Start => Command::Primary { force: false },
            Verb::Stop | Verb::Kill if self.bug == Some(Bug::NoDemotion) => {
                self.tell(n, Event::StepDone(attempt.key, Ok(())));
                return;
            }
            Verb::Stop => Command::Secondary { open: 0, force: false },
            Verb::Kill => Command::Secondary { open: 0, force: true },
            Verb::Look => unreachable!("nobody looks at the resource: the core tells of it"),
        };
        let id = self.w.command(n, command);
        self.sides[n].commands.push((id, attempt));
    }

    fn step_of(&self, attempt: Attempt) -> usize {
        match self.bug {
            Some(Bug::AddressFirst) => [ADDRESS, PROMOTE, 1][attempt.step],
            _ => attempt.step,
        }
    }

    fn kill_fails(&mut self) -> bool {
        self.failing_kills.is_some_and(|n| self.rng.one_in(n))
    }

    pub(super) fn step_ends(&mut self, n: usize, attempt: Attempt) {
        let fails = match attempt.verb {
            Verb::Kill => self.kill_fails(),
            Verb::Look if !self.sides[n].runs => true,
            Verb::Start | Verb::Stop | Verb::Look => self.failing_steps.is_some_and(|n| self.rng.one_in(n)),
        };
        if !fails && attempt.verb != Verb::Look {
            self.sides[n].runs = attempt.verb == Verb::Start;
        }
        let result = if fails { Err("fails by chance".to_owned()) } else { Ok(()) };
        self.tell(n, Event::StepDone(attempt.key, result));
    }

    /// What the cores have done since is told to the machines.
    pub(super) fn look(&mut self) {
        for n in 0..2 {
            if self.sides[n].stalls_until > self.w.now {
                continue;
            }
            self.look_at(n);
        }
    }

    fn look_at(&mut self, n: usize) {
        let storage = self.storage(n);
        if storage != self.sides[n].seen {
            self.sides[n].seen = storage;
            self.tell(n, Event::Storage(storage));
        }
        for (handler, run) in std::mem::take(&mut self.w.hooks.handlers[n].asked) {
            let key = u64::from(run.0);
            match handler {
                Handler::FencePeer if self.bug == Some(Bug::FencedUnasked) => {
                    self.w.handler_answers(n, run, 4)
                }
                Handler::FencePeer => self.tell(n, Event::FencePeer(key)),
                _ => self.tell(n, Event::UnfencePeer(key)),
            }
        }
        if let Some((id, _)) = self.sides[n].by_hand {
            let done = self.w.take_answer(|a| matches!(a, Answer::Command(i, _) if *i == id));
            self.sides[n].by_hand = match (done, self.sides[n].by_hand) {
                (Some(_), _) => Some((CommandId(0), self.w.now)),
                (None, Some((id, at))) if id == CommandId(0) => Some((id, at)),
                (None, Some((id, _))) => Some((id, self.w.now)),
                (None, None) => None,
            };
        }
        let mine: Vec<(CommandId, Attempt)> = self.sides[n].commands.clone();
        for (id, attempt) in mine {
            let is_it = |a: &Answer| matches!(a, Answer::Command(i, _) if *i == id);
            let Some(Answer::Command(_, result)) = self.w.take_answer(is_it) else { continue };
            self.sides[n].commands.retain(|(i, _)| *i != id);
            let result = match result {
                CommandResult::Ok => Ok(()),
                other => Err(format!("{other:?}")),
            };
            // The snapshot that the command has led to is there before its answer.
            self.look_at(n);
            self.tell(n, Event::StepDone(attempt.key, result));
        }
    }

    pub(super) fn storage(&self, n: usize) -> Option<Storage> {
        let core = self.w.nodes[n].core.as_ref()?;
        let s = core.volume_state(VolIdx(0));
        Some(Storage {
            role: s.role,
            disk: s.disk,
            conn: s.conn,
            peer_role: s.peer,
            peer_disk: s.pdsk,
            frozen: s.role == Role::Primary && !core.serves(self.w.clock(n)),
            peer_word_at: core.peer_word_at(),
            linked: s.conn >= ConnState::WFReportParams,
            connections: core.connections(),
            parted: (s.conn == ConnState::StandAlone)
                .then(|| Parted::of(&core.snapshot(self.w.now)))
                .flatten(),
        })
    }
}
