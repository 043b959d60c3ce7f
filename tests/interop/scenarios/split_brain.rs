//! Both wrote alone.

use crate::lab::{LONG, Lab, Setup};

/// Both write while the link is down, then the Secondary steps down and the link is whole again.
fn apart(lab: &mut Lab, p: usize, net: &str) {
    lab.pair(&Setup { net: net.to_owned(), ..Setup::default() }, p);
    let s = 1 - p;
    lab.write(p, 1 << 20, 8192);
    lab.cut(s);
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].wait("WFConnection Secondary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].ok("primary r0");
    lab.write(p, 2 << 20, 8192);
    lab.write(s, 3 << 20, 8192);
    lab.nodes[s].ok("secondary r0");
    lab.heal();
}

/// Without a policy both refuse for good; an operator names the copy that is given up.
pub fn refused(lab: &mut Lab, p: usize) -> String {
    apart(lab, p, "");
    let s = 1 - p;
    lab.nodes[p].wait("StandAlone Primary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].wait("StandAlone Secondary/Unknown UpToDate/DUnknown", LONG);
    for node in &lab.nodes {
        node.wait_log("Split-Brain detected but unresolved, dropping connection!", LONG);
    }
    lab.nodes[s].ok("connect --discard-my-data r0");
    lab.nodes[p].ok("connect r0");
    lab.connected(p);
    lab.finish();
    String::new()
}

/// after-sb-1pri discard-secondary: solved by itself, the Primary's changes stay.
pub fn discard_secondary(lab: &mut Lab, p: usize) -> String {
    apart(lab, p, "after-sb-1pri discard-secondary;");
    lab.connected(p);
    lab.finish();
    String::new()
}

/// after-sb-0pri discard-zero-changes: only one side wrote after the split.
pub fn discard_zero_changes(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup { net: "after-sb-0pri discard-zero-changes;".to_owned(), ..Setup::default() }, p);
    let s = 1 - p;
    lab.cut(s);
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].wait("WFConnection Secondary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].ok("primary r0");
    let data = lab.write(p, 2 << 20, 8192);
    lab.nodes[s].ok("secondary r0");
    lab.nodes[p].ok("secondary r0");
    lab.heal();
    lab.settled("Secondary/Secondary");
    lab.nodes[s].ok("primary r0");
    assert!(lab.nodes[s].read(2 << 20, 8192).expect("a read") == data, "the changes of the one that wrote");
    lab.finish();
    String::new()
}
