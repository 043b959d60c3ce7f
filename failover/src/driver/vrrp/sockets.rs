//! The sockets of all instances: which there are, and which of them an advert takes.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Poll;

use model::failover::config::{FailoverConfig, Sending, VrrpInstance};

use super::kernel::Links;
use crate::vip::netlink::Family;
use crate::vrrp::packet::{IpFacts, PROTOCOL};
use crate::vrrp::socket::{MULTICAST_TTL, Received, SocketError, SocketSpec, VrrpSocket};

/// Octets of an IPv4 header without options, and of an IPv6 header.
const IP_HEADER_BYTES: (u16, u16) = (20, 40);

/// One pair of sockets.
struct Entry {
    socket: VrrpSocket,
    /// The interface that the instances name: below a macvlan.
    base: String,
    /// What went wrong last: one line in the log for a row of the same.
    trouble: Option<String>,
}

/// An advert that has come, as the machine wants it.
pub(super) struct Packet {
    pub interface: String,
    pub ip: IpFacts,
    pub payload: Vec<u8>,
}

/// All sockets.
#[derive(Default)]
pub(super) struct Sockets {
    entries: Vec<Entry>,
    /// Who is looked at first: nobody keeps the others from being heard by speaking all the time.
    first: usize,
}

impl Sockets {
    /// Has the sockets of these configurations, and no others; what is in use stays open.
    pub(super) fn configure(&mut self, configs: &[&FailoverConfig], links: &Links) {
        let wanted: Vec<(SocketSpec, String)> =
            configs.iter().flat_map(|c| &c.instances).flat_map(specs).collect();
        self.entries.retain(|entry| wanted.iter().any(|(spec, _)| spec == entry.socket.spec()));
        for (spec, base) in wanted {
            if !self.entries.iter().any(|entry| *entry.socket.spec() == spec) {
                self.entries.push(Entry { socket: VrrpSocket::new(spec), base, trouble: None });
            }
        }
        self.links_changed(links);
    }

    /// Opens and closes what has to be.
    pub(super) fn links_changed(&mut self, links: &Links) {
        for entry in &mut self.entries {
            let result = entry.socket.link_changed(links.by_name(&entry.socket.spec().interface));
            entry.tell(result);
        }
    }

    /// Sends one message.
    pub(super) fn send(
        &mut self,
        interface: &str,
        source: IpAddr,
        destination: IpAddr,
        ttl: u8,
        bytes: &[u8],
    ) {
        let fits = |entry: &&mut Entry| {
            let spec = entry.socket.spec();
            let way =
                if destination.is_multicast() { spec.group == Some(destination) } else { spec.ttl == ttl };
            spec.interface == interface && spec.family == Family::of(destination) && way
        };
        match self.entries.iter_mut().find(fits) {
            Some(entry) => {
                let result = entry.socket.send(source, destination, bytes);
                entry.tell(result);
            }
            None => tracing::error!("{interface}: there is no socket for adverts to {destination}"),
        }
    }

    /// The next advert. Nothing is lost when the future is dropped.
    pub(super) async fn receive(&mut self) -> Packet {
        loop {
            let (at, received) = self.receive_any().await;
            self.first = at + 1;
            let first_of_way = self.is_first(at, &received);
            let entry = &mut self.entries[at];
            match received {
                Ok(received) if first_of_way => {
                    return Packet {
                        interface: entry.base.clone(),
                        ip: facts(&received),
                        payload: received.message,
                    };
                }
                Ok(_) => {}
                Err(e) => {
                    entry.tell(Err(e));
                    // An error that stays would be reported without end.
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        }
    }

    async fn receive_any(&self) -> (usize, Result<Received, SocketError>) {
        let count = self.entries.len();
        if count == 0 {
            return std::future::pending().await;
        }
        let order = (0..count).map(|i| (self.first + i) % count);
        let mut waiting: Vec<_> = order.map(|at| (at, Box::pin(self.entries[at].socket.receive()))).collect();
        poll_fn(|context| {
            for (at, future) in &mut waiting {
                if let Poll::Ready(received) = future.as_mut().poll(context) {
                    return Poll::Ready((*at, received));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What is sent to this node alone is heard by all sockets of its interface and family.
    fn is_first(&self, at: usize, received: &Result<Received, SocketError>) -> bool {
        let Ok(received) = received else { return true };
        let way = |entry: &Entry| (entry.socket.spec().interface.clone(), entry.socket.spec().family);
        received.destination.is_multicast()
            || self.entries.iter().position(|entry| way(entry) == way(&self.entries[at])) == Some(at)
    }
}

impl Entry {
    fn tell(&mut self, result: Result<(), SocketError>) {
        match result {
            Ok(()) => self.trouble = None,
            Err(e) => {
                let text = e.to_string();
                if self.trouble.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                    self.trouble = Some(text);
                }
            }
        }
    }
}

fn specs(instance: &VrrpInstance) -> Vec<(SocketSpec, String)> {
    let family = instance.addresses.first().map_or(Family::V4, |a| Family::of(a.address));
    let (group, ttl) = match &instance.sending {
        Sending::Multicast { group, .. } => (Some(*group), MULTICAST_TTL),
        Sending::Unicast { ttl, .. } => (None, *ttl),
    };
    let base = &instance.interface;
    // A macvlan hears what comes to the MAC of the virtual router, which the interface below does not.
    let interfaces: BTreeSet<&String> = match &instance.virtual_mac {
        Some(mac) if mac.sends_from_base => [base, &mac.name].into(),
        Some(mac) => [&mac.name].into(),
        None => [base].into(),
    };
    let spec = |interface: &String| SocketSpec { interface: interface.clone(), family, group, ttl };
    interfaces.into_iter().map(|interface| (spec(interface), base.clone())).collect()
}

/// The socket has taken the header off; what it kept of it is enough to make it up again.
fn facts(received: &Received) -> IpFacts {
    let header_bytes = if received.source.is_ipv4() { IP_HEADER_BYTES.0 } else { IP_HEADER_BYTES.1 };
    let message_bytes = u16::try_from(received.message.len()).unwrap_or(u16::MAX);
    IpFacts {
        source: received.source,
        destination: received.destination,
        protocol: PROTOCOL,
        ttl: received.ttl,
        header_bytes,
        total_bytes: header_bytes.saturating_add(message_bytes),
    }
}
