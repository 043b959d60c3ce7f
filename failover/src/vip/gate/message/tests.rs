use super::*;
use proptest::prelude::*;

/// What nft 1.0.6 sends for `add element inet lockstep SET { … timeout 415ms }` and `delete element …`: the messages of one
/// element each, behind their headers. Attribute 4 names a set of the same batch, which ours does not have.
const ADD_V4: &str = "01000000 0d0001006c6f636b73746570 00000000 0b000200616c69766534 0000 0800040000000002 \
    20000380 1c000180 0c000400 000000000000019f 0c000180 08000100 0a4d0064";
const DELETE_V4: &str = "01000000 0d0001006c6f636b73746570 00000000 0b000200616c69766534 0000 \
    14000380 10000180 0c000180 08000100 0a4d0064";
const ADD_V6: &str = "01000000 0d0001006c6f636b73746570 00000000 0b000200616c69766536 0000 0800040000000002 \
    2c000380 28000180 0c000400 000000000000019f 18000180 14000100 20010db8 00000000 00000000 00000064";
const ADD_LINK_V6: &str = "01000000 0d0001006c6f636b73746570 00000000 10000200616c6976655f6c696e6b3600 \
    0800040000000003 3c000380 38000180 0c000400 000000000000019f 28000180 24000100 \
    65746830 00000000 00000000 00000000 fe800000 00000000 00000000 00000002";
/// `delete table inet lockstep`.
const DELETE_TABLE: &str = "01000000 0d0001006c6f636b73746570 00000000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The bodies of messages, each with its kind, flags and number.
fn messages(mut rest: &[u8]) -> Vec<(u16, u16, u32, Vec<u8>)> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let u16_at = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        let length = u32::from_ne_bytes(field(rest, 0).unwrap()) as usize;
        let number = u32::from_ne_bytes(field(rest, 8).unwrap());
        all.push((u16_at(4), u16_at(6), number, rest[HEADER_BYTES..length].to_vec()));
        rest = &rest[length..];
    }
    all
}

/// What nft sends, without the attribute that ours lacks.
fn golden(hex: &str) -> Vec<u8> {
    let all = bytes(hex);
    let mut kept = all[..4].to_vec();
    let mut rest = &all[4..];
    while !rest.is_empty() {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]])).next_multiple_of(4).min(rest.len());
        if u16::from_ne_bytes([rest[2], rest[3]]) != 4 {
            kept.extend_from_slice(&rest[..length]);
        }
        rest = &rest[length..];
    }
    kept.resize(kept.len().next_multiple_of(4), 0);
    kept
}

fn guarded(address: &str) -> Guarded {
    Guarded::new(address.parse().unwrap(), "eth0")
}

const TIME: Duration = Duration::from_millis(415);
const NEW: u16 = 0x0a0c;
const DELETE: u16 = 0x0a0e;

#[cfg(target_endian = "little")]
#[test]
fn elements_are_as_nft_sends_them() {
    for (address, add) in [("2001:db8::64", ADD_V6), ("fe80::2", ADD_LINK_V6)] {
        let request = Request::renew(7, &[guarded(address)], TIME);
        assert_eq!(messages(&request.bytes)[1].3, golden(add), "{address}");
    }
    let request = Request::renew(7, &[guarded("10.77.0.100")], TIME);
    let sent = messages(&request.bytes);
    let kinds: Vec<u16> = sent.iter().map(|message| message.0).collect();
    assert_eq!(kinds, [0x10, NEW, DELETE, NEW, NEW, DELETE, NEW, 0x11]);
    let bodies: Vec<&Vec<u8>> = sent.iter().map(|message| &message.3).collect();
    assert_eq!([bodies[0], bodies[7]], [&bytes("0000000a"), &bytes("0000000a")], "of nf_tables");
    assert_eq!([bodies[1], bodies[2], bodies[3]], [&golden(ADD_V4), &golden(DELETE_V4), &golden(ADD_V4)]);
    assert_eq!(bodies[4][..4], [3, 0, 0, 0], "family arp");
    assert_eq!(bodies[4][4..], bodies[1][4..]);
    let create = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    assert_eq!([sent[0].1, sent[1].1, sent[2].1], [NLM_F_REQUEST, create, NLM_F_REQUEST | NLM_F_ACK]);
    let numbers: Vec<u32> = sent.iter().map(|message| message.2).collect();
    assert_eq!(numbers, (7..15).collect::<Vec<u32>>());
    assert_eq!(request.next, 15);
    let asked: Vec<u32> = request.parts.iter().map(|part| part.0).collect();
    assert_eq!(asked, (8..14).collect::<Vec<u32>>(), "all but what is around them");
}

#[cfg(target_endian = "little")]
#[test]
fn a_table_is_deleted_as_nft_does_it() {
    let sent = messages(&Request::delete_table(1, TableFamily::Inet).bytes);
    assert_eq!((sent[1].0, &sent[1].3), (0x0a02, &golden(DELETE_TABLE)));
    let sent = messages(&Request::look(1, TableFamily::Arp).bytes);
    assert_eq!((sent.len(), sent[0].0, sent[0].3[0]), (1, 0x0a01, 3));
}

