//! The hot set at run time: slots, references, and the transactions that change the set (drbd-metadata 6.4).
//!
//! One transaction is in flight at most; while it is, changes for the next one are staged. An extent counts as
//! hot only when the transaction that names it is on stable storage. Everything is allocated by `new`.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use thiserror::Error;

use super::transaction::{
    AL_BLOCK_BYTES, AL_CONTEXT_SLOTS, AL_SLOTS_LEAST, AL_UPDATES_MAX, AlRing, AlUpdate, EXTENT_FREE,
    encode_update,
};

/// Number of a transaction; wraps at 2^32, see [`AlRing::number_after`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TransactionNo(pub u32);

/// A transaction whose block has to be written now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingTransaction {
    /// To be handed to [`ActivityLog::transaction_done`].
    pub number: TransactionNo,
    /// Where the block goes: 4 KiB blocks from the start of the activity log area.
    pub ring_block: u32,
}

/// Why extents could not be staged; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum StageError {
    /// Every slot is referenced or about to change. Retry after references were dropped.
    #[error("no free activity log slot")]
    Starving,
    /// The next transaction has no room left. Retry after the one in flight is done.
    #[error("the next activity log transaction is full")]
    Busy,
    /// Nothing is missing: use [`ActivityLog::try_get_hot`].
    #[error("the extents are hot already")]
    AlreadyHot,
}

/// The set of extents that may be written.
///
/// The life of an extent: absent, then [`stage`](Self::stage)d, then in flight
/// ([`begin_transaction`](Self::begin_transaction)), then hot ([`transaction_done`](Self::transaction_done)). It
/// stays hot without references until its slot is needed for another one.
pub struct ActivityLog {
    ring: AlRing,
    slots: Box<[Slot]>,
    index: Index,
    /// Hot slots without references, least recently used first.
    idle: IdleList,
    /// Slots `0..unused` never held anything; they are handed out from the top.
    unused: u32,
    staged: Updates,
    in_flight: Option<TransactionNo>,
    flying: Updates,
    next_number: u32,
    context_start: u16,
    referenced: usize,
}

impl ActivityLog {
    /// An empty log for a ring that was just made anew (or replayed).
    ///
    /// Panics unless `slot_count` is in `2..=ring.slots_max()`; see [`AlRing::clamp_slots`].
    pub fn new(slot_count: u16, ring: AlRing) -> ActivityLog {
        assert!(slot_count >= AL_SLOTS_LEAST && slot_count <= ring.slots_max(), "al-extents out of range");
        let empty = Slot {
            extent: EXTENT_FREE,
            before: EXTENT_FREE,
            references: 0,
            phase: Phase::Hot,
            newer: NONE,
            older: NONE,
        };
        ActivityLog {
            ring,
            slots: vec![empty; slot_count as usize].into_boxed_slice(),
            index: Index::new(slot_count),
            idle: IdleList { oldest: NONE, newest: NONE, len: 0 },
            unused: u32::from(slot_count),
            staged: Updates::default(),
            in_flight: None,
            flying: Updates::default(),
            next_number: 0,
            context_start: 0,
            referenced: 0,
        }
    }

    /// All extents `first..=last` (at most 64) are hot, that is named by the log on disk: takes a reference on
    /// each. `false`: nothing changed.
    pub fn try_get_hot(&mut self, first: u32, last: u32) -> bool {
        check_range(first, last);
        if !self.is_active(first, last) {
            return false;
        }
        for extent in first..=last {
            let slot = self.find(extent).expect("active extents have a slot");
            self.reference(slot);
        }
        true
    }

