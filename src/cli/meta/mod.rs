//! The commands that work on metadata directly on a device or file: create-md, dump-md, restore-md, get-gi,
//! show-gi, set-gi, apply-al, wipe-md, outdate, invalidate, dstate, and what an attach reads.
//!
//! Texts, questions and exit codes are those of drbdmeta (drbd-metadata 11, drbd-admin 3.9). Every command checks
//! what is there before it changes the first byte, and writes in an order that a crash at any point leaves either
//! the old metadata, none, or the new one.

pub mod apply;
pub mod commands;
pub mod create;
pub mod device;
pub mod moving;
pub mod probe;
pub mod restore;

use std::io::{self, Write};
use std::path::PathBuf;

use replicator::activity_log::transaction::AlRing;
use replicator::meta::gi::SetGiError;
use replicator::meta::layout::{LayoutError, MetaKind};
use replicator::meta::parse_dump::ParseError;
use replicator::meta::superblock::SuperBlockError;
use thiserror::Error;

/// Where the metadata of one volume is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaTarget {
    /// Backing device of the data. Only an attach looks at it, unless it is the metadata device too.
    pub data: PathBuf,
    /// Device or regular file with the metadata; for internal the same as `data`.
    pub meta: PathBuf,
    /// Kind and index.
    pub kind: MetaKind,
}

/// Options of the commands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opts {
    /// Every question is answered with yes.
    pub force: bool,
    /// `--al-stripes`, for create-md and restore-md.
    pub al_stripes: Option<u32>,
    /// `--al-stripe-size-kB`, for create-md and restore-md.
    pub al_stripe_size_kib: Option<u32>,
    /// `--peer-max-bio-size` in bytes, for create-md.
    pub peer_max_bio_bytes: u32,
    /// Append the activity log to a dump (`-v` ten times).
    pub dump_activity_log: bool,
    /// Host name in the header of a dump.
    pub host: String,
    /// Command line in the header of a dump.
    pub command_line: String,
}

/// Largest activity log the tools make, in KiB.
const AL_KIB_MAX: u64 = 32 << 10;
/// Largest `--peer-max-bio-size`.
const PEER_MAX_BIO_BYTES_MAX: u32 = 1 << 20;

impl Opts {
    /// Ring asked for, where `default` gives what is not asked for.
    fn ring(&self, default: AlRing) -> Result<AlRing, MetaError> {
        let stripes = self.al_stripes.unwrap_or(default.stripes());
        let kib = self.al_stripe_size_kib.unwrap_or(default.stripe_size_4k() * 4);
        let total_kib = u64::from(stripes) * u64::from(kib);
        if !kib.is_multiple_of(4) || !(32..=AL_KIB_MAX).contains(&total_kib) {
            let size = if total_kib > AL_KIB_MAX { "large" } else { "small" };
            return Err(MetaError::Value(format!("invalid (too {size}) al-stripe* settings")));
        }
        AlRing::new(stripes, kib / 4).map_err(|e| MetaError::Value(e.to_string()))
    }

    fn asks_for_other_ring(&self, ring: AlRing) -> bool {
        self.al_stripes.is_some_and(|stripes| stripes != ring.stripes())
            || self.al_stripe_size_kib.is_some_and(|kib| kib != ring.stripe_size_4k() * 4)
    }

    fn check_peer_max_bio(&self) -> Result<u32, MetaError> {
        if self.peer_max_bio_bytes > PEER_MAX_BIO_BYTES_MAX {
            return Err(MetaError::Value(format!(
                "peer-max-bio-size out of range (0...{PEER_MAX_BIO_BYTES_MAX})"
            )));
        }
        Ok(self.peer_max_bio_bytes)
    }
}

/// Exit code of a command that came to its end.
pub type Outcome = Result<u8, MetaError>;

