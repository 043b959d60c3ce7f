//! Publication of what is known about the resource, for readers on other threads.

use std::sync::Arc;

use arc_swap::ArcSwap;
use model::status::snapshot::ResourceSnapshot;
use model::time::{Duration, Instant};
use replicator::Resource;
use tokio::sync::watch;

use super::worker_api::WorkerConfig;

/// Where readers find the newest snapshot.
pub(super) struct Board {
    pub current: ArcSwap<ResourceSnapshot>,
    pub changes: watch::Sender<u64>,
}

impl Board {
    pub(super) fn new(name: &str) -> Arc<Board> {
        let current = ArcSwap::from_pointee(ResourceSnapshot::new(name));
        Arc::new(Board { current, changes: watch::Sender::new(0) })
    }

    pub(super) fn publish(&self, snapshot: ResourceSnapshot) {
        self.current.store(Arc::new(snapshot));
        self.changes.send_modify(|count| *count += 1);
    }
}

/// The worker's side: when to publish, and what the core does not know.
pub(super) struct Publisher {
    board: Arc<Board>,
    names: Names,
    last: Instant,
    moved: bool,
    urgent: bool,
}

/// What the configuration knows and the core does not.
struct Names {
    node: String,
    peer: String,
    local_address: String,
    peer_address: String,
    devices: Vec<String>,
    nbd_uris: Vec<Option<String>>,
}

impl Publisher {
    pub(super) fn new(board: Arc<Board>, config: &WorkerConfig) -> Publisher {
        let names = Names {
            node: config.node_name.clone(),
            peer: config.peer_name.clone(),
            local_address: config.own_address.to_string(),
            peer_address: config.peer_address.to_string(),
            devices: config.devices.clone(),
            nbd_uris: (0..config.core.volumes.len()).map(|v| nbd_uri(config, v)).collect(),
        };
        Publisher { board, names, last: Instant(0), moved: true, urgent: true }
    }

    /// Something was done that counters show.
    pub(super) fn note_movement(&mut self) {
        self.moved = true;
    }

    /// A state may have changed.
    pub(super) fn note_change(&mut self) {
        self.urgent = true;
    }

    /// When the next publication is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.moved.then(|| self.last + INTERVAL)
    }

    /// Publishes if it is time. `open_counts` has one entry per volume.
    pub(super) fn publish(&mut self, now: Instant, resource: &Resource, open_counts: &[u32]) {
        if !self.urgent && !(self.moved && now >= self.last + INTERVAL) {
            return;
        }
        let mut snapshot = resource.snapshot(now);
        self.names.fill_in(&mut snapshot, open_counts);
        self.board.publish(snapshot);
        (self.last, self.moved, self.urgent) = (now, false, false);
    }
}

impl Names {
    fn fill_in(&self, snapshot: &mut ResourceSnapshot, open_counts: &[u32]) {
        snapshot.node_name = Some(self.node.clone());
        snapshot.peer_name = Some(self.peer.clone());
        snapshot.local_addr.clone_from(&self.local_address);
        snapshot.peer_addr.clone_from(&self.peer_address);
        for (v, volume) in snapshot.volumes.iter_mut().enumerate() {
            if let Some(device) = self.devices.get(v) {
                volume.device.clone_from(device);
            }
            volume.nbd_uri = self.nbd_uris.get(v).cloned().flatten();
            volume.open_count = open_counts.get(v).copied().unwrap_or(0);
        }
    }
}

/// The address of a volume as NBD clients take it.
fn nbd_uri(config: &WorkerConfig, v: usize) -> Option<String> {
    let volume = config.core.volumes.get(v)?.vnr;
    let name = &config.core.name;
    if let Some(path) = config.nbd_unix.get(v) {
        return Some(format!("nbd+unix:///{name}/{volume}?socket={}", path.display()));
    }
    config.nbd_tcp.map(|address| format!("nbd://{address}/{name}/{volume}"))
}

/// Longest time between two publications while anything moves.
const INTERVAL: Duration = Duration::from_millis(200);
