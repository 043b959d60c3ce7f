//! A target whose source has gone Ahead: what it had asked for is not served (drbd-wire 6.3, 10.1).

use model::state::ConnState;
use model::units::SectorRange;

use crate::action::Actions;
use crate::resource::Resource;

impl Resource {
    /// P_RS_CANCEL: the source is Ahead. Its state packet says so too, but comes on the other socket.
    pub(crate) fn resync_request_cancelled(&mut self, v: usize, range: SectorRange, out: &mut Actions) {
        let run = &mut self.vols[v].resync;
        let found = run.requests.iter().find(|(_, r)| r.range == range && r.is_asked());
        let Some((slot, orphan)) = found.map(|(slot, r)| (slot, r.orphan)) else { return };
        run.requests.remove(slot);
        self.vols[v].pump = true;
        if orphan {
            self.cancelled_are_answered(v, out);
            return;
        }
        let run = &mut self.vols[v].resync;
        run.in_flight_sectors -= range.len_sectors();
        // Whatever is asked for now would come back like this.
        run.refused_ahead = true;
    }

    /// P_SYNC_UUID has come, and answers to requests of the run before have not: they would count for the next one.
    pub(crate) fn waits_for_cancelled(&self, v: usize) -> bool {
        self.vols[v].state.conn == ConnState::Behind && self.vols[v].resync.has_unanswered()
    }

    /// Nothing of the run before is outstanding: the next one may begin.
    pub(crate) fn cancelled_are_answered(&mut self, v: usize, out: &mut Actions) {
        if self.vols[v].state.conn == ConnState::Behind
            && !self.vols[v].resync.has_unanswered()
            && let Some(uuid) = self.vols[v].resync.early_sync_uuid.take()
        {
            self.start_as_target(v, uuid, out);
        }
    }
}
