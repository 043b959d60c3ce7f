//! What clients were promised: for every sector the contents it may hold, now and after a loss of power.
//!
//! Order is kept by a counter that grows with every operation. A write that was answered excludes whatever had ended
//! before it was issued. After a loss of the volatile cache only writes count that were made durable: those with
//! forced unit access, and those answered before a flush was issued that was answered.

use std::collections::BTreeMap;

/// One write, or one observation of a content (which excludes older ones just as a write does).
#[derive(Clone, Copy, Debug)]
struct Entry {
    id: u64,
    content: u64,
    issued: u64,
    ended: Option<u64>,
    acked: bool,
    durable: bool,
    /// Under way when the cache was lost: its answer promises nothing.
    doubtful: bool,
    /// The node whose client wrote it.
    by: Option<usize>,
}

const UNTOUCHED: Entry = Entry {
    id: 0,
    content: 0,
    issued: 0,
    ended: Some(0),
    acked: true,
    durable: true,
    doubtful: false,
    by: None,
};

/// So many entries has a sector as a rule.
const FEW: usize = 4;
/// Entries of one sector are thinned out above this number.
const CROWDED: usize = 64;

/// What clients of one device know.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    sectors: BTreeMap<u64, Vec<Entry>>,
    /// Writes under way: id -> first sector, count.
    open: BTreeMap<u64, (u64, u64)>,
    /// The counter.
    pub clock: u64,
    /// By node: what its clients wrote before that is durable.
    flushed: [u64; 2],
    /// Answered writes in all.
    pub acknowledged: u64,
}

impl Ledger {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A write (or discard, with content 0) was issued.
    pub fn issued(&mut self, id: u64, content: u64, sector: u64, count: u64, fua: bool) {
        self.issued_by(0, id, content, (sector, count), fua);
    }

    /// The same by a client of this node.
    pub fn issued_by(&mut self, n: usize, id: u64, content: u64, (sector, count): (u64, u64), fua: bool) {
        let issued = self.tick();
        self.open.insert(id, (sector, count));
        for s in sector..sector + count {
            let list = self.sectors.entry(s).or_insert_with(|| {
                let mut list = Vec::with_capacity(FEW);
                list.push(UNTOUCHED);
                list
            });
            list.push(Entry {
                id,
                content,
                issued,
                ended: None,
                acked: false,
                durable: fua,
                doubtful: false,
                by: Some(n),
            });
        }
    }

    /// A write ended; `ok`: it was answered as done. Otherwise it may or may not be there.
    pub fn ended(&mut self, id: u64, ok: bool) {
        let now = self.tick();
        let Some((sector, count)) = self.open.remove(&id) else { return };
        self.acknowledged += u64::from(ok);
        let flushed = self.flushed;
        for s in sector..sector + count {
            let list = self.sectors.get_mut(&s).expect("issued before");
            for e in list.iter_mut().filter(|e| e.id == id) {
                e.ended = Some(now);
                e.acked = ok && !e.doubtful;
            }
            if list.len() > CROWDED {
                let old = list.clone();
                list.retain(|e| {
                    let gone = |a: &Entry| {
                        a.firm(flushed) && a.excludes(e) && a.ended.is_some_and(|t| t + 2000 < now)
                    };
                    !old.iter().any(gone)
                });
            }
        }
    }

