//! A Primary whose peer is killed, with `fencing resource-and-stonith`: the script is run as scripts for DRBD expect,
//! clients wait for it, and go on when it has said that the peer is gone.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nbd_client::{Client, Replies};
use pair::{Options, Pair};

const LIMIT: Duration = Duration::from_secs(30);

/// Notes how it was called, waits for its verdict, and ends with it.
const FENCE_PEER: &str = r#"#!/bin/sh
env | sort > "$1/env.tmp" && mv "$1/env.tmp" "$1/env"
for i in $(seq 600); do
    [ -e "$1/verdict" ] && exit "$(cat "$1/verdict")"
    sleep 0.05
done
exit 1
"#;

fn new_pair(dir: &Path) -> Pair {
    let ports = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let addresses = ports.map(|p| p.local_addr().unwrap().to_string());
    let work = dir.join("pair");
    let scripts = dir.join("scripts");
    fs::create_dir_all(&scripts).unwrap();
    fs::write(scripts.join("fence-peer"), FENCE_PEER).unwrap();
    let d = scripts.display();
    let sections = format!(
        "handlers {{ fence-peer \"sh {d}/fence-peer {d}\"; unfence-peer \"touch {d}/unfenced\"; \
         after-resync-target \"echo $DRBD_VOLUME $DRBD_MINOR > {d}/resynced\"; }}"
    );
    let options = Options {
        disk_bytes: 32 << 20,
        net: "ping-timeout 5; connect-int 1;",
        disk: "fencing resource-and-stonith;",
        sections: &sections,
        addresses,
        netns: [None, None],
        prewritten: false,
    };
    Pair::create(Path::new(env!("CARGO_BIN_EXE_lockstep")), &work, &options)
}

fn wait_for_file(path: &Path) -> String {
    let end = Instant::now() + LIMIT;
    while !path.exists() {
        assert!(Instant::now() < end, "{} does not appear", path.display());
        sleep(Duration::from_millis(20));
    }
    fs::read_to_string(path).unwrap()
}

/// A client that writes a block and says when it was answered.
fn write_in_background(socket: PathBuf, offset: u64) -> Receiver<bool> {
    let (answered, answer) = channel();
    std::thread::spawn(move || {
        let mut client = Client::open(&socket, "r0", Replies::Simple).unwrap();
        let _ = answered.send(client.write(offset, &[0xa5; 4096], 0).is_ok());
    });
    answer
}

#[test]
fn clients_wait_until_the_peer_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = new_pair(dir.path());
    let scripts = dir.path().join("scripts");
    pair.up(0);
    pair.up(1);
    pair.wait_for(0, &["cstate", "r0"], "Connected", LIMIT);
    pair.ok(0, &["primary", "--force", "r0"]);
    pair.wait_in_sync(0, LIMIT);
    // Handlers run beside everything else.
    wait_for_file(&scripts.join("unfenced"));
    wait_for_file(&scripts.join("resynced"));
    fs::remove_file(scripts.join("unfenced")).unwrap();

    pair.kill(1);
    let env = wait_for_file(&scripts.join("env"));
    for line in [
        "DRBD_RESOURCE=r0",
        "DRBD_PEER=n2",
        "DRBD_PEERS=n2",
        "DRBD_PEER_AF=ipv4",
        "DRBD_PEER_ADDRESS=127.0.0.1",
        "DRBD_MINOR=0",
        "PATH=/sbin:/usr/sbin:/bin:/usr/bin:/lib/drbd",
    ] {
        assert!(env.lines().any(|l| l == line), "{line} in\n{env}");
    }
    let proc = env.lines().find_map(|l| l.strip_prefix("LOCKSTEP_PROC_DRBD=")).unwrap();
    let proc = fs::read_to_string(proc).unwrap();
    assert!(proc.contains("\n 0: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C s-"), "{proc}");
    assert!(env.contains(&format!("DRBD_CONF={}", pair.config.display())), "{env}");
    assert!(!env.contains("DRBD_VOLUME"), "it is about the connection\n{env}");

    let answer = write_in_background(pair.nbd_socket(0), 8192);
    let early = answer.recv_timeout(Duration::from_secs(2));
    assert_eq!(
        early,
        Err(RecvTimeoutError::Timeout),
        "nobody has said that the peer is gone\n{}",
        pair.logs()
    );
    assert_eq!(pair.ok(0, &["dstate", "r0"]), "UpToDate/DUnknown");
    fs::write(scripts.join("verdict"), "7").unwrap();
    assert_eq!(answer.recv_timeout(LIMIT), Ok(true), "{}", pair.logs());
    assert_eq!(pair.ok(0, &["dstate", "r0"]), "UpToDate/Outdated");

    // It comes back, gets what it missed, and everybody who asked to be told is told.
    fs::remove_file(scripts.join("resynced")).unwrap();
    pair.up(1);
    pair.wait_in_sync(0, LIMIT);
    wait_for_file(&scripts.join("unfenced"));
    assert_eq!(wait_for_file(&scripts.join("resynced")).trim(), "0 0");
    pair.ok(0, &["secondary", "r0"]);
    for i in 0..2 {
        pair.ok(i, &["down", "r0"]);
        pair.stop(i);
    }
    pair.assert_disks_equal();
}
