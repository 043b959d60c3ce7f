//! The bitmap against a vector of booleans.

use super::*;
use proptest::prelude::*;

#[test]
fn counts_what_changes() {
    let mut b = Bitmap::new(200);
    assert_eq!(b.set_range(10, 149), 140);
    assert_eq!(b.set_range(0, 10), 10);
    assert_eq!(b.clear_range(64, 127), 64);
    assert_eq!(b.clear_range(60, 130), 7);
    assert_eq!((b.count(), b.count_range(50, 140)), (79, 20));
    assert!(b.test(59) && !b.test(60) && !b.test(130) && b.test(131) && !b.test(1000));
    assert_eq!(b.set_runs(0).collect::<Vec<_>>(), [0..60, 131..150]);
    assert_eq!(b.set_range(190, u64::MAX), 10);
    assert_eq!(b.set_range(200, 300), 0);
    assert_eq!(b.clear_range(500, 600), 0);
    b.check_invariants();
}

#[test]
fn the_last_word_is_whole_when_bits_are_a_multiple_of_64() {
    let mut b = Bitmap::new(128);
    b.load_page(0, &[0xff; PAGE_BYTES]);
    assert_eq!((b.count(), b.words()), (128, &[!0, !0][..]));
    let mut b = Bitmap::new(129);
    b.load_page(0, &[0xff; PAGE_BYTES]);
    assert_eq!((b.count(), b.words()), (129, &[!0, !0, 1][..]));
    b.check_invariants();
    let mut b = Bitmap::new(4342);
    assert_eq!(b.merge_words(66, &[!0, !0]), 64 + 54);
    assert_eq!(b.merge_words(67, &[!0]), 0);
    b.check_invariants();
}

#[test]
fn searches_jump_over_empty_and_full_groups() {
    // A device of 1 TiB; without the jumps the loops would read 32 MiB each time round.
    let bits = 1 << 28;
    let mut b = Bitmap::new(bits);
    for _ in 0..1000 {
        assert_eq!(b.next_set(0), None);
    }
    b.set_range(bits - 1, bits - 1);
    for _ in 0..1000 {
        assert_eq!(b.next_set(7), Some(bits - 1));
    }
    b.set_all();
    assert_eq!(b.count(), bits);
    assert_eq!(b.next_clear(0), None);
    b.clear_range(bits - 70, bits - 70);
    for _ in 0..100 {
        assert_eq!(b.next_clear(0), Some(bits - 70));
    }
    assert_eq!((b.count_in_resync_extent(0), b.count_in_resync_extent(65535)), (4096, 4095));
    assert_eq!(b.count_in_resync_extent(65536), 0);
    b.check_invariants();
}

#[test]
fn page_marks_follow_changes() {
    let mut b = Bitmap::new(3 * 32768 + 5);
    let mut pages = Vec::new();
    assert_eq!((b.pages(), b.dirty_page_count(DirtyKind::Any)), (4, 0));
    b.set_range(32768, 32768);
    b.set_range(3 * 32768, 3 * 32768);
    assert!(b.page_needs_write(1) && b.page_needs_write(3) && !b.page_needs_write(0));
    b.mark_page_clean(3);
    b.set_range(32768, 32768);
    b.clear_range(3 * 32768, 3 * 32768);
    assert!(!b.page_needs_write(3));
    assert_eq!(b.take_dirty_pages(DirtyKind::Lazy, 9, &mut pages), 1);
    assert_eq!(b.take_dirty_pages(DirtyKind::Lazy, 9, &mut pages), 0);
    assert_eq!(b.take_dirty_pages(DirtyKind::NeedWriteout, 9, &mut pages), 1);
    assert_eq!(pages, [3, 1]);
    b.set_all();
    b.clear_all();
    pages.clear();
    assert_eq!(b.take_dirty_pages(DirtyKind::Any, 3, &mut pages), 3);
    assert_eq!(b.take_dirty_pages(DirtyKind::Any, 3, &mut pages), 1);
    assert_eq!(pages, [0, 1, 2, 3]);
    b.clear_all();
    assert_eq!(b.dirty_page_count(DirtyKind::Any), 0);
    b.mark_all_pages();
    assert_eq!(b.dirty_page_count(DirtyKind::NeedWriteout), 4);
}

