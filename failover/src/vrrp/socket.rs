//! Sockets for adverts of VRRP and CARP, and for ready-made frames.
//!
//! A [`VrrpSocket`] is one socket that sends and one that receives, both for protocol 112 and one interface (failover 1.1,
//! 1.15). What is sent looks as in failover 1.5. An IPv4 header is made here: of the kernel's own headers neither the number
//! nor the fragment flags would be as the other routers' are. An IPv6 header and its checksum are made by the kernel.

#![allow(unsafe_code, reason = "system calls that no crate wraps")]

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
    setsockopt, sockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::vip::netlink::{Family, Link, LinkIndex};

mod frame;
mod header;

pub use frame::FrameSocket;

/// VRRP, and CARP too.
pub const IP_PROTOCOL: u8 = 112;

/// Traffic class of adverts (failover 1.1).
pub const TRAFFIC_CLASS: u8 = 0xc0;

/// TTL of adverts to a group, which receivers insist on (failover 1.1).
pub const MULTICAST_TTL: u8 = 255;

/// Octets of a packet that is received at most, IPv4 header included: 255 IPv6 addresses make 4088. A longer one is no advert.
pub const RECEIVE_MAX_BYTES: usize = 8 << 10;

/// Where a message starts the checksum that the kernel fills in for IPv6 (failover 1.4).
const CHECKSUM_OFFSET: libc::c_int = 6;

/// What a socket is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SocketSpec {
    /// Name of the interface.
    pub interface: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The group that is joined; None: unicast only.
    pub group: Option<IpAddr>,
    /// TTL or hop limit of what is sent: [`MULTICAST_TTL`], or `unicast_ttl`.
    pub ttl: u8,
}

/// A packet that has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// From whom.
    pub source: IpAddr,
    /// To whom: a group or an address of this node.
    pub destination: IpAddr,
    /// TTL or hop limit that it had left.
    pub ttl: u8,
    /// What is behind the IP header. IPv4: the header says where it ends, so there is no padding.
    pub message: Vec<u8>,
}

/// Why a socket cannot be had or used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} on {interface}: {source}")]
pub struct SocketError {
    /// What was to be done.
    pub what: &'static str,
    /// Where.
    pub interface: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// The sockets of one interface, family and group.
pub struct VrrpSocket {
    spec: SocketSpec,
    open: Option<Open>,
    /// Number of the last IPv4 packet.
    identification: Cell<u16>,
}

struct Open {
    link: LinkIndex,
    receiver: AsyncFd<Socket>,
    sender: Socket,
}

impl VrrpSocket {
    /// A socket that is closed until [`VrrpSocket::link_changed`] tells of its interface.
    pub fn new(spec: SocketSpec) -> VrrpSocket {
        VrrpSocket { spec, open: None, identification: Cell::new(0) }
    }

    /// What it is for.
    pub fn spec(&self) -> &SocketSpec {
        &self.spec
    }

    /// Whether it can be used.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Opens the sockets when the interface has come, again when it is another one of that name (memberships in groups go
    /// with the interface), and closes them when it is gone. An interface that is down keeps its sockets. Has to be called
    /// within a tokio runtime, in the network namespace of the interface.
    ///
    /// # Errors
    /// A socket cannot be had, bound or configured; it stays closed, and the next call tries again.
    pub fn link_changed(&mut self, link: Option<&Link>) -> Result<(), SocketError> {
        let Some(link) = link else {
            self.open = None;
            return Ok(());
        };
        if self.open.as_ref().is_some_and(|open| open.link == link.index) {
            return Ok(());
        }
        self.open = None;
        let receiver =
            self.receiver(link).map_err(|e| self.error("open a socket that receives adverts", e))?;
        let sender = self.sender(link).map_err(|e| self.error("open a socket that sends adverts", e))?;
        self.open = Some(Open { link: link.index, receiver, sender });
        Ok(())
    }

    /// Sends a message; never waits. IPv6: the checksum in it is filled in.
    ///
    /// # Errors
    /// The socket is closed (ENOTCONN), the interface is down (ENETDOWN or ENETUNREACH), source and destination are not of its
    /// family, and what else the kernel says.
    pub fn send(&self, source: IpAddr, destination: IpAddr, message: &[u8]) -> Result<(), SocketError> {
        let sent = match (&self.open, source, destination) {
            (None, _, _) => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
            (Some(open), IpAddr::V4(source), IpAddr::V4(destination)) if self.spec.family == Family::V4 => {
                self.send_v4(open, source, destination, message)
            }
            (Some(open), IpAddr::V6(source), IpAddr::V6(destination)) if self.spec.family == Family::V6 => {
                send_v6(open, source, destination, message)
            }
            _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        };
        sent.map_err(|e| self.error("send an advert", e))
    }

    /// The next packet; waits for ever while the socket is closed. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// What the kernel says, such as ENETDOWN; the next call may succeed.
    pub async fn receive(&self) -> Result<Received, SocketError> {
        let Some(open) = &self.open else { return std::future::pending().await };
        let error = |e| self.error("receive adverts", e);
        loop {
            let mut guard = open.receiver.readable().await.map_err(error)?;
            let read = guard.try_io(|socket| match self.spec.family {
                Family::V4 => receive_v4(socket.get_ref()),
                Family::V6 => receive_v6(socket.get_ref()),
            });
            match read {
                Ok(Ok(Some(received))) if self.is_for_us(received.destination) => return Ok(received),
                Ok(Ok(Some(_))) => {}
                Err(_would_block) => {}
                // Cut off, or not to be understood.
                Ok(Ok(None)) => tracing::debug!("{}: a packet is no advert", self.spec.interface),
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(error(e)),
            }
        }
    }

