//! Two kernels, a store and an operator by chance: links that are cut, losses noticed late, slow handlers, slow and lost answers,
//! swaps that arrive when nobody waits for them any more. What was acknowledged is on every Primary that serves.

use std::collections::BTreeSet;

use super::*;
use crate::lease::machine::{Ask, Held, Lease, LeaseConfig};
use crate::lease::register::Register;
use crate::lease::rng::Rng;

const NAMES: [&str; 2] = ["a", "b"];

/// A handler that a kernel has called.
struct Call {
    handler: Handler,
    /// Its program does nothing before that.
    wakes_at: u64,
    /// An answer of the store is on its way.
    waits: bool,
    /// The connections that there had been.
    connections: u32,
    is_promotion: bool,
}

struct Kernel {
    role: Role,
    disk: DiskState,
    believes: bool,
    frozen: bool,
    /// It takes its peer for Outdated.
    fenced: bool,
    data: BTreeSet<u64>,
    fence: Option<Call>,
    unfence: Option<Call>,
}

struct Flight {
    node: usize,
    duty: Duty,
    op: StoreOp,
    reaches_at: u64,
    back_at: u64,
    is_lost: bool,
    answer: Option<StoreAnswer>,
    /// Nobody waits for it any more.
    is_orphan: bool,
}

