//! Packets that arrive: which function each goes to, and what a wrong one leads to (drbd-wire 2.2).

use alloc::format;
use alloc::string::ToString;
use model::ids::BufId;
use model::state::{ConnState, DiskState};
use model::units::SectorRange;

use crate::action::{Action, Actions, LogLevel};
use crate::bitmap::exchange::Progress;
use crate::connection::Phase;
use crate::digest::DigestAlg;
use crate::event::SockId;
use crate::peer_requests::PeerWriteKind;
use crate::peer_requests::write::Incoming;
use crate::requests::flag;
use crate::resource::Resource;
use crate::wire::{Ack, BlockId, Command, Data, DpFlags, Header, Packet, Scope, Sock, Trim, WireError};

/// So many volumes that only the peer has are known.
const FOREIGN_VOLUMES_MAX: usize = 64;

impl Resource {
    /// A complete packet.
    pub(crate) fn receive(
        &mut self,
        sock: SockId,
        header: &Header,
        body: &[u8],
        payload: Option<BufId>,
        out: &mut Actions,
    ) {
        if self.conn.newcomers.contains(&sock) {
            self.newcomer_spoke(sock, Some(header.command), out);
            return;
        }
        let Some(which) = self.conn.role_of(sock) else {
            self.stale_events += 1;
            self.drop_payload(payload, out);
            return;
        };
        let packet = match Packet::decode(header, body, self.conn.features) {
            Ok(p) => p,
            Err(e) => {
                self.drop_payload(payload, out);
                self.bad_frame(sock, &e, out);
                return;
            }
        };
        self.conn.last_rx = self.now;
        match (self.conn.phase, which) {
            (Phase::Established, Sock::Data) => self.receive_data(header, packet, payload, out),
            (Phase::Established, Sock::Meta) => self.receive_meta(header, packet, out),
            _ => {
                self.drop_payload(payload, out);
                self.receive_handshake(packet, out);
            }
        }
    }

    fn drop_payload(&mut self, payload: Option<BufId>, out: &mut Actions) {
        if let Some(buf) = payload {
            out.push(Action::Release { buf });
        }
    }

    fn receive_handshake(&mut self, packet: Packet<'_>, out: &mut Actions) {
        match (self.conn.phase, packet) {
            (Phase::Features, Packet::ConnectionFeatures(f)) => self.receive_features(f, out),
            // So far it may be a stranger; see `bad_frame`.
            (Phase::Features, _) => {
                self.handshake_retry("the peer's first packet is not P_CONNECTION_FEATURES", out);
            }
            (Phase::Challenge, Packet::AuthChallenge(c)) => self.receive_challenge(c.0, out),
            // What a peer without a secret says next. It has spoken as a node would, and only an operator can help.
            (Phase::Challenge, Packet::Protocol(_)) => {
                let why = "Authentication of peer failed: expected P_AUTH_CHALLENGE, got P_PROTOCOL (has the peer a shared-secret?)";
                self.end_in_standalone(why, out);
            }
            (Phase::Challenge, _) => self.handshake_retry("expected P_AUTH_CHALLENGE", out),
            (Phase::Response, Packet::AuthResponse(r)) => self.receive_response(r.0, out),
            (Phase::Response, _) => self.handshake_retry("expected P_AUTH_RESPONSE", out),
            _ => self.stale_events += 1,
        }
    }

    /// Bytes that are no packet.
    pub(crate) fn bad_frame(&mut self, sock: SockId, error: &WireError, out: &mut Actions) {
        if self.conn.newcomers.contains(&sock) {
            self.newcomer_spoke(sock, None, out);
            return;
        }
        let Some(which) = self.conn.role_of(sock) else { return };
        match self.conn.phase {
            Phase::Established => {
                let text = format!("protocol error on the {which:?} socket: {error}");
                match error.conn_state(which) {
                    ConnState::Disconnecting => self.end_in_standalone(&text, out),
                    state => {
                        self.log_conn(LogLevel::Error, text, out);
                        self.lose_connection(state, out);
                    }
                }
            }
            // Before the peer has proved who it is, bytes that are no packet at all come from a stranger: no DRBD
            // sends any, and StandAlone would let whoever reaches the port end the replication for good.
            _ => self.handshake_retry(&error.to_string(), out),
        }
    }

