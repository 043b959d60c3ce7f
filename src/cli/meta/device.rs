//! A metadata device or file: opened so that nobody else uses it, read and written by sectors.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// `None` only once the file was handed out.
    file: Option<File>,
    path: PathBuf,
    kind: MetaKind,
    sectors: u64,
    in_use: bool,
}

/// How long to wait for a claim. drbdmeta waits a second for its lock; a killed daemon's ring may hold the disk longer.
pub const CLAIM_PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two attempts.
pub const CLAIM_RETRY: Duration = Duration::from_millis(20);

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
    /// slot by a lock on that range: a daemon that has the device attached must hold the same. A device that is mounted,
    /// or attached as a whole, has no slots.
    ///
    /// To change something, waits up to three seconds for another command to finish, or for the kernel to let go of what a
    /// killed daemon had under way.
    pub fn open(target: &MetaTarget, access: Access) -> Result<MetaDevice, MetaError> {
        let give_up = Instant::now() + CLAIM_PATIENCE;
        loop {
            match MetaDevice::try_open(target, access) {
                Err(MetaError::Busy(_)) if Instant::now() < give_up => std::thread::sleep(CLAIM_RETRY),
                result => return result,
            }
        }
    }

    fn try_open(target: &MetaTarget, access: Access) -> Result<MetaDevice, MetaError> {
        let path = target.meta.clone();
        let open = |exclusive| open_file(&path, access, exclusive);
        let shared = matches!(target.kind, MetaKind::Indexed(_));
        let is_block = is_block_device(&path)?;
        if is_block && shared && access == Access::Write {
            // Who uses another slot has locked that. Who has the whole device to himself has something else on it.
            drop(open(true)?);
        }
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
        Ok(MetaDevice { file: Some(file), path, kind: target.kind, sectors: bytes / 512, in_use })
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
    pub fn into_file(mut self) -> File {
        self.file.take().expect("the file is handed out once, by value")
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
        self.file().read_exact_at(buffer, byte).map_err(|source| self.io("read", byte, source))
    }

    /// Writes `bytes` from `sector` on; stable after [`sync`](Self::sync).
    pub fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), MetaError> {
        let byte = sector * 512;
        let end_sector = sector.saturating_add(bytes.len().div_ceil(512) as u64);
        assert!(end_sector <= self.sectors, "write behind the end of the device");
        #[cfg(test)]
        journal::record(journal::Op::Write { byte, bytes: bytes.to_vec() });
        self.file().write_all_at(bytes, byte).map_err(|source| self.io("write", byte, source))
    }

    /// Everything written is on stable storage.
    pub fn sync(&self) -> Result<(), MetaError> {
        #[cfg(test)]
        journal::record(journal::Op::Sync);
        self.file().sync_all().map_err(|source| self.io("flush", 0, source))
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

    fn file(&self) -> &File {
        self.file.as_ref().expect("the file is handed out by value only")
    }

    fn io(&self, what: &'static str, byte: u64, source: io::Error) -> MetaError {
        MetaError::Io { path: self.path.clone(), what, byte, source }
    }
}

impl Drop for MetaDevice {
    /// Gives locks up at once: a child process between fork and exec shares the open file and would keep them.
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        // Nothing is left to be done about a failure: closing the file ends the lock too.
        let _ = match self.kind {
            MetaKind::Indexed(n) => set_slot_lock(file, n, libc::F_UNLCK).map(|_| ()),
            MetaKind::Internal | MetaKind::FlexibleExternal => file.unlock(),
        };
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
    set_slot_lock(file, n, if access == Access::Write { libc::F_WRLCK } else { libc::F_RDLCK })
}

/// Locks or unlocks the range of one slot. `false`: somebody else has it.
fn set_slot_lock(file: &File, slot: u32, lock_type: libc::c_int) -> io::Result<bool> {
    let slot_bytes = INDEXED_SLOT_SECTORS * 512;
    let range = libc::flock {
        l_type: lock_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (u64::from(slot) * slot_bytes) as libc::off_t,
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

/// What was written and made stable, in order, so that tests can rebuild what a crash leaves.
#[cfg(test)]
pub mod journal {
    use std::cell::RefCell;

    /// One operation on the device.
    #[derive(Clone, Debug)]
    pub enum Op {
        /// Bytes written at a position.
        Write {
            /// Position on the device.
            byte: u64,
            /// What was written.
            bytes: Vec<u8>,
        },
        /// Everything before is stable.
        Sync,
    }

    thread_local! {
        static OPS: RefCell<Option<Vec<Op>>> = const { RefCell::new(None) };
    }

    /// Runs `work` on this thread and returns the operations it did.
    pub fn of<T>(work: impl FnOnce() -> T) -> (T, Vec<Op>) {
        OPS.set(Some(Vec::new()));
        let result = work();
        (result, OPS.take().unwrap_or_default())
    }

    pub(super) fn record(op: Op) {
        OPS.with_borrow_mut(|ops| {
            if let Some(ops) = ops {
                ops.push(op);
            }
        });
    }
}
