//! Metadata recorded from drbdmeta: decoded, printed, replayed and written again, byte for byte.
//!
//! Needs the program `zstd` (Debian package zstd).

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../src/cli/meta/mod.rs"]
mod meta;
#[path = "support/metadata.rs"]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use meta::apply::{apply_al, apply_al_if_needed, load_for_attach};
use meta::commands::{
    dstate, dump_md, get_gi, invalidate, outdate, read_dev_uuid, set_gi, show_gi, write_dev_uuid,
};
use meta::create::{create_md, wipe_md};
use meta::restore::{restore_md, verify_dump};
use meta::{MetaError, MetaTarget, Opts};
use replicator::activity_log::extents::ActivityLog;
use replicator::activity_log::transaction::AlRing;
use replicator::meta::layout::MetaKind;
use replicator::meta::superblock::{SUPERBLOCK_BYTES, SuperBlock};
use support::*;
use tempfile::TempDir;

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn blank(dir: &TempDir, name: &str, bytes: u64) -> PathBuf {
    let path = dir.path().join(name);
    let file = File::create(&path).unwrap();
    file.set_len(bytes).unwrap();
    path
}

/// Files of equal length and content; says where they differ.
fn assert_same(a: &Path, b: &Path, what: &str) {
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    assert_eq!(a.len(), b.len(), "{what}");
    if a != b {
        let at = (0..a.len()).find(|i| a[*i] != b[*i]).unwrap();
        panic!("{what}: byte {at} is {:#04x} and {:#04x}", a[at], b[at]);
    }
}

#[test]
fn super_blocks_decode_to_the_recorded_fields_and_back() {
    let dir = dir();
    for row in rows() {
        let image = File::open(unpack(&dir, row.image())).unwrap();
        let at: u64 = row.get("superblock_byte").parse().unwrap();
        let mut raw = [0; SUPERBLOCK_BYTES];
        image.read_exact_at(&mut raw, at).unwrap();
        let sb = SuperBlock::decode(&raw).unwrap();
        let magic = if sb.unclean_magic { "0x8374026C" } else { "0x8374026B" };
        for (column, value) in [
            ("la_size_sect", sb.la_size_sectors.to_string()),
            ("uuid_current", sb.uuids.current.to_string()),
            ("uuid_bitmap", sb.uuids.bitmap.to_string()),
            ("uuid_hist1", sb.uuids.history[0].to_string()),
            ("uuid_hist2", sb.uuids.history[1].to_string()),
            ("device_uuid", format!("{:016X}", sb.device_uuid)),
            ("flags", format!("0x{:08X}", sb.flags.0)),
            ("magic", magic.into()),
            ("md_size_sect", sb.md_size_sectors.to_string()),
            ("al_offset", sb.al_offset_sectors.to_string()),
            ("al_nr_extents", sb.al_nr_extents.to_string()),
            ("bm_offset", sb.bm_offset_sectors.to_string()),
            ("bm_bytes_per_bit", sb.bm_bytes_per_bit.to_string()),
            ("la_peer_max_bio_size", sb.la_peer_max_bio_bytes.to_string()),
            ("al_stripes", sb.al_stripes.to_string()),
            ("al_stripe_size_4k", sb.al_stripe_size_4k.to_string()),
        ] {
            assert_eq!(value, row.get(column), "{} {column}", row.get("name"));
        }
        let mut again = [1; SUPERBLOCK_BYTES];
        sb.encode(&mut again);
        assert!(again == raw, "{}", row.get("name"));
    }
}

