//! A simulated disk: data as one version number per sector, metadata as bytes; both behind a volatile cache.
//!
//! A completed write is only in the cache. A flush makes durable what had completed when it was submitted; FUA
//! makes its own write durable. On power loss each unflushed sector survives or not on its own, those of writes in
//! flight too; on a crash of the process alone everything completed survives.
//!
//! Sectors live in pages that come into being when they are touched, so that a large device costs little and nothing
//! is allocated from one schedule to the next.

use crate::node::volume_and_sector;
use crate::rng::Rng;

const PAGE_SECTORS: u64 = 64;

/// One sector as the medium and as the cache have it.
#[derive(Clone, Copy, Debug)]
struct Cell<T> {
    durable: T,
    current: T,
    /// Completions up to this one are settled: an entry of the cache that is not younger counts no more.
    settled: u64,
    written: bool,
}

/// A completed write of one sector that was not flushed yet.
#[derive(Clone, Copy, Debug)]
struct Unflushed<T> {
    sector: u64,
    value: T,
    at: u64,
}

/// Contents by sector, and what was completed and not flushed, in the order of completion.
#[derive(Clone, Debug)]
struct Area<T> {
    /// By volume and page: index into `cells` plus one; 0: never touched.
    index: Vec<Vec<u32>>,
    cells: Vec<Cell<T>>,
    /// First sectors of the pages, in the order of `cells`.
    pages: Vec<u64>,
    cache: Vec<Unflushed<T>>,
    blank: T,
}

impl<T: Copy> Area<T> {
    fn new(blank: T) -> Area<T> {
        Area { index: Vec::new(), cells: Vec::new(), pages: Vec::new(), cache: Vec::new(), blank }
    }

    fn clear(&mut self) {
        for first in self.pages.drain(..) {
            let (vol, sector) = volume_and_sector(first);
            self.index[usize::from(vol.0)][(sector / PAGE_SECTORS) as usize] = 0;
        }
        self.cells.clear();
        self.cache.clear();
    }

    fn find(&self, at: u64) -> Option<usize> {
        let (vol, sector) = volume_and_sector(at);
        let page = *self.index.get(usize::from(vol.0))?.get((sector / PAGE_SECTORS) as usize)?;
        (page != 0).then(|| (page as usize - 1) * PAGE_SECTORS as usize + (sector % PAGE_SECTORS) as usize)
    }

    fn cell(&mut self, at: u64) -> &mut Cell<T> {
        let (vol, sector) = volume_and_sector(at);
        let (v, page) = (usize::from(vol.0), (sector / PAGE_SECTORS) as usize);
        if self.index.len() <= v {
            self.index.resize(v + 1, Vec::new());
        }
        let index = &mut self.index[v];
        if index.len() <= page {
            index.resize(page + 1, 0);
        }
        if index[page] == 0 {
            self.pages.push(at - sector % PAGE_SECTORS);
            index[page] = self.pages.len() as u32;
            let fresh = Cell { durable: self.blank, current: self.blank, settled: 0, written: false };
            self.cells.resize(self.cells.len() + PAGE_SECTORS as usize, fresh);
        }
        let i = (index[page] as usize - 1) * PAGE_SECTORS as usize + (sector % PAGE_SECTORS) as usize;
        &mut self.cells[i]
    }

    fn read(&self, sector: u64) -> T {
        self.find(sector).map_or(self.blank, |i| self.cells[i].current)
    }

    fn medium(&self, sector: u64) -> T {
        self.find(sector).map_or(self.blank, |i| self.cells[i].durable)
    }

    fn write(&mut self, sector: u64, value: T, fua: bool, at: u64) {
        let cell = self.cell(sector);
        cell.current = value;
        cell.written = true;
        if fua {
            cell.durable = value;
            cell.settled = at;
        } else {
            self.cache.push(Unflushed { sector, value, at });
        }
    }

    fn flush(&mut self, point: u64) {
        let done = self.cache.partition_point(|u| u.at <= point);
        for i in 0..done {
            let u = self.cache[i];
            let cell = self.find(u.sector).expect("it was written");
            let cell = &mut self.cells[cell];
            if cell.settled < u.at {
                cell.durable = u.value;
            }
        }
        self.cache.drain(..done);
    }

