use super::*;
use crate::lease::register::Register;

const TTL: Duration = Duration::from_millis(600);

fn lease(me: &str, peer: &str, incarnation: u64) -> Lease {
    Lease::new(
        LeaseConfig { me: me.into(), peer: peer.into(), incarnation, ttl: TTL, addresses_answer: TTL },
        Instant(0),
    )
}

/// The store, asked and answering at once.
#[derive(Default)]
struct Store(Register);

impl Store {
    fn record(&self) -> Option<Record> {
        self.0.value.as_ref().map(|(bytes, _)| Record::decode(bytes).unwrap())
    }

    fn serve(&mut self, lease: &mut Lease, now: Instant) {
        for _ in 0..8 {
            let Some(ask) = lease.poll(now) else { return };
            let answer = self.0.carry_out(&ask.op);
            lease.answer(now, ask.id, answer);
        }
        panic!("asks without end at {now:?}: {lease:?}");
    }
}

fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

/// Every 10 ms, from `from` to `to`.
fn run(store: &mut Store, leases: &mut [&mut Lease], from: u64, to: u64) {
    for t in (from..to).step_by(10) {
        for lease in leases.iter_mut() {
            store.serve(lease, ms(t));
        }
    }
}

fn held_by_a() -> (Store, Lease, Lease) {
    let mut store = Store::default();
    let (mut a, mut b) = (lease("a", "b", 1), lease("b", "a", 2));
    a.create(true, ms(0));
    a.set_hold(true, ms(0));
    run(&mut store, &mut [&mut a, &mut b], 0, 1000);
    assert!(matches!(a.held(ms(1000)), Held::Until(_)), "{a:?}");
    (store, a, b)
}

#[test]
fn nobody_makes_a_record_unless_told_to() {
    let mut store = Store::default();
    let mut a = lease("a", "b", 1);
    a.set_hold(true, ms(0));
    run(&mut store, &mut [&mut a], 0, 10_000);
    assert_eq!((store.record(), a.held(ms(10_000)), a.is_absent()), (None, Held::No, true));
    assert_eq!(a.can_take(ms(10_000)), Err(Obstacle::Absent));
}

#[test]
fn a_holder_that_renews_is_not_displaced() {
    let (mut store, mut a, mut b) = held_by_a();
    b.set_hold(true, ms(1000));
    run(&mut store, &mut [&mut a, &mut b], 1000, 20_000);
    assert!(matches!(a.held(ms(20_000)), Held::Until(_)));
    assert_eq!(b.held(ms(20_000)), Held::No);
    assert!(store.0.revision > 100, "renewed four times a term");
}

#[test]
fn a_silent_holder_loses_its_right_before_the_next_one_has_it() {
    let (mut store, a, mut b) = held_by_a();
    b.set_hold(true, ms(1000));
    let mut last_of_a = None;
    let mut first_of_b = None;
    for t in 1000..4000 {
        store.serve(&mut b, ms(t));
        if a.held(ms(t)) != Held::No {
            last_of_a = Some(t);
        }
        if b.held(ms(t)) != Held::No && first_of_b.is_none() {
            first_of_b = Some(t);
        }
    }
    let (last, first) = (last_of_a.unwrap(), first_of_b.unwrap());
    assert!(last < first && first - last < 400, "{last} {first}");
    assert!(first < 1000 + 600 + 600 / 4 + 75 + 150, "{first}");
}

#[test]
fn the_first_look_at_a_foreign_record_begins_the_wait() {
    let (mut store, _, _) = held_by_a();
    let mut late = Lease::new(
        LeaseConfig { me: "b".into(), peer: "a".into(), incarnation: 9, ttl: TTL, addresses_answer: TTL },
        ms(100_000),
    );
    late.set_hold(true, ms(100_000));
    run(&mut store, &mut [&mut late], 100_000, 100_670);
    assert_eq!(late.held(ms(100_670)), Held::No);
    run(&mut store, &mut [&mut late], 100_670, 101_000);
    assert_ne!(late.held(ms(101_000)), Held::No);
}

#[test]
fn a_home_alone_needs_no_store_and_its_peer_never_takes_its_place() {
    let (mut store, mut a, mut b) = held_by_a();
    a.exclude_peer(ms(1000));
    run(&mut store, &mut [&mut a], 1000, 1100);
    assert!(a.is_alone());
    assert_eq!(a.held(ms(900_000)), Held::Alone, "the store has not answered for minutes");
    b.set_hold(true, ms(1000));
    b.exclude_peer(ms(1000));
    run(&mut store, &mut [&mut b], 1000, 60_000);
    assert_eq!((b.held(ms(60_000)), b.can_take(ms(60_000))), (Held::No, Err(Obstacle::NotCurrent)));
    a.include_peer(ms(60_000));
    store.serve(&mut a, ms(60_000));
    assert!(matches!(a.held(ms(60_001)), Held::Until(_)), "from now on it can be displaced");
    run(&mut store, &mut [&mut b], 60_000, 62_000);
    assert_ne!(b.held(ms(62_000)), Held::No);
}

