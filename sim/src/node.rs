//! One node: the core, its simulated disk, and the buffers its driver would own.

use std::rc::Rc;

use model::ids::{BufId, DataUuid, Minor, VolumeNo};
use model::policy::OnNoData;
use model::time::Duration;
use replicator::activity_log::replay::replay;
use replicator::activity_log::transaction::{AlRing, encode_initialized};
use replicator::meta::layout::{Layout, MetaKind};
use replicator::meta::superblock::{MetaFlags, SuperBlock};
use replicator::{
    Actions, AttachedDisk, Config, Digest, DigestAlg, DiskConfig, MeasuredDisk, Resource, VolIdx,
    VolumeConfig,
};

use crate::disk::Disk;
use crate::ordered::Ordered;

/// Where a sector of a volume is on a node's disk: all volumes share one, so a flush of one flushes all.
pub fn place(vol: VolIdx, sector: u64) -> u64 {
    assert!(sector < 1 << 32, "volumes are smaller than 2 TiB here");
    u64::from(vol.0) << 32 | sector
}

/// The inverse of [`place`].
pub fn volume_and_sector(at: u64) -> (VolIdx, u64) {
    (VolIdx((at >> 32) as u8), at & 0xffff_ffff)
}

fn write_new_metadata(disk: &mut Disk, vol: VolIdx, layout: &Layout) {
    let mut block = [0u8; 4096];
    encode_initialized(&mut block);
    for i in 0..layout.ring().blocks() {
        disk.write_md(place(vol, layout.al_block_sector(i)), &block, true);
    }
    SuperBlock::just_created(layout, 0).encode(&mut block);
    disk.write_md(place(vol, layout.superblock_sector()), &block, true);
}

/// Digest of block data, of which only the versions exist here: as long as that of the algorithm, and quickly made.
pub fn digest_of(alg: DigestAlg, versions: &[u64]) -> Digest {
    let mut state = 0x6469_6765_7374_u64;
    let mut stir = |x: u64| {
        state = (state ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^= state >> 29;
        state
    };
    for v in versions {
        stir(*v);
    }
    let mut bytes = [0; 64];
    for part in bytes.as_chunks_mut().0 {
        *part = stir(1).to_le_bytes();
    }
    Digest::new(&bytes[..alg.len_bytes() as usize]).expect("no algorithm makes longer digests")
}

/// Block data: one version per sector, shared by the buffers, packets and disk operations that carry it.
pub type Versions = Rc<[u64]>;

/// A buffer of versions, counted like the driver's.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// One version per sector.
    pub versions: Versions,
    refs: u32,
}

/// How often disk operations fail: once in so many times; 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Data reads.
    pub reads: u64,
    /// Data writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Metadata writes.
    pub metadata: u64,
}

/// A node of the world.
pub struct Node {
    /// The core; None while the process is down.
    pub core: Option<Resource>,
    /// Actions of the current batch.
    pub out: Actions,
    /// Backing disk; outlives the process.
    pub disk: Disk,
    /// Where its metadata is, as far as is known outside the core: what the last attach found.
    pub layout: Layout,
    /// Sectors of the backing device if the metadata is at its end; addresses of metadata are apart all the same.
    internal: Option<u64>,
    /// Where metadata at the end of the device has its place for each of its sizes so far.
    ends: Vec<Layout>,
    /// Buffers of the process.
    pub buffers: Ordered<u32, Buffer>,
    next_buffer: u32,
    /// Grows with every start; events of earlier lives are dropped.
    pub incarnation: u32,
    /// The listener is open.
    pub listening: bool,
    /// Volumes whose disk the core has, or the driver has not closed yet, one bit each.
    pub attached: u64,
    /// Disk operations under way, by volume, and the volumes whose disk is closed when they have ended.
    pub(crate) in_flight: Vec<u32>,
    pub(crate) closing: u64,
    /// How far its clock is ahead of the world's.
    pub clock_ahead: Duration,
    /// Its events are held back until then.
    pub frozen_until: model::time::Instant,
    /// Faults of its disk.
    pub faults: Faults,
    /// Disk options of its volumes.
    pub disk_config: DiskConfig,
    /// Number of volumes.
    pub volumes: u8,
    /// Without access to data.
    pub on_no_data: OnNoData,
}