    /// Stages the extents of `first..=last` (at most 64) that are missing, in place of the least recently used
    /// ones without references, and takes a reference on every extent of the range. The extents are hot once the
    /// returned transaction is done, which may be the one in flight.
    pub fn stage(&mut self, first: u32, last: u32) -> Result<TransactionNo, StageError> {
        check_range(first, last);
        let (mut missing, mut idle_inside, mut staged, mut flying) = (0, 0, 0, 0);
        for extent in first..=last {
            match self.find(extent).map(|slot| &self.slots[slot as usize]) {
                None => missing += 1,
                Some(slot) => match slot.phase {
                    Phase::Hot => idle_inside += u32::from(slot.references == 0),
                    Phase::Staged => staged += 1,
                    Phase::Flying => flying += 1,
                },
            }
        }
        if missing + staged + flying == 0 {
            return Err(StageError::AlreadyHot);
        }
        // Idle extents of the range itself are about to be referenced and cannot make room for the others.
        if missing > self.unused + (self.idle.len - idle_inside) {
            return Err(StageError::Starving);
        }
        if missing as usize > AL_UPDATES_MAX - self.staged.len {
            return Err(StageError::Busy);
        }
        for extent in first..=last {
            if let Some(slot) = self.find(extent) {
                self.reference(slot);
            }
        }
        for extent in first..=last {
            if self.find(extent).is_none() {
                self.stage_one(extent);
            }
        }
        if missing + staged > 0 {
            return Ok(TransactionNo(self.next_number));
        }
        Ok(self.in_flight.expect("a flying extent belongs to the transaction in flight"))
    }

    /// Nothing is in flight and something is staged: fills `block` and appends to `evicted` the extents that lose
    /// their slot. The changed bitmap pages of those must be stable before `block` is written, and a write of
    /// `block` must not start if one of them failed. `None`: nothing to do now.
    pub fn begin_transaction(
        &mut self,
        block: &mut [u8; AL_BLOCK_BYTES],
        evicted: &mut Vec<u32>,
    ) -> Option<PendingTransaction> {
        if self.in_flight.is_some() || self.staged.len == 0 {
            return None;
        }
        Some(self.begin(block, evicted))
    }

    /// Like [`begin_transaction`](Self::begin_transaction), but writes a block even if nothing is staged: used to
    /// fill the whole ring after the metadata moved (drbd-metadata 6.5). `None`: one is in flight.
    pub fn begin_filler_transaction(
        &mut self,
        block: &mut [u8; AL_BLOCK_BYTES],
        evicted: &mut Vec<u32>,
    ) -> Option<PendingTransaction> {
        if self.in_flight.is_some() {
            return None;
        }
        Some(self.begin(block, evicted))
    }

    /// The block of transaction `number` is on stable storage: its extents are hot now.
    ///
    /// Panics if that transaction is not in flight.
    pub fn transaction_done(&mut self, number: TransactionNo) {
        assert_eq!(self.in_flight, Some(number), "completion of a transaction that is not in flight");
        self.in_flight = None;
        for i in 0..self.flying.len {
            let at = self.flying.slots[i];
            let slot = &mut self.slots[at as usize];
            debug_assert!(slot.phase == Phase::Flying);
            slot.phase = Phase::Hot;
            slot.before = slot.extent;
            if slot.references == 0 {
                self.idle.push_newest(&mut self.slots, at);
            }
        }
        self.flying.len = 0;
    }

    /// All extents `first..=last` are named by the log on disk, so their blocks may be written.
    pub fn is_active(&self, first: u32, last: u32) -> bool {
        check_range(first, last);
        (first..=last)
            .all(|extent| self.find(extent).is_some_and(|slot| self.slots[slot as usize].phase == Phase::Hot))
    }

    /// Drops one reference on each of `first..=last`.
    ///
    /// Panics if one of them has none.
    pub fn put(&mut self, first: u32, last: u32) {
        check_range(first, last);
        for extent in first..=last {
            let at = self.find(extent).expect("a referenced extent keeps its slot");
            let slot = &mut self.slots[at as usize];
            slot.references = slot.references.checked_sub(1).expect("dropped more references than taken");
            if slot.references == 0 {
                self.referenced -= 1;
                if slot.phase == Phase::Hot {
                    self.idle.push_newest(&mut self.slots, at);
                }
            }
        }
    }

    /// Number of extents with at least one reference.
    pub fn referenced_extents(&self) -> usize {
        self.referenced
    }

    /// `extent` has at least one reference.
    pub fn is_referenced(&self, extent: u32) -> bool {
        self.find(extent).is_some_and(|slot| self.slots[slot as usize].references > 0)
    }

    /// The transaction whose block is being written.
    pub fn in_flight(&self) -> Option<TransactionNo> {
        self.in_flight
    }

