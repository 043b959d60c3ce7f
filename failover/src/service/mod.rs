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

mod addresses;
mod decide;
mod fence;
mod look_after;
mod orders;
mod status;
#[cfg(test)]
mod tests;
mod way;

use model::failover::config::Proof;
use model::state::{ConnState, DiskState, Role};
use model::status::ResourceSnapshot;
use model::status::snapshot::StandAloneCause;
use model::time::{Duration, Instant};

use crate::lease::machine::{Ask, Lease, LeaseConfig, StoreAnswer};
use crate::lease::memory::Memory;
use crate::promote::chain::{Attempt, Chain, ChainAction, Phase, StepPlan};
use addresses::Claims;
pub use addresses::{ADDRESS_LIFETIME, answer_for, gate_for};
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
    /// For how long the addresses here may answer after the decision that renewed them last ([`answer_for`]).
    pub addresses_answer: Duration,
    /// First the resource, last the addresses.
    pub steps: Vec<StepPlan>,
    /// Drawn at the start of the daemon.
    pub incarnation: u64,
    /// Why the service can never be here; none: it can.
    pub obstacle: Option<String>,
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
    /// The peer may hear this node: a connection is established, whatever has been agreed on it.
    pub linked: bool,
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

impl Parted {
    /// As the core publishes it; none: it does not stand alone, or an operator wants that.
    pub fn of(r: &ResourceSnapshot) -> Option<Parted> {
        if r.connection != ConnState::StandAlone {
            return None;
        }
        if r.standalone_reason.as_ref().is_some_and(|why| why.contains("SyncTarget, but I am primary")) {
            return Some(Parted::Behind);
        }
        match r.cause() {
            Some(StandAloneCause::SplitBrain) => Some(Parted::SplitBrain),
            None | Some(StandAloneCause::Operator) => None,
            Some(_) => Some(Parted::Refused),
        }
    }
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
    /// Whether heartbeat's messages say that the peer is alive; none: they are not configured, or it is not known yet.
    PeerAlive(Option<bool>),
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
    /// The peer has it.
    Lost,
    /// Somebody here has demoted the resource, or taken it down.
    TakenAway,
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
    /// Since when the nodes have agreed on nothing: what the peer has let go of is not known.
    apart_since: Option<Instant>,
    /// It was taken beside the connected peer, which had not let go of it: demoted by hand, it may still have the addresses.
    taken_beside: Option<Instant>,
    /// Since when the peer, connected, is Secondary: it renews no address any more.
    peer_secondary_since: Option<Instant>,
    /// Since when both could have it and nobody has.
    vacant_since: Option<Instant>,
    /// Since when the peer could have it while it is here.
    peer_able_since: Option<Instant>,
    /// Longest term that the peer has held the lease for.
    peer_ttl: Duration,
    /// What the peer says of its addresses; none: nothing that is known to be its daemon's now.
    peer_claims: Option<Claims>,
    /// The peer's term, where it differs and that was said.
    warned_of_term: Option<Duration>,
    peer_speaks: bool,
    peer_alive: Option<bool>,
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
    /// It is at home, and some of its steps are started again.
    restarting: bool,
    why: String,
    history: Vec<Entry>,
    last_reason: Option<String>,
    since: Instant,
}

