//! From the bytes of a peer socket to frames. Headers and bodies are parsed in the staging buffer; block data
//! goes to a pool buffer, its greater part straight from the kernel.

use blockdev::pool::{BufSpan, BufferPool};
use blockdev::ring::{RecvUntil, Ring};
use model::ids::BufId;
use replicator::wire::{FrameShape, Header, WireError, frame_shape_with_digest, parse_header};
use replicator::{Digest, DigestAlg, Event};

use super::core_side::Core;
use super::peer_sockets::PeerSocket;
use super::token::Token;

/// What has been received of the present frame beyond the staging buffer.
#[derive(Default)]
pub(super) struct Incoming {
    /// A frame with block data on its way into its buffer.
    bulk: Option<Bulk>,
    /// The form of the next header is not known yet.
    form_unknown: bool,
    /// No buffer for the payload of the next frame.
    starved: bool,
    /// The stream is no sequence of packets: nothing more is read.
    broken: bool,
}

/// A frame whose payload is being received.
struct Bulk {
    header: Header,
    body: [u8; BULK_BODY_BYTES_MAX],
    body_bytes: usize,
    /// What the payload has to agree with.
    digest: Option<(DigestAlg, Digest)>,
    buf: BufId,
    len_bytes: u32,
    got_bytes: u32,
}

enum Parsed {
    /// A frame was delivered.
    Frame,
    /// The next frame is not complete in the staging buffer.
    Incomplete,
    /// Something else has to happen before.
    Held,
}

impl Incoming {
    /// Something other than bytes is missing.
    pub(super) fn is_held(&self) -> bool {
        self.form_unknown || self.starved
    }

    /// Gives up a payload buffer, when the socket is closed.
    pub(super) fn drop_payload(&mut self, pool: &mut BufferPool) {
        if let Some(bulk) = self.bulk.take() {
            pool.release(bulk.buf);
        }
    }
}

impl PeerSocket {
    /// Bytes came: delivers every frame that is complete and starts the next receive. `payload_bytes` went to
    /// the payload buffer, the rest to the staging buffer.
    pub(super) fn received(&mut self, ring: &mut Ring<Token>, core: &mut Core, payload_bytes: u32) {
        if payload_bytes > 0 && !self.payload_received(ring, core, payload_bytes) {
            return;
        }
        self.resume(ring, core);
    }

    /// Delivers what can be delivered; true when that was anything.
    pub(super) fn resume(&mut self, ring: &mut Ring<Token>, core: &mut Core) -> bool {
        let mut any = false;
        self.incoming.form_unknown = false;
        self.incoming.starved = false;
        loop {
            match self.parse(ring, core) {
                Parsed::Frame => any = true,
                Parsed::Incomplete => {
                    self.arm(ring);
                    return any;
                }
                Parsed::Held => {
                    if !self.incoming.starved && !self.incoming.broken && self.incoming.bulk.is_none() {
                        self.arm(ring);
                    }
                    return any;
                }
            }
        }
    }

    fn parse(&mut self, ring: &mut Ring<Token>, core: &mut Core) -> Parsed {
        if self.incoming.broken || self.incoming.bulk.is_some() {
            return Parsed::Held;
        }
        let bytes = self.recv.bytes();
        if bytes.is_empty() {
            return Parsed::Incomplete;
        }
        // The answer may change with each frame: the first packets settle it.
        let Some(framing) = core.resource.framing(self.id) else {
            self.incoming.form_unknown = true;
            return Parsed::Held;
        };
        let parsed = parse_header(framing.form, bytes).and_then(|found| {
            let Some((header, header_bytes)) = found else { return Ok(None) };
            // A new connection only says which socket it is; whatever else it sends is for the core to refuse.
            let digest_bytes = framing.integrity.map_or(0, DigestAlg::len_bytes);
            let shape = match framing.sock {
                Some(sock) => frame_shape_with_digest(&header, sock, framing.features, digest_bytes)?,
                None => FrameShape::default(),
            };
            Ok(Some((header, header_bytes, shape)))
        });
        match parsed {
            Ok(None) => Parsed::Incomplete,
            Ok(Some((header, header_bytes, shape))) => {
                self.frame(ring, core, (header, header_bytes), shape, framing.integrity)
            }
            Err(error) => {
                self.refuse(core, error);
                Parsed::Held
            }
        }
    }

    /// The stream cannot be used any further.
    fn refuse(&mut self, core: &mut Core, error: WireError) {
        tracing::warn!("bytes of the peer are refused: {error}");
        self.incoming.broken = true;
        core.event(Event::BadFrame { sock: self.id, error });
    }

