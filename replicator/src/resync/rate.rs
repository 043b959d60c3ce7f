//! Speed of a resync: the target's controller and the source's throttle (drbd-wire 6.7).
//!
//! The target asks every [`STEP_MS`] how many sectors it may request. The controller aims at a filled pipe: so
//! much in flight that the source never waits, and no more, so that application I/O does not queue behind it.

use model::units::SECTORS_PER_BIT;

/// Length of a step of the controller.
pub const STEP_MS: u64 = 100;

/// Application I/O on the disk within one throttle interval above which it counts as busy; the resync's own
/// super block and bitmap writes stay below it.
pub const BUSY_SECTORS: u64 = 64;

/// `c-plan-ahead` is at most this many steps (30 s).
pub const MAX_PLAN_STEPS: usize = 300;

/// The disk and net options the controller obeys, in the units of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateOptions {
    /// `resync-rate`: fixed rate, or where the controller starts.
    pub resync_rate_kib_per_s: u32,
    /// `c-plan-ahead`: horizon in 0.1 s; 0 switches the controller off.
    pub plan_ahead_ds: u32,
    /// `c-delay-target` in 0.1 s; used if there is no fill target.
    pub delay_target_ds: u32,
    /// `c-fill-target`: sectors to keep in flight; 0 to use the delay target.
    pub fill_target_sectors: u32,
    /// `c-max-rate`: never faster than this.
    pub max_rate_kib_per_s: u32,
    /// `c-min-rate`: application I/O does not push the resync below this; 0: it does not matter at all.
    pub min_rate_kib_per_s: u32,
    /// `max-buffers`, in blocks of 4 KiB; at most half of them are in flight for a resync.
    pub max_buffers: u32,
}

/// What held the resync back during a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitedBy {
    /// The controller: the pipe is as full as it should be.
    Controller,
    /// `resync-rate`, as `c-plan-ahead` is 0.
    FixedRate,
    /// `c-max-rate`.
    MaxRate,
    /// Half of `max-buffers` in flight.
    MaxBuffers,
    /// Application I/O on this node.
    Throttled,
}

/// What happened since the last step.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StepInput {
    /// Sectors answered since the last step: with data, as zeroes, as equal, and refused ones too. (A real
    /// peer forgets the refused ones, and its resync hangs once enough of them piled up.)
    pub received_sectors: u64,
    /// Sectors requested and not yet answered in any way.
    pub in_flight_sectors: u64,
    /// This node is Primary and its application keeps the disk busy.
    pub application_busy: bool,
}

/// The target's controller. One value per running resync.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateController {
    options: RateOptions,
    /// Corrections planned for the coming steps, a ring that starts at `next`.
    plan: [i64; MAX_PLAN_STEPS],
    next: usize,
    planned_sectors: i64,
    /// What this step granted but could not be requested yet, as too much was in flight.
    left_sectors: u64,
    /// What the controller granted in the step before beyond whole blocks.
    broken_sectors: u64,
    wanted_sectors: u64,
    /// What decided the grant of this step, and what held back the step before.
    granted_by: LimitedBy,
    limited_by: LimitedBy,
}

impl RateController {
    /// A controller at the start of a resync.
    pub fn new(options: RateOptions) -> RateController {
        RateController {
            options,
            plan: [0; MAX_PLAN_STEPS],
            next: 0,
            planned_sectors: 0,
            left_sectors: 0,
            broken_sectors: 0,
            wanted_sectors: 0,
            granted_by: LimitedBy::Controller,
            limited_by: LimitedBy::Controller,
        }
    }

    /// Takes over changed options. The plan starts anew if its length changed.
    pub fn set_options(&mut self, options: RateOptions) {
        if options.plan_ahead_ds != self.options.plan_ahead_ds {
            self.plan = [0; MAX_PLAN_STEPS];
            self.next = 0;
            self.planned_sectors = 0;
        }
        self.options = options;
    }

    /// One step: how many sectors (whole blocks) to request now. What does not fit into the buffers is kept
    /// for [`RateController::top_up`] within the same step.
    pub fn step(&mut self, input: StepInput) -> u64 {
        self.limited_by = if self.left_sectors > 0 { LimitedBy::MaxBuffers } else { self.granted_by };
        let (mut sectors, mut limit) = if self.plan_steps() == 0 {
            (self.fixed_rate(), LimitedBy::FixedRate)
        } else {
            (self.controlled(&input), LimitedBy::Controller)
        };
        let max_rate = sectors_per_step(self.options.max_rate_kib_per_s);
        if self.plan_steps() != 0 && sectors >= max_rate {
            (sectors, limit) = (max_rate, LimitedBy::MaxRate);
        }
        let min_rate = sectors_per_step(self.options.min_rate_kib_per_s);
        if input.application_busy && min_rate > 0 && sectors > min_rate {
            (sectors, limit) = (min_rate, LimitedBy::Throttled);
        }
        let broken = sectors % SECTORS_PER_BIT;
        sectors -= broken;
        self.broken_sectors = if limit == LimitedBy::Controller { broken } else { 0 };
        self.wanted_sectors = sectors;
        self.granted_by = limit;
        self.left_sectors = sectors;
        self.top_up(input.in_flight_sectors)
    }

