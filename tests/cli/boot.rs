//! What boot scripts and udev call.

use std::time::{Duration, Instant};

use super::node::Node;
use super::{SEED, run};

#[test]
fn udev_and_modprobe_are_told_what_they_ask() {
    let with = |rest: &[&str]| run(&[&["-c", SEED, "--host", "node1"], rest].concat());
    let udev = "RESOURCE=test\nDEVICE=drbd1\nDISK=vdb\n";
    assert_eq!(with(&["sh-udev", "minor-1"]), (0, udev.into(), "".into()));
    assert_eq!(with(&["sh-mod-parms"]), (0, "minor_count=32\n".into(), "".into()));
    assert_eq!(with(&["sh-udev"]).0, 1);
    assert_eq!(run(&["help", "sh-b-pri"]).0, 0, "the boot script asks whether there is one");
}

/// As drbdadm prints it (drbd-admin 4.5), for all that is configured.
#[test]
fn sh_status_is_what_agents_evaluate() {
    let node = Node::start("");
    node.create_and_up();
    let config = node.dir.path().join("drbd.conf");
    let wanted = format!(
        "_drbd_version=9.22.0\n_drbd_api=1\n_config_file={file}\n\n\n\
         _conf_res_name=r0\n_conf_file_line={file}:1\n\n\
         _stacked_on=\n_stacked_on_device=\n_stacked_on_minor=\n_conf_volume=0\n\
         _minor=0\n_res_name=r0\n_volume=0\n_known=Configured\n\n\
         _cstate=WFConnection\n_role=Secondary\n_peer=Unknown\n_disk=Inconsistent\n_pdsk=DUnknown\n\n\
         _flags_susp=\n_flags_aftr_isp=\n_flags_peer_isp=\n_flags_user_isp=\n\n_resynced_percent=\n\n\
         _sh_status_process\n\n\n",
        file = config.display()
    );
    assert_eq!(node.good(&["sh-status", "r0"]), wanted);
    let all = node.good(&["sh-status"]);
    assert!(all.starts_with(&wanted), "{all}");
    assert!(all.contains("_conf_res_name=other\n") && all.contains("\n_minor=5\n_res_name=\n"), "{all}");
}

#[test]
fn sh_b_pri_promotes_whom_the_file_names() {
    let node = Node::start("");
    node.create_and_up();
    node.good(&["primary", "--force", "r0"]);
    node.good(&["secondary", "r0"]);
    let role = || node.good(&["role", "r0"]);
    assert_eq!(node.good(&["sh-b-pri", "all"]), "");
    assert_eq!(role(), "Secondary/Unknown\n", "nobody is named");
    node.configure("net {  }", "net {  } startup { become-primary-on two; }");
    assert_eq!(node.good(&["sh-b-pri", "all"]), "");
    assert_eq!(role(), "Secondary/Unknown\n", "the other one is named");
    node.configure("become-primary-on two;", "become-primary-on one;");
    assert_eq!(node.good(&["sh-b-pri", "all"]), "");
    assert_eq!(role(), "Primary/Unknown\n");
}

#[test]
fn sh_b_pri_tries_for_some_seconds() {
    let node = Node::start("");
    node.create_and_up();
    node.configure("net {  }", "net {  } startup { become-primary-on one; }");
    let begun = Instant::now();
    let (exit, _, err) = node.run(&["sh-b-pri", "r0"]);
    assert_eq!(exit, 17, "{err}");
    assert_eq!(err.lines().count(), 1, "once: {err}");
    assert!(begun.elapsed() >= Duration::from_secs(4));
}

/// Its result is that the boot goes on.
#[test]
fn wait_con_int_waits_for_all_and_is_content() {
    let node = Node::start("");
    node.create_and_up();
    node.configure("net {  }", "net {  } startup { wfc-timeout 2; }");
    let begun = Instant::now();
    let (exit, out, _) = node.run(&["wait-con-int"]);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(exit == 0 && out.starts_with('.') && out.ends_with('\n'), "{exit} {out:?}");
}

/// Nobody is at the console: it says how to end it.
#[test]
fn wait_con_int_says_what_it_waits_for() {
    let node = Node::start("");
    node.create_and_up();
    node.configure("net {  }", "net {  } startup { wfc-timeout 12; }");
    let (exit, out, _) = node.run(&["wait-con-int"]);
    let told = [
        "..........\n*****",
        "   is 12 seconds. [wfc-timeout]\n",
        "resource 'r0'",
        "kill this process: kill ",
    ];
    for text in told {
        assert!(exit == 0 && out.contains(text), "{text:?} is not in {exit} {out}");
    }
}

#[test]
fn the_boot_script_adjusts_with_its_own_verb() {
    let node = Node::start("");
    node.create_and_up();
    node.good(&["disconnect", "r0"]);
    node.good(&["adjust-with-progress", "r0"]);
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");
}
