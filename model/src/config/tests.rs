//! Rules of the grammar, merging and settings that the recorded samples do not reach, and hostile input.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use proptest::prelude::*;

use super::diagnostic::exit_code;
use super::settings::*;
use super::*;
use crate::ids::{Minor, VolumeNo};

/// Files by absolute name. Patterns may have one star.
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

fn try_parse(text: &str) -> Result<Config, Vec<Diagnostic>> {
    load(&memory(&[("drbd.conf", text)]), &["/etc/drbd.conf"])
}

fn parse(text: &str) -> Config {
    try_parse(text).unwrap_or_else(|errors| panic!("{text}\n{}", render(&errors)))
}

fn errors(text: &str) -> Vec<Diagnostic> {
    try_parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"))
}

fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|d| format!("{d}\n")).collect()
}

const ALICE: &str = "on alice { device minor 1; disk /dev/a; meta-disk internal; address 10.0.0.1:7789; }";
const BOB: &str = "on bob { device minor 1; disk /dev/b; meta-disk internal; address 10.0.0.2:7789; }";

/// A resource `r0` of alice and bob with `body` in it.
fn resource(body: &str) -> String {
    format!("resource r0 {{ {body} {ALICE} {BOB} }}")
}

fn settings(text: &str, host: &str) -> ResourceConfig {
    let config = parse(text);
    let mut all = resolve(&config, host, None).unwrap_or_else(|errors| panic!("{}", render(&errors)));
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn first_error(text: &str) -> String {
    errors(text)[0].to_string()
}

#[test]
fn a_mistake_is_shown_with_its_line_and_a_remedy() {
    let text = "resource r0 {\n    net {\n        timeot 60;\n    }\n}\n";
    let shown = first_error(text);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines[0], "/etc/drbd.conf:3:9: error: 'timeot' is not an option of section net");
    assert_eq!(lines[1], "  3 |         timeot 60;");
    assert_eq!(lines[2], "    |         ^^^^^^");
    assert!(
        lines[3].starts_with("    = help: did you mean 'timeout'? Options of net: protocol, timeout,"),
        "{shown}"
    );
    assert_eq!(lines.len(), 4);
}

#[test]
fn independent_mistakes_are_told_together() {
    let text = resource(
        "net { timeout 601; timeot 3; protocol D; max-buffers 12x; } disk { resync-rate 10G; } \
         startup { wfc-timeout maybe; }",
    );
    let found = errors(&text);
    assert_eq!(found.len(), 6, "{}", render(&found));
    assert_eq!(exit_code(&found), 20, "a bad number is 20, the rest 10");
}

#[test]
fn an_option_in_the_wrong_section_names_the_right_one() {
    assert!(first_error(&resource("disk { timeout 6; }")).contains("'timeout' belongs to the section net"));
    assert!(first_error(&resource("net { discard-my-data; }")).contains("is an option of a command"));
}

#[test]
fn keywords_and_numbers_are_no_names_without_quotes() {
    for name in ["disk", "rate", "timeout", "10", "10G"] {
        let text = format!("resource {name} {{ {ALICE} {BOB} }}");
        assert!(first_error(&text).contains("in double quotes"), "{name}");
        let config = parse(&text.replacen(name, &format!("\"{name}\""), 1));
        assert_eq!(config.resources[0].name, name);
        let dumped = dump(&config, "alice", None, DumpOptions::default());
        assert_eq!(parse(&dumped).resources[0].name, name);
    }
    parse(&format!("resource quorum {{ {ALICE} {BOB} }}"));
}

#[test]
fn the_end_of_the_file_closes_everything() {
    let config = parse(&format!("resource r0 {{ {ALICE} {BOB} net {{ protocol A;"));
    assert_eq!(config.resource("r0").map(|r| r.sections.net.len()), Some(1));
    assert!(first_error("resource r0 { net { protocol").contains("the end of the file"));
}

