//! `global_defs`: settings of the whole daemon, and what instances take from it (failover 6.2).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::{Draft, mail, unexpected};
use crate::config::source::Span;
use crate::failover::config::{AnnouncePolicy, LeaseStore, Notify, VrrpVersion};
use crate::failover::keywords::GLOBALS;
use crate::failover::lexer::Word;
use crate::failover::messages::Messages;
use crate::failover::tree::Statement;
use crate::failover::value::{Value, entries, int, names};

/// How long a lease is good if nothing is said.
pub(in crate::failover) const LEASE_TTL: Duration = Duration::from_millis(600);
/// What keys begin with if nothing is said.
pub(in crate::failover) const LEASE_PREFIX: &str = "/lockstep";
/// A day, in seconds.
const EXTRA_REFRESH_MAX_S: i64 = 86_400;
/// What an instance announces if nothing is said (failover 1.14).
pub(in crate::failover) const ANNOUNCE: AnnouncePolicy = AnnouncePolicy {
    repeat: 5,
    second_burst_after: Duration::from_secs(5),
    refresh: Duration::ZERO,
    refresh_repeat: 1,
    lower_priority_repeat: 5,
    lower_priority_second_burst_after: Duration::from_secs(5),
    extra_refresh: Duration::ZERO,
    arp_interval: Duration::ZERO,
    na_interval: Duration::ZERO,
};
/// Where adverts go if nothing is said (failover 1.1).
pub(in crate::failover) const GROUPS: (IpAddr, IpAddr) =
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)), IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)));

/// What instances take from the globals unless they say otherwise.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) version: VrrpVersion,
    pub(super) announce: AnnouncePolicy,
    /// Said apart from the burst of a new master.
    pub(super) lower_repeat: Option<u32>,
    pub(super) lower_delay: Option<Duration>,
    pub(super) group4: IpAddr,
    pub(super) group6: IpAddr,
    pub(super) down_timer_adverts: u8,
    pub(super) lower_prio_no_advert: bool,
    pub(super) higher_prio_send_advert: bool,
    pub(super) checks_source: bool,
    pub(super) mails: bool,
    /// `smtp_alert_vrrp`, which counts more than `smtp_alert`.
    pub(super) mails_vrrp: Option<bool>,
    /// What says so.
    pub(super) mails_span: Option<Span>,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults {
            version: VrrpVersion::V2,
            announce: ANNOUNCE,
            lower_repeat: None,
            lower_delay: None,
            group4: GROUPS.0,
            group6: GROUPS.1,
            down_timer_adverts: 3,
            lower_prio_no_advert: false,
            higher_prio_send_advert: false,
            checks_source: false,
            mails: false,
            mails_vrrp: None,
            mails_span: None,
        }
    }
}

impl Defaults {
    /// What groups and instances tell, and by which means, unless they say otherwise.
    pub(super) fn notify(&self) -> Notify {
        Notify { mails: self.mails_vrrp.unwrap_or(self.mails), ..Notify::default() }
    }
}

