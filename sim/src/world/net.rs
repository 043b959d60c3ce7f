//! The network between the nodes: sockets, what is on the way, and what cuts it.

use super::*;
use replicator::wire::{WireError, frame_shape_with_digest};

impl World {
    /// Closes one end; the other hears of it unless the host is gone.
    pub(super) fn close_end(&mut self, s: SockId, tell: bool) {
        let Some(end) = self.ends.remove(&s) else { return };
        let peer = end.peer;
        if tell
            && !self.weather.cut
            && let Some(other) = self.ends.get(&peer)
        {
            let (n, at) = (other.node, other.last_arrival.max(self.now) + Duration::from_micros(1));
            self.at(n, at, Later::Down { sock: peer });
        }
    }

    /// One end is closed when the other has been, or in a second.
    pub(super) fn linger(&mut self, n: usize, s: SockId) {
        self.flush_socket(s);
        if let Some(end) = self.ends.get_mut(&s) {
            end.lingers = true;
            end.inbox.clear();
            self.at(n, self.now + LINGER, Later::Lingered { sock: s });
        }
    }

    /// Cuts or heals the link. What was sent meanwhile arrives after all if the socket lives on.
    pub fn cut(&mut self, cut: bool) {
        if self.weather.cut == cut {
            return;
        }
        self.weather.cut = cut;
        self.tally.cuts += u64::from(cut);
        self.note(0, || if cut { "link is cut".into() } else { "link heals".into() });
        if cut {
            self.truth.all().for_each(|t| t.separated());
            for what in self.agenda.take_all(|l| matches!(l, Later::Arrive { .. })) {
                if let Later::Arrive { sock, messages } = what
                    && let Some(e) = self.ends.get_mut(&sock)
                {
                    e.held.extend(messages);
                }
            }
            return;
        }
        let socks: Vec<SockId> = self.ends.keys().collect();
        for sock in socks {
            let peer_lives = self.ends.contains_key(&self.ends[&sock].peer);
            self.deliver_held(sock);
            let (n, at, total) = (self.ends[&sock].node, self.net_time(), self.ends[&sock].sent_total);
            let end = self.ends.get_mut(&sock).expect("listed");
            end.last_sent = at.max(end.last_sent + Duration::from_nanos(1));
            let at = end.last_sent;
            self.at(n, at, Later::Sent { sock, total });
            if !peer_lives {
                let (n, at) = (self.ends[&sock].node, self.net_time());
                self.at(n, at, Later::Down { sock });
            }
        }
    }

    /// What waited for the link goes on its way, and the sender's kernel has room again.
    pub(super) fn deliver_held(&mut self, sock: SockId) {
        let Some(end) = self.ends.get_mut(&sock) else { return };
        if self.hooks.kept_behind.contains(&end.peer) {
            return;
        }
        let (list, peer) = (std::mem::take(&mut end.held), end.peer);
        if !list.is_empty()
            && let Some((n, total)) = self.ends.get(&peer).map(|e| (e.node, e.sent_total))
        {
            let at = self.net_time();
            self.at(n, at, Later::Sent { sock: peer, total });
        }
        self.transmit(sock, list);
    }

    /// Stops what a node sends on some of its sockets, or lets it go on.
    pub fn block(&mut self, n: usize, which: Blocked) {
        self.tally.half_open += u64::from(which != Blocked::No);
        self.note(n, || format!("sockets that take nothing: {which:?}"));
        self.hooks.blocked[n] = which;
        if self.weather.cut {
            return;
        }
        let mine: Vec<(SockId, SockId)> =
            self.ends.iter().filter(|(_, e)| e.node == n).map(|(s, e)| (s, e.peer)).collect();
        for (sock, peer) in mine {
            // A stream has no holes: what waited goes before anything that is sent from now on.
            if !self.is_blocked(n, sock) {
                self.deliver_held(peer);
            }
        }
    }

    /// Lets go of the packets of a node that [`Hooks::keep`] has kept; nothing more of it is kept.
    pub fn pass(&mut self, n: usize) {
        self.note(n, || "kept packets go on".into());
        self.hooks.keep_nothing_of(n);
        for sock in std::mem::take(&mut self.hooks.kept_behind) {
            match self.ends.get(&sock).map(|e| (e.node, e.peer)) {
                Some((m, _)) if m != n => self.hooks.kept_behind.push(sock),
                Some((_, peer)) if !self.weather.cut => self.deliver_held(peer),
                _ => {}
            }
        }
    }

    /// A packet of this node is kept.
    pub fn keeps_from(&self, n: usize) -> bool {
        self.hooks.kept_behind.iter().any(|s| self.ends.get(s).is_some_and(|e| e.node == n))
    }

