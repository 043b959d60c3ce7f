//! The driver of virtual routers in one namespace: addresses, routes, trackers, notifications. Needs root.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/driver.rs"]
mod driver;
mod support;

use std::cell::RefCell;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use driver::{config, has, is, local, notice, settings};
use failover::driver::mail::Mailer;
use failover::driver::now;
use failover::driver::vrrp::{Command, DriverError, Notice, VrrpSettings, start};
use failover::vrrp::State;
use socket2::{Domain, Protocol, Socket, Type};
use support::{Namespace, pair, until};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::sleep;

const ADDRESS: &str = "virtual_ipaddress {\n 10.77.0.100/32\n }";

fn addresses(namespace: &Namespace) -> String {
    namespace.ip(&["-o", "addr", "show"])
}

const VIP: &str = "10.77.0.100/32";

#[test]
fn a_bound_instance_has_its_address_only_as_long_as_somebody_renews_it() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        let mut settings = settings(config(ADDRESS, ""), &["VI_1"]);
        settings.address_lifetime = Duration::from_secs(2);
        let mut handle = start(settings).await.unwrap();
        let commander = handle.commander();
        notice(&mut handle, |n| matches!(n, Notice::PeerSpeaks { speaks: false, .. })).await;
        assert!(!has(&a, VIP), "silence is no grant");
        commander.grant("VI_1").await.unwrap();
        assert!(has(&a, VIP));
        assert!(!addresses(&a).lines().any(|line| line.contains(VIP) && line.contains("valid_lft forever")));
        for _ in 0..15 {
            sleep(Duration::from_millis(200)).await;
            commander.renew("VI_1");
        }
        assert!(has(&a, VIP), "it is renewed");
        until("it goes when nobody renews it", async || !has(&a, VIP)).await;
        sleep(Duration::from_millis(1200)).await;
        assert!(!has(&a, VIP), "nobody puts it back");
        let lost = notice(&mut handle, |n| matches!(n, Notice::RoleLost { .. })).await;
        assert_eq!(
            lost,
            Notice::RoleLost { instance: "VI_1".into(), why: "it was not renewed in time".into() }
        );
        is(&handle, State::Backup).await;
        commander.grant("VI_1").await.unwrap();
        assert!(has(&a, VIP), "it is back");
        for _ in 0..15 {
            sleep(Duration::from_millis(200)).await;
            commander.grant("VI_1").await.unwrap();
        }
        assert!(has(&a, VIP), "whoever has it, and is granted it, is renewed");
        commander.revoke("VI_1").await;
        assert!(!has(&a, VIP), "it is gone when the answer comes");
        is(&handle, State::Backup).await;
        commander.renew("VI_1");
        let lost = notice(&mut handle, |n| matches!(n, Notice::RoleLost { .. })).await;
        let why = "it has no role that could be renewed".to_owned();
        assert_eq!(
            lost,
            Notice::RoleLost { instance: "VI_1".into(), why },
            "whoever renews it has to grant it"
        );
        assert!(!has(&a, VIP), "who has no role is not renewed");
        assert!(commander.grant("VI_2").await.unwrap_err().contains("VI_2"));
        commander.grant("VI_1").await.unwrap();
        commander.stop().await;
        assert!(!has(&a, VIP));
        let lost = notice(&mut handle, |n| matches!(n, Notice::RoleLost { .. })).await;
        assert_eq!(lost, Notice::RoleLost { instance: "VI_1".into(), why: "it was stopped".into() });
    });
}

