//! A simulated disk: data as one version number per sector, metadata as bytes; both behind a volatile cache.
//!
//! * Order: writes under way end in any order (the world draws their times). Between two flushes the cache is written
//!   out in any order too: nothing but a flush says what is on the medium before what.
//! * Loss: a completed write is only in the cache. A flush makes durable what had completed when it was submitted; FUA
//!   makes its own write durable, and nothing else. A loss of power keeps any subset of what was not flushed, of writes
//!   in flight too. A crash of the process alone keeps everything completed, and any subset of the writes in flight.
//! * Tearing: the unit that survives or not is a piece of a write, see [`Tearing`]. A write that failed leaves any subset
//!   of its pieces behind.
//!
//! Sectors live in pages that come into being when they are touched, so that a large device costs little and nothing
//! is allocated from one schedule to the next.

use crate::node::volume_and_sector;
use crate::rng::Rng;

/// Sectors that come into being together: data, metadata.
const DATA_PAGE: u64 = 64;
const META_PAGE: u64 = 8;

/// Marks contents that nobody has written, in a bit that no version has.
pub const ROTTEN: u64 = 1 << 63;

/// Into which pieces a disk tears the writes that it was not allowed to finish. A piece gets to the medium whole or not at
/// all, whatever becomes of its neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tearing {
    /// Sectors of 512 bytes.
    #[default]
    Sectors,
    /// Physical blocks of 4 KiB, as far as the write fills them.
    Blocks,
}

impl Tearing {
    /// Sectors of a piece; pieces begin at multiples of it.
    fn piece_sectors(self) -> u64 {
        match self {
            Tearing::Sectors => 1,
            Tearing::Blocks => 8,
        }
    }

    /// The pieces of a write of `count` sectors: where each begins and ends, counted from the first sector of the write.
    fn pieces(self, sector: u64, count: u64) -> impl Iterator<Item = std::ops::Range<usize>> {
        let size = self.piece_sectors();
        let first = sector / size;
        let last = (sector + count).div_ceil(size);
        (first..last).map(move |p| {
            let from = (p * size).max(sector) - sector;
            let to = ((p + 1) * size).min(sector + count) - sector;
            from as usize..to as usize
        })
    }
}

/// A completed write of one sector that was not flushed yet.
#[derive(Clone, Copy, Debug)]
struct Unflushed<T> {
    sector: u64,
    /// Where the sector is.
    cell: u32,
    value: T,
    at: u64,
}

/// Contents by sector, and what was completed and not flushed, in the order of completion.
#[derive(Clone, Debug)]
struct Area<T, const PAGE: u64> {
    /// By volume and page: number of the page plus one; 0: never touched.
    index: Vec<Vec<u32>>,
    /// First sectors of the pages.
    pages: Vec<u64>,
    /// By page and sector: what is read.
    current: Vec<T>,
    /// What is on the medium.
    durable: Vec<T>,
    /// Completions up to this one are settled: an entry of the cache that is not younger counts no more.
    settled: Vec<u64>,
    cache: Vec<Unflushed<T>>,
    blank: T,
}

impl<T: Copy + PartialEq, const PAGE: u64> Area<T, PAGE> {
    fn new(blank: T) -> Area<T, PAGE> {
        Area {
            index: Vec::new(),
            pages: Vec::new(),
            current: Vec::new(),
            durable: Vec::new(),
            settled: Vec::new(),
            cache: Vec::new(),
            blank,
        }
    }

    fn clear(&mut self) {
        for first in self.pages.drain(..) {
            let (vol, sector) = volume_and_sector(first);
            self.index[usize::from(vol.0)][(sector / PAGE) as usize] = 0;
        }
        self.current.clear();
        self.durable.clear();
        self.settled.clear();
        self.cache.clear();
    }

    fn find(&self, at: u64) -> Option<usize> {
        let (vol, sector) = volume_and_sector(at);
        let page = *self.index.get(usize::from(vol.0))?.get((sector / PAGE) as usize)?;
        (page != 0).then(|| (page as usize - 1) * PAGE as usize + (sector % PAGE) as usize)
    }

