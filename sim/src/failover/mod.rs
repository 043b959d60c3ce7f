//! Two nodes with a service and virtual routers each, a lease store, and clients that write to whichever node has the address:
//! failover and the storage core under the same faults.
//!
//! [`Cluster`] runs [`World`] and, between its events, what the failover side of a node does: its machine, the steps of the
//! service, its routers, the addresses that the kernel keeps for a while. What must hold is looked at after each event: at most one
//! node serves, at most one has the address, and what a client was told is written is there when everything has healed.

mod acts;
mod agenda;
mod apart;
mod bugs;
mod chance;
mod check;
mod excuse;
mod faults;
mod plan;
mod routers;
mod segment;
mod store;

use failover::lease::machine::StoreAnswer;
use failover::promote::chain::{Attempt, LossRank, StepPlan, Verb};
use failover::service::{
    ADDRESS_LIFETIME, Action, Event, Grant, Order, Parted, Service, ServiceSettings, State, Storage,
    answer_for, gate_for,
};
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
use agenda::{Agenda, Due, RouterCommand, What};
pub use bugs::{BUGS, Bug};
pub use plan::{Outcome, run, run_in};
use routers::{BOUND, FREE, RouterPlan, Routers};
use segment::Segment;
use store::Store;

const SECTORS: u64 = 2048;
const NODES: [&str; 2] = ["alpha", "beta"];
/// Terms of the lease: the usual one, and others.
const TTL: Duration = Duration::from_millis(600);
const TTLS: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(1_000), Duration::from_millis(2_000)];
/// How much longer than its lifetime the kernel may keep an address (failover 8.7), and a gate be open.
const KERNEL_SLACK_US: u64 = 280_000;
const GATE_SLACK_US: u64 = 20_000;
/// Between two looks at what runs on the resource.
const LOOK_EVERY: Duration = Duration::from_millis(700);
const STEP_COUNT: usize = 3;
const PROMOTE: usize = 0;
const ADDRESS: usize = 2;

/// The failover side of a node.
struct Side {
    service: Option<Service>,
    /// Counts its daemon's starts.
    life: u32,
    /// What the host runs, beside the resource and the addresses. A killed daemon leaves it.
    runs: bool,
    routers: Option<Routers>,
    /// Until when the kernel keeps the address of each instance, and nothing closes it.
    kernel: [Option<Instant>; 2],
    /// For how long the gate in front of the addresses is open; none: this daemon found that there can be none.
    gate: Option<Duration>,
    seen: Option<Storage>,
    /// Role commands under way, with the attempts that they belong to.
    commands: Vec<(CommandId, Attempt)>,
    deadline: Option<Instant>,
    /// It cannot reach the store.
    cut_from_store: bool,
    stalls_until: Instant,
    /// What its client of the store remembers, and the newest change that has come from there since the daemon started.
    client: store::Client,
    asked: Option<u64>,
    changes_seen: u64,
    /// When the last grant, or the answer to one, arrives.
    last_grant: Instant,
    /// An operator demotes it behind the back of its service, and was not done with that at this time.
    by_hand: Option<(CommandId, Instant)>,
}

/// Which faults happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// What a cluster has to live with.
    Usual,
    /// Also what few will ever see: a store that is put back to an older copy, disks that break, terms that differ. Not everything of
    /// that ends well (ARCHITECTURE.md, known weak points).
    Rare,
}

/// The nodes, the store and what is between them.
pub struct Cluster {
    /// The storage cores and their surroundings.
    pub w: World,
    sides: [Side; 2],
    store: Store,
    store_stalls_until: Instant,
    segment: Segment,
    router_plan: RouterPlan,
    /// The free instance has not had one Master since then, though its routers hear each other.
    free_wrong_since: Option<Instant>,
    /// How often a command to the routers waits for long: one in so many; none: never.
    slow_routers: Option<u64>,
    agenda: Agenda,
    rng: Rng,
    faults: Faults,
    bug: Option<Bug>,
    /// How often a step fails: one in so many; none: never.
    failing_steps: Option<u64>,
    /// The same of steps that are ended by force.
    failing_kills: Option<u64>,
    /// How often a grant, or its answer, takes long: one in so many; none: never.
    slow_grants: Option<u64>,
    /// Terms of the lease, by node.
    ttls: [Duration; 2],
    /// This node's own disk was not there when clients were told that something is written.
    behind: [bool; 2],
    /// A node whose copy counts again only because the store has forgotten that it does not.
    ousted: Option<usize>,
    /// By so much an older record was made to look newer.
    forged: u64,
    /// Disks have failed or were detached; and how often an operator had to decide whose copy counts.
    disks_were_taken: bool,
    operated: u64,
    /// What is known to be weak has happened: nothing is certain any more, and nothing goes on.
    excused: Option<&'static str>,
    slowest_answer_ms: u64,
    net: NetConfig,
    ledger: check::Ledger,
    /// Times that a node became the home.
    pub takeovers: u64,
}

