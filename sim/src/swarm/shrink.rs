//! Makes a failing schedule small: leaves out acts as long as it still fails in the same way.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Acts, Outcome, Profile, run_in, world_in};
use crate::world::World;

/// Runs a schedule; the message if it fails. `memory` is a world that is not needed any more, and gets this one.
///
/// # Errors
/// With the message of the assertion that did not hold.
pub fn attempt(
    memory: &mut Option<World>,
    profile: Profile,
    seed: u64,
    acts: Acts<'_>,
) -> Result<Outcome, String> {
    let mut w = world_in(memory.take(), profile, seed);
    let result = catch_unwind(AssertUnwindSafe(|| run_in(&mut w, profile, seed, acts)));
    if result.is_ok() {
        *memory = Some(w);
    }
    result.map_err(|e| message(e.as_ref()))
}

/// The message of a panic.
pub fn message(e: &(dyn std::any::Any + Send)) -> String {
    let text = e.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| e.downcast_ref::<&str>().copied()).unwrap_or("?").to_owned()
}

/// What two failures have in common: their message without its numbers.
fn kind(message: &str) -> String {
    let letters = |c: &char| !c.is_ascii_digit();
    message.chars().filter(letters).take(24).collect()
}

/// The numbers of the acts that are needed, in order; None if the schedule does not fail.
///
/// Leaves out runs of acts, half as long each time, until no single one can be spared.
pub fn shrink(profile: Profile, seed: u64) -> Option<(Vec<u64>, String)> {
    let mut w = world_in(None, profile, seed);
    let result = catch_unwind(AssertUnwindSafe(|| run_in(&mut w, profile, seed, Acts::All)));
    let first = message(result.err()?.as_ref());
    let wanted = kind(&first);
    let fails = |list: &[u64]| {
        let failure = attempt(&mut None, profile, seed, Acts::Only(list)).err();
        failure.filter(|m| kind(m) == wanted)
    };
    let mut list: Vec<u64> = (0..w.acts).collect();
    let mut last = first;
    let mut length = list.len().div_ceil(2);
    loop {
        let mut from = 0;
        while from < list.len() {
            let mut fewer = list.clone();
            fewer.drain(from..(from + length).min(list.len()));
            match fails(&fewer) {
                Some(m) => {
                    list = fewer;
                    last = m;
                }
                None => from += length,
            }
        }
        if length == 1 {
            break;
        }
        length = length.div_ceil(2);
    }
    Some((list, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_in_numbers_are_of_one_kind() {
        assert_eq!(kind("sector 12 holds version 7"), kind("sector 4711 holds version 12"));
        assert_ne!(kind("sector 12 holds version 7"), kind("stays in sync"));
    }

    #[test]
    fn a_schedule_that_holds_is_not_shrunk() {
        assert!(shrink(Profile::Small, 0).is_none());
    }
}
