//! What follows from the peer's state packet: the handshake decision and the resulting state (drbd-wire 3.7).

use alloc::format;
use model::ids::DataUuid;
use model::state::{ConnState, DiskState, Role, VolumeState};
use model::state_word::{StateChange, StateWord, mask};

use crate::action::{Actions, LogLevel};
use crate::event::VolIdx;
use crate::handshake::decide::{self, AfterRefusal, Decision, Step};
use crate::handshake::peer_state::{Circumstances, Conclusion, Proceed, conclude, must_answer};
use crate::handshake::split_brain::Policies;
use crate::handshake::uuid_rules::{self, UuidSet};
use crate::meta::superblock::MetaFlags;
use crate::meta::uuids::Uuids;
use crate::meta_io::FullSyncStep;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::state::log_line::Level;
use crate::state::{Kind, evaluate};
use crate::wire::{Features, UuidFlags};

fn to_set(u: &Uuids) -> UuidSet {
    UuidSet { current: u.current, bitmap: u.bitmap, history: u.history }
}

fn from_set(s: &UuidSet) -> Uuids {
    Uuids { current: s.current, bitmap: s.bitmap, history: s.history }
}

impl Resource {
    /// P_STATE.
    pub(crate) fn receive_state(&mut self, v: usize, word: StateWord, out: &mut Actions) {
        let Some(received) = word.decode() else {
            self.protocol_error("P_STATE with impossible values", out);
            return;
        };
        let own = self.vols[v].state;
        if own.conn >= ConnState::Connected && self.conn.handshake_in_progress {
            self.peer_has_announced_all(out);
        } else if own.conn == ConnState::WFReportParams && !self.conn.handshake_in_progress {
            let text = "The peer has got this volume since; connecting anew";
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        }
        let vol = &self.vols[v];
        let circumstances = Circumstances {
            peer_uuid_flags: vol.peer_uuids.map(|p| p.flags),
            resync_noted: vol.consider_resync,
            dirty_bits: vol.bitmap.count(),
            failed_bits: vol.resync.failed_bits,
            target_was_there: vol.resync.target_began || vol.resync.all_acked,
        };
        self.vols[v].skip_unconfirmed &= received.disk != DiskState::UpToDate;
        match conclude(&own, &received, &circumstances) {
            Conclusion::ConnectionFailing => self.lose_connection(ConnState::NetworkFailure, out),
            Conclusion::Nonsense(_) => self.protocol_error("P_STATE that no peer can have", out),
            Conclusion::FinishResync => self.finish_as_source(v, out),
            Conclusion::TargetGaveUp => self.finish_incomplete_as_source(v, out),
            Conclusion::ResyncLeftovers => self.vols[v].resync.peer_done = true,
            Conclusion::FinishVerify => self.finish_verify(v, out),
            Conclusion::Proceed(p) => {
                self.vols[v].invalidation_unconfirmed &= p.peer_disk >= DiskState::Consistent;
                self.apply_peer_state(v, own, &received, p, out);
                self.vols[v].uncorrected_uuids = None;
            }
        }
        if own.conn == ConnState::Ahead {
            self.state_heard_ahead(v, &received, out);
        }
    }

    /// The second state packet of a volume: the peer has said all that it says in the handshake, of each volume that it has.
    /// The others are not waited for.
    fn peer_has_announced_all(&mut self, out: &mut Actions) {
        for vol in self.vols.iter().filter(|v| v.state.conn == ConnState::WFReportParams) {
            let text = format!("The peer does not have volume {}", vol.vnr);
            self.log_conn(LogLevel::Warn, text, out);
        }
        self.conn.handshake_in_progress = false;
        self.discard_was_asked_for();
        self.something_changed = true;
        self.thaw_beside_missing_volumes(out);
    }

    // spec: drbd-wire 8.8, discarding own data is asked for once
    fn discard_was_asked_for(&mut self) {
        if let Some(net) = self.conn.net.as_mut() {
            net.discard_my_data = false;
        }
        self.conn.discard_my_data = false;
        self.conn.standalone_reason = None;
    }

