//! Whether an advert is one of ours: the checks on receipt in keepalived's order, and what is made of one that fails.
//!
//! keepalived drops whatever differs from its own configuration and so hears nothing from a router that is alive; two of
//! them that disagree are both Master for ever. Here a difference is one of two things. Either the packet does not come
//! from a router of this segment that could be ours (wrong TTL, no advert, cut off, a stranger among unicast peers): then
//! it is dropped. Or it does, and only disagrees with us: then it is a *sign of life* (see the documentation of
//! [`super`]).
// Source: failover 1.7.

use std::net::IpAddr;
use std::time::Duration;

use model::failover::config::{Authentication, Sending, UnicastPeer, VrrpInstance, VrrpVersion};

use super::packet::{AUTH_BYTES, Advert, Form, Found, IpFacts};

/// TTL of everything that was sent on this segment and not forwarded (failover 1.1).
pub const TTL: u8 = 255;

/// Why an advert is not accepted. Variants that need no explanation beyond their text have none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CheckError {
    #[error("it is CARP, of host id {host_id}, not VRRP")]
    Carp { host_id: u8 },
    #[error("it has an IPsec authentication header (auth_type AH), which is not supported")]
    AuthenticationHeader,
    #[error(
        "its authentication header announces protocol {next_header} and a length of {length}, not 112 and 4"
    )]
    AhShape { next_header: u8, length: u8 },
    #[error("it is too short: {bytes} octets instead of {needs}")]
    TooShort { bytes: usize, needs: usize },
    #[error("it is too long: {bytes} octets instead of {needs}")]
    TooLong { bytes: usize, needs: usize },
    #[error("its TTL is {ttl}, not 255: it comes from another segment")]
    Ttl { ttl: u8 },
    #[error("its TTL is {ttl}, outside {min} to {max} for this peer")]
    TtlRange { ttl: u8, min: u8, max: u8 },
    /// Neither 2 nor 3, or version 2 over IPv6.
    #[error("version {version} does not exist here")]
    UnknownVersion { version: u8 },
    #[error("it has version {found}, not {own}")]
    Version { found: u8, own: u8 },
    #[error("its authentication type is {found}, not {own}")]
    AuthType { found: u8, own: u8 },
    #[error("its password is not ours")]
    Password,
    #[error("its interval is {found_s} s, not {own_s} s")]
    Interval { found_s: u64, own_s: u64 },
    #[error("its interval is zero")]
    IntervalZero,
    #[error("it is of type {kind}, not an advert")]
    Kind { kind: u8 },
    #[error("the IP header counts {total} octets instead of {needs}")]
    IpLength { total: u16, needs: usize },
    #[error("its checksum {found:#06x} is wrong")]
    Checksum { found: u16 },
    #[error("it was sent to a group, and we send to single peers")]
    Multicast,
    #[error("it was sent to us alone, and we send to a group")]
    Unicast,
    #[error("it has {found} addresses, not {own}")]
    AddressCount { found: usize, own: usize },
    #[error("it lacks the address {0}")]
    AddressMissing(IpAddr),
    #[error("its sender is not among our peers")]
    UnknownPeer,
    /// An address that no host can have.
    #[error("its source address cannot be that of a router")]
    Source,
}

/// [`CheckError`] without its particulars: for counting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)]
pub enum Reason {
    Carp,
    AuthenticationHeader,
    AhShape,
    TooShort,
    TooLong,
    Ttl,
    TtlRange,
    UnknownVersion,
    Version,
    AuthType,
    Password,
    Interval,
    IntervalZero,
    Kind,
    IpLength,
    Checksum,
    Multicast,
    Unicast,
    AddressCount,
    AddressMissing,
    UnknownPeer,
    Source,
}

impl Reason {
    /// Whether an advert that fails for this reason, and for no worse one, still shows a living router of ours.
    pub const fn is_sign_of_life(self) -> bool {
        match self {
            Reason::Carp
            | Reason::AhShape
            | Reason::TooShort
            | Reason::Ttl
            | Reason::TtlRange
            | Reason::UnknownVersion
            | Reason::Kind
            | Reason::UnknownPeer
            | Reason::Source => false,
            // Damage on the way is caught by Ethernet and dropped; what arrives with another checksum comes from a
            // program that computes it in another way.
            Reason::Checksum
            | Reason::AuthenticationHeader
            | Reason::TooLong
            | Reason::Version
            | Reason::AuthType
            | Reason::Password
            | Reason::Interval
            | Reason::IntervalZero
            | Reason::IpLength
            | Reason::Multicast
            | Reason::Unicast
            | Reason::AddressCount
            | Reason::AddressMissing => true,
        }
    }
}

