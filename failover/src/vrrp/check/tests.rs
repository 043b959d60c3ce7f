use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::super::packet::{ChecksumForm, PROTOCOL, PROTOCOL_AH};
use super::*;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
const VIP2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 101));

fn own(version: VrrpVersion) -> Expectation {
    Expectation {
        version,
        authentication: match version {
            VrrpVersion::V2 => Authentication::Password(*b"1111\0\0\0\0"),
            VrrpVersion::V3 => Authentication::None,
        },
        interval: Duration::from_secs(1),
        addresses: vec![VIP],
        unicast: None,
    }
}

fn unicast(checks_source: bool, ttl_range: Option<(u8, u8)>) -> Expectation {
    let peers = vec![UnicastPeer { address: PEER, ttl_range }];
    Expectation { unicast: Some((peers, checks_source)), ..own(VrrpVersion::V3) }
}

fn v2() -> Advert {
    let form = Form::V2 { interval_s: 1, auth_type: 1, auth_data: *b"1111\0\0\0\0" };
    Advert { form, virtual_router_id: 51, priority: 100, addresses: vec![VIP] }
}

fn v3() -> Advert {
    Advert { form: Form::V3 { interval_cs: 100 }, ..v2() }
}

fn facts(source: IpAddr, destination: IpAddr, bytes: usize) -> IpFacts {
    let total_bytes = 20 + bytes as u16;
    IpFacts { source, destination, protocol: PROTOCOL, ttl: 255, header_bytes: 20, total_bytes }
}

/// The verdict on an advert whose octets and header may be changed before.
fn verdict(
    own: &Expectation,
    advert: &Advert,
    (source, destination): (IpAddr, IpAddr),
    change: impl Fn(&mut Vec<u8>, &mut IpFacts),
) -> Verdict {
    let mut bytes = advert.encode(source, destination, ChecksumForm::PseudoHeader);
    let mut ip = facts(source, destination, bytes.len());
    change(&mut bytes, &mut ip);
    check(&bytes, &ip, own)
}

fn dropped(verdict: Verdict) -> CheckError {
    match verdict {
        Verdict::Dropped(why) => why,
        other => panic!("{other:?} is not dropped"),
    }
}

fn sign(verdict: Verdict) -> CheckError {
    match verdict {
        Verdict::SignOfLife { why, .. } => why,
        other => panic!("{other:?} is no sign of life"),
    }
}

const TO_GROUP: (IpAddr, IpAddr) = (PEER, GROUP);
const TO_US: (IpAddr, IpAddr) = (PEER, OWN);

#[test]
fn what_is_right_is_accepted() {
    let same = |_: &mut Vec<u8>, _: &mut IpFacts| ();
    assert_eq!(verdict(&own(VrrpVersion::V2), &v2(), TO_GROUP, same), Verdict::Accepted(v2()));
    assert_eq!(verdict(&own(VrrpVersion::V3), &v3(), TO_GROUP, same), Verdict::Accepted(v3()));
    assert_eq!(verdict(&unicast(true, None), &v3(), TO_US, same), Verdict::Accepted(v3()));
    // Row 8: another interval of version 3 is learned, not refused.
    let slow = Advert { form: Form::V3 { interval_cs: 4095 }, ..v3() };
    assert_eq!(verdict(&own(VrrpVersion::V3), &slow, TO_GROUP, same), Verdict::Accepted(slow));
}

#[test]
fn row_1_an_authentication_header_is_a_sign_of_life() {
    let with_ah = |bytes: &mut Vec<u8>, ip: &mut IpFacts| {
        let ah = [&[112, 4, 0, 0, 10, 77, 0, 2, 0, 0, 0, 1][..], &[7; 12]].concat();
        *bytes = [ah, bytes.clone()].concat();
        ip.protocol = PROTOCOL_AH;
        ip.total_bytes += 24;
    };
    let why = sign(verdict(&own(VrrpVersion::V2), &v2(), TO_GROUP, with_ah));
    assert_eq!(why, CheckError::AuthenticationHeader);
}

#[test]
fn row_2_what_is_cut_off_is_dropped_and_what_is_too_long_is_a_sign_of_life() {
    let own = own(VrrpVersion::V2);
    let why = dropped(verdict(&own, &v2(), TO_GROUP, |bytes, _| bytes.truncate(19)));
    assert_eq!(why, CheckError::TooShort { bytes: 19, needs: 20 });
    // The trailer of keepalived 2.4 (failover 1.6).
    let trailer = |bytes: &mut Vec<u8>, ip: &mut IpFacts| {
        bytes.extend([1; 28]);
        ip.total_bytes += 28;
    };
    assert_eq!(sign(verdict(&own, &v2(), TO_GROUP, trailer)), CheckError::TooLong { bytes: 48, needs: 20 });
    let padded = verdict(&own, &v2(), TO_GROUP, |bytes, _| bytes.resize(26, 0));
    assert_eq!(padded, Verdict::Accepted(v2()), "padding of Ethernet, which the IP header does not count");
}

