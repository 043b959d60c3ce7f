//! Two workers on loopback with NBD clients: what is written is on both disks, whatever happens in between.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

mod support;

use model::state::{ConnState, DiskState};
use model::status::snapshot::ResourceSnapshot;
use replicator::CommandResult;
use support::nbd_client::{Client, FLUSH, FUA, Replies, TRIM, WRITE, WRITE_ZEROES};
use support::node::{Node, pair};

const SIZE_BYTES: u64 = 24 << 20;

fn is_synced(s: &ResourceSnapshot) -> bool {
    let v = &s.volumes[0].state;
    v.conn == ConnState::Connected && v.disk == DiskState::UpToDate && v.pdsk == DiskState::UpToDate
}

/// Connected, `a` Primary, both UpToDate.
fn synced_pair(dir: &std::path::Path) -> (Node, Node) {
    let (a, b) = pair(dir, SIZE_BYTES);
    assert_eq!(a.primary(true), CommandResult::Ok);
    assert_eq!(a.connect(), CommandResult::Ok);
    assert_eq!(b.connect(), CommandResult::Ok);
    a.wait_for("synced", is_synced);
    b.wait_for("synced", is_synced);
    (a, b)
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 512) as u8 ^ (i as u8).wrapping_mul(31) ^ seed).collect()
}

#[test]
fn writes_of_a_client_are_on_both_disks() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = synced_pair(dir.path());
    for (n, replies) in [Replies::Simple, Replies::Structured].into_iter().enumerate() {
        let mut client = Client::open(&a.socket, "r0", replies).unwrap();
        assert_eq!(client.size_bytes, a.worker().snapshot().volumes[0].size_sectors * 512);
        assert_eq!(
            client.flags & 0x1ff & !0x80,
            0x16d,
            "flush, FUA, trim, zeroes and multi-conn are offered"
        );
        let base = (n as u64) << 23;
        // A sector, a block, an odd range, and one that is cut into pieces.
        for (i, len) in [512usize, 4096, 5 * 512, 3 << 20].into_iter().enumerate() {
            let data = pattern((n * 16 + i) as u8, len);
            let offset = base + i as u64 * 65536 + 512;
            client.write(offset, &data, if i == 1 { FUA } else { 0 }).unwrap();
            assert_eq!(client.read(offset, len as u32).unwrap(), data);
        }
        client.flush().unwrap();
        client.plain(TRIM, 0, base + (1 << 20), 1 << 20).unwrap();
        client.plain(WRITE_ZEROES, FUA, base + (2 << 20), 4096).unwrap();
        assert_eq!(client.read(base + (1 << 20), 1 << 20).unwrap(), vec![0; 1 << 20]);
        assert_eq!(client.read(base + (2 << 20), 4096).unwrap(), vec![0; 4096]);
        assert_ne!(client.read(base + (2 << 20) + 4096, 4096).unwrap(), vec![0; 4096]);
        client.close();
    }
    assert!(a.data() == b.data(), "both disks hold the same");
    assert!(a.data().iter().any(|byte| *byte != 0));
}

#[test]
fn a_killed_secondary_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let (a, mut b) = synced_pair(dir.path());
    let mut client = Client::open(&a.socket, "", Replies::Structured).unwrap();
    client.write(0, &pattern(1, 1 << 20), 0).unwrap();
    b.kill();
    // The first of these finds the connection dead or dying, and must still be completed.
    for i in 0..64u64 {
        client.write(i * 128 * 1024, &pattern(i as u8, 64 * 1024), 0).unwrap();
    }
    client.flush().unwrap();
    a.wait_for("alone", |s| s.volumes[0].state.conn < ConnState::Connected);
    b.start();
    assert_eq!(b.attach(), CommandResult::Ok);
    assert_eq!(b.connect(), CommandResult::Ok);
    client.write(17 * 4096, &pattern(99, 4096), 0).unwrap();
    b.wait_for("synced", is_synced);
    a.wait_for("synced", is_synced);
    client.write(19 * 4096, &pattern(98, 4096), 0).unwrap();
    assert!(a.data() == b.data(), "both disks hold the same");
}

