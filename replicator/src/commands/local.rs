//! Commands that are carried out here and at once: options, connect, invalidate alone, a new generation.

use model::config::settings::OnCongestion;
use model::policy::Protocol;

use super::*;
use crate::digest::DigestAlg;
use crate::meta::superblock::MetaFlags;

impl Resource {
    pub(super) fn connect_command(
        &mut self,
        net: crate::config::NetConfig,
        out: &mut Actions,
    ) -> CommandResult {
        if !self.is_standalone() {
            return CommandResult::Config(ConfigError::NetConfigured);
        }
        if net.discard_my_data && self.role() == Role::Primary {
            return CommandResult::Config(ConfigError::DiscardImpossible);
        }
        if let Some(e) = refused_options(&net) {
            return CommandResult::Config(e);
        }
        self.conn.net = Some(net);
        self.conn.standalone_reason = None;
        for vol in &mut self.vols {
            vol.counters.sent_sectors = 0;
            vol.counters.received_sectors = 0;
        }
        let change = StateChange::NONE.conn(ConnState::Unconnected);
        if let Err(e) = self.change_connection(change, Kind::Soft, out) {
            self.conn.net = None;
            return CommandResult::State(e);
        }
        self.conn.phase = Phase::Pausing;
        self.reconnect_if_clean(out);
        CommandResult::Ok
    }

    pub(super) fn net_options(&mut self, net: crate::config::NetConfig, out: &mut Actions) -> CommandResult {
        let Some(old) = self.conn.net.as_ref() else {
            return CommandResult::Config(ConfigError::InvalidRequest);
        };
        // What the operator has said of this one connection is no option.
        let net = crate::config::NetConfig {
            discard_my_data: old.discard_my_data,
            tentative: old.tentative,
            ..net
        };
        if let Some(e) = refused_options(&net) {
            return CommandResult::Config(e);
        }
        let both = |v: &crate::volume::Volume| (v.state.role, v.state.peer) == (Role::Primary, Role::Primary);
        if !net.allow_two_primaries && self.vols.iter().any(both) {
            return CommandResult::Config(ConfigError::NeedAllowTwoPri);
        }
        let runs = |is: fn(ConnState) -> bool| self.vols.iter().any(|v| is(v.state.conn));
        if old.csums_alg != net.csums_alg && runs(ConnState::is_resync) {
            return CommandResult::Config(ConfigError::CsumsResyncRunning);
        }
        if old.verify_alg != net.verify_alg && runs(|c| matches!(c, ConnState::VerifyS | ConnState::VerifyT))
        {
            return CommandResult::Config(ConfigError::VerifyRunning);
        }
        let told = old.protocol != net.protocol
            || old.allow_two_primaries != net.allow_two_primaries
            || old.after_sb_0pri != net.after_sb_0pri
            || old.after_sb_1pri != net.after_sb_1pri
            || old.after_sb_2pri != net.after_sb_2pri
            || old.data_integrity_alg != net.data_integrity_alg;
        let changed = *old != net;
        self.close_epoch();
        self.conn.net = Some(net);
        if changed && self.conn.phase == Phase::Established && !self.conn.handshake_in_progress {
            if told {
                self.send_protocol_update(out);
            }
            for v in 0..self.vols.len() {
                self.send_sync_param(v, out);
                self.resync_options_changed(v);
            }
        }
        CommandResult::Ok
    }

    pub(super) fn disk_options(
        &mut self,
        v: usize,
        cfg: crate::config::DiskConfig,
        out: &mut Actions,
    ) -> CommandResult {
        let Some(disk) = self.vols[v].disk.as_mut() else {
            return CommandResult::Config(ConfigError::NoDisk);
        };
        let before = core::mem::replace(&mut disk.cfg, cfg);
        // None of these changes under an attached disk: the size has its own command, the log is as it was made, and whether it
        // counts is on the disk since then.
        disk.cfg.size_sectors = before.size_sectors;
        disk.cfg.al_extents = before.al_extents;
        if core::mem::replace(&mut disk.cfg.al_updates, before.al_updates) != before.al_updates {
            let text = "al-updates is as it was until the disk is attached again";
            out.log(LogLevel::Warn, Some(VolIdx(v as u8)), text);
        }
        self.resync_options_changed(v);
        if self.conn.phase == Phase::Established && !self.conn.handshake_in_progress {
            self.send_sync_param(v, out);
        }
        CommandResult::Ok
    }

    pub(super) fn resume_refused(&self, v: usize) -> Option<ConfigError> {
        let s = &self.vols[v].state;
        if s.user_isp {
            return None;
        }
        let paused = matches!(s.conn, ConnState::PausedSyncS | ConnState::PausedSyncT);
        Some(match (paused, s.aftr_isp, s.peer_isp) {
            (true, true, _) => ConfigError::PicAfterDep,
            (true, false, true) => ConfigError::PicPeerDep,
            _ => ConfigError::PauseIsClear,
        })
    }

