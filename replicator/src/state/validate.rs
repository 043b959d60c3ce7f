//! What states and changes are refused, as tables: a rule is a row, in the order of the specification.

use model::policy::Fencing;
use model::result_code::StateResult;
use model::state::{ConnState, DiskState, Role, VolumeState};

use super::Context;

/// Transition rules: they hold for facts too (drbd-states 7.1). Both states are sanitized.
pub fn transition(old: &VolumeState, new: &VolumeState) -> Result<(), StateResult> {
    // a second detach is answered as such, whatever else the change asks for
    if old.disk == DiskState::Diskless && new.disk == DiskState::Failed {
        return Err(StateResult::IsDiskless);
    }
    conn_transition(old.conn, new.conn)
}

/// The part of [`transition`] about the connection; a connection as a whole is judged by this alone. Staying
/// in the same state is fine.
pub fn conn_transition(old: ConnState, new: ConnState) -> Result<(), StateResult> {
    if old == new {
        return Ok(());
    }
    first_match(CONN_TRANSITION_RULES, |rule| (rule.refuses)(old, new), |rule| rule.code)
}

/// Whether `new` may exist as the result of a request (drbd-states 7.2). It is sanitized; the fencing policy
/// of `ctx` is the one in force.
pub fn validity(new: &VolumeState, ctx: &Context) -> Result<(), StateResult> {
    first_match(VALIDITY_RULES, |rule| (rule.refuses)(new, ctx), |rule| rule.code)
}

/// Ways that requests may not go (drbd-states 7.3). Of several matching rules the last one gives the code.
pub fn soft_transition(old: &VolumeState, new: &VolumeState, ctx: &Context) -> Result<(), StateResult> {
    match SOFT_TRANSITION_RULES.iter().rev().find(|rule| (rule.refuses)(old, new, ctx)) {
        Some(rule) => Err(rule.code),
        None => Ok(()),
    }
}

fn first_match<R>(
    rules: &[R],
    refuses: impl Fn(&R) -> bool,
    code: impl Fn(&R) -> StateResult,
) -> Result<(), StateResult> {
    match rules.iter().find(|rule| refuses(rule)) {
        Some(rule) => Err(code(rule)),
        None => Ok(()),
    }
}

pub(super) struct ConnRule {
    pub code: StateResult,
    pub refuses: fn(ConnState, ConnState) -> bool,
}

pub(super) struct StateRule {
    pub code: StateResult,
    pub refuses: fn(&VolumeState, &Context) -> bool,
}

pub(super) struct SoftRule {
    pub code: StateResult,
    pub refuses: fn(&VolumeState, &VolumeState, &Context) -> bool,
}

const fn conn_rule(code: StateResult, refuses: fn(ConnState, ConnState) -> bool) -> ConnRule {
    ConnRule { code, refuses }
}

const fn state_rule(code: StateResult, refuses: fn(&VolumeState, &Context) -> bool) -> StateRule {
    StateRule { code, refuses }
}

const fn soft_rule(code: StateResult, refuses: fn(&VolumeState, &VolumeState, &Context) -> bool) -> SoftRule {
    SoftRule { code, refuses }
}

use ConnState as C;
use DiskState as D;
use StateResult as R;

// spec: drbd-states 7.1, rules 2 to 6; old and new differ
#[rustfmt::skip]
pub(super) const CONN_TRANSITION_RULES: &[ConnRule] = &[
    /* 2 */ conn_rule(R::AlreadyStandalone, |old, new| old == C::StandAlone && new == C::Disconnecting),
    /* 3 */ conn_rule(R::NeedConnection,    |old, new| old == C::StandAlone && new != C::Unconnected),
    /* 4 */ conn_rule(R::NeedConnection,    |old, new| old < C::WFReportParams && new >= C::Connected),
    /* 5 */ conn_rule(R::InTransientState,  |old, new| old.is_failure()
                                                && new != C::Unconnected && new != C::Disconnecting),
    /* 6 */ conn_rule(R::InTransientState,  |old, new| old == C::Disconnecting && new != C::StandAlone),
];

