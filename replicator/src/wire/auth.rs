//! Authentication packets (drbd-wire 3.3).

use super::WireError;
use alloc::vec::Vec;

/// Length of a challenge that we send, in bytes, and the shortest that is accepted.
pub const CHALLENGE_BYTES: usize = 64;
/// Longest challenge that is accepted, in bytes.
pub const CHALLENGE_BYTES_MAX: usize = 128;
/// Longest response of any algorithm, in bytes.
pub const MAC_BYTES_MAX: usize = 64;

/// P_AUTH_CHALLENGE: random bytes, 64..=128.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AuthChallenge<'a>(pub &'a [u8]);

impl<'a> AuthChallenge<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!((CHALLENGE_BYTES..=CHALLENGE_BYTES_MAX).contains(&self.0.len()));
        out.extend_from_slice(self.0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// A length outside 64..=128.
    pub fn decode(body: &'a [u8]) -> Result<AuthChallenge<'a>, WireError> {
        if !(CHALLENGE_BYTES..=CHALLENGE_BYTES_MAX).contains(&body.len()) {
            return Err(WireError::Body { layout: "challenge", len: body.len() });
        }
        Ok(AuthChallenge(body))
    }
}

/// P_AUTH_RESPONSE: keyed hash of the challenge, at most 64 bytes. Its length must be compared with that of
/// the configured algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AuthResponse<'a>(pub &'a [u8]);

impl<'a> AuthResponse<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.0.len() <= MAC_BYTES_MAX);
        out.extend_from_slice(self.0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// More than 64 bytes.
    pub fn decode(body: &'a [u8]) -> Result<AuthResponse<'a>, WireError> {
        if body.len() > MAC_BYTES_MAX {
            return Err(WireError::Body { layout: "response", len: body.len() });
        }
        Ok(AuthResponse(body))
    }
}
