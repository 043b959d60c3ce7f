//! Crashes, loss of power, metadata, flushes.

use super::*;
use crate::hooks::DiskOp;
use model::policy::Protocol;
use replicator::meta::superblock::{MetaFlags, SuperBlock};

fn super_block(w: &World, n: usize) -> SuperBlock {
    let node = &w.nodes[n];
    let raw: [u8; 4096] = node.disk.read_md(node.layout.superblock_sector(), 8).try_into().unwrap();
    SuperBlock::decode(&raw).unwrap()
}

/// A demotion before the end keeps the resync after the last crash small.
fn ends_well_as_secondary(w: &mut World) {
    settles(w, &[net(), net()]);
    assert_eq!(secondary(w, 0), OK);
    ends_well(w);
}

/// DRBD 8.3.9: after a failed metadata write the activity log transaction, or the data, was written all the same.
#[test]
fn al_write_error_still_submits() {
    // The page of the evicted extent; the transaction; nothing, since the write of the data follows.
    for nth in 1..=3 {
        al_write_error(nth);
    }
}

/// The log is full, the peer away; a write to a cold extent evicts one whose bits are in memory only. Of the metadata
/// writes that this takes, the one with this number fails.
fn al_write_error(nth: u64) {
    let mut w = crowded_pair(nth);
    cut(&mut w);
    w.run_for(secs(1));
    for extent in 0..SLOTS {
        put(&mut w, 0, extent * EXTENT + 1);
    }
    let written = w.hooks.meta_writes[0];
    w.hooks.bad_meta_write = Some((0, written + nth));
    let block = 100 * EXTENT;
    let tag = begin(&mut w, 0, block);
    w.run_for(secs(1));
    let result = answer(&mut w, tag).map(|(r, _)| r);
    if nth < 3 {
        assert_eq!(result, Some(ClientResult::IoError));
        assert_eq!(disk(&w, 0), DiskState::Diskless);
        assert_eq!(w.nodes[0].disk.read(at(block)), 0, "no data before its extent is in the log");
    } else {
        assert_eq!(result, Some(ClientResult::Ok));
    }
    w.hooks.bad_meta_write = None;
    w.attach(0);
    ends_well_as_secondary(&mut w);
}

/// DRBD 8.4.3: a failed read set a bit in memory only, and the disk was attached again with the old bitmap.
#[test]
fn read_error_bit_lost_on_detach() {
    for as_primary in [true, false] {
        let mut w = large_pair(2);
        put(&mut w, 0, 0);
        w.run_for(ms(100));
        let n = usize::from(!as_primary);
        w.hooks.break_disk(n, DiskOp::Read, at(4000), 8);
        // A sector that cannot be read holds anything.
        w.nodes[n].disk.write(at(4000), &[7; 8], true);
        if as_primary {
            assert_eq!(read(&mut w, 0, at(4000)), Ok(0), "served by the peer");
        } else {
            // The Secondary reads for a Primary without a disk, and the block is gone.
            assert_eq!(secondary(&mut w, 0), OK);
            assert_eq!(w.command_and_wait(0, DETACH), OK);
            assert_eq!(primary(&mut w, 0), OK);
            assert_eq!(read(&mut w, 0, at(4000)), Err(ClientResult::IoError));
        }
        assert!(w.run_until(secs(5), |w| disk(w, n) == DiskState::Diskless));
        w.hooks.mend_disks();
        if as_primary {
            w.hooks.packets.clear();
            w.attach(0);
            heals(&mut w);
            assert!(resync_bytes(&w, 1) >= 4096);
            assert_eq!(w.nodes[0].disk.read(at(4000)), 0);
        } else {
            // The other copy is the only good one of that block, as both nodes know from its mark.
            assert_eq!(secondary(&mut w, 0), OK);
            w.attach(0);
            w.run_for(secs(2));
            assert_eq!(marked_on_disk(&w, 1, 4000), Some(true));
            w.nodes[1].disk.write(at(4000), &[0; 8], true);
        }
        ends_well(&mut w);
    }
}

