//! heartbeat's files: what they become, what is said of each line, and that the file printed means the same.

#![allow(clippy::unwrap_used, reason = "the helpers of this test are outside test functions")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use model::config::{Diagnostic, LoadError, LoadedFile, Loader};
use model::failover::config::*;
use model::failover::heartbeat::{AuthKey, AutoFailback, Medium};
use model::failover::{Fate, HeartbeatFiles, Import, import, load, print_import};
use proptest::prelude::*;

struct Memory(BTreeMap<&'static str, Vec<u8>>);

impl Loader for Memory {
    fn read(&self, path: &str) -> Result<LoadedFile, LoadError> {
        let text = self.0.get(path).ok_or_else(|| LoadError { reason: "not there".to_owned() })?.clone();
        Ok(LoadedFile { name: path.to_owned(), identity: path.to_owned(), text })
    }

    fn glob(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}

const FILES: HeartbeatFiles<'_> =
    HeartbeatFiles { ha_cf: "ha.cf", haresources: "haresources", authkeys: "authkeys" };

fn run(ha_cf: &[u8], haresources: &[u8], authkeys: &[u8], host: &str) -> Result<Import, Vec<Diagnostic>> {
    let files = BTreeMap::from([
        ("ha.cf", ha_cf.to_vec()),
        ("haresources", haresources.to_vec()),
        ("authkeys", authkeys.to_vec()),
    ]);
    import(&Memory(files), FILES, host)
}

fn render(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|d| format!("{d}\n")).collect()
}

/// What is printed says what was imported.
fn kept(import: &Import) {
    let printed = print_import(import);
    let files = Memory(BTreeMap::from([("ha.cf", printed.clone().into_bytes())]));
    let again = load(&files, "ha.cf", None).unwrap_or_else(|all| panic!("{printed}\n{}", render(&all)));
    assert_eq!(again.config, import.config, "{printed}");
}

fn imported(ha_cf: &str, haresources: &str, host: &str) -> Import {
    let import = run(ha_cf.as_bytes(), haresources.as_bytes(), b"auth 1\n1 crc\n", host)
        .unwrap_or_else(|all| panic!("{}", render(&all)));
    kept(&import);
    import
}

fn first_error(ha_cf: &str, haresources: &str, authkeys: &str) -> String {
    let all = run(ha_cf.as_bytes(), haresources.as_bytes(), authkeys.as_bytes(), "alpha").unwrap_err();
    all[0].to_string().lines().next().unwrap().to_owned()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/failover/heartbeat-lvs").join(name),
    )
    .unwrap()
}

#[test]
fn a_pair_of_directors_becomes_an_instance() {
    let (ha_cf, haresources, authkeys) = (golden("ha.cf"), golden("haresources"), golden("authkeys"));
    let import =
        run(&ha_cf, &haresources, &authkeys, "master").unwrap_or_else(|all| panic!("{}", render(&all)));
    assert_eq!(render(&import.warnings), "");
    let membership = &import.membership;
    assert_eq!(
        (membership.keepalive, membership.deadtime),
        (Duration::from_secs(2), Duration::from_secs(10))
    );
    assert_eq!(membership.media, [Medium::Broadcast { interface: "eth0".into(), port: 1001 }]);
    assert_eq!(membership.nodes, ["Master", "Slave"]);
    assert_eq!((membership.signs_with, &membership.keys[&1]), (1, &AuthKey::Sha1("cluster".into())));
    assert_eq!(import.auto_failback, AutoFailback::Legacy);
    assert_eq!(import.config.heartbeat.as_ref(), Some(membership));

    assert_eq!(import.config.services, []);
    let [instance] = &import.config.instances[..] else { panic!("one instance") };
    assert_eq!(
        (instance.interface.as_str(), instance.priority, instance.virtual_router_id),
        ("eth1", 150, 51)
    );
    let addresses: Vec<_> = instance
        .addresses
        .iter()
        .map(|a| (a.address.to_string(), a.prefix_len, a.interface.as_deref()))
        .collect();
    assert_eq!(addresses, [("10.10.10.9".into(), 24, None), ("192.168.2.11".into(), 24, Some("eth0"))]);
    assert_eq!(instance.preempt, Preempt::Never);
    let slave = run(&ha_cf, &haresources, &authkeys, "slave").unwrap();
    assert_eq!(slave.config.instances[0].priority, 100);
    kept(&import);

    let printed = print_import(&import);
    let secret: Vec<&str> = printed.lines().filter(|line| line.contains("cluster")).collect();
    assert_eq!(secret, ["        1 sha1 cluster"], "the notes have no secrets\n{printed}");
    assert!(printed.contains("only root may be able to read it"));
    for line in [
        "# ha.cf:4: keepalive 2",
        "# haresources:1: keepalived",
        "#     NOT SERVED: its virtual servers are the director's business; 'lockstep failover check' reads keepalived.conf",
        "# ha.cf:5: logfile /var/log/ha-log",
        "# authkeys:2: 1 sha1",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line} is missing in\n{printed}");
    }
    assert_eq!(import.notes.iter().filter(|note| note.fate == Fate::Ignored).count(), 2);
    assert_eq!(import.notes.len(), 9 + 2 + 4);
}

