//! A switch, two nodes and a third machine as network namespaces; the nodes have a link of their own for replication.

#![allow(dead_code)] // each test uses its part
#![allow(clippy::unwrap_used, reason = "helpers of tests only")]

use std::fs::File;
use std::process::Command;

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

    /// Of node `i` (0 or 1), or the third machine (2), on the switch.
    pub fn mac(&self, i: usize) -> [u8; 6] {
        let line = sh(&format!("ip -n {} -o link show dev eth0", self.name(&(i + 1).to_string())));
        let text = line.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let octets: Vec<u8> = text.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
        octets.try_into().unwrap()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        for suffix in ["1", "2", "3", "sw"] {
            let _ = Command::new("ip").args(["netns", "del", &self.name(suffix)]).status();
        }
    }
}
