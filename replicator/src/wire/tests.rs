//! Vectors of the specification, impossible lengths and round trips of every packet.

use super::*;
use alloc::vec;
use alloc::vec::Vec;
use model::ids::DataUuid;
use model::state::ConnState;
use model::state_word::{StateChange, StateWord};
use proptest::prelude::*;

const NAME: &str = "sha1";

fn ack() -> Ack {
    Ack {
        sector: 0x0102_0304_0506_0708,
        block_id: BlockId(0xa1a2_a3a4_a5a6_a7a8),
        size_bytes: 4096,
        seq_num: 7,
    }
}

fn data() -> Data {
    Data {
        sector: 8,
        block_id: BlockId(0xdead),
        seq_num: 3,
        dp_flags: DpFlags::RW_SYNC | DpFlags::SEND_WRITE_ACK,
    }
}

fn trim() -> Trim {
    let Data { sector, block_id, seq_num, dp_flags } = data();
    Trim { sector, block_id, seq_num, dp_flags, size_bytes: 128 << 20 }
}

fn request() -> Request {
    Request { sector: 16, block_id: BlockId::RESYNC, size_bytes: 1 << 20, pad: 0x5555_aaaa }
}

fn protocol() -> Protocol<'static> {
    Protocol {
        protocol: u32::from(model::policy::Protocol::C.number()),
        after_sb_0p: 4,
        after_sb_1p: 8,
        after_sb_2p: 0,
        flags: ProtocolFlags::DRY_RUN,
        two_primaries: 1,
        integrity_alg: NAME,
    }
}

fn sizes(limits: Option<QueueLimits>) -> Sizes {
    Sizes {
        d_size_sectors: 34736,
        u_size_sectors: 16384,
        c_size_sectors: 0,
        max_bio_bytes: 130_560,
        queue_order_type: 0,
        dds_flags: DdsFlags::NO_RESYNC,
        limits,
    }
}

/// One packet of every kind, in the order of the catalogue.
fn samples() -> Vec<Packet<'static>> {
    let desc = BlockDesc { sector: 24, size_bytes: 512, pad: 9 };
    let change = ChangeRequest(StateChange { mask: 0x1e03, value: 0x1001 });
    let digest = DigestRequest { request: request(), digest: &[7; 20] };
    vec![
        Packet::Data(data()),
        Packet::DataReply(data()),
        Packet::RsDataReply(Data { block_id: BlockId::RESYNC, ..Data::default() }),
        Packet::Barrier(Barrier { number: BarrierNo(0x0100_0000), pad: 0 }),
        Packet::Bitmap(BitmapPiece { words: &[0xa5; 16] }),
        Packet::UnplugRemote,
        Packet::DataRequest(Request { block_id: BlockId(3), ..request() }),
        Packet::RsDataRequest(request()),
        Packet::SyncParam(SyncParam { resync_rate_kib_per_s: 250, verify_alg_raw: b"md5\0" }),
        Packet::Protocol(protocol()),
        Packet::Uuids(Uuids {
            current: DataUuid(1),
            bitmap: DataUuid(2),
            history: [DataUuid(3), DataUuid(4)],
            dirty_bits: 5,
            flags: UuidFlags::CRASHED_PRIMARY.with(UuidFlags::INCONSISTENT),
        }),
        Packet::Sizes(sizes(Some(QueueLimits {
            physical_block_bytes: 4096,
            logical_block_bytes: 512,
            alignment_offset_bytes: 1,
            io_min_bytes: 2,
            io_opt_bytes: 3,
            discard_enabled: true,
            discard_zeroes_data: false,
            write_same_capable: true,
        }))),
        Packet::State(State(StateWord(0xc882))),
        Packet::SyncUuid(SyncUuid(DataUuid(0x0102_0304_0506_0708))),
        Packet::AuthChallenge(AuthChallenge(&[1; 64])),
        Packet::AuthResponse(AuthResponse(&[2; 20])),
        Packet::StateChgReq(change),
        Packet::Ping,
        Packet::PingAck,
        Packet::RecvAck(ack()),
        Packet::WriteAck(ack()),
        Packet::RsWriteAck(ack()),
        Packet::Superseded(ack()),
        Packet::NegAck(ack()),
        Packet::NegDreply(ack()),
        Packet::NegRsDreply(ack()),
        Packet::BarrierAck(BarrierAck { number: BarrierNo(0x0100_0000), set_size: 12 }),
        Packet::StateChgReply(ChangeReply(-19)),
        Packet::OvRequest(request()),
        Packet::OvReply(digest),
        Packet::OvResult(Ack { block_id: BlockId::OV_OUT_OF_SYNC, ..ack() }),
        Packet::CsumRsRequest(digest),
        Packet::RsIsInSync(ack()),
        Packet::SyncParam89(SyncParam89 {
            resync_rate_kib_per_s: 250,
            verify_alg: NAME,
            csums_alg: "",
            c_plan_ahead_ds: 20,
            c_delay_target_ds: 10,
            c_fill_target_sectors: 100,
            c_max_rate_kib_per_s: 102_400,
        }),
        Packet::CompressedBitmap(CompressedBitmap { encoding: 0xb2, code: &[0x7f, 0xcf, 0xde, 0x03] }),
        Packet::DelayProbe(DelayProbe { seq_num: 1, offset: 2 }),
        Packet::OutOfSync(desc),
        Packet::RsCancel(ack()),
        Packet::ConnStChgReq(change),
        Packet::ConnStChgReply(ChangeReply(1)),
        Packet::RetryWrite(ack()),
        Packet::ProtocolUpdate(Protocol { integrity_alg: "", ..protocol() }),
        Packet::Trim(trim()),
        Packet::RsThinReq(request()),
        Packet::RsDeallocated(desc),
        Packet::Wsame(trim()),
        Packet::Zeroes(trim()),
        Packet::InitialMeta,
        Packet::InitialData,
        Packet::ConnectionFeatures(ConnectionFeatures {
            version_min: 86,
            features: Features::ALL,
            version_max: 101,
        }),
    ]
}

