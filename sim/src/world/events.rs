//! What happens later: the heap of events, and what each of them does.

use super::handlers::Means;
use super::*;
use replicator::DigestAlg;

/// Something that happens later.
#[derive(Debug)]
pub(super) enum Later {
    DiskRead { tag: IoTag, sector: u64, count: u64, digest: Option<DigestAlg> },
    DiskWrite { tag: IoTag, sector: u64, versions: Versions, fua: bool },
    Flush { tag: IoTag, vol: VolIdx, point: u64 },
    MetaWrite { tag: IoTag, sector: u64, block: Vec<u8>, fua: bool, flush: Option<u64> },
    Arrive { sock: SockId, messages: Vec<Message> },
    Down { sock: SockId },
    Lingered { sock: SockId },
    Sent { sock: SockId, total: u64 },
    Connect { attempt: u32 },
    Handler { run: HandlerRun, means: Means },
    Measured { vol: VolIdx, attach: u32 },
    Deadline,
}

impl Later {
    /// The volume of a disk operation.
    fn volume(&self) -> Option<VolIdx> {
        match self {
            Later::DiskRead { sector, .. }
            | Later::DiskWrite { sector, .. }
            | Later::MetaWrite { sector, .. } => Some(volume_and_sector(*sector).0),
            Later::Flush { vol, .. } => Some(*vol),
            _ => None,
        }
    }

    fn disk_operation(&self) -> Option<Running> {
        let running = |op, first, count| Some(Running { op, first, count });
        match self {
            Later::DiskRead { sector, count, .. } => running(DiskOp::Read, *sector, *count),
            Later::DiskWrite { sector, versions, .. } => {
                running(DiskOp::Write, *sector, versions.len() as u64)
            }
            Later::Flush { .. } => running(DiskOp::Flush, 0, 0),
            Later::MetaWrite { sector, .. } => running(DiskOp::Meta, *sector, 8),
            _ => None,
        }
    }
}

/// The events to come, by time and then by age. An event that is taken out leaves its key behind.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<Key>>,
    slots: Vec<(u64, Option<Later>)>,
    free: Vec<u32>,
    next: u64,
}

/// Where an event is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Key {
    pub(super) at: u64,
    /// Grows with every event.
    pub(super) age: u64,
    pub(super) slot: u32,
    pub(crate) node: u32,
    pub(super) incarnation: u32,
}

impl Agenda {
    pub(super) fn clear(&mut self) {
        self.heap.clear();
        self.slots.clear();
        self.free.clear();
        self.next = 0;
    }

    pub(super) fn add(&mut self, at: u64, node: usize, incarnation: u32, what: Later) {
        self.next += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = (self.next, Some(what));
        self.heap.push(Reverse(Key { at, age: self.next, slot, node: node as u32, incarnation }));
    }

    fn pop(&mut self) -> Option<Key> {
        self.heap.pop().map(|Reverse(k)| k)
    }

    /// A key that was popped is due at another time.
    pub(super) fn put_back(&mut self, key: Key) {
        self.heap.push(Reverse(key));
    }

    fn take(&mut self, key: Key) -> Option<Later> {
        let (age, what) = &mut self.slots[key.slot as usize];
        if *age != key.age {
            return None;
        }
        let what = what.take();
        if what.is_some() {
            *age = 0;
            self.free.push(key.slot);
        }
        what
    }

    fn get(&self, key: Key) -> Option<&Later> {
        let (age, what) = &self.slots[key.slot as usize];
        what.as_ref().filter(|_| *age == key.age)
    }

    /// Takes out the events that `wanted` likes, oldest first.
    pub(super) fn take_all(&mut self, wanted: impl Fn(&Later) -> bool) -> Vec<Later> {
        let mut found = Vec::new();
        for (i, (age, what)) in self.slots.iter_mut().enumerate() {
            if what.as_ref().is_some_and(&wanted) {
                found.push((*age, what.take().expect("just seen")));
                *age = 0;
                self.free.push(i as u32);
            }
        }
        found.sort_by_key(|(age, _)| *age);
        found.into_iter().map(|(_, what)| what).collect()
    }

    /// Takes out all events of a node, oldest first.
    pub(super) fn take_node(&mut self, n: usize) -> Vec<Later> {
        let mut keys: Vec<Key> =
            self.heap.iter().map(|Reverse(k)| *k).filter(|k| k.node as usize == n).collect();
        keys.sort_unstable_by_key(|k| k.age);
        keys.into_iter().filter_map(|k| self.take(k)).collect()
    }
}

const EIO: IoResult = IoResult::Err(5);

impl World {
    pub(super) fn at(&mut self, n: usize, at: Instant, what: Later) {
        self.agenda.add(at.0, n, self.nodes[n].incarnation, what);
    }

    /// Makes the next thing happen; false when nothing is left or the time is over.
    pub fn step(&mut self, until: Instant) -> bool {
        let Some(key) = self.agenda.pop() else { return false };
        if key.at > until.0 {
            self.agenda.put_back(key);
            self.now = until;
            return false;
        }
        self.now = Instant(key.at).max(self.now);
        self.steps += 1;
        let Some(what) = self.agenda.get(key) else { return true };
        let n = key.node as usize;
        if self.nodes[n].incarnation != key.incarnation {
            self.agenda.take(key);
            return true;
        }
        let thaws = self.nodes[n].frozen_until;
        if thaws > self.now {
            self.agenda.put_back(Key { at: thaws.0, ..key });
            return true;
        }
        if what.disk_operation().is_some_and(|r| self.hooks.is_slow(n, r)) {
            self.hooks.parked.push(key);
            return true;
        }
        let what = self.agenda.take(key).expect("just seen");
        self.mix(self.now.0 << 1 | n as u64);
        self.happen(n, what);
        self.settle(n);
        true
    }

