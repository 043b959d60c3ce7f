//! The scripts before-resync-source and before-resync-target of two daemons: a resync waits for them, and one that fails
//! drops the connection.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nbd_client::{Client, Replies};
use pair::{Options, Pair};

const LIMIT: Duration = Duration::from_secs(30);

/// Notes which node's it is and of which volume, waits for its verdict, and ends with it.
const SCRIPT: &str = r#"#!/bin/sh
echo "$DRBD_PEER $DRBD_VOLUME $DRBD_MINOR" > "$1/$2.tmp" && mv "$1/$2.tmp" "$1/$2"
for i in $(seq 600); do
    [ -e "$1/verdict-$2" ] && exit "$(cat "$1/verdict-$2")"
    sleep 0.05
done
exit 1
"#;

fn new_pair(dir: &Path) -> Pair {
    let ports = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let addresses = ports.map(|p| p.local_addr().unwrap().to_string());
    let scripts = dir.join("scripts");
    fs::create_dir_all(&scripts).unwrap();
    fs::write(scripts.join("before"), SCRIPT).unwrap();
    let d = scripts.display();
    let sections = format!(
        "handlers {{ before-resync-source \"sh {d}/before {d} source\"; \
         before-resync-target \"sh {d}/before {d} target\"; }}"
    );
    let options = Options {
        disk_bytes: 32 << 20,
        net: "ping-timeout 5; connect-int 1;",
        disk: "",
        sections: &sections,
        addresses,
        netns: [None, None],
        prewritten: false,
    };
    Pair::create(Path::new(env!("CARGO_BIN_EXE_lockstep")), &dir.join("pair"), &options)
}

fn wait_for_file(path: &Path, pair: &Pair) -> String {
    let end = Instant::now() + LIMIT;
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not appear\n{}", path.display(), pair.logs());
        sleep(Duration::from_millis(20));
    }
    fs::read_to_string(path).unwrap()
}

/// Node 1 writes while node 2 is down, and node 2 comes back.
fn misses_a_write(pair: &mut Pair, offset: u64) {
    pair.kill(1);
    pair.wait_for(0, &["cstate", "r0"], "WFConnection", LIMIT);
    let mut client = Client::open(&pair.nbd_socket(0), "r0", Replies::Simple).unwrap();
    client.write(offset, &[0x5a; 4096], 0).unwrap();
    pair.up(1);
}

#[test]
fn a_resync_waits_for_its_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = new_pair(dir.path());
    let scripts = dir.path().join("scripts");
    let verdict = |side: &str, code: u8| {
        fs::write(scripts.join("verdict.tmp"), code.to_string()).unwrap();
        fs::rename(scripts.join("verdict.tmp"), scripts.join(format!("verdict-{side}"))).unwrap();
    };
    let forget = |side: &str| {
        let _ = fs::remove_file(scripts.join(side));
        let _ = fs::remove_file(scripts.join(format!("verdict-{side}")));
    };
    verdict("source", 0);
    verdict("target", 0);
    pair.up(0);
    pair.up(1);
    pair.wait_for(0, &["cstate", "r0"], "Connected", LIMIT);
    pair.ok(0, &["primary", "--force", "r0"]);
    pair.wait_in_sync(0, LIMIT);
    assert_eq!(fs::read_to_string(scripts.join("source")).unwrap(), "n2 0 0\n");
    assert_eq!(fs::read_to_string(scripts.join("target")).unwrap(), "n1 0 0\n");

    for (i, side, waits) in [(0, "source", "WFBitMapS"), (1, "target", "WFSyncUUID")] {
        forget(side);
        misses_a_write(&mut pair, 4096 * (1 + i as u64));
        wait_for_file(&scripts.join(side), &pair);
        sleep(Duration::from_secs(1));
        assert_eq!(pair.ok(i, &["cstate", "r0"]), waits, "{}", pair.logs());
        verdict(side, 0);
        pair.wait_in_sync(0, LIMIT);
    }

    // One that fails: the connection is dropped, and an operator has to connect again.
    forget("target");
    verdict("target", 1);
    misses_a_write(&mut pair, 4096 * 3);
    pair.wait_for(1, &["cstate", "r0"], "StandAlone", LIMIT);
    let log = fs::read_to_string(pair.log_file(1)).unwrap();
    assert!(log.contains("before-resync-target handler returned 1, dropping connection."), "{log}");
    verdict("target", 0);
    pair.ok(1, &["connect", "r0"]);
    if pair.ok(0, &["cstate", "r0"]) == "StandAlone" {
        pair.ok(0, &["connect", "r0"]);
    }
    pair.wait_in_sync(0, LIMIT);

    pair.ok(0, &["secondary", "r0"]);
    for i in 0..2 {
        pair.ok(i, &["down", "r0"]);
        pair.stop(i);
    }
    pair.assert_disks_equal();
}
