//! How many schedules a minute the simulator runs, and how many of each it takes: `cargo bench -p sim`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::swarm::Profile;
use sim::swarm::{Acts, shrink::attempt};

/// How long each figure is measured.
const LONG: Duration = Duration::from_secs(10);

fn main() {
    // A schedule that fails costs what it costs.
    std::panic::set_hook(Box::new(|_| {}));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!(
        "{:<6} {:>5} {:>14} {:>16} {:>12}",
        "kind", "jobs", "schedules/min", "events/schedule", "ns/event"
    );
    for profile in [Profile::Small, Profile::Life] {
        for jobs in [1, cores] {
            measure(profile, jobs);
        }
    }
}

fn measure(profile: Profile, jobs: usize) {
    let (seeds, events) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut memory = None;
                while begun.elapsed() < LONG {
                    let seed = seeds.fetch_add(1, Ordering::Relaxed);
                    if let Ok(o) = attempt(&mut memory, profile, seed, Acts::All) {
                        events.fetch_add(o.steps, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let (runs, events) = (seeds.into_inner() as f64, events.into_inner() as f64);
    println!(
        "{:<6} {jobs:>5} {:>14.0} {:>16.0} {:>12.0}",
        format!("{profile:?}"),
        runs * 60.0 / seconds,
        events / runs,
        seconds * jobs as f64 * 1e9 / events
    );
}
