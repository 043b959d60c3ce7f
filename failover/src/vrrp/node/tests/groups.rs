//! Sync groups (failover 1.12, 1.13) and what trackers do to instances.

use model::failover::config::{
    FailoverConfig, SyncGroup, TrackFile, TrackTarget, Tracker, VrrpInstance, VrrpVersion,
};
use model::time::Duration;

use super::super::super::lab::{
    Lab, S, advert_of, at, config, eth0, instance, node, packet, virtual_address,
};
use super::super::super::{Action, Interface, RoleLost, State};
use super::super::*;

fn member(name: &str, id: u8, priority: u8) -> VrrpInstance {
    VrrpInstance {
        name: name.into(),
        virtual_router_id: id,
        addresses: vec![virtual_address(node(100 + id))],
        ..instance(VrrpVersion::V2, priority, S)
    }
}

fn tracker(weight: i16) -> Tracker {
    Tracker { target: TrackTarget::File("tf".into()), weight, reverse: false }
}

/// As recorded: two members and a tracked file of the group.
fn group(priority: u8) -> FailoverConfig {
    let sync_group = SyncGroup {
        name: "G1".into(),
        members: vec!["VI_1".into(), "VI_2".into()],
        trackers: vec![tracker(0)],
        notify: Default::default(),
    };
    let file = TrackFile { name: "tf".into(), path: "/tf".into(), weight: 0, reverse: false, init: None };
    FailoverConfig {
        sync_groups: vec![sync_group],
        track_files: vec![file],
        ..config(vec![member("VI_1", 51, priority), member("VI_2", 52, priority)])
    }
}

fn set_file(lab: &mut Lab, i: usize, value: i64) {
    lab.event(i, Event::Tracker(&TrackerResult::File { name: "tf".into(), value }));
}

/// The lines, with those of the two members, whose order is not fixed, sorted.
fn transitions(lines: Vec<String>) -> Vec<[String; 3]> {
    assert_eq!(lines.len() % 3, 0, "{lines:?}");
    let sorted = lines.chunks(3).map(|three| {
        let mut three: [String; 3] = three.to_vec().try_into().unwrap();
        three[..2].sort();
        three
    });
    sorted.collect()
}

#[test]
fn the_fifo_says_what_the_recorded_one_says() {
    // Recorded: start, tracked file to fault, back, stop (failover 1.13).
    let mut lab = Lab::new(vec![group(101)], &[]);
    lab.start(0);
    lab.run(6 * S);
    set_file(&mut lab, 0, 1);
    lab.run(S);
    set_file(&mut lab, 0, 0);
    lab.run(6 * S);
    lab.stop(0);
    let expected = ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER", "STOP"].map(|word| {
        [
            format!("INSTANCE \"VI_1\" {word} 101"),
            format!("INSTANCE \"VI_2\" {word} 101"),
            format!("GROUP \"G1\" {word} 0"),
        ]
    });
    assert_eq!(transitions(lab.fifo(0)), expected);
}

#[test]
fn a_fault_of_one_member_is_a_fault_of_all_and_the_peer_takes_all() {
    let mut lab = Lab::new(vec![group(101), group(100)], &[]);
    lab.start(0);
    lab.start(1);
    lab.run(6 * S);
    assert_eq!(lab.masters(), [0]);
    set_file(&mut lab, 0, 1);
    lab.run(650 * S / 1000);
    assert_eq!(lab.masters(), [1]);
    assert_eq!(lab.nodes[1].vrrp.state("VI_2"), Some(State::Master));
    assert_eq!(lab.nodes[0].vrrp.state("VI_2"), Some(State::Fault));
    set_file(&mut lab, 0, 0);
    lab.run(6 * S);
    assert_eq!(lab.masters(), [0], "and back");
    assert_eq!(lab.nodes[0].vrrp.state("VI_2"), Some(State::Master));
}

#[test]
fn a_fault_that_only_one_member_has_is_shared_and_ends_for_all() {
    let mut config = group(101);
    config.instances[1].interface = "eth1".into();
    let eth1 = |is_up| Interface { name: "eth1".into(), is_up, ..eth0(1, true) };
    let mut lab = Lab::new(vec![config], &[]);
    lab.start(0);
    assert_eq!(lab.state(0), State::Fault, "VI_2 has no interface");
    let status = lab.nodes[0].vrrp.status();
    assert_eq!(status.instances[0].faults, ["VI_2, of the same group, has one"]);
    assert_eq!(status.groups[0].state, Some(State::Fault));
    lab.event(0, Event::Interface(&eth1(true)));
    assert_eq!(lab.state(0), State::Backup);
    lab.run(6 * S);
    assert_eq!(lab.state(0), State::Master);
    lab.event(0, Event::Interface(&eth1(false)));
    assert_eq!(lab.state(0), State::Fault);
}

