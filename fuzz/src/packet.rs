//! Each packet by itself: the first byte selects it, so that every decoder is reached at once. What is accepted
//! means the same after it was encoded again.

use replicator::wire::{
    Command, Features, Header, HeaderForm, MAX_FRAME_BYTES, Packet, Sock, frame_shape, put,
};

use super::input::Input;

/// One input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let (Some(which), Some(how), Some(extra)) = (input.byte(), input.byte(), input.two()) else { return };
    let row = &Command::CATALOGUE[usize::from(which) % Command::CATALOGUE.len()];
    let features = Features(u32::from(how >> 4));
    let sock = if how & 1 == 0 { Sock::Data } else { Sock::Meta };
    let form = [HeaderForm::H100, HeaderForm::H80, HeaderForm::H95][usize::from(how >> 1 & 3) % 3];
    // Lengths around the fixed part and around the longest one are the interesting ones.
    let len = if how & 8 == 0 {
        row.fixed_bytes + u32::from(extra)
    } else {
        MAX_FRAME_BYTES.saturating_sub(u32::from(extra))
    };
    let header = Header { form, vnr: extra, command: row.command, len };
    let Ok(shape) = frame_shape(&header, sock, features) else { return };
    assert!(row.socks.contains(sock));
    assert!(shape.body_bytes <= row.body_bytes_max() && shape.digest_bytes == 0);
    assert!(shape.payload_bytes.is_multiple_of(512));
    let mut body = input.up_to(shape.body_bytes as usize).to_vec();
    body.resize(shape.body_bytes as usize, extra as u8);
    let Ok(packet) = Packet::decode(&header, &body, features) else { return };
    assert_eq!(packet.command(), row.command);
    let mut framed = Vec::new();
    put(&mut framed, 1, &packet, shape.payload_bytes);
    let again =
        Header { form: HeaderForm::H100, len: framed.len() as u32 - 16 + shape.payload_bytes, ..header };
    assert_eq!(Packet::decode(&again, &framed[16..], features).as_ref(), Ok(&packet));
}
