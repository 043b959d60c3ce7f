use alloc::string::ToString;

use model::ids::DataUuid;
use model::policy::{AfterSb0, AfterSb1, AfterSb2};

use super::*;

fn set(current: u64, bitmap: u64, h1: u64, h2: u64) -> UuidSet {
    UuidSet { current: DataUuid(current), bitmap: DataUuid(bitmap), history: [DataUuid(h1), DataUuid(h2)] }
}

fn input(own: UuidSet, peer: UuidSet) -> Input {
    Input {
        uuids: uuid_rules::Input {
            own,
            peer,
            own_crashed: false,
            peer_crashed: false,
            own_empty: false,
            peer_empty: false,
            own_taken_back: false,
            peer_taken_back: false,
            role: Role::Secondary,
            peer_role: Role::Secondary,
            conflict_flag: true,
            write_same_agreed: true,
            agreed_version: 101,
        },
        peer_flags: 0,
        own_changes: 0,
        peer_changes: 0,
        dirty_bits: 0,
        disk: DiskState::UpToDate,
        attach_disk: DiskState::UpToDate,
        peer_disk: DiskState::UpToDate,
        policies: Policies {
            none_primary: AfterSb0::Disconnect,
            one_primary: AfterSb1::Disconnect,
            both_primary: AfterSb2::Disconnect,
        },
        always_asbp: false,
        rr_conflict: RrConflict::Disconnect,
        discard_my_data: false,
        dry_run: false,
        can_demote: true,
        target_began: false,
        brings_leftovers: true,
    }
}

/// Log lines, and handlers as `helper NAME`.
fn script(outcome: &Outcome) -> Vec<String> {
    let text = |step: &Step| match step {
        Step::Log(_, text) => text.to_string(),
        Step::Handler(h) => format!("helper {}", h.name()),
        Step::Demote => "demote".to_string(),
    };
    outcome.steps.iter().map(text).collect()
}

fn split() -> Input {
    let own = set(0x57BE_2E5C_0467_78B6, 0x2420_3FAF_BBD4_ED97, 0, 0);
    let peer = set(0x2CD8_DE2C_1C00_81EA, 0x2420_3FAF_BBD4_ED96, 0, 0);
    Input { own_changes: 2, peer_changes: 3, dirty_bits: 2, ..input(own, peer) }
}

/// A common past, but not one that either bitmap starts at.
fn baseless_split() -> Input {
    input(set(0xa0, 0, 0xc0, 0), set(0xb0, 0, 0xd0, 0xc0))
}

fn conn_of(i: &Input) -> Decision {
    decide(i).decision
}

// ---- as recorded ----

#[test]
fn forced_promotion_of_one_of_two_fresh_nodes() {
    let forced = set(0x1AA0_A8E8_F87A_40ED, 4, 0, 0);
    let here = Input {
        own_changes: 4342,
        peer_changes: 4342,
        dirty_bits: 4342,
        peer_disk: DiskState::Inconsistent,
        ..input(forced, set(4, 0, 0, 0))
    };
    let outcome = decide(&here);
    assert_eq!(outcome.decision, Decision::Source { full: true });
    assert_eq!(
        script(&outcome),
        [
            "drbd_sync_handshake:",
            "self 1AA0A8E8F87A40ED:0000000000000004:0000000000000000:0000000000000000 bits:4342 flags:0",
            "peer 0000000000000004:0000000000000000:0000000000000000:0000000000000000 bits:4342 flags:0",
            "uuid_compare()=2 by rule 30",
            "Becoming sync source due to disk states.",
            "Writing the whole bitmap, full sync required after drbd_sync_handshake.",
        ]
    );
    let there = decide(&at_peer(&here));
    assert_eq!(there.decision, Decision::Target { full: true });
    assert_eq!(
        script(&there)[3..],
        [
            "uuid_compare()=-2 by rule 20",
            "Becoming sync target due to disk states.",
            "Writing the whole bitmap, full sync required after drbd_sync_handshake.",
        ]
    );
}

#[test]
fn two_fresh_nodes() {
    let fresh = set(4, 0, 0, 0);
    let i = Input {
        dirty_bits: 4342,
        disk: DiskState::Inconsistent,
        peer_disk: DiskState::Inconsistent,
        ..input(fresh, fresh)
    };
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Connected);
    assert_eq!(script(&outcome)[3..], ["uuid_compare()=0 by rule 10", "No resync, but 4342 bits in bitmap!"]);
}

