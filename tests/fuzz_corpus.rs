//! The fuzz targets on the stable compiler: each of them over its corpus in `fuzz/corpus/`, which holds what the real
//! programs wrote, bent and unbent, and inputs the fuzzer found worth keeping.
//!
//! Needs the programs `xz` and `zstd` (Debian packages xz-utils and zstd). `WRITE_SEEDS=1` writes the files
//! `golden-*` of the corpora anew instead of comparing them.

#![allow(clippy::unwrap_used)]

#[path = "../replicator/tests/support/capture.rs"]
#[allow(dead_code)]
mod capture;
#[path = "support/fuzz_seeds.rs"]
mod fuzz_seeds;
#[path = "../replicator/tests/support/pcap.rs"]
#[allow(dead_code)]
mod pcap;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Inputs of a target by file name.
fn inputs(target: &str) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(corpus(target)).unwrap_or_else(|e| panic!("corpus of {target}: {e}"));
    let files = files.map(|entry| entry.unwrap());
    files.map(|f| (f.file_name().into_string().unwrap(), fs::read(f.path()).unwrap())).collect()
}

/// Runs a target over its corpus; an input that fails is named.
fn run(target: &str) {
    let (_, body) = targets::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let inputs = inputs(target);
    assert!(inputs.len() > 3, "{target} has a corpus");
    for (name, input) in inputs {
        let result = std::panic::catch_unwind(|| body(&input));
        assert!(result.is_ok(), "fuzz/corpus/{target}/{name} fails");
    }
}

macro_rules! targets {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })+

        const RUN: &[&str] = &[$(stringify!($name)),+];
    };
}

targets! {
    activity_log
    bitmap
    bitmap_exchange
    config
    control
    dump_text
    failover_config
    heartbeat
    nbd
    packet
    pair
    resource
    smtp
    super_block
    vrrp_packet
    wire
}

#[test]
fn every_target_is_run_here_and_known_to_the_fuzzer() {
    let names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, RUN);
    let manifest = fs::read_to_string(corpus("").join("../Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        let target = fs::read_to_string(corpus("").join(format!("../fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("lockstep_fuzz::{name}::run(")), "{name}");
    }
}

#[test]
fn the_seeds_are_what_the_golden_data_gives() {
    for (target, seeds) in fuzz_seeds::all() {
        let seeds: BTreeMap<String, Vec<u8>> =
            seeds.into_iter().enumerate().map(|(i, seed)| (format!("golden-{i:03}"), seed)).collect();
        if std::env::var_os("WRITE_SEEDS").is_some() {
            fs::create_dir_all(corpus(target)).unwrap();
            for name in inputs(target).keys().filter(|name| name.starts_with("golden-")) {
                fs::remove_file(corpus(target).join(name)).unwrap();
            }
            for (name, seed) in &seeds {
                fs::write(corpus(target).join(name), seed).unwrap();
            }
        }
        let mut found = inputs(target);
        found.retain(|name, _| name.starts_with("golden-"));
        assert!(found == seeds, "{target}: run this test with WRITE_SEEDS=1");
    }
}
