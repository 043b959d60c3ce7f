//! The device as programs of the node see it: filesystems on it, and what becomes of them when the daemon goes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::lab::{LONG, Lab, Setup};
use crate::node::Node;

/// XFS wants more than 300 MB.
const XFS_BYTES: u64 = 320 << 20;
const FIO: &str =
    "fio --name=v --directory=/mnt/r0 --size=4M --rw=randwrite --bs=4k --verify=crc32c --minimal";

/// Filesystems are made and used on the device of one node and checked on that of the other, by turns. While one is mounted
/// nobody steps down.
pub fn filesystems(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup { disk_bytes: Some([XFS_BYTES; 2]), ..Setup::default() }, p);
    let mut n = p;
    for make in ["mkfs.ext4 -q -F -E nodiscard", "mkfs.xfs -q -f -K"] {
        let node = &lab.nodes[n];
        node.run(&format!(
            "mkdir -p /mnt/r0; {make} /dev/drbd0 && mount /dev/drbd0 /mnt/r0 && {FIO} --fsync=64"
        ));
        node.refused("secondary r0", "(-12) Device is held open by someone");
        node.run("umount /mnt/r0");
        node.ok("secondary r0");
        n = 1 - n;
        let other = &lab.nodes[n];
        other.ok("primary r0");
        other.run(&format!(
            "mkdir -p /mnt/r0; mount /dev/drbd0 /mnt/r0 && {FIO} --verify_only && umount /mnt/r0"
        ));
    }
    lab.connected(n);
    lab.finish();
    "ext4, xfs".to_owned()
}

/// The device grows under a mounted filesystem, which then grows into it.
pub fn grows_while_mounted(lab: &mut Lab, p: usize) -> String {
    let size = |mib| Setup { disk: format!("size {mib}M;"), ..Setup::default() };
    lab.pair(&size(16), p);
    lab.nodes[p].run("mkdir -p /mnt/r0; mkfs.ext4 -q -F -E nodiscard /dev/drbd0 && mount /dev/drbd0 /mnt/r0");
    lab.write_config(&size(28));
    lab.nodes.iter_mut().for_each(Node::configure);
    lab.nodes[p].ok("resize r0");
    lab.connected(p);
    let primary = &lab.nodes[p];
    let until = Instant::now() + LONG;
    let bytes = (28 << 20).to_string();
    while primary.run("blockdev --getsize64 /dev/drbd0") != bytes {
        assert!(
            Instant::now() < until,
            "{}: {}",
            primary.name,
            primary.run("blockdev --getsize64 /dev/drbd0")
        );
        sleep(Duration::from_millis(50));
    }
    primary.run(&format!(
        "resize2fs /dev/drbd0 && {} && umount /mnt/r0 && fsck.ext4 -f -n /dev/drbd0",
        FIO.replace("4M", "18M")
    ));
    lab.connected(p);
    lab.finish();
    "16 to 28 MiB".to_owned()
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
        "nbd-client -unix /run/lockstep/r0.nbd -N r0/0 -b 512 {device} && mkdir -p /mnt/r0 && mkfs.ext4 -q -F {device} && mount {device} /mnt/r0 && {FIO} --fsync=64 && umount /mnt/r0 && nbd-client -d {device}"
    ));
    lab.nodes[ours].ok("secondary r0");
    let other = &lab.nodes[1 - ours];
    other.ok("primary r0");
    other
        .run(&format!("mkdir -p /mnt/r0; mount /dev/drbd0 /mnt/r0 && {FIO} --verify_only && umount /mnt/r0"));
    lab.connected(1 - ours);
    lab.finish();
    String::new()
}

/// Our daemon is killed and started again, twice, while a filesystem of the Primary is written to: under that filesystem, or
/// on the other node. No program sees an error.
pub fn daemon_restart(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    let primary = &lab.nodes[p];
    primary.run("mkdir -p /mnt/r0; mkfs.ext4 -q -F -E nodiscard /dev/drbd0 && mount /dev/drbd0 /mnt/r0");
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
