//! The lease store: one register on a third machine, reached by each node over a way of its own. It may lose its data, and it may
//! be put back to an older copy of them.

use failover::lease::machine::{StoreAnswer, StoreOp};
use failover::lease::record::Record;
use failover::lease::register::Register;

use super::NODES;

/// The register.
#[derive(Default, Debug)]
pub struct Store {
    register: Register,
    /// What was there before each change.
    copies: Vec<Register>,
    /// Counts the clusters that were made of such copies.
    cluster: u64,
}

/// What a node's client of the store remembers, to notice that it is another one or has forgotten something.
#[derive(Clone, Copy, Default, Debug)]
pub struct Client(Option<(u64, i64)>);

impl Store {
    /// Carries out one operation. A client that sees that the store is not what it was does not say what it found there,
    /// and begins anew; a change that it was asked for is made all the same.
    pub fn carry_out(&mut self, op: &StoreOp, client: &mut Client) -> StoreAnswer {
        let before = self.register.clone();
        let answer = self.register.carry_out(op);
        if self.register.revision != before.revision {
            self.copies.push(before);
        }
        let (cluster, revision) = (self.cluster, self.register.revision);
        if client.0.is_some_and(|(c, r)| c != cluster || r > revision) {
            *client = Client::default();
            return StoreAnswer::Unknown("the store is not what it was".into());
        }
        client.0 = Some((cluster, revision));
        answer
    }

    /// Puts it back to what it was so many changes ago; `anew`: as another cluster. Gives what was there.
    pub fn restore(&mut self, back: usize, anew: bool) -> Option<Record> {
        let newest = self.record();
        let at = self.copies.len().checked_sub(back.max(1))?;
        self.register = self.copies[at].clone();
        self.copies.truncate(at);
        self.cluster += u64::from(anew);
        newest
    }

    /// Of the last change.
    pub fn revision(&self) -> i64 {
        self.register.revision
    }

    /// Changes that it could be put back by.
    pub fn changes(&self) -> usize {
        self.copies.len()
    }

    /// What is there.
    pub fn record(&self) -> Option<Record> {
        self.register.value.as_ref().and_then(|(bytes, _)| Record::decode(bytes).ok())
    }

    /// Somebody writes that both copies may be the newest.
    pub fn let_both_count(&mut self) {
        if let Some(record) = self.record() {
            self.write(Record { current: NODES.map(str::to_owned).to_vec(), ..record });
        }
    }

    /// Somebody writes a record without asking what is there.
    pub fn write(&mut self, record: Record) {
        self.register.write(record.encode());
    }

    /// By the record the copy of this node may be the newest.
    pub fn counts(&self, n: usize) -> bool {
        self.record().is_some_and(|r| r.is_current(NODES[n]))
    }

    /// There is a record, and by it the copy of this node is not the newest one.
    pub fn excludes(&self, n: usize) -> bool {
        self.record().is_some_and(|r| !r.is_current(NODES[n]))
    }

    /// The record says that both copies may be the newest.
    pub fn both_count(&self) -> bool {
        (0..2).all(|n| self.counts(n))
    }

    /// All its data is gone.
    pub fn lose_data(&mut self) {
        self.register.value = None;
        self.copies.clear();
    }

    /// What is stored, as text.
    pub fn text(&self) -> String {
        let value = self.register.value.as_ref();
        value.map_or("nothing".into(), |(v, _)| String::from_utf8_lossy(v).into_owned())
    }
}