/// The bit of a block in the bitmap on a node's disk.
fn marked_on_disk(w: &World, n: usize, block: u64) -> Option<bool> {
    let node = &w.nodes[n];
    let page = node.disk.read_md(node.layout.bitmap_page_sector(block / 32768), 8);
    page.get(block as usize % 32768 / 8).map(|byte| byte >> (block % 8) & 1 == 1)
}

/// DRBD 8.3.2, 9.0.16 and after 9.3.3: not every hot extent of a crash was marked. Transactions of different length wrap
/// the ring three times; power fails at each moment of one of them.
#[test]
fn al_not_applied_after_crash() {
    const BURSTS: [u64; 26] = [1, 1, 2, 1, 1, 1, 3, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 6, 1, 1, 1, 1, 1];
    for k in 0..28 {
        let mut w = pair_with(k, 40 * 8192, &net(), [DiskConfig::default(), DiskConfig::default()]);
        let mut extent = 0;
        let last = [2, 6, 9, 20, 25][k as usize % 5];
        for (i, burst) in BURSTS.into_iter().enumerate().take(last + 1) {
            for _ in 0..burst {
                begin(&mut w, 0, extent * EXTENT + 5);
                extent += 1;
            }
            if i < last {
                w.run_for(ms(2));
            }
        }
        events(&mut w, k / 2);
        w.crash(0, true);
        w.run_for(secs(2));
        ends_well(&mut w);
    }
}

/// The same for the node with the only disk, while the Primary has none.
#[test]
fn al_not_applied_after_crash_of_the_only_disk() {
    for k in 0..20 {
        let mut w = large_pair(k);
        put(&mut w, 0, 0);
        assert_eq!(w.command_and_wait(0, DETACH), OK);
        put(&mut w, 0, 2000);
        begin(&mut w, 0, 3000);
        events(&mut w, k);
        w.crash(1, true);
        w.run_for(secs(2));
        w.start(1);
        w.connect(1, &net());
        w.run_for(secs(2));
        w.attach(0);
        ends_well(&mut w);
    }
}

/// The same when the log was off before: what the disk says of it is older than the configuration.
#[test]
fn al_not_applied_after_crash_with_a_stale_flag() {
    for first in [false, true] {
        let mut w = large_pair(3);
        for al_updates in [first, !first] {
            assert_eq!(secondary(&mut w, 0), OK);
            disconnect(&mut w, 0);
            w.crash(0, false);
            w.nodes[0].disk_config.al_updates = al_updates;
            settles(&mut w, &[net(), net()]);
            assert_eq!(primary(&mut w, 0), OK);
        }
        put(&mut w, 0, 2000);
        begin(&mut w, 0, 2001);
        w.run_for(Duration::from_micros(150));
        w.crash(0, true);
        w.run_for(secs(2));
        ends_well(&mut w);
    }
}

/// The same when the log was switched under an attached disk: writes went without it, and the disk did not say so.
#[test]
fn al_not_applied_after_crash_with_a_log_switched_off() {
    for k in 0..20 {
        let mut w = large_pair(k);
        put(&mut w, 0, 0);
        let off = DiskConfig { al_updates: false, ..DiskConfig::default() };
        assert_eq!(w.command_and_wait(0, Command::DiskOptions(VOL, Box::new(off))), OK);
        begin(&mut w, 0, 3000);
        w.run_for(Duration::from_micros(150));
        w.crash(0, true);
        w.run_for(secs(2));
        ends_well(&mut w);
    }
}

