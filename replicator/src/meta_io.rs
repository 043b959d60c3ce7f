//! Metadata writes of an attached disk: super block, bitmap pages, activity log blocks; what has to wait for
//! them (drbd-metadata 6.4, 7.2, 9).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt::{self, Display};

use model::state::{ConnState, DiskState, Role};
use model::time::{Duration, Instant};

use crate::action::{Action, Actions, LogLevel};
use crate::activity_log::extents::PendingTransaction;
use crate::bitmap::{DirtyKind, Unflushed};
use crate::disks::FailedIo;
use crate::event::{HandlerRun, VolIdx};
use crate::io_tag::{IoKind, flush_slot, pack};
use crate::meta::superblock::MetaFlags;
use crate::meta::uuids::Uuids;
use crate::meta_move::Move;
use crate::planted::{self, Planted};
use crate::resource::Resource;
use crate::timers::Timer;
use crate::volume::Volume;
use crate::wire::UuidFlags;

/// Bitmap pages of one volume that may be in flight at once.
const PAGES_IN_FLIGHT_MAX: usize = 32;
/// A dirty super block is written at the latest after this time.
const MD_SYNC_DELAY: Duration = Duration::from_secs(5);

/// What goes on when metadata is stable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// The whole bitmap was set and written: forget the FULL_SYNC flag and go on in this step.
    FullSyncWritten(FullSyncStep),
    /// Answer a command with success.
    AnswerCommand(crate::command::CommandId),
    /// Answer a change of the role, unless the next volume has to be waited for.
    AnswerRole(crate::command::CommandId),
    /// The super block with this state is stable: completions may go on.
    OpenGate,
    /// Confirm the peer's disconnect, unless the next volume has to be waited for.
    ReplyTearDown,
    /// Tell the target the sync UUID, if the connection and the resync are still these.
    SendSyncUuid {
        /// The UUID.
        uuid: model::ids::DataUuid,
        /// Connection it belongs to.
        generation: u32,
        /// Run of the resync that it belongs to. The next one on the same connection has a beginning of its own, for which
        /// its target waits.
        run: u32,
    },
    /// Tell the peer the present state, if the connection is still this one.
    SendState {
        /// Connection it belongs to.
        generation: u32,
    },
    /// A handler finds on disk what made it necessary.
    RunHandler(HandlerRun),
    /// Tell the peer that its write failed.
    RefuseWrite {
        /// The write.
        slot: u32,
        /// Tells it from a later one in its place.
        generation: u32,
    },
    /// The metadata is at its new place.
    MoveStored,
    /// The new size is on disk.
    Resized,
    /// Tell the peer the present generations, if the connection is still this one.
    SendUuids {
        /// Connection it belongs to.
        generation: u32,
    },
    /// The target may overwrite blocks in this run.
    StartRequests {
        /// The run.
        generation: u32,
    },
}

/// What a full sync goes on with once all bits are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FullSyncStep {
    /// StartingSyncS goes on to SyncSource, StartingSyncT to WFSyncUUID.
    LeaveStartingSync,
    /// Nothing more; a source that waits for the write to send its bitmap does so in any case.
    Nothing,
}

/// Which writes a continuation waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WaitFor {
    /// Super block generation.
    SuperBlock(u64),
    /// All bitmap pages that were asked for, and this super block generation.
    Bitmap(u64),
}

