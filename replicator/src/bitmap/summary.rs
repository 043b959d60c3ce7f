//! Counts of set bits per group of 4096, so that searches jump over what is empty or full.

use alloc::vec;
use alloc::vec::Vec;

/// Bits per group; a group is exactly one resync extent.
pub(super) const GROUP_BITS: u64 = 4096;
/// Words per group.
pub(super) const GROUP_WORDS: usize = 64;

/// How many bits are set in each group, and one bit per group that is not empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    counts: Vec<u16>,
    some: Vec<u64>,
}

impl Summary {
    /// `groups` empty groups.
    pub(super) fn new(groups: usize) -> Summary {
        Summary { counts: vec![0; groups], some: vec![0; groups.div_ceil(64)] }
    }

    /// Changes the number of groups. Groups that are cut off must have been emptied.
    pub(super) fn resize(&mut self, groups: usize) {
        debug_assert!(self.counts.iter().skip(groups).all(|n| *n == 0));
        self.counts.resize(groups, 0);
        self.some.resize(groups.div_ceil(64), 0);
    }

    /// Number of groups.
    pub(super) fn groups(&self) -> usize {
        self.counts.len()
    }

    /// Set bits of a group.
    pub(super) fn count(&self, group: usize) -> u16 {
        self.counts[group]
    }

    /// Adds `n` newly set bits.
    pub(super) fn add(&mut self, group: usize, n: u32) {
        let sum = u32::from(self.counts[group]) + n;
        assert!(u64::from(sum) <= GROUP_BITS, "group overflows");
        self.set(group, sum as u16);
    }

    /// Takes `n` newly cleared bits away.
    pub(super) fn sub(&mut self, group: usize, n: u32) {
        let rest = u32::from(self.counts[group]).checked_sub(n).expect("no more bits cleared than were set");
        self.set(group, rest as u16);
    }

    /// The count of a group is `n`.
    pub(super) fn set(&mut self, group: usize, n: u16) {
        self.counts[group] = n;
        let bit = 1u64 << (group % 64);
        if n > 0 {
            self.some[group / 64] |= bit;
        } else {
            self.some[group / 64] &= !bit;
        }
    }

    /// First group from `from` on that is not empty.
    pub(super) fn next_some(&self, from: usize) -> Option<usize> {
        let mut mask = !0u64 << (from % 64);
        for (i, w) in self.some.iter().enumerate().skip(from / 64) {
            if w & mask != 0 {
                return Some(i * 64 + (w & mask).trailing_zeros() as usize);
            }
            mask = !0;
        }
        None
    }

    /// First group from `from` on that is not full. The last one may be full and short at once.
    pub(super) fn next_not_full(&self, from: usize) -> Option<usize> {
        let rest = self.counts.get(from..)?;
        rest.iter().position(|n| u64::from(*n) < GROUP_BITS).map(|i| from + i)
    }

    /// Panics if the two tables disagree.
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.some.len(), self.counts.len().div_ceil(64));
        for (g, n) in self.counts.iter().enumerate() {
            assert_eq!(self.some[g / 64] >> (g % 64) & 1 == 1, *n > 0, "summary of group {g}");
        }
        if let Some(last) = self.some.last().filter(|_| !self.counts.len().is_multiple_of(64)) {
            assert_eq!(last >> (self.counts.len() % 64), 0);
        }
    }
}