/// DRBD 8.3.9: the end of one super block write took away the mark of a change made meanwhile.
#[test]
fn superblock_update_forgotten() {
    for k in 0..30 {
        let mut w = pair(k);
        put(&mut w, 0, 1);
        w.run_for(ms(100));
        w.hooks.slow_disk(0, DiskOp::Meta, 0, 0);
        // The loss of the peer starts a generation; the demotion is the second change.
        cut(&mut w);
        w.run_for(ms(5));
        assert_eq!(w.hooks.waiting_operations(0), 1);
        let id = w.command(0, Command::Secondary { open: 0, force: false });
        w.run_for(ms(50));
        w.let_go(false);
        events(&mut w, k);
        let done = w.take_answer(|a| matches!(a, Answer::Command(i, _) if *i == id));
        w.crash(0, true);
        let sb = super_block(&w, 0);
        if done.is_some() {
            assert!(!sb.flags.has(MetaFlags::PRIMARY_IND), "answered, and not on disk");
            assert!(!sb.uuids.bitmap.is_zero(), "with the generation of before");
        }
        ends_well(&mut w);
    }
}

/// Crucible: "in use", data and "clean" went out without flushes between them, and the store kept the newest of one
/// with the oldest of the other.
#[test]
fn unclean_mark_not_flushed_first() {
    for k in 0..80 {
        let mut w = large_pair(k);
        cut(&mut w);
        w.run_for(secs(6));
        let tags: Vec<ClientTag> = [5, 1500, 3000].into_iter().map(|b| begin(&mut w, 0, b)).collect();
        for tag in tags {
            is_done(&mut w, tag);
        }
        assert_eq!(w.command_and_wait(0, Command::Disconnect { force: true }), OK);
        w.command(0, Command::Secondary { open: 0, force: false });
        w.command(0, DETACH);
        events(&mut w, k);
        w.crash(0, true);
        ends_well(&mut w);
    }
}

/// DRBD 8.4.2: a bitmap that ends on a page edge, compressed; code read past its end.
#[test]
fn rle_last_bit() {
    for sectors in [262_144 - 8, 262_144, 262_144 + 8, 262_144 + 3] {
        for use_rle in [true, false] {
            let n = NetConfig { use_rle, ..net() };
            let mut w = pair_with(6, sectors, &n, [DiskConfig::default(), DiskConfig::default()]);
            w.run_for(ms(100));
            cut(&mut w);
            assert_eq!(write(&mut w, 0, sectors - 2, 2), ClientResult::Ok);
            w.cut(false);
            heals(&mut w);
            assert_eq!(w.nodes[1].disk.read(sectors - 1), w.nodes[0].disk.read(sectors - 1));
            assert_eq!(secondary(&mut w, 0), OK);
            ends_well_with(&mut w, &[n.clone(), n]);
        }
    }
}

/// DRBD 8.4.2 and 9.2.4: the barrier was acknowledged, and the backend had not flushed.
#[test]
fn flush_not_issued_on_secondary() {
    for diskless in [false, true] {
        for k in 0..30 {
            let mut w = pair(k);
            if diskless {
                assert_eq!(w.command_and_wait(0, DETACH), OK);
            }
            put(&mut w, 0, 5);
            let version = w.nodes[1].disk.read(at(5));
            let tag = w.request(0, SimOp::Flush);
            is_done(&mut w, tag);
            put(&mut w, 0, 6);
            events(&mut w, k % 5);
            w.crash(0, false);
            w.crash(1, true);
            assert_eq!(w.nodes[1].disk.medium(at(5)), version, "what was flushed is there");
            w.start(1);
            w.run_for(ms(100));
            assert_eq!(primary(&mut w, 1), OK);
            assert_eq!(read(&mut w, 1, at(5)), Ok(version));
            ends_well_or_apart(&mut w, 0);
        }
    }
}

