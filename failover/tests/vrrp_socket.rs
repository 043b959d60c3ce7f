//! Adverts on the wire between two namespaces. Needs root.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

mod support;

use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use failover::vip::announce::virtual_mac;
use failover::vip::netlink::{Family, Link, MacvlanSpec, Netlink};
use failover::vrrp::socket::{FrameSocket, MULTICAST_TTL, Received, SocketSpec, VrrpSocket};
use socket2::{Domain, Protocol, Socket, Type};
use support::{Namespace, connect, pair, run};

/// spec: failover 1.5, version 2 with a password.
const ADVERT_V2: &str = "21336501 01010bb7 0a4d0064 31313131 00000000";
/// spec: failover 1.5, version 3.
const ADVERT_V3: &str = "31336501 006473d9 0a4d0064";
/// spec: failover 1.5, version 3 for IPv6; its checksum is left out.
const ADVERT_V3_V6: &str =
    "31336502 00640000 fe80000000000000 0000000000000100 20010db800000000 0000000000000100";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&String::from_iter(pair), 16).unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Everything that comes into the namespace of this thread or leaves it.
struct Wire(Socket);

impl Wire {
    fn open() -> Wire {
        let every_protocol = i32::from(u16::to_be(0x0003));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every_protocol))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Wire(socket)
    }

    /// The next frame of this EtherType (and, for IP, of protocol 112).
    fn next(&self, ether_type: [u8; 2]) -> Vec<u8> {
        let mut buffer = [0; 2048];
        loop {
            let length = (&self.0).read(&mut buffer).expect("a frame");
            let frame = &buffer[..length];
            let protocol_at = match ether_type {
                [0x08, 0x00] => 23,
                [0x86, 0xdd] => 20,
                _ => usize::MAX,
            };
            if frame[12..14] == ether_type && frame.get(protocol_at).is_none_or(|&protocol| protocol == 112) {
                return frame.to_vec();
            }
        }
    }
}

async fn eth0(netlink: &Netlink) -> Link {
    netlink.link("eth0").await.unwrap().unwrap()
}

fn spec(family: Family, group: Option<&str>) -> SocketSpec {
    SocketSpec { interface: "eth0".into(), family, group: group.map(ip), ttl: MULTICAST_TTL }
}

/// A socket on eth0 of a namespace, which the thread is in afterwards.
async fn open(namespace: &Namespace, spec: SocketSpec) -> VrrpSocket {
    namespace.enter();
    let link = eth0(&Netlink::open().unwrap()).await;
    let mut socket = VrrpSocket::new(spec);
    assert!(!socket.is_open());
    socket.link_changed(Some(&link)).unwrap();
    assert!(socket.is_open());
    socket
}

async fn receive(socket: &VrrpSocket) -> Received {
    let next = tokio::time::timeout(Duration::from_secs(10), socket.receive());
    next.await.expect("an advert").unwrap()
}

async fn is_silent(socket: &VrrpSocket) -> bool {
    tokio::time::timeout(Duration::from_millis(300), socket.receive()).await.is_err()
}

#[test]
fn an_ipv4_advert_has_the_bytes_of_a_real_one() {
    run(async || {
        let (a, b) = pair();
        let sender = open(&a, spec(Family::V4, Some("224.0.0.18"))).await;
        let receiver = open(&b, spec(Family::V4, Some("224.0.0.18"))).await;
        let wire = Wire::open();
        for message in [ADVERT_V2, ADVERT_V3, ADVERT_V3] {
            sender.send(ip("10.77.0.1"), ip("224.0.0.18"), &hex(message)).unwrap();
            let received = receive(&receiver).await;
            let expected = Received {
                source: ip("10.77.0.1"),
                destination: ip("224.0.0.18"),
                ttl: 255,
                message: hex(message),
            };
            assert_eq!(received, expected);
        }
        let ethernet = "01005e000012 020000000001 0800";
        let frames = [
            ["45c00028 00010000 ff70d044 0a4d0001 e0000012", ADVERT_V2],
            // One number higher, so the checksum is one lower.
            ["45c00020 00020000 ff70d04b 0a4d0001 e0000012", ADVERT_V3],
            ["45c00020 00030000 ff70d04a 0a4d0001 e0000012", ADVERT_V3],
        ];
        for [header, message] in frames {
            assert_eq!(wire.next([8, 0]), hex(&[ethernet, header, message].concat()));
        }
        assert!(is_silent(&sender).await, "it hears itself");
    });
}

