//! Block buffers of one ring: one mapping, aligned slots in five size classes, a hard cap.
//!
//! The mapping is cut into chunks of 1 MiB. A chunk belongs to no class until an allocation needs it, serves
//! slots of one size while any of them is in use, and is free for every class again afterwards. So the cap is
//! not divided among the classes beforehand, and a released chunk needs no merging.
//!
//! A second, small *control* area lies behind the data area. Packet headers and metadata blocks come from it:
//! were they to compete with block data, a pool full of writes that wait for their acknowledgements could not
//! send or record what frees them.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;

use model::ids::BufId;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Every slot starts at a multiple of this and is at least this long (bytes).
pub const SLOT_ALIGN_BYTES: usize = 4096;
/// Largest slot, hence the largest allocation (bytes); a request with payload is never longer.
pub const SLOT_BYTES_MAX: usize = 1 << 20;
/// Slot sizes (bytes), ascending. A 4 KiB write takes the first, resync and bitmap pages the middle ones.
pub const SLOT_CLASSES_BYTES: [usize; CLASSES] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, SLOT_BYTES_MAX];
/// Size of the control area (bytes), on top of the cap.
pub const CONTROL_BYTES: usize = 16 << 20;
/// Largest cap (bytes): handles carry a page number of 20 bits, which the control area shares.
pub const CAP_BYTES_MAX: usize = (1 << PAGE_BITS) * SLOT_ALIGN_BYTES - CONTROL_BYTES;

const _: () = assert!(SLOT_BYTES_MAX == model::units::MAX_BIO_BYTES as usize);
const _: () =
    assert!(CHUNK_BYTES.is_multiple_of(SLOT_BYTES_MAX) && CONTROL_BYTES.is_multiple_of(CHUNK_BYTES));
const _: () = assert!(CHUNK_PAGES == 64 * BITMAP_WORDS);

/// Part of a buffer; what ring operations and send queues work on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufSpan {
    /// The buffer.
    pub buf: BufId,
    /// First byte inside the buffer.
    pub offset_bytes: u32,
    /// Number of bytes.
    pub len_bytes: u32,
}

impl BufSpan {
    /// The first `len_bytes` of `buf`.
    pub const fn head(buf: BufId, len_bytes: u32) -> BufSpan {
        BufSpan { buf, offset_bytes: 0, len_bytes }
    }

    /// The part that is left when the first `bytes` are cut off; `bytes` is at most the length.
    pub const fn skip(self, bytes: u32) -> BufSpan {
        assert!(bytes <= self.len_bytes);
        BufSpan { offset_bytes: self.offset_bytes + bytes, len_bytes: self.len_bytes - bytes, ..self }
    }
}

/// What a kernel operation does with the memory it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KernelAccess {
    /// The kernel reads the memory: disk write, send.
    Reads,
    /// The kernel fills the memory: disk read, receive.
    Fills,
}

/// The pool. See the module text for its shape.
///
/// A [`BufId`] from [`alloc`](Self::alloc) counts one reference; [`retain`](Self::retain) adds one,
/// [`release`](Self::release) takes one, the last frees the slot. A handle contains a generation, so using one
/// after its slot was freed stops the program (as long as fewer than 4096 allocations of that slot passed)
/// instead of touching the data of another request. All methods that take a handle panic on a stale one.
pub struct BufferPool {
    mapping: Rc<Mapping>,
    slots: Vec<Slot>,
    chunks: Vec<Chunk>,
    data: Area,
    control: Area,
    cap_bytes: usize,
    used_bytes: usize,
}

