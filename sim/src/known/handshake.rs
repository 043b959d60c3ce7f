//! Generations and the handshake: whose data is newer, and what a change in the middle of the question does.

use super::*;
use crate::hooks::DiskOp;
use model::ids::DataUuid;
use model::policy::AfterSb0;
use replicator::meta::superblock::SuperBlock;
use replicator::meta::uuids::Uuids;

/// Kills both, and gives them these generations for their next start.
pub(super) fn preset(w: &mut World, sets: [[u64; 4]; 2]) {
    for n in 0..2 {
        w.crash(n, false);
    }
    w.run_for(secs(1));
    for (node, set) in w.nodes.iter_mut().zip(sets) {
        let sector = node.layout.superblock_sector();
        let raw: [u8; 4096] = node.disk.read_md(sector, 8).try_into().unwrap();
        let mut sb = SuperBlock::decode(&raw).unwrap();
        let [current, bitmap, first, second] = set.map(DataUuid);
        sb.uuids = Uuids { current, bitmap, history: [first, second] };
        let mut block = [0; 4096];
        sb.encode(&mut block);
        node.disk.write_md(sector, &block, true);
    }
}

/// The block behind the back of everybody.
pub(super) fn scrawl(w: &mut World, n: usize, block: u64) {
    w.nodes[n].disk.write(at(block), &[7; 8], true);
}

fn detach_by_force(w: &mut World, n: usize) {
    assert_eq!(w.command_and_wait(n, TEAR_OFF), OK);
    w.run_for(ms(50));
    assert_eq!(disk(w, n), DiskState::Diskless);
}

/// DRBD 8.4.3, 8.4.6, 8.4.7, 9.1.9: role or generation changed between sending and comparing; one side waited for a
/// bitmap and the other had nothing to do.
#[test]
fn promote_during_handshake() {
    for writes in [false, true] {
        for k in (0..160).step_by(2) {
            let mut w = pair(k);
            put(&mut w, 0, 1);
            assert_eq!(secondary(&mut w, 0), OK);
            w.run_for(ms(50));
            w.reset();
            events(&mut w, k);
            if primary(&mut w, 0) == OK && writes {
                put(&mut w, 0, 9);
            }
            ends_well(&mut w);
        }
    }
}

/// The same on a fresh pair, where both are forced.
#[test]
fn promote_during_handshake_of_a_fresh_pair() {
    for k in (0..120).step_by(2) {
        let mut w = nodes(k, 2048, [DiskConfig::default(), DiskConfig::default()], 1);
        for n in 0..2 {
            w.connect(n, &net());
        }
        events(&mut w, k);
        let ids = [0, 1].map(|n| w.command(n, Command::Primary { force: true }));
        let ended = |w: &World| {
            ids.iter().all(|id| w.answers.iter().any(|(_, a)| matches!(a, Answer::Command(i, _) if i == id)))
        };
        assert!(w.run_until(secs(30), ended), "a promotion ends");
        ends_well_or_apart(&mut w, 1);
    }
}

/// DRBD 8.4.1: a timeout had declared the link dead, and a state packet handled in that moment made it Connected
/// again; the requests of the moment were forgotten.
#[test]
fn state_packet_revives_dead_link() {
    let begun = |seed| {
        let mut w = pair(seed);
        w.hold_disk(1, true);
        let tag = begin(&mut w, 0, 5);
        w.hooks.keep(1, Wire::State);
        assert_eq!(w.command_and_wait(1, Command::PauseSync(VOL)), OK);
        kept(&mut w, 1);
        (w, tag)
    };
    let (mut first, _) = begun(1);
    assert!(first.run_until(secs(20), |w| conn(w, 0) < ConnState::Connected));
    let dead_at = first.now;
    for us in 0..60 {
        let (mut w, tag) = begun(1);
        let before = Duration::from_micros(120 - us * 2);
        let wait = dead_at.saturating_since(w.now);
        w.run_for(Duration::from_nanos(wait.as_nanos() as u64 - before.as_nanos() as u64));
        w.pass(1);
        let other = begin(&mut w, 0, 6);
        w.run_for(before + ms(1));
        assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
        w.run_for(ms(20));
        assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
        w.hold_disk(1, false);
        is_done(&mut w, tag);
        is_done(&mut w, other);
        assert_eq!(w.command_and_wait(1, Command::ResumeSync(VOL)), OK);
        ends_well(&mut w);
    }
}

