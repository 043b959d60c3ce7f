//! The handlers fence-peer and unfence-peer of a kernel DRBD (drbd-states 14.1, 17), without I/O: what to look at, what to ask
//! the store for, and the exit code. No daemon of ours runs beside that kernel, so nothing is renewed here and the record names
//! no holder: what keeps two Primaries apart is whose copy counts.
//!
//! * A Primary is frozen from the loss of its peer until its handler says that the peer is fenced, and nobody is promoted without
//!   the peer before its handler has said so. Both strike the other one out, by compare-and-swap: one of them comes first,
//!   and the other one finds itself struck out.
//! * Nobody strikes anybody out of a record that is not there, or of one that is older than what was seen: it tells nothing of who
//!   went on alone. It is made while both are connected and good.
//! * A peer that is the holder acts by its own clock until its term is over. It is struck out only when the same revision
//!   was there for a term and an eighth, while it was not connected.
//! * Only the node that alone counts lets its peer count again. Should it be wrong about the connection, the peer has
//!   not gone on: it was struck out until then. So nobody else's change is undone.
//! * A peer is struck out by a new change even if it was before: what was read before it cannot be the base of a change behind it.
//! * Whatever is not certain ends as 1, which leaves I/O frozen and a promotion refused.

use std::time::Duration;

use model::state::{ConnState, DiskState, Role};
use model::time::Instant;

use super::kernel::VolumeLook;
use super::machine::{StoreAnswer, StoreOp, Stored};
use super::memory::Memory;
use super::record::Record;
use super::store::Expect;

/// unfence-peer has succeeded.
pub const DONE: u8 = 0;
/// Neither: I/O stays frozen.
pub const BROKEN: u8 = 1;
/// The peer's copy counts no more.
pub const PEER_FENCED: u8 = 4;
/// The peer goes on without this node.
pub const PEER_IS_PRIMARY: u8 = 6;

/// Between two questions of which the first one brought nothing.
const PAUSE: Duration = Duration::from_millis(100);
/// A renewal that was on its way when its home died is one change.
const CHANGES_OF_THE_LIVING: u32 = 2;

/// Which handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    /// The peer was lost, or is not there for a promotion.
    Fence,
    /// A resync has ended with this node as its source.
    Unfence,
}

/// What it has to know.
#[derive(Clone, Debug)]
pub struct HandlerSettings {
    /// Which handler.
    pub duty: Duty,
    /// This node.
    pub me: String,
    /// The other one.
    pub peer: String,
    /// The peer has whatever was acknowledged: protocol C.
    pub is_synchronous: bool,
    /// For all of it.
    pub timeout: Duration,
    /// Of the newest record that this node remembers; 0: none.
    pub changes_seen: u64,
}

/// What is to be done next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Look at the kernel's volumes.
    Look,
    /// Ask the store, and give up after this time.
    Ask(StoreOp, Duration),
    /// Wait until then.
    Wait(Instant),
    /// The end.
    End(Verdict),
}

/// Exit code of the handler, and what it means here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Exit code.
    pub code: u8,
    /// In words.
    pub text: String,
}

/// The machine of one call.
#[derive(Debug)]
pub struct Handler {
    cfg: HandlerSettings,
    until: Instant,
    seen: Option<Seen>,
    /// The kernel was looked at since the record was read; for a fence also before.
    has_looked: bool,
    role: Role,
    peer_role: Role,
    /// Nothing is asked before that.
    pause_until: Instant,
    /// What is there if the swap under way succeeds.
    becomes: Option<Record>,
    /// Changes of a holder that is not this node.
    signs_of_life: u32,
    newest: Option<Memory>,
    trouble: String,
    end: Option<Verdict>,
}

#[derive(Debug)]
struct Seen {
    record: Option<Record>,
    revision: i64,
    /// What a change of it expects.
    stored: Expect,
    since: Instant,
}

impl Handler {
    /// Begins now.
    pub fn new(cfg: HandlerSettings, now: Instant) -> Handler {
        assert!(cfg.me != cfg.peer, "two nodes of one name cannot share a lease");
        assert!(!cfg.timeout.is_zero(), "it takes some time");
        Handler {
            until: now + cfg.timeout,
            cfg,
            seen: None,
            has_looked: false,
            role: Role::Unknown,
            peer_role: Role::Unknown,
            pause_until: now,
            becomes: None,
            signs_of_life: 0,
            newest: None,
            trouble: "the lease store was not asked".into(),
            end: None,
        }
    }

    /// What is to be remembered of the record; none: nothing new. A Primary that has lost its peer writes nothing down: that
    /// might wait for its own frozen device, and what it would remember says that its own copy counts.
    pub fn newest(&self) -> Option<&Memory> {
        self.newest.as_ref().filter(|_| self.cfg.duty == Duty::Unfence || self.role != Role::Primary)
    }

