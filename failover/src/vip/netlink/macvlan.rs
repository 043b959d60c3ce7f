//! The interface of a virtual router: a macvlan with the router's MAC (failover 1.15, `use_vmac`).

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkMessage, MacVlanMode};
use rtnetlink::LinkMacVlan;

use super::link::is_interface_name;
use super::{Link, LinkIndex, LinkKind, Netlink, NetlinkError};
use crate::vip::announce::virtual_mac;

/// A macvlan that is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MacvlanSpec {
    /// Its name.
    pub name: String,
    /// The interface below.
    pub lower: LinkIndex,
    /// Its address.
    pub mac: [u8; 6],
}

impl Netlink {
    /// Makes a macvlan in private mode and switches it on. One that is there already and is like that is taken over: it may
    /// be left from a daemon that was killed.
    ///
    /// # Errors
    /// What the kernel says; something else has that name.
    pub async fn make_macvlan(&self, spec: &MacvlanSpec) -> Result<Link, NetlinkError> {
        let what = || format!("make macvlan {}", spec.name);
        if !is_interface_name(&spec.name) {
            return Err(NetlinkError::InTheWay {
                what: what(),
                why: "an interface cannot have that name".into(),
            });
        }
        match self.link(&spec.name).await? {
            Some(link) if is_like(&link, spec) => {}
            Some(link) => return Err(NetlinkError::InTheWay { what: what(), why: differs(&link, spec) }),
            None => {
                let message = LinkMacVlan::new(&spec.name, spec.lower.0, MacVlanMode::Private)
                    .address(spec.mac.to_vec())
                    .build();
                let message = RouteNetlinkMessage::NewLink(message);
                self.change(what, message, NLM_F_CREATE | NLM_F_EXCL).await?;
            }
        }
        let gone = || NetlinkError::InTheWay { what: what(), why: "it is gone at once".into() };
        let link = self.link(&spec.name).await?.ok_or_else(gone)?;
        prepare(&spec.name)?;
        self.set_up(link.index, true).await?;
        if spec.mac[..5] == virtual_mac(0, true)[..5] {
            self.copy_link_local(spec.lower, link.index).await?;
        }
        self.link(&spec.name).await?.ok_or_else(gone)
    }

    /// Removes such a macvlan; gives whether it was there. Anything else of that name is left alone.
    ///
    /// # Errors
    /// What the kernel says; something else has that name.
    pub async fn remove_macvlan(&self, spec: &MacvlanSpec) -> Result<bool, NetlinkError> {
        let what = || format!("remove macvlan {}", spec.name);
        let Some(link) = self.link(&spec.name).await? else { return Ok(false) };
        if !is_like(&link, spec) {
            return Err(NetlinkError::InTheWay { what: what(), why: differs(&link, spec) });
        }
        let mut message = LinkMessage::default();
        message.header.index = link.index.0;
        match self.change(what, RouteNetlinkMessage::DelLink(message), 0).await {
            Ok(()) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

fn is_like(link: &Link, spec: &MacvlanSpec) -> bool {
    link.kind == LinkKind::Macvlan { private: true }
        && link.lower == Some(spec.lower)
        && link.mac == Some(spec.mac)
}

fn differs(link: &Link, spec: &MacvlanSpec) -> String {
    let what = match link.kind {
        LinkKind::Other => "no macvlan",
        LinkKind::Macvlan { private: false } => "a macvlan of another mode",
        LinkKind::Macvlan { private: true } if link.lower != Some(spec.lower) => {
            "a macvlan on another interface"
        }
        LinkKind::Macvlan { private: true } => "a macvlan with another MAC",
    };
    format!("{} is there and is {what}", link.name)
}

/// Settings of a virtual router's interface, before it is switched on: value, folder below /proc/sys/net, name.
const SETTINGS: [(&str, &str, &str); 6] = [
    // It answers for its own addresses only, and the interface below does not answer for them with another MAC.
    ("1", "ipv4/conf", "arp_ignore"),
    // As long as the virtual addresses are elsewhere it has no IPv4 address, and any filtering, loose too, drops all that
    // comes in: with it the adverts of routers that use the same MAC, which come in nowhere else.
    ("0", "ipv4/conf", "rp_filter"),
    // Adverts of the other routers come from addresses that may be ours on the interface below.
    ("1", "ipv4/conf", "accept_local"),
    // No address made of the MAC, which all routers of the group share; none from router advertisements.
    ("1", "ipv6/conf", "addr_gen_mode"),
    ("0", "ipv6/conf", "autoconf"),
    ("0", "ipv6/conf", "accept_ra"),
];

const FILTER_OF_ALL: &str = "/proc/sys/net/ipv4/conf/all/rp_filter";

fn prepare(name: &str) -> Result<(), NetlinkError> {
    for (value, family, setting) in SETTINGS {
        let path = format!("/proc/sys/net/{family}/{name}/{setting}");
        match std::fs::write(&path, value) {
            Ok(()) => {}
            // A kernel without IPv6.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && family.starts_with("ipv6") => {}
            Err(source) => return Err(NetlinkError::Sysctl { path, source }),
        }
    }
    // The kernel takes the higher one of an interface's and this one, which is not ours to change.
    if std::fs::read_to_string(FILTER_OF_ALL).is_ok_and(|value| value.trim() != "0") {
        tracing::warn!("{name} hears no IPv4 adverts while {FILTER_OF_ALL} is not 0");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_of_a_virtual_router_ends_in_its_number() {
        assert_eq!(virtual_mac(51, false), [0, 0, 0x5e, 0, 1, 51]);
        assert_eq!(virtual_mac(255, true), [0, 0, 0x5e, 0, 2, 255]);
    }
}
