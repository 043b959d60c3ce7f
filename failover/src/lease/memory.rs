//! What a node remembers of a lease's record beyond the end of its daemon: how often it was changed, and whose copies counted.
//! A store that was put back to an older copy tells neither. Whoever remembers nothing believes what it finds.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest memory that is read, in octets.
pub const MEMORY_BYTES_MAX: usize = 16 << 10;
/// Changes after which a new one is worth writing though the same copies count: an older record that says the same does no harm.
const CHANGES_WORTH_WRITING: u64 = 1000;

/// Of the newest record that was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Format; 1.
    pub format: u32,
    /// How often the record was changed.
    pub changes: u64,
    /// The nodes whose copies counted.
    pub current: Vec<String>,
}

/// Why it is none.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum MemoryError {
    /// Too long.
    #[error("{0} octets are too many for what is remembered of a lease")]
    TooLong(usize),
    /// Not understood.
    #[error("not what is remembered of a lease: {0}")]
    Syntax(String),
    /// Of a later version.
    #[error("what is remembered of the lease has format {0}, this version knows 1")]
    Format(u32),
}

impl Memory {
    /// Of a record.
    pub fn new(changes: u64, current: Vec<String>) -> Memory {
        Memory { format: 1, changes, current }
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("names and numbers can be written");
        bytes.push(b'\n');
        bytes
    }

    /// From what is kept.
    ///
    /// # Errors
    /// It is not that.
    pub fn decode(bytes: &[u8]) -> Result<Memory, MemoryError> {
        if bytes.len() > MEMORY_BYTES_MAX {
            return Err(MemoryError::TooLong(bytes.len()));
        }
        let memory: Memory = serde_json::from_slice(bytes).map_err(|e| MemoryError::Syntax(e.to_string()))?;
        if memory.format == 1 { Ok(memory) } else { Err(MemoryError::Format(memory.format)) }
    }

    /// Whether `self` is to be kept in place of `kept`.
    pub fn replaces(&self, kept: Option<&Memory>) -> bool {
        let Some(kept) = kept else { return true };
        // Fewer changes than before: an older record was believed beside the connected peer.
        self.current != kept.current
            || self.changes < kept.changes
            || self.changes - kept.changes >= CHANGES_WORTH_WRITING
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(changes: u64, current: &[&str]) -> Memory {
        Memory::new(changes, current.iter().map(|n| (*n).to_owned()).collect())
    }

    #[test]
    fn it_comes_back_as_written_and_nothing_else_does() {
        let one = memory(u64::MAX, &["a", "b"]);
        assert_eq!(Memory::decode(&one.encode()), Ok(one.clone()));
        let whole = one.encode();
        for len in 0..whole.len() - 2 {
            assert!(Memory::decode(&whole[..len]).is_err(), "{len} octets");
        }
        assert_eq!(Memory::decode(br#"{"format":2,"changes":1,"current":[]}"#), Err(MemoryError::Format(2)));
        assert!(Memory::decode(br#"{"format":1,"changes":1,"current":[],"more":1}"#).is_err());
        assert!(matches!(Memory::decode(&[b' '; MEMORY_BYTES_MAX + 1]), Err(MemoryError::TooLong(_))));
    }

    #[test]
    fn renewals_alone_are_written_seldom() {
        let kept = memory(10, &["a", "b"]);
        assert!(kept.replaces(None));
        assert!(!kept.replaces(Some(&kept)));
        assert!(!memory(1009, &["a", "b"]).replaces(Some(&kept)));
        assert!(memory(1010, &["a", "b"]).replaces(Some(&kept)));
        assert!(memory(11, &["a"]).replaces(Some(&kept)), "a copy that counts no more");
        assert!(memory(9, &["a", "b"]).replaces(Some(&kept)), "an older one was believed");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Memory::decode(&bytes);
        }
    }
}
