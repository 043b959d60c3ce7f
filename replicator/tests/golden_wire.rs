//! Recorded traffic of the DRBD driver against the wire codecs and the bitmap exchange: every packet of every
//! capture decodes and encodes back to the same bytes, the counts are those of another program, and our sender
//! makes the very bitmap packets that the driver sent.

mod support;

use replicator::bitmap::{Bitmap, BitmapReceiver, BitmapSender, Progress};
use replicator::wire::{self, Command, HeaderForm, Packet, Sock};
use std::collections::BTreeMap;
use support::capture::{self, Capture, Captured};
use support::{counts, pcap};

/// Bits of the recorded devices wherever bitmaps are exchanged: 34736 sectors.
const BITS: u64 = 4342;

fn check(number: u32) {
    let capture = capture::read(number);
    assert_eq!(capture.cut_bytes, 0, "no recorded connection ends inside a packet");
    capture.packets.iter().for_each(reencodes);
    counts_agree(number, &capture);
    let transfers = bitmaps_agree(&capture);
    println!("capture {number:02}: {} packets, {transfers} bitmaps", capture.packets.len());
}

fn reencodes(p: &Captured) {
    let (packet, name) = (p.packet(), p.header.command.name());
    let mut again = Vec::new();
    p.header.encode(&mut again);
    packet.encode(&mut again);
    assert_eq!(again, p.bytes, "{name}");

    let behind = (p.digest.len() + p.payload.len()) as u32;
    let mut put = Vec::new();
    match p.header.form {
        HeaderForm::H100 => wire::put(&mut put, p.header.vnr, &packet, behind),
        _ => wire::put80(&mut put, &packet),
    }
    assert_eq!(put, p.bytes, "{name}");
    assert_eq!(p.header.len as usize, p.body().len() + behind as usize, "{name}");
}

fn counts_agree(number: u32, capture: &Capture) {
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    let mut by_flags: BTreeMap<u32, u64> = BTreeMap::new();
    for p in &capture.packets {
        *by_name.entry(p.header.command.name()).or_default() += 1;
        if let Packet::Data(d) = p.packet() {
            *by_flags.entry(d.dp_flags.0).or_default() += 1;
        }
    }
    println!("{by_name:?}");
    for (name, row) in counts::PACKETS {
        let counted = by_name.remove(name).unwrap_or(0);
        assert_eq!(counted, counts::of_capture(row, number), "{name}");
    }
    assert!(by_name.is_empty(), "not in the table: {by_name:?}");
    for (flags, row) in counts::DP_FLAGS {
        let counted = by_flags.remove(flags).unwrap_or(0);
        assert_eq!(counted, counts::of_capture(row, number), "dp_flags {flags:#x}");
    }
    assert!(by_flags.is_empty(), "not in the table: {by_flags:?}");
}

/// Every recorded bitmap: received, then sent again by our sender. Returns how many there were.
fn bitmaps_agree(capture: &Capture) -> usize {
    let is_bitmap = |p: &&Captured| matches!(p.header.command, Command::Bitmap | Command::CompressedBitmap);
    let mut packets = capture.packets.iter().filter(is_bitmap).peekable();
    let mut transfers = Vec::new();
    while let Some(first) = packets.peek().copied() {
        let mut bitmap = Bitmap::new(BITS);
        let mut receiver = BitmapReceiver::new(&bitmap);
        let mut sent = Vec::new();
        let mut progress = Progress::More;
        while progress == Progress::More {
            let p = packets.next().expect("the transfer is complete");
            assert_eq!((p.connection, p.node), (first.connection, first.node));
            progress = match p.packet() {
                Packet::Bitmap(piece) => receiver.plain(&mut bitmap, &piece).expect("proper piece"),
                Packet::CompressedBitmap(c) => receiver.compressed(&mut bitmap, &c).expect("proper code"),
                _ => unreachable!("filtered"),
            };
            sent.push(p.bytes.clone());
        }
        bitmap.check_invariants();
        assert_eq!(receiver.newly_set(), bitmap.count());

        let use_rle = first.header.command == Command::CompressedBitmap;
        let mut sender = BitmapSender::new(&bitmap, use_rle);
        let (mut again, mut body) = (Vec::new(), Vec::new());
        while let Some(packet) = sender.next_packet(&bitmap, &mut body) {
            let mut out = Vec::new();
            wire::put(&mut out, first.header.vnr, &packet, 0);
            again.push(out);
        }
        assert_eq!(again, sent);
        assert_eq!(sender.stats(), receiver.stats());
        transfers.push(bitmap);
    }
    // spec: drbd-wire 5.1, the target answers with the union
    for pair in transfers.chunks(2) {
        let [source, union] = pair else { panic!("bitmaps come in pairs") };
        assert!(source.words().iter().zip(union.words()).all(|(s, u)| s & !u == 0));
    }
    transfers.len()
}

