//! Handler scripts that look for /proc/drbd.

use std::fs;
use std::path::Path;

use super::node::Node;

/// A script sees the state that made it necessary, of all that is up.
#[test]
fn a_handler_finds_the_text_of_proc_drbd() {
    let node = Node::start("");
    let seen = node.dir.path().join("seen");
    let script = format!("cp $LOCKSTEP_PROC_DRBD {0}.new && mv {0}.new {0}; exit 4", seen.display());
    let sections = format!("disk {{ fencing resource-only; }} handlers {{ fence-peer \"{script}\"; }}");
    node.create_and_up();
    node.good(&["primary", "--force", "r0"]);
    node.good(&["down", "r0"]);
    node.configure("net {  }", &sections);
    node.good(&["up", "r0"]);
    assert!(!node.dir.path().join("run/proc-drbd").exists(), "nobody has asked for it");
    node.good(&["primary", "r0"]);
    let text = fs::read_to_string(&seen).unwrap();
    assert!(text.starts_with("version: 8.4.11 "), "{text}");
    assert!(text.contains("\n 0: cs:WFConnection ro:Secondary/Unknown ds:Consistent/DUnknown C "), "{text}");
    assert_eq!(fs::read_to_string(node.dir.path().join("run/proc-drbd")).unwrap(), text);
}

/// Their packaged scripts would find that nothing is UpToDate.
#[test]
fn up_warns_of_scripts_that_need_the_kernel_module() {
    if Path::new("/proc/drbd").exists() {
        return;
    }
    let node = Node::start("");
    node.create_and_up();
    node.good(&["down", "r0"]);
    let sections = |script: &str| format!("handlers {{ fence-peer \"{script}\"; }}");
    node.configure("net {  }", &sections("/usr/lib/drbd/crm-fence-peer.sh --timeout 60"));
    for command in ["up", "adjust"] {
        let (exit, _, err) = node.run(&[command, "r0"]);
        let told =
            err.starts_with("warning: resource r0: handler fence-peer runs /usr/lib/drbd/crm-fence-peer.sh,");
        assert!(
            exit == 0 && told == (command == "up") && err.lines().count() <= 1,
            "{command}: {exit} {err}"
        );
    }
    node.until("it is logged", |node| node.log().contains("which reads /proc/drbd, and there is none"));
    node.good(&["down", "r0"]);
    node.configure("/usr/lib/drbd/", "/usr/local/lib/");
    node.good(&["up", "r0"]);
}

/// The kernel has it, or nobody: the command goes on by itself, and finds no service and no kernel here.
#[test]
fn a_daemon_without_the_resource_does_not_answer_for_it() {
    let node = Node::start("");
    for handler in ["fence-peer", "unfence-peer"] {
        let none = node.dir.path().join("nosuch.conf");
        let (exit, _, err) = node.run(&[handler, "r0", "--failover", none.to_str().unwrap()]);
        assert_eq!(exit, 1, "{err}");
        assert!(
            err.starts_with(&format!("resource r0: {handler}: ")) && err.contains("nosuch.conf"),
            "{err}"
        );
    }
}
