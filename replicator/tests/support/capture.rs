//! The packets of a capture, cut out of the byte streams as a driver would do it.

use super::pcap::{self, Event};
use replicator::wire::{
    Command, Features, Header, HeaderForm, Packet, Sock, frame_shape_with_digest, parse_header,
};
use std::collections::HashMap;

/// A packet of a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Time stamp of its last byte, in microseconds since the epoch.
    pub time_us: u64,
    /// Number of the TCP connection in this capture.
    pub connection: usize,
    /// Sending node, 1 or 2.
    pub node: u8,
    /// Data or meta socket.
    pub sock: Sock,
    /// Agreed features when it was received.
    pub features: Features,
    /// Its header.
    pub header: Header,
    /// Header and body as they were sent.
    pub bytes: Vec<u8>,
    /// Length of the header in `bytes`.
    pub header_bytes: usize,
    /// Integrity digest, if the connection has them.
    pub digest: Vec<u8>,
    /// Block data.
    pub payload: Vec<u8>,
}

impl Captured {
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.header_bytes..]
    }

    /// The packet, decoded.
    pub fn packet(&self) -> Packet<'_> {
        Packet::decode(&self.header, self.body(), self.features)
            .unwrap_or_else(|e| panic!("{} from node {}: {e}", self.header.command.name(), self.node))
    }
}

/// What a capture contains.
#[derive(Debug, Default)]
pub struct Capture {
    /// All packets, in the order in which they were complete.
    pub packets: Vec<Captured>,
    /// Ends of byte streams, in the order in which they were seen.
    pub ends: Vec<StreamEnd>,
    /// Bytes of packets that were cut off by the end of their connection.
    pub cut_bytes: usize,
}

/// The end of what one node sends on a connection that carried packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamEnd {
    /// Number of packets that were complete before.
    pub after_packets: usize,
    /// Time stamp, in microseconds since the epoch.
    pub time_us: u64,
    /// Number of the TCP connection in this capture.
    pub connection: usize,
    /// The node that ended it.
    pub node: u8,
}

/// Reads capture `number`. Panics on anything that the protocol does not allow.
pub fn read(number: u32) -> Capture {
    let mut all = Capture::default();
    let mut connections: HashMap<usize, Connection> = HashMap::new();
    for chunk in pcap::streams(&pcap::load(number)) {
        let Event::Bytes(bytes) = chunk.event else {
            if connections.contains_key(&chunk.connection) {
                let (time_us, connection, node) = (chunk.time_us, chunk.connection, chunk.node);
                all.ends.push(StreamEnd { after_packets: all.packets.len(), time_us, connection, node });
            }
            continue;
        };
        {
            let c =
                connections.entry(chunk.connection).or_insert_with(|| Connection::new(chunk.node, &bytes));
            c.halves.entry(chunk.node).or_default().buffer.extend_from_slice(&bytes);
            while let Some(mut p) = c.next_packet(chunk.node) {
                (p.time_us, p.connection) = (chunk.time_us, chunk.connection);
                all.packets.push(p);
            }
        }
    }
    all.cut_bytes = connections.values().flat_map(|c| c.halves.values()).map(|h| h.buffer.len()).sum();
    all
}

/// One TCP connection.
struct Connection {
    sock: Sock,
    /// The node that opened it and sends the initial packet.
    opener: u8,
    halves: HashMap<u8, Half>,
}

/// One direction of a connection.
#[derive(Default)]
struct Half {
    buffer: Vec<u8>,
    packets: usize,
    /// Offered by this node.
    features: Option<Features>,
    /// Length of the digest this node puts in front of block data.
    digest_bytes: u32,
}

impl Connection {
    fn new(opener: u8, first: &[u8]) -> Connection {
        let (header, _) = parse_header(HeaderForm::H80, first)
            .expect("an initial packet")
            .expect("the initial packet is not split");
        let sock = match header.command {
            Command::InitialData => Sock::Data,
            Command::InitialMeta => Sock::Meta,
            other => panic!("a connection starts with {}", other.name()),
        };
        Connection { sock, opener, halves: HashMap::new() }
    }

    fn next_packet(&mut self, node: u8) -> Option<Captured> {
        let offered = self.halves.values().map(|h| h.features);
        let features = offered.fold(Features::ALL, |all, f| all.and(f.unwrap_or(Features::ALL)));
        // spec: drbd-wire 2.1, the initial packet and, on the data socket, the features have header 80
        let initial = usize::from(node == self.opener);
        let negotiation = usize::from(self.sock == Sock::Data);
        let half = self.halves.get_mut(&node).expect("the direction is there");
        let form = if half.packets < initial + negotiation { HeaderForm::H80 } else { HeaderForm::H100 };
        let (header, header_bytes) = parse_header(form, &half.buffer).expect("a proper header")?;
        let shape = frame_shape_with_digest(&header, self.sock, features, half.digest_bytes)
            .unwrap_or_else(|e| panic!("node {node}: {e}"));
        let body_end = header_bytes + shape.body_bytes as usize;
        let digest_end = body_end + shape.digest_bytes as usize;
        let end = digest_end + shape.payload_bytes as usize;
        if half.buffer.len() < end {
            return None;
        }
        let packet = Captured {
            time_us: 0,
            connection: 0,
            node,
            sock: self.sock,
            features,
            header,
            bytes: half.buffer[..body_end].to_vec(),
            header_bytes,
            digest: half.buffer[body_end..digest_end].to_vec(),
            payload: half.buffer[digest_end..end].to_vec(),
        };
        half.buffer.drain(..end);
        half.packets += 1;
        match packet.packet() {
            Packet::ConnectionFeatures(f) => half.features = Some(f.features),
            // spec: drbd-wire 3.4, the digest is per direction and changes with the next packet
            Packet::Protocol(p) | Packet::ProtocolUpdate(p) => {
                half.digest_bytes = match p.integrity_alg {
                    "" => 0,
                    "sha1" => 20,
                    other => panic!("digest length of {other}"),
                };
            }
            _ => {}
        }
        Some(packet)
    }
}
