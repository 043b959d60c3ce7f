//! Packets of VRRP from the segment: what is accepted means the same after it was made again, and a node that hears them
//! as Backup and as Master keeps its invariants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use failover::vrrp::check::{Expectation, Verdict, check};
use failover::vrrp::packet::{Advert, ChecksumForm, IpFacts};
use failover::vrrp::{Event, Interface, Vrrp};
use model::failover::config::{
    AnnouncePolicy, Authentication, Broadcast, FailoverConfig, Notify, Preempt, Sending, UnicastPeer,
    VirtualAddress, VrrpInstance, VrrpVersion,
};
use model::time::{Duration, Instant};

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1));
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
const PEER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1));
const GROUP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

fn instance(version: VrrpVersion, how: u8) -> VrrpInstance {
    let is_v2 = version == VrrpVersion::V2;
    let peers = vec![UnicastPeer { address: PEER, ttl_range: (how & 4 != 0).then_some((250, 255)) }];
    VrrpInstance {
        name: "VI_1".into(),
        version,
        starts_as_master: false,
        interface: "eth0".into(),
        virtual_router_id: 51,
        priority: 100,
        advert_interval: Duration::from_secs(1),
        authentication: if is_v2 { Authentication::Password(*b"1111\0\0\0\0") } else { Authentication::None },
        addresses: vec![VirtualAddress {
            address: VIP,
            prefix_len: 24,
            interface: None,
            broadcast: Broadcast::Unset,
            scope: 0,
            label: None,
            peer: None,
            home: false,
            no_dad: false,
            no_prefix_route: false,
            no_track: false,
            preferred_lifetime: None,
        }],
        excluded_addresses: vec![],
        routes: vec![],
        rules: vec![],
        preempt: [Preempt::Always, Preempt::Never, Preempt::After(Duration::from_secs(5))]
            [usize::from(how >> 5) % 3],
        sending: if how & 2 == 0 {
            Sending::Multicast { source: None, group: GROUP }
        } else {
            Sending::Unicast { source: None, peers, ttl: 255, checks_source: how & 1 != 0 }
        },
        announce: AnnouncePolicy {
            repeat: 5,
            second_burst_after: Duration::from_secs(5),
            refresh: Duration::ZERO,
            refresh_repeat: 1,
            lower_priority_repeat: 5,
            lower_priority_second_burst_after: Duration::ZERO,
            extra_refresh: Duration::ZERO,
            arp_interval: Duration::ZERO,
            na_interval: Duration::ZERO,
        },
        virtual_mac: None,
        accept: true,
        down_timer_adverts: 3,
        lower_prio_no_advert: false,
        higher_prio_send_advert: how & 128 != 0,
        tracks_own_interface: true,
        trackers: vec![],
        notify: Notify::default(),
    }
}

/// The header that the second byte describes, and the payload with a right checksum if it says so.
fn packet(how: u8, protocol: u8, bytes: &[u8]) -> (IpFacts, Vec<u8>) {
    let is_ipv6 = how & 1 != 0;
    let (source, group) = if is_ipv6 { (PEER6, GROUP6) } else { (PEER, GROUP) };
    let header_bytes = if is_ipv6 { 40 } else { 20 };
    let ip = IpFacts {
        source,
        destination: if how & 2 == 0 { group } else { OWN },
        protocol,
        ttl: if how & 4 == 0 { 255 } else { 64 },
        header_bytes,
        total_bytes: (header_bytes + bytes.len() as u16) ^ u16::from(how >> 4 & 1),
    };
    let mut payload = bytes.to_vec();
    if how & 8 != 0 && payload.len() >= 8 {
        payload[6..8].fill(0);
        let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u64::from(*b));
        let mut sum: u64 = payload.chunks(2).map(word).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        payload[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    (ip, payload)
}

/// One input: how the instance is configured, how the packet came, its protocol, its payload.
pub fn run(data: &[u8]) {
    let [configured, came, protocol, bytes @ ..] = data else { return };
    let (ip, payload) = packet(*came, *protocol, &bytes[..bytes.len().min(2048)]);
    if let Ok(advert) = Advert::decode(&payload, &ip) {
        let again = advert.encode(ip.source, ip.source, ChecksumForm::PseudoHeader);
        let total_bytes = ip.header_bytes + again.len() as u16;
        let ip = IpFacts { destination: ip.source, total_bytes, ..ip };
        assert_eq!(Advert::decode(&again, &ip), Ok(advert));
    }
    let version = if configured & 8 == 0 { VrrpVersion::V2 } else { VrrpVersion::V3 };
    let instance = instance(version, *configured);
    match check(&payload, &ip, &Expectation::of(&instance)) {
        Verdict::Accepted(advert) => assert_eq!(advert.version(), version),
        Verdict::SignOfLife { why, .. } => assert!(why.reason().is_sign_of_life()),
        Verdict::Dropped(why) => assert!(!why.to_string().is_empty()),
    }

    let bound: &[String] = if configured & 16 == 0 { &[] } else { &["VI_1".into()] };
    let config = FailoverConfig { instances: vec![instance], ..FailoverConfig::default() };
    let eth0 =
        Interface { name: "eth0".into(), is_up: true, ipv4: Some(Ipv4Addr::new(10, 77, 0, 1)), ipv6: None };
    let mut now = Instant::default();
    let mut vrrp = Vrrp::new(now, &config, &[eth0], bound);
    let mut out = Vec::new();
    vrrp.handle(now, Event::Start, &mut out);
    for round in 0..8 {
        let heard = Event::Packet { interface: "eth0", ip: &ip, payload: &payload };
        vrrp.handle(now, heard, &mut out);
        if let Some(deadline) = vrrp.deadline() {
            assert!(round == 0 || deadline >= now, "a deadline that has passed stays");
            now = deadline.max(now);
            vrrp.handle(now, Event::Tick, &mut out);
        }
        if round == 4 && !bound.is_empty() {
            vrrp.grant(now, "VI_1", &mut out).expect("it is running and has no fault");
        }
    }
    assert!(out.len() < 500, "eight packets are answered {} times", out.len());
}
