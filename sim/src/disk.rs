//! A simulated disk: data as one version number per sector, metadata as bytes; both behind a volatile cache.
//!
//! A completed write is only in the cache. A flush makes durable what had completed when it was submitted; FUA
//! makes its own write durable. On power loss each unflushed sector survives or not on its own, those of writes in
//! flight too; on a crash of the process alone everything completed survives.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// Backing disk of one volume: data area followed by its metadata area (addressed apart).
#[derive(Clone, Debug)]
pub struct Disk {
    /// Versions on the medium; what is not named holds 0.
    pub durable: BTreeMap<u64, u64>,
    /// Data sectors.
    pub sectors: u64,
    /// Completed, not flushed: sector -> (version, order of completion).
    cache: BTreeMap<u64, (u64, u64)>,
    /// Metadata bytes on the medium, 512-byte sectors of the metadata device.
    md_durable: BTreeMap<u64, [u8; 512]>,
    md_cache: BTreeMap<u64, ([u8; 512], u64)>,
    completed: u64,
}

impl Disk {
    /// A disk of zeroes.
    pub fn new(sectors: u64) -> Disk {
        Disk {
            durable: BTreeMap::new(),
            sectors,
            cache: BTreeMap::new(),
            md_durable: BTreeMap::new(),
            md_cache: BTreeMap::new(),
            completed: 0,
        }
    }

    /// What a read returns.
    pub fn read(&self, sector: u64) -> u64 {
        assert!(crate::node::volume_and_sector(sector).1 < self.sectors, "inside the disk");
        let cached = self.cache.get(&sector).map(|(v, _)| *v);
        cached.or_else(|| self.durable.get(&sector).copied()).unwrap_or(0)
    }

    /// A write completes.
    pub fn write(&mut self, sector: u64, versions: &[u64], fua: bool) {
        self.completed += 1;
        for (i, v) in versions.iter().enumerate() {
            let s = sector + i as u64;
            if fua {
                self.cache.remove(&s);
                self.durable.insert(s, *v);
            } else {
                self.cache.insert(s, (*v, self.completed));
            }
        }
    }

    /// A metadata block write completes.
    pub fn write_md(&mut self, sector: u64, block: &[u8], fua: bool) {
        self.completed += 1;
        for (i, part) in block.chunks(512).enumerate() {
            let s = sector + i as u64;
            let bytes: [u8; 512] = part.try_into().expect("metadata is written in sectors");
            if fua {
                self.md_cache.remove(&s);
                self.md_durable.insert(s, bytes);
            } else {
                self.md_cache.insert(s, (bytes, self.completed));
            }
        }
    }

    /// Metadata as read now.
    pub fn read_md(&self, sector: u64, sectors: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(sectors as usize * 512);
        for s in sector..sector + sectors {
            let bytes = self.md_cache.get(&s).map(|(b, _)| *b).or_else(|| self.md_durable.get(&s).copied());
            out.extend_from_slice(&bytes.unwrap_or([0; 512]));
        }
        out
    }

    /// Point up to which a flush submitted now reaches.
    pub fn flush_point(&self) -> u64 {
        self.completed
    }

    /// Every sector that was ever written, on the medium or in the cache.
    pub fn written(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.durable.keys().chain(self.cache.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A flush completes that was submitted at `point`.
    pub fn flush(&mut self, point: u64) {
        let durable = &mut self.durable;
        self.cache.retain(|s, (v, at)| {
            let keep = *at > point;
            if !keep {
                durable.insert(*s, *v);
            }
            keep
        });
        let md = &mut self.md_durable;
        self.md_cache.retain(|s, (b, at)| {
            let keep = *at > point;
            if !keep {
                md.insert(*s, *b);
            }
            keep
        });
    }

    /// Power loss: each unflushed sector survives or not.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        for (s, (v, _)) in std::mem::take(&mut self.cache) {
            if rng.one_in(2) {
                self.durable.insert(s, v);
            }
        }
        for (s, (b, _)) in std::mem::take(&mut self.md_cache) {
            if rng.one_in(2) {
                self.md_durable.insert(s, b);
            }
        }
    }

    /// A write that was in flight at a crash: each sector made it or not.
    pub fn torn_write(&mut self, sector: u64, versions: &[u64], rng: &mut Rng) {
        self.completed += 1;
        for (i, v) in versions.iter().enumerate() {
            if rng.one_in(2) {
                self.cache.insert(sector + i as u64, (*v, self.completed));
            }
        }
    }

    /// A metadata write that was in flight at a crash.
    pub fn torn_md(&mut self, sector: u64, block: &[u8], rng: &mut Rng) {
        self.completed += 1;
        for (i, part) in block.chunks(512).enumerate() {
            if rng.one_in(2) {
                let bytes: [u8; 512] = part.try_into().expect("metadata is written in sectors");
                self.md_cache.insert(sector + i as u64, (bytes, self.completed));
            }
        }
    }
}
