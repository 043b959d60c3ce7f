//! Bitmap pages that say of a block that it is equal while it may be in the disk's cache.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::PAGE_BYTES;

/// Pages of a sync target with bits cleared for blocks that no flush has made stable since. A page is in it as soon as its
/// bit is cleared, since it may be written at any moment after that.
#[derive(Default)]
pub(crate) struct Unflushed {
    /// Ascending; no flush has begun since their last bit was cleared.
    cleared: Vec<u32>,
    /// Ascending; a flush has begun since, and has not ended.
    flushing: Vec<u32>,
}

impl Unflushed {
    /// These bits were cleared.
    pub(crate) fn cleared(&mut self, bits: RangeInclusive<u64>) {
        let page = |bit: u64| (bit / (8 * PAGE_BYTES as u64)) as u32;
        for page in page(*bits.start())..=page(*bits.end()) {
            if let Err(at) = self.cleared.binary_search(&page) {
                self.cleared.insert(at, page);
            }
        }
    }

    /// A flush of the blocks begins, the only one.
    pub(crate) fn flush_begins(&mut self) {
        // What is left of a flush that was given up has to go with this one.
        self.flushing.append(&mut self.cleared);
        self.flushing.sort_unstable();
        self.flushing.dedup();
    }

    /// It has ended well.
    pub(crate) fn flush_ends(&mut self) {
        self.flushing.clear();
    }

    /// The page must not be written without a flush.
    pub(crate) fn contains(&self, page: u32) -> bool {
        [&self.cleared, &self.flushing].iter().any(|list| list.binary_search(&page).is_ok())
    }

    /// The page as it is now needs a flush of its own before it is written, which begins now: true.
    pub(crate) fn take(&mut self, page: u32) -> bool {
        let mut found = false;
        for list in [&mut self.cleared, &mut self.flushing] {
            if let Ok(at) = list.binary_search(&page) {
                list.remove(at);
                found = true;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE_BITS: u64 = 32_768;

    #[test]
    fn a_flush_covers_what_was_cleared_before_it_began() {
        let mut u = Unflushed::default();
        u.cleared(5..=5);
        u.cleared(PAGE_BITS - 1..=PAGE_BITS);
        u.cleared(3 * PAGE_BITS..=3 * PAGE_BITS);
        u.flush_begins();
        u.cleared(PAGE_BITS..=PAGE_BITS);
        assert!(u.take(0), "it has not ended");
        assert!(!u.take(0), "and was covered by the write");
        u.flush_ends();
        assert_eq!([0, 1, 2, 3].map(|page| u.take(page)), [false, true, false, false]);
    }

    #[test]
    fn a_flush_that_was_given_up_covers_nothing() {
        let mut u = Unflushed::default();
        u.cleared(PAGE_BITS..=PAGE_BITS);
        u.flush_begins();
        u.cleared(0..=PAGE_BITS);
        u.flush_begins();
        assert!(u.take(0) && u.take(1));
        u.flush_ends();
        assert!(!u.take(0) && !u.take(1));
    }
}
