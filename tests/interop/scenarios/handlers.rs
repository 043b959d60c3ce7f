//! The handler scripts that come with drbd-utils, as they are, on both nodes. What they call is there in a form that writes down
//! how it was called: `mail`, `ssh`, the commands of LVM. `drbdadm` is the node's own.

use crate::lab::{LONG, Lab, Setup};
use crate::node::Node;

const SECTIONS: &str = r#"handlers {
    split-brain "/usr/lib/drbd/notify-split-brain.sh root";
    out-of-sync "/usr/lib/drbd/notify-out-of-sync.sh root";
    local-io-error "/usr/lib/drbd/notify-io-error.sh root";
    before-resync-target "/usr/lib/drbd/snapshot-resync-target-lvm.sh -p 15 -- -c 16k";
    after-resync-target "/usr/lib/drbd/unsnapshot-resync-target-lvm.sh";
    fence-peer "/usr/lib/drbd/outdate-peer.sh on node1 10.99.0.1 on node2 10.99.0.2";
  }"#;

/// What the scripts call.
const TOOLS: &str = r#"
tool() { rm -f /usr/bin/$1 /usr/sbin/$1 /bin/$1 /sbin/$1; printf '#!/bin/sh\necho "%s $*" >>/run/said\n%s\n' "$1" "$2" >/usr/sbin/$1; chmod +x /usr/sbin/$1; }
tool mail 'cat >>/run/body'
tool ssh 'exit 0'
tool lvs 'echo vg0 data 65536'
tool lvcreate 'exit 0'
tool lvremove 'exit 0'
tool logger 'cat >/dev/null'
: >/run/said; : >/run/body
"#;

fn said(node: &Node) -> String {
    node.sh("grep -v '^logger' /run/said; cat /run/body").text
}

/// Waits until a tool was called with this.
fn wait_said(node: &Node, text: &str) {
    let instead = || format!("{text:?} is not in {}\n{}", said(node), node.log());
    node.until(LONG, || said(node).contains(text), instead);
}

/// A resync with a snapshot, differences that a verify finds, a peer that is fenced, a disk that fails, a split brain.
pub fn scripts(lab: &mut Lab, p: usize) -> String {
    let setup = Setup {
        net: "verify-alg sha1;".to_owned(),
        disk: "fencing resource-only; on-io-error call-local-io-error;".to_owned(),
        sections: SECTIONS.to_owned(),
        mapped: true,
        ..Setup::default()
    };
    lab.pair(&setup, p);
    for node in &lab.nodes {
        node.own_drbdadm();
        node.run(TOOLS);
    }
    let s = 1 - p;
    // Fenced, as it cannot be reached.
    lab.cut(s);
    lab.write(p, 1 << 20, 65536);
    wait_said(&lab.nodes[p], &format!("ssh 10.99.0.{} drbdadm outdate r0", s + 1));
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/Outdated", LONG);
    // Back again: a snapshot for as long as the resync takes.
    lab.heal();
    lab.connected(p);
    wait_said(&lab.nodes[s], "lvs --noheadings");
    if lab.nodes[s].is_kernel() {
        // It takes the size of the snapshot from /proc/drbd, which only a kernel module can make, and makes none without.
        wait_said(&lab.nodes[s], "lvcreate -s");
    }
    wait_said(&lab.nodes[s], "lvremove -f vg0/data-before-resync");
    // Differences.
    let noise = lab.noise(4096);
    lab.nodes[s].spoil_disk(8 << 20, &noise);
    lab.nodes[p].ok("verify r0");
    wait_said(&lab.nodes[p], "mail -s DRBD resource r0/0 (drbd0) has out-of-sync blocks root");
    // A disk that fails.
    lab.nodes[s].break_disk();
    lab.write(p, 2 << 20, 65536);
    wait_said(&lab.nodes[s], "mail -s DRBD resource r0/0 (drbd0) detected a local I/O error root");
    lab.nodes[p].wait("Connected Primary/Secondary UpToDate/Diskless", LONG);
    lab.nodes[s].mend_disk();
    lab.nodes[s].ok("attach r0");
    lab.connected(p);
    // A split brain.
    lab.cut(s);
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/Outdated", LONG);
    lab.nodes[s].wait("WFConnection Secondary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[s].ok("primary --force r0");
    lab.write(s, 4 << 20, 4096);
    lab.write(p, 4 << 20, 4096);
    lab.heal();
    for node in &lab.nodes {
        wait_said(node, "mail -s DRBD split brain on resource r0");
        wait_said(node, "Please rectify this immediately.");
    }
    "5 scripts".to_owned()
}
