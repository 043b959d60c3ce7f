//! The datagram: named fields between `###` and `%%%`, each with its length in front, and a signature behind (failover 3.4).
//!
//! ```text
//! ###\n 11:(0)t=status, 12:(0)src=nodea, 27:(1)srcuuid=<16 octets>, ... %%%\n 42:1 a02360fa...,
//! ```
//! (without the blanks). With `msgfmt classic` the last field is a signature too, of the same fields in the form
//! `name=value\n`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use model::failover::heartbeat::AuthKey;
use thiserror::Error;

use super::auth::{is_signed, sign};

/// Longest datagram that is read; real ones have 200 to 500 octets.
pub const DATAGRAM_BYTES_MAX: usize = 8192;
/// So many fields may a message have; real ones have up to 15.
const FIELDS_MAX: usize = 128;
/// Longest name of a field.
const NAME_BYTES_MAX: usize = 64;
/// Digits of a length: more than any datagram needs.
const LENGTH_DIGITS_MAX: usize = 5;

const BEGIN: &[u8] = b"###\n";
const END: &[u8] = b"%%%\n";
/// The field of `msgfmt classic`.
const CLASSIC_SIGNATURE: &str = "auth";

/// What a value is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// 0: text.
    Text,
    /// 1: octets.
    Binary,
    /// 2 to 5: structures, lists, and what is compressed. Kept as it is.
    Other(u8),
}

/// One field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its kind.
    pub kind: Kind,
    /// Its name; printable, without blanks, at most 64 octets.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
}

/// The fields of a message in their order, without signatures.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Message {
    fields: Vec<Field>,
}

/// How a message is signed: the same for all that a node sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// Number of the key.
    pub key: u8,
    /// `msgfmt netstring`: no signature among the fields.
    pub netstring: bool,
}

/// Why a datagram is no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum MessageError {
    /// Too long.
    #[error("{0} octets are too many for a message of heartbeat")]
    TooLong(usize),
    /// Not built as messages are.
    #[error("not a message of heartbeat: {0}")]
    Shape(&'static str),
    /// The key that it names is not in authkeys.
    #[error("signed with key {0}, which is not in authkeys")]
    UnknownKey(u8),
    /// Signed with another secret, or changed on its way.
    #[error("the signature is wrong: another secret or method for key {0}")]
    Signature(u8),
}

impl Message {
    /// A message of a type.
    pub fn new(message_type: &str) -> Message {
        Message::default().with("t", message_type)
    }

    /// With one more field of text.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Message {
        self.with_field(Kind::Text, name, value.as_bytes())
    }

    /// With one more field of octets.
    #[must_use]
    pub fn with_binary(self, name: &str, value: &[u8]) -> Message {
        self.with_field(Kind::Binary, name, value)
    }

    fn with_field(mut self, kind: Kind, name: &str, value: &[u8]) -> Message {
        assert!(is_name(name.as_bytes()) && name != CLASSIC_SIGNATURE, "{name} is no name of a field");
        assert!(self.fields.len() < FIELDS_MAX, "a message has few fields");
        self.fields.push(Field { kind, name: name.to_owned(), value: value.to_vec() });
        self
    }

    /// All fields.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The value of a field of text; the first one of that name counts.
    pub fn text(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|f| f.name == name && f.kind == Kind::Text)?;
        std::str::from_utf8(&field.value).ok()
    }

    /// The octets of a field.
    pub fn binary(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|f| f.name == name && f.kind == Kind::Binary).map(|f| &f.value[..])
    }

    /// A number in hexadecimal digits.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.text(name).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u64::from_str_radix(text, 16).ok()
    }

    /// The type.
    pub fn message_type(&self) -> Option<&str> {
        self.text("t")
    }

    /// The datagram.
    ///
    /// # Panics
    /// If the form names a key that is not among `keys`.
    pub fn encode(&self, form: Form, keys: &BTreeMap<u8, AuthKey>) -> Vec<u8> {
        let key = keys.get(&form.key).expect("the form names one of the keys");
        let mut out = BEGIN.to_vec();
        self.fields.iter().for_each(|field| put_field(&mut out, field));
        if !form.netstring {
            let value = format!("{} {}", form.key, sign(key, &self.classic())).into_bytes();
            put_field(&mut out, &Field { kind: Kind::Text, name: CLASSIC_SIGNATURE.to_owned(), value });
        }
        out.extend(END);
        let signature = format!("{} {}", form.key, sign(key, &out));
        put(&mut out, signature.as_bytes());
        debug_assert!(Message::decode(&out, keys).is_ok() || out.len() > DATAGRAM_BYTES_MAX);
        out
    }

    /// Reads a datagram; whoever made it has one of `keys`.
    ///
    /// # Errors
    /// It is none, or signed by somebody else.
    pub fn decode(bytes: &[u8], keys: &BTreeMap<u8, AuthKey>) -> Result<(Message, Form), MessageError> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let shape = MessageError::Shape;
        let mut rest = bytes.strip_prefix(BEGIN).ok_or(shape("it does not begin as one"))?;
        let mut fields = Vec::new();
        while !rest.starts_with(END) {
            let (text, behind) = take(rest)?;
            if fields.len() == FIELDS_MAX {
                return Err(shape("too many fields"));
            }
            fields.push(field(text)?);
            rest = behind;
        }
        let signed = &bytes[..bytes.len() - rest.len() + END.len()];
        let (signature, behind) = take(&rest[END.len()..])?;
        if !behind.is_empty() {
            return Err(shape("something follows its end"));
        }
        let key = verify(signature, signed, keys)?;
        let mut message = Message { fields };
        let classic = message.fields.pop_if(|f| f.name == CLASSIC_SIGNATURE && f.kind == Kind::Text);
        if let Some(classic) = &classic
            && message.fields.iter().all(|f| !matches!(f.kind, Kind::Other(_)))
            && verify(&classic.value, &message.classic(), keys)? != key
        {
            return Err(shape("its two signatures are of different keys"));
        }
        if message.fields.iter().any(|f| f.name == CLASSIC_SIGNATURE) {
            return Err(shape("there is a signature among its fields"));
        }
        Ok((message, Form { key, netstring: classic.is_none() }))
    }

    /// What the signature of `msgfmt classic` is made of.
    fn classic(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in &self.fields {
            match field.kind {
                Kind::Text => {}
                Kind::Binary => out.extend(b"(1)"),
                Kind::Other(kind) => out.extend([b'(', b'0' + kind, b')']),
            }
            out.extend(field.name.as_bytes());
            out.push(b'=');
            match field.kind {
                Kind::Binary => out.extend(STANDARD.encode(&field.value).as_bytes()),
                Kind::Text | Kind::Other(_) => out.extend(&field.value),
            }
            out.push(b'\n');
        }
        out
    }
}

