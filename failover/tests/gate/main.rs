//! The gate in front of the addresses of services, and `no_accept`, on the real kernel with nft(8). Needs root and the package
//! nftables.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "../support/driver.rs"]
mod driver;
mod probe;
mod router;
#[path = "../support/mod.rs"]
mod support;

use std::process::Command as Process;
use std::time::Duration;

use driver::{config, config_of, has, is, local, notice, settings};
use failover::driver::now;
use failover::driver::vrrp::{Command, DriverError, Notice, VrrpCommander, VrrpHandle, VrrpSettings, start};
use failover::vip::gate::{GateError, Guarded, NfTables, Replace, Rules, load, ruleset};
use failover::vrrp::State;
use probe::{Probe, echo};
use router::Router;
use support::{Namespace, pair, until};
use tokio::task::spawn_local;
use tokio::time::sleep;

const VIP: &str = "10.77.0.100";
const VIP6: &str = "2001:db8::64";
const VIP_OF_LINK: &str = "fe80::64";
const ADDRESSES: &str = "virtual_ipaddress {\n 10.77.0.100/32\n }\n \
    virtual_ipaddress_excluded {\n 2001:db8::64/128\n fe80::64/64\n }";

const GATE: Duration = Duration::from_millis(415);
/// What the kernel's clock, and the time between a packet's mark and the packet, may add: less than a decision has waited.
const ALLOWANCE: Duration = Duration::from_millis(50);

/// Two namespaces with routes for all addresses, where programs may use an address that is not there.
fn segment() -> (Namespace, Namespace) {
    let (a, b) = pair();
    for (namespace, number) in [(&a, 1), (&b, 2)] {
        namespace.ip(&["addr", "add", &format!("2001:db8::{number}/64"), "dev", "eth0", "nodad"]);
    }
    a.enter();
    for family in ["ipv4", "ipv6"] {
        std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), "1").unwrap();
    }
    (a, b)
}

