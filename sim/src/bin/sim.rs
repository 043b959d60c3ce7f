//! Runs random schedules: one with its trace, many in search of one that fails, or a failing one made small.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sim::swarm::shrink::{attempt, message, shrink};
use sim::swarm::{Acts, Plan, Profile, run_in, world};
use sim::tally::Tally;
use sim::world::World;

const USAGE: &str = "\
usage: sim [--small] --seed N [--keep A,B,..] [--quiet]   one schedule with its trace; only these acts of it
       sim [--small] --seed N --shrink                    the fewest acts that still fail
       sim [--small] --seeds A..B [--jobs J] [--minutes M]  many, for so long at most
       sim [--small] --fresh COUNT [--jobs J]             so many that nobody ran before; prints which
       sim mutants [--sample | NAME ..]                   how soon deliberate bugs of the core are found
Schedules are whole lives; with --small: a few writes, one or two faults, recovery.";

/// What the command line asks for.
struct Wish {
    profile: Profile,
    seed: Option<u64>,
    keep: Option<Vec<u64>>,
    quiet: bool,
    shrink: bool,
    seeds: Option<(u64, u64)>,
    jobs: usize,
    limit: Option<Duration>,
}

fn parse() -> Option<Wish> {
    let mut wish = Wish {
        profile: Profile::Life,
        seed: None,
        keep: None,
        quiet: false,
        shrink: false,
        seeds: None,
        jobs: 1,
        limit: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--small" => wish.profile = Profile::Small,
            "--quiet" => wish.quiet = true,
            "--shrink" => wish.shrink = true,
            "--seed" => wish.seed = Some(args.next()?.parse().ok()?),
            "--keep" => {
                let list = args.next()?;
                let numbers = list.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().ok());
                wish.keep = Some(numbers.collect::<Option<_>>()?);
            }
            "--seeds" => {
                let range = args.next()?;
                let (a, b) = range.split_once("..")?;
                wish.seeds = Some((a.parse().ok()?, b.parse().ok()?));
            }
            "--fresh" => {
                let count: u64 = args.next()?.parse().ok()?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
                let first = now.as_micros() as u64;
                wish.seeds = Some((first, first + count));
            }
            "--jobs" => wish.jobs = args.next()?.parse().ok().filter(|j| (1..=64).contains(j))?,
            "--minutes" => wish.limit = Some(Duration::from_secs(60 * args.next()?.parse::<u64>().ok()?)),
            _ => return None,
        }
    }
    (wish.seed.is_some() != wish.seeds.is_some()).then_some(wish)
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("mutants") {
        return mutants();
    }
    let Some(wish) = parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match (wish.seed, wish.seeds) {
        (Some(seed), _) if wish.shrink => make_small(wish.profile, seed),
        (Some(seed), _) => one(&wish, seed),
        (_, Some((a, b))) => hunt(&wish, a, b),
        _ => unreachable!("checked when parsed"),
    }
}

/// The table of planted bugs, by a core that was compiled with them.
#[cfg(feature = "mutants")]
fn mutants() -> ExitCode {
    use replicator::Planted;
    use sim::mutants::{Budget, table};

    std::panic::set_hook(Box::new(|_| {}));
    let words: Vec<String> = std::env::args().skip(2).collect();
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    let budget = Budget { small: 100_000, life: 5000 };
    let named = |b: &Planted| words.iter().any(|w| format!("{b:?}") == *w);
    let mut bugs: Vec<Planted> = Planted::ALL.into_iter().filter(|b| words.is_empty() || named(b)).collect();
    if words.first().is_some_and(|w| w == "--sample") {
        bugs = sim::mutants::SAMPLE.to_vec();
    }
    if bugs.is_empty() {
        eprintln!("usage: sim mutants [--sample | NAME ..]; names are those of replicator/src/planted.rs");
        return ExitCode::from(2);
    }
    if table(&bugs, budget, jobs) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs this program again, compiled with the planted bugs.
#[cfg(not(feature = "mutants"))]
fn mutants() -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["run", "--quiet", "--release", "-p", "sim", "--features", "mutants", "--"])
        .args(std::env::args().skip(1))
        .status();
    match status {
        Ok(s) if s.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cannot run cargo: {e}");
            ExitCode::from(2)
        }
    }
}

fn replay(profile: Profile, seed: u64) -> String {
    let small = if profile == Profile::Small { "--small " } else { "" };
    format!("cargo run --release -p sim -- {small}--seed {seed}")
}

