//! One node of a replay: the core, its devices in memory, and the buffers that its driver would own. Everything
//! the core asks for is done at once, except what the replay holds back on purpose.

use std::collections::{HashMap, HashSet, VecDeque};

use model::ids::{BufId, Minor, VolumeNo};
use model::policy::OnNoData;
use model::time::Instant;
use replicator::activity_log::replay::replay;
use replicator::activity_log::transaction::{AlRing, encode_initialized};
use replicator::meta::layout::{Layout, MetaKind};
use replicator::meta::superblock::{MetaFlags, SuperBlock};
use replicator::wire::{Header, HeaderForm, Packet, Sock, parse_header};
use replicator::{
    Action, Actions, AttachedDisk, ClientOp, ClientRequest, ClientResult, ClientTag, Command, CommandId,
    CommandResult, Config, Digest, DiskConfig, DownCause, Event, IoResult, IoTag, Resource, SockId, VolIdx,
    VolumeConfig,
};

use super::script::Faults;

/// Backing devices of the recorded nodes: 17 MiB with internal metadata, 4342 blocks of data.
const BACKING_SECTORS: u64 = 34816;
/// Sectors of the replicated device.
pub const DATA_SECTORS: u64 = 34736;
/// Largest request of the recorded backing device.
pub const MAX_BIO_BYTES: u32 = 130_560;

/// A packet that the core sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its header.
    pub header: Header,
    /// Behind the header, without block data.
    pub body: Vec<u8>,
    /// Digest of the block data, if there is one.
    pub digest: Vec<u8>,
    /// Block data.
    pub payload: Vec<u8>,
}

/// A backing device: data and metadata.
struct Device {
    bytes: Vec<u8>,
    layout: Layout,
}

impl Device {
    fn new(data: &[u8]) -> Device {
        let layout =
            Layout::new(MetaKind::Internal, BACKING_SECTORS, AlRing::DEFAULT).expect("room for metadata");
        let mut device = Device { bytes: vec![0; BACKING_SECTORS as usize * 512], layout };
        device.bytes[..data.len()].copy_from_slice(data);
        device.make_log();
        let mut block = [0; 4096];
        SuperBlock::just_created(&layout, 0).encode(&mut block);
        device.write(layout.superblock_sector(), &block);
        device
    }

    fn read(&self, sector: u64, len_bytes: usize) -> &[u8] {
        &self.bytes[sector as usize * 512..][..len_bytes]
    }

    fn write(&mut self, sector: u64, data: &[u8]) {
        self.bytes[sector as usize * 512..][..data.len()].copy_from_slice(data);
    }

    fn make_log(&mut self) {
        let mut block = [0; 4096];
        for i in 0..self.layout.ring().blocks() {
            encode_initialized(&mut block);
            self.write(self.layout.al_block_sector(i), &block);
        }
    }

    fn super_block(&self) -> SuperBlock {
        let raw = self.read(self.layout.superblock_sector(), 4096);
        SuperBlock::decode(raw.try_into().expect("4096 bytes")).expect("our own super block")
    }

    /// Applies the activity log and reads what an attach needs.
    fn load(&mut self, config: DiskConfig) -> AttachedDisk {
        let mut sb = self.super_block();
        let (layout, ring) = (self.layout, self.layout.ring());
        let mut bitmap = self.read(layout.bitmap_sector(), 4096).to_vec();
        let area = self.read(layout.al_sector(), ring.blocks() as usize * 4096);
        let log = replay(ring, area).expect("our own activity log");
        if sb.flags.has(MetaFlags::PRIMARY_IND) {
            for extent in log.hot {
                let first = extent as usize * 128;
                let end = (first + 128).min(bitmap.len());
                bitmap[first..end].fill(0xff);
            }
        }
        self.write(layout.bitmap_sector(), &bitmap);
        self.make_log();
        sb.unclean_magic = false;
        sb.flags = sb.flags.with(MetaFlags::AL_CLEAN);
        let mut block = [0; 4096];
        sb.encode(&mut block);
        self.write(layout.superblock_sector(), &block);
        let words = bitmap.chunks(8).map(|c| u64::from_le_bytes(c.try_into().expect("whole words")));
        AttachedDisk {
            super_block: sb,
            layout,
            capacity_sectors: DATA_SECTORS,
            bitmap_words: words.collect(),
            config,
            max_bio_bytes: MAX_BIO_BYTES,
        }
    }
}