/// The answer to the swap that lets the peer count again is lost, or late: the peer may have seen it.
#[test]
fn a_home_is_not_alone_from_the_moment_that_it_asks_for_its_peer() {
    let (mut store, mut a, _) = held_by_a();
    a.exclude_peer(ms(1000));
    run(&mut store, &mut [&mut a], 1000, 1200);
    a.include_peer(ms(1200));
    let ask = a.poll(ms(1200)).expect("at once");
    let _ = store.0.carry_out(&ask.op);
    assert!(matches!(a.held(ms(1201)), Held::Until(_)), "{:?}", a.held(ms(1201)));
    assert_eq!(a.held(ms(9000)), Held::No);
    a.answer(ms(9000), ask.id, StoreAnswer::Unknown("no answer".into()));
    assert_eq!((a.held(ms(9000)), a.is_alone()), (Held::No, false));
    store.serve(&mut a, ms(9000));
    assert!(matches!(a.held(ms(9001)), Held::Until(_)), "read again, and renewed");
    assert!(store.record().unwrap().is_current("b"));
}

#[test]
fn a_swap_whose_answer_was_lost_counts_from_its_sending() {
    let (mut store, _, mut b) = held_by_a();
    b.set_hold(true, ms(1000));
    run(&mut store, &mut [&mut b], 1000, 1500);
    let at = (1500..).find(|t| b.can_take(ms(*t)).is_ok()).unwrap();
    let ask = (at..at + 200).find_map(|t| b.poll(ms(t)).map(|ask| (t, ask)));
    let (sent, ask) = ask.unwrap();
    assert!(matches!(ask.op, StoreOp::Swap { .. }), "{ask:?}");
    let _ = store.0.carry_out(&ask.op);
    b.answer(ms(sent + 200), ask.id, StoreAnswer::Unknown("timeout".into()));
    assert_eq!(b.held(ms(sent + 200)), Held::No, "nobody knows");
    let read = b.poll(ms(sent + 200)).unwrap();
    assert_eq!(read.op, StoreOp::Read);
    let answer = store.0.carry_out(&read.op);
    b.answer(ms(sent + 210), read.id, answer);
    assert_eq!(b.held(ms(sent + 210)), Held::Until(ms(sent + 525)));
}

#[test]
fn what_is_let_go_of_can_be_taken_at_once_by_whom_it_is_offered_to() {
    let (mut store, mut a, mut b) = held_by_a();
    a.release(true, ms(1000));
    assert_eq!(a.held(ms(1000)), Held::No, "at once");
    store.serve(&mut a, ms(1000));
    a.set_hold(true, ms(1001));
    run(&mut store, &mut [&mut a], 1001, 5000);
    assert!(matches!(a.can_take(ms(5000)), Err(Obstacle::OfferedUntil(..))));
    b.set_hold(true, ms(5000));
    store.serve(&mut b, ms(5200));
    assert!(matches!(b.held(ms(5200)), Held::Until(_)));
}

/// A store that has lost its data is no reason for anybody to become the home, and none to stop being it.
#[test]
fn a_record_that_vanished_is_nobodys() {
    let (mut store, mut a, mut b) = held_by_a();
    store.0.value = None;
    b.set_hold(true, ms(1000));
    run(&mut store, &mut [&mut a, &mut b], 1000, 30_000);
    assert_eq!((a.held(ms(30_000)), b.held(ms(30_000))), (Held::No, Held::No));
    a.create(true, ms(30_000));
    run(&mut store, &mut [&mut a, &mut b], 30_000, 31_000);
    let holders = [&a, &b].iter().filter(|l| l.held(ms(31_000)) != Held::No).count();
    assert_eq!(holders, 1, "when the nodes have met they make it again");
}

#[test]
fn a_daemon_that_starts_again_goes_on_at_once() {
    let (mut store, _, _) = held_by_a();
    let mut again = Lease::new(
        LeaseConfig { me: "a".into(), peer: "b".into(), incarnation: 77, ttl: TTL, addresses_answer: TTL },
        ms(1100),
    );
    again.set_hold(true, ms(1100));
    store.serve(&mut again, ms(1100));
    assert!(matches!(again.held(ms(1100)), Held::Until(_)));
}

