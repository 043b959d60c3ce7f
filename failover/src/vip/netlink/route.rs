//! Routes: rtnetlink(7), RTM_NEWROUTE and its kin. All carry [`ROUTE_PROTOCOL`], and none without it is ever removed.

use std::net::IpAddr;

use model::failover::config::RouteKind;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Family, LinkIndex, Netlink, NetlinkError, ROUTE_PROTOCOL};

/// Table "main".
pub const MAIN_TABLE: u32 = 254;

/// Scope "link": the destination is on the interface's own network.
const SCOPE_LINK: u8 = 253;

/// A route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteSpec {
    /// What it leads to; bits behind the length are clear.
    pub destination: (IpAddr, u8),
    /// By way of.
    pub gateway: Option<IpAddr>,
    /// By which interface.
    pub link: Option<LinkIndex>,
    /// Source address of connections that begin here.
    pub source: Option<IpAddr>,
    /// Table.
    pub table: u32,
    /// Metric; the kernel's own unless said (0, and 1024 for IPv6).
    pub metric: Option<u32>,
    /// Scope (IPv4); "link" without a gateway and "global" with one, unless said.
    pub scope: Option<u8>,
    /// What it does.
    pub kind: RouteKind,
}

impl RouteSpec {
    /// That of its destination.
    pub fn family(&self) -> Family {
        Family::of(self.destination.0)
    }

    fn describe(&self, verb: &str) -> String {
        let (to, len) = self.destination;
        format!("{verb} route to {to}/{len} in table {}", self.table)
    }

    fn scope(&self) -> u8 {
        let on_link = self.kind == RouteKind::Unicast && self.gateway.is_none();
        // For IPv6 the kernel wants none.
        let usual = if self.family() == Family::V4 && on_link { SCOPE_LINK } else { 0 };
        self.scope.filter(|_| self.family() == Family::V4).unwrap_or(usual)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(self.family());
        message.header.destination_prefix_length = self.destination.1;
        message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        message.header.scope = self.scope().into();
        message.header.kind = route_type(self.kind);
        // Numbers above 255 fit into the attribute only.
        message.header.table = u8::try_from(self.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(self.table));
        if self.destination.1 > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.0.into()));
        }
        attributes.extend(self.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        attributes.extend(self.link.map(|link| RouteAttribute::Oif(link.0)));
        attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        message
    }

    /// None for a route that is not of [`ROUTE_PROTOCOL`], and for kinds that nobody can ask for here.
    fn from_message(message: &RouteMessage) -> Option<RouteSpec> {
        if u8::from(message.header.protocol) != ROUTE_PROTOCOL {
            return None;
        }
        let (family, none) = match message.header.address_family {
            AddressFamily::Inet => (Family::V4, IpAddr::from([0; 4])),
            AddressFamily::Inet6 => (Family::V6, IpAddr::from([0; 16])),
            _ => return None,
        };
        let mut route = RouteSpec {
            destination: (none, message.header.destination_prefix_length),
            gateway: None,
            link: None,
            source: None,
            table: message.header.table.into(),
            metric: None,
            scope: (family == Family::V4).then(|| message.header.scope.into()),
            kind: match message.header.kind {
                RouteType::Unicast => RouteKind::Unicast,
                RouteType::BlackHole => RouteKind::Blackhole,
                RouteType::Unreachable => RouteKind::Unreachable,
                RouteType::Prohibit => RouteKind::Prohibit,
                _ => return None,
            },
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => route.destination.0 = ip(to)?,
                RouteAttribute::Gateway(gateway) => route.gateway = Some(ip(gateway)?),
                RouteAttribute::Oif(index) => route.link = Some(LinkIndex(*index)),
                RouteAttribute::PrefSource(source) => route.source = Some(ip(source)?),
                RouteAttribute::Table(table) => route.table = *table,
                RouteAttribute::Priority(metric) => route.metric = Some(*metric),
                _ => {}
            }
        }
        Some(route)
    }
}

impl Netlink {
    /// All routes of [`ROUTE_PROTOCOL`].
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn routes(&self) -> Result<Vec<RouteSpec>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut message = RouteMessage::default();
            message.header.address_family = address_family(family);
            // Newer kernels list no others then; a table may have a million.
            message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
            let ask = RouteNetlinkMessage::GetRoute(message);
            let answers = match self.dump(|| "list routes".to_owned(), &ask).await {
                // A kernel without IPv6.
                Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => continue,
                answers => answers?,
            };
            routes.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => RouteSpec::from_message(message),
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// Adds a route that must not be there yet.
    ///
    /// # Errors
    /// What the kernel says; EEXIST: there is a route to that destination with that metric.
    pub async fn add_route(&self, route: &RouteSpec) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(route.message());
        self.change(|| route.describe("add"), message, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Removes a route; gives whether it was there.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove_route(&self, route: &RouteSpec) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(route.message());
        match self.change(|| route.describe("remove"), message, 0).await {
            Ok(()) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn route_type(kind: RouteKind) -> RouteType {
    match kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_route() -> RouteSpec {
        RouteSpec {
            destination: ("0.0.0.0".parse().unwrap(), 0),
            gateway: Some("10.77.0.254".parse().unwrap()),
            link: Some(LinkIndex(3)),
            source: Some("10.77.0.100".parse().unwrap()),
            table: 1000,
            metric: Some(7),
            scope: Some(0),
            kind: RouteKind::Unicast,
        }
    }

    #[test]
    fn a_route_survives_its_message() {
        let route = default_route();
        assert_eq!(RouteSpec::from_message(&route.message()), Some(route));
    }

    #[test]
    fn routes_of_others_are_not_seen() {
        let mut message = default_route().message();
        message.header.protocol = RouteProtocol::Static;
        assert_eq!(RouteSpec::from_message(&message), None);
    }

    #[test]
    fn a_route_without_a_gateway_is_on_the_link() {
        let gateway = RouteSpec { scope: None, ..default_route() };
        let on_link = RouteSpec { gateway: None, ..gateway.clone() };
        let blackhole = RouteSpec { kind: RouteKind::Blackhole, ..on_link.clone() };
        let v6 = RouteSpec { destination: ("2001:db8::".parse().unwrap(), 32), ..on_link.clone() };
        let said = RouteSpec { scope: Some(200), ..on_link.clone() };
        let scopes = [gateway, on_link, blackhole, v6, said].map(|route| route.scope());
        assert_eq!(scopes, [0, SCOPE_LINK, 0, 0, 200]);
    }
}
