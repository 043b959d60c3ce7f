//! What a disk can do, by asking the kernel.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use model::units::{BLOCK_BYTES, SECTOR_BYTES};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{major, minor};

use super::{DiscardLimits, Limits};
use crate::ring::syscall::direct_io_alignment;

/// Limits of a block device, from sysfs. What sysfs does not tell (it may not be mounted) is assumed to be as
/// on a plain disk.
pub(super) fn block_device(file: &File) -> io::Result<Limits> {
    let device = file.metadata()?.rdev();
    let sysfs = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    Ok(block_device_limits(&sysfs))
}

/// The part of [`block_device`] that can be tried on any directory.
pub(super) fn block_device_limits(sysfs: &Path) -> Limits {
    // A partition has no queue directory of its own.
    let own = sysfs.join("queue");
    let queue = if own.is_dir() { own } else { sysfs.join("..").join("queue") };
    let number = |dir: &Path, name: &str| -> Option<u64> {
        std::fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
    };
    let bytes = |name: &str| number(&queue, name).and_then(|n| u32::try_from(n).ok()).filter(|&n| n > 0);
    let logical_block_bytes = bytes("logical_block_size").unwrap_or(SECTOR_BYTES);
    let max_bytes = number(&queue, "discard_max_bytes").unwrap_or(0);
    let discard = (max_bytes > 0).then(|| DiscardLimits {
        granularity_bytes: bytes("discard_granularity").unwrap_or(logical_block_bytes),
        alignment_bytes: number(sysfs, "discard_alignment").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        max_bytes,
    });
    let write_cache = std::fs::read_to_string(queue.join("write_cache"));
    Limits {
        logical_block_bytes,
        physical_block_bytes: bytes("physical_block_size").unwrap_or(logical_block_bytes),
        discard,
        rotational: number(&queue, "rotational") == Some(1),
        write_cache: write_cache.map_or(true, |kind| kind.trim() != "write through"),
    }
}

/// Limits of a regular file of `size_bytes`.
pub(super) fn regular_file(file: &File, size_bytes: u64, read_only: bool) -> io::Result<Limits> {
    let block_bytes = u32::try_from(file.metadata()?.blksize()).unwrap_or(BLOCK_BYTES);
    let discard = !read_only && can_punch_holes(file, size_bytes);
    Ok(Limits {
        logical_block_bytes: SECTOR_BYTES,
        physical_block_bytes: block_bytes,
        discard: discard.then_some(DiscardLimits {
            granularity_bytes: block_bytes,
            alignment_bytes: 0,
            max_bytes: u64::MAX,
        }),
        rotational: false,
        write_cache: true,
    })
}

/// Smallest unit of direct I/O that works for a file opened with `O_DIRECT` (bytes, at least a sector); `None`
/// when there is none, or none can be promised.
pub(super) fn direct_unit_bytes(file: &File) -> io::Result<Option<u32>> {
    if let Some((memory, offset)) = direct_io_alignment(file.as_fd()) {
        let unit = offset.max(SECTOR_BYTES);
        return Ok((offset > 0 && memory <= BLOCK_BYTES).then_some(unit));
    }
    // The filesystem does not say, so one odd sector is read. A hole or the end of the file answers without
    // touching the disk and proves nothing, but filesystems that do not say check before they look.
    let mut page = AlignedPage([0; BLOCK_BYTES as usize]);
    match file.read_at(&mut page.0[..SECTOR_BYTES as usize], SECTOR_BYTES.into()) {
        Ok(count) if count > 0 => Ok(Some(SECTOR_BYTES)),
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Some(BLOCK_BYTES)),
        Err(error) => Err(error),
    }
}

/// Tries on the range behind the end of the file, where there is nothing to lose.
fn can_punch_holes(file: &File, size_bytes: u64) -> bool {
    let Ok(end) = libc::off_t::try_from(size_bytes.next_multiple_of(BLOCK_BYTES.into())) else {
        return false;
    };
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, mode, end, BLOCK_BYTES.into()).is_ok()
}

#[repr(align(4096))]
struct AlignedPage([u8; BLOCK_BYTES as usize]);
