//! Clients of the export that know for every sector what it may hold: several requests at once, of any length and
//! alignment, overlapping or not, and a ledger of what was sent, answered, refused or lost.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub const SECTOR: usize = 512;
/// A request that is not answered for so long hangs.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Set in versions whose content is zeroes.
pub const ZEROES: u64 = 1 << 63;
const EXPORT: &[u8] = b"r0";

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const FUA: u16 = 1;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Content of a version of a sector; every word depends on both.
pub fn fill(out: &mut [u8], sector: u64, version: u64) {
    if version & ZEROES != 0 {
        out.fill(0);
        return;
    }
    let mut random = Random(sector.rotate_left(32) ^ version);
    for (i, word) in out.chunks_exact_mut(8).enumerate() {
        let value = match i {
            0 => version,
            1 => sector,
            _ => random.next(),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Version that a sector holds; none: what was never written.
pub fn version_of(bytes: &[u8], sector: u64) -> Option<u64> {
    if bytes == [0; SECTOR] {
        return Some(ZEROES);
    }
    let version = u64::from_le_bytes(bytes[..8].try_into().expect("a sector has 8 bytes"));
    let mut wanted = [0; SECTOR];
    fill(&mut wanted, sector, version);
    (wanted == bytes).then_some(version)
}

/// One write of one sector.
#[derive(Clone, Debug)]
struct Held {
    version: u64,
    begun: u64,
    /// Answered, refused or lost: nothing sent later can be overtaken by it.
    ended: Option<u64>,
}

/// What a range of sectors may hold.
pub struct Region {
    first: u64,
    clock: u64,
    may_hold: Vec<Vec<Held>>,
    /// Everything written since the content was last known, for takeovers that may lose what was acknowledged.
    written: Vec<Vec<u64>>,
}

impl Region {
    fn new(first: u64, sectors: u64) -> Region {
        let zero = vec![Held { version: ZEROES, begun: 0, ended: Some(0) }];
        Region {
            first,
            clock: 0,
            may_hold: vec![zero; sectors as usize],
            written: vec![vec![ZEROES]; sectors as usize],
        }
    }

    fn sectors(&self) -> u64 {
        self.may_hold.len() as u64
    }

    /// A write is on its way.
    fn begin(&mut self, first: u64, count: u64, zeroes: bool) -> u64 {
        self.clock += 1;
        let version = self.clock | if zeroes { ZEROES } else { 0 };
        for at in (first - self.first) as usize..(first - self.first + count) as usize {
            self.may_hold[at].push(Held { version, begun: self.clock, ended: None });
            self.written[at].push(version);
        }
        version
    }

    /// It was answered (`acked`), refused, or its connection is gone.
    fn end(&mut self, first: u64, count: u64, version: u64, acked: bool) {
        self.clock += 1;
        let now = self.clock;
        for at in (first - self.first) as usize..(first - self.first + count) as usize {
            let sector = &mut self.may_hold[at];
            let Some(own) = sector.iter_mut().find(|h| h.version == version) else { continue };
            own.ended = Some(now);
            let begun = own.begun;
            if acked {
                sector.retain(|h| h.version == version || h.ended.is_none_or(|ended| ended > begun));
            }
        }
    }

    /// Compares and, since nothing is in flight, remembers what was found.
    fn settle(&mut self, first: u64, data: &[u8], lossy: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for (i, bytes) in data.chunks_exact(SECTOR).enumerate() {
            let sector = first + i as u64;
            let at = (sector - self.first) as usize;
            let found = version_of(bytes, sector);
            let is_found = |v: u64| found.is_some_and(|f| f == v || f & v & ZEROES != 0);
            let good = if lossy {
                self.written[at].iter().any(|v| is_found(*v))
            } else {
                self.may_hold[at].iter().any(|h| is_found(h.version))
            };
            if !good {
                wrong.push(format!(
                    "sector {sector} holds {found:x?}, may hold {:x?}, written since it was last read {:x?}",
                    self.may_hold[at], self.written[at]
                ));
            }
            let version = found.unwrap_or(0);
            self.may_hold[at] = vec![Held { version, begun: self.clock, ended: Some(self.clock) }];
            self.written[at] = vec![version];
        }
        wrong
    }
}

/// A connection with simple replies.
struct Client {
    socket: UnixStream,
    cookie: u64,
}

impl Client {
    fn open(path: &Path) -> io::Result<Client> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        socket.set_write_timeout(Some(ANSWER_MAX))?;
        let mut c = Client { socket, cookie: 0 };
        c.take(18)?;
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(b"IHAVEOPT");
        hello.extend(7u32.to_be_bytes());
        hello.extend((EXPORT.len() as u32 + 6).to_be_bytes());
        hello.extend((EXPORT.len() as u32).to_be_bytes());
        hello.extend(EXPORT);
        hello.extend([0, 0]);
        c.socket.write_all(&hello)?;
        loop {
            let head = c.take(20)?;
            let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
            let text = c.take(word(16) as usize)?;
            match word(12) {
                1 => return Ok(c),
                3 => {}
                // An answer like any other: the node is not Primary (any more).
                _ => return Err(io::Error::other(String::from_utf8_lossy(&text).into_owned())),
            }
        }
    }

    fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn send(&mut self, kind: u16, flags: u16, first: u64, count: u64, data: &[u8]) -> io::Result<u64> {
        self.cookie += 1;
        let mut out = 0x2560_9513u32.to_be_bytes().to_vec();
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend((first * SECTOR as u64).to_be_bytes());
        out.extend((count as u32 * SECTOR as u32).to_be_bytes());
        out.extend(data);
        self.socket.write_all(&out)?;
        Ok(self.cookie)
    }

    /// Cookie and error number.
    fn reply(&mut self) -> io::Result<(u64, u32)> {
        let head = self.take(16)?;
        if head[..4] != 0x6744_6698u32.to_be_bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a reply"));
        }
        let error = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        Ok((u64::from_be_bytes(head[8..].try_into().expect("eight bytes")), error))
    }

    fn read(&mut self, first: u64, count: u64) -> io::Result<Result<Vec<u8>, u32>> {
        self.send(READ, 0, first, count, &[])?;
        let (_, error) = self.reply()?;
        if error != 0 {
            return Ok(Err(error));
        }
        self.take(count as usize * SECTOR).map(Ok)
    }
}

#[derive(Default)]
struct Shared {
    /// Where the device is; none: be idle.
    target: Mutex<Option<PathBuf>>,
    idle: AtomicUsize,
    stop: AtomicBool,
    acked: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// The writers; each has its own part of the device.
pub struct Writers {
    shared: Arc<Shared>,
    regions: Vec<Arc<Mutex<Region>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Writers {
    /// Share the whole device. Idle at first.
    pub fn new(count: usize, device_sectors: u64, seed: u64) -> Writers {
        // Not a multiple of a bitmap block: neighbours share one.
        let share = device_sectors / count as u64 - 3;
        let part = |n: u64| {
            let first = n * share;
            (first, if n + 1 == count as u64 { device_sectors - first } else { share })
        };
        Writers::on((0..count as u64).map(part), seed)
    }

    /// One for each region: first sector and number of sectors, blank on disk. Idle at first.
    pub fn on(parts: impl Iterator<Item = (u64, u64)>, seed: u64) -> Writers {
        let shared = Arc::new(Shared::default());
        let mut regions = Vec::new();
        let mut threads = Vec::new();
        for (n, (first, len)) in parts.enumerate() {
            let region = Arc::new(Mutex::new(Region::new(first, len)));
            regions.push(region.clone());
            let mut writer =
                Writer { shared: shared.clone(), region, random: Random(seed ^ n as u64), bit: 1 << n };
            threads.push(thread::spawn(move || writer.run()));
        }
        Writers { shared, regions, threads }
    }

    /// Writes on the device behind `socket`.
    pub fn aim(&self, socket: &Path) {
        *self.shared.target.lock().expect("target") = Some(socket.to_path_buf());
    }

    /// Lets no request be in flight and no connection open.
    ///
    /// # Errors
    /// One of them does not come back.
    pub fn rest(&self) -> Result<(), String> {
        *self.shared.target.lock().expect("target") = None;
        let until = Instant::now() + ANSWER_MAX + Duration::from_secs(5);
        // Bits of those that saw it; set again and again by whoever is idle.
        self.shared.idle.store(0, Ordering::SeqCst);
        loop {
            let now = self.shared.idle.load(Ordering::SeqCst);
            if now.count_ones() as usize == self.threads.len() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
            if Instant::now() > until {
                return Err(format!("a client hangs ({now:b} came back)"));
            }
        }
    }

    /// Reads everything and compares; only while at rest. `lossy`: acknowledged writes since the last time may be
    /// missing.
    pub fn verify(&self, socket: &Path, lossy: bool) -> Result<(), String> {
        let mut client =
            Client::open(socket).map_err(|e| format!("cannot open {}: {e}", socket.display()))?;
        for region in &self.regions {
            let mut region = region.lock().expect("region");
            let (mut at, end) = (region.first, region.first + region.sectors());
            while at < end {
                let count = (end - at).min(2048);
                let data = client
                    .read(at, count)
                    .map_err(|e| format!("reading: {e}"))?
                    .map_err(|e| format!("reading sector {at} gives error {e}"))?;
                if let Some(first) = region.settle(at, &data, lossy).first() {
                    return Err(first.clone());
                }
                at += count;
            }
        }
        Ok(())
    }

    /// What went wrong so far.
    pub fn complaint(&self) -> Option<String> {
        self.shared.wrong.lock().expect("complaints").first().cloned()
    }

    /// Acknowledged, refused, lost with their connection.
    pub fn counts(&self) -> (u64, u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.shared.acked), get(&self.shared.refused), get(&self.shared.lost))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

struct Writer {
    shared: Arc<Shared>,
    region: Arc<Mutex<Region>>,
    random: Random,
    /// Its place in `idle`.
    bit: usize,
}

impl Writer {
    fn run(&mut self) {
        let mut open: Option<(PathBuf, Client)> = None;
        while !self.shared.stop.load(Ordering::SeqCst) {
            let target = self.shared.target.lock().expect("target").clone();
            if open.as_ref().map(|(path, _)| path) != target.as_ref() {
                open = None;
            }
            let Some(path) = target else {
                self.shared.idle.fetch_or(self.bit, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            let Some((_, client)) = &mut open else {
                match Client::open(&path) {
                    Ok(client) => open = Some((path, client)),
                    Err(e) => {
                        self.judge(&e, "opening the device");
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                continue;
            };
            let done = if self.random.one_in(4) { self.read_back(client) } else { self.batch(client) };
            if let Err(e) = done {
                self.judge(&e, "a request");
                open = None;
            }
            thread::sleep(Duration::from_micros(300));
        }
    }

    fn complain(&self, text: String) {
        self.shared.wrong.lock().expect("complaints").push(text);
    }

    /// Lost connections are normal here, silence and nonsense are not.
    fn judge(&self, e: &io::Error, what: &str) {
        match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                self.complain(format!("{what} was not answered in {} s", ANSWER_MAX.as_secs()));
            }
            io::ErrorKind::InvalidData => self.complain(format!("{what}: {e}")),
            _ => {}
        }
    }

    fn some_range(&mut self, region: &Region) -> (u64, u64) {
        let largest = if self.random.one_in(16) { 600 } else { 24 };
        let mut count = 1 + self.random.below(largest);
        let mut first = self.random.below(region.sectors() - count);
        if !self.random.one_in(4) {
            (first, count) = (first & !7, count.next_multiple_of(8).min(region.sectors() - (first & !7)));
        }
        (region.first + first, count)
    }

    fn batch(&mut self, client: &mut Client) -> io::Result<()> {
        let region = self.region.clone();
        let mut region = region.lock().expect("region");
        let mut sent = Vec::new();
        let wanted = 1 + self.random.below(16);
        let mut result = Ok(());
        for _ in 0..wanted {
            let (first, count) = self.some_range(&region);
            let flags = if self.random.one_in(8) { FUA } else { 0 };
            let kind = match self.random.below(32) {
                0 => FLUSH,
                1 => TRIM,
                2 | 3 => WRITE_ZEROES,
                _ => WRITE,
            };
            if kind == FLUSH {
                result = client.send(FLUSH, 0, 0, 0, &[]).map(|cookie| sent.push((cookie, 0, 0, 0)));
            } else {
                let version = region.begin(first, count, kind != WRITE);
                let mut data = vec![0; if kind == WRITE { count as usize * SECTOR } else { 0 }];
                for (i, bytes) in data.chunks_exact_mut(SECTOR).enumerate() {
                    fill(bytes, first + i as u64, version);
                }
                // Cookies only grow by one: what was not sent completely may still have been received.
                sent.push((client.cookie + 1, first, count, version));
                result = client.send(kind, flags, first, count, &data).map(|_| ());
            }
            if result.is_err() {
                break;
            }
        }
        while result.is_ok() && !sent.is_empty() {
            match client.reply() {
                Ok((cookie, error)) => {
                    let Some(at) = sent.iter().position(|s| s.0 == cookie) else {
                        result = Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to nothing"));
                        break;
                    };
                    let (_, first, count, version) = sent.swap_remove(at);
                    region.end_if_write(first, count, version, error == 0);
                    let counter = if error == 0 { &self.shared.acked } else { &self.shared.refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) => result = Err(e),
            }
        }
        self.shared.lost.fetch_add(sent.len() as u64, Ordering::Relaxed);
        for (_, first, count, version) in sent {
            region.end_if_write(first, count, version, false);
        }
        result
    }

    fn read_back(&mut self, client: &mut Client) -> io::Result<()> {
        let region = self.region.clone();
        let mut region = region.lock().expect("region");
        let (first, count) = self.some_range(&region);
        match client.read(first, count)? {
            Ok(data) => {
                for wrong in region.settle_read(first, &data) {
                    self.complain(format!("read while writing: {wrong}"));
                }
            }
            Err(_) => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

impl Region {
    fn end_if_write(&mut self, first: u64, count: u64, version: u64, acked: bool) {
        if count > 0 {
            self.end(first, count, version, acked);
        }
    }

    /// As [`settle`](Self::settle), but what was written before may still come back in a takeover that loses.
    fn settle_read(&mut self, first: u64, data: &[u8]) -> Vec<String> {
        let at = (first - self.first) as usize;
        let written = self.written[at..at + data.len() / SECTOR].to_vec();
        let wrong = self.settle(first, data, false);
        self.written[at..at + written.len()].clone_from_slice(&written);
        wrong
    }
}