fn sock_of(command: Command) -> Sock {
    if command.row().socks.contains(Sock::Data) { Sock::Data } else { Sock::Meta }
}

fn form_of(command: Command) -> HeaderForm {
    if command.is_initial() { HeaderForm::H80 } else { HeaderForm::H100 }
}

fn payload_of(command: Command) -> u32 {
    if command.row().tail == Tail::Payload { 4096 } else { 0 }
}

fn put_any(packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    if packet.command().is_initial() {
        put80(&mut out, packet);
    } else {
        put(&mut out, 0, packet, payload_of(packet.command()));
    }
    out
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|p| (p[0] << 4 | p[1]) as u8).collect()
}

#[test]
fn samples_cover_the_catalogue() {
    let commands: Vec<Command> = samples().iter().map(Packet::command).collect();
    let catalogue: Vec<Command> = Command::CATALOGUE.iter().map(|r| r.command).collect();
    assert_eq!(commands, catalogue);
}

#[test]
fn every_packet_round_trips() {
    for packet in samples() {
        let command = packet.command();
        let bytes = put_any(&packet);
        let (header, n) = parse_header(form_of(command), &bytes).unwrap().unwrap();
        assert_eq!(header.command, command);
        let shape = frame_shape(&header, sock_of(command), Features::ALL).unwrap();
        assert_eq!(shape.payload_bytes, payload_of(command));
        assert_eq!(header.len, shape.body_bytes + shape.payload_bytes);
        assert_eq!(bytes.len(), n + shape.body_bytes as usize);
        assert_eq!(Packet::decode(&header, &bytes[n..], Features::ALL), Ok(packet));
    }
}

