//! The handlers before-resync-source and before-resync-target: a resync begins when its handler has ended
//! (drbd-states 17.2).
//!
//! They run in the last state before the run, once for each. A target keeps everything that comes behind P_SYNC_UUID until
//! then: the source replicates already, and no write may reach a copy that does not say yet that it is being overwritten.

use alloc::format;

use model::config::settings::Handler;
use model::ids::DataUuid;
use model::state::ConnState;
use model::state_word::StateChange;

use crate::action::Actions;
use crate::event::HandlerRun;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::state::Kind;

/// Exit code of before-resync-source that old tools without this handler end with.
const NO_SUCH_HANDLER: i32 = 3;

/// A resync that begins when its handler has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    run: HandlerRun,
    /// The state it is called in; with the state the resync is given up.
    conn: ConnState,
    /// What the source has named; None on the source.
    sync_uuid: Option<DataUuid>,
}

impl Resource {
    /// The peer's bitmap is merged (or was not needed): this node is the source, after its handler.
    pub(crate) fn start_as_source(&mut self, v: usize, out: &mut Actions) {
        self.call_before_resync(v, Handler::BeforeResyncSource, None, out);
    }

    /// The source has named the run: from here on this copy is the target's, after its handler.
    pub(crate) fn start_as_target(&mut self, v: usize, sync_uuid: DataUuid, out: &mut Actions) {
        self.call_before_resync(v, Handler::BeforeResyncTarget, Some(sync_uuid), out);
    }

    fn call_before_resync(
        &mut self,
        v: usize,
        handler: Handler,
        sync_uuid: Option<DataUuid>,
        out: &mut Actions,
    ) {
        let run = self.call_handler(handler, Some(v), out);
        let conn = self.vols[v].state.conn;
        self.vols[v].resync.before = Some(Before { run, conn, sync_uuid });
        if planted::on(Planted::HandlerNotAwaited) {
            self.before_resync_ended(v, run, handler, 0, out);
        }
    }

    /// A state is left in which a handler may have been called.
    pub(crate) fn before_resync_left(&mut self, v: usize, left: ConnState) {
        self.vols[v].resync.before = self.vols[v].resync.before.filter(|b| b.conn != left);
    }

    /// The handler has ended.
    pub(crate) fn before_resync_ended(
        &mut self,
        v: usize,
        run: HandlerRun,
        handler: Handler,
        exit_code: i32,
        out: &mut Actions,
    ) {
        // Of a resync that was given up meanwhile it says nothing.
        let Some(before) = self.vols[v].resync.before.take_if(|b| b.run == run) else { return };
        let go_on = match handler {
            Handler::BeforeResyncSource => [0, NO_SUCH_HANDLER].contains(&exit_code),
            _ => exit_code == 0,
        };
        if !go_on {
            let why = format!("{handler} handler returned {exit_code}, dropping connection.");
            self.end_in_standalone(&why, out);
            return;
        }
        match before.sync_uuid {
            Some(uuid) => self.begin_as_target(v, uuid, out),
            None => {
                let source = StateChange::NONE.conn(ConnState::SyncSource);
                let _ = self.change_volume(v, source, Kind::Soft, out);
            }
        }
    }

    /// What the peer sends as data waits for the handler of a target.
    pub(crate) fn waits_before_target(&self) -> bool {
        self.vols.iter().any(|v| v.resync.before.is_some_and(|b| b.sync_uuid.is_some()))
    }
}