#[test]
fn includes_are_relative_sorted_and_read_once() {
    let files = memory(&[
        ("drbd.conf", "include \"drbd.d/g.conf\"; include \"drbd.d/*.res\"; include \"none.d/*\";"),
        ("drbd.d/g.conf", "include \"g.conf\"; include \"../drbd.d/none?\"; global { usage-count no; }"),
        ("drbd.d/b.res", "resource b { }"),
        ("drbd.d/a.res", "resource a { }"),
    ]);
    let config = load(&files, &["/etc/drbd.conf"]).expect("legal");
    let names: Vec<&str> = config.resources.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(config.file, "/etc/drbd.conf");
    assert_eq!(config.file_line(config.resources[1].span), "/etc/drbd.d/b.res:1");

    let tested = load(&files, &["/etc/drbd.conf", "/etc/drbd.d/a.res"]).expect("read before: skipped");
    assert_eq!(tested.resources.len(), 2);
    let without = load_excluding(&files, &["/etc/drbd.conf"], Some("/etc/drbd.d/a.res")).expect("legal");
    assert_eq!(without.resources.len(), 1);
    let missing = load(&files, &["/etc/nosuch.conf"]).expect_err("no such file");
    assert_eq!(exit_code(&missing), 20);
}

#[test]
fn includes_have_a_depth_limit() {
    let files: BTreeMap<String, Vec<u8>> =
        (0..50).map(|n| (format!("/{n}"), format!("include \"/{}\";", n + 1).into_bytes())).collect();
    let found = load(&Memory(files), &["/0"]).expect_err("too deep");
    assert!(found[0].message.contains("nested deeper than"), "{}", render(&found));
}

#[test]
fn booleans_have_five_spellings() {
    let flags = |body: &str| settings(&resource(body), "alice");
    assert!(flags("net { allow-two-primaries; }").net.allow_two_primaries);
    assert!(flags("net { allow-two-primaries yes; }").net.allow_two_primaries);
    assert!(!flags("net { tcp-cork no; }").net.tcp_cork);
    assert!(!flags("disk { no-disk-flushes; }").volumes[0].disk_options.disk_flushes);
    assert!(!flags("syncer { no-use-rle; }").net.use_rle);
    assert!(first_error(&resource("net { tcp-cork maybe; }")).contains("write 'tcp-cork yes;'"));
}

#[test]
fn the_8_3_style_goes_to_where_it_belongs_now() {
    let text = resource(
        "protocol a; syncer { rate 30M; al-extents 257; csums-alg md5; cpu-mask 3; throttle-threshold 5; } \
         handlers { outdate-peer \"x\"; }",
    );
    let r0 = settings(&text, "alice");
    assert_eq!((r0.net.protocol, r0.net.csums_alg.as_deref()), (Protocol::A, Some("md5")));
    let disk = &r0.volumes[0].disk_options;
    assert_eq!((disk.resync_rate_kib_s, disk.al_extents), (30 << 10, 257));
    assert_eq!(r0.options.cpu_mask, "3");
    assert_eq!(r0.handlers.get(&Handler::FencePeer).map(String::as_str), Some("x"));
    assert!(errors(&resource("syncer { timeout 6; }"))[0].message.contains("the section syncer"));
}

#[test]
fn the_more_specific_place_wins_for_each_option() {
    let text = "common { net { protocol A; timeout 30; } disk { c-max-rate 1M; al-extents 67; } }
        resource r0 {
            net { protocol B; }
            disk { resync-rate 50M; al-extents 257; }
            volume 0 { device minor 1; disk /dev/x; meta-disk internal; disk { resync-rate 60M; md-flushes no; } }
            on alice { address 10.0.0.1:1; volume 0 { disk /dev/own; disk { c-max-rate 2M; } } }
            on bob { address 10.0.0.2:1; }
        }";
    let alice = settings(text, "alice");
    assert_eq!((alice.net.protocol, alice.net.timeout), (Protocol::B, Duration::from_secs(3)));
    let volume = &alice.volumes[0];
    assert_eq!(volume.disk.as_deref(), Some("/dev/own"));
    // spec: drbd-admin 1.9: the volume on resource level loses against the section of the resource.
    let disk = &volume.disk_options;
    assert_eq!((disk.resync_rate_kib_s, disk.al_extents, disk.md_flushes), (50 << 10, 257, false));
    assert_eq!(disk.c_max_rate_kib_s, 2 << 10);
    let bob = settings(text, "bob");
    assert_eq!((bob.volumes[0].disk.as_deref(), bob.peer_host.as_str()), (Some("/dev/x"), "alice"));
    assert_eq!(bob.volumes[0].disk_options.c_max_rate_kib_s, 1 << 10);
}

