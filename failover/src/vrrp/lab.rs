//! For tests: configurations, and a segment with nodes on it whose time is a number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use model::failover::config::{
    AnnouncePolicy, Authentication, Broadcast, FailoverConfig, Notify, Preempt, Sending, VirtualAddress,
    VrrpInstance, VrrpVersion,
};
use model::time::{Duration, Instant};

use super::packet::{Advert, ChecksumForm, Form, IpFacts, PROTOCOL};
use super::{Action, Event, Interface, State, Vrrp};

pub const GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100));
pub const S: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);

/// The time after the start.
pub fn at(after: Duration) -> Instant {
    Instant::default() + after
}

/// Node 1 is 10.77.0.1.
pub fn node(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, number).into()
}

pub fn virtual_address(address: IpAddr) -> VirtualAddress {
    VirtualAddress {
        address,
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
    }
}

/// VI_1 with number 51 and one address, multicast.
pub fn instance(version: VrrpVersion, priority: u8, advert_interval: Duration) -> VrrpInstance {
    VrrpInstance {
        name: "VI_1".into(),
        version,
        starts_as_master: false,
        interface: "eth0".into(),
        virtual_router_id: 51,
        priority,
        advert_interval,
        authentication: Authentication::None,
        addresses: vec![virtual_address(VIP)],
        excluded_addresses: vec![],
        routes: vec![],
        rules: vec![],
        preempt: Preempt::Always,
        sending: Sending::Multicast { source: None, group: GROUP },
        announce: AnnouncePolicy {
            repeat: 5,
            second_burst_after: 5 * S,
            refresh: Duration::ZERO,
            refresh_repeat: 1,
            lower_priority_repeat: 5,
            lower_priority_second_burst_after: 5 * S,
            extra_refresh: Duration::ZERO,
            arp_interval: Duration::ZERO,
            na_interval: Duration::ZERO,
        },
        virtual_mac: None,
        accept: true,
        down_timer_adverts: 3,
        lower_prio_no_advert: false,
        higher_prio_send_advert: false,
        tracks_own_interface: true,
        trackers: vec![],
        notify: Notify::default(),
    }
}

pub fn config(instances: Vec<VrrpInstance>) -> FailoverConfig {
    FailoverConfig { instances, ..FailoverConfig::default() }
}

pub fn eth0(number: u8, is_up: bool) -> Interface {
    let IpAddr::V4(ipv4) = node(number) else { unreachable!("nodes have IPv4 addresses") };
    Interface { name: "eth0".into(), is_up, ipv4: Some(ipv4), ipv6: None }
}

/// What another router with this configuration would send.
pub fn advert_of(config: &VrrpInstance, priority: u8) -> Advert {
    let interval = config.advert_interval;
    let form = match (config.version, config.authentication) {
        (VrrpVersion::V2, Authentication::None) => {
            Form::V2 { interval_s: interval.as_secs() as u8, auth_type: 0, auth_data: [0; 8] }
        }
        (VrrpVersion::V2, Authentication::Password(auth_data)) => {
            Form::V2 { interval_s: interval.as_secs() as u8, auth_type: 1, auth_data }
        }
        (VrrpVersion::V3, _) => Form::V3 { interval_cs: (interval.as_millis() / 10) as u16 },
    };
    let addresses = config.addresses.iter().map(|a| a.address).collect();
    Advert { form, virtual_router_id: config.virtual_router_id, priority, addresses }
}

/// The packet as it arrives.
pub fn packet(source: IpAddr, destination: IpAddr, advert: &Advert) -> (IpFacts, Vec<u8>) {
    let payload = advert.encode(source, destination, ChecksumForm::PseudoHeader);
    let total_bytes = 20 + payload.len() as u16;
    let ip = IpFacts { source, destination, protocol: PROTOCOL, ttl: 255, header_bytes: 20, total_bytes };
    (ip, payload)
}

/// Numbers that are the same every time.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }
}

/// What the segment does to packets.
#[derive(Clone, Copy)]
pub struct Faults {
    /// One packet in so many is lost; 0: none.
    pub loss: u64,
    /// One packet in so many comes twice; 0: none.
    pub duplicates: u64,
    pub delay_min: Duration,
    pub delay_max: Duration,
}

pub struct Node {
    pub vrrp: Vrrp,
    config: FailoverConfig,
    bound: Vec<String>,
    /// Does nothing while paused or crashed; packets wait while paused.
    pub paused: bool,
    pub crashed: bool,
    waiting: Vec<(IpFacts, Vec<u8>)>,
    /// Every action with its time, since the lab began.
    pub actions: Vec<(Instant, Action)>,
    /// Addresses that are configured in the kernel.
    pub addresses: BTreeSet<IpAddr>,
}

/// Nodes on one segment.
pub struct Lab {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub faults: Faults,
    pub random: Random,
    flying: BTreeMap<(Instant, u64), (usize, IpFacts, Vec<u8>)>,
    count: u64,
}

impl Lab {
    /// Node `i` has the address 10.77.0.(i+1); none is started.
    pub fn new(configs: Vec<FailoverConfig>, bound: &[&str]) -> Lab {
        let bound: Vec<String> = bound.iter().map(|b| (*b).to_owned()).collect();
        let nodes = configs.into_iter().enumerate().map(|(i, config)| Node {
            vrrp: Vrrp::new(at(Duration::ZERO), &config, &[eth0(i as u8 + 1, true)], &bound),
            config,
            bound: bound.clone(),
            paused: false,
            crashed: true,
            waiting: vec![],
            actions: vec![],
            addresses: BTreeSet::new(),
        });
        let faults = Faults { loss: 0, duplicates: 0, delay_min: MS / 10, delay_max: MS / 10 };
        let nodes = nodes.collect();
        Lab { now: at(Duration::ZERO), nodes, faults, random: Random(1), flying: BTreeMap::new(), count: 0 }
    }