/// DRBD 9.2.18: that a new generation is due was forgotten before it was on disk, or once for two losses.
#[test]
fn write_before_new_uuid_durable() {
    for healed in [false, true] {
        for k in 0..40 {
            let mut w = pair(k);
            put(&mut w, 0, 1);
            w.run_for(ms(100));
            w.hooks.slow_disk(0, DiskOp::Meta, 0, 0);
            cut(&mut w);
            let tag = begin(&mut w, 0, 5);
            w.run_for(ms(200));
            if healed {
                w.cut(false);
                w.run_for(ms(1500));
                cut(&mut w);
            }
            assert_eq!(answer(&mut w, tag), None, "not before the new generation is on disk");
            w.let_go(false);
            events(&mut w, k);
            let answered = answer(&mut w, tag).is_some();
            w.crash(0, false);
            w.run_for(secs(1));
            if primary(&mut w, 1) == OK {
                put(&mut w, 1, 6);
            }
            let split = ends_well_or_apart(&mut w, 0);
            assert!(healed || split || !answered, "both took writes, and nobody says so");
        }
    }
}

/// DRBD 8.4.7: frozen writes went on towards a peer without a disk, and no new generation began. Frozen by the
/// operator here.
#[test]
fn bump_missing_when_peer_returns_diskless() {
    for frozen in [false, true] {
        for killed in [false, true] {
            let mut w = pair(4);
            put(&mut w, 0, 1);
            if frozen {
                assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
            }
            let tag = begin(&mut w, 0, 5);
            cut(&mut w);
            detach_by_force(&mut w, 1);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::Connected));
            if frozen {
                assert_eq!(answer(&mut w, tag), None);
                assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
            }
            is_done(&mut w, tag);
            if !killed {
                w.attach(1);
                ends_well(&mut w);
                continue;
            }
            w.crash(0, false);
            w.run_for(secs(1));
            w.attach(1);
            w.run_for(secs(1));
            assert_eq!(primary(&mut w, 1), OK);
            put(&mut w, 1, 6);
            ends_apart(&mut w, 1);
        }
    }
}

/// The peer goes without its disk while everything is connected, nothing is frozen, and comes back with it alone.
#[test]
fn bump_missing_when_peer_detaches() {
    for k in 0..40 {
        let mut w = pair(k);
        put(&mut w, 0, 1);
        w.command(1, DETACH);
        events(&mut w, k);
        let tag = begin(&mut w, 0, 5);
        w.run_for(ms(50));
        let answered = answer(&mut w, tag).is_some();
        assert!(answered);
        w.crash(0, false);
        w.run_for(secs(1));
        w.attach(1);
        w.run_for(secs(1));
        assert_eq!(primary(&mut w, 1), OK);
        put(&mut w, 1, 6);
        ends_well_or_apart(&mut w, 1);
    }
}