#[test]
fn vectors_of_the_specification() {
    // spec: drbd-wire 1.2, 14
    let none = Features::NONE;
    let vectors: &[(u16, Packet<'_>, &str)] = &[
        (0, Packet::InitialData, "83740267 fff20000"),
        (0, Packet::InitialMeta, "83740267 fff10000"),
        (0, Packet::Ping, "8620ec20 0000 0013 00000000 00000000"),
        (0, Packet::PingAck, "8620ec20 0000 0014 00000000 00000000"),
        (0, Packet::State(State(StateWord(0xc882))), "8620ec20 0000 000e 00000004 00000000 0000c882"),
        (0, Packet::Bitmap(BitmapPiece { words: &[] }), "8620ec20 0000 0004 00000000 00000000"),
        (
            3,
            Packet::SyncUuid(SyncUuid(DataUuid(0x0102_0304_0506_0708))),
            "8620ec20 0003 000f 00000008 00000000 0102030405060708",
        ),
    ];
    for (vnr, packet, text) in vectors {
        let mut out = Vec::new();
        match form_of(packet.command()) {
            HeaderForm::H100 => put(&mut out, *vnr, packet, 0),
            _ => put80(&mut out, packet),
        }
        assert_eq!(out, hex(text), "{}", packet.command().name());
        let (header, n) = parse_header(form_of(packet.command()), &out).unwrap().unwrap();
        assert_eq!(header.vnr, *vnr);
        assert_eq!(Packet::decode(&header, &out[n..], none), Ok(*packet));
    }
    let features = ConnectionFeatures { version_min: 86, features: Features::ALL, version_max: 101 };
    let mut out = Vec::new();
    put80(&mut out, &features);
    let mut wanted = hex("83740267 fffe 0048 00000056 0000000f 00000065");
    wanted.resize(80, 0);
    assert_eq!(out, wanted);
}

#[test]
fn single_command_structs_are_put_as_their_packets() {
    let uuids = Uuids { dirty_bits: 3, ..Uuids::default() };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    put(&mut a, 2, &uuids, 0);
    put(&mut b, 2, &Packet::Uuids(uuids), 0);
    assert_eq!(a, b);
}

/// The lengths a packet may have, as the rules say it and not as the code computes it.
fn allowed(command: Command, features: Features) -> fn(u32) -> bool {
    match command {
        Command::Data | Command::DataReply | Command::RsDataReply => {
            |n| (24 + 512..=24 + 1_048_576).contains(&n) && (n - 24) % 512 == 0
        }
        Command::Wsame => |n| (28 + 512..=28 + 1_048_576).contains(&n) && (n - 28) % 512 == 0,
        Command::Barrier | Command::BarrierAck | Command::SyncUuid | Command::DelayProbe => |n| n == 8,
        Command::StateChgReq | Command::ConnStChgReq => |n| n == 8,
        Command::State | Command::StateChgReply | Command::ConnStChgReply => |n| n == 4,
        Command::Bitmap => |n| n <= 4080 && n % 8 == 0,
        Command::CompressedBitmap => |n| (2..=4080).contains(&n),
        Command::UnplugRemote | Command::Ping | Command::PingAck => |n| n == 0,
        Command::SyncParam => |n| (4..=68).contains(&n),
        Command::SyncParam89 => |n| n == 148,
        Command::Protocol | Command::ProtocolUpdate => |n| (25..=88).contains(&n),
        Command::Uuids => |n| n == 48,
        Command::Sizes if features == Features::ALL => |n| n == 56,
        Command::Sizes => |n| n == 32,
        Command::AuthChallenge => |n| (64..=128).contains(&n),
        Command::AuthResponse => |n| n <= 64,
        Command::OvReply | Command::CsumRsRequest => |n| (25..=88).contains(&n),
        Command::Trim | Command::Zeroes => |n| n == 28,
        Command::OutOfSync | Command::RsDeallocated => |n| n == 16,
        Command::InitialMeta | Command::InitialData => |_| true,
        Command::ConnectionFeatures => |n| n == 72,
        Command::DataRequest
        | Command::RsDataRequest
        | Command::RsThinReq
        | Command::OvRequest
        | Command::RecvAck
        | Command::WriteAck
        | Command::RsWriteAck
        | Command::Superseded
        | Command::NegAck
        | Command::NegDreply
        | Command::NegRsDreply
        | Command::OvResult
        | Command::RsIsInSync
        | Command::RsCancel
        | Command::RetryWrite => |n| n == 24,
    }
}

#[test]
fn impossible_lengths_are_refused() {
    let long = [24 + 512, 28 + 512, 24 + 1_048_576, 24 + 1_048_576 + 512, MAX_FRAME_BYTES, u32::MAX];
    for features in [Features::ALL, Features(0xb)] {
        for row in Command::CATALOGUE {
            let rule = allowed(row.command, features);
            for len in (0..4200).chain(long) {
                let header = Header { form: HeaderForm::H100, vnr: 0, command: row.command, len };
                let shape = frame_shape(&header, sock_of(row.command), features);
                assert_eq!(shape.is_ok(), rule(len), "{} {len}", row.name);
                if let Ok(s) = shape {
                    assert!(s.body_bytes <= row.body_bytes_max());
                    assert!(row.tail == Tail::Ignored || s.body_bytes + s.payload_bytes == len);
                }
            }
        }
    }
}

#[test]
fn decoders_refuse_bodies_of_other_lengths() {
    // What the packet's own decoder does when the framing was not asked, or answered something else.
    for sample in samples() {
        let command = sample.command();
        let mut body = Vec::new();
        sample.encode(&mut body);
        for n in 0..=4100 {
            let mut other = body.clone();
            other.resize(n, 0);
            let header =
                Header { form: form_of(command), vnr: 0, command, len: n as u32 + payload_of(command) };
            let decoded = Packet::decode(&header, &other, Features::ALL);
            let tail = command.row().tail;
            let framed = frame_shape(&header, sock_of(command), Features::ALL);
            // 4088 bytes of bitmap are right with 8-byte headers.
            if tail != Tail::Ignored && framed.is_err() && (command, n) != (Command::Bitmap, 4088) {
                assert!(decoded.is_err(), "{} {n}", command.name());
            }
            if n == body.len() {
                assert_eq!(decoded, Ok(sample));
            } else if matches!(tail, Tail::None | Tail::Payload | Tail::SizesExtension | Tail::Ignored) {
                assert!(decoded.is_err(), "{} {n}", command.name());
            }
        }
    }
}

#[test]
fn a_body_shorter_than_announced_is_refused() {
    let header = Header { form: HeaderForm::H100, vnr: 0, command: Command::Bitmap, len: 16 };
    assert!(Packet::decode(&header, &[0; 8], Features::ALL).is_err());
    let header = Header { form: HeaderForm::H100, vnr: 0, command: Command::Data, len: 24 };
    assert!(Packet::decode(&header, &[0; 24], Features::ALL).is_err());
}

#[test]
fn digests_stand_between_body_and_block_data() {
    let header = Header { form: HeaderForm::H100, vnr: 0, command: Command::Data, len: 24 + 20 + 4096 };
    assert!(frame_shape(&header, Sock::Data, Features::ALL).is_err());
    assert_eq!(
        frame_shape_with_digest(&header, Sock::Data, Features::ALL, 20),
        Ok(FrameShape { body_bytes: 24, digest_bytes: 20, payload_bytes: 4096 })
    );
    let trim = Header { command: Command::Trim, len: 28, ..header };
    assert_eq!(frame_shape_with_digest(&trim, Sock::Data, Features::ALL, 20).unwrap().digest_bytes, 0);
    let short = Header { len: 24 + 19, ..header };
    assert!(frame_shape_with_digest(&short, Sock::Data, Features::ALL, 20).is_err());
}

#[test]
fn packets_belong_to_their_sockets() {
    for row in Command::CATALOGUE {
        let header = Header { form: form_of(row.command), vnr: 0, command: row.command, len: 0 };
        for (sock, here) in
            [(Sock::Data, row.socks != SockSet::Meta), (Sock::Meta, row.socks != SockSet::Data)]
        {
            let wrong = Err(WireError::WrongSocket { command: row.command, sock });
            assert_eq!(frame_shape(&header, sock, Features::ALL) == wrong, !here, "{}", row.name);
        }
    }
    let wrong = WireError::WrongSocket { command: Command::Data, sock: Sock::Meta };
    assert_eq!(wrong.conn_state(Sock::Meta), ConnState::Disconnecting);
    assert_eq!(WireError::UnknownCommand(5).conn_state(Sock::Meta), ConnState::Disconnecting);
    assert_eq!(WireError::UnknownCommand(5).conn_state(Sock::Data), ConnState::ProtocolError);
    assert_eq!(WireError::HeaderPad(1).conn_state(Sock::Meta), ConnState::NetworkFailure);
}

#[test]
fn headers_of_all_forms() {
    let mut out = Vec::new();
    let long = Header { form: HeaderForm::H95, vnr: 0, command: Command::Data, len: 32769 };
    long.encode(&mut out);
    assert_eq!(out, hex("835a 0000 00008001"));
    assert_eq!(parse_header(HeaderForm::H95, &out), Ok(Some((long, 8))));
    assert!(parse_header(HeaderForm::H80, &out).is_err());
    out.clear();
    Header { len: 32768, ..long }.encode(&mut out);
    assert_eq!(out, hex("83740267 0000 8000"));
    let short = Header { form: HeaderForm::H80, len: 32768, ..long };
    assert_eq!(parse_header(HeaderForm::H95, &out), Ok(Some((short, 8))));
    assert!(matches!(parse_header(HeaderForm::H100, &out), Err(WireError::BadMagic { .. })));
    assert_eq!(HeaderForm::of_version(101), HeaderForm::H100);
    assert_eq!(HeaderForm::of_version(99), HeaderForm::H95);
    assert_eq!(HeaderForm::of_version(94), HeaderForm::H80);
}

#[test]
fn headers_are_refused_as_soon_as_they_are_wrong() {
    let ping = hex("8620ec20 0000 0013 00000000 00000000");
    for n in 0..ping.len() {
        assert_eq!(parse_header(HeaderForm::H100, &ping[..n]), Ok(None));
    }
    assert_eq!(
        parse_header(HeaderForm::H100, &[0x86, 0x21]),
        Err(WireError::BadMagic { expected: HeaderForm::H100, found: 0x8621_0000 })
    );
    let with = |text: &str| parse_header(HeaderForm::H100, &hex(text));
    assert_eq!(with("8620ec20 0000 0013 00000000 00000001"), Err(WireError::HeaderPad(1)));
    assert_eq!(with("8620ec20 0000 0005 00000000 00000000"), Err(WireError::UnknownCommand(5)));
    assert_eq!(with("8620ec20 0000 fff2 00000000 00000000"), Err(WireError::UnknownCommand(0xfff2)));
    assert_eq!(
        with("8620ec20 0000 0000 00100059 00000000"),
        Err(WireError::Length { command: Command::Data, len: 24 + 64 + 1_048_576 + 1 })
    );
    assert!(with("8620ec20 0000 0000 00100058 00000000").is_ok());
}

#[test]
fn sizes_are_positive_whole_sectors_within_limits() {
    fn body(encode: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out);
        out
    }
    for (size, good) in
        [(0, false), (1, false), (512, true), (513, false), (1 << 20, true), ((1 << 20) + 512, false)]
    {
        let req = body(|out| Request { size_bytes: size, ..request() }.encode(out));
        assert_eq!(Request::decode(&req).is_ok(), good, "{size}");
    }
    for (size, good) in
        [(0, false), (511, false), (128 << 20, true), ((128 << 20) + 512, false), (u32::MAX, false)]
    {
        let range = body(|out| Trim { size_bytes: size, ..trim() }.encode(out));
        assert_eq!(Trim::decode(&range).is_ok(), good, "{size}");
        let desc = body(|out| BlockDesc { sector: 0, size_bytes: size, pad: 0 }.encode(out));
        assert_eq!(BlockDesc::decode(&desc).is_ok(), good, "{size}");
    }
}

