//! Keeping a peer that cannot be reached from going on with its copy: the fence-peer handler, what its exit codes mean,
//! and I/O that is frozen until it has answered (drbd-states 13.2, 14.1).

use model::config::settings::Handler;
use model::policy::Fencing;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::state_word::{StateChange, mask};

use crate::action::{Actions, LogLevel};
use crate::handshake::decide::Decision;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::state::Kind;

/// What came of the wish to fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// The policy does not ask for it.
    NotNeeded,
    /// This node has no copy that would be worth it.
    Impossible,
    /// The handler was called, or had been called already, and will answer.
    Called,
}

impl Resource {
    /// The policy of the connection: the strictest of the volumes with a copy worth fencing for.
    fn fencing_policy(&self) -> Option<Fencing> {
        let worth = self.vols.iter().filter(|v| v.state.disk >= DiskState::Consistent);
        worth.filter_map(|v| v.disk.as_ref()).map(|d| d.cfg.fencing).max()
    }

    /// The connection is gone. A Primary that goes on, or would like to, has the peer fenced.
    pub(crate) fn fence_lost_peer(&mut self, out: &mut Actions) {
        let unknown = self.vols.iter().any(|v| v.state.pdsk >= DiskState::DUnknown);
        if self.role() == Role::Primary && unknown {
            self.start_fencing(out);
        }
    }

    pub(crate) fn start_fencing(&mut self, out: &mut Actions) -> Start {
        if self.conn.state == ConnState::WFReportParams {
            // Only a volume that the peer does not have is not connected then (drbd-states 14.1).
            return Start::Impossible;
        }
        match self.fencing_policy() {
            Some(Fencing::ResourceOnly | Fencing::ResourceAndStonith) => {
                if !self.handler_runs_for(Handler::FencePeer, self.conn.generation) {
                    self.call_handler(Handler::FencePeer, None, out);
                }
                Start::Called
            }
            // The good copies do not ask for it; one that does may be bad, and have frozen all of them.
            policy => {
                let frozen = self.vols[0].state.susp_fen;
                let asked_for = self.vols.iter().any(|v| v.cfg_fencing() != Fencing::DontCare);
                if frozen || policy.is_none() && asked_for {
                    let text = "Not fencing peer, I'm not even Consistent myself.";
                    out.log(LogLevel::Info, None, text);
                }
                if frozen {
                    // There is nothing to wait for.
                    self.begin_due_generations(out);
                    self.end_suspensions(mask::SUSP_FEN, out);
                }
                if policy.is_none() { Start::Impossible } else { Start::NotNeeded }
            }
        }
    }

    /// The fence-peer handler has ended that was called at the time of `connection`.
    pub(crate) fn fence_peer_answered(&mut self, exit_code: i32, connection: u32, out: &mut Actions) {
        let any_good = self.vols.iter().any(|v| v.state.disk == DiskState::UpToDate);
        let outdated = StateChange::NONE.pdsk(DiskState::Outdated);
        let (meaning, change) = match exit_code {
            3 => ("peer is inconsistent or worse", StateChange::NONE.pdsk(DiskState::Inconsistent)),
            4 => ("peer was fenced", outdated),
            5 if any_good => ("peer is unreachable, assumed to be dead", outdated),
            5 => ("peer unreachable, doing nothing since disk != UpToDate", StateChange::NONE),
            6 => ("peer is active", StateChange::NONE.disk(DiskState::Outdated)),
            7 => ("peer was stonithed", outdated),
            _ => {
                let text = alloc::format!("fence-peer helper broken, returned {exit_code}");
                out.log(LogLevel::Error, None, text);
                self.promotion_fenced(self.peer_is_fenced());
                return;
            }
        };
        if exit_code == 6 {
            out.log(LogLevel::Warn, None, "Peer is primary, outdating myself.");
        }
        if exit_code == 7 && self.fencing_policy() != Some(Fencing::ResourceAndStonith) {
            let text = "fence-peer says the peer was stonithed, but the policy is not resource-and-stonith";
            out.log(LogLevel::Error, None, text);
        }
        let text = alloc::format!("fence-peer helper returned {exit_code} ({meaning})");
        out.log(LogLevel::Info, None, text);
        let came_and_went = connection != self.conn.generation;
        if came_and_went {
            out.log(LogLevel::Info, None, "Ignoring fence-peer exit code");
        } else if change != StateChange::NONE
            && let Err(e) = self.change_connection(change, Kind::Soft, out)
        {
            self.log_refusal(0, change, e, out);
        }
        self.promotion_fenced(self.peer_is_fenced());
    }

