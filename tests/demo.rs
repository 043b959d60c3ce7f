//! The demo as a stranger runs it: it must end by itself, say what it found, and keep its data.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The first of four free ports in a row, away from those that the system gives out.
fn ports() -> String {
    let start = 20_000 + (std::process::id() % 2_000) as u16 * 4;
    let free = |base: &u16| (*base..base + 4).all(|p| TcpListener::bind((Ipv4Addr::LOCALHOST, p)).is_ok());
    (start..32_000).step_by(4).find(free).expect("four free ports").to_string()
}

fn demo(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .args(["demo", "--size", "32M", "--port-base", &ports(), "--dir"])
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn good(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {err}\n{out}", output.status);
    out
}

#[test]
fn both_nodes_die_in_turn_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("demo");
    let out = good(&demo(&dir, &["--run-for", "5s", "--workload"]));
    let verdict = out.lines().last().unwrap();
    assert!(verdict.starts_with("PASSED: "), "{out}");
    assert!(verdict.contains(", 0 wrong, "), "{verdict}");
    assert!(verdict.ends_with("1 failover, 0 differing bytes"), "{verdict}");

    let again = good(&demo(&dir, &["--run-for", "1s"]));
    assert!(again.contains("Nothing differs: no resync was needed."), "{again}");
    assert!(again.contains("$ lockstep primary r0 ") && !again.contains("--force"), "{again}");
}

#[test]
fn a_directory_of_somebody_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let output = demo(dir.path(), &["--run-for", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds something else"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
