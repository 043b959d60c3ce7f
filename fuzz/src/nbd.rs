//! A client's connection as a session: the negotiation in pieces of any length, then requests and their answers. The
//! client's bytes are the input itself, or are made from a list of options and requests with the right magic numbers.

use blockdev::nbd::export::{ExportFlags, ExportInfo, Exports, Refused, RefusedError};
use blockdev::nbd::handshake::{Handshake, MAX_ANSWER_BYTES, Negotiated, ServerInfo, State};
use blockdev::nbd::reply::{MAX_REPLY_BYTES, put_failed, put_ok, put_read_chunk_header};
use blockdev::nbd::request::{
    Command, MAX_DATA_PIECE_BYTES, MAX_DISCARD_PIECE_BYTES, REQUEST_BYTES, parse, split,
};

use super::input::Input;

const EXPORT_BYTES: u64 = 1 << 30;

struct One {
    read_only: bool,
}

impl Exports for One {
    fn lookup(&self, name: &[u8]) -> Result<ExportInfo, Refused> {
        if name.len() > 3 {
            let error = [RefusedError::Unknown, RefusedError::Policy, RefusedError::Shutdown][name.len() % 3];
            return Err(Refused { error, message: "no such export".into() });
        }
        let mut info = ExportInfo::new(0, "r0/0", EXPORT_BYTES);
        info.description = "a replicated device".into();
        let all = ExportFlags { flush: true, fua: true, trim: true, write_zeroes: true, ..info.flags };
        info.flags = ExportFlags { read_only: self.read_only, ..all };
        Ok(info)
    }

    fn for_each(&self, each: &mut dyn FnMut(&str)) {
        each("r0/0");
    }
}

/// One input.
pub fn run(data: &[u8]) {
    let [how, piece, bytes @ ..] = data else { return };
    let server = ServerInfo { structured_replies: how & 2 == 0, max_options: 20, ..ServerInfo::default() };
    let exports = One { read_only: how & 4 != 0 };
    if how & 1 == 0 {
        session(&server, &exports, usize::from(*piece) + 1, bytes);
    } else {
        session(&server, &exports, usize::from(*piece) + 1, &client(bytes));
    }
}

/// The bytes of a client that keeps to the layout.
fn client(bytes: &[u8]) -> Vec<u8> {
    let mut input = Input(bytes);
    let mut out = vec![0, 0, 0, input.byte().unwrap_or(3)];
    while let Some(what) = input.byte() {
        let (Some(flags), Some(len)) = (input.byte(), input.two()) else { break };
        if what & 0x80 == 0 {
            out.extend_from_slice(b"IHAVEOPT");
            out.extend_from_slice(&u32::from(what).to_be_bytes());
            out.extend_from_slice(&u32::from(len).to_be_bytes());
            out.extend_from_slice(input.up_to(usize::from(len)));
            continue;
        }
        let sector = u64::from(input.two().unwrap_or(0)) << (flags >> 4);
        out.extend_from_slice(&[0x25, 0x60, 0x95, 0x13, 0, flags & 7, 0, what & 0xf]);
        out.extend_from_slice(&[flags; 8]);
        out.extend_from_slice(&(sector * 512).to_be_bytes());
        out.extend_from_slice(&(u32::from(len) << (what >> 4 & 7)).to_be_bytes());
        if what & 0xf == 1 {
            out.extend_from_slice(input.up_to(usize::from(len)));
        }
    }
    out
}

fn session(server: &ServerInfo, exports: &One, piece: usize, mut bytes: &[u8]) {
    let mut handshake = Handshake::new(server);
    handshake.greeting(&mut Vec::new());
    loop {
        let (now, _) = bytes.split_at(bytes.len().min(piece));
        if now.is_empty() {
            return;
        }
        let mut out = Vec::new();
        let step = handshake.feed(now, &mut out, exports);
        assert!(out.len() <= MAX_ANSWER_BYTES);
        assert!(step.consumed > 0);
        bytes = &bytes[step.consumed..];
        match step.state {
            State::Continue => {}
            State::Transmission(negotiated) => return requests(&negotiated, bytes),
            State::Close(_) => return,
        }
    }
}

fn requests(negotiated: &Negotiated, mut bytes: &[u8]) {
    let (export, style) = (&negotiated.export, negotiated.style);
    while let Ok(Some(request)) = parse(bytes) {
        for part in [0, 3, 4, REQUEST_BYTES - 1] {
            assert_eq!(parse(&bytes[..part]), Ok(None), "a part of a good header is the beginning of one");
        }
        bytes = &bytes[REQUEST_BYTES..];
        let mut out = Vec::new();
        let drain_bytes = match request.validate(export, style) {
            Ok(()) => {
                let (max_bytes, has_range) = match request.command {
                    Command::Read | Command::Write => (MAX_DATA_PIECE_BYTES, true),
                    Command::Trim | Command::WriteZeroes => (MAX_DISCARD_PIECE_BYTES, true),
                    _ => (1, false),
                };
                let mut at = request.offset_bytes;
                if has_range {
                    for p in split(request.offset_bytes, request.len_bytes, max_bytes) {
                        assert!(p.offset_bytes == at && p.len_bytes > 0 && p.len_bytes <= max_bytes);
                        at += u64::from(p.len_bytes);
                    }
                    assert_eq!(at - request.offset_bytes, u64::from(request.len_bytes));
                    assert!(at <= EXPORT_BYTES);
                    assert!(!export.flags.read_only || request.command == Command::Read);
                }
                match request.command {
                    Command::Disconnect => return,
                    Command::Read => {
                        put_read_chunk_header(&mut out, request.cookie, at, request.len_bytes, true);
                    }
                    _ => put_ok(&mut out, style, request.cookie),
                }
                request.payload_bytes()
            }
            Err(refused) => {
                put_failed(&mut out, style, request.cookie, refused.errno, refused.message);
                refused.drain_bytes
            }
        };
        assert!(!out.is_empty() && out.len() <= MAX_REPLY_BYTES);
        bytes = bytes.get(drain_bytes as usize..).unwrap_or(&[]);
    }
}
