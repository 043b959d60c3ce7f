//! The block `heartbeat`.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;

use super::{Printer, word};
use crate::failover::heartbeat::{AuthKey, HeartbeatMembership, Medium};

/// Seconds, or milliseconds where they are not whole, as ha.cf has them.
fn ha_time(time: Duration) -> String {
    if time.subsec_nanos() == 0 { time.as_secs().to_string() } else { format!("{}ms", time.as_millis()) }
}

impl Printer {
    /// In the words of ha.cf, so that the block could be one.
    pub(super) fn heartbeat(&mut self, membership: &HeartbeatMembership) -> fmt::Result {
        let unsaid = HeartbeatMembership::default();
        self.line(format!("keepalive {}", ha_time(membership.keepalive)))?;
        self.line(format!("deadtime {}", ha_time(membership.deadtime)))?;
        for (keyword, time) in [("warntime", membership.warntime), ("initdead", membership.initdead)] {
            if let Some(time) = time {
                self.line(format!("{keyword} {}", ha_time(time)))?;
            }
        }
        // A port is that of the media behind it.
        let mut said = unsaid.udp_port;
        for medium in &membership.media {
            if let Medium::Broadcast { port, .. } | Medium::Unicast { port, .. } = medium
                && *port != said
            {
                said = *port;
                self.line(format!("udpport {said}"))?;
            }
            self.line(match medium {
                Medium::Broadcast { interface, .. } => format!("bcast {}", word(interface)),
                Medium::Multicast { interface, group, port, ttl } => {
                    format!("mcast {} {group} {port} {ttl} 0", word(interface))
                }
                Medium::Unicast { interface, peer, .. } => format!("ucast {} {peer}", word(interface)),
            })?;
        }
        if membership.udp_port != said {
            self.line(format!("udpport {}", membership.udp_port))?;
        }
        for node in &membership.nodes {
            self.line(format!("node {}", word(node)))?;
        }
        if membership.hop_fudge != unsaid.hop_fudge {
            self.line(format!("hopfudge {}", membership.hop_fudge))?;
        }
        if membership.netstring {
            self.line("msgfmt netstring")?;
        }
        self.block("authkeys", |p| {
            p.line(format!("auth {}", membership.signs_with))?;
            membership.keys.iter().try_for_each(|(number, key)| match key {
                AuthKey::Crc => p.line(format!("{number} crc")),
                AuthKey::Md5(secret) | AuthKey::Sha1(secret) => {
                    p.line(format!("{number} {} {}", key.method(), word(secret)))
                }
            })
        })
    }
}