    /// More of the current step's grant, as answers have made room: sectors to request now. To be called when
    /// answers arrive; without it a fast link idles between the steps.
    pub fn top_up(&mut self, in_flight_sectors: u64) -> u64 {
        let cap = u64::from(self.options.max_buffers / 2) * SECTORS_PER_BIT;
        let room = cap.saturating_sub(in_flight_sectors);
        let room = room - room % SECTORS_PER_BIT;
        let now = self.left_sectors.min(room);
        self.left_sectors -= now;
        now
    }

    /// So many sectors more than granted were requested: they come off what the step has left.
    pub fn overdrawn(&mut self, sectors: u64) {
        self.left_sectors = self.left_sectors.saturating_sub(sectors);
    }

    /// The rate the last step asked for, in KiB/s (`want:` in the status).
    pub fn wanted_kib_per_s(&self) -> u64 {
        self.wanted_sectors * 1000 / STEP_MS / 2
    }

    /// What held back the last step that is over.
    pub fn limited_by(&self) -> LimitedBy {
        self.limited_by
    }

    fn plan_steps(&self) -> usize {
        (self.options.plan_ahead_ds as usize).min(MAX_PLAN_STEPS)
    }

    /// At least one block, or a low rate would never end.
    fn fixed_rate(&self) -> u64 {
        sectors_per_step(self.options.resync_rate_kib_per_s).max(SECTORS_PER_BIT)
    }

    /// spec: drbd-wire 6.7: spread the correction over the plan and take this step's share of it
    fn controlled(&mut self, input: &StepInput) -> u64 {
        let steps = self.plan_steps() as i64;
        let received = signed(input.received_sectors);
        let in_flight = signed(input.in_flight_sectors);
        let want = if received == 0 && in_flight == 0 {
            signed(sectors_per_step(self.options.resync_rate_kib_per_s)) * steps
        } else if self.options.fill_target_sectors > 0 {
            i64::from(self.options.fill_target_sectors)
        } else {
            received.saturating_mul(i64::from(self.options.delay_target_ds))
        };
        let per_step = want.saturating_sub(in_flight).saturating_sub(self.planned_sectors) / steps;
        let slots = self.plan_steps();
        for planned in &mut self.plan[..slots] {
            *planned = planned.saturating_add(per_step);
        }
        let share = core::mem::take(&mut self.plan[self.next]);
        self.next = (self.next + 1) % slots;
        self.planned_sectors =
            self.planned_sectors.saturating_add(per_step.saturating_mul(steps)).saturating_sub(share);
        // A share is often less than a block. Dropped step by step, such shares would leave the rate where it is (this
        // too goes beyond the specification).
        let granted = received.saturating_add(share);
        let mut sectors = granted.saturating_add(signed(self.broken_sectors)).max(0);
        if in_flight == 0 && received > 0 && self.left_sectors == 0 {
            // Everything asked for was answered within the step: the pipe ran dry, and its capacity is not
            // known yet. Corrections alone would take minutes to find it on a fast link, so double instead
            // (this goes beyond the specification, and never beyond c-max-rate).
            sectors = sectors.max(received.saturating_mul(2));
        }
        // one block at least, or the resync would stand still without ever measuring again
        if in_flight == 0 { u64_of(sectors).max(SECTORS_PER_BIT) } else { u64_of(sectors) }
    }
}

/// What the source looks at before it serves a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThrottleInput {
    /// `c-min-rate`.
    pub min_rate_kib_per_s: u32,
    /// Present rate of the resync.
    pub resync_kib_per_s: u64,
    /// Sectors that application I/O moved on the backing disk since the last look, without the resync's own.
    pub application_sectors: u64,
    /// The peer, which is the target, is Primary: its application waits for this resync.
    pub peer_primary: bool,
}

/// The source shall serve this request one [`STEP_MS`] later, in favour of application I/O.
pub fn should_throttle(input: &ThrottleInput) -> bool {
    input.min_rate_kib_per_s > 0
        && !input.peer_primary
        && input.application_sectors > BUSY_SECTORS
        && input.resync_kib_per_s > u64::from(input.min_rate_kib_per_s)
}

/// KiB/s as sectors per step.
fn sectors_per_step(kib_per_s: u32) -> u64 {
    u64::from(kib_per_s) * 2 * STEP_MS / 1000
}

fn signed(sectors: u64) -> i64 {
    i64::try_from(sectors).unwrap_or(i64::MAX)
}

fn u64_of(sectors: i64) -> u64 {
    u64::try_from(sectors).unwrap_or(0)
}

#[cfg(test)]
mod tests;
