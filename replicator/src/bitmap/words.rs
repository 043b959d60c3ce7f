//! The bits themselves.

use super::pages::{DirtyKind, PageMarks};
use super::summary::{GROUP_BITS, GROUP_WORDS, Summary};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of bitmap on a page, in memory and on disk.
pub const PAGE_BYTES: usize = 4096;
const PAGE_WORDS: usize = PAGE_BYTES / 8;
/// Bits of the largest device (2^41 sectors).
const BITS_MAX: u64 = 1 << 38;

/// The bitmap of one device. Bit n is bit n % 64 of 64-bit word n / 64; on disk and on the wire the words are
/// little-endian.
///
/// The number of set bits is kept at all times. Bits behind the last one are always clear, whatever is loaded
/// or merged. Every change marks its page: 0 to 1 as "need write-out", 1 to 0 as "lazy" (drbd-metadata 7.2).
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    bits: u64,
    count: u64,
    words: Vec<u64>,
    summary: Summary,
    marks: PageMarks,
}

impl Bitmap {
    /// A bitmap of `bits` clear bits and clean pages.
    ///
    /// # Panics
    /// If there are more bits than the largest device has; device sizes are checked before.
    pub fn new(bits: u64) -> Bitmap {
        let (words, groups, pages) = geometry(bits);
        Bitmap {
            bits,
            count: 0,
            words: vec![0; words],
            summary: Summary::new(groups),
            marks: PageMarks::new(pages),
        }
    }

    /// Number of bits.
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// Number of set bits.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The bit is set; false beyond the end.
    pub fn test(&self, bit: u64) -> bool {
        bit < self.bits && self.words[word_of(bit)] >> (bit % 64) & 1 == 1
    }

    /// Sets the bits `first..=last` and returns how many were clear. What lies beyond the end is ignored.
    pub fn set_range(&mut self, first: u64, last: u64) -> u64 {
        let before = self.count;
        for (i, mask) in masks(self.clip(first, last)) {
            self.set_mask(i, mask);
        }
        self.count - before
    }

    /// Clears the bits `first..=last` and returns how many were set. What lies beyond the end is ignored.
    pub fn clear_range(&mut self, first: u64, last: u64) -> u64 {
        let before = self.count;
        for (i, mask) in masks(self.clip(first, last)) {
            let cleared = self.words[i] & mask;
            if cleared != 0 {
                self.words[i] &= !mask;
                self.count -= u64::from(cleared.count_ones());
                self.summary.sub(i / GROUP_WORDS, cleared.count_ones());
                self.marks.mark_lazy(page_of(i));
            }
        }
        before - self.count
    }

    /// Number of set bits in `first..=last`.
    pub fn count_range(&self, first: u64, last: u64) -> u64 {
        masks(self.clip(first, last)).map(|(i, mask)| u64::from((self.words[i] & mask).count_ones())).sum()
    }

    /// Number of set bits in a resync extent (4096 bits); 0 beyond the end. Constant time.
    pub fn count_in_resync_extent(&self, extent: u32) -> u32 {
        let extent = extent as usize;
        if extent < self.summary.groups() { u32::from(self.summary.count(extent)) } else { 0 }
    }

    /// Sets every bit.
    pub fn set_all(&mut self) {
        if self.bits > 0 {
            self.set_range(0, self.bits - 1);
        }
    }

    /// Clears every bit.
    pub fn clear_all(&mut self) {
        if self.bits > 0 {
            self.clear_range(0, self.bits - 1);
        }
    }

    /// First set bit at or behind `from`.
    pub fn next_set(&self, from: u64) -> Option<u64> {
        if from >= self.bits {
            return None;
        }
        let start = word_of(from);
        let here = self.words[start] & !0 << (from % 64);
        if here != 0 {
            return Some(start as u64 * 64 + u64::from(here.trailing_zeros()));
        }
        let group = start / GROUP_WORDS;
        let in_group = |from: usize, group: usize| {
            let end = self.words.len().min((group + 1) * GROUP_WORDS);
            (from..end).find(|i| self.words[*i] != 0)
        };
        let found = in_group(start + 1, group).or_else(|| {
            let next = self.summary.next_some(group + 1)?;
            in_group(next * GROUP_WORDS, next)
        })?;
        Some(found as u64 * 64 + u64::from(self.words[found].trailing_zeros()))
    }