    /// What comes next. Called again when that is done.
    pub fn turn(&mut self, now: Instant) -> Turn {
        if self.end.is_none() && now >= self.until {
            self.finish(
                BROKEN,
                format!("no end within {} s: {}", self.cfg.timeout.as_secs_f64(), self.trouble),
            );
        }
        if self.end.is_none() && now < self.pause_until {
            return Turn::Wait(self.pause_until.min(self.until));
        }
        let turn = match (&self.end, self.cfg.duty) {
            (Some(_), _) => None,
            (None, Duty::Fence) => self.fence(now),
            (None, Duty::Unfence) => self.unfence(now),
        };
        match (turn, &self.end) {
            (Some(turn), None) => turn,
            (_, Some(end)) => Turn::End(end.clone()),
            (None, None) => unreachable!("there is something to do until the end"),
        }
    }

    /// What the kernel shows.
    pub fn looked(&mut self, found: Result<Vec<VolumeLook>, String>) {
        let volumes = match found {
            Ok(volumes) if volumes.is_empty() => {
                return self.finish(BROKEN, "the resource has no volumes".into());
            }
            Ok(volumes) => volumes,
            Err(why) => return self.finish(BROKEN, why),
        };
        (self.role, self.peer_role) = (volumes[0].role, volumes[0].peer_role);
        self.has_looked = true;
        let obstacle = volumes.iter().find_map(|v| match self.cfg.duty {
            Duty::Fence => self.no_fence(v),
            Duty::Unfence => no_unfence(v),
        });
        if let Some(why) = obstacle {
            self.finish(BROKEN, why);
        }
    }

    /// The store has answered.
    pub fn answered(&mut self, now: Instant, answer: StoreAnswer) {
        let becomes = self.becomes.take();
        match answer {
            StoreAnswer::Value(stored) | StoreAnswer::Conflict(stored) => self.saw(stored, now),
            StoreAnswer::Swapped(_) => {
                let Some(record) = becomes else {
                    return self.finish(BROKEN, "the store confirms a swap that nobody asked for".into());
                };
                self.newest = Some(Memory::new(record.changes, record.current));
                match self.cfg.duty {
                    Duty::Fence => {
                        let text = format!("the copy of {} counts no more", self.cfg.peer);
                        self.finish(PEER_FENCED, text);
                    }
                    Duty::Unfence => self.finish(DONE, format!("the copy of {} counts", self.cfg.peer)),
                }
            }
            StoreAnswer::Failed(why) => (self.trouble, self.pause_until) = (why, now + PAUSE),
            StoreAnswer::Unknown(why) => {
                // A change that comes late expects what was there before, and finds what is made now.
                (self.trouble, self.pause_until) = (why, now + PAUSE);
                self.seen = None;
            }
        }
    }

    fn finish(&mut self, code: u8, text: String) {
        assert!(self.end.is_none(), "a handler ends once");
        assert!(
            code != PEER_FENCED || self.newest.as_ref().is_some_and(|m| !m.current.contains(&self.cfg.peer)),
            "whoever is fenced was struck out"
        );
        self.end = Some(Verdict { code, text });
    }

    fn saw(&mut self, stored: Stored, now: Instant) {
        let expect =
            stored.clone().map_or(Expect::Absent, |(value, revision)| Expect::Value { revision, value });
        let (record, revision) = match stored {
            None => (None, 0),
            Some((bytes, revision)) => match Record::decode(&bytes) {
                Ok(record) => (Some(record), revision),
                Err(e) => return self.finish(BROKEN, e.to_string()),
            },
        };
        if self.seen.as_ref().is_some_and(|s| s.revision == revision) {
            return;
        }
        if self.seen.is_some() && record.as_ref().is_some_and(|r| self.other_holder(r).is_some()) {
            self.signs_of_life += 1;
        }
        if let Some(r) = record.as_ref().filter(|r| r.changes >= self.cfg.changes_seen) {
            self.newest = Some(Memory::new(r.changes, r.current.clone()));
        }
        self.has_looked &= self.cfg.duty == Duty::Fence;
        self.seen = Some(Seen { record, revision, stored: expect, since: now });
    }