impl Node {
    /// A node with fresh metadata on a disk of `sectors` data sectors.
    pub fn new(sectors: u64, disk_config: DiskConfig) -> Node {
        Node::with_volumes(sectors, disk_config, 1)
    }

    /// A node with several equal volumes.
    pub fn with_volumes(sectors: u64, disk_config: DiskConfig, volumes: u8) -> Node {
        Node::made_of(Disk::new(sectors), Actions::new(), disk_config, volumes)
    }

    /// A new node in the memory of this one.
    pub fn again(mut self, sectors: u64, disk_config: DiskConfig, volumes: u8) -> Node {
        self.disk.clear(sectors);
        self.out.clear();
        self.out.mute = false;
        Node::made_of(self.disk, self.out, disk_config, volumes)
    }

    pub(crate) fn made_of(mut disk: Disk, out: Actions, disk_config: DiskConfig, volumes: u8) -> Node {
        // External metadata keeps data and metadata addresses apart.
        let layout =
            Layout::new(MetaKind::FlexibleExternal, 4096, AlRing::DEFAULT).expect("a layout for 2 MiB");
        (0..volumes).for_each(|v| write_new_metadata(&mut disk, VolIdx(v), &layout));
        Node {
            core: None,
            out,
            disk,
            layout,
            internal: None,
            ends: Vec::new(),
            buffers: Ordered::default(),
            next_buffer: 1,
            incarnation: 0,
            listening: false,
            attached: 0,
            in_flight: vec![0; volumes.into()],
            closing: 0,
            clock_ahead: Duration::ZERO,
            frozen_until: model::time::Instant(0),
            faults: Faults::default(),
            disk_config,
            volumes,
            on_no_data: OnNoData::IoError,
        }
    }

    /// Fresh metadata on a device of this size.
    pub fn make_external(&mut self, meta_sectors: u64) {
        let kind = MetaKind::FlexibleExternal;
        self.layout = Layout::new(kind, meta_sectors, AlRing::DEFAULT).expect("a layout for this size");
        self.create_md();
    }

    /// Fresh metadata at the end of the device, which gets as large as that takes.
    pub fn make_internal(&mut self) {
        let ring = AlRing::DEFAULT;
        let wanted = self.disk.sectors;
        let fits =
            |b: &u64| Layout::new(MetaKind::Internal, *b, ring).is_ok_and(|l| l.usable_sectors(*b) >= wanted);
        let backing = (wanted..).find(fits).expect("there is room for metadata");
        self.layout = Layout::new(MetaKind::Internal, backing, ring).expect("just tried");
        self.internal = Some(backing);
        self.disk.sectors = self.layout.usable_sectors(backing);
        self.create_md();
    }

    /// New metadata on all volumes, as after `create-md`.
    pub(crate) fn create_md(&mut self) {
        (0..self.volumes).for_each(|v| write_new_metadata(&mut self.disk, VolIdx(v), &self.layout));
    }

    /// The backing device becomes larger.
    pub fn grow(&mut self, by_sectors: u64) {
        self.ends.push(self.measured().layout);
        match self.internal.as_mut() {
            Some(backing) => {
                *backing += by_sectors;
                self.disk.sectors = self.measured().capacity_sectors.max(self.disk.sectors);
            }
            None => self.disk.sectors += by_sectors,
        }
    }

    /// What a look at the device finds now.
    pub fn measured(&self) -> MeasuredDisk {
        match self.internal {
            Some(backing) => {
                let layout =
                    Layout::new(MetaKind::Internal, backing, self.layout.ring()).expect("it has grown");
                MeasuredDisk { capacity_sectors: layout.usable_sectors(backing), layout }
            }
            None => MeasuredDisk { capacity_sectors: self.disk.sectors, layout: self.layout },
        }
    }

