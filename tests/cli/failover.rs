//! `lockstep failover`: needs no daemon.

use std::fs;

use super::run;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/failover");

#[test]
fn a_file_of_keepalived_is_checked() {
    let file = format!("{GOLDEN}/keepalived/keepalived-single.conf");
    let (exit, out, err) = run(&["failover", "check", &file]);
    assert_eq!(exit, 0);
    assert_eq!(
        out,
        "vrrp_instance VI_1: eth0 router 51 priority 100, 192.168.10.100\n\
         virtual_server 192.168.10.100 80: 2 real servers, not served yet\n"
    );
    assert!(err.starts_with(&format!("{file}:30:5: warning: 'nat_mask' has no effect here\n")), "{err}");
    let (exit, out, err) = run(&["failover", "check", &format!("{GOLDEN}/vrrp/conf-Aah.conf")]);
    assert_eq!((exit, out.as_str()), (10, ""));
    assert!(err.contains("'auth_type AH' is refused"), "{err}");
    assert_eq!(run(&["failover", "check", "/nosuch/file"]).0, 20);
    assert_eq!(run(&["failover"]).0, 1);
}

#[test]
fn lines_for_one_configuration_are_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.conf");
    let text = "vrrp_instance V {\ninterface eth0\nvirtual_router_id 1\n@a priority 7\nvirtual_ipaddress {\n192.0.2.1\n}\n}\n";
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    assert!(run(&["failover", "check", file]).1.contains("priority 100"));
    assert!(run(&["failover", "check", "-i", "a", file]).1.contains("priority 7,"));
}

#[test]
fn what_is_imported_from_heartbeat_is_accepted() {
    let file = |name: &str| format!("{GOLDEN}/heartbeat-lvs/{name}");
    let (ha_cf, haresources, authkeys) = (file("ha.cf"), file("haresources"), file("authkeys"));
    let names = ["--ha-cf", &ha_cf, "--haresources", &haresources, "--authkeys", &authkeys];
    let (exit, out, err) = run(&[&["failover", "import", "--host", "Slave"], &names[..]].concat());
    assert_eq!((exit, err.as_str()), (0, ""));
    assert!(out.contains("    priority 100\n") && out.contains("        1 sha1 cluster\n"), "{out}");
    let told: Vec<&str> = out.lines().filter(|l| l.starts_with('#') && l.contains("cluster")).collect();
    assert!(told.is_empty(), "no note repeats a secret: {told:?}");
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("failover.conf");
    fs::write(&kept, out).unwrap();
    let (exit, out, err) = run(&["failover", "check", kept.to_str().unwrap()]);
    assert_eq!((exit, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "vrrp_instance VI_1: eth1 router 51 priority 100, 10.10.10.9 192.168.2.11\nheartbeat: Master Slave over 1 media\n"
    );
}
