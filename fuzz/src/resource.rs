//! A whole core between its operator, its clients, its disks and a hostile peer: the input is a list of operations.
//! The peer may say anything in any phase. It may also answer what the core sent as a peer would, bent in one byte,
//! so that the states behind a good handshake are reached too.

use model::ids::{Minor, VolumeNo};
use model::policy::{AfterSb0, AfterSb1, AfterSb2, OnIoError, OnNoData, Protocol, RrConflict};
use model::time::Duration;
use replicator::wire::{
    Ack, BarrierAck, BlockId, ChangeReply, Command as Wire, Data, Features, Header, HeaderForm, Packet,
    Request, Sock, Tail, put, put80,
};
use replicator::{
    Auth, ClientOp, Command, Config, DiskConfig, Event, HmacAlg, NetConfig, SockId, VolIdx, VolumeConfig,
};

use super::driver::{Driver, Sent};
use super::input::Input;

/// A resource as two bytes of the input describe it.
pub fn config(how: u8) -> (Config, u64) {
    let disk = DiskConfig {
        on_io_error: if how & 8 == 0 { OnIoError::Detach } else { OnIoError::PassOn },
        al_extents: 67,
        resync_rate_kib_s: 100_000,
        c_plan_ahead_ds: u32::from(how & 16) * 5 / 4,
        ..DiskConfig::default()
    };
    let volumes = 1 + u16::from(how & 1);
    let volume = |v: u16| VolumeConfig { vnr: VolumeNo(v), minor: Minor(v.into()), disk: disk.clone() };
    let on_no_data = if how & 4 == 0 { OnNoData::IoError } else { OnNoData::SuspendIo };
    let config = Config {
        name: "r0".into(),
        volumes: (0..volumes).map(volume).collect(),
        on_no_data,
        serves_by_leave: false,
    };
    // The larger one has more activity log extents than fit into the log.
    (config, if how & 2 == 0 { 4096 } else { 80 * 8192 + 24 })
}

/// Network options as two bytes of the input describe them.
pub fn net(how: u8, policies: u8) -> NetConfig {
    NetConfig {
        protocol: [Protocol::C, Protocol::B, Protocol::A, Protocol::C][usize::from(how & 3)],
        auth: (how & 4 != 0).then(|| Auth { alg: HmacAlg::Sha256, secret: b"secret".to_vec() }),
        use_rle: how & 8 == 0,
        discard_my_data: how & 16 != 0,
        tentative: how & 32 != 0,
        ko_count: u32::from(how >> 6),
        max_buffers: 64,
        max_epoch_size: if how & 64 == 0 { 2048 } else { 2 },
        after_sb_0pri: AfterSb0::from_number(u32::from(policies % 7)).unwrap_or(AfterSb0::Disconnect),
        after_sb_1pri: AfterSb1::from_number(u32::from(policies / 7 % 11)).unwrap_or(AfterSb1::Disconnect),
        after_sb_2pri: AfterSb2::from_number(u32::from(policies / 7 % 11)).unwrap_or(AfterSb2::Disconnect),
        always_asbp: policies & 64 != 0,
        verify_alg: if policies & 64 == 0 { String::new() } else { "crc32c".into() },
        csums_alg: if policies & 64 == 0 { String::new() } else { "md5".into() },
        rr_conflict: if policies & 128 == 0 { RrConflict::Disconnect } else { RrConflict::Violently },
        ..NetConfig::default()
    }
}

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (Some(how), Some(network), Some(policies)) = (input.byte(), input.byte(), input.byte()) else {
        return;
    };
    let (config, sectors) = config(how);
    let mut run = Run {
        driver: Driver::new(config, sectors, how),
        net: net(network, policies),
        volumes: 1 + (how & 1),
    };
    if how & 32 == 0 {
        for v in 0..run.volumes {
            run.driver.attach(VolIdx(v));
            run.driver.drain_disk();
        }
    }
    if how & 64 != 0 {
        run.driver.command(Command::Primary { force: true });
        run.driver.drain_disk();
    }
    if how & 128 == 0 {
        run.driver.command(Command::Connect(Box::new(run.net.clone())));
    }
    for _ in 0..400 {
        if run.operation(&mut input).is_none() {
            break;
        }
        run.driver.core.check_invariants();
    }
    run.driver.finish();
}