#[test]
fn a_killed_primary_follows_the_one_who_took_over() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, b) = synced_pair(dir.path());
    let mut client = Client::open(&a.socket, "r0", Replies::Simple).unwrap();
    client.write(0, &pattern(1, 64 * 1024), 0).unwrap();
    // Killed with writes under way: nobody knows which of them are on which disk.
    for i in 0..32u64 {
        client.start(WRITE, 0, ((4 << 20) + i * 65536, 65536), &pattern(i as u8, 65536));
    }
    a.kill();
    b.wait_for("alone", |s| s.volumes[0].state.conn < ConnState::Connected);
    assert_eq!(b.primary(false), CommandResult::Ok);
    let mut client = Client::open(&b.socket, "r0", Replies::Structured).unwrap();
    assert!(client.read(0, 64 * 1024).unwrap() == pattern(1, 64 * 1024), "what was answered is there");
    client.write(12 << 20, &pattern(5, 8192), 0).unwrap();
    a.start();
    assert_eq!(a.attach(), CommandResult::Ok);
    assert_eq!(a.connect(), CommandResult::Ok);
    a.wait_for("synced", is_synced);
    b.wait_for("synced", is_synced);
    assert!(a.data() == b.data(), "both disks hold the same");
    assert!(a.data()[12 << 20..][..8192] == pattern(5, 8192));
}

#[test]
fn a_client_gets_a_reason_where_it_may_not_go() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = synced_pair(dir.path());
    let refused = Client::open(&b.socket, "r0", Replies::Simple).err().unwrap();
    assert!(refused.contains("Secondary"), "{refused}");
    let refused = Client::open(&a.socket, "r1", Replies::Simple).err().unwrap();
    assert!(refused.contains("no such export"), "{refused}");
    let mut client = Client::open(&a.socket, "r0/0", Replies::Structured).unwrap();
    let held = a.command(replicator::Command::Secondary { open: 0, force: false });
    assert_eq!(held, CommandResult::State(model::result_code::StateResult::DeviceInUse));
    let end = client.size_bytes;
    assert_eq!(client.write(end, &[0; 512], 0).unwrap_err().0, 28, "beyond the end");
    assert_eq!(client.plain(TRIM, 0, 100, 512).unwrap_err().0, 22, "not aligned");
    assert_eq!(client.read(0, 512).unwrap().len(), 512, "the session goes on");
    client.close();
    a.wait_for("closed", |s| s.volumes[0].open_count == 0);
    assert_eq!(a.command(replicator::Command::Secondary { open: 0, force: false }), CommandResult::Ok);
    assert!(Client::open(&a.socket, "r0", Replies::Simple).is_err());
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = synced_pair(dir.path());
    for round in 0..20u32 {
        let mut client = Client::open(&a.socket, "r0", Replies::Structured).unwrap();
        for i in 0..8u64 {
            client.start(WRITE, 0, (i << 20, 1 << 20), &pattern(round as u8, 1 << 20));
        }
        // The last one is cut off in the middle of its data.
        client.start(WRITE, 0, (9 << 20, 2 << 20), &pattern(round as u8, 1_500_000));
    }
    a.wait_for("closed", |s| s.volumes[0].open_count == 0);
    // More than the pool holds went through in all; this would hang if buffers had been lost.
    let mut client = Client::open(&a.socket, "r0", Replies::Simple).unwrap();
    let data = pattern(7, 8 << 20);
    client.write(0, &data, 0).unwrap();
    assert_eq!(client.read(0, 8 << 20).unwrap(), data);
    client.flush().unwrap();
    assert!(a.data() == b.data(), "both disks hold the same");
}

