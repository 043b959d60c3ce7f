//! One node of the exhaustive walks: the production core, and a driver that takes every operation in the smallest
//! steps there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::ids::{BufId, Minor, VolumeNo};
use model::policy::OnNoData;
use model::time::Instant;
use replicator::activity_log::replay::replay;
use replicator::activity_log::transaction::{AlRing, encode_initialized};
use replicator::meta::layout::{Layout, MetaKind};
use replicator::meta::superblock::{MetaFlags, SuperBlock};
use replicator::wire::parse_header;
use replicator::{
    Action, Actions, AttachedDisk, ClientOp, ClientRequest, ClientResult, ClientTag, Command, CommandId,
    CommandResult, Config, DiskConfig, DownCause, Event, IoResult, IoTag, MeasuredDisk, Resource, SockId,
    VolIdx, VolumeConfig,
};

use super::media::{Lie, Media, Place, Raw};

/// Sectors of a block, the unit of data here.
pub const BLOCK_SECTORS: u64 = 8;
const VOLUME: VolIdx = VolIdx(0);

/// Packet bytes and the versions of the blocks behind them.
#[derive(Clone, Debug)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub blocks: Vec<u64>,
}

/// An operation of the disks that has not ended.
enum Op {
    Read {
        tag: IoTag,
        block: u64,
        count: u64,
    },
    Write {
        tag: IoTag,
        write: u64,
        block: u64,
        count: u64,
        fua: bool,
    },
    Flush {
        tag: IoTag,
        point: u64,
    },
    /// The flush before a metadata write.
    FlushFirst {
        tag: IoTag,
        point: u64,
        sector: u64,
        block: Vec<u8>,
        fua: bool,
    },
    Meta {
        tag: IoTag,
        write: u64,
        sector: u64,
        fua: bool,
    },
}

pub struct Station {
    pub core: Resource,
    pub media: Media,
    pub layout: Layout,
    /// Where metadata is looked for after a loss of power, the first that is there counts.
    pub places: Vec<Layout>,
    /// What was sent and has not been taken, by socket.
    pub outbox: VecDeque<(SockId, Message)>,
    pub closed: Vec<SockId>,
    pub attempts: Vec<u32>,
    pub commands: BTreeMap<u64, CommandResult>,
    pub open_requests: BTreeSet<u64>,
    /// Requests that failed.
    pub failed: u64,
    /// Activity log blocks written.
    pub transactions: u64,
    /// Every extent that a transaction could have named.
    pub ever_hot: BTreeSet<u32>,
    ops: Vec<Op>,
    inboxes: BTreeMap<SockId, VecDeque<Message>>,
    sent_bytes: BTreeMap<SockId, u64>,
    buffers: BTreeMap<u32, (Vec<u64>, u32)>,
    out: Actions,
    sectors: u64,
    disk: DiskConfig,
    next_number: u64,
    lives: u8,
}

impl Station {
    /// A node with fresh metadata on devices of its own, Diskless.
    pub fn new(side: u8, sectors: u64, place: Place, lie: Lie, disk: DiskConfig) -> Station {
        // Addresses of metadata are apart from those of the data here, whatever the place: the cache is what counts.
        let layout =
            Layout::new(MetaKind::FlexibleExternal, 4096, AlRing::DEFAULT).expect("a layout for 2 MiB");
        let media = Media::new(place, lie);
        let mut station = Station {
            core: new_core(&disk, [side; 32]),
            media,
            layout,
            places: vec![layout],
            outbox: VecDeque::new(),
            closed: Vec::new(),
            attempts: Vec::new(),
            commands: BTreeMap::new(),
            open_requests: BTreeSet::new(),
            failed: 0,
            transactions: 0,
            ever_hot: BTreeSet::new(),
            ops: Vec::new(),
            inboxes: BTreeMap::new(),
            sent_bytes: BTreeMap::new(),
            buffers: BTreeMap::new(),
            out: Actions::new(),
            sectors,
            disk,
            next_number: 0,
            lives: side,
        };
        station.store_fresh();
        station
    }

    /// Fresh metadata at the end of the device, which gets as large as that takes.
    pub fn make_internal(&mut self) {
        let ring = AlRing::DEFAULT;
        let fits = |b: &u64| {
            Layout::new(MetaKind::Internal, *b, ring).is_ok_and(|l| l.usable_sectors(*b) >= self.sectors)
        };
        let backing = (self.sectors..).find(fits).expect("there is room for metadata");
        self.layout = Layout::new(MetaKind::Internal, backing, ring).expect("just tried");
        self.places = vec![self.layout];
        self.sectors = self.layout.usable_sectors(backing);
        self.store_fresh();
    }

