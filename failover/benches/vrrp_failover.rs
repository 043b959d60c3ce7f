//! How long a virtual address is away when the master is killed: ours and keepalived's, all pairs in one run, in turns.
//! Needs root and keepalived.
//!
//! `cargo bench -p failover --bench vrrp_failover -- RUNS`

#![allow(clippy::unwrap_used, reason = "a measuring program: it ends when something cannot be done")]

#[path = "../tests/segment/mod.rs"]
mod segment;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use Kind::{Keepalived, Ours};
use segment::{Kind, Segment, Settings, VIP, Watch, router};

const RUNS: u32 = 20;
const ATTEMPTS: u32 = 5;

/// Killed, and who takes over; the first one is what the others are compared with.
const PAIRS: [(Kind, Kind); 4] =
    [(Keepalived, Keepalived), (Keepalived, Ours), (Ours, Keepalived), (Ours, Ours)];

fn main() {
    if router::run_ours() {
        return;
    }
    let runs = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(RUNS);
    let mut times: [Vec<Duration>; PAIRS.len()] = Default::default();
    for run in 0..runs {
        for (pair, times) in PAIRS.iter().zip(&mut times) {
            // On a busy machine a master may have had no time to speak, and the other one is it already.
            let time = (0..ATTEMPTS).find_map(|_| once(*pair, run));
            times.push(time.expect("a machine with time for this"));
        }
        eprintln!("run {} of {runs}", run + 1);
    }
    println!("version 3, 0.1 s, priorities 101 and 100, SIGKILL; {runs} runs; address on the other node");
    println!("{:<34} {:>8} {:>8} {:>14}", "", "median", "worst", "(of keepalived's)");
    let base = summary(&mut times[0]);
    for ((killed, takes), times) in PAIRS.iter().zip(&mut times) {
        let (median, worst) = summary(times);
        let name = format!("{killed:?} killed, {takes:?} takes over");
        println!(
            "{name:<38} {:>5} ms {:>5} ms   {:.2} {:.2}",
            median.as_millis(),
            worst.as_millis(),
            median.as_secs_f64() / base.0.as_secs_f64(),
            worst.as_secs_f64() / base.1.as_secs_f64(),
        );
    }
}

fn once((killed, takes): (Kind, Kind), run: u32) -> Option<Duration> {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let text = |priority| Settings { priority, ..Settings::default() }.text();
    let began = Instant::now();
    let mut master = segment.start(killed, 1, &text(101));
    watch.after(began, 1, true, Duration::from_secs(30));
    let _backup = segment.start(takes, 2, &text(100));
    // At another point between two adverts each time.
    std::thread::sleep(Duration::from_millis(1500) + Duration::from_millis(13) * (run % 8));
    if watch.has(2) || !watch.has(1) {
        return None;
    }
    let at = master.kill();
    Some(watch.after(at, 2, true, Duration::from_secs(10)))
}

fn summary(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], *times.last().unwrap())
}
