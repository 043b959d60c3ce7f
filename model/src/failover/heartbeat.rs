//! Block `heartbeat`: heartbeat's messages, in the words of its own files `ha.cf` and `authkeys`: who is there, over what, how
//! often, and signed by what (failover 3.1, 3.3).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;

/// What nodes tell each other by. In a failover file: at least two nodes, a medium, and the key to sign with.
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
    /// `hopfudge`, default 1: messages live for so many hops more than there are nodes.
    pub hop_fudge: u8,
    /// `msgfmt netstring`: messages end without the second signature of `msgfmt classic`.
    pub netstring: bool,
    /// `auth N`: the number of the key that own messages are signed with.
    pub signs_with: u8,
    /// The keys, 1 to 15: a message signed with any of them is accepted.
    pub keys: BTreeMap<u8, AuthKey>,
}

impl HeartbeatMembership {
    /// Enough is said for messages to be sent: a medium, two nodes or more, a key. Otherwise it is what an `ha.cf` gave that
    /// another program completes.
    pub fn is_complete(&self) -> bool {
        !self.media.is_empty() && self.nodes.len() > 1 && self.keys.contains_key(&self.signs_with)
    }
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
        peer: Ipv4Addr,
        /// The UDP port.
        port: u16,
    },
}

/// `auto_failback`: whether groups move back to their preferred node. Services say it for themselves.
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
