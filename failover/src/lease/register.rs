//! The store as simulations have it: one register in memory.

use super::machine::{StoreAnswer, StoreOp, Stored};
use super::store::Expect;

/// What a lease is kept in, and how often it was changed.
#[derive(Clone, Default, Debug)]
pub struct Register {
    /// What is there.
    pub value: Stored,
    /// Of the last change.
    pub revision: i64,
}

impl Register {
    /// Carries out one operation.
    pub fn carry_out(&mut self, op: &StoreOp) -> StoreAnswer {
        let StoreOp::Swap { expected, value } = op else { return StoreAnswer::Value(self.value.clone()) };
        let found = match (&self.value, expected) {
            (None, Expect::Absent) => true,
            (Some((_, revision)), Expect::Revision(expected)) => revision == expected,
            (Some((found, at)), Expect::Value { revision, value }) => found == value && at == revision,
            _ => false,
        };
        if !found {
            return StoreAnswer::Conflict(self.value.clone());
        }
        self.write(value.clone());
        StoreAnswer::Swapped(self.revision)
    }

    /// Somebody writes it without asking what is there.
    pub fn write(&mut self, value: Vec<u8>) {
        self.revision += 1;
        self.value = Some((value, self.revision));
    }
}
