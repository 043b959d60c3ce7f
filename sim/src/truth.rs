//! Which copy counts. While the nodes are in sync they share one ledger; when one is promoted on its own although the
//! other went on, each has its own until one of them overwrites the other.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use model::state::{ConnState, DiskState, Role, VolumeState};

use crate::disk::ROTTEN;
use crate::ledger::Ledger;
use crate::node::volume_and_sector;

/// What is known about the two copies.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// By node while `split`, else the first one for both.
    ledgers: [Ledger; 2],
    split: bool,
    /// What both copies held when they were last in sync, while they are not.
    at_split: Option<Ledger>,
    /// The reading of the clock then; the clock of that ledger goes on by itself.
    split_at: u64,
    /// Answered writes to each copy since, which only that one has.
    since: [Vec<u64>; 2],
    /// The copy that a node's clients work on: the peer's while it has none.
    home: [usize; 2],
    /// This copy has gone on without the other one since.
    went_alone: [bool; 2],
    /// Writes that have not ended, by their ids.
    under_way: BTreeMap<u64, UnderWay>,
    /// By the node that may still get them: writes that a dead node has sent, beside what the clients of the other write.
    left_behind: [Vec<u64>; 2],
    /// The copy that was written last.
    pub owner: usize,
    /// An operator said that this node's changes may be lost.
    pub word: [bool; 2],
    /// The node last seen as source since the nodes met.
    source: Option<usize>,
    /// This node's disk lost its cache while the other copy counted, and has not been brought up to date since.
    cache_lost: [bool; 2],
    /// Every answered write is on the peer's disk if it is connected.
    pub protocol_c: bool,
    /// After a split the configuration says whose changes may be lost.
    pub discards_by_policy: bool,
    /// A disk that passes on errors lost something: what is in the end on both is the truth.
    pub spoiled: bool,
    /// Splits seen.
    pub splits: u64,
}

/// A write on its way, as a ledger has to know it.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    node: usize,
    content: u64,
    sector: u64,
    count: u64,
    fua: bool,
}

impl Truth {
    /// Two empty devices, not connected; protocol C.
    pub fn new() -> Truth {
        Truth { protocol_c: true, home: [0, 1], ..Truth::default() }
    }

    /// The ledger of a node's clients. A request may begin in one ledger and end in the other: their counters do not part.
    pub fn of(&mut self, n: usize) -> &mut Ledger {
        let clock = self.ledgers[0].clock.max(self.ledgers[1].clock);
        self.ledgers.iter_mut().for_each(|l| l.clock = clock);
        &mut self.ledgers[if self.split { self.home[n] } else { 0 }]
    }

    /// The copy that a node's clients work on.
    pub fn home(&self, n: usize) -> usize {
        self.home[n]
    }

    /// A node takes a write of a client.
    pub fn issued(&mut self, n: usize, id: u64, content: u64, sector: u64, count: u64, fua: bool) {
        self.of(n).issued_by(n, id, content, (sector, count), fua);
        self.under_way.insert(id, UnderWay { node: n, content, sector, count, fua });
    }

    /// A node that has not heard of a split takes a write: it is sent, and may still reach the other copy.
    pub fn may_reach_the_other(&mut self, n: usize, id: u64, content: u64, sector: u64, count: u64) {
        if self.split {
            let other = &mut self.ledgers[1 - self.home[n]];
            other.issued_by(n, id, content, (sector, count), false);
            other.ended(id, false);
        }
    }

    /// The answers of a Primary without a disk are worth what the peer has received, and that is lost.
    pub fn remote_answers_lost(&mut self, n: usize) {
        self.of(n).rollback();
    }

    /// A write ended; `lonely`: only the own disk has it.
    pub fn ended(&mut self, n: usize, id: u64, ok: bool, lonely: bool) {
        self.of(n).ended(id, ok);
        self.under_way.remove(&id);
        if let Some(at) = self.at_split.as_mut() {
            // It began while the copies were equal; it may be on both.
            at.ended(id, false);
        }
        if self.at_split.is_some() && ok && lonely {
            self.since[self.home[n]].push(id);
        }
    }

    /// A node dies with this write unfinished, or has called it failed; the peer may have it in a socket, and its own
    /// clients write on.
    pub fn left_behind(&mut self, n: usize, id: u64) {
        self.under_way.remove(&id);
        self.left_behind[1 - n].push(id);
    }

