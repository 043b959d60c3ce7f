//! The program as users and scripts meet it: texts and exit codes, without a daemon and with one.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lockstep::daemon::control::{
    Action, Envelope, Outcome, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, Request, WaitLimits,
    receive_blocking, send_blocking,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lockstep");
const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/admin/seed/drbd.conf");
const LIMIT: Duration = Duration::from_secs(30);

fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for name in ["LOCKSTEP_CONFIG", "LOCKSTEP_HOST", "LOCKSTEP_RUN_DIR", "LOCKSTEP_TOML"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn run(args: &[&str]) -> (i32, String, String) {
    said(&program().args(args).output().unwrap())
}

#[test]
fn the_published_configuration_is_understood() {
    let (exit, out, err) = run(&["-c", SEED, "--host", "node1", "dump"]);
    assert_eq!((exit, err.as_str()), (0, ""));
    for line in [
        "    usage-count no;",
        "        resync-rate      1024M;",
        "# resource test on node1: not ignored, not stacked",
        "        disk             /dev/vdb;",
        "        verify-alg       sha1;",
        "        address          ipv4 172.16.0.4:7789;",
    ] {
        assert!(out.lines().any(|l| l == line), "{line} is missing in\n{out}");
    }
    let (exit, expanded, _) = run(&["dump", "-d", "test", "-c", SEED, "--host", "node1"]);
    assert_eq!(exit, 0);
    assert!(expanded.contains("shared-secret    test;"), "inherited options are shown:\n{expanded}");
    assert!(!expanded.contains("usage-count"), "only the resource was asked for:\n{expanded}");
}

#[test]
fn the_host_decides_what_is_there() {
    assert_eq!(run(&["-c", SEED, "--host", "node2", "sh-dev", "all"]), (0, "/dev/drbd1\n".into(), "".into()));
    assert_eq!(run(&["-c", SEED, "--host", "node2", "sh-ip", "test"]).1, "172.16.0.4\n");
    assert_eq!(run(&["-c", SEED, "--host", "node2", "sh-resources"]).1, "test\n");
    assert_eq!(run(&["-c", SEED, "--host", "node2", "sh-ll-dev", "test/0"]).1, "/dev/vdb\n");
    assert_eq!(run(&["-c", SEED, "--host", "node2", "sh-minor", "minor-1"]).1, "1\n");
    let (exit, out, err) = run(&["-c", SEED, "--host", "carol", "sh-dev", "all"]);
    assert_eq!((exit, out.as_str()), (1, ""));
    assert!(err.starts_with("WARN: no normal resources defined for this host (carol)!?\n"), "{err}");
    let by_environment = program()
        .env("LOCKSTEP_CONFIG", SEED)
        .env("LOCKSTEP_HOST", "node1")
        .args(["sh-ip", "test"])
        .output()
        .unwrap();
    assert_eq!(said(&by_environment).1, "172.16.0.3\n");
}

#[test]
fn wrong_names_and_wrong_usage() {
    let config = ["-c", SEED, "--host", "node1"];
    let with = |rest: &[&str]| run(&[&config[..], rest].concat());
    let unknown = "'nosuch' not defined in your config (for this host).\n";
    assert_eq!(with(&["sh-dev", "nosuch"]), (1, "".into(), unknown.into()));
    assert_eq!(with(&["dump", "nosuch"]), (1, "".into(), unknown.into()));
    assert_eq!(with(&["sh-dev", "/dev/drbd1"]), (20, "".into(), "dev/drbd1 is not a valid number\n".into()));
    assert_eq!(with(&["frobnicate", "test"]).0, 1);
    assert_eq!(with(&["primary", "--frob", "test"]).0, 1);
    assert_eq!(with(&["up"]).0, 1);
    assert_eq!(run(&["--help"]).0, 0);
    assert_eq!(run(&["help", "primary"]).0, 0);
    let (exit, out, _) = run(&["--version"]);
    assert!(exit == 0 && out.contains("\nDRBD_KERNEL_VERSION_CODE=0x08040b\n"), "{out}");
    let (exit, _, err) = run(&["-c", "/nonexistent.conf", "sh-nop"]);
    assert!(exit >= 10 && err.contains("/nonexistent.conf"), "{exit} {err}");
}

#[test]
fn without_a_daemon_one_line_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("nothing");
    let run_dir = run_dir.to_str().unwrap();
    for command in
        [&["up", "all"][..], &["status"], &["proc"], &["primary", "--force", "r0"], &["role", "r0"]]
    {
        let (exit, out, err) = run(&[&["--run-dir", run_dir], command].concat());
        assert_eq!((exit, out.as_str()), (20, ""), "{command:?}");
        assert_eq!(err.lines().count(), 1, "{err}");
        assert!(err.contains(run_dir) && err.contains("lockstep daemon"), "{err}");
    }
}

