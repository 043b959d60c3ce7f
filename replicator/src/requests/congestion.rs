//! A link that cannot keep up with the writes of protocol A (drbd-wire 10.1, drbd-states 14.5). A write that finds more on
//! its way than the configuration allows ends the replication for a while: this node goes Ahead, and writes are only
//! marked; or it disconnects. When all that was sent is acknowledged, a resync brings what is marked.
//!
//! Going Ahead is like losing the peer: what is answered from then on only this copy has, so it begins a generation.

use model::config::settings::OnCongestion;
use model::policy::Protocol;
use model::state::{ConnState, DiskState, VolumeState};
use model::state_word::StateChange;
use model::time::{Duration, Instant};
use model::units::{SECTORS_PER_BIT, SectorRange};

use super::write::replicates;
use crate::action::{Actions, LogLevel};
use crate::connection::Fence;
use crate::event::VolIdx;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::state::Kind;
use crate::timers::Timer;
use crate::wire::{Command, UuidFlags};

/// How long the link has to be clear before the replication begins anew.
const CLEAR: Duration = Duration::from_secs(1);
/// Time between two looks of a node that is Ahead.
const LOOK: Duration = Duration::from_millis(100);
/// Blocks that one P_OUT_OF_SYNC names at most.
const BITS_PER_NOTICE: u64 = 1 << 15;

/// What a node that is Ahead waits for.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Ahead {
    /// Nothing is on the way since then.
    pub clear_since: Option<Instant>,
    /// The peer has said that it is Behind, and everything it had to say of the resync before; lockstep nodes do.
    pub peer_is_behind: bool,
    /// This node was the source of a resync, of which it has not heard the end.
    pub end_unknown: bool,
}