/// Kinds of operations, by the first byte of each.
pub mod op {
    /// A packet with the body from the input: socket, command, volume, length of the tail, body.
    pub const PACKET: u8 = 0;
    /// The same with a body of small numbers, one byte for four.
    pub const SMALL_PACKET: u8 = 1;
    /// An answer to something that the core sent.
    pub const ANSWER: u8 = 2;
    /// Any bytes.
    pub const BYTES: u8 = 3;
    /// A client's request.
    pub const REQUEST: u8 = 4;
    /// An operator's command.
    pub const COMMAND: u8 = 5;
    /// One disk operation ends.
    pub const DISK: u8 = 6;
    /// All disk operations end well.
    pub const DISKS: u8 = 7;
    /// Time passes.
    pub const TIME: u8 = 8;
    /// The core accepts a connection, whose first packet says what it is.
    pub const ACCEPT: u8 = 9;
    /// A connection attempt of the core is answered.
    pub const ATTEMPT: u8 = 10;
    /// A connection ends.
    pub const DOWN: u8 = 11;
    /// Everything that the core said and was not answered is said back to it or answered.
    pub const ECHO: u8 = 12;
    /// The peer's host takes no bytes, or takes them again.
    pub const STALL: u8 = 13;
    /// Number of kinds.
    pub const COUNT: u8 = 14;
}

struct Run {
    driver: Driver,
    net: NetConfig,
    volumes: u8,
}

impl Run {
    fn operation(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % op::COUNT {
            op::PACKET => self.packet(input, false)?,
            op::SMALL_PACKET => self.packet(input, true)?,
            op::ANSWER => {
                let (which, how, at, bend) = (input.byte()?, input.byte()?, input.byte()?, input.byte()?);
                let count = self.driver.sent.len();
                if count > 0 {
                    let sent = self.driver.sent[count - 1 - usize::from(which) % count].clone();
                    self.answer(&sent, how, (at, bend));
                }
            }
            op::BYTES => {
                let (sock, len) = (input.byte()?, input.byte()?);
                let bytes = input.up_to(usize::from(len)).to_vec();
                if let Some(id) = self.socket(sock) {
                    self.driver.arrive(id, &bytes);
                }
            }
            op::REQUEST => self.request(input)?,
            op::COMMAND => self.command(input)?,
            op::DISK => {
                let (at, how) = (input.byte()?, input.byte()?);
                self.driver.disk_done(usize::from(at), how % 8 != 7);
            }
            op::DISKS => self.driver.drain_disk(),
            op::TIME => {
                let ms = [1, 20, 100, 500, 1000, 3000, 10_000, 60_000][usize::from(input.byte()? % 8)];
                self.driver.advance(Duration::from_millis(ms));
            }
            op::ACCEPT => {
                if self.driver.sockets.len() < 8 {
                    let role = input.byte()?;
                    let id = self.driver.connected(None);
                    self.introduce(id, role);
                }
            }
            op::ATTEMPT => {
                let well = input.byte()? & 1 == 0;
                match self.driver.attempts.pop() {
                    Some(attempt) if well => drop(self.driver.connected(Some(attempt))),
                    Some(attempt) => self.driver.event(Event::ConnectFailed { attempt }),
                    None => {}
                }
            }
            op::DOWN => {
                let sock = input.byte()?;
                if let Some(id) = self.socket(sock) {
                    self.driver.disconnected(id);
                }
            }
            op::ECHO => {
                let how = input.byte()?;
                self.echo(how);
            }
            op::STALL => {
                if self.driver.stalled {
                    self.driver.unstall();
                } else {
                    self.driver.stalled = true;
                }
            }
            _ => unreachable!("the kind is below their number"),
        }
        Some(())
    }

