//! Devices that become smaller, and metadata that moves.

use model::policy::Protocol;
use model::time::Duration;
use replicator::{ClientResult, Command, DiskConfig, NetConfig, ResizeWish, VolIdx};

use super::healing::both_again;
use crate::hooks::DiskOp;
use crate::node::Node;
use crate::scenarios::*;
use crate::world::{Answer, SimOp, World};

const VOL: VolIdx = VolIdx(0);
const SMALLER: u64 = SECTORS - 800;
const TAIL: u64 = SECTORS - 400;

fn resize(limit_sectors: u64) -> Command {
    let wish = ResizeWish { limit_sectors, assume_clean: false, assume_peer_has_space: false };
    Command::Resize(VOL, wish)
}

/// The bitmap of the smaller device was on the disk before its size was. The node died in between and came back with the old
/// size, without what was marked in the part to be cut off: the peer, UpToDate, had old blocks there.
#[test]
fn a_node_dies_before_its_smaller_size_is_stored() {
    for writes in 0..3 {
        let mut w = pair(910);
        w.cut(true);
        w.run_for(secs(20));
        assert_eq!(write(&mut w, 0, TAIL, 8), ClientResult::Ok);
        // From here on the activity log does not tell.
        w.crash(0, false);
        w.start(0);
        assert_eq!(primary(&mut w, 0), OK);
        w.crash_after_metadata(0, writes, false);
        w.command(0, resize(SMALLER));
        w.run_for(secs(1));
        w.crash(0, false);
        w.start(0);
        w.connect(0, &net());
        w.cut(false);
        both_again(&mut w);
    }
}

/// A write of the peer to the part that was cut off waited for another one, and then for a size on disk that never came: it
/// was never acknowledged, and the node did not connect again.
#[test]
fn a_write_of_the_peer_waits_while_its_place_is_cut_off() {
    let net = NetConfig { protocol: Protocol::A, ..net() };
    let mut w = pair_with(911, SECTORS, &net, [DiskConfig::default(), DiskConfig::default()]);
    w.hooks.slow_disk(1, DiskOp::Write, TAIL, 8);
    for _ in 0..2 {
        let tag = w.request(0, SimOp::Write { sector: TAIL, count: 8, fua: false });
        w.run_for(Duration::from_millis(5));
        let answer = w.take_answer(|a| matches!(a, Answer::Client(t, ..) if *t == tag));
        assert!(matches!(answer, Some(Answer::Client(_, ClientResult::Ok, _))), "{answer:?}");
    }
    assert_eq!(w.command_and_wait(0, resize(SMALLER)), OK);
    let size = |w: &World, n: usize| w.nodes[n].core.as_ref().expect("it runs").size_sectors(VOL);
    assert!(w.run_until(secs(2), |w| [0, 1].map(|n| size(w, n)) == [SMALLER; 2]));
    w.run_for(ms(100));
    w.let_go(false);
    assert!(w.run_until(secs(5), World::is_idle), "{:?} {:?}", w.state(0), w.state(1));
    assert_eq!(secondary(&mut w, 0), OK);
    assert!(w.in_sync());
}

/// A write of a Primary without a disk waited for the activity log when the metadata of the only copy began to move. The move
/// writes all of the log anew, at the new place; the write was let go before that counted. Killed then, the node came back
/// with the log of the old place, and the Primary's own disk, UpToDate again, did not get what had been answered.
#[test]
fn a_write_of_a_diskless_primary_waits_for_a_log_that_moves() {
    const EXTENT: u64 = 8192;
    let mut w = World::with_volumes(912, LARGE, [DiskConfig::default(), DiskConfig::default()], 1);
    w.nodes.iter_mut().for_each(Node::make_internal);
    for n in 0..2 {
        w.start(n);
    }
    w.run_for(ms(10));
    link_up(&mut w, &net());
    skip_initial_sync(&mut w, 0);
    assert_eq!(primary(&mut w, 0), OK);
    w.run_for(ms(100));
    assert_eq!(w.command_and_wait(0, Command::Detach { vol: VOL, force: false }), OK);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    w.run_for(ms(100));

    w.weather.disk_us = 1000;
    w.hooks.slow_disk(1, DiskOp::Meta, 0, u64::from(u32::MAX));
    // One in the transaction under way, one in the next.
    for extent in [2, 4] {
        w.request(0, SimOp::Write { sector: extent * EXTENT, count: 8, fua: false });
        w.run_for(ms(20));
    }
    w.grow(1, 3000);
    w.command(1, resize(0));
    w.run_for(ms(20));
    w.let_go(false);
    w.run_for(Duration::from_micros(1));
    w.hooks.slow_disk(1, DiskOp::Meta, 0, u64::from(u32::MAX));
    w.run_for(ms(100));
    w.crash(1, false);
    w.hooks.hurry_disks();
    w.start(1);
    w.connect(1, &net());
    both_again(&mut w);
}
