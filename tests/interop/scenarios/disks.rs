//! A node without its disk, and disks that grow.

use std::thread::sleep;
use std::time::Duration;

use crate::lab::{LONG, Lab, Setup};
use crate::node::Io;

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

/// A Primary without disk loses its peer: requests fail, or wait for data to come back, as `on-no-data-accessible` says.
pub fn no_data(lab: &mut Lab, p: usize) -> String {
    for policy in ["io-error", "suspend-io"] {
        let sections = format!("options {{ on-no-data-accessible {policy}; }}");
        lab.pair(&Setup { sections, ..Setup::default() }, p);
        lab.write(p, 1 << 20, 65536);
        lab.nodes[p].mark_log();
        lab.nodes[p].ok("detach r0");
        lab.nodes[p].wait("Connected Primary/Secondary Diskless/UpToDate", LONG);
        // The generation that the peer begins for this Primary; without its name neither kernel would connect again.
        lab.nodes[p].wait_log("effective data uuid", LONG);
        lab.cut(p);
        lab.nodes[p].wait("WFConnection Primary/Unknown Diskless/DUnknown", LONG);
        if policy == "io-error" {
            let data = lab.noise(4096);
            lab.nodes[p].io(Io::Write, 1 << 20, &data).expect_err("nobody has the data");
            lab.heal();
        } else {
            let load = lab.nodes[p].load("--bs=4k --iodepth=4", 2);
            sleep(Duration::from_secs(3));
            lab.heal();
            lab.nodes[p].wait("Connected Primary/Secondary Diskless/UpToDate", LONG);
            load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
        }
        lab.nodes[p].wait("Connected Primary/Secondary Diskless/UpToDate", LONG);
        lab.nodes[p].ok("attach r0");
        lab.connected(p);
        lab.finish();
    }
    "io-error, suspend-io".to_owned()
}

/// The device grows while it is used; its new part is copied too.
pub fn resize(lab: &mut Lab, p: usize) -> String {
    let small = Setup { disk: "size 16M;".to_owned(), ..Setup::default() };
    lab.pair(&small, p);
    lab.write(p, 15 << 20, 65536);
    lab.reconfigure(&Setup { disk: "size 24M;".to_owned(), ..Setup::default() });
    // What lies there differs until it is copied.
    let noise = lab.noise(65536);
    lab.nodes[1 - p].spoil_disk(20 << 20, &noise);
    lab.nodes[p].ok("resize r0");
    lab.connected(p);
    let data = lab.write(p, 23 << 20, 65536);
    assert!(lab.nodes[p].read(23 << 20, 65536).expect("a read in the new part") == data);
    lab.finish();
    "16 to 24 MiB".to_owned()
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
