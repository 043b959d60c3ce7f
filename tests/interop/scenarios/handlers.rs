//! The handler scripts that come with drbd-utils, on both nodes: as they are, but for two that read /proc/drbd. What they call is there in a form that writes down
//! how it was called: `mail`, `ssh`, the commands of LVM. `drbdadm` is the node's own.

use crate::lab::{LONG, Lab, Setup};
use crate::node::Node;

const SECTIONS: &str = r#"handlers {
    split-brain "/usr/lib/drbd/notify-split-brain.sh root";
    out-of-sync "/usr/lib/drbd/notify-out-of-sync.sh root";
    local-io-error "/usr/lib/drbd/notify-io-error.sh root";
    before-resync-target "/usr/local/lib/drbd/snapshot-resync-target-lvm.sh -p 15 -- -c 16k";
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
tool stonith_admin 'exit 0'
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

/// Copies of scripts that read /proc/drbd, as docs/migrate-from-drbd.md makes them beside lockstep.
fn copy_readers(node: &Node) {
    let proc = if node.is_kernel() { "/proc/drbd" } else { "/run/lockstep/proc-drbd" };
    node.run(&format!(
        "mkdir -p /usr/local/lib/drbd
for s in snapshot-resync-target-lvm.sh stonith_admin-fence-peer.sh; do
  sed s,/proc/drbd,{proc}, /usr/lib/drbd/$s >/usr/local/lib/drbd/$s && chmod +x /usr/local/lib/drbd/$s || exit
done"
    ));
}

/// A script of drbd-utils that shoots the peer, if /proc/drbd says that the own disk is UpToDate: with us a copy that looks
/// into the run directory. Clients are frozen until it has.
pub fn stonith_script(lab: &mut Lab, p: usize) -> String {
    let setup = Setup {
        disk: "fencing resource-and-stonith;".to_owned(),
        sections: "handlers { fence-peer \"/usr/local/lib/drbd/stonith_admin-fence-peer.sh\"; }".to_owned(),
        ..Setup::default()
    };
    for node in &lab.nodes {
        node.run(TOOLS);
        copy_readers(node);
    }
    lab.pair(&setup, p);
    lab.nodes[p].mark_log();
    let load = lab.nodes[p].load("--bs=4k --iodepth=8", 8).begun();
    lab.cut(1 - p);
    let (primary, shot) = (&lab.nodes[p], lab.nodes[1 - p].name);
    wait_said(primary, &format!("stonith_admin --tolerance 5s --tag drbd --fence {shot}"));
    primary.wait_log("fence-peer helper returned 7 (peer was stonithed)", LONG);
    primary.wait("WFConnection Primary/Unknown UpToDate/Outdated", LONG);
    let kib = load.finish().unwrap_or_else(|e| panic!("the load: {e}"));
    lab.heal();
    lab.connected(p);
    lab.finish();
    format!("{kib} KiB of load")
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
        copy_readers(node);
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
    wait_said(&lab.nodes[s], "lvcreate -s");
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