/// Metadata writes under way on one disk.
#[derive(Default)]
pub(crate) struct MetaIo {
    /// Content generations of the super block: latest, being written, stable.
    pub sb_latest: u64,
    pub sb_writing: Option<u64>,
    pub sb_stable: u64,
    /// A write of at least this generation was asked for.
    pub sb_wanted: u64,
    /// The next super block is written after the bitmap pages asked for, which its flush makes stable.
    pub sb_after_pages: bool,
    /// Content generation of the super block that names the data generation begun last, or the size that was cut down to.
    pub sb_of_generation: u64,
    /// That of the super block which says that a target has begun.
    pub sb_of_target: u64,
    /// The super block being written, and the stable one, say that blocks may differ as the activity log tells.
    pub primary_writing: bool,
    pub primary_on_disk: bool,
    /// Sizes of the device in the super block being written, and in the stable one.
    pub size_writing_sectors: u64,
    pub size_on_disk_sectors: u64,
    pub page_queue: VecDeque<u32>,
    pub pages_in_flight: Vec<u32>,
    pub whole_bitmap: bool,
    /// A flush that changed pages wait for is under way.
    pub bitmap_flush: bool,
    /// Pages that must not be written without a flush.
    pub unflushed: Unflushed,
    /// A Primary has written without the activity log, as everything was marked. What is marked no longer need not be stable
    /// then, as on a sync target.
    pub wrote_unlogged: bool,
    pub transaction: Option<Transaction>,
    /// The metadata is being moved to another place.
    pub moving: Option<alloc::boxed::Box<Move>>,
    pub waiters: Vec<(WaitFor, Then)>,
    pub scratch_pages: Vec<u32>,
    pub scratch_extents: Vec<u32>,
    /// A metadata write failed: nothing more is written.
    pub failed: bool,
    /// Writes submitted and not ended.
    pub in_flight: u32,
    /// One of them ended then, or the first of those under way began.
    pub moved_at: Instant,
}

/// The activity log transaction under way: first the pages of evicted extents, then the block.
pub(crate) struct Transaction {
    pub pending: PendingTransaction,
    pub block: alloc::boxed::Box<[u8; 4096]>,
    pub pages_left: Vec<u32>,
    pub block_submitted: bool,
}

impl MetaIo {
    pub(crate) fn mark_dirty(&mut self) {
        self.sb_latest += 1;
    }

    /// A data generation was begun that the disk does not know yet. Bits that belong to it may not be there before it is:
    /// beside the generation before, which the peer has too, nothing would say which copy they mean. Where the super block
    /// waits for the pages, they go first all the same.
    fn holds_pages(&self) -> bool {
        self.sb_stable < self.sb_of_generation && !self.sb_after_pages && self.moving.is_none()
    }

    /// No bitmap page is under way or asked for.
    pub(crate) fn pages_idle(&self) -> bool {
        self.page_queue.is_empty() && self.pages_in_flight.is_empty() && !self.bitmap_flush
    }

    /// A write is submitted.
    pub(crate) fn write_begins(&mut self, now: Instant) {
        if self.in_flight == 0 {
            self.moved_at = now;
        }
        self.in_flight += 1;
    }

    /// Metadata writes that have not ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.sb_writing.is_none()
            && self.pages_in_flight.is_empty()
            && self.transaction.is_none()
            && self.moving.is_none()
    }
}

/// `C:B:H1:H2` in hex, as log lines show data generations.
pub(crate) fn uuid_line(u: &Uuids) -> impl Display + use<> {
    let u = *u;
    fmt::from_fn(move |f| write!(f, "{}:{}:{}:{}", u.current, u.bitmap, u.history[0], u.history[1]))
}