macro_rules! captures {
    ($($name:ident = $number:literal;)+) => {
        $(#[test]
        fn $name() {
            check($number);
        })+

        #[test]
        fn every_capture_is_read() {
            let mut files: Vec<String> = std::fs::read_dir(pcap::golden_dir())
                .expect("the directory of the captures")
                .map(|e| e.expect("an entry").file_name().into_string().expect("a plain name"))
                .filter(|name| name.ends_with(".pcap.xz"))
                .collect();
            files.sort();
            let read: Vec<String> = [$(format!("{:02}", $number)),+].into();
            let there: Vec<&str> = files.iter().map(|f| &f[..2]).collect();
            assert_eq!(there, read);
        }
    };
}

captures! {
    connect_and_full_sync = 1;
    connect_and_skip_sync = 2;
    writes_c = 3;
    writes_b = 4;
    writes_a = 5;
    resync_compressed_bitmap = 6;
    resync_plain_bitmap = 7;
    verify_clean = 8;
    verify_differences = 9;
    resync_checksums = 10;
    discard_and_zeroes = 11;
    role_switch = 12;
    split_brain = 13;
    split_brain_resolved_by_policy = 14;
    data_integrity = 15;
    authentication_failure = 16;
    protocol_mismatch = 17;
    diskless_primary = 18;
    ping_timeout = 19;
    thin_resync = 20;
    two_primaries = 21;
    ahead_and_behind = 22;
    io_errors = 23;
    sync_commands = 24;
    resize = 25;
    primary_crash = 26;
    two_volumes = 27;
    write_during_resync = 28;
}

#[test]
fn both_sockets_and_both_nodes_are_seen() {
    let capture = capture::read(2);
    for node in [1, 2] {
        for sock in [Sock::Data, Sock::Meta] {
            assert!(capture.packets.iter().any(|p| (p.node, p.sock) == (node, sock)));
        }
    }
}

#[test]
fn the_bitmap_of_140_dirty_blocks() {
    // spec: drbd-wire 16
    let runs = [3, 7, 1, 89, 2, 410, 128, 360, 1, 999, 4, 1996, 1, 341];
    let mut bitmap = Bitmap::new(BITS);
    let mut pos = 0;
    for (i, n) in runs.iter().enumerate() {
        if i % 2 == 0 {
            bitmap.set_range(pos, pos + n - 1);
        }
        pos += n;
    }
    assert_eq!((bitmap.count(), pos), (140, BITS));
    let mut body = Vec::new();
    BitmapSender::new(&bitmap, true).next_packet(&bitmap, &mut body);
    let recorded = [
        0x82, 0x99, 0x7c, 0x28, 0xfe, 0xa4, 0x81, 0xef, 0xe9, 0xe7, 0x06, 0xf0, 0x63, 0x2b, 0xfa, 0xb3, 0x69,
        0xf8, 0x21, 0x01,
    ];
    assert_eq!(body, recorded);
    let capture = capture::read(6);
    assert!(capture.packets.iter().any(|p| p.body() == recorded));
}
