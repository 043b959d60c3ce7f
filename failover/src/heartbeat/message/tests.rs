use proptest::prelude::*;

use super::*;

fn keys() -> BTreeMap<u8, AuthKey> {
    BTreeMap::from([(1, AuthKey::Sha1("cluster".into())), (2, AuthKey::Crc), (15, AuthKey::Md5("m".into()))])
}

const FORM: Form = Form { key: 1, netstring: false };

fn beat() -> Message {
    Message::new("status").with("src", "a").with_binary("srcuuid", &[0; 16]).with("seq", "1f")
}

#[test]
fn values_are_found_by_name_and_kind() {
    let message = beat().with("bad", "1g").with("sign", "+1").with("none", "");
    assert_eq!((message.message_type(), message.number("seq")), (Some("status"), Some(0x1f)));
    assert_eq!((message.number("bad"), message.number("sign"), message.number("none")), (None, None, None));
    assert_eq!((message.text("srcuuid"), message.binary("src")), (None, None));
    assert_eq!(message.binary("srcuuid"), Some(&[0; 16][..]));
    assert_eq!(message.number("t"), None);
}

/// A datagram with these octets between begin and end, rightly signed.
fn signed(between: &[u8]) -> Vec<u8> {
    let mut out = [BEGIN, between, END].concat();
    let signature = format!("1 {}", sign(&keys()[&1], &out));
    put(&mut out, signature.as_bytes());
    out
}

#[test]
fn what_is_rightly_signed_may_still_be_no_message() {
    let cases: &[(&[u8], &str)] = &[
        (b"", ""),
        (b"11:(0)t=status,", ""),
        (b"11(0)t=status,", "a length is missing"),
        (b"011:(0)t=status,", "a length is missing"),
        (b"000011:(0)t=status,", "a length is missing"),
        (b"-1:(0)t=status,", "a length is missing"),
        (b"10:(0)t=status,", "a field is not as long as it says"),
        (b"12:(0)t=status,", "a field is not as long as it says"),
        (b"9999:(0)t=status,", "a field is longer than the rest"),
        (b"8:t=status,", "a field has no kind"),
        (b"5:(6)t=,", "a field has no kind"),
        (b"4:(0)t,", "a field has no value"),
        (b"4:(0)=,", "a field has no name"),
        (b"5:(0) =,", "a field has no name"),
        (b"13:(0)auth=1 abc,5:(0)t=,", "there is a signature among its fields"),
        (b"8:(0)auth=,", "its signature is none"),
        (b"10:(0)auth=1 ,", "the signature is wrong"),
    ];
    for (between, why) in cases {
        let found = Message::decode(&signed(between), &keys());
        match found {
            Ok(_) => assert_eq!(*why, "", "{}", String::from_utf8_lossy(between)),
            Err(e) => assert!(
                !why.is_empty() && e.to_string().contains(why),
                "{}: {e}",
                String::from_utf8_lossy(between)
            ),
        }
    }
    let many = b"5:(0)t=,".repeat(FIELDS_MAX + 1);
    assert_eq!(Message::decode(&signed(&many), &keys()), Err(MessageError::Shape("too many fields")));
    assert_eq!(Message::decode(&[b'#'; 8193], &keys()), Err(MessageError::TooLong(8193)));
}

#[test]
fn every_impossible_length_and_every_changed_octet_is_refused() {
    let datagram = beat().encode(FORM, &keys());
    for len in 0..datagram.len() {
        assert!(Message::decode(&datagram[..len], &keys()).is_err(), "{len}");
    }
    assert!(Message::decode(&[&datagram[..], b"x"].concat(), &keys()).is_err());
    for at in 0..datagram.len() {
        let mut bent = datagram.clone();
        bent[at] ^= 0x20;
        assert!(Message::decode(&bent, &keys()).is_err(), "{at}");
    }
}

#[test]
fn two_signatures_are_of_one_key() {
    let classic = format!("2 {}", sign(&AuthKey::Crc, &beat().classic()));
    let mut between = Vec::new();
    beat().fields().iter().for_each(|f| put_field(&mut between, f));
    let field = Field { kind: Kind::Text, name: "auth".into(), value: classic.into_bytes() };
    put_field(&mut between, &field);
    let found = Message::decode(&signed(&between), &keys());
    assert_eq!(found, Err(MessageError::Shape("its two signatures are of different keys")));
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let kind = prop_oneof![Just(Kind::Text), Just(Kind::Binary), (2..6_u8).prop_map(Kind::Other)];
    let field = (kind, "[!-<>-~]{1,64}", prop::collection::vec(any::<u8>(), 0..40));
    let field = field.prop_map(|(kind, name, value)| Field { kind, name, value });
    prop::collection::vec(field.prop_filter("signatures", |f| f.name != CLASSIC_SIGNATURE), 0..20)
}

proptest! {
    #[test]
    fn what_is_made_is_read(fields in fields(), key in prop::sample::select(vec![1_u8, 2, 15]), netstring: bool) {
        let (message, form) = (Message { fields }, Form { key, netstring });
        let datagram = message.encode(form, &keys());
        prop_assert_eq!(Message::decode(&datagram, &keys()), Ok((message, form)));
    }

    #[test]
    fn arbitrary_bytes_are_survived(between in prop::collection::vec(any::<u8>(), 0..200), cut: prop::sample::Index) {
        let _ = Message::decode(&between, &keys());
        let datagram = signed(&between);
        let _ = Message::decode(&datagram, &keys());
        let _ = Message::decode(&datagram[..cut.index(datagram.len())], &keys());
    }
}