#[test]
fn settings_with_unknown_keys_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lockstep.toml");
    fs::write(&file, "rundir = '/x'\n").unwrap();
    let (exit, _, err) = run(&["--settings", file.to_str().unwrap(), "status"]);
    assert_eq!(exit, 20);
    assert!(err.contains("rundir") && err.contains("lockstep.toml"), "{err}");
    let (exit, _, err) = run(&["--settings", "/nonexistent.toml", "status"]);
    assert!(exit == 20 && err.contains("/nonexistent.toml"), "{err}");
}

/// A directory with a configuration, a disk, and a daemon for it. The peer does not exist.
struct Node {
    dir: tempfile::TempDir,
    daemon: Child,
    _stdin: ChildStdin,
}

impl Node {
    fn start(net_section: &str) -> Node {
        Node::start_with(net_section, tempfile::tempdir().unwrap(), |dir, daemon| {
            daemon.stderr(File::create(dir.join("log")).unwrap());
        })
    }

    fn start_with(
        net_section: &str,
        dir: tempfile::TempDir,
        prepare: impl FnOnce(&Path, &mut Command),
    ) -> Node {
        let ports: Vec<TcpListener> =
            (0..2).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let port = |n: usize| ports[n].local_addr().unwrap().port();
        File::create(dir.path().join("disk.img")).unwrap().set_len(16 << 20).unwrap();
        let config = format!(
            "resource r0 {{ net {{ {net_section} }} device /dev/drbd0; meta-disk internal;\n\
             on one {{ disk {disk}; address 127.0.0.1:{own}; }}\n\
             on two {{ disk /nonexistent; address 127.0.0.1:{peer}; }} }}\n\
             resource other {{ net {{ protocol C; on-congestion pull-ahead; }} device /dev/drbd5; meta-disk internal; disk /dev/x;\n\
             on one {{ address 127.0.0.1:1; }} on two {{ address 127.0.0.2:1; }} }}\n",
            disk = dir.path().join("disk.img").display(),
            own = port(0),
            peer = port(1),
        );
        fs::write(dir.path().join("drbd.conf"), config).unwrap();
        drop(ports);
        let mut command = Node::command_in(dir.path());
        command.args(["daemon", "--exit-with-stdin"]).stdin(Stdio::piped());
        prepare(dir.path(), &mut command);
        let mut daemon = command.spawn().unwrap();
        let stdin = daemon.stdin.take().unwrap();
        let node = Node { dir, daemon, _stdin: stdin };
        node.until("the daemon answers", |node| node.run(&["proc"]).0 == 0);
        node
    }