#[test]
fn a_line_with_storage_becomes_a_service() {
    let ha_cf = "keepalive 500ms\ndeadtime 5\nwarntime 3\ninitdead 20\nauto_failback on\nmcast eth0 239.0.0.1 694 1 0\n\
                 ucast eth1 10.0.0.2\nnode alpha beta\nmsgfmt netstring\nping 10.0.0.254\nstonith_host * x y\n";
    let haresources = "# storage first\nalpha 192.168.2.11/24/eth0:1/192.168.2.255 drbddisk::r0 \\\n  \
                       Filesystem::/dev/drbd0::/data::ext4::noatime \\\n  Filesystem::/dev/drbd1::/log postgresql::15::main\n\
                       BETA drbddisk::r1 Delay::3\n";
    let import = imported(ha_cf, haresources, "alpha");
    assert_eq!(import.membership.media.len(), 2);
    assert!(import.membership.netstring);
    let [db, other] = &import.config.services[..] else { panic!("two services") };
    assert_eq!(
        (db.resource.as_str(), db.preferred_node.as_deref(), db.failback),
        ("r0", Some("alpha"), true)
    );
    assert_eq!(db.instances, ["VI_r0"]);
    let address = &import.config.instances[0].addresses[0];
    assert_eq!(address.label.as_deref(), Some("eth0:1"));
    assert_eq!(address.broadcast, Broadcast::Address("192.168.2.255".parse().unwrap()));
    let [data, _, script] = &db.steps[..] else { panic!("three steps") };
    let mount = StepKind::Mount {
        device: "/dev/drbd0".into(),
        directory: "/data".into(),
        filesystem: Some("ext4".into()),
        options: Some("noatime".into()),
        checks_first: false,
    };
    assert_eq!((&data.kind, data.timeout), (&mount, Duration::ZERO));
    let StepKind::Command { name, start, stop, status } = &script.kind else { panic!("a command") };
    assert_eq!(name, "postgresql");
    assert_eq!(start.words, ["/etc/ha.d/resource.d/postgresql", "15", "main", "start"]);
    assert_eq!(stop.as_ref().unwrap().words[3], "stop");
    assert_eq!(status.as_ref().unwrap().words[3], "status");
    assert_eq!(
        (other.resource.as_str(), other.instances.len(), other.preferred_node.as_deref()),
        ("r1", 0, Some("BETA"))
    );
    let not_served: Vec<&str> =
        import.notes.iter().filter(|n| n.fate == Fate::NotServed).map(|n| n.text.as_str()).collect();
    assert_eq!(not_served, ["ping 10.0.0.254", "stonith_host * x y"]);
}

#[test]
fn what_cannot_be_kept_is_said() {
    let nodes = "node alpha beta\n";
    let import =
        imported(nodes, "alpha 10.0.0.1 apache\nalpha drbddisk::r0 drbddisk::r1 drbdupper::u\n", "beta");
    let not_served: Vec<&str> =
        import.notes.iter().filter(|n| n.fate == Fate::NotServed).map(|n| n.text.as_str()).collect();
    assert_eq!(not_served, ["apache", "drbddisk::r1", "drbdupper::u"]);
    assert!(render(&import.warnings).contains("an address names no interface: eth0 is written"));
    let import = imported(&(nodes.to_owned() + "keepalivee 3\n"), "gamma 10.0.0.1/24/eth0\n", "beta");
    let messages: Vec<&str> = import.warnings.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(messages, ["'keepalivee' is not a directive of ha.cf", "ha.cf has no node gamma"]);
}

#[test]
fn mistakes_have_a_place() {
    let (nodes, keys) = ("node alpha\n", "auth 1\n1 crc\n");
    let cases = [
        (first_error("keepalive x\n", "", keys), "ha.cf:1:11: error: 'x' is not a time"),
        (
            first_error("mcast eth0 10.0.0.1 694 1 0\n", "", keys),
            "ha.cf:1:12: error: '10.0.0.1' is no multicast address",
        ),
        (first_error("keepalive 30\n", "", keys), "error: ha.cf: a node is dead before its next beat comes"),
        (first_error(nodes, "", "1 crc\n"), "authkeys:1:1: error: no line says which key is used"),
        (first_error(nodes, "", "auth 2\n1 crc\n"), "authkeys:1:6: error: there is no key 2"),
        (first_error(nodes, "", "auth 1\n1 sha1\n"), "authkeys:2:3: error: this key needs one secret"),
        (first_error(nodes, "", "auth 16\n"), "authkeys:1:6: error: auth 16 is not between 1 and 15"),
        (
            first_error(nodes, "alpha IPaddr::10.0.0.1/99\n", keys),
            "haresources:1:7: error: '99' does not belong into an address",
        ),
        (
            first_error(nodes, "alpha drbddisk\n", keys),
            "haresources:1:7: error: 'drbddisk' lacks arguments, or has too many",
        ),
        (
            first_error(nodes, "alpha drbddisk::r0\nalpha drbddisk::r0\n", keys),
            "haresources:2:1: error: the resource r0 is on two lines",
        ),
    ];
    for (found, wanted) in cases {
        assert_eq!(found, wanted);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bent_files_are_survived(
        which in 0..3usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![
            "\\\n", "\n", " ", "::", "/", "9", "#", "\0", "\u{e4}", "'", "\"", "$A", "IPaddr::fe80::1/64/eth9", "drbddisk::r0",
            "Filesystem::/dev/x::/y::::ro", "auth 2\n", "{", "include", "-",
        ]), 0..6usize), 1..4),
    ) {
        let mut files = [golden("ha.cf"), golden("haresources"), golden("authkeys")];
        for (at, insert, delete) in changes {
            let text = &mut files[which];
            let at = at.index(text.len() + 1);
            let end = text.len().min(at + delete);
            text.splice(at..end, insert.bytes());
        }
        if let Ok(import) = run(&files[0], &files[1], &files[2], "slave") {
            kept(&import);
        }
    }
}
