//! Configurations of the real tools, and what they said to them, against ours.

#[path = "../src/config_files.rs"]
#[allow(dead_code, reason = "the binary uses all of it")]
mod config_files;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use config_files::FileSystem;
use model::config::check::check_host;
use model::config::diagnostic::exit_code;
use model::config::{Config, Diagnostic, DumpOptions, dump, load};

/// Addresses of the host the samples were taken on.
fn ips_of_alice() -> Vec<IpAddr> {
    let texts = ["127.0.0.1", "::1", "10.1.1.31", "10.2.2.31", "fd00:1:1::31"];
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/admin")
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e == "res" || e == "conf"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", dir.display());
    files
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|s| s.to_str()).expect("a plain name")
}

fn read(path: &Path) -> Result<Config, Vec<Diagnostic>> {
    load(&FileSystem, &[path.to_str().expect("a plain name")])
}

/// What `dump` prints here, with the directory of the samples.
fn dump_of(config: &Config, expanded: bool) -> String {
    let ips = ips_of_alice();
    let text = dump(config, "alice", Some(&ips), DumpOptions { expanded, resources: None });
    text.replace(golden().join("conf").to_str().expect("a plain name"), "/etc/drbd.d")
}

/// A recorded dump without the command line in front; `None` if the file was refused or not recorded.
fn recorded(dir: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(golden().join(dir).join(name)).ok()?;
    let (command, rest) = text.split_once('\n').expect("a command line");
    assert!(command.starts_with("$ drbdadm -c"));
    (!rest.contains("[exit ")).then(|| rest.to_owned())
}

#[test]
fn dump_equals_the_recorded_one() {
    let mut compared = 0;
    for path in files_of(&golden().join("conf")) {
        let config = read(&path).unwrap_or_else(|errors| panic!("{}: {errors:#?}", path.display()));
        let dir = if config.is_only9() { "dump9" } else { "dump84" };
        for (expanded, suffix) in [(false, "txt"), (true, "expanded.txt")] {
            let name = format!("{}.{suffix}", stem(&path));
            let expected = recorded(dir, &name).unwrap_or_else(|| panic!("{dir}/{name} is recorded"));
            assert_eq!(dump_of(&config, expanded), expected, "{dir}/{name}");
            compared += 1;
        }
        let ips = ips_of_alice();
        assert_eq!(check_host(&config, "alice", Some(&ips)), [], "{}", path.display());
    }
    assert_eq!(compared, 34);
}

/// `(file name, exit status)` of each recorded run.
fn recorded_statuses() -> Vec<(String, u8)> {
    let text = fs::read_to_string(golden().join("errors/bad-configs84.txt")).expect("recorded");
    let runs = text.split("##### ").skip(1).map(|run| {
        let (name, rest) = run.split_once('\n').expect("a name");
        let status = rest.split("rc=").nth(1).expect("a status").trim();
        (name.to_owned(), status.parse().expect("a number"))
    });
    runs.collect()
}

#[test]
fn every_bad_file_ends_with_the_recorded_status_and_names_a_place() {
    let statuses = recorded_statuses();
    assert_eq!(statuses.len(), files_of(&golden().join("conf/bad")).len());
    let ips = ips_of_alice();
    for (name, status) in statuses {
        let path = golden().join("conf/bad").join(&name);
        let messages = match read(&path) {
            Err(errors) => errors,
            Ok(config) => check_host(&config, "alice", Some(&ips)),
        };
        assert_eq!(exit_code(&messages), status, "{name}: {messages:#?}");
        for message in messages.iter().filter(|m| m.is_error()) {
            assert!(message.line > 0 && message.column > 0, "{message}");
            assert!(message.to_string().contains('^'), "{message}");
        }
    }
}
