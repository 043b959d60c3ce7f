//! What clients saw: for every sector the last acknowledged version and those that may be there instead.

use std::collections::BTreeMap;

/// Knowledge about one sector. Writes in progress may or may not be there; an acknowledged write excludes
/// everything that had ended before it started.
#[derive(Clone, Debug, Default)]
struct Sector {
    /// Versions that a read may return.
    possible: Vec<u64>,
}

/// What clients saw of one device.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    sectors: BTreeMap<u64, Sector>,
    /// Writes under way: version -> first sector, count.
    open: BTreeMap<u64, (u64, u64)>,
    /// Acknowledged writes in all.
    pub acknowledged: u64,
}

impl Ledger {
    /// A write was issued.
    pub fn issued(&mut self, version: u64, sector: u64, count: u64) {
        self.open.insert(version, (sector, count));
        for s in sector..sector + count {
            let entry = self.sectors.entry(s).or_insert_with(|| Sector { possible: vec![0] });
            entry.possible.push(version);
        }
    }

    /// A write was acknowledged: nothing older remains possible, except what is still under way.
    pub fn acked(&mut self, version: u64) {
        let Some((sector, count)) = self.open.remove(&version) else { return };
        self.acknowledged += 1;
        for s in sector..sector + count {
            let open = &self.open;
            let entry = self.sectors.get_mut(&s).expect("issued before");
            entry.possible.retain(|v| *v == version || open.contains_key(v));
        }
    }

    /// A write ended without an answer (its node died): it stays possible for ever.
    pub fn forget_open(&mut self) {
        self.open.clear();
    }

    /// Whether a sector may hold this version.
    pub fn allows(&self, sector: u64, version: u64) -> bool {
        self.sectors.get(&sector).map_or(version == 0, |s| s.possible.contains(&version))
    }

    /// What a sector may hold.
    pub fn possible(&self, sector: u64) -> Vec<u64> {
        self.sectors.get(&sector).map_or(vec![0], |s| s.possible.clone())
    }

    /// A read returned this version, or a check found it on every copy: nothing else is possible any more,
    /// except writes under way.
    pub fn observed(&mut self, sector: u64, version: u64) {
        if let Some(entry) = self.sectors.get_mut(&sector) {
            let open = &self.open;
            entry.possible.retain(|v| *v == version || open.contains_key(v));
        }
    }
}
