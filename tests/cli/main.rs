//! The program as users and scripts meet it: texts and exit codes, without a daemon and with one.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod adjust;
mod boot;
mod configuration;
mod daemon;
mod failover;
mod handlers;
mod node;
mod resources;
mod waiting;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lockstep");
const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/admin/seed/drbd.conf");
const LIMIT: Duration = Duration::from_secs(30);

fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for name in ["LOCKSTEP_CONFIG", "LOCKSTEP_HOST", "LOCKSTEP_RUN_DIR", "LOCKSTEP_TOML"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn run(args: &[&str]) -> (i32, String, String) {
    said(&program().args(args).output().unwrap())
}
