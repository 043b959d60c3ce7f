//! What was written, what was acknowledged, and what a block may therefore hold.

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
const HEADER_BYTES: usize = 32;
const MAGIC: u64 = u64::from_le_bytes(*b"LOCKSTEP");

/// Fills `block` with the content of version `version` of block `number` in run `run`. Every byte depends on all
/// three, so that a torn, misplaced or old block cannot pass.
pub fn fill(block: &mut [u8; BLOCK_BYTES], run: u64, number: u64, version: u64) {
    let words = [MAGIC, run, number, version];
    let (header, body) = block.split_at_mut(HEADER_BYTES);
    for (bytes, word) in header.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    let mut state = run ^ number.rotate_left(32) ^ version.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for bytes in body.as_chunks_mut::<8>().0 {
        *bytes = next_random(&mut state).to_le_bytes();
    }
}

/// The version that `block` holds of block `number` in run `run`; `None` if it is anything else.
pub fn version_of(block: &[u8; BLOCK_BYTES], run: u64, number: u64) -> Option<u64> {
    let (bytes, _) = block[24..].split_first_chunk::<8>()?;
    let version = u64::from_le_bytes(*bytes);
    let mut expected = [0; BLOCK_BYTES];
    fill(&mut expected, run, number, version);
    (expected == *block).then_some(version)
}

/// A step of splitmix64: spreads well, needs no state but the counter.
pub fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What is known of one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Newest acknowledged version; 0: none in this run.
    acked: u64,
    /// Version sent and not acknowledged: it may be there or not.
    pending: Option<u64>,
}

impl Entry {
    /// The next version, from now on in flight.
    pub fn begin_write(&mut self) -> u64 {
        let version = self.pending.unwrap_or(self.acked).max(self.acked) + 1;
        self.pending = Some(version);
        version
    }

    /// The version in flight was acknowledged.
    pub fn acknowledge(&mut self) {
        if let Some(version) = self.pending.take() {
            self.acked = version;
        }
    }

    /// Anything is known of the block.
    pub fn is_known(&self) -> bool {
        self.acked > 0 || self.pending.is_some()
    }

    /// What the block holds now, `None` for foreign bytes, is allowed: the acknowledged version or the one in
    /// flight. After a good answer that is settled: it may not go back any more.
    pub fn settle(&mut self, found: Option<u64>) -> bool {
        let allowed = match found {
            Some(version) => version == self.acked && version > 0 || Some(version) == self.pending,
            None => self.acked == 0,
        };
        if allowed {
            *self = Entry { acked: found.unwrap_or(0), pending: None };
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_knows_its_version_and_place() {
        let mut block = [0; BLOCK_BYTES];
        fill(&mut block, 7, 42, 3);
        assert_eq!(version_of(&block, 7, 42), Some(3));
        assert_eq!(version_of(&block, 7, 43), None);
        assert_eq!(version_of(&block, 8, 42), None);
        for at in [0, 24, 32, 2000, BLOCK_BYTES - 1] {
            let mut damaged = block;
            damaged[at] ^= 1;
            assert_eq!(version_of(&damaged, 7, 42), None, "{at}");
        }
        let mut torn = block;
        let mut newer = [0; BLOCK_BYTES];
        fill(&mut newer, 7, 42, 4);
        torn[..512].copy_from_slice(&newer[..512]);
        assert_eq!(version_of(&torn, 7, 42), None);
    }

    #[test]
    fn acknowledged_versions_must_be_there() {
        let mut entry = Entry::default();
        assert!(!entry.is_known());
        assert_eq!(entry.begin_write(), 1);
        entry.acknowledge();
        assert!(entry.is_known());
        assert!(!entry.clone().settle(None));
        assert!(!entry.clone().settle(Some(2)));
        assert!(entry.settle(Some(1)));
    }

    #[test]
    fn a_write_in_flight_may_be_there_or_not_but_then_stays() {
        let mut entry = Entry::default();
        entry.begin_write();
        entry.acknowledge();
        assert_eq!(entry.begin_write(), 2);
        assert!(entry.clone().settle(Some(1)));
        assert!(entry.settle(Some(2)));
        assert!(!entry.settle(Some(1)), "gone back");
        let mut fresh = Entry::default();
        fresh.begin_write();
        assert!(fresh.clone().settle(None));
        assert!(fresh.clone().settle(Some(1)));
        assert!(!fresh.settle(Some(9)));
    }
}