    /// The device becomes larger; its last block holds `version`.
    pub fn grow(&mut self, by_sectors: u64, version: u64) {
        let backing = self.places[0].superblock_sector() + 8 + by_sectors;
        let layout = Layout::new(MetaKind::Internal, backing, AlRing::DEFAULT).expect("it has grown");
        self.places.insert(0, layout);
        let last = layout.usable_sectors(backing) / BLOCK_SECTORS - 1;
        let write = self.number();
        self.media.data.submit(write, last, &[version]);
        let clock = self.media.tick();
        self.media.data.complete(write, last, 1, clock, true);
    }

    /// What a look at the device finds now.
    pub fn measured(&self) -> MeasuredDisk {
        let layout = self.places[0];
        let capacity_sectors = match layout.kind() {
            MetaKind::Internal => layout.usable_sectors(layout.superblock_sector() + 8),
            MetaKind::FlexibleExternal | MetaKind::Indexed(_) => self.sectors,
        };
        MeasuredDisk { capacity_sectors, layout }
    }

    fn store_fresh(&mut self) {
        let layout = self.layout;
        let mut block = [0; 4096];
        encode_initialized(&mut block);
        for i in 0..layout.ring().blocks() {
            self.media.store_meta(layout.al_block_sector(i), &block);
        }
        SuperBlock::just_created(&layout, 0).encode(&mut block);
        self.media.store_meta(layout.superblock_sector(), &block);
    }

    /// The power fails; `data` and `meta` choose what is found afterwards. Then the process starts anew.
    pub fn lose_power(
        &mut self,
        data: impl FnMut(&BTreeSet<u64>) -> u64,
        meta: impl FnMut(&BTreeSet<Raw>) -> Raw,
    ) {
        self.media.data.lose_power(data);
        self.media.meta.lose_power(meta);
        self.lives += 16;
        self.core = new_core(&self.disk, [self.lives; 32]);
        self.ops.clear();
        self.outbox.clear();
        self.closed.clear();
        self.attempts.clear();
        self.commands.clear();
        self.open_requests.clear();
        self.inboxes.clear();
        self.sent_bytes.clear();
        self.buffers.clear();
        self.out.clear();
    }

