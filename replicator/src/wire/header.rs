//! The three header forms (drbd-wire 2.1).

use super::fields::{be16, be32, put16, put32};
use super::{Command, WireError};
use alloc::vec::Vec;
use model::units::MAX_BIO_BYTES;

/// Length of headers 80 and 95, in bytes.
pub const HEADER80_BYTES: usize = 8;
/// Length of header 100, in bytes.
pub const HEADER100_BYTES: usize = 16;
/// Longest thing that may follow a header: fixed part of a data packet, longest digest, block data. In bytes.
pub const MAX_FRAME_BYTES: u32 = 24 + 64 + MAX_BIO_BYTES;

const MAGIC80: [u8; 4] = [0x83, 0x74, 0x02, 0x67];
const MAGIC95: [u8; 2] = [0x83, 0x5a];
const MAGIC100: [u8; 4] = [0x86, 0x20, 0xec, 0x20];
/// Below version 100, longer frames need header 95.
const HEADER80_LEN_MAX: u32 = 32768;

/// Form of a header, and what both sides agreed to use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeaderForm {
    /// Before the version is agreed, and for good below version 95.
    H80,
    /// Versions 95..=99: header 95 for long frames, header 80 for the others.
    H95,
    /// Versions 100 and later: every packet on both sockets after P_CONNECTION_FEATURES.
    H100,
}

impl HeaderForm {
    /// What a connection of the agreed `version` uses.
    pub const fn of_version(version: u32) -> HeaderForm {
        match version {
            100.. => HeaderForm::H100,
            95.. => HeaderForm::H95,
            _ => HeaderForm::H80,
        }
    }
}

/// A decoded header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header {
    /// Form on the wire. In a parsed header the form found, so H80 or H95 where [`HeaderForm::H95`] was agreed.
    pub form: HeaderForm,
    /// Volume; 0 in forms without the field and in connection-scoped packets.
    pub vnr: u16,
    /// Which packet.
    pub command: Command,
    /// Everything behind the header, in bytes: body, digest and block data.
    pub len: u32,
}

impl Header {
    /// Appends the header. In form H95 a short frame gets a header 80.
    ///
    /// # Panics
    /// If the frame is longer than the form can carry: an own mistake, lengths are checked when bodies are made.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.len <= MAX_FRAME_BYTES, "frame too long");
        match self.form {
            HeaderForm::H95 if self.len > HEADER80_LEN_MAX => {
                out.extend_from_slice(&MAGIC95);
                put16(out, self.command.number());
                put32(out, self.len);
            }
            HeaderForm::H80 | HeaderForm::H95 => {
                out.extend_from_slice(&MAGIC80);
                put16(out, self.command.number());
                put16(out, u16::try_from(self.len).expect("frame too long for a header 80"));
            }
            HeaderForm::H100 => {
                out.extend_from_slice(&MAGIC100);
                put16(out, self.vnr);
                put16(out, self.command.number());
                put32(out, self.len);
                put32(out, 0);
            }
        }
    }
}

/// Reads the header at the start of `bytes`, which must be of the agreed form `expect`. Returns it with its own
/// length in bytes, or None if more bytes are needed.
///
/// # Errors
/// Wrong magic (reported as soon as it can be seen), non-zero pad, unknown command, a command that cannot occur
/// in this form, or a length beyond [`MAX_FRAME_BYTES`].
pub fn parse_header(expect: HeaderForm, bytes: &[u8]) -> Result<Option<(Header, usize)>, WireError> {
    let starts = |magic: &[u8]| {
        let n = bytes.len().min(magic.len());
        bytes[..n] == magic[..n]
    };
    let form = match expect {
        HeaderForm::H100 if starts(&MAGIC100) => HeaderForm::H100,
        HeaderForm::H80 | HeaderForm::H95 if starts(&MAGIC80) => HeaderForm::H80,
        HeaderForm::H95 if starts(&MAGIC95) => HeaderForm::H95,
        _ => {
            let mut first = [0; 4];
            let n = bytes.len().min(4);
            first[..n].copy_from_slice(&bytes[..n]);
            return Err(WireError::BadMagic { expected: expect, found: u32::from_be_bytes(first) });
        }
    };
    let header_bytes = if form == HeaderForm::H100 { HEADER100_BYTES } else { HEADER80_BYTES };
    let Some(h) = bytes.get(..header_bytes) else { return Ok(None) };
    let (vnr, number, len) = match form {
        HeaderForm::H80 => (0, be16(h, 4), u32::from(be16(h, 6))),
        HeaderForm::H95 => (0, be16(h, 2), be32(h, 4)),
        HeaderForm::H100 => {
            let pad = be32(h, 12);
            if pad != 0 {
                return Err(WireError::HeaderPad(pad));
            }
            (be16(h, 4), be16(h, 6), be32(h, 8))
        }
    };
    let command = Command::try_from(number)?;
    if form != HeaderForm::H80 && command.is_initial() {
        return Err(WireError::UnknownCommand(number));
    }
    if len > MAX_FRAME_BYTES {
        return Err(WireError::Length { command, len });
    }
    Ok(Some((Header { form, vnr, command, len }, header_bytes)))
}