    /// Where a sector is, in a page that is made if need be.
    fn cell(&mut self, at: u64) -> usize {
        let (vol, sector) = volume_and_sector(at);
        let (v, page) = (usize::from(vol.0), (sector / PAGE) as usize);
        if self.index.len() <= v {
            self.index.resize(v + 1, Vec::new());
        }
        let index = &mut self.index[v];
        if index.len() <= page {
            index.resize(page + 1, 0);
        }
        if index[page] == 0 {
            self.pages.push(at - sector % PAGE);
            index[page] = self.pages.len() as u32;
            let cells = self.pages.len() * PAGE as usize;
            self.current.resize(cells, self.blank);
            self.durable.resize(cells, self.blank);
            self.settled.resize(cells, 0);
        }
        (index[page] as usize - 1) * PAGE as usize + (sector % PAGE) as usize
    }

    fn read(&self, sector: u64) -> T {
        self.find(sector).map_or(self.blank, |i| self.current[i])
    }

    fn medium(&self, sector: u64) -> T {
        self.find(sector).map_or(self.blank, |i| self.durable[i])
    }

    fn write(&mut self, sector: u64, value: T, fua: bool, at: u64) {
        self.write_run(sector, &[value], fua, at);
    }

    /// Consecutive sectors.
    fn write_run(&mut self, mut sector: u64, mut values: &[T], fua: bool, at: u64) {
        while !values.is_empty() {
            let in_page = ((PAGE - sector % PAGE) as usize).min(values.len());
            let (now, rest) = values.split_at(in_page);
            let i = self.cell(sector);
            self.current[i..i + in_page].copy_from_slice(now);
            if fua {
                self.durable[i..i + in_page].copy_from_slice(now);
                self.settled[i..i + in_page].fill(at);
            } else {
                let each = now.iter().zip(sector..).zip(i as u32..);
                self.cache.extend(each.map(|((value, sector), cell)| Unflushed {
                    sector,
                    cell,
                    value: *value,
                    at,
                }));
            }
            sector += in_page as u64;
            values = rest;
        }
    }

    /// Appends what consecutive sectors hold.
    fn read_run(&self, mut sector: u64, count: u64, out: &mut Vec<T>) {
        let end = sector + count;
        while sector < end {
            let in_page = (PAGE - sector % PAGE).min(end - sector) as usize;
            match self.find(sector) {
                Some(i) => out.extend_from_slice(&self.current[i..i + in_page]),
                None => out.resize(out.len() + in_page, self.blank),
            }
            sector += in_page as u64;
        }
    }

    fn flush(&mut self, point: u64) {
        let done = self.cache.partition_point(|u| u.at <= point);
        for u in self.cache.drain(..done) {
            let i = u.cell as usize;
            if self.settled[i] < u.at {
                self.durable[i] = u.value;
            }
        }
    }

    fn power_loss(&mut self, tearing: Tearing, rng: &mut Rng) {
        let mut cache = std::mem::take(&mut self.cache);
        cache.retain(|u| self.settled[u.cell as usize] < u.at);
        match tearing {
            Tearing::Sectors => self.keep_sectors(&mut cache, rng),
            Tearing::Blocks => self.keep_pieces(&mut cache, tearing.piece_sectors(), rng),
        }
        cache.clear();
        self.cache = cache;
    }

    /// Each sector keeps what is on the medium, or any of what came after it.
    fn keep_sectors(&mut self, cache: &mut [Unflushed<T>], rng: &mut Rng) {
        cache.sort_by_key(|u| (u.sector, u.at));
        for of_one in cache.chunk_by(|a, b| a.sector == b.sector) {
            let i = of_one[0].cell as usize;
            if rng.one_in(2) {
                self.durable[i] = of_one[rng.below(of_one.len() as u64) as usize].value;
            }
            self.current[i] = self.durable[i];
        }
    }

    /// Any subset of the pieces of writes gets to the medium; of two in the same place the younger one stays.
    fn keep_pieces(&mut self, cache: &mut [Unflushed<T>], piece_sectors: u64, rng: &mut Rng) {
        cache.sort_by_key(|u| (u.sector / piece_sectors, u.at, u.sector));
        for piece in
            cache.chunk_by(|a, b| (a.sector / piece_sectors, a.at) == (b.sector / piece_sectors, b.at))
        {
            let stays = rng.one_in(2);
            for u in piece {
                let i = self.cell(u.sector);
                if stays {
                    self.durable[i] = u.value;
                }
                self.current[i] = self.durable[i];
            }
        }
    }

    /// The first sectors of pages that are not the same on both.
    fn different_pages<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u64> + 'a {
        let page = |a: &'a Self, first: u64| a.find(first).map(|i| &a.current[i..i + PAGE as usize]);
        let same = move |first: u64| match (page(self, first), page(other, first)) {
            (Some(a), Some(b)) => a == b,
            (Some(only), None) | (None, Some(only)) => only.iter().all(|x| *x == self.blank),
            (None, None) => true,
        };
        let theirs = other.pages.iter().filter(|first| self.find(**first).is_none());
        self.pages.iter().chain(theirs).copied().filter(move |first| !same(*first))
    }
}