/// DRBD 9.2.0: the Secondary acknowledged an epoch while one of its writes waited for a resync write of the same
/// block.
#[test]
fn barrier_acked_over_held_write() {
    for protocol in [Protocol::A, Protocol::C] {
        for k in 0..20 {
            let n = NetConfig { protocol, ..net() };
            let mut w = pair_with(k, SECTORS, &n, [DiskConfig::default(), DiskConfig::default()]);
            missed(&mut w, &[5]);
            w.hooks.slow_disk(1, DiskOp::Write, at(5), 8);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| w.hooks.waiting_operations(1) == 1));
            begin(&mut w, 0, 5);
            let flush = w.request(0, SimOp::Flush);
            w.run_for(ms(100));
            let flushed = answer(&mut w, flush).is_some();
            assert_eq!(flushed, protocol == Protocol::A, "in protocol C it covers the peer's disk");
            begin(&mut w, 0, 6);
            w.run_for(ms(50));
            assert_eq!(w.hooks.seen(1, Wire::BarrierAck), 0, "one of its writes is not done");
            assert!(!flushed || w.nodes[1].disk.read(at(6)) == 0, "the write behind the flush waits for it");
            if k > 0 {
                w.let_go(false);
                events(&mut w, k);
            }
            let newest = w.nodes[0].disk.read(at(5));
            w.crash(1, true);
            let (x, y) = (w.nodes[1].disk.medium(at(5)), w.nodes[1].disk.medium(at(6)));
            assert!(!flushed || y == 0 || x == newest, "never the later one without the earlier one");
            ends_well_with(&mut w, &[n.clone(), n]);
        }
    }
}

/// DRBD 8.4.2, 8.4.3, 9.2.0: number or size of a barrier's acknowledgement did not match, the connection was dropped,
/// and again. Here the peer's disk fails between two writes of one epoch.
#[test]
fn epoch_accounting() {
    for k in 0..40 {
        let mut w = pair(k);
        put(&mut w, 0, 0);
        w.hold_disk(0, true);
        let mut tags: Vec<ClientTag> = (1..4).map(|b| begin(&mut w, 0, b)).collect();
        events(&mut w, k % 10);
        match k % 3 {
            0 => drop(w.command(1, TEAR_OFF)),
            1 => w.hooks.break_disk(1, DiskOp::Write, at(4), 8),
            _ => drop(w.command(0, Command::InvalidateRemote(VOL))),
        }
        events(&mut w, k / 3);
        tags.extend((4..7).map(|b| begin(&mut w, 0, b)));
        w.run_for(ms(20));
        w.hold_disk(0, false);
        for tag in tags {
            is_done(&mut w, tag);
        }
        assert!(w.run_until(secs(10), World::is_idle), "every epoch is acknowledged: {}", w.under_way());
        w.run_for(secs(5));
        let barriers = [w.hooks.seen(0, Wire::Barrier), w.hooks.seen(1, Wire::BarrierAck)];
        let again = w.hooks.seen(0, Wire::ConnectionFeatures);
        // What a disk took that is gone now cannot be made stable: the epoch ends with the connection, once.
        let gone = disk(&w, 1) == DiskState::Diskless;
        assert!(again == 0 && barriers[0] == barriers[1] || gone && again <= 1, "{again} {barriers:?}");
        ends_well(&mut w);
    }
}

/// A new connection begins while an epoch is open; an old epoch waits for the own disk while newer ones are
/// acknowledged; epochs of nothing but flushes.
#[test]
fn epoch_accounting_over_reconnects_slow_disks_and_flushes() {
    for k in 0..30 {
        let mut w = pair(k);
        w.hooks.slow_disk(0, DiskOp::Write, at(5), 8);
        w.hooks.slow_disk(0, DiskOp::Write, at(11), 8);
        let old = begin(&mut w, 0, 5);
        w.run_for(ms(5));
        for block in 6..10 {
            put(&mut w, 0, block);
            let flush = w.request(0, SimOp::Flush);
            is_done(&mut w, flush);
        }
        for _ in 0..3 {
            let flush = w.request(0, SimOp::Flush);
            is_done(&mut w, flush);
        }
        assert_eq!(answer(&mut w, old), None);
        let tags: Vec<ClientTag> = (10..13).map(|b| begin(&mut w, 0, b)).collect();
        events(&mut w, k);
        w.reset();
        assert!(w.run_until(secs(20), |w| conn(w, 0) < ConnState::Connected));
        let late = begin(&mut w, 0, 20);
        assert!(w.run_until(secs(20), |w| conn(w, 0) >= ConnState::Connected));
        w.let_go(false);
        for tag in tags.into_iter().chain([old, late]) {
            is_done(&mut w, tag);
        }
        assert!(w.run_until(secs(10), |w| w.in_sync() && w.is_idle()), "{}", w.under_way());
        assert_eq!(w.hooks.seen(0, Wire::ConnectionFeatures), 1, "one new connection and no other");
        ends_well(&mut w);
    }
}

