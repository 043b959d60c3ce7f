//! nf_tables' messages for the elements of sets, as `linux/netfilter/nf_tables.h` and `nfnetlink.h` have them.
//!
//! Numbers in headers and lengths are in this machine's order; those in attributes are big-endian.

use std::time::Duration;

use super::{Guarded, Set, TABLE, TableFamily};

/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct nfgenmsg`.
const FAMILY_BYTES: usize = 4;
/// The error number at the front of an answer (`struct nlmsgerr`).
const ERROR_BYTES: usize = 4;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFT_MSG_NEWTABLE: u8 = 0;
const NFT_MSG_GETTABLE: u8 = 1;
const NFT_MSG_DELTABLE: u8 = 2;
const NFT_MSG_NEWSETELEM: u8 = 12;
const NFT_MSG_DELSETELEM: u8 = 14;

const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_INET: u8 = 1;
const NFPROTO_ARP: u8 = 3;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_HANDLE: u16 = 4;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;
const NLA_F_NESTED: u16 = 1 << 15;

/// Elements of one batch at most: what fits into a socket's buffer, in six messages of which none is longer than an attribute
/// may be.
pub(super) const BATCH_MAX_ELEMENTS: usize = 256;

/// One message of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Look,
    DeleteTable,
    AddElements,
    DeleteElements,
}

/// Messages that are sent together; each but those around them is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub bytes: Vec<u8>,
    /// Each with its number.
    pub parts: Vec<(u32, Part)>,
    /// Number of the next message.
    pub next: u32,
}

impl Request {
    /// Whether a table is there. `first`: number of the first message.
    pub fn look(first: u32, family: TableFamily) -> Request {
        let mut request = Request { bytes: Vec::new(), parts: Vec::new(), next: first };
        request.part(Part::Look, family, |body| attribute(body, NFTA_TABLE_NAME, &string(TABLE)));
        request
    }

    /// Deletes a table.
    pub fn delete_table(first: u32, family: TableFamily) -> Request {
        Request::batch(first, |request| {
            request.part(Part::DeleteTable, family, |body| {
                attribute(body, NFTA_TABLE_NAME, &string(TABLE));
            });
        })
    }

    /// These answer for `time` from now on, whether they do now or not. Kernels before 6.12 leave an element that is there as
    /// it is, and one that has just expired cannot be deleted: what is added, deleted and added is new in any case, and as it
    /// is one transaction nobody sees the set without it.
    pub fn renew(first: u32, addresses: &[Guarded], time: Duration) -> Request {
        let steps = [Part::AddElements, Part::DeleteElements, Part::AddElements];
        Request::elements(first, addresses, time, &steps)
    }

    /// These answer no more, whether they do now or not.
    pub fn close(first: u32, addresses: &[Guarded]) -> Request {
        Request::elements(
            first,
            addresses,
            Duration::from_millis(1),
            &[Part::AddElements, Part::DeleteElements],
        )
    }

    fn elements(first: u32, addresses: &[Guarded], time: Duration, steps: &[Part]) -> Request {
        assert!(addresses.len() <= BATCH_MAX_ELEMENTS, "{} addresses in one batch", addresses.len());
        // Zero would be an element without an end.
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        Request::batch(first, |request| {
            for set in Set::ALL {
                let keys: Vec<Vec<u8>> =
                    addresses.iter().filter(|a| a.sets().contains(&set)).map(Guarded::key).collect();
                if keys.is_empty() {
                    continue;
                }
                for &step in steps {
                    let time_ms = (step == Part::AddElements).then_some(time_ms);
                    request.part(step, set.family(), |body| elements_of(body, set, &keys, time_ms));
                }
            }
        })
    }

    fn batch(first: u32, parts: impl FnOnce(&mut Request)) -> Request {
        let mut request = Request { bytes: Vec::new(), parts: Vec::new(), next: first };
        // The subsystem is that of the resource number.
        let resource = u16::from(NFNL_SUBSYS_NFTABLES);
        request.message(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, NFPROTO_UNSPEC, resource, |_| {});
        parts(&mut request);
        request.message(NFNL_MSG_BATCH_END, NLM_F_REQUEST, NFPROTO_UNSPEC, resource, |_| {});
        request
    }

    fn part(&mut self, part: Part, family: TableFamily, body: impl FnOnce(&mut Vec<u8>)) {
        let (number, flags) = match part {
            Part::Look => (NFT_MSG_GETTABLE, 0),
            Part::DeleteTable => (NFT_MSG_DELTABLE, 0),
            Part::AddElements => (NFT_MSG_NEWSETELEM, NLM_F_CREATE),
            Part::DeleteElements => (NFT_MSG_DELSETELEM, 0),
        };
        let family = match family {
            TableFamily::Inet => NFPROTO_INET,
            TableFamily::Arp => NFPROTO_ARP,
        };
        self.parts.push((self.next, part));
        let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, number]);
        self.message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, family, 0, body);
    }

    /// `struct nlmsghdr`, `struct nfgenmsg`, and what is behind them.
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.next.to_ne_bytes());
        // The sender is filled in by the kernel; the version is 0.
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        body(&mut self.bytes);
        let length_bytes = u32::try_from(self.bytes.len() - start).expect("a batch is short");
        self.bytes[start..start + 4].copy_from_slice(&length_bytes.to_ne_bytes());
        self.next = self.next.wrapping_add(1);
    }
}

fn elements_of(body: &mut Vec<u8>, set: Set, keys: &[Vec<u8>], time_ms: Option<u64>) {
    attribute(body, NFTA_SET_ELEM_LIST_TABLE, &string(TABLE));
    attribute(body, NFTA_SET_ELEM_LIST_SET, &string(set.name()));
    let mut list = Vec::new();
    for key in keys {
        let mut element = Vec::new();
        if let Some(time_ms) = time_ms {
            attribute(&mut element, NFTA_SET_ELEM_TIMEOUT, &time_ms.to_be_bytes());
        }
        let mut value = Vec::new();
        attribute(&mut value, NFTA_DATA_VALUE, key);
        attribute(&mut element, NFTA_SET_ELEM_KEY | NLA_F_NESTED, &value);
        attribute(&mut list, NFTA_LIST_ELEM | NLA_F_NESTED, &element);
    }
    attribute(body, NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, &list);
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length_bytes = u16::try_from(4 + value.len()).expect("an attribute is short");
    out.extend(length_bytes.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn string(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// The kernel's word on one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// Of the message.
    pub number: u32,
    /// 0: done.
    pub errno: i32,
}

/// A datagram that is not what the kernel sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// The answers in a datagram; other messages in it are left out.
pub(super) fn answers(datagram: &[u8]) -> Result<Vec<Answer>, Malformed> {
    let mut answers = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(field(rest, 0)?) as usize;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER_BYTES).ok_or(Malformed)?;
        if u16::from_ne_bytes(field(message, 4)?) == NLMSG_ERROR {
            let body =
                message.get(HEADER_BYTES..).filter(|body| body.len() >= ERROR_BYTES).ok_or(Malformed)?;
            let number = u32::from_ne_bytes(field(message, 8)?);
            // The kernel's errors are negative.
            let errno = i32::from_ne_bytes(field(body, 0)?).checked_neg().filter(|errno| *errno >= 0);
            answers.push(Answer { number, errno: errno.ok_or(Malformed)? });
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

/// The handle of the table that a datagram tells of: no other table ever had it. None: it tells of none.
pub(super) fn table_handle(datagram: &[u8]) -> Result<Option<u64>, Malformed> {
    let length = u32::from_ne_bytes(field(datagram, 0)?) as usize;
    if u16::from_ne_bytes(field(datagram, 4)?) != u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWTABLE])
    {
        return Ok(None);
    }
    let mut rest = datagram.get(HEADER_BYTES + FAMILY_BYTES..length).ok_or(Malformed)?;
    while !rest.is_empty() {
        let length = usize::from(u16::from_ne_bytes(field(rest, 0)?));
        let value = rest.get(4..length).ok_or(Malformed)?;
        if u16::from_ne_bytes(field(rest, 2)?) == NFTA_TABLE_HANDLE {
            return field(value, 0).map(|handle| Some(u64::from_be_bytes(handle)));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

fn field<const BYTES: usize>(bytes: &[u8], at: usize) -> Result<[u8; BYTES], Malformed> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().ok_or(Malformed)
}

#[cfg(test)]
mod tests;
