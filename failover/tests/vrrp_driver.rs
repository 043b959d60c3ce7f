//! The driver of virtual routers in one namespace: addresses, routes, trackers, notifications. Needs root.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/driver.rs"]
mod driver;
mod support;

use std::path::Path;
use std::time::Duration;

use driver::{config, has, is, local, notice, settings};
use failover::driver::now;
use failover::driver::vrrp::{Command, DriverError, Notice, start};
use failover::vrrp::State;
use support::{Namespace, pair, until};
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
        commander.revoke("VI_1").await;
        assert!(!has(&a, VIP), "it is gone when the answer comes");
        is(&handle, State::Backup).await;
        commander.renew("VI_1");
        sleep(Duration::from_millis(300)).await;
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

fn fifo_text(path: &str) -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut text = [0; 1000];
    let mut fifo = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let length = fifo.read(&mut text).unwrap();
    String::from_utf8(text[..length].to_vec()).unwrap()
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