/// For how long a service that failed here is not tried here again by itself.
const FAILED_PAUSE: Duration = Duration::from_secs(60);
/// For how long a service given to the peer is not taken back.
const GIVEN_PAUSE: Duration = Duration::from_secs(10);
/// For how long after a ping that the peer has answered addresses are renewed.
const WORD_GOOD_FOR: Duration = Duration::from_millis(150);
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
                addresses_answer: cfg.addresses_answer,
            };
            Lease::new(lease, now)
        });
        Service {
            chain: Chain::new(cfg.steps.clone()),
            peer_ttl: cfg.ttl,
            peer_claims: None,
            cfg,
            state: State::Away,
            lease,
            storage: None,
            quiet_since: Some(now),
            apart_since: Some(now),
            taken_beside: None,
            peer_secondary_since: None,
            vacant_since: None,
            peer_able_since: None,
            warned_of_term: None,
            peer_speaks: false,
            peer_alive: None,
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
            restarting: false,
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
            Event::PeerAlive(alive) => self.peer_alive = alive,
            Event::Fault(fault) => self.fault = fault,
            Event::Order(key, order) => self.ordered(key, order, now, &mut steps, out),
            Event::FencePeer(key) => self.fences.push(key),
            Event::UnfencePeer(key) => self.unfences.push(key),
            Event::Tick => self.chain.tick(now, &mut steps),
        }
        self.remember_peer(out);
        self.make_lease_if_both_see(now);
        for _ in 0..8 {
            self.run_steps(&mut steps, now, out);
            if !self.step(now, &mut steps, out) {
                break;
            }
        }
        self.watch_steps(now, &mut steps);
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
        let renewal = self.renews_addresses_at(now);
        [lease, self.chain.deadline(), renewal, Some(soon)].into_iter().flatten().min().expect("one is there")
    }

    /// Where this node is with it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What an earlier daemon of this node has seen of the lease. Before the first event.
    pub fn recall(&mut self, changes: u64) {
        if let Some(lease) = &mut self.lease {
            lease.recall(changes);
        }
    }

    /// What the next daemon is to remember of the lease; none: nothing is known now.
    pub fn lease_newest(&self) -> Option<Memory> {
        self.lease.as_ref().and_then(Lease::newest)
    }

    fn storage_is(&mut self, storage: Option<Storage>, now: Instant) {
        let heard = storage.as_ref().is_some_and(|s| s.linked);
        if storage.is_none() {
            self.granted = None;
        }
        let flapped = storage.map(|s| s.connections) != self.storage.map(|s| s.connections);
        let since = |before: Option<Instant>, ended: bool| match before {
            _ if !ended => None,
            // A connection came and went unseen: whatever the peer was told in it, it may rely on.
            Some(_) if flapped => Some(now),
            Some(since) => Some(since),
            None => Some(now),
        };
        if flapped {
            // It may be another daemon that has done nothing yet but to connect, and serves by this node's word.
            self.peer_claims = None;
        }
        self.quiet_since = since(self.quiet_since, !heard);
        let agreed = storage.as_ref().is_some_and(|s| s.conn >= ConnState::Connected);
        self.apart_since = since(self.apart_since, !agreed);
        let is_secondary = agreed && storage.is_some_and(|s| s.peer_role == Role::Secondary);
        self.peer_secondary_since = since(self.peer_secondary_since, is_secondary);
        if heard && storage.is_some_and(|s| s.peer_role == Role::Primary) && std::mem::take(&mut self.given) {
            self.away_until = None;
        }
        self.was_primary |= storage.is_some_and(|s| s.role == Role::Primary);
        self.storage = storage;
    }

    fn remember_peer(&mut self, out: &mut Vec<Action>) {
        let record = self.lease.as_ref().and_then(Lease::record);
        if let Some(h) = record.and_then(|r| r.held_by(&self.cfg.peer)) {
            let differs = (h.ttl() != self.cfg.ttl).then(|| h.ttl());
            if let Some(ttl) = differs.filter(|_| self.warned_of_term != differs) {
                out.push(Action::Warn(format!(
                    "service {}: lease_ttl is {:?} here and {ttl:?} at {}: give both nodes the same, or a store that is put \
                     back may let one take the service too soon",
                    self.cfg.name, self.cfg.ttl, self.cfg.peer
                )));
            }
            self.warned_of_term = differs;
            self.peer_ttl = self.peer_ttl.max(h.ttl());
        }
        // What it said holds while this node has taken its place, and while nobody can look.
        if let Some(record) = record.filter(|r| r.held_by(&self.cfg.me).is_none()) {
            self.peer_claims = Claims::seen(self.peer_claims, record, &self.cfg.peer);
        }
    }

    /// One step of the state machine; false: nothing is to be done now.
    fn step(&mut self, now: Instant, steps: &mut Vec<ChainAction>, out: &mut Vec<Action>) -> bool {
        match self.state.clone() {
            State::Away => self.at_away(now, steps, out),
            State::Taking(since) => self.at_taking(since, now, steps, out),
            State::Starting => match self.chain.phase() {
                Phase::Up => {
                    let again = std::mem::take(&mut self.restarting);
                    self.record_entry(if again { "runs again" } else { "became its home" }, now);
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

    /// The peer, Secondary and connected, has answered a ping that was sent a moment ago. What was seen before this node slept
    /// says nothing about what the peer is now.
    fn peer_is_heard(&self, now: Instant) -> bool {
        self.storage.and_then(|s| s.peer_word_at).is_some_and(|at| now < at + WORD_GOOD_FOR)
    }

    /// The lease tells whose copy counts, so two nodes that have parted over their data need nobody to decide.
    fn connect_again(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(parted) = self.storage.and_then(|s| s.parted) else { return };
        let Some(lease) = &self.lease else { return };
        // Where the record is gone the data alone decides, and refuses what nobody has decided.
        let counts = |node: &str| lease.record().is_none_or(|r| r.is_current(node));
        let (mine, its) = (counts(&self.cfg.me), counts(&self.cfg.peer));
        let is_secondary = self.storage.is_some_and(|s| s.role == Role::Secondary);
        if mine && its && !lease.is_absent() && !lease.is_put_back()
            || !mine && !is_secondary
            || now < self.connect_at
        {
            return;
        }
        self.connect_at = now + CONNECT_EVERY;
        out.push(Action::Connect(!mine && parted == Parted::SplitBrain));
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