    /// The peer did what no peer does: drop the connection and make a new one.
    pub(crate) fn protocol_error(&mut self, what: &str, out: &mut Actions) {
        self.log_conn(LogLevel::Error, format!("protocol error: {what}"), out);
        self.lose_connection(ConnState::ProtocolError, out);
    }

    fn volume_of(&self, vnr: u16) -> Option<usize> {
        self.vols.iter().position(|v| v.vnr.0 == vnr)
    }

    fn receive_data(
        &mut self,
        header: &Header,
        packet: Packet<'_>,
        payload: Option<BufId>,
        out: &mut Actions,
    ) {
        let in_bitmap = self.vols.iter().any(|v| v.resync.receiver.is_some());
        if in_bitmap && !matches!(packet, Packet::Bitmap(_) | Packet::CompressedBitmap(_)) {
            self.drop_payload(payload, out);
            let name = header.command.name();
            self.protocol_error(&format!("{name} in the middle of a bitmap"), out);
            return;
        }
        let v = match header.command.row().scope {
            Scope::Connection => 0,
            Scope::Volume => match self.volume_of(header.vnr) {
                Some(v) => v,
                None => {
                    self.drop_payload(payload, out);
                    self.unknown_volume(header, out);
                    return;
                }
            },
        };
        let digest_bytes = self.conn.integrity_in.map_or(0, |d| d.len_bytes());
        let payload_bytes = header.len.saturating_sub(24 + digest_bytes);
        match packet {
            Packet::Data(d) => self.receive_p_data(v, &d, payload, payload_bytes, out),
            Packet::Trim(t) => self.receive_range(v, &t, true, out),
            Packet::Zeroes(t) => self.receive_range(v, &t, t.dp_flags.contains(DpFlags::DISCARD), out),
            Packet::Barrier(b) => self.receive_barrier(b.number.0, out),
            Packet::UnplugRemote => self.hurry_flush(out),
            Packet::DataRequest(r) => self.receive_read(v, &r, out),
            Packet::DataReply(d) => self.receive_data_reply(v, &d, payload, payload_bytes, out),
            Packet::RsDataReply(d) => {
                let range = SectorRange::new(d.sector, payload_bytes);
                self.receive_resync_data(v, range, payload, out);
            }
            Packet::RsDeallocated(d) => {
                self.receive_resync_data(v, SectorRange::new(d.sector, d.size_bytes), None, out);
            }
            Packet::RsDataRequest(r) | Packet::RsThinReq(r) => self.receive_resync_request(v, &r, None, out),
            Packet::CsumRsRequest(r) => self.receive_resync_request(v, &r.request, Some(r.digest), out),
            Packet::OvRequest(r) => self.receive_verify_request(v, &r, out),
            Packet::OvReply(r) => self.receive_verify_reply(v, &r, out),
            Packet::OutOfSync(d) => {
                let range = SectorRange::new(d.sector, d.size_bytes);
                if self.vols[v].range_is_inside(range) {
                    self.vols[v].set_out_of_sync(range);
                } else {
                    self.protocol_error("P_OUT_OF_SYNC outside the device", out);
                }
            }
            Packet::Protocol(p) => self.receive_protocol(&p, out),
            Packet::ProtocolUpdate(p) => self.receive_protocol_update(&p, out),
            Packet::SyncParam89(p) => self.receive_sync_param(v, &p, out),
            Packet::Sizes(p) => self.receive_sizes(v, &p, out),
            Packet::Uuids(p) => self.receive_uuids(v, &p, out),
            Packet::State(s) => self.receive_state(v, s.0, out),
            Packet::SyncUuid(u) => self.receive_sync_uuid(v, u.0, out),
            Packet::StateChgReq(r) => self.receive_change_request(Some(v), r.0, out),
            Packet::ConnStChgReq(r) => self.receive_change_request(None, r.0, out),
            Packet::Bitmap(_) | Packet::CompressedBitmap(_) => self.receive_bitmap(v, &packet, out),
            Packet::DelayProbe(_) => {}
            _ => {
                self.drop_payload(payload, out);
                let name = header.command.name();
                self.protocol_error(&format!("unexpected {name}"), out);
            }
        }
    }

