//! What the next daemon is to know of a lease: written when it changes, beside everything else.

use std::path::Path;
use std::time::Duration;

use failover::lease::memory::Memory;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::lease_memory::MemoryFile;

/// Before what could not be written is written again.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Reaches the task that writes.
pub struct Keeper {
    newest: watch::Sender<Option<Memory>>,
}

impl Keeper {
    /// What an earlier daemon has seen of the lease of a service, as a number of changes, and who keeps what this one sees. Must
    /// run in a `LocalSet`.
    pub async fn recall(state_dir: &Path, service: &str) -> (u64, Keeper) {
        let file = MemoryFile::of(state_dir, service);
        let reads = file.clone();
        let read = tokio::task::spawn_blocking(move || reads.read()).await;
        let kept = match read.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string())) {
            Ok(Some(memory)) => Some(memory),
            Ok(None) => {
                info!("service {service}: nothing is remembered of its lease");
                None
            }
            Err(e) => {
                warn!("service {service}: what its lease said before is not known: {e}");
                None
            }
        };
        let changes = kept.as_ref().map_or(0, |m| m.changes);
        let (newest, to_keep) = watch::channel(kept);
        tokio::task::spawn_local(write_all(service.to_owned(), file, to_keep));
        (changes, Keeper { newest })
    }

    /// The newest record, if one is known.
    pub fn keep(&self, newest: Option<Memory>) {
        let Some(newest) = newest else { return };
        self.newest.send_if_modified(|kept| {
            let replaces = newest.replaces(kept.as_ref());
            if replaces {
                *kept = Some(newest);
            }
            replaces
        });
    }
}

async fn write_all(service: String, file: MemoryFile, mut to_keep: watch::Receiver<Option<Memory>>) {
    while to_keep.changed().await.is_ok() {
        let Some(memory) = to_keep.borrow_and_update().clone() else { continue };
        let file = file.clone();
        // Waiting for a disk must not hold up the lease.
        let written = tokio::task::spawn_blocking(move || file.write(&memory)).await;
        if let Err(e) = written.map_err(std::io::Error::other).flatten() {
            warn!("service {service}: what its lease says cannot be kept: {e}");
            tokio::time::sleep(RETRY_PAUSE).await;
            to_keep.mark_changed();
        }
    }
}
