//! The core and its action queue, as the owners of I/O see it: something that takes events.

use model::time::Instant;
use replicator::{Actions, Event, Resource};

/// The core with the time of the batch.
pub(super) struct Core {
    pub resource: Resource,
    /// Filled by events, drained after the batch.
    pub out: Actions,
    /// The clock, read once per batch.
    pub now: Instant,
    /// Events since the last `end_batch`.
    pub pending: bool,
    /// Events that carry client or peer data, for the decision to spin.
    pub data_events: u64,
}

impl Core {
    pub(super) fn new(resource: Resource, now: Instant) -> Core {
        Core { resource, out: Actions::new(), now, pending: false, data_events: 0 }
    }

    /// Hands one event to the core.
    pub(super) fn event(&mut self, event: Event<'_>) {
        self.pending = true;
        if matches!(event, Event::Request(_) | Event::DiskDone { .. } | Event::Frame { payload: Some(_), .. })
        {
            self.data_events += 1;
        }
        self.resource.handle(self.now, event, &mut self.out);
    }
}