#[test]
fn values_become_typed_with_their_units() {
    let text = resource(
        "net { after-sb-0pri discard-node-alice; after-sb-1pri consensus; ping-timeout 500; sndbuf-size 512k;
               congestion-fill 1G; shared-secret \"a b\"; rr-conflict auto-discard; }
         disk { size 10G; disk-timeout 25; c-fill-target 24M; fencing resource-only; read-balancing 1M-striping; }
         startup { wfc-timeout 9; become-primary-on alice bob; stacked-timeouts; }",
    );
    let r0 = settings(&text, "alice");
    assert_eq!(r0.net.after_sb_0pri, AfterSb0::DiscardLocal);
    assert_eq!(settings(&text, "bob").net.after_sb_0pri, AfterSb0::DiscardRemote);
    assert_eq!((r0.net.after_sb_1pri.number(), r0.net.rr_conflict), (7, RrConflict::Disconnect));
    assert_eq!(r0.net.ping_timeout, Duration::from_secs(30), "the driver clamps what drbdadm does not check");
    assert_eq!((r0.net.sndbuf_bytes, r0.net.congestion_fill_sectors), (512 << 10, 2 << 20));
    assert_eq!(r0.net.shared_secret.as_deref(), Some("a b"));
    let disk = &r0.volumes[0].disk_options;
    assert_eq!((disk.size_sectors, disk.disk_timeout), (20 << 20, Duration::from_millis(2500)));
    assert_eq!((disk.fencing, disk.read_balancing), (Fencing::ResourceOnly, ReadBalancing::Striping1M));
    assert_eq!(disk.c_fill_target_sectors, 48 << 10);
    assert_eq!(r0.startup.wfc_timeout, Duration::from_secs(9));
    let both = vec!["alice".to_owned(), "bob".to_owned()];
    assert_eq!(
        (r0.startup.become_primary_on, r0.startup.stacked_timeouts),
        (BecomePrimaryOn::Hosts(both), true)
    );
}

#[test]
fn resync_after_finds_the_minor_on_this_host() {
    let other =
        "resource r1 { on alice { device minor 7; disk /dev/c; meta-disk internal; address 10.0.0.1:2; }
        on bob { device minor 8; disk /dev/d; meta-disk internal; address 10.0.0.2:2; } }";
    let after = |value: &str, host: &str| {
        let config = parse(&format!("{} {other}", resource(&format!("disk {{ resync-after {value}; }}"))));
        let resolved = resolve(&config, host, None).map_err(|errors| render(&errors));
        resolved.map(|all| all[0].volumes[0].disk_options.resync_after.clone())
    };
    let expected =
        |minor| Ok(Some(ResyncAfter { resource: "r1".into(), volume: VolumeNo(0), minor: Minor(minor) }));
    assert_eq!(after("r1", "alice"), expected(7));
    assert_eq!(after("r1/0", "bob"), expected(8));
    assert_eq!(after("nosuch/0", "bob"), Ok(None));
    assert!(after("r1/3", "bob").expect_err("no such volume").contains("does not name one volume"));
}

#[test]
fn a_connection_of_two_hosts_sets_addresses_and_options() {
    let text = "common { net { max-buffers 4000; } }
        resource r0 {
            net { fencing resource-and-stonith; protocol B; }
            device minor 0; disk /dev/x; meta-disk internal;
            on alice { node-id 3; address 10.0.0.1:1; }
            on bob { node-id 5; address 10.0.0.2:1; }
            connection {
                host alice address 10.9.9.1:7000; host bob port 7001;
                net { protocol A; }
                disk { c-max-rate 2M; c-min-rate 3M; }
                volume 0 { disk { c-min-rate 1M; } }
            }
        }";
    let r0 = settings(text, "alice");
    assert_eq!(r0.own_address.to_string(), "10.9.9.1:7000");
    assert_eq!(r0.peer_address.to_string(), "10.0.0.2:7001");
    assert_eq!((r0.net.protocol, r0.net.max_buffers_pages), (Protocol::A, 4000));
    let disk = &r0.volumes[0].disk_options;
    assert_eq!((disk.c_max_rate_kib_s, disk.c_min_rate_kib_s), (2 << 10, 1 << 10));
    assert_eq!(disk.fencing, Fencing::ResourceAndStonith);
    assert_eq!((r0.own_node_id, r0.peer_node_id), (Some(3), Some(5)));
    assert_eq!(settings(text, "ALICE.example.com").host, "alice", "9 compares host names loosely");
}

#[test]
fn options_of_9_are_kept_and_told_once() {
    let config = parse(&resource("options { quorum majority; auto-promote no; } net { transport tcp; }"));
    let told: Vec<&str> = config.warnings.iter().map(|w| w.message.as_str()).collect();
    let expected =
        "options of DRBD 9 without effect here: options quorum, options auto-promote, net transport";
    assert_eq!(told, [expected]);
    assert!(dump(&config, "alice", None, DumpOptions::default()).contains("quorum           majority;"));
    assert!(first_error(&resource("options { quorum 33; }")).contains("write off, majority, all"));
}

