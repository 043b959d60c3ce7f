//! The receiver of the peer's bitmap, plain and compressed pieces in any order.

use replicator::bitmap::{Bitmap, BitmapReceiver};
use replicator::wire::{Command, Features, Header, HeaderForm, Packet};

/// One input.
pub fn run(data: &[u8]) {
    let [low, high, bytes @ ..] = data else { return };
    let mut bytes = bytes;
    let bits = 1 + u64::from(u16::from_le_bytes([*low, *high]));
    let mut bitmap = Bitmap::new(bits);
    let mut receiver = BitmapReceiver::new(&bitmap);
    while let [kind, low, high, rest @ ..] = bytes {
        let len = usize::from(u16::from_le_bytes([*low, *high]) & 0xfff).min(rest.len());
        let (body, rest) = rest.split_at(len);
        bytes = rest;
        let command = if kind & 1 == 0 { Command::Bitmap } else { Command::CompressedBitmap };
        let header = Header { form: HeaderForm::H100, vnr: 0, command, len: len as u32 };
        let result = match Packet::decode(&header, body, Features::ALL) {
            Ok(Packet::Bitmap(piece)) => receiver.plain(&mut bitmap, &piece),
            Ok(Packet::CompressedBitmap(piece)) => receiver.compressed(&mut bitmap, &piece),
            _ => continue,
        };
        bitmap.check_invariants();
        if result.is_err() || receiver.is_complete() {
            return;
        }
    }
}
