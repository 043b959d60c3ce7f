//! The rules of the state model. A change is a mask and a value; it passes the stations in this order
//! (drbd-states 5):
//!
//! 1. [`sanitize`]: adjust what follows from the new state by itself (drbd-states 6);
//! 2. nothing left of the change: done, nothing happens;
//! 3. [`validate::transition`]: ways that do not exist, not even for facts (7.1);
//! 4. for requests, [`validate::validity`] and [`validate::soft_transition`] (7.2, 7.3).
//!
//! Everything here is a pure function of the old state, the change and a [`Context`].

pub(crate) mod change;
pub(crate) mod effects;
pub mod log_line;
mod sanitize;
#[cfg(test)]
mod tests;
pub mod translate;
pub mod validate;

pub(crate) use sanitize::is_source;
pub use sanitize::{Warning, Warnings, sanitize};
pub use translate::translate;

use model::policy::{Fencing, OnNoData};
use model::result_code::StateResult;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::state_word::StateChange;

/// Everything the rules need besides the state itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// Fencing policy of the volume; without a usable local disk it counts as dont-care.
    pub fencing: Fencing,
    /// Policy `on-no-data-accessible` of the resource.
    pub on_no_data: OnNoData,
    /// The connection has a network configuration.
    pub net_configured: bool,
    /// `allow-two-primaries` is set.
    pub two_primaries: bool,
    /// A `verify-alg` is configured.
    pub verify_alg: bool,
    /// Protocol version agreed with the peer; meaningful while connected.
    pub agreed_version: u32,
    /// The peer is Primary on another volume of this connection.
    pub peer_primary_elsewhere: bool,
    /// Somebody has the device open, for whatever.
    pub device_open: bool,
    /// Sizes, UUIDs and state were sent, and some volume is still in WFReportParams.
    pub handshake_in_progress: bool,
    /// Own and peer's disk state as found at attach, if the data is what was exposed; None if it is not (or
    /// no attach waits for its handshake).
    pub attach_states: Option<(DiskState, DiskState)>,
    /// The own copy was invalidated by command, and its resync has not begun.
    pub invalidated: bool,
    /// The peer's copy was invalidated by command, and it has not shown yet that it knows.
    pub invalidation_unconfirmed: bool,
    /// The peer runs this program too, and takes an Outdated copy for one where DRBD calls it UpToDate.
    pub outdated_stays: bool,
}

/// What checks a change has to pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A request: transition rules, validity and soft transition rules.
    Soft,
    /// A request before the peer is asked: as soft, but an old state that is invalid in the same way is no
    /// excuse (drbd-states 8).
    BeforePeer,
    /// A fact: transition rules only.
    Hard,
}

/// A change that may be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evaluated {
    /// The state to assign.
    pub new: VolumeState,
    /// What sanitizing did that a person should know.
    pub warnings: Warnings,
    /// `Success`, or `NothingToDo` if the new state is the old one.
    pub result: StateResult,
}

/// Evaluates `change` of the state `old` (drbd-states 5, steps 1 to 4). Assigns nothing.
///
/// A change whose result is no state at all (numbers outside of the tables, own role Unknown, own disk
/// DUnknown) is answered with `UnknownError`; only a peer can ask for that.
pub fn evaluate(
    old: &VolumeState,
    change: StateChange,
    kind: Kind,
    ctx: &Context,
) -> Result<Evaluated, StateResult> {
    let ctx = &ctx.with_disk(old.disk);
    let asked = change.apply(old).filter(is_own_state).ok_or(StateResult::UnknownError)?;
    let (new, warnings) = sanitize(old, asked, ctx);
    if new == *old {
        return Ok(Evaluated { new, warnings: Warnings::NONE, result: StateResult::NothingToDo });
    }
    validate::transition(old, &new)?;
    match kind {
        Kind::Hard => {}
        Kind::BeforePeer => {
            validate::validity(&new, ctx)?;
            validate::soft_transition(old, &new, ctx)?;
        }
        Kind::Soft => {
            if let Err(e) = validate::validity(&new, ctx)
                && validate::validity(old, ctx) != Err(e)
            {
                return Err(e);
            }
            validate::soft_transition(old, &new, ctx)?;
        }
    }
    Ok(Evaluated { new, warnings, result: StateResult::Success })
}

/// The peer has to agree before a soft change from `old` to `new` is made (drbd-states 8). `new` is sanitized.
/// Hard changes are never asked, only reported.
pub fn needs_peer(old: &VolumeState, new: &VolumeState) -> bool {
    if old.conn < ConnState::Connected {
        return false;
    }
    let conn_changes = old.conn != new.conn;
    let while_connected = new.conn >= ConnState::Connected
        && ((old.role != Role::Primary && new.role == Role::Primary)
            || (conn_changes && matches!(new.conn, ConnState::StartingSyncS | ConnState::StartingSyncT))
            || (old.disk != DiskState::Failed && new.disk == DiskState::Failed));
    let from_connected = old.conn == ConnState::Connected
        && matches!(new.conn, ConnState::VerifyS | ConnState::WFReportParams);
    while_connected || new.conn == ConnState::Disconnecting || from_connected
}

fn is_own_state(s: &VolumeState) -> bool {
    s.role != Role::Unknown && s.disk != DiskState::DUnknown
}

impl Context {
    /// A volume without any configuration.
    pub const BARE: Context = Context {
        fencing: Fencing::DontCare,
        on_no_data: OnNoData::IoError,
        net_configured: false,
        two_primaries: false,
        verify_alg: false,
        agreed_version: 0,
        peer_primary_elsewhere: false,
        device_open: false,
        handshake_in_progress: false,
        attach_states: None,
        invalidated: false,
        invalidation_unconfirmed: false,
        outdated_stays: false,
    };

    /// The context with the fencing policy that is in force while the own disk is in state `disk`: a disk
    /// that is not usable has no policy (drbd-states 6).
    pub fn with_disk(&self, disk: DiskState) -> Context {
        let fencing = if disk >= DiskState::Inconsistent { self.fencing } else { Fencing::DontCare };
        Context { fencing, ..*self }
    }
}
