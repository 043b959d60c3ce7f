//! A pair whose resource belongs to a service with a lease. Includes [`crate::etcd`] and [`crate::pair`].

#![allow(dead_code)] // each test uses its part

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::etcd::Etcd;
use crate::pair::{Options, Pair};

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where the nodes are.
pub struct Place<'a> {
    pub addresses: [String; 2],
    pub netns: [Option<String>; 2],
    /// What the daemons are started by; none: nothing.
    pub launcher: Vec<String>,
    /// Lines inside `net { }`.
    pub net: &'a str,
}

/// Bytes of the disks of a [`pair`].
pub const DISK_BYTES: u64 = 16 << 20;

/// A connected pair in sync on new disks; `blocks` of the failover file are made for its directory, and `ttl` is its `lease_ttl`.
pub fn pair(dir: &Path, etcd: &Etcd, place: Place<'_>, ttl: &str, blocks: impl Fn(&Path) -> String) -> Pair {
    let disks = ["n1", "n2"].map(|name| {
        let disk = dir.join(format!("{name}.img"));
        fs::File::create(&disk).unwrap().set_len(DISK_BYTES).unwrap();
        disk
    });
    pair_on(dir, disks, etcd, place, ttl, blocks)
}

/// The same on two disks that are equal.
pub fn pair_on(
    dir: &Path,
    disks: [PathBuf; 2],
    etcd: &Etcd,
    place: Place<'_>,
    ttl: &str,
    blocks: impl Fn(&Path) -> String,
) -> Pair {
    let given = std::env::var_os("LOCKSTEP_BIN").map(PathBuf::from);
    let binary = given.unwrap_or_else(|| env!("CARGO_BIN_EXE_lockstep").into());
    let b = binary.display();
    let sections =
        format!("handlers {{ fence-peer \"{b} fence-peer\"; unfence-peer \"{b} unfence-peer\"; }}");
    let options = Options {
        disk_bytes: 0,
        net: place.net,
        disk: "fencing resource-and-stonith; c-plan-ahead 0; resync-rate 400M;",
        sections: &sections,
        addresses: place.addresses,
        netns: place.netns,
        prewritten: false,
    };
    let mut pair = Pair::on_disks(&binary, &dir.join("pair"), &options, disks);
    pair.launcher = place.launcher;
    let file = pair.dir.join("failover.conf");
    let globals = format!("global_defs {{\n lease_store {}\n lease_ttl {ttl}\n}}\n", etcd.url);
    fs::write(&file, globals + &blocks(&pair.dir)).unwrap();
    let toml = format!("[failover]\nconfig = \"{}\"\n", file.display());
    fs::write(pair.dir.join("lockstep.toml"), toml).unwrap();
    for i in 0..2 {
        pair.start(i);
        pair.ok(i, &["up", "r0"]);
    }
    pair.ok(0, &["wait-connect", "r0"]);
    pair.ok(0, &["new-current-uuid", "--clear-bitmap", "r0/0"]);
    pair
}

/// What a node says of its services.
pub fn status(pair: &Pair, i: usize) -> String {
    let o = pair.run(i, &["failover", "status"]);
    String::from_utf8_lossy(&o.stdout).into_owned()
}

/// Waits until it is so.
pub fn wait_until(pair: &Pair, what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        let late = begun.elapsed() > LIMIT;
        assert!(!late, "{what}: {:?}\n{}", [0, 1].map(|i| status(pair, i)), pair.logs());
        sleep(Duration::from_millis(20));
    }
}

/// Waits until both copies are good.
pub fn in_sync(pair: &Pair) {
    wait_until(pair, "both copies are good", || {
        (0..2).all(|i| {
            let o = pair.run(i, &["dstate", "r0"]);
            String::from_utf8_lossy(&o.stdout).trim() == "UpToDate/UpToDate"
        })
    });
}
