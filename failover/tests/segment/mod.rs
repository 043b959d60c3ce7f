//! A segment as in failover 9.1: nodes in network namespaces at a bridge, real routers on them, and somebody who writes
//! down where the virtual address is. Includes [`crate::support`].

#![allow(dead_code, reason = "not every program that includes it uses all of it")]

pub mod router;
pub mod watch;

use std::path::PathBuf;

pub use router::{Kind, Router};
#[allow(unused_imports, reason = "heartbeat has no addresses")]
pub use watch::Watch;

use crate::support::{Namespace, wait_for_carrier};

/// The virtual address of most tests.
pub const VIP: &str = "10.77.0.100";

/// Nodes at a bridge. Node `n`, from 1 on, has `eth0` with 10.77.0.n.
pub struct Segment {
    pub nodes: Vec<Namespace>,
    switch: Namespace,
    directory: tempfile::TempDir,
}

impl Segment {
    pub fn new(count: usize) -> Segment {
        let switch = Namespace::new();
        switch.ip(&["link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"]);
        switch.ip(&["link", "set", "br0", "up"]);
        let nodes: Vec<Namespace> = (0..count).map(|_| Namespace::new()).collect();
        for (node, number) in nodes.iter().zip(1..) {
            let (mac, port) = (format!("02:00:00:00:00:{number:02x}"), format!("p{number}"));
            #[rustfmt::skip]
            node.ip(&[
                "link", "add", "eth0", "address", &mac, "type", "veth",
                "peer", "name", &port, "netns", switch.name(),
            ]);
            switch.ip(&["link", "set", &port, "master", "br0", "up"]);
            node.ip(&["addr", "add", &format!("10.77.0.{number}/24"), "brd", "+", "dev", "eth0"]);
            node.ip(&["link", "set", "eth0", "up"]);
        }
        nodes.iter().for_each(wait_for_carrier);
        Segment { nodes, switch, directory: tempfile::tempdir().unwrap() }
    }

    /// Pulls the cable of a node at the switch, or puts it in again.
    pub fn cable(&self, node: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        self.switch.ip(&["link", "set", &format!("p{node}"), state]);
    }

    /// Starts a router with a configuration.
    pub fn start(&self, kind: Kind, node: usize, config: &str) -> Router {
        Router::start(kind, &self.nodes[node - 1], &self.file(node), config)
    }

    /// Whether a node has an address.
    pub fn has(&self, node: usize, address: &str) -> bool {
        let all = self.nodes[node - 1].ip(&["-o", "addr", "show", "dev", "eth0"]);
        all.split_whitespace().any(|word| word.split('/').next() == Some(address))
    }

    /// Removes what a keepalived that was killed has left (failover 9.4).
    pub fn clean(&self, node: usize) {
        if self.has(node, VIP) {
            self.nodes[node - 1].ip(&["addr", "del", &format!("{VIP}/32"), "dev", "eth0"]);
        }
    }

    /// Names files of a node.
    pub fn file(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("n{node}"))
    }
}

/// What a configuration of one instance says.
#[derive(Clone)]
pub struct Settings<'a> {
    pub version: u8,
    pub interval: &'a str,
    pub priority: u8,
    pub vip: &'a str,
    pub password: Option<&'a str>,
    /// More lines of the instance.
    pub more: &'a str,
    /// More blocks of the file.
    pub blocks: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Settings {
            version: 3,
            interval: "0.1",
            priority: 100,
            vip: VIP,
            password: None,
            more: "",
            blocks: "",
        }
    }
}

impl Settings<'_> {
    /// As keepalived.conf(5) wants it.
    pub fn text(&self) -> String {
        let Settings { version, interval, priority, vip, password, more, blocks } = self;
        let password = password.map_or(String::new(), |password| {
            format!("authentication {{\n auth_type PASS\n auth_pass {password}\n }}\n")
        });
        format!(
            "{blocks}\nvrrp_instance VI_1 {{\n interface eth0\n version {version}\n virtual_router_id 51\n \
             priority {priority}\n advert_int {interval}\n {password} {more}\n \
             virtual_ipaddress {{\n {vip}\n }}\n}}\n"
        )
    }
}
