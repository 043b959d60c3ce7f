//! A node without its disk.

use crate::lab::{LONG, Lab, Setup};

/// A Primary gives its disk up, reads and writes through the peer, and takes it up again.
pub fn diskless_primary(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    let before = lab.write(p, 1 << 20, 65536);
    lab.nodes[p].ok("detach r0");
    lab.nodes[p].wait("Connected Primary/Secondary Diskless/UpToDate", LONG);
    lab.nodes[1 - p].wait("Connected Secondary/Primary UpToDate/Diskless", LONG);
    assert!(lab.nodes[p].read(1 << 20, 65536).expect("a read through the peer") == before);
    let data = lab.write(p, 2 << 20, 65536);
    assert!(lab.nodes[p].read(2 << 20, 65536).expect("a read through the peer") == data);
    lab.nodes[p].flush();
    lab.nodes[p].ok("attach r0");
    lab.connected(p);
    assert!(lab.nodes[p].read(2 << 20, 65536).expect("a read") == data);
    lab.finish();
    String::new()
}

/// The Secondary gives its disk up and takes it up again.
pub fn diskless_secondary(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    lab.nodes[1 - p].ok("detach r0");
    lab.nodes[p].wait("Connected Primary/Secondary UpToDate/Diskless", LONG);
    lab.write(p, 2 << 20, 65536);
    lab.nodes[1 - p].mark_log();
    lab.nodes[1 - p].ok("attach r0");
    lab.connected(p);
    lab.nodes[1 - p].wait_log("will sync 64 KB", LONG);
    lab.finish();
    String::new()
}