impl Resource {
    /// Recomputes the flags of the super block from the state (drbd-metadata 4.2).
    pub(crate) fn recompute_md_flags(&mut self, v: usize) {
        let vol = &mut self.vols[v];
        let s = vol.state;
        if s.disk < DiskState::Inconsistent {
            return;
        }
        let Some(disk) = vol.disk.as_mut() else { return };
        let kept = [MetaFlags::FULL_SYNC, MetaFlags::AL_DISABLED, MetaFlags::GROWN, MetaFlags::TARGET_BEGAN];
        let kept = kept.into_iter().fold(MetaFlags(0), MetaFlags::with);
        let mut f = MetaFlags(disk.sb.flags.0 & kept.0);
        // Writes of a diskless Primary that were received are carried out even if it is gone by then.
        let unwritten = self.peer.writes.iter().any(|(_, w)| w.vol as usize == v && w.only_copy);
        let peer_is_bad =
            matches!(s.pdsk, DiskState::Inconsistent | DiskState::Outdated) && !vol.invalidation_unconfirmed;
        let only_disk_of_primary = s.pdsk < DiskState::Inconsistent && s.peer == Role::Primary || unwritten;
        let rows = [
            (s.disk > DiskState::Inconsistent && !vol.invalidated, MetaFlags::CONSISTENT),
            (s.role == Role::Primary || only_disk_of_primary, MetaFlags::PRIMARY_IND),
            (s.conn > ConnState::WFReportParams, MetaFlags::CONNECTED_IND),
            (s.disk > DiskState::Outdated, MetaFlags::WAS_UP_TO_DATE),
            (peer_is_bad, MetaFlags::PEER_OUT_DATED),
            (vol.crashed_primary, MetaFlags::CRASHED_PRIMARY),
        ];
        for (set, bit) in rows {
            if set {
                f = f.with(bit);
            }
        }
        if f != disk.sb.flags {
            disk.sb.flags = f;
            disk.md.mark_dirty();
        }
    }

    /// Writes the super block if it is dirty.
    pub(crate) fn md_sync(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        if vol.state.disk == DiskState::Attaching {
            return;
        }
        let Some(disk) = vol.disk.as_mut() else { return };
        disk.md.sb_wanted = disk.md.sb_latest;
        let primary = disk.sb.flags.has(MetaFlags::PRIMARY_IND);
        if (disk.md.primary_on_disk || disk.md.primary_writing) && !primary && !disk.md.sb_after_pages {
            // Until now the activity log tells what may differ; from then on the bitmap alone.
            disk.md.sb_after_pages = true;
            self.write_bitmap_dirty(v, out);
        }
        self.pump_super_block(v, out);
    }

    /// Makes sure that a dirty super block does not stay unwritten for long.
    pub(crate) fn arm_md_sync(&mut self) {
        let dirty = |d: &crate::volume::LocalDisk| d.md.sb_latest > d.md.sb_wanted;
        if self.vols.iter().any(|v| v.disk.as_ref().is_some_and(dirty)) {
            self.timers.set_if_idle(Timer::MdSync, self.now + MD_SYNC_DELAY);
        }
    }

    fn pump_super_block(&mut self, v: usize, out: &mut Actions) {
        let disk = self.vols[v].disk.as_mut().expect("checked by the caller");
        let md = &mut disk.md;
        if md.sb_writing.is_some() || md.sb_stable >= md.sb_wanted || md.failed {
            return;
        }
        if md.moving.as_ref().is_some_and(|m| !m.takes_super_block()) {
            return;
        }
        if md.sb_after_pages && !md.pages_idle() {
            // Some may have been held back for this super block.
            self.pump_pages(v, out);
            return;
        }
        md.sb_after_pages = false;
        md.sb_writing = Some(md.sb_latest);
        md.write_begins(self.now);
        let sb = &disk.sb;
        md.primary_writing = sb.flags.has(MetaFlags::PRIMARY_IND);
        // From now on it may be gone; the node may be Primary again before the write has ended.
        md.primary_on_disk &= md.primary_writing;
        md.size_writing_sectors = sb.la_size_sectors;
        let mut raw = [0u8; 4096];
        sb.encode(&mut raw);
        let block = out.write_bytes(|b| b.extend_from_slice(&raw));
        let md_sector = disk.layout.superblock_sector();
        let flush = disk.cfg.md_flushes;
        let tag = pack(IoKind::SuperBlock, v as u32, disk.epoch);
        out.push(Action::MetaWrite {
            tag,
            vol: VolIdx(v as u8),
            md_sector,
            block,
            flush_before: flush,
            fua: flush,
        });
    }

