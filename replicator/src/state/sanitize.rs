//! Adjustments every new state gets before it is judged (drbd-states 6).

use core::fmt;

use model::policy::{Fencing, OnNoData};
use model::state::{ConnState, DiskState, Role, VolumeState};

use super::Context;

/// Something sanitizing did that goes to the log at warning level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Warning {
    /// A verify ended because a disk went away.
    VerifyAborted = 1,
    /// A resync ended because a disk went away.
    ResyncAborted = 2,
    /// The connection went away before the handshake said whether the attached data is good.
    LostWhileNegotiating = 4,
    /// The connection state demanded a better own disk state.
    DiskUpgraded = 8,
    /// The connection state demanded a better disk state of the peer.
    PeerDiskUpgraded = 16,
}

/// A set of [`Warning`]s.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Warnings(u8);

/// `new` adjusted in the order of drbd-states 6, for a change that starts at `old`. The result is a fixed
/// point: sanitizing it again changes nothing.
pub fn sanitize(old: &VolumeState, new: VolumeState, ctx: &Context) -> (VolumeState, Warnings) {
    let ctx = &ctx.with_disk(old.disk);
    let mut warnings = Warnings::NONE;
    let mut state = new;
    // The specification describes one pass. Its later steps can create what an earlier one adjusts, in three
    // cases: PausedSyncT continues with an Outdated disk, PausedSyncS with a Consistent peer, a detached
    // StandAlone volume keeps aftr_isp. The first is dangerous: a crash would find a half synced disk marked
    // consistent. A second pass settles all of them.
    for _ in 0..PASSES {
        pass(old, &mut state, ctx, &mut warnings);
    }
    (state, warnings)
}

const PASSES: u32 = 2;

fn pass(old: &VolumeState, s: &mut VolumeState, ctx: &Context, warnings: &mut Warnings) {
    forget_lost_peer(s, ctx); // step 1
    forget_pause_when_unconfigured(s); // step 2
    abort_without_disks(old, s, warnings); // step 3
    settle_negotiating(s, ctx, warnings); // step 4
    keep_invalidated(s, ctx);
    consistent_is_up_to_date_when_connected(old, s, ctx); // step 5
    limit_disks(s, warnings); // step 6
    suspend_for_fencing(old, s, ctx); // step 7
    suspend_without_data(old, s, ctx); // step 8
    pause_or_continue(s); // step 9
}

fn forget_lost_peer(s: &mut VolumeState, ctx: &Context) {
    if s.conn < ConnState::Connected {
        s.peer_isp = false;
        s.peer = Role::Unknown;
        // Nor is a copy bad whose holder may go on with it, since the answer that it may be invalidated did not arrive.
        let known_bad = matches!(s.pdsk, DiskState::Inconsistent | DiskState::Outdated);
        if !known_bad || ctx.invalidation_unconfirmed {
            s.pdsk = DiskState::DUnknown;
        }
    }
}

fn forget_pause_when_unconfigured(s: &mut VolumeState) {
    if s.is_unconfigured() {
        s.aftr_isp = false;
    }
}

fn abort_without_disks(old: &VolumeState, s: &mut VolumeState, warnings: &mut Warnings) {
    let verify = matches!(s.conn, ConnState::VerifyS | ConnState::VerifyT);
    // A copy that turns out to be bad in the middle of a verify ends it; step 6 would call it UpToDate again.
    let goes_on = verify && s.conn == old.conn;
    let worst = if goes_on { DiskState::Inconsistent } else { DiskState::Failed };
    if s.conn > ConnState::Connected && (s.disk <= worst || s.pdsk <= worst) {
        warnings.add(if verify { Warning::VerifyAborted } else { Warning::ResyncAborted });
        // Before its resync begins a target is only Outdated or Consistent, which step 5 would take for UpToDate. But it
        // is known to be older than the disk that went.
        let asked_for = old.conn == ConnState::Connected;
        if is_target(s.conn) && s.disk < DiskState::UpToDate && !asked_for {
            s.disk = s.disk.min(DiskState::Inconsistent);
        } else if is_source(s.conn) && s.pdsk < DiskState::UpToDate {
            s.pdsk = s.pdsk.min(DiskState::Inconsistent);
        }
        s.conn = ConnState::Connected;
    }
}

/// A resync from this node is being prepared, runs, pauses, or is to follow.
pub(crate) fn is_source(conn: ConnState) -> bool {
    use ConnState as C;
    matches!(conn, C::StartingSyncS | C::WFBitMapS | C::SyncSource | C::PausedSyncS | C::Ahead)
}

fn is_target(conn: ConnState) -> bool {
    use ConnState as C;
    matches!(
        conn,
        C::StartingSyncT | C::WFBitMapT | C::WFSyncUUID | C::SyncTarget | C::PausedSyncT | C::Behind
    )
}

fn settle_negotiating(s: &mut VolumeState, ctx: &Context, warnings: &mut Warnings) {
    if s.conn < ConnState::Connected && s.disk == DiskState::Negotiating {
        if let Some((disk, pdsk)) = ctx.attach_states {
            (s.disk, s.pdsk) = (disk, pdsk);
        } else {
            warnings.add(Warning::LostWhileNegotiating);
            (s.disk, s.pdsk) = (DiskState::Diskless, DiskState::DUnknown);
        }
    }
}

/// An operator has said that this copy is not to be trusted. If the resync that was to follow does not come, that word
/// still holds; DRBD calls the copy UpToDate again.
fn keep_invalidated(s: &mut VolumeState, ctx: &Context) {
    let resync_comes = matches!(s.conn, ConnState::StartingSyncT | ConnState::WFSyncUUID);
    if ctx.invalidated && !resync_comes {
        s.disk = s.disk.min(DiskState::Inconsistent);
    }
}

