//! Addresses of interfaces: rtnetlink(7), RTM_NEWADDR and its kin.
//!
//! An address that is added with a lifetime is taken back by the kernel (failover 8.7): whoever added it may be killed,
//! stopped or swapped out meanwhile. It stays as long as it is renewed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Family, LinkIndex, Netlink, NetlinkError};

/// "For ever" among lifetimes (`INFINITY_LIFE_TIME`).
const FOREVER_SECONDS: u32 = u32::MAX;
/// Scope "link".
const SCOPE_LINK: u8 = 253;

/// How long an address stays. The kernel counts whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetime {
    /// After this many seconds connections that begin here do not use it as their source any more; None: for ever.
    pub preferred_seconds: Option<u32>,
    /// After this many seconds it is gone; None: for ever.
    pub valid_seconds: Option<NonZeroU32>,
}

impl Lifetime {
    /// Until somebody removes it.
    pub const FOREVER: Lifetime = Lifetime { preferred_seconds: None, valid_seconds: None };

    /// The kernel takes it back unless it is renewed within so many seconds (failover 8.7).
    pub const fn seconds(valid: NonZeroU32) -> Lifetime {
        Lifetime { preferred_seconds: Some(valid.get()), valid_seconds: Some(valid) }
    }

    /// With `preferred_lft`; never longer than the address is valid, which the kernel would refuse.
    pub fn preferred_for(self, seconds: Option<u32>) -> Lifetime {
        let Some(seconds) = seconds else { return self };
        let most = self.valid_seconds.map_or(FOREVER_SECONDS - 1, NonZeroU32::get);
        Lifetime { preferred_seconds: Some(seconds.min(most)), ..self }
    }

    fn to_kernel(self) -> CacheInfo {
        let mut info = CacheInfo::default();
        info.ifa_valid = self.valid_seconds.map_or(FOREVER_SECONDS, NonZeroU32::get);
        info.ifa_preferred = self.preferred_seconds.unwrap_or(FOREVER_SECONDS);
        info
    }

    fn from_kernel(info: &CacheInfo) -> Lifetime {
        let valid = match info.ifa_valid {
            FOREVER_SECONDS => None,
            // In its last second.
            0 => Some(NonZeroU32::MIN),
            seconds => NonZeroU32::new(seconds),
        };
        let preferred = Some(info.ifa_preferred).filter(|&seconds| seconds != FOREVER_SECONDS);
        Lifetime { preferred_seconds: preferred, valid_seconds: valid }
    }
}

/// Flags of an address that somebody chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AddressOptions {
    /// IFA_F_HOMEADDRESS (IPv6).
    pub home: bool,
    /// IFA_F_NODAD (IPv6): usable at once, without asking whether somebody else has it.
    pub no_dad: bool,
    /// IFA_F_NOPREFIXROUTE: no route to the addresses beside it.
    pub no_prefix_route: bool,
}

/// An address on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    /// On which interface.
    pub link: LinkIndex,
    /// The address.
    pub local: IpAddr,
    /// Length of the prefix: of the peer if there is one.
    pub prefix_len: u8,
    /// The other end of a link of two.
    pub peer: Option<IpAddr>,
    /// Broadcast address (IPv4).
    pub broadcast: Option<Ipv4Addr>,
    /// Scope as rtnetlink(7) numbers it; IPv6 has that of the address itself.
    pub scope: u8,
    /// Label (IPv4); the name of the interface if none is said.
    pub label: Option<String>,
    /// Flags.
    pub options: AddressOptions,
    /// How long it stays, from when it was added or renewed; of a found one: how long it still stays.
    pub lifetime: Lifetime,
}

/// An address that the kernel tells of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundAddress {
    /// What and where.
    pub address: InterfaceAddress,
    /// There is another one with this prefix on this interface, which it may go together with (IPv4).
    pub secondary: bool,
    /// Not usable yet: the kernel asks whether somebody else has it (IPv6).
    pub tentative: bool,
    /// Not usable: somebody else has it (IPv6).
    pub duplicate: bool,
}

impl InterfaceAddress {
    fn describe(&self, verb: &str) -> String {
        format!("{verb} address {}/{} on {}", self.local, self.prefix_len, self.link)
    }