#[test]
fn an_ipv6_advert_has_the_bytes_of_a_real_one() {
    run(async || {
        let (a, b) = pair();
        let sender = open(&a, spec(Family::V6, Some("ff02::12"))).await;
        let receiver = open(&b, spec(Family::V6, Some("ff02::12"))).await;
        let wire = Wire::open();
        sender.send(ip("fe80::ff:fe00:1"), ip("ff02::12"), &hex(ADVERT_V3_V6)).unwrap();
        // spec: failover 1.5
        let message = hex(&ADVERT_V3_V6.replacen("00640000", "00643dfd", 1));
        let received = receive(&receiver).await;
        let expected = Received {
            source: ip("fe80::ff:fe00:1"),
            destination: ip("ff02::12"),
            ttl: 255,
            message: message.clone(),
        };
        assert_eq!(received, expected);
        let mut frame = wire.next([0x86, 0xdd]);
        // The label of the flow is the kernel's choice.
        frame[15] &= 0xf0;
        frame[16..18].fill(0);
        let header = "333300000012 020000000001 86dd 6c000000 002870ff \
             fe80000000000000 000000fffe000001 ff02000000000000 0000000000000012";
        assert_eq!(frame, [hex(header), message].concat());
        assert!(is_silent(&sender).await, "it hears itself");
    });
}

#[test]
fn unicast_adverts_have_a_ttl_of_their_own_and_groups_are_not_heard() {
    run(async || {
        let (a, b) = pair();
        for (family, group, from, to, message) in [
            (Family::V4, "224.0.0.18", "10.77.0.1", "10.77.0.2", ADVERT_V2),
            (Family::V6, "ff02::12", "fe80::ff:fe00:1", "fe80::ff:fe00:2", ADVERT_V3_V6),
        ] {
            let sender = open(&a, SocketSpec { ttl: 64, ..spec(family, None) }).await;
            let receiver = open(&b, spec(family, None)).await;
            let _joined_by_another = open(&b, spec(family, Some(group))).await;
            sender.send(ip(from), ip(group), &hex(message)).unwrap();
            assert!(is_silent(&receiver).await, "{family:?}: it hears the group");
            sender.send(ip(from), ip(to), &hex(message)).unwrap();
            let received = receive(&receiver).await;
            assert_eq!((received.source, received.destination, received.ttl), (ip(from), ip(to), 64));
            assert_eq!(received.message[..4], hex(message)[..4]);
        }
    });
}

#[test]
fn what_does_not_fit_the_socket_is_an_error() {
    run(async || {
        let (a, _b) = pair();
        let socket = open(&a, spec(Family::V4, Some("224.0.0.18"))).await;
        let said = socket.send(ip("fe80::1"), ip("ff02::12"), &[]).unwrap_err().to_string();
        assert!(said.starts_with("cannot send an advert on eth0: Address family not supported"), "{said}");
        a.ip(&["link", "set", "eth0", "down"]);
        let error = socket.send(ip("10.77.0.1"), ip("224.0.0.18"), &hex(ADVERT_V2)).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
        let mut none = VrrpSocket::new(SocketSpec { interface: "eth9".into(), ..socket.spec().clone() });
        let error = none.send(ip("10.77.0.1"), ip("224.0.0.18"), &[]).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::ENOTCONN));
        let link = eth0(&Netlink::open().unwrap()).await;
        let said = none.link_changed(Some(&link)).unwrap_err().to_string();
        assert!(said.starts_with("cannot open a socket that receives adverts on eth9: "), "{said}");
        assert!(!none.is_open());
    });
}

