//! Resync parameters and algorithm names (drbd-wire 3.5).

use super::WireError;
use super::fields::{NAME_BYTES_MAX, be32, checked_name, exact, put32, split};
use alloc::vec::Vec;

const NAME_FIELD_BYTES: usize = NAME_BYTES_MAX + 1;

/// P_SYNC_PARAM89 as versions 95 and later have it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SyncParam89<'a> {
    /// resync-rate, in KiB/s.
    pub resync_rate_kib_per_s: u32,
    /// verify-alg; empty for none. At most 63 bytes of printable ASCII.
    pub verify_alg: &'a str,
    /// csums-alg; empty for none. At most 63 bytes of printable ASCII.
    pub csums_alg: &'a str,
    /// c-plan-ahead, in 0.1 s.
    pub c_plan_ahead_ds: u32,
    /// c-delay-target, in 0.1 s.
    pub c_delay_target_ds: u32,
    /// c-fill-target, in sectors.
    pub c_fill_target_sectors: u32,
    /// c-max-rate, in KiB/s.
    pub c_max_rate_kib_per_s: u32,
}

impl<'a> SyncParam89<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, self.resync_rate_kib_per_s);
        for name in [self.verify_alg, self.csums_alg] {
            debug_assert!(name.len() <= NAME_BYTES_MAX);
            let field_end = out.len() + NAME_FIELD_BYTES;
            out.extend_from_slice(name.as_bytes());
            out.resize(field_end, 0);
        }
        put32(out, self.c_plan_ahead_ds);
        put32(out, self.c_delay_target_ds);
        put32(out, self.c_fill_target_sectors);
        put32(out, self.c_max_rate_kib_per_s);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 148; a name that is not terminated inside its field or has bytes that no name has.
    pub fn decode(body: &'a [u8]) -> Result<SyncParam89<'a>, WireError> {
        let b = exact::<148>("sync parameters", body)?;
        Ok(SyncParam89 {
            resync_rate_kib_per_s: be32(b, 0),
            verify_alg: name_field("verify-alg", &b[4..68])?,
            csums_alg: name_field("csums-alg", &b[68..132])?,
            c_plan_ahead_ds: be32(b, 132),
            c_delay_target_ds: be32(b, 136),
            c_fill_target_sectors: be32(b, 140),
            c_max_rate_kib_per_s: be32(b, 144),
        })
    }
}

/// P_SYNC_PARAM of versions up to 88: rate only, or rate and verify-alg.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SyncParam<'a> {
    /// resync-rate, in KiB/s.
    pub resync_rate_kib_per_s: u32,
    /// verify-alg with its NUL, as it came; at most 64 bytes, empty below version 88.
    pub verify_alg_raw: &'a [u8],
}

impl<'a> SyncParam<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.verify_alg_raw.len() <= NAME_FIELD_BYTES);
        put32(out, self.resync_rate_kib_per_s);
        out.extend_from_slice(self.verify_alg_raw);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Shorter than 4 or longer than 68 bytes.
    pub fn decode(body: &'a [u8]) -> Result<SyncParam<'a>, WireError> {
        let (b, verify_alg_raw) = split::<4>("old sync parameters", body)?;
        if verify_alg_raw.len() > NAME_FIELD_BYTES {
            return Err(WireError::Body { layout: "old sync parameters", len: body.len() });
        }
        Ok(SyncParam { resync_rate_kib_per_s: be32(b, 0), verify_alg_raw })
    }
}

/// The name in a padded field. What follows the first NUL is not looked at, except the last byte.
fn name_field<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, WireError> {
    debug_assert_eq!(bytes.len(), NAME_FIELD_BYTES);
    if bytes.last() != Some(&0) {
        return Err(WireError::Name(field));
    }
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(0);
    checked_name(field, &bytes[..len])
}
