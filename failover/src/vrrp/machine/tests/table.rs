//! The rows of failover 1.9 and 1.10, in their order.

use model::failover::config::{RouteKind, Sending, UnicastPeer, VirtualRoute, VirtualRule};

use super::*;

const BECOMES_MASTER: [&str; 4] = ["advert 100", "add 1", "announce", "MASTER"];

#[test]
fn the_owner_that_is_to_start_as_master_does_so_at_once() {
    let mut t = Test::started(VrrpInstance { starts_as_master: true, ..v2(255) });
    assert_eq!(t.did(), ["advert 255", "add 1", "announce", "MASTER"]);
    assert_eq!(t.router.state(), State::Master);
}

#[test]
fn everybody_else_starts_as_backup_and_removes_what_a_killed_process_left() {
    for config in [v2(255), VrrpInstance { starts_as_master: true, ..v2(254) }] {
        let mut t = Test::started(config);
        assert_eq!(t.did(), ["remove 1", "BACKUP"]);
        assert_eq!(t.router.state(), State::Backup);
    }
    assert_eq!(Test::started(v2(100)).timer(), DOWN_100);
}

#[test]
fn a_backup_whose_timer_ends_becomes_master_advert_first() {
    let mut t = Test::started(v2(100));
    t.did();
    t.tick();
    assert_eq!((t.now, t.did()), (at(DOWN_100), BECOMES_MASTER.map(String::from).to_vec()));
}

#[test]
fn routes_and_rules_come_after_the_addresses_and_go_before_them() {
    let route = VirtualRoute {
        destination: (node(0), 24),
        gateway: None,
        interface: None,
        source: None,
        table: None,
        metric: None,
        scope: None,
        kind: RouteKind::Unicast,
    };
    let rule = VirtualRule { from: None, to: None, incoming: None, mark: None, table: 100, preference: None };
    let excluded_addresses = vec![virtual_address(node(200))];
    let config = VrrpInstance { routes: vec![route], rules: vec![rule], excluded_addresses, ..v2(100) };
    let mut t = Test::started(config);
    assert_eq!(t.did(), ["remove rules", "remove routes", "remove 2", "BACKUP"]);
    t.tick();
    assert_eq!(t.did(), ["advert 100", "add 2", "add routes", "add rules", "announce", "MASTER"]);
    t.router.stop(t.now, Transition::Stop, &mut t.out);
    let left = ["advert 0", "remove rules", "remove routes", "no more announcing", "remove 2", "STOP"];
    assert_eq!(t.did(), left);
}

#[test]
fn a_backup_that_hears_its_master_stop_waits_for_its_skew_only() {
    let mut t = Test::started(v2(100));
    t.hear(2, 101);
    t.pass(S / 2);
    t.hear(2, 0);
    assert_eq!(t.timer(), SKEW_100);
    t.did();
    t.tick();
    assert_eq!(t.did(), BECOMES_MASTER);
}

#[test]
fn a_stop_that_is_repeated_does_not_hold_a_backup_back() {
    let mut t = Test::started(v2(100));
    t.hear(2, 101);
    for _ in 0..6 {
        t.hear(2, 0);
        t.pass(S / 10);
    }
    assert_eq!(t.timer(), SKEW_100 - 600 * MS);
}

#[test]
fn a_stop_of_somebody_who_is_not_the_master_that_is_heard_changes_nothing() {
    let mut t = Test::started(v2(100));
    t.hear(2, 101);
    t.hear(3, 0);
    assert_eq!(t.timer(), DOWN_100);
}

#[test]
fn a_backup_starts_its_timer_again_with_each_advert_of_its_priority_or_a_higher_one() {
    for priority in [100, 101, 255] {
        let mut t = Test::started(v2(100));
        t.pass(3 * S);
        t.hear(2, priority);
        assert_eq!(t.timer(), DOWN_100, "{priority}");
        let master = t.router.status().master.unwrap();
        assert_eq!((master.address, master.priority, master.accepted), (node(2), priority, true));
    }
}

#[test]
fn a_backup_that_may_preempt_ignores_a_lower_master_until_its_timer_ends() {
    let mut t = Test::started(v2(100));
    for _ in 0..3 {
        t.pass(S);
        t.hear(2, 99);
    }
    assert_eq!(t.timer(), DOWN_100 - 3 * S);
    t.did();
    t.tick();
    assert_eq!(t.did(), BECOMES_MASTER);
}

#[test]
fn a_backup_that_must_not_preempt_waits_for_as_long_as_a_master_lives() {
    let mut t = Test::started(VrrpInstance { preempt: Preempt::Never, ..v2(100) });
    for _ in 0..100 {
        t.pass(S);
        t.hear(2, 1);
    }
    assert_eq!((t.router.state(), t.timer()), (State::Backup, DOWN_100));
    t.tick();
    assert_eq!(t.router.state(), State::Master, "a dead one is replaced");
}