    pub(super) fn is_blocked(&self, n: usize, sock: SockId) -> bool {
        if self.hooks.kept_behind.contains(&sock) {
            return true;
        }
        let socks = self.nodes[n].core.as_ref().and_then(|c| c.sockets());
        match self.hooks.blocked[n] {
            Blocked::No => false,
            Blocked::Data => socks.is_some_and(|(d, _)| d == sock),
            Blocked::Meta => socks.is_some_and(|(_, m)| m == sock),
            Blocked::Both => true,
        }
    }

    /// Resets one socket of the connection: both ends hear of it.
    pub fn reset_one(&mut self) {
        let count = self.ends.len() as u64;
        if count > 0 {
            let i = self.rng.below(count) as usize;
            self.reset_socket(i);
        }
    }

    /// Both sockets of the connection are reset at once.
    pub fn reset(&mut self) {
        let socks: Vec<SockId> = self.ends.keys().collect();
        for sock in socks {
            if self.ends.contains_key(&sock) {
                self.reset_end(sock);
            }
        }
    }

    /// Resets the socket with the i-th oldest end, if there are so many: both ends hear of it.
    pub fn reset_socket(&mut self, i: usize) {
        let sock = self.ends.keys().nth(i);
        if let Some(sock) = sock {
            self.reset_end(sock);
        }
    }

    fn reset_end(&mut self, sock: SockId) {
        let end = &self.ends[&sock];
        let (n, peer) = (end.node, end.peer);
        self.tally.resets += 1;
        self.note(n, || "a socket is reset".into());
        self.truth.all().for_each(|t| t.separated());
        for s in [sock, peer] {
            self.agenda.take_all(|l| matches!(l, Later::Arrive { sock, .. } if *sock == s));
            if let Some(e) = self.ends.get(&s) {
                let (n, at) = (e.node, self.now);
                self.at(n, at, Later::Down { sock: s });
            }
        }
    }

    pub(super) fn send(
        &mut self,
        n: usize,
        sock: SockId,
        bytes: &[u8],
        (payload, digest): (Option<(BufId, u32)>, Option<DigestAlg>),
    ) {
        let mut packet = self.spare.bytes();
        packet.extend_from_slice(bytes);
        let mut versions = payload.map(|(buf, len)| self.nodes[n].versions(buf, u64::from(len / 512)));
        if let Some(alg) = digest {
            packet.extend_from_slice(digest_of(alg, versions.as_deref().unwrap_or_default()).as_bytes());
        }
        if let Some(versions) = versions.as_mut() {
            self.hooks.change_data(versions);
        }
        let own = packet.len();
        let mut message = Message { bytes: packet, versions, foreign: 0 };
        let sectors = message.sectors() as u64;
        self.mix(fingerprint(&message.bytes) ^ sectors);
        let free = !self.weather.cut && !self.is_blocked(n, sock);
        if self.hooks.packet_leaves(self.now, (n, sock), &mut message.bytes, sectors) {
            self.flush_sockets(n);
            self.cut(true);
        } else if free && self.is_blocked(n, sock) {
            // What was written before this packet is not kept with it.
            self.flush_unblocked(sock);
        }
        let severed = free.then(|| self.hooks.severs()).flatten();
        let Some(end) = self.ends.get_mut(&sock) else { return };
        assert_eq!(end.node, n, "a node sends on its own socket");
        if end.severed {
            return;
        }
        message.foreign = message.bytes.len().saturating_sub(own);
        end.outbox.push(message);
        if let Some(number) = severed {
            self.sever(sock, number);
        }
    }

    /// The last packet of a socket is cut short, and both ends hear that the stream has ended.
    fn sever(&mut self, sock: SockId, number: u64) {
        let Some(end) = self.ends.get_mut(&sock) else { return };
        let (n, peer) = (end.node, end.peer);
        let last = end.outbox.last_mut().expect("it was just put there");
        // In the middle of header and body, or of its block data.
        let (head, blocks) = (last.bytes.len() as u64, last.sectors() as u64);
        if blocks == 0 || number.is_multiple_of(2) {
            last.bytes.truncate((number / 2 % head) as usize);
            last.versions = None;
        } else {
            last.keep_sectors((number / 2 % blocks) as usize);
        }
        last.foreign = last.foreign.min(last.bytes.len());
        let left = last.len();
        if last.bytes.is_empty() {
            end.outbox.pop();
        }
        end.severed = true;
        self.tally.severed += 1;
        self.note(n, || format!("a socket is lost in the middle of a packet, behind {left} bytes"));
        self.flush_socket(sock);
        self.truth.all().for_each(|t| t.separated());
        for s in [sock, peer] {
            if let Some(e) = self.ends.get(&s) {
                let (m, at) = (e.node, e.last_arrival.max(self.now) + Duration::from_nanos(1));
                self.at(m, at, Later::Down { sock: s });
            }
        }
    }

