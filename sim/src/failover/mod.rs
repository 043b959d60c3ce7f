//! Two nodes with a service each, a lease store, and clients that write to whichever node serves: failover and the storage core
//! under the same faults.
//!
//! [`Cluster`] runs [`World`] and, between its events, what the failover side of a node does: its machine, the steps of the
//! service, the addresses that the kernel keeps for a while. What must hold is looked at after each event: at most one node
//! serves, at most one has the addresses, and what a client was told is written is there when everything has healed.

mod check;
mod plan;
mod store;

use std::collections::BinaryHeap;

use failover::lease::machine::Ask;
use failover::promote::chain::{Attempt, LossRank, StepPlan, Verb};
use failover::service::{Action, Event, Grant, Order, Parted, Service, ServiceSettings, State, Storage};
use model::config::settings::Handler;
use model::failover::config::Proof;
use model::policy::Fencing;
use model::state::{ConnState, Role};
use model::time::{Duration, Instant};
use replicator::{
    Authority, ClientResult, Command, CommandId, CommandResult, DiskConfig, HandlerRun, NetConfig, VolIdx,
};

use crate::hooks::FencePeer;
use crate::rng::Rng;
use crate::world::{Answer, SimOp, World};
pub use plan::{Outcome, run, run_in};
use store::Store;

const SECTORS: u64 = 2048;
/// Term of the lease.
const TTL: Duration = Duration::from_millis(600);
/// Lifetime of an address in the kernel.
const ADDRESS_LIFETIME: Duration = Duration::from_secs(1);
const STEP_COUNT: usize = 3;
const PROMOTE: usize = 0;
const ADDRESS: usize = 2;

/// Bugs that can be planted, to show that the checks find them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The core is not told when the lease ends.
    GrantNeverBounded,
    /// A killed node's addresses stay.
    AddressWithoutLifetime,
    /// A home that loses it keeps its resource Primary.
    NoDemotion,
    /// The fence-peer handler says that the peer is fenced without asking anybody.
    FencedUnasked,
    /// The peer's copy counts again as soon as its Primary goes on alone.
    UnfencedTooEarly,
    /// Addresses before the promotion.
    AddressFirst,
}

/// All of them.
pub const BUGS: [Bug; 6] = [
    Bug::GrantNeverBounded,
    Bug::AddressWithoutLifetime,
    Bug::NoDemotion,
    Bug::FencedUnasked,
    Bug::UnfencedTooEarly,
    Bug::AddressFirst,
];

/// What reaches a node's failover side, and when.
#[derive(PartialEq, Eq, Debug)]
struct Due {
    at: Instant,
    number: u64,
    node: usize,
    life: u32,
    what: What,
}

