use super::*;

#[test]
fn a_pair_finds_its_home_and_moves_it_when_that_is_killed() {
    let mut c = Cluster::new(1, None);
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
    assert!(took < Duration::from_millis(2_000), "{took:?}");
}

#[test]
fn a_home_that_is_cut_off_from_peer_and_store_falls_silent_and_is_replaced() {
    let mut c = Cluster::new(1, None);
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
        let o = run(seed, None);
        total.takeovers += o.takeovers;
        total.written += o.written;
        total.faults += o.faults;
    }
    assert!(total.takeovers > 600 && total.written > 3_000 && total.faults > 1_000, "{total:?}");
}
