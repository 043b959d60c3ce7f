//! One node's part in the lease, without I/O: what to ask the store for, and what follows from its answers.
//!
//! * A holder renews four times a term. What it may do is reckoned from the moment that it *sent* a successful swap: a
//!   term, less an eighth.
//! * A taker has to have seen the same revision of a foreign holder's record for a whole term, and an eighth. The last renewal
//!   was sent before that revision could be seen, so the two times do not meet, as long as the clocks of the nodes do not
//!   differ in speed by more than a fifth.
//! * Nobody takes a record that is not there. Its absence proves nothing: the store may have lost it.
//! * Nobody takes it whose copy is not among those that may be the newest. A home that goes on without its peer strikes the
//!   peer out first; then it needs no renewal any more, since nobody else can take its place, and the store may fail.
//! * Each change is a swap of what this node has seen, by its revision and its value: a store that was put back to an older copy
//!   gives revisions again that it had given before. Of an answer that was lost nothing is assumed: the record is read again
//!   first.

use std::time::Duration;

use model::time::Instant;

use super::memory::Memory;
use super::record::{Holder, Record};
use super::store::Expect;

/// Who takes part.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// This node.
    pub me: String,
    /// The other one.
    pub peer: String,
    /// Drawn at the start of this daemon.
    pub incarnation: u64,
    /// Term of this node's lease.
    pub ttl: Duration,
    /// For how long this node's addresses may answer when nobody renews them any more.
    pub addresses_answer: Duration,
}

/// What the store is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreOp {
    /// What is in the record?
    Read,
    /// Put this in its place.
    Swap {
        /// If it is still so.
        expected: Expect,
        /// The new record.
        value: Vec<u8>,
    },
}

/// A question to the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Comes back with the answer.
    pub id: u64,
    /// The question.
    pub op: StoreOp,
    /// When to give up.
    pub timeout: Duration,
}

/// A record as the store has it: its bytes and its revision.
pub type Stored = Option<(Vec<u8>, i64)>;

/// The store's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreAnswer {
    /// To a read.
    Value(Stored),
    /// The swap was done; the new revision.
    Swapped(i64),
    /// It was not: something else was there.
    Conflict(Stored),
    /// It was not done, for certain.
    Failed(String),
    /// Nobody knows.
    Unknown(String),
}

/// What the record gives this node the right to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// Nothing: it is not the holder, or does not know.
    No,
    /// To act until then.
    Until(Instant),
    /// To act for as long as it likes: nobody else may take the record.
    Alone,
}

/// Why the record cannot be taken now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// The store has not answered, or the last swap may or may not have been done.
    NotSeen,
    /// There is no record.
    Absent,
    /// This node's copy is not among those that may be the newest.
    NotCurrent,
    /// Somebody holds it; it can be taken at that time unless it is renewed.
    HeldUntil(String, Instant),
    /// It was let go of for somebody else; anybody can take it at that time.
    OfferedUntil(String, Instant),
}