/// The node.
pub struct Node {
    pub core: Resource,
    pub now: Instant,
    /// Packets sent and not compared yet: data socket, meta socket.
    pub sent: [VecDeque<Sent>; 2],
    /// Log lines since the last look, with their volume.
    pub log: Vec<(Option<u8>, String)>,
    /// An own connection attempt that waits for its answer.
    pub attempt: Option<u32>,
    /// Sockets the core may name.
    pub open: HashMap<SockId, Option<Sock>>,
    /// The challenge the core sent last.
    pub challenge: Vec<u8>,
    /// Meta sockets on which pings stay without answer.
    pub mute: HashSet<SockId>,
    /// Pings of the peer that were answered.
    pub ping_acks: usize,
    /// How commands ended.
    pub results: Vec<(CommandId, CommandResult)>,
    /// How client requests ended.
    pub completed: HashMap<ClientTag, (ClientResult, Vec<u8>)>,
    /// Completions of own writes on the disk wait for [`Node::release_writes`].
    pub hold_writes: bool,
    /// What the disk refuses.
    pub faults: Faults,
    held: Vec<IoTag>,
    submitting: bool,
    out: Actions,
    follow: VecDeque<Event<'static>>,
    /// Reads that ended, with the digest that was wanted.
    digests: VecDeque<(IoTag, BufId, Digest)>,
    devices: Vec<Device>,
    disk_config: DiskConfig,
    buffers: HashMap<u32, (Vec<u8>, u32)>,
    next_number: u64,
    totals: HashMap<SockId, u64>,
    lives: u8,
}

impl Node {
    /// A node with one device per entry of `data`, freshly made metadata, nothing attached.
    pub fn new(side: u8, data: &[Vec<u8>], disk_config: DiskConfig) -> Node {
        Node {
            core: resource(data.len(), &disk_config, [side; 32]),
            now: Instant(0),
            sent: Default::default(),
            log: Vec::new(),
            attempt: None,
            open: HashMap::new(),
            challenge: Vec::new(),
            mute: HashSet::new(),
            ping_acks: 0,
            results: Vec::new(),
            completed: HashMap::new(),
            hold_writes: false,
            faults: Faults::None,
            held: Vec::new(),
            submitting: false,
            out: Actions::default(),
            follow: VecDeque::new(),
            digests: VecDeque::new(),
            devices: data.iter().map(|d| Device::new(d)).collect(),
            disk_config,
            buffers: HashMap::new(),
            next_number: 1,
            totals: HashMap::new(),
            lives: 0,
        }
    }

    /// The process dies and is started again; the devices stay as they are.
    pub fn crash(&mut self) {
        self.lives += 1;
        let mut seed = [self.lives; 32];
        seed[0] = 0xcc;
        self.core = resource(self.devices.len(), &self.disk_config, seed);
        (self.sent, self.attempt) = Default::default();
        self.open.clear();
        self.held.clear();
        self.follow.clear();
        self.digests.clear();
        self.buffers.clear();
        self.out.clear();
    }

    /// What a volume's data area holds.
    pub fn data(&self, vol: usize) -> &[u8] {
        self.devices[vol].read(0, DATA_SECTORS as usize * 512)
    }

    /// The super block of a volume as it is on its device.
    pub fn super_block(&self, vol: usize) -> SuperBlock {
        self.devices[vol].super_block()
    }

    /// Zeroes a block behind the core's back.
    pub fn zero(&mut self, vol: usize, sector: u64) {
        self.devices[vol].write(sector, &[0; 4096]);
    }

    /// Gives a command and performs what follows.
    pub fn command(&mut self, command: Command) -> CommandId {
        self.next_number += 1;
        let id = CommandId(self.next_number);
        self.core.command(self.now, id, command, &mut self.out);
        self.settle();
        id
    }

    /// Attaches a volume's device.
    pub fn attach(&mut self, vol: usize) -> CommandId {
        let disk = self.devices[vol].load(self.disk_config.clone());
        self.command(Command::Attach(VolIdx(vol as u8), Box::new(disk)))
    }

    /// Gives an event and performs what follows.
    pub fn event(&mut self, event: Event<'_>) {
        self.core.handle(self.now, event, &mut self.out);
        self.settle();
    }