/// What nobody wrote; larger than every version.
pub const JUNK: u64 = 1 << 40;

/// Backing disk of one node: the data of its volumes, and their metadata (addressed apart).
#[derive(Clone, Debug)]
pub struct Disk {
    /// Data sectors.
    pub sectors: u64,
    /// How it tears writes.
    pub tearing: Tearing,
    /// Versions; what was never written holds 0.
    data: Area<u64, DATA_PAGE>,
    /// 512-byte sectors of the metadata device, by their place in `contents`.
    metadata: Area<u32, META_PAGE>,
    contents: Contents,
    completed: u64,
}

/// What sectors of metadata have held, zeroes first: they are copied once, not wherever they are remembered.
#[derive(Clone, Debug)]
struct Contents(Vec<[u8; SECTOR_BYTES]>);

const SECTOR_BYTES: usize = 512;
const ZEROES: [u8; SECTOR_BYTES] = [0; SECTOR_BYTES];

impl Contents {
    /// The place of this content, in a sector that holds `before`.
    fn place(&mut self, part: &[u8; SECTOR_BYTES], before: u32) -> u32 {
        if *part == ZEROES {
            return 0;
        }
        if *part == self.0[before as usize] {
            return before;
        }
        self.0.push(*part);
        self.0.len() as u32 - 1
    }
}

impl Disk {
    /// A disk of zeroes.
    pub fn new(sectors: u64) -> Disk {
        Disk {
            sectors,
            tearing: Tearing::Sectors,
            data: Area::new(0),
            metadata: Area::new(0),
            contents: Contents(vec![ZEROES]),
            completed: 0,
        }
    }

    /// As new, with the memory of its former life.
    pub fn clear(&mut self, sectors: u64) {
        self.sectors = sectors;
        self.tearing = Tearing::Sectors;
        self.data.clear();
        self.metadata.clear();
        self.contents.0.truncate(1);
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

    /// Version in a sector as clients know it: what a disk held before it was a part of the device is as good as nothing.
    pub fn version(&self, sector: u64) -> u64 {
        Some(self.read(sector)).filter(|v| *v < JUNK || *v & ROTTEN != 0).unwrap_or(0)
    }

    /// A write completes.
    pub fn write(&mut self, sector: u64, versions: &[u64], fua: bool) {
        self.completed += 1;
        self.data.write_run(sector, versions, fua, self.completed);
    }

    /// Appends the versions in `count` sectors as read now.
    pub fn read_into(&self, sector: u64, count: u64, out: &mut Vec<u64>) {
        assert!(volume_and_sector(sector).1 + count <= self.sectors, "inside the disk");
        self.data.read_run(sector, count, out);
    }

    /// Sectors decay on the medium: they hold what nobody has written.
    pub fn rot(&mut self, sector: u64, count: u64) {
        let decayed: Vec<u64> = (sector..sector + count).map(|s| self.read(s) | ROTTEN).collect();
        self.write(sector, &decayed, true);
    }

    /// A metadata block write completes.
    pub fn write_md(&mut self, sector: u64, block: &[u8], fua: bool) {
        self.completed += 1;
        for (i, part) in block.as_chunks().0.iter().enumerate() {
            let sector = sector + i as u64;
            let content = self.contents.place(part, self.metadata.read(sector));
            self.metadata.write(sector, content, fua, self.completed);
        }
    }

    /// Metadata as read now.
    pub fn read_md(&self, sector: u64, sectors: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(sectors as usize * SECTOR_BYTES);
        for s in sector..sector + sectors {
            out.extend_from_slice(&self.contents.0[self.metadata.read(s) as usize]);
        }
        out
    }

    /// Point up to which a flush submitted now reaches.
    pub fn flush_point(&self) -> u64 {
        self.completed
    }

    /// Every sector that does not hold zeroes now.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        let sectors = self.data.pages.iter().flat_map(|first| *first..*first + DATA_PAGE);
        sectors.zip(&self.data.current).filter(|(_, v)| **v != 0).map(|(s, _)| s)
    }

    /// Sectors that hold something else on the other disk.
    pub fn differences<'a>(&'a self, other: &'a Disk) -> impl Iterator<Item = u64> + 'a {
        let pages = self.data.different_pages(&other.data);
        let all = pages.flat_map(|first| first..first + DATA_PAGE);
        all.filter(|s| self.data.read(*s) != other.data.read(*s))
    }

