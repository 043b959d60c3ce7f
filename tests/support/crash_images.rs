//! What a disk may hold after a loss of power, from a record of its writes: all that was durable, and any part of what
//! was in its cache.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use lockstep::cli::meta::MetaTarget;
use lockstep::cli::meta::apply::{apply_al_if_needed, load_for_attach};
use replicator::meta::layout::MetaKind;
use replicator::meta::superblock::MetaFlags;

use crate::verifier::{Random, ZEROES, fill, version_of};
use crate::write_log::Entry;

/// Version of the content of a sector; 0: never written. Versions only grow.
pub type Version = u64;
const SECTOR_BYTES: usize = 512;
/// What a bit of the bitmap stands for.
pub const BLOCK_SECTORS: usize = 8;
/// Sectors whose versions are copied together, a multiple of a block.
const CHUNK_SECTORS: usize = 1024;

/// Version of every sector. A copy shares what is not changed afterwards.
#[derive(Clone)]
pub struct Versions {
    chunks: Vec<Rc<[Version; CHUNK_SECTORS]>>,
    sectors: usize,
}

impl Versions {
    pub fn blank(sectors: usize) -> Versions {
        let blank = Rc::new([0; CHUNK_SECTORS]);
        Versions { chunks: vec![blank; sectors.div_ceil(CHUNK_SECTORS)], sectors }
    }

    /// Those of some sectors of one block.
    pub fn of(&self, sectors: Range<usize>) -> &[Version] {
        let at = sectors.start % CHUNK_SECTORS;
        &self.chunks[sectors.start / CHUNK_SECTORS][at..at + sectors.len()]
    }

    /// The sector holds this version, or goes on holding a newer one.
    pub fn raise(&mut self, sector: usize, version: Version) {
        let chunk = &mut self.chunks[sector / CHUNK_SECTORS];
        if chunk[sector % CHUNK_SECTORS] < version {
            Rc::make_mut(chunk)[sector % CHUNK_SECTORS] = version;
        }
    }
}

/// Sectors of a block.
pub fn sectors_of(block: usize) -> Range<usize> {
    block * BLOCK_SECTORS..(block + 1) * BLOCK_SECTORS
}

/// Content of a disk with internal metadata.
#[derive(Clone)]
pub struct Image {
    /// Of each sector of the data.
    pub versions: Versions,
    /// From the end of the data to the end of the disk.
    pub meta: Vec<u8>,
}

/// The part of a write that is on one side of the border between data and metadata.
#[derive(Clone)]
enum Piece {
    Data { first: usize, versions: Vec<Version> },
    Meta { at_bytes: usize, bytes: Vec<u8> },
}

impl Piece {
    fn apply(&self, image: &mut Image) {
        self.apply_sectors(image, |_| true);
    }