#[test]
fn many_requests_at_once_keep_their_answers_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = synced_pair(dir.path());
    let mut client = Client::open(&a.socket, "r0", Replies::Simple).unwrap();
    for i in 0..400u64 {
        client.start(WRITE, 0, (i * 8192, 4096), &pattern(i as u8, 4096));
    }
    client.start(FLUSH, 0, (0, 0), &[]);
    let mut seen: Vec<u64> = (0..401)
        .map(|_| {
            let mut header = [0; 16];
            std::io::Read::read_exact(&mut client.socket, &mut header).unwrap();
            assert_eq!(header[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
            u64::from_be_bytes(header[8..].try_into().unwrap())
        })
        .collect();
    seen.sort_unstable();
    assert!(seen.windows(2).all(|w| w[0] < w[1]), "each is answered once");
    for i in 0..400u64 {
        assert_eq!(client.read(i * 8192, 4096).unwrap(), pattern(i as u8, 4096));
    }
    assert!(a.data() == b.data(), "both disks hold the same");
}

#[test]
fn a_pool_that_is_too_small_slows_down_and_does_not_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = synced_pair(dir.path());
    for node in [&mut a, &mut b] {
        node.shutdown();
        node.config.pool_cap_bytes = 4 << 20;
        node.start();
        assert_eq!(node.attach(), CommandResult::Ok);
        assert_eq!(node.connect(), CommandResult::Ok);
    }
    a.wait_for("synced", is_synced);
    assert_eq!(a.primary(false), CommandResult::Ok);
    let sockets = [a.socket.clone(), a.socket.clone(), a.socket.clone()];
    let clients: Vec<_> = sockets
        .into_iter()
        .enumerate()
        .map(|(n, socket)| {
            std::thread::spawn(move || {
                let mut client = Client::open(&socket, "r0", Replies::Structured).unwrap();
                let base = n as u64 * (7 << 20);
                for round in 0..8u64 {
                    // Large and small ones, so that the classes of the pool compete too.
                    let large = pattern(round as u8, 1 << 20);
                    for i in 0..6 {
                        client.write(base + (i << 20), &large, 0).unwrap();
                    }
                    for i in 0..64u64 {
                        client.write(base + (6 << 20) + i * 4096, &large[..4096], 0).unwrap();
                    }
                    assert!(client.read(base + (5 << 20), 1 << 20).unwrap() == large);
                }
                client.flush().unwrap();
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    a.wait_for("synced", is_synced);
    assert!(a.data() == b.data(), "both disks hold the same");
}

/// Frames around the size of the staging buffers, at every offset inside them.
#[test]
fn requests_of_awkward_lengths_pass() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = synced_pair(dir.path());
    let mut client = Client::open(&a.socket, "r0", Replies::Simple).unwrap();
    let lengths: Vec<usize> = (0..48).map(|i| (128 << 10) - 16 * 512 + i * 1024 + (i % 3) * 512).collect();
    for (i, len) in lengths.iter().enumerate() {
        client.start(WRITE, 0, (i as u64 * 192 * 1024, *len as u32), &pattern(i as u8, *len));
    }
    for _ in &lengths {
        let mut header = [0; 16];
        std::io::Read::read_exact(&mut client.socket, &mut header).unwrap();
        assert_eq!(header[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
    }
    for (i, len) in lengths.iter().enumerate() {
        assert!(client.read(i as u64 * 192 * 1024, *len as u32).unwrap() == pattern(i as u8, *len));
    }
    assert!(a.data() == b.data(), "both disks hold the same");
}

#[test]
fn a_clean_end_and_a_new_start_keep_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, b) = synced_pair(dir.path());
    let mut client = Client::open(&a.socket, "r0", Replies::Simple).unwrap();
    let data = pattern(3, 100_352);
    client.write(4096, &data, 0).unwrap();
    client.close();
    a.shutdown();
    assert!(!a.socket.exists(), "the socket of clients is gone");
    a.start();
    assert_eq!(a.attach(), CommandResult::Ok);
    assert_eq!(a.connect(), CommandResult::Ok);
    a.wait_for("synced", is_synced);
    b.wait_for("synced", is_synced);
    assert_eq!(b.primary(false), CommandResult::Ok);
    let mut client = Client::open(&b.socket, "r0", Replies::Structured).unwrap();
    assert_eq!(client.read(4096, 100_352).unwrap(), data);
}