/// The machine.
#[derive(Debug)]
pub struct Lease {
    cfg: LeaseConfig,
    seen: Option<Seen>,
    pending: Option<Pending>,
    asked: u64,
    next_at: Instant,
    held_until: Option<Instant>,
    /// When the last swap was sent that would make this node the holder.
    last_claim: Instant,
    wants: Wants,
    /// The last record that is known said that only this node's copy counts, and named it as holder; nothing that would change
    /// that was asked for since.
    was_alone: bool,
    /// The record has vanished that said that only this node's copy counts. Nobody takes what is not there.
    alone_without_record: bool,
    /// The revision that a swap expected which would let the peer's copy count, and whose answer was lost: while this one is
    /// there, it may yet be made.
    maybe_included: Option<i64>,
    /// Of the newest record so far that is believed.
    changes_seen: u64,
    /// Of the newest one of all: whatever this node writes is newer, to those too who have seen that one.
    changes_max: u64,
    /// The store has this older record than one that was seen. It is not believed.
    refused: Option<(Record, Expect)>,
    /// An older record may be believed: both copies are the newest one.
    older_allowed: bool,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Seen {
    record: Option<Record>,
    revision: i64,
    /// What a change of it expects.
    stored: Expect,
    /// When this revision was seen first.
    since: Instant,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    sent_at: Instant,
    /// What is there if the swap succeeds.
    becomes: Option<Record>,
    /// The revision that it expects; 0: none.
    expected: i64,
    included: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Wants {
    hold: bool,
    exclude: bool,
    include: bool,
    /// To let go; true: for the peer.
    release: Option<bool>,
    /// To make the record; true: both copies are current.
    create: Option<bool>,
    /// To leave an older record to the peer.
    step_back: bool,
}

/// For how long an offer keeps others away.
const OFFER_GOOD_FOR: Duration = Duration::from_secs(10);

impl Lease {
    /// A node that has not looked yet.
    pub fn new(cfg: LeaseConfig, now: Instant) -> Lease {
        assert!(cfg.me != cfg.peer, "two nodes of one name cannot share a lease");
        Lease {
            cfg,
            seen: None,
            pending: None,
            asked: 0,
            next_at: now,
            held_until: None,
            last_claim: now,
            wants: Wants::default(),
            was_alone: false,
            alone_without_record: false,
            maybe_included: None,
            changes_seen: 0,
            changes_max: 0,
            refused: None,
            older_allowed: false,
            trouble: None,
        }
    }

    /// Wishes to be the holder: takes the record as soon as that is allowed, and renews it. Without the wish it neither takes
    /// nor renews; [`release`](Self::release) lets go at once.
    pub fn set_hold(&mut self, hold: bool, now: Instant) {
        if self.wants.hold != hold {
            self.wants.hold = hold;
            self.hurry(now);
        }
    }

    /// Wishes that the peer's copy counts no more. Done when [`is_alone`](Self::is_alone).
    pub fn exclude_peer(&mut self, now: Instant) {
        (self.wants.exclude, self.wants.include) = (true, false);
        self.hurry(now);
    }

    /// Wishes that the peer's copy counts: it has everything that this one has.
    pub fn include_peer(&mut self, now: Instant) {
        (self.wants.exclude, self.wants.include) = (false, true);
        self.hurry(now);
    }

    /// Gives up the wish to change whose copy counts.
    pub fn leave_copies(&mut self) {
        (self.wants.exclude, self.wants.include) = (false, false);
    }

    /// Lets go: nothing may be done here any more that needs the lease. `for_peer`: nobody else is to take it at first.
    pub fn release(&mut self, for_peer: bool, now: Instant) {
        let Wants { include, step_back, .. } = self.wants;
        self.wants = Wants { release: Some(for_peer), include, step_back, ..Wants::default() };
        self.held_until = None;
        self.hurry(now);
    }

    /// Wishes that there is a record, with this node's copy, or both. Only for nodes that are connected and see that neither is
    /// Primary: whoever is not connected cannot know.
    pub fn create(&mut self, both: bool, now: Instant) {
        if self.wants.create != Some(both) {
            self.wants.create = Some(both);
            self.hurry(now);
        }
    }

    /// An earlier daemon of this node has seen the record changed that often.
    pub fn recall(&mut self, changes: u64) {
        assert!(self.asked == 0, "what is remembered is known before the store is asked");
        self.changes_seen = self.changes_seen.max(changes);
        self.changes_max = self.changes_max.max(changes);
    }

    /// What the next daemon is to remember; none: no record is known now.
    pub fn newest(&self) -> Option<Memory> {
        self.record().map(|r| Memory::new(r.changes, r.current.clone()))
    }

    /// Whether an older record than one that was seen may be believed.
    pub fn allow_older(&mut self, allowed: bool) {
        self.older_allowed = allowed;
    }

    /// The own disk has gone: a record that has vanished is not made again for this copy alone, since the peer's has what was
    /// written meanwhile.
    pub fn own_copy_is_gone(&mut self) {
        if self.alone_without_record {
            (self.alone_without_record, self.wants.create) = (false, None);
        }
        if self.seen.as_ref().is_none_or(|s| s.record.is_none()) {
            self.was_alone = false;
        }
    }

    /// Gives up that wish.
    pub fn leave_absent(&mut self) {
        if !self.alone_without_record {
            self.wants.create = None;
        }
    }

    /// What the record gives the right to, now.
    pub fn held(&self, now: Instant) -> Held {
        if self.wants.release.is_some() {
            return Held::No;
        }
        // From the moment that the peer may count again, it may take the record when the term is over.
        if (self.was_alone || self.alone_without_record) && !self.peer_may_count() {
            return Held::Alone;
        }
        match self.held_until {
            Some(until) if now < until => Held::Until(until),
            _ => Held::No,
        }
    }

    /// A swap that lets the peer's copy count again is on its way, or may yet be made.
    fn peer_may_count(&self) -> bool {
        self.pending.as_ref().is_some_and(|p| p.included) || self.maybe_included.is_some()
    }

    /// Until when the last renewal is good, past or not; none: this node is not the holder.
    pub fn bound(&self) -> Option<Instant> {
        self.held_until.filter(|_| self.wants.release.is_none())
    }

    /// The store has this node as its holder, as far as it knows: in time or not.
    pub fn is_holder(&self) -> bool {
        self.held_until.is_some()
    }

    /// Only this node's copy counts, for certain.
    pub fn is_alone(&self) -> bool {
        let record = self.seen.as_ref().and_then(|s| s.record.as_ref());
        record.is_some_and(|r| r.is_only_current(&self.cfg.me)) && !self.peer_may_count()
    }

    /// The record, if it is known.
    pub fn record(&self) -> Option<&Record> {
        self.seen.as_ref().and_then(|s| s.record.as_ref())
    }

    /// The store has answered and there is no record.
    pub fn is_absent(&self) -> bool {
        self.seen.as_ref().is_some_and(|s| s.record.is_none())
    }

    /// The store was put back to an older record than one that was seen, which does not count.
    pub fn is_put_back(&self) -> bool {
        self.refused.is_some()
    }

    /// The peer is Primary beside this node. An older record than one that was seen is made to say that only the peer's copy
    /// counts: that is true whatever has happened, it is newer than all before it to both, and the peer lets this copy count
    /// again.
    pub fn step_back(&mut self, beside_primary: bool) {
        self.wants.step_back = beside_primary;
    }

    /// The record names the peer as its holder.
    pub fn peer_holds(&self) -> bool {
        self.record().is_some_and(|r| r.held_by(&self.cfg.peer).is_some())
    }

    /// What is wrong with the store, if its last answer was none.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether this node may take the record now.
    ///
    /// # Errors
    /// Why not.
    pub fn can_take(&self, now: Instant) -> Result<(), Obstacle> {
        let Some(seen) = &self.seen else { return Err(Obstacle::NotSeen) };
        let Some(record) = &seen.record else { return Err(Obstacle::Absent) };
        let me = &self.cfg.me;
        if !record.is_current(me) {
            return Err(Obstacle::NotCurrent);
        }
        match (&record.holder, &record.offered_to) {
            // An earlier daemon of this node: there is only one at a time.
            (Some(h), _) if h.node == *me => Ok(()),
            (Some(h), _) => {
                let free_at = seen.since + h.ttl() + h.ttl() / 8;
                if now >= free_at { Ok(()) } else { Err(Obstacle::HeldUntil(h.node.clone(), free_at)) }
            }
            (None, Some(n)) if n != me => {
                let free_at = seen.since + OFFER_GOOD_FOR;
                if now >= free_at { Ok(()) } else { Err(Obstacle::OfferedUntil(n.clone(), free_at)) }
            }
            (None, _) => Ok(()),
        }
    }

    /// The next question, if one is due.
    pub fn poll(&mut self, now: Instant) -> Option<Ask> {
        if self.pending.is_some() || now < self.next_at {
            return None;
        }
        let change = self.next_change(now);
        self.asked += 1;
        self.next_at = now + self.pause();
        let (op, becomes) = match change {
            None => (StoreOp::Read, None),
            Some(mut record) => {
                let refused = self.refused.as_ref().map(|(_, stored)| stored);
                let expected = self.seen.as_ref().map(|s| &s.stored).or(refused).cloned();
                let expected = expected.expect("a change starts from what was seen");
                record.changes = record.changes.max(self.changes_max).wrapping_add(1);
                if record.held_by(&self.cfg.me).is_some() {
                    self.last_claim = now;
                }
                (StoreOp::Swap { expected, value: record.encode() }, Some(record))
            }
        };
        let expected = self.seen.as_ref().map_or(0, |s| s.revision);
        let peer_counts = |r: &Record| r.is_current(&self.cfg.peer);
        let included = becomes.as_ref().is_some_and(peer_counts) && !self.record().is_some_and(peer_counts);
        let keeps = |r: &Record| r.is_only_current(&self.cfg.me) && r.held_by(&self.cfg.me).is_some();
        self.was_alone &= becomes.as_ref().is_none_or(|r| keeps(r) || self.alone_without_record);
        self.pending = Some(Pending { id: self.asked, sent_at: now, becomes, expected, included });
        Some(Ask { id: self.asked, op, timeout: self.cfg.ttl / 3 })
    }

    /// When to call [`poll`](Self::poll) again; none while an answer is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.pending.is_none().then_some(self.next_at)
    }

    /// The store has answered. Answers to other questions than the last one are ignored.
    pub fn answer(&mut self, now: Instant, id: u64, answer: StoreAnswer) {
        if self.pending.as_ref().is_none_or(|p| p.id != id) {
            return;
        }
        let pending = self.pending.take().expect("just looked");
        match answer {
            // Whatever is to be done starts from there.
            StoreAnswer::Value(stored) | StoreAnswer::Conflict(stored) => self.saw(stored, now),
            StoreAnswer::Swapped(revision) => {
                self.maybe_included = None;
                let Some(record) = pending.becomes else {
                    self.lost("the store confirms a swap that nobody asked for".into(), now);
                    return;
                };
                let mine = record.held_by(&self.cfg.me).map(Holder::ttl);
                self.held_until = mine.map(|ttl| pending.sent_at + (ttl - ttl / 8));
                if mine.is_none() {
                    self.wants.release = None;
                }
                let stored = Expect::Value { revision, value: record.encode() };
                self.note(Some(record), revision, stored, now);
            }
            StoreAnswer::Failed(text) => {
                // What was seen is as good as before: nothing was done.
                self.trouble = Some(text);
            }
            StoreAnswer::Unknown(text) => {
                if pending.included {
                    self.maybe_included = Some(pending.expected);
                }
                self.lost(text, now);
            }
        }
        if (self.trouble.is_none() || self.refused.is_some()) && self.next_change_is_urgent(now) {
            self.hurry(now);
        }
        self.keeps_to_itself();
    }

    /// There is more to do than to look again, or to renew in time.
    fn next_change_is_urgent(&self, now: Instant) -> bool {
        let renews = |r: &Record| r.holder.is_some() && Some(&r.current) == self.record().map(|s| &s.current);
        let in_time = self.held_until.is_some_and(|until| now < until) && self.maybe_included.is_none();
        self.next_change(now).is_some_and(|r| !(in_time && renews(&r)))
    }

    /// Nobody knows what the store has.
    fn lost(&mut self, text: String, now: Instant) {
        self.trouble = Some(text);
        (self.seen, self.refused) = (None, None);
        self.hurry(now);
    }

    fn saw(&mut self, stored: Stored, now: Instant) {
        let expect =
            stored.clone().map_or(Expect::Absent, |(value, revision)| Expect::Value { revision, value });
        let (record, revision) = match stored {
            None => (None, 0),
            Some((bytes, revision)) => match Record::decode(&bytes) {
                Ok(record) if record.changes < self.changes_seen && !self.older_allowed => {
                    // The store was put back to an older copy. What has happened since nobody can tell from it.
                    (self.seen, self.was_alone) = (None, false);
                    self.trouble = Some(format!(
                        "the record is older than it was (change {} after {}): it counts when both nodes are connected and in \
                         sync",
                        record.changes, self.changes_seen
                    ));
                    self.refused = Some((record, expect));
                    return;
                }
                Ok(record) => (Some(record), revision),
                Err(e) => {
                    (self.seen, self.was_alone, self.refused) = (None, false, None);
                    self.trouble = Some(e.to_string());
                    return;
                }
            },
        };
        let mine = record.as_ref().and_then(|r| r.held_by(&self.cfg.me));
        self.held_until = match mine {
            None if record.is_none() && self.was_alone => {
                self.alone_without_record = true;
                self.wants.create = Some(false);
                None
            }
            // A swap whose answer was lost has been done.
            Some(h) if h.incarnation == self.cfg.incarnation => {
                Some(self.held_until.unwrap_or(self.last_claim + (h.ttl() - h.ttl() / 8)))
            }
            _ => None,
        };
        // What an earlier daemon of this node held is not this one's to let go of.
        if mine.is_none_or(|h| h.incarnation != self.cfg.incarnation) {
            self.wants.release = None;
        }
        self.note(record, revision, expect, now);
    }

    fn note(&mut self, record: Option<Record>, revision: i64, stored: Expect, now: Instant) {
        (self.trouble, self.refused) = (None, None);
        self.changes_seen = record.as_ref().map_or(self.changes_seen, |r| r.changes);
        self.changes_max = self.changes_max.max(self.changes_seen);
        self.maybe_included = self.maybe_included.filter(|expected| *expected == revision);
        let is_known = self.seen.as_ref().is_some_and(|s| s.revision == revision && s.record == record);
        if !is_known {
            self.seen = Some(Seen { record, revision, stored, since: now });
        }
        if self.seen.as_ref().is_some_and(|s| s.record.is_some()) {
            self.wants.create = None;
            self.alone_without_record = false;
        }
        if let Some(r) = self.record() {
            self.was_alone = r.is_only_current(&self.cfg.me) && self.held_until.is_some();
        }
        let (me, peer) = (&self.cfg.me, &self.cfg.peer);
        if let Some(r) = self.record() {
            let (alone, both) = (r.is_only_current(me), r.is_current(me) && r.is_current(peer));
            self.wants.exclude &= !alone;
            self.wants.include &= !both;
        }
    }

    /// The record as it is to become, if something is to be changed that may be.
    fn next_change(&self, now: Instant) -> Option<Record> {
        let (me, peer) = (&self.cfg.me, &self.cfg.peer);
        if let Some((older, _)) = self.refused.as_ref().filter(|(r, _)| r.is_current(peer)) {
            let holder = older.holder.clone().filter(|h| h.node == *peer);
            let alone = Record { holder, offered_to: None, current: vec![peer.clone()], ..older.clone() };
            return self.wants.step_back.then_some(alone);
        }
        let seen = self.seen.as_ref()?;
        let Some(record) = &seen.record else {
            let both = self.wants.create?;
            let current = if both { vec![me.clone(), peer.clone()] } else { vec![me.clone()] };
            // Those who have seen the last one do not take this one for older.
            let both = both && !self.alone_without_record;
            let current = if both { current } else { vec![me.clone()] };
            return Some(Record { changes: self.changes_seen, ..Record::new(None, current) });
        };
        let mine = record.held_by(me).is_some_and(|h| h.incarnation == self.cfg.incarnation);
        if let Some(for_peer) = self.wants.release {
            let offered_to = for_peer.then(|| peer.clone());
            return mine.then(|| Record { holder: None, offered_to, ..record.clone() });
        }
        if !record.is_current(me) {
            return None;
        }
        let may_hold = mine || self.can_take(now).is_ok();
        let held = |current: Vec<String>| Record {
            holder: Some(self.holder()),
            offered_to: None,
            current,
            ..record.clone()
        };
        if self.wants.exclude {
            return may_hold.then(|| held(vec![me.clone()]));
        }
        if self.wants.include && !record.is_current(peer) {
            let current = vec![me.clone(), peer.clone()];
            return Some(if mine && self.wants.hold {
                held(current)
            } else {
                Record { current, ..record.clone() }
            });
        }
        (self.wants.hold && may_hold).then(|| held(record.current.clone()))
    }

    fn holder(&self) -> Holder {
        let ms = |time: Duration| u64::try_from(time.as_millis()).expect("a term is at most minutes");
        Holder {
            node: self.cfg.me.clone(),
            incarnation: self.cfg.incarnation,
            ttl_ms: ms(self.cfg.ttl),
            addresses_ms: Some(ms(self.cfg.addresses_answer)),
        }
    }

    /// Between two questions.
    fn pause(&self) -> Duration {
        self.cfg.ttl / 4
    }

    fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.min(now);
    }

    /// Invariants.
    fn keeps_to_itself(&self) {
        if let (Some(_), Some(record)) = (self.held_until, self.record()) {
            assert!(record.held_by(&self.cfg.me).is_some(), "this node holds a record that names it");
            assert!(record.is_current(&self.cfg.me), "the holder's copy counts");
        }
    }
}

#[cfg(test)]
mod chance;
#[cfg(test)]
mod tests;
