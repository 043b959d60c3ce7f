use super::*;

#[test]
fn a_pair_finds_its_home_and_moves_it_when_that_is_killed() {
    let mut c = Cluster::new(1, None, Faults::Usual);
    assert!(c.run_until(Duration::from_secs(10), |c| c.home().is_some()), "a first home");
    let first = c.home().expect("just seen");
    for _ in 0..50 {
        c.client_writes();
        c.run_for(Duration::from_millis(20));
    }
    assert!(c.written() > 40, "{}", c.written());
    c.kill(first, true);
    let killed = c.w.now;
    let moved = c.run_until(Duration::from_secs(10), |c| c.home() == Some(1 - first));
    assert!(moved, "the other one takes over");
    let took = c.w.now.saturating_since(killed);
    // Nobody takes it whose routers hear another Master.
    let silent_after = c.router_plan.interval * 4;
    assert!(took < Duration::from_millis(1_000) + silent_after, "{took:?}");
}

#[test]
fn with_gates_the_address_moves_within_a_second_when_a_daemon_is_killed_and_its_machine_goes_on() {
    let mut seen = 0;
    for seed in 0..40 {
        let mut c = Cluster::new(seed, None, Faults::Usual);
        let slow_adverts = c.router_plan.interval > Duration::from_millis(100);
        if slow_adverts || c.sides.iter().any(|s| s.gate.is_none()) {
            continue;
        }
        seen += 1;
        assert!(c.run_until(Duration::from_secs(10), Cluster::is_at_rest), "a first home");
        c.run_for(Duration::from_secs(1));
        let first = c.home().expect("it is at rest");
        c.kill(first, false);
        let moved = |c: &Cluster| c.serves(1 - first) && c.has_address(1 - first, BOUND);
        assert!(c.run_until(Duration::from_secs(1), moved), "seed {seed}: {}", c.store.text());
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn a_home_that_is_cut_off_from_peer_and_store_falls_silent_and_is_replaced() {
    let mut c = Cluster::new(1, None, Faults::Usual);
    assert!(c.run_until(Duration::from_secs(10), |c| c.home().is_some()), "a first home");
    let first = c.home().expect("just seen");
    c.run_for(Duration::from_secs(1));
    // Their clients' segment stays whole: each hears what the other one says there.
    c.w.cut(true);
    c.cut_from_store(first, true);
    let replaced = c.run_until(Duration::from_secs(20), |c| {
        c.serves(1 - first) && c.has_address(1 - first, BOUND) && !c.is_router_master(first, BOUND)
    });
    assert!(replaced, "the other one takes over");
}

#[test]
fn schedules_hold() {
    let mut total = Outcome::default();
    for seed in 0..300 {
        let o = run(seed, None, Faults::Usual);
        total.takeovers += o.takeovers;
        total.written += o.written;
        total.faults += o.faults;
    }
    assert!(total.takeovers > 600 && total.written > 3_000 && total.faults > 1_000, "{total:?}");
}

#[test]
fn an_operators_word_to_try_again_ends_what_was_stuck_and_lets_it_come_back() {
    let mut c = Cluster::new(2, None, Faults::Usual);
    assert!(c.run_until(Duration::from_secs(10), |c| c.home().is_some()), "a first home");
    let first = c.home().expect("just seen");
    c.run_for(Duration::from_secs(1));
    c.failing_kills = Some(1);
    let id = c.w.command(first, Command::Secondary { open: 0, force: true });
    c.sides[first].by_hand = Some((id, c.w.now));
    let is_stuck = |c: &Cluster| c.sides[first].service.as_ref().is_some_and(|s| s.state() == &State::Stuck);
    assert!(c.run_until(Duration::from_secs(60), is_stuck), "what cannot be killed is stuck");
    c.failing_kills = None;
    c.order(first, Order::Clear);
    c.run_for(Duration::from_secs(2));
    let status = c.sides[first].service.as_ref().expect("it runs").status(c.w.now);
    assert!(status.state != "Stuck" && !status.released, "{status:?}");
}

#[test]
fn a_home_goes_on_when_the_store_is_put_back_and_its_peer_can_take_its_place_again() {
    for seed in 0..20 {
        let mut c = Cluster::new(seed, None, Faults::Usual);
        assert!(c.run_until(Duration::from_secs(10), |c| c.home().is_some()), "a first home");
        c.run_for(Duration::from_secs(5));
        c.restore_store(&mut Rng::new(seed));
        c.run_for(Duration::from_secs(5));
        assert!(c.run_until(Duration::from_secs(60), Cluster::is_at_rest), "seed {seed}: {}", c.store.text());
        let home = c.home().expect("it is at rest");
        c.kill(home, true);
        let taken =
            c.run_until(Duration::from_secs(20), |c| c.home() == Some(1 - home) && c.serves(1 - home));
        assert!(taken, "seed {seed}: {}", c.store.text());
    }
}