#[test]
fn row_3_a_ttl_of_another_segment_is_dropped() {
    for own in [own(VrrpVersion::V3), unicast(false, None)] {
        let why = dropped(verdict(&own, &v3(), TO_GROUP, |_, ip| ip.ttl = 254));
        assert_eq!(why, CheckError::Ttl { ttl: 254 });
    }
    let any = verdict(&unicast(false, None), &v3(), TO_US, |_, ip| ip.ttl = 3);
    assert_eq!(any, Verdict::Accepted(v3()), "unicast has no check of the TTL by default");
    let ranged = unicast(false, Some((250, 254)));
    for (ttl, right) in [(249, false), (250, true), (254, true), (255, false)] {
        let verdict = verdict(&ranged, &v3(), TO_US, |_, ip| ip.ttl = ttl);
        if right {
            assert_eq!(verdict, Verdict::Accepted(v3()));
        } else {
            assert_eq!(dropped(verdict), CheckError::TtlRange { ttl, min: 250, max: 254 });
        }
    }
}

#[test]
fn row_4_another_version_is_a_sign_of_life_and_an_unknown_one_is_not() {
    let same = |_: &mut Vec<u8>, _: &mut IpFacts| ();
    let why = sign(verdict(&own(VrrpVersion::V2), &v3(), TO_GROUP, same));
    assert_eq!(why, CheckError::Version { found: 3, own: 2 });
    let why = sign(verdict(&own(VrrpVersion::V3), &v2(), TO_GROUP, same));
    assert_eq!(why, CheckError::Version { found: 2, own: 3 });
    let why = dropped(verdict(&own(VrrpVersion::V3), &v3(), TO_GROUP, |bytes, _| bytes[0] = 0x41));
    assert_eq!(why, CheckError::UnknownVersion { version: 4 });
}

#[test]
fn row_5_authentication_that_differs_is_a_sign_of_life() {
    let same = |_: &mut Vec<u8>, _: &mut IpFacts| ();
    let with = |auth_type, auth_data: &[u8; 8]| {
        let form = Form::V2 { interval_s: 1, auth_type, auth_data: *auth_data };
        Advert { form, ..v2() }
    };
    let pass = own(VrrpVersion::V2);
    let why = sign(verdict(&pass, &with(0, &[0; 8]), TO_GROUP, same));
    assert_eq!(why, CheckError::AuthType { found: 0, own: 1 });
    assert_eq!(sign(verdict(&pass, &with(1, b"1112\0\0\0\0"), TO_GROUP, same)), CheckError::Password);
    let none = Expectation { authentication: Authentication::None, ..pass };
    let why = sign(verdict(&none, &v2(), TO_GROUP, same));
    assert_eq!(why, CheckError::AuthType { found: 1, own: 0 });
    let odd = verdict(&none, &with(0, b"ignored!"), TO_GROUP, same);
    assert!(matches!(odd, Verdict::Accepted(_)), "without authentication its octets mean nothing");
}

#[test]
fn row_6_another_interval_of_version_2_is_a_sign_of_life() {
    let form = Form::V2 { interval_s: 2, auth_type: 1, auth_data: *b"1111\0\0\0\0" };
    let why = sign(verdict(&own(VrrpVersion::V2), &Advert { form, ..v2() }, TO_GROUP, |_, _| ()));
    assert_eq!(why, CheckError::Interval { found_s: 2, own_s: 1 });
}

#[test]
fn row_7_another_type_is_dropped_and_a_wrong_length_of_ip_is_a_sign_of_life() {
    let why = dropped(verdict(&own(VrrpVersion::V3), &v3(), TO_GROUP, |bytes, _| bytes[0] = 0x32));
    assert_eq!(why, CheckError::Kind { kind: 2 });
    let why = sign(verdict(&own(VrrpVersion::V3), &v3(), TO_GROUP, |_, ip| ip.total_bytes = 33));
    assert_eq!(why, CheckError::IpLength { total: 33, needs: 32 });
}

#[test]
fn row_8_an_interval_of_zero_is_a_sign_of_life_and_never_learned() {
    let form = Form::V3 { interval_cs: 0 };
    let why = sign(verdict(&own(VrrpVersion::V3), &Advert { form, ..v3() }, TO_GROUP, |_, _| ()));
    assert_eq!(why, CheckError::IntervalZero);
}

#[test]
fn row_9_another_checksum_is_a_sign_of_life() {
    for (version, advert) in [(VrrpVersion::V2, v2()), (VrrpVersion::V3, v3())] {
        let why = sign(verdict(&own(version), &advert, TO_GROUP, |bytes, _| bytes[7] ^= 1));
        assert_eq!(why.reason(), Reason::Checksum);
    }
}