    fn other_holder<'a>(&self, record: &'a Record) -> Option<&'a super::record::Holder> {
        record.holder.as_ref().filter(|h| h.node != self.cfg.me)
    }

    fn fence(&mut self, now: Instant) -> Option<Turn> {
        // The time of a holder is counted from when it could not be heard any more.
        if !self.has_looked {
            return Some(Turn::Look);
        }
        let Some(seen) = &self.seen else { return Some(self.ask(StoreOp::Read, now)) };
        let Some(record) = seen.record.clone() else {
            let text = "there is no lease: it is made by 'lockstep unfence-peer' while both nodes are connected and good";
            self.finish(BROKEN, text.into());
            return None;
        };
        let (since, stored) = (seen.since, seen.stored.clone());
        if self.is_older(&record) {
            return None;
        }
        if !record.is_current(&self.cfg.me) {
            self.finish(PEER_IS_PRIMARY, format!("{} has gone on without this node", self.cfg.peer));
            return None;
        }
        if let Some(holder) = self.other_holder(&record) {
            if self.signs_of_life >= CHANGES_OF_THE_LIVING {
                self.finish(PEER_IS_PRIMARY, format!("{} holds the lease", holder.node));
                return None;
            }
            let free_at = since + holder.ttl() + holder.ttl() / 8;
            if free_at >= self.until {
                let text =
                    format!("{} holds the lease, and may for longer than can be waited here", holder.node);
                self.finish(BROKEN, text);
                return None;
            }
            if now < free_at {
                self.trouble = format!("{} holds the lease", holder.node);
                self.pause_until = free_at.min(now + holder.ttl() / 4);
                // A connection that has come meanwhile is seen before the holder is struck out.
                self.has_looked = false;
                return Some(self.ask(StoreOp::Read, now));
            }
        }
        let current = vec![self.cfg.me.clone()];
        Some(self.swap(stored, Record { holder: None, offered_to: None, current, ..record }, now))
    }

    fn unfence(&mut self, now: Instant) -> Option<Turn> {
        let Some(seen) = &self.seen else { return Some(self.ask(StoreOp::Read, now)) };
        let (me, peer) = (self.cfg.me.clone(), self.cfg.peer.clone());
        let (stored, found) = (seen.stored.clone(), seen.record.clone());
        let is_old = found.as_ref().is_some_and(|r| r.changes < self.cfg.changes_seen);
        match &found {
            Some(r) if r.is_current(&me) && r.is_current(&peer) && !is_old => {
                self.finish(DONE, "both copies count".into());
                return None;
            }
            Some(r) if !r.is_current(&me) => {
                self.finish(BROKEN, format!("only the copy of {peer} counts: run it there"));
                return None;
            }
            _ => {}
        }
        if !self.has_looked {
            return Some(Turn::Look);
        }
        let is_alone = found.as_ref().is_some_and(|r| !r.is_current(&peer) && !is_old);
        if !is_alone && self.peer_role == Role::Primary {
            // It may have gone on without this node, which has not noticed yet.
            self.finish(BROKEN, format!("the record says nothing of {peer}, which is Primary: run it there"));
            return None;
        }
        let current = vec![me, peer];
        let Some(record) = found else {
            return Some(self.swap(stored, Record::new(None, current), now));
        };
        Some(self.swap(stored, Record { current, ..record }, now))
    }

    /// What has happened since an older record nobody can tell from it.
    fn is_older(&mut self, record: &Record) -> bool {
        let is_older = record.changes < self.cfg.changes_seen;
        if is_older {
            let text = format!(
                "the record is older than it was (change {} after {}): it counts again when 'lockstep unfence-peer' \
                 has succeeded while both nodes are connected and good",
                record.changes, self.cfg.changes_seen
            );
            self.finish(BROKEN, text);
        }
        is_older
    }

    fn ask(&self, op: StoreOp, now: Instant) -> Turn {
        Turn::Ask(op, self.until.saturating_since(now))
    }

    fn swap(&mut self, expected: Expect, mut record: Record, now: Instant) -> Turn {
        record.changes = record.changes.max(self.cfg.changes_seen).saturating_add(1);
        assert!(record.is_current(&self.cfg.me), "nobody strikes itself out");
        let value = record.encode();
        self.becomes = Some(record);
        self.ask(StoreOp::Swap { expected, value }, now)
    }

    /// Why the peer is not fenced for the sake of this volume.
    fn no_fence(&self, v: &VolumeLook) -> Option<String> {
        if v.conn >= ConnState::WFReportParams {
            return Some(format!("{} is connected ({})", self.cfg.peer, v.conn));
        }
        if !matches!(v.disk, DiskState::UpToDate | DiskState::Consistent) {
            return Some(format!("the disk here is {}", v.disk));
        }
        if !self.cfg.is_synchronous && v.role != Role::Primary {
            return Some(format!(
                "{} may have acknowledged what this node lacks: use protocol C",
                self.cfg.peer
            ));
        }
        None
    }
}

/// Why this volume does not show that the copies are equal.
fn no_unfence(v: &VolumeLook) -> Option<String> {
    let is_connected = matches!(v.conn, ConnState::Connected | ConnState::VerifyS | ConnState::VerifyT);
    if !is_connected {
        return Some(format!("the connection is {}", v.conn));
    }
    if (v.disk, v.peer_disk) != (DiskState::UpToDate, DiskState::UpToDate) {
        return Some(format!("the disks are {} here and {} there", v.disk, v.peer_disk));
    }
    if (v.role, v.peer_role) == (Role::Primary, Role::Primary) {
        return Some("both nodes are Primary: that is not what a lease is for".into());
    }
    None
}

#[cfg(test)]
mod chance;
#[cfg(test)]
mod tests;