    /// Runs `then` once the super block as it is now is stable.
    pub(crate) fn when_super_block_stable(&mut self, v: usize, then: Then, out: &mut Actions) {
        self.md_sync(v, out);
        let Some(disk) = self.vols[v].disk.as_mut() else {
            self.continue_with(v, then, out);
            return;
        };
        if disk.md.sb_stable >= disk.md.sb_latest {
            self.continue_with(v, then, out);
        } else {
            let at = disk.md.sb_latest;
            disk.md.waiters.push((WaitFor::SuperBlock(at), then));
        }
    }

    /// Runs `then` once all bitmap pages asked for and the super block are stable.
    pub(crate) fn when_bitmap_written(&mut self, v: usize, then: Then, out: &mut Actions) {
        let Some(disk) = self.vols[v].disk.as_mut() else {
            self.continue_with(v, then, out);
            return;
        };
        // A page that was written is stable only after a flush, which the super block behind it brings.
        disk.md.mark_dirty();
        disk.md.sb_after_pages = true;
        let at = disk.md.sb_latest;
        disk.md.waiters.push((WaitFor::Bitmap(at), then));
        self.md_sync(v, out);
    }

    fn run_waiters(&mut self, v: usize, out: &mut Actions) {
        loop {
            let Some(disk) = self.vols[v].disk.as_mut() else { return };
            let md = &mut disk.md;
            let pages_idle = md.pages_idle();
            let ready = md.waiters.iter().position(|(wait, _)| match wait {
                WaitFor::SuperBlock(at) => md.sb_stable >= *at,
                WaitFor::Bitmap(at) => pages_idle && md.sb_stable >= *at,
            });
            let Some(i) = ready else { return };
            let (_, then) = md.waiters.remove(i);
            self.continue_with(v, then, out);
        }
    }

    fn continue_with(&mut self, v: usize, then: Then, out: &mut Actions) {
        match then {
            Then::FullSyncWritten(step) => self.full_sync_written(v, step, out),
            Then::AnswerCommand(id) => self.finish_command(id, crate::command::CommandResult::Ok, out),
            Then::AnswerRole(id) => self.answer_role_when_stable(v + 1, id, out),
            Then::OpenGate => self.open_gate(v, out),
            Then::ReplyTearDown => self.reply_tear_down_when_stable(v + 1, out),
            Then::SendSyncUuid { uuid, generation, run } => {
                let vol = &self.vols[v];
                let runs = matches!(vol.state.conn, ConnState::SyncSource | ConnState::PausedSyncS);
                if self.conn.generation == generation && runs && vol.resync.generation == run {
                    self.vols[v].resync.sync_uuid_due = false;
                    self.send_sync_uuid(v, uuid, out);
                }
            }
            Then::SendState { generation } => {
                if self.conn.generation == generation && self.vols[v].state.conn >= ConnState::Connected {
                    self.send_state(v, out);
                }
            }
            Then::RunHandler(run) => self.handler_may_start(run, out),
            Then::RefuseWrite { slot, generation } => self.refuse_peer_write(slot, generation, out),
            Then::MoveStored => self.move_stored(v, out),
            Then::Resized => self.resized(v, out),
            Then::SendUuids { generation } => {
                if self.conn.generation == generation && self.vols[v].state.conn >= ConnState::Connected {
                    self.send_uuids(v, UuidFlags::NONE, out);
                }
            }
            Then::StartRequests { generation } => self.start_requests(v, generation, out),
        }
    }

    /// Changes are answered again once the super block as it is now is stable.
    pub(crate) fn hold_completions_until_stable(&mut self, v: usize, out: &mut Actions) {
        let Some(disk) = self.vols[v].disk.as_ref() else { return };
        let at = disk.md.sb_latest;
        self.vols[v].completion_gate = Some(at).filter(|_| !planted::on(Planted::CompletionNotHeld));
        self.when_super_block_stable(v, Then::OpenGate, out);
    }

