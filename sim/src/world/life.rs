//! Processes that start and die, and what their disks keep.

use super::*;
use crate::disk::JUNK;

impl World {
    /// Starts the process of a node and attaches its disk.
    pub fn start(&mut self, n: usize) {
        let seed = self.seed ^ (n as u64) << 32;
        self.nodes[n].start(seed);
        self.note(n, || "process starts".into());
        self.attach(n);
    }

    /// Loads the metadata and gives the disks to the core, those that the core has closed.
    pub fn attach(&mut self, n: usize) {
        for v in 0..self.nodes[n].volumes {
            if self.nodes[n].core.is_some() && self.nodes[n].attached & 1 << v == 0 {
                self.nodes[n].attached |= 1 << v;
                let disk = self.nodes[n].load(VolIdx(v));
                self.command(n, Command::Attach(VolIdx(v), Box::new(disk)));
            }
        }
    }

    /// The backing disks of a node become larger; the new part holds anything.
    pub fn grow(&mut self, n: usize, by_sectors: u64) {
        self.tally.grown += 1;
        let before = self.nodes[n].disk.sectors;
        self.nodes[n].grow(by_sectors);
        let after = self.nodes[n].disk.sectors;
        self.note(n, || format!("backing disk grows from {before} to {after} sectors"));
        for v in 0..self.nodes[n].volumes {
            for at in [before, after.saturating_sub(8).max(before)] {
                let count = (after - at).min(8) as usize;
                let junk = JUNK + self.rng.below(1 << 20);
                self.nodes[n].disk.write(place(VolIdx(v), at), &vec![junk; count], true);
            }
        }
    }

    /// The process dies; with `power` the disk's cache goes too.
    pub fn crash(&mut self, n: usize, power: bool) {
        if self.nodes[n].core.is_none() {
            return;
        }
        self.note(n, || if power { "power fails".into() } else { "process is killed".into() });
        if power {
            self.tally.power_failures += 1;
        } else {
            self.tally.kills += 1;
        }
        // An operator may be about to have the other copy replaced by this one.
        let given_up = |commands: &Ordered<u64, (usize, Promotion)>, v| {
            commands.values().any(|(m, p)| match p {
                Promotion::Invalidate(vol) => *m == 1 - n && vol.0 == v,
                Promotion::InvalidateRemote(vol) => *m == n && vol.0 == v,
                _ => false,
            })
        };
        let mut others = Vec::new();
        for v in 0..self.truth.volumes() {
            self.full_sync_cut |= (0..2).any(|m| self.volume_of(m, v).is_some_and(|s| is_setting_up(&s)));
            // A node alone marks all its blocks first, too.
            self.full_sync_cut |= self.commands.values().any(|(m, p)| *m == n && p.is_invalidate(v));
            let other_is_current = !given_up(&self.commands, v)
                && self.volume_of(1 - n, v).is_some_and(|s| s.disk == DiskState::UpToDate);
            self.truth.at(place(VolIdx(v), 0)).separated();
            others.push(other_is_current);
        }
        self.fuse = self.fuse.filter(|f| f.node != n);
        self.nodes[n].stop();
        self.armed[n] = None;
        let parked = std::mem::take(&mut self.hooks.parked);
        let (mine, others_parked) = parked.into_iter().partition(|k| k.node as usize == n);
        self.hooks.parked = others_parked;
        mine.into_iter().for_each(|k: Key| self.agenda.put_back(k));
        for what in self.agenda.take_node(n) {
            let rng = &mut self.rng;
            let disk = &mut self.nodes[n].disk;
            match what {
                Later::DiskWrite { sector, versions, .. } => disk.torn_write(sector, &versions, rng),
                Later::MetaWrite { sector, block, flush, .. } => disk.torn_md(sector, &block, flush, rng),
                _ => continue,
            }
            self.tally.torn_writes += 1;
        }
        let mine: Vec<u64> = self.writes.iter().filter(|(_, (_, m, _))| *m == n).map(|(t, _)| t).collect();
        for tag in mine {
            let (version, _, sector) = self.writes.remove(&tag).expect("listed");
            let truth = self.truth.at(sector);
            if self.two_primaries && self.nodes[1 - n].core.is_some() {
                truth.left_behind(n, version);
            } else {
                truth.ended(n, version, false, false);
            }
        }
        if power {
            self.nodes[n].disk.power_loss(&mut self.rng);
            self.truth.all().zip(others).for_each(|(t, other_is_current)| t.power_lost(n, other_is_current));
        }
        if self.two_primaries {
            self.truth.all().for_each(|t| t.second_primary_died(n));
        }
        self.before_resync.iter_mut().for_each(|called| called[n] = None);
        self.hooks.handlers[n].asked.clear();
        self.nodes[n].incarnation += 1;
        let open: Vec<SockId> = self.ends.iter().filter(|(_, e)| e.node == n).map(|(s, _)| s).collect();
        for s in open {
            self.close_end(s, !power);
        }
        self.open.retain(|_, (m, ..)| *m != n);
        self.commands.retain(|_, (m, _)| *m != n);
        self.outdated_node_died(n);
        self.answers.retain(|(m, _)| *m != n);
    }

    /// The node dies when so many more of its actions were carried out, most likely in the middle of a batch.
    pub fn crash_after(&mut self, n: usize, actions: u64, power: bool) {
        self.fuse = Some(Fuse { node: n, left: actions, only_metadata: false, power });
    }

    /// The node dies when so many more of its metadata writes and then another one have ended: that one lies in the cache,
    /// beside the data that it speaks of.
    pub fn crash_after_metadata(&mut self, n: usize, writes: u64, power: bool) {
        self.fuse = Some(Fuse { node: n, left: writes, only_metadata: true, power });
    }

    /// Nobody dies by [`World::crash_after`] or [`World::crash_after_metadata`] any more.
    pub fn no_fuse(&mut self) {
        self.fuse = None;
    }

    /// Counts an action, or a metadata write that has ended; true if the node died of it.
    pub(super) fn burns_down(&mut self, n: usize, metadata: bool) -> bool {
        let Some(fuse) = self.fuse.as_mut().filter(|f| f.node == n && f.only_metadata == metadata) else {
            return false;
        };
        if fuse.left > 0 {
            fuse.left -= 1;
            return false;
        }
        let power = fuse.power;
        self.tally.within_a_batch += 1;
        self.crash(n, power);
        true
    }
}

/// A death that is certain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fuse {
    node: usize,
    /// Actions or metadata writes until then.
    left: u64,
    only_metadata: bool,
    power: bool,
}
