//! A metadata device or file: opened so that nobody else uses it, read and written by sectors.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use replicator::meta::layout::{INDEXED_SLOT_SECTORS, Layout, MetaKind, superblock_sector};
use replicator::meta::superblock::{SUPERBLOCK_BYTES, SuperBlock, SuperBlockError};

use super::{MetaError, MetaTarget};

/// What a command is going to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Look only; works while the device is in use.
    Read,
    /// Change it; nobody else may use it.
    Write,
}

/// An open metadata device. The claim on it ends when it is dropped.
#[derive(Debug)]
pub struct MetaDevice {
    file: File,
    path: PathBuf,
    kind: MetaKind,
    sectors: u64,
    in_use: bool,
}

/// What is at the place of the super block.
#[derive(Debug)]
pub enum Found {
    /// Metadata that belongs to this device.
    Valid(SuperBlock, Layout),
    /// v08 metadata that contradicts itself or the device.
    Damaged(SuperBlockError),
    /// Another version.
    Foreign(SuperBlockError),
    /// Nothing.
    Nothing,
}

impl MetaDevice {
    /// Opens and claims the metadata device of `target`.
    ///
    /// Block devices are opened with `O_EXCL`, regular files are locked with `flock`, and an index claims just its
    /// slot by a lock on that range: a daemon that has the device attached must hold the same.
    pub fn open(target: &MetaTarget, access: Access) -> Result<MetaDevice, MetaError> {
        let path = target.meta.clone();
        let open = |exclusive| open_file(&path, access, exclusive);
        let shared = matches!(target.kind, MetaKind::Indexed(_));
        let is_block = is_block_device(&path)?;
        let claim = if is_block && !shared { open(true) } else { open(false) };
        let (mut file, mut in_use) = match claim {
            Ok(file) => (file, false),
            Err(MetaError::Busy(_)) if access == Access::Read => (open(false)?, true),
            Err(e) => return Err(e),
        };
        if shared || !is_block {
            in_use = !lock(&file, target.kind, access).map_err(|source| open_error(&path, source))?;
        }
        if in_use && access == Access::Write {
            return Err(MetaError::Busy(path));
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(|source| open_error(&path, source))?;
        Ok(MetaDevice { file, path, kind: target.kind, sectors: bytes / 512, in_use })
    }

    /// Somebody else has the device: what is read may be old.
    pub fn in_use(&self) -> bool {
        self.in_use
    }

    /// Size in sectors, rounded down.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Kind of metadata it was opened for.
    pub fn kind(&self) -> MetaKind {
        self.kind
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hands out the file with the claim on it, for a daemon that goes on using the device.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads the place of the super block; the inner error says why there is none of this version.
    pub fn superblock(&self) -> Result<Result<SuperBlock, SuperBlockError>, MetaError> {
        let Some(sector) = superblock_sector(self.kind, self.sectors) else {
            return Ok(Err(SuperBlockError::NoMagic));
        };
        let mut raw = [0; SUPERBLOCK_BYTES];
        self.read(sector, &mut raw)?;
        Ok(SuperBlock::decode(&raw))
    }

    /// Reads the place of the super block and judges it.
    pub fn find(&self) -> Result<Found, MetaError> {
        Ok(match self.superblock()? {
            Ok(sb) => match sb.check_for_tools(self.kind, self.sectors) {
                Ok(layout) => Found::Valid(sb, layout),
                Err(e) => Found::Damaged(e),
            },
            Err(SuperBlockError::NoMagic) => Found::Nothing,
            Err(e) => Found::Foreign(e),
        })
    }

    /// The metadata of this device, or why there is none.
    pub fn valid(&self) -> Result<(SuperBlock, Layout), MetaError> {
        match self.find()? {
            Found::Valid(sb, layout) => Ok((sb, layout)),
            Found::Damaged(e) => Err(MetaError::Damaged(e)),
            Found::Foreign(e) => Err(MetaError::Foreign(e)),
            Found::Nothing => Err(MetaError::NoMetaData),
        }
    }

    /// Fills `buffer` from `sector` on.
    pub fn read(&self, sector: u64, buffer: &mut [u8]) -> Result<(), MetaError> {
        let byte = sector * 512;
        self.file.read_exact_at(buffer, byte).map_err(|source| self.io("read", byte, source))
    }

    /// Writes `bytes` from `sector` on; stable after [`sync`](Self::sync).
    pub fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), MetaError> {
        let byte = sector * 512;
        let end_sector = sector.saturating_add(bytes.len().div_ceil(512) as u64);
        assert!(end_sector <= self.sectors, "write behind the end of the device");
        self.file.write_all_at(bytes, byte).map_err(|source| self.io("write", byte, source))
    }

    /// Everything written is on stable storage.
    pub fn sync(&self) -> Result<(), MetaError> {
        self.file.sync_all().map_err(|source| self.io("flush", 0, source))
    }

    /// Writes the super block and makes it stable. What it refers to must be stable already.
    pub fn write_superblock(&self, sector: u64, sb: &SuperBlock) -> Result<(), MetaError> {
        let mut raw = [0; SUPERBLOCK_BYTES];
        sb.encode(&mut raw);
        self.write(sector, &raw)?;
        self.sync()
    }

    /// Zeroes the super block and makes that stable, so that a crash while the rest is being replaced leaves no
    /// metadata instead of old metadata with a new bitmap.
    pub fn wipe_superblock(&self, sector: u64) -> Result<(), MetaError> {
        self.write(sector, &[0; SUPERBLOCK_BYTES])?;
        self.sync()
    }

    fn io(&self, what: &'static str, byte: u64, source: io::Error) -> MetaError {
        MetaError::Io { path: self.path.clone(), what, byte, source }
    }
}

/// Size of a data device or file in sectors.
pub fn sectors_of(path: &Path) -> Result<u64, MetaError> {
    is_block_device(path)?;
    let mut file = File::open(path).map_err(|source| open_error(path, source))?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(|source| open_error(path, source))?;
    Ok(bytes / 512)
}

/// Block device or regular file; anything else is refused.
fn is_block_device(path: &Path) -> Result<bool, MetaError> {
    let kind = std::fs::metadata(path).map_err(|source| open_error(path, source))?.file_type();
    if !kind.is_block_device() && !kind.is_file() {
        return Err(MetaError::NotADevice(path.to_path_buf()));
    }
    Ok(kind.is_block_device())
}

fn open_file(path: &Path, access: Access, exclusive: bool) -> Result<File, MetaError> {
    let flags = if exclusive { OFlag::O_EXCL } else { OFlag::empty() } | OFlag::O_CLOEXEC;
    OpenOptions::new()
        .read(true)
        .write(access == Access::Write)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|source| open_error(path, source))
}

/// Claims the file, or the slot of the device. `false`: somebody else has it.
fn lock(file: &File, kind: MetaKind, access: Access) -> io::Result<bool> {
    let MetaKind::Indexed(n) = kind else {
        let result = if access == Access::Write { file.try_lock() } else { file.try_lock_shared() };
        return match result {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        };
    };
    let slot_bytes = INDEXED_SLOT_SECTORS * 512;
    let range = libc::flock {
        l_type: if access == Access::Write { libc::F_WRLCK } else { libc::F_RDLCK } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (u64::from(n) * slot_bytes) as libc::off_t,
        l_len: slot_bytes as libc::off_t,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn open_error(path: &Path, source: io::Error) -> MetaError {
    if source.raw_os_error() == Some(Errno::EBUSY as i32) {
        return MetaError::Busy(path.to_path_buf());
    }
    MetaError::Open { path: path.to_path_buf(), source }
}