/// DRBD 8.3.10, 8.4.4, 9.0.15: an epoch was never closed, its extents stayed in use, and writes to new ones waited for
/// ever.
#[test]
fn barrier_not_sent_starves_al() {
    for during in 0..4 {
        let mut w = crowded_pair(20 + during);
        w.run_for(secs(1));
        match during {
            1 => drop(w.command(0, Command::InvalidateRemote(VOL))),
            3 => assert_eq!(w.command_and_wait(0, DETACH), OK),
            _ => {}
        }
        let tags: Vec<ClientTag> = (0..127).map(|e| begin(&mut w, 0, e * EXTENT + 7)).collect();
        if during == 2 {
            w.run_for(ms(1));
            w.command(1, TEAR_OFF);
        }
        w.run_for(secs(2));
        for tag in tags {
            assert_eq!(answer(&mut w, tag).map(|(r, _)| r), Some(ClientResult::Ok), "within two seconds");
        }
        // Unless a disk is gone with what it took and did not flush.
        let again = w.hooks.seen(0, Wire::ConnectionFeatures);
        assert!(again <= usize::from(during == 2), "without a new connection");
        ends_well_as_secondary(&mut w);
    }
}

/// DRBD 8.3.8 and 9.2.18: a device grew before its old bitmap was read; the old bits were lost, or the new area was
/// skipped, or everything was marked. Here the disks have grown when they are attached.
#[test]
fn grown_area_not_marked() {
    const GROWN: u64 = LARGE + 2 * 8192;
    for first in [1, 0] {
        let mut w = large_pair(14);
        put(&mut w, 0, 1);
        w.run_for(ms(100));
        assert_eq!(w.command_and_wait(1, DETACH), OK);
        put(&mut w, 0, 0);
        assert_eq!(secondary(&mut w, 0), OK);
        w.command_and_wait(0, Command::Detach { vol: VOL, force: true });
        w.run_for(ms(50));
        for n in 0..2 {
            w.nodes[n].disk.sectors = GROWN;
        }
        // What a new disk holds is anything.
        w.nodes[1].disk.write(GROWN - 8, &[7; 8], true);
        w.hooks.packets.clear();
        w.attach(first);
        w.run_for(secs(1));
        w.attach(1 - first);
        heals(&mut w);
        for n in 0..2 {
            let s = w.nodes[n].core.as_ref().unwrap().snapshot(w.now);
            assert_eq!(s.volumes[0].size_sectors, GROWN);
        }
        assert_eq!(w.nodes[1].disk.read(GROWN - 8), 0, "the new area is copied");
        let brought = resync_bytes(&w, 0);
        assert!((8 << 20..=16 << 20).contains(&brought), "{brought}: the new area and an extent, not all");
        ends_well(&mut w);
    }
}

/// A new generation with a cleared bitmap, and power fails before the command is answered. The cleared bitmap was on the disk
/// before the generation was, and the one before said that the other copy lacks what is marked, which was nothing.
#[test]
fn a_bitmap_is_cleared_behind_its_generation() {
    for k in 0..60 {
        let mut w = pair(k);
        missed(&mut w, &[1, 2, 3]);
        assert_eq!(secondary(&mut w, 0), OK);
        assert_eq!(w.command_and_wait(0, Command::Disconnect { force: true }), OK);
        w.run_for(secs(10));
        w.command(0, Command::NewCurrentUuid { vol: VOL, clear_bitmap: true });
        events(&mut w, k % 3);
        w.crash(0, true);
        ends_well(&mut w);
    }
}
