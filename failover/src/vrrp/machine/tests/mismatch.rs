//! Routers that disagree (failover 1.7): keepalived makes two masters of each of these.

use super::*;

/// The three measured traps and others: our configuration, and that of the other router.
fn traps() -> Vec<(&'static str, VrrpInstance, VrrpInstance, Reason)> {
    let pass = |text: &[u8; 8]| VrrpInstance { authentication: Authentication::Password(*text), ..v2(100) };
    let two = VrrpInstance { addresses: vec![virtual_address(VIP), virtual_address(node(101))], ..v2(100) };
    vec![
        ("one address more", v2(100), two.clone(), Reason::AddressCount),
        ("one address less", two, v2(100), Reason::AddressCount),
        ("a password on their side", v2(100), pass(b"1111\0\0\0\0"), Reason::AuthType),
        ("a password on our side", pass(b"1111\0\0\0\0"), v2(100), Reason::AuthType),
        ("another password", pass(b"1111\0\0\0\0"), pass(b"2222\0\0\0\0"), Reason::Password),
        ("a longer interval", v2(100), instance(V2, 100, 2 * S), Reason::Interval),
        ("a shorter interval", instance(V2, 100, 5 * S), v2(100), Reason::Interval),
        ("another version", v2(100), instance(V3, 100, S), Reason::Version),
    ]
}

#[test]
fn a_backup_stays_backup_whatever_the_other_disagrees_in_and_whatever_its_priority() {
    for (name, ours, theirs, reason) in traps() {
        for priority in [1, 100, 254] {
            let mut t = Test::started(ours.clone());
            t.did();
            let interval = theirs.advert_interval;
            let mut did = vec![];
            for _ in 0..20 {
                t.pass(interval);
                t.hear_advert(2, &advert_of(&theirs, priority));
                did.extend(t.did());
                assert_eq!(t.router.state(), State::Backup, "{name}, priority {priority}");
            }
            let raised = |kind| did.iter().filter(|d| **d == format!("Raised {kind:?}")).count();
            assert_eq!(raised(AlarmKind::Mismatch(reason)), 1, "{name}");
            assert_eq!(raised(AlarmKind::HeldByMismatch), 1, "{name}: {did:?}");
            let status = t.router.status();
            assert_eq!(status.counters.mismatched[&reason], 20);
            assert!(status.master.is_some_and(|m| !m.accepted && m.address == node(2)));
            assert_eq!(status.peer_heard, Some(t.now));
        }
    }
}

#[test]
fn a_backup_takes_over_when_the_router_that_disagrees_falls_silent() {
    for (name, ours, theirs, _) in traps() {
        let mut t = Test::started(ours);
        t.hear_advert(2, &advert_of(&theirs, 200));
        t.pass(40 * S);
        assert_eq!(t.router.state(), State::Master, "{name}");
    }
}

#[test]
fn a_master_yields_to_a_better_router_that_disagrees() {
    for (name, ours, theirs, _) in traps() {
        let mut t = Test::master(ours);
        t.hear_advert(2, &advert_of(&theirs, 99));
        assert_eq!(t.router.state(), State::Master, "{name}: it is lower");
        t.hear_advert(2, &advert_of(&theirs, 100));
        assert_eq!(t.router.state(), State::Backup, "{name}: equal, with the higher address");
        t.pass(theirs.advert_interval * 3);
        assert_eq!(t.router.state(), State::Backup, "{name}: it waits as long as the other needs");
    }
}

#[test]
fn priority_0_of_a_router_that_disagrees_is_not_believed() {
    for (name, ours, theirs, _) in traps() {
        let mut t = Test::started(ours.clone());
        t.hear(2, 200);
        let timer = t.router.timer;
        t.hear_advert(2, &advert_of(&theirs, 0));
        assert_eq!(t.router.timer, timer, "{name}");
        let mut t = Test::master(ours);
        t.hear_advert(2, &advert_of(&theirs, 0));
        assert!(!t.did().iter().any(|d| d.starts_with("advert")), "{name}");
    }
}

#[test]
fn an_alarm_is_raised_once_repeated_each_minute_and_cleared_when_its_cause_is_gone() {
    let (_, ours, theirs, reason) = traps().remove(0);
    let mut t = Test::started(ours);
    t.did();
    let mut did = vec![];
    for _ in 0..150 {
        t.hear_advert(2, &advert_of(&theirs, 200));
        t.pass(S);
        did.extend(t.did());
    }
    let kind = AlarmKind::Mismatch(reason);
    let of = |did: &[String], change: AlarmChange| {
        did.iter().filter(|d| **d == format!("{change:?} {kind:?}")).count()
    };
    assert_eq!((of(&did, AlarmChange::Raised), of(&did, AlarmChange::Continues)), (1, 2));
    let alarms = t.router.status().alarms;
    assert_eq!((alarms.len(), alarms[0].count, alarms[0].source), (2, 150, node(2)));
    t.pass(20 * S);
    assert_eq!(of(&t.did(), AlarmChange::Cleared), 1);
    assert_eq!(t.router.status().alarms, []);
}

#[test]
fn the_alarm_that_it_is_held_ends_with_the_first_advert_that_is_accepted() {
    let (_, ours, theirs, _) = traps().remove(4);
    let mut t = Test::started(ours);
    for _ in 0..10 {
        t.hear_advert(2, &advert_of(&theirs, 200));
        t.pass(S);
    }
    let held = |t: &Test| t.router.status().alarms.iter().any(|a| a.kind == AlarmKind::HeldByMismatch);
    assert!(held(&t), "somebody without our password silences this router, and it says so");
    t.hear(3, 200);
    assert!(!held(&t));
    // From now on the timer would have been started by adverts that are right.
    t.hear_advert(2, &advert_of(&theirs, 200));
    assert!(!held(&t));
}

#[test]
fn what_comes_from_beyond_the_segment_is_no_sign_of_life() {
    let mut t = Test::started(v2(100));
    let timer = t.router.timer;
    let (mut ip, payload) = packet(node(2), GROUP, &advert_of(&v2(200), 200));
    ip.ttl = 254;
    t.router.receive(t.now, &ip, &payload, &mut t.out);
    assert_eq!((t.router.timer, t.router.peer_heard()), (timer, None));
    assert_eq!(t.router.status().counters.dropped[&Reason::Ttl], 1);
}

#[test]
fn carp_with_our_number_changes_nothing() {
    let mut t = Test::started(v2(100));
    let timer = t.router.timer;
    let (mut ip, _) = packet(node(2), GROUP, &advert_of(&v2(200), 200));
    let mut carp = [0; 36];
    carp[..4].copy_from_slice(&[0x21, 51, 0, 7]);
    ip.total_bytes = 56;
    t.router.receive(t.now, &ip, &carp, &mut t.out);
    assert_eq!((t.router.timer, t.router.peer_heard()), (timer, None));
    assert_eq!(t.router.status().counters.dropped[&Reason::Carp], 1);
}
