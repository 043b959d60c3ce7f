//! The core takes part in the recorded conversations of two kernel nodes, in the place of each of them.
//!
//! Not replayed, as the core does not do what they show: two primaries (21), the side that is Ahead (22) and resizing
//! (25).

mod support;

use std::collections::BTreeSet;

use support::replay::compare::{ALLOWED, Allowed};
use support::replay::replay;
use support::replay::script::conversation;

/// Capture, node in whose place the core stands.
macro_rules! conversations {
    ($($name:ident = $number:literal as $($side:literal)+;)+) => {
        $(#[test]
        fn $name() {
            $(replay(&conversation($number), $side);)+
        })+

        const REPLAYED: &[(u32, u8)] = &[$($(($number, $side),)+)+];
    };
}

conversations! {
    connect_and_full_sync = 1 as 1 2;
    connect_and_skip_sync = 2 as 1 2;
    writes_c = 3 as 1 2;
    writes_b = 4 as 1 2;
    writes_a = 5 as 1 2;
    resync_compressed_bitmap = 6 as 1 2;
    resync_plain_bitmap = 7 as 1 2;
    verify_clean = 8 as 1 2;
    verify_differences = 9 as 1 2;
    resync_with_checksums = 10 as 1 2;
    data_integrity = 15 as 1 2;
    discard_and_zeroes = 11 as 1 2;
    role_switch = 12 as 1 2;
    split_brain = 13 as 1 2;
    split_brain_resolved_by_policy = 14 as 1 2;
    authentication_failure = 16 as 1 2;
    protocol_mismatch = 17 as 1 2;
    diskless_primary = 18 as 1 2;
    ping_timeout = 19 as 1 2;
    thin_resync_as_the_source = 20 as 1;
    behind = 22 as 2;
    io_errors = 23 as 1 2;
    sync_commands = 24 as 1 2;
    primary_crash = 26 as 1 2;
    two_volumes = 27 as 1 2;
    write_during_resync_as_the_source = 28 as 1;
}

#[test]
fn every_allowed_difference_occurs() {
    let seen: BTreeSet<Allowed> =
        REPLAYED.iter().flat_map(|(number, side)| replay(&conversation(*number), *side)).collect();
    let table: BTreeSet<Allowed> = ALLOWED.iter().map(|(what, _)| *what).collect();
    assert_eq!(seen, table);
}