    /// What apply-al leaves on the devices and an attach reads.
    pub fn load(&mut self) -> AttachedDisk {
        let found = self.places.iter().find_map(|layout| {
            let raw = self.media.read_meta(layout.superblock_sector(), 8);
            SuperBlock::decode(raw[..].try_into().expect("eight sectors")).ok().map(|sb| (*layout, sb))
        });
        let (layout, mut sb) = found.expect("a super block");
        let pages = sb.la_size_sectors.max(self.sectors).div_ceil(BLOCK_SECTORS).div_ceil(32768);
        let mut bitmap = self.media.read_meta(layout.bitmap_sector(), pages * 8);
        let ring = layout.ring();
        let area = self.media.read_meta(layout.al_sector(), u64::from(ring.blocks()) * 8);
        // The ring of metadata that was being moved need not be one; everything is synced then.
        let moving = sb.flags.has(MetaFlags::FULL_SYNC) && sb.flags.has(MetaFlags::AL_DISABLED);
        let log = match replay(ring, &area) {
            Err(_) if moving => Default::default(),
            log => log.expect("the activity log always replays"),
        };
        if sb.flags.has(MetaFlags::PRIMARY_IND) {
            for extent in log.hot {
                let first = extent as usize * 128;
                bitmap[first..first + 128].fill(0xff);
            }
        }
        // As check-resize does, the metadata goes to the end of the device as it is.
        let layout = self.places[0];
        sb.md_size_sectors = layout.md_size_sectors();
        sb.al_offset_sectors = layout.al_offset_sectors();
        sb.bm_offset_sectors = layout.bm_offset_sectors();
        self.layout = layout;
        self.sectors = self.measured().capacity_sectors;
        self.media.store_meta(layout.bitmap_sector(), &bitmap);
        let mut block = [0; 4096];
        encode_initialized(&mut block);
        for i in 0..ring.blocks() {
            self.media.store_meta(layout.al_block_sector(i), &block);
        }
        sb.unclean_magic = false;
        sb.flags = sb.flags.with(MetaFlags::AL_CLEAN);
        sb.encode(&mut block);
        self.media.store_meta(layout.superblock_sector(), &block);
        let words = bitmap.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("whole words")));
        AttachedDisk {
            super_block: sb,
            layout,
            capacity_sectors: self.sectors,
            bitmap_words: words.collect(),
            config: self.disk.clone(),
            max_bio_bytes: 1 << 20,
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Gives a command; its result comes into `commands`.
    pub fn command(&mut self, now: Instant, command: Command) -> u64 {
        let id = self.number();
        self.core.command(now, CommandId(id), command, &mut self.out);
        self.settle(now);
        id
    }

    /// Gives an event.
    pub fn event(&mut self, now: Instant, event: Event<'_>) {
        self.core.handle(now, event, &mut self.out);
        self.settle(now);
    }

    /// A client writes whole blocks.
    pub fn write(&mut self, now: Instant, block: u64, versions: Vec<u64>) {
        let (tag, len_bytes) = (self.number(), versions.len() as u32 * 4096);
        let buf = self.buffer(versions);
        self.open_requests.insert(tag);
        let op = ClientOp::Write { buf, fua: false };
        let (tag, sector) = (ClientTag(tag), block * BLOCK_SECTORS);
        self.event(now, Event::Request(ClientRequest { tag, vol: VOLUME, sector, len_bytes, op }));
    }

    /// A client asks for a flush.
    pub fn flush(&mut self, now: Instant) {
        let tag = self.number();
        self.open_requests.insert(tag);
        let tag = ClientTag(tag);
        let r = ClientRequest { tag, vol: VOLUME, sector: 0, len_bytes: 0, op: ClientOp::Flush };
        self.event(now, Event::Request(r));
    }

    /// A connection was made.
    pub fn connected(&mut self, now: Instant, sock: SockId, attempt: Option<u32>) {
        self.inboxes.insert(sock, VecDeque::new());
        match attempt {
            Some(attempt) => self.event(now, Event::Connected { attempt, sock }),
            None => self.event(now, Event::Accepted { sock }),
        }
    }

    /// The other side closed a connection.
    pub fn disconnected(&mut self, now: Instant, sock: SockId) {
        if self.inboxes.remove(&sock).is_some() {
            self.event(now, Event::SocketDown { sock, cause: DownCause::Closed });
        }
    }

    /// A message arrives.
    pub fn arrive(&mut self, now: Instant, sock: SockId, message: Message) {
        if let Some(inbox) = self.inboxes.get_mut(&sock) {
            inbox.push_back(message);
            self.settle(now);
        }
    }

    /// Disk operations under way.
    pub fn ops(&self) -> usize {
        self.ops.len()
    }

    /// The next step of one of them.
    pub fn progress(&mut self, now: Instant, at: usize) {
        match self.ops.remove(at) {
            Op::Read { tag, block, count } => {
                let versions = (block..block + count).map(|b| self.media.data.read(b)).collect();
                let buf = Some(self.buffer(versions));
                self.event(now, Event::DiskDone { tag, result: IoResult::Ok, buf });
            }
            Op::Write { tag, write, block, count, fua } => {
                let clock = self.media.tick();
                self.media.data.complete(write, block, count, clock, fua);
                self.event(now, Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Op::Flush { tag, point } => {
                self.media.flush_data(point);
                self.event(now, Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Op::FlushFirst { tag, point, sector, block, fua } => {
                self.media.flush_first(point);
                self.begin_meta(tag, sector, &block, fua);
            }
            Op::Meta { tag, write, sector, fua } => {
                let clock = self.media.tick();
                let stable = fua && self.media.lie != Lie::NoForcedAccess;
                self.media.meta.complete(write, sector, 8, clock, stable);
                if self.media.lie != Lie::EarlyCompletion {
                    self.event(now, Event::MetaDone { tag, result: IoResult::Ok });
                }
            }
        }
    }

    fn begin_meta(&mut self, tag: IoTag, sector: u64, block: &[u8], fua: bool) {
        let write = self.number();
        let parts: Vec<Raw> =
            block.chunks(512).map(|c| c.try_into().expect("metadata is written in sectors")).collect();
        self.media.meta.submit(write, sector, &parts);
        self.ops.push(Op::Meta { tag, write, sector, fua });
    }

    fn settle(&mut self, now: Instant) {
        for round in 0.. {
            assert!(round < 100, "a batch settles");
            self.core.end_batch(now, &mut self.out);
            let batch = std::mem::take(&mut self.out);
            for action in &batch.list {
                self.perform(now, *action, &batch);
            }
            if !self.deliver(now) && batch.list.is_empty() {
                break;
            }
        }
        self.core.check_invariants();
    }

    fn deliver(&mut self, now: Instant) -> bool {
        let waiting: Vec<SockId> =
            self.inboxes.iter().filter(|(_, list)| !list.is_empty()).map(|(s, _)| *s).collect();
        for sock in waiting {
            let Some(framing) = self.core.framing(sock) else { continue };
            let inbox = self.inboxes.get_mut(&sock).expect("listed");
            let message = inbox.pop_front().expect("not empty");
            let parsed = parse_header(framing.form, &message.bytes).expect("a core sends proper headers");
            let (header, at) = parsed.expect("a message holds a whole header");
            let payload = (!message.blocks.is_empty()).then(|| self.buffer(message.blocks));
            let event = Event::Frame { sock, header, body: &message.bytes[at..], payload };
            self.core.handle(now, event, &mut self.out);
            return true;
        }
        false
    }

    fn buffer(&mut self, versions: Vec<u64>) -> BufId {
        let id = self.number() as u32;
        self.buffers.insert(id, (versions, 1));
        BufId(id)
    }

    fn release(&mut self, buf: BufId) {
        let (_, references) = self.buffers.get_mut(&buf.0).expect("a live buffer is released");
        *references -= 1;
        if *references == 0 {
            self.buffers.remove(&buf.0);
        }
    }

    fn perform(&mut self, now: Instant, action: Action, batch: &Actions) {
        let blocks = |sector: u64, len_bytes: u32| {
            assert!(sector.is_multiple_of(BLOCK_SECTORS) && len_bytes.is_multiple_of(4096), "whole blocks");
            (sector / BLOCK_SECTORS, u64::from(len_bytes / 4096))
        };
        match action {
            Action::DiskRead { tag, sector, len_bytes, .. } => {
                let (block, count) = blocks(sector, len_bytes);
                self.ops.push(Op::Read { tag, block, count });
            }
            Action::DiskWrite { tag, sector, len_bytes, buf, fua, .. } => {
                let (block, count) = blocks(sector, len_bytes);
                let write = self.number();
                self.media.data.submit(write, block, &self.buffers[&buf.0].0[..count as usize]);
                self.ops.push(Op::Write { tag, write, block, count, fua });
            }
            Action::DiskZero { .. } => unreachable!("nobody discards here"),
            Action::DiskFlush { tag, .. } => {
                let point = self.media.clock();
                self.ops.push(Op::Flush { tag, point });
            }
            Action::MetaWrite { tag, md_sector, block, flush_before, fua, .. } => {
                let block = batch.span(block).to_vec();
                let ring = self.layout.al_sector()
                    ..self.layout.al_sector() + u64::from(self.layout.ring().sectors());
                self.transactions += u64::from(ring.contains(&md_sector));
                if self.media.lie == Lie::EarlyCompletion {
                    self.core.handle(now, Event::MetaDone { tag, result: IoResult::Ok }, &mut self.out);
                }
                if flush_before && self.media.lie != Lie::NoFlushBefore {
                    let point = self.media.clock();
                    self.ops.push(Op::FlushFirst { tag, point, sector: md_sector, block, fua });
                } else {
                    self.begin_meta(tag, md_sector, &block, fua);
                }
            }
            Action::Send { sock, bytes, payload, .. } => {
                let bytes = batch.span(bytes).to_vec();
                let blocks = payload
                    .map_or(Vec::new(), |(buf, len)| self.buffers[&buf.0].0[..len as usize / 4096].to_vec());
                let total = self.sent_bytes.entry(sock).or_default();
                *total += (bytes.len() + blocks.len() * 4096) as u64;
                let total_bytes = *total;
                self.outbox.push_back((sock, Message { bytes, blocks }));
                self.core.handle(now, Event::Sent { sock, total_bytes }, &mut self.out);
            }
            Action::Release { buf } => self.release(buf),
            Action::ClientDone { tag, result, buf } => {
                assert!(self.open_requests.remove(&tag.0), "a request is answered once");
                self.failed += u64::from(result != ClientResult::Ok);
                if let Some(buf) = buf {
                    self.release(buf);
                }
            }
            Action::Connect { attempt, .. } => self.attempts.push(attempt),
            Action::CloseSocket { sock, .. } => {
                self.inboxes.remove(&sock);
                self.closed.push(sock);
            }
            Action::CommandDone { id, result } => {
                self.commands.insert(id.0, result);
            }
            Action::RunHandler { run, .. } => {
                self.core.handle(now, Event::HandlerDone { run, exit_code: 0 }, &mut self.out);
            }
            Action::MeasureDisk { vol, attach } => {
                let disk = self.measured();
                self.core.handle(now, Event::DiskMeasured { vol, attach, disk: Some(&disk) }, &mut self.out);
            }
            Action::Listen
            | Action::Unlisten
            | Action::CloseDisk { .. }
            | Action::ExportChanged { .. }
            | Action::Log { .. } => {}
        }
    }
}

fn new_core(disk: &DiskConfig, seed: [u8; 32]) -> Resource {
    let volume = VolumeConfig { vnr: VolumeNo(0), minor: Minor(0), disk: disk.clone() };
    Resource::new(
        Config {
            name: "r0".into(),
            volumes: vec![volume],
            on_no_data: OnNoData::IoError,
            serves_by_leave: false,
        },
        seed,
    )
}
