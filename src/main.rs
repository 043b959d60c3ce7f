//! lockstep: one binary for the daemon and every command that runs it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(lockstep::cli::main(std::env::args().collect()))
}