    fn unknown_volume(&mut self, header: &Header, out: &mut Actions) {
        let (name, vnr) = (header.command.name(), header.vnr);
        let known = self.conn.foreign_volumes.contains(&vnr);
        let skipped = match header.command {
            // With this it announces a volume. Anything else of one that it has not announced is damaged, and may have been
            // meant for one of ours.
            Command::SyncParam89 => {
                if !known && self.conn.foreign_volumes.len() < FOREIGN_VOLUMES_MAX {
                    self.conn.foreign_volumes.push(vnr);
                }
                true
            }
            Command::Sizes | Command::Uuids | Command::State => known,
            _ => false,
        };
        if skipped {
            let text = format!("{name} for volume {vnr}, which is not configured here: ignored");
            self.log_conn(LogLevel::Warn, text, out);
        } else {
            self.protocol_error(&format!("{name} for unknown volume {vnr}"), out);
        }
    }

    fn receive_p_data(&mut self, v: usize, d: &Data, buf: Option<BufId>, len_bytes: u32, out: &mut Actions) {
        let w = Incoming {
            vol: v,
            kind: PeerWriteKind::Data,
            sector: d.sector,
            len_bytes,
            block_id: d.block_id,
            dp: d.dp_flags,
            seq: d.seq_num,
            buf,
        };
        self.receive_write(w, out);
    }

    fn receive_range(&mut self, v: usize, t: &Trim, discard: bool, out: &mut Actions) {
        // Without FF_WZEROES a trim has to read back as zeroes, and ours always does (drbd-wire 4.4).
        let w = Incoming {
            vol: v,
            kind: PeerWriteKind::Zero { may_unmap: discard },
            sector: t.sector,
            len_bytes: t.size_bytes,
            block_id: t.block_id,
            dp: t.dp_flags,
            seq: t.seq_num,
            buf: None,
        };
        self.receive_write(w, out);
    }

    fn receive_data_reply(
        &mut self,
        v: usize,
        d: &Data,
        payload: Option<BufId>,
        len_bytes: u32,
        out: &mut Actions,
    ) {
        let slot = self.request_of(v, d.sector, d.block_id);
        let slot = slot.filter(|s| self.reqs.remote_reads.contains(s));
        let (Some(slot), Some(buf)) = (slot, payload) else {
            self.drop_payload(payload, out);
            self.protocol_error("P_DATA_REPLY that nobody asked for", out);
            return;
        };
        if self.reqs.table[slot].len_bytes != len_bytes {
            self.drop_payload(payload, out);
            self.protocol_error("P_DATA_REPLY of another length than asked for", out);
            return;
        }
        self.remote_read_done(slot, buf, out);
    }

    /// The live request that an echoed id and sector name.
    pub(crate) fn request_of(&self, v: usize, sector: u64, id: BlockId) -> Option<u32> {
        let (slot, generation) = (id.0 as u32, (id.0 >> 32) as u32);
        if !self.reqs.table.is_live(slot, generation) {
            return None;
        }
        let r = &self.reqs.table[slot];
        (r.vol as usize == v && r.sector == sector).then_some(slot)
    }

