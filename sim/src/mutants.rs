//! Shows that the checks can fail: plants each deliberate bug of the core (`replicator/src/planted.rs`) and counts how
//! many schedules it takes until one of them finds it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use replicator::{Planted, plant};

use crate::swarm::shrink::attempt;
use crate::swarm::{Acts, Profile};

/// A few that are found soon, for every check of the project.
pub const SAMPLE: [Planted; 8] = [
    Planted::LossNotMarked,
    Planted::ActivityLogSkipped,
    Planted::AckOnReceive,
    Planted::BarrierDropped,
    Planted::FuaForgotten,
    Planted::SyncDirectionSwapped,
    Planted::NoNewGeneration,
    Planted::PeerBitmapIgnored,
];

/// How many schedules of a kind may be spent on one bug.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Small ones, which come first.
    pub small: u64,
    /// Whole lives.
    pub life: u64,
}

/// How a bug was found.
#[derive(Clone, Debug)]
pub struct Catch {
    /// Kind of the schedule.
    pub profile: Profile,
    /// Its seed.
    pub seed: u64,
    /// Schedules run for it, this one included.
    pub runs: u64,
    /// What did not hold.
    pub message: String,
}

/// Plants a bug and runs schedules until one fails that holds without the bug.
pub fn hunt(bug: Planted, budget: Budget, jobs: usize) -> Option<Catch> {
    let mut spent = 0;
    for (profile, seeds) in [(Profile::Small, budget.small), (Profile::Life, budget.life)] {
        if let Some((seed, message)) = first_failure(bug, profile, seeds, jobs) {
            return Some(Catch { profile, seed, runs: spent + seed + 1, message });
        }
        spent += seeds;
    }
    None
}

/// The lowest failing seed that holds without the bug.
fn first_failure(bug: Planted, profile: Profile, seeds: u64, jobs: usize) -> Option<(u64, String)> {
    let mut from = 0;
    loop {
        let (seed, message) = first_failure_from(bug, profile, from..seeds, jobs)?;
        plant(None);
        if attempt(&mut None, profile, seed, Acts::All).is_ok() {
            return Some((seed, message));
        }
        from = seed + 1;
    }
}

fn first_failure_from(
    bug: Planted,
    profile: Profile,
    seeds: std::ops::Range<u64>,
    jobs: usize,
) -> Option<(u64, String)> {
    plant(Some(bug));
    let next = AtomicU64::new(seeds.start);
    let end = AtomicU64::new(seeds.end);
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut memory = None;
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(message) = attempt(&mut memory, profile, seed, Acts::All) {
                        end.fetch_min(seed, Ordering::Relaxed);
                        let mut found = found.lock().expect("nobody panics with it");
                        if found.as_ref().is_none_or(|(s, _)| seed < *s) {
                            *found = Some((seed, message));
                        }
                    }
                }
            });
        }
    });
    found.into_inner().expect("nobody panics with it")
}

/// Hunts for these bugs and prints one line each; the number of those that were not found.
pub fn table(bugs: &[Planted], budget: Budget, jobs: usize) -> usize {
    let begun = Instant::now();
    println!("{:<28} {:>8} {:<6} {:>8}  what did not hold", "bug", "runs", "kind", "seed");
    let mut missed = 0;
    for bug in bugs {
        let name = format!("{bug:?}");
        match hunt(*bug, budget, jobs) {
            Some(c) => {
                let line = c.message.lines().next().unwrap_or("?");
                let text: String = line.chars().take(90).collect();
                println!("{name:<28} {:>8} {:<6} {:>8}  {text}", c.runs, format!("{:?}", c.profile), c.seed);
            }
            None => {
                missed += 1;
                println!(
                    "{name:<28} NOT FOUND in {} small schedules and {} lives",
                    budget.small, budget.life
                );
            }
        }
    }
    println!("{} of {} found, in {:.1?}", bugs.len() - missed, bugs.len(), begun.elapsed());
    missed
}
