//! The backing disks: which are open, what runs on them, what waits for a buffer or for an earlier operation.
//! The steps of the single operations are in `disk_ops`.

use std::collections::VecDeque;

use blockdev::backing::Backing;
use blockdev::pool::{BufSpan, BufferPool, SLOT_BYTES_MAX};
use blockdev::ring::{FileRef, Ring};
use model::ids::BufId;
use replicator::meta::layout::{Layout, MetaKind};
use replicator::{DigestAlg, Event, IoResult, IoTag, MeasuredDisk, VolIdx};
use slab::Slab;

use super::core_side::Core;
use super::disk_ops::{DiskOp, Step, Work};
use super::token::Token;
use super::worker_api::OpenedDisk;

/// All disks of the resource.
pub(super) struct Disks {
    disks: Slab<Disk>,
    /// Disk of each volume.
    volumes: Vec<Option<usize>>,
    ops: Slab<DiskOp>,
    reads_waiting: VecDeque<WaitingRead>,
    /// Metadata writes behind an earlier one to the same block, or without a buffer yet.
    meta_waiting: VecDeque<u32>,
    /// Zeroes to write where a device cannot make them.
    zeroes: BufId,
    /// Ends of operations that never started, for the next batch.
    ended: Vec<(IoTag, bool, IoResult)>,
    /// Disks that were looked at, for the next batch.
    measured: Vec<(VolIdx, u32, Option<MeasuredDisk>)>,
}

/// An open disk.
pub(super) struct Disk {
    data: Backing,
    meta: Option<Backing>,
    pub(super) data_file: FileRef,
    pub(super) meta_file: Option<FileRef>,
    pub(super) can_discard: bool,
    layout: Layout,
    attach: u64,
    in_flight: u32,
    closing: bool,
    /// A flush has failed.
    flush_error: Option<i32>,
}

impl Disk {
    /// None: it could not be looked at.
    fn measure(&mut self) -> Option<MeasuredDisk> {
        let sectors = match self.data.measure() {
            Ok(bytes) => bytes / 512,
            Err(error) => {
                tracing::error!("measuring {}: {error}", self.data.path().display());
                return None;
            }
        };
        // External metadata stays where it is; what it can describe was settled when the disk was attached.
        let layout = match self.layout.kind() {
            MetaKind::Internal => Layout::new(MetaKind::Internal, sectors, self.layout.ring()).ok()?,
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => self.layout,
        };
        Some(MeasuredDisk { capacity_sectors: layout.usable_sectors(sectors), layout })
    }

    /// Where metadata is written.
    pub(super) fn meta_target(&self) -> FileRef {
        self.meta_file.unwrap_or(self.data_file)
    }
}

#[derive(Clone, Copy)]
struct WaitingRead {
    tag: IoTag,
    disk: usize,
    offset_bytes: u64,
    len_bytes: u32,
    digest: Option<DigestAlg>,
}

impl Disks {
    /// No disks for `volumes` volumes. Takes one buffer of the pool, fresh and hence zero.
    pub(super) fn new(volumes: usize, pool: &mut BufferPool) -> Option<Disks> {
        Some(Disks {
            disks: Slab::new(),
            volumes: vec![None; volumes],
            ops: Slab::with_capacity(1024),
            reads_waiting: VecDeque::with_capacity(256),
            meta_waiting: VecDeque::new(),
            zeroes: pool.alloc(SLOT_BYTES_MAX)?,
            ended: Vec::new(),
            measured: Vec::new(),
        })
    }

    /// The volume has a disk here.
    pub(super) fn is_open(&self, vol: VolIdx) -> bool {
        self.volumes.get(vol.0 as usize).is_some_and(Option::is_some)
    }