impl BufferPool {
    /// A pool that hands out at most `cap_bytes` (rounded up to whole MiB) to [`alloc`](Self::alloc), and
    /// [`CONTROL_BYTES`] more to [`alloc_control`](Self::alloc_control). Memory is reserved here and becomes
    /// resident when it is first used.
    ///
    /// # Errors
    /// What mmap(2) reports. Panics when the cap is zero or above [`CAP_BYTES_MAX`].
    pub fn new(cap_bytes: usize) -> std::io::Result<BufferPool> {
        assert!(cap_bytes > 0 && cap_bytes <= CAP_BYTES_MAX, "pool cap of {cap_bytes} bytes");
        let data_chunks = cap_bytes.div_ceil(CHUNK_BYTES);
        let chunks = data_chunks + CONTROL_BYTES / CHUNK_BYTES;
        let mapping = Rc::new(Mapping::new(chunks * CHUNK_BYTES)?);
        Ok(BufferPool {
            mapping,
            slots: vec![Slot::default(); chunks * CHUNK_PAGES],
            chunks: vec![Chunk::UNUSED; chunks],
            data: Area::new(0..data_chunks),
            control: Area::new(data_chunks..chunks),
            cap_bytes: data_chunks * CHUNK_BYTES,
            used_bytes: 0,
        })
    }

    /// A slot of at least `len_bytes` with one reference, or `None` when the cap is reached: the caller has to
    /// stop taking in requests until something is released. The contents are whatever was there before.
    /// Panics when `len_bytes` is above [`SLOT_BYTES_MAX`]; lengths from outside are checked by the caller.
    pub fn alloc(&mut self, len_bytes: usize) -> Option<BufId> {
        let page = self.data.take(&mut self.chunks, class_of(len_bytes))?;
        Some(self.hand_out(page))
    }

    /// Like [`alloc`](Self::alloc), from the control area: for headers, acknowledgements and metadata only.
    pub fn alloc_control(&mut self, len_bytes: usize) -> Option<BufId> {
        let page = self.control.take(&mut self.chunks, class_of(len_bytes))?;
        Some(self.hand_out(page))
    }

    /// One more holder of the buffer.
    pub fn retain(&mut self, buf: BufId) {
        let page = self.check(buf);
        let slot = &mut self.slots[page];
        slot.refs = slot.refs.checked_add(1).expect("reference count of a buffer overflows");
    }

    /// One holder less; the last one frees the slot. Releasing more often than holding panics.
    pub fn release(&mut self, buf: BufId) {
        let page = self.check(buf);
        let slot = &mut self.slots[page];
        slot.refs -= 1;
        if slot.refs > 0 {
            return;
        }
        assert!(slot.kernel_reads == 0 && slot.kernel_fills == 0, "pins hold references of their own");
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        let chunk = page / CHUNK_PAGES;
        self.used_bytes -= SLOT_CLASSES_BYTES[self.chunks[chunk].class];
        let area = if self.control.range.contains(&chunk) { &mut self.control } else { &mut self.data };
        area.give_back(&mut self.chunks, page);
    }

    /// Number of holders, operations of the kernel included.
    pub fn references(&self, buf: BufId) -> u32 {
        self.slots[self.check(buf)].refs
    }

    /// Usable length of the buffer (bytes); at least what was asked for.
    pub fn capacity(&self, buf: BufId) -> usize {
        self.capacity_of_page(self.check(buf))
    }

    /// Start of the buffer. Valid until the last reference is gone and the ring that owns this pool, or the
    /// pool itself, is dropped.
    pub fn ptr(&self, buf: BufId) -> *mut u8 {
        self.page_ptr(self.check(buf))
    }

    /// The whole buffer. Panics while an operation that fills it is in flight.
    pub fn bytes(&self, buf: BufId) -> &[u8] {
        let page = self.check(buf);
        assert!(self.slots[page].kernel_fills == 0, "read of a buffer that the kernel is filling");
        // SAFETY: the page starts a live slot of that capacity inside the mapping, which is initialised (zero
        // pages) and lives as long as `self`. No one writes to it while the slice lives: the kernel is not
        // filling it (asserted), and neither an operation nor `bytes_mut` can start while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.page_ptr(page), self.capacity_of_page(page)) }
    }

