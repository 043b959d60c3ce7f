//! Addresses, routes, rules and macvlans in the kernel's tables, as ip(8) sees them. Needs root.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

mod support;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use failover::vip::announce::virtual_mac;
use failover::vip::netlink::{
    AddressOptions, Family, InterfaceAddress, Lifetime, LinkIndex, MAIN_TABLE, MacvlanSpec, Monitor,
    MonitorEvent, Netlink, NetlinkError, RouteSpec, RuleSpec,
};
use failover::vip::plan::{Reason, Tables, WantedAddress, plan};
use model::failover::config::RouteKind;
use support::{Namespace, pair, run, until};

fn address(link: LinkIndex, local: &str) -> InterfaceAddress {
    let local: IpAddr = local.parse().unwrap();
    InterfaceAddress {
        link,
        local,
        prefix_len: if local.is_ipv4() { 32 } else { 128 },
        peer: None,
        broadcast: None,
        scope: 0,
        label: None,
        options: AddressOptions { no_dad: local.is_ipv6(), ..AddressOptions::default() },
        lifetime: Lifetime::FOREVER,
    }
}

fn seconds(valid: u32) -> Lifetime {
    Lifetime::seconds(NonZeroU32::new(valid).unwrap())
}

/// Two namespaces, the thread in the first one, and its eth0.
async fn start() -> (Namespace, Namespace, Netlink, LinkIndex) {
    let (a, b) = pair();
    a.enter();
    let netlink = Netlink::open().unwrap();
    let eth0 = netlink.link("eth0").await.unwrap().unwrap().index;
    (a, b, netlink, eth0)
}

async fn has(netlink: &Netlink, address: &InterfaceAddress) -> bool {
    netlink.addresses().await.unwrap().iter().any(|found| found.address.local == address.local)
}

#[test]
fn links_are_found_by_name() {
    run(async || {
        let (_a, b, netlink, eth0) = start().await;
        let link = netlink.link("eth0").await.unwrap().unwrap();
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 1]));
        assert!(link.is_usable());
        assert_eq!(link.mtu_bytes, 1500);
        assert_eq!(netlink.link("eth1").await.unwrap(), None);
        assert_eq!(netlink.link("a name that is too long").await.unwrap(), None);
        let links = netlink.links().await.unwrap();
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0"]);
        b.ip(&["link", "set", "eth0", "down"]);
        until("eth0 without a carrier", async || {
            let link = netlink.link("eth0").await.unwrap().unwrap();
            link.up && !link.running
        })
        .await;
        netlink.set_up(eth0, false).await.unwrap();
        assert!(!netlink.link("eth0").await.unwrap().unwrap().up);
    });
}

#[test]
fn adverts_come_from_the_first_address_and_never_from_the_virtual_one() {
    run(async || {
        let (_a, _b, netlink, eth0) = start().await;
        let vip = address(eth0, "10.1.1.1");
        netlink.add_address(&vip).await.unwrap();
        let source = netlink.source_address(eth0, Family::V4, &[vip.local]).await.unwrap();
        assert_eq!(source, Some("10.77.0.1".parse().unwrap()));
        let source = netlink.source_address(eth0, Family::V6, &[]).await.unwrap();
        assert_eq!(source, Some("fe80::ff:fe00:1".parse().unwrap()));
    });
}

