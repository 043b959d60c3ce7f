//! Metadata exchanged with the real `drbdmeta` on loop devices, in both directions: one creates, the other reads,
//! restores, applies the log and changes it; the device must come out the same byte for byte.
//!
//! Needs root, losetup (Debian package mount), drbdmeta (drbd-utils), zstd (zstd), mkfs.ext4 (e2fsprogs) and mkswap
//! (util-linux).

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../src/cli/meta/mod.rs"]
mod meta;
#[path = "support/metadata.rs"]
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use meta::apply::apply_al;
use meta::commands::{dump_md, get_gi, invalidate, outdate, set_gi, write_dev_uuid};
use meta::create::{create_md, wipe_md};
use meta::restore::restore_md;
use meta::{MetaTarget, Opts};
use replicator::meta::layout::MetaKind;
use support::*;
use tempfile::TempDir;

/// One test at a time: a child process of another one holds an exclusive open device until its exec.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loop device over a file; detached when dropped.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    fn new(file: &Path) -> Loop {
        let output = tool("losetup", "mount")
            .args(["--find", "--show"])
            .arg(file)
            .output()
            .expect("losetup is needed: install the Debian package mount");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "losetup failed; this test needs root and loop devices: {text}");
        let device = String::from_utf8(output.stdout).unwrap().trim().into();
        Loop { device, file: file.to_path_buf() }
    }

    fn blank(dir: &TempDir, name: &str, bytes: u64) -> Loop {
        let path = dir.path().join(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        Loop::new(&path)
    }

    fn target(&self, kind: MetaKind) -> MetaTarget {
        target(&self.device, kind)
    }

    /// The bytes, read through the device.
    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.device).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
        let _ = fs::remove_file(&self.file);
    }
}

/// A program that must be there: missing tools are a failure, not a skip.
fn tool(name: &str, package: &str) -> Command {
    let found =
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    assert!(found, "{name} is needed: install the Debian package {package}");
    let mut command = Command::new(name);
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    command
}

fn index(kind: MetaKind) -> String {
    match kind {
        MetaKind::Internal => "internal".into(),
        MetaKind::FlexibleExternal => "flex-external".into(),
        MetaKind::Indexed(n) => n.to_string(),
    }
}

/// Runs the real tool; the device argument `-` keeps it from asking drbdsetup.
fn drbdmeta(device: &Loop, kind: MetaKind, args: &[&str]) -> (i32, String, String) {
    let output = tool("drbdmeta", "drbd-utils")
        .args(["--force", "-", "v08"])
        .arg(&device.device)
        .arg(index(kind))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("drbdmeta is needed: install the Debian package drbd-utils");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn drbdmeta_ok(device: &Loop, kind: MetaKind, args: &[&str]) -> String {
    let (exit, out, err) = drbdmeta(device, kind, args);
    assert_eq!(exit, 0, "drbdmeta {args:?}: {err}");
    out
}

fn ours_ok(command: impl FnOnce(&mut Operator) -> meta::Outcome) -> String {
    let (exit, out, err) = run(command);
    assert_eq!(exit, 0, "{err}");
    out
}

fn assert_same_bytes(a: &Loop, b: &Loop, what: &str) {
    let (a, b) = (a.bytes(), b.bytes());
    assert_eq!(a.len(), b.len(), "{what}");
    if a != b {
        let at = (0..a.len()).find(|i| a[*i] != b[*i]).unwrap();
        panic!("{what}: byte {at} is {:#04x} (ours) and {:#04x} (drbdmeta)", a[at], b[at]);
    }
}

const SHAPES: &[(u64, MetaKind, u32, u32)] = &[
    (69632, MetaKind::Internal, 1, 32),
    (16 << 20, MetaKind::Internal, 1, 32),
    ((16 << 20) + 7 * 512, MetaKind::Internal, 1, 32),
    ((128 << 20) + 512, MetaKind::Internal, 1, 32),
    (300 << 20, MetaKind::Internal, 4, 64),
    (200 << 20, MetaKind::Internal, 3, 44),
    (4 << 20, MetaKind::FlexibleExternal, 1, 32),
    ((5 << 20) + 3 * 512, MetaKind::FlexibleExternal, 2, 20),
    (128 << 20, MetaKind::Indexed(0), 1, 32),
];

#[test]
fn both_create_the_same_and_read_each_other() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for &(bytes, kind, stripes, kib) in SHAPES {
        let what = format!("{bytes} {kind:?} {stripes}x{kib}");
        let (ours, theirs) = (Loop::blank(&dir, "ours", bytes), Loop::blank(&dir, "theirs", bytes));
        let opts = Opts {
            al_stripes: Some(stripes),
            al_stripe_size_kib: Some(kib),
            peer_max_bio_bytes: 65536,
            ..Opts::default()
        };
        ours_ok(|io| create_md(&ours.target(kind), &opts, io));
        let (stripes, kib) = (format!("--al-stripes={stripes}"), format!("--al-stripe-size-kB={kib}"));
        drbdmeta_ok(&theirs, kind, &["create-md", "--peer-max-bio-size=65536", &stripes, &kib]);
        assert_same_bytes(&ours, &theirs, &what);

        let by_them = drbdmeta_ok(&ours, kind, &["dump-md"]);
        let by_us = ours_ok(|io| dump_md(&theirs.target(kind), &force(), io));
        assert_eq!(without_flags(&body(&by_us)), without_flags(&body(&by_them)), "{what}");
        for command in ["get-gi", "dstate"] {
            let by_us = ours_ok(|io| match command {
                "get-gi" => get_gi(&theirs.target(kind), io),
                _ => meta::commands::dstate(&theirs.target(kind), io),
            });
            assert_eq!(by_us, drbdmeta_ok(&ours, kind, &[command]), "{what}");
        }
    }
}

