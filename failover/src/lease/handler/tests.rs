use super::*;
use crate::lease::record::Holder;
use crate::lease::register::Register;

const TTL: Duration = Duration::from_millis(600);
const TIMEOUT: Duration = Duration::from_secs(5);

fn ms(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

fn settings(duty: Duty, me: &str) -> HandlerSettings {
    let peer = if me == "a" { "b" } else { "a" };
    HandlerSettings {
        duty,
        me: me.into(),
        peer: peer.into(),
        is_synchronous: true,
        timeout: TIMEOUT,
        changes_seen: 0,
    }
}

fn lost(role: Role) -> VolumeLook {
    VolumeLook {
        conn: ConnState::WFConnection,
        role,
        peer_role: Role::Unknown,
        disk: DiskState::UpToDate,
        peer_disk: DiskState::DUnknown,
    }
}

fn equal(role: Role, peer_role: Role) -> VolumeLook {
    VolumeLook {
        conn: ConnState::Connected,
        role,
        peer_role,
        disk: DiskState::UpToDate,
        peer_disk: DiskState::UpToDate,
    }
}

fn record(current: &[&str]) -> Record {
    Record { changes: 10, ..Record::new(None, current.iter().map(|n| (*n).to_owned()).collect()) }
}

fn held(by: &str, current: &[&str]) -> Record {
    let holder =
        Holder { node: by.into(), incarnation: 7, ttl_ms: TTL.as_millis() as u64, addresses_ms: None };
    Record { holder: Some(holder), ..record(current) }
}

fn store(record: Option<Record>) -> Register {
    let mut register = Register::default();
    if let Some(r) = record {
        register.write(r.encode());
    }
    register
}

fn stored(register: &Register) -> Option<Record> {
    register.value.as_ref().map(|(bytes, _)| Record::decode(bytes).unwrap())
}

/// Runs it to its end; `meanwhile` happens before each answer of the store. The verdict, and when it came.
fn run_with(
    cfg: HandlerSettings,
    looks: &[VolumeLook],
    register: &mut Register,
    mut meanwhile: impl FnMut(&mut Register, Instant),
) -> (Verdict, Instant) {
    let mut now = ms(1_000);
    let mut handler = Handler::new(cfg, now);
    for _ in 0..1_000 {
        match handler.turn(now) {
            Turn::Look => handler.looked(Ok(looks.to_vec())),
            Turn::Ask(op, limit) => {
                assert!(!limit.is_zero());
                now += Duration::from_millis(5);
                meanwhile(register, now);
                let answer = register.carry_out(&op);
                handler.answered(now, answer);
            }
            Turn::Wait(until) => {
                assert!(until > now, "it waits for something to come");
                now = until;
            }
            Turn::End(verdict) => return (verdict, now),
        }
    }
    panic!("no end");
}

fn run(cfg: HandlerSettings, look: VolumeLook, register: &mut Register) -> (u8, Instant) {
    let (verdict, at) = run_with(cfg, &[look], register, |_, _| {});
    (verdict.code, at)
}

#[test]
fn a_peer_is_struck_out_and_finds_itself_struck_out() {
    for role in [Role::Primary, Role::Secondary] {
        let mut register = store(Some(record(&["a", "b"])));
        assert_eq!(run(settings(Duty::Fence, "a"), lost(role), &mut register).0, PEER_FENCED);
        let left = stored(&register).unwrap();
        assert!(left.is_only_current("a") && left.holder.is_none() && left.changes == 11, "{left:?}");
        assert_eq!(run(settings(Duty::Fence, "b"), lost(role), &mut register).0, PEER_IS_PRIMARY);
        assert_eq!(stored(&register), Some(left), "nobody strikes out who struck him out");
    }
}

/// unfence-peer that has read before must not put the peer back behind it.
#[test]
fn a_peer_that_is_struck_out_already_is_struck_out_anew() {
    let mut register = store(Some(record(&["a"])));
    let before = register.revision;
    assert_eq!(run(settings(Duty::Fence, "a"), lost(Role::Primary), &mut register).0, PEER_FENCED);
    assert!(register.revision > before);
}

#[test]
fn nobody_is_fenced_by_a_record_that_is_not_there_or_older_than_what_was_seen_or_none() {
    let fence = || settings(Duty::Fence, "a");
    let mut absent = store(None);
    assert_eq!(run(fence(), lost(Role::Primary), &mut absent).0, BROKEN);
    assert_eq!(stored(&absent), None);
    let mut older = store(Some(record(&["a", "b"])));
    let remembers = HandlerSettings { changes_seen: 11, ..fence() };
    assert_eq!(run(remembers, lost(Role::Primary), &mut older).0, BROKEN);
    assert_eq!(stored(&older), Some(record(&["a", "b"])));
    let mut spoilt = Register::default();
    spoilt.write(b"{}".to_vec());
    assert_eq!(run(fence(), lost(Role::Primary), &mut spoilt).0, BROKEN);
}

#[test]
fn a_holder_that_died_is_struck_out_when_its_term_is_over_and_an_eighth() {
    for current in [&["a", "b"][..], &["b", "a"]] {
        let mut register = store(Some(held("b", current)));
        let (code, at) = run(settings(Duty::Fence, "a"), lost(Role::Secondary), &mut register);
        assert_eq!(code, PEER_FENCED);
        // Seen first after 5 ms.
        assert!(at >= ms(1_005) + TTL + TTL / 8, "{at:?}");
        assert!(stored(&register).unwrap().is_only_current("a"));
    }
}

#[test]
fn a_holder_that_renews_is_alive() {
    let mut register = store(Some(held("b", &["a", "b"])));
    let (verdict, _) =
        run_with(settings(Duty::Fence, "a"), &[lost(Role::Secondary)], &mut register, |register, _| {
            let mut record = stored(register).unwrap();
            record.changes += 1;
            register.write(record.encode());
        });
    assert_eq!(verdict.code, PEER_IS_PRIMARY, "{}", verdict.text);
    assert!(stored(&register).unwrap().is_current("b"));
}

/// It was sent before its home died and came after it.
#[test]
fn one_late_renewal_begins_the_time_anew() {
    let mut register = store(Some(held("b", &["a", "b"])));
    let mut came_at = None;
    let (verdict, at) =
        run_with(settings(Duty::Fence, "a"), &[lost(Role::Secondary)], &mut register, |register, now| {
            if now > ms(1_200) && came_at.is_none() {
                came_at = Some(now);
                register.write(Record { changes: 11, ..stored(register).unwrap() }.encode());
            }
        });
    assert_eq!(verdict.code, PEER_FENCED, "{}", verdict.text);
    assert!(at >= came_at.unwrap() + TTL + TTL / 8);
}

#[test]
fn a_holder_that_strikes_this_node_out_meanwhile_has_gone_on() {
    let mut register = store(Some(held("b", &["a", "b"])));
    let (verdict, _) =
        run_with(settings(Duty::Fence, "a"), &[lost(Role::Primary)], &mut register, |register, now| {
            if now > ms(1_300) {
                register.write(Record { changes: 11, ..held("b", &["b"]) }.encode());
            }
        });
    assert_eq!(verdict.code, PEER_IS_PRIMARY, "{}", verdict.text);
}

#[test]
fn a_term_that_is_too_long_to_wait_for_is_not_waited_for() {
    let mut long = held("b", &["a", "b"]);
    long.holder.as_mut().unwrap().ttl_ms = 5_000;
    let mut register = store(Some(long.clone()));
    let (code, at) = run(settings(Duty::Fence, "a"), lost(Role::Secondary), &mut register);
    assert_eq!((code, at), (BROKEN, ms(1_005)));
    assert_eq!(stored(&register), Some(long));
}

#[test]
fn what_the_kernel_shows_may_forbid_it() {
    let fence = || settings(Duty::Fence, "a");
    let both = || store(Some(record(&["a", "b"])));
    let primary = lost(Role::Primary);
    for look in [
        VolumeLook { conn: ConnState::WFReportParams, ..primary },
        VolumeLook { conn: ConnState::Connected, ..primary },
        VolumeLook { disk: DiskState::Inconsistent, ..primary },
        VolumeLook { disk: DiskState::Outdated, ..lost(Role::Secondary) },
        VolumeLook { disk: DiskState::Diskless, ..primary },
    ] {
        let mut register = both();
        assert_eq!(run(fence(), look, &mut register).0, BROKEN, "{look:?}");
        let second = run_with(fence(), &[primary, look], &mut register, |_, _| {}).0;
        assert_eq!(second.code, BROKEN, "the second volume counts as well: {look:?}");
        assert_eq!(stored(&register), stored(&both()));
    }
    let consistent = VolumeLook { disk: DiskState::Consistent, ..lost(Role::Secondary) };
    assert_eq!(run(fence(), consistent, &mut both()).0, PEER_FENCED, "a node that has just started");
    let lossy = || HandlerSettings { is_synchronous: false, ..fence() };
    assert_eq!(run(lossy(), lost(Role::Secondary), &mut both()).0, BROKEN);
    assert_eq!(run(lossy(), primary, &mut both()).0, PEER_FENCED);
    assert_eq!(run_with(fence(), &[], &mut both(), |_, _| {}).0.code, BROKEN);
    let mut handler = Handler::new(fence(), ms(0));
    assert_eq!(handler.turn(ms(0)), Turn::Look);
    handler.looked(Err("no such file".into()));
    assert!(matches!(handler.turn(ms(1)), Turn::End(Verdict { code: BROKEN, .. })));
}

#[test]
fn a_primary_that_lost_its_peer_writes_nothing_down() {
    for (role, remembered) in
        [(Role::Primary, None), (Role::Secondary, Some(Memory::new(11, vec!["a".into()])))]
    {
        let mut register = store(Some(record(&["a", "b"])));
        let mut handler = Handler::new(settings(Duty::Fence, "a"), ms(0));
        let code = loop {
            match handler.turn(ms(1)) {
                Turn::Look => handler.looked(Ok(vec![lost(role)])),
                Turn::Ask(op, _) => handler.answered(ms(1), register.carry_out(&op)),
                Turn::Wait(_) => panic!("nothing is to be waited for"),
                Turn::End(verdict) => break verdict.code,
            }
        };
        assert_eq!((code, handler.newest().cloned()), (PEER_FENCED, remembered));
    }
}

#[test]
fn a_store_that_does_not_answer_leaves_everything_as_it_is() {
    for answer in [StoreAnswer::Failed("down".into()), StoreAnswer::Unknown("lost".into())] {
        for duty in [Duty::Fence, Duty::Unfence] {
            let mut now = ms(0);
            let mut handler = Handler::new(settings(duty, "a"), now);
            let verdict = loop {
                match handler.turn(now) {
                    Turn::Look => handler.looked(Ok(vec![lost(Role::Primary)])),
                    Turn::Ask(_, limit) => {
                        now += limit.min(Duration::from_millis(900));
                        handler.answered(now, answer.clone());
                    }
                    Turn::Wait(until) => now = until,
                    Turn::End(verdict) => break verdict,
                }
            };
            assert_eq!((verdict.code, now), (BROKEN, ms(5_000)), "{duty:?}: {}", verdict.text);
        }
    }
}

#[test]
fn a_change_whose_answer_was_lost_is_made_again() {
    let mut register = store(Some(record(&["a", "b"])));
    let mut handler = Handler::new(settings(Duty::Fence, "a"), ms(0));
    let (mut now, mut swaps) = (ms(0), 0);
    let verdict = loop {
        match handler.turn(now) {
            Turn::Look => handler.looked(Ok(vec![lost(Role::Primary)])),
            Turn::Ask(op, _) => {
                now += Duration::from_millis(5);
                let answer = register.carry_out(&op);
                let is_swap = matches!(op, StoreOp::Swap { .. });
                swaps += u32::from(is_swap);
                let is_lost = is_swap && swaps == 1;
                handler.answered(now, if is_lost { StoreAnswer::Unknown("lost".into()) } else { answer });
            }
            Turn::Wait(until) => now = until,
            Turn::End(verdict) => break verdict,
        }
    };
    assert_eq!(verdict.code, PEER_FENCED);
    assert_eq!(stored(&register).unwrap().changes, 12, "twice, as nobody knew of the first time");
}

#[test]
fn the_peer_counts_again_when_both_are_connected_and_good() {
    let mut register = store(Some(record(&["a"])));
    let look = equal(Role::Primary, Role::Secondary);
    assert_eq!(run(settings(Duty::Unfence, "a"), look, &mut register).0, DONE);
    assert_eq!(stored(&register).unwrap().current, ["a", "b"]);
    let before = register.revision;
    assert_eq!(run(settings(Duty::Unfence, "b"), lost(Role::Secondary), &mut register).0, DONE);
    assert_eq!(register.revision, before, "nothing is to be done");
    for look in [
        lost(Role::Primary),
        VolumeLook { conn: ConnState::SyncSource, ..look },
        VolumeLook { peer_disk: DiskState::Inconsistent, ..look },
        VolumeLook { disk: DiskState::Inconsistent, ..look },
        VolumeLook { peer_role: Role::Primary, ..look },
    ] {
        let mut register = store(Some(record(&["a"])));
        assert_eq!(run(settings(Duty::Unfence, "a"), look, &mut register).0, BROKEN, "{look:?}");
        assert_eq!(stored(&register), Some(record(&["a"])));
    }
}

#[test]
fn a_node_that_was_struck_out_does_not_put_itself_back() {
    let mut register = store(Some(record(&["b"])));
    let look = equal(Role::Secondary, Role::Primary);
    assert_eq!(run(settings(Duty::Unfence, "a"), look, &mut register).0, BROKEN);
    assert_eq!(stored(&register), Some(record(&["b"])));
}

#[test]
fn a_record_is_made_by_the_primary_or_without_one() {
    for (role, peer_role, code) in [
        (Role::Primary, Role::Secondary, DONE),
        (Role::Secondary, Role::Secondary, DONE),
        (Role::Secondary, Role::Primary, BROKEN),
    ] {
        for found in [None, Some(record(&["a", "b"]))] {
            let is_absent = found.is_none();
            let mut register = store(found);
            let cfg = HandlerSettings { changes_seen: 20, ..settings(Duty::Unfence, "a") };
            assert_eq!(
                run(cfg, equal(role, peer_role), &mut register).0,
                code,
                "{role}, absent: {is_absent}"
            );
            let made = stored(&register).filter(|_| code == DONE);
            assert!(made.is_none_or(|r| r.changes == 21 && r.current == ["a", "b"]));
        }
    }
}

#[test]
fn what_was_read_before_a_fence_is_not_the_base_of_a_change_behind_it() {
    let mut register = store(Some(record(&["a"])));
    let mut unfence = Handler::new(settings(Duty::Unfence, "a"), ms(0));
    let Turn::Ask(read, _) = unfence.turn(ms(0)) else { panic!() };
    unfence.answered(ms(1), register.carry_out(&read));
    assert_eq!(unfence.turn(ms(1)), Turn::Look);
    unfence.looked(Ok(vec![equal(Role::Primary, Role::Secondary)]));
    let Turn::Ask(swap, _) = unfence.turn(ms(2)) else { panic!() };
    assert_eq!(run(settings(Duty::Fence, "a"), lost(Role::Primary), &mut register).0, PEER_FENCED);
    unfence.answered(ms(3), register.carry_out(&swap));
    assert_eq!(unfence.turn(ms(3)), Turn::Look, "it looks again");
    unfence.looked(Ok(vec![lost(Role::Primary)]));
    assert!(matches!(unfence.turn(ms(4)), Turn::End(Verdict { code: BROKEN, .. })));
    assert!(stored(&register).unwrap().is_only_current("a"));
}
