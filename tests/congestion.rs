//! Two daemons with protocol A and a link ten times slower than the writes of a client: the one goes Ahead, the other is
//! Behind, and in the end both hold the same; or they disconnect.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nbd_client::{Client, Replies};
use pair::{Options, Pair};

const LIMIT: Duration = Duration::from_secs(60);
/// What a client writes: 12 s for the slow link.
const PIECES: u32 = 192;
const PIECE_BYTES: u32 = 64 << 10;

fn sh(line: &str) {
    let o = Command::new("bash").args(["-ec", line]).output().expect("bash");
    assert!(o.status.success(), "{line}: {}", String::from_utf8_lossy(&o.stderr));
}

/// Two namespaces joined by a veth pair, of their own for each test.
struct Network {
    names: [String; 2],
}

impl Network {
    fn make(name: &str) -> Network {
        let names = ["a", "b"].map(|end| format!("lsc{}{name}{end}", std::process::id()));
        let [a, b] = &names;
        sh(&format!(
            "ip netns add {a}; ip netns add {b}
             ip link add v1 netns {a} type veth peer name v2 netns {b}
             ip -n {a} addr add 10.78.0.1/24 dev v1; ip -n {a} link set v1 up; ip -n {a} link set lo up
             ip -n {b} addr add 10.78.0.2/24 dev v2; ip -n {b} link set v2 up; ip -n {b} link set lo up"
        ));
        Network { names }
    }

    /// From the first node to the second it carries 1 MB/s from now on.
    fn slow_down(&self) {
        sh(&format!(
            "ip netns exec {} tc qdisc add dev v1 root tbf rate 8mbit burst 32k limit 64k",
            self.names[0]
        ));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Two nodes in sync, the first Primary, on a link that has become slow.
fn over_slow_link(name: &str, net: &str) -> (Network, Pair) {
    let network = Network::make(name);
    let dir = std::env::temp_dir().join(format!("lockstep-congestion-{name}-{}", std::process::id()));
    let options = Options {
        disk_bytes: 24 << 20,
        net: &format!("protocol A; connect-int 1; congestion-fill 512K; {net}"),
        disk: "c-max-rate 400M; c-fill-target 1M; resync-rate 400M;",
        sections: "",
        addresses: ["10.78.0.1:7788".into(), "10.78.0.2:7788".into()],
        netns: network.names.clone().map(Some),
        prewritten: false,
    };
    let mut pair = Pair::create(Path::new(env!("CARGO_BIN_EXE_lockstep")), &dir, &options);
    pair.up(0);
    pair.up(1);
    pair.wait_for(0, &["cstate", "r0"], "Connected", LIMIT);
    pair.ok(0, &["primary", "--force", "r0"]);
    pair.wait_in_sync(0, LIMIT);
    network.slow_down();
    (network, pair)
}

/// Writes 12 MiB; how long that took.
fn write_all(pair: &Pair) -> Duration {
    let mut client = Client::open(&pair.nbd_socket(0), "r0", Replies::Simple).unwrap();
    let begun = Instant::now();
    for piece in 0..PIECES {
        let data: Vec<u8> = (0..PIECE_BYTES).map(|i| (i / 11) as u8 ^ piece as u8).collect();
        client.write(u64::from(piece * PIECE_BYTES), &data, 0).unwrap();
    }
    let took = begun.elapsed();
    client.flush().unwrap();
    client.close();
    took
}

/// The end of every test: both nodes stop, and hold the same.
fn ends(mut pair: Pair) {
    for n in 0..2 {
        pair.wait_in_sync(n, LIMIT);
    }
    pair.ok(0, &["secondary", "r0"]);
    for n in 0..2 {
        pair.ok(n, &["down", "r0"]);
    }
    for n in 0..2 {
        pair.stop(n);
    }
    pair.assert_equal_and_clean();
    let _ = fs::remove_dir_all(&pair.dir);
}

#[test]
fn writes_go_ahead_of_a_slow_link_and_are_brought_later() {
    let (_network, pair) = over_slow_link("ahead", "on-congestion pull-ahead;");
    let took = write_all(&pair);
    assert!(took < Duration::from_secs(6), "{took:?}\n{}", pair.logs());
    let until = Instant::now() + LIMIT;
    let mut seen: Vec<String> = Vec::new();
    let mut behind = String::new();
    while seen.last().is_none_or(|s| s != "Connected") {
        assert!(Instant::now() < until, "{seen:?}\n{}", pair.logs());
        let state = pair.ok(0, &["cstate", "r0"]);
        if state == "Ahead" && behind != "Behind" {
            behind = pair.ok(1, &["cstate", "r0"]);
            let proc = pair.ok(0, &["proc"]);
            let still = pair.ok(0, &["cstate", "r0"]) == "Ahead";
            let shown = proc.contains("cs:Ahead ro:Primary/Secondary ds:UpToDate/");
            assert!(shown || !still, "{proc}");
            assert!(!proc.contains(" oos:0\n"), "what the peer lacks is counted: {proc}");
        }
        if seen.last() != Some(&state) {
            seen.push(state);
        }
        sleep(Duration::from_millis(20));
    }
    assert!(seen.contains(&"Ahead".to_owned()) && seen.contains(&"SyncSource".to_owned()), "{seen:?}");
    assert_eq!(behind, "Behind", "{}", pair.logs());
    let log = fs::read_to_string(pair.log_file(0)).unwrap();
    assert!(log.contains("Congestion-fill threshold reached"), "{log}");
    ends(pair);
}

/// The policy is changed while the resource is up, too.
#[test]
fn a_slow_link_ends_the_connection_if_that_is_the_policy() {
    let (_network, pair) = over_slow_link("ends", "on-congestion block;");
    let text = fs::read_to_string(&pair.config).unwrap();
    fs::write(&pair.config, text.replace("on-congestion block", "on-congestion disconnect")).unwrap();
    pair.ok(0, &["adjust", "r0"]);
    pair.wait_in_sync(0, LIMIT);
    let took = write_all(&pair);
    assert!(took < Duration::from_secs(6), "{took:?}\n{}", pair.logs());
    assert_eq!(pair.ok(0, &["cstate", "r0"]), "StandAlone", "{}", pair.logs());
    assert_eq!(pair.ok(0, &["dstate", "r0"]), "UpToDate/DUnknown");
    pair.ok(0, &["connect", "r0"]);
    ends(pair);
}
