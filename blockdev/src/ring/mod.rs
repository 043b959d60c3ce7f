//! The one wait point of a worker thread: an io_uring with everything that happens to one resource.
//!
//! # Contract
//! * The ring belongs to the thread that made it. It owns the [`BufferPool`] its operations work on.
//! * Every operation carries a token of the caller's, which comes back with each of its completions. A method
//!   that starts an operation only queues it; [`wait`](Ring::wait) submits all that is queued in one system
//!   call, in the order of the calls.
//! * Memory stays valid without the caller's help: an operation pins its pool buffers, shares the memory of a
//!   [`RecvBuffer`], or owns what it needs. Dropping the ring cancels and collects everything first.
//! * Descriptors are the caller's. One that operations use is closed by [`close`](Ring::close), never by
//!   dropping it: an operation still queued would otherwise meet whatever gets the number next.
//! * Descriptors are *blocking* ones (no `O_NONBLOCK`): with that flag the kernel answers `EAGAIN` instead of
//!   waiting.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use crate::pool::{BufSpan, BufferPool, KernelAccess, Mapping};
use crate::socket::{RecvBuffer, SendQueue};
use ops::{Hold, Message, OpSlab};
use spin::SpinRecord;

pub use ops::OpKey;
pub use request::{Completion, FallocateMode, FileRef, RecvUntil};
pub use wake::{Mailbox, Waker};

mod ops;
mod request;
mod setup;
mod spin;
pub(crate) mod staging;
pub(crate) mod syscall;
pub mod wake;

/// How to build a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Entries of the submission queue; more operations than this between two waits cost a system call each
    /// time it fills up.
    pub entries: u32,
    /// Operations in flight that need no further memory.
    pub ops: usize,
    /// Register the pool with the kernel, which saves looking up its pages in every disk operation but makes
    /// all of it resident at once. Does without when the kernel refuses (RLIMIT_MEMLOCK).
    pub register_buffers: bool,
}

impl Default for RingOptions {
    fn default() -> RingOptions {
        RingOptions { entries: 256, ops: 1024, register_buffers: false }
    }
}

/// The ring. See the module text for the contract; `T` is the caller's token.
pub struct Ring<T: Copy> {
    uring: IoUring,
    ops: OpSlab<T>,
    /// Taken from the kernel's queue, not yet by the caller.
    ready: VecDeque<RawCompletion>,
    /// Operations without a token in flight.
    quiet: usize,
    #[allow(clippy::vec_box, reason = "the kernel is given addresses inside; they travel as boxes")]
    idle_messages: Vec<Box<Message>>,
    /// Registered places that are free; `None` when the kernel has no such table.
    free_files: Option<Vec<u32>>,
    buffers_registered: bool,
    spin_record: SpinRecord,
    /// Where event counters are read to; nobody looks at them.
    scratch: Rc<Mapping>,
    pool: BufferPool,
    /// Keeps the pool's memory even if the caller swaps the pool.
    pool_mapping: Rc<Mapping>,
}

struct RawCompletion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// Builds a submission for either kind of file.
macro_rules! on_file {
    ($file:expr, $target:ident => $entry:expr) => {
        match $file {
            FileRef::Plain(fd) => {
                let $target = Fd(fd);
                $entry
            }
            FileRef::Registered(place) => {
                let $target = Fixed(place);
                $entry
            }
        }
    };
}

impl<T: Copy> Ring<T> {
    /// A ring for this thread, owning `pool`.
    ///
    /// # Errors
    /// `ENOSYS`, `EPERM`: no io_uring on this system (kernel, `kernel.io_uring_disabled`, seccomp);
    /// `Unsupported`: a kernel before 5.18; `ENOMEM`: more than RLIMIT_MEMLOCK allows to
    /// one user (a ring takes some 50 KiB); `EMFILE`.
    pub fn new(options: RingOptions, pool: BufferPool) -> io::Result<Ring<T>> {
        Ring::over(setup::build_best(options.entries)?, options, pool)
    }

