//! The devices of one node, with everything that a loss of power may leave on them: for every sector the stable
//! content and whatever was submitted since and is not known to be stable.

use std::collections::{BTreeMap, BTreeSet};

/// Where the metadata is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Behind the data, on the same device: one cache, one flush.
    Internal,
    /// On a device of its own: a flush of the data does not reach it.
    External,
}

/// What a driver does wrong, to prove that the checks notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Nothing.
    None,
    /// A flush before a metadata write reaches the metadata device alone.
    FlushMetadataOnly,
    /// A flush before a metadata write is left out.
    NoFlushBefore,
    /// A flush of the data is reported and not done.
    NoDataFlush,
    /// A metadata write with forced unit access is reported when it is in the cache.
    NoForcedAccess,
    /// A metadata write is reported before it has begun.
    EarlyCompletion,
}

struct Loose<T> {
    value: T,
    write: u64,
    /// Completions counted when it completed.
    completed: Option<u64>,
}

/// Sectors of one device.
pub struct Area<T> {
    stable: BTreeMap<u64, T>,
    loose: BTreeMap<u64, Vec<Loose<T>>>,
    blank: T,
    /// Counts changes of anything.
    pub version: u64,
}

impl<T: Copy + Ord> Area<T> {
    /// An area filled with `blank`.
    pub fn new(blank: T) -> Area<T> {
        Area { stable: BTreeMap::new(), loose: BTreeMap::new(), blank, version: 0 }
    }

    fn stable(&self, sector: u64) -> T {
        self.stable.get(&sector).copied().unwrap_or(self.blank)
    }

    /// What a read returns: the last write that completed.
    pub fn read(&self, sector: u64) -> T {
        let list = self.loose.get(&sector).into_iter().flatten();
        let last = list.filter(|l| l.completed.is_some()).max_by_key(|l| l.completed);
        last.map_or_else(|| self.stable(sector), |l| l.value)
    }

    /// What may be found after a loss of power, without repetitions.
    pub fn after_power_loss(&self, sector: u64) -> BTreeSet<T> {
        let list = self.loose.get(&sector).into_iter().flatten();
        list.map(|l| l.value).chain([self.stable(sector)]).collect()
    }

    /// What may be found when the process alone dies: the last completed write, or one of those under way.
    pub fn after_crash(&self, sector: u64) -> BTreeSet<T> {
        let list = self.loose.get(&sector).into_iter().flatten();
        list.filter(|l| l.completed.is_none()).map(|l| l.value).chain([self.read(sector)]).collect()
    }

    /// A loss of power leaves what a read returns now.
    pub fn is_settled(&self, sector: u64) -> bool {
        !self.loose.contains_key(&sector)
    }

    /// A write begins.
    pub fn submit(&mut self, write: u64, sector: u64, values: &[T]) {
        self.version += 1;
        for (i, value) in values.iter().enumerate() {
            let list = self.loose.entry(sector + i as u64).or_default();
            list.push(Loose { value: *value, write, completed: None });
        }
    }

    /// A write ends; with `stable` it is on the medium.
    pub fn complete(&mut self, write: u64, sector: u64, count: u64, clock: u64, stable: bool) {
        self.version += 1;
        for s in sector..sector + count {
            let list = self.loose.get_mut(&s).expect("it was submitted");
            let at = list.iter().position(|l| l.write == write).expect("it was submitted");
            list[at].completed = Some(clock);
            if stable {
                self.stable.insert(s, list[at].value);
                list.retain(|l| l.completed.is_none());
                if list.is_empty() {
                    self.loose.remove(&s);
                }
            }
        }
    }

    /// A flush ends that was submitted at `point`.
    pub fn flush(&mut self, point: u64) {
        self.version += 1;
        let stable = &mut self.stable;
        self.loose.retain(|s, list| {
            let last = list.iter().filter(|l| l.completed.is_some_and(|at| at <= point));
            if let Some(last) = last.max_by_key(|l| l.completed) {
                stable.insert(*s, last.value);
            }
            list.retain(|l| l.completed.is_none_or(|at| at > point));
            !list.is_empty()
        });
    }

    /// A loss of power: `choose` says which of the possible contents is found.
    pub fn lose_power(&mut self, mut choose: impl FnMut(&BTreeSet<T>) -> T) {
        self.version += 1;
        let sectors: Vec<u64> = self.loose.keys().copied().collect();
        for s in sectors {
            let found = choose(&self.after_power_loss(s));
            self.stable.insert(s, found);
        }
        self.loose.clear();
    }

    /// Puts a content on the medium.
    pub fn store(&mut self, sector: u64, value: T) {
        self.version += 1;
        self.loose.remove(&sector);
        self.stable.insert(sector, value);
    }
}

/// A sector of metadata.
pub type Raw = [u8; 512];

/// Data (one version per block of 4 KiB) and metadata (bytes) of a node.
pub struct Media {
    pub place: Place,
    pub lie: Lie,
    pub data: Area<u64>,
    pub meta: Area<Raw>,
    clock: u64,
}

impl Media {
    /// Devices full of zeroes.
    pub fn new(place: Place, lie: Lie) -> Media {
        Media { place, lie, data: Area::new(0), meta: Area::new([0; 512]), clock: 0 }
    }

    /// Completions so far: a flush submitted now reaches up to here.
    pub fn clock(&self) -> u64 {
        self.clock
    }

    /// The next completion.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A flush of the data device ends.
    pub fn flush_data(&mut self, point: u64) {
        if self.lie == Lie::NoDataFlush {
            return;
        }
        self.data.flush(point);
        if self.place == Place::Internal {
            self.meta.flush(point);
        }
    }

    /// The flush before a metadata write ends: of both devices (`src/dataplane/disk_ops.rs`, `Step::FlushFirst`).
    pub fn flush_first(&mut self, point: u64) {
        self.meta.flush(point);
        if self.place == Place::Internal || self.lie != Lie::FlushMetadataOnly {
            self.data.flush(point);
        }
    }

    /// Metadata as read now.
    pub fn read_meta(&self, sector: u64, sectors: u64) -> Vec<u8> {
        (sector..sector + sectors).flat_map(|s| self.meta.read(s)).collect()
    }

    /// Puts metadata on the medium.
    pub fn store_meta(&mut self, sector: u64, bytes: &[u8]) {
        for (i, part) in bytes.chunks(512).enumerate() {
            self.meta.store(sector + i as u64, part.try_into().expect("whole sectors"));
        }
    }
}
