//! A peer's request, seen from here (drbd-wire 9.5, drbd-states 8).

use model::state::{ConnState, DiskState, VolumeState};
use model::state_word::{StateChange, mask};

const ROLE_SHIFT: u32 = 2;
const CONN_SHIFT: u32 = 4;
const DISK_SHIFT: u32 = 4;
const DISK_POSITION: u32 = 9;
const CONN_MASK_VALUE: u32 = 31;

/// The request `change` of the peer, in its own words, as a change of the state here: role and disk fields
/// change sides, the connection state becomes its counterpart, a pause there is a pause by the peer here.
/// Value bits outside of the mask are dropped; whether the result is a state is for `evaluate` to find out.
pub fn translate(change: StateChange) -> StateChange {
    let m = swap_sides(change.mask);
    let v = swap_sides(change.value & change.mask);
    StateChange { mask: m, value: v & m }
}

/// What of a translated request applies to a volume in state `old`: a peer that outdates this node on its way
/// out does not touch a disk that is worse than Outdated anyway (drbd-states 5).
pub fn for_volume(change: StateChange, old: &VolumeState) -> StateChange {
    let asks_outdate = change.mask & mask::DISK == mask::DISK
        && change.value & mask::DISK == (DiskState::Outdated as u32) << DISK_POSITION;
    if asks_outdate && old.disk < DiskState::Outdated {
        return StateChange { mask: change.mask & !mask::DISK, value: change.value & !mask::DISK };
    }
    change
}

/// Whether a translated request asks only for what peers ask for: their role, either pdsk, the connection, and
/// of this node's own disk nothing but to become Outdated. Anything else would let a peer declare our data
/// good, and is to be refused. The connection of all volumes (`is_of_all`) can only be torn down, that of one volume
/// cannot, and neither ends in a state in which nobody closes the sockets.
pub fn is_customary(change: StateChange, is_of_all: bool) -> bool {
    const ASKED: u32 = mask::PEER | mask::CONN | mask::DISK | mask::PDSK;
    const OF_ONE: [ConnState; 5] = [
        ConnState::WFReportParams,
        ConnState::Connected,
        ConnState::StartingSyncS,
        ConnState::StartingSyncT,
        ConnState::VerifyT,
    ];
    let asks_for = |c: ConnState| change.value & mask::CONN == (c as u32) << CONN_SHIFT;
    let connection = match change.mask & mask::CONN {
        0 => !is_of_all,
        mask::CONN if is_of_all => asks_for(ConnState::TearDown),
        mask::CONN => OF_ONE.into_iter().any(asks_for),
        _ => false,
    };
    let disk_untouched = change.mask & mask::DISK == 0;
    let outdates_disk = change.mask & mask::DISK == mask::DISK
        && change.value & mask::DISK == (DiskState::Outdated as u32) << DISK_POSITION;
    change.mask & !ASKED == 0 && (disk_untouched || outdates_disk) && connection
}

fn swap_sides(word: u32) -> u32 {
    const MOVED: u32 =
        mask::ROLE | mask::PEER | mask::CONN | mask::DISK | mask::PDSK | mask::PEER_ISP | PAUSED_THERE;
    const PAUSED_THERE: u32 = mask::AFTR_ISP | mask::USER_ISP;
    let mut out = word & !MOVED | word & PAUSED_THERE;
    out |= (word & mask::ROLE) << ROLE_SHIFT | (word & mask::PEER) >> ROLE_SHIFT;
    out |= (word & mask::DISK) << DISK_SHIFT | (word & mask::PDSK) >> DISK_SHIFT;
    out |= counterpart((word & mask::CONN) >> CONN_SHIFT) << CONN_SHIFT;
    if word & PAUSED_THERE != 0 {
        out |= mask::PEER_ISP;
    }
    out
}

