//! Numbers and foreign words as people read them on a screen.

use alloc::format;
use alloc::string::String;

/// An amount: `12 KiB`, `10.7 GiB`, `110 MiB`; one decimal below 100, rounded down.
pub fn size(kib: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if kib < 1024 {
        return format!("{kib} KiB");
    }
    let mut unit = 1u32;
    while unit < 5 && kib >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let shift = 10 * unit;
    let whole = kib >> shift;
    let name = UNITS[unit as usize];
    if whole >= 100 {
        return format!("{whole} {name}");
    }
    let tenth = ((u128::from(kib) * 10) >> shift) % 10;
    format!("{whole}.{tenth} {name}")
}

/// A rate.
pub fn rate(kib_s: u64) -> String {
    format!("{}/s", size(kib_s))
}

/// `h:mm:ss`, hours without limit.
pub fn clock(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Foreign words without anything that could move the cursor of a terminal or start a new line.
pub fn printable(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_choose_their_unit() {
        let cases = [
            (0, "0 KiB"),
            (1023, "1023 KiB"),
            (1024, "1.0 MiB"),
            (102_399, "99.9 MiB"),
            (102_400, "100 MiB"),
            (1 << 20, "1.0 GiB"),
        ];
        for (kib, want) in &cases {
            assert_eq!(size(*kib), *want);
        }
        // No unit above EiB: the number grows instead.
        assert_eq!(size(u64::MAX), "16383 EiB");
    }

    #[test]
    fn clocks_and_foreign_words() {
        assert_eq!(clock(3_600 * 100 + 61), "100:01:01");
        assert_eq!(rate(2048), "2.0 MiB/s");
        assert_eq!(printable("a\x1b[2Jb\nc"), "a?[2Jb?c");
    }
}
