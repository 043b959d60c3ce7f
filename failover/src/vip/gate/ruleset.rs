//! The rules as a text for nft(8).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use super::{Guarded, Set, TABLE, TableFamily};

/// What is to be dropped.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Addresses that answer only while they are renewed.
    pub guarded: BTreeSet<Guarded>,
    /// Addresses that never answer, apart from ARP and neighbour discovery: `no_accept` (failover 1.15).
    pub silent: BTreeSet<Guarded>,
}

/// What becomes of tables that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// They go with all that is in them: an earlier daemon may have left them.
    Everything,
    /// Their rules go. What was renewed stays as it is.
    RulesOnly,
}

/// Before everything else that might answer, follow a connection or change an address: NF_IP_PRI_RAW_BEFORE_DEFRAG.
const FIRST: i32 = -450;
/// Behind everything that changes an address.
const LAST: i32 = 450;

const TABLE_COMMENT: &str =
    "made, renewed and removed by the lockstep daemon; see 'Addresses' in its failover documentation";
const ALIVE_COMMENT: &str = "answer until they expire; the daemon renews them while their service is here";
const GUARDED_COMMENT: &str = "addresses of services, unless they are renewed";
const SILENT_COMMENT: &str = "addresses of instances with no_accept";

/// The text that makes both tables what they should be: all at once, and whatever is there.
pub fn ruleset(rules: &Rules, replace: Replace) -> String {
    let mut text = Text(String::new());
    if replace == Replace::Everything {
        for family in TableFamily::ALL {
            // What is not there cannot be deleted.
            text.line(0, &format!("add table {} {TABLE}", family.name()));
            text.line(0, &format!("delete table {} {TABLE}", family.name()));
        }
    }
    for family in TableFamily::ALL {
        text.line(0, &format!("table {} {TABLE} {{", family.name()));
        text.line(1, &format!("comment \"{TABLE_COMMENT}\""));
        for set in Set::ALL.into_iter().filter(|set| set.family() == family) {
            let (name, key) = (set.name(), key_type(set));
            text.line(
                1,
                &format!("set {name} {{ type {key}; flags timeout; comment \"{ALIVE_COMMENT}\"; }}"),
            );
        }
        text.line(0, "}");
        if replace == Replace::RulesOnly {
            text.line(0, &format!("flush table {} {TABLE}", family.name()));
        }
    }
    text.line(0, &format!("table inet {TABLE} {{"));
    // An address that is on its way to another node, through this one, is none of ours: hence "local". Routes to a
    // link-local one do not exist.
    text.chain("arriving", "prerouting", FIRST, |text| {
        text.guarded(rules, &["ip daddr", "ip6 daddr", "iifname . ip6 daddr"], "fib daddr type local ");
    });
    // Advertisements of an address have it as their source (RFC 4861 7.2.4), so neighbours are not answered either.
    text.chain("leaving", "postrouting", LAST, |text| {
        text.guarded(rules, &["ip saddr", "ip6 saddr", "oifname . ip6 saddr"], "fib saddr type local ");
    });
    let discovery =
        "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, nd-redirect";
    text.chain("accepting", "input", 0, |text| {
        text.line(2, &format!("icmpv6 type {{ {discovery} }} accept"));
        text.silent(rules, &["ip daddr", "ip6 daddr", "iifname . ip6 daddr"]);
    });
    text.chain("speaking", "output", 0, |text| {
        // A router says why it does not forward, from whichever address it has there.
        let errors = "destination-unreachable, time-exceeded, parameter-problem";
        text.line(2, &format!("icmp type {{ {errors}, redirect }} accept"));
        text.line(2, &format!("icmpv6 type {{ {errors}, packet-too-big, {discovery} }} accept"));
        text.silent(rules, &["ip saddr", "ip6 saddr", "oifname . ip6 saddr"]);
    });
    text.line(0, "}");
    text.line(0, &format!("table arp {TABLE} {{"));
    // Whoever announces an address names it twice, and has to be heard.
    let asked = keys(&rules.guarded, Set::AliveArp).map(|keys| format!("arp saddr ip != {{ {keys} }} "));
    text.chain("asked", "input", FIRST, |text| {
        text.guarded(rules, &["arp daddr ip"], asked.as_deref().unwrap_or_default());
    });
    text.chain("telling", "output", LAST, |text| text.guarded(rules, &["arp saddr ip"], ""));
    text.line(0, "}");
    text.0
}

fn key_type(set: Set) -> &'static str {
    match set {
        Set::Alive4 | Set::AliveArp => "ipv4_addr",
        Set::Alive6 => "ipv6_addr",
        Set::AliveLink6 => "ifname . ipv6_addr",
    }
}

struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, line: &str) {
        let _ = writeln!(self.0, "{:1$}{line}", "", depth * 2);
    }

    fn chain(&mut self, name: &str, hook: &str, priority: i32, rules: impl FnOnce(&mut Text)) {
        self.line(1, &format!("chain {name} {{"));
        self.line(2, &format!("type filter hook {hook} priority {priority}; policy accept;"));
        rules(self);
        self.line(1, "}");
    }

    /// `selectors`: where a packet has an IPv4 address, an IPv6 address, one of a link.
    fn guarded(&mut self, rules: &Rules, selectors: &[&str], condition: &str) {
        for (selector, set) in selectors.iter().zip([Set::Alive4, Set::Alive6, Set::AliveLink6]) {
            let Some(keys) = keys(&rules.guarded, set) else { continue };
            // Routes do not know which interface a link-local address is meant on.
            let condition = if set == Set::AliveLink6 { "" } else { condition };
            let alive = set.name();
            let rule = format!("{selector} {{ {keys} }} {selector} != @{alive} {condition}counter drop");
            self.line(2, &format!("{rule} comment \"{GUARDED_COMMENT}\""));
        }
    }

    fn silent(&mut self, rules: &Rules, selectors: &[&str]) {
        for (selector, set) in selectors.iter().zip([Set::Alive4, Set::Alive6, Set::AliveLink6]) {
            let Some(keys) = keys(&rules.silent, set) else { continue };
            let rule = format!("{selector} {{ {keys} }} counter drop");
            self.line(2, &format!("{rule} comment \"{SILENT_COMMENT}\""));
        }
    }
}

