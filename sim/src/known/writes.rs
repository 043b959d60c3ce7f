//! Writes against changes of the replication state.

use super::*;
use crate::hooks::DiskOp;
use model::policy::{OnIoError, Protocol};

/// DRBD 8.4.2 and 8.4.4 read the state twice, once to decide whether a write is sent and once whether it is announced
/// as out of sync. A write in between got neither, and only the source had its bit.
#[test]
fn write_in_bitmap_to_source_gap() {
    // Block 2 is in a hot extent, block 1500 needs the activity log first.
    for (block, write_first) in [(2, true), (2, false), (1500, true), (1500, false)] {
        for k in 0..24 {
            let mut w = large_pair(k);
            missed(&mut w, &[1]);
            keep_bitmap(&mut w, 1);
            w.cut(false);
            kept(&mut w, 1);
            assert_eq!(conn(&w, 0), ConnState::WFBitMapS);
            let tag = if write_first {
                let tag = begin(&mut w, 0, block);
                events(&mut w, k);
                w.pass(1);
                tag
            } else {
                w.pass(1);
                events(&mut w, k);
                begin(&mut w, 0, block)
            };
            is_done(&mut w, tag);
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.3.10 and 9.2.14: notices of writes made during the exchange of bitmaps reached the target after the resync
/// had begun, or even ended.
#[test]
fn sync_uuid_overtakes_oos_notice() {
    for k in 0..40 {
        let mut w = large_pair(k);
        missed(&mut w, &[]);
        keep_bitmap(&mut w, 1);
        w.hooks.keep(0, Wire::OutOfSync);
        w.cut(false);
        kept(&mut w, 1);
        put(&mut w, 0, 2);
        kept(&mut w, 0);
        w.pass(1);
        events(&mut w, k);
        w.pass(0);
        heals(&mut w);
        assert_eq!(w.hooks.before(0, Wire::OutOfSync, Wire::SyncUuid), 1, "the notice comes first");
        assert_eq!(resync_bytes(&w, 0), 4096);
        ends_well(&mut w);
    }
}

/// DRBD 9.2.0: a write begun without a connection set its bit when it ended, and the bitmap had been sent by then.
#[test]
fn pending_write_missing_from_sent_bitmap() {
    for block in [2, 1500] {
        for k in (0..200).step_by(5) {
            let mut w = large_pair(k);
            missed(&mut w, &[1]);
            w.hooks.slow_disk(0, DiskOp::Write, at(block), 8);
            let tag = begin(&mut w, 0, block);
            w.run_for(ms(5));
            w.cut(false);
            let up = |w: &World| conn(w, 0) > ConnState::WFReportParams;
            assert!(w.run_until(secs(20), up));
            events(&mut w, k);
            w.let_go(false);
            is_done(&mut w, tag);
            ends_well(&mut w);
        }
    }
}

/// Old DRBD with LINBIT's Windows port: an acknowledgement of the lost connection cleared the bit that a later local
/// write had set. Here a closed socket has no packets any more, so the last moment is tried at which one may come.
#[test]
fn late_resync_ack_clears_fresh_bit() {
    for arrives in [true, false] {
        for k in 0..24 {
            let mut w = pair(k);
            missed(&mut w, &[5]);
            w.hooks.keep(1, Wire::RsWriteAck);
            w.cut(false);
            kept(&mut w, 1);
            w.hooks.slow_disk(0, DiskOp::Write, at(5), 8);
            w.hooks.slow_disk(1, DiskOp::Write, at(5), 8);
            if !arrives {
                w.hooks.keep(0, Wire::Data);
            }
            let tag = begin(&mut w, 0, 5);
            w.run_for(ms(5));
            w.pass(1);
            events(&mut w, k);
            w.reset();
            w.let_go(false);
            w.cut(true);
            is_done(&mut w, tag);
            let equal = w.nodes[0].disk.read(at(5)) == w.nodes[1].disk.read(at(5));
            assert!(equal || marked(&w, 0) == 1, "the difference is marked");
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.4.2: the target had resync data and a newer write of the same block under way at once, and its disk swapped
/// them.
#[test]
fn resync_reply_overtakes_write() {
    for newest_first in [false, true] {
        for k in 0..20 {
            let mut w = pair(k);
            missed(&mut w, &[5]);
            w.hooks.slow_disk(1, DiskOp::Write, at(5), 8);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| w.hooks.waiting_operations(1) == 1));
            let tag = begin(&mut w, 0, 5);
            events(&mut w, k);
            w.run_for(ms(50));
            assert_eq!(w.hooks.seen(0, Wire::Data), 1, "the write has arrived");
            w.let_go(newest_first);
            is_done(&mut w, tag);
            ends_well(&mut w);
        }
    }
}

/// The other way round: the target still writes what the application wrote when the resync comes to that block.
#[test]
fn resync_reply_overtakes_write_that_came_first() {
    for newest_first in [false, true] {
        let mut w = pair(3);
        assert_eq!(w.command_and_wait(1, Command::PauseSync(VOL)), OK);
        missed(&mut w, &[5]);
        w.cut(false);
        assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::PausedSyncS));
        w.hooks.slow_disk(1, DiskOp::Write, at(5), 8);
        let tag = begin(&mut w, 0, 5);
        assert_eq!(w.command_and_wait(1, Command::ResumeSync(VOL)), OK);
        w.run_for(ms(500));
        w.let_go(newest_first);
        is_done(&mut w, tag);
        ends_well(&mut w);
    }
}

/// DRBD 8.3.8 and 9.1.9: while the peer's disk was shown as Outdated on a live connection, writes were neither sent
/// nor announced.
#[test]
fn peer_outdated_while_syncing() {
    for n in 0..2 {
        let mut w = pair(7);
        assert_eq!(w.command_and_wait(n, Command::PauseSync(VOL)), OK);
        missed(&mut w, &[1]);
        w.cut(false);
        assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::PausedSyncS));
        put(&mut w, 0, 9);
        assert_eq!(w.command_and_wait(n, Command::ResumeSync(VOL)), OK);
        ends_well(&mut w);
    }
}

