//! Faults, priorities (failover 1.11) and new configurations.

use model::failover::config::{Command, Sending, UnicastPeer, VirtualAddress, VirtualMac};

use super::*;

fn fault(name: &str) -> Fault {
    Fault::Script(name.into())
}

#[test]
fn a_master_with_a_fault_says_priority_0_and_comes_back_as_backup() {
    let mut t = Test::master(v2(100));
    t.router.set_faults(t.now, [fault("a")].into(), &mut t.out);
    assert_eq!(t.did(), ["advert 0", "no more announcing", "remove 1", "FAULT"]);
    assert_eq!((t.router.state(), t.router.deadline()), (State::Fault, None));
    t.router.set_faults(t.now, [].into(), &mut t.out);
    assert_eq!(t.did(), ["BACKUP"]);
    assert_eq!(t.timer(), DOWN_100);
}

#[test]
fn a_backup_with_a_fault_says_nothing_to_others() {
    let mut t = Test::started(v2(100));
    t.did();
    t.router.set_faults(t.now, [fault("a")].into(), &mut t.out);
    assert_eq!(t.did(), ["FAULT"]);
}

#[test]
fn a_fault_ends_with_the_last_of_its_reasons() {
    let mut t = Test::started(v2(100));
    for (faults, state) in [
        (vec!["a"], State::Fault),
        (vec!["a", "b"], State::Fault),
        (vec!["b"], State::Fault),
        (vec![], State::Backup),
    ] {
        t.router.set_faults(t.now, faults.into_iter().map(fault).collect(), &mut t.out);
        t.router.check_invariants();
        assert_eq!(t.router.state(), state);
    }
}

#[test]
fn after_a_fault_the_own_interval_counts_until_a_master_is_heard() {
    let mut t = Test::started(instance(V3, 100, S));
    t.hear_advert(2, &advert_of(&instance(V3, 101, 10 * S), 101));
    assert_eq!(t.timer(), 10 * DOWN_100);
    t.router.set_faults(t.now, [fault("a")].into(), &mut t.out);
    t.router.set_faults(t.now, [].into(), &mut t.out);
    assert_eq!(t.timer(), DOWN_100);
}

#[test]
fn with_a_virtual_mac_addresses_and_adverts_are_on_the_macvlan() {
    for (sends_from_base, leaves) in [(false, "vrrp.51"), (true, "eth0")] {
        let mac = VirtualMac { name: "vrrp.51".into(), sends_from_base };
        let mut config = VrrpInstance { virtual_mac: Some(mac), ..v2(100) };
        config.excluded_addresses = vec![virtual_address(node(101))];
        config.excluded_addresses[0].interface = Some("eth1".into());
        let mut t = Test::started(config);
        t.out.clear();
        t.tick();
        t.out.retain(|action| !matches!(action, Action::Log { .. }));
        let [Action::Send { interface, .. }, Action::AddAddresses { addresses, .. }, ..] = &t.out[..] else {
            panic!("the advert is first, then come the addresses")
        };
        assert_eq!(&**interface, leaves);
        let on: Vec<&str> = addresses.iter().filter_map(|a| a.interface.as_deref()).collect();
        assert_eq!(on, ["vrrp.51", "eth1"]);
    }
}

/// Addresses by the numbers of their nodes, each with its `dev`.
fn on(addresses: &[(u8, Option<&str>)]) -> Vec<VirtualAddress> {
    let address = |(number, interface): &(u8, Option<&str>)| VirtualAddress {
        interface: interface.map(str::to_owned),
        ..virtual_address(node(*number))
    };
    addresses.iter().map(address).collect()
}

#[test]
fn one_address_is_announced_apart_on_each_interface_other_than_the_own() {
    let mac = || Some(VirtualMac { name: "vrrp.51".into(), sends_from_base: false });
    for (virtual_mac, expected) in [(None, [102, 104]), (mac(), [101, 102])] {
        let mut config = VrrpInstance { virtual_mac, ..v2(100) };
        config.addresses = on(&[(100, None), (101, Some("eth0")), (102, Some("eth1")), (103, Some("eth1"))]);
        config.excluded_addresses = on(&[(104, Some("eth2")), (105, Some("eth1"))]);
        let has_mac = config.virtual_mac.is_some();
        let mut t = Test::started(config);
        t.tick();
        let announced = t.out.iter().find_map(|action| match action {
            Action::StartAnnouncing { addresses, extra, .. } => Some((addresses.len(), extra.clone())),
            _ => None,
        });
        let mut wanted: Vec<_> = expected.map(node).into();
        if has_mac {
            wanted.push(node(104));
        }
        assert_eq!(announced, Some((6, wanted)));
    }
}

#[test]
fn another_pace_of_announcing_counts_at_once() {
    let mut t = Test::master(v2(100));
    let mut config = v2(100);
    config.announce.extra_refresh = 60 * S;
    t.router.reload(t.now, config.clone(), Options::default(), &mut t.out);
    assert_eq!(t.did(), ["announce", "advert 100"]);
    t.router.reload(t.now, VrrpInstance { priority: 101, ..config }, Options::default(), &mut t.out);
    assert_eq!(t.did(), ["advert 101"]);
}

