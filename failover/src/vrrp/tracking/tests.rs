use model::failover::config::{Command, TrackFile};
use model::time::Duration;

use super::*;

const S: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Instant {
    Instant::default() + S * seconds
}

fn script(rise: u32, fall: u32, starts_failed: bool) -> TrackScript {
    TrackScript {
        name: "s".into(),
        command: Command { words: vec!["true".into()], user: None },
        interval: S,
        timeout: S,
        rise,
        fall,
        weight: 0,
        reverse: false,
        starts_failed,
        user: None,
    }
}

fn process(quorum: u32, quorum_max: Option<u32>) -> TrackProcess {
    TrackProcess {
        name: "p".into(),
        process: "p".into(),
        quorum,
        quorum_max,
        weight: 1,
        reverse: false,
        rise_delay: 2 * S,
        fall_delay: S,
    }
}

fn trackers(script: TrackScript, process: TrackProcess) -> Trackers {
    let file = TrackFile { name: "f".into(), path: "/f".into(), weight: 1, reverse: false, init: None };
    let config = FailoverConfig {
        scripts: vec![script],
        track_files: vec![file],
        track_processes: vec![process],
        ..FailoverConfig::default()
    };
    let mut trackers = Trackers::default();
    trackers.configure(&config);
    trackers
}

fn tracker(target: TrackTarget, weight: i16, reverse: bool) -> Tracker {
    Tracker { target, weight, reverse }
}

fn ran(trackers: &mut Trackers, success: bool) {
    trackers.apply(at(0), &TrackerResult::Script { name: "s".into(), success });
}

fn is_well(trackers: &Trackers, target: TrackTarget) -> Option<bool> {
    match trackers.effect(&tracker(target, 0, false), false) {
        Effect::Points(_) => Some(true),
        Effect::Fault(Fault::NoResult(_)) => None,
        Effect::Fault(_) => Some(false),
    }
}

fn the_script() -> TrackTarget {
    TrackTarget::Script("s".into())
}

#[test]
fn a_script_counts_when_it_has_failed_or_succeeded_often_enough_in_a_row() {
    let mut t = trackers(script(2, 3, false), process(1, None));
    assert_eq!(is_well(&t, the_script()), None, "it keeps the instance out before its first run");
    let rows = [
        (true, true, "one success is enough at first"),
        (false, true, "one failure"),
        (false, true, "two failures"),
        (true, true, "the row is broken"),
        (false, true, "one"),
        (false, true, "two"),
        (false, false, "three"),
        (true, false, "one success"),
        (true, true, "two"),
    ];
    for (success, expected, why) in rows {
        ran(&mut t, success);
        assert_eq!(is_well(&t, the_script()), Some(expected), "{why}");
    }
}

#[test]
fn a_script_with_init_fail_is_failed_before_its_first_run() {
    let mut t = trackers(script(1, 1, true), process(1, None));
    assert_eq!(is_well(&t, the_script()), Some(false));
    ran(&mut t, true);
    assert_eq!(is_well(&t, the_script()), Some(true));
}

#[test]
fn weights_count_as_in_the_table() {
    // Weight, reverse, well: effect (failover 1.11).
    let fault = || Effect::Fault(Fault::Script("s".into()));
    let rows = [
        (0, false, true, Effect::Points(0)),
        (0, false, false, fault()),
        (0, true, true, fault()),
        (0, true, false, Effect::Points(0)),
        (10, false, true, Effect::Points(10)),
        (10, false, false, Effect::Points(0)),
        (-10, false, true, Effect::Points(0)),
        (-10, false, false, Effect::Points(-10)),
        (-10, true, true, Effect::Points(-10)),
        (10, true, false, Effect::Points(10)),
    ];
    for (weight, reverse, success, effect) in rows {
        let mut t = trackers(script(1, 1, false), process(1, None));
        let tracker = tracker(the_script(), weight, reverse);
        if weight != 0 {
            assert_eq!(t.effect(&tracker, false), Effect::Points(0), "with a weight it keeps nobody out");
        }
        ran(&mut t, success);
        assert_eq!(t.effect(&tracker, false), effect, "{weight} {reverse} {success}");
    }
}

