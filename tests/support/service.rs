//! A pair whose resource belongs to a service with a lease. Includes [`crate::etcd`] and [`crate::pair`].

use std::fs;
use std::path::Path;
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
    /// Lines inside `net { }`.
    pub net: &'a str,
}

/// A connected pair in sync; `blocks` of the failover file are made for its directory, and `ttl` is its `lease_ttl`.
pub fn pair(dir: &Path, etcd: &Etcd, place: Place<'_>, ttl: &str, blocks: impl Fn(&Path) -> String) -> Pair {
    let binary = Path::new(env!("CARGO_BIN_EXE_lockstep"));
    let b = binary.display();
    let sections =
        format!("handlers {{ fence-peer \"{b} fence-peer\"; unfence-peer \"{b} unfence-peer\"; }}");
    let options = Options {
        disk_bytes: 16 << 20,
        net: place.net,
        disk: "fencing resource-and-stonith;",
        sections: &sections,
        addresses: place.addresses,
        netns: place.netns,
        prewritten: false,
    };
    let mut pair = Pair::create(binary, &dir.join("pair"), &options);
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
        assert!(!late, "{what}: {:?}", [0, 1].map(|i| status(pair, i)));
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