fn counterpart(conn_number: u32) -> u32 {
    use ConnState as C;
    const PAIRS: &[(ConnState, ConnState)] = &[
        (C::WFReportParams, C::WFReportParams),
        (C::Connected, C::Connected),
        (C::StartingSyncS, C::StartingSyncT),
        (C::StartingSyncT, C::StartingSyncS),
        (C::Disconnecting, C::TearDown),
        (C::VerifyS, C::VerifyT),
    ];
    if conn_number == CONN_MASK_VALUE {
        return CONN_MASK_VALUE;
    }
    let pair = PAIRS.iter().find(|(theirs, _)| *theirs as u32 == conn_number);
    pair.map_or(C::StandAlone, |(_, ours)| *ours) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::state::Role;

    const NONE: StateChange = StateChange::NONE;

    #[test]
    fn usual_requests_arrive_as_their_mirror_image() {
        use ConnState as C;
        let cases = [
            (NONE.role(Role::Primary), NONE.peer(Role::Primary)),
            (
                NONE.role(Role::Primary).disk(DiskState::UpToDate),
                NONE.peer(Role::Primary).pdsk(DiskState::UpToDate),
            ),
            (NONE.disk(DiskState::Failed), NONE.pdsk(DiskState::Failed)),
            (NONE.conn(C::StartingSyncT), NONE.conn(C::StartingSyncS)),
            (NONE.conn(C::StartingSyncS), NONE.conn(C::StartingSyncT)),
            (NONE.conn(C::VerifyS), NONE.conn(C::VerifyT)),
            (NONE.conn(C::Disconnecting), NONE.conn(C::TearDown)),
            (
                NONE.conn(C::Disconnecting).pdsk(DiskState::Outdated),
                NONE.conn(C::TearDown).disk(DiskState::Outdated),
            ),
            (
                NONE.conn(C::Disconnecting).disk(DiskState::Outdated),
                NONE.conn(C::TearDown).pdsk(DiskState::Outdated),
            ),
            (NONE.conn(C::WFReportParams), NONE.conn(C::WFReportParams)),
            (NONE.conn(C::Connected), NONE.conn(C::Connected)),
        ];
        for (sent, arrives) in cases {
            assert_eq!(translate(sent), arrives);
            let is_of_all = arrives.value & mask::CONN == (C::TearDown as u32) << CONN_SHIFT;
            assert!(is_customary(translate(sent), is_of_all), "{sent:?}");
            assert!(!is_customary(translate(sent), !is_of_all), "{sent:?}");
        }
    }

    #[test]
    fn any_other_connection_state_becomes_standalone() {
        use ConnState as C;
        for c in C::ALL {
            let got = translate(NONE.conn(*c)).value >> 4 & 31;
            let kept = [C::WFReportParams, C::Connected, C::StartingSyncS, C::StartingSyncT, C::VerifyS];
            if !kept.contains(c) && *c != C::Disconnecting {
                assert_eq!(got, C::StandAlone as u32, "{c}");
                // Its sockets would stay open, and the next `connect` find them.
                let asked = translate(NONE.conn(*c));
                assert!(!is_customary(asked, true) && !is_customary(asked, false), "{c}");
            }
        }
        for n in 24..31 {
            assert_eq!(translate(NONE.field(mask::CONN, n << 4)).value, 0);
        }
        assert_eq!(translate(NONE.field(mask::CONN, mask::CONN)).value, mask::CONN);
    }

    #[test]
    fn a_pause_there_is_a_pause_by_the_peer_here() {
        for bit in [mask::AFTR_ISP, mask::USER_ISP] {
            let got = translate(NONE.flag(bit, true));
            assert_eq!(got.mask & mask::PEER_ISP, mask::PEER_ISP);
            assert_eq!(got.value & mask::PEER_ISP, mask::PEER_ISP);
        }
        assert_eq!(translate(NONE.flag(mask::PEER_ISP, true)), NONE);
    }

    #[test]
    fn value_bits_outside_of_the_mask_are_dropped() {
        let got = translate(StateChange { mask: mask::ROLE, value: u32::MAX });
        assert_eq!(got, StateChange { mask: mask::PEER, value: mask::PEER });
    }

    #[test]
    fn a_peer_may_outdate_this_disk_and_nothing_else() {
        for d in DiskState::ALL {
            assert_eq!(is_customary(translate(NONE.pdsk(*d)), false), *d == DiskState::Outdated, "{d}");
        }
        assert!(!is_customary(translate(NONE.peer(Role::Primary)), false));
        assert!(!is_customary(translate(NONE.flag(mask::SUSP, false)), false));
    }

    #[test]
    fn outdating_leaves_worse_disks_alone() {
        let bye = translate(NONE.conn(ConnState::Disconnecting).pdsk(DiskState::Outdated));
        for d in DiskState::ALL {
            let old = VolumeState { disk: *d, ..VolumeState::INITIAL };
            let touches_disk = for_volume(bye, &old).mask & mask::DISK != 0;
            assert_eq!(touches_disk, *d >= DiskState::Outdated, "{d}");
            assert_eq!(for_volume(bye, &old).mask & mask::CONN, mask::CONN);
        }
    }
}
