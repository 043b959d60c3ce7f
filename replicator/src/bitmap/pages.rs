//! Which pages of the bitmap differ from what is on disk, and how urgent that is (drbd-metadata 7.2).

use alloc::vec;
use alloc::vec::Vec;

/// Which changed pages to write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DirtyKind {
    /// Every changed page: a full write.
    Any,
    /// Pages on which bits were set.
    NeedWriteout,
    /// Pages on which bits were cleared: lazy writes during a resync.
    Lazy,
}

/// Two change marks per page.
#[derive(Clone, Debug, Default)]
pub(super) struct PageMarks {
    pages: u32,
    need_writeout: Vec<u64>,
    lazy: Vec<u64>,
}

impl PageMarks {
    /// `pages` clean pages.
    pub(super) fn new(pages: u32) -> PageMarks {
        let words = pages.div_ceil(64) as usize;
        PageMarks { pages, need_writeout: vec![0; words], lazy: vec![0; words] }
    }

    /// Number of pages.
    pub(super) fn pages(&self) -> u32 {
        self.pages
    }

    /// Changes the number of pages; new ones are clean, marks of pages that are cut off are dropped.
    pub(super) fn resize(&mut self, pages: u32) {
        for p in pages..self.pages.min(pages.next_multiple_of(64)) {
            self.mark_clean(p);
        }
        let words = pages.div_ceil(64) as usize;
        self.need_writeout.resize(words, 0);
        self.lazy.resize(words, 0);
        self.pages = pages;
    }

    /// A bit on the page was set.
    pub(super) fn mark_need_writeout(&mut self, page: u32) {
        debug_assert!(page < self.pages);
        self.need_writeout[page as usize / 64] |= 1 << (page % 64);
    }

    /// A bit on the page was cleared.
    pub(super) fn mark_lazy(&mut self, page: u32) {
        debug_assert!(page < self.pages);
        self.lazy[page as usize / 64] |= 1 << (page % 64);
    }

    /// The page is as on disk, or its write has been submitted.
    pub(super) fn mark_clean(&mut self, page: u32) {
        debug_assert!(page < self.pages);
        self.need_writeout[page as usize / 64] &= !(1 << (page % 64));
        self.lazy[page as usize / 64] &= !(1 << (page % 64));
    }

    /// Bits were set on the page since its last write.
    pub(super) fn needs_write(&self, page: u32) -> bool {
        debug_assert!(page < self.pages);
        self.need_writeout[page as usize / 64] >> (page % 64) & 1 == 1
    }

    /// Number of pages with such a mark.
    pub(super) fn count(&self, kind: DirtyKind) -> u32 {
        (0..self.need_writeout.len()).map(|i| self.marked(kind, i).count_ones()).sum()
    }

    /// Appends up to `limit` pages with such a mark, ascending, and clears both their marks. Returns how many.
    pub(super) fn take(&mut self, kind: DirtyKind, limit: usize, pages: &mut Vec<u32>) -> usize {
        let mut taken = 0;
        for i in 0..self.need_writeout.len() {
            let mut marked = self.marked(kind, i);
            while marked != 0 {
                if taken == limit {
                    return taken;
                }
                let page = (i * 64) as u32 + marked.trailing_zeros();
                marked &= marked - 1;
                self.mark_clean(page);
                pages.push(page);
                taken += 1;
            }
        }
        taken
    }

    fn marked(&self, kind: DirtyKind, i: usize) -> u64 {
        match kind {
            DirtyKind::Any => self.need_writeout[i] | self.lazy[i],
            DirtyKind::NeedWriteout => self.need_writeout[i],
            DirtyKind::Lazy => self.lazy[i],
        }
    }

    /// Panics if there are marks beyond the last page.
    pub(super) fn check_invariants(&self) {
        let words = self.pages.div_ceil(64) as usize;
        assert_eq!((self.need_writeout.len(), self.lazy.len()), (words, words));
        if !self.pages.is_multiple_of(64) {
            assert_eq!(self.marked(DirtyKind::Any, words - 1) >> (self.pages % 64), 0);
        }
    }
}
