//! Adverts as they lie behind the IP header: layouts of version 2 and version 3, checksums, and the header of IPsec that
//! only has to be recognised. Nothing here knows a configuration; [`super::check`] does.
// Source: failover 1.1-1.6, RFC 3768 5, RFC 5798 5, RFC 9568.

use std::net::IpAddr;
use std::time::Duration;

use model::failover::config::VrrpVersion;

use super::check::CheckError;

/// IP protocol of VRRP (failover 1.1).
pub const PROTOCOL: u8 = 112;
/// IP protocol of the authentication header (failover 1.6).
pub const PROTOCOL_AH: u8 = 51;
/// Octets before the addresses, in both versions.
pub const HEADER_BYTES: usize = 8;
/// Octets of authentication behind the addresses of version 2; they are there without authentication too.
pub const AUTH_BYTES: usize = 8;
/// Octets of the authentication header that keepalived puts before an advert.
pub const AH_BYTES: usize = 24;
/// The longest interval of version 3, in hundredths of a second: the field has twelve bits.
pub const INTERVAL_CS_MAX: u16 = 0xfff;
/// Priority of a master that stops (failover 1.2).
pub const PRIORITY_STOP: u8 = 0;
/// Priority of the owner of the addresses (failover 1.2).
pub const PRIORITY_OWNER: u8 = 255;

/// The only type of packet there is.
const TYPE_ADVERT: u8 = 1;
/// Length of every CARP packet, and what its first and fourth octet hold (failover 2.8).
const CARP_BYTES: usize = 36;
const CARP_FIRST: u8 = 0x21;
const CARP_AUTH_WORDS: u8 = 7;

/// What the IP header of a received packet said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpFacts {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; its family is that of the packet.
    pub destination: IpAddr,
    /// Protocol of the payload: [`PROTOCOL`] or [`PROTOCOL_AH`].
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Octets of the header itself: 20 and more, 40 for IPv6.
    pub header_bytes: u16,
    /// Octets of header and payload together, as the header counts them.
    pub total_bytes: u16,
}

impl IpFacts {
    /// Whether the packet went to a group.
    pub fn is_multicast(&self) -> bool {
        self.destination.is_multicast()
    }
}

/// What only one of the versions has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// RFC 3768, IPv4.
    V2 {
        /// Interval of the adverts, in seconds.
        interval_s: u8,
        /// 0 none, 1 password, 2 IPsec.
        auth_type: u8,
        /// The password, padded with zeros.
        auth_data: [u8; AUTH_BYTES],
    },
    /// RFC 5798.
    V3 {
        /// Interval of the adverts, in hundredths of a second; twelve bits.
        interval_cs: u16,
    },
}

/// One advert.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advert {
    /// Version, and what belongs to it.
    pub form: Form,
    /// Number of the virtual router.
    pub virtual_router_id: u8,
    /// Priority of the sender; 0: it stops.
    pub priority: u8,
    /// The virtual addresses, in the order of the sender's configuration; all of one family.
    pub addresses: Vec<IpAddr>,
}

/// How the checksum of version 3 over IPv4 is computed: there are two readings of the standard (failover 1.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChecksumForm {
    /// Over the pseudo header too: RFC 5798 as keepalived reads it.
    #[default]
    PseudoHeader,
    /// Over the message alone: RFC 9568.
    MessageOnly,
}

impl Advert {
    /// Version of the advert.
    pub const fn version(&self) -> VrrpVersion {
        match self.form {
            Form::V2 { .. } => VrrpVersion::V2,
            Form::V3 { .. } => VrrpVersion::V3,
        }
    }

    /// Interval that the sender announces; zero is possible in what was received.
    pub const fn interval(&self) -> Duration {
        match self.form {
            Form::V2 { interval_s, .. } => Duration::from_secs(interval_s as u64),
            Form::V3 { interval_cs } => Duration::from_millis(interval_cs as u64 * 10),
        }
    }

