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

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use meta::apply::{apply_al_if_needed, load_for_attach};
use meta::create::create_md;
use meta::device::journal::{self, Op};
use meta::restore::restore_md;
use meta::{MetaTarget, Opts};
use replicator::meta::layout::MetaKind;
use support::*;

/// So many images of one moment are all looked at.
const IMAGES_MAX: usize = 1 << 8;

/// Part of a device that a command changes, and the file that holds the device.
struct Span {
    file: fs::File,
    range: std::ops::Range<usize>,
}

impl Span {
    fn of(path: &Path, ops: &[Op]) -> Span {
        let writes = ops.iter().filter_map(|op| match op {
            Op::Write { byte, bytes } => Some((*byte as usize, *byte as usize + bytes.len())),
            Op::Sync => None,
        });
        let (first, end) = writes.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).expect("it writes something");
        Span { file: fs::OpenOptions::new().read(true).write(true).open(path).unwrap(), range: first..end }
    }

    /// Puts this part of `image` on the device.
    fn write(&self, image: &[u8]) {
        self.file.write_all_at(&image[self.range.clone()], self.range.start as u64).unwrap();
    }

    /// This part of the device as it is now.
    fn read(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.range.len()];
        self.file.read_exact_at(&mut bytes, self.range.start as u64).unwrap();
        bytes
    }
}

/// What a sector may hold after a crash: what is stable, and everything written to it since the last sync.
type Versions<'a> = Vec<&'a [u8]>;

/// Looks at every device a crash can leave: everything up to a sync is there; of what was written after it, each
/// 512-byte sector may hold any of its versions. Where that makes more than [`IMAGES_MAX`] images, all of the last
/// write with all, none and a random half of the sectors before it. Returns the number of images.
fn each_crash_image(before: &[u8], ops: &[Op], mut look: impl FnMut(usize, &[u8])) -> usize {
    let mut count = 0;
    let mut stable = before.to_vec();
    let mut pending: Vec<(usize, &[u8])> = Vec::new();
    for op in ops {
        match op {
            Op::Sync => {
                for (byte, bytes) in pending.drain(..) {
                    stable[byte..byte + bytes.len()].copy_from_slice(bytes);
                }
            }
            Op::Write { byte, bytes } => {
                pending.push((*byte as usize, bytes));
                let mut image = stable.clone();
                let (early, last) = loose_sectors(&stable, &pending);
                for chosen in choices(&early, &last) {
                    for ((at, versions), version) in early.iter().chain(&last).zip(chosen) {
                        image[*at..at + versions[version].len()].copy_from_slice(versions[version]);
                    }
                    look(count, &image);
                    count += 1;
                }
            }
        }
    }
    look(count, &stable);
    count + 1
}

