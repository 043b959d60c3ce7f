//! What a received state packet means, before anything is changed (drbd-wire 3.7).

use model::state::{ConnState, DiskState, Role, VolumeState};

/// UUID flag: the sender's disk is really Inconsistent.
pub const FLAG_INCONSISTENT: u64 = 0x4;

/// What the meaning depends on, besides the two states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Circumstances {
    /// Flags of the peer's UUIDs packet on this connection; None if there was none.
    pub peer_uuid_flags: Option<u64>,
    /// A resync is due because a peer was forced Primary; see [`forced_primary`].
    pub resync_noted: bool,
    /// Bits set in the own bitmap.
    pub dirty_bits: u64,
    /// Blocks that failed in the running resync.
    pub failed_bits: u64,
    /// The target has taken part in the running resync: it asked for a block, or needed none.
    pub target_was_there: bool,
}

/// What to do with a state packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conclusion {
    /// The connection is going down already; drop it.
    ConnectionFailing,
    /// The packet says what no peer says; drop the connection as a protocol error.
    Nonsense(Nonsense),
    /// The peer's resync is finished, and so is ours: finish it; the packet has no other effect.
    FinishResync,
    /// The target has given up the blocks that failed, or a write failed there when it was finished: it ends without being
    /// UpToDate. What is marked stays marked.
    TargetGaveUp,
    /// The peer's resync is finished, but bits are left here: the packet has no effect. Finish as soon as the
    /// bits are gone (drbd-wire, trap 35).
    ResyncLeftovers,
    /// The verify is finished; the packet has no other effect.
    FinishVerify,
    /// Go on.
    Proceed(Proceed),
}

/// A state packet that is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Proceed {
    /// The peer's disk to assume.
    pub peer_disk: DiskState,
    /// The peer was Negotiating: log `real peer disk state = ...`.
    pub was_negotiating: bool,
    /// Connection state to go to, unless a handshake decision changes it.
    pub conn: ConnState,
    /// The peer's role.
    pub peer_role: Role,
    /// The peer has paused the resync.
    pub peer_isp: bool,
    /// Take the handshake decision first.
    pub consider_resync: bool,
}

/// Why a state packet is no state of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nonsense {
    /// Role Unknown, or a disk that is DUnknown.
    ImpossibleState,
    /// Negotiating without having sent UUIDs.
    NegotiatingWithoutUuids,
    /// Ahead, as this node is.
    BothAhead,
}

/// Steps 1 to 7 of drbd-wire 3.7, without taking the handshake decision. `own` is the state of the volume,
/// `received` the decoded word of the packet.
pub fn conclude(own: &VolumeState, received: &VolumeState, c: &Circumstances) -> Conclusion {
    if own.conn.is_failure() {
        return Conclusion::ConnectionFailing; // step 2
    }
    if received.role == Role::Unknown || received.disk == DiskState::DUnknown {
        return Conclusion::Nonsense(Nonsense::ImpossibleState);
    }
    if own.conn == ConnState::Ahead && received.conn == ConnState::Ahead {
        return Conclusion::Nonsense(Nonsense::BothAhead);
    }
    let Some(mut peer_disk) = effective_disk(received.disk, c.peer_uuid_flags) else {
        return Conclusion::Nonsense(Nonsense::NegotiatingWithoutUuids);
    };
    if i_am_source_for_stale_peer(own) && peer_disk == DiskState::UpToDate {
        // step 3
        if received.conn > ConnState::Connected && received.conn < ConnState::SyncSource {
            peer_disk = DiskState::Inconsistent;
        } else if own.conn >= ConnState::SyncSource
            && own.conn < ConnState::Ahead
            && received.conn == ConnState::Connected
        {
            let done = c.dirty_bits <= c.failed_bits;
            return if done { Conclusion::FinishResync } else { Conclusion::ResyncLeftovers };
        }
    }
    let source = matches!(own.conn, ConnState::SyncSource | ConnState::PausedSyncS);
    if source
        && (c.failed_bits > 0 || c.target_was_there)
        && (received.conn, peer_disk) == (ConnState::Connected, DiskState::Inconsistent)
    {
        return Conclusion::TargetGaveUp;
    }
    let both_good = own.disk == DiskState::UpToDate && peer_disk == DiskState::UpToDate;
    if own.conn == ConnState::VerifyT && received.conn == ConnState::Connected && both_good {
        return Conclusion::FinishVerify; // step 4
    }
    if own.pdsk == DiskState::UpToDate
        && peer_disk == DiskState::Inconsistent
        && own.conn == ConnState::Connected
        && received.conn > ConnState::SyncSource
    {
        peer_disk = DiskState::UpToDate; // step 5
    }
    if own.disk < DiskState::Negotiating && becomes_target(received.conn) {
        // Until its resync begins it says Outdated, which would pass for UpToDate here, where there is no resync any more for
        // lack of a disk. When it hears of that it will be Inconsistent.
        peer_disk = peer_disk.min(DiskState::Inconsistent);
    }
    // It went ahead of the disk that was here before, and has not heard that this one is new.
    let from_before_attach = own.conn >= ConnState::Connected
        && own.disk == DiskState::Negotiating
        && received.conn == ConnState::Ahead;
    Conclusion::Proceed(Proceed {
        peer_disk,
        was_negotiating: received.disk == DiskState::Negotiating,
        conn: if from_before_attach { own.conn } else { next_conn(own.conn, received.conn) },
        peer_role: received.role,
        peer_isp: received.aftr_isp || received.user_isp,
        consider_resync: !from_before_attach && consider_resync(own, received, c),
    })
}