    /// Changes wait for [`begin_transaction`](Self::begin_transaction).
    pub fn has_staged(&self) -> bool {
        self.staged.len > 0
    }

    /// Number of slots (`al-extents`).
    pub fn slot_count(&self) -> u16 {
        self.slots.len() as u16
    }

    /// Number of slots that hold an extent: hot, in flight or staged.
    pub fn used_slots(&self) -> usize {
        self.slots.len() - self.unused as usize
    }

    /// Panics if the parts contradict each other. Costs a pass over all slots.
    pub fn check_invariants(&self) {
        let (mut referenced, mut idle, mut staged, mut flying) = (0, 0, 0, 0);
        for (at, slot) in self.slots.iter().enumerate() {
            if (at as u32) < self.unused {
                assert!(slot.extent == EXTENT_FREE && slot.before == EXTENT_FREE && slot.references == 0);
                continue;
            }
            assert_eq!(self.find(slot.extent), Some(at as u16), "index and slots disagree");
            referenced += usize::from(slot.references > 0);
            match slot.phase {
                Phase::Hot => {
                    assert_eq!(slot.before, slot.extent);
                    idle += u32::from(slot.references == 0);
                }
                Phase::Staged => staged += 1,
                Phase::Flying => flying += 1,
            }
        }
        assert_eq!(referenced, self.referenced);
        assert_eq!(staged, self.staged.len);
        assert_eq!(flying, self.flying.len);
        assert!(self.in_flight.is_some() || flying == 0);
        assert_eq!(idle, self.idle.len);
        let (mut walked, mut at, mut older) = (0, self.idle.oldest, NONE);
        while at != NONE {
            let slot = &self.slots[at as usize];
            assert!(slot.phase == Phase::Hot && slot.references == 0 && slot.older == older);
            older = at;
            at = slot.newer;
            walked += 1;
        }
        assert_eq!((walked, older), (idle, self.idle.newest));
        assert!(self.context_start < self.slot_count());
    }

    fn begin(&mut self, block: &mut [u8; AL_BLOCK_BYTES], evicted: &mut Vec<u32>) -> PendingTransaction {
        debug_assert!(self.flying.len == 0);
        core::mem::swap(&mut self.staged, &mut self.flying);
        let mut updates = [AlUpdate { slot: 0, extent: 0 }; AL_UPDATES_MAX];
        let changed = &self.flying.slots[..self.flying.len];
        for (update, &at) in updates.iter_mut().zip(changed) {
            let slot = &mut self.slots[at as usize];
            slot.phase = Phase::Flying;
            *update = AlUpdate { slot: at, extent: slot.extent };
            if slot.before != EXTENT_FREE {
                evicted.push(slot.before);
            }
        }
        let (slots, count) = (&self.slots, self.slot_count());
        encode_update(
            block,
            self.next_number,
            count,
            self.context_start,
            &updates[..changed.len()],
            |slot| slots[slot as usize].before,
        );
        let next_start = self.context_start as usize + AL_CONTEXT_SLOTS;
        self.context_start = if next_start >= count as usize { 0 } else { next_start as u16 };
        let number = TransactionNo(self.next_number);
        self.next_number = self.ring.number_after(self.next_number);
        self.in_flight = Some(number);
        PendingTransaction { number, ring_block: self.ring.block_of_transaction(number.0) }
    }

    fn find(&self, extent: u32) -> Option<u16> {
        self.index.find(extent, &self.slots)
    }

    fn reference(&mut self, at: u16) {
        let slot = &mut self.slots[at as usize];
        slot.references =
            slot.references.checked_add(1).expect("fewer references than requests fit in memory");
        if slot.references == 1 {
            self.referenced += 1;
            if slot.phase == Phase::Hot {
                self.idle.remove(&mut self.slots, at);
            }
        }
    }

