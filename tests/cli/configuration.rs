//! What needs no daemon: the configuration, settings, usage.

use std::fs;

use super::node::Node;
use super::{SEED, program, run, said};

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
