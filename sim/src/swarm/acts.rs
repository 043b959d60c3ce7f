//! What may happen in a schedule.

use model::state::{ConnState, DiskState, Role};
use model::time::Duration;
use replicator::{Auth, Command, NetConfig, ResizeWish, VolIdx};

use super::Schedule;
use crate::hooks::{Blocked, Damage, DiskOp};
use crate::node::{Faults, place};
use crate::rng::Rng;
use crate::world::SimOp;

/// One kind of act.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Act {
    /// Clients send requests.
    Burst,
    Wait,
    Kill,
    /// A node loses power, now or behind a metadata write.
    Power,
    /// A node dies between two actions of a batch to come, or behind a metadata write.
    WithinABatch,
    BothDie,
    Start,
    Cut,
    Heal,
    /// One socket is lost, between two packets or in the middle of one to come.
    Reset,
    /// What a node sends does not arrive any more, on one socket or both.
    HalfOpen,
    /// A packet to come is damaged on its way.
    Garbage,
    Stranger,
    Operate,
    OperateBoth,
    WrongSecret,
    FailOver,
    DiskFaults,
    /// A range of a disk goes bad for good.
    BadRange,
    Freeze,
    /// Nobody does anything for a while, though it is time.
    Jump,
    ClockJump,
    Detach,
    Mend,
    /// Backing disks become larger, and an operator resizes.
    Grow,
}

/// All acts; the order is that of the weights.
pub(super) const ACTS: [Act; 25] = [
    Act::Burst,
    Act::Wait,
    Act::Kill,
    Act::Power,
    Act::WithinABatch,
    Act::BothDie,
    Act::Start,
    Act::Cut,
    Act::Heal,
    Act::Reset,
    Act::HalfOpen,
    Act::Garbage,
    Act::Stranger,
    Act::Operate,
    Act::OperateBoth,
    Act::WrongSecret,
    Act::FailOver,
    Act::DiskFaults,
    Act::BadRange,
    Act::Freeze,
    Act::Jump,
    Act::ClockJump,
    Act::Detach,
    Act::Mend,
    Act::Grow,
];

