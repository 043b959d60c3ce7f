//! What changes: the multicast groups of rtnetlink(7) for interfaces and addresses.

#![allow(unsafe_code, reason = "the runtime has to be told which descriptor it watches")]

use std::collections::{BTreeMap, VecDeque};
use std::io;

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rtnetlink::MulticastGroup;
use tokio::io::unix::AsyncFd;

use super::{FoundAddress, Link, LinkIndex, NetlinkError};

/// Octets of one datagram at most: the kernel sends one message in each, and the longest are those of interfaces with
/// many virtual functions.
const DATAGRAM_MAX_BYTES: usize = 64 << 10;

/// Octets that wait in the kernel until they are read; what does not fit is [`MonitorEvent::Missed`].
const BUFFER_BYTES: usize = 1 << 20;

/// Something that has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MonitorEvent {
    /// An interface is new, or is not as it was.
    Link {
        /// As it is.
        now: Link,
        /// As it was, if the monitor has seen it before: another name means that it was renamed.
        before: Option<Link>,
    },
    /// An interface is gone, and every address on it with it.
    LinkGone(Link),
    /// An address is new, renewed, or not as it was.
    Address(FoundAddress),
    /// An address is gone: removed by somebody, or taken back by the kernel.
    AddressGone(FoundAddress),
    /// Something happened and nobody knows what: all tables have to be read again, and [`Monitor::knows`] told.
    Missed,
}

/// Tells what changes, from when it was opened.
pub struct Monitor {
    socket: AsyncFd<Socket>,
    links: BTreeMap<LinkIndex, Link>,
    ready: VecDeque<MonitorEvent>,
    /// Something was dropped; what is still in the buffer is of no use.
    overflown: bool,
}

impl Monitor {
    /// Opens a monitor of the network namespace of this thread; before the tables are read, so that nothing is missed
    /// between. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn open() -> Result<Monitor, NetlinkError> {
        let open = || -> io::Result<AsyncFd<Socket>> {
            let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
            let mask = groups.iter().fold(0, |mask, &group| mask | 1 << (group as u32 - 1));
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            // As much as one may have, which is less without the right to administer networks.
            let _ = socket.set_rx_buf_sz(i32::try_from(BUFFER_BYTES).unwrap_or(i32::MAX));
            socket.set_non_blocking(true)?;
            socket.bind(&SocketAddr::new(0, mask))?;
            // SAFETY: the socket is owned by the AsyncFd and never replaced: its descriptor stays open and the same.
            Ok(unsafe { AsyncFd::register(socket) }?)
        };
        let socket = open().map_err(NetlinkError::Open)?;
        Ok(Monitor { socket, links: BTreeMap::new(), ready: VecDeque::new(), overflown: false })
    }

    /// Tells the monitor what the interfaces are now, so that it knows what they were.
    pub fn knows(&mut self, links: &[Link]) {
        self.links = links.iter().map(|link| (link.index, link.clone())).collect();
    }

    /// The next event. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The socket cannot be read: a new monitor is needed.
    pub async fn next(&mut self) -> Result<MonitorEvent, NetlinkError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let mut guard = self.socket.readable().await.map_err(NetlinkError::Open)?;
            let mut datagram = Vec::with_capacity(DATAGRAM_MAX_BYTES);
            let read = guard.try_io(|socket| socket.get_ref().recv_from(&mut datagram, libc::MSG_TRUNC));
            match read {
                Err(_would_block) if self.overflown => {
                    self.overflown = false;
                    self.ready.push_back(MonitorEvent::Missed);
                }
                Err(_would_block) => {}
                // From now on the kernel drops everything, and says so no more, until the buffer is empty. Whoever is told
                // before that reads the tables too early.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOBUFS) => self.overflown = true,
                Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(e)) => return Err(NetlinkError::Open(e)),
                Ok(Ok(_)) if self.overflown => {}
                Ok(Ok((length_bytes, _))) if length_bytes > DATAGRAM_MAX_BYTES => {
                    self.ready.push_back(MonitorEvent::Missed);
                }
                // Only the kernel is believed.
                Ok(Ok((_, sender))) if sender.port_number() == 0 => self.take(&datagram),
                Ok(Ok(_)) => {}
            }
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while !rest.is_empty() {
            let Ok(header) = NetlinkBuffer::new_checked(rest) else {
                return self.ready.push_back(MonitorEvent::Missed);
            };
            let length = header.length() as usize;
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match message.map(|message| message.payload) {
                Ok(NetlinkPayload::InnerMessage(message)) => self.handle(&message),
                Ok(_) => {}
                Err(e) => {
                    tracing::warn!("netlink: an event cannot be read: {e}");
                    self.ready.push_back(MonitorEvent::Missed);
                }
            }
        }
    }

    fn handle(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(message) => {
                let Some(now) = Link::from_message(message) else { return };
                let before = self.links.insert(now.index, now.clone());
                if before.as_ref() != Some(&now) {
                    self.ready.push_back(MonitorEvent::Link { now, before });
                }
            }
            RouteNetlinkMessage::DelLink(message) => {
                let Some(link) = Link::from_message(message) else { return };
                self.links.remove(&link.index);
                self.ready.push_back(MonitorEvent::LinkGone(link));
            }
            RouteNetlinkMessage::NewAddress(message) => {
                self.ready.extend(FoundAddress::from_message(message).map(MonitorEvent::Address));
            }
            RouteNetlinkMessage::DelAddress(message) => {
                self.ready.extend(FoundAddress::from_message(message).map(MonitorEvent::AddressGone));
            }
            _ => {}
        }
    }
}
