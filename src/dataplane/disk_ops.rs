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
    /// Error of a write with FUA that is tried without.
    fua_error: Option<i32>,
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
            fua_error: None,
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
    ///
    /// `flush_error` belongs to the disk. The kernel reports what it could not bring to stable storage once, to whoever
    /// flushes next; nothing that promises durability may succeed after that.
    pub(super) fn advance(
        &mut self,
        result: i32,
        flush_error: &mut Option<i32>,
    ) -> Option<Result<IoResult, ()>> {
        self.outstanding -= 1;
        let result = match *flush_error {
            Some(errno) if result >= 0 && (self.is_flush() || self.fua && self.is_write()) => -errno,
            _ => result,
        };
        if result < 0 && result != -EINTR && self.is_flush() {
            flush_error.get_or_insert(-result);
        }
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
        if self.error.is_some() && self.fua && self.is_write() {
            // The write failed, or the flush behind it, which may have been about other writes: without it, it tells.
            self.fua = false;
            self.fua_error = self.error.take();
            return Some(Err(()));
        }
        let ended = self.end_step(result);
        match self.fua_error {
            Some(errno) if ended == Ok(IoResult::Ok) => {
                flush_error.get_or_insert(errno);
                Some(Ok(IoResult::Err(errno)))
            }
            _ => Some(ended),
        }
    }

    /// The present step is a flush, or metadata with one.
    fn is_flush(&self) -> bool {
        match self.work {
            Work::Flush | Work::Zero(Step::FlushLast) | Work::Meta(_, Step::FlushFirst) => true,
            Work::Meta(..) => self.fua,
            Work::Read(_) | Work::Write(_) | Work::Zero(_) => false,
        }
    }

    fn is_write(&self) -> bool {
        matches!(self.work, Work::Write(_))
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
        on_disk(op, result, &mut None)
    }

    fn on_disk(op: &mut DiskOp, result: i32, flush_error: &mut Option<i32>) -> Option<Result<IoResult, ()>> {
        op.outstanding = op.outstanding.max(1);
        op.advance(result, flush_error)
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
        assert_eq!(m.advance(0, &mut None), None);
        assert_eq!(m.advance(0, &mut None), Some(Err(())));
        assert_eq!(m.work, Work::Meta(BufId(0), Step::Write));
        assert_eq!(again(&mut m, 4096), Some(Ok(IoResult::Ok)));
        let mut m = op(Work::Meta(BufId(0), Step::FlushFirst), 4096, true);
        m.outstanding = 2;
        assert_eq!(m.advance(-EIO, &mut None), None);
        assert_eq!(m.advance(0, &mut None), Some(Ok(IoResult::Err(EIO))));
    }

    #[test]
    fn after_a_flush_that_failed_nothing_is_durable() {
        let flushing = [
            op(Work::Flush, 0, false),
            op(Work::Zero(Step::FlushLast), 4096, true),
            op(Work::Meta(BufId(0), Step::FlushFirst), 4096, false),
            op(Work::Meta(BufId(0), Step::Write), 4096, true),
        ];
        for mut first in flushing {
            let lost = &mut None;
            assert_eq!(on_disk(&mut first, -EIO, lost), Some(Ok(IoResult::Err(EIO))));
            // The next one is told that all is well.
            assert_eq!(on_disk(&mut op(Work::Flush, 0, false), 0, lost), Some(Ok(IoResult::Err(EIO))));
            let mut meta = op(Work::Meta(BufId(0), Step::FlushFirst), 4096, true);
            assert_eq!(on_disk(&mut meta, 0, lost), Some(Ok(IoResult::Err(EIO))));
            let mut fua = op(Work::Write(BufId(0)), 4096, true);
            assert_eq!(on_disk(&mut fua, 4096, lost), Some(Err(())));
            assert_eq!(on_disk(&mut fua, 4096, lost), Some(Ok(IoResult::Err(EIO))));
            // What promises nothing goes on.
            assert_eq!(
                on_disk(&mut op(Work::Write(BufId(0)), 4096, false), 4096, lost),
                Some(Ok(IoResult::Ok))
            );
            assert_eq!(
                on_disk(&mut op(Work::Read(BufId(0)), 4096, false), 4096, lost),
                Some(Ok(IoResult::Ok))
            );
        }
    }

    #[test]
    fn one_flush_of_two_that_is_interrupted_does_not_hide_that_the_other_failed() {
        let lost = &mut None;
        let mut m = op(Work::Meta(BufId(0), Step::FlushFirst), 4096, true);
        m.outstanding = 2;
        assert_eq!(m.advance(-EINTR, lost), None);
        assert_eq!(m.advance(-EIO, lost), Some(Err(())));
        m.outstanding = 2;
        assert_eq!(m.advance(0, lost), None);
        assert_eq!(m.advance(0, lost), Some(Ok(IoResult::Err(EIO))));
    }

    #[test]
    fn a_write_with_fua_that_fails_tells_a_bad_block_from_a_flush_that_failed() {
        let lost = &mut None;
        let mut bad = op(Work::Write(BufId(0)), 4096, true);
        assert_eq!(on_disk(&mut bad, -EIO, lost), Some(Err(())));
        assert!(!bad.fua);
        assert_eq!(on_disk(&mut bad, -EIO, lost), Some(Ok(IoResult::Err(EIO))));
        assert_eq!(on_disk(&mut op(Work::Flush, 0, false), 0, lost), Some(Ok(IoResult::Ok)));

        let mut good = op(Work::Write(BufId(0)), 4096, true);
        assert_eq!(on_disk(&mut good, -EIO, lost), Some(Err(())));
        assert_eq!(on_disk(&mut good, 512, lost), Some(Err(())));
        assert_eq!(on_disk(&mut good, 3584, lost), Some(Ok(IoResult::Err(EIO))));
        assert_eq!(on_disk(&mut op(Work::Flush, 0, false), 0, lost), Some(Ok(IoResult::Err(EIO))));
    }
}