    fn apply_peer_state(
        &mut self,
        v: usize,
        own: VolumeState,
        received: &VolumeState,
        p: Proceed,
        out: &mut Actions,
    ) {
        let at = Some(VolIdx(v as u8));
        let mut peer_disk = p.peer_disk;
        if p.was_negotiating {
            out.log(LogLevel::Info, at, format!("real peer disk state = {peer_disk}"));
        }
        let mut conn = p.conn;
        let mut full = false;
        let other_attach = own.disk == DiskState::Negotiating
            && own.conn >= ConnState::Connected
            && received.disk >= DiskState::Negotiating
            && !self.vols[v].attach_numbers.answered;
        let both_have_disks = own.disk >= DiskState::Negotiating && received.disk >= DiskState::Negotiating;
        if both_have_disks && own.conn < ConnState::Connected && self.vols[v].peer_uuids.is_none() {
            // spec: drbd-wire trap 7, two disks that never compared their generations must not be Connected
            self.protocol_error("P_STATE with a disk, but no P_UUIDS before it", out);
            return;
        }
        // Or the peer was granted to let its disk go, clients here have seen more since, and it has not heard that.
        let has_more = own.disk >= DiskState::Inconsistent
            || own.role == Role::Primary && own.disk < DiskState::Negotiating;
        let joins_unseen = own.conn >= ConnState::Connected
            && has_more
            && own.pdsk < DiskState::Inconsistent
            && received.disk >= DiskState::Inconsistent;
        if joins_unseen && !p.consider_resync {
            // Attached at the same moment as ours, each refused by the other's comparison: it counts for nothing then.
            out.log(LogLevel::Error, at, "The peer's disk joined without a handshake; connecting anew");
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        }
        if own.conn < ConnState::Connected && own.disk != self.vols[v].shown_disk {
            // The peer decides by what it was shown, and would come to another decision than this node.
            let text = "The disk has changed in the middle of the handshake; connecting anew";
            out.log(LogLevel::Error, at, text);
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        }
        if p.consider_resync && !other_attach {
            self.vols[v].consider_resync = false;
            let decision = self.handshake_decision(v, &own, received, peer_disk, out);
            if self.both_go_on_from_here(v, &own, received, peer_disk, decision) {
                let text = "Both are Primary and frozen in one generation; connecting anew until one of them is fenced";
                out.log(LogLevel::Warn, at, text);
                self.conn.retry_slowly = true;
                self.lose_connection(ConnState::NetworkFailure, out);
                return;
            }
            match self.thaw_in_a_new_generation(v, &own, peer_disk, decision, out) {
                Decision::Connected => conn = ConnState::Connected,
                Decision::Source { full: f } => {
                    conn = ConnState::WFBitMapS;
                    full = f;
                }
                Decision::Target { full: f } => {
                    conn = ConnState::WFBitMapT;
                    full = f;
                }
                Decision::Refuse(why) => {
                    match decide::on_refusal(own.disk, received.disk, self.conn.peer_tentative) {
                        AfterRefusal::FailAttach => {
                            self.force_detach(v, out);
                            return;
                        }
                        AfterRefusal::PeerDiskless => {
                            let text = "Disk attach process on the peer node was aborted.";
                            out.log(LogLevel::Error, at, text);
                            peer_disk = DiskState::Diskless;
                            // The peer has to find the same from our generations, or it waits for ever.
                            self.send_uuids(v, UuidFlags::NONE, out);
                            self.send_state(v, out);
                        }
                        AfterRefusal::Reconnect => {
                            self.conn.retry_slowly = true;
                            self.lose_connection(ConnState::NetworkFailure, out);
                            return;
                        }
                        AfterRefusal::StandAlone => {
                            self.end_in_standalone_quietly(refusal_text(why), out);
                            return;
                        }
                    }
                }
            }
        }
        if self.conn.meta.is_none() {
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        }
        if full {
            self.set_all_bits(v, FullSyncStep::Nothing, out);
        }
        let is_without = own.disk < DiskState::Inconsistent && own.role == Role::Primary;
        if is_without && peer_disk == DiskState::Outdated && self.vols[v].exposed.is_the_peers() {
            // It would have been refused for its generation if it were not that which clients here have seen last.
            peer_disk = DiskState::UpToDate;
        }
        let mut change = StateChange::NONE.peer(p.peer_role).pdsk(peer_disk).flag(mask::PEER_ISP, p.peer_isp);
        if conn != own.conn {
            change = change.conn(conn);
        }
        let found = if own.disk == DiskState::Negotiating { self.vols[v].attach_states.0 } else { own.disk };
        // What it said may be older than an attach that it has not answered.
        let answered = self.vols[v].attach_numbers.answered;
        let vouched = found == DiskState::Outdated && answered && primary_vouches(received);
        if vouched && own.disk == DiskState::Outdated {
            change = change.disk(DiskState::UpToDate);
        }
        let settles = matches!(conn, ConnState::Connected | ConnState::WFBitMapS);
        if settles && own.disk == DiskState::Negotiating && !other_attach {
            if conn == ConnState::Connected && !self.serves_what_clients_saw(v, &own, received) {
                // The peer's disk went while its state crossed our attach: no handshake vouches for this one.
                let text = "Attach refused: the data on this disk is not what clients have seen last";
                out.log(LogLevel::Error, at, text);
                self.force_detach(v, out);
            } else {
                change = change.disk(if vouched { DiskState::UpToDate } else { found });
            }
        }
        let kind = if own.conn < ConnState::Connected { Kind::Soft } else { Kind::Hard };
        if let Err(e) = self.change_volume(v, change, kind, out) {
            self.log_refusal(v, change, e, out);
            let why = format!("the state resulting from the handshake is refused: {}", e.text());
            self.end_in_standalone(&why, out);
            return;
        }
        let vol = &mut self.vols[v];
        let now = vol.state;
        let good_now = own.pdsk != DiskState::UpToDate && now.pdsk == DiskState::UpToDate;
        if now.disk < DiskState::Inconsistent && now.conn >= ConnState::Connected && good_now {
            // What a Primary's clients have not seen last it refuses to attach, as we do; then this packet means nothing.
            let clients = own.role == Role::Primary || received.role == Role::Primary;
            let may_refuse = p.was_negotiating && clients && self.conn.peer_is_lockstep();
            if let Some(peer) = vol.peer_uuids.filter(|_| !may_refuse || vol.exposed.uuid.is_zero()) {
                vol.exposed.shows_peer(peer.set.current);
            }
        }
        if self.conn.state == ConnState::WFReportParams
            && self.vols.iter().all(|o| o.state.conn != ConnState::WFReportParams)
        {
            self.discard_was_asked_for();
        }
        if must_answer(&own, conn, received) {
            self.send_uuids(v, UuidFlags::NONE, out);
            self.send_state(v, out);
        }
        self.md_sync(v, out);
    }

