//! Parameters that both nodes announce: settings and data generations (drbd-wire 3.4, 3.5, 8.3); sizes are in `sizes`.

use alloc::format;

use model::policy::AfterSb0;
use model::state::{ConnState, DiskState, Role};
use model::state_word::StateChange;

use super::Phase;
use crate::action::{Actions, LogLevel};
use crate::digest::DigestAlg;
use crate::event::VolIdx;
use crate::meta::superblock::MetaFlags;
use crate::resource::Resource;
use crate::state::Kind;
use crate::timers::Timer;
use crate::volume::PeerUuids;
use crate::wire::{DdsFlags, Packet, Protocol, ProtocolFlags, Sock, SyncParam89, UuidFlags, Uuids};

impl Resource {
    /// Features and authentication are done: announce everything, blindly, then process what the peer says.
    pub(crate) fn begin_params(&mut self, out: &mut Actions) {
        if self.conn.meta.is_none() {
            self.handshake_retry("the peer closed the connection in the handshake", out);
            return;
        }
        if self.vols.iter().any(|v| v.resizing.is_some()) {
            self.handshake_retry("this node is just adopting a new size", out);
            return;
        }
        self.timers.stop(Timer::Handshake);
        self.conn.phase = Phase::Established;
        self.conn.generation += 1;
        self.conn.handshake_in_progress = true;
        self.conn.last_rx = self.now;
        self.conn.discard_my_data = self.net().discard_my_data;
        self.send_protocol(out);
        self.conn.integrity_out = DigestAlg::from_name(&self.net().data_integrity_alg);
        for v in 0..self.vols.len() {
            self.vols[v].seq = 0;
            self.vols[v].peer_seq = 0;
            self.vols[v].peer_seqs_ahead.clear();
            self.vols[v].shown_disk = self.vols[v].state.disk;
            self.vols[v].attach_numbers.peer = 0;
            self.send_sync_param(v, out);
            let disk = self.vols[v].disk.as_ref();
            self.vols[v].grown_before_handshake = disk.is_some_and(|d| d.sb.flags.has(MetaFlags::GROWN));
            let current = self.vols[v].size_sectors;
            self.send_sizes(v, DdsFlags::NONE, current, out);
            if self.vols[v].state.disk >= DiskState::Negotiating {
                self.send_uuids(v, UuidFlags::NONE, out);
            }
            self.send_state(v, out);
        }
        let change = StateChange::NONE.conn(ConnState::WFReportParams);
        if self.change_connection(change, Kind::Soft, out).is_err() {
            self.lose_connection(ConnState::NetworkFailure, out);
            return;
        }
        self.arm_ping_idle();
    }

    fn send_protocol(&mut self, out: &mut Actions) {
        let net = self.net().clone();
        let p = protocol_packet(&net);
        self.send_on(Sock::Data, 0, &Packet::Protocol(p), None, out);
    }

    pub(crate) fn send_protocol_update(&mut self, out: &mut Actions) {
        let net = self.net().clone();
        let p = protocol_packet(&net);
        self.send_on(Sock::Data, 0, &Packet::ProtocolUpdate(p), None, out);
        // spec: drbd-wire 3.4, from the next packet on
        self.conn.integrity_out = DigestAlg::from_name(&net.data_integrity_alg);
    }

    pub(crate) fn receive_protocol(&mut self, p: &Protocol<'_>, out: &mut Actions) {
        let net = self.net();
        let sb0 = AfterSb0::from_number(p.after_sb_0p);
        let differs = if p.protocol != u32::from(net.protocol.number()) {
            Some("protocol")
        } else if sb0 != Some(net.after_sb_0pri.mirrored()) {
            Some("after-sb-0pri")
        } else if p.after_sb_1p != u32::from(net.after_sb_1pri.number()) {
            Some("after-sb-1pri")
        } else if p.after_sb_2p != u32::from(net.after_sb_2pri.number()) {
            Some("after-sb-2pri")
        } else if p.flags.contains(ProtocolFlags::DISCARD_MY_DATA) && net.discard_my_data {
            Some("discard-my-data")
        } else if p.two_primaries != u32::from(net.allow_two_primaries) {
            Some("allow-two-primaries")
        } else if p.integrity_alg != net.data_integrity_alg {
            Some("data-integrity-alg")
        } else {
            None
        };
        if let Some(what) = differs {
            let why = format!("incompatible {what} settings: they must be the same on both nodes");
            self.end_in_standalone(&why, out);
            return;
        }
        self.conn.integrity_in = DigestAlg::from_name(p.integrity_alg);
        self.conn.peer_tentative = p.flags.contains(ProtocolFlags::DRY_RUN);
    }

