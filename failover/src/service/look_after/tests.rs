use model::failover::config::Proof;
use model::state::{ConnState, DiskState};
use model::time::Duration;

use super::*;
use crate::promote::chain::{Attempt, LossRank, StepPlan, Verb};
use crate::service::{Event, Order, ServiceSettings, Storage, answer_for};

const EVERY: Duration = Duration::from_secs(5);
const DB: usize = 1;

fn at(s: u64) -> Instant {
    Instant(s * 1_000_000_000)
}

/// A service without a lease whose driver carries out every step at once, except what is said to fail.
struct World {
    service: Service,
    storage: Storage,
    now: Instant,
    runs: bool,
    starts: u32,
    hangs: bool,
    done: Vec<(usize, Verb)>,
    warned: Vec<String>,
}

impl World {
    /// At home here, with a step that may be started again twice.
    fn home(peer_disk: DiskState) -> World {
        let step = |name: &str, loss_rank, retries, look_every| StepPlan {
            name: name.into(),
            timeout: Duration::from_secs(2),
            retries,
            look_every,
            loss_rank,
        };
        let cfg = ServiceSettings {
            name: "db".into(),
            me: "a".into(),
            peer: "b".into(),
            proof: Proof::Fencing,
            preferred: None,
            failback: false,
            ttl: Duration::from_millis(600),
            addresses_answer: answer_for(None),
            steps: vec![
                step("promote r0", LossRank::Second, 0, Duration::ZERO),
                step("start db", LossRank::Later, 2, EVERY),
                step("addresses", LossRank::First, 0, Duration::ZERO),
            ],
            incarnation: 1,
            obstacle: None,
        };
        let storage = Storage {
            role: Role::Secondary,
            disk: DiskState::UpToDate,
            conn: ConnState::Connected,
            peer_role: Role::Secondary,
            peer_disk,
            frozen: false,
            peer_word_at: None,
            linked: true,
            connections: 1,
            parted: None,
        };
        let service = Service::new(cfg, at(0));
        let mut world = World {
            service,
            storage,
            now: at(0),
            runs: false,
            starts: 0,
            hangs: false,
            done: Vec::new(),
            warned: Vec::new(),
        };
        world.tell(Event::Storage(Some(storage)));
        world.until(30, |w| w.service.state() == &State::Home);
        world.done.clear();
        world
    }

    fn tell(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = (!events.is_empty()).then(|| events.remove(0)) {
            let mut out = Vec::new();
            self.service.handle(self.now, event, &mut out);
            for action in out {
                match action {
                    Action::Run(attempt) => events.extend(self.carry_out(attempt)),
                    Action::Warn(text) => self.warned.push(text),
                    _ => {}
                }
            }
        }
    }

    fn carry_out(&mut self, attempt: Attempt) -> Vec<Event> {
        if attempt.verb != Verb::Look {
            self.done.push((attempt.step, attempt.verb));
        }
        let mut events = Vec::new();
        if attempt.step == 0 {
            self.storage.role = if attempt.verb == Verb::Start { Role::Primary } else { Role::Secondary };
            self.storage.peer_word_at = Some(self.now);
            events.push(Event::Storage(Some(self.storage)));
        }
        let result = match (attempt.step, attempt.verb) {
            (DB, Verb::Look) if self.hangs => return events,
            (DB, Verb::Look) if !self.runs => Err("it is dead".to_owned()),
            (DB, Verb::Start) => {
                (self.runs, self.starts) = (true, self.starts + 1);
                Ok(())
            }
            (DB, Verb::Stop | Verb::Kill) => {
                self.runs = false;
                Ok(())
            }
            _ => Ok(()),
        };
        events.push(Event::StepDone(attempt.key, result));
        events
    }

    /// Lets time pass until it is so; at most that many seconds.
    fn until(&mut self, seconds: u64, is_so: impl Fn(&World) -> bool) {
        let end = self.now + Duration::from_secs(seconds);
        while !is_so(self) {
            assert!(self.now < end, "{:?}", self.service.status(self.now));
            self.pass(Duration::from_millis(50));
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(50);
            // The peer answers its pings.
            self.storage.peer_word_at = Some(self.now);
            self.tell(Event::Storage(Some(self.storage)));
            self.tell(Event::Tick);
        }
    }

