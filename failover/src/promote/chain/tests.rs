use super::*;

fn step(name: &str, loss_rank: LossRank) -> StepPlan {
    StepPlan {
        name: name.into(),
        timeout: Duration::from_secs(5),
        retries: 1,
        look_every: Duration::ZERO,
        loss_rank,
    }
}

fn chain() -> Chain {
    Chain::new(vec![
        step("promote", LossRank::Second),
        step("mount", LossRank::Later),
        step("start", LossRank::Later),
        step("address", LossRank::First),
    ])
}

#[test]
fn what_an_earlier_daemon_has_left_is_ended() {
    let mut c = chain();
    let mut out = Vec::new();
    c.lose(at(1), &mut out);
    assert_eq!(answer(&mut c, at(1), out, |_, _| false), [3, 0, 2, 1].map(|i| (i, Verb::Kill)));
    assert_eq!(c.phase(), &Phase::Down);
}

fn at(s: u64) -> Instant {
    Instant(s * 1_000_000_000)
}

/// Answers everything, at one time, until nothing is asked any more; what was asked, in order.
fn answer(
    chain: &mut Chain,
    now: Instant,
    mut out: Vec<ChainAction>,
    mut fails: impl FnMut(usize, Verb) -> bool,
) -> Vec<(usize, Verb)> {
    let mut asked = Vec::new();
    let mut now = now;
    for _ in 0..200 {
        let Some(action) = (!out.is_empty()).then(|| out.remove(0)) else {
            let Some(later) = chain.deadline() else { break };
            now = later;
            chain.tick(now, &mut out);
            continue;
        };
        if let ChainAction::Run(a) = action {
            asked.push((a.step, a.verb));
            let result = if fails(a.step, a.verb) { Err("no".to_owned()) } else { Ok(()) };
            chain.done(now, a.key, result, &mut out);
        }
    }
    asked
}

fn up() -> Chain {
    let mut c = chain();
    let mut out = Vec::new();
    c.go_up(at(0), &mut out);
    assert_eq!(answer(&mut c, at(0), out, |_, _| false), [0, 1, 2, 3].map(|i| (i, Verb::Start)));
    assert_eq!((c.phase(), c.failure()), (&Phase::Up, None));
    c
}

#[test]
fn up_in_order_and_down_in_reverse() {
    let mut c = up();
    let mut out = Vec::new();
    c.go_down(at(1), &mut out);
    assert_eq!(answer(&mut c, at(1), out, |_, _| false), [3, 2, 1, 0].map(|i| (i, Verb::Stop)));
    assert_eq!(c.phase(), &Phase::Down);
    assert_eq!(c.times().len(), 4);
}

#[test]
fn a_start_that_fails_is_tried_again_and_then_undone_with_all_before_it() {
    let mut c = chain();
    let mut out = Vec::new();
    c.go_up(at(0), &mut out);
    let asked = answer(&mut c, at(0), out, |i, verb| i == 2 && verb == Verb::Start);
    let starts = [0, 1, 2, 2].map(|i| (i, Verb::Start));
    let stops = [2, 1, 0].map(|i| (i, Verb::Stop));
    assert_eq!(asked, [&starts[..], &stops[..]].concat());
    assert_eq!((c.phase(), c.failure()), (&Phase::Down, Some("start: no")));
}

#[test]
fn an_undo_that_fails_is_done_by_force() {
    let mut c = chain();
    let mut out = Vec::new();
    c.go_up(at(0), &mut out);
    let asked =
        answer(&mut c, at(0), out, |i, verb| i == 2 && verb == Verb::Start || i == 1 && verb == Verb::Stop);
    let tail: Vec<_> = asked.iter().skip_while(|(_, verb)| *verb != Verb::Kill).copied().collect();
    assert_eq!(
        tail,
        [(0, Verb::Kill), (1, Verb::Kill)],
        "the resource first, so that the mount can be ended"
    );
    assert_eq!((c.phase(), c.failure()), (&Phase::Down, Some("start: no")));
}