    /// A new process on node `i`, which finds the addresses that the last one left.
    pub fn start(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.vrrp = Vrrp::new(self.now, &node.config, &[eth0(i as u8 + 1, true)], &node.bound);
        (node.crashed, node.paused) = (false, false);
        node.waiting.clear();
        self.event(i, Event::Start);
    }

    pub fn stop(&mut self, i: usize) {
        self.event(i, Event::Stop);
        self.nodes[i].crashed = true;
    }

    pub fn resume(&mut self, i: usize) {
        self.nodes[i].paused = false;
        let mut late = std::mem::take(&mut self.nodes[i].waiting);
        // Which of them the event loop sees first is anybody's guess.
        if self.random.one_in(2) {
            self.event(i, Event::Tick);
        }
        for (ip, payload) in late.drain(..) {
            self.event(i, Event::Packet { interface: "eth0", ip: &ip, payload: &payload });
        }
    }

    pub fn event(&mut self, i: usize, event: Event<'_>) {
        let mut out = Vec::new();
        self.nodes[i].vrrp.handle(self.now, event, &mut out);
        self.act(i, out);
    }

    pub fn grant(&mut self, i: usize) {
        let mut out = Vec::new();
        self.nodes[i].vrrp.grant(self.now, "VI_1", &mut out).expect("the instance can be Master");
        self.act(i, out);
    }

    pub fn revoke(&mut self, i: usize) {
        let mut out = Vec::new();
        self.nodes[i].vrrp.revoke(self.now, "VI_1", &mut out).expect("the instance is bound");
        self.act(i, out);
    }

    fn act(&mut self, i: usize, actions: Vec<Action>) {
        for action in actions {
            match &action {
                Action::Send { source, destination, advert, .. } => {
                    let (ip, payload) = packet(*source, *destination, advert);
                    self.transmit(i, ip, &payload);
                }
                Action::AddAddresses { addresses, .. } => {
                    self.nodes[i].addresses.extend(addresses.iter().map(|a| a.address));
                }
                Action::RemoveAddresses { addresses, .. } => {
                    self.nodes[i].addresses.retain(|a| !addresses.iter().any(|gone| gone.address == *a));
                }
                _ => {}
            }
            self.nodes[i].actions.push((self.now, action));
        }
    }

    fn transmit(&mut self, from: usize, ip: IpFacts, payload: &[u8]) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            if self.random.one_in(self.faults.loss) {
                continue;
            }
            let copies = if self.random.one_in(self.faults.duplicates) { 2 } else { 1 };
            for _ in 0..copies {
                let spread = (self.faults.delay_max - self.faults.delay_min).as_micros() as u64;
                let jitter = Duration::from_micros(self.random.below(spread + 1));
                self.count += 1;
                let key = (self.now + self.faults.delay_min + jitter, self.count);
                self.flying.insert(key, (to, ip, payload.to_vec()));
            }
        }
    }

    /// Lets everything happen that happens until then; `watch` sees the lab after each event.
    pub fn run_until(&mut self, end: Instant, mut watch: impl FnMut(&Lab)) {
        let mut last = (self.now, 0);
        loop {
            let awake = |n: &&Node| !n.paused && !n.crashed;
            let tick = self.nodes.iter().filter(awake).filter_map(|n| n.vrrp.deadline()).min();
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = [tick, arrival].into_iter().flatten().min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            last = if last.0 == self.now { (self.now, last.1 + 1) } else { (self.now, 0) };
            assert!(last.1 < 1000, "time stands still");
            if arrival == Some(next) {
                let (_, (to, ip, payload)) = self.flying.pop_first().expect("an arrival was found");
                if self.nodes[to].paused {
                    self.nodes[to].waiting.push((ip, payload));
                } else if !self.nodes[to].crashed {
                    self.event(to, Event::Packet { interface: "eth0", ip: &ip, payload: &payload });
                }
            } else {
                let due = |n: &Node| awake(&n) && n.vrrp.deadline().is_some_and(|d| d <= next);
                let i = self.nodes.iter().position(due).expect("a deadline was found");
                self.event(i, Event::Tick);
            }
            watch(self);
        }
        self.now = self.now.max(end);
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(self.now + time, |_| ());
    }

    pub fn state(&self, i: usize) -> State {
        self.nodes[i].vrrp.state("VI_1").expect("every node has VI_1")
    }

    /// Running nodes that believe to be Master.
    pub fn masters(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|i| !self.nodes[*i].crashed && self.state(*i) == State::Master).collect()
    }

    /// When node `i` added its addresses last.
    pub fn took_over_at(&self, i: usize) -> Instant {
        let added = |(_, a): &&(Instant, Action)| matches!(a, Action::AddAddresses { .. });
        self.nodes[i].actions.iter().rev().find(added).expect("it was Master").0
    }

    /// Lines that the FIFO of node `i` got.
    pub fn fifo(&self, i: usize) -> Vec<String> {
        let lines = self.nodes[i].actions.iter().filter_map(|(_, action)| match action {
            Action::Notify(notification) => Some(notification.fifo_line()),
            _ => None,
        });
        lines.collect()
    }
}