    fn command_in(dir: &Path) -> Command {
        let mut command = program();
        command
            .arg("-c")
            .arg(dir.join("drbd.conf"))
            .args(["--host", "one", "--run-dir"])
            .arg(dir.join("run"));
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Node::command_in(self.dir.path());
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + LIMIT;
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            sleep(Duration::from_millis(3));
        }
        // What is killed here has no exit code.
        let _ = child.kill();
        said(&child.wait_with_output().unwrap())
    }

    fn good(&self, args: &[&str]) -> String {
        let (exit, out, err) = self.run(args);
        assert_eq!((exit, err.as_str()), (0, ""), "{args:?}");
        out
    }

    fn until(&self, what: &str, reached: impl Fn(&Node) -> bool) {
        let end = Instant::now() + LIMIT;
        while !reached(self) {
            assert!(Instant::now() < end, "{what}: {}", self.log());
            sleep(Duration::from_millis(30));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Where the answer will come.
    fn ask(&self, request: &Request) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        send_blocking(&mut stream, &Envelope::new(request.clone()), REQUEST_BYTES_MAX).unwrap();
        stream
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/control.sock")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

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
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
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

#[test]
fn adjust_follows_the_file() {
    let node = Node::start("");
    let file = node.dir.path().join("drbd.conf");
    let change = |from: &str, to: &str| {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&file, text.replace(from, to)).unwrap();
    };
    assert_eq!(node.run(&["up", "r0"]).0, 1, "no metadata");
    change("/dev/drbd0;", "/dev/drbd7;");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    assert_eq!(node.good(&["adjust", "r0"]), "");
    assert_eq!(node.good(&["cstate", "minor-7"]), "WFConnection\n", "brought up with the file as it is now");
    node.good(&["primary", "--force", "r0"]);

    node.good(&["disconnect", "r0"]);
    change("net {  }", "net { ping-int 20; } disk { resync-rate 9M; }");
    assert_eq!(node.good(&["adjust", "r0"]), "");
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");

    change("/dev/drbd7;", "/dev/drbd8;");
    let (exit, _, err) = node.run(&["adjust", "r0"]);
    assert!(exit == 1 && err.contains("the volumes changed"), "a Primary is not restarted: {err}");
    node.good(&["secondary", "r0"]);
    assert_eq!(node.good(&["adjust", "r0"]), "");
    assert_eq!(node.good(&["dstate", "minor-8"]), "UpToDate/DUnknown\n");

    change("resource r0 {", "resource r0 { protocol X;");
    let (exit, _, err) = node.run(&["adjust", "r0"]);
    assert!(exit != 0 && !err.is_empty(), "{exit} {err}");
    assert_eq!(node.good(&["dstate", "r0"]), "UpToDate/DUnknown\n", "what runs is not touched");
}

/// As with DRBD, whose tools know nothing but the file. One that cannot be read stops nobody.
#[test]
fn what_begins_anew_begins_as_the_file_has_it() {
    let node = Node::start("");
    let path = |name: &str| node.dir.path().join(name);
    let change = |from: &str, to: &str| {
        let text = fs::read_to_string(path("drbd.conf")).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path("drbd.conf"), text.replacen(from, to, 1)).unwrap();
    };
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    fs::copy(path("disk.img"), path("copy.img")).unwrap();
    node.good(&["up", "r0"]);
    node.good(&["disconnect", "r0"]);
    node.good(&["detach", "r0"]);
    change("net {  }", "net { protocol B; }");
    change("/disk.img;", "/copy.img;");
    node.good(&["attach", "r0"]);
    assert!(File::open(path("copy.img")).unwrap().try_lock().is_err(), "the disk that the file names");
    node.good(&["connect", "r0"]);
    let proc = node.good(&["proc"]);
    assert!(proc.contains(" 0: cs:WFConnection ro:Secondary/Unknown ds:Inconsistent/DUnknown B "), "{proc}");

    node.good(&["detach", "r0"]);
    change("/copy.img;", "/disk.img;");
    let (exit, _, err) = node.run(&["up", "r0"]);
    let connected = "r0: Failure: (102) Local address(port) already in use.\n";
    assert_eq!((exit, err.as_str()), (1, connected), "its connection was there");
    assert!(File::open(path("disk.img")).unwrap().try_lock().is_err(), "by up, too");

    node.good(&["disconnect", "r0"]);
    node.good(&["detach", "r0"]);
    change("protocol B;", "frobnicate;");
    node.good(&["attach", "r0"]);
    node.good(&["connect", "r0"]);
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");
}