    /// What the gate waits for is stable, unless it was closed again meanwhile.
    fn open_gate(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let stable = vol.disk.as_ref().map(|d| d.md.sb_stable);
        if vol.completion_gate.zip(stable).is_some_and(|(at, stable)| stable < at) {
            return;
        }
        vol.completion_gate = None;
        vol.exposed.is_stored();
        self.release_held(v, out);
        self.vols[v].pump = true;
    }

    /// Asks for all pages with changes. The copy of a sync target is made stable first, or that of a Primary that has written
    /// without the activity log: a cleared bit on the disk must never be older than the block it stands for.
    pub(crate) fn write_bitmap_dirty(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let is_target = vol.state.disk <= DiskState::Inconsistent;
        let cleared = vol.bitmap.dirty_page_count(DirtyKind::Any) > 0;
        let unflushed = ends_unflushed(vol) || planted::on(Planted::ClearedBitsWithoutFlush);
        let Some(disk) = vol.disk.as_mut() else { return };
        let tells = is_target || disk.md.wrote_unlogged;
        if tells && cleared && vol.size_sectors > 0 && !unflushed {
            if !core::mem::replace(&mut disk.md.bitmap_flush, true) {
                disk.md.unflushed.flush_begins();
                disk.io_begins(self.now);
                let tag = pack(IoKind::BitmapFlush, flush_slot(v, disk.data_epoch), 0);
                out.push(Action::DiskFlush { tag, vol: VolIdx(v as u8) });
            }
            return;
        }
        self.queue_dirty_pages(v, out);
    }

    pub(crate) fn bitmap_flush_done(&mut self, v: usize, ok: bool, out: &mut Actions) {
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        disk.md.bitmap_flush = false;
        if ok {
            disk.md.unflushed.flush_ends();
            self.queue_dirty_pages(v, out);
            self.pump_super_block(v, out);
            // With nothing left to write it is this flush that metadata on its way to another place waits for.
            self.pump_move(v, out);
            self.local_io_ended(v, out);
        } else {
            if self.vols[v].state.disk == DiskState::Failed {
                // Detaching anyway: the bits stay set on disk, which costs a resync and nothing else.
                self.end_metadata(v);
            }
            self.local_io_ended(v, out);
            self.local_io_failed(v, FailedIo::Flush, out);
        }
        self.run_waiters(v, out);
    }

    /// The same without the flush.
    pub(crate) fn queue_dirty_pages(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let Some(disk) = vol.disk.as_mut() else { return };
        let mut pages = core::mem::take(&mut disk.md.scratch_pages);
        pages.clear();
        vol.bitmap.take_dirty_pages(DirtyKind::Any, usize::MAX, &mut pages);
        disk.md.page_queue.extend(pages.iter().copied());
        disk.md.scratch_pages = pages;
        self.pump_pages(v, out);
    }

    /// The same for those pages alone that need no flush, of a disk that is not asked for one any more. True if there are any.
    pub(crate) fn queue_flushed_pages(&mut self, v: usize, out: &mut Actions) -> bool {
        let vol = &mut self.vols[v];
        let Some(disk) = vol.disk.as_mut() else { return false };
        let pages = (0..vol.bitmap.pages()).filter(|p| vol.bitmap.page_needs_write(*p));
        let pages: Vec<u32> = pages.filter(|p| !disk.md.unflushed.contains(*p)).collect();
        pages.iter().for_each(|p| vol.bitmap.mark_page_clean(*p));
        disk.md.page_queue.extend(pages.iter().copied());
        self.pump_pages(v, out);
        !pages.is_empty()
    }

    /// Asks for every page.
    pub(crate) fn write_bitmap_all(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let Some(disk) = vol.disk.as_mut() else { return };
        let count = vol.bitmap.pages();
        disk.md.page_queue.clear();
        for page in 0..count {
            vol.bitmap.mark_page_clean(page);
            disk.md.page_queue.push_back(page);
        }
        self.pump_pages(v, out);
    }

    pub(crate) fn whole_bitmap_write_runs(&self, v: usize) -> bool {
        self.vols[v].disk.as_ref().is_some_and(|d| d.md.whole_bitmap)
    }

