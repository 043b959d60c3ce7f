//! Configurations of failover: those of real programs, the samples, and what is said about mistakes.

#![allow(clippy::unwrap_used, reason = "the helpers of this test are outside test functions")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::config::{Diagnostic, LoadError, LoadedFile, Loader};
use model::failover::config::*;
use model::failover::{Loaded, load, print};
use proptest::prelude::*;

/// Files by name. Patterns may have one star.
struct Memory(BTreeMap<String, Vec<u8>>);

impl Loader for Memory {
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
        let text = self.0.get(path).ok_or_else(|| LoadError { reason: "not there".to_owned() })?.clone();
        Ok(LoadedFile { name: path.to_owned(), identity: path.to_owned(), text })
    }

    fn glob(&self, pattern: &str) -> Vec<String> {
        let (head, tail) = pattern.split_once('*').unwrap_or((pattern, ""));
        self.0.keys().filter(|n| n.starts_with(head) && n.ends_with(tail)).cloned().collect()
    }
}

fn memory(files: &[(&str, &str)]) -> Memory {
    Memory(files.iter().map(|(name, text)| (format!("/etc/{name}"), text.as_bytes().to_vec())).collect())
}

fn try_parse(text: &[u8]) -> Result<Loaded, Vec<Diagnostic>> {
    load(&Memory(BTreeMap::from([("/f".to_owned(), text.to_vec())])), "/f", None)
}

fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|d| format!("{d}\n")).collect()
}

fn parse(text: &str) -> Loaded {
    try_parse(text.as_bytes()).unwrap_or_else(|all| panic!("{text}\n{}", render(&all)))
}

/// Accepted without a warning.
fn quiet(text: &str) -> FailoverConfig {
    let loaded = parse(text);
    assert_eq!(render(&loaded.warnings), "", "{text}");
    loaded.config
}

/// All messages, without the excerpts and the remedies.
fn said(text: &str) -> Vec<String> {
    let all = match try_parse(text.as_bytes()) {
        Ok(loaded) => loaded.warnings,
        Err(all) => all,
    };
    all.iter().map(|d| d.to_string().lines().next().unwrap()[3..].to_owned()).collect()
}

#[path = "failover_config/mail.rs"]
mod mail;

/// An instance with `lines` in it.
fn instance(lines: &str) -> String {
    format!(
        "vrrp_instance VI {{\ninterface eth0\nvirtual_router_id 5\nvirtual_ipaddress {{\n10.0.0.9/24\n}}\n{lines}\n}}\n"
    )
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn files_of(dir: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join(dir))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "conf"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{dir}");
    files
}

/// The file with what is said about it, as `LINE:COLUMN: severity: message`.
fn golden(path: &Path) -> (Result<FailoverConfig, ()>, Vec<String>) {
    let text = fs::read_to_string(path).unwrap();
    let messages = said(&text);
    (try_parse(text.as_bytes()).map(|loaded| loaded.config).map_err(drop), messages)
}

#[test]
fn files_of_keepalived_are_accepted_unchanged() {
    const NAT_MASK: &str = "warning: 'nat_mask' has no effect here";
    let expected: &[(&str, &[&str])] = &[
        ("keepalived-backup", &["32:5:", "71:5:"]),
        ("keepalived-dsr-master", &[]),
        ("keepalived-master", &["32:5:", "71:5:"]),
        ("keepalived-single", &["30:5:"]),
    ];
    let files = files_of("tests/golden/failover/keepalived");
    assert_eq!(files.len(), expected.len());
    for (path, (name, places)) in files.iter().zip(expected) {
        assert_eq!(path.file_stem().unwrap(), *name);
        let (config, messages) = golden(path);
        let wanted: Vec<String> = places.iter().map(|place| format!("{place} {NAT_MASK}")).collect();
        assert_eq!(messages, wanted, "{name}");
        let config = config.unwrap();
        assert_eq!(config.globals.router_id.as_deref(), Some("LVS_DEVEL"));
        assert_eq!(config.globals.email_to, ["admin@example.com"]);
        let [instance] = &config.instances[..] else { panic!("one instance") };
        assert_eq!((instance.virtual_router_id, instance.version), (51, VrrpVersion::V2));
        assert_eq!(instance.authentication, Authentication::Password(*b"1111\0\0\0\0"));
        assert!(instance.starts_as_master && instance.preempt == Preempt::Always);
    }
    let (config, _) = golden(&files[2]);
    let config = config.unwrap();
    let labels: Vec<_> =
        config.instances[0].addresses.iter().map(|a| (a.label.as_deref(), a.prefix_len)).collect();
    assert_eq!(labels, [(Some("eth1:100"), 24), (Some("eth1:101"), 24), (None, 24)]);
    let servers: Vec<_> = config.virtual_servers.iter().map(|s| (s.name.as_str(), s.real_servers)).collect();
    assert_eq!(servers, [("192.168.10.100 80", 2), ("192.168.10.101 80", 1)]);
    let (config, messages) = golden(&root().join("tests/golden/failover/heartbeat-lvs/keepalived.conf"));
    assert_eq!((config.unwrap().virtual_servers.len(), messages.len()), (1, 0));
}

