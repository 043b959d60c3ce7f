//! Online verify.

use crate::lab::{LONG, Lab, Setup};

fn setup() -> Setup {
    Setup { net: "verify-alg sha1;".to_owned(), ..Setup::default() }
}

/// Equal copies: nothing is found, whoever begins.
pub fn clean(lab: &mut Lab, p: usize) -> String {
    lab.pair(&setup(), p);
    lab.write(p, 3 << 20, 1 << 20);
    for by in [p, 1 - p] {
        lab.nodes[by].mark_log();
        lab.nodes[by].ok("verify r0");
        lab.nodes[by].wait_log("Online verify done", LONG);
        lab.connected(p);
        for node in &lab.nodes {
            assert_eq!(node.figure("oos"), 0, "{}", node.name);
        }
    }
    lab.finish();
    String::new()
}

/// Blocks that differ are found by either side, seen by both, and healed by a new connection.
pub fn differences(lab: &mut Lab, p: usize) -> String {
    lab.pair(&setup(), p);
    lab.write(p, 3 << 20, 1 << 20);
    for by in [p, 1 - p] {
        let noise = lab.noise(4096);
        for at in [4096, 3 << 20, (3 << 20) + 4096, 20 << 20] {
            lab.nodes[1 - p].spoil_disk(at, &noise);
        }
        lab.nodes[by].mark_log();
        lab.nodes[by].ok("verify r0");
        lab.nodes[by].wait_log("Online verify done", LONG);
        lab.connected(p);
        for node in &lab.nodes {
            node.wait_figure("oos", 16, LONG);
        }
        lab.nodes[1 - p].ok("disconnect r0");
        lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
        lab.nodes[1 - p].ok("connect r0");
        lab.connected(p);
        for node in &lab.nodes {
            node.wait_figure("oos", 0, LONG);
        }
    }
    lab.finish();
    "4 blocks found twice".to_owned()
}
