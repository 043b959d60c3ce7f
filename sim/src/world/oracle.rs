//! What has to hold after every event, and what clients and operators are told.

use super::*;

/// The states of a volume on both nodes, whether these use the two ends of the same sockets, and whether a handler runs
/// that a resync has to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Looked {
    states: [Option<VolumeState>; 2],
    met: bool,
    called: [bool; 2],
}

impl World {
    /// What holds after every event. All of it follows from the states and from what clients saw, so nothing is new as
    /// long as these stay.
    pub(super) fn check_states(&mut self) {
        let met = self.same_connection();
        let now = |w: &World, v: u8| Looked {
            states: [w.volume_of(0, v), w.volume_of(1, v)],
            met,
            called: w.before_resync[usize::from(v)].map(|run| run.is_some()),
        };
        let volumes = self.truth.volumes();
        let known = self.looked_at.len() == usize::from(volumes);
        if known
            && !self.truth.is_touched()
            && (0..volumes).all(|v| self.looked_at[usize::from(v)] == now(self, v))
        {
            return;
        }
        for v in 0..self.truth.volumes() {
            self.check_volume(v);
        }
        self.fence_frozen = [0, 1].map(|n| self.volume(n).is_some_and(|s| s.susp_fen));
        self.looked_at.clear();
        for v in 0..volumes {
            let looked = now(self, v);
            self.looked_at.push(looked);
        }
        self.truth.look_away();
    }