/// Sectors with more than one version: those that only earlier writes touched, and those of the last write.
#[allow(clippy::type_complexity)]
fn loose_sectors<'a>(
    stable: &'a [u8],
    pending: &[(usize, &'a [u8])],
) -> (Vec<(usize, Versions<'a>)>, Vec<(usize, Versions<'a>)>) {
    let mut sectors: BTreeMap<usize, (Versions<'a>, bool)> = BTreeMap::new();
    for (n, (byte, bytes)) in pending.iter().enumerate() {
        for (i, part) in bytes.chunks(512).enumerate() {
            let at = byte + 512 * i;
            let place = sectors.entry(at).or_insert_with(|| (vec![&stable[at..at + part.len()]], false));
            place.1 |= n + 1 == pending.len();
            if !place.0.contains(&part) {
                place.0.push(part);
            }
        }
    }
    sectors.retain(|_, (versions, _)| versions.len() > 1);
    let (last, early): (Vec<_>, Vec<_>) = sectors.into_iter().partition(|(_, (_, is_last))| *is_last);
    let strip =
        |list: Vec<(usize, (Versions<'a>, bool))>| list.into_iter().map(|(at, (v, _))| (at, v)).collect();
    (strip(early), strip(last))
}

/// Numbers of versions, for the early sectors and then for those of the last write.
fn choices(early: &[(usize, Versions<'_>)], last: &[(usize, Versions<'_>)]) -> Vec<Vec<usize>> {
    let product = |list: &[(usize, Versions<'_>)]| {
        list.iter().try_fold(1usize, |all, (_, versions)| all.checked_mul(versions.len()))
    };
    let every = |list: &[(usize, Versions<'_>)]| {
        let count = product(list).filter(|n| *n <= IMAGES_MAX).expect("one write is a block or less");
        (0..count)
            .map(|mut number| {
                let digit = |(_, versions): &(usize, Versions<'_>)| {
                    let digit = number % versions.len();
                    number /= versions.len();
                    digit
                };
                list.iter().map(digit).collect::<Vec<usize>>()
            })
            .collect::<Vec<_>>()
    };
    let all_early = product(early).and_then(|n| n.checked_mul(product(last)?)).filter(|n| *n <= IMAGES_MAX);
    let earlier = if all_early.is_some() {
        every(early)
    } else {
        let mut seed = 0x2545_F491_4F6C_DD1Du64;
        let mut some = |versions: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 33) as usize % versions
        };
        let newest = early.iter().map(|(_, versions)| versions.len() - 1).collect();
        let mut list = vec![vec![0; early.len()], newest];
        list.extend(
            (0..3).map(|_| early.iter().map(|(_, versions)| some(versions.len())).collect::<Vec<_>>()),
        );
        list
    };
    // A write of many blocks is one of pieces that are as unfinished as earlier writes.
    let later = if product(last).is_some_and(|n| n <= IMAGES_MAX) {
        every(last)
    } else {
        let newest: Vec<usize> = last.iter().map(|(_, versions)| versions.len() - 1).collect();
        (0..=last.len())
            .map(|cut| newest.iter().enumerate().map(|(i, n)| if i < cut { *n } else { 0 }).collect())
            .collect()
    };
    earlier.iter().flat_map(|e| later.iter().map(move |l| [&e[..], &l[..]].concat())).collect()
}

/// A directory in memory: thousands of images are synced one after the other.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn write(path: &Path, image: &[u8]) {
    fs::write(path, image).unwrap();
}

#[test]
fn the_log_can_be_applied_again_after_a_crash_while_applying_it() {
    let dir = scratch();
    for (before, after) in [
        ("flexext-4m-striped-al-unclean", "flexext-4m-striped-al-applied"),
        ("flexext-4m-striped-al-torn", "flexext-4m-striped-al-torn-applied"),
    ] {
        let t = target(&unpack(&dir, before), MetaKind::FlexibleExternal);
        let old = fs::read(&t.meta).unwrap();
        let wanted = fs::read(unpack(&dir, after)).unwrap();
        let (report, ops) = journal::of(|| apply_al_if_needed(&t).unwrap());
        assert!(report.hot_extents == 67 && ops.len() > 80);
        let span = Span::of(&t.meta, &ops);
        assert_eq!(span.range.start, 0, "the super block is first");
        let images = each_crash_image(&old, &ops, |n, image| {
            span.write(image);
            let again = apply_al_if_needed(&t).unwrap_or_else(|e| panic!("{before}, crash {n}: {e}"));
            let (found, end) = (span.read(), span.range.end);
            assert!(found[..4096] == wanted[..4096], "{before}, crash {n}: super block");
            assert!(found[69632..] == wanted[69632..end], "{before}, crash {n}: bits were lost");
            assert!(found[4096..69632] == wanted[4096..69632], "{before}, crash {n}: activity log {again:?}");
        });
        assert!(images > 500, "{before}: {images} images");
    }
}

/// The first transaction of all, and the one after a ring that was just made: the sparsest rings there are.
#[test]
fn a_sparse_ring_survives_a_crash_while_it_is_renewed() {
    use replicator::activity_log::extents::ActivityLog;
    use replicator::activity_log::transaction::AlRing;
    let dir = scratch();
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
        let span = Span::of(&t.meta, &ops);
        each_crash_image(&image, &ops, |n, crashed| {
            span.write(crashed);
            apply_al_if_needed(&t).unwrap_or_else(|e| panic!("{transactions} transactions, crash {n}: {e}"));
            assert!(span.read() == wanted[span.range.clone()], "{transactions} transactions, crash {n}");
        });
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
    let span = Span::of(&t.meta, &ops);
    let (first, end) = (span.range.start, span.range.end);
    let images = each_crash_image(old, &ops, |n, image| {
        span.write(image);
        let is = |what: &[u8]| image[first..end] == what[first..end];
        match load_for_attach(t) {
            _ if is(old) => olds += 1,
            Err(_) => nones += 1,
            Ok(_) => {
                assert!(is(&new), "crash {n}: neither old nor new");
                news += 1;
            }
        }
    });
    assert!(images > 15, "{images} images");
    assert!(news > 0 && nones > 0, "{news} {nones}");
    assert!(!was_valid || olds > 0 || nones > 0);
}

#[test]
fn replaced_metadata_is_old_or_missing_or_new() {
    let dir = scratch();
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
