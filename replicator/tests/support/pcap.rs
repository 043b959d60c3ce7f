//! A small reader for packet captures: classic pcap files with Ethernet, IPv4 and TCP, and the byte streams of
//! the TCP connections in them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// TCP port of the recorded resources.
pub const PORT: u16 = 7789;

/// What a node put on a connection, in the order in which it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Time stamp of the capture, in microseconds since the epoch.
    pub time_us: u64,
    /// Number of the TCP connection in this capture, from 0 on.
    pub connection: usize,
    /// Sending node: last byte of its address.
    pub node: u8,
    /// What happened.
    pub event: Event,
}

/// An event of a byte stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next bytes.
    Bytes(Vec<u8>),
    /// No more bytes from this node.
    Fin,
    /// Connection reset.
    Reset,
}

/// Directory of the captures.
pub fn golden_dir() -> PathBuf {
    // The reader serves tests of more than one package.
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("tests/golden/wire"));
    above.into_iter().find(|dir| dir.is_dir()).expect("the repository holds the captures")
}

/// The capture whose file name starts with `number`, unpacked.
pub fn load(number: u32) -> Vec<u8> {
    let prefix = format!("{number:02}-");
    let path = std::fs::read_dir(golden_dir())
        .expect("the directory of the captures")
        .map(|entry| entry.expect("an entry").path())
        .find(|p| {
            p.file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| n.starts_with(&prefix) && n.ends_with(".xz"))
        })
        .unwrap_or_else(|| panic!("no capture {prefix}"));
    let output = Command::new("xz")
        .arg("-dc")
        .arg(&path)
        .output()
        .expect("the program xz (Debian package xz-utils) is needed to unpack captures");
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The byte streams of all TCP connections to or from [`PORT`]. Panics if the file is not what it should be, or if
/// a stream has a hole.
pub fn streams(pcap: &[u8]) -> Vec<Chunk> {
    let mut table = Table::default();
    for (time_us, frame) in frames(pcap) {
        if let Some(segment) = Segment::parse(frame) {
            table.handle(time_us, &segment);
        }
    }
    for (from, half) in &table.halves {
        assert!(half.held.is_empty(), "the stream from {from:?} has a hole");
    }
    table.chunks
}

/// Records of the file: time and frame.
fn frames(pcap: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    assert_eq!(le32(pcap, 0), 0xa1b2_c3d4, "a little-endian pcap with microseconds");
    assert_eq!(le32(pcap, 20), 1, "Ethernet");
    let mut at = 24;
    std::iter::from_fn(move || {
        if at == pcap.len() {
            return None;
        }
        let time_us = u64::from(le32(pcap, at)) * 1_000_000 + u64::from(le32(pcap, at + 4));
        let (kept, original) = (le32(pcap, at + 8) as usize, le32(pcap, at + 12) as usize);
        assert_eq!(kept, original, "frames are complete");
        at += 16 + kept;
        Some((time_us, &pcap[at - kept..at]))
    })
}

type Endpoint = ([u8; 4], u16);

/// A TCP segment.
struct Segment<'a> {
    from: Endpoint,
    to: Endpoint,
    seq: u32,
    flags: u8,
    data: &'a [u8],
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

impl<'a> Segment<'a> {
    fn parse(frame: &'a [u8]) -> Option<Segment<'a>> {
        let ip = frame.get(14..)?;
        if frame[12..14] != [8, 0] || ip[9] != 6 {
            return None;
        }
        let ip = &ip[..usize::from(be16(ip, 2))];
        let tcp = &ip[usize::from(ip[0] & 15) * 4..];
        let address = |at: usize| [ip[at], ip[at + 1], ip[at + 2], ip[at + 3]];
        let (from, to) = ((address(12), be16(tcp, 0)), (address(16), be16(tcp, 2)));
        (from.1 == PORT || to.1 == PORT).then(|| Segment {
            from,
            to,
            seq: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            flags: tcp[13],
            data: &tcp[usize::from(tcp[12] >> 4) * 4..],
        })
    }
}

/// One direction of a connection.
#[derive(Default)]
struct Half {
    /// Sequence number of the next byte.
    next: Option<u32>,
    /// Segments that came early.
    held: Vec<(u32, Vec<u8>)>,
}

impl Half {
    /// The next bytes that can be delivered.
    fn deliver(&mut self) -> Option<Vec<u8>> {
        let next = self.next?;
        // Distances are modulo 2^32; what is "behind" overlaps bytes that were delivered before.
        let is_due = |seq: u32| next.wrapping_sub(seq) < 1 << 31;
        let i = self.held.iter().position(|(seq, _)| is_due(*seq))?;
        let (seq, data) = self.held.swap_remove(i);
        let old = (next.wrapping_sub(seq) as usize).min(data.len());
        self.next = Some(next.wrapping_add((data.len() - old) as u32));
        Some(data[old..].to_vec())
    }
}

#[derive(Default)]
struct Table {
    /// Connection and first sequence number of the opener, by both endpoints in ascending order.
    connections: HashMap<(Endpoint, Endpoint), (usize, u32)>,
    halves: HashMap<(Endpoint, Endpoint), Half>,
    count: usize,
    chunks: Vec<Chunk>,
}

impl Table {
    fn handle(&mut self, time_us: u64, s: &Segment<'_>) {
        let both = if s.from < s.to { (s.from, s.to) } else { (s.to, s.from) };
        let opens = s.flags & (SYN | ACK) == SYN;
        let known = self.connections.get(&both).copied();
        let connection = match known {
            Some((number, first)) if !opens || first == s.seq => number,
            _ => {
                self.count += 1;
                self.connections.insert(both, (self.count - 1, s.seq));
                self.count - 1
            }
        };
        let half = self.halves.entry((s.from, s.to)).or_default();
        if s.flags & SYN != 0 {
            *half = Half { next: Some(s.seq.wrapping_add(1)), held: Vec::new() };
        }
        if !s.data.is_empty() {
            assert!(half.next.is_some(), "a connection is recorded from its start");
            half.held.push((s.seq, s.data.to_vec()));
        }
        let node = s.from.0[3];
        while let Some(bytes) = half.deliver() {
            if !bytes.is_empty() {
                self.chunks.push(Chunk { time_us, connection, node, event: Event::Bytes(bytes) });
            }
        }
        for (flag, event) in [(FIN, Event::Fin), (RST, Event::Reset)] {
            if s.flags & flag != 0 {
                self.chunks.push(Chunk { time_us, connection, node, event });
            }
        }
    }
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn le32(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