#[test]
fn loaded_pages_are_clean_and_copied_pages_are_padded() {
    let mut b = Bitmap::new(32768 + 70);
    b.set_all();
    let mut page = [0u8; PAGE_BYTES];
    page[0] = 0x81;
    page[8] = 0xff;
    b.load_page(1, &page);
    assert_eq!(b.count(), 32768 + 2 + 6);
    assert!(b.page_needs_write(0) && !b.page_needs_write(1));
    let mut out = [0xeeu8; PAGE_BYTES];
    b.copy_page(1, &mut out);
    assert_eq!((out[0], out[8], out[9]), (0x81, 0x3f, 0));
    assert!(out[16..].iter().all(|x| *x == 0));
    b.check_invariants();
}

#[test]
fn growing_marks_pages_whose_disk_content_was_never_valid() {
    let mut b = Bitmap::new(32768);
    b.resize(3 * 32768, false);
    assert_eq!((b.count(), b.dirty_page_count(DirtyKind::NeedWriteout)), (0, 2));
    b.resize(100, false);
    b.resize(130, true);
    assert_eq!((b.count(), b.next_set(0)), (30, Some(100)));
    b.resize(0, true);
    assert_eq!((b.count(), b.pages(), b.next_set(0), b.next_clear(0)), (0, 0, None, None));
    b.set_all();
    b.clear_all();
    b.check_invariants();
}

#[derive(Clone, Debug)]
enum Op {
    Set(u64, u64),
    Clear(u64, u64),
    SetAll,
    ClearAll,
    Merge(usize, Vec<u64>),
    Load(u32, u64),
    Resize(u64, bool),
    Take(u8, usize),
}

const BITS: u64 = 70_000;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..BITS, 0..300u64).prop_map(|(a, n)| Op::Set(a, a + n)),
        6 => (0..BITS, 0..300u64).prop_map(|(a, n)| Op::Clear(a, a + n)),
        2 => (0..BITS, 0..BITS).prop_map(|(a, n)| Op::Set(a, a + n)),
        2 => (0..BITS, 0..BITS).prop_map(|(a, n)| Op::Clear(a, a + n)),
        1 => Just(Op::SetAll),
        1 => Just(Op::ClearAll),
        2 => (0..1100usize, proptest::collection::vec(any::<u64>(), 0..5)).prop_map(|(o, w)| Op::Merge(o, w)),
        1 => (0..3u32, any::<u64>()).prop_map(|(p, w)| Op::Load(p, w)),
        2 => (prop_oneof![0..BITS, (0..BITS / 64).prop_map(|w| w * 64)], any::<bool>())
            .prop_map(|(n, s)| Op::Resize(n, s)),
        2 => (0..3u8, 0..4usize).prop_map(|(k, l)| Op::Take(k, l)),
    ]
}

/// What the bitmap must be: the bits, and per page whether bits were set or cleared since the last write.
struct Model {
    bits: Vec<bool>,
    set: Vec<bool>,
    cleared: Vec<bool>,
}

impl Model {
    fn put(&mut self, bit: usize, value: bool) -> u64 {
        if bit >= self.bits.len() || self.bits[bit] == value {
            return 0;
        }
        self.bits[bit] = value;
        if value {
            self.set[bit / 32768] = true
        } else {
            self.cleared[bit / 32768] = true
        };
        1
    }

    fn put_all(&mut self, bits: Range<usize>, value: impl Fn(usize) -> bool) {
        for bit in bits {
            self.put(bit, value(bit));
        }
    }

    fn resize(&mut self, n: usize, set_new: bool) {
        let old = self.bits.len();
        for bit in n..old {
            self.put(bit, false);
        }
        self.bits.resize(n, false);
        self.set.resize(n.div_ceil(32768), false);
        self.cleared.resize(n.div_ceil(32768), false);
        if n > old {
            self.set[old / 32768..].fill(true);
        }
        for bit in old..n {
            self.put(bit, set_new);
        }
    }

    fn take(&mut self, kind: DirtyKind, limit: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        for p in 0..self.set.len() {
            let marked = match kind {
                DirtyKind::Any => self.set[p] || self.cleared[p],
                DirtyKind::NeedWriteout => self.set[p],
                DirtyKind::Lazy => self.cleared[p],
            };
            if marked && taken.len() < limit {
                (self.set[p], self.cleared[p]) = (false, false);
                taken.push(p as u32);
            }
        }
        taken
    }
}

