//! Processes that start and die, and what their disks keep.

use super::*;

impl World {
    /// Starts the process of a node and attaches its disk.
    pub fn start(&mut self, n: usize) {
        let seed = self.seed ^ (n as u64) << 32;
        self.nodes[n].start(seed);
        self.note(n, || "process starts".into());
        self.attach(n);
    }

    /// Loads the metadata and gives the disk to the core, if the core has closed it.
    pub fn attach(&mut self, n: usize) {
        if self.nodes[n].core.is_none() || self.nodes[n].attached {
            return;
        }
        self.nodes[n].attached = true;
        for v in 0..self.nodes[n].volumes {
            let disk = self.nodes[n].load(VolIdx(v));
            self.command(n, Command::Attach(VolIdx(v), Box::new(disk)));
        }
    }

    /// The process dies; with `power` the disk's cache goes too.
    pub fn crash(&mut self, n: usize, power: bool) {
        if self.nodes[n].core.is_none() {
            return;
        }
        self.note(n, || if power { "power fails".into() } else { "process is killed".into() });
        self.truth.separated();
        let setting_up =
            |s: VolumeState| matches!(s.conn, ConnState::StartingSyncS | ConnState::StartingSyncT);
        self.full_sync_cut |= (0..2).any(|m| self.volume(m).is_some_and(setting_up));
        let other_is_current = self.volume(1 - n).is_some_and(|s| s.disk == DiskState::UpToDate);
        self.nodes[n].stop();
        self.armed[n] = None;
        for what in self.agenda.take_node(n) {
            let rng = &mut self.rng;
            let disk = &mut self.nodes[n].disk;
            match what {
                Later::DiskWrite { sector, versions, .. } => disk.torn_write(sector, &versions, rng),
                Later::MetaWrite { sector, block, .. } => disk.torn_md(sector, &block, rng),
                _ => {}
            }
        }
        let mine: Vec<u64> = self.writes.iter().filter(|(_, (_, m))| *m == n).map(|(t, _)| *t).collect();
        for tag in mine {
            let (version, _) = self.writes.remove(&tag).expect("listed");
            self.truth.ended(n, version, false, false);
        }
        if power {
            self.nodes[n].disk.power_loss(&mut self.rng);
            self.truth.power_lost(n, other_is_current);
        }
        self.nodes[n].incarnation += 1;
        let open: Vec<SockId> = self.ends.iter().filter(|(_, e)| e.node == n).map(|(s, _)| *s).collect();
        for s in open {
            self.close_end(s, !power);
        }
        self.open.retain(|_, (m, ..)| *m != n);
        self.commands.retain(|_, (m, _)| *m != n);
        self.answers.retain(|(m, _)| *m != n);
    }
}
