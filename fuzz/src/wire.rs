//! The peer's byte stream: headers, shapes and bodies of all packets, in all forms and on both sockets.

use replicator::wire::{Features, HeaderForm, Packet, Sock, frame_shape, parse_header};

/// One input.
pub fn run(data: &[u8]) {
    let [how, bytes @ ..] = data else { return };
    let mut bytes = bytes;
    let form = [HeaderForm::H80, HeaderForm::H95, HeaderForm::H100][usize::from(how & 3) % 3];
    let sock = if how & 4 == 0 { Sock::Data } else { Sock::Meta };
    let features = Features(u32::from(how >> 4));
    while let Ok(Some((header, header_bytes))) = parse_header(form, bytes) {
        let Ok(shape) = frame_shape(&header, sock, features) else { return };
        let body_bytes = (shape.body_bytes + shape.digest_bytes) as usize;
        let Some((body, rest)) = bytes[header_bytes..].split_at_checked(body_bytes) else { return };
        if let Ok(packet) = Packet::decode(&header, body, features) {
            assert_eq!(packet.command(), header.command);
            packet.encode(&mut Vec::new());
        }
        bytes = rest.get(shape.payload_bytes as usize..).unwrap_or(&[]);
    }
}
