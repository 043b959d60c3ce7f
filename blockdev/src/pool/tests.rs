use super::*;

struct XorShift(u64);

impl XorShift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Every slot is stamped with a word only its holder knows: overlapping slots or lost contents show up.
#[test]
fn random_allocations_never_overlap_and_account_exactly() {
    const CAP_BYTES: usize = 8 << 20;
    for seed in 1..=20u64 {
        let mut rng = XorShift(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut pool = BufferPool::new(CAP_BYTES).unwrap();
        let mut held: Vec<(BufId, u32, u64, usize)> = Vec::new();
        let mut refused = 0;
        for step in 0..20_000u64 {
            match rng.below(5) {
                0 | 1 => {
                    let class = rng.below(CLASSES);
                    let len = 1 + rng.below(SLOT_CLASSES_BYTES[class]);
                    let Some(buf) = pool.alloc(len) else {
                        refused += 1;
                        continue;
                    };
                    let capacity = pool.capacity(buf);
                    assert!(capacity >= len);
                    assert_eq!(pool.ptr(buf) as usize % SLOT_ALIGN_BYTES, 0);
                    let stamp = seed << 32 | step;
                    let bytes = pool.bytes_mut(buf);
                    bytes[..8].copy_from_slice(&stamp.to_le_bytes());
                    bytes[capacity - 8..].copy_from_slice(&stamp.to_le_bytes());
                    held.push((buf, 1, stamp, capacity));
                }
                2 if !held.is_empty() => {
                    let at = rng.below(held.len());
                    pool.retain(held[at].0);
                    held[at].1 += 1;
                }
                _ if !held.is_empty() => {
                    let at = rng.below(held.len());
                    let (buf, refs, stamp, capacity) = held[at];
                    assert_eq!(pool.references(buf), refs);
                    assert_eq!(pool.capacity(buf), capacity);
                    assert_eq!(pool.bytes(buf)[..8], stamp.to_le_bytes());
                    assert_eq!(pool.bytes(buf)[capacity - 8..], stamp.to_le_bytes());
                    pool.release(buf);
                    held[at].1 -= 1;
                    if refs == 1 {
                        held.swap_remove(at);
                    }
                }
                _ => {}
            }
            let used: usize = held.iter().map(|h| h.3).sum();
            assert_eq!(pool.used_bytes(), used);
            assert!(used <= CAP_BYTES);
        }
        assert!(refused > 0, "the cap was never reached");
        for (buf, refs, ..) in held {
            (0..refs).for_each(|_| pool.release(buf));
        }
        assert_eq!(pool.used_bytes(), 0);
        let all: Vec<_> = (0..8).map(|_| pool.alloc(SLOT_BYTES_MAX).unwrap()).collect();
        assert!(pool.alloc(1).is_none(), "all chunks were found again, and no more than those");
        all.into_iter().for_each(|buf| pool.release(buf));
    }
}

#[test]
fn every_class_fills_the_cap_completely() {
    for size in SLOT_CLASSES_BYTES {
        let mut pool = BufferPool::new(2 << 20).unwrap();
        let mut count = 0;
        while let Some(buf) = pool.alloc(size) {
            assert_eq!(pool.capacity(buf), size);
            count += 1;
        }
        assert_eq!(count * size, 2 << 20);
    }
}

#[test]
fn a_small_request_uses_a_larger_slot_rather_than_none() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let large = pool.alloc(256 << 10).unwrap();
    let small = pool.alloc(100).unwrap();
    assert_eq!(pool.capacity(small), 256 << 10);
    pool.release(large);
    pool.release(small);
    let all = pool.alloc(SLOT_BYTES_MAX).unwrap();
    assert_eq!(pool.capacity(all), SLOT_BYTES_MAX);
}

#[test]
fn control_allocations_succeed_when_data_is_exhausted_and_cannot_be_eaten_by_it() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let control = pool.alloc_control(4096).unwrap();
    while pool.alloc(4096).is_some() {}
    assert_eq!(pool.used_bytes(), (1 << 20) + 4096, "data stays out of the control area");
    let more: Vec<_> = std::iter::from_fn(|| pool.alloc_control(4096)).collect();
    assert_eq!((more.len() + 1) * 4096, CONTROL_BYTES);
    pool.release(control);
    assert!(pool.alloc(4096).is_none());
    assert!(pool.alloc_control(4096).is_some());
}

#[test]
fn a_pinned_buffer_outlives_its_last_holder() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let buf = pool.alloc(4096).unwrap();
    pool.pin(buf, KernelAccess::Reads);
    pool.release(buf);
    assert_eq!(pool.references(buf), 1);
    assert_eq!(pool.bytes(buf).len(), 4096, "the kernel only reads");
    pool.unpin(buf, KernelAccess::Reads);
    assert_eq!(pool.used_bytes(), 0);
}

#[test]
#[should_panic(expected = "the kernel is filling")]
fn a_buffer_being_filled_cannot_be_read() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let buf = pool.alloc(4096).unwrap();
    pool.pin(buf, KernelAccess::Fills);
    pool.bytes(buf);
}

#[test]
#[should_panic(expected = "the kernel is using")]
fn a_buffer_being_sent_cannot_be_written() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let buf = pool.alloc(4096).unwrap();
    pool.pin(buf, KernelAccess::Reads);
    pool.bytes_mut(buf);
}

#[test]
#[should_panic(expected = "stale or released buffer handle")]
fn releasing_twice_panics() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let buf = pool.alloc(4096).unwrap();
    pool.release(buf);
    pool.release(buf);
}

#[test]
#[should_panic(expected = "stale or released buffer handle")]
fn a_handle_of_an_earlier_tenant_is_refused() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let old = pool.alloc(4096).unwrap();
    pool.release(old);
    let new = pool.alloc(4096).unwrap();
    assert_eq!(pool.ptr(new) as usize, pool.mapping.start() as usize, "the same slot again");
    pool.release(old);
}

#[test]
#[should_panic(expected = "beyond its buffer")]
fn a_span_beyond_the_buffer_is_refused() {
    let mut pool = BufferPool::new(1 << 20).unwrap();
    let buf = pool.alloc(4096).unwrap();
    pool.locate(BufSpan { buf, offset_bytes: 4000, len_bytes: 97 });
}
