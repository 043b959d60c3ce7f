//! Device sizes and limits: layout SIZES (drbd-wire 2.4, 3.6).

use super::WireError;
use super::fields::{be16, be32, be64, exact, put16, put32, put64, split};
use alloc::vec::Vec;

/// Flags of P_SIZES. Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DdsFlags(pub u16);

impl DdsFlags {
    /// No flag.
    pub const NONE: DdsFlags = DdsFlags(0);
    /// Resize even if the peer cannot confirm.
    pub const FORCED: DdsFlags = DdsFlags(0x1);
    /// Do not resync the new area.
    pub const NO_RESYNC: DdsFlags = DdsFlags(0x2);
    /// Between lockstep nodes, in the answer to a resize: the sender begins to bring the new part...
    pub const BEGINS: DdsFlags = DdsFlags(0x4000);
    /// ... from its own copy.
    pub const SOURCE: DdsFlags = DdsFlags(0x2000);
    /// Between lockstep nodes: the sender's device has grown, and no resync has begun since.
    pub const GROWN: DdsFlags = DdsFlags(0x8000);

    /// What a resize asks for; an answer repeats it.
    pub const fn asked_for(self) -> DdsFlags {
        DdsFlags(self.0 & (DdsFlags::FORCED.0 | DdsFlags::NO_RESYNC.0))
    }

    /// These and those.
    pub const fn with(self, other: DdsFlags) -> DdsFlags {
        DdsFlags(self.0 | other.0)
    }

    /// All flags of `other` are set.
    pub const fn contains(self, other: DdsFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The extension that comes with FF_WSAME: limits of the sender's device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct QueueLimits {
    /// Physical block size, in bytes.
    pub physical_block_bytes: u32,
    /// Logical block size, in bytes.
    pub logical_block_bytes: u32,
    /// Offset of the first naturally aligned byte.
    pub alignment_offset_bytes: u32,
    /// Minimum I/O size hint, in bytes.
    pub io_min_bytes: u32,
    /// Optimal I/O size hint, in bytes.
    pub io_opt_bytes: u32,
    /// Discard enabled.
    pub discard_enabled: bool,
    /// Discarded ranges read as zeroes.
    pub discard_zeroes_data: bool,
    /// Write-same capable.
    pub write_same_capable: bool,
}

/// P_SIZES.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Sizes {
    /// What the backing device could offer; 0 for no disk.
    pub d_size_sectors: u64,
    /// Limit set by the administrator; 0 for none.
    pub u_size_sectors: u64,
    /// Currently exported; 0 for unknown, or "please answer".
    pub c_size_sectors: u64,
    /// Largest request of the sender, in bytes; not a limit for its peer.
    pub max_bio_bytes: u32,
    /// Always 0.
    pub queue_order_type: u16,
    /// Flags.
    pub dds_flags: DdsFlags,
    /// Extension: present exactly if FF_WSAME was agreed. [`super::Packet::decode`] and [`super::frame_shape`]
    /// check that.
    pub limits: Option<QueueLimits>,
}

impl Sizes {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put64(out, self.d_size_sectors);
        put64(out, self.u_size_sectors);
        put64(out, self.c_size_sectors);
        put32(out, self.max_bio_bytes);
        put16(out, self.queue_order_type);
        put16(out, self.dds_flags.0);
        if let Some(q) = &self.limits {
            put32(out, q.physical_block_bytes);
            put32(out, q.logical_block_bytes);
            put32(out, q.alignment_offset_bytes);
            put32(out, q.io_min_bytes);
            put32(out, q.io_opt_bytes);
            for on in [q.discard_enabled, q.discard_zeroes_data, q.write_same_capable, false] {
                out.push(u8::from(on));
            }
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 32 and 56.
    pub fn decode(body: &[u8]) -> Result<Sizes, WireError> {
        let (b, extension) = split::<32>("SIZES", body)?;
        let limits = match extension {
            [] => None,
            _ => {
                let q = exact::<24>("SIZES extension", extension)?;
                Some(QueueLimits {
                    physical_block_bytes: be32(q, 0),
                    logical_block_bytes: be32(q, 4),
                    alignment_offset_bytes: be32(q, 8),
                    io_min_bytes: be32(q, 12),
                    io_opt_bytes: be32(q, 16),
                    discard_enabled: q[20] != 0,
                    discard_zeroes_data: q[21] != 0,
                    write_same_capable: q[22] != 0,
                })
            }
        };
        Ok(Sizes {
            d_size_sectors: be64(b, 0),
            u_size_sectors: be64(b, 8),
            c_size_sectors: be64(b, 16),
            max_bio_bytes: be32(b, 24),
            queue_order_type: be16(b, 28),
            dds_flags: DdsFlags(be16(b, 30)),
            limits,
        })
    }
}