#[test]
fn what_does_not_stop_in_peace_keeps_the_service_where_it_is() {
    let mut c = up();
    let mut out = Vec::new();
    c.go_down(at(1), &mut out);
    let mut tries = 0;
    let asked = answer(&mut c, at(1), out, |i, verb| {
        let is_it = i == 1 && verb == Verb::Stop;
        tries += usize::from(is_it);
        is_it
    });
    assert_eq!(tries, 3, "mount was asked three times, and still runs");
    let again = [(1, Verb::Start), (2, Verb::Start), (3, Verb::Start)];
    assert_eq!(asked[asked.len() - 3..], again, "mount may end yet, whoever has given it up");
    assert_eq!((c.phase(), c.failure()), (&Phase::Up, Some("mount: no")));
}

#[test]
fn a_loss_ends_addresses_first_then_the_resource_then_the_rest_whatever_happens() {
    let mut c = up();
    let mut out = Vec::new();
    c.lose(at(1), &mut out);
    assert_eq!(answer(&mut c, at(1), out, |_, _| false), [3, 0, 2, 1].map(|i| (i, Verb::Kill)));
    assert_eq!(c.phase(), &Phase::Down);
}

#[test]
fn what_cannot_be_killed_leaves_the_chain_stuck_but_does_not_keep_the_rest() {
    let mut c = up();
    let mut out = Vec::new();
    c.lose(at(1), &mut out);
    let asked = answer(&mut c, at(1), out, |i, _| i == 2);
    assert!(asked.contains(&(1, Verb::Kill)));
    assert_eq!((c.phase(), c.failure()), (&Phase::Stuck, Some("start: no")));
    let mut out = Vec::new();
    c.go_down(at(100), &mut out);
    assert_eq!(answer(&mut c, at(100), out, |_, _| false), [(2, Verb::Stop)], "an operator tries again");
    assert_eq!(c.phase(), &Phase::Down);
}

#[test]
fn a_step_has_its_time_and_its_late_answer_counts_for_nothing() {
    let mut c = chain();
    let mut out = Vec::new();
    c.go_up(at(0), &mut out);
    let ChainAction::Run(first) = out.remove(0) else { panic!() };
    assert_eq!(c.deadline(), Some(at(5)));
    c.tick(at(5), &mut out);
    assert_eq!(out.remove(0), ChainAction::Abort(first));
    c.done(at(5), first.key, Ok(()), &mut out);
    assert!(out.is_empty());
    c.tick(at(6), &mut out);
    assert!(matches!(out[0], ChainAction::Run(a) if a.step == 0 && a.key != first.key), "tried again");
}

#[test]
fn a_loss_on_the_way_up_ends_what_is_being_started_as_well() {
    let mut c = chain();
    let mut out = Vec::new();
    c.go_up(at(0), &mut out);
    let ChainAction::Run(a) = out.remove(0) else { panic!() };
    c.done(at(0), a.key, Ok(()), &mut out);
    let ChainAction::Run(mount) = out.remove(0) else { panic!() };
    c.lose(at(1), &mut out);
    assert_eq!(out.remove(0), ChainAction::Abort(mount));
    assert_eq!(answer(&mut c, at(1), out, |_, _| false), [(0, Verb::Kill), (1, Verb::Kill)]);
    assert_eq!(c.phase(), &Phase::Down);
}

#[test]
fn a_peaceful_way_down_waits_for_what_is_being_started() {
    let mut c = chain();
    let mut out = Vec::new();
    c.go_up(at(0), &mut out);
    let ChainAction::Run(a) = out.remove(0) else { panic!() };
    c.go_down(at(1), &mut out);
    assert!(out.is_empty());
    c.done(at(2), a.key, Ok(()), &mut out);
    assert_eq!(answer(&mut c, at(2), out, |_, _| false), [(0, Verb::Stop)]);
    assert_eq!(c.phase(), &Phase::Down);
}

/// All but the first and the last are looked at, every two seconds.
fn watched() -> Chain {
    let plans = ["promote", "mount", "start", "address"].map(|name| StepPlan {
        look_every: Duration::from_secs(if matches!(name, "mount" | "start") { 2 } else { 0 }),
        ..step(name, LossRank::Later)
    });
    let mut c = Chain::new(plans.to_vec());
    let mut out = Vec::new();
    c.go_up(at(0), &mut out);
    let mut pending = out;
    while let Some(ChainAction::Run(a)) = (!pending.is_empty()).then(|| pending.remove(0)) {
        c.done(at(0), a.key, Ok(()), &mut pending);
    }
    assert_eq!(c.phase(), &Phase::Up);
    c.watch(true, at(0), &mut Vec::new());
    c
}

