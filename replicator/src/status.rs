//! A copy of everything people may want to see.

use alloc::string::String;

use model::state::{ConnState, DiskState, Role, VolumeState};
use model::status::snapshot::{
    Counters, Direction, MetaFlags, Progress, ProgressKind, RateLimit, ResourceSnapshot, VolumeSnapshot,
};
use model::time::Instant;
use model::units::SectorRange;

use crate::event::{SockId, VolIdx};
use crate::meta::superblock::MetaFlags as Flags;
use crate::requests::flag;
use crate::resource::Resource;
use crate::resync::progress::Progress as Marks;
use crate::resync::rate::{LimitedBy, RateController};
use crate::volume::Volume;

/// Whether clients may open a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportState {
    /// Clients may read and write.
    pub primary: bool,
    /// Size in sectors; 0 while unknown.
    pub size_sectors: u64,
    /// Why not, for the client; empty if they may.
    pub reason: String,
}

impl Resource {
    /// Whether clients may open a volume now, and how large it is.
    pub fn export_state(&self, vol: VolIdx) -> ExportState {
        let v = &self.vols[vol.0 as usize];
        let primary = v.state.role == Role::Primary;
        let name = &self.cfg.name;
        let reason = if !primary {
            alloc::format!("resource {name} is Secondary on this node (run 'lockstep primary {name}' first)")
        } else if v.size_sectors == 0 {
            alloc::format!("resource {name}: the size of volume {} is not known yet", v.vnr)
        } else {
            String::new()
        };
        ExportState { primary: primary && v.size_sectors > 0, size_sectors: v.size_sectors, reason }
    }

    /// State of a volume.
    pub fn volume_state(&self, vol: VolIdx) -> VolumeState {
        self.vols[vol.0 as usize].state
    }

    /// Size of a volume; 0 while it is not known.
    pub fn size_sectors(&self, vol: VolIdx) -> u64 {
        self.vols[vol.0 as usize].size_sectors
    }

    /// Number of blocks marked as different on the peer.
    pub fn marked_blocks(&self, vol: VolIdx) -> u64 {
        self.vols[vol.0 as usize].bitmap.count()
    }

    /// The block of a sector is marked as different on the peer.
    pub fn is_marked(&self, vol: VolIdx, sector: u64) -> bool {
        let (bit, _) = SectorRange::new(sector, 512).bits_touched();
        self.vols[vol.0 as usize].bitmap.test(bit)
    }

    /// A crash now would not forget that the block of a sector may differ: it is marked, or in a hot extent.
    pub fn is_covered(&self, vol: VolIdx, sector: u64) -> bool {
        let (extent, _) = SectorRange::new(sector, 512).al_extents();
        let disk = self.vols[vol.0 as usize].disk.as_ref();
        // Without an activity log a crashed Primary takes every block as different.
        let hot = disk.is_some_and(|d| !d.cfg.al_updates || d.al.is_active(extent, extent));
        hot || self.is_marked(vol, sector)
    }

    /// This node accepted the meta socket of the connection (drbd-wire 1.3).
    pub fn conflict_flag(&self) -> bool {
        self.conn.conflict_flag
    }

    /// The data and the meta socket of an established connection.
    pub fn sockets(&self) -> Option<(SockId, SockId)> {
        if self.conn.is_established() { self.conn.data.zip(self.conn.meta) } else { None }
    }

    /// How many connections there have been: one that came and went between two looks shows here.
    pub fn connections(&self) -> u32 {
        self.conn.generation
    }

    /// Everything people may want to see, as of `now`.
    pub fn snapshot(&self, now: Instant) -> ResourceSnapshot {
        let s0 = &self.vols[0].state;
        let mut r = ResourceSnapshot::new(&self.cfg.name);
        r.role = s0.role;
        r.protocol = self.conn.net.as_ref().and_then(|n| n.protocol.name().chars().next());
        r.suspended_user = s0.susp;
        r.suspended_no_data = s0.susp_nod;
        r.suspended_fencing = s0.susp_fen;
        r.peer_word_at_ns = self.peer_word_at().map(Instant::as_nanos);
        r.suspended_lease = self.is_without_authority();
        r.connections = self.connections();
        let flushes = self.vols.iter().all(|v| v.disk.as_ref().is_none_or(|d| d.cfg.disk_flushes));
        r.write_ordering = if flushes { 'f' } else { 'd' };
        r.connection = self.conn.state;
        r.peer_role = s0.peer;
        r.standalone_reason = self.conn.standalone_reason.clone();
        r.volumes = (0..self.vols.len()).map(|v| self.volume_snapshot(v, now)).collect();
        r
    }