#[test]
fn preempt_delay_accepts_a_lower_master_for_that_long_and_then_ignores_it() {
    // Measured: 8.41 s from the start; the first advert comes 0.8 s after it.
    let mut t = Test::started(VrrpInstance { preempt: Preempt::After(5 * S), ..v2(101) });
    t.pass(800 * MS);
    while t.router.state() == State::Backup {
        t.hear(2, 100);
        t.pass(S);
    }
    let became = t.router.since.saturating_since(at(Duration::ZERO));
    assert!(became > 8 * S && became < 9 * S, "{became:?}");
    t.did();
    // Begins anew after each time as Master.
    t.hear(2, 102);
    t.hear(2, 100);
    assert_eq!(t.router.lower_accepted_until, Some(t.now + 5 * S));
}

#[test]
fn a_backup_that_stops_says_nothing() {
    let mut t = Test::started(v2(100));
    t.did();
    t.router.stop(t.now, Transition::Stop, &mut t.out);
    assert_eq!(t.did(), ["STOP"]);
    assert_eq!((t.router.state(), t.router.deadline()), (State::Initialize, None));
    t.hear(2, 200);
    assert_eq!(t.did(), Vec::<String>::new());
}

#[test]
fn a_master_says_so_in_each_interval_without_drifting() {
    let mut t = Test::master(v2(100));
    for n in 1..=5 {
        t.now = t.router.deadline().unwrap();
        // The event loop is late each time.
        t.router.tick(t.now + 20 * MS, &mut t.out);
        assert_eq!((t.now, t.did()), (at(DOWN_100 + n * S), vec!["advert 100".to_owned()]));
    }
}

#[test]
fn a_master_that_hears_another_one_stop_says_at_once_that_it_is_there() {
    let mut t = Test::master(v2(100));
    t.hear(2, 0);
    assert_eq!(t.did(), ["advert 100"]);
    assert_eq!(t.timer(), S);
}

#[test]
fn a_master_yields_to_a_higher_priority_without_priority_0() {
    let mut t = Test::master(v2(100));
    t.hear(2, 101);
    assert_eq!(t.did(), ["no more announcing", "remove 1", "BACKUP"]);
    assert_eq!(t.timer(), DOWN_100);
}

#[test]
fn a_master_that_yields_sends_one_more_advert_if_told_to() {
    let mut t = Test::master(VrrpInstance { higher_prio_send_advert: true, ..v2(100) });
    t.hear(2, 101);
    assert_eq!(t.did(), ["advert 100", "no more announcing", "remove 1", "BACKUP"]);
}

#[test]
fn of_equal_priorities_the_higher_address_stays_master() {
    let mut t = Test::master(v2(100));
    t.hear(2, 100);
    assert_eq!(t.router.state(), State::Backup);
    let mut t = Test::master(v2(100));
    t.router.set_source(Some(node(3)));
    t.hear(2, 100);
    assert_eq!(t.did(), ["advert 100", "announce again", "MASTER_RX_LOWER_PRI"]);
    // As numbers, not as text.
    t.hear(20, 100);
    assert_eq!(t.router.state(), State::Backup);
}

#[test]
fn a_master_answers_a_lower_one_at_once_and_announces_again() {
    let mut t = Test::master(v2(100));
    t.pass(S / 2);
    t.hear(2, 99);
    assert_eq!(t.did(), ["advert 100", "announce again", "MASTER_RX_LOWER_PRI"]);
    assert_eq!((t.router.state(), t.timer()), (State::Master, S));
}

#[test]
fn lower_prio_no_advert_leaves_out_the_advert_only() {
    let mut t = Test::master(VrrpInstance { lower_prio_no_advert: true, ..v2(100) });
    t.hear(2, 99);
    assert_eq!(t.did(), ["announce again", "MASTER_RX_LOWER_PRI"]);
    let mut config = v2(100);
    config.announce.lower_priority_repeat = 0;
    let mut t = Test::master(config);
    t.hear(2, 99);
    assert_eq!(t.did(), ["advert 100", "MASTER_RX_LOWER_PRI"]);
}

#[test]
fn a_flood_of_lower_adverts_is_not_answered_packet_by_packet() {
    let mut t = Test::master(v2(100));
    for _ in 0..1000 {
        t.hear(2, 99);
        t.hear(2, 0);
    }
    assert_eq!(t.did().len(), 3);
    t.now += S / 10;
    t.hear(2, 99);
    assert_eq!(t.did().len(), 3);
}

#[test]
fn a_master_that_hears_its_own_address_warns() {
    let mut t = Test::master(v2(100));
    t.hear(1, 100);
    assert_eq!(t.did(), ["Raised OwnAddress"]);
    assert_eq!(t.router.state(), State::Master);
}

