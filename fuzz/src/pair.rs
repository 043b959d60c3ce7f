//! Two cores that talk to each other, and something between them that bends, drops, repeats and holds back what they
//! say: hostile packets in every state that a real conversation reaches. Whatever arrives, no core panics, contradicts
//! itself or keeps a request for ever.

use std::collections::VecDeque;

use model::time::Duration;
use replicator::{ClientOp, Command, Event, NetConfig, SockId, VolIdx};

use super::driver::Driver;
use super::input::Input;
use super::resource::{config, net};

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (Some(how), Some(network), Some(policies)) = (input.byte(), input.byte(), input.byte()) else {
        return;
    };
    let nodes = [1, 2].map(|seed| {
        let (config, sectors) = config(how);
        Driver::new(config, sectors, seed)
    });
    let net = NetConfig { tentative: false, ..net(network, policies) };
    let mut pair = Pair { nodes, net, links: Vec::new(), way: Default::default(), volumes: 1 + (how & 1) };
    for n in 0..2 {
        if how & (32 << n) == 0 {
            for v in 0..pair.volumes {
                pair.nodes[n].attach(VolIdx(v));
                pair.nodes[n].drain_disk();
            }
        }
        let net = pair.net.clone();
        pair.nodes[n].command(Command::Connect(Box::new(net)));
    }
    if how & 128 == 0 {
        pair.nodes[0].command(Command::Primary { force: true });
    }
    for _ in 0..200 {
        if pair.operation(&mut input).is_none() {
            break;
        }
        for n in &pair.nodes {
            n.core.check_invariants();
        }
    }
    let [a, b] = pair.nodes;
    a.finish();
    b.finish();
}

struct Pair {
    nodes: [Driver; 2],
    net: NetConfig,
    /// Ends of the connections that exist, first node's and second one's.
    links: Vec<[SockId; 2]>,
    /// What each node said and the other one has not heard.
    way: [VecDeque<(SockId, Vec<u8>)>; 2],
    volumes: u8,
}

impl Pair {
    fn operation(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (kind, a, b) = (input.byte()?, input.byte()?, input.byte()?);
        let n = usize::from(a & 1);
        match kind % 12 {
            // Most of the time the conversation goes on.
            0 | 1 => self.converse(1 + u32::from(b % 32), Duration::from_millis(u64::from(a >> 1) + 1)),
            2 => {
                self.collect();
                if let Some((_, bytes)) = self.way[n].front_mut() {
                    // Headers bent end the connection; bodies are the interesting part.
                    let first = if bytes.len() > 16 && a & 2 == 0 { 16 } else { 0 };
                    let at = first + usize::from(b) % (bytes.len() - first);
                    bytes[at] ^= 1 << (a >> 5);
                }
                self.deliver(n);
            }
            3 => {
                self.collect();
                drop(self.way[n].pop_front());
            }
            4 => {
                self.collect();
                if let Some(first) = self.way[n].front().cloned() {
                    self.way[n].push_front(first);
                }
            }
            5 => {
                self.collect();
                let count = self.way[n].len();
                if count > 1 {
                    self.way[n].swap(0, usize::from(b) % count);
                }
                self.deliver(n);
            }
            6 => self.request(n, a, b),
            7 => self.command(n, a, b),
            8 => self.nodes[n].disk_done(usize::from(a >> 1), b != 0),
            9 => {
                for n in &mut self.nodes {
                    n.advance(Duration::from_millis(100 << (b % 8)));
                }
            }
            10 => {
                if let Some(link) = self.links.get(usize::from(b) % self.links.len().max(1)).copied() {
                    self.nodes[n].disconnected(link[n]);
                }
                self.collect();
            }
            _ => {
                if self.nodes[n].stalled {
                    self.nodes[n].unstall();
                } else {
                    self.nodes[n].stalled = true;
                }
            }
        }
        Some(())
    }

    /// Rounds of everything ending well.
    fn converse(&mut self, rounds: u32, step: Duration) {
        for _ in 0..rounds {
            self.collect();
            for n in 0..2 {
                self.nodes[n].drain_disk();
                self.collect();
                while !self.way[n].is_empty() {
                    self.deliver(n);
                }
                self.nodes[n].advance(step);
            }
        }
    }

    /// Makes the connections that are asked for, ends those that one side closed, and takes what was sent.
    fn collect(&mut self) {
        for n in 0..2 {
            while let Some(attempt) = self.nodes[n].attempts.pop() {
                if self.links.len() >= 8 {
                    self.nodes[n].event(Event::ConnectFailed { attempt });
                    continue;
                }
                let own = self.nodes[n].connected(Some(attempt));
                let other = self.nodes[1 - n].connected(None);
                self.links.push(if n == 0 { [own, other] } else { [other, own] });
            }
        }
        for n in 0..2 {
            let sent = std::mem::take(&mut self.nodes[n].outgoing);
            self.way[n].extend(sent);
        }
        let links = std::mem::take(&mut self.links);
        for link in links {
            let has = |n: usize| self.nodes[n].sockets.iter().any(|s| s.id == link[n]);
            match (has(0), has(1)) {
                (true, true) => self.links.push(link),
                (true, false) => self.nodes[0].disconnected(link[0]),
                (false, true) => self.nodes[1].disconnected(link[1]),
                (false, false) => {}
            }
        }
    }

    /// The oldest message of a node arrives, if its connection is still there.
    fn deliver(&mut self, from: usize) {
        let Some((sock, bytes)) = self.way[from].pop_front() else { return };
        let link = self.links.iter().find(|link| link[from] == sock);
        if let Some(link) = link.copied() {
            self.nodes[1 - from].arrive(link[1 - from], &bytes);
        }
    }

    fn request(&mut self, n: usize, a: u8, b: u8) {
        if self.nodes[n].open_requests.len() >= 100 {
            return;
        }
        let vol = VolIdx((a >> 1) % self.volumes);
        let node = &mut self.nodes[n];
        let sector = u64::from(b) * u64::from(a >> 2) * 8;
        match a >> 2 & 7 {
            0 => node.request(vol, 0, 0, ClientOp::Flush),
            1 => node.request(vol, sector, 4096, ClientOp::Read),
            2 => node.request(vol, sector, 16384, ClientOp::Discard),
            3 => node.request(vol, sector, 8192, ClientOp::Zeroes { may_unmap: b & 1 == 0, fua: b & 2 == 0 }),
            _ => {
                let buf = node.buffer();
                node.request(vol, sector, 512 << (b & 7), ClientOp::Write { buf, fua: a & 128 != 0 });
            }
        }
    }

    fn command(&mut self, n: usize, a: u8, b: u8) {
        let vol = VolIdx((a >> 1) % self.volumes);
        let force = b & 128 != 0;
        if self.nodes[n].open_commands.len() >= 16 {
            return;
        }
        let command = match b % 16 {
            0 => Command::Primary { force },
            1 => Command::Secondary { open: 0, force: false },
            2 | 3 => Command::Connect(Box::new(self.net.clone())),
            4 => Command::Disconnect { force },
            5 => Command::Detach { vol, force },
            6 | 7 => return self.nodes[n].attach(vol),
            8 => Command::PauseSync(vol),
            9 => Command::ResumeSync(vol),
            10 => Command::Invalidate(vol),
            11 => Command::InvalidateRemote(vol),
            12 => Command::Outdate(vol),
            13 => Command::SuspendIo,
            14 => Command::ResumeIo,
            _ => Command::NewCurrentUuid { vol, clear_bitmap: force },
        };
        self.nodes[n].command(command);
    }
}