    /// What the peer of this node has left behind has arrived, or is gone.
    pub fn nothing_is_on_its_way_to(&mut self, n: usize) {
        for id in self.left_behind[n].drain(..) {
            self.ledgers.iter_mut().chain(&mut self.at_split).for_each(|l| l.ended(id, false));
        }
    }

    /// An operator gives up what this node has.
    pub fn discard(&mut self, loser: usize) {
        self.word[loser] = true;
        // If it was the only one that went on, the truth is what the other one holds. It also went on if it was the peer's
        // clients that it served, whose last writes began before their own disk went.
        let serves_both = self.home[1 - loser] == loser;
        self.spoiled |= !self.split && (self.owner == loser || serves_both);
    }

    /// The nodes are about to lose each other, or have.
    pub fn separated(&mut self) {
        if self.at_split.is_none() {
            self.at_split = Some(self.ledgers[0].clone());
            self.split_at = self.ledgers[0].clock;
            self.since.iter_mut().for_each(Vec::clear);
        }
    }

    /// The cache of a node's disk is lost.
    pub fn power_lost(&mut self, n: usize, other_is_current: bool) {
        if self.split {
            self.ledgers[n].rollback();
            return;
        }
        if n == self.owner || !other_is_current {
            self.ledgers[0].rollback();
        }
        if (n != self.owner || !other_is_current)
            && let Some(at) = self.at_split.as_mut()
        {
            at.rollback();
        }
        self.cache_lost[n] |= other_is_current;
    }

    /// The second one of two Primaries dies, which has not gone on alone; the first one has lost its cache. Both were in the
    /// middle of the same generation, and either copy may win: what flushes promise is left.
    pub fn second_primary_died(&mut self, n: usize) {
        if self.cache_lost[1 - n] && self.since[n].is_empty() && !self.split {
            self.ledgers[0].rollback();
            self.at_split.iter_mut().for_each(Ledger::rollback);
        }
    }

    /// A node's own disk has gone, and its clients work on the peer's copy from now on. Both copies may have failed at
    /// once: the peer lost its cache, and this disk went before the loss of the peer made it the only good one. What is
    /// left then is what flushes promise, and not less. Where there are no clients the disk may yet come back, and count.
    pub fn falls_back_on_peer(&mut self, n: usize, has_clients: bool, read: impl Fn(u64) -> u64) {
        // The peer's copy is in a generation of its own then, written to or not.
        self.went_alone[1 - n] |= has_clients;
        let both_failed = self.cache_lost[1 - n] && self.since[n].is_empty() && !self.split;
        if self.protocol_c && !(both_failed && has_clients) {
            return;
        }
        if self.protocol_c {
            self.assert_not_stale(1 - n, &read);
        }
        // Protocols A and B: what the own disk answered for need not have arrived on the other one.
        if self.protocol_c {
            self.of(n).rebase_answered(read);
        } else {
            self.of(n).rebase(read);
        }
    }

    /// A Primary that was served by the peer goes on alone with its own disk. Its clients are the same as before, so the
    /// disk holds what they have seen; unless some of it was the other node's, promoted behind its back.
    pub fn takes_up_own_disk(&mut self, n: usize, other_is_primary: bool, read: impl Fn(u64) -> u64) {
        let main = &self.ledgers[0];
        if !self.split
            && !self.spoiled
            && !other_is_primary
            && let Some(s) = main.written().find(|s| !main.allows(*s, read(*s)))
        {
            let (v, possible) = (read(s), main.possible(s));
            panic!("node {} goes on with {v} in sector {s}, its clients know of {possible:?}", n + 1);
        }
        self.promoted_alone(n, read);
    }

    /// A target has finished while its source is there: it holds what clients know, whether the source hears of it or not.
    pub fn target_finished(&mut self, n: usize, read: impl Fn(u64) -> u64) {
        if self.split || self.at_split.is_none() {
            return;
        }
        if self.protocol_c && !self.spoiled {
            let main = &self.ledgers[0];
            // No resync brings what has decayed; a verify has to find it, and the end compares everything.
            let wrong = |s: &u64| read(*s) & ROTTEN == 0 && !main.allows(*s, read(*s));
            if let Some(s) = main.written().find(wrong) {
                let (v, possible) = (read(s), main.possible(s));
                panic!("node {} is synced, but sector {s} holds {v}, clients know of {possible:?}", n + 1);
            }
        }
        self.at_split = None;
        self.cache_lost = [false; 2];
        self.separated();
    }