#[test]
fn a_decision_that_has_waited_is_not_acted_on() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        let handle = start(settings(config(ADDRESS, ""), &["VI_1"])).await.unwrap();
        let commander = handle.commander();
        let long_ago = now() - Duration::from_millis(150);
        let (answer, answered) = tokio::sync::oneshot::channel();
        commander.send_decided(long_ago, Command::Grant("VI_1".into(), answer));
        assert!(answered.await.unwrap().unwrap_err().contains("too much time"));
        assert!(!has(&a, VIP));
        is(&handle, State::Backup).await;
        commander.grant("VI_1").await.unwrap();
        for _ in 0..20 {
            sleep(Duration::from_millis(100)).await;
            commander.send_decided(now() - Duration::from_millis(150), Command::Renew("VI_1".into()));
        }
        assert!(!has(&a, VIP), "old words renew nothing");
        // The thread does not run for a while between the decision and the act.
        let granting = commander.clone();
        commander.revoke("VI_1").await;
        let grant = tokio::task::spawn_local(async move { granting.grant("VI_1").await });
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(300));
        match grant.await.unwrap() {
            Ok(()) => assert!(has(&a, VIP)),
            Err(why) => assert!(!has(&a, VIP), "{why}"),
        }
    });
}

#[test]
fn a_bound_instance_that_breaks_loses_its_role_and_its_service_is_told() {
    local(async || {
        let (a, b) = pair();
        a.enter();
        let mut handle = start(settings(config(ADDRESS, ""), &["VI_1"])).await.unwrap();
        handle.commander().grant("VI_1").await.unwrap();
        b.ip(&["link", "set", "eth0", "down"]);
        let fault =
            notice(&mut handle, |n| matches!(n, Notice::RoleLost { .. } | Notice::Fault { .. })).await;
        assert!(matches!(fault, Notice::RoleLost { .. }), "{fault:?}");
        assert!(!has(&a, VIP));
        notice(&mut handle, |n| matches!(n, Notice::Fault { fault: Some(_), .. })).await;
        assert!(handle.commander().grant("VI_1").await.unwrap_err().contains("eth0 is down"));
        b.ip(&["link", "set", "eth0", "up"]);
        notice(&mut handle, |n| matches!(n, Notice::Fault { fault: None, .. })).await;
        handle.commander().grant("VI_1").await.unwrap();
    });
}

#[test]
fn what_an_earlier_run_has_left_is_removed_first() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        a.ip(&["addr", "add", VIP, "dev", "eth0"]);
        let handle = start(settings(config(ADDRESS, ""), &["VI_1"])).await.unwrap();
        assert!(!has(&a, VIP));
        assert!(has(&a, "10.77.0.1/24"), "and nothing else");
        handle.commander().stop().await;
    });
}

#[test]
fn lost_addresses_come_back_with_their_routes_unless_nobody_tracks_them() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        let more = "virtual_ipaddress {\n 10.77.0.100/32\n 10.77.0.101/32 no_track\n }\n \
                    virtual_routes {\n 10.99.0.0/16 via 10.77.0.2 src 10.77.0.100\n }\n \
                    virtual_rules {\n from 10.77.0.100 table 77\n }";
        let handle = start(settings(config(more, ""), &[])).await.unwrap();
        is(&handle, State::Master).await;
        assert!(has(&a, VIP) && has(&a, "10.77.0.101/32"));
        assert!(a.ip(&["rule"]).contains("from 10.77.0.100 lookup 77"), "{}", a.ip(&["rule"]));
        for (address, comes_back) in [(VIP, true), ("10.77.0.101/32", false)] {
            a.ip(&["addr", "del", address, "dev", "eth0"]);
            sleep(Duration::from_millis(1500)).await;
            assert_eq!(has(&a, address), comes_back, "{address}");
        }
        assert!(a.ip(&["route"]).contains("10.99.0.0/16"), "{}", a.ip(&["route"]));
        sleep(Duration::from_secs(3)).await;
        assert!(has(&a, VIP), "it is renewed");
        handle.commander().stop().await;
        assert!(
            !has(&a, "10.77.0.10") && !a.ip(&["route"]).contains("10.99") && !a.ip(&["rule"]).contains("77")
        );
    });
}

