//! Gratuitous ARP and neighbour advertisements of all instances (failover 1.14).

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::failover::config::{AnnouncePolicy, VirtualAddress};
use model::time::Instant;

use super::kernel::Links;
use crate::vip::announce::{Announcer, gratuitous_arp, neighbour_advertisement};
use crate::vip::netlink::Link;
use crate::vrrp::Name;
use crate::vrrp::socket::FrameSocket;

struct Voice {
    announcer: Announcer,
    /// Where each address is.
    interfaces: BTreeMap<IpAddr, String>,
}

/// Says where addresses are now.
pub(super) struct Speaker {
    frames: FrameSocket,
    voices: BTreeMap<Name, Voice>,
    /// The last frame could not be sent.
    in_trouble: bool,
}

impl Speaker {
    pub(super) fn new(frames: FrameSocket) -> Speaker {
        Speaker { frames, voices: BTreeMap::new(), in_trouble: false }
    }

    /// The addresses of an instance are here; `held` knows where.
    pub(super) fn start(
        &mut self,
        now: Instant,
        instance: &Name,
        policy: AnnouncePolicy,
        (addresses, extra): (&[IpAddr], &[IpAddr]),
        held: &[VirtualAddress],
    ) {
        let mut announcer = Announcer::new(policy);
        announcer.start(now, addresses);
        announcer.start_extra(now, extra);
        let interfaces = held.iter().filter_map(|a| Some((a.address, a.interface.clone()?))).collect();
        self.voices.insert(instance.clone(), Voice { announcer, interfaces });
    }

    pub(super) fn again(&mut self, now: Instant, instance: &Name) {
        if let Some(voice) = self.voices.get_mut(instance) {
            voice.announcer.lower_priority_heard(now);
        }
    }

    pub(super) fn stop(&mut self, instance: &Name) {
        self.voices.remove(instance);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.voices.values().filter_map(|voice| voice.announcer.deadline()).min()
    }

    /// Sends what is due.
    pub(super) fn speak(&mut self, now: Instant, links: &Links) {
        for voice in self.voices.values_mut() {
            let mut due = Vec::new();
            voice.announcer.due(now, &mut due);
            for address in due {
                let link = voice.interfaces.get(&address).and_then(|name| links.by_name(name));
                let Some(link) = link else { continue };
                announce(&self.frames, &mut self.in_trouble, link, address);
            }
        }
    }

    /// Says once where an address is that no announcer knows.
    pub(super) fn say(&mut self, links: &Links, interface: &str, address: IpAddr) {
        if let Some(link) = links.by_name(interface) {
            announce(&self.frames, &mut self.in_trouble, link, address);
        }
    }
}

/// Sends one frame. A row of failures is one line in the log.
fn announce(frames: &FrameSocket, in_trouble: &mut bool, link: &Link, address: IpAddr) {
    let sent = send(frames, link, address);
    if let (Err(e), false) = (&sent, *in_trouble) {
        tracing::warn!("{}: cannot announce {address}: {e}", link.name);
    }
    *in_trouble = sent.is_err();
}

fn send(frames: &FrameSocket, link: &Link, address: IpAddr) -> std::io::Result<()> {
    // An interface without a MAC has no neighbours that would have to learn one.
    let Some(mac) = link.mac else { return Ok(()) };
    match address {
        IpAddr::V4(address) => frames.send(link.index, &gratuitous_arp(mac, address)),
        IpAddr::V6(address) => {
            let setting = format!("/proc/sys/net/ipv6/conf/{}/forwarding", link.name);
            let forwards = std::fs::read_to_string(setting).is_ok_and(|text| text.trim() != "0");
            frames.send(link.index, &neighbour_advertisement(mac, address, forwards))
        }
    }
}