    /// A target has finished, and its source had left the resync by then: what it holds tells whether it has everything.
    pub fn target_finished_alone(&mut self, n: usize, read: impl Fn(u64) -> u64) {
        let main = &self.ledgers[0];
        if main.written().all(|s| main.allows(s, read(s))) {
            self.target_finished(n, read);
        }
    }

    /// An operator has said that this copy is the truth, with what was written to it alone. The other one may have a past of
    /// its own, and be chosen yet when they meet.
    pub fn promoted_by_force(&mut self, n: usize, read: impl Fn(u64) -> u64) {
        self.of(n).rebase(&read);
        self.word[1 - n] |= self.split;
        self.at_split = None;
        self.cache_lost = [false; 2];
        self.owner = n;
    }

    /// One of two Primaries goes on with its own copy and without the other node. True: that one has answered writes for
    /// the sake of its own copy alone.
    pub fn goes_alone(&mut self, n: usize) -> bool {
        self.went_alone[n] = true;
        if self.home[n] == n && self.under_way.values().any(|w| w.node == n) {
            // What it took while both were there is answered by this copy now.
            self.owner = n;
        }
        !self.split && self.home[n] == n && !self.since[1 - n].is_empty()
    }

    /// Two Primaries lose each other: each goes on from what both had. One may have gone on before the other one, which
    /// had not noticed, became Primary or lost it too.
    pub fn two_go_on(&mut self) {
        if self.split {
            return;
        }
        self.separated();
        self.ledgers[1] = self.ledgers[0].clone();
        for n in 0..2 {
            self.ledgers[1 - n].never_got(&self.since[n]);
        }
        self.split = true;
        self.splits += 1;
    }

    /// A copy was promoted without the other one; `read` gives what its disk holds.
    pub fn promoted_alone(&mut self, n: usize, read: impl Fn(u64) -> u64) {
        if self.split {
            // A copy that was left behind (detached, say) has a past of its own, and may have got something of the other's.
            let [a, b] = &mut self.ledgers;
            let (own, other) = if n == 0 { (a, b) } else { (b, a) };
            own.looks_at(other.written());
            if !own.written().all(|s| own.allows(s, read(s))) {
                self.ledgers[n].rebase(&read);
            }
            return;
        }
        let main = &self.ledgers[0];
        let fits = main.written().all(|s| main.allows(s, read(s)));
        if n == self.owner && fits && !self.went_alone[1 - n] {
            return;
        }
        if n != self.owner && self.protocol_c && !self.spoiled {
            self.assert_not_stale(n, &read);
        }
        self.ledgers[1] = self.ledgers[0].clone();
        self.ledgers[n].rebase(&read);
        self.split = true;
        self.splits += 1;
        self.since[n].clear();
    }

    /// A copy holds at least what both had when they were last in sync, as far as that outlived its cache.
    fn assert_not_stale(&self, n: usize, read: impl Fn(u64) -> u64) {
        let Some(at) = &self.at_split else { return };
        let main = &self.ledgers[0];
        for s in main.written() {
            let v = read(s);
            let newer = main.possible(s).contains(&v) || main.allows_since(s, v, self.split_at);
            assert!(
                at.allows(s, v) || newer,
                "stale promotion: node {} holds version {v} in sector {s}, allowed are {:?}",
                n + 1,
                at.possible(s)
            );
        }
    }

    /// Notes which copy the clients of each node work on.
    pub fn note_homes(&mut self, states: &[Option<VolumeState>; 2]) {
        for (n, s) in states.iter().enumerate() {
            let Some(s) = s else { continue };
            let good = s.disk == DiskState::UpToDate;
            if s.disk == DiskState::Negotiating {
                // Nobody has a say yet in which copy it is going to be.
                continue;
            }
            if !good && s.conn >= ConnState::Connected && s.pdsk == DiskState::UpToDate {
                self.moves_home(n, 1 - n);
            } else if good || s.disk >= DiskState::Inconsistent {
                self.moves_home(n, n);
            }
        }
    }

    /// What the clients of a node have not had an answer to goes to the copy that they work on now, frozen as it may have
    /// been; the other copy may have got it before.
    fn moves_home(&mut self, n: usize, copy: usize) {
        if std::mem::replace(&mut self.home[n], copy) == copy || !self.split {
            return;
        }
        for (id, w) in self.under_way.iter().filter(|(_, w)| w.node == n) {
            if !self.ledgers[copy].is_open(*id) {
                self.ledgers[copy].issued_by(n, *id, w.content, (w.sector, w.count), w.fua);
            }
        }
    }

