//! Disks that are detached, fail or come back (drbd-states 10, 14.2, 14.4, 15; drbd-wire 4.10).

use super::*;
use crate::hooks::DiskOp;
use crate::node::volume_and_sector;
use model::config::settings::Handler;
use model::policy::OnIoError;
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
fn a_metadata_error_detaches() {
    use OnIoError::*;
    for (n, policy) in (0..2).flat_map(|n| [PassOn, Detach, CallLocalIoError].map(|p| (n, p))) {
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
        let called = usize::from(policy == CallLocalIoError);
        assert_eq!(calls(&w, n, Handler::LocalIoError), called, "node {} {policy:?}", n + 1);
        if n == 0 {
            assert_eq!(read(&mut w, 0, 64), Ok(1));
            assert_eq!(write(&mut w, 0, 128, 8), ClientResult::Ok);
            w.hooks.mend_disks();
            w.attach(0);
            heals(&mut w);
        }
    }
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