/// Two copies that met have been compared. One that is known to be behind stays so beside a node without a disk, until the
/// clients of that node are known to have seen it last (see `apply_peer_state`); DRBD calls it UpToDate.
fn consistent_is_up_to_date_when_connected(old: &VolumeState, s: &mut VolumeState, ctx: &Context) {
    if s.conn < ConnState::Connected || s.conn >= ConnState::Ahead {
        return;
    }
    let alone = |other: DiskState| ctx.outdated_stays && other < DiskState::Inconsistent;
    let keeps = (alone(s.pdsk) && old.disk < DiskState::Consistent, alone(s.disk));
    for (d, keeps_outdated) in [(&mut s.disk, keeps.0), (&mut s.pdsk, keeps.1)] {
        if *d == DiskState::Consistent || *d == DiskState::Outdated && !keeps_outdated {
            *d = DiskState::UpToDate;
        }
    }
}

fn limit_disks(s: &mut VolumeState, warnings: &mut Warnings) {
    let limits = DiskLimits::of(s.conn);
    s.disk = s.disk.min(limits.disk.1);
    s.pdsk = s.pdsk.min(limits.pdsk.1);
    if s.disk < limits.disk.0 {
        warnings.add(Warning::DiskUpgraded);
        s.disk = limits.disk.0;
    }
    if s.pdsk < limits.pdsk.0 {
        warnings.add(Warning::PeerDiskUpgraded);
        s.pdsk = limits.pdsk.0;
    }
}

fn suspend_for_fencing(old: &VolumeState, s: &mut VolumeState, ctx: &Context) {
    let unfenced = |s: &VolumeState| {
        s.role == Role::Primary && s.conn < ConnState::Connected && s.pdsk > DiskState::Outdated
    };
    if ctx.fencing == Fencing::ResourceAndStonith && unfenced(s) && !unfenced(old) {
        s.susp_fen = true;
    }
}

fn suspend_without_data(old: &VolumeState, s: &mut VolumeState, ctx: &Context) {
    let no_data = |s: &VolumeState| {
        s.role == Role::Primary && s.disk < DiskState::UpToDate && s.pdsk < DiskState::UpToDate
    };
    if ctx.on_no_data == OnNoData::SuspendIo && no_data(s) && !no_data(old) {
        s.susp_nod = true;
    }
}

fn pause_or_continue(s: &mut VolumeState) {
    s.conn = match (s.any_isp(), s.conn) {
        (true, ConnState::SyncSource) => ConnState::PausedSyncS,
        (true, ConnState::SyncTarget) => ConnState::PausedSyncT,
        (false, ConnState::PausedSyncS) => ConnState::SyncSource,
        (false, ConnState::PausedSyncT) => ConnState::SyncTarget,
        (_, conn) => conn,
    };
}

/// Lowest and highest disk states that go with a connection state (drbd-states 6, step 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DiskLimits {
    disk: (DiskState, DiskState),
    pdsk: (DiskState, DiskState),
}

impl DiskLimits {
    const fn of(conn: ConnState) -> DiskLimits {
        use ConnState as C;
        use DiskState::{Consistent, DUnknown, Diskless, Inconsistent, Outdated, UpToDate};
        let (disk, pdsk) = match conn {
            C::WFBitMapT | C::PausedSyncT | C::StartingSyncT | C::WFSyncUUID | C::Behind => {
                ((Inconsistent, Outdated), (UpToDate, UpToDate))
            }
            C::SyncTarget => ((Inconsistent, Inconsistent), (UpToDate, UpToDate)),
            C::WFBitMapS | C::PausedSyncS | C::StartingSyncS | C::Ahead => {
                ((UpToDate, UpToDate), (Inconsistent, Consistent))
            }
            C::SyncSource => ((UpToDate, UpToDate), (Inconsistent, Inconsistent)),
            C::VerifyS | C::VerifyT => ((UpToDate, UpToDate), (UpToDate, UpToDate)),
            C::Connected => ((Diskless, UpToDate), (Diskless, UpToDate)),
            C::StandAlone
            | C::Disconnecting
            | C::Unconnected
            | C::Timeout
            | C::BrokenPipe
            | C::NetworkFailure
            | C::ProtocolError
            | C::TearDown
            | C::WFConnection
            | C::WFReportParams => ((Diskless, UpToDate), (Inconsistent, DUnknown)),
        };
        DiskLimits { disk, pdsk }
    }
}

impl Warning {
    /// Every warning, in the order of the steps.
    pub const ALL: [Warning; 5] = [
        Warning::VerifyAborted,
        Warning::ResyncAborted,
        Warning::LostWhileNegotiating,
        Warning::DiskUpgraded,
        Warning::PeerDiskUpgraded,
    ];

    /// The log text.
    pub const fn text(self) -> &'static str {
        match self {
            Warning::VerifyAborted => "Online-verify aborted.",
            Warning::ResyncAborted => "Resync aborted.",
            Warning::LostWhileNegotiating => "Connection lost while negotiating, no data!",
            Warning::DiskUpgraded => "Implicitly upgraded disk",
            Warning::PeerDiskUpgraded => "Implicitly upgraded pdsk",
        }
    }
}

impl Warnings {
    /// No warning.
    pub const NONE: Warnings = Warnings(0);

    /// Whether `w` is among them.
    pub const fn contains(self, w: Warning) -> bool {
        self.0 & w as u8 != 0
    }

    /// There is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The warnings in the order of the steps that gave them.
    pub fn iter(self) -> impl Iterator<Item = Warning> {
        Warning::ALL.into_iter().filter(move |w| self.contains(*w))
    }

    fn add(&mut self, w: Warning) {
        self.0 |= w as u8;
    }
}

impl fmt::Debug for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
