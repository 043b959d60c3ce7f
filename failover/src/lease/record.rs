//! What is in the store, as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest record that is read.
pub const RECORD_BYTES_MAX: usize = 4096;
/// Longest name of a node.
const NODE_BYTES_MAX: usize = 256;
/// Shortest and longest term of a lease.
const TTL_MS: std::ops::RangeInclusive<u64> = 100..=600_000;

/// Who is at home, and whose data counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Format; 1.
    pub format: u32,
    /// The home; none: it has let go, and whoever may can be the next one at once.
    pub holder: Option<Holder>,
    /// The nodes whose copies may be the newest: no other node may become Primary. Not empty.
    pub current: Vec<String>,
    /// The node that the last home has let go for: no other one takes it for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_to: Option<String>,
    /// Counts the changes, so that each renewal is one.
    pub changes: u64,
}

/// The home of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its name.
    pub node: String,
    /// A number that each start of its daemon draws: tells two daemons of one name apart.
    pub incarnation: u64,
    /// For how long it acts after a renewal.
    pub ttl_ms: u64,
    /// For how long its addresses may answer when nobody renews them any more; none: it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses_ms: Option<u64>,
}

/// Why what the store has is no record.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// Too long.
    #[error("{0} bytes are too many for a lease")]
    TooLong(usize),
    /// Not understood.
    #[error("not a lease: {0}")]
    Syntax(String),
    /// Impossible values.
    #[error("not a lease: {0}")]
    Value(&'static str),
}

impl Record {
    /// A first record.
    pub fn new(holder: Option<Holder>, current: Vec<String>) -> Record {
        Record { format: 1, holder, current, offered_to: None, changes: 0 }
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and numbers can be written")
    }

    /// From what is stored.
    ///
    /// # Errors
    /// It is not a record, or of a later format.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let record: Record = serde_json::from_slice(bytes).map_err(|e| RecordError::Syntax(e.to_string()))?;
        let is_name = |n: &String| !n.is_empty() && n.len() <= NODE_BYTES_MAX;
        if record.format != 1 {
            return Err(RecordError::Value("it has a format of a later version"));
        }
        if record.current.is_empty() || !record.current.iter().all(is_name) {
            return Err(RecordError::Value("nobody's data is current"));
        }
        if record.holder.as_ref().is_some_and(|h| !is_name(&h.node) || !TTL_MS.contains(&h.ttl_ms)) {
            return Err(RecordError::Value("the holder's name or term is impossible"));
        }
        if record.holder.as_ref().and_then(|h| h.addresses_ms).is_some_and(|ms| ms > *TTL_MS.end()) {
            return Err(RecordError::Value("the time that the holder's addresses are kept is impossible"));
        }
        if record.holder.as_ref().is_some_and(|h| !record.is_current(&h.node)) {
            return Err(RecordError::Value("the holder's data is not current"));
        }
        Ok(record)
    }

    /// This node's copy may be the newest.
    pub fn is_current(&self, node: &str) -> bool {
        self.current.iter().any(|n| n == node)
    }

    /// Nobody else's copy may be the newest.
    pub fn is_only_current(&self, node: &str) -> bool {
        self.current.iter().all(|n| n == node)
    }

    /// The holder if it is this node.
    pub fn held_by(&self, node: &str) -> Option<&Holder> {
        self.holder.as_ref().filter(|h| h.node == node)
    }
}

impl Holder {
    /// For how long it acts after a renewal.
    pub fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// For how long its addresses may answer when nobody renews them any more.
    pub fn addresses_answer(&self) -> Option<Duration> {
        self.addresses_ms.map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_comes_back_as_written() {
        let holder = Holder { node: "alpha".into(), incarnation: u64::MAX, ttl_ms: 600, addresses_ms: None };
        let mut record = Record::new(Some(holder), vec!["alpha".into(), "beta".into()]);
        record.changes = 7;
        assert_eq!(Record::decode(&record.encode()), Ok(record.clone()));
        record.holder.as_mut().unwrap().addresses_ms = Some(525);
        assert_eq!(Record::decode(&record.encode()), Ok(record.clone()));
        record.holder = None;
        record.offered_to = Some("beta".into());
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }

    /// A later version that adds what an earlier one may leave out keeps the format.
    #[test]
    fn what_a_later_version_adds_is_left_out() {
        let text = r#"{"format":1,"holder":{"node":"a","incarnation":1,"ttl_ms":600,"new":[1]},"current":["a"],"changes":3,"more":1}"#;
        let record = Record::decode(text.as_bytes()).unwrap();
        assert_eq!((record.changes, record.held_by("a").unwrap().ttl_ms), (3, 600));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"format":2,"holder":null,"current":["a"],"changes":0}"#,
            r#"{"format":1,"holder":null,"current":[],"changes":0}"#,
            r#"{"format":1,"holder":null,"current":[""],"changes":0}"#,
            r#"{"format":1,"holder":{"node":"a","incarnation":1,"ttl_ms":0},"current":["a"],"changes":0}"#,
            r#"{"format":1,"holder":{"node":"a","incarnation":1,"ttl_ms":600,"addresses_ms":600001},"current":["a"],"changes":0}"#,
        ] {
            assert!(Record::decode(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(Record::decode(&[b' '; 5000]), Err(RecordError::TooLong(5000)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Record::decode(&bytes);
        }
    }
}
