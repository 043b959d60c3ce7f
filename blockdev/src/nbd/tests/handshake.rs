//! Option haggling.

use super::super::export::{ExportInfo, Exports, MAX_NAME_BYTES};
use super::super::handshake::{
    CloseReason, Handshake, MAX_ANSWER_BYTES, MAX_DISCARD_BYTES, MAX_OPTION_BYTES, Negotiated, ServerInfo,
    State,
};
use super::super::reply::ReplyStyle;
use super::{SECONDARY, Table, XorShift, hex};

/// Result of a client's bytes: everything the server sent, where it ended, and the input it left unread.
#[derive(PartialEq, Debug)]
struct Outcome {
    sent: Vec<u8>,
    state: State,
    left: Vec<u8>,
}

impl Outcome {
    /// What was sent behind the greeting.
    fn answers(&self) -> &[u8] {
        assert_eq!(self.sent[..18], hex(r#" "NBDMAGICIHAVEOPT" 0003 "#));
        &self.sent[18..]
    }
}

/// Feeds `parts` one after the other, as a caller does that sends before it feeds on.
fn talk(server: &ServerInfo, exports: &dyn Exports, parts: &[&[u8]]) -> Outcome {
    let mut handshake = Handshake::new(server);
    let mut sent = Vec::new();
    handshake.greeting(&mut sent);
    for (index, part) in parts.iter().enumerate() {
        let mut input = *part;
        while !input.is_empty() {
            let mut out = Vec::new();
            let step = handshake.feed(input, &mut out, exports);
            assert!(out.len() <= MAX_ANSWER_BYTES);
            assert!(step.consumed > 0);
            sent.extend_from_slice(&out);
            input = &input[step.consumed..];
            if step.state != State::Continue {
                let left = [&[input], &parts[index + 1..]].concat().concat();
                return Outcome { sent, state: step.state, left };
            }
        }
    }
    Outcome { sent, state: State::Continue, left: Vec::new() }
}

/// Feeds all at once, cut in two at every byte, and byte by byte: the outcome must be the same.
fn every_cut(input: &[u8]) -> Outcome {
    let (server, table) = (ServerInfo::default(), Table::one());
    let whole = talk(&server, &table, &[input]);
    for cut in 0..=input.len() {
        assert_eq!(whole, talk(&server, &table, &[&input[..cut], &input[cut..]]), "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(whole, talk(&server, &table, &bytes));
    whole
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT".as_slice(), &number.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

fn reply(number: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u32).to_be_bytes();
    [hex("0003e889045565a9").as_slice(), &number.to_be_bytes(), &kind.to_be_bytes(), &len, data].concat()
}

/// Kind of the only reply in `bytes`, and its data.
fn only_reply(bytes: &[u8]) -> (u32, &[u8]) {
    let kind = u32::from_be_bytes(*bytes[12..].first_chunk().unwrap());
    let len = u32::from_be_bytes(*bytes[16..].first_chunk().unwrap());
    assert_eq!(len as usize, bytes.len() - 20);
    (kind, &bytes[20..])
}

fn info_data(name: &[u8], wanted: &[u16]) -> Vec<u8> {
    let mut data = [&(name.len() as u32).to_be_bytes(), name, &(wanted.len() as u16).to_be_bytes()].concat();
    wanted.iter().for_each(|kind| data.extend_from_slice(&kind.to_be_bytes()));
    data
}

fn meta_data(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let mut data = [&(name.len() as u32).to_be_bytes(), name, &(queries.len() as u32).to_be_bytes()].concat();
    for query in queries {
        data.extend_from_slice(&(query.len() as u32).to_be_bytes());
        data.extend_from_slice(query);
    }
    data
}

/// Client flags "fixed newstyle, no zeroes", then the options.
fn client(options: &[Vec<u8>]) -> Vec<u8> {
    [hex("00000003"), options.concat()].concat()
}

fn negotiated(style: ReplyStyle) -> State {
    State::Transmission(Negotiated { export: Table::one().0[0].clone(), style })
}

#[test]
fn export_name_with_and_without_the_zeroes() {
    let request = hex(r#" "IHAVEOPT" 00000001 00000002 "r0" ffff "#);
    let with = every_cut(&[hex("00000001"), request.clone()].concat());
    assert_eq!(with.answers(), [hex("0000000040000000 017d"), vec![0; 124]].concat());
    assert_eq!(with.state, negotiated(ReplyStyle::Simple));
    assert_eq!(with.left, [0xff, 0xff]);
    let without = every_cut(&[hex("00000003"), request.clone()].concat());
    assert_eq!(without.answers(), hex("0000000040000000 017d"));
    // A client from before fixed newstyle: the zeroes, and no replies ever.
    let old = every_cut(&[hex("00000000"), request].concat());
    assert_eq!(old.answers(), with.answers());
}

#[test]
fn qemu_style_negotiation_byte_for_byte() {
    let input = hex(r#" 00000003
        "IHAVEOPT" 0000000b 00000000
        "IHAVEOPT" 00000008 00000000
        "IHAVEOPT" 0000000a 0000001d 00000002 "r0" 00000001 0000000f "base:allocation"
        "IHAVEOPT" 00000007 0000000c 00000002 "r0" 0002 0000 0003
        25609513 "#);
    let outcome = every_cut(&input);
    let expected = hex(r#" 0003e889045565a9 0000000b 80000001 00000000
        0003e889045565a9 00000008 00000001 00000000
        0003e889045565a9 0000000a 00000001 00000000
        0003e889045565a9 00000007 00000003 0000000c 0000 0000000040000000 01fd
        0003e889045565a9 00000007 00000003 0000000e 0003 00000200 00001000 02000000
        0003e889045565a9 00000007 00000001 00000000 "#);
    assert_eq!(outcome.answers(), expected);
    assert_eq!(outcome.state, negotiated(ReplyStyle::Structured));
    assert_eq!(outcome.left, hex("25609513"));
}

#[test]
fn info_tells_what_was_asked_and_go_follows() {
    let outcome =
        every_cut(&client(&[option(6, &info_data(b"", &[1, 2, 99])), option(7, &info_data(b"r0", &[]))]));
    let export = hex("0000 0000000040000000 017d");
    let sizes = hex("0003 00000200 00001000 02000000");
    let expected = [
        reply(6, 3, &export),
        reply(6, 3, &hex(r#" 0001 "r0" "#)),
        reply(6, 3, &hex(r#" 0002 "volume 0" "#)),
        reply(6, 3, &sizes),
        reply(6, 1, &[]),
        reply(7, 3, &export),
        reply(7, 3, &sizes),
        reply(7, 1, &[]),
    ];
    assert_eq!(outcome.answers(), expected.concat());
    assert_eq!(outcome.state, negotiated(ReplyStyle::Simple));
}

#[test]
fn an_empty_description_is_not_told() {
    let table = Table(vec![ExportInfo::new(0, "r0", 512)]);
    let outcome = talk(&ServerInfo::default(), &table, &[&client(&[option(6, &info_data(b"r0", &[2]))])]);
    let expected = [
        reply(6, 3, &hex("0000 0000000000000200 0001")),
        reply(6, 3, &hex("0003 00000200 00001000 02000000")),
        reply(6, 1, &[]),
    ];
    assert_eq!(outcome.answers(), expected.concat());
}

#[test]
fn list_names_every_export() {
    let table = Table(vec![ExportInfo::new(0, "r0", 0), ExportInfo::new(1, "r0/1", 512)]);
    let outcome = talk(&ServerInfo::default(), &table, &[&client(&[option(3, &[]), option(3, b"x")])]);
    let (listed, error) = outcome.answers().split_at(3 * 20 + 6 + 8);
    let expected = [
        reply(3, 2, &hex(r#" 00000002 "r0" "#)),
        reply(3, 2, &hex(r#" 00000004 "r0/1" "#)),
        reply(3, 1, &[]),
    ];
    assert_eq!(listed, expected.concat());
    assert_eq!(only_reply(error).0, 0x8000_0003);
}

#[test]
fn abort_is_acknowledged_and_ends() {
    let outcome = every_cut(&client(&[option(2, &[]), option(3, &[])]));
    assert_eq!(outcome.answers(), reply(2, 1, &[]));
    assert_eq!(outcome.state, State::Close(CloseReason::Aborted));
}

#[test]
fn refusals_carry_their_reason() {
    let long = [b'n'; 4000];
    let rows: [(&[u8], u32, &str); 6] = [
        (b"secondary", 0x8000_0002, SECONDARY),
        (b"stopping", 0x8000_0007, "bye"),
        (b"nobody", 0x8000_0006, "no such export"),
        (&long, 0x8000_0006, "no such export"),
        (b"r0\0", 0x8000_0003, "the export name is not valid text"),
        (b"\xff\xfe", 0x8000_0003, "the export name is not valid text"),
    ];
    for (name, kind, message) in rows {
        for number in [6, 7] {
            let outcome = talk(
                &ServerInfo::default(),
                &Table::one(),
                &[&client(&[option(number, &info_data(name, &[]))])],
            );
            assert_eq!(outcome.answers(), reply(number, kind, message.as_bytes()));
            assert_eq!(outcome.state, State::Continue);
        }
        let meta = client(&[option(8, &[]), option(10, &meta_data(name, &[]))]);
        let outcome = talk(&ServerInfo::default(), &Table::one(), &[&meta]);
        assert_eq!(outcome.answers()[20..], reply(10, kind, message.as_bytes()));
        // The option that cannot tell: nothing is sent, the connection ends.
        let outcome = talk(&ServerInfo::default(), &Table::one(), &[&client(&[option(1, name)])]);
        assert_eq!(outcome.answers(), []);
        assert_eq!(outcome.state, State::Close(CloseReason::Refused(message.to_owned())));
    }
}

#[test]
fn what_is_not_spoken_is_unsupported() {
    for number in [0, 4, 5, 11, 12, 255, u32::MAX] {
        let outcome = every_cut(&client(&[option(number, b"data")]));
        assert_eq!(outcome.answers(), reply(number, 0x8000_0001, &[]));
    }
    let server = ServerInfo { structured_replies: false, ..ServerInfo::default() };
    let input = client(&[option(8, &[]), option(9, &meta_data(b"", &[])), option(1, b"")]);
    let outcome = talk(&server, &Table::one(), &[&input]);
    assert_eq!(
        outcome.answers(),
        [reply(8, 0x8000_0001, &[]), reply(9, 0x8000_0001, &[]), hex("0000000040000000017d")].concat()
    );
    assert_eq!(outcome.state, negotiated(ReplyStyle::Simple));
}

#[test]
fn meta_contexts_need_structured_replies_and_find_nothing() {
    for number in [9, 10] {
        let query = option(number, &meta_data(b"r0", &[b"base:", b"qemu:dirty-bitmap:x"]));
        let outcome = every_cut(&client(&[query.clone(), option(8, &[]), query]));
        let (first, rest) = outcome.answers().split_at(outcome.answers().len() - 40);
        assert_eq!(only_reply(first).0, 0x8000_0003);
        assert_eq!(rest, [reply(8, 1, &[]), reply(number, 1, &[])].concat());
    }
}

#[test]
fn malformed_options_are_invalid_and_the_client_may_go_on() {
    let good_info = info_data(b"r0", &[0, 3]);
    let good_meta = meta_data(b"r0", &[b"base:allocation"]);
    let mut bad: Vec<(u32, Vec<u8>)> = vec![(8, vec![0]), (3, vec![0; 4])];
    for cut in 0..good_info.len() {
        bad.push((6, good_info[..cut].to_vec()));
        bad.push((7, good_info[..cut].to_vec()));
    }
    for cut in 0..good_meta.len() {
        bad.push((9, good_meta[..cut].to_vec()));
        bad.push((10, good_meta[..cut].to_vec()));
    }
    bad.push((7, [good_info.as_slice(), &[0]].concat()));
    bad.push((10, [good_meta.as_slice(), &[0]].concat()));
    bad.push((7, hex("ffffffff 0000")));
    bad.push((10, hex("00000000 ffffffff")));
    bad.push((10, hex("00000000 00000001 ffffffff")));
    for (number, data) in bad {
        let input = client(&[option(8, &[]), option(number, &data), option(1, b"r0")]);
        let outcome = talk(&ServerInfo::default(), &Table::one(), &[&input]);
        let answers = outcome.answers();
        assert_eq!(only_reply(&answers[20..answers.len() - 10]).0, 0x8000_0003, "option {number} {data:x?}");
        assert_eq!(outcome.state, negotiated(ReplyStyle::Structured));
    }
}

#[test]
fn long_options_are_skipped_and_longer_ones_end_the_connection() {
    let server = ServerInfo::default();
    for len in [MAX_OPTION_BYTES + 1, 5000, MAX_DISCARD_BYTES as usize] {
        let input = client(&[option(7, &vec![0xaa; len]), option(1, b"r0")]);
        for chunk in [input.len(), 1000, 7] {
            let parts: Vec<&[u8]> = input.chunks(chunk).collect();
            let outcome = talk(&server, &Table::one(), &parts);
            let answers = outcome.answers();
            assert_eq!(only_reply(&answers[..answers.len() - 10]).0, 0x8000_0009);
            assert_eq!(outcome.state, negotiated(ReplyStyle::Simple));
        }
    }
    for len_bytes in [MAX_DISCARD_BYTES + 1, u32::MAX] {
        let input =
            [client(&[]), b"IHAVEOPT".to_vec(), hex("00000007"), len_bytes.to_be_bytes().to_vec()].concat();
        let outcome = talk(&server, &Table::one(), &[&input]);
        assert_eq!(outcome.answers(), []);
        assert_eq!(outcome.state, State::Close(CloseReason::OptionTooLong { option: 7, len_bytes }));
    }
}

#[test]
fn names_longer_than_a_string_may_be() {
    let server = ServerInfo::default();
    let name = vec![b'a'; 5000];
    let outcome = talk(&server, &Table::one(), &[&client(&[option(1, &name)])]);
    assert_eq!(outcome.state, State::Close(CloseReason::OptionTooLong { option: 1, len_bytes: 5000 }));
    let longest = &name[..MAX_NAME_BYTES];
    let outcome = talk(&server, &Table::one(), &[&client(&[option(1, longest)])]);
    assert_eq!(outcome.state, State::Close(CloseReason::Refused("no such export".to_owned())));
    let outcome = talk(&server, &Table::one(), &[&client(&[option(7, &info_data(&name, &[]))])]);
    assert_eq!(only_reply(outcome.answers()).0, 0x8000_0009);
    // It fits the option, but not a string.
    let name = vec![b'a'; MAX_NAME_BYTES + 1];
    let outcome = talk(&server, &Table::one(), &[&client(&[option(6, &info_data(&name, &[]))])]);
    assert_eq!(only_reply(outcome.answers()).0, 0x8000_0009);
    let outcome = talk(&server, &Table::one(), &[&client(&[option(6, &info_data(&name[1..], &[1, 2, 3]))])]);
    assert_eq!(only_reply(outcome.answers()).0, 0x8000_0006);
}

#[test]
fn the_longest_answer_fits_its_limit() {
    let mut info = ExportInfo::new(0, &"n".repeat(MAX_NAME_BYTES), 1 << 20);
    info.description = "\u{20ac}".repeat(MAX_NAME_BYTES);
    let outcome =
        talk(&ServerInfo::default(), &Table(vec![info]), &[&client(&[option(7, &info_data(b"", &[1, 2]))])]);
    // 4096 is not a multiple of the three bytes of the sign, one byte is left.
    assert_eq!(outcome.answers().len(), MAX_ANSWER_BYTES - 1);
}

#[test]
fn garbage_ends_the_connection() {
    let outcome = every_cut(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(outcome.state, State::Close(CloseReason::ClientFlags(0x4745_5420)));
    assert_eq!(outcome.answers(), []);
    let outcome = every_cut(&[client(&[]), vec![0x5a; 16]].concat());
    assert_eq!(outcome.state, State::Close(CloseReason::BadMagic(0x5a5a_5a5a_5a5a_5a5a)));
    let outcome = every_cut(&[hex("00000002"), option(7, &info_data(b"r0", &[]))].concat());
    assert_eq!(outcome.state, State::Close(CloseReason::NotFixedNewstyle(7)));
}

#[test]
fn ten_thousand_options_and_endless_bytes_are_cut_off() {
    let input = client(&vec![option(3, &[]); 10_000]);
    let outcome = talk(&ServerInfo::default(), &Table::one(), &[&input]);
    assert_eq!(outcome.state, State::Close(CloseReason::TooManyOptions));
    assert_eq!(outcome.answers().len(), 1000 * (20 + 6 + 20));
    assert_eq!(outcome.left.len(), (10_000 - 1001) * 16);

    let endless = client(&vec![option(99, &vec![0; MAX_DISCARD_BYTES as usize]); 200]);
    let outcome = talk(&ServerInfo::default(), &Table::one(), &[&endless]);
    assert_eq!(outcome.state, State::Close(CloseReason::TooManyBytes));
    let read = endless.len() - outcome.left.len();
    assert!(read as u64 <= ServerInfo::default().max_received_bytes + u64::from(MAX_DISCARD_BYTES) + 16);
}

#[test]
fn random_clients_neither_panic_nor_get_long_answers() {
    let mut random = XorShift(0x9e37_79b9_7f4a_7c15);
    let table = Table::one();
    let mut transmissions = 0;
    let mut refused = 0;
    for _ in 0..30_000 {
        let mut input = hex("00000003");
        for _ in 0..random.below(6) {
            let mut data = match random.below(4) {
                0 => info_data(b"r0", &[random.next() as u16, 1]),
                1 => meta_data(b"r0", &[b"base:allocation"]),
                2 => b"r0".to_vec(),
                _ => (0..random.below(64)).map(|_| random.next() as u8).collect(),
            };
            if random.below(3) == 0 && !data.is_empty() {
                let at = random.below(data.len() as u64) as usize;
                data[at] = random.next() as u8;
            }
            input.extend_from_slice(&option(random.below(14) as u32, &data));
        }
        if random.below(4) == 0 {
            let at = random.below(input.len() as u64) as usize;
            input[at] ^= 1 << random.below(8);
        }
        let cut = random.below(input.len() as u64 + 1) as usize;
        let outcome = talk(&ServerInfo::default(), &table, &[&input[..cut], &input[cut..]]);
        assert_eq!(outcome, talk(&ServerInfo::default(), &table, &[&input]));
        match outcome.state {
            State::Transmission(_) => transmissions += 1,
            State::Close(_) => refused += 1,
            State::Continue => {}
        }
    }
    // The generator reaches both ends often, else the test would look at one kind of client only.
    assert!(transmissions > 1000 && refused > 1000, "{transmissions} {refused}");
}