    fn over(uring: IoUring, options: RingOptions, pool: BufferPool) -> io::Result<Ring<T>> {
        let pool_mapping = Rc::clone(pool.mapping());
        let buffers_registered = options.register_buffers && {
            // SAFETY: the regions cover the pool's mapping, which `pool_mapping` keeps until the ring is gone.
            unsafe { uring.submitter().register_buffers(&pool_mapping.regions()) }.is_ok()
        };
        let table = uring.submitter().register_files_sparse(FILES_MAX);
        // A kernel that refuses keeps its own number: four for each processor.
        let _ = uring.submitter().register_iowq_max_workers(&mut [BLOCKED_MAX, 0]);
        Ok(Ring {
            ready: VecDeque::with_capacity(uring.params().cq_entries() as usize),
            uring,
            ops: OpSlab::with_capacity(options.ops),
            quiet: 0,
            idle_messages: Vec::new(),
            free_files: table.ok().map(|()| (0..FILES_MAX).rev().collect()),
            buffers_registered,
            spin_record: SpinRecord::new(),
            scratch: Rc::new(Mapping::new(SCRATCH_BYTES)?),
            pool,
            pool_mapping,
        })
    }

    /// The buffers.
    pub fn pool(&self) -> &BufferPool {
        &self.pool
    }

    /// The buffers, to allocate, release and fill. The pool stays where it is: replacing it by another makes
    /// the next operation panic.
    pub fn pool_mut(&mut self) -> &mut BufferPool {
        &mut self.pool
    }

    /// Operations whose last completion has not been taken yet.
    pub fn in_flight(&self) -> usize {
        self.ops.in_flight()
    }

    /// The pool is registered with the kernel.
    pub fn buffers_registered(&self) -> bool {
        self.buffers_registered
    }

    /// Enters a file into the ring's table, which spares each operation a reference count. The table holds the
    /// file open until [`unregister_file`](Self::unregister_file). Falls back to the plain descriptor when
    /// the table is full or missing.
    pub fn register_file(&mut self, file: BorrowedFd<'_>) -> FileRef {
        let plain = FileRef::Plain(file.as_raw_fd());
        let Some(place) = self.free_files.as_mut().and_then(Vec::pop) else { return plain };
        match self.uring.submitter().register_files_update(place, &[file.as_raw_fd()]) {
            Ok(_) => FileRef::Registered(place),
            Err(_) => {
                self.free_files.as_mut().expect("it had a free place").push(place);
                plain
            }
        }
    }

    /// Takes a file out of the table; operations in flight keep it until they are done. Does nothing for a
    /// plain one.
    ///
    /// # Errors
    /// When queued operations on it cannot be submitted first.
    pub fn unregister_file(&mut self, file: FileRef) -> io::Result<()> {
        let FileRef::Registered(place) = file else { return Ok(()) };
        self.submit()?;
        self.uring.submitter().register_files_update(place, &[-1])?;
        self.free_files.as_mut().expect("the place came from the table").push(place);
        Ok(())
    }

    /// Reads from a disk or file into the span. The result is the byte count, short at the end of a file.
    pub fn read_at(&mut self, token: T, file: FileRef, into: BufSpan, offset_bytes: u64) -> OpKey {
        let (ptr, region) = self.locate(into);
        let len = into.len_bytes;
        let entry = if self.buffers_registered {
            on_file!(file, f => opcode::ReadFixed::new(f, ptr, len, region).offset(offset_bytes).build())
        } else {
            on_file!(file, f => opcode::Read::new(f, ptr, len).offset(offset_bytes).build())
        };
        self.start_on_buffer(token, into, KernelAccess::Fills, entry)
    }