/// A count of packets, which the tables limit.
pub(super) fn count(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The version of a number that the tables limit to 2 and 3.
pub(super) fn version(number: i64) -> VrrpVersion {
    if number == 3 { VrrpVersion::V3 } else { VrrpVersion::V2 }
}

/// Lines of `lease_*`; they make sense together only.
#[derive(Default)]
struct Lease {
    endpoints: Vec<String>,
    ttl: Option<Duration>,
    prefix: Option<String>,
    without_store: Option<Span>,
}

impl Draft {
    pub(super) fn globals(&mut self, statement: &Statement, messages: &mut Messages) {
        let mut lease = Lease::default();
        let mut min_garp = false;
        for entry in entries(&GLOBALS, statement.block(), messages) {
            let span = entry.statement.span();
            let globals = &mut self.config.globals;
            let defaults = &mut self.defaults;
            match (entry.name, entry.value) {
                ("router_id", Value::Word(word)) => globals.router_id = Some(word.text.clone()),
                ("notification_email", Value::Lines(lines)) => {
                    let words = lines.iter().flat_map(|line| &line.words);
                    globals.email_to.extend(words.filter_map(|word| mail::address(word, messages)));
                }
                ("notification_email_from", Value::Word(word)) => {
                    globals.email_from = mail::address(word, messages);
                }
                ("smtp_server", Value::Words(words)) => globals.smtp_server = mail::server(words, messages),
                ("smtp_helo_name", Value::Word(word)) => {
                    globals.smtp_helo_name = mail::helo_name(word, messages);
                }
                ("no_email_faults", _) => globals.no_email_faults = true,
                ("smtp_connect_timeout", Value::Time(time)) => globals.smtp_connect_timeout = Some(time),
                ("smtp_alert", Value::Flag(flag)) => {
                    (defaults.mails, defaults.mails_span) = (flag, Some(span));
                }
                ("smtp_alert_vrrp", Value::Flag(flag)) => {
                    (defaults.mails_vrrp, defaults.mails_span) = (Some(flag), Some(span));
                }
                ("script_user", Value::Words(words)) => globals.script_user = names(words, messages),
                ("enable_script_security", _) => globals.script_security = true,
                ("notify_fifo" | "vrrp_notify_fifo", Value::Words([path, user @ ..])) => {
                    if let Some(user) = user.first() {
                        let message = format!("the user '{}' has no effect here", user.text);
                        messages.warn(user.span, message, "make the FIFO in front, with its owner");
                    }
                    globals.notify_fifos.push(path.text.clone());
                }
                ("vrrp_notify_priority_changes", Value::Flag(flag)) => globals.notify_priority_changes = flag,
                ("lease_store", Value::Words(words)) => {
                    lease.endpoints = words.iter().filter_map(|word| endpoint(word, messages)).collect();
                }
                ("lease_ttl", Value::Time(ttl)) => {
                    lease.ttl = Some(ttl);
                    lease.without_store = Some(span);
                }
                ("lease_prefix", Value::Word(word)) => {
                    lease.prefix = Some(word.text.clone());
                    lease.without_store = Some(span);
                }
                ("vrrp_version", Value::Int(number)) => defaults.version = version(number),
                ("vrrp_garp_master_delay", Value::Time(time)) => defaults.announce.second_burst_after = time,
                ("vrrp_garp_master_repeat", Value::Int(n)) => defaults.announce.repeat = count(n),
                ("vrrp_garp_master_refresh", Value::Time(time)) => defaults.announce.refresh = time,
                ("vrrp_garp_master_refresh_repeat", Value::Int(n)) => {
                    defaults.announce.refresh_repeat = count(n);
                }
                ("vrrp_garp_lower_prio_delay", Value::Time(time)) => defaults.lower_delay = Some(time),
                ("vrrp_garp_lower_prio_repeat", Value::Int(n)) => defaults.lower_repeat = Some(count(n)),
                ("vrrp_garp_extra_if", Value::Words(words)) => {
                    if let Some(time) = extra_refresh(words, messages) {
                        defaults.announce.extra_refresh = time;
                    }
                }
                ("vrrp_garp_interval", Value::Time(time)) => defaults.announce.arp_interval = time,
                ("vrrp_gna_interval", Value::Time(time)) => defaults.announce.na_interval = time,
                ("vrrp_min_garp", Value::Flag(flag)) => min_garp = flag,
                ("vrrp_mcast_group4", Value::Address(group)) => {
                    if is_group(group, true, span, messages) {
                        defaults.group4 = group;
                    }
                }
                ("vrrp_mcast_group6", Value::Address(group)) => {
                    if is_group(group, false, span, messages) {
                        defaults.group6 = group;
                    }
                }
                ("vrrp_down_timer_adverts", Value::Int(n)) => {
                    defaults.down_timer_adverts = u8::try_from(n).unwrap_or(3);
                }
                ("vrrp_lower_prio_no_advert", Value::Flag(flag)) => defaults.lower_prio_no_advert = flag,
                ("vrrp_higher_prio_send_advert", Value::Flag(flag)) => {
                    defaults.higher_prio_send_advert = flag
                }
                ("vrrp_check_unicast_src", Value::Flag(flag)) => defaults.checks_source = flag,
                (name, _) => unexpected(name),
            }
        }
        if min_garp {
            // failover 1.14: one packet, no second burst
            self.defaults.announce.repeat = 1;
            self.defaults.announce.second_burst_after = Duration::ZERO;
        }
        self.lease(lease, messages);
    }

    fn lease(&mut self, lease: Lease, messages: &mut Messages) {
        if !lease.endpoints.is_empty() {
            self.config.globals.lease = Some(LeaseStore {
                endpoints: lease.endpoints,
                ttl: lease.ttl.unwrap_or(LEASE_TTL),
                prefix: lease.prefix.unwrap_or_else(|| LEASE_PREFIX.to_owned()),
            });
        } else if let Some(span) = lease.without_store {
            let help = "add a line like 'lease_store http://10.0.0.1:2379', or take this one away";
            messages.error(span, "this says something of a lease, but there is no store for it", help);
        }
    }
}

/// `[all] SECONDS` of `garp_extra_if`; zero is never. The form without `all` counts for addresses on macvlans of their own,
/// on interfaces other than the instance's (measured with keepalived 2.2.7); there are none here.
pub(super) fn extra_refresh(words: &[Word], messages: &mut Messages) -> Option<Duration> {
    const HELP: &str = "write 'all' and a number of seconds";
    match words {
        [all, seconds] if all.is("all") => {
            let seconds = int("garp_extra_if", seconds, 0, EXTRA_REFRESH_MAX_S, messages)?;
            Some(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
        }
        [seconds] => {
            if int("garp_extra_if", seconds, 0, EXTRA_REFRESH_MAX_S, messages)? != 0 {
                let message = "without 'all' this counts for macvlans of single addresses only";
                let help = format!("there are none; write 'all {}'", seconds.text);
                messages.warn(seconds.span, message, help);
            }
            Some(Duration::ZERO)
        }
        [word, ..] => {
            messages.error(word.span, format!("'{}' does not belong here", word.text), HELP);
            None
        }
        [] => None,
    }
}

/// Whether `group` is a multicast address of the family; tells if not.
pub(super) fn is_group(group: IpAddr, is_ipv4: bool, span: Span, messages: &mut Messages) -> bool {
    let fits = group.is_multicast() && group.is_ipv4() == is_ipv4;
    if !fits {
        let (family, example) = if is_ipv4 { ("IPv4", GROUPS.0) } else { ("IPv6", GROUPS.1) };
        let message = format!("{group} is not a multicast address of {family}");
        messages.error(span, message, format!("write one like {example}"));
    }
    fits
}

/// `http://HOST:PORT` of a member of the store.
fn endpoint(word: &Word, messages: &mut Messages) -> Option<String> {
    const HELP: &str = "write the client address of a member, like http://10.0.0.1:2379";
    if word.text.starts_with("https://") {
        let message = "the store is not spoken to over TLS yet";
        messages.error(word.span, message, "use http:// on a network of its own, as for the replication");
        return None;
    }
    let rest = word.text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let parts = rest.and_then(|rest| rest.rsplit_once(':'));
    let fits = parts.is_some_and(|(host, port)| is_host(host) && is_port(port));
    if !fits {
        messages.error(word.span, format!("'{}' is not the address of a store", word.text), HELP);
        return None;
    }
    rest.map(|rest| format!("http://{rest}"))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.len() <= 253
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        }
    }
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}
