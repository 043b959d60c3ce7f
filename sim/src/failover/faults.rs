//! What may happen to the nodes, to what is between them, and what operators do.

use failover::lease::record::Record;
use model::state::DiskState;

use super::*;
use crate::node::Faults;

impl Cluster {
    /// Before anything else a core of a service's resource may serve nobody.
    pub(super) fn bound_at_start(&mut self, n: usize) {
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
        (side.client, side.asked, side.changes_seen) = (store::Client::default(), None, 0);
        side.stalls_until = self.w.now;
        side.routers = None;
        if power {
            (side.runs, side.kernel) = (false, [None; 2]);
        }
    }

    /// The daemon starts again after a while.
    pub fn restart_after(&mut self, n: usize, d: Duration) {
        let (at, life) = (self.w.now + d, self.sides[n].life);
        self.put(n, life, at, What::Restart);
    }

    pub(super) fn restart(&mut self, n: usize) {
        if self.sides[n].service.is_some() {
            return;
        }
        self.w.start(n);
        self.bound_at_start(n);
        let net = self.net.clone();
        self.w.connect(n, &net);
        let now = self.w.clock(n);
        let gate = gate_by_chance(self.ttls[n], self.bug, &mut self.rng);
        self.sides[n].gate = gate;
        self.sides[n].service = Some(service(n, self.ttls[n], gate, &mut self.rng, now, self.bug));
        self.note(n, &format!("the daemon starts; its addresses have a gate: {gate:?}"));
        self.start_routers(n);
        self.tell(n, Event::Tick);
    }

    /// The whole node stands still for a while: its daemon, its host, its clock goes on.
    pub fn pause(&mut self, n: usize, d: Duration) {
        self.w.freeze(n, d);
        self.sides[n].stalls_until = self.sides[n].stalls_until.max(self.w.now + d);
        if self.bug == Some(Bug::AddressKeptOverPause) && self.has_address(n, BOUND) {
            self.sides[n].kernel[BOUND] = self.sides[n].kernel[BOUND].map(|until| until + d);
        }
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

    /// Its data are put back to an older copy.
    pub fn restore_store(&mut self, rng: &mut Rng) {
        let changes = self.store.changes();
        if changes == 0 {
            return;
        }
        let (back, anew) = (1 + rng.below(changes as u64) as usize, rng.one_in(2));
        let Some(newest) = self.store.restore(back, anew) else { return };
        self.note(0, &format!("the store is put back by {back} changes to {}", self.store.text()));
        let Some(older) = self.store.record() else { return };
        if self.bug == Some(Bug::OlderStoreAccepted) {
            self.forged = (newest.changes + 1).saturating_sub(older.changes);
            self.store.write(Record { changes: newest.changes + 1, ..older.clone() });
        }
        let ousted = |n: &usize| older.is_current(NODES[*n]) && !newest.is_current(NODES[*n]);
        if let Some(node) = (0..2).find(ousted) {
            self.ousted = Some(node);
        }
    }

    /// An operator tells the core something without asking its service.
    pub fn by_hand(&mut self, n: usize, rng: &mut Rng) {
        if self.sides[n].stalls_until > self.w.now {
            return;
        }
        match rng.below(4) {
            0 => {
                let id = self.w.command(n, Command::Secondary { open: 0, force: rng.one_in(2) });
                self.sides[n].by_hand = Some((id, self.w.now));
            }
            1 => drop(self.w.command(n, Command::Disconnect { force: rng.one_in(2) })),
            _ => {
                let net = self.net.clone();
                self.w.connect(n, &net);
            }
        }
    }

    /// Copies that do not come together by themselves: the operator knows which one has everything, and gives the other one up.
    pub(super) fn decide_by_hand(&mut self) {
        let good = |n: &usize| !self.lacks_something(*n);
        let alone = |n: &usize| self.store.counts(*n) && !self.store.counts(1 - *n);
        let there = |n: &usize| self.w.state(*n).1 == DiskState::UpToDate;
        let kept = (0..2).find(|n| good(n) && alone(n)).or_else(|| (0..2).find(|n| good(n) && there(n)));
        let Some(kept) = kept.or_else(|| (0..2).find(good)) else { return };
        self.note(kept, "an operator keeps this copy, and gives up the other one");
        self.operated += 1;
        for n in [kept, 1 - kept] {
            self.kill(n, false);
            self.restart(n);
            self.w.command(n, Command::Disconnect { force: true });
            let net = NetConfig { discard_my_data: n != kept, ..self.net.clone() };
            self.w.connect(n, &net);
        }
    }

    /// What was done by hand is undone.
    pub(super) fn take_back(&mut self, n: usize) {
        if self.sides[n].by_hand.is_some_and(|(id, _)| id != CommandId(0)) {
            // It waits for writes that wait for the peer, and what comes after it waits as well.
            self.w.command(n, Command::Secondary { open: 0, force: true });
        }
        let net = self.net.clone();
        if self.w.state(n).0 == ConnState::StandAlone {
            self.w.connect(n, &net);
        }
        let here = self.sides[n].service.as_ref().is_some_and(|s| s.state() != &State::Away);
        if !here {
            self.w.command(n, Command::Secondary { open: 0, force: false });
        }
    }

    /// The own disk of a node fails from time to time, or is taken away.
    pub fn break_disk(&mut self, n: usize, rng: &mut Rng) {
        if self.sides[n].stalls_until > self.w.now {
            return;
        }
        self.disks_were_taken = true;
        let rate = 1 << rng.below(6);
        match rng.below(3) {
            0 => self.w.nodes[n].faults.writes = rate,
            1 => self.w.nodes[n].faults.metadata = rate,
            _ => drop(self.w.command(n, Command::Detach { vol: VolIdx(0), force: rng.one_in(2) })),
        }
    }

    /// Its disk is replaced by a good one with the same data on it, and attached.
    pub fn mend_disk(&mut self, n: usize) {
        self.w.nodes[n].faults = Faults::default();
        if self.sides[n].stalls_until <= self.w.now {
            self.w.attach(n);
        }
    }

    /// An operator's order.
    pub fn order(&mut self, n: usize, order: Order) {
        if self.sides[n].stalls_until <= self.w.now {
            self.tell(n, Event::Order(0, order));
        }
    }
}
