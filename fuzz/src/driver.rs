//! Stands in for the driver of one production core: its sockets, buffers, disks and clock. Everything the core asks
//! for is checked against the contract of `replicator::Action`; disk operations end when the input says so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::ids::BufId;
use model::time::{Duration, Instant};
use replicator::activity_log::replay::replay;
use replicator::activity_log::transaction::{AlRing, encode_initialized};
use replicator::meta::layout::{Layout, MetaKind};
use replicator::meta::superblock::{MetaFlags, SuperBlock};
use replicator::wire::{Features, FrameShape, Header, HeaderForm, Packet, Sock, frame_shape, parse_header};
use replicator::{
    Action, Actions, AttachedDisk, ClientOp, ClientRequest, ClientTag, Command, CommandId, CommandResult,
    Config, DigestAlg, DiskConfig, DownCause, Event, HandlerRun, IoResult, IoTag, Resource, SockId, VolIdx,
};

/// Metadata device: room for a bitmap of 32 GiB.
const META_SECTORS: u64 = 4096;
/// A batch that does not settle in so many rounds never does.
const ROUNDS_MAX: u32 = 500;
/// So many deadlines at one instant are a loop without end.
const DEADLINES_MAX: u32 = 1000;
/// What the core sent is remembered so far back, for answers.
const REMEMBERED: usize = 64;

/// A packet that the core sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub sock: SockId,
    pub header: Header,
    pub body: Vec<u8>,
    pub payload_bytes: u32,
}

/// The end of a TCP connection that the core has.
pub struct Socket {
    pub id: SockId,
    /// What it was opened for, once somebody has said so.
    pub role: Option<Sock>,
    inbox: Vec<u8>,
    broken: bool,
    queued_bytes: u64,
    told_bytes: u64,
}

enum Io {
    Read { digest: Option<DigestAlg> },
    Data { buf: Option<BufId> },
    Meta { vol: VolIdx, sector: u64, block: Vec<u8> },
    Handler(HandlerRun),
}

struct Pending {
    tag: IoTag,
    io: Io,
}

pub struct Driver {
    pub core: Resource,
    pub now: Instant,
    pub sockets: Vec<Socket>,
    /// Connection attempts of the core that wait for their answer.
    pub attempts: Vec<u32>,
    pub sent: VecDeque<Sent>,
    /// Bytes that the core sent, by socket, for a peer that is another core.
    pub outgoing: VecDeque<(SockId, Vec<u8>)>,
    /// The peer's host takes no bytes.
    pub stalled: bool,
    pub open_requests: BTreeSet<u64>,
    pub open_commands: BTreeSet<u64>,
    /// Volumes whose disk is open, and the commands that attached them.
    open_disks: Vec<(u8, u64)>,
    pub sectors: u64,
    volumes: u8,
    disk_config: DiskConfig,
    layout: Layout,
    /// Metadata blocks as written, by volume and sector.
    metadata: BTreeMap<(u8, u64), Vec<u8>>,
    /// References by number of the buffer.
    buffers: BTreeMap<u32, u32>,
    pending: Vec<Pending>,
    out: Actions,
    next_number: u32,
}

impl Driver {
    /// A core with fresh metadata on every volume, nothing attached.
    pub fn new(config: Config, sectors: u64, seed: u8) -> Driver {
        let layout =
            Layout::new(MetaKind::FlexibleExternal, META_SECTORS, AlRing::DEFAULT).expect("room enough");
        let mut driver = Driver {
            now: Instant(1_000_000_000),
            sockets: Vec::new(),
            attempts: Vec::new(),
            sent: VecDeque::new(),
            outgoing: VecDeque::new(),
            stalled: false,
            open_requests: BTreeSet::new(),
            open_commands: BTreeSet::new(),
            open_disks: Vec::new(),
            sectors,
            volumes: config.volumes.len() as u8,
            disk_config: config.volumes[0].disk.clone(),
            layout,
            metadata: BTreeMap::new(),
            buffers: BTreeMap::new(),
            pending: Vec::new(),
            out: Actions::default(),
            next_number: 1,
            core: Resource::new(config, [seed; 32]),
        };
        for v in 0..driver.volumes {
            driver.renew_log(v);
            let mut block = [0; 4096];
            SuperBlock::just_created(&layout, 0).encode(&mut block);
            driver.metadata.insert((v, layout.superblock_sector()), block.to_vec());
        }
        driver
    }

