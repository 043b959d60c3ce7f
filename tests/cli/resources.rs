//! Resources and their verbs.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use super::node::Node;
use super::run;
use lockstep::daemon::control::{Action, Outcome, REPLY_BYTES_MAX, Reply, Request, receive_blocking};

#[test]
fn the_life_of_a_resource_without_a_peer() {
    let node = Node::start("");
    assert_eq!(
        node.run(&["up", "r0"]),
        (1, "".into(), "No valid meta data found\n".into()),
        "without metadata"
    );
    assert_eq!(node.good(&["down", "r0"]), "");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);

    assert_eq!(node.good(&["up", "r0"]), "");
    let (exit, _, err) = node.run(&["up", "r0"]);
    assert_eq!((exit, err.lines().next()), (1, Some("Device '0' is configured!")), "up again: {err}");
    assert_eq!(node.good(&["role", "r0"]), "Secondary/Unknown\n");
    assert_eq!(node.good(&["dstate", "r0/0"]), "Inconsistent/DUnknown\n");
    assert_eq!(node.good(&["cstate", "minor-0"]), "WFConnection\n");
    let (exit, _, err) = node.run(&["connect", "r0"]);
    assert_eq!((exit, err.as_str()), (10, "r0: Failure: (102) Local address(port) already in use.\n"));

    // Refused state changes, with the exit codes that agents know.
    let refused = "0: State change failed: (-2) Need access to UpToDate data\n";
    assert_eq!(node.run(&["primary", "r0"]), (17, "".into(), refused.into()));
    assert_eq!(node.run(&["outdate", "r0"]), (5, "".into(), "".into()), "lower than Outdated, and silent");
    assert_eq!(node.good(&["--", "--overwrite-data-of-peer", "primary", "r0"]), "");
    assert_eq!(node.good(&["role", "r0"]), "Primary/Unknown\n");
    assert_eq!(node.good(&["dstate", "r0"]), "UpToDate/DUnknown\n");
    let (exit, _, err) = node.run(&["detach", "r0"]);
    assert_eq!((exit, err.as_str()), (17, refused), "the last good copy is not given up");

    assert!(node.good(&["status", "r0"]).starts_with("r0 role:Primary\n  disk:UpToDate\n"));
    assert!(node.good(&["status", "--json"]).contains("\"disk-state\": \"UpToDate\""));
    assert!(
        node.good(&["proc"])
            .contains("\n 0: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C r----")
    );
    assert!(node.good(&["get-gi", "r0"]).ends_with(":1:1:1:0:0:0:0\n"), "{}", node.good(&["get-gi", "r0"]));
    let (exit, _, err) = node.run(&["wait-connect", "--wfc-timeout=1", "r0"]);
    assert_eq!(exit, 5, "{err}");

    let (exit, _, err) = node.run(&["create-md", "--force", "r0"]);
    assert_eq!((exit, err.as_str()), (20, "Device '0' is configured!\n"));
    assert_eq!(node.good(&["adjust", "r0"]), "", "nothing differs");
    assert_eq!(node.good(&["secondary", "r0"]), "");
    assert_eq!(node.good(&["disconnect", "r0"]), "");
    assert_eq!(node.good(&["cstate", "r0"]), "StandAlone\n");
    let (exit, _, err) = node.run(&["disconnect", "r0"]);
    let unknown = "??: Failure: (162) Invalid configuration request\n\
                   additional info from kernel:\nunknown connection\n";
    assert_eq!((exit, err.as_str()), (10, unknown));
    assert_eq!(node.good(&["down", "r0"]), "");
    assert_eq!(node.good(&["down", "r0"]), "", "down of what is not up is fine");
    assert_eq!(node.good(&["status"]), "");

    // Now the metadata on the disk answers.
    assert_eq!(node.good(&["get-gi", "r0"]).split(':').count(), 11);
    assert_eq!(node.good(&["outdate", "r0"]), "");
    let (exit, out, _) = node.run(&["dstate", "r0"]);
    assert_eq!((exit, out.as_str()), (0, "Outdated\n"));
    assert_eq!(node.good(&["up", "r0"]), "");
    assert_eq!(node.good(&["dstate", "r0"]), "Outdated/DUnknown\n");
}