/// Bits on copies of the same generation: the Primary's copy is what clients see; without a Primary nobody knows.
#[test]
fn bits_left_on_equal_generations() {
    let left = |role, peer_role, disk, peer_disk| {
        let mut i =
            Input { disk, attach_disk: disk, peer_disk, ..input(set(0xa0, 0, 0, 0), set(0xa0, 0, 0, 0)) };
        (i.uuids.role, i.uuids.peer_role) = (role, peer_role);
        i.peer_changes = 3;
        assert_eq!(conn_of(&at_peer(&i)), mirrored(conn_of(&i)));
        let unknown = Input { brings_leftovers: false, ..i };
        assert_eq!(conn_of(&unknown), Decision::Connected);
        assert_eq!(conn_of(&Input { peer_changes: 0, ..i }), Decision::Connected);
        conn_of(&i)
    };
    let (p, s) = (Role::Primary, Role::Secondary);
    let good = DiskState::UpToDate;
    assert_eq!(left(p, s, good, good), Decision::Source { full: false });
    assert_eq!(left(s, p, good, good), Decision::Target { full: false });
    assert_eq!(left(p, s, good, DiskState::Outdated), Decision::Source { full: false });
    assert_eq!(left(s, p, DiskState::Outdated, good), Decision::Target { full: false });
    for (role, peer_role) in [(s, s), (p, p)] {
        assert_eq!(left(role, peer_role, good, good), Decision::Connected);
    }
    assert_eq!(
        left(s, p, good, DiskState::Consistent),
        Decision::Target { full: false },
        "it will serve clients"
    );
    assert_eq!(left(s, p, good, DiskState::Outdated), Decision::Connected, "it serves nobody");
}

fn mirrored(d: Decision) -> Decision {
    match d {
        Decision::Source { full } => Decision::Target { full },
        Decision::Target { full } => Decision::Source { full },
        other => other,
    }
}

#[test]
fn split_brain_without_a_policy() {
    let outcome = decide(&split());
    assert_eq!(outcome.decision, Decision::Refuse(Refusal::SplitBrain));
    assert_eq!(
        script(&outcome)[1..],
        [
            "self 57BE2E5C046778B6:24203FAFBBD4ED97:0000000000000000:0000000000000000 bits:2 flags:0",
            "peer 2CD8DE2C1C0081EA:24203FAFBBD4ED96:0000000000000000:0000000000000000 bits:3 flags:0",
            "uuid_compare()=100 by rule 90",
            "helper initial-split-brain",
            "Split-Brain detected but unresolved, dropping connection!",
            "helper split-brain",
        ]
    );
}

#[test]
fn split_brain_solved_by_discard_my_data() {
    let outcome = decide(&Input { peer_flags: 1, ..split() });
    assert_eq!(outcome.decision, Decision::Source { full: false });
    assert_eq!(
        script(&outcome)[2..],
        [
            "peer 2CD8DE2C1C0081EA:24203FAFBBD4ED96:0000000000000000:0000000000000000 bits:3 flags:1",
            "uuid_compare()=100 by rule 90",
            "helper initial-split-brain",
            "Split-Brain detected, manually solved. Sync from this node",
        ]
    );
    let other = decide(&Input { discard_my_data: true, ..split() });
    assert_eq!(other.decision, Decision::Target { full: false });
    assert_eq!(script(&other)[5], "Split-Brain detected, manually solved. Sync from peer node");
}

#[test]
fn split_brain_solved_by_least_changes() {
    let mut i = split();
    i.policies.none_primary = AfterSb0::DiscardLeastChanges;
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Target { full: false });
    assert_eq!(
        script(&outcome)[4..],
        [
            "helper initial-split-brain",
            "Split-Brain detected, 0 primaries, automatically solved. Sync from peer node",
        ]
    );
    assert_eq!(conn_of(&at_peer(&i)), Decision::Source { full: false });
}

#[test]
fn crashed_primary_comes_back() {
    let s = set(0x11D0_D41E_6FF7_CAF8, 0, 0, 0);
    let i = Input { peer_flags: 2, peer_changes: 4096, ..input(s, s) };
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Target { full: false });
    assert_eq!(
        script(&outcome)[2..],
        [
            "peer 11D0D41E6FF7CAF8:0000000000000000:0000000000000000:0000000000000000 bits:4096 flags:2",
            "uuid_compare()=-1 by rule 40",
        ]
    );
}

