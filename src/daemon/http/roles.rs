//! What a node is to clients: which of their questions it answers with yes, and in which words, from the state as it was
//! published last. Nobody who asks reaches the data path.

use std::sync::Arc;

use model::state::{ConnState, DiskState, Role};
use model::status::{ResourceSnapshot, VolumeSnapshot};
use serde::Serialize;

/// Where the facts come from: what is up here, later together with the services that are tied to it.
pub trait RoleSource {
    /// One entry for each resource that is up, by name. Answers at once.
    fn roles(&self) -> Vec<RoleFacts>;
}

/// What decides about the role of one resource (failover 8.6).
#[derive(Clone, Debug)]
pub struct RoleFacts {
    /// State as published.
    pub snapshot: Arc<ResourceSnapshot>,
    /// Its thread has not ended.
    pub is_alive: bool,
    /// It is Primary, and a command is under way to end that.
    pub is_demoting: bool,
    /// The service that is tied to it, if there is one.
    pub service: Option<ServiceFacts>,
}

/// Of a service that runs on top of a resource (failover 8.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its chain is complete on this node.
    pub is_home: bool,
    /// It has passed its own check.
    pub answers: bool,
}

/// What a resource is to its clients on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its thread has ended, or it has no volumes.
    Stopped,
    /// Primary, and about to be Secondary.
    Demoting,
    /// Primary whose I/O waits.
    Suspended,
    /// Primary that reaches no good data.
    NoData,
    /// Primary whose service is not at home here.
    ServiceAway,
    /// Primary that serves.
    Serving,
    /// Secondary with good data.
    Replica,
    /// Secondary that is being brought up to date.
    Syncing,
    /// Secondary with old data, or with none.
    NotCurrent,
}

impl Standing {
    /// The word for `state`; for the two good ones it is Patroni's.
    pub const fn word(self) -> &'static str {
        match self {
            Standing::Stopped => "stopped",
            Standing::Demoting => "demoting",
            Standing::Suspended => "suspended",
            Standing::NoData => "no-data",
            Standing::ServiceAway => "service-away",
            Standing::Serving | Standing::Replica => "running",
            Standing::Syncing => "syncing",
            Standing::NotCurrent => "not-current",
        }
    }
}

/// A question that clients and proxies ask (failover 8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// May clients write here?
    Primary,
    /// Is this a copy with good data, and not the Primary's?
    Replica,
    /// Either of the two.
    ReadOnly,
    /// A copy that has every write that was answered.
    Sync,
    /// Any other good copy.
    Async,
    /// The Primary, or a copy that has every write.
    ReadOnlySync,
    /// The Primary, or any other good copy.
    ReadOnlyAsync,
    /// The leader of a standby cluster, of which there are none.
    StandbyLeader,
    /// Does it work at all?
    Health,
    /// Does it serve, or could it take over without losing anything?
    Readiness,
}

impl Question {
    /// The answer. With `lag_bytes_max` only that counts as a replica which is known not to be further behind.
    pub fn holds(self, facts: &RoleFacts, lag_bytes_max: Option<u64>) -> bool {
        let serves = facts.standing() == Standing::Serving;
        let replica = facts.standing() == Standing::Replica && is_near(facts.lag_bytes(), lag_bytes_max);
        match self {
            Question::Primary => serves,
            Question::Replica => replica,
            Question::ReadOnly => serves || replica,
            Question::Sync => replica && facts.is_synchronous(),
            Question::Async => replica && !facts.is_synchronous(),
            Question::ReadOnlySync => serves || replica && facts.is_synchronous(),
            Question::ReadOnlyAsync => serves || replica && !facts.is_synchronous(),
            Question::StandbyLeader => false,
            Question::Health => {
                facts.standing() != Standing::Stopped && facts.service.is_none_or(|s| !s.is_home || s.answers)
            }
            Question::Readiness => {
                serves || replica && is_near(facts.lag_bytes(), Some(lag_bytes_max.unwrap_or(0)))
            }
        }
    }
}

fn is_near(lag_bytes: Option<u64>, lag_bytes_max: Option<u64>) -> bool {
    lag_bytes_max.is_none_or(|max| lag_bytes.is_some_and(|lag| lag <= max))
}

impl RoleFacts {
    /// What the resource is to its clients here.
    pub fn standing(&self) -> Standing {
        let s = &self.snapshot;
        let all = |good: fn(&VolumeSnapshot) -> bool| s.volumes.iter().all(good);
        if !self.is_alive || s.volumes.is_empty() {
            return Standing::Stopped;
        }
        if s.role == Role::Primary {
            return if self.is_demoting {
                Standing::Demoting
            } else if s.suspended() {
                Standing::Suspended
            } else if !all(reaches_good_data) {
                Standing::NoData
            } else if self.service.is_some_and(|service| !service.is_home) {
                Standing::ServiceAway
            } else {
                Standing::Serving
            };
        }
        if all(|v| v.state.disk == DiskState::UpToDate) {
            Standing::Replica
        } else if all(|v| v.state.disk == DiskState::UpToDate || is_target(v.state.conn)) {
            Standing::Syncing
        } else {
            Standing::NotCurrent
        }
    }