/// DRBD 8.4.7: a Primary with an Inconsistent disk lost the source of its resync; new writes succeeded, older ones
/// never ended.
#[test]
fn writes_accepted_without_good_data() {
    let slow = DiskConfig { c_plan_ahead_ds: 0, resync_rate_kib_s: 200, ..DiskConfig::default() };
    for freezes in [false, true] {
        for k in (0..40).step_by(4) {
            let mut w = if freezes {
                freezing_pair(k, &slow)
            } else {
                pair_with(k, SECTORS, &net(), [slow.clone(), slow.clone()])
            };
            put(&mut w, 0, 900);
            assert_eq!(w.command_and_wait(0, Command::Invalidate(VOL)), OK);
            assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::SyncTarget));
            w.run_for(ms(300));
            let running: Vec<ClientTag> = (600..606).map(|b| begin(&mut w, 0, b)).collect();
            events(&mut w, k);
            let done: Vec<_> = running.iter().map(|t| answer(&mut w, *t)).collect();
            cut(&mut w);
            let late = [begin(&mut w, 0, 700), w.request(0, SimOp::Read { sector: at(900), count: 8 })];
            w.run_for(secs(1));
            let open = running.into_iter().zip(done).filter(|(_, d)| d.is_none()).map(|(t, _)| t);
            let mut frozen: Vec<ClientTag> = open.filter(|t| answer(&mut w, *t).is_none()).collect();
            for tag in late {
                match answer(&mut w, tag) {
                    None => frozen.push(tag),
                    Some((result, _)) => assert_eq!(result, ClientResult::IoError, "at once"),
                }
            }
            assert_eq!(frozen.len() >= 2, freezes, "{} wait", frozen.len());
            w.cut(false);
            for tag in frozen {
                is_done(&mut w, tag);
            }
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.0.12, 8.4.7, 8.4.11: a frozen Primary without a disk went on with data older than its clients had seen.
#[test]
fn diskless_primary_accepts_older_data() {
    for own_snapshot in [false, true] {
        let mut w = freezing_pair(6, &DiskConfig::default());
        put(&mut w, 0, 1);
        w.run_for(ms(100));
        let old = w.nodes[0].disk.clone();
        cut(&mut w);
        put(&mut w, 0, 5);
        detach_by_force(&mut w, 0);
        assert!(w.volume(0).unwrap().susp_nod);
        let seen = w.request(0, SimOp::Read { sector: at(5), count: 8 });
        if own_snapshot {
            let real = std::mem::replace(&mut w.nodes[0].disk, old);
            w.attach(0);
            w.run_for(secs(1));
            assert_eq!(disk(&w, 0), DiskState::Diskless, "an old snapshot");
            w.nodes[0].disk = real;
        } else {
            detach_by_force(&mut w, 1);
            w.cut(false);
            w.run_for(secs(5));
            w.attach(1);
            w.run_for(secs(5));
            assert_eq!(reason(&w, 0).map(|r| r.contains("current UUID")), Some(true), "refused");
        }
        assert_eq!(answer(&mut w, seen), None, "frozen until the data is back");
        w.attach(0);
        is_done(&mut w, seen);
        ends_well(&mut w);
    }
}

/// DRBD 8.4 and 9.0.26: each current generation is in the other's history, and both became target. Sets that no
/// sequence of writes and resyncs makes are refused here.
#[test]
fn both_become_target() {
    const P: u64 = 0x1110;
    const Q: u64 = 0x2220;
    const R: u64 = 0x3330;
    let mut w = pair(8);
    put(&mut w, 0, 5);
    w.run_for(ms(100));
    assert_eq!(secondary(&mut w, 0), OK);
    for _ in 0..2 {
        preset(&mut w, [[P, 0, R, Q], [Q, 0, R, P]]);
        scrawl(&mut w, 1, 6);
        meets(&mut w);
        for n in 0..2 {
            stands_alone(&w, n, "Unrelated data");
        }
        assert_eq!(w.nodes[1].disk.read(at(6)), 7, "nothing is overwritten");
    }
    // The operator makes new metadata on one of them.
    preset(&mut w, [[P, 0, R, Q], [4, 0, 0, 0]]);
    ends_well(&mut w);
}

/// DRBD 8.3.2 and 9.0.22: empty slots of two histories passed for a common ancestor, and two devices that had never
/// met became a split brain that a policy resolved: one of them was overwritten.
#[test]
fn empty_history_slot_as_ancestor() {
    let mut w = pair(15);
    put(&mut w, 0, 5);
    w.run_for(ms(100));
    assert_eq!(secondary(&mut w, 0), OK);
    preset(&mut w, [[0x1110, 0, 0, 0], [0x2220, 0, 0, 0]]);
    let n = NetConfig { always_asbp: true, after_sb_0pri: AfterSb0::DiscardZeroChanges, ..net() };
    for k in 0..2 {
        scrawl(&mut w, k, 6 + k as u64);
        w.start(k);
        w.connect(k, &n);
    }
    w.run_for(secs(20));
    for k in 0..2 {
        stands_alone(&w, k, "Unrelated data");
        assert_eq!(w.nodes[k].disk.read(at(6 + k as u64)), 7, "nothing is overwritten");
    }
    // The operator makes new metadata on one of them.
    preset(&mut w, [[0x1110, 0, 0, 0], [4, 0, 0, 0]]);
    w.nodes[0].disk.write(at(6), &[0; 8], true);
    ends_well(&mut w);
}

/// DRBD 9.1.22 and 9.2.11: the common ancestor is in the histories only, so that no bitmap covers the difference;
/// discarding one side's data used it all the same.
#[test]
fn history_split_brain_by_bitmap() {
    for loser in 0..2 {
        let mut w = pair(9);
        put(&mut w, 0, 5);
        w.run_for(ms(100));
        assert_eq!(secondary(&mut w, 0), OK);
        preset(&mut w, [[0x1110, 0, 0x3330, 0x4440], [0x2220, 0, 0x3330, 0x5550]]);
        scrawl(&mut w, loser, 5);
        ends_apart(&mut w, loser);
    }
}

/// DRBD 9.0.29: the generation of a finished resync was not kept in the history, so a copy restored from before it was
/// taken for a stranger.
#[test]
fn bitmap_uuid_not_pushed() {
    for stays_primary in [false, true] {
        let mut w = pair(10);
        put(&mut w, 0, 0);
        // With a Primary beside it the node would come back to a new generation already.
        assert_eq!(secondary(&mut w, 0), OK);
        disconnect(&mut w, 1);
        w.crash(1, false);
        let saved = w.nodes[1].disk.clone();
        settles(&mut w, &[net(), net()]);
        assert_eq!(primary(&mut w, 0), OK);
        missed(&mut w, &[1]);
        settles(&mut w, &[net(), net()]);
        if !stays_primary {
            assert_eq!(secondary(&mut w, 0), OK);
        }
        w.crash(1, false);
        w.run_for(secs(2));
        w.nodes[1].disk = saved;
        w.hooks.packets.clear();
        settles(&mut w, &[net(), net()]);
        assert!(resync_bytes(&w, 0) > 0 && resync_bytes(&w, 1) == 0);
        ends_well(&mut w);
    }
}

/// DRBD 9.2.17: the rule for a source that missed the end of its resync chose a node that was Outdated by then; it was
/// refused, and tried again without end.
#[test]
fn missed_end_makes_outdated_source() {
    for promoted in [false, true] {
        let mut w = pair(11);
        missed(&mut w, &[10, 50]);
        assert_eq!(secondary(&mut w, 0), OK);
        w.cut(false);
        assert!(w.run_until(secs(20), |w| conn(w, 1) == ConnState::SyncTarget));
        w.hooks.keep(1, Wire::State);
        assert!(w.run_until(secs(20), |w| w.state(1) == (ConnState::Connected, DiskState::UpToDate)));
        assert_eq!(conn(&w, 0), ConnState::SyncSource, "it has not heard of the end");
        w.reset();
        cut(&mut w);
        assert_eq!(w.command_and_wait(0, Command::Disconnect { force: true }), OK);
        assert_eq!(w.command_and_wait(0, Command::Outdate(VOL)), OK);
        // The operator's word against a copy whose blocks have all arrived on the other node.
        w.truth.word[0] = true;
        if promoted {
            assert_eq!(primary(&mut w, 1), OK);
            put(&mut w, 1, 60);
        }
        w.hooks.packets.clear();
        settles(&mut w, &[net(), net()]);
        assert_eq!(resync_bytes(&w, 0), 0, "the data of the node that is UpToDate wins");
        assert!(w.hooks.seen(0, Wire::ConnectionFeatures) <= 3, "no loop");
        ends_well(&mut w);
    }
}

/// DRBD 8.4 and 9: "the same data" was found although a bitmap had bits. The peer goes down, network first and disk
/// second.
#[test]
fn no_sync_with_dirty_bitmap() {
    for stays_primary in [false, true] {
        let mut w = pair(12);
        put(&mut w, 0, 1);
        disconnect(&mut w, 1);
        assert_eq!(w.command_and_wait(1, DETACH), OK);
        w.crash(1, false);
        put(&mut w, 0, 5);
        if !stays_primary {
            assert_eq!(secondary(&mut w, 0), OK);
        }
        ends_well(&mut w);
    }
}

/// One node is promoted, writes and is demoted again and again, the other one leaves and comes back.
#[test]
fn no_sync_with_dirty_bitmap_after_many_changes() {
    for seed in 0..20 {
        let mut w = pair(seed);
        assert_eq!(secondary(&mut w, 0), OK);
        for round in 0..12 {
            w.command(0, Command::Primary { force: false });
            let pause = w.rng.below(60);
            events(&mut w, pause);
            if w.state(1).0 == ConnState::StandAlone {
                w.connect(1, &net());
            } else {
                w.command(1, Command::Disconnect { force: round % 2 == 0 });
            }
            let pause = w.rng.below(60);
            events(&mut w, pause);
            begin(&mut w, 0, round * 3);
            w.command_and_wait(0, Command::Secondary { open: 0, force: false });
        }
        w.run_for(secs(3));
        ends_well(&mut w);
    }
}

/// Bits are cleared while a demotion writes the bitmap.
#[test]
fn no_sync_with_dirty_bitmap_when_demoted_at_the_end_of_a_resync() {
    for k in (0..120).step_by(3) {
        let mut w = pair(k);
        missed(&mut w, &[1, 30]);
        w.cut(false);
        assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::SyncSource));
        events(&mut w, k);
        w.command(0, Command::Secondary { open: 0, force: false });
        events(&mut w, k % 11);
        w.crash((k % 2) as usize, false);
        w.run_for(secs(2));
        ends_well(&mut w);
    }
}

