//! Life of the local disk: attach, errors, detach (drbd-metadata 8, drbd-states 10, 14.2).

use alloc::boxed::Box;
use alloc::format;

use model::config::settings::Handler;
use model::ids::DataUuid;
use model::policy::{Fencing, OnIoError};
use model::result_code::ConfigError;
use model::state::{ConnState, DiskState, Role};
use model::state_word::StateChange;
use model::time::{Duration, Instant};
use model::units::bits_of;

use crate::action::{Actions, LogLevel};
use crate::activity_log::extents::ActivityLog;
use crate::bitmap::Bitmap;
use crate::command::CommandResult;
use crate::connection::sizes::{human_size, wanted_size};
use crate::event::VolIdx;
use crate::meta::superblock::MetaFlags;
use crate::meta_io::{MetaIo, Then};
use crate::planted::{self, Planted};
use crate::requests::flag;
use crate::resource::Resource;
use crate::state::{Kind, is_source};
use crate::timers::Timer;
use crate::volume::{AttachedDisk, LocalDisk};

/// What failed on the local disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailedIo {
    Read,
    Write,
    Flush,
}

impl FailedIo {
    fn name(self) -> &'static str {
        match self {
            FailedIo::Read => "read",
            FailedIo::Write => "write",
            FailedIo::Flush => "flush",
        }
    }
}

impl Resource {
    /// Attaches a disk. Ok: the super block write that finishes it is under way; the command is answered then.
    pub(crate) fn attach(
        &mut self,
        v: usize,
        disk: Box<AttachedDisk>,
        out: &mut Actions,
    ) -> Result<(), CommandResult> {
        let refuse = |e| Err(CommandResult::Config(e));
        let d = *disk;
        let vol = &self.vols[v];
        let s = vol.state;
        let uuid_must_match = s.role == Role::Primary || s.peer == Role::Primary;
        let other_data =
            uuid_must_match && s.pdsk != DiskState::UpToDate && !vol.exposed.is(d.super_block.uuids.current);
        if other_data {
            return refuse(ConfigError::DataNotCurrent);
        }
        if d.capacity_sectors < d.config.size_sectors || d.capacity_sectors == 0 {
            return refuse(ConfigError::DiskTooSmall);
        }
        let la = d.super_block.la_size_sectors;
        let flags = d.super_block.flags;
        let size = wanted_size(d.capacity_sectors, vol.peer_capacity_sectors, la, d.config.size_sectors);
        let configured = d.config.size_sectors != 0 && size == d.config.size_sectors;
        if flags.has(MetaFlags::CONSISTENT) && size < la && !configured {
            return refuse(ConfigError::ImplicitShrink);
        }
        if vol.size_sectors != 0 && s.pdsk == DiskState::UpToDate && size < vol.size_sectors {
            return refuse(ConfigError::DiskTooSmall);
        }
        let current = d.super_block.uuids.current;
        let taken_back = s.role == Role::Primary && vol.exposed.is_still_own(current);
        self.vols[v].taken_back = if taken_back { current } else { DataUuid::ZERO };
        let attaching = StateChange::NONE.disk(DiskState::Attaching);
        self.change_volume(v, attaching, Kind::Soft, out).map_err(CommandResult::State)?;
        self.install(v, d, size, out);
        self.finish_attach(v, out)
    }