/// Appends `LEN:bytes,`.
fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(format!("{}:", bytes.len()).as_bytes());
    out.extend(bytes);
    out.push(b',');
}

fn put_field(out: &mut Vec<u8>, field: &Field) {
    let kind = match field.kind {
        Kind::Text => 0,
        Kind::Binary => 1,
        Kind::Other(kind) => kind,
    };
    assert!(kind <= 5, "there is no field of kind {kind}");
    let mut text = vec![b'(', b'0' + kind, b')'];
    text.extend(field.name.as_bytes());
    text.push(b'=');
    text.extend(&field.value);
    put(out, &text);
}

/// Takes `LEN:bytes,` off; a length has no needless zeros.
fn take(bytes: &[u8]) -> Result<(&[u8], &[u8]), MessageError> {
    let shape = MessageError::Shape;
    let digits = bytes.iter().take(LENGTH_DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
    let (number, rest) = bytes.split_at(digits);
    let is_length = matches!(number, [b'0'] | [b'1'..=b'9', ..]) && digits <= LENGTH_DIGITS_MAX;
    let rest = rest.strip_prefix(b":").filter(|_| is_length).ok_or(shape("a length is missing"))?;
    let length = number.iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0'));
    let (text, rest) = rest.split_at_checked(length).ok_or(shape("a field is longer than the rest"))?;
    let rest = rest.strip_prefix(b",").ok_or(shape("a field is not as long as it says"))?;
    Ok((text, rest))
}

/// `(K)NAME=VALUE`.
fn field(text: &[u8]) -> Result<Field, MessageError> {
    let shape = MessageError::Shape;
    let [b'(', kind @ b'0'..=b'5', b')', named @ ..] = text else {
        return Err(shape("a field has no kind"));
    };
    let kind = match kind - b'0' {
        0 => Kind::Text,
        1 => Kind::Binary,
        other => Kind::Other(other),
    };
    let at = named.iter().position(|b| *b == b'=').ok_or(shape("a field has no value"))?;
    let (name, value) = (&named[..at], &named[at + 1..]);
    if !is_name(name) {
        return Err(shape("a field has no name"));
    }
    let name = std::str::from_utf8(name).map_err(|_| shape("a field has no name"))?.to_owned();
    Ok(Field { kind, name, value: value.to_vec() })
}

fn is_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(|b| b.is_ascii_graphic() && *b != b'=')
}

/// `N SIGNATURE`: the number of the key if it is right.
fn verify(text: &[u8], signed: &[u8], keys: &BTreeMap<u8, AuthKey>) -> Result<u8, MessageError> {
    let shape = MessageError::Shape("its signature is none");
    let at = text.iter().position(|b| *b == b' ').ok_or(shape)?;
    let number = match text[..at] {
        [digit @ b'1'..=b'9'] => digit - b'0',
        [b'1', digit @ b'0'..=b'5'] => 10 + digit - b'0',
        _ => return Err(shape),
    };
    let key = keys.get(&number).ok_or(MessageError::UnknownKey(number))?;
    if is_signed(key, signed, &text[at + 1..]) { Ok(number) } else { Err(MessageError::Signature(number)) }
}

#[cfg(test)]
mod tests;