#[test]
fn dumps_restore_on_the_other_side() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [("int-16m-bits", 16u64 << 20), ("int-200m-al-applied", 200 << 20)] {
        let kind = MetaKind::Internal;
        let source = Loop::new(&unpack(&dir, name));
        let by_us = dir.path().join("by-us.txt");
        fs::write(&by_us, ours_ok(|io| dump_md(&source.target(kind), &force(), io))).unwrap();
        let by_them = drbdmeta_ok(&source, kind, &["dump-md"]);

        let (ours, theirs) = (Loop::blank(&dir, "ours", bytes), Loop::blank(&dir, "theirs", bytes));
        for device in [&ours, &theirs] {
            drbdmeta_ok(device, kind, &["create-md"]);
        }
        let ours_text = fs::read_to_string(&by_us).unwrap();
        ours_ok(|io| restore_md(&ours.target(kind), &force(), &ours_text, io));
        drbdmeta_ok(&theirs, kind, &["restore-md", by_us.to_str().unwrap()]);
        assert_same_bytes(&ours, &theirs, name);

        // and their text, whose flags are lost, here
        ours_ok(|io| restore_md(&ours.target(kind), &force(), &by_them, io));
        let path = dir.path().join("by-them.txt");
        fs::write(&path, &by_them).unwrap();
        drbdmeta_ok(&theirs, kind, &["restore-md", path.to_str().unwrap()]);
        assert_same_bytes(&ours, &theirs, name);
    }
}

#[test]
fn random_bitmaps_dump_alike() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let kind = MetaKind::Internal;
    let device = Loop::blank(&dir, "device", 200 << 20);
    drbdmeta_ok(&device, kind, &["create-md"]);
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for round in 0..12 {
        let mut text = golden_text("edited-200m.txt");
        text.truncate(text.find("bm {").unwrap());
        text.push_str("bm {\n");
        let mut words = 0;
        while words < 1024 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let count =
                [1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 31, 33][(state >> 33) as usize % 12].min(1024 - words);
            let word = [0, u64::MAX, 0x0123_4567_0123_4567, state][(state >> 40) as usize % 4];
            text.push_str(&format!("{count} times 0x{word:016X};\n"));
            words += count;
        }
        text.push_str("}\n");
        ours_ok(|io| restore_md(&device.target(kind), &force(), &text, io));
        let by_us = ours_ok(|io| dump_md(&device.target(kind), &force(), io));
        let by_them = drbdmeta_ok(&device, kind, &["dump-md"]);
        assert_eq!(without_flags(&body(&by_us)), without_flags(&body(&by_them)), "round {round}");
    }
}

