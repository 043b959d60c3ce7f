use super::*;
use std::num::NonZeroU32;

const ETH0: LinkIndex = LinkIndex(3);

fn lifetime() -> Lifetime {
    Lifetime::seconds(NonZeroU32::new(3).unwrap())
}

fn config(address: &str) -> VirtualAddress {
    let address: IpAddr = address.parse().unwrap();
    VirtualAddress {
        address,
        prefix_len: if address.is_ipv4() { 32 } else { 128 },
        interface: None,
        broadcast: Broadcast::Unset,
        scope: 0,
        label: None,
        peer: None,
        home: false,
        no_dad: false,
        no_prefix_route: false,
        no_track: false,
        preferred_lifetime: None,
    }
}

fn wanted(address: &str) -> WantedAddress {
    address_of(&config(address), ETH0, lifetime())
}

fn found(address: &InterfaceAddress) -> FoundAddress {
    FoundAddress { address: address.clone(), secondary: false, tentative: false, duplicate: false }
}

fn route() -> RouteSpec {
    RouteSpec {
        destination: ("10.9.0.0".parse().unwrap(), 16),
        gateway: Some("10.77.0.254".parse().unwrap()),
        link: Some(ETH0),
        source: None,
        table: 1000,
        metric: None,
        scope: None,
        kind: RouteKind::Unicast,
    }
}

fn rule() -> RuleSpec {
    RuleSpec {
        family: Family::V4,
        from: Some(("10.77.0.100".parse().unwrap(), 32)),
        to: None,
        incoming: None,
        mark: None,
        table: 1000,
        preference: 16384,
    }
}

fn all() -> Tables {
    Tables {
        addresses: vec![wanted("10.77.0.100"), wanted("10.77.0.101")],
        routes: vec![route()],
        rules: vec![rule()],
    }
}

/// The kernel after all steps.
fn apply(steps: &[Step], actual: &Actual) -> Actual {
    let mut after = actual.clone();
    for step in steps {
        match step {
            Step::RemoveRule(rule) => after.rules.retain(|r| r != rule),
            Step::RemoveRoute(route) => after.routes.retain(|r| r != route),
            Step::RemoveAddress(address) => after.addresses.retain(|a| !is_same_address(&a.address, address)),
            Step::PutAddress(address) => {
                match after.addresses.iter_mut().find(|a| is_same_address(&a.address, address)) {
                    Some(found) => found.address.lifetime = address.lifetime,
                    None => after.addresses.push(found(address)),
                }
            }
            Step::AddRoute(route) => after.routes.push(route.clone()),
            Step::AddRule(rule) => after.rules.push(rule.clone()),
        }
    }
    after
}

#[test]
fn a_master_gets_addresses_then_routes_then_rules_and_then_nothing_more() {
    let all = all();
    let steps = plan(&all, &all, &Actual::default(), Reason::Role);
    let expected = [
        Step::PutAddress(all.addresses[0].address.clone()),
        Step::PutAddress(all.addresses[1].address.clone()),
        Step::AddRoute(route()),
        Step::AddRule(rule()),
    ];
    assert_eq!(steps, expected);
    let after = apply(&steps, &Actual::default());
    assert_eq!(plan(&all, &all, &after, Reason::Role), []);
}

