//! A switch, two nodes and a third machine as network namespaces; the nodes have a link of their own for replication.

#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used, reason = "helpers of tests only")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// The virtual address of the segment.
pub const ADDRESS: &str = "10.88.0.100";

/// For `net { }`: a peer that says nothing is given up soon.
pub const NET: &str = "ping-timeout 2; connect-int 1; ping-int 1; timeout 9;";

/// The instance `VI_1`, which has [`ADDRESS`] and adverts ten times a second.
pub fn router() -> String {
    format!(
        "vrrp_instance VI_1 {{\n version 3\n interface eth0\n virtual_router_id 51\n priority 100\n \
         advert_int 0.1\n virtual_ipaddress {{\n  {ADDRESS}/24\n }}\n}}\n"
    )
}

/// See [`Watch::longest_double`].
pub const A_MOMENT: Duration = Duration::from_millis(20);

/// Runs a script that has to succeed; returns what it printed.
pub fn sh(script: &str) -> String {
    let o = Command::new("/bin/bash").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&o.stdout).into_owned();
    assert!(o.status.success(), "{script}: {}\n{text}{}", o.status, String::from_utf8_lossy(&o.stderr));
    text
}

/// Nodes 10.88.0.1 and .2, a third machine .3; replication over 10.89.0.1 and .2.
pub struct Segment {
    prefix: String,
}

impl Segment {
    /// Lays all cables.
    pub fn new() -> Segment {
        let prefix = format!("lsa{}", std::process::id());
        let segment = Segment { prefix };
        let sw = segment.name("sw");
        sh(&format!(
            "ip netns add {sw}; ip -n {sw} link add br0 type bridge forward_delay 0 mcast_snooping 0; ip -n {sw} link set br0 up"
        ));
        for i in 1..=3 {
            let n = segment.name(&i.to_string());
            sh(&format!(
                "ip netns add {n}; ip -n {n} link set lo up
                ip link add name eth0 netns {n} type veth peer name p{i} netns {sw}
                ip -n {sw} link set p{i} master br0 up
                ip -n {n} addr add 10.88.0.{i}/24 brd + dev eth0; ip -n {n} link set eth0 up"
            ));
        }
        let (a, b) = (segment.name("1"), segment.name("2"));
        sh(&format!(
            "ip link add name rep0 netns {a} type veth peer name rep0 netns {b}
            ip -n {a} addr add 10.89.0.1/24 dev rep0; ip -n {a} link set rep0 up
            ip -n {b} addr add 10.89.0.2/24 dev rep0; ip -n {b} link set rep0 up"
        ));
        segment
    }

    /// A namespace: `1`, `2`, `3` or `sw`.
    pub fn name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.prefix)
    }

    /// Those of the nodes.
    pub fn nodes(&self) -> [Option<String>; 2] {
        ["1", "2"].map(|suffix| Some(self.name(suffix)))
    }

    /// What a thread enters it by.
    pub fn file(&self, suffix: &str) -> File {
        File::open(format!("/run/netns/{}", self.name(suffix))).unwrap()
    }

    /// Where the nodes replicate.
    pub fn replication(&self) -> [String; 2] {
        ["10.89.0.1:7788".into(), "10.89.0.2:7788".into()]
    }

    /// Pulls the cable of node `i` (0 or 1) to the switch, or puts it back.
    pub fn cut_clients(&self, i: usize, cut: bool) {
        let state = if cut { "down" } else { "up" };
        sh(&format!("ip -n {} link set p{} {state}", self.name("sw"), i + 1));
    }

    /// Pulls the cable between the nodes, or puts it back.
    pub fn cut_replication(&self, cut: bool) {
        let state = if cut { "down" } else { "up" };
        sh(&format!("ip -n {} link set rep0 {state}", self.name("1")));
    }

    /// The kernel of node `i` (0 or 1) has the address.
    pub fn has_address(&self, i: usize) -> bool {
        let n = self.name(&(i + 1).to_string());
        let out =
            Command::new("ip").args(["-n", &n, "-4", "-o", "addr", "show", "dev", "eth0"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).contains(&format!("{ADDRESS}/"))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        for suffix in ["1", "2", "3", "sw"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(suffix)]).status();
        }
    }
}

/// The address came to a node, or left it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub at: Instant,
    /// 0 or 1.
    pub node: usize,
    pub is_here: bool,
}

/// Writes down who has the address, as the kernels tell it.
pub struct Watch {
    seen: Arc<Mutex<Vec<Seen>>>,
    monitors: Vec<Child>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// From now on.
    pub fn new(segment: &Segment) -> Watch {
        let mut watch = Watch { seen: Arc::default(), monitors: Vec::new(), threads: Vec::new() };
        for node in 0..2 {
            let n = segment.name(&(node + 1).to_string());
            let mut monitor = Command::new("ip")
                .args(["-n", &n, "-4", "-o", "monitor", "address"])
                .stdout(Stdio::piped())
                .spawn()
                .expect("ip (package iproute2)");
            let lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
            watch.monitors.push(monitor);
            let seen = watch.seen.clone();
            watch.threads.push(std::thread::spawn(move || {
                for line in lines.map_while(Result::ok).filter(|l| l.contains(&format!(" {ADDRESS}/"))) {
                    note(&seen, node, !line.starts_with("Deleted"));
                }
            }));
            // What was there before the monitor listened is noted too.
            sleep(Duration::from_millis(200));
            if segment.has_address(node) {
                note(&watch.seen, node, true);
            }
        }
        watch
    }

    /// Everything so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Who has it now.
    pub fn holders(&self) -> Vec<usize> {
        let seen = self.seen();
        let has = |node: &usize| seen.iter().rfind(|s| s.node == *node).is_some_and(|s| s.is_here);
        (0..2).filter(has).collect()
    }

    /// When it first came to a node after a time.
    pub fn came(&self, node: usize, after: Instant) -> Option<Duration> {
        let seen = self.seen();
        seen.iter().find(|s| s.node == node && s.is_here && s.at >= after).map(|s| s.at - after)
    }

    /// For how long two nodes had it at once, at most. Up to [`A_MOMENT`] is none: what two watchers saw may be exchanged, and a
    /// daemon that is stopped between its last look at the clock and the kernel puts the address back when it goes on, sees what it
    /// did and takes it away.
    pub fn longest_double(&self) -> Duration {
        let mut here = [false; 2];
        let (mut since, mut longest) = (None, Duration::ZERO);
        for s in self.seen() {
            here[s.node] = s.is_here;
            match (here, since) {
                ([true, true], None) => since = Some(s.at),
                ([true, true], Some(_)) => {}
                (_, Some(begun)) => {
                    longest = longest.max(s.at - begun);
                    since = None;
                }
                (_, None) => {}
            }
        }
        longest.max(since.map_or(Duration::ZERO, |s: Instant| s.elapsed()))
    }
}

/// A renewal is no news.
fn note(seen: &Mutex<Vec<Seen>>, node: usize, is_here: bool) {
    let mut seen = seen.lock().unwrap();
    let was_here = seen.iter().rfind(|s| s.node == node).is_some_and(|s| s.is_here);
    if was_here != is_here {
        seen.push(Seen { at: Instant::now(), node, is_here });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for m in &mut self.monitors {
            let _ = m.kill();
            let _ = m.wait();
        }
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}
