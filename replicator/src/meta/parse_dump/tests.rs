//! Messages as drbdmeta 9.22 prints them for the same texts.

use super::super::dump::write_dump;
use super::super::layout::{Layout, MetaKind};
use super::super::superblock::SuperBlock;
use super::*;
use crate::activity_log::transaction::AlRing;
use alloc::string::ToString;
use alloc::vec;
use proptest::prelude::*;

const U: &str = "0xA1B2C3D4E5F60718;";

fn head() -> String {
    format!("version \"v08\"; uuid {{ {U} {U} {U} {U} flags 0x00000081;}}")
}

fn full(bm: &str) -> String {
    format!(
        "{} la-size-sect 0; bm-byte-per-bit 4096; device-uuid 0x0123456789ABCDEF; la-peer-max-bio-size 1; al-stripes 1; al-stripe-size-4k 8; {bm}",
        head()
    )
}

fn message(text: &str) -> String {
    parse_dump(text).expect_err(text).to_string()
}

#[test]
fn messages_and_line_numbers() {
    let h = head();
    for (text, expected) in [
        ("version \"v09\";\n".to_string(), "dump is 'v09' you requested 'v08'."),
        ("version \"v08\"\n\n uuid".into(), "Parse error in line 3: semicolon (;) expected, not 'uuid'"),
        (String::new(), "Parse error in line 1: keyword 'version' expected, but end of file encountered"),
        ("foo".into(), "line 1: unknown token: foo ...\nParse error in line 1: keyword 'version' expected"),
        (
            "version v08;\n".into(),
            "line 1: unknown token: v08 ...\nParse error in line 1: short quoted string (\"..up to 20 characters, no newline..\") expected",
        ),
        (
            "version 12;".into(),
            "Parse error in line 1: short quoted string (\"..up to 20 characters, no newline..\") expected, not some number",
        ),
        (
            "version \"v08\";\nuuid {\n 0x12; ".into(),
            "line 3: invalid hex number (only 8 or 16 hex digits accepted): 0x12 ...\nParse error in line 3: a 16-digit hex number expected",
        ),
        (
            "version \"v08\"; uuid 12 ".into(),
            "Parse error in line 1: opening brace ({) expected, not some number",
        ),
        (
            "version \"v08\"; la-size-sect ".into(),
            "Parse error in line 1: keyword 'uuid' expected, not 'la-size-sect'",
        ),
        (
            format!("version \"v08\"; uuid {{ {U} {U} {U} {U} flags 0x12345678; ;"),
            "Parse error in line 1: closing brace (}) expected, not ';'",
        ),
        (
            format!("version \"v08\"; uuid {{ {U} {U} {U} {U} flags 12;}}"),
            "Parse error in line 1: an 8-digit hex number expected, not some number",
        ),
        (
            format!("version \"v08\"; uuid {{ {U} {U} {U} {U} {U}"),
            "Parse error in line 1: keyword 'flags' expected, not some number",
        ),
        (
            format!("{h} la-size-sect \"abc\";"),
            "Parse error in line 1: number ([0-9], up to 20 digits) expected, not 'abc'",
        ),
        (
            format!("{h} la-size-sect 12345678901234567890;"),
            "line 1: number too big: 12345678901234567890 ...\nParse error in line 1: number ([0-9], up to 20 digits) expected",
        ),
        (
            format!("{h} la-size-sect 1; bm-byte-per-bit 12288;"),
            "Invalid value for bm-byte-per-bit: value must be a power-of-two multiple of 4096",
        ),
        (full("bm { 5 flags"), "Parse error in line 1: keyword 'times' expected, not 'flags'"),
        (
            full("bm { version"),
            "Parse error in line 1: repeat count, 16-digit hex number, or closing brace (}) expected, not 'version'",
        ),
        (
            full("bm \n { \n\n # comment { \n } # abc\n  bm"),
            "Parse error in line 6: end of file expected, not 'bm'",
        ),
        (full("bm { }  }"), "Parse error in line 1: end of file expected, not '}'"),
        (
            full("bm { } \"abc"),
            "line 1: invalid string: \"abc ...\nParse error in line 1: end of file expected",
        ),
        (
            "version \"v0123456789012345678901234\";".into(),
            "line 1: invalid string: \"v0123456789012345678 ...\nParse error in line 1: short quoted string (\"..up to 20 characters, no newline..\") expected",
        ),
        (
            "version \"v08\"; This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.".into(),
            "line 1: unknown token: This_is_an_unclean_meta_data_dump ...\nParse error in line 1: keyword 'uuid' expected",
        ),
    ] {
        assert_eq!(message(&text), expected, "{text}");
    }
}

#[test]
fn numbers_fields_cannot_hold_are_refused() {
    assert!(message(&format!("{} la-size-sect -5;", head())).contains("out of range"));
    assert!(message(&full("bm { -5 times 0xA1B2C3D4E5F60718; }")).contains("out of range"));
    let text = full("bm { }").replace("al-stripes 1", "al-stripes 4294967296");
    assert!(message(&text).contains("al-stripes is out of range"));
}

#[test]
fn huge_repeat_counts_cost_nothing() {
    let parsed = parse_dump(&full(
        "bm { 9223372036854775807 times 0x0000000000000000; 9223372036854775807 times 0x0000000000000000; 3 times 0x0000000000000001; }",
    ))
    .unwrap();
    assert_eq!(parsed.bitmap, [(u64::MAX - 1, 0), (3, 1)]);
    assert_eq!(parsed.bitmap_words(), u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_dump_writes_is_read_back(
        runs in proptest::collection::vec((1usize..40, prop_oneof![Just(0), Just(u64::MAX), any::<u64>()]), 0..40),
        flags: u32, device_uuid: u64, uuid: [u64; 4],
    ) {
        let words: Vec<u64> = runs.iter().flat_map(|(n, w)| vec![*w; *n]).collect();
        let layout = Layout::new(MetaKind::Internal, 409600, AlRing::DEFAULT).unwrap();
        let mut sb = SuperBlock::just_created(&layout, 4096);
        sb.la_size_sectors = 409512;
        sb.device_uuid = device_uuid;
        sb.flags = MetaFlags(flags).with(MetaFlags::AL_CLEAN);
        sb.uuids = Uuids {
            current: DataUuid(uuid[0]), bitmap: DataUuid(uuid[1]), history: [DataUuid(uuid[2]), DataUuid(uuid[3])],
        };
        let mut text = String::new();
        write_dump(&mut text, &sb, &layout, &words).unwrap();
        let parsed = parse_dump(&text).unwrap();
        let read: Vec<u64> = parsed.bitmap.iter().flat_map(|(n, w)| vec![*w; *n as usize]).collect();
        prop_assert_eq!(read, words);
        prop_assert_eq!((parsed.uuids, parsed.flags, parsed.device_uuid), (sb.uuids, sb.flags, device_uuid));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[v0x;{}\" #\n\\-a-f0-9é]{0,80}", cut in 0usize..400) {
        let _ = parse_dump(&text);
        let whole = full(&text);
        let cut = cut.min(whole.len());
        if whole.is_char_boundary(cut) {
            let _ = parse_dump(&whole[..cut]);
        }
    }
}