    /// The whole buffer, to write to. Panics while any operation on it is in flight. Other holders see the
    /// change, so this is for the one who fills a fresh buffer.
    pub fn bytes_mut(&mut self, buf: BufId) -> &mut [u8] {
        let page = self.check(buf);
        let slot = &self.slots[page];
        assert!(
            slot.kernel_fills == 0 && slot.kernel_reads == 0,
            "write to a buffer that the kernel is using"
        );
        // SAFETY: as in `bytes`; the exclusive borrow of `self` rules out other slices, and no operation of
        // the kernel holds the slot.
        unsafe { std::slice::from_raw_parts_mut(self.page_ptr(page), self.capacity_of_page(page)) }
    }

    /// The bytes of a span, to read. Panics as [`bytes`](Self::bytes) and when the span is outside the buffer.
    pub fn span_bytes(&self, span: BufSpan) -> &[u8] {
        let start = span.offset_bytes as usize;
        &self.bytes(span.buf)[start..start + span.len_bytes as usize]
    }

    /// The bytes of a span, to write to. Panics as [`bytes_mut`](Self::bytes_mut) and when the span is outside
    /// the buffer.
    pub fn span_bytes_mut(&mut self, span: BufSpan) -> &mut [u8] {
        let start = span.offset_bytes as usize;
        &mut self.bytes_mut(span.buf)[start..start + span.len_bytes as usize]
    }

    /// Copies `bytes` into a part of a buffer that no one has seen yet, while operations may be sending earlier
    /// parts. The caller vouches that the span was never given to an operation since it is its own.
    pub(crate) fn append_bytes(&mut self, span: BufSpan, bytes: &[u8]) {
        assert!(bytes.len() == span.len_bytes as usize);
        assert!(self.slots[self.check(span.buf)].kernel_fills == 0, "the kernel is filling the buffer");
        let (ptr, _) = self.locate(span);
        // SAFETY: `locate` checked that the span is inside the live slot; `bytes` borrows other memory, or
        // could not be borrowed while `self` is borrowed exclusively. Operations on the slot only read it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), ptr, bytes.len()) }
    }

    /// What [`alloc`](Self::alloc) can hand out in total (bytes).
    pub fn cap_bytes(&self) -> usize {
        self.cap_bytes
    }

    /// Capacity of all slots in use, control area included (bytes).
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Address and number (of the registered region) of a span that an operation of the kernel may use.
    /// Panics when the span reaches beyond the buffer.
    pub(crate) fn locate(&self, span: BufSpan) -> (*mut u8, u16) {
        let page = self.check(span.buf);
        let end = span.offset_bytes as usize + span.len_bytes as usize;
        assert!(end <= self.capacity_of_page(page), "span of {end} bytes reaches beyond its buffer");
        let region = page * SLOT_ALIGN_BYTES / REGION_BYTES;
        (self.page_ptr(page).wrapping_add(span.offset_bytes as usize), region as u16)
    }

    /// An operation on the buffer is about to be given to the kernel: it holds a reference until `unpin`.
    pub(crate) fn pin(&mut self, buf: BufId, access: KernelAccess) {
        self.retain(buf);
        let slot = &mut self.slots[page_of(buf)];
        let count = slot.pins(access);
        *count = count.checked_add(1).expect("operations in flight on one buffer overflow");
    }

    /// The kernel is done with the operation.
    pub(crate) fn unpin(&mut self, buf: BufId, access: KernelAccess) {
        let page = self.check(buf);
        let count = self.slots[page].pins(access);
        *count = count.checked_sub(1).expect("every unpin follows a pin");
        self.release(buf);
    }

    /// The memory, to be kept alive by whoever gives addresses of it to the kernel.
    pub(crate) fn mapping(&self) -> &Rc<Mapping> {
        &self.mapping
    }

    fn hand_out(&mut self, page: usize) -> BufId {
        let slot = &mut self.slots[page];
        assert!(slot.refs == 0, "the free list names a slot in use");
        slot.refs = 1;
        let generation = slot.generation;
        self.used_bytes += self.capacity_of_page(page);
        BufId((generation as u32) << PAGE_BITS | page as u32)
    }