    fn check_volume(&mut self, v: u8) {
        let states = [self.volume_of(0, v), self.volume_of(1, v)];
        let met = self.same_connection();
        if let [Some(a), Some(b)] = &states {
            let linked = |s: &VolumeState| s.conn >= ConnState::Connected;
            let primary = |s: &VolumeState| s.role == Role::Primary;
            let pair = primary(a) && primary(b) && linked(a) && linked(b);
            let allowed = self.two_primaries;
            assert!(allowed || !(pair && met), "two connected Primaries");
            let serves =
                |n: usize| self.nodes[n].core.as_ref().is_some_and(|core| core.serves(self.clock(n)));
            let writes = |n: usize, s: &VolumeState| {
                serves(n) && s.conn < ConnState::Connected && s.disk == DiskState::UpToDate
            };
            assert!(!(self.one_writer && writes(0, a) && writes(1, b)), "two writers in spite of fencing");
        }
        for (n, called) in self.before_resync[usize::from(v)].iter().enumerate() {
            let runs = |s: &VolumeState| matches!(s.conn, ConnState::SyncSource | ConnState::SyncTarget);
            let early = called.is_some() && states[n].as_ref().is_some_and(runs);
            assert!(!early, "node {} syncs before its handler has ended", n + 1);
        }
        for (n, s) in states.iter().enumerate() {
            let before = self.looked_at.get(usize::from(v)).and_then(|l| l.states[n]);
            let lost = s.is_none_or(|s| s.conn < ConnState::Connected || s.disk < DiskState::Inconsistent);
            self.full_sync_cut |= lost && before.is_some_and(|s| is_setting_up(&s));
        }
        let truth = self.truth.at(place(VolIdx(v), 0));
        for (n, s) in states.iter().enumerate() {
            // Before it looks for its peer again a node has written what it had got. In the handshake the other one may have done
            // with it, and have sent data.
            let found = |s: &VolumeState| s.conn >= ConnState::Connected && met;
            if s.is_none_or(|s| s.conn == ConnState::WFConnection || found(&s)) {
                truth.nothing_is_on_its_way_to(n);
            }
        }
        let both = states.iter().all(|s| s.is_some_and(|s| s.role == Role::Primary));
        // Of two failed disks of one generation nobody knows which one went last.
        truth.spoiled |= both && states.iter().flatten().all(|s| s.disk < DiskState::Inconsistent);
        // Frozen until its peer is fenced, a node does not go on.
        let goes_on = |s: &VolumeState| s.conn < ConnState::Connected && !s.susp_fen;
        let alone = |s: &VolumeState| goes_on(s) && s.role == Role::Primary && s.disk == DiskState::UpToDate;
        let goes_alone = [0, 1].map(|n| states[n].is_some_and(|s| alone(&s)) && truth.goes_alone(n));
        let apart = both && states.iter().flatten().any(goes_on) || goes_alone.contains(&true);
        let both_alone = states.iter().all(|s| s.is_some_and(|s| alone(&s)));
        if self.two_primaries && apart || both_alone {
            truth.two_go_on();
        }
        for (n, state) in states.iter().enumerate() {
            let remote = |s: &VolumeState| {
                s.role == Role::Primary && s.conn >= ConnState::Connected && s.disk < DiskState::UpToDate
            };
            let was =
                std::mem::replace(&mut self.remote[usize::from(v)][n], state.is_some_and(|s| remote(&s)));
            if was && !self.remote[usize::from(v)][n] && !truth.protocol_c {
                truth.remote_answers_lost(n);
            }
        }
        let homes = [0, 1].map(|n| truth.home(n));
        truth.note_homes(&states);
        for (n, before) in homes.into_iter().enumerate() {
            let alone = |s: &VolumeState| {
                let good = s.disk == DiskState::UpToDate;
                s.role == Role::Primary && s.conn < ConnState::Connected && good
            };
            let disk = &self.nodes[truth.home(n)].disk;
            if truth.home(n) == before {
                continue;
            } else if before == n {
                let has_clients = states[n].is_some_and(|s| s.role == Role::Primary);
                truth.falls_back_on_peer(n, has_clients, |s| disk.version(s));
            } else if self.primary[usize::from(v)][n] && states[n].is_some_and(|s| alone(&s)) {
                let other_is_primary = states[1 - n].is_some_and(|s| s.role == Role::Primary);
                truth.takes_up_own_disk(n, other_is_primary, |s| disk.version(s));
            }
        }
        for (n, state) in states.iter().enumerate() {
            let target = state.is_some_and(|s| s.conn == ConnState::SyncTarget);
            let was_target = std::mem::replace(&mut self.syncing[usize::from(v)][n], target);
            self.tally.resyncs += u64::from(target && !was_target);
            let ahead = state.is_some_and(|s| s.conn == ConnState::Ahead);
            let was_ahead = std::mem::replace(&mut self.ahead[usize::from(v)][n], ahead);
            self.tally.ahead += u64::from(ahead && !was_ahead);
            let source_is_there = states[1 - n].is_some_and(|s| s.conn == ConnState::SyncSource);
            if was_target && state.as_ref().is_some_and(is_current) {
                let disk = &self.nodes[n].disk;
                if source_is_there && met {
                    truth.target_finished(n, |s| disk.version(s));
                } else {
                    truth.target_finished_alone(n, |s| disk.version(s));
                }
            }
            let is = state.is_some_and(|s| s.role == Role::Primary);
            let forced =
                |p: &Promotion| matches!(p, Promotion::Yes { forced: true, good } if good & 1 << v == 0);
            let by_force = self.commands.values().any(|(m, p)| *m == n && forced(p));
            let one_disk = |s: &VolumeState| s.disk.min(s.pdsk) < DiskState::Inconsistent;
            let alone = |s: &VolumeState| s.conn < ConnState::Connected || one_disk(s);
            let was = std::mem::replace(&mut self.primary[usize::from(v)][n], is);
            // Granted by a peer that has gone since, and has not waited for this one.
            let late = self.two_primaries && !met;
            if is && !was && !by_force && state.is_some_and(|s| late || alone(&s)) {
                let copy = truth.home(n);
                let disk = &self.nodes[copy].disk;
                truth.promoted_alone(copy, |s| disk.version(s));
            }
        }
        truth.look(&states, met);
        if truth.spoiled && truth.is_whole() && states.iter().all(|s| s.as_ref().is_some_and(is_current)) {
            let disk = &self.nodes[truth.owner].disk;
            truth.accept(|s| disk.version(s));
        }
    }

    /// A client's request has begun, or was carried out (`done`): the copy that it works on is the one that counts.
    pub(super) fn note_owner(&mut self, n: usize, op: SimOp, done: bool) {
        if self.volume(n).is_none_or(|s| s.role != Role::Primary) {
            return;
        }
        let home = self.truth.at(op.place()).home(n);
        let counts = if done {
            // A node that takes a lost peer for connected sends it clients, but nothing is answered there. A peer that has not
            // heard of the lost disk yet, or whose new generation is not stable, takes this node for the one whose copy counts.
            let (vol, _) = volume_and_sector(op.place());
            let knows = |s: VolumeState| s.pdsk < DiskState::Inconsistent;
            home != n && self.same_connection() && self.volume_of(1 - n, vol.0).is_some_and(knows)
        } else {
            home == n
        };
        if counts {
            self.truth.at(op.place()).owner = home;
        }
    }

