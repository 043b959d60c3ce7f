//! What a lease needs of a store: registers that can be compared and swapped, and errors that tell what is known.

use super::machine::StoreAnswer;

/// What a register has to hold for a change to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Nothing.
    Absent,
    /// What was written by the change with this revision.
    Revision(i64),
    /// The same, and that it is this: a store that was put back to an older copy gives its later revisions once more.
    Value {
        /// Revision of the change that wrote it.
        revision: i64,
        /// What was written.
        value: Vec<u8>,
    },
}

/// What a register holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// Revision of the change that wrote it. No two changes of a store have the same one, later ones have higher ones.
    pub revision: i64,
}

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Swap {
    /// It is made.
    Done {
        /// Its revision.
        revision: i64,
    },
    /// It is not made: the register holds something else than expected.
    Conflict {
        /// What it holds.
        current: Option<Versioned>,
    },
}

/// Why a store has not answered as it should.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be asked at all; a mistake in the configuration.
    #[error("lease store {endpoint}: {why}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong.
        why: String,
    },
    /// What was asked for has not been done and will not be: it was never sent, or refused.
    #[error("lease store: {why}")]
    NotDone {
        /// What went wrong, for each endpoint that was tried.
        why: String,
    },
    /// A change was sent and its answer is lost: it has been made, or not, or will be later. Whoever reads the register next
    /// may still see the old value; only a change that expects what was read keeps a late one out.
    #[error("lease store {endpoint}: {why}; the change may have been made")]
    Unknown {
        /// Where it was sent.
        endpoint: String,
        /// What went wrong.
        why: String,
    },
    /// Another cluster answers than before: what it holds proves nothing. A change that was asked for may have been made there.
    #[error("lease store {endpoint}: this is cluster {found:x}, it was {expected:x} before")]
    OtherCluster {
        /// Who answers.
        endpoint: String,
        /// The cluster before.
        expected: u64,
        /// The cluster now.
        found: u64,
    },
    /// The cluster has forgotten changes that it had made: it was started anew or from an older copy. What it holds proves
    /// nothing. A change that was asked for may have been made.
    #[error(
        "lease store {endpoint}: it is at revision {found}, it was at {seen} before: it has lost changes"
    )]
    WentBack {
        /// Who answers.
        endpoint: String,
        /// Its revision before.
        seen: i64,
        /// Its revision now.
        found: i64,
    },
}

impl StoreError {
    /// As the lease takes it.
    pub fn answer(&self) -> StoreAnswer {
        let text = self.to_string();
        match self {
            StoreError::NotDone { .. } | StoreError::Endpoint { .. } => StoreAnswer::Failed(text),
            StoreError::Unknown { .. } | StoreError::OtherCluster { .. } | StoreError::WentBack { .. } => {
                StoreAnswer::Unknown(text)
            }
        }
    }
}