#[derive(PartialEq, Eq, Debug)]
enum What {
    AtStore(Ask),
    FromStore(u64, failover::lease::machine::StoreAnswer),
    StepEnds(Attempt),
    Deadline,
    Restart,
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The failover side of a node.
struct Side {
    service: Option<Service>,
    /// Counts its daemon's starts.
    life: u32,
    /// What the host runs, beside the resource and the addresses. A killed daemon leaves it.
    runs: bool,
    /// Until when the kernel keeps the addresses.
    address_until: Option<Instant>,
    seen: Option<Storage>,
    /// Role commands under way, with the attempts that they belong to.
    commands: Vec<(CommandId, Attempt)>,
    deadline: Option<Instant>,
    /// It cannot reach the store.
    cut_from_store: bool,
    stalls_until: Instant,
}

/// The nodes, the store and what is between them.
pub struct Cluster {
    /// The storage cores and their surroundings.
    pub w: World,
    sides: [Side; 2],
    store: Store,
    store_stalls_until: Instant,
    dues: BinaryHeap<Due>,
    numbers: u64,
    rng: Rng,
    bug: Option<Bug>,
    /// How often a step fails: one in so many; none: never.
    failing_steps: Option<u64>,
    slowest_answer_ms: u64,
    net: NetConfig,
    ledger: check::Ledger,
    /// Times that a node became the home.
    pub takeovers: u64,
}

impl Cluster {
    /// A connected pair, in sync, nobody at home yet.
    pub fn new(seed: u64, bug: Option<Bug>) -> Cluster {
        let disk = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
        let mut w = World::new(seed, SECTORS, disk);
        w.one_writer = bug.is_none();
        for h in &mut w.hooks.handlers {
            h.fence_peer = FencePeer::Asks;
        }
        let net = NetConfig { ping_timeout: Duration::from_millis(200), ..crate::scenario::net() };
        w.start(0);
        w.start(1);
        w.connect(0, &net);
        w.connect(1, &net);
        let up = |w: &World| (0..2).all(|n| w.state(n).0 >= ConnState::Connected);
        assert!(w.run_until(Duration::from_secs(30), up), "two nodes find each other");
        w.run_for(Duration::from_millis(100));
        let skip = Command::NewCurrentUuid { vol: VolIdx(0), clear_bitmap: true };
        assert_eq!(w.command_and_wait(0, skip), CommandResult::Ok);
        w.run_for(Duration::from_millis(50));
        assert!(w.in_sync(), "no initial sync");
        let mut rng = Rng::new(seed ^ 0xfa11);
        let now = w.now;
        let sides = [0, 1].map(|n| Side {
            service: Some(service(n, &mut rng, w.clock(n), bug)),
            life: 0,
            runs: false,
            address_until: None,
            seen: None,
            commands: Vec::new(),
            deadline: None,
            cut_from_store: false,
            stalls_until: now,
        });
        let mut c = Cluster {
            w,
            sides,
            store: Store::default(),
            store_stalls_until: now,
            dues: BinaryHeap::new(),
            numbers: 0,
            rng,
            bug,
            failing_steps: None,
            slowest_answer_ms: 20,
            net,
            ledger: check::Ledger::default(),
            takeovers: 0,
        };
        for n in 0..2 {
            c.bound_at_start(n);
            c.tell(n, Event::Tick);
        }
        c
    }

    /// Runs for a length of virtual time.
    pub fn run_for(&mut self, d: Duration) {
        let until = self.w.now + d;
        while self.w.now < until {
            self.step(until);
        }
    }

    /// Runs until the condition holds; false if it does not within the time.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Cluster) -> bool) -> bool {
        let until = self.w.now + limit;
        while !done(self) {
            if self.w.now >= until {
                return false;
            }
            self.step(until);
        }
        true
    }

    /// The next thing, of the cores or of the failover side.
    fn step(&mut self, until: Instant) {
        let next = self.dues.peek().map_or(until, |d| d.at.min(until));
        if self.w.now < next {
            if !self.w.step(next) {
                self.w.now = next;
            }
        } else if let Some(due) = self.dues.pop_if_due(self.w.now) {
            self.happen(due);
        }
        self.look();
        self.check();
    }

    fn happen(&mut self, due: Due) {
        let (n, now) = (due.node, self.w.now);
        if due.life != self.sides[n].life && !matches!(due.what, What::AtStore(_)) {
            return;
        }
        if let What::AtStore(ask) = due.what {
            if self.store_stalls_until > now {
                let at = self.store_stalls_until;
                self.put(n, due.life, at, What::AtStore(ask));
                return;
            }
            let answer = self.store.carry_out(&ask.op);
            if !self.sides[n].cut_from_store {
                let at = now + Duration::from_micros(1 + self.rng.below(self.slowest_answer_ms * 1000));
                self.put(n, due.life, at, What::FromStore(ask.id, answer));
            }
            return;
        }
        if self.sides[n].stalls_until > now {
            let at = self.sides[n].stalls_until;
            self.put(n, due.life, at, due.what);
            return;
        }
        match due.what {
            What::AtStore(_) => unreachable!("looked at above"),
            What::FromStore(id, answer) => self.tell(n, Event::Store(id, answer)),
            What::StepEnds(attempt) => self.step_ends(n, attempt),
            What::Deadline => {
                self.sides[n].deadline = None;
                self.tell(n, Event::Tick);
            }
            What::Restart => self.restart(n),
        }
    }

    fn put(&mut self, node: usize, life: u32, at: Instant, what: What) {
        self.numbers += 1;
        self.dues.push(Due { at: at.max(self.w.now), number: self.numbers, node, life, what });
    }