impl Cluster {
    /// A connected pair, in sync, nobody at home yet.
    pub fn new(seed: u64, bug: Option<Bug>, faults: Faults) -> Cluster {
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
        let differ = faults == Faults::Rare;
        let mut ttl = || if rng.one_in(2) || !differ { TTL } else { TTLS[rng.below(3) as usize] };
        let ttls = [ttl(), ttl()];
        let gates = ttls.map(|ttl| gate_by_chance(ttl, bug, &mut rng));
        let sides = [0, 1].map(|n| Side {
            service: Some(service(n, ttls[n], gates[n], &mut rng, w.clock(n), bug)),
            gate: gates[n],
            life: 0,
            runs: false,
            routers: None,
            kernel: [None; 2],
            seen: None,
            commands: Vec::new(),
            deadline: None,
            cut_from_store: false,
            stalls_until: now,
            client: store::Client::default(),
            asked: None,
            changes_seen: 0,
            last_grant: now,
            by_hand: None,
        });
        let mut c = Cluster {
            w,
            sides,
            store: Store::default(),
            store_stalls_until: now,
            segment: Segment::new(now),
            router_plan: RouterPlan::new(&mut rng),
            free_wrong_since: None,
            slow_routers: None,
            agenda: Agenda::default(),
            rng,
            faults,
            bug,
            failing_steps: None,
            failing_kills: None,
            slow_grants: None,
            ttls,
            behind: [false; 2],
            ousted: None,
            forged: 0,
            disks_were_taken: false,
            operated: 0,
            excused: None,
            slowest_answer_ms: 20,
            net,
            ledger: check::Ledger::default(),
            takeovers: 0,
        };
        for n in 0..2 {
            c.bound_at_start(n);
            c.start_routers(n);
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
        if self.excused.is_some() {
            self.w.now = until;
            return;
        }
        let next = self.agenda.next_at().map_or(until, |at| at.min(until));
        if self.w.now < next {
            if !self.w.step(next) {
                self.w.now = next;
            }
        } else if let Some(due) = self.agenda.take_due(self.w.now) {
            self.happen(due);
        }
        self.look();
        self.check();
    }

    fn happen(&mut self, due: Due) {
        let (n, now) = (due.node, self.w.now);
        if due.life != self.sides[n].life && !matches!(due.what, What::AtStore(_) | What::Packet(_)) {
            return;
        }
        if let What::AtStore(ask) = due.what {
            if self.store_stalls_until > now {
                let at = self.store_stalls_until;
                self.put(n, due.life, at, What::AtStore(ask));
                return;
            }
            let before = (self.store.revision(), self.store.record().map_or(0, |r| r.changes));
            let answer = self.store.carry_out(&ask.op, &mut self.sides[n].client);
            if self.store.revision() != before.0 {
                self.record_changed(n, before.1, &ask.op);
            }
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
            What::FromStore(id, answer) => {
                // Answers that come too late are ignored.
                if self.sides[n].asked.take_if(|asked| *asked == id).is_some() {
                    self.saw_record(n, &answer);
                }
                self.tell(n, Event::Store(id, answer));
            }
            What::StepFails(attempt) => {
                self.tell(n, Event::StepDone(attempt.key, Err("fails by chance".into())));
            }
            What::Grant(number, authority) => self.grant_arrives(n, number, authority),
            What::GrantTaken(number) => self.tell(n, Event::GrantTaken(number)),
            What::StepEnds(attempt) => self.step_ends(n, attempt),
            What::Deadline => {
                self.sides[n].deadline = None;
                self.tell(n, Event::Tick);
            }
            What::Restart => self.restart(n),
            What::ToRouters(decided, command) => self.router_command(n, decided, command),
            What::RoutersDeadline => self.routers_deadline(n),
            What::Packet(packet) => self.packet_arrives(n, &packet.0, &packet.1),
            What::Carrier => self.carrier_changed(n),
        }
    }

    fn put(&mut self, node: usize, life: u32, at: Instant, what: What) {
        self.agenda.add(node, life, at.max(self.w.now), what);
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
        let reached = (0..2).find(|n| self.has_address(*n, BOUND));
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

/// Three in four daemons have a gate in front of their addresses.
fn gate_by_chance(ttl: Duration, bug: Option<Bug>, rng: &mut Rng) -> Option<Duration> {
    (!rng.one_in(4) && bug != Some(Bug::GateThatIsNone)).then(|| gate_for(ttl))
}

fn service(
    n: usize,
    ttl: Duration,
    gate: Option<Duration>,
    rng: &mut Rng,
    now: Instant,
    bug: Option<Bug>,
) -> Service {
    let ranks = match bug {
        Some(Bug::AddressFirst) => [LossRank::Later, LossRank::Second, LossRank::Later],
        _ => [LossRank::Second, LossRank::Later, LossRank::First],
    };
    let names = ["promote r0", "start db", "addresses"];
    let steps: Vec<StepPlan> = (0..STEP_COUNT)
        .map(|i| StepPlan {
            name: names[i].into(),
            timeout: Duration::from_secs(5),
            retries: if i == ADDRESS { 5 } else { 0 },
            look_every: if i == 1 { LOOK_EVERY } else { Duration::ZERO },
            loss_rank: ranks[i],
        })
        .collect();
    let settings = ServiceSettings {
        name: "db".into(),
        me: NODES[n].into(),
        peer: NODES[1 - n].into(),
        proof: Proof::Lease,
        preferred: None,
        failback: false,
        ttl,
        addresses_answer: if bug == Some(Bug::GateThatIsNone) {
            answer_for(Some(gate_for(ttl)))
        } else {
            answer_for(gate)
        },
        steps,
        incarnation: rng.next(),
        obstacle: None,
    };
    Service::new(settings, now)
}

#[cfg(test)]
mod tests;
