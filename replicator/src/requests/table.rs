//! A slab whose slots carry a generation, so that a stale key never reaches a newer entry.

use alloc::vec::Vec;

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Slots are reused last-in first-out; nothing is allocated once the table has grown to its working size.
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Table<T> {
    pub(crate) fn with_capacity(n: usize) -> Table<T> {
        Table { slots: Vec::with_capacity(n), free: Vec::with_capacity(n), len: 0 }
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(i) = self.free.pop() {
            let slot = &mut self.slots[i as usize];
            assert!(slot.value.is_none(), "a free slot holds a value");
            slot.value = Some(value);
            return i;
        }
        self.slots.push(Slot { generation: 1, value: Some(value) });
        (self.slots.len() - 1) as u32
    }

    pub(crate) fn remove(&mut self, i: u32) -> T {
        let slot = &mut self.slots[i as usize];
        let value = slot.value.take().expect("only live slots are removed");
        slot.generation = (slot.generation + 1) & 0xff_ffff;
        self.free.push(i);
        self.len -= 1;
        value
    }

    /// The entry stays, and keys given out for it so far become stale.
    pub(crate) fn renew(&mut self, i: u32) {
        let slot = &mut self.slots[i as usize];
        assert!(slot.value.is_some(), "only live slots are renewed");
        slot.generation = (slot.generation + 1) & 0xff_ffff;
    }

    pub(crate) fn generation(&self, i: u32) -> u32 {
        self.slots[i as usize].generation
    }

    /// The slot is live and of this generation.
    pub(crate) fn is_live(&self, i: u32, generation: u32) -> bool {
        self.slots.get(i as usize).is_some_and(|s| s.value.is_some() && s.generation == generation)
    }

    pub(crate) fn get(&self, i: u32) -> Option<&T> {
        self.slots.get(i as usize)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, i: u32) -> Option<&mut T> {
        self.slots.get_mut(i as usize)?.value.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, s)| Some((i as u32, s.value.as_ref()?)))
    }
}

impl<T> core::ops::Index<u32> for Table<T> {
    type Output = T;
    fn index(&self, i: u32) -> &T {
        self.get(i).expect("slot is live")
    }
}

impl<T> core::ops::IndexMut<u32> for Table<T> {
    fn index_mut(&mut self, i: u32) -> &mut T {
        self.get_mut(i).expect("slot is live")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_does_not_reach_the_next_entry() {
        let mut t = Table::with_capacity(2);
        let a = t.insert("a");
        let ga = t.generation(a);
        assert_eq!(t.remove(a), "a");
        let b = t.insert("b");
        assert_eq!(a, b);
        assert!(!t.is_live(a, ga));
        assert!(t.is_live(b, t.generation(b)));
        let gb = t.generation(b);
        t.renew(b);
        assert!(!t.is_live(b, gb) && t[b] == "b");
        assert_eq!(t.len(), 1);
    }
}