#[test]
fn what_is_no_record_is_neither_taken_nor_overwritten() {
    let (mut store, mut a, _) = held_by_a();
    store.0.value = Some((b"something else".to_vec(), 999));
    a.exclude_peer(ms(1000));
    run(&mut store, &mut [&mut a], 1000, 5000);
    assert_eq!(store.0.value, Some((b"something else".to_vec(), 999)));
    assert!(a.trouble().unwrap().contains("not a lease"));
    assert_eq!(a.held(ms(5000)), Held::No);
}

/// From a backup that was made when both copies counted.
/// A daemon that starts again knows what the one before has seen.
#[test]
fn an_older_copy_of_the_record_proves_nothing_after_a_restart_either() {
    let (mut store, mut a, mut b) = held_by_a();
    let backup = store.0.value.clone();
    a.exclude_peer(ms(1000));
    run(&mut store, &mut [&mut a, &mut b], 1000, 2000);
    let memory = b.newest().unwrap();
    assert_eq!(memory.current, ["a"]);
    store.0.value = backup;
    for (remembers, obstacle) in [(true, Err(Obstacle::NotSeen)), (false, Ok(()))] {
        let mut next = lease("b", "a", 8);
        if remembers {
            next.recall(memory.changes);
        }
        run(&mut store, &mut [&mut next], 2000, 60_000);
        assert_eq!(next.can_take(ms(60_000)), obstacle, "remembers: {remembers}");
        // Beside the connected peer it is believed, and remembered from then on.
        next.allow_older(true);
        run(&mut store, &mut [&mut next], 60_000, 61_000);
        assert!(next.newest().unwrap().changes < memory.changes);
    }
}

#[test]
fn an_older_copy_of_the_record_proves_nothing() {
    let (mut store, mut a, mut b) = held_by_a();
    let backup = store.0.value.clone();
    a.exclude_peer(ms(1000));
    run(&mut store, &mut [&mut a, &mut b], 1000, 2000);
    store.0.value = backup;
    b.set_hold(true, ms(2000));
    run(&mut store, &mut [&mut b], 2000, 60_000);
    assert_eq!((b.held(ms(60_000)), b.can_take(ms(60_000))), (Held::No, Err(Obstacle::NotSeen)));
    assert!(b.trouble().unwrap().contains("older than it was"));
}

/// Both copies are good and the home is a: it believes what the store has, and what it writes then is newer to everybody.
#[test]
fn who_may_believe_an_older_record_makes_it_newer_than_every_other() {
    let (mut store, mut a, mut b) = held_by_a();
    let backup = store.0.value.clone();
    run(&mut store, &mut [&mut a, &mut b], 1000, 3000);
    let newest = store.record().unwrap().changes;
    store.0.value = backup;
    run(&mut store, &mut [&mut a, &mut b], 3000, 6000);
    assert!(a.is_put_back() && b.is_put_back(), "nobody has said that it may be believed");
    a.allow_older(true);
    run(&mut store, &mut [&mut a, &mut b], 6000, 7000);
    assert!(store.record().unwrap().changes > newest && matches!(a.held(ms(7000)), Held::Until(_)), "{a:?}");
    assert!(!b.is_put_back() && b.peer_holds(), "{b:?}");
}

/// A store that was put back counts its revisions anew, and comes to those that it had given before.
#[test]
fn a_swap_does_not_hit_another_record_of_the_same_revision() {
    let (mut store, mut a, mut b) = held_by_a();
    let (value, revision) = store.0.value.clone().unwrap();
    let mut other = Record::decode(&value).unwrap();
    (other.current, other.holder) = (vec!["b".into()], None);
    store.0.value = Some((other.encode(), revision));
    a.exclude_peer(ms(1000));
    run(&mut store, &mut [&mut a, &mut b], 1000, 5000);
    assert_eq!(store.record().unwrap().current, ["b"]);
    assert_eq!(a.held(ms(5000)), Held::No);
}

#[test]
fn what_an_earlier_daemon_held_does_not_keep_its_node_from_taking_it() {
    let (mut store, a, _) = held_by_a();
    let backup = store.0.value.clone();
    drop(a);
    let mut again = lease("a", "b", 77);
    again.set_hold(true, ms(1000));
    run(&mut store, &mut [&mut again], 1000, 2000);
    store.0.value = backup;
    again.allow_older(true);
    again.release(false, ms(2000));
    run(&mut store, &mut [&mut again], 2000, 3000);
    again.set_hold(true, ms(3000));
    run(&mut store, &mut [&mut again], 3000, 4000);
    assert!(matches!(again.held(ms(4000)), Held::Until(_)), "{again:?}");
}