    /// At the end of the device as it is, or as it was before.
    pub fn found_layout(&self, vol: VolIdx) -> Layout {
        let there = |layout: &Layout| {
            let raw = self.disk.read_md(place(vol, layout.superblock_sector()), 8);
            SuperBlock::decode(&raw.try_into().expect("eight sectors")).is_ok()
        };
        let now = self.measured().layout;
        [now].into_iter().chain(self.ends.iter().rev().copied()).find(there).unwrap_or(self.layout)
    }

    /// Makes the metadata say that this copy is good and the same as any other with this generation.
    pub fn preset(&mut self, generation: u64) {
        for v in (0..self.volumes).map(VolIdx) {
            let sectors = self.disk.sectors;
            self.change_super_block(v, |sb| {
                sb.la_size_sectors = sectors;
                sb.uuids.current = DataUuid(generation & !1);
                sb.flags = sb.flags.with(MetaFlags::CONSISTENT).with(MetaFlags::WAS_UP_TO_DATE);
            });
        }
    }

    /// Changes what the super block on the disk says, as somebody with a metadata tool would.
    pub fn change_super_block(&mut self, vol: VolIdx, change: impl FnOnce(&mut SuperBlock)) {
        let mut sb = self.super_block(&self.layout, vol);
        change(&mut sb);
        let mut block = [0u8; 4096];
        sb.encode(&mut block);
        self.disk.write_md(place(vol, self.layout.superblock_sector()), &block, true);
    }

    /// What the disk holds.
    pub fn super_block(&self, layout: &Layout, vol: VolIdx) -> SuperBlock {
        let raw = self.disk.read_md(place(vol, layout.superblock_sector()), 8);
        SuperBlock::decode(&raw.try_into().expect("eight sectors")).expect("the super block always decodes")
    }

    /// Starts the process.
    pub fn start(&mut self, seed: u64) {
        assert!(self.core.is_none(), "started once");
        self.incarnation += 1;
        let config = Config {
            name: "r0".into(),
            volumes: (0..self.volumes)
                .map(|v| VolumeConfig {
                    vnr: VolumeNo(v.into()),
                    minor: Minor(v.into()),
                    disk: self.disk_config.clone(),
                })
                .collect(),
            on_no_data: self.on_no_data,
            serves_by_leave: false,
        };
        let mut bytes = [0u8; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.incarnation.to_le_bytes());
        self.core = Some(Resource::new(config, bytes));
    }

    /// The process is gone.
    pub fn stop(&mut self) {
        self.core = None;
        self.out.clear();
        self.buffers.clear();
        self.listening = false;
        self.attached = 0;
        self.in_flight.fill(0);
        self.closing = 0;
        self.frozen_until = model::time::Instant(0);
    }