fn one(wish: &Wish, seed: u64) -> ExitCode {
    println!("{:?}", Plan::new(wish.profile, seed));
    let mut w = world(wish.profile, seed);
    w.trace = (!wish.quiet).then(Vec::new);
    let acts = wish.keep.as_deref().map_or(Acts::All, Acts::Only);
    let result = catch_unwind(AssertUnwindSafe(|| run_in(&mut w, wish.profile, seed, acts)));
    for line in w.trace.take().unwrap_or_default() {
        println!("{line}");
    }
    match result {
        Ok(outcome) => {
            println!("{outcome:?}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            println!("seed {seed} FAILED at {:.6}: {}", w.now.0 as f64 / 1e9, message(e.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn make_small(profile: Profile, seed: u64) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let Some((acts, message)) = shrink(profile, seed) else {
        println!("seed {seed} does not fail");
        return ExitCode::SUCCESS;
    };
    let list: Vec<String> = acts.iter().map(u64::to_string).collect();
    println!("seed {seed} fails with {} acts: {message}", acts.len());
    println!("replay: {} --keep {}", replay(profile, seed), list.join(","));
    ExitCode::FAILURE
}

/// What all runs of a hunt have in common.
#[derive(Default)]
struct Bag {
    tally: Tally,
    runs: u64,
    failed: u64,
    hours: f64,
    steps: u64,
    writes: u64,
    reads: u64,
    /// Failures by the beginning of their message, with the first seed.
    kinds: BTreeMap<String, (u64, u64)>,
}

fn hunt(wish: &Wish, a: u64, b: u64) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    println!("seeds {a}..{b}, {:?} schedules, {} jobs", wish.profile, wish.jobs);
    let begun = Instant::now();
    let next = AtomicU64::new(a);
    let over = AtomicBool::new(false);
    let bag = Mutex::new(Bag::default());
    std::thread::scope(|scope| {
        for _ in 0..wish.jobs {
            scope.spawn(|| {
                let (mut mine, mut memory) = (Bag::default(), None);
                loop {
                    // In portions, so that the counter is not what the jobs wait for.
                    let first = next.fetch_add(PORTION, Ordering::Relaxed);
                    if first >= b || over.load(Ordering::Relaxed) {
                        break;
                    }
                    for seed in first..(first + PORTION).min(b) {
                        try_seed(&mut memory, wish.profile, seed, &mut mine);
                    }
                    if wish.limit.is_some_and(|l| begun.elapsed() >= l) {
                        over.store(true, Ordering::Relaxed);
                    }
                }
                bag.lock().unwrap_or_else(PoisonError::into_inner).add(mine);
            });
        }
    });
    let bag = bag.into_inner().unwrap_or_else(PoisonError::into_inner);
    bag.report(begun.elapsed());
    if bag.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const PORTION: u64 = 16;

fn try_seed(memory: &mut Option<World>, profile: Profile, seed: u64, bag: &mut Bag) {
    bag.runs += 1;
    match attempt(memory, profile, seed, Acts::All) {
        Ok(o) => {
            bag.hours += o.time.0 as f64 / 3.6e12;
            bag.steps += o.steps;
            bag.writes += o.writes;
            bag.reads += o.reads;
            bag.tally.add(&o.tally);
        }
        Err(message) => {
            bag.failed += 1;
            let text: String = message.chars().take(300).collect();
            println!("seed {seed} FAILED: {text}\n  replay: {}", replay(profile, seed));
            let kind: String = message.chars().filter(|c| !c.is_ascii_digit()).take(40).collect();
            bag.kinds.entry(kind).or_insert((0, seed)).0 += 1;
        }
    }
}

impl Bag {
    fn add(&mut self, o: Bag) {
        self.tally.add(&o.tally);
        self.runs += o.runs;
        self.failed += o.failed;
        self.hours += o.hours;
        self.steps += o.steps;
        self.writes += o.writes;
        self.reads += o.reads;
        for (kind, (count, seed)) in o.kinds {
            self.kinds.entry(kind).or_insert((0, seed)).0 += count;
        }
    }

    fn report(&self, took: Duration) {
        let minutes = took.as_secs_f64() / 60.0;
        println!(
            "{} runs, {} failed, in {took:.1?}: {:.0} a minute",
            self.runs,
            self.failed,
            self.runs as f64 / minutes
        );
        println!(
            "{:.1} virtual hours, {} events, {} answered writes, {} sectors read and compared",
            self.hours, self.steps, self.writes, self.reads
        );
        let counts: Vec<String> = self.tally.named().map(|(name, count)| format!("{count} {name}")).collect();
        println!("{}", counts.join(", "));
        for (kind, (count, seed)) in &self.kinds {
            println!("{count} times, first with seed {seed}: {kind}");
        }
    }
}