    /// Page number of a handle that is alive.
    fn check(&self, buf: BufId) -> usize {
        let page = page_of(buf);
        let alive =
            self.slots.get(page).is_some_and(|s| s.refs > 0 && s.generation as u32 == buf.0 >> PAGE_BITS);
        assert!(alive, "stale or released buffer handle {buf:?}");
        page
    }

    fn capacity_of_page(&self, page: usize) -> usize {
        SLOT_CLASSES_BYTES[self.chunks[page / CHUNK_PAGES].class]
    }

    fn page_ptr(&self, page: usize) -> *mut u8 {
        self.mapping.start().wrapping_add(page * SLOT_ALIGN_BYTES)
    }
}

/// Book-keeping of one slot, kept at the index of its first page.
#[derive(Clone, Copy, Default)]
struct Slot {
    refs: u32,
    kernel_reads: u16,
    kernel_fills: u16,
    generation: u16,
}

impl Slot {
    fn pins(&mut self, access: KernelAccess) -> &mut u16 {
        match access {
            KernelAccess::Reads => &mut self.kernel_reads,
            KernelAccess::Fills => &mut self.kernel_fills,
        }
    }
}

/// 1 MiB of slots of one class. While some but not all are in use it is linked in its area's list.
#[derive(Clone, Copy)]
struct Chunk {
    /// Bit n: slot n is free.
    free: [u64; BITMAP_WORDS],
    free_count: u16,
    class: usize,
    prev: u32,
    next: u32,
}

impl Chunk {
    const UNUSED: Chunk = Chunk { free: [0; BITMAP_WORDS], free_count: 0, class: 0, prev: NONE, next: NONE };

    fn of_class(class: usize) -> Chunk {
        let slots = slots_per_chunk(class);
        let mut chunk = Chunk { class, free_count: slots as u16, ..Chunk::UNUSED };
        for (word, bits) in chunk.free.iter_mut().enumerate() {
            let from = word * 64;
            *bits = match slots.saturating_sub(from) {
                0 => 0,
                n if n >= 64 => u64::MAX,
                n => (1 << n) - 1,
            };
        }
        chunk
    }

    fn take_slot(&mut self) -> usize {
        let word = self.free.iter().position(|&w| w != 0).expect("a listed chunk has a free slot");
        let bit = self.free[word].trailing_zeros() as usize;
        self.free[word] &= !(1 << bit);
        self.free_count -= 1;
        word * 64 + bit
    }

    fn put_slot(&mut self, slot: usize) {
        let mask = 1 << (slot % 64);
        assert!(self.free[slot / 64] & mask == 0, "slot freed twice");
        self.free[slot / 64] |= mask;
        self.free_count += 1;
    }
}

/// The chunks that one kind of allocation may use.
struct Area {
    range: std::ops::Range<usize>,
    /// Chunks that belong to no class.
    free: Vec<u32>,
    /// Per class: first chunk with free slots.
    partial: [u32; CLASSES],
}

impl Area {
    fn new(range: std::ops::Range<usize>) -> Area {
        // Reversed: the start of the mapping is used first and again, so an idle pool stays small.
        let free = range.clone().rev().map(|c| c as u32).collect();
        Area { range, free, partial: [NONE; CLASSES] }
    }

    /// First page of a free slot of `class`, or of the next larger one that has some.
    fn take(&mut self, chunks: &mut [Chunk], class: usize) -> Option<usize> {
        let index = if self.partial[class] != NONE {
            self.partial[class]
        } else if let Some(index) = self.free.pop() {
            chunks[index as usize] = Chunk::of_class(class);
            self.link(chunks, index);
            index
        } else {
            *self.partial[class..].iter().find(|&&head| head != NONE)?
        };
        let chunk = &mut chunks[index as usize];
        let slot = chunk.take_slot();
        let page = index as usize * CHUNK_PAGES + slot * pages_per_slot(chunk.class);
        if chunk.free_count == 0 {
            self.unlink(chunks, index);
        }
        Some(page)
    }

