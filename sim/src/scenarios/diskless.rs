//! Disks that are detached, fail or come back (drbd-states 10, 14.2, 14.4, 15; drbd-wire 4.10).

use super::*;
use crate::hooks::DiskOp;
use crate::node::volume_and_sector;
use model::policy::{OnIoError, OnNoData};
use model::result_code::{ConfigError, StateResult};

const DETACH: Command = Command::Detach { vol: VolIdx(0), force: false };

fn pair_on_error(policies: [OnIoError; 2]) -> World {
    let disks = policies.map(|on_io_error| DiskConfig { on_io_error, ..DiskConfig::default() });
    pair_with(1, SECTORS, &net(), disks)
}

fn detach(w: &mut World, n: usize) {
    assert_eq!(w.command_and_wait(n, DETACH), OK);
    assert_eq!(disk(w, n), DiskState::Diskless);
    w.run_for(ms(50));
}

fn peer_disk(w: &World, n: usize) -> DiskState {
    w.volume(n).expect("it runs").pdsk
}

fn last_version(w: &World, sector: u64) -> u64 {
    (0..2).map(|n| w.nodes[n].disk.read(sector)).max().expect("two nodes")
}

#[test]
fn a_diskless_primary_reads_and_writes_through_the_peer() {
    let mut w = pair(1);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    detach(&mut w, 0);
    assert_eq!(peer_disk(&w, 1), DiskState::Diskless);
    assert_eq!(read(&mut w, 0, 0), Ok(1));
    assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
    assert_eq!(read(&mut w, 0, 64), Ok(2));
    let tag = w.request(0, SimOp::Flush);
    assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    assert!(w.nodes[1].disk.medium(64) > 0, "a flush reaches the only disk");
    scribble(&mut w, 0, 100, SECTORS);
    w.run_for(secs(1));
    check_copy(&mut w, 1);
}

fn large_pair(seed: u64) -> World {
    pair_with(seed, LARGE, &net(), [DiskConfig::default(), DiskConfig::default()])
}

/// Bytes of the activity log extents that cannot be trusted in the metadata of a node that was Primary: one here,
/// as with real nodes. A Secondary has none.
fn hot_bytes(n: usize) -> u64 {
    if n == 0 { 4 << 20 } else { 0 }
}

#[test]
fn attaching_again_brings_only_what_changed() {
    for n in 0..2 {
        let mut w = large_pair(2 + n as u64);
        scribble(&mut w, 0, 50, SECTORS);
        w.run_for(secs(1));
        detach(&mut w, n);
        for i in 0..10 {
            assert_eq!(write(&mut w, 0, i * 64, 8), ClientResult::Ok);
        }
        w.hooks.packets.clear();
        w.attach(n);
        heals(&mut w);
        let wanted = hot_bytes(n).max(10 * 4096);
        assert_eq!(resync_bytes(&w, 1 - n), wanted, "ten blocks, from the node that has them");
        assert_eq!(resync_bytes(&w, n), 0);
    }
}

#[test]
fn attaching_without_changes_brings_only_hot_extents() {
    for n in 0..2 {
        let mut w = large_pair(2);
        assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
        w.run_for(ms(100));
        detach(&mut w, n);
        w.hooks.packets.clear();
        w.attach(n);
        heals(&mut w);
        assert_eq!(resync_bytes(&w, n), 0);
        assert_eq!(resync_bytes(&w, 1 - n), hot_bytes(n));
    }
}

/// Attach with data that is older than what the peer has had since: the Primary becomes target.
#[test]
fn attach_of_an_older_disk_while_connected_and_writing() {
    for n in 0..2 {
        let mut w = pair(4);
        scribble(&mut w, 0, 50, SECTORS);
        w.run_for(secs(1));
        detach(&mut w, n);
        scribble(&mut w, 0, 100, SECTORS);
        w.attach(n);
        scribble(&mut w, 0, 100, SECTORS);
        heals(&mut w);
    }
}

#[test]
fn a_remote_read_that_fails_is_an_error() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        let mut w = pair_on_error([OnIoError::Detach, policy]);
        assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
        detach(&mut w, 0);
        w.hooks.break_disk(1, DiskOp::Read, 0, 8);
        assert_eq!(read(&mut w, 0, 0), Err(ClientResult::IoError));
        assert_eq!(w.hooks.seen(1, Wire::NegDreply), 1);
    }
}

#[test]
fn the_last_disk_cannot_be_detached() {
    let mut w = pair(5);
    detach(&mut w, 1);
    assert_eq!(w.command_and_wait(0, DETACH), CommandResult::State(StateResult::NoUpToDateDisk));
    assert_eq!(disk(&w, 0), DiskState::UpToDate);
    let mut w = pair(5);
    detach(&mut w, 0);
    assert_eq!(w.command_and_wait(1, DETACH), CommandResult::State(StateResult::CwFailedByPeer));
    assert_eq!(disk(&w, 1), DiskState::UpToDate);
}