    /// IPv6 sockets hear every group that anybody on this node has joined, whatever IPV6_MULTICAST_ALL says.
    fn is_for_us(&self, destination: IpAddr) -> bool {
        !destination.is_multicast() || self.spec.group == Some(destination)
    }

    fn error(&self, what: &'static str, source: io::Error) -> SocketError {
        SocketError { what, interface: self.spec.interface.clone(), source }
    }

    fn receiver(&self, link: &Link) -> io::Result<AsyncFd<Socket>> {
        let socket = self.raw_socket(IP_PROTOCOL)?;
        match (self.spec.family, self.spec.group) {
            (Family::V4, group) => {
                // Else it gets what other programs have joined on this interface.
                socket.set_multicast_all_v4(false)?;
                if let Some(IpAddr::V4(group)) = group {
                    socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(link.index.0))?;
                }
            }
            (Family::V6, group) => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
                if let Some(IpAddr::V6(group)) = group {
                    socket.join_multicast_v6(&group, link.index.0)?;
                }
            }
        }
        // SAFETY: the socket is owned by the AsyncFd and never replaced: its descriptor stays open and the same.
        Ok(unsafe { AsyncFd::register(socket) }?)
    }

    fn sender(&self, link: &Link) -> io::Result<Socket> {
        match self.spec.family {
            Family::V4 => {
                // A socket of this protocol sends ready-made headers and receives nothing: raw(7).
                let socket = self.raw_socket(u8::try_from(libc::IPPROTO_RAW).unwrap_or(u8::MAX))?;
                socket.set_multicast_loop_v4(false)?;
                Ok(socket)
            }
            Family::V6 => {
                let socket = self.raw_socket(IP_PROTOCOL)?;
                // It would receive as well, and nobody would read it: accept nothing.
                socket.attach_filter(&[SockFilter::new(BPF_RETURN, 0, 0, 0)])?;
                let ttl = u32::from(self.spec.ttl);
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_hops_v6(ttl)?;
                socket.set_unicast_hops_v6(ttl)?;
                socket.set_multicast_if_v6(link.index.0)?;
                socket.set_tclass_v6(TRAFFIC_CLASS.into())?;
                set_checksum_offset(&socket)?;
                Ok(socket)
            }
        }
    }

    fn raw_socket(&self, protocol: u8) -> io::Result<Socket> {
        let domain = match self.spec.family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let protocol = Protocol::from(i32::from(protocol));
        let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.bind_device(Some(self.spec.interface.as_bytes()))?;
        Ok(socket)
    }

    fn send_v4(
        &self,
        open: &Open,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        message: &[u8],
    ) -> io::Result<()> {
        // Counts as keepalived does; zero would make the kernel choose.
        let identification = self.identification.get().checked_add(1).unwrap_or(1);
        let header = header::Ipv4 { identification, ttl: self.spec.ttl, source, destination };
        let header = header.encode();
        let to = SocketAddrV4::new(destination, 0).into();
        open.sender.send_to_vectored(&[IoSlice::new(&header), IoSlice::new(message)], &to)?;
        self.identification.set(identification);
        Ok(())
    }
}

/// `BPF_RET | BPF_K`: so many octets of a packet are received.
const BPF_RETURN: u16 = 0x06;

fn send_v6(open: &Open, source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> io::Result<()> {
    // The source is said with each packet: a bound socket would not survive that the address goes and comes back.
    let info = libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
        ipi6_ifindex: open.link.0,
    };
    let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, open.link.0));
    let control = [ControlMessage::Ipv6PacketInfo(&info)];
    sendmsg(open.sender.as_raw_fd(), &[IoSlice::new(message)], &control, MsgFlags::empty(), Some(&to))?;
    Ok(())
}

/// Raw IPv4 sockets receive the whole packet: TTL and destination are in its header.
fn receive_v4(socket: &Socket) -> io::Result<Option<Received>> {
    let mut buffer = [0; RECEIVE_MAX_BYTES];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let packet = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT)?;
    let (truncated, bytes) = (packet.flags.contains(MsgFlags::MSG_TRUNC), packet.bytes);
    Ok(if truncated { None } else { buffer.get(..bytes).and_then(header::split_ipv4) })
}

/// Raw IPv6 sockets receive what is behind the header, and the rest as ancillary data: ipv6(7).
fn receive_v6(socket: &Socket) -> io::Result<Option<Received>> {
    let mut buffer = [0; RECEIVE_MAX_BYTES];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let packet =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    if packet.flags.contains(MsgFlags::MSG_TRUNC) {
        return Ok(None);
    }
    let (mut destination, mut ttl) = (None, None);
    for control in packet.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
            }
            ControlMessageOwned::Ipv6HopLimit(hops) => ttl = u8::try_from(hops).ok(),
            _ => {}
        }
    }
    let (source, bytes) = (packet.address.map(|address| address.ip()), packet.bytes);
    let message = buffer.get(..bytes).unwrap_or_default().to_vec();
    Ok(match (source, destination, ttl) {
        (Some(source), Some(destination), Some(ttl)) => {
            Some(Received { source: source.into(), destination: destination.into(), ttl, message })
        }
        _ => None,
    })
}

fn set_checksum_offset(socket: &Socket) -> io::Result<()> {
    let offset = CHECKSUM_OFFSET;
    let length = libc::socklen_t::try_from(size_of_val(&offset)).unwrap_or_default();
    // SAFETY: the descriptor is open, and the pointer is to an int that outlives the call and has the length said.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_CHECKSUM,
            (&raw const offset).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
