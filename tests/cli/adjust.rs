//! What runs follows the file.

use std::fs::{self, File};

use super::node::Node;

#[test]
fn adjust_follows_the_file() {
    let node = Node::start("");
    assert_eq!(node.run(&["up", "r0"]).0, 1, "no metadata");
    node.configure("/dev/drbd0;", "/dev/drbd7;");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    assert_eq!(node.good(&["adjust", "r0"]), "");
    assert_eq!(node.good(&["cstate", "minor-7"]), "WFConnection\n", "brought up with the file as it is now");
    node.good(&["primary", "--force", "r0"]);

    node.good(&["disconnect", "r0"]);
    node.configure("net {  }", "net { ping-int 20; } disk { resync-rate 9M; }");
    assert_eq!(node.good(&["adjust", "r0"]), "");
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");

    node.configure("/dev/drbd7;", "/dev/drbd8;");
    let (exit, _, err) = node.run(&["adjust", "r0"]);
    assert!(exit == 1 && err.contains("the volumes changed"), "a Primary is not restarted: {err}");
    node.good(&["secondary", "r0"]);
    assert_eq!(node.good(&["adjust", "r0"]), "");
    assert_eq!(node.good(&["dstate", "minor-8"]), "UpToDate/DUnknown\n");

    node.configure("resource r0 {", "resource r0 { protocol X;");
    let (exit, _, err) = node.run(&["adjust", "r0"]);
    assert!(exit != 0 && !err.is_empty(), "{exit} {err}");
    assert_eq!(node.good(&["dstate", "r0"]), "UpToDate/DUnknown\n", "what runs is not touched");
}

/// As with DRBD, whose tools know nothing but the file. One that cannot be read stops nobody.
#[test]
fn what_begins_anew_begins_as_the_file_has_it() {
    let node = Node::start("");
    let path = |name: &str| node.dir.path().join(name);
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    fs::copy(path("disk.img"), path("copy.img")).unwrap();
    node.good(&["up", "r0"]);
    node.good(&["disconnect", "r0"]);
    node.good(&["detach", "r0"]);
    node.configure("net {  }", "net { protocol B; }");
    node.configure("/disk.img;", "/copy.img;");
    node.good(&["attach", "r0"]);
    assert!(File::open(path("copy.img")).unwrap().try_lock().is_err(), "the disk that the file names");
    node.good(&["connect", "r0"]);
    let proc = node.good(&["proc"]);
    assert!(proc.contains(" 0: cs:WFConnection ro:Secondary/Unknown ds:Inconsistent/DUnknown B "), "{proc}");

    node.good(&["detach", "r0"]);
    node.configure("/copy.img;", "/disk.img;");
    let (exit, _, err) = node.run(&["up", "r0"]);
    let connected = "r0: Failure: (102) Local address(port) already in use.\n";
    assert_eq!((exit, err.as_str()), (1, connected), "its connection was there");
    assert!(File::open(path("disk.img")).unwrap().try_lock().is_err(), "by up, too");

    node.good(&["disconnect", "r0"]);
    node.good(&["detach", "r0"]);
    node.configure("protocol B;", "frobnicate;");
    node.good(&["attach", "r0"]);
    node.good(&["connect", "r0"]);
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");
}

/// One of two new disks cannot be used. What was done all the same is undone by the file as it was.
#[test]
fn an_adjust_that_fails_half_way_is_taken_back_by_the_next() {
    let node = Node::start("");
    let path = |name: &str| node.dir.path().join(name);
    for name in ["zero", "one", "blank"] {
        File::create(path(name)).unwrap().set_len(16 << 20).unwrap();
    }
    let write = |disks: [&str; 2]| {
        let volume = |n: usize| {
            let disk = path(disks[n]);
            format!("volume {n} {{ device /dev/drbd{n}; disk {}; meta-disk internal; }} ", disk.display())
        };
        let hosts = "on one { address 127.0.0.1:3; } on two { address 127.0.0.2:3; }";
        fs::write(path("drbd.conf"), format!("resource r0 {{ {} {} {hosts} }}", volume(0), volume(1)))
            .unwrap();
    };
    let is_attached = |name: &str| File::open(path(name)).unwrap().try_lock().is_err();
    write(["zero", "one"]);
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    fs::copy(path("zero"), path("copy")).unwrap();
    node.good(&["up", "r0"]);
    write(["copy", "blank"]);
    assert_eq!(node.run(&["adjust", "r0"]), (1, "".into(), "No valid meta data found\n".into()));
    assert!(is_attached("copy") && !is_attached("zero"));
    write(["zero", "one"]);
    assert_eq!(node.good(&["adjust", "r0"]), "");
    assert!(is_attached("zero") && is_attached("one") && !is_attached("copy"));
}
