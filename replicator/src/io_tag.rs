//! Keys of disk and metadata operations: what kind of operation, which slot, which generation of the slot.

use crate::event::IoTag;

/// What an operation belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum IoKind {
    AppWrite = 1,
    AppRead = 2,
    AppFlush = 3,
    PeerWrite = 4,
    PeerRead = 5,
    RsRead = 6,
    RsWrite = 7,
    EpochFlush = 8,
    SuperBlock = 9,
    AlBlock = 10,
    BitmapPage = 11,
    /// Flush before a resync is declared over.
    RsFlush = 12,
    /// Flush before cleared bits of a sync target are written.
    BitmapFlush = 13,
    /// Verify: a block that the peer asked the digest of.
    OvRead = 14,
    /// Verify: the own block that belongs to a digest of the peer.
    OvOwnRead = 15,
    /// Resync: the target's own block, for its digest.
    RsDigest = 16,
    /// Any block written while the metadata moves.
    MoveBlock = 17,
}

impl IoKind {
    fn from_number(n: u8) -> Option<IoKind> {
        Some(match n {
            1 => IoKind::AppWrite,
            2 => IoKind::AppRead,
            3 => IoKind::AppFlush,
            4 => IoKind::PeerWrite,
            5 => IoKind::PeerRead,
            6 => IoKind::RsRead,
            7 => IoKind::RsWrite,
            8 => IoKind::EpochFlush,
            9 => IoKind::SuperBlock,
            10 => IoKind::AlBlock,
            11 => IoKind::BitmapPage,
            12 => IoKind::RsFlush,
            13 => IoKind::BitmapFlush,
            14 => IoKind::OvRead,
            15 => IoKind::OvOwnRead,
            16 => IoKind::RsDigest,
            17 => IoKind::MoveBlock,
            _ => return None,
        })
    }
}

/// Kind in the top byte, 24 bits of generation, 32 bits of slot.
pub(crate) fn pack(kind: IoKind, slot: u32, gen_: u32) -> IoTag {
    IoTag((kind as u64) << 56 | u64::from(gen_ & 0xff_ffff) << 32 | u64::from(slot))
}

/// The parts of a key; None for a key the core never made.
pub(crate) fn unpack(tag: IoTag) -> Option<(IoKind, u32, u32)> {
    Some((IoKind::from_number((tag.0 >> 56) as u8)?, tag.0 as u32, (tag.0 >> 32) as u32 & 0xff_ffff))
}

/// Slot of a flush: the volume, and which life of its disk it belongs to.
pub(crate) fn flush_slot(v: usize, data_epoch: u32) -> u32 {
    (data_epoch & 0xff_ffff) << 8 | v as u32
}

/// The parts of such a slot.
pub(crate) fn flush_target(slot: u32) -> (usize, u32) {
    ((slot & 0xff) as usize, slot >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip() {
        let t = pack(IoKind::RsWrite, 0xdead_beef, 0x12_3456);
        assert_eq!(unpack(t), Some((IoKind::RsWrite, 0xdead_beef, 0x12_3456)));
        assert_eq!(unpack(IoTag(0)), None);
        assert_eq!(flush_target(flush_slot(63, 0xff_fffe)), (63, 0xff_fffe));
    }
}