    /// A disk that joins without a comparison may only join clients who have seen nothing else.
    fn serves_what_clients_saw(&self, v: usize, own: &VolumeState, received: &VolumeState) -> bool {
        let vol = &self.vols[v];
        let clients = own.role == Role::Primary || received.role == Role::Primary;
        !clients || vol.exposed.is(vol.uuids().current)
    }

    /// Compares the data generations and takes the decision of drbd-wire 8.7.
    fn handshake_decision(
        &mut self,
        v: usize,
        own: &VolumeState,
        received: &VolumeState,
        peer_disk: DiskState,
        out: &mut Actions,
    ) -> Decision {
        let net = self.conn.net.as_ref().expect("connected");
        let vol = &self.vols[v];
        let peer = vol.peer_uuids.expect("a decision needs the peer's generations");
        let input = decide::Input {
            uuids: uuid_rules::Input {
                own: to_set(&vol.uuids()),
                peer: to_set(&peer.set),
                own_crashed: vol.crashed_primary,
                peer_crashed: peer.flags & UuidFlags::CRASHED_PRIMARY.0 != 0,
                own_empty: vol.sent_word.contains(UuidFlags::EMPTY),
                peer_empty: peer.flags & UuidFlags::EMPTY.0 != 0,
                own_taken_back: vol.sent_word.contains(UuidFlags::TAKEN_BACK),
                peer_taken_back: peer.flags & UuidFlags::TAKEN_BACK.0 != 0,
                role: own.role,
                peer_role: received.role,
                conflict_flag: self.conn.conflict_flag,
                write_same_agreed: self.conn.features.contains(Features::WSAME),
                agreed_version: self.conn.agreed_version,
            },
            peer_flags: peer.flags,
            own_changes: vol.sent_dirty_bits,
            peer_changes: peer.dirty_bits,
            dirty_bits: vol.bitmap.count(),
            disk: own.disk,
            attach_disk: vol.attach_states.0,
            peer_disk,
            policies: Policies {
                none_primary: net.after_sb_0pri,
                one_primary: net.after_sb_1pri,
                both_primary: net.after_sb_2pri,
            },
            always_asbp: net.always_asbp,
            rr_conflict: net.rr_conflict,
            discard_my_data: self.conn.discard_my_data,
            dry_run: net.tentative || self.conn.peer_tentative,
            can_demote: self.could_step_down(v, own),
            target_began: vol.disk.as_ref().is_some_and(|d| d.sb.flags.has(MetaFlags::TARGET_BEGAN)),
            brings_leftovers: own.conn < ConnState::Connected && self.conn.peer_is_lockstep(),
        };
        let outcome = decide::decide(&input);
        let vol = &mut self.vols[v];
        if let Some(p) = vol.peer_uuids.as_mut() {
            p.set = from_set(&outcome.comparison.peer);
        }
        let own_set = from_set(&outcome.comparison.own);
        let sync_uuid_lost = outcome.comparison.peer_has_not_begun();
        // Relative to what was in the bitmap slot before, the bitmap is right only if no target has begun since.
        let stays = sync_uuid_lost && input.target_began;
        if let Some(disk) = vol.disk.as_mut()
            && disk.sb.uuids != own_set
            && !stays
        {
            vol.uncorrected_uuids = (own.conn >= ConnState::Connected).then_some(disk.sb.uuids);
            disk.sb.uuids = own_set;
            if sync_uuid_lost {
                // What is there again may be the sync UUID of the run before, which the peer has stored.
                disk.sb.flags = disk.sb.flags.with(MetaFlags::TARGET_BEGAN);
            }
            disk.md.mark_dirty();
        }
        let mut decision = match outcome.decision {
            Decision::Source { full } if planted::on(Planted::SyncDirectionSwapped) => {
                Decision::Target { full }
            }
            Decision::Target { full } if planted::on(Planted::SyncDirectionSwapped) => {
                Decision::Source { full }
            }
            other => other,
        };
        let own_copy = if own.disk == DiskState::Negotiating { input.attach_disk } else { own.disk };
        let both_good = own_copy > DiskState::Inconsistent && peer_disk > DiskState::Inconsistent;
        let grown = core::mem::take(&mut self.vols[v].grown_before_handshake);
        if decision == Decision::Connected && grown && both_good {
            decision = self.bring_new_part(v, own, received, out);
        }
        for step in outcome.steps {
            match step {
                Step::Log(level, text) => {
                    let level = match level {
                        Level::Alert => LogLevel::Alert,
                        Level::Err => LogLevel::Error,
                        Level::Warn => LogLevel::Warn,
                        Level::Info => LogLevel::Info,
                    };
                    out.log(level, Some(VolIdx(v as u8)), text);
                }
                Step::Handler(handler) => {
                    self.call_handler(handler, Some(v), out);
                }
                Step::Demote => {
                    let change = StateChange::NONE.role(Role::Secondary);
                    if self.change_volume(v, change, Kind::Soft, out).is_err() {
                        decision = Decision::Refuse(decide::Refusal::SplitBrain);
                    } else if let Some(disk) = self.vols[v].disk.as_mut() {
                        disk.sb.uuids.set_primary(false);
                        disk.md.mark_dirty();
                    }
                }
            }
        }
        decision
    }