    fn give_back(&mut self, chunks: &mut [Chunk], page: usize) {
        let index = page / CHUNK_PAGES;
        let chunk = &mut chunks[index];
        chunk.put_slot(page % CHUNK_PAGES / pages_per_slot(chunk.class));
        let (class, free_count) = (chunk.class, chunk.free_count as usize);
        if free_count == 1 {
            self.link(chunks, index as u32);
        }
        if free_count == slots_per_chunk(class) {
            self.unlink(chunks, index as u32);
            self.free.push(index as u32);
        }
    }

    fn link(&mut self, chunks: &mut [Chunk], index: u32) {
        let class = chunks[index as usize].class;
        let head = self.partial[class];
        chunks[index as usize].prev = NONE;
        chunks[index as usize].next = head;
        if head != NONE {
            chunks[head as usize].prev = index;
        }
        self.partial[class] = index;
    }

    fn unlink(&mut self, chunks: &mut [Chunk], index: u32) {
        let Chunk { prev, next, class, .. } = chunks[index as usize];
        match prev {
            NONE => self.partial[class] = next,
            prev => chunks[prev as usize].next = next,
        }
        if next != NONE {
            chunks[next as usize].prev = prev;
        }
    }
}

/// Anonymous memory, zeroed, unmapped on drop.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len_bytes: usize,
}

impl Mapping {
    pub(crate) fn new(len_bytes: usize) -> std::io::Result<Mapping> {
        let length = NonZeroUsize::new(len_bytes).expect("callers ask for at least one page");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice affects no existing memory.
        let start =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        let mapping = Mapping { start: start.cast(), len_bytes };
        // A fork (handler scripts) would make these pages copy-on-write in the middle of direct I/O.
        // SAFETY: the advice concerns children only; the range is the mapping just made.
        unsafe { madvise(start, len_bytes, MmapAdvise::MADV_DONTFORK) }?;
        Ok(mapping)
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The regions to register as fixed buffers; `BufferPool::locate` counts them.
    pub(crate) fn regions(&self) -> Vec<libc::iovec> {
        (0..self.len_bytes)
            .step_by(REGION_BYTES)
            .map(|at| libc::iovec {
                iov_base: self.start().wrapping_add(at).cast(),
                iov_len: REGION_BYTES.min(self.len_bytes - at),
            })
            .collect()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and whoever could still use it (pool, ring) holds an `Rc` of
        // this value, so no one is left.
        let unmapped = unsafe { munmap(self.start.cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

fn class_of(len_bytes: usize) -> usize {
    SLOT_CLASSES_BYTES
        .iter()
        .position(|&size| len_bytes <= size)
        .unwrap_or_else(|| panic!("allocation of {len_bytes} bytes is above the largest slot"))
}

const fn pages_per_slot(class: usize) -> usize {
    SLOT_CLASSES_BYTES[class] / SLOT_ALIGN_BYTES
}

const fn slots_per_chunk(class: usize) -> usize {
    CHUNK_BYTES / SLOT_CLASSES_BYTES[class]
}

const fn page_of(buf: BufId) -> usize {
    (buf.0 & ((1 << PAGE_BITS) - 1)) as usize
}

const CLASSES: usize = 5;
const CHUNK_BYTES: usize = 1 << 20;
const CHUNK_PAGES: usize = CHUNK_BYTES / SLOT_ALIGN_BYTES;
const BITMAP_WORDS: usize = 4;
const PAGE_BITS: u32 = 20;
const GENERATION_MASK: u16 = (1 << (32 - PAGE_BITS)) - 1;
/// The kernel registers at most 1 GiB as one fixed buffer. A multiple of the chunk, so no slot straddles it.
const REGION_BYTES: usize = 1 << 30;
/// End of a chunk list.
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests;
