use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;

use super::setup::SETUPS;
use super::*;
use crate::backing;
use crate::socket::{self, RECV_BUFFER_BYTES, SocketBuffers};

const POOL_BYTES: usize = 8 << 20;
const LONG: Option<Duration> = Some(Duration::from_secs(30));

fn ring_with(options: RingOptions) -> Ring<u32> {
    Ring::new(options, BufferPool::new(POOL_BYTES).unwrap()).unwrap()
}

fn ring() -> Ring<u32> {
    ring_with(RingOptions::default())
}

/// One ring of each set-up; the kernel the tests run on has to know all three (6.1).
fn rings() -> impl Iterator<Item = Ring<u32>> {
    SETUPS.into_iter().map(|setup| {
        let options = RingOptions::default();
        let uring = setup.build(options.entries).unwrap().expect("set-up is supported");
        Ring::over(uring, options, BufferPool::new(POOL_BYTES).unwrap()).unwrap()
    })
}

fn next(ring: &mut Ring<u32>) -> Completion<u32> {
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        let start = Instant::now();
        ring.wait(LONG).unwrap();
        assert!(start.elapsed() < LONG.unwrap(), "nothing completes");
    }
}

/// The single operation in flight, which has to succeed.
fn finish(ring: &mut Ring<u32>, token: u32) -> u32 {
    let completion = next(ring);
    assert_eq!((completion.token, completion.more), (token, false));
    completion.outcome().unwrap()
}

fn filled(ring: &mut Ring<u32>, len: u32, byte: u8) -> BufSpan {
    let buf = ring.pool_mut().alloc(len as usize).unwrap();
    let span = BufSpan::head(buf, len);
    ring.pool_mut().span_bytes_mut(span).fill(byte);
    span
}

fn temp_disk(bytes: u64) -> (tempfile::TempDir, backing::Backing) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    let disk = backing::OpenOptions::default().open(&path).unwrap();
    (dir, disk)
}

fn disk_round_trip(mut ring: Ring<u32>, register_file: bool) {
    let (_dir, disk) = temp_disk(4 << 20);
    let file = if register_file { ring.register_file(disk.as_fd()) } else { FileRef::of(&disk) };
    assert_eq!(matches!(file, FileRef::Registered(_)), register_file);
    let large = filled(&mut ring, 1 << 20, 0xA5);
    let small = filled(&mut ring, 512, 0x5A);
    let back = filled(&mut ring, 1 << 20, 0);

    ring.write_at(1, file, large, 1 << 20, false);
    assert_eq!(finish(&mut ring, 1), 1 << 20);
    ring.write_at(2, file, small, (1 << 20) + 512 * 5, true);
    assert_eq!(finish(&mut ring, 2), 512);
    ring.fsync_data(3, file);
    assert_eq!(finish(&mut ring, 3), 0);
    ring.read_at(4, file, back, 1 << 20);
    assert_eq!(finish(&mut ring, 4), 1 << 20);
    let sectors = |ring: &Ring<u32>| -> Vec<u8> {
        ring.pool()
            .span_bytes(back)
            .chunks(512)
            .map(|s| if s.iter().all(|&b| b == s[0]) { s[0] } else { 1 })
            .collect()
    };
    let mut expected = vec![0xA5; 2048];
    expected[5] = 0x5A;
    assert_eq!(sectors(&ring), expected);

    ring.fallocate(5, file, FallocateMode::PunchHole, 1 << 20, 64 << 10);
    assert_eq!(finish(&mut ring, 5), 0);
    ring.fallocate(6, file, FallocateMode::ZeroRange, (1 << 20) + (128 << 10), 64 << 10);
    assert_eq!(finish(&mut ring, 6), 0);
    // Part of a buffer, from the second page on.
    let second_page = BufSpan { buf: back.buf, offset_bytes: 4096, len_bytes: (1 << 20) - 4096 };
    ring.read_at(7, file, second_page, (1 << 20) + 4096);
    assert_eq!(finish(&mut ring, 7), (1 << 20) - 4096);
    expected[8..128].fill(0);
    expected[256..384].fill(0);
    assert_eq!(sectors(&ring), expected);

    // At the end of the disk a read is short, and an error is an error number.
    ring.read_at(8, file, back, (4 << 20) - 8192);
    assert_eq!(finish(&mut ring, 8), 8192);
    ring.unregister_file(file).unwrap();
    ring.read_at(9, FileRef::Plain(-1), back, 0);
    assert_eq!(next(&mut ring).outcome(), Err(Errno::EBADF));

    for span in [large, small, back] {
        assert_eq!(ring.pool().references(span.buf), 1, "completed operations hold nothing");
        ring.pool_mut().release(span.buf);
    }
    assert_eq!((ring.in_flight(), ring.pool().used_bytes()), (0, 0));
}

