//! Opening and claiming.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::{BackingError, BackingKind, IoPath, OpenOptions, Part, probe};

/// An open file with what keeps others away: `O_EXCL`, a lock of the whole, or one of a part. Each belongs to the open file
/// and ends with it, when the last operation of the kernel has let go of it. So no lock is ever taken back before.
#[derive(Debug)]
pub(super) struct Claimed(File);

impl Claimed {
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

/// Opens and claims `path`, by direct I/O if it works for every sector.
pub(super) fn open(
    path: &Path,
    options: OpenOptions,
) -> Result<(Claimed, BackingKind, IoPath), BackingError> {
    // Before opening: only then is it known whether O_EXCL has a meaning, and a FIFO would block.
    let kind = kind_of(&std::fs::metadata(path).map_err(|e| io_error("find", path, e))?, path)?;
    let (mut file, mut io_path) = open_file(path, options, kind)?;
    let opened = file.metadata().map_err(|e| io_error("examine", path, e))?;
    if kind_of(&opened, path)? != kind {
        return Err(BackingError::WrongKind { path: path.to_path_buf() });
    }
    if io_path == IoPath::Direct {
        let unit = match kind {
            BackingKind::RegularFile => probe::direct_unit_bytes(&file),
            BackingKind::BlockDevice => probe::block_device(&file).map(|l| Some(l.logical_block_bytes)),
        };
        let unit = unit.map_err(|e| io_error("examine", path, e))?;
        if unit != Some(model::units::SECTOR_BYTES) {
            io_path = unit.map_or(IoPath::BufferedNoDirect, IoPath::BufferedCoarse);
            // Its claim of a device would keep the next one out.
            drop(file);
            file = open_buffered(path, options, kind)?;
        }
    }
    let claimed = match (options.part, kind) {
        (Some(part), _) => lock_part(&file, part, options.read_only),
        (None, BackingKind::BlockDevice) => Ok(true),
        (None, BackingKind::RegularFile) => match file.try_lock() {
            Err(TryLockError::Error(error)) => Err(error),
            locked => Ok(locked.is_ok()),
        },
    };
    match claimed {
        Ok(true) => Ok((Claimed(file), kind, io_path)),
        Ok(false) => Err(BackingError::InUse { path: path.to_path_buf() }),
        Err(error) => Err(io_error("lock", path, error)),
    }
}

/// A lock of the open file, not of the process: several parts of one device may be open here. False: somebody else has it.
fn lock_part(file: &File, part: Part, read_only: bool) -> io::Result<bool> {
    let offset = |bytes: u64| libc::off_t::try_from(bytes).map_err(|_| Errno::EOVERFLOW);
    let range = libc::flock {
        l_type: if read_only { libc::F_RDLCK } else { libc::F_WRLCK } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset(part.offset_bytes)?,
        l_len: offset(part.len_bytes)?,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Size by seeking to the end, which works for devices too. Nothing uses the file position.
pub(super) fn size_bytes(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

fn open_file(path: &Path, options: OpenOptions, kind: BackingKind) -> Result<(File, IoPath), BackingError> {
    if options.buffered {
        return Ok((open_buffered(path, options, kind)?, IoPath::BufferedByChoice));
    }
    match try_open(path, options, kind, libc::O_DIRECT) {
        Ok(file) => Ok((file, IoPath::Direct)),
        // open(2): EINVAL is how a filesystem without direct I/O answers.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            Ok((open_buffered(path, options, kind)?, IoPath::BufferedNoDirect))
        }
        Err(error) => Err(open_error(path, error)),
    }
}

fn open_buffered(path: &Path, options: OpenOptions, kind: BackingKind) -> Result<File, BackingError> {
    try_open(path, options, kind, 0).map_err(|e| open_error(path, e))
}

fn try_open(path: &Path, options: OpenOptions, kind: BackingKind, flags: i32) -> io::Result<File> {
    let claim = match kind {
        BackingKind::BlockDevice if options.part.is_none() => libc::O_EXCL,
        BackingKind::BlockDevice | BackingKind::RegularFile => 0,
    };
    std::fs::OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(flags | claim | libc::O_CLOEXEC)
        .open(path)
}

fn kind_of(metadata: &Metadata, path: &Path) -> Result<BackingKind, BackingError> {
    match metadata.file_type() {
        t if t.is_block_device() => Ok(BackingKind::BlockDevice),
        t if t.is_file() => Ok(BackingKind::RegularFile),
        _ => Err(BackingError::WrongKind { path: path.to_path_buf() }),
    }
}

fn open_error(path: &Path, error: io::Error) -> BackingError {
    match error.raw_os_error() {
        Some(libc::EBUSY) => BackingError::InUse { path: path.to_path_buf() },
        _ => io_error("open", path, error),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> BackingError {
    BackingError::Io { action, path: path.to_path_buf(), source }
}