#[test]
fn a_macvlan_comes_and_goes_with_its_instance() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        let more = format!("use_vmac\n {ADDRESS}");
        let handle = start(settings(config(&more, ""), &[])).await.unwrap();
        is(&handle, State::Master).await;
        let there = a.ip(&["-o", "addr", "show", "dev", "vrrp.51"]);
        assert!(there.contains(VIP), "{there}");
        handle.commander().stop().await;
        assert!(!a.ip(&["link"]).contains("vrrp.51"));
    });
}

#[test]
fn scripts_files_and_processes_are_tracked() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (flag, number) = (path("flag"), path("number"));
        std::fs::write(&flag, "").unwrap();
        let blocks = format!(
            "vrrp_script chk {{\n script \"/usr/bin/test -e {flag}\"\n interval 1\n }}\n\
             track_file tf {{\n file {number}\n init_file 0\n }}\n\
             vrrp_track_process tp {{\n process no-such-program\n weight 10\n }}"
        );
        let more = format!(
            "{ADDRESS}\n track_script {{\n chk\n }}\n track_file {{\n tf weight 1\n }}\n track_process {{\n tp\n }}"
        );
        let handle = start(settings(config(&more, &blocks), &[])).await.unwrap();
        is(&handle, State::Master).await;
        let status = handle.status();
        std::fs::write(&number, "-30").unwrap();
        until("the number counts", async || status.borrow().instances[0].effective_priority == 70).await;
        std::fs::remove_file(&flag).unwrap();
        is(&handle, State::Fault).await;
        assert!(!has(&a, VIP));
        std::fs::write(&flag, "").unwrap();
        is(&handle, State::Master).await;
        handle.commander().stop().await;
    });
}

#[test]
fn scripts_and_fifos_are_told_and_the_stop_script_is_waited_for() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (fifo, told, stopped, script) = (path("fifo"), path("told"), path("stopped"), path("script"));
        std::fs::write(&script, format!("#!/bin/sh\necho \"$@\" >> {told}\n")).unwrap();
        let stop = path("stop");
        std::fs::write(&stop, format!("#!/bin/sh\nsleep 0.3\ntouch {stopped}\n")).unwrap();
        for script in [&script, &stop] {
            std::fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let more = format!("{ADDRESS}\n notify \"{script} extra\"\n notify_stop {stop}");
        let blocks = format!("global_defs {{\n vrrp_notify_fifo {fifo}\n script_user root\n }}");
        let handle = start(settings(config(&more, &blocks), &[])).await.unwrap();
        is(&handle, State::Master).await;
        let lines = || std::fs::read_to_string(&told).unwrap_or_default();
        until("the script was run", async || lines().contains("extra INSTANCE VI_1 MASTER 100")).await;
        let text = fifo_text(&fifo);
        assert_eq!(text, "INSTANCE \"VI_1\" BACKUP 100\nINSTANCE \"VI_1\" MASTER 100\n");
        handle.commander().stop().await;
        assert!(Path::new(&stopped).exists(), "it was not waited for");
        assert!(!Path::new(&fifo).exists());
    });
}

/// Takes mails on a port of this namespace, and keeps their subjects.
async fn mail_server() -> (u16, Rc<RefCell<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let subjects: Rc<RefCell<Vec<String>>> = Rc::default();
    let heard = subjects.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.into_split();
            let mut lines = BufReader::new(reader).lines();
            let (mut is_text, mut answer) = (false, "220 sink");
            loop {
                if writer.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
                    break;
                }
                let Ok(Some(mut line)) = lines.next_line().await else { break };
                while is_text && line != "." {
                    heard.borrow_mut().extend(line.strip_prefix("Subject: ").map(str::to_owned));
                    line = lines.next_line().await.unwrap().expect("the end of a mail");
                }
                is_text = line == "DATA";
                answer = if is_text { "354 go on" } else { "250 ok" };
            }
        }
    });
    (port, subjects)
}