/// Those that belong into a set, as nft writes them; none: a set must not be empty.
fn keys(all: &BTreeSet<Guarded>, set: Set) -> Option<String> {
    let key = |guarded: &Guarded| match (&guarded.interface, guarded.address) {
        (None, address) => address.to_string(),
        (Some(interface), IpAddr::V4(address)) => unreachable!("{address} is guarded on {interface} only"),
        (Some(interface), IpAddr::V6(address)) => format!("\"{interface}\" . {address}"),
    };
    let keys: Vec<String> = all.iter().filter(|one| one.sets().contains(&set)).map(key).collect();
    (!keys.is_empty()).then(|| keys.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(addresses: &[&str]) -> BTreeSet<Guarded> {
        addresses.iter().map(|address| Guarded::new(address.parse().unwrap(), "eth0")).collect()
    }

    const EMPTY: &str = "table inet lockstep {
  chain arriving {
    type filter hook prerouting priority -450; policy accept;
  }
";

    #[test]
    fn what_an_earlier_daemon_has_left_is_replaced() {
        let text = ruleset(&Rules::default(), Replace::Everything);
        let start = "add table inet lockstep\ndelete table inet lockstep\nadd table arp lockstep\n\
                     delete table arp lockstep\ntable inet lockstep {\n  comment \"made";
        assert!(text.starts_with(start), "{text}");
        assert!(!text.contains("flush") && text.contains(EMPTY), "{text}");
    }

    #[test]
    fn another_configuration_leaves_what_is_renewed() {
        let text = ruleset(&Rules::default(), Replace::RulesOnly);
        assert!(!text.contains("delete"), "{text}");
        for family in ["inet", "arp"] {
            let (before, after) = text.split_once(&format!("flush table {family} lockstep\n")).unwrap();
            assert!(before.contains(&format!("table {family} lockstep {{\n  comment")), "{text}");
            assert!(after.contains("chain"), "{text}");
        }
    }

    #[test]
    fn guarded_addresses_are_dropped_both_ways_unless_they_are_alive() {
        let guarded = all(&["10.77.0.100", "10.77.0.101", "2001:db8::64", "fe80::64"]);
        let text = ruleset(&Rules { guarded, silent: BTreeSet::new() }, Replace::Everything);
        for rule in [
            "ip daddr { 10.77.0.100, 10.77.0.101 } ip daddr != @alive4 fib daddr type local counter drop",
            "ip6 daddr { 2001:db8::64 } ip6 daddr != @alive6 fib daddr type local counter drop",
            "iifname . ip6 daddr { \"eth0\" . fe80::64 } iifname . ip6 daddr != @alive_link6 counter drop",
            "ip saddr { 10.77.0.100, 10.77.0.101 } ip saddr != @alive4 fib saddr type local counter drop",
            "ip6 saddr { 2001:db8::64 } ip6 saddr != @alive6 fib saddr type local counter drop",
            "oifname . ip6 saddr { \"eth0\" . fe80::64 } oifname . ip6 saddr != @alive_link6 counter drop",
            "arp daddr ip { 10.77.0.100, 10.77.0.101 } arp daddr ip != @alive4 \
             arp saddr ip != { 10.77.0.100, 10.77.0.101 } counter drop",
            "arp saddr ip { 10.77.0.100, 10.77.0.101 } arp saddr ip != @alive4 counter drop",
        ] {
            let line = format!("    {rule} comment \"addresses of services, unless they are renewed\"\n");
            assert_eq!(text.matches(&line).count(), 1, "{rule}\nin\n{text}");
        }
        assert_eq!(text.matches("counter drop").count(), 8, "{text}");
    }

    #[test]
    fn silent_addresses_are_dropped_where_they_would_be_accepted() {
        let silent = all(&["10.77.0.100", "2001:db8::64", "fe80::64"]);
        let text = ruleset(&Rules { guarded: BTreeSet::new(), silent }, Replace::Everything);
        let (_, input) = text.split_once("type filter hook input priority 0; policy accept;\n").unwrap();
        let (input, output) =
            input.split_once("type filter hook output priority 0; policy accept;\n").unwrap();
        for (chain, side, name) in [(input, 'd', "iifname"), (output, 's', "oifname")] {
            for rule in [
                format!("ip {side}addr {{ 10.77.0.100 }} counter drop"),
                format!("ip6 {side}addr {{ 2001:db8::64 }} counter drop"),
                format!("{name} . ip6 {side}addr {{ \"eth0\" . fe80::64 }} counter drop"),
            ] {
                let at = chain.find(&rule).unwrap_or_else(|| panic!("{rule}\nin\n{text}"));
                assert!(chain[..at].contains("nd-neighbor-solicit"), "neighbours come first");
            }
        }
        assert_eq!(text.matches("counter drop").count(), 6, "{text}");
    }

    #[test]
    fn comments_are_as_long_as_the_kernel_takes_them() {
        for comment in [TABLE_COMMENT, ALIVE_COMMENT, GUARDED_COMMENT, SILENT_COMMENT] {
            assert!(comment.len() < 128 && !comment.contains('"'), "{comment}");
        }
    }
}