    pub(crate) fn send_sync_param(&mut self, v: usize, out: &mut Actions) {
        let (verify, csums) = (self.net().verify_alg.clone(), self.net().csums_alg.clone());
        let cfg = self.vols[v].disk.as_ref().map(|d| d.cfg.clone()).unwrap_or_default();
        let p = SyncParam89 {
            resync_rate_kib_per_s: cfg.resync_rate_kib_s,
            verify_alg: &verify,
            csums_alg: &csums,
            c_plan_ahead_ds: cfg.c_plan_ahead_ds,
            c_delay_target_ds: cfg.c_delay_target_ds,
            c_fill_target_sectors: cfg.c_fill_target_sectors,
            c_max_rate_kib_per_s: cfg.c_max_rate_kib_s,
        };
        let vnr = self.vols[v].vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::SyncParam89(p), None, out);
    }

    pub(crate) fn receive_sync_param(&mut self, v: usize, p: &SyncParam89<'_>, out: &mut Actions) {
        let net = self.net();
        if self.vols[v].state.conn == ConnState::WFReportParams {
            let differs = if p.verify_alg != net.verify_alg {
                Some(("verify-alg", p.verify_alg, net.verify_alg.clone()))
            } else if p.csums_alg != net.csums_alg {
                Some(("csums-alg", p.csums_alg, net.csums_alg.clone()))
            } else {
                None
            };
            if let Some((what, peer, own)) = differs {
                let why = format!("Different {what} settings. me=\"{own}\" peer=\"{peer}\"");
                self.end_in_standalone(&why, out);
                return;
            }
        } else {
            let net = self.conn.net.as_mut().expect("connected");
            net.verify_alg = p.verify_alg.into();
            net.csums_alg = p.csums_alg.into();
        }
        if let Some(disk) = self.vols[v].disk.as_mut() {
            disk.cfg.resync_rate_kib_s = p.resync_rate_kib_per_s.clamp(1, 4_194_304);
            disk.cfg.c_plan_ahead_ds = p.c_plan_ahead_ds.min(300);
            disk.cfg.c_delay_target_ds = p.c_delay_target_ds.clamp(1, 100);
            disk.cfg.c_fill_target_sectors = p.c_fill_target_sectors.min(1_048_576);
            disk.cfg.c_max_rate_kib_s = p.c_max_rate_kib_per_s.clamp(250, 4_194_304);
            self.resync_options_changed(v);
        }
    }

    pub(crate) fn receive_uuids(&mut self, v: usize, p: &Uuids, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let set = crate::meta::uuids::Uuids { current: p.current, bitmap: p.bitmap, history: p.history };
        let (peer_attach, seen) = p.flags.attach_numbers();
        vol.attach_numbers.peer = peer_attach;
        vol.attach_numbers.answered |= seen == vol.attach_numbers.own;
        vol.peer_uuids = Some(PeerUuids { set, dirty_bits: p.dirty_bits, flags: p.flags.0 & 0xffff_ffff });
        if vol.state.disk < DiskState::Inconsistent {
            let connected = vol.state.conn >= ConnState::Connected;
            let serves = vol.state.role == Role::Primary && !vol.exposed.uuid.is_zero();
            // Whatever it attaches or comes back with has to be what clients saw here last.
            let arrives = !connected || vol.state.pdsk < DiskState::Inconsistent;
            // The own disk, about to be back, has it: the comparison of the two tells what to do with the peer's.
            let returns = vol.state.disk == DiskState::Negotiating && vol.exposed.is(vol.uuids().current);
            if serves && arrives && !returns && !vol.exposed.is_at(&set) {
                let why = format!("Can only connect to data with current UUID={}", vol.exposed.uuid);
                self.end_in_standalone(&why, out);
                return;
            }
            // What the peer's clients see counts on a Secondary too: older data must not be attached for them. Nobody
            // sees a copy that is not UpToDate; when it becomes so, the state packet tells.
            let seen = if connected { vol.state.pdsk == DiskState::UpToDate } else { serves };
            // In the generation of the disk that went the peer goes on only if it is not UpToDate itself, and says so next.
            if seen && !vol.exposed.uuid.same_as(p.current) {
                vol.exposed.shows_peer(p.current);
                let line = format_args!("receiver updated UUIDs to effective data uuid: {}", p.current);
                out.log(LogLevel::Info, Some(VolIdx(v as u8)), line);
            }
        }
        let vol = &self.vols[v];
        let skip = vol.state.conn == ConnState::Connected
            && p.flags.contains(UuidFlags::SKIP_INITIAL_SYNC)
            && vol.disk.as_ref().is_some_and(|d| d.sb.uuids.current == model::ids::DataUuid::JUST_CREATED);
        if skip {
            self.accept_skip_initial_sync(v, p.current, out);
        }
        self.md_sync(v, out);
    }

    fn accept_skip_initial_sync(&mut self, v: usize, current: model::ids::DataUuid, out: &mut Actions) {
        let at = Some(VolIdx(v as u8));
        let text = "Accepted new current UUID, preparing to skip initial sync";
        out.log(LogLevel::Info, at, text);
        let primary = self.vols[v].state.role == Role::Primary;
        self.vols[v].bitmap.clear_all();
        let disk = self.vols[v].disk.as_mut().expect("checked by the caller");
        disk.sb.uuids.current = current.with_primary_bit(primary);
        disk.sb.uuids.bitmap = model::ids::DataUuid::ZERO;
        disk.md.mark_dirty();
        // A loss of power must not find the common generation beside bits from before it.
        disk.md.sb_after_pages = true;
        if self.conn.peer_is_lockstep() {
            // What came with the skip still names the generation before it. DRBD takes that into its history later.
            self.peer_has_own_generations(v);
        }
        self.write_bitmap_all(v, out);
        let change = StateChange::NONE.disk(DiskState::UpToDate).pdsk(DiskState::UpToDate);
        let _ = self.change_volume(v, change, Kind::Hard, out);
        let line = format!("receiver updated UUIDs to {}", crate::meta_io::uuid_line(&self.vols[v].uuids()));
        out.log(LogLevel::Info, at, line);
        if self.conn.peer_is_lockstep() {
            // The state packet of the connect, which said Inconsistent, may reach the peer only after its command: it
            // would take this disk for Inconsistent from then on and mirror nothing. A kernel peer expects no answer.
            self.send_state(v, out);
        }
    }

    /// Both nodes have the same generations now. What was received before would be taken over as it is at the end of
    /// the next resync.
    pub(crate) fn peer_has_own_generations(&mut self, v: usize) {
        let own = self.vols[v].uuids();
        if let Some(p) = self.vols[v].peer_uuids.as_mut() {
            p.set = own;
        }
    }
}

fn protocol_packet(net: &crate::config::NetConfig) -> Protocol<'_> {
    let mut flags = 0;
    if net.discard_my_data {
        flags |= ProtocolFlags::DISCARD_MY_DATA.0;
    }
    if net.tentative {
        flags |= ProtocolFlags::DRY_RUN.0;
    }
    Protocol {
        protocol: u32::from(net.protocol.number()),
        after_sb_0p: u32::from(net.after_sb_0pri.number()),
        after_sb_1p: u32::from(net.after_sb_1pri.number()),
        after_sb_2p: u32::from(net.after_sb_2pri.number()),
        flags: ProtocolFlags(flags),
        two_primaries: u32::from(net.allow_two_primaries),
        integrity_alg: &net.data_integrity_alg,
    }
}