fn step(b: &mut Bitmap, m: &mut Model, op: Op) {
    match op {
        Op::Set(first, last) => {
            let n: u64 = (first..=last).map(|i| m.put(i as usize, true)).sum();
            assert_eq!(b.set_range(first, last), n);
        }
        Op::Clear(first, last) => {
            let n: u64 = (first..=last).map(|i| m.put(i as usize, false)).sum();
            assert_eq!(b.clear_range(first, last), n);
        }
        Op::SetAll => {
            b.set_all();
            m.put_all(0..m.bits.len(), |_| true);
        }
        Op::ClearAll => {
            b.clear_all();
            m.put_all(0..m.bits.len(), |_| false);
        }
        Op::Merge(at, words) => {
            if at + words.len() <= b.words().len() {
                let mut n = 0;
                for (i, w) in words.iter().enumerate() {
                    let base = (at + i) * 64;
                    n += (0..64).filter(|k| w >> k & 1 == 1).map(|k| m.put(base + k, true)).sum::<u64>();
                }
                assert_eq!(b.merge_words(at, &words), n);
            }
        }
        Op::Load(page, word) => {
            if page < b.pages() {
                let bytes: Vec<u8> = (0..512).flat_map(|_| word.to_le_bytes()).collect();
                b.load_page(page, &bytes);
                let base = page as usize * 32768;
                m.put_all(base..base + 32768, |i| word >> (i % 64) & 1 == 1);
                (m.set[page as usize], m.cleared[page as usize]) = (false, false);
            }
        }
        Op::Resize(bits, set_new) => {
            b.resize(bits, set_new);
            m.resize(bits as usize, set_new);
        }
        Op::Take(kind, limit) => {
            let kind = [DirtyKind::Any, DirtyKind::NeedWriteout, DirtyKind::Lazy][kind as usize];
            let mut pages = Vec::new();
            assert_eq!(b.take_dirty_pages(kind, limit, &mut pages), pages.len());
            assert_eq!(pages, m.take(kind, limit));
        }
    }
}

fn compare(b: &Bitmap, m: &Model, probes: &[u64]) {
    b.check_invariants();
    assert_eq!(b.bits(), m.bits.len() as u64);
    assert_eq!(b.count(), m.bits.iter().filter(|x| **x).count() as u64);
    for p in probes {
        let find = |value| (*p..b.bits()).find(|i| m.bits[*i as usize] == value);
        assert_eq!(b.next_set(*p), find(true), "next_set {p}");
        assert_eq!(b.next_clear(*p), find(false), "next_clear {p}");
        assert_eq!(b.test(*p), m.bits.get(*p as usize) == Some(&true));
        let to = p + 5000;
        let n = (*p..=to).filter(|i| m.bits.get(*i as usize) == Some(&true)).count();
        assert_eq!(b.count_range(*p, to), n as u64);
    }
    let mut runs = vec![false; m.bits.len()];
    b.set_runs(0).for_each(|r| runs[r.start as usize..r.end as usize].fill(true));
    assert_eq!(runs, m.bits);
    for p in 0..b.pages() {
        assert_eq!(b.page_needs_write(p), m.set[p as usize]);
        let mut bytes = [0xee; PAGE_BYTES];
        b.copy_page(p, &mut bytes);
        for (i, byte) in bytes.iter().enumerate() {
            let at = p as usize * 32768 + i * 8;
            let wanted = (0..8).filter(|k| m.bits.get(at + k) == Some(&true)).map(|k| 1u8 << k).sum::<u8>();
            assert_eq!(*byte, wanted);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_vector_of_booleans(
        bits in 0..BITS,
        ops in proptest::collection::vec(op(), 1..30),
        probes in proptest::collection::vec(0..BITS, 8),
    ) {
        let mut b = Bitmap::new(bits);
        let pages = (bits as usize).div_ceil(32768);
        let mut m = Model { bits: vec![false; bits as usize], set: vec![false; pages], cleared: vec![false; pages] };
        for op in ops {
            step(&mut b, &mut m, op);
        }
        compare(&b, &m, &probes);
    }
}