/// DRBD 8.4: a node was forced Primary while both disks were Outdated; it began a resync, and the other one claimed to
/// be UpToDate.
#[test]
fn forced_primary_from_outdated_pair() {
    let mut w = pair(14);
    put(&mut w, 0, 1);
    assert_eq!(secondary(&mut w, 0), OK);
    for n in 0..2 {
        w.command_and_wait(n, Command::Disconnect { force: true });
    }
    for n in 0..2 {
        assert_eq!(w.command_and_wait(n, Command::Outdate(VOL)), OK);
        w.run_for(ms(50));
        w.crash(n, false);
    }
    w.run_for(secs(1));
    for n in 0..2 {
        w.start(n);
        w.connect(n, &net());
    }
    w.run_for(secs(5));
    // Equal generations without bits: each vouches for the other.
    assert_eq!(conn(&w, 0), ConnState::Connected);
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
    put(&mut w, 0, 5);
    assert!(w.run_until(secs(20), World::in_sync), "{:?} {:?}", w.volume(0), w.volume(1));
    ends_well(&mut w);
}

/// A promotion by force waited for the end of a handshake, which made the copy good: nothing had to be forced any more. It began a
/// generation all the same, which the other copy did not take part in, and a failover passed for a split brain.
#[test]
fn force_that_was_not_needed() {
    let mut w = pair(11);
    put(&mut w, 0, 1);
    assert_eq!(secondary(&mut w, 0), OK);
    w.run_for(ms(100));
    for n in 0..2 {
        w.command_and_wait(n, Command::Disconnect { force: true });
    }
    w.run_for(secs(1));
    assert_eq!(w.command_and_wait(0, Command::Outdate(VOL)), OK);
    for n in 0..2 {
        w.connect(n, &net());
    }
    assert!(w.run_until(secs(30), |w| conn(w, 0) == ConnState::WFReportParams));
    let id = w.command(0, Command::Primary { force: true });
    w.run_for(secs(2));
    assert!(w.take_answer(|a| matches!(a, Answer::Command(i, _) if *i == id)).is_some());
    assert!(w.in_sync(), "{:?} {:?}", w.volume(0), w.volume(1));
    put(&mut w, 0, 2);
    w.crash(0, false);
    w.run_for(secs(20));
    assert_eq!(primary(&mut w, 1), OK);
    put(&mut w, 1, 3);
    ends_well(&mut w);
}