    fn receive_bitmap(&mut self, v: usize, packet: &Packet<'_>, out: &mut Actions) {
        let conn = self.vols[v].state.conn;
        if !matches!(conn, ConnState::WFBitMapS | ConnState::WFBitMapT) {
            // The exchange was given up here meanwhile, as a disk went away.
            self.log_conn(LogLevel::Info, format!("ignored a bitmap in state {conn}"), out);
            return;
        }
        let vol = &mut self.vols[v];
        let mut receiver = match vol.resync.receiver.take() {
            Some(r) => r,
            None => crate::bitmap::BitmapReceiver::new(&vol.bitmap),
        };
        let progress = match packet {
            Packet::Bitmap(p) => receiver.plain(&mut vol.bitmap, p),
            Packet::CompressedBitmap(p) => receiver.compressed(&mut vol.bitmap, p),
            _ => unreachable!("only bitmap packets come here"),
        };
        match progress {
            Err(e) => self.protocol_error(&e.to_string(), out),
            Ok(Progress::More) => self.vols[v].resync.receiver = Some(receiver),
            Ok(Progress::Complete) if conn == ConnState::WFBitMapS => self.start_as_source(v, out),
            Ok(Progress::Complete) => {
                self.send_bitmap(v, out);
                self.wait_for_sync_uuid(v, out);
            }
        }
    }

    fn receive_meta(&mut self, header: &Header, packet: Packet<'_>, out: &mut Actions) {
        let v = match header.command.row().scope {
            Scope::Connection => 0,
            Scope::Volume => match self.volume_of(header.vnr) {
                Some(v) => v,
                None => {
                    let text = format!("{} for unknown volume {}", header.command.name(), header.vnr);
                    self.log_conn(LogLevel::Error, text, out);
                    self.lose_connection(ConnState::NetworkFailure, out);
                    return;
                }
            },
        };
        if let Packet::RecvAck(a)
        | Packet::WriteAck(a)
        | Packet::RsWriteAck(a)
        | Packet::Superseded(a)
        | Packet::RetryWrite(a)
        | Packet::NegAck(a)
        | Packet::NegDreply(a)
        | Packet::NegRsDreply(a)
        | Packet::RsIsInSync(a)
        | Packet::RsCancel(a)
        | Packet::OvResult(a) = &packet
        {
            self.peer_said(v, a.seq_num);
        }
        match packet {
            Packet::Ping => {
                self.send_on(Sock::Meta, 0, &Packet::PingAck, None, out);
            }
            Packet::PingAck => self.receive_ping_ack(out),
            // What is overwritten by a write that this node has sent counts as written.
            Packet::RecvAck(a) | Packet::WriteAck(a) | Packet::RsWriteAck(a) | Packet::Superseded(a) => {
                self.receive_ack(v, header.command, &a, out);
            }
            Packet::RetryWrite(a) => self.receive_retry(v, &a, out),
            Packet::NegAck(a) => self.receive_neg_ack(v, &a, out),
            Packet::NegDreply(a) => self.receive_neg_dreply(v, &a, out),
            Packet::NegRsDreply(a) => {
                let range = SectorRange::new(a.sector, a.size_bytes);
                if !self.verify_refused(v, range, out) {
                    self.resync_block_not_coming(v, range, true, false, out);
                }
            }
            Packet::RsIsInSync(a) => {
                let range = SectorRange::new(a.sector, a.size_bytes);
                self.resync_block_not_coming(v, range, false, true, out);
            }
            Packet::RsCancel(a) => {
                self.resync_request_cancelled(v, SectorRange::new(a.sector, a.size_bytes), out);
            }
            Packet::OvResult(a) => self.receive_verify_result(v, &a, out),
            Packet::BarrierAck(b) => {
                if !self.barrier_acked(b.number.0, b.set_size, out) {
                    self.protocol_error("P_BARRIER_ACK that is not due", out);
                }
            }
            Packet::StateChgReply(r) | Packet::ConnStChgReply(r) => self.receive_change_reply(r.0, out),
            Packet::DelayProbe(_) => {}
            _ => {
                let name = header.command.name();
                self.protocol_error(&format!("unexpected {name}"), out);
            }
        }
    }