fn nft(namespace: &Namespace, arguments: &[&str]) -> Option<String> {
    let output = Process::new("ip").args(["netns", "exec", namespace.name(), "nft"]).args(arguments).output();
    let output = output.unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn alive(namespace: &Namespace) -> String {
    let sets = [("inet", "alive4"), ("inet", "alive6"), ("inet", "alive_link6"), ("arp", "alive4")];
    sets.map(|(family, set)| nft(namespace, &["list", "set", family, "lockstep", set]).unwrap()).concat()
}

fn gated(more: &str) -> VrrpSettings {
    // What the kernel does by itself would come much later.
    VrrpSettings {
        address_lifetime: Duration::from_secs(30),
        gate: Some(GATE),
        ..settings(config(more, ""), &["VI_1"])
    }
}

/// Grants the role; again, if the machine was too busy for that.
async fn granted(commander: &VrrpCommander) {
    until("the role is granted", async || commander.grant("VI_1").await.is_ok()).await;
}

/// Renews until the test ends.
fn keep(handle: &VrrpHandle) -> tokio::task::JoinHandle<()> {
    let commander = handle.commander();
    spawn_local(async move {
        loop {
            commander.renew("VI_1");
            sleep(Duration::from_millis(50)).await;
        }
    })
}

/// Not a test: the daemon that the others start.
#[test]
fn a_router_of_its_own() {
    router::run_if_asked();
}

#[test]
fn a_killed_or_stopped_daemons_addresses_answer_no_longer_than_the_gate_is_open() {
    local(async || {
        let rounds = std::env::var("LOCKSTEP_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
        let (a, b) = segment();
        let _echoes = [VIP, VIP6, VIP_OF_LINK].map(|address| echo(&a, address));
        let probes = [VIP, VIP6, VIP_OF_LINK].map(|address| Probe::start(&b, address));
        let mut late = Vec::new();
        for round in 0..rounds {
            let seen = probes.each_ref().map(Probe::answers);
            let mut router = Router::start(&a, &config_text(), Some(GATE), None);
            router.wait_for("OPEN").await;
            until("it answers", async || {
                probes.iter().zip(seen).all(|(probe, seen)| probe.answers() > seen + 20)
            })
            .await;
            if round == 0 {
                resolved(&b, true).await;
            }
            if round % 2 == 0 {
                router.kill()
            } else {
                router.stop()
            }
            sleep(GATE + Duration::from_millis(200)).await;
            let decided = router.decided();
            for (probe, address) in probes.iter().zip([VIP, VIP6, VIP_OF_LINK]) {
                let after = probe.last_answer().saturating_since(decided);
                assert!(after <= GATE + ALLOWANCE, "round {round}: {address} answered for {after:?}");
                late.push(after);
                assert!(has(&a, &format!("{address}/")), "the kernel still shows {address}");
            }
            if round == 0 {
                resolved(&b, false).await;
            }
            router.kill();
        }
        late.sort();
        let (least, median, most) = (late[0], late[late.len() / 2], late[late.len() - 1]);
        println!("last answer after the last decision: least {least:?} median {median:?} most {most:?}");
        assert!(
            late.iter().any(|after| *after > GATE / 4),
            "it answered after its end, for as long as it should"
        );
    });
}

fn config_text() -> String {
    format!(
        "vrrp_instance VI_1 {{\n interface eth0\n version 3\n virtual_router_id 51\n priority 100\n \
         advert_int 0.5\n {ADDRESSES}\n}}\n"
    )
}

/// Forgets the neighbours while they are asked for: each is found again, or is not for a second.
async fn resolved(b: &Namespace, wanted: bool) {
    b.ip(&["neigh", "flush", "dev", "eth0"]);
    let end = now() + Duration::from_secs(1);
    for address in [VIP, VIP6, VIP_OF_LINK] {
        until(&format!("{address} is found: {wanted}"), async || {
            let shown = b.ip(&["neigh", "show", "to", address, "dev", "eth0"]);
            let is_found = shown.contains("lladdr");
            assert!(wanted || !is_found, "{address} is found: {shown}");
            if wanted { is_found } else { !shown.is_empty() && now() > end }
        })
        .await;
    }
}

#[test]
fn a_flushed_ruleset_is_put_back_under_a_master() {
    local(async || {
        let (a, b) = segment();
        let _echo = echo(&a, VIP);
        let probe = Probe::start(&b, VIP);
        // So long that a busy machine does not lose the role meanwhile.
        let gate = Some(Duration::from_secs(4));
        let mut handle = start(VrrpSettings { gate, ..gated(ADDRESSES) }).await.unwrap();
        assert_eq!(handle.gate(), gate);
        granted(&handle.commander()).await;
        let renewing = keep(&handle);
        // As it was saved when nothing was guarded yet.
        let saved = "flush ruleset; table inet lockstep { set alive4 { type ipv4_addr; flags timeout; }; set alive6 { type \
                     ipv6_addr; flags timeout; }; set alive_link6 { type ifname . ipv6_addr; flags timeout; }; }; table arp \
                     lockstep { set alive4 { type ipv4_addr; flags timeout; }; }";
        for flush in [&["flush", "ruleset"][..], &["delete", "table", "arp", "lockstep"], &[saved]] {
            until("it answers", async || probe.answers() > 0).await;
            nft(&a, flush).unwrap();
            until("it is mended", async || {
                let [inet, arp] = ["inet", "arp"].map(|f| nft(&a, &["list", "table", f, "lockstep"]));
                inet.is_some_and(|text| text.contains("ip daddr 10.77.0.100 ip daddr != @alive4"))
                    && arp.is_some_and(|text| text.contains("expires"))
            })
            .await;
            let answers = probe.answers();
            until("it answers again", async || probe.answers() > answers).await;
        }
        assert_eq!(handle.status().borrow().instances[0].state, State::Master, "for all the time");
        renewing.abort();
        let lost = notice(&mut handle, |n| matches!(n, Notice::RoleLost { .. })).await;
        let why = "it was not renewed in time".to_owned();
        assert_eq!(lost, Notice::RoleLost { instance: "VI_1".into(), why }, "after the time of the gate");
        until("without it", async || !has(&a, VIP)).await;
        // Nobody renews, and the rules come back nevertheless.
        nft(&a, &["flush", "ruleset"]).unwrap();
        until("a look each second", async || nft(&a, &["list", "table", "inet", "lockstep"]).is_some()).await;
        handle.commander().stop().await;
        assert_eq!(nft(&a, &["list", "tables"]).unwrap(), "", "a daemon that is stopped leaves nothing");
    });
}

#[test]
fn what_is_revoked_is_closed_and_what_is_reloaded_stays_open() {
    local(async || {
        let (a, b) = segment();
        let _echoes = [VIP, "10.77.0.101"].map(|address| echo(&a, address));
        let (old, new) = (Probe::start(&b, VIP), Probe::start(&b, "10.77.0.101"));
        let handle =
            start(VrrpSettings { gate: Some(Duration::from_secs(20)), ..gated(ADDRESSES) }).await.unwrap();
        let commander = handle.commander();
        assert!(!alive(&a).contains("elements"), "closed until somebody says so");
        granted(&commander).await;
        assert_eq!(alive(&a).matches("expires").count(), 4, "{}", alive(&a));
        until("it answers", async || old.answers() > 0).await;
        let more = ADDRESSES.replacen("10.77.0.100/32", "10.77.0.100/32\n 10.77.0.101/32", 1);
        commander.send(Command::Reload(Box::new(config(&more, "")), vec!["VI_1".into()]));
        until("another rule", async || {
            let rules = nft(&a, &["list", "table", "inet", "lockstep"]).unwrap();
            rules.contains("ip saddr { 10.77.0.100, 10.77.0.101 }")
        })
        .await;
        for address in [VIP, VIP6, VIP_OF_LINK] {
            assert!(alive(&a).contains(&format!("{address} timeout")), "nobody has renewed {address}");
        }
        until("the new one answers", async || {
            commander.renew("VI_1");
            new.answers() > 0
        })
        .await;
        commander.revoke("VI_1").await;
        assert!(!alive(&a).contains("elements"), "{}", alive(&a));
        assert!(!has(&a, VIP));
        // As if the kernel kept it: nobody has opened the gate.
        a.ip(&["addr", "add", "10.77.0.100/32", "dev", "eth0"]);
        let (seen, control) = (old.answers(), Probe::start(&b, "10.77.0.1"));
        let _own = echo(&a, "10.77.0.1");
        until("the node itself answers", async || control.answers() > 50).await;
        assert!(old.answers() <= seen + 1, "one may have been on its way");
        commander.stop().await;
    });
}

#[test]
fn an_address_that_is_on_another_node_is_reached_through_this_one() {
    local(async || {
        let (a, b) = segment();
        // The address is on b, which is no router of ours; this node asks for it, and forwards what c sends to it.
        let c = Namespace::new();
        #[rustfmt::skip]
        c.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth1", "netns", a.name()]);
        a.ip(&["addr", "add", "10.78.0.1/24", "dev", "eth1"]);
        a.ip(&["link", "set", "eth1", "up"]);
        c.ip(&["addr", "add", "10.78.0.2/24", "dev", "eth0"]);
        c.ip(&["link", "set", "eth0", "up"]);
        c.ip(&["route", "add", "default", "via", "10.78.0.1"]);
        b.ip(&["route", "add", "default", "via", "10.77.0.1"]);
        b.ip(&["addr", "add", "10.77.0.100/32", "dev", "eth0"]);
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let handle = start(gated(ADDRESSES)).await.unwrap();
        let _echo = echo(&b, VIP);
        for namespace in [&a, &c] {
            let probe = Probe::start(namespace, VIP);
            until("it is reached", async || probe.answers() > 0).await;
        }
        // It moves on: what is announced is heard, long before the neighbour would be asked again.
        let _probe = Probe::start(&a, VIP);
        a.ip(&["neigh", "flush", "dev", "eth0"]);
        let neighbour = || a.ip(&["neigh", "show", "to", VIP, "dev", "eth0"]);
        until("a neighbour", async || neighbour().contains("lladdr 02:00:00:00:00:02 REACHABLE")).await;
        let sysctl = ["netns", "exec", b.name(), "sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1"];
        assert!(Process::new("ip").args(sysctl).status().unwrap().success());
        b.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:22"]);
        until("an announcement", async || neighbour().contains("lladdr 02:00:00:00:00:22")).await;
        handle.commander().stop().await;
    });
}

#[test]
fn no_accept_keeps_an_address_silent_unless_its_node_owns_it() {
    local(async || {
        let (a, b) = segment();
        let instance = |number: u32, priority: u32, more: &str| {
            format!(
                "vrrp_instance VI_{number} {{\n interface eth0\n version 3\n virtual_router_id {number}\n \
                 priority {priority}\n advert_int 0.2\n virtual_ipaddress {{\n 10.77.0.10{number}/32\n }}\n {more}\n}}\n"
            )
        };
        let all = config_of(
            &[instance(1, 100, "no_accept"), instance(2, 255, "no_accept"), instance(3, 100, "accept")]
                .concat(),
        );
        let handle = start(settings(all, &[])).await.unwrap();
        assert_eq!(handle.gate(), None, "nobody has asked for one");
        let addresses = ["10.77.0.101", "10.77.0.102", "10.77.0.103"];
        until("three masters", async || addresses.iter().all(|address| has(&a, address))).await;
        let _echoes = addresses.map(|address| echo(&a, address));
        let probes = addresses.map(|address| Probe::start(&b, address));
        until("the others answer", async || probes[1..].iter().all(|probe| probe.answers() > 50)).await;
        assert_eq!(probes[0].answers(), 0);
        until("neighbours find it", async || b.ip(&["neigh", "show", "to", addresses[0]]).contains("lladdr"))
            .await;
        let (owned, accepted) = (probes[1].answers(), probes[2].answers());
        // Without the line nothing is left of it.
        let without = [instance(1, 100, ""), instance(2, 255, ""), instance(3, 100, "")].concat();
        handle.commander().send(Command::Reload(Box::new(config_of(&without)), Vec::new()));
        until("it answers now", async || probes[0].answers() > 0).await;
        until("and the others", async || probes[1].answers() > owned && probes[2].answers() > accepted).await;
        handle.commander().stop().await;
        assert_eq!(nft(&a, &["list", "tables"]).unwrap(), "");
    });
}

#[test]
fn without_nft_there_is_no_gate_and_everything_else_is_as_before() {
    local(async || {
        let (a, b) = segment();
        // Rules of an earlier run would keep the address closed.
        let rules =
            Rules { guarded: [Guarded::new(VIP.parse().unwrap(), "eth0")].into(), ..Rules::default() };
        load(&ruleset(&rules, Replace::Everything)).await.unwrap();
        let programs = router::programs(&["ip"]);
        let mut router = Router::start(&a, &config_text(), Some(GATE), Some(programs.path()));
        router.wait_for("GATE None").await;
        router.wait_for("OPEN").await;
        assert!(has(&a, VIP));
        let log = router.log();
        assert!(log.contains("there is no gate") && log.contains("install nftables"), "{log}");
        assert_eq!(nft(&a, &["list", "tables"]).unwrap(), "");
        let _echo = echo(&a, VIP);
        let probe = Probe::start(&b, VIP);
        until("it answers", async || probe.answers() > 0).await;
        router.kill();
    });
}

#[test]
fn a_gate_that_cannot_be_put_back_costs_the_role() {
    local(async || {
        let (a, _b) = segment();
        let programs = router::programs(&["ip", "nft"]);
        let mut router = Router::start(&a, &config_text(), Some(GATE), Some(programs.path()));
        router.wait_for("OPEN").await;
        std::fs::remove_file(programs.path().join("nft")).unwrap();
        nft(&a, &["flush", "ruleset"]).unwrap();
        router.wait_for("LOST VI_1").await;
        until("no address", async || !has(&a, VIP)).await;
        let log = router.log();
        assert!(log.contains("does not open: cannot run nft"), "{log}");
        router.wait_for("REFUSED").await;
        assert!(!has(&a, VIP), "what cannot be guarded is not there");
        std::os::unix::fs::symlink(router::program("nft"), programs.path().join("nft")).unwrap();
        until("the rules are back", async || nft(&a, &["list", "table", "inet", "lockstep"]).is_some()).await;
        router.wait_for("OPEN").await;
        router.kill();
    });
}

#[test]
fn elements_are_renewed_whether_they_live_or_have_just_expired() {
    local(async || {
        let (a, _b) = segment();
        let mut tables = NfTables::open().unwrap();
        let all: Vec<Guarded> = (0..600)
            .map(|n| Guarded::new(format!("10.79.{}.{}", n / 250, n % 250).parse().unwrap(), "eth0"))
            .chain([VIP6, VIP_OF_LINK].map(|address| Guarded::new(address.parse().unwrap(), "eth0")))
            .collect();
        assert_eq!(tables.look().unwrap(), None);
        assert!(matches!(tables.renew(&all, GATE), Err(GateError::Gone)));
        assert!(matches!(tables.close(&all), Err(GateError::Gone)));
        tables.remove().unwrap();
        let rules = Rules { guarded: all.iter().cloned().collect(), ..Rules::default() };
        load(&ruleset(&rules, Replace::RulesOnly)).await.unwrap();
        let before = tables.look().unwrap();
        assert!(before.is_some());
        tables.close(&all).unwrap();
        let one = &all[..1];
        for round in 0..400 {
            tables.renew(one, Duration::from_millis(1 + round % 5)).unwrap();
            std::thread::sleep(Duration::from_micros(round * 37 % 6000));
        }
        tables.renew(&all, Duration::from_secs(100)).unwrap();
        tables.renew(&all, Duration::from_secs(50)).unwrap();
        assert_eq!(alive(&a).matches("timeout 50s").count(), 1202, "none has kept its 100 seconds");
        load(&ruleset(&rules, Replace::RulesOnly)).await.unwrap();
        assert_eq!(alive(&a).matches("timeout 50s").count(), 1202, "other rules leave them");
        tables.close(&all).unwrap();
        assert!(!alive(&a).contains("elements"));
        assert_eq!(tables.look().unwrap(), before, "the same tables for all the time");
        load(&ruleset(&rules, Replace::Everything)).await.unwrap();
        assert_ne!(tables.look().unwrap(), before, "others of the same name");
        tables.remove().unwrap();
        assert_eq!(tables.look().unwrap(), None);
        assert!(matches!(load("nonsense").await, Err(GateError::Load(_))));
    });
}

#[test]
fn an_old_word_opens_nothing() {
    local(async || {
        let (a, _b) = segment();
        let handle =
            start(VrrpSettings { gate: Some(Duration::from_secs(2)), ..gated(ADDRESSES) }).await.unwrap();
        let commander = handle.commander();
        granted(&commander).await;
        let end = now() + Duration::from_millis(2500);
        while now() < end {
            commander.send_decided(now() - Duration::from_millis(150), Command::Renew("VI_1".into()));
            sleep(Duration::from_millis(100)).await;
        }
        is(&handle, State::Backup).await;
        assert!(!alive(&a).contains("elements") && !has(&a, VIP));
        commander.stop().await;
        let short = VrrpSettings { gate: Some(Duration::from_millis(100)), ..gated(ADDRESSES) };
        assert!(matches!(start(short).await, Err(DriverError::Gate(_))));
    });
}
