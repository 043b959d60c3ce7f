//! A new size under way, by command or because the peer asks: the disk is measured, the size adopted, the peer told,
//! and what the new part holds is brought from one of the two (drbd-wire 3.6, drbd-states 15 `resize`).
//!
//! From the moment the disk is measured until the new size is on disk no packet of the data socket is looked at: a
//! write beyond the old end comes behind the announcement of the new one.

use alloc::format;

use model::result_code::ConfigError;
use model::state::{ConnState, DiskState, Role};
use model::state_word::StateChange;
use model::time::Duration;

use crate::action::{Action, Actions, LogLevel};
use crate::command::CommandResult;
use crate::connection::peer_state::source_of_new_part;
use crate::connection::sizes::wanted_size;
use crate::event::VolIdx;
use crate::meta::layout::Layout;
use crate::meta_io::Then;
use crate::resource::Resource;
use crate::state::Kind;
use crate::timers::Timer;
use crate::wire::{DdsFlags, Sizes, UuidFlags};

/// How long the end of a resync is waited for, which the peer has seen already.
const RESYNC_ENDS: Duration = Duration::from_secs(5);

/// What a disk can hold now, and where its metadata belongs then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MeasuredDisk {
    /// Usable data sectors (metadata already subtracted).
    pub capacity_sectors: u64,
    /// Where the metadata belongs.
    pub layout: Layout,
}

/// What `resize` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResizeWish {
    /// Limit from now on; 0: none.
    pub limit_sectors: u64,
    /// What the new part holds does not matter.
    pub assume_clean: bool,
    /// Grow although the peer cannot be asked.
    pub assume_peer_has_space: bool,
}

/// Who wants it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Command(ResizeWish),
    Peer(Sizes),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// For the end of a resync that the peer has seen already.
    Waiting,
    Measuring,
    /// The metadata is written; nothing new is admitted.
    Adopting,
}

/// A resize under way on one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Resizing {
    cause: Cause,
    stage: Stage,
    before_sectors: u64,
}

impl Resizing {
    /// Requests wait.
    pub(crate) fn is_adopting(&self) -> bool {
        self.stage == Stage::Adopting
    }
}

impl Resource {
    /// Begins a resize by command; why not, if it may not be. None: again after the next change.
    pub(crate) fn begin_resize(
        &mut self,
        v: usize,
        wish: ResizeWish,
        out: &mut Actions,
    ) -> Option<Result<(), ConfigError>> {
        let vol = &self.vols[v];
        let s = &vol.state;
        if self.conn.handshake_in_progress
            || vol.resizing.is_some()
            || vol.growth_announced
            || matches!(s.disk, DiskState::Attaching | DiskState::Negotiating)
            || self.whole_bitmap_write_runs(v)
        {
            return None;
        }
        if s.disk < DiskState::Inconsistent {
            return Some(Err(ConfigError::NoDisk));
        }
        if s.conn > ConnState::Connected {
            return Some(Err(ConfigError::ResizeResync));
        }
        if s.role == Role::Secondary && s.peer == Role::Secondary {
            return Some(Err(ConfigError::NoPrimary));
        }
        self.measure(v, Cause::Command(wish), out);
        Some(Ok(()))
    }

    /// The peer of an established connection announces that it resizes; true: the packet is dealt with later.
    pub(crate) fn peer_resizes(&mut self, v: usize, p: &Sizes, out: &mut Actions) -> bool {
        let vol = &self.vols[v];
        let s = &vol.state;
        let usable = |d: DiskState| d >= DiskState::Inconsistent && d != DiskState::DUnknown;
        let asks = p.c_size_sectors == 0 && p.d_size_sectors != 0;
        if !asks || s.conn < ConnState::Connected || !usable(s.disk) || !usable(s.pdsk) {
            return false;
        }
        if s.conn > ConnState::Connected {
            let waiting =
                Resizing { cause: Cause::Peer(*p), stage: Stage::Waiting, before_sectors: vol.size_sectors };
            self.vols[v].resizing = Some(waiting);
            self.timers.set_if_idle(Timer::Resize, self.now + RESYNC_ENDS);
        } else {
            self.measure(v, Cause::Peer(*p), out);
        }
        true
    }

