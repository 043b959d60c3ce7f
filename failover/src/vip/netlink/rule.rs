//! Routing rules: rtnetlink(7), RTM_NEWRULE and its kin. All carry [`ROUTE_PROTOCOL`], and none without it is ever removed.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route::address_family;
use super::{Family, Netlink, NetlinkError, ROUTE_PROTOCOL};

/// A rule: which packets look into which table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleSpec {
    /// Of which family.
    pub family: Family,
    /// Those that come from here.
    pub from: Option<(IpAddr, u8)>,
    /// Those that go there.
    pub to: Option<(IpAddr, u8)>,
    /// Those that come in by this interface.
    pub incoming: Option<String>,
    /// Those with this mark.
    pub mark: Option<u32>,
    /// Where they look.
    pub table: u32,
    /// The lower, the earlier.
    pub preference: u32,
}

impl RuleSpec {
    fn describe(&self, verb: &str) -> String {
        format!("{verb} rule {} for table {}", self.preference, self.table)
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = address_family(self.family);
        message.header.action = RuleAction::ToTable;
        // Numbers above 255 fit into the attribute only.
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Table(self.table));
        attributes.push(RuleAttribute::Priority(self.preference));
        attributes.push(RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)));
        if let Some((from, len)) = self.from {
            message.header.src_len = len;
            attributes.push(RuleAttribute::Source(from));
        }
        if let Some((to, len)) = self.to {
            message.header.dst_len = len;
            attributes.push(RuleAttribute::Destination(to));
        }
        attributes.extend(self.incoming.clone().map(RuleAttribute::Iifname));
        attributes.extend(self.mark.map(RuleAttribute::FwMark));
        message
    }

    /// None for a rule that is not of [`ROUTE_PROTOCOL`], and for kinds that nobody can ask for here.
    fn from_message(message: &RuleMessage) -> Option<RuleSpec> {
        let family = match message.header.family {
            AddressFamily::Inet => Family::V4,
            AddressFamily::Inet6 => Family::V6,
            _ => return None,
        };
        if message.header.action != RuleAction::ToTable {
            return None;
        }
        let mut rule = RuleSpec {
            family,
            from: None,
            to: None,
            incoming: None,
            mark: None,
            table: message.header.table.into(),
            preference: 0,
        };
        let mut protocol = None;
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Source(from) => rule.from = Some((*from, message.header.src_len)),
                RuleAttribute::Destination(to) => rule.to = Some((*to, message.header.dst_len)),
                RuleAttribute::Iifname(name) => rule.incoming = Some(name.clone()),
                RuleAttribute::FwMark(mark) => rule.mark = Some(*mark),
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::Priority(preference) => rule.preference = *preference,
                RuleAttribute::Protocol(said) => protocol = Some(u8::from(*said)),
                _ => {}
            }
        }
        (protocol == Some(ROUTE_PROTOCOL)).then_some(rule)
    }
}

impl Netlink {
    /// All rules of [`ROUTE_PROTOCOL`].
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn rules(&self) -> Result<Vec<RuleSpec>, NetlinkError> {
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut message = RuleMessage::default();
            message.header.family = address_family(family);
            let ask = RouteNetlinkMessage::GetRule(message);
            let answers = match self.dump(|| "list rules".to_owned(), &ask).await {
                // A kernel without rules, or without IPv6.
                Err(e) if matches!(e.errno(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) => continue,
                answers => answers?,
            };
            rules.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(message) => RuleSpec::from_message(message),
                _ => None,
            }));
        }
        Ok(rules)
    }

    /// Adds a rule that must not be there yet.
    ///
    /// # Errors
    /// What the kernel says; EEXIST: there is one like that.
    pub async fn add_rule(&self, rule: &RuleSpec) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRule(rule.message());
        self.change(|| rule.describe("add"), message, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Removes a rule; gives whether it was there.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove_rule(&self, rule: &RuleSpec) -> Result<bool, NetlinkError> {
        let message = RouteNetlinkMessage::DelRule(rule.message());
        match self.change(|| rule.describe("remove"), message, 0).await {
            Ok(()) => Ok(true),
            Err(e) if e.is_absent() => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_its_message_and_rules_of_others_are_not_seen() {
        let rule = RuleSpec {
            family: Family::V4,
            from: Some(("10.77.0.100".parse().unwrap(), 32)),
            to: Some(("10.0.0.0".parse().unwrap(), 8)),
            incoming: Some("eth0".into()),
            mark: Some(9),
            table: 1000,
            preference: 16384,
        };
        let mut message = rule.message();
        assert_eq!(RuleSpec::from_message(&message), Some(rule));
        message.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
        assert_eq!(RuleSpec::from_message(&message), None);
    }
}
