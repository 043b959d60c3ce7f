//! A map for keys that are handed out in ascending order, of which few are in use at once: sockets, buffers, requests.

use std::ops::Index;

/// Entries in the order of their keys, in one piece of memory that is kept.
#[derive(Clone, Debug)]
pub struct Ordered<K, V>(Vec<(K, V)>);

impl<K, V> Default for Ordered<K, V> {
    fn default() -> Ordered<K, V> {
        Ordered(Vec::new())
    }
}

impl<K: Copy + Ord, V> Ordered<K, V> {
    /// Adds an entry.
    ///
    /// # Panics
    /// If the key is not above every other one.
    pub fn insert(&mut self, key: K, value: V) {
        assert!(self.0.last().is_none_or(|(last, _)| *last < key), "keys are handed out in ascending order");
        self.0.push((key, value));
    }

    fn find(&self, key: &K) -> Option<usize> {
        if self.0.len() <= SHORT {
            return self.0.iter().position(|(k, _)| k == key);
        }
        self.0.binary_search_by(|(k, _)| k.cmp(key)).ok()
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).map(|i| &self.0[i].1)
    }

    /// The value of a key.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).map(|i| &mut self.0[i].1)
    }

    /// There is such an entry.
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_some()
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).map(|i| self.0.remove(i).1)
    }

    /// Keeps the entries that `wanted` likes.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K, &V) -> bool) {
        self.0.retain(|(k, v)| wanted(k, v));
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops all entries.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The entries, by key.
    pub fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.0.iter().map(|(k, v)| (*k, v))
    }

    /// The keys, ascending.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.0.iter().map(|(k, _)| *k)
    }

    /// The values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, v)| v)
    }
}

/// Up to this length a search from the front is faster.
const SHORT: usize = 8;

impl<K: Copy + Ord, V> Index<&K> for Ordered<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the entry is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_at_any_length() {
        let mut m = Ordered::default();
        for n in 0..100_u32 {
            m.insert(2 * n, n);
            assert_eq!((m.get(&(2 * n)), m.get(&(2 * n + 1))), (Some(&n), None));
            assert_eq!(m[&0], 0);
        }
        assert_eq!((m.remove(&50), m.remove(&50), m.len()), (Some(25), None, 99));
        m.retain(|k, _| *k >= 196);
        assert_eq!(m.iter().collect::<Vec<_>>(), [(196, &98), (198, &99)]);
    }

    #[test]
    #[should_panic(expected = "ascending")]
    fn a_key_is_handed_out_once() {
        let mut m = Ordered::default();
        m.insert(3, ());
        m.insert(3, ());
    }
}