    /// The message for this way, with its checksum. The addresses of the way are those of the IP header, and a message
    /// for two peers is made twice: each has its own checksum in version 3.
    ///
    /// # Panics
    /// If there are more than 255 addresses, addresses of another family than the way, or an interval that does not fit:
    /// none of them gets through the checks of a configuration.
    pub fn encode(&self, source: IpAddr, destination: IpAddr, checksum: ChecksumForm) -> Vec<u8> {
        let count = u8::try_from(self.addresses.len()).expect("an advert has at most 255 addresses");
        let mut out = Vec::with_capacity(HEADER_BYTES + 16 * self.addresses.len() + AUTH_BYTES);
        match self.form {
            Form::V2 { interval_s, auth_type, .. } => {
                out.extend([0x21, self.virtual_router_id, self.priority, count, auth_type, interval_s]);
            }
            Form::V3 { interval_cs } => {
                assert!(
                    interval_cs <= INTERVAL_CS_MAX,
                    "an interval of {interval_cs} hundredths has no field"
                );
                let [high, low] = interval_cs.to_be_bytes();
                out.extend([0x31, self.virtual_router_id, self.priority, count, high, low]);
            }
        }
        out.extend([0, 0]);
        for address in &self.addresses {
            assert!(address.is_ipv4() == source.is_ipv4(), "{address} is advertised from {source}");
            match address {
                IpAddr::V4(a) => out.extend(a.octets()),
                IpAddr::V6(a) => out.extend(a.octets()),
            }
        }
        if let Form::V2 { auth_data, .. } = self.form {
            out.extend(auth_data);
        }
        let pseudo = match (self.form, source) {
            (Form::V2 { .. }, _) => 0,
            (Form::V3 { .. }, IpAddr::V4(_)) if checksum == ChecksumForm::MessageOnly => 0,
            (Form::V3 { .. }, _) => pseudo_header_sum(source, destination, PROTOCOL, out.len()),
        };
        let sum = !fold(pseudo + sum_of_words(&out));
        out[6..8].copy_from_slice(&sum.to_be_bytes());
        out
    }

    /// Reads an advert without comparing it with any configuration: layout, type and checksum only.
    pub fn decode(payload: &[u8], ip: &IpFacts) -> Result<Advert, CheckError> {
        let found = Found::parse(payload, ip)?;
        if found.ah.is_some() {
            return Err(CheckError::AuthenticationHeader);
        }
        found.check_length()?;
        found.check_kind()?;
        found.check_checksum()?;
        Ok(found.advert)
    }
}

/// The authentication header of IPsec, as keepalived uses it. It is decoded to be named in a message; its HMAC is not
/// verified, since nobody should start to use it.
// Source: failover 1.6, RFC 4302 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ah {
    /// The sender's address, by convention.
    pub spi: u32,
    /// Number of the packet, from 1 on.
    pub sequence: u32,
    /// HMAC-MD5, truncated.
    pub icv: [u8; 12],
}

impl Ah {
    /// Takes the header off the front.
    pub fn split(payload: &[u8]) -> Result<(Ah, &[u8]), CheckError> {
        let Some((head, rest)) = payload.split_first_chunk::<AH_BYTES>() else {
            return Err(CheckError::TooShort { bytes: payload.len(), needs: AH_BYTES + HEADER_BYTES });
        };
        let [next, words, _, _, s0, s1, s2, s3, n0, n1, n2, n3, icv @ ..] = *head;
        if next != PROTOCOL || words != 4 {
            return Err(CheckError::AhShape { next_header: next, length: words });
        }
        let spi = u32::from_be_bytes([s0, s1, s2, s3]);
        Ok((Ah { spi, sequence: u32::from_be_bytes([n0, n1, n2, n3]), icv }, rest))
    }
}

/// Whether a payload of protocol 112 is CARP, which shares group, TTL and first octet with version 2 (failover 2.8). The
/// first octet counts: an advert of version 3 with seven addresses has the same length and the same fourth octet.
pub fn is_carp(payload: &[u8]) -> bool {
    payload.len() == CARP_BYTES && payload[0] == CARP_FIRST && payload[3] == CARP_AUTH_WORDS
}

/// Number of the virtual router (or of the CARP host) in a payload, where it is in every version.
pub fn virtual_router_id(payload: &[u8], ip: &IpFacts) -> Option<u8> {
    let at = if ip.protocol == PROTOCOL_AH { AH_BYTES + 1 } else { 1 };
    payload.get(at).copied()
}

/// What a payload holds, and where. Made from everything that has a head and all of its addresses, whatever else is
/// wrong with it: that much is needed to call an advert a sign of life.
pub(super) struct Found<'a> {
    pub advert: Advert,
    pub ah: Option<Ah>,
    /// The message from its first octet to the last one that its fields account for.
    message: &'a [u8],
    /// Octets behind the message.
    surplus: usize,
    ip: &'a IpFacts,
}

