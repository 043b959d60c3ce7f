//! Handler scripts: the driver runs them, the core says when and what their exit codes mean (drbd-states 17).

use alloc::vec::Vec;

use model::config::settings::Handler;
use model::policy::Fencing;
use model::state::{DiskState, Role, VolumeState};

use crate::action::{Action, Actions, LogLevel};
use crate::event::{HandlerRun, VolIdx};
use crate::meta_io::Then;
use crate::resource::Resource;

/// Handlers that have not answered.
#[derive(Default)]
pub(crate) struct Handlers {
    next_run: u32,
    running: Vec<Running>,
}

#[derive(Clone, Copy)]
struct Running {
    run: HandlerRun,
    handler: Handler,
    vol: Option<VolIdx>,
    /// Connection at whose time it was called.
    connection: u32,
    /// Super blocks that have to be stable before it starts.
    unwritten: usize,
}

impl Resource {
    /// Calls a handler, of one volume or of the connection. The script finds on disk what made it necessary.
    pub(crate) fn call_handler(
        &mut self,
        handler: Handler,
        vol: Option<usize>,
        out: &mut Actions,
    ) -> HandlerRun {
        let run = HandlerRun(self.handlers.next_run);
        self.handlers.next_run += 1;
        let vols = match vol {
            Some(v) => v..v + 1,
            None => 0..self.vols.len(),
        };
        self.handlers.running.push(Running {
            run,
            handler,
            vol: vol.map(|v| VolIdx(v as u8)),
            connection: self.conn.generation,
            unwritten: vols.len(),
        });
        for v in vols {
            self.when_super_block_stable(v, Then::RunHandler(run), out);
        }
        run
    }

    /// A resync of a volume is over, perhaps without some blocks.
    pub(crate) fn call_handlers_after_resync(&mut self, v: usize, as_target: bool, out: &mut Actions) {
        if as_target {
            self.call_handler(Handler::AfterResyncTarget, Some(v), out);
            return;
        }
        let current = |s: &VolumeState| (s.disk, s.pdsk) == (DiskState::UpToDate, DiskState::UpToDate);
        let fences = self.vols.iter().any(|v| v.cfg_fencing() != Fencing::DontCare);
        if fences && self.vols.iter().all(|v| current(&v.state)) {
            self.call_handler(Handler::UnfencePeer, None, out);
        }
    }

    /// Nobody is left with the data of a Primary's clients.
    pub(crate) fn call_handler_without_data(
        &mut self,
        v: usize,
        old: &VolumeState,
        new: &VolumeState,
        out: &mut Actions,
    ) {
        let none = |s: &VolumeState| {
            s.role == Role::Primary && s.disk < DiskState::UpToDate && s.pdsk < DiskState::UpToDate
        };
        if none(new) && !none(old) {
            self.call_handler(Handler::PriOnInconDegr, Some(v), out);
        }
    }

    /// A super block that a handler waits for is stable, or never will be.
    pub(crate) fn handler_may_start(&mut self, run: HandlerRun, out: &mut Actions) {
        let waiting = self.handlers.running.iter_mut().find(|r| r.run == run);
        let r = waiting.expect("it is called once for each volume, and ends after that");
        r.unwritten -= 1;
        if r.unwritten > 0 {
            return;
        }
        let r = *r;
        let text = alloc::format!("helper command: {}", self.handler_text(&r));
        out.log(LogLevel::Info, r.vol, text);
        out.push(Action::RunHandler { run, handler: r.handler, vol: r.vol });
    }

    pub(crate) fn handler_done(&mut self, run: HandlerRun, exit_code: i32, out: &mut Actions) {
        let is_it = |r: &Running| r.run == run && r.unwritten == 0;
        let Some(i) = self.handlers.running.iter().position(is_it) else {
            self.stale_events += 1;
            return;
        };
        let r = self.handlers.running.remove(i);
        let level = if exit_code == 0 { LogLevel::Info } else { LogLevel::Warn };
        let status = (exit_code & 0xff) << 8;
        let text =
            alloc::format!("helper command: {} exit code {exit_code} ({status:#x})", self.handler_text(&r));
        out.log(level, r.vol, text);
        match (r.handler, r.vol) {
            (Handler::FencePeer, _) => self.fence_peer_answered(exit_code, r.connection, out),
            (Handler::BeforeResyncSource | Handler::BeforeResyncTarget, Some(vol)) => {
                self.before_resync_ended(usize::from(vol.0), run, r.handler, exit_code, out);
            }
            _ => {}
        }
    }

    /// Whether a handler of this name was called at the time of this connection, and has not ended.
    pub(crate) fn handler_runs_for(&self, handler: Handler, connection: u32) -> bool {
        self.handlers.running.iter().any(|r| (r.handler, r.connection) == (handler, connection))
    }

    fn handler_text(&self, r: &Running) -> alloc::string::String {
        match r.vol {
            Some(v) => alloc::format!("{} minor-{}", r.handler, self.vols[v.0 as usize].minor.0),
            None => alloc::format!("{} {}", r.handler, self.cfg.name),
        }
    }
}
