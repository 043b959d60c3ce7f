//! A link that cannot keep up: writes that are only announced, and the resyncs between them.

use super::*;
use crate::hooks::DiskOp;
use model::config::settings::OnCongestion;
use model::policy::Protocol;

/// Some 50 blocks a second.
const SLOW: u64 = 200_000;
/// Blocks on their way that are congestion.
const FILL: u64 = 16;

fn pull_ahead() -> NetConfig {
    NetConfig {
        protocol: Protocol::A,
        on_congestion: OnCongestion::PullAhead,
        congestion_fill_sectors: FILL * 8,
        ..net()
    }
}

fn congested_pair(seed: u64) -> World {
    let d = DiskConfig { c_fill_target_sectors: 40, ..DiskConfig::default() };
    let mut w = pair_with(seed, SECTORS, &pull_ahead(), [d.clone(), d]);
    w.weather.link_bytes_per_s = SLOW;
    w
}

/// Both copies become equal, and again after both nodes were killed.
fn ends_on_a_slow_link(w: &mut World) {
    heals(w);
    ends_well_with(w, &[pull_ahead(), pull_ahead()]);
}

/// DRBD 9.0.26: the source read a block for the resync, the block was written again and only announced, and then the
/// completion of the old data cleared its bit on both sides.
#[test]
fn bit_set_between_resync_read_and_ack() {
    const X: u64 = 5;
    for k in 0..40 {
        let mut w = congested_pair(k);
        missed(&mut w, &[X]);
        w.hooks.slow_disk(1, DiskOp::Write, at(X), 8);
        w.cut(false);
        let written = |w: &World| w.hooks.waiting_operations(1) == 1;
        assert!(w.run_until(secs(20), written), "{:?} {:?}", w.state(0), w.state(1));
        for block in 100..100 + 2 * FILL {
            put(&mut w, 0, block);
        }
        assert_eq!(conn(&w, 0), ConnState::Ahead);
        put(&mut w, 0, X);
        // The old data ends before the target hears that its source is ahead, or after.
        w.run_for(ms(k * 15));
        w.let_go(false);
        w.run_for(ms(50));
        assert!(w.nodes[0].core.as_ref().expect("it runs").is_marked(VOL, at(X)), "k = {k}");
        ends_on_a_slow_link(&mut w);
    }
}

/// DRBD 8.3.10, 9.2.16: a request of the resync crossed the change to Ahead, and one side cleared bits; or Ahead and
/// SyncSource alternated without end. Here: 4 MiB at once, and then a minute at nine tenths of what the link carries.
#[test]
fn ahead_behind_never_converges() {
    let mut w = congested_pair(1);
    for block in 0..1000 {
        put(&mut w, 0, block);
    }
    assert_eq!(conn(&w, 0), ConnState::Ahead);
    let whole = marked(&w, 0);
    assert!(whole > 900);
    let (mut least, mut ahead, mut resynced) = (whole, 0, 0);
    for i in 0..2600u64 {
        // A few blocks, so that what was brought once can stay so.
        begin(&mut w, 0, i * 7 % 50);
        w.run_for(ms(23));
        w.answers.clear();
        least = least.min(marked(&w, 0));
        ahead += u64::from(conn(&w, 0) == ConnState::Ahead);
        resynced += u64::from(conn(&w, 0) == ConnState::SyncSource);
    }
    assert!(
        ahead > 0 && resynced > 0,
        "it goes back and forth: {resynced} times a source, {ahead} times ahead"
    );
    assert!(least < whole * 3 / 4, "progress under load: of {whole} blocks {least} were left");
    let calm = w.now;
    ends_on_a_slow_link(&mut w);
    assert!(w.now.saturating_since(calm) < secs(60));
}

/// The epoch that is open when the node goes ahead is closed by a barrier of its own size, and acknowledged.
#[test]
fn epoch_accounting_with_ahead_between_two_writes() {
    for k in 0..40 {
        let mut w = congested_pair(k);
        // The extent is hot from here on.
        put(&mut w, 0, 0);
        w.run_for(secs(1));
        w.hold_disk(0, true);
        let mut tags: Vec<ClientTag> = (0..FILL).map(|b| begin(&mut w, 0, b)).collect();
        events(&mut w, k);
        assert_eq!(conn(&w, 0), ConnState::Connected);
        tags.extend((FILL..FILL + 4).map(|b| begin(&mut w, 0, b)));
        assert_eq!(conn(&w, 0), ConnState::Ahead);
        w.run_for(ms(k * 10));
        w.hold_disk(0, false);
        for tag in tags {
            is_done(&mut w, tag);
        }
        heals(&mut w);
        assert_eq!(w.hooks.seen(0, Wire::Barrier), w.hooks.seen(1, Wire::BarrierAck));
        ends_on_a_slow_link(&mut w);
    }
}
