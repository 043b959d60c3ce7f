//! The sockets: one for each interface and port, whatever media use it. What comes to it by broadcast, to one of its groups, or
//! to this node alone, is heard by it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::task::{Context, Poll};

use model::failover::heartbeat::{HeartbeatMembership, Medium};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use crate::heartbeat::message::DATAGRAM_BYTES_MAX;

/// Low delay (failover 3.4).
const TYPE_OF_SERVICE: u32 = 0x10;

/// Interface and port.
type Place = (String, u16);

/// All media.
pub(super) struct Media {
    media: Vec<Medium>,
    sockets: BTreeMap<Place, Open>,
    /// Who is looked at first: nobody keeps the others from being heard by speaking all the time.
    first: usize,
    /// What went wrong last with a place: one line in the log for a row of the same.
    troubles: BTreeMap<Place, String>,
}

struct Open {
    socket: UdpSocket,
    /// Number of its interface: one that comes back has another.
    index: u32,
}

fn place(medium: &Medium) -> Place {
    match medium {
        Medium::Broadcast { interface, port }
        | Medium::Multicast { interface, port, .. }
        | Medium::Unicast { interface, port, .. } => (interface.clone(), *port),
    }
}

impl Media {
    pub(super) fn new(cfg: &HeartbeatMembership) -> Media {
        Media { media: cfg.media.clone(), sockets: BTreeMap::new(), first: 0, troubles: BTreeMap::new() }
    }

    /// Sends a datagram over every medium; never waits. What does not work now may do so with the next one.
    pub(super) fn send(&mut self, datagram: &[u8]) {
        let addresses = addresses();
        for medium in self.media.clone() {
            let place = place(&medium);
            let sent = self.send_over(&medium, &place, &addresses, datagram);
            self.tell(place, sent);
        }
    }

    fn send_over(
        &mut self,
        medium: &Medium,
        place: &Place,
        addresses: &[Address],
        datagram: &[u8],
    ) -> io::Result<()> {
        let index = if_nametoindex(place.0.as_str()).map_err(io::Error::from)?;
        if self.sockets.get(place).is_none_or(|open| open.index != index) {
            self.sockets.remove(place);
            let socket = self.open(place, index)?;
            self.sockets.insert(place.clone(), Open { socket, index });
        }
        let Some(open) = self.sockets.get(place) else { return Err(io::ErrorKind::NotConnected.into()) };
        let port = place.1;
        let to = match medium {
            Medium::Broadcast { interface, .. } => {
                let broadcast =
                    addresses.iter().find(|a| a.interface == *interface).and_then(|a| a.broadcast);
                SocketAddrV4::new(broadcast.ok_or_else(no_broadcast)?, port)
            }
            Medium::Multicast { group, ttl, .. } => {
                SockRef::from(&open.socket).set_multicast_ttl_v4(u32::from(*ttl))?;
                SocketAddrV4::new(*group, port)
            }
            // The files of all nodes may be equal.
            Medium::Unicast { peer, .. } if addresses.iter().any(|a| a.address == *peer) => return Ok(()),
            Medium::Unicast { peer, .. } => SocketAddrV4::new(*peer, port),
        };
        match open.socket.try_send_to(datagram, to.into()) {
            // A full queue loses a beat as a full cable does; a peer without anybody at its port says so for a beat before.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) => {
                Ok(())
            }
            sent => sent.map(drop),
        }
    }

    fn open(&self, place: &Place, index: u32) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        // A heartbeat that ends beside this is no obstacle.
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_tos_v4(TYPE_OF_SERVICE)?;
        socket.bind_device(Some(place.0.as_bytes()))?;
        socket.set_multicast_loop_v4(false)?;
        let groups =
            self.media.iter().filter(|medium| self::place(medium) == *place).filter_map(|m| match m {
                Medium::Multicast { group, .. } => Some(group),
                Medium::Broadcast { .. } | Medium::Unicast { .. } => None,
            });
        for group in groups {
            socket.join_multicast_v4_n(group, &InterfaceIndexOrAddress::Index(index))?;
        }
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, place.1)).into())?;
        UdpSocket::from_std(socket.into())
    }

    /// The next datagram, and where it came from. Nothing is lost when the future is dropped.
    pub(super) async fn receive(&mut self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
        let (bytes, source) = poll_fn(|context| self.poll_receive(context, &mut buffer)).await;
        buffer.truncate(bytes);
        (buffer, source)
    }

    fn poll_receive(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<(usize, SocketAddr)> {
        let places: Vec<Place> = self.sockets.keys().cloned().collect();
        let (count, first) = (places.len(), self.first);
        for at in (0..count).map(|i| (first + i) % count) {
            let place = &places[at];
            loop {
                let mut read = ReadBuf::new(buffer);
                let Some(open) = self.sockets.get(place) else { break };
                match open.socket.poll_recv_from(context, &mut read) {
                    Poll::Ready(Ok(source)) => {
                        self.first = at + 1;
                        return Poll::Ready((read.filled().len(), source));
                    }
                    // Nobody is at the port of a peer that a unicast went to.
                    Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                    Poll::Ready(Err(e)) => {
                        // Opened again with the next beat.
                        self.sockets.remove(place);
                        self.tell(place.clone(), Err(e));
                        break;
                    }
                    Poll::Pending => break,
                }
            }
        }
        Poll::Pending
    }

    fn tell(&mut self, place: Place, result: io::Result<()>) {
        match result {
            Ok(()) => drop(self.troubles.remove(&place)),
            Err(e) => {
                let text = format!("heartbeat: {} port {}: {e}", place.0, place.1);
                if self.troubles.get(&place) != Some(&text) {
                    tracing::warn!("{text}");
                    self.troubles.insert(place, text);
                }
            }
        }
    }
}

fn no_broadcast() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "the interface has no broadcast address ('brd +')")
}

/// An own address.
struct Address {
    interface: String,
    address: Ipv4Addr,
    broadcast: Option<Ipv4Addr>,
}

fn addresses() -> Vec<Address> {
    let v4 =
        |a: Option<SockaddrStorage>| a.and_then(|a| a.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip));
    let Ok(all) = getifaddrs() else { return Vec::new() };
    all.filter_map(|a| {
        let address = v4(a.address)?;
        let broadcast = v4(a.broadcast).filter(|b| !b.is_unspecified() && *b != address);
        Some(Address { interface: a.interface_name, address, broadcast })
    })
    .collect()
}
