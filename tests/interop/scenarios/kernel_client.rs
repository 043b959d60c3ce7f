//! The device as programs of the node see it: filesystems on it, and what becomes of them when the daemon goes.

use std::thread::sleep;
use std::time::Duration;

use crate::lab::{LONG, Lab, Setup};
use crate::node::Node;

/// XFS wants more than 300 MB.
const XFS_BYTES: u64 = 320 << 20;
const FIO: &str =
    "fio --name=v --directory=/mnt/r0 --size=4M --rw=randwrite --bs=4k --verify=crc32c --minimal";

fn run(node: &Node, command: &str) {
    let said = node.sh(command);
    assert!(said.status == 0, "{} ({}): {command}: {said:?}", node.name, node.kind_name());
}

/// Filesystems are made and used on the device of one node and checked on that of the other, by turns. While one is mounted
/// nobody steps down.
pub fn filesystems(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup { disk_bytes: Some([XFS_BYTES; 2]), ..Setup::default() }, p);
    let mut n = p;
    for make in ["mkfs.ext4 -q -F -E nodiscard", "mkfs.xfs -q -f -K"] {
        let node = &lab.nodes[n];
        run(
            node,
            &format!("mkdir -p /mnt/r0; {make} /dev/drbd0 && mount /dev/drbd0 /mnt/r0 && {FIO} --fsync=64"),
        );
        node.refused("secondary r0", "(-12) Device is held open by someone");
        run(node, "umount /mnt/r0");
        node.ok("secondary r0");
        n = 1 - n;
        let other = &lab.nodes[n];
        other.ok("primary r0");
        run(
            other,
            &format!("mkdir -p /mnt/r0; mount /dev/drbd0 /mnt/r0 && {FIO} --verify_only && umount /mnt/r0"),
        );
    }
    lab.connected(n);
    lab.finish();
    "ext4, xfs".to_owned()
}

/// Our daemon is killed and started again, twice, while a filesystem of the Primary is written to: under that filesystem, or
/// on the other node. No program sees an error.
pub fn daemon_restart(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    let primary = &lab.nodes[p];
    run(primary, "mkdir -p /mnt/r0; mkfs.ext4 -q -F -E nodiscard /dev/drbd0 && mount /dev/drbd0 /mnt/r0");
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
    run(primary, "umount /mnt/r0 && fsck.ext4 -f -n /dev/drbd0");
    let errors = primary.sh("dmesg | grep -i 'I/O error'");
    assert!(errors.text.is_empty(), "{errors:?}");
    lab.connected(p);
    lab.finish();
    "killed twice".to_owned()
}
