//! Clients that do what no client should, against running daemons: another client that verifies every byte works
//! beside them and must not notice, memory and descriptors stay bounded, and both disks stay equal.
//!
//! Needs from Debian: libnbd-bin, qemu-utils, fio.

#![allow(clippy::unwrap_used, reason = "the whole file is a test")]

#[path = "support/export.rs"]
mod export;
#[path = "support/nbd_client.rs"]
#[allow(dead_code)]
mod nbd_client;
#[path = "support/pair.rs"]
mod pair;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use export::{Export, run, tool};
use nbd_client::{Client, FLUSH, READ, Replies, WRITE};

/// Small, so that a few clients can take all of what clients may have: half of it.
const SMALL_POOL: &str = "pool-size = '64M'";
const MIB: usize = 1 << 20;
/// What the well-behaved client uses; the others stay behind it.
const GOOD_BYTES: u64 = 8 << 20;

fn start() -> Export {
    let e = Export::start_unconnected(1, SMALL_POOL);
    e.pair.ok(1, &["connect", "r0"]);
    e.wait_in_sync();
    e
}

/// Writes, reads back and flushes until told to stop.
struct Good {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Good {
    fn start(socket: PathBuf) -> Good {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        Good { stop, thread: spawn(move || Good::work(&socket, &seen)) }
    }

    /// Number of rounds and the longest of them.
    fn work(socket: &Path, stop: &AtomicBool) -> (u64, Duration) {
        let mut c = Client::open(socket, "r0", Replies::Structured).unwrap();
        let (mut rounds, mut longest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let offset = rounds * 20480 % (GOOD_BYTES - 32768);
            let data: Vec<u8> = (0..16384u32).map(|i| (i / 512 + i + rounds as u32) as u8).collect();
            c.write(offset, &data, 0).unwrap();
            if rounds.is_multiple_of(8) {
                c.flush().unwrap();
            }
            assert!(c.read(offset, 16384).unwrap() == data, "round {rounds}");
            longest = longest.max(start.elapsed());
            rounds += 1;
        }
        c.close();
        (rounds, longest)
    }

    /// Fails if it ever waited longer than `limit`.
    fn finish(self, limit: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (rounds, longest) = self.thread.join().expect("the good client noticed");
        assert!(rounds > 20, "only {rounds} rounds");
        assert!(longest < limit, "a round took {longest:?}");
    }
}

/// A connection with the greeting read and the client flags sent.
fn greeted(socket: &Path) -> UnixStream {
    let mut s = UnixStream::connect(socket).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    s.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    s.read_exact(&mut [0; 18]).unwrap();
    s.write_all(&3u32.to_be_bytes()).unwrap();
    s
}

fn option(number: u32, len: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &len.to_be_bytes(), data].concat()
}

fn request(command: u16, offset: u64, len: u32) -> Vec<u8> {
    let magic = 0x2560_9513u32.to_be_bytes();
    [&magic[..], &[0, 0], &command.to_be_bytes(), &[7; 8], &offset.to_be_bytes(), &len.to_be_bytes()].concat()
}

fn garbage(seed: u32, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..len).map(step).collect()
}

