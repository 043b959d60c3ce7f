//! Version and feature negotiation: layout FEAT (drbd-wire 2.4, 3.2).

use super::WireError;
use super::fields::{be32, exact, put32};
use alloc::vec::Vec;

/// Lowest protocol version that is offered. The layouts here are those of version 100 and later.
pub const PROTOCOL_VERSION_MIN: u32 = 100;
/// Highest protocol version that is offered.
pub const PROTOCOL_VERSION_MAX: u32 = 101;

/// Feature flags, offered or agreed. Unknown bits are kept; they disappear when both sides' words are ANDed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features(pub u32);

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);
    /// P_TRIM exists.
    pub const TRIM: Features = Features(0x1);
    /// P_RS_THIN_REQ and P_RS_DEALLOCATED may be used.
    pub const THIN_RESYNC: Features = Features(0x2);
    /// P_SIZES has its extension; ranges up to 128 MiB; UUID rule 41.
    pub const WSAME: Features = Features(0x4);
    /// P_ZEROES exists; P_TRIM means discard, not zero.
    pub const WZEROES: Features = Features(0x8);
    /// What a peer of version 101 offers.
    pub const ALL: Features = Features(0xf);

    /// All features of `other` are in here.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// What both sides have.
    pub const fn and(self, other: Features) -> Features {
        Features(self.0 & other.0)
    }
}

/// P_CONNECTION_FEATURES.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ConnectionFeatures {
    /// Lowest supported version.
    pub version_min: u32,
    /// Offered features.
    pub features: Features,
    /// Highest supported version; 0 means the lowest.
    pub version_max: u32,
}

impl ConnectionFeatures {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, self.version_min);
        put32(out, self.features.0);
        put32(out, self.version_max);
        out.extend_from_slice(&[0; 60]);
    }

    /// Reads a body; the reserved bytes are not looked at.
    ///
    /// # Errors
    /// Any length but 72.
    pub fn decode(body: &[u8]) -> Result<ConnectionFeatures, WireError> {
        let b = exact::<72>("FEAT", body)?;
        Ok(ConnectionFeatures {
            version_min: be32(b, 0),
            features: Features(be32(b, 4)),
            version_max: be32(b, 8),
        })
    }
}