    /// A socket by its number in the input: the established ones by what they are for, or any.
    fn socket(&self, which: u8) -> Option<SockId> {
        if let (Some((data, meta)), 0..192) = (self.driver.core.sockets(), which) {
            return Some(if which & 1 == 0 { data } else { meta });
        }
        let sockets = &self.driver.sockets;
        (!sockets.is_empty()).then(|| sockets[usize::from(which >> 1) % sockets.len()].id)
    }

    fn introduce(&mut self, id: SockId, role: u8) {
        let mut bytes = Vec::new();
        match role % 4 {
            0 => put80(&mut bytes, &Packet::InitialData),
            1 => put80(&mut bytes, &Packet::InitialMeta),
            2 => bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n"),
            _ => {}
        }
        if let Some(s) = self.driver.sockets.iter_mut().find(|s| s.id == id) {
            s.role = [Some(Sock::Data), Some(Sock::Meta), None, None][usize::from(role % 4)];
        }
        self.driver.arrive(id, &bytes);
    }

    fn packet(&mut self, input: &mut Input<'_>, small: bool) -> Option<()> {
        let (sock, command, vnr, tail) = (input.byte()?, input.byte()?, input.byte()?, input.byte()?);
        let row = &Wire::CATALOGUE[usize::from(command) % Wire::CATALOGUE.len()];
        let tail_bytes = match row.tail {
            Tail::None | Tail::Ignored => 0,
            Tail::Body { min, max } => (min + u32::from(tail)).min(max),
            Tail::Words => u32::from(tail) * 8,
            Tail::SizesExtension => u32::from(tail & 1) * 24,
            Tail::Payload => 0,
        };
        let body_bytes = (row.fixed_bytes + tail_bytes) as usize;
        let mut body = if small {
            input.up_to(body_bytes.div_ceil(4)).iter().flat_map(|b| [0, 0, 0, *b]).collect()
        } else {
            input.up_to(body_bytes).to_vec()
        };
        body.resize(body_bytes, 0);
        let payload_bytes = if row.tail == Tail::Payload { (1 + u32::from(tail)) * 512 } else { 0 };
        if let Some(id) = self.socket(sock) {
            self.put_raw(id, row.command, u16::from(vnr % 3), &body, payload_bytes);
        }
        Some(())
    }

