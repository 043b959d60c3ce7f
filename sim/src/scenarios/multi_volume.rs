//! Several volumes in one resource: one connection, one role, epochs across all (drbd-wire 3.1, 4.6).

use super::*;
use crate::hooks::DiskOp;
use crate::node::place;
use model::policy::Fencing;
use model::result_code::StateResult;

fn two_volumes(seed: u64) -> World {
    let mut w = nodes(seed, SECTORS, [DiskConfig::default(), DiskConfig::default()], 2);
    link_up(&mut w, &net());
    for v in 0..2 {
        skip_initial_sync(&mut w, v);
    }
    assert_eq!(primary(&mut w, 0), OK);
    w.run_for(ms(100));
    w.hooks.record = true;
    w
}

fn on(v: u8, sector: u64) -> u64 {
    place(VolIdx(v), sector)
}

fn all_in_sync(w: &World) -> bool {
    (0..2).all(|n| {
        (0..2).all(|v| {
            let s = w.volume_of(n, v).expect("it runs");
            (s.conn, s.disk, s.pdsk) == (ConnState::Connected, DiskState::UpToDate, DiskState::UpToDate)
        })
    })
}

fn all_heal(w: &mut World) {
    let done = w.run_until(secs(60), |w| all_in_sync(w) && w.is_idle());
    assert!(done, "{:?} {:?}", w.volume_of(0, 1), w.volume_of(1, 1));
    w.check_disks();
}

#[test]
fn volumes_keep_their_data_apart() {
    let mut w = two_volumes(1);
    for (v, sector) in [(0, 64), (1, 64), (1, 128), (0, 192)] {
        assert_eq!(write(&mut w, 0, on(v, sector), 8), ClientResult::Ok);
    }
    all_heal(&mut w);
    let held: Vec<u64> =
        [on(0, 64), on(1, 64), on(1, 128), on(0, 192)].map(|s| w.nodes[1].disk.read(s)).into();
    assert_eq!(held, [1, 2, 3, 4]);
    assert_eq!((w.nodes[1].disk.read(on(0, 128)), w.nodes[1].disk.read(on(1, 192))), (0, 0));
    let vnrs: Vec<u16> =
        w.hooks.packets.iter().filter(|p| p.header.command == Wire::Data).map(|p| p.header.vnr).collect();
    assert_eq!(vnrs, [0, 1, 1, 0]);
}

/// Barriers belong to the connection: their acknowledgements count the writes of all volumes.
#[test]
fn one_epoch_for_all_volumes() {
    let mut w = two_volumes(2);
    for v in 0..2 {
        assert_eq!(write(&mut w, 0, on(v, 0), 8), ClientResult::Ok);
    }
    w.run_for(ms(100));
    w.hooks.packets.clear();
    w.hold_disk(0, true);
    for i in 0..6 {
        w.request(0, SimOp::Write { sector: on((i % 2) as u8, 64 + i * 8), count: 8, fua: false });
    }
    w.hold_disk(0, false);
    w.run_for(ms(100));
    let acks: Vec<u32> =
        w.hooks.packets.iter().filter(|p| p.header.command == Wire::BarrierAck).map(|p| p.word(4)).collect();
    assert_eq!(acks, [6]);
    all_heal(&mut w);
}

#[test]
fn both_volumes_resync_what_they_missed() {
    let mut w = two_volumes(3);
    w.run_for(ms(100));
    w.crash(1, false);
    w.run_for(secs(1));
    for i in 0..10 {
        assert_eq!(write(&mut w, 0, on((i % 2) as u8, i * 24), 8), ClientResult::Ok);
    }
    w.hooks.packets.clear();
    w.start(1);
    w.connect(1, &net());
    all_heal(&mut w);
    for v in 0..2 {
        let mine =
            w.hooks.packets.iter().filter(|p| p.header.command == Wire::RsDataReply && p.header.vnr == v);
        assert_eq!(mine.map(|p| p.sectors).sum::<u64>(), 5 * 8, "volume {v}");
    }
}

