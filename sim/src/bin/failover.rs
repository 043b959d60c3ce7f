//! Runs random schedules of failover: one with its trace, or many; or shows that planted bugs are found.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sim::failover::{BUGS, Bug, Cluster, Faults, Outcome, run, run_in};
use sim::swarm::shrink::message;

const USAGE: &str = "\
usage: sim-failover --seed N            one schedule with its trace
       sim-failover --seeds A..B [--jobs J]  many
       sim-failover --bugs              how soon deliberate bugs are found
       sim-failover --rare ...          also stores put back, broken disks, terms that differ";

/// Schedules in which a planted bug has to be found.
const BUG_BUDGET: u64 = 5_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = args.iter().map(String::as_str).collect();
    let faults = if words.first() == Some(&"--rare") { Faults::Rare } else { Faults::Usual };
    if faults == Faults::Rare {
        words.remove(0);
    }
    let range = |text: &str| {
        let (a, b) = text.split_once("..")?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    match words.as_slice() {
        ["--seed", seed] if seed.parse::<u64>().is_ok() => one(seed.parse().expect("just parsed"), faults),
        ["--bugs"] => bugs(),
        ["--seeds", text] if range(text).is_some() => many(range(text).expect("just parsed"), 1, faults),
        ["--seeds", text, "--jobs", jobs] if range(text).is_some() && jobs.parse::<usize>().is_ok() => {
            many(range(text).expect("just parsed"), jobs.parse().expect("just parsed"), faults)
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn one(seed: u64, faults: Faults) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut cluster = Cluster::new(seed, None, faults);
    cluster.w.trace = Some(Vec::new());
    let result = catch_unwind(AssertUnwindSafe(|| run_in(&mut cluster, seed)));
    for line in cluster.w.trace.take().unwrap_or_default() {
        println!("{line}");
    }
    match result {
        Ok(outcome) => {
            println!("seed {seed} holds: {outcome:?}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            println!("seed {seed}: {}", message(&*e));
            ExitCode::FAILURE
        }
    }
}

fn many((first, end): (u64, u64), jobs: usize, faults: Faults) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let begun = Instant::now();
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(0);
    let total = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    match catch_unwind(|| run(seed, None, faults)) {
                        Ok(o) => total.lock().expect("nobody panics with it").add(&o),
                        Err(e) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            let text = message(&*e);
                            println!("seed {seed}: {}", text.chars().take(300).collect::<String>());
                        }
                    }
                }
            });
        }
    });
    let (runs, failed, took) = (end - first, failed.into_inner(), begun.elapsed());
    let a_minute = runs as f64 / took.as_secs_f64() * 60.0;
    println!("seeds {first}..{end}: {runs} runs, {failed} failed, in {took:.1?}: {a_minute:.0} a minute");
    println!("{:?}", total.into_inner().expect("nobody panics with it"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bugs() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    for bug in BUGS {
        let found = (0..BUG_BUDGET).find(|seed| finds(*seed, bug));
        match found {
            Some(seed) => println!("{bug:?}: found by schedule {seed}"),
            None => println!("{bug:?}: NOT found in {BUG_BUDGET} schedules"),
        }
        missed += u32::from(found.is_none());
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn finds(seed: u64, bug: Bug) -> bool {
    catch_unwind(|| run(seed, Some(bug), Faults::Rare)).is_err()
}
