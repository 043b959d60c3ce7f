use alloc::string::ToString;
use alloc::vec::Vec;

use model::policy::{Fencing, OnNoData};
use model::result_code::StateResult as R;
use model::state::{ConnState as C, DiskState as D, Role, VolumeState};
use model::state_word::StateChange;

use super::validate::{CONN_TRANSITION_RULES, SOFT_TRANSITION_RULES, VALIDITY_RULES};
use super::validate::{conn_transition, soft_transition, transition, validity};
use super::*;

const P: Role = Role::Primary;
const S: Role = Role::Secondary;
const U: Role = Role::Unknown;
const NONE: StateChange = StateChange::NONE;

fn st(role: Role, peer: Role, conn: C, disk: D, pdsk: D) -> VolumeState {
    VolumeState { role, peer, conn, disk, pdsk, ..VolumeState::INITIAL }
}

fn net() -> Context {
    Context { net_configured: true, verify_alg: true, agreed_version: 101, ..Context::BARE }
}

fn healthy() -> VolumeState {
    st(S, S, C::Connected, D::UpToDate, D::UpToDate)
}

/// Every state an own volume can be asked to take; suspend flags left clear.
fn all_states() -> impl Iterator<Item = VolumeState> {
    let roles = [P, S].into_iter().flat_map(|r| Role::ALL.iter().map(move |p| (r, *p)));
    roles.flat_map(|(role, peer)| {
        C::ALL.iter().flat_map(move |c| {
            D::ALL.iter().filter(|d| **d != D::DUnknown).flat_map(move |d| {
                D::ALL.iter().flat_map(move |p| {
                    (0..8u8).map(move |isp| VolumeState {
                        aftr_isp: isp & 1 != 0,
                        peer_isp: isp & 2 != 0,
                        user_isp: isp & 4 != 0,
                        ..st(role, peer, *c, *d, *p)
                    })
                })
            })
        })
    })
}

fn contexts() -> Vec<Context> {
    let mut all = Vec::new();
    for fencing in Fencing::ALL {
        for on_no_data in OnNoData::ALL {
            for attach_states in [None, Some((D::UpToDate, D::Outdated)), Some((D::Outdated, D::DUnknown))] {
                all.push(Context { fencing: *fencing, on_no_data: *on_no_data, attach_states, ..net() });
            }
        }
    }
    all
}

/// A few states that volumes are really in.
fn living_states() -> Vec<VolumeState> {
    let mut all = Vec::new();
    for role in [P, S] {
        all.push(st(role, U, C::StandAlone, D::UpToDate, D::DUnknown));
        all.push(st(role, U, C::StandAlone, D::UpToDate, D::Outdated));
        for disk in [D::Diskless, D::Attaching, D::Inconsistent, D::Outdated, D::Consistent, D::UpToDate] {
            all.push(st(role, U, C::WFConnection, disk, D::DUnknown));
        }
        all.push(st(role, U, C::WFReportParams, D::UpToDate, D::DUnknown));
        for peer in [P, S] {
            for pdsk in [D::Diskless, D::Inconsistent, D::UpToDate] {
                all.push(st(role, peer, C::Connected, D::UpToDate, pdsk));
            }
            all.push(st(role, peer, C::Connected, D::Diskless, D::UpToDate));
            all.push(st(role, peer, C::Connected, D::Negotiating, D::UpToDate));
            all.push(st(role, peer, C::Connected, D::Inconsistent, D::Inconsistent));
            all.push(st(role, peer, C::WFBitMapS, D::UpToDate, D::Consistent));
            all.push(st(role, peer, C::WFBitMapT, D::Outdated, D::UpToDate));
            all.push(st(role, peer, C::SyncSource, D::UpToDate, D::Inconsistent));
            all.push(st(role, peer, C::SyncTarget, D::Inconsistent, D::UpToDate));
            all.push(st(role, peer, C::VerifyS, D::UpToDate, D::UpToDate));
            all.push(st(role, peer, C::Ahead, D::UpToDate, D::Consistent));
            all.push(st(role, peer, C::Behind, D::Outdated, D::UpToDate));
        }
    }
    all
}

fn living_changes() -> Vec<StateChange> {
    let mut all = Vec::new();
    for c in C::ALL {
        all.push(NONE.conn(*c));
        for d in D::ALL {
            all.push(NONE.conn(*c).pdsk(*d));
            all.push(NONE.conn(*c).disk(*d));
        }
    }
    for role in [P, S] {
        all.push(NONE.role(role));
        all.push(NONE.peer(role));
        all.push(NONE.role(role).disk(D::UpToDate));
        all.push(NONE.role(role).pdsk(D::Outdated));
    }
    for d in D::ALL {
        all.push(NONE.disk(*d));
        all.push(NONE.pdsk(*d));
    }
    all
}