#[test]
fn a_socket_hears_again_when_its_interface_has_come_back() {
    run(async || {
        let (a, b) = pair();
        for family in [Family::V4, Family::V6] {
            let (group, from, message) = match family {
                Family::V4 => ("224.0.0.18", "10.77.0.1", ADVERT_V2),
                Family::V6 => ("ff02::12", "fe80::ff:fe00:1", ADVERT_V3_V6),
            };
            let mut sender = open(&a, spec(family, Some(group))).await;
            let mut receiver = open(&b, spec(family, Some(group))).await;
            // Down and up: same interface, same sockets.
            b.ip(&["link", "set", "eth0", "down"]);
            b.ip(&["link", "set", "eth0", "up"]);
            let before = eth0(&Netlink::open().unwrap()).await;
            receiver.link_changed(Some(&before)).unwrap();
            // The carrier may take a moment.
            let first = async {
                loop {
                    let _ = sender.send(ip(from), ip(group), &hex(message));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::select! {
                received = receive(&receiver) => assert_eq!(received.source, ip(from)),
                () = first => {}
            }
            // Gone, and another one of that name.
            b.ip(&["link", "del", "eth0"]);
            receiver.link_changed(None).unwrap();
            sender.link_changed(None).unwrap();
            assert!(!receiver.is_open());
            assert!(is_silent(&receiver).await);
            connect(&a, &b);
            let after = eth0(&Netlink::open().unwrap()).await;
            assert_ne!(after.index, before.index);
            receiver.link_changed(Some(&after)).unwrap();
            a.enter();
            sender.link_changed(Some(&eth0(&Netlink::open().unwrap()).await)).unwrap();
            sender.send(ip(from), ip(group), &hex(message)).unwrap();
            assert_eq!(receive(&receiver).await.source, ip(from));
        }
    });
}

#[test]
fn adverts_leave_by_the_interface_of_the_virtual_router() {
    run(async || {
        let (a, b) = pair();
        a.enter();
        let netlink = Netlink::open().unwrap();
        for family in [Family::V4, Family::V6] {
            let (group, from, other, message, ether_type) = match family {
                Family::V4 => ("224.0.0.18", "10.77.0.1", "10.77.0.2", ADVERT_V2, [8, 0]),
                Family::V6 => ("ff02::12", "fe80::ff:fe00:1", "fe80::ff:fe00:2", ADVERT_V3_V6, [0x86, 0xdd]),
            };
            b.enter();
            let wire = Wire::open();
            let receiver = open(&b, spec(family, Some(group))).await;
            a.enter();
            let (lower, mac) = (eth0(&netlink).await.index, virtual_mac(51, family == Family::V6));
            let link =
                netlink.make_macvlan(&MacvlanSpec { name: "vrrp.51".into(), lower, mac }).await.unwrap();
            let mut sender =
                VrrpSocket::new(SocketSpec { interface: "vrrp.51".into(), ..spec(family, Some(group)) });
            sender.link_changed(Some(&link)).unwrap();
            sender.send(ip(from), ip(group), &hex(message)).unwrap();
            assert_eq!(receive(&receiver).await.source, ip(from));
            assert_eq!(wire.next(ether_type)[6..12], mac);
            // And the other way: what another router sends is heard there, with its own MAC and with the same one.
            receiver.send(ip(other), ip(group), &hex(message)).unwrap();
            assert_eq!(receive(&sender).await.source, ip(other));
            b.enter();
            let other_netlink = Netlink::open().unwrap();
            let lower = eth0(&other_netlink).await.index;
            let spec = MacvlanSpec { name: "vrrp.51".into(), lower, mac };
            let link = other_netlink.make_macvlan(&spec).await.unwrap();
            let mut twin = VrrpSocket::new(sender.spec().clone());
            twin.link_changed(Some(&link)).unwrap();
            twin.send(ip(other), ip(group), &hex(message)).unwrap();
            assert_eq!(receive(&sender).await.source, ip(other));
            sender.send(ip(from), ip(group), &hex(message)).unwrap();
            assert_eq!(receive(&twin).await.source, ip(from));
            b.ip(&["link", "del", "vrrp.51"]);
            a.ip(&["link", "del", "vrrp.51"]);
        }
    });
}

#[test]
fn frames_leave_as_they_are() {
    run(async || {
        let (a, b) = pair();
        a.enter();
        let link = eth0(&Netlink::open().unwrap()).await.index;
        let frames = FrameSocket::open().unwrap();
        b.enter();
        let wire = Wire::open();
        let arp = hex(
            "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a4d0064 ffffffffffff 0a4d0064",
        );
        frames.send(link, &arp).unwrap();
        assert_eq!(wire.next([8, 6]), arp);
        assert_eq!(frames.send(link, &arp[..13]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        a.ip(&["link", "set", "eth0", "down"]);
        assert_eq!(frames.send(link, &arp).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        a.ip(&["link", "del", "eth0"]);
        assert_eq!(frames.send(link, &arp).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    });
}