    /// Looks at the states after an event; `met`: both nodes speak of the same connection.
    pub fn look(&mut self, states: &[Option<VolumeState>; 2], met: bool) {
        let connected = |n: usize| states[n].is_some_and(|s| s.conn >= ConnState::Connected);
        if !connected(0) && !connected(1) {
            self.source = None;
        }
        for (n, s) in states.iter().enumerate() {
            let Some(s) = s else { continue };
            if matches!(s.conn, ConnState::SyncSource | ConnState::PausedSyncS | ConnState::WFBitMapS) {
                self.source = Some(n);
            }
        }
        let target_began = states.iter().flatten().any(|s| s.conn == ConnState::SyncTarget);
        if self.split
            && let Some(winner) = self.source
            && target_began
            && met
        {
            self.settle(winner);
        }
        let current = |s: &Option<VolumeState>| {
            s.is_some_and(|s| {
                // A verify changes nothing about the copies, and may run for a long time.
                matches!(s.conn, ConnState::Connected | ConnState::VerifyS | ConnState::VerifyT)
                    && s.disk == DiskState::UpToDate
                    && s.pdsk == DiskState::UpToDate
            })
        };
        if states.iter().all(current) {
            if self.split {
                let winner = self.source.unwrap_or(self.owner);
                self.settle(winner);
            }
            self.at_split = None;
            self.word = [false; 2];
            self.cache_lost = [false; 2];
            self.went_alone = [false; 2];
            // Clients work on their own disk again, whichever one took their last write, and a Primary that crashes is
            // the source.
            if let [Some(a), Some(b)] = states
                && a.role != b.role
            {
                self.owner = usize::from(b.role == Role::Primary);
            }
        } else {
            self.separated();
        }
    }

    fn settle(&mut self, winner: usize) {
        let loser = 1 - winner;
        assert!(
            self.since[loser].is_empty() || self.word[loser] || self.discards_by_policy,
            "node {} loses {} answered writes without an operator's word",
            loser + 1,
            self.since[loser].len()
        );
        self.ledgers[0] = self.ledgers[winner].clone();
        self.split = false;
        self.owner = winner;
        self.since.iter_mut().for_each(Vec::clear);
        // What a frozen Primary has held back is sent once it has met the other one.
        for (id, w) in &self.under_way {
            if !self.ledgers[0].is_open(*id) {
                self.ledgers[0].issued_by(w.node, *id, w.content, (w.sector, w.count), w.fua);
            }
        }
    }

    /// Takes what both disks hold as the truth.
    pub fn accept(&mut self, read: impl Fn(u64) -> u64) {
        self.ledgers[0].rebase(read);
        self.spoiled = false;
    }

    /// Both copies are in sync as far as anybody has seen.
    pub fn is_whole(&self) -> bool {
        !self.split && self.at_split.is_none()
    }
}

/// The truth of every volume of a resource; by itself that of the first one.
#[derive(Clone, Debug)]
pub struct Truths {
    volumes: Vec<Truth>,
    /// One of them may have been changed since [`Truths::look_away`].
    touched: bool,
}

impl Truths {
    /// So many volumes, empty.
    pub fn new(volumes: u8) -> Truths {
        Truths { volumes: (0..volumes).map(|_| Truth::new()).collect(), touched: true }
    }

    /// That of the volume which a sector belongs to.
    pub fn at(&mut self, sector: u64) -> &mut Truth {
        let (vol, _) = volume_and_sector(sector);
        self.touched = true;
        &mut self.volumes[usize::from(vol.0)]
    }

    /// All of them.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Truth> {
        self.touched = true;
        self.volumes.iter_mut()
    }

    /// Everything up to now was taken into account.
    pub(crate) fn look_away(&mut self) {
        self.touched = false;
    }

    /// Somebody had the chance to change one of them meanwhile.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    /// How many.
    pub fn volumes(&self) -> u8 {
        self.volumes.len() as u8
    }
}

impl Deref for Truths {
    type Target = Truth;

    fn deref(&self) -> &Truth {
        &self.volumes[0]
    }
}