    fn volume_snapshot(&self, v: usize, now: Instant) -> VolumeSnapshot {
        let vol = &self.vols[v];
        let mut s = VolumeSnapshot::new(vol.vnr.0, vol.minor.0);
        s.state = vol.state;
        s.size_sectors = vol.size_sectors;
        s.al_suspended = vol.al_suspended;
        s.counters = self.counters(v);
        let u = vol.uuids();
        s.uuids = [u.current.0, u.bitmap.0, u.history[0].0, u.history[1].0];
        if let Some(d) = &vol.disk {
            let f = d.sb.flags;
            s.meta_flags = MetaFlags {
                consistent: f.has(Flags::CONSISTENT),
                was_up_to_date: f.has(Flags::WAS_UP_TO_DATE),
                primary: f.has(Flags::PRIMARY_IND),
                connected: f.has(Flags::CONNECTED_IND),
                full_sync: f.has(Flags::FULL_SYNC),
                peer_outdated: f.has(Flags::PEER_OUT_DATED),
                crashed_primary: f.has(Flags::CRASHED_PRIMARY),
            };
        }
        s.progress = self.progress(v, now);
        s.last_error = vol.last_error.clone();
        s.disk_error = vol.last_error.clone().filter(|_| vol.state.disk == DiskState::Diskless);
        s.open_count = u32::from(self.open_volumes & (1 << v) != 0);
        s
    }

    fn counters(&self, v: usize) -> Counters {
        let vol = &self.vols[v];
        let mine = self.reqs.table.iter().filter(|(_, r)| r.vol as usize == v);
        let (mut app, mut pending) = (0, 0);
        for (_, r) in mine {
            app += u64::from(!r.has(flag::COMPLETED));
            pending += u64::from(r.has(flag::NET_PENDING));
        }
        let kib = |sectors: u64| sectors / 2;
        let c = &vol.counters;
        Counters {
            sent_kib: kib(c.sent_sectors),
            received_kib: kib(c.received_sectors),
            disk_written_kib: kib(c.written_sectors),
            disk_read_kib: kib(c.read_sectors),
            al_writes: c.al_writes,
            bm_writes: c.bm_writes,
            local_pending: vol.disk.as_ref().map_or(0, |d| u64::from(d.io_pending)),
            pending: pending
                + vol.resync.requests.iter().filter(|(_, r)| !r.writing).count() as u64
                + vol.verify.unanswered(),
            unacked: self.peer.writes.iter().filter(|(_, w)| w.vol as usize == v).count() as u64
                + vol.resync.reads.len() as u64
                + vol.verify.reads.len() as u64,
            app_pending: app,
            epochs: (self.peer.epochs.len() as u64).max(1),
            out_of_sync_kib: vol.bitmap.count() * 4,
        }
    }

    fn progress(&self, v: usize, now: Instant) -> Option<Progress> {
        let vol = &self.vols[v];
        if vol.verify.active {
            return self.verify_status(v, now);
        }
        let run = &vol.resync;
        if !vol.state.conn.is_resync() || !run.active {
            return None;
        }
        let marks = run.marks.as_ref()?;
        let source = matches!(vol.state.conn, ConnState::SyncSource | ConnState::PausedSyncS);
        let controller = run.controller.as_ref().filter(|_| !source);
        let direction = if source { Direction::ToPeer } else { Direction::FromPeer };
        let blocks = [run.total_bits, vol.bitmap.count(), run.failed_bits];
        Some(paced(vol, (ProgressKind::Resync, direction), blocks, (marks, controller), now))
    }

    /// The same of a verify; none on the other side before its first block.
    fn verify_status(&self, v: usize, now: Instant) -> Option<Progress> {
        let vol = &self.vols[v];
        let run = &vol.verify;
        let mut marks = run.marks?;
        marks.advance(now, run.left_blocks);
        let controller = run.controller.as_ref().filter(|_| run.is_requester());
        let direction = if run.is_requester() { Direction::ToPeer } else { Direction::FromPeer };
        let blocks = [run.total_blocks, run.left_blocks, run.refused_blocks];
        Some(paced(vol, (ProgressKind::Verify, direction), blocks, (&marks, controller), now))
    }
}

/// Progress of a run over a volume: its blocks (all, left, failed), and how fast it is and is meant to be.
fn paced(
    vol: &Volume,
    (kind, direction): (ProgressKind, Direction),
    [total_blocks, left_blocks, failed_blocks]: [u64; 3],
    (marks, controller): (&Marks, Option<&RateController>),
    now: Instant,
) -> Progress {
    let (running, paused) = marks.running_and_paused(now);
    let fill = vol.disk.as_ref().is_some_and(|d| d.cfg.c_fill_target_sectors > 0);
    Progress {
        direction,
        kind,
        total_blocks,
        left_blocks,
        failed_blocks,
        elapsed_ms: running.as_millis() as u64,
        paused_ms: paused.as_millis() as u64,
        rate_now_kib_s: marks.current_kib_per_s(now),
        rate_mean_kib_s: marks.mean_kib_per_s(now),
        wanted_kib_s: controller.map(|c| c.wanted_kib_per_s()),
        limited_by: controller.map(|c| limit(c.limited_by(), fill)),
        eta_s: marks.seconds_left(now),
        stalled: marks.is_stalled(now),
    }
}

/// What held back the controller; `fill`: it aims at a fill target.
fn limit(by: LimitedBy, fill: bool) -> RateLimit {
    match by {
        LimitedBy::Controller if fill => RateLimit::FillTarget,
        LimitedBy::Controller => RateLimit::DelayTarget,
        LimitedBy::FixedRate => RateLimit::ResyncRate,
        LimitedBy::MaxRate => RateLimit::MaxRate,
        LimitedBy::MaxBuffers => RateLimit::MaxBuffers,
        LimitedBy::Throttled => RateLimit::MinRate,
    }
}