    /// What `apply-al` and reading the metadata give an attach.
    pub fn load(&mut self, vol: VolIdx) -> AttachedDisk {
        self.layout = self.found_layout(vol);
        let mut sb = self.super_block(&self.layout, vol);
        let pages = sb.la_size_sectors.max(self.disk.sectors).div_ceil(8).div_ceil(32768);
        let sectors = (pages * 8).min(self.layout.bitmap_area_sectors());
        let mut bitmap = self.disk.read_md(place(vol, self.layout.bitmap_sector()), sectors);
        if sb.unclean_magic || !sb.flags.has(MetaFlags::AL_CLEAN) {
            self.apply_al(vol, &mut sb, &mut bitmap);
        }
        self.move_metadata(vol, &mut sb, &bitmap);
        let words =
            bitmap.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("whole words"))).collect();
        AttachedDisk {
            super_block: sb,
            layout: self.layout,
            capacity_sectors: self.measured().capacity_sectors,
            bitmap_words: words,
            config: self.disk_config.clone(),
            max_bio_bytes: 1 << 20,
        }
    }

    /// What `check-resize` does after the device has grown.
    fn move_metadata(&mut self, vol: VolIdx, sb: &mut SuperBlock, bitmap: &[u8]) {
        let (old, new) = (self.layout, self.measured().layout);
        if old == new {
            return;
        }
        sb.md_size_sectors = new.md_size_sectors();
        sb.al_offset_sectors = new.al_offset_sectors();
        sb.bm_offset_sectors = new.bm_offset_sectors();
        let mut block = [0u8; 4096];
        self.disk.write_md(place(vol, old.superblock_sector()), &block, true);
        self.disk.write_md(place(vol, new.bitmap_sector()), bitmap, true);
        encode_initialized(&mut block);
        for i in 0..new.ring().blocks() {
            self.disk.write_md(place(vol, new.al_block_sector(i)), &block, true);
        }
        sb.encode(&mut block);
        self.disk.write_md(place(vol, new.superblock_sector()), &block, true);
        self.layout = new;
    }

    fn apply_al(&mut self, vol: VolIdx, sb: &mut SuperBlock, bitmap: &mut [u8]) {
        let ring = self.layout.ring();
        let area = self.disk.read_md(place(vol, self.layout.al_sector()), u64::from(ring.blocks()) * 8);
        // The ring of metadata that was being moved need not be one; everything is synced then.
        let moving = sb.flags.has(MetaFlags::FULL_SYNC) && sb.flags.has(MetaFlags::AL_DISABLED);
        let al = match replay(ring, &area) {
            Err(_) if moving => Default::default(),
            al => al.expect("the activity log always replays"),
        };
        if sb.flags.has(MetaFlags::PRIMARY_IND) {
            for extent in &al.hot {
                let first = *extent as usize * 128;
                let end = (first + 128).min(bitmap.len());
                if first < end {
                    bitmap[first..end].fill(0xff);
                }
            }
        }
        self.disk.write_md(place(vol, self.layout.bitmap_sector()), bitmap, true);
        let mut block = [0u8; 4096];
        encode_initialized(&mut block);
        for i in 0..ring.blocks() {
            self.disk.write_md(place(vol, self.layout.al_block_sector(i)), &block, true);
        }
        sb.unclean_magic = false;
        sb.flags = sb.flags.with(MetaFlags::AL_CLEAN);
        sb.encode(&mut block);
        self.disk.write_md(place(vol, self.layout.superblock_sector()), &block, true);
    }

    /// The core is done with the disk of a volume.
    pub(crate) fn close_disk(&mut self, vol: VolIdx) {
        self.closing |= 1 << vol.0;
        self.close_if_idle(vol);
    }

    /// A disk operation begins.
    pub(crate) fn disk_op_begins(&mut self, vol: VolIdx) {
        self.in_flight[usize::from(vol.0)] += 1;
    }

    /// A disk operation has ended.
    pub(crate) fn disk_op_ends(&mut self, vol: VolIdx) {
        self.in_flight[usize::from(vol.0)] -= 1;
        self.close_if_idle(vol);
    }

    fn close_if_idle(&mut self, vol: VolIdx) {
        let bit = 1 << vol.0;
        if self.closing & bit != 0 && self.in_flight[usize::from(vol.0)] == 0 {
            self.closing &= !bit;
            self.attached &= !bit;
        }
    }

    /// A new buffer with one reference.
    pub fn alloc(&mut self, versions: Versions) -> BufId {
        let id = self.next_buffer;
        self.next_buffer += 1;
        self.buffers.insert(id, Buffer { versions, refs: 1 });
        BufId(id)
    }

    /// Content of a buffer.
    pub fn versions(&self, buf: BufId, sectors: u64) -> Versions {
        let versions = &self.buffers.get(&buf.0).expect("a live buffer").versions;
        if versions.len() as u64 == sectors {
            return Versions::clone(versions);
        }
        versions[..sectors as usize].into()
    }

    /// Gives up a reference.
    pub fn release(&mut self, buf: BufId) {
        let b = self.buffers.get_mut(&buf.0).expect("a live buffer is released");
        b.refs -= 1;
        if b.refs == 0 {
            self.buffers.remove(&buf.0);
        }
    }
}
