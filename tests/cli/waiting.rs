//! Commands that wait, and who does not wait for them.

use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::node::Node;
use lockstep::daemon::control::{Action, Request, WaitLimits};

/// At boot every resource has somebody who waits for its peer, and somebody may be watching. What they wait for may need
/// a command, as may whoever fences this node.
#[test]
fn who_waits_or_watches_keeps_no_place_from_commands() {
    let node = Node::start("");
    node.create_and_up();
    let action = Action::Wait { sync: false, limits: WaitLimits::default() };
    let wait = Request::Run { action, targets: vec!["r0".into()] };
    let watch = Request::Watch { targets: Vec::new() };
    let _others: Vec<UnixStream> = (0..140).map(|n| node.ask([&wait, &watch][n % 2])).collect();
    assert_eq!(node.good(&["cstate", "r0"]), "WFConnection\n");
}

/// A cluster manager tries it again and again. Two nodes may fence each other: each waits for what the other is asked to do.
#[test]
fn promotions_that_wait_for_a_handler_keep_no_place_from_commands() {
    let node = Node::start("");
    node.create_and_up();
    node.good(&["primary", "--force", "r0"]);
    node.good(&["down", "r0"]);
    // It ends behind the limit of the test.
    let sections = "disk { fencing resource-only; } handlers { fence-peer \"exec sleep 45\"; }";
    node.configure("net {  }", sections);
    node.good(&["up", "r0"]);
    let primary = Request::Run { action: Action::Primary { force: false }, targets: vec!["r0".into()] };
    let mut tries: Vec<UnixStream> = (0..140).map(|_| node.ask(&primary)).collect();
    // Half of those who asked do not wait for the answer.
    tries.truncate(70);
    assert_eq!(node.good(&["dstate", "r0"]), "Consistent/DUnknown\n");
    assert_eq!(node.run(&["outdate", "r0"]), (0, "".into(), "".into()));
    assert_eq!(node.good(&["dstate", "r0"]), "Outdated/DUnknown\n");
}

#[test]
fn a_wait_has_the_limits_that_the_file_names_now() {
    let node = Node::start("");
    node.create_and_up();
    node.configure("net {  }", "net {  } startup { wfc-timeout 1; }");
    let (exit, _, err) = node.run(&["wait-connect", "r0"]);
    assert_eq!(exit, 5, "{err}");
}

/// A node that comes back without having met its peer waits less for it; a Primary that takes its disk back has not been away.
#[test]
fn a_wait_of_a_degraded_node_is_shorter() {
    let wait = ["wait-connect", "--wfc-timeout=4", "--degr-wfc-timeout=1", "r0"];
    let waits = |node: &Node| {
        let begun = Instant::now();
        assert_eq!(node.run(&wait).0, 5, "nobody comes");
        begun.elapsed()
    };
    let mut node = Node::start("");
    node.create_and_up();
    node.good(&["primary", "--force", "r0"]);
    node.good(&["detach", "--force", "r0"]);
    node.good(&["attach", "r0"]);
    assert_eq!(node.good(&["dstate", "r0"]), "UpToDate/DUnknown\n");
    let took = waits(&node);
    assert!(took >= Duration::from_secs(4), "{took:?}");
    node.restart();
    node.good(&["up", "r0"]);
    let took = waits(&node);
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
}

/// The resource that it waited for is taken down by somebody else.
#[test]
fn a_wait_ends_with_the_resource() {
    let node = Node::start("");
    node.create_and_up();
    node.good(&["disconnect", "r0"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| node.run(&["wait-connect", "--wait-after-sb", "r0"]));
        sleep(Duration::from_millis(300));
        node.good(&["down", "r0"]);
        let (exit, _, err) = waiting.join().unwrap();
        assert_eq!(exit, 10, "{err}");
        assert!(err.contains("0: Failure: (127) Device minor not allocated"), "{err}");
    });
}
