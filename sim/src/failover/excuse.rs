//! What is known to be weak (ARCHITECTURE, known weak points): a schedule that comes to it ends there, and is counted. What was
//! promised all the same is looked at here.

use failover::lease::machine::StoreOp;
use failover::lease::record::Record;
use model::state::DiskState;

use super::*;

impl Cluster {
    /// A write was acknowledged at this node. If its own disk has gone, only the peer has it.
    pub(super) fn acknowledged(&mut self, n: usize) {
        self.behind[n] |= self.w.state(n).1 != DiskState::UpToDate;
    }

    /// After every event.
    pub(super) fn look_for_excuses(&mut self) {
        if self.behind == [false; 2] && self.ousted.is_none() {
            return;
        }
        let in_sync = self.w.in_sync();
        for n in 0..2 {
            self.behind[n] &= !in_sync && !self.store.excludes(n);
            if self.behind[n] && self.core_serves(n) && self.w.state(n).1 == DiskState::UpToDate {
                self.excuse(n, "a home whose disk had gone comes back with what that had");
            }
        }
        self.ousted = self.ousted.filter(|o| !in_sync && !self.store.excludes(*o));
    }

    fn excuse(&mut self, n: usize, why: &'static str) {
        self.note(n, &format!("known to be weak: {why}"));
        self.excused = Some(why);
    }

    /// A node has changed the record. Who has seen that its copy does not count must not take it, whatever the store says now.
    pub(super) fn record_changed(&mut self, n: usize, before: u64, op: &StoreOp) {
        if self.ousted != Some(n) {
            return;
        }
        let StoreOp::Swap { value, .. } = op else { return };
        let record = Record::decode(value).expect("nodes write records");
        if record.held_by(NODES[n]).is_none() {
            return;
        }
        let (seen, before) = (self.sides[n].changes_seen, before.saturating_sub(self.forged));
        assert!(
            seen <= before,
            "node {} takes a record older than what it has seen: change {before} after {seen}; the store: {}",
            n + 1,
            self.store.text()
        );
        self.excuse(n, "the store was put back, and nobody has told this node what it had forgotten");
    }

    /// The store's answer reaches a node.
    pub(super) fn saw_record(&mut self, n: usize, answer: &StoreAnswer) {
        let (StoreAnswer::Value(Some((bytes, _))) | StoreAnswer::Conflict(Some((bytes, _)))) = answer else {
            return;
        };
        let Ok(record) = Record::decode(bytes) else { return };
        // Two good copies that see each other: whatever was is over.
        let before = if self.w.in_sync() { 0 } else { self.sides[n].changes_seen };
        self.sides[n].changes_seen = record.changes.max(before);
    }
}