#[test]
fn disk_operations_do_what_they_say() {
    rings().for_each(|ring| disk_round_trip(ring, false));
}

#[test]
fn disk_operations_work_on_registered_files_and_buffers() {
    let ring = ring_with(RingOptions { register_buffers: true, ..RingOptions::default() });
    // Whether the system lets us register buffers depends on RLIMIT_MEMLOCK; if not, this tests the fallback.
    disk_round_trip(ring, true);
}

#[test]
fn more_operations_than_both_queues_hold_all_complete() {
    let mut ring = ring_with(RingOptions { entries: 4, ops: 1, ..RingOptions::default() });
    let (_dir, disk) = temp_disk(4 << 20);
    let file = FileRef::of(&disk);
    let spans: Vec<_> = (0..500u32).map(|n| filled(&mut ring, 4096, n as u8)).collect();
    for (n, span) in spans.iter().enumerate() {
        ring.write_at(n as u32, file, *span, n as u64 * 4096, false);
    }
    let mut seen = [false; 500];
    for _ in 0..500 {
        let completion = next(&mut ring);
        assert_eq!(completion.outcome(), Ok(4096));
        assert!(!std::mem::replace(&mut seen[completion.token as usize], true));
    }
    assert_eq!(ring.in_flight(), 0);
    let back = filled(&mut ring, 4096, 0);
    for n in [0u32, 3, 250, 499] {
        ring.read_at(n, file, back, u64::from(n) * 4096);
        finish(&mut ring, n);
        assert!(ring.pool().span_bytes(back).iter().all(|&b| b == n as u8));
    }
}

/// A slow reader and a small socket buffer split sends at arbitrary points.
#[test]
fn a_queue_longer_than_the_socket_takes_arrives_complete_and_in_order() {
    rings().for_each(check_send);
}

fn check_send(mut ring: Ring<u32>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    socket::set_buffers(&ours, SocketBuffers { send_bytes: 8192, recv_bytes: 0 }).unwrap();
    let mut queue = SendQueue::new();
    let mut expected = Vec::new();
    for n in 0..300u32 {
        let header = [n as u8; 24];
        queue.push_bytes(ring.pool_mut(), &header).unwrap();
        expected.extend_from_slice(&header);
        let span = filled(&mut ring, 12_288, !(n as u8));
        let part = BufSpan { buf: span.buf, offset_bytes: 512, len_bytes: 512 * (1 + n % 16) };
        queue.push_payload(ring.pool_mut(), part);
        expected.extend_from_slice(ring.pool().span_bytes(part));
        ring.pool_mut().release(span.buf);
    }
    assert_eq!(queue.queued_bytes(), expected.len());
    let reader = std::thread::spawn(move || {
        let (mut all, mut chunk, mut size) = (Vec::new(), vec![0; 9000], 1);
        loop {
            match theirs.read(&mut chunk[..size]).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&chunk[..n]),
            }
            size = (size * 7) % 8999 + 1;
        }
    });
    let mut partial = 0;
    while ring.send(7, FileRef::of(&ours), &mut queue).is_some() {
        assert!(ring.send(8, FileRef::of(&ours), &mut queue).is_none(), "one send at a time");
        let sent = finish(&mut ring, 7) as usize;
        partial += usize::from(sent < queue.queued_bytes().min(socket::SEND_BYTES_MAX));
        queue.advance(sent, ring.pool_mut());
    }
    assert!(partial > 0, "nothing was ever split");
    assert!(queue.is_empty() && queue.queued_bytes() == 0);
    ring.close(ours.into());
    ring.submit().unwrap();
    assert!(reader.join().unwrap() == expected, "the stream differs");
    queue.clear(ring.pool_mut());
    assert_eq!(ring.pool().used_bytes(), 0);
}