    /// Writes the span to a disk or file. With `fua` the data is on stable storage when the operation
    /// completes. The result is the byte count, which may be short.
    pub fn write_at(
        &mut self,
        token: T,
        file: FileRef,
        from: BufSpan,
        offset_bytes: u64,
        fua: bool,
    ) -> OpKey {
        let (ptr, region) = self.locate(from);
        let (len, flags) = (from.len_bytes, if fua { libc::RWF_DSYNC } else { 0 });
        let entry = if self.buffers_registered {
            on_file!(file, f => opcode::WriteFixed::new(f, ptr, len, region)
                .offset(offset_bytes).rw_flags(flags).build())
        } else {
            on_file!(file, f => opcode::Write::new(f, ptr, len).offset(offset_bytes).rw_flags(flags).build())
        };
        self.start_on_buffer(token, from, KernelAccess::Reads, entry)
    }

    /// Brings every write that *completed* before this call to stable storage.
    pub fn fsync_data(&mut self, token: T, file: FileRef) -> OpKey {
        let entry = on_file!(file, f => opcode::Fsync::new(f).flags(FsyncFlags::DATASYNC).build());
        self.start(token, Hold::Nothing, entry)
    }

    /// Discards or zeroes a range. Where the file or device cannot, the result is `-EOPNOTSUPP`.
    pub fn fallocate(
        &mut self,
        token: T,
        file: FileRef,
        mode: FallocateMode,
        offset_bytes: u64,
        len_bytes: u64,
    ) -> OpKey {
        let how = match mode {
            FallocateMode::PunchHole => libc::FALLOC_FL_PUNCH_HOLE,
            FallocateMode::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
        } | libc::FALLOC_FL_KEEP_SIZE;
        let entry =
            on_file!(file, f => opcode::Fallocate::new(f, len_bytes).offset(offset_bytes).mode(how).build());
        self.start(token, Hold::Nothing, entry)
    }

    /// Receives what there is into the free part of `buffer`; the caller then tells it by
    /// [`RecvBuffer::filled`]. Result 0 is the end of the stream. Panics when the buffer is full or already
    /// being filled.
    pub fn recv(&mut self, token: T, file: FileRef, buffer: &mut RecvBuffer) -> OpKey {
        let (staging, ptr, len) = buffer.lend();
        // An attempt on an empty socket is wasted; waiting first is right whenever the last one emptied it.
        let first = if staging.socket_has_more() { 0 } else { RECV_POLL_FIRST };
        let entry = on_file!(file, f => opcode::Recv::new(f, ptr, len).ioprio(first).build());
        self.start(token, Hold::Staging(staging), entry)
    }

    /// Receives straight into a pool buffer. Result 0 is the end of the stream; less than the span is possible
    /// also with [`RecvUntil::Full`], when the stream ended, failed or the operation was cancelled.
    pub fn recv_span(&mut self, token: T, file: FileRef, into: BufSpan, until: RecvUntil) -> OpKey {
        let (ptr, _) = self.locate(into);
        let flags = match until {
            RecvUntil::Any => 0,
            RecvUntil::Full => libc::MSG_WAITALL,
        };
        let entry = on_file!(file, f => opcode::Recv::new(f, ptr, into.len_bytes).flags(flags).build());
        self.start_on_buffer(token, into, KernelAccess::Fills, entry)
    }

    /// Sends what is at the head of the queue, in one system call; the caller passes the result to
    /// [`SendQueue::advance`] (or drops the connection). `None` when there is nothing to send or a send of
    /// this queue is in flight already.
    pub fn send(&mut self, token: T, file: FileRef, queue: &mut SendQueue) -> Option<OpKey> {
        if queue.is_empty() || queue.is_sending() {
            return None;
        }
        self.check_pool();
        let mut message = self.idle_messages.pop().unwrap_or_else(Message::new);
        message.count = queue.prepare(&mut message.spans);
        queue.set_sending();
        if message.count == 1 {
            let span = message.spans[0];
            message.count = 0;
            self.idle_messages.push(message);
            let (ptr, _) = self.locate(span);
            let entry = on_file!(file, f => opcode::Send::new(f, ptr, span.len_bytes)
                .flags(libc::MSG_NOSIGNAL).build());
            return Some(self.start_on_buffer(token, span, KernelAccess::Reads, entry));
        }
        let header = message.arm(&mut self.pool);
        let entry =
            on_file!(file, f => opcode::SendMsg::new(f, header).flags(libc::MSG_NOSIGNAL as u32).build());
        Some(self.start(token, Hold::Message(message), entry))
    }