    fn frame(
        &mut self,
        ring: &mut Ring<Token>,
        core: &mut Core,
        (header, header_bytes): (Header, usize),
        shape: FrameShape,
        integrity: Option<DigestAlg>,
    ) -> Parsed {
        let bytes = self.recv.bytes();
        let body_only_end = header_bytes + shape.body_bytes as usize;
        let body_end = body_only_end + shape.digest_bytes as usize;
        let payload_bytes = shape.payload_bytes as usize;
        if bytes.len() < body_end {
            return Parsed::Incomplete;
        }
        let body = &bytes[header_bytes..body_only_end];
        let digest = integrity.zip(Digest::new(&bytes[body_only_end..body_end]));
        if payload_bytes == 0 {
            core.event(Event::Frame { sock: self.id, header, body, payload: None });
            self.recv.consume(body_end);
            return Parsed::Frame;
        }
        let staged = (bytes.len() - body_end).min(payload_bytes);
        let missing = payload_bytes - staged;
        if missing > 0 && missing <= STAGED_REST_BYTES_MAX.min(self.recv.room_bytes()) {
            // One more receive brings it, and probably the frames behind it.
            return Parsed::Incomplete;
        }
        if missing > 0 && self.recv.is_receiving() {
            // Started while the form of the header was unknown. The next bytes are its own: of two receives nobody knows
            // which gets what.
            return Parsed::Incomplete;
        }
        let Some(buf) = ring.pool_mut().alloc(payload_bytes) else {
            self.incoming.starved = true;
            return Parsed::Held;
        };
        ring.pool_mut().bytes_mut(buf)[..staged].copy_from_slice(&bytes[body_end..body_end + staged]);
        if missing == 0 {
            if !is_intact(ring.pool_mut(), buf, shape.payload_bytes, digest) {
                ring.pool_mut().release(buf);
                self.refuse(core, WireError::Digest { command: header.command });
                return Parsed::Held;
            }
            core.event(Event::Frame { sock: self.id, header, body, payload: Some(buf) });
            self.recv.consume(body_end + staged);
            return Parsed::Frame;
        }
        let mut bulk = Bulk {
            header,
            body: [0; BULK_BODY_BYTES_MAX],
            body_bytes: body.len(),
            digest,
            buf,
            len_bytes: shape.payload_bytes,
            got_bytes: staged as u32,
        };
        bulk.body[..body.len()].copy_from_slice(body);
        self.recv.consume(body_end + staged);
        self.incoming.bulk = Some(bulk);
        self.receive_payload(ring);
        Parsed::Held
    }

    fn receive_payload(&mut self, ring: &mut Ring<Token>) {
        let bulk = self.incoming.bulk.as_ref().expect("the caller has a payload to receive");
        let rest = BufSpan::head(bulk.buf, bulk.len_bytes).skip(bulk.got_bytes);
        ring.recv_span(Token::PeerPayload(self.id), self.file, rest, RecvUntil::Full);
    }

    /// Bytes came into the payload buffer. True when the frame was completed and delivered.
    fn payload_received(&mut self, ring: &mut Ring<Token>, core: &mut Core, count: u32) -> bool {
        let bulk = self.incoming.bulk.as_mut().expect("payload is received for a frame only");
        bulk.got_bytes += count;
        if bulk.got_bytes < bulk.len_bytes {
            self.receive_payload(ring);
            return false;
        }
        let bulk = self.incoming.bulk.take().expect("it was just there");
        if !is_intact(ring.pool_mut(), bulk.buf, bulk.len_bytes, bulk.digest) {
            ring.pool_mut().release(bulk.buf);
            self.refuse(core, WireError::Digest { command: bulk.header.command });
            return false;
        }
        let body = &bulk.body[..bulk.body_bytes];
        core.event(Event::Frame { sock: self.id, header: bulk.header, body, payload: Some(bulk.buf) });
        true
    }
}

/// The payload is what the sender computed the digest of.
fn is_intact(pool: &BufferPool, buf: BufId, len_bytes: u32, digest: Option<(DigestAlg, Digest)>) -> bool {
    digest.is_none_or(|(alg, digest)| alg.of(&pool.bytes(buf)[..len_bytes as usize]) == digest)
}

/// Longest body in front of block data: P_WSAME.
const BULK_BODY_BYTES_MAX: usize = 28;
/// A payload that lacks no more than this, and fits, is completed in the staging buffer.
const STAGED_REST_BYTES_MAX: usize = 16 << 10;
