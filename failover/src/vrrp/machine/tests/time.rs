//! Timers (failover 1.8, 1.16), learned intervals, and processes that sleep.

use super::*;

#[test]
fn a_silent_master_is_replaced_after_the_time_of_the_table() {
    let rows = [
        (V2, S, 3_609_375, 609_375),
        (V3, S, 3_609_375, 609_375),
        (V3, S / 10, 360_937, 60_937),
        (V2, 2 * S, 6_609_375, 609_375),
    ];
    for (version, interval, down_us, skew_us) in rows {
        let mut t = Test::started(instance(version, 100, interval));
        t.hear(2, 101);
        let last_advert = t.now;
        t.tick();
        assert_eq!(t.router.state(), State::Master);
        assert_eq!(t.now.saturating_since(last_advert).as_micros(), down_us, "{version:?} {interval:?}");

        let mut t = Test::started(instance(version, 100, interval));
        t.hear(2, 101);
        t.hear(2, 0);
        let stopped = t.now;
        t.tick();
        assert_eq!(t.now.saturating_since(stopped).as_micros(), skew_us, "{version:?} {interval:?}");
    }
}

#[test]
fn down_timer_adverts_replaces_the_three() {
    let t = Test::started(VrrpInstance { down_timer_adverts: 10, ..v2(100) });
    assert_eq!(t.timer(), 10 * S + SKEW_100);
}

#[test]
fn a_backup_of_version_3_learns_the_interval_and_forgets_it_as_master() {
    let mut t = Test::started(instance(V3, 100, S / 10));
    let slow = instance(V3, 101, 2 * S);
    t.hear_advert(2, &advert_of(&slow, 101));
    assert_eq!(t.timer(), 6 * S + 2 * SKEW_100, "its master is slower");
    t.hear_advert(2, &advert_of(&slow, 0));
    assert_eq!(t.timer(), 2 * SKEW_100);
    t.tick();
    assert_eq!(t.timer(), S / 10, "as Master its own interval counts");
    t.hear_advert(2, &advert_of(&slow, 101));
    assert_eq!(t.timer(), 6 * S + 2 * SKEW_100, "a Master that yields learns too");
}

#[test]
fn an_interval_of_an_advert_that_is_ignored_is_not_learned() {
    let mut t = Test::started(instance(V3, 100, S));
    t.hear_advert(2, &advert_of(&instance(V3, 99, 40 * S), 99));
    assert_eq!((t.timer(), t.router.master_interval), (DOWN_100, S));
}

#[test]
fn a_master_that_slept_steps_back_before_anything_else() {
    type Act = fn(&mut Test);
    let acts: [(&str, Act); 5] = [
        ("tick", |t| t.router.tick(t.now, &mut t.out)),
        ("lower advert", |t| t.hear(2, 50)),
        ("stop", |t| t.router.stop(t.now, Transition::Stop, &mut t.out)),
        ("priority", |t| t.router.set_contribution(t.now, -5, &mut t.out)),
        ("fault", |t| {
            let fault = Fault::Script("s".into());
            t.router.set_faults(t.now, [fault].into(), &mut t.out);
        }),
    ];
    for (name, act) in acts {
        let mut t = Test::master(v2(100));
        t.now += DOWN_100 + MS;
        act(&mut t);
        let did = t.did();
        assert_eq!(did[..3], ["no more announcing", "remove 1", "BACKUP"], "{name}");
        assert!(!did.iter().any(|d| d.starts_with("advert")), "{name}: it has nothing to say any more");
    }
}

#[test]
fn a_master_that_slept_for_less_than_others_wait_goes_on() {
    let mut t = Test::master(v2(100));
    t.now += DOWN_100;
    t.router.tick(t.now, &mut t.out);
    assert_eq!(t.did(), ["advert 100"]);
}

#[test]
fn a_sleeper_gets_its_role_back_if_nobody_took_it() {
    let mut t = Test::master(v2(100));
    t.now += 60 * S;
    t.router.tick(t.now, &mut t.out);
    assert_eq!(t.timer(), DOWN_100);
    t.tick();
    assert_eq!(t.router.state(), State::Master);
}

#[test]
fn a_backup_that_slept_listens_before_it_believes_that_the_master_is_gone() {
    let mut t = Test::started(v2(100));
    t.hear(2, 101);
    t.now += 60 * S;
    t.router.tick(t.now, &mut t.out);
    assert_eq!((t.router.state(), t.timer()), (State::Backup, S + SKEW_100));
    t.hear(2, 101);
    assert_eq!(t.timer(), DOWN_100);
}

#[test]
fn a_backup_whose_tick_is_a_little_late_takes_over() {
    let mut t = Test::started(instance(V3, 100, 10 * MS));
    t.now = t.router.deadline().unwrap() + 90 * MS;
    t.router.tick(t.now, &mut t.out);
    assert_eq!(t.router.state(), State::Master);
}