    /// Accepts connections until cancelled or failed: one completion each, with `more` set while it goes on.
    pub fn accept(&mut self, token: T, file: FileRef) -> OpKey {
        let entry = on_file!(file, f => opcode::AcceptMulti::new(f).flags(libc::SOCK_CLOEXEC).build());
        self.start(token, Hold::Descriptors, entry)
    }

    /// Connects a socket. Result 0 is success.
    pub fn connect(&mut self, token: T, file: FileRef, peer: SocketAddr) -> OpKey {
        let address = Box::new(SockaddrStorage::from(peer));
        let entry = on_file!(file, f => opcode::Connect::new(f, address.as_ptr(), address.len()).build());
        self.start(token, Hold::Address(address), entry)
    }

    /// One completion after the next [`Waker::wake`] (or at once after one that was not seen yet).
    pub fn watch(&mut self, token: T, waker: &Waker) -> OpKey {
        let ptr = self.scratch.start();
        let entry = opcode::Read::new(Fd(waker.as_fd().as_raw_fd()), ptr, EVENT_COUNTER_BYTES).build();
        self.start(token, Hold::Nothing, entry)
    }

    /// One completion when the descriptor becomes readable, fails or is hung up; the result is the poll(2)
    /// mask.
    pub fn poll_readable(&mut self, token: T, file: FileRef) -> OpKey {
        let entry = on_file!(file, f => opcode::PollAdd::new(f, libc::POLLIN as u32).build());
        self.start(token, Hold::Nothing, entry)
    }

    /// Asks for an operation to end. It still completes, with its result or `-ECANCELED`; a disk operation
    /// that has reached the device cannot be stopped. A stale key does nothing.
    pub fn cancel(&mut self, key: OpKey) {
        if self.ops.get(key).is_some() {
            self.start_quiet(opcode::AsyncCancel2::new(CancelBuilder::user_data(key.0)).build());
        }
    }

    /// As [`cancel`](Self::cancel), for all operations on the file that were started under this name.
    pub fn cancel_file(&mut self, file: FileRef) {
        let builder = on_file!(file, f => CancelBuilder::fd(f).all());
        self.start_quiet(opcode::AsyncCancel2::new(builder).build());
    }

    /// Shuts a socket down in both directions at once: receives complete with 0, sends fail, the peer sees the
    /// end. Sends queued before are submitted first. Errors (not connected any more) are of no consequence.
    pub fn shutdown(&mut self, socket: BorrowedFd<'_>) {
        let _ = self.submit();
        let _ = nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// Closes a descriptor after the operations queued before. Those in flight go on with the file behind it;
    /// stop them by [`cancel_file`](Self::cancel_file) or [`shutdown`](Self::shutdown) first.
    pub fn close(&mut self, file: OwnedFd) {
        self.start_quiet(opcode::Close::new(Fd(file.into_raw_fd())).build());
    }

    /// Submits what is queued without waiting for anything.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn submit(&mut self) -> io::Result<()> {
        if self.uring.submission().is_empty() { Ok(()) } else { self.enter(0, None) }
    }

