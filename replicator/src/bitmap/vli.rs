//! Variable-length integers of the compressed bitmap, and streams of their bits (drbd-wire 5.3).

use alloc::vec::Vec;

/// One way to write a range of values: a prefix, then the distance from the first value.
#[derive(Clone, Copy, Debug)]
struct Level {
    total_bits: u32,
    prefix_bits: u32,
    prefix: u64,
    first: u64,
}

const fn level(total_bits: u32, prefix_bits: u32, prefix: u64, first: u64) -> Level {
    Level { total_bits, prefix_bits, prefix, first }
}

/// The levels, ascending by value. No prefix is the start of another one, low bits first.
const LEVELS: [Level; 10] = [
    level(2, 1, 0x00, 1),
    level(3, 2, 0x01, 3),
    level(5, 3, 0x03, 5),
    level(7, 4, 0x07, 9),
    level(10, 5, 0x0f, 17),
    level(14, 6, 0x1f, 49),
    level(21, 8, 0x3f, 305),
    level(29, 8, 0x7f, 8497),
    level(42, 8, 0xbf, 2_105_649),
    level(64, 8, 0xff, 17_181_974_833),
];

/// Largest value that has a code word.
pub const VALUE_MAX: u64 = (1 << 56) + 17_181_974_832;

/// The code word of `value` and its length in bits; None for 0 and for values above [`VALUE_MAX`].
pub fn encode(value: u64) -> Option<(u64, u32)> {
    if value > VALUE_MAX {
        return None;
    }
    let l = LEVELS.iter().rev().find(|l| value >= l.first)?;
    Some((((value - l.first) << l.prefix_bits) | l.prefix, l.total_bits))
}

/// The value at the low end of `bits` and the length of its code word in bits. The caller checks that the
/// stream has that many bits.
pub fn decode(bits: u64) -> (u64, u32) {
    for l in &LEVELS {
        if bits & ((1 << l.prefix_bits) - 1) == l.prefix {
            let data = bits << (64 - l.total_bits) >> (64 - l.total_bits) >> l.prefix_bits;
            return (data + l.first, l.total_bits);
        }
    }
    unreachable!("the prefixes cover all low bytes")
}

/// Appends code words to a byte buffer, low bits first, up to a limit.
#[derive(Debug)]
pub(super) struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    limit_bytes: usize,
    bits: usize,
}

impl<'a> BitWriter<'a> {
    /// Appends behind what is in `out`, at most `limit_bytes`.
    pub(super) fn new(out: &'a mut Vec<u8>, limit_bytes: usize) -> BitWriter<'a> {
        let start = out.len();
        BitWriter { out, start, limit_bytes, bits: 0 }
    }

    /// Appends the low `n` bits of `code`; false, and nothing happens, if they do not fit.
    pub(super) fn push(&mut self, code: u64, n: u32) -> bool {
        debug_assert!(n > 0 && n <= 64 && (n == 64 || code >> n == 0));
        let end = self.bits + n as usize;
        if end > self.limit_bytes * 8 {
            return false;
        }
        let (mut rest, mut left) = (code, n as usize);
        while left > 0 {
            let used = self.bits % 8;
            if used == 0 {
                self.out.push(0);
            }
            let take = left.min(8 - used);
            let last = self.out.len() - 1;
            // At most 8 bits of `rest` reach the byte, the surplus is shifted out.
            self.out[last] |= ((rest & ((1 << take) - 1)) << used) as u8;
            rest = if take == 64 { 0 } else { rest >> take };
            left -= take;
            self.bits += take;
        }
        debug_assert_eq!(self.out.len() - self.start, self.code_bytes());
        true
    }

    /// Bytes begun.
    pub(super) fn code_bytes(&self) -> usize {
        self.bits.div_ceil(8)
    }

    /// Bits of the last byte that are not used, 0..=7.
    pub(super) fn unused_bits(&self) -> u8 {
        (self.code_bytes() * 8 - self.bits) as u8
    }
}

/// Reads values from a code string.
#[derive(Clone, Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    pos: usize,
    end: usize,
}

