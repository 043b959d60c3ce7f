//! What has to hold at any time, and what clients were told.

use std::collections::BTreeMap;

use model::state::Role;
use replicator::ClientTag;

use super::*;

/// What clients have written.
#[derive(Default)]
pub(super) struct Ledger {
    open: Vec<(usize, ClientTag, u64, u64)>,
    /// By sector: the last version that was acknowledged.
    acked: BTreeMap<u64, u64>,
    /// Writes that were acknowledged.
    pub written: u64,
}

impl Ledger {
    /// One write at a time for each place, so that it is clear which one counts.
    pub(super) fn may_write(&self, sector: u64) -> bool {
        self.open.iter().all(|(_, _, s, _)| *s != sector)
    }

    pub(super) fn asked(&mut self, n: usize, tag: ClientTag, sector: u64, version: u64) {
        self.open.push((n, tag, sector, version));
    }

    /// The daemon of a node has died: its clients get no answer.
    pub(super) fn forget(&mut self, n: usize) {
        self.open.retain(|(m, ..)| *m != n);
    }
}

impl Cluster {
    /// After every event.
    pub(super) fn check(&mut self) {
        self.take_answers();
        self.look_for_excuses();
        if self.excused.is_some() {
            return;
        }
        let serving: Vec<usize> = (0..2).filter(|n| self.core_serves(*n)).collect();
        assert!(serving.len() < 2, "two writable Primaries; the store: {}", self.store.text());
        let now = self.w.now;
        let both = (0..2).all(|n| self.has_address(n, BOUND));
        assert!(!both, "both nodes have the address; the store: {}", self.store.text());
        for n in 0..2 {
            let is_primary = self.w.volume(n).is_none_or(|s| s.role == Role::Primary);
            // Whoever demotes it behind the back of its service is reacted to as soon as that is seen. What was decided on before
            // ends by itself at the latest.
            let by_hand = self.sides[n].by_hand.is_some_and(|(_, at)| now <= at + answer_for(None));
            assert!(
                !self.has_address(n, BOUND) || is_primary || by_hand,
                "an address where nothing is Primary"
            );
        }
        self.check_free_instance(now);
    }

    /// Where two free routers hear each other, one of them is Master, and one only. `since`: for how long it has been otherwise.
    fn check_free_instance(&mut self, now: Instant) {
        let runs = |s: &Side| s.routers.is_some() && s.stalls_until <= now;
        let hear_each_other = self.segment.whole_since.is_some() && self.sides.iter().all(runs);
        let masters = (0..2).filter(|n| self.is_router_master(*n, FREE)).count();
        if !hear_each_other || masters == 1 {
            self.free_wrong_since = None;
            return;
        }
        let since = *self.free_wrong_since.get_or_insert(now);
        let interval = self.router_plan.interval;
        // MasterDown with the longest skew, that skew again, and an interval.
        let most = interval * 3 + interval + interval + interval + self.segment.delay_max;
        assert!(
            now <= since + most,
            "the free instance has {masters} masters for {:?}",
            now.saturating_since(since)
        );
    }

    /// By its clock, whether or not it stands still: it will look at that clock first.
    pub(super) fn core_serves(&self, n: usize) -> bool {
        let core = self.w.nodes[n].core.as_ref();
        core.is_some_and(|core| core.serves(self.w.clock(n)))
    }

    fn take_answers(&mut self) {
        if self.ledger.open.is_empty() || self.w.answers.is_empty() {
            return;
        }
        for (n, tag, sector, version) in std::mem::take(&mut self.ledger.open) {
            let is_it = |a: &Answer| matches!(a, Answer::Client(t, ..) if *t == tag);
            match self.w.take_answer(is_it) {
                None => self.ledger.open.push((n, tag, sector, version)),
                Some(Answer::Client(_, ClientResult::Ok, _)) => {
                    let last = self.ledger.acked.entry(sector).or_insert(version);
                    *last = version.max(*last);
                    self.ledger.written += 1;
                    self.acknowledged(n);
                }
                Some(_) => {}
            }
        }
    }

    /// When everything is quiet: what was acknowledged is on this disk, or was written over.
    pub(super) fn check_written(&self, n: usize) {
        for (sector, version) in &self.ledger.acked {
            let found = self.w.nodes[n].disk.read(*sector);
            assert!(
                found >= *version,
                "sector {sector} of node {} holds {found}, and {version} was acknowledged",
                n + 1
            );
        }
    }

    /// Something that was acknowledged is not on this disk.
    pub(super) fn lacks_something(&self, n: usize) -> bool {
        self.ledger.acked.iter().any(|(sector, version)| self.w.nodes[n].disk.read(*sector) < *version)
    }

    /// Writes that clients were told are done.
    pub fn written(&self) -> u64 {
        self.ledger.written
    }
}