#[test]
fn dumps_and_generation_texts_are_the_recorded_ones() {
    let dir = dir();
    for row in rows() {
        let name = row.get("name");
        let target = target(&unpack(&dir, row.image()), row.kind());
        let (exit, dump, _) = run(|io| dump_md(&target, &force(), io));
        assert_eq!(exit, 0, "{name}");
        assert_eq!(
            without_flags(&body(&dump)),
            without_flags(&golden_text(&format!("{name}.dump.txt"))),
            "{name}"
        );
        assert!(dump.contains(&format!("    flags {};\n", row.get("flags"))), "{name}: the real flags");
        assert!(dump.starts_with("# DRBD meta data dump\n# 20"), "{name}");

        let (exit, _, err) = run(|io| dump_md(&target, &Opts::default(), io));
        let unclean = row.get("dump_needs_force") == "yes";
        assert_eq!(exit, u8::from(unclean), "{name}");
        assert_eq!(err.contains("Found meta data is \"unclean\", please apply-al first"), unclean);

        let gi = run(|io| get_gi(&target, io)).1;
        let state = run(|io| dstate(&target, io)).1;
        let shown = run(|io| show_gi(&target, io)).1;
        let tail = &shown[shown.find("flags:").unwrap()..];
        assert_eq!(format!("{gi}{state}{tail}"), golden_text(&format!("{name}.gi.txt")), "{name}");
    }
}

#[test]
fn show_gi_has_the_recorded_frame() {
    let dir = dir();
    let target = target(&unpack(&dir, "int-16m-fresh"), MetaKind::Internal);
    let shown = run(|io| show_gi(&target, io)).1;
    assert!(golden_text("drbdmeta-v08.txt").contains(&format!("internal show-gi\n{shown}[exit 0]")));
}

