//! Memory of a receive buffer: owned by the buffer and by the operation that fills it.

use std::cell::Cell;
use std::rc::Rc;

use crate::pool::Mapping;

/// Receive memory outside the pool. The kernel may fill a part of it while its owner reads another part, so
/// all access goes through ranges and no slice of the whole ever exists.
pub(crate) struct Staging {
    mapping: Mapping,
    /// Range (bytes) that the kernel fills right now; empty when no operation is in flight.
    filling: Cell<(usize, usize)>,
    /// The last receive left bytes in the socket, as far as the kernel told.
    socket_has_more: Cell<bool>,
}

impl Staging {
    pub(crate) fn new(len_bytes: usize) -> std::io::Result<Rc<Staging>> {
        Ok(Rc::new(Staging {
            mapping: Mapping::new(len_bytes)?,
            filling: Cell::new((0, 0)),
            socket_has_more: Cell::new(true),
        }))
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.mapping.len_bytes()
    }

    /// No operation is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        let (start, end) = self.filling.get();
        start == end
    }

    /// The bytes from `start` to `end`; they must not be inside the range being filled.
    pub(crate) fn bytes(&self, start: usize, end: usize) -> &[u8] {
        let (fill_start, fill_end) = self.filling.get();
        assert!(start <= end && end <= self.len_bytes());
        assert!(end <= fill_start || start >= fill_end || self.is_idle(), "read of bytes being received");
        // SAFETY: inside the mapping, which is initialised; not in the range the kernel fills (asserted). A
        // later `lend` or `move_to_front` needs the owner's exclusive borrow (`RecvBuffer` methods taking
        // `&mut self`), which ends the life of this slice first.
        unsafe { std::slice::from_raw_parts(self.mapping.start().add(start), end - start) }
    }

    /// Moves the bytes from `start` to `end` to the front. Only while idle, and only by the owner.
    pub(crate) fn move_to_front(&self, start: usize, end: usize) {
        assert!(self.is_idle() && start <= end && end <= self.len_bytes());
        let front = self.mapping.start();
        // SAFETY: both ranges are inside the mapping, `copy` allows overlap, the kernel holds nothing (idle)
        // and the owner has no slice (it calls with `&mut self`).
        unsafe { std::ptr::copy(front.add(start), front, end - start) }
    }

    /// Gives the bytes from `start` to the end of the memory to an operation. Ends with `returned`.
    pub(crate) fn lend(&self, start: usize) -> (*mut u8, usize) {
        assert!(self.is_idle(), "one receive at a time fills a buffer");
        assert!(start < self.len_bytes(), "receive into a full buffer would look like the end of the stream");
        self.filling.set((start, self.len_bytes()));
        (self.mapping.start().wrapping_add(start), self.len_bytes() - start)
    }

    /// The operation is over.
    pub(crate) fn returned(&self, socket_has_more: bool) {
        self.filling.set((0, 0));
        self.socket_has_more.set(socket_has_more);
    }

    /// False when the next receive would most likely find nothing and had better wait at once.
    pub(crate) fn socket_has_more(&self) -> bool {
        self.socket_has_more.get()
    }
}