    /// Only the chosen sectors; the disk was about to write the others.
    fn apply_sectors(&self, image: &mut Image, mut keep: impl FnMut(usize) -> bool) {
        match self {
            Piece::Data { first, versions } => {
                for (n, version) in versions.iter().enumerate().filter(|(n, _)| keep(*n)) {
                    // A write that bypassed the cache is recorded before older ones that are still in it.
                    image.versions.raise(first + n, *version);
                }
            }
            Piece::Meta { at_bytes, bytes } => {
                for (n, sector) in bytes.chunks(SECTOR_BYTES).enumerate().filter(|(n, _)| keep(*n)) {
                    let at = at_bytes + n * SECTOR_BYTES;
                    image.meta[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
    }

    fn blocks(&self) -> Range<usize> {
        match self {
            Piece::Data { first, versions } => {
                first / BLOCK_SECTORS..(first + versions.len()).div_ceil(BLOCK_SECTORS)
            }
            Piece::Meta { .. } => 0..0,
        }
    }

    fn newest(&self) -> Option<Version> {
        match self {
            Piece::Data { versions, .. } => versions.iter().max().copied(),
            Piece::Meta { .. } => None,
        }
    }
}

enum Step {
    Write(Piece, bool),
    Flush,
    Mark(u64),
}

/// What a disk may hold, and when.
pub struct Moment {
    pub what: &'static str,
    pub image: Image,
    /// Blocks of data that were complete and may be lost.
    pub in_cache: BTreeSet<usize>,
}

/// A record that is played back.
pub struct Playback {
    steps: VecDeque<Step>,
    /// Everything that is durable at the present place.
    pub durable: Image,
}

impl Playback {
    /// At the beginning, of a disk of `disk_sectors` that was blank and has `data_sectors` for data.
    pub fn new(entries: Vec<Entry>, disk_sectors: usize, data_sectors: usize) -> Playback {
        let mut steps = VecDeque::new();
        for entry in entries {
            match entry {
                Entry::Flush => steps.push_back(Step::Flush),
                Entry::Mark(n) => steps.push_back(Step::Mark(n)),
                Entry::Write { sector, data, fua } => {
                    let sector = usize::try_from(sector).expect("a small disk");
                    let in_data = data_sectors.saturating_sub(sector) * SECTOR_BYTES;
                    let (data, meta) = data.split_at(in_data.min(data.len()));
                    if !data.is_empty() {
                        let versions = data.chunks(SECTOR_BYTES).enumerate().map(|(n, bytes)| {
                            let version = version_of(bytes, (sector + n) as u64);
                            version.expect("only what the client sent is written") & !ZEROES
                        });
                        let versions: Vec<Version> = versions.collect();
                        // A resync copies a lot of blank sectors.
                        if versions.iter().any(|version| *version != 0) {
                            steps.push_back(Step::Write(Piece::Data { first: sector, versions }, fua));
                        }
                    }
                    if !meta.is_empty() {
                        let at_bytes = sector.max(data_sectors) - data_sectors;
                        let piece = Piece::Meta { at_bytes: at_bytes * SECTOR_BYTES, bytes: meta.to_vec() };
                        steps.push_back(Step::Write(piece, fua));
                    }
                }
            }
        }
        let meta = vec![0; (disk_sectors - data_sectors) * SECTOR_BYTES];
        Playback { steps, durable: Image { versions: Versions::blank(data_sectors), meta } }
    }

    /// Goes on to a mark and returns what the disk may hold on the way there.
    ///
    /// Of what is in the cache at some moment only that is known which was complete when a flush was sent, and what
    /// clients had an answer for, which are all versions up to `answered`.
    pub fn play_to(&mut self, mark: u64, answered: Version, random: &mut Random) -> Vec<Moment> {
        let mut cached: Vec<Piece> = Vec::new();
        let mut moments = Vec::new();
        let mut see = |what, image: &Image, in_cache| {
            moments.push(Moment { what, image: image.clone(), in_cache });
        };
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Mark(n) if n == mark => {
                    assert!(cached.is_empty(), "writes are recorded together with their flush");
                    return moments;
                }
                Step::Mark(_) => {}
                Step::Write(piece, true) => {
                    let mut torn = self.durable.clone();
                    piece.apply_sectors(&mut torn, |_| random.one_in(2));
                    see("in the middle of a write with FUA", &torn, BTreeSet::new());
                    piece.apply(&mut self.durable);
                    let some = self.some_cached(answered, random);
                    see("after a write with FUA", &self.durable, BTreeSet::new());
                    see("after a write with FUA, with some of the cache", &some, BTreeSet::new());
                }
                Step::Write(piece, false) => cached.push(piece),
                Step::Flush => {
                    let in_cache: BTreeSet<usize> = cached.iter().flat_map(Piece::blocks).collect();
                    for one_in in [2, 4] {
                        let mut some = self.durable.clone();
                        for piece in &cached {
                            if random.one_in(one_in) {
                                piece.apply(&mut some);
                            } else if random.one_in(8) {
                                piece.apply_sectors(&mut some, |_| random.one_in(2));
                            }
                        }
                        see("before the end of a flush", &some, in_cache.clone());
                    }
                    for piece in cached.drain(..) {
                        piece.apply(&mut self.durable);
                    }
                    let some = self.some_cached(answered, random);
                    see("after a flush", &self.durable, BTreeSet::new());
                    see("after a flush, with some of the cache", &some, BTreeSet::new());
                }
            }
        }
        panic!("mark {mark} is not in the log");
    }

    /// What is durable, and everything that clients had an answer for.
    pub fn all_cached(&self, answered: Version) -> Image {
        self.with_cached(answered, || true)
    }

    /// What is durable, and some of what clients had an answer for.
    pub fn some_cached(&self, answered: Version, random: &mut Random) -> Image {
        let share = 2 + random.below(3);
        self.with_cached(answered, || random.one_in(share))
    }

    fn with_cached(&self, answered: Version, mut keep: impl FnMut() -> bool) -> Image {
        let mut image = self.durable.clone();
        for step in self.steps.iter().take(CACHED_STEPS_MAX) {
            if let Step::Write(piece, false) = step
                && piece.newest().is_some_and(|version| version <= answered)
                && keep()
            {
                piece.apply(&mut image);
            }
        }
        image
    }
}

/// How far behind its completion a write may be recorded.
const CACHED_STEPS_MAX: usize = 2000;

/// A file that holds one image after the other.
pub struct ImageFile {
    file: File,
    path: PathBuf,
}

/// What a node that starts on an image finds.
pub struct Found {
    bitmap: Vec<u64>,
    /// Not in the middle of a resync.
    pub is_consistent: bool,
}

impl Found {
    /// The block will be compared with the peer's.
    pub fn is_marked(&self, block: usize) -> bool {
        self.bitmap[block / 64] >> (block % 64) & 1 != 0
    }
}

impl ImageFile {
    pub fn create(path: &Path) -> ImageFile {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path);
        ImageFile { file: file.expect("a file for images"), path: path.to_path_buf() }
    }

    /// Applies the activity log and reads the metadata of `image`, as an attach does.
    ///
    /// # Errors
    /// The disk could not be attached.
    pub fn attach(&self, image: &Image) -> Result<Found, String> {
        let data_bytes = (image.versions.sectors * SECTOR_BYTES) as u64;
        self.file.write_all_at(&image.meta, data_bytes).expect("the metadata of an image");
        let target =
            MetaTarget { data: self.path.clone(), meta: self.path.clone(), kind: MetaKind::Internal };
        apply_al_if_needed(&target).map_err(|e| e.to_string())?;
        let meta = load_for_attach(&target).map_err(|e| e.to_string())?;
        if meta.superblock.la_size_sectors != image.versions.sectors as u64 {
            return Err(format!("the size is {} sectors", meta.superblock.la_size_sectors));
        }
        let is_consistent = meta.superblock.flags.has(MetaFlags::CONSISTENT);
        Ok(Found { bitmap: meta.bitmap, is_consistent })
    }
}

/// Writes a whole image.
pub fn write_disk(image: &Image, path: &Path) {
    let file = File::create(path).expect("a disk");
    let data_bytes = (image.versions.sectors * SECTOR_BYTES) as u64;
    file.set_len(data_bytes).expect("its size");
    let mut bytes = [0; SECTOR_BYTES];
    let versions = image.versions.chunks.iter().flat_map(|chunk| chunk.iter());
    for (sector, version) in versions.enumerate().filter(|(_, version)| **version != 0) {
        fill(&mut bytes, sector as u64, *version);
        file.write_all_at(&bytes, (sector * SECTOR_BYTES) as u64).expect("a sector");
    }
    file.write_all_at(&image.meta, data_bytes).expect("metadata");
}

/// What the sectors of some blocks of a disk hold.
pub fn read_versions(path: &Path, blocks: &[usize]) -> Vec<(usize, Version)> {
    let file = File::open(path).expect("a disk");
    let mut bytes = [0; SECTOR_BYTES];
    let sectors = blocks.iter().flat_map(|block| sectors_of(*block));
    sectors
        .map(|sector| {
            file.read_exact_at(&mut bytes, (sector * SECTOR_BYTES) as u64).expect("a sector");
            let version = version_of(&bytes, sector as u64);
            (sector, version.expect("only what the client sent is on the disk") & !ZEROES)
        })
        .collect()
}