// ---- sanitize ----

#[test]
fn sanitize_is_idempotent_for_every_state() {
    for ctx in contexts() {
        for old in [healthy(), st(P, S, C::SyncTarget, D::Inconsistent, D::UpToDate)] {
            for new in all_states() {
                let (once, _) = sanitize(&old, new, &ctx);
                let (twice, warnings) = sanitize(&old, once, &ctx);
                assert_eq!(once, twice, "{new:?}");
                assert!(warnings.is_empty(), "{new:?} {warnings:?}");
            }
        }
    }
}

#[test]
fn a_sanitized_state_obeys_the_limits_of_its_connection_state() {
    for new in all_states() {
        let (s, _) = sanitize(&healthy(), new, &net());
        match s.conn {
            C::SyncSource => assert_eq!((s.disk, s.pdsk), (D::UpToDate, D::Inconsistent)),
            C::SyncTarget => assert_eq!((s.disk, s.pdsk), (D::Inconsistent, D::UpToDate)),
            C::VerifyS | C::VerifyT => assert_eq!((s.disk, s.pdsk), (D::UpToDate, D::UpToDate)),
            C::Behind | C::WFBitMapT | C::WFSyncUUID | C::StartingSyncT | C::PausedSyncT => {
                assert!(s.disk <= D::Outdated && s.disk >= D::Inconsistent && s.pdsk == D::UpToDate);
            }
            c if c < C::Connected => {
                assert_eq!((s.peer, s.peer_isp), (U, false));
                assert!(s.pdsk >= D::Inconsistent && s.pdsk <= D::DUnknown && s.disk != D::Negotiating);
            }
            _ => {}
        }
        assert_eq!(matches!(s.conn, C::PausedSyncS | C::PausedSyncT), s.conn.is_resync() && s.any_isp());
    }
}

#[test]
fn a_lost_peer_is_forgotten_except_for_bad_disks() {
    for (before, after) in [
        (D::UpToDate, D::DUnknown),
        (D::Consistent, D::DUnknown),
        (D::Diskless, D::DUnknown),
        (D::Inconsistent, D::Inconsistent),
        (D::Outdated, D::Outdated),
    ] {
        let mut new = st(P, S, C::NetworkFailure, D::UpToDate, before);
        new.peer_isp = true;
        let (s, w) = sanitize(&healthy(), new, &net());
        assert_eq!((s.peer, s.pdsk, s.peer_isp), (U, after, false));
        assert!(w.is_empty());
    }
}

#[test]
fn losing_a_disk_ends_resync_and_verify() {
    let cases = [
        (C::SyncTarget, Warning::ResyncAborted, "Resync aborted."),
        (C::PausedSyncS, Warning::ResyncAborted, "Resync aborted."),
        (C::VerifyT, Warning::VerifyAborted, "Online-verify aborted."),
    ];
    for (conn, warning, text) in cases {
        let old = st(S, S, conn, D::UpToDate, D::UpToDate);
        let (s, w) = sanitize(&old, VolumeState { disk: D::Failed, ..old }, &net());
        assert_eq!(s.conn, C::Connected);
        assert_eq!(w.iter().collect::<Vec<_>>(), [warning]);
        assert_eq!(warning.text(), text);
    }
}

#[test]
fn connection_lost_while_negotiating_keeps_only_known_data() {
    let old = st(S, P, C::Connected, D::Negotiating, D::UpToDate);
    let lost = VolumeState { conn: C::BrokenPipe, ..old };
    let (s, w) = sanitize(&old, lost, &net());
    assert_eq!((s.disk, s.pdsk), (D::Diskless, D::DUnknown));
    assert!(w.contains(Warning::LostWhileNegotiating));
    let known = Context { attach_states: Some((D::UpToDate, D::Outdated)), ..net() };
    let (s, w) = sanitize(&old, lost, &known);
    assert_eq!((s.disk, s.pdsk), (D::UpToDate, D::Outdated));
    assert!(w.is_empty());
}

// recorded: `Implicitly upgraded disk`, then conn( Connected -> WFBitMapT ) disk( Negotiating -> Inconsistent )
#[test]
fn a_negotiating_target_is_raised_with_a_warning() {
    let old = st(S, P, C::Connected, D::Negotiating, D::UpToDate);
    let (s, w) = sanitize(&old, VolumeState { conn: C::WFBitMapT, ..old }, &net());
    assert_eq!(s.disk, D::Inconsistent);
    assert_eq!(w.iter().collect::<Vec<_>>(), [Warning::DiskUpgraded]);
}