fn looks(c: &mut Chain, now: Instant) -> Vec<Attempt> {
    let mut out = Vec::new();
    c.tick(now, &mut out);
    let attempt = |a: &ChainAction| match a {
        ChainAction::Run(a) if a.verb == Verb::Look => *a,
        other => panic!("{other:?}"),
    };
    out.iter().map(attempt).collect()
}

#[test]
fn steps_are_looked_at_side_by_side_and_each_at_its_pace() {
    let mut c = watched();
    assert_eq!(c.deadline(), Some(at(2)));
    assert!(looks(&mut c, at(1)).is_empty());
    let first = looks(&mut c, at(2));
    assert_eq!(first.iter().map(|a| a.step).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(c.deadline(), Some(at(7)), "an answer is due within five seconds");
    c.done(at(3), first[1].key, Ok(()), &mut Vec::new());
    assert_eq!(
        looks(&mut c, at(5)).iter().map(|a| a.step).collect::<Vec<_>>(),
        [2],
        "the other one is not back"
    );
    assert_eq!(c.ailment(), None);
}

#[test]
fn the_lowest_of_what_failed_is_what_is_wrong() {
    let mut c = watched();
    let all = looks(&mut c, at(2));
    for (look, lowest) in [(all[1], "start: no"), (all[0], "mount: no")] {
        c.done(at(3), look.key, Err("no".into()), &mut Vec::new());
        assert_eq!(c.ailment().map(|a| a.text.as_str()), Some(lowest));
    }
    let mut out = Vec::new();
    c.restart(at(3), &mut out);
    assert_eq!(c.phase(), &Phase::Restarting);
    let down = [3, 2, 1].map(|i| (i, Verb::Stop));
    let up = [1, 2, 3].map(|i| (i, Verb::Start));
    assert_eq!(answer(&mut c, at(3), out, |_, _| false), [down, up].concat());
    assert_eq!((c.phase(), c.failure(), c.ailment()), (&Phase::Up, None, None));
}

#[test]
fn what_does_not_stop_to_be_started_again_is_ended_by_force_with_all_the_rest() {
    let mut c = watched();
    let look = looks(&mut c, at(2))[0];
    let mut out = Vec::new();
    c.done(at(3), look.key, Err("no".into()), &mut out);
    c.restart(at(3), &mut out);
    out.retain(|a| matches!(a, ChainAction::Run(_)));
    let asked = answer(&mut c, at(3), out, |i, verb| i == 2 && verb == Verb::Stop);
    let killed: Vec<usize> = asked.iter().filter(|(_, verb)| *verb == Verb::Kill).map(|(i, _)| *i).collect();
    assert_eq!(killed, [2, 1, 0]);
    assert_eq!((c.phase(), c.failure()), (&Phase::Down, Some("start: no")));
}

#[test]
fn looks_end_with_what_they_look_at() {
    for by_loss in [true, false] {
        let mut c = watched();
        let all = looks(&mut c, at(2));
        let mut out = Vec::new();
        if by_loss {
            c.lose(at(3), &mut out)
        } else {
            c.go_down(at(3), &mut out)
        }
        assert_eq!(out[..2], [ChainAction::Abort(all[0]), ChainAction::Abort(all[1])]);
        c.done(at(3), all[0].key, Err("late".into()), &mut out);
        assert_eq!(c.ailment(), None);
        c.watch(true, at(3), &mut out);
        let runs: Vec<_> = out.into_iter().filter(|a| matches!(a, ChainAction::Run(_))).collect();
        let asked = answer(&mut c, at(3), runs, |_, _| false);
        assert!(asked.iter().all(|(_, verb)| *verb != Verb::Look), "nobody looks at what goes: {asked:?}");
    }
}

#[test]
fn an_end_in_peace_comes_before_a_restart_that_is_under_way() {
    let mut c = watched();
    let look = looks(&mut c, at(2))[1];
    let mut out = Vec::new();
    c.done(at(3), look.key, Err("no".into()), &mut out);
    c.restart(at(3), &mut out);
    c.go_down(at(3), &mut out);
    out.retain(|a| matches!(a, ChainAction::Run(_)));
    let asked = answer(&mut c, at(3), out, |_, _| false);
    assert!(asked.iter().all(|(_, verb)| *verb == Verb::Stop), "{asked:?}");
    assert_eq!(c.phase(), &Phase::Down);
}
