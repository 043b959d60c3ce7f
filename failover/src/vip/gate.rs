//! The gate in front of virtual addresses: nftables drops what comes for an address and what leaves from it, unless the
//! address is in a set whose elements end by themselves.
//!
//! The kernel counts the lifetime of an address in whole seconds and takes the address up to 0.3 s too late (failover 8.7).
//! An element of a set ends after milliseconds, and its end is looked at with each packet: whoever renews it says for how
//! long the address answers, and is killed, stopped or paused without leaving it behind for longer.
//!
//! Rules are loaded as a text by nft(8), seldom; elements are renewed by nf_tables' netlink messages, often.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

mod message;
mod nft;
mod ruleset;
mod socket;

pub use nft::{LOAD_TIMEOUT, load};
pub use ruleset::{Replace, Rules, ruleset};
pub use socket::{NfTables, Tables};

/// Name of the tables, one in family inet and one in family arp.
pub const TABLE: &str = "lockstep";

/// Octets of an interface's name, the zero behind it included (`IFNAMSIZ`).
const INTERFACE_NAME_BYTES: usize = 16;

/// An address as the rules know it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Guarded {
    address: IpAddr,
    interface: Option<String>,
}

impl Guarded {
    /// An address of an interface. The same link-local address may be on several interfaces, of several instances; any other
    /// one is guarded wherever it is asked for.
    pub fn new(address: IpAddr, interface: &str) -> Guarded {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:@".contains(c);
        // Of a name that cannot be written into a ruleset, the address counts on every interface.
        let is_usable =
            (1..INTERFACE_NAME_BYTES).contains(&interface.len()) && interface.chars().all(is_plain);
        let is_of_link = matches!(address, IpAddr::V6(address) if is_link_local(address));
        Guarded { address, interface: (is_of_link && is_usable).then(|| interface.to_owned()) }
    }

    /// The address itself.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The sets that it has to be in to answer.
    fn sets(&self) -> &'static [Set] {
        match (self.address, &self.interface) {
            (IpAddr::V4(_), _) => &[Set::Alive4, Set::AliveArp],
            (IpAddr::V6(_), None) => &[Set::Alive6],
            (IpAddr::V6(_), Some(_)) => &[Set::AliveLink6],
        }
    }

    /// Its key in these sets: as the kernel's registers hold it, each part padded to four octets.
    fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(INTERFACE_NAME_BYTES + 16);
        if let Some(interface) = &self.interface {
            key.extend_from_slice(interface.as_bytes());
            key.resize(INTERFACE_NAME_BYTES, 0);
        }
        match self.address {
            IpAddr::V4(address) => key.extend(address.octets()),
            IpAddr::V6(address) => key.extend(address.octets()),
        }
        assert!(key.len().is_multiple_of(4) && key.len() <= 32, "a key fits into the registers");
        key
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

/// The sets of addresses that answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Set {
    /// IPv4.
    Alive4,
    /// IPv6 that is not of one link.
    Alive6,
    /// Link-local IPv6, with the interface.
    AliveLink6,
    /// IPv4 again: tables of family arp see no others.
    AliveArp,
}

impl Set {
    const ALL: [Set; 4] = [Set::Alive4, Set::Alive6, Set::AliveLink6, Set::AliveArp];

    fn name(self) -> &'static str {
        match self {
            Set::Alive4 | Set::AliveArp => "alive4",
            Set::Alive6 => "alive6",
            Set::AliveLink6 => "alive_link6",
        }
    }

    fn family(self) -> TableFamily {
        match self {
            Set::Alive4 | Set::Alive6 | Set::AliveLink6 => TableFamily::Inet,
            Set::AliveArp => TableFamily::Arp,
        }
    }
}

/// Which of the two tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum TableFamily {
    Inet,
    Arp,
}

impl TableFamily {
    const ALL: [TableFamily; 2] = [TableFamily::Inet, TableFamily::Arp];

    fn name(self) -> &'static str {
        match self {
            TableFamily::Inet => "inet",
            TableFamily::Arp => "arp",
        }
    }
}

/// Why something could not be done with the gate.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// No socket can be had.
    #[error("nf_tables: no socket: {0}")]
    Open(#[source] io::Error),
    /// nft cannot be started.
    #[error("cannot run nft: {0} (Debian package nftables)")]
    Start(#[source] io::Error),
    /// nft has ended without having loaded the rules.
    #[error("nft does not load table {TABLE}: {0}")]
    Load(String),
    /// nft does not come to an end.
    #[error("nft has not loaded table {TABLE} within {LOAD_TIMEOUT:?}")]
    Slow,
    /// The kernel refuses.
    #[error("cannot {what} of nftables' tables {TABLE}: {source}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The error number and its text.
        #[source]
        source: io::Error,
    },
    /// The tables, or sets in them, are not there.
    #[error("nftables' tables {TABLE} are gone: somebody has flushed the ruleset")]
    Gone,
    /// The kernel has not answered, or not all of it.
    #[error("cannot {what} of nftables' tables {TABLE}: the kernel's answer is missing or cannot be read")]
    NoAnswer {
        /// What was asked for.
        what: &'static str,
    },
    /// Nobody speaks with nf_tables any more, or whoever does stands still.
    #[error("nf_tables: no answer within {0:?}")]
    Stuck(std::time::Duration),
}

#[cfg(test)]
mod tests;
