//! `resync-after` between two resources of two nodes: the second resync waits for the first.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(dir: &Path, host: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    for name in ["LOCKSTEP_CONFIG", "LOCKSTEP_HOST", "LOCKSTEP_RUN_DIR", "LOCKSTEP_TOML"] {
        command.env_remove(name);
    }
    command.arg("-c").arg(dir.join("drbd.conf")).args(["--host", host, "--run-dir"]).arg(dir.join(host));
    command
}

fn run(dir: &Path, host: &str, args: &[&str]) -> String {
    let output = command(dir, host).args(args).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?} on {host}: {} {err}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config(dir: &Path) -> String {
    let listeners: Vec<TcpListener> =
        (0..4).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    let host = |resource: &str, name: &str, n: usize| {
        let port = listeners[n].local_addr().unwrap().port();
        let disk = dir.join(format!("{name}-{resource}.img"));
        format!("on {name} {{ disk {}; address 127.0.0.1:{port}; }}\n", disk.display())
    };
    format!(
        "common {{ disk {{ resync-rate 10M; c-plan-ahead 0; }} }}\n\
         resource r0 {{ device /dev/drbd0; meta-disk internal;\n{}{}}}\n\
         resource r1 {{ disk {{ resync-after r0; }} device /dev/drbd1; meta-disk internal;\n{}{}}}\n",
        host("r0", "one", 0),
        host("r0", "two", 1),
        host("r1", "one", 2),
        host("r1", "two", 3),
    )
}

#[test]
fn the_second_resync_waits_for_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("drbd.conf"), config(dir)).unwrap();
    let mut daemons = Vec::new();
    for host in ["one", "two"] {
        for resource in ["r0", "r1"] {
            File::create(dir.join(format!("{host}-{resource}.img"))).unwrap().set_len(30 << 20).unwrap();
        }
        let log = File::create(dir.join(format!("{host}.log"))).unwrap();
        let daemon = command(dir, host).arg("daemon").stdin(Stdio::null()).stderr(log).spawn().unwrap();
        daemons.push(Daemon(daemon));
        let end = Instant::now() + LIMIT;
        while !command(dir, host).arg("proc").output().unwrap().status.success() {
            assert!(Instant::now() < end, "the daemon of {host} does not answer");
            sleep(Duration::from_millis(30));
        }
        run(dir, host, &["create-md", "--force", "all"]);
        run(dir, host, &["up", "all"]);
    }
    run(dir, "one", &["wait-connect", "--wfc-timeout=60", "all"]);
    run(dir, "one", &["primary", "--force", "all"]);

    let mut waited = false;
    let end = Instant::now() + LIMIT;
    loop {
        let states = run(dir, "one", &["cstate", "all"]);
        let states: Vec<&str> = states.lines().collect();
        match states[..] {
            ["SyncSource", "PausedSyncS"] => waited = true,
            // The order is kept from outside the core: for a moment after the start both may run.
            ["SyncSource", "SyncSource"] => assert!(!waited, "the first is still running"),
            ["Connected", "Connected"] => break,
            _ => {}
        }
        assert!(Instant::now() < end, "{states:?}");
        sleep(Duration::from_millis(50));
    }
    assert!(waited, "the second never waited");
    run(dir, "one", &["wait-sync", "--wfc-timeout=60", "all"]);
    assert_eq!(run(dir, "one", &["dstate", "all"]), "UpToDate/UpToDate\nUpToDate/UpToDate\n");
    for host in ["one", "two"] {
        if host == "one" {
            run(dir, host, &["secondary", "all"]);
        }
        run(dir, host, &["down", "all"]);
    }
}