    fn receive_ack(&mut self, v: usize, command: Command, a: &Ack, out: &mut Actions) {
        if a.block_id == BlockId::RESYNC {
            let range = SectorRange::new(a.sector, a.size_bytes);
            if self.vols[v].range_is_inside(range) {
                self.resync_block_acked(v, range, out);
            } else {
                self.protocol_error("resync acknowledgement outside the device", out);
            }
            return;
        }
        let slot = self.request_of(v, a.sector, a.block_id);
        let Some(slot) = slot.filter(|s| self.reqs.table[*s].has(flag::IN_LOG)) else {
            self.log_conn(LogLevel::Error, format!("{} for no known request", command.name()), out);
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        };
        use model::policy::Protocol;
        let protocol = self.net().protocol;
        let r = &mut self.reqs.table[slot];
        let written = command != Command::RecvAck;
        if written {
            r.set(flag::NET_WRITTEN);
        }
        if !r.has(flag::NET_LOST) && (written || protocol != Protocol::C) {
            r.set(flag::NET_OK);
            r.clear(flag::NET_PENDING);
        }
        if written {
            self.resync_conflicts_changed();
            self.peer_pump |= !self.peer.waiting.is_empty();
        }
        self.try_complete(slot, out);
    }

    fn receive_neg_ack(&mut self, v: usize, a: &Ack, out: &mut Actions) {
        let range = SectorRange::new(a.sector, a.size_bytes);
        if a.block_id == BlockId::RESYNC {
            self.resync_block_refused(v, range, out);
            return;
        }
        if self.vols[v].state.pdsk == DiskState::UpToDate {
            self.vols[v].peer_refused_at.get_or_insert(self.now);
        }
        let Some(slot) = self.request_of(v, a.sector, a.block_id) else {
            // spec: drbd-wire 4.7, a request that already left is marked now
            if self.vols[v].range_is_inside(range) {
                self.vols[v].set_out_of_sync(range);
            }
            return;
        };
        let r = &mut self.reqs.table[slot];
        r.set(flag::NET_LOST);
        r.clear(flag::NET_PENDING | flag::NET_OK);
        let range = r.range();
        self.vols[v].set_out_of_sync(range);
        self.try_complete(slot, out);
    }

    fn receive_neg_dreply(&mut self, v: usize, a: &Ack, out: &mut Actions) {
        let slot = self.request_of(v, a.sector, a.block_id);
        let Some(slot) = slot.filter(|s| self.reqs.remote_reads.contains(s)) else {
            self.protocol_error("P_NEG_DREPLY for no known read", out);
            return;
        };
        self.remote_read_failed(slot, out);
    }

    fn receive_protocol_update(&mut self, p: &crate::wire::Protocol<'_>, out: &mut Actions) {
        use model::policy::{AfterSb0, AfterSb1, AfterSb2, Protocol};
        let parsed = (
            Protocol::from_number(p.protocol),
            AfterSb0::from_number(p.after_sb_0p),
            AfterSb1::from_number(p.after_sb_1p),
            AfterSb2::from_number(p.after_sb_2p),
        );
        let (Some(protocol), Some(sb0), Some(sb1), Some(sb2)) = parsed else {
            self.protocol_error("P_PROTOCOL_UPDATE with unknown settings", out);
            return;
        };
        let integrity = DigestAlg::from_name(p.integrity_alg);
        if integrity.is_none() && !p.integrity_alg.is_empty() {
            let why =
                format!("the peer switched on data-integrity-alg {}, which is not known", p.integrity_alg);
            self.end_in_standalone(&why, out);
            return;
        }
        self.conn.integrity_in = integrity;
        if p.integrity_alg != self.net().data_integrity_alg {
            let name = integrity.map_or("(none)", DigestAlg::name);
            self.log_conn(LogLevel::Info, format!("peer data-integrity-alg: {name}"), out);
        }
        self.close_epoch();
        let net = self.conn.net.as_mut().expect("connected");
        net.protocol = protocol;
        net.allow_two_primaries = p.two_primaries != 0;
        net.after_sb_0pri = sb0.mirrored();
        net.after_sb_1pri = sb1;
        net.after_sb_2pri = sb2;
        self.log_conn(LogLevel::Info, format!("settings of the peer: protocol {protocol}"), out);
    }
}