#[test]
fn people_get_mails_of_every_change_until_the_end() {
    local(async || {
        let (a, b) = pair();
        a.enter();
        let (port, subjects) = mail_server().await;
        let blocks = format!(
            "global_defs {{\n router_id LVS_X\n notification_email {{\n root\n }}\n smtp_server 127.0.0.1 {port}\n \
             smtp_alert\n no_email_faults\n }}"
        );
        let config = config(ADDRESS, &blocks);
        let mailer = Mailer::start(&config.globals);
        let settings = VrrpSettings { mailer: Some(mailer.clone()), ..settings(config, &[]) };
        let handle = start(settings).await.unwrap();
        is(&handle, State::Master).await;
        b.ip(&["link", "set", "eth0", "down"]);
        is(&handle, State::Fault).await;
        b.ip(&["link", "set", "eth0", "up"]);
        is(&handle, State::Master).await;
        let masters = handle.status().borrow().instances[0].counters.became_master;
        handle.commander().stop().await;
        mailer.flush(Duration::from_secs(30)).await;
        let subjects = subjects.borrow();
        let entered = |state| format!("[LVS_X] VRRP Instance VI_1 - Entering {state} state");
        let times = |state| subjects.iter().filter(|subject| **subject == entered(state)).count();
        assert_eq!(subjects[..2], [entered("BACKUP"), entered("MASTER")]);
        assert_eq!(subjects.last(), Some(&entered("STOP")));
        assert_eq!((u64::try_from(times("MASTER")).unwrap(), times("FAULT"), times("STOP")), (masters, 0, 1));
        assert!(masters >= 2);
    });
}

fn fifo_text(path: &str) -> String {
    use std::os::unix::fs::OpenOptionsExt;
    let mut text = [0; 1000];
    let mut fifo = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let length = fifo.read(&mut text).unwrap();
    String::from_utf8(text[..length].to_vec()).unwrap()
}

/// Gratuitous ARPs and unsolicited neighbour advertisements that arrive at a namespace.
struct Heard(Socket);

impl Heard {
    /// Listens in a namespace, which the thread is in afterwards.
    fn in_namespace(namespace: &Namespace) -> Heard {
        namespace.enter();
        let every_protocol = Protocol::from(i32::from(u16::to_be(0x0003)));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(every_protocol)).unwrap();
        Heard(socket)
    }

    /// What has come since the last call, in its order.
    fn addresses(&self) -> Vec<IpAddr> {
        let (mut all, mut frame) = (Vec::new(), [0; 2048]);
        while let Ok(length) = (&self.0).read(&mut frame) {
            let frame = &frame[..length];
            let octets = |from: usize, to: usize| frame.get(from..to).unwrap_or_default();
            if octets(12, 14) == [8, 6] && octets(28, 32) == octets(38, 42) {
                all.push(<[u8; 4]>::try_from(octets(28, 32)).unwrap().into());
            } else if octets(12, 14) == [0x86, 0xdd] && octets(20, 21) == [58] && octets(54, 55) == [136] {
                all.push(<[u8; 16]>::try_from(octets(62, 78)).unwrap().into());
            }
        }
        all
    }
}

#[test]
fn other_interfaces_are_refreshed_with_one_address_each() {
    local(async || {
        let (a, b) = pair();
        #[rustfmt::skip]
        a.ip(&["link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", b.name()]);
        a.ip(&["link", "set", "eth1", "up"]);
        b.ip(&["link", "set", "eth1", "up"]);
        let heard = Heard::in_namespace(&b);
        a.enter();
        let more = "garp_extra_if all 1\n garp_master_repeat 1\n garp_master_delay 0\n virtual_ipaddress {\n \
                    10.77.0.100/32\n 10.78.0.100/32 dev eth1\n 10.78.0.101/32 dev eth1\n }\n \
                    virtual_ipaddress_excluded {\n fd00:78::100/64 dev eth1\n }";
        let handle = start(settings(config(more, ""), &[])).await.unwrap();
        let mut all = Vec::new();
        let expected = ["10.78.0.100", "10.77.0.100", "10.78.0.101", "fd00:78::100"];
        let [first, others @ ..] = expected.map(|text| text.parse::<IpAddr>().unwrap());
        let status = handle.status();
        let masters =
            || usize::try_from(status.borrow().instances[0].counters.became_master).unwrap_or_default();
        let times = |all: &[IpAddr], address: IpAddr| all.iter().filter(|a| **a == address).count();
        until("three refreshes", async || {
            all.extend(heard.addresses());
            times(&all, first) >= 3 + masters()
        })
        .await;
        assert!(others.iter().all(|address| (1..=masters()).contains(&times(&all, *address))), "{all:?}");
        handle.commander().stop().await;
    });
}