struct World {
    rng: Rng,
    nodes: [Kernel; 2],
    register: Register,
    flights: Vec<Flight>,
    link: bool,
    connections: u32,
    acknowledged: BTreeSet<u64>,
    t: u64,
    slow: u64,
    /// One in how many milliseconds a node notices a loss.
    notices: u64,
    alone: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let kernel = || Kernel {
            role: Role::Secondary,
            disk: DiskState::UpToDate,
            believes: true,
            frozen: false,
            fenced: false,
            data: BTreeSet::new(),
            fence: None,
            unfence: None,
        };
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut register = Register::default();
        register.write(Record::new(None, NAMES.map(str::to_owned).to_vec()).encode());
        let slow = 1 + rng.below(300);
        World {
            rng,
            nodes: [kernel(), kernel()],
            register,
            flights: Vec::new(),
            link: true,
            connections: 1,
            acknowledged: BTreeSet::new(),
            t: 0,
            slow,
            notices: 1 + Rng(seed + 77).below(200),
            alone: 0,
        }
    }

    fn call(&mut self, n: usize, duty: Duty, is_promotion: bool) {
        let cfg = HandlerSettings {
            duty,
            me: NAMES[n].into(),
            peer: NAMES[1 - n].into(),
            is_synchronous: true,
            timeout: Duration::from_secs(2),
            changes_seen: 0,
        };
        let handler = Handler::new(cfg, Instant(self.t * 1_000_000));
        let wakes_at = self.t + self.rng.below(500);
        let call = Call { handler, wakes_at, waits: false, connections: self.connections, is_promotion };
        let slot = match duty {
            Duty::Fence => &mut self.nodes[n].fence,
            Duty::Unfence => &mut self.nodes[n].unfence,
        };
        if slot.is_none() {
            *slot = Some(call);
        }
    }

    fn look(&self, n: usize) -> VolumeLook {
        let (own, other) = (&self.nodes[n], &self.nodes[1 - n]);
        // Of a peer that is gone it knows what was said last; that it was Secondary is the worst case.
        let unknown = if own.fenced { DiskState::Outdated } else { DiskState::DUnknown };
        VolumeLook {
            conn: if own.believes { ConnState::Connected } else { ConnState::WFConnection },
            role: own.role,
            peer_role: match own.believes {
                true if other.believes => other.role,
                true => Role::Secondary,
                false => Role::Unknown,
            },
            disk: own.disk,
            peer_disk: if own.believes { DiskState::UpToDate } else { unknown },
        }
    }

    fn step(&mut self) {
        self.t += 1;
        self.store();
        for n in 0..2 {
            self.run(n, Duty::Fence);
            self.run(n, Duty::Unfence);
            self.notice(n);
            self.write(n);
            self.operate(n);
        }
        if self.rng.one_in(400) {
            self.link = !self.link;
        }
        self.meet();
    }

    fn store(&mut self) {
        let t = self.t;
        for f in self.flights.iter_mut().filter(|f| f.reaches_at == t) {
            f.answer = Some(self.register.carry_out(&f.op));
        }
        let mut flights = std::mem::take(&mut self.flights);
        for f in flights.iter_mut().filter(|f| f.back_at <= t && !f.is_orphan) {
            f.is_orphan = true;
            let call = match f.duty {
                Duty::Fence => self.nodes[f.node].fence.as_mut(),
                Duty::Unfence => self.nodes[f.node].unfence.as_mut(),
            };
            let answer =
                f.answer.clone().filter(|_| !f.is_lost).unwrap_or(StoreAnswer::Unknown("lost".into()));
            let call = call.expect("it waits for its answer");
            call.waits = false;
            call.handler.answered(Instant(t * 1_000_000), answer);
        }
        flights.retain(|f| f.reaches_at > t || !f.is_orphan);
        self.flights = flights;
    }

    fn run(&mut self, n: usize, duty: Duty) {
        let look = self.look(n);
        let node = &mut self.nodes[n];
        let slot = if duty == Duty::Fence { &mut node.fence } else { &mut node.unfence };
        let Some(call) = slot.as_mut().filter(|c| c.wakes_at <= self.t && !c.waits) else { return };
        match call.handler.turn(Instant(self.t * 1_000_000)) {
            Turn::Look => {
                call.handler.looked(Ok(vec![look]));
                call.wakes_at = self.t + self.rng.below(self.slow);
            }
            Turn::Wait(until) => call.wakes_at = until.0 / 1_000_000,
            Turn::Ask(op, _) => {
                call.waits = true;
                let reaches_at = self.t + 1 + self.rng.below(self.slow);
                // Now and then it is given up before it has arrived.
                let back_at = self.t + 1 + self.rng.below(2 * self.slow);
                let is_lost = self.rng.one_in(10);
                let is_orphan = false;
                self.flights.push(Flight {
                    node: n,
                    duty,
                    op,
                    reaches_at,
                    back_at,
                    is_lost,
                    answer: None,
                    is_orphan,
                });
            }
            Turn::End(verdict) => {
                let call = slot.take().expect("it has just ended");
                if duty == Duty::Fence {
                    self.fence_ended(n, &call, verdict.code);
                }
            }
        }
    }

    // spec: drbd-states 14.1
    fn fence_ended(&mut self, n: usize, call: &Call, code: u8) {
        let node = &mut self.nodes[n];
        if node.believes || call.connections != self.connections {
            return;
        }
        match code {
            PEER_FENCED => {
                (node.fenced, node.frozen) = (true, false);
                if call.is_promotion && node.disk == DiskState::UpToDate {
                    node.role = Role::Primary;
                }
            }
            PEER_IS_PRIMARY if node.role == Role::Secondary => node.disk = DiskState::Outdated,
            _ => {}
        }
        self.check(n);
    }

    fn check(&self, n: usize) {
        let node = &self.nodes[n];
        if node.role == Role::Primary && !node.frozen {
            assert!(
                self.acknowledged.is_subset(&node.data),
                "{} ms: {} lacks what was acknowledged",
                self.t,
                NAMES[n]
            );
        }
    }

    fn notice(&mut self, n: usize) {
        if !self.link && self.rng.one_in(self.notices) {
            self.lose(n);
        }
    }

    fn lose(&mut self, n: usize) {
        if std::mem::replace(&mut self.nodes[n].believes, false) && self.nodes[n].role == Role::Primary {
            self.nodes[n].frozen = true;
            self.call(n, Duty::Fence, false);
        }
    }

    fn write(&mut self, n: usize) {
        if self.nodes[n].role != Role::Primary || self.nodes[n].frozen || !self.rng.one_in(20) {
            return;
        }
        let t = self.t;
        let reaches = self.link && self.nodes.iter().all(|k| k.believes);
        if self.nodes[n].believes && reaches {
            self.nodes.iter_mut().for_each(|k| k.data.extend([t]));
        } else if !self.nodes[n].believes && self.nodes[n].fenced {
            self.nodes[n].data.insert(t);
            self.alone += 1;
        } else {
            return;
        }
        self.acknowledged.insert(t);
        self.check(n);
    }

    fn operate(&mut self, n: usize) {
        if !self.rng.one_in(300) {
            return;
        }
        let other = (self.nodes[1 - n].role, self.nodes[1 - n].believes);
        let node = &mut self.nodes[n];
        match node.role {
            Role::Primary => (node.role, node.frozen) = (Role::Secondary, false),
            _ if node.believes && self.link && other == (Role::Secondary, true) => {
                self.nodes[n].role = Role::Primary;
                self.check(n);
            }
            _ if !node.believes && node.disk == DiskState::UpToDate => self.call(n, Duty::Fence, true),
            _ => {}
        }
    }

    /// Both try to connect again.
    fn meet(&mut self) {
        let [a, b] = &self.nodes;
        if !self.link || a.believes && b.believes || !self.rng.one_in(50) {
            return;
        }
        // Of a connection that only one node has given up both notice the end.
        (0..2).for_each(|n| self.lose(n));
        if self.nodes.iter().all(|k| k.role == Role::Primary) {
            return;
        }
        let [a, b] = &self.nodes;
        let is_newer = [a.data.is_superset(&b.data), b.data.is_superset(&a.data)];
        assert!(is_newer[0] || is_newer[1], "{} ms: split brain", self.t);
        let source = if is_newer == [true, true] {
            usize::from(b.role == Role::Primary)
        } else {
            usize::from(!is_newer[0])
        };
        if self.nodes[1 - source].role == Role::Primary && is_newer != [true, true] {
            return;
        }
        // A fenced peer becomes target even if nothing was written.
        let syncs =
            is_newer != [true, true] || self.nodes.iter().any(|k| k.fenced || k.disk != DiskState::UpToDate);
        self.nodes[1 - source].data = self.nodes[source].data.clone();
        self.connections += 1;
        for k in &mut self.nodes {
            (k.believes, k.frozen, k.fenced, k.disk) = (true, false, false, DiskState::UpToDate);
        }
        if syncs {
            self.call(source, Duty::Unfence, false);
            // The worst time for a loss.
            self.link = !self.rng.one_in(3);
        }
    }
}

