//! Transcripts of typical clients byte for byte, every cut of the input, and hostile clients.

mod handshake;
mod transmission;

use super::export::{ExportFlags, ExportInfo, Exports, Refused, RefusedError};

/// A table of exports; the one called `secondary` is refused, the empty name means the first.
pub(super) struct Table(Vec<ExportInfo>);

impl Table {
    fn one() -> Table {
        let mut info = ExportInfo::new(7, "r0", 1 << 30);
        info.flags = all_flags();
        info.description = "volume 0".to_owned();
        Table(vec![info])
    }
}

impl Exports for Table {
    fn lookup(&self, name: &[u8]) -> Result<ExportInfo, Refused> {
        let refused = |error, message: &str| Err(Refused { error, message: message.to_owned() });
        match name {
            b"secondary" => refused(RefusedError::Policy, SECONDARY),
            b"stopping" => refused(RefusedError::Shutdown, "bye"),
            b"" => Ok(self.0[0].clone()),
            name => match self.0.iter().find(|info| info.name.as_bytes() == name) {
                Some(info) => Ok(info.clone()),
                None => refused(RefusedError::Unknown, "no such export"),
            },
        }
    }

    fn for_each(&self, each: &mut dyn FnMut(&str)) {
        self.0.iter().for_each(|info| each(&info.name));
    }
}

fn all_flags() -> ExportFlags {
    ExportFlags {
        read_only: false,
        flush: true,
        fua: true,
        rotational: true,
        trim: true,
        write_zeroes: true,
        multi_conn: true,
    }
}

/// Bytes of a hexadecimal text; blanks and text between quotes (taken literally) are allowed.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in text.split('"').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u32> = part.chars().filter_map(|c| c.to_digit(16)).collect();
        assert_eq!(digits.len() % 2, 0, "odd number of digits in {part}");
        bytes.extend(digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8));
    }
    bytes
}

/// Deterministic numbers for the random clients.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

const SECONDARY: &str = "resource r0 is Secondary here; run 'lockstep primary r0'";