#[test]
fn outdated_while_connected_is_up_to_date() {
    let e = evaluate(&healthy(), NONE.disk(D::Outdated), Kind::Soft, &net()).unwrap();
    assert_eq!((e.result, e.new), (R::NothingToDo, healthy()));
}

#[test]
fn sync_commands_with_a_diskless_peer_do_nothing() {
    let old = st(P, S, C::Connected, D::UpToDate, D::Diskless);
    for conn in [C::StartingSyncS, C::StartingSyncT, C::VerifyS] {
        let e = evaluate(&old, NONE.conn(conn), Kind::Soft, &net()).unwrap();
        assert_eq!(e.result, R::NothingToDo);
        assert!(e.warnings.is_empty());
    }
}

#[test]
fn fencing_freezes_a_primary_that_loses_its_peer_once() {
    let ctx = Context { fencing: Fencing::ResourceAndStonith, ..net() };
    let old = st(P, S, C::Connected, D::UpToDate, D::UpToDate);
    let lost = evaluate(&old, NONE.conn(C::NetworkFailure), Kind::Hard, &ctx).unwrap().new;
    assert!(lost.susp_fen);
    let thawed = VolumeState { susp_fen: false, ..lost };
    let next = evaluate(&thawed, NONE.conn(C::Unconnected), Kind::Soft, &ctx).unwrap().new;
    assert!(!next.susp_fen, "only losing it freezes");
    for (role, fencing) in [(S, Fencing::ResourceAndStonith), (P, Fencing::ResourceOnly)] {
        let ctx = Context { fencing, ..net() };
        let old = VolumeState { role, ..old };
        let lost = evaluate(&old, NONE.conn(C::NetworkFailure), Kind::Hard, &ctx).unwrap().new;
        assert!(!lost.susp_fen);
    }
    let diskless = st(P, S, C::Connected, D::Diskless, D::UpToDate);
    let lost = evaluate(&diskless, NONE.conn(C::NetworkFailure), Kind::Hard, &ctx).unwrap().new;
    assert!(!lost.susp_fen, "a policy needs a usable disk");
}

#[test]
fn losing_the_last_good_data_freezes_if_configured() {
    let old = st(P, S, C::Connected, D::Diskless, D::UpToDate);
    for (policy, frozen) in [(OnNoData::SuspendIo, true), (OnNoData::IoError, false)] {
        let ctx = Context { on_no_data: policy, ..net() };
        let lost = evaluate(&old, NONE.conn(C::NetworkFailure), Kind::Hard, &ctx).unwrap().new;
        assert_eq!(lost.susp_nod, frozen);
    }
}

#[test]
fn pause_flags_pause_and_their_absence_continues() {
    let old = st(S, P, C::SyncTarget, D::Inconsistent, D::UpToDate);
    let bit = model::state_word::mask::USER_ISP;
    let paused = evaluate(&old, NONE.flag(bit, true), Kind::Soft, &net()).unwrap().new;
    assert_eq!((paused.conn, paused.disk), (C::PausedSyncT, D::Inconsistent));
    let back = evaluate(&paused, NONE.flag(bit, false), Kind::Soft, &net()).unwrap().new;
    assert_eq!(back, old);
}

#[test]
fn continuing_a_paused_target_marks_its_disk_inconsistent_at_once() {
    let old = VolumeState { user_isp: true, ..st(S, P, C::PausedSyncT, D::Outdated, D::UpToDate) };
    let bit = model::state_word::mask::USER_ISP;
    let e = evaluate(&old, NONE.flag(bit, false), Kind::Soft, &net()).unwrap();
    assert_eq!((e.new.conn, e.new.disk), (C::SyncTarget, D::Inconsistent));
}

// ---- transition rules ----

