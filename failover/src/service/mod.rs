//! A service: storage, what runs on it and the addresses it is reached by, as one unit with at most one home. This machine
//! decides when this node becomes its home and when it stops being that, without I/O (failover 8.1, 8.4, 8.5).
//!
//! ```text
//!          may have it            lease or fencing           every step runs
//!   Away ───────────────▶ Taking ──────────────▶ Starting ──────────────────▶ Home
//!    ▲                       │                       │ a step fails             │
//!    │◀──────────────────────┘                       ▼                          │
//!    │◀───────────────────────────────────────── Leaving ◀──────────────────────┘
//!    │            everything is down, let go of        switch, fault: in peace; the peer has it: by loss
//!    │                                               │ a step cannot be ended
//!    └─────────────── an operator ◀─────────────── Stuck
//! ```
//!
//! What nobody may do: become Primary without the peer and without proof. Silence is none; the lease is, and so is a
//! fence-peer handler that has succeeded, and an operator may declare that nothing is needed.

mod decide;
mod fence;
mod status;

use model::failover::config::Proof;
use model::state::{ConnState, DiskState, Role};
use model::time::{Duration, Instant};

use crate::lease::machine::{Ask, Held, Lease, LeaseConfig, StoreAnswer};
use crate::promote::chain::{Attempt, Chain, ChainAction, Phase, StepPlan, Verb};
pub use status::{Entry, ServiceStatus};

/// What the machine has to know.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// Name of the service.
    pub name: String,
    /// This node.
    pub me: String,
    /// The other one.
    pub peer: String,
    /// What shows that the peer is not the home.
    pub proof: Proof,
    /// Where it is when both could have it.
    pub preferred: Option<String>,
    /// It moves there when that node is able to have it.
    pub failback: bool,
    /// Term of the lease, and with it how long the peer has to be silent before anybody takes its place.
    pub ttl: Duration,
    /// For how long the kernel keeps an address that nobody renews.
    pub address_lifetime: Duration,
    /// First the resource, last the addresses.
    pub steps: Vec<StepPlan>,
    /// Drawn at the start of the daemon.
    pub incarnation: u64,
}

/// What the storage core publishes; of several volumes the worst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Storage {
    /// Own role.
    pub role: Role,
    /// Own disk.
    pub disk: DiskState,
    /// The connection.
    pub conn: ConnState,
    /// The peer's role.
    pub peer_role: Role,
    /// The peer's disk.
    pub peer_disk: DiskState,
    /// Clients wait: frozen for whatever reason.
    pub frozen: bool,
    /// When the last ping was sent that the peer, connected as Secondary, has answered.
    pub peer_word_at: Option<Instant>,
    /// How many connections there have been.
    pub connections: u32,
    /// It has parted from its peer because of what their data or roles are, not by an operator.
    pub parted: Option<Parted>,
}

/// Why a resource stands alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parted {
    /// Both copies have gone on from a common one.
    SplitBrain,
    /// The peer's copy is newer, and this node is Primary.
    Behind,
    /// Something else about the data, or the roles.
    Refused,
}

/// What a Primary may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grant {
    /// Serve for as long as it likes.
    Unbounded,
    /// Serve until then, or on the word of a connected Secondary that is not older than the time given.
    Until(Instant, Duration),
}

/// What an operator wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Move it to the other node.
    Switch,
    /// Leave it here if it is here, and be ready to leave it there: nothing moves by itself.
    Freeze,
    /// Things move again.
    Unfreeze,
    /// End it here and stay away until told otherwise.
    Release,
    /// Forget that it failed here, or was released.
    Clear,
    /// The daemon ends.
    Stop,
}

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The storage core is in this state; none: the resource is not up.
    Storage(Option<Storage>),
    /// The store has answered.
    Store(u64, StoreAnswer),
    /// A step has ended.
    StepDone(u64, Result<(), String>),
    /// The core has taken over the grant of this number.
    GrantTaken(u64),
    /// Whether a master's adverts are heard on the service's instances.
    PeerSpeaks(bool),
    /// What keeps this node from having the service; none: nothing.
    Fault(Option<String>),
    /// An operator's order; the key comes back with the answer.
    Order(u64, Order),
    /// The fence-peer handler of the resource was called.
    FencePeer(u64),
    /// The unfence-peer handler of the resource was called.
    UnfencePeer(u64),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Ask the store.
    Ask(Ask),
    /// Attempt a step.
    Run(Attempt),
    /// Give an attempt up.
    Abort(Attempt),
    /// Tell the core; [`Event::GrantTaken`] answers with the number.
    Grant(u64, Grant),
    /// The addresses may stay for another lifetime.
    RenewAddresses,
    /// Connect the resource again; with true its data may be overwritten.
    Connect(bool),
    /// Answer to an order.
    Answer(u64, Result<String, String>),
    /// Exit code of a handler.
    HandlerDone(u64, i32),
    /// For the log, and for people: this is serious.
    Warn(String),
    /// For the log.
    Info(String),
}

