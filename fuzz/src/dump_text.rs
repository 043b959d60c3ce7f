//! The text of `dump-md`, as `restore-md` reads it.

use replicator::meta::parse_dump::parse_dump;

/// One input.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(dump) = parse_dump(text) {
        let _ = dump.bitmap_words();
    }
}