#[test]
fn names_are_terminated_and_printable() {
    let with_tail = |tail: &[u8]| {
        let mut body = vec![0; 24];
        body.extend_from_slice(tail);
        Protocol::decode(&body).map(|p| alloc::string::String::from(p.integrity_alg))
    };
    assert_eq!(with_tail(b"\0").as_deref(), Ok(""));
    assert_eq!(with_tail(b"sha1\0").as_deref(), Ok("sha1"));
    for bad in [&b"sha1"[..], b"", b"sha1\0\0", b"sh\x07a\0", b"sh\xffa\0", &[b'x'; 64]] {
        assert!(with_tail(bad).is_err(), "{bad:?}");
    }
    let mut body = vec![0; 148];
    assert!(SyncParam89::decode(&body).is_ok());
    body[4 + 63] = b'x';
    assert!(SyncParam89::decode(&body).is_err());
    body[4..68].fill(b'x');
    assert!(SyncParam89::decode(&body).is_err());
    body[67] = 0;
    assert_eq!(SyncParam89::decode(&body).unwrap().verify_alg.len(), 63);
}

#[test]
fn only_one_bitmap_code_is_known() {
    for encoding in 0..=255u8 {
        let good = encoding & 0xf == 2;
        assert_eq!(CompressedBitmap::decode(&[encoding, 0]).is_ok(), good);
        if good {
            let c = CompressedBitmap { encoding, code: &[0] };
            assert_eq!(CompressedBitmap::encoding_of(c.first_set(), c.unused_bits()), encoding);
        }
    }
}

