//! What is in the cache of a disk that loses power, and what the metadata beside it says.

use model::policy::OnIoError;
use model::state::{ConnState, DiskState};
use model::time::Duration;
use model::units::SECTORS_PER_AL_EXTENT;
use replicator::meta::layout::SECTORS_PER_BITMAP_PAGE;
use replicator::{ClientResult, Command, DiskConfig, VolIdx};

use crate::hooks::{Blocked, DiskOp};
use crate::scenarios::*;
use crate::world::{SimOp, World};

/// The bitmap of a sync target is written every ten seconds, after a flush. Blocks that got to the disk while that flush was
/// under way were marked as equal in it, and were gone with the power.
#[test]
fn a_target_loses_power_in_the_middle_of_a_resync() {
    let d = DiskConfig { c_plan_ahead_ds: 0, resync_rate_kib_s: 160, ..DiskConfig::default() };
    for k in 0..40 {
        let mut w = pair_with(k, SECTORS, &net(), [d.clone(), d.clone()]);
        disconnect(&mut w, 1);
        for i in 0..80 {
            assert_eq!(write(&mut w, 0, i * 64, 64), ClientResult::Ok);
        }
        w.connect(1, &net());
        let begun = |w: &World| w.state(1) == (ConnState::SyncTarget, DiskState::Inconsistent);
        assert!(w.run_until(secs(10), begun));
        w.weather.disk_us = 20_000;
        w.run_for(ms(9_900));
        let written = w.hooks.meta_writes[1];
        assert!(w.run_until(ms(300), |w| w.hooks.meta_writes[1] > written), "the bitmap is written");
        assert_eq!(w.state(1).0, ConnState::SyncTarget);
        w.run_for(Duration::from_micros(k * 100));
        w.crash(1, true);
        w.weather.disk_us = 50;
        w.start(1);
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// More pages of the bitmap had changed than are written at once. One that still waited for its turn counted as written: the
/// activity log forgot an extent on it before the bits were on the disk, and the power failed.
#[test]
fn an_extent_leaves_the_log_while_its_page_waits_for_others() {
    const PAGES: u64 = 40;
    let d = DiskConfig { al_extents: PAGES as u16, ..DiskConfig::default() };
    for k in 0..10 {
        let mut w = pair_with(k, PAGES * SECTORS_PER_BITMAP_PAGE, &net(), [d.clone(), d.clone()]);
        w.block(0, Blocked::Data);
        // The page that is queued last is that of the extent that is forgotten first.
        for page in (0..PAGES).rev() {
            w.request(0, SimOp::Write { sector: page * SECTORS_PER_BITMAP_PAGE, count: 8, fua: true });
        }
        w.run_for(ms(100));
        w.weather.disk_us = 20_000;
        w.reset();
        w.block(0, Blocked::No);
        assert_eq!(write(&mut w, 0, SECTORS_PER_AL_EXTENT, 8), ClientResult::Ok);
        w.crash(0, true);
        w.weather.disk_us = 50;
        w.start(0);
        w.connect(0, &net());
        heals(&mut w);
    }
}

/// A write failed on a target that passes errors on, and both nodes marked the block. The resync brought it, and the source
/// forgot it; but the target's disk had never heard of the mark, and the block went with its cache.
#[test]
fn a_write_fails_on_a_target_that_loses_power_later() {
    let on_io_error = OnIoError::PassOn;
    let d = DiskConfig { on_io_error, c_plan_ahead_ds: 0, resync_rate_kib_s: 160, ..DiskConfig::default() };
    for k in 0..10 {
        let mut w = pair_with(k, SECTORS, &net(), [d.clone(), d.clone()]);
        disconnect(&mut w, 1);
        for i in (0..80).filter(|i| *i != 8) {
            assert_eq!(write(&mut w, 0, i * 64, 64), ClientResult::Ok);
        }
        w.connect(1, &net());
        let begun = |w: &World| w.state(1) == (ConnState::SyncTarget, DiskState::Inconsistent);
        assert!(w.run_until(secs(10), begun));
        w.hooks.break_disk(1, DiskOp::Write, 512, 8);
        assert_eq!(write(&mut w, 0, 512, 8), ClientResult::Ok);
        w.hooks.mend_disks();
        w.run_for(secs(4));
        assert_eq!(w.state(1).0, ConnState::SyncTarget);
        assert_eq!(w.nodes[1].disk.read(512), w.nodes[0].disk.read(512), "the resync has come so far");
        w.crash(1, true);
        w.start(1);
        w.connect(1, &net());
        heals(&mut w);
    }
}

/// Where everything is marked the activity log has nothing to tell, and is left out. When the resync had taken the marks away,
/// neither told of what a Primary had written meanwhile and still had in its cache.
#[test]
fn a_primary_that_wrote_without_the_log_loses_power_behind_its_resync() {
    for k in 0..40 {
        let mut w = pair(k);
        disconnect(&mut w, 0);
        assert_eq!(w.command_and_wait(0, Command::InvalidateRemote(VolIdx(0))), OK);
        w.crash(0, false);
        w.start(0);
        assert_eq!(primary(&mut w, 0), OK);
        w.hooks.slow_disk(0, DiskOp::Write, 64, 64);
        for sector in [64, 80, 96] {
            w.request(0, SimOp::Write { sector, count: 8, fua: false });
        }
        link_up(&mut w, &net());
        w.run_for(secs(1));
        w.let_go(false);
        assert!(w.run_until(secs(30), World::in_sync));
        // The bitmap is written before the super block.
        w.run_for(ms(200 * k));
        w.crash(0, true);
        w.start(0);
        w.connect(0, &net());
        heals(&mut w);
    }
}
