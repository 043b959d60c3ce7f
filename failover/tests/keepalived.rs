//! Our virtual routers beside keepalived's, on one segment (failover 9.3). Needs root and keepalived.
//!
//! Times are printed, and compared with about five times what failover 1.16 says: the machine may be busy.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

mod segment;
mod support;

use std::time::{Duration, Instant};

use Kind::{Keepalived, Ours};
use segment::{Kind, Segment, Settings, VIP, Watch, router};

/// Not a test: our router, when this program is started as one.
#[test]
fn our_router() {
    router::run_ours();
}

const START: Duration = Duration::from_secs(30);
const S: Duration = Duration::from_secs(1);

/// For how long both may have the address when a better master takes over: the advert that says so has to arrive.
const HANDOVER: Duration = Duration::from_secs(2);

fn with(priority: u8) -> Settings<'static> {
    Settings { priority, ..Settings::default() }
}

/// A master on node 1 and a backup on node 2 that has heard it.
fn pair(
    segment: &Segment,
    watch: &Watch,
    kinds: (Kind, Kind),
    texts: (&str, &str),
) -> (segment::Router, segment::Router) {
    let began = Instant::now();
    let master = segment.start(kinds.0, 1, texts.0);
    watch.after(began, 1, true, START);
    let backup = segment.start(kinds.1, 2, texts.1);
    if kinds.1 == Keepalived {
        assert!(backup.says("Entering BACKUP STATE"));
    } else {
        assert!(backup.says("BACKUP, priority"));
    }
    settled(watch);
    (master, backup)
}

/// Node 1 is the only master, and not just for a moment: on a busy machine it may need a second start.
fn settled(watch: &Watch) {
    let end = Instant::now() + START;
    let mut since = None;
    while since.is_none_or(|since: Instant| since.elapsed() < S) {
        assert!(Instant::now() < end, "there is not one master: {:?}", watch.seen());
        let is_so = watch.has(1) && !watch.has(2);
        since = is_so.then(|| since.unwrap_or_else(Instant::now));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The master is killed, and comes back.
fn killed(kinds: (Kind, Kind), common: &Settings<'_>, address: &str, limit: Duration) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, address);
    let (master, backup) = kinds;
    let text = |priority| Settings { priority, ..common.clone() }.text();
    let (mut first, _second) = pair(&segment, &watch, kinds, (&text(101), &text(100)));
    let at = first.kill();
    let taken = watch.after(at, 2, true, limit);
    let (version, interval) = (common.version, common.interval);
    println!("v{version} {interval} s {address}: {master:?} killed, {backup:?} has it after {taken:?}");
    if master == Ours {
        let gone = watch.after(at, 1, false, 10 * S);
        println!("  and the dead one's is gone after {gone:?}");
        assert!(gone < 4 * S);
    }
    let there = segment.nodes[1].ip(&["-o", "addr", "show", "dev", "eth0"]);
    let usable = there.lines().filter(|line| line.contains(address)).all(|line| !line.contains("dadfailed"));
    assert!(usable, "the dead one's kernel objects: {there}");
    if address == VIP {
        segment.clean(1);
    }
    let at = Instant::now();
    let _first = segment.start(master, 1, &text(101));
    let back = watch.after(at, 1, true, START);
    let yielded = watch.after(at, 2, false, START);
    println!("  it is back after {back:?}; both have it for {:?}", watch.doubled(at));
    assert!(yielded < back + HANDOVER);
}

#[test]
fn v3_a_killed_keepalived_is_followed_by_ours() {
    killed((Keepalived, Ours), &Settings::default(), VIP, 5 * S);
}

#[test]
fn v3_a_killed_router_of_ours_is_followed_by_keepalived() {
    killed((Ours, Keepalived), &Settings::default(), VIP, 5 * S);
}

const V2: Settings<'static> = Settings {
    version: 2,
    interval: "1",
    priority: 0,
    vip: "10.77.0.100/32",
    password: Some("1111"),
    more: "",
    blocks: "",
};

#[test]
fn v2_a_killed_keepalived_is_followed_by_ours() {
    killed((Keepalived, Ours), &V2, VIP, 15 * S);
}

#[test]
fn v2_a_killed_router_of_ours_is_followed_by_keepalived() {
    killed((Ours, Keepalived), &V2, VIP, 15 * S);
}

const V6: Settings<'static> = Settings {
    version: 3,
    interval: "0.1",
    priority: 0,
    vip: "fe80::77:100/64\n fd00:77::100/64",
    password: None,
    more: "",
    blocks: "",
};