    /// Submits what is queued and waits for a completion, at most `timeout` (`None`: as long as it takes;
    /// zero: not at all). Returns the number of completions ready for
    /// [`next_completion`](Self::next_completion), which is 0 after a timeout or a signal.
    ///
    /// # Errors
    /// The ring is unusable; no reason for this is known short of running out of kernel memory.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        self.reap();
        let block = self.ready.is_empty() && timeout != Some(Duration::ZERO);
        if block || self.kernel_has_work() {
            self.enter(u32::from(block), timeout)?;
        }
        Ok(self.ready.len())
    }

    /// Like [`wait`](Self::wait), but looks for completions for up to `spin` without sleeping first: while
    /// requests are in flight the next one is near, and a sleep costs more than the wait. Gives the processor
    /// to others that want it, and stops trying (but for one wait in 32) while it finds nothing.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_spinning(&mut self, spin: Duration, timeout: Option<Duration>) -> io::Result<usize> {
        if spin.is_zero() || !self.spin_record.should_try() {
            return self.wait(timeout);
        }
        if self.wait(Some(Duration::ZERO))? > 0 || timeout == Some(Duration::ZERO) {
            return Ok(self.ready.len());
        }
        let start = Instant::now();
        let spin = timeout.map_or(spin, |timeout| spin.min(timeout));
        loop {
            for _ in 0..SPINS_PER_YIELD {
                std::hint::spin_loop();
                if !self.uring.completion().is_empty() || self.uring.submission().taskrun() {
                    let ready = self.wait(Some(Duration::ZERO))?;
                    if ready > 0 {
                        self.spin_record.found();
                        return Ok(ready);
                    }
                }
            }
            let elapsed = start.elapsed();
            if elapsed >= spin {
                self.spin_record.failed();
                return self.wait(timeout.map(|timeout| timeout.saturating_sub(elapsed)));
            }
            std::thread::yield_now();
        }
    }

    /// The oldest completion that [`wait`](Self::wait) found. With it, unless `more` is set, the operation's
    /// memory is given up.
    pub fn next_completion(&mut self) -> Option<Completion<T>> {
        while let Some(raw) = self.ready.pop_front() {
            if raw.user_data == QUIET {
                self.quiet -= 1;
                continue;
            }
            let key = OpKey(raw.user_data);
            let more = cqueue::more(raw.flags);
            let (token, accepted) = if more {
                let (token, hold) = self.ops.get(key).expect("the kernel completes what is in flight");
                (token, accepted_fd(hold, raw.result))
            } else {
                let (token, hold) = self.ops.remove(key).expect("the kernel completes what is in flight");
                let accepted = accepted_fd(&hold, raw.result);
                self.let_go(hold, raw.flags);
                (token, accepted)
            };
            return Some(Completion { token, key, result: raw.result, more, accepted });
        }
        None
    }

    /// Address and registered region of a span.
    fn locate(&self, span: BufSpan) -> (*mut u8, u16) {
        self.check_pool();
        assert!(span.len_bytes > 0, "operation on no bytes");
        self.pool.locate(span)
    }

    /// Only memory of the pool the ring was made with is kept alive by it.
    fn check_pool(&self) {
        assert!(Rc::ptr_eq(self.pool.mapping(), &self.pool_mapping), "the pool of a ring was replaced");
    }

    fn start_on_buffer(
        &mut self,
        token: T,
        span: BufSpan,
        access: KernelAccess,
        entry: squeue::Entry,
    ) -> OpKey {
        self.pool.pin(span.buf, access);
        self.start(token, Hold::Buffer(span.buf, access), entry)
    }

    fn start(&mut self, token: T, hold: Hold, entry: squeue::Entry) -> OpKey {
        let key = self.ops.insert(token, hold);
        self.push(entry.user_data(key.0));
        key
    }

    fn start_quiet(&mut self, entry: squeue::Entry) {
        self.quiet += 1;
        self.push(entry.user_data(QUIET));
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: what the entry points to is pool memory pinned by, or memory owned by, the operation's slab
        // entry until the last completion is taken; `drop` leaks it rather than freeing it earlier. The
        // scratch page and (for a swapped pool) `pool_mapping` live as long as the ring.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.enter(0, None).expect("a full submission queue can be submitted");
            if self.uring.submission().is_full() {
                // The kernel is short of memory or of completion space; `enter` made room for the latter.
                std::thread::yield_now();
            }
        }
    }

    /// Something is queued, or completions wait for a system call to be posted.
    fn kernel_has_work(&mut self) -> bool {
        let queue = self.uring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Submits, waits for `min_complete`, and collects.
    fn enter(&mut self, min_complete: u32, timeout: Option<Duration>) -> io::Result<()> {
        let timespec = timeout.map(Timespec::from);
        let args = match &timespec {
            Some(timespec) => SubmitArgs::new().timespec(timespec),
            None => SubmitArgs::new(),
        };
        let queued = self.uring.submission().len() as u32;
        // SAFETY: the flags announce the argument structure that is passed, and it outlives the call. The
        // entries submitted are those `push` vouches for.
        let result = unsafe { self.uring.submitter().enter(queued, min_complete, ENTER_FLAGS, Some(&args)) };
        self.reap();
        match result.map_err(|e| (e.raw_os_error().unwrap_or(0), e)) {
            // ETIME, EINTR: the wait is over. EBUSY, EAGAIN: nothing was taken, the next turn tries again.
            Ok(_) | Err((libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN, _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// Moves the kernel's completions to `ready`, so that its queue never stays full.
    fn reap(&mut self) {
        let found = self.uring.completion().map(|entry| RawCompletion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        });
        self.ready.extend(found);
    }

    fn let_go(&mut self, hold: Hold, flags: u32) {
        match hold {
            Hold::Nothing | Hold::Address(_) | Hold::Descriptors => {}
            Hold::Buffer(buf, access) => self.pool.unpin(buf, access),
            Hold::Staging(staging) => staging.returned(cqueue::sock_nonempty(flags)),
            Hold::Message(mut message) => {
                message.disarm(&mut self.pool);
                self.idle_messages.push(message);
            }
        }
    }

    /// Collects everything in flight, until `deadline`. True when nothing is left.
    fn drain(&mut self, deadline: Instant) -> bool {
        loop {
            while self.next_completion().is_some() {}
            if self.ops.in_flight() + self.quiet == 0 {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait(Some(left)).is_err() {
                return false;
            }
        }
    }
}

impl<T: Copy> Drop for Ring<T> {
    fn drop(&mut self) {
        if self.ops.in_flight() > 0 {
            self.start_quiet(opcode::AsyncCancel2::new(CancelBuilder::any()).build());
        }
        if self.drain(Instant::now() + DROP_PATIENCE) {
            // The kernel takes a ring apart later; what is claimed by its files is free now.
            let _ = self.uring.submitter().unregister_files();
            return;
        }
        // A device that does not answer: its operations may still write to our memory, so it is never freed.
        tracing::error!(in_flight = self.ops.in_flight(), "operations do not end; their memory is abandoned");
        std::mem::forget(std::mem::replace(&mut self.ops, OpSlab::with_capacity(0)));
        std::mem::forget(Rc::clone(&self.pool_mapping));
        std::mem::forget(Rc::clone(&self.scratch));
    }
}

fn accepted_fd(hold: &Hold, result: i32) -> Option<OwnedFd> {
    match hold {
        // SAFETY: the kernel made this descriptor for us; each completion is seen once, so no one else owns it.
        Hold::Descriptors if result >= 0 => Some(unsafe { OwnedFd::from_raw_fd(result) }),
        _ => None,
    }
}

/// `user_data` of operations whose outcome nobody waits for; no key has this value.
const QUIET: u64 = u64::MAX;
/// Places in the table of registered files.
const FILES_MAX: u32 = 64;
/// Disk operations that may stand in the kernel, each with a thread of its own there. Flushes always do, reads and writes when
/// the queue of the disk is full. Once so many stand still, those of all other disks wait behind them.
const BLOCKED_MAX: u32 = 512;
const EVENT_COUNTER_BYTES: u32 = 8;
const SCRATCH_BYTES: usize = 4096;
/// Looks at the completion queue between two offers of the processor to others; about a microsecond.
const SPINS_PER_YIELD: u32 = 16;
/// How long a dropped ring waits for its operations to end.
const DROP_PATIENCE: Duration = Duration::from_secs(10);
/// IORING_RECVSEND_POLL_FIRST.
const RECV_POLL_FIRST: u16 = 1;
/// IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG.
const ENTER_FLAGS: u32 = (1 << 0) | (1 << 3);

#[cfg(test)]
mod tests;
