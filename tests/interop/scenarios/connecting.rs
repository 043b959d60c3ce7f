//! Meeting: authentication, parameters that agree or do not, sizes.

use std::time::{Duration, Instant};

use crate::lab::{DISK_BYTES, LONG, Lab, Setup};

/// `wait-connect` ends at once on a connection, after the time of the `startup` section without one, and when one comes about.
pub fn wait_connect(lab: &mut Lab, p: usize) -> String {
    let startup = |seconds| {
        let sections = ["wfc-timeout", "degr-wfc-timeout", "outdated-wfc-timeout"];
        format!("startup {{ {} }}", sections.map(|o| format!("{o} {seconds};")).join(" "))
    };
    lab.pair(&Setup { sections: startup(2), ..Setup::default() }, p);
    lab.nodes[p].ok("wait-connect r0");
    lab.nodes[1 - p].ok("down r0");
    lab.nodes[p].wait("WFConnection Primary/Unknown UpToDate/DUnknown", LONG);
    let begun = Instant::now();
    let said = lab.nodes[p].adm("wait-connect r0");
    let waited = begun.elapsed();
    assert!(said.status == 5 && waited > Duration::from_millis(1900), "{said:?} after {waited:?}");
    lab.reconfigure(&Setup { sections: startup(30), ..Setup::default() });
    let [one, other] = [&lab.nodes[p], &lab.nodes[1 - p]];
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| one.adm("wait-connect r0"));
        other.ok("up r0");
        let said = waiting.join().expect("it ends");
        assert!(said.status == 0, "{said:?}");
    });
    lab.connected(p);
    lab.finish();
    format!("gave up after {:.1} s", waited.as_secs_f64())
}

/// Both come up with equal data and without a sync; a block written on either side of a role swap is on both.
pub fn connect(lab: &mut Lab, p: usize) -> String {
    lab.pair(&Setup::default(), p);
    lab.write(p, 4096, 8192);
    lab.finish();
    String::new()
}

/// Two empty disks are declared equal by a command on one node: both are UpToDate without a sync, in the same generation and
/// with no bit set, whoever was asked.
pub fn skip_initial_sync(lab: &mut Lab, p: usize) -> String {
    lab.met(&Setup::default());
    for node in &mut lab.nodes {
        node.mark_log();
    }
    lab.nodes[p].ok("new-current-uuid --clear-bitmap r0/0");
    lab.settled("Secondary/Secondary");
    let generations = lab.nodes.each_ref().map(|node| {
        assert_eq!(node.figure("oos"), 0, "{}", node.name);
        assert!(!node.logged("Began resync"), "{}: {}", node.name, node.log());
        node.ok("get-gi r0").split(':').take(2).map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(generations[0], generations[1]);
    assert_eq!(generations[0][1], "0000000000000000", "nothing is relative to an older one");
    lab.finish();
    String::new()
}

/// Authentication fails on both sides, which gives them up for good; with the right secret they meet.
pub fn wrong_secret(lab: &mut Lab, p: usize) -> String {
    let mut setup = Setup::default();
    setup.net_of[p] = "protocol C; shared-secret \"another\";".to_owned();
    setup.net_of[1 - p] = "protocol C;".to_owned();
    lab.begin(&setup);
    for node in &lab.nodes {
        node.ok("up r0");
    }
    for node in &lab.nodes {
        node.wait("StandAlone Secondary/Unknown Inconsistent/DUnknown", LONG);
    }
    lab.reconfigure(&Setup::default());
    for node in &lab.nodes {
        node.ok("down r0");
        node.ok("up r0");
    }
    for node in &lab.nodes {
        node.wait("Connected Secondary/Secondary Inconsistent/Inconsistent", LONG);
    }
    String::new()
}

/// Who asks for another protocol is refused for good: StandAlone, on the side that notices.
pub fn different_protocol(lab: &mut Lab, p: usize) -> String {
    let mut setup = Setup::default();
    setup.net_of[p] = "protocol C;".to_owned();
    setup.net_of[1 - p] = "protocol A;".to_owned();
    disagree(lab, &setup, "incompatible")
}

/// The same for the algorithm of a verify.
pub fn different_verify_alg(lab: &mut Lab, p: usize) -> String {
    let mut setup = Setup::default();
    setup.net_of[p] = "protocol C; verify-alg sha1;".to_owned();
    setup.net_of[1 - p] = "protocol C; verify-alg md5;".to_owned();
    disagree(lab, &setup, "verify-alg")
}

/// Both copies are good, and nothing joins their generations: both nodes refuse for good, whoever notices first.
pub fn unrelated_data(lab: &mut Lab, p: usize) -> String {
    lab.begin(&Setup::default());
    lab.cut(p);
    for i in 0..2 {
        // To the kernel two empty slots are alike, and nodes that have them a split brain.
        let own = (i as u64 + 1) << 32;
        lab.nodes[i].set_generations([2, 4, 6, 8].map(|n| own + (n << 8)));
        lab.nodes[i].ok("up r0");
    }
    lab.nodes[p].ok("primary r0");
    lab.write(p, 1 << 20, 4096);
    lab.heal();
    lab.nodes[p].wait("StandAlone Primary/Unknown UpToDate/DUnknown", LONG);
    lab.nodes[1 - p].wait("StandAlone Secondary/Unknown UpToDate/DUnknown", LONG);
    for node in &lab.nodes {
        node.wait_log("Unrelated data, aborting!", LONG);
    }
    // What an operator does then: one copy is made anew.
    lab.nodes[1 - p].ok("down r0");
    lab.nodes[1 - p].ok("create-md --force r0");
    lab.nodes[1 - p].ok("up r0");
    lab.nodes[p].ok("connect r0");
    lab.connected(p);
    lab.finish();
    String::new()
}

fn disagree(lab: &mut Lab, setup: &Setup, logged: &str) -> String {
    lab.begin(setup);
    for node in &lab.nodes {
        node.ok("up r0");
    }
    let until = std::time::Instant::now() + LONG;
    while lab.nodes.iter().all(|n| n.ok("cstate r0") != "StandAlone") {
        assert!(
            std::time::Instant::now() < until,
            "nobody gives up: {:?}",
            lab.nodes.each_ref().map(crate::node::Node::state)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    let states = lab.nodes.each_ref().map(|n| n.ok("cstate r0"));
    assert!(lab.nodes.iter().any(|n| n.logged(logged)), "{logged:?} is logged: {states:?}");
    format!("{} / {}", states[0], states[1])
}

/// The device is as large as the smaller disk allows.
pub fn smaller_disk(lab: &mut Lab, p: usize) -> String {
    let mut sizes = [DISK_BYTES; 2];
    sizes[1 - p] = DISK_BYTES - (8 << 20);
    let setup = Setup { disk_bytes: Some(sizes), ..Setup::default() };
    lab.pair(&setup, p);
    lab.write(p, 4096, 8192);
    let end = sizes[1 - p] - (1 << 20);
    lab.write(p, end, 4096);
    let beyond = lab.nodes[p].read(sizes[1 - p], 4096);
    assert!(beyond.as_ref().map_or(true, Vec::is_empty), "the device ends before that");
    lab.finish();
    String::new()
}