/// Two terminals, or a cluster manager and its operator.
#[test]
fn what_comes_behind_a_down_finds_the_resource_gone() {
    let node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
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

#[test]
fn what_this_version_cannot_run_is_refused_by_name() {
    let node = Node::start("data-integrity-alg whirl;");
    let (exit, _, err) = node.run(&["up", "r0"]);
    assert_eq!(exit, 1);
    assert!(err.contains("drbd.conf:1: resource r0: 'data-integrity-alg whirl' is not known"), "{err}");
    let (exit, _, err) = node.run(&["up", "other"]);
    assert!(exit == 1 && err.contains("'on-congestion pull-ahead' without protocol A"), "{err}");
}

#[test]
fn a_broken_configuration_is_reported_as_the_parser_says_it() {
    let node = Node::start("");
    fs::write(node.dir.path().join("drbd.conf"), "resource r0 {\n  frobnicate 1;\n}\n").unwrap();
    let (exit, _, err) = node.run(&["up", "r0"]);
    assert_eq!(exit, 10, "{err}");
    assert!(err.contains("drbd.conf:2:") && err.contains("frobnicate"), "{err}");
    assert_eq!(node.run(&["sh-nop"]).2, err, "the same words without the daemon");
}

#[test]
fn one_daemon_per_run_directory() {
    let node = Node::start("");
    let (exit, _, err) = node.run(&["daemon"]);
    assert_eq!(exit, 20);
    assert!(err.contains("another lockstep daemon uses"), "{err}");
    assert_eq!(node.run(&["proc"]).0, 0, "the first one is not disturbed");
}

#[test]
fn garbage_on_the_control_socket_harms_nobody() {
    let node = Node::start("");
    let lengths = [0u32, 5, 70_000, u32::MAX];
    for len in lengths {
        let mut stream = UnixStream::connect(node.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&len.to_be_bytes()).unwrap();
        // The daemon may have closed it already.
        let _ = stream.write_all(&[b'{'; 64]);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    let old = br#"{"version":99,"request":"hello"}"#;
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(&(old.len() as u32).to_be_bytes()).unwrap();
    stream.write_all(old).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("speaks version 1"), "{answer:?}");
    // More connections than are served at a time wait, and are served when others go.
    let idle: Vec<UnixStream> = (0..80).map(|_| UnixStream::connect(node.socket()).unwrap()).collect();
    drop(idle);
    assert_eq!(node.run(&["proc"]).0, 0);
}

/// At boot every resource has somebody who waits for its peer, and somebody may be watching. What they wait for may need
/// a command, as may whoever fences this node.
#[test]
fn who_waits_or_watches_keeps_no_place_from_commands() {
    let node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    let action = Action::Wait { sync: false, limits: WaitLimits::default() };
    let wait = Request::Run { action, targets: vec!["r0".into()] };
    let watch = Request::Watch { targets: Vec::new() };
    let _others: Vec<UnixStream> = (0..140).map(|n| node.ask([&wait, &watch][n % 2])).collect();
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");
}

/// A cluster manager tries it again and again. Two nodes may fence each other: each waits for what the other is asked to do.
#[test]
fn promotions_that_wait_for_a_handler_keep_no_place_from_commands() {
    let node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    node.good(&["primary", "--force", "r0"]);
    node.good(&["down", "r0"]);
    let file = node.dir.path().join("drbd.conf");
    // It ends behind the limit of the test.
    let sections = "disk { fencing resource-only; } handlers { fence-peer \"exec sleep 45\"; }";
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("net {  }", sections, 1)).unwrap();
    node.good(&["up", "r0"]);
    let primary = Request::Run { action: Action::Primary { force: false }, targets: vec!["r0".into()] };
    let mut tries: Vec<UnixStream> = (0..140).map(|_| node.ask(&primary)).collect();
    // Half of those who asked do not wait for the answer.
    tries.truncate(70);
    assert_eq!(node.good(&["dstate", "r0"]), "Consistent/DUnknown\n");
    assert_eq!(node.run(&["outdate", "r0"]), (0, "".into(), "".into()));
    assert_eq!(node.good(&["dstate", "r0"]), "Outdated/DUnknown\n");
}

#[test]
fn a_wait_has_the_limits_that_the_file_names_now() {
    let node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    let file = node.dir.path().join("drbd.conf");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("net {  }", "net {  } startup { wfc-timeout 1; }", 1)).unwrap();
    let (exit, _, err) = node.run(&["wait-connect", "r0"]);
    assert_eq!(exit, 5, "{err}");
}