#[test]
fn a_local_read_error_is_served_by_the_peer() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        let mut w = pair_on_error([policy, OnIoError::Detach]);
        assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
        w.run_for(ms(100));
        w.hooks.break_disk(0, DiskOp::Read, 0, 8);
        assert_eq!(read(&mut w, 0, 0), Ok(1), "the client does not notice");
        assert_eq!(w.hooks.seen(0, Wire::DataRequest), 1);
        assert_eq!(marked(&w, 0), 1, "the block is marked");
        w.run_for(ms(100));
        if policy == OnIoError::Detach {
            assert_eq!(disk(&w, 0), DiskState::Diskless);
            w.hooks.mend_disks();
            w.attach(0);
        } else {
            assert_eq!(disk(&w, 0), DiskState::Inconsistent);
            assert_eq!(read(&mut w, 0, 64), Ok(0), "other blocks are still read here");
            assert_eq!(w.hooks.seen(0, Wire::DataRequest), 1);
            w.hooks.mend_disks();
            // The Primary would not let the good copy go.
            assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
            w.connect(1, &net());
        }
        heals(&mut w);
    }
}

#[test]
fn a_local_write_error_is_hidden_by_the_peer() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        let mut w = pair_on_error([policy, OnIoError::Detach]);
        w.hooks.break_disk(0, DiskOp::Write, 0, 8);
        assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
        w.run_for(ms(100));
        assert_eq!(marked(&w, 0), 1);
        let left = if policy == OnIoError::Detach { DiskState::Diskless } else { DiskState::Inconsistent };
        assert_eq!((disk(&w, 0), peer_disk(&w, 1)), (left, left));
        assert_eq!(read(&mut w, 0, 0), Ok(1), "read from the peer");
        assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
        w.hooks.mend_disks();
        if policy == OnIoError::Detach {
            w.attach(0);
        } else {
            // The Primary would not let the good copy go.
            assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
            w.connect(1, &net());
        }
        heals(&mut w);
        assert_eq!(last_version(&w, 64), 2);
    }
}

/// Without a peer the error reaches the client.
#[test]
fn a_write_error_of_the_only_copy_is_an_error() {
    for policy in [OnIoError::PassOn, OnIoError::Detach] {
        let mut w = pair_on_error([policy, OnIoError::Detach]);
        disconnect(&mut w, 0);
        w.hooks.break_disk(0, DiskOp::Write, 0, 8);
        assert_eq!(write(&mut w, 0, 0, 8), ClientResult::IoError);
    }
}

#[test]
fn a_write_error_of_the_secondary_is_reported_and_marked() {
    for protocol in [model::policy::Protocol::A, model::policy::Protocol::C] {
        for policy in [OnIoError::PassOn, OnIoError::Detach] {
            let disks = [OnIoError::Detach, policy]
                .map(|on_io_error| DiskConfig { on_io_error, ..DiskConfig::default() });
            let n = NetConfig { protocol, ..net() };
            let mut w = pair_with(1, SECTORS, &n, disks);
            w.hooks.break_disk(1, DiskOp::Write, 0, 8);
            assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
            w.run_for(ms(100));
            assert_eq!(w.hooks.seen(1, Wire::NegAck), 1, "in every protocol");
            assert_eq!((marked(&w, 0), marked(&w, 1)), (1, 1));
            let left =
                if policy == OnIoError::Detach { DiskState::Diskless } else { DiskState::Inconsistent };
            assert_eq!((disk(&w, 1), peer_disk(&w, 0)), (left, left));
            assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok, "the Primary goes on");
            w.hooks.mend_disks();
            if policy == OnIoError::Detach {
                w.attach(1);
            } else {
                disconnect(&mut w, 1);
                w.connect(1, &n);
            }
            heals(&mut w);
        }
    }
}

#[test]
fn a_metadata_error_detaches() {
    for (n, policy) in [(0, OnIoError::PassOn), (0, OnIoError::Detach), (1, OnIoError::PassOn)] {
        let mut policies = [OnIoError::Detach; 2];
        policies[n] = policy;
        let mut w = pair_on_error(policies);
        w.hooks.break_disk(n, DiskOp::Meta, 0, 0);
        // A write to a cold extent needs the activity log; on the Secondary a change of the connection does.
        assert_eq!(write(&mut w, 0, 64, 8), ClientResult::Ok);
        if n == 1 {
            detach(&mut w, 0);
        }
        w.run_for(secs(5));
        assert_eq!(disk(&w, n), DiskState::Diskless, "node {} {policy:?}", n + 1);
        if n == 0 {
            assert_eq!(read(&mut w, 0, 64), Ok(1));
            assert_eq!(write(&mut w, 0, 128, 8), ClientResult::Ok);
            w.hooks.mend_disks();
            w.attach(0);
            heals(&mut w);
        }
    }
}