#[test]
fn the_matrix_of_connection_transitions() {
    const OK: i32 = 1;
    // columns: StandAlone, Disconnecting, Unconnected, Timeout..TearDown, WFConnection, WFReportParams,
    // Connected and above; from another state of the same group
    let matrix: [(&[C], [i32; 7]); 7] = [
        (&[C::StandAlone], [OK, -9, OK, -15, -15, -15, -15]),
        (&[C::Disconnecting], [OK, OK, -18, -18, -18, -18, -15]),
        (&[C::Unconnected], [OK, OK, OK, OK, OK, OK, -15]),
        (&C::ALL[3..8], [-18, OK, OK, -18, -18, -18, -15]),
        (&[C::WFConnection], [OK, OK, OK, OK, OK, OK, -15]),
        (&[C::WFReportParams], [OK; 7]),
        (&C::ALL[10..], [OK; 7]),
    ];
    let mut seen = 0;
    for (row, (olds, codes)) in matrix.iter().enumerate() {
        for old in *olds {
            for ((news, _), code) in matrix.iter().zip(codes) {
                for new in *news {
                    let got = conn_transition(*old, *new).map_or_else(|e| e.number(), |()| OK);
                    let want = if old == new { OK } else { *code };
                    assert_eq!(got, want, "row {row}: {old} -> {new}");
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 24 * 24);
}

#[test]
fn every_connection_rule_is_the_first_match_of_some_pair() {
    let mut hit = [false; 5];
    for old in C::ALL {
        for new in C::ALL.iter().filter(|n| *n != old) {
            if let Some(i) = CONN_TRANSITION_RULES.iter().position(|r| (r.refuses)(*old, *new)) {
                hit[i] = true;
            }
        }
    }
    assert_eq!(hit, [true; 5]);
}

#[test]
fn a_diskless_volume_cannot_fail() {
    let old = st(S, U, C::StandAlone, D::Diskless, D::DUnknown);
    for kind in [Kind::Soft, Kind::Hard] {
        assert_eq!(evaluate(&old, NONE.disk(D::Failed), kind, &net()), Err(R::IsDiskless));
    }
    assert_eq!(transition(&old, &VolumeState { disk: D::Failed, ..old }), Err(R::IsDiskless));
}

// ---- validity ----

/// One state per row of drbd-states 7.2 for which that row decides.
#[test]
fn every_validity_rule_decides_for_its_state() {
    let ctx = net();
    let two = Context { two_primaries: true, ..ctx };
    let fenced = Context { fencing: Fencing::ResourceOnly, ..ctx };
    let cases = [
        (1, st(P, P, C::Connected, D::UpToDate, D::UpToDate), ctx),
        (
            2,
            st(P, S, C::Connected, D::UpToDate, D::UpToDate),
            Context { peer_primary_elsewhere: true, ..ctx },
        ),
        (3, healthy(), Context { device_open: true, ..ctx }),
        (4, st(P, U, C::WFConnection, D::Consistent, D::DUnknown), ctx),
        (5, st(P, U, C::WFConnection, D::UpToDate, D::DUnknown), fenced),
        (6, st(P, S, C::Connected, D::Inconsistent, D::Inconsistent), ctx),
        (7, st(S, S, C::SyncTarget, D::Diskless, D::UpToDate), ctx),
        (8, st(S, S, C::SyncSource, D::UpToDate, D::Diskless), ctx),
        (9, st(S, S, C::SyncSource, D::Outdated, D::Inconsistent), ctx),
        (10, st(S, S, C::Connected, D::Outdated, D::UpToDate), ctx),
        (11, st(S, S, C::VerifyS, D::UpToDate, D::UpToDate), Context { verify_alg: false, ..ctx }),
        (12, st(S, S, C::VerifyT, D::UpToDate, D::UpToDate), Context { agreed_version: 87, ..ctx }),
        (13, st(P, S, C::Connected, D::Consistent, D::Consistent), ctx),
        (14, st(S, S, C::StartingSyncS, D::UpToDate, D::DUnknown), ctx),
        (15, st(S, S, C::Connected, D::UpToDate, D::DUnknown), ctx),
    ];
    assert_eq!(cases.len(), VALIDITY_RULES.len());
    for (row, state, ctx) in cases {
        let first = VALIDITY_RULES.iter().position(|r| (r.refuses)(&state, &ctx));
        assert_eq!(first, Some(row - 1), "row {row}");
        assert_eq!(validity(&state, &ctx), Err(VALIDITY_RULES[row - 1].code));
    }
    assert_eq!(validity(&healthy(), &ctx), Ok(()));
    assert_eq!(validity(&st(P, P, C::Connected, D::UpToDate, D::UpToDate), &two), Ok(()));
    assert_eq!(validity(&st(P, U, C::WFConnection, D::UpToDate, D::Outdated), &fenced), Ok(()));
}

#[test]
fn validity_codes_are_those_of_the_specification() {
    let codes: Vec<i32> = VALIDITY_RULES.iter().map(|r| r.code.number()).collect();
    assert_eq!(codes, [-1, -20, -12, -2, -7, -2, -4, -5, -2, -6, -14, -17, -2, -15, -6]);
    let codes: Vec<i32> = SOFT_TRANSITION_RULES.iter().map(|r| r.code.number()).collect();
    assert_eq!(codes, [-8, -9, -11, -13, -16, -18, -18, -18, -15, -8, -15, -15, -21]);
}

#[test]
fn every_soft_rule_matches_its_change() {
    let ctx = net();
    let shaking = Context { handshake_in_progress: true, ..ctx };
    let standalone = st(S, U, C::StandAlone, D::UpToDate, D::DUnknown);
    let diskless = st(S, U, C::StandAlone, D::Diskless, D::DUnknown);
    let target = st(S, P, C::WFBitMapT, D::Outdated, D::UpToDate);
    let syncing = st(S, S, C::SyncTarget, D::Inconsistent, D::UpToDate);
    let waiting = st(S, U, C::WFConnection, D::UpToDate, D::DUnknown);
    let with = |s: VolumeState, c: C| VolumeState { conn: c, ..s };
    let cases = [
        (1, syncing, with(syncing, C::StartingSyncT), ctx),
        (2, standalone, with(standalone, C::Disconnecting), ctx),
        (3, diskless, VolumeState { disk: D::Inconsistent, ..diskless }, ctx),
        (4, standalone, with(standalone, C::WFConnection), ctx),
        (
            5,
            st(S, U, C::WFConnection, D::Inconsistent, D::DUnknown),
            st(S, U, C::WFConnection, D::Outdated, D::DUnknown),
            ctx,
        ),
        (6, with(waiting, C::Unconnected), with(waiting, C::Disconnecting), ctx),
        (7, with(waiting, C::WFReportParams), with(waiting, C::Disconnecting), shaking),
        (8, target, VolumeState { role: P, ..target }, ctx),
        (9, waiting, with(waiting, C::VerifyS), ctx),
        (10, syncing, with(syncing, C::VerifyT), ctx),
        (11, waiting, with(waiting, C::StartingSyncS), ctx),
        (12, waiting, with(waiting, C::SyncTarget), ctx),
        (13, waiting, VolumeState { pdsk: D::Outdated, ..with(waiting, C::Disconnecting) }, ctx),
    ];
    assert_eq!(cases.len(), SOFT_TRANSITION_RULES.len());
    for (row, old, new, ctx) in cases {
        let last = SOFT_TRANSITION_RULES.iter().rposition(|r| (r.refuses)(&old, &new, &ctx));
        assert_eq!(last, Some(row - 1), "row {row}");
        assert_eq!(soft_transition(&old, &new, &ctx), Err(SOFT_TRANSITION_RULES[row - 1].code));
    }
}

#[test]
fn a_handshake_may_progress_but_nothing_else_may_change() {
    let ctx = Context { handshake_in_progress: true, ..net() };
    let old = st(S, U, C::WFReportParams, D::UpToDate, D::DUnknown);
    assert!(evaluate(&old, NONE.conn(C::Connected).peer(S).pdsk(D::UpToDate), Kind::Soft, &ctx).is_ok());
    assert_eq!(evaluate(&old, NONE.role(P), Kind::Soft, &ctx), Err(R::InTransientState));
    assert_eq!(evaluate(&old, NONE.disk(D::Outdated), Kind::Soft, &ctx), Err(R::InTransientState));
    assert!(evaluate(&old, NONE.conn(C::BrokenPipe), Kind::Hard, &ctx).is_ok());
}

// ---- evaluate ----

// recorded results of commands, and the table of typical errors in drbd-states 15
#[test]
fn results_of_commands() {
    let ctx = net();
    let alone = st(S, U, C::StandAlone, D::UpToDate, D::DUnknown);
    let inconsistent = st(S, U, C::StandAlone, D::Inconsistent, D::DUnknown);
    let primary = st(P, U, C::WFConnection, D::UpToDate, D::DUnknown);
    let asked = |old: &VolumeState, change| match evaluate(old, change, Kind::Soft, &ctx) {
        Ok(e) => e.result,
        Err(e) => e,
    };
    let cases = [
        (inconsistent, NONE.role(P), R::NoUpToDateDisk),
        (inconsistent, NONE.role(P).disk(D::UpToDate), R::Success),
        (inconsistent, NONE.role(S), R::NothingToDo),
        (alone, NONE.conn(C::VerifyS), R::NeedConnection),
        (alone, NONE.conn(C::StartingSyncT), R::NeedConnection),
        (alone, NONE.conn(C::Disconnecting), R::AlreadyStandalone),
        (primary, NONE.disk(D::Outdated), R::NoUpToDateDisk),
        (primary, NONE.disk(D::Failed), R::NoUpToDateDisk),
        (inconsistent, NONE.disk(D::Outdated), R::LowerThanOutdated),
        (alone, NONE.disk(D::Outdated), R::Success),
        (st(S, P, C::Connected, D::UpToDate, D::UpToDate), NONE.role(P), R::TwoPrimaries),
        (st(S, S, C::SyncSource, D::UpToDate, D::Inconsistent), NONE.conn(C::VerifyS), R::ResyncRunning),
        (st(S, S, C::Connected, D::Inconsistent, D::Inconsistent), NONE.conn(C::StartingSyncT), R::Success),
    ];
    for (old, change, want) in cases {
        assert_eq!(asked(&old, change), want, "{old:?} {change:?}");
    }
}

#[test]
fn invalidate_on_two_inconsistent_nodes_upgrades_the_peer() {
    let old = st(S, S, C::Connected, D::Inconsistent, D::Inconsistent);
    let e = evaluate(&old, NONE.conn(C::StartingSyncT), Kind::Soft, &net()).unwrap();
    assert_eq!((e.new.disk, e.new.pdsk), (D::Inconsistent, D::UpToDate));
    assert_eq!(e.warnings.iter().collect::<Vec<_>>(), [Warning::PeerDiskUpgraded]);
}

#[test]
fn a_state_already_invalid_in_the_same_way_may_change() {
    let ctx = Context { device_open: true, ..net() };
    let change = NONE.disk(D::Attaching);
    let old = st(S, U, C::StandAlone, D::Diskless, D::DUnknown);
    assert_eq!(evaluate(&old, change, Kind::Soft, &ctx).unwrap().result, R::Success);
    assert_eq!(evaluate(&old, change, Kind::BeforePeer, &ctx), Err(R::DeviceInUse));
    // invalid in another way is no excuse
    let lone = st(P, U, C::WFConnection, D::Consistent, D::DUnknown);
    assert_eq!(evaluate(&lone, NONE.role(S), Kind::Soft, &ctx), Err(R::DeviceInUse));
}

#[test]
fn changes_that_are_no_states_are_refused() {
    use model::state_word::mask;
    for (m, v) in [
        (mask::ROLE, 0),
        (mask::ROLE, 3),
        (mask::DISK, 6 << 9),
        (mask::DISK, 15 << 9),
        (mask::PDSK, 9 << 13),
        (mask::CONN, 24 << 4),
    ] {
        for kind in [Kind::Soft, Kind::Hard] {
            let got = evaluate(&healthy(), StateChange { mask: m, value: v }, kind, &net());
            assert_eq!(got, Err(R::UnknownError), "{m:x} {v:x}");
        }
    }
}

#[test]
fn no_request_leads_to_what_must_not_be() {
    let mut made = 0;
    for two_primaries in [false, true] {
        for fencing in Fencing::ALL {
            let ctx = Context { two_primaries, fencing: *fencing, ..net() };
            for old in living_states() {
                let valid_before = validity(&old, &ctx.with_disk(old.disk)).is_ok();
                for change in living_changes() {
                    let Ok(e) = evaluate(&old, change, Kind::Soft, &ctx) else { continue };
                    made += 1;
                    assert_eq!(e.new == old, e.result == R::NothingToDo);
                    assert!(transition(&old, &e.new).is_ok());
                    if !valid_before || e.new == old {
                        continue;
                    }
                    let n = e.new;
                    assert!(two_primaries || (n.role, n.peer) != (P, P), "{old:?} {n:?}");
                    assert!(n.role != P || n.disk == D::UpToDate || n.pdsk == D::UpToDate, "{old:?} {n:?}");
                    assert!(n.conn <= C::Connected || n.disk.min(n.pdsk) >= D::Inconsistent);
                    let alone = n.role == P && n.conn < C::Connected && old.disk >= D::Inconsistent;
                    let unfenced = *fencing != Fencing::DontCare && n.pdsk >= D::DUnknown;
                    assert!(!(alone && unfenced), "{old:?} {n:?}");
                }
            }
        }
    }
    assert!(made > 5_000, "{made}");
}

#[test]
fn no_single_request_makes_an_own_disk_better_unless_it_asks_for_that() {
    // the one way: the limits of the connection state, which come with a warning or from Consistent and
    // Outdated while connected
    for old in living_states() {
        for c in C::ALL {
            for kind in [Kind::Soft, Kind::Hard] {
                let Ok(e) = evaluate(&old, NONE.conn(*c), kind, &net()) else { continue };
                if e.new.disk > old.disk && old.disk == D::Inconsistent {
                    assert!(e.warnings.contains(Warning::DiskUpgraded), "{old:?} {:?}", e.new);
                }
            }
        }
    }
}

// ---- cluster-wide ----

#[test]
fn the_peer_is_asked_exactly_for_the_listed_changes() {
    let connected = st(S, S, C::Connected, D::UpToDate, D::UpToDate);
    let syncing = st(S, S, C::SyncSource, D::UpToDate, D::Inconsistent);
    let alone = st(S, U, C::WFConnection, D::UpToDate, D::DUnknown);
    let with = |s: VolumeState, c: C| VolumeState { conn: c, ..s };
    let cases = [
        (connected, VolumeState { role: P, ..connected }, true),
        (syncing, VolumeState { role: P, ..syncing }, true),
        (alone, VolumeState { role: P, ..alone }, false),
        (VolumeState { role: P, ..connected }, connected, false),
        (connected, with(connected, C::StartingSyncS), true),
        (connected, with(connected, C::StartingSyncT), true),
        (connected, with(connected, C::VerifyS), true),
        (connected, with(connected, C::VerifyT), false),
        (syncing, with(syncing, C::VerifyS), false),
        (connected, VolumeState { disk: D::Failed, ..connected }, true),
        (alone, VolumeState { disk: D::Failed, ..alone }, false),
        (connected, with(connected, C::Disconnecting), true),
        (syncing, with(syncing, C::Disconnecting), true),
        (alone, with(alone, C::Disconnecting), false),
        (connected, with(connected, C::WFReportParams), true),
        (syncing, with(syncing, C::WFReportParams), false),
        (connected, with(connected, C::WFBitMapS), false),
        (connected, VolumeState { user_isp: true, ..connected }, false),
    ];
    for (old, new, asked) in cases {
        assert_eq!(needs_peer(&old, &new), asked, "{old:?} {new:?}");
    }
}

#[test]
fn a_request_and_its_translation_give_the_two_ends_of_one_sync() {
    for (sent, here, there) in [
        (C::StartingSyncS, C::StartingSyncS, C::StartingSyncT),
        (C::StartingSyncT, C::StartingSyncT, C::StartingSyncS),
        (C::VerifyS, C::VerifyS, C::VerifyT),
    ] {
        let change = NONE.conn(sent);
        let own = evaluate(&healthy(), change, Kind::BeforePeer, &net()).unwrap().new;
        let peers = evaluate(&healthy(), translate(change), Kind::Soft, &net()).unwrap().new;
        assert_eq!((own.conn, peers.conn), (here, there));
    }
}

// ---- changes as the kernel logged them ----

#[test]
fn requested_changes_give_the_recorded_lines() {
    use model::state_word::mask;
    let connected = healthy();
    let fresh = st(S, U, C::WFReportParams, D::UpToDate, D::DUnknown);
    let source = st(S, S, C::SyncSource, D::UpToDate, D::Inconsistent);
    let target = st(S, P, C::SyncTarget, D::Inconsistent, D::UpToDate);
    let waiting = st(S, P, C::WFSyncUUID, D::Outdated, D::UpToDate);
    let with = |s: VolumeState, c: C| VolumeState { conn: c, ..s };
    let cases = [
        (
            connected,
            NONE.conn(C::StartingSyncT),
            "conn( Connected -> StartingSyncT ) disk( UpToDate -> Outdated ) ",
        ),
        (
            connected,
            NONE.conn(C::StartingSyncS),
            "conn( Connected -> StartingSyncS ) pdsk( UpToDate -> Consistent ) ",
        ),
        (connected, NONE.conn(C::Behind), "conn( Connected -> Behind ) disk( UpToDate -> Outdated ) "),
        (connected, NONE.conn(C::Ahead), "conn( Connected -> Ahead ) pdsk( UpToDate -> Consistent ) "),
        (
            connected,
            NONE.conn(C::WFSyncUUID),
            "conn( Connected -> WFSyncUUID ) disk( UpToDate -> Outdated ) ",
        ),
        (
            connected,
            NONE.conn(C::SyncSource),
            "conn( Connected -> SyncSource ) pdsk( UpToDate -> Inconsistent ) ",
        ),
        (connected, NONE.conn(C::VerifyT), "conn( Connected -> VerifyT ) "),
        (
            st(S, S, C::Connected, D::UpToDate, D::Diskless),
            NONE.conn(C::WFBitMapS).pdsk(D::Consistent),
            "conn( Connected -> WFBitMapS ) pdsk( Diskless -> Consistent ) ",
        ),
        (
            fresh,
            NONE.conn(C::WFBitMapS).peer(S).pdsk(D::UpToDate),
            "peer( Unknown -> Secondary ) conn( WFReportParams -> WFBitMapS ) pdsk( DUnknown -> Consistent ) ",
        ),
        (
            fresh,
            NONE.conn(C::WFBitMapT).peer(P).pdsk(D::UpToDate),
            "peer( Unknown -> Primary ) conn( WFReportParams -> WFBitMapT ) disk( UpToDate -> Outdated ) \
             pdsk( DUnknown -> UpToDate ) ",
        ),
        (
            VolumeState { disk: D::Outdated, ..fresh },
            NONE.conn(C::Connected).peer(S).pdsk(D::UpToDate),
            "peer( Unknown -> Secondary ) conn( WFReportParams -> Connected ) disk( Outdated -> UpToDate ) \
             pdsk( DUnknown -> UpToDate ) ",
        ),
        (
            st(S, P, C::WFBitMapT, D::Outdated, D::UpToDate),
            NONE.conn(C::WFSyncUUID),
            "conn( WFBitMapT -> WFSyncUUID ) ",
        ),
        (
            waiting,
            NONE.conn(C::SyncTarget),
            "conn( WFSyncUUID -> SyncTarget ) disk( Outdated -> Inconsistent ) ",
        ),
        (
            with(waiting, C::Behind),
            NONE.conn(C::SyncTarget),
            "conn( Behind -> SyncTarget ) disk( Outdated -> Inconsistent ) ",
        ),
        (
            st(S, S, C::Ahead, D::UpToDate, D::Consistent),
            NONE.conn(C::SyncSource),
            "conn( Ahead -> SyncSource ) pdsk( Consistent -> Inconsistent ) ",
        ),
        (
            target,
            NONE.conn(C::Connected).disk(D::UpToDate),
            "conn( SyncTarget -> Connected ) disk( Inconsistent -> UpToDate ) ",
        ),
        (target, NONE.flag(mask::PEER_ISP, true), "conn( SyncTarget -> PausedSyncT ) peer_isp( 0 -> 1 ) "),
        (source, NONE.flag(mask::USER_ISP, true), "conn( SyncSource -> PausedSyncS ) user_isp( 0 -> 1 ) "),
        (source, NONE.conn(C::TearDown), "peer( Secondary -> Unknown ) conn( SyncSource -> TearDown ) "),
        (
            target,
            NONE.conn(C::Disconnecting),
            "peer( Primary -> Unknown ) conn( SyncTarget -> Disconnecting ) pdsk( UpToDate -> DUnknown ) ",
        ),
    ];
    for (old, change, line) in cases {
        let e = evaluate(&old, change, Kind::Soft, &net()).unwrap();
        assert_eq!(log_line::change_line(&old, &e.new, log_line::VOLUME_FIELDS).to_string(), line);
        assert!(e.warnings.is_empty(), "{line}");
    }
}

#[test]
fn an_outdated_peer_needs_no_freeze() {
    let ctx = Context { fencing: Fencing::ResourceAndStonith, ..net() };
    let old = st(P, S, C::Ahead, D::UpToDate, D::Outdated);
    let lost = evaluate(&old, NONE.conn(C::NetworkFailure), Kind::Hard, &ctx).unwrap().new;
    assert_eq!((lost.pdsk, lost.susp_fen), (D::Outdated, false));
}

#[test]
fn ahead_and_behind_do_not_make_outdated_disks_good() {
    let ahead = st(P, S, C::Ahead, D::UpToDate, D::Outdated);
    assert_eq!(sanitize(&ahead, ahead, &net()).0, ahead);
    let behind = st(S, P, C::Behind, D::Outdated, D::UpToDate);
    assert_eq!(sanitize(&behind, behind, &net()).0, behind);
}

#[test]
fn a_disk_that_is_not_usable_yet_has_no_fencing_policy() {
    let ctx = Context { fencing: Fencing::ResourceOnly, ..net() };
    let old = st(P, U, C::WFConnection, D::Attaching, D::DUnknown);
    assert!(evaluate(&old, NONE.disk(D::UpToDate), Kind::BeforePeer, &ctx).is_ok());
    let usable = VolumeState { disk: D::Consistent, ..old };
    assert_eq!(evaluate(&usable, NONE.disk(D::UpToDate), Kind::BeforePeer, &ctx), Err(R::PrimaryNop));
}

#[test]
fn an_attach_may_find_outdated_data() {
    let old = st(S, U, C::StandAlone, D::Attaching, D::DUnknown);
    for disk in [D::Inconsistent, D::Outdated, D::Consistent, D::UpToDate] {
        assert_eq!(evaluate(&old, NONE.disk(disk), Kind::Soft, &net()).unwrap().new.disk, disk);
    }
}
