//! Words of the ring's interface: what operations work on and how they end.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::OpKey;

/// What an operation works on: a descriptor, or one registered by
/// [`Ring::register_file`](super::Ring::register_file).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileRef {
    /// A descriptor of this process.
    Plain(RawFd),
    /// Place in the ring's own table.
    Registered(u32),
}

impl FileRef {
    /// The descriptor of `file`, which stays open as the contract of the ring says.
    pub fn of(file: &impl AsFd) -> FileRef {
        FileRef::Plain(file.as_fd().as_raw_fd())
    }
}

/// When a receive into a pool buffer is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvUntil {
    /// As soon as there is something.
    Any,
    /// When the span is full, the stream ends or fails.
    Full,
}

/// Ranges of a file or device to change without data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FallocateMode {
    /// Give the storage back; reads as zeroes afterwards. `EOPNOTSUPP` where that cannot be promised.
    PunchHole,
    /// Reads as zeroes afterwards, storage stays allocated where the device can tell the difference.
    ZeroRange,
}

/// The outcome of an operation.
#[derive(Debug)]
pub struct Completion<T> {
    /// What the caller gave to the operation.
    pub token: T,
    /// The operation, for callers with several of one token.
    pub key: OpKey,
    /// Result of the system call: at least 0 (a byte count may be short), or the negated error number.
    pub result: i32,
    /// More completions of this operation will follow.
    pub more: bool,
    /// The new connection of an accept; closed when dropped.
    pub accepted: Option<OwnedFd>,
}

impl<T> Completion<T> {
    /// The result as a `Result`.
    ///
    /// # Errors
    /// The error the kernel reported.
    pub fn outcome(&self) -> Result<u32, Errno> {
        u32::try_from(self.result).map_err(|_| Errno::from_raw(-self.result))
    }
}
