//! The metadata moves to another place, as internal metadata does when its device has grown (drbd-metadata 6.5, 10).
//!
//! Whatever a loss of power leaves, one of the two places holds metadata that is true. The super block at the new place
//! is written last; until then the one at the old place counts. Where the two places overlap the old one is destroyed
//! before the new one is complete: there a super block that asks for a full sync goes ahead.

use crate::action::{Action, Actions, LogLevel};
use crate::connection::sizes::human_size;
use crate::event::VolIdx;
use crate::io_tag::{IoKind, pack};
use crate::meta::layout::Layout;
use crate::meta::superblock::{MetaFlags, SuperBlock};
use crate::meta_io::Then;
use crate::planted::{self, Planted};
use crate::resize::MeasuredDisk;
use crate::resource::Resource;

/// Writes that may be under way at once.
const IN_FLIGHT_MAX: u32 = 32;

/// How far the move is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Writes to the old place end.
    Drain,
    /// A super block at the new place that asks for a full sync.
    Announce,
    /// All blocks of the activity log.
    Log,
    /// All pages of the bitmap.
    Pages,
    /// The super block.
    Store,
    /// The old super block is wiped: no device that shrinks back to the old size must find it.
    Wipe,
}

/// A move under way.
pub(crate) struct Move {
    to: Layout,
    from: Layout,
    capacity_sectors: u64,
    size_sectors: u64,
    /// The new part of the bitmap was set.
    marked: bool,
    step: Step,
    /// Next block or page of this step.
    next: u32,
    in_flight: u32,
}

impl Move {
    /// Ordinary writes of bitmap pages may go on: to the old place still, or to the new one already.
    pub(crate) fn takes_pages(&self) -> bool {
        self.step == Step::Drain || self.takes_super_block()
    }

    /// The super block may be written, at the new place.
    pub(crate) fn takes_super_block(&self) -> bool {
        matches!(self.step, Step::Store | Step::Wipe)
    }

    fn overlaps(&self) -> bool {
        self.from.first_sector() <= self.to.last_sector() && self.to.first_sector() <= self.from.last_sector()
    }
}

/// The fields of `sb` that say where things are.
fn place(sb: &SuperBlock, to: &Layout) -> SuperBlock {
    SuperBlock {
        md_size_sectors: to.md_size_sectors(),
        al_offset_sectors: to.al_offset_sectors(),
        bm_offset_sectors: to.bm_offset_sectors(),
        al_stripes: to.ring().stripes(),
        al_stripe_size_4k: to.ring().stripe_size_4k(),
        ..*sb
    }
}

impl Resource {
    /// Starts the move; nothing is admitted until it is over.
    pub(crate) fn begin_move(
        &mut self,
        v: usize,
        size_sectors: u64,
        found: &MeasuredDisk,
        assume_clean: bool,
        out: &mut Actions,
    ) {
        let vol = &mut self.vols[v];
        let grows = size_sectors > vol.size_sectors && !assume_clean;
        let mark = grows && !planted::on(Planted::GrownAreaNotMarked);
        vol.resize_bitmap(size_sectors, mark);
        let disk = vol.disk.as_mut().expect("it was measured");
        disk.md.moving = Some(alloc::boxed::Box::new(Move {
            to: found.layout,
            from: disk.layout,
            capacity_sectors: found.capacity_sectors,
            size_sectors,
            marked: mark,
            step: Step::Drain,
            next: 0,
            in_flight: 0,
        }));
        self.pump_move(v, out);
    }

    /// Goes on with the move as far as it can.
    pub(crate) fn pump_move(&mut self, v: usize, out: &mut Actions) {
        loop {
            let vol = &mut self.vols[v];
            let Some(disk) = vol.disk.as_mut() else { return };
            let md = &mut disk.md;
            let Some(m) = md.moving.as_mut() else { return };
            if md.failed {
                md.moving = None;
                return;
            }
            let count = match m.step {
                Step::Drain => {
                    let idle = md.sb_writing.is_none() && md.transaction.is_none();
                    if !idle || !md.page_queue.is_empty() || !md.pages_in_flight.is_empty() || md.bitmap_flush
                    {
                        return;
                    }
                    0
                }
                Step::Announce if m.overlaps() => 1,
                Step::Announce => 0,
                Step::Log => m.to.ring().blocks(),
                Step::Pages => vol.bitmap.pages(),
                Step::Store => return,
                Step::Wipe => 1,
            };
            if m.next < count {
                if m.in_flight >= IN_FLIGHT_MAX {
                    return;
                }
                m.next += 1;
                m.in_flight += 1;
                let (step, number) = (m.step, m.next - 1);
                self.write_for_move(v, step, number, out);
                continue;
            }
            if m.in_flight > 0 {
                return;
            }
            m.next = 0;
            m.step = match m.step {
                Step::Drain => Step::Announce,
                Step::Announce => Step::Log,
                Step::Log => Step::Pages,
                Step::Pages => return self.store_move(v, out),
                Step::Store | Step::Wipe => return self.move_is_over(v, out),
            };
        }
    }