/// on-no-data-accessible io-error: no copy left, clients hear of it.
#[test]
fn a_diskless_primary_without_peer_fails_requests() {
    let mut w = pair(6);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    detach(&mut w, 0);
    w.crash(1, false);
    w.run_for(secs(3));
    assert_eq!(read(&mut w, 0, 0), Err(ClientResult::IoError));
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::IoError);
    w.start(1);
    w.connect(1, &net());
    assert!(w.run_until(secs(30), |w| w.state(0).0 == ConnState::Connected));
    assert_eq!(read(&mut w, 0, 0), Ok(1), "the data is back");
    w.attach(0);
    heals(&mut w);
}

/// on-no-data-accessible suspend-io: requests wait until the peer is back.
#[test]
fn a_diskless_primary_without_peer_freezes_requests() {
    let mut w = nodes(6, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    for n in 0..2 {
        w.crash(n, false);
        w.nodes[n].on_no_data = OnNoData::SuspendIo;
        w.start(n);
    }
    link_up(&mut w, &net());
    skip_initial_sync(&mut w, 0);
    assert_eq!(primary(&mut w, 0), OK);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    detach(&mut w, 0);
    let under_way = w.request(0, SimOp::Write { sector: 64, count: 8, fua: false });
    w.crash(1, false);
    w.run_for(secs(3));
    assert!(w.volume(0).is_some_and(|s| s.susp_nod));
    let new = w.request(0, SimOp::Write { sector: 128, count: 8, fua: false });
    let read_tag = w.request(0, SimOp::Read { sector: 0, count: 1 });
    w.run_for(secs(20));
    for tag in [under_way, new, read_tag] {
        assert_eq!(answer(&mut w, tag), None, "frozen, neither done nor failed");
    }
    w.start(1);
    w.connect(1, &net());
    for tag in [under_way, new, read_tag] {
        assert_eq!(wait(&mut w, tag).0, ClientResult::Ok);
    }
    assert!(w.volume(0).is_some_and(|s| !s.susp_nod));
    w.attach(0);
    heals(&mut w);
}

/// A Primary that lost its disk takes back only the data it lost (error 150).
#[test]
fn foreign_data_cannot_be_attached_to_a_primary() {
    let mut w = pair(7);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    disconnect(&mut w, 0);
    assert_eq!(w.command_and_wait(0, Command::Detach { vol: VolIdx(0), force: true }), OK);
    w.run_for(ms(100));
    assert_eq!(disk(&w, 0), DiskState::Diskless);
    let foreign = Node::new(SECTORS, DiskConfig::default()).load(VolIdx(0));
    let refused = w.command_and_wait(0, Command::Attach(VolIdx(0), Box::new(foreign)));
    assert_eq!(refused, CommandResult::Config(ConfigError::DataNotCurrent));
    w.attach(0);
    w.run_for(ms(100));
    assert_eq!(disk(&w, 0), DiskState::UpToDate, "its own disk is welcome");
    assert_eq!(read(&mut w, 0, 0), Ok(1));
    w.connect(0, &net());
    heals(&mut w);
}

/// A diskless Primary does not go on with other data than its clients saw.
#[test]
fn a_diskless_primary_refuses_a_peer_with_other_data() {
    let mut w = pair(8);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    w.run_for(ms(100));
    detach(&mut w, 0);
    w.cut(true);
    w.run_for(secs(5));
    assert_eq!(w.command_and_wait(1, Command::Disconnect { force: true }), OK);
    let other = Command::NewCurrentUuid { vol: VolIdx(0), clear_bitmap: false };
    assert_eq!(w.command_and_wait(1, other), OK);
    w.cut(false);
    w.connect(1, &net());
    w.run_for(secs(20));
    stands_alone(&w, 0, "Can only connect to data with current UUID");
}

#[test]
fn commands_that_need_a_disk() {
    let mut w = pair(9);
    detach(&mut w, 1);
    let no_disk = CommandResult::Config(ConfigError::NoDisk);
    assert_eq!(w.command_and_wait(1, Command::Invalidate(VolIdx(0))), no_disk);
    assert_eq!(w.command_and_wait(1, Command::InvalidateRemote(VolIdx(0))), no_disk);
    assert_eq!(w.command_and_wait(1, DETACH), OK, "nothing to do");
    let other = w.nodes[0].disk.clone();
    assert!(other.written().all(|at| volume_and_sector(at).0 == VolIdx(0)));
    let again = w.nodes[1].load(VolIdx(0));
    assert_eq!(w.command_and_wait(1, Command::Attach(VolIdx(0), Box::new(again))), OK);
    let again = w.nodes[1].load(VolIdx(0));
    let refused = w.command_and_wait(1, Command::Attach(VolIdx(0), Box::new(again)));
    assert_eq!(refused, CommandResult::Config(ConfigError::DiskConfigured));
}