    pub(crate) fn pump_pages(&mut self, v: usize, out: &mut Actions) {
        let mut blocked = 0;
        loop {
            let vol = &mut self.vols[v];
            let Some(disk) = vol.disk.as_mut() else { return };
            let md = &mut disk.md;
            if md.failed {
                md.page_queue.clear();
                return;
            }
            if md.holds_pages() || md.moving.as_ref().is_some_and(|m| !m.takes_pages()) {
                return;
            }
            if md.pages_in_flight.len() >= PAGES_IN_FLIGHT_MAX || blocked >= md.page_queue.len() {
                return;
            }
            let Some(page) = md.page_queue.pop_front() else { return };
            if md.pages_in_flight.contains(&page) {
                // The same block is never written twice at once: its newer content comes afterwards.
                md.page_queue.push_back(page);
                blocked += 1;
                continue;
            }
            self.submit_page(v, page, out);
        }
    }

    fn submit_page(&mut self, v: usize, page: u32, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let unflushed = ends_unflushed(vol);
        let disk = vol.disk.as_mut().expect("checked by the caller");
        disk.md.pages_in_flight.push(page);
        disk.md.write_begins(self.now);
        // Blocks may have got to the disk since the flush began that all pages have in common, and pages of an evicted
        // extent have none.
        let flush_before = disk.md.unflushed.take(page) && !unflushed;
        vol.bitmap.mark_page_clean(page);
        let mut bytes = [0u8; 4096];
        vol.bitmap.copy_page(page, &mut bytes);
        // spec: drbd-metadata 7.2, the last page ends where the area does
        let len_bytes = disk.layout.bitmap_page_bytes(u64::from(page));
        let block = out.write_bytes(|b| b.extend_from_slice(&bytes[..len_bytes]));
        let md_sector = disk.layout.bitmap_page_sector(u64::from(page));
        let tag = pack(IoKind::BitmapPage, (v as u32) << 24 | page, disk.epoch);
        vol.counters.bm_writes += 1;
        out.push(Action::MetaWrite { tag, vol: VolIdx(v as u8), md_sector, block, flush_before, fua: false });
    }

    /// Starts the next activity log transaction if something is staged.
    pub(crate) fn pump_activity_log(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let Some(disk) = vol.disk.as_mut() else { return };
        if disk.md.transaction.is_some() || !disk.al.has_staged() || disk.md.failed {
            return;
        }
        if disk.md.moving.is_some() {
            return;
        }
        let mut block = alloc::boxed::Box::new([0u8; 4096]);
        let mut evicted = core::mem::take(&mut disk.md.scratch_extents);
        evicted.clear();
        let pending = disk.al.begin_transaction(&mut block, &mut evicted);
        let Some(pending) = pending else { return };
        let mut pages_left: Vec<u32> = Vec::new();
        for extent in evicted.drain(..) {
            let page = extent / 32;
            if page < vol.bitmap.pages() && !pages_left.contains(&page) {
                pages_left.push(page);
            }
        }
        disk.md.scratch_extents = evicted;
        if planted::on(Planted::EvictedPagesNotWritten) {
            pages_left.clear();
        }
        for page in &pages_left {
            if vol.bitmap.page_needs_write(*page) {
                disk.md.page_queue.push_front(*page);
            }
        }
        disk.md.transaction = Some(Transaction { pending, block, pages_left, block_submitted: false });
        self.pump_pages(v, out);
        self.pump_al_block(v, out);
    }

