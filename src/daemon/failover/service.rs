//! The task of one service: events in, actions out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use failover::driver::now;
use failover::heartbeat::MembershipStatus;
use failover::lease::etcd::EtcdStore;
use failover::lease::machine::{Ask, StoreAnswer, StoreOp};
use failover::lease::store::StoreError;
use failover::promote::chain::{Attempt, LossRank, StepPlan, Verb};
use failover::service::{
    Action, Event, Grant, Order, Parted, Service, ServiceSettings, ServiceStatus, State, Storage,
};
use model::config::settings::{Handler, ResourceConfig, VolumeConfig};
use model::failover::config::{Globals, Proof, Step};
use model::policy::{Fencing, Protocol};
use model::state::{ConnState, DiskState, Role};
use model::status::ResourceSnapshot;
use model::time::Instant;
use replicator::{Authority, Command};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::addresses::Addresses;
use super::keeper::Keeper;
use super::steps;
use crate::daemon::control::{NOT_MINE, Outcome};
use crate::daemon::resources::{Resources, Running};
use crate::dataplane::random_seed;

/// How often addresses are tried again before the service gives way: a decision that has waited is not acted on, and the kernel may be
/// busy with somebody's ruleset for seconds.
const ADDRESS_RETRIES: u32 = 5;
/// For how long each time, until those of the last home are gone and clients are served included.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// Term of the lease when none is configured; then only how long a peer has to be silent.
const TTL_DEFAULT: Duration = Duration::from_millis(600);

/// What a task is asked.
pub enum Message {
    Order(Order, oneshot::Sender<Result<String, String>>),
    FencePeer(oneshot::Sender<i32>),
    UnfencePeer(oneshot::Sender<i32>),
    Status(oneshot::Sender<String>),
    History(oneshot::Sender<String>),
    /// A router of it has lost its role by itself.
    /// Those of this instance.
    AddressesLost(String),
    /// Of its own helpers.
    Event(Event),
}

/// Reaches the task of a service.
#[derive(Clone)]
pub struct ServiceHandle {
    sender: mpsc::UnboundedSender<Message>,
    is_home: Rc<Cell<bool>>,
}

impl ServiceHandle {
    /// To a task that has ended it is lost, with the sender of its answer.
    pub fn send(&self, message: Message) {
        let _ = self.sender.send(message);
    }

    /// Tells services apart.
    pub fn id(&self) -> *const Cell<bool> {
        Rc::as_ptr(&self.is_home)
    }

    /// Every step of it runs here.
    pub fn is_home(&self) -> bool {
        self.is_home.get()
    }
}

struct Task {
    name: String,
    resource: String,
    steps: Vec<Step>,
    machine: Service,
    resources: Rc<Resources>,
    store: Option<Rc<Store>>,
    keeper: Option<Keeper>,
    own: mpsc::UnboundedSender<Message>,
    is_home: Rc<Cell<bool>>,
    addresses: Addresses,
    peer: String,
    /// Who is alive, by heartbeat.
    alive: Option<watch::Receiver<MembershipStatus>>,
    peer_alive: Option<bool>,
    grants: mpsc::UnboundedSender<(u64, Option<Authority>)>,
    /// When its machine is to be called again.
    tick_at: Instant,
    seen: Option<Storage>,
    answers: BTreeMap<u64, oneshot::Sender<Result<String, String>>>,
    handlers: BTreeMap<u64, oneshot::Sender<i32>>,
    running: BTreeMap<u64, AbortHandle>,
    keys: u64,
}

struct Store {
    endpoints: Vec<String>,
    attempt: Duration,
    key: String,
    etcd: Mutex<EtcdStore>,
}

