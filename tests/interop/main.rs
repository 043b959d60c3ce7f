//! Lockstep against the kernel's DRBD 8.4: each scenario runs with lockstep as Primary and the kernel as Secondary, and the
//! other way round. At its end both disks are equal byte for byte and the real drbdmeta reads both metadata.
//!
//! The kernel's DRBD runs in user-mode Linux (machine.rs); nothing of the host is touched but namespaces that are made here.
//! Without arguments the main path runs; `cargo test --test interop -- all` runs everything, `-- NAME..` the scenarios whose
//! names contain one of the words. `LOCKSTEP_INTEROP_PAIRS` says
//! which pairs (default `lk,kl`: first the Primary; `kk` is two kernels, the reference, `ll` two of ours), and
//! `LOCKSTEP_INTEROP_ROWS` which rows of a table of policies (those whose options contain it). Needs root and some
//! packages of Debian, which it names if they are missing.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "../support/etcd.rs"]
mod etcd;
mod lab;
mod machine;
#[path = "../support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
mod node;
mod scenarios;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use lab::Lab;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let is_chosen = |name: &str| match words.as_slice() {
        [] => scenarios::SHORT.contains(&name),
        [all] if all == "all" => true,
        words => words.iter().any(|w| name.contains(w.as_str())),
    };
    let chosen: Vec<_> = scenarios::ALL.iter().filter(|s| is_chosen(s.0)).collect();
    if std::env::args().any(|a| a == "--list") {
        chosen.iter().for_each(|s| println!("{}: test", s.0));
        return;
    }
    let missing = machine::missing_packages();
    assert!(missing.is_empty(), "Debian packages are missing: apt-get install {}", missing.join(" "));
    let binary =
        std::env::var_os("LOCKSTEP_BIN").map_or_else(|| env!("CARGO_BIN_EXE_lockstep").into(), PathBuf::from);
    let pairs = std::env::var("LOCKSTEP_INTEROP_PAIRS").unwrap_or_else(|_| "lk,kl".to_owned());
    let mut failed = Vec::new();
    let mut passed = 0;
    let pairs: Vec<&str> = pairs.split(',').collect();
    // One laboratory for each kind of pair: node1 is the kernel, unless both are alike.
    let labs = [false, true]
        .map(|machines| [[true, false], [true, true], [false, false]].map(|kinds| (kinds, machines)));
    for (kinds, machines) in labs.into_iter().flatten() {
        let runs = |pair: &str| [pair.as_bytes()[0] == b'k', pair.as_bytes()[1] == b'k'];
        let here = |name: &str| -> Vec<&str> {
            let pairs = if scenarios::OF_KERNELS.contains(&name) { &["kk"][..] } else { &pairs };
            let fits = |p: &&&str| runs(p) == kinds || runs(p) == [kinds[1], kinds[0]];
            let is_here = scenarios::IN_MACHINES.contains(&name) == machines;
            pairs.iter().filter(fits).filter(|_| is_here).copied().collect()
        };
        let chosen: Vec<_> = chosen.iter().filter(|s| !here(s.0).is_empty()).collect();
        if chosen.is_empty() {
            continue;
        }
        let mut lab = Lab::new(&binary, kinds, machines);
        lab.boot();
        for (name, scenario) in chosen {
            for pair in here(name) {
                let p = usize::from(runs(pair) != kinds);
                let begun = Instant::now();
                let result = catch_unwind(AssertUnwindSafe(|| scenario(&mut lab, p)));
                let seconds = begun.elapsed().as_secs_f64();
                let who = format!(
                    "{} Primary, {} Secondary",
                    lab.nodes[p].kind_name(),
                    lab.nodes[1 - p].kind_name()
                );
                match result {
                    Ok(figures) => {
                        passed += 1;
                        println!(
                            "ok   {name}, {who}: {figures}{}{seconds:.1} s",
                            if figures.is_empty() { "" } else { ", " }
                        );
                    }
                    Err(_) => {
                        println!("FAIL {name}, {who}: {seconds:.1} s");
                        for node in &lab.nodes {
                            let log = node.log();
                            let from = log.len().saturating_sub(5000);
                            let from = (from..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
                            println!("--- {} ({})\n{}", node.name, node.kind_name(), &log[from..]);
                        }
                        failed.push(format!("{name} ({who})"));
                    }
                }
                lab.clear();
            }
        }
    }
    println!("interop: {passed} passed, {} failed", failed.len());
    if !failed.is_empty() {
        eprintln!("failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}
