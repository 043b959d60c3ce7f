//! A client's connection: the negotiation in pieces of any length, then request headers.

#![no_main]

use blockdev::nbd::export::{ExportFlags, ExportInfo, Exports, Refused, RefusedError};
use blockdev::nbd::handshake::{Handshake, MAX_ANSWER_BYTES, ServerInfo, State};
use blockdev::nbd::request::{MAX_DATA_PIECE_BYTES, REQUEST_BYTES, parse, split};
use libfuzzer_sys::fuzz_target;

struct One;

impl Exports for One {
    fn lookup(&self, name: &[u8]) -> Result<ExportInfo, Refused> {
        if name.len() > 3 {
            return Err(Refused { error: RefusedError::Unknown, message: "no such export".into() });
        }
        let mut info = ExportInfo::new(0, "r0/0", 1 << 30);
        info.flags = ExportFlags { flush: true, fua: true, trim: true, write_zeroes: true, ..info.flags };
        Ok(info)
    }

    fn for_each(&self, each: &mut dyn FnMut(&str)) {
        each("r0/0");
    }
}

fuzz_target!(|data: &[u8]| {
    let [piece, bytes @ ..] = data else { return };
    let mut bytes = bytes;
    let mut handshake = Handshake::new(&ServerInfo::default());
    handshake.greeting(&mut Vec::new());
    let negotiated = loop {
        let (now, _) = bytes.split_at(bytes.len().min(1 + usize::from(*piece)));
        if now.is_empty() {
            return;
        }
        let mut out = Vec::new();
        let step = handshake.feed(now, &mut out, &One);
        assert!(out.len() <= MAX_ANSWER_BYTES);
        assert!(step.consumed > 0);
        bytes = &bytes[step.consumed..];
        match step.state {
            State::Continue => {}
            State::Transmission(negotiated) => break negotiated,
            State::Close(_) => return,
        }
    };
    while let Ok(Some(request)) = parse(bytes) {
        bytes = &bytes[REQUEST_BYTES..];
        match request.validate(&negotiated.export, negotiated.style) {
            Ok(()) => assert!(
                split(request.offset_bytes, request.len_bytes, MAX_DATA_PIECE_BYTES)
                    .all(|p| p.len_bytes > 0 && p.offset_bytes + u64::from(p.len_bytes) <= 1 << 30)
                    || request.payload_bytes() == 0
            ),
            Err(error) => bytes = bytes.get(error.drain_bytes as usize..).unwrap_or(&[]),
        }
    }
});