    /// Not in the middle of connecting, as everywhere in DRBD: then the handler `pri-lost-after-sb` is called instead.
    fn could_step_down(&self, v: usize, own: &VolumeState) -> bool {
        let change = StateChange::NONE.role(Role::Secondary);
        let is_unused = self.open_volumes & (1 << v) == 0;
        own.role == Role::Primary && is_unused && evaluate(own, change, Kind::Soft, &self.context(v)).is_ok()
    }

    /// The copies are of the same generation, but grew while they were apart: what the new part holds is one node's to
    /// say (drbd-wire 3.6).
    fn bring_new_part(
        &mut self,
        v: usize,
        own: &VolumeState,
        received: &VolumeState,
        out: &mut Actions,
    ) -> Decision {
        let at = Some(VolIdx(v as u8));
        if !self.conn.peer_is_lockstep() {
            // It would stay Connected, whatever is decided here.
            let text =
                "The device has grown: its new part may differ on the peer until one copy is invalidated";
            out.log(LogLevel::Warn, at, text);
            return Decision::Connected;
        }
        out.log(LogLevel::Info, at, "Resync of the part by which the device has grown");
        if source_of_new_part(own.role, received.role, self.conn.conflict_flag) {
            self.go_ahead_of_peer(v, out);
            Decision::Source { full: false }
        } else {
            Decision::Target { full: false }
        }
    }

