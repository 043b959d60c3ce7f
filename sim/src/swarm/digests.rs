//! Verify and data integrity in random schedules: runs beside the other acts, block data that changes on its way,
//! sectors that decay.

use std::collections::BTreeSet;
use std::ops::Range;

use model::config::settings::OnCongestion;
use model::state::{ConnState, Role};
use model::time::Duration;
use replicator::{Command, CommandResult, VolIdx};

use super::Schedule;
use crate::node::{place, volume_and_sector};
use crate::rng::Rng;
use crate::world::{SimOp, World};

/// Virtual time in which a verify without faults has to end.
const VERIFIED: Duration = Duration::from_secs(400);

/// Larger devices are not verified as a whole.
const WHOLE_SECTORS: u64 = 2100;
/// What is verified most of the time.
const PART_SECTORS: u64 = 640;

fn is_verifying(w: &World, vol: VolIdx) -> bool {
    let verifies = |c| matches!(c, ConnState::VerifyS | ConnState::VerifyT);
    (0..2).any(|n| w.volume_of(n, vol.0).is_some_and(|s| verifies(s.conn)))
}

impl Schedule<'_> {
    /// What may come with an act, by a generator of its own.
    pub(super) fn digests_beside(&mut self, number: u64) {
        let mut r = Rng::new(self.seed.rotate_left(47) ^ number.wrapping_mul(0x9fb2_1c65_1e98_df25));
        if self.plan.verify_one_in > 0 && r.one_in(self.plan.verify_one_in) {
            let (n, vol) = (r.below(2) as usize, VolIdx(r.below(self.plan.volumes.into()) as u8));
            let sector = |r: &mut Rng| r.one_in(3).then(|| r.below(self.plan.sectors));
            let (mut start_sector, mut stop_sector) = (sector(&mut r), sector(&mut r));
            if self.plan.sectors > WHOLE_SECTORS {
                // From where the last one has ended, or from anywhere.
                let start = start_sector.unwrap_or_else(|| r.below(self.plan.sectors));
                start_sector = r.one_in(2).then_some(start);
                stop_sector = Some(start + r.below(WHOLE_SECTORS));
            }
            self.w.command(n, Command::Verify { vol, start_sector, stop_sector });
            if r.one_in(2) {
                let us = 1 << r.below(14);
                self.w.run_for(Duration::from_micros(us));
            }
        }
        if !self.plan.net.data_integrity_alg.is_empty() && r.one_in(8) {
            self.w.hooks.changed_at = Some(self.w.hooks.sent + 1 + r.below(20));
        }
    }

    /// Sectors of a copy decay that no client reads. A verify finds them, and nothing else, while clients write; a new
    /// connection repairs them.
    pub(super) fn decay(&mut self) {
        self.rng = Rng::new(self.seed ^ 0x64_6563_6179);
        let is_primary = |w: &World, n: usize| w.volume(n).is_some_and(|s| s.role == Role::Primary);
        let bad = if is_primary(self.w, 0) { 1 } else { 0 };
        if is_primary(self.w, bad) {
            return;
        }
        if !is_primary(self.w, 1 - bad) {
            self.w.command_and_wait(1 - bad, Command::Primary { force: false });
        }
        let vol = VolIdx(self.below(self.plan.volumes.into()) as u8);
        let part = self.part_to_verify();
        let mut rotten = BTreeSet::new();
        for _ in 0..1 + self.below(5) {
            let sector = part.start + self.below(part.end - part.start);
            self.w.nodes[bad].disk.rot(place(vol, sector), 1);
            self.w.tally.rotten += 1;
            rotten.insert(sector / 8);
        }
        let asks = self.below(2) as usize;
        self.w
            .note_phase(|| format!("blocks {rotten:?} of node{} decay, node{} verifies", bad + 1, asks + 1));
        if self.verify(asks, vol, &part, Some(1 - bad)) {
            self.check_found(vol, |found| found.is_subset(&rotten), "and nothing else");
        } else {
            // Clients of a slow disk may cost the connection, and the end of that a node whose peer was to be shot.
            self.converge();
            let again = (0..3).any(|_| {
                self.w.run_for(Duration::from_secs(10));
                self.converge();
                self.verify(asks, vol, &part, None)
            });
            assert!(again, "nothing comes between a verify and its end");
        }
        self.check_found(vol, |_| true, "at least what differs");
        self.w.command_and_wait(1 - bad, Command::Disconnect { force: false });
        self.w.connect(1 - bad, &self.plan.net);
    }

    /// The whole device, or some blocks of it.
    fn part_to_verify(&mut self) -> Range<u64> {
        let size = self.plan.sectors;
        if size <= PART_SECTORS || size <= WHOLE_SECTORS && self.rng.one_in(4) {
            return 0..size;
        }
        let start = self.below((size - PART_SECTORS) / 8) * 8;
        start..start + PART_SECTORS
    }

    /// A verify from its begin to its end, while clients of a node write to the device or not; false: the connection was
    /// lost meanwhile.
    fn verify(&mut self, asks: usize, vol: VolIdx, part: &Range<u64>, clients_at: Option<usize>) -> bool {
        let stop_sector = (part.end < self.plan.sectors).then_some(part.end);
        let it = Command::Verify { vol, start_sector: Some(part.start), stop_sector };
        assert_eq!(self.w.command_and_wait(asks, it), CommandResult::Ok, "a calm pair can verify");
        let connected =
            |w: &World| (0..2).all(|n| w.volume(n).is_some_and(|s| s.conn >= ConnState::Connected));
        // Congestion ends a verify, and marks what it found and more.
        let clients_at = clients_at.filter(|_| self.plan.net.on_congestion == OnCongestion::Block);
        let writes = clients_at.map(|n| (n, self.below(30)));
        let (clients_at, writes) = writes.unwrap_or_default();
        for _ in 0..writes {
            let (sector, count) = self.range(vol);
            self.w.request(clients_at, SimOp::Write { sector, count, fua: false });
            let us = 1 << self.below(14);
            self.w.run_for(Duration::from_micros(us));
            if !connected(self.w) {
                return false;
            }
        }
        let over = |w: &World| !connected(w) || !is_verifying(w, vol) && w.is_idle();
        assert!(self.w.run_until(VERIFIED, over), "a verify ends");
        connected(self.w)
    }

    /// Every block that differs is marked on both nodes, and what is marked there is as expected.
    fn check_found(&self, vol: VolIdx, expected: impl Fn(&BTreeSet<u64>) -> bool, what: &str) {
        let [a, b] = &self.w.nodes;
        let places = a.disk.differences(&b.disk).map(volume_and_sector);
        let size = a.core.as_ref().expect("nobody dies in the end").size_sectors(vol);
        // Disks that have grown hold anything beyond the device.
        let inside = places.filter(|(v, s)| *v == vol && *s < size);
        let differ: BTreeSet<u64> = inside.map(|(_, s)| s / 8).collect();
        for n in &self.w.nodes {
            let core = n.core.as_ref().expect("nobody dies in the end");
            let blocks = 0..size.div_ceil(8);
            let found: BTreeSet<u64> = blocks.filter(|b| core.is_marked(vol, b * 8)).collect();
            assert!(found.is_superset(&differ), "blocks {differ:?} differ, verify has marked {found:?}");
            assert!(expected(&found), "blocks {differ:?} differ, verify has marked {found:?}: {what}");
        }
    }
}