    fn message(&self) -> AddressMessage {
        let mut message = self.key();
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Homeaddress, self.options.home);
        flags.set(AddressFlags::Nodad, self.options.no_dad);
        flags.set(AddressFlags::Noprefixroute, self.options.no_prefix_route);
        message.header.scope = self.scope.into();
        // Those that fit are said in the header as well, for kernels that do not know the attribute.
        message.header.flags = AddressHeaderFlags::from_bits_retain(flags.bits().to_le_bytes()[0]);
        message.attributes.push(AddressAttribute::Flags(flags));
        message.attributes.extend(self.broadcast.map(AddressAttribute::Broadcast));
        message.attributes.push(AddressAttribute::CacheInfo(self.lifetime.to_kernel()));
        message
    }

    /// What says which address is meant.
    fn key(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = if self.local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = self.prefix_len;
        message.header.index = self.link.0;
        message.attributes.push(AddressAttribute::Local(self.local));
        message.attributes.push(AddressAttribute::Address(self.peer.unwrap_or(self.local)));
        if self.local.is_ipv4() {
            message.attributes.extend(self.label.clone().map(AddressAttribute::Label));
        }
        message
    }
}

impl FoundAddress {
    pub(super) fn from_message(message: &AddressMessage) -> Option<FoundAddress> {
        let (mut local, mut other, mut broadcast, mut label) = (None, None, None, None);
        let mut flags = u32::from(message.header.flags.bits());
        let mut lifetime = Lifetime::FOREVER;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => other = Some(*address),
                AddressAttribute::Broadcast(address) => broadcast = Some(*address),
                AddressAttribute::Label(text) => label = Some(text.clone()),
                AddressAttribute::Flags(said) => flags = said.bits(),
                AddressAttribute::CacheInfo(info) => lifetime = Lifetime::from_kernel(info),
                _ => {}
            }
        }
        // IPv6 has no IFA_LOCAL unless there is a peer.
        let local = local.or(other)?;
        let flags = AddressFlags::from_bits_retain(flags);
        Some(FoundAddress {
            address: InterfaceAddress {
                link: LinkIndex(message.header.index),
                local,
                prefix_len: message.header.prefix_len,
                peer: other.filter(|&address| address != local),
                broadcast,
                scope: message.header.scope.into(),
                label,
                options: AddressOptions {
                    home: flags.contains(AddressFlags::Homeaddress),
                    no_dad: flags.contains(AddressFlags::Nodad),
                    no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
                },
                lifetime,
            },
            secondary: local.is_ipv4() && flags.contains(AddressFlags::Secondary),
            tentative: flags.contains(AddressFlags::Tentative),
            duplicate: flags.contains(AddressFlags::Dadfailed),
        })
    }
}

