//! Waking a ring from other threads, and the bounded queue whose arrivals are worth waking for.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes the thread that waits on a ring, from any thread. The ring side arms
/// [`Ring::watch`](super::Ring::watch), gets a completion after each wake-up (several may be one) and arms it
/// again *before* it looks at what the others left for it, so that nothing is missed.
#[derive(Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// # Errors
    /// What eventfd(2) reports: no descriptors or memory left.
    pub fn new() -> std::io::Result<Waker> {
        // Blocking: a ring operation on a non-blocking descriptor fails instead of waiting.
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        Ok(Waker(Arc::new(fd)))
    }

    /// Ends the current or the next wait of the ring. Never blocks.
    pub fn wake(&self) {
        // Blocks only at 2^64-2 wake-ups without a read, and fails never for a descriptor we own.
        let written = self.0.write(1);
        debug_assert!(written.is_ok(), "eventfd write: {written:?}");
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Bounded queue to the thread of a ring. Clones are handles of the same queue; any may send or receive.
pub struct Mailbox<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Waker,
}

impl<T> Mailbox<T> {
    /// A queue of at most `capacity` messages (at least one) that wakes by `waker`. Several mailboxes may
    /// share one waker.
    pub fn new(capacity: usize, waker: Waker) -> Mailbox<T> {
        Mailbox { queue: Arc::new(ArrayQueue::new(capacity)), waker }
    }

    /// Leaves a message and wakes the ring.
    ///
    /// # Errors
    /// Gives the message back when the queue is full: the receiver is behind, try again later.
    pub fn post(&self, message: T) -> Result<(), T> {
        self.queue.push(message)?;
        self.waker.wake();
        Ok(())
    }

    /// The oldest message.
    pub fn take(&self) -> Option<T> {
        self.queue.pop()
    }
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Mailbox<T> {
        Mailbox { queue: Arc::clone(&self.queue), waker: self.waker.clone() }
    }
}
