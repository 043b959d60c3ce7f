//! Random schedules. Per seed a swarm of options, most kinds of faults switched off and the rest with wild weights;
//! then a quiet phase in which an operator of little imagination mends what is broken, and everything has to converge.
//!
//! A schedule is a list of acts. Each act draws from a generator of its own, made of the seed and its number, so that
//! a schedule can be run with some of its acts left out (see [`shrink`]).

mod acts;
mod digests;
mod plan;
mod quiet;
pub mod shrink;
mod stalls;
mod two_primaries;

use model::policy::Protocol;
use model::state::ConnState;
use model::time::{Duration, Instant};
use replicator::{Command, VolIdx};

use crate::hooks::FencePeer;
use crate::rng::Rng;
use crate::tally::Tally;
use crate::world::World;

pub use plan::Plan;
use plan::Start;

/// What kind of schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Writes of a good pair, one or two faults, recovery, check: a fraction of a millisecond.
    Small,
    /// A whole life: first connection, resyncs, many faults, operators, promotions, split brain; at least
    /// [`LIFE_REQUESTS`] requests of clients.
    Life,
}

/// Fewest client requests in a whole life.
pub const LIFE_REQUESTS: u64 = 200;
/// Most acts of a schedule.
const ACTS_MAX: u64 = 1000;

/// What a run did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Hash of everything that happened.
    pub hash: u64,
    /// Events.
    pub steps: u64,
    /// Virtual time.
    pub time: Instant,
    /// Answered writes.
    pub writes: u64,
    /// Sectors read and compared.
    pub reads: u64,
    /// What happened, by kind.
    pub tally: Tally,
}

/// Which acts of a schedule are run.
#[derive(Clone, Copy, Debug)]
pub enum Acts<'a> {
    /// All, as many as the plan says.
    All,
    /// These, in order.
    Only(&'a [u64]),
}

/// Runs a seed.
///
/// # Panics
/// With what went wrong.
pub fn run(profile: Profile, seed: u64) -> Outcome {
    run_in(&mut world(profile, seed), profile, seed, Acts::All)
}

/// The world of a seed, for those who want its trace.
pub fn world(profile: Profile, seed: u64) -> World {
    world_in(None, profile, seed)
}

/// The world of a seed, in the memory of another one if there is one.
pub fn world_in(old: Option<World>, profile: Profile, seed: u64) -> World {
    let plan = Plan::new(profile, seed);
    let disks = [plan.disk.clone(), plan.disk.clone()];
    let mut w = match old {
        Some(old) => old.again(seed, plan.sectors, disks, plan.volumes),
        None => World::with_volumes(seed, plan.sectors, disks, plan.volumes),
    };
    w.weather = plan.weather;
    w.one_writer = plan.keeps_to_one_writer();
    w.two_primaries = plan.net.allow_two_primaries;
    for h in &mut w.hooks.handlers {
        h.fence_peer = plan.fence_peer;
    }
    for n in &mut w.nodes {
        n.disk.tearing = plan.tearing;
    }
    if plan.internal {
        w.nodes.iter_mut().for_each(crate::node::Node::make_internal);
    }
    for truth in w.truth.all() {
        truth.protocol_c = plan.net.protocol == Protocol::C;
        truth.discards_by_policy = plan.discards_by_policy();
    }
    w
}

/// Runs a seed in the world made for it.
///
/// # Panics
/// With what went wrong.
pub fn run_in(w: &mut World, profile: Profile, seed: u64, acts: Acts<'_>) -> Outcome {
    let plan = Plan::new(profile, seed);
    let mut s = Schedule { w, plan, role_before: 0, rng: Rng::new(seed), seed };
    s.begin();
    match acts {
        Acts::All => {
            let mut i = 0;
            while i < s.plan.acts || (profile == Profile::Life && s.w.tally.requests < LIFE_REQUESTS) {
                if i == ACTS_MAX {
                    break;
                }
                s.act(i);
                i += 1;
            }
        }
        Acts::Only(list) => list.iter().for_each(|i| s.act(*i)),
    }
    s.quiet_phase();
    let w = s.w;
    w.tally.splits = w.truth.all().map(|t| t.splits).sum();
    Outcome {
        hash: w.trace_hash,
        steps: w.steps,
        time: w.now,
        writes: w.truth.all().map(|t| t.of(0).acknowledged).sum(),
        reads: w.reads_checked,
        tally: w.tally,
    }
}

/// A schedule that runs.
struct Schedule<'a> {
    w: &'a mut World,
    plan: Plan,
    /// Who was Primary last.
    role_before: usize,
    /// Of the present act.
    rng: Rng,
    seed: u64,
}

impl Schedule<'_> {
    fn begin(&mut self) {
        // A disk-timeout in the first sync would leave nothing to play with.
        let (spikes, lag) = (self.w.weather.disk_spikes, self.w.weather.lag);
        if !self.plan.disk.disk_timeout.is_zero() {
            self.w.weather.disk_spikes = 0;
        }
        let shoots = matches!(self.plan.fence_peer, FencePeer::Stonith { .. });
        if shoots && self.slowest_ping() > self.plan.net.ping_timeout {
            // Whoever is shot in the first sync is started by nobody.
            self.w.weather.lag[1] = 0;
        }
        if self.plan.start == Start::Preset {
            let generation = self.w.rng.next();
            self.w.nodes.iter_mut().for_each(|n| n.preset(generation));
        }
        for n in 0..2 {
            self.w.start(n);
            self.w.connect(n, &self.plan.net);
        }
        let connected =
            |w: &World| (0..2).all(|n| w.volume(n).is_some_and(|s| s.conn == ConnState::Connected));
        assert!(self.w.run_until(Duration::from_secs(60), connected), "two nodes find each other");
        if self.plan.start == Start::Skip {
            self.w.run_for(Duration::from_millis(100));
            for v in self.volumes() {
                self.w.command_and_wait(0, Command::NewCurrentUuid { vol: v, clear_bitmap: true });
            }
        }
        let force = self.plan.start == Start::Full;
        self.w.command_and_wait(0, Command::Primary { force });
        if !self.plan.impatient {
            let bound = Duration::from_secs(200) + self.slowest_full_sync() * 2;
            assert!(self.w.run_until(bound, World::in_sync), "the first sync ends");
        }
        (self.w.weather.disk_spikes, self.w.weather.lag) = (spikes, lag);
        self.promote_both();
        for h in &mut self.w.hooks.handlers {
            h.before_resync = self.plan.before_resync;
        }
    }

    fn volumes(&self) -> impl Iterator<Item = VolIdx> + use<> {
        (0..self.plan.volumes).map(VolIdx)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.below(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_lives_hold() {
        for seed in 0..30 {
            run(Profile::Life, seed);
        }
    }

    #[test]
    fn fixed_small_schedules_hold() {
        for seed in 0..1000 {
            run(Profile::Small, seed);
        }
    }

    #[test]
    fn a_hundred_seeds_run_alike_twice() {
        for seed in 1000..1100 {
            let profile = if seed % 4 == 0 { Profile::Life } else { Profile::Small };
            let mut once = world(profile, seed);
            once.trace = Some(Vec::new());
            let again = run(profile, seed);
            assert_eq!(run_in(&mut once, profile, seed, Acts::All), again, "seed {seed}");
            let mut used = world_in(Some(once), profile, seed);
            assert_eq!(run_in(&mut used, profile, seed, Acts::All), again, "seed {seed} in used memory");
        }
    }
}