    /// Gives `extent` a slot and one reference. The caller made sure that there is one.
    fn stage_one(&mut self, extent: u32) {
        let at = if self.unused > 0 {
            self.unused -= 1;
            self.unused as u16
        } else {
            let at = self.idle.oldest;
            assert!(at != NONE, "room was checked before");
            self.idle.remove(&mut self.slots, at);
            self.index.remove(self.slots[at as usize].extent, &self.slots);
            at
        };
        let slot = &mut self.slots[at as usize];
        slot.extent = extent;
        slot.references = 1;
        slot.phase = Phase::Staged;
        self.referenced += 1;
        self.index.insert(extent, at);
        self.staged.slots[self.staged.len] = at;
        self.staged.len += 1;
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// On disk.
    Hot,
    /// Part of the transaction in flight.
    Flying,
    /// Part of the next transaction.
    Staged,
}

#[derive(Clone, Copy)]
struct Slot {
    extent: u32,
    /// Content according to the log on disk.
    before: u32,
    references: u32,
    phase: Phase,
    newer: u16,
    older: u16,
}

/// No slot; slot numbers end at 65533.
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Updates {
    slots: [u16; AL_UPDATES_MAX],
    len: usize,
}

impl Default for Updates {
    fn default() -> Updates {
        Updates { slots: [0; AL_UPDATES_MAX], len: 0 }
    }
}

/// Doubly linked through `Slot::newer` and `Slot::older`.
struct IdleList {
    oldest: u16,
    newest: u16,
    len: u32,
}

impl IdleList {
    fn push_newest(&mut self, slots: &mut [Slot], at: u16) {
        slots[at as usize].older = self.newest;
        slots[at as usize].newer = NONE;
        match self.newest {
            NONE => self.oldest = at,
            newest => slots[newest as usize].newer = at,
        }
        self.newest = at;
        self.len += 1;
    }

    fn remove(&mut self, slots: &mut [Slot], at: u16) {
        let Slot { newer, older, .. } = slots[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => slots[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => slots[newer as usize].older = older,
        }
        self.len -= 1;
    }
}

/// Extent to slot: open addressing with linear probing, at most half full, no tombstones.
struct Index {
    cells: Box<[Cell]>,
    shift: u32,
}

#[derive(Clone, Copy)]
struct Cell {
    extent: u32,
    slot: u16,
}

impl Index {
    fn new(slot_count: u16) -> Index {
        let len = (slot_count as usize * 2).next_power_of_two();
        let empty = Cell { extent: EXTENT_FREE, slot: NONE };
        Index { cells: vec![empty; len].into_boxed_slice(), shift: 32 - len.trailing_zeros() }
    }

    /// Multiplicative hashing: the upper bits spread neighbouring extents over the table.
    fn home(&self, extent: u32) -> usize {
        (extent.wrapping_mul(0x9E37_79B1) >> self.shift) as usize
    }

    fn find(&self, extent: u32, slots: &[Slot]) -> Option<u16> {
        let cell = self.cells[self.cell_of(extent)];
        debug_assert!(cell.slot == NONE || slots[cell.slot as usize].extent == extent);
        (cell.slot != NONE).then_some(cell.slot)
    }

    fn insert(&mut self, extent: u32, slot: u16) {
        let at = self.cell_of(extent);
        debug_assert!(self.cells[at].slot == NONE, "extent is in the index already");
        self.cells[at] = Cell { extent, slot };
    }

    fn remove(&mut self, extent: u32, slots: &[Slot]) {
        debug_assert!(self.find(extent, slots).is_some());
        let mask = self.cells.len() - 1;
        let mut hole = self.cell_of(extent);
        let mut at = hole;
        // Close the gap: whatever probed past the hole moves back into it.
        loop {
            at = (at + 1) & mask;
            if self.cells[at].slot == NONE {
                break;
            }
            let home = self.home(self.cells[at].extent);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
        }
        self.cells[hole] = Cell { extent: EXTENT_FREE, slot: NONE };
    }

    /// The cell that holds `extent`, or the empty one where it belongs.
    fn cell_of(&self, extent: u32) -> usize {
        let mask = self.cells.len() - 1;
        let mut at = self.home(extent);
        while self.cells[at].slot != NONE && self.cells[at].extent != extent {
            at = (at + 1) & mask;
        }
        at
    }
}

fn check_range(first: u32, last: u32) {
    assert!(
        first <= last && ((last - first) as usize) < AL_UPDATES_MAX,
        "more extents than one transaction takes"
    );
    assert!(last != EXTENT_FREE, "not an extent number");
}

#[cfg(test)]
#[path = "extents/tests.rs"]
mod tests;
