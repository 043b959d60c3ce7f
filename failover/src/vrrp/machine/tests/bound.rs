//! Routers whose role follows that of a service (failover 8.4, 8.5).

use super::*;

const GRANTED: [&str; 4] = ["advert 100", "add 1", "announce", "MASTER"];

fn granted() -> Test {
    let mut t = Test::bound(v2(100));
    t.router.grant(t.now, &mut t.out).unwrap();
    t.out.clear();
    t
}

#[test]
fn neither_start_nor_priority_255_makes_a_bound_router_master() {
    let mut t = Test::bound(VrrpInstance { starts_as_master: true, ..v2(255) });
    assert_eq!(t.did(), ["remove 1", "BACKUP"]);
    t.pass(60 * S);
    assert_eq!(t.router.state(), State::Backup);
}

#[test]
fn a_bound_router_says_once_that_no_master_is_there_and_stays_backup() {
    let mut t = Test::bound(v2(100));
    t.did();
    t.tick();
    assert_eq!((t.now, t.did()), (at(DOWN_100), vec!["silent since None".to_owned()]));
    assert!(t.router.is_peer_silent());
    assert_eq!(t.router.deadline(), None);
    t.hear(2, 100);
    assert!(!t.router.is_peer_silent());
    let heard = t.now;
    t.tick();
    assert_eq!(t.did(), [format!("silent since {:?}", Some(heard))]);
    assert_eq!(t.router.state(), State::Backup);
}

#[test]
fn the_last_words_of_a_master_make_it_silent_after_the_skew() {
    let mut t = Test::bound(v2(100));
    t.hear(2, 101);
    let heard = t.now;
    t.pass(S);
    t.hear(2, 0);
    t.did();
    t.pass(SKEW_100);
    assert_eq!(t.did(), [format!("silent since {:?}", Some(heard))]);
    assert_eq!(t.router.peer_heard(), Some(heard), "a word of farewell is no sign of life");
}

#[test]
fn any_living_master_is_heard_also_one_of_a_lower_priority() {
    let mut t = Test::bound(v2(100));
    for _ in 0..10 {
        t.pass(S);
        t.hear(2, 1);
    }
    assert_eq!((t.router.is_peer_silent(), t.timer()), (false, DOWN_100));
}

#[test]
fn a_grant_makes_it_master_at_once_and_only_once() {
    let mut t = Test::bound(v2(100));
    t.did();
    t.router.grant(t.now, &mut t.out).unwrap();
    assert_eq!(t.did(), GRANTED);
    t.router.grant(t.now, &mut t.out).unwrap();
    assert_eq!(t.did(), Vec::<String>::new());
    t.pass(S);
    assert_eq!(t.did(), ["advert 100"]);
}

#[test]
fn a_grant_comes_before_the_silence_if_the_service_knows_better() {
    let mut t = Test::bound(v2(100));
    t.hear(2, 101);
    t.router.grant(t.now, &mut t.out).unwrap();
    assert_eq!(t.router.state(), State::Master);
}

#[test]
fn what_is_revoked_goes_before_the_others_are_told() {
    let mut t = granted();
    t.router.revoke(t.now, &mut t.out).unwrap();
    assert_eq!(t.did(), ["no more announcing", "remove 1", "advert 0", "BACKUP"]);
    assert_eq!(t.timer(), DOWN_100);
    t.router.revoke(t.now, &mut t.out).unwrap();
    assert_eq!(t.did(), Vec::<String>::new());
}

#[test]
fn a_bound_master_keeps_its_role_against_better_adverts_and_names_their_sender() {
    let mut t = granted();
    for _ in 0..50 {
        t.hear(7, 255);
        t.pass(S);
    }
    assert_eq!(t.router.state(), State::Master);
    let did = t.did();
    assert_eq!(did.iter().filter(|d| *d == "Raised Stranger").count(), 1);
    assert_eq!(did.iter().filter(|d| *d == "advert 100").count(), 50, "no more and no less than without it");
    let alarm = t.router.status().alarms.remove(0);
    assert_eq!((alarm.kind, alarm.source), (AlarmKind::Stranger, node(7)));
    assert!(alarm.text.contains("10.77.0.7"), "{}", alarm.text);
}

#[test]
fn a_bound_master_names_a_lower_one_too_and_answers_it() {
    let mut t = granted();
    t.hear(7, 50);
    assert_eq!(t.did(), ["Raised Stranger", "advert 100", "announce again", "MASTER_RX_LOWER_PRI"]);
}

#[test]
fn a_forged_advert_that_is_not_even_right_does_not_move_a_bound_master() {
    let mut t = granted();
    let theirs = VrrpInstance { authentication: Authentication::Password([7; 8]), ..v2(255) };
    t.hear_advert(7, &advert_of(&theirs, 255));
    assert_eq!(t.router.state(), State::Master);
    assert_eq!(t.did(), ["Raised Mismatch(AuthType)", "Raised Stranger"]);
}

#[test]
fn a_fault_takes_the_role_and_the_service_is_told() {
    let mut t = granted();
    t.router.set_faults(t.now, [Fault::Interface("eth0".into())].into(), &mut t.out);
    assert_eq!(t.did(), ["advert 0", "no more announcing", "remove 1", "FAULT", "role lost: Fault"]);
    let refused = t.router.grant(t.now, &mut t.out).unwrap_err();
    assert_eq!(refused.to_string(), "vrrp_instance VI_1: it cannot become master: interface eth0 is down");
    t.router.set_faults(t.now, [].into(), &mut t.out);
    t.pass(60 * S);
    assert_eq!(t.router.state(), State::Backup, "the role does not come back by itself");
}

#[test]
fn a_bound_master_that_slept_tells_its_service() {
    let mut t = granted();
    t.now += 60 * S;
    t.router.tick(t.now, &mut t.out);
    assert_eq!(t.did(), ["no more announcing", "remove 1", "BACKUP", "role lost: Slept"]);
}

#[test]
fn a_bound_master_that_is_stopped_tells_its_service() {
    let mut t = granted();
    t.router.stop(t.now, Transition::Stop, &mut t.out);
    assert_eq!(t.did(), ["advert 0", "no more announcing", "remove 1", "role lost: Stopped", "STOP"]);
    assert_eq!(t.router.grant(t.now, &mut t.out), Err(BindingError::NotRunning("VI_1".into())));
}

#[test]
fn a_free_router_takes_no_word_of_a_service() {
    let mut t = Test::started(v2(100));
    assert_eq!(t.router.grant(t.now, &mut t.out), Err(BindingError::Free("VI_1".into())));
    assert_eq!(t.router.revoke(t.now, &mut t.out), Err(BindingError::Free("VI_1".into())));
}

#[test]
fn a_bound_master_that_is_not_renewed_ends_with_its_addresses_and_says_so() {
    let mut t = granted();
    t.router.keep_until(t.now + 2 * S);
    t.pass(S);
    t.router.keep_until(t.now + 2 * S);
    // An earlier word that was late changes nothing.
    t.router.keep_until(t.now);
    t.pass(S);
    assert_eq!(t.did(), ["advert 100", "advert 100"]);
    t.pass(S);
    assert_eq!(t.router.state(), State::Backup);
    assert_eq!(t.did(), ["no more announcing", "remove 1", "advert 0", "BACKUP", "role lost: NotRenewed"]);
    // The next grant begins anew.
    t.router.grant(t.now, &mut t.out).unwrap();
    t.pass(3 * S);
    assert_eq!(t.router.state(), State::Master);
}
