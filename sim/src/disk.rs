//! A simulated disk: data as one version number per sector, metadata as bytes; both behind a volatile cache.
//!
//! A completed write is only in the cache. A flush makes durable what had completed when it was submitted; FUA
//! makes its own write durable. On power loss each unflushed sector survives or not on its own, those of writes in
//! flight too; on a crash of the process alone everything completed survives.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// Contents by sector, with those completed and not flushed: oldest first, with their order of completion.
#[derive(Clone, Debug)]
struct Area<T> {
    durable: BTreeMap<u64, T>,
    cache: BTreeMap<u64, Vec<(T, u64)>>,
}

impl<T: Copy> Area<T> {
    fn new() -> Area<T> {
        Area { durable: BTreeMap::new(), cache: BTreeMap::new() }
    }

    fn read(&self, sector: u64) -> Option<T> {
        let cached = self.cache.get(&sector).and_then(|list| list.last()).map(|(v, _)| *v);
        cached.or_else(|| self.durable.get(&sector).copied())
    }

    fn write(&mut self, sector: u64, value: T, fua: bool, at: u64) {
        if fua {
            self.cache.remove(&sector);
            self.durable.insert(sector, value);
        } else {
            self.cache.entry(sector).or_default().push((value, at));
        }
    }

    fn flush(&mut self, point: u64) {
        let durable = &mut self.durable;
        self.cache.retain(|s, list| {
            let done = list.partition_point(|(_, at)| *at <= point);
            if let Some((v, _)) = list.drain(..done).last() {
                durable.insert(*s, v);
            }
            !list.is_empty()
        });
    }

    /// Each sector keeps what is on the medium, or any of what came after it.
    fn power_loss(&mut self, rng: &mut Rng) {
        for (s, list) in std::mem::take(&mut self.cache) {
            if rng.one_in(2) {
                let i = rng.below(list.len() as u64) as usize;
                self.durable.insert(s, list[i].0);
            }
        }
    }
}

/// Backing disk of one volume: data area followed by its metadata area (addressed apart).
#[derive(Clone, Debug)]
pub struct Disk {
    /// Data sectors.
    pub sectors: u64,
    /// Versions; what is not named holds 0.
    data: Area<u64>,
    /// Metadata bytes, 512-byte sectors of the metadata device.
    metadata: Area<[u8; 512]>,
    completed: u64,
}

impl Disk {
    /// A disk of zeroes.
    pub fn new(sectors: u64) -> Disk {
        Disk { sectors, data: Area::new(), metadata: Area::new(), completed: 0 }
    }

    /// What the medium holds, without the cache.
    pub fn medium(&self, sector: u64) -> u64 {
        self.data.durable.get(&sector).copied().unwrap_or(0)
    }

    /// What a read returns.
    pub fn read(&self, sector: u64) -> u64 {
        assert!(crate::node::volume_and_sector(sector).1 < self.sectors, "inside the disk");
        self.data.read(sector).unwrap_or(0)
    }

    /// A write completes.
    pub fn write(&mut self, sector: u64, versions: &[u64], fua: bool) {
        self.completed += 1;
        for (i, v) in versions.iter().enumerate() {
            self.data.write(sector + i as u64, *v, fua, self.completed);
        }
    }

    /// A metadata block write completes.
    pub fn write_md(&mut self, sector: u64, block: &[u8], fua: bool) {
        self.completed += 1;
        for (i, part) in block.chunks(512).enumerate() {
            let bytes: [u8; 512] = part.try_into().expect("metadata is written in sectors");
            self.metadata.write(sector + i as u64, bytes, fua, self.completed);
        }
    }

    /// Metadata as read now.
    pub fn read_md(&self, sector: u64, sectors: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(sectors as usize * 512);
        for s in sector..sector + sectors {
            out.extend_from_slice(&self.metadata.read(s).unwrap_or([0; 512]));
        }
        out
    }

    /// Point up to which a flush submitted now reaches.
    pub fn flush_point(&self) -> u64 {
        self.completed
    }

    /// Every sector that was ever written, on the medium or in the cache.
    pub fn written(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.data.durable.keys().chain(self.data.cache.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A flush completes that was submitted at `point`.
    pub fn flush(&mut self, point: u64) {
        self.data.flush(point);
        self.metadata.flush(point);
    }

    /// Power loss: each unflushed sector survives or not.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        self.data.power_loss(rng);
        self.metadata.power_loss(rng);
    }

    /// A write that was in flight at a crash: each sector made it or not.
    pub fn torn_write(&mut self, sector: u64, versions: &[u64], rng: &mut Rng) {
        self.completed += 1;
        for (i, v) in versions.iter().enumerate() {
            if rng.one_in(2) {
                self.data.write(sector + i as u64, *v, false, self.completed);
            }
        }
    }

    /// A metadata write that was in flight at a crash.
    pub fn torn_md(&mut self, sector: u64, block: &[u8], rng: &mut Rng) {
        self.completed += 1;
        for (i, part) in block.chunks(512).enumerate() {
            if rng.one_in(2) {
                let bytes: [u8; 512] = part.try_into().expect("metadata is written in sectors");
                self.metadata.write(sector + i as u64, bytes, false, self.completed);
            }
        }
    }
}
