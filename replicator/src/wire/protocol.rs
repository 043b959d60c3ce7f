//! Connection settings: layout PROTO (drbd-wire 2.4, 3.4).

use super::WireError;
use super::fields::{NAME_BYTES_MAX, be32, checked_name, put32, split};
use alloc::vec::Vec;

/// Flags of P_PROTOCOL. Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ProtocolFlags(pub u32);

impl ProtocolFlags {
    /// No flag.
    pub const NONE: ProtocolFlags = ProtocolFlags(0);
    /// The sender wants its data discarded.
    pub const DISCARD_MY_DATA: ProtocolFlags = ProtocolFlags(0x1);
    /// Only find out what a connection would do.
    pub const DRY_RUN: ProtocolFlags = ProtocolFlags(0x2);

    /// All flags of `other` are set.
    pub const fn contains(self, other: ProtocolFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// P_PROTOCOL and P_PROTOCOL_UPDATE. Numbers are raw: they are compared with the own settings, and a
/// difference, sensible or not, ends in StandAlone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Protocol<'a> {
    /// Replication protocol, the number of a [`model::policy::Protocol`].
    pub protocol: u32,
    /// after-sb-0pri policy by number (drbd-wire 8.8).
    pub after_sb_0p: u32,
    /// after-sb-1pri policy by number.
    pub after_sb_1p: u32,
    /// after-sb-2pri policy by number.
    pub after_sb_2p: u32,
    /// Flags.
    pub flags: ProtocolFlags,
    /// allow-two-primaries (0/1).
    pub two_primaries: u32,
    /// data-integrity-alg; empty for none. At most 63 bytes of printable ASCII.
    pub integrity_alg: &'a str,
}

impl<'a> Protocol<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.integrity_alg.len() <= NAME_BYTES_MAX);
        for v in [
            self.protocol,
            self.after_sb_0p,
            self.after_sb_1p,
            self.after_sb_2p,
            self.flags.0,
            self.two_primaries,
        ] {
            put32(out, v);
        }
        out.extend_from_slice(self.integrity_alg.as_bytes());
        out.push(0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Shorter than 25 or longer than 88 bytes; a name without its NUL, with something behind it, or with
    /// bytes that no name has.
    pub fn decode(body: &'a [u8]) -> Result<Protocol<'a>, WireError> {
        let (b, tail) = split::<24>("PROTO", body)?;
        let Some((0, name)) = tail.split_last() else {
            return Err(WireError::Name("data-integrity-alg"));
        };
        Ok(Protocol {
            protocol: be32(b, 0),
            after_sb_0p: be32(b, 4),
            after_sb_1p: be32(b, 8),
            after_sb_2p: be32(b, 12),
            flags: ProtocolFlags(be32(b, 16)),
            two_primaries: be32(b, 20),
            integrity_alg: checked_name("data-integrity-alg", name)?,
        })
    }
}
