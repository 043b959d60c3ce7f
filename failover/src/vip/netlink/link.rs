//! Interfaces: rtnetlink(7), RTM_GETLINK and RTM_SETLINK.

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};

/// Number of an interface. The kernel does not give it to another one before it has to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkIndex(pub u32);

impl std::fmt::Display for LinkIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interface {}", self.0)
    }
}

/// What kind of interface it is, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// A macvlan.
    Macvlan {
        /// In private mode.
        private: bool,
    },
    /// Anything else.
    Other,
}

/// An interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its number.
    pub index: LinkIndex,
    /// Its name.
    pub name: String,
    /// Its address, if it has one of six octets.
    pub mac: Option<[u8; 6]>,
    /// IFF_UP: somebody has switched it on.
    pub up: bool,
    /// IFF_RUNNING: it has a carrier, too.
    pub running: bool,
    /// Octets in one packet at most.
    pub mtu_bytes: u32,
    /// The interface below it.
    pub lower: Option<LinkIndex>,
    /// What it is.
    pub kind: LinkKind,
}

impl Link {
    /// Whether packets can leave by it: what failover 1.11 wants of the interface of an instance.
    pub fn is_usable(&self) -> bool {
        self.up && self.running
    }

    /// None for the messages of bridges and wireless devices about a link, which are not about the link itself.
    pub(super) fn from_message(message: &LinkMessage) -> Option<Link> {
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let flags = message.header.flags;
        let mut link = Link {
            index: LinkIndex(message.header.index),
            name: String::new(),
            mac: None,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::Running),
            mtu_bytes: 0,
            lower: None,
            kind: LinkKind::Other,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu_bytes) => link.mtu_bytes = *mtu_bytes,
                LinkAttribute::Link(index) if *index != 0 => link.lower = Some(LinkIndex(*index)),
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

impl Netlink {
    /// The interface of this name, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        if !is_interface_name(name) {
            return Ok(None);
        }
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = self.ask(|| format!("look up interface {name}"), RouteNetlinkMessage::GetLink(message));
        match answer.await {
            Ok(Some(RouteNetlinkMessage::NewLink(found))) => Ok(Link::from_message(&found)),
            Ok(_) => Ok(None),
            Err(e) if e.errno() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(|| "list interfaces".to_owned(), &ask).await?;
        let links = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Link::from_message(message),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Switches an interface on or off.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn set_up(&self, index: LinkIndex, up: bool) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        let what = || format!("set {index} {}", if up { "up" } else { "down" });
        self.change(what, RouteNetlinkMessage::SetLink(message), 0).await
    }
}

/// Whether the kernel would let an interface have this name; a longer one makes it refuse the request as a whole.
pub(super) fn is_interface_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.contains(['/', ':', '\0'])
        && !name.contains(char::is_whitespace)
}

fn kind(infos: &[LinkInfo]) -> LinkKind {
    if !infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::MacVlan))) {
        return LinkKind::Other;
    }
    let mut modes = infos.iter().filter_map(|info| match info {
        LinkInfo::Data(InfoData::MacVlan(data)) => Some(data),
        _ => None,
    });
    let private = modes.any(|data| data.contains(&InfoMacVlan::Mode(MacVlanMode::Private)));
    LinkKind::Macvlan { private }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces() {
        for good in ["lo", "eth0", "vrrp.51", "abcdefghijklmno"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "eth0:1", "a b", "abcdefghijklmnop", "e\0"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }

    #[test]
    fn what_a_bridge_says_of_its_port_is_not_the_end_of_the_port() {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes.push(LinkAttribute::IfName("eth0".into()));
        assert_eq!(Link::from_message(&message), None);
        message.header.interface_family = AddressFamily::Unspec;
        assert_eq!(Link::from_message(&message).unwrap().name, "eth0");
    }
}