#[test]
fn a_required_module_version_that_we_are_not_is_a_warning() {
    let with = |line: &str| parse(&format!("{line} {}", resource(""))).warnings.len();
    assert_eq!(with("require-drbd-module-version-ge 8.4.0;"), 0);
    assert_eq!(with("require-drbd-module-version-ge 9.0.16;"), 1);
    assert!(first_error("require-drbd-module-version-xx 9.0.0;").contains("is not a comparison"));
}

#[test]
fn what_cannot_run_here_is_named() {
    let refusal = |text: &str, host: &str| {
        let config = parse(text);
        render(&resolve(&config, host, None).err().unwrap_or_else(|| panic!("runs: {text}")))
    };
    let three = format!(
        "resource r0 {{ {ALICE} {BOB} on carl {{ device minor 1; disk /dev/b; meta-disk internal; address 10.0.0.3:7789; }} }}"
    );
    assert!(refusal(&three, "alice").contains("multiple host sections for the peer"));
    let config = parse(&three);
    let chosen = resolve_resource(&config, &config.resources[0], "alice", None, Some("carl"));
    assert_eq!(chosen.expect("legal").map(|r| r.peer_host).as_deref(), Some("carl"));
    assert!(refusal(&format!("resource r0 {{ {ALICE} }}"), "alice").contains("missing section 'on <PEER>"));
    assert!(
        refusal(&resource("").replace("10.0.0.2", "sdp 10.0.0.2"), "alice").contains("sdp is not supported")
    );
    let low =
        "resource low { on alice { device minor 0; disk /dev/c; meta-disk internal; address 10.0.0.1:1; }
        on dora { device minor 0; disk /dev/c; meta-disk internal; address 10.0.0.9:1; } }";
    let stacked = format!(
        "{low} resource up {{ stacked-on-top-of low {{ device minor 5; address 10.0.0.1:2; }} {BOB} }}"
    );
    assert!(refusal(&stacked, "alice").contains("stacked on low, which is not supported"));
    let config = parse(&stacked);
    assert_eq!(resolve(&config, "bob", None).expect("the other side runs")[0].peer_host, "low");
    assert!(refusal(&resource("disk { on-io-error panic; }"), "bob").contains("'panic' is not a value"));
    assert!(refusal(&resource("net { ping-timeout x; }"), "bob").contains("'x' is not a valid number"));
    let long = "x".repeat(64);
    assert!(refusal(&resource(&format!("net {{ shared-secret {long}; }}")), "bob").contains("too long"));
}

#[test]
fn own_addresses_must_exist_unless_switched_off() {
    let ips: Vec<IpAddr> = vec!["10.0.0.1".parse().expect("an address")];
    let config = parse(&resource(""));
    assert!(resolve(&config, "alice", Some(&ips)).is_ok());
    let found = resolve(&config, "bob", Some(&ips)).expect_err("not here");
    assert!(found[0].message.contains("IP 10.0.0.2 not found on this host"));
    let off = parse(&format!("global {{ disable-ip-verification; }} {}", resource("")));
    assert!(resolve(&off, "bob", Some(&ips)).is_ok());
}

#[test]
fn a_disk_used_twice_is_refused_only_if_inherited() {
    let other = |level: &str| {
        format!(
            "{} resource r1 {{ device minor 2; meta-disk internal; {level}
                on alice {{ {} address 10.0.0.1:2; }} on bob {{ disk /dev/zz; address 10.0.0.2:2; }} }}",
            resource(""),
            if level.is_empty() { "disk /dev/a;" } else { "" }
        )
    };
    assert_eq!(parse(&other("")).warnings.len(), 1);
    assert!(first_error(&other("disk /dev/a;")).contains("conflicting use of disk 'disk:alice:/dev/a'"));
}

