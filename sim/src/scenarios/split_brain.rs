//! Data generations: who wins, who is told, what is found out after a loss (drbd-wire 8, drbd-states 12, 15, 16).

use super::*;
use model::policy::{AfterSb0, AfterSb1, AfterSb2};
use model::result_code::StateResult;

/// A pair whose nodes wrote `blocks` different blocks each while they were apart; node 2 was promoted for that.
/// Afterwards the nodes have these roles. Both stand alone.
fn split(seed: u64, blocks: [u64; 2], primaries: [bool; 2]) -> World {
    let mut w = pair(seed);
    assert_eq!(write(&mut w, 0, 0, 8), ClientResult::Ok);
    w.run_for(ms(100));
    w.cut(true);
    w.run_for(secs(5));
    assert_eq!(primary(&mut w, 1), OK);
    for n in 0..2u64 {
        for i in 0..blocks[n as usize] {
            assert_eq!(write(&mut w, n as usize, 800 + n * 400 + i * 24, 8), ClientResult::Ok);
        }
    }
    for (n, stays) in primaries.iter().enumerate() {
        if !stays {
            assert_eq!(secondary(&mut w, n), OK);
        }
        assert_eq!(w.command_and_wait(n, Command::Disconnect { force: true }), OK);
    }
    w.cut(false);
    w.run_for(ms(100));
    w.hooks.packets.clear();
    w
}

fn reconnect(w: &mut World, nets: [NetConfig; 2]) {
    w.connect(0, &nets[0]);
    w.connect(1, &nets[1]);
    w.run_for(secs(20));
}

fn both(change: impl Fn(&mut NetConfig)) -> [NetConfig; 2] {
    let mut n = net();
    change(&mut n);
    [n.clone(), n]
}

fn unresolved(w: &World) {
    for n in 0..2 {
        stands_alone(w, n, "Split-Brain detected but unresolved");
    }
    assert_eq!(resync_bytes(w, 0) + resync_bytes(w, 1), 0);
}

/// Node `winner` kept its data, the other one has it too now.
fn won(w: &mut World, winner: usize) {
    heals(w);
    assert_eq!(resync_bytes(w, 1 - winner), 0, "node {} is no source", 2 - winner);
    assert!(resync_bytes(w, winner) > 0);
}

#[test]
fn split_brain_is_seen_on_both_sides() {
    for seed in 0..10 {
        for primaries in [[true, true], [true, false], [false, true], [false, false]] {
            let mut w = split(seed, [2, 2], primaries);
            reconnect(&mut w, both(|_| {}));
            unresolved(&w);
        }
    }
}

/// The promotion alone is a split, even if nobody wrote.
#[test]
fn a_split_without_writes_is_one_too() {
    let mut w = split(1, [0, 0], [false, false]);
    reconnect(&mut w, both(|_| {}));
    unresolved(&w);
}

#[test]
fn discard_my_data_decides() {
    for loser in 0..2 {
        let mut w = split(2, [3, 2], [false, false]);
        reconnect(&mut w, both(|_| {}));
        unresolved(&w);
        w.truth.word[loser] = true;
        let mut nets = both(|_| {});
        nets[loser].discard_my_data = true;
        reconnect(&mut w, nets);
        won(&mut w, 1 - loser);
        // Asked for once: the next split is not decided by it.
        let net = w.nodes[loser].core.as_ref().unwrap().snapshot(w.now);
        assert_eq!(net.standalone_reason, None);
    }
}

/// The Primary keeps its data, the Secondary gives it up.
#[test]
fn discard_my_data_next_to_a_primary() {
    let mut w = split(3, [3, 2], [true, false]);
    w.truth.word[1] = true;
    let mut nets = both(|_| {});
    nets[1].discard_my_data = true;
    reconnect(&mut w, nets);
    won(&mut w, 0);
    // But a Primary is never overwritten.
    let mut w = split(3, [3, 2], [false, true]);
    let mut nets = both(|_| {});
    nets[1].discard_my_data = false;
    nets[0].discard_my_data = true;
    w.truth.word[0] = true;
    reconnect(&mut w, nets);
    won(&mut w, 1);
}

