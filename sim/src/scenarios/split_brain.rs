//! Data generations: who wins, who is told, what is found out after a loss (drbd-wire 8, drbd-states 12, 15, 16).

use super::*;
use model::result_code::StateResult;

/// Node 2 missed 20 blocks; the resync is stopped at a point, by a cut or a power failure of one node.
fn stopped(seed: u64, who: Option<usize>, at: impl Fn(&World) -> bool) -> World {
    let mut w = pair(seed);
    w.run_for(ms(100));
    disconnect(&mut w, 1);
    for i in 0..20 {
        assert_eq!(write(&mut w, 0, i * 24, 8), ClientResult::Ok);
    }
    w.hooks.packets.clear();
    w.trace = Some(Vec::new());
    w.connect(1, &net());
    assert!(w.run_until(secs(10), at), "the moment comes");
    w.cut(true);
    if let Some(n) = who {
        w.crash(n, true);
    }
    w.run_for(secs(5));
    w.hooks.packets.clear();
    w.cut(false);
    if let Some(n) = who {
        w.start(n);
        w.connect(n, &net());
    }
    heals(&mut w);
    w
}

fn rules(w: &World) -> Vec<String> {
    let trace = w.trace.as_ref().expect("it is on").iter();
    trace.filter_map(|l| l.split("by rule ").nth(1)).map(str::to_string).collect()
}

/// The source has rotated its generations, the target knows nothing of it.
#[test]
fn the_sync_uuid_is_lost() {
    for who in [None, Some(0), Some(1)] {
        let w = stopped(8, who, |w| w.hooks.seen(0, Wire::SyncUuid) == 1);
        let rules = rules(&w);
        let last = &rules[rules.len() - 2..];
        assert!(last.contains(&"51".into()) && last.contains(&"71".into()), "{who:?}: {rules:?}");
        // A crashed Primary brings its hot extent, the whole device here.
        let wanted = if who == Some(0) { SECTORS * 512 } else { 20 * 4096 };
        assert_eq!(resync_bytes(&w, 0), wanted, "by bitmap");
    }
}

/// The sync UUID was persisted, but its packet had not left yet when the source lost power.
#[test]
fn power_fails_around_the_sync_uuid() {
    for k in 0..20 {
        let mut w = pair(9 + k);
        w.run_for(ms(100));
        disconnect(&mut w, 1);
        for i in 0..20 {
            assert_eq!(write(&mut w, 0, i * 24, 8), ClientResult::Ok);
        }
        w.hooks.packets.clear();
        w.connect(1, &net());
        assert!(w.run_until(secs(10), |w| w.state(0).0 == ConnState::SyncSource));
        w.run_for(Duration::from_micros(k * 20));
        w.crash(0, true);
        w.run_for(secs(2));
        w.start(0);
        w.connect(0, &net());
        heals(&mut w);
    }
}

/// The target is done and says so, but the source does not hear it.
#[test]
fn the_end_of_the_resync_is_lost() {
    for who in [None, Some(0), Some(1)] {
        let done = |w: &World| w.state(1) == (ConnState::Connected, DiskState::UpToDate);
        let w = stopped(10, who, done);
        assert_eq!(resync_bytes(&w, 1), 0, "{who:?}: the data of the Primary counts: {:?}", rules(&w));
    }
}

/// The whole device travels when a fresh pair is forced.
#[test]
fn the_initial_full_sync() {
    let mut w = nodes(12, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    link_up(&mut w, &net());
    w.hooks.record = true;
    assert_eq!(primary(&mut w, 0), CommandResult::State(StateResult::NoUpToDateDisk));
    assert_eq!(w.command_and_wait(0, Command::Primary { force: true }), OK);
    heals(&mut w);
    assert_eq!(resync_bytes(&w, 0), SECTORS * 512);
    let (a, b) = (uuids(&w, 0), uuids(&w, 1));
    assert!((0..4).all(|i| a[i].same_as(b[i])), "{a:?} {b:?}");
}

#[test]
fn promotions_and_demotions_that_are_refused() {
    let state = |e| CommandResult::State(e);
    // An Inconsistent disk alone.
    let mut w = nodes(13, SECTORS, [DiskConfig::default(), DiskConfig::default()], 1);
    assert_eq!(primary(&mut w, 0), state(StateResult::NoUpToDateDisk));
    // Two Primaries; the first one is open.
    let mut w = pair(13);
    assert_eq!(primary(&mut w, 1), state(StateResult::TwoPrimaries));
    assert_eq!(role(&w, 1), Role::Secondary);
    let held = w.command_and_wait(0, Command::Secondary { open: 1, force: false });
    assert_eq!(held, state(StateResult::DeviceInUse));
    assert_eq!(role(&w, 0), Role::Primary);
    w.nodes[0].core.as_mut().unwrap().set_open(VolIdx(0), false);
    assert_eq!(secondary(&mut w, 0), OK);
    assert_eq!(primary(&mut w, 1), OK);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::ReadOnly);
    // A target of a resync, without its source.
    assert_eq!(secondary(&mut w, 1), OK);
    assert_eq!(w.command_and_wait(0, Command::Invalidate(VolIdx(0))), OK);
    assert!(w.run_until(secs(5), |w| w.state(0).0 == ConnState::SyncTarget));
    w.crash(1, false);
    w.run_for(secs(2));
    assert_eq!(primary(&mut w, 0), state(StateResult::NoUpToDateDisk));
}