#[test]
fn devices_have_names_and_minors() {
    let device = |text: &str| {
        let text = resource("").replacen("device minor 1;", &format!("device {text};"), 1);
        try_parse(&text).map(|config| {
            let volume = resolve(&config, "alice", None).expect("runs").remove(0).volumes.remove(0);
            (volume.minor.0, volume.device)
        })
    };
    let ok = |minor: u32, name: &str| Ok((minor, name.to_owned()));
    assert_eq!(device("/dev/drbd3"), ok(3, "/dev/drbd3"));
    assert_eq!(device("drbd3 minor 3"), ok(3, "/dev/drbd3"));
    assert_eq!(device("minor 3"), ok(3, "/dev/drbd3"));
    assert_eq!(device("/dev/drbd_x minor 3"), ok(3, "/dev/drbd_x"));
    for bad in [
        "/dev/drbd3 minor 4",
        "/dev/sda",
        "/dev/drbdx minor 1",
        "/dev/drbd_x",
        "minor 1048576",
        "drbd9999999",
    ] {
        assert!(device(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_ipv6_scope_must_be_a_number_to_run() {
    let with = |scope: &str| {
        let address = format!("address ipv6 [fe80::1%{scope}]:7789");
        let config = parse(&resource("").replace("address 10.0.0.1:7789", &address));
        resolve(&config, "alice", None).map(|all| all[0].own_address.to_string()).map_err(|e| e.len())
    };
    assert_eq!(with("3"), Ok("[fe80::1%3]:7789".to_owned()));
    assert_eq!(with("eth0"), Err(1));
}

#[test]
fn an_option_set_twice_counts_the_last_time() {
    let text = resource("net { timeout 30; ping-int 5; timeout 40; }");
    assert_eq!(settings(&text, "alice").net.timeout, Duration::from_secs(4));
    assert_eq!(parse(&text).warnings.len(), 1);
}

#[test]
fn dump_of_named_resources_has_no_header() {
    let config = parse(&format!("common {{ net {{ timeout 30; }} }} {}", resource("")));
    let text = dump(&config, "alice", None, DumpOptions { resources: Some(&["r0", "no"]), expanded: false });
    assert!(
        text.starts_with("# resource r0 on alice: not ignored, not stacked\n# defined at /etc/drbd.conf:1\n")
    );
    let elsewhere = dump(&config, "zoe", None, DumpOptions::default());
    assert!(elsewhere.contains("# resource r0 on zoe: ignored, not stacked\n"));
}

/// Words that make random text get past the first token.
fn soup() -> impl Strategy<Value = String> {
    let words = [
        "global",
        "common",
        "resource",
        "skip",
        "include",
        "r0",
        "{",
        "{",
        "}",
        "}",
        ";",
        ";",
        "on",
        "alice",
        "bob",
        "floating",
        "stacked-on-top-of",
        "volume",
        "0",
        "1",
        "device",
        "minor",
        "/dev/drbd1",
        "disk",
        "/dev/x",
        "meta-disk",
        "internal",
        "[",
        "]",
        ":",
        "address",
        "10.0.0.1",
        "ipv6",
        "fd00::1",
        "net",
        "timeout",
        "60",
        "syncer",
        "rate",
        "10M",
        "startup",
        "become-primary-on",
        "both",
        "handlers",
        "split-brain",
        "\"a b\"",
        "proxy",
        "plugin",
        "inside",
        "connection",
        "connection-mesh",
        "host",
        "hosts",
        "path",
        "port",
        "via",
        "node-id",
        "template-file",
        "options",
        "quorum",
        "yes",
        "no",
        "#",
        "\n",
        "\"",
        "no-disk-flushes",
        "ignore-on",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..120).prop_map(|words| words.join(" "))
}

/// Nothing may panic, and what is accepted must survive its own dump.
fn survives(text: &[u8]) {
    let files = Memory([("/f".to_owned(), text.to_vec())].into());
    match load(&files, &["/f"]) {
        Err(found) => {
            assert_ne!(exit_code(&found), 0);
            found.iter().for_each(|d| assert!(!d.to_string().is_empty()));
        }
        Ok(config) => {
            let dumped = dump(&config, "alice", None, DumpOptions { expanded: true, resources: None });
            let again = try_parse(&dumped).unwrap_or_else(|errors| panic!("{dumped}\n{}", render(&errors)));
            assert_eq!(again.resources.len(), config.resources.len());
            assert_eq!(resolve(&config, "alice", None).is_ok(), resolve(&again, "alice", None).is_ok());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survives(&bytes);
    }

    #[test]
    fn arbitrary_words_are_survived(text in soup()) {
        survives(text.as_bytes());
        survives(resource(&text).as_bytes());
    }
}

#[test]
fn deep_nesting_is_survived() {
    survives("skip { ".repeat(100_000).as_bytes());
    survives("{".repeat(100_000).as_bytes());
    survives(format!("skip {}{}", "{".repeat(200_000), "}".repeat(200_000)).as_bytes());
    survives("resource r0 { on a { volume 0 { disk { ".repeat(1000).as_bytes());
}
