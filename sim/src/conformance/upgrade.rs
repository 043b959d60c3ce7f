//! The other node is a kernel 8.4, as far as it can be told from what it announces.

use super::*;

/// Lines in which the peer matters.
const LINES: &[fn()] = &[
    congestion::ahead_behind,
    congestion::congestion_disconnect,
    connecting::connect,
    connecting::connect_refused,
    connecting::slow_peer_ko_count,
    connecting::stress_connect,
    disks::attach_while_connected,
    disks::connect_differing_sizes,
    disks::disk_timeout,
    disks::diskless_primary,
    disks::io_errors,
    disks::no_data_accessible,
    generations::initial_uuid_uptodate,
    generations::pre_existing_data,
    generations::replaced_disk,
    generations::resync_based_on_disk_states,
    generations::resync_initial,
    generations::revert_older_data,
    generations::skip_initial_sync,
    generations::uuid_detach_resync,
    generations::uuid_disconnect_resync,
    generations::uuid_send_receive_race,
    io::consistent_snapshots,
    io::flush_semantics,
    io::protocol_a_io,
    io::suspend_io,
    resync::busy_resync,
    resync::busy_resync_start,
    resync::resync_direction,
    resync::resync_finish,
    resync::resync_interrupt_conflict,
    resync::resync_interrupt_variants,
    resync::resync_missed_end_no_bits,
    resync::resync_write_during_pause,
    resync_control::resync_after_primary_crash,
    resync_control::resync_pause_resume,
    resync_control::resync_target_primary,
    resync_control::resync_target_promote_interrupt,
    split_brain::rr_conflict,
    split_brain::split_brain,
    split_brain::split_brain_policies,
    split_brain::two_primaries_reject,
    states::concurrent_promote_demote,
    states::demote_open,
    states::invalidate,
    states::outdate,
    states::promote_needs_data,
    states::switch_primaries,
];

/// Both nodes take each other for a kernel: every line ends in the same states.
#[test]
fn upgrade() {
    let _peers = AsKernel::new();
    let mut w = fresh(1);
    link_up(&mut w, &net());
    let told = w.hooks.packets.iter().filter(|p| p.header.command == Wire::ConnectionFeatures);
    assert_eq!(told.map(|p| p.word(4)).collect::<Vec<u32>>(), [15, 15], "nothing but what a kernel says");
    for line in LINES {
        line();
    }
}

/// While this lives, nodes announce only what a kernel does.
struct AsKernel;

impl AsKernel {
    fn new() -> AsKernel {
        KERNEL_FEATURES.set(true);
        AsKernel
    }
}

impl Drop for AsKernel {
    fn drop(&mut self) {
        KERNEL_FEATURES.set(false);
    }
}