impl Schedule<'_> {
    /// Does the act with this number.
    pub(super) fn act(&mut self, number: u64) {
        self.rng = Rng::new(self.seed.rotate_left(17) ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        self.w.acts = number + 1;
        let total: u64 = self.plan.weights.iter().sum();
        let mut at = self.below(total);
        let mut act = Act::Wait;
        for (i, weight) in self.plan.weights.iter().enumerate() {
            if at < *weight {
                act = ACTS[i];
                break;
            }
            at -= weight;
        }
        let n = self.below(2) as usize;
        self.w.note_phase(|| format!("act {number}: {act:?}"));
        self.digests_beside(number);
        self.stalls_beside(number);
        self.bitmap_beside(number);
        if self.plan.slow_link_bytes_per_s > 0 {
            let slow = !self.rng.one_in(4);
            self.w.weather.link_bytes_per_s = if slow { self.plan.slow_link_bytes_per_s } else { 0 };
        }
        self.carry_out(act, n);
        if self.rng.one_in(4) {
            self.wait();
        }
        self.w.check_marks();
        self.w.answers.clear();
    }

    fn carry_out(&mut self, act: Act, n: usize) {
        match act {
            Act::Burst => self.burst(),
            Act::Wait => self.wait(),
            Act::Kill => self.w.crash(n, false),
            Act::Power if self.rng.one_in(3) => {
                let writes = self.below(4);
                self.w.crash_after_metadata(n, writes, true);
            }
            Act::Power => self.w.crash(n, true),
            Act::WithinABatch => {
                let (actions, power) = (self.below(60), self.rng.one_in(2));
                if self.rng.one_in(2) {
                    self.w.crash_after(n, actions, power);
                } else {
                    self.w.crash_after_metadata(n, actions / 6, power);
                }
                self.burst();
            }
            Act::BothDie => {
                let power = self.rng.one_in(2);
                self.w.crash(n, power);
                if self.rng.one_in(2) {
                    self.wait();
                }
                self.w.crash(1 - n, power);
            }
            Act::Start => self.start(n),
            Act::Cut => self.w.cut(true),
            Act::Heal => {
                self.w.cut(false);
                self.w.block(n, Blocked::No);
            }
            Act::Reset if self.rng.one_in(3) => {
                let at = self.w.hooks.sent + 1 + self.below(20);
                self.w.hooks.severed_at = Some((at, self.rng.next()));
            }
            Act::Reset => self.w.reset_one(),
            Act::HalfOpen => {
                let which = [Blocked::Data, Blocked::Meta, Blocked::Both][self.below(3) as usize];
                self.w.block(n, which);
            }
            Act::Garbage => {
                self.w.tally.garbage += 1;
                self.w.hooks.garbled_at = Some(self.w.hooks.sent + 1 + self.below(20));
                self.w.hooks.damage = match self.below(3) {
                    0 => Damage::Garbage,
                    1 => Damage::Header(self.rng.next()),
                    _ => Damage::Prefix(1 + self.below(40) as usize),
                };
            }
            Act::Stranger => self.stranger(n),
            Act::Operate => self.operate(n),
            Act::OperateBoth => {
                self.operate(n);
                self.operate(1 - n);
            }
            Act::WrongSecret => self.wrong_secret(n),
            Act::FailOver => self.fail_over(n),
            Act::DiskFaults => self.disk_faults(n),
            Act::BadRange => self.bad_range(n),
            Act::Freeze => {
                let us = 1 << self.below(24);
                self.w.freeze(n, Duration::from_micros(us));
            }
            Act::Jump => {
                let us = 1 << self.below(24);
                self.w.now += Duration::from_micros(us);
            }
            Act::ClockJump => {
                let us = 1 << self.below(26);
                self.w.clock_jumps(n, Duration::from_micros(us));
            }
            Act::Detach => {
                let vol = self.any_volume();
                self.w.command(n, Command::Detach { vol, force: n == 0 });
            }
            Act::Mend => self.mend(n, false),
            Act::Grow => self.grow(n),
        }
    }

    /// Disks grow on one node or on both, and the device with them, or later.
    fn grow(&mut self, n: usize) {
        let most = if self.rng.one_in(2) { 60 } else { 4000 };
        let by = 16 + self.below(most);
        for m in [n, 1 - n] {
            if m == n || !self.rng.one_in(4) {
                self.w.grow(m, by);
            }
        }
        let both = self.rng.one_in(6);
        for m in [n, 1 - n] {
            if m == n || both {
                let vol = self.any_volume();
                let wish = ResizeWish { limit_sectors: 0, assume_clean: false, assume_peer_has_space: false };
                self.w.command(m, Command::Resize(vol, wish));
            }
        }
    }

    pub(super) fn wait(&mut self) {
        let us = if self.plan.resyncs_last() && self.rng.one_in(3) { 1 << 23 } else { 1 << self.below(23) };
        let us = us + self.below(us);
        self.w.run_for(Duration::from_micros(us));
    }

    fn any_volume(&mut self) -> VolIdx {
        VolIdx(self.below(self.plan.volumes.into()) as u8)
    }

    fn primary(&self) -> Option<usize> {
        let is = |n: &usize| self.w.volume(*n).is_some_and(|s| s.role == Role::Primary);
        [self.role_before, 1 - self.role_before].into_iter().find(is)
    }

    fn burst(&mut self) {
        let n = match self.primary() {
            Some(n) => n,
            None => {
                let n = self.below(2) as usize;
                if self.rng.one_in(2) && self.may_promote(n) {
                    self.w.command(n, Command::Primary { force: false });
                    self.w.run_for(Duration::from_millis(10));
                }
                n
            }
        };
        self.role_before = n;
        self.promote_both();
        for _ in 0..1 + self.below(self.plan.burst) {
            let n = self.writer(n);
            let vol = self.any_volume();
            let sized = |c: &replicator::Resource| c.size_sectors(vol) > 0;
            if !self.w.nodes[n].core.as_ref().is_some_and(sized) {
                return;
            }
            let (sector, count) = self.range(vol);
            let op = match self.below(20) {
                0 | 1 => SimOp::FlushVolume { vol },
                2..=5 => SimOp::Read { sector, count },
                6 => SimOp::Discard { sector, count },
                _ => {
                    let sector = self.or_in_new_part(n, vol, sector, count);
                    SimOp::Write { sector, count, fua: self.rng.one_in(8) }
                }
            };
            self.w.request(n, op);
            if self.rng.one_in(2) {
                let us = 1 << self.below(11);
                self.w.run_for(Duration::from_micros(us));
            }
        }
    }

    /// A write goes into what the device has grown by. Nobody reads there what nobody has written.
    fn or_in_new_part(&mut self, n: usize, vol: VolIdx, sector: u64, count: u64) -> u64 {
        if !self.plan.grows || self.rng.one_in(2) {
            return sector;
        }
        let size = self.w.nodes[n].core.as_ref().map_or(0, |c| c.size_sectors(vol));
        if size < self.plan.sectors + count {
            return sector;
        }
        place(vol, self.plan.sectors + self.below(size - self.plan.sectors - count + 1))
    }

    pub(super) fn range(&mut self, vol: VolIdx) -> (u64, u64) {
        let size = self.plan.sectors;
        let count = match self.below(8) {
            0 => 1 + self.below(100),
            1 | 2 => 8,
            _ => 1 + self.below(16),
        };
        let spot = self.below(self.plan.spots);
        let stride = size / self.plan.spots;
        let start = spot * stride + self.below(24);
        let count = count.min(size);
        (place(vol, start.min(size - count)), count)
    }

    pub(super) fn start(&mut self, n: usize) {
        if self.w.nodes[n].core.is_some() {
            return;
        }
        self.w.start(n);
        if !self.rng.one_in(4) {
            self.w.connect(n, &self.plan.net);
        }
    }

    /// Somebody else connects, says something that is no DRBD or says nothing, and goes or stays.
    fn stranger(&mut self, n: usize) {
        let Some(end) = self.w.stranger_connects(n) else { return };
        match self.below(4) {
            0 => self.w.stranger_says(end, b"GET / HTTP/1.0\r\n\r\n"),
            1 => {
                // P_INITIAL_META, P_INITIAL_DATA in headers of the oldest form.
                let command = if self.rng.one_in(2) { 0xf1 } else { 0xf2 };
                self.w.stranger_says(end, &[0x83, 0x74, 0x02, 0x67, 0xff, command, 0, 0]);
            }
            _ => {}
        }
        if self.rng.one_in(2) {
            self.w.stranger_closes(end);
        }
    }

    fn wrong_secret(&mut self, n: usize) {
        let Some(s) = self.w.volume(n) else { return };
        let Some(auth) = &self.plan.net.auth else { return self.operate(n) };
        if s.conn != ConnState::StandAlone {
            self.w.command(n, Command::Disconnect { force: true });
        }
        let auth = Auth { secret: b"a guess".to_vec(), ..auth.clone() };
        let net = NetConfig { auth: Some(auth), ..self.plan.net.clone() };
        self.w.tally.wrong_secrets += 1;
        self.w.connect(n, &net);
    }

    /// A command at whatever moment.
    fn operate(&mut self, n: usize) {
        let vol = self.any_volume();
        let Some(s) = self.w.volume_of(n, vol.0) else { return };
        let command = match self.below(15) {
            0 => Command::Secondary { open: 0, force: false },
            1 => Command::Disconnect { force: false },
            2 => Command::Disconnect { force: true },
            3 | 4 => return self.w.connect(n, &self.plan.net),
            5 => Command::Detach { vol, force: false },
            6 => return self.w.attach(n),
            7 if s.conn >= ConnState::Connected => Command::Invalidate(vol),
            8 if s.conn >= ConnState::Connected => Command::InvalidateRemote(vol),
            9 => Command::PauseSync(vol),
            10 => Command::ResumeSync(vol),
            11 => Command::SuspendIo,
            12 => Command::ResumeIo,
            13 => Command::Outdate(vol),
            _ if self.may_promote(n) => Command::Primary { force: false },
            _ => Command::ResumeIo,
        };
        self.w.command(n, command);
    }

    /// An operator promotes a node only with a current disk, and not beside a Primary, unless split brain is the plan.
    pub(super) fn may_promote(&self, n: usize) -> bool {
        self.volumes().all(|v| {
            let Some(s) = self.w.volume_of(n, v.0) else { return false };
            let other = self.w.volume(1 - n).is_some_and(|o| o.role == Role::Primary);
            let met = s.conn >= ConnState::Connected;
            met || s.disk == DiskState::UpToDate && (!other || self.plan.split_brain)
        })
    }

    fn fail_over(&mut self, n: usize) {
        if let Some(p) = self.primary()
            && !self.plan.split_brain
        {
            let power = self.rng.one_in(2);
            self.w.crash(p, power);
            if self.rng.one_in(2) {
                self.wait();
            }
        }
        if self.may_promote(n) {
            self.w.command(n, Command::Primary { force: false });
        }
    }

    fn disk_faults(&mut self, n: usize) {
        if self.rng.one_in(3) {
            self.w.nodes[n].faults = Faults::default();
            return;
        }
        // One disk at a time.
        self.w.nodes[1 - n].faults = Faults::default();
        // Every one: a disk that is full or read-only.
        let rate = 1 << self.below(9);
        let kind = self.below(4);
        let on = |k| if kind == k { rate } else { 0 };
        let metadata = if self.plan.metadata_faults { on(3) } else { 0 };
        self.w.nodes[n].faults = Faults { reads: on(0), writes: on(1), flushes: on(2), metadata };
    }

    fn bad_range(&mut self, n: usize) {
        self.w.hooks.mend_disks();
        self.w.hooks.bad_places_spoil = true;
        let vol = self.any_volume();
        let (sector, count) = self.range(vol);
        if self.rng.one_in(2) {
            self.w.hooks.break_disk(n, DiskOp::Read, sector, count);
        }
        self.w.hooks.break_disk(n, DiskOp::Write, sector, count);
    }
}
