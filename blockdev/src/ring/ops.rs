//! Operations in flight: a slab whose keys travel through the kernel, and what each entry keeps alive.
//!
//! The kernel may touch memory of an operation until its last completion. So the entry, not the caller, holds
//! that memory, and gives it up when that completion is taken.

use std::rc::Rc;

use libc::{iovec, msghdr};
use model::ids::BufId;
use nix::sys::socket::SockaddrStorage;

use super::staging::Staging;
use crate::pool::{BufSpan, BufferPool, KernelAccess};
use crate::socket::SEND_SPANS_MAX;

/// Names an operation in flight; becomes stale with its last completion and then names nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpKey(pub(super) u64);

impl OpKey {
    fn new(index: u32, generation: u32) -> OpKey {
        OpKey((generation as u64) << 32 | index as u64)
    }

    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What an operation keeps alive.
pub(super) enum Hold {
    /// Nothing, or memory of the ring itself.
    Nothing,
    /// A pinned pool buffer.
    Buffer(BufId, KernelAccess),
    /// A receive buffer.
    Staging(Rc<Staging>),
    /// A vectored send: iovecs and their pinned buffers.
    Message(Box<Message>),
    /// The address of a connect.
    Address(#[allow(dead_code, reason = "kept for the kernel")] Box<SockaddrStorage>),
    /// Results are descriptors that belong to us.
    Descriptors,
}

/// Slab of operations.
pub(super) struct OpSlab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

struct Entry<T> {
    generation: u32,
    op: Option<(T, Hold)>,
}

impl<T: Copy> OpSlab<T> {
    pub(super) fn with_capacity(count: usize) -> OpSlab<T> {
        OpSlab { entries: Vec::with_capacity(count), free: Vec::with_capacity(count) }
    }

    pub(super) fn insert(&mut self, token: T, hold: Hold) -> OpKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, op: None });
            u32::try_from(self.entries.len() - 1).expect("operations in flight are bounded by memory")
        });
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.op.is_none());
        entry.op = Some((token, hold));
        OpKey::new(index, entry.generation)
    }

    /// Token and hold of an operation in flight.
    pub(super) fn get(&self, key: OpKey) -> Option<(T, &Hold)> {
        let entry = self.entries.get(key.index()).filter(|e| e.generation == key.generation())?;
        entry.op.as_ref().map(|(token, hold)| (*token, hold))
    }

    /// Ends an operation; its key is stale from now on.
    pub(super) fn remove(&mut self, key: OpKey) -> Option<(T, Hold)> {
        let entry = self.entries.get_mut(key.index()).filter(|e| e.generation == key.generation())?;
        let op = entry.op.take()?;
        // Generation u32::MAX would make a key of the last index equal to the quiet mark.
        entry.generation = (entry.generation + 1) % u32::MAX;
        self.free.push(key.index() as u32);
        Some(op)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

/// Arguments of one sendmsg(2). Boxed and reused: the kernel has addresses of its fields.
pub(super) struct Message {
    header: msghdr,
    iovecs: [iovec; SEND_SPANS_MAX],
    pub(super) spans: [BufSpan; SEND_SPANS_MAX],
    pub(super) count: usize,
}

impl Message {
    pub(super) fn new() -> Box<Message> {
        // SAFETY: msghdr is a C structure of integers and pointers; all zero means "none" for each.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Message {
            header,
            iovecs: [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_SPANS_MAX],
            spans: [BufSpan::head(BufId(0), 0); SEND_SPANS_MAX],
            count: 0,
        })
    }

    /// Pins the spans and points the header at them; the result is valid while `self` is neither changed nor
    /// dropped.
    pub(super) fn arm(&mut self, pool: &mut BufferPool) -> *const msghdr {
        for (iovec, span) in self.iovecs.iter_mut().zip(&self.spans[..self.count]) {
            pool.pin(span.buf, KernelAccess::Reads);
            iovec.iov_base = pool.locate(*span).0.cast();
            iovec.iov_len = span.len_bytes as usize;
        }
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.count as _;
        &self.header
    }

    /// Gives the buffers up.
    pub(super) fn disarm(&mut self, pool: &mut BufferPool) {
        for span in &self.spans[..self.count] {
            pool.unpin(span.buf, KernelAccess::Reads);
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_stale_after_the_end_of_its_operation() {
        let mut slab = OpSlab::with_capacity(2);
        let first = slab.insert('a', Hold::Nothing);
        let second = slab.insert('b', Hold::Nothing);
        assert_eq!(slab.in_flight(), 2);
        assert_eq!(slab.remove(first).map(|op| op.0), Some('a'));
        let third = slab.insert('c', Hold::Nothing);
        assert_eq!(third.index(), first.index(), "the place is used again");
        assert!(slab.get(first).is_none() && slab.remove(first).is_none());
        assert_eq!(slab.get(third).map(|op| op.0), Some('c'));
        assert_eq!(slab.get(second).map(|op| op.0), Some('b'));
        assert!(slab.get(OpKey(u64::MAX)).is_none());
    }
}