fn hear(lab: &mut Lab, i: usize, config: &VrrpInstance, priority: u8) {
    let (ip, payload) = packet(node(9), node(18), &advert_of(config, priority));
    let ip = IpFacts { destination: [224, 0, 0, 18].into(), ..ip };
    lab.event(i, Event::Packet { interface: "eth0", ip: &ip, payload: &payload });
}

#[test]
fn one_member_that_yields_takes_all_to_backup() {
    let mut lab = Lab::new(vec![group(100)], &[]);
    lab.start(0);
    lab.run(6 * S);
    hear(&mut lab, 0, &member("VI_2", 52, 100), 200);
    assert_eq!(lab.state(0), State::Backup);
    assert_eq!(lab.nodes[0].vrrp.state("VI_2"), Some(State::Backup));
    assert_eq!(lab.nodes[0].vrrp.status().groups[0].state, Some(State::Backup));
}

#[test]
fn no_member_is_master_while_one_of_them_hears_a_master() {
    let mut lab = Lab::new(vec![group(100)], &[]);
    lab.start(0);
    for _ in 0..20 {
        hear(&mut lab, 0, &member("VI_2", 52, 100), 200);
        lab.run(S);
    }
    assert_eq!(lab.state(0), State::Backup);
    lab.run(4 * S);
    assert_eq!(lab.state(0), State::Master);
    assert_eq!(lab.nodes[0].vrrp.state("VI_2"), Some(State::Master));
    assert_eq!(lab.took_over_at(0), at(22 * S + Duration::from_nanos(609_375_000)));
}

#[test]
fn the_owner_waits_for_its_group() {
    let mut config = group(255);
    config.instances[0].starts_as_master = true;
    let mut lab = Lab::new(vec![config], &[]);
    lab.start(0);
    assert_eq!(lab.state(0), State::Backup);
    lab.run(4 * S);
    assert_eq!(lab.state(0), State::Master);
}

#[test]
fn weights_of_members_do_not_count_and_those_of_the_group_do() {
    let mut config = group(100);
    config.instances[0].trackers = vec![tracker(-10)];
    config.sync_groups[0].trackers.clear();
    let mut lab = Lab::new(vec![config.clone()], &[]);
    lab.start(0);
    set_file(&mut lab, 0, 3);
    assert_eq!(lab.state(0), State::Fault, "as if its weight were 0");

    config.instances[0].trackers.clear();
    config.sync_groups[0].trackers = vec![tracker(-10)];
    let mut lab = Lab::new(vec![config], &[]);
    lab.start(0);
    set_file(&mut lab, 0, 3);
    let priorities = lab.nodes[0].vrrp.status().instances;
    assert!(priorities.iter().all(|i| i.effective_priority == 70));
}

#[test]
fn a_lowered_priority_moves_the_addresses_as_slowly_as_measured() {
    // 106 -> 86 against 105: 2.96 to 3.11 s.
    let of = |priority| {
        let mut config = group(priority);
        config.sync_groups.clear();
        config.instances.truncate(1);
        config.instances[0].trackers = vec![tracker(1)];
        config
    };
    for (step_down, min, max) in [(false, 2900, 3700), (true, 580, 600)] {
        let mut lab = Lab::new(vec![of(106), of(105)], &[]);
        lab.start(1);
        lab.run(5 * S);
        lab.start(0);
        lab.nodes[0].vrrp.set_step_down_advert(step_down);
        lab.run(10 * S);
        assert_eq!(lab.masters(), [0]);
        set_file(&mut lab, 0, -20);
        let lowered = lab.now;
        lab.run(5 * S);
        assert_eq!(lab.masters(), [1]);
        let took = lab.took_over_at(1).saturating_since(lowered).as_millis();
        assert!(took > min && took < max, "{took} ms, step down: {step_down}");
    }
}

#[test]
fn a_service_that_owns_one_member_has_the_whole_group() {
    let mut lab = Lab::new(vec![group(100)], &["VI_1"]);
    lab.start(0);
    lab.run(10 * S);
    let vrrp = &lab.nodes[0].vrrp;
    assert!(vrrp.is_peer_silent("VI_1") && vrrp.is_peer_silent("VI_2"));
    assert_eq!(lab.masters(), Vec::<usize>::new());
    lab.grant(0);
    assert_eq!(lab.nodes[0].vrrp.state("VI_2"), Some(State::Master));
    assert_eq!(lab.fifo(0).last().unwrap(), "GROUP \"G1\" MASTER 0");
    hear(&mut lab, 0, &member("VI_2", 52, 100), 200);
    assert_eq!(lab.nodes[0].vrrp.state("VI_2"), Some(State::Master));
    lab.revoke(0);
    assert_eq!(lab.nodes[0].vrrp.state("VI_2"), Some(State::Backup));
    assert!(lab.nodes[0].addresses.is_empty());
}

