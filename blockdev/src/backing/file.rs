//! Opening and claiming.

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

use super::{BackingError, BackingKind, IoPath, OpenOptions, Part, probe};

/// An open file with what keeps others away.
#[derive(Debug)]
pub(super) enum Claimed {
    /// Block device opened with `O_EXCL`.
    Exclusive(File),
    /// Regular file with a lock.
    Locked(Flock<File>),
    /// A lock on a part of either, which ends with the last descriptor.
    Part(File),
}

impl Claimed {
    pub(super) fn file(&self) -> &File {
        match self {
            Claimed::Exclusive(file) | Claimed::Part(file) => file,
            Claimed::Locked(file) => file,
        }
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
    if let Some(part) = options.part {
        return match lock_part(&file, part, options.read_only) {
            Ok(()) => Ok((Claimed::Part(file), kind, io_path)),
            Err(Errno::EAGAIN | Errno::EACCES) => Err(BackingError::InUse { path: path.to_path_buf() }),
            Err(errno) => Err(io_error("lock", path, errno.into())),
        };
    }
    match kind {
        BackingKind::BlockDevice => Ok((Claimed::Exclusive(file), kind, io_path)),
        BackingKind::RegularFile => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Ok((Claimed::Locked(locked), kind, io_path)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(BackingError::InUse { path: path.to_path_buf() }),
            Err((_, errno)) => Err(io_error("lock", path, errno.into())),
        },
    }
}

/// A lock of the open file, not of the process: several parts of one device may be open here.
fn lock_part(file: &File, part: Part, read_only: bool) -> nix::Result<()> {
    let offset = |bytes: u64| libc::off_t::try_from(bytes).map_err(|_| Errno::EOVERFLOW);
    let range = libc::flock {
        l_type: if read_only { libc::F_RDLCK } else { libc::F_WRLCK } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset(part.offset_bytes)?,
        l_len: offset(part.len_bytes)?,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(|_| ())
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