    /// Begins a generation that the peer is told of. From here on writes may go to this copy alone, though both were of one
    /// generation: should the connection end before the resync begins, this copy has to count for the newer one.
    pub(crate) fn go_ahead_of_peer(&mut self, v: usize, out: &mut Actions) {
        self.new_current_uuid(v, out);
        self.send_uuids(v, UuidFlags::NONE, out);
    }

    /// Starts a new data generation and holds back completions until it is stable: a write that is acknowledged
    /// after the peer was lost must not disappear into the generation that the peer also has.
    pub(crate) fn new_current_uuid(&mut self, v: usize, out: &mut Actions) {
        let random = DataUuid(self.rng.uuid());
        let primary = self.vols[v].state.role == Role::Primary;
        let vol = &mut self.vols[v];
        let Some(disk) = vol.disk.as_mut() else { return };
        if planted::on(Planted::NoNewGeneration) {
            return;
        }
        vol.generation_due = false;
        vol.wrote_ahead = false;
        disk.sb.uuids.new_current(random, primary);
        disk.md.mark_dirty();
        disk.md.sb_of_generation = disk.md.sb_latest;
        vol.exposed.begins_own(disk.sb.uuids.current);
        let line = format_args!("new current UUID {}", crate::meta_io::uuid_line(&disk.sb.uuids));
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), line);
        self.hold_completions_until_stable(v, out);
    }
}

/// A Primary without a disk says that the copy here is what its clients have seen last.
fn primary_vouches(received: &VolumeState) -> bool {
    received.role == Role::Primary
        && received.conn >= ConnState::Connected
        && received.disk < DiskState::Inconsistent
        && received.pdsk == DiskState::UpToDate
}

/// This node's new part counts: a Primary's, or that of the node with the conflict flag (drbd-wire 3.6).
pub(crate) fn source_of_new_part(own: Role, peer: Role, conflict_flag: bool) -> bool {
    if own == peer { conflict_flag } else { own == Role::Primary }
}

fn refusal_text(r: decide::Refusal) -> &'static str {
    match r {
        decide::Refusal::Unrelated => "Unrelated data, aborting!",
        decide::Refusal::NeedsNewer => "the data generations need a newer protocol on both nodes",
        decide::Refusal::SplitBrain => "Split-Brain detected but unresolved, dropping connection!",
        decide::Refusal::SourceInconsistent => "I shall become SyncSource, but I am inconsistent!",
        decide::Refusal::TargetIsPrimary => "I shall become SyncTarget, but I am primary!",
        decide::Refusal::DryRun => "dry run: the connection was only tried",
    }
}
