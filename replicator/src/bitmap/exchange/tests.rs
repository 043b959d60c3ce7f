//! Sender against vectors, receiver against sender, and what a receiver refuses.

use super::*;
use crate::wire::Command;
use alloc::vec;
use proptest::prelude::*;

/// Runs of alternating polarity, starting with clear ones, as a bitmap.
fn bitmap_of(runs: &[u64]) -> Bitmap {
    let mut b = Bitmap::new(runs.iter().sum());
    let mut pos = 0;
    for (i, n) in runs.iter().enumerate() {
        if i % 2 == 1 {
            b.set_range(pos, pos + n - 1);
        }
        pos += n;
    }
    b
}

fn hex(text: &str) -> Vec<u8> {
    text.split(' ').map(|p| u8::from_str_radix(p, 16).unwrap()).collect()
}

/// Everything a sender sends, as (command, body).
fn send(bitmap: &Bitmap, use_rle: bool) -> (Vec<(Command, Vec<u8>)>, ExchangeStats) {
    let mut sender = BitmapSender::new(bitmap, use_rle);
    let (mut all, mut body) = (Vec::new(), Vec::new());
    while let Some(packet) = sender.next_packet(bitmap, &mut body) {
        let command = packet.command();
        assert!(body.len() <= 4080);
        all.push((command, body.clone()));
        assert!(all.len() < 100_000, "the sender must come to an end");
    }
    assert!(sender.is_done());
    (all, sender.stats())
}

fn receive(
    into: &mut Bitmap,
    packets: &[(Command, Vec<u8>)],
) -> Result<(BitmapReceiver, Progress), ExchangeError> {
    let mut receiver = BitmapReceiver::new(into);
    let mut progress = Progress::More;
    for (command, body) in packets {
        progress = match command {
            Command::Bitmap => receiver.plain(into, &BitmapPiece::decode(body).unwrap())?,
            _ => receiver.compressed(into, &CompressedBitmap::decode(body).unwrap())?,
        };
    }
    Ok((receiver, progress))
}

#[test]
fn vectors_of_the_specification() {
    // spec: drbd-wire 14
    let vectors: [(&[u64], &str); 8] = [
        (&[0, 262_144], "b2 7f cf de 03"),
        (&[262_144], "32 7f cf de 03"),
        (&[1000, 1, 7, 20, 261_116], "52 3f b7 82 f9 c6 df b2 f6 00"),
        (&[131_072, 8, 131_064], "12 7f cf de 61 ff 1d 7b 07"),
        (&[256, 2, 4742, 1, 257_143], "42 df b3 3f 55 91 3f a3 e5 01"),
        (&[0, 1, 262_143], "92 fc 39 7b 0f"),
        (&[100], "22 df 0c"),
        (&[0, 5, 3, 92], "a2 23 df 0a"),
    ];
    for (runs, text) in vectors {
        // Leading zero: the bitmap starts with set bits.
        let bitmap = bitmap_of(runs);
        let (packets, stats) = send(&bitmap, true);
        assert_eq!(packets, [(Command::CompressedBitmap, hex(text))], "{runs:?}");
        assert_eq!(
            stats,
            ExchangeStats {
                compressed_packets: 1,
                compressed_bytes: hex(text).len() as u64,
                ..ExchangeStats::default()
            }
        );
        let mut mine = Bitmap::new(bitmap.bits());
        let (receiver, progress) = receive(&mut mine, &packets).unwrap();
        assert_eq!((progress, receiver.newly_set()), (Progress::Complete, bitmap.count()));
        assert_eq!(mine.words(), bitmap.words());
    }
}

#[test]
fn plain_transfers_end_with_an_empty_piece() {
    for (bits, lengths) in [
        (0, vec![0]),
        (1, vec![8, 0]),
        (64, vec![8, 0]),
        (4342, vec![544, 0]),
        (510 * 64, vec![4080, 0]),
        (510 * 64 + 1, vec![4080, 8, 0]),
        (1000 * 64 - 3, vec![4080, 3920, 0]),
    ] {
        let mut bitmap = Bitmap::new(bits);
        bitmap.set_all();
        let (packets, stats) = send(&bitmap, false);
        assert_eq!(packets.iter().map(|p| p.1.len()).collect::<Vec<_>>(), lengths, "{bits}");
        assert!(packets.iter().all(|p| p.0 == Command::Bitmap));
        assert_eq!(stats.plain_packets, lengths.len() as u64);
        let mut mine = Bitmap::new(bits);
        let (receiver, progress) = receive(&mut mine, &packets).unwrap();
        assert_eq!((progress, receiver.newly_set(), receiver.stats()), (Progress::Complete, bits, stats));
        assert_eq!(receive(&mut mine, &packets[..packets.len() - 1]).unwrap().1, Progress::More);
    }
}

