//! One operation on a disk: its steps, from the action to the end.

use blockdev::pool::BufSpan;
use blockdev::ring::{FallocateMode, Ring};
use model::ids::BufId;
use replicator::{DigestAlg, IoResult, IoTag};

use super::disks::Disk;
use super::token::Token;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    Read(BufId),
    Write(BufId),
    Flush,
    Zero(Step),
    Meta(BufId, Step),
}

/// Step that an operation of several steps is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Before a metadata write: data and metadata device are flushed.
    FlushFirst,
    /// The write itself.
    Write,
    /// Zeroes by giving the storage back.
    Punch,
    /// Zeroes by the device's own means.
    ZeroRange,
    /// Zeroes by writing them.
    WriteZeroes,
    /// Flush after zeroes that have to be durable.
    FlushLast,
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct DiskOp {
    pub tag: IoTag,
    /// Index of the disk.
    pub disk: usize,
    pub work: Work,
    pub offset_bytes: u64,
    len_bytes: u32,
    done_bytes: u32,
    pub fua: bool,
    /// Wanted with the data of a read.
    pub digest: Option<DigestAlg>,
    /// Completions that the present step still waits for.
    outstanding: u8,
    /// First error of a step with several completions.
    error: Option<i32>,
}

impl DiskOp {
    pub(super) fn new(tag: IoTag, disk: usize, work: Work, offset_bytes: u64, len_bytes: u32) -> DiskOp {
        DiskOp {
            tag,
            disk,
            work,
            offset_bytes,
            len_bytes,
            done_bytes: 0,
            fua: false,
            digest: None,
            outstanding: 0,
            error: None,
        }
    }

    pub(super) fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    pub(super) fn is_meta(&self) -> bool {
        matches!(self.work, Work::Meta(..))
    }

    /// Queues the present step.
    pub(super) fn submit(&mut self, ring: &mut Ring<Token>, disk: &Disk, token: Token, zeroes: BufSpan) {
        let at = self.offset_bytes + u64::from(self.done_bytes);
        let left = self.len_bytes - self.done_bytes;
        let rest = |buf: BufId| BufSpan { buf, offset_bytes: self.done_bytes, len_bytes: left };
        self.outstanding = 1;
        match self.work {
            Work::Read(buf) => ring.read_at(token, disk.data_file, rest(buf), at),
            Work::Write(buf) => ring.write_at(token, disk.data_file, rest(buf), at, self.fua),
            Work::Flush | Work::Zero(Step::FlushLast) => ring.fsync_data(token, disk.data_file),
            Work::Zero(Step::Punch) => {
                ring.fallocate(token, disk.data_file, FallocateMode::PunchHole, at, u64::from(left))
            }
            Work::Zero(Step::ZeroRange) => {
                ring.fallocate(token, disk.data_file, FallocateMode::ZeroRange, at, u64::from(left))
            }
            Work::Zero(_) => {
                let piece = BufSpan::head(zeroes.buf, left.min(zeroes.len_bytes));
                ring.write_at(token, disk.data_file, piece, at, false)
            }
            Work::Meta(_, Step::FlushFirst) => {
                if let Some(meta) = disk.meta_file {
                    self.outstanding = 2;
                    ring.fsync_data(token, meta);
                }
                ring.fsync_data(token, disk.data_file)
            }
            Work::Meta(buf, _) => ring.write_at(token, disk.meta_target(), rest(buf), at, self.fua),
        };
    }

    /// A completion of the present step. `None`: more of it are to come; `Some(Err(()))`: submit the next step;
    /// else how the operation ended.
    pub(super) fn advance(&mut self, result: i32) -> Option<Result<IoResult, ()>> {
        self.outstanding -= 1;
        if result < 0 && self.error.is_none() {
            self.error = Some(-result);
        }
        if self.outstanding > 0 {
            return None;
        }
        if self.error == Some(EINTR) {
            self.error = None;
            return Some(Err(()));
        }
        Some(self.end_step(result))
    }

