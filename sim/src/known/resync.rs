//! The resync: its start, its end, and what is counted in between.

use super::*;
use crate::hooks::DiskOp;
use model::policy::OnIoError;

/// 1 MiB, for long loops.
fn small_pair(seed: u64) -> World {
    pair_with(seed, 2048, &net(), [DiskConfig::default(), DiskConfig::default()])
}

fn pass_on() -> DiskConfig {
    DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() }
}

fn resyncing(w: &mut World) {
    let runs = |w: &World| conn(w, 1) == ConnState::SyncTarget && conn(w, 0) == ConnState::SyncSource;
    assert!(w.run_until(secs(20), runs), "{:?} {:?}", w.state(0), w.state(1));
}

/// Runs; the copy of node 2 may not turn Inconsistent while it has no connection.
fn run_watching(w: &mut World, limit: Duration) {
    let mut before = disk(w, 1);
    w.run_until(limit, |w| {
        let (conn, disk) = w.state(1);
        assert!(
            disk != DiskState::Inconsistent || before == disk || conn >= ConnState::Connected,
            "the copy is given up without a source"
        );
        before = disk;
        false
    });
}

/// DRBD 8.3.3: the target saw the end of the resync, the source did not; at the next meeting equal generations meant
/// that nothing is to be done, while the source had bits.
#[test]
fn last_write_ack_lost() {
    for (lost, writes) in
        [(Wire::RsWriteAck, true), (Wire::RsWriteAck, false), (Wire::State, true), (Wire::State, false)]
    {
        for primary_stays in [true, false] {
            let mut w = pair(1);
            missed(&mut w, &[10, 20, 30, 40, 50]);
            if !primary_stays {
                assert_eq!(secondary(&mut w, 0), OK);
            }
            w.hooks.slow_disk(1, DiskOp::Write, at(50), 8);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| marked(w, 0) == 1 && w.hooks.waiting_operations(1) == 1));
            w.hooks.keep(1, lost);
            w.let_go(false);
            kept(&mut w, 1);
            w.run_for(ms(100));
            // The last acknowledgement is fenced by a ping behind it.
            let finished = w.state(1) == (ConnState::Connected, DiskState::UpToDate);
            assert_eq!(
                finished,
                lost == Wire::State,
                "the target is finished when the source knows of all blocks"
            );
            assert_eq!(conn(&w, 0), ConnState::SyncSource);
            w.reset();
            cut(&mut w);
            if writes {
                if !primary_stays {
                    assert_eq!(primary(&mut w, 0), OK);
                }
                put(&mut w, 0, 60);
            }
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.3.3, 8.3.9, 8.4.3, 8.4.7: one side had rotated its generations and the other had not, which cost a full
/// sync; or the start of a resync on a dead link looked like an invalidate.
#[test]
fn resync_cut_at_start_or_end() {
    for (primary_stays, blocks) in [(true, &[5][..]), (true, &[]), (false, &[5])] {
        let mut full = Vec::new();
        for n in 1..=90 {
            let mut w = small_pair(2);
            missed(&mut w, blocks);
            if !primary_stays {
                assert_eq!(secondary(&mut w, 0), OK);
            }
            w.hooks.cut_at = Some(w.hooks.sent + n);
            w.cut(false);
            run_watching(&mut w, secs(3));
            w.cut(true);
            run_watching(&mut w, secs(3));
            settles(&mut w, &[net(), net()]);
            if resync_bytes(&w, 0) > 3 * 4096 {
                full.push(n);
            }
            assert_eq!(resync_bytes(&w, 1), 0);
            ends_well(&mut w);
        }
        // Where a Primary cannot know whether the target called itself UpToDate, everything travels again.
        assert!(full.len() <= usize::from(primary_stays), "{full:?}");
    }
}

/// The same inside the change to target, which takes several metadata writes.
#[test]
fn resync_cut_inside_the_change_to_target() {
    for empty in [false, true] {
        for k in (0..120).step_by(4) {
            let mut w = small_pair(3);
            missed(&mut w, if empty { &[] } else { &[5] });
            w.cut(false);
            assert!(w.run_until(secs(20), |w| conn(w, 1) >= ConnState::WFReportParams));
            events(&mut w, k);
            w.hooks.slow_disk(1, DiskOp::Meta, 0, 0);
            w.run_for(ms(20));
            w.cut(true);
            run_watching(&mut w, ms(500));
            w.let_go(false);
            run_watching(&mut w, secs(4));
            settles(&mut w, &[net(), net()]);
            assert!(resync_bytes(&w, 0) <= 2 * 4096, "by bitmap");
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.0, 8.3.2, 8.3.8: a state composed during the resync arrived after its end; the peer stayed Inconsistent, or
/// a second handshake marked every block.
#[test]
fn state_packet_crosses_end_of_resync() {
    for n in 0..2 {
        for k in (0..150).step_by(5) {
            let mut w = small_pair(4);
            missed(&mut w, &[5, 50]);
            w.cut(false);
            resyncing(&mut w);
            events(&mut w, k);
            w.hooks.keep(n, Wire::State);
            w.command(n, Command::PauseSync(VOL));
            w.command(n, Command::ResumeSync(VOL));
            w.run_for(ms(200));
            w.pass(n);
            settles(&mut w, &[net(), net()]);
            assert!(resync_bytes(&w, 0) <= 4 * 4096, "two blocks, not the device");
            ends_well(&mut w);
        }
    }
}

/// DRBD 8.4.1, 8.4.5, 9.0.30: every block was equal, and yet the resync did not end. Here an empty one is paused and
/// resumed at every moment.
#[test]
fn end_of_resync_not_noticed() {
    for n in 0..2 {
        for k in (0..150).step_by(3) {
            let mut w = small_pair(5);
            missed(&mut w, &[]);
            w.cut(false);
            assert!(w.run_until(secs(20), |w| conn(w, 0) > ConnState::WFReportParams));
            events(&mut w, k);
            w.command_and_wait(n, Command::PauseSync(VOL));
            events(&mut w, k % 7);
            w.command_and_wait(n, Command::ResumeSync(VOL));
            ends_well(&mut w);
        }
    }
}

/// The last marked block is overwritten by the application, by a write that crosses a resync extent of 16 MiB.
#[test]
fn end_of_resync_not_noticed_after_a_write_over_its_last_block() {
    for paused in [true, false] {
        let mut w = large_pair(6);
        assert_eq!(w.command_and_wait(1, Command::PauseSync(VOL)), OK);
        missed(&mut w, &[4095]);
        w.cut(false);
        assert!(w.run_until(secs(20), |w| conn(w, 0) == ConnState::PausedSyncS));
        if !paused {
            assert_eq!(w.command_and_wait(1, Command::ResumeSync(VOL)), OK);
        }
        assert_eq!(write(&mut w, 0, at(4094), 32), ClientResult::Ok);
        w.command_and_wait(1, Command::ResumeSync(VOL));
        ends_well(&mut w);
    }
}

/// A bit is set behind the cursor, by a write that fails on the target.
#[test]
fn end_of_resync_not_noticed_with_a_bit_behind_the_cursor() {
    let mut w = pair_with(7, SECTORS, &net(), [pass_on(), pass_on()]);
    let blocks: Vec<u64> = (0..60).map(|i| i * 10).collect();
    missed(&mut w, &blocks);
    w.hooks.slow_disk(1, DiskOp::Write, at(590), 8);
    w.cut(false);
    assert!(w.run_until(secs(20), |w| marked(w, 1) == 1));
    w.hooks.break_disk(1, DiskOp::Write, at(0), 8);
    put(&mut w, 0, 0);
    w.run_for(ms(50));
    assert_eq!((marked(&w, 0), marked(&w, 1)), (2, 2));
    w.hooks.mend_disks();
    w.let_go(false);
    assert!(w.run_until(secs(20), World::in_sync), "{:?} {:?}", w.volume(0), w.volume(1));
    ends_well(&mut w);
}

/// A new resync begins while the timers of the one before still run.
#[test]
fn end_of_resync_not_noticed_after_the_one_before() {
    for k in (0..100).step_by(2) {
        let mut w = small_pair(8);
        missed(&mut w, &[5]);
        w.cut(false);
        resyncing(&mut w);
        events(&mut w, k);
        w.command(1, Command::Invalidate(VOL));
        let ended = w.run_until(secs(20), |w| w.in_sync());
        assert!(ended, "{:?} {:?}", w.volume(0), w.volume(1));
        w.command_and_wait(1, Command::Disconnect { force: false });
        put(&mut w, 0, 9);
        w.connect(1, &net());
        ends_well(&mut w);
    }
}

/// DRBD 8.4.0 and 8.4.4: both receivers waited for buffers and did not read the acknowledgements that would free some.
/// The core's own limits are tried here: few buffers, a resync at full speed, large writes, sockets that stall.
#[test]
fn buffer_limit_deadlock() {
    for source in 0..2 {
        let n = NetConfig { max_buffers: 32, ..net() };
        let mut w = pair_with(9, LARGE, &n, [DiskConfig::default(), DiskConfig::default()]);
        assert_eq!(w.command_and_wait(1 - source, Command::Invalidate(VOL)), OK);
        assert!(w.run_until(secs(20), |w| conn(w, source) == ConnState::SyncSource));
        let mut tags = Vec::new();
        for i in 0..40 {
            tags.push(w.request(0, SimOp::Write { sector: i % 24 * 2048, count: 2048, fua: false }));
            let which = [Blocked::Data, Blocked::Meta, Blocked::Both][i as usize % 3];
            w.block(i as usize % 2, which);
            w.run_for(ms(20));
            w.block(i as usize % 2, Blocked::No);
        }
        for tag in tags {
            is_done(&mut w, tag);
        }
        assert!(w.run_until(secs(60), World::in_sync), "{:?} {:?}", w.volume(0), w.volume(1));
        ends_well_with(&mut w, &[n.clone(), n]);
    }
}

/// Longhorn and Crucible: a block that failed was swallowed, and the copy passed for complete; or it was waited for
/// for ever. Here some blocks cannot be read at the source.
#[test]
fn resync_failure_reported_as_success() {
    for bad in [1, 100] {
        let mut w = pair_with(11, SECTORS, &net(), [pass_on(), pass_on()]);
        w.hooks.break_disk(0, DiskOp::Read, 800, bad * 8);
        assert_eq!(w.command_and_wait(1, Command::Invalidate(VOL)), OK);
        resyncing(&mut w);
        let ends = |w: &World| conn(w, 1) == ConnState::Connected;
        assert!(w.run_until(secs(60), ends), "{:?} {:?}", w.volume(0), w.volume(1));
        assert_eq!(disk(&w, 1), DiskState::Inconsistent);
        assert_eq!(disk(&w, 0), DiskState::UpToDate, "the source keeps what it has (drbd-states 14.2)");
        assert!(marked(&w, 1) >= bad);
        put(&mut w, 0, 0);
        w.hooks.mend_disks();
        disconnect(&mut w, 1);
        w.connect(1, &net());
        heals(&mut w);
        ends_well(&mut w);
    }
}

/// A block cannot be written on the target.
#[test]
fn resync_failure_reported_as_success_by_the_target() {
    for policy in [OnIoError::Detach, OnIoError::PassOn] {
        let cfg = DiskConfig { on_io_error: policy, ..DiskConfig::default() };
        let mut w = pair_with(12, SECTORS, &net(), [cfg.clone(), cfg]);
        missed(&mut w, &[30]);
        w.hooks.break_disk(1, DiskOp::Write, at(30), 8);
        w.cut(false);
        let ends = |w: &World| conn(w, 1) == ConnState::Connected;
        assert!(w.run_until(secs(60), ends), "{:?} {:?}", w.volume(0), w.volume(1));
        w.run_for(secs(1));
        let left = if policy == OnIoError::Detach { DiskState::Diskless } else { DiskState::Inconsistent };
        assert_eq!((disk(&w, 1), disk(&w, 0)), (left, DiskState::UpToDate));
        assert!(marked(&w, 0) >= 1, "it is still marked");
        w.hooks.mend_disks();
        if policy == OnIoError::Detach {
            w.attach(1);
        } else {
            disconnect(&mut w, 1);
            w.connect(1, &net());
        }
        heals(&mut w);
        ends_well(&mut w);
    }
}

/// The connection is reset while the word that a block failed is still on its way.
#[test]
fn resync_failure_reported_as_success_when_the_word_of_it_is_lost() {
    for (n, op, word) in [(0, DiskOp::Read, Wire::NegRsDreply), (1, DiskOp::Write, Wire::NegAck)] {
        let mut w = pair_with(13, SECTORS, &net(), [pass_on(), pass_on()]);
        missed(&mut w, &[5, 30]);
        w.hooks.break_disk(n, op, at(5), 8);
        w.hooks.keep(n, word);
        w.cut(false);
        kept(&mut w, n);
        w.run_for(ms(100));
        assert_eq!(disk(&w, 1), DiskState::Inconsistent);
        w.reset();
        w.run_for(ms(100));
        assert_eq!(disk(&w, 1), DiskState::Inconsistent);
        ends_well(&mut w);
    }
}

/// LINBIT/drbd#68: a verify had marked blocks; when nodes with equal generations connected again, nothing was repaired,
/// and DRBD 9 forgot the marks. They stay, are shown, and the block is copied as soon as a Primary was disconnected.
#[test]
fn verify_bits_dropped_at_reconnect() {
    for (asks, killed) in [(0, false), (1, false), (0, true)] {
        for as_primary in [false, true] {
            let mut w = pair(40);
            for block in 0..20 {
                put(&mut w, 0, block);
            }
            w.run_for(ms(100));
            w.nodes[1].disk.rot(at(7), 8);
            let verify = Command::Verify { vol: VOL, start_sector: Some(0), stop_sector: None };
            assert_eq!(w.command_and_wait(asks, verify), OK);
            let over = |w: &World| (0..2).all(|n| conn(w, n) == ConnState::Connected);
            assert!(w.run_until(secs(60), over));
            if !as_primary {
                assert_eq!(secondary(&mut w, 0), OK);
            }
            w.hooks.packets.clear();
            w.run_for(ms(100));
            if killed {
                w.crash(1, true);
                w.run_for(secs(3));
            } else {
                disconnect(&mut w, 1);
            }
            all_up(&mut w, &[net(), net()]);
            assert!(w.run_until(secs(30), World::in_sync), "{:?} {:?}", w.state(0), w.state(1));
            w.run_for(secs(1));
            if !as_primary {
                for n in 0..2 {
                    let shown = w.nodes[n].core.as_ref().expect("it runs").snapshot(w.now);
                    assert_eq!(
                        (marked(&w, n), shown.volumes[0].counters.out_of_sync_kib),
                        (1, 4),
                        "node {}",
                        n + 1
                    );
                }
                assert_eq!(primary(&mut w, 0), OK);
                disconnect(&mut w, 1);
                all_up(&mut w, &[net(), net()]);
            }
            assert!(w.run_until(secs(30), |w| w.in_sync() && marked(w, 0) == 0), "{:?}", w.volume(0));
            assert_eq!(resync_bytes(&w, 0), 4096, "this block and no other");
            ends_well(&mut w);
        }
    }
}
