use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::super::check::Reason;
use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(octet).collect()
}

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
const A6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1));
const GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));
const VIPS6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x100)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100)),
];

/// The header that goes with a payload.
fn ip(source: IpAddr, destination: IpAddr, payload: &[u8]) -> IpFacts {
    let header_bytes = if source.is_ipv4() { 20 } else { 40 };
    let total_bytes = header_bytes + payload.len() as u16;
    IpFacts { source, destination, protocol: PROTOCOL, ttl: 255, header_bytes, total_bytes }
}

fn decode(payload: &[u8], source: IpAddr, destination: IpAddr) -> Result<Advert, CheckError> {
    Advert::decode(payload, &ip(source, destination, payload))
}

fn advert(form: Form, addresses: &[IpAddr]) -> Advert {
    Advert { form, virtual_router_id: 51, priority: 101, addresses: addresses.to_vec() }
}

fn v2(auth_type: u8, password: &[u8; 8]) -> Advert {
    advert(Form::V2 { interval_s: 1, auth_type, auth_data: *password }, &[VIP])
}

fn v3(interval_cs: u16) -> Advert {
    advert(Form::V3 { interval_cs }, &[VIP])
}

#[test]
fn the_adverts_of_the_table_are_made_and_read() {
    // failover 1.5.
    let rows = [
        ("21336501 01010bb7 0a4d0064 31313131 00000000", v2(1, b"1111\0\0\0\0"), A, GROUP),
        ("21336501 00016f19 0a4d0064 00000000 00000000", v2(0, &[0; 8]), A, GROUP),
        ("31336501 006473d9 0a4d0064", v3(100), A, GROUP),
        ("31336501 000a7433 0a4d0064", v3(10), A, GROUP),
        ("31336501 0064499d 0a4d0064", v3(100), A, B),
        (
            "31336502 00643dfd fe80000000000000 0000000000000100 20010db800000000 0000000000000100",
            advert(Form::V3 { interval_cs: 100 }, &VIPS6),
            A6,
            GROUP6,
        ),
    ];
    for (bytes, advert, source, destination) in rows {
        assert_eq!(decode(&hex(bytes), source, destination), Ok(advert.clone()), "{bytes}");
        assert_eq!(advert.encode(source, destination, ChecksumForm::PseudoHeader), hex(bytes), "{bytes}");
    }
}

#[test]
fn version_3_over_ipv4_is_read_with_either_checksum() {
    let bytes = hex("31336501 00645eb6 0a4d0064");
    assert_eq!(v3(100).encode(A, GROUP, ChecksumForm::MessageOnly), bytes);
    assert_eq!(decode(&bytes, A, GROUP), Ok(v3(100)));
    let wrong = hex("31336501 00645eb7 0a4d0064");
    assert_eq!(decode(&wrong, A, GROUP), Err(CheckError::Checksum { found: 0x5eb7 }));
}

#[test]
fn version_3_over_ipv6_is_read_with_the_pseudo_header_only() {
    let advert = advert(Form::V3 { interval_cs: 100 }, &VIPS6);
    let mut bytes = advert.encode(A6, GROUP6, ChecksumForm::MessageOnly);
    assert!(decode(&bytes, A6, GROUP6).is_ok(), "there is one form for IPv6");
    bytes[6..8].copy_from_slice(&[0, 0]);
    let sum = !fold(sum_of_words(&bytes));
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(decode(&bytes, A6, GROUP6), Err(CheckError::Checksum { found: sum }));
}

#[test]
fn every_impossible_length_is_refused() {
    let adverts = [
        (v2(1, b"1111\0\0\0\0"), A, GROUP),
        (v3(100), A, GROUP),
        (advert(Form::V3 { interval_cs: 100 }, &VIPS6), A6, GROUP6),
    ];
    for (advert, source, destination) in adverts {
        let whole = advert.encode(source, destination, ChecksumForm::PseudoHeader);
        for len in 0..whole.len() {
            let error = decode(&whole[..len], source, destination).unwrap_err();
            assert_eq!(error.reason(), Reason::TooShort, "{len}");
        }
        let padding_end = 46_usize.saturating_sub(if source.is_ipv4() { 20 } else { 40 });
        for len in whole.len() + 1..whole.len() + 40 {
            let mut long = whole.clone();
            long.resize(len, 0);
            let result = decode(&long, source, destination);
            if len <= padding_end {
                assert_eq!(result.as_ref(), Ok(&advert), "{len}: padding of Ethernet");
            } else {
                assert_eq!(result, Err(CheckError::TooLong { bytes: len, needs: whole.len() }));
            }
        }
    }
}

#[test]
fn a_count_that_does_not_fit_the_length_is_refused() {
    let whole = v3(100).encode(A, GROUP, ChecksumForm::PseudoHeader);
    for count in 0..=255 {
        let mut bytes = whole.clone();
        bytes[3] = count;
        // Up to 46 octets of a frame may be padding, so a smaller count is found by the checksum.
        let reason = decode(&bytes, A, GROUP).map_err(|e| e.reason());
        match count {
            0 => assert_eq!(reason, Err(Reason::Checksum)),
            1 => assert_eq!(reason, Ok(v3(100))),
            _ => assert_eq!(reason, Err(Reason::TooShort)),
        }
    }
}