    /// Hands what a batch has written to the kernel.
    pub(super) fn flush_sockets(&mut self, n: usize) {
        let full = |e: &End| e.node == n && !e.outbox.is_empty();
        loop {
            let next = self.ends.iter().find(|(_, e)| full(e)).map(|(s, _)| s);
            let Some(sock) = next else { return };
            self.flush_socket(sock);
        }
    }

    pub(super) fn flush_socket(&mut self, sock: SockId) {
        let Some(end) = self.ends.get_mut(&sock) else { return };
        if end.outbox.is_empty() {
            return;
        }
        let (n, peer) = (end.node, end.peer);
        if self.weather.cut || self.is_blocked(n, sock) {
            let fresh = self.spare.list();
            let mut list = self.ends.get_mut(&sock).expect("just seen").hand_over(fresh);
            if let Some(other) = self.ends.get_mut(&peer) {
                other.held.append(&mut list);
            }
            self.spare.keep_list(list);
            return;
        }
        self.flush_unblocked(sock);
    }

    fn flush_unblocked(&mut self, sock: SockId) {
        let Some(end) = self.ends.get_mut(&sock) else { return };
        let list = end.hand_over(self.spare.list());
        let (n, total, peer) = (end.node, end.sent_total, end.peer);
        if list.is_empty() {
            return;
        }
        if !self.ends.contains_key(&peer) {
            // The other host answers with a reset, if it is there.
            if self.nodes[1 - n].core.is_some() {
                let at = self.net_time();
                self.at(n, at, Later::Down { sock });
            }
            return;
        }
        let sent_at = self.net_time();
        let end = self.ends.get_mut(&sock).expect("checked");
        end.last_sent = sent_at.max(end.last_sent + Duration::from_nanos(1));
        let sent_at = end.last_sent;
        self.at(n, sent_at, Later::Sent { sock, total });
        self.transmit(peer, list);
    }

    /// Puts messages on the way to this end, in one segment or several; one stream keeps its order.
    pub(super) fn transmit(&mut self, to: SockId, mut list: Vec<Message>) {
        while !list.is_empty() {
            let arrives = self.arrival_at(to);
            let first =
                if self.rng.one_in(4) { 1 + self.rng.below(list.len() as u64) as usize } else { list.len() };
            let rest = list.split_off(first);
            let (now, speed) = (self.now, self.weather.link_bytes_per_s);
            let Some(end) = self.ends.get_mut(&to) else { return };
            let mut at = arrives.max(end.last_arrival + Duration::from_nanos(1));
            let bytes: u64 = list.iter().map(|m| m.len() as u64).sum();
            if let Some(takes_ns) = (bytes * 1_000_000_000).checked_div(speed) {
                end.line_free = end.line_free.max(now) + Duration::from_nanos(takes_ns);
                at = at.max(end.line_free);
            }
            end.last_arrival = at;
            let m = end.node;
            self.at(m, at, Later::Arrive { sock: to, messages: list });
            list = rest;
        }
    }

    /// When what is sent to this end now arrives.
    fn arrival_at(&mut self, to: SockId) -> Instant {
        let soon = self.net_time();
        let lag = self.weather.lag;
        if lag == [0, 0] {
            return soon;
        }
        let socks = self.ends.get(&to).and_then(|e| self.nodes[e.node].core.as_ref()?.sockets());
        let times = match socks {
            Some((data, _)) if data == to => lag[0],
            Some((_, meta)) if meta == to => lag[1],
            _ => 0,
        };
        self.now + soon.saturating_since(self.now) * times.max(1) as u32
    }

    /// Hands over some of the packets that arrived, as a turn of a driver would; true if there was one.
    pub(super) fn parse_some(&mut self, n: usize) -> bool {
        if !self.ends.values().any(|e| e.node == n && !e.inbox.is_empty()) {
            return false;
        }
        let most = 1 << self.rng.below(5);
        (0..most).take_while(|_| self.parse(n)).count() > 0
    }