#[test]
fn a_backup_loses_rules_then_routes_then_addresses_the_last_one_first() {
    let all = all();
    let master = apply(&plan(&all, &all, &Actual::default(), Reason::Role), &Actual::default());
    let steps = plan(&Tables::default(), &all, &master, Reason::Role);
    let expected = [
        Step::RemoveRule(rule()),
        Step::RemoveRoute(route()),
        Step::RemoveAddress(all.addresses[1].address.clone()),
        Step::RemoveAddress(all.addresses[0].address.clone()),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn leftovers_of_a_daemon_that_was_killed_go_even_if_somebody_made_them_permanent() {
    let all = all();
    let mut leftover = found(&all.addresses[0].address);
    leftover.address.lifetime = Lifetime::FOREVER;
    leftover.address.label = Some("eth0:1".into());
    let actual = Actual { addresses: vec![leftover.clone()], ..Actual::default() };
    let steps = plan(&Tables::default(), &all, &actual, Reason::Role);
    assert_eq!(steps, [Step::RemoveAddress(leftover.address)]);
}

#[test]
fn what_the_configuration_does_not_name_is_left_alone() {
    let all = all();
    let own = found(&wanted("10.77.0.1").address);
    let mut owner = found(&all.addresses[0].address);
    owner.address.prefix_len = 24;
    let mut elsewhere = found(&all.addresses[0].address);
    elsewhere.address.link = LinkIndex(4);
    let foreign_route = RouteSpec { table: 7, ..route() };
    let foreign_rule = RuleSpec { preference: 7, ..rule() };
    let actual = Actual {
        addresses: vec![own, owner, elsewhere],
        routes: vec![foreign_route],
        rules: vec![foreign_rule],
    };
    assert_eq!(plan(&Tables::default(), &all, &actual, Reason::Role), []);
}

#[test]
fn a_lost_address_is_put_back_unless_it_is_not_tracked() {
    let mut all = all();
    all.addresses[1].tracked = false;
    let actual = Actual { addresses: vec![], routes: vec![route()], rules: vec![rule()] };
    let first = Step::PutAddress(all.addresses[0].address.clone());
    let second = Step::PutAddress(all.addresses[1].address.clone());
    assert_eq!(plan(&all, &all, &actual, Reason::Repair), std::slice::from_ref(&first));
    assert_eq!(plan(&all, &all, &actual, Reason::Role), [first, second]);
}

#[test]
fn an_address_that_stays_for_ever_gets_its_lifetime() {
    let all = all();
    let mut actual = apply(&plan(&all, &all, &Actual::default(), Reason::Role), &Actual::default());
    actual.addresses[0].address.lifetime = Lifetime::FOREVER;
    let steps = plan(&all, &all, &actual, Reason::Repair);
    assert_eq!(steps, [Step::PutAddress(all.addresses[0].address.clone())]);
}

#[test]
fn what_cannot_be_changed_is_removed_and_added() {
    let mut all = all();
    all.addresses[0].address.label = Some("eth0:1".into());
    let mut actual = apply(&plan(&all, &all, &Actual::default(), Reason::Role), &Actual::default());
    actual.addresses[0].address.label = Some("eth0".into());
    actual.routes[0].gateway = Some("10.77.0.253".parse().unwrap());
    let steps = plan(&all, &all, &actual, Reason::Repair);
    let expected = [
        Step::RemoveRoute(actual.routes[0].clone()),
        Step::RemoveAddress(actual.addresses[0].address.clone()),
        Step::PutAddress(all.addresses[0].address.clone()),
        Step::AddRoute(route()),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn what_the_kernel_fills_in_is_no_difference() {
    let v6 = RouteSpec {
        destination: ("2001:db8::".parse().unwrap(), 32),
        gateway: None,
        link: None,
        kind: RouteKind::Unreachable,
        ..route()
    };
    let mut address = wanted("10.77.0.100");
    let mut address6 = wanted("2001:db8::100");
    let all = Tables {
        addresses: vec![address.clone(), address6.clone()],
        routes: vec![route(), v6.clone()],
        rules: vec![],
    };
    address.address.label = Some("eth0".into());
    address.address.lifetime.valid_seconds = NonZeroU32::new(1);
    address6.address.scope = 0;
    let in_kernel = RouteSpec { scope: Some(0), ..route() };
    let v6_in_kernel = RouteSpec { link: Some(LinkIndex(1)), metric: Some(1024), ..v6 };
    let actual = Actual {
        addresses: vec![found(&address.address), found(&address6.address)],
        routes: vec![in_kernel, v6_in_kernel],
        rules: vec![],
    };
    assert_eq!(plan(&all, &all, &actual, Reason::Repair), []);
}

#[test]
fn broadcast_addresses() {
    let v4: IpAddr = "10.77.1.100".parse().unwrap();
    let rows = [
        (Broadcast::Unset, 24, None),
        (Broadcast::AllOnes, 24, Some("10.77.1.255")),
        (Broadcast::AllOnes, 0, Some("255.255.255.255")),
        (Broadcast::AllOnes, 31, None),
        (Broadcast::AllOnes, 32, None),
        (Broadcast::AllZeroes, 16, Some("10.77.0.0")),
        (Broadcast::Address("10.0.0.9".parse().unwrap()), 32, Some("10.0.0.9")),
        (Broadcast::Address("::1".parse().unwrap()), 24, None),
    ];
    for (broadcast, len, expected) in rows {
        let expected = expected.map(|text| text.parse::<Ipv4Addr>().unwrap());
        assert_eq!(broadcast_of(broadcast, v4, len), expected, "{broadcast:?}/{len}");
    }
    assert_eq!(broadcast_of(Broadcast::AllOnes, "::1".parse().unwrap(), 24), None);
}

#[test]
fn a_peer_has_the_prefix() {
    let peer = VirtualAddress { peer: Some(("10.77.0.200".parse().unwrap(), 30)), ..config("10.77.0.100") };
    let address = address_of(&peer, ETH0, lifetime()).address;
    assert_eq!((address.prefix_len, address.peer), (30, Some("10.77.0.200".parse().unwrap())));
}

#[test]
fn destinations_lose_the_bits_behind_the_length() {
    let rows = [
        ("10.9.8.7", 16, "10.9.0.0"),
        ("10.9.8.7", 32, "10.9.8.7"),
        ("10.9.8.7", 0, "0.0.0.0"),
        ("2001:db8::7", 32, "2001:db8::"),
        ("2001:db8::7", 128, "2001:db8::7"),
        ("2001:db8::7", 0, "::"),
    ];
    for (address, len, expected) in rows {
        assert_eq!(network(address.parse().unwrap(), len), expected.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn rules_without_a_preference_are_counted_down() {
    let rule = |preference| VirtualRule {
        from: None,
        to: Some(("10.9.8.7".parse().unwrap(), 16)),
        incoming: None,
        mark: None,
        table: 7,
        preference,
    };
    let no_address = VirtualRule { to: None, mark: Some(9), ..rule(None) };
    let rules = rules_of(&[rule(None), rule(Some(100)), rule(None), no_address], Family::V6);
    let preferences: Vec<u32> = rules.iter().map(|rule| rule.preference).collect();
    assert_eq!(preferences, [16384, 100, 16383, 16382]);
    assert_eq!(rules[0].to, Some(("10.9.0.0".parse().unwrap(), 16)));
    assert_eq!((rules[0].family, rules[3].family), (Family::V4, Family::V6));
}
