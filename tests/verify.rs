//! `verify` of two daemons: blocks that were changed behind their backs are found, shown, and repaired by a new
//! connection; checksums spare the rest; block data carries digests all the while.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nbd_client::{Client, Replies};
use pair::{Options, Pair, free_address};

const LIMIT: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;

/// Two nodes in sync, the first Primary, and a device full of data.
fn synced(name: &str, net: &str, disk: &str) -> (Pair, Vec<u8>) {
    let dir = std::env::temp_dir().join(format!("lockstep-verify-{name}-{}", std::process::id()));
    let found = dir.join("found");
    let sections = format!("handlers {{ out-of-sync \"echo $DRBD_MINOR >> {}\"; }}", found.display());
    let options = Options {
        disk_bytes: 12 << 20,
        net,
        disk,
        sections: &sections,
        addresses: [free_address(), free_address()],
        netns: [None, None],
        prewritten: false,
    };
    let mut pair = Pair::create(Path::new(env!("CARGO_BIN_EXE_lockstep")), &dir, &options);
    pair.up(0);
    pair.up(1);
    pair.wait_for(0, &["cstate", "r0"], "Connected", LIMIT);
    pair.ok(0, &["primary", "--force", "r0"]);
    pair.wait_in_sync(0, LIMIT);
    let mut client = Client::open(&pair.nbd_socket(0), "r0", Replies::Simple).unwrap();
    let data: Vec<u8> = (0..client.size_bytes as u32).map(|i| (i / 7) as u8 ^ (i >> 12) as u8).collect();
    for (i, piece) in data.chunks(1 << 20).enumerate() {
        client.write((i as u64) << 20, piece, 0).unwrap();
    }
    client.flush().unwrap();
    client.close();
    (pair, data)
}

/// Changes blocks of a node's disk behind its daemon's back.
fn damage(pair: &Pair, node: usize, blocks: &[u64]) {
    for block in blocks {
        let status = Command::new("dd")
            .args(["if=/dev/urandom", "bs=4096", "count=1", "conv=notrunc", "status=none", "oflag=direct"])
            .arg(format!("of={}", pair.nodes[node].disk.display()))
            .arg(format!("seek={block}"))
            .status()
            .expect("dd (package coreutils)");
        assert!(status.success());
    }
}

fn out_of_sync_kib(pair: &Pair, node: usize) -> u64 {
    let proc = pair.ok(node, &["proc"]);
    let at = proc.find("oos:").unwrap_or_else(|| panic!("{proc}")) + 4;
    proc[at..].split_whitespace().next().unwrap().parse().unwrap()
}

fn verified(pair: &Pair, node: usize, args: &[&str]) {
    let all: Vec<&str> = ["verify"].iter().chain(args).chain(&["r0"]).copied().collect();
    assert_eq!(pair.ok(node, &all), "");
    for n in 0..2 {
        pair.wait_for(n, &["cstate", "r0"], "Connected", LIMIT);
    }
}

fn holds(pair: &Pair, node: usize, data: &[u8]) -> bool {
    let disk = fs::read(&pair.nodes[node].disk).unwrap();
    disk[..data.len()] == *data
}

fn reconnected(pair: &Pair) {
    pair.ok(0, &["disconnect", "r0"]);
    pair.ok(0, &["connect", "r0"]);
    for n in 0..2 {
        pair.wait_in_sync(n, LIMIT);
        pair.wait_for(n, &["dstate", "r0"], "UpToDate/UpToDate", LIMIT);
    }
}

