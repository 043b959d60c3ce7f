//! Two and three nodes on a segment without faults: the times of failover 1.16, and traps from both sides at once.

use model::failover::config::{Authentication, FailoverConfig, Preempt, VrrpInstance, VrrpVersion};
use model::time::Duration;

use super::super::super::lab::{Lab, MS, S, config, instance, node, virtual_address};
use super::super::super::{Action, State};

const V2: VrrpVersion = VrrpVersion::V2;
const V3: VrrpVersion = VrrpVersion::V3;

fn pair(version: VrrpVersion, interval: Duration) -> Vec<FailoverConfig> {
    [101, 100].map(|priority| config(vec![instance(version, priority, interval)])).to_vec()
}

/// Both run, and node 0 is Master.
fn running(configs: Vec<FailoverConfig>) -> Lab {
    let mut lab = Lab::new(configs, &[]);
    for i in 0..lab.nodes.len() {
        lab.start(i);
    }
    lab.run(10 * S);
    assert_eq!(lab.masters(), [0]);
    lab
}

#[test]
fn a_killed_master_is_replaced_in_the_measured_time_after_its_last_advert() {
    // Measured: 3.610 s, 3.610 to 3.618 s, 0.362 to 0.364 s.
    for (version, interval, down_us) in [(V2, S, 3_609_375), (V3, S, 3_609_375), (V3, S / 10, 360_937)] {
        let mut lab = running(pair(version, interval));
        lab.nodes[0].crashed = true;
        let sent = |(_, a): &&(_, Action)| matches!(a, Action::Send { .. });
        let last = lab.nodes[0].actions.iter().rev().find(sent).unwrap().0;
        lab.run(10 * S);
        let took = lab.took_over_at(1).saturating_since(last);
        let on_the_way = lab.faults.delay_max.as_micros();
        assert_eq!(took.as_micros(), down_us + on_the_way, "{version:?} {interval:?}");
    }
}

#[test]
fn a_stopped_master_is_replaced_after_the_skew() {
    // Measured: 0.611 to 0.615 s, 0.062 to 0.067 s.
    for (version, interval, max) in [(V2, S, 615), (V3, S / 10, 67)] {
        let mut lab = running(pair(version, interval));
        lab.stop(0);
        let stopped = lab.now;
        lab.run(10 * S);
        let took = lab.took_over_at(1).saturating_since(stopped).as_millis();
        assert!(took <= max && took > max * 9 / 10, "{took} ms");
    }
}

#[test]
fn the_better_node_takes_over_again_when_it_returns_and_not_with_nopreempt() {
    for (preempt, master) in [(Preempt::Always, 0), (Preempt::Never, 1)] {
        let mut configs = pair(V2, S);
        configs[0].instances[0].preempt = preempt;
        let mut lab = running(configs);
        lab.nodes[0].crashed = true;
        lab.run(10 * S);
        assert_eq!(lab.masters(), [1]);
        lab.start(0);
        lab.run(10 * S);
        assert_eq!(lab.masters(), [master], "{preempt:?}");
    }
}

#[test]
fn a_killed_process_leaves_its_addresses_and_the_next_one_removes_them() {
    let mut lab = running(pair(V2, S));
    lab.nodes[0].crashed = true;
    lab.run(10 * S);
    assert!(!lab.nodes[0].addresses.is_empty());
    lab.start(0);
    assert!(lab.nodes[0].addresses.is_empty());
}

#[test]
fn a_master_that_was_paused_does_not_speak_as_master_when_it_wakes() {
    for (seed, pause) in [(1, 4 * S), (2, 4 * S), (3, 60 * S), (4, 60 * S)] {
        let mut lab = running(pair(V2, S));
        lab.random.0 = seed;
        lab.nodes[0].paused = true;
        lab.run(pause);
        assert_eq!(lab.state(1), State::Master);
        lab.nodes[0].actions.clear();
        lab.resume(0);
        let spoke = |(_, a): &(_, Action)| matches!(a, Action::Send { .. } | Action::StartAnnouncing { .. });
        assert!(!lab.nodes[0].actions.iter().any(spoke));
        assert!(lab.nodes[0].addresses.is_empty());
        lab.run(10 * S);
        assert_eq!(lab.masters(), [0], "it takes over again by the rules of preemption");
    }
}