#[test]
fn the_source_of_unicast_adverts_is_announced_when_the_last_fault_is_over() {
    let peers = vec![UnicastPeer { address: node(2), ttl_range: None }];
    let sending = Sending::Unicast { source: None, peers, ttl: 255, checks_source: false };
    let mac = VirtualMac { name: "vrrp.51".into(), sends_from_base: true };
    let mut t = Test::started(VrrpInstance { sending, virtual_mac: Some(mac), ..v2(100) });
    assert_eq!(t.did(), ["remove 1", "BACKUP"], "at the start there is nothing to correct");
    t.router.set_faults(t.now, [fault("a"), fault("b")].into(), &mut t.out);
    assert_eq!(t.did(), ["FAULT"]);
    t.router.set_faults(t.now, [fault("b")].into(), &mut t.out);
    assert_eq!(t.did(), [""; 0]);
    t.router.set_source(Some(node(7)));
    t.router.set_faults(t.now, [].into(), &mut t.out);
    assert_eq!(t.did(), ["BACKUP", "announce 10.77.0.7 on eth0"]);
}

#[test]
fn scripts_of_an_instance_that_is_gone_are_run_all_the_same() {
    let words = vec!["gone".to_owned()];
    let mut config = v2(100);
    config.notify.deleted = Some(Command { words, user: None });
    let mut t = Test::started(config);
    t.out.clear();
    t.router.stop(t.now, Transition::Deleted, &mut t.out);
    let Some(Action::Notify(notification)) = t.out.last() else { panic!("it is told") };
    assert_eq!(notification.commands[0].words, ["gone"]);
}

#[test]
fn a_router_that_starts_with_a_fault_waits_in_fault() {
    let mut t = Test::new(VrrpInstance { starts_as_master: true, ..v2(255) }, Binding::Free);
    t.router.set_faults(t.now, [fault("a")].into(), &mut t.out);
    t.router.start(t.now, &mut t.out);
    assert_eq!(t.did(), ["remove 1", "FAULT"]);
    t.hear(2, 200);
    assert_eq!(t.router.status().master.map(|m| m.priority), Some(200), "it listens all the same");
    assert_eq!(t.router.status().faults, ["script a fails"]);
}

#[test]
fn the_priority_is_the_sum_within_1_and_254() {
    for (base, contribution, effective) in [
        (100, 0, 100),
        (100, 5, 105),
        (100, -20, 80),
        (100, 200, 254),
        (100, -200, 1),
        (254, i32::MAX, 254),
        (254, i32::MIN, 1),
        (255, -200, 255),
        (255, 10, 255),
    ] {
        let mut t = Test::started(v2(base));
        t.router.set_contribution(t.now, contribution, &mut t.out);
        assert_eq!(t.router.effective_priority(), effective, "{base} {contribution}");
    }
}

#[test]
fn a_lower_priority_goes_out_with_the_next_advert_and_nothing_else_happens() {
    // keepalived's way: the other one ignores it until its own timer ends.
    let mut t = Test::master(v2(100));
    t.hear(2, 95);
    t.did();
    t.router.set_contribution(t.now, -10, &mut t.out);
    assert_eq!(t.did(), Vec::<String>::new());
    t.tick();
    assert_eq!(t.did(), ["advert 90"]);
    t.hear(2, 95);
    assert_eq!(t.router.state(), State::Backup);
}

#[test]
fn told_to_step_down_a_master_says_priority_0_once_when_a_known_peer_is_better() {
    let mut t = Test::master(v2(100));
    t.router.set_step_down_advert(true);
    t.router.set_contribution(t.now, -10, &mut t.out);
    assert_eq!(t.did(), Vec::<String>::new(), "nobody is known");
    t.router.set_contribution(t.now, 0, &mut t.out);
    t.hear(2, 95);
    t.did();
    t.router.set_contribution(t.now, -4, &mut t.out);
    assert_eq!(t.did(), Vec::<String>::new(), "it is still the best");
    t.router.set_contribution(t.now, -10, &mut t.out);
    assert_eq!(t.did(), ["advert 0"]);
    assert_eq!(t.router.state(), State::Master, "until the other one speaks");
    t.router.set_contribution(t.now, -11, &mut t.out);
    assert_eq!(t.did(), Vec::<String>::new(), "once");
    t.tick();
    assert_eq!(t.did(), ["advert 89"]);
}

#[test]
fn the_fifo_is_told_of_priorities_if_it_wants_to_know() {
    let mut t = Test::started(v2(100));
    t.router.options.notify_priority_changes = true;
    t.did();
    t.router.set_contribution(t.now, 1, &mut t.out);
    t.tick();
    t.router.set_contribution(t.now, 2, &mut t.out);
    let did = t.did();
    assert_eq!(
        (did.first().unwrap().as_str(), did.last().unwrap().as_str()),
        ("BACKUP_PRIORITY", "MASTER_PRIORITY")
    );
}

#[test]
fn a_reload_touches_only_the_addresses_that_differ() {
    let mut config = v2(100);
    config.addresses = vec![virtual_address(VIP), virtual_address(node(101))];
    let mut t = Test::master(config.clone());
    t.router.reload(t.now, config.clone(), Options::default(), &mut t.out);
    assert_eq!(t.did(), Vec::<String>::new(), "nothing has changed");
    config.addresses[1] = virtual_address(node(102));
    config.excluded_addresses = vec![virtual_address(node(103))];
    t.router.reload(t.now, config, Options::default(), &mut t.out);
    assert_eq!(t.did(), ["remove 1", "add 2", "announce", "advert 100"]);
    assert_eq!(t.router.state(), State::Master);
}

#[test]
fn a_reload_changes_priority_interval_and_what_is_expected() {
    let mut t = Test::started(v2(100));
    let slow = VrrpInstance { advert_interval: 2 * S, priority: 150, ..v2(100) };
    t.router.reload(t.now, slow, Options::default(), &mut t.out);
    assert_eq!(t.timer(), 6 * S + S * 106 / 256);
    t.hear(2, 150);
    assert_eq!(t.router.status().counters.mismatched.len(), 0);
}