    /// Operations that have not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.ops.len() + self.reads_waiting.len()
    }

    /// Takes a disk for a volume without one; `attach` is the command it came with. Returns what the core needs.
    pub(super) fn open(
        &mut self,
        ring: &mut Ring<Token>,
        vol: VolIdx,
        opened: OpenedDisk,
        attach: u64,
    ) -> replicator::AttachedDisk {
        let place = &mut self.volumes[vol.0 as usize];
        assert!(place.is_none(), "the caller looked whether the volume has a disk");
        let OpenedDisk { attached, data, meta } = opened;
        let data_file = ring.register_file(std::os::fd::AsFd::as_fd(&data));
        let meta_file = meta.as_ref().map(|m| ring.register_file(std::os::fd::AsFd::as_fd(m)));
        let can_discard = data.limits().discard.is_some();
        *place = Some(self.disks.insert(Disk {
            data,
            meta,
            data_file,
            meta_file,
            can_discard,
            layout: attached.layout,
            attach,
            in_flight: 0,
            closing: false,
            flush_error: None,
        }));
        attached
    }

    /// `Action::MeasureDisk`: how large the disk is, and where its metadata belongs then.
    pub(super) fn measure(&mut self, vol: VolIdx, attach: u32) {
        let found = self.disk_of(vol).and_then(|disk| self.disks[disk].measure());
        self.measured.push((vol, attach, found));
    }

    /// The attach command that brought the disk was refused: closes it if it is still there.
    pub(super) fn attach_failed(&mut self, ring: &mut Ring<Token>, attach: u64) {
        let found = self.volumes.iter().position(|d| d.is_some_and(|d| self.disks[d].attach == attach));
        if let Some(v) = found {
            self.close(ring, VolIdx(v as u8));
        }
    }

    /// Closes the disk of a volume once its operations have ended.
    pub(super) fn close(&mut self, ring: &mut Ring<Token>, vol: VolIdx) {
        let Some(index) = self.volumes.get_mut(vol.0 as usize).and_then(Option::take) else { return };
        self.disks[index].closing = true;
        let mut kept = VecDeque::new();
        for read in self.reads_waiting.drain(..) {
            if read.disk == index {
                self.ended.push((read.tag, false, GONE));
            } else {
                kept.push_back(read);
            }
        }
        self.reads_waiting = kept;
        self.drop_if_idle(ring, index);
    }

    /// Flushes and closes all that is still open; blocks. For the end of the thread.
    pub(super) fn flush_and_close_all(&mut self, ring: &mut Ring<Token>) {
        for (_, disk) in &self.disks {
            if disk.in_flight > 0 {
                // The caller has waited for it. It may have been given up long ago, and would not answer a flush either.
                tracing::warn!("{} does not answer, and is not flushed", disk.data.path().display());
                continue;
            }
            for backing in std::iter::once(&disk.data).chain(&disk.meta) {
                let flushed = std::os::fd::AsFd::as_fd(backing)
                    .try_clone_to_owned()
                    .and_then(|fd| std::fs::File::from(fd).sync_data());
                if let Err(error) = flushed {
                    tracing::error!("flush of {} failed: {error}", backing.path().display());
                }
            }
        }
        for v in 0..self.volumes.len() {
            self.close(ring, VolIdx(v as u8));
        }
    }

    fn drop_if_idle(&mut self, ring: &mut Ring<Token>, index: usize) {
        let disk = &self.disks[index];
        if !disk.closing || disk.in_flight > 0 {
            return;
        }
        let disk = self.disks.remove(index);
        for file in std::iter::once(disk.data_file).chain(disk.meta_file) {
            // Submits what is queued first, so that nothing meets a descriptor that was closed or reused.
            if let Err(error) = ring.unregister_file(file).and_then(|()| ring.submit()) {
                tracing::error!("closing {}: {error}", disk.data.path().display());
            }
        }
    }

    /// `Action::DiskRead`: reads into a buffer, when there is one.
    pub(super) fn read(
        &mut self,
        ring: &mut Ring<Token>,
        tag: IoTag,
        (vol, sector, len_bytes): (VolIdx, u64, u32),
        digest: Option<DigestAlg>,
    ) {
        let Some(disk) = self.disk_of(vol) else {
            self.ended.push((tag, false, GONE));
            return;
        };
        let read = WaitingRead { tag, disk, offset_bytes: sector * 512, len_bytes, digest };
        if !self.reads_waiting.is_empty() || !self.start_read(ring, read) {
            self.reads_waiting.push_back(read);
        }
    }

    fn start_read(&mut self, ring: &mut Ring<Token>, read: WaitingRead) -> bool {
        let Some(buf) = ring.pool_mut().alloc(read.len_bytes as usize) else { return false };
        let work = Work::Read(buf);
        let mut op = DiskOp::new(read.tag, read.disk, work, read.offset_bytes, read.len_bytes);
        op.digest = read.digest;
        self.start(ring, op);
        true
    }

    /// Starts what can start now that buffers may have been released.
    pub(super) fn resume(&mut self, ring: &mut Ring<Token>) {
        while let Some(read) = self.reads_waiting.front().copied() {
            if !self.start_read(ring, read) {
                break;
            }
            self.reads_waiting.pop_front();
        }
    }

    /// `Action::DiskWrite`: writes from a buffer, which is kept until the end by a reference of its own.
    pub(super) fn write(
        &mut self,
        ring: &mut Ring<Token>,
        tag: IoTag,
        (vol, sector, len_bytes): (VolIdx, u64, u32),
        (buf, fua): (BufId, bool),
    ) {
        let Some(disk) = self.disk_of(vol) else {
            self.ended.push((tag, false, GONE));
            return;
        };
        ring.pool_mut().retain(buf);
        let mut op = DiskOp::new(tag, disk, Work::Write(buf), sector * 512, len_bytes);
        op.fua = fua;
        self.start(ring, op);
    }

    /// `Action::DiskFlush`.
    pub(super) fn flush(&mut self, ring: &mut Ring<Token>, tag: IoTag, vol: VolIdx) {
        match self.disk_of(vol) {
            Some(disk) => self.start(ring, DiskOp::new(tag, disk, Work::Flush, 0, 0)),
            None => self.ended.push((tag, false, GONE)),
        }
    }

    /// `Action::DiskZero`.
    pub(super) fn zero(
        &mut self,
        ring: &mut Ring<Token>,
        tag: IoTag,
        (vol, sector, len_bytes): (VolIdx, u64, u32),
        (may_unmap, fua): (bool, bool),
    ) {
        let Some(disk) = self.disk_of(vol) else {
            self.ended.push((tag, false, GONE));
            return;
        };
        let step = if may_unmap && self.disks[disk].can_discard { Step::Punch } else { Step::ZeroRange };
        let mut op = DiskOp::new(tag, disk, Work::Zero(step), sector * 512, len_bytes);
        op.fua = fua;
        self.start(ring, op);
    }

    /// `Action::MetaWrite`. Two writes to one block run one after the other, in the order of the calls.
    pub(super) fn meta_write(
        &mut self,
        ring: &mut Ring<Token>,
        tag: IoTag,
        (vol, md_sector): (VolIdx, u64),
        block: &[u8],
        (flush_before, fua): (bool, bool),
    ) {
        let Some(disk) = self.disk_of(vol) else {
            self.ended.push((tag, true, GONE));
            return;
        };
        let pool = ring.pool_mut();
        // The control area is full only when peer or clients take nothing: block buffers do then.
        let Some(buf) = pool.alloc_control(block.len()).or_else(|| pool.alloc(block.len())) else {
            self.ended.push((tag, true, IoResult::Err(ENOMEM)));
            return;
        };
        pool.bytes_mut(buf)[..block.len()].copy_from_slice(block);
        let offset_bytes = md_sector * 512;
        let step = if flush_before { Step::FlushFirst } else { Step::Write };
        let mut op = DiskOp::new(tag, disk, Work::Meta(buf, step), offset_bytes, block.len() as u32);
        op.fua = fua;
        let same_block =
            |other: &DiskOp| other.is_meta() && other.disk == disk && other.offset_bytes == offset_bytes;
        if self.ops.iter().any(|(_, other)| same_block(other)) {
            self.disks[disk].in_flight += 1;
            let index = self.ops.insert(op);
            self.meta_waiting.push_back(index as u32);
        } else {
            self.start(ring, op);
        }
    }

    fn disk_of(&self, vol: VolIdx) -> Option<usize> {
        self.volumes.get(vol.0 as usize).copied().flatten()
    }

    fn start(&mut self, ring: &mut Ring<Token>, op: DiskOp) {
        self.disks[op.disk].in_flight += 1;
        let index = self.ops.insert(op);
        self.submit_step(ring, index);
    }

    fn submit_step(&mut self, ring: &mut Ring<Token>, index: usize) {
        let op = &mut self.ops[index];
        let zeroes = BufSpan::head(self.zeroes, SLOT_BYTES_MAX as u32);
        op.submit(ring, &self.disks[op.disk], Token::Disk(index as u32), zeroes);
    }

    /// A step of an operation has completed.
    pub(super) fn completed(&mut self, ring: &mut Ring<Token>, core: &mut Core, index: u32, result: i32) {
        let index = index as usize;
        let op = &mut self.ops[index];
        match op.advance(result, &mut self.disks[op.disk].flush_error) {
            None => {}
            Some(Err(())) => self.submit_step(ring, index),
            Some(Ok(result)) => {
                let op = self.ops.remove(index);
                self.deliver(ring, core, &op, result);
                if op.is_meta() {
                    self.start_next_meta(ring, op.disk, op.offset_bytes);
                }
                self.disks[op.disk].in_flight -= 1;
                self.drop_if_idle(ring, op.disk);
            }
        }
    }

    fn deliver(&mut self, ring: &mut Ring<Token>, core: &mut Core, op: &DiskOp, result: IoResult) {
        let pool = ring.pool_mut();
        let mut data = None;
        match op.work {
            Work::Read(buf) if result.is_ok() => data = Some(buf),
            Work::Read(buf) | Work::Write(buf) | Work::Meta(buf, _) => pool.release(buf),
            Work::Flush | Work::Zero(_) => {}
        }
        if let Some((buf, alg)) = data.zip(op.digest) {
            // Here, since block data does not go to other threads: 4 KiB take some microseconds.
            let digest = alg.of(&pool.bytes(buf)[..op.len_bytes() as usize]);
            core.event(Event::DiskDigest { tag: op.tag, buf, digest: digest.as_bytes() });
            return;
        }
        core.event(if op.is_meta() {
            Event::MetaDone { tag: op.tag, result }
        } else {
            Event::DiskDone { tag: op.tag, result, buf: data }
        });
    }

    fn start_next_meta(&mut self, ring: &mut Ring<Token>, disk: usize, offset_bytes: u64) {
        let same = |index: &u32| {
            let op = &self.ops[*index as usize];
            op.disk == disk && op.offset_bytes == offset_bytes
        };
        if let Some(at) = self.meta_waiting.iter().position(same) {
            let index = self.meta_waiting.remove(at).expect("it was just found");
            self.submit_step(ring, index as usize);
        }
    }

    /// Tells the core of operations that never started. True when there were any.
    pub(super) fn deliver_ended(&mut self, core: &mut Core) -> bool {
        let any = self.has_ended();
        for (vol, attach, disk) in self.measured.drain(..) {
            core.event(Event::DiskMeasured { vol, attach, disk: disk.as_ref() });
        }
        for (tag, is_meta, result) in self.ended.drain(..) {
            core.event(if is_meta {
                Event::MetaDone { tag, result }
            } else {
                Event::DiskDone { tag, result, buf: None }
            });
        }
        any
    }

    /// Operations wait for [`deliver_ended`](Self::deliver_ended).
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty() || !self.measured.is_empty()
    }
}

/// The disk of the volume was closed before the operation.
const GONE: IoResult = IoResult::Err(ENODEV);
const ENODEV: i32 = 19;
const ENOMEM: i32 = 12;