/// The same by a state packet that is older than the resync it arrives in.
#[test]
fn peer_outdated_while_syncing_by_a_late_state_packet() {
    for late in [false, true] {
        for k in (0..90).step_by(3) {
            let mut w = pair(k);
            missed(&mut w, &[1]);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| conn(w, 1) >= ConnState::WFReportParams));
            events(&mut w, k);
            if late {
                w.hooks.keep(1, Wire::State);
            }
            w.command(1, Command::PauseSync(VOL));
            w.run_for(ms(5));
            let tag = begin(&mut w, 0, 9);
            w.run_for(ms(5));
            w.pass(1);
            is_done(&mut w, tag);
            w.run_for(ms(50));
            w.command_and_wait(1, Command::ResumeSync(VOL));
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.4.8: with protocols A and B a write that failed on the Secondary was not refused, and the Primary set no
/// bit.
#[test]
fn neg_ack_missing_async() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for policy in [OnIoError::PassOn, OnIoError::Detach] {
            let disks = [OnIoError::Detach, policy]
                .map(|on_io_error| DiskConfig { on_io_error, ..DiskConfig::default() });
            let n = NetConfig { protocol, ..net() };
            let mut w = pair_with(1, SECTORS, &n, disks);
            w.hooks.break_disk(1, DiskOp::Write, 0, 8);
            put(&mut w, 0, 0);
            w.run_for(ms(100));
            assert_eq!(w.hooks.seen(1, Wire::NegAck), 1, "in every protocol");
            assert_eq!((marked(&w, 0), marked(&w, 1)), (1, 1));
            let left =
                if policy == OnIoError::Detach { DiskState::Diskless } else { DiskState::Inconsistent };
            assert_eq!((disk(&w, 1), w.volume(0).unwrap().pdsk), (left, left));
            put(&mut w, 0, 8);
            w.hooks.mend_disks();
            if policy == OnIoError::Detach {
                w.attach(1);
            } else {
                disconnect(&mut w, 1);
                w.connect(1, &n);
            }
            heals(&mut w);
            ends_well_with(&mut w, &[n.clone(), n]);
        }
    }
}

