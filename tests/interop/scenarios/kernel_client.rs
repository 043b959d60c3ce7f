//! The device as programs of the node see it: filesystems on it, and what becomes of them when the daemon goes.

use std::thread::sleep;
use std::time::Duration;

use crate::lab::{LONG, Lab, Setup};
use crate::node::Node;

/// XFS wants more than 300 MB.
const XFS_BYTES: u64 = 320 << 20;
const FIO: &str =
    "fio --name=v --directory=/mnt/r0 --size=4M --rw=randwrite --bs=4k --verify=crc32c --minimal";

const DEVICE: &str = "/dev/drbd0";
const EXT4: &str = "mkfs.ext4 -q -F -E nodiscard";

/// Makes a filesystem and mounts it.
fn mounted(make: &str, device: &str) -> String {
    format!("mkdir -p /mnt/r0 && {make} {device} && mount {device} /mnt/r0")
}

/// What another node wrote is there.
fn finds_it(node: &Node) {
    let check = format!("mount {DEVICE} /mnt/r0 && {FIO} --verify_only && umount /mnt/r0");
    node.run(&format!("mkdir -p /mnt/r0 && {check}"));
}

/// Filesystems are made and used on the device of one node and checked on that of the other, by turns. While one is mounted
/// nobody steps down.
pub fn filesystems(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup { disk_bytes: Some([XFS_BYTES; 2]), ..Setup::default() }, p);
    let mut n = p;
    for make in [EXT4, "mkfs.xfs -q -f -K"] {
        let node = &lab.nodes[n];
        node.run(&format!("{} && {FIO} --fsync=64", mounted(make, DEVICE)));
        node.refused("secondary r0", "(-12) Device is held open by someone");
        node.run("umount /mnt/r0");
        node.ok("secondary r0");
        n = 1 - n;
        let other = &lab.nodes[n];
        other.ok("primary r0");
        finds_it(other);
    }
    lab.connected(n);
    lab.finish();
    "ext4, xfs".to_owned()
}

/// The device grows under a mounted filesystem, which then grows into it.
pub fn grows_while_mounted(lab: &mut Lab, p: usize) -> String {
    let size = |mib| Setup { disk: format!("size {mib}M;"), ..Setup::default() };
    lab.pair(&size(16), p);
    lab.nodes[p].run(&mounted(EXT4, DEVICE));
    lab.reconfigure(&size(28));
    lab.nodes[p].ok("resize r0");
    lab.connected(p);
    let primary = &lab.nodes[p];
    let bytes = || primary.run("blockdev --getsize64 /dev/drbd0");
    primary.until(LONG, || bytes() == (28 << 20).to_string(), bytes);
    primary.run(&format!(
        "resize2fs /dev/drbd0 && {} && umount /mnt/r0 && fsck.ext4 -f -n /dev/drbd0",
        FIO.replace("4M", "18M")
    ));
    lab.connected(p);
    lab.finish();
    "16 to 28 MiB".to_owned()
}

/// The name of the device is taken when our node becomes Primary, as by the kernel's DRBD: the device is there under the
/// kernel's name, and gets its own when that is free, once.
pub fn name_is_taken(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    lab.nodes[p].ok("secondary r0");
    let n = usize::from(lab.nodes[0].is_kernel());
    let ours = &mut lab.nodes[n];
    ours.run(&format!("! test -e {DEVICE} && echo mine >{DEVICE}"));
    ours.mark_log();
    ours.ok("primary r0");
    ours.wait_log("is not ours", LONG);
    // It tries again meanwhile.
    sleep(Duration::from_secs(2));
    ours.run(&format!("test $(cat {DEVICE}) = mine && rm {DEVICE}"));
    ours.until(LONG, || ours.sh(&format!("test -b {DEVICE}")).status == 0, || ours.log());
    ours.run(&format!("{} && {FIO} --fsync=64 && umount /mnt/r0", mounted(EXT4, DEVICE)));
    sleep(Duration::from_secs(2));
    let new = ours.new_log();
    let made = new.lines().filter(|l| l.contains(" block device ") && l.contains("/dev/nbd")).count();
    let refused = new.lines().filter(|l| l.contains("no block device")).count();
    assert_eq!((made, refused), (1, 1), "{new}");
    ours.ok("secondary r0");
    lab.nodes[1 - n].ok("primary r0");
    finds_it(&lab.nodes[1 - n]);
    lab.connected(1 - n);
    lab.finish();
    String::new()
}

/// `nbd-client` takes our export, as it is used everywhere; the kernel's DRBD then finds what it wrote.
pub fn nbd_client(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    let ours = usize::from(lab.nodes[0].is_kernel());
    if ours != p {
        lab.nodes[p].ok("secondary r0");
        lab.nodes[ours].ok("primary r0");
    }
    let device = "/dev/nbd9";
    lab.nodes[ours].run(&format!(
        "nbd-client -unix /run/lockstep/r0.nbd -N r0/0 -b 512 {device} && {} && {FIO} --fsync=64 && umount /mnt/r0 && nbd-client -d {device}",
        mounted("mkfs.ext4 -q -F", device)
    ));
    lab.nodes[ours].ok("secondary r0");
    let other = &lab.nodes[1 - ours];
    other.ok("primary r0");
    finds_it(other);
    lab.connected(1 - ours);
    lab.finish();
    String::new()
}

/// Our daemon is killed and started again, twice, while a filesystem of the Primary is written to: under that filesystem, or
/// on the other node. No program sees an error.
pub fn daemon_restart(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    let primary = &lab.nodes[p];
    primary.run(&mounted(EXT4, DEVICE));
    let machine = primary.machine().expect("in machines");
    let load = machine.begin(&format!("{FIO} --time_based --runtime=6 --fsync=16"));
    let ours = if primary.is_kernel() { &lab.nodes[1 - p] } else { primary };
    for _ in 0..2 {
        sleep(Duration::from_secs(1));
        ours.kill_guest();
        sleep(Duration::from_millis(500));
        ours.start_guest();
        ours.ok("up r0");
        if !primary.is_kernel() {
            ours.ok("primary r0");
        }
        lab.connected(p);
    }
    let said = machine.finish(load, LONG).expect("the load ends");
    assert!(said.status == 0, "{said:?}");
    primary.run("umount /mnt/r0 && fsck.ext4 -f -n /dev/drbd0");
    assert!(!primary.logged("I/O error"), "{}", primary.log());
    assert!(primary.is_kernel() || !primary.run("dmesg").contains("I/O error"), "{}", primary.run("dmesg"));
    lab.connected(p);
    lab.finish();
    "killed twice".to_owned()
}