    fn history(&self) -> Vec<&'static str> {
        self.service.history().iter().map(|e| e.what).collect()
    }

    fn last_failure(&self) -> String {
        self.service.status(self.now).last_failure.unwrap_or_default()
    }
}

const RESTART: [(usize, Verb); 4] = [(2, Verb::Stop), (1, Verb::Stop), (1, Verb::Start), (2, Verb::Start)];

#[test]
fn what_runs_is_left_alone() {
    let mut w = World::home(DiskState::UpToDate);
    w.pass(Duration::from_secs(60));
    assert!(w.done.is_empty() && w.warned.is_empty(), "{:?} {:?}", w.done, w.warned);
    assert_eq!(w.history(), ["became its home"]);
}

#[test]
fn a_step_that_died_is_started_again_with_what_stands_on_it() {
    let mut w = World::home(DiskState::UpToDate);
    w.runs = false;
    w.until(EVERY.as_secs() + 1, |w| w.runs);
    w.until(5, |w| w.service.state() == &State::Home);
    assert_eq!(w.done, RESTART);
    assert_eq!(w.history(), ["became its home", "found a step that had failed", "runs again"]);
    assert_eq!(w.last_failure(), "start db: it is dead");
    assert!(w.warned[0].contains("start db: it is dead; started again (1 of 2)"), "{:?}", w.warned);
}

#[test]
fn a_look_without_an_answer_is_a_failure() {
    let mut w = World::home(DiskState::UpToDate);
    w.hangs = true;
    w.until(EVERY.as_secs() + 4, |w| w.starts == 2);
    assert_eq!(w.last_failure(), "start db: no answer within 2 s");
}

#[test]
fn a_step_that_dies_again_and_again_is_left_to_the_peer() {
    let mut w = World::home(DiskState::UpToDate);
    for restarts in 1..=2 {
        w.runs = false;
        w.until(10, |w| w.starts == 1 + restarts);
        w.until(5, |w| w.service.state() == &State::Home);
    }
    w.done.clear();
    w.runs = false;
    w.until(10, |w| w.service.state() == &State::Away);
    assert_eq!(w.done, [(2, Verb::Stop), (1, Verb::Stop), (0, Verb::Stop)]);
    assert_eq!(w.last_failure(), "start db: it is dead");
    let left = w.service.status(w.now).obstacle.unwrap();
    assert!(left.starts_with("left to b for"), "{left}");
}

#[test]
fn restarts_long_ago_do_not_count() {
    let mut w = World::home(DiskState::UpToDate);
    for restarts in 1..=4 {
        w.runs = false;
        w.until(10, |w| w.starts == 1 + restarts);
        w.pass(Duration::from_secs(700));
        assert_eq!(w.service.state(), &State::Home);
    }
}

#[test]
fn nobody_gives_way_to_a_peer_that_cannot_have_it() {
    let mut w = World::home(DiskState::Inconsistent);
    for restarts in 1..=5 {
        w.runs = false;
        w.until(10, |w| w.starts == 1 + restarts);
        w.until(5, |w| w.service.state() == &State::Home);
    }
    assert!(w.warned.last().unwrap().contains("as the disk of b is Inconsistent"), "{:?}", w.warned);
}

#[test]
fn what_an_operator_has_frozen_is_left_as_it_is_and_named_once() {
    let mut w = World::home(DiskState::UpToDate);
    w.tell(Event::Order(1, Order::Freeze));
    w.runs = false;
    w.pass(Duration::from_secs(60));
    assert!(w.done.is_empty());
    assert_eq!(w.warned.len(), 1, "{:?}", w.warned);
    assert_eq!(w.last_failure(), "start db: it is dead");
    w.tell(Event::Order(2, Order::Unfreeze));
    w.until(10, |w| w.runs);
}

#[test]
fn nobody_looks_while_the_data_is_out_of_reach() {
    let mut w = World::home(DiskState::UpToDate);
    w.storage.frozen = true;
    w.runs = false;
    w.pass(Duration::from_secs(60));
    assert!(w.done.is_empty() && w.warned.is_empty());
    w.storage.frozen = false;
    w.until(10, |w| w.runs);
}
