//! Whatever the peer does, every command ends, the daemon stops when it is told to, `down` works, and a client of the
//! device gets an answer.

#[path = "support/pair.rs"]
mod pair;
#[path = "support/stalling_disk.rs"]
mod stalling_disk;
#[path = "support/verifier.rs"]
#[allow(dead_code)]
mod verifier;

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pair::{Options, Pair, free_address};
use stalling_disk::StallingDisk;
use verifier::Writers;

/// timeout x ko-count is 3 s, ping-int and ping-timeout make 1.5 s; the rest is for a busy machine.
const COMMAND_MAX: Duration = Duration::from_secs(10);
const STOP_MAX: Duration = Duration::from_secs(12);
const STATE_MAX: Duration = Duration::from_secs(60);
/// What is under way on a disk is waited for, in two places.
const DOWN_MAX: Duration = Duration::from_secs(25);

/// All that may be said to a resource that is up; order matters only in that the harsh ones come last.
const COMMANDS: &[&[&str]] = &[
    &["status", "r0"],
    &["role", "r0"],
    &["cstate", "r0"],
    &["dstate", "r0"],
    &["proc"],
    &["get-gi", "r0"],
    &["show-gi", "r0"],
    &["dump", "r0"],
    &["adjust", "r0"],
    &["pause-sync", "r0"],
    &["resume-sync", "r0"],
    &["suspend-io", "r0"],
    &["resume-io", "r0"],
    &["invalidate", "r0"],
    &["invalidate-remote", "r0"],
    &["verify", "r0"],
    &["verify", "--start=0", "--stop=1000", "r0"],
    &["outdate", "r0"],
    &["new-current-uuid", "r0"],
    &["wait-connect", "--wfc-timeout=1", "r0"],
    &["wait-sync", "--wfc-timeout=1", "r0"],
    &["primary", "r0"],
    &["secondary", "r0"],
    &["detach", "r0"],
    &["attach", "r0"],
    &["disconnect", "r0"],
    &["connect", "r0"],
    &["primary", "--force", "r0"],
    &["detach", "--force", "r0"],
    &["disconnect", "--force", "r0"],
];

fn binary() -> PathBuf {
    std::env::var_os("LOCKSTEP_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_lockstep")), PathBuf::from)
}

fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("lockstep-hangs-{name}-{}", std::process::id()))
}

fn options() -> Options<'static> {
    Options {
        disk_bytes: 24 << 20,
        net: "timeout 10; ping-int 2; connect-int 2; ping-timeout 5; ko-count 3; verify-alg crc32c;",
        disk: "c-plan-ahead 0; resync-rate 4M; c-min-rate 4M;",
        addresses: [free_address(), free_address()],
        netns: [None, None],
        sections: "",
        prewritten: false,
    }
}

/// Two nodes in sync, the first Primary.
fn synced(name: &str) -> Pair {
    let mut pair = Pair::create(&binary(), &directory(name), &options());
    synchronize(&mut pair);
    pair
}

fn synchronize(pair: &mut Pair) {
    pair.up(0);
    pair.up(1);
    pair.wait_for(0, &["cstate", "r0"], "Connected", STATE_MAX);
    pair.ok(0, &["primary", "--force", "r0"]);
    pair.wait_in_sync(0, STATE_MAX);
}

fn bounded(pair: &Pair, i: usize, args: &[&str]) -> bool {
    let Some(o) = pair.run_within(i, args, COMMAND_MAX) else {
        panic!("n{} {args:?} does not end\n{}", i + 1, pair.logs());
    };
    let err = String::from_utf8_lossy(&o.stderr);
    assert!(o.status.code().is_some(), "{args:?}: {}", o.status);
    assert!(!err.contains("internal error"), "{args:?}: {err}");
    o.status.success()
}

/// Ends node `i` by SIGTERM.
fn terminate(pair: &mut Pair, i: usize) {
    pair.signal(i, "TERM");
    let until = Instant::now() + STOP_MAX;
    while pair.is_alive(i) {
        assert!(Instant::now() < until, "n{} does not stop\n{}", i + 1, pair.logs());
        sleep(Duration::from_millis(20));
    }
}