#[test]
fn an_incompressible_end_is_plain_and_terminated() {
    // Single bits cost more than they cover, so all packets are plain pieces although run lengths are allowed.
    let bits = 510 * 64 + 100;
    let mut bitmap = Bitmap::new(bits);
    bitmap.merge_words(0, &vec![0x5555_5555_5555_5555; 512]);
    let (packets, _) = send(&bitmap, true);
    let shape: Vec<_> = packets.iter().map(|p| (p.0, p.1.len())).collect();
    assert_eq!(shape, [(Command::Bitmap, 4080), (Command::Bitmap, 16), (Command::Bitmap, 0)]);
}

#[test]
fn compressed_pieces_must_not_be_longer_than_what_they_cover() {
    // One byte of code for eight bits is permitted, for seven bits it is not.
    let eight = send(&bitmap_of(&[0, 8]), true).0;
    assert_eq!(eight, [(Command::CompressedBitmap, hex("b2 1b"))]);
    let seven = send(&bitmap_of(&[0, 7]), true).0;
    assert_eq!(seven, [(Command::Bitmap, hex("7f 00 00 00 00 00 00 00")), (Command::Bitmap, vec![])]);
}

#[test]
fn compressed_pieces_are_filled_to_the_last_bit() {
    // 6526 run lengths of 5 bits and one of 2 bits are 4079 bytes of code.
    let mut runs = vec![8; 6526];
    runs.extend([2, 100_000]);
    let (packets, _) = send(&bitmap_of(&runs), true);
    assert_eq!(packets.iter().map(|p| p.1.len()).collect::<Vec<_>>(), [4080, 5]);
    assert_eq!(packets[0].1[0], 0x02, "no unused bits, clear bits first");
    assert_eq!(packets[1].1[0] & 0x80, 0x80, "the second packet states its own polarity");
}

#[test]
fn after_a_compressed_piece_a_plain_one_repeats_part_of_a_word() {
    // A long clear run, cut where the packet is full, then noise: the plain piece starts at a whole word.
    let mut bitmap = Bitmap::new(1 << 20);
    let mut pos = 0;
    while pos < 200_000 {
        bitmap.set_range(pos, pos);
        pos += 11;
    }
    for i in (200_000..400_000).step_by(2) {
        bitmap.set_range(i, i);
    }
    let (packets, _) = send(&bitmap, true);
    let commands: Vec<_> = packets.iter().map(|p| p.0).collect();
    assert!(commands.contains(&Command::Bitmap) && commands.contains(&Command::CompressedBitmap));
    let first_plain = commands.iter().position(|c| *c == Command::Bitmap).unwrap();
    let mut mine = Bitmap::new(bitmap.bits());
    let (receiver, _) = receive(&mut mine, &packets[..first_plain]).unwrap();
    assert_ne!(receiver.pos % 64, 0, "the case needs a position inside a word");
    let (_, progress) = receive(&mut mine, &packets).unwrap();
    assert_eq!(progress, Progress::Complete);
    assert_eq!(mine.words(), bitmap.words());
}

#[test]
fn a_huge_bitmap_goes_in_bounded_slices() {
    // 1 TiB: full, and with a set bit in every AL extent.
    let mut bitmap = Bitmap::new(1 << 28);
    bitmap.set_all();
    assert_eq!(send(&bitmap, true).0.len(), 1);
    bitmap.clear_all();
    for extent in 0..1 << 18 {
        bitmap.set_range(extent * 1024 + 7, extent * 1024 + 7);
    }
    let (packets, stats) = send(&bitmap, true);
    assert!(packets.iter().all(|p| p.0 == Command::CompressedBitmap));
    // 23 bits per extent, 32632 bits per packet.
    assert_eq!(packets.len(), (1usize << 18).div_ceil(32_632 / 23));
    assert!(stats.compressed_bytes < 800_000);
    let mut mine = Bitmap::new(1 << 28);
    assert_eq!(receive(&mut mine, &packets).unwrap().0.newly_set(), 1 << 18);
    assert!(mine.words() == bitmap.words());
}

#[test]
fn plain_pieces_have_one_length() {
    let mut bitmap = Bitmap::new(1000 * 64);
    for n in (0..=4088).step_by(8) {
        let words = vec![0xff; n];
        let result = BitmapReceiver::new(&bitmap).plain(&mut bitmap, &BitmapPiece { words: &words });
        match n {
            4080 => assert_eq!(result, Ok(Progress::More)),
            _ => assert_eq!(result, Err(ExchangeError::PieceLength { expected: 4080, found: n as u64 })),
        }
    }
    assert_eq!(bitmap.count(), 510 * 64);
}