/// Starts the task of a service. Must run in a `LocalSet`.
///
/// # Errors
/// The lease store's addresses are none, or there is no randomness.
pub fn start(
    service: &model::failover::config::Service,
    globals: &Globals,
    resources: &Rc<Resources>,
    addresses: Addresses,
    alive: Option<watch::Receiver<MembershipStatus>>,
) -> anyhow::Result<ServiceHandle> {
    let seed = random_seed()?;
    let incarnation = u64::from_le_bytes(seed[..8].try_into().expect("eight octets"));
    let (own, messages) = mpsc::unbounded_channel();
    let handle = ServiceHandle { sender: own.clone(), is_home: Rc::default() };
    let lease = globals.lease.as_ref().filter(|_| service.proof == Proof::Lease);
    let store = match lease {
        None => None,
        Some(lease) => {
            let attempt = lease.ttl / 3;
            let key = lease.key(&service.name);
            let etcd = Mutex::new(EtcdStore::new(&lease.endpoints, attempt)?);
            Some(Rc::new(Store { endpoints: lease.endpoints.clone(), attempt, key, etcd }))
        }
    };
    let ttl = lease.map_or(TTL_DEFAULT, |l| l.ttl);
    let started = Starting {
        service: service.clone(),
        ttl,
        incarnation,
        resources: resources.clone(),
        store,
        own,
        is_home: handle.is_home.clone(),
        addresses,
        alive,
    };
    let task = tokio::task::spawn_local(started.run(messages));
    let name = service.name.clone();
    tokio::task::spawn_local(async move {
        if task.await.is_err_and(|e| e.is_panic()) {
            // Nobody bounds its resource any more. Without this process it is nobody's, and the peer takes over.
            error!("service {name}: an invariant is violated: the daemon ends");
            std::process::exit(70);
        }
    });
    Ok(handle)
}

/// A service whose resource has not been up yet: who its peer is stands in the resource's configuration.
struct Starting {
    service: model::failover::config::Service,
    ttl: Duration,
    incarnation: u64,
    resources: Rc<Resources>,
    store: Option<Rc<Store>>,
    own: mpsc::UnboundedSender<Message>,
    is_home: Rc<Cell<bool>>,
    addresses: Addresses,
    alive: Option<watch::Receiver<MembershipStatus>>,
}

impl Starting {
    async fn run(self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let mut changes = self.resources.changes();
        let running = loop {
            if let Some(running) = self.resources.get(&self.service.resource) {
                break running;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                message = messages.recv() => match message {
                    Some(message) => self.not_up(message),
                    None => return,
                },
            }
        };
        let config = running.config();
        self.warn_of_fencing(&config);
        let obstacle = (self.store.is_some() && config.net.protocol != Protocol::C).then(|| {
            format!(
                "resource {}: protocol {} may lose what was acknowledged; use C",
                config.name, config.net.protocol
            )
        });
        drop(running);
        let keeping = match self.store {
            Some(_) => Some(Keeper::recall(&self.resources.state_dir(), &self.service.name).await),
            None => None,
        };
        let mut task = self.task(&config.host, &config.peer_host, obstacle, keeping);
        task.run(messages).await;
    }

    /// Without them it works too; but then a lost peer looks like a split brain until the lease has decided.
    fn warn_of_fencing(&self, config: &ResourceConfig) {
        let stonith = |v: &VolumeConfig| v.disk_options.fencing == Fencing::ResourceAndStonith;
        let complete = config.volumes.iter().all(stonith)
            && config.handlers.contains_key(&Handler::FencePeer)
            && config.handlers.contains_key(&Handler::UnfencePeer);
        if self.store.is_some() && !complete {
            warn!(
                "service {}: resource {} should have 'fencing resource-and-stonith' and the handlers fence-peer \
                 'lockstep fence-peer' and unfence-peer 'lockstep unfence-peer'",
                self.service.name, config.name
            );
        }
    }

    fn not_up(&self, message: Message) {
        let why = format!("resource {} is not up", self.service.resource);
        match message {
            Message::Order(Order::Stop, reply) => drop(reply.send(Ok("it is not here".into()))),
            Message::Order(_, reply) => drop(reply.send(Err(why))),
            Message::FencePeer(reply) | Message::UnfencePeer(reply) => drop(reply.send(NOT_MINE.into())),
            Message::Status(reply) => {
                drop(reply.send(format!("service {}: Away ({why})\n", self.service.name)))
            }
            Message::History(reply) => drop(reply.send(String::new())),
            Message::Event(_) | Message::AddressesLost(_) => {}
        }
    }