impl CheckError {
    /// For counting.
    pub const fn reason(&self) -> Reason {
        match self {
            CheckError::Carp { .. } => Reason::Carp,
            CheckError::AuthenticationHeader => Reason::AuthenticationHeader,
            CheckError::AhShape { .. } => Reason::AhShape,
            CheckError::TooShort { .. } => Reason::TooShort,
            CheckError::TooLong { .. } => Reason::TooLong,
            CheckError::Ttl { .. } => Reason::Ttl,
            CheckError::TtlRange { .. } => Reason::TtlRange,
            CheckError::UnknownVersion { .. } => Reason::UnknownVersion,
            CheckError::Version { .. } => Reason::Version,
            CheckError::AuthType { .. } => Reason::AuthType,
            CheckError::Password => Reason::Password,
            CheckError::Interval { .. } => Reason::Interval,
            CheckError::IntervalZero => Reason::IntervalZero,
            CheckError::Kind { .. } => Reason::Kind,
            CheckError::IpLength { .. } => Reason::IpLength,
            CheckError::Checksum { .. } => Reason::Checksum,
            CheckError::Multicast => Reason::Multicast,
            CheckError::Unicast => Reason::Unicast,
            CheckError::AddressCount { .. } => Reason::AddressCount,
            CheckError::AddressMissing(_) => Reason::AddressMissing,
            CheckError::UnknownPeer => Reason::UnknownPeer,
            CheckError::Source => Reason::Source,
        }
    }
}

/// What an instance expects of the adverts of its peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expectation {
    version: VrrpVersion,
    authentication: Authentication,
    interval: Duration,
    addresses: Vec<IpAddr>,
    /// The peers and whether only they are listened to; `None`: multicast.
    unicast: Option<(Vec<UnicastPeer>, bool)>,
}

impl Expectation {
    /// That of this instance.
    pub fn of(instance: &VrrpInstance) -> Expectation {
        Expectation {
            version: instance.version,
            authentication: instance.authentication,
            interval: instance.advert_interval,
            addresses: instance.addresses.iter().map(|a| a.address).collect(),
            unicast: match &instance.sending {
                Sending::Multicast { .. } => None,
                Sending::Unicast { peers, checks_source, .. } => Some((peers.clone(), *checks_source)),
            },
        }
    }

    fn peer(&self, source: IpAddr) -> Option<&UnicastPeer> {
        self.unicast.as_ref()?.0.iter().find(|peer| peer.address == source)
    }
}

/// What an advert is to us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// One of ours.
    Accepted(Advert),
    /// From a living router that disagrees with us.
    SignOfLife {
        /// What it says.
        advert: Advert,
        /// The first thing that is wrong with it.
        why: CheckError,
    },
    /// Nothing.
    Dropped(CheckError),
}

/// All checks, in the order of keepalived.
pub fn check(payload: &[u8], ip: &IpFacts, own: &Expectation) -> Verdict {
    let found = match Found::parse(payload, ip) {
        Ok(found) => found,
        Err(why) => return Verdict::Dropped(why),
    };
    match first_failure(&found, ip, own) {
        Ok(()) => Verdict::Accepted(found.advert),
        Err(why) if why.reason().is_sign_of_life() => match plausible(&found, ip, own) {
            Ok(()) => Verdict::SignOfLife { advert: found.advert, why },
            Err(worse) => Verdict::Dropped(worse),
        },
        Err(why) => Verdict::Dropped(why),
    }
}

