//! Backing disks: opening, claiming and measuring them. Their I/O goes through the ring.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

mod file;
mod probe;

use file::Claimed;

/// How to open a backing disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Refuse writes; the claim is exclusive all the same.
    pub read_only: bool,
    /// Use the page cache even where direct I/O would work.
    pub buffered: bool,
    /// Claim this part alone, because others use the rest of the device; they have to do the same.
    pub part: Option<Part>,
}

/// A range of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Where it begins (bytes).
    pub offset_bytes: u64,
    /// How long it is (bytes).
    pub len_bytes: u64,
}

impl OpenOptions {
    /// Opens the block device or regular file at `path` and claims it for this process: a block device against
    /// mounts and other exclusive openers (`O_EXCL`), a file against others who lock it (flock), a part of either against
    /// others who lock that range.
    ///
    /// # Errors
    /// See [`BackingError`]. [`BackingError::InUse`] may go away by itself, the others need a person.
    pub fn open(&self, path: &Path) -> Result<Backing, BackingError> {
        Backing::open(path, *self)
    }
}

/// Why a backing disk cannot be used. All are faults of the configuration or the disk, none of the peer.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// Mounted, part of an array or volume group, or opened by another daemon.
    #[error("{} is in use: mounted, part of another device, or opened by another daemon", path.display())]
    InUse {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Neither a block device nor a regular file.
    #[error("{} is neither a block device nor a regular file", path.display())]
    WrongKind {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What kind of thing a backing disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackingKind {
    /// A block device.
    BlockDevice,
    /// A regular file.
    RegularFile,
}

/// How I/O reaches a backing disk. Either way a completed write is on stable storage only after a flush, or
/// when it was written with `fua`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoPath {
    /// Around the page cache; every sector range can be read and written.
    Direct,
    /// Through the page cache, because it was asked for.
    BufferedByChoice,
    /// Through the page cache, because the filesystem refuses direct I/O.
    BufferedNoDirect,
    /// Through the page cache, because direct I/O on this file works in larger units than sectors, of so many
    /// bytes. Mixing both ways on one file would need each to see the other's writes, so one is used for all.
    BufferedCoarse(u32),
}

/// What a disk can do and likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Smallest unit of I/O (bytes); offsets and lengths are multiples of it.
    pub logical_block_bytes: u32,
    /// Unit that the disk writes without reading first (bytes).
    pub physical_block_bytes: u32,
    /// Present when ranges can be given back to the storage.
    pub discard: Option<DiscardLimits>,
    /// Spinning disk.
    pub rotational: bool,
    /// The disk has a volatile cache, so flushes matter. True when unknown.
    pub write_cache: bool,
}

/// How ranges are given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiscardLimits {
    /// Unit (bytes); parts of units at the ends of a range may be ignored or written as zeroes.
    pub granularity_bytes: u32,
    /// Offset of the first unit's border from the start of the disk (bytes).
    pub alignment_bytes: u32,
    /// Longest range in one request of the disk (bytes); the kernel splits longer ones.
    pub max_bytes: u64,
}

/// An open, claimed backing disk. Dropping it ends the claim once operations in flight are done.
#[derive(Debug)]
pub struct Backing {
    claimed: Claimed,
    path: PathBuf,
    kind: BackingKind,
    io_path: IoPath,
    size_bytes: u64,
    limits: Limits,
}

impl Backing {
    fn open(path: &Path, options: OpenOptions) -> Result<Backing, BackingError> {
        let (claimed, kind, io_path) = file::open(path, options)?;
        let io = |action, source| BackingError::Io { action, path: path.to_path_buf(), source };
        let size_bytes = file::size_bytes(claimed.file()).map_err(|e| io("measure", e))?;
        let limits = match kind {
            BackingKind::BlockDevice => probe::block_device(claimed.file()),
            BackingKind::RegularFile => probe::regular_file(claimed.file(), size_bytes, options.read_only),
        };
        let limits = limits.map_err(|e| io("examine", e))?;
        Ok(Backing { claimed, path: path.to_path_buf(), kind, io_path, size_bytes, limits })
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device or file.
    pub fn kind(&self) -> BackingKind {
        self.kind
    }

    /// How its I/O is done, and why.
    pub fn io_path(&self) -> IoPath {
        self.io_path
    }

    /// Size when opened or last measured (bytes).
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whole sectors of 512 bytes.
    pub fn size_sectors(&self) -> u64 {
        self.size_bytes / u64::from(model::units::SECTOR_BYTES)
    }

    /// What it can do.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Looks at the size again; disks grow.
    ///
    /// # Errors
    /// The device is gone.
    pub fn measure(&mut self) -> std::io::Result<u64> {
        self.size_bytes = file::size_bytes(self.claimed.file())?;
        Ok(self.size_bytes)
    }
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.claimed.file().as_fd()
    }
}

#[cfg(test)]
mod tests;
