use std::io::Write;
use std::net::TcpListener;
use std::path::Path;

use blockdev::ring::RingOptions;
use model::ids::BufId;
use replicator::{Action, Command, CommandId, Resource};

use super::*;
use crate::dataplane::nbd_sessions::tests::config;

/// A peer that has connected once more.
fn accept(ring: &mut Ring<Token>, core: &mut Core, peers: &mut PeerSockets) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let sock = peers.adopt(ring, OwnedFd::from(listener.accept().unwrap().0)).unwrap();
    core.event(Event::Accepted { sock });
    peer
}

/// Takes what the peer has sent.
fn receive(ring: &mut Ring<Token>, core: &mut Core, peers: &mut PeerSockets) {
    while ring.wait(Some(std::time::Duration::from_millis(50))).unwrap() > 0 {
        while let Some(completion) = ring.next_completion() {
            let outcome = completion.result;
            match completion.token {
                Token::PeerRecv(sock) => peers.recv_completed(ring, core, sock, (outcome, false)),
                Token::PeerPayload(sock) => peers.recv_completed(ring, core, sock, (outcome, true)),
                other => panic!("{other:?} is not used here"),
            }
        }
    }
}

#[test]
fn data_that_was_kept_until_its_form_was_known_is_received_by_one_receive_alone() {
    let mut ring = Ring::new(RingOptions::default(), BufferPool::new(8 << 20).unwrap()).unwrap();
    let mut core = Core::new(Resource::new(config(Path::new("/"), "r0").core, [1; 32]), Instant(1));
    let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
    let mut peers = PeerSockets::new(nobody, nobody, SocketBuffers::default());
    let connect = Command::Connect(Box::default());
    core.resource.command(core.now, CommandId(1), connect, &mut core.out);

    let header = |command: u16, len: usize| {
        [&[0x83, 0x74, 0x02, 0x67], &command.to_be_bytes()[..], &(len as u16).to_be_bytes()].concat()
    };
    let mut data = accept(&mut ring, &mut core, &mut peers);
    data.write_all(&header(P_INITIAL_DATA, 0)).unwrap();
    receive(&mut ring, &mut core, &mut peers);
    let block: Vec<u8> = (0..40960u32).map(|i| (i / 7) as u8).collect();
    let packet = [header(P_DATA, 24 + block.len()), vec![0; 24], block.clone()].concat();
    data.write_all(&packet[..4096]).unwrap();
    receive(&mut ring, &mut core, &mut peers);
    assert!(peers.sockets[0].incoming.is_held(), "no packet is expected before both sockets are there");

    let mut meta = accept(&mut ring, &mut core, &mut peers);
    meta.write_all(&header(P_INITIAL_META, 0)).unwrap();
    receive(&mut ring, &mut core, &mut peers);
    core.now += Duration::from_secs(60);
    core.event(Event::Deadline);
    // The next bytes come just before the form is known, for the receive that waits for them.
    data.write_all(&packet[4096..20000]).unwrap();
    assert_eq!(ring.wait(Some(std::time::Duration::from_secs(1))).unwrap(), 1);
    peers.resume(&mut ring, &mut core);
    data.write_all(&packet[20000..]).unwrap();
    receive(&mut ring, &mut core, &mut peers);
    let refused = "the peer's first packet is not P_CONNECTION_FEATURES, will retry";
    assert!(core.out.texts.iter().any(|text| text == refused), "the packet has come");
    let released = core.out.list.iter().find_map(|action| match action {
        Action::Release { buf } => Some(*buf),
        _ => None,
    });
    assert!(ring.pool().bytes(released.unwrap())[..block.len()] == block);
}

#[test]
fn what_overflows_keeps_its_order_and_its_references() {
    let mut pool = BufferPool::new(8 << 20).unwrap();
    let mut queue = SendQueue::new();
    let mut overflow = Overflow::default();
    let buf = pool.alloc(1 << 20).unwrap();
    let data = BufSpan::head(buf, 1 << 20);
    for i in 0..6u8 {
        overflow.push(&mut pool, &[i; 100], (i % 2 == 0).then_some(data));
    }
    assert_eq!(pool.references(buf), 4, "ours, and one for each payload");
    overflow.refill(&mut queue, &mut pool);
    // With the second payload the queue is above its limit.
    assert_eq!(overflow.items.len(), 3, "a full queue takes nothing more");
    let mut spans = [BufSpan::head(BufId(0), 0); 8];
    let count = queue.prepare(&mut spans);
    let kinds: Vec<bool> = spans[..count].iter().map(|s| s.buf == buf).collect();
    assert_eq!(kinds, [false, true], "a send ends behind a megabyte");
    assert_eq!(pool.span_bytes(spans[0]), [0; 100]);
    while !queue.is_empty() {
        let count = queue.prepare(&mut spans);
        let bytes: u32 = spans[..count].iter().map(|s| s.len_bytes).sum();
        queue.advance(bytes as usize, &mut pool);
        overflow.refill(&mut queue, &mut pool);
    }
    assert!(overflow.items.is_empty() && overflow.bytes.is_empty());
    assert_eq!(pool.references(buf), 1);
    overflow.push(&mut pool, &[9; 9], Some(data));
    overflow.clear(&mut pool);
    assert_eq!(pool.references(buf), 1);
}

const P_INITIAL_META: u16 = 0xfff1;
const P_INITIAL_DATA: u16 = 0xfff2;
const P_DATA: u16 = 0;
