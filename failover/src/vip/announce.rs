//! How the segment learns where a virtual address is now: the frames, and when they are sent.
// Source: failover 1.14, RFC 5227 3, RFC 4861 4.4.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::failover::config::AnnouncePolicy;
use model::time::{Duration, Instant};

use crate::vrrp::packet::{fold, pseudo_header_sum, sum_of_words};

/// A hardware address.
pub type Mac = [u8; 6];

/// Octets of a gratuitous ARP from the Ethernet header on.
pub const ARP_FRAME_BYTES: usize = 42;
/// Octets of an unsolicited neighbour advertisement from the Ethernet header on.
pub const NA_FRAME_BYTES: usize = 86;

const BROADCAST: Mac = [0xff; 6];
/// All nodes of the segment, and their MAC.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;

/// The MAC of a virtual router for `use_vmac` (failover 1.1).
pub const fn virtual_mac(virtual_router_id: u8, is_ipv6: bool) -> Mac {
    [0, 0, 0x5e, 0, if is_ipv6 { 2 } else { 1 }, virtual_router_id]
}

/// A request for the address, from the address.
pub fn gratuitous_arp(mac: Mac, address: Ipv4Addr) -> [u8; ARP_FRAME_BYTES] {
    let address = address.octets();
    let mut frame = [0; ARP_FRAME_BYTES];
    frame[..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    // Ethernet type ARP; then hardware Ethernet, protocol IPv4, their lengths, and "request".
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address);
    frame[32..38].copy_from_slice(&BROADCAST);
    frame[38..].copy_from_slice(&address);
    frame
}