/// Where this node is with the service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// Not here.
    Away,
    /// About to have it: the lease is not there yet.
    Taking(Instant),
    /// Its steps are being started.
    Starting,
    /// Here.
    Home,
    /// Its steps are being ended.
    Leaving(Leaving),
    /// It cannot be ended here. Somebody has to look.
    Stuck,
}

/// How, and what for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    /// For the peer, in peace.
    ForPeer,
    /// To stay away, in peace.
    Released,
    /// The peer has it, or the resource is gone.
    Lost,
    /// A step has failed.
    Failed,
    /// What an earlier daemon has left is ended.
    Sweeping,
}

/// The machine.
#[derive(Debug)]
pub struct Service {
    cfg: ServiceSettings,
    state: State,
    chain: Chain,
    lease: Option<Lease>,
    storage: Option<Storage>,
    /// Since when the peer cannot be heard over the replication link; none: it can.
    quiet_since: Option<Instant>,
    /// Since when both could have it and nobody has.
    vacant_since: Option<Instant>,
    /// Since when the peer could have it while it is here.
    peer_able_since: Option<Instant>,
    /// Longest term that the peer has held the lease for.
    peer_ttl: Duration,
    peer_speaks: bool,
    fault: Option<String>,
    frozen: bool,
    released: bool,
    /// Not taken before that: it failed here, or was given to the peer.
    away_until: Option<Instant>,
    /// That was for the peer to take it, which it may have done since.
    given: bool,
    stopping: Option<u64>,
    switching: Option<u64>,
    releasing: Option<u64>,
    grants: u64,
    granted: Option<(u64, Grant)>,
    grant_taken: u64,
    /// The last one without a bound.
    unbounded_grant: Option<u64>,
    fences: Vec<u64>,
    unfences: Vec<u64>,
    renew_at: Instant,
    /// The core has shown the promotion.
    was_primary: bool,
    /// The addresses wait until those of the peer are gone for certain, and clients are served.
    delayed: Option<Attempt>,
    connect_at: Instant,
    why: String,
    history: Vec<Entry>,
    last_reason: Option<String>,
    since: Instant,
}

/// For how long a service that failed here is not tried here again by itself.
const FAILED_PAUSE: Duration = Duration::from_secs(60);
/// For how long a service given to the peer is not taken back.
const GIVEN_PAUSE: Duration = Duration::from_secs(10);
/// How much longer than their lifetime the kernel may keep addresses.
const ADDRESS_SLACK: Duration = Duration::from_millis(100);
/// For how long after a ping that the peer has answered addresses are renewed.
const WORD_GOOD_FOR: Duration = Duration::from_millis(150);
/// How often addresses are renewed.
const RENEW_EVERY: Duration = Duration::from_millis(200);
/// How often nodes that have parted are connected again.
const CONNECT_EVERY: Duration = Duration::from_secs(2);
/// How long it may take to get the lease before the node thinks again.
const TAKING_MAX: Duration = Duration::from_secs(10);
/// How long a preferred node has to be able before a service moves back to it.
const FAILBACK_AFTER: Duration = Duration::from_secs(10);