#[test]
fn the_log_is_applied_alike() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for row in rows().iter().filter(|row| row.get("dump_needs_force") == "yes") {
        let (name, kind) = (row.get("name"), row.kind());
        let ours = Loop::new(&rename(unpack(&dir, name), "ours"));
        let theirs = Loop::new(&rename(unpack(&dir, name), "theirs"));
        let (exit, out, err) = run(|io| apply_al(&ours.target(kind), io));
        assert_eq!((i32::from(exit), out, err), drbdmeta(&theirs, kind, &["apply-al"]), "{name}");
        assert_same_bytes(&ours, &theirs, name);
    }
}

/// Every single block of the ring rotten in turn, and pairs of them: both must agree on outcome and bytes.
#[test]
fn damaged_logs_are_judged_alike() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let kind = MetaKind::FlexibleExternal;
    for (name, blocks) in [("flexext-4m-striped-al-torn", 16u32), ("flexext-4m-striped-fresh", 16)] {
        let ours = Loop::new(&rename(unpack(&dir, name), "ours"));
        let theirs = Loop::new(&rename(unpack(&dir, name), "theirs"));
        let mut image = ours.bytes();
        // unclean magic, so that there is something to decide; Primary
        image[60..64].copy_from_slice(&0x8374_026Cu32.to_be_bytes());
        image[56..60].copy_from_slice(&0x13u32.to_be_bytes());
        for mask in (0..blocks).map(|b| 1u32 << b).chain([3, 5, 0x8001, 0x7FFF, 0xFFFE, 0xFFFF]) {
            let mut damaged = image.clone();
            for block in (0..blocks).filter(|b| mask & (1 << b) != 0) {
                damaged[4096 * (1 + block as usize) + 600] ^= 0x5A;
            }
            for device in [&ours, &theirs] {
                fs::write(&device.device, &damaged).unwrap();
            }
            let (exit, _, err) = run(|io| apply_al(&ours.target(kind), io));
            let (their_exit, _, their_err) = drbdmeta(&theirs, kind, &["apply-al"]);
            assert_eq!(i32::from(exit), their_exit, "{name} {mask:#x}: {err} / {their_err}");
            if exit == 0 {
                let tail = |d: &Loop| (d.bytes()[..4096].to_vec(), d.bytes()[69632..].to_vec());
                assert!(tail(&ours) == tail(&theirs), "{name} {mask:#x}: super block or bitmap");
            } else {
                assert!(ours.bytes() == damaged, "{name} {mask:#x}: refused without a change");
            }
        }
    }
}

#[test]
fn changes_of_the_super_block_are_alike() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let kind = MetaKind::Internal;
    let (ours, theirs) = (Loop::blank(&dir, "ours", 16 << 20), Loop::blank(&dir, "theirs", 16 << 20));
    for device in [&ours, &theirs] {
        drbdmeta_ok(device, kind, &["create-md"]);
    }
    let t = ours.target(kind);
    let step = |what: &str| assert_same_bytes(&ours, &theirs, what);

    ours_ok(|_| write_dev_uuid(&t, "0123456789ABCDEF"));
    drbdmeta_ok(&theirs, kind, &["write-dev-uuid", "0123456789ABCDEF"]);
    step("write-dev-uuid");
    for values in ["A1B2:3:F:0:1:1:0:1:0:1:0", "::::::1", "7::", ":::9:0:1"] {
        let by_us = ours_ok(|io| set_gi(&t, &force(), values, io));
        assert_eq!(by_us, drbdmeta_ok(&theirs, kind, &["set-gi", values]));
        step(values);
        let by_us = ours_ok(|io| meta::commands::show_gi(&t, io));
        assert_eq!(by_us, drbdmeta_ok(&ours, kind, &["show-gi"]));
        let by_us = run(|io| outdate(&t, io));
        let by_them = drbdmeta(&theirs, kind, &["outdate"]);
        assert_eq!((i32::from(by_us.0), by_us.1, by_us.2), by_them);
        step("outdate");
    }
    ours_ok(|_| invalidate(&t));
    drbdmeta_ok(&theirs, kind, &["invalidate"]);
    step("invalidate");
    let by_us = ours_ok(|io| wipe_md(&t, &force(), io));
    assert_eq!(by_us, drbdmeta_ok(&theirs, kind, &["wipe-md"]));
    step("wipe-md");
}