#[test]
fn the_kernel_takes_an_address_back_unless_it_is_renewed() {
    run(async || {
        let (_a, _b, netlink, eth0) = start().await;
        let mut monitor = Monitor::open().unwrap();
        let mut addresses = [address(eth0, "10.77.0.100"), address(eth0, "2001:db8::100")];
        for address in &mut addresses {
            address.lifetime = seconds(2);
        }
        let mut renewed = Instant::now();
        for round in 0..4 {
            // A machine that is busy may be late itself.
            let in_time = renewed.elapsed() < Duration::from_millis(1900);
            for address in &addresses {
                assert!(has(&netlink, address).await || round == 0 || !in_time, "round {round}");
                netlink.put_address(address).await.unwrap();
            }
            renewed = Instant::now();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let left = netlink.addresses().await.unwrap();
        let left = left.iter().find(|found| found.address.local == addresses[0].local).unwrap();
        assert!(left.address.lifetime.valid_seconds.is_some_and(|left| left.get() <= 2));
        for address in &addresses {
            until("the address is gone", async || !has(&netlink, address).await).await;
        }
        let (least, most) = (Duration::from_millis(1800), Duration::from_secs(6));
        assert!((least..most).contains(&renewed.elapsed()), "{:?}", renewed.elapsed());
        let mut gone = Vec::new();
        while gone.len() < 2 {
            match monitor.next().await.unwrap() {
                MonitorEvent::AddressGone(found) => gone.push(found.address.local),
                MonitorEvent::Address(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(addresses.iter().all(|address| gone.contains(&address.local)));
    });
}

#[test]
fn ip_shows_everything_that_was_said_of_an_address() {
    run(async || {
        let (a, _b, netlink, eth0) = start().await;
        let mut v4 = address(eth0, "10.78.0.100");
        v4.prefix_len = 24;
        v4.peer = Some("10.78.1.0".parse().unwrap());
        v4.broadcast = Some("10.78.0.255".parse().unwrap());
        v4.scope = 200;
        v4.label = Some("eth0:vip".into());
        v4.options.no_prefix_route = true;
        v4.lifetime = seconds(300).preferred_for(Some(0));
        let mut v6 = address(eth0, "2001:db8::100");
        v6.options = AddressOptions { home: true, no_dad: true, no_prefix_route: true };
        v6.lifetime = seconds(300);
        for address in [&v4, &v6] {
            netlink.add_address(address).await.unwrap();
        }
        let shown = a.ip(&["-d", "addr", "show", "dev", "eth0"]);
        for line in [
            "inet 10.78.0.100 peer 10.78.1.0/24 brd 10.78.0.255 scope site deprecated dynamic noprefixroute eth0:vip",
            "valid_lft 300sec preferred_lft 0sec",
            "inet6 2001:db8::100/128 scope global nodad home dynamic noprefixroute",
            "valid_lft 300sec preferred_lft 300sec",
        ] {
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let mut wanted = words(line);
            wanted.sort();
            let found = shown.lines().any(|shown| {
                let mut shown = words(shown);
                shown.sort();
                // Lifetimes may have lost a second.
                shown == wanted || shown.join(" ").replace("299sec", "300sec") == wanted.join(" ")
            });
            assert!(found, "{line}\nin\n{shown}");
        }
        let found = netlink.addresses().await.unwrap();
        for wanted in [v4, v6] {
            let found = found.iter().find(|found| found.address.local == wanted.local).unwrap();
            let lifetime = wanted.lifetime;
            assert_eq!(InterfaceAddress { lifetime, ..found.address.clone() }, wanted);
            assert!(netlink.remove_address(&wanted).await.unwrap());
            assert!(!netlink.remove_address(&wanted).await.unwrap());
        }
    });
}

#[test]
fn errors_say_what_where_and_why() {
    run(async || {
        let (_a, _b, netlink, eth0) = start().await;
        let lost = address(LinkIndex(999), "10.77.0.100");
        let said = netlink.add_address(&lost).await.unwrap_err().to_string();
        assert!(
            said.starts_with(
                "cannot add address 10.77.0.100/32 on interface 999: No such device (os error 19)"
            ),
            "{said}"
        );
        assert!(!netlink.remove_address(&lost).await.unwrap());
        let there = address(eth0, "10.77.0.100");
        netlink.add_address(&there).await.unwrap();
        assert_eq!(netlink.add_address(&there).await.unwrap_err().errno(), Some(libc::EEXIST));
        netlink.put_address(&there).await.unwrap();
        let impossible = InterfaceAddress { prefix_len: 33, ..there };
        let said = netlink.add_address(&impossible).await.unwrap_err().to_string();
        assert!(said.contains("10.77.0.100/33 on interface"), "{said}");
        assert!(said.contains("Invalid argument (os error 22): "), "the kernel's own words: {said}");
    });
}

fn route(destination: &str, len: u8) -> RouteSpec {
    RouteSpec {
        destination: (destination.parse().unwrap(), len),
        gateway: None,
        link: None,
        source: None,
        table: MAIN_TABLE,
        metric: None,
        scope: None,
        kind: RouteKind::Unicast,
    }
}

#[test]
fn ip_shows_routes_and_rules_of_keepalived() {
    run(async || {
        let (a, _b, netlink, eth0) = start().await;
        let routes = [
            RouteSpec {
                gateway: Some("10.77.0.254".parse().unwrap()),
                link: Some(eth0),
                source: Some("10.77.0.1".parse().unwrap()),
                table: 1000,
                metric: Some(7),
                ..route("0.0.0.0", 0)
            },
            RouteSpec { link: Some(eth0), ..route("10.9.0.0", 16) },
            RouteSpec { kind: RouteKind::Unreachable, ..route("10.8.0.0", 16) },
            RouteSpec { kind: RouteKind::Blackhole, ..route("2001:db8:8::", 48) },
            RouteSpec {
                gateway: Some("fe80::9".parse().unwrap()),
                link: Some(eth0),
                ..route("2001:db8:9::", 48)
            },
        ];
        let rules = [
            RuleSpec {
                family: Family::V4,
                from: Some(("10.77.0.100".parse().unwrap(), 32)),
                to: Some(("10.9.0.0".parse().unwrap(), 16)),
                incoming: Some("eth0".into()),
                mark: Some(9),
                table: 1000,
                preference: 16384,
            },
            RuleSpec {
                family: Family::V6,
                from: None,
                to: Some(("2001:db8:9::".parse().unwrap(), 48)),
                incoming: None,
                mark: None,
                table: 7,
                preference: 16383,
            },
        ];
        a.ip(&["route", "add", "10.7.0.0/16", "dev", "eth0"]);
        for route in &routes {
            netlink.add_route(route).await.unwrap();
        }
        for rule in &rules {
            netlink.add_rule(rule).await.unwrap();
        }
        let shown = [
            a.ip(&["-N", "route", "show", "table", "all"]),
            a.ip(&["-6", "-N", "route", "show", "table", "all"]),
            a.ip(&["-N", "rule"]),
            a.ip(&["-6", "-N", "rule"]),
        ]
        .join("\n");
        // By their numbers, kinds are 6 blackhole and 7 unreachable.
        for line in [
            "default via 10.77.0.254 dev eth0 table 1000 proto 18 src 10.77.0.1 metric 7",
            "10.9.0.0/16 dev eth0 proto 18 scope 253",
            "7 10.8.0.0/16 proto 18",
            "6 2001:db8:8::/48 dev lo proto 18 metric 1024",
            "2001:db8:9::/48 via fe80::9 dev eth0 proto 18 metric 1024",
            "16384: from 10.77.0.100 to 10.9.0.0/16 fwmark 0x9 iif eth0 lookup 1000 proto 18",
            "16383: from all to 2001:db8:9::/48 lookup 7 proto 18",
        ] {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(shown.lines().any(|shown| squeezed(shown).starts_with(line)), "{line}\nin\n{shown}");
        }
        assert_eq!(netlink.routes().await.unwrap().len(), routes.len());
        assert_eq!(netlink.rules().await.unwrap(), rules);
        assert_eq!(netlink.add_route(&routes[0]).await.unwrap_err().errno(), Some(libc::EEXIST));
        // Somebody else's is not removed, even if it leads to the same place.
        assert!(
            !netlink.remove_route(&RouteSpec { link: Some(eth0), ..route("10.7.0.0", 16) }).await.unwrap()
        );
        for route in &routes {
            assert!(netlink.remove_route(route).await.unwrap());
            assert!(!netlink.remove_route(route).await.unwrap());
        }
        for rule in &rules {
            assert!(netlink.remove_rule(rule).await.unwrap());
            assert!(!netlink.remove_rule(rule).await.unwrap());
        }
        assert!(a.ip(&["route"]).contains("10.7.0.0/16"));
    });
}

#[test]
fn a_virtual_router_has_an_interface_of_its_own() {
    run(async || {
        let (a, _b, netlink, eth0) = start().await;
        let v4 = MacvlanSpec { name: "vrrp.51".into(), lower: eth0, mac: virtual_mac(51, false) };
        let v6 = MacvlanSpec { name: "vrrp6.51".into(), lower: eth0, mac: virtual_mac(51, true) };
        let link = netlink.make_macvlan(&v4).await.unwrap();
        assert!(link.up);
        assert_eq!(netlink.make_macvlan(&v4).await.unwrap().index, link.index, "taken over");
        let other_mac = MacvlanSpec { mac: virtual_mac(52, false), ..v4.clone() };
        assert!(matches!(netlink.make_macvlan(&other_mac).await, Err(NetlinkError::InTheWay { .. })));
        assert!(matches!(netlink.remove_macvlan(&other_mac).await, Err(NetlinkError::InTheWay { .. })));
        netlink.make_macvlan(&v6).await.unwrap();
        let shown = a.ip(&["-d", "link", "show", "vrrp.51"]);
        for part in ["vrrp.51@eth0", "macvlan mode private", "00:00:5e:00:01:33", "LOWER_UP"] {
            assert!(shown.contains(part), "{part}\nin\n{shown}");
        }
        assert!(!a.ip(&["addr", "show", "vrrp.51"]).contains("inet6"));
        let shown = a.ip(&["addr", "show", "vrrp6.51"]);
        assert!(shown.contains("inet6 fe80::ff:fe00:1/64"), "{shown}");
        assert!(!shown.contains("tentative"), "{shown}");
        let no_macvlan = MacvlanSpec { name: "eth0".into(), ..v4.clone() };
        let said = netlink.make_macvlan(&no_macvlan).await.unwrap_err().to_string();
        assert_eq!(said, "cannot make macvlan eth0: eth0 is there and is no macvlan");
        for spec in [v4, v6] {
            assert!(netlink.remove_macvlan(&spec).await.unwrap());
            assert!(!netlink.remove_macvlan(&spec).await.unwrap());
        }
    });
}

/// The next event that is not about an address of the kernel's own making.
async fn event(monitor: &mut Monitor) -> MonitorEvent {
    let next = tokio::time::timeout(Duration::from_secs(10), monitor.next());
    next.await.expect("an event").unwrap()
}

#[test]
fn the_monitor_sees_links_and_addresses_come_and_go() {
    run(async || {
        let (a, b, netlink, eth0) = start().await;
        let mut monitor = Monitor::open().unwrap();
        monitor.knows(&netlink.links().await.unwrap());
        a.ip(&["addr", "add", "10.77.0.100/32", "dev", "eth0"]);
        let MonitorEvent::Address(come) = event(&mut monitor).await else { panic!("no address") };
        assert_eq!((come.address.link, come.address.local), (eth0, "10.77.0.100".parse().unwrap()));
        a.ip(&["addr", "del", "10.77.0.100/32", "dev", "eth0"]);
        let MonitorEvent::AddressGone(gone) = event(&mut monitor).await else { panic!("not gone") };
        assert_eq!(gone.address.local, come.address.local);

        b.ip(&["link", "set", "eth0", "down"]);
        let (mut now, mut before);
        loop {
            let MonitorEvent::Link { now: n, before: b } = event(&mut monitor).await else { continue };
            (now, before) = (n, b.unwrap());
            if !now.running {
                break;
            }
        }
        assert!(now.up && before.is_usable());
        b.ip(&["link", "set", "eth0", "up"]);
        while !now.running {
            let MonitorEvent::Link { now: n, before: b } = event(&mut monitor).await else { continue };
            (now, before) = (n, b.unwrap());
        }
        assert!(now.is_usable() && !before.is_usable());

        a.ip(&["link", "set", "eth0", "down"]);
        a.ip(&["link", "set", "eth0", "name", "wan0"]);
        loop {
            let MonitorEvent::Link { now, before } = event(&mut monitor).await else { continue };
            if now.name == "wan0" {
                assert_eq!((now.index, before.unwrap().name.as_str()), (eth0, "eth0"));
                break;
            }
        }
        a.ip(&["link", "del", "wan0"]);
        loop {
            match event(&mut monitor).await {
                MonitorEvent::LinkGone(link) => break assert_eq!(link.index, eth0),
                MonitorEvent::Missed => panic!("missed"),
                _ => {}
            }
        }
    });
}

#[test]
fn a_monitor_that_is_not_read_says_that_it_missed_something() {
    run(async || {
        let (a, _b, _netlink, _eth0) = start().await;
        let mut monitor = Monitor::open().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let batch = directory.path().join("batch");
        let line = "addr add 10.77.0.100/32 dev eth0\naddr del 10.77.0.100/32 dev eth0\n";
        std::fs::write(&batch, line.repeat(5000)).unwrap();
        a.ip(&["-batch", batch.to_str().unwrap()]);
        while event(&mut monitor).await != MonitorEvent::Missed {}
        // It goes on afterwards.
        a.ip(&["addr", "add", "10.77.0.200/32", "dev", "eth0"]);
        loop {
            if let MonitorEvent::Address(found) = event(&mut monitor).await
                && found.address.local == "10.77.0.200".parse::<IpAddr>().unwrap()
            {
                break;
            }
        }
    });
}

#[test]
fn dumps_are_whole_while_tables_change() {
    run(async || {
        let (a, _b, netlink, eth0) = start().await;
        for number in 0..200 {
            let local = format!("10.79.{}.{}", number / 100, number % 100 + 1);
            netlink.add_address(&address(eth0, &local)).await.unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let batch = directory.path().join("batch");
        let line = "addr add 10.77.0.100/32 dev eth0\naddr del 10.77.0.100/32 dev eth0\n";
        std::fs::write(&batch, line.repeat(2000)).unwrap();
        let mut disturber = tokio::process::Command::new("ip");
        disturber.arg("-batch").arg(&batch);
        let mut disturber = disturber.spawn().unwrap();
        let mut whole = 0;
        while disturber.try_wait().unwrap().is_none() {
            match netlink.addresses().await {
                Ok(all) => {
                    let ours = all.iter().filter(|f| f.address.local.to_string().starts_with("10.79."));
                    assert_eq!(ours.count(), 200);
                    whole += 1;
                }
                Err(NetlinkError::KeepsChanging { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
        assert!(whole > 0);
        drop(a);
    });
}

#[test]
fn a_plan_is_done_and_then_there_is_nothing_left_to_do() {
    run(async || {
        let (a, _b, netlink, eth0) = start().await;
        let wanted = |text| WantedAddress {
            address: InterfaceAddress { lifetime: seconds(300), ..address(eth0, text) },
            tracked: true,
        };
        let ours = Tables {
            addresses: vec![wanted("10.77.0.100"), wanted("10.77.0.101"), wanted("2001:db8::100")],
            routes: vec![
                RouteSpec { gateway: Some("10.77.0.254".parse().unwrap()), table: 9, ..route("0.0.0.0", 0) },
                RouteSpec { kind: RouteKind::Prohibit, ..route("2001:db8:7::", 48) },
            ],
            rules: vec![RuleSpec {
                family: Family::V4,
                from: Some(("10.77.0.100".parse().unwrap(), 32)),
                to: None,
                incoming: None,
                mark: None,
                table: 9,
                preference: 16384,
            }],
        };
        // What a killed daemon and a careless operator leave.
        a.ip(&["addr", "add", "10.77.0.100/32", "dev", "eth0", "label", "eth0:old"]);
        netlink.add_route(&ours.routes[1]).await.unwrap();
        let own = a.ip(&["addr", "show", "eth0"]).matches("inet").count() - 1;

        let backup = Tables::default();
        let apply = async |wanted: &Tables, reason| {
            let steps = plan(wanted, &ours, &netlink.actual().await.unwrap(), reason);
            for step in &steps {
                netlink.apply(step).await.unwrap();
            }
            assert_eq!(plan(wanted, &ours, &netlink.actual().await.unwrap(), reason), []);
            steps.len()
        };
        assert_eq!(apply(&backup, Reason::Role).await, 2);
        assert_eq!(apply(&ours, Reason::Role).await, 6);
        a.ip(&["addr", "del", "10.77.0.101/32", "dev", "eth0"]);
        a.ip(&["-6", "route", "del", "prohibit", "2001:db8:7::/48"]);
        assert_eq!(apply(&ours, Reason::Repair).await, 2);
        assert_eq!(apply(&backup, Reason::Role).await, 6);
        assert_eq!(a.ip(&["addr", "show", "eth0"]).matches("inet").count(), own);
    });
}