// ---- the rest of the table ----

#[test]
fn unrelated_data_and_old_peers_are_refused() {
    let i = input(set(0xa0, 0, 8, 16), set(0xb0, 0, 32, 64));
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Refuse(Refusal::Unrelated));
    assert_eq!(script(&outcome)[4], "Unrelated data, aborting!");
    let s = set(0xa0, 0, 0, 0);
    let mut i = Input { peer_flags: 2, ..input(s, s) };
    i.uuids.write_same_agreed = false;
    i.uuids.role = Role::Primary;
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Refuse(Refusal::NeedsNewer));
    assert_eq!(
        script(&outcome)[4],
        "To resolve this both sides have to support at least protocol 101 and feature flags 0x4"
    );
}

#[test]
fn disk_states_beat_the_generations() {
    let newer = input(set(0xb0, 0xa0, 0, 0), set(0xa0, 0, 0, 0));
    let broken = Input { disk: DiskState::Inconsistent, ..newer };
    assert_eq!(conn_of(&newer), Decision::Source { full: false });
    assert_eq!(conn_of(&broken), Decision::Target { full: false });
    // doubled if the comparison asked for a full sync or knew no base
    let baseless = Input { peer_disk: DiskState::Inconsistent, ..baseless_split() };
    assert_eq!(conn_of(&baseless), Decision::Source { full: true });
}

#[test]
fn a_negotiating_disk_counts_as_what_was_found_at_attach() {
    let newer = input(set(0xb0, 0xa0, 0, 0), set(0xa0, 0, 0, 0));
    let attaching = Input { disk: DiskState::Negotiating, attach_disk: DiskState::Inconsistent, ..newer };
    assert_eq!(conn_of(&attaching), Decision::Target { full: false });
    let good = Input { attach_disk: DiskState::Consistent, ..attaching };
    assert_eq!(conn_of(&good), Decision::Source { full: false });
}

#[test]
fn two_inconsistent_disks_have_no_source() {
    let mut i = input(set(0xb0, 0xa0, 0, 0), set(0xa0, 0, 0, 0));
    (i.disk, i.peer_disk) = (DiskState::Inconsistent, DiskState::Inconsistent);
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Refuse(Refusal::SourceInconsistent));
    assert_eq!(script(&outcome)[4], "I shall become SyncSource, but I am inconsistent!");
}

#[test]
fn a_primary_does_not_become_target_unless_violently() {
    let mut i = input(set(0xa0, 0, 0, 0), set(0xb0, 0xa0, 0, 0));
    i.uuids.role = Role::Primary;
    assert_eq!(conn_of(&i), Decision::Refuse(Refusal::TargetIsPrimary));
    i.rr_conflict = RrConflict::CallPriLost;
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Refuse(Refusal::TargetIsPrimary));
    assert_eq!(script(&outcome)[4..], ["helper pri-lost", "I shall become SyncTarget, but I am primary!"]);
    i.rr_conflict = RrConflict::Violently;
    assert_eq!(conn_of(&i), Decision::Target { full: false });
    // a Primary that attaches old data reads from its peer and may become target
    i.rr_conflict = RrConflict::Disconnect;
    i.disk = DiskState::Negotiating;
    assert_eq!(conn_of(&i), Decision::Target { full: false });
}

#[test]
fn a_losing_primary_steps_down_or_the_handshake_fails() {
    let mut i = split();
    i.uuids.role = Role::Primary;
    i.policies.none_primary = AfterSb0::DiscardLocal;
    i.policies.one_primary = AfterSb1::CallPriLostAfterSb;
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Target { full: false });
    assert_eq!(
        script(&outcome)[4..],
        [
            "helper initial-split-brain",
            "demote",
            "Split-Brain detected, 1 primaries, automatically solved. Sync from peer node",
        ]
    );
    i.can_demote = false;
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Refuse(Refusal::SplitBrain));
    assert_eq!(script(&outcome)[5], "helper pri-lost-after-sb");
    // the violent way round keeps the role, and rr-conflict has the last word
    i.policies.one_primary = AfterSb1::ViolentlyAs0p;
    assert_eq!(conn_of(&i), Decision::Refuse(Refusal::TargetIsPrimary));
}

