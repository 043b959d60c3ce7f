//! THE state model: roles, connection states and disk states under the names and numbers that users of DRBD
//! know (drbd-states 1, drbd-wire 9.2). Replication and failover use these same types.

use crate::word_enum::word_enum;

word_enum! {
    /// Role of a node for a resource (of a virtual address for failover).
    Role {
        /// Not connected to that node.
        Unknown = 0 => "Unknown",
        /// May be written.
        Primary = 1 => "Primary",
        /// Receives.
        Secondary = 2 => "Secondary",
    }
}

word_enum! {
    /// Connection and replication state; rules compare with `<` and `>`, so the order matters.
    ConnState {
        /// No network configuration, no attempts.
        StandAlone = 0 => "StandAlone",
        /// Going to StandAlone.
        Disconnecting = 1 => "Disconnecting",
        /// About to connect.
        Unconnected = 2 => "Unconnected",
        /// Lost: a request or a send timed out.
        Timeout = 3 => "Timeout",
        /// Lost: the data socket was closed or failed.
        BrokenPipe = 4 => "BrokenPipe",
        /// Lost: meta socket error or unanswered ping.
        NetworkFailure = 5 => "NetworkFailure",
        /// Lost: unexpected packet.
        ProtocolError = 6 => "ProtocolError",
        /// The peer disconnects gracefully.
        TearDown = 7 => "TearDown",
        /// Listening and connecting.
        WFConnection = 8 => "WFConnection",
        /// Sockets up, parameters being exchanged.
        WFReportParams = 9 => "WFReportParams",
        /// Established, nothing else going on.
        Connected = 10 => "Connected",
        /// Full sync by command, will be source.
        StartingSyncS = 11 => "StartingSyncS",
        /// Full sync by command, will be target.
        StartingSyncT = 12 => "StartingSyncT",
        /// Bitmap exchange, will be source.
        WFBitMapS = 13 => "WFBitMapS",
        /// Bitmap exchange, will be target.
        WFBitMapT = 14 => "WFBitMapT",
        /// Target, waits for the sync UUID.
        WFSyncUUID = 15 => "WFSyncUUID",
        /// Resync running, source.
        SyncSource = 16 => "SyncSource",
        /// Resync running, target.
        SyncTarget = 17 => "SyncTarget",
        /// Online verify, requester.
        VerifyS = 18 => "VerifyS",
        /// Online verify, answering side.
        VerifyT = 19 => "VerifyT",
        /// Resync paused, source.
        PausedSyncS = 20 => "PausedSyncS",
        /// Resync paused, target.
        PausedSyncT = 21 => "PausedSyncT",
        /// Congested: writes are only marked.
        Ahead = 22 => "Ahead",
        /// The peer is Ahead.
        Behind = 23 => "Behind",
    }
}

word_enum! {
    /// State of a disk (of the content of a service for failover).
    DiskState {
        /// No disk attached.
        Diskless = 0 => "Diskless",
        /// Metadata being read.
        Attaching = 1 => "Attaching",
        /// Detach in progress.
        Failed = 2 => "Failed",
        /// Attached while connected, waits for the handshake.
        Negotiating = 3 => "Negotiating",
        /// Not usable as a whole.
        Inconsistent = 4 => "Inconsistent",
        /// Consistent, known to be old.
        Outdated = 5 => "Outdated",
        /// The peer's disk while not connected.
        DUnknown = 6 => "DUnknown",
        /// Consistent; current or old is not known.
        Consistent = 7 => "Consistent",
        /// Current data.
        UpToDate = 8 => "UpToDate",
    }
}

impl ConnState {
    /// One of the transient states after a loss (Timeout..=TearDown).
    pub const fn is_failure(self) -> bool {
        let n = self as u8;
        n >= ConnState::Timeout as u8 && n <= ConnState::TearDown as u8
    }

    /// A resync is running or paused, in either direction.
    pub const fn is_resync(self) -> bool {
        matches!(
            self,
            ConnState::SyncSource | ConnState::SyncTarget | ConnState::PausedSyncS | ConnState::PausedSyncT
        )
    }

    /// What `status` and events print for the connection: WFConnection is `Connecting`, everything from
    /// WFReportParams on is `Connected` (drbd-admin 4.7).
    pub const fn connection_word(self) -> &'static str {
        match self {
            ConnState::WFConnection => "Connecting",
            s if s as u8 >= ConnState::WFReportParams as u8 => "Connected",
            s => s.name(),
        }
    }

    /// What `status` and events print for the replication (drbd-admin 4.7).
    pub const fn replication_word(self) -> &'static str {
        match self {
            s if (s as u8) < ConnState::Connected as u8 => "Off",
            ConnState::Connected => "Established",
            s => s.name(),
        }
    }
}

/// The state of one volume; the three suspend flags belong to the resource and are copied here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VolumeState {
    /// Own role.
    pub role: Role,
    /// The peer's role.
    pub peer: Role,
    /// Connection and replication.
    pub conn: ConnState,
    /// Own disk.
    pub disk: DiskState,
    /// The peer's disk.
    pub pdsk: DiskState,
    /// I/O suspended by the administrator.
    pub susp: bool,
    /// Resync paused by a resync-after dependency.
    pub aftr_isp: bool,
    /// Resync paused by the peer.
    pub peer_isp: bool,
    /// Resync paused by the administrator here.
    pub user_isp: bool,
    /// I/O suspended: no data accessible.
    pub susp_nod: bool,
    /// I/O suspended: the peer has to be fenced first.
    pub susp_fen: bool,
}

impl VolumeState {
    /// State of a volume that was just created (drbd-states 1).
    pub const INITIAL: VolumeState = VolumeState {
        role: Role::Secondary,
        peer: Role::Unknown,
        conn: ConnState::StandAlone,
        disk: DiskState::Diskless,
        pdsk: DiskState::DUnknown,
        susp: false,
        aftr_isp: false,
        peer_isp: false,
        user_isp: false,
        susp_nod: false,
        susp_fen: false,
    };

    /// Any of the three pause flags.
    pub const fn any_isp(&self) -> bool {
        self.aftr_isp || self.peer_isp || self.user_isp
    }

    /// Any of the three suspend flags.
    pub const fn any_susp(&self) -> bool {
        self.susp || self.susp_nod || self.susp_fen
    }

    /// Printed as `Unconfigured`: StandAlone and Diskless (and Secondary).
    pub fn is_unconfigured(&self) -> bool {
        self.conn == ConnState::StandAlone && self.disk == DiskState::Diskless && self.role == Role::Secondary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for c in ConnState::ALL {
            assert_eq!(ConnState::from_number(u32::from(c.number())), Some(*c));
            assert_eq!(ConnState::from_name(c.name()), Some(*c));
        }
        assert_eq!(ConnState::ALL.len(), 24);
        assert_eq!(DiskState::ALL.len(), 9);
        assert_eq!(DiskState::from_number(9), None);
        assert_eq!(Role::from_number(3), None);
    }

    #[test]
    fn order_is_by_number() {
        assert!(DiskState::Outdated < DiskState::DUnknown && DiskState::DUnknown < DiskState::Consistent);
        assert!(ConnState::WFReportParams < ConnState::Connected);
    }
}