    fn task(self, me: &str, peer: &str, obstacle: Option<String>, keeping: Option<(u64, Keeper)>) -> Task {
        let s = &self.service;
        let first = StepPlan {
            name: format!("promote {}", s.resource),
            timeout: s.promote_timeout,
            retries: 0,
            look_every: Duration::ZERO,
            loss_rank: LossRank::Second,
        };
        let middle = s.steps.iter().map(|step| StepPlan {
            name: steps::name(step),
            timeout: step.timeout,
            retries: step.retries,
            look_every: step.monitor,
            loss_rank: LossRank::Later,
        });
        let last = StepPlan {
            name: "addresses".into(),
            timeout: ADDRESS_TIMEOUT,
            retries: ADDRESS_RETRIES,
            look_every: Duration::ZERO,
            loss_rank: LossRank::First,
        };
        let settings = ServiceSettings {
            name: s.name.clone(),
            me: me.to_owned(),
            peer: peer.to_owned(),
            proof: s.proof,
            preferred: s.preferred_node.clone(),
            failback: s.failback,
            ttl: self.ttl,
            addresses_answer: self.addresses.answer_for(),
            steps: std::iter::once(first).chain(middle).chain([last]).collect(),
            incarnation: self.incarnation,
            obstacle,
        };
        let (grants, to_core) = mpsc::unbounded_channel();
        let core =
            Core { resource: s.resource.clone(), resources: self.resources.clone(), own: self.own.clone() };
        tokio::task::spawn_local(core.take_grants(to_core));
        let mut machine = Service::new(settings, now());
        let keeper = keeping.map(|(changes, keeper)| {
            machine.recall(changes);
            keeper
        });
        Task {
            name: s.name.clone(),
            resource: s.resource.clone(),
            steps: s.steps.clone(),
            machine,
            resources: self.resources,
            store: self.store,
            keeper,
            own: self.own,
            is_home: self.is_home,
            addresses: self.addresses,
            peer: peer.to_owned(),
            alive: self.alive,
            peer_alive: None,
            grants,
            tick_at: now(),
            seen: None,
            answers: BTreeMap::new(),
            handlers: BTreeMap::new(),
            running: BTreeMap::new(),
            keys: 0,
        }
    }
}

/// Where grants go.
struct Core {
    resource: String,
    resources: Rc<Resources>,
    own: mpsc::UnboundedSender<Message>,
}

impl Core {
    async fn take_grants(self, mut grants: mpsc::UnboundedReceiver<(u64, Option<Authority>)>) {
        while let Some((number, authority)) = grants.recv().await {
            let Some(running) = self.resources.get(&self.resource) else { continue };
            let done = running.command(Command::SetAuthority(authority), "authority", None).await;
            if done.exit_code == 0 {
                let _ = self.own.send(Message::Event(Event::GrantTaken(number)));
            }
        }
    }
}

impl Task {
    async fn run(&mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let mut any = self.resources.changes();
        let mut beats = self.alive.clone();
        loop {
            // What is published from here on ends the wait.
            let mut changes = self.resources.get(&self.resource).map(|r| r.changes());
            self.look();
            self.look_at_beats();
            // Whatever else ends the wait again and again does not put this off.
            let wait = self.tick_at.saturating_since(now());
            let changed = async {
                match &mut changes {
                    Some(changes) => drop(changes.changed().await),
                    None => std::future::pending().await,
                }
            };
            let beaten = async {
                // A membership that has ended says nothing more.
                let ended = match &mut beats {
                    Some(beats) => beats.changed().await.is_err(),
                    None => true,
                };
                if ended {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = changed => {}
                () = beaten => {}
                bumped = any.changed() => if bumped.is_err() { return },
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => self.tell(Event::Tick),
            }
        }
    }

    /// What the core has published since.
    fn look(&mut self) {
        let storage = self.resources.get(&self.resource).map(|r| storage(&r.snapshot()));
        if storage != self.seen {
            self.seen = storage;
            self.tell(Event::Storage(storage));
        }
    }

    /// What heartbeat says of the peer.
    fn look_at_beats(&mut self) {
        let Some(beats) = &self.alive else { return };
        // A membership that has ended knows nothing.
        let alive = if beats.has_changed().is_ok() { beats.borrow().is_alive(&self.peer) } else { None };
        if alive != self.peer_alive {
            self.peer_alive = alive;
            self.tell(Event::PeerAlive(alive));
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                // What a command has led to is seen before its answer.
                self.look();
                self.tell(event);
            }
            Message::AddressesLost(instance) => self.addresses.lost(&instance),
            Message::Order(order, reply) => {
                let key = self.next_key();
                self.answers.insert(key, reply);
                self.tell(Event::Order(key, order));
            }
            Message::FencePeer(reply) => {
                let key = self.next_key();
                self.handlers.insert(key, reply);
                self.look();
                self.tell(Event::FencePeer(key));
            }
            Message::UnfencePeer(reply) => {
                let key = self.next_key();
                self.handlers.insert(key, reply);
                self.look();
                self.tell(Event::UnfencePeer(key));
            }
            Message::Status(reply) => drop(reply.send(status_text(&self.machine.status(now())))),
            Message::History(reply) => drop(reply.send(self.history_text())),
        }
    }