    /// Takes over metadata and bitmap.
    fn install(&mut self, v: usize, d: AttachedDisk, size: u64, out: &mut Actions) {
        let at = Some(VolIdx(v as u8));
        self.next_disk_epoch = (self.next_disk_epoch + 1) & 0xff_ffff;
        let epoch = self.next_disk_epoch;
        let role = self.vols[v].state.role;
        let flags = d.super_block.flags;
        let la = d.super_block.la_size_sectors;
        // spec: drbd-metadata 8, only a Primary that froze for lack of data did nothing that could be in flight
        let frozen = role == Role::Primary && self.vols[v].state.susp_nod;
        let vol = &mut self.vols[v];
        vol.crashed_primary =
            flags.has(MetaFlags::CRASHED_PRIMARY) || flags.has(MetaFlags::PRIMARY_IND) && !frozen;
        vol.crashed_primary &= !planted::on(Planted::CrashedPrimaryForgotten);
        let distrust =
            flags.has(MetaFlags::FULL_SYNC) || vol.crashed_primary && flags.has(MetaFlags::AL_DISABLED);
        let mut bitmap = Bitmap::new(bits_of(la));
        let words = d.bitmap_words.len().min(bitmap.words().len());
        bitmap.merge_words(0, &d.bitmap_words[..words]);
        for page in 0..bitmap.pages() {
            bitmap.mark_page_clean(page);
        }
        // A bitmap shorter than the device it describes says nothing about the rest.
        let short = words < bitmap.words().len();
        let mut sb = d.super_block;
        sb.unclean_magic = true;
        sb.flags = sb.flags.without(MetaFlags::AL_CLEAN).set(MetaFlags::AL_DISABLED, !d.config.al_updates);
        let slots = d.layout.ring().clamp_slots(u32::from(d.config.al_extents));
        sb.al_nr_extents = u32::from(slots);
        sb.uuids.set_primary(role == Role::Primary);
        let mut md = MetaIo { size_on_disk_sectors: la, ..MetaIo::default() };
        md.mark_dirty();
        vol.bitmap = bitmap;
        vol.size_sectors = la;
        vol.counters = Default::default();
        vol.last_error = None;
        vol.disk = Some(LocalDisk {
            cfg: d.config,
            sb,
            layout: d.layout,
            al: ActivityLog::new(slots, d.layout.ring()),
            capacity_sectors: d.capacity_sectors,
            max_bio_bytes: d.max_bio_bytes,
            io_pending: 0,
            io_moved_at: self.now,
            data_epoch: epoch,
            given_up_at: None,
            goes_by_itself: false,
            was_good: false,
            md,
            epoch,
        });
        if distrust || short {
            let text = "Assuming that all blocks are out of sync (aka FullSync)";
            out.log(LogLevel::Info, at, text);
            self.vols[v].bitmap.set_all();
            self.vols[v].bitmap.mark_all_pages();
            let disk = self.vols[v].disk.as_mut().expect("just attached");
            disk.sb.flags = disk.sb.flags.with(MetaFlags::FULL_SYNC);
        }
        self.vols[v].size_at_attach_sectors = if la == 0 { size } else { la };
        self.vols[v].grown_before_handshake = flags.has(MetaFlags::GROWN) || la != 0 && la < size;
        if size != la {
            self.set_size(v, size, false, out);
        }
        // What is on its way to the peer alone was marked in the bitmap that this one replaces.
        self.mark_unsettled(v);
        let dirty = self.vols[v].bitmap.count();
        let text = format!("{} ({dirty} bits) marked out-of-sync by on disk bit-map.", human_size(dirty * 8));
        out.log(LogLevel::Info, at, text);
    }