    fn write_for_move(&mut self, v: usize, step: Step, number: u32, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let disk = vol.disk.as_mut().expect("the caller looked");
        let m = disk.md.moving.as_ref().expect("the caller looked");
        let mut raw = [0u8; 4096];
        let md_sector = match step {
            Step::Announce => {
                let mut sb = place(&disk.sb, &m.to);
                sb.flags = sb.flags.with(MetaFlags::FULL_SYNC).with(MetaFlags::AL_DISABLED);
                sb.encode(&mut raw);
                m.to.superblock_sector()
            }
            Step::Log => {
                let mut evicted = core::mem::take(&mut disk.md.scratch_extents);
                evicted.clear();
                // The pages of what loses its place are written before the super block, with all the others.
                let pending = disk.al.begin_filler_transaction(&mut raw, &mut evicted);
                let pending = pending.expect("no transaction is under way in a move");
                disk.al.transaction_done(pending.number);
                disk.md.scratch_extents = evicted;
                m.to.al_block_sector(pending.ring_block)
            }
            Step::Pages => {
                vol.bitmap.mark_page_clean(number);
                vol.bitmap.copy_page(number, &mut raw);
                m.to.bitmap_page_sector(u64::from(number))
            }
            Step::Wipe => m.from.superblock_sector(),
            Step::Drain | Step::Store => unreachable!("nothing is written in this step"),
        };
        disk.md.write_begins(self.now);
        let block = out.write_bytes(|b| b.extend_from_slice(&raw));
        let first = step == Step::Announce && disk.cfg.md_flushes;
        out.push(Action::MetaWrite {
            tag: pack(IoKind::MoveBlock, v as u32, disk.epoch),
            vol: VolIdx(v as u8),
            md_sector,
            block,
            flush_before: first,
            fua: first,
        });
    }

    /// Everything is at the new place: the super block says so.
    fn store_move(&mut self, v: usize, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let disk = vol.disk.as_mut().expect("the caller looked");
        let m = disk.md.moving.as_mut().expect("the caller looked");
        m.step = Step::Store;
        disk.sb = place(&disk.sb, &m.to);
        if m.marked && disk.sb.la_size_sectors != 0 {
            disk.sb.flags = disk.sb.flags.with(MetaFlags::GROWN);
        }
        disk.sb.la_size_sectors = m.size_sectors;
        disk.layout = m.to;
        disk.capacity_sectors = m.capacity_sectors;
        vol.size_sectors = m.size_sectors;
        disk.md.mark_dirty();
        let text = alloc::format!("size = {} (metadata moved)", human_size(vol.size_sectors));
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
        out.push(Action::ExportChanged { vol: VolIdx(v as u8) });
        // Pages that were asked for meanwhile; the super block may have to wait for them.
        self.pump_pages(v, out);
        self.when_super_block_stable(v, Then::MoveStored, out);
    }

    /// The super block at the new place counts.
    pub(crate) fn move_stored(&mut self, v: usize, out: &mut Actions) {
        let Some(disk) = self.vols[v].disk.as_mut() else { return };
        let Some(m) = disk.md.moving.as_mut() else { return };
        let old = m.from.superblock_sector();
        let taken = (m.to.first_sector()..=m.to.last_sector()).contains(&old);
        m.step = Step::Wipe;
        // With nothing to wipe the step is over before it begins.
        m.next = u32::from(taken);
        self.pump_move(v, out);
    }

    fn move_is_over(&mut self, v: usize, out: &mut Actions) {
        if let Some(disk) = self.vols[v].disk.as_mut() {
            disk.md.moving = None;
        }
        self.md_sync(v, out);
        self.resized(v, out);
    }

    /// A write of the move ended well.
    pub(crate) fn move_block_done(&mut self, v: usize) {
        if let Some(m) = self.vols[v].disk.as_mut().and_then(|d| d.md.moving.as_mut()) {
            m.in_flight -= 1;
        }
    }
}