#[test]
fn after_sb_0pri() {
    use AfterSb0::*;
    // Policies of the nodes, changed blocks, the winner.
    let cases: [([AfterSb0; 2], [u64; 2], Option<usize>); 10] = [
        ([Disconnect; 2], [1, 0], None),
        // Node 2 was promoted after the split.
        ([DiscardYoungerPrimary; 2], [1, 3], Some(0)),
        ([DiscardOlderPrimary; 2], [3, 1], Some(1)),
        ([DiscardZeroChanges; 2], [2, 0], Some(0)),
        ([DiscardZeroChanges; 2], [0, 2], Some(1)),
        ([DiscardZeroChanges; 2], [1, 1], None),
        ([DiscardLeastChanges; 2], [3, 1], Some(0)),
        ([DiscardLeastChanges; 2], [1, 3], Some(1)),
        ([DiscardLocal, DiscardRemote], [3, 1], Some(1)),
        ([DiscardRemote, DiscardLocal], [1, 3], Some(0)),
    ];
    for (policies, blocks, winner) in cases {
        let mut w = split(4, blocks, [false, false]);
        let mut nets = both(|_| {});
        for n in 0..2 {
            nets[n].after_sb_0pri = policies[n];
        }
        if let Some(winner) = winner {
            w.truth.word[1 - winner] = true;
        }
        reconnect(&mut w, nets);
        match winner {
            Some(winner) => won(&mut w, winner),
            None => unresolved(&w),
        }
    }
}

#[test]
fn after_sb_1pri() {
    use AfterSb1::*;
    // The Primary, the policy, the one for no Primary, the winner. Node 1 has more changes.
    let cases: [(usize, AfterSb1, AfterSb0, Option<usize>); 6] = [
        (0, Disconnect, AfterSb0::DiscardLeastChanges, None),
        (0, DiscardSecondary, AfterSb0::Disconnect, Some(0)),
        (1, DiscardSecondary, AfterSb0::Disconnect, Some(1)),
        (0, Consensus, AfterSb0::DiscardLeastChanges, Some(0)),
        (1, Consensus, AfterSb0::DiscardLeastChanges, None),
        (0, ViolentlyAs0p, AfterSb0::DiscardLeastChanges, Some(0)),
    ];
    for (primary, policy, zero, winner) in cases {
        let mut w = split(5, [3, 1], [primary == 0, primary == 1]);
        if let Some(winner) = winner {
            w.truth.word[1 - winner] = true;
        }
        let set = |n: &mut NetConfig| (n.after_sb_1pri, n.after_sb_0pri) = (policy, zero);
        reconnect(&mut w, both(set));
        match winner {
            Some(winner) => won(&mut w, winner),
            None => unresolved(&w),
        }
    }
}

#[test]
fn after_sb_2pri() {
    let mut w = split(6, [3, 1], [true, true]);
    let set = |n: &mut NetConfig| n.after_sb_0pri = AfterSb0::DiscardLeastChanges;
    reconnect(&mut w, both(set));
    unresolved(&w);
    // A Primary that loses may not change its role while the handshake runs (drbd-states 7.3 rule 7): nothing is
    // decided, and nothing is lost.
    let mut w = split(6, [3, 1], [true, true]);
    let set = |n: &mut NetConfig| {
        (n.after_sb_0pri, n.after_sb_2pri) = (AfterSb0::DiscardLeastChanges, AfterSb2::CallPriLostAfterSb);
        n.allow_two_primaries = true;
    };
    reconnect(&mut w, both(set));
    stands_alone(&w, 1, "Split-Brain detected but unresolved");
    assert!(w.state(0).0 < ConnState::Connected);
    assert_eq!(resync_bytes(&w, 0) + resync_bytes(&w, 1), 0);
}

#[test]
fn an_old_primary_comes_back_as_target() {
    for power in [false, true] {
        let mut w = pair(7);
        scribble(&mut w, 0, 100, SECTORS);
        w.crash(0, power);
        w.run_for(secs(5));
        assert_eq!(primary(&mut w, 1), OK);
        check_copy(&mut w, 1);
        scribble(&mut w, 1, 50, SECTORS);
        w.start(0);
        w.hooks.packets.clear();
        w.connect(0, &net());
        heals(&mut w);
        assert_eq!(resync_bytes(&w, 0), 0);
        assert_eq!((role(&w, 0), role(&w, 1)), (Role::Secondary, Role::Primary));
    }
}

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

#[test]
fn skipping_the_initial_sync() {
    let mut w = pair(11);
    assert_eq!(resync_bytes(&w, 0) + resync_bytes(&w, 1), 0);
    let (a, b) = (uuids(&w, 0), uuids(&w, 1));
    assert!(a[0].same_as(b[0]) && !a[0].is_zero());
    assert_eq!((a[1], b[1]), (DataUuid::ZERO, DataUuid::ZERO));
    scribble(&mut w, 0, 50, SECTORS);
    heals(&mut w);
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
    let held = w.command_and_wait(0, Command::Secondary { open: 1 });
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

/// A clean change of roles needs no resync and no new generation.
#[test]
fn the_roles_change_back_and_forth() {
    let mut w = pair(14);
    for i in 0..6 {
        let n = i % 2;
        scribble(&mut w, n, 20, SECTORS);
        w.run_for(ms(100));
        assert_eq!(secondary(&mut w, n), OK);
        assert_eq!(primary(&mut w, 1 - n), OK);
    }
    heals(&mut w);
    assert_eq!(resync_bytes(&w, 0) + resync_bytes(&w, 1), 0);
}
