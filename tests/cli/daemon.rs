//! The daemon as a process: its socket, its log, signals.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::LIMIT;
use super::node::Node;

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

/// A fence-peer script that says something is not ended by that, wherever the log of the daemon goes; what it says beyond
/// measure, or after its end, holds up nobody.
#[test]
fn what_a_handler_says_does_not_end_it() {
    let broken = std::io::pipe().unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start_with("", dir, |_, daemon| {
        daemon.stderr(broken);
    });
    node.create_and_up();
    node.good(&["primary", "--force", "r0"]);
    node.good(&["down", "r0"]);
    let script = "sleep 9 >&2 & echo asking >&2; head -c 9000000 /dev/zero >&2; exit 4";
    let sections = format!("disk {{ fencing resource-only; }} handlers {{ fence-peer \"{script}\"; }}");
    node.configure("net {  }", &sections);
    node.good(&["up", "r0"]);
    assert_eq!(node.good(&["dstate", "r0"]), "Consistent/DUnknown\n");
    node.good(&["primary", "r0"]);
    assert_eq!(node.good(&["dstate", "r0"]), "UpToDate/Outdated\n", "4: the peer is outdated");
}

#[test]
fn signals_stop_the_daemon_cleanly() {
    let mut node = Node::start("");
    node.create_and_up();
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
    node.create_and_up();
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
        node.create_and_up();
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
        node.create_and_up();
        node.good(&["primary", "--force", "r0"]);
        assert_eq!(node.good(&["role", "r0"]), "Primary/Unknown\n");
    }
}

#[test]
fn watching_without_a_terminal_prints_plain_pictures() {
    let node = Node::start("");
    node.create_and_up();
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
