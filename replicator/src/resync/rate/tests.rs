use super::*;

const DEFAULTS: RateOptions = RateOptions {
    resync_rate_kib_per_s: 250,
    plan_ahead_ds: 20,
    delay_target_ds: 10,
    fill_target_sectors: 100,
    max_rate_kib_per_s: 102_400,
    min_rate_kib_per_s: 250,
    max_buffers: 2048,
};

/// A link and disk that move `capacity` sectors per step, with answers and requests in ten slices of it.
struct Pipe {
    controller: RateController,
    in_flight: u64,
    received: u64,
}

impl Pipe {
    fn new(options: RateOptions) -> Pipe {
        Pipe { controller: RateController::new(options), in_flight: 0, received: 0 }
    }

    /// One step; returns the sectors moved in it.
    fn run(&mut self, capacity: u64, application_busy: bool) -> u64 {
        self.in_flight += self.controller.step(StepInput {
            received_sectors: core::mem::take(&mut self.received),
            in_flight_sectors: self.in_flight,
            application_busy,
        });
        for _ in 0..10 {
            let moved = (capacity / 10).min(self.in_flight);
            self.in_flight -= moved;
            self.received += moved;
            self.in_flight += self.controller.top_up(self.in_flight);
            assert!(self.in_flight <= u64::from(self.controller.options.max_buffers / 2) * 8);
        }
        self.received
    }

    fn steady(&mut self, steps: u32, capacity: u64, busy: bool) -> u64 {
        (0..steps).map(|_| self.run(capacity, busy)).last().unwrap_or(0)
    }
}

#[test]
fn an_idle_device_reaches_the_maximum_rate_within_seconds() {
    let mut pipe = Pipe::new(DEFAULTS);
    assert_eq!(pipe.steady(50, 1 << 20, false), sectors_per_step(102_400));
    assert_eq!(pipe.controller.wanted_kib_per_s(), 102_400);
    assert_eq!(pipe.controller.limited_by(), LimitedBy::MaxRate);
    for _ in 0..200 {
        assert!(pipe.run(1 << 20, false) <= sectors_per_step(102_400));
    }
}

#[test]
fn a_slow_link_is_filled_but_not_flooded() {
    for capacity in [1000, 5000, 12_000] {
        let mut pipe = Pipe::new(DEFAULTS);
        pipe.steady(300, capacity, false);
        let (mut moved, mut worst) = (0, 0);
        for _ in 0..100 {
            moved += pipe.run(capacity, false);
            worst = worst.max(pipe.in_flight);
        }
        assert!(moved >= capacity * 80, "{moved} of {capacity} * 100");
        assert!(worst <= 2 * capacity + 200, "{worst} in flight at {capacity}");
        assert_eq!(pipe.controller.limited_by(), LimitedBy::Controller);
    }
}

/// Answers take a while: whenever a step begins, two blocks are on their way. Each correction is less than a block.
#[test]
fn corrections_of_less_than_a_block_add_up() {
    let mut pipe = Pipe::new(DEFAULTS);
    for _ in 0..300 {
        pipe.in_flight += pipe.controller.step(StepInput {
            received_sectors: core::mem::take(&mut pipe.received),
            in_flight_sectors: pipe.in_flight,
            application_busy: false,
        });
        pipe.received = pipe.in_flight.saturating_sub(16);
        pipe.in_flight -= pipe.received;
    }
    assert!(pipe.controller.wanted_kib_per_s() > 5_000, "{} KiB/s", pipe.controller.wanted_kib_per_s());
}

#[test]
fn the_delay_target_holds_without_a_fill_target() {
    let options = RateOptions { fill_target_sectors: 0, delay_target_ds: 2, ..DEFAULTS };
    let mut pipe = Pipe::new(options);
    pipe.steady(300, 2000, false);
    let moved: u64 = (0..100).map(|_| pipe.run(2000, false)).sum();
    assert!(moved >= 2000 * 90, "{moved}");
    assert!(pipe.in_flight <= 2000 * 4, "{}", pipe.in_flight);
}

#[test]
fn a_busy_application_gets_the_disk_and_gives_it_back() {
    let mut pipe = Pipe::new(DEFAULTS);
    pipe.steady(50, 1 << 20, false);
    assert_eq!(pipe.steady(5, 1 << 20, true), sectors_per_step(250) / 8 * 8);
    assert_eq!(pipe.controller.limited_by(), LimitedBy::Throttled);
    let mut indifferent = Pipe::new(RateOptions { min_rate_kib_per_s: 0, ..DEFAULTS });
    assert_eq!(indifferent.steady(50, 1 << 20, true), sectors_per_step(102_400));
    assert_eq!(pipe.steady(50, 1 << 20, false), sectors_per_step(102_400));
}