    /// First clear bit at or behind `from`; None if all bits up to the end are set.
    pub fn next_clear(&self, from: u64) -> Option<u64> {
        if from >= self.bits {
            return None;
        }
        let mut i = word_of(from);
        let mut clear = !self.words[i] & !0 << (from % 64);
        while clear == 0 {
            i += 1;
            if i.is_multiple_of(GROUP_WORDS) {
                i = self.summary.next_not_full(i / GROUP_WORDS)? * GROUP_WORDS;
            }
            clear = !*self.words.get(i)?;
        }
        let bit = i as u64 * 64 + u64::from(clear.trailing_zeros());
        (bit < self.bits).then_some(bit)
    }

    /// The runs of set bits at or behind `from`, ascending, as half-open ranges.
    pub fn set_runs(&self, from: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut pos = from;
        core::iter::from_fn(move || {
            let start = self.next_set(pos)?;
            pos = self.next_clear(start).unwrap_or(self.bits);
            Some(start..pos)
        })
    }

    /// The words, last one included; bits behind the end are clear.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// ORs `words` into the bitmap from word `word_offset` on and returns how many bits were newly set. Bits
    /// behind the end are ignored.
    ///
    /// # Panics
    /// If the words do not lie inside the bitmap; the exchange checks what the peer sends.
    pub fn merge_words(&mut self, word_offset: usize, words: &[u64]) -> u64 {
        let end = word_offset.checked_add(words.len());
        assert!(end.is_some_and(|end| end <= self.words.len()), "words beyond the end");
        let before = self.count;
        for (i, w) in (word_offset..).zip(words) {
            self.set_mask(i, w & self.valid_mask(i));
        }
        self.count - before
    }

    /// Number of pages.
    pub fn pages(&self) -> u32 {
        self.marks.pages()
    }