    pub(super) fn invalidate_alone(
        &mut self,
        v: usize,
        change: StateChange,
        out: &mut Actions,
    ) -> CommandResult {
        let Some(disk) = self.vols[v].disk.as_mut() else {
            return CommandResult::Config(ConfigError::NoDisk);
        };
        // In the same super block as the state: a crash must not leave a bad copy of which a part is marked, or nothing.
        let before = disk.sb.flags;
        disk.sb.flags = before.with(MetaFlags::FULL_SYNC);
        if let Err(e) = self.change_volume(v, change, Kind::Soft, out) {
            if let Some(disk) = self.vols[v].disk.as_mut() {
                disk.sb.flags = before;
            }
            return CommandResult::State(e);
        }
        self.set_all_bits(v, FullSyncStep::Nothing, out);
        CommandResult::Ok
    }

    // spec: drbd-wire 8.9
    pub(super) fn new_current_uuid_command(
        &mut self,
        v: usize,
        clear_bitmap: bool,
        out: &mut Actions,
    ) -> CommandResult {
        let s = self.vols[v].state;
        if s.disk < DiskState::Inconsistent {
            return CommandResult::Config(ConfigError::NoDisk);
        }
        let fresh = self.vols[v].uuids().current == DataUuid::JUST_CREATED;
        let skip = clear_bitmap && s.conn == ConnState::Connected && fresh;
        if !skip && s.conn != ConnState::StandAlone {
            return CommandResult::Config(ConfigError::Connected);
        }
        let random = DataUuid(self.rng.uuid());
        let at = Some(VolIdx(v as u8));
        if skip {
            out.log(LogLevel::Info, at, "Preparing to skip initial sync");
        }
        let disk = self.vols[v].disk.as_mut().expect("a usable disk is present");
        if clear_bitmap {
            disk.sb.uuids.clear_bitmap();
        }
        disk.sb.uuids.new_current(random, s.role == Role::Primary);
        disk.md.mark_dirty();
        if !skip {
            // Bits are not gone from the disk before the generation is that they belong to.
            disk.md.sb_of_generation = disk.md.sb_latest;
        }
        let line = format_args!("new current UUID {}", crate::meta_io::uuid_line(&disk.sb.uuids));
        out.log(LogLevel::Info, at, line);
        if self.vols[v].exposed.is_own() {
            // What they see is the same data; under its old name the disk would be another one's if it went and came back.
            let current = self.vols[v].uuids().current;
            self.vols[v].exposed.shows_own(current);
        }
        if clear_bitmap {
            self.vols[v].bitmap.clear_all();
            self.write_bitmap_all(v, out);
        }
        if skip {
            self.send_uuids(v, UuidFlags::SKIP_INITIAL_SYNC, out);
            let disk = self.vols[v].disk.as_mut().expect("a usable disk is present");
            disk.sb.uuids.bitmap = DataUuid::ZERO;
            disk.md.mark_dirty();
            // A loss of power must not find the common generation beside bits from before it.
            disk.md.sb_after_pages = true;
            let line = format_args!("cleared bitmap UUID {}", crate::meta_io::uuid_line(&disk.sb.uuids));
            out.log(LogLevel::Info, at, line);
            self.peer_has_own_generations(v);
            let change = StateChange::NONE.disk(DiskState::UpToDate).pdsk(DiskState::UpToDate);
            let _ = self.change_volume(v, change, Kind::Hard, out);
            self.vols[v].skip_unconfirmed = true;
        }
        self.md_sync(v, out);
        CommandResult::Ok
    }
}

/// What is wrong with options whatever the state: two Primaries without protocol C, on-congestion without protocol A, a
/// digest that is not known here.
fn refused_options(net: &crate::config::NetConfig) -> Option<ConfigError> {
    if net.allow_two_primaries && net.protocol != Protocol::C {
        return Some(ConfigError::NotProtoC);
    }
    if net.on_congestion != OnCongestion::Block && net.protocol != Protocol::A {
        return Some(ConfigError::CongNotProtoA);
    }
    let names = [
        (&net.csums_alg, ConfigError::CsumsAlg),
        (&net.verify_alg, ConfigError::VerifyAlg),
        (&net.data_integrity_alg, ConfigError::IntegrityAlg),
    ];
    let unknown = |name: &str| !name.is_empty() && DigestAlg::from_name(name).is_none();
    names.into_iter().find(|(name, _)| unknown(name)).map(|(_, e)| e)
}