/// Why a command failed. The text is for standard error; [`exit_code`](MetaError::exit_code) is drbdmeta's.
#[derive(Debug, Error)]
pub enum MetaError {
    /// The device or file cannot be opened.
    #[error("open({}) failed: {source}", path.display())]
    Open {
        /// Device or file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// In use: attached, mounted, or another command is running.
    #[error("open({}) failed: Device or resource busy", .0.display())]
    Busy(PathBuf),
    /// Neither a block device nor a regular file.
    #[error("'{}' is not a block device!", .0.display())]
    NotADevice(PathBuf),
    /// The kind does not fit the two paths.
    #[error("{0}")]
    Target(&'static str),
    /// A read, write or flush failed.
    #[error("{what} of {} at byte {byte} failed: {source}", path.display())]
    Io {
        /// Device or file.
        path: PathBuf,
        /// What was done.
        what: &'static str,
        /// Position.
        byte: u64,
        /// Cause.
        source: io::Error,
    },
    /// No room for metadata.
    #[error("{} is only {bytes} bytes. That's not enough.", path.display())]
    TooSmall {
        /// Device or file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The size or index is beyond a limit.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Nothing there that could be used; the super block says why.
    #[error("No valid meta data found")]
    NoMetaData,
    /// Metadata of another version.
    #[error("No valid meta data found: {0}")]
    Foreign(SuperBlockError),
    /// v08 metadata with contradicting fields.
    #[error("Damaged meta data, refusing to touch it: {0}")]
    Damaged(SuperBlockError),
    /// An attach does not accept the super block.
    #[error("{0}")]
    Attach(SuperBlockError),
    /// The activity log must be applied first.
    #[error("Found meta data is \"unclean\", please apply-al first")]
    Unclean,
    /// The activity log cannot be replayed.
    #[error("{0}")]
    Replay(String),
    /// Existing data would be destroyed; cannot be forced.
    #[error("Operation refused.\n")]
    Refused,
    /// A dump that cannot be read.
    #[error("{0}")]
    Parse(#[from] ParseError),
    /// A bad value of set-gi.
    #[error("{0}")]
    Gi(#[from] SetGiError),
    /// A bad option value.
    #[error("{0}")]
    Value(String),
    /// Output or a question failed.
    #[error("terminal: {0}")]
    Terminal(#[from] io::Error),
    /// No memory for a bitmap of this size.
    #[error("no memory for a bitmap of {0} bytes")]
    Memory(u64),
}

impl MetaError {
    /// Exit code of drbdmeta (drbd-metadata 11).
    pub fn exit_code(&self) -> u8 {
        match self {
            MetaError::NoMetaData
            | MetaError::Foreign(_)
            | MetaError::Damaged(_)
            | MetaError::Attach(_)
            | MetaError::Unclean
            | MetaError::Replay(_) => 1,
            MetaError::Io { .. }
            | MetaError::TooSmall { .. }
            | MetaError::Layout(_)
            | MetaError::Parse(_)
            | MetaError::Gi(_)
            | MetaError::Value(_)
            | MetaError::Terminal(_)
            | MetaError::Memory(_) => 10,
            MetaError::Open { .. } | MetaError::Busy(_) | MetaError::NotADevice(_) | MetaError::Target(_) => {
                20
            }
            MetaError::Refused => 40,
        }
    }

    /// Number of the attach error, for the daemon: 118 I/O, 119 and 165 super block, 112 sizes, 116 index,
    /// 105 open.
    pub fn attach_error(&self) -> u16 {
        match self {
            MetaError::Foreign(e) | MetaError::Damaged(e) | MetaError::Attach(e) => e.attach_error(),
            MetaError::NoMetaData => 119,
            MetaError::Unclean => 165,
            MetaError::Layout(e) => e.attach_error(),
            MetaError::TooSmall { .. } => 112,
            MetaError::Target(_) => 116,
            MetaError::Busy(_) | MetaError::NotADevice(_) | MetaError::Open { .. } => 105,
            _ => 118,
        }
    }
}

/// Where a command prints and asks. A terminal, or a test.
pub trait Prompt {
    /// Standard output.
    fn out(&mut self) -> &mut dyn Write;
    /// Standard error.
    fn err(&mut self) -> &mut dyn Write;
    /// Standard input is a terminal, so a question can be answered.
    fn is_terminal(&self) -> bool;
    /// The answer, one line.
    fn read_line(&mut self) -> io::Result<String>;
}

/// Asks `question`; only a line that is exactly `yes`, or `--force`, confirms.
// spec: drbd-admin 3.9
fn confirmed(io: &mut dyn Prompt, force: bool, question: &str) -> Result<bool, MetaError> {
    writeln!(io.err(), "\n{question}")?;
    if force {
        writeln!(io.err(), "*** confirmation forced via --force option ***")?;
        return Ok(true);
    }
    if !io.is_terminal() {
        writeln!(io.err(), "stdin not a TTY, not waiting for confirmation")?;
        return Ok(false);
    }
    write!(io.err(), "[need to type 'yes' to confirm] ")?;
    io.err().flush()?;
    let answer = io.read_line()?;
    writeln!(io.err())?;
    Ok(answer.trim_end_matches('\n') == "yes")
}
