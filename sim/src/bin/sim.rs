//! Runs one scenario seed and prints its trace.

use std::time::Instant;

fn main() {
    let seed = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(1);
    let start = Instant::now();
    let mut w = sim::scenario::fresh_pair(seed, 40_000);
    w.trace = Some(Vec::new());
    sim::scenario::scribble(&mut w, 0, 20, 40_000);
    for line in w.trace.take().unwrap_or_default() {
        println!("{line}");
    }
    println!("{} steps in {:?}", w.steps, start.elapsed());
}
