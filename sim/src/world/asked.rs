//! What operators and clients ask of a node.

use super::*;

impl World {
    /// Gives a command to a node.
    pub fn command(&mut self, n: usize, c: Command) -> CommandId {
        self.next_tag += 1;
        let id = CommandId(self.next_tag);
        self.note(n, || format!("command {c:?}").chars().take(100).collect());
        let now = self.clock(n);
        let frozen = self.volume(n).is_some_and(|s| s.susp_fen);
        self.one_writer &= match &c {
            Command::Primary { force } => !force,
            Command::ResumeIo => !frozen,
            _ => true,
        };
        let promotion = match &c {
            Command::Primary { force } => {
                let good = |v: &u8| self.volume_of(n, *v).is_some_and(|s| s.disk == DiskState::UpToDate);
                let good = (0..self.truth.volumes()).filter(good).fold(0, |all, v| all | 1 << v);
                Promotion::Yes { forced: *force, good }
            }
            Command::Secondary { .. } => Promotion::Back,
            Command::Attach(vol, _) => Promotion::Attach(*vol),
            Command::Verify { .. } => {
                self.tally.verifies += 1;
                Promotion::No
            }
            Command::Invalidate(vol) => Promotion::Invalidate(*vol),
            Command::InvalidateRemote(vol) => Promotion::InvalidateRemote(*vol),
            _ => Promotion::No,
        };
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
            self.tally.commands += 1;
            self.commands.insert(id.0, (n, promotion));
            core.command(now, id, c, &mut node.out);
        }
        self.settle(n);
        id
    }

    /// Network configuration with short timeouts.
    pub fn connect(&mut self, n: usize, net: &NetConfig) {
        self.command(n, Command::Connect(Box::new(net.clone())));
    }

    /// A Primary takes a write for connected.
    fn note_unaware(&mut self, n: usize, id: u64, content: u64, sector: u64, count: u64) {
        if self.volume(n).is_some_and(|s| s.conn >= ConnState::Connected) {
            self.truth.at(sector).may_reach_the_other(n, id, content, sector, count);
        }
    }

    /// What the next write will write.
    pub fn next_version(&self) -> u64 {
        self.next_version
    }

    /// Issues a client request on a node; the tag names it in the answers.
    pub fn request(&mut self, n: usize, op: SimOp) -> ClientTag {
        self.note_owner(n, op, false);
        self.next_tag += 1;
        let tag = ClientTag(self.next_tag);
        let asked = op;
        if self.nodes[n].core.is_none() {
            return tag;
        }
        let (sector, count, op) = match op {
            SimOp::Write { sector, count, fua } => {
                let version = self.next_version;
                self.next_version += 1;
                self.truth.at(sector).issued(n, version, version, sector, count, fua);
                self.note_unaware(n, version, version, sector, count);
                self.writes.insert(tag.0, (version, n, sector));
                let buf = self.nodes[n].alloc(std::iter::repeat_n(version, count as usize).collect());
                (sector, count, ClientOp::Write { buf, fua })
            }
            SimOp::Discard { sector, count } => {
                let version = self.next_version;
                self.next_version += 1;
                self.truth.at(sector).issued(n, version, 0, sector, count, false);
                self.note_unaware(n, version, 0, sector, count);
                self.writes.insert(tag.0, (version, n, sector));
                let zero = ClientOp::Zeroes { may_unmap: version % 4 == 1, fua: false };
                (sector, count, if version.is_multiple_of(2) { ClientOp::Discard } else { zero })
            }
            SimOp::Read { sector, count } => (sector, count, ClientOp::Read),
            SimOp::Flush => (0, 0, ClientOp::Flush),
            SimOp::FlushVolume { vol } => (place(vol, 0), 0, ClientOp::Flush),
        };
        let clock = self.truth.at(asked.place()).of(n).clock;
        self.tally.requests += 1;
        self.open.insert(tag.0, (n, asked, clock));
        let (vol, sector) = volume_and_sector(sector);
        let r = ClientRequest { tag, vol, sector, len_bytes: (count * 512) as u32, op };
        self.note(n, || format!("request {} {op:?} sector {sector}+{count}", tag.0));
        let now = self.clock(n);
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
            core.handle(now, Event::Request(r), &mut node.out);
        }
        self.settle(n);
        tag
    }

    /// Takes the answer to a request or command, if it came.
    pub fn take_answer(&mut self, wanted: impl Fn(&Answer) -> bool) -> Option<Answer> {
        let i = self.answers.iter().position(|(_, a)| wanted(a))?;
        Some(self.answers.remove(i).1)
    }

    /// Runs a command to its end.
    pub fn command_and_wait(&mut self, n: usize, c: Command) -> CommandResult {
        let id = self.command(n, c);
        let is_it = |a: &Answer| matches!(a, Answer::Command(i, _) if *i == id);
        let ended = self.run_until(Duration::from_secs(120), |w| w.answers.iter().any(|(_, a)| is_it(a)));
        assert!(ended, "a command ends");
        match self.take_answer(is_it) {
            Some(Answer::Command(_, r)) => r,
            _ => unreachable!("it is there"),
        }
    }
}

/// What the oracle has to know of a command: whether it makes a node Primary, for one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Promotion {
    No,
    /// `good`: the volumes, as bits, whose disk needs no force.
    Yes {
        forced: bool,
        good: u32,
    },
    Back,
    Attach(VolIdx),
    Invalidate(VolIdx),
    InvalidateRemote(VolIdx),
}

impl Promotion {
    /// The own copy of this volume is given up.
    pub(super) fn is_invalidate(self, v: u8) -> bool {
        matches!(self, Promotion::Invalidate(vol) if vol.0 == v)
    }
}

/// A client request in simulator terms.
#[derive(Clone, Copy, Debug)]
pub enum SimOp {
    /// Write a new version over `count` sectors.
    Write {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
        /// Forced unit access.
        fua: bool,
    },
    /// Read.
    Read {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
    /// Flush of the first volume.
    Flush,
    /// Flush of a volume.
    FlushVolume {
        /// Which.
        vol: VolIdx,
    },
    /// Discard or zero a range.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        count: u64,
    },
}

impl SimOp {
    /// A place on the volume that it is for.
    pub(super) fn place(&self) -> u64 {
        match *self {
            SimOp::Write { sector, .. } | SimOp::Read { sector, .. } | SimOp::Discard { sector, .. } => {
                sector
            }
            SimOp::Flush => 0,
            SimOp::FlushVolume { vol } => place(vol, 0),
        }
    }
}