    /// Copies page `page` as it belongs on disk: 4096 bytes, zero behind the end.
    ///
    /// # Panics
    /// If there is no such page or `out` is not a page long.
    pub fn copy_page(&self, page: u32, out: &mut [u8]) {
        assert_eq!(out.len(), PAGE_BYTES);
        let words = &self.words[self.page_words(page)];
        let (used, rest) = out.split_at_mut(words.len() * 8);
        for (to, w) in used.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&w.to_le_bytes());
        }
        rest.fill(0);
    }

    /// Replaces page `page` by what was read from disk and marks it clean. Bits behind the end are ignored:
    /// they have no meaning on disk (drbd-metadata 7.1).
    ///
    /// # Panics
    /// If there is no such page or `bytes` is not a page long.
    pub fn load_page(&mut self, page: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), PAGE_BYTES);
        let range = self.page_words(page);
        for (i, from) in range.zip(bytes.as_chunks::<8>().0) {
            let new = u64::from_le_bytes(*from) & self.valid_mask(i);
            let old = core::mem::replace(&mut self.words[i], new);
            self.summary.sub(i / GROUP_WORDS, old.count_ones());
            self.summary.add(i / GROUP_WORDS, new.count_ones());
            self.count = self.count - u64::from(old.count_ones()) + u64::from(new.count_ones());
        }
        self.marks.mark_clean(page);
    }

    /// Changes the number of bits. New bits are set if `set_new`, else clear. All pages with new bits need to
    /// be written, set or not: what is on disk there was never valid.
    ///
    /// # Panics
    /// If there are more bits than the largest device has; device sizes are checked before.
    pub fn resize(&mut self, new_bits: u64, set_new: bool) {
        let (words, groups, pages) = geometry(new_bits);
        let old_bits = self.bits;
        if new_bits < old_bits {
            self.clear_range(new_bits, old_bits - 1);
        }
        self.words.reserve_exact(words.saturating_sub(self.words.len()));
        self.words.resize(words, 0);
        self.summary.resize(groups);
        self.marks.resize(pages);
        self.bits = new_bits;
        if new_bits > old_bits {
            for page in page_of(word_of(old_bits))..pages {
                self.marks.mark_need_writeout(page);
            }
            if set_new {
                self.set_range(old_bits, new_bits - 1);
            }
        }
    }

    /// Appends up to `limit` changed pages to `pages`, ascending, and clears both their marks: the caller
    /// submits their writes now. Returns how many.
    pub fn take_dirty_pages(&mut self, kind: DirtyKind, limit: usize, pages: &mut Vec<u32>) -> usize {
        self.marks.take(kind, limit, pages)
    }

    /// Number of changed pages.
    pub fn dirty_page_count(&self, kind: DirtyKind) -> u32 {
        self.marks.count(kind)
    }

    /// Bits were set on this page since its last write, so it must be written before an activity log
    /// transaction evicts an extent on it.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page_needs_write(&self, page: u32) -> bool {
        assert!(page < self.pages());
        self.marks.needs_write(page)
    }

    /// The write of this page is submitted: clears both marks.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn mark_page_clean(&mut self, page: u32) {
        assert!(page < self.pages());
        self.marks.mark_clean(page);
    }

    /// Marks every page as needing to be written, for when nothing is known about the disk.
    pub fn mark_all_pages(&mut self) {
        for page in 0..self.pages() {
            self.marks.mark_need_writeout(page);
        }
    }

    /// Panics if counts, summary, marks or padding are wrong. Reads the whole bitmap.
    pub fn check_invariants(&self) {
        let (words, groups, pages) = geometry(self.bits);
        assert_eq!((self.words.len(), self.summary.groups(), self.pages()), (words, groups, pages));
        let mut count = 0;
        for (g, group) in self.words.chunks(GROUP_WORDS).enumerate() {
            let n: u32 = group.iter().map(|w| w.count_ones()).sum();
            assert_eq!(u32::from(self.summary.count(g)), n, "count of group {g}");
            count += u64::from(n);
        }
        assert_eq!(self.count, count);
        if let Some(last) = self.words.last() {
            assert_eq!(last & !self.valid_mask(words - 1), 0, "padding is set");
        }
        self.summary.check_invariants();
        self.marks.check_invariants();
    }

    fn set_mask(&mut self, i: usize, mask: u64) {
        let set = mask & !self.words[i];
        if set != 0 {
            self.words[i] |= set;
            self.count += u64::from(set.count_ones());
            self.summary.add(i / GROUP_WORDS, set.count_ones());
            self.marks.mark_need_writeout(page_of(i));
        }
    }

    /// The bits of word `i` that exist. When the number of bits is a multiple of 64 the last word is whole.
    fn valid_mask(&self, i: usize) -> u64 {
        let used = self.bits - i as u64 * 64;
        if used >= 64 { !0 } else { (1 << used) - 1 }
    }

    fn clip(&self, first: u64, last: u64) -> Range<u64> {
        assert!(first <= last, "empty range {first}..={last}");
        first.min(self.bits)..last.saturating_add(1).min(self.bits)
    }

    fn page_words(&self, page: u32) -> Range<usize> {
        assert!(page < self.pages(), "page {page} of {}", self.pages());
        let start = page as usize * PAGE_WORDS;
        start..self.words.len().min(start + PAGE_WORDS)
    }
}

/// Numbers of words, groups and pages for `bits`.
fn geometry(bits: u64) -> (usize, usize, u32) {
    assert!(bits <= BITS_MAX, "{bits} bits");
    let words = usize::try_from(bits.div_ceil(64)).expect("the address space holds the bitmap");
    (words, words.div_ceil(GROUP_WORDS), words.div_ceil(PAGE_WORDS) as u32)
}

fn word_of(bit: u64) -> usize {
    (bit / 64) as usize
}

fn page_of(word: usize) -> u32 {
    (word / PAGE_WORDS) as u32
}

/// Word index and mask for every word that the bits touch.
fn masks(bits: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let words = if bits.is_empty() { 0..0 } else { word_of(bits.start)..word_of(bits.end - 1) + 1 };
    words.map(move |i| {
        let base = i as u64 * 64;
        let low = bits.start.saturating_sub(base);
        let high = (bits.end - base).min(64);
        (i, !0 >> (64 - (high - low)) << low)
    })
}

const _: () = assert!(GROUP_BITS == GROUP_WORDS as u64 * 64);
const _: () = assert!(GROUP_BITS == model::units::SECTORS_PER_RESYNC_EXTENT / model::units::SECTORS_PER_BIT);
const _: () = assert!(PAGE_BYTES as u64 * 8 == model::units::BITS_PER_BITMAP_PAGE);
const _: () = assert!(BITS_MAX == model::units::MAX_DEVICE_SECTORS / model::units::SECTORS_PER_BIT);

#[cfg(test)]
mod tests;
