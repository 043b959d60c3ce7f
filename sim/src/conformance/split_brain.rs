//! Both copies went on alone: seen, never merged silently, decided by an operator's word or by the policies.

use super::*;
use model::ids::DataUuid;
use model::policy::{AfterSb0, AfterSb1, AfterSb2, RrConflict};
use model::result_code::ConfigError;

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

/// Node `winner` kept its data, the other one has it too now, by bitmap.
fn won(w: &mut World, winner: usize) {
    assert!(w.run_until(secs(60), all_current), "{:?}", states(w));
    assert_eq!(brought(w)[1 - winner], 0, "node {} is no source", 2 - winner);
    let most = 10 * 4096;
    assert!((1..=most).contains(&brought(w)[winner]), "by bitmap, not {:?}", brought(w));
    ends_as_usual(w);
}

/// Both nodes write while the link is cut: both stand alone and say why, and nothing is copied; after one of them was
/// told to discard its data, a resync by bitmap makes them equal.
#[test]
pub(super) fn split_brain() {
    split_brain_is_seen_on_both_sides();
    a_split_without_writes_is_one_too();
    discard_my_data_decides();
    discard_my_data_next_to_a_primary();
}

/// Options that changed while the peer was waited for took the operator's word back.
#[test]
fn discard_my_data_outlives_a_change_of_options() {
    let mut w = split(0, [2, 2], [true, false]);
    w.truth.word[1] = true;
    w.connect(1, &NetConfig { discard_my_data: true, ..net() });
    w.run_for(secs(1));
    let options = NetConfig { ping_int: secs(5), ..net() };
    assert_eq!(w.command_and_wait(1, Command::NetOptions(Box::new(options))), OK);
    w.connect(0, &net());
    won(&mut w, 0);
}

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
fn a_split_without_writes_is_one_too() {
    let mut w = split(1, [0, 0], [false, false]);
    reconnect(&mut w, both(|_| {}));
    unresolved(&w);
}

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
        assert_eq!(reason(&w, loser), None);
    }
}

/// The Primary keeps its data, the Secondary gives it up.
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

/// Every policy, for no, one and two Primaries: both nodes come to mirrored decisions, or both stand alone.
#[test]
pub(super) fn split_brain_policies() {
    after_sb_0pri();
    after_sb_1pri();
    after_sb_2pri();
    always_asbp();
}

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

/// Without a common base the policies count only if that is configured; then everything is copied.
fn always_asbp() {
    for always in [false, true] {
        let mut w = split(7, [3, 1], [false, false]);
        // The bitmaps begin at generations that the other node never had; only older ones are common.
        for n in 0..2 {
            w.crash(n, false);
            preset(&mut w, n, |sb| {
                sb.uuids.bitmap = DataUuid(0x2000_0000_0000_0000 << n);
                sb.uuids.history[0] = DataUuid(0x1000_0000_0000_0000);
            });
            w.start(n);
        }
        w.truth.word[1] = always;
        let set = |n: &mut NetConfig| {
            (n.after_sb_0pri, n.always_asbp) = (AfterSb0::DiscardLeastChanges, always);
        };
        reconnect(&mut w, both(set));
        if always {
            assert!(w.run_until(secs(60), all_current), "{:?}", states(&w));
            assert_eq!(brought(&w), [SECTORS * 512, 0]);
            ends_as_usual(&mut w);
        } else {
            unresolved(&w);
        }
    }
}

/// A Primary would become the target: it stands alone, steps down, or takes the other data, as configured.
#[test]
pub(super) fn rr_conflict() {
    // Node 2 is Primary and has fewer changes; the policies say that it loses.
    let policies = |n: &mut NetConfig, rr: RrConflict| {
        n.after_sb_0pri = AfterSb0::DiscardLeastChanges;
        n.after_sb_1pri = AfterSb1::ViolentlyAs0p;
        n.rr_conflict = rr;
    };
    for rr in [RrConflict::Disconnect, RrConflict::CallPriLost] {
        let mut w = split(8, [3, 1], [false, true]);
        reconnect(&mut w, both(|n| policies(n, rr)));
        stands_alone(&w, 1, "I shall become SyncTarget, but I am primary!");
        assert!(conn(&w, 0) < ConnState::Connected);
        assert_eq!(brought(&w), [0, 0]);
        // Once it is Secondary, the policies are carried out.
        assert_eq!(secondary(&mut w, 1), OK);
        w.truth.word[1] = true;
        for n in 0..2 {
            w.command_and_wait(n, Command::Disconnect { force: true });
        }
        reconnect(&mut w, both(|n| policies(n, rr)));
        won(&mut w, 0);
    }
    let mut w = split(8, [3, 1], [false, true]);
    w.truth.word[1] = true;
    reconnect(&mut w, both(|n| policies(n, RrConflict::Violently)));
    won(&mut w, 0);
    assert_eq!(roles(&w), [Role::Secondary; 2], "after the crash at the end");
}

/// Two Primaries meet where that is not allowed: refused, nothing is overwritten; after one is demoted and gives up its
/// data they come together.
#[test]
pub(super) fn two_primaries_reject() {
    for loser in 0..2 {
        let mut w = split(9, [2, 2], [true, true]);
        let held = |w: &World, n: usize| w.nodes[n].disk.written().collect::<Vec<u64>>();
        let disks = [held(&w, 0), held(&w, 1)];
        reconnect(&mut w, both(|_| {}));
        unresolved(&w);
        assert_eq!([held(&w, 0), held(&w, 1)], disks);
        for n in 0..2 {
            check_copy(&mut w, n);
        }
        assert_eq!(roles(&w), [Role::Primary; 2]);
        let mut nets = both(|_| {});
        nets[loser].discard_my_data = true;
        let refused = w.command_and_wait(loser, Command::Connect(Box::new(nets[loser].clone())));
        assert_eq!(refused, CommandResult::Config(ConfigError::DiscardImpossible));
        assert_eq!(secondary(&mut w, loser), OK);
        w.truth.word[loser] = true;
        reconnect(&mut w, nets);
        won(&mut w, 1 - loser);
    }
}