#[test]
fn no_primary_lacks_what_was_acknowledged() {
    let (mut alone, mut written) = (0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed);
        (0..10_000).for_each(|_| world.step());
        alone += world.alone;
        written += world.acknowledged.len();
    }
    assert!(
        alone > 1_000 && written > 10_000,
        "clients are served: {written}, {alone} of them by one node alone"
    );
}

/// The holder runs our daemon, its peer a kernel: a holder that stands still, slow answers, clocks of different speed. From the
/// moment that its peer may go on, it has no right.
fn beside_a_daemon(seed: u64) -> u8 {
    let mut rng = Rng((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let rate = 900_000 + rng.below(200_000);
    let clock = |t: u64| Instant(t * rate);
    let cfg = LeaseConfig {
        me: "a".into(),
        peer: "b".into(),
        incarnation: 1,
        ttl: Duration::from_millis(600),
        addresses_answer: Duration::from_secs(1),
    };
    let mut lease = Lease::new(cfg, clock(0));
    lease.set_hold(true, clock(0));
    let mut register = Register::default();
    register.write(Record::new(None, NAMES.map(str::to_owned).to_vec()).encode());
    let slow = 1 + rng.below(250);
    let (stops_at, for_ms) = (1_000 + rng.below(2_000), rng.below(5_000));
    let excludes_at = if rng.one_in(4) { rng.below(4_000) } else { u64::MAX };
    let called_at = 1_000 + rng.below(3_000);
    let mut asked: Option<(Ask, u64, u64, Option<StoreAnswer>)> = None;
    let mut call: Option<(Handler, u64)> = None;
    let mut verdict = None;
    for t in 1..10_000 {
        if let Some((ask, _, _, answer)) = asked.as_mut().filter(|(_, reaches_at, _, _)| *reaches_at == t) {
            *answer = Some(register.carry_out(&ask.op));
        }
        if !(stops_at..stops_at + for_ms).contains(&t) {
            if t == excludes_at {
                lease.exclude_peer(clock(t));
            }
            if let Some((ask, _, _, answer)) =
                asked.take_if(|(_, reaches_at, back_at, _)| t >= *reaches_at && t >= *back_at)
            {
                lease.answer(clock(t), ask.id, answer.expect("it has arrived"));
            }
            if asked.is_none() {
                let flight = |ask| (ask, t + 1 + rng.below(slow), t + 1 + rng.below(2 * slow), None);
                asked = lease.poll(clock(t)).map(flight);
            }
        }
        if t == called_at {
            let cfg = HandlerSettings {
                duty: Duty::Fence,
                me: "b".into(),
                peer: "a".into(),
                is_synchronous: true,
                timeout: Duration::from_secs(4),
                changes_seen: 0,
            };
            call = Some((Handler::new(cfg, Instant(t * 1_000_000)), t));
        }
        if let Some((handler, wakes_at)) = call.as_mut().filter(|(_, wakes_at)| *wakes_at <= t) {
            let now = Instant(t * 1_000_000);
            *wakes_at = t + 1 + rng.below(20);
            match handler.turn(now) {
                Turn::Look => handler.looked(Ok(vec![VolumeLook {
                    conn: ConnState::WFConnection,
                    role: Role::Secondary,
                    peer_role: Role::Unknown,
                    disk: DiskState::UpToDate,
                    peer_disk: DiskState::DUnknown,
                }])),
                Turn::Ask(op, _) => handler.answered(now, register.carry_out(&op)),
                Turn::Wait(until) => *wakes_at = until.0.div_ceil(1_000_000),
                Turn::End(end) => (verdict, call) = (Some(end.code), None),
            }
        }
        if verdict == Some(PEER_FENCED) {
            assert_eq!(lease.held(clock(t)), Held::No, "seed {seed}, {t} ms: both may act");
        }
    }
    verdict.expect("a handler ends")
}

#[test]
fn a_kernel_goes_on_only_when_the_daemon_beside_it_has_no_right() {
    let codes: Vec<u8> = (0..3_000).map(beside_a_daemon).collect();
    for code in [PEER_FENCED, PEER_IS_PRIMARY] {
        assert!(codes.iter().filter(|c| **c == code).count() > 50, "both happen: {code}");
    }
}
