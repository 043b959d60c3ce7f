//! A source of a resync that has not begun, or that loses something in the middle of it.

use model::policy::OnIoError;
use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::{ClientResult, Command, DiskConfig, ResizeWish, VolIdx};

use crate::hooks::DiskOp;
use crate::scenarios::*;
use crate::world::SimOp;
use replicator::wire::Command as Wire;

const RESIZE: Command = Command::Resize(
    VolIdx(0),
    ResizeWish { limit_sectors: 0, assume_clean: false, assume_peer_has_space: false },
);

/// The source could not read a block, and marked it behind the bitmap that the target counted by: the target ended, and the
/// source waited for the rest for ever.
#[test]
fn a_source_that_cannot_read_a_block() {
    for k in 0..40 {
        let pass_on = DiskConfig { on_io_error: OnIoError::PassOn, ..DiskConfig::default() };
        let mut w = pair_with(k, 4_000, &net(), [pass_on.clone(), pass_on]);
        w.cut(true);
        assert!(w.run_until(secs(30), |w| w.state(0).0 < ConnState::Connected));
        for block in 0..20 {
            write(&mut w, 0, block * 8, 8);
        }
        w.cut(false);
        assert!(w.run_until(secs(30), |w| w.state(0).0 == ConnState::WFBitMapS));
        w.hooks.break_disk(0, DiskOp::Read, 800, 8);
        let until = w.steps + k;
        w.run_until(secs(1), |w| w.steps >= until);
        w.request(0, SimOp::Read { sector: 800, count: 8 });
        w.run_for(secs(1));
        w.hooks.mend_disks();
        let ended = |w: &crate::world::World| (0..2).all(|n| w.state(n).0 == ConnState::Connected);
        assert!(w.run_until(secs(60), ended), "{:?} {:?}", w.volume(0), w.volume(1));
    }
}

/// Both copies had the same generation, and one was to bring the other what was marked. It took writes alone meanwhile,
/// stepped down, and the link broke: nothing said any more whose copy was ahead, and the other one became source.
#[test]
fn a_source_that_steps_down_before_the_resync_begins() {
    for n in 0..2 {
        for k in 0..10 {
            let mut w = pair(k);
            assert_eq!(secondary(&mut w, 0), OK);
            assert_eq!(primary(&mut w, n), OK);
            w.run_for(ms(100));
            for m in 0..2 {
                w.grow(m, 400);
            }
            w.hooks.keep(1 - n, Wire::Bitmap);
            w.hooks.keep(1 - n, Wire::CompressedBitmap);
            w.command(n, RESIZE);
            assert!(w.run_until(secs(20), |w| w.state(n).0 == ConnState::WFBitMapS), "{:?}", w.volume(n));
            write(&mut w, n, 128, 8);
            assert_eq!(secondary(&mut w, n), OK);
            w.cut(true);
            assert!(w.run_until(secs(30), |w| (0..2).all(|n| w.state(n).0 < ConnState::Connected)));
            w.crash(n, false);
            w.start(n);
            w.connect(n, &net());
            w.pass(1 - n);
            w.cut(false);
            heals(&mut w);
        }
    }
}

/// The Primary's disk failed while the peer, which had heard that both have grown, was about to become target: it named its
/// generation, the old one, and only behind that its state. In between writes were answered that its copy lost.
#[test]
fn a_peer_that_names_the_old_generation_does_not_go_on_in_it() {
    for k in 0..200 {
        let mut w = pair(k);
        (w.weather.net_us, w.weather.disk_us) = (1000, 300);
        for n in 0..2 {
            w.grow(n, 400);
        }
        let _ = w.command((k % 2) as usize, RESIZE);
        w.run_for(model::time::Duration::from_micros(k * 20));
        w.hooks.break_disk(0, DiskOp::Write, 0, 8);
        for block in 0..6 {
            w.request(0, SimOp::Write { sector: block * 8, count: 8, fua: false });
            let until = w.steps + k % 9;
            w.run_until(secs(1), |w| w.steps >= until);
        }
        w.run_until(secs(10), |w| w.is_idle() && w.state(0).1 == DiskState::Diskless);
        w.hooks.mend_disks();
        w.attach(0);
        if w.run_until(secs(20), |w| w.in_sync() && w.is_idle()) {
            w.check_disks();
        }
    }
}

/// A Primary gave up its disk for the sake of the peer's copy, which had just become target of the new storage: neither was
/// good then, and its clients had nothing to read.
#[test]
fn a_target_does_not_let_the_only_good_copy_go() {
    let mut w = pair(1);
    for m in 0..2 {
        w.grow(m, 400);
    }
    w.hooks.keep(1, Wire::Sizes);
    w.command(0, RESIZE);
    assert!(w.run_until(secs(5), |w| w.state(1).0 == ConnState::WFBitMapT));
    assert_eq!(w.state(0), (ConnState::Connected, DiskState::UpToDate), "it has not heard of that");
    let detach = Command::Detach { vol: VolIdx(0), force: false };
    assert_ne!(w.command_and_wait(0, detach), OK);
    assert_eq!(w.state(0).1, DiskState::UpToDate);
    w.pass(1);
    heals(&mut w);
}

/// A target that says goodbye in the middle of its resync gets the last blocks, and the answer to its last ping, while the
/// super block of its source is written, which the answer to the goodbye waits for. The source had called the run given up by
/// then and went on in the generation that the target ended in: what its clients wrote was overwritten by a promotion there.
#[test]
fn a_target_may_finish_while_its_goodbye_is_answered() {
    let mut finished = 0;
    for k in 0..100 {
        let mut w = pair(k);
        disconnect(&mut w, 1);
        for block in 0..4 {
            assert_eq!(write(&mut w, 0, block * 16, 8), ClientResult::Ok);
        }
        w.run_for(ms(100));
        w.connect(1, &net());
        assert!(w.run_until(secs(10), |w| w.state(1).0 == ConnState::SyncTarget));
        w.run_for(Duration::from_micros(20 * k));
        w.hooks.slow_disk(0, DiskOp::Meta, 0, 0);
        w.command(1, Command::Disconnect { force: false });
        w.run_until(ms(10), |w| w.state(0).0 == ConnState::TearDown);
        let was_under_way = w.state(0).0 == ConnState::TearDown && disk(&w, 1) == DiskState::Inconsistent;
        w.run_for(ms(100));
        w.let_go(false);
        w.run_for(secs(1));
        if !was_under_way || disk(&w, 1) != DiskState::UpToDate {
            continue;
        }
        finished += 1;
        assert_eq!(write(&mut w, 0, 800, 8), ClientResult::Ok);
        assert_eq!(primary(&mut w, 1), OK);
        assert_eq!(write(&mut w, 1, 1600, 8), ClientResult::Ok);
        for n in 0..2 {
            assert_eq!(secondary(&mut w, n), OK);
        }
        w.connect(1, &net());
        w.run_for(secs(5));
        for n in 0..2 {
            stands_alone(&w, n, "Split-Brain");
        }
    }
    assert!(finished > 5, "{finished}");
}