/// One disk fails; the other volume goes on locally and the resource keeps its connection.
#[test]
fn a_failed_disk_concerns_one_volume() {
    let mut w = two_volumes(4);
    w.hooks.break_disk(0, DiskOp::Write, on(1, 0), SECTORS);
    assert_eq!(write(&mut w, 0, on(1, 64), 8), ClientResult::Ok);
    assert_eq!(write(&mut w, 0, on(0, 64), 8), ClientResult::Ok);
    w.run_for(ms(100));
    let disks = [0, 1].map(|v| w.volume_of(0, v).expect("it runs").disk);
    assert_eq!(disks, [DiskState::UpToDate, DiskState::Diskless]);
    assert_eq!(read(&mut w, 0, on(1, 64)), Ok(1), "through the peer");
    assert_eq!(w.nodes[0].disk.read(on(0, 64)), 2);
    w.hooks.mend_disks();
    let disk = w.nodes[0].load(VolIdx(1));
    assert_eq!(w.command_and_wait(0, Command::Attach(VolIdx(1), Box::new(disk))), OK);
    all_heal(&mut w);
}

/// The role belongs to the resource: one volume without data refuses it for all.
#[test]
fn one_inconsistent_volume_forbids_the_promotion() {
    let mut w = nodes(5, SECTORS, [DiskConfig::default(), DiskConfig::default()], 2);
    link_up(&mut w, &net());
    skip_initial_sync(&mut w, 0);
    assert_eq!(primary(&mut w, 0), CommandResult::State(StateResult::NoUpToDateDisk));
    let roles = [0, 1].map(|v| w.volume_of(0, v).expect("it runs").role);
    assert_eq!(roles, [Role::Secondary; 2]);
    skip_initial_sync(&mut w, 1);
    assert_eq!(primary(&mut w, 0), OK);
    let roles = [0, 1].map(|v| w.volume_of(1, v).expect("it runs").peer);
    assert_eq!(roles, [Role::Primary; 2]);
}

/// The node dies as Primary of both, the other takes over both.
#[test]
fn takeover_of_both_volumes() {
    let mut w = two_volumes(6);
    for i in 0..20 {
        w.request(0, SimOp::Write { sector: on((i % 2) as u8, i * 24), count: 8, fua: false });
    }
    w.run_for(ms(2));
    w.crash(0, true);
    w.run_for(secs(5));
    assert_eq!(primary(&mut w, 1), OK);
    check_copy(&mut w, 1);
    for v in 0..2 {
        assert_eq!(write(&mut w, 1, on(v, 4000), 8), ClientResult::Ok);
    }
    w.start(0);
    w.connect(0, &net());
    all_heal(&mut w);
}

/// The suspend flags belong to the resource; the second volume had them already when its own change was made, and the
/// core stopped.
#[test]
fn all_volumes_are_suspended_at_once() {
    let mut w = two_volumes(7);
    assert_eq!(w.command_and_wait(0, Command::SuspendIo), OK);
    let susp = |w: &World| [0, 1].map(|v| w.volume_of(0, v).expect("it runs").susp);
    assert_eq!(susp(&w), [true; 2]);
    let tags = [0, 1].map(|v| w.request(0, SimOp::Write { sector: on(v, 64), count: 8, fua: false }));
    w.run_for(secs(1));
    assert_eq!(tags.map(|t| answer(&mut w, t)), [None, None]);
    assert_eq!(w.command_and_wait(0, Command::ResumeIo), OK);
    assert_eq!(susp(&w), [false; 2]);
    assert_eq!(tags.map(|t| wait(&mut w, t).0), [ClientResult::Ok; 2]);
    all_heal(&mut w);
}

/// The only copy that the policy would have a peer fenced for is a bad one, and the policy of the good one does not ask for
/// it: the handler was not called, and the requests of both volumes stayed frozen.
#[test]
fn nobody_is_fenced_for_a_bad_copy_and_nothing_stays_frozen() {
    let mut w = two_volumes(8);
    let fences = DiskConfig { fencing: Fencing::ResourceAndStonith, ..DiskConfig::default() };
    assert_eq!(w.command_and_wait(0, Command::DiskOptions(VolIdx(1), Box::new(fences))), OK);
    w.hold_disk(1, true);
    w.command(0, Command::Invalidate(VolIdx(1)));
    assert!(w.run_until(secs(5), |w| w.volume_of(0, 1).is_some_and(|s| s.conn == ConnState::SyncTarget)));
    w.hold_disk(1, false);
    w.cut(true);
    assert!(w.run_until(secs(60), |w| w.state(0).0 < ConnState::Connected));
    w.run_for(secs(1));
    assert_eq!(w.volume_of(0, 1).expect("it runs").disk, DiskState::Inconsistent);
    let tag = w.request(0, SimOp::Write { sector: on(0, 64), count: 8, fua: false });
    w.run_for(secs(5));
    assert_eq!(answer(&mut w, tag).map(|a| a.0), Some(ClientResult::Ok));
    w.cut(false);
    all_heal(&mut w);
}