    /// A flush completes that was submitted at `point`.
    pub fn flush(&mut self, point: u64) {
        self.data.flush(point);
        self.metadata.flush(point);
    }

    /// Power loss: each piece of a write that was not flushed survives or not.
    pub fn power_loss(&mut self, rng: &mut Rng) {
        self.data.power_loss(self.tearing, rng);
        self.metadata.power_loss(self.tearing, rng);
    }

    /// A write that was in flight at a crash: each piece made it or not.
    pub fn torn_write(&mut self, sector: u64, versions: &[u64], rng: &mut Rng) {
        self.completed += 1;
        for piece in self.tearing.pieces(sector, versions.len() as u64) {
            if rng.one_in(2) {
                for i in piece {
                    self.data.write(sector + i as u64, versions[i], false, self.completed);
                }
            }
        }
    }

    /// A metadata write that was in flight at a crash.
    pub fn torn_md(&mut self, sector: u64, block: &[u8], flush: Option<u64>, rng: &mut Rng) {
        if let Some(point) = flush {
            if rng.one_in(2) {
                // It ended while the flush before it was under way, which goes first.
                return;
            }
            self.flush(point);
        }
        self.completed += 1;
        let parts = block.as_chunks::<512>().0;
        for piece in self.tearing.pieces(sector, parts.len() as u64) {
            if rng.one_in(2) {
                for i in piece {
                    let sector = sector + i as u64;
                    let content = self.contents.place(&parts[i], self.metadata.read(sector));
                    self.metadata.write(sector, content, false, self.completed);
                }
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

    /// What power losses leave of sectors 6 to 25 after one write over all of them, one of sectors 8 to 15 over it, and one
    /// of metadata.
    fn left_of_writes(tearing: Tearing, seed: u64) -> (Vec<u64>, Vec<u8>) {
        let mut d = Disk::new(100);
        d.tearing = tearing;
        d.write(6, &[1; 20], false);
        d.write(8, &[2; 8], false);
        d.write_md(16, &[7; 8192], false);
        d.power_loss(&mut Rng::new(seed));
        ((6..26).map(|s| d.read(s)).collect(), (16..32).map(|s| d.read_md(s, 1)[0]).collect())
    }

    #[test]
    fn blocks_of_4_kib_survive_whole_or_not_at_all() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..4000 {
            let (data, metadata) = left_of_writes(Tearing::Blocks, seed);
            for piece in [0..2, 2..10, 10..18, 18..20] {
                assert!(data[piece.clone()].iter().all(|v| *v == data[piece.start]), "{data:?}");
            }
            assert!(metadata.chunks(8).all(|b| b.iter().all(|v| *v == b[0])), "{metadata:?}");
            seen.insert(([0, 2, 10, 18].map(|i| data[i]), [metadata[0], metadata[8]]));
        }
        assert_eq!(seen.len(), 2 * 3 * 2 * 2 * 4, "in any combination");
    }

    #[test]
    fn sectors_survive_each_on_its_own() {
        let mixed = |b: &[u64]| b.iter().any(|v| *v != b[0]);
        let torn = (0..50).filter(|seed| mixed(&left_of_writes(Tearing::Sectors, *seed).0[10..18])).count();
        assert!(torn > 40, "{torn}");
    }

    #[test]
    fn a_write_in_flight_is_torn_into_the_same_pieces() {
        for (tearing, size) in [(Tearing::Sectors, 1), (Tearing::Blocks, 8)] {
            let mut smallest = 100;
            for seed in 0..100 {
                let mut d = Disk::new(100);
                d.tearing = tearing;
                d.torn_write(8, &[3; 24], &mut Rng::new(seed));
                let there: Vec<u64> = (8..32).map(|s| d.read(s)).collect();
                there.chunk_by(|a, b| a == b).for_each(|run| smallest = smallest.min(run.len()));
            }
            assert_eq!(smallest, size);
        }
    }

    #[test]
    fn a_cleared_disk_is_a_new_one() {
        let mut d = Disk::new(100);
        d.tearing = Tearing::Blocks;
        d.write(64, &[1], true);
        d.write_md(8, &[7; 4096], true);
        d.clear(50);
        assert_eq!((d.sectors, d.medium(64), d.written().count()), (50, 0, 0));
        assert_eq!(d.tearing, Tearing::Sectors);
        assert_eq!(d.read_md(8, 1), [0; 512]);
    }
}