    /// Gives an event to a node's machine and does what it wants.
    fn tell(&mut self, n: usize, event: Event) {
        let now = self.w.clock(n);
        let mut out = Vec::new();
        let Some(service) = self.sides[n].service.as_mut() else { return };
        let before = service.state().clone();
        service.handle(now, event, &mut out);
        self.takeovers += u64::from(before != State::Home && service.state() == &State::Home);
        for action in out {
            self.act(n, action);
        }
        let Some(service) = self.sides[n].service.as_ref() else { return };
        let at = self.w.now + service.deadline(now).saturating_since(now).max(Duration::from_millis(1));
        if self.sides[n].deadline.is_none_or(|d| at < d) {
            self.sides[n].deadline = Some(at);
            let life = self.sides[n].life;
            self.put(n, life, at, What::Deadline);
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        let (now, life) = (self.w.now, self.sides[n].life);
        match action {
            Action::Ask(ask) => {
                let id = ask.id;
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
                self.w.command(n, Command::SetAuthority(authority));
                if self.bug == Some(Bug::UnfencedTooEarly) && grant == Grant::Unbounded {
                    self.store.let_both_count();
                }
                self.tell(n, Event::GrantTaken(number));
            }
            Action::RenewAddresses => {
                // One that somebody has removed is put back.
                self.sides[n].address_until = Some(self.lifetime());
            }
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

    fn lifetime(&self) -> Instant {
        match self.bug {
            Some(Bug::AddressWithoutLifetime) => Instant(u64::MAX),
            _ => self.w.now + ADDRESS_LIFETIME,
        }
    }

    fn run_step(&mut self, n: usize, attempt: Attempt) {
        let step = self.step_of(attempt);
        if step != PROMOTE {
            if step == ADDRESS {
                // Nothing comes between the decision and the kernel's answer.
                let lifetime = self.lifetime();
                self.sides[n].address_until = (attempt.verb == Verb::Start).then_some(lifetime);
            }
            let at = self.w.now + Duration::from_micros(1 + self.rng.below(30_000));
            let life = self.sides[n].life;
            self.put(n, life, at, What::StepEnds(attempt));
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
            Verb::Look => unreachable!("nobody looks at it"),
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

    fn step_ends(&mut self, n: usize, attempt: Attempt) {
        let fails = self.failing_steps.is_some_and(|n| self.rng.one_in(n)) && attempt.verb != Verb::Kill;
        if !fails && self.step_of(attempt) != ADDRESS {
            self.sides[n].runs = attempt.verb == Verb::Start;
        }
        let result = if fails { Err("fails by chance".to_owned()) } else { Ok(()) };
        self.tell(n, Event::StepDone(attempt.key, result));
    }

    /// What the cores have done since is told to the machines.
    fn look(&mut self) {
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

    fn storage(&self, n: usize) -> Option<Storage> {
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

    /// Before anything else a core of a service's resource may serve nobody.
    fn bound_at_start(&mut self, n: usize) {
        if self.bug != Some(Bug::GrantNeverBounded) {
            let none = Authority { until: Instant(0), by_peer: Duration::ZERO };
            self.w.command(n, Command::SetAuthority(Some(none)));
        }
    }

    /// The daemon of a node dies; its host goes on, or (power) does not.
    pub fn kill(&mut self, n: usize, power: bool) {
        if self.sides[n].service.is_none() {
            return;
        }
        self.w.crash(n, power);
        self.ledger.forget(n);
        let side = &mut self.sides[n];
        side.service = None;
        side.life += 1;
        side.seen = None;
        side.commands.clear();
        side.deadline = None;
        side.stalls_until = self.w.now;
        if power {
            (side.runs, side.address_until) = (false, None);
        }
    }

    /// The daemon starts again after a while.
    pub fn restart_after(&mut self, n: usize, d: Duration) {
        let (at, life) = (self.w.now + d, self.sides[n].life);
        self.put(n, life, at, What::Restart);
    }

    fn restart(&mut self, n: usize) {
        if self.sides[n].service.is_some() {
            return;
        }
        self.w.start(n);
        self.bound_at_start(n);
        let net = self.net.clone();
        self.w.connect(n, &net);
        let now = self.w.clock(n);
        self.sides[n].service = Some(service(n, &mut self.rng, now, self.bug));
        // The first thing that a daemon does: what an earlier one has left must not meet the next home's.
        self.sides[n].address_until = None;
        self.note(n, "the daemon starts");
        self.tell(n, Event::Tick);
    }

    /// The whole node stands still for a while: its daemon, its host, its clock goes on.
    pub fn pause(&mut self, n: usize, d: Duration) {
        self.w.freeze(n, d);
        self.sides[n].stalls_until = self.sides[n].stalls_until.max(self.w.now + d);
    }

    /// A node cannot reach the store, or can again.
    pub fn cut_from_store(&mut self, n: usize, cut: bool) {
        self.sides[n].cut_from_store = cut;
    }

    /// The store answers nobody for a while, then everything that has come.
    pub fn stall_store(&mut self, d: Duration) {
        self.store_stalls_until = self.store_stalls_until.max(self.w.now + d);
    }

    /// The store's data is gone.
    pub fn wipe_store(&mut self) {
        self.store.lose_data();
    }

    /// An operator's order.
    pub fn order(&mut self, n: usize, order: Order) {
        if self.sides[n].stalls_until <= self.w.now {
            self.tell(n, Event::Order(0, order));
        }
    }

    /// The node that is the home.
    pub fn home(&self) -> Option<usize> {
        (0..2).find(|n| self.sides[*n].service.as_ref().is_some_and(|s| s.state() == &State::Home))
    }

    /// The node's clients are served there now.
    pub fn serves(&self, n: usize) -> bool {
        let core = self.w.nodes[n].core.as_ref();
        core.is_some_and(|core| core.serves(self.w.clock(n))) && self.sides[n].stalls_until <= self.w.now
    }

    /// A client writes at the node that it finds at the address.
    pub fn client_writes(&mut self) {
        let now = self.w.now;
        let reached = (0..2).find(|n| self.sides[*n].address_until.is_some_and(|until| now < until));
        let Some(n) =
            reached.filter(|n| self.sides[*n].stalls_until <= now && self.w.nodes[*n].core.is_some())
        else {
            return;
        };
        let sector = self.rng.below(SECTORS / 8) * 8;
        if self.ledger.may_write(sector) {
            let version = self.w.next_version();
            let tag = self.w.request(n, SimOp::Write { sector, count: 8, fua: true });
            self.ledger.asked(n, tag, sector, version);
        }
    }

    fn note(&mut self, n: usize, text: &str) {
        let at = self.w.now.0 as f64 / 1e9;
        if let Some(trace) = &mut self.w.trace {
            trace.push(format!("{at:12.6} node{} {text}", n + 1));
        }
    }
}

fn service(n: usize, rng: &mut Rng, now: Instant, bug: Option<Bug>) -> Service {
    let ranks = match bug {
        Some(Bug::AddressFirst) => [LossRank::Later, LossRank::Second, LossRank::Later],
        _ => [LossRank::Second, LossRank::Later, LossRank::First],
    };
    let names = ["promote r0", "start db", "addresses"];
    let steps: Vec<StepPlan> = (0..STEP_COUNT)
        .map(|i| StepPlan {
            name: names[i].into(),
            timeout: Duration::from_secs(5),
            retries: 0,
            look_every: Duration::ZERO,
            loss_rank: ranks[i],
        })
        .collect();
    let node_names = ["alpha", "beta"];
    let settings = ServiceSettings {
        name: "db".into(),
        me: node_names[n].into(),
        peer: node_names[1 - n].into(),
        proof: Proof::Lease,
        preferred: None,
        failback: false,
        ttl: TTL,
        address_lifetime: ADDRESS_LIFETIME,
        steps,
        incarnation: rng.next(),
        obstacle: None,
    };
    Service::new(settings, now)
}

trait PopIfDue {
    fn pop_if_due(&mut self, now: Instant) -> Option<Due>;
}

impl PopIfDue for BinaryHeap<Due> {
    fn pop_if_due(&mut self, now: Instant) -> Option<Due> {
        if self.peek()?.at <= now { self.pop() } else { None }
    }
}

#[cfg(test)]
mod tests;