    fn renew_log(&mut self, v: u8) {
        let mut block = [0; 4096];
        encode_initialized(&mut block);
        for i in 0..self.layout.ring().blocks() {
            self.metadata.insert((v, self.layout.al_block_sector(i)), block.to_vec());
        }
    }

    fn read_metadata(&self, v: u8, sector: u64) -> Vec<u8> {
        self.metadata.get(&(v, sector)).cloned().unwrap_or_else(|| vec![0; 4096])
    }

    /// Reads the metadata as a start does, the activity log applied, and gives the disk to the core.
    pub fn attach(&mut self, vol: VolIdx) {
        let (v, layout) = (vol.0, self.layout);
        // Nobody else opens a disk that is in use, and what an earlier attach has under way is over before the next one reads it.
        if self.open_disks.iter().any(|(open, _)| *open == v) {
            return;
        }
        self.drain_disk();
        let raw = self.read_metadata(v, layout.superblock_sector());
        let mut sb =
            SuperBlock::decode(raw[..].try_into().expect("one block")).expect("the core's own super block");
        sb.check_for_tools(MetaKind::FlexibleExternal, META_SECTORS).expect("the core's own super block");
        let pages = (0..self.sectors.div_ceil(8 * 32768)).map(|p| layout.bitmap_page_sector(p));
        let mut bitmap: Vec<u8> = pages.clone().flat_map(|sector| self.read_metadata(v, sector)).collect();
        let ring = layout.ring();
        let area: Vec<u8> =
            (0..ring.blocks()).flat_map(|i| self.read_metadata(v, layout.al_block_sector(i))).collect();
        let log = replay(ring, &area).expect("the core's own activity log");
        if sb.flags.has(MetaFlags::PRIMARY_IND) {
            for extent in log.hot {
                let first = (extent as usize * 128).min(bitmap.len());
                let end = (first + 128).min(bitmap.len());
                bitmap[first..end].fill(0xff);
            }
        }
        for (sector, page) in pages.zip(bitmap.chunks(4096)) {
            self.metadata.insert((v, sector), page.to_vec());
        }
        self.renew_log(v);
        sb.unclean_magic = false;
        sb.flags = sb.flags.with(MetaFlags::AL_CLEAN);
        let words = bitmap.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("whole words")));
        let disk = AttachedDisk {
            super_block: sb,
            layout,
            capacity_sectors: self.sectors,
            bitmap_words: words.collect(),
            config: self.disk_config.clone(),
            max_bio_bytes: 1 << 20,
        };
        self.open_disks.push((v, u64::from(self.next_number) + 1));
        self.command(Command::Attach(vol, Box::new(disk)));
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }

    /// Gives a command and performs what follows.
    pub fn command(&mut self, command: Command) {
        let id = self.number().into();
        self.open_commands.insert(id);
        self.core.command(self.now, CommandId(id), command, &mut self.out);
        self.settle();
    }

    /// Gives an event and performs what follows.
    pub fn event(&mut self, event: Event<'_>) {
        self.core.handle(self.now, event, &mut self.out);
        self.settle();
    }

    /// A client's request; the range may be any.
    pub fn request(&mut self, vol: VolIdx, sector: u64, len_bytes: u32, op: ClientOp) {
        let tag = self.number().into();
        self.open_requests.insert(tag);
        self.event(Event::Request(ClientRequest { tag: ClientTag(tag), vol, sector, len_bytes, op }));
    }

    /// A buffer with one reference.
    pub fn buffer(&mut self) -> BufId {
        let id = self.number();
        self.buffers.insert(id, 1);
        BufId(id)
    }

    /// A buffer that was not used after all.
    pub fn forget(&mut self, buf: BufId) {
        self.release(buf);
    }

    /// A new connection; `attempt` if the core made it.
    pub fn connected(&mut self, attempt: Option<u32>) -> SockId {
        let id = SockId(self.number());
        let (queued_bytes, told_bytes) = (0, 0);
        self.sockets.push(Socket {
            id,
            role: None,
            inbox: Vec::new(),
            broken: false,
            queued_bytes,
            told_bytes,
        });
        match attempt {
            Some(attempt) => self.event(Event::Connected { attempt, sock: id }),
            None => self.event(Event::Accepted { sock: id }),
        }
        id
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, id: SockId) {
        if let Some(i) = self.sockets.iter().position(|s| s.id == id) {
            self.sockets.remove(i);
            self.event(Event::SocketDown { sock: id, cause: DownCause::Closed });
        }
    }

    /// Bytes of the peer arrive.
    pub fn arrive(&mut self, id: SockId, bytes: &[u8]) {
        if let Some(s) = self.sockets.iter_mut().find(|s| s.id == id && !s.broken) {
            s.inbox.extend_from_slice(bytes);
        }
        self.settle();
    }

    /// Ends the disk operation at this place of the queue.
    pub fn disk_done(&mut self, at: usize, ok: bool) {
        if at >= self.pending.len() {
            return;
        }
        let Pending { tag, io } = self.pending.remove(at);
        let result = if ok { IoResult::Ok } else { IoResult::Err(5) };
        match io {
            Io::Read { digest: Some(alg) } if ok => {
                // Buffers have no contents here: all blocks are alike.
                let (buf, digest) = (self.buffer(), alg.of(&[]));
                self.event(Event::DiskDigest { tag, buf, digest: digest.as_bytes() });
            }
            Io::Read { .. } => {
                let buf = ok.then(|| self.buffer());
                self.event(Event::DiskDone { tag, result, buf });
            }
            Io::Data { buf } => {
                if let Some(buf) = buf {
                    self.release(buf);
                }
                self.event(Event::DiskDone { tag, result, buf: None });
            }
            Io::Meta { vol, sector, block } => {
                if ok {
                    self.metadata.insert((vol.0, sector), block);
                }
                self.event(Event::MetaDone { tag, result });
            }
            // Every exit code that means something, and some that do not.
            Io::Handler(run) => {
                let exit_code = if ok { (run.0 % 9) as i32 } else { 127 };
                self.event(Event::HandlerDone { run, exit_code });
            }
        }
    }

    /// Ends all disk operations well, and those that follow from it.
    pub fn drain_disk(&mut self) {
        let mut rounds = 0;
        while !self.pending.is_empty() && rounds < 2000 {
            self.disk_done(0, true);
            rounds += 1;
        }
    }

    /// Lets time pass, with what falls due; stops early when there is a lot of it.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let (mut same, mut all) = (0, 0);
        while let Some(at) = self.core.deadline().filter(|at| *at <= until) {
            same = if at > self.now { 0 } else { same + 1 };
            assert!(same < DEADLINES_MAX, "deadlines go on and on at {:?}", self.now);
            all += 1;
            if all > 200 {
                return;
            }
            self.now = self.now.max(at);
            self.event(Event::Deadline);
        }
        self.now = until;
    }

    /// The peer's host takes bytes again.
    pub fn unstall(&mut self) {
        self.stalled = false;
        self.settle();
    }

    /// Performs everything until nothing is left to do.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "a batch settles");
            self.core.end_batch(self.now, &mut self.out);
            let batch = std::mem::take(&mut self.out);
            for action in &batch.list {
                self.perform(*action, &batch);
            }
            let done = batch.list.is_empty();
            if !self.deliver() && !self.tell_sent() && done {
                break;
            }
        }
    }

    fn tell_sent(&mut self) -> bool {
        if self.stalled {
            return false;
        }
        let waiting = self.sockets.iter_mut().find(|s| s.told_bytes < s.queued_bytes);
        let Some(s) = waiting else { return false };
        s.told_bytes = s.queued_bytes;
        let (sock, total_bytes) = (s.id, s.told_bytes);
        self.core.handle(self.now, Event::Sent { sock, total_bytes }, &mut self.out);
        true
    }

    /// Cuts one packet out of what arrived; true if there was one.
    fn deliver(&mut self) -> bool {
        for i in 0..self.sockets.len() {
            let s = &self.sockets[i];
            if s.broken || s.inbox.is_empty() {
                continue;
            }
            let sock = s.id;
            let Some(framing) = self.core.framing(sock) else { continue };
            let parsed = parse_header(framing.form, &s.inbox).and_then(|found| {
                let Some((header, header_bytes)) = found else { return Ok(None) };
                let shape = match framing.sock {
                    Some(which) => frame_shape(&header, which, framing.features)?,
                    None => FrameShape::default(),
                };
                Ok(Some((header, header_bytes, shape)))
            });
            match parsed {
                Ok(None) => continue,
                Err(error) => {
                    self.sockets[i].broken = true;
                    self.core.handle(self.now, Event::BadFrame { sock, error }, &mut self.out);
                    return true;
                }
                Ok(Some((header, at, shape))) => {
                    let body_end = at + (shape.body_bytes + shape.digest_bytes) as usize;
                    let end = body_end + shape.payload_bytes as usize;
                    if self.sockets[i].inbox.len() < end {
                        continue;
                    }
                    let frame: Vec<u8> = self.sockets[i].inbox.drain(..end).collect();
                    let payload = (shape.payload_bytes > 0).then(|| self.buffer());
                    let body = &frame[at..body_end];
                    self.core.handle(self.now, Event::Frame { sock, header, body, payload }, &mut self.out);
                    return true;
                }
            }
        }
        false
    }

    fn check_range(&self, vol: VolIdx, sector: u64, len_bytes: u32) {
        assert!(vol.0 < self.volumes, "a volume that exists");
        assert!(len_bytes > 0 && len_bytes.is_multiple_of(512), "whole sectors");
        let end = sector.checked_add(u64::from(len_bytes / 512));
        assert!(end.is_some_and(|end| end <= self.sectors), "sector {sector}+{len_bytes} is beyond the disk");
    }

    fn perform(&mut self, action: Action, batch: &Actions) {
        match action {
            Action::DiskRead { tag, vol, sector, len_bytes, digest } => {
                self.check_range(vol, sector, len_bytes);
                self.pending.push(Pending { tag, io: Io::Read { digest } });
            }
            Action::DiskWrite { tag, vol, sector, len_bytes, buf, .. } => {
                self.check_range(vol, sector, len_bytes);
                *self.buffers.get_mut(&buf.0).expect("a live buffer is written") += 1;
                self.pending.push(Pending { tag, io: Io::Data { buf: Some(buf) } });
            }
            Action::DiskZero { tag, vol, sector, len_bytes, .. } => {
                self.check_range(vol, sector, len_bytes);
                self.pending.push(Pending { tag, io: Io::Data { buf: None } });
            }
            Action::DiskFlush { tag, .. } => self.pending.push(Pending { tag, io: Io::Data { buf: None } }),
            Action::MetaWrite { tag, vol, md_sector, block, .. } => {
                let block = batch.span(block).to_vec();
                assert_eq!(block.len(), 4096);
                assert!(md_sector + 8 <= META_SECTORS, "metadata sector {md_sector} is beyond the device");
                let twice = self.pending.iter().any(
                    |p| matches!(p.io, Io::Meta { vol: v, sector, .. } if v == vol && sector == md_sector),
                );
                assert!(!twice, "metadata sector {md_sector} is written twice at once");
                self.pending.push(Pending { tag, io: Io::Meta { vol, sector: md_sector, block } });
            }
            Action::Send { sock, bytes, payload, .. } => self.send(sock, batch.span(bytes), payload),
            Action::Release { buf } => self.release(buf),
            Action::ClientDone { tag, buf, .. } => {
                assert!(self.open_requests.remove(&tag.0), "a request is answered once");
                if let Some(buf) = buf {
                    self.release(buf);
                }
            }
            Action::Connect { attempt, .. } => self.attempts.push(attempt),
            Action::CloseSocket { sock, .. } => {
                let i =
                    self.sockets.iter().position(|s| s.id == sock).expect("the core closes a socket once");
                self.sockets.remove(i);
            }
            Action::CommandDone { id, result } => {
                assert!(self.open_commands.remove(&id.0), "a command is answered once");
                // The driver closes a disk whose attach is refused.
                self.open_disks.retain(|(_, attach)| *attach != id.0 || result == CommandResult::Ok);
            }
            Action::CloseDisk { vol } => self.open_disks.retain(|(open, _)| *open != vol.0),
            Action::RunHandler { run, .. } => {
                self.pending.push(Pending { tag: IoTag(0), io: Io::Handler(run) });
            }
            // The disks here stay as large as they are.
            Action::MeasureDisk { vol, attach } => {
                self.core.handle(self.now, Event::DiskMeasured { vol, attach, disk: None }, &mut self.out);
            }
            Action::Log { text, .. } => assert!((text as usize) < batch.texts.len()),
            Action::Listen | Action::Unlisten | Action::ExportChanged { .. } => {}
        }
    }

    fn release(&mut self, buf: BufId) {
        let references = self.buffers.get_mut(&buf.0).expect("a live buffer is released");
        *references -= 1;
        if *references == 0 {
            self.buffers.remove(&buf.0);
        }
    }

    /// What the core sends is well formed, whatever the peer said before.
    fn send(&mut self, sock: SockId, bytes: &[u8], payload: Option<(BufId, u32)>) {
        let payload_bytes = payload.map_or(0, |(buf, len_bytes)| {
            assert!(self.buffers.contains_key(&buf.0), "a live buffer is sent");
            len_bytes
        });
        let forms = [HeaderForm::H100, HeaderForm::H80];
        let parsed = forms.iter().find_map(|form| parse_header(*form, bytes).ok().flatten());
        let (header, at) = parsed.expect("a proper header");
        let body = &bytes[at..];
        assert_eq!(header.len as usize, body.len() + payload_bytes as usize, "{header:?}");
        let limits = [Features::ALL, Features::NONE];
        let proper = limits.iter().any(|features| Packet::decode(&header, body, *features).is_ok());
        assert!(proper, "{header:?} has a proper body");
        let s = self.sockets.iter_mut().find(|s| s.id == sock).expect("the core sends on sockets it has");
        s.queued_bytes += (bytes.len() + payload_bytes as usize) as u64;
        match header.command {
            replicator::wire::Command::InitialData => s.role = Some(Sock::Data),
            replicator::wire::Command::InitialMeta => s.role = Some(Sock::Meta),
            _ => {}
        }
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent { sock, header, body: body.to_vec(), payload_bytes });
        let mut stream = bytes.to_vec();
        stream.resize(bytes.len() + payload_bytes as usize, 0);
        self.outgoing.push_back((sock, stream));
    }

    /// Ends everything in good order: no operation, request, command or buffer may be left over.
    pub fn finish(mut self) {
        self.unstall();
        self.drain_disk();
        while let Some(s) = self.sockets.first() {
            let id = s.id;
            self.disconnected(id);
        }
        self.command(Command::Disconnect { force: true });
        self.command(Command::ResumeIo);
        for _ in 0..4 {
            self.drain_disk();
            while let Some(s) = self.sockets.first() {
                let id = s.id;
                self.disconnected(id);
            }
            self.advance(Duration::from_secs(30));
        }
        let volumes = (0..self.volumes).map(|v| self.core.volume_state(VolIdx(v)));
        let states: Vec<String> = volumes.map(|s| format!("{s:?}")).collect();
        assert!(self.open_commands.is_empty(), "commands are left over: {states:?}");
        assert!(self.open_requests.is_empty(), "requests are left over: {states:?}");
        assert!(self.buffers.is_empty(), "buffers are left over: {states:?}");
        assert!(!self.core.is_busy(), "something is left over: {states:?}");
    }
}
