//! What is in the cache of a disk that loses power, and what the metadata beside it says.

use model::state::{ConnState, DiskState};
use model::time::Duration;
use replicator::{ClientResult, DiskConfig};

use crate::scenarios::*;
use crate::world::World;

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
