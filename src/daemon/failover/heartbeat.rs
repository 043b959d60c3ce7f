//! heartbeat's membership: who is alive beside the replication link, for services and for people.

use std::fmt::Write;

use failover::driver::heartbeat::{HeartbeatHandle, HeartbeatSettings};
use failover::driver::now;
use failover::heartbeat::{MembershipStatus, Node, NodeState};
use model::failover::config::FailoverConfig;
use model::time::Instant;
use tokio::sync::watch;
use tracing::warn;

/// The running membership.
pub struct Heartbeat {
    handle: HeartbeatHandle,
    status: watch::Receiver<MembershipStatus>,
}

/// Starts it as the node `host`, if it is configured. Must run in a `LocalSet`.
///
/// # Errors
/// `host` is none of the nodes.
pub fn start(config: &FailoverConfig, host: &str) -> anyhow::Result<Option<Heartbeat>> {
    let Some(membership) = config.heartbeat.clone() else { return Ok(None) };
    for service in &config.services {
        let known = |name: &String| membership.nodes.iter().any(|node| node.eq_ignore_ascii_case(name));
        if service.preferred_node.as_ref().is_some_and(|name| !known(name)) {
            warn!("service {}: its preferred_node is not one of heartbeat's nodes", service.name);
        }
    }
    let handle =
        failover::driver::heartbeat::start(&HeartbeatSettings { membership, host: host.to_owned() })?;
    let status = handle.status();
    Ok(Some(Heartbeat { handle, status }))
}

impl Heartbeat {
    /// Who is alive, kept up to date.
    pub fn status(&self) -> watch::Receiver<MembershipStatus> {
        self.status.clone()
    }

    /// Says goodbye.
    pub async fn stop(&self) {
        self.handle.stop().await;
    }

    /// Each node in a line, and what was refused.
    pub fn status_text(&self) -> String {
        text(&self.status.borrow(), now())
    }
}

fn text(status: &MembershipStatus, at: Instant) -> String {
    let mut out = String::new();
    for node in &status.nodes {
        let _ = writeln!(out, "heartbeat: node {}: {}", node.name, words(node, at));
    }
    if let Some(why) = &status.last_refusal {
        let _ = writeln!(out, "    refused {} messages, the last one {why}", status.refused);
    }
    out
}

fn words(node: &Node, at: Instant) -> String {
    let seconds = |since: Instant| format!("{:.1} s", at.saturating_since(since).as_secs_f64());
    let since = seconds(node.since);
    match (node.state, node.heard) {
        (NodeState::Unknown, _) => format!("not heard yet, for {since}"),
        (NodeState::Up, Some(heard)) if node.late => format!("up, LATE: silent for {}", seconds(heard)),
        (NodeState::Up, _) => format!("up for {since}"),
        (NodeState::Dead, Some(heard)) => format!("dead for {since}, silent for {}", seconds(heard)),
        (NodeState::Dead, None) => format!("dead for {since}, never heard"),
        (NodeState::Left, _) => format!("has left, {since} ago"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_node_has_a_line() {
        let at = |ms| Instant(1_000_000_000) + Duration::from_millis(ms);
        let node = |state, heard, late| Node { name: "beta".into(), state, since: at(1000), heard, late };
        let rows = [
            (node(NodeState::Unknown, None, false), "not heard yet, for 3.0 s"),
            (node(NodeState::Up, Some(at(3500)), false), "up for 3.0 s"),
            (node(NodeState::Up, Some(at(1500)), true), "up, LATE: silent for 2.5 s"),
            (node(NodeState::Dead, Some(at(0)), false), "dead for 3.0 s, silent for 4.0 s"),
            (node(NodeState::Dead, None, false), "dead for 3.0 s, never heard"),
            (node(NodeState::Left, Some(at(1000)), false), "has left, 3.0 s ago"),
        ];
        for (node, words) in rows {
            let status = MembershipStatus { nodes: vec![node], refused: 0, last_refusal: None };
            assert_eq!(text(&status, at(4000)), format!("heartbeat: node beta: {words}\n"));
        }
        let why = Some("from 10.0.0.9:694: no".to_owned());
        let refused = MembershipStatus { nodes: vec![], refused: 2, last_refusal: why };
        assert_eq!(text(&refused, at(0)), "    refused 2 messages, the last one from 10.0.0.9:694: no\n");
    }
}