impl Service {
    /// A service that is not here, as far as this daemon knows.
    pub fn new(cfg: ServiceSettings, now: Instant) -> Service {
        assert!(!cfg.steps.is_empty(), "a service has a resource at least");
        let lease = (cfg.proof == Proof::Lease).then(|| {
            let lease = LeaseConfig {
                me: cfg.me.clone(),
                peer: cfg.peer.clone(),
                incarnation: cfg.incarnation,
                ttl: cfg.ttl,
            };
            Lease::new(lease, now)
        });
        Service {
            chain: Chain::new(cfg.steps.clone()),
            peer_ttl: cfg.ttl,
            cfg,
            state: State::Away,
            lease,
            storage: None,
            quiet_since: Some(now),
            vacant_since: None,
            peer_able_since: None,
            peer_speaks: false,
            fault: None,
            frozen: false,
            released: false,
            away_until: None,
            given: false,
            stopping: None,
            switching: None,
            releasing: None,
            grants: 0,
            granted: None,
            grant_taken: 0,
            unbounded_grant: None,
            fences: Vec::new(),
            unfences: Vec::new(),
            renew_at: now,
            was_primary: false,
            delayed: None,
            connect_at: now,
            why: "has just started".into(),
            history: Vec::new(),
            last_reason: None,
            since: now,
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Action>) {
        let mut steps = Vec::new();
        match event {
            Event::Storage(storage) => self.storage_is(storage, now),
            Event::Store(id, answer) => {
                if let Some(lease) = &mut self.lease {
                    lease.answer(now, id, answer);
                }
            }
            Event::StepDone(key, result) => self.chain.done(now, key, result, &mut steps),
            Event::GrantTaken(number) => self.grant_taken = self.grant_taken.max(number),
            Event::PeerSpeaks(speaks) => self.peer_speaks = speaks,
            Event::Fault(fault) => self.fault = fault,
            Event::Order(key, order) => self.ordered(key, order, now, &mut steps, out),
            Event::FencePeer(key) => self.fences.push(key),
            Event::UnfencePeer(key) => self.unfences.push(key),
            Event::Tick => self.chain.tick(now, &mut steps),
        }
        self.remember_peer_ttl();
        self.make_lease_if_both_see(now);
        for _ in 0..8 {
            self.run_steps(&mut steps, now, out);
            if !self.step(now, &mut steps, out) {
                break;
            }
        }
        self.run_steps(&mut steps, now, out);
        self.answer_handlers(now, out);
        self.grant(now, out);
        self.renew_addresses(now, out);
        self.connect_again(now, out);
        if let Some(lease) = &mut self.lease
            && let Some(ask) = lease.poll(now)
        {
            out.push(Action::Ask(ask));
        }
        self.check_invariants();
    }

    /// When to call again with [`Event::Tick`].
    pub fn deadline(&self, now: Instant) -> Instant {
        let lease = self.lease.as_ref().and_then(Lease::deadline);
        let soon = now + self.cfg.ttl / 8;
        [lease, self.chain.deadline(), Some(soon)].into_iter().flatten().min().expect("one is there")
    }

    /// Where this node is with it.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn storage_is(&mut self, storage: Option<Storage>, now: Instant) {
        let is_heard = |s: &Storage| s.conn >= ConnState::Connected;
        let heard = storage.as_ref().is_some_and(is_heard);
        let flapped = storage.map(|s| s.connections) != self.storage.map(|s| s.connections);
        self.quiet_since = match self.quiet_since {
            _ if heard => None,
            // A connection came and went unseen: whatever the peer was told in it, it may rely on.
            Some(_) if flapped => Some(now),
            Some(since) => Some(since),
            None => Some(now),
        };
        if heard && storage.is_some_and(|s| s.peer_role == Role::Primary) && std::mem::take(&mut self.given) {
            self.away_until = None;
        }
        self.was_primary |= storage.is_some_and(|s| s.role == Role::Primary);
        self.storage = storage;
    }

    fn remember_peer_ttl(&mut self) {
        let record = self.lease.as_ref().and_then(Lease::record);
        if let Some(h) = record.and_then(|r| r.held_by(&self.cfg.peer)) {
            self.peer_ttl = self.peer_ttl.max(h.ttl());
        }
    }

    /// One step of the state machine; false: nothing is to be done now.
    fn step(&mut self, now: Instant, steps: &mut Vec<ChainAction>, out: &mut Vec<Action>) -> bool {
        match self.state.clone() {
            State::Away => self.at_away(now, steps, out),
            State::Taking(since) => self.at_taking(since, now, steps, out),
            State::Starting => match self.chain.phase() {
                Phase::Up => {
                    self.record_entry("became its home", now);
                    self.enter(State::Home, "every step runs", now, out);
                    true
                }
                Phase::Undoing | Phase::Down | Phase::Stuck => {
                    let why = self.chain.failure().unwrap_or("it was given up").to_owned();
                    self.enter(State::Leaving(Leaving::Failed), &why, now, out);
                    true
                }
                _ => self.at_risk(now, steps, out),
            },
            State::Home => self.at_home(now, steps, out),
            State::Leaving(how) => self.at_leaving(how, now, steps, out),
            State::Stuck => false,
        }
    }