impl Netlink {
    /// All addresses of all interfaces, in the kernel's order.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn addresses(&self) -> Result<Vec<FoundAddress>, NetlinkError> {
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.dump(|| "list addresses".to_owned(), &ask).await?;
        let addresses = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => FoundAddress::from_message(message),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// Where adverts of an interface come from (failover 1.1): its first IPv4 address that is not secondary and not one of
    /// `except` (the virtual ones), or its first link-local IPv6 address that may be used.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn source_address(
        &self,
        link: LinkIndex,
        family: Family,
        except: &[IpAddr],
    ) -> Result<Option<IpAddr>, NetlinkError> {
        Ok(source_among(&self.addresses().await?, link, family, except))
    }

    /// Adds an address that must not be there yet.
    ///
    /// # Errors
    /// What the kernel says; EEXIST: it is there.
    pub async fn add_address(&self, address: &InterfaceAddress) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(address.message());
        self.change(|| address.describe("add"), message, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Adds an address, or gives one that is there its lifetime anew. This is how an address is renewed: one that has been
    /// lost meanwhile is back. Of an IPv4 address that is there nothing but the lifetime changes.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn put_address(&self, address: &InterfaceAddress) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewAddress(address.message());
        self.change(|| address.describe("put"), message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Removes an address; gives whether it was there.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove_address(&self, address: &InterfaceAddress) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(address.key());
        match self.change(|| address.describe("remove"), message, 0).await {
            Ok(()) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Gives an interface the link-local addresses of another one, usable at once. A macvlan of a virtual router needs
    /// that: the address that the kernel would make of its MAC is the same on every router.
    pub(super) async fn copy_link_local(&self, from: LinkIndex, to: LinkIndex) -> Result<(), NetlinkError> {
        let Some(IpAddr::V6(local)) = self.source_address(from, Family::V6, &[]).await? else {
            return Ok(());
        };
        let address = InterfaceAddress {
            link: to,
            local: local.into(),
            prefix_len: 64,
            peer: None,
            broadcast: None,
            scope: SCOPE_LINK,
            label: None,
            options: AddressOptions { no_dad: true, ..AddressOptions::default() },
            lifetime: Lifetime::FOREVER,
        };
        self.put_address(&address).await
    }
}

/// What [`Netlink::source_address`] finds among these addresses.
pub fn source_among(
    addresses: &[FoundAddress],
    link: LinkIndex,
    family: Family,
    except: &[IpAddr],
) -> Option<IpAddr> {
    let usable = |found: &&FoundAddress| {
        found.address.link == link
            && !found.secondary
            && !found.tentative
            && !found.duplicate
            && !except.contains(&found.address.local)
    };
    let mut usable = addresses.iter().filter(usable).map(|found| found.address.local);
    usable.find(|address| match (address, family) {
        (IpAddr::V4(_), Family::V4) => true,
        (IpAddr::V6(address), Family::V6) => is_link_local(*address),
        _ => false,
    })
}

/// fe80::/10.
fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(link: u32, address: &str) -> FoundAddress {
        FoundAddress {
            address: InterfaceAddress {
                link: LinkIndex(link),
                local: address.parse().unwrap(),
                prefix_len: 24,
                peer: None,
                broadcast: None,
                scope: 0,
                label: None,
                options: AddressOptions::default(),
                lifetime: Lifetime::FOREVER,
            },
            secondary: false,
            tentative: false,
            duplicate: false,
        }
    }

    #[test]
    fn adverts_come_from_the_first_own_address() {
        let vip: IpAddr = "10.77.0.100".parse().unwrap();
        let mut secondary = found(3, "10.77.0.7");
        secondary.secondary = true;
        let mut tentative = found(3, "fe80::1");
        tentative.tentative = true;
        let all = [
            found(2, "10.1.1.1"),
            found(3, "10.77.0.100"),
            secondary,
            found(3, "10.77.0.1"),
            found(3, "10.77.0.2"),
            found(3, "2001:db8::1"),
            tentative,
            found(3, "fe80::2"),
        ];
        let source = |family| source_among(&all, LinkIndex(3), family, &[vip]);
        assert_eq!(source(Family::V4), Some("10.77.0.1".parse().unwrap()));
        assert_eq!(source(Family::V6), Some("fe80::2".parse().unwrap()));
        assert_eq!(source_among(&all, LinkIndex(2), Family::V6, &[]), None);
    }

    #[test]
    fn an_address_is_never_preferred_for_longer_than_it_is_valid() {
        let three = Lifetime::seconds(NonZeroU32::new(3).unwrap());
        assert_eq!(three.preferred_for(None), three);
        assert_eq!(three.preferred_for(Some(9)), three);
        assert_eq!(three.preferred_for(Some(0)).preferred_seconds, Some(0));
        assert_eq!(Lifetime::FOREVER.preferred_for(Some(9)).preferred_seconds, Some(9));
        assert_eq!(Lifetime::FOREVER.preferred_for(Some(9)).valid_seconds, None);
        let max = Lifetime::FOREVER.preferred_for(Some(u32::MAX)).to_kernel();
        assert_eq!((max.ifa_preferred, max.ifa_valid), (u32::MAX - 1, u32::MAX));
    }

    #[test]
    fn an_address_survives_its_message() {
        let mut wanted = found(3, "10.77.0.100");
        wanted.address.peer = Some("10.77.0.200".parse().unwrap());
        wanted.address.broadcast = Some("10.77.0.255".parse().unwrap());
        wanted.address.label = Some("eth0:1".into());
        wanted.address.scope = 200;
        wanted.address.options = AddressOptions { home: false, no_dad: true, no_prefix_route: true };
        wanted.address.lifetime = Lifetime::seconds(NonZeroU32::new(3).unwrap());
        assert_eq!(FoundAddress::from_message(&wanted.address.message()), Some(wanted));
    }
}