    /// Chooses the disk state, makes the metadata say "in use", answers when that is stable.
    fn finish_attach(&mut self, v: usize, out: &mut Actions) -> Result<(), CommandResult> {
        let vol = &mut self.vols[v];
        let (conn, role) = (vol.state.conn, vol.state.role);
        let disk = vol.disk.as_ref().expect("just attached");
        let flags = disk.sb.flags;
        if vol.bitmap.count() == vol.bitmap.bits() && vol.bitmap.bits() > 0 && conn < ConnState::Connected {
            vol.al_suspended = true;
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), "Suspended AL updates");
        }
        let outdated_peer = flags.has(MetaFlags::PEER_OUT_DATED) && !vol.peer_was_good;
        let pdsk = if outdated_peer { DiskState::Outdated } else { DiskState::DUnknown };
        let own = match (flags.has(MetaFlags::CONSISTENT), flags.has(MetaFlags::WAS_UP_TO_DATE)) {
            (false, _) => DiskState::Inconsistent,
            // Outdated when it failed; but its clients are here, and have seen nothing else since.
            (true, false) if role == Role::Primary && vol.exposed.is_still_own(disk.sb.uuids.current) => {
                DiskState::UpToDate
            }
            (true, false) => DiskState::Outdated,
            (true, true) if outdated_peer || disk.cfg.fencing == Fencing::DontCare => DiskState::UpToDate,
            (true, true) => DiskState::Consistent,
        };
        vol.attach_states = (own, pdsk);
        let change = if conn >= ConnState::Connected {
            let numbers = &mut vol.attach_numbers;
            numbers.own = numbers.own.wrapping_add(1).max(1);
            numbers.answered = !self.conn.peer_is_lockstep();
            StateChange::NONE.disk(DiskState::Negotiating)
        } else {
            StateChange::NONE.disk(own).pdsk(pdsk)
        };
        if let Err(e) = self.change_volume(v, change, Kind::Soft, out) {
            let gone = StateChange::NONE.disk(DiskState::Diskless);
            let _ = self.change_volume(v, gone, Kind::Hard, out);
            return Err(CommandResult::State(e));
        }
        self.write_bitmap_dirty(v, out);
        let full = self.vols[v].disk.as_ref().is_some_and(|d| d.sb.flags.has(MetaFlags::FULL_SYNC));
        if full {
            self.set_all_bits(v, crate::meta_io::FullSyncStep::Nothing, out);
        }
        Ok(())
    }

    /// A data operation of the volume's disk ended, however.
    pub(crate) fn local_io_ended(&mut self, v: usize, out: &mut Actions) {
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        assert!(disk.io_pending > 0, "every operation is counted");
        disk.io_pending -= 1;
        disk.io_moved_at = self.now;
        if self.vols[v].state.disk == DiskState::Failed {
            self.finish_detach_if_idle(v, out);
        }
    }

    /// An I/O error on data: the policy decides (drbd-states 14.2).
    pub(crate) fn local_io_failed(&mut self, v: usize, what: FailedIo, out: &mut Actions) {
        if self.vols[v].state.disk <= DiskState::Failed {
            return;
        }
        let Some(disk) = self.vols[v].disk.as_ref() else { return };
        let policy = disk.cfg.on_io_error;
        let text = format!("Local IO failed ({})", what.name());
        self.vols[v].last_error = Some(text.clone());
        let conn = self.vols[v].state.conn;
        let is_source = is_source(conn);
        match policy {
            // A source cannot become Inconsistent, and must not go on copying blocks it failed to write. (A block it
            // failed to read is refused, and the source stays as it is.) After a flush that failed nobody knows which
            // blocks are gone, so no bitmap could bring them back: the disk goes, as after a loss of power.
            OnIoError::PassOn if what == FailedIo::Read || what == FailedIo::Write && !is_source => {
                if self.io_error_lines.allow(self.now) {
                    out.log(LogLevel::Error, Some(VolIdx(v as u8)), format!("{text}."));
                }
                if self.vols[v].state.disk > DiskState::Inconsistent {
                    let change = StateChange::NONE.disk(DiskState::Inconsistent);
                    let _ = self.change_volume(v, change, Kind::Hard, out);
                    // The peer has what failed here. Answered for its sake before this disk says that it is not good, the
                    // write would be overwritten by a crashed Primary that takes its old copy for the better one.
                    self.hold_completions_until_stable(v, out);
                }
            }
            OnIoError::PassOn | OnIoError::Detach | OnIoError::CallLocalIoError => {
                self.outdate_failing_disk(v);
                self.disk_goes_by_itself(v);
                self.force_detach(v, out);
                out.log(LogLevel::Error, Some(VolIdx(v as u8)), format!("{text}. Detaching..."));
            }
        }
    }

    /// The disk is about to go because something on it has failed, not because somebody wants it to (drbd-states 14.2).
    pub(crate) fn disk_goes_by_itself(&mut self, v: usize) {
        if let Some(disk) = self.vols[v].disk.as_mut() {
            disk.goes_by_itself = true;
        }
    }

    /// The disk is Failed from now on. A disk that fails again on its way out is not called for twice.
    pub(crate) fn call_handler_of_failed_disk(&mut self, v: usize, out: &mut Actions) {
        let called_for = |d: &LocalDisk| d.goes_by_itself && d.cfg.on_io_error == OnIoError::CallLocalIoError;
        if self.vols[v].disk.as_ref().is_some_and(called_for) {
            self.call_handler(Handler::LocalIoError, Some(v), out);
        }
    }

    /// The peer serves the clients on, with writes that this disk does not have. It must not call itself UpToDate when
    /// it is attached again after a restart, alone; as far as it can still be told.
    pub(crate) fn outdate_failing_disk(&mut self, v: usize) {
        let vol = &mut self.vols[v];
        let s = vol.state;
        let peer_goes_on = s.conn >= ConnState::Connected && s.pdsk == DiskState::UpToDate;
        let clients = s.role == Role::Primary || s.peer == Role::Primary;
        if let Some(disk) = vol.disk.as_mut().filter(|_| peer_goes_on && clients) {
            disk.sb.flags = disk.sb.flags.without(MetaFlags::WAS_UP_TO_DATE);
            disk.md.mark_dirty();
        }
    }

    /// The disk fails now; it is gone when its operations have ended.
    pub(crate) fn force_detach(&mut self, v: usize, out: &mut Actions) {
        if self.vols[v].state.disk > DiskState::Failed {
            let change = StateChange::NONE.disk(DiskState::Failed);
            let _ = self.change_volume(v, change, Kind::Hard, out);
        }
        self.finish_detach_if_idle(v, out);
    }

    /// Failed and nothing under way any more: Diskless.
    pub(crate) fn finish_detach_if_idle(&mut self, v: usize, out: &mut Actions) {
        let vol = &self.vols[v];
        if vol.state.disk != DiskState::Failed {
            return;
        }
        let Some(disk) = vol.disk.as_ref() else { return };
        let md_done = disk.md.is_idle() && (disk.md.failed || disk.md.page_queue.is_empty());
        let sb_done = disk.md.failed || disk.md.sb_stable >= disk.md.sb_wanted;
        if disk.io_pending > 0 || !md_done || !sb_done {
            return;
        }
        let dirty = vol.bitmap.dirty_page_count(crate::bitmap::DirtyKind::Any) > 0;
        let given_up = disk.given_up_at.is_some();
        match (dirty && !disk.md.failed, given_up, disk.was_good) {
            (true, true, true) => return self.queue_dirty_pages(v, out),
            // A cleared bit must not be on the disk before its block, and this disk is not asked to flush any more. The bits
            // that stay set there cost a resync of a few blocks.
            (true, true, false) => {
                if self.queue_flushed_pages(v, out) {
                    return;
                }
            }
            (false, ..) => {}
            (true, false, _) => return self.write_bitmap_dirty(v, out),
        }
        self.detach_finished(v, out);
    }

    /// Nothing of the failed disk is waited for any more.
    pub(crate) fn detach_finished(&mut self, v: usize, out: &mut Actions) {
        let change = StateChange::NONE.disk(DiskState::Diskless);
        let _ = self.change_volume(v, change, Kind::Hard, out);
    }

    /// Diskless was entered: nothing refers to the disk any more.
    pub(crate) fn disk_is_gone(&mut self, v: usize, out: &mut Actions) {
        self.cancel_resync(v, out);
        let slots: alloc::vec::Vec<u32> = self
            .reqs
            .table
            .iter()
            .filter(|(_, r)| r.vol as usize == v && r.has(flag::IN_AL))
            .map(|(slot, _)| slot)
            .collect();
        for slot in slots {
            self.reqs.table[slot].clear(flag::IN_AL);
        }
        let peers: alloc::vec::Vec<u32> =
            self.peer.writes.iter().filter(|(_, w)| w.vol as usize == v).map(|(s, _)| s).collect();
        for slot in peers {
            self.peer.writes[slot].in_al = false;
        }
        self.resize_lost_disk(v);
        let Some(disk) = self.vols[v].disk.take() else { return };
        for (_, then) in disk.md.waiters {
            match then {
                Then::AnswerCommand(id) | Then::AnswerRole(id) => {
                    self.finish_command(id, CommandResult::Config(ConfigError::IoMdDisk), out);
                }
                Then::OpenGate => {
                    self.vols[v].completion_gate = None;
                    self.release_held(v, out);
                }
                Then::ReplyTearDown => self.reply_tear_down_when_stable(v + 1, out),
                Then::RunHandler(run) => self.handler_may_start(run, out),
                Then::RefuseWrite { slot, generation } => self.refuse_peer_write(slot, generation, out),
                Then::FullSyncWritten(_)
                | Then::MoveStored
                | Then::Resized
                | Then::SendSyncUuid { .. }
                | Then::SendState { .. }
                | Then::SendUuids { .. }
                | Then::StartRequests { .. } => {}
            }
        }
        self.vols[v].al_suspended = false;
        self.vols[v].generation_due = false;
        self.vols[v].pump = true;
        self.peer_pump = true;
        out.push(crate::action::Action::CloseDisk { vol: VolIdx(v as u8) });
        self.command_detached(v, out);
    }

    /// Watches how long the disks take, where disk-timeout asks for it and something is under way.
    pub(crate) fn arm_disk_timeout(&mut self) {
        let watched = |d: &LocalDisk| {
            !d.cfg.disk_timeout.is_zero()
                && d.given_up_at.is_none()
                && (d.io_pending > 0 || d.md.in_flight > 0)
        };
        if self.vols.iter().any(|v| v.disk.as_ref().is_some_and(watched)) {
            self.timers.set_if_idle(Timer::DiskTimeout, self.now + Duration::from_millis(100));
        }
    }

    pub(crate) fn disk_timeout_timer(&mut self, out: &mut Actions) {
        for v in 0..self.vols.len() {
            if self.is_over_disk_timeout(v) {
                let text = "Local backing device failed to meet the disk-timeout";
                out.log(LogLevel::Warn, Some(VolIdx(v as u8)), text);
                self.vols[v].last_error = Some(text.into());
                self.outdate_failing_disk(v);
                self.disk_goes_by_itself(v);
                self.give_up_disk(v, out);
            }
        }
    }

    /// A request of a client, here or on the peer, is older than disk-timeout, or the disk has ended nothing for so long:
    /// a resync, flushes and metadata have no age of their own.
    fn is_over_disk_timeout(&self, v: usize) -> bool {
        let vol = &self.vols[v];
        let Some(disk) = vol.disk.as_ref() else { return false };
        let timeout = disk.cfg.disk_timeout;
        if timeout.is_zero() || disk.given_up_at.is_some() || vol.state.disk < DiskState::Failed {
            return false;
        }
        let late = |since: Instant| self.now.saturating_since(since) > timeout;
        let mut own = self.reqs.table.iter().map(|(_, r)| r);
        let mut written = self.peer.writes.iter().map(|(_, w)| w);
        let mut read = self.peer.reads.iter().map(|(_, r)| r);
        own.any(|r| r.vol as usize == v && r.has(flag::LOCAL_PENDING) && late(r.local_at))
            || written.any(|w| w.vol as usize == v && w.is_on_disk() && late(w.disk_at))
            || read.any(|r| r.vol as usize == v && !r.waiting && late(r.disk_at))
            || disk.io_pending > 0 && late(disk.io_moved_at)
            || disk.md.in_flight > 0 && late(disk.md.moved_at)
    }
}
