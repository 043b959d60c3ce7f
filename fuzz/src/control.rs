//! Messages on the control socket, in both directions.

use lockstep::daemon::control::{
    Envelope, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply, receive_blocking, send_blocking,
};

/// One input.
pub fn run(data: &[u8]) {
    let framed = [&(data.len() as u32).to_be_bytes(), data].concat();
    let _ = receive_blocking::<Envelope>(&mut &data[..], REQUEST_BYTES_MAX);
    let _ = receive_blocking::<Reply>(&mut framed.as_slice(), REPLY_BYTES_MAX);
    if let Ok(request) = receive_blocking::<Envelope>(&mut framed.as_slice(), REQUEST_BYTES_MAX) {
        let mut again = Vec::new();
        send_blocking(&mut again, &request, REPLY_BYTES_MAX).expect("what was read can be sent");
        let back: Envelope =
            receive_blocking(&mut again.as_slice(), REPLY_BYTES_MAX).expect("and read again");
        assert_eq!(back, request);
    }
}