#[test]
fn row_10_the_other_way_of_sending_is_a_sign_of_life_from_a_neighbour_only() {
    let why = sign(verdict(&unicast(false, None), &v3(), TO_GROUP, |_, _| ()));
    assert_eq!(why, CheckError::Multicast);
    let others = dropped(verdict(&unicast(false, None), &v3(), (VIP2, GROUP), |_, _| ()));
    assert_eq!(others, CheckError::UnknownPeer, "others may use our number on this segment");
    let own = own(VrrpVersion::V3);
    assert_eq!(sign(verdict(&own, &v3(), TO_US, |_, _| ())), CheckError::Unicast);
    let far = dropped(verdict(&own, &v3(), TO_US, |_, ip| ip.ttl = 254));
    assert_eq!(far, CheckError::Ttl { ttl: 254 });
}

#[test]
fn row_11_addresses_that_differ_are_a_sign_of_life() {
    let own = own(VrrpVersion::V3);
    for (addresses, why) in [
        (vec![], CheckError::AddressCount { found: 0, own: 1 }),
        (vec![VIP, VIP2], CheckError::AddressCount { found: 2, own: 1 }),
        (vec![VIP2], CheckError::AddressMissing(VIP)),
    ] {
        assert_eq!(sign(verdict(&own, &Advert { addresses, ..v3() }, TO_GROUP, |_, _| ())), why);
    }
    let two = Expectation { addresses: vec![VIP, VIP2], ..own };
    let other_order = Advert { addresses: vec![VIP2, VIP], ..v3() };
    assert_eq!(verdict(&two, &other_order, TO_GROUP, |_, _| ()), Verdict::Accepted(other_order));
}

#[test]
fn row_12_a_stranger_is_dropped_if_senders_are_checked_and_never_a_sign_of_life() {
    let stranger = (VIP2, OWN);
    let why = dropped(verdict(&unicast(true, None), &v3(), stranger, |_, _| ()));
    assert_eq!(why, CheckError::UnknownPeer);
    let accepted = verdict(&unicast(false, None), &v3(), stranger, |_, _| ());
    assert_eq!(accepted, Verdict::Accepted(v3()), "as keepalived does by default");
    let wrong = Advert { addresses: vec![VIP2], ..v3() };
    assert_eq!(dropped(verdict(&unicast(false, None), &wrong, stranger, |_, _| ())), CheckError::UnknownPeer);
    let peer = verdict(&unicast(false, None), &wrong, TO_US, |_, _| ());
    assert_eq!(sign(peer), CheckError::AddressMissing(VIP));
}

#[test]
fn an_impossible_source_is_dropped() {
    for source in [[0, 0, 0, 0], [255; 4], [224, 0, 0, 18], [127, 0, 0, 1]] {
        let why = dropped(verdict(&own(VrrpVersion::V3), &v3(), (source.into(), GROUP), |_, _| ()));
        assert_eq!(why, CheckError::Source);
    }
}

#[test]
fn the_first_of_several_faults_is_named_and_the_worst_decides() {
    let form = Form::V2 { interval_s: 9, auth_type: 1, auth_data: [7; 8] };
    let wrong = Advert { form, addresses: vec![VIP2], ..v2() };
    let own = own(VrrpVersion::V2);
    assert_eq!(sign(verdict(&own, &wrong, TO_GROUP, |_, _| ())), CheckError::Password);
    let why = dropped(verdict(&own, &wrong, TO_GROUP, |bytes, _| bytes[0] = 0x25));
    assert_eq!(why, CheckError::Kind { kind: 5 });
}

proptest! {
    #[test]
    fn any_bytes_get_a_verdict(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        first in prop_oneof![Just(0x21_u8), Just(0x31), any::<u8>()],
        count in 0_u8..8,
        ah in any::<bool>(),
        to_group in any::<bool>(),
    ) {
        let mut bytes = bytes;
        for (at, value) in [(0, first), (3, count)] {
            if let Some(octet) = bytes.get_mut(at) {
                *octet = value;
            }
        }
        let mut ip = facts(PEER, if to_group { GROUP } else { OWN }, bytes.len());
        ip.protocol = if ah { PROTOCOL_AH } else { PROTOCOL };
        for own in [own(VrrpVersion::V2), own(VrrpVersion::V3), unicast(true, None)] {
            match check(&bytes, &ip, &own) {
                Verdict::Accepted(advert) => prop_assert_eq!(advert.version(), own.version),
                Verdict::SignOfLife { why, .. } => prop_assert!(why.reason().is_sign_of_life()),
                Verdict::Dropped(why) => prop_assert!(!why.to_string().is_empty()),
            }
        }
    }
}
