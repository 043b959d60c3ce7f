//! Once it has warmed up, the data path allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use blockdev::backing::OpenOptions;
use blockdev::pool::{BufSpan, BufferPool};
use blockdev::ring::{FileRef, Mailbox, RecvUntil, Ring, RingOptions, Waker};
use blockdev::socket::{RecvBuffer, SendQueue};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: forwards to the system allocator unchanged; the counter is a plain thread local without destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BLOCK_BYTES: u32 = 16 << 10;
const HEADER_BYTES: usize = 24;

struct Worker {
    ring: Ring<u8>,
    file: FileRef,
    near: UnixStream,
    far: UnixStream,
    queue: SendQueue,
    input: RecvBuffer,
    waker: Waker,
    mailbox: Mailbox<u32>,
}

impl Worker {
    fn finish(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            self.ring
                .wait_spinning(Duration::from_micros(20), Some(Duration::from_secs(10)))
                .expect("ring waits");
            while let Some(completion) = self.ring.next_completion() {
                let bytes = completion.outcome().expect("operation succeeds") as usize;
                match completion.token {
                    b's' => self.queue.advance(bytes, self.ring.pool_mut()),
                    b'h' => self.input.filled(bytes),
                    _ => {}
                }
                left -= 1;
            }
        }
    }

    /// A write as the worker sees it: a message, headers and payload out, headers and payload in, to disk.
    fn turn(&mut self) {
        self.ring.watch(b'w', &self.waker);
        self.mailbox.post(1).expect("the mailbox is empty");
        self.finish(1);
        self.mailbox.take().expect("the message arrived");

        let pool = self.ring.pool_mut();
        let out = BufSpan::head(pool.alloc(BLOCK_BYTES as usize).expect("pool is large enough"), BLOCK_BYTES);
        let back =
            BufSpan::head(pool.alloc(BLOCK_BYTES as usize).expect("pool is large enough"), BLOCK_BYTES);
        for _ in 0..2 {
            self.queue.push_bytes(pool, &[7; HEADER_BYTES]).expect("control area is large enough");
            self.queue.push_payload(pool, out);
        }
        while self.ring.send(b's', FileRef::of(&self.near), &mut self.queue).is_some() {
            self.finish(1);
        }
        // A header and the start of what follows come together, the rest goes straight to a buffer.
        self.ring.recv(b'h', FileRef::of(&self.far), &mut self.input);
        self.finish(1);
        let had = self.input.bytes().len();
        self.input.consume(had);
        let mut left = 2 * (HEADER_BYTES + BLOCK_BYTES as usize) - had;
        while left > 0 {
            let part = BufSpan::head(back.buf, left.min(BLOCK_BYTES as usize) as u32);
            self.ring.recv_span(b'r', FileRef::of(&self.far), part, RecvUntil::Full);
            self.finish(1);
            left -= part.len_bytes as usize;
        }
        self.ring.write_at(b'd', self.file, back, 0, false);
        self.finish(1);
        self.ring.read_at(b'd', self.file, back, 0);
        self.finish(1);
        self.ring.pool_mut().release(out.buf);
        self.ring.pool_mut().release(back.buf);
    }
}

#[test]
fn a_warm_data_path_allocates_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![0; 1 << 20]).expect("disk file");
    let disk = OpenOptions::default().open(&path).expect("disk opens");
    let pool = BufferPool::new(1 << 20).expect("pool");
    let ring = Ring::new(RingOptions::default(), pool).expect("ring");
    let (near, far) = UnixStream::pair().expect("socket pair");
    let waker = Waker::new().expect("eventfd");
    let mailbox = Mailbox::new(4, waker.clone());
    let (queue, input) = (SendQueue::new(), RecvBuffer::new(4096).expect("buffer"));
    let mut worker = Worker { ring, file: FileRef::of(&disk), near, far, queue, input, waker, mailbox };

    let before = ALLOCATIONS.get();
    (0..3).for_each(|_| worker.turn());
    let warm = ALLOCATIONS.get();
    assert!(warm > before, "the counter counts: the first send builds its iovecs");
    (0..500).for_each(|_| worker.turn());
    assert_eq!(ALLOCATIONS.get(), warm);
    worker.queue.clear(worker.ring.pool_mut());
    assert_eq!(worker.ring.pool().used_bytes(), 0);
}