#[test]
fn a_copy_that_is_not_attached_is_outdated_on_its_disk() {
    let node = Node::start("");
    node.create_and_up();
    node.good(&["primary", "--force", "r0"]);
    node.good(&["secondary", "r0"]);
    node.good(&["detach", "r0"]);
    // As DRBD: 5 tells that the device has no disk, and the metadata is marked all the same.
    assert_eq!(node.run(&["outdate", "r0"]), (5, "".into(), "".into()));
    node.good(&["attach", "r0"]);
    assert_eq!(node.good(&["dstate", "r0"]), "Outdated/DUnknown\n", "the peer may have gone on without it");
}

/// A device of 130 MiB, which others can have to themselves. Needs root.
struct Loop(String);

impl Loop {
    fn of(image: &Path) -> Loop {
        File::create(image).unwrap().set_len(130 << 20).unwrap();
        let made = Command::new("losetup").args(["-f", "--show"]).arg(image).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Loop(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A slip of the pen names a device for the metadata that somebody's data is on.
#[test]
fn a_slot_on_a_device_that_is_in_use_as_a_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let device = Loop::of(&dir.path().join("image"));
    let file = dir.path().join("drbd.conf");
    let text = format!(
        "resource r0 {{ device /dev/drbd0; disk /nonexistent; meta-disk {} [0];\n\
         on one {{ address 127.0.0.1:1; }} on two {{ address 127.0.0.2:1; }} }}\n",
        device.0
    );
    fs::write(&file, text).unwrap();
    let create = || {
        let line = ["-c", file.to_str().unwrap(), "--host", "one", "--run-dir"];
        run(&[&line[..], &[dir.path().to_str().unwrap(), "create-md", "--force", "r0"]].concat())
    };
    // As a mounted file system has it, or a resource whose disk it is.
    let mut user = File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut user, nix::libc::O_EXCL);
    let user = user.read(true).write(true).open(&device.0).unwrap();
    let busy = format!("open({}) failed: Device or resource busy\n", device.0);
    assert_eq!(create(), (20, "".into(), busy));
    drop(user);
    assert_eq!(create().0, 0);
}

/// Two terminals, or a cluster manager and its operator.
#[test]
fn what_comes_behind_a_down_finds_the_resource_gone() {
    let node = Node::start("");
    node.create_and_up();
    let behind_a_down = |action| {
        let run = |action| Request::Run { action, targets: vec!["r0".into()] };
        let (mut down, mut next) = (node.ask(&run(Action::Down)), node.ask(&run(action)));
        for stream in [&mut down, &mut next] {
            let reply: Reply = receive_blocking(stream, REPLY_BYTES_MAX).unwrap();
            assert_eq!(reply, Reply::Done(Outcome::default()));
        }
    };
    behind_a_down(Action::Adjust);
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");
    behind_a_down(Action::NewResource);
    assert_eq!(node.good(&["cstate", "r0"]), "Unconfigured\n");
}

/// At boot everything comes up by one command.
#[test]
fn a_disk_that_is_waited_for_keeps_nobody_from_the_other_resources() {
    let node = Node::start("");
    let path = |name: &str| node.dir.path().join(name);
    let volume = |n: usize| {
        let disk = path(&format!("disk{n}"));
        File::create(&disk).unwrap().set_len(16 << 20).unwrap();
        format!("volume {n} {{ device /dev/drbd{n}; disk {}; meta-disk internal; }} ", disk.display())
    };
    let resource = |name: &str, volumes: &str, port: u16| {
        let hosts = format!("on one {{ address 127.0.0.1:{port}; }} on two {{ address 127.0.0.2:{port}; }}");
        format!("resource {name} {{ {volumes} {hosts} }}\n")
    };
    let slow: String = (0..6).map(volume).collect();
    let text = resource("slow", &slow, 3) + &resource("other", &volume(6), 4);
    fs::write(path("drbd.conf"), text).unwrap();
    assert_eq!(node.run(&["create-md", "--force", "all"]).0, 0);
    // Somebody else has these disks, which are waited for one after the other, three seconds each.
    let held: Vec<File> = (0..6).map(|n| File::open(path(&format!("disk{n}"))).unwrap()).collect();
    held.iter().for_each(|disk| disk.lock().unwrap());
    let mut up = node.ask(&Request::Run { action: Action::Up, targets: vec!["all".into()] });
    node.until("slow is there", |node| node.run(&["status", "slow"]).0 == 0);
    node.good(&["adjust", "other"]);
    assert_eq!(node.good(&["cstate", "other"]), "WFConnection\n");
    up.set_nonblocking(true).unwrap();
    let waiting = up.read(&mut [0]).unwrap_err();
    assert_eq!(waiting.kind(), std::io::ErrorKind::WouldBlock, "nobody waited for the disks");
}

/// A command for several resources takes its time with the first, and the other one is restarted meanwhile.
#[test]
fn a_volume_that_has_gone_since_it_was_named_is_unknown() {
    let node = Node::start("");
    let path = |name: &str| node.dir.path().join(name);
    for name in ["data", "meta", "one", "two"] {
        File::create(path(name)).unwrap().set_len(16 << 20).unwrap();
    }
    let on = |port: u16| {
        format!("on one {{ address 127.0.0.1:{port}; }} on two {{ address 127.0.0.2:{port}; }} }}\n")
    };
    let volume = |n: usize, disk: &str| {
        format!("volume {n} {{ device /dev/drbd{n}; disk {}; meta-disk internal; }} ", path(disk).display())
    };
    let (data, meta) = (path("data"), path("meta"));
    let slow = format!(
        "resource slow {{ device /dev/drbd9; disk {}; meta-disk {}; {}",
        data.display(),
        meta.display(),
        on(3)
    );
    let write = |volumes: &str| {
        fs::write(path("drbd.conf"), format!("{slow}resource r0 {{ {volumes} {}", on(4))).unwrap();
    };
    write(&(volume(0, "one") + &volume(1, "two")));
    assert_eq!(node.run(&["create-md", "--force", "all"]).0, 0);
    node.good(&["up", "all"]);
    node.good(&["detach", "slow"]);
    // Somebody else has the data of the first; an attach waits for that a while.
    let held = File::open(path("data")).unwrap();
    held.lock().unwrap();
    let targets = ["slow", "r0/1"].map(str::to_owned).to_vec();
    let mut attach = node.ask(&Request::Run { action: Action::Attach, targets });
    write(&volume(0, "one"));
    node.good(&["adjust", "r0"]);
    let reply: Reply = receive_blocking(&mut attach, REPLY_BYTES_MAX).unwrap();
    let Reply::Done(outcome) = reply else { panic!("{reply:?}") };
    assert!(outcome.err.contains("9: Failure: (114)"), "{outcome:?}");
    assert!(outcome.err.contains("1: Failure: (127) Device minor not allocated"), "{outcome:?}");
}

/// Each would wait for the other for ever, with a copy that is never brought up to date.
#[test]
fn resyncs_that_would_wait_for_each_other_are_refused() {
    let node = Node::start("");
    let file = node.dir.path().join("drbd.conf");
    let disks = [0, 1].map(|n| node.dir.path().join(format!("disk{n}.img")));
    disks.iter().for_each(|disk| File::create(disk).unwrap().set_len(16 << 20).unwrap());
    let write = |after: [&str; 2]| {
        let resource = |n: usize| {
            format!(
                "resource r{n} {{ disk {{ {} }} device /dev/drbd{n}; disk {}; meta-disk internal;\n\
                 on one {{ address 127.0.0.1:{}; }} on two {{ address 127.0.0.2:{}; }} }}\n",
                after[n],
                disks[n].display(),
                n + 1,
                n + 1
            )
        };
        fs::write(&file, resource(0) + &resource(1)).unwrap();
    };
    let cycle = |minor| format!("{minor}: Failure: (133) This would cause a resync-after dependency cycle\n");
    write(["resync-after r1;", "resync-after r0;"]);
    assert_eq!(node.run(&["create-md", "--force", "all"]).0, 0);
    assert_eq!(node.run(&["up", "all"]), (1, "".into(), cycle(1)), "the second of them");
    assert_eq!(node.run(&["attach", "r1"]), (10, "".into(), cycle(1)));
    node.good(&["down", "all"]);
    write(["resync-after r0;", ""]);
    assert_eq!(node.run(&["up", "r0"]), (1, "".into(), cycle(0)), "for itself");
    node.good(&["down", "r0"]);

    write(["", "resync-after r0;"]);
    node.good(&["up", "all"]);
    write(["resync-after r1;", "resync-after r0;"]);
    assert_eq!(node.run(&["adjust", "r0"]), (1, "".into(), cycle(0)));
    write(["resync-after r1;", ""]);
    node.good(&["adjust", "r1"]);
    node.good(&["adjust", "r0"]);
}

/// The file has another name for a resource that is up, or another resource in its place.
#[test]
fn what_a_resource_that_is_up_has_is_refused_to_another() {
    let node = Node::start("");
    let path = |name: &str| node.dir.path().join(name);
    File::create(path("other")).unwrap().set_len(16 << 20).unwrap();
    let write = |name: &str, disk: &str, minor: usize, ports: [u16; 2]| {
        let disk = path(disk);
        let text = format!(
            "resource {name} {{ device /dev/drbd{minor}; disk {}; meta-disk internal;\n\
             on one {{ address 127.0.0.1:{}; }} on two {{ address 127.0.0.2:{}; }} }}\n",
            disk.display(),
            ports[0],
            ports[1]
        );
        fs::write(path("drbd.conf"), text).unwrap();
    };
    for (name, disk) in [("new", "other"), ("old", "disk.img")] {
        write(name, disk, 0, [3, 4]);
        assert_eq!(node.run(&["create-md", "--force", name]).0, 0);
    }
    node.good(&["up", "old"]);
    let minor = "new: Failure: (162) Invalid configuration request\n\
                 additional info from kernel:\nminor exists in different resource\n";
    let own = "new: Failure: (102) Local address(port) already in use.\n";
    let peer = "new: Failure: (103) Remote address(port) already in use.\n";
    for (number, ports, refused) in [(0, [5, 6], minor), (1, [3, 6], own), (1, [5, 4], peer)] {
        write("new", "other", number, ports);
        assert_eq!(node.run(&["up", "new"]), (1, "".into(), refused.into()));
        assert_eq!(node.run(&["new-resource", "new"]), (10, "".into(), refused.into()));
    }
    write("new", "other", 1, [5, 6]);
    node.good(&["up", "new"]);
    // A restart that ends half way would be worse than none.
    write("old", "disk.img", 0, [5, 4]);
    assert_eq!(node.run(&["adjust", "old"]), (1, "".into(), own.replace("new", "old")));
    assert_eq!(node.good(&["cstate", "old"]), "WFConnection\n");
}

#[test]
fn what_is_not_up_is_unknown() {
    let node = Node::start("");
    let minor = "0: Failure: (127) Device minor not allocated\nadditional info from kernel:\nunknown minor\n";
    assert_eq!(node.run(&["primary", "r0"]), (10, "".into(), minor.into()));
    assert_eq!(node.run(&["role", "r0/0"]), (10, "".into(), minor.into()));
    let resource = "r0: Failure: (158) Unknown resource\nadditional info from kernel:\nunknown resource\n";
    assert_eq!(node.run(&["connect", "r0"]), (10, "".into(), resource.into()));
    assert_eq!(node.run(&["status", "r0"]), (10, "".into(), "r0: No such resource\n".into()));
    let unknown = "'nosuch' not defined in your config (for this host).\n";
    for command in ["up", "down", "primary", "role", "status"] {
        assert_eq!(node.run(&[command, "nosuch"]), (1, "".into(), unknown.into()), "{command}");
    }
}
