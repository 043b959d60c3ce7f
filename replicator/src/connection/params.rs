//! Parameters that both nodes announce: settings, sizes, data generations (drbd-wire 3.4 to 3.6, 8.3).

use alloc::format;

use model::policy::AfterSb0;
use model::state::{ConnState, DiskState, Role};
use model::state_word::StateChange;
use model::units::MAX_BIO_BYTES;

use super::Phase;
use crate::action::{Action, Actions, LogLevel};
use crate::event::VolIdx;
use crate::resource::Resource;
use crate::state::Kind;
use crate::timers::Timer;
use crate::volume::PeerUuids;
use crate::wire::{
    DdsFlags, Features, Packet, Protocol, ProtocolFlags, QueueLimits, Sizes, Sock, SyncParam89, UuidFlags,
    Uuids,
};

impl Resource {
    /// Features and authentication are done: announce everything, blindly, then process what the peer says.
    pub(crate) fn begin_params(&mut self, out: &mut Actions) {
        if self.conn.meta.is_none() {
            self.handshake_retry("the peer closed the connection in the handshake", out);
            return;
        }
        self.timers.stop(Timer::Handshake);
        self.conn.phase = Phase::Established;
        self.conn.generation += 1;
        self.conn.handshake_in_progress = true;
        self.conn.last_rx = self.now;
        self.conn.discard_my_data = self.net().discard_my_data;
        self.send_protocol(out);
        for v in 0..self.vols.len() {
            self.vols[v].seq = 0;
            self.vols[v].attach_numbers.peer = 0;
            self.send_sync_param(v, out);
            self.send_sizes(v, DdsFlags::NONE, false, out);
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

    /// `ask`: announce no current size, so that the peer answers with its own.
    pub(crate) fn send_sizes(&mut self, v: usize, dds_flags: DdsFlags, ask: bool, out: &mut Actions) {
        let with_limits = self.conn.features.contains(Features::WSAME);
        let vol = &self.vols[v];
        let disk = vol.disk.as_ref();
        let limits = QueueLimits {
            physical_block_bytes: 4096,
            logical_block_bytes: 512,
            alignment_offset_bytes: 0,
            io_min_bytes: 4096,
            io_opt_bytes: 0,
            discard_enabled: true,
            discard_zeroes_data: false,
            write_same_capable: false,
        };
        let p = Sizes {
            d_size_sectors: disk.map_or(0, |d| d.capacity_sectors),
            u_size_sectors: disk.map_or(0, |d| d.cfg.size_sectors),
            c_size_sectors: if ask { 0 } else { vol.size_sectors },
            max_bio_bytes: disk.map_or(MAX_BIO_BYTES, |d| d.max_bio_bytes.min(MAX_BIO_BYTES)),
            queue_order_type: 0,
            dds_flags,
            limits: with_limits.then_some(limits),
        };
        let vnr = vol.vnr.0;
        self.send_on(Sock::Data, vnr, &Packet::Sizes(p), None, out);
    }

    // spec: drbd-wire 3.6
    pub(crate) fn receive_sizes(&mut self, v: usize, p: &Sizes, out: &mut Actions) {
        let conn = self.vols[v].state.conn;
        self.vols[v].peer_capacity_sectors = p.d_size_sectors;
        let new = if self.vols[v].disk.is_some() {
            let Some(new) = self.agreed_size(v, p, out) else { return };
            new
        } else {
            let vol = &self.vols[v];
            let candidate = [p.c_size_sectors, p.u_size_sectors, p.d_size_sectors]
                .into_iter()
                .find(|s| *s != 0)
                .unwrap_or(0);
            let ignore = candidate == 0 || (vol.size_sectors != 0 && p.d_size_sectors == 0);
            if ignore { vol.size_sectors } else { candidate }
        };
        if self.vols[v].disk.is_none()
            && new < self.vols[v].size_sectors
            && self.vols[v].state.role == Role::Primary
        {
            self.end_in_standalone("The peer's device is smaller than this diskless Primary's", out);
            return;
        }
        if new > model::units::MAX_DEVICE_SECTORS {
            self.end_in_standalone("The peer announces an impossible device size", out);
            return;
        }
        let old = self.vols[v].size_sectors;
        if new != old {
            self.set_size(v, new, p.dds_flags.contains(DdsFlags::NO_RESYNC), out);
        }
        if conn > ConnState::WFReportParams && p.c_size_sectors != self.vols[v].size_sectors {
            self.send_sizes(v, p.dds_flags, false, out);
        }
        self.md_sync(v, out);
    }

    /// The size both disks and both configurations allow; None after refusing the peer.
    fn agreed_size(&mut self, v: usize, p: &Sizes, out: &mut Actions) -> Option<u64> {
        let vol = &mut self.vols[v];
        let handshake = vol.state.conn == ConnState::WFReportParams;
        let disk = vol.disk.as_mut().expect("sizes are agreed with a disk");
        let own_limit = disk.cfg.size_sectors;
        let limit = match (handshake, own_limit, p.u_size_sectors) {
            (false, _, peer) => peer,
            (true, 0, peer) => peer,
            (true, own, 0) => own,
            (true, own, peer) => own.min(peer),
        };
        disk.cfg.size_sectors = limit;
        let new = wanted_size(disk.capacity_sectors, p.d_size_sectors, disk.sb.la_size_sectors, limit);
        let connecting = vol.state.conn < ConnState::Connected || vol.state.pdsk == DiskState::Diskless;
        if new < vol.size_sectors && vol.state.disk >= DiskState::Outdated && connecting {
            let why = format!("The peer's disk size is too small! ({new} < {} sectors)", vol.size_sectors);
            self.end_in_standalone(&why, out);
            return None;
        }
        Some(new)
    }

    /// Adopts a size: bitmap, super block, exported device.
    pub(crate) fn set_size(&mut self, v: usize, sectors: u64, assume_clean: bool, out: &mut Actions) {
        let vol = &mut self.vols[v];
        let grew = sectors > vol.size_sectors;
        vol.bitmap.resize(model::units::bits_of(sectors), grew && !assume_clean);
        vol.size_sectors = sectors;
        if let Some(disk) = vol.disk.as_mut() {
            disk.sb.la_size_sectors = sectors;
            disk.md.mark_dirty();
        }
        let text = format!("size = {} (resync bitmap: bits={})", human_size(sectors), vol.bitmap.bits());
        out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
        if self.vols[v].disk.is_some() {
            let text = "Writing the whole bitmap, size changed".into();
            out.log(LogLevel::Info, Some(VolIdx(v as u8)), text);
            self.write_bitmap_all(v, out);
        }
        out.push(Action::ExportChanged { vol: VolIdx(v as u8) });
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
            if serves && arrives && !vol.exposed.is_at(&set) {
                let why = format!("Can only connect to data with current UUID={}", vol.exposed.uuid);
                self.end_in_standalone(&why, out);
                return;
            }
            // What the peer's clients see counts on a Secondary too: older data must not be attached for them. Nobody
            // sees a copy that is not UpToDate; when it becomes so, the state packet tells.
            let seen = if connected { vol.state.pdsk == DiskState::UpToDate } else { serves };
            if seen && vol.exposed.uuid != p.current {
                vol.exposed.shows_peer(p.current);
                let line = format!("receiver updated UUIDs to effective data uuid: {}", p.current);
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
        let text = "Accepted new current UUID, preparing to skip initial sync".into();
        out.log(LogLevel::Info, at, text);
        let primary = self.vols[v].state.role == Role::Primary;
        self.vols[v].bitmap.clear_all();
        let disk = self.vols[v].disk.as_mut().expect("checked by the caller");
        disk.sb.uuids.current = current.with_primary_bit(primary);
        disk.sb.uuids.bitmap = model::ids::DataUuid::ZERO;
        disk.md.mark_dirty();
        // A loss of power must not find the common generation beside bits from before it.
        disk.md.sb_after_pages = true;
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

/// The size of the replicated device (drbd-metadata 10): own and peer's capacity (0: unknown), the last agreed
/// size and the configured limit (0: none), all in sectors.
pub(crate) fn wanted_size(own: u64, peer: u64, last_agreed: u64, limit: u64) -> u64 {
    let size = match (own, peer) {
        (0, 0) => last_agreed,
        (m, p) if m != 0 && p != 0 => m.min(p),
        (m, p) if last_agreed != 0 => {
            let known = if m != 0 { m } else { p };
            last_agreed.min(known)
        }
        (m, p) => m.max(p),
    };
    if limit != 0 && limit <= size { limit } else { size }
}

/// As the kernel prints sizes: below 10000 of a unit.
pub(crate) fn human_size(sectors: u64) -> alloc::string::String {
    let kb = sectors / 2;
    let mut value = kb;
    let mut unit = 0;
    while value >= 10_000 && unit < 5 {
        value = (value + 512) >> 10;
        unit += 1;
    }
    format!("{value} {}B ({kb} KB)", ["K", "M", "G", "T", "P", "E"][unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_the_smaller_disk_within_the_limit() {
        assert_eq!(wanted_size(100, 80, 0, 0), 80);
        assert_eq!(wanted_size(100, 0, 0, 0), 100);
        assert_eq!(wanted_size(100, 0, 60, 0), 60);
        assert_eq!(wanted_size(50, 0, 60, 0), 50);
        assert_eq!(wanted_size(100, 80, 0, 40), 40);
        assert_eq!(wanted_size(100, 80, 0, 90), 80);
        assert_eq!(human_size(34736), "17 MB (17368 KB)");
    }
}
