//! A Primary that loses its peer under `fencing resource-and-stonith`: its clients wait for the fence-peer handler, and what
//! that says decides.

use crate::lab::{LONG, Lab, Setup};

/// Exit code of the handler, what is logged of it, and what the Primary takes its peer's disk for then.
const EXIT_CODES: &[(u8, &str, &str)] = &[
    (3, "peer is inconsistent or worse", "Inconsistent"),
    (4, "peer was fenced", "Outdated"),
    (5, "peer is unreachable, assumed to be dead", "Outdated"),
    (7, "peer was stonithed", "Outdated"),
    (6, "peer is active", "DUnknown"),
    (1, "fence-peer helper broken, returned 1", "DUnknown"),
    (0, "fence-peer helper broken, returned 0", "DUnknown"),
];
const FROZEN: &str = " s-";

/// Every exit code; clients are frozen until then, and after one that does not say that the peer is gone until an operator lets
/// them go on.
pub fn exit_codes(lab: &mut Lab, p: usize) -> String {
    for (code, text, pdsk) in EXIT_CODES {
        let sections = format!("handlers {{ fence-peer \"sleep 2; exit {code}\"; }}");
        let disk = "fencing resource-and-stonith;".to_owned();
        lab.pair(&Setup { sections, disk, ..Setup::default() }, p);
        lab.nodes[p].mark_log();
        let load = lab.nodes[p].load("--bs=4k --iodepth=8", 8).begun();
        lab.cut(1 - p);
        let primary = &lab.nodes[p];
        primary.until(LONG, || primary.proc().contains(FROZEN), || primary.proc());
        assert!(!primary.logged(text), "frozen before the handler has answered: {}", primary.new_log());
        primary.wait_log(text, LONG);
        lab.nodes[p].wait(&format!("WFConnection Primary/Unknown UpToDate/{pdsk}"), LONG);
        let is_frozen = lab.nodes[p].proc().contains(FROZEN);
        assert_eq!(is_frozen, *pdsk == "DUnknown", "{code}: {}", lab.nodes[p].proc());
        if is_frozen {
            lab.nodes[p].ok("resume-io r0");
        }
        load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
        lab.heal();
        lab.connected(p);
        lab.finish();
    }
    format!("{} exit codes", EXIT_CODES.len())
}