#[test]
fn a_master_that_stops_says_so_before_it_removes_its_addresses() {
    let mut t = Test::master(v2(100));
    t.router.stop(t.now, Transition::Deleted, &mut t.out);
    assert_eq!(t.did(), ["advert 0", "no more announcing", "remove 1", "DELETED"]);
    assert_eq!(t.router.deadline(), None);
}

#[test]
fn of_two_owners_the_one_with_the_higher_address_gives_in_after_two_adverts() {
    let mut t = Test::new(VrrpInstance { starts_as_master: true, ..v2(255) }, Binding::Free);
    t.router.set_source(Some(node(9)));
    t.router.start(t.now, &mut t.out);
    t.did();
    t.pass(S / 2);
    for _ in 0..3 {
        assert_eq!(t.router.effective_priority(), 255);
        t.hear(2, 255);
        t.pass(S);
    }
    // Two adverts, which are the first two answers, and 1.2 intervals.
    assert!(t.did().contains(&"Raised TwoOwners".to_owned()));
    assert_eq!((t.router.effective_priority(), t.router.state()), (254, State::Master));
    t.hear(2, 255);
    assert_eq!(t.router.state(), State::Backup);
}

#[test]
fn an_owner_whose_rival_leaves_stays_the_owner() {
    let mut t = Test::new(VrrpInstance { starts_as_master: true, ..v2(255) }, Binding::Free);
    t.router.set_source(Some(node(9)));
    t.router.start(t.now, &mut t.out);
    t.pass(S / 2);
    t.hear(2, 255);
    t.pass(20 * S);
    assert_eq!((t.router.effective_priority(), t.router.state()), (255, State::Master));
}

#[test]
fn of_two_owners_the_one_with_the_lower_address_yields() {
    let mut t = Test::started(VrrpInstance { starts_as_master: true, ..v2(255) });
    t.hear(2, 255);
    assert_eq!(t.router.state(), State::Backup);
}

#[test]
fn unicast_sends_to_each_peer_with_the_configured_ttl() {
    let peers = [2, 3].map(|n| UnicastPeer { address: node(n), ttl_range: None }).to_vec();
    let sending = Sending::Unicast { source: None, peers, ttl: 64, checks_source: false };
    let mut t = Test::started(VrrpInstance { sending, ..v2(100) });
    t.did();
    t.tick();
    let ttls: Vec<u8> = t
        .out
        .iter()
        .filter_map(|a| if let Action::Send { ttl, .. } = a { Some(*ttl) } else { None })
        .collect();
    assert_eq!(ttls, [64, 64]);
    let sent = ["advert 100 to 10.77.0.2", "advert 100 to 10.77.0.3", "add 1", "announce", "MASTER"];
    assert_eq!(t.did(), sent);
    assert_eq!(t.router.status().counters.sent, 1);
}

#[test]
fn routers_configured_as_the_recorded_ones_send_the_recorded_octets() {
    // failover 1.5.
    let hex = |text: &str| -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    };
    let pass = Authentication::Password(*b"1111\0\0\0\0");
    let unicast = Sending::Unicast {
        source: Some(node(1)),
        peers: vec![UnicastPeer { address: node(2), ttl_range: None }],
        ttl: 255,
        checks_source: false,
    };
    let six = VrrpInstance {
        addresses: ["fe80::100", "2001:db8::100"].map(|a| virtual_address(a.parse().unwrap())).to_vec(),
        sending: Sending::Multicast { source: None, group: "ff02::12".parse().unwrap() },
        ..instance(V3, 101, S)
    };
    let rows = [
        (VrrpInstance { authentication: pass, ..v2(101) }, "21336501 01010bb7 0a4d0064 31313131 00000000"),
        (v2(101), "21336501 00016f19 0a4d0064 00000000 00000000"),
        (instance(V3, 101, S), "31336501 006473d9 0a4d0064"),
        (instance(V3, 101, S / 10), "31336501 000a7433 0a4d0064"),
        (VrrpInstance { sending: unicast, ..instance(V3, 101, S) }, "31336501 0064499d 0a4d0064"),
        (six, "31336502 00643dfd fe80000000000000 0000000000000100 20010db800000000 0000000000000100"),
    ];
    for (config, octets) in rows {
        let is_ipv6 = config.addresses[0].address.is_ipv6();
        let own = if is_ipv6 { "fe80::ff:fe00:1".parse().unwrap() } else { node(1) };
        let mut t = Test::new(config, Binding::Free);
        t.router.set_source(Some(own));
        t.router.start(t.now, &mut t.out);
        t.tick();
        let sent = t.out.iter().find_map(|action| match action {
            Action::Send { source, destination, advert, .. } => {
                Some(advert.encode(*source, *destination, Default::default()))
            }
            _ => None,
        });
        assert_eq!(sent, Some(hex(octets)), "{octets}");
    }
}
