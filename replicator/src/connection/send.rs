//! Everything that is sent, one function per packet.

use model::ids::BufId;
use model::state::ConnState;
use model::state_word::{StateChange, StateWord};
use model::units::SectorRange;

use super::Phase;
use crate::action::{Action, Actions};
use crate::digest::Digest;
use crate::event::SockId;
use crate::requests::Kind;
use crate::resource::Resource;
use crate::timers::Timer;
use crate::wire::{
    Ack, Barrier, BarrierAck, BarrierNo, BlockDesc, BlockId, Body, ChangeReply, ChangeRequest, Command, Data,
    DigestRequest, DpFlags, Features, Packet, Request, Sock, State, SyncUuid, Trim, UuidFlags, Uuids, put,
};

/// A layout that several packets share, with the command it is sent as.
struct As<'a, F: Fn(&mut alloc::vec::Vec<u8>)>(Command, &'a F);

impl<F: Fn(&mut alloc::vec::Vec<u8>)> Body for As<'_, F> {
    fn command(&self) -> Command {
        self.0
    }
    fn encode(&self, out: &mut alloc::vec::Vec<u8>) {
        (self.1)(out);
    }
}

/// The fixed part of requests about a block that no application asked for.
fn resync_request(range: SectorRange) -> Request {
    let size_bytes = (range.len_sectors() * 512) as u32;
    Request { sector: range.start, block_id: BlockId::RESYNC, size_bytes, pad: 0 }
}

impl Resource {
    /// Appends a packet to one of the two sockets; nothing happens when there is no such socket any more.
    pub(crate) fn send_on<P: Body>(
        &mut self,
        which: Sock,
        vnr: u16,
        packet: &P,
        payload: Option<(BufId, u32)>,
        out: &mut Actions,
    ) {
        let sock = match which {
            Sock::Data => self.conn.data,
            Sock::Meta => self.conn.meta,
        };
        let Some(sock) = sock else { return };
        let digest = self.conn.integrity_out.filter(|_| payload.is_some());
        let payload_bytes = payload.map_or(0, |(_, len)| len) + digest.map_or(0, |d| d.len_bytes());
        let bytes = out.write_bytes(|b| put(b, vnr, packet, payload_bytes));
        out.push(Action::Send { sock, bytes, payload, digest });
        self.count_queued(which, u64::from(bytes.len) + u64::from(payload_bytes));
    }

    fn count_queued(&mut self, which: Sock, n: u64) {
        let tx = match which {
            Sock::Data => &mut self.conn.data_tx,
            Sock::Meta => &mut self.conn.meta_tx,
        };
        let was_empty = tx.queued_total == tx.sent_total;
        tx.queued_total += n;
        if was_empty && self.conn.net.is_some() {
            let at = self.now + self.net().timeout;
            if which == Sock::Data {
                self.conn.ko_left = self.net().ko_count;
            }
            self.timers.set(
                match which {
                    Sock::Data => Timer::SendStallData,
                    Sock::Meta => Timer::SendStallMeta,
                },
                at,
            );
        }
    }

    /// Sends a packet with header 80, before the version is agreed.
    pub(crate) fn send_early<P: Body>(&mut self, sock: SockId, packet: &P, out: &mut Actions) {
        let bytes = out.write_bytes(|b| crate::wire::put80(b, packet));
        out.push(Action::Send { sock, bytes, payload: None, digest: None });
        if let Some(which) = self.conn.role_of(sock) {
            self.count_queued(which, u64::from(bytes.len));
        }
    }

    fn id_of(&self, slot: u32) -> BlockId {
        BlockId(u64::from(self.reqs.table.generation(slot)) << 32 | u64::from(slot))
    }

