//! Random schedules: two and three routers on a segment that loses, delays and repeats packets, with pauses, crashes and
//! restarts. The seed is in the message of a failure.

use model::failover::config::{Preempt, VrrpVersion};
use model::time::{Duration, Instant};

use super::super::super::lab::{
    Faults, GROUP, Lab, MS, Random, S, advert_of, config, instance, node, packet,
};
use super::super::super::{Action, Event, State};

/// Schedules of each kind; `LOCKSTEP_VRRP_SEEDS` asks for more.
fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("LOCKSTEP_VRRP_SEEDS").ok().and_then(|n| n.parse().ok());
    0..wanted.unwrap_or(120)
}

/// A segment with two or three routers, all of one version and interval.
fn lab(random: &mut Random) -> (Lab, Vec<u8>, bool, Duration) {
    let nodes = 2 + random.below(2) as usize;
    let (version, interval) = match random.below(3) {
        0 => (VrrpVersion::V2, S),
        1 => (VrrpVersion::V3, S),
        _ => (VrrpVersion::V3, S / 10),
    };
    let nopreempt = random.one_in(3);
    let priorities: Vec<u8> = (0..nodes).map(|_| 100 + random.below(3) as u8 * 40).collect();
    let configs = priorities.iter().map(|priority| {
        let mut instance = instance(version, *priority, interval);
        instance.preempt = if nopreempt { Preempt::Never } else { Preempt::Always };
        config(vec![instance])
    });
    let mut lab = Lab::new(configs.collect(), &[]);
    lab.random = Random(random.below(u64::MAX >> 33));
    (lab, priorities, nopreempt, interval)
}

/// MasterDown of the worst router, and a listening of one that woke up.
fn bound(interval: Duration) -> Duration {
    // A sleeper steps back (MasterDown), or listens (an interval and a skew) and then waits; then the best one may have
    // to preempt (MasterDown once more).
    interval * 14
}

#[test]
fn after_the_faults_exactly_one_router_is_master_and_it_is_the_right_one() {
    for seed in seeds() {
        let mut random = Random(seed);
        let (mut lab, priorities, nopreempt, interval) = lab(&mut random);
        lab.faults = Faults {
            loss: random.below(4) * 2,
            duplicates: random.below(3) * 3,
            delay_min: Duration::ZERO,
            delay_max: interval * (1 + random.below(12) as u32) / 8,
        };
        let nodes = lab.nodes.len();
        for _ in 0..30 {
            let i = random.below(nodes as u64) as usize;
            match (random.below(5), lab.nodes[i].crashed, lab.nodes[i].paused) {
                (_, true, _) => lab.start(i),
                (_, false, true) => lab.resume(i),
                (0, false, false) => lab.stop(i),
                (1, false, false) => lab.nodes[i].crashed = true,
                (2 | 3, false, false) => lab.nodes[i].paused = true,
                _ => {}
            }
            lab.run(interval * random.below(60) as u32 / 10);
        }
        for i in 0..nodes {
            if lab.nodes[i].crashed {
                lab.start(i);
            } else if lab.nodes[i].paused {
                lab.resume(i);
            }
        }
        // What is still on its way arrives.
        lab.run(lab.faults.delay_max);
        lab.faults = Faults { loss: 0, duplicates: 0, delay_min: MS / 10, delay_max: MS };
        lab.run(bound(interval));
        let masters = lab.masters();
        assert_eq!(masters.len(), 1, "seed {seed}: {masters:?} of {priorities:?}");
        if !nopreempt {
            // Of equal ones the first one stays.
            let best = priorities.iter().max();
            assert_eq!(Some(&priorities[masters[0]]), best, "seed {seed}: {priorities:?}");
        }
        let holders: Vec<usize> = (0..nodes).filter(|i| !lab.nodes[*i].addresses.is_empty()).collect();
        assert_eq!(holders, masters, "seed {seed}: the addresses are where the master is");
        let told = |(_, a): &&(Instant, Action)| matches!(a, Action::Notify(_));
        let changes =
            |lab: &Lab| lab.nodes.iter().map(|n| n.actions.iter().filter(told).count()).sum::<usize>();
        let before = changes(&lab);
        lab.run(interval * 30);
        assert_eq!(changes(&lab), before, "seed {seed}: and nothing moves any more");
    }
}

/// How long two routers that ran were Master at the same time, longest.
struct Overlap {
    since: Option<Instant>,
    longest: Duration,
}