#[test]
fn the_rate_follows_a_link_that_gets_slower() {
    let mut pipe = Pipe::new(DEFAULTS);
    pipe.steady(50, 1 << 20, false);
    pipe.steady(200, 1000, false);
    assert!(pipe.controller.wanted_kib_per_s() <= 1000 * 5 * 3 / 2, "{}", pipe.controller.wanted_kib_per_s());
    assert!(pipe.in_flight <= 2200, "{}", pipe.in_flight);
}

#[test]
fn a_fixed_rate_is_fixed() {
    let options = RateOptions { plan_ahead_ds: 0, resync_rate_kib_per_s: 4000, ..DEFAULTS };
    let mut pipe = Pipe::new(options);
    pipe.run(1 << 20, false);
    for _ in 0..20 {
        assert_eq!(pipe.run(1 << 20, false), 800);
        assert_eq!(pipe.controller.limited_by(), LimitedBy::FixedRate);
        assert_eq!(pipe.controller.wanted_kib_per_s(), 4000);
    }
    let crawl = RateOptions { resync_rate_kib_per_s: 1, ..options };
    assert_eq!(RateController::new(crawl).step(StepInput::default()), 8);
}

#[test]
fn half_of_the_buffers_is_the_limit_at_any_moment() {
    let options =
        RateOptions { plan_ahead_ds: 0, resync_rate_kib_per_s: 1 << 20, max_buffers: 32, ..DEFAULTS };
    let mut c = RateController::new(options);
    assert_eq!(c.step(StepInput::default()), 16 * 8);
    assert_eq!(c.top_up(128), 0);
    assert_eq!(c.top_up(100), 24);
    assert_eq!(c.top_up(1 << 40), 0);
    c.step(StepInput { received_sectors: 28, in_flight_sectors: 124, application_busy: false });
    assert_eq!(c.limited_by(), LimitedBy::MaxBuffers);
}

#[test]
fn it_starts_at_the_resync_rate() {
    let mut c = RateController::new(RateOptions { resync_rate_kib_per_s: 10_000, ..DEFAULTS });
    assert_eq!(c.step(StepInput::default()), 2000);
    assert_eq!(c.wanted_kib_per_s(), 10_000);
}

#[test]
fn a_stalled_source_is_not_flooded_and_never_forgotten() {
    let mut c = RateController::new(DEFAULTS);
    let mut in_flight = 0;
    for _ in 0..1000 {
        in_flight += c.step(StepInput { in_flight_sectors: in_flight, ..StepInput::default() });
    }
    assert!(in_flight <= 2000, "{in_flight}");
    // everything refused at once: it goes on
    let refused = StepInput { received_sectors: in_flight, ..StepInput::default() };
    assert!(c.step(refused) > 0);
    for _ in 0..50 {
        assert!(c.step(StepInput::default()) >= 8);
    }
}

#[test]
fn extreme_inputs_and_option_changes_do_no_harm() {
    let wild = RateOptions { plan_ahead_ds: 9999, max_buffers: u32::MAX, ..DEFAULTS };
    let mut c = RateController::new(wild);
    for received in [u64::MAX, 0, 1 << 62, 7] {
        for flying in [0, u64::MAX, 1 << 62] {
            for plan_ahead_ds in [300, 0, 1, 20] {
                c.set_options(RateOptions { plan_ahead_ds, ..wild });
                let got = c.step(StepInput {
                    received_sectors: received,
                    in_flight_sectors: flying,
                    application_busy: false,
                });
                assert!(got <= sectors_per_step(102_400) && got.is_multiple_of(8));
            }
        }
    }
}

#[test]
fn the_source_throttles_for_its_application_only() {
    let busy = ThrottleInput {
        min_rate_kib_per_s: 250,
        resync_kib_per_s: 251,
        application_sectors: 65,
        peer_primary: false,
    };
    assert!(should_throttle(&busy));
    assert!(!should_throttle(&ThrottleInput { resync_kib_per_s: 250, ..busy }));
    assert!(!should_throttle(&ThrottleInput { application_sectors: 64, ..busy }));
    assert!(!should_throttle(&ThrottleInput { peer_primary: true, ..busy }));
    assert!(!should_throttle(&ThrottleInput { min_rate_kib_per_s: 0, ..busy }));
}

#[test]
fn what_was_requested_beyond_the_grant_comes_off_the_rest() {
    let mut c = RateController::new(RateOptions {
        plan_ahead_ds: 0,
        resync_rate_kib_per_s: 102_400,
        max_buffers: 32,
        ..DEFAULTS
    });
    assert_eq!(c.step(StepInput::default()), 16 * 8);
    c.overdrawn(8);
    // 20480 sectors in this step: 16 blocks are granted, one more was taken
    let mut rest = 0;
    while let more @ 1.. = c.top_up(0) {
        rest += more;
    }
    assert_eq!(rest, sectors_per_step(102_400) - 17 * 8);
    c.overdrawn(8);
    assert_eq!(c.top_up(0), 0);
}