    fn end_step(&mut self, result: i32) -> Result<IoResult, ()> {
        let error = self.error.take();
        let (next, is_transfer) = match self.work {
            Work::Read(_) | Work::Write(_) | Work::Meta(_, Step::Write) => (None, true),
            Work::Flush | Work::Zero(Step::FlushLast) => (None, false),
            Work::Zero(step @ (Step::Punch | Step::ZeroRange)) => {
                if error.is_some_and(cannot) {
                    let other = if step == Step::Punch { Step::ZeroRange } else { Step::WriteZeroes };
                    self.work = Work::Zero(other);
                    return Err(());
                }
                (self.fua.then_some(Step::FlushLast), false)
            }
            Work::Zero(_) => (self.fua.then_some(Step::FlushLast), true),
            Work::Meta(..) => (Some(Step::Write), false),
        };
        if let Some(errno) = error {
            return Ok(IoResult::Err(errno));
        }
        if is_transfer {
            let count = u32::try_from(result).expect("errors were dealt with");
            // The end of the device in the middle of a range that must be inside, or a disk that takes nothing.
            if count == 0 {
                return Ok(IoResult::Err(EIO));
            }
            self.done_bytes += count;
            if self.done_bytes < self.len_bytes {
                return Err(());
            }
        }
        match (next, &mut self.work) {
            (Some(step), Work::Zero(at) | Work::Meta(_, at)) => {
                *at = step;
                Err(())
            }
            _ => Ok(IoResult::Ok),
        }
    }
}

/// The device or filesystem has no such operation. Block devices report ranges they do not like as EINVAL.
fn cannot(errno: i32) -> bool {
    matches!(errno, EOPNOTSUPP | EINVAL | ENOSYS)
}

const EINTR: i32 = 4;
const EIO: i32 = 5;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;

#[cfg(test)]
mod tests {
    use super::*;

    fn op(work: Work, len_bytes: u32, fua: bool) -> DiskOp {
        DiskOp { fua, outstanding: 1, ..DiskOp::new(IoTag(1), 0, work, 4096, len_bytes) }
    }

    fn again(op: &mut DiskOp, result: i32) -> Option<Result<IoResult, ()>> {
        op.outstanding = op.outstanding.max(1);
        op.advance(result)
    }

    #[test]
    fn short_transfers_go_on_and_nothing_is_an_error() {
        let mut w = op(Work::Write(BufId(0)), 4096, false);
        assert_eq!(again(&mut w, 512), Some(Err(())));
        assert_eq!(again(&mut w, 3584), Some(Ok(IoResult::Ok)));
        let mut r = op(Work::Read(BufId(0)), 4096, false);
        assert_eq!(again(&mut r, 0), Some(Ok(IoResult::Err(EIO))));
        let mut r = op(Work::Read(BufId(0)), 4096, false);
        assert_eq!(again(&mut r, -EINTR), Some(Err(())));
        assert_eq!(again(&mut r, -EIO), Some(Ok(IoResult::Err(EIO))));
    }

    #[test]
    fn zeroes_fall_back_step_by_step_and_flush_when_durable() {
        let mut z = op(Work::Zero(Step::Punch), 8192, true);
        assert_eq!(again(&mut z, -EOPNOTSUPP), Some(Err(())));
        assert_eq!(z.work, Work::Zero(Step::ZeroRange));
        assert_eq!(again(&mut z, -EINVAL), Some(Err(())));
        assert_eq!(z.work, Work::Zero(Step::WriteZeroes));
        assert_eq!(again(&mut z, 4096), Some(Err(())));
        assert_eq!(z.work, Work::Zero(Step::WriteZeroes));
        assert_eq!(again(&mut z, 4096), Some(Err(())));
        assert_eq!(z.work, Work::Zero(Step::FlushLast));
        assert_eq!(again(&mut z, 0), Some(Ok(IoResult::Ok)));
        let mut z = op(Work::Zero(Step::Punch), 8192, false);
        assert_eq!(again(&mut z, -EIO), Some(Ok(IoResult::Err(EIO))));
    }

    #[test]
    fn metadata_is_written_only_after_both_flushes_succeeded() {
        let mut m = op(Work::Meta(BufId(0), Step::FlushFirst), 4096, true);
        m.outstanding = 2;
        assert_eq!(m.advance(0), None);
        assert_eq!(m.advance(0), Some(Err(())));
        assert_eq!(m.work, Work::Meta(BufId(0), Step::Write));
        assert_eq!(again(&mut m, 4096), Some(Ok(IoResult::Ok)));
        let mut m = op(Work::Meta(BufId(0), Step::FlushFirst), 4096, true);
        m.outstanding = 2;
        assert_eq!(m.advance(-EIO), None);
        assert_eq!(m.advance(0), Some(Ok(IoResult::Err(EIO))));
    }
}