    /// P_DATA, P_TRIM or P_ZEROES for a write of the application.
    pub(crate) fn send_change(&mut self, slot: u32, dp: DpFlags, out: &mut Actions) {
        let block_id = self.id_of(slot);
        let r = &self.reqs.table[slot];
        let (v, sector, len, kind, buf) = (r.vol as usize, r.sector, r.len_bytes, r.kind, r.buf);
        let seq_num = self.vols[v].next_seq();
        let vnr = self.vols[v].vnr.0;
        let trim = |dp_flags| Trim { sector, block_id, seq_num, dp_flags, size_bytes: len };
        match kind {
            Kind::Write => {
                let d = Data { sector, block_id, seq_num, dp_flags: dp };
                let buf = buf.expect("a write holds its data until it is completed");
                let body = |b: &mut _| d.encode(b);
                self.send_on(Sock::Data, vnr, &As(Command::Data, &body), Some((buf, len)), out);
            }
            Kind::Discard => {
                self.send_on(Sock::Data, vnr, &Packet::Trim(trim(dp.with(DpFlags::DISCARD))), None, out);
            }
            Kind::Zeroes { may_unmap } if self.may_send_zeroes() => {
                let unmap = if may_unmap { DpFlags::DISCARD } else { DpFlags::NONE };
                let t = trim(dp.with(DpFlags::ZEROES).with(unmap));
                self.send_on(Sock::Data, vnr, &Packet::Zeroes(t), None, out);
            }
            // spec: drbd-wire 4.2, without FF_WZEROES a trim has to read back as zeroes
            Kind::Zeroes { .. } => {
                self.send_on(Sock::Data, vnr, &Packet::Trim(trim(dp.with(DpFlags::DISCARD))), None, out);
            }
            Kind::Read | Kind::Flush => unreachable!("only data changes are mirrored"),
        }
    }

    /// P_ZEROES is agreed; a kernel peer that checks digests could not read it (drbd-wire trap 14).
    fn may_send_zeroes(&self) -> bool {
        let readable = self.conn.integrity_out.is_none() || self.conn.peer_is_lockstep();
        self.conn.features.contains(Features::WZEROES) && readable
    }