    fn pump_al_block(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let Some(disk) = vol.disk.as_mut() else { return };
        let md = &mut disk.md;
        let Some(t) = md.transaction.as_mut() else { return };
        // One that waits to be written passes for clean, and one that is on its way may hold an older content: a page counts
        // until it is clean and idle.
        let (queue, in_flight) = (&md.page_queue, &md.pages_in_flight);
        t.pages_left.retain(|p| queue.contains(p) || in_flight.contains(p));
        if t.block_submitted || !t.pages_left.is_empty() || md.failed {
            return;
        }
        t.block_submitted = true;
        let block = out.write_bytes(|b| b.extend_from_slice(&t.block[..]));
        let md_sector = disk.layout.al_block_sector(t.pending.ring_block);
        let flush = disk.cfg.md_flushes;
        let tag = pack(IoKind::AlBlock, v as u32, disk.epoch);
        disk.md.write_begins(self.now);
        vol.counters.al_writes += 1;
        out.push(Action::MetaWrite {
            tag,
            vol: VolIdx(v as u8),
            md_sector,
            block,
            flush_before: flush,
            fua: flush,
        });
    }

    /// A metadata write ended.
    pub(crate) fn meta_done(
        &mut self,
        kind: IoKind,
        slot: u32,
        generation: u32,
        ok: bool,
        out: &mut Actions,
    ) {
        let v = if kind == IoKind::BitmapPage { slot >> 24 } else { slot } as usize;
        let Some(disk) = self.vols.get_mut(v).and_then(|vol| vol.disk.as_mut()) else {
            self.stale_events += 1;
            return;
        };
        if disk.epoch & 0xff_ffff != generation {
            self.stale_events += 1;
            return;
        }
        let md = &mut disk.md;
        assert!(md.in_flight > 0, "every write is counted");
        md.in_flight -= 1;
        md.moved_at = self.now;
        match kind {
            IoKind::SuperBlock => {
                let written = md.sb_writing.take().expect("one super block write at a time");
                if ok {
                    md.sb_stable = written;
                    md.primary_on_disk = md.primary_writing;
                    md.size_on_disk_sectors = md.size_writing_sectors;
                }
                md.primary_writing = false;
            }
            IoKind::BitmapPage => {
                let page = slot & 0xff_ffff;
                md.pages_in_flight.retain(|p| *p != page);
            }
            IoKind::MoveBlock => self.move_block_done(v),
            _ => {
                let t = md.transaction.take().expect("one transaction at a time");
                if ok {
                    disk.al.transaction_done(t.pending.number);
                }
            }
        }
        if kind == IoKind::SuperBlock && ok {
            // Writes wait until the super block says Primary.
            self.vols[v].pump = true;
            self.peer_pump = true;
        }
        if !ok {
            self.meta_io_failed(v, out);
            return;
        }
        self.pump_pages(v, out);
        self.pump_al_block(v, out);
        if self.vols[v].disk.is_some() {
            self.pump_super_block(v, out);
        }
        self.run_waiters(v, out);
        self.pump_move(v, out);
        if kind == IoKind::AlBlock {
            self.pump_waiting_al(v, out);
            self.vols[v].pump = true;
            // Writes of a diskless peer wait for the log too.
            self.peer_pump = true;
        }
        self.finish_detach_if_idle(v, out);
    }

    /// Any failed metadata write detaches the disk (drbd-metadata 9.4).
    fn meta_io_failed(&mut self, v: usize, out: &mut Actions) {
        let text = "meta data write error: the disk is detached";
        self.end_metadata(v);
        out.log(LogLevel::Error, Some(VolIdx(v as u8)), text);
        self.vols[v].last_error = Some(text.into());
        self.disk_goes_by_itself(v);
        self.force_detach(v, out);
    }

    /// Nothing more is written; what is under way ends, and nothing else is waited for.
    fn end_metadata(&mut self, v: usize) {
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        disk.md.failed = true;
        disk.md.page_queue.clear();
        // A block that still waits for the pages of evicted extents is not going to be written.
        disk.md.transaction = disk.md.transaction.take().filter(|t| t.block_submitted);
        disk.md.moving = None;
    }
}

fn ends_unflushed(vol: &Volume) -> bool {
    planted::on(Planted::NoFlushAtEndOfResync) && vol.resync.ending
}
