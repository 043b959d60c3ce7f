//! Our virtual routers beside keepalived's, on one segment (failover 9.3). Needs root and keepalived.
//!
//! Times are printed, and compared with five times what failover 1.16 says: the machine may be busy.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

mod segment;
mod support;

use std::time::{Duration, Instant};

use segment::{Kind, Segment, Settings, VIP, Watch, router};

/// Not a test: our router, when this program is started as one.
#[test]
fn our_router() {
    router::run_ours();
}

const START: Duration = Duration::from_secs(20);

fn config(priority: u8) -> String {
    Settings { priority, ..Settings::default() }.text()
}

/// The master is killed, and comes back.
fn killed(master: Kind, backup: Kind, version: u8, interval: &str, limit: Duration) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let text = |priority| Settings { version, interval, priority, ..Settings::default() }.text();
    let began = Instant::now();
    let mut first = segment.start(master, 1, &text(101));
    watch.after(began, 1, true, START);
    let _second = segment.start(backup, 2, &text(100));
    std::thread::sleep(Duration::from_secs(2));
    assert!(!watch.has(2), "two masters");
    let at = first.kill();
    let taken = watch.after(at, 2, true, limit);
    println!("v{version} {interval} s, {master:?} killed, {backup:?} takes over: {taken:?}");
    if master == Kind::Ours {
        let gone = watch.after(at, 1, false, Duration::from_secs(10));
        println!("  and the address of the dead one is gone after {gone:?}");
    }
    segment.clean(1);
    let at = Instant::now();
    first = segment.start(master, 1, &text(101));
    let back = watch.after(at, 1, true, START);
    let yielded = watch.after(at, 2, false, START);
    println!("  it is back after {back:?}; both had the address for {:?}", watch.doubled(at));
    assert!(yielded < back + Duration::from_secs(1));
    drop(first);
}

#[test]
fn v3_keepalived_is_killed_and_ours_takes_over() {
    killed(Kind::Keepalived, Kind::Ours, 3, "0.1", Duration::from_secs(2));
}

#[test]
fn v3_ours_is_killed_and_keepalived_takes_over() {
    killed(Kind::Ours, Kind::Keepalived, 3, "0.1", Duration::from_secs(2));
}
