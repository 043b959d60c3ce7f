use super::*;

fn pool() -> BufferPool {
    BufferPool::new(4 << 20).unwrap()
}

fn spans(queue: &SendQueue) -> Vec<BufSpan> {
    let mut out = [BufSpan::head(BufId(0), 0); SEND_SPANS_MAX];
    let count = queue.prepare(&mut out);
    out[..count].to_vec()
}

fn contents(queue: &SendQueue, pool: &BufferPool) -> Vec<u8> {
    spans(queue).iter().flat_map(|span| pool.span_bytes(*span).to_vec()).collect()
}

#[test]
fn adjacent_headers_become_one_piece_and_payload_separates_them() {
    let mut pool = pool();
    let mut queue = SendQueue::new();
    let data = pool.alloc(4096).unwrap();
    pool.bytes_mut(data).fill(b'd');
    queue.push_bytes(&mut pool, b"one ").unwrap();
    queue.push_bytes(&mut pool, b"two ").unwrap();
    queue.push_payload(&mut pool, BufSpan { buf: data, offset_bytes: 512, len_bytes: 3 });
    queue.push_bytes(&mut pool, b" three").unwrap();
    assert_eq!(spans(&queue).len(), 3);
    assert_eq!(contents(&queue, &pool), b"one two ddd three");
    assert_eq!(queue.queued_bytes(), 17);
    assert_eq!(pool.references(data), 2);
    let copied_bytes = queue.copied_bytes();
    queue.advance(9, &mut pool);
    assert!(queue.copied_bytes() < copied_bytes);
    assert_eq!(contents(&queue, &pool), b"dd three");
    queue.advance(2, &mut pool);
    assert_eq!(pool.references(data), 1, "given up with its last byte");
    queue.advance(6, &mut pool);
    assert!(queue.is_empty());
    pool.release(data);
    queue.clear(&mut pool);
    assert_eq!(pool.used_bytes(), 0);
}

#[test]
fn an_idle_queue_uses_one_arena_for_ever() {
    let mut pool = pool();
    let mut queue = SendQueue::new();
    for n in 0..10_000u32 {
        queue.push_bytes(&mut pool, &n.to_be_bytes()).unwrap();
        assert_eq!(contents(&queue, &pool), n.to_be_bytes());
        assert_eq!((pool.used_bytes(), queue.copied_bytes()), (IDLE_ARENA_BYTES, 4));
        queue.advance(4, &mut pool);
        assert_eq!(queue.copied_bytes(), 0);
    }
}

#[test]
fn headers_of_a_stuck_connection_grow_to_a_limit_and_drain_in_order() {
    let mut pool = pool();
    let mut queue = SendQueue::new();
    let mut count = 0u32;
    while queue.push_bytes(&mut pool, &count.to_be_bytes().repeat(250)).is_ok() {
        count += 1;
    }
    assert!(count as usize * 1000 > crate::pool::CONTROL_BYTES * 9 / 10);
    assert_eq!(queue.queued_bytes(), count as usize * 1000, "the refused push left no trace");
    let mut next = 0u32;
    while !queue.is_empty() {
        for chunk in contents(&queue, &pool).chunks(1000).filter(|c| c.len() == 1000) {
            assert_eq!(chunk, next.to_be_bytes().repeat(250));
            next += 1;
        }
        let bytes = contents(&queue, &pool).len();
        queue.advance(bytes, &mut pool);
    }
    assert_eq!(next, count);
    assert!(pool.used_bytes() <= ARENA_BYTES, "only the arena is kept");
}

#[test]
fn one_send_is_bounded_in_pieces_and_bytes() {
    let mut pool = pool();
    let mut queue = SendQueue::new();
    let large = pool.alloc(1 << 20).unwrap();
    for _ in 0..100 {
        queue.push_payload(&mut pool, BufSpan::head(large, 512));
        queue.push_payload(&mut pool, BufSpan::head(large, 0));
    }
    assert_eq!(spans(&queue).len(), SEND_SPANS_MAX);
    queue.advance(100 * 512, &mut pool);
    (0..3).for_each(|_| queue.push_payload(&mut pool, BufSpan::head(large, (1 << 20) - 1)));
    assert_eq!(spans(&queue).len(), 2);
    queue.clear(&mut pool);
    assert_eq!(pool.references(large), 1);
}

#[test]
#[should_panic(expected = "more was sent than was queued")]
fn advancing_beyond_the_end_panics() {
    let mut pool = pool();
    let mut queue = SendQueue::new();
    queue.push_bytes(&mut pool, b"abc").unwrap();
    queue.advance(4, &mut pool);
}

#[test]
fn a_receive_buffer_makes_room_by_compaction() {
    let mut buffer = RecvBuffer::new(4096).unwrap();
    let mut stamp = 0u8;
    let mut expected: Vec<u8> = Vec::new();
    for step in 0..1000 {
        if buffer.room_bytes() > 0 && step % 3 != 2 {
            let (staging, ptr, len) = buffer.lend();
            assert!(len > 0 && buffer.is_receiving());
            assert_eq!(buffer.bytes(), expected, "readable meanwhile");
            let count = (len as usize).min(1 + step * 37 % 700);
            let received: Vec<u8> = (0..count).map(|n| stamp.wrapping_add(n as u8)).collect();
            stamp = stamp.wrapping_add(count as u8);
            // SAFETY: the staging memory was lent to this "operation", and `count` is within its length.
            unsafe { std::ptr::copy_nonoverlapping(received.as_ptr(), ptr, count) };
            staging.returned(false);
            buffer.filled(count);
            expected.extend(received);
        }
        let eaten = expected.len().min(step * 53 % 800);
        buffer.consume(eaten);
        expected.drain(..eaten);
        assert_eq!(buffer.bytes(), expected);
        assert_eq!(buffer.room_bytes(), 4096 - expected.len());
    }
    assert!(stamp != 0);
}

#[test]
#[should_panic(expected = "full buffer")]
fn receiving_into_a_full_buffer_panics_instead_of_looking_like_the_end() {
    let mut buffer = RecvBuffer::new(4096).unwrap();
    buffer.filled(4096);
    buffer.lend();
}

#[test]
fn a_unix_socket_replaces_only_what_a_dead_process_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let first = listen_unix(&path).unwrap();
    assert_eq!(listen_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(first);
    let second = listen_unix(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(second);
    let plain = dir.path().join("file");
    std::fs::write(&plain, b"precious").unwrap();
    assert_eq!(listen_unix(&plain).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&plain).unwrap(), b"precious");
}