/// Reads until the server closes; false if it does not within the limit.
fn is_closed(s: &mut UnixStream, limit: Duration) -> bool {
    s.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 65536];
    loop {
        match s.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return !matches!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn nobody_notices_clients_that_break_off_or_talk_nonsense() {
    let e = start();
    let socket = e.socket(0);
    let good = Good::start(socket.clone());
    let descriptors = e.descriptors();
    let resident = e.resident_kib();
    for i in 0..60u32 {
        cut_off(&socket, i);
        talk_nonsense(&socket, e.tcp[0], i);
    }
    lie_about_lengths(&socket);
    haggle(&socket);
    kill_fio(&e.unix_uri(0));
    good.finish(Duration::from_secs(5));
    let grown = e.resident_kib().saturating_sub(resident);
    assert!(grown < 48 << 10, "{grown} KiB more than before");
    let until = Instant::now() + Duration::from_secs(10);
    while e.descriptors() > descriptors {
        assert!(Instant::now() < until, "connections are left");
        sleep(Duration::from_millis(50));
    }
    e.assert_equal();
}

/// Ends a connection in the middle of every kind of message.
fn cut_off(socket: &Path, i: u32) {
    let mut s = greeted(socket);
    s.write_all(&option(7, 8, &[0; 8])[..1 + i as usize % 23]).unwrap();
    drop(s);
    let mut c = Client::open(socket, "r0", Replies::Simple).unwrap();
    c.socket.write_all(&request(WRITE, GOOD_BYTES, 4096)[..1 + i as usize % 27]).unwrap();
    drop(c);
    // Some earlier requests are complete and some replies unread.
    let mut c = Client::open(socket, "r0", Replies::Structured).unwrap();
    for n in 0..8u64 {
        c.start(WRITE, 0, (GOOD_BYTES + n * 65536, 65536), &garbage(i, 65536));
        c.start(READ, 0, (n * 65536, 65536), &[]);
    }
    c.start(WRITE, 0, (GOOD_BYTES, MIB as u32), &garbage(i, i as usize * 16000));
}

fn talk_nonsense(socket: &Path, tcp: std::net::SocketAddr, i: u32) {
    let mut s = greeted(socket);
    // It may be closed before everything is written.
    let _ = s.write_all(&garbage(i, 4096));
    assert!(is_closed(&mut s, Duration::from_secs(5)));
    let mut s = TcpStream::connect(tcp).unwrap();
    let _ = s.write_all(&garbage(i, 100 + i as usize * 100));
    let mut c = Client::open(socket, "r0", Replies::Simple).unwrap();
    let _ = c.socket.write_all(&garbage(i, 4096));
    assert!(is_closed(&mut c.socket, Duration::from_secs(5)));
}

fn lie_about_lengths(socket: &Path) {
    for number in [1, 3, 6, 7, 8, 9, 10, 99] {
        for len in [u32::MAX, 1 << 31, 1 << 20, 65537] {
            let mut s = greeted(socket);
            s.write_all(&option(number, len, &[0xff; 64])).unwrap();
            assert!(is_closed(&mut s, Duration::from_secs(5)), "option {number} of {len} bytes");
        }
    }
    // A name that is longer than its option.
    let mut s = greeted(socket);
    s.write_all(&option(7, 6, &[0xff, 0xff, 0xff, 0xff, 0, 0])).unwrap();
    let mut reply = [0; 20];
    s.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..16], 0x8000_0003u32.to_be_bytes(), "the option is invalid");
    for command in 0..8u16 {
        let mut c = Client::open(socket, "r0", Replies::Simple).unwrap();
        let ranges = [(0, u32::MAX), (u64::MAX, u32::MAX), (u64::MAX - 511, 512)];
        ranges.iter().for_each(|(at, len)| {
            let _ = c.socket.write_all(&request(command, *at, *len));
        });
        sleep(Duration::from_millis(5));
    }
}

fn haggle(socket: &Path) {
    // One that reads and one that does not; both are cut off.
    for reads in [true, false] {
        let mut s = greeted(socket);
        let many = option(3, 0, &[]).repeat(10_000);
        let mut reader = s.try_clone().unwrap();
        let reading = spawn(move || !reads || is_closed(&mut reader, Duration::from_secs(10)));
        let written = s.write_all(&many);
        assert!(reading.join().unwrap(), "the haggler is cut off");
        if !reads {
            sleep(Duration::from_millis(500));
        } else if written.is_ok() {
            assert!(is_closed(&mut s, Duration::from_secs(5)));
        }
    }
}

fn kill_fio(uri: &str) {
    let uri = format!("--uri={uri}");
    for _ in 0..3 {
        let mut fio = Command::new("fio")
            .args(["--name=x", "--thread", "--ioengine=nbd", "--rw=randwrite", "--bs=64k", "--iodepth=32"])
            .args([&uri, "--size=16M", "--offset=16M", "--time_based", "--runtime=60"])
            .stdout(Stdio::null())
            .spawn()
            .expect("fio (Debian package fio)");
        sleep(Duration::from_millis(1500));
        assert!(fio.try_wait().unwrap().is_none(), "fio is at work");
        fio.kill().unwrap();
        fio.wait().unwrap();
    }
}