    fn next_key(&mut self) -> u64 {
        self.keys += 1;
        self.keys
    }

    fn tell(&mut self, event: Event) {
        let mut actions = Vec::new();
        let is_store = matches!(event, Event::Store(..));
        self.machine.handle(now(), event, &mut actions);
        self.tick_at = self.machine.deadline(now());
        if let (Some(keeper), true) = (&self.keeper, is_store) {
            keeper.keep(self.machine.lease_newest());
        }
        self.is_home.set(self.machine.state() == &State::Home);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Ask(ask) => self.ask(ask),
            Action::Run(attempt) => self.run_step(attempt),
            Action::Abort(attempt) => {
                if let Some(task) = self.running.remove(&attempt.key) {
                    task.abort();
                }
            }
            Action::Grant(number, grant) => self.grant(number, grant),
            Action::RenewAddresses => self.addresses.renew(),
            Action::Connect(discard_my_data) => {
                if let Some(running) = self.resources.get(&self.resource) {
                    tokio::task::spawn_local(async move {
                        let outcome = running.connect(discard_my_data, false).await;
                        info!("connecting again: {}", outcome.err.trim_end());
                    });
                }
            }
            Action::HandlerDone(key, code) => {
                if let Some(reply) = self.handlers.remove(&key) {
                    let _ = reply.send(code);
                }
            }
            Action::Answer(key, answer) => {
                if let Some(reply) = self.answers.remove(&key) {
                    let _ = reply.send(answer);
                }
            }
            Action::Warn(text) => warn!("{text}"),
            Action::Info(text) => info!("{text}"),
        }
    }

    fn grant(&self, number: u64, grant: Grant) {
        let authority = match grant {
            Grant::Unbounded => None,
            Grant::Until(until, by_peer) => Some(Authority { until, by_peer }),
        };
        // One after the other: the core keeps the last one that it gets.
        let _ = self.grants.send((number, authority));
    }

    fn ask(&self, ask: Ask) {
        let store = self.store.clone().expect("only a lease asks, and it has a store");
        let own = self.own.clone();
        tokio::task::spawn_local(async move {
            let answer = store.carry_out(&ask.op).await;
            let _ = own.send(Message::Event(Event::Store(ask.id, answer)));
        });
    }

    fn run_step(&mut self, attempt: Attempt) {
        let resources = self.resources.clone();
        let name = self.resource.clone();
        let step = attempt.step.checked_sub(1).and_then(|i| self.steps.get(i)).cloned();
        let (own, is_first) = (self.own.clone(), attempt.step == 0);
        if attempt.step > self.steps.len() {
            self.run_addresses(attempt);
            return;
        }
        let task = tokio::task::spawn_local(async move {
            let running = resources.get(&name);
            let result = match (running, step) {
                (None, _) if is_first && attempt.verb != Verb::Start => Ok(()),
                // Its thread has ended, and with it whatever it served.
                (Some(running), _) if is_first && attempt.verb != Verb::Start && !running.is_alive() => {
                    Ok(())
                }
                (None, _) if is_first => Err("the resource is not up".into()),
                (Some(running), _) if is_first => change_role(&running, attempt.verb).await,
                (running, Some(step)) => {
                    let config = running.map(|r| r.config());
                    let device = config.as_ref().and_then(|c| c.volumes.first()).map(|v| v.device.clone());
                    steps::run(&step, attempt.verb, &device.unwrap_or_default()).await
                }
                (_, None) => unreachable!("the addresses are looked at above"),
            };
            let _ = own.send(Message::Event(Event::StepDone(attempt.key, result)));
        });
        self.running.retain(|_, task| !task.is_finished());
        self.running.insert(attempt.key, task.abort_handle());
    }

    fn run_addresses(&mut self, attempt: Attempt) {
        let own = self.own.clone();
        let done = move |result| {
            let _ = own.send(Message::Event(Event::StepDone(attempt.key, result)));
        };
        if attempt.verb == Verb::Start {
            let granted = self.addresses.grant();
            tokio::task::spawn_local(async move { done(granted.await) });
        } else {
            let revoked = self.addresses.revoke();
            tokio::task::spawn_local(async move { done(revoked.await) });
        }
    }

    fn history_text(&self) -> String {
        let at = now();
        let mut out = String::new();
        for entry in self.machine.history() {
            let ago = at.saturating_since(entry.at).as_secs();
            let _ = writeln!(out, "service {}: {ago} s ago {}: {}", self.name, entry.what, entry.why);
            for step in &entry.steps {
                let failed = step.failure.as_ref().map(|f| format!(": {f}")).unwrap_or_default();
                let seconds = step.took.as_secs_f64();
                let _ = writeln!(out, "    {:?} {} {seconds:.3} s{failed}", step.verb, step.name);
            }
        }
        out
    }
}