    /// Submits a request of a client. A change of data stays unfinished on the disk if writes are held.
    pub fn request(&mut self, vol: usize, sector: u64, len_bytes: u32, op: ClientOp) -> ClientTag {
        self.next_number += 1;
        let tag = ClientTag(self.next_number);
        let request = ClientRequest { tag, vol: VolIdx(vol as u8), sector, len_bytes, op };
        self.submitting = self.hold_writes;
        self.event(Event::Request(request));
        self.submitting = false;
        tag
    }

    /// A buffer with this content and one reference.
    pub fn buffer(&mut self, content: &[u8]) -> BufId {
        self.next_number += 1;
        let id = self.next_number as u32;
        self.buffers.insert(id, (content.to_vec(), 1));
        BufId(id)
    }

    /// Ends the own writes whose completion was held back.
    pub fn release_writes(&mut self) {
        for tag in std::mem::take(&mut self.held) {
            self.event(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
        }
    }

    /// A connection was made; `attempt` if it was our own.
    pub fn connected(&mut self, sock: SockId, attempt: Option<u32>) {
        self.open.insert(sock, None);
        match attempt {
            Some(attempt) => self.event(Event::Connected { attempt, sock }),
            None => self.event(Event::Accepted { sock }),
        }
    }

    /// The peer closed a connection.
    pub fn disconnected(&mut self, sock: SockId) {
        if self.open.remove(&sock).is_some() {
            self.event(Event::SocketDown { sock, cause: DownCause::Closed });
        }
    }

    /// Lets time pass, with everything that falls due.
    pub fn advance(&mut self, to: Instant) {
        let mut rounds = 0;
        while let Some(at) = self.core.deadline().filter(|at| *at <= to) {
            self.now = self.now.max(at);
            self.event(Event::Deadline);
            rounds += 1;
            assert!(rounds < 100_000, "deadlines go on and on at {:?}", self.now);
        }
        self.now = self.now.max(to);
    }

    /// Performs everything until nothing is left to do.
    fn settle(&mut self) {
        loop {
            self.core.end_batch(self.now, &mut self.out);
            if self.out.list.is_empty() && self.follow.is_empty() && self.digests.is_empty() {
                break;
            }
            let batch = std::mem::take(&mut self.out);
            for action in &batch.list {
                self.perform(action, &batch);
            }
            while let Some(event) = self.follow.pop_front() {
                self.core.handle(self.now, event, &mut self.out);
            }
            while let Some((tag, buf, digest)) = self.digests.pop_front() {
                let event = Event::DiskDigest { tag, buf, digest: digest.as_bytes() };
                self.core.handle(self.now, event, &mut self.out);
            }
        }
        self.core.check_invariants();
    }

    fn perform(&mut self, action: &Action, batch: &Actions) {
        const EIO: IoResult = IoResult::Err(5);
        match *action {
            Action::DiskRead { tag, .. } if self.faults == Faults::Reads => {
                self.follow.push_back(Event::DiskDone { tag, result: EIO, buf: None });
            }
            Action::DiskWrite { tag, .. } if self.faults == Faults::Writes => {
                self.follow.push_back(Event::DiskDone { tag, result: EIO, buf: None });
            }
            Action::DiskRead { tag, vol, sector, len_bytes, digest: Some(alg) } => {
                let data = self.devices[vol.0 as usize].read(sector, len_bytes as usize).to_vec();
                let buf = self.buffer(&data);
                self.digests.push_back((tag, buf, alg.of(&data)));
            }
            Action::DiskRead { tag, vol, sector, len_bytes, digest: None } => {
                let data = self.devices[vol.0 as usize].read(sector, len_bytes as usize).to_vec();
                let buf = Some(self.buffer(&data));
                self.follow.push_back(Event::DiskDone { tag, result: IoResult::Ok, buf });
            }
            Action::DiskWrite { tag, vol, sector, len_bytes, buf, .. } => {
                let data = &self.buffers[&buf.0].0[..len_bytes as usize];
                self.devices[vol.0 as usize].write(sector, data);
                self.write_ends(tag);
            }
            Action::DiskZero { tag, vol, sector, len_bytes, .. } => {
                self.devices[vol.0 as usize].write(sector, &vec![0; len_bytes as usize]);
                self.write_ends(tag);
            }
            Action::DiskFlush { tag, .. } => {
                self.follow.push_back(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Action::MetaWrite { tag, vol, md_sector, block, .. } => {
                self.devices[vol.0 as usize].write(md_sector, batch.span(block));
                self.follow.push_back(Event::MetaDone { tag, result: IoResult::Ok });
            }
            Action::Send { sock, bytes, payload, digest } => {
                let payload =
                    payload.map_or(Vec::new(), |(buf, len)| self.buffers[&buf.0].0[..len as usize].to_vec());
                let digest = digest.map_or(Vec::new(), |alg| alg.of(&payload).as_bytes().to_vec());
                self.packet_sent(sock, batch.span(bytes), digest, payload);
            }
            Action::Release { buf } => self.release(buf),
            Action::ClientDone { tag, result, buf } => {
                let data = buf.map_or(Vec::new(), |b| self.buffers[&b.0].0.clone());
                if let Some(buf) = buf {
                    self.release(buf);
                }
                self.completed.insert(tag, (result, data));
            }
            Action::Connect { attempt, .. } => self.attempt = Some(attempt),
            Action::CloseSocket { sock, .. } => {
                self.open.remove(&sock).expect("the core closes a socket once");
            }
            Action::CommandDone { id, result } => self.results.push((id, result)),
            Action::Log { vol, text, .. } => {
                self.log.push((vol.map(|v| v.0), batch.texts[text as usize].clone()));
            }
            // None is configured.
            Action::RunHandler { run, .. } => {
                self.follow.push_back(Event::HandlerDone { run, exit_code: 0 });
            }
            // The recorded disks stay as large as they are.
            Action::MeasureDisk { vol, attach } => {
                self.follow.push_back(Event::DiskMeasured { vol, attach, disk: None });
            }
            Action::Listen | Action::Unlisten | Action::CloseDisk { .. } | Action::ExportChanged { .. } => {}
        }
    }

    fn write_ends(&mut self, tag: IoTag) {
        if self.submitting {
            self.held.push(tag);
        } else {
            self.follow.push_back(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
        }
    }

    fn release(&mut self, buf: BufId) {
        let entry = self.buffers.get_mut(&buf.0).expect("a live buffer is released");
        entry.1 -= 1;
        if entry.1 == 0 {
            self.buffers.remove(&buf.0);
        }
    }

    fn packet_sent(&mut self, sock: SockId, bytes: &[u8], digest: Vec<u8>, payload: Vec<u8>) {
        let total = self.totals.entry(sock).or_default();
        *total += (bytes.len() + digest.len() + payload.len()) as u64;
        self.follow.push_back(Event::Sent { sock, total_bytes: *total });
        let early = bytes.starts_with(&[0x83, 0x74, 0x02, 0x67]);
        let form = if early { HeaderForm::H80 } else { HeaderForm::H100 };
        let (header, at) = parse_header(form, bytes).expect("a proper header").expect("a whole header");
        let body = bytes[at..].to_vec();
        let known = self.open.get_mut(&sock).expect("the core sends on sockets it has");
        let features = replicator::wire::Features::ALL;
        let which = match Packet::decode(&header, &body, features).expect("a proper packet") {
            Packet::InitialData => Sock::Data,
            Packet::InitialMeta => Sock::Meta,
            // The peer opened this one; what it was opened for is set by then.
            _ => known.expect("a socket says first what it is"),
        };
        *known = Some(which);
        match Packet::decode(&header, &body, features).expect("a proper packet") {
            Packet::AuthChallenge(c) => self.challenge = c.0.to_vec(),
            Packet::Ping if !self.mute.contains(&sock) => {
                let mut answer = Vec::new();
                replicator::wire::put(&mut answer, 0, &Packet::PingAck, 0);
                let (header, _) =
                    parse_header(HeaderForm::H100, &answer).expect("own header").expect("whole");
                self.follow.push_back(Event::Frame { sock, header, body: &[], payload: None });
            }
            Packet::PingAck => self.ping_acks += 1,
            _ => {}
        }
        self.sent[which as usize].push_back(Sent { header, body, digest, payload });
    }
}

fn resource(volumes: usize, disk: &DiskConfig, seed: [u8; 32]) -> Resource {
    let volume =
        |v: usize| VolumeConfig { vnr: VolumeNo(v as u16), minor: Minor(v as u32), disk: disk.clone() };
    let config = Config {
        name: "r0".into(),
        volumes: (0..volumes).map(volume).collect(),
        on_no_data: OnNoData::IoError,
        serves_by_leave: false,
    };
    Resource::new(config, seed)
}