#[test]
fn silent_connections_keep_nobody_out() {
    let e = start();
    let socket = e.socket(0);
    let good = Good::start(socket.clone());
    sleep(Duration::from_millis(300));
    let idle: Vec<_> = (0..600).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let idle_tcp: Vec<_> = (0..100).map(|_| TcpStream::connect(e.tcp[0]).unwrap()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let (path, seen) = (socket.clone(), stop.clone());
    let more = spawn(move || {
        while !seen.load(Ordering::Relaxed) {
            drop(UnixStream::connect(&path).unwrap());
            let _ = greeted(&path);
        }
    });
    let begun = Instant::now();
    tool("libnbd-bin", "nbdinfo", &[&e.unix_uri(0)]);
    tool("libnbd-bin", "nbdinfo", &[&e.tcp_uri(0)]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    more.join().unwrap();

    // With the good one all places are taken; the next is told so, and gets in when one has left.
    let mut users: Vec<_> = (1..64).map(|_| Client::open(&socket, "r0", Replies::Simple).unwrap()).collect();
    for u in &mut users {
        assert_eq!(u.read(0, 512).unwrap().len(), 512);
    }
    let no = run("qemu-utils", "qemu-img", &["info", &e.unix_uri(0)]);
    let no = String::from_utf8_lossy(&no.stderr).into_owned();
    assert!(no.contains("64 clients use resource r0"), "{no}");
    users.pop().unwrap().close();
    let late = Client::open(&socket, "r0", Replies::Simple);
    assert!(late.is_ok(), "{:?}", late.err());
    drop((users, late, idle, idle_tcp));
    good.finish(Duration::from_secs(5));
    e.assert_equal();
}

/// Processor time that a process has used, in clock ticks (proc(5), fields 14 and 15 of stat).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// An accept that fails fails again at once; the worker must not spend its time on that.
#[test]
fn a_daemon_without_descriptors_waits_for_some() {
    let e = start();
    let socket = e.socket(0);
    let pid = e.pid(0);
    let limit = |n: usize| {
        let wanted = format!("--nofile={n}:");
        tool("util-linux", "prlimit", &["--pid", &pid.to_string(), &wanted]);
    };
    limit(e.descriptors() + 4);
    // An accept that is under way keeps the limit that it began with.
    for command in ["down", "up"] {
        e.pair.ok(0, &[command, "r0"]);
    }
    e.wait_in_sync();
    e.pair.ok(0, &["primary", "r0"]);
    // Those that nobody accepts fill the backlog, where connecting would block.
    let crowd: Vec<_> = (0..12).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    sleep(Duration::from_secs(1));
    let before = cpu_ticks(pid);
    sleep(Duration::from_secs(3));
    let used = cpu_ticks(pid) - before;
    // A worker that spins uses 300 of 100 a second.
    assert!(used < 60, "{used} ticks in three seconds of nothing to do");
    drop(crowd);
    limit(4096);
    let mut late = Client::open(&socket, "r0", Replies::Structured).unwrap();
    assert_eq!(late.read(0, 4096).unwrap().len(), 4096);
    late.close();
    e.assert_equal();
}

#[test]
fn replies_that_nobody_reads_cost_nobody_else_anything() {
    let e = start();
    let socket = e.socket(0);
    let good = Good::start(socket.clone());
    sleep(Duration::from_millis(300));
    let resident = e.resident_kib();
    // Small replies: refused requests, flushes, small writes. They come from the area that the peer's packets and
    // metadata come from as well.
    let small: Vec<_> = [
        request(77, 0, 0),
        request(FLUSH, 0, 0),
        request(WRITE, 1, 0),
        [request(WRITE, GOOD_BYTES, 512), vec![1; 512]].concat(),
    ]
    .into_iter()
    .flat_map(|r| vec![r; 4])
    .map(|r| {
        let c = Client::open(&socket, "r0", Replies::Structured).unwrap();
        let mut s = c.socket.try_clone().unwrap();
        s.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let many = r.repeat(256);
        spawn(move || while s.write_all(&many).is_ok() {});
        c
    })
    .collect();
    // Data: more than all clients together may have.
    let large: Vec<_> = (0..8)
        .map(|_| {
            let mut c = Client::open(&socket, "r0", Replies::Structured).unwrap();
            for i in 0..16 {
                c.start(READ, 0, (i << 20, MIB as u32), &[]);
            }
            c
        })
        .collect();
    sleep(Duration::from_secs(3));
    let grown = e.resident_kib().saturating_sub(resident);
    // Half of the pool for data, and the area for headers.
    assert!(grown < 60 << 10, "{grown} KiB more than before");
    good.finish(Duration::from_secs(5));
    drop((small, large));
    e.assert_equal();
}

#[test]
fn room_that_a_client_holds_for_nothing_goes_to_those_who_need_it() {
    let e = start();
    let socket = e.socket(0);
    // A paused client that is in nobody's way is left alone.
    let mut paused = Client::open(&socket, "r0", Replies::Structured).unwrap();
    let cookie = paused.start(READ, 0, (0, 4 << 20), &[]);
    sleep(Duration::from_secs(25));
    assert_eq!(paused.finish(cookie, Some((0, 4 << 20))).unwrap().len(), 4 * MIB);

    // Half of the room to one that does not read, half to those that announce data and do not send it.
    let mut lazy = Client::open(&socket, "r0", Replies::Structured).unwrap();
    for i in 0..4 {
        lazy.start(READ, 0, (i << 22, 4 << 20), &[]);
    }
    let mut slow: Vec<_> = (0..4)
        .map(|_| {
            let mut c = Client::open(&socket, "r0", Replies::Simple).unwrap();
            c.start(WRITE, 0, (GOOD_BYTES, 8 << 20), &[1; 1000]);
            c
        })
        .collect();
    let good = Good::start(socket.clone());
    let begun = Instant::now();
    let mut large = Client::open(&socket, "r0", Replies::Simple).unwrap();
    large.socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let data = garbage(1, 8 * MIB);
    large.write(2 * GOOD_BYTES, &data, 0).unwrap();
    assert!(large.read(2 * GOOD_BYTES, 8 << 20).unwrap() == data);
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(30), "{waited:?}");
    assert!(is_closed(&mut slow[0].socket, Duration::from_secs(5)));
    good.finish(Duration::from_secs(5));
    drop((slow, lazy));
    e.assert_equal();
}

#[test]
fn the_control_socket_serves_on_whatever_it_is_sent() {
    let e = start();
    let socket = e.pair.nodes[0].run_dir.join("control.sock");
    let connect = || UnixStream::connect(&socket).unwrap();
    let resident = e.resident_kib();
    for i in 0..100u32 {
        let mut s = connect();
        let _ = s.write_all(&garbage(i, 1000));
        assert!(is_closed(&mut s, Duration::from_secs(15)), "{i}");
        let mut s = connect();
        s.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(is_closed(&mut s, Duration::from_secs(5)));
        let mut s = connect();
        s.write_all(&[0, 0, 0, 40, b'{', b'"']).unwrap();
    }
    let mut deep = connect();
    deep.write_all(&60_000u32.to_be_bytes()).unwrap();
    deep.write_all(&[b'['; 60_000]).unwrap();
    assert!(is_closed(&mut deep, Duration::from_secs(5)));
    assert_eq!(e.pair.ok(0, &["role", "r0"]), "Primary/Secondary");

    // More than are served at once, and none says anything, or not everything.
    let begun = Instant::now();
    let mut half: Vec<_> = (0..100).map(|_| connect()).collect();
    half.iter_mut().step_by(2).for_each(|s| s.write_all(&[0, 0, 1]).unwrap());
    assert_eq!(e.pair.ok(0, &["role", "r0"]), "Primary/Secondary");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let grown = e.resident_kib().saturating_sub(resident);
    assert!(grown < 32 << 10, "{grown} KiB more than before");
    e.assert_equal();
}