#[test]
fn without_weight_a_tracker_with_weight_makes_faults() {
    let mut t = trackers(script(1, 1, false), process(1, None));
    ran(&mut t, false);
    let effect = t.effect(&tracker(the_script(), 10, false), true);
    assert_eq!(effect, Effect::Fault(Fault::Script("s".into())));
}

#[test]
fn a_file_adds_its_number_times_the_weight_and_very_low_is_a_fault() {
    let fault = || Effect::Fault(Fault::File("f".into()));
    let rows = [
        (0, 0, false, Effect::Points(0)),
        (5, 0, false, fault()),
        (0, 0, true, fault()),
        (5, 1, false, Effect::Points(5)),
        (5, -2, false, Effect::Points(-10)),
        (5, 2, true, Effect::Points(-10)),
        (-253, 1, false, Effect::Points(-253)),
        (-254, 1, false, fault()),
        (i64::MIN, 2, false, fault()),
        (i64::MAX, 2, false, Effect::Points(254)),
        (i64::MIN, 1, true, Effect::Points(254)),
    ];
    for (value, weight, reverse, effect) in rows {
        let mut t = trackers(script(1, 1, false), process(1, None));
        t.apply(at(0), &TrackerResult::File { name: "f".into(), value });
        let tracker = tracker(TrackTarget::File("f".into()), weight, reverse);
        assert_eq!(t.effect(&tracker, false), effect, "{value} {weight} {reverse}");
    }
}

#[test]
fn processes_count_when_enough_and_not_too_many_have_run_for_long_enough() {
    let mut t = trackers(script(1, 1, false), process(2, Some(3)));
    let target = || TrackTarget::Process("p".into());
    let mut counted = |time: u32, running: u32| {
        t.tick(at(time));
        t.apply(at(time), &TrackerResult::Process { name: "p".into(), running });
        (is_well(&t, target()), t.deadline())
    };
    assert_eq!(counted(0, 2), (Some(true), None), "the first count counts at once");
    assert_eq!(counted(1, 4), (Some(true), Some(at(2))), "too many");
    assert_eq!(counted(1, 3), (Some(true), None), "not for long");
    assert_eq!(counted(2, 1), (Some(true), Some(at(3))), "too few");
    assert_eq!(counted(3, 1), (Some(false), None));
    assert_eq!(counted(4, 2), (Some(false), Some(at(6))));
    assert_eq!(counted(6, 2), (Some(true), None));
}

#[test]
fn a_resource_is_well_while_it_is_up_to_date() {
    let mut t = trackers(script(1, 1, false), process(1, None));
    let target = || TrackTarget::Resource("r0".into());
    assert_eq!(is_well(&t, target()), None);
    for is_up_to_date in [true, false] {
        t.apply(at(0), &TrackerResult::Resource { name: "r0".into(), is_up_to_date });
        assert_eq!(is_well(&t, target()), Some(is_up_to_date));
    }
}

#[test]
fn an_interface_that_is_not_there_is_down() {
    let mut t = trackers(script(1, 1, false), process(1, None));
    let target = || TrackTarget::Interface("eth1".into());
    assert_eq!(is_well(&t, target()), Some(false));
    t.set_interface(&Interface { name: "eth1".into(), is_up: true, ipv4: None, ipv6: None });
    assert_eq!(is_well(&t, target()), Some(true));
}

#[test]
fn results_survive_a_reload_and_those_of_nobody_are_nothing() {
    let mut t = trackers(script(1, 1, false), process(1, None));
    ran(&mut t, true);
    let config = FailoverConfig { scripts: vec![script(3, 3, false)], ..FailoverConfig::default() };
    t.configure(&config);
    assert_eq!(is_well(&t, the_script()), Some(true));
    t.apply(at(0), &TrackerResult::Script { name: "other".into(), success: false });
    t.apply(at(0), &TrackerResult::Process { name: "p".into(), running: 0 });
    assert_eq!(t.deadline(), None);
}
