//! The text of `dump-md`, as `restore-md` reads it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use replicator::meta::parse_dump::parse_dump;

fuzz_target!(|text: &str| {
    if let Ok(dump) = parse_dump(text) {
        let _ = dump.bitmap_words();
    }
});
