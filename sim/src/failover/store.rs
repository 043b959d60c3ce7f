//! The lease store: one register on a third machine, reached by each node over a way of its own.

use failover::lease::machine::{Expected, StoreAnswer, StoreOp, Stored};
use failover::lease::record::Record;

/// The register.
#[derive(Default, Debug)]
pub struct Store {
    value: Stored,
    revision: i64,
}

impl Store {
    /// Carries out one operation.
    pub fn carry_out(&mut self, op: &StoreOp) -> StoreAnswer {
        let StoreOp::Swap { expected, value } = op else { return StoreAnswer::Value(self.value.clone()) };
        let found = match (&self.value, expected) {
            (None, Expected::Absent) => true,
            (Some((_, revision)), Expected::Revision(expected)) => revision == expected,
            _ => false,
        };
        if !found {
            return StoreAnswer::Conflict(self.value.clone());
        }
        self.revision += 1;
        self.value = Some((value.clone(), self.revision));
        StoreAnswer::Swapped(self.revision)
    }

    /// Somebody writes that both copies may be the newest.
    pub fn let_both_count(&mut self) {
        let record = self.value.as_ref().and_then(|(bytes, _)| Record::decode(bytes).ok());
        if let Some(record) = record {
            self.revision += 1;
            let current = vec!["alpha".to_owned(), "beta".to_owned()];
            self.value = Some((Record { current, ..record }.encode(), self.revision));
        }
    }

    /// All its data is gone.
    pub fn lose_data(&mut self) {
        self.value = None;
    }

    /// What is stored, as text.
    pub fn text(&self) -> String {
        self.value.as_ref().map_or("nothing".into(), |(v, _)| String::from_utf8_lossy(v).into_owned())
    }
}
