//! Power loss at every point of every command that changes more than the super block: rebuilds what the device
//! may hold then, and looks at it like the next start would.
//!
//! Needs the program `zstd` (Debian package zstd).

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../src/cli/meta/mod.rs"]
mod meta;
#[path = "support/metadata.rs"]
mod support;

use std::fs;
use std::path::Path;

use meta::apply::{apply_al_if_needed, load_for_attach};
use meta::create::create_md;
use meta::device::journal::{self, Op};
use meta::restore::restore_md;
use meta::{MetaTarget, Opts};
use replicator::meta::layout::MetaKind;
use support::*;

/// Devices a crash can leave: everything up to a sync is there; of what was written after it, each 512-byte sector
/// may or may not be. For every length of the unfinished part: all of it, none but the last write, the last one
/// torn, and a scattered choice of sectors.
fn crash_images(before: &[u8], ops: &[Op]) -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    let mut stable = before.to_vec();
    let mut pending: Vec<(u64, &[u8])> = Vec::new();
    let mut seed = 0x2545_F491_4F6C_DD1Du64;
    for op in ops {
        match op {
            Op::Sync => {
                apply(&mut stable, &pending, |_| true);
                pending.clear();
            }
            Op::Write { byte, bytes } => {
                pending.push((*byte, bytes));
                let mut image = |keep: &mut dyn FnMut(usize) -> bool| {
                    let mut crashed = stable.clone();
                    apply(&mut crashed, &pending, keep);
                    images.push(crashed);
                };
                let total: usize = pending.iter().map(|(_, bytes)| bytes.len().div_ceil(512)).sum();
                let last = total - bytes.len().div_ceil(512);
                image(&mut |_| true);
                image(&mut |sector| sector >= last);
                image(&mut |sector| sector <= last);
                image(&mut |_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed & 1 == 0
                });
            }
        }
    }
    images.push(stable);
    images
}

/// Puts the chosen sectors of `writes` into `image`; sectors are numbered through all writes.
fn apply(image: &mut [u8], writes: &[(u64, &[u8])], mut keep: impl FnMut(usize) -> bool) {
    let mut number = 0;
    for (byte, bytes) in writes {
        for (i, sector) in bytes.chunks(512).enumerate() {
            let at = *byte as usize + 512 * i;
            if keep(number) {
                image[at..at + sector.len()].copy_from_slice(sector);
            }
            number += 1;
        }
    }
}

fn write(path: &Path, image: &[u8]) {
    fs::write(path, image).unwrap();
}

#[test]
fn the_log_can_be_applied_again_after_a_crash_while_applying_it() {
    let dir = tempfile::tempdir().unwrap();
    for (before, after) in [
        ("flexext-4m-striped-al-unclean", "flexext-4m-striped-al-applied"),
        ("flexext-4m-striped-al-torn", "flexext-4m-striped-al-torn-applied"),
    ] {
        let t = target(&unpack(&dir, before), MetaKind::FlexibleExternal);
        let old = fs::read(&t.meta).unwrap();
        let wanted = fs::read(unpack(&dir, after)).unwrap();
        let (report, ops) = journal::of(|| apply_al_if_needed(&t).unwrap());
        assert!(report.hot_extents == 67 && ops.len() > 80);
        let images = crash_images(&old, &ops);
        for (n, image) in images.iter().enumerate() {
            write(&t.meta, image);
            let again = apply_al_if_needed(&t).unwrap_or_else(|e| panic!("{before}, crash {n}: {e}"));
            let found = fs::read(&t.meta).unwrap();
            assert!(found[..4096] == wanted[..4096], "{before}, crash {n}: super block");
            assert!(found[69632..] == wanted[69632..], "{before}, crash {n}: bits were lost");
            assert!(found[4096..69632] == wanted[4096..69632], "{before}, crash {n}: activity log {again:?}");
        }
    }
}

/// The first transaction of all, and the one after a ring that was just made: the sparsest rings there are.
#[test]
fn a_sparse_ring_survives_a_crash_while_it_is_renewed() {
    use replicator::activity_log::extents::ActivityLog;
    use replicator::activity_log::transaction::AlRing;
    let dir = tempfile::tempdir().unwrap();
    let t = target(&unpack(&dir, "int-16m-bits"), MetaKind::Internal);
    for transactions in [1, 2, 8, 9] {
        let mut image = fs::read(unpack(&dir, "int-16m-bits")).unwrap();
        let mut log = ActivityLog::new(67, AlRing::DEFAULT);
        let mut block = [0; 4096];
        for n in 0..transactions {
            log.stage(n % 4, n % 4).ok();
            let pending = log.begin_filler_transaction(&mut block, &mut Vec::new()).unwrap();
            let at = 16740352 + 4096 * pending.ring_block as usize;
            image[at..at + 4096].copy_from_slice(&block);
            log.transaction_done(pending.number);
        }
        image[16773120 + 56..16773120 + 64].copy_from_slice(&[0, 0, 0, 0x13, 0x83, 0x74, 0x02, 0x6C]);
        write(&t.meta, &image);
        let (_, ops) = journal::of(|| apply_al_if_needed(&t).unwrap());
        let wanted = fs::read(&t.meta).unwrap();
        for (n, crashed) in crash_images(&image, &ops).iter().enumerate() {
            write(&t.meta, crashed);
            apply_al_if_needed(&t).unwrap_or_else(|e| panic!("{transactions} transactions, crash {n}: {e}"));
            assert!(fs::read(&t.meta).unwrap() == wanted, "{transactions} transactions, crash {n}");
        }
    }
}

/// Old metadata with a new bitmap would lose bits, new metadata with an old bitmap or ring as well: only all of the
/// one, nothing, or all of the other may be found.
fn check_replacement(t: &MetaTarget, old: &[u8], change: impl Fn(&MetaTarget)) {
    write(&t.meta, old);
    let was_valid = load_for_attach(t).is_ok();
    let ((), ops) = journal::of(|| change(t));
    let new = fs::read(&t.meta).unwrap();
    let (mut olds, mut nones, mut news) = (0, 0, 0);
    for (n, image) in crash_images(old, &ops).iter().enumerate() {
        write(&t.meta, image);
        match load_for_attach(t) {
            Err(_) if image == old => olds += 1,
            Err(_) => nones += 1,
            Ok(_) if image == old => olds += 1,
            Ok(_) => {
                assert!(*image == new, "crash {n}: neither old nor new");
                news += 1;
            }
        }
    }
    assert!(news > 0 && nones > 0, "{news} {nones}");
    assert!(!was_valid || olds > 0 || nones > 0);
}

#[test]
fn replaced_metadata_is_old_or_missing_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = unpack(&dir, "int-16m-bits");
    let old = fs::read(&path).unwrap();
    let t = target(&path, MetaKind::Internal);
    check_replacement(&t, &old, |t| {
        assert_eq!(run(|io| create_md(t, &force(), io)).0, 0);
    });
    let dump = golden_text("edited-16m.txt")
        .replace("8 times 0xFFFFFFFFFFFFFFFF", "8 times 0x0101010101010101")
        .replace("0xA1B2C3D4E5F60718", "0x1111111111111110");
    check_replacement(&t, &old, |t| {
        assert_eq!(run(|io| restore_md(t, &force(), &dump, io)).0, 0);
    });
    let blank = vec![0; old.len()];
    check_replacement(&t, &blank, |t| {
        assert_eq!(run(|io| create_md(t, &Opts::default(), io)).0, 0);
    });
}
