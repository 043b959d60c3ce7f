//! States and state changes: layouts STATE and CHGREQ, and the replies (drbd-wire 2.4, 9).

use super::WireError;
use super::fields::{be32, exact, put32};
use alloc::vec::Vec;
use model::state_word::{StateChange, StateWord};

/// P_STATE. The word is raw: [`StateWord::decode`] judges its fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct State(pub StateWord);

impl State {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, self.0.0);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 4.
    pub fn decode(body: &[u8]) -> Result<State, WireError> {
        Ok(State(StateWord(be32(exact::<4>("STATE", body)?, 0))))
    }
}

/// P_STATE_CHG_REQ and P_CONN_ST_CHG_REQ. Raw: the value may lie outside the mask or the tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ChangeRequest(pub StateChange);

impl ChangeRequest {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put32(out, self.0.mask);
        put32(out, self.0.value);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 8.
    pub fn decode(body: &[u8]) -> Result<ChangeRequest, WireError> {
        let b = exact::<8>("CHGREQ", body)?;
        Ok(ChangeRequest(StateChange { mask: be32(b, 0), value: be32(b, 4) }))
    }
}

/// P_STATE_CHG_REPLY and P_CONN_ST_CHG_REPLY: the result code, 1 and above for success.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ChangeReply(pub i32);

impl ChangeReply {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Any length but 4.
    pub fn decode(body: &[u8]) -> Result<ChangeReply, WireError> {
        Ok(ChangeReply(i32::from_be_bytes(*exact::<4>("change reply", body)?)))
    }
}