#[test]
fn without_loss_two_routers_are_master_together_for_one_way_of_a_packet_at_most() {
    for seed in seeds() {
        let mut random = Random(seed);
        let (mut lab, priorities, _, interval) = lab(&mut random);
        let delay = interval / 50;
        lab.faults =
            Faults { loss: 0, duplicates: random.below(3), delay_min: Duration::ZERO, delay_max: delay };
        let nodes = lab.nodes.len();
        let mut overlap = Overlap { since: None, longest: Duration::ZERO };
        for _ in 0..30 {
            // Nobody sleeps here: who sleeps through MasterDown is Master until it wakes up, and has the addresses.
            let i = random.below(nodes as u64) as usize;
            match (random.below(3), lab.nodes[i].crashed) {
                (_, true) => lab.start(i),
                (0, false) => lab.stop(i),
                (1, false) => lab.nodes[i].crashed = true,
                _ => {}
            }
            let end = lab.now + interval * random.below(100) as u32 / 10;
            lab.run_until(end, |lab| match (lab.masters().len() > 1, overlap.since) {
                (true, None) => overlap.since = Some(lab.now),
                (false, Some(since)) => {
                    overlap.longest = overlap.longest.max(lab.now.saturating_since(since));
                    overlap.since = None;
                }
                (true, Some(_)) | (false, None) => {}
            });
            // A crash or a stop ends it too.
            if lab.masters().len() < 2 {
                overlap.since = None;
            }
        }
        assert!(
            overlap.longest <= delay,
            "seed {seed}: {:?} with {delay:?}, {priorities:?}",
            overlap.longest
        );
    }
}

#[test]
fn a_sleeper_is_not_heard_as_master_after_its_time() {
    for seed in seeds() {
        let mut random = Random(seed);
        let (mut lab, _, _, interval) = lab(&mut random);
        let nodes = lab.nodes.len();
        (0..nodes).for_each(|i| lab.start(i));
        lab.run(interval * 10);
        for _ in 0..10 {
            let i = random.below(nodes as u64) as usize;
            lab.nodes[i].paused = true;
            let pause = interval * (random.below(80) as u32) / 10;
            lab.run(pause);
            lab.nodes[i].actions.clear();
            let was_master = lab.state(i) == State::Master;
            lab.resume(i);
            let spoke = lab.nodes[i].actions.iter().any(|(_, a)| matches!(a, Action::Send { .. }));
            let others = (0..nodes).any(|j| j != i && lab.state(j) == State::Master);
            assert!(!(was_master && spoke && others && pause > interval * 4), "seed {seed}");
            lab.run(interval * 14);
            assert_eq!(lab.masters().len(), 1, "seed {seed}");
        }
    }
}

#[test]
fn a_bound_router_is_master_from_a_grant_to_its_end_whatever_it_hears() {
    for seed in seeds() {
        let mut random = Random(seed);
        let bound = config(vec![instance(VrrpVersion::V2, 100, S)]);
        let mut lab = Lab::new(vec![bound], &["VI_1"]);
        lab.start(0);
        let mut granted = false;
        for _ in 0..200 {
            match random.below(20) {
                0 => {
                    lab.grant(0);
                    granted = true;
                }
                1 => {
                    lab.revoke(0);
                    granted = false;
                }
                2 => {
                    // A sleep: packets and ticks come to somebody whose time may be over.
                    let sleep = [S, 5 * S][random.below(2) as usize];
                    lab.nodes[0].paused = true;
                    lab.run(sleep);
                    lab.resume(0);
                    lab.event(0, Event::Tick);
                    granted &= sleep == S;
                }
                3..8 => lab.run(MS * random.below(3000) as u32),
                _ => {
                    let mut theirs = instance(VrrpVersion::V2, 100, S * (1 + random.below(3) as u32));
                    if random.one_in(3) {
                        theirs.addresses.clear();
                    }
                    let priority = [0, 1, 100, 254, 255][random.below(5) as usize];
                    let from = node(1 + random.below(4) as u8);
                    let (ip, payload) = packet(from, GROUP, &advert_of(&theirs, priority));
                    lab.event(0, Event::Packet { interface: "eth0", ip: &ip, payload: &payload });
                }
            }
            assert_eq!(lab.state(0) == State::Master, granted, "seed {seed}");
            assert_eq!(lab.nodes[0].addresses.is_empty(), !granted, "seed {seed}");
        }
    }
}