#[test]
fn closing_leaves_no_element_whether_there_was_one_or_not() {
    let sent = messages(&Request::close(1, &[guarded("2001:db8::64")]).bytes);
    let kinds: Vec<u16> = sent.iter().map(|message| message.0).collect();
    assert_eq!(kinds, [0x10, NEW, DELETE, 0x11]);
}

#[test]
fn no_element_is_without_an_end() {
    let sent = messages(&Request::renew(1, &[guarded("10.77.0.100")], Duration::ZERO).bytes);
    let forever = [0; 8];
    assert!(!sent[1].3.windows(12).any(|w| w[2..4] == 4_u16.to_ne_bytes() && w[4..] == forever));
    assert!(sent[1].3.windows(8).any(|w| w == 1_u64.to_be_bytes()));
}

#[test]
fn the_longest_batch_fits() {
    let all: Vec<Guarded> =
        (0..BATCH_MAX_ELEMENTS).flat_map(|n| [guarded(&format!("10.0.{}.{}", n / 256, n % 256))]).collect();
    let of_link: Vec<Guarded> = (0..BATCH_MAX_ELEMENTS).map(|n| guarded(&format!("fe80::{n:x}"))).collect();
    for addresses in [all, of_link] {
        let request = Request::renew(u32::MAX - 2, &addresses, TIME);
        assert!(request.bytes.len() < 100 << 10, "{}", request.bytes.len());
        assert_eq!(request.next, u32::MAX.wrapping_sub(2).wrapping_add(request.parts.len() as u32 + 2));
    }
}

fn answer(number: u32, code: i32, more: &[u8]) -> Vec<u8> {
    let mut bytes = (20 + more.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(NLMSG_ERROR.to_ne_bytes());
    bytes.extend(0_u16.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(code.to_ne_bytes());
    bytes.extend(more);
    bytes
}

#[test]
fn answers_are_read_one_by_one() {
    let datagram = [answer(7, 0, &[1; 16]), answer(8, -libc::ENOENT, &[])].concat();
    let read = answers(&datagram).unwrap();
    assert_eq!(read, [Answer { number: 7, errno: 0 }, Answer { number: 8, errno: libc::ENOENT }]);
    assert_eq!(answers(&[]).unwrap(), []);
    let mut table = answer(9, 0, &[]);
    table[4..6].copy_from_slice(&0x0a00_u16.to_ne_bytes());
    assert_eq!(answers(&table).unwrap(), [], "another kind of message");
}

#[test]
fn what_is_cut_short_or_lies_is_no_answer() {
    let whole = answer(7, -libc::ENOENT, &[]);
    for length in 1..whole.len() {
        assert_eq!(answers(&whole[..length]), Err(Malformed), "{length} octets");
        let mut shorter = whole.clone();
        shorter[..4].copy_from_slice(&(length as u32).to_ne_bytes());
        assert_eq!(answers(&shorter[..length]), Err(Malformed), "{length} octets that say so");
    }
    let mut lying = whole.clone();
    lying[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(answers(&lying), Err(Malformed));
    for code in [1, i32::MIN] {
        assert_eq!(answers(&answer(7, code, &[])), Err(Malformed), "{code} is no error");
    }
}

/// What the kernel (6.12) answers for a table: name, flags, use and handle.
fn table() -> Vec<u8> {
    let body = "01000000 0d0001006c6f636b73746570 00000000 08000200 00000000 08000300 00000007 0c000400 0000000000000029";
    let body = bytes(body);
    let mut datagram = u32::try_from(HEADER_BYTES + body.len()).unwrap().to_ne_bytes().to_vec();
    datagram.extend(0x0a00_u16.to_ne_bytes());
    datagram.resize(HEADER_BYTES, 0);
    [datagram, body].concat()
}

#[test]
fn a_table_is_known_by_its_handle() {
    assert_eq!(table_handle(&table()), Ok(Some(0x29)));
    assert_eq!(table_handle(&answer(7, 0, &[])), Ok(None), "that is no table");
    for length in 1..table().len() {
        let mut cut = table()[..length].to_vec();
        assert_eq!(table_handle(&cut), Err(Malformed), "{length} octets");
        if length >= HEADER_BYTES {
            cut[..4].copy_from_slice(&(length as u32).to_ne_bytes());
            assert_ne!(table_handle(&cut), Ok(Some(0x29)), "{length} octets that say so");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_octets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = table_handle(&bytes);
        let read = answers(&bytes);
        prop_assert!(read.is_err() || read.unwrap().iter().all(|answer| answer.errno >= 0));
    }

    #[test]
    fn spoilt_answers_never_panic(
        at in 0_usize..56,
        octet in any::<u8>(),
        errno in 0_i32..200,
        cut in 0_usize..56,
    ) {
        let mut datagram = [answer(1, -errno, &[0; 16]), answer(2, 0, &[])].concat();
        if let Some(spoilt) = datagram.get_mut(at) {
            *spoilt = octet;
        }
        datagram.truncate(datagram.len() - cut);
        let read = answers(&datagram);
        prop_assert!(read.is_err() || read.unwrap().len() <= 3);
    }
}