#[test]
fn changed_blocks_are_found_shown_and_repaired() {
    for (alg, asks) in [("sha1", 0), ("crc32c", 1), ("md5", 0), ("sha256", 1)] {
        let net = format!("connect-int 1; verify-alg {alg}; csums-alg md5; data-integrity-alg sha1;");
        let (mut pair, data) = synced(alg, &net, "c-max-rate 400M; c-fill-target 1M;");
        verified(&pair, asks, &[]);
        assert_eq!([out_of_sync_kib(&pair, 0), out_of_sync_kib(&pair, 1)], [0, 0], "{}", pair.logs());
        let last = data.len() as u64 / BLOCK - 1;
        damage(&pair, 1, &[5, 6, 300, last]);
        assert!(!holds(&pair, 1, &data));
        verified(&pair, asks, &["--start", "0", "--stop=80"]);
        assert_eq!([out_of_sync_kib(&pair, 0), out_of_sync_kib(&pair, 1)], [8, 8], "{}", pair.logs());
        verified(&pair, asks, &[]);
        for n in 0..2 {
            assert_eq!(out_of_sync_kib(&pair, n), 16, "{}", pair.logs());
            let status = pair.ok(n, &["status", "--verbose", "--statistics", "r0"]);
            assert!(status.contains("out-of-sync:16"), "{status}");
            let log = fs::read_to_string(pair.log_file(n)).unwrap();
            assert!(log.contains("Out of sync: start=40, size=16 (sectors)"), "{log}");
            assert!(log.contains("Online verify found 2 4k block out of sync!"), "{log}");
        }
        let calls = || fs::read_to_string(pair.dir.join("found")).unwrap_or_default();
        let until = Instant::now() + Duration::from_secs(20);
        while calls().lines().count() < 4 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(calls().lines().count(), 4, "the handler of both nodes, twice: {:?}", calls());
        reconnected(&pair);
        assert_eq!([out_of_sync_kib(&pair, 0), out_of_sync_kib(&pair, 1)], [0, 0]);
        assert!(holds(&pair, 1, &data) && holds(&pair, 0, &data), "{}", pair.logs());
        verified(&pair, 1 - asks, &["--start=0"]);
        assert_eq!([out_of_sync_kib(&pair, 0), out_of_sync_kib(&pair, 1)], [0, 0]);
        pair.ok(0, &["down", "r0"]);
        pair.ok(1, &["down", "r0"]);
        pair.stop(0);
        pair.stop(1);
        pair.assert_disks_equal();
        let _ = fs::remove_dir_all(&pair.dir);
    }
}

#[test]
fn a_verify_is_shown_while_it_runs_and_survives_writes() {
    let disk = "c-plan-ahead 0; resync-rate 2M; c-min-rate 0;";
    let (mut pair, mut data) = synced("load", "connect-int 1; verify-alg sha1;", disk);
    assert_eq!(pair.ok(1, &["verify", "--start", "0", "r0"]), "");
    assert_eq!(pair.ok(0, &["cstate", "r0"]).trim(), "VerifyT");
    let refused = pair.run(0, &["verify", "r0"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(11), "{said}");
    assert!(said.contains("(-8)"), "{said}");
    let mut client = Client::open(&pair.nbd_socket(0), "r0", Replies::Simple).unwrap();
    let mut shown = false;
    for round in 0..4000u64 {
        let block = round * 37 % (data.len() as u64 / BLOCK);
        let piece = vec![round as u8; 4096];
        client.write(block * BLOCK, &piece, 0).unwrap();
        data[(block * BLOCK) as usize..][..4096].copy_from_slice(&piece);
        if round % 200 == 0 {
            let proc = pair.ok(1, &["proc"]);
            shown |= proc.contains("cs:VerifyS") && proc.contains("verified:") && proc.contains("want:");
        }
    }
    assert!(shown, "progress is in the text of /proc/drbd\n{}", pair.logs());
    client.flush().unwrap();
    client.close();
    for n in 0..2 {
        pair.wait_for(n, &["cstate", "r0"], "Connected", LIMIT);
        assert_eq!(out_of_sync_kib(&pair, n), 0, "no false alarm\n{}", pair.logs());
    }
    pair.ok(0, &["down", "r0"]);
    pair.ok(1, &["down", "r0"]);
    pair.stop(0);
    pair.stop(1);
    pair.assert_disks_equal();
    assert!(holds(&pair, 1, &data));
    let _ = fs::remove_dir_all(&pair.dir);
}

#[test]
fn a_verify_needs_an_algorithm_and_a_connection() {
    let (pair, _) = synced("refused", "connect-int 1;", "");
    let said = |args: &[&str]| {
        let o = pair.run(0, args);
        (o.status.code(), String::from_utf8_lossy(&o.stderr).into_owned())
    };
    let (code, text) = said(&["verify", "r0"]);
    assert_eq!(code, Some(11), "{text}");
    assert!(text.contains("(-14) Need a verify algorithm to start online verify"), "{text}");
    pair.ok(0, &["disconnect", "r0"]);
    let (code, text) = said(&["verify", "r0"]);
    assert_eq!(code, Some(11), "{text}");
    assert!(text.contains("(-15) Need a connection to start verify or resync"), "{text}");
    let _ = fs::remove_dir_all(&pair.dir);
}
