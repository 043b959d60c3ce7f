//! What is to happen to the failover side of the nodes, by time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use failover::lease::machine::{Ask, StoreAnswer};
use failover::promote::chain::Attempt;
use failover::vrrp::packet::IpFacts;
use model::time::Instant;
use replicator::Authority;

/// What reaches a node's failover side, and when.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Due {
    pub at: Instant,
    number: u64,
    pub node: usize,
    /// Of the daemon that waits for it.
    pub life: u32,
    pub what: What,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum What {
    AtStore(Ask),
    FromStore(u64, StoreAnswer),
    StepEnds(Attempt),
    /// Nothing was done.
    StepFails(Attempt),
    /// On its way to the core, with its number.
    Grant(u64, Option<Authority>),
    GrantTaken(u64),
    Deadline,
    Restart,
    /// A command to the virtual routers, and when it was decided on.
    ToRouters(Instant, RouterCommand),
    RoutersDeadline,
    /// On the segment of the clients: an advert of the other node.
    Packet(Box<(IpFacts, Vec<u8>)>),
    /// The interface on that segment has lost its carrier, or has got it back.
    Carrier,
}

/// What a service wants of the instance that is bound to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RouterCommand {
    /// The role, for this step or, none, because it was lost in between.
    Grant(Option<Attempt>),
    Revoke(Attempt),
    Renew,
}

/// By time, and then by age.
#[derive(Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Due>,
    numbers: u64,
}

impl Agenda {
    pub fn add(&mut self, node: usize, life: u32, at: Instant, what: What) {
        self.numbers += 1;
        self.heap.push(Due { at, number: self.numbers, node, life, what });
    }

    /// When the next one is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|d| d.at)
    }

    /// The next one, if its time has come.
    pub fn take_due(&mut self, now: Instant) -> Option<Due> {
        if self.next_at()? <= now { self.heap.pop() } else { None }
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