#[test]
#[should_panic(expected = "P_DATA")]
fn block_data_cannot_be_forgotten() {
    put(&mut Vec::new(), 0, &Packet::Data(data()), 0);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), features in 0u32..16) {
        for form in [HeaderForm::H80, HeaderForm::H95, HeaderForm::H100] {
            let _ = parse_header(form, &bytes);
        }
        for row in Command::CATALOGUE {
            let len = bytes.len() as u32 + payload_of(row.command);
            let header = Header { form: form_of(row.command), vnr: 1, command: row.command, len };
            let _ = frame_shape(&header, Sock::Data, Features(features));
            let _ = frame_shape(&header, Sock::Meta, Features(features));
            if let Ok(packet) = Packet::decode(&header, &bytes, Features(features)) {
                prop_assert_eq!(packet.command(), row.command);
            }
        }
    }

    #[test]
    fn bodies_of_the_right_length_reencode(seed in proptest::collection::vec(any::<u8>(), 4080), pick in 0usize..50) {
        // Sizes, names, truth values and reserved bytes aside, every bit of a body survives.
        let sample = samples()[pick];
        let mut body = Vec::new();
        sample.encode(&mut body);
        let n = body.len();
        let header = Header {
            form: form_of(sample.command()),
            vnr: 0,
            command: sample.command(),
            len: n as u32 + payload_of(sample.command()),
        };
        match Packet::decode(&header, &seed[..n], Features::ALL) {
            Ok(packet) => {
                let mut again = Vec::new();
                packet.encode(&mut again);
                match sample {
                    Packet::ConnectionFeatures(_) => prop_assert_eq!(&again[..12], &seed[..12]),
                    Packet::Sizes(_) => prop_assert_eq!(&again[..52], &seed[..52]),
                    _ => prop_assert_eq!(&again[..], &seed[..n]),
                }
            }
            Err(e) => prop_assert!(matches!(e, WireError::Value { .. } | WireError::Name(_)), "{:?}", e),
        }
    }

    #[test]
    fn headers_round_trip(vnr in any::<u16>(), pick in 0usize..47, len in 0u32..=MAX_FRAME_BYTES) {
        let command = Command::CATALOGUE[pick].command;
        let header = Header { form: HeaderForm::H100, vnr, command, len };
        let mut out = Vec::new();
        header.encode(&mut out);
        prop_assert_eq!(parse_header(HeaderForm::H100, &out), Ok(Some((header, 16))));
    }
}