    pub(crate) fn send_read_request(&mut self, slot: u32, out: &mut Actions) {
        let block_id = self.id_of(slot);
        let r = &self.reqs.table[slot];
        let p = Request { sector: r.sector, block_id, size_bytes: r.len_bytes, pad: 0 };
        let vnr = self.vols[r.vol as usize].vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::DataRequest(p), None, out);
    }

    pub(crate) fn send_barrier(&mut self, number: u32, out: &mut Actions) {
        let p = Barrier { number: BarrierNo(number), pad: 0 };
        self.send_on(Sock::Data, 0, &Packet::Barrier(p), None, out);
    }

    pub(crate) fn send_barrier_ack(&mut self, number: u32, set_size: u32, out: &mut Actions) {
        let p = BarrierAck { number: BarrierNo(number), set_size };
        self.send_on(Sock::Meta, 0, &Packet::BarrierAck(p), None, out);
    }

    /// Tells the peer to hurry, by the name of this volume or another: it may not have this one.
    pub(crate) fn send_unplug(&mut self, v: usize, out: &mut Actions) {
        let mut volumes = self.vols[v..].iter().chain(&self.vols[..v]);
        let Some(known) = volumes.find(|v| v.state.conn >= ConnState::Connected) else { return };
        let vnr = known.vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::UnplugRemote, None, out);
    }

    pub(crate) fn send_out_of_sync(&mut self, v: usize, range: SectorRange, out: &mut Actions) {
        let p = BlockDesc { sector: range.start, size_bytes: (range.len_sectors() * 512) as u32, pad: 0 };
        let vnr = self.vols[v].vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::OutOfSync(p), None, out);
    }

    /// One of the acknowledgements on the meta socket.
    pub(crate) fn send_ack(
        &mut self,
        command: Command,
        v: usize,
        (sector, size_bytes, block_id): (u64, u32, BlockId),
        out: &mut Actions,
    ) {
        let seq_num = self.vols[v].next_seq();
        let a = Ack { sector, block_id, size_bytes, seq_num };
        let vnr = self.vols[v].vnr.0;
        let body = |b: &mut _| a.encode(b);
        self.send_on(Sock::Meta, vnr, &As(command, &body), None, out);
    }

    /// P_DATA_REPLY or P_RS_DATA_REPLY.
    pub(crate) fn send_block(
        &mut self,
        command: Command,
        v: usize,
        (sector, block_id): (u64, BlockId),
        payload: (BufId, u32),
        out: &mut Actions,
    ) {
        let d = Data { sector, block_id, seq_num: 0, dp_flags: DpFlags::NONE };
        let vnr = self.vols[v].vnr.0;
        let body = |b: &mut _| d.encode(b);
        self.send_on(Sock::Data, vnr, &As(command, &body), Some(payload), out);
        self.vols[v].counters.sent_sectors += u64::from(payload.1 / 512);
    }

    /// P_RS_DATA_REQUEST, or P_CSUM_RS_REQUEST with the digest of what is here.
    pub(crate) fn send_resync_request(
        &mut self,
        v: usize,
        range: SectorRange,
        digest: Option<&Digest>,
        out: &mut Actions,
    ) {
        let request = resync_request(range);
        let vnr = self.vols[v].vnr.0;
        let packet = match digest {
            Some(d) => Packet::CsumRsRequest(DigestRequest { request, digest: d.as_bytes() }),
            None => Packet::RsDataRequest(request),
        };
        self.send_on(Sock::Data, vnr, &packet, None, out);
    }

    /// P_OV_REQUEST.
    pub(crate) fn send_verify_request(&mut self, v: usize, range: SectorRange, out: &mut Actions) {
        let p = resync_request(range);
        let vnr = self.vols[v].vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::OvRequest(p), None, out);
    }

    /// P_OV_REPLY.
    pub(crate) fn send_verify_reply(
        &mut self,
        v: usize,
        range: SectorRange,
        digest: &Digest,
        out: &mut Actions,
    ) {
        let p = DigestRequest { request: resync_request(range), digest: digest.as_bytes() };
        let vnr = self.vols[v].vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::OvReply(p), None, out);
    }

    /// The present state of a volume.
    pub(crate) fn send_state(&mut self, v: usize, out: &mut Actions) {
        let s = self.vols[v].state;
        self.send_state_as(v, &s, out);
    }

    /// The state as of a transition, which may not be the latest.
    pub(crate) fn send_state_as(&mut self, v: usize, s: &model::state::VolumeState, out: &mut Actions) {
        if self.conn.phase != Phase::Established {
            return;
        }
        let vnr = self.vols[v].vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::State(State(StateWord::encode(s))), None, out);
    }

    /// The data generations; a node without a disk never sends them.
    pub(crate) fn send_uuids(&mut self, v: usize, extra: UuidFlags, out: &mut Actions) {
        if !self.conn.is_established() || self.vols[v].disk.is_none() {
            return;
        }
        let vol = &mut self.vols[v];
        vol.sent_dirty_bits = vol.bitmap.count();
        let set = vol.uncorrected_uuids.unwrap_or(vol.uuids());
        let mut flags = extra;
        if self.conn.discard_my_data {
            flags = flags.with(UuidFlags::DISCARD_MY_DATA);
        }
        if vol.crashed_primary {
            flags = flags.with(UuidFlags::CRASHED_PRIMARY);
        }
        if vol.really_inconsistent() {
            flags = flags.with(UuidFlags::INCONSISTENT);
        }
        vol.sent_word = UuidFlags::NONE;
        if self.conn.peer_is_lockstep() {
            vol.sent_word = vol.word_on_generation();
            flags = flags.with(vol.sent_word);
            flags = flags.with_attach_numbers(vol.attach_numbers.own, vol.attach_numbers.peer);
        }
        let p = Uuids {
            current: set.current,
            bitmap: set.bitmap,
            history: set.history,
            dirty_bits: vol.sent_dirty_bits,
            flags,
        };
        let vnr = vol.vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::Uuids(p), None, out);
    }

    pub(crate) fn send_sync_uuid(&mut self, v: usize, uuid: model::ids::DataUuid, out: &mut Actions) {
        let vnr = self.vols[v].vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::SyncUuid(SyncUuid(uuid)), None, out);
    }

    pub(crate) fn send_change_request(&mut self, v: Option<usize>, c: StateChange, out: &mut Actions) {
        let body = ChangeRequest(c);
        match v {
            Some(v) => {
                let vnr = self.vols[v].vnr.0;
                self.send_on(Sock::Data, vnr, &Packet::StateChgReq(body), None, out);
            }
            None => self.send_on(Sock::Data, 0, &Packet::ConnStChgReq(body), None, out),
        }
    }

    pub(crate) fn send_change_reply(&mut self, v: Option<usize>, code: i32, out: &mut Actions) {
        let body = ChangeReply(code);
        match v {
            Some(v) => {
                let vnr = self.vols[v].vnr.0;
                self.send_on(Sock::Meta, vnr, &Packet::StateChgReply(body), None, out);
            }
            None => self.send_on(Sock::Meta, 0, &Packet::ConnStChgReply(body), None, out),
        }
    }

    /// The whole bitmap, contiguous on the data socket (drbd-wire 5.1).
    pub(crate) fn send_bitmap(&mut self, v: usize, out: &mut Actions) {
        let use_rle = self.net().use_rle;
        let vnr = self.vols[v].vnr.0;
        let mut sender = crate::bitmap::exchange::BitmapSender::new(&self.vols[v].bitmap, use_rle);
        let mut piece = core::mem::take(&mut self.piece);
        while let Some(packet) = sender.next_packet(&self.vols[v].bitmap, &mut piece) {
            self.send_on(Sock::Data, vnr, &packet, None, out);
        }
        self.piece = piece;
    }
}