    /// Taking: the lease has come, or will not.
    fn at_taking(
        &mut self,
        since: Instant,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) -> bool {
        if let Err(why) = self.may_take(now) {
            self.give_up_taking(&why, now, out);
            return true;
        }
        let has_proof = self.lease.as_ref().is_none_or(|l| l.held(now) != Held::No);
        if has_proof {
            if self.cfg.proof == Proof::Nothing && self.quiet_since.is_some() {
                out.push(Action::Warn(format!(
                    "service {}: promote-without-proof: {} may be its home as well",
                    self.cfg.name, self.cfg.peer
                )));
            }
            self.was_primary = false;
            self.enter(State::Starting, "its steps are started", now, out);
            // What the core may do has to be there before it is promoted.
            self.grant(now, out);
            self.chain.go_up(now, steps);
            return true;
        }
        if now.saturating_since(since) > TAKING_MAX {
            self.give_up_taking("the lease could not be had", now, out);
            return true;
        }
        false
    }

    fn give_up_taking(&mut self, why: &str, now: Instant, out: &mut Vec<Action>) {
        if let Some(lease) = &mut self.lease {
            lease.set_hold(false, now);
            if lease.is_holder() {
                lease.release(false, now);
            }
        }
        self.enter(State::Away, why, now, out);
    }

    /// On the way down.
    fn at_leaving(
        &mut self,
        how: Leaving,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) -> bool {
        match self.chain.phase() {
            Phase::Down => {}
            Phase::Up => {
                let why = self.chain.failure().unwrap_or("it would not stop").to_owned();
                self.answer_orders(Err(format!("it stays here: {why}")), out);
                self.record_entry("could not be moved away", now);
                self.enter(State::Home, &why, now, out);
                return true;
            }
            Phase::Stuck => {
                let why = self.chain.failure().unwrap_or("a step does not end").to_owned();
                self.answer_orders(Err(format!("it cannot be ended here: {why}")), out);
                self.record_entry("cannot be ended here", now);
                let text = format!(
                    "service {}: cannot be ended here: {why} ('lockstep failover status')",
                    self.cfg.name
                );
                out.push(Action::Warn(text));
                self.enter(State::Stuck, &why, now, out);
                return true;
            }
            _ => {
                // In peace only as long as it is this node's to give.
                let in_peace = matches!(how, Leaving::ForPeer | Leaving::Released | Leaving::Failed);
                if in_peace && self.is_lost(now).is_some() {
                    self.enter(State::Leaving(Leaving::Lost), "lost on the way", now, out);
                    self.chain.lose(now, steps);
                    return true;
                }
                return false;
            }
        }
        let reason = self.chain.failure().map(str::to_owned);
        match how {
            Leaving::ForPeer => {
                self.away_until = Some(now + GIVEN_PAUSE);
                self.given = true;
            }
            Leaving::Failed => self.away_until = Some(now + FAILED_PAUSE),
            Leaving::Released => self.released = true,
            // Somebody has taken the resource from under it.
            Leaving::Lost if !self.lease.as_ref().is_some_and(|l| l.peer_holds()) => {
                self.away_until = Some(now + FAILED_PAUSE);
            }
            Leaving::Lost | Leaving::Sweeping => {}
        }
        if let Some(lease) = &mut self.lease {
            lease.set_hold(false, now);
            if lease.is_holder() {
                // Nothing is Primary here any more, for certain.
                let for_peer = matches!(how, Leaving::ForPeer | Leaving::Failed);
                let able = lease.record().is_some_and(|r| r.is_current(&self.cfg.peer));
                lease.release(for_peer && able, now);
            }
        }
        if how != Leaving::Sweeping {
            self.record_entry("ended here", now);
        }
        if let (Leaving::Failed, Some(reason)) = (how, &reason) {
            out.push(Action::Warn(format!("service {}: failed here: {reason}", self.cfg.name)));
        }
        self.last_reason = reason.or(self.last_reason.take());
        self.answer_orders(Ok("it has ended here".into()), out);
        self.enter(State::Away, "it has ended here", now, out);
        true
    }

    /// An operator's word.
    fn ordered(
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
                if order == Order::Release {
                    self.released = true;
                }
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
        if order == Order::Stop {
            self.released = true;
        }
        out.push(Action::Answer(key, answer));
    }

    /// Here, and nothing can be ended: all writes wait.
    fn is_frozen_home(&self) -> bool {
        matches!(self.state, State::Home | State::Starting)
            && self.storage.is_some_and(|s| s.role == Role::Primary && s.frozen)
    }

    fn leave(
        &mut self,
        how: Leaving,
        why: &str,
        now: Instant,
        steps: &mut Vec<ChainAction>,
        out: &mut Vec<Action>,
    ) {
        self.enter(State::Leaving(how), why, now, out);
        match how {
            Leaving::Lost | Leaving::Sweeping => self.chain.lose(now, steps),
            Leaving::ForPeer | Leaving::Released | Leaving::Failed => self.chain.go_down(now, steps),
        }
    }