impl<'a> Found<'a> {
    pub fn parse(payload: &'a [u8], ip: &'a IpFacts) -> Result<Found<'a>, CheckError> {
        if ip.protocol != PROTOCOL_AH && is_carp(payload) {
            return Err(CheckError::Carp { host_id: payload[1] });
        }
        let (ah, message) = match ip.protocol {
            PROTOCOL_AH => Ah::split(payload).map(|(ah, rest)| (Some(ah), rest))?,
            _ => (None, payload),
        };
        let Some((&[first, id, priority, count, a, b, _, _], rest)) =
            message.split_first_chunk::<HEADER_BYTES>()
        else {
            return Err(CheckError::TooShort { bytes: message.len(), needs: HEADER_BYTES });
        };
        let (address_bytes, auth_bytes) = match (first >> 4, ip.source) {
            (2, IpAddr::V4(_)) => (4, AUTH_BYTES),
            (3, IpAddr::V4(_)) => (4, 0),
            (3, IpAddr::V6(_)) => (16, 0),
            (version, _) => return Err(CheckError::UnknownVersion { version }),
        };
        let addresses_bytes = usize::from(count) * address_bytes;
        let needs = HEADER_BYTES + addresses_bytes + auth_bytes;
        if message.len() < needs {
            return Err(CheckError::TooShort { bytes: message.len(), needs });
        }
        let form = if auth_bytes == 0 {
            Form::V3 { interval_cs: u16::from_be_bytes([a, b]) & INTERVAL_CS_MAX }
        } else {
            let mut auth_data = [0; AUTH_BYTES];
            auth_data.copy_from_slice(&rest[addresses_bytes..addresses_bytes + AUTH_BYTES]);
            Form::V2 { interval_s: b, auth_type: a, auth_data }
        };
        let addresses = rest[..addresses_bytes].chunks_exact(address_bytes).map(address).collect();
        let advert = Advert { form, virtual_router_id: id, priority, addresses };
        let surplus = message.len() - needs;
        Ok(Found { advert, ah, message: &message[..needs], surplus, ip })
    }

    fn before_message(&self) -> usize {
        usize::from(self.ip.header_bytes) + if self.ah.is_some() { AH_BYTES } else { 0 }
    }

    /// Row 2 of failover 1.7: an Ethernet frame is padded to 46 octets, and some stacks do not cut that off.
    pub fn check_length(&self) -> Result<(), CheckError> {
        const ETHERNET_BYTES_MIN: usize = 46;
        let with_surplus = self.before_message() + self.message.len() + self.surplus;
        if self.surplus > 0 && with_surplus > ETHERNET_BYTES_MIN {
            let bytes = self.message.len() + self.surplus;
            return Err(CheckError::TooLong { bytes, needs: self.message.len() });
        }
        Ok(())
    }

    /// Row 7 of failover 1.7, first half.
    pub fn check_kind(&self) -> Result<(), CheckError> {
        match self.message[0] & 0xf {
            TYPE_ADVERT => Ok(()),
            kind => Err(CheckError::Kind { kind }),
        }
    }

    /// Row 7 of failover 1.7, second half.
    pub fn check_ip_length(&self) -> Result<(), CheckError> {
        let needs = self.before_message() + self.message.len();
        if usize::from(self.ip.total_bytes) != needs {
            return Err(CheckError::IpLength { total: self.ip.total_bytes, needs });
        }
        Ok(())
    }

    /// Row 9 of failover 1.7; both forms of version 3 over IPv4 are accepted.
    pub fn check_checksum(&self) -> Result<(), CheckError> {
        let message = sum_of_words(self.message);
        let pseudo = pseudo_header_sum(self.ip.source, self.ip.destination, PROTOCOL, self.message.len());
        let right = match (self.advert.form, self.ip.source) {
            (Form::V2 { .. }, _) => fold(message) == 0xffff,
            (Form::V3 { .. }, IpAddr::V4(_)) => fold(message) == 0xffff || fold(message + pseudo) == 0xffff,
            (Form::V3 { .. }, IpAddr::V6(_)) => fold(message + pseudo) == 0xffff,
        };
        let found = u16::from_be_bytes([self.message[6], self.message[7]]);
        if right { Ok(()) } else { Err(CheckError::Checksum { found }) }
    }
}

fn address(octets: &[u8]) -> IpAddr {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return IpAddr::from(v4);
    }
    IpAddr::from(<[u8; 16]>::try_from(octets).expect("addresses are cut to 4 or 16 octets"))
}

/// Sum of 16-bit words, not yet folded; an odd last octet counts as if a zero followed.
pub(crate) fn sum_of_words(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    bytes.chunks(2).map(word).sum()
}

/// Sum of the pseudo header of either family (failover 1.4).
pub(crate) fn pseudo_header_sum(source: IpAddr, destination: IpAddr, protocol: u8, bytes: usize) -> u32 {
    let of = |address: IpAddr| match address {
        IpAddr::V4(a) => sum_of_words(&a.octets()),
        IpAddr::V6(a) => sum_of_words(&a.octets()),
    };
    let bytes = u32::try_from(bytes).expect("a packet has less than 64 KiB");
    of(source) + of(destination) + u32::from(protocol) + (bytes >> 16) + (bytes & 0xffff)
}

/// Ones-complement: what is carried out at the top comes in at the bottom.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests;
