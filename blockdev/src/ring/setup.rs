//! Building the io_uring in the best way the kernel knows.

use std::io;

use io_uring::IoUring;

/// How the kernel hands completions over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Setup {
    /// Runs completion work when we ask for it (6.1).
    Deferred,
    /// Runs it at our next system call (5.19).
    Cooperative,
    /// Interrupts us for it.
    Plain,
}

/// Best first.
pub(super) const SETUPS: [Setup; 3] = [Setup::Deferred, Setup::Cooperative, Setup::Plain];

/// An io_uring of the best set-up.
///
/// # Errors
/// What io_uring_setup(2) reports; `Unsupported` when the kernel lacks waiting with a timeout or may lose
/// completions.
pub(super) fn build_best(entries: u32) -> io::Result<IoUring> {
    for setup in SETUPS {
        if let Some(uring) = setup.build(entries)? {
            let known = uring.params();
            if known.is_feature_ext_arg() && known.is_feature_nodrop() {
                return Ok(uring);
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring of this kernel is too old"))
}

impl Setup {
    /// `None` when this kernel does not know the set-up.
    pub(super) fn build(self, entries: u32) -> io::Result<Option<IoUring>> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_submit_all().setup_cqsize(entries.saturating_mul(CQ_PER_SQ));
        match self {
            Setup::Deferred => builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
            Setup::Cooperative => builder.setup_coop_taskrun().setup_taskrun_flag(),
            Setup::Plain => &mut builder,
        };
        match builder.build(entries) {
            Ok(uring) => Ok(Some(uring)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Operations outlive many submissions (armed receives), so completions can outnumber one submission queue.
const CQ_PER_SQ: u32 = 4;
