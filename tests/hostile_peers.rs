//! Strangers at the replication port: whatever they send, the real pair connects soon, stays connected, and holds
//! the same data.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/export.rs"]
mod export;
#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use export::Export;
use nbd_client::{Client, Replies};
use replicator::wire::{AuthChallenge, AuthResponse, ConnectionFeatures, Features, Packet, put, put80};

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let s = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    s.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    s.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    Some(s)
}

fn initial(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put80(&mut bytes, packet);
    bytes
}

fn features(version_min: u32, version_max: u32, features: u32) -> Vec<u8> {
    let p = ConnectionFeatures { version_min, features: Features(features), version_max };
    initial(&Packet::ConnectionFeatures(p))
}

fn framed(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, 0, packet, 0);
    bytes
}

fn garbage(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// What a stranger says first on a connection of its own, and then nothing more.
fn one_socket() -> Vec<Vec<u8>> {
    let data = initial(&Packet::InitialData);
    vec![
        Vec::new(),
        garbage(1),
        garbage(5000),
        data[..3].to_vec(),
        data[..7].to_vec(),
        features(86, 101, 15),
        [0x86, 0x20, 0xec, 0x20, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0].to_vec(),
        b"GET / HTTP/1.1\r\nHost: database\r\n\r\n".to_vec(),
    ]
}

/// What a stranger sends on a data socket after both sockets were accepted.
fn two_sockets() -> Vec<Vec<u8>> {
    let good = features(86, 101, 15);
    let challenge = framed(&Packet::AuthChallenge(AuthChallenge(&[7; 64])));
    let response = framed(&Packet::AuthResponse(AuthResponse(&[7; 19])));
    vec![
        Vec::new(),
        garbage(5000),
        good[..20].to_vec(),
        features(u32::MAX, 1, u32::MAX),
        features(u32::MAX, 0x7fff_ffff, 0),
        [good.clone(), garbage(5000)].concat(),
        [&good[..], &[0x86, 0x20, 0xec, 0x20, 0, 0, 0, 0x10, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]].concat(),
        [good.clone(), challenge.clone()].concat(),
        [good.clone(), challenge.clone(), garbage(64)].concat(),
        [good, challenge, response].concat(),
    ]
}

/// Becomes both sockets of the connection, waits for what the node says first, says `words` and holds on until it is
/// thrown out. Returns how many bytes it was told; nothing if nobody listens.
fn impersonate(address: SocketAddr, words: &[u8]) -> usize {
    let (Some(mut data), Some(mut meta)) = (connect(address), connect(address)) else { return 0 };
    let _ = data.write_all(&initial(&Packet::InitialData));
    let _ = meta.write_all(&initial(&Packet::InitialMeta));
    data.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut told = 0;
    while let Ok(n @ 1..) = data.read(&mut [0; 4096]) {
        if told == 0 {
            let _ = data.write_all(words);
        }
        told += n;
    }
    told
}

#[test]
fn a_node_that_waits_survives_strangers_and_then_connects() {
    let e = Export::start_unconnected(1, "");
    let address = e.replication[0];
    let connection = || e.pair.ok(0, &["cstate", "r0"]);
    assert_eq!(connection(), "WFConnection");
    let mut words = one_socket();
    // The first words of a peer, but then it is gone.
    words.push(initial(&Packet::InitialData));
    words.push([&initial(&Packet::InitialData)[..6], &[0xff, 0xff]].concat());
    words.push(initial(&Packet::InitialMeta));
    for words in words {
        let mut s = connect(address).unwrap();
        let _ = s.write_all(&words);
    }
    for words in two_sockets() {
        // It pauses for a second after each.
        e.pair.wait_for(0, &["cstate", "r0"], "WFConnection", Duration::from_secs(10));
        let told = impersonate(address, &words);
        assert!(told >= 80, "{told} bytes: it did not get as far as the features");
        assert_ne!(connection(), "StandAlone", "after {} bytes {words:?}", words.len());
    }
    let log = std::fs::read_to_string(e.pair.dir.join("n1/log")).unwrap();
    assert!(log.matches("will retry").count() >= two_sockets().len(), "each was thrown out");
    let resident = e.resident_kib();
    let crowd: Vec<_> = (0..200).filter_map(|_| connect(address)).collect();
    e.pair.ok(1, &["connect", "r0"]);
    e.wait_in_sync();
    drop(crowd);
    let grown = e.resident_kib().saturating_sub(resident);
    assert!(grown < 64 << 10, "{grown} KiB more than before");
    e.assert_equal();
}

#[test]
fn the_pair_connects_while_strangers_go_on_and_stays_connected() {
    let e = Export::start_unconnected(1, "");
    let stop = Arc::new(AtomicBool::new(false));
    let noise: Vec<_> = e
        .replication
        .into_iter()
        .map(|address| {
            let stop = stop.clone();
            spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for words in one_socket() {
                        if let Some(mut s) = connect(address) {
                            let _ = s.write_all(&words);
                        }
                        sleep(Duration::from_millis(5));
                    }
                }
            })
        })
        .collect();
    let begun = Instant::now();
    e.pair.ok(1, &["connect", "r0"]);
    e.wait_in_sync();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

    // Once connected even those who know the first words find nobody.
    let mut c = Client::open(&e.socket(0), "r0", Replies::Simple).unwrap();
    let data = garbage(1 << 20);
    for (i, words) in two_sockets().iter().enumerate() {
        for address in e.replication {
            assert_eq!(impersonate(address, words), 0);
        }
        c.write((i as u64) << 20, &data, 0).unwrap();
        assert_eq!(e.pair.ok(0, &["cstate", "r0"]), "Connected");
    }
    stop.store(true, Ordering::Relaxed);
    noise.into_iter().for_each(|n| n.join().unwrap());
    let log = std::fs::read_to_string(e.pair.dir.join("n1/log")).unwrap();
    assert_eq!(log.matches("Began resync").count(), 1, "the connection was never lost");
    e.assert_equal();
}
