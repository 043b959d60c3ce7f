//! The end of a schedule: nothing goes wrong any more, an operator mends what is broken, and everything has to
//! converge within a bound.

use model::state::{ConnState, DiskState, Role, VolumeState};
use model::time::Duration;
use replicator::{Command, NetConfig, VolIdx};

use super::Schedule;
use crate::hooks::{Blocked, FencePeer};
use crate::node::Faults;
use crate::world::World;

/// Virtual time in which the quiet phase has to converge.
const CONVERGE: Duration = Duration::from_secs(400);

impl Schedule<'_> {
    /// What an operator does about a node that is not as it should be. `all`: bring everything back.
    pub(super) fn mend(&mut self, n: usize, all: bool) {
        let Some(s) = self.w.volume(n) else {
            if all || self.rng.one_in(2) {
                self.w.start(n);
                self.w.connect(n, &self.plan.net);
            }
            return;
        };
        self.w.attach(n);
        if s.conn == ConnState::StandAlone {
            let net = self.plan.net.clone();
            self.w.connect(n, &net);
        }
        if s.susp {
            self.w.command(n, Command::ResumeIo);
        }
        for v in self.volumes() {
            if self.w.volume_of(n, v.0).is_some_and(|s| s.user_isp) {
                self.w.command(n, Command::ResumeSync(v));
            }
        }
    }

    pub(super) fn quiet_phase(&mut self) {
        self.calm();
        self.converge();
        self.check_end();
        if self.plan.decay {
            self.decay();
            self.converge();
            self.check_end();
        }
        if self.plan.last_power_failure {
            self.w.note_phase(|| "both lose power in the end".into());
            self.w.crash(0, true);
            self.w.crash(1, true);
            self.converge();
            self.check_end();
        }
    }

    /// All faults are over.
    fn calm(&mut self) {
        self.w.note_phase(|| "quiet phase".into());
        for n in &mut self.w.nodes {
            n.faults = Faults::default();
        }
        self.w.no_fuse();
        self.w.weather.link_bytes_per_s = 0;
        self.w.hooks.mend_disks();
        self.w.hooks.garbled_at = None;
        self.w.hooks.severed_at = None;
        self.disks_go_on(false);
        if self.full_sync(self.slowest_way_and_back_us()) > CONVERGE / 2 {
            // The way of the blocks alone makes a full sync, or one of most of the device, outlast the bound.
            self.w.weather.lag[0] = 0;
        }
        if !self.plan.disk.disk_timeout.is_zero() || self.slowest_full_sync() > CONVERGE / 2 {
            // A disk that takes too long now and then would be given up for ever; or it makes a full sync outlast the bound.
            self.w.weather.disk_spikes = 0;
        }
        for h in &mut self.w.hooks.handlers {
            h.before_resync.exit_code = 0;
            if let FencePeer::Stonith { after } = &mut h.fence_peer {
                // Else it may shoot a peer that is back by now, and be called again for that.
                *after = Duration::ZERO;
            }
        }
        let handler_outlasts_pings = self.plan.before_resync.after > self.plan.net.ping_int;
        let needs_pings = handler_outlasts_pings || self.plan.decay;
        if needs_pings && self.slowest_ping() > self.plan.net.ping_timeout {
            // No connection would last until the handler, or a verify, has ended.
            self.w.weather.lag[1] = 0;
        }
        self.w.hooks.changed_at = None;
        for n in 0..2 {
            self.w.block(n, Blocked::No);
        }
        self.w.cut(false);
        let thaws = self.w.nodes[0].frozen_until.max(self.w.nodes[1].frozen_until);
        self.w.run_for(thaws.saturating_since(self.w.now));
    }

    /// What a full sync of all volumes takes for its disks and its way: each block is asked for, read on both nodes, if
    /// digests are compared, and written.
    pub(super) fn slowest_full_sync(&self) -> Duration {
        let weather = &self.w.weather;
        // One operation in so many takes 500 times as long in the mean.
        let spikes_us = (weather.disk_us * 500).checked_div(weather.disk_spikes).unwrap_or_default();
        self.full_sync(3 * (weather.disk_us + spikes_us) + self.slowest_way_and_back_us())
    }

    /// A full sync of all volumes, each block of which takes that long; so many at most are under way.
    fn full_sync(&self, block_us: u64) -> Duration {
        let disk = &self.plan.disk;
        let buffered = self.plan.net.max_buffers / 2;
        let under_way = match disk.c_fill_target_sectors {
            0 => buffered,
            sectors => buffered.min(sectors.div_ceil(8)),
        };
        let blocks = u64::from(self.plan.volumes) * self.plan.sectors.div_ceil(8);
        Duration::from_micros(blocks * block_us / u64::from(under_way))
    }

    /// The longest time between a request for a block and its data, on the data socket.
    fn slowest_way_and_back_us(&self) -> u64 {
        let weather = &self.w.weather;
        4 * weather.net_us * weather.lag[0].max(1)
    }

    /// The longest time between a ping and its answer: every way takes up to twice the mean latency.
    pub(super) fn slowest_ping(&self) -> Duration {
        let weather = &self.w.weather;
        Duration::from_micros(4 * weather.net_us * weather.lag[1].max(1))
    }

    pub(super) fn converge(&mut self) {
        let until = self.w.now + CONVERGE;
        let mut rounds = 0;
        // Whoever goes on from here has clients, and an operator may have frozen them.
        let settled = |w: &World| {
            let frozen = |n| w.volume(n).is_some_and(|s| s.susp);
            w.in_sync() && w.is_idle() && !frozen(0) && !frozen(1)
        };
        loop {
            if settled(self.w) {
                // Two disks attached at once may say so for a moment, before each hears of the other.
                self.w.run_for(Duration::from_secs(2));
                if settled(self.w) {
                    return;
                }
            }
            assert!(
                self.w.now < until,
                "not converged: {:?} {:?}; {}",
                self.w.volume(0),
                self.w.volume(1),
                self.w.under_way()
            );
            rounds += 1;
            for n in 0..2 {
                self.mend(n, true);
            }
            self.mend_pair(rounds);
            self.w.answers.clear();
            let pause = Duration::from_millis(500);
            self.w.run_until(pause, settled);
        }
    }

    /// A block that a verify could not read is marked on both nodes. Attached again, the disk has the generation of the other
    /// one: nothing says which copy is the worse, and two Secondaries stay as they are, on this connection also when one of
    /// them becomes Primary. With a Primary the next connection brings it.
    fn bring_what_a_verify_marked(&mut self) {
        let w = &*self.w;
        let marked =
            |v| w.nodes.iter().any(|n| n.core.as_ref().is_some_and(|core| core.marked_blocks(v) > 0));
        let serves = |n, v: VolIdx| w.volume_of(n, v.0).is_some_and(|s| s.role == Role::Primary);
        if w.tally.verifies == 0 || !self.volumes().any(marked) {
            return;
        }
        // A promotion that failed for one volume leaves the others Primary.
        let n = usize::from(self.volumes().any(|v| serves(1, v)));
        self.w.command_and_wait(n, Command::Primary { force: false });
        self.w.command_and_wait(n, Command::Disconnect { force: true });
        self.converge();
    }

    fn check_end(&mut self) {
        self.bring_what_a_verify_marked();
        assert!(self.w.in_sync() && self.w.is_idle(), "in sync: {}", self.w.under_way());
        self.w.check_marks();
        self.w.check_disks();
        for v in self.volumes() {
            let sizes = [0, 1].map(|n: usize| self.w.nodes[n].core.as_ref().map(|c| c.size_sectors(v)));
            assert_eq!(sizes[0], sizes[1], "the nodes agree on the size");
        }
        for n in &self.w.nodes {
            let core = n.core.as_ref().expect("it was started");
            core.check_totals();
            for v in self.volumes() {
                let left = core.marked_blocks(v);
                assert!(
                    left == 0 || self.w.full_sync_cut,
                    "{left} bits are left although both copies are current"
                );
            }
        }
    }

    /// Split brain, and pairs without any good copy: a word of the operator.
    fn mend_pair(&mut self, rounds: u64) {
        for v in self.volumes() {
            if self.mend_volume(v, rounds) {
                break;
            }
        }
        for n in 0..2 {
            let lost = |s: VolumeState| s.role == Role::Primary && s.disk == DiskState::Diskless;
            let refused = self.volumes().any(|v| self.w.volume_of(n, v.0).is_some_and(lost));
            if rounds % 20 == 19 && refused {
                // Its data is gone for good: what clients see next is another past.
                self.w.command(n, Command::Secondary { open: 0, force: false });
            }
        }
    }

    /// True if something was done that concerns all volumes.
    fn mend_volume(&mut self, v: VolIdx, rounds: u64) -> bool {
        let (Some(a), Some(b)) = (self.w.volume_of(0, v.0), self.w.volume_of(1, v.0)) else { return false };
        let stuck = |s: &VolumeState| s.conn <= ConnState::WFConnection || s.disk < DiskState::Inconsistent;
        if rounds.is_multiple_of(30) && (stuck(&a) || stuck(&b)) {
            let was_split = self.w.truth.all().any(|t| t.splits > 0);
            if rounds.is_multiple_of(90) && was_split {
                self.start_over(usize::from(a.disk >= b.disk));
            } else {
                self.discard_one_side(&a, &b, rounds);
            }
            return true;
        }
        let bad = |s: &VolumeState| s.disk < DiskState::UpToDate && s.disk >= DiskState::Inconsistent;
        let calm = a.conn == ConnState::Connected && b.conn == ConnState::Connected;
        let apart = rounds.is_multiple_of(20) && a.conn.min(b.conn) <= ConnState::WFConnection;
        if rounds.is_multiple_of(4) && (calm || apart) && bad(&a) && bad(&b) {
            self.w.note_phase(|| "no copy is good".into());
            let n = if b.role == Role::Primary { 1 } else { 0 };
            self.w.command(n, Command::Primary { force: true });
            return true;
        }
        if rounds.is_multiple_of(4) && calm && (bad(&a) || bad(&b)) {
            // Blocks that failed leave a copy Inconsistent while connected; a new handshake repeats the resync.
            let n = usize::from(bad(&b));
            self.w.command(n, Command::Disconnect { force: true });
            return true;
        }
        false
    }

    /// Copies that have forgotten their common past, which takes several splits and promotions by force in a row: nothing
    /// but new metadata on one side helps.
    fn start_over(&mut self, loser: usize) {
        self.w.note_phase(|| "create-md".into());
        self.w.truth.all().for_each(|t| t.discard(loser));
        self.w.crash(loser, false);
        self.w.nodes[loser].create_md();
    }

    /// Nothing else brought them together: the node that does not run an application gives way.
    fn discard_one_side(&mut self, a: &VolumeState, b: &VolumeState, rounds: u64) {
        let loser = match (a.role, b.role) {
            _ if rounds.is_multiple_of(60) => usize::from(b.role == Role::Primary),
            (Role::Primary, _) => 1,
            (_, Role::Primary) => 0,
            _ if a.disk < b.disk => 0,
            _ => 1,
        };
        self.w.note_phase(|| "discard-my-data".into());
        for n in 0..2 {
            if self.w.volume(n).is_some_and(|s| s.susp_fen) {
                // Its peer cannot be fenced and went on without it: as long as it is frozen it does not step down either.
                self.w.command(n, Command::ResumeIo);
            }
        }
        self.w.truth.all().for_each(|t| t.discard(loser));
        self.w.command(loser, Command::Secondary { open: 0, force: false });
        self.w.run_for(Duration::from_secs(1));
        for n in [loser, 1 - loser] {
            self.w.command(n, Command::Disconnect { force: true });
            self.w.run_for(Duration::from_secs(1));
            // What is said of this copy holds for one handshake: it must not miss it.
            self.w.attach(n);
            let net = NetConfig { discard_my_data: n == loser, ..self.plan.net.clone() };
            self.w.connect(n, &net);
        }
        self.w.run_for(Duration::from_secs(3));
    }
}