#[test]
fn a_sent_buffer_stays_while_its_connection_is_given_up() {
    let mut ring = ring();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut queue = SendQueue::new();
    for _ in 0..3 {
        let span = filled(&mut ring, 1 << 20, 1);
        queue.push_payload(ring.pool_mut(), span);
        ring.pool_mut().release(span.buf);
    }
    // The peer reads nothing: the first send stops half way, the second does not even start.
    ring.send(1, FileRef::of(&ours), &mut queue).unwrap();
    let sent = finish(&mut ring, 1) as usize;
    assert!(sent < 3 << 20);
    queue.advance(sent, ring.pool_mut());
    ring.send(2, FileRef::of(&ours), &mut queue).unwrap();
    ring.submit().unwrap();
    queue.clear(ring.pool_mut());
    assert!(queue.is_empty());
    assert_ne!(ring.pool().used_bytes(), 0, "the kernel still has some");
    drop(theirs);
    assert_eq!(next(&mut ring).outcome(), Err(Errno::EPIPE), "and no SIGPIPE");
    assert_eq!(ring.pool().used_bytes(), 0);
}

#[test]
fn frames_are_parsed_from_the_buffer_and_their_payload_received_in_place() {
    let mut ring = ring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let file = FileRef::of(&ours);
    let mut input = RecvBuffer::new(RECV_BUFFER_BYTES).unwrap();
    theirs.write_all(b"head").unwrap();
    theirs.write_all(&[1; 100]).unwrap();
    ring.recv(1, file, &mut input);
    assert!(input.is_receiving());
    let count = finish(&mut ring, 1);
    input.filled(count as usize);
    assert_eq!(&input.bytes()[..4], b"head");
    input.consume(4);

    let whole = filled(&mut ring, 200_000, 0);
    let had = input.bytes().len();
    ring.pool_mut().bytes_mut(whole.buf)[..had].copy_from_slice(input.bytes());
    input.consume(had);
    let rest = whole.skip(had as u32);
    let writer = std::thread::spawn(move || {
        let payload = vec![1; 200_000 - 100];
        payload.chunks(7000).for_each(|chunk| theirs.write_all(chunk).unwrap());
        theirs.write_all(b"tail").unwrap();
        theirs
    });
    ring.recv_span(2, file, rest, RecvUntil::Full);
    assert_eq!(finish(&mut ring, 2), rest.len_bytes);
    assert!(ring.pool().span_bytes(whole).iter().all(|&b| b == 1));

    ring.recv(3, file, &mut input);
    let count = finish(&mut ring, 3);
    input.filled(count as usize);
    assert_eq!(input.bytes(), b"tail");
    // What is unparsed can be read while more is coming in behind it.
    ring.recv(4, file, &mut input);
    ring.submit().unwrap();
    assert_eq!(input.bytes(), b"tail");
    let mut theirs = writer.join().unwrap();
    theirs.write_all(b"end").unwrap();
    let count = finish(&mut ring, 4);
    input.filled(count as usize);
    assert_eq!(input.bytes(), b"tailend");

    ring.recv_span(5, file, whole, RecvUntil::Full);
    ring.submit().unwrap();
    theirs.write_all(b"cut").unwrap();
    drop(theirs);
    assert_eq!(finish(&mut ring, 5), 3, "the end of the stream ends a full receive");
    input.consume(7);
    ring.recv(6, file, &mut input);
    assert_eq!(finish(&mut ring, 6), 0);
    assert!(socket::is_closed(ours.as_fd()));
}

#[test]
fn messages_from_other_threads_wake_the_ring_and_none_is_lost() {
    rings().for_each(check_wake);
}

