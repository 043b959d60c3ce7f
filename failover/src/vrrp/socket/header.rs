//! The IPv4 header of adverts: RFC 791.

use std::net::Ipv4Addr;

use super::{IP_PROTOCOL, Received, TRAFFIC_CLASS};

/// Octets of a header without options.
const HEADER_BYTES: usize = 20;

/// What differs from one header to the next.
pub(super) struct Ipv4 {
    pub identification: u16,
    pub ttl: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

impl Ipv4 {
    /// Length and checksum are left to the kernel, which fills them in always: raw(7). No fragment flags (failover 1.1).
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        // Version 4, five words.
        header[0] = 0x45;
        header[1] = TRAFFIC_CLASS;
        header[4..6].copy_from_slice(&self.identification.to_be_bytes());
        header[8] = self.ttl;
        header[9] = IP_PROTOCOL;
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        header
    }
}

/// A packet's addresses, TTL and message, or None if it is none of IPv4.
pub(super) fn split_ipv4(packet: &[u8]) -> Option<Received> {
    let header: &[u8; HEADER_BYTES] = packet.first_chunk()?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_bytes < HEADER_BYTES {
        return None;
    }
    Some(Received {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        ttl: header[8],
        message: packet.get(header_bytes..total_bytes)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVERT: [u8; 40] = [
        0x45, 0xc0, 0x00, 0x28, 0x00, 0x01, 0x00, 0x00, 0xff, 0x70, 0xd0, 0x44, 10, 77, 0, 1, 224, 0, 0, 18,
        0x21, 0x33, 0x65, 0x01, 0x01, 0x01, 0x0b, 0xb7, 10, 77, 0, 100, 0x31, 0x31, 0x31, 0x31, 0, 0, 0, 0,
    ];

    #[test]
    fn the_header_is_that_of_a_real_advert() {
        // spec: failover 1.5
        let header = Ipv4 {
            identification: 1,
            ttl: 255,
            source: Ipv4Addr::new(10, 77, 0, 1),
            destination: Ipv4Addr::new(224, 0, 0, 18),
        };
        let mut expected = ADVERT[..20].to_vec();
        expected[2..4].fill(0);
        expected[10..12].fill(0);
        assert_eq!(header.encode(), *expected);
    }

    #[test]
    fn a_real_advert_is_split() {
        let received = split_ipv4(&ADVERT).unwrap();
        assert_eq!(received.source, Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(received.destination, Ipv4Addr::new(224, 0, 0, 18));
        assert_eq!((received.ttl, &received.message[..]), (255, &ADVERT[20..]));
    }

    #[test]
    fn packets_of_every_impossible_length_are_none() {
        for len in 0..ADVERT.len() {
            assert_eq!(split_ipv4(&ADVERT[..len]), None, "{len}");
        }
        let mut padded = ADVERT.to_vec();
        padded.extend([0xee; 6]);
        assert_eq!(split_ipv4(&padded).unwrap().message, ADVERT[20..]);
        for (first, total) in [(0x44, 40), (0x65, 40), (0x4f, 40), (0x45, 19), (0x45, 41)] {
            let mut packet = ADVERT;
            (packet[0], packet[3]) = (first, total);
            assert_eq!(split_ipv4(&packet), None, "{first:#x} {total}");
        }
    }
}