    /// A state has changed: the end of the resync may have come.
    pub(crate) fn drive_resizes(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            let Some(r) = self.vols[v].resizing.filter(|r| r.stage == Stage::Waiting) else { continue };
            match self.vols[v].state.conn {
                ConnState::Connected => self.measure(v, r.cause, out),
                conn if conn < ConnState::Connected => self.vols[v].resizing = None,
                _ => {}
            }
        }
    }

    /// The resync goes on: the sizes are agreed on in a new handshake.
    pub(crate) fn resize_timer(&mut self, out: &mut Actions) {
        if self.vols.iter().any(|o| o.resizing.is_some_and(|r| r.stage == Stage::Waiting)) {
            let text = "The peer resizes in the middle of a resync; connecting anew";
            self.log_conn(LogLevel::Warn, text, out);
            self.lose_connection(ConnState::NetworkFailure, out);
        }
    }

    fn measure(&mut self, v: usize, cause: Cause, out: &mut Actions) {
        let vol = &mut self.vols[v];
        vol.resizing = Some(Resizing { cause, stage: Stage::Measuring, before_sectors: vol.size_sectors });
        let attach = vol.disk.as_ref().expect("a usable disk is present").epoch;
        out.push(Action::MeasureDisk { vol: VolIdx(v as u8), attach });
    }

    /// `Event::DiskMeasured`; None: it could not be looked at.
    pub(crate) fn disk_measured(
        &mut self,
        vol: VolIdx,
        attach: u32,
        found: Option<&MeasuredDisk>,
        out: &mut Actions,
    ) {
        let v = vol.0 as usize;
        let current = self.vols.get(v).and_then(|o| o.disk.as_ref()).filter(|d| d.epoch == attach);
        let resizing = self.vols.get(v).and_then(|o| o.resizing).filter(|r| r.stage == Stage::Measuring);
        let (Some(disk), Some(r)) = (current, resizing) else {
            self.stale_events += 1;
            return;
        };
        let unchanged = MeasuredDisk { capacity_sectors: disk.capacity_sectors, layout: disk.layout };
        let mut found = found.copied().unwrap_or(unchanged);
        if found.capacity_sectors < self.vols[v].size_sectors {
            let (has, needs) = (found.capacity_sectors, self.vols[v].size_sectors);
            let text = format!("The backing device has shrunk: {has} < {needs} sectors");
            out.log(LogLevel::Error, Some(vol), text);
            if matches!(r.cause, Cause::Command(_)) {
                self.end_resize(v, CommandResult::Config(ConfigError::ImplicitShrink));
                return;
            }
            found = unchanged;
        }
        match r.cause {
            Cause::Command(wish) => self.adopt_by_command(v, wish, &found, out),
            Cause::Peer(p) => {
                let disk = self.vols[v].disk.as_mut().expect("checked above");
                disk.cfg.size_sectors = p.u_size_sectors;
                let (m, la) = (found.capacity_sectors, disk.sb.la_size_sectors);
                self.vols[v].peer_capacity_sectors = p.d_size_sectors;
                let size = wanted_size(m, p.d_size_sectors, la, p.u_size_sectors);
                self.adopt(v, size, &found, p.dds_flags, out);
            }
        }
    }

    fn adopt_by_command(&mut self, v: usize, wish: ResizeWish, found: &MeasuredDisk, out: &mut Actions) {
        let at = Some(VolIdx(v as u8));
        let flags = dds_flags(wish);
        let vol = &mut self.vols[v];
        let s = vol.state;
        let disk = vol.disk.as_mut().expect("it was measured");
        let alone = s.conn < ConnState::Connected;
        let peer = if alone && wish.assume_peer_has_space {
            found.capacity_sectors
        } else {
            vol.peer_capacity_sectors
        };
        let limit = wish.limit_sectors;
        let size = wanted_size(found.capacity_sectors, peer, disk.sb.la_size_sectors, limit);
        if limit > size {
            let text = format!("Requested disk size is too big ({limit} > {size})");
            out.log(LogLevel::Error, at, text);
        }
        if size < vol.size_sectors && size != limit {
            self.end_resize(v, CommandResult::Config(ConfigError::ImplicitShrink));
            return;
        }
        disk.cfg.size_sectors = limit;
        if size < vol.size_sectors && !alone && s.peer == Role::Primary {
            // What the peer's clients still write beyond the new end has to have a place: the peer goes first.
            self.end_resize(v, CommandResult::Ok);
            self.announce_resize(v, flags, out);
            return;
        }
        self.adopt(v, size, found, flags, out);
    }

    fn adopt(
        &mut self,
        v: usize,
        size_sectors: u64,
        found: &MeasuredDisk,
        flags: DdsFlags,
        out: &mut Actions,
    ) {
        let assume_clean = flags.contains(DdsFlags::NO_RESYNC);
        let vol = &mut self.vols[v];
        vol.resizing.as_mut().expect("the caller looked").stage = Stage::Adopting;
        let disk = vol.disk.as_mut().expect("it was measured");
        if found.layout != disk.layout {
            self.begin_move(v, size_sectors, found, assume_clean, out);
            return;
        }
        disk.capacity_sectors = found.capacity_sectors;
        if size_sectors != vol.size_sectors {
            self.set_size(v, size_sectors, assume_clean, out);
        }
        self.when_super_block_stable(v, Then::Resized, out);
    }

    /// The new size is on disk: the peer is told, requests go on.
    pub(crate) fn resized(&mut self, v: usize, out: &mut Actions) {
        let Some(r) = self.vols[v].resizing.take() else { return };
        let vol = &mut self.vols[v];
        vol.pump = true;
        self.peer_pump = true;
        let grew = vol.size_sectors > r.before_sectors;
        let connected = vol.state.conn >= ConnState::Connected;
        if grew && matches!(vol.state.conn, ConnState::VerifyS | ConnState::VerifyT) {
            // Of two questions that crossed both were answered with yes.
            let text = "The device has grown in the middle of a verify; connecting anew";
            out.log(LogLevel::Warn, Some(VolIdx(v as u8)), text);
            if matches!(r.cause, Cause::Command(_)) {
                self.end_resize(v, CommandResult::Ok);
            }
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        }
        match r.cause {
            Cause::Command(wish) => {
                self.end_resize(v, CommandResult::Ok);
                if connected {
                    let flags = dds_flags(wish);
                    self.vols[v].growth_announced |= grew;
                    self.announce_resize(v, flags, out);
                }
            }
            Cause::Peer(p) => {
                self.something_changed = true;
                if connected {
                    let size = self.vols[v].size_sectors;
                    let source = self.brings_new_part(v, grew, p.dds_flags, out);
                    let mut flags = p.dds_flags.asked_for();
                    if source.is_some() && self.conn.peer_is_lockstep() {
                        flags = flags.with(DdsFlags::BEGINS);
                        if source == Some(true) {
                            flags = flags.with(DdsFlags::SOURCE);
                        }
                    }
                    self.send_sizes(v, flags, size, out);
                    if let Some(source) = source {
                        self.begin_new_part(v, source, out);
                    }
                }
            }
        }
    }

    fn announce_resize(&mut self, v: usize, flags: DdsFlags, out: &mut Actions) {
        self.send_uuids(v, UuidFlags::NONE, out);
        self.send_sizes(v, flags, 0, out);
    }

    /// The command of this resize, if it has one, is answered.
    pub(crate) fn end_resize(&mut self, v: usize, result: CommandResult) {
        self.vols[v].resizing = None;
        self.vols[v].resize_result = Some(result);
        self.something_changed = true;
    }

    /// The disk went in the middle of it.
    pub(crate) fn resize_lost_disk(&mut self, v: usize) {
        self.vols[v].growth_announced = false;
        if let Some(r) = self.vols[v].resizing.take()
            && matches!(r.cause, Cause::Command(_))
        {
            self.end_resize(v, CommandResult::Config(ConfigError::NoDisk));
        }
    }

    /// The peer has followed, or grew itself. One of us says who brings the new part, and the other one believes it:
    /// the role of either may have changed meanwhile.
    pub(crate) fn peer_has_answered(&mut self, v: usize, grew: bool, flags: DdsFlags, out: &mut Actions) {
        if !self.conn.peer_is_lockstep() {
            if let Some(source) = self.brings_new_part(v, grew, flags, out) {
                self.begin_new_part(v, source, out);
            }
            return;
        }
        self.vols[v].growth_announced = false;
        if !flags.contains(DdsFlags::BEGINS) {
            return;
        }
        let s = self.vols[v].state;
        if s.conn == ConnState::Connected && s.disk == DiskState::UpToDate && s.pdsk == DiskState::UpToDate {
            let text = "Resync of new storage after online grow";
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
            self.begin_new_part(v, !flags.contains(DdsFlags::SOURCE), out);
        } else {
            let text = "The peer's resync of new storage crosses another one; connecting anew";
            self.log_conn(LogLevel::Warn, text, out);
            self.lose_connection(ConnState::NetworkFailure, out);
        }
    }

    /// Whether the new part is brought from one node to the other, and from this one (drbd-wire 3.6).
    fn brings_new_part(&mut self, v: usize, grew: bool, flags: DdsFlags, out: &mut Actions) -> Option<bool> {
        let at = Some(VolIdx(v as u8));
        let announced = core::mem::take(&mut self.vols[v].growth_announced);
        let bits_of_peer = self.vols[v].peer_uuids.is_some_and(|p| p.dirty_bits > 0);
        let s = self.vols[v].state;
        let good = s.disk == DiskState::UpToDate && s.pdsk == DiskState::UpToDate;
        let lockstep = self.conn.peer_is_lockstep();
        if !(grew || announced || lockstep && bits_of_peer) || s.conn != ConnState::Connected || !good {
            // A handshake that is due in any case finds the bits.
            return None;
        }
        if flags.contains(DdsFlags::NO_RESYNC) {
            out.log(LogLevel::Info, at, "Resync of new storage suppressed with --assume-clean");
            return None;
        }
        out.log(LogLevel::Info, at, "Resync of new storage after online grow");
        Some(source_of_new_part(s.role, s.peer, self.conn.conflict_flag))
    }

    fn begin_new_part(&mut self, v: usize, source: bool, out: &mut Actions) {
        if source && self.conn.peer_is_lockstep() {
            self.go_ahead_of_peer(v, out);
        }
        // Between two of us the bitmaps are exchanged: whatever else is marked on one side alone goes with it.
        let conn = match (source, self.conn.peer_is_lockstep()) {
            (true, true) => ConnState::WFBitMapS,
            (false, true) => ConnState::WFBitMapT,
            (true, false) => ConnState::SyncSource,
            (false, false) => ConnState::WFSyncUUID,
        };
        let _ = self.change_volume(v, StateChange::NONE.conn(conn), Kind::Hard, out);
    }
}

fn dds_flags(wish: ResizeWish) -> DdsFlags {
    let mut flags = 0;
    if wish.assume_peer_has_space {
        flags |= DdsFlags::FORCED.0;
    }
    if wish.assume_clean {
        flags |= DdsFlags::NO_RESYNC.0;
    }
    DdsFlags(flags)
}