/// An answer that nobody asked for, with the flag Override; `forwards`: this node is a router.
pub fn neighbour_advertisement(mac: Mac, address: Ipv6Addr, forwards: bool) -> [u8; NA_FRAME_BYTES] {
    const OVERRIDE: u8 = 0x20;
    const ROUTER: u8 = 0x80;
    let mut frame = [0; NA_FRAME_BYTES];
    frame[..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    // Ethernet type and version of IPv6; 32 octets of ICMPv6 with hop limit 255.
    frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    frame[18..22].copy_from_slice(&[0, 32, ICMPV6, 255]);
    frame[22..38].copy_from_slice(&address.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    frame[54] = 136;
    frame[58] = if forwards { OVERRIDE | ROUTER } else { OVERRIDE };
    frame[62..78].copy_from_slice(&address.octets());
    // Option 2, one unit of eight octets: the sender's MAC.
    frame[78..80].copy_from_slice(&[2, 1]);
    frame[80..].copy_from_slice(&mac);
    let pseudo = pseudo_header_sum(address.into(), ALL_NODES.into(), ICMPV6, 32);
    let sum = !fold(pseudo + sum_of_words(&frame[54..]));
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// When the addresses of one instance are announced. Each address that [`Announcer::due`] hands out is one frame.
#[derive(Clone, Debug)]
pub struct Announcer {
    policy: AnnouncePolicy,
    arp: Lane,
    na: Lane,
    second_burst: Option<(Instant, u32)>,
    refresh_at: Option<Instant>,
    /// One address of each interface other than the instance's: it is there for the switches, which forget where a MAC is
    /// that sends nothing.
    extra: (Lane, Lane),
    extra_at: Option<Instant>,
}

/// The packets of one family, which have their own pause.
#[derive(Clone, Debug)]
struct Lane {
    pause: Duration,
    addresses: Vec<IpAddr>,
    /// Packets still to be sent; the addresses take turns.
    packets: u64,
    next_address: usize,
    next_at: Instant,
}

impl Lane {
    fn new(pause: Duration) -> Lane {
        Lane { pause, addresses: Vec::new(), packets: 0, next_address: 0, next_at: Instant::default() }
    }

    fn reset(&mut self, addresses: Vec<IpAddr>) {
        *self = Lane { addresses, packets: 0, next_address: 0, ..*self };
    }

    fn burst(&mut self, now: Instant, rounds: u32) {
        let packets = u64::from(rounds) * self.addresses.len() as u64;
        if self.packets == 0 {
            self.next_address = 0;
            self.next_at = self.next_at.max(now);
        }
        // A burst that is still on its way is not made longer: somebody who sends lower adverts all the time would fill
        // the queue faster than it drains.
        self.packets = self.packets.max(packets);
    }

    fn due(&mut self, now: Instant, out: &mut Vec<IpAddr>) {
        while self.packets > 0 && self.next_at <= now {
            out.push(self.addresses[self.next_address]);
            self.next_address = (self.next_address + 1) % self.addresses.len();
            self.packets -= 1;
            self.next_at = now + self.pause;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        (self.packets > 0).then_some(self.next_at)
    }
}

impl Announcer {
    /// One that announces nothing yet.
    pub fn new(policy: AnnouncePolicy) -> Announcer {
        let (arp, na) = (Lane::new(policy.arp_interval), Lane::new(policy.na_interval));
        let extra = (arp.clone(), na.clone());
        Announcer { policy, arp, na, second_burst: None, refresh_at: None, extra, extra_at: None }
    }

    /// The addresses are here now.
    pub fn start(&mut self, now: Instant, addresses: &[IpAddr]) {
        let (v4, v6) = addresses.iter().partition(|a| a.is_ipv4());
        self.arp.reset(v4);
        self.na.reset(v6);
        self.burst(now, self.policy.repeat);
        self.second_burst_after(now, self.policy.second_burst_after, self.policy.repeat);
        self.refresh_at = (!self.policy.refresh.is_zero()).then(|| now + self.policy.refresh);
    }

    /// The interfaces other than the instance's have these, one each. What was said before is forgotten.
    pub fn start_extra(&mut self, now: Instant, addresses: &[IpAddr]) {
        let (v4, v6) = addresses.iter().partition(|a| a.is_ipv4());
        self.extra.0.reset(v4);
        self.extra.1.reset(v6);
        let period = self.policy.extra_refresh;
        self.extra_at = (!period.is_zero() && !addresses.is_empty()).then(|| now + period);
    }

    /// A master of a lower priority was heard: it may have announced the addresses too.
    pub fn lower_priority_heard(&mut self, now: Instant) {
        let rounds = self.policy.lower_priority_repeat;
        self.burst(now, rounds);
        self.second_burst_after(now, self.policy.lower_priority_second_burst_after, rounds);
    }

    /// The addresses are about to go: nothing more is sent.
    pub fn stop(&mut self) {
        self.arp.reset(Vec::new());
        self.na.reset(Vec::new());
        self.second_burst = None;
        self.refresh_at = None;
        self.extra.0.reset(Vec::new());
        self.extra.1.reset(Vec::new());
        self.extra_at = None;
    }

    /// Appends an address for each frame that is due.
    pub fn due(&mut self, now: Instant, out: &mut Vec<IpAddr>) {
        if let Some((_, rounds)) = self.second_burst.take_if(|(at, _)| *at <= now) {
            self.burst(now, rounds);
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.burst(now, self.policy.refresh_repeat);
            self.refresh_at = Some(now + self.policy.refresh);
        }
        if self.extra_at.is_some_and(|at| at <= now) {
            self.extra.0.burst(now, 1);
            self.extra.1.burst(now, 1);
            self.extra_at = Some(now + self.policy.extra_refresh);
        }
        for lane in [&mut self.arp, &mut self.na, &mut self.extra.0, &mut self.extra.1] {
            lane.due(now, out);
        }
    }

    /// When [`Announcer::due`] has something next.
    pub fn deadline(&self) -> Option<Instant> {
        let second = self.second_burst.map(|(at, _)| at);
        let lanes = [&self.arp, &self.na, &self.extra.0, &self.extra.1].map(Lane::deadline);
        [second, self.refresh_at, self.extra_at].into_iter().chain(lanes).flatten().min()
    }

    fn burst(&mut self, now: Instant, rounds: u32) {
        self.arp.burst(now, rounds);
        self.na.burst(now, rounds);
    }

    fn second_burst_after(&mut self, now: Instant, delay: Duration, rounds: u32) {
        if !delay.is_zero() && rounds > 0 {
            self.second_burst = Some((now + delay, rounds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: AnnouncePolicy = AnnouncePolicy {
        repeat: 5,
        second_burst_after: Duration::from_secs(5),
        refresh: Duration::ZERO,
        refresh_repeat: 1,
        lower_priority_repeat: 2,
        lower_priority_second_burst_after: Duration::ZERO,
        extra_refresh: Duration::ZERO,
        arp_interval: Duration::ZERO,
        na_interval: Duration::ZERO,
    };
    const S: Duration = Duration::from_secs(1);

    fn v4(n: u8) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, n).into()
    }

    /// Everything until `end`: milliseconds and address.
    fn run(announcer: &mut Announcer, end: Instant) -> Vec<(u64, IpAddr)> {
        let mut sent = Vec::new();
        while let Some(at) = announcer.deadline().filter(|at| *at <= end) {
            let mut out = Vec::new();
            announcer.due(at, &mut out);
            sent.extend(out.into_iter().map(|a| (at.as_nanos() / 1_000_000, a)));
        }
        sent
    }

    #[test]
    fn two_bursts_five_seconds_apart_take_the_addresses_in_turns() {
        let mut announcer = Announcer::new(POLICY);
        assert_eq!(announcer.deadline(), None);
        announcer.start(Instant::default() + S, &[v4(1), v4(2)]);
        let round = |at| [(at, v4(1)), (at, v4(2))];
        let expected: Vec<_> = [[round(1000); 5], [round(6000); 5]].as_flattened().as_flattened().to_vec();
        assert_eq!(run(&mut announcer, Instant(u64::MAX)), expected);
    }

    #[test]
    fn packets_keep_their_pause_and_each_family_has_its_own() {
        let policy = AnnouncePolicy {
            repeat: 2,
            second_burst_after: Duration::ZERO,
            arp_interval: S / 10,
            na_interval: S / 4,
            ..POLICY
        };
        let mut announcer = Announcer::new(policy);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        announcer.start(Instant::default(), &[v4(1), v6, v4(2)]);
        let expected = [(0, v4(1)), (0, v6), (100, v4(2)), (200, v4(1)), (250, v6), (300, v4(2))];
        assert_eq!(run(&mut announcer, Instant(u64::MAX)), expected);
    }

    #[test]
    fn a_refresh_repeats_until_it_is_stopped() {
        let policy =
            AnnouncePolicy { repeat: 1, second_burst_after: Duration::ZERO, refresh: 10 * S, ..POLICY };
        let mut announcer = Announcer::new(policy);
        announcer.start(Instant::default(), &[v4(1)]);
        let sent = run(&mut announcer, Instant::default() + 35 * S);
        assert_eq!(sent, [0, 10_000, 20_000, 30_000].map(|at| (at, v4(1))));
        announcer.stop();
        assert_eq!(announcer.deadline(), None);
        announcer.lower_priority_heard(Instant::default() + 40 * S);
        assert_eq!(announcer.deadline(), None, "a node that has no addresses announces none");
    }

    #[test]
    fn other_interfaces_have_a_refresh_of_their_own() {
        let policy = AnnouncePolicy {
            repeat: 1,
            second_burst_after: Duration::ZERO,
            refresh: 4 * S,
            extra_refresh: 3 * S,
            arp_interval: S / 10,
            ..POLICY
        };
        let mut announcer = Announcer::new(policy);
        let v6 = IpAddr::from(Ipv6Addr::LOCALHOST);
        announcer.start(Instant::default(), &[v4(1), v4(2), v6]);
        announcer.start_extra(Instant::default(), &[v4(2), v4(3), v6]);
        let sent = run(&mut announcer, Instant::default() + 5 * S);
        let expected = [
            (0, v4(1)),
            (0, v6),
            (100, v4(2)),
            (3000, v4(2)),
            (3000, v6),
            (3100, v4(3)),
            (4000, v4(1)),
            (4000, v6),
            (4100, v4(2)),
        ];
        assert_eq!(sent, expected);
        announcer.stop();
        assert_eq!(announcer.deadline(), None);
        announcer.start(Instant::default() + 5 * S, &[v4(1)]);
        announcer.start_extra(Instant::default() + 5 * S, &[]);
        let sent = run(&mut announcer, Instant::default() + 12 * S);
        assert_eq!(sent, [5000, 9000].map(|at| (at, v4(1))), "who has one interface refreshes no other");
    }

    #[test]
    fn a_flood_of_lower_adverts_does_not_make_the_queue_longer() {
        let policy =
            AnnouncePolicy { arp_interval: S, second_burst_after: Duration::ZERO, repeat: 0, ..POLICY };
        let mut announcer = Announcer::new(policy);
        announcer.start(Instant::default(), &[v4(1)]);
        for _ in 0..1000 {
            announcer.lower_priority_heard(Instant::default());
        }
        assert_eq!(run(&mut announcer, Instant(u64::MAX)).len(), 2);
    }

    #[test]
    fn a_long_sleep_does_not_end_in_a_burst_without_pauses() {
        let policy = AnnouncePolicy { arp_interval: S, second_burst_after: Duration::ZERO, ..POLICY };
        let mut announcer = Announcer::new(policy);
        announcer.start(Instant::default(), &[v4(1)]);
        let mut out = Vec::new();
        announcer.due(Instant::default() + 60 * S, &mut out);
        assert_eq!(out.len(), 1);
    }
}