    /// Not connected, and no copy of the peer's can be taken for current.
    pub(crate) fn peer_is_fenced(&self) -> bool {
        let out_of_the_way =
            |s: &VolumeState| s.conn < ConnState::WFReportParams && s.pdsk <= DiskState::Outdated;
        self.vols.iter().all(|v| out_of_the_way(&v.state))
    }

    /// Clients go on with this copy alone.
    pub(crate) fn begin_due_generations(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            self.vols[v].generation_due &= !planted::on(Planted::DueGenerationForgotten);
            if self.vols[v].generation_due {
                self.new_current_uuid(v, out);
            }
        }
    }

    /// A Primary steps down before the peer was fenced. Answered writes that the peer may have lost are marked, and a mark is
    /// worth nothing in a generation that both have.
    pub(crate) fn settle_due_generation(&mut self, v: usize, out: &mut Actions) {
        let vol = &self.vols[v];
        if vol.generation_due && vol.bitmap.count() > 0 {
            self.new_current_uuid(v, out);
        } else if vol.wrote_ahead && vol.state.conn == ConnState::WFBitMapS {
            // Without a Primary nothing would tell whose copy is ahead if the resync did not begin.
            self.go_ahead_of_peer(v, out);
        }
        self.vols[v].generation_due = false;
    }

    /// Connected on every volume that the peer has.
    pub(crate) fn peer_is_back(&self) -> bool {
        let announced = !self.conn.handshake_in_progress;
        let lacks_it = |s: &VolumeState| announced && s.conn == ConnState::WFReportParams;
        self.vols.iter().all(|v| v.state.conn >= ConnState::Connected || lacks_it(&v.state))
    }

    /// The peer has announced its volumes, and is not waited for with the others.
    pub(crate) fn thaw_beside_missing_volumes(&mut self, out: &mut Actions) {
        if self.vols[0].state.susp_fen && self.peer_is_back() {
            self.frozen_until_connected(out);
            self.end_suspensions(mask::SUSP_FEN, out);
        }
    }

    /// The peer is back before it was fenced. With its copy nothing has happened; without one, or without the volume, clients
    /// go on alone.
    pub(crate) fn frozen_until_connected(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            let s = &self.vols[v].state;
            let alone = s.conn < ConnState::Connected || s.pdsk < DiskState::Inconsistent;
            if self.vols[v].generation_due && alone {
                self.new_current_uuid(v, out);
            }
            self.vols[v].generation_due = false;
        }
    }

    /// The peer is back with the common generation, and what was frozen is marked, or the peer does not know how good its
    /// copy is. Writes that are answered now must not be in that generation alone: the next one begins first. The peer
    /// finds in it that it is behind, compares again, and becomes target.
    pub(crate) fn thaw_in_a_new_generation(
        &mut self,
        v: usize,
        own: &VolumeState,
        peer_disk: DiskState,
        decision: Decision,
        out: &mut Actions,
    ) -> Decision {
        if !self.next_generation_is_needed(v, own, peer_disk, decision) {
            return decision;
        }
        self.go_ahead_of_peer(v, out);
        match decision {
            Decision::Connected => Decision::Source { full: false },
            other => other,
        }
    }

    fn next_generation_is_needed(
        &self,
        v: usize,
        own: &VolumeState,
        peer_disk: DiskState,
        decision: Decision,
    ) -> bool {
        let vol = &self.vols[v];
        let goes_on = matches!(decision, Decision::Connected | Decision::Source { .. });
        let open = vol.bitmap.count() > 0 || peer_disk == DiskState::Consistent;
        vol.generation_due && own.conn < ConnState::Connected && goes_on && open
    }

    /// The peer is a Primary as well, and frozen in the same generation: each would begin the next one and thaw, which is
    /// two writers. Its writes are on neither disk in an order that both know. One of them has to be fenced first.
    pub(crate) fn both_go_on_from_here(
        &self,
        v: usize,
        own: &VolumeState,
        received: &VolumeState,
        peer_disk: DiskState,
        decision: Decision,
    ) -> bool {
        let both = own.role == Role::Primary && received.role == Role::Primary;
        both && self.next_generation_is_needed(v, own, peer_disk, decision)
    }
}
