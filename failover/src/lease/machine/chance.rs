//! Two nodes and a store by chance: slow and lost answers, pauses, restarts, clocks of different speed. Never have both the
//! right to act.

use super::*;
use crate::lease::register::Register;
use crate::lease::rng::Rng;

const TTL: Duration = Duration::from_millis(600);
/// Questions on their way at the same time, of both nodes and of earlier lives of theirs.
const FLIGHTS_MAX: usize = 64;

struct Node {
    lease: Lease,
    /// Nanoseconds of its clock in a millisecond.
    rate: u64,
    paused_until: u64,
    life: u32,
    excluded: bool,
}

impl Node {
    fn clock(&self, t: u64) -> Instant {
        Instant(t * self.rate)
    }
}

struct Flight {
    node: usize,
    life: u32,
    ask: Ask,
    reaches_store: u64,
    comes_back: u64,
    is_lost: bool,
    answer: Option<StoreAnswer>,
}

fn node(n: usize, rng: &mut Rng, t: u64, life: u32, rate: u64) -> Node {
    let names = [("a", "b"), ("b", "a")][n];
    let cfg = LeaseConfig {
        me: names.0.into(),
        peer: names.1.into(),
        incarnation: rng.next(),
        ttl: TTL,
        addresses_answer: TTL,
    };
    let mut lease = Lease::new(cfg, Instant(t * rate));
    lease.set_hold(!rng.one_in(3), Instant(t * rate));
    Node { lease, rate, paused_until: 0, life, excluded: false }
}

/// One life of a pair; how many milliseconds somebody had the right.
fn schedule(seed: u64) -> u64 {
    let rng = &mut Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    // Clocks differ by a tenth at most.
    let rates = [0, 1].map(|_| 950_000 + rng.below(100_000));
    let mut nodes = [0, 1].map(|n| node(n, rng, 0, 0, rates[n]));
    nodes[0].lease.create(true, Instant(0));
    let mut register = Register::default();
    let mut flights: Vec<Flight> = Vec::new();
    let slow = 1 + rng.below(400);
    let mut served = 0;
    for t in 1..8_000u64 {
        for f in flights.iter_mut().filter(|f| f.reaches_store == t) {
            f.answer = Some(register.carry_out(&f.ask.op));
        }
        let (back, still): (Vec<Flight>, Vec<Flight>) = flights.into_iter().partition(|f| {
            // Whoever stands still reads it when it goes on.
            f.comes_back <= t && f.reaches_store <= t && nodes[f.node].paused_until <= t
        });
        flights = still;
        for f in back {
            let node = &mut nodes[f.node];
            if node.life != f.life {
                continue;
            }
            let now = node.clock(t);
            let answer = f.answer.expect("it has reached the store");
            let answer = if f.is_lost { StoreAnswer::Unknown("lost".into()) } else { answer };
            node.lease.answer(now, f.ask.id, answer);
        }
        for (n, node) in nodes.iter_mut().enumerate().filter(|(_, node)| node.paused_until <= t) {
            let now = node.clock(t);
            if rng.one_in(900) {
                node.paused_until = t + rng.below(2_000);
            }
            match rng.below(2_000) {
                0 => node.lease.set_hold(true, now),
                1 => node.lease.set_hold(false, now),
                2 | 3 => node.lease.exclude_peer(now),
                4 | 5 => node.lease.include_peer(now),
                6 => node.lease.release(rng.one_in(2), now),
                _ => {}
            }
            node.excluded |= node.lease.is_alone();
            while flights.len() < FLIGHTS_MAX
                && let Some(ask) = node.lease.poll(now)
            {
                let reaches_store = t + 1 + rng.below(slow);
                let comes_back = reaches_store + 1 + rng.below(slow);
                let is_lost = rng.one_in(20);
                let life = node.life;
                flights.push(Flight { node: n, life, ask, reaches_store, comes_back, is_lost, answer: None });
            }
        }
        if rng.one_in(3_000) {
            // A crash ends its right; the next life knows nothing.
            let n = rng.below(2) as usize;
            let life = nodes[n].life + 1;
            nodes[n] = node(n, rng, t, life, rates[n]);
        }
        let held = [0, 1].map(|n: usize| nodes[n].lease.held(nodes[n].clock(t)));
        assert!(held.contains(&Held::No), "seed {seed}, {t} ms: two homes: {held:?}");
        served += u64::from(held != [Held::No, Held::No]);
    }
    served
}

#[test]
fn never_have_two_nodes_the_right() {
    let served: u64 = (0..1_000).map(schedule).sum();
    assert!(served > 1_000 * 8_000 / 10, "somebody has it often enough: {served}");
}
