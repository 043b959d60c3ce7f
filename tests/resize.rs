//! Two daemons whose backing files grow: online by `resize`, with a client that writes, and while everything is down.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/nbd_client.rs"]
#[allow(dead_code, reason = "shared")]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nbd_client::{Client, Replies};
use pair::{Options, Pair, free_address};

const LIMIT: Duration = Duration::from_secs(60);
const OLD_BYTES: u64 = 24 << 20;

fn new_pair(dir: &Path) -> Pair {
    let options = Options {
        disk_bytes: OLD_BYTES,
        net: "ping-timeout 3; connect-int 1;",
        disk: "resync-rate 400M; c-plan-ahead 0;",
        sections: "",
        addresses: [free_address(), free_address()],
        netns: [None, None],
        prewritten: false,
    };
    Pair::create(Path::new(env!("CARGO_BIN_EXE_lockstep")), dir, &options)
}

/// The backing file of a node becomes larger; what is there then is anything.
fn enlarge(pair: &Pair, i: usize, to_bytes: u64) {
    let file = OpenOptions::new().read(true).write(true).open(&pair.nodes[i].disk).unwrap();
    let from = file.metadata().unwrap().len();
    file.set_len(to_bytes).unwrap();
    let junk = vec![0xa0 + i as u8; (to_bytes - from) as usize];
    file.write_all_at(&junk, from).unwrap();
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512) as u8 ^ (i as u8).wrapping_mul(31) ^ seed).collect()
}

fn open(pair: &Pair) -> Client {
    Client::open(&pair.nbd_socket(0), "r0", Replies::Simple).unwrap()
}

/// Resizes from node `i`; the resync that the resize before began may not be over on that node.
fn resize(pair: &Pair, i: usize, args: &[&str]) {
    let until = Instant::now() + LIMIT;
    loop {
        let said = pair.run(i, args);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        if said.status.success() {
            return;
        }
        assert!(text.contains("(130)") && Instant::now() < until, "{args:?}: {text}\n{}", pair.logs());
        sleep(Duration::from_millis(50));
    }
}

/// New sessions see this size, at once or soon.
fn has_size(pair: &Pair, what: &str, is_it: impl Fn(u64) -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_it(open(pair).size_bytes) {
        assert!(Instant::now() < until, "{what}: {}\n{}", open(pair).size_bytes, pair.logs());
        sleep(Duration::from_millis(50));
    }
}

fn connected(dir: &Path) -> Pair {
    let mut pair = new_pair(dir);
    for i in 0..2 {
        pair.up(i);
    }
    pair.ok(0, &["wait-connect", "r0"]);
    pair.ok(0, &["primary", "--force", "r0"]);
    for i in 0..2 {
        pair.wait_in_sync(i, LIMIT);
    }
    pair
}

fn ends(mut pair: Pair) {
    for i in 0..2 {
        pair.wait_in_sync(i, LIMIT);
    }
    pair.ok(0, &["secondary", "r0"]);
    for i in 0..2 {
        pair.ok(i, &["down", "r0"]);
        pair.stop(i);
    }
    pair.assert_equal_and_clean();
}

#[test]
fn a_device_grows_under_a_client_and_keeps_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let pair = connected(dir.path());
    let mut client = open(&pair);
    let old_end = client.size_bytes;
    let old = pattern(1, 1 << 20);
    client.write(old_end - (1 << 20), &old, 0).unwrap();
    // By a little, where old and new place of the metadata overlap, and by a lot.
    for (round, to_bytes) in [OLD_BYTES + (16 << 10), 48 << 20].into_iter().enumerate() {
        for i in 0..2 {
            enlarge(&pair, i, to_bytes);
        }
        resize(&pair, round, &["resize", "r0"]);
        for i in 0..2 {
            pair.wait_in_sync(i, LIMIT);
        }
        client.write(4096, &pattern(round as u8, 8192), 0).unwrap();
        assert!(client.write(old_end, &[0; 512], 0).is_err(), "this session knows the old size");
        has_size(&pair, "a new session sees the new one", |bytes| bytes > old_end);
        let mut new = open(&pair);
        assert_eq!(new.read(old_end - (1 << 20), 1 << 20).unwrap(), old);
        let last = pattern(9, 4096);
        new.write(new.size_bytes - 4096, &last, 0).unwrap();
        assert_eq!(new.read(new.size_bytes - 4096, 4096).unwrap(), last);
        new.close();
    }
    client.close();
    ends(pair);
}

#[test]
fn limits_shrinking_and_refusals_are_those_of_drbd() {
    let dir = tempfile::tempdir().unwrap();
    let pair = connected(dir.path());
    for i in 0..2 {
        enlarge(&pair, i, 40 << 20);
    }
    resize(&pair, 0, &["resize", "--size=28M", "r0"]);
    for i in 0..2 {
        pair.wait_in_sync(i, LIMIT);
    }
    has_size(&pair, "as asked for", |bytes| bytes == 28 << 20);
    // Asked for, and the copies stay equal without a resync.
    resize(&pair, 0, &["--", "--size=20M", "--assume-clean", "resize", "r0"]);
    pair.wait_in_sync(1, LIMIT);
    has_size(&pair, "as asked for", |bytes| bytes == 20 << 20);
    resize(&pair, 0, &["resize", "r0"]);
    for i in 0..2 {
        pair.wait_in_sync(i, LIMIT);
    }
    has_size(&pair, "all there is", |bytes| bytes > 39 << 20);
    pair.ok(0, &["secondary", "r0"]);
    let refused = pair.run(0, &["resize", "r0"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(10), "{text}");
    assert!(text.contains("(131) Need one Primary node to resize."), "{text}");
    pair.ok(0, &["primary", "r0"]);
    ends(pair);
}

#[test]
fn disks_that_grew_while_everything_was_down_are_found_and_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = connected(dir.path());
    let mut client = open(&pair);
    let data = pattern(5, 1 << 20);
    client.write(8 << 20, &data, 0).unwrap();
    client.close();
    pair.ok(0, &["secondary", "r0"]);
    for i in 0..2 {
        pair.ok(i, &["down", "r0"]);
        pair.stop(i);
        enlarge(&pair, i, 36 << 20);
    }
    assert!(!pair.run(0, &["dump-md", "--force", "r0"]).status.success(), "not at the end");
    pair.ok(0, &["check-resize", "r0"]);
    assert!(pair.ok(0, &["dump-md", "--force", "r0"]).contains("la-size-sect"), "moved there");
    for i in 0..2 {
        // The other node's attach finds it by itself.
        pair.up(i);
    }
    for i in 0..2 {
        pair.wait_in_sync(i, LIMIT);
    }
    pair.ok(0, &["primary", "r0"]);
    let mut client = open(&pair);
    assert!(client.size_bytes > 35 << 20, "both have grown, and so has the device");
    assert_eq!(client.read(8 << 20, 1 << 20).unwrap(), data);
    client.close();
    ends(pair);
}
