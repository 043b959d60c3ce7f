//! A disk that does not answer holds up nothing but itself. Needs root.

use std::time::Duration;

use blockdev::backing::OpenOptions;
use blockdev::pool::{BufSpan, BufferPool};
use blockdev::ring::{FileRef, Ring, RingOptions};
use stalling_disk::StallingDisk;

#[path = "../../tests/support/stalling_disk.rs"]
mod stalling_disk;

#[test]
fn flushes_of_a_disk_that_stands_still_leave_room_for_those_of_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = StallingDisk::new(dir.path());
    let other = dir.path().join("other");
    std::fs::File::create(&other).expect("a file").set_len(1 << 20).expect("its size");
    let still = OpenOptions::default().open(disk.device.as_ref()).expect("the device");
    let other = OpenOptions::default().open(&other).expect("the file");
    let mut ring =
        Ring::new(RingOptions::default(), BufferPool::new(1 << 20).expect("a pool")).expect("a ring");
    let buf = ring.pool_mut().alloc(4096).expect("a buffer");

    let stall = disk.stall();
    ring.write_at(false, FileRef::of(&still), BufSpan::head(buf, 4096), 0, false);
    assert_eq!(ring.wait(Some(Duration::from_millis(300))).expect("the ring waits"), 0);
    for _ in 0..400 {
        ring.fsync_data(false, FileRef::of(&still));
    }
    assert_eq!(ring.wait(Some(Duration::from_millis(300))).expect("the ring waits"), 0);
    ring.fsync_data(true, FileRef::of(&other));
    ring.wait(Some(Duration::from_secs(10))).expect("the ring waits");
    let flushed = ring.next_completion().expect("the other disk is flushed");
    assert!(flushed.token && flushed.result == 0, "{flushed:?}");
    drop(stall);
}