#[test]
fn ipv6_a_killed_keepalived_is_followed_by_ours() {
    killed((Keepalived, Ours), &V6, "fd00:77::100", 5 * S);
}

#[test]
fn ipv6_a_killed_router_of_ours_is_followed_by_keepalived() {
    killed((Ours, Keepalived), &V6, "fd00:77::100", 5 * S);
}

/// The master ends in peace.
fn stopped(kinds: (Kind, Kind)) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let (mut first, _second) = pair(&segment, &watch, kinds, (&with(101).text(), &with(100).text()));
    let at = first.stop();
    let (gone, taken) = (watch.after(at, 1, false, 5 * S), watch.after(at, 2, true, 5 * S));
    println!(
        "v3 0.1 s: {:?} stopped, its address gone after {gone:?}, {:?} has it after {taken:?}",
        kinds.0, kinds.1
    );
    assert!(watch.doubled(at) < HANDOVER);
}

#[test]
fn a_stopped_keepalived_is_followed_by_ours() {
    stopped((Keepalived, Ours));
}

#[test]
fn a_stopped_router_of_ours_is_followed_by_keepalived() {
    stopped((Ours, Keepalived));
}

/// The cable of the master is pulled at the switch, and put in again: while it is out both are masters of their side, as
/// nobody could know otherwise; the interface of the master has no carrier, which is a fault.
fn cut(kinds: (Kind, Kind)) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let _pair = pair(&segment, &watch, kinds, (&with(101).text(), &with(100).text()));
    let at = Instant::now();
    segment.cable(1, false);
    let taken = watch.after(at, 2, true, 5 * S);
    let gone = watch.after(at, 1, false, 5 * S);
    println!(
        "{:?} cut off: {:?} has the address after {taken:?}, its own is gone after {gone:?}",
        kinds.0, kinds.1
    );
    std::thread::sleep(S);
    let at = Instant::now();
    segment.cable(1, true);
    let back = watch.after(at, 1, true, 10 * S);
    watch.after(at, 2, false, 10 * S);
    println!("  healed: back after {back:?}; both have it for {:?}", watch.doubled(at));
    assert!(watch.doubled(at) < HANDOVER);
}

#[test]
fn keepalived_is_cut_off_and_comes_back() {
    cut((Keepalived, Ours));
}

#[test]
fn ours_is_cut_off_and_comes_back() {
    cut((Ours, Keepalived));
}

/// The priority of the backup rises above the master's, and falls again.
fn priority(kinds: (Kind, Kind)) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let (_first, second) = pair(&segment, &watch, kinds, (&with(101).text(), &with(100).text()));
    for (priority, winner, loser) in [(150, 2, 1), (90, 1, 2)] {
        let at = Instant::now();
        second.reload(&with(priority).text());
        let taken = watch.after(at, winner, true, 10 * S);
        watch.after(at, loser, false, 10 * S);
        let doubled = watch.doubled(at);
        println!(
            "{:?} with {priority} beside {:?} with 101: after {taken:?}; both for {doubled:?}",
            kinds.1, kinds.0
        );
        assert!(doubled < HANDOVER);
    }
}

#[test]
fn ours_changes_its_priority_beside_keepalived() {
    priority((Keepalived, Ours));
}

#[test]
fn keepalived_changes_its_priority_beside_ours() {
    priority((Ours, Keepalived));
}

/// For what must not happen: a router that gets no processor for MasterDown steps back.
const SLOWER: Settings<'static> =
    Settings { interval: "0.5", priority: 100, password: None, version: 3, ..V2 };

