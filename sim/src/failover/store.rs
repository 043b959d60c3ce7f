//! The lease store: one register on a third machine, reached by each node over a way of its own.

use failover::lease::machine::{StoreAnswer, StoreOp};
use failover::lease::record::Record;
use failover::lease::register::Register;

/// The register.
#[derive(Default, Debug)]
pub struct Store(Register);

impl Store {
    /// Carries out one operation.
    pub fn carry_out(&mut self, op: &StoreOp) -> StoreAnswer {
        self.0.carry_out(op)
    }

    /// Somebody writes that both copies may be the newest.
    pub fn let_both_count(&mut self) {
        let record = self.0.value.as_ref().and_then(|(bytes, _)| Record::decode(bytes).ok());
        if let Some(record) = record {
            let current = vec!["alpha".to_owned(), "beta".to_owned()];
            self.0.write(Record { current, ..record }.encode());
        }
    }

    /// The record says that both copies may be the newest.
    pub fn both_count(&self) -> bool {
        let record = self.0.value.as_ref().and_then(|(bytes, _)| Record::decode(bytes).ok());
        record.is_some_and(|r| r.is_current("alpha") && r.is_current("beta"))
    }

    /// All its data is gone.
    pub fn lose_data(&mut self) {
        self.0.value = None;
    }

    /// What is stored, as text.
    pub fn text(&self) -> String {
        self.0.value.as_ref().map_or("nothing".into(), |(v, _)| String::from_utf8_lossy(v).into_owned())
    }
}