impl<'a> BitReader<'a> {
    /// The string is `bytes` without the last `unused_bits` (less than 8, and less than there are bits).
    pub(super) fn new(bytes: &'a [u8], unused_bits: u8) -> BitReader<'a> {
        let end = (bytes.len() * 8).saturating_sub(usize::from(unused_bits));
        BitReader { bytes, pos: 0, end }
    }

    /// The next value: None at the end, `Some(None)` if the string ends inside a code word.
    pub(super) fn next_value(&mut self) -> Option<Option<u64>> {
        if self.pos >= self.end {
            return None;
        }
        let (value, n) = decode(self.peek());
        if n as usize > self.end - self.pos {
            return Some(None);
        }
        self.pos += n as usize;
        Some(Some(value))
    }

    /// The next 64 bits; zero behind the last byte.
    fn peek(&self) -> u64 {
        let mut window = [0u8; 16];
        let from = &self.bytes[self.pos / 8..];
        let n = from.len().min(9);
        window[..n].copy_from_slice(&from[..n]);
        (u128::from_le_bytes(window) >> (self.pos % 8)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn vectors_of_the_specification() {
        // spec: drbd-wire 14
        for (value, bits, code) in [
            (1, 2, 0x0),
            (2, 2, 0x2),
            (3, 3, 0x1),
            (4, 3, 0x5),
            (5, 5, 0x3),
            (8, 5, 0x1b),
            (9, 7, 0x7),
            (16, 7, 0x77),
            (17, 10, 0xf),
            (48, 10, 0x3ef),
            (49, 14, 0x1f),
            (304, 14, 0x3fdf),
            (305, 21, 0x3f),
            (8496, 21, 0x1f_ff3f),
            (8497, 29, 0x7f),
            (262_144, 29, 0x3de_cf7f),
            (2_105_648, 29, 0x1fff_ff7f),
            (2_105_649, 42, 0xbf),
            (17_181_974_832, 42, 0x3ff_ffff_ffbf),
            (17_181_974_833, 64, 0xff),
        ] {
            assert_eq!(encode(value), Some((code, bits)), "{value}");
            assert_eq!(decode(code), (value, bits), "{value}");
        }
        assert_eq!((encode(0), encode(VALUE_MAX + 1)), (None, None));
        assert_eq!(encode(VALUE_MAX), Some((u64::MAX, 64)));
    }

    #[test]
    fn levels_touch_and_prefixes_are_unambiguous() {
        for w in LEVELS.windows(2) {
            assert_eq!(w[1].first, w[0].first + (1 << (w[0].total_bits - w[0].prefix_bits)));
        }
        for byte in 0..=255u64 {
            let hits = LEVELS.iter().filter(|l| byte & ((1 << l.prefix_bits) - 1) == l.prefix).count();
            assert_eq!(hits, 1, "{byte:#x}");
        }
    }

    #[test]
    fn a_writer_stops_at_its_limit_and_keeps_what_fits() {
        let mut out = Vec::from([0xaa]);
        let mut w = BitWriter::new(&mut out, 2);
        assert!(w.push(0x3fdf, 14) && !w.push(0x1, 3) && w.push(0x2, 2));
        assert_eq!((w.code_bytes(), w.unused_bits()), (2, 0));
        assert_eq!(out, [0xaa, 0xdf, 0xbf]);
    }

    #[test]
    fn a_cut_code_word_is_noticed() {
        let mut r = BitReader::new(&[0x7f, 0xcf, 0xde, 0x03], 3);
        assert_eq!(r.next_value(), Some(Some(262_144)));
        assert_eq!(r.next_value(), None);
        let mut r = BitReader::new(&[0x7f, 0xcf, 0xde, 0x03], 4);
        assert_eq!(r.next_value(), Some(None));
        assert_eq!(BitReader::new(&[0xff], 0).next_value(), Some(None));
    }

    proptest! {
        #[test]
        fn streams_round_trip(values in proptest::collection::vec(
            prop_oneof![1u64..20, 1u64..10_000, 1u64..=VALUE_MAX], 0..200)
        ) {
            let mut out = Vec::new();
            let mut w = BitWriter::new(&mut out, 1 << 20);
            for v in &values {
                let (code, n) = encode(*v).unwrap();
                prop_assert!(w.push(code, n));
            }
            let unused = w.unused_bits();
            let mut r = BitReader::new(&out, unused);
            for v in &values {
                prop_assert_eq!(r.next_value(), Some(Some(*v)));
            }
            prop_assert_eq!(r.next_value(), None);
        }

        #[test]
        fn arbitrary_strings_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), unused in 0u8..8) {
            let mut r = BitReader::new(&bytes, unused);
            let mut n = 0;
            while let Some(Some(v)) = r.next_value() {
                prop_assert!((1..=VALUE_MAX).contains(&v));
                n += 1;
            }
            prop_assert!(n <= bytes.len() * 4);
        }
    }
}
