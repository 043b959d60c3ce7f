//! Recordings of keepalived: each advert is read and made again octet by octet, and so is each frame that announces an
//! address.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use failover::vip::announce::{Mac, gratuitous_arp, neighbour_advertisement, virtual_mac};
use failover::vrrp::check::CheckError;
use failover::vrrp::packet::{AH_BYTES, Advert, Ah, ChecksumForm, Form, IpFacts, PROTOCOL, PROTOCOL_AH};

/// Frames of a classic pcap file, little-endian.
fn frames(name: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/failover/vrrp").join(name);
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert!(matches!(file[..4], [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1]), "{name} is a pcap file");
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while let Some((head, data)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let (frame, after) = data.split_at(len);
        frames.push(frame.to_vec());
        rest = after;
    }
    frames
}

/// Header facts and payload of a frame with IP in it.
fn ip(frame: &[u8]) -> Option<(IpFacts, &[u8])> {
    let packet = &frame[14..];
    match frame[12..14] {
        [0x08, 0x00] => {
            let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            let header_bytes = u16::from(packet[0] & 0xf) * 4;
            let facts = IpFacts {
                source: address(12),
                destination: address(16),
                protocol: packet[9],
                ttl: packet[8],
                header_bytes,
                total_bytes: u16::from_be_bytes([packet[2], packet[3]]),
            };
            Some((facts, &packet[usize::from(header_bytes)..]))
        }
        [0x86, 0xdd] => {
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            let facts = IpFacts {
                source: address(8),
                destination: address(24),
                protocol: packet[6],
                ttl: packet[7],
                header_bytes: 40,
                total_bytes: 40 + u16::from_be_bytes([packet[4], packet[5]]),
            };
            Some((facts, &packet[40..]))
        }
        _ => None,
    }
}

/// Every advert in a capture.
fn adverts(name: &str) -> Vec<Advert> {
    let mut adverts = Vec::new();
    for frame in frames(name) {
        let Some((facts, payload)) = ip(&frame).filter(|(facts, _)| facts.protocol == PROTOCOL) else {
            continue;
        };
        let advert = Advert::decode(payload, &facts).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(advert.encode(facts.source, facts.destination, ChecksumForm::PseudoHeader), payload);
        assert_eq!((advert.virtual_router_id, facts.ttl), (51, 255));
        adverts.push(advert);
    }
    adverts
}

#[test]
fn every_recorded_advert_is_read_and_made_again_octet_by_octet() {
    let v2 = |auth_type, auth_data: &[u8; 8]| Form::V2 { interval_s: 1, auth_type, auth_data: *auth_data };
    let v3 = |interval_cs| Form::V3 { interval_cs };
    let rows = [
        ("v2pass.pcap", v2(1, b"1111\0\0\0\0")),
        ("v2none.pcap", v2(0, &[0; 8])),
        ("v3.pcap", v3(100)),
        ("v3fast.pcap", v3(10)),
        ("v3uni.pcap", v3(100)),
        ("v3ip6.pcap", v3(100)),
        ("vmac.pcap", v3(100)),
    ];
    for (name, form) in rows {
        let adverts = adverts(name);
        assert!(adverts.len() > 5, "{name}: {}", adverts.len());
        assert!(adverts.iter().all(|a| a.form == form), "{name}");
        // A with 101 stops, B with 100 takes over and stops; the capture of the fast ones ends before.
        let mut priorities: Vec<u8> = adverts.iter().map(|a| a.priority).collect();
        priorities.dedup();
        let whole = [101, 0, 100, 0];
        assert_eq!(priorities, whole[..if name == "v3fast.pcap" { 1 } else { 4 }], "{name}");
    }
}

#[test]
fn recorded_adverts_with_ipsec_are_named_as_such() {
    let mut sequence = Vec::new();
    for frame in frames("v2ah.pcap") {
        let Some((facts, payload)) = ip(&frame).filter(|(facts, _)| facts.protocol == PROTOCOL_AH) else {
            continue;
        };
        assert_eq!(Advert::decode(payload, &facts), Err(CheckError::AuthenticationHeader));
        let (ah, message) = Ah::split(payload).unwrap();
        assert_eq!(IpAddr::from(ah.spi.to_be_bytes()), facts.source);
        let inner = IpFacts { protocol: PROTOCOL, total_bytes: facts.total_bytes - AH_BYTES as u16, ..facts };
        let advert = Advert::decode(message, &inner).unwrap();
        assert_eq!(advert.encode(facts.source, facts.destination, ChecksumForm::PseudoHeader), message);
        sequence.push(ah.sequence);
    }
    assert!(sequence.len() > 5 && sequence.is_sorted(), "{sequence:?}");
}

#[test]
fn every_recorded_gratuitous_arp_is_made_octet_by_octet() {
    let mut count = 0;
    for name in
        ["v2pass.pcap", "v2none.pcap", "v2ah.pcap", "v3.pcap", "v3fast.pcap", "v3uni.pcap", "vmac.pcap"]
    {
        // The kernel's own requests are in the captures too; they do not go to everybody.
        let to_all = |frame: &&Vec<u8>| frame[..6] == [0xff; 6] && frame[12..14] == [0x08, 0x06];
        for frame in frames(name).iter().filter(to_all) {
            let mac: Mac = frame[6..12].try_into().unwrap();
            if name == "vmac.pcap" {
                assert_eq!(mac, virtual_mac(51, false));
            }
            assert_eq!(gratuitous_arp(mac, Ipv4Addr::new(10, 77, 0, 100)), frame[..], "{name}");
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn every_recorded_neighbour_advertisement_is_made_octet_by_octet() {
    let mut count = 0;
    for frame in frames("v3ip6.pcap") {
        let Some((facts, _)) = ip(&frame).filter(|(facts, _)| facts.protocol == 58) else { continue };
        let IpAddr::V6(address) = facts.source else { unreachable!("ICMPv6") };
        let mac: Mac = frame[6..12].try_into().unwrap();
        assert_eq!(neighbour_advertisement(mac, address, false), frame[..]);
        count += 1;
    }
    assert_eq!(count, 20);
    let router = neighbour_advertisement([2, 0, 0, 0, 0, 1], Ipv6Addr::LOCALHOST, true);
    assert_eq!(router[58], 0xa0);
}
