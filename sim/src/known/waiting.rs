//! Scenarios that the core does not pass yet; the file joins the module tree when it does.

use super::*;
use crate::hooks::DiskOp;
use model::policy::OnIoError;

/// A block cannot be written on the target, whose disk goes, while others are on their way: they were taken for a
/// protocol error, which ended the connection.
#[test]
fn resync_failure_reported_as_success_with_more_blocks_on_the_way() {
    for policy in [OnIoError::Detach, OnIoError::PassOn] {
        let cfg = DiskConfig { on_io_error: policy, ..DiskConfig::default() };
        let mut w = pair_with(12, SECTORS, &net(), [cfg.clone(), cfg]);
        missed(&mut w, &[5, 30, 60]);
        w.hooks.slow_disk(0, DiskOp::Read, at(30), 8);
        w.hooks.slow_disk(0, DiskOp::Read, at(60), 8);
        w.hooks.slow_disk(1, DiskOp::Write, at(5), 8);
        w.hooks.break_disk(1, DiskOp::Write, at(5), 8);
        w.cut(false);
        let begun = |w: &World| (w.hooks.waiting_operations(0), w.hooks.waiting_operations(1)) == (2, 1);
        assert!(w.run_until(secs(20), begun));
        w.hooks.packets.clear();
        w.weather.net_us = 20_000;
        w.let_go(false);
        w.run_for(secs(2));
        w.weather.net_us = 50;
        assert_eq!(w.hooks.seen(0, Wire::ConnectionFeatures), 0, "on the same connection");
        ends_well(&mut w);
    }
}