#[test]
fn a_block_device_in_use_is_not_changed() {
    use std::os::unix::fs::OpenOptionsExt;
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let device = Loop::new(&unpack(&dir, "int-16m-bits"));
    let t = device.target(MetaKind::Internal);
    let before = device.bytes();
    let exclusive = nix::fcntl::OFlag::O_EXCL.bits();
    let holder = File::options().read(true).write(true).custom_flags(exclusive).open(&device.device).unwrap();
    for (exit, _, err) in [
        run(|io| create_md(&t, &force(), io)),
        run(|io| wipe_md(&t, &force(), io)),
        run(|io| apply_al(&t, io)),
        run(|_| invalidate(&t)),
    ] {
        assert!(exit == 20 && err.contains("Device or resource busy"), "{err}");
    }
    let (exit, out, err) = run(|io| get_gi(&t, io));
    assert!(exit == 0 && out.starts_with("A1B2C3D4E5F60718:") && err.contains("might be stale"), "{err}");
    drop(holder);
    assert!(device.bytes() == before);
    assert_eq!(run(|_| invalidate(&t)).0, 0);
}

/// File systems and swap space of the real makers: same verdict, same text, and nothing written.
#[test]
fn used_devices_are_judged_alike() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for (maker, package, args, exit) in [
        ("mkfs.ext4", "e2fsprogs", &["-q", "-F"][..], 40),
        ("mkfs.ext4", "e2fsprogs", &["-q", "-F", "-O", "64bit"], 40),
        ("mkfs.ext4", "e2fsprogs", &["-q", "-F", "-b", "1024"], 40),
        ("mkswap", "util-linux", &["-q"], 40),
    ] {
        let device = Loop::blank(&dir, "device", 64 << 20);
        let made = tool(maker, package).args(args).arg(&device.device).output().unwrap();
        assert!(made.status.success(), "{maker}: {}", String::from_utf8_lossy(&made.stderr));
        let before = device.bytes();
        for kind in [MetaKind::Internal, MetaKind::FlexibleExternal] {
            let (our_exit, our_out, _) = run(|io| create_md(&device.target(kind), &force(), io));
            let (their_exit, their_out, _) = drbdmeta(&device, kind, &["create-md"]);
            assert_eq!((i32::from(our_exit), their_exit), (exit, exit), "{maker} {kind:?}");
            let their_out = their_out.strip_suffix("Operation refused.\n\n").unwrap();
            assert_eq!(our_out, their_out, "{maker} {kind:?}");
            assert!(device.bytes() == before, "{maker} {kind:?}");
        }
    }
    // room for the metadata behind the file system: both ask
    let device = Loop::blank(&dir, "device", 64 << 20);
    let made =
        tool("mkfs.ext4", "e2fsprogs").args(["-q", "-F"]).arg(&device.device).arg("40960k").output().unwrap();
    assert!(made.status.success());
    let (exit, out, _) = run_as(Operator::typing("no"), |io| {
        create_md(&device.target(MetaKind::Internal), &Opts::default(), io)
    });
    assert_eq!(exit, 1);
    let theirs = drbdmeta_ok(&device, MetaKind::Internal, &["create-md"]);
    let text = out.strip_suffix("Operation canceled.\n").unwrap();
    assert!(theirs.starts_with(text), "{theirs}\n{out}");
}

fn rename(from: PathBuf, name: &str) -> PathBuf {
    let to = from.with_file_name(name);
    fs::rename(from, &to).unwrap();
    to
}
