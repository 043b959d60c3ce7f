//! Runs random schedules: `sim --seed N` one with its trace, `sim --seeds A..B` many, reporting those that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use sim::swarm;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--seed", n] => match n.parse() {
            Ok(seed) => one(seed),
            Err(_) => usage(),
        },
        ["--seeds", range] => match range.split_once("..").map(|(a, b)| (a.parse(), b.parse())) {
            Some((Ok(a), Ok(b))) => many(a, b),
            _ => usage(),
        },
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: sim --seed N | --seeds A..B");
    ExitCode::from(2)
}

fn one(seed: u64) -> ExitCode {
    println!("{:?}", swarm::Plan::new(seed));
    let mut w = swarm::world(seed);
    w.trace = Some(Vec::new());
    let result = catch_unwind(AssertUnwindSafe(|| swarm::run_in(&mut w, seed, u64::MAX)));
    for line in w.trace.take().unwrap_or_default() {
        println!("{line}");
    }
    match result {
        Ok(outcome) => {
            println!("{outcome:?}");
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!("seed {seed} FAILED at {:.6}", w.now.0 as f64 / 1e9);
            ExitCode::FAILURE
        }
    }
}

fn many(a: u64, b: u64) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let start = Instant::now();
    let (mut failed, mut hours, mut steps, mut writes, mut splits) = (0u64, 0.0, 0, 0, 0);
    for seed in a..b {
        match catch_unwind(|| swarm::run(seed)) {
            Ok(o) => {
                hours += o.time.0 as f64 / 3.6e12;
                steps += o.steps;
                writes += o.writes;
                splits += o.splits;
            }
            Err(e) => {
                failed += 1;
                let text = e
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| e.downcast_ref::<&str>().copied())
                    .unwrap_or("?");
                println!("seed {seed}: {}", text.chars().take(400).collect::<String>());
            }
        }
    }
    println!(
        "{} seeds, {failed} failed, {hours:.2} virtual hours, {steps} events, {writes} writes, {splits} splits, {:.1?}",
        b - a,
        start.elapsed()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