/// A better router that must not preempt leaves the master alone, and takes over when that is gone.
fn nopreempt(kinds: (Kind, Kind)) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let better = Settings { priority: 150, more: "state BACKUP\n nopreempt\n", ..SLOWER }.text();
    let (mut first, _second) = pair(&segment, &watch, kinds, (&SLOWER.text(), &better));
    std::thread::sleep(4 * S);
    assert!(watch.has(1) && !watch.has(2));
    let at = first.kill();
    println!(
        "nopreempt: {:?} killed, {:?} has it after {:?}",
        kinds.0,
        kinds.1,
        watch.after(at, 2, true, 5 * S)
    );
}

#[test]
fn ours_does_not_preempt_keepalived_if_told_so() {
    nopreempt((Keepalived, Ours));
}

#[test]
fn keepalived_does_not_preempt_ours_if_told_so() {
    nopreempt((Ours, Keepalived));
}

/// Unicast, where each has to name the other.
fn unicast(kinds: (Kind, Kind)) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let text = |priority, own, other| {
        let more = format!("unicast_src_ip 10.77.0.{own}\n unicast_peer {{\n 10.77.0.{other}\n }}\n");
        Settings { priority, more: &more, ..Settings::default() }.text()
    };
    let (mut first, _second) = pair(&segment, &watch, kinds, (&text(101, 1, 2), &text(100, 2, 1)));
    let at = first.kill();
    println!(
        "unicast: {:?} killed, {:?} has it after {:?}",
        kinds.0,
        kinds.1,
        watch.after(at, 2, true, 5 * S)
    );
}

#[test]
fn unicast_from_keepalived_is_heard_by_ours() {
    unicast((Keepalived, Ours));
}

#[test]
fn unicast_from_ours_is_heard_by_keepalived() {
    unicast((Ours, Keepalived));
}

#[test]
fn a_paused_router_of_ours_loses_its_address_and_does_not_speak_when_it_goes_on() {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let better = with(101).text();
    let (first, _second) = pair(&segment, &watch, (Ours, Keepalived), (&better, &with(100).text()));
    // It comes back without being the better one: who is master afterwards is no matter of priorities.
    let at = Instant::now();
    first.pause(true);
    let (taken, gone) = (watch.after(at, 2, true, 5 * S), watch.after(at, 1, false, 5 * S));
    println!("ours paused: keepalived has the address after {taken:?}, ours has lost it after {gone:?}");
    let before = first.log();
    first.pause(false);
    assert!(first.says("steps back"), "it goes on as if nothing had been");
    let log = first.log();
    let after = &log[before.len()..];
    assert!(
        after.find("MASTER, priority").is_none_or(|at| at > after.find("BACKUP, priority").unwrap()),
        "{after}"
    );
}

/// Two of ours that disagree: one of them is master, the other one says why it is not.
fn disagree(first: &Settings<'_>, second: &Settings<'_>, second_vip: &str, starts: Duration) {
    let segment = Segment::new(2);
    let (watch, other) = (Watch::new(&segment, VIP), Watch::new(&segment, second_vip));
    let began = Instant::now();
    let _first = segment.start(Ours, 1, &first.text());
    watch.after(began, 1, true, START);
    // The better one.
    let second = segment.start(Ours, 2, &Settings { priority: 200, ..second.clone() }.text());
    assert!(second.says("is not accepted"), "no alarm");
    std::thread::sleep(starts);
    assert!(!other.has(2) && watch.has(1), "both are masters");
    assert!(!second.log().contains("MASTER, priority"));
    assert!(second.says("stays Backup only because"), "nobody knows");
    assert!(second.log().contains("ERROR"));
}

#[test]
fn two_of_ours_with_other_addresses_are_not_both_master() {
    disagree(&SLOWER, &Settings { vip: "10.77.0.101/32", ..SLOWER }, "10.77.0.101", 5 * S);
}

#[test]
fn two_of_ours_with_other_passwords_are_not_both_master() {
    let first = Settings { priority: 100, ..V2 };
    disagree(&first, &Settings { password: Some("2222"), ..first.clone() }, VIP, 6 * S);
}