impl Resource {
    /// A write is about to be sent: goes Ahead, or ends the connection, if the link is congested.
    pub(crate) fn relieve_congestion(&mut self, v: usize, out: &mut Actions) {
        let Some(policy) = self.conn.net.as_ref().map(|n| n.on_congestion) else { return };
        if policy == OnCongestion::Block || !self.may_relieve(v) {
            return;
        }
        let Some(threshold) = self.threshold_reached(v) else { return };
        if policy == OnCongestion::Disconnect && self.gives_way {
            return;
        }
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), format_args!("{threshold} threshold reached"));
        if policy == OnCongestion::Disconnect {
            // Not from inside a write: it would end requests that are being walked over.
            self.gives_way = true;
            return;
        }
        let _ = self.change_volume(v, StateChange::NONE.conn(ConnState::Ahead), Kind::Soft, out);
    }

    /// The write would be mirrored, and nothing is under way that both nodes have to go through together.
    fn may_relieve(&self, v: usize) -> bool {
        let vol = &self.vols[v];
        let s = &vol.state;
        self.net().protocol == Protocol::A
            && self.conn.is_established()
            && s.disk == DiskState::UpToDate
            && replicates(s)
            && !vol.resync.sync_uuid_due
            && !self.conn.handshake_in_progress
            && self.vols.iter().all(|v| v.resizing.is_none())
            && !self.peer_was_asked()
    }

    fn threshold_reached(&self, v: usize) -> Option<&'static str> {
        let (net, vol) = (self.net(), &self.vols[v]);
        let extents = vol.disk.as_ref().map_or(0, |d| d.al.referenced_extents());
        if net.congestion_fill_sectors > 0 && vol.mirrored_sectors >= net.congestion_fill_sectors {
            Some("Congestion-fill")
        } else if extents >= net.congestion_extents as usize {
            Some("Congestion-extents")
        } else {
            None
        }
    }

    /// The connection ends because of the congestion, if a write of this batch has asked for it.
    pub(crate) fn give_way_to_congestion(&mut self, out: &mut Actions) {
        if core::mem::take(&mut self.gives_way) && self.conn.is_established() {
            self.end_in_standalone("congestion of the link: disconnected by on-congestion", out);
        }
    }

    /// Ahead was entered, and the peer was told.
    pub(crate) fn gone_ahead(&mut self, v: usize, old: &VolumeState, out: &mut Actions) {
        let was_source = matches!(old.conn, ConnState::SyncSource | ConnState::PausedSyncS);
        let uuids = self.vols[v].uuids();
        let end_unknown = was_source && uuids.end_of_sync_unknown();
        let common = uuids.bitmap.is_zero() || end_unknown;
        if common && !planted::on(Planted::AheadInCommonGeneration) {
            self.go_ahead_of_peer(v, out);
        }
        self.vols[v].ahead = Ahead { end_unknown, ..Ahead::default() };
        self.refuse_resync_requests(v, out);
        self.vols[v].resync.peer_done = false;
        self.cancel_resync(v, out);
        self.send_closed_barrier(out);
        if !was_source {
            self.announce_marks(v, out);
        }
        let at = self.now + LOOK;
        self.timers.set_if_idle(Timer::Ahead, at);
    }

    /// No bitmaps are exchanged when this node returns: what is marked already the peer has to hear of.
    fn announce_marks(&mut self, v: usize, out: &mut Actions) {
        let mut from = 0;
        while let Some(first) = self.vols[v].bitmap.next_set(from) {
            let vol = &self.vols[v];
            let run_end = vol.bitmap.next_clear(first).unwrap_or(vol.bitmap.bits());
            let end = run_end.min(first + BITS_PER_NOTICE);
            let sectors = (end * SECTORS_PER_BIT).min(vol.size_sectors);
            let range = SectorRange { start: first * SECTORS_PER_BIT, end: sectors };
            self.send_out_of_sync(v, range, out);
            from = end;
        }
    }

    /// The peer has not sent its requests to a node that is Ahead; it hears that they are not served.
    fn refuse_resync_requests(&mut self, v: usize, out: &mut Actions) {
        let reads = self.vols[v].resync.reads.iter().filter(|(_, r)| !r.orphan);
        let list: alloc::vec::Vec<_> = reads.map(|(_, r)| (r.range, r.block_id)).collect();
        for (range, block_id) in list {
            let id = (range.start, (range.len_sectors() * 512) as u32, block_id);
            self.send_ack(Command::RsCancel, v, id, out);
        }
    }

    /// The target had written a block before it heard that this node is Ahead, and has forgotten that it differs. If it was
    /// written again since, it stays marked here, and the target has to mark it anew.
    pub(crate) fn resync_block_acked_ahead(
        &mut self,
        v: usize,
        range: SectorRange,
        as_it_is: bool,
        out: &mut Actions,
    ) {
        if as_it_is || planted::on(Planted::AckClearsWhileAhead) {
            self.vols[v].set_in_sync(range);
            return;
        }
        self.vols[v].set_out_of_sync(range);
        self.send_out_of_sync(v, range, out);
    }

    /// A state packet came while this node was Ahead.
    pub(crate) fn state_heard_ahead(&mut self, v: usize, received: &VolumeState, out: &mut Actions) {
        if self.vols[v].state.conn != ConnState::Ahead {
            return;
        }
        if received.conn == ConnState::Behind && self.conn.peer_is_lockstep() {
            self.ping_fence(Fence::Behind { vol: v as u8 }, out);
            return;
        }
        let finished = received.conn == ConnState::Connected && received.disk == DiskState::UpToDate;
        let ended = finished && core::mem::take(&mut self.vols[v].ahead.end_unknown);
        if ended && let Some(disk) = self.vols[v].disk.as_mut() {
            // It has the generation before this one then, and takes over what it hears of ours when it ends the next time.
            disk.sb.uuids.target_had_finished();
            disk.md.mark_dirty();
            self.send_uuids(v, UuidFlags::NONE, out);
        }
    }

    /// Looks whether volumes that are Ahead may return.
    pub(crate) fn ahead_timer(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            if self.vols[v].state.conn != ConnState::Ahead {
                continue;
            }
            let (now, clear) = (self.now, self.is_clear(v));
            let ahead = &mut self.vols[v].ahead;
            ahead.clear_since = ahead.clear_since.or(Some(now)).filter(|_| clear);
            let returns = ahead.clear_since.is_some_and(|since| now.saturating_since(since) >= CLEAR);
            // Its handler may take longer than from one look to the next.
            if returns && self.vols[v].resync.before.is_none() {
                self.start_as_source(v, out);
            }
        }
        if self.vols.iter().any(|v| v.state.conn == ConnState::Ahead) {
            self.timers.set(Timer::Ahead, self.now + LOOK);
        }
    }

    /// Nothing is on its way that the peer could still answer.
    fn is_clear(&self, v: usize) -> bool {
        let vol = &self.vols[v];
        let answered = if self.conn.peer_is_lockstep() {
            vol.ahead.peer_is_behind
        } else {
            vol.resync.unacked.is_empty()
        };
        vol.mirrored_sectors == 0 && answered || planted::on(Planted::AheadReturnsAtOnce)
    }
}