#[test]
fn routers_that_disagree_never_are_master_both() {
    // keepalived 2.2.7 leaves both Master in each of the first three.
    let base = |priority| instance(V2, priority, S);
    let pass = Authentication::Password(*b"1111\0\0\0\0");
    let more = vec![virtual_address(node(100)), virtual_address(node(101))];
    let traps: [(&str, VrrpInstance); 4] = [
        ("one address more", VrrpInstance { addresses: more, ..base(101) }),
        ("password on one side", VrrpInstance { authentication: pass, ..base(101) }),
        ("another interval", instance(V2, 101, 2 * S)),
        ("another version", instance(V3, 101, S)),
    ];
    for (name, odd) in traps {
        for starts_first in [0, 1] {
            let mut lab = Lab::new(vec![config(vec![odd.clone()]), config(vec![base(100)])], &[]);
            lab.start(starts_first);
            lab.run(8 * S);
            lab.start(1 - starts_first);
            for _ in 0..60 {
                lab.run(S);
                assert_eq!(lab.masters(), [starts_first], "{name}: who was there first stays");
            }
            let status = lab.nodes[1 - starts_first].vrrp.status();
            assert_eq!(status.instances[0].alarms.len(), 2, "{name}: and the other one says why");
            lab.nodes[starts_first].crashed = true;
            lab.run(10 * S);
            assert_eq!(lab.masters(), [1 - starts_first], "{name}: when it is dead it is replaced");
        }
        let mut lab = Lab::new(vec![config(vec![odd.clone()]), config(vec![base(100)])], &[]);
        lab.start(0);
        lab.start(1);
        lab.run(30 * S);
        assert_eq!(lab.masters().len(), 1, "{name}");
    }
}

#[test]
fn three_routers_have_the_best_master_and_the_next_one_after_it() {
    let configs = [100, 102, 101].map(|p| config(vec![instance(V3, p, S / 10)]));
    let mut lab = Lab::new(configs.to_vec(), &[]);
    (0..3).for_each(|i| lab.start(i));
    lab.run(5 * S);
    assert_eq!(lab.masters(), [1]);
    lab.stop(1);
    lab.run(100 * MS);
    assert_eq!(lab.masters(), [2]);
    lab.nodes[2].crashed = true;
    lab.run(S);
    assert_eq!(lab.masters(), [0]);
}

#[test]
fn equal_priorities_that_start_together_leave_the_higher_address() {
    let configs = [100; 3].map(|p| config(vec![instance(V2, p, S)]));
    let mut lab = Lab::new(configs.to_vec(), &[]);
    (0..3).for_each(|i| lab.start(i));
    lab.run(10 * S);
    assert_eq!(lab.masters(), [2]);
}

#[test]
fn two_owners_end_with_one_master() {
    let owner = VrrpInstance { starts_as_master: true, ..instance(V2, 255, S) };
    let mut lab = Lab::new(vec![config(vec![owner.clone()]), config(vec![owner])], &[]);
    lab.start(0);
    lab.start(1);
    lab.run(10 * S);
    assert_eq!(lab.masters(), [1]);
}

#[test]
fn bound_routers_are_master_where_the_service_is_and_nowhere_else() {
    let mut lab = Lab::new(pair(V2, S), &["VI_1"]);
    lab.start(0);
    lab.start(1);
    lab.run(10 * S);
    assert_eq!(lab.masters(), Vec::<usize>::new());
    // The worse one: the service decides, not the priority.
    lab.grant(1);
    lab.run(60 * S);
    assert_eq!(lab.masters(), [1]);
    assert!(!lab.nodes[0].vrrp.is_peer_silent("VI_1"));
    assert_eq!(lab.nodes[1].vrrp.status().instances[0].alarms, []);
    lab.revoke(1);
    lab.run(S);
    assert!(lab.nodes[0].vrrp.is_peer_silent("VI_1"));
    lab.grant(0);
    lab.run(60 * S);
    assert_eq!(lab.masters(), [0]);
}