    pub(super) fn client_done(&mut self, n: usize, tag: ClientTag, result: ClientResult, buf: Option<BufId>) {
        let mut versions = Vec::new();
        if let Some(buf) = buf {
            versions = self.nodes[n].buffers[&buf.0].versions.to_vec();
            self.nodes[n].release(buf);
        }
        let ok = result == ClientResult::Ok;
        let (m, op, clock) = self.open.remove(&tag.0).expect("a request is answered once");
        assert_eq!(n, m, "by the node that was asked");
        if ok {
            self.note_owner(n, op, true);
        }
        self.mix(tag.0 << 1 | u64::from(ok));
        self.note(n, || format!("request {} ends: {result:?}", tag.0));
        if let Some((version, _, sector)) = self.writes.remove(&tag.0) {
            let two = self.two_primaries;
            let lonely = |s: VolumeState| {
                let apart = s.conn < ConnState::Connected || s.conn == ConnState::Ahead;
                // Of two Primaries one may have been asked to give up its copy, and go on with it because the answer was lost.
                let counts = if two { DiskState::UpToDate } else { DiskState::Inconsistent };
                apart || s.pdsk < counts
            };
            // Answers may be held back, by suspend-io for one: what counts is where the data is.
            let mirrored = match op {
                SimOp::Write { sector, count, .. } => (sector..sector + count).all(|s| {
                    let other = &self.nodes[1 - n].disk;
                    volume_and_sector(s).1 < other.sectors && other.version(s) >= version
                }),
                _ => false,
            };
            let (vol, _) = volume_and_sector(sector);
            // A batch of actions may answer first, in protocol A or B, and then give up the connection that it relied on.
            let before = self.looked_at.get(usize::from(vol.0)).and_then(|l| l.states[n]);
            let was_lonely = two || before.is_some_and(lonely);
            let lonely = !mirrored && was_lonely && self.volume_of(n, vol.0).is_some_and(lonely);
            let frozen = self.volume_of(n, vol.0).is_some_and(|s| s.susp_fen);
            assert!(
                !(ok && frozen && self.fence_frozen[n]),
                "a write was answered before the peer was fenced"
            );
            let truth = self.truth.at(sector);
            if ok || !two || self.nodes[1 - n].core.is_none() {
                truth.ended(n, version, ok, lonely);
            } else {
                truth.left_behind(n, version);
            }
            // Of two Primaries the one that wrote first may be the one that is overwritten.
            if ok && truth.protocol_c && !self.two_primaries {
                self.check_written(n, version, op);
            }
        }
        match op {
            SimOp::Flush | SimOp::FlushVolume { .. } if ok && self.two_primaries => {
                self.truth.at(op.place()).of(n).flushed_by(n, clock);
            }
            SimOp::Flush | SimOp::FlushVolume { .. } if ok => self.truth.at(op.place()).of(n).flushed(clock),
            // A copy that passed on an error may be replaced by an older one.
            SimOp::Read { sector, .. } if ok && !self.truth.at(sector).spoiled => {
                for (i, v) in versions.iter().enumerate() {
                    let (s, v) = (sector + i as u64, if *v < crate::disk::JUNK { *v } else { 0 });
                    let ledger = self.truth.at(s).of(n);
                    assert!(
                        ledger.allows_since(s, v, clock + 1),
                        "stale read: sector {s} returned {v}, allowed are {:?}",
                        ledger.possible(s)
                    );
                    ledger.observed(s, v, clock);
                    self.reads_checked += 1;
                }
            }
            _ => {}
        }
        self.answers.push((n, Answer::Client(tag, result, versions)));
    }