#[test]
fn a_group_is_granted_as_a_whole_or_not_at_all() {
    let mut config = group(100);
    config.instances[1].interface = "eth1".into();
    config.instances[1].tracks_own_interface = false;
    let mut lab = Lab::new(vec![config], &["VI_1"]);
    lab.start(0);
    let mut out = vec![];
    let refused = lab.nodes[0].vrrp.grant(lab.now, "VI_1", &mut out).unwrap_err();
    assert!(refused.to_string().contains("of the same group"), "{refused}");
    assert_eq!((out, lab.state(0)), (vec![], State::Fault));
    let unknown = lab.nodes[0].vrrp.grant(lab.now, "VI_9", &mut vec![]).unwrap_err();
    assert_eq!(unknown.to_string(), "vrrp_instance VI_9: there is none of this name");
}

#[test]
fn an_address_that_the_interface_loses_is_a_fault_told_from_that_address() {
    let mut lab = Lab::new(vec![config(vec![member("VI_1", 51, 100)])], &[]);
    lab.start(0);
    lab.run(6 * S);
    lab.nodes[0].actions.clear();
    lab.event(0, Event::Interface(&Interface { ipv4: None, ..eth0(1, true) }));
    assert_eq!(lab.state(0), State::Fault);
    let first = &lab.nodes[0].actions.iter().find(|(_, a)| matches!(a, Action::Send { .. })).unwrap().1;
    assert!(
        matches!(first, Action::Send { source, advert, .. } if *source == node(1) && advert.priority == 0)
    );
    lab.event(0, Event::Interface(&eth0(5, true)));
    lab.run(6 * S);
    assert_eq!(lab.state(0), State::Master);
}

#[test]
fn dont_track_primary_leaves_the_interface_alone() {
    let instance = VrrpInstance { tracks_own_interface: false, ..member("VI_1", 51, 100) };
    let mut lab = Lab::new(vec![config(vec![instance])], &[]);
    lab.start(0);
    lab.event(0, Event::Interface(&eth0(1, false)));
    assert_eq!(lab.state(0), State::Backup);
}

#[test]
fn a_reload_keeps_what_stays_and_ends_what_is_gone() {
    let mut lab = Lab::new(vec![config(vec![member("VI_1", 51, 100), member("VI_2", 52, 100)])], &[]);
    lab.start(0);
    lab.run(6 * S);
    lab.nodes[0].actions.clear();
    let new = config(vec![member("VI_3", 53, 100), member("VI_1", 51, 110)]);
    lab.event(0, Event::Reload { config: &new, bound: &[] });
    assert_eq!(lab.fifo(0), ["INSTANCE \"VI_2\" DELETED 100", "INSTANCE \"VI_3\" BACKUP 100"]);
    assert_eq!(lab.state(0), State::Master);
    let status = lab.nodes[0].vrrp.status();
    let names: Vec<&str> = status.instances.iter().map(|i| &*i.name).collect();
    assert_eq!((names, status.instances[1].effective_priority), (vec!["VI_3", "VI_1"], 110));
    assert_eq!(lab.nodes[0].addresses.len(), 1);
}

#[test]
fn an_instance_that_a_service_gets_is_no_longer_master() {
    let only = config(vec![member("VI_1", 51, 100)]);
    let mut lab = Lab::new(vec![only.clone()], &[]);
    lab.start(0);
    lab.run(6 * S);
    lab.event(0, Event::Reload { config: &only, bound: &["VI_1".into()] });
    assert_eq!(lab.state(0), State::Backup);
    lab.grant(0);
    lab.event(0, Event::Reload { config: &config(vec![]), bound: &[] });
    let lost = |(_, a): &(_, Action)| matches!(a, Action::RoleLost { why: RoleLost::Stopped, .. });
    assert!(lab.nodes[0].actions.iter().any(lost));
    assert!(lab.nodes[0].addresses.is_empty());
}

#[test]
fn packets_for_others_are_counted_and_nothing_else() {
    let mut lab = Lab::new(vec![config(vec![member("VI_1", 51, 100)])], &[]);
    lab.start(0);
    hear(&mut lab, 0, &member("VI_2", 52, 100), 200);
    let (ip, payload) = packet(node(9), [224, 0, 0, 18].into(), &advert_of(&member("VI_1", 51, 100), 200));
    lab.event(0, Event::Packet { interface: "eth9", ip: &ip, payload: &payload });
    lab.event(0, Event::Packet { interface: "eth0", ip: &ip, payload: &[] });
    let status = lab.nodes[0].vrrp.status();
    assert_eq!((status.packets_of_others, status.instances[0].peer_heard), (3, None));
}