/// Step 1: the disk state to assume for the peer; None for Negotiating without UUIDs.
pub fn effective_disk(received: DiskState, peer_uuid_flags: Option<u64>) -> Option<DiskState> {
    if received != DiskState::Negotiating {
        return Some(received);
    }
    let inconsistent = peer_uuid_flags? & FLAG_INCONSISTENT != 0;
    Some(if inconsistent { DiskState::Inconsistent } else { DiskState::Consistent })
}

/// The change from `old` to `new` makes a resync due at the next state packet: both disks were Inconsistent,
/// and the peer was forced Primary (drbd-states 11.1).
pub fn forced_primary(old: &VolumeState, new: &VolumeState) -> bool {
    old.disk == DiskState::Inconsistent
        && old.pdsk == DiskState::Inconsistent
        && old.peer == Role::Secondary
        && new.peer == Role::Primary
}

/// Step 9: the peer has not noticed that a resync is due; send it UUIDs and state. `next_conn` is the
/// connection state after this packet. Anything more would make the nodes answer each other for ever.
pub fn must_answer(own_before: &VolumeState, next_conn: ConnState, received: &VolumeState) -> bool {
    own_before.conn >= ConnState::Connected
        && next_conn > ConnState::Connected
        && received.conn <= ConnState::Connected
        && received.disk != DiskState::Negotiating
}

fn i_am_source_for_stale_peer(own: &VolumeState) -> bool {
    matches!(own.pdsk, DiskState::Inconsistent | DiskState::Consistent)
        && own.conn > ConnState::Connected
        && own.disk == DiskState::UpToDate
}

fn becomes_target(conn: ConnState) -> bool {
    use ConnState as C;
    matches!(conn, C::StartingSyncT | C::WFBitMapT | C::WFSyncUUID | C::PausedSyncT | C::Behind)
}

fn next_conn(own: ConnState, received: ConnState) -> ConnState {
    match (own, received) {
        (_, ConnState::Ahead) => ConnState::Behind,
        (ConnState::WFReportParams, _) => ConnState::Connected,
        (conn, _) => conn,
    }
}

