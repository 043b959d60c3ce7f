//! lockstep: one binary for the daemon and every command that runs it.
fn main() {}