fn check_wake(mut ring: Ring<u32>) {
    const EACH: u32 = 2000;
    let waker = Waker::new().unwrap();
    let mailbox = Mailbox::new(16, waker.clone());
    let senders: Vec<_> = (0..2u32)
        .map(|sender| {
            let mailbox = mailbox.clone();
            std::thread::spawn(move || {
                for n in 0..EACH {
                    let mut message = sender * EACH + n;
                    while let Err(back) = mailbox.post(message) {
                        message = back;
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut last = [None; 2];
    let mut count = 0;
    ring.watch(1, &waker);
    while count < 2 * EACH {
        // Spinning now and then: both ways of waiting have to see the wake-up.
        let spin = if count % 3 == 0 { Duration::from_micros(20) } else { Duration::ZERO };
        ring.wait_spinning(spin, LONG).unwrap();
        while let Some(completion) = ring.next_completion() {
            assert_eq!(completion.outcome(), Ok(8));
            ring.watch(1, &waker);
            while let Some(message) = mailbox.take() {
                let (sender, n) = (message / EACH, message % EACH);
                assert!(last[sender as usize].is_none_or(|last| last < n), "order within a sender");
                last[sender as usize] = Some(n);
                count += 1;
            }
        }
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

#[test]
fn a_full_mailbox_gives_the_message_back() {
    let mailbox = Mailbox::new(1, Waker::new().unwrap());
    assert_eq!(mailbox.post(1), Ok(()));
    assert_eq!(mailbox.post(2), Err(2));
    assert_eq!(mailbox.take(), Some(1));
    assert_eq!(mailbox.post(3), Ok(()));
}

#[test]
fn waiting_ends_with_the_timeout_and_not_before() {
    rings().for_each(check_timeout);
}

fn check_timeout(mut ring: Ring<u32>) {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    ring.poll_readable(1, FileRef::of(&ours));
    let timeout = Duration::from_millis(20);
    for spin in [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(50)] {
        let start = Instant::now();
        assert_eq!(ring.wait_spinning(spin, Some(timeout)).unwrap(), 0);
        assert!(start.elapsed() >= timeout);
    }
    let start = Instant::now();
    assert_eq!(ring.wait(Some(timeout)).unwrap(), 0);
    assert!(start.elapsed() >= timeout);
    assert_eq!(ring.wait(Some(Duration::ZERO)).unwrap(), 0);
}

#[test]
fn cancelled_operations_complete_and_give_their_memory_up() {
    rings().for_each(check_cancel);
}

fn check_cancel(mut ring: Ring<u32>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (file, other) = (FileRef::of(&ours), FileRef::of(&theirs));
    let span = filled(&mut ring, 4096, 0);
    let key = ring.recv_span(1, file, span, RecvUntil::Full);
    ring.pool_mut().release(span.buf);
    ring.submit().unwrap();
    ring.cancel(key);
    let completion = next(&mut ring);
    assert_eq!((completion.key, completion.outcome()), (key, Err(Errno::ECANCELED)));
    assert_eq!(ring.pool().used_bytes(), 0);
    ring.cancel(key);

    let mut input = RecvBuffer::new(4096).unwrap();
    ring.recv(2, file, &mut input);
    ring.poll_readable(3, file);
    ring.poll_readable(4, other);
    ring.cancel_file(file);
    let mut tokens = [next(&mut ring), next(&mut ring)].map(|c| (c.token, c.outcome()));
    tokens.sort_by_key(|t| t.0);
    assert_eq!(tokens, [(2, Err(Errno::ECANCELED)), (3, Err(Errno::ECANCELED))]);
    assert!(!input.is_receiving());
    assert_eq!(ring.in_flight(), 1, "operations on other files go on");

    ring.recv(5, file, &mut input);
    ring.shutdown(ours.as_fd());
    let mut tokens = [next(&mut ring), next(&mut ring)].map(|c| (c.token, c.result));
    tokens.sort_by_key(|t| t.0);
    assert_eq!(tokens[0].0, 4, "the other side is told");
    assert_eq!(tokens[1], (5, 0));
}

#[test]
fn connections_are_made_and_accepted() {
    rings().for_each(check_connect);
}

fn check_connect(mut ring: Ring<u32>) {
    let any = "127.0.0.1:0".parse().unwrap();
    let buffers = SocketBuffers { send_bytes: 64 << 10, recv_bytes: 64 << 10 };
    let listener = socket::listen_tcp(any, buffers).unwrap();
    let address = socket::local_address(listener.as_fd()).unwrap();
    let accept = ring.accept(1, FileRef::of(&listener));
    for _ in 0..3 {
        let client = socket::connecting_tcp(address, Some(any), buffers).unwrap();
        ring.connect(2, FileRef::of(&client), address);
        let both = [next(&mut ring), next(&mut ring)];
        let mut accepted = None;
        for completion in both {
            match completion.token {
                1 => {
                    assert!(completion.more && completion.key == accept);
                    accepted = completion.accepted;
                }
                _ => assert_eq!((completion.outcome(), completion.accepted.is_none()), (Ok(0), true)),
            }
        }
        let accepted = accepted.unwrap();
        socket::set_nodelay(&accepted).unwrap();
        let (near, far) = (client.as_fd(), accepted.as_fd());
        assert_eq!(socket::peer_address(far).unwrap(), socket::local_address(near).unwrap());
        assert!(!socket::is_closed(far));
        ring.close(client);
        let byte = filled(&mut ring, 1, 0);
        ring.recv_span(3, FileRef::of(&accepted), byte, RecvUntil::Any);
        assert_eq!(finish(&mut ring, 3), 0);
        assert!(socket::is_closed(accepted.as_fd()));
    }
    ring.cancel(accept);
    let last = next(&mut ring);
    assert_eq!((last.more, last.outcome()), (false, Err(Errno::ECANCELED)));

    drop(listener);
    let client = socket::connecting_tcp(address, None, SocketBuffers::default()).unwrap();
    ring.connect(4, FileRef::of(&client), address);
    assert_eq!(next(&mut ring).outcome(), Err(Errno::ECONNREFUSED));
}

#[test]
fn a_dropped_ring_leaves_nothing_in_flight() {
    let waker = Waker::new().unwrap();
    let mut input = RecvBuffer::new(4096).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let listener = socket::listen_tcp("127.0.0.1:0".parse().unwrap(), SocketBuffers::default()).unwrap();
    let address = socket::local_address(listener.as_fd()).unwrap();
    let (_dir, disk) = temp_disk(1 << 20);
    let start = Instant::now();
    let unseen = {
        let mut ring = ring();
        let span = filled(&mut ring, 64 << 10, 9);
        ring.watch(1, &waker);
        ring.recv(2, FileRef::of(&ours), &mut input);
        ring.recv_span(3, FileRef::of(&theirs), span, RecvUntil::Full);
        ring.accept(4, FileRef::of(&listener));
        let unseen = std::net::TcpStream::connect(address).unwrap();
        ring.submit().unwrap();
        let mut queue = SendQueue::new();
        (0..8).for_each(|_| queue.push_payload(ring.pool_mut(), BufSpan::head(span.buf, 0)));
        let data = filled(&mut ring, 1 << 20, 1);
        queue.push_payload(ring.pool_mut(), data);
        queue.push_bytes(ring.pool_mut(), b"x").unwrap();
        ring.send(5, FileRef::of(&ours), &mut queue);
        ring.write_at(6, FileRef::of(&disk), data, 0, true);
        unseen
    };
    assert!(start.elapsed() < DROP_PATIENCE, "the drop gave up waiting");
    assert!(!input.is_receiving());
    // The accepted connection nobody took was closed rather than leaked.
    unseen.set_read_timeout(LONG).unwrap();
    assert_eq!((&unseen).read(&mut [0]).unwrap(), 0);
    // And the receive is really gone: nobody steals these bytes.
    theirs.write_all(b"later").unwrap();
    let mut ring = ring();
    ring.recv(1, FileRef::of(&ours), &mut input);
    let count = finish(&mut ring, 1);
    input.filled(count as usize);
    assert_eq!(input.bytes(), b"later");
}

#[test]
fn a_dropped_ring_lets_go_of_its_files() {
    for mut ring in rings() {
        let (_dir, disk) = temp_disk(1 << 20);
        let path = disk.path().to_path_buf();
        let file = ring.register_file(disk.as_fd());
        ring.fsync_data(1, file);
        drop(ring);
        drop(disk);
        // A process that another test starts at this moment has the file for a moment as well.
        let mut tries = (0..3).map(|_| backing::OpenOptions::default().open(&path));
        assert!(tries.any(|opened| opened.is_ok()), "nobody uses the disk");
    }
}

#[test]
#[should_panic(expected = "the pool of a ring was replaced")]
fn another_pool_than_its_own_is_refused() {
    let mut ring = ring();
    *ring.pool_mut() = BufferPool::new(1 << 20).unwrap();
    let span = filled(&mut ring, 512, 0);
    ring.read_at(1, FileRef::Plain(0), span, 0);
}