async fn change_role(running: &Running, verb: Verb) -> Result<(), String> {
    let config = running.config();
    let minor = config.volumes.first().map_or_else(String::new, |v| v.minor.to_string());
    let outcome = match verb {
        Verb::Start => running.primary(false, &minor).await,
        Verb::Stop => running.secondary(false, &minor, None).await,
        Verb::Kill => running.secondary(true, &minor, None).await,
        Verb::Look => unreachable!("nobody looks at it"),
    };
    told(&outcome)
}

fn told(outcome: &Outcome) -> Result<(), String> {
    if outcome.exit_code == 0 {
        return Ok(());
    }
    Err(outcome.err.trim_end().replace('\n', "; "))
}

/// Of several volumes the worst.
fn storage(r: &ResourceSnapshot) -> Storage {
    let worst = |f: fn(&model::state::VolumeState) -> DiskState| {
        r.volumes.iter().map(|v| f(&v.state)).min().unwrap_or(DiskState::Diskless)
    };
    let conn = r.volumes.iter().map(|v| v.state.conn).min().unwrap_or(r.connection);
    Storage {
        role: r.role,
        disk: worst(|s| s.disk),
        conn,
        peer_role: r.peer_role,
        peer_disk: worst(|s| s.pdsk),
        frozen: r.role == Role::Primary && r.suspended(),
        peer_word_at: r.peer_word_at_ns.map(Instant),
        linked: r.connection >= ConnState::WFReportParams,
        connections: r.connections,
        parted: Parted::of(r),
    }
}

impl Store {
    async fn carry_out(&self, op: &StoreOp) -> StoreAnswer {
        let mut etcd = self.etcd.lock().await;
        let failed = match etcd.carry_out(&self.key, op).await {
            Ok(answer) => return answer,
            Err(e) => e,
        };
        if matches!(failed, StoreError::OtherCluster { .. } | StoreError::WentBack { .. }) {
            warn!("{failed}");
            // What it holds now is judged by the lease, which knows what it held before.
            if let Ok(fresh) = EtcdStore::new(&self.endpoints, self.attempt) {
                *etcd = fresh;
            }
        }
        failed.answer()
    }
}

fn status_text(s: &ServiceStatus) -> String {
    let mut out = format!("service {}: {} ({})", s.name, s.state, s.why);
    if s.frozen {
        out.push_str(", frozen");
    }
    if s.released {
        out.push_str(", released");
    }
    out.push('\n');
    if let Some((step, verb)) = &s.working_on {
        let _ = writeln!(out, "    now: {verb:?} {step}");
    }
    if let Some(lease) = &s.lease {
        let _ = writeln!(out, "    lease: {lease}");
    }
    if let Some(obstacle) = &s.obstacle {
        let _ = writeln!(out, "    not here because: {obstacle}");
    }
    if let Some(failure) = &s.last_failure {
        let _ = writeln!(out, "    last failure here: {failure}");
    }
    out
}