#[test]
fn activity_log_listing_is_the_recorded_one() {
    let dir = dir();
    let mut compared = 0;
    for row in rows().iter().filter(|row| row.get("dump_needs_force") == "yes") {
        let target = target(&unpack(&dir, row.image()), row.kind());
        let opts = Opts { dump_activity_log: true, ..force() };
        let dump = run(|io| dump_md(&target, &opts, io)).1;
        let listing: String = dump[dump.find("# al {").unwrap()..]
            .lines()
            .filter(|line| line.contains("tr:") || !line.ends_with(" 4294967295"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(listing, golden_text(&format!("{}.al.txt", row.get("name"))));
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn applying_the_log_gives_the_recorded_images() {
    let dir = dir();
    for (before, after, message) in [
        (
            "int-200m-al-unclean",
            "int-200m-al-applied",
            "Marked additional 12 MB as out-of-sync based on AL.\n",
        ),
        (
            "int-200m-al-wrap32",
            "int-200m-al-wrap32-applied",
            "Marked additional 15 MB as out-of-sync based on AL.\n",
        ),
        ("int-200m-al-secondary-unclean", "int-200m-al-secondary-applied", ""),
        ("int-200m-al-empty-unclean", "int-200m-al-empty-applied", "Nothing to do.\n"),
        (
            "flexext-4m-striped-al-unclean",
            "flexext-4m-striped-al-applied",
            "Marked additional 268 MB as out-of-sync based on AL.\n",
        ),
        (
            "flexext-4m-striped-al-torn",
            "flexext-4m-striped-al-torn-applied",
            "1 corrupt AL transactions found\nMarked additional 268 MB as out-of-sync based on AL.\n",
        ),
    ] {
        let kind = if before.starts_with("int") { MetaKind::Internal } else { MetaKind::FlexibleExternal };
        let target = target(&unpack(&dir, before), kind);
        assert_eq!(run(|io| apply_al(&target, io)), (0, String::new(), message.into()), "{before}");
        assert_same(&target.meta, &unpack(&dir, after), before);
        assert!(apply_al_if_needed(&target).unwrap().was_clean);
        assert_same(&target.meta, &unpack(&dir, after), "a second time");
    }
}

/// Table A of the recorded images: the first two transactions come out the same from the runtime log.
#[test]
fn the_runtime_log_writes_the_recorded_blocks() {
    let dir = dir();
    let image = fs::read(unpack(&dir, "int-200m-al-unclean")).unwrap();
    let mut log = ActivityLog::new(1237, AlRing::DEFAULT);
    for (number, extents) in [(0, &[0, 7][..]), (1, &[49])] {
        for extent in extents {
            log.stage(*extent, *extent).unwrap();
        }
        let mut block = [0; 4096];
        let pending = log.begin_transaction(&mut block, &mut Vec::new()).unwrap();
        let at = 209678336 + 4096 * pending.ring_block as usize;
        assert!(block == image[at..at + 4096], "transaction {number}");
        log.transaction_done(pending.number);
    }
}

#[test]
fn a_log_that_cannot_be_read_is_refused_only_for_a_primary() {
    let dir = dir();
    for (name, primary) in [("int-200m-al-unclean", true), ("int-200m-al-secondary-unclean", false)] {
        let target = target(&unpack(&dir, name), MetaKind::Internal);
        let file = File::options().write(true).open(&target.meta).unwrap();
        file.write_all_at(&[0x55; 32768], 209678336).unwrap();
        let before = fs::read(&target.meta).unwrap();
        let (exit, _, err) = run(|io| apply_al(&target, io));
        assert!(err.contains("No usable activity log found. Do you need to create-md?"), "{err}");
        assert_eq!(exit, u8::from(primary));
        assert_eq!(fs::read(&target.meta).unwrap() == before, primary, "nothing is changed on failure");
        if !primary {
            assert!(err.contains("Error ignored, no need to apply the AL"));
            assert!(apply_al_if_needed(&target).unwrap().was_clean);
        }
    }
}

#[test]
fn extents_behind_the_end_are_reported_and_skipped() {
    let dir = dir();
    let target = target(&unpack(&dir, "int-200m-al-unclean"), MetaKind::Internal);
    let file = File::options().write(true).open(&target.meta).unwrap();
    // last agreed size 20 MiB: extents 12 and 49 are gone
    file.write_all_at(&40960u64.to_be_bytes(), 209711104).unwrap();
    let (exit, _, err) = run(|io| apply_al(&target, io));
    assert_eq!(exit, 0);
    assert!(
        err.starts_with("extent 12 beyond end of bitmap!\nextent 49 beyond end of bitmap!\nMarked"),
        "{err}"
    );
}

#[test]
fn create_md_writes_the_recorded_images() {
    let dir = dir();
    let striped = Opts {
        al_stripes: Some(4),
        al_stripe_size_kib: Some(16),
        peer_max_bio_bytes: 131072,
        ..Opts::default()
    };
    for (name, bytes, kind, opts) in [
        ("int-16m-fresh", 16777216, MetaKind::Internal, Opts::default()),
        ("int-16m-odd-fresh", 16780800, MetaKind::Internal, Opts::default()),
        ("flexext-4m-fresh", 4194304, MetaKind::FlexibleExternal, Opts::default()),
        ("flexext-4m-striped-fresh", 4194304, MetaKind::FlexibleExternal, striped),
    ] {
        let target = target(&blank(&dir, "new", bytes), kind);
        let (exit, out, err) = run(|io| create_md(&target, &opts, io));
        assert_eq!(exit, 0, "{err}");
        assert_eq!(
            out,
            "initializing activity log\nWriting meta data...\nNew drbd meta data block successfully created.\n"
        );
        assert_eq!(err, "initializing bitmap (4 KB) to all zero\n");
        assert_same(&target.meta, &unpack(&dir, name), name);
    }
}

#[test]
fn indexed_slots_share_a_device() {
    let dir = dir();
    let path = blank(&dir, "indexed", 268435456);
    let (slot0, slot1) = (target(&path, MetaKind::Indexed(0)), target(&path, MetaKind::Indexed(1)));
    assert_eq!(run(|io| create_md(&slot0, &Opts::default(), io)).0, 0);
    // slot 0 counts as data at the start of the device
    assert_eq!(run(|io| create_md(&slot1, &Opts::default(), io)).0, 1);
    assert_eq!(run(|io| create_md(&slot1, &force(), io)).0, 0);
    let values = "A1B2C3D4E5F60718:1020304050607080:0F1E2D3C4B5A6978:8877665544332210:1:1:0:1:0:0:0";
    assert_eq!(run(|io| set_gi(&slot1, &force(), values, io)).0, 0);
    assert_same(&path, &unpack(&dir, "indexed-256m"), "both slots");
    assert_eq!(run(|io| get_gi(&target(&path, MetaKind::Indexed(2)), io)).0, 1);
}

#[test]
fn changes_give_the_recorded_images() {
    let dir = dir();
    let at = |name: &str| target(&unpack(&dir, name), MetaKind::Internal);
    let values = "A1B2C3D4E5F60718:1020304050607080:0F1E2D3C4B5A6978:8877665544332210:1:1:0:1:0:0:0";
    let compare = |target: &MetaTarget, name: &str| {
        let changed = dir.path().join("changed");
        fs::rename(&target.meta, &changed).unwrap();
        assert_same(&changed, &unpack(&dir, name), name);
    };

    let t = at("int-16m-fresh");
    assert_eq!(write_dev_uuid(&t, "0123456789ABCDEF").unwrap(), 0);
    assert_eq!(run(|io| read_dev_uuid(&t, io)).1, "0123456789ABCDEF\n");
    let (exit, out, err) = run(|io| set_gi(&t, &Opts::default(), values, io));
    assert!(exit == 0 && out.ends_with("Operation canceled.\n") && err.contains("stdin not a TTY"));
    let (exit, out, _) = run_as(Operator::typing("yes"), |io| set_gi(&t, &Opts::default(), values, io));
    assert!(exit == 0 && out.contains(&format!("set GI to  {values}\n")));
    compare(&t, "int-16m-setgi");

    let t = at("int-16m-setgi");
    assert_eq!(run(|io| outdate(&t, io)).0, 0);
    compare(&t, "int-16m-outdated");
    let t = at("int-16m-setgi");
    assert_eq!(run(|_| invalidate(&t)).0, 0);
    assert_eq!(run(|io| outdate(&t, io)), (5, String::new(), "Device is inconsistent.\n".into()));
    compare(&t, "int-16m-invalidated");
    let t = at("int-16m-setgi");
    assert_eq!(run(|io| set_gi(&t, &force(), "::::1:1:1:0:0:1:1", io)).0, 0);
    compare(&t, "int-16m-crashed-flags");
    let t = at("int-16m-setgi");
    assert_eq!(run(|io| wipe_md(&t, &force(), io)).0, 0);
    assert_eq!(run(|io| wipe_md(&t, &Opts::default(), io)).0, 0, "nothing left to wipe");
    compare(&t, "int-16m-wiped");

    for (dump, before, after) in [
        ("edited-16m.txt", "int-16m-fresh", "int-16m-bits"),
        ("edited-200m.txt", "int-200m-bits", "int-200m-bits"),
    ] {
        let t = at(before);
        let (exit, out, _) = run(|io| restore_md(&t, &force(), &golden_text(dump), io));
        assert_eq!((exit, out.as_str()), (0, "Successfully restored meta data\n"));
        compare(&t, after);
    }
}

#[test]
fn a_dump_restores_to_the_same_metadata() {
    let dir = dir();
    for name in ["int-16m-bits", "int-200m-al-applied", "int-16m-crashed-flags"] {
        let source = target(&unpack(&dir, name), MetaKind::Internal);
        let dump = run(|io| dump_md(&source, &force(), io)).1;
        assert_eq!(run(|io| verify_dump(&dump, io)), (0, "input file parsed ok\n".into(), String::new()));
        let bytes = fs::metadata(&source.meta).unwrap().len();
        let copy = target(&blank(&dir, "copy", bytes), MetaKind::Internal);
        assert_eq!(run(|io| create_md(&copy, &Opts::default(), io)).0, 0);
        assert_eq!(run(|io| restore_md(&copy, &force(), &dump, io)).0, 0);
        let again = run(|io| dump_md(&copy, &force(), io)).1;
        // the number of log slots is not part of the format
        let strip = |text: &str| body(text).replace("# al-extents 1237;", "# al-extents 257;");
        assert_eq!(strip(&again), strip(&dump), "{name}");
    }
    let unclean = target(&unpack(&dir, "int-200m-al-unclean"), MetaKind::Internal);
    let dump = run(|io| dump_md(&unclean, &force(), io)).1;
    let (exit, _, err) = run(|io| verify_dump(&dump, io));
    assert!(exit == 10 && err.contains("unknown token: This_is_an_unclean_meta_data_dump"), "{err}");
}

#[test]
fn a_bad_dump_changes_nothing() {
    let dir = dir();
    let t = target(&unpack(&dir, "int-16m-bits"), MetaKind::Internal);
    let text = golden_text("edited-16m.txt");
    for bad in [&text[..text.len() - 3], "", &text.replace("al-stripes 1;", "al-stripes 0;")] {
        assert_eq!(run(|io| restore_md(&t, &force(), bad, io)).0, 10);
    }
    assert_same(&t.meta, &unpack(&dir, "int-16m-bits"), "after refused dumps");
    assert_eq!(
        run(|io| restore_md(&t, &Opts::default(), &text, io)).0,
        1,
        "valid metadata needs a confirmation"
    );
    assert_same(&t.meta, &unpack(&dir, "int-16m-bits"), "after a declined question");
}

#[test]
fn restoring_clean_metadata_leaves_no_stale_log() {
    let dir = dir();
    let t = target(&unpack(&dir, "int-200m-al-unclean"), MetaKind::Internal);
    assert_eq!(run(|io| restore_md(&t, &force(), &golden_text("edited-200m.txt"), io)).0, 0);
    assert_same(&t.meta, &unpack(&dir, "int-200m-bits"), "as if the log had been applied");
}

#[test]
fn foreign_and_damaged_metadata_is_refused_untouched() {
    let dir = dir();
    let check = |t: &MetaTarget, exit: u8, text: &str| {
        let before = fs::read(&t.meta).unwrap();
        for (code, out, err) in [
            run(|io| dump_md(t, &force(), io)),
            run(|io| dstate(t, io)),
            run(|io| get_gi(t, io)),
            run(|io| set_gi(t, &force(), "1", io)),
            run(|io| outdate(t, io)),
            run(|_| invalidate(t)),
            run(|io| apply_al(t, io)),
        ] {
            assert_eq!((code, out.as_str()), (exit, ""), "{err}");
            assert!(err.is_empty() && text == "No valid" || err.contains(text), "{err}");
        }
        assert!(load_for_attach(t).is_err());
        assert!(fs::read(&t.meta).unwrap() == before);
    };
    let v09 = target(&unpack(&dir, "int-16m-v09-fresh"), MetaKind::Internal);
    check(&v09, 1, "this is v09 meta data, not v08");
    let wiped = target(&unpack(&dir, "int-16m-wiped"), MetaKind::Internal);
    check(&wiped, 1, "No valid");
    let damaged = target(&unpack(&dir, "int-16m-bits"), MetaKind::Internal);
    let file = File::options().write(true).open(&damaged.meta).unwrap();
    file.write_all_at(&(-80i32).to_be_bytes(), 16773120 + 76).unwrap();
    check(&damaged, 1, "Damaged meta data");
    let error = load_for_attach(&damaged).unwrap_err();
    assert_eq!(error.attach_error(), 119);

    // replacing any of them has to be confirmed
    for t in [&v09, &damaged] {
        let before = fs::read(&t.meta).unwrap();
        assert_eq!(run(|io| create_md(t, &Opts::default(), io)).0, 1);
        assert!(fs::read(&t.meta).unwrap() == before);
        assert_eq!(run(|io| create_md(t, &force(), io)).0, 0);
        assert_eq!(run(|io| get_gi(t, io)).0, 0);
    }
}

#[test]
fn attach_reads_a_trimmed_bitmap() {
    let dir = dir();
    let t = target(&unpack(&dir, "int-200m-al-applied"), MetaKind::Internal);
    let attached = load_for_attach(&t).unwrap();
    assert_eq!((attached.data_sectors, attached.usable_sectors), (409600, 409512));
    assert_eq!(attached.superblock.la_size_sectors, 409512);
    assert_eq!(attached.bitmap.len(), 51189usize.div_ceil(64));
    let ones: u32 = attached.bitmap.iter().map(|w| w.count_ones()).sum();
    // the last extent was set as a whole; 11 of its bits are behind the last of 51189
    let on_disk: u32 = golden_text("int-200m-al-applied.dump.txt")
        .lines()
        .find_map(|l| l.strip_prefix("# bits-set ")?.strip_suffix(';')?.parse().ok())
        .unwrap();
    assert_eq!(ones, on_disk - (51200 - 51189));
    drop(attached);

    let unclean = target(&unpack(&dir, "int-200m-al-unclean"), MetaKind::Internal);
    assert_eq!(load_for_attach(&unclean).unwrap_err().attach_error(), 165);
    let fresh = target(&unpack(&dir, "int-16m-fresh"), MetaKind::Internal);
    assert_eq!(load_for_attach(&fresh).unwrap().bitmap.len(), 4086usize.div_ceil(64));
}

#[test]
fn a_claimed_device_can_be_read_but_not_changed() {
    let dir = dir();
    let t = target(&unpack(&dir, "int-16m-bits"), MetaKind::Internal);
    let attached = load_for_attach(&t).unwrap();
    let (exit, out, err) = run(|io| get_gi(&t, io));
    assert!(exit == 0 && !out.is_empty() && err.starts_with("# Output might be stale"));
    for (exit, _, err) in [
        run(|io| create_md(&t, &force(), io)),
        run(|io| wipe_md(&t, &force(), io)),
        run(|io| apply_al(&t, io)),
        run(|io| restore_md(&t, &force(), &golden_text("edited-16m.txt"), io)),
    ] {
        assert!(exit == 20 && err.contains("Device or resource busy"), "{err}");
    }
    let file = attached.claim.into_file();
    assert!(matches!(load_for_attach(&t), Err(MetaError::Busy(_))), "the file keeps the claim");
    drop(file);
    assert!(load_for_attach(&t).is_ok());

    let path = blank(&dir, "slots", 268435456);
    let (slot0, slot1) = (target(&path, MetaKind::Indexed(0)), target(&path, MetaKind::Indexed(1)));
    for slot in [&slot0, &slot1] {
        assert_eq!(run(|io| create_md(slot, &force(), io)).0, 0);
    }
    let data = blank(&dir, "data", 1 << 30);
    let attached = load_for_attach(&MetaTarget { data, ..slot0.clone() }).unwrap();
    assert_eq!(attached.usable_sectors, 2097152);
    assert_eq!(run(|_| invalidate(&slot0)).0, 20, "its slot is taken");
    assert_eq!(run(|_| invalidate(&slot1)).0, 0, "the other one is not");
}

fn with_bytes(dir: &TempDir, bytes: u64, parts: &[(u64, &[u8])]) -> MetaTarget {
    let path = blank(dir, "used", bytes);
    let file = File::options().write(true).open(&path).unwrap();
    for (at, part) in parts {
        file.write_all_at(part, *at).unwrap();
    }
    target(&path, MetaKind::Internal)
}

#[test]
fn file_systems_are_never_cut_off() {
    let dir = dir();
    let transcript = golden_text("drbdmeta-v08.txt");
    let ext = |blocks: u32| [(0x438u64, vec![0x53, 0xEF]), (0x404, blocks.to_le_bytes().to_vec())];
    let whole = ext(65536);
    let whole: Vec<(u64, &[u8])> = whole.iter().map(|(at, b)| (*at, b.as_slice())).collect();
    for opts in [Opts::default(), force()] {
        let t = with_bytes(&dir, 67108864, &whole);
        let before = fs::read(&t.meta).unwrap();
        let (exit, out, err) = run(|io| create_md(&t, &opts, io));
        assert_eq!((exit, err.as_str()), (40, "Operation refused.\n\n"));
        assert!(transcript.contains(&format!("{out}{err}[exit 40]")), "{out}");
        assert!(fs::read(&t.meta).unwrap() == before);
        let (exit, _, _) = run(|io| restore_md(&t, &opts, &golden_text("edited-16m.txt"), io));
        assert_eq!(exit, 40, "restore-md does not do it either");
    }
    let t = with_bytes(&dir, 67108864, &[(4086, b"SWAPSPACE2")]);
    let (exit, out, err) = run(|io| create_md(&t, &force(), io));
    assert_eq!(exit, 40);
    assert!(transcript.contains(&format!("{out}{err}[exit 40]")), "{out}");

    let flex = MetaTarget { data: "/nonexistent".into(), kind: MetaKind::FlexibleExternal, ..t };
    assert_eq!(run(|io| create_md(&flex, &force(), io)).0, 40, "nor may external metadata overwrite it");
}

#[test]
fn a_shrunken_file_system_needs_a_confirmation() {
    let dir = dir();
    let ext = [(0x438u64, &[0x53u8, 0xEF][..]), (0x404, &[0, 160, 0, 0])];
    let t = with_bytes(&dir, 67108864, &ext);
    let typed = |answer| run_as(Operator::typing(answer), |io| create_md(&t, &Opts::default(), io));
    let (exit, out, err) = typed("no");
    assert_eq!(exit, 1);
    assert_eq!(err, "\nDo you want to proceed?\n[need to type 'yes' to confirm] \n");
    let transcript = golden_text("drbdmeta-v08-terminal.txt");
    let text = out.strip_suffix("Operation canceled.\n").unwrap();
    assert!(transcript.contains(text), "{text}");
    assert_eq!(run(|io| create_md(&t, &Opts::default(), io)).0, 1, "no terminal is no");
    assert_eq!(typed("y").0, 1);
    assert_eq!(typed("yes ").0, 1);
    assert_eq!(typed("yes").0, 0);
}

#[test]
fn existing_metadata_needs_a_confirmation() {
    let dir = dir();
    let t = target(&unpack(&dir, "int-16m-bits"), MetaKind::Internal);
    let (exit, out, err) = run(|io| create_md(&t, &Opts::default(), io));
    assert_eq!((exit, out.as_str()), (1, "Operation cancelled.\n"));
    let recorded = golden_text("drbdmeta-v08.txt")
        .replace("/dev/loop0 at byte offset 67104768", "DEV at byte offset 16773120");
    let err = err.replace(t.meta.to_str().unwrap(), "DEV");
    assert!(recorded.contains(&format!("{err}{out}[exit 1]")), "{err}");
    assert_same(&t.meta, &unpack(&dir, "int-16m-bits"), "declined");
    let (exit, out, err) = run(|io| wipe_md(&t, &Opts::default(), io));
    assert_eq!((exit, out.as_str()), (1, "Operation cancelled.\n"));
    assert!(recorded.contains(&format!("{err}{out}[exit 1]")));

    let t = target(&unpack(&dir, "int-16m-bits"), MetaKind::Internal);
    let opts = Opts { al_stripes: Some(2), al_stripe_size_kib: Some(32), ..force() };
    assert_eq!(run(|io| create_md(&t, &opts, io)).0, 30, "striping cannot be changed in place");
    assert_same(&t.meta, &unpack(&dir, "int-16m-bits"), "not implemented");
    // on an unused device create-md replaces bits of an old bitmap
    assert_eq!(run(|io| create_md(&t, &force(), io)).0, 0);
    assert_same(&t.meta, &unpack(&dir, "int-16m-fresh"), "fresh again");
}

#[test]
fn bad_targets_have_their_exit_codes() {
    let dir = dir();
    let small = target(&blank(&dir, "small", 32768), MetaKind::Internal);
    let (exit, _, err) = run(|io| create_md(&small, &force(), io));
    assert_eq!(
        (exit, err),
        (10, format!("{} is only 32768 bytes. That's not enough.\n", small.meta.display()))
    );
    let smallest = target(&blank(&dir, "smallest", 69632), MetaKind::Internal);
    assert_eq!(run(|io| create_md(&smallest, &Opts::default(), io)).0, 0);
    let missing = target(Path::new("/dev/nosuch"), MetaKind::Internal);
    let (exit, _, err) = run(|io| create_md(&missing, &force(), io));
    assert!(exit == 20 && err.starts_with("open(/dev/nosuch) failed: No such file or directory"), "{err}");
    let null = target(Path::new("/dev/null"), MetaKind::Internal);
    assert_eq!(run(|io| create_md(&null, &force(), io)).2, "'/dev/null' is not a block device!\n");
    let mixed = MetaTarget { data: "/dev/null".into(), ..smallest.clone() };
    assert_eq!(run(|io| get_gi(&mixed, io)).0, 20);
    for (stripes, kib) in [(1, 16), (1, 33), (1025, 32), (u32::MAX, u32::MAX), (0, 0)] {
        let opts = Opts { al_stripes: Some(stripes), al_stripe_size_kib: Some(kib), ..force() };
        let (exit, _, err) = run(|io| create_md(&smallest, &opts, io));
        assert!(exit == 10 && err.contains("al-stripe* settings"), "{stripes} {kib}: {err}");
    }
}
