//! What may happen to the nodes, to what is between them, and what operators do.

use super::*;

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
        self.sides[n].service = Some(service(n, &mut self.rng, now, self.bug));
        self.note(n, "the daemon starts");
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

    /// An operator's order.
    pub fn order(&mut self, n: usize, order: Order) {
        if self.sides[n].stalls_until <= self.w.now {
            self.tell(n, Event::Order(0, order));
        }
    }
}