#[test]
fn versions_and_types_that_do_not_exist_are_refused() {
    let whole = v3(100).encode(A, GROUP, ChecksumForm::PseudoHeader);
    for first in 0..=255_u8 {
        let mut bytes = whole.clone();
        bytes[0] = first;
        let reason = decode(&bytes, A, GROUP).map_err(|e| e.reason());
        match (first >> 4, first & 0xf) {
            (3, 1) => assert!(reason.is_ok()),
            (3, _) => assert_eq!(reason, Err(Reason::Kind)),
            (2, _) => assert_eq!(reason, Err(Reason::TooShort)),
            _ => assert_eq!(reason, Err(Reason::UnknownVersion)),
        }
    }
    let six = advert(Form::V3 { interval_cs: 1 }, &VIPS6).encode(A6, GROUP6, ChecksumForm::PseudoHeader);
    let two = [&[0x21], &six[1..]].concat();
    assert_eq!(decode(&two, A6, GROUP6), Err(CheckError::UnknownVersion { version: 2 }));
}

#[test]
fn an_authentication_header_is_named() {
    let bytes = hex(
        "70040000 0a4d0001 00000001 fd1cfdd5a082584934447207 21336501 02016d19 0a4d0064 0000000000000000",
    );
    let ip = IpFacts { protocol: PROTOCOL_AH, ..ip(A, GROUP, &bytes) };
    let (ah, rest) = Ah::split(&bytes).unwrap();
    assert_eq!((ah.spi, ah.sequence, ah.icv[0], rest.len()), (0x0a4d_0001, 1, 0xfd, 20));
    assert_eq!(Advert::decode(&bytes, &ip), Err(CheckError::AuthenticationHeader));
    assert_eq!(virtual_router_id(&bytes, &ip), Some(51));
    let found = Found::parse(&bytes, &ip).ok().unwrap();
    assert_eq!(found.advert, v2(2, &[0; 8]));
    assert_eq!(
        (found.check_length(), found.check_ip_length(), found.check_checksum()),
        (Ok(()), Ok(()), Ok(()))
    );
    for len in 0..bytes.len() {
        let error = Advert::decode(&bytes[..len], &ip).unwrap_err();
        assert_eq!(error.reason(), Reason::TooShort, "{len}");
    }
    let wrong = [&[1], &bytes[1..]].concat();
    assert_eq!(Advert::decode(&wrong, &ip), Err(CheckError::AhShape { next_header: 1, length: 4 }));
}

#[test]
fn carp_is_recognised_and_five_addresses_are_not_carp() {
    let mut carp = vec![0; 36];
    carp[..8].copy_from_slice(&[0x21, 51, 0, 7, 0, 1, 0xab, 0xcd]);
    assert_eq!(decode(&carp, A, GROUP), Err(CheckError::Carp { host_id: 51 }));
    let five = Advert { addresses: vec![VIP; 5], ..v2(0, &[0; 8]) };
    let bytes = five.encode(A, GROUP, ChecksumForm::PseudoHeader);
    assert_eq!(bytes.len(), carp.len());
    assert_eq!(decode(&bytes, A, GROUP), Ok(five));
    let seven = Advert { addresses: vec![VIP; 7], ..v3(100) };
    let bytes = seven.encode(A, GROUP, ChecksumForm::PseudoHeader);
    assert_eq!((bytes.len(), bytes[3]), (carp.len(), carp[3]));
    assert_eq!(decode(&bytes, A, GROUP), Ok(seven));
}

#[test]
fn bits_that_are_reserved_are_ignored() {
    let mut bytes = hex("31336501 f0640000 0a4d0064");
    let sum = !fold(sum_of_words(&bytes));
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(decode(&bytes, A, GROUP), Ok(v3(100)));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_mean_the_same_again(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        first in prop_oneof![Just(0x21_u8), Just(0x31), any::<u8>()],
        count in 0_u8..8,
        how in any::<u8>(),
    ) {
        let mut bytes = bytes;
        for (at, value) in [(0, first), (3, count)] {
            if let Some(octet) = bytes.get_mut(at) {
                *octet = value;
            }
        }
        let (source, destination) = if how & 1 == 0 { (A, GROUP) } else { (A6, GROUP6) };
        let protocol = if how & 2 == 0 { PROTOCOL } else { PROTOCOL_AH };
        let mut facts = IpFacts { protocol, ..ip(source, destination, &bytes) };
        let _ = Advert::decode(&bytes, &facts);
        // Most bytes fail for their checksum; with a right one the rest is reached.
        facts.protocol = PROTOCOL;
        if let Ok(found) = Found::parse(&bytes, &facts) {
            let again = found.advert.encode(source, destination, ChecksumForm::PseudoHeader);
            prop_assert_eq!(decode(&again, source, destination), Ok(found.advert));
        }
    }
}