    /// How much of the good data the own copy is known to lack; None if that is not known.
    pub fn lag_bytes(&self) -> Option<u64> {
        let volumes = &self.snapshot.volumes;
        volumes.iter().try_fold(0u64, |sum, v| Some(sum.saturating_add(volume_lag_bytes(v)?)))
    }

    /// Connected in protocol C, with nothing missing: no write is answered that is not here.
    fn is_synchronous(&self) -> bool {
        self.snapshot.protocol == Some('C') && self.lag_bytes() == Some(0)
    }

    /// What differs between the two copies, whichever of them is the good one.
    fn out_of_sync_bytes(&self) -> u64 {
        self.snapshot.volumes.iter().fold(0, |sum, v| sum.saturating_add(out_of_sync_bytes(v)))
    }
}

/// A read finds good data, on the own disk or on the peer's.
fn reaches_good_data(v: &VolumeSnapshot) -> bool {
    let by_peer = v.state.conn >= ConnState::Connected && v.state.pdsk == DiskState::UpToDate;
    v.state.disk == DiskState::UpToDate || by_peer
}

const fn is_target(conn: ConnState) -> bool {
    matches!(
        conn,
        ConnState::StartingSyncT
            | ConnState::WFBitMapT
            | ConnState::WFSyncUUID
            | ConnState::SyncTarget
            | ConnState::PausedSyncT
            | ConnState::Behind
    )
}

fn volume_lag_bytes(v: &VolumeSnapshot) -> Option<u64> {
    match v.state.conn {
        ConnState::SyncTarget | ConnState::PausedSyncT | ConnState::Behind => Some(out_of_sync_bytes(v)),
        // What a verify has found may be wrong on either side.
        ConnState::Connected | ConnState::VerifyS | ConnState::VerifyT
            if v.state.disk == DiskState::UpToDate =>
        {
            Some(out_of_sync_bytes(v))
        }
        // It is the peer that lacks what is marked.
        ConnState::StartingSyncS
        | ConnState::WFBitMapS
        | ConnState::SyncSource
        | ConnState::PausedSyncS
        | ConnState::Ahead
            if v.state.disk == DiskState::UpToDate =>
        {
            Some(0)
        }
        // The same for a Primary that goes on alone. A Secondary cannot know what its peer has done since.
        conn if conn < ConnState::Connected
            && v.state.role == Role::Primary
            && v.state.disk == DiskState::UpToDate =>
        {
            Some(0)
        }
        _ => None,
    }
}

fn out_of_sync_bytes(v: &VolumeSnapshot) -> u64 {
    v.counters.out_of_sync_kib.saturating_mul(1024)
}

/// One resource in an answer (failover 8.6, "body").
#[derive(Clone, Debug, Serialize)]
pub struct RoleBody<'a> {
    /// See [`Standing::word`].
    pub state: &'static str,
    /// `primary` or `replica`.
    pub role: &'static str,
    /// Its name.
    pub resource: &'a str,
    /// Name of this node, if known.
    pub node: Option<&'a str>,
    /// The least settled of the volumes counts.
    pub connection_state: &'static str,
    /// The worst of the volumes counts.
    pub disk_state: &'static str,
    /// The peer's role.
    pub peer_role: &'static str,
    /// The worst of the volumes counts.
    pub peer_disk_state: &'static str,
    /// I/O waits.
    pub suspended: bool,
    /// What differs between the two copies.
    pub out_of_sync_bytes: u64,
    /// What the copy of this node lacks, in bytes; null if that is not known.
    pub lag: Option<u64>,
}

impl<'a> RoleBody<'a> {
    /// What `facts` say.
    pub fn of(facts: &'a RoleFacts) -> RoleBody<'a> {
        let s = &*facts.snapshot;
        let states = || s.volumes.iter().map(|v| v.state);
        // Below that it is the same for all volumes.
        let unsettled = states().map(|v| v.conn).find(|conn| *conn != ConnState::Connected);
        let connection = match unsettled {
            Some(conn) if s.connection >= ConnState::Connected => conn,
            _ => s.connection,
        };
        RoleBody {
            state: facts.standing().word(),
            role: if s.role == Role::Primary { "primary" } else { "replica" },
            resource: &s.name,
            node: s.node_name.as_deref(),
            connection_state: connection.name(),
            disk_state: states().map(|v| v.disk).min().unwrap_or(DiskState::Diskless).name(),
            peer_role: s.peer_role.name(),
            peer_disk_state: states().map(|v| v.pdsk).min().unwrap_or(DiskState::DUnknown).name(),
            suspended: s.suspended(),
            out_of_sync_bytes: facts.out_of_sync_bytes(),
            lag: facts.lag_bytes(),
        }
    }
}