/// DRBD 8.3.9 and 9.0.15: the node with the only disk did not remember what the other one lacks.
#[test]
fn detached_peer_writes_untracked() {
    for killed in [false, true] {
        for block in [2, 1500] {
            let mut w = large_pair(9);
            put(&mut w, 0, 0);
            assert_eq!(secondary(&mut w, 0), OK);
            assert_eq!(w.command_and_wait(0, DETACH), OK);
            assert_eq!(primary(&mut w, 0), OK);
            put(&mut w, 0, block);
            assert_eq!(secondary(&mut w, 0), OK);
            if killed {
                w.crash(1, false);
                w.run_for(secs(3));
                w.start(1);
                w.connect(1, &net());
                assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::Connected));
            }
            w.hooks.packets.clear();
            w.attach(0);
            heals(&mut w);
            assert_eq!(resync_bytes(&w, 0), 0);
            let brought = resync_bytes(&w, 1);
            assert!((4096..=8 << 20).contains(&brought), "{brought} bytes of 24 MiB");
            ends_well(&mut w);
        }
    }
}

/// Longhorn: a write smaller than a block was taken for the whole block while the copy was rebuilt.
#[test]
fn subblock_write_clears_whole_bit() {
    for whole in [false, true] {
        let mut w = pair(10);
        assert_eq!(w.command_and_wait(1, Command::PauseSync(VOL)), OK);
        missed(&mut w, &[5, 6, 7]);
        w.cut(false);
        assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::PausedSyncS));
        assert_eq!(write(&mut w, 0, at(5) + 3, 1), ClientResult::Ok);
        assert_eq!(write(&mut w, 0, at(5) + if whole { 0 } else { 4 }, 12), ClientResult::Ok);
        w.run_for(ms(100));
        assert!(marked(&w, 1) >= 2, "the blocks that are not written whole");
        assert_eq!(w.command_and_wait(1, Command::ResumeSync(VOL)), OK);
        ends_well(&mut w);
    }
}

/// Crucible: a write over two extents, one of them under repair, then a flush and another write; the repaired copy
/// skipped one.
#[test]
fn spanning_write_during_resync() {
    for (n, op) in [(0, DiskOp::Read), (1, DiskOp::Write)] {
        for k in 0..20 {
            let mut w = large_pair(k);
            missed(&mut w, &[1020, 1021, 1022, 1023]);
            // What the resync reads at the source, or writes on the target, does not end.
            w.hooks.slow_disk(n, op, at(1022), 8);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| w.hooks.waiting_operations(n) == 1));
            let over = w.request(0, SimOp::Write { sector: at(1023), count: 16, fua: false });
            let flush = w.request(0, SimOp::Flush);
            let other = begin(&mut w, 0, 1030);
            events(&mut w, k * 3);
            w.let_go(false);
            for tag in [over, flush, other] {
                is_done(&mut w, tag);
            }
            ends_well(&mut w);
        }
    }
}

/// Crucible: the search for conflicts stopped at a flush, and the copies carried out conflicting writes in different
/// orders.
#[test]
fn overlapping_writes_reordered() {
    for protocol in [Protocol::A, Protocol::B, Protocol::C] {
        for seed in 0..30 {
            let n = NetConfig { protocol, ..net() };
            let mut w = pair_with(seed, SECTORS, &n, [DiskConfig::default(), DiskConfig::default()]);
            put(&mut w, 0, 0);
            w.weather.disk_us = 3000;
            let first = begin(&mut w, 0, 5);
            let flush = w.request(0, SimOp::Flush);
            let second = begin(&mut w, 0, 5);
            let seen = w.request(0, SimOp::Read { sector: at(5), count: 8 });
            let third = w.request(0, SimOp::Write { sector: at(5), count: 32, fua: false });
            for tag in [first, flush, second, seen, third] {
                is_done(&mut w, tag);
            }
            ends_well_with(&mut w, &[n.clone(), n]);
        }
    }
}

/// DRBD 8.4.7 and Longhorn: a discard and a write of the same blocks ran in different orders on the two copies.
#[test]
fn discard_differs_between_copies() {
    for discard_first in [false, true] {
        for seed in 0..30 {
            let mut w = pair(seed);
            for block in 0..16 {
                put(&mut w, 0, block);
            }
            w.weather.disk_us = 3000;
            let discard = SimOp::Discard { sector: 0, count: 128 };
            let tags = if discard_first {
                [w.request(0, discard), begin(&mut w, 0, 3)]
            } else {
                [begin(&mut w, 0, 3), w.request(0, discard)]
            };
            for tag in tags {
                is_done(&mut w, tag);
            }
            ends_well(&mut w);
        }
    }
}
