//! The scenarios by subject. Each is given the laboratory with both nodes running and nothing up, and the number of the
//! node that is Primary; it returns its figures.

mod after_split_brain;
mod connecting;
mod disk_faults;
mod disks;
mod fencing;
mod handlers;
mod kernel_client;
mod lease_handlers;
mod links;
mod migration;
mod resync;
mod roles;
mod split_brain;
mod verify;
mod writes;

use crate::lab::Lab;

/// A scenario: what it is called, and what it does.
pub type Scenario = (&'static str, fn(&mut Lab, usize) -> String);

/// Those that run unless others are named: the main path, in about two minutes.
pub const SHORT: &[&str] =
    &["connect", "bitmap-resync", "sync-target-killed", "primary-crash", "verify-differences", "writes-c"];

/// Those in which lockstep runs in a machine of its own too: they need its kernel.
pub const IN_MACHINES: &[&str] = &[
    "filesystems",
    "daemon-restart",
    "primary-disk-fails",
    "secondary-disk-fails",
    "disk-timeout",
    "ko-count",
    "bad-link",
    "handler-scripts",
    "stonith-script",
    "pass-on",
    "grows-while-mounted",
    "nbd-client",
    "device-name-taken",
    "migration",
];

/// Those that are about two kernels and nothing else, whatever pairs are asked for.
pub const OF_KERNELS: &[&str] = &["lease-handlers"];

/// All of them, in the order in which they run.
pub const ALL: &[Scenario] = &[
    ("connect", connecting::connect),
    ("skip-initial-sync", connecting::skip_initial_sync),
    ("wrong-secret", connecting::wrong_secret),
    ("different-protocol", connecting::different_protocol),
    ("different-verify-alg", connecting::different_verify_alg),
    ("wait-connect", connecting::wait_connect),
    ("unrelated-data", connecting::unrelated_data),
    ("smaller-disk", connecting::smaller_disk),
    ("initial-full-sync", resync::initial_full_sync),
    ("bitmap-resync", resync::bitmap_resync),
    ("sync-link-lost", resync::interrupted_by_link_loss),
    ("sync-target-killed", resync::interrupted_target_killed),
    ("sync-source-killed", resync::interrupted_source_killed),
    ("sync-paused", resync::paused),
    ("sync-under-load", resync::under_load),
    ("sync-checksums", resync::checksums),
    ("two-volumes", resync::two_volumes),
    ("sync-after", resync::after),
    ("sync-fixed-rate", resync::fixed_rate),
    ("sync-controller", resync::controller),
    ("primary-crash", resync::primary_crash),
    ("takeover", resync::takeover),
    ("swap-twenty-times", roles::swap_twenty_times),
    ("two-primaries", roles::two_primaries),
    ("two-primaries-conflicting", roles::conflicting_writes),
    ("second-primary-refused", roles::second_primary_refused),
    ("inconsistent-primary-refused", roles::inconsistent_primary_refused),
    ("outdate", roles::graceful_disconnect_and_outdate),
    ("down-during-resync", roles::down_during_resync),
    ("verify-clean", verify::clean),
    ("verify-differences", verify::differences),
    ("split-brain-refused", split_brain::refused),
    ("split-brain-discard-secondary", split_brain::discard_secondary),
    ("split-brain-discard-zero-changes", split_brain::discard_zero_changes),
    ("after-sb-0pri", after_split_brain::no_primary),
    ("after-sb-1pri", after_split_brain::one_primary),
    ("after-sb-2pri", after_split_brain::two_primaries),
    ("diskless-primary", disks::diskless_primary),
    ("diskless-secondary", disks::diskless_secondary),
    ("no-data", disks::no_data),
    ("resize", disks::resize),
    ("writes-integrity", writes::integrity),
    ("writes-c", writes::protocol_c),
    ("writes-b", writes::protocol_b),
    ("writes-a", writes::protocol_a),
    ("writes-small-limits", writes::small_limits),
    ("pull-ahead", links::pull_ahead),
    ("congestion-extents", links::congestion_extents),
    ("ping-timeout", links::ping_timeout),
    ("bad-link", links::delay_and_loss),
    ("primary-disk-fails", disk_faults::of_the_primary),
    ("secondary-disk-fails", disk_faults::of_the_secondary),
    ("pass-on", disk_faults::pass_on),
    ("disk-timeout", disk_faults::disk_timeout),
    ("ko-count", disk_faults::ko_count),
    ("fencing", fencing::exit_codes),
    ("lease-handlers", lease_handlers::lease_handlers),
    ("handler-scripts", handlers::scripts),
    ("stonith-script", handlers::stonith_script),
    ("filesystems", kernel_client::filesystems),
    ("grows-while-mounted", kernel_client::grows_while_mounted),
    ("nbd-client", kernel_client::nbd_client),
    ("device-name-taken", kernel_client::name_is_taken),
    ("daemon-restart", kernel_client::daemon_restart),
    ("migration", migration::there_and_back),
];
