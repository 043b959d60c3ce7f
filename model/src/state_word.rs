//! The 32-bit state word: mask and value of state change requests, and the state packet (drbd-wire 9.1).

use crate::state::{ConnState, DiskState, Role, VolumeState};

/// Field masks of the state word; bit 0 is the least significant.
pub mod mask {
    /// Own role.
    pub const ROLE: u32 = 0x3;
    /// Role of the peer.
    pub const PEER: u32 = 0xc;
    /// Connection state.
    pub const CONN: u32 = 0x1f0;
    /// Own disk state.
    pub const DISK: u32 = 0x1e00;
    /// Peer's disk state.
    pub const PDSK: u32 = 0x1_e000;
    /// I/O suspended by user.
    pub const SUSP: u32 = 1 << 17;
    /// Paused by resync-after.
    pub const AFTR_ISP: u32 = 1 << 18;
    /// Paused by the peer.
    pub const PEER_ISP: u32 = 1 << 19;
    /// Paused by user.
    pub const USER_ISP: u32 = 1 << 20;
    /// Suspended, no data.
    pub const SUSP_NOD: u32 = 1 << 21;
    /// Suspended, fencing.
    pub const SUSP_FEN: u32 = 1 << 22;
}

/// A raw state word. Numbers may be outside the tables when it came from the wire; [`StateWord::decode`]
/// checks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct StateWord(pub u32);

impl StateWord {
    /// The word of a state.
    pub const fn encode(s: &VolumeState) -> StateWord {
        StateWord(
            s.role as u32
                | (s.peer as u32) << 2
                | (s.conn as u32) << 4
                | (s.disk as u32) << 9
                | (s.pdsk as u32) << 13
                | (s.susp as u32) << 17
                | (s.aftr_isp as u32) << 18
                | (s.peer_isp as u32) << 19
                | (s.user_isp as u32) << 20
                | (s.susp_nod as u32) << 21
                | (s.susp_fen as u32) << 22,
        )
    }

    /// The state of a word; None if a field holds a number outside its table.
    pub const fn decode(self) -> Option<VolumeState> {
        let w = self.0;
        let (Some(role), Some(peer), Some(conn), Some(disk), Some(pdsk)) = (
            Role::from_number(w & 3),
            Role::from_number(w >> 2 & 3),
            ConnState::from_number(w >> 4 & 31),
            DiskState::from_number(w >> 9 & 15),
            DiskState::from_number(w >> 13 & 15),
        ) else {
            return None;
        };
        Some(VolumeState {
            role,
            peer,
            conn,
            disk,
            pdsk,
            susp: w & mask::SUSP != 0,
            aftr_isp: w & mask::AFTR_ISP != 0,
            peer_isp: w & mask::PEER_ISP != 0,
            user_isp: w & mask::USER_ISP != 0,
            susp_nod: w & mask::SUSP_NOD != 0,
            susp_fen: w & mask::SUSP_FEN != 0,
        })
    }
}

/// A change: new = (old without the mask bits) or value (drbd-states 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct StateChange {
    /// Bits to replace.
    pub mask: u32,
    /// Their new values; must lie inside the mask.
    pub value: u32,
}

impl StateChange {
    /// No field.
    pub const NONE: StateChange = StateChange { mask: 0, value: 0 };

    /// Adds an own role.
    pub const fn role(self, r: Role) -> StateChange {
        self.field(mask::ROLE, r as u32)
    }
    /// Adds a peer role.
    pub const fn peer(self, r: Role) -> StateChange {
        self.field(mask::PEER, (r as u32) << 2)
    }
    /// Adds a connection state.
    pub const fn conn(self, c: ConnState) -> StateChange {
        self.field(mask::CONN, (c as u32) << 4)
    }
    /// Adds an own disk state.
    pub const fn disk(self, d: DiskState) -> StateChange {
        self.field(mask::DISK, (d as u32) << 9)
    }
    /// Adds a peer disk state.
    pub const fn pdsk(self, d: DiskState) -> StateChange {
        self.field(mask::PDSK, (d as u32) << 13)
    }
    /// Adds a single flag by its mask.
    pub const fn flag(self, bit: u32, on: bool) -> StateChange {
        self.field(bit, if on { bit } else { 0 })
    }
    /// Adds a field by mask and shifted value.
    pub const fn field(self, m: u32, v: u32) -> StateChange {
        StateChange { mask: self.mask | m, value: self.value & !m | v }
    }

    /// The new state; None if the result holds a number outside the tables.
    pub const fn apply(self, old: &VolumeState) -> Option<VolumeState> {
        StateWord(StateWord::encode(old).0 & !self.mask | self.value).decode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_specification() {
        // drbd-wire 14: Primary/Secondary Connected UpToDate/UpToDate
        let s = VolumeState {
            role: Role::Primary,
            peer: Role::Secondary,
            conn: ConnState::Connected,
            disk: DiskState::UpToDate,
            pdsk: DiskState::UpToDate,
            ..VolumeState::INITIAL
        };
        assert_eq!(StateWord::encode(&s).0, 0x0001_10a9);
        assert_eq!(StateWord(0x0001_10a9).decode(), Some(s));
        // drbd-wire 11.1
        let w = StateWord(0x0000_c882).decode().unwrap();
        assert_eq!(
            (w.conn, w.disk, w.pdsk),
            (ConnState::WFConnection, DiskState::Inconsistent, DiskState::DUnknown)
        );
    }

    #[test]
    fn requests_of_the_specification() {
        // drbd-wire 9.5
        let promote = StateChange::NONE.role(Role::Primary);
        assert_eq!((promote.mask, promote.value), (0x3, 0x1));
        let forced = promote.disk(DiskState::UpToDate);
        assert_eq!((forced.mask, forced.value), (0x1e03, 0x1001));
        let detach = StateChange::NONE.disk(DiskState::Failed);
        assert_eq!((detach.mask, detach.value), (0x1e00, 0x400));
        let bye = StateChange::NONE.conn(ConnState::Disconnecting).pdsk(DiskState::Outdated);
        assert_eq!((bye.mask, bye.value), (0x0001_e1f0, 0x0000_a010));
    }
}