    pub(super) fn command_done(&mut self, n: usize, promotion: Promotion, result: CommandResult) {
        let ok = result == CommandResult::Ok;
        match promotion {
            Promotion::Yes { forced: true, good } if ok => {
                let disk = &self.nodes[n].disk;
                let core = self.nodes[n].core.as_ref().expect("it answered");
                // With a good copy on the peer there was nothing to force.
                let forced = |v: usize| {
                    good & 1 << v == 0 && core.volume_state(VolIdx(v as u8)).disk == DiskState::UpToDate
                };
                let promoted = self.truth.all().enumerate().filter(|(v, _)| forced(*v));
                promoted.for_each(|(_, t)| t.promoted_by_force(n, |s| disk.version(s)));
            }
            Promotion::Invalidate(vol)
                if ok && self.volume_of(n, vol.0).is_some_and(|s| s.conn < ConnState::Connected) =>
            {
                self.truth.at(place(vol, 0)).discard(n);
            }
            // It may be Primary again before anybody looks, and with another copy.
            Promotion::Back if ok => self.primary.iter_mut().for_each(|was| was[n] = false),
            // Its own disk went before the answer, and the peer has given up its copy for it.
            Promotion::InvalidateRemote(vol)
                if !ok && self.volume_of(1 - n, vol.0).is_some_and(|s| s.disk < DiskState::UpToDate) =>
            {
                self.truth.at(place(vol, 0)).discard(1 - n);
            }
            Promotion::Attach(vol) if !ok => self.nodes[n].close_disk(vol),
            _ => {}
        }
    }

    /// A write that was answered in protocol C is on every current copy, and where it is not, that is recorded.
    pub(super) fn check_written(&self, n: usize, version: u64, op: SimOp) {
        let SimOp::Write { sector, count, .. } = op else { return };
        let core = self.nodes[n].core.as_ref().expect("it answered");
        let (vol, _) = volume_and_sector(sector);
        let s = core.volume_state(vol);
        let newer = |m: usize, s: u64| {
            let v = self.nodes[m].disk.read(s);
            (v >= version || v == 0) && v < crate::disk::JUNK
        };
        for at in sector..sector + count {
            if s.disk == DiskState::UpToDate {
                assert!(
                    newer(n, at),
                    "sector {at} of version {version} was answered, but is not on the own disk"
                );
            }
            let there = s.conn == ConnState::Connected && s.pdsk == DiskState::UpToDate;
            // A peer that is gone may have acknowledged its flush of it before; only the own disk was late.
            let stable = self.nodes[1 - n].disk.medium(at) >= version;
            assert!(
                (there && newer(1 - n, at) || stable)
                    || s.disk < DiskState::Inconsistent
                    || core.is_covered(vol, volume_and_sector(at).1),
                "sector {at} of version {version} was answered, is not on the peer, and nothing says so"
            );
        }
    }

    /// Every sector equal on both disks, and allowed by what clients saw. Panics with the first difference.
    pub fn check_disks(&mut self) {
        let [a, b] = &self.nodes;
        if let Some(s) = a.disk.differences(&b.disk).find(|s| self.is_replicated(*s)) {
            let (a, b) = (a.disk.read(s), b.disk.read(s));
            panic!("sector {s} differs while both copies say UpToDate: {a} and {b}");
        }
        for truth in self.truth.all() {
            let ledger = truth.of(0);
            for s in ledger.written() {
                let held = a.disk.version(s);
                assert!(
                    ledger.allows(s, held),
                    "sector {s} holds version {held}, clients know of {:?}",
                    ledger.possible(s)
                );
            }
        }
    }

    /// The sector is inside the device, as far as it is known.
    fn is_replicated(&self, at: u64) -> bool {
        let (vol, sector) = volume_and_sector(at);
        self.nodes.iter().all(|n| n.core.as_ref().is_none_or(|c| sector < c.size_sectors(vol)))
    }

    /// Both idle, connected and current: what differs is marked.
    pub fn check_marks(&self) {
        if !self.is_idle() || !self.in_sync() || !self.same_connection() {
            return;
        }
        for s in self.nodes[0].disk.differences(&self.nodes[1].disk).filter(|s| self.is_replicated(*s)) {
            let (a, b) = (self.nodes[0].disk.read(s), self.nodes[1].disk.read(s));
            let (vol, at) = volume_and_sector(s);
            let marked = self.nodes.iter().any(|n| n.core.as_ref().is_some_and(|c| c.is_marked(vol, at)));
            assert!(marked, "sector {s} holds {a} and {b}, and no bit says so");
        }
    }

    /// Both nodes use the two ends of the same sockets.
    pub fn same_connection(&self) -> bool {
        let socks = |n: usize| self.nodes[n].core.as_ref().and_then(|c| c.sockets());
        match (socks(0), socks(1)) {
            (Some((d0, m0)), Some((d1, m1))) => {
                let joined = |a: SockId, b: SockId| self.ends.get(&a).is_some_and(|e| e.peer == b);
                joined(d0, d1) && joined(m0, m1)
            }
            _ => false,
        }
    }
}
