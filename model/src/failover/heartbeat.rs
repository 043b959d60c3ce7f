//! What heartbeat's own files say of its messages: who is there, over what, how often, and signed by what (failover 3.1,
//! 3.3).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

/// `ha.cf` and `authkeys`, as far as they matter between nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeartbeatMembership {
    /// `keepalive`, default 2 s: pause between beats.
    pub keepalive: Duration,
    /// `deadtime`, default 30 s: silence until a node is dead.
    pub deadtime: Duration,
    /// `warntime`: silence until a warning.
    pub warntime: Option<Duration>,
    /// `initdead`: silence at the start until a node that was never seen is dead; the dead time unless told otherwise.
    pub initdead: Option<Duration>,
    /// `udpport`, default 694: of broadcasts and unicasts behind its line.
    pub udp_port: u16,
    /// `bcast` (once `udp`), `mcast` and `ucast`, in the order of the file.
    pub media: Vec<Medium>,
    /// `node`: equal to `uname -n` there, compared in lower case.
    pub nodes: Vec<String>,
    /// `auto_failback`.
    pub auto_failback: AutoFailback,
    /// `hopfudge`, default 1: messages live for so many hops more than there are nodes.
    pub hop_fudge: u8,
    /// `msgfmt netstring`: messages end without the second signature of `msgfmt classic`.
    pub netstring: bool,
    /// `auth N`: the number of the key that own messages are signed with.
    pub signs_with: u8,
    /// The keys, 1 to 15: a message signed with any of them is accepted.
    pub keys: BTreeMap<u8, AuthKey>,
}

impl Default for HeartbeatMembership {
    fn default() -> HeartbeatMembership {
        HeartbeatMembership {
            keepalive: Duration::from_secs(2),
            deadtime: Duration::from_secs(30),
            warntime: None,
            initdead: None,
            udp_port: 694,
            media: Vec::new(),
            nodes: Vec::new(),
            auto_failback: AutoFailback::Legacy,
            hop_fudge: 1,
            netstring: false,
            signs_with: 0,
            keys: BTreeMap::new(),
        }
    }
}

/// How messages travel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Medium {
    /// `bcast IF`: UDP to the broadcast address of the interface.
    Broadcast {
        /// The interface.
        interface: String,
        /// The UDP port.
        port: u16,
    },
    /// `mcast IF GROUP PORT TTL 0`.
    Multicast {
        /// The interface.
        interface: String,
        /// The group.
        group: Ipv4Addr,
        /// The UDP port.
        port: u16,
        /// For so many routers.
        ttl: u8,
    },
    /// `ucast IF PEER`; a line that names the own address is ignored, so that the files of all nodes can be equal.
    Unicast {
        /// The interface.
        interface: String,
        /// The peer.
        peer: IpAddr,
        /// The UDP port.
        port: u16,
    },
}

/// Whether groups move back to their preferred node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoFailback {
    /// They do.
    On,
    /// They stay.
    Off,
    /// As heartbeat did before there was a choice; it warns of it.
    Legacy,
}

/// A key of `authkeys`.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthKey {
    /// A checksum; no key at all.
    Crc,
    /// HMAC-MD5 with this secret.
    Md5(String),
    /// HMAC-SHA1 with this secret.
    Sha1(String),
}

impl AuthKey {
    /// The word of the file.
    pub fn method(&self) -> &'static str {
        match self {
            AuthKey::Crc => "crc",
            AuthKey::Md5(_) => "md5",
            AuthKey::Sha1(_) => "sha1",
        }
    }
}

/// Without the secret, which belongs in no log.
impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method())
    }
}
