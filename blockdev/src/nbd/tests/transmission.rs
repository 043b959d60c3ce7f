//! Request headers, their checks, and reply headers.

use super::super::export::{ExportFlags, ExportInfo};
use super::super::reply::{self, Cookie, Errno, MAX_MESSAGE_BYTES, MAX_REPLY_BYTES, ReplyStyle};
use super::super::request::{
    Command, FLAG_DF, FLAG_FUA, FLAG_NO_HOLE, Fatal, MAX_DATA_PIECE_BYTES, MAX_DISCARD_PIECE_BYTES,
    MAX_PAYLOAD_BYTES, Piece, REQUEST_BYTES, Request, parse, split,
};
use super::{Table, XorShift, hex};

type Put<'a> = &'a dyn Fn(&mut Vec<u8>);

const COOKIE: Cookie = Cookie(*b"\x01cookie\xff");

fn request(command: Command, flags: u16, offset_bytes: u64, len_bytes: u32) -> Request {
    Request { command, flags, cookie: COOKIE, offset_bytes, len_bytes }
}

fn export() -> ExportInfo {
    Table::one().0[0].clone()
}

#[test]
fn requests_parse_byte_for_byte_and_only_when_complete() {
    let bytes = hex(r#" 25609513 0001 0001 01 "cookie" ff 0000000012345000 00001000 "data" "#);
    for len in 0..REQUEST_BYTES {
        assert_eq!(parse(&bytes[..len]), Ok(None));
    }
    let write = request(Command::Write, FLAG_FUA, 0x1234_5000, 0x1000);
    for len in REQUEST_BYTES..=bytes.len() {
        assert_eq!(parse(&bytes[..len]), Ok(Some(write)));
    }
    assert_eq!(write.payload_bytes(), 0x1000);
    assert!(write.is_fua());
    let commands = [
        (0, Command::Read),
        (1, Command::Write),
        (2, Command::Disconnect),
        (3, Command::Flush),
        (4, Command::Trim),
        (5, Command::Cache),
        (6, Command::WriteZeroes),
        (7, Command::BlockStatus),
        (8, Command::Unknown(8)),
        (0xff, Command::Unknown(0xff)),
    ];
    for (number, command) in commands {
        let mut bytes = bytes.clone();
        bytes[7] = number;
        let parsed = parse(&bytes).unwrap().unwrap();
        assert_eq!(parsed.command, command);
        assert_eq!(parsed.payload_bytes(), if command == Command::Write { 0x1000 } else { 0 });
    }
}

#[test]
fn what_cannot_be_read_on_is_fatal() {
    assert_eq!(parse(b"GET /"), Err(Fatal::BadMagic { magic: 0x4745_5420 }));
    // Extended headers were never agreed on.
    assert_eq!(parse(&hex("21e41c71")), Err(Fatal::BadMagic { magic: 0x21e4_1c71 }));
    let header = |command: u16, len_bytes: u32| {
        let mut bytes = hex(r#" 25609513 0000 0000 01 "cookie" ff 0000000000000000 00000000 "#);
        bytes[6..8].copy_from_slice(&command.to_be_bytes());
        bytes[24..].copy_from_slice(&len_bytes.to_be_bytes());
        parse(&bytes)
    };
    let too_long = MAX_PAYLOAD_BYTES + 1;
    assert!(header(1, MAX_PAYLOAD_BYTES).is_ok());
    assert_eq!(header(1, too_long), Err(Fatal::PayloadTooLong { cookie: COOKIE, len_bytes: too_long }));
    assert_eq!(header(1, u32::MAX), Err(Fatal::PayloadTooLong { cookie: COOKIE, len_bytes: u32::MAX }));
    for without_payload in [0, 2, 3, 4, 5, 6, 7, 8, 0xffff] {
        assert!(header(without_payload, u32::MAX).is_ok());
    }
}

#[test]
fn every_rule_of_a_request() {
    use Command::*;
    const GIB: u64 = 1 << 30;
    const MIB: u32 = 1 << 20;
    let ok = None;
    let rows: [(Command, u16, u64, u32, Option<Errno>); 43] = [
        (Read, 0, 0, 512, ok),
        (Read, 0, GIB - 512, 512, ok),
        (Read, FLAG_FUA, 0, 32 * MIB, ok),
        (Read, FLAG_DF, 0, MIB, ok),
        (Read, FLAG_DF, 0, MIB + 512, Some(Errno::Overflow)),
        (Read, FLAG_NO_HOLE, 0, 512, Some(Errno::Invalid)),
        (Read, 0x8000, 0, 512, Some(Errno::Invalid)),
        (Read, 0, 0, 0, Some(Errno::Invalid)),
        (Read, 0, 1, 512, Some(Errno::Invalid)),
        (Read, 0, 0, 511, Some(Errno::Invalid)),
        (Read, 0, GIB - 512, 1024, Some(Errno::Invalid)),
        (Read, 0, GIB, 512, Some(Errno::Invalid)),
        (Read, 0, u64::MAX - 511, 512, Some(Errno::Invalid)),
        (Read, 0, 0, 32 * MIB + 512, Some(Errno::Invalid)),
        (Read, 0, 0, u32::MAX, Some(Errno::Invalid)),
        (Write, 0, 512, 512, ok),
        (Write, FLAG_FUA, GIB - 32 * u64::from(MIB), 32 * MIB, ok),
        (Write, FLAG_DF, 0, 512, Some(Errno::Invalid)),
        (Write, FLAG_NO_HOLE, 0, 512, Some(Errno::Invalid)),
        (Write, 0, GIB, 512, Some(Errno::NoSpace)),
        (Write, 0, u64::MAX - 511, 1024, Some(Errno::NoSpace)),
        (Write, 0, 0, 0, Some(Errno::Invalid)),
        (Write, 0, 256, 512, Some(Errno::Invalid)),
        (Flush, 0, 0, 0, ok),
        (Flush, FLAG_FUA, 0, 0, ok),
        (Flush, 0, 512, 0, Some(Errno::Invalid)),
        (Flush, 0, 0, 512, Some(Errno::Invalid)),
        (Trim, 0, 0, 1 << 30, ok),
        (Trim, FLAG_FUA, 512, 512, ok),
        (Trim, FLAG_NO_HOLE, 0, 512, Some(Errno::Invalid)),
        (Trim, 0, 512, 1 << 30, Some(Errno::Invalid)),
        (Trim, 0, 0, u32::MAX, Some(Errno::Invalid)),
        (WriteZeroes, FLAG_NO_HOLE | FLAG_FUA, 0, 1 << 30, ok),
        (WriteZeroes, 1 << 4, 0, 512, Some(Errno::Invalid)),
        (WriteZeroes, 0, GIB, 512, Some(Errno::NoSpace)),
        (WriteZeroes, 0, 0, u32::MAX - 511, Some(Errno::NoSpace)),
        (Cache, 0, 0, 512, Some(Errno::Invalid)),
        (BlockStatus, 0, 0, 512, Some(Errno::Invalid)),
        (BlockStatus, 1 << 3, 0, 512, Some(Errno::Invalid)),
        (Unknown(8), 0, 0, 512, Some(Errno::Invalid)),
        (Unknown(0xffff), 0xffff, u64::MAX, u32::MAX, Some(Errno::Invalid)),
        (Disconnect, 0, 0, 0, ok),
        (Disconnect, 0xffff, 1, 1, ok),
    ];
    let export = export();
    for (command, flags, offset, len, expected) in rows {
        let request = request(command, flags, offset, len);
        let result = request.validate(&export, ReplyStyle::Structured);
        assert_eq!(result.err().map(|error| error.errno), expected, "{request:?}");
        if let Err(error) = result {
            assert_eq!(error.drain_bytes, if command == Write { len } else { 0 });
            assert!(!error.message.is_empty() && error.message.len() <= MAX_MESSAGE_BYTES);
        }
    }
}

#[test]
fn abilities_that_are_not_offered_are_refused() {
    let errno =
        |export: &ExportInfo, request: Request, style| request.validate(export, style).err().map(|e| e.errno);
    let mut plain = export();
    plain.flags = ExportFlags::default();
    for command in [Command::Flush, Command::Trim, Command::WriteZeroes] {
        let request = request(command, 0, 0, if command == Command::Flush { 0 } else { 512 });
        assert_eq!(errno(&plain, request, ReplyStyle::Structured), Some(Errno::Invalid));
        assert_eq!(errno(&export(), request, ReplyStyle::Structured), None);
    }
    let fua = request(Command::Write, FLAG_FUA, 0, 512);
    assert_eq!(errno(&plain, fua, ReplyStyle::Simple), Some(Errno::Invalid));
    let unfragmented = request(Command::Read, FLAG_DF, 0, 512);
    assert_eq!(errno(&export(), unfragmented, ReplyStyle::Simple), Some(Errno::Invalid));

    let mut read_only = export();
    read_only.flags.read_only = true;
    for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
        // Before all other rules: the range is nonsense, too.
        let request = request(command, 0, u64::MAX, 7);
        assert_eq!(errno(&read_only, request, ReplyStyle::Structured), Some(Errno::NotPermitted));
    }
    assert_eq!(errno(&read_only, request(Command::Read, 0, 0, 512), ReplyStyle::Simple), None);

    let mut short = export();
    short.max_block_bytes = 4096;
    for command in [Command::Read, Command::Write] {
        assert_eq!(errno(&short, request(command, 0, 0, 4096), ReplyStyle::Simple), None);
        assert_eq!(errno(&short, request(command, 0, 0, 4608), ReplyStyle::Simple), Some(Errno::Invalid));
    }
}

#[test]
fn every_transmission_flag_has_its_bit() {
    let set = |change: fn(&mut ExportFlags)| {
        let mut flags = ExportFlags::default();
        change(&mut flags);
        flags.to_wire(ReplyStyle::Simple)
    };
    assert_eq!(set(|_| {}), 1);
    assert_eq!(set(|flags| flags.read_only = true), 1 | 2);
    assert_eq!(set(|flags| flags.flush = true), 1 | 4);
    assert_eq!(set(|flags| flags.fua = true), 1 | 8);
    assert_eq!(set(|flags| flags.rotational = true), 1 | 16);
    assert_eq!(set(|flags| flags.trim = true), 1 | 32);
    assert_eq!(set(|flags| flags.write_zeroes = true), 1 | 64);
    assert_eq!(set(|flags| flags.multi_conn = true), 1 | 256);
    assert_eq!(ExportFlags::default().to_wire(ReplyStyle::Structured), 1 | 128);
}

#[test]
fn split_covers_the_range_once_and_in_order() {
    let pieces: Vec<Piece> = split(512, (2 << 20) + 512, MAX_DATA_PIECE_BYTES).collect();
    let piece = |offset_bytes, len_bytes| Piece { offset_bytes, len_bytes };
    assert_eq!(pieces, [piece(512, 1 << 20), piece(512 + (1 << 20), 1 << 20), piece(512 + (2 << 20), 512)]);
    assert_eq!(split(0, 0, 512).count(), 0);
    assert_eq!(split(0, 512, 512).count(), 1);
    let mut random = XorShift(42);
    for _ in 0..2000 {
        let (offset, len) = (random.below(1 << 50), random.next() as u32);
        let pieces = split(offset, len, MAX_DISCARD_PIECE_BYTES);
        assert_eq!(pieces.len(), pieces.clone().count());
        let mut next = offset;
        for piece in pieces {
            assert_eq!(piece.offset_bytes, next);
            assert!(piece.len_bytes > 0 && piece.len_bytes <= MAX_DISCARD_PIECE_BYTES);
            next += u64::from(piece.len_bytes);
        }
        assert_eq!(next, offset + u64::from(len));
    }
    // The last range there is.
    assert_eq!(split(u64::MAX - u64::from(u32::MAX), u32::MAX, 1 << 31).count(), 2);
}

#[test]
fn replies_byte_for_byte() {
    let written = |put: Put| {
        let mut out = Vec::new();
        put(&mut out);
        out
    };
    let cookie = r#" 01 "cookie" ff "#;
    let rows: [(Put, String); 9] = [
        (&|out| reply::put_simple(out, None, COOKIE), format!("67446698 00000000 {cookie}")),
        (&|out| reply::put_simple(out, Some(Errno::Io), COOKIE), format!("67446698 00000005 {cookie}")),
        (
            &|out| reply::put_read_chunk_header(out, COOKIE, 0x1000, 512, false),
            format!("668e33ef 0000 0001 {cookie} 00000208 0000000000001000"),
        ),
        (
            &|out| reply::put_read_chunk_header(out, COOKIE, 0x1200, MAX_PAYLOAD_BYTES, true),
            format!("668e33ef 0001 0001 {cookie} 02000008 0000000000001200"),
        ),
        (&|out| reply::put_none_done(out, COOKIE), format!("668e33ef 0001 0000 {cookie} 00000000")),
        (
            &|out| reply::put_error(out, COOKIE, Errno::Shutdown, "bye"),
            format!(r#"668e33ef 0001 8001 {cookie} 00000009 0000006c 0003 "bye" "#),
        ),
        (
            &|out| reply::put_error_offset(out, COOKIE, Errno::Io, "disk", 0x2000, false),
            format!(r#"668e33ef 0000 8002 {cookie} 00000012 00000005 0004 "disk" 0000000000002000"#),
        ),
        (
            &|out| reply::put_failed(out, ReplyStyle::Structured, COOKIE, Errno::Overflow, ""),
            format!("668e33ef 0001 8001 {cookie} 00000006 0000004b 0000"),
        ),
        (
            &|out| reply::put_failed(out, ReplyStyle::Simple, COOKIE, Errno::NotSupported, "lost"),
            format!("67446698 0000005f {cookie}"),
        ),
    ];
    for (put, expected) in rows {
        assert_eq!(written(put), hex(&expected), "{expected}");
    }
    assert_eq!(
        written(&|out| reply::put_ok(out, ReplyStyle::Simple, COOKIE)),
        written(&|out| reply::put_simple(out, None, COOKIE))
    );
    assert_eq!(
        written(&|out| reply::put_ok(out, ReplyStyle::Structured, COOKIE)),
        written(&|out| reply::put_none_done(out, COOKIE))
    );
    let long = written(&|out| reply::put_error_offset(out, COOKIE, Errno::Io, &"x".repeat(70_000), 0, true));
    assert_eq!(long.len(), MAX_REPLY_BYTES);
    let cut = written(&|out| reply::put_error(out, COOKIE, Errno::Io, &"\u{20ac}".repeat(1000)));
    assert_eq!(cut.len(), 26 + 255);
    assert!(std::str::from_utf8(&cut[26..]).is_ok());
}

#[test]
fn operating_system_errors_become_protocol_errors() {
    let rows = [
        (libc::EPERM, 1),
        (libc::EROFS, 1),
        (libc::EIO, 5),
        (libc::ENODEV, 5),
        (-1, 5),
        (libc::ENOMEM, 12),
        (libc::EINVAL, 22),
        (libc::ENOSPC, 28),
        (libc::EDQUOT, 28),
        (libc::EFBIG, 28),
        (libc::EOVERFLOW, 75),
        (libc::EOPNOTSUPP, 95),
        (libc::ESHUTDOWN, 108),
    ];
    for (os, wire) in rows {
        assert_eq!(Errno::from_os(os) as u32, wire);
    }
}

#[test]
fn random_headers_neither_panic_nor_pass_beyond_the_export() {
    let mut random = XorShift(7);
    let export = export();
    let mut passed = 0;
    for _ in 0..200_000 {
        let mut bytes = hex("25609513");
        bytes.extend_from_slice(
            &(random.next() as u16 & random.next() as u16 & random.next() as u16).to_be_bytes(),
        );
        bytes.extend_from_slice(&(random.below(9) as u16).to_be_bytes());
        bytes.extend_from_slice(&random.next().to_be_bytes());
        let shift = random.below(64);
        bytes.extend_from_slice(&((random.next() >> shift) & !511).to_be_bytes());
        let shift = random.below(32);
        bytes.extend_from_slice(&((random.next() as u32 >> shift) & !511).to_be_bytes());
        let style = if random.below(2) == 0 { ReplyStyle::Simple } else { ReplyStyle::Structured };
        let Ok(Some(request)) = parse(&bytes) else { continue };
        let ranged = !matches!(request.command, Command::Flush | Command::Disconnect);
        if request.validate(&export, style).is_ok() && ranged {
            passed += 1;
            assert!(request.len_bytes > 0);
            assert!(request.offset_bytes + u64::from(request.len_bytes) <= export.size_bytes);
        }
    }
    assert!(passed > 1000, "{passed}");
}