#[test]
fn runs_beyond_the_end_are_refused() {
    for (first_set, runs) in [(true, &[101][..]), (false, &[101]), (false, &[100, 1]), (true, &[99, 2])] {
        let mut code = Vec::new();
        let mut w = BitWriter::new(&mut code, 100);
        for r in runs {
            let (word, n) = vli::encode(*r).unwrap();
            assert!(w.push(word, n));
        }
        let encoding = CompressedBitmap::encoding_of(first_set, w.unused_bits());
        let mut bitmap = Bitmap::new(100);
        let result =
            BitmapReceiver::new(&bitmap).compressed(&mut bitmap, &CompressedBitmap { encoding, code: &code });
        assert!(matches!(result, Err(ExchangeError::Beyond { bits: 100, .. })), "{runs:?}");
        bitmap.check_invariants();
    }
}

#[test]
fn cut_codes_and_late_packets_are_refused() {
    let mut bitmap = Bitmap::new(262_144);
    let cut = CompressedBitmap::decode(&[0xb2, 0x7f, 0xcf, 0xde]).unwrap();
    assert_eq!(BitmapReceiver::new(&bitmap).compressed(&mut bitmap, &cut), Err(ExchangeError::CutCode));
    let body = hex("b2 7f cf de 03");
    let all = CompressedBitmap::decode(&body).unwrap();
    let mut receiver = BitmapReceiver::new(&bitmap);
    assert_eq!(receiver.compressed(&mut bitmap, &all), Ok(Progress::Complete));
    assert!(receiver.is_complete());
    assert_eq!(receiver.compressed(&mut bitmap, &all), Err(ExchangeError::AlreadyComplete));
    let empty = BitmapPiece { words: &[] };
    assert_eq!(receiver.plain(&mut bitmap, &empty), Err(ExchangeError::AlreadyComplete));
}

#[test]
fn padding_of_the_last_piece_is_ignored() {
    let mut bitmap = Bitmap::new(70);
    let mut receiver = BitmapReceiver::new(&bitmap);
    assert_eq!(receiver.plain(&mut bitmap, &BitmapPiece { words: &[0xff; 16] }), Ok(Progress::More));
    assert_eq!(receiver.newly_set(), 70);
    assert_eq!(receiver.plain(&mut bitmap, &BitmapPiece { words: &[] }), Ok(Progress::Complete));
    bitmap.check_invariants();
}

/// Bitmaps with dense, sparse and empty stretches, so that both codings occur.
fn patchwork() -> impl Strategy<Value = Bitmap> {
    let stretch = prop_oneof![
        (1u64..3000).prop_map(|n| (n, 0u64)),
        (1u64..3000).prop_map(|n| (n, 1)),
        (1u64..40_000).prop_map(|n| (n, 2)),
        (1u64..40_000, 3u64..90).prop_map(|(n, step)| (n, step)),
    ];
    proptest::collection::vec(stretch, 0..12).prop_map(|stretches| {
        let mut b = Bitmap::new(stretches.iter().map(|s| s.0).sum());
        let mut pos = 0;
        for (n, step) in stretches {
            match step {
                0 => {}
                1 => {
                    b.set_range(pos, pos + n - 1);
                }
                _ => (pos..pos + n).step_by(step as usize).for_each(|i| {
                    b.set_range(i, i);
                }),
            }
            pos += n;
        }
        b
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn both_ends_have_the_union_afterwards(a in patchwork(), use_rle in any::<bool>(), noise in any::<u64>()) {
        let mut b = Bitmap::new(a.bits());
        let words = vec![noise; b.words().len()];
        b.merge_words(0, &words);
        let before = b.clone();
        let (packets, stats) = send(&a, use_rle);
        let (receiver, progress) = receive(&mut b, &packets).unwrap();
        prop_assert_eq!(progress, Progress::Complete);
        prop_assert_eq!(receiver.stats(), stats);
        prop_assert_eq!(receiver.newly_set(), b.count() - before.count());
        for ((x, y), z) in a.words().iter().zip(before.words()).zip(b.words()) {
            prop_assert_eq!(x | y, *z);
        }
        b.check_invariants();
        for n in 0..packets.len() {
            let mut c = Bitmap::new(a.bits());
            prop_assert!(n == 0 || receive(&mut c, &packets[..n]).unwrap().1 == Progress::More);
        }
        // Run lengths never cost more than one byte per packet beyond what plain words would.
        prop_assert!(stats.compressed_bytes <= a.bits() / 8 + stats.compressed_packets);
    }

    #[test]
    fn arbitrary_packets_never_panic(
        bits in 0u64..100_000,
        packets in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..8),
    ) {
        let mut b = Bitmap::new(bits);
        let mut receiver = BitmapReceiver::new(&b);
        for (plain, body) in packets {
            let _ = match plain {
                true => BitmapPiece::decode(&body).map(|p| receiver.plain(&mut b, &p)),
                false => CompressedBitmap::decode(&body).map(|p| receiver.compressed(&mut b, &p)),
            };
        }
        b.check_invariants();
    }
}