    /// Cuts a packet out of what arrived; true if there was one.
    fn parse(&mut self, n: usize) -> bool {
        let mut last = None;
        // The inboxes in turn, oldest socket first, until one has a packet that the core takes now.
        loop {
            let waiting = self.ends.iter().filter(|(_, e)| e.node == n && !e.inbox.is_empty());
            let Some(sock) = waiting.map(|(s, _)| s).find(|s| last.is_none_or(|l| *s > l)) else {
                return false;
            };
            last = Some(sock);
            let Some(core) = self.nodes[n].core.as_ref() else { return false };
            let Some(framing) = core.framing(sock) else { continue };
            let Some(mut m) = self.ends.get_mut(&sock).and_then(|e| e.inbox.pop_front()) else { continue };
            let now = self.clock(n);
            let digest_bytes = framing.integrity.map_or(0, DigestAlg::len_bytes);
            let shaped = parse_header(framing.form, &m.bytes).and_then(|found| {
                // As the driver does: what cannot follow the header is refused before it is there.
                if let (Some((h, _)), Some(which)) = (&found, framing.sock) {
                    frame_shape_with_digest(h, which, framing.features, digest_bytes)?;
                }
                Ok(found)
            });
            let header = match shaped {
                Ok(Some((h, used))) if m.len() >= used + h.len as usize => (h, used),
                // The rest is still to come, from a stranger, or was cut off.
                Ok(_) => {
                    self.ends.get_mut(&sock).expect("just read from").inbox.push_front(m);
                    continue;
                }
                Err(error) => {
                    let node = &mut self.nodes[n];
                    let core = node.core.as_mut().expect("checked");
                    core.handle(now, Event::BadFrame { sock, error }, &mut node.out);
                    return true;
                }
            };
            let (header, used) = header;
            let mut body_end = m.bytes.len();
            if let Some(alg) = framing.integrity
                && let Some(versions) = &m.versions
            {
                body_end -= alg.len_bytes() as usize;
                if digest_of(alg, versions).as_bytes() != &m.bytes[body_end..] {
                    self.tally.bad_digests += 1;
                    let error = WireError::Digest { command: header.command };
                    let node = &mut self.nodes[n];
                    let core = node.core.as_mut().expect("checked");
                    core.handle(now, Event::BadFrame { sock, error }, &mut node.out);
                    return true;
                }
            }
            self.note(n, || format!("<- {} vol {} len {}", header.command.name(), header.vnr, header.len));
            let payload = m.versions.take().map(|versions| self.nodes[n].alloc(versions));
            let node = &mut self.nodes[n];
            let core = node.core.as_mut().expect("checked");
            let event = Event::Frame { sock, header, body: &m.bytes[used..body_end], payload };
            core.handle(now, event, &mut node.out);
            self.spare.keep_bytes(m.bytes);
            return true;
        }
    }

    /// A program that is not the peer connects to a node that listens; its end of the socket.
    pub fn stranger_connects(&mut self, n: usize) -> Option<SockId> {
        if self.weather.cut || !self.nodes[n].listening || self.nodes[n].core.is_none() {
            return None;
        }
        let (own, theirs) = self.new_ends(n, 1 - n);
        let now = self.clock(n);
        self.tally.strangers += 1;
        self.note(n, || "a stranger connects".into());
        let node = &mut self.nodes[n];
        let core = node.core.as_mut().expect("checked");
        core.handle(now, Event::Accepted { sock: own }, &mut node.out);
        self.settle(n);
        Some(theirs)
    }

    /// Bytes of a stranger, from its end of the socket.
    pub fn stranger_says(&mut self, end: SockId, bytes: &[u8]) {
        let Some(to) = self.ends.get(&end).map(|e| e.peer) else { return };
        self.transmit(to, vec![Message { bytes: bytes.to_vec(), versions: None, foreign: 0 }]);
    }

    /// A stranger closes its end.
    pub fn stranger_closes(&mut self, end: SockId) {
        self.close_end(end, true);
    }

    /// Two ends of a new connection, of nodes `n` and `m`.
    fn new_ends(&mut self, n: usize, m: usize) -> (SockId, SockId) {
        let (a, b) = (SockId(self.next_sock), SockId(self.next_sock + 1));
        self.next_sock += 2;
        let now = self.now;
        let end = |node, peer| End {
            node,
            peer,
            inbox: VecDeque::new(),
            sent_total: 0,
            last_arrival: now,
            last_sent: now,
            line_free: now,
            held: Vec::new(),
            outbox: Vec::new(),
            severed: false,
            lingers: false,
        };
        self.ends.insert(a, end(n, b));
        self.ends.insert(b, end(m, a));
        (a, b)
    }

    pub(super) fn try_connect(&mut self, n: usize, attempt: u32) {
        let m = 1 - n;
        let now = self.clock(n);
        if self.weather.cut || !self.nodes[m].listening || self.nodes[m].core.is_none() {
            let node = &mut self.nodes[n];
            if let Some(core) = node.core.as_mut() {
                core.handle(now, Event::ConnectFailed { attempt }, &mut node.out);
            }
            return;
        }
        let (a, b) = self.new_ends(n, m);
        let node = &mut self.nodes[n];
        if let Some(core) = node.core.as_mut() {
            core.handle(now, Event::Connected { attempt, sock: a }, &mut node.out);
        }
        let now = self.clock(m);
        let node = &mut self.nodes[m];
        if let Some(core) = node.core.as_mut() {
            core.handle(now, Event::Accepted { sock: b }, &mut node.out);
        }
        self.settle(m);
    }
}

/// How long a lingering end waits for the peer.
const LINGER: Duration = Duration::from_secs(1);