fn unicast_source_is_announced(more: &'static str, source: &'static str) {
    local(async move || {
        let (a, b) = pair();
        let heard = Heard::in_namespace(&b);
        a.enter();
        let handle = start(settings(config(more, ""), &[])).await.unwrap();
        is(&handle, State::Master).await;
        let source: IpAddr = source.parse().unwrap();
        assert!(!heard.addresses().contains(&source), "at the start nobody has to be corrected");
        b.ip(&["link", "set", "eth0", "down"]);
        is(&handle, State::Fault).await;
        b.ip(&["link", "set", "eth0", "up"]);
        let mut count = 0;
        until("the announcement", async || {
            count += heard.addresses().iter().filter(|a| **a == source).count();
            count > 0
        })
        .await;
        is(&handle, State::Master).await;
        count += heard.addresses().iter().filter(|a| **a == source).count();
        assert_eq!(count, 1);
        handle.commander().stop().await;
    });
}

#[test]
fn after_a_fault_the_peers_learn_where_unicast_comes_from() {
    unicast_source_is_announced(
        "unicast_src_ip 10.77.0.1\n unicast_peer {\n 10.77.0.2\n }\n virtual_ipaddress {\n 10.77.0.100/32\n }",
        "10.77.0.1",
    );
}

#[test]
fn after_a_fault_the_peers_learn_where_unicast_over_ipv6_comes_from() {
    unicast_source_is_announced(
        "unicast_peer {\n fe80::ff:fe00:2\n }\n virtual_ipaddress {\n fe80::77:100/64\n }",
        "fe80::ff:fe00:1",
    );
}

#[test]
fn another_configuration_changes_only_what_differs() {
    local(async || {
        let (a, _b) = pair();
        a.enter();
        let handle = start(settings(config(ADDRESS, ""), &[])).await.unwrap();
        is(&handle, State::Master).await;
        let other = config("virtual_ipaddress {\n 10.77.0.100/32\n 10.77.0.102/32\n }", "");
        handle.commander().send(Command::Reload(Box::new(other), Vec::new()));
        until("the new address", async || has(&a, "10.77.0.102/32")).await;
        assert!(has(&a, VIP));
        assert_eq!(handle.status().borrow().instances[0].counters.became_master, 1);
        handle.commander().send(Command::Reload(Box::default(), Vec::new()));
        until("no addresses", async || !has(&a, "10.77.0.10")).await;
        handle.commander().stop().await;
    });
}

#[test]
fn an_interface_that_is_gone_and_comes_back_is_used_again() {
    local(async || {
        let (a, b) = pair();
        a.enter();
        let handle = start(settings(config(ADDRESS, ""), &[])).await.unwrap();
        is(&handle, State::Master).await;
        a.ip(&["link", "del", "eth0"]);
        is(&handle, State::Fault).await;
        support::connect(&a, &b);
        is(&handle, State::Master).await;
        until("its address", async || has(&a, VIP)).await;
    });
}

#[test]
fn a_lifetime_that_the_kernel_cannot_count_is_refused() {
    local(async || {
        let mut settings = settings(config(ADDRESS, ""), &[]);
        settings.address_lifetime = Duration::from_millis(1500);
        assert!(matches!(start(settings).await, Err(DriverError::Lifetime(_))));
    });
}