    /// Each sector keeps what is on the medium, or any of what came after it.
    fn power_loss(&mut self, rng: &mut Rng) {
        let mut cache = std::mem::take(&mut self.cache);
        cache.retain(|u| self.find(u.sector).is_some_and(|i| self.cells[i].settled < u.at));
        cache.sort_by_key(|u| (u.sector, u.at));
        for of_one in cache.chunk_by(|a, b| a.sector == b.sector) {
            let cell = self.cell(of_one[0].sector);
            if rng.one_in(2) {
                cell.durable = of_one[rng.below(of_one.len() as u64) as usize].value;
            }
            cell.current = cell.durable;
        }
        cache.clear();
        self.cache = cache;
    }

    /// Sectors of the pages that were touched.
    fn touched(&self) -> impl Iterator<Item = (u64, &Cell<T>)> {
        let sectors = self.pages.iter().flat_map(|first| *first..*first + PAGE_SECTORS);
        sectors.zip(&self.cells)
    }
}

/// Backing disk of one node: the data of its volumes, and their metadata (addressed apart).
#[derive(Clone, Debug)]
pub struct Disk {
    /// Data sectors.
    pub sectors: u64,
    /// Versions; what was never written holds 0.
    data: Area<u64>,
    /// Metadata bytes, 512-byte sectors of the metadata device.
    metadata: Area<[u8; 512]>,
    completed: u64,
}

impl Disk {
    /// A disk of zeroes.
    pub fn new(sectors: u64) -> Disk {
        Disk { sectors, data: Area::new(0), metadata: Area::new([0; 512]), completed: 0 }
    }

    /// As new, with the memory of its former life.
    pub fn clear(&mut self, sectors: u64) {
        self.sectors = sectors;
        self.data.clear();
        self.metadata.clear();
        self.completed = 0;
    }

    /// What the medium holds, without the cache.
    pub fn medium(&self, sector: u64) -> u64 {
        self.data.medium(sector)
    }

    /// Version in a sector as read now.
    pub fn read(&self, sector: u64) -> u64 {
        assert!(volume_and_sector(sector).1 < self.sectors, "inside the disk");
        self.data.read(sector)
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
        for (i, part) in block.as_chunks::<512>().0.iter().enumerate() {
            self.metadata.write(sector + i as u64, *part, fua, self.completed);
        }
    }

    /// Metadata as read now.
    pub fn read_md(&self, sector: u64, sectors: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(sectors as usize * 512);
        for s in sector..sector + sectors {
            out.extend_from_slice(&self.metadata.read(s));
        }
        out
    }

    /// Point up to which a flush submitted now reaches.
    pub fn flush_point(&self) -> u64 {
        self.completed
    }

    /// Every sector that was ever written, on the medium or in the cache.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        self.data.touched().filter(|(_, c)| c.written).map(|(s, _)| s)
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
        for (i, part) in block.as_chunks::<512>().0.iter().enumerate() {
            if rng.one_in(2) {
                self.metadata.write(sector + i as u64, *part, false, self.completed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_reaches_what_had_completed() {
        let mut d = Disk::new(100);
        d.write(3, &[1, 2], false);
        let point = d.flush_point();
        d.write(3, &[5], false);
        d.flush(point);
        assert_eq!((d.medium(3), d.medium(4), d.read(3)), (1, 2, 5));
    }

    #[test]
    fn forced_unit_access_outlives_older_writes_in_the_cache() {
        let mut d = Disk::new(100);
        d.write(3, &[1], false);
        d.write(3, &[2], true);
        d.flush(d.flush_point());
        assert_eq!((d.medium(3), d.read(3)), (2, 2));
        d.write(3, &[4], false);
        for seed in 0..20 {
            let mut d = d.clone();
            d.power_loss(&mut Rng::new(seed));
            assert!([2, 4].contains(&d.read(3)), "and never 1");
        }
    }

    #[test]
    fn power_loss_leaves_any_of_the_unflushed() {
        let mut seen = [false; 4];
        for seed in 0..200 {
            let mut d = Disk::new(100);
            for v in 1..4 {
                d.write(70, &[v], false);
            }
            d.power_loss(&mut Rng::new(seed));
            seen[d.read(70) as usize] = true;
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn a_cleared_disk_is_a_new_one() {
        let mut d = Disk::new(100);
        d.write(64, &[1], true);
        d.write_md(8, &[7; 4096], true);
        d.clear(50);
        assert_eq!((d.sectors, d.medium(64), d.written().count()), (50, 0, 0));
        assert_eq!(d.read_md(8, 1), [0; 512]);
    }
}