#[test]
fn without_a_common_base_a_solution_is_a_full_sync() {
    let mut i = baseless_split();
    i.policies.none_primary = AfterSb0::DiscardRemote;
    assert_eq!(conn_of(&i), Decision::Refuse(Refusal::SplitBrain));
    i.always_asbp = true;
    assert_eq!(conn_of(&i), Decision::Source { full: true });
    let manual = Input { discard_my_data: true, ..baseless_split() };
    assert_eq!(conn_of(&manual), Decision::Target { full: true });
    let both = Input { peer_flags: 1, ..manual };
    assert_eq!(conn_of(&both), Decision::Refuse(Refusal::SplitBrain));
}

#[test]
fn a_dry_run_says_what_would_happen() {
    let i = Input { dry_run: true, ..input(set(0xb0, 0, 0xa0, 0), set(0xa0, 0, 0, 0)) };
    let outcome = decide(&i);
    assert_eq!(outcome.decision, Decision::Refuse(Refusal::DryRun));
    assert_eq!(script(&outcome)[4..], ["Dry run: would become sync source, full sync."]);
}

#[test]
fn consequences_of_a_refusal() {
    use DiskState as D;
    assert_eq!(on_refusal(D::Negotiating, D::Negotiating, true), AfterRefusal::FailAttach);
    assert_eq!(on_refusal(D::UpToDate, D::Negotiating, true), AfterRefusal::PeerDiskless);
    assert_eq!(on_refusal(D::UpToDate, D::UpToDate, true), AfterRefusal::Reconnect);
    assert_eq!(on_refusal(D::UpToDate, D::UpToDate, false), AfterRefusal::StandAlone);
}

// ---- both nodes ----

fn at_peer(i: &Input) -> Input {
    Input {
        uuids: i.uuids.seen_by_peer(),
        peer_flags: u64::from(i.discard_my_data) | u64::from(i.uuids.own_crashed) << 1,
        own_changes: i.peer_changes,
        peer_changes: i.own_changes,
        disk: i.peer_disk,
        attach_disk: i.peer_disk,
        peer_disk: i.disk,
        policies: Policies { none_primary: i.policies.none_primary.mirrored(), ..i.policies },
        discard_my_data: i.peer_flags & 1 != 0,
        ..*i
    }
}

#[test]
fn never_two_sources_never_two_targets() {
    const VALUES: [u64; 4] = [0, 4, 0xa000, 0xb000];
    const DISKS: [DiskState; 4] =
        [DiskState::Inconsistent, DiskState::Outdated, DiskState::Consistent, DiskState::UpToDate];
    let mut noise = 42_u64;
    let mut syncs = 0;
    for _ in 0..200_000 {
        let mut pick = |n: u64| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((noise >> 33) % n) as usize
        };
        let mut slot = || VALUES[pick(4)] | pick(2) as u64;
        let own = set(slot(), slot(), slot(), slot());
        let peer = set(slot(), slot(), slot(), slot());
        let mut i = input(own, peer);
        let role = |n| if n == 0 { Role::Primary } else { Role::Secondary };
        (i.uuids.role, i.uuids.peer_role) = (role(pick(2)), role(pick(2)));
        i.uuids.own_crashed = pick(4) == 0;
        i.uuids.peer_crashed = pick(4) == 0;
        i.uuids.conflict_flag = pick(2) == 0;
        i.peer_flags = u64::from(i.uuids.peer_crashed) << 1 | u64::from(pick(4) == 0);
        i.discard_my_data = pick(4) == 0;
        (i.disk, i.peer_disk) = (DISKS[pick(4)], DISKS[pick(4)]);
        (i.own_changes, i.peer_changes) = (pick(3) as u64, pick(3) as u64);
        i.policies.none_primary = AfterSb0::ALL[pick(7)];
        i.policies.one_primary = AfterSb1::ALL[pick(5)];
        i.policies.both_primary = AfterSb2::ALL[pick(3)];
        i.always_asbp = pick(2) == 0;
        i.rr_conflict = RrConflict::ALL[pick(3)];
        let mirrored = match decide(&at_peer(&i)).decision {
            Decision::Source { full } => Decision::Target { full },
            Decision::Target { full } => Decision::Source { full },
            d => d,
        };
        let here = decide(&i).decision;
        if matches!(here, Decision::Refuse(_)) || matches!(mirrored, Decision::Refuse(_)) {
            continue;
        }
        assert_eq!(here, mirrored, "{i:?}");
        syncs += u32::from(here != Decision::Connected);
    }
    assert!(syncs > 10_000, "{syncs}");
}
