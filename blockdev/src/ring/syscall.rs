//! System calls that `nix` lacks.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Alignment that direct I/O on the file needs, as statx(2) reports it (Linux 6.1): memory and file offset, in
/// bytes. `None` when the kernel or the filesystem does not say; zeros when direct I/O is not supported.
pub(crate) fn direct_io_alignment(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, which with AT_EMPTY_PATH names the open descriptor, and the
    // kernel writes at most one `statx` structure to the pointer.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    // SAFETY: all-zero bytes are a valid value of this structure of integers; the kernel only adds to it.
    let answer = unsafe { answer.assume_init() };
    let reported = result == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
    reported.then_some((answer.stx_dio_mem_align, answer.stx_dio_offset_align))
}