/// The resource that it waited for is taken down by somebody else.
#[test]
fn a_wait_ends_with_the_resource() {
    let node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    node.good(&["disconnect", "r0"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.run(&["wait-connect", "--wait-after-sb", "r0"]));
        sleep(Duration::from_millis(300));
        node.good(&["down", "r0"]);
        let (exit, _, err) = waiting.join().unwrap();
        assert_eq!(exit, 10, "{err}");
        assert!(err.contains("0: Failure: (127) Device minor not allocated"), "{err}");
    });
}

/// A fence-peer script that says something is not ended by that, wherever the log of the daemon goes; what it says beyond
/// measure, or after its end, holds up nobody.
#[test]
fn what_a_handler_says_does_not_end_it() {
    let broken = std::io::pipe().unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with("", dir, |_, daemon| {
        daemon.stderr(broken);
    });
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    node.good(&["primary", "--force", "r0"]);
    node.good(&["down", "r0"]);
    let file = node.dir.path().join("drbd.conf");
    let script = "sleep 9 >&2 & echo asking >&2; head -c 9000000 /dev/zero >&2; exit 4";
    let sections = format!("disk {{ fencing resource-only; }} handlers {{ fence-peer \"{script}\"; }}");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("net {  }", &sections, 1)).unwrap();
    node.good(&["up", "r0"]);
    assert_eq!(node.good(&["dstate", "r0"]), "Consistent/DUnknown\n");
    node.good(&["primary", "r0"]);
    assert_eq!(node.good(&["dstate", "r0"]), "UpToDate/Outdated\n", "4: the peer is outdated");
}

#[test]
fn signals_stop_the_daemon_cleanly() {
    let mut node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    node.good(&["primary", "--force", "r0"]);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(node.daemon.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = node.daemon.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "{}", node.log());
        sleep(Duration::from_millis(30));
    };
    assert!(status.success(), "{status}: {}", node.log());
    assert!(!node.socket().exists());
    let gi = node.good(&["get-gi", "r0"]);
    assert!(gi.ends_with(":1:1:0:0:0:0:0\n"), "not a crashed Primary: {gi}");
}

/// By which other daemons read their files again, and which the end of a terminal sends.
#[test]
fn a_hangup_does_not_end_the_daemon() {
    let node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    node.good(&["primary", "--force", "r0"]);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(node.daemon.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    node.until("it is in the log", |node| {
        node.log().contains("SIGHUP: ignored") || node.run(&["proc"]).0 != 0
    });
    assert_eq!(node.good(&["role", "r0"]), "Primary/Unknown\n");
}

/// With every step logged, a small pipe is full after the first command.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let (_unread, log) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&log, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let node = Node::start_with("", tempfile::tempdir().unwrap(), |dir, daemon| {
        let settings = dir.join("lockstep.toml");
        fs::write(&settings, "log = 'trace'\n").unwrap();
        daemon.arg("--settings").arg(settings).stderr(log);
    });
    for _ in 0..3 {
        assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
        node.good(&["up", "r0"]);
        node.good(&["primary", "--force", "r0"]);
        node.good(&["down", "r0"]);
    }
}

/// Neither one that goes to a full disk, nor one whose reader has gone.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let broken = || Stdio::from(std::io::pipe().unwrap().1);
    for log in [full(), broken()] {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start_with("", dir, |_, daemon| {
            daemon.stderr(log);
        });
        assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
        node.good(&["up", "r0"]);
        node.good(&["primary", "--force", "r0"]);
        assert_eq!(node.good(&["role", "r0"]), "Primary/Unknown\n");
    }
}

#[test]
fn watching_without_a_terminal_prints_plain_pictures() {
    let node = Node::start("");
    assert_eq!(node.run(&["create-md", "--force", "r0"]).0, 0);
    node.good(&["up", "r0"]);
    let mut watcher = Node::command_in(node.dir.path())
        .args(["status", "--watch", "r0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = watcher.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        text
    });
    sleep(Duration::from_millis(500));
    node.good(&["primary", "--force", "r0"]);
    sleep(Duration::from_millis(1000));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(watcher.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(watcher.wait().unwrap().success(), "Ctrl-C is its good end");
    let text = reader.join().unwrap();
    assert!(text.contains("one Secondary") && text.contains("one Primary"), "{text}");
    assert!(!text.contains('\x1b'), "no control sequences: {text:?}");
}