    /// The write has been issued here and has not ended.
    pub fn is_open(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    /// A flush that was issued at this reading of the counter was answered.
    pub fn flushed(&mut self, issued: u64) {
        self.flushed_by(0, issued);
        self.flushed_by(1, issued);
    }

    /// A flush of a client of this node was answered; the other node is Primary too. What clients over there wrote is
    /// durable on this node's disk, and on the other one when they flush.
    pub fn flushed_by(&mut self, n: usize, issued: u64) {
        self.flushed[n] = self.flushed[n].max(issued);
    }

    /// The volatile cache of the copy that counts is gone.
    pub fn rollback(&mut self) {
        let flushed = self.flushed;
        for e in self.sectors.values_mut().flatten() {
            e.doubtful |= e.ended.is_none() && !e.durable;
            e.acked &= e.firm(flushed);
        }
    }

    /// Writes that were answered for the sake of another copy, and are not on this one.
    pub fn never_got(&mut self, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        for list in self.sectors.values_mut() {
            list.retain(|e| e.id != OBSERVED || !ids.contains(&e.content));
            list.iter_mut().filter(|e| ids.contains(&e.id)).for_each(|e| e.acked = false);
        }
    }

    /// A read issued at this reading of the counter may return this.
    pub fn allows_since(&self, sector: u64, content: u64, issued: u64) -> bool {
        let Some(list) = self.sectors.get(&sector) else { return content == 0 };
        let before = |a: &Entry| a.acked && a.ended.is_some_and(|t| t < issued);
        list.iter().any(|e| e.content == content && !list.iter().any(|a| before(a) && a.excludes(e)))
    }

    /// The sector may hold this now.
    pub fn allows(&self, sector: u64, content: u64) -> bool {
        self.allows_since(sector, content, self.clock + 1)
    }

    /// What a sector may hold now.
    pub fn possible(&self, sector: u64) -> Vec<u64> {
        let Some(list) = self.sectors.get(&sector) else { return vec![0] };
        let stays = |e: &&Entry| !list.iter().any(|a| a.acked && a.excludes(e));
        list.iter().filter(stays).map(|e| e.content).collect()
    }

    /// A read issued at this reading of the counter returned this: nothing older is possible any more.
    pub fn observed(&mut self, sector: u64, content: u64, issued: u64) {
        let now = self.tick();
        if let Some(list) = self.sectors.get_mut(&sector) {
            // What is still under way may be gone with its node.
            // Zeroes do not tell which discard they are from.
            if content == 0 || !list.iter().any(|e| e.content == content && e.acked) {
                return;
            }
            list.retain(|e| e.id != OBSERVED || e.content != content);
            list.push(Entry {
                id: OBSERVED,
                content,
                issued,
                ended: Some(now),
                acked: true,
                durable: false,
                doubtful: false,
                by: None,
            });
        }
    }

    /// Sectors that have to be looked at too, though nobody has written them here.
    pub fn looks_at(&mut self, sectors: impl Iterator<Item = u64>) {
        for s in sectors {
            self.sectors.entry(s).or_insert_with(|| vec![UNTOUCHED]);
        }
    }

    /// From now on the truth is what this disk holds, and what may still be on its way there.
    pub fn rebase(&mut self, read: impl Fn(u64) -> u64) {
        self.rebase_where(read, |_| true);
    }

    /// The same, except for sectors where the disk has a write that is still under way: nobody has been told that it is
    /// there, and it may go again with this disk.
    pub fn rebase_answered(&mut self, read: impl Fn(u64) -> u64) {
        self.rebase_where(read, |held| held.ended.is_some());
    }

    fn rebase_where(&mut self, read: impl Fn(u64) -> u64, counts: impl Fn(&Entry) -> bool) {
        let now = self.tick();
        for (s, list) in &mut self.sectors {
            let content = read(*s);
            if list.iter().any(|e| e.id != OBSERVED && e.content == content && !counts(e)) {
                continue;
            }
            let held_since = list.iter().find(|e| e.id == content).map_or(0, |e| e.issued);
            for e in list.iter_mut() {
                // What this copy never got may still be on its way, answered on the other one or not. Of writes that
                // were under way at once the older one may come last.
                let before = e.ended.is_some_and(|t| t < held_since);
                let late = e.id != OBSERVED && e.id != content && !before;
                e.ended = e.ended.map(|t| if late { now } else { t });
                e.acked = false;
            }
            list.push(Entry {
                id: OBSERVED,
                content,
                issued: now,
                ended: Some(now),
                acked: true,
                durable: false,
                doubtful: false,
                by: None,
            });
        }
    }

    /// The sectors anybody wrote to.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        self.sectors.keys().copied()
    }
}

const OBSERVED: u64 = u64::MAX;

impl Entry {
    fn firm(&self, flushed: [u64; 2]) -> bool {
        let flushed = self.by.map_or(flushed[0].min(flushed[1]), |n| flushed[n]);
        self.acked && (self.durable || self.ended.is_some_and(|t| t <= flushed))
    }

    fn excludes(&self, older: &Entry) -> bool {
        older.ended.is_some_and(|t| t < self.issued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answered_write_excludes_what_ended_before_it() {
        let mut l = Ledger::default();
        l.issued(1, 1, 0, 1, false);
        assert_eq!(l.possible(0), [0, 1]);
        l.ended(1, true);
        assert_eq!(l.possible(0), [1]);
        l.issued(2, 2, 0, 1, false);
        l.issued(3, 3, 0, 1, false);
        l.ended(3, true);
        assert_eq!(l.possible(0), [2, 3], "2 is still under way and may come last");
        l.ended(2, true);
        assert_eq!(l.possible(0), [2, 3], "both were under way at once");
        l.observed(0, 2, l.clock);
        assert!(l.allows(0, 2) && !l.allows(0, 3) && !l.allows(0, 1));
    }

    #[test]
    fn another_copy_may_get_writes_that_were_under_way_at_once_in_any_order() {
        let mut l = Ledger::default();
        l.issued(1, 1, 0, 1, false);
        l.ended(1, true);
        l.issued(2, 2, 0, 1, false);
        l.issued(3, 3, 0, 1, false);
        l.ended(3, true);
        l.ended(2, true);
        l.rebase(|_| 3);
        assert_eq!(l.possible(0), [2, 3], "2 is still to come, 1 was over when 3 began");
    }

    #[test]
    fn a_copy_may_lose_again_what_it_has_of_a_write_under_way() {
        let mut l = Ledger::default();
        l.issued(1, 1, 0, 1, false);
        l.ended(1, true);
        l.issued(2, 2, 0, 1, false);
        l.rebase_answered(|_| 2);
        assert_eq!(l.possible(0), [1, 2]);
        l.ended(2, true);
        l.rebase_answered(|_| 1);
        assert!(l.allows(0, 1), "the cache of the copy was lost, and with it the second one");
        l.issued(3, 3, 0, 1, false);
        l.rebase(|_| 3);
        assert_eq!(l.possible(0), [3, 3]);
    }

    #[test]
    fn power_loss_goes_back_to_the_last_flush_and_not_further() {
        let mut l = Ledger::default();
        l.issued(1, 1, 0, 1, false);
        l.ended(1, true);
        let at = l.clock;
        l.flushed(at + 1);
        l.issued(2, 2, 0, 1, false);
        l.ended(2, true);
        l.rollback();
        assert!(l.allows(0, 1) && l.allows(0, 2) && !l.allows(0, 0));
        l.issued(3, 3, 0, 1, true);
        l.ended(3, true);
        l.rollback();
        assert_eq!(l.possible(0), [3]);
    }
}
