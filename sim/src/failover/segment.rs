//! The segment of the clients, on which adverts travel: apart from the replication link, and with faults of its own.

use failover::vrrp::Interface;
use failover::vrrp::packet::IpFacts;
use std::net::Ipv4Addr;

use super::*;

/// What becomes of adverts.
#[derive(Debug)]
pub(super) struct Segment {
    /// What a node sends arrives nowhere, by node.
    pub deaf_to: [bool; 2],
    /// The cable of a node is out: its interface has no carrier.
    pub unplugged: [bool; 2],
    /// One packet in so many is lost; 0: none.
    pub loss: u64,
    /// One packet in so many comes twice; 0: none.
    pub duplicates: u64,
    /// How long a packet may take.
    pub delay_max: Duration,
    /// Since when it carries everything.
    pub whole_since: Option<Instant>,
}

impl Segment {
    pub fn new(now: Instant) -> Segment {
        Segment {
            deaf_to: [false; 2],
            unplugged: [false; 2],
            loss: 0,
            duplicates: 0,
            delay_max: Duration::from_millis(1),
            whole_since: Some(now),
        }
    }

    /// Nothing is lost on it.
    fn is_whole(&self) -> bool {
        !self.deaf_to.contains(&true) && !self.unplugged.contains(&true) && self.loss == 0
    }
}

/// The interface of a node on the segment.
pub(super) fn interface(n: usize, is_up: bool) -> Interface {
    let own = Ipv4Addr::new(10, 77, 0, u8::try_from(n + 1).expect("there are two nodes"));
    Interface { name: "eth0".into(), is_up, ipv4: Some(own), ipv6: None }
}

impl Cluster {
    /// A packet of a node goes on its way.
    pub(super) fn transmit(&mut self, from: usize, ip: IpFacts, payload: &[u8]) {
        let segment = &self.segment;
        let lost = segment.deaf_to[from] || segment.unplugged.contains(&true);
        let (loss, duplicates) = (segment.loss, segment.duplicates);
        let longest_us = u64::try_from(segment.delay_max.as_micros()).expect("less than an hour");
        if lost || loss > 0 && self.rng.one_in(loss) {
            return;
        }
        let copies = if duplicates > 0 && self.rng.one_in(duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            let at = self.w.now + Duration::from_micros(1 + self.rng.below(longest_us));
            let life = self.sides[1 - from].life;
            self.put(1 - from, life, at, What::Packet(Box::new((ip, payload.to_vec()))));
        }
    }

    /// What a node sends on the segment does not arrive any more, or does again.
    pub fn mute_on_segment(&mut self, n: usize, mute: bool) {
        self.note(n, if mute { "is not heard on the segment" } else { "is heard on the segment" });
        self.segment.deaf_to[n] = mute;
        self.segment_changed();
    }

    /// The cable of a node to the segment is pulled, or plugged in.
    pub fn unplug(&mut self, n: usize, out: bool) {
        if self.segment.unplugged[n] == out {
            return;
        }
        self.note(n, if out { "its cable is pulled" } else { "its cable is plugged in" });
        self.segment.unplugged[n] = out;
        self.segment_changed();
        let (at, life) = (self.w.now + Duration::from_micros(1 + self.rng.below(10_000)), self.sides[n].life);
        self.put(n, life, at, What::Carrier);
    }

    /// From now on one packet in so many is lost or comes twice (0: none), and they take so long.
    pub fn segment_weather(&mut self, loss: u64, duplicates: u64, delay_max: Duration) {
        (self.segment.loss, self.segment.duplicates) = (loss, duplicates);
        self.segment.delay_max = delay_max;
        self.segment_changed();
    }

    fn segment_changed(&mut self) {
        let now = self.w.now;
        let since = self.segment.whole_since;
        self.segment.whole_since = self.segment.is_whole().then(|| since.unwrap_or(now));
    }
}