fn first_failure(found: &Found<'_>, ip: &IpFacts, own: &Expectation) -> Result<(), CheckError> {
    let advert = &found.advert;
    if found.ah.is_some() {
        return Err(CheckError::AuthenticationHeader);
    }
    found.check_length()?;
    check_ttl(ip, own)?;
    check_version(advert, own)?;
    check_version_2(advert, own)?;
    found.check_kind()?;
    found.check_ip_length()?;
    // A longer or shorter interval of version 3 is learned; with none nothing can be timed.
    if advert.interval().is_zero() {
        return Err(CheckError::IntervalZero);
    }
    found.check_checksum()?;
    match (&own.unicast, ip.is_multicast()) {
        (Some(_), true) => return Err(CheckError::Multicast),
        (None, false) => return Err(CheckError::Unicast),
        (Some(_), false) | (None, true) => {}
    }
    check_addresses(advert, own)?;
    check_peer(ip, own)?;
    check_source(ip)
}

/// Rows 3 and 12 of failover 1.7 once more, and stricter: a packet that is not even right must come from a peer that we
/// know or, where peers have no list, from this segment. Otherwise any host that can reach us could keep us Backup; and
/// routers that send to single peers may share a segment, and numbers, with others that do not.
fn plausible(found: &Found<'_>, ip: &IpFacts, own: &Expectation) -> Result<(), CheckError> {
    found.check_kind()?;
    check_source(ip)?;
    check_ttl(ip, own)?;
    match &own.unicast {
        Some(_) if own.peer(ip.source).is_none() => Err(CheckError::UnknownPeer),
        None if ip.ttl != TTL => Err(CheckError::Ttl { ttl: ip.ttl }),
        Some(_) | None => Ok(()),
    }
}

fn check_ttl(ip: &IpFacts, own: &Expectation) -> Result<(), CheckError> {
    let ttl = ip.ttl;
    if ip.is_multicast() {
        return if ttl == TTL { Ok(()) } else { Err(CheckError::Ttl { ttl }) };
    }
    match own.peer(ip.source).and_then(|peer| peer.ttl_range) {
        Some((min, max)) if ttl < min || ttl > max => Err(CheckError::TtlRange { ttl, min, max }),
        Some(_) | None => Ok(()),
    }
}

const fn number(version: VrrpVersion) -> u8 {
    match version {
        VrrpVersion::V2 => 2,
        VrrpVersion::V3 => 3,
    }
}

fn check_version(advert: &Advert, own: &Expectation) -> Result<(), CheckError> {
    if advert.version() != own.version {
        let (found, own) = (number(advert.version()), number(own.version));
        return Err(CheckError::Version { found, own });
    }
    Ok(())
}

fn check_version_2(advert: &Advert, own: &Expectation) -> Result<(), CheckError> {
    let Form::V2 { interval_s, auth_type, auth_data } = advert.form else { return Ok(()) };
    let (own_type, password) = auth_fields(own.authentication);
    if auth_type != own_type {
        return Err(CheckError::AuthType { found: auth_type, own: own_type });
    }
    if own_type != 0 && auth_data != password {
        return Err(CheckError::Password);
    }
    let (found_s, own_s) = (u64::from(interval_s), own.interval.as_secs());
    if found_s != own_s {
        return Err(CheckError::Interval { found_s, own_s });
    }
    Ok(())
}

/// Authentication type and data of version 2.
pub(super) const fn auth_fields(authentication: Authentication) -> (u8, [u8; AUTH_BYTES]) {
    match authentication {
        Authentication::None => (0, [0; AUTH_BYTES]),
        Authentication::Password(password) => (1, password),
    }
}

fn check_addresses(advert: &Advert, own: &Expectation) -> Result<(), CheckError> {
    let (found, count) = (advert.addresses.len(), own.addresses.len());
    if found != count {
        return Err(CheckError::AddressCount { found, own: count });
    }
    match own.addresses.iter().find(|a| !advert.addresses.contains(a)) {
        Some(missing) => Err(CheckError::AddressMissing(*missing)),
        None => Ok(()),
    }
}

fn check_peer(ip: &IpFacts, own: &Expectation) -> Result<(), CheckError> {
    match &own.unicast {
        Some((_, true)) if own.peer(ip.source).is_none() => Err(CheckError::UnknownPeer),
        Some(_) | None => Ok(()),
    }
}

fn check_source(ip: &IpFacts) -> Result<(), CheckError> {
    let source = ip.source;
    let broadcast = matches!(source, IpAddr::V4(a) if a.is_broadcast());
    if source.is_unspecified() || source.is_multicast() || source.is_loopback() || broadcast {
        return Err(CheckError::Source);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