    /// A packet in the form that the core expects.
    fn put_raw(&mut self, id: SockId, command: Wire, vnr: u16, body: &[u8], payload_bytes: u32) {
        let len = body.len() as u32 + payload_bytes;
        let form = self.driver.core.framing(id).map_or(HeaderForm::H100, |f| f.form);
        if form != HeaderForm::H100 && len > 32768 {
            return;
        }
        let mut bytes = Vec::new();
        Header { form, vnr, command, len }.encode(&mut bytes);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len() + payload_bytes as usize, 0);
        self.driver.arrive(id, &bytes);
    }

    fn request(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (how, place, len) = (input.byte()?, input.two()?, input.byte()?);
        let vol = VolIdx((how >> 7) % self.volumes);
        let sector = u64::from(place) * if how & 64 == 0 { 8 } else { 1 };
        let len_bytes = (1 + u32::from(len)) * if how & 32 == 0 { 512 } else { 4096 };
        let op = match how % 6 {
            0 => ClientOp::Read,
            1 | 2 => ClientOp::Write { buf: self.driver.buffer(), fua: how % 6 == 2 },
            3 => ClientOp::Flush,
            4 => ClientOp::Discard,
            _ => ClientOp::Zeroes { may_unmap: how & 8 == 0, fua: how & 16 == 0 },
        };
        let (sector, len_bytes) = if op == ClientOp::Flush { (0, 0) } else { (sector, len_bytes) };
        if self.driver.open_requests.len() < 200 {
            self.driver.request(vol, sector, len_bytes, op);
        } else if let ClientOp::Write { buf, .. } = op {
            self.driver.forget(buf);
        }
        Some(())
    }

    fn command(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (which, how) = (input.byte()?, input.byte()?);
        let vol = VolIdx(how % self.volumes);
        let flag = how & 128 != 0;
        if self.driver.open_commands.len() >= 16 {
            return Some(());
        }
        let command = match which % 19 {
            0 => Command::Primary { force: flag },
            1 => Command::Secondary { open: 0, force: false },
            2 => Command::Connect(Box::new(self.net.clone())),
            3 => Command::Disconnect { force: flag },
            4 => Command::Detach { vol, force: flag },
            5 => {
                self.driver.attach(vol);
                return Some(());
            }
            6 => Command::PauseSync(vol),
            7 => Command::ResumeSync(vol),
            8 => Command::Invalidate(vol),
            9 => Command::InvalidateRemote(vol),
            10 => Command::Outdate(vol),
            11 => Command::SuspendIo,
            12 => Command::ResumeIo,
            13 => Command::NewCurrentUuid { vol, clear_bitmap: flag },
            14 => Command::SetAfterDependency(vol, flag),
            15 => Command::NetOptions(Box::new(net(how, which))),
            18 => Command::Verify { vol, start_sector: None, stop_sector: flag.then_some(u64::from(how)) },
            16 => Command::DiskOptions(vol, Box::new(config(how).0.volumes.remove(0).disk)),
            _ => {
                self.driver.core.set_open(vol, flag);
                return Some(());
            }
        };
        self.driver.command(command);
        Some(())
    }

    /// What a peer would answer; `how` chooses among the answers that exist.
    fn answer(&mut self, sent: &Sent, how: u8, bend: (u8, u8)) {
        let Ok(packet) = Packet::decode(&sent.header, &sent.body, Features::ALL)
            .or_else(|_| Packet::decode(&sent.header, &sent.body, Features::NONE))
        else {
            return;
        };
        let size_bytes = sent.payload_bytes;
        let resync = Ack { sector: 0, block_id: BlockId::RESYNC, size_bytes, seq_num: 0 };
        let reply = match packet {
            Packet::Data(d) => Some(acknowledge(d, size_bytes, how)),
            Packet::Trim(t) | Packet::Zeroes(t) => {
                let d =
                    Data { sector: t.sector, block_id: t.block_id, seq_num: t.seq_num, dp_flags: t.dp_flags };
                Some(acknowledge(d, t.size_bytes, how))
            }
            Packet::DataRequest(r) | Packet::RsDataRequest(r) | Packet::RsThinReq(r) => {
                return self.answer_read(sent, &r, how, bend);
            }
            Packet::RsDataReply(d) if how % 4 == 3 => {
                Some(Packet::NegAck(Ack { sector: d.sector, ..resync }))
            }
            Packet::RsDataReply(d) if how % 4 == 2 => {
                Some(Packet::RsWriteAck(Ack { sector: d.sector, ..resync }))
            }
            Packet::RsDataReply(d) => Some(Packet::WriteAck(Ack { sector: d.sector, ..resync })),
            Packet::Barrier(b) => {
                let set_size =
                    if how & 128 == 0 { self.writes_before(b.number.0) } else { u32::from(how & 127) };
                Some(Packet::BarrierAck(BarrierAck { number: b.number, set_size }))
            }
            Packet::Ping => Some(Packet::PingAck),
            Packet::StateChgReq(_) => {
                Some(Packet::StateChgReply(ChangeReply(if how & 1 == 0 { 1 } else { -10 })))
            }
            Packet::ConnStChgReq(_) => {
                Some(Packet::ConnStChgReply(ChangeReply(if how & 1 == 0 { 1 } else { -10 })))
            }
            _ => None,
        };
        match reply {
            Some(reply) => self.put_packet(sent, &reply, 0, bend),
            None => {
                // The same said back: settings, generations, sizes, states, bitmaps.
                let mut body = sent.body.clone();
                bent(&mut body, bend);
                self.put_raw(sent.sock, sent.header.command, sent.header.vnr, &body, sent.payload_bytes);
            }
        }
    }

    fn answer_read(&mut self, sent: &Sent, r: &Request, how: u8, bend: (u8, u8)) {
        let for_resync = sent.header.command != Wire::DataRequest;
        let ack = Ack { sector: r.sector, block_id: r.block_id, size_bytes: r.size_bytes, seq_num: 0 };
        let data = Data { sector: r.sector, block_id: r.block_id, ..Data::default() };
        let (reply, payload_bytes) = match (for_resync, how % 8) {
            (true, 7) => (Packet::NegRsDreply(ack), 0),
            (true, 6) => (Packet::RsIsInSync(ack), 0),
            (true, 5) => (Packet::RsCancel(ack), 0),
            (true, _) => (Packet::RsDataReply(data), r.size_bytes),
            (false, 7) => (Packet::NegDreply(ack), 0),
            (false, _) => (Packet::DataReply(data), r.size_bytes),
        };
        self.put_packet(sent, &reply, payload_bytes, bend);
    }

    fn put_packet(&mut self, sent: &Sent, reply: &Packet<'_>, payload_bytes: u32, bend: (u8, u8)) {
        let mut framed = Vec::new();
        put(&mut framed, sent.header.vnr, reply, payload_bytes);
        bent(&mut framed[16..], bend);
        framed.resize(framed.len() + payload_bytes as usize, 0);
        let meta = !reply.command().row().socks.contains(Sock::Data);
        let id = match self.driver.core.sockets() {
            Some((_, sock)) if meta => sock,
            Some((sock, _)) => sock,
            None => sent.sock,
        };
        self.driver.arrive(id, &framed);
    }

    /// Writes of the epoch that this barrier closes, as far as they are remembered.
    fn writes_before(&self, number: u32) -> u32 {
        let mut writes = 0;
        for s in &self.driver.sent {
            match s.header.command {
                Wire::Data | Wire::Trim | Wire::Zeroes => writes += 1,
                Wire::Barrier if s.body[..4] == number.to_be_bytes() => return writes,
                Wire::Barrier => writes = 0,
                _ => {}
            }
        }
        writes
    }

    /// Opens the sockets that are missing and answers everything, for some rounds.
    fn echo(&mut self, how: u8) {
        if self.driver.core.sockets().is_none() && self.driver.sockets.is_empty() {
            for role in 0..2 {
                let id = self.driver.connected(None);
                self.introduce(id, role);
            }
            // The established check.
            self.driver.advance(Duration::from_secs(1));
        }
        for _ in 0..=how % 16 {
            if how & 128 == 0 {
                self.driver.drain_disk();
            }
            let all: Vec<Sent> = self.driver.sent.drain(..).collect();
            if all.is_empty() {
                break;
            }
            let mut writes = 0;
            for sent in all {
                // The number of writes goes with the barrier, since the list is empty by now.
                let closed = match sent.header.command {
                    Wire::Data | Wire::Trim | Wire::Zeroes => {
                        writes += 1;
                        0
                    }
                    Wire::Barrier => std::mem::take(&mut writes),
                    _ => 0,
                };
                let answer =
                    if sent.header.command == Wire::Barrier { 128 | closed.min(127) } else { how >> 4 & 3 };
                let is_answer = !sent.header.command.row().socks.contains(Sock::Data)
                    && sent.header.command != Wire::Ping;
                if !is_answer {
                    self.answer(&sent, answer as u8, (0, 0));
                }
            }
        }
    }
}

fn acknowledge(d: Data, size_bytes: u32, how: u8) -> Packet<'static> {
    let ack = Ack { sector: d.sector, block_id: d.block_id, size_bytes, seq_num: d.seq_num };
    match how % 8 {
        7 => Packet::NegAck(ack),
        6 => Packet::RetryWrite(ack),
        5 => Packet::Superseded(ack),
        4 => Packet::RsWriteAck(ack),
        3 => Packet::RecvAck(ack),
        _ => Packet::WriteAck(ack),
    }
}

/// Changes one byte.
fn bent(body: &mut [u8], (at, bend): (u8, u8)) {
    if !body.is_empty() {
        let at = usize::from(at) % body.len();
        body[at] ^= bend;
    }
}