    fn happen(&mut self, n: usize, what: Later) {
        let now = self.clock(n);
        if let Some(vol) = what.volume() {
            self.nodes[n].disk_op_ends(vol);
        }
        macro_rules! core {
            ($event:expr) => {{
                let event = $event;
                let node = &mut self.nodes[n];
                if let Some(core) = node.core.as_mut() {
                    core.handle(now, event, &mut node.out);
                }
            }};
        }
        match what {
            Later::DiskRead { tag, sector, count, digest } => {
                if self.fails(n, DiskOp::Read, sector, count) {
                    core!(Event::DiskDone { tag, result: EIO, buf: None });
                    return;
                }
                self.scratch.clear();
                self.nodes[n].disk.read_into(sector, count, &mut self.scratch);
                let versions = Versions::from(self.scratch.as_slice());
                let digest = digest.map(|alg| digest_of(alg, &versions));
                let buf = self.nodes[n].alloc(versions);
                match digest {
                    Some(digest) => core!(Event::DiskDigest { tag, buf, digest: digest.as_bytes() }),
                    None => core!(Event::DiskDone { tag, result: IoResult::Ok, buf: Some(buf) }),
                }
            }
            Later::DiskWrite { tag, sector, versions, fua } => {
                let count = versions.len() as u64;
                if self.fails(n, DiskOp::Write, sector, count) {
                    self.nodes[n].disk.torn_write(sector, &versions, &mut self.rng);
                    core!(Event::DiskDone { tag, result: EIO, buf: None });
                    return;
                }
                self.note(n, || {
                    let (v, len) = (versions.first().copied().unwrap_or(0), versions.len());
                    format!("disk holds {v} in sector {sector}+{len}{}", if fua { ", durable" } else { "" })
                });
                self.nodes[n].disk.write(sector, &versions, fua);
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Later::Flush { tag, vol, point } => {
                if self.fails(n, DiskOp::Flush, place(vol, 0), 0) {
                    core!(Event::DiskDone { tag, result: EIO, buf: None });
                    return;
                }
                self.nodes[n].disk.flush(point);
                core!(Event::DiskDone { tag, result: IoResult::Ok, buf: None });
            }
            Later::MetaWrite { tag, sector, block, fua, flush } => {
                self.hooks.meta_writes[n] += 1;
                if self.fails(n, DiskOp::Meta, sector, 8) {
                    self.nodes[n].disk.torn_md(sector, &block, flush, &mut self.rng);
                    core!(Event::MetaDone { tag, result: EIO });
                    return;
                }
                if let Some(point) = flush {
                    self.nodes[n].disk.flush(point);
                }
                self.nodes[n].disk.write_md(sector, &block, fua);
                if self.burns_down(n, true) {
                    return;
                }
                core!(Event::MetaDone { tag, result: IoResult::Ok });
            }
            Later::Arrive { sock, mut messages } => {
                if let Some(e) = self.ends.get_mut(&sock).filter(|e| !e.lingers) {
                    e.inbox.extend(messages.drain(..));
                }
                self.spare.keep_list(messages);
            }
            Later::Down { sock } => {
                if self.ends.remove(&sock).is_some_and(|e| !e.lingers) {
                    core!(Event::SocketDown { sock, cause: DownCause::Closed });
                }
            }
            Later::Sent { sock, total } => {
                if self.ends.get(&sock).is_some_and(|e| !e.lingers) {
                    core!(Event::Sent { sock, total_bytes: total });
                }
            }
            Later::Lingered { sock } => self.close_end(sock, true),
            Later::Connect { attempt } => self.try_connect(n, attempt),
            Later::Handler { run, means } => self.handler_ends(n, run, means),
            Later::Measured { vol, attach } => {
                let found = self.nodes[n].measured();
                core!(Event::DiskMeasured { vol, attach, disk: Some(&found) });
            }
            Later::Deadline => {
                if self.armed[n].is_some_and(|t| t <= self.now.0) {
                    self.armed[n] = None;
                }
                let due = self.nodes[n].core.as_ref().and_then(|c| c.deadline()).is_some_and(|at| at <= now);
                if due {
                    core!(Event::Deadline);
                }
            }
        }
    }

    /// Whether an operation on a sector fails, by the faults that are on or because the place is bad.
    fn fails(&mut self, n: usize, op: DiskOp, sector: u64, count: u64) -> bool {
        let faults = &self.nodes[n].faults;
        let odds = match op {
            DiskOp::Read => faults.reads,
            DiskOp::Write => faults.writes,
            DiskOp::Flush => faults.flushes,
            DiskOp::Meta => faults.metadata,
        };
        let by_chance = odds > 0 && self.rng.one_in(odds);
        let bad_place = self.hooks.is_bad(n, op, sector, count);
        if !by_chance && !bad_place {
            return false;
        }
        match op {
            DiskOp::Read => self.tally.read_errors += 1,
            DiskOp::Write => self.tally.write_errors += 1,
            DiskOp::Flush => self.tally.flush_errors += 1,
            DiskOp::Meta => self.tally.metadata_errors += 1,
        }
        let pass_on = self.nodes[n].disk_config.on_io_error == OnIoError::PassOn;
        if pass_on && (by_chance || self.hooks.bad_places_spoil) {
            // The copy becomes Inconsistent, and whatever the peer has counts for more: the policy's word.
            let truth = self.truth.at(sector);
            truth.word[n] = true;
            truth.spoiled = true;
        }
        true
    }
}