#[test]
fn files_that_keepalived_ran_with_are_accepted_except_for_ah() {
    let mut seen = 0;
    for path in files_of("tests/golden/failover/vrrp") {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (config, messages) = golden(&path);
        if name == "conf-Aah" {
            assert_eq!(
                messages,
                ["13:9: error: 'auth_type AH' is refused: its keys have 8 octets and its digest is MD5"]
            );
            continue;
        }
        assert_eq!(messages, [] as [&str; 0], "{name}");
        let config = config.unwrap();
        let first = &config.instances[0];
        match name.as_str() {
            "conf-A3" => assert_eq!(first.advert_interval, Duration::from_millis(100)),
            "conf-A6" => {
                let group = "ff02::12".parse().unwrap();
                assert_eq!(first.sending, Sending::Multicast { source: None, group });
            }
            "conf-Auni" => {
                let peers = vec![UnicastPeer { address: "10.77.0.2".parse().unwrap(), ttl_range: None }];
                let source = Some("10.77.0.1".parse().unwrap());
                assert_eq!(first.sending, Sending::Unicast { source, peers, ttl: 255, checks_source: false });
            }
            "conf-Avm" => {
                let vmac = VirtualMac { name: "vrrp.51".into(), sends_from_base: false };
                assert_eq!(first.virtual_mac, Some(vmac));
            }
            "sync-group" => {
                assert_eq!(config.sync_groups[0].members, ["VI_1", "VI_2"]);
                assert_eq!(config.sync_groups[0].notify.any.as_ref().unwrap().words.len(), 2);
                assert_eq!(config.track_files[0].init, Some((0, true)));
                assert_eq!(config.instances[1].rules[0].table, 100);
                assert_eq!(config.instances[1].routes[0].gateway, Some("10.77.0.3".parse().unwrap()));
                assert_eq!(config.globals.notify_fifos, ["/etc/keepalived/fifoA"]);
                assert!(config.globals.notify_priority_changes);
            }
            _ => {}
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn the_samples_are_accepted_without_a_word() {
    for path in files_of("res.d/failover") {
        let config = quiet(&fs::read_to_string(&path).unwrap());
        assert_eq!(quiet(&print(&config)), config, "{}", path.display());
        if path.ends_with("postgresql.conf") {
            let [service] = &config.services[..] else { panic!("one service") };
            assert_eq!((service.proof, service.failback), (Proof::Lease, false));
            let timeouts: Vec<_> = service.steps.iter().map(|step| step.timeout.as_secs()).collect();
            assert_eq!(timeouts, [0, 120]);
        }
    }
}

/// Everything that the grammar has, in one file.
const EVERYTHING: &str = include_str!("failover_everything.conf");

#[test]
fn a_print_means_the_same_as_what_was_printed() {
    let mut files = files_of("tests/golden/failover/vrrp");
    files.extend(files_of("tests/golden/failover/keepalived"));
    let mut texts: Vec<String> = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    texts.push(EVERYTHING.to_owned());
    for text in texts {
        let Ok(loaded) = try_parse(text.as_bytes()) else { continue };
        let mut wanted = loaded.config;
        let printed = print(&wanted);
        wanted.virtual_servers.clear();
        assert_eq!(parse(&printed).config, wanted, "{printed}");
    }
    assert_eq!(quiet(EVERYTHING), parse(EVERYTHING).config);
}

#[test]
fn defaults_are_those_of_the_manual() {
    let config = quiet(&instance(""));
    let [instance] = &config.instances[..] else { panic!("one instance") };
    assert_eq!((instance.priority, instance.version), (100, VrrpVersion::V2));
    assert_eq!(instance.advert_interval, Duration::from_secs(1));
    let announce = AnnouncePolicy {
        repeat: 5,
        second_burst_after: Duration::from_secs(5),
        refresh: Duration::ZERO,
        refresh_repeat: 1,
        lower_priority_repeat: 5,
        lower_priority_second_burst_after: Duration::from_secs(5),
        extra_refresh: Duration::ZERO,
        arp_interval: Duration::ZERO,
        na_interval: Duration::ZERO,
    };
    assert_eq!(instance.announce, announce);
    assert!(instance.accept && instance.tracks_own_interface && !instance.starts_as_master);
    assert_eq!(instance.down_timer_adverts, 3);
    let group = "224.0.0.18".parse().unwrap();
    assert_eq!(instance.sending, Sending::Multicast { source: None, group });

    let text = "vrrp_script s {\nscript /bin/true\ninterval 3\n}\nvrrp_track_process p {\nprocess nginx\n}\n\
                track_file f {\nfile /run/f\n}\n";
    let config = quiet(text);
    let script = &config.scripts[0];
    assert_eq!((script.timeout.as_secs(), script.rise, script.fall, script.weight), (3, 1, 1, 0));
    assert_eq!((config.track_processes[0].quorum, config.track_processes[0].weight), (1, 1));
    assert_eq!(config.track_files[0].weight, 1);

    let config = quiet("service s {\nresource r0\nstart a.service\nmount resource /x\n}\n");
    let service = &config.services[0];
    assert_eq!((service.promote_timeout.as_secs(), service.release_timeout.as_secs()), (30, 10));
    assert_eq!((service.proof, service.failback), (Proof::Fencing, false));
    let timeouts: Vec<_> = service.steps.iter().map(|s| (s.timeout.as_secs(), s.retries)).collect();
    assert_eq!(timeouts, [(60, 0), (0, 0)]);
    assert!(service.steps.iter().all(|s| s.monitor.is_zero()), "nobody looks unless told to");
}

#[test]
fn globals_are_defaults_of_instances_wherever_they_stand() {
    let globals = "global_defs {\nvrrp_version 3\nvrrp_garp_master_repeat 2\nvrrp_garp_lower_prio_delay 7\n\
                   vrrp_mcast_group4 224.0.0.99\nvrrp_gna_interval 0.001\n}\n";
    let config = quiet(&(instance("garp_master_delay 9") + globals));
    let instance = &config.instances[0];
    assert_eq!(instance.version, VrrpVersion::V3);
    assert_eq!((instance.announce.repeat, instance.announce.lower_priority_repeat), (2, 2));
    assert_eq!(instance.announce.second_burst_after.as_secs(), 9);
    assert_eq!(instance.announce.lower_priority_second_burst_after.as_secs(), 7);
    assert_eq!(instance.announce.na_interval, Duration::from_millis(1));
    assert_eq!(instance.sending, Sending::Multicast { source: None, group: "224.0.0.99".parse().unwrap() });
    assert_eq!(quiet(&print(&config)), config);
}

#[test]
fn other_interfaces_are_refreshed_as_the_globals_or_the_instance_say() {
    for (globals, own, seconds) in [
        ("", "", 0),
        ("vrrp_garp_extra_if all 100", "", 100),
        ("vrrp_garp_extra_if all 100", "garp_extra_if all 7", 7),
        ("vrrp_garp_extra_if all 100", "garp_extra_if 0", 0),
        ("vrrp_garp_extra_if 0", "garp_extra_if all 86400", 86_400),
    ] {
        let config = quiet(&format!("global_defs {{\n{globals}\n}}\n{}", instance(own)));
        let announce = config.instances[0].announce;
        assert_eq!(announce.extra_refresh, Duration::from_secs(seconds), "{globals}, {own}");
        assert_eq!(quiet(&print(&config)), config);
    }
}

#[test]
fn trackers_take_the_weight_of_what_they_look_at() {
    let blocks = "vrrp_script s {\nscript /bin/true\nweight -7 reverse\n}\ntrack_file f {\nfile /run/f\n}\n";
    let config = quiet(
        &(instance("track_script {\ns\n}\ntrack_file {\nf\n}\ntrack_interface {\neth1 weight 3\n}") + blocks),
    );
    let weights: Vec<_> = config.instances[0].trackers.iter().map(|t| (t.weight, t.reverse)).collect();
    assert_eq!(weights, [(-7, true), (1, false), (3, false)]);
    let config = quiet(&(instance("track_script {\ns weight 2 noreverse\n}") + blocks));
    assert_eq!((config.instances[0].trackers[0].weight, config.instances[0].trackers[0].reverse), (2, false));
    // failover 1.12
    let text = instance("track_script {\ns\n}") + blocks + "vrrp_sync_group g {\ngroup {\nVI\n}\n}\n";
    let loaded = parse(&text);
    assert_eq!(loaded.config.instances[0].trackers[0].weight, 0);
    let messages: Vec<&str> = loaded.warnings.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(
        messages,
        ["vrrp_sync_group g has one member only", "the weight -7 counts as 0: a failure is a fault"]
    );
}

#[test]
fn lines_for_one_configuration_and_parameters() {
    let text = "$A=10.2.${N}\n$N=0\n$IF_MAIN=@main\n$ADDRESSES= \\\n${A}.1/24 \\\n@main ${A}.2/24 \\\n@^main ${A}.3/24\n\
                vrrp_instance V {\ninterface eth0\n@main priority 240\n@backup priority 200\n$IF_MAIN virtual_router_id 5\n\
                @^main virtual_router_id 6\n$N=10\nvirtual_ipaddress {\n$ADDRESSES\n}\n}\n\
                @nobody $X= \\\n garbage { \\\n }\nglobal_defs {\nrouter_id a${_HASH}b-${_PWD}\n}\n";
    let files = memory(&[("f", text)]);
    let read = |id| load(&files, "/etc/f", id).unwrap_or_else(|all| panic!("{}", render(&all)));
    let shown = |loaded: Loaded| {
        assert_eq!(render(&loaded.warnings), "");
        assert_eq!(loaded.config.globals.router_id.as_deref(), Some("a#b-/etc"));
        let v = &loaded.config.instances[0];
        let ips: Vec<String> = v.addresses.iter().map(|a| a.address.to_string()).collect();
        (v.priority, v.virtual_router_id, ips.join(" "))
    };
    assert_eq!(shown(read(Some("main"))), (240, 5, "10.2.10.1 10.2.10.2".into()));
    assert_eq!(shown(read(Some("backup"))), (200, 6, "10.2.10.1 10.2.10.3".into()));
    assert_eq!(shown(read(None)), (100, 6, "10.2.10.1 10.2.10.3".into()));
}

#[test]
fn a_parameter_is_named_where_it_stands() {
    let found = said(
        "$P=300\nvrrp_instance V {\n  priority $P\n interface eth0\nvirtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1\n}\n}\n",
    );
    assert_eq!(found, ["3:12: error: priority 300 is not between 1 and 255"]);
    let found = said("$A=$B\n$B=x $A\nglobal_defs {\nrouter_id $A\n}\n");
    assert_eq!(found[0], "4:11: error: this parameter becomes too long");
    let found = said("global_defs {\nrouter_id ${NAME}\n}\n");
    assert_eq!(found, ["2:11: warning: this parameter is not defined, and stays as it is"]);
}

#[test]
fn includes_are_relative_and_may_be_read_twice_but_not_by_themselves() {
    let files = memory(&[
        ("f", "include conf.d/*.conf\ninclude \"conf.d/none*\"\n"),
        ("conf.d/a.conf", "vrrp_instance A {\nvirtual_router_id 1\ninclude ../common\n}\n"),
        ("conf.d/b.conf", "vrrp_instance B {\nvirtual_router_id 2\ninclude ../common\n}\n"),
        ("conf.d/../common", "interface eth0\nvirtual_ipaddress {\n10.0.0.9\n}\n"),
        ("loop", "include loop\n"),
        ("gone", "\ninclude nosuch.conf # really\n"),
    ]);
    let loaded = load(&files, "/etc/f", None).unwrap_or_else(|all| panic!("{}", render(&all)));
    assert_eq!(loaded.config.instances.len(), 2);
    let found = load(&files, "/etc/loop", None).unwrap_err();
    assert_eq!(render(&found).lines().next(), Some("/etc/loop:1:9: error: '/etc/loop' includes itself"));
    let found = load(&files, "/etc/gone", None).unwrap_err();
    assert!(render(&found).starts_with("/etc/gone:2:9: error: cannot open '/etc/nosuch.conf': not there\n"));
    let found = load(&files, "/nosuch", None).unwrap_err();
    assert_eq!(model::config::diagnostic::exit_code(&found), 20);
}

#[test]
fn a_mistake_is_shown_with_its_line_and_a_remedy() {
    let text = instance("    prioritty 101");
    let loaded = parse(&text);
    let expected = "/f:7:5: warning: 'prioritty' is not known in vrrp_instance: the line is skipped\n  \
                    7 |     prioritty 101\n    |     ^^^^^^^^^\n    = help: did you mean 'priority'?";
    assert_eq!(loaded.warnings[0].to_string(), expected);
    let text = instance("advert_int 0.1");
    let expected = "/f:7:12: warning: version 2 has whole seconds: advert_int becomes 1\n  \
                    7 | advert_int 0.1\n    |            ^^^\n    = help: write a whole number, or 'version 3' on all nodes";
    let loaded = parse(&text);
    assert_eq!(loaded.warnings[0].to_string(), expected);
    assert_eq!(loaded.config.instances[0].advert_interval, Duration::from_secs(1));
}

/// What is said about each mistake: `LINE:COLUMN: severity: message`.
#[test]
fn mistakes_of_instances() {
    let one = |lines: &str, wanted: &str| {
        let found = said(&instance(lines));
        assert_eq!(found, [wanted], "{lines}");
    };
    one("priority 300", "7:10: error: priority 300 is not between 1 and 255");
    one("priority high", "7:10: error: priority 'high' is not a whole number");
    one("priority", "7:1: error: 'priority' needs a value");
    one("priority 100 101", "7:14: error: 'priority' takes one value, but '101' follows");
    one("priority 100\npriority 101", "8:1: warning: 'priority' stands here again, and this one counts");
    one("state master", "7:7: error: states are written in capitals");
    one("unicast_ttl 3", "7:1: warning: there are no unicast peers, so adverts go to the group");
    one("state SLAVE", "7:7: error: state 'SLAVE' is not known");
    one("version 3\nadvert_int 50", "8:12: error: advert_int 50 is too long for version 3");
    one("version 3\nadvert_int 0.123", "8:12: warning: version 3 has hundredths: advert_int becomes 0.12");
    one("advert_int 1.6", "7:12: warning: version 2 has whole seconds: advert_int becomes 2");
    one(
        "version 3\nauthentication {\nauth_type PASS\nauth_pass x\n}",
        "8:1: warning: version 3 has no authentication: it is ignored",
    );
    one(
        "authentication {\nauth_type PASS\nauth_pass 123456789\n}",
        "9:11: warning: only the first 8 octets of auth_pass count",
    );
    one(
        "authentication {\nauth_type PASS\n}",
        "7:1: error: authentication needs both its type and its password",
    );
    one(
        "virtual_ipaddress {\n2001:db8::1/64\n}",
        "8:1: error: 2001:db8::1 is not of the family of the first address",
    );
    one("virtual_ipaddress {\n10.0.0.9\n}", "8:1: warning: 10.0.0.9 stands here twice");
    one(
        "virtual_ipaddress {\n10.0.0.8/33\n}",
        "8:1: error: '10.0.0.8/33' is not an address with the length of a prefix",
    );
    one(
        "virtual_ipaddress {\n10.0.0.8 label enp0s31f6:service\n}",
        "8:16: error: the label 'enp0s31f6:service' is longer than 15 characters",
    );
    one(
        "virtual_ipaddress {\n10.0.0.8 devv eth1\n}",
        "8:10: error: 'devv' is not known in the line of an address",
    );
    one("virtual_routes {\n10.1.0.0/16\n}", "8:1: error: this route says no way");
    one("virtual_rules {\nfrom 10.1.0.0/16\n}", "8:1: error: this rule names no table");
    one("track_script {\nchk\n}", "8:1: error: there is no vrrp_script chk");
    one("track_interface {\neth1 weight 254\n}", "8:13: error: weight 254 is not between -253 and 253");
    one(
        "track_interface {\neth1 rev\n}",
        "8:6: error: 'rev' does not belong behind a name in track_interface",
    );
    one(
        "state MASTER\nnopreempt",
        "8:1: warning: 'nopreempt' does not go with 'state MASTER': it is ignored",
    );
    one("unicast_src_ip 10.0.0.1", "7:1: warning: there are no unicast peers, so adverts go to the group");
    one("unicast_peer {\nfe80::1\n}", "8:1: error: fe80::1 cannot be a peer of this instance");
    one("mcast_dst_ip 10.0.0.1", "7:1: error: 10.0.0.1 is not a multicast address of IPv4");
    one(
        "use_vmac\nunicast_peer {\n10.0.0.2\n}",
        "7:1: error: 'use_vmac' with unicast peers needs 'vmac_xmit_base'",
    );
    one("garp_extra_if all", "7:15: error: garp_extra_if 'all' is not a whole number");
    one("garp_extra_if all 86401", "7:19: error: garp_extra_if 86401 is not between 0 and 86400");
    one("garp_extra_if some 10", "7:15: error: 'some' does not belong here");
    one(
        "garp_extra_if 100",
        "7:15: warning: without 'all' this counts for macvlans of single addresses only",
    );
    one("notify_master \"/bin/x 'a\"", "7:15: error: a quote in this command does not end");
    one("strict_mode on", "7:1: error: 'strict_mode' is not supported");
    one("track_bfd {\nb\n}", "7:1: warning: 'track_bfd' has no effect here");
    one(
        "priority 255\ntrack_interface {\neth1 weight 5\n}",
        "9:1: warning: the weight 5 counts as 0: a failure is a fault",
    );
}

#[test]
fn mistakes_between_blocks() {
    let check = |text: &str, wanted: &[&str]| assert_eq!(said(text), wanted, "{text}");
    check(
        "vrrp_instance V {\n}\n",
        &[
            "1:15: error: vrrp_instance V has no 'interface'",
            "1:15: error: vrrp_instance V has no 'virtual_router_id'",
            "1:15: error: vrrp_instance V has no 'virtual_ipaddress'",
        ],
    );
    check(&(instance("") + &instance("")), &["9:15: error: there are two of vrrp_instance VI"]);
    let other = instance("").replace("VI", "V2");
    check(
        &(instance("") + &other),
        &["11:19: error: V2 and VI both have virtual_router_id 5 with IPv4 on eth0"],
    );
    check(
        "vrrp_sync_group G {\ngroup {\nVI\nVX\n}\n}\n",
        &["3:1: error: there is no vrrp_instance VI", "4:1: error: there is no vrrp_instance VX"],
    );
    check("vrrp_sync_group G {\n}\n", &["1:17: error: vrrp_sync_group G has no members"]);
    check("vrrp_script s {\n}\n", &["1:13: error: vrrp_script s has no 'script'"]);
    check(
        "blurb {\nx 3\n}\n",
        &["1:1: warning: 'blurb' is not known at the top level: the whole block is skipped"],
    );
    check("vrrp_instance V {\n", &["1:1: error: the block of 'vrrp_instance' does not end"]);
    check("}\n", &["1:1: error: there is no block that this '}' could end"]);
    check("~SEQ(A, 1, 2) x\n", &["1:1: error: lines that repeat themselves are not supported"]);
    check(
        "static_routes {\n10.0.0.0/8 via 10.0.0.1\n}\n",
        &["1:1: warning: 'static_routes' has no effect here"],
    );
    check(
        "virtual_server 10.0.0.1 80 {\nlb_algo foo\nreal_server 10.0.0.2 99999 {\n}\n}\nvirtual_server group h {\n}\n",
        &[
            "2:9: error: lvs_sched 'foo' is not known",
            "3:22: error: port 99999 is not between 1 and 65535",
            "6:22: error: there is no virtual_server_group h",
        ],
    );
}

#[test]
fn mistakes_of_the_block_heartbeat() {
    let check = |text: &str, wanted: &[&str]| assert_eq!(said(text), wanted, "{text}");
    let whole = |more: &str| {
        format!("heartbeat {{\n{more}\nbcast eth0\nnode a b\nauthkeys {{\nauth 1\n1 crc\n}}\n}}\n")
    };
    check(&whole(""), &[]);
    check(
        "heartbeat {\n}\n",
        &[
            "1:1: error: heartbeat has no medium",
            "1:1: error: heartbeat needs two nodes",
            "1:1: error: heartbeat has no key to sign messages with",
        ],
    );
    check(&(whole("") + &whole("")), &["10:1: error: there are two blocks 'heartbeat'"]);
    check(&whole("keepalive 30"), &["1:1: error: a node is dead before its next beat comes"]);
    check(&whole("warntime 30"), &["1:1: warning: a node is dead before anybody is warned"]);
    check(&whole("warntime 2"), &["1:1: warning: every beat of every node is late"]);
    check(&whole("keepalive soon"), &["2:11: error: 'soon' is not a time"]);
    check(&whole("ucast eth0 fe80::1"), &["2:12: error: 'fe80::1' is not an address of IPv4"]);
    check(&whole("mcast eth0 10.0.0.1 694 1 0"), &["2:12: error: '10.0.0.1' is no multicast address"]);
    check(&whole("udpport 0"), &["2:9: error: port 0 is not between 1 and 65535"]);
    check(&whole("node \"a b\""), &["2:6: error: this cannot be the name of a node"]);
    check(&whole("node A"), &["4:6: warning: the node a stands here again"]);
    check(&whole("authkeys {\nauth 3\n}"), &["3:6: error: there is no key 3"]);
    check(&whole("authkeys {\n1 crc\n}"), &["9:1: error: there are two keys 1"]);
    check(&whole("authkeys {\n2 sha1\n}"), &["3:3: error: this key needs one secret"]);
    check(&whole("keepalive {\nx\n}"), &["2:1: error: 'keepalive' needs a value"]);
    check(&whole("node {\nx\n}"), &["3:1: error: 'node' has no block", "2:1: error: a value is missing"]);
    check(&whole("auto_failback on"), &["2:1: warning: 'auto_failback' has no effect here"]);
}

#[test]
fn mistakes_of_services() {
    let store = "global_defs {\nlease_store http://a:2379\n}\n";
    let check = |text: &str, wanted: &[&str]| assert_eq!(said(text), wanted, "{text}");
    check("service s {\n}\n", &["1:9: error: service s has no 'resource'"]);
    check("service s {\nresource r0\nproof lease\n}\n", &["3:1: error: there is no store for the lease"]);
    check(
        "service s {\nresource r0\n}\nservice t {\nresource r0\n}\n",
        &["5:10: error: the resource r0 belongs to the service s already"],
    );
    check("service s {\nresource r0\nvrrp_instance VX\n}\n", &["3:15: error: there is no vrrp_instance VX"]);
    check(
        &(instance("priority 255") + "service s {\nresource r0\nvrrp_instance VI\n}\n"),
        &["7:10: error: VI has priority 255, and belongs to the service s"],
    );
    let two = instance("") + &instance("").replace("VI", "V2").replace("router_id 5", "router_id 6");
    check(
        &(two.clone()
            + "service s {\nresource r0\nvrrp_instance VI V2\n}\nservice t {\nresource r1\nvrrp_instance V2\n}\n"),
        &["23:15: error: V2 belongs to the service s already"],
    );
    check(
        &(two
            + "vrrp_sync_group G {\ngroup {\nVI\nV2\n}\n}\nservice s {\nresource r0\nvrrp_instance VI\n}\n"),
        &["20:1: error: V2 belongs to no service, but the group began with a member of the service s"],
    );
    check(
        "service s {\nresource r0\nproof fencing\npromote-without-proof yes\n}\n",
        &["4:1: error: 'promote-without-proof' contradicts 'proof'"],
    );
    check(
        "service s {\nresource r0\npromote-without-proof yes\n}\n",
        &["3:1: warning: TWO HOMES ARE POSSIBLE: service s promotes itself whenever its peer is silent"],
    );
    check(
        "global_defs {\nlease_store https://a:2379\n}\n",
        &["2:13: error: the store is not spoken to over TLS yet"],
    );
    check(
        "global_defs {\nlease_store a:2379 http://a http://a:0 http://[::1]:7\n}\n",
        &[
            "2:13: error: 'a:2379' is not the address of a store",
            "2:20: error: 'http://a' is not the address of a store",
            "2:29: error: 'http://a:0' is not the address of a store",
        ],
    );
    check(
        "global_defs {\nlease_ttl 1\n}\n",
        &["2:1: error: this says something of a lease, but there is no store for it"],
    );
    check(
        &format!(
            "{store}service s {{\nresource r0\nmount resource data\nstart a.service x\nstart ocf:x\nmount a /b\n}}\n"
        ),
        &[
            "6:16: error: 'data' is no absolute path",
            "7:17: error: the unit a.service takes no 'x'",
            "8:7: error: 'ocf:x' names no resource agent",
            "9:7: error: 'a' is no device",
        ],
    );
    check(
        "service s {\nresource r0\nstart /bin/a {\nmonitor 5\n}\nstart b.service {\nmonitor 0\n}\nmount resource /x {\nmonitor x\n}\n}\n",
        &[
            "4:1: error: 'monitor' has nothing to look at: the command has no 'status'",
            "7:9: error: monitor 0 is not in the range of 1 to 86400 seconds",
            "10:9: error: monitor 'x' is not a time in seconds",
        ],
    );
    assert_eq!(quiet(&format!("{store}service s {{\nresource r0\n}}\n")).services[0].proof, Proof::Lease);
}

#[test]
fn limits_are_told_and_end_the_run() {
    let mut texts = vec![
        ("line", "x".repeat(70_000)),
        ("lines", "x\n".repeat(100_002)),
        ("text", "#\n".repeat(3 << 20)),
        ("braces", "a {\n".repeat(50_000)),
        ("quotes", "a \"\n".repeat(50_000)),
        ("trackers", instance(&format!("track_script {{\n{}}}", "chk\n".repeat(90_000)))),
    ];
    // Each parameter is the one before twice.
    let doubled: String = (1..14).map(|n| format!("$P{n}=${{P{}}}${{P{}}}\n", n - 1, n - 1)).collect();
    texts.push(("parameters", format!("$P0=\n{doubled}{}", "a ${P13}\n".repeat(100))));
    for (name, text) in texts {
        let all = try_parse(text.as_bytes()).err().unwrap_or_else(|| panic!("{name} is accepted"));
        assert!(all.iter().filter(|d| d.is_error()).count() <= 200 && all.len() <= 400, "{name}");
    }
}

/// What is accepted means the same when it is printed.
fn survives(text: &[u8]) {
    match try_parse(text) {
        Err(all) => assert!(all.iter().any(Diagnostic::is_error) && !render(&all).is_empty()),
        Ok(loaded) => {
            let mut wanted = loaded.config;
            let printed = print(&wanted);
            wanted.virtual_servers.clear();
            assert_eq!(parse(&printed).config, wanted, "{printed}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes);
    }

    #[test]
    fn bent_files_are_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![
            "{", "}", "\"", "'", "#", "\\", "\n", " ", "$A", "${A}", "\n$A=x \\\ny\n", "\n@a ", "0", "9", "255", "::1", "/", "weight",
            "reverse", "\u{e4}", "\t", ";", "include", "no", ".", "-", "!", "$", "=", "",
        ]), 0..12usize), 1..4),
    ) {
        let mut text = EVERYTHING.as_bytes().to_vec();
        for (at, insert, delete) in changes {
            let at = at.index(text.len());
            let end = text.len().min(at + delete);
            text.splice(at..end, insert.bytes());
        }
        survives(&text);
    }
}