fn consider_resync(own: &VolumeState, received: &VolumeState, c: &Circumstances) -> bool {
    use ConnState as C;
    let disks = own.disk >= DiskState::Negotiating && received.disk >= DiskState::Negotiating;
    if c.peer_uuid_flags.is_none() || !disks {
        return false;
    }
    let attaching = own.disk == DiskState::Negotiating || received.disk == DiskState::Negotiating;
    let peer_starts =
        matches!(received.conn, C::StartingSyncS | C::StartingSyncT | C::WFBitMapS | C::WFBitMapT);
    own.conn < C::Connected || (own.conn == C::Connected && (attaching || peer_starts)) || c.resync_noted
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConnState as C;
    use DiskState as D;

    const CALM: Circumstances = Circumstances {
        peer_uuid_flags: Some(0),
        resync_noted: false,
        dirty_bits: 0,
        failed_bits: 0,
        target_was_there: false,
    };

    fn st(conn: C, disk: D, pdsk: D) -> VolumeState {
        VolumeState { peer: Role::Secondary, conn, disk, pdsk, ..VolumeState::INITIAL }
    }

    fn proceed(own: &VolumeState, received: &VolumeState, c: &Circumstances) -> Proceed {
        match conclude(own, received, c) {
            Conclusion::Proceed(p) => p,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fresh_connection_compares_and_becomes_connected() {
        let own = st(C::WFReportParams, D::UpToDate, D::DUnknown);
        let mut received = st(C::WFReportParams, D::Consistent, D::DUnknown);
        received.user_isp = true;
        let p = proceed(&own, &received, &CALM);
        assert_eq!(
            (p.conn, p.peer_disk, p.peer_isp, p.consider_resync),
            (C::Connected, D::Consistent, true, true)
        );
        let blind = Circumstances { peer_uuid_flags: None, ..CALM };
        assert!(!proceed(&own, &received, &blind).consider_resync);
        assert!(!proceed(&own, &st(C::WFReportParams, D::Diskless, D::DUnknown), &CALM).consider_resync);
        assert!(!proceed(&st(C::WFReportParams, D::Diskless, D::DUnknown), &received, &CALM).consider_resync);
    }

    #[test]
    fn a_failing_connection_uses_nothing() {
        for conn in &C::ALL[3..8] {
            let own = st(*conn, D::UpToDate, D::DUnknown);
            assert_eq!(conclude(&own, &own, &CALM), Conclusion::ConnectionFailing);
        }
    }

    #[test]
    fn impossible_states_are_refused() {
        let own = st(C::Connected, D::UpToDate, D::UpToDate);
        let bad = Conclusion::Nonsense(Nonsense::ImpossibleState);
        assert_eq!(conclude(&own, &st(C::Connected, D::DUnknown, D::UpToDate), &CALM), bad);
        let nobody = VolumeState { role: Role::Unknown, ..own };
        assert_eq!(conclude(&own, &nobody, &CALM), bad);
        let silent = Circumstances { peer_uuid_flags: None, ..CALM };
        let negotiating = st(C::Connected, D::Negotiating, D::UpToDate);
        let without = Conclusion::Nonsense(Nonsense::NegotiatingWithoutUuids);
        assert_eq!(conclude(&own, &negotiating, &silent), without);
    }

    #[test]
    fn a_negotiating_peer_is_what_its_flags_say() {
        let own = st(C::Connected, D::UpToDate, D::Diskless);
        let received = st(C::Connected, D::Negotiating, D::UpToDate);
        let p = proceed(&own, &received, &CALM);
        assert_eq!((p.peer_disk, p.was_negotiating, p.consider_resync), (D::Consistent, true, true));
        let p = proceed(&own, &received, &Circumstances { peer_uuid_flags: Some(6), ..CALM });
        assert_eq!(p.peer_disk, D::Inconsistent);
    }

    #[test]
    fn the_targets_last_state_packet_ends_the_resync_if_no_bits_are_left() {
        let own = st(C::SyncSource, D::UpToDate, D::Inconsistent);
        let finished = st(C::Connected, D::UpToDate, D::UpToDate);
        assert_eq!(conclude(&own, &finished, &CALM), Conclusion::FinishResync);
        let left = Circumstances { dirty_bits: 3, failed_bits: 2, ..CALM };
        assert_eq!(conclude(&own, &finished, &left), Conclusion::ResyncLeftovers);
        let failed = Circumstances { dirty_bits: 3, failed_bits: 3, ..CALM };
        assert_eq!(conclude(&own, &finished, &failed), Conclusion::FinishResync);
        // still before the resync: do not believe UpToDate yet
        for conn in [C::StartingSyncT, C::WFBitMapT, C::WFSyncUUID] {
            let p = proceed(&own, &st(conn, D::UpToDate, D::UpToDate), &left);
            assert_eq!((p.peer_disk, p.conn), (D::Inconsistent, C::SyncSource));
        }
        // waiting for the bitmap is not yet a resync that could end
        let early = st(C::WFBitMapS, D::UpToDate, D::Consistent);
        assert_eq!(proceed(&early, &finished, &CALM).peer_disk, D::UpToDate);
    }

    #[test]
    fn the_requesters_state_packet_ends_the_verify() {
        let own = st(C::VerifyT, D::UpToDate, D::UpToDate);
        assert_eq!(
            conclude(&own, &st(C::Connected, D::UpToDate, D::UpToDate), &CALM),
            Conclusion::FinishVerify
        );
        assert_eq!(proceed(&own, &st(C::VerifyS, D::UpToDate, D::UpToDate), &CALM).conn, C::VerifyT);
    }

    #[test]
    fn a_peer_that_still_thinks_it_is_target_does_not_become_inconsistent_again() {
        let own = st(C::Connected, D::UpToDate, D::UpToDate);
        let late = st(C::SyncTarget, D::Inconsistent, D::UpToDate);
        assert_eq!(proceed(&own, &late, &CALM).peer_disk, D::UpToDate);
        let real = st(C::Connected, D::Inconsistent, D::UpToDate);
        assert_eq!(proceed(&own, &real, &CALM).peer_disk, D::Inconsistent);
    }

    #[test]
    fn a_target_whose_source_has_lost_its_disk_is_not_up_to_date() {
        for disk in [D::Diskless, D::Failed, D::Attaching] {
            let own = st(C::Connected, disk, D::Inconsistent);
            for conn in [C::StartingSyncT, C::WFBitMapT, C::WFSyncUUID, C::PausedSyncT] {
                let p = proceed(&own, &st(conn, D::Outdated, D::UpToDate), &CALM);
                assert_eq!((p.peer_disk, p.conn), (D::Inconsistent, C::Connected));
            }
            assert_eq!(
                proceed(&own, &st(C::Connected, D::Outdated, D::UpToDate), &CALM).peer_disk,
                D::Outdated
            );
        }
    }

    #[test]
    fn behind_follows_ahead() {
        for conn in [C::WFReportParams, C::Connected, C::SyncTarget] {
            let own = st(conn, D::UpToDate, D::UpToDate);
            assert_eq!(proceed(&own, &st(C::Ahead, D::UpToDate, D::Consistent), &CALM).conn, C::Behind);
        }
    }

    #[test]
    fn established_connections_compare_again_only_for_a_reason() {
        let own = st(C::Connected, D::UpToDate, D::UpToDate);
        assert!(!proceed(&own, &own, &CALM).consider_resync);
        for conn in C::ALL {
            let starts = matches!(conn.number(), 11..=14);
            assert_eq!(proceed(&own, &st(*conn, D::UpToDate, D::UpToDate), &CALM).consider_resync, starts);
        }
        let attaching = st(C::Connected, D::Negotiating, D::UpToDate);
        assert!(proceed(&attaching, &own, &CALM).consider_resync);
        let noted = Circumstances { resync_noted: true, ..CALM };
        assert!(proceed(&own, &own, &noted).consider_resync);
    }

    #[test]
    fn a_forced_peer_makes_a_resync_due() {
        let old = st(C::Connected, D::Inconsistent, D::Inconsistent);
        let new = VolumeState { peer: Role::Primary, pdsk: D::UpToDate, ..old };
        assert!(forced_primary(&old, &new));
        assert!(!forced_primary(&new, &new));
        assert!(!forced_primary(&VolumeState { disk: D::UpToDate, ..old }, &new));
    }

    #[test]
    fn answers_cannot_loop() {
        let own = st(C::Connected, D::UpToDate, D::UpToDate);
        let calm = st(C::Connected, D::UpToDate, D::UpToDate);
        assert!(must_answer(&own, C::WFBitMapS, &calm));
        assert!(!must_answer(&own, C::Connected, &calm));
        assert!(!must_answer(&st(C::WFReportParams, D::UpToDate, D::DUnknown), C::WFBitMapS, &calm));
        assert!(!must_answer(&own, C::WFBitMapS, &st(C::Connected, D::Negotiating, D::UpToDate)));
        // if both nodes are past Connected, neither answers
        assert!(!must_answer(&own, C::WFBitMapS, &st(C::WFBitMapT, D::UpToDate, D::UpToDate)));
    }
}