    fn answer_orders(&mut self, answer: Result<String, String>, out: &mut Vec<Action>) {
        for key in [self.switching.take(), self.releasing.take(), self.stopping.take()].into_iter().flatten()
        {
            out.push(Action::Answer(key, answer.clone()));
        }
    }

    fn enter(&mut self, state: State, why: &str, now: Instant, out: &mut Vec<Action>) {
        if std::mem::discriminant(&self.state) != std::mem::discriminant(&state) {
            out.push(Action::Info(format!(
                "service {}: {} -> {} ({why})",
                self.cfg.name,
                status::word(&self.state),
                status::word(&state)
            )));
            self.since = now;
        }
        self.why = why.to_owned();
        self.vacant_since = None;
        self.peer_able_since = None;
        self.state = state;
    }

    fn run_steps(&mut self, steps: &mut Vec<ChainAction>, now: Instant, out: &mut Vec<Action>) {
        for step in steps.drain(..) {
            match step {
                ChainAction::Run(attempt) if self.adds_addresses(&attempt) => self.delayed = Some(attempt),
                ChainAction::Run(attempt) => out.push(Action::Run(attempt)),
                ChainAction::Abort(attempt) if self.delayed == Some(attempt) => self.delayed = None,
                ChainAction::Abort(attempt) => out.push(Action::Abort(attempt)),
            }
        }
        if self.delayed.is_some() && self.addresses_may_be_added(now) {
            out.extend(self.delayed.take().map(Action::Run));
        }
    }

    fn adds_addresses(&self, attempt: &Attempt) -> bool {
        attempt.verb == Verb::Start && attempt.step + 1 == self.cfg.steps.len()
    }

    /// A home that was killed or stands still has its addresses until the kernel takes them back, and one that is cut off
    /// until its time is over. One that is connected has let go of them. And nobody is called to where he is not served.
    fn addresses_may_be_added(&self, now: Instant) -> bool {
        let term = self.peer_ttl.max(self.cfg.ttl);
        let gone_after = (self.cfg.address_lifetime + WORD_GOOD_FOR + ADDRESS_SLACK).max(term + term / 8);
        self.may_show_addresses(now) && self.quiet_since.is_none_or(|since| now >= since + gone_after)
    }

    /// The peer, Secondary and connected, has answered a ping that was sent a moment ago. What was seen before this node slept
    /// says nothing about what the peer is now.
    fn peer_is_heard(&self, now: Instant) -> bool {
        self.storage.and_then(|s| s.peer_word_at).is_some_and(|at| now < at + WORD_GOOD_FOR)
    }

    /// Clients are served, and the peer will not add the addresses before those that are renewed now are gone: it counts
    /// from when it last heard this node.
    fn may_show_addresses(&self, now: Instant) -> bool {
        let alone = self.lease.as_ref().is_none_or(|l| l.held(now) == Held::Alone);
        let serves = self.storage.is_some_and(|s| s.role == Role::Primary && !s.frozen);
        serves && (alone || self.peer_is_heard(now))
    }

    /// The lease tells whose copy counts, so two nodes that have parted over their data need nobody to decide.
    fn connect_again(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(parted) = self.storage.and_then(|s| s.parted) else { return };
        let Some(lease) = &self.lease else { return };
        // Where the record is gone the data alone decides, and refuses what nobody has decided.
        let counts = |node: &str| lease.record().is_none_or(|r| r.is_current(node));
        let (mine, its) = (counts(&self.cfg.me), counts(&self.cfg.peer));
        let is_secondary = self.storage.is_some_and(|s| s.role == Role::Secondary);
        if mine && its && !lease.is_absent() || !mine && !is_secondary || now < self.connect_at {
            return;
        }
        self.connect_at = now + CONNECT_EVERY;
        out.push(Action::Connect(!mine && parted == Parted::SplitBrain));
    }

    /// The addresses stay only while clients are really served.
    fn renew_addresses(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.state == State::Home && self.may_show_addresses(now) && now >= self.renew_at {
            self.renew_at = now + RENEW_EVERY.min(self.cfg.address_lifetime / 4);
            out.push(Action::RenewAddresses);
        }
    }

    fn check_invariants(&self) {
        let runs = !matches!(self.chain.phase(), Phase::Down | Phase::Unknown);
        match self.state {
            State::Away | State::Taking(_) => {
                assert!(!runs, "service {}: steps run where it is not", self.cfg.name);
            }
            State::Home => assert_eq!(self.chain.phase(), &Phase::Up, "service {}: at home", self.cfg.name),
            State::Starting | State::Leaving(_) | State::Stuck => {}
        }
    }
}
