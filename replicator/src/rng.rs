//! The core's random numbers: a hash of the seed and a counter. The driver seeds it from the system's entropy,
//! the simulator from its own seed, so runs replay.

use sha2::{Digest, Sha256};

/// Deterministic generator; unpredictable without the seed.
#[derive(Clone)]
pub(crate) struct Rng {
    seed: [u8; 32],
    counter: u64,
}

impl Rng {
    pub(crate) fn new(seed: [u8; 32]) -> Rng {
        Rng { seed, counter: 0 }
    }

    fn block(&mut self) -> [u8; 32] {
        let mut h = Sha256::new();
        h.update(self.seed);
        h.update(self.counter.to_le_bytes());
        self.counter += 1;
        h.finalize().into()
    }

    /// A random number that is neither an empty slot nor "just created".
    pub(crate) fn uuid(&mut self) -> u64 {
        loop {
            let v = self.next_u64() & !1;
            if v != 0 && v != 4 {
                return v;
            }
        }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        let b = self.block();
        u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next_u64() & 1 == 1
    }

    pub(crate) fn fill64(&mut self) -> [u8; 64] {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&self.block());
        out[32..].copy_from_slice(&self.block());
        out
    }
}