/// In the situation made by `arrange`, for node `i`: every command and `down`; and in a new one a stop.
fn survive(name: &str, i: usize, arrange: impl Fn(&mut Pair)) {
    let mut pair = synced(name);
    arrange(&mut pair);
    for args in COMMANDS {
        bounded(&pair, i, args);
    }
    bounded(&pair, i, &["secondary", "r0"]);
    assert!(bounded(&pair, i, &["down", "r0"]), "down is refused\n{}", pair.logs());
    let dir = pair.dir.clone();
    drop(pair);

    let mut pair = synced(name);
    arrange(&mut pair);
    terminate(&mut pair, i);
    drop(pair);
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn peer_frozen() {
    survive("frozen", 0, |p| p.signal(1, "STOP"));
}

#[test]
fn primary_frozen() {
    survive("primary-frozen", 1, |p| p.signal(0, "STOP"));
}

#[test]
fn peer_frozen_in_mid_resync() {
    survive("resync-frozen", 0, |p| {
        p.ok(1, &["invalidate", "r0"]);
        sleep(Duration::from_millis(300));
        p.signal(1, "STOP");
    });
}

#[test]
fn source_frozen_in_mid_resync() {
    survive("source-frozen", 1, |p| {
        p.ok(1, &["invalidate", "r0"]);
        sleep(Duration::from_millis(300));
        p.signal(0, "STOP");
    });
}

#[test]
fn own_disk_gone_and_peer_frozen() {
    survive("diskless-frozen", 0, |p| {
        p.ok(0, &["detach", "r0"]);
        p.signal(1, "STOP");
    });
}

#[test]
fn peer_dead() {
    survive("dead", 0, |p| p.kill(1));
}

#[test]
fn in_mid_resync() {
    survive("resync", 1, |p| {
        p.ok(1, &["invalidate", "r0"]);
        sleep(Duration::from_millis(300));
    });
}

#[test]
fn standalone() {
    survive("standalone", 0, |p| {
        p.ok(0, &["disconnect", "r0"]);
    });
}

/// Clients go on within timeout x ko-count, and the daemon stops although they are there.
#[test]
fn clients_are_answered_when_the_peer_freezes() {
    let mut pair = synced("clients");
    let sectors = pair.device_bytes(0) / 512;
    let writers = Writers::new(3, sectors, 1);
    writers.aim(&pair.nbd_socket(0));
    sleep(Duration::from_millis(500));
    pair.signal(1, "STOP");
    sleep(Duration::from_secs(1));
    let before = writers.counts().0;
    let until = Instant::now() + Duration::from_secs(10);
    while writers.counts().0 < before + 200 {
        assert!(Instant::now() < until, "clients hang: {:?}\n{}", writers.counts(), pair.logs());
        sleep(Duration::from_millis(50));
    }
    assert_eq!(writers.complaint(), None);
    terminate(&mut pair, 0);
    let dir = pair.dir.clone();
    drop(pair);
    let _ = std::fs::remove_dir_all(dir);
}

/// Requests that wait for the operator do not keep the daemon.
#[test]
fn suspended_clients_do_not_keep_the_daemon() {
    let mut pair = synced("suspended");
    let sectors = pair.device_bytes(0) / 512;
    let writers = Writers::new(2, sectors, 2);
    writers.aim(&pair.nbd_socket(0));
    sleep(Duration::from_millis(500));
    assert!(bounded(&pair, 0, &["suspend-io", "r0"]));
    sleep(Duration::from_millis(500));
    pair.signal(1, "STOP");
    for args in [&["detach", "r0"], &["disconnect", "r0"], &["down", "r0"], &["dstate", "r0"]] {
        bounded(&pair, 0, args);
    }
    terminate(&mut pair, 0);
    let dir = pair.dir.clone();
    drop(pair);
    let _ = std::fs::remove_dir_all(dir);
}

/// The operator gives up a disk that does not answer. It never does, and the resource goes down all the same.
#[test]
fn a_disk_that_was_given_up_does_not_keep_the_resource() {
    let dir = directory("stalled");
    let _ = std::fs::remove_dir_all(&dir);
    let disk = StallingDisk::new(&dir);
    let other = dir.join("other");
    std::fs::File::create(&other).unwrap().set_len(24 << 20).unwrap();
    let disks = [PathBuf::from(&disk.device), other];
    let mut pair = Pair::on_disks(&binary(), &dir.join("pair"), &options(), disks);
    synchronize(&mut pair);
    let writers = Writers::new(1, pair.device_bytes(0) / 512, 3);
    writers.aim(&pair.nbd_socket(0));
    sleep(Duration::from_millis(300));
    let stall = disk.stall();
    sleep(Duration::from_millis(300));
    assert!(bounded(&pair, 0, &["detach", "--force", "r0"]), "{}", pair.logs());
    writers.rest().unwrap();
    assert_eq!(writers.complaint(), None);
    pair.wait_for(0, &["dstate", "r0"], "Diskless/UpToDate", STATE_MAX);
    let down = pair.run_within(0, &["down", "r0"], DOWN_MAX);
    assert!(down.as_ref().is_some_and(|o| o.status.success()), "{down:?}\n{}", pair.logs());
    drop(stall);
    terminate(&mut pair, 0);
    drop(pair);
    drop(disk);
    let _ = std::fs::remove_dir_all(dir);
}