impl DerefMut for Truths {
    fn deref_mut(&mut self) -> &mut Truth {
        self.touched = true;
        &mut self.volumes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two answered writes to a sector, of which the first one was flushed; then the peer loses its cache.
    fn peer_without_its_cache() -> Truth {
        let mut t = Truth::new();
        for version in [1, 2] {
            t.issued(0, version, version, 8, 1, false);
            t.ended(0, version, true, false);
            if version == 1 {
                let at = t.of(0).clock;
                t.of(0).flushed(at);
            }
        }
        t.separated();
        t.power_lost(1, true);
        t
    }

    #[test]
    fn when_both_copies_failed_what_was_flushed_is_left() {
        let mut t = peer_without_its_cache();
        assert!(!t.of(0).allows(8, 1), "the own disk has the second write");
        t.falls_back_on_peer(0, true, |_| 1);
        assert!(t.of(0).allows(8, 1));
    }

    #[test]
    #[should_panic(expected = "stale promotion")]
    fn when_both_copies_failed_what_was_flushed_has_to_be_there() {
        peer_without_its_cache().falls_back_on_peer(0, true, |_| 0);
    }

    #[test]
    fn what_was_answered_alone_does_not_go_with_the_own_disk() {
        let mut t = peer_without_its_cache();
        t.issued(0, 3, 3, 16, 1, false);
        t.ended(0, 3, true, true);
        t.falls_back_on_peer(0, true, |_| 1);
        assert!(!t.of(0).allows(8, 1) && !t.of(0).allows(16, 1));
    }

    /// The peer's copy took the last write, as the own disk was not good yet; that one is in sync since, and loses its
    /// cache: as a crashed Primary's it is what counts.
    #[test]
    fn the_primary_counts_whichever_copy_took_the_last_write() {
        let good = |role| {
            let (conn, disk) = (ConnState::Connected, DiskState::UpToDate);
            Some(VolumeState { role, conn, disk, pdsk: disk, ..VolumeState::INITIAL })
        };
        for (loser, lost) in [(0, true), (1, false)] {
            let mut t = Truth::new();
            t.owner = 1;
            t.issued(0, 1, 1, 8, 1, false);
            t.ended(0, 1, true, false);
            t.look(&[good(Role::Primary), good(Role::Secondary)], true);
            t.separated();
            t.power_lost(loser, true);
            assert_eq!(t.of(0).allows(8, 0), lost);
        }
    }

    /// The other one took the last request of two Primaries, and died.
    #[test]
    fn whoever_answers_alone_has_the_copy_that_counts() {
        let mut t = Truth::new();
        t.issued(1, 1, 1, 8, 1, false);
        t.separated();
        t.owner = 0;
        t.goes_alone(1);
        t.ended(1, 1, true, true);
        t.power_lost(1, true);
        assert!(t.of(1).allows(8, 0));
    }

    #[test]
    fn a_frozen_write_goes_to_the_copy_that_its_node_takes_up_again() {
        let diskless = VolumeState {
            role: Role::Primary,
            conn: ConnState::Connected,
            pdsk: DiskState::UpToDate,
            ..VolumeState::INITIAL
        };
        let alone = VolumeState {
            conn: ConnState::StandAlone,
            disk: DiskState::UpToDate,
            pdsk: DiskState::DUnknown,
            ..diskless
        };
        let mut t = Truth::new();
        t.separated();
        t.promoted_alone(1, |_| 0);
        t.note_homes(&[Some(diskless), None]);
        t.issued(0, 1, 1, 8, 1, false);
        t.note_homes(&[Some(alone), None]);
        assert!(t.of(0).allows(8, 1));
        t.ended(0, 1, true, true);
        assert!(!t.of(0).allows(8, 0));
    }

    #[test]
    fn whoever_served_the_clients_of_a_lost_disk_went_on() {
        for (home, spoiled) in [(0, false), (1, true)] {
            let mut t = Truth::new();
            t.separated();
            t.home[0] = home;
            t.discard(1);
            assert_eq!(t.spoiled, spoiled);
        }
    }

    #[test]
    #[should_panic(expected = "node 2 is synced, but sector 8 holds 1")]
    fn a_finished_target_has_everything() {
        peer_without_its_cache().target_finished(1, |_| 1);
    }

    #[test]
    #[should_panic(expected = "node 1 goes on with 1 in sector 8")]
    fn the_own_disk_has_what_clients_saw() {
        peer_without_its_cache().takes_up_own_disk(0, false, |_| 1);
    }
}