// spec: drbd-states 7.2; the first match decides
#[rustfmt::skip]
pub(super) const VALIDITY_RULES: &[StateRule] = &[
    /*  1 */ state_rule(R::TwoPrimaries,           |s, ctx| one_primary_only(ctx) && primary(s)
                                                       && s.peer == Role::Primary),
    /*  2 */ state_rule(R::OtherVolumePeerPrimary, |s, ctx| one_primary_only(ctx) && primary(s)
                                                       && ctx.peer_primary_elsewhere),
    /*  3 */ state_rule(R::DeviceInUse,            |s, ctx| s.role == Role::Secondary && ctx.device_open),
    /*  4 */ state_rule(R::NoUpToDateDisk,         |s, _| primary(s) && s.conn < C::Connected
                                                       && s.disk < D::UpToDate),
    /*  5 */ state_rule(R::PrimaryNop,             |s, ctx| ctx.fencing != Fencing::DontCare && primary(s)
                                                       && s.conn < C::Connected && s.pdsk >= D::DUnknown),
    /*  6 */ state_rule(R::NoUpToDateDisk,         |s, _| primary(s) && s.disk <= D::Inconsistent
                                                       && s.pdsk <= D::Inconsistent),
    /*  7 */ state_rule(R::NoLocalDisk,            |s, _| s.conn > C::Connected && s.disk < D::Inconsistent),
    /*  8 */ state_rule(R::NoRemoteDisk,           |s, _| s.conn > C::Connected && s.pdsk < D::Inconsistent),
    /*  9 */ state_rule(R::NoUpToDateDisk,         |s, _| s.conn > C::Connected && no_up_to_date(s)),
    /* 10 */ state_rule(R::ConnectedOutdates,      |s, ctx| s.disk == D::Outdated && matches!(s.conn,
                                                       C::Connected | C::WFBitMapS | C::SyncSource
                                                       | C::PausedSyncS) && !stays_outdated(s, ctx)),
    /* 11 */ state_rule(R::NoVerifyAlg,            |s, ctx| verify(s) && !ctx.verify_alg),
    /* 12 */ state_rule(R::NotSupported,           |s, ctx| verify(s) && ctx.agreed_version < 88),
    /* 13 */ state_rule(R::NoUpToDateDisk,         |s, _| primary(s) && no_up_to_date(s)),
    /* 14 */ state_rule(R::NeedConnection,         |s, _| starting_sync(s) && s.pdsk == D::DUnknown),
    /* 15 */ state_rule(R::ConnectedOutdates,      |s, _| s.conn >= C::Connected && s.pdsk == D::DUnknown),
];

// spec: drbd-states 7.3; the last match decides
#[rustfmt::skip]
pub(super) const SOFT_TRANSITION_RULES: &[SoftRule] = &[
    /*  1 */ soft_rule(R::ResyncRunning,     |old, new, _| starting_sync(new) && old.conn > C::Connected),
    /*  2 */ soft_rule(R::AlreadyStandalone, |old, new, _| new.conn == C::Disconnecting
                                                 && old.conn == C::StandAlone),
    /*  3 */ soft_rule(R::IsDiskless,        |old, new, _| new.disk > D::Attaching
                                                 && old.disk == D::Diskless),
    /*  4 */ soft_rule(R::NoNetConfig,       |old, new, _| new.conn == C::WFConnection
                                                 && old.conn < C::Unconnected),
    /*  5 */ soft_rule(R::LowerThanOutdated, |old, new, _| new.disk == D::Outdated
                                                 && old.disk < D::Outdated && old.disk != D::Attaching),
    /*  6 */ soft_rule(R::InTransientState,  |old, new, _| new.conn == C::Disconnecting
                                                 && old.conn == C::Unconnected),
    /*  7 */ soft_rule(R::InTransientState,  |old, new, ctx| ctx.handshake_in_progress
                                                 && !handshake_progress(old, new)),
    /*  8 */ soft_rule(R::InTransientState,  |old, new, _| promotion(old, new) && new.pdsk == D::UpToDate
                                                 && new.disk != D::UpToDate && new.disk != D::Diskless
                                                 && (new.conn <= C::WFSyncUUID || new.conn == C::Behind
                                                     || new.conn != old.conn)
                                                 && !stays_bad(old, new)),
    /*  9 */ soft_rule(R::NeedConnection,    |old, new, _| verify(new) && old.conn < C::Connected),
    /* 10 */ soft_rule(R::ResyncRunning,     |old, new, _| verify(new) && new.conn != old.conn
                                                 && old.conn > C::Connected),
    /* 11 */ soft_rule(R::NeedConnection,    |old, new, _| starting_sync(new) && old.conn < C::Connected),
    /* 12 */ soft_rule(R::NeedConnection,    |old, new, _| matches!(new.conn, C::SyncSource | C::SyncTarget)
                                                 && old.conn < C::WFReportParams),
    /* 13 */ soft_rule(R::OutdateWithoutConnection,
                                             |old, new, _| new.conn == C::Disconnecting
                                                 && new.pdsk == D::Outdated && old.conn < C::Connected
                                                 && old.pdsk > D::Outdated),
];

fn one_primary_only(ctx: &Context) -> bool {
    ctx.net_configured && !ctx.two_primaries
}

fn primary(s: &VolumeState) -> bool {
    s.role == Role::Primary
}

fn promotion(old: &VolumeState, new: &VolumeState) -> bool {
    !primary(old) && primary(new)
}

/// Not in drbd-states: no resync is under way or about to begin that a promotion could wait for.
fn stays_bad(old: &VolumeState, new: &VolumeState) -> bool {
    old.conn == C::Connected && new.conn == C::Connected && new.disk == D::Inconsistent
}

/// Not in drbd-states: nothing vouches for this copy, see `sanitize`.
fn stays_outdated(s: &VolumeState, ctx: &Context) -> bool {
    ctx.outdated_stays && s.conn == C::Connected && s.pdsk < D::Inconsistent
}

fn no_up_to_date(s: &VolumeState) -> bool {
    s.disk < D::UpToDate && s.pdsk < D::UpToDate
}

fn verify(s: &VolumeState) -> bool {
    matches!(s.conn, C::VerifyS | C::VerifyT)
}

fn starting_sync(s: &VolumeState) -> bool {
    matches!(s.conn, C::StartingSyncS | C::StartingSyncT)
}

fn handshake_progress(old: &VolumeState, new: &VolumeState) -> bool {
    matches!((old.conn, new.conn), (C::WFConnection, C::WFReportParams))
        || (old.conn == C::WFReportParams && new.conn >= C::Connected)
}