#[test]
fn two_of_ours_with_other_intervals_are_not_both_master() {
    let first = Settings { priority: 100, ..V2 };
    disagree(&first, &Settings { interval: "2", ..first.clone() }, VIP, 10 * S);
}

#[test]
fn ours_that_disagrees_with_keepalived_stays_backup_and_says_so() {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let began = Instant::now();
    let _first = segment.start(Keepalived, 1, &with(100).text());
    watch.after(began, 1, true, START);
    let text = Settings { vip: "10.77.0.100/32\n 10.77.0.101/32", ..with(200) }.text();
    let second = segment.start(Ours, 2, &text);
    assert!(second.says("is not accepted") && second.says("stays Backup only because"));
    std::thread::sleep(2 * S);
    assert!(!watch.has(2), "two masters");
}

/// Interfaces that come and go elsewhere on the machine keep the kernel's network configuration locked most of the time.
fn busy(kinds: (Kind, Kind)) {
    let segment = Segment::new(2);
    let watch = Watch::new(&segment, VIP);
    let _pair = pair(&segment, &watch, kinds, (&with(101).text(), &with(100).text()));
    let at = Instant::now();
    while at.elapsed() < 6 * S {
        let elsewhere = support::Namespace::new();
        let commands: String =
            (0..150).map(|n| format!("link add d{n} type veth peer name e{n}\nlink set d{n} up\n")).collect();
        let file = segment.file(9);
        std::fs::write(&file, commands).unwrap();
        elsewhere.ip(&["-batch", file.to_str().unwrap()]);
    }
    let moves = watch.seen().iter().filter(|seen| seen.at > at).count();
    println!("a busy kernel: the address of {:?} came or went {moves} times", kinds.0);
    settled(&watch);
}

#[test]
fn a_busy_kernel_does_not_move_the_address_of_ours() {
    busy((Ours, Keepalived));
}

/// Two instances that are master together, and one of the nodes loses the interface of one of them.
fn group(kinds: (Kind, Kind)) {
    let segment = Segment::new(2);
    let (watch, other) = (Watch::new(&segment, VIP), Watch::new(&segment, "10.78.0.100"));
    for (node, number) in segment.nodes.iter().zip(1..) {
        node.ip(&["link", "add", "eth1", "type", "veth", "peer", "name", "far1"]);
        node.ip(&["addr", "add", &format!("10.78.0.{number}/24"), "dev", "eth1"]);
        node.ip(&["link", "set", "far1", "up"]);
        node.ip(&["link", "set", "eth1", "up"]);
    }
    let text = |priority| {
        let second = format!(
            "vrrp_sync_group G1 {{\n group {{\n VI_1\n VI_2\n }}\n }}\nvrrp_instance VI_2 {{\n interface eth0\n \
             version 3\n virtual_router_id 52\n priority {priority}\n advert_int 0.1\n track_interface {{\n eth1\n }}\n \
             virtual_ipaddress {{\n 10.78.0.100/32 dev eth1\n }}\n }}\n"
        );
        Settings { priority, ..Settings::default() }.text() + &second
    };
    let _routers = pair(&segment, &watch, kinds, (&text(101), &text(100)));
    let at = Instant::now();
    segment.nodes[0].ip(&["link", "set", "far1", "down"]);
    let (first, second) = (watch.after(at, 2, true, 5 * S), other.after(at, 2, true, 5 * S));
    println!(
        "a group: {:?} lost an interface, {:?} has both after {first:?} and {second:?}",
        kinds.0, kinds.1
    );
    watch.after(at, 1, false, 5 * S);
    let at = Instant::now();
    segment.nodes[0].ip(&["link", "set", "far1", "up"]);
    watch.after(at, 1, true, 10 * S);
    watch.after(at, 2, false, 10 * S);
    other.after(at, 2, false, 10 * S);
    other.after(at, 1, true, 10 * S);
    assert!(watch.doubled(at) < HANDOVER);
}

#[test]
fn a_group_of_ours_goes_to_keepalived_as_a_whole() {
    group((Ours, Keepalived));
}

#[test]
fn a_group_of_keepalived_goes_to_ours_as_a_whole() {
    group((Keepalived, Ours));
}
